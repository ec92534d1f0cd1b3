//! `actions-metrics-server`: webhooks about workflow jobs become Prometheus metrics (spec 03 part 2).
//!
//! ```text
//! receive, open (muster-intake) -> observe (muster_core::job_metrics) -> metrics
//!                                        '-> questions to the job's log (muster-github) -> metrics
//! ```
//!
//! What an event is worth is decided in `muster_core::job_metrics`. The server keeps nothing but its counters, and does not speak to Kubernetes.

pub mod args;
mod handler;
mod logs;
pub mod metrics;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use muster_intake::{BODY_TIMEOUT, LoginError, github_client};
use muster_runtime::{
    clock::Clock,
    metrics::{Exposition, Registry, new_registry},
    serve::{AddressError, Limits, Readiness, health_router, metrics_everywhere, serve},
    telemetry::Telemetry,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::args::Settings;
use self::{
    handler::{App, router},
    logs::Logs,
    metrics::Metrics,
};

/// Time for the answer to a delivery once it has arrived: nothing in it waits.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port could not be opened.
    #[error("could not open a port")]
    Listen(#[from] AddressError),
    /// An address is switched off that the server is for.
    #[error("--{flag} is 0: give an address, as {purpose}")]
    NoAddress {
        /// The flag.
        flag: &'static str,
        /// What the address is for.
        purpose: &'static str,
    },
    /// The GitHub login cannot be used.
    #[error(transparent)]
    Login(#[from] LoginError),
}

/// A server whose ports are open.
#[derive(Debug)]
pub struct Server {
    webhook: TcpListener,
    metrics_listener: TcpListener,
    registry: Registry,
    app: Arc<App>,
    tasks: TaskTracker,
    /// Ends what asks GitHub.
    quit: CancellationToken,
}

impl Server {
    /// Opens the ports.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn bind(settings: Settings, telemetry: Option<&Telemetry>) -> Result<Self, StartError> {
        for notice in &settings.notices {
            tracing::info!("{notice}");
        }
        let mut registry = new_registry("actions-metrics-server");
        if let Some(telemetry) = telemetry {
            telemetry.register(&mut registry);
        }
        let without = "exit codes of failed jobs are not known";
        let github = github_client(&settings.github, &Clock::system(), &mut registry, without)?;
        let metrics = Metrics::register(&mut registry, settings.labels, settings.bounds);
        let (tasks, quit) = (TaskTracker::new(), CancellationToken::new());
        let github = github.filter(|_| settings.log_limit > 0);
        let logs = github.map(|github| Logs::new(&github, settings.log_limit, tasks.clone(), quit.clone()));
        let webhook = settings.webhook_addr.listen().await?;
        let metrics_listener = settings.metrics_addr.listen().await?;
        Ok(Self {
            webhook: webhook.ok_or(StartError::NoAddress {
                flag: "webhook-addr",
                purpose: "webhooks are received there",
            })?,
            metrics_listener: metrics_listener.ok_or(StartError::NoAddress {
                flag: "metrics-addr",
                purpose: "metrics are shown there",
            })?,
            registry,
            app: Arc::new(App::new(settings.secrets, metrics, logs)),
            tasks,
            quit,
        })
    }

    /// Serves until `shutdown`; then stops accepting, counts what waits for a log without it, and returns.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self {
            webhook,
            metrics_listener,
            registry,
            app,
            tasks,
            quit,
        } = self;
        let readiness = Readiness::new();
        let shown = metrics_everywhere(Exposition::new(registry)).merge(health_router(readiness));
        let (stop, shows) = (CancellationToken::new(), TaskTracker::new());
        shows.spawn(serve(metrics_listener, shown, Limits::default(), stop.clone()));
        tracing::info!(
            address = webhook
                .local_addr()
                .map(|address| address.to_string())
                .unwrap_or_default(),
            "Receiving webhooks"
        );
        let limits = Limits {
            request: BODY_TIMEOUT + ANSWER_TIMEOUT,
            ..Limits::default()
        };
        serve(webhook, router(app), limits, shutdown).await;
        quit.cancel();
        tasks.close();
        tasks.wait().await;
        stop.cancel();
        shows.close();
        shows.wait().await;
        tracing::info!("Stopped");
    }
}
