//! The run of a trace.

use std::time::Duration;

use anyhow::{Result, bail};
use jiff::{SignedDuration, Timestamp};
use muster_core::{
    autoscale::reservation::{JobAction, JobEvent, JobKey},
    pods::Step,
    routing::{AutoscalerInput, AutoscalerView, Index, JobFacts, Routing, TargetKeys, WorkflowAction, route},
};
use muster_crds::legacy::{GitHubEventScaleUpTriggerSpec, ScaleTargetRef, ScaleUpTrigger, WorkflowJobSpec};

use crate::demo::Spread;

use super::{
    Costs, Job, Outcome, Parameters, Scaled,
    events::{Agenda, Event, Stage},
    pool::{DURATION, Pool},
    server::Server,
};

/// Webhooks gather for this long while a patch is under way.
const WINDOW: SignedDuration = SignedDuration::from_millis(50);
/// From a change until the controller that it concerns looks.
const WATCH: SignedDuration = SignedDuration::from_millis(1);
/// Writes of the kubelet until a pod runs, and after its runner has ended.
const KUBELET: [usize; 2] = [3, 2];
/// Muster's writes between a pod's creation and its end: the Runner's status and GitHub's id.
const UP: usize = 2;
/// Muster's writes at the end: the pod's finalizer and the Runner's deletion, and what Kubernetes then removes.
const DOWN: usize = 3;
/// A trace whose last job is so long ago has jobs that nobody runs.
const PATIENCE: SignedDuration = SignedDuration::from_hours(24);

struct Run<'t> {
    trace: &'t [Job],
    parameters: &'t Parameters,
    now: Timestamp,
    agenda: Agenda,
    server: Server,
    index: Index,
    pools: Vec<Pool>,
    started: Vec<Option<Timestamp>>,
    costs: Costs,
    scaled: Vec<Scaled>,
    done: usize,
    runners: usize,
    used: usize,
    up: usize,
    most: usize,
}

/// Runs a trace to the end of its last runner.
///
/// # Errors
/// A job that nobody runs.
pub fn simulate(parameters: &Parameters, trace: &[Job]) -> Result<Outcome> {
    let mut run = Run::new(parameters, trace);
    let begin = run.now;
    for (number, job) in trace.iter().enumerate() {
        let at = begin + signed(job.at);
        run.agenda.add(at, Event::Queued { job: number });
    }
    while run.done < trace.len() || run.up > 0 {
        let Some((at, event)) = run.agenda.next() else {
            bail!("{} of {} jobs are never run", trace.len() - run.done, trace.len());
        };
        if at.duration_since(begin) > PATIENCE {
            bail!(
                "{} of {} jobs do not run within a day",
                trace.len() - run.done,
                trace.len()
            );
        }
        run.now = at;
        run.happen(event);
    }
    let waits = trace.iter().zip(&run.started).filter_map(|(job, started)| {
        let waited = (*started)?.duration_since(begin + signed(job.at));
        u64::try_from(waited.as_millis()).ok()
    });
    Ok(Outcome {
        done: run.done,
        runners: run.runners,
        unused: run.runners - run.used,
        most: run.most,
        writes: run.server.writes,
        waits: Spread::of(waits.collect()),
        length: Duration::try_from(run.now.duration_since(begin)).unwrap_or_default(),
        scaled: run.scaled,
        costs: run.costs,
    })
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

fn organization(scope: usize) -> String {
    format!("organization-{scope:04}")
}

impl<'t> Run<'t> {
    fn new(parameters: &'t Parameters, trace: &'t [Job]) -> Self {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365 * 57);
        let delay = signed(parameters.scale_down_delay);
        let mut index = Index::default();
        let mut pools = Vec::with_capacity(parameters.pools);
        for number in 0..parameters.pools {
            let pool = Pool::new(number, parameters.max_per_pool, delay, now);
            index.upsert(view(&pool, number % parameters.scopes.max(1)));
            pools.push(pool);
        }
        Self {
            trace,
            parameters,
            now,
            agenda: Agenda::default(),
            server: Server::new(parameters.writes_per_second, signed(parameters.write), now),
            index,
            pools,
            started: vec![None; trace.len()],
            costs: Costs::default(),
            scaled: Vec::new(),
            done: 0,
            runners: 0,
            used: 0,
            up: 0,
            most: 0,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Queued { job } => self.queued(job),
            Event::Webhook { job, stage, runner } => self.webhook(job, stage, runner),
            Event::Flush { pool } => self.flush(pool),
            Event::Committed { pool } => self.committed(pool),
            Event::Autoscale { pool } => self.autoscale(pool),
            Event::Scaled { pool } => self.has_scaled(pool),
            Event::Plan { pool } => self.plan(pool),
            Event::Planned { pool } => self.has_planned(pool),
            Event::Created { pool, runner } => self.created(pool, runner),
            Event::Registered { pool, runner } => self.registered(pool, runner),
            Event::Finished { pool, runner, job } => self.finished(pool, runner, job),
        }
    }

    fn soon(&mut self, event: Event) {
        self.agenda.add(self.now + WATCH, event);
    }

    // ---- GitHub

    fn queued(&mut self, job: usize) {
        let Some(number) = self.trace.get(job).map(|job| job.pool) else {
            return;
        };
        self.tell(job, Stage::Queued, None);
        if let Some(pool) = self.pools.get_mut(number) {
            pool.queued.push_back(job);
        }
        self.assign(number);
    }

    fn tell(&mut self, job: usize, stage: Stage, runner: Option<usize>) {
        let at = self.now + signed(self.parameters.webhook);
        self.agenda.add(at, Event::Webhook { job, stage, runner });
    }

    /// Gives waiting jobs to idle runners.
    fn assign(&mut self, number: usize) {
        let Some(pool) = self.pools.get_mut(number) else {
            return;
        };
        let (Some(job), Some(runner)) = (pool.queued.front().copied(), pool.idle.first().copied()) else {
            return;
        };
        pool.queued.pop_front();
        pool.idle.remove(&runner);
        if let Some(started) = self.started.get_mut(job) {
            *started = Some(self.now);
        }
        self.used += 1;
        self.tell(job, Stage::InProgress, Some(runner));
        let length = self
            .trace
            .get(job)
            .map(|job| signed(job.length))
            .unwrap_or_default();
        let finished = Event::Finished {
            pool: number,
            runner,
            job,
        };
        self.agenda.add(self.now + length, finished);
    }

    // ---- the webhook server

    fn webhook(&mut self, job: usize, stage: Stage, runner: Option<usize>) {
        let Some(pool) = self
            .trace
            .get(job)
            .and_then(|job| Some((job.pool, self.pools.get(job.pool)?)))
        else {
            return;
        };
        let (number, pool) = pool;
        let runner = runner.map(|runner| pool.name(runner));
        let (action, seen) = match stage {
            Stage::Queued => (WorkflowAction::Queued, JobAction::Queued),
            Stage::InProgress => (WorkflowAction::InProgress, JobAction::InProgress),
            Stage::Completed => (WorkflowAction::Completed, JobAction::Completed),
        };
        let key = JobKey::new(None, 1, u64::try_from(job).unwrap_or_default());
        let owner = organization(number % self.parameters.scopes.max(1));
        let facts = JobFacts {
            key: key.clone(),
            action,
            owner: &owner,
            owner_is_user: false,
            repository: "repository",
            enterprise: None,
            labels: vec!["self-hosted", &pool.label],
            runner: runner.as_deref(),
            has_runner_id: runner.is_some(),
            conclusion: (stage == Stage::Completed).then_some("success"),
        };
        let index = &self.index;
        let routed = self.costs.route.of(|| route(&facts, index));
        let event = JobEvent {
            key,
            action: seen,
            runner,
            created_at: Some(self.now),
        };
        let Routing::To(chosen) = routed else { return };
        for chosen in chosen {
            let number = Pool::number(&chosen.autoscaler.id.name);
            if let Some(pool) = self.pools.get_mut(number) {
                pool.waiting.push(event.clone());
                if pool.writer.begin() {
                    self.flush(number);
                }
            }
        }
    }

    fn flush(&mut self, number: usize) {
        let Some(pool) = self.pools.get_mut(number) else {
            return;
        };
        if pool.delta.is_some() || pool.waiting.is_empty() {
            return;
        }
        let now = self.now;
        let delta = self.costs.fold.of(|| pool.fold(now));
        if delta.is_empty() {
            return;
        }
        pool.delta = Some(delta);
        pool.writer.hold();
        let at = self.server.write(now);
        self.agenda.add(at, Event::Committed { pool: number });
    }

    fn committed(&mut self, number: usize) {
        let Some(pool) = self.pools.get_mut(number) else {
            return;
        };
        if let Some(delta) = pool.delta.take() {
            let (held, gone) = pool.book.commit(delta);
            pool.version += 1;
            for key in held {
                self.index.hold(&pool.id, key);
            }
            for key in gone {
                self.index.release(&pool.id, &key);
            }
        }
        pool.writer.end();
        if !pool.waiting.is_empty() {
            self.agenda.add(self.now + WINDOW, Event::Flush { pool: number });
        }
        self.soon(Event::Autoscale { pool: number });
    }

    // ---- the manager

    fn autoscale(&mut self, number: usize) {
        let Some(pool) = self.pools.get_mut(number) else {
            return;
        };
        if pool.due.is_some_and(|due| due <= self.now) {
            pool.due = None;
        }
        if !pool.autoscaler.begin() {
            return;
        }
        let now = self.now;
        let mut decision = self.costs.desired.of(|| pool.decide(now));
        if let Some(due) = decision
            .next_due
            .filter(|due| pool.due.is_none_or(|known| *due < known))
        {
            pool.due = Some(due);
            self.agenda.add(due, Event::Autoscale { pool: number });
        }
        if decision.target.is_some() {
            let written = pool.gate.zip(decision.target_may_wait);
            match written.map(|(at, interval)| at + interval) {
                Some(opens) if opens > now => {
                    decision.target = None;
                    self.agenda.add(opens, Event::Autoscale { pool: number });
                }
                _ => pool.gate = Some(now),
            }
        }
        let writes = usize::from(decision.target.is_some()) + usize::from(decision.ledger.is_some());
        if writes == 0 {
            return;
        }
        pool.autoscaler.hold();
        pool.decided = Some((pool.version, decision));
        // The deployment's number goes on to its set, and the autoscaler's status follows.
        let at = self.server.sequence(writes, now);
        self.server.others(1, at);
        self.agenda.add(at, Event::Scaled { pool: number });
    }

    fn has_scaled(&mut self, number: usize) {
        let Some(pool) = self.pools.get_mut(number) else {
            return;
        };
        let Some((version, decision)) = pool.decided.take() else {
            return;
        };
        let to_set = decision.target.is_some();
        if let Some(replicas) = pool.take(version, decision) {
            self.scaled.push(Scaled {
                at: self.now,
                pool: number,
                replicas,
            });
        }
        if pool.autoscaler.end() {
            self.soon(Event::Autoscale { pool: number });
        }
        if to_set {
            let at = self.server.write(self.now);
            self.agenda.add(at, Event::Plan { pool: number });
        }
    }

    fn plan(&mut self, number: usize) {
        let Some(pool) = self.pools.get_mut(number) else {
            return;
        };
        pool.set = pool.deployment.clone();
        if !pool.planner.begin() {
            return;
        }
        let now = self.now;
        let plan = self.costs.plan.of(|| pool.plan(now));
        let ends = plan.hold.and_then(|hold| hold.ends_at());
        if let Some(ends) =
            ends.filter(|at| *at > now && pool.hold.is_none_or(|known| known <= now || *at < known))
        {
            pool.hold = Some(ends);
            self.agenda.add(ends, Event::Plan { pool: number });
        }
        if plan.steps.is_empty() {
            return;
        }
        pool.planner.hold();
        let mut over = now;
        for step in &plan.steps {
            match step {
                Step::Create { count } => {
                    // Side by side; the pod follows its Runner.
                    for _ in 0..*count {
                        self.runners += 1;
                        self.up += 1;
                        pool.create(self.runners, now);
                        let made = self.server.write(now);
                        let created = Event::Created {
                            pool: number,
                            runner: self.runners,
                        };
                        self.agenda.add(self.server.write(made), created);
                        over = over.max(made);
                    }
                    self.most = self.most.max(self.up);
                }
                Step::RecordServed { .. } => over = self.server.write(over),
                Step::RequestUnregistration { pods, .. } => over = self.server.sequence(pods.len() + 1, over),
                Step::Delete { .. } => {
                    over = self.server.write(over);
                    self.server.others(DOWN - 1, over);
                }
            }
        }
        pool.planned = plan;
        self.agenda.add(over, Event::Planned { pool: number });
    }

    /// What the API server and GitHub have done when the plan's writes are answered.
    fn has_planned(&mut self, number: usize) {
        let Some(pool) = self.pools.get_mut(number) else {
            return;
        };
        for step in std::mem::take(&mut pool.planned).steps {
            match step {
                Step::Create { .. } => {}
                Step::RecordServed { effective_time } => pool.served(effective_time, self.now),
                Step::RequestUnregistration { owner, .. } => {
                    if pool.unregister(Pool::number(&owner)) {
                        self.up -= 1;
                    }
                }
                Step::Delete { owner, .. } => {
                    pool.remove(Pool::number(&owner));
                    self.up -= 1;
                }
            }
        }
        if pool.planner.end() {
            self.soon(Event::Plan { pool: number });
        }
        self.soon(Event::Autoscale { pool: number });
    }

    // ---- pods

    fn created(&mut self, number: usize, runner: usize) {
        let Some(pool) = self.pools.get_mut(number) else {
            return;
        };
        pool.pod_created(runner, self.now);
        self.server.others(KUBELET[0], self.now);
        let registered = Event::Registered { pool: number, runner };
        self.agenda
            .add(self.now + signed(self.parameters.start), registered);
    }

    fn registered(&mut self, number: usize, runner: usize) {
        let Some(pool) = self.pools.get_mut(number) else {
            return;
        };
        pool.registered(runner, self.now);
        self.server.others(UP, self.now);
        self.assign(number);
        self.soon(Event::Plan { pool: number });
    }

    fn finished(&mut self, number: usize, runner: usize, job: usize) {
        let Some(pool) = self.pools.get_mut(number) else {
            return;
        };
        pool.ended(runner, self.now);
        self.done += 1;
        self.server.others(KUBELET[1], self.now);
        self.tell(job, Stage::Completed, Some(runner));
        self.soon(Event::Autoscale { pool: number });
        self.soon(Event::Plan { pool: number });
    }
}

/// What routing knows of a pool.
fn view(pool: &Pool, scope: usize) -> AutoscalerView {
    let keys = TargetKeys {
        organization: Some(organization(scope)),
        ..TargetKeys::default()
    };
    let trigger = ScaleUpTrigger {
        github_event: Some(GitHubEventScaleUpTriggerSpec {
            workflow_job: Some(WorkflowJobSpec::default()),
            ..GitHubEventScaleUpTriggerSpec::default()
        }),
        duration: Some(format!("{}s", DURATION.as_secs())),
        ..ScaleUpTrigger::default()
    };
    let target = ScaleTargetRef {
        kind: None,
        name: Some(pool.id.name.clone()),
    };
    let labels = [pool.label.clone()];
    let input = AutoscalerInput {
        namespace: &pool.id.namespace,
        name: &pool.id.name,
        uid: &pool.id.name,
        created_at: None,
        is_deleting: false,
        target_ref: Some(&target),
        triggers: &[trigger],
        target: Some((&keys, &labels)),
    };
    AutoscalerView::new(&input, &[])
}
