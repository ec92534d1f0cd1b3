//! `github-webhook-server`: receives GitHub's webhooks and writes the demand for runners into autoscalers.

use std::process::ExitCode;

use muster_runtime::{args::Env, process};
use muster_webhook_server::{Server, Settings};

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
