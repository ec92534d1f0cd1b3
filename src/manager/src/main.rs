//! The manager: reconcilers of the legacy mode (spec 02 §2). Composition only; what it does is in `muster-controllers`.
#![allow(missing_docs, reason = "a program, not a library")]

mod args;
mod drain;
mod run;

use std::process::ExitCode;

use muster_runtime::{
    args::{Env, Exit},
    client::install_crypto_provider,
    telemetry,
};

/// glibc keeps what a moment of load has freed, in an arena per thread: this one gives it back, and is faster. Its settings are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let env = Env::process();
    let args = match args::ManagerArgs::read(std::env::args_os(), &env) {
        Ok(args) => args,
        Err(exit) => return exit.report(),
    };
    let logging = match telemetry::init(&args.log) {
        Ok(logging) => logging,
        Err(error) => return Exit::failure(telemetry::chain(&error)).report(),
    };
    install_crypto_provider();
    let code = match Box::pin(run::run(args, &env, &logging)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %telemetry::chain(&*error), "The manager stops.");
            ExitCode::FAILURE
        }
    };
    telemetry::flush();
    code
}
