//! `actions-metrics-server`: webhooks about workflow jobs become Prometheus metrics.

use std::process::ExitCode;

use muster_metrics_server::{Server, Settings};
use muster_runtime::{args::Env, process};

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
