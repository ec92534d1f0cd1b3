//! One pool: an autoscaler with its ledger, a set with its runners, and the jobs that wait for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use muster_core::{
    autoscale::{
        demand::{DemandMerge, Pull},
        desired::{Decision, End, Fate, Input, TargetPatch, TargetView, charge, decide},
        reservation::{Book, Delta, JobEvent},
    },
    pods::{
        OwnerView, Plan, PodView, Served, Want,
        phase::{PodPhase, RunnerContainer},
        plan,
    },
    routing::AutoscalerId,
};

/// Life of an entry.
pub(super) const DURATION: SignedDuration = SignedDuration::from_hours(6);
/// The template's hash.
const HASH: &str = "h";
/// As large as a ledger may become (the webhook server's own limit).
const LEDGER_BYTES: usize = 1 << 20;

/// A controller that works on one object at a time: what comes meanwhile is looked at afterwards.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn {
    busy: bool,
    again: bool,
}

impl Turn {
    /// Whether to begin now; otherwise it is remembered.
    pub(super) fn begin(&mut self) -> bool {
        self.again |= self.busy;
        !self.busy
    }

    pub(super) fn hold(&mut self) {
        self.busy = true;
    }

    /// Whether to look again.
    pub(super) fn end(&mut self) -> bool {
        self.busy = false;
        std::mem::take(&mut self.again)
    }
}

/// What the target and its set are told.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    pub(super) replicas: i64,
    effective_time: Option<Timestamp>,
    retain: Option<Timestamp>,
    accounted: u64,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) id: AutoscalerId,
    pub(super) label: String,
    max: i64,
    delay: SignedDuration,

    pub(super) waiting: Vec<JobEvent>,
    pub(super) writer: Turn,
    pub(super) delta: Option<Delta>,
    pub(super) book: Book,
    pub(super) version: u64,

    pub(super) autoscaler: Turn,
    pub(super) decided: Option<(u64, Decision)>,
    /// When the autoscaler looks again although nothing changes.
    pub(super) due: Option<Timestamp>,
    /// When the target was written last.
    pub(super) gate: Option<Timestamp>,
    desired: Option<i64>,
    scaled_out: Option<Timestamp>,
    pub(super) deployment: Target,

    pub(super) set: Target,
    served: Served,
    pub(super) planner: Turn,
    /// When the set looks again although nothing changes.
    pub(super) hold: Option<Timestamp>,
    pub(super) planned: Plan,
    pub(super) owners: Vec<OwnerView>,
    fates: BTreeMap<String, Fate>,
    ends: VecDeque<End>,
    sequence: u64,

    /// Jobs that GitHub has for the pool.
    pub(super) queued: VecDeque<usize>,
    /// Runners that wait for one.
    pub(super) idle: BTreeSet<usize>,
}

impl Pool {
    pub(super) fn new(number: usize, max: usize, delay: SignedDuration, now: Timestamp) -> Self {
        Self {
            id: AutoscalerId::new("simulation", format!("pool-{number:04}")),
            label: format!("pool-{number:04}"),
            max: i64::try_from(max).unwrap_or(i64::MAX),
            delay,
            waiting: Vec::new(),
            writer: Turn::default(),
            delta: None,
            book: Book::default(),
            version: 0,
            autoscaler: Turn::default(),
            decided: None,
            due: None,
            gate: None,
            desired: None,
            scaled_out: None,
            deployment: Target::default(),
            set: Target::default(),
            served: Served {
                effective_time: None,
                at: now,
            },
            planner: Turn::default(),
            hold: None,
            planned: Plan::default(),
            owners: Vec::new(),
            fates: BTreeMap::new(),
            ends: VecDeque::new(),
            sequence: 0,
            queued: VecDeque::new(),
            idle: BTreeSet::new(),
        }
    }

    /// What the webhook server makes of the events that wait.
    pub(super) fn fold(&mut self, now: Timestamp) -> Delta {
        let events = std::mem::take(&mut self.waiting);
        self.book.fold_within(events.iter(), DURATION, now, LEDGER_BYTES)
    }

    /// What the autoscaler decides.
    pub(super) fn decide(&mut self, now: Timestamp) -> Decision {
        charge(&mut self.ends, self.book.entries());
        self.ends.retain(|end| end.matters(now));
        let alive = self.owners.iter().filter(|owner| is_alive(owner)).count();
        let ends = self.ends.make_contiguous();
        decide(&Input {
            ledger: self.book.entries(),
            fates: &self.fates,
            ends,
            min: 0,
            max: self.max,
            pull: Pull::Off,
            merge: DemandMerge::Sum,
            target: TargetView {
                replicas: Some(self.deployment.replicas),
                effective_time: self.deployment.effective_time,
                ephemeral: true,
                retain_idle_until: self.deployment.retain,
                accounted: self.deployment.accounted,
                alive: i64::try_from(alive).unwrap_or(i64::MAX),
                served: self.served.effective_time,
            },
            last_desired: self.desired,
            last_scale_out: self.scaled_out,
            delay: self.delay,
            duration: DURATION,
            now,
        })
    }

    /// Takes over a decision that was written. Answers the new number when it is another one.
    pub(super) fn take(&mut self, version: u64, decision: Decision) -> Option<i64> {
        self.desired = Some(decision.desired);
        self.scaled_out = decision.scaled_out_at.or(self.scaled_out);
        let before = self.deployment.replicas;
        if let Some(patch) = decision.target {
            let TargetPatch {
                replicas,
                effective_time,
                retain_idle_until,
                accounted,
            } = patch;
            self.deployment = Target {
                replicas,
                effective_time: effective_time.or(self.deployment.effective_time),
                retain: retain_idle_until,
                accounted,
            };
        }
        // Written under a precondition, as in the manager.
        if let Some(ledger) = decision.ledger.filter(|_| version == self.version) {
            self.book = Book::new(ledger);
            self.version += 1;
        }
        (self.deployment.replicas != before).then_some(self.deployment.replicas)
    }

    /// What the set does.
    pub(super) fn plan(&self, now: Timestamp) -> Plan {
        let unaccounted = self
            .ends
            .iter()
            .rev()
            .take_while(|end| end.sequence > self.set.accounted);
        plan(
            &self.owners,
            &Want {
                replicas: usize::try_from(self.set.replicas).unwrap_or_default(),
                ephemeral: true,
                hash: HASH.to_owned(),
                autoscaled: true,
                effective_time: self.set.effective_time,
                served: Some(self.served),
                unaccounted: unaccounted.map(|end| end.runner.clone()).collect(),
                retain_idle_until: self.set.retain,
                ..Want::default()
            },
            now,
        )
    }

    pub(super) fn served(&mut self, effective_time: Timestamp, now: Timestamp) {
        self.served = Served {
            effective_time: Some(effective_time),
            at: now,
        };
    }

    /// Adds an owner whose pod is not there yet.
    pub(super) fn create(&mut self, runner: usize, now: Timestamp) {
        self.owners.push(OwnerView {
            name: self.name(runner),
            hash: Some(HASH.to_owned()),
            created_at: Some(now),
            ..OwnerView::default()
        });
    }

    /// The name of a runner.
    pub(super) fn name(&self, runner: usize) -> String {
        format!("{}-{runner}", self.label)
    }

    /// The number in a runner's name.
    pub(super) fn number(name: &str) -> usize {
        let number = name.rsplit('-').next().and_then(|number| number.parse().ok());
        number.unwrap_or_default()
    }

    pub(super) fn owner(&mut self, runner: usize) -> Option<&mut OwnerView> {
        let name = self.name(runner);
        self.owners.iter_mut().find(|owner| owner.name == name)
    }

    pub(super) fn pod_created(&mut self, runner: usize, now: Timestamp) {
        let name = self.name(runner);
        let Some(owner) = self.owner(runner) else { return };
        owner.pods = vec![PodView {
            runner_name: name.clone(),
            name,
            runner: RunnerContainer::Waiting,
            scheduled: true,
            ephemeral: true,
            created_at: Some(now),
            ..PodView::default()
        }];
    }

    pub(super) fn registered(&mut self, runner: usize, now: Timestamp) {
        let name = self.name(runner);
        self.fates.insert(name, Fate::Alive);
        self.idle.insert(runner);
        let id = u64::try_from(runner).ok();
        if let Some(pod) = self.owner(runner).and_then(|owner| owner.pods.first_mut()) {
            pod.phase = PodPhase::Running;
            pod.runner = RunnerContainer::Running;
            pod.ready_since = Some(now);
            pod.runner_id = id;
        }
    }

    pub(super) fn ended(&mut self, runner: usize, now: Timestamp) {
        let name = self.name(runner);
        self.fates.insert(name.clone(), Fate::Ended { at: now });
        self.sequence += 1;
        self.ends.push_back(End {
            runner: name,
            at: now,
            sequence: self.sequence,
            is_charged: false,
        });
        if let Some(pod) = self.owner(runner).and_then(|owner| owner.pods.first_mut()) {
            pod.phase = PodPhase::Succeeded;
            pod.runner = RunnerContainer::Terminated { exit_code: 0 };
        }
    }

    /// GitHub removes a runner that has no job; a busy one stays, and is not replaced.
    pub(super) fn unregister(&mut self, runner: usize) -> bool {
        let is_idle = self.idle.remove(&runner);
        if is_idle {
            self.remove(runner);
        } else if let Some(owner) = self.owner(runner) {
            owner.unregistration_requested = true;
        }
        is_idle
    }

    /// The owner and its pod are gone.
    pub(super) fn remove(&mut self, runner: usize) {
        let name = self.name(runner);
        self.owners.retain(|owner| owner.name != name);
        if self.fates.get(&name) == Some(&Fate::Alive) {
            self.fates.insert(name, Fate::Gone);
        }
    }
}

fn is_alive(owner: &OwnerView) -> bool {
    !owner.unregistration_requested && owner.pods.iter().all(|pod| !pod.is_stopped())
}
