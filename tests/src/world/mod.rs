//! A whole world for a scenario: control plane, fake GitHub, simulated kubelet, and the real manager and webhook
//! server as processes, in a namespace of its own. Scenarios read like the domain; they assert outcomes, never the
//! order of calls.

mod admission;
mod cluster;
mod keeping;
mod look;
mod metrics;
mod pools;
mod processes;
mod tear_down;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kube::{Api, Client, api::DynamicObject};
use muster_crds::legacy::{
    GitHubEventScaleUpTriggerSpec, HorizontalRunnerAutoscaler, HorizontalRunnerAutoscalerSpec, RunnerConfig,
    RunnerDeployment, RunnerDeploymentSpec, RunnerSpec, RunnerTemplate, ScaleTargetRef, ScaleUpTrigger,
    WorkflowJobSpec,
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    control_plane::{ADMIN, ControlPlane, manifests},
    github::{FakeApp, FakeGitHub, FakeGitHubOptions, JobHandle, JobSpec},
    keeper::Keeper,
    kubelet::{SimKubelet, SimOptions},
    process::Process,
    proxy::{Balancer, FaultProxy},
    volumes::{BindingMode, Node, ReclaimPolicy, SimStorage, StorageOptions},
};

use self::{
    cluster::Cluster,
    processes::{Replay, Settings},
};

pub use self::{
    cluster::{ensure_rights, is_allowed, wait_until_allowed},
    keeping::VolumeFigures,
    look::{Leftovers, is_live_reservation},
    pools::{CACHE, Kind, Pool, PoolState},
};

/// The organization that every world's runners and jobs belong to.
pub const ORGANIZATION: &str = "muster";
/// The repository that jobs are queued in.
pub const REPOSITORY: &str = "muster/demo";
/// The label that jobs ask for and runners have.
pub const LABEL: &str = "demo";
/// Id of the GitHub App that a world may have.
pub const APP: u64 = 12;
/// The secret of the webhooks.
pub const SECRET: &str = "a webhook secret";
/// Time between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);

/// What a world is made of; everything has a default.
#[derive(Debug)]
pub struct WorldBuilder {
    name: String,
    kind: Kind,
    zones: Vec<String>,
    repository: Option<String>,
    storage: Option<(BindingMode, ReclaimPolicy)>,
    cluster: Option<Cluster>,
    github: FakeGitHubOptions,
    sim: SimOptions,
    processes: Option<Settings>,
    cluster_admin: bool,
}

impl WorldBuilder {
    /// Says what keeps the runners of the world's pools.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Has simulated storage, whose class is named after the namespace. Worlds of RunnerSets have some in any case, whose
    /// volumes wait for their first consumer and are deleted when released.
    #[must_use]
    pub fn storage(mut self, binding: BindingMode, reclaim: ReclaimPolicy) -> Self {
        self.storage = Some((binding, reclaim));
        self
    }

    /// The repository is there before the first job: a manager that looks for it by name finds it.
    #[must_use]
    pub fn repository(mut self, full_name: &str) -> Self {
        self.repository = Some(full_name.to_owned());
        self
    }

    /// Has a node in each of these zones, as objects, and volumes that can be used in their zone alone.
    #[must_use]
    pub fn zones(mut self, zones: &[&str]) -> Self {
        self.zones = zones.iter().map(|zone| (*zone).to_owned()).collect();
        self
    }

    /// Uses this control plane instead of the one that all tests of the run share.
    #[must_use]
    pub fn on(mut self, plane: Arc<ControlPlane>) -> Self {
        self.cluster = Some(Cluster::Embedded(plane));
        self
    }

    /// Uses a cluster that exists, with the rights of this kubeconfig file; makes our definitions and a simulated
    /// node there. Pods must tolerate the taint `muster.dev/simulated` and select nodes by the label of that name.
    #[must_use]
    pub fn on_existing_cluster(mut self, kubeconfig: &Path) -> Self {
        self.cluster = Some(Cluster::Existing(kubeconfig.to_path_buf()));
        self.sim.node_object = true;
        self
    }

    /// Changes the fake GitHub's settings.
    #[must_use]
    pub fn github(mut self, change: impl FnOnce(&mut FakeGitHubOptions)) -> Self {
        change(&mut self.github);
        self
    }

    /// Changes the simulated kubelet's settings.
    #[must_use]
    pub fn kubelet(mut self, change: impl FnOnce(&mut SimOptions)) -> Self {
        change(&mut self.sim);
        self
    }

    /// Adds a flag to the manager's command line, for example `--default-scale-down-delay=3s`.
    #[must_use]
    pub fn manager_flag(mut self, flag: &str) -> Self {
        if let Some(settings) = &mut self.processes {
            settings.manager_flags.push(flag.to_owned());
        }
        self
    }

    /// Adds a flag to the webhook server's command line.
    #[must_use]
    pub fn webhook_flag(mut self, flag: &str) -> Self {
        if let Some(settings) = &mut self.processes {
            settings.webhook_flags.push(flag.to_owned());
        }
        self
    }

    /// One seed for everything that is left to chance.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.github.seed = seed;
        self.sim.seed = seed;
        if let Some(settings) = &mut self.processes {
            settings.seed = seed;
        }
        self
    }

    /// Does not start the manager and the webhook server.
    #[must_use]
    pub fn without_processes(mut self) -> Self {
        self.processes = None;
        self
    }

    /// Does not start the manager.
    #[must_use]
    pub fn without_manager(mut self) -> Self {
        if let Some(settings) = &mut self.processes {
            settings.manager = false;
        }
        self
    }

    /// Starts a second manager and leader election between the two, see [`World::managers`].
    #[must_use]
    pub fn standby_manager(mut self) -> Self {
        if let Some(settings) = &mut self.processes {
            settings.standby = true;
        }
        self
    }

    /// Has the API server ask the manager about objects and pods, see `config/webhook`. Worlds of RunnerSets always do:
    /// their pods get their registration token that way.
    #[must_use]
    pub fn admission(mut self) -> Self {
        if let Some(settings) = &mut self.processes {
            settings.admission = true;
        }
        self
    }

    /// Lets the processes and the simulated kubelet see all namespaces, not the world's alone. Needs a control plane of
    /// its own, see [`on`](Self::on).
    #[must_use]
    pub fn cluster_wide(mut self) -> Self {
        if let Some(settings) = &mut self.processes {
            settings.cluster_wide = true;
        }
        self
    }

    /// Starts so many webhook servers (one at least) behind a balancer, which is where webhooks go then.
    #[must_use]
    pub fn webhook_replicas(mut self, replicas: usize) -> Self {
        if let Some(settings) = &mut self.processes {
            settings.webhook_replicas = replicas;
        }
        self
    }

    /// As [`replay`](Self::replay) with the Lease, but the login is a GitHub App's and GitHub is an Enterprise Server: its API is below
    /// `/api/v3/`. The keys are PEM.
    #[must_use]
    pub fn replay_as_app(mut self, private_key: &str, public_key: &str) -> Self {
        let (app_id, installation_id) = (APP, 77);
        self.github.apps.push(FakeApp {
            app_id: app_id.to_string(),
            installation_id,
            public_key: Some(public_key.to_owned()),
        });
        if let Some(settings) = &mut self.processes {
            settings.replay = Replay::Allowed;
            settings.app_flags = vec![
                format!("--github-app-id={app_id}"),
                format!("--github-app-installation-id={installation_id}"),
                format!("--github-app-private-key={private_key}"),
            ];
        }
        self
    }

    /// Starts this executable as webhook server instead of the one beside this program: an optimized one, say.
    #[must_use]
    pub fn webhook_program(mut self, program: &Path) -> Self {
        if let Some(settings) = &mut self.processes {
            settings.webhook_program = Some(program.to_path_buf());
        }
        self
    }

    /// Gives the webhook servers a login to GitHub, as delivery replay needs it, and the right to its Lease if `lease`.
    #[must_use]
    pub fn replay(mut self, lease: bool) -> Self {
        if let Some(settings) = &mut self.processes {
            settings.replay = if lease { Replay::Allowed } else { Replay::NoLease };
        }
        self
    }

    /// Puts a [`FaultProxy`] between each process and the API server, see [`World::proxy`].
    #[must_use]
    pub fn through_proxy(mut self) -> Self {
        if let Some(settings) = &mut self.processes {
            settings.proxied = true;
        }
        self
    }

    /// Gives both processes all rights instead of those of `config/rbac`.
    #[must_use]
    pub fn as_cluster_admin(mut self) -> Self {
        self.cluster_admin = true;
        self
    }

    /// Starts everything; returns when both processes are ready.
    pub async fn start(mut self) -> Result<World> {
        if self.kind == Kind::RunnerSet {
            self = self.admission();
        }
        let cluster = match self.cluster.take() {
            Some(cluster) => cluster,
            None => Cluster::Embedded(ControlPlane::shared().await?),
        };
        let client = cluster.admin().await?;
        let ns = cluster.namespace(&client, &self.name).await?;
        let storage = self.start_storage(&client, &ns).await?;
        self.sim.storage.clone_from(&storage);
        let github = FakeGitHub::start(self.github).await?;
        if let Some(name) = &self.repository {
            github.create_repository(name);
        }
        let cluster_wide = self
            .processes
            .as_ref()
            .is_some_and(|settings| settings.cluster_wide);
        self.sim.namespace = (!cluster_wide).then(|| ns.clone());
        let kubelet = SimKubelet::start(client.clone(), self.sim)?;
        let keeper = Arc::new(Keeper::new(&format!("world-{}", self.name))?);
        let mut world = World {
            kind: self.kind,
            manager: Mutex::new(None),
            standby: Mutex::new(None),
            webhook_servers: Vec::new(),
            webhook_url: String::new(),
            webhook_urls: Vec::new(),
            balancer: None,
            admission: None,
            proxies: BTreeMap::new(),
            metrics_urls: BTreeMap::new(),
            hook: None,
            webhooks: Vec::new(),
            storage,
            kubelet,
            github,
            client,
            ns,
            keeper,
            cluster,
        };
        if let Some(settings) = self.processes {
            if let Cluster::Embedded(plane) = &world.cluster {
                ensure_rights(plane, self.cluster_admin).await?;
            }
            let started = Box::pin(world.start_processes(settings)).await;
            if let (Err(error), Cluster::Existing(_)) = (&started, &world.cluster) {
                let failure = format!("{error:#}");
                // Nobody knows the namespace but this function.
                world.tear_down().await.context(failure.clone())?;
                bail!(failure);
            }
            started?;
        }
        Ok(world)
    }
}

impl WorldBuilder {
    /// The nodes, and the storage that is asked for.
    async fn start_storage(&mut self, client: &Client, ns: &str) -> Result<Option<Arc<SimStorage>>> {
        // Nodes belong to no namespace: their names and zones are this world's alone.
        self.sim.nodes = self.zones.iter().map(|zone| World::zone_node(ns, zone)).collect();
        let is_set = self.kind == Kind::RunnerSet;
        let Some((binding, reclaim)) = self.storage.or_else(|| is_set.then(Default::default)) else {
            return Ok(None);
        };
        let lone = vec![Node::new(&self.sim.node)];
        let options = StorageOptions {
            namespace: ns.to_owned(),
            nodes: if self.sim.nodes.is_empty() {
                lone
            } else {
                self.sim.nodes.clone()
            },
            binding,
            reclaim,
            provision_delay: Duration::ZERO,
        };
        SimStorage::start(client.clone(), options).await.map(Some)
    }
}

/// A running world. Dropping it kills its processes.
pub struct World {
    /// What keeps the runners of its pools.
    pub kind: Kind,
    /// The manager; `None` in a world without processes.
    pub manager: Mutex<Option<Process>>,
    /// The second manager, in a world with a [`standby`](WorldBuilder::standby_manager).
    pub standby: Mutex<Option<Process>>,
    /// The webhook servers; none in a world without processes.
    pub webhook_servers: Vec<Mutex<Process>>,
    /// Where webhooks go: the webhook server, or the balancer before several.
    pub webhook_url: String,
    /// Where each webhook server listens.
    pub webhook_urls: Vec<String>,
    balancer: Option<Balancer>,
    /// Before the webhooks of several managers.
    admission: Option<Balancer>,
    proxies: BTreeMap<String, FaultProxy>,
    metrics_urls: BTreeMap<String, String>,
    /// The organization's webhook at the fake GitHub.
    pub hook: Option<u64>,
    /// The admission webhook configurations at the API server; none unless the world was built with admission.
    pub webhooks: Vec<DynamicObject>,
    /// The simulated node.
    pub kubelet: SimKubelet,
    /// The simulated storage, in a world that has some.
    pub storage: Option<Arc<SimStorage>>,
    /// The fake GitHub.
    pub github: FakeGitHub,
    /// A client with all rights.
    pub client: Client,
    /// The world's namespace.
    pub ns: String,
    keeper: Arc<Keeper>,
    cluster: Cluster,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("ns", &self.ns)
            .field("webhook_url", &self.webhook_url)
            .finish_non_exhaustive()
    }
}

impl World {
    /// A world to be built; `name` begins the name of its namespace.
    pub fn builder(name: &str) -> WorldBuilder {
        WorldBuilder {
            name: name.to_owned(),
            kind: Kind::default(),
            zones: Vec::new(),
            repository: None,
            storage: None,
            cluster: None,
            github: FakeGitHubOptions {
                resend_until_2xx: true,
                ..FakeGitHubOptions::default()
            },
            sim: SimOptions::default(),
            processes: Some(Settings::default()),
            cluster_admin: false,
        }
    }

    /// A world with all defaults.
    pub async fn new(name: &str) -> Result<Self> {
        Self::builder(name).start().await
    }

    fn zone_node(ns: &str, zone: &str) -> Node {
        let name = format!("{ns}-{zone}");
        Node::new(&name).in_zone(&name)
    }

    /// The node in a zone that the world was built with; its name is the zone's as well.
    pub fn zone(&self, zone: &str) -> String {
        Self::zone_node(&self.ns, zone).name
    }

    /// The simulated storage.
    pub fn storage(&self) -> Result<&Arc<SimStorage>> {
        self.storage.as_ref().context("the world has no storage")
    }

    /// The embedded control plane; `None` on an existing cluster.
    pub fn plane(&self) -> Option<&Arc<ControlPlane>> {
        match &self.cluster {
            Cluster::Embedded(plane) => Some(plane),
            Cluster::Existing(_) => None,
        }
    }

    /// The administrator's kubeconfig file.
    pub fn admin_kubeconfig(&self) -> Result<PathBuf> {
        self.cluster.kubeconfig(ADMIN)
    }

    /// The folder of the processes' logs.
    pub fn dir(&self) -> &Path {
        self.keeper.dir()
    }

    /// An API for objects in the world's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.ns)
    }

    // ---- objects

    /// Applies manifests, strictly validated, in the world's namespace.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        manifests::apply_yaml(&self.client, &self.ns, yaml)
            .await
            .map(drop)
    }

    /// Applies a `RunnerDeployment` of the organization's runners with the label [`LABEL`]; `change` may alter it.
    pub async fn deployment(&self, name: &str, change: impl FnOnce(&mut RunnerDeploymentSpec)) -> Result<()> {
        let config = RunnerConfig {
            organization: Some(ORGANIZATION.to_owned()),
            labels: Some(vec![LABEL.to_owned()]),
            ..RunnerConfig::default()
        };
        let mut spec = RunnerDeploymentSpec {
            template: RunnerTemplate {
                spec: RunnerSpec {
                    config,
                    ..RunnerSpec::default()
                },
                ..RunnerTemplate::default()
            },
            ..RunnerDeploymentSpec::default()
        };
        change(&mut spec);
        let spec = serde_json::to_value(&spec).context("could not write the spec")?;
        self.object("RunnerDeployment", name, &spec).await
    }

    /// Applies a `HorizontalRunnerAutoscaler` of a pool of the world's kind, between 0 and 100 runners, scaled by
    /// `workflow_job` events; `change` may alter it.
    pub async fn autoscaler(
        &self,
        name: &str,
        pool: &str,
        change: impl FnOnce(&mut HorizontalRunnerAutoscalerSpec),
    ) -> Result<()> {
        let mut spec = HorizontalRunnerAutoscalerSpec {
            scale_target_ref: Some(ScaleTargetRef {
                kind: Some(self.kind.name().to_owned()),
                name: Some(pool.to_owned()),
            }),
            min_replicas: Some(0),
            max_replicas: Some(100),
            scale_up_triggers: Some(vec![ScaleUpTrigger {
                github_event: Some(GitHubEventScaleUpTriggerSpec {
                    workflow_job: Some(WorkflowJobSpec::default()),
                    ..GitHubEventScaleUpTriggerSpec::default()
                }),
                duration: Some("10m".to_owned()),
                ..ScaleUpTrigger::default()
            }]),
            ..HorizontalRunnerAutoscalerSpec::default()
        };
        change(&mut spec);
        let spec = serde_json::to_value(&spec).context("could not write the spec")?;
        self.object("HorizontalRunnerAutoscaler", name, &spec).await
    }

    /// The `RunnerDeployment` as it is now.
    pub async fn get_deployment(&self, name: &str) -> Result<RunnerDeployment> {
        self.api()
            .get(name)
            .await
            .with_context(|| format!("could not get RunnerDeployment {name}"))
    }

    /// The `HorizontalRunnerAutoscaler` as it is now.
    pub async fn get_autoscaler(&self, name: &str) -> Result<HorizontalRunnerAutoscaler> {
        self.api()
            .get(name)
            .await
            .with_context(|| format!("could not get HorizontalRunnerAutoscaler {name}"))
    }

    async fn object(&self, kind: &str, name: &str, spec: &Value) -> Result<()> {
        let document = json!({
            "apiVersion": "actions.summerwind.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        });
        manifests::apply_value(&self.client, &self.ns, &document)
            .await
            .map(drop)
    }

    // ---- jobs

    /// Queues `count` jobs of `duration` each that ask for [`LABEL`]; GitHub's webhooks follow by themselves.
    pub fn queue_jobs(&self, count: usize, duration: Duration) -> Vec<JobHandle> {
        (0..count).map(|_| self.queue_job(duration)).collect()
    }

    /// Queues one job, see [`queue_jobs`](Self::queue_jobs).
    pub fn queue_job(&self, duration: Duration) -> JobHandle {
        self.github
            .queue_job(JobSpec::new(REPOSITORY, ["self-hosted", LABEL]).duration(duration))
    }

    // ---- waiting

    /// Waits until `condition` holds. Fails with a description of the world when that takes longer than `deadline`,
    /// or when a process has ended by itself.
    pub async fn until(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl AsyncFn(&Self) -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            // An error while the API server is busy is no verdict; one at the end is.
            let answer = condition(self).await;
            if matches!(answer, Ok(true)) {
                return Ok(());
            }
            self.check_alive().await?;
            if Instant::now() > end {
                let description = self.describe().await;
                let last = answer
                    .err()
                    .map(|error| format!(" (last error: {error:#})"))
                    .unwrap_or_default();
                bail!("not within {deadline:?}: {what}{last}\n{description}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until there are so many pods that carry GitHub's id of their runner.
    pub async fn until_known(&self, runners: usize, deadline: Duration) -> Result<()> {
        let known = async |world: &Self| {
            let pods = world.pods().await?;
            let known = pods.iter().filter(|pod| {
                kube::ResourceExt::annotations(*pod).contains_key(muster_crds::keys::ANNOTATION_RUNNER_ID)
            });
            Ok(known.count() == runners)
        };
        self.until("every pod carries its runner's id", deadline, known)
            .await
    }

    /// Waits until GitHub has no open job.
    pub async fn until_jobs_done(&self, deadline: Duration) -> Result<()> {
        self.until("all jobs are completed", deadline, async |world| {
            Ok(world.github.job_stats().open() == 0)
        })
        .await
    }

    /// Waits until nothing is left of the runners: no pods, no Runner objects, nothing registered, no live demand.
    pub async fn until_nothing_left(&self, deadline: Duration) -> Result<()> {
        let none = async |world: &Self| Ok(world.leftovers().await?.is_none());
        self.until("nothing is left", deadline, none).await
    }
}
