//! Jobs and runs: from queued to completed, cancellation, new attempts.

use std::sync::atomic::Ordering;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Activity, Job, JobEvent, Wake, World, assignment};
use crate::agent::Assignment;
use crate::github::matcher::JobKey;
use crate::github::model::{
    JobHandle, JobSpec, JobState, JobStats, JobView, RunnerRef, count, fold_labels, stable_id,
};
use crate::github::payload::JobPayload;
use crate::github::places::{DEFAULT_GROUP, Run};

impl World {
    pub(crate) fn queue_job(&mut self, spec: JobSpec, now: Timestamp) -> JobHandle {
        let repository = self.places.repository(
            &spec.owner,
            spec.owner_type,
            &spec.repo,
            spec.enterprise.as_deref(),
        );
        let known_run = spec
            .run_id
            .filter(|id| self.runs.get(id).is_some_and(|run| run.repository == repository));
        let run_id = known_run.unwrap_or_else(|| self.new_run(repository, &spec.workflow, now));
        let id = self.add_job(spec, repository, run_id, now);
        JobHandle {
            id,
            run_id,
            repository_id: repository,
        }
    }

    fn new_run(&mut self, repository: u64, workflow: &str, now: Timestamp) -> u64 {
        self.next_run += 1;
        let run = Run {
            id: self.next_run,
            repository,
            number: self.next_run % 1_000_000,
            workflow: workflow.to_owned(),
            attempt: 1,
            jobs: Vec::new(),
            latest: Vec::new(),
            counts: JobStats::default(),
            status: None,
            created_at: now,
            updated_at: now,
        };
        self.runs.insert(run.id, run);
        self.next_run
    }

    fn add_job(&mut self, spec: JobSpec, repository: u64, run_id: u64, now: Timestamp) -> u64 {
        self.next_job += 1;
        let id = self.next_job;
        let key = JobKey {
            repository,
            labels: fold_labels(&spec.labels),
        };
        let places = &self.places;
        let class = self.matcher.job_class(key, &|scope, group, repository| {
            places.covers(scope, group, repository)
        });
        let state = if spec.waiting {
            JobState::Waiting
        } else {
            JobState::Queued
        };
        let name = spec.name.clone().unwrap_or_else(|| format!("job-{id}"));
        let attempt = self.runs.get(&run_id).map_or(1, |run| run.attempt);
        let job = Job {
            id,
            run_id,
            repository,
            attempt,
            spec,
            name,
            class,
            state,
            reserved: false,
            cancel_requested: false,
            conclusion: None,
            runner: None,
            created_at: now,
            queued_at: None,
            started_at: None,
            completed_at: None,
            interrupted: false,
        };
        self.jobs.insert(id, job);
        if let Some(run) = self.runs.get_mut(&run_id) {
            run.jobs.push(id);
            run.latest.push(id);
        }
        self.account(run_id, None, state, now);
        if state == JobState::Waiting {
            self.emit(id, "waiting");
        } else {
            self.enter_queue(id, now);
        }
        id
    }

    fn enter_queue(&mut self, id: u64, now: Timestamp) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.queued_at = Some(now);
        self.queued_since.insert((now, id));
        self.emit(id, "queued");
        self.dispatch(id);
    }

    /// Queues a job that waits for approval; whether it did.
    pub(crate) fn release_job(&mut self, id: u64, now: Timestamp) -> bool {
        if self
            .jobs
            .get(&id)
            .is_none_or(|job| job.state != JobState::Waiting)
        {
            return false;
        }
        self.transition(id, JobState::Queued, now);
        self.enter_queue(id, now);
        true
    }

    /// Offers a queued job to the runners that wait in a poll.
    pub(super) fn dispatch(&mut self, id: u64) {
        let Some(class) = self.jobs.get(&id).map(|job| job.class) else {
            return;
        };
        while let Some(runner_id) = self.matcher.take_runner(class, &mut self.rng) {
            let Some(runner) = self.runners.get_mut(&runner_id) else {
                continue;
            };
            let Some(parked) = runner.parked.take() else {
                continue;
            };
            if parked.wake.send(Wake::Job(id)).is_ok() {
                runner.activity = Activity::Reserved(id);
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.reserved = true;
                }
                return;
            }
        }
        self.matcher.enqueue(class, id);
    }

    /// The runner takes the job that was promised to it.
    pub(crate) fn take(
        &mut self,
        runner_id: u64,
        job_id: u64,
        now: Timestamp,
        at: Instant,
    ) -> Option<Assignment> {
        let runner = self.runners.get_mut(&runner_id)?;
        if runner.activity != Activity::Reserved(job_id) {
            return None;
        }
        let Some(job) = self
            .jobs
            .get_mut(&job_id)
            .filter(|job| job.state == JobState::Queued)
        else {
            runner.activity = Activity::Idle;
            return None;
        };
        runner.activity = Activity::Busy(job_id);
        runner.job_deadline = Some(at + job.spec.duration + self.rules.interrupted_after);
        runner.last_seen = Some(at);
        job.reserved = false;
        job.runner = Some(RunnerRef {
            id: runner_id,
            name: runner.name.clone(),
            group_id: runner.group,
            group_name: self.places.group_name(runner.group),
        });
        job.started_at = Some(now);
        let assignment = assignment(job);
        if let Some(queued_at) = job.queued_at {
            self.queued_since.remove(&(queued_at, job_id));
        }
        self.transition(job_id, JobState::InProgress, now);
        self.emit(job_id, "in_progress");
        Some(assignment)
    }

    /// The runner went away before it took the job that was promised to it: the job is up for others.
    pub(crate) fn give_back(&mut self, runner_id: u64, job_id: u64) {
        if let Some(runner) = self.runners.get_mut(&runner_id)
            && runner.activity == Activity::Reserved(job_id)
        {
            runner.activity = Activity::Idle;
            if let Some(job) = self
                .jobs
                .get_mut(&job_id)
                .filter(|job| job.state == JobState::Queued)
            {
                job.reserved = false;
                self.dispatch(job_id);
            }
        }
    }

    /// A runner that is not ours (another system's, say) takes a queued job and is called this.
    pub(crate) fn start_elsewhere(&mut self, job_id: u64, runner_name: &str, now: Timestamp) -> bool {
        let Some(job) = self
            .jobs
            .get_mut(&job_id)
            .filter(|job| job.state == JobState::Queued && !job.reserved)
        else {
            return false;
        };
        self.matcher.dequeue(job.class, job_id);
        job.runner = Some(RunnerRef {
            id: stable_id("runner", runner_name) % 1_000_000,
            name: runner_name.to_owned(),
            group_id: DEFAULT_GROUP,
            group_name: "Default".to_owned(),
        });
        job.started_at = Some(now);
        if let Some(queued_at) = job.queued_at {
            self.queued_since.remove(&(queued_at, job_id));
        }
        self.transition(job_id, JobState::InProgress, now);
        self.emit(job_id, "in_progress");
        true
    }

    /// Ends a job; whether it was open.
    pub(crate) fn complete_job(&mut self, id: u64, conclusion: &str, now: Timestamp) -> bool {
        let Some(job) = self
            .jobs
            .get_mut(&id)
            .filter(|job| job.state != JobState::Completed)
        else {
            return false;
        };
        let conclusion = match &job.spec.conclusion {
            _ if job.cancel_requested => "cancelled",
            Some(wanted) if conclusion == "success" => wanted.as_str(),
            _ => conclusion,
        };
        job.conclusion = Some(conclusion.to_owned());
        job.completed_at = Some(now);
        job.reserved = false;
        self.matcher.dequeue(job.class, id);
        if let Some(queued_at) = job.queued_at {
            self.queued_since.remove(&(queued_at, id));
        }
        self.transition(id, JobState::Completed, now);
        self.emit(id, "completed");
        true
    }

    /// Cancels a job: at once while it has no runner, else when its runner reports the end. Whether it was open.
    pub(crate) fn cancel_job(&mut self, id: u64, now: Timestamp) -> bool {
        let Some(job) = self
            .jobs
            .get_mut(&id)
            .filter(|job| job.state != JobState::Completed)
        else {
            return false;
        };
        job.cancel_requested = true;
        if job.state != JobState::InProgress {
            self.complete_job(id, "cancelled", now);
        }
        true
    }

    /// Starts a new attempt of a finished run: jobs that did not succeed come again under new ids, for all others
    /// `completed` is sent again. The handles of the new jobs.
    pub(crate) fn rerun_failed(&mut self, run_id: u64, now: Timestamp) -> Vec<JobHandle> {
        let Some(run) = self.runs.get_mut(&run_id).filter(|run| run.counts.open() == 0) else {
            return Vec::new();
        };
        let latest = std::mem::take(&mut run.latest);
        let repository = run.repository;
        let jobs = &self.jobs;
        let (kept, failed): (Vec<u64>, Vec<u64>) = latest.into_iter().partition(|id| {
            let conclusion = jobs.get(id).and_then(|job| job.conclusion.as_deref());
            matches!(conclusion, Some("success" | "skipped" | "neutral"))
        });
        if failed.is_empty() {
            run.latest = kept;
            return Vec::new();
        }
        run.attempt += 1;
        run.counts.completed = count(kept.len());
        run.latest.clone_from(&kept);
        let mut handles = Vec::new();
        for id in failed {
            let Some(job) = self.jobs.get(&id) else { continue };
            let mut spec = job.spec.clone();
            spec.name = Some(job.name.clone());
            spec.waiting = false;
            // The second attempt is meant to work, unless the runner says otherwise.
            spec.conclusion = None;
            let id = self.add_job(spec, repository, run_id, now);
            handles.push(JobHandle {
                id,
                run_id,
                repository_id: repository,
            });
        }
        for id in kept {
            self.emit(id, "completed");
        }
        handles
    }

    fn transition(&mut self, id: u64, to: JobState, now: Timestamp) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let from = std::mem::replace(&mut job.state, to);
        let run_id = job.run_id;
        self.account(run_id, Some(from), to, now);
    }

    /// Keeps the numbers and the run's status in step with a job's state.
    fn account(&mut self, run_id: u64, from: Option<JobState>, to: JobState, now: Timestamp) {
        self.revision += 1;
        *self.stats.slot(to) += 1;
        if let Some(from) = from {
            *self.stats.slot(from) -= 1;
        }
        let Some(run) = self.runs.get_mut(&run_id) else {
            return;
        };
        *run.counts.slot(to) += 1;
        if let Some(from) = from {
            let slot = run.counts.slot(from);
            *slot = slot.saturating_sub(1);
        }
        run.updated_at = now;
        let status = run.derived_status();
        if run.status != Some(status) {
            if let Some(repository) = self.places.repositories.get_mut(&run.repository) {
                repository.move_run(run_id, run.status, status);
            }
            run.status = Some(status);
        }
    }

    fn emit(&mut self, id: u64, action: &'static str) {
        self.revision += 1;
        if let Some(job) = self.payload(id) {
            self.pending.fetch_add(1, Ordering::AcqRel);
            if self.outbox.send(JobEvent { action, job }).is_err() {
                // The receiver lives as long as the server: nobody wants webhooks any more.
                self.pending.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// What a webhook says about a job now.
    pub(crate) fn payload(&self, id: u64) -> Option<JobPayload> {
        let job = self.jobs.get(&id)?;
        let repository = self.places.repositories.get(&job.repository)?;
        Some(JobPayload {
            repository: repository.info.clone(),
            job_id: id,
            run_id: job.run_id,
            run_attempt: job.attempt,
            workflow: job.spec.workflow.clone(),
            name: job.name.clone(),
            labels: job.spec.labels.clone(),
            conclusion: job.conclusion.clone(),
            runner: job.runner.clone(),
            created_at: job.created_at,
            started_at: job.started_at,
            completed_at: job.completed_at,
            installation: None,
        })
    }

    /// The log of a job, in the form in which GitHub keeps it.
    pub(crate) fn log(&self, id: u64) -> Option<String> {
        let job = self.jobs.get(&id)?;
        let runner = job.runner.as_ref()?;
        let (queued, started, completed) = (job.queued_at?, job.started_at?, job.completed_at?);
        let mut lines = vec![
            (queued, "Waiting for a runner to pick up this job...".to_owned()),
            (
                started,
                format!(
                    "Job is about to start running on the runner: {} (organization)",
                    runner.name
                ),
            ),
            (started, "##[group]Run make test".to_owned()),
        ];
        if job.conclusion.as_deref() == Some("failure") {
            let code = job.spec.exit_code;
            lines.push((
                completed,
                format!("##[error]Process completed with exit code {code}."),
            ));
        }
        lines.push((completed, "Cleaning up orphan processes".to_owned()));
        let lines = lines
            .iter()
            .map(|(at, text)| format!("{}0Z {text}\r\n", at.strftime("%Y-%m-%dT%H:%M:%S%.6f")));
        Some(format!("\u{feff}{}", lines.collect::<String>()))
    }

    pub(crate) fn job(&self, id: u64) -> Option<JobView> {
        self.jobs.get(&id).map(Self::view)
    }

    pub(crate) fn jobs(&self) -> Vec<JobView> {
        self.jobs.values().map(Self::view).collect()
    }

    fn view(job: &Job) -> JobView {
        JobView {
            id: job.id,
            run_id: job.run_id,
            run_attempt: job.attempt,
            repository_id: job.repository,
            repository: format!("{}/{}", job.spec.owner, job.spec.repo),
            name: job.name.clone(),
            labels: job.spec.labels.clone(),
            state: job.state,
            conclusion: job.conclusion.clone(),
            runner: job.runner.clone(),
            created_at: job.created_at,
            queued_at: job.queued_at,
            started_at: job.started_at,
            completed_at: job.completed_at,
            interrupted: job.interrupted,
        }
    }
}
