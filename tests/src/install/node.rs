//! The node that the pods of a release run on: binds them, runs their containers as processes with the token of the pod's own service account,
//! probes them, says how they are, and ends them as a kubelet does. Containers of other images are taken for running.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Binding, Container, ObjectReference, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    control_plane::ControlPlane,
    keeper::{Keeper, Kept},
    kubelet::now,
};

use super::pod::{self, Ports, Program};

/// The node's name.
const NODE: &str = "muster-install";
/// Time between two looks at a pod.
const LOOK: Duration = Duration::from_millis(100);
/// Time until a container that has ended is started again.
const BACK_OFF: Duration = Duration::from_millis(500);

/// What is known of a pod that runs here.
#[derive(Clone, Debug, Default)]
struct Known {
    ports: Ports,
    ready: bool,
}

struct Shared {
    plane: Arc<ControlPlane>,
    client: Client,
    ns: String,
    /// Variables of all processes that the chart says nothing of.
    env: BTreeMap<String, String>,
    keeper: Keeper,
    http: reqwest::Client,
    pods: Mutex<HashMap<String, Known>>,
    /// What the ended containers last said, for the one who waits for them.
    endings: Mutex<Vec<String>>,
}

/// A running node of one namespace. Dropping it kills everything that runs on it.
pub(super) struct Node {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Node {
    pub(super) async fn start(
        plane: &Arc<ControlPlane>,
        ns: &str,
        env: BTreeMap<String, String>,
    ) -> Result<Self> {
        let client = plane.admin().await?;
        let shared = Arc::new(Shared {
            plane: plane.clone(),
            client,
            ns: ns.to_owned(),
            env,
            keeper: Keeper::new("node")?,
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(2))
                .build()
                .context("could not make an HTTP client")?,
            pods: Mutex::default(),
            endings: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let serving = serve(shared.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        Ok(Self { shared, stop })
    }

    /// Where a port of the ready pods with these labels is on this machine.
    pub(super) async fn endpoints(
        &self,
        labels: &str,
        port: impl Fn(&[Container]) -> Result<u16>,
    ) -> Result<Vec<u16>> {
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), &self.shared.ns);
        let pods = api.list(&ListParams::default().labels(labels)).await;
        let mut found = Vec::new();
        for pod in pods.context("could not list the pods of a Service")? {
            let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice());
            let known = lock(&self.shared.pods).get(&pod.name_any()).cloned();
            let Some(known) = known.filter(|known| known.ready) else {
                continue;
            };
            found.extend(known.ports.of(port(containers.unwrap_or_default())?));
        }
        Ok(found)
    }

    /// The ends of the logs of all containers: those that run, and those that ended.
    pub(super) fn logs(&self) -> String {
        let mut parts = lock(&self.shared.endings).clone();
        let entries = fs::read_dir(self.shared.keeper.dir()).into_iter().flatten();
        for entry in entries.filter_map(std::result::Result::ok) {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let log = fs::read_to_string(&path).unwrap_or_default();
                let from = log.char_indices().rev().nth(3_000).map_or(0, |(index, _)| index);
                let end = log.get(from..).unwrap_or_default();
                parts.push(format!("--- {}\n{end}", path.display()));
            }
        }
        parts.join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(shared: Arc<Shared>, stop: CancellationToken) {
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), &shared.ns);
    let (tasks, mut seen) = (TaskTracker::new(), HashSet::new());
    let pods = watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects();
    pin_mut!(pods);
    while let Some(pod) = pods.next().await {
        let Ok(pod) = pod else { continue };
        let Some(uid) = pod.uid() else { continue };
        if !seen.insert(uid) {
            continue;
        }
        let run = Run::new(shared.clone(), pod);
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            let name = run.name.clone();
            if let Err(error) = run.live().await {
                tracing::warn!(pod = name, "The node gave a pod up: {error:#}");
            }
        }));
    }
}

/// A container that is ours, and its process.
struct Running {
    container: Container,
    program: Program,
    process: Option<Kept>,
    starts: usize,
    code: Option<i32>,
    again_at: Option<Instant>,
}

/// The life of a pod.
struct Run {
    shared: Arc<Shared>,
    api: Api<Pod>,
    pod: Pod,
    name: String,
    dir: PathBuf,
    began: String,
}

impl Run {
    fn new(shared: Arc<Shared>, pod: Pod) -> Self {
        let name = pod.name_any();
        Self {
            api: Api::namespaced(shared.client.clone(), &shared.ns),
            dir: shared.keeper.dir().join(format!("pod-{name}")),
            shared,
            name,
            pod,
            began: now().to_string(),
        }
    }

    async fn live(self) -> Result<()> {
        self.bind().await?;
        let Some(mut running) = self.prepared().await? else {
            return self.gone().await;
        };
        let mut told = Value::Null;
        loop {
            let Some(pod) = self.current().await? else {
                return Ok(());
            };
            if pod.metadata.deletion_timestamp.is_some() {
                self.end(&pod, &mut running).await?;
                return self.gone().await;
            }
            let ended = self.keep(&mut running)?;
            let ready = !ended && self.is_ready(&running).await;
            if let Some(known) = lock(&self.shared.pods).get_mut(&self.name) {
                known.ready = ready;
            }
            let status = self.status(&running, ready, ended);
            if status != told {
                self.tell(&status).await?;
                told = status;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn current(&self) -> Result<Option<Pod>> {
        let found = self
            .api
            .get_opt(&self.name)
            .await
            .context("could not read the pod")?;
        Ok(found.filter(|pod| pod.uid() == self.pod.uid()))
    }

    async fn bind(&self) -> Result<()> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(NODE.to_owned()),
                ..ObjectReference::default()
            },
        };
        let bound: Result<Value, _> = self
            .api
            .create_subresource("binding", &self.name, &PostParams::default(), &binding)
            .await;
        match bound {
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(()),
            other => other.map(drop).context("could not bind the pod"),
        }
    }

    /// The pod's processes, once everything that they need is there. `None` when the pod is deleted before.
    async fn prepared(&self) -> Result<Option<Vec<Running>>> {
        fs::create_dir_all(&self.dir).context("could not make the pod's folder")?;
        let mut told = String::new();
        loop {
            match self.current().await? {
                Some(pod) if pod.metadata.deletion_timestamp.is_none() => {}
                _ => return Ok(None),
            }
            let mut ports = Ports::default();
            match self.programs(&mut ports).await {
                Ok(running) => {
                    let known = Known { ports, ready: false };
                    lock(&self.shared.pods).insert(self.name.clone(), known);
                    return Ok(Some(running));
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    if told != text {
                        lock(&self.shared.endings).push(format!("pod {} waits: {text}", self.name));
                        told = text;
                    }
                }
            }
            tokio::time::sleep(LOOK * 3).await;
        }
    }

    async fn programs(&self, ports: &mut Ports) -> Result<Vec<Running>> {
        let spec = self.pod.spec.as_ref().context("the pod has no spec")?;
        let account = spec.service_account_name.as_deref().unwrap_or("default");
        let token = self.dir.join("kubeconfig.json");
        self.shared
            .plane
            .token_file(&self.shared.ns, account, &token)
            .await?;
        let mut running = Vec::new();
        for container in &spec.containers {
            if pod::executable(container).is_none() {
                continue;
            }
            let mut program =
                pod::program(&self.shared.client, &self.pod, container, ports, &self.dir).await?;
            for (name, value) in &self.shared.env {
                let unsaid = program.env.entry(name.clone());
                unsaid.or_insert_with(|| value.clone());
            }
            program
                .env
                .insert("KUBECONFIG".to_owned(), token.display().to_string());
            running.push(Running {
                container: container.clone(),
                program,
                process: None,
                starts: 0,
                code: None,
                again_at: Some(Instant::now()),
            });
        }
        if running.is_empty() {
            bail!("none of the pod's containers is one of ours");
        }
        Ok(running)
    }

    /// Starts what is due and notices what has ended. Answers whether all is over for good.
    fn keep(&self, running: &mut [Running]) -> Result<bool> {
        let policy = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref());
        let again = policy != Some("Never");
        for one in &mut *running {
            if let Some(status) = one.process.as_mut().and_then(Kept::ended) {
                let tail = one.process.as_ref().map(|process| process.log_tail(2_000));
                lock(&self.shared.endings).push(format!(
                    "container {} of {} ended ({status}): {}",
                    one.container.name,
                    self.name,
                    tail.unwrap_or_default()
                ));
                one.code = Some(status.code().unwrap_or(137));
                one.process = None;
                one.again_at = again.then(|| Instant::now() + BACK_OFF);
            }
            if one.process.is_none() && one.again_at.is_some_and(|at| at <= Instant::now()) {
                let Program { path, args, env } = &one.program;
                let name = format!("{}-{}", self.name, one.container.name);
                one.process = Some(self.shared.keeper.spawn(&name, path, args, env)?);
                one.starts += 1;
                one.again_at = None;
            }
        }
        Ok(running
            .iter()
            .all(|one| one.process.is_none() && one.again_at.is_none()))
    }

    /// Whether all readiness probes succeed; their delays are left out.
    async fn is_ready(&self, running: &[Running]) -> bool {
        let ports = match lock(&self.shared.pods).get(&self.name) {
            Some(known) => known.ports.clone(),
            None => return false,
        };
        for one in running {
            if one.process.is_none() {
                return false;
            }
            let probe = one.container.readiness_probe.as_ref();
            let Some(get) = probe.and_then(|probe| probe.http_get.as_ref()) else {
                continue;
            };
            let Ok(url) = pod::probe_url(get, &one.container, &ports) else {
                return false;
            };
            match self.shared.http.get(url).send().await {
                Ok(answer) if answer.status().is_success() => {}
                _ => return false,
            }
        }
        true
    }

    fn status(&self, running: &[Running], ready: bool, ended: bool) -> Value {
        let code = running.iter().filter_map(|one| one.code).max().unwrap_or(0);
        let phase = match (ended, code) {
            (true, 0) => "Succeeded",
            (true, _) => "Failed",
            (false, _) => "Running",
        };
        let containers = self.pod.spec.iter().flat_map(|spec| &spec.containers);
        let statuses: Vec<Value> = containers
            .map(|container| {
                let ours = running.iter().find(|one| one.container.name == container.name);
                let restarts = ours.map_or(0, |one| one.starts.saturating_sub(1));
                let state = if ended {
                    json!({"terminated": {"exitCode": code}})
                } else {
                    json!({"running": {}})
                };
                json!({"name": container.name, "image": container.image, "imageID": "none", "ready": ready,
                    "started": !ended, "restartCount": restarts, "state": state})
            })
            .collect();
        let condition =
            |kind: &str, is: bool| json!({"type": kind, "status": if is { "True" } else { "False" }});
        json!({
            "phase": phase,
            "podIP": "127.0.0.1",
            "conditions": [
                condition("PodScheduled", true), condition("Initialized", true),
                condition("ContainersReady", ready), condition("Ready", ready),
            ],
            "containerStatuses": statuses,
        })
    }

    async fn tell(&self, status: &Value) -> Result<()> {
        let mut patch = json!({"metadata": {"uid": self.pod.uid()}, "status": status});
        let at = json!(now().to_string());
        let conditions = patch
            .pointer_mut("/status/conditions")
            .and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten() {
            if let Some(fields) = condition.as_object_mut() {
                fields.insert("lastTransitionTime".to_owned(), at.clone());
            }
        }
        if let Some(fields) = patch.pointer_mut("/status").and_then(Value::as_object_mut) {
            fields.insert("startTime".to_owned(), json!(self.began));
        }
        match self
            .api
            .patch_status(&self.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            other => other.map(drop).context("could not write the pod's status"),
        }
    }

    /// SIGTERM, the grace period, SIGKILL.
    async fn end(&self, pod: &Pod, running: &mut [Running]) -> Result<()> {
        lock(&self.shared.pods).remove(&self.name);
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let mut left: Vec<Kept> = running.iter_mut().filter_map(|one| one.process.take()).collect();
        for process in &mut left {
            if process.ended().is_none() {
                process.terminate()?;
            }
        }
        for process in &mut left {
            if process.wait(grace).await.is_err() {
                process.kill()?;
            }
        }
        Ok(())
    }

    /// The pod may go.
    async fn gone(&self) -> Result<()> {
        lock(&self.shared.pods).remove(&self.name);
        let at_once = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        match self.api.delete(&self.name, &at_once).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            other => other.map(drop).context("could not delete the pod"),
        }
    }
}
