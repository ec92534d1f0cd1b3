//! `github-webhook-server`: receives GitHub's webhooks and writes the demand for runners into autoscalers.

use std::process::ExitCode;

use muster_runtime::args::{Env, Exit};
use muster_runtime::{shutdown, telemetry};
use muster_webhook_server::{Server, Settings};

/// Gives memory back after a burst; the system's allocator keeps it in pieces (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Settings::parse(std::env::args_os(), &Env::process()) {
        Ok(settings) => start(settings),
        Err(exit) => exit.report(),
    }
}

fn start(settings: Settings) -> ExitCode {
    let telemetry = match telemetry::init(&settings.log) {
        Ok(telemetry) => telemetry,
        Err(error) => return Exit::failure(telemetry::chain(&error)).report(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::failure(format_args!("could not start the runtime: {error}")).report(),
    };
    let ended: Result<(), Box<dyn std::error::Error>> = runtime.block_on(async {
        let shutdown = shutdown::on_signals()?;
        Server::bind(settings, Some(&telemetry))
            .await?
            .run(shutdown)
            .await;
        Ok(())
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %telemetry::chain(error.as_ref()), "Could not start");
            ExitCode::FAILURE
        }
    }
}
