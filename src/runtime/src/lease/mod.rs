//! Leader election over a `coordination.k8s.io/v1` Lease: one process reconciles, the others wait (spec 02 §2.5).
//!
//! Uses the verbs `create`, `get` and `update` only, as the charts grant them, and the lock's name and timing of ARC, so that during an
//! upgrade old and new processes exclude each other. Unlike upstream, a process that stops gives the lock back.

mod candidate;
mod decide;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::metrics::Announce as _;
use kube::{Client, config::Kubeconfig};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use self::candidate::{Candidate, Outcome};
use crate::{args::Env, clock::Clock, telemetry::chain};

/// Where a pod's namespace is written.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// How long giving the lock back may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// The lock's place and timing.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease (`--leader-election-id`).
    pub name: String,
    /// Who we are: `<hostname>_<uuid>`.
    pub identity: String,
    /// How long others respect a holder that has fallen silent.
    pub term: Duration,
    /// How long a holder trusts itself without a renewal; shorter than the term.
    pub renew_deadline: Duration,
    /// Time between two attempts or renewals.
    pub retry_period: Duration,
}

impl LeaseConfig {
    /// The lock `name` in `namespace` with a fresh identity and upstream's 15 s, 10 s and 2 s.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let hostname = if hostname.trim().is_empty() {
            "unknown"
        } else {
            hostname.trim()
        };
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: format!("{hostname}_{}", uuid::Uuid::new_v4()),
            term: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// The namespace for the Lease is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "leader election needs a namespace for its Lease and this process does not run in a pod: set POD_NAMESPACE, give the kubeconfig's \
     context a namespace, or switch leader election off with --enable-leader-election=false"
)]
pub struct NamespaceUnknown;

/// The namespace for the Lease: `CONTROLLER_MANAGER_POD_NAMESPACE` or `POD_NAMESPACE`, else the service account's, else the one that the
/// kubeconfig's current context names.
///
/// # Errors
/// [`NamespaceUnknown`].
pub fn namespace(env: &Env, kubeconfig: Option<&Path>) -> Result<String, NamespaceUnknown> {
    if let Some(namespace) = env.pod_namespace() {
        return Ok(namespace.to_owned());
    }
    let mounted = std::fs::read_to_string(NAMESPACE_FILE).unwrap_or_default();
    if !mounted.trim().is_empty() {
        return Ok(mounted.trim().to_owned());
    }
    let config = match kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    config
        .ok()
        .and_then(|config| context_namespace(&config))
        .ok_or(NamespaceUnknown)
}

fn context_namespace(config: &Kubeconfig) -> Option<String> {
    let current = config.current_context.as_ref()?;
    let context = config.contexts.iter().find(|context| &context.name == current)?;
    context
        .context
        .as_ref()?
        .namespace
        .clone()
        .filter(|namespace| !namespace.is_empty())
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LockName {
    name: String,
}

/// `leader_election_master_status{name}`: 1 while this process leads.
#[derive(Clone, Debug, Default)]
pub struct LeaseMetrics(Family<LockName, Gauge>);

impl LeaseMetrics {
    /// Creates the metric in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.announce(
            "leader_election_master_status",
            "1 while this process is the leader",
            metrics.0.clone(),
        );
        metrics
    }

    fn set(&self, name: &str, leads: bool) {
        self.0
            .get_or_create(&LockName {
                name: name.to_owned(),
            })
            .set(leads.into());
    }
}

/// Waits until this process is the leader. `None` when `shutdown` came first. While the API server cannot be reached or refuses, it keeps
/// trying and logs why.
pub async fn acquire(
    client: Client,
    config: LeaseConfig,
    clock: Clock,
    metrics: LeaseMetrics,
    shutdown: &CancellationToken,
) -> Option<Leadership> {
    metrics.set(&config.name, false);
    let mut candidate = Candidate::new(client, config, clock);
    let mut known_holder = None;
    loop {
        let begun = Instant::now();
        let attempt = tokio::select! {
            () = shutdown.cancelled() => return None,
            attempt = candidate.attempt() => attempt,
        };
        let mut delay = candidate.config.retry_period;
        match attempt {
            Ok(Outcome::Held) => {
                tracing::info!(
                    lease = candidate.config.name,
                    identity = candidate.config.identity,
                    "Became the leader"
                );
                metrics.set(&candidate.config.name, true);
                return Some(Leadership::start(candidate, metrics, begun));
            }
            Ok(Outcome::HeldByOther { holder, until }) => {
                if known_holder.as_ref() != Some(&holder) {
                    tracing::info!(
                        lease = candidate.config.name,
                        holder,
                        "Waiting for the leader to end"
                    );
                    known_holder = Some(holder);
                }
                delay = delay.min(until.saturating_duration_since(Instant::now()));
            }
            Ok(Outcome::Contended) => {}
            Err(error) => {
                tracing::warn!(
                    lease = candidate.config.name,
                    error = %chain(&error),
                    "Could not take part in leader election"
                );
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(jittered(delay)) => {}
        }
    }
}

/// Up to a fifth longer, so that candidates do not ask in step.
fn jittered(delay: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_bytes().first().copied().unwrap_or(0);
    delay + delay * u32::from(random) / (5 * 255)
}

/// Leadership, and the task that keeps it. Dropping it stops the renewal without giving the lock back; use [`Leadership::release`].
#[derive(Debug)]
pub struct Leadership {
    state: LeaderState,
    release: CancellationToken,
    keeper: Option<JoinHandle<()>>,
}

impl Leadership {
    /// For a process without leader election: it always leads.
    pub fn always() -> Self {
        let state = LeaderState::new(Instant::now());
        state.trusted_until.store(u64::MAX, Ordering::Release);
        Self {
            state,
            release: CancellationToken::new(),
            keeper: None,
        }
    }

    fn start(candidate: Candidate, metrics: LeaseMetrics, renewed_at: Instant) -> Self {
        let state = LeaderState::new(renewed_at);
        state.trust_until(renewed_at + candidate.config.renew_deadline);
        let release = CancellationToken::new();
        let keeper = Keeper {
            candidate,
            metrics,
            state: state.clone(),
            release: release.clone(),
        };
        let keeper = Some(tokio::spawn(keeper.run(renewed_at)));
        Self {
            state,
            release,
            keeper,
        }
    }

    /// A handle for those who must look before they write.
    pub fn state(&self) -> LeaderState {
        self.state.clone()
    }

    /// This process leads.
    pub fn is_leader(&self) -> bool {
        self.state.is_leader()
    }

    /// Completes when leadership is lost; the process must then end with a failure. It never completes after [`Leadership::release`].
    pub async fn lost(&self) {
        self.state.lost.cancelled().await;
    }

    /// Gives the lock back so that a successor need not wait for the term to end. Call it after the last write.
    pub async fn release(mut self) {
        self.release.cancel();
        if let Some(keeper) = self.keeper.take() {
            // A keeper that panicked has nothing left to give back.
            drop(keeper.await);
        }
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
    }
}

/// Whether this process leads, readable from everywhere. Clones share it.
#[derive(Clone, Debug)]
pub struct LeaderState {
    base: Instant,
    /// Milliseconds after `base`. A clock is looked at on every question, so a process that was frozen knows at once that it may have been
    /// replaced.
    trusted_until: Arc<AtomicU64>,
    lost: CancellationToken,
}

impl LeaderState {
    fn new(base: Instant) -> Self {
        Self {
            base,
            trusted_until: Arc::new(AtomicU64::new(0)),
            lost: CancellationToken::new(),
        }
    }

    /// This process leads at this moment.
    pub fn is_leader(&self) -> bool {
        let elapsed = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX);
        !self.lost.is_cancelled() && elapsed < self.trusted_until.load(Ordering::Acquire)
    }

    /// Is cancelled when leadership is lost.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    fn trust_until(&self, until: Instant) {
        let until = until.saturating_duration_since(self.base).as_millis();
        self.trusted_until
            .store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn end(&self) {
        self.trusted_until.store(0, Ordering::Release);
    }
}

/// Renews until leadership is lost or given back.
struct Keeper {
    candidate: Candidate,
    metrics: LeaseMetrics,
    state: LeaderState,
    release: CancellationToken,
}

impl Keeper {
    async fn run(mut self, renewed_at: Instant) {
        let mut trusted_until = renewed_at + self.candidate.config.renew_deadline;
        loop {
            let next = Instant::now() + self.candidate.config.retry_period;
            tokio::select! {
                () = self.release.cancelled() => return self.give_back().await,
                () = tokio::time::sleep_until(next.min(trusted_until)) => {}
            }
            let begun = Instant::now();
            let attempt = tokio::select! {
                () = self.release.cancelled() => return self.give_back().await,
                attempt = tokio::time::timeout_at(trusted_until, self.candidate.attempt()) => attempt,
            };
            match attempt {
                Ok(Ok(Outcome::Held)) => {
                    trusted_until = begun + self.candidate.config.renew_deadline;
                    self.state.trust_until(trusted_until);
                }
                Ok(Ok(Outcome::HeldByOther { holder, .. })) => {
                    return self.lose(&format!("{holder} holds it"));
                }
                Ok(Err(error)) => {
                    tracing::warn!(
                        lease = self.candidate.config.name,
                        error = %chain(&error),
                        "Could not renew the lease"
                    );
                }
                Ok(Ok(Outcome::Contended)) | Err(_) => {}
            }
            if Instant::now() >= trusted_until {
                return self.lose("it could not be renewed in time");
            }
        }
    }

    fn lose(&self, reason: &str) {
        tracing::error!(lease = self.candidate.config.name, reason, "Lost the leadership");
        self.metrics.set(&self.candidate.config.name, false);
        self.state.end();
        self.state.lost.cancel();
    }

    async fn give_back(mut self) {
        self.state.end();
        self.metrics.set(&self.candidate.config.name, false);
        let name = self.candidate.config.name.clone();
        match tokio::time::timeout(RELEASE_TIMEOUT, self.candidate.give_back()).await {
            Ok(Ok(())) => tracing::info!(lease = name, "Gave the leadership back"),
            Ok(Err(error)) => tracing::warn!(
                lease = name,
                error = %chain(&error),
                "Could not give the leadership back; a successor waits for the term to end"
            ),
            Err(_) => tracing::warn!(
                lease = name,
                "Could not give the leadership back in time; a successor waits for the term to end"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
