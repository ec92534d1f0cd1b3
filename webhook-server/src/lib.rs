//! `github-webhook-server`: signed GitHub webhooks become demand in autoscalers' ledgers, answered once they
//! are written.
//!
//! ```text
//! router (bounds) -> handler (verify, parse, route) -> batch (one writer per autoscaler) -> API server
//!                                    index (watches + own commits) <----------'
//! ```
//!
//! What an event means is decided in `muster_core::routing` and `muster_core::autoscale::reservation`; this
//! crate moves bytes. GitHub is called about runner groups, where an event's target depends on them, and about
//! deliveries that were missed ([`mod@replay`]).

pub mod answer;
pub mod api;
pub mod args;
pub mod batch;
pub mod delivery;
pub mod groups;
pub mod handler;
pub mod index;
pub mod metrics;
pub mod notices;
pub mod objects;
pub mod replay;
pub mod router;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod unmatched;
pub mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use muster_crds::legacy::{HorizontalRunnerAutoscaler, RunnerDeployment, RunnerSet};
use muster_github::GitHub;
use muster_intake::{LoginError, github_client};
use muster_runtime::client::{ClientError, ClientMetrics, configuration, connect};
use muster_runtime::clock::Clock;
use muster_runtime::metrics::{Exposition, Registry, new_registry};
use muster_runtime::serve::{
    AddressError, Certificate, CertificateError, Limits, Readiness, health_router, metrics_router, serve,
    serve_tls,
};
use muster_runtime::telemetry::Telemetry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use args::Settings;
use batch::{BatchSettings, Writers};
use groups::Groups;
use handler::{App, AppSettings};
use index::Index;
use metrics::Metrics;
use notices::Notices;
use replay::{Heard, Replay, ReplayMetrics, ReplaySettings};
use unmatched::{UnmatchedLog, debug_router};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port could not be opened.
    #[error("could not open a port")]
    Listen(#[from] AddressError),
    /// `--webhook-addr` switches the only purpose of the server off.
    #[error("--webhook-addr is 0: give an address to receive webhooks on")]
    NoAddress,
    /// There is no Kubernetes client.
    #[error("could not set up the Kubernetes client")]
    Client(#[from] ClientError),
    /// The GitHub login cannot be used.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The certificate cannot be used.
    #[error("could not set up TLS for webhooks")]
    Tls(#[from] CertificateError),
}

/// Opens the ports and serves until `shutdown`, see [`Server`].
///
/// # Errors
/// [`StartError`].
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), StartError> {
    Server::bind(settings, None).await?.run(shutdown).await;
    Ok(())
}

/// A server whose ports are open.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    client: KubeClient,
    webhook: TcpListener,
    metrics_listener: Option<TcpListener>,
    registry: Registry,
    clock: Clock,
    certificate: Option<Certificate>,
    groups: Option<Groups>,
    github: Option<GitHub>,
}

/// `kube::Client` has no `Debug`.
struct KubeClient(Client);

impl std::fmt::Debug for KubeClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Server {
    /// Opens the ports and sets up the Kubernetes client.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn bind(settings: Settings, telemetry: Option<&Telemetry>) -> Result<Self, StartError> {
        let mut registry = new_registry("github-webhook-server");
        if let Some(telemetry) = telemetry {
            telemetry.register(&mut registry);
        }
        let client_metrics = ClientMetrics::register(&mut registry);
        let client = connect(
            configuration(settings.kubeconfig.as_deref()).await?,
            client_metrics,
        )?;
        Self::with_client(settings, client, registry, Clock::system()).await
    }

    /// As [`Server::bind`], with a client, a registry and a clock of the caller's.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn with_client(
        settings: Settings,
        client: Client,
        mut registry: Registry,
        clock: Clock,
    ) -> Result<Self, StartError> {
        for notice in &settings.notices {
            tracing::info!("{notice}");
        }
        let without = "runner groups' visibility is not checked";
        let github = github_client(&settings.github, &clock, &mut registry, without)?;
        let groups = github.clone().map(|github| Groups::new(github, clock.clone()));
        let certificate = match &settings.tls {
            Some(files) => Some(Certificate::read(&files.certificate, &files.key)?),
            None => None,
        };
        let webhook = settings
            .webhook_addr
            .listen()
            .await?
            .ok_or(StartError::NoAddress)?;
        let metrics_listener = settings.metrics_addr.listen().await?;
        Ok(Self {
            settings,
            client: KubeClient(client),
            webhook,
            metrics_listener,
            registry,
            clock,
            certificate,
            groups,
            github,
        })
    }

    /// Where webhooks are received.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn webhook_address(&self) -> std::io::Result<SocketAddr> {
        self.webhook.local_addr()
    }

    /// Where metrics and health are shown; none when they are switched off.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until `shutdown`; then stops accepting, commits what waits, and returns.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self {
            settings,
            client: KubeClient(client),
            webhook,
            metrics_listener,
            mut registry,
            clock,
            certificate,
            groups,
            github,
        } = self;
        let metrics = Metrics::register(&mut registry);
        let index = Arc::new(Index::new(settings.common_labels, metrics.clone()));
        let readiness = Readiness::new();
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();

        macro_rules! watch {
            ($kind:ty, $name:literal) => {
                tasks.spawn(watch::watch::<$kind>(
                    client.clone(),
                    settings.watch_namespace.clone(),
                    Arc::clone(&index),
                    readiness.gate($name),
                    stop.clone(),
                ))
            };
        }
        watch!(RunnerDeployment, "runnerdeployments");
        watch!(RunnerSet, "runnersets");
        watch!(HorizontalRunnerAutoscaler, "horizontalrunnerautoscalers");

        let writers = Arc::new(Writers::new(
            Arc::clone(&index),
            api::Autoscalers::new(client.clone()),
            metrics.clone(),
            clock.clone(),
            BatchSettings {
                window: settings.commit_window,
                queue_limit: settings.queue_limit,
            },
        ));
        let unmatched = UnmatchedLog::default();
        let notices = notices(settings.watch_namespace.clone(), (&client, &clock), &tasks, &stop);
        let heard = Heard::default();
        let replay_metrics = ReplayMetrics::register(&mut registry);
        let app = Arc::new(App::new(
            index,
            Arc::clone(&writers),
            metrics,
            readiness.clone(),
            AppSettings {
                secrets: settings.secrets,
                commit_deadline: settings.commit_deadline,
                clock: clock.clone(),
                groups,
                unmatched: unmatched.clone(),
                notices,
                heard: heard.clone(),
            },
        ));
        let work = replay(
            settings.replay,
            (&app, github, heard, replay_metrics, clock),
            webhook.local_addr().ok(),
        );
        if let Some(work) = work {
            tasks.spawn(work.run(client, shutdown.clone()));
        }
        if let Some(listener) = metrics_listener {
            let mut router = metrics_router(Exposition::new(registry)).merge(health_router(readiness));
            if let Some(token) = settings.debug_token {
                router = router.merge(debug_router(unmatched, token));
            }
            tasks.spawn(serve(listener, router, Limits::default(), stop.clone()));
        }
        let limits = limits(settings.connection_limit, settings.commit_deadline);
        tracing::info!(
            address = webhook
                .local_addr()
                .map(|address| address.to_string())
                .unwrap_or_default(),
            "Receiving webhooks"
        );
        let router = router::router(app);
        match certificate {
            Some(certificate) => {
                tasks.spawn(certificate.clone().follow(stop.clone()));
                serve_tls(webhook, router, limits, &certificate, shutdown).await;
            }
            None => serve(webhook, router, limits, shutdown).await,
        }
        writers.close().await;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        tracing::info!("Stopped");
    }
}

/// Bounds of the port for webhooks.
fn limits(connections: usize, commit_deadline: Duration) -> Limits {
    Limits {
        connections,
        // The last resort: both parts of a request have their own, shorter times.
        request: commit_deadline + router::BODY_TIMEOUT + Duration::from_secs(5),
        drain: commit_deadline + Duration::from_secs(5),
        ..Limits::default()
    }
}

/// Events about jobs that are in no ledger.
fn notices(
    home: Option<String>,
    (client, clock): (&Client, &Clock),
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Notices {
    let home = home.unwrap_or_else(|| client.default_namespace().to_owned());
    let (notices, write) = Notices::new(client.clone(), clock.clone(), home, stop.clone());
    tasks.spawn(write);
    notices
}

/// Delivery replay, where it is wanted and there is a login for it.
fn replay(
    mut settings: ReplaySettings,
    (app, github, heard, metrics, clock): (&Arc<App>, Option<GitHub>, Heard, ReplayMetrics, Clock),
    address: Option<SocketAddr>,
) -> Option<Replay> {
    if settings.period.is_zero() {
        tracing::info!("Delivery replay is switched off");
        return None;
    }
    let Some(github) = github else {
        tracing::info!("Delivery replay is off: GitHub client is not configured");
        return None;
    };
    // A server that starts again in its pod goes on at once; two that share a host differ by their ports.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    settings.identity = format!("{}:{}", host.trim(), address.map_or(0, |address| address.port()));
    Some(Replay {
        app: Arc::clone(app),
        github,
        heard,
        metrics,
        clock,
        settings,
    })
}
