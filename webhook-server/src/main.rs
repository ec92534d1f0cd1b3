//! `github-webhook-server`: receives GitHub's webhooks and writes the demand for runners into autoscalers.

use std::process::ExitCode;

use muster_runtime::{args::Env, process};
use muster_webhook_server::{Server, Settings};

/// glibc keeps what a moment of load has freed, in an arena per thread: this one gives it back, and is faster. Its settings are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let settings = Settings::parse(std::env::args_os(), &Env::process());
    process::run(
        settings,
        |settings| &settings.log,
        async |settings, telemetry, shutdown| {
            Server::bind(settings, Some(telemetry)).await?.run(shutdown).await;
            Ok(())
        },
    )
}
