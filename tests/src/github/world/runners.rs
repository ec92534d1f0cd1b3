//! Runners: registration, polls, the end of a job, removal, and what passes by itself.

use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{
    Activity, Job, Parked, Poll, Registration, RegistrationToken, Removal, Runner, Wake, World, assignment,
};
use crate::agent::Register;
use crate::github::matcher::RunnerKey;
use crate::github::model::{JobState, RunnerView, ScopeKey, Violation, ViolationKind, fold_labels};
use crate::github::places::DEFAULT_GROUP;

impl World {
    pub(crate) fn add_token(
        &mut self,
        token: String,
        scope: ScopeKey,
        now: Timestamp,
        lifetime: SignedDuration,
    ) {
        self.tokens.retain(|_, token| token.expires_at > now);
        let expires_at = now.checked_add(lifetime).unwrap_or(now);
        self.tokens.insert(token, RegistrationToken { scope, expires_at });
    }

    fn token_is_good(&self, token: &str, scope: &ScopeKey, now: Timestamp) -> bool {
        self.tokens
            .get(token)
            .is_some_and(|token| token.expires_at > now && token.scope == *scope)
    }

    pub(crate) fn register(
        &mut self,
        request: &Register,
        agent_token: String,
        now: Timestamp,
        at: Instant,
    ) -> Registration {
        let scope = ScopeKey::of(&request.scope);
        if !self.token_is_good(&request.token, &scope, now) {
            return Registration::BadToken;
        }
        let name_key = (scope.clone(), request.name.to_lowercase());
        if self.names.contains_key(&name_key) {
            return Registration::NameTaken;
        }
        let group = match &request.group {
            Some(name) if !name.is_empty() && !matches!(scope, ScopeKey::Repository(_)) => {
                match self.places.group_by_name(&scope, name) {
                    Some(group) => group,
                    None => return Registration::UnknownGroup,
                }
            }
            _ => DEFAULT_GROUP,
        };
        let key = RunnerKey {
            scope: scope.clone(),
            group,
            labels: fold_labels(&request.labels),
        };
        let places = &self.places;
        let class = self.matcher.runner_class(key, &|scope, group, repository| {
            places.covers(scope, group, repository)
        });
        self.next_runner += 1;
        let id = self.next_runner;
        self.names.insert(name_key, id);
        self.by_scope.entry(scope.clone()).or_default().insert(id);
        self.runners.insert(
            id,
            Runner {
                id,
                name: request.name.clone(),
                scope,
                group,
                labels: request.labels.clone(),
                ephemeral: request.ephemeral,
                agent_token: agent_token.clone(),
                class,
                activity: Activity::Idle,
                parked: None,
                last_seen: Some(at),
                job_deadline: None,
            },
        );
        self.revision += 1;
        Registration::Done { id, agent_token }
    }

    /// A runner asks for its job.
    pub(crate) fn poll(&mut self, id: u64, token: &str, now: Timestamp, at: Instant) -> Poll {
        let Some(runner) = self.runners.get_mut(&id) else {
            return Poll::Gone;
        };
        if runner.agent_token != token {
            return Poll::Unauthorized;
        }
        runner.last_seen = Some(at);
        if let Activity::Busy(job_id) = runner.activity {
            let Some(job) = self.jobs.get(&job_id) else {
                return Poll::Gone;
            };
            runner.job_deadline = Some(at + job.spec.duration + self.rules.interrupted_after);
            return Poll::Job(assignment(job));
        }
        if let Some(older) = runner.parked.take() {
            self.matcher.unpark(runner.class, id);
            // The older poll may have ended by itself.
            let _poll_gone = older.wake.send(Wake::Replaced);
        }
        if runner.activity == Activity::Idle
            && let Some(job_id) = self
                .matcher
                .take_job(runner.class, &mut self.rng, self.rules.shuffle_jobs)
        {
            runner.activity = Activity::Reserved(job_id);
        }
        if let Activity::Reserved(job_id) = runner.activity
            && let Some(assignment) = self.take(id, job_id, now, at)
        {
            return Poll::Job(assignment);
        }
        self.park(id)
    }

    fn park(&mut self, id: u64) -> Poll {
        let Some(runner) = self.runners.get_mut(&id) else {
            return Poll::Gone;
        };
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let (wake, receiver) = oneshot::channel();
        runner.parked = Some(Parked { ticket, wake });
        self.matcher.park(runner.class, id);
        Poll::Wait {
            ticket,
            wake: receiver,
        }
    }

    /// A poll ended without a job.
    pub(crate) fn leave(&mut self, id: u64, ticket: u64, at: Instant) {
        if let Some(runner) = self.runners.get_mut(&id)
            && runner
                .parked
                .as_ref()
                .is_some_and(|parked| parked.ticket == ticket)
        {
            runner.parked = None;
            runner.last_seen = Some(at);
            self.matcher.unpark(runner.class, id);
        }
    }

    /// Ends every open poll: GitHub went dark, or shuts down.
    pub(crate) fn wake_all(&mut self) {
        for runner in self.runners.values_mut() {
            if let Some(parked) = runner.parked.take() {
                self.matcher.unpark(runner.class, runner.id);
                let _poll_gone = parked.wake.send(Wake::Dark);
            }
        }
    }

    /// The agent reports the end of its job. `None`: no such runner, or not its token.
    pub(crate) fn complete(
        &mut self,
        id: u64,
        token: &str,
        job_id: u64,
        conclusion: &str,
        now: Timestamp,
        at: Instant,
    ) -> Option<()> {
        let done =
            |job: &Job| job.state == JobState::Completed && job.runner.as_ref().is_some_and(|r| r.id == id);
        let Some(runner) = self
            .runners
            .get_mut(&id)
            .filter(|runner| runner.agent_token == token)
        else {
            // The agent repeats itself: the first report arrived, its answer did not.
            return self.jobs.get(&job_id).filter(|job| done(job)).map(|_| ());
        };
        runner.last_seen = Some(at);
        if runner.activity != Activity::Busy(job_id) {
            if !self.jobs.get(&job_id).is_some_and(done) {
                let detail = format!(
                    "runner {} reports the end of job {job_id}, which it does not run",
                    runner.name
                );
                self.violations.push(Violation {
                    kind: ViolationKind::WrongJobCompleted,
                    detail,
                    at: now,
                });
            }
            return Some(());
        }
        runner.activity = Activity::Idle;
        runner.job_deadline = None;
        let ephemeral = runner.ephemeral;
        self.complete_job(job_id, conclusion, now);
        if ephemeral {
            self.forget(id);
        }
        Some(())
    }

    /// The agent was killed, or was not heard of for too long: a job that it had fails, and an ephemeral runner
    /// that had one is removed. `None`: no such runner, or not its token (`None` for a token stands for GitHub).
    pub(crate) fn abandon(&mut self, id: u64, token: Option<&str>, now: Timestamp) -> Option<()> {
        let runner = self.runners.get_mut(&id)?;
        if token.is_some_and(|token| token != runner.agent_token) {
            return None;
        }
        let activity = std::mem::replace(&mut runner.activity, Activity::Idle);
        let (name, ephemeral, class) = (runner.name.clone(), runner.ephemeral, runner.class);
        runner.last_seen = None;
        runner.job_deadline = None;
        if let Some(parked) = runner.parked.take() {
            self.matcher.unpark(class, id);
            let _poll_gone = parked.wake.send(Wake::Replaced);
        }
        match activity {
            Activity::Idle => self.revision += 1,
            Activity::Reserved(job_id) => {
                if let Some(job) = self
                    .jobs
                    .get_mut(&job_id)
                    .filter(|job| job.state == JobState::Queued)
                {
                    job.reserved = false;
                    self.dispatch(job_id);
                }
            }
            Activity::Busy(job_id) => {
                if let Some(job) = self.jobs.get_mut(&job_id) {
                    job.interrupted = true;
                }
                let detail = format!("runner {name} vanished while it ran job {job_id}");
                self.violations.push(Violation {
                    kind: ViolationKind::Interrupted,
                    detail,
                    at: now,
                });
                self.complete_job(job_id, "failure", now);
                if ephemeral {
                    self.forget(id);
                }
            }
        }
        Some(())
    }

    /// Takes note of what must not happen.
    pub(crate) fn violate(&mut self, kind: ViolationKind, detail: String, at: Timestamp) {
        self.violations.push(Violation { kind, detail, at });
    }

    /// GitHub forgets an idle runner by itself. Whether there is one of that name.
    pub(crate) fn deregister(&mut self, name: &str) -> bool {
        let found = self
            .runners
            .values()
            .find(|runner| runner.name == name && runner.activity == Activity::Idle)
            .map(|runner| runner.id);
        found.is_some_and(|id| {
            self.forget(id);
            true
        })
    }

    /// Removes a runner unless it has a job.
    pub(crate) fn remove(&mut self, scope: &ScopeKey, id: u64) -> Removal {
        let Some(runner) = self.runners.get(&id).filter(|runner| runner.scope == *scope) else {
            return Removal::NotFound;
        };
        if runner.is_busy() {
            return Removal::Busy {
                name: runner.name.clone(),
            };
        }
        self.forget(id);
        Removal::Done
    }

    /// Removes a runner on its agent's wish: the bearer is its own token, or a registration token of its scope.
    /// `None`: it is neither.
    pub(crate) fn remove_by_agent(&mut self, id: u64, bearer: &str, now: Timestamp) -> Option<Removal> {
        let Some(runner) = self.runners.get(&id) else {
            return Some(Removal::NotFound);
        };
        let scope = runner.scope.clone();
        let allowed = runner.agent_token == bearer || self.token_is_good(bearer, &scope, now);
        allowed.then(|| self.remove(&scope, id))
    }

    fn forget(&mut self, id: u64) {
        let Some(runner) = self.runners.remove(&id) else {
            return;
        };
        self.revision += 1;
        self.names
            .remove(&(runner.scope.clone(), runner.name.to_lowercase()));
        if let Some(members) = self.by_scope.get_mut(&runner.scope) {
            members.remove(&id);
        }
        if let Some(parked) = runner.parked {
            self.matcher.unpark(runner.class, id);
            let _poll_gone = parked.wake.send(Wake::Gone);
        }
    }

    pub(crate) fn runner(&self, scope: &ScopeKey, id: u64) -> Option<&Runner> {
        self.runners.get(&id).filter(|runner| runner.scope == *scope)
    }

    /// Runners of a scope by id, with their number; a name selects the one that has it.
    pub(crate) fn runners_of(&self, scope: &ScopeKey, name: Option<&str>) -> (usize, Vec<&Runner>) {
        let ids: Vec<u64> = match name {
            Some(name) => self
                .names
                .get(&(scope.clone(), name.to_lowercase()))
                .copied()
                .into_iter()
                .collect(),
            None => self.by_scope.get(scope).into_iter().flatten().copied().collect(),
        };
        let runners: Vec<&Runner> = ids.iter().filter_map(|id| self.runners.get(id)).collect();
        (runners.len(), runners)
    }

    pub(crate) fn runner_views(&self, at: Instant) -> Vec<RunnerView> {
        let mut views: Vec<RunnerView> = self
            .runners
            .values()
            .map(|runner| RunnerView {
                id: runner.id,
                name: runner.name.clone(),
                scope: runner.scope.api_path(),
                online: runner.is_online(at, self.rules.offline_after),
                busy: runner.is_busy(),
                ephemeral: runner.ephemeral,
                labels: runner.labels.clone(),
                group_id: runner.group,
                job_id: match runner.activity {
                    Activity::Idle => None,
                    Activity::Reserved(job) | Activity::Busy(job) => Some(job),
                },
            })
            .collect();
        views.sort_unstable_by_key(|view| view.id);
        views
    }

    /// Who may use a group has changed: queued jobs may have new takers.
    pub(crate) fn rematch(&mut self) {
        let places = &self.places;
        self.matcher
            .rematch(&|scope, group, repository| places.covers(scope, group, repository));
        let queued: Vec<(u64, usize)> = self
            .queued_since
            .iter()
            .filter_map(|(_, id)| self.jobs.get(id))
            .filter(|job| !job.reserved)
            .map(|job| (job.id, job.class))
            .collect();
        for (id, class) in queued {
            self.matcher.dequeue(class, id);
            self.dispatch(id);
        }
    }

    /// What passes by itself: jobs without a runner for a day are cancelled, runners that have not been heard of
    /// for longer than their job takes are given up.
    pub(crate) fn sweep(&mut self, now: Timestamp, at: Instant) {
        while let Some((since, id)) = self.queued_since.first().copied() {
            if now.duration_since(since) < self.rules.queue_timeout {
                break;
            }
            self.queued_since.pop_first();
            if self.jobs.get(&id).is_some_and(|job| !job.reserved) {
                self.complete_job(id, "cancelled", now);
            }
        }
        let silent: Vec<u64> = self
            .runners
            .values()
            .filter(|runner| runner.job_deadline.is_some_and(|deadline| at > deadline))
            .map(|runner| runner.id)
            .collect();
        for id in silent {
            self.abandon(id, None, now);
        }
    }
}
