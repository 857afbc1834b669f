//! The command line: flags, their environment variables and defaults become one [`Config`].
//!
//! Owns the names of all flags and variables, and the text of all errors about them. It must not know what
//! the values are used for. It reads only what [`Surroundings`] provides, so that a test needs no process
//! environment.

mod args;
mod environment;
mod go;
mod values;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _};

use crate::telemetry::Logs;
use domain::settings::{Discover, Settings};
use domain::source::Kind;

pub use environment::Runtime;

/// Exit code for a command line that is not valid, as in Go's `flag`.
const USAGE: u8 = 2;

/// Everything that users of the operator can configure.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// How to reach Vault, and the role to log in as.
    pub vault: crate::vault::Access,
    /// The settings that the pure core uses for decisions.
    pub settings: Settings,
    /// `--path-policy`: a YAML file with rules.
    pub path_policy: Option<PathBuf>,
    /// `--discover`: what auto-discovery reads in addition to env, envFrom and volumes.
    pub discover: Discover,
    /// `--max-documents-per-namespace`.
    pub max_documents: usize,
    /// `--cleanup-timeout`: how long the finalizer may delay the deletion of a source.
    pub cleanup_timeout: Duration,
    /// `--resync-interval`: how often each source is compared with Vault. `None`: only on request.
    pub resync_interval: Option<Duration>,
    /// `--kinds`: which kinds of objects can be sources. Each occurs once.
    pub kinds: Vec<Kind>,
    /// `--watch-namespaces`; empty: all.
    pub watch_namespaces: Vec<String>,
    /// `--concurrency`: reconciles at a time.
    pub concurrency: usize,
    /// `--kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `--namespace`: the operator's own namespace, with its Lease and ledger.
    pub namespace: String,
    /// The name of this process in the Lease and in Events: `POD_NAME`, or the hostname.
    pub instance: String,
    /// The UID of our own pod, if known: `POD_UID`.
    pub pod_uid: Option<String>,
    /// `--leader-elect`.
    pub leader_elect: bool,
    /// `--metrics-bind-address`, such as `:8080`; `None`: off.
    pub metrics_bind_address: Option<String>,
    /// `--enable-metrics-auth`.
    pub enable_metrics_auth: bool,
    /// `--health-probe-bind-address`, such as `:8081`; `None`: off.
    pub health_probe_bind_address: Option<String>,
    /// `--shutdown-grace`: how long running work may take to finish after a signal.
    pub shutdown_grace: Duration,
    /// `--repeat-events`, which `--help` does not show: how often the Event of a lasting problem is repeated.
    pub repeat_events: Duration,
    /// `--log-format`, `--log-level` and `RUST_LOG`.
    pub logs: Logs,
    /// `GOMAXPROCS` and `GOMEMLIMIT`, which the predecessor's charts set.
    pub runtime: Runtime,
}

/// The command to run.
#[derive(Clone, PartialEq, Eq, Debug, Default, clap::Subcommand)]
pub enum Command {
    /// Run the operator (the default)
    #[default]
    Run,
    /// Before an uninstall: remove the operator's finalizers, so that no object waits for an operator that is
    /// gone
    Release(ReleaseArgs),
    /// Check the login and the permissions; with --probe, also write, read and delete a document
    Doctor(DoctorArgs),
}

/// The flags of `release`, beside the operator's own.
#[derive(Clone, PartialEq, Eq, Debug, clap::Args)]
pub struct ReleaseArgs {
    /// First scale this Deployment in the operator's namespace to zero, and wait until its pods are gone
    #[arg(long, value_name = "DEPLOYMENT")]
    pub scale_down: Option<String>,
    /// First delete the documents in the ledger, each by its deletion policy
    #[arg(long)]
    pub delete_documents: bool,
    /// Finally delete the ledger
    #[arg(long)]
    pub forget: bool,
    /// Maximum time for all of these steps
    #[arg(long, value_name = "DURATION", default_value = "5m",
          value_parser = |text: &str| values::within(text, Duration::from_secs(1), Duration::from_hours(24)))]
    pub timeout: Duration,
}

/// The flags of `doctor`, beside the operator's own.
#[derive(Clone, PartialEq, Eq, Debug, clap::Args)]
pub struct DoctorArgs {
    /// Path of a document that does not exist, as in an annotation: doctor writes, reads and deletes it
    #[arg(long, value_name = "PATH")]
    pub probe: Option<String>,
}

/// Where values come from that are not on the command line.
pub struct Surroundings<'a> {
    /// Looks up an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// Reads a small file. `None`: it does not exist.
    pub file: &'a dyn Fn(&str) -> Option<String>,
}

impl Surroundings<'static> {
    /// The process's environment and the real files.
    pub fn of_process() -> Self {
        Self {
            variable: &|name| std::env::var_os(name),
            file: &|path| std::fs::read_to_string(path).ok(),
        }
    }
}

impl Surroundings<'_> {
    /// A variable's text. An empty one counts as unset, because charts and shells leave empty variables
    /// behind.
    fn text(&self, name: &str) -> Result<Option<String>, Exit> {
        let Some(value) = (self.variable)(name).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        value
            .into_string()
            .map(Some)
            .map_err(|_| Exit::usage(format!("{name}: the value is not UTF-8 text")))
    }
}

/// A command line that ends the process immediately: with help, or with an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exit {
    /// What to print, including the last newline.
    pub text: String,
    /// The exit code: 0 for requested output (help, version), 2 for an error.
    pub code: u8,
}

impl Exit {
    fn usage(complaint: impl std::fmt::Display) -> Self {
        Self {
            text: format!("error: {complaint}\n\nFor more information, try '--help'.\n"),
            code: USAGE,
        }
    }

    /// Prints the text to stdout or stderr, and returns the exit code.
    pub fn report(&self) -> u8 {
        // If even that fails, there is no other way to report it.
        let _ = match self.code {
            0 => std::io::stdout().write_all(self.text.as_bytes()),
            _ => std::io::stderr().write_all(self.text.as_bytes()),
        };
        self.code
    }
}

/// Reads a whole command line, beginning with the program's name.
///
/// A flag takes precedence over its variable, and a variable over the default.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    surroundings: &Surroundings,
) -> Result<(Command, Config), Exit> {
    let mut command = args::with_variables(args::Cli::command());
    let args: Vec<String> = args
        .into_iter()
        .map(|arg| {
            arg.into_string()
                .map_err(|arg| Exit::usage(format!("{} is not UTF-8 text", arg.display())))
        })
        .collect::<Result<_, _>>()?;
    let mut args = go::normalise(args, |name| args::takes_value(&command, name));

    let mut from_environment = Vec::new();
    for flag in command.get_arguments().filter_map(|arg| arg.get_long()) {
        let variable = args::variable(flag);
        if go::names(&args, flag) {
            continue;
        }
        if let Some(value) = surroundings.text(&variable)? {
            from_environment.push((format!("--{flag}={value}"), flag.to_owned(), variable));
        }
    }
    // Before everything else, including the command's name.
    let at = args.len().min(1);
    args.splice(at..at, from_environment.iter().map(|(arg, ..)| arg.clone()));

    let origin = |flag: &str| {
        let found = from_environment.iter().find(|(_, name, _)| name == flag);
        found.map(|(_, _, variable)| variable.as_str())
    };
    let cli = command
        .try_get_matches_from_mut(args)
        .and_then(|matches| args::Cli::from_arg_matches(&matches))
        .map_err(|error| complaint(&error, origin))?;
    let action = cli.command.clone().unwrap_or_default();
    Ok((action, cli.into_config(surroundings, origin)?))
}

/// Converts clap's error. If a value is at fault, clap's own text would quote it, and an address can contain
/// a password. If the value came from a variable, the error names the variable.
fn complaint<'a>(error: &clap::Error, origin: impl Fn(&str) -> Option<&'a str>) -> Exit {
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(usage)) => usage.trim_start_matches('-').split([' ', '=', '[']).next(),
        _ => None,
    };
    match (flag, error.kind()) {
        (Some(flag), ErrorKind::ValueValidation) => {
            let reason =
                std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
            refused(flag, &reason, origin(flag))
        }
        (_, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => Exit {
            text: error.render().to_string(),
            code: 0,
        },
        _ => Exit {
            text: error.render().to_string(),
            code: USAGE,
        },
    }
}

/// The error for a value that cannot be used: the flag, the reason, and the variable if the value came from
/// there.
fn refused(flag: &str, reason: &str, variable: Option<&str>) -> Exit {
    match variable {
        None => Exit::usage(format!("--{flag}: {reason}")),
        Some(variable) => Exit::usage(format!("{variable} (for --{flag}): {reason}")),
    }
}

#[cfg(test)]
mod tests;
