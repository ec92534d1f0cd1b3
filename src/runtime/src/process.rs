//! The frame of a program that serves until it is told to stop.

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::{
    args::{Exit, LogArgs},
    client::install_crypto_provider,
    shutdown,
    telemetry::{self, Telemetry},
};

/// What ends a program before it is told to stop.
pub type Failure = Box<dyn std::error::Error>;

/// Sets up logging, a runtime and signal handlers, and runs `serve`, which ends after its token is cancelled. What `main` returns.
pub fn run<S>(
    settings: Result<S, Exit>,
    log: impl FnOnce(&S) -> &LogArgs,
    serve: impl AsyncFnOnce(S, &Telemetry, CancellationToken) -> Result<(), Failure>,
) -> ExitCode {
    let settings = match settings {
        Ok(settings) => settings,
        Err(exit) => return exit.report(),
    };
    let telemetry = match telemetry::init(log(&settings)) {
        Ok(telemetry) => telemetry,
        Err(error) => return Exit::failure(telemetry::chain(&error)).report(),
    };
    install_crypto_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::failure(format_args!("could not start the runtime: {error}")).report(),
    };
    let ended: Result<(), Failure> = runtime.block_on(async {
        let shutdown = shutdown::on_signals()?;
        serve(settings, &telemetry, shutdown).await
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %telemetry::chain(error.as_ref()), "Could not start");
            ExitCode::FAILURE
        }
    }
}
