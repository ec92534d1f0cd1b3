//! Logging: `tracing` events as the lines that users of ARC know (spec 02 §2.6), written by a thread of its own.
//!
//! A line never waits for standard error unless it is a warning or an error; debug lines that find the buffer full are dropped and counted
//! in `muster_log_lines_dropped_total`, so upstream's default level `debug` does not cost throughput.

mod fields;
mod lines;
mod writer;

use std::{
    error::Error,
    fmt::Write as _,
    sync::{Arc, OnceLock, atomic::AtomicI8, atomic::Ordering},
    time::Duration,
};

use kube::core::Status;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::counter::ConstCounter,
    registry::Registry,
};
use tracing_subscriber::layer::SubscriberExt as _;

use self::{lines::Lines, writer::Writer};
use crate::{
    args::{LogArgs, LogLevel},
    clock::Clock,
};

/// How long the end of the process waits for buffered lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

static PROCESS: OnceLock<Arc<Writer>> = OnceLock::new();

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The operating system refused a thread.
    #[error("could not start the log writer")]
    Thread(#[source] std::io::Error),
    /// Somebody set up logging before.
    #[error("logging is set up twice")]
    Twice,
}

/// Handle on the process' logging. Dropping it writes out what is buffered.
#[derive(Debug)]
pub struct Telemetry {
    writer: Arc<Writer>,
    level: Arc<AtomicI8>,
}

impl Telemetry {
    /// Shows another level from now on.
    pub fn set_level(&self, level: LogLevel) {
        self.level.store(level.0, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Exports `muster_log_lines_dropped_total`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Dropped(Arc::clone(&self.writer))));
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.writer.flush(FLUSH_TIMEOUT);
    }
}

/// Sends all `tracing` events of the process to standard error, and panics too. Keep the handle until the end of `main`.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(args: &LogArgs) -> Result<Telemetry, TelemetryError> {
    let writer = Writer::start(Box::new(std::io::stderr()), Clock::system(), args.format)
        .map_err(TelemetryError::Thread)?;
    let level = Arc::new(AtomicI8::new(args.level.0));
    let lines = Lines::new(
        Arc::clone(&writer),
        Arc::clone(&level),
        args.format,
        Clock::system(),
    );
    let subscriber = tracing_subscriber::registry().with(lines);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Twice)?;
    PROCESS
        .set(Arc::clone(&writer))
        .map_err(|_| TelemetryError::Twice)?;
    std::panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("a value that is not text");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(reason = message, place, "Panicked");
        flush();
    }));
    Ok(Telemetry { writer, level })
}

/// Waits up to two seconds until all lines so far are written; for exits that do not return from `main`.
pub fn flush() {
    if let Some(writer) = PROCESS.get() {
        writer.flush(FLUSH_TIMEOUT);
    }
}

/// An error and its sources as one line, `outer: inner: innermost`. A source whose text the line already ends with is not repeated,
/// because many libraries print their source themselves.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = text(error);
    let mut next = error.source();
    while let Some(source) = next {
        let text = text(source);
        if !text.is_empty() && !line.ends_with(&text) {
            // Writing to a String cannot fail.
            write!(line, ": {text}").unwrap_or_default();
        }
        next = source.source();
    }
    line
}

/// One link of the chain. An answer of the Kubernetes API is put into words here, because its own text repeats the whole object.
fn text(error: &(dyn Error + 'static)) -> String {
    let status = match error.downcast_ref() {
        Some(kube::Error::Api(status)) => Some(&**status),
        // As the source of the above, it comes in its box.
        _ => error
            .downcast_ref::<Box<Status>>()
            .map(|status| &**status)
            .or_else(|| error.downcast_ref()),
    };
    match status {
        Some(status) => format!("{} ({} {})", status.message, status.code, status.reason),
        None => error.to_string(),
    }
}

#[derive(Debug)]
struct Dropped(Arc<Writer>);

impl Collector for Dropped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counter = ConstCounter::new(self.0.dropped());
        let metric = encoder.encode_descriptor(
            "muster_log_lines_dropped",
            "Log lines that were dropped because standard error was too slow",
            None,
            counter.metric_type(),
        )?;
        counter.encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not list the pods of {owner}")]
    struct Outer {
        owner: String,
        source: Middle,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("request failed: {source}")]
    struct Middle {
        source: std::io::Error,
    }

    #[test]
    fn a_chain_is_printed_once() {
        let error = Outer {
            owner: "a/b".to_owned(),
            source: Middle {
                source: std::io::Error::other("connection refused"),
            },
        };
        assert_eq!(
            chain(&error),
            "could not list the pods of a/b: request failed: connection refused"
        );
        assert_eq!(chain(&std::io::Error::other("alone")), "alone");
    }

    #[test]
    fn an_answer_of_the_api_server_is_short() {
        let status = Status::failure("pods \"a\" is forbidden", "Forbidden")
            .with_code(403)
            .boxed();
        assert_eq!(
            chain(&kube::Error::Api(status)),
            "pods \"a\" is forbidden (403 Forbidden)"
        );
    }
}
