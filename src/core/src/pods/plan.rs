//! Owners + want + now → what to create, unregister and delete, and why nothing more happens (spec 02 §7, 20 "demand decides", 91 B3).
//!
//! One pass produces all safe steps. Supply is what is alive, and the ends that the wanted number does not know of yet: a runner that finished
//! its job must not be replaced before the autoscaler has taken that job out of the number (else 20 jobs cost 40 pods).

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::{OwnerView, PodClass, rollout};

/// For this long at most a finished ephemeral runner is not replaced while its autoscaler says nothing new (spec 02 §21).
pub const RECREATION_DELAY: SignedDuration = SignedDuration::from_mins(10);

/// An owner without a pod for this long has none that our cache does not show yet.
const STARTING: SignedDuration = SignedDuration::from_secs(30);

/// The newest EffectiveTime under which a set was seen complete, recorded before an ended owner is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// That EffectiveTime; `None` when the set is ours and has served none yet.
    pub effective_time: Option<Timestamp>,
    /// When that was recorded, by the clock of the recording process.
    pub at: Timestamp,
}

/// What [`Served::read`] reads on a set of ours that has served nothing yet.
pub const SERVED_NONE: &str = "none";

impl Served {
    /// Reads the value of annotation `muster.dev/served`: `none`, or `<EffectiveTime>@<time of the record>`.
    pub fn read(text: &str) -> Option<Self> {
        if text == SERVED_NONE {
            return Some(Self {
                effective_time: None,
                at: Timestamp::UNIX_EPOCH,
            });
        }
        let (effective_time, at) = text.split_once('@')?;
        Some(Self {
            effective_time: Some(effective_time.parse().ok()?),
            at: at.parse().ok()?,
        })
    }
}

/// What the user or the autoscaler asks of a set, and what limits it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Want {
    /// Wanted number of runners.
    pub replicas: usize,
    /// Runners take one job each.
    pub ephemeral: bool,
    /// Template hash of owners that are up to date.
    pub hash: String,
    /// An autoscaler refers to the target; without one the EffectiveTime means nothing.
    pub autoscaled: bool,
    /// The target's EffectiveTime.
    pub effective_time: Option<Timestamp>,
    /// What was served; `None` when there is no record, as on an object of upstream's.
    pub served: Option<Served>,
    /// Names of runners that have ended and that `replicas` does not account for yet.
    pub unaccounted: BTreeSet<String>,
    /// Surplus idle runners are kept until then (the autoscaler's scale-down delay).
    pub retain_idle_until: Option<Timestamp>,
    /// Runners of this set failed lately: none is created before then.
    pub backoff_until: Option<Timestamp>,
    /// Runners of this set fail when they start: one at a time shows whether that is over.
    pub probing: bool,
    /// A runner of a former template makes room for its successor instead of standing beside it, since that one takes over its volumes.
    pub in_place: bool,
}

/// Why an owner is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// All its runners are off GitHub.
    Unregistered,
    /// All its pods have stopped.
    AllPodsCompleted,
}

/// One effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Create so many owners with the current template.
    Create {
        /// How many.
        count: usize,
    },
    /// Write down that this EffectiveTime was served.
    RecordServed {
        /// The target's EffectiveTime.
        effective_time: Timestamp,
    },
    /// Ask for the unregistration of these pods, then of their owner.
    RequestUnregistration {
        /// Name of the owner.
        owner: String,
        /// Names of its pods that have not been asked yet.
        pods: Vec<String>,
    },
    /// Delete the owner.
    Delete {
        /// Name of the owner.
        owner: String,
        /// UID, as a precondition.
        uid: String,
        /// Reason.
        why: Why,
    },
}

/// Why nothing more happens this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Finished runners are not replaced until the autoscaler asks again.
    EffectiveTimeServed {
        /// When they are replaced all the same.
        retry_at: Timestamp,
    },
    /// More idle runners than wanted are kept for the next job.
    IdleRetained {
        /// Until when.
        until: Timestamp,
    },
    /// Runners of this set failed; the next attempt waits.
    Backoff {
        /// Until when.
        until: Timestamp,
    },
    /// Surplus runners are starting; they are retired once they run.
    SurplusStarting,
}

impl Hold {
    /// When this hold ends by itself.
    pub fn ends_at(&self) -> Option<Timestamp> {
        match *self {
            Self::EffectiveTimeServed { retry_at: at }
            | Self::IdleRetained { until: at }
            | Self::Backoff { until: at } => Some(at),
            Self::SurplusStarting => None,
        }
    }
}

/// The decision about one set of runners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Effects, in the order in which they must happen.
    pub steps: Vec<Step>,
    /// Why nothing more happens.
    pub hold: Option<Hold>,
    /// Owners of the current template that are alive and were not asked to go.
    pub alive: usize,
    /// Pods of the current template that run, including those asked to go (the set's ready replicas).
    pub running: usize,
    /// Pods of the current template (the set's replicas).
    pub total: usize,
}

/// An owner that counts as supply, with what decides who is retired first.
struct Alive<'a> {
    owner: &'a OwnerView,
    running: usize,
}

/// Pods of the template with this hash, and how many of them run: what the set's status counts.
pub fn counts(owners: &[OwnerView], hash: &str, now: Timestamp) -> (usize, usize) {
    let current = owners
        .iter()
        .filter(|owner| !owner.deleting && owner.hash.as_deref() == Some(hash));
    current.fold((0, 0), |(total, running), owner| {
        (
            total + owner.pods.len(),
            running + owner.count(PodClass::Running, now),
        )
    })
}

/// Decides about the owners of one set. `owners` may hold every owner of the set, in any order.
///
/// Idempotent: applied to its own result it asks for nothing more. It never deletes an owner that has a running pod: that one is asked to unregister, and GitHub
/// decides whether it is busy.
pub fn plan(owners: &[OwnerView], want: &Want, now: Timestamp) -> Plan {
    let mut deletes = Vec::new();
    let mut requests = Vec::new();
    let mut alive = Vec::new();
    let mut outdated = Vec::new();
    let mut last_sync: Option<Timestamp> = None;
    let (total, running) = counts(owners, &want.hash, now);
    let mut result = Plan {
        running,
        total,
        ..Plan::default()
    };
    let mut ended = false;
    let mut leaving = 0_usize;

    for owner in owners.iter().filter(|owner| !owner.deleting) {
        let current = owner.hash.as_deref() == Some(want.hash.as_str());
        let delete = |why| Step::Delete {
            owner: owner.name.clone(),
            uid: owner.uid.clone(),
            why,
        };
        if owner.unregistration_complete || (owner.unregistration_requested && owner.is_unregistered()) {
            deletes.push(delete(Why::Unregistered));
            continue;
        }
        if owner.is_completed(now) {
            ended |= owner.pods.iter().any(super::PodView::has_ended);
            deletes.push(delete(Why::AllPodsCompleted));
            continue;
        }
        if current {
            last_sync = last_sync.max(owner.sync_time);
        }
        if owner.unregistration_requested {
            // The pods may have been asked before their owner, or a pod may be new: both get the mark.
            requests.extend(request(owner, false));
            leaving += usize::from(!current);
        } else if !current {
            outdated.push(owner);
        } else if !owner.pods.is_empty() && owner.pods.iter().all(|pod| is_overdue(pod.class(now))) {
            requests.extend(request(owner, true));
        } else {
            alive.push(Alive {
                owner,
                running: owner.count(PodClass::Running, now),
            });
        }
    }

    result.alive = alive.len();
    let counts_ends = want.autoscaled && want.ephemeral;
    let standing = if want.in_place {
        outdated.len() + leaving
    } else {
        0
    };
    let supply = alive.len() + standing + if counts_ends { want.unaccounted.len() } else { 0 };

    if supply < want.replicas {
        match creation_hold(want, last_sync, now) {
            Some(hold) => result.hold = Some(hold),
            None if want.probing => {
                // A runner that has not shown yet that it works is the probe.
                if !alive
                    .iter()
                    .any(|alive| alive.owner.pods.is_empty() || alive.owner.pods.iter().any(is_unproven))
                {
                    result.steps.push(Step::Create { count: 1 });
                }
            }
            None => result.steps.push(Step::Create {
                count: want.replicas - supply,
            }),
        }
    }
    if counts_ends && ended && supply >= want.replicas {
        result.steps.extend(record_served(want));
    }
    result.steps.append(&mut deletes);

    if want.in_place {
        let surplus = (alive.len() + outdated.len()).saturating_sub(want.replicas);
        let retired = rollout::retire(&outdated, leaving, want.replicas, surplus, now);
        requests.extend(retired.into_iter().filter_map(|owner| request(owner, true)));
    }
    if alive.len() > want.replicas {
        let surplus = alive.len() - want.replicas;
        match want.retain_idle_until.filter(|until| counts_ends && *until > now) {
            Some(until) => result.hold = Some(Hold::IdleRetained { until }),
            None => {
                let victims = victims(alive, surplus, now);
                if victims.len() < surplus {
                    result.hold = Some(Hold::SurplusStarting);
                }
                requests.extend(victims.into_iter().filter_map(|owner| request(owner, true)));
            }
        }
    } else if alive.len() == want.replicas && !want.in_place {
        // Enough of the new template: those of another one may go, and busy ones finish first.
        requests.extend(outdated.into_iter().filter_map(|owner| request(owner, true)));
    }
    result.steps.append(&mut requests);
    result
}

/// What is served now, where that is news.
fn record_served(want: &Want) -> Option<Step> {
    let effective_time = want.effective_time?;
    let served = want.served.and_then(|served| served.effective_time);
    let newer = served.is_none_or(|served| served < effective_time);
    newer.then_some(Step::RecordServed { effective_time })
}

fn creation_hold(want: &Want, last_sync: Option<Timestamp>, now: Timestamp) -> Option<Hold> {
    if let Some(until) = want.backoff_until.filter(|until| *until > now) {
        return Some(Hold::Backoff { until });
    }
    let effective_time = want
        .effective_time
        .filter(|_| want.autoscaled && want.ephemeral)?;
    let since = match want.served {
        Some(Served {
            effective_time: Some(served),
            at,
        }) if effective_time <= served => at,
        Some(_) => return None,
        // No record: the set was upstream's. Its rule: created since the autoscaler last asked.
        None => last_sync.filter(|sync| *sync > effective_time)?,
    };
    let retry_at = since.checked_add(RECREATION_DELAY).unwrap_or(Timestamp::MAX);
    (now < retry_at).then_some(Hold::EffectiveTimeServed { retry_at })
}

/// A pod that will not become a runner any more.
const fn is_overdue(class: PodClass) -> bool {
    matches!(class, PodClass::RegistrationTimeout | PodClass::StartTimeout)
}

/// A pod that has neither registered nor taken a job.
fn is_unproven(pod: &super::PodView) -> bool {
    pod.runner_id.is_none() && !pod.busy
}

/// The owners to retire: first those whose pod holds no job for sure, then idle ones, then the oldest (upstream: the oldest, busy or not). A scheduled pod that is still pending is left alone:
/// it may start and take a job while it is being retired.
fn victims(mut alive: Vec<Alive<'_>>, surplus: usize, now: Timestamp) -> Vec<&OwnerView> {
    let holds_no_job = |owner: &OwnerView| {
        if owner.pods.is_empty() {
            // Its pod may have been created a moment ago.
            return owner
                .created_at
                .is_some_and(|created| now.duration_since(created) > STARTING);
        }
        owner
            .pods
            .iter()
            .all(|pod| pod.class(now) == PodClass::Pending && !pod.scheduled)
    };
    alive.retain(|alive| alive.running > 0 || holds_no_job(alive.owner));
    let busy = |owner: &OwnerView| owner.pods.iter().any(|pod| pod.busy);
    alive.sort_by_key(|alive| {
        (
            alive.running > 0,
            busy(alive.owner),
            alive.owner.created_at,
            alive.owner.name.clone(),
        )
    });
    alive.into_iter().take(surplus).map(|alive| alive.owner).collect()
}

/// The request step for an owner, unless everything was asked already. `mark_owner` says whether the owner itself lacks the mark.
fn request(owner: &OwnerView, mark_owner: bool) -> Option<Step> {
    let pods: Vec<String> = owner
        .pods
        .iter()
        .filter(|pod| !pod.unregistration_requested && pod.deletion_at.is_none())
        .map(|pod| pod.name.clone())
        .collect();
    (mark_owner || !pods.is_empty()).then(|| Step::RequestUnregistration {
        owner: owner.name.clone(),
        pods,
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            PodView,
            phase::{PodPhase, RunnerContainer},
        },
        *,
    };

    fn t(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn owner(name: &str) -> OwnerView {
        OwnerView {
            name: name.into(),
            hash: Some("h".into()),
            created_at: Some(t(0)),
            synced: true,
            ..OwnerView::default()
        }
    }

    impl OwnerView {
        fn pod(mut self, phase: PodPhase, runner: RunnerContainer) -> Self {
            let name = self.name.clone();
            self.pods.push(PodView {
                name,
                phase,
                runner,
                scheduled: true,
                ..PodView::default()
            });
            self
        }
        fn running(self) -> Self {
            self.pod(PodPhase::Running, RunnerContainer::Running)
        }
        fn pending(self) -> Self {
            self.pod(PodPhase::Pending, RunnerContainer::Waiting)
        }
        fn ended(self) -> Self {
            self.pod(PodPhase::Running, RunnerContainer::Terminated { exit_code: 0 })
        }
        fn failed(self) -> Self {
            self.pod(PodPhase::Failed, RunnerContainer::Terminated { exit_code: 1 })
        }
        fn created(mut self, at: Timestamp) -> Self {
            self.created_at = Some(at);
            self
        }
        fn hashed(mut self, hash: &str) -> Self {
            self.hash = Some(hash.into());
            self
        }
        fn requested(mut self) -> Self {
            self.unregistration_requested = true;
            for pod in &mut self.pods {
                pod.unregistration_requested = true;
            }
            self
        }
    }

    fn want(replicas: usize) -> Want {
        Want {
            replicas,
            ephemeral: true,
            hash: "h".into(),
            ..Want::default()
        }
    }

    fn scaled(replicas: usize, effective: Timestamp) -> Want {
        Want {
            autoscaled: true,
            effective_time: Some(effective),
            served: Some(Served {
                effective_time: None,
                at: t(0),
            }),
            ..want(replicas)
        }
    }

    fn delete(owner: &str, why: Why) -> Step {
        Step::Delete {
            owner: owner.into(),
            uid: String::new(),
            why,
        }
    }

    #[test]
    fn missing_runners_are_created_in_one_pass() {
        assert_eq!(
            plan(&[owner("a").pending()], &want(5), t(0)).steps,
            [Step::Create { count: 4 }]
        );
    }

    #[test]
    fn an_owner_without_a_pod_counts_as_starting() {
        assert_eq!(plan(&[owner("a")], &want(1), t(0)).steps, []);
    }

    #[test]
    fn a_finished_runner_of_a_fixed_set_is_replaced_at_once() {
        let plan = plan(&[owner("a").ended(), owner("b").running()], &want(2), t(0));
        assert_eq!(
            plan.steps,
            [Step::Create { count: 1 }, delete("a", Why::AllPodsCompleted)]
        );
    }

    #[test]
    fn a_finished_runner_is_not_replaced_before_the_autoscaler_has_accounted_for_it() {
        let mut want = scaled(2, t(50));
        want.unaccounted = BTreeSet::from(["a".to_owned()]);
        let first = plan(&[owner("a").ended(), owner("b").running()], &want, t(60));
        assert_eq!(
            first.steps,
            [
                Step::RecordServed {
                    effective_time: t(50)
                },
                delete("a", Why::AllPodsCompleted)
            ],
            "the record comes before the evidence goes"
        );
        // The owner is gone, its end still unaccounted for: no creation, also under a newer EffectiveTime with the same ignorance.
        want.served = Some(Served {
            effective_time: Some(t(50)),
            at: t(60),
        });
        want.effective_time = Some(t(61));
        assert_eq!(plan(&[owner("b").running()], &want, t(62)).steps, []);
        // Accounted for, and still two wanted: a backlog, refilled at once.
        want.unaccounted.clear();
        assert_eq!(
            plan(&[owner("b").running()], &want, t(63)).steps,
            [Step::Create { count: 1 }]
        );
    }

    #[test]
    fn after_a_restart_the_served_record_holds_for_ten_minutes() {
        let mut want = scaled(1, t(50));
        want.served = Some(Served {
            effective_time: Some(t(50)),
            at: t(60),
        });
        assert_eq!(
            plan(&[], &want, t(600)).hold,
            Some(Hold::EffectiveTimeServed { retry_at: t(660) })
        );
        assert_eq!(plan(&[], &want, t(660)).steps, [Step::Create { count: 1 }]);
        want.autoscaled = false;
        assert_eq!(
            plan(&[], &want, t(600)).steps,
            [Step::Create { count: 1 }],
            "no autoscaler: ignored"
        );
    }

    #[test]
    fn taken_over_from_upstream_its_sync_time_decides() {
        let mut want = scaled(2, t(50));
        want.served = None;
        let mut live = owner("a").running();
        live.sync_time = Some(t(51));
        assert_eq!(
            plan(std::slice::from_ref(&live), &want, t(60)).hold,
            Some(Hold::EffectiveTimeServed { retry_at: t(651) })
        );
        live.sync_time = Some(t(50));
        assert_eq!(plan(&[live], &want, t(60)).steps, [Step::Create { count: 1 }]);
    }

    #[test]
    fn a_failed_runner_is_no_supply_and_is_replaced_under_back_off() {
        let mut want = scaled(1, t(50));
        let steps = plan(&[owner("a").failed()], &want, t(60)).steps;
        assert_eq!(
            steps,
            [Step::Create { count: 1 }, delete("a", Why::AllPodsCompleted)]
        );
        want.backoff_until = Some(t(70));
        assert_eq!(plan(&[], &want, t(60)).hold, Some(Hold::Backoff { until: t(70) }));
    }

    #[test]
    fn the_oldest_running_go_first_and_never_by_deletion() {
        let owners = [
            owner("new").running().created(t(9)),
            owner("old").running().created(t(1)),
            owner("mid").running().created(t(5)),
        ];
        assert_eq!(
            plan(&owners, &want(1), t(20)).steps,
            [
                Step::RequestUnregistration {
                    owner: "old".into(),
                    pods: vec!["old".into()]
                },
                Step::RequestUnregistration {
                    owner: "mid".into(),
                    pods: vec!["mid".into()]
                },
            ]
        );
    }

    #[test]
    fn a_starting_surplus_runner_is_left_until_it_runs() {
        let plan_of = |owners: &[OwnerView]| plan(owners, &want(0), t(20));
        let starting = plan_of(&[owner("a").pending()]);
        assert_eq!(
            (starting.steps.as_slice(), starting.hold),
            (&[][..], Some(Hold::SurplusStarting))
        );
        let mut unscheduled = owner("a").pending();
        unscheduled.pods[0].scheduled = false;
        assert_eq!(plan_of(&[unscheduled]).steps.len(), 1);
    }

    #[test]
    fn idle_surplus_is_retained_until_the_delay_has_passed() {
        let mut want = scaled(0, t(0));
        want.retain_idle_until = Some(t(600));
        let owners = [owner("a").running()];
        assert_eq!(
            plan(&owners, &want, t(599)).hold,
            Some(Hold::IdleRetained { until: t(600) })
        );
        assert_eq!(plan(&owners, &want, t(600)).steps.len(), 1);
    }

    #[test]
    fn a_runner_asked_to_go_is_no_supply_and_goes_when_unregistered() {
        let asked = owner("a").running().requested();
        let first = plan(std::slice::from_ref(&asked), &want(1), t(0));
        assert_eq!(first.steps, [Step::Create { count: 1 }]);
        let mut done = asked;
        done.pods[0].unregistration_complete = true;
        assert_eq!(
            plan(&[done], &want(0), t(0)).steps,
            [delete("a", Why::Unregistered)]
        );
    }

    #[test]
    fn outdated_owners_are_asked_to_go_once_the_new_ones_are_there() {
        let old = owner("old").running().hashed("x");
        assert_eq!(
            plan(std::slice::from_ref(&old), &want(1), t(0)).steps,
            [Step::Create { count: 1 }]
        );
        assert_eq!(
            plan(&[old, owner("new").running()], &want(1), t(0)).steps,
            [Step::RequestUnregistration {
                owner: "old".into(),
                pods: vec!["old".into()]
            }]
        );
    }

    #[test]
    fn a_runner_that_never_registers_is_replaced_and_asked_to_go() {
        let mut lost = owner("a").running();
        lost.pods[0].ready_since = Some(t(0));
        let steps = plan(&[lost], &want(1), t(601)).steps;
        assert_eq!(
            steps,
            [
                Step::Create { count: 1 },
                Step::RequestUnregistration {
                    owner: "a".into(),
                    pods: vec!["a".into()]
                }
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn never_deletes_running_never_overshoots_and_is_idempotent(
            kinds in proptest::collection::vec(0_u8..7, 0..12), replicas in 0_usize..10, unaccounted in 0_usize..4,
            autoscaled: bool, served_at in 0_i64..100, effective in 0_i64..100,
        ) {
            let owners: Vec<OwnerView> = kinds.iter().enumerate().map(|(i, kind)| {
                let owner = owner(&format!("o{i}")).created(t(i64::try_from(i).unwrap()));
                match kind {
                    0 => owner, 1 => owner.pending(), 2 => owner.running(), 3 => owner.ended(),
                    4 => owner.failed(), 5 => owner.running().requested(), _ => owner.running().hashed("x"),
                }
            }).collect();
            let mut want = want(replicas);
            want.autoscaled = autoscaled;
            want.effective_time = Some(t(effective));
            want.served = Some(Served { effective_time: Some(t(served_at)), at: t(served_at) });
            want.unaccounted = (0..unaccounted).map(|i| format!("gone{i}")).collect();
            let plan_1 = plan(&owners, &want, t(200));
            let mut next: Vec<OwnerView> = owners.clone();
            for step in &plan_1.steps {
                match step {
                    Step::Create { count } => for i in 0..*count { next.push(owner(&format!("n{i}")).pending()); },
                    Step::RecordServed { effective_time } => want.served = Some(Served { effective_time: Some(*effective_time), at: t(200) }),
                    Step::Delete { owner, .. } => {
                        let gone = next.iter().find(|o| &o.name == owner).unwrap();
                        proptest::prop_assert!(gone.count(PodClass::Running, t(200)) == 0 || gone.is_unregistered());
                        next.retain(|o| &o.name != owner);
                    }
                    Step::RequestUnregistration { owner, .. } => {
                        for o in next.iter_mut().filter(|o| &o.name == owner) { *o = o.clone().requested(); }
                    }
                }
            }
            let alive = next.iter().filter(|o| !o.unregistration_requested && o.hash.as_deref() == Some("h") && !o.is_completed(t(200))).count();
            let before = owners.iter().filter(|o| !o.unregistration_requested && o.hash.as_deref() == Some("h") && !o.is_completed(t(200))).count();
            proptest::prop_assert!(alive <= replicas.max(before), "never creates beyond the wanted number");
            let plan_2 = plan(&next, &want, t(200));
            // Requests of the first pass make room for outdated ones to be asked, and owners without pods are unregistered at once; nothing else.
            let settled = |step: &Step| match step {
                Step::RequestUnregistration { .. } => true,
                Step::Delete { owner, why: Why::Unregistered, .. } => next.iter().any(|o| &o.name == owner && o.pods.is_empty()),
                _ => false,
            };
            proptest::prop_assert!(plan_2.steps.iter().all(settled), "{:?}", plan_2.steps);
        }
    }
}
