//! Simulated storage: what stands beside the real binder of kube-controller-manager.
//!
//! 1. The *provisioner* makes a volume for a claim that the binder hands to it, and deletes released volumes whose
//!    policy says so, as a storage driver does ([`provisioner`]).
//! 2. The *scheduler's part*: a pod with claims gets a node on which all its volumes can be, and claims that wait for
//!    their first consumer get a free volume or the node to be provisioned on ([`placement`]).
//! 3. The *book*: which volume was mounted by which pod, and when; two at once is a double mount ([`book`]).
//!
//! Binding itself, the phases and the protecting finalizers are Kubernetes' own.

mod book;
mod placement;
mod provisioner;
mod topology;

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
    runtime::{
        WatchStreamExt,
        reflector::{self, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    book::{Mount, VolumeCounters},
    topology::{Node, ZONE},
};

use self::{
    book::Book,
    placement::{Decision, Step, View},
};

/// Annotation of a claim: the node that its volume is to be reachable from. The scheduler sets it.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotation that tells the binder's own bindings from those of users.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// When the volumes of a class come to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BindingMode {
    /// With the claim, wherever its pod may be.
    Immediate,
    /// When a pod that uses the claim has a node.
    #[default]
    WaitForFirstConsumer,
}

impl BindingMode {
    fn name(self) -> &'static str {
        match self {
            Self::Immediate => "Immediate",
            Self::WaitForFirstConsumer => "WaitForFirstConsumer",
        }
    }
}

/// What becomes of a released volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReclaimPolicy {
    /// Its storage is deleted.
    #[default]
    Delete,
    /// It stays until somebody decides.
    Retain,
}

impl ReclaimPolicy {
    fn name(self) -> &'static str {
        match self {
            Self::Delete => "Delete",
            Self::Retain => "Retain",
        }
    }
}

/// How the storage behaves.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// The namespace whose claims are served; also the name of the default class.
    pub namespace: String,
    /// The nodes that pods can be on.
    pub nodes: Vec<Node>,
    /// The default class: when its volumes come to be.
    pub binding: BindingMode,
    /// The default class: what becomes of released volumes.
    pub reclaim: ReclaimPolicy,
    /// How long it takes to make a volume.
    pub provision_delay: Duration,
}

/// The running simulation. Dropping it stops the provisioner.
pub struct SimStorage {
    client: Client,
    options: StorageOptions,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    classes: Store<StorageClass>,
    book: Book,
    changed: watch::Sender<u64>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimStorage")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What became of a pod that looks for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// It goes to this node with these volumes.
    On {
        /// The node's name.
        node: String,
        /// The volumes' names, each with its claim's.
        volumes: Vec<Bound>,
    },
    /// Not now. Worth a word to people where nothing that is under way will change it.
    Waits(Option<String>),
}

/// A volume that a pod is about to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) volume: String,
    pub(crate) claim: String,
    /// Several pods may mount it at once.
    pub(crate) shared: bool,
}

impl SimStorage {
    /// Starts the simulation with a default class named after the namespace.
    pub async fn start(client: Client, options: StorageOptions) -> Result<Arc<Self>> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let changed = watch::Sender::new(0);
        let claims = Api::namespaced(client.clone(), &options.namespace);
        let storage = Arc::new(Self {
            claims: follow(claims, &changed, &stop, &tasks),
            volumes: follow(Api::all(client.clone()), &changed, &stop, &tasks),
            classes: follow(Api::all(client.clone()), &changed, &stop, &tasks),
            client,
            options,
            book: Book::default(),
            changed,
            stop,
            tasks,
        });
        storage
            .class(
                &storage.options.namespace,
                storage.options.binding,
                storage.options.reclaim,
            )
            .await?;
        for ready in [
            storage.claims.wait_until_ready().await,
            storage.volumes.wait_until_ready().await,
            storage.classes.wait_until_ready().await,
        ] {
            ready.context("the storage simulation ended before it began")?;
        }
        let provisioning = provisioner::run(Arc::downgrade(&storage));
        let ended = storage.stop.clone();
        storage
            .tasks
            .spawn(async move { ended.run_until_cancelled(provisioning).await });
        Ok(storage)
    }

    /// The name of the simulated driver, which the classes name as their provisioner.
    pub fn provisioner(&self) -> String {
        format!("{}.sim.muster.dev", self.options.namespace)
    }

    /// Makes a class of this storage.
    pub async fn class(&self, name: &str, binding: BindingMode, reclaim: ReclaimPolicy) -> Result<()> {
        let class = StorageClass {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            provisioner: self.provisioner(),
            reclaim_policy: Some(reclaim.name().to_owned()),
            volume_binding_mode: Some(binding.name().to_owned()),
            ..StorageClass::default()
        };
        let api: Api<StorageClass> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &class).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            other => other.map(drop).context("could not make a storage class"),
        }
    }

    /// Sums over everything seen so far.
    pub fn counters(&self) -> VolumeCounters {
        self.book.counters()
    }

    /// Every mount so far, in the order of their beginnings.
    pub fn mounts(&self) -> Vec<Mount> {
        self.book.mounts()
    }

    /// The volumes of this storage's classes as they are now.
    pub fn volumes(&self) -> Vec<PersistentVolume> {
        let own = self.provisioner();
        let is_own =
            |volume: &PersistentVolume| volume.annotations().get(provisioner::PROVISIONED_BY) == Some(&own);
        let all = self.volumes.state();
        all.iter().filter(|v| is_own(v)).map(|v| (**v).clone()).collect()
    }

    /// Tells of every change of claims, volumes and mounts.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Looks for a node for a pod and does what brings it nearer to one.
    pub(crate) async fn place(&self, pod: &Pod) -> Placement {
        let Some(spec) = &pod.spec else {
            return Placement::Waits(None);
        };
        let uid = pod.uid().unwrap_or_default();
        let (claims, volumes, classes) = (self.claims.state(), self.volumes.state(), self.classes.state());
        let view = View {
            spec,
            claims: &claims,
            volumes: &volumes,
            classes: &classes,
            nodes: &self.options.nodes,
            turn: self.book.placed(),
        };
        match placement::decide(&view) {
            Decision::Waits(reason) => Placement::Waits(reason),
            Decision::Acts(steps) => {
                for step in steps {
                    self.act(&step).await;
                }
                Placement::Waits(None)
            }
            Decision::On { node, volumes, alone } => {
                if self.book.reserve(&uid, &alone) {
                    Placement::On { node, volumes }
                } else {
                    let taken = "a ReadWriteOncePod claim is in use by another pod";
                    Placement::Waits(Some(taken.to_owned()))
                }
            }
        }
    }

    /// A step that fails because its object has changed is decided anew.
    async fn act(&self, step: &Step) {
        let done = match step {
            Step::Reserve {
                volume,
                version,
                claim,
            } => {
                let patch = Patch::Merge(json!({
                    "metadata": {"resourceVersion": version, "annotations": {(BOUND_BY_CONTROLLER): "yes"}},
                    "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                        "namespace": self.options.namespace, "name": claim.0, "uid": claim.1}},
                }));
                let api: Api<PersistentVolume> = Api::all(self.client.clone());
                api.patch(volume, &PatchParams::default(), &patch).await.map(drop)
            }
            Step::Provision { claim, node } => {
                let patch = Patch::Merge(json!({
                    "metadata": {"uid": claim.1, "annotations": {(SELECTED_NODE): node}},
                }));
                let api: Api<PersistentVolumeClaim> =
                    Api::namespaced(self.client.clone(), &self.options.namespace);
                api.patch(&claim.0, &PatchParams::default(), &patch)
                    .await
                    .map(drop)
            }
        };
        if let Err(error) = done {
            tracing::debug!(%error, ?step, "The simulated scheduler decides again");
        }
    }

    /// A pod's containers are about to run.
    pub(crate) fn mount(&self, pod: &str, name: &str, node: &str, volumes: &[Bound]) {
        self.book.mount(pod, name, node, volumes);
    }

    /// A pod's containers have ended, or the pod is gone.
    pub(crate) fn unmount(&self, pod: &str) {
        self.book.unmount(pod);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Removes the classes of this storage, which belong to no namespace.
    pub async fn forget(&self) -> Result<()> {
        let api: Api<StorageClass> = Api::all(self.client.clone());
        let own = self.provisioner();
        for class in self.classes.state().iter().filter(|c| c.provisioner == own) {
            match api.delete(&class.name_any(), &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                other => drop(other.context("could not remove a storage class")?),
            }
        }
        Ok(())
    }
}

impl Drop for SimStorage {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
    }
}

/// Keeps a store of all objects of a kind, and counts its changes.
fn follow<K>(
    api: Api<K>,
    changed: &watch::Sender<u64>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Store<K>
where
    K: Resource<DynamicType: Default + Clone + Eq + Hash>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let events = reflector::reflector(writer, watcher(api, watcher::Config::default())).default_backoff();
    let (changed, stop) = (changed.clone(), stop.clone());
    tasks.spawn(async move {
        pin_mut!(events);
        while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
            match event {
                Ok(_) => changed.send_modify(|version| *version += 1),
                Err(error) => tracing::debug!(%error, "A watch of the storage simulation broke"),
            }
        }
    });
    store
}

/// The storage that is asked for, in bytes. Zero when there is none or it cannot be read.
fn bytes(
    quantities: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
) -> u64 {
    let text = quantities
        .and_then(|all| all.get("storage"))
        .map_or("", |q| q.0.as_str());
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text.get(digits.len()..).unwrap_or_default() {
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        _ => 1,
    };
    digits.parse::<u64>().unwrap_or_default().saturating_mul(unit)
}
