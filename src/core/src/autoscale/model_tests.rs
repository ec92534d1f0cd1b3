//! Autoscaler, set and runners together, with every interleaving that chance finds: webhooks in any order, caches that lag, decisions written late.
//! Each job costs one pod at most, none is left waiting, and nothing remains.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use muster_crds::legacy::CapacityReservation;

use super::{
    desired::{Decision, End, Fate, Input, TargetPatch, TargetView, charge, decide},
    reservation::{self, JobAction, JobEvent, JobKey, Kind},
};
use crate::pods::{
    OwnerView, Plan, PodClass, PodView, Served, Step, Want,
    phase::{PodPhase, RunnerContainer},
    plan,
};

#[path = "swaps_tests.rs"]
mod swaps;

const DURATION: SignedDuration = SignedDuration::from_mins(30);
const DELAY: SignedDuration = SignedDuration::from_mins(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Idle,
    Busy(u64),
    Ended,
}

#[derive(Clone, Debug)]
struct Runner {
    name: String,
    state: State,
    requested: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Target {
    replicas: i64,
    effective_time: Option<Timestamp>,
    retain: Option<Timestamp>,
    accounted: u64,
}

#[derive(Debug)]
struct World {
    /// Begins the names of its runners, as the name of a set does.
    name: &'static str,
    delay: SignedDuration,
    now: Timestamp,
    min: i64,
    max: i64,
    ledger: Vec<CapacityReservation>,
    ledger_version: u64,
    desired: Option<i64>,
    scaled_out: Option<Timestamp>,
    deployment: Target,
    set: Target,
    served: Served,
    runners: Vec<Runner>,
    ends: Vec<End>,
    queued: Vec<u64>,
    jobs: u64,
    done: BTreeSet<u64>,
    events: Vec<JobEvent>,
    created: usize,
    late_decision: Option<(u64, Decision)>,
    late_plan: Option<Plan>,
}

fn t(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap()
}

impl World {
    fn new(min: i64, max: i64) -> Self {
        Self {
            name: "r",
            delay: DELAY,
            now: t(0),
            min,
            max,
            ledger: Vec::new(),
            ledger_version: 0,
            desired: None,
            scaled_out: None,
            deployment: Target::default(),
            set: Target::default(),
            served: Served {
                effective_time: None,
                at: t(0),
            },
            runners: Vec::new(),
            ends: Vec::new(),
            queued: Vec::new(),
            jobs: 0,
            done: BTreeSet::new(),
            events: Vec::new(),
            created: 0,
            late_decision: None,
            late_plan: None,
        }
    }

    fn tick(&mut self, ms: i64) {
        self.now += SignedDuration::from_millis(ms);
    }

    fn emit(&mut self, job: u64, action: JobAction, runner: Option<&str>) {
        self.events.push(JobEvent {
            key: JobKey::new(None, 1, job),
            action,
            runner: runner.map(str::to_owned),
            created_at: Some(t(0)),
        });
    }

    fn queue_job(&mut self) {
        self.jobs += 1;
        self.queued.push(self.jobs);
        self.emit(self.jobs, JobAction::Queued, None);
    }

    fn deliver(&mut self, pick: usize, keep: bool) {
        if self.events.is_empty() {
            return;
        }
        let index = pick % self.events.len();
        let event = if keep {
            self.events[index].clone()
        } else {
            self.events.swap_remove(index)
        };
        let next = reservation::apply(&self.ledger, &event, DURATION, self.now);
        if next != self.ledger {
            self.ledger = next;
            self.ledger_version += 1;
        }
    }

    /// The runner's process ends: it has had its job.
    fn end(&mut self, index: usize) {
        self.runners[index].state = State::Ended;
        let sequence = u64::try_from(self.ends.len()).unwrap() + 1;
        self.ends.push(End {
            runner: self.runners[index].name.clone(),
            at: self.now,
            sequence,
            is_charged: false,
        });
    }

    /// One runner makes a step: it starts, takes any queued job, or finishes.
    fn run(&mut self, pick: usize) {
        if self.runners.is_empty() {
            return;
        }
        let index = pick % self.runners.len();
        let name = self.runners[index].name.clone();
        match self.runners[index].state {
            State::Pending => self.runners[index].state = State::Idle,
            State::Idle if !self.queued.is_empty() => {
                let job = self.queued.swap_remove(pick % self.queued.len());
                self.runners[index].state = State::Busy(job);
                self.emit(job, JobAction::InProgress, Some(&name));
            }
            State::Busy(job) => {
                self.done.insert(job);
                self.end(index);
                self.emit(job, JobAction::Completed, Some(&name));
            }
            State::Idle | State::Ended => {}
        }
    }

    fn alive(&self) -> usize {
        self.runners
            .iter()
            .filter(|runner| runner.state != State::Ended && !runner.requested)
            .count()
    }

    fn decide(&self) -> Decision {
        let mut ends = self.ends.clone();
        charge(&mut ends, &self.ledger);
        let mut fates = BTreeMap::new();
        for entry in &self.ledger {
            let Kind::Job {
                runner: Some(name), ..
            } = reservation::classify(entry)
            else {
                continue;
            };
            let fate = match self.runners.iter().find(|runner| runner.name == name) {
                Some(runner) if runner.state == State::Ended => Fate::Ended { at: self.now },
                Some(_) => Fate::Alive,
                None => match self.ends.iter().find(|end| end.runner == name) {
                    Some(end) => Fate::Ended { at: end.at },
                    None => Fate::Gone,
                },
            };
            fates.insert(name.to_owned(), fate);
        }
        decide(&Input {
            ledger: &self.ledger,
            fates: &fates,
            ends: &ends,
            min: self.min,
            max: self.max,
            pull: super::demand::Pull::Off,
            merge: super::demand::DemandMerge::Sum,
            target: TargetView {
                replicas: Some(self.deployment.replicas),
                effective_time: self.deployment.effective_time,
                ephemeral: true,
                retain_idle_until: self.deployment.retain,
                accounted: self.deployment.accounted,
                alive: i64::try_from(self.alive()).unwrap(),
                served: self.served.effective_time,
            },
            last_desired: self.desired,
            last_scale_out: self.scaled_out,
            delay: self.delay,
            duration: DURATION,
            now: self.now,
        })
    }

    fn write_decision(&mut self, version: u64, decision: Decision) {
        self.desired = Some(decision.desired);
        self.scaled_out = decision.scaled_out_at.or(self.scaled_out);
        if let Some(TargetPatch {
            replicas,
            effective_time,
            retain_idle_until,
            accounted,
        }) = decision.target
        {
            self.deployment.replicas = replicas;
            self.deployment.effective_time = effective_time.or(self.deployment.effective_time);
            self.deployment.retain = retain_idle_until;
            self.deployment.accounted = accounted;
        }
        // The ledger is written under a precondition.
        if let Some(ledger) = decision.ledger.filter(|_| version == self.ledger_version) {
            self.ledger = ledger;
            self.ledger_version += 1;
        }
    }

    fn autoscaler(&mut self) {
        self.late_decision = None;
        let decision = self.decide();
        self.write_decision(self.ledger_version, decision);
    }

    fn deployment(&mut self) {
        self.set = self.deployment.clone();
    }

    fn plan(&self) -> Plan {
        let owners: Vec<OwnerView> = self
            .runners
            .iter()
            .map(|runner| {
                let (phase, container) = match runner.state {
                    State::Pending => (PodPhase::Pending, RunnerContainer::Waiting),
                    State::Idle | State::Busy(_) => (PodPhase::Running, RunnerContainer::Running),
                    State::Ended => (PodPhase::Running, RunnerContainer::Terminated { exit_code: 0 }),
                };
                let pod = PodView {
                    name: runner.name.clone(),
                    phase,
                    runner: container,
                    scheduled: true,
                    ephemeral: true,
                    unregistration_requested: runner.requested,
                    ..PodView::default()
                };
                OwnerView {
                    name: runner.name.clone(),
                    hash: Some("h".into()),
                    unregistration_requested: runner.requested,
                    pods: vec![pod],
                    ..OwnerView::default()
                }
            })
            .collect();
        let unaccounted = self
            .ends
            .iter()
            .filter(|end| end.sequence > self.set.accounted)
            .map(|end| end.runner.clone());
        plan(
            &owners,
            &Want {
                replicas: usize::try_from(self.set.replicas).unwrap(),
                ephemeral: true,
                hash: "h".into(),
                autoscaled: true,
                effective_time: self.set.effective_time,
                served: Some(self.served),
                unaccounted: unaccounted.collect(),
                retain_idle_until: self.set.retain,
                backoff_until: None,
                probing: false,
                in_place: false,
            },
            self.now,
        )
    }

    fn carry_out(&mut self, plan: Plan) {
        for step in plan.steps {
            match step {
                Step::Create { count } => {
                    for _ in 0..count {
                        self.created += 1;
                        let name = format!("{}{}", self.name, self.created);
                        self.runners.push(Runner {
                            name,
                            state: State::Pending,
                            requested: false,
                        });
                    }
                }
                Step::RecordServed { effective_time } => {
                    self.served = Served {
                        effective_time: Some(effective_time),
                        at: self.now,
                    };
                }
                Step::RequestUnregistration { owner, .. } => {
                    // GitHub removes an idle runner and refuses a busy one.
                    for runner in self.runners.iter_mut().filter(|runner| runner.name == owner) {
                        runner.requested = true;
                    }
                    self.runners
                        .retain(|runner| runner.name != owner || runner.state != State::Idle);
                }
                Step::Delete { owner, .. } => {
                    let busy = |runner: &Runner| matches!(runner.state, State::Busy(_));
                    assert!(
                        !self
                            .runners
                            .iter()
                            .any(|runner| runner.name == owner && busy(runner)),
                        "busy runner deleted"
                    );
                    self.runners.retain(|runner| runner.name != owner);
                }
            }
        }
    }

    /// The set works one plan at a time; the plan may be carried out a while after it was made.
    fn set(&mut self) {
        self.late_plan = None;
        let plan = self.plan();
        self.carry_out(plan);
    }

    fn step(&mut self, action: u8, pick: usize, jobs: u64) {
        match action % 18 {
            0 | 1 if self.jobs < jobs => self.queue_job(),
            0..=3 => self.deliver(pick, false),
            4 => self.deliver(pick, true),
            5 | 6 => self.autoscaler(),
            7 => self.late_decision = Some((self.ledger_version, self.decide())),
            8 => {
                if let Some((version, decision)) = self.late_decision.take() {
                    self.write_decision(version, decision);
                }
            }
            9 => self.deployment(),
            10 => self.set(),
            11 => self.late_plan = Some(self.plan()),
            12 | 13 => {
                if let Some(plan) = self.late_plan.take() {
                    self.carry_out(plan);
                }
            }
            _ => self.run(pick),
        }
        self.tick(i64::try_from(pick % 40).unwrap());
    }

    /// Everything that is under way arrives; nothing may need more than a moment.
    fn settle(&mut self) {
        for round in 0..4_000_usize {
            while !self.events.is_empty() {
                self.deliver(round, false);
            }
            self.autoscaler();
            self.deployment();
            self.set();
            for index in 0..self.runners.len() {
                self.run(index);
            }
            self.tick(1);
            if self.queued.is_empty()
                && self.events.is_empty()
                && !self
                    .runners
                    .iter()
                    .any(|r| matches!(r.state, State::Busy(_) | State::Ended))
            {
                break;
            }
        }
        for _ in 0..4 {
            self.autoscaler();
            self.deployment();
            self.set();
            self.tick(1);
        }
    }

    fn check(&self, jobs: u64) {
        assert_eq!(
            u64::try_from(self.done.len()).unwrap(),
            self.jobs,
            "every job ran: {self:#?}"
        );
        assert!(self.queued.is_empty(), "nothing waits: {self:#?}");
        let spare = usize::try_from(self.min).unwrap();
        assert!(
            self.created <= usize::try_from(jobs).unwrap() + spare,
            "{} pods for {jobs} jobs",
            self.created
        );
        assert_eq!(reservation::demand(&self.ledger, self.now), 0);
        assert_eq!(self.alive(), spare, "only the minimum remains: {self:#?}");
        assert!(self.plan().steps.is_empty());
        let classes = |class| {
            self.runners
                .iter()
                .filter(|_| class == PodClass::Completed)
                .count()
        };
        assert_eq!(classes(PodClass::Running), 0);
    }
}

proptest::proptest! {
    #[test]
    fn a_job_costs_one_pod_and_none_is_left_waiting(
        script in proptest::collection::vec((proptest::num::u8::ANY, 0_usize..1_000), 0..300),
        min in 0_i64..3, max in 1_i64..30, sequential: bool,
    ) {
        let min = min.min(max);
        let mut world = World::new(min, max);
        let jobs = 24;
        if sequential {
            for (action, pick) in script {
                // One job at a time; the next is queued when the last is done.
                let open = world.jobs > u64::try_from(world.done.len()).unwrap();
                world.step(if open && action % 18 < 2 { 2 } else { action }, pick, jobs);
            }
        } else {
            for (action, pick) in script {
                world.step(action, pick, jobs);
            }
        }
        world.settle();
        let total = world.jobs;
        world.check(total);
    }
}
