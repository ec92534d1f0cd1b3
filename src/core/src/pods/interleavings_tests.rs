//! Never kill a busy runner: scale-downs, template changes, processes that die between two writes, GitHub's refusals, time-outs and lost answers, and jobs
//! that arrive between the check and the removal, in every order that chance finds (90 FEATURE 4, I1).

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::{
    OwnerView, Plan, PodView, Step, Want,
    phase::{PodPhase, RunnerContainer},
    plan,
    unregister::{self, Answer, Next},
};

#[derive(Clone, Debug)]
struct Runner {
    view: PodView,
    hash: u8,
    owner_requested: bool,
    owner_deleted: bool,
    registered: bool,
    /// GitHub has removed it, or it has had its job: it cannot register again.
    off: bool,
    job: bool,
    created: Timestamp,
}

#[derive(Debug)]
struct World {
    now: Timestamp,
    replicas: usize,
    hash: u8,
    waiting_jobs: usize,
    queued: usize,
    done: usize,
    runners: Vec<Runner>,
    names: usize,
    late: Option<Plan>,
    /// For so many steps no process decides anything: it was killed, or nobody leads.
    away: usize,
}

impl World {
    fn new() -> Self {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        Self {
            now,
            replicas: 2,
            hash: 0,
            waiting_jobs: 0,
            queued: 0,
            done: 0,
            runners: Vec::new(),
            names: 0,
            late: None,
            away: 0,
        }
    }

    fn plan(&self) -> Plan {
        let owners: Vec<OwnerView> = self
            .runners
            .iter()
            .map(|runner| OwnerView {
                name: runner.view.name.clone(),
                hash: Some(runner.hash.to_string()),
                created_at: Some(runner.created),
                deleting: runner.owner_deleted,
                unregistration_requested: runner.owner_requested,
                pods: vec![runner.view.clone()],
                ..OwnerView::default()
            })
            .collect();
        let want = Want {
            replicas: self.replicas,
            ephemeral: true,
            hash: self.hash.to_string(),
            unaccounted: BTreeSet::new(),
            ..Want::default()
        };
        plan(&owners, &want, self.now)
    }

    /// Carries out the first `steps` steps: the process may die after any of them.
    fn carry_out(&mut self, plan: Plan, steps: usize) {
        for step in plan.steps.into_iter().take(steps) {
            match step {
                Step::Create { count } => {
                    for _ in 0..count {
                        self.names += 1;
                        let view = PodView {
                            name: format!("r{}", self.names),
                            runner_name: format!("r{}", self.names),
                            ephemeral: true,
                            created_at: Some(self.now),
                            ..PodView::default()
                        };
                        self.runners.push(Runner {
                            view,
                            hash: self.hash,
                            owner_requested: false,
                            owner_deleted: false,
                            registered: false,
                            off: false,
                            job: false,
                            created: self.now,
                        });
                    }
                }
                Step::RecordServed { .. } => {}
                Step::RequestUnregistration { owner, pods } => {
                    for runner in self.runners.iter_mut().filter(|runner| runner.view.name == owner) {
                        runner.owner_requested = true;
                        runner.view.unregistration_requested |= pods.contains(&owner);
                    }
                }
                Step::Delete { owner, .. } => self.delete(&owner),
            }
        }
    }

    /// The owner goes, its pod gets SIGTERM.
    fn delete(&mut self, owner: &str) {
        let now = self.now;
        for runner in self.runners.iter_mut().filter(|runner| runner.view.name == owner) {
            assert!(
                !runner.job,
                "{owner} had a job when its pod was deleted: {runner:#?}"
            );
            runner.owner_deleted = true;
            runner.registered = false;
            runner.view.deletion_at = Some(now + SignedDuration::from_secs(30));
            runner.view.phase = PodPhase::Failed;
        }
    }

    /// One tick of the graceful stop of a runner, with what chance makes of GitHub.
    fn stop(&mut self, index: usize, chance: usize) {
        let Some(runner) = self.runners.get(index) else {
            return;
        };
        if !runner.view.unregistration_requested || runner.view.unregistration_complete {
            return;
        }
        let mut next = unregister::begin(&runner.view, self.now);
        loop {
            // A job may arrive between any two questions.
            if chance.is_multiple_of(3) {
                self.assign(index);
            }
            let Some(runner) = self.runners.get_mut(index) else {
                return;
            };
            next = match next {
                // The process may die before it writes anything.
                Next::Safe(_) if chance % 11 == 5 => return,
                Next::Safe(why) if why.lasts() => {
                    runner.view.unregistration_complete = true;
                    return;
                }
                // The pod was seen as it is: else the precondition fails.
                Next::Safe(_) => {
                    let name = runner.view.name.clone();
                    return self.delete(&name);
                }
                Next::Wait(_) => return,
                Next::LookUp if chance % 5 == 1 => return,
                Next::LookUp => {
                    unregister::after_look_up(&runner.view, runner.registered.then_some(7), self.now)
                }
                Next::Remove { .. } => {
                    let answer = match chance % 7 {
                        // 403, 429, 5xx, a time-out before GitHub did anything.
                        1 | 2 => Answer::Unknown { until: None },
                        _ if runner.job => Answer::Busy,
                        _ if !runner.registered => Answer::Gone,
                        lost => {
                            runner.registered = false;
                            runner.off = true;
                            if lost == 3 {
                                Answer::Unknown { until: None }
                            } else {
                                Answer::Removed
                            }
                        }
                    };
                    unregister::after_removal(&runner.view, answer, self.now)
                }
                Next::Busy { await_completion, .. } => {
                    runner.view.awaiting_completion |= await_completion;
                    runner.view.failure_recorded = true;
                    return;
                }
            };
        }
    }

    fn assign(&mut self, index: usize) {
        let Some(runner) = self.runners.get_mut(index) else {
            return;
        };
        if self.waiting_jobs > 0 && runner.registered && !runner.job && runner.view.phase == PodPhase::Running
        {
            self.waiting_jobs -= 1;
            runner.job = true;
        }
    }

    /// The runner's own life goes on.
    fn live(&mut self, index: usize) {
        let now = self.now;
        let Some(runner) = self.runners.get_mut(index) else {
            return;
        };
        if runner.owner_deleted || runner.view.is_stopped() {
            return;
        }
        if !runner.view.scheduled {
            runner.view.scheduled = true;
        } else if runner.view.phase == PodPhase::Pending {
            runner.view.phase = PodPhase::Running;
            runner.view.runner = RunnerContainer::Running;
            runner.view.ready_since = Some(now);
        } else if runner.job {
            runner.job = false;
            runner.registered = false;
            runner.off = true;
            runner.view.runner = RunnerContainer::Terminated { exit_code: 0 };
            self.done += 1;
        } else if !runner.registered && runner.view.runner_id.is_none() && !runner.off {
            // However late, and whatever is written on its pod.
            runner.registered = true;
        } else if runner.registered
            && runner.view.runner_id.is_none()
            && !runner.view.unregistration_requested
        {
            runner.view.runner_id = Some(7);
        } else {
            self.assign(index);
        }
    }

    fn step(&mut self, action: u8, chance: usize) {
        let index = if self.runners.is_empty() {
            0
        } else {
            chance % self.runners.len()
        };
        let is_away = self.away > 0;
        self.away = self.away.saturating_sub(1);
        match action % 12 {
            3..=5 | 7 | 8 if is_away => {}
            0 => self.replicas = chance % 5,
            1 if chance.is_multiple_of(4) => self.hash ^= 1,
            1 if chance.is_multiple_of(3) => self.away = chance % 60,
            2 if self.queued < 30 => {
                self.queued += 1;
                self.waiting_jobs += 1;
            }
            3 => {
                let plan = self.plan();
                self.carry_out(plan, usize::MAX);
            }
            4 => {
                let plan = self.plan();
                self.carry_out(plan, chance % 4);
            }
            5 => self.late = Some(self.plan()),
            6 => {
                // A decision carried out late, by a process that does not know yet that it lost the lease: deletions are only of what was safe, and stays so.
                if let Some(mut plan) = self.late.take() {
                    plan.steps.retain(|step| !matches!(step, Step::Create { .. }));
                    self.carry_out(plan, usize::MAX);
                }
            }
            7 | 8 => self.stop(index, chance),
            _ => self.live(index),
        }
        self.runners
            .retain(|runner| !(runner.owner_deleted && chance.is_multiple_of(2)));
        self.now += SignedDuration::from_secs(i64::try_from(chance % 30).unwrap());
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(1_000))]
    #[test]
    fn no_interleaving_deletes_a_busy_runner_and_nothing_gets_stuck(
        script in proptest::collection::vec((proptest::num::u8::ANY, 0_usize..10_000), 0..400)
    ) {
        let mut world = World::new();
        for (action, chance) in script {
            world.step(action, chance);
        }
        // Everything goes in the end.
        world.away = 0;
        world.replicas = 0;
        for _ in 0..400 {
            let plan = world.plan();
            world.carry_out(plan, usize::MAX);
            for index in 0..world.runners.len() {
                world.live(index);
                world.stop(index, 4);
            }
            world.runners.retain(|runner| !runner.owner_deleted);
            world.now += SignedDuration::from_secs(20);
        }
        proptest::prop_assert!(world.runners.is_empty(), "{:#?}", world.runners);
    }
}
