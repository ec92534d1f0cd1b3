//! Queue reconciliation: the jobs that GitHub lists, against the ledgers (spec 20 "Recovery").
//!
//! Webhooks get lost. For every hot repository (one whose jobs stand in a ledger, or that a target, a metric or a flag names) the queued
//! and running jobs are listed once per period, and what the ledgers lack or have too much of is mended. What follows from what was read
//! is decided in `core::autoscale::recovery`; here is the I/O, and when to do it. An answer that could not be read changes nothing.

mod look;
mod metrics;
mod pools;
mod replaced;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::SignedDuration;
use muster_core::autoscale::recovery::{
    hot::{self, Heat, RepositoryRef},
    queue::Patience,
};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    look::{Outcome, Room},
    pools::{Credential, Pools},
    replaced::Ledgers,
};
use crate::{
    conditions::{self, Verdict},
    context::Context,
};

pub(crate) use self::metrics::QueueMetrics;

/// Type of the condition of an autoscaler whose repositories cannot be asked.
const QUEUE_RECONCILED: &str = "QueueReconciled";
/// Repositories that are asked about at the same time.
const CONCURRENCY: usize = 4;
/// What GitHub refuses is not asked for again before.
const REFUSED: Duration = Duration::from_mins(15);
/// No wait is longer, however GitHub wishes it.
const LONGEST_WAIT: Duration = Duration::from_mins(15);
/// Periods after which the jobs of a run count as unknown again, and the least time.
const FORGET: (i32, SignedDuration) = (5, SignedDuration::from_mins(5));
/// How long the hot repositories may be out of date.
const GATHER: Duration = Duration::from_secs(1);

/// What the flags say about it.
#[derive(Clone, Debug)]
pub struct ReconciliationSettings {
    /// Time between two looks at a repository; zero switches it off.
    pub period: Duration,
    /// How long a webhook may be under way before its absence counts.
    pub grace: SignedDuration,
    /// Looks are stretched where they would cost more calls per hour; 0 is no bound.
    pub calls_per_hour: i64,
    /// Repositories (`owner/name`) that are always looked at.
    pub repositories: Vec<String>,
}

impl Default for ReconciliationSettings {
    fn default() -> Self {
        Self {
            period: Duration::from_mins(1),
            grace: SignedDuration::from_secs(3),
            calls_per_hour: 3_000,
            repositories: Vec::new(),
        }
    }
}

impl ReconciliationSettings {
    fn patience(&self) -> Patience {
        let period = SignedDuration::try_from(self.period).unwrap_or(SignedDuration::MAX);
        Patience {
            grace: self.grace,
            forget: period.saturating_mul(FORGET.0).max(FORGET.1),
        }
    }
}

/// A hot repository, and whose logins may ask about it.
#[derive(Clone, Debug)]
struct Wanted {
    heat: Heat,
    credentials: BTreeSet<Credential>,
}

/// Runs until `shutdown`.
pub(super) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let settings = &context.settings.reconciliation;
    if settings.period.is_zero() {
        tracing::info!("Queue reconciliation is switched off.");
    } else {
        tracing::info!(
            period_ms = settings.period.as_millis(),
            "Queue reconciliation starts."
        );
    }
    let mut desk = Desk {
        context: Arc::clone(&context),
        rooms: HashMap::new(),
        names: HashMap::new(),
        ledgers: Ledgers::default(),
        looks: JoinSet::new(),
        slots: Arc::new(Semaphore::new(CONCURRENCY)),
    };
    let tick = match settings.period / 10 {
        Duration::ZERO => GATHER,
        tenth => tenth.clamp(Duration::from_millis(50), GATHER),
    };
    let mut tick = tokio::time::interval(tick);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = tick.tick() => desk.begin(&shutdown),
            Some(ended) = desk.looks.join_next() => match ended {
                Ok((place, room)) => desk.end(place, room),
                Err(error) => tracing::error!(error = %error, "A look at a repository's queue ended in a panic."),
            },
        }
    }
    desk.looks.shutdown().await;
}

/// Which repositories are looked at, and when.
struct Desk {
    context: Arc<Context>,
    rooms: HashMap<RepositoryRef, Slot>,
    /// Ids of repositories that are wanted by name.
    names: HashMap<String, RepositoryRef>,
    /// What stood in the ledgers.
    ledgers: Ledgers,
    looks: JoinSet<(RepositoryRef, Room)>,
    slots: Arc<Semaphore>,
}

struct Slot {
    due: Instant,
    /// None while a look is under way.
    room: Option<Room>,
}

impl Desk {
    /// Starts the looks that are due.
    fn begin(&mut self, shutdown: &CancellationToken) {
        let pools = Pools::gather(&self.context);
        let emptied = self.ledgers.look(&pools, self.context.clock.now());
        self.report_ledgers(&pools);
        if self.context.settings.reconciliation.period.is_zero() {
            return;
        }
        let wanted = self.wanted(&pools);
        let period = self.period(wanted.len());
        let now = Instant::now();
        self.rooms
            .retain(|place, slot| slot.room.is_none() || wanted.contains_key(place));
        for (place, wanted) in &wanted {
            let slot = self.rooms.entry(place.clone()).or_insert_with(|| Slot {
                // Many that become hot at once, after a start, are not asked about at once.
                due: now + jitter(period.min(Duration::from_secs(10)) / 2),
                room: Some(Room::default()),
            });
            if emptied.contains(place) {
                slot.due = now;
            }
            if slot.due > now {
                continue;
            }
            let Some(room) = slot.room.take() else { continue };
            // The next look begins a period after this one began.
            slot.due = now + period;
            tracing::trace!(repository = ?place, heat = ?wanted.heat, "A look at the queue begins.");
            let look = look::look(
                Arc::clone(&self.context),
                place.clone(),
                wanted.credentials.clone(),
                room,
                Arc::clone(&self.slots),
            );
            let (place, shutdown) = (place.clone(), shutdown.clone());
            self.looks.spawn(async move {
                let room = tokio::select! {
                    room = look => room,
                    () = shutdown.cancelled() => Room::default(),
                };
                (place, room)
            });
        }
        self.report(&pools);
        self.context.metrics.queue.hot(wanted.len());
    }

    /// The hot repositories; one that is known by id as well as by name counts once.
    fn wanted(&self, pools: &Pools) -> BTreeMap<RepositoryRef, Wanted> {
        let mut wanted: BTreeMap<RepositoryRef, Wanted> = BTreeMap::new();
        let now = self.context.clock.now();
        let flags = &self.context.settings.reconciliation.repositories;
        let process = Credential::default();
        let mut add = |place: RepositoryRef, heat: Heat, credential: &Credential| {
            let place = match &place {
                RepositoryRef::Name(name) => self.names.get(name).cloned().unwrap_or(place),
                RepositoryRef::Id { .. } => place,
            };
            let entry = wanted.entry(place).or_insert_with(|| Wanted {
                heat,
                credentials: BTreeSet::new(),
            });
            entry.heat = heat.max(entry.heat);
            entry.credentials.insert(credential.clone());
        };
        for (place, heat) in hot::repositories(&[], flags.iter().map(String::as_str), now) {
            add(place, heat, &process);
        }
        for pool in &pools.pools {
            let names = pool.names.iter().map(String::as_str);
            for (place, heat) in hot::repositories(pool.ledger(), names, now) {
                add(place, heat, &pool.credential);
            }
            for place in self.ledgers.repositories(&pool.object) {
                add(place.clone(), Heat::Live, &pool.credential);
            }
        }
        wanted
    }

    fn period(&self, hot: usize) -> Duration {
        let settings = &self.context.settings.reconciliation;
        let period = SignedDuration::try_from(settings.period).unwrap_or(SignedDuration::MAX);
        let stretched = hot::period(hot, period, settings.calls_per_hour);
        Duration::try_from(stretched).unwrap_or(settings.period)
    }

    /// Takes a room back after a look.
    fn end(&mut self, place: RepositoryRef, room: Room) {
        self.context.metrics.queue.looked(room.outcome.as_str());
        let now = Instant::now();
        let (is_bad, wait) = match &room.outcome {
            Outcome::Ok | Outcome::NotYet => (false, None),
            Outcome::Refused { .. } => (true, Some(REFUSED)),
            Outcome::Throttled { wait } => (true, Some((*wait).min(LONGEST_WAIT))),
            Outcome::Failed => (true, None),
        };
        if is_bad {
            tracing::debug!(repository = ?place, outcome = room.outcome.as_str(), "A look at the queue failed; nothing follows from it.");
        }
        let mut slot = self.rooms.remove(&place).unwrap_or(Slot { due: now, room: None });
        if let Some(wait) = wait {
            slot.due = slot.due.max(now + wait + jitter(wait / 10));
        }
        // From now on a repository that was wanted by name is known by its id.
        let place = match (&place, room.id()) {
            (RepositoryRef::Name(name), Some(id)) => {
                self.names.insert(name.clone(), id.clone());
                id
            }
            _ => place,
        };
        match self.rooms.get(&place) {
            Some(other) if other.room.is_none() => {}
            _ => {
                slot.room = Some(room);
                self.rooms.insert(place, slot);
            }
        }
    }

    /// Says on the autoscalers which repositories of theirs cannot be asked.
    fn report(&self, pools: &Pools) {
        let now = self.context.clock.now();
        for pool in &pools.pools {
            let names = pool.names.iter().map(String::as_str);
            let refused: BTreeMap<String, &str> = hot::repositories(pool.ledger(), names, now)
                .into_keys()
                .filter_map(|place| {
                    let place = match &place {
                        RepositoryRef::Name(name) => self.names.get(name).unwrap_or(&place).clone(),
                        RepositoryRef::Id { .. } => place,
                    };
                    let room = self.rooms.get(&place)?.room.as_ref()?;
                    let Outcome::Refused { reason } = &room.outcome else {
                        return None;
                    };
                    Some((room.title(&place), *reason))
                })
                .collect();
            let message = refused.keys().take(5).cloned().collect::<Vec<_>>().join(", ");
            let reason = refused.values().next().copied().unwrap_or("Reconciled");
            let message = if refused.is_empty() {
                String::new()
            } else {
                format!(
                    "GitHub does not show the runs of {message} to these credentials: lost webhooks of their jobs are not noticed. Give them the permission Actions, read-only (a classic token: repo)."
                )
            };
            let verdict = Verdict {
                type_: QUEUE_RECONCILED,
                status: refused.is_empty(),
                default: true,
                reason,
                message: &message,
            };
            let generation = pool.object.metadata.generation;
            if conditions::with(pool.conditions(), &verdict, generation, now).is_none()
                || self.is_unknown(pool, now)
            {
                continue;
            }
            let (context, object) = (Arc::clone(&self.context), Arc::clone(&pool.object));
            self.context.tasks.spawn(async move {
                let verdict = Verdict {
                    type_: QUEUE_RECONCILED,
                    status: message.is_empty(),
                    default: true,
                    reason,
                    message: &message,
                };
                conditions::report(&context.client, &*object, &verdict, now).await;
            });
        }
    }

    /// Says on the autoscalers whose ledgers somebody has emptied.
    fn report_ledgers(&self, pools: &Pools) {
        let now = self.context.clock.now();
        for pool in &pools.pools {
            let Some(message) = self.ledgers.message(&pool.object, now) else {
                continue;
            };
            if conditions::with(pool.conditions(), &replaced::verdict(&message), None, now).is_none() {
                continue;
            }
            let (context, object) = (Arc::clone(&self.context), Arc::clone(&pool.object));
            self.context.tasks.spawn(async move {
                conditions::report(&context.client, &*object, &replaced::verdict(&message), now).await;
            });
        }
    }

    /// Some repository of the autoscaler has not been asked yet, or is being asked: what stands in the condition stays.
    fn is_unknown(&self, pool: &pools::Pool, now: jiff::Timestamp) -> bool {
        let names = pool.names.iter().map(String::as_str);
        hot::repositories(pool.ledger(), names, now)
            .into_keys()
            .any(|place| {
                let place = match &place {
                    RepositoryRef::Name(name) => self.names.get(name).unwrap_or(&place).clone(),
                    RepositoryRef::Id { .. } => place,
                };
                let room = self.rooms.get(&place).and_then(|slot| slot.room.as_ref());
                room.is_none_or(|room| {
                    matches!(
                        room.outcome,
                        Outcome::NotYet | Outcome::Failed | Outcome::Throttled { .. }
                    )
                })
            })
    }
}

/// A part of `most`, so that looks do not come in step.
fn jitter(most: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_bytes().first().copied().unwrap_or(0);
    most * u32::from(random) / 256
}
