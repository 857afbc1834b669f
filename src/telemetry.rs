//! Logs: where they go, how they look, and which of them there are.
//!
//! Must not know what is logged. Two rules keep secrets out of the log whatever anybody sets: other
//! crates are capped at `warn`, and a panic's own words are never printed.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry};

/// Our own target, and the beginning of all our modules'.
const OURS: &str = "vault_sync_operator";

/// kube, hyper, rustls, reqwest and rustify print headers and bodies at debug and trace: tokens and
/// secret values. No setting lets them.
const OTHERS_AT_MOST: LevelFilter = LevelFilter::WARN;

/// `--log-format`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For eyes.
    Text,
}

/// `--log-level`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// What stays broken until somebody acts.
    Error,
    /// What somebody should look at.
    Warn,
    /// Changes of state.
    Info,
    /// Every decision.
    Debug,
    /// Everything.
    Trace,
}

/// What is logged, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct Logs {
    format: Format,
    filter: Targets,
}

impl Logs {
    /// `rust_log` (the variable's text) wins over `level` where it says something of this program:
    /// a bare level, or `vault_sync_operator::module=level`. For other crates it can only ask for
    /// less than `warn`.
    pub fn new(format: Format, level: Level, rust_log: Option<&str>) -> Result<Self, BadFilter> {
        let asked: Targets = rust_log.unwrap_or_default().parse().map_err(|_| BadFilter)?;
        let ours = asked.default_level().unwrap_or(level.filter());
        let mut filter = Targets::new()
            .with_default(ours.min(OTHERS_AT_MOST))
            .with_target(OURS, ours);
        for (target, level) in &asked {
            let own = target == OURS
                || target
                    .strip_prefix(OURS)
                    .is_some_and(|rest| rest.starts_with("::"));
            filter = filter.with_target(target, if own { level } else { level.min(OTHERS_AT_MOST) });
        }
        Ok(Self { format, filter })
    }

    /// Starts logging to stderr, and takes over what a panic prints. Once a process.
    pub fn install(self) {
        std::panic::set_hook(Box::new(|panic| {
            // Not the payload: a failed `expect` or index may have put a value in it. No backtrace
            // either: it says nothing that the location does not, on many lines.
            let location = panic.location().map_or_else(String::new, ToString::to_string);
            let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
            tracing::error!(target: OURS, location, thread, "panic");
        }));
        let registry = tracing_subscriber::registry();
        match self.format {
            Format::Json => registry.with(json(io::stderr).with_filter(self.filter)).init(),
            Format::Text => {
                let ansi = io::stderr().is_terminal();
                registry
                    .with(text(|| OneLine(io::stderr()), ansi).with_filter(self.filter))
                    .init();
            }
        }
    }
}

fn json<W>(writer: W) -> impl tracing_subscriber::Layer<Registry>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_writer(writer)
}

fn text<W>(writer: W, ansi: bool) -> impl tracing_subscriber::Layer<Registry>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_ansi(ansi)
        .with_writer(writer)
}

/// Keeps a fact on its line: JSON escapes line breaks by itself, text does not.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    /// The subscriber hands over one whole line at a time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let body = line.strip_suffix(b"\n").unwrap_or(line);
        if !body.contains(&b'\n') && !body.contains(&b'\r') {
            self.0.write_all(line)?;
            return Ok(line.len());
        }
        let mut whole = Vec::with_capacity(line.len() + 16);
        for &byte in body {
            match byte {
                b'\n' => whole.extend_from_slice(b"\\n"),
                b'\r' => whole.extend_from_slice(b"\\r"),
                _ => whole.push(byte),
            }
        }
        whole.extend_from_slice(&line[body.len()..]);
        self.0.write_all(&whole)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// `RUST_LOG` is not a list of levels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "this is not a filter; use a level (error, warn, info, debug, trace, off), or vault_sync_operator::module=level, separated by commas"
)]
pub struct BadFilter;

/// A word that is no format, or no level.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("use {0}")]
pub struct UnknownWord(&'static str);

impl Level {
    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

impl FromStr for Level {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(UnknownWord("error, warn, info, debug or trace")),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

impl FromStr for Format {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(UnknownWord("json or text")),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Text => "text",
        })
    }
}
