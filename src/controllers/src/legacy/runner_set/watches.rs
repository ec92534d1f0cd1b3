//! The watches of what RunnerSets are made of, and who wakes whom:
//!
//! | change of | wakes |
//! |---|---|
//! | RunnerSet | itself; the autoscalers that refer to it; its kept volumes, when it keeps others than before |
//! | StatefulSet | its RunnerSet; its claims |
//! | pod of a StatefulSet | its RunnerSet; its claims |
//! | claim | itself; its RunnerSet |
//! | kept volume | itself; its RunnerSet; by its reconcile those that it displaces |
//!
//! All but RunnerSets are selected by label: volumes and claims of others cost nothing.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
};
use kube::{Api, Client, ResourceExt, runtime::watcher};
use muster_core::target::{TargetId, TargetKind};
use muster_crds::{keys, legacy::RunnerSet};
use muster_runtime::{
    drive::{Cache, Feed},
    metrics::ReconcileMetrics,
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{Queues, api, count_failure, drive, place, report_failure, wait_until, wake_autoscalers},
    claims, kept, offer,
};
use crate::{
    context::{Caches, Context},
    owner::ControllerOwner,
};

/// What fills the caches.
pub(in crate::legacy) struct Feeds {
    sets: Feed<RunnerSet>,
    stateful_sets: Feed<StatefulSet>,
    claims: Feed<PersistentVolumeClaim>,
    volumes: Feed<PersistentVolume>,
}

/// The caches of RunnerSets and of what they are made of.
pub(in crate::legacy) struct Made {
    pub(in crate::legacy) sets: Cache<RunnerSet>,
    pub(in crate::legacy) stateful_sets: Cache<StatefulSet>,
    pub(in crate::legacy) claims: Cache<PersistentVolumeClaim>,
    pub(in crate::legacy) volumes: Cache<PersistentVolume>,
}

impl Feeds {
    pub(in crate::legacy) fn new() -> (Self, Made) {
        let ((sets, set_cache), (stateful_sets, stateful_set_cache)) = (Feed::new(), Feed::new());
        let ((claims, claim_cache), (volumes, volume_cache)) = (Feed::new(), Feed::new());
        let feeds = Self {
            sets,
            stateful_sets,
            claims,
            volumes,
        };
        let made = Made {
            sets: set_cache,
            stateful_sets: stateful_set_cache,
            claims: claim_cache,
            volumes: volume_cache,
        };
        (feeds, made)
    }

    /// Watches until `shutdown`.
    pub(in crate::legacy) fn run(
        self,
        context: &Arc<Context>,
        queues: &Arc<Queues>,
        (client, namespace): (Client, Option<&str>),
        shutdown: &CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let with = |label: &str| watcher::Config::default().labels(label);
        let of_namespace = namespace.map_or_else(
            || keys::LABEL_RUNNERSET_NAMESPACE.to_owned(),
            |namespace| format!("{}={namespace}", keys::LABEL_RUNNERSET_NAMESPACE),
        );
        let sets = {
            let (wake, context) = (Arc::clone(queues), Arc::clone(context));
            self.sets.wakes(move |set| {
                let (namespace, name) = place(set);
                let target = TargetId::new(TargetKind::Set, &*namespace, &*name);
                let current = context.caches.runner_sets.get(&namespace, &name);
                if current.is_none() {
                    context.metrics.target(&target, None);
                }
                let limits = current.as_deref().map(|set| kept::limits(&context, Some(set)));
                if context.storage.limits_changed(&namespace, &name, limits) {
                    for volume in offer::kept(&context, &namespace, &name) {
                        wake.volumes.add("", &volume.name_any());
                    }
                }
                wake.runner_sets.add(&namespace, &name);
                wake_autoscalers(&context, &wake, &target);
            })
        };
        let stateful_sets = {
            let (wake, context) = (Arc::clone(queues), Arc::clone(context));
            self.stateful_sets.wakes(move |owner| {
                let (namespace, name) = place(owner);
                if let Some(set) = owner.controller_owner() {
                    wake.runner_sets.add(&namespace, &set.name);
                }
                if context.caches.stateful_sets.get(&namespace, &name).is_none() {
                    wake_claims(&context.caches, &wake, &namespace, &name);
                }
            })
        };
        let claims = {
            let (wake, context) = (Arc::clone(queues), Arc::clone(context));
            self.claims.wakes(move |claim| {
                let (namespace, name) = place(claim);
                if context.caches.claims.get(&namespace, &name).is_none() {
                    context.storage.forget(&claim.uid().unwrap_or_default());
                }
                wake.claims.add(&namespace, &name);
                if let Some(set) = claim.labels().get(keys::LABEL_RUNNERSET_NAME) {
                    wake.runner_sets.add(&namespace, set);
                }
            })
        };
        let volumes = {
            let (wake, context) = (Arc::clone(queues), Arc::clone(context));
            self.volumes.wakes(move |volume| {
                let name = volume.name_any();
                if context.caches.volumes.get("", &name).is_none() {
                    context.storage.forget(&kept::when_free(&name));
                    context.storage.forget(&kept::when_orphan(&name));
                    context.storage.forget(&volume.uid().unwrap_or_default());
                }
                wake.volumes.add("", &name);
                if let Some((namespace, set)) = offer::keeper(volume) {
                    wake.runner_sets.add(namespace, set);
                }
            })
        };
        let watches = (
            sets.run(
                api(&client, namespace),
                watcher::Config::default(),
                shutdown.clone(),
            ),
            stateful_sets.run(
                api(&client, namespace),
                with(keys::LABEL_RUNNER_TEMPLATE_HASH),
                shutdown.clone(),
            ),
            claims.run(
                api(&client, namespace),
                with(keys::LABEL_RUNNERSET_NAME),
                shutdown.clone(),
            ),
            volumes.run(Api::all(client), with(&of_namespace), shutdown.clone()),
        );
        async move {
            futures::join!(watches.0, watches.1, watches.2, watches.3);
        }
    }
}

/// Wakes who waits for this pod of a StatefulSet.
pub(in crate::legacy) fn wake_of_pod(context: &Context, queues: &Queues, pod: &Pod) {
    let Some(owner) = pod.controller_owner().filter(|owner| owner.kind == "StatefulSet") else {
        return;
    };
    let (namespace, name) = place(pod);
    if let Some(set) = pod.labels().get(keys::LABEL_RUNNERSET_NAME) {
        queues.runner_sets.add(&namespace, set);
    }
    if context.caches.pods.get(&namespace, &name).is_none() {
        wake_claims(&context.caches, queues, &namespace, &owner.name);
    }
}

fn wake_claims(caches: &Caches, queues: &Queues, namespace: &str, owner: &str) {
    for claim in caches.claims.in_namespace(namespace) {
        let label = claim.labels().get(keys::LABEL_RUNNER_STATEFULSET_NAME);
        if label.is_none_or(|label| label == owner) {
            queues.claims.add(namespace, &claim.name_any());
        }
    }
}

/// Runs the controllers once their caches are complete. Where a right is missing those stay empty and nothing of RunnerSets happens, while the other
/// kinds work: the log says which watch fails.
pub(in crate::legacy) async fn control(
    context: Arc<Context>,
    queues: Arc<Queues>,
    metrics: ReconcileMetrics,
    shutdown: CancellationToken,
) {
    let caches = &context.caches;
    let synced =
        || caches.stateful_sets.is_synced() && caches.claims.is_synced() && caches.volumes.is_synced();
    if !wait_until(synced, &shutdown).await {
        return;
    }
    let name = "runnerset-controller";
    let sets = drive(name, &caches.runner_sets, &queues.runner_sets, &metrics).run(
        Arc::clone(&context),
        shutdown.clone(),
        super::reconcile,
        report_failure(name),
    );
    let of_claims = drive(
        "runnerpersistentvolumeclaim-controller",
        &caches.claims,
        &queues.claims,
        &metrics,
    )
    .run(
        Arc::clone(&context),
        shutdown.clone(),
        claims::reconcile,
        count_failure,
    );
    let of_volumes = drive(
        "runnerpersistentvolume-controller",
        &caches.volumes,
        &queues.volumes,
        &metrics,
    )
    .run(
        Arc::clone(&context),
        shutdown.clone(),
        {
            let queues = Arc::clone(&queues);
            move |volume, context| kept::reconcile(volume, context, Arc::clone(&queues))
        },
        count_failure,
    );
    futures::join!(sets.boxed(), of_claims.boxed(), of_volumes.boxed());
}
