//! What happened to every simulated pod and job, for assertions and for the demo's display.

use std::{collections::BTreeMap, sync::Mutex};

use jiff::Timestamp;

use crate::agent::Assignment;

use super::now;

/// Sums over all pods seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Pods seen, by uid.
    pub pods_created: usize,
    /// Pods that exist now.
    pub alive: usize,
    /// The most pods that existed at one moment.
    pub highest_alive: usize,
    /// Runners that registered.
    pub registered: usize,
    /// Jobs that a runner took.
    pub jobs_started: usize,
    /// Jobs that ran to their end.
    pub jobs_succeeded: usize,
    /// Jobs that were cancelled by SIGTERM or lost with their runner.
    pub jobs_lost: usize,
    /// Pods that were told to end while their job ran.
    pub busy_deleted: usize,
    /// Pods that are gone and never took a job.
    pub idle_gone: usize,
    /// Writes of the simulated kubelet: bindings, statuses, deletions.
    pub writes: usize,
}

/// The life of one pod. The times are those at which the simulation saw or did it, by the machine's clock.
#[derive(Clone, Debug)]
pub struct PodTrace {
    /// The pod's uid.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// When the pod was first seen.
    pub created: Timestamp,
    /// When its status said `Running`.
    pub running: Option<Timestamp>,
    /// When its runner was registered.
    pub registered: Option<Timestamp>,
    /// When its (last) job began.
    pub job_started: Option<Timestamp>,
    /// When the container `runner` ended.
    pub ended: Option<Timestamp>,
    /// When the pod was told to end.
    pub deleted: Option<Timestamp>,
    /// When the object was gone.
    pub gone: Option<Timestamp>,
    /// Jobs that the runner took.
    pub jobs: usize,
}

/// How a job ended, seen from the runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// Ran to its end.
    Success,
    /// Cancelled by SIGTERM.
    Cancelled,
    /// Died with its runner.
    Lost,
}

/// A job that a simulated runner took.
#[derive(Clone, Debug)]
pub struct JobRun {
    /// Id of the workflow job.
    pub job_id: u64,
    /// Id of its run.
    pub run_id: u64,
    /// The pod's name.
    pub pod: String,
    /// When the pod was first seen.
    pub pod_created: Timestamp,
    /// When the runner took the job.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How it ended.
    pub outcome: JobOutcome,
}

/// The book that all pod tasks write to. Pods are known by `uid`.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    counters: Counters,
    pods: BTreeMap<String, PodTrace>,
    jobs: Vec<JobRun>,
}

impl Ledger {
    pub(super) fn counters(&self) -> Counters {
        self.inner.lock().map(|inner| inner.counters).unwrap_or_default()
    }

    pub(super) fn pods(&self) -> Vec<PodTrace> {
        self.inner
            .lock()
            .map(|inner| inner.pods.values().cloned().collect())
            .unwrap_or_default()
    }

    pub(super) fn jobs(&self) -> Vec<JobRun> {
        self.inner
            .lock()
            .map(|inner| inner.jobs.clone())
            .unwrap_or_default()
    }

    pub(super) fn created(&self, uid: &str, namespace: &str, name: &str) {
        self.write(|inner| {
            let trace = PodTrace {
                uid: uid.to_owned(),
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                created: now(),
                running: None,
                registered: None,
                job_started: None,
                ended: None,
                deleted: None,
                gone: None,
                jobs: 0,
            };
            inner.pods.insert(uid.to_owned(), trace);
            let counters = &mut inner.counters;
            counters.pods_created += 1;
            counters.alive += 1;
            counters.highest_alive = counters.highest_alive.max(counters.alive);
        });
    }

    pub(super) fn wrote(&self) {
        self.write(|inner| inner.counters.writes += 1);
    }

    pub(super) fn running(&self, uid: &str) {
        self.pod(uid, |pod, _| pod.running = Some(now()));
    }

    pub(super) fn registered(&self, uid: &str) {
        self.pod(uid, |pod, counters| {
            pod.registered = Some(now());
            counters.registered += 1;
        });
    }

    pub(super) fn job_started(&self, uid: &str) {
        self.pod(uid, |pod, counters| {
            pod.job_started = Some(now());
            pod.jobs += 1;
            counters.jobs_started += 1;
        });
    }

    pub(super) fn job_ended(&self, uid: &str, job: &Assignment, started: Timestamp, outcome: JobOutcome) {
        self.write(|inner| {
            let Some(pod) = inner.pods.get(uid) else { return };
            match outcome {
                JobOutcome::Success => inner.counters.jobs_succeeded += 1,
                JobOutcome::Cancelled | JobOutcome::Lost => inner.counters.jobs_lost += 1,
            }
            inner.jobs.push(JobRun {
                job_id: job.job_id,
                run_id: job.run_id,
                pod: pod.name.clone(),
                pod_created: pod.created,
                started,
                ended: now(),
                outcome,
            });
        });
    }

    pub(super) fn ended(&self, uid: &str) {
        self.pod(uid, |pod, _| pod.ended = Some(now()));
    }

    /// The pod was told to end. Later calls for the same pod change nothing.
    pub(super) fn deleted(&self, uid: &str) {
        self.pod(uid, |pod, _| {
            pod.deleted.get_or_insert_with(now);
        });
    }

    pub(super) fn busy_deleted(&self) {
        self.write(|inner| inner.counters.busy_deleted += 1);
    }

    pub(super) fn gone(&self, uid: &str) {
        self.pod(uid, |pod, counters| {
            if pod.gone.is_none() {
                pod.gone = Some(now());
                counters.alive = counters.alive.saturating_sub(1);
                if pod.jobs == 0 {
                    counters.idle_gone += 1;
                }
            }
        });
    }

    fn pod(&self, uid: &str, change: impl FnOnce(&mut PodTrace, &mut Counters)) {
        self.write(|inner| {
            if let Some(pod) = inner.pods.get_mut(uid) {
                change(pod, &mut inner.counters);
            }
        });
    }

    fn write(&self, change: impl FnOnce(&mut Inner)) {
        if let Ok(mut inner) = self.inner.lock() {
            change(&mut inner);
        }
    }
}
