//! Logs: where they go, what they look like, and which ones exist.
//!
//! Must not know what is logged. Two rules keep secrets out of the log whatever the settings are: other
//! crates are capped at `warn`, and a panic's message is never printed.

use std::io::{self, IsTerminal as _, Write};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry};

use domain::words;

/// Our own target, and the prefix of all our modules' targets.
const OURS: &str = "vault_sync_operator";

/// kube, hyper, rustls, reqwest and rustify print headers and bodies at debug and trace: tokens and secret
/// values. No setting allows that.
const OTHERS_AT_MOST: LevelFilter = LevelFilter::WARN;

words! {
    /// `--log-format`.
    pub enum Format {
        /// One JSON object per line.
        Json = "json",
        /// Text for people.
        Text = "text",
    }
}

words! {
    /// `--log-level`.
    pub enum Level {
        /// Problems that last until a user acts.
        Error = "error",
        /// Problems that a user should check.
        Warn = "warn",
        /// Changes of state.
        Info = "info",
        /// Every decision.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

/// What is logged, and in which format.
#[derive(Clone, PartialEq, Debug)]
pub struct Logs {
    format: Format,
    filter: Targets,
}

impl Logs {
    /// `rust_log` (the variable's text) takes precedence over `level` for this program: as a bare level, or
    /// as `vault_sync_operator::module=level`. For other crates it can only lower the level below `warn`.
    pub fn new(format: Format, level: Level, rust_log: Option<&str>) -> Result<Self, BadFilter> {
        // The parser treats an empty text as "everything".
        let asked = match rust_log.map(str::trim) {
            None | Some("") => Targets::new(),
            Some(text) => text.parse().map_err(|_| BadFilter)?,
        };
        let ours = asked.default_level().unwrap_or(level.filter());
        let mut filter = Targets::new()
            .with_default(ours.min(OTHERS_AT_MOST))
            // It warns about every failure of a watch; we report it once, with what to do.
            .with_target("kube_runtime", ours.min(LevelFilter::ERROR))
            // It logs every failed request, including retries; the caller reports the failure.
            .with_target("kube_client::client", LevelFilter::OFF)
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

    /// Starts logging to stderr, and replaces the output of panics. Once per process.
    pub fn install(self) {
        std::panic::set_hook(Box::new(|panic| {
            // Without the payload: a failed `expect` or index may have put a value into it. Without a
            // backtrace too: it adds only many lines to the location.
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

/// Keeps each record on one line: JSON escapes line breaks, text does not.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    /// The subscriber passes one whole line at a time.
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn level_of(logs: &Logs, target: &str) -> LevelFilter {
        let levels = [
            tracing::Level::TRACE,
            tracing::Level::DEBUG,
            tracing::Level::INFO,
            tracing::Level::WARN,
        ];
        let enabled = levels
            .into_iter()
            .find(|level| logs.filter.would_enable(target, level));
        enabled.map_or(LevelFilter::ERROR, LevelFilter::from_level)
    }

    #[test]
    fn other_crates_never_say_more_than_warnings() {
        use LevelFilter as L;
        for (level, rust_log, ours, others) in [
            (Level::Info, None, L::INFO, L::WARN),
            (Level::Trace, None, L::TRACE, L::WARN),
            (Level::Error, None, L::ERROR, L::ERROR),
            (Level::Info, Some(""), L::INFO, L::WARN),
            (Level::Info, Some("trace"), L::TRACE, L::WARN),
            (
                Level::Info,
                Some("debug,hyper=trace,hyper::proto=debug,kube=trace"),
                L::DEBUG,
                L::WARN,
            ),
            (Level::Info, Some("hyper=trace"), L::INFO, L::WARN),
            (Level::Info, Some("vault_sync_operator=debug"), L::DEBUG, L::WARN),
            (Level::Info, Some("hyper=error"), L::INFO, L::ERROR),
        ] {
            let logs = Logs::new(Format::Json, level, rust_log).unwrap();
            assert_eq!(
                level_of(&logs, "vault_sync_operator::vault"),
                ours,
                "{rust_log:?}"
            );
            assert_eq!(level_of(&logs, "hyper::proto::h1"), others, "{rust_log:?}");
        }
        let logs = Logs::new(
            Format::Json,
            Level::Info,
            Some("vault_sync_operator::vault=trace"),
        )
        .unwrap();
        assert_eq!(level_of(&logs, "vault_sync_operator::vault::kv"), L::TRACE);
        assert_eq!(level_of(&logs, "vault_sync_operator::lease"), L::INFO);
        // A crate whose name merely begins like ours is another's.
        let logs = Logs::new(Format::Json, Level::Info, Some("vault_sync_operator_x=trace")).unwrap();
        assert_eq!(level_of(&logs, "vault_sync_operator_x"), L::WARN);
        assert!(Logs::new(Format::Json, Level::Info, Some("a=b=c")).is_err());
    }

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_fact_is_a_line() {
        let buffer = Buffer::default();
        let (a, b) = (buffer.clone(), buffer.clone());
        let say = || tracing::info!(path = "a\nb", "one\ntwo\r");
        let logs = tracing_subscriber::registry().with(text(move || OneLine(a.clone()), false));
        tracing::subscriber::with_default(logs, say);
        let logs = tracing_subscriber::registry().with(json(move || b.clone()));
        tracing::subscriber::with_default(logs, say);
        let written = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = written.lines().collect();
        assert_eq!(lines.len(), 2, "{written}");
        assert!(lines[0].ends_with(r#"one\ntwo\r path="a\nb""#), "{}", lines[0]);
        assert!(
            lines[1].contains(r#""message":"one\ntwo\r","path":"a\nb""#),
            "{}",
            lines[1]
        );
    }
}
