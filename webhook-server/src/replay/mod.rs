//! Delivery replay: what GitHub could not deliver is fetched from its log and taken as if it had come (spec 20 "Recovery").
//!
//! One replica at a time does it, by a Lease whose annotation keeps the hooks and how far their logs were read. Hooks are learned from
//! the deliveries that arrive, or configured. Which deliveries are missed is decided in `core::autoscale::recovery::replay`.

mod condition;
mod heard;
mod metrics;
mod place;
mod scan;

pub use heard::{Heard, HookName, Target};
pub use metrics::ReplayMetrics;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use muster_core::autoscale::recovery::replay::{Cursor, ENTERPRISE_WINDOW, Missed, Seen, WINDOW};
use muster_github::{ErrorClass, GitHub};
use muster_runtime::clock::Clock;
use muster_runtime::telemetry::chain;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::handler::App;
use condition::Conditions;
use place::{Place, Taken};

/// Hooks that are kept; deliveries of further ones are not looked for.
const MOST_HOOKS: usize = 100;

/// What GitHub or the API server refuses is not asked for again before.
const REFUSED: Duration = Duration::from_mins(15);

/// No wait is longer, however GitHub wishes it.
const LONGEST_WAIT: Duration = Duration::from_mins(15);

/// How long GitHub may take to note that a delivery failed: it waits 10 s for an answer.
const OVERLAP: SignedDuration = SignedDuration::from_secs(15);

/// Deliveries that may be fetched at once after a quiet time, and per hour in the long run.
const BURST: f64 = 1_000.0;
const PER_HOUR: f64 = 2_400.0;

/// What the flags say about replay.
#[derive(Clone, Debug)]
pub struct ReplaySettings {
    /// Time between two scans of a hook's log; zero switches replay off.
    pub period: Duration,
    /// Name of the Lease.
    pub lease_name: String,
    /// Namespace of the Lease; without one replay is off.
    pub lease_namespace: Option<String>,
    /// Who we are to other replicas: the same after a restart.
    pub identity: String,
    /// Hooks that need not be learned.
    pub hooks: Vec<HookName>,
}

impl Default for ReplaySettings {
    fn default() -> Self {
        Self {
            period: Duration::from_mins(1),
            lease_name: "github-webhook-server-replay".to_owned(),
            lease_namespace: None,
            identity: String::new(),
            hooks: Vec::new(),
        }
    }
}

/// What replay works with.
#[derive(Debug)]
pub struct Replay {
    /// The intake.
    pub app: Arc<App>,
    /// Who lists deliveries.
    pub github: GitHub,
    /// The hooks and GUIDs of what arrived.
    pub heard: Heard,
    /// What to count.
    pub metrics: ReplayMetrics,
    /// The time.
    pub clock: Clock,
    /// The flags.
    pub settings: ReplaySettings,
}

/// What the Lease's annotation keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    #[serde(default)]
    hooks: Vec<HookRecord>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct HookRecord {
    #[serde(flatten)]
    hook: HookName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cursor: Option<Cursor>,
    /// GitHub does not show its deliveries, and conditions say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    refused: bool,
}

/// How far one hook's log was read.
#[derive(Debug, Default)]
struct HookState {
    cursor: Option<Cursor>,
    /// Missed deliveries that were not taken yet, and how often that was tried.
    backlog: Vec<(Missed, u32)>,
    /// Not to be asked about before.
    not_before: Option<Instant>,
    /// It was said that GitHub does not show its deliveries.
    is_told: bool,
}

impl HookState {
    /// Where a successor must begin: before what waits here.
    fn kept(&self) -> Option<Cursor> {
        let oldest = self
            .backlog
            .iter()
            .filter_map(|(missed, _)| missed.delivered_at.map(|at| Cursor { id: missed.id, at }))
            .min_by_key(|cursor| cursor.at);
        match (self.cursor, oldest) {
            (Some(cursor), Some(oldest)) if oldest.at < cursor.at => Some(oldest),
            (cursor, _) => cursor,
        }
    }
}

/// Calls that may still be made: a burst after an outage, and less than GitHub's hourly budget in the long run.
#[derive(Debug)]
struct Budget {
    calls: f64,
    filled_at: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            calls: BURST,
            filled_at: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let hours = now.saturating_duration_since(self.filled_at).as_secs_f64() / 3_600.0;
        self.calls = (self.calls + hours * PER_HOUR).min(BURST);
        self.filled_at = now;
    }

    fn take(&mut self) -> bool {
        let may = self.calls >= 1.0;
        if may {
            self.calls -= 1.0;
        }
        may
    }
}

impl Replay {
    /// Runs until `stop`.
    pub async fn run(self, client: Client, stop: CancellationToken) {
        let period = self.settings.period;
        let Some(namespace) = self.settings.lease_namespace.clone() else {
            tracing::info!(
                "Delivery replay is off: the namespace for its Lease is not known; give --replay-lease-namespace"
            );
            return;
        };
        let mut worker = Worker {
            place: Place::new(client.clone(), &namespace, &self.settings, period),
            conditions: Conditions::new(client),
            hooks: BTreeMap::new(),
            seen: Seen::default(),
            budget: Budget::new(Instant::now()),
            refusals: 0,
            replay: self,
        };
        loop {
            let begun = Instant::now();
            let wait = tokio::select! {
                () = stop.cancelled() => break,
                wait = worker.turn() => wait,
            };
            // A period from one turn's begin to the next one's, with a pause where a turn takes that long.
            let due = (begun + wait).max(Instant::now() + period / 10);
            let news = worker.replay.heard.news();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(due) => {}
                // A new hook is written down at once, so that a successor knows it.
                () = news => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        worker.place.give_back().await;
    }

    fn window(&self) -> SignedDuration {
        if self.github.urls().is_enterprise {
            ENTERPRISE_WINDOW
        } else {
            WINDOW
        }
    }

    fn overlap(&self) -> SignedDuration {
        let quarter = SignedDuration::try_from(self.settings.period / 4).unwrap_or(OVERLAP);
        quarter.min(OVERLAP)
    }
}

struct Worker {
    replay: Replay,
    place: Place,
    conditions: Conditions,
    hooks: BTreeMap<HookName, HookState>,
    seen: Seen,
    budget: Budget,
    /// How often in a row the Lease was refused.
    refusals: u32,
}

impl Worker {
    /// One turn over all hooks, if it is ours; how long after its begin the next is due.
    async fn turn(&mut self) -> Duration {
        let period = self.replay.settings.period;
        let record = match self.place.take().await {
            Ok(Taken::Ours(text)) => Record::parse(text.as_deref()),
            Ok(Taken::Others(text)) => {
                self.replay.metrics.enabled.set(1);
                self.hooks.clear();
                self.tell_leader(Record::parse(text.as_deref())).await;
                return jittered(period);
            }
            Err(error) if is_refused(&error) => {
                self.replay.metrics.enabled.set(0);
                if self.refusals == 0 {
                    tracing::warn!(
                        error = %chain(&error),
                        "Delivery replay is off: this server may not have the Lease that lets one replica at a time do it. Apply config/rbac/github-webhook-server_replay_role.yaml, or switch replay off with --replay-period=0"
                    );
                }
                // The Role may be on its way.
                let wait = period.saturating_mul(2_u32.saturating_pow(self.refusals.min(16)));
                self.refusals += 1;
                return wait.min(REFUSED).max(period);
            }
            Err(error) => {
                tracing::debug!(error = %chain(&error), "Could not take the Lease of delivery replay.");
                return jittered(period);
            }
        };
        self.refusals = 0;
        if self.replay.metrics.enabled.get() == 0 {
            tracing::info!(
                period_ms = period.as_millis(),
                "Delivery replay runs in this replica."
            );
        }
        self.replay.metrics.enabled.set(1);
        self.learn(record.clone());
        self.tell(true).await;
        self.scan_all().await;
        self.tell(false).await;
        let after = self.record();
        if after != record
            && let Err(error) = self.place.save(&after.text()).await
        {
            tracing::debug!(error = %chain(&error), "Could not note how far delivery logs were read.");
        }
        period
    }

    /// Takes in the hooks of the annotation, of what arrived and of the flags.
    fn learn(&mut self, record: Record) {
        for known in record.hooks {
            self.hooks.entry(known.hook).or_insert_with(|| HookState {
                cursor: known.cursor,
                is_told: known.refused,
                ..HookState::default()
            });
        }
        let heard = self.replay.heard.hooks();
        for hook in self.replay.settings.hooks.iter().cloned().chain(heard) {
            if self.hooks.len() < MOST_HOOKS || self.hooks.contains_key(&hook) {
                self.hooks.entry(hook).or_default();
            }
        }
    }

    /// What this replica heard of and the leader does not know is added for it.
    async fn tell_leader(&mut self, mut record: Record) {
        let unknown: Vec<HookName> = self
            .replay
            .heard
            .hooks()
            .into_iter()
            .filter(|hook| record.hooks.iter().all(|known| known.hook != *hook))
            .collect();
        if unknown.is_empty() || record.hooks.len() >= MOST_HOOKS {
            return;
        }
        record.hooks.extend(unknown.into_iter().map(|hook| HookRecord {
            hook,
            cursor: None,
            refused: false,
        }));
        // The leader writes too; whoever loses the race tries again in the next period.
        if let Err(error) = self.place.save(&record.text()).await {
            tracing::debug!(error = %chain(&error), "Could not tell the leader of delivery replay about a hook.");
        }
    }

    fn record(&self) -> Record {
        let hooks = self.hooks.iter().map(|(hook, state)| HookRecord {
            hook: hook.clone(),
            cursor: state.kept(),
            refused: state.is_told,
        });
        Record {
            hooks: hooks.collect(),
        }
    }

    /// Says on the autoscalers which hooks are refused; before the first scan it is what an earlier process has said.
    async fn tell(&mut self, is_before: bool) {
        let refused: Vec<&HookName> = self
            .hooks
            .iter()
            .filter(|(_, state)| state.is_told)
            .map(|(hook, _)| hook)
            .collect();
        let (views, now) = (self.replay.app.autoscalers(), self.replay.clock.now());
        if is_before {
            self.conditions.take_over(&views, &refused, now);
        } else {
            self.conditions.tell(&views, &refused, now).await;
        }
    }

    async fn scan_all(&mut self) {
        let now = Instant::now();
        self.budget.refill(now);
        for (hook, mut state) in std::mem::take(&mut self.hooks) {
            if state.not_before.is_none_or(|at| at <= now) {
                let result =
                    scan::scan(&self.replay, &hook, &mut state, &mut self.seen, &mut self.budget).await;
                let outcome = match &result {
                    Ok(()) => {
                        state.is_told = false;
                        "ok"
                    }
                    Err(error) => {
                        let (outcome, wait) = back_off(error, self.replay.clock.now());
                        state.not_before = wait.map(|wait| now + wait.min(LONGEST_WAIT));
                        let chain = chain(error);
                        if outcome == "refused" && !state.is_told {
                            state.is_told = true;
                            tracing::warn!(hook = %hook, error = %chain, "GitHub does not show the deliveries of a hook to these credentials: those that are lost are not replayed. Reading them takes admin:repo_hook or admin:org_hook (a token), or the GitHub App's own key (its hook)");
                        } else {
                            tracing::debug!(hook = %hook, error = %chain, "A hook's deliveries could not be read.");
                        }
                        outcome
                    }
                };
                self.replay.metrics.scanned(outcome);
            }
            self.hooks.insert(hook, state);
        }
    }
}

impl Record {
    /// What cannot be read counts as nothing: the hooks are learned again.
    fn parse(text: Option<&str>) -> Self {
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }

    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn back_off(error: &muster_github::Error, now: Timestamp) -> (&'static str, Option<Duration>) {
    match error.class() {
        ErrorClass::Unauthorized | ErrorClass::Forbidden | ErrorClass::NotFound => ("refused", Some(REFUSED)),
        ErrorClass::Throttled { until } => {
            let wait = until.and_then(|until| Duration::try_from(until.duration_since(now)).ok());
            ("throttled", Some(wait.unwrap_or(Duration::from_mins(1))))
        }
        ErrorClass::Unavailable | ErrorClass::Rejected | ErrorClass::Bug => ("failed", None),
    }
}

fn is_refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_forbidden() || status.code == 401)
}

/// Up to a tenth longer, so that replicas do not ask for the Lease in step.
fn jittered(period: Duration) -> Duration {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    let tenth = period / 10;
    period + tenth * u32::try_from(random % 256).unwrap_or(0) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_keeps_hooks_and_cursors() {
        let record = Record {
            hooks: vec![
                HookRecord {
                    hook: "acme/api=7".parse().unwrap(),
                    cursor: Some(Cursor {
                        id: 9,
                        at: Timestamp::from_second(1_700_000_000).unwrap(),
                    }),
                    refused: true,
                },
                HookRecord {
                    hook: "app".parse().unwrap(),
                    cursor: None,
                    refused: false,
                },
            ],
        };
        let text = record.text();
        assert_eq!(
            text,
            r#"{"hooks":[{"type":"repository","name":"acme/api","id":7,"cursor":{"id":9,"at":"2023-11-14T22:13:20Z"},"refused":true},{"type":"integration","name":"","id":0}]}"#
        );
        assert_eq!(Record::parse(Some(&text)), record);
        for broken in [None, Some(""), Some("{"), Some("[]"), Some(r#"{"hooks":[{}]}"#)] {
            assert_eq!(Record::parse(broken), Record::default());
        }
    }

    #[test]
    fn a_successor_begins_before_what_waits() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let missed = |id, second| Missed {
            id,
            guid: String::new(),
            delivered_at: Some(at(second)),
            event: String::new(),
            action: None,
        };
        let mut state = HookState {
            cursor: Some(Cursor { id: 9, at: at(90) }),
            ..HookState::default()
        };
        assert_eq!(state.kept().map(|cursor| cursor.id), Some(9));
        state.backlog = vec![(missed(7, 70), 0), (missed(5, 50), 1)];
        assert_eq!(state.kept().map(|cursor| cursor.id), Some(5));
    }

    #[test]
    fn a_burst_is_fetched_at_once_and_then_less_than_githubs_budget() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let burst = std::iter::from_fn(|| budget.take().then_some(())).count();
        assert_eq!(burst, 1_000);
        budget.refill(start + Duration::from_mins(1));
        assert_eq!(std::iter::from_fn(|| budget.take().then_some(())).count(), 40);
    }
}
