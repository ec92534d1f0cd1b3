//! The end of a process: SIGTERM or SIGINT asks for it, a second signal enforces it (spec 02 §2.1 step 6).

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a process may take to stop after the first signal (spec 02 §21).
pub const GRACE: std::time::Duration = std::time::Duration::from_secs(30);

/// Listens for SIGTERM and SIGINT. The first signal cancels the token; the second ends the process with code 1 at once.
/// Call it inside the runtime, before anything else is started.
///
/// # Errors
/// When the operating system refuses the signal handlers.
pub fn on_signals() -> std::io::Result<CancellationToken> {
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
    };
    let token = CancellationToken::new();
    let cancel = token.clone();
    // Lives as long as the process; there is nothing to join.
    tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!(
            signal = name,
            "Stopping; a second signal ends the process at once"
        );
        cancel.cancel();
        let name = signals.next().await;
        tracing::error!(signal = name, "Ended by a second signal");
        crate::telemetry::flush();
        #[expect(clippy::exit, reason = "the user insists")]
        std::process::exit(1);
    });
    Ok(token)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
