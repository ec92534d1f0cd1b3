//! What came out of a demo, as numbers.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    github::{JobState, JobView},
    kubelet::PodTrace,
    world::{Leftovers, VolumeFigures, World},
};

/// Median and tail of some waiting times, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Half of all took no longer.
    pub p50: u64,
    /// All but one in a hundred took no longer.
    pub p99: u64,
    /// None took longer.
    pub max: u64,
}

impl Spread {
    /// The spread of `values` by nearest rank; zeros where there are none.
    pub fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let rank = |percent: usize| {
            let index = (values.len() * percent).div_ceil(100).saturating_sub(1);
            values.get(index).copied().unwrap_or_default()
        };
        Self {
            p50: rank(50),
            p99: rank(99),
            max: rank(100),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {} ms, p99 {} ms", self.p50, self.p99)
    }
}

/// What is left at the end, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftBehind {
    /// Pods.
    pub pods: usize,
    /// `Runner` objects.
    pub runners: usize,
    /// `StatefulSet` objects.
    pub stateful_sets: usize,
    /// Runners that GitHub knows.
    pub registered: usize,
    /// Live entries of the ledger.
    pub live_reservations: usize,
}

impl From<Leftovers> for LeftBehind {
    fn from(left: Leftovers) -> Self {
        Self {
            pods: left.pods,
            runners: left.runners,
            stateful_sets: left.stateful_sets,
            registered: left.registered,
            live_reservations: left.live_reservations,
        }
    }
}

/// What became of the runners' volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Storage {
    /// Volumes that were made.
    pub volumes_created: usize,
    /// Times that a runner got a volume that another one had used before.
    pub volumes_reused: usize,
    /// Claims and volumes that nobody uses or keeps.
    pub volume_leaks: usize,
    /// Times that a volume was in use by two runners at once.
    pub volume_double_mounts: usize,
}

/// The result of a demo; its JSON is the last line of `demo --json`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Jobs that were queued.
    pub jobs: usize,
    /// Jobs that ended with success.
    pub completed: usize,
    /// Jobs that were never completed.
    pub stranded: usize,
    /// Jobs that ended otherwise.
    pub failed: usize,
    /// Pods that were told to end while their job ran.
    pub busy_deleted: usize,
    /// Jobs whose runner vanished, as GitHub sees it.
    pub interrupted: usize,
    /// Runner pods that were ever created.
    pub pods_created: usize,
    /// Sum of what is left at the end.
    pub leftovers: usize,
    /// The same by kind.
    pub left: LeftBehind,
    /// From a job's queueing to a pod: the k-th queued job and the k-th created pod. Which job a pod gets is open
    /// until a runner takes it, so this order is the only honest pairing.
    pub queued_to_pod_ms: Spread,
    /// From a job's queueing to the moment at which a runner took it.
    pub queued_to_running_ms: Spread,
    /// From the last job's end until nothing was left.
    pub cleaned_up_ms: u64,
    /// Requests to GitHub's REST API by family.
    pub github_calls: BTreeMap<String, u64>,
    /// Requests of the runners to GitHub.
    pub runner_calls: u64,
    /// Attempts at webhook deliveries, repetitions included.
    pub webhooks_sent: usize,
    /// Attempts that were not answered 2xx; they were repeated.
    pub webhooks_refused: usize,
    /// Writes to the API server by everybody but the kubelet, leases left out; absent where that is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_writes: Option<u64>,
    /// Writes of the simulated kubelet.
    pub kubelet_writes: usize,
    /// Kills of the manager and of the webhook server.
    pub kills: usize,
    /// The most pods at one moment.
    pub most_pods: usize,
    /// What became of volumes, where runners have some.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Storage>,
    /// From the first job's queueing to the last job's end.
    pub seconds: f64,
    /// From the start of the program until everything was up.
    pub start_seconds: f64,
    /// The seed.
    pub seed: u64,
}

impl Report {
    /// Reads what the simulations have seen.
    pub fn of(world: &World) -> Self {
        let jobs = world.github.jobs();
        let mut pods = world.kubelet.pods();
        pods.sort_by_key(|pod| pod.created);
        let counters = world.kubelet.counters();
        let (mut github_calls, mut runner_calls) = (BTreeMap::new(), 0);
        for (family, calls) in world.github.counters() {
            if family.starts_with("agent_") {
                runner_calls += calls;
            } else {
                github_calls.insert(family, calls);
            }
        }
        let deliveries = world.hook.map(|hook| world.github.deliveries(hook));
        let deliveries = deliveries.unwrap_or_default();
        let is_refused = |status: u16| !(200..300).contains(&status);
        let mut report = Self {
            jobs: jobs.len(),
            busy_deleted: counters.busy_deleted,
            interrupted: world.github.interrupted(),
            pods_created: counters.pods_created,
            github_calls,
            runner_calls,
            webhooks_sent: deliveries.len(),
            webhooks_refused: deliveries.iter().filter(|d| is_refused(d.status_code)).count(),
            kubelet_writes: counters.writes,
            most_pods: counters.highest_alive,
            ..Self::default()
        };
        report.read_jobs(&jobs, &pods);
        report
    }

    /// Adds what became of the volumes.
    pub fn read_volumes(&mut self, figures: &VolumeFigures) {
        self.volumes = Some(Storage {
            volumes_created: figures.created,
            volumes_reused: figures.reused,
            volume_leaks: figures.leaks,
            volume_double_mounts: figures.double_mounts,
        });
    }

    fn read_jobs(&mut self, jobs: &[JobView], pods: &[PodTrace]) {
        for job in jobs {
            match (job.state, job.conclusion.as_deref()) {
                (JobState::Completed, Some("success")) => self.completed += 1,
                (JobState::Completed, _) => self.failed += 1,
                _ => self.stranded += 1,
            }
        }
        let mut queued: Vec<Timestamp> = jobs.iter().filter_map(|job| job.queued_at).collect();
        queued.sort_unstable();
        let to_pod = queued
            .iter()
            .zip(pods)
            .map(|(queued, pod)| between(*queued, pod.created));
        self.queued_to_pod_ms = Spread::of(to_pod.collect());
        let to_running = jobs
            .iter()
            .filter_map(|job| Some(between(job.queued_at?, job.started_at?)));
        self.queued_to_running_ms = Spread::of(to_running.collect());
        let last = jobs.iter().filter_map(|job| job.completed_at).max();
        if let (Some(first), Some(last)) = (queued.first(), last) {
            self.seconds = rounded(Duration::from_millis(between(*first, last)));
        }
    }

    /// What speaks against exit code 0, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut note = |number: usize, what: &str| {
            if number > 0 {
                problems.push(format!("{number} {what}"));
            }
        };
        note(self.stranded, "jobs never ran to their end");
        note(self.failed, "jobs failed");
        note(self.busy_deleted, "pods were deleted while their job ran");
        note(self.interrupted, "runners vanished while their job ran");
        let left = &self.left;
        note(left.pods, "pods are left");
        note(left.runners, "Runner objects are left");
        note(left.stateful_sets, "StatefulSets are left");
        note(left.registered, "runners are still registered with GitHub");
        note(left.live_reservations, "reservations are left");
        if let Some(volumes) = &self.volumes {
            let needed = self.jobs.saturating_sub(self.most_pods);
            note(volumes.volume_leaks, "claims or volumes are left to nobody");
            note(volumes.volume_double_mounts, "times a volume was in use twice");
            note(
                volumes.volumes_created.saturating_sub(self.most_pods),
                "volumes more than runners at once were made",
            );
            note(
                needed.saturating_sub(volumes.volumes_reused),
                "runners got a new volume although one was free",
            );
        }
        if problems.is_empty() && self.completed != self.jobs {
            problems.push(format!("{} of {} jobs were completed", self.completed, self.jobs));
        }
        problems
    }

    /// The summary for people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "{} of {} jobs completed in {:.1} s, with {} runner pods ({} at most at a time)",
                self.completed, self.jobs, self.seconds, self.pods_created, self.most_pods
            ),
            format!("queued → pod      {}", self.queued_to_pod_ms),
            format!("queued → running  {}", self.queued_to_running_ms),
            format!(
                "busy runners deleted: {}, jobs stranded: {}",
                self.busy_deleted, self.stranded
            ),
            format!(
                "left over: {} pods, {} {}, {} registered, {} reservations ({:.1} s after the last job)",
                self.left.pods,
                self.left.runners + self.left.stateful_sets,
                if self.volumes.is_some() {
                    "StatefulSets"
                } else {
                    "Runners"
                },
                self.left.registered,
                self.left.live_reservations,
                Duration::from_millis(self.cleaned_up_ms).as_secs_f32(),
            ),
        ];
        let calls: Vec<String> = self
            .github_calls
            .iter()
            .map(|(family, calls)| format!("{family} {calls}"))
            .collect();
        lines.push(format!("calls to GitHub: {}", calls.join(", ")));
        if let Some(writes) = self.api_writes {
            let each = writes.checked_div(u64::try_from(self.jobs).unwrap_or_default());
            lines.push(format!(
                "writes to the API server: {writes} ({} a job), and {} of the kubelet",
                each.unwrap_or_default(),
                self.kubelet_writes
            ));
        }
        if let Some(volumes) = &self.volumes {
            lines.push(format!(
                "volumes: {} made, {} times used again, {} leaked, {} in use twice",
                volumes.volumes_created,
                volumes.volumes_reused,
                volumes.volume_leaks,
                volumes.volume_double_mounts
            ));
        }
        if self.kills > 0 {
            lines.push(format!(
                "processes killed: {}; webhooks sent again: {}",
                self.kills, self.webhooks_refused
            ));
        }
        lines
    }
}

/// Seconds with two decimals.
pub fn rounded(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100.0).round() / 100.0
}

/// Whole milliseconds from `from` to `to`; zero when `to` is earlier.
fn between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_by_nearest_rank() {
        assert_eq!(Spread::of(vec![]), Spread::default());
        assert_eq!(
            Spread::of((1..=200).rev().collect()),
            Spread {
                p50: 100,
                p99: 198,
                max: 200
            }
        );
        let one = Spread::of(vec![7]);
        assert_eq!((one.p50, one.p99, one.max), (7, 7, 7));
    }

    #[test]
    fn a_report_without_problems_has_run_every_job() {
        let mut report = Report {
            jobs: 2,
            completed: 2,
            ..Report::default()
        };
        assert!(report.problems().is_empty());
        report.completed = 1;
        assert_eq!(report.problems(), ["1 of 2 jobs were completed"]);
        report.completed = 2;
        report.most_pods = 1;
        let good = VolumeFigures {
            created: 1,
            reused: 1,
            ..VolumeFigures::default()
        };
        report.read_volumes(&good);
        assert!(report.problems().is_empty(), "{:?}", report.problems());
        let bad = VolumeFigures {
            created: 2,
            leaks: 1,
            ..good
        };
        report.read_volumes(&bad);
        assert_eq!(
            report.problems(),
            [
                "1 claims or volumes are left to nobody",
                "1 volumes more than runners at once were made"
            ]
        );
        report.volumes = None;
        (report.completed, report.stranded) = (1, 1);
        report.left.pods = 3;
        assert_eq!(
            report.problems(),
            ["1 jobs never ran to their end", "3 pods are left"]
        );
    }
}
