//! A release of the chart on a control plane of its own: helm installs it, and a node runs its pods with the service accounts and rights that
//! the chart rendered ([`node`]). The API server and GitHub reach them through their Services ([`services`]).

mod node;
mod pod;
pub mod rights;
mod services;
pub mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kube::Client;
use serde_json::{Value, json};

use crate::{
    control_plane::{ADMIN, ControlPlane, Options},
    github::{DEFAULT_TOKEN, HookSpec},
    helm::{Helm, Said, chart},
    keeper::Keeper,
    world::{ORGANIZATION, SECRET, World},
};

use self::{node::Node, rights::Right, services::Services};

/// The release, which ARC's documentation calls so, too.
pub const RELEASE: &str = "actions-runner-controller";
/// Its namespace, as in ARC's documentation.
pub const NAMESPACE: &str = "actions-runner-system";
/// The service accounts of its processes.
pub const MANAGER: &str = "actions-runner-controller";
/// Name of the webhook server's objects.
pub const WEBHOOK_SERVER: &str = "actions-runner-controller-github-webhook-server";
/// Name of the metrics server's objects.
pub const METRICS_SERVER: &str = "actions-runner-controller-actions-metrics-server";
/// How long helm waits for hooks, and for pods to be ready.
const PATIENCE: &str = "150s";

/// A cluster for a release.
pub struct Installation {
    /// helm and kubectl.
    pub helm: Helm,
    /// The control plane, without our definitions until a release brings them.
    pub plane: Arc<ControlPlane>,
    /// A client with all rights.
    pub client: Client,
    node: Arc<Node>,
    services: Services,
    // Last: it has the socket.
    keeper: Keeper,
}

impl fmt::Debug for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installation")
            .field("plane", &self.plane)
            .finish_non_exhaustive()
    }
}

impl Installation {
    /// Starts the cluster.
    pub async fn start() -> Result<Self> {
        Self::start_in(NAMESPACE, BTreeMap::new()).await
    }

    /// Starts a cluster that runs the pods of one namespace; they get these variables where the chart says nothing of them.
    pub async fn start_in(ns: &str, env: BTreeMap<String, String>) -> Result<Self> {
        let helm = Helm::find().await?;
        let keeper = Keeper::new("install")?;
        let socket = services::Socket::bind(keeper.dir())?;
        let options = Options {
            crds: None,
            workloads: true,
            access: true,
            services: Some(socket.path().to_path_buf()),
            ..Options::default()
        };
        let plane = Arc::new(ControlPlane::start_with(options).await?);
        let client = plane.admin().await?;
        let node = Arc::new(Node::start(&plane, ns, env).await?);
        let services = Services::start(socket, client.clone(), ns, node.clone());
        Ok(Self {
            helm,
            plane,
            client,
            node,
            services,
            keeper,
        })
    }

    /// The administrator's kubeconfig file.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        self.plane.kubeconfig(ADMIN).map(Path::to_path_buf)
    }

    /// Runs `helm` on the cluster.
    pub async fn helm(&self, args: &[&str]) -> Result<Said> {
        self.helm.helm(Some(&self.kubeconfig()?), args).await
    }

    /// Runs `kubectl` on the cluster.
    pub async fn kubectl(&self, args: &[&str]) -> Result<Said> {
        self.helm.kubectl(Some(&self.kubeconfig()?), args).await
    }

    /// `helm upgrade --install` of the chart, with these values; returns when its pods are ready.
    pub async fn install(&self, values: &Value) -> Result<()> {
        let file = self.keeper.dir().join("values.json");
        fs::write(&file, values.to_string()).context("could not write the values")?;
        let (chart, file) = (chart().display().to_string(), file.display().to_string());
        let said = self
            .helm(&[
                "upgrade",
                RELEASE,
                &chart,
                "--install",
                "--create-namespace",
                "--namespace",
                NAMESPACE,
                "--values",
                &file,
                "--wait",
                "--timeout",
                PATIENCE,
            ])
            .await?;
        let result = said.good();
        result.map(drop).map_err(|error| error.context(self.node.logs()))
    }

    /// `helm uninstall`.
    pub async fn uninstall(&self) -> Result<Said> {
        self.helm(&[
            "uninstall",
            RELEASE,
            "--namespace",
            NAMESPACE,
            "--wait",
            "--timeout",
            PATIENCE,
        ])
        .await
    }

    /// A world whose runners, jobs and GitHub the release serves: values for [`install`](Self::install) come from [`values_for`].
    pub async fn world(&self, name: &str) -> Result<World> {
        World::builder(name)
            .on(self.plane.clone())
            .without_processes()
            .start()
            .await
    }

    /// Leads the world's webhooks to the release's webhook servers.
    pub async fn connect(&self, world: &mut World) -> Result<()> {
        let address = self.services.publish(WEBHOOK_SERVER, 80).await?;
        let metrics = self.metrics_url("github-webhook-server").await?;
        world.adopt(&format!("http://{address}/"), &metrics);
        Ok(())
    }

    /// Leads the world's webhooks to the release's metrics server, too; answers where its metrics are.
    pub async fn count_jobs(&self, world: &World) -> Result<String> {
        let address = self.services.publish(METRICS_SERVER, 80).await?;
        let hook = HookSpec::organization(ORGANIZATION, &format!("http://{address}/"), SECRET);
        world.github.add_hook(hook);
        self.metrics_url("actions-metrics-server").await
    }

    /// Where a component's metrics are on this machine: behind the proxy, which the testbed does not run.
    async fn metrics_url(&self, component: &str) -> Result<String> {
        let labels = format!("app.kubernetes.io/instance={RELEASE}-{component}");
        let ports = self.node.endpoints(&labels, |_| Ok(8080)).await?;
        let port = ports
            .first()
            .with_context(|| format!("no {component} is ready"))?;
        Ok(format!("http://127.0.0.1:{port}/metrics"))
    }

    /// The ends of the logs of everything that ran on the node.
    pub fn logs(&self) -> String {
        self.node.logs()
    }

    /// What the account of the release was granted, what it used and what it was refused since the audit log's byte `from`.
    pub async fn use_of_rights(&self, account: &str, from: usize) -> Result<Use> {
        let granted = rights::granted(&self.client, NAMESPACE, account).await?;
        let (asked, _) = rights::asked(&self.plane, from)?;
        let key = format!("{NAMESPACE}/{account}");
        let of = |mut side: BTreeMap<String, BTreeSet<Right>>| side.remove(&key).unwrap_or_default();
        Ok(Use {
            granted,
            used: of(asked.allowed),
            refused: of(asked.refused),
        })
    }

    /// Waits for something that is looked at again and again.
    pub async fn until(
        &self,
        what: &str,
        deadline: Duration,
        is: impl AsyncFn() -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + deadline;
        while !is().await? {
            if Instant::now() > end {
                bail!("{what}: not after {deadline:?}\n{}", self.logs());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

/// Rights of an account.
#[derive(Clone, Debug, Default)]
pub struct Use {
    /// What is bound to it.
    pub granted: BTreeSet<Right>,
    /// What it did.
    pub used: BTreeSet<Right>,
    /// What it tried.
    pub refused: BTreeSet<Right>,
}

/// Which namespaces a release serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    Cluster,
    /// That of the world.
    Single,
}

/// The values of a release that serves this world, beside which nothing is needed: no cert-manager, and GitHub is the fake one.
pub fn values_for(world: &World, scope: Scope) -> Value {
    let github = world.github.base_url();
    json!({
        "githubURL": github,
        "runnerGithubURL": github,
        "authSecret": {"create": true, "github_token": DEFAULT_TOKEN},
        "logLevel": "debug",
        "replicaCount": 1,
        "admissionWebHooks": {"selfSigned": true},
        "scope": match scope {
            Scope::Cluster => json!({}),
            Scope::Single => json!({"singleNamespace": true, "watchNamespace": world.ns}),
        },
        "githubWebhookServer": {
            "enabled": true,
            "logLevel": "debug",
            "useRunnerGroupsVisibility": true,
            "secret": {
                "enabled": true,
                "create": true,
                "github_webhook_secret_token": SECRET,
                "github_token": DEFAULT_TOKEN,
            },
        },
        "actionsMetricsServer": {
            "enabled": true,
            "logLevel": "debug",
            "secret": {
                "enabled": true,
                "create": true,
                "github_webhook_secret_token": SECRET,
                "github_token": DEFAULT_TOKEN,
            },
        },
    })
}
