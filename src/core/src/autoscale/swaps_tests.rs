//! GitHub gives jobs to other runners than those that were created for them: within a pool, and from one pool to another whose runners match too. No busy
//! runner is deleted, no job is stranded, and a pod more is made for a job that another pool's runner took at most.

use std::collections::BTreeSet;

use jiff::SignedDuration;

use super::{DELAY, DURATION, JobAction, JobEvent, JobKey, State, World, reservation, t};

/// Jobs of a schedule at most.
const JOBS: u64 = 16;

/// A pool whose runners have the labels `a` and `b`, one with `a` alone, and the GitHub that both share. A job asks for `a`, or for both.
#[derive(Debug)]
struct Swaps {
    pools: [World; 2],
    /// Queued jobs: id, and whether they ask for `b` too.
    queued: Vec<(u64, bool)>,
    events: Vec<JobEvent>,
    asked_b: BTreeSet<u64>,
    jobs: u64,
    done: BTreeSet<u64>,
    /// Jobs that a runner of the other pool took.
    swapped: usize,
}

const BOTH: usize = 0;
const ONE: usize = 1;

impl Swaps {
    fn new(mins: [i64; 2], max: i64, delay: SignedDuration) -> Self {
        let pool = |name, min: i64| World {
            name,
            delay,
            ..World::new(min.min(max), max)
        };
        Self {
            pools: [pool("both-", mins[BOTH]), pool("one-", mins[ONE])],
            queued: Vec::new(),
            events: Vec::new(),
            asked_b: BTreeSet::new(),
            jobs: 0,
            done: BTreeSet::new(),
            swapped: 0,
        }
    }

    fn queue_job(&mut self, needs_both: bool) {
        self.jobs += 1;
        self.queued.push((self.jobs, needs_both));
        if needs_both {
            self.asked_b.insert(self.jobs);
        }
        self.emit(self.jobs, JobAction::Queued, None);
    }

    fn emit(&mut self, job: u64, action: JobAction, runner: Option<&str>) {
        self.events.push(JobEvent {
            key: JobKey::new(None, 1, job),
            action,
            runner: runner.map(str::to_owned),
            created_at: Some(t(0)),
        });
    }

    /// To every ledger that holds the job, to the pool that the runner's name begins with, and for a job that nobody holds to the pool with the fewest labels
    /// that it did not ask for (spec 20, "routing").
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
        let holds = |pool: &World| {
            let book = reservation::Book::new(pool.ledger.clone());
            book.holds(&event.key)
        };
        let runs = |pool: &World| {
            event
                .runner
                .as_ref()
                .is_some_and(|name| name.starts_with(pool.name))
        };
        let mut concerned: Vec<usize> = (0..2)
            .filter(|index| holds(&self.pools[*index]) || runs(&self.pools[*index]))
            .collect();
        if concerned.is_empty() {
            let needs_both = self
                .asked_b
                .iter()
                .any(|job| JobKey::new(None, 1, *job) == event.key);
            concerned.push(if needs_both { BOTH } else { ONE });
        }
        for index in concerned {
            let pool = &mut self.pools[index];
            let next = reservation::apply(&pool.ledger, &event, DURATION, pool.now);
            if next != pool.ledger {
                pool.ledger = next;
                pool.ledger_version += 1;
            }
        }
    }

    /// A runner starts, takes any job that it matches, or finishes.
    fn run(&mut self, pool: usize, pick: usize) {
        let runners = self.pools[pool].runners.len();
        if runners == 0 {
            return;
        }
        let index = pick % runners;
        let name = self.pools[pool].runners[index].name.clone();
        match self.pools[pool].runners[index].state {
            State::Pending => self.pools[pool].runners[index].state = State::Idle,
            State::Idle => {
                let matching: Vec<usize> = (0..self.queued.len())
                    .filter(|place| pool == BOTH || !self.queued[*place].1)
                    .collect();
                if matching.is_empty() {
                    return;
                }
                let (job, needs_both) = self.queued.swap_remove(matching[pick % matching.len()]);
                self.swapped += usize::from(pool == BOTH && !needs_both);
                self.pools[pool].runners[index].state = State::Busy(job);
                self.emit(job, JobAction::InProgress, Some(&name));
            }
            State::Busy(job) => {
                self.pools[pool].end(index);
                self.done.insert(job);
                self.emit(job, JobAction::Completed, Some(&name));
            }
            State::Ended => {}
        }
    }

    fn tick(&mut self, by: SignedDuration) {
        for pool in &mut self.pools {
            pool.now += by;
        }
    }

    fn step(&mut self, action: u8, pick: usize) {
        let which = pick % 2;
        match action % 16 {
            0 | 1 if self.jobs < JOBS => self.queue_job(pick.is_multiple_of(3)),
            0..=3 => self.deliver(pick / 2, false),
            4 => self.deliver(pick / 2, true),
            5 => self.pools[which].autoscaler(),
            6 => {
                let pool = &mut self.pools[which];
                pool.late_decision = Some((pool.ledger_version, pool.decide()));
            }
            7 => {
                let pool = &mut self.pools[which];
                if let Some((version, decision)) = pool.late_decision.take() {
                    pool.write_decision(version, decision);
                }
            }
            8 => self.pools[which].deployment(),
            9 => self.pools[which].set(),
            10 => self.pools[which].late_plan = Some(self.pools[which].plan()),
            11 => {
                let pool = &mut self.pools[which];
                if let Some(plan) = pool.late_plan.take() {
                    pool.carry_out(plan);
                }
            }
            _ => self.run(which, pick / 2),
        }
        self.tick(SignedDuration::from_millis(i64::try_from(pick % 40).unwrap()));
    }

    fn round(&mut self, round: usize) {
        while !self.events.is_empty() {
            self.deliver(round, false);
        }
        for pool in 0..2 {
            self.pools[pool].autoscaler();
            self.pools[pool].deployment();
            self.pools[pool].set();
            for index in 0..self.pools[pool].runners.len() {
                self.run(pool, index);
            }
        }
        self.tick(SignedDuration::from_millis(1));
    }

    fn is_working(&self) -> bool {
        let mut runners = self.pools.iter().flat_map(|pool| &pool.runners);
        runners.any(|runner| matches!(runner.state, State::Busy(_) | State::Ended))
    }

    /// What is under way arrives. No job may have to wait for anything but a runner's start: a few milliseconds a round.
    fn settle(&mut self) {
        for round in 0..400 {
            self.round(round);
            if self.queued.is_empty() && self.events.is_empty() && !self.is_working() {
                break;
            }
        }
        assert!(self.queued.is_empty(), "stranded: {:?} in {self:#?}", self.queued);
        assert_eq!(u64::try_from(self.done.len()).unwrap(), self.jobs);
        // What was kept for the next job goes.
        self.tick(DELAY + SignedDuration::from_secs(1));
        for round in 0..5 {
            self.round(round);
        }
    }
}

proptest::proptest! {
    #[test]
    fn swapped_jobs_strand_nobody_and_delete_no_busy_runner(
        script in proptest::collection::vec((proptest::num::u8::ANY, 0_usize..1_000), 0..250),
        mins in [0_i64..3, 0_i64..3], max in 1_i64..12, keeps: bool,
    ) {
        let mut swaps = Swaps::new(mins, max, if keeps { DELAY } else { SignedDuration::ZERO });
        for (action, pick) in script {
            swaps.step(action, pick);
        }
        swaps.settle();
        let created: usize = swaps.pools.iter().map(|pool| pool.created).sum();
        let spare: i64 = swaps.pools.iter().map(|pool| pool.min).sum();
        let jobs = usize::try_from(swaps.jobs).unwrap();
        proptest::prop_assert!(created <= jobs + swaps.swapped + usize::try_from(spare).unwrap(), "{created} pods for {jobs} jobs, {} swapped", swaps.swapped);
        for pool in &swaps.pools {
            proptest::prop_assert_eq!(reservation::demand(&pool.ledger, pool.now), 0);
            proptest::prop_assert_eq!(i64::try_from(pool.alive()).unwrap(), pool.min, "{:#?}", pool);
        }
    }
}
