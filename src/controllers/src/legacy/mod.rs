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

pub(crate) mod autoscaler;
pub(crate) mod linked;
pub(crate) mod reconciliation;
mod runner;
mod runner_deployment;
mod runner_pod;
mod runner_rbac;
mod runner_replica_set;
pub(crate) mod tracking;

use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod};
use kube::{Api, Client, Resource, ResourceExt, core::DeserializeGuard, runtime::watcher};
use muster_crds::{
    keys,
    legacy::{HorizontalRunnerAutoscaler, Runner, RunnerDeployment, RunnerReplicaSet},
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
    ends::Ends,
    error::Error,
    events::{Recorder, Severity},
    metrics::Metrics,
    owner::ControllerOwner,
};

/// Reconciles of one kind at a time.
const CONCURRENCY: u16 = 32;
/// An object that the API server does not answer for is reported to its user after so many failures in a row.
const REPORT_AFTER: u32 = 5;

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
    let caches = Caches {
        autoscalers,
        deployments,
        replica_sets,
        runners,
        pods,
    };
    let queues = Arc::new(Queues {
        autoscalers: Queue::default(),
        deployments: Queue::default(),
        replica_sets: Queue::default(),
        runners: Queue::default(),
        pods: Queue::default(),
    });
    let (recorder, write_events) = Recorder::new(client.clone(), clock.clone(), shutdown.clone());
    let ends = Arc::new(Ends::default());
    let namespace = settings.watch_namespace.clone();
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
        linked_failures: linked::FirstFailures::default(),
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
        (client, namespace.as_deref()),
        &shutdown,
    );
    let synced = wait_for_caches(&caches, &shutdown);
    let controllers = async {
        // Decisions are made from complete caches only.
        if !synced.await {
            return;
        }
        futures::join!(
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
            ),
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
            reconciliation::run(Arc::clone(&context), shutdown.clone()),
        );
        tracing::info!("The controllers have stopped.");
    };
    futures::join!(watches, controllers, write_events);
    context.tasks.close();
    context.tasks.wait().await;
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
    };
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    while !synced() {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return false,
        }
    }
    tracing::info!("The caches are complete; the controllers start.");
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
            if context.caches.deployments.get(&namespace, &name).is_none() {
                context.metrics.deployment(&namespace, &name, None);
            }
            wake.deployments.add(&namespace, &name);
            wake_autoscalers(&context, &wake, &namespace, &name);
        })
    };
    let sets = {
        let (wake, context) = (Arc::clone(queues), Arc::clone(context));
        feeds.set_feed.wakes(move |set| {
            let (namespace, name) = place(set);
            wake.replica_sets.add(&namespace, &name);
            if let Some(owner) = set.controller_owner() {
                wake.deployments.add(&namespace, &owner.name);
                wake_autoscalers(&context, &wake, &namespace, &owner.name);
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
                if let Some(deployment) = pod.labels().get(keys::LABEL_RUNNER_DEPLOYMENT_NAME) {
                    wake_autoscalers(&context, &wake, &namespace, deployment);
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
        let node_name = spec.node_name.take();
        *spec = k8s_openapi::api::core::v1::PodSpec {
            node_name,
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

fn refers_to(autoscaler: &HorizontalRunnerAutoscaler, namespace: &str, deployment: &str) -> bool {
    autoscaler.metadata.namespace.as_deref() == Some(namespace)
        && autoscaler.spec.scale_target_ref.as_ref().is_some_and(|target| {
            target.name.as_deref() == Some(deployment)
                && target
                    .kind
                    .as_deref()
                    .is_none_or(|kind| kind.is_empty() || kind == "RunnerDeployment")
        })
}

/// Whether an autoscaler refers to this RunnerDeployment.
fn is_autoscaled(context: &Context, namespace: &str, deployment: &str) -> bool {
    context.caches.autoscalers.all().iter().any(|autoscaler| {
        autoscaler.metadata.deletion_timestamp.is_none() && refers_to(autoscaler, namespace, deployment)
    })
}

fn wake_autoscalers(context: &Context, queues: &Queues, namespace: &str, deployment: &str) {
    for autoscaler in context.caches.autoscalers.all() {
        if refers_to(&autoscaler, namespace, deployment) {
            queues.autoscalers.add(namespace, &autoscaler.name_any());
        }
    }
}

fn wake_sets_of_target(context: &Context, queues: &Queues, autoscaler: &HorizontalRunnerAutoscaler) {
    let namespace = autoscaler.namespace().unwrap_or_default();
    let Some(target) = autoscaler
        .spec
        .scale_target_ref
        .as_ref()
        .and_then(|target| target.name.as_deref())
    else {
        return;
    };
    let Some(deployment) = context.caches.deployments.get(&namespace, target) else {
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
        context.metrics.failed(class.as_str());
        let quiet = match class {
            Class::Conflict => true,
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
        let event = match (error, component) {
            (Error::GitHub { .. } | Error::Credentials { .. }, "runner-controller") => {
                "FailedUpdateRegistrationToken"
            }
            (_, "horizontalrunnerautoscaler-controller" | "runnerdeployment-controller") => {
                "RunnerAutoscalingFailure"
            }
            _ => reason,
        };
        context
            .recorder
            .record(&*object, component, Severity::Warning, event, &message);
        let now = context.clock.now();
        let report = Arc::clone(&context);
        context.tasks.spawn(async move {
            let verdict = Verdict::wrong(reason, &message);
            conditions::report(&report.client, &*object, &verdict, now).await;
        });
    }
}

/// Pods have no status of ours: their failures are counted and logged.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature of the driver's callback"
)]
fn count_failure(_pod: Arc<Pod>, context: Arc<Context>, error: &Error, _count: u32) {
    context.metrics.failed(error.class().as_str());
}
