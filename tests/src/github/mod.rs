//! A fake GitHub: an HTTP server on loopback that keeps real state and answers like api.github.com, as far as
//! runner controllers can tell. It knows nothing of the programs under test.
//!
//! - **REST** below `/` and `/api/v3/`: registration tokens, runners, workflow runs and jobs, runner groups, hook
//!   deliveries, installation tokens, rate limit; with paging, `ETag`, cache and rate-limit headers.
//! - **Runners** speak the protocol of [`crate::agent`]: they register, wait for a job in a long poll, report.
//! - **Jobs** go to *any* idle matching runner, chosen by a seeded draw, as the real one does.
//! - **Webhooks** tell of every step of a job: signed, sent asynchronously, logged, repeated on request, and lost,
//!   doubled, delayed or shuffled where a test wants that.
//! - **Faults** and **counters** exist for every family of calls.
//!
//! Every random choice comes from [`FakeGitHubOptions::seed`].

mod auth;
mod clock;
mod counters;
mod delivery;
mod faults;
mod hooks;
mod matcher;
mod model;
mod options;
mod payload;
mod places;
mod rest;
mod sender;
mod server;
#[cfg(test)]
mod tests;
pub(crate) mod wire;
mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use self::auth::CredentialUse;
pub use self::counters::{CallCount, Family};
pub use self::delivery::{
    Delivery, HookIdentity, HookTarget, SignedDelivery, signature_sha1, signature_sha256,
};
pub use self::faults::{Fault, FaultId, FaultKind};
pub use self::hooks::{DeliveryView, HookSpec};
pub use self::model::{
    JobHandle, JobSpec, JobState, JobStats, JobView, OwnerType, RunnerRef, RunnerView, Violation,
    ViolationKind,
};
pub use self::options::{DEFAULT_TOKEN, FakeApp, FakeGitHubOptions};
pub use self::payload::{JobPayload, RepositoryInfo};
pub use self::places::RunnerGroupSpec;
pub use self::sender::WebhookChaos;

use self::clock::ServerClock;
use self::hooks::Content;
use self::sender::{Sender, SenderSettings};
use self::server::Core;
use self::wire::{Cut, CuttableListener};
use self::world::{Rules, World};

/// Locks, also after a panic elsewhere: a test that failed must not hide why.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running fake. Clones are cheap and speak to the same server, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct FakeGitHub {
    core: Arc<Core>,
    address: SocketAddr,
    tasks: TaskTracker,
    /// Stops the server when the last clone goes.
    _stop: Arc<DropGuard>,
}

impl FakeGitHub {
    /// Starts a server on a free loopback port.
    pub async fn start(options: FakeGitHubOptions) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("binding a loopback port")?;
        let address = listener
            .local_addr()
            .context("reading the address of the listener")?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let clock = Arc::new(ServerClock::new(options.clock_offset));
        let settings = SenderSettings {
            seed: options.seed,
            chaos: options.webhook_chaos.clone(),
            concurrency: options.webhook_concurrency,
            timeout: options.webhook_timeout,
            resend: options.resend_until_2xx,
            log_limit: options.delivery_log_limit,
        };
        let sender = Sender::new(settings, clock.clone(), tasks.clone(), stop.clone())
            .context("building the HTTP client for webhooks")?;
        let sender = Arc::new(sender);
        for hook in &options.hooks {
            lock(&sender.hooks).add(hook.clone());
        }
        let (outbox, events) = mpsc::unbounded_channel();
        let rules = Rules {
            offline_after: options.offline_after,
            interrupted_after: options.interrupted_after,
            queue_timeout: options.queue_timeout,
            shuffle_jobs: options.shuffle_jobs,
        };
        let world = World::new(options.seed, rules, outbox, sender.pending.clone());
        let core = Arc::new(Core::new(options, clock, world, sender.clone(), stop.clone()));

        tasks.spawn(sender.run(events));
        tasks.spawn(core.clone().sweep());
        let router = axum::Router::new()
            .fallback(rest::handle)
            .with_state(core.clone());
        let server = axum::serve(
            CuttableListener::new(listener, core.dark.clone()),
            router.into_make_service_with_connect_info::<Cut>(),
        )
        .with_graceful_shutdown(stop.clone().cancelled_owned());
        let ending = core.clone();
        tasks.spawn(async move {
            let closing = async {
                ending.stop.cancelled().await;
                lock(&ending.world).wake_all();
                tokio::time::sleep(Duration::from_secs(2)).await;
            };
            tokio::select! {
                // Serving ends with the stop only; connections that linger are dropped.
                _ends_without_error = server => {}
                () = closing => {}
            }
        });
        Ok(Self {
            core,
            address,
            tasks,
            _stop: Arc::new(stop.drop_guard()),
        })
    }

    /// Stops serving and sending, and waits for both to end (two seconds at most).
    pub async fn shutdown(&self) {
        self.core.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// `http://127.0.0.1:PORT/`: base of the REST API and of runners.
    pub fn base_url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// `http://127.0.0.1:PORT/api/v3/`: base of the REST API as on a GitHub Enterprise Server.
    pub fn enterprise_api_url(&self) -> String {
        format!("http://{}/api/v3/", self.address)
    }

    /// Makes the repository of an organization, `owner/name`, if there is none; a job makes its own.
    pub fn create_repository(&self, full_name: &str) {
        let spec = JobSpec::new(full_name, [""; 0]);
        self.core.change(|world| {
            world
                .places
                .repository(&spec.owner, spec.owner_type, &spec.repo, None);
        });
    }

    // ---- jobs

    /// Queues a job (or leaves it waiting) and tells the hooks.
    pub fn queue_job(&self, spec: JobSpec) -> JobHandle {
        let now = self.now();
        self.core.change(|world| world.queue_job(spec, now))
    }

    /// Queues a job that waits for approval. Whether there was one.
    pub fn release_job(&self, job: u64) -> bool {
        let now = self.now();
        self.core.change(|world| world.release_job(job, now))
    }

    /// Cancels a job: at once while it is queued, else when its runner reports. Whether it was open.
    pub fn cancel_job(&self, job: u64) -> bool {
        let now = self.now();
        self.core.change(|world| world.cancel_job(job, now))
    }

    /// Lets a runner that is not registered here take a queued job, as when another system serves it.
    pub fn start_elsewhere(&self, job: u64, runner_name: &str) -> bool {
        let now = self.now();
        self.core
            .change(|world| world.start_elsewhere(job, runner_name, now))
    }

    /// Ends a job whatever its runner does. Whether it was open.
    pub fn complete_job(&self, job: u64, conclusion: &str) -> bool {
        let now = self.now();
        self.core.change(|world| world.complete_job(job, conclusion, now))
    }

    /// Runs the failed jobs of a finished run again, under new ids; `completed` is sent again for all others.
    pub fn rerun_failed_jobs(&self, run: u64) -> Vec<JobHandle> {
        let now = self.now();
        self.core.change(|world| world.rerun_failed(run, now))
    }

    /// A job as it stands.
    pub fn job(&self, job: u64) -> Option<JobView> {
        lock(&self.core.world).job(job)
    }

    /// All jobs by id.
    pub fn jobs(&self) -> Vec<JobView> {
        lock(&self.core.world).jobs()
    }

    /// How many jobs are in which state; costs nothing.
    pub fn job_stats(&self) -> JobStats {
        lock(&self.core.world).stats
    }

    /// What a webhook would say about a job now.
    pub fn job_payload(&self, job: u64) -> Option<JobPayload> {
        lock(&self.core.world).payload(job)
    }

    /// A number that grows with every change of jobs and runners, to wait on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.core.revision.subscribe()
    }

    /// Waits until every job is completed; an error names some of those that are not.
    pub async fn await_all_completed(&self, deadline: Duration) -> anyhow::Result<()> {
        let mut changes = self.changes();
        let until = Instant::now() + deadline;
        loop {
            changes.mark_unchanged();
            if self.job_stats().open() == 0 {
                return Ok(());
            }
            if !matches!(
                tokio::time::timeout_at(until, changes.changed()).await,
                Ok(Ok(()))
            ) {
                break;
            }
        }
        let stats = self.job_stats();
        let open: Vec<String> = self
            .jobs()
            .into_iter()
            .filter(|job| job.state != JobState::Completed)
            .take(10)
            .map(|job| {
                format!(
                    "{} {} {:?}",
                    job.id,
                    job.state,
                    job.runner.map(|runner| runner.name)
                )
            })
            .collect();
        bail!(
            "{} jobs are not completed after {deadline:?} ({stats:?}): {}",
            stats.open(),
            open.join("; ")
        )
    }

    // ---- runners

    /// Registered runners by id.
    pub fn runners(&self) -> Vec<RunnerView> {
        lock(&self.core.world).runner_views(Instant::now())
    }

    /// Forgets an idle runner, as an administrator or GitHub's own cleanup does. Whether there is one of that name.
    pub fn deregister(&self, runner_name: &str) -> bool {
        self.core.change(|world| world.deregister(runner_name))
    }

    /// Adds a runner group; its id.
    pub fn add_runner_group(&self, spec: &RunnerGroupSpec) -> u64 {
        self.core.change(|world| world.places.add_group(spec))
    }

    /// Changes which repositories (`owner/name`) may use a group; `None` is all. Whether there is such a group.
    pub fn set_group_repositories(&self, group: u64, repositories: Option<&[String]>) -> bool {
        self.core.change(|world| {
            let known = world.places.set_group_repositories(group, repositories);
            world.rematch();
            known
        })
    }

    /// What must not happen with a correct controller, and did.
    pub fn violations(&self) -> Vec<Violation> {
        lock(&self.core.world).violations.clone()
    }

    /// How many jobs lost their runner while they ran.
    pub fn interrupted(&self) -> usize {
        let world = lock(&self.core.world);
        world
            .violations
            .iter()
            .filter(|violation| violation.kind == ViolationKind::Interrupted)
            .count()
    }

    // ---- webhooks

    /// Adds a hook; its id.
    pub fn add_hook(&self, spec: HookSpec) -> u64 {
        lock(&self.core.sender.hooks).add(spec)
    }

    /// Sends a hook's deliveries elsewhere, also those that are being repeated. Whether there is such a hook.
    pub fn set_hook_url(&self, hook: u64, url: &str) -> bool {
        let mut hooks = lock(&self.core.sender.hooks);
        hooks
            .get_mut(hook)
            .map(|hook| url.clone_into(&mut hook.spec.url))
            .is_some()
    }

    /// Switches a hook on or off. Whether there is such a hook.
    pub fn set_hook_active(&self, hook: u64, active: bool) -> bool {
        let mut hooks = lock(&self.core.sender.hooks);
        hooks.get_mut(hook).map(|hook| hook.active = active).is_some()
    }

    /// Sends any event through a hook, mishaps included.
    pub fn send_event(&self, hook: u64, event: &str, body: impl Into<Bytes>) {
        let content = Content::Raw {
            event: event.to_owned(),
            body: body.into(),
        };
        self.core.sender.begin(hook, &Arc::new(content));
    }

    /// Attempts at deliveries of a hook, oldest first.
    pub fn deliveries(&self, hook: u64) -> Vec<DeliveryView> {
        let hooks = lock(&self.core.sender.hooks);
        let log = hooks.get(hook).map(|hook| &hook.log);
        log.into_iter()
            .flat_map(|log| log.values())
            .map(|record| record.view.clone())
            .collect()
    }

    /// Sends an earlier delivery again, as the button in the settings does. Whether there is one.
    pub fn redeliver(&self, hook: u64, delivery: u64) -> bool {
        self.core.sender.redeliver(hook, delivery)
    }

    /// Changes the mishaps of webhooks from now on.
    pub fn set_webhook_chaos(&self, chaos: WebhookChaos) {
        self.core.sender.set_chaos(chaos);
    }

    /// Switches repetition of what was not answered 2xx.
    pub fn set_resend_until_2xx(&self, resend: bool) {
        self.core.sender.set_resend(resend);
    }

    /// Holds all webhooks back, or lets them go.
    pub fn pause_webhooks(&self, paused: bool) {
        self.core.sender.pause(paused);
    }

    /// Webhooks that are not over: not sent yet, on their way, or waiting for another attempt.
    pub fn pending_webhooks(&self) -> u64 {
        self.core.sender.pending.load(Ordering::Acquire)
    }

    /// Waits until no webhook is pending.
    pub async fn await_webhooks_sent(&self, deadline: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + deadline;
        while self.pending_webhooks() > 0 {
            if Instant::now() > until {
                bail!(
                    "{} webhooks are still pending after {deadline:?}",
                    self.pending_webhooks()
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    // ---- faults and time

    /// Lets something go wrong from now on.
    pub fn inject(&self, fault: Fault) -> FaultId {
        lock(&self.core.faults).inject(fault)
    }

    /// Ends one fault.
    pub fn clear_fault(&self, fault: FaultId) {
        lock(&self.core.faults).clear(Some(fault));
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        lock(&self.core.faults).clear(None);
    }

    /// Makes GitHub unreachable (connections are reset, open polls break), or reachable again. Webhooks are
    /// another matter: see [`pause_webhooks`](Self::pause_webhooks).
    pub fn set_dark(&self, dark: bool) {
        self.core.dark.store(dark, Ordering::SeqCst);
        if dark {
            self.core.change(World::wake_all);
        }
    }

    /// Accepts a further personal access token.
    pub fn accept_token(&self, token: &str) {
        lock(&self.core.credentials).accept(token);
    }

    /// Accepts a token of any kind no more.
    pub fn revoke_token(&self, token: &str) {
        lock(&self.core.credentials).revoke(token);
    }

    /// Accepts no installation token any more that was issued until now.
    pub fn revoke_installation_tokens(&self) {
        lock(&self.core.credentials).revoke_installation_tokens();
    }

    /// Lets a personal access token be used for this owner only; another use is refused and a
    /// [violation](Self::violations).
    pub fn confine_token(&self, token: &str, owner: &str) {
        lock(&self.core.credentials).confine(format!("token {token}"), owner);
    }

    /// The same for the tokens of an installation.
    pub fn confine_installation(&self, installation: u64, owner: &str) {
        lock(&self.core.credentials).confine(format!("installation {installation}"), owner);
    }

    /// Which credential was used for which owner, when and how often.
    pub fn credential_uses(&self) -> Vec<CredentialUse> {
        lock(&self.core.credentials).uses()
    }

    /// Changes the calls per hour and credential, and starts to count anew.
    pub fn set_rate_limit(&self, limit: u64) {
        lock(&self.core.credentials).set_limit(limit);
    }

    /// GitHub's clock.
    pub fn now(&self) -> Timestamp {
        self.core.clock.now()
    }

    /// Sets GitHub's clock off against this machine's. What has come due happens within a second.
    pub fn set_clock_offset(&self, offset: SignedDuration) {
        self.core.clock.set_offset(offset);
    }

    // ---- counters

    /// Calls by family since the start (or the last [`reset_counters`](Self::reset_counters)), those of runners
    /// included (`agent_…`).
    pub fn counters(&self) -> BTreeMap<String, u64> {
        lock(&self.core.counters).totals()
    }

    /// Calls of one family by outcome.
    pub fn calls(&self, family: Family) -> CallCount {
        lock(&self.core.counters).of(family)
    }

    /// Calls of one family in each minute since the start.
    pub fn calls_per_minute(&self, family: Family) -> Vec<u64> {
        lock(&self.core.counters).per_minute(family)
    }

    /// Sets all counters to zero.
    pub fn reset_counters(&self) {
        lock(&self.core.counters).clear();
    }
}
