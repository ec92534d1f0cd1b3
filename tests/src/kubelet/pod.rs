//! One pod on the simulated node, from its first sight to its end: what scheduler, kubelet and container runtime
//! do with it.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::volumes::{Bound, Placement};

use super::{
    Shared,
    environment::{Environment, RUNNER},
    fault::{Fault, Strike},
    runner::{Agent, Exit},
    status::{self, Stage},
};

/// Pauses between attempts when the API server does not answer.
const BACKOFF: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// A pod that finds no node looks again so often, whatever changes.
const LOOK: Duration = Duration::from_secs(1);

/// The latest version of the object, or `None` when it is gone.
pub(super) type Seen = Option<Arc<Pod>>;

/// The object is gone, or replaced by a namesake: there is nothing more to do.
struct Gone;

/// How the containers stopped.
enum Stopped {
    /// The agent ended by itself or was struck.
    Exit(Exit),
    /// SIGKILL at the end of the grace period.
    Killed,
}

pub(super) struct PodTask {
    pub(super) shared: Arc<Shared>,
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) api: Api<Pod>,
    pub(super) seen: watch::Receiver<Seen>,
    pub(super) strikes: mpsc::UnboundedReceiver<Strike>,
}

impl PodTask {
    /// Returns when the object is gone.
    pub(super) async fn run(mut self) {
        // Gone early is as good an end as any.
        drop(self.live().await);
        while self.seen.borrow_and_update().is_some() {
            if self.seen.changed().await.is_err() {
                break;
            }
        }
        self.shared.ledger.gone(&self.uid);
        self.unmount();
    }

    async fn live(&mut self) -> Result<(), Gone> {
        let pod = self.pod()?;
        let fault = self.shared.fate.of(&pod);
        if is_finished(&pod) {
            // Somebody else ran it, before this simulation began.
            self.until_deleted().await?;
            return self.remove().await;
        }
        let Some(place) = self.schedule(&pod, fault).await? else {
            // Never on a node: the API server needs nobody's word to let it go.
            return Ok(());
        };
        let started = super::now();
        if fault == Some(Fault::NeverReady) {
            self.patch(Stage::ImagePull, started).await?;
            self.until_deleted().await?;
            return self.remove().await;
        }
        let mut delay = self.shared.fate.draw(&self.shared.options.start_delay);
        if let Some(Fault::SlowStart(more)) = fault {
            delay += more;
        }
        if self.wait(delay).await? == Reached::Deleted {
            return self.remove().await;
        }
        self.mount(&place);
        self.patch(Stage::Running, started).await?;
        self.shared.ledger.running(&self.uid);

        let Some(env) = Environment::of(&pod) else {
            // Not a runner: runs until it is deleted.
            self.until_deleted().await?;
            self.patch(Stage::Ended(0), started).await?;
            return self.remove().await;
        };
        let agent = Agent::new(
            env,
            self.shared.http.clone(),
            fault,
            self.uid.clone(),
            self.shared.ledger.clone(),
        );
        let stopped = self.run_agent(&agent).await;
        self.shared.ledger.ended(&self.uid);
        let Ok(stopped) = stopped else {
            // Deleted by force under the running containers.
            self.unmount();
            agent.bury().await;
            return Err(Gone);
        };
        let stage = match stopped {
            Stopped::Exit(Exit::Code(code) | Exit::Struck(Strike::Crash(code))) => Stage::RunnerEnded(code),
            Stopped::Exit(Exit::Struck(Strike::Evict)) => Stage::Evicted,
            Stopped::Exit(Exit::Struck(Strike::LoseNode)) => {
                agent.bury().await;
                // The status stays as it was, and nobody confirms a deletion.
                return Ok(());
            }
            Stopped::Killed => Stage::Ended(137),
        };
        if !matches!(stopped, Stopped::Exit(Exit::Code(_))) {
            agent.bury().await;
        }
        self.end(stage, started).await
    }

    /// The containers are about to use the pod's volumes.
    fn mount(&self, place: &Place) {
        if let Some(storage) = &self.shared.options.storage {
            storage.mount(&self.uid, &self.name, &place.node, &place.volumes);
        }
    }

    /// No container of the pod runs any more, as far as the node can tell.
    fn unmount(&self) {
        if let Some(storage) = &self.shared.options.storage {
            storage.unmount(&self.uid);
        }
    }

    /// Reports the end of the runner, waits for the pod's deletion, and confirms it.
    async fn end(&mut self, stage: Stage, started: Timestamp) -> Result<(), Gone> {
        let code = match stage {
            Stage::RunnerEnded(code) | Stage::Ended(code) => code,
            _ => 0,
        };
        let last = if stage == Stage::Evicted {
            Stage::Evicted
        } else {
            Stage::Ended(code)
        };
        let pod = self.pod()?;
        if pod.metadata.deletion_timestamp.is_some() {
            // The sidecars end with the runner.
            self.patch(last, started).await?;
            return self.remove().await;
        }
        let pod = self.patch(stage, started).await?;
        if is_finished_phase(&pod) {
            self.unmount();
        }
        self.until_deleted().await?;
        if !is_finished_phase(&pod) {
            self.patch(last, started).await?;
        }
        self.remove().await
    }

    /// Lets the agent live until it ends, is struck, or its grace period is over.
    async fn run_agent(&mut self, agent: &Agent) -> Result<Stopped, Gone> {
        let term = CancellationToken::new();
        let mut life = pin!(agent.live(&term));
        let mut deadline: Option<Instant> = None;
        let mut counted = false;
        loop {
            let pod = self.pod()?;
            if pod.metadata.deletion_timestamp.is_some() {
                self.shared.ledger.deleted(&self.uid);
                if !term.is_cancelled() && agent.is_busy() {
                    self.shared.ledger.busy_deleted();
                    counted = true;
                }
                term.cancel();
                let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
                let end = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
                deadline = Some(deadline.map_or(end, |old| old.min(end)));
            }
            let killed = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let stopped = tokio::select! {
                exit = &mut life => Stopped::Exit(exit),
                () = killed => Stopped::Killed,
                Some(strike) = self.strikes.recv() => Stopped::Exit(Exit::Struck(strike)),
                changed = self.seen.changed() => {
                    changed.map_err(|_| Gone)?;
                    continue;
                }
            };
            // A job that GitHub had given away just before SIGTERM counts as well.
            if !counted && agent.was_asked_while_busy() {
                self.shared.ledger.busy_deleted();
            }
            return Ok(stopped);
        }
    }

    /// Finds a node for the pod, where its volumes can be. `None` when it was deleted before it had one.
    async fn place(&mut self) -> Result<Option<Place>, Gone> {
        let Some(storage) = self.shared.options.storage.clone() else {
            return Ok(Some(Place {
                node: self.shared.options.node.clone(),
                volumes: Vec::new(),
            }));
        };
        let mut changes = storage.changes();
        let mut said = None;
        loop {
            changes.borrow_and_update();
            let pod = self.pod()?;
            if pod.metadata.deletion_timestamp.is_some() {
                self.until_deleted().await?;
                return Ok(None);
            }
            match storage.place(&pod).await {
                Placement::On { node, volumes } => return Ok(Some(Place { node, volumes })),
                Placement::Waits(Some(reason)) if said.as_ref() != Some(&reason) => {
                    self.refuse(&reason).await?;
                    said = Some(reason);
                }
                Placement::Waits(_) => {}
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep(LOOK) => {}
                changed = self.seen.changed() => changed.map_err(|_| Gone)?,
            }
        }
    }

    /// Binds the pod to a node. `None` when it was deleted before.
    async fn schedule(&mut self, pod: &Pod, fault: Option<Fault>) -> Result<Option<Place>, Gone> {
        if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
            let volumes = Vec::new();
            return Ok(Some(Place { node, volumes }));
        }
        if fault == Some(Fault::NeverScheduled) {
            self.refuse("0/1 nodes are available: 1 Insufficient cpu.")
                .await?;
            self.until_deleted().await?;
            return Ok(None);
        }
        let delay = self.shared.fate.draw(&self.shared.options.schedule_delay);
        if self.wait(delay).await? == Reached::Deleted {
            return Ok(None);
        }
        let Some(place) = self.place().await? else {
            return Ok(None);
        };
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                uid: Some(self.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(place.node.clone()),
                ..ObjectReference::default()
            },
        };
        let mut attempt = 0;
        loop {
            let bound: Result<serde_json::Value, _> = self
                .api
                .create_subresource("binding", &self.name, &PostParams::default(), &binding)
                .await;
            match bound {
                Ok(_) => {
                    self.shared.ledger.wrote();
                    return Ok(Some(place));
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => return Err(Gone),
                // A real scheduler was faster, or the pod is being deleted.
                Err(kube::Error::Api(status)) if status.is_conflict() => {
                    let is_deleted = self.pod()?.metadata.deletion_timestamp.is_some();
                    return Ok((!is_deleted).then_some(place));
                }
                Err(error) => self.back_off("bind", &error, &mut attempt).await?,
            }
        }
    }

    /// What a scheduler writes down when no node fits.
    async fn refuse(&mut self, reason: &str) -> Result<(), Gone> {
        let patch = status::unschedulable(&*self.pod()?, reason, super::now());
        let mut attempt = 0;
        loop {
            let patched = self
                .api
                .patch_status(&self.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            match patched {
                Ok(_) => {
                    self.shared.ledger.wrote();
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => return Err(Gone),
                // Another pod by this name.
                Err(kube::Error::Api(status)) if status.is_conflict() => return Ok(()),
                Err(error) => self.back_off("refuse", &error, &mut attempt).await?,
            }
        }
    }

    async fn patch(&mut self, stage: Stage, started: Timestamp) -> Result<Pod, Gone> {
        let mut attempt = 0;
        loop {
            let patch = status::patch(&*self.pod()?, stage, started, super::now());
            match self
                .api
                .patch_status(&self.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
            {
                Ok(pod) => {
                    self.shared.ledger.wrote();
                    return Ok(pod);
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => return Err(Gone),
                // A conflict may be another uid: the watch will tell.
                Err(error) => self.back_off("patch the status of", &error, &mut attempt).await?,
            }
        }
    }

    /// Confirms that the containers are gone. Finalizers may keep the object for longer.
    async fn remove(&mut self) -> Result<(), Gone> {
        // Before the object goes: a node confirms only what it has let go of.
        self.unmount();
        self.shared.ledger.deleted(&self.uid);
        if self.pod()?.metadata.deletion_grace_period_seconds == Some(0) {
            // Nothing to confirm: the API server waits for finalizers only.
            return Ok(());
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let mut attempt = 0;
        loop {
            match self.api.delete(&self.name, &params).await {
                Ok(_) => {
                    self.shared.ledger.wrote();
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => return Err(Gone),
                Err(error) => self.back_off("delete", &error, &mut attempt).await?,
            }
        }
    }

    /// Waits for `delay`, or until the pod is told to end.
    async fn wait(&mut self, delay: Duration) -> Result<Reached, Gone> {
        if self.pod()?.metadata.deletion_timestamp.is_some() {
            return Ok(Reached::Deleted);
        }
        if delay.is_zero() {
            return Ok(Reached::End);
        }
        tokio::select! {
            () = sleep(delay) => Ok(Reached::End),
            deleted = self.until_deleted() => deleted.map(|()| Reached::Deleted),
        }
    }

    async fn until_deleted(&mut self) -> Result<(), Gone> {
        while self.pod()?.metadata.deletion_timestamp.is_none() {
            self.seen.changed().await.map_err(|_| Gone)?;
        }
        self.shared.ledger.deleted(&self.uid);
        Ok(())
    }

    async fn back_off(&mut self, what: &str, error: &kube::Error, attempt: &mut usize) -> Result<(), Gone> {
        tracing::warn!(pod = self.name, %error, what, "The simulated kubelet tries again");
        let pause = BACKOFF
            .get(*attempt)
            .or(BACKOFF.last())
            .copied()
            .unwrap_or_default();
        *attempt += 1;
        sleep(pause).await;
        self.pod().map(drop)
    }

    /// The latest version of the object.
    fn pod(&mut self) -> Result<Arc<Pod>, Gone> {
        self.seen.borrow_and_update().clone().ok_or(Gone)
    }
}

/// Where a pod is, and what it uses there.
struct Place {
    node: String,
    volumes: Vec<Bound>,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    End,
    Deleted,
}

fn is_finished_phase(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether the container `runner` has ended already.
fn is_finished(pod: &Pod) -> bool {
    let containers = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let ended = containers
        .filter(|container| container.name == RUNNER)
        .any(|container| {
            container
                .state
                .as_ref()
                .is_some_and(|state| state.terminated.is_some())
        });
    ended || is_finished_phase(pod)
}

impl std::fmt::Debug for PodTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodTask")
            .field("name", &self.name)
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

/// The key of a pod in the watch: its uid, or its name for the odd object without one.
pub(super) fn key(pod: &Pod) -> String {
    pod.uid().unwrap_or_else(|| pod.name_any())
}
