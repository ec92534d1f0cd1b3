//! The layer that turns events into lines.

use std::{
    cell::RefCell,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicI8, Ordering},
    },
};

use jiff::Timestamp;
use tracing::{
    Event, Level, Metadata, Subscriber,
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use super::{
    fields::{Fields, write_json_string},
    writer::{Keep, Writer},
};
use crate::{args::LogFormat, clock::Clock};

/// Crates whose events are ours: library crates share a prefix, binaries are named by what they are.
const OWN_PREFIX: &str = "muster";
const OWN_BINARIES: [&str; 4] = [
    "manager",
    "github_webhook_server",
    "actions_metrics_server",
    "ghalistener",
];
/// Libraries speak below `warn` only from this level on: what they say at `debug` is about their own internals.
const LIBRARIES_FROM: i8 = -4;

/// Formats events and hands them to the writer.
#[derive(Debug)]
pub(super) struct Lines {
    writer: Arc<Writer>,
    level: Arc<AtomicI8>,
    format: LogFormat,
    clock: Clock,
}

thread_local! {
    /// The line under construction; kept so that a thread allocates it once.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Lines {
    pub(super) fn new(writer: Arc<Writer>, level: Arc<AtomicI8>, format: LogFormat, clock: Clock) -> Self {
        Self {
            writer,
            level,
            format,
            clock,
        }
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let threshold = self.level.load(Ordering::Relaxed);
        let own = is_own(metadata.target());
        if metadata.is_span() {
            // Spans carry the controller and the object; an error line without them would be of little use.
            return (own && threshold <= 2 && *metadata.level() <= Level::DEBUG)
                || threshold <= LIBRARIES_FROM;
        }
        let threshold = if own || threshold <= LIBRARIES_FROM {
            threshold
        } else {
            threshold.max(1)
        };
        number(*metadata.level()) >= threshold
    }
}

fn is_own(target: &str) -> bool {
    let crate_name = target.split("::").next().unwrap_or_default();
    crate_name.starts_with(OWN_PREFIX) || OWN_BINARIES.contains(&crate_name)
}

/// zap's number of a level.
fn number(level: Level) -> i8 {
    match level {
        Level::ERROR => 2,
        Level::WARN => 1,
        Level::INFO => 0,
        Level::DEBUG => -1,
        Level::TRACE => -2,
    }
}

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.level.load(Ordering::Relaxed) {
            ..=-2 => LevelFilter::TRACE,
            -1..=2 => LevelFilter::DEBUG,
            3.. => LevelFilter::OFF,
        })
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut extensions = span.extensions_mut();
            if let Some(fields) = extensions.get_mut::<Fields>() {
                record.record(fields);
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // From the innermost span outwards: the nearer value of a name wins and stands further right.
        if let Some(scope) = context.event_scope(event) {
            for span in scope {
                if let Some(outer) = span.extensions().get::<Fields>() {
                    fields.inherit(outer);
                }
            }
        }
        let level = *event.metadata().level();
        let keep = match level {
            Level::ERROR | Level::WARN => Keep::Always,
            Level::INFO => Keep::WhileRoom,
            _ => Keep::WhileIdle,
        };
        LINE.with(|line| {
            // A field whose formatting logs would find the line borrowed; such an inner event gets a line of its own.
            if let Ok(mut line) = line.try_borrow_mut() {
                render(
                    &mut line,
                    self.format,
                    self.clock.now(),
                    level,
                    event.metadata().target(),
                    &fields,
                );
                self.writer.write(line.as_bytes(), keep);
            } else {
                let mut line = String::new();
                render(
                    &mut line,
                    self.format,
                    self.clock.now(),
                    level,
                    event.metadata().target(),
                    &fields,
                );
                self.writer.write(line.as_bytes(), keep);
            }
        });
    }
}

/// Replaces `line` by the event's line, newline included.
pub(super) fn render(
    line: &mut String,
    format: LogFormat,
    now: Timestamp,
    level: Level,
    target: &str,
    fields: &Fields,
) {
    line.clear();
    // Writing to a String cannot fail.
    match format {
        LogFormat::Text => {
            write!(line, "{now:.3}\t{}\t", text_level(level)).unwrap_or_default();
            write_printable(line, &logger(target, fields));
            line.push('\t');
            write_printable(line, &fields.message);
            if !fields.is_empty() {
                line.push_str("\t{");
                fields.write(line);
                line.push('}');
            }
        }
        LogFormat::Json => {
            write!(
                line,
                "{{\"severity\":\"{}\",\"ts\":\"{now:.3}\",\"logger\":",
                json_level(level)
            )
            .unwrap_or_default();
            write_json_string(line, &logger(target, fields));
            line.push_str(",\"message\":");
            write_json_string(line, &fields.message);
            if !fields.is_empty() {
                line.push(',');
                fields.write(line);
            }
            line.push('}');
        }
    }
    line.push('\n');
}

/// Name of the logger: the controller's where one is at work, else the module's path without our crates' prefix.
fn logger(target: &str, fields: &Fields) -> String {
    match &fields.logger {
        Some(logger) => logger.clone(),
        None => target
            .strip_prefix("muster_")
            .unwrap_or(target)
            .replace("::", "."),
    }
}

fn text_level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "LEVEL(-2)",
    }
}

fn json_level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        // Log collectors that read `severity` know no level below debug.
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// Appends text without control characters, so that nothing from outside can forge a column, a line or a terminal sequence.
fn write_printable(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Mutex, PoisonError},
        time::Duration,
    };

    use secrecy::SecretString;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Runs `body` with logging at `level` and gives the lines.
    fn logged(level: i8, format: LogFormat, body: impl FnOnce()) -> String {
        let sink = Sink::default();
        let clock = Clock::manual("2026-11-21T03:04:05.678901Z".parse().unwrap());
        let writer = Writer::start(Box::new(sink.clone()), clock.clone(), format).unwrap();
        let lines = Lines::new(Arc::clone(&writer), Arc::new(AtomicI8::new(level)), format, clock);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), body);
        writer.flush(Duration::from_secs(5));
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn sample() {
        tracing::info!(target: "muster_runtime::lease", "Became the leader");
        let span = tracing::info_span!(target: "muster_controllers", "reconcile", controller = "runnerset-controller", object = "ns/set", replicas = 1);
        let _entered = span.enter();
        tracing::debug!(target: "muster_controllers::legacy", replicas = 3_u64, ratio = 0.5, done = true, "Planned\tthis\n");
        let error = std::io::Error::other("say \"no\"");
        tracing::error!(target: "muster_controllers::legacy", error = %super::super::chain(&error), "Could not scale");
    }

    #[test]
    fn text_lines() {
        let expected = "\
2026-11-21T03:04:05.678Z\tINFO\truntime.lease\tBecame the leader
2026-11-21T03:04:05.678Z\tDEBUG\trunnerset\tPlanned\\tthis\\n\t{\"object\":\"ns/set\",\"replicas\":3,\"ratio\":0.5,\"done\":true}
2026-11-21T03:04:05.678Z\tERROR\trunnerset\tCould not scale\t{\"object\":\"ns/set\",\"replicas\":1,\"error\":\"say \\\"no\\\"\"}
";
        assert_eq!(logged(-1, LogFormat::Text, sample), expected);
    }

    #[test]
    fn json_lines() {
        let expected = "\
{\"severity\":\"info\",\"ts\":\"2026-11-21T03:04:05.678Z\",\"logger\":\"runtime.lease\",\"message\":\"Became the leader\"}
{\"severity\":\"debug\",\"ts\":\"2026-11-21T03:04:05.678Z\",\"logger\":\"runnerset\",\"message\":\"Planned\\tthis\\n\",\"object\":\"ns/set\",\"replicas\":3,\"ratio\":0.5,\"done\":true}
{\"severity\":\"error\",\"ts\":\"2026-11-21T03:04:05.678Z\",\"logger\":\"runnerset\",\"message\":\"Could not scale\",\"object\":\"ns/set\",\"replicas\":1,\"error\":\"say \\\"no\\\"\"}
";
        let lines = logged(-1, LogFormat::Json, sample);
        assert_eq!(lines, expected);
        for line in lines.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn reserved_names_and_odd_values_stay_valid_json() {
        let lines = logged(-1, LogFormat::Json, || {
            tracing::warn!(target: "muster_x", severity = 1, ts = 2, stacktrace = "s", bad = f64::NAN, r#type = "t", "a \u{1b}[0m");
        });
        let value: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(value["severity"], "warn");
        assert_eq!(value["severity_"], 1);
        assert_eq!(value["bad"], "NaN");
        assert_eq!(value["type"], "t");
        let text = logged(
            -1,
            LogFormat::Text,
            || tracing::warn!(target: "muster_x", "a \u{1b}[0m"),
        );
        assert!(text.contains("a \\u{1b}[0m"), "{text}");
    }

    #[test]
    fn levels_and_libraries() {
        let all = || {
            tracing::trace!(target: "muster_a", "own-trace");
            tracing::debug!(target: "manager::x", "own-debug");
            tracing::info!(target: "github_webhook_server", "own-info");
            tracing::warn!(target: "muster_a", "own-warn");
            tracing::error!(target: "muster_a", "own-error");
            tracing::debug!(target: "kube_client::client", "lib-debug");
            tracing::info!(target: "hyper", "lib-info");
            tracing::warn!(target: "h2", "lib-warn");
        };
        let shown = |level| {
            logged(level, LogFormat::Text, all)
                .lines()
                .map(|line| line.rsplit('\t').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(3), [""; 0]);
        assert_eq!(shown(2), ["own-error"]);
        assert_eq!(shown(1), ["own-warn", "own-error", "lib-warn"]);
        assert_eq!(shown(0), ["own-info", "own-warn", "own-error", "lib-warn"]);
        assert_eq!(
            shown(-1),
            ["own-debug", "own-info", "own-warn", "own-error", "lib-warn"]
        );
        assert_eq!(
            shown(-2),
            [
                "own-trace",
                "own-debug",
                "own-info",
                "own-warn",
                "own-error",
                "lib-warn"
            ]
        );
        assert_eq!(shown(-4).len(), 8);
        let trace = logged(-2, LogFormat::Text, || tracing::trace!(target: "muster_a", "t"));
        assert!(trace.contains("\tLEVEL(-2)\t"), "{trace}");
    }

    #[test]
    fn spans_give_context_even_when_only_errors_are_shown() {
        let line = logged(2, LogFormat::Text, sample);
        assert!(
            line.contains("\trunnerset\tCould not scale\t{\"object\":\"ns/set\""),
            "{line}"
        );
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn fields_recorded_later_are_shown() {
        let line = logged(-1, LogFormat::Text, || {
            let span = tracing::info_span!(target: "muster_x", "s", hold = tracing::field::Empty);
            span.record("hold", "not synced");
            span.in_scope(|| tracing::info!(target: "muster_x", "Held"));
        });
        assert!(line.ends_with("\tHeld\t{\"hold\":\"not synced\"}\n"), "{line}");
    }

    #[test]
    fn secrets_are_redacted() {
        let secret = SecretString::from("sentinel");
        let line = logged(
            -128,
            LogFormat::Json,
            || tracing::info!(target: "muster_x", ?secret, "Logged in"),
        );
        assert!(!line.contains("sentinel") && line.contains("secret"), "{line}");
    }
}
