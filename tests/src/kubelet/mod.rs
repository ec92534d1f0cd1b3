//! The simulated kubelet and the runner agents on its one node.
//!
//! It watches pods, binds them, reports them running, and lives their lives: every pod is one task that reads the
//! pod's own environment, never the controllers' internals. Termination works as on a real node: SIGTERM, a grace
//! period, SIGKILL, a last status and a forced deletion that finalizers may outlast.

mod environment;
pub mod fault;
mod ledger;
mod node;
mod pod;
mod runner;
mod status;

use std::{
    collections::HashMap,
    fmt,
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result};
use futures::{StreamExt, pin_mut};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::volumes::{Node, SimStorage};

pub use self::{
    fault::{Fault, FaultRule, Strike, When},
    ledger::{Counters, JobOutcome, JobRun, PodTrace},
};

use self::{
    fault::Fate,
    ledger::Ledger,
    node::NodeObject,
    pod::{PodTask, Seen},
};

/// How the node behaves.
#[derive(Debug)]
pub struct SimOptions {
    /// The only namespace to serve; `None` for all.
    pub namespace: Option<String>,
    /// The node's name.
    pub node: String,
    /// Further nodes, each with a Node object; pods with claims go to these alone when there are any.
    pub nodes: Vec<Node>,
    /// Where the volumes of claims come from. Without it, claims are not looked at.
    pub storage: Option<Arc<SimStorage>>,
    /// Make a Node object, and keep it alive as a kubelet does (for clusters with a node controller).
    pub node_object: bool,
    /// Time until a new pod is bound to the node.
    pub schedule_delay: RangeInclusive<Duration>,
    /// Time from the binding until the containers run.
    pub start_delay: RangeInclusive<Duration>,
    /// Seed of everything that is left to chance.
    pub seed: u64,
    /// Faults from the start on.
    pub faults: Vec<FaultRule>,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            namespace: None,
            node: "muster-sim".to_owned(),
            nodes: Vec::new(),
            storage: None,
            node_object: false,
            schedule_delay: Duration::ZERO..=Duration::ZERO,
            start_delay: Duration::ZERO..=Duration::ZERO,
            seed: 1,
            faults: Vec::new(),
        }
    }
}

/// What all pod tasks share.
#[derive(Debug)]
struct Shared {
    options: SimOptions,
    fate: Fate,
    ledger: Arc<Ledger>,
    http: reqwest::Client,
    strikes: Mutex<HashMap<String, mpsc::UnboundedSender<Strike>>>,
}

impl Shared {
    /// The nodes that are objects. Real pods are kept away from the one on somebody's cluster.
    fn node_objects(&self) -> Vec<NodeObject> {
        let lone = self.options.node_object.then(|| NodeObject {
            node: Node::new(&self.options.node),
            tainted: true,
        });
        let further = self.options.nodes.iter().map(|node| NodeObject {
            node: node.clone(),
            tainted: false,
        });
        lone.into_iter().chain(further).collect()
    }
}

/// The one place where the simulation reads the machine's clock, as a kubelet does for its statuses.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the world outside: its clock is the real one"
)]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// The running simulation. Dropping it stops everything at once, as a power cut would.
pub struct SimKubelet {
    shared: Arc<Shared>,
    client: Client,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl fmt::Debug for SimKubelet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimKubelet")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl SimKubelet {
    /// Starts to watch and serve pods with the rights of `client`.
    pub fn start(client: Client, mut options: SimOptions) -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .user_agent("muster-sim-runner")
            .pool_max_idle_per_host(64)
            .build()
            .context("could not make an HTTP client")?;
        let fate = Fate::new(options.seed, std::mem::take(&mut options.faults));
        let shared = Arc::new(Shared {
            options,
            fate,
            ledger: Arc::new(Ledger::default()),
            http,
            strikes: Mutex::new(HashMap::new()),
        });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let ended = stop.clone();
        let serving = serve(client.clone(), shared.clone(), stop.clone(), tasks.clone());
        tasks.spawn(async move { ended.run_until_cancelled(serving).await });
        for node in shared.node_objects() {
            let (ended, keeping) = (stop.clone(), node::keep(client.clone(), node));
            tasks.spawn(async move { ended.run_until_cancelled(keeping).await });
        }
        Ok(Self {
            shared,
            client,
            stop,
            tasks,
        })
    }

    /// Sums over everything seen so far.
    pub fn counters(&self) -> Counters {
        self.shared.ledger.counters()
    }

    /// The life of every pod seen so far.
    pub fn pods(&self) -> Vec<PodTrace> {
        self.shared.ledger.pods()
    }

    /// Every job that ended so far, in the order of their ends.
    pub fn jobs(&self) -> Vec<JobRun> {
        self.shared.ledger.jobs()
    }

    /// Adds a rule for pods that are seen from now on; the first that fits counts.
    pub fn inject(&self, rule: FaultRule) {
        self.shared.fate.add(rule);
    }

    /// Forgets all rules. Pods that suffer already keep their fault.
    pub fn clear_faults(&self) {
        self.shared.fate.clear();
    }

    /// Strikes a running pod now. Answers whether there is one of that name.
    pub fn strike(&self, pod: &str, strike: Strike) -> bool {
        self.shared
            .strikes
            .lock()
            .is_ok_and(|strikes| strikes.get(pod).is_some_and(|sender| sender.send(strike).is_ok()))
    }

    /// Stops everything, waits for it, and removes the Node object that was made.
    pub async fn stop(&self) -> Result<()> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        for node in self.shared.node_objects() {
            node::forget(&self.client, &node.node.name).await?;
        }
        Ok(())
    }
}

impl Drop for SimKubelet {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
    }
}

/// Watches pods and gives each its task.
async fn serve(client: Client, shared: Arc<Shared>, stop: CancellationToken, tasks: TaskTracker) {
    let api: Api<Pod> = match &shared.options.namespace {
        Some(ns) => Api::namespaced(client.clone(), ns),
        None => Api::all(client.clone()),
    };
    let events = watcher(api, watcher::Config::default()).default_backoff();
    pin_mut!(events);
    let mut pods: HashMap<String, watch::Sender<Seen>> = HashMap::new();
    // The keys of a list that is being read.
    let mut listed: Option<Vec<String>> = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed = Some(Vec::new()),
            Ok(watcher::Event::InitApply(pod)) => {
                if let Some(keys) = &mut listed {
                    keys.push(pod::key(&pod));
                }
                see(&client, &shared, &stop, &tasks, &mut pods, pod);
            }
            Ok(watcher::Event::InitDone) => {
                let keys = listed.take().unwrap_or_default();
                pods.retain(|key, sender| {
                    let exists = keys.contains(key);
                    if !exists {
                        sender.send_replace(None);
                    }
                    exists
                });
            }
            Ok(watcher::Event::Apply(pod)) => see(&client, &shared, &stop, &tasks, &mut pods, pod),
            Ok(watcher::Event::Delete(pod)) => {
                if let Some(sender) = pods.remove(&pod::key(&pod)) {
                    sender.send_replace(None);
                }
            }
            Err(error) => tracing::debug!(%error, "The simulated kubelet's watch broke"),
        }
    }
}

/// Passes a version of a pod on to its task, which is started for a new pod.
fn see(
    client: &Client,
    shared: &Arc<Shared>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
    pods: &mut HashMap<String, watch::Sender<Seen>>,
    pod: Pod,
) {
    let uid = pod::key(&pod);
    if let Some(sender) = pods.get(&uid) {
        sender.send_replace(Some(Arc::new(pod)));
        return;
    }
    let (name, ns) = (pod.name_any(), pod.namespace().unwrap_or_default());
    shared.ledger.created(&uid, &ns, &name);
    let (sender, seen) = watch::channel(Some(Arc::new(pod)));
    let (hand, strikes) = mpsc::unbounded_channel();
    pods.insert(uid.clone(), sender);
    if let Ok(mut all) = shared.strikes.lock() {
        all.insert(name.clone(), hand);
    }
    let task = PodTask {
        shared: shared.clone(),
        uid,
        name,
        api: Api::namespaced(client.clone(), &ns),
        seen,
        strikes,
    };
    let stop = stop.clone();
    tasks.spawn(async move { stop.run_until_cancelled(task.run()).await });
}
