//! The legacy mode: `actions.summerwind.dev/v1alpha1`.
//!
//! What wakes whom:
//!
//! | change of | wakes |
//! |---|---|
//! | autoscaler | itself; its target's sets (they ask whether an autoscaler refers to them) |
//! | RunnerDeployment | itself; the autoscalers that refer to it |
//! | RunnerReplicaSet | itself; its RunnerDeployment; the autoscalers of that |
//! | Runner | itself; its RunnerReplicaSet |
//! | runner pod | itself; its Runner; the set of that; the autoscalers of its pool |
//!
//! What RunnerSets are made of is in [`runner_set::watches`].

pub(crate) mod autoscaler;
pub mod drain;
pub(crate) mod leftovers;
pub(crate) mod linked;
mod owner_set;
pub(crate) mod reconciliation;
mod runner;
mod runner_deployment;
mod runner_pod;
mod runner_rbac;
mod runner_replica_set;
pub(crate) mod runner_set;
mod target;
pub(crate) mod tracking;
mod unclear;

use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
};
use kube::{Api, Client, Resource, ResourceExt, core::DeserializeGuard, runtime::watcher};
use muster_core::target::{TargetId, TargetKind};
use muster_crds::{
    keys,
    legacy::{HorizontalRunnerAutoscaler, Runner, RunnerDeployment, RunnerReplicaSet, RunnerSet},
};
use muster_runtime::{
    clock::Clock,
    drive::{Cache, Class, Drive, Failure, Feed, Queue},
    metrics::ReconcileMetrics,
};
use serde::de::DeserializeOwned;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clients::Clients,
    conditions::{self, Conditioned, Verdict},
    context::{Caches, Context, Settings},
    ends::{Ends, pool_of},
    error::Error,
    events::{Recorder, Severity},
    metrics::Metrics,
    owner::ControllerOwner,
};

/// Reconciles of one kind at a time.
const CONCURRENCY: u16 = 32;
/// An object that the API server does not answer for is reported to its user after so many failures in a row.
const REPORT_AFTER: u32 = 5;
/// Waits that are shorter are part of ordinary operation.
const WORTH_TELLING: Duration = Duration::from_mins(1);

/// Everything that the reconcilers need from outside.
pub struct Start {
    /// Kubernetes.
    pub client: Client,
    /// The time.
    pub clock: Clock,
    /// Flags.
    pub settings: Settings,
    /// GitHub.
    pub clients: Arc<Clients>,
    /// Metrics with upstream's names.
    pub metrics: Metrics,
    /// Reconcile metrics of all controllers.
    pub reconciles: ReconcileMetrics,
}

impl Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

struct Queues {
    autoscalers: Queue<HorizontalRunnerAutoscaler>,
    deployments: Queue<RunnerDeployment>,
    replica_sets: Queue<RunnerReplicaSet>,
    runners: Queue<Runner>,
    pods: Queue<Pod>,
    runner_sets: Queue<RunnerSet>,
    claims: Queue<PersistentVolumeClaim>,
    volumes: Queue<PersistentVolume>,
}

impl Queues {
    fn add_target(&self, target: &TargetId) {
        match target.kind {
            TargetKind::Deployment => self.deployments.add(&target.namespace, &target.name),
            TargetKind::Set => self.runner_sets.add(&target.namespace, &target.name),
        }
    }
}

/// Runs the reconcilers of the legacy mode until `shutdown`, then finishes what is under way.
#[expect(clippy::too_many_lines, reason = "wiring: one statement per controller")]
pub async fn start(start: Start, shutdown: CancellationToken) {
    let Start {
        client,
        clock,
        settings,
        clients,
        metrics,
        reconciles,
    } = start;
    let (autoscaler_feed, autoscalers) = Feed::new();
    let (deployment_feed, deployments) = Feed::new();
    let (set_feed, replica_sets) = Feed::new();
    let (runner_feed, runners) = Feed::new();
    let (pod_feed, pods) = Feed::new();
    let (made_feeds, made) = runner_set::watches::Feeds::new();
    let caches = Caches {
        autoscalers,
        deployments,
        replica_sets,
        runners,
        pods,
        runner_sets: made.sets,
        stateful_sets: made.stateful_sets,
        claims: made.claims,
        volumes: made.volumes,
    };
    let queues = Arc::new(Queues {
        autoscalers: Queue::default(),
        deployments: Queue::default(),
        replica_sets: Queue::default(),
        runners: Queue::default(),
        pods: Queue::default(),
        runner_sets: Queue::default(),
        claims: Queue::default(),
        volumes: Queue::default(),
    });
    let (recorder, write_events) = Recorder::new(client.clone(), clock.clone(), shutdown.clone());
    let ends = Arc::new(Ends::default());
    let namespace = settings.watch_namespace.clone();
    // While draining nobody decides how many runners there are: none.
    let scaling = !settings.draining;
    let context = Arc::new(Context {
        client: client.clone(),
        clock: clock.clone(),
        settings,
        clients,
        recorder,
        metrics,
        caches: caches.clone(),
        ends: Arc::clone(&ends),
        gate: crate::gate::Gate::default(),
        expectations: crate::pod_owner::Expectations::default(),
        memory: autoscaler::Memory::default(),
        tracking: tracking::Tracking::default(),
        pods: queues.pods.clone(),
        autoscalers: queues.autoscalers.clone(),
        samples: autoscaler::pull::Samples::default(),
        stop: shutdown.clone(),
        linked_failures: linked::FirstFailures::default(),
        storage: runner_set::storage::Storage::default(),
        leftovers: leftovers::Leftovers::default(),
        tasks: TaskTracker::new(),
    });

    let watches = watches(
        Feeds {
            autoscaler_feed,
            deployment_feed,
            set_feed,
            runner_feed,
            pod_feed,
        },
        &context,
        &queues,
        (client.clone(), namespace.as_deref()),
        &shutdown,
    );
    let more_watches = made_feeds.run(&context, &queues, (client, namespace.as_deref()), &shutdown);
    let synced = wait_for_caches(&caches, &shutdown);
    let controllers = async {
        // Decisions are made from complete caches only.
        if !synced.await {
            return;
        }
        futures::join!(
            when(
                scaling,
                drive(
                    "horizontalrunnerautoscaler-controller",
                    &caches.autoscalers,
                    &queues.autoscalers,
                    &reconciles
                )
                .run(
                    Arc::clone(&context),
                    shutdown.clone(),
                    autoscaler::reconcile,
                    report_failure("horizontalrunnerautoscaler-controller")
                )
            ),
            when(
                scaling,
                drive(
                    "runnerdeployment-controller",
                    &caches.deployments,
                    &queues.deployments,
                    &reconciles
                )
                .run(
                    Arc::clone(&context),
                    shutdown.clone(),
                    runner_deployment::reconcile,
                    report_failure("runnerdeployment-controller")
                )
            ),
            drive(
                "runnerreplicaset-controller",
                &caches.replica_sets,
                &queues.replica_sets,
                &reconciles
            )
            .run(
                Arc::clone(&context),
                shutdown.clone(),
                runner_replica_set::reconcile,
                report_failure("runnerreplicaset-controller")
            ),
            drive("runner-controller", &caches.runners, &queues.runners, &reconciles).run(
                Arc::clone(&context),
                shutdown.clone(),
                runner::reconcile,
                report_failure("runner-controller")
            ),
            drive("runnerpod-controller", &caches.pods, &queues.pods, &reconciles).run(
                Arc::clone(&context),
                shutdown.clone(),
                runner_pod::reconcile,
                count_failure
            ),
            runner_set::watches::control(
                Arc::clone(&context),
                Arc::clone(&queues),
                reconciles.clone(),
                shutdown.clone()
            ),
            when(
                scaling,
                reconciliation::run(Arc::clone(&context), shutdown.clone())
            ),
            leftovers::run(&context, shutdown.clone(), |pool| queues.add_target(pool)),
            context.clients.follow(
                || context.clock.now(),
                |namespace| wake_namespace(&context, &queues, namespace),
                shutdown.clone()
            ),
        );
        tracing::info!("The controllers have stopped.");
    };
    futures::join!(watches, more_watches, controllers, write_events);
    context.tasks.close();
    context.tasks.wait().await;
}

async fn when(wanted: bool, work: impl Future<Output = ()>) {
    if wanted {
        work.await;
    }
}

fn drive<K>(name: &'static str, cache: &Cache<K>, queue: &Queue<K>, metrics: &ReconcileMetrics) -> Drive<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    Drive {
        name,
        cache: cache.clone(),
        queue: queue.clone(),
        concurrency: CONCURRENCY,
        metrics: metrics.clone(),
    }
}

async fn wait_for_caches(caches: &Caches, shutdown: &CancellationToken) -> bool {
    let synced = || {
        caches.autoscalers.is_synced()
            && caches.deployments.is_synced()
            && caches.replica_sets.is_synced()
            && caches.runners.is_synced()
            && caches.pods.is_synced()
            && caches.runner_sets.is_synced()
    };
    let synced = wait_until(synced, shutdown).await;
    if synced {
        tracing::info!("The caches are complete; the controllers start.");
    }
    synced
}

/// Waits for caches; false when the process is told to stop before.
async fn wait_until(synced: impl Fn() -> bool, shutdown: &CancellationToken) -> bool {
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    while !synced() {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return false,
        }
    }
    true
}

#[expect(clippy::struct_field_names, reason = "each is the feed of one kind")]
struct Feeds {
    autoscaler_feed: Feed<HorizontalRunnerAutoscaler>,
    deployment_feed: Feed<RunnerDeployment>,
    set_feed: Feed<RunnerReplicaSet>,
    runner_feed: Feed<Runner>,
    pod_feed: Feed<Pod>,
}

fn watches(
    feeds: Feeds,
    context: &Arc<Context>,
    queues: &Arc<Queues>,
    (client, namespace): (Client, Option<&str>),
    shutdown: &CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let all = watcher::Config::default();
    // Every runner pod carries the label; pods of others cost no memory.
    let runner_pods = watcher::Config::default().labels(keys::LABEL_ACTIONS_RUNNER);

    let autoscalers = {
        let (wake, context) = (Arc::clone(queues), Arc::clone(context));
        feeds.autoscaler_feed.wakes(move |autoscaler| {
            let (namespace, name) = place(autoscaler);
            if context.caches.autoscalers.get(&namespace, &name).is_none() {
                context.metrics.bounds(&namespace, &name, None, None);
                context.metrics.desired(&namespace, &name, None, None);
                context.metrics.pull.forget(&namespace, &name);
                context.samples.forget(&namespace, &name);
            }
            wake.autoscalers.add(&namespace, &name);
            if autoscaler.status.is_none() || autoscaler.metadata.deletion_timestamp.is_some() {
                wake_sets_of_target(&context, &wake, autoscaler);
            }
        })
    };
    let deployments = {
        let (wake, context) = (Arc::clone(queues), Arc::clone(context));
        feeds.deployment_feed.wakes(move |deployment| {
            let (namespace, name) = place(deployment);
            let target = TargetId::new(TargetKind::Deployment, &*namespace, &*name);
            if context.caches.deployments.get(&namespace, &name).is_none() {
                context.metrics.target(&target, None);
            }
            wake.add_target(&target);
            wake_autoscalers(&context, &wake, &target);
        })
    };
    let sets = {
        let (wake, context) = (Arc::clone(queues), Arc::clone(context));
        feeds.set_feed.wakes(move |set| {
            let (namespace, name) = place(set);
            wake.replica_sets.add(&namespace, &name);
            if let Some(owner) = set.controller_owner() {
                wake.deployments.add(&namespace, &owner.name);
                let target = TargetId::new(TargetKind::Deployment, namespace, owner.name);
                wake_autoscalers(&context, &wake, &target);
            }
        })
    };
    let runners = {
        let (wake, context) = (Arc::clone(queues), Arc::clone(context));
        feeds.runner_feed.wakes(move |runner| {
            let (namespace, name) = place(runner);
            if context.caches.runners.get(&namespace, &name).is_none() {
                context.memory.forget_runner(&runner.uid().unwrap_or_default());
            }
            wake.runners.add(&namespace, &name);
            if let Some(owner) = runner.controller_owner() {
                wake.replica_sets.add(&namespace, &owner.name);
            }
        })
    };
    let pods = {
        let (wake, context) = (Arc::clone(queues), Arc::clone(context));
        let (ends, clock) = (Arc::clone(&context.ends), context.clock.clone());
        feeds
            .pod_feed
            .prune(prune_pod)
            .hook(move |pod, deleted| ends.observe(pod, deleted, clock.now()))
            .wakes(move |pod| {
                let (namespace, name) = place(pod);
                if context.caches.pods.get(&namespace, &name).is_none() {
                    context.tracking.forget(&pod.uid().unwrap_or_default());
                }
                wake.pods.add(&namespace, &name);
                let owner = pod.controller_owner().filter(|owner| owner.kind == "Runner");
                if let Some(owner) = owner {
                    wake.runners.add(&namespace, &owner.name);
                    let runner = context.caches.runners.get(&namespace, &owner.name);
                    if let Some(set) = runner.and_then(|runner| runner.controller_owner()) {
                        wake.replica_sets.add(&namespace, &set.name);
                    }
                }
                runner_set::watches::wake_of_pod(&context, &wake, pod);
                if let Some(pool) = pool_of(pod) {
                    wake_autoscalers(&context, &wake, &pool);
                }
            })
    };

    let watch = (
        autoscalers.run(api(&client, namespace), all.clone(), shutdown.clone()),
        deployments.run(api(&client, namespace), all.clone(), shutdown.clone()),
        sets.run(api(&client, namespace), all.clone(), shutdown.clone()),
        runners.run(api(&client, namespace), all, shutdown.clone()),
        pods.run(api(&client, namespace), runner_pods, shutdown.clone()),
    );
    async move {
        futures::join!(watch.0, watch.1, watch.2, watch.3, watch.4);
    }
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<DeserializeGuard<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Keeps what decisions read: hundreds of runner pods with their volumes and scheduling rules would fill the memory.
fn prune_pod(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        let containers = std::mem::take(&mut spec.containers);
        let (node_name, restart_policy) = (spec.node_name.take(), spec.restart_policy.take());
        *spec = k8s_openapi::api::core::v1::PodSpec {
            node_name,
            restart_policy,
            ..k8s_openapi::api::core::v1::PodSpec::default()
        };
        spec.containers = containers
            .into_iter()
            .filter(|container| container.name == keys::CONTAINER_RUNNER)
            .map(|container| k8s_openapi::api::core::v1::Container {
                name: container.name,
                env: container.env.map(|mut env| {
                    env.retain(|variable| {
                        (variable.name.starts_with("RUNNER_") && variable.name != keys::ENV_RUNNER_TOKEN)
                            || variable.name == keys::ENV_ACTIONS_RUNNER_CONTAINER_HOOKS
                    });
                    env
                }),
                ..k8s_openapi::api::core::v1::Container::default()
            })
            .collect();
    }
    if let Some(status) = &mut pod.status {
        status.pod_ips = None;
        status.init_container_statuses = None;
        status.ephemeral_container_statuses = None;
    }
}

fn place<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// `namespace/name`, for logs.
fn key<K: Resource>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

fn refers_to(autoscaler: &HorizontalRunnerAutoscaler, target: &TargetId) -> bool {
    autoscaler.metadata.namespace.as_deref() == Some(&target.namespace)
        && TargetId::of(&target.namespace, autoscaler.spec.scale_target_ref.as_ref()).as_ref() == Some(target)
}

/// Whether an autoscaler refers to this target.
fn is_autoscaled(context: &Context, target: &TargetId) -> bool {
    context
        .caches
        .autoscalers
        .all()
        .iter()
        .any(|autoscaler| autoscaler.metadata.deletion_timestamp.is_none() && refers_to(autoscaler, target))
}

fn wake_autoscalers(context: &Context, queues: &Queues, target: &TargetId) {
    for autoscaler in context.caches.autoscalers.all() {
        if refers_to(&autoscaler, target) {
            queues.autoscalers.add(&target.namespace, &autoscaler.name_any());
        }
    }
}

fn wake_sets_of_target(context: &Context, queues: &Queues, autoscaler: &HorizontalRunnerAutoscaler) {
    let namespace = autoscaler.namespace().unwrap_or_default();
    let Some(target) = TargetId::of(&namespace, autoscaler.spec.scale_target_ref.as_ref()) else {
        return;
    };
    if target.kind == TargetKind::Set {
        queues.add_target(&target);
        return;
    }
    let Some(deployment) = context.caches.deployments.get(&namespace, &target.name) else {
        return;
    };
    for set in context
        .caches
        .replica_sets
        .owned_by(&deployment.uid().unwrap_or_default())
    {
        queues.replica_sets.add(&namespace, &set.name_any());
    }
}

/// A login changed: whoever waits because of it in this namespace is looked at now.
fn wake_namespace(context: &Context, queues: &Queues, namespace: &str) {
    fn wake<K>(cache: &Cache<K>, queue: &Queue<K>, namespace: &str)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    {
        for object in cache.all() {
            if object.meta().namespace.as_deref() == Some(namespace) {
                queue.add(namespace, &object.name_any());
            }
        }
    }
    wake(&context.caches.autoscalers, &queues.autoscalers, namespace);
    wake(&context.caches.runners, &queues.runners, namespace);
    wake(&context.caches.pods, &queues.pods, namespace);
}

/// The earliest of several instants.
fn soonest<const N: usize>(instants: [Option<Timestamp>; N]) -> Option<Timestamp> {
    instants.into_iter().flatten().min()
}

/// Time left until an instant, at least a millisecond so that "now" does not spin.
fn until(at: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    at.map(|at| {
        Duration::try_from(at.duration_since(now))
            .unwrap_or_default()
            .max(Duration::from_millis(1))
    })
}

/// Reports a failure where the user looks: an Event and the condition of the object, by the table of 91 B5.
fn report_failure<K: Conditioned>(
    component: &'static str,
) -> impl Fn(Arc<K>, Arc<Context>, &Error, u32) + Send + Sync + 'static {
    move |object, context, error, count| {
        let class = error.class();
        let waits = class.is_waiting();
        if !waits {
            context.metrics.failed(class.as_str());
        }
        let quiet = match class {
            Class::Conflict => true,
            Class::Waits(left) => left < WORTH_TELLING,
            Class::Unavailable => count < REPORT_AFTER,
            _ => false,
        };
        if quiet {
            return;
        }
        let reason = error.reason();
        let chain = muster_runtime::telemetry::chain(error);
        let message = match error.remedy() {
            "" => chain,
            remedy => format!("{chain}. {remedy}"),
        };
        let message = match error.opens_at() {
            Some(at) => format!("{message} {}", muster_core::explain::text::until(at)),
            None => message,
        };
        let event = match (error, component) {
            (Error::GitHub { .. } | Error::Credentials { .. }, "runner-controller") => {
                "FailedUpdateRegistrationToken"
            }
            (
                _,
                "horizontalrunnerautoscaler-controller"
                | "runnerdeployment-controller"
                | "runnerset-controller",
            ) => "RunnerAutoscalingFailure",
            _ => reason,
        };
        // Waiting is no failure: the condition tells, nobody is warned.
        if !waits {
            context
                .recorder
                .record(&*object, component, Severity::Warning, event, &message);
        }
        let now = context.clock.now();
        let report = Arc::clone(&context);
        context.tasks.spawn(async move {
            let verdict = Verdict::wrong(reason, &message);
            conditions::report(&report.client, &*object, &verdict, now).await;
        });
    }
}

/// Pods, claims and volumes have no status of ours: their failures are counted and logged.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature of the driver's callback"
)]
fn count_failure<K>(_object: Arc<K>, context: Arc<Context>, error: &Error, _count: u32) {
    let class = error.class();
    if !class.is_waiting() {
        context.metrics.failed(class.as_str());
    }
}
