//! Runners that ended, as this process saw them in the pod watch.
//!
//! The autoscaler takes a finished runner out of the number before GitHub says which job it had, and the set does not replace it before
//! the autoscaler has done so (spec 20, "demand decides"). Both read ends from here. The hook runs before the pod cache shows the pod's state,
//! so whoever sees a stopped pod also finds its end. All of it is in memory: a restart costs a spare runner at most.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use muster_core::{
    autoscale::desired::{End, charge},
    pods::{PodView, phase::is_runner_pod},
    target::TargetId,
};
use muster_crds::{keys, legacy::CapacityReservation};
use uuid::Uuid;

const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(5);
/// A healed pool is at full speed again after this long and one start-up at most (90 FEATURE 3).
const MAX_BACKOFF: SignedDuration = SignedDuration::from_secs(20);
/// From so many failures in a row on, one runner at a time is tried.
const PROBE_FROM: u32 = 2;

/// The runners of one RunnerDeployment or RunnerSet, by labels of the pods.
pub(crate) type Pool = TargetId;

#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    last: Option<Timestamp>,
    reason: String,
}

/// A pool whose runners fail when they start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failing {
    /// Failures in a row.
    pub(crate) in_a_row: u32,
    /// None is created before then.
    pub(crate) until: Timestamp,
    /// Why the last one failed.
    pub(crate) reason: String,
}

#[derive(Debug, Default)]
struct State {
    sequence: u64,
    ends: HashMap<Pool, Vec<End>>,
    /// UIDs of stopped pods that were counted, until the pod is gone.
    counted: HashSet<String>,
    /// UIDs of pods that had stopped before anybody deleted them, until the pod is gone.
    by_themselves: HashSet<String>,
    failures: HashMap<Pool, Failures>,
}

/// The ends and failures seen by this process.
#[derive(Debug)]
pub(crate) struct Ends {
    process: String,
    state: Mutex<State>,
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            process: Uuid::new_v4().simple().to_string(),
            state: Mutex::default(),
        }
    }
}

impl Ends {
    /// Takes note of a pod from the watch.
    pub(crate) fn observe(&self, pod: &Pod, deleted: bool, now: Timestamp) {
        if !is_runner_pod(pod) {
            return;
        }
        let view = PodView::of(pod);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if deleted {
            state.by_themselves.remove(&view.uid);
        } else if view.is_stopped() && view.deletion_at.is_none() {
            state.by_themselves.insert(view.uid.clone());
        }
        let Some(pool) = pool_of(pod) else { return };
        if view.is_stopped() && state.counted.insert(view.uid.clone()) && view.ephemeral {
            if view.has_ended() {
                state.sequence += 1;
                let end = End {
                    runner: view.runner_name.clone(),
                    at: now,
                    sequence: state.sequence,
                    is_charged: false,
                };
                let ends = state.ends.entry(pool.clone()).or_default();
                ends.retain(|end| end.matters(now));
                ends.push(end);
                state.failures.remove(&pool);
            } else if view.deletion_at.is_none() && !view.unregistration_requested && view.runner_id.is_none()
            {
                // A runner that had registered and then failed says nothing about the next one.
                let reason = failure_reason(pod);
                fail(&mut state, pool, reason, now);
            }
        } else if view.runner_id.is_some() && !view.is_stopped() {
            state.failures.remove(&pool);
        }
        if deleted {
            state.counted.remove(&view.uid);
        }
    }

    /// Whether the pod was seen stopped before it was deleted: its runner ended without having been told to.
    pub(crate) fn ended_by_itself(&self, uid: &str) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.by_themselves.contains(uid)
    }

    /// Ends of a pool that matter still, oldest first, charged to the jobs of a ledger that names their runners.
    pub(crate) fn of(&self, pool: &Pool, ledger: &[CapacityReservation], now: Timestamp) -> Vec<End> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ends) = state.ends.get_mut(pool) else {
            return Vec::new();
        };
        charge(ends.iter_mut(), ledger);
        ends.retain(|end| end.matters(now));
        ends.clone()
    }

    /// Names of the runners whose end the number that carries `accounted` does not know of.
    pub(crate) fn unaccounted(
        &self,
        pool: &Pool,
        accounted: Option<&str>,
        now: Timestamp,
    ) -> BTreeSet<String> {
        let known = self.parse(accounted);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = state.ends.get(pool).map(Vec::as_slice).unwrap_or_default();
        ends.iter()
            .filter(|end| end.sequence > known && end.matters(now))
            .map(|end| end.runner.clone())
            .collect()
    }

    /// The value of annotation `muster.dev/ends-accounted`: ends up to `sequence` of this process.
    pub(crate) fn format(&self, sequence: u64) -> String {
        format!("{}/{sequence}", self.process)
    }

    /// The sequence in that annotation; 0 when another process wrote it.
    pub(crate) fn parse(&self, accounted: Option<&str>) -> u64 {
        accounted
            .and_then(|text| text.split_once('/'))
            .filter(|(process, _)| *process == self.process)
            .and_then(|(_, sequence)| sequence.parse().ok())
            .unwrap_or(0)
    }

    /// Takes note of a runner that was given up, or that could not be created.
    pub(crate) fn note_failure(&self, pool: &Pool, reason: &str, now: Timestamp) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        fail(&mut state, pool.clone(), reason.to_owned(), now);
    }

    /// Takes note of a runner that works.
    pub(crate) fn note_success(&self, pool: &Pool) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .failures
            .remove(pool);
    }

    /// How the pool fails, from the second failure in a row on: the first is replaced at once.
    pub(crate) fn failing(&self, pool: &Pool) -> Option<Failing> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = state.failures.get(pool)?;
        let doublings = failures.in_a_row.checked_sub(PROBE_FROM)?.min(10);
        let delay = FIRST_BACKOFF
            .checked_mul(1 << doublings)
            .unwrap_or(MAX_BACKOFF)
            .min(MAX_BACKOFF);
        let until = failures.last?.checked_add(delay).ok()?;
        Some(Failing {
            in_a_row: failures.in_a_row,
            until,
            reason: failures.reason.clone(),
        })
    }
}

fn fail(state: &mut State, pool: Pool, reason: String, now: Timestamp) {
    let failures = state.failures.entry(pool).or_default();
    failures.in_a_row = failures.in_a_row.saturating_add(1);
    failures.last = Some(now);
    failures.reason = reason;
}

/// Why a pod failed, in the kubelet's words.
fn failure_reason(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let terminated = status
        .container_statuses
        .iter()
        .flatten()
        .filter(|container| container.name == keys::CONTAINER_RUNNER)
        .find_map(|container| container.state.as_ref()?.terminated.as_ref());
    let of_container = terminated.map(|terminated| {
        let reason = terminated.reason.clone().unwrap_or_else(|| "Error".to_owned());
        let message = terminated.message.clone().unwrap_or_default();
        format!(
            "container runner ended with exit code {} ({reason}) {message}",
            terminated.exit_code
        )
    });
    let of_pod = [status.reason, status.message]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(": ");
    format!("{} {of_pod}", of_container.unwrap_or_default())
        .trim()
        .to_owned()
}

/// The pool that a pod belongs to.
pub(crate) fn pool_of(pod: &Pod) -> Option<Pool> {
    TargetId::of_labels(&pod.namespace()?, pod.labels())
}

#[cfg(test)]
mod tests {
    use muster_core::target::TargetKind;

    use super::*;

    fn t(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn pod(name: &str, exit: Option<i32>, deleting: bool) -> Pod {
        let state = exit.map_or_else(
            || serde_json::json!({"running": {}}),
            |code| serde_json::json!({"terminated": {"exitCode": code}}),
        );
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"),
                "labels": {"actions-runner": "", "runner-deployment-name": "rd"},
                "deletionTimestamp": deleting.then_some("2027-01-15T08:00:00Z")},
            "spec": {"nodeName": "n", "containers": [{"name": "runner", "env": [{"name": "RUNNER_EPHEMERAL", "value": "true"}]}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "runner", "image": "r", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}
        }))
        .unwrap()
    }

    #[test]
    fn an_end_counts_once_and_is_forgotten_after_ten_minutes() {
        let ends = Ends::default();
        let pool = Pool::new(TargetKind::Deployment, "ns", "rd");
        for at in 0..3 {
            ends.observe(&pod("a", None, false), false, t(at));
            ends.observe(&pod("a", Some(0), false), false, t(10));
        }
        ends.observe(&pod("a", Some(0), true), true, t(11));
        assert_eq!(ends.of(&pool, &[], t(20)).len(), 1);
        assert_eq!(
            ends.unaccounted(&pool, None, t(20)),
            BTreeSet::from(["a".to_owned()])
        );
        assert_eq!(
            ends.unaccounted(&pool, Some(&ends.format(1)), t(20)),
            BTreeSet::new()
        );
        assert_eq!(
            ends.unaccounted(&pool, Some("another/1"), t(20)).len(),
            1,
            "another process counted its own"
        );
        assert_eq!(ends.of(&pool, &[], t(610)).len(), 0);
    }

    #[test]
    fn an_end_that_was_charged_stays_charged_when_the_entry_goes() {
        let ends = Ends::default();
        let pool = Pool::new(TargetKind::Deployment, "ns", "rd");
        for name in ["a", "b"] {
            ends.observe(&pod(name, None, false), false, t(0));
            ends.observe(&pod(name, Some(0), false), false, t(0));
        }
        let entry = CapacityReservation {
            name: Some("7/1@a".to_owned()),
            replicas: Some(0),
            ..CapacityReservation::default()
        };
        let charged = |ledger: &[CapacityReservation], at| -> Vec<(String, bool)> {
            let ends = ends.of(&pool, ledger, t(at));
            ends.into_iter().map(|end| (end.runner, end.is_charged)).collect()
        };
        let (a, b) = (("a".to_owned(), true), ("b".to_owned(), false));
        assert_eq!(charged(&[entry], 1), [a.clone(), b.clone()]);
        assert_eq!(charged(&[], 2), [a, b.clone()]);
        assert_eq!(charged(&[], 181), [b], "what is charged is forgotten sooner");
    }

    #[test]
    fn a_pod_that_stops_when_it_is_deleted_has_not_ended_by_itself() {
        let ends = Ends::default();
        ends.observe(&pod("a", Some(0), false), false, t(0));
        ends.observe(&pod("a", Some(0), true), false, t(1));
        ends.observe(&pod("b", None, true), false, t(1));
        ends.observe(&pod("b", Some(0), true), false, t(2));
        assert!(ends.ended_by_itself("uid-a") && !ends.ended_by_itself("uid-b"));
        ends.observe(&pod("a", Some(0), true), true, t(3));
        assert!(!ends.ended_by_itself("uid-a"), "forgotten with the pod");
    }

    #[test]
    fn a_runner_that_was_deleted_or_failed_has_not_ended() {
        let ends = Ends::default();
        let pool = Pool::new(TargetKind::Deployment, "ns", "rd");
        ends.observe(&pod("a", Some(0), true), false, t(0));
        ends.observe(&pod("b", Some(1), false), false, t(0));
        assert_eq!(ends.of(&pool, &[], t(1)).len(), 0);
        let until = |ends: &Ends| ends.failing(&pool).map(|failing| failing.until);
        assert_eq!(until(&ends), None, "the first is replaced at once");
        ends.observe(&pod("c", Some(1), false), false, t(2));
        assert_eq!(until(&ends), Some(t(7)));
        assert!(ends.failing(&pool).unwrap().reason.contains("exit code 1"));
        ends.observe(&pod("d", Some(1), false), false, t(8));
        assert_eq!(until(&ends), Some(t(18)));
        for at in 20..40 {
            ends.note_failure(&pool, "not scheduled", t(at));
        }
        assert_eq!(until(&ends), Some(t(59)), "at most 20 s");
        ends.observe(&pod("e", Some(0), false), false, t(60));
        assert_eq!(until(&ends), None, "a good one ends the streak");
    }
}
