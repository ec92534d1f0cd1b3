//! The processes of a world: the manager and any number of webhook servers, each with a fault proxy of its own where
//! that is asked for.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use tokio::sync::Mutex;

use crate::{
    control_plane::{MANAGER, WEBHOOK_SERVER},
    github::{DEFAULT_TOKEN, HookSpec},
    process::{Command, ManagerConfig, Process, WebhookServerConfig},
    proxy::{Balancer, FaultProxy},
};

use super::{
    ORGANIZATION, SECRET, World,
    admission::Certificate,
    cluster::{Cluster, grant_replay_lease},
};

/// The manager, among the components of a world.
const MANAGER_COMPONENT: &str = "manager";
/// The second manager, among the components of a world that has one.
const STANDBY_COMPONENT: &str = "manager-1";
/// The Lease that two managers of a world take turns with.
const LEASE: &str = "muster-manager";
/// The first webhook server; the others are called `github-webhook-server-1` and so on.
pub(super) const WEBHOOK_COMPONENT: &str = "github-webhook-server";

/// What is started.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) manager: bool,
    pub(super) standby: bool,
    pub(super) admission: bool,
    pub(super) cluster_wide: bool,
    pub(super) webhook_replicas: usize,
    pub(super) proxied: bool,
    pub(super) seed: u64,
    pub(super) manager_flags: Vec<String>,
    pub(super) webhook_flags: Vec<String>,
    pub(super) webhook_program: Option<PathBuf>,
    pub(super) replay: Replay,
    /// The webhook servers' login as a GitHub App; with none it is a token.
    pub(super) app_flags: Vec<String>,
}

/// Whether the webhook servers may ask GitHub about deliveries that they missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Replay {
    /// They have no login.
    #[default]
    NoLogin,
    /// They have one, but no right to their Lease.
    NoLease,
    /// They have both.
    Allowed,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            manager: true,
            standby: false,
            admission: false,
            cluster_wide: false,
            webhook_replicas: 1,
            proxied: false,
            seed: 0,
            manager_flags: Vec::new(),
            webhook_flags: Vec::new(),
            webhook_program: None,
            replay: Replay::default(),
            app_flags: Vec::new(),
        }
    }
}

/// How the managers are started.
#[derive(Debug, Default)]
struct ManagerCommands {
    first: Option<Command>,
    standby: Option<Command>,
    /// The certificate that they serve, and where.
    admission: Option<(Certificate, Vec<u16>)>,
}

/// What a manager that lost the lead says last.
const LOST_THE_LEAD: &str = "lost the leader election";

fn webhook_component(replica: usize) -> String {
    match replica {
        0 => WEBHOOK_COMPONENT.to_owned(),
        _ => format!("{WEBHOOK_COMPONENT}-{replica}"),
    }
}

impl World {
    /// Fails when a process has ended although nobody killed it. One of two managers that lost the lead is started anew, as a kubelet does.
    pub async fn check_alive(&self) -> Result<()> {
        let is_pair = self.standby.lock().await.is_some();
        for manager in self.managers() {
            if let Some(manager) = manager.lock().await.as_mut() {
                if is_pair && manager.has_ended_with(LOST_THE_LEAD) {
                    manager.launch()?;
                }
                manager.check_alive()?;
            }
        }
        for server in &self.webhook_servers {
            server.lock().await.check_alive()?;
        }
        Ok(())
    }

    /// Kills the manager (SIGKILL).
    pub async fn kill_manager(&self) -> Result<()> {
        self.manager
            .lock()
            .await
            .as_mut()
            .context("there is no manager")?
            .kill()
    }

    /// Starts the manager again, killing it first when it runs.
    pub async fn restart_manager(&self) -> Result<()> {
        self.manager
            .lock()
            .await
            .as_mut()
            .context("there is no manager")?
            .restart()
            .await
    }

    /// The two managers of a world with a standby, in the order in which they were started first.
    pub fn managers(&self) -> [&Mutex<Option<Process>>; 2] {
        [&self.manager, &self.standby]
    }

    /// Whether that one of [`managers`](Self::managers) says that it leads. It must be able to answer.
    pub async fn leads(&self, manager: usize) -> Result<bool> {
        let component = if manager == 0 {
            MANAGER_COMPONENT
        } else {
            STANDBY_COMPONENT
        };
        let line = format!("leader_election_master_status{{name=\"{LEASE}\"}} 1");
        Ok(self.metrics(component).await?.contains(&line))
    }

    /// Which of [`managers`](Self::managers) leads; `None` while neither does.
    pub async fn leader(&self) -> Result<Option<usize>> {
        for manager in 0..2 {
            if self.leads(manager).await? {
                return Ok(Some(manager));
            }
        }
        Ok(None)
    }

    /// Kills the (first) webhook server (SIGKILL).
    pub async fn kill_webhook_server(&self) -> Result<()> {
        self.kill_webhook_replica(0).await
    }

    /// Starts the (first) webhook server again, at the same address, killing it first when it runs.
    pub async fn restart_webhook_server(&self) -> Result<()> {
        self.restart_webhook_replica(0).await
    }

    /// Kills one of the webhook servers (SIGKILL).
    pub async fn kill_webhook_replica(&self, replica: usize) -> Result<()> {
        self.webhook_replica(replica)?.lock().await.kill()
    }

    /// Starts one of the webhook servers again, at the same address, killing it first when it runs.
    pub async fn restart_webhook_replica(&self, replica: usize) -> Result<()> {
        self.webhook_replica(replica)?.lock().await.restart().await
    }

    fn webhook_replica(&self, replica: usize) -> Result<&Mutex<Process>> {
        self.webhook_servers
            .get(replica)
            .with_context(|| format!("there is no webhook server {replica}"))
    }

    pub(super) async fn kill_all(&self) -> Result<()> {
        for manager in self.managers() {
            if let Some(manager) = manager.lock().await.as_mut() {
                manager.kill()?;
            }
        }
        for server in &self.webhook_servers {
            server.lock().await.kill()?;
        }
        Ok(())
    }

    /// Takes a webhook server that somebody else runs for its own: GitHub's webhooks go to `webhook_url`, and its metrics are at `metrics_url`.
    pub fn adopt(&mut self, webhook_url: &str, metrics_url: &str) {
        webhook_url.clone_into(&mut self.webhook_url);
        self.metrics_urls
            .insert(WEBHOOK_COMPONENT.to_owned(), metrics_url.to_owned());
        let hook = HookSpec::organization(ORGANIZATION, webhook_url, SECRET);
        self.hook = Some(self.github.add_hook(hook));
    }

    /// The text of a process's metrics endpoint (`manager`, `github-webhook-server`, `github-webhook-server-1`, …).
    pub async fn metrics(&self, component: &str) -> Result<String> {
        let answer = self.ask(component, "/metrics").await?;
        answer.text().await.context("the metrics broke off")
    }

    /// Whether a process says that it is ready: a webhook server answers before that, and puts all jobs off.
    pub async fn is_ready(&self, component: &str) -> Result<bool> {
        Ok(self.ask(component, "/readyz").await?.status().is_success())
    }

    /// What a process answers beside its work, where its metrics are.
    async fn ask(&self, component: &str, path: &str) -> Result<reqwest::Response> {
        let url = self
            .metrics_urls
            .get(component)
            .with_context(|| format!("there is no {component}"))?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .context("could not make an HTTP client")?;
        let url = url.replace("/metrics", path);
        let answer = client.get(&url).send().await;
        answer.with_context(|| format!("{url} does not answer"))
    }

    // ---- calls to the API server

    /// The proxy of a process, in a world that was built with
    /// [`through_proxy`](super::WorldBuilder::through_proxy).
    pub fn proxy(&self, component: &str) -> Result<&FaultProxy> {
        self.proxies
            .get(component)
            .with_context(|| format!("there is no proxy of {component}"))
    }

    /// The manager's proxy.
    pub fn manager_proxy(&self) -> Result<&FaultProxy> {
        self.proxy(MANAGER_COMPONENT)
    }

    /// The proxies of the webhook servers.
    pub fn webhook_proxies(&self) -> impl Iterator<Item = &FaultProxy> {
        self.proxies
            .iter()
            .filter(|(component, _)| component.starts_with(WEBHOOK_COMPONENT))
            .map(|(_, proxy)| proxy)
    }

    /// Writes that each process has made so far, by resource; the lease is left out: it costs the same whether
    /// there is work or not.
    pub fn writes(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        self.proxies
            .iter()
            .map(|(component, proxy)| {
                let mut writes = proxy.writes_by_resource();
                writes.remove("leases");
                (component.clone(), writes)
            })
            .collect()
    }

    // ---- the start

    pub(super) async fn start_processes(&mut self, settings: Settings) -> Result<()> {
        let replicas = settings.webhook_replicas.max(1);
        if settings.proxied {
            let Cluster::Embedded(plane) = &self.cluster else {
                bail!("a fault proxy stands before a control plane of ours only");
            };
            let components = settings
                .manager
                .then(|| MANAGER_COMPONENT.to_owned())
                .into_iter()
                .chain((0..replicas).map(webhook_component));
            for (seed, component) in (settings.seed..).zip(components) {
                let proxy = FaultProxy::start_seeded(plane, seed).await?;
                self.proxies.insert(component, proxy);
            }
        }
        let managers = self.manager_commands(&settings)?;
        let namespace = (!settings.cluster_wide).then(|| self.ns.clone());
        let base = self.github.base_url();
        let mut webhook_flags = settings.webhook_flags;
        let is_app = !settings.app_flags.is_empty();
        if settings.replay != Replay::NoLogin {
            webhook_flags.push(format!("--replay-lease-namespace={}", self.ns));
            if is_app {
                webhook_flags.extend(settings.app_flags);
            } else {
                webhook_flags.extend([
                    format!("--github-token={DEFAULT_TOKEN}"),
                    format!("--github-url={base}"),
                ]);
            }
        }
        if settings.replay == Replay::Allowed {
            grant_replay_lease(&self.client, &self.ns).await?;
        }
        let mut servers = Vec::new();
        for replica in 0..replicas {
            let component = webhook_component(replica);
            let config = WebhookServerConfig {
                kubeconfig: self.kubeconfig_of(&component, WEBHOOK_SERVER)?,
                secret: SECRET.to_owned(),
                namespace: namespace.clone(),
                flags: webhook_flags.clone(),
            };
            let mut made = config.command()?;
            made.command.name.clone_from(&component);
            if is_app {
                let env = &mut made.command.env;
                env.insert("GITHUB_ENTERPRISE_URL".to_owned(), self.github.base_url());
            }
            if let Some(program) = &settings.webhook_program {
                made.command.program.clone_from(program);
            }
            self.metrics_urls.insert(component, made.metrics_url);
            self.webhook_urls.push(made.url);
            servers.push(made.command);
        }
        let start = |command| Process::start(&self.keeper, command);
        let start_some = async |command| match command {
            Some(command) => start(command).await.map(Some),
            None => Ok(None),
        };
        let (manager, standby, servers) = tokio::try_join!(
            start_some(managers.first),
            start_some(managers.standby),
            futures::future::try_join_all(servers.into_iter().map(start))
        )?;
        *self.manager.lock().await = manager;
        *self.standby.lock().await = standby;
        self.webhook_servers = servers.into_iter().map(Mutex::new).collect();
        self.webhook_url = match self.webhook_urls.as_slice() {
            [only] => only.clone(),
            several => {
                let targets = several.iter().map(|url| address_of(url)).collect::<Result<_>>()?;
                let balancer = self.balancer.insert(Balancer::start(targets).await?);
                format!("http://{}/", balancer.address())
            }
        };
        let hook = HookSpec::organization(ORGANIZATION, &self.webhook_url, SECRET);
        self.hook = Some(self.github.add_hook(hook));
        match managers.admission {
            Some((certificate, ports)) => self.admit(&certificate, &ports).await,
            None => Ok(()),
        }
    }

    /// The command lines of the managers, and what the API server needs to know to ask them.
    fn manager_commands(&mut self, settings: &Settings) -> Result<ManagerCommands> {
        let mut managers = ManagerCommands::default();
        if !settings.manager {
            return Ok(managers);
        }
        let mut flags = settings.manager_flags.clone();
        if settings.standby {
            flags.extend([
                "--enable-leader-election".to_owned(),
                format!("--leader-election-id={LEASE}"),
            ]);
        }
        let base = self.github.base_url();
        let config = ManagerConfig {
            kubeconfig: self.kubeconfig_of(MANAGER_COMPONENT, MANAGER)?,
            github_url: base.clone(),
            runner_github_url: base,
            github_token: DEFAULT_TOKEN.to_owned(),
            namespace: (!settings.cluster_wide).then(|| self.ns.clone()),
            flags,
        };
        let replicas = [
            (MANAGER_COMPONENT, &mut managers.first),
            (STANDBY_COMPONENT, &mut managers.standby),
        ];
        for (component, slot) in replicas.into_iter().take(1 + usize::from(settings.standby)) {
            let mut made = config.command()?;
            component.clone_into(&mut made.command.name);
            let env = &mut made.command.env;
            env.insert("POD_NAMESPACE".to_owned(), self.ns.clone());
            if settings.admission {
                let (certificate, ports) = match &mut managers.admission {
                    Some(shared) => shared,
                    None => managers
                        .admission
                        .insert((Certificate::make(self.keeper.dir())?, Vec::new())),
                };
                ports.push(made.webhook_port);
                env.insert("TMPDIR".to_owned(), certificate.tmp.display().to_string());
            }
            self.metrics_urls.insert(component.to_owned(), made.metrics_url);
            *slot = Some(made.command);
        }
        Ok(managers)
    }

    fn kubeconfig_of(&self, component: &str, user: &str) -> Result<std::path::PathBuf> {
        match self.proxies.get(component) {
            Some(proxy) => proxy.kubeconfig(user),
            None => self.cluster.kubeconfig(user),
        }
    }
}

fn address_of(url: &str) -> Result<SocketAddr> {
    url.trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()
        .with_context(|| format!("{url} is no address"))
}
