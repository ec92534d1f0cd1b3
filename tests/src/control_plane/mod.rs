//! A real Kubernetes control plane on loopback: etcd, kube-apiserver and kube-controller-manager as processes that
//! die with the one that started them (spec part 10). Only a kubelet, a scheduler and GitHub are missing.

pub mod audit;
pub mod binaries;
pub mod manifests;

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use aws_lc_rs::{
    encoding::AsDer,
    rsa::{KeyPair, KeySize},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleRef, Subject},
};
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::sync::OnceCell;

use crate::keeper::{Keeper, Kept, workspace_dir};

use self::binaries::Binaries;

/// The cluster's administrator (group `system:masters`).
pub const ADMIN: &str = "admin";
/// The namespace that the service accounts of the two processes belong to.
pub const SYSTEM_NAMESPACE: &str = "muster-system";
/// The user that the manager runs as.
pub const MANAGER: &str = "system:serviceaccount:muster-system:manager";
/// The user that the webhook server runs as.
pub const WEBHOOK_SERVER: &str = "system:serviceaccount:muster-system:github-webhook-server";

/// The controllers that the testbed needs of kube-controller-manager. The last one takes the `not-ready` taint, which the API server
/// gives to every new node, from those that report.
const CONTROLLERS: &str = "statefulset-controller,garbage-collector-controller,namespace-controller,\
serviceaccount-controller,serviceaccount-token-controller,persistentvolume-binder-controller,\
persistentvolume-protection-controller,persistentvolumeclaim-protection-controller,\
node-lifecycle-controller";
/// Those that a control plane has for a release of the chart.
const WORKLOAD_CONTROLLERS: &str = ",deployment-controller,replicaset-controller,job-controller";
/// Each stage of the start must be over within this time.
const START_DEADLINE: Duration = Duration::from_secs(90);
/// Time between two looks at something that is starting.
const POLL: Duration = Duration::from_millis(50);
/// A port that was free may be taken before its new owner binds it.
const START_ATTEMPTS: usize = 3;

/// A user with a static token.
#[derive(Clone, Debug)]
pub struct User {
    /// The name that the authorizer sees.
    pub name: String,
    /// Its groups, beside `system:authenticated`.
    pub groups: Vec<String>,
}

impl User {
    /// The service account `name` of namespace `ns`, with the groups that the API server gives it.
    pub fn service_account(ns: &str, name: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{ns}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{ns}"),
            ],
        }
    }
}

/// How a control plane is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Users beside the three that every control plane has ([`ADMIN`], [`MANAGER`], [`WEBHOOK_SERVER`]).
    pub users: Vec<User>,
    /// Folder with the definitions that are applied at the start; `None` for a bare cluster.
    pub crds: Option<PathBuf>,
    /// Write down every write that is asked for, see [`ControlPlane::audit`].
    pub audit: bool,
    /// Run the controllers of Deployments and Jobs, too.
    pub workloads: bool,
    /// Write down what service accounts ask for, see [`ControlPlane::access_log`].
    pub access: bool,
    /// The socket that leads the API server to the cluster's Services, as an HTTP proxy (`CONNECT`).
    pub services: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            crds: Some(workspace_dir().join("crds")),
            audit: false,
            workloads: false,
            access: false,
            services: None,
        }
    }
}

/// A running control plane. Dropping it ends its processes and removes their data.
#[derive(Debug)]
pub struct ControlPlane {
    url: String,
    kubeconfigs: BTreeMap<String, PathBuf>,
    ca: PathBuf,
    crds: Vec<String>,
    started_in: Duration,
    namespaces: AtomicU32,
    /// Killed before the keeper, which removes the directory, goes.
    processes: Mutex<Vec<Kept>>,
    keeper: Keeper,
}

impl ControlPlane {
    /// The control plane of this test run: started by whoever asks first, gone when the process ends.
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: OnceCell<Arc<ControlPlane>> = OnceCell::const_new();
        SHARED
            .get_or_try_init(|| async { Self::start().await.map(Arc::new) })
            .await
            .cloned()
    }

    /// Starts a control plane with the workspace's custom resource definitions.
    pub async fn start() -> Result<Self> {
        Self::start_with(Options::default()).await
    }

    /// Starts a control plane. Takes about five seconds; minutes when its programs must be built first.
    pub async fn start_with(options: Options) -> Result<Self> {
        let binaries = tokio::task::spawn_blocking(binaries::find)
            .await
            .context("the search for the control plane's programs was cut off")??;
        let mut attempt = 1;
        loop {
            match Self::try_start(&binaries, &options).await {
                Ok(started) => return Ok(started),
                Err(error) if attempt == START_ATTEMPTS => return Err(error),
                Err(error) => tracing::warn!(
                    attempt,
                    error = format!("{error:#}"),
                    "Control plane did not start"
                ),
            }
            attempt += 1;
        }
    }

    async fn try_start(binaries: &Binaries, options: &Options) -> Result<Self> {
        let begun = Instant::now();
        let keeper = Keeper::new("controlplane")?;
        let dir = keeper.dir().to_path_buf();
        write_signing_key(&dir.join("sa.key"))?;
        let users = all_users(options);
        let tokens = write_tokens(&dir.join("tokens.csv"), &users)?;

        let store = format!("http://127.0.0.1:{}", free_port()?);
        let mut etcd = keeper.spawn(
            "etcd",
            &binaries.etcd,
            &etcd_args(&dir, &store)?,
            &BTreeMap::new(),
        )?;
        wait_for("etcd", &mut etcd, async || etcd_is_healthy(&store).await).await?;

        let port = free_port()?;
        let url = format!("https://127.0.0.1:{port}");
        let mut args = apiserver_args(&dir, &store, port);
        if options.audit {
            args.extend(audit::args(&dir)?);
        }
        args.extend(further_args(&dir, options)?);
        let mut apiserver = keeper.spawn("kube-apiserver", &binaries.apiserver, &args, &lazy_gc())?;
        // Made by the API server itself: its certificate, and the authority that signed it.
        let ca = dir.join("certs").join("apiserver.crt");
        wait_for("the API server's certificate", &mut apiserver, async || {
            ca.exists()
        })
        .await?;
        let mut kubeconfigs = BTreeMap::new();
        for (user, token) in &tokens {
            let path = dir.join(format!("kubeconfig-{}.json", user.replace(':', "-")));
            write_kubeconfig(&path, &url, &ca, (user, None), token)?;
            kubeconfigs.insert(user.clone(), path);
        }
        let admin = kubeconfigs
            .get(ADMIN)
            .context("there is no administrator")?
            .clone();
        let client = client_from(&admin).await?;
        wait_for("the API server", &mut apiserver, async || is_ready(&client).await).await?;

        // Before the controllers: the garbage collector looks for new kinds only every 30 s.
        let crds = match &options.crds {
            Some(folder) => manifests::apply_crds(&client, folder).await?,
            None => Vec::new(),
        };

        let args = controller_manager_args(&dir, &admin, options.workloads);
        let program = &binaries.controller_manager;
        let mut controllers = keeper.spawn("kube-controller-manager", program, &args, &BTreeMap::new())?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        wait_for("the controllers", &mut controllers, async || {
            accounts
                .get_opt("default")
                .await
                .is_ok_and(|found| found.is_some())
        })
        .await?;
        let started = Self {
            url,
            kubeconfigs,
            ca,
            crds,
            started_in: begun.elapsed(),
            namespaces: AtomicU32::new(0),
            processes: Mutex::new(vec![controllers, apiserver, etcd]),
            keeper,
        };
        started.create_namespace(&client, SYSTEM_NAMESPACE).await?;
        Ok(started)
    }

    /// The API server's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The data folder, with the processes' logs.
    pub fn dir(&self) -> &Path {
        self.keeper.dir()
    }

    /// The book of writes, in a control plane that was started with [`Options::audit`].
    pub fn audit(&self) -> audit::Audit {
        audit::Audit::in_dir(self.keeper.dir())
    }

    /// Where the API server writes down what service accounts ask for, a line of JSON each.
    pub fn access_log(&self) -> PathBuf {
        access_log(self.dir())
    }

    /// The names of the definitions that were applied at the start.
    pub fn crds(&self) -> &[String] {
        &self.crds
    }

    /// How long the start took.
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// The process ids of etcd, the API server and the controllers.
    pub fn pids(&self) -> Vec<u32> {
        self.processes
            .lock()
            .map(|processes| processes.iter().map(Kept::pid).collect())
            .unwrap_or_default()
    }

    /// The users known at the start.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.kubeconfigs.keys().map(String::as_str)
    }

    /// A kubeconfig file for one of the users known at the start.
    pub fn kubeconfig(&self, user: &str) -> Result<&Path> {
        self.kubeconfigs
            .get(user)
            .map(PathBuf::as_path)
            .with_context(|| format!("there is no user {user}"))
    }

    /// A client for one of the users known at the start. A client belongs to the runtime that made it: tests make
    /// their own each.
    pub async fn client(&self, user: &str) -> Result<Client> {
        client_from(self.kubeconfig(user)?).await
    }

    /// A client with all rights.
    pub async fn admin(&self) -> Result<Client> {
        self.client(ADMIN).await
    }

    /// Makes a service account that did not exist at the start, and a kubeconfig file with a real token for it.
    pub async fn service_account(&self, ns: &str, name: &str) -> Result<PathBuf> {
        let path = self.dir().join(format!("kubeconfig-{ns}-{name}.json"));
        let api: Api<ServiceAccount> = Api::namespaced(self.admin().await?, ns);
        let found = api.get_opt(name).await;
        if found.context("could not look for the service account")?.is_none() {
            let account = ServiceAccount {
                metadata: named(name),
                ..ServiceAccount::default()
            };
            let made = api.create(&PostParams::default(), &account).await;
            made.context("could not make the service account")?;
        }
        self.token_file(ns, name, &path).await?;
        Ok(path)
    }

    /// Writes a kubeconfig file with a real token for a service account that exists, into its namespace.
    pub async fn token_file(&self, ns: &str, name: &str, path: &Path) -> Result<()> {
        let api: Api<ServiceAccount> = Api::namespaced(self.admin().await?, ns);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(Vec::new()),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer: TokenRequest = api
            .create_subresource("token", name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("could not get a token for service account {ns}/{name}"))?;
        let token = answer
            .status
            .and_then(|s| s.token)
            .context("the token request brought no token")?;
        let user = format!("system:serviceaccount:{ns}:{name}");
        write_kubeconfig(path, &self.url, &self.ca, (&user, Some(ns)), &token)
    }

    /// Binds `user` to a cluster role.
    pub async fn grant(&self, user: &str, cluster_role: &str) -> Result<()> {
        let api: Api<ClusterRoleBinding> = Api::all(self.admin().await?);
        let binding = ClusterRoleBinding {
            metadata: named(&format!("{}-{cluster_role}", user.replace(':', "-"))),
            role_ref: RoleRef {
                api_group: Some("rbac.authorization.k8s.io".to_owned()),
                kind: "ClusterRole".to_owned(),
                name: cluster_role.to_owned(),
            },
            subjects: Some(vec![Subject {
                api_group: Some("rbac.authorization.k8s.io".to_owned()),
                kind: "User".to_owned(),
                name: user.to_owned(),
                namespace: None,
            }]),
        };
        match api.create(&PostParams::default(), &binding).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => Err(error).context("could not bind the cluster role"),
        }
    }

    /// Makes a new namespace whose name begins with `prefix`.
    pub async fn namespace(&self, prefix: &str) -> Result<String> {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{number}");
        self.create_namespace(&self.admin().await?, &name).await?;
        Ok(name)
    }

    /// What the three processes last logged, for a failing test.
    pub fn log_tails(&self) -> String {
        self.processes.lock().map_or_else(
            |_| String::new(),
            |processes| {
                let tails = processes
                    .iter()
                    .map(|p| format!("--- {}\n{}", p.name(), p.log_tail(3_000)));
                tails.collect::<Vec<_>>().join("\n")
            },
        )
    }

    async fn create_namespace(&self, client: &Client, name: &str) -> Result<()> {
        let api: Api<Namespace> = Api::all(client.clone());
        let namespace = Namespace {
            metadata: named(name),
            ..Namespace::default()
        };
        match api.create(&PostParams::default(), &namespace).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => Err(error).with_context(|| format!("could not make namespace {name}")),
        }
    }
}

/// A client for a kubeconfig file.
pub async fn client_from(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig).context("could not read the kubeconfig")?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .context("could not use the kubeconfig")?;
    Client::try_from(config).context("could not make a client")
}

/// A port on loopback that nobody listens on. Asked twice, one process gets two different ports.
pub fn free_port() -> Result<u16> {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").context("there is no free port")?;
        let port = listener.local_addr().context("the port is unknown")?.port();
        let mut given = GIVEN
            .lock()
            .map_err(|_| anyhow::anyhow!("the list of ports is poisoned"))?;
        if !given.contains(&port) {
            given.push(port);
            return Ok(port);
        }
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

fn all_users(options: &Options) -> Vec<User> {
    let mut users = vec![
        User {
            name: ADMIN.to_owned(),
            groups: vec!["system:masters".to_owned()],
        },
        User::service_account(SYSTEM_NAMESPACE, "manager"),
        User::service_account(SYSTEM_NAMESPACE, "github-webhook-server"),
    ];
    users.extend(options.users.iter().cloned());
    users
}

/// The key that service account tokens are signed with.
fn write_signing_key(path: &Path) -> Result<()> {
    let pair = KeyPair::generate(KeySize::Rsa2048).context("could not generate an RSA key")?;
    let der = pair.as_der().context("could not encode the RSA key")?;
    let text = STANDARD.encode(der.as_ref());
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str("\n-----END PRIVATE KEY-----\n");
    fs::write(path, pem).context("could not write the signing key")
}

/// Writes the API server's token file and answers the tokens by user.
fn write_tokens(path: &Path, users: &[User]) -> Result<BTreeMap<String, String>> {
    let mut lines = String::new();
    let mut tokens = BTreeMap::new();
    for (index, user) in users.iter().enumerate() {
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).context("could not draw a token")?;
        let token = format!("{:032x}", u128::from_be_bytes(random));
        writeln!(
            lines,
            "{token},{},uid-{index},\"{}\"",
            user.name,
            user.groups.join(",")
        )
        .context("could not write a token line")?;
        tokens.insert(user.name.clone(), token);
    }
    fs::write(path, lines).context("could not write the token file")?;
    Ok(tokens)
}

/// Kubeconfigs are written as JSON, which is YAML too.
fn write_kubeconfig(
    path: &Path,
    url: &str,
    ca: &Path,
    (user, ns): (&str, Option<&str>),
    token: &str,
) -> Result<()> {
    let authority = fs::read(ca).context("could not read the API server's certificate")?;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "muster",
        "clusters": [{"name": "muster", "cluster": {
            "server": url, "certificate-authority-data": STANDARD.encode(authority)}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "muster", "context": {"cluster": "muster", "user": user, "namespace": ns}}],
    });
    fs::write(path, format!("{config:#}\n")).with_context(|| format!("could not write {}", path.display()))
}

fn etcd_args(dir: &Path, client_url: &str) -> Result<Vec<String>> {
    let peer_url = format!("http://127.0.0.1:{}", free_port()?);
    Ok(vec![
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls={client_url}"),
        format!("--advertise-client-urls={client_url}"),
        format!("--listen-peer-urls={peer_url}"),
        format!("--initial-advertise-peer-urls={peer_url}"),
        format!("--initial-cluster=default={peer_url}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ])
}

fn apiserver_args(dir: &Path, store: &str, port: u16) -> Vec<String> {
    let key = dir.join("sa.key");
    vec![
        format!("--etcd-servers={store}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        format!("--cert-dir={}", dir.join("certs").display()),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", key.display()),
        format!("--service-account-signing-key-file={}", key.display()),
        format!("--token-auth-file={}", dir.join("tokens.csv").display()),
        "--authorization-mode=RBAC".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        // No kubelet mounts tokens, and pods must not wait for their namespace's account.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        // The dind sidecar is privileged.
        "--allow-privileged=true".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
    ]
}

fn access_log(dir: &Path) -> PathBuf {
    dir.join("access.log")
}

/// What only some control planes are asked for.
fn further_args(dir: &Path, options: &Options) -> Result<Vec<String>> {
    let write = |name: &str, content: serde_json::Value| {
        let path = dir.join(name);
        fs::write(&path, content.to_string())
            .with_context(|| format!("could not write {}", path.display()))?;
        anyhow::Ok(path.display().to_string())
    };
    let mut args = Vec::new();
    if options.access {
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            // Not the second one: a watch is seen when it begins, not only when it ends.
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
        });
        args.extend([
            format!("--audit-policy-file={}", write("access-policy.json", policy)?),
            format!("--audit-log-path={}", access_log(dir).display()),
        ]);
    }
    if let Some(socket) = &options.services {
        let transport = json!({"uds": {"udsName": socket}});
        let selection = json!({
            "apiVersion": "apiserver.k8s.io/v1beta1",
            "kind": "EgressSelectorConfiguration",
            "egressSelections": [{
                "name": "cluster",
                "connection": {"proxyProtocol": "HTTPConnect", "transport": transport},
            }],
        });
        let file = write("egress.json", selection)?;
        args.push(format!("--egress-selector-config-file={file}"));
    }
    Ok(args)
}

/// Collects garbage less often than Go does by default: on two cores it would take a part of what is measured.
fn lazy_gc() -> BTreeMap<String, String> {
    BTreeMap::from([("GOGC".to_owned(), "200".to_owned())])
}

fn controller_manager_args(dir: &Path, kubeconfig: &Path, workloads: bool) -> Vec<String> {
    let further = if workloads { WORKLOAD_CONTROLLERS } else { "" };
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--controllers={CONTROLLERS}{further}"),
        "--leader-elect=false".to_owned(),
        format!(
            "--service-account-private-key-file={}",
            dir.join("sa.key").display()
        ),
        "--secure-port=0".to_owned(),
        // The client-side throttle of 20 per second would make the garbage collector the slowest part of a test.
        "--kube-api-qps=500".to_owned(),
        "--kube-api-burst=1000".to_owned(),
    ]
}

async fn etcd_is_healthy(url: &str) -> bool {
    let Ok(client) = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(2))
        .build()
    else {
        return false;
    };
    client
        .get(format!("{url}/health"))
        .send()
        .await
        .is_ok_and(|answer| answer.status().is_success())
}

async fn is_ready(client: &Client) -> bool {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else {
        return false;
    };
    tokio::time::timeout(Duration::from_secs(5), client.request_text(request))
        .await
        .is_ok_and(|answer| answer.is_ok_and(|text| text == "ok"))
}

/// Waits for `ready` while `process` lives.
async fn wait_for(what: &str, process: &mut Kept, ready: impl AsyncFn() -> bool) -> Result<()> {
    let until = Instant::now() + START_DEADLINE;
    loop {
        if ready().await {
            return Ok(());
        }
        process.check_alive()?;
        if Instant::now() > until {
            bail!(
                "{what} was not ready after {START_DEADLINE:?}; the end of its log:\n{}",
                process.log_tail(4_000)
            );
        }
        tokio::time::sleep(POLL).await;
    }
}
