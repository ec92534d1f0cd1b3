//! A fault proxy between one component and kube-apiserver: it passes HTTP/1.1 on (watches as they stream, the
//! component's own token with it), writes every call down, and lets calls go wrong as a test asks (spec part 91, B9).
//!
//! ```text
//! component --http--> FaultProxy --https--> kube-apiserver
//! ```
//!
//! One proxy stands before one process, so that its calls and faults are that process's alone. [`Balancer`] stands on
//! the other side, before several webhook servers.

mod balancer;
mod call;
mod fault;
mod relay;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use axum::extract::DefaultBodyLimit;
use base64::{Engine, engine::general_purpose::STANDARD};
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    control_plane::{ADMIN, ControlPlane},
    github::{
        lock,
        wire::{Cut, CuttableListener},
    },
};

use self::fault::Faults;

pub use self::{
    balancer::Balancer,
    call::{Call, Target, Verb},
    fault::{ApiFault, ApiFaultId},
};

/// More than the API server takes itself.
const BODY_LIMIT: usize = 8 << 20;

/// How the API server is to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// As always.
    Fair,
    /// It takes calls and says nothing.
    Hung,
    /// Connections are reset.
    Dark,
}

/// A call and what came of it so far.
#[derive(Debug)]
struct Record {
    call: Call,
    received: Arc<AtomicU64>,
}

/// What the handlers share.
#[derive(Debug)]
struct Inner {
    upstream: String,
    client: reqwest::Client,
    begun: Instant,
    faults: Mutex<Faults>,
    calls: Mutex<Vec<Record>>,
    weather: watch::Sender<Weather>,
    dark: Arc<AtomicBool>,
    /// Grows when all open watches are to break.
    break_watches: watch::Sender<u64>,
}

/// A running proxy. Dropping it resets its connections.
#[derive(Debug)]
pub struct FaultProxy {
    inner: Arc<Inner>,
    address: SocketAddr,
    dir: PathBuf,
    kubeconfigs: BTreeMap<String, PathBuf>,
    server: JoinHandle<()>,
}

impl FaultProxy {
    /// Starts a proxy before this control plane, with seed 0.
    pub async fn start(plane: &ControlPlane) -> Result<Self> {
        Self::start_seeded(plane, 0).await
    }

    /// Starts a proxy whose faults are drawn from this seed.
    pub async fn start_seeded(plane: &ControlPlane, seed: u64) -> Result<Self> {
        let cluster = Kubeconfig::read_from(plane.kubeconfig(ADMIN)?)
            .context("could not read the control plane's kubeconfig")?
            .clusters
            .into_iter()
            .find_map(|cluster| cluster.cluster)
            .context("the kubeconfig names no cluster")?;
        let authority = STANDARD
            .decode(cluster.certificate_authority_data.unwrap_or_default())
            .context("could not decode the authority's certificate")?;
        let authority = reqwest::Certificate::from_pem_bundle(&authority)
            .context("could not read the authority's certificate")?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only(authority)
            // As the components themselves do: a burst of writes must not hold up the watches on its connection.
            .http1_only()
            .tcp_nodelay(true)
            .build()
            .context("could not make an HTTP client")?;
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("could not bind a port")?;
        let address = listener.local_addr().context("the port is unknown")?;
        let dark = Arc::new(AtomicBool::new(false));
        let inner = Arc::new(Inner {
            upstream: plane.url().to_owned(),
            client,
            begun: Instant::now(),
            faults: Mutex::new(Faults::new(seed)),
            calls: Mutex::default(),
            weather: watch::Sender::new(Weather::Fair),
            dark: dark.clone(),
            break_watches: watch::Sender::new(0),
        });
        let router = axum::Router::new()
            .fallback(relay::handle)
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .with_state(inner.clone());
        let service = router.into_make_service_with_connect_info::<Cut>();
        let server = axum::serve(CuttableListener::new(listener, dark), service);
        let server = tokio::spawn(async move {
            // Serving never ends by itself.
            drop(server.await);
        });
        let mut proxy = Self {
            inner,
            address,
            dir: plane.dir().to_path_buf(),
            kubeconfigs: BTreeMap::new(),
            server,
        };
        for user in plane.users() {
            let path = proxy.redirect(plane.kubeconfig(user)?, user)?;
            proxy.kubeconfigs.insert(user.to_owned(), path);
        }
        Ok(proxy)
    }

    /// Where the proxy listens, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig file that leads one of the control plane's users through the proxy.
    pub fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        self.kubeconfigs
            .get(user)
            .cloned()
            .with_context(|| format!("there is no user {user}"))
    }

    /// The same file with another server.
    fn redirect(&self, kubeconfig: &Path, user: &str) -> Result<PathBuf> {
        let text = fs::read(kubeconfig).context("could not read the kubeconfig")?;
        let mut config: Value = serde_json::from_slice(&text).context("could not parse the kubeconfig")?;
        *config
            .pointer_mut("/clusters/0/cluster")
            .context("the kubeconfig names no cluster")? = json!({"server": self.url()});
        let name = format!(
            "kubeconfig-{}-{}.json",
            self.address.port(),
            user.replace(':', "-")
        );
        let path = self.dir.join(name);
        fs::write(&path, format!("{config:#}\n"))
            .with_context(|| format!("could not write {}", path.display()))?;
        Ok(path)
    }

    // ---- faults

    /// Lets something go wrong from now on.
    pub fn inject(&self, fault: ApiFault) -> ApiFaultId {
        lock(&self.inner.faults).inject(fault)
    }

    /// Ends one fault.
    pub fn clear_fault(&self, fault: ApiFaultId) {
        lock(&self.inner.faults).clear(Some(fault));
    }

    /// Ends all faults, and a black-out too.
    pub fn clear(&self) {
        lock(&self.inner.faults).clear(None);
        self.set(Weather::Fair);
    }

    /// Black-out: resets all connections and refuses new ones by resetting them, or ends that.
    pub fn set_dark(&self, dark: bool) {
        self.set(if dark { Weather::Dark } else { Weather::Fair });
    }

    /// Lets all calls and watches wait in silence, as behind a firewall that drops packets, or go on. A call whose
    /// component has given up meanwhile is never passed on.
    pub fn set_hung(&self, hung: bool) {
        self.set(if hung { Weather::Hung } else { Weather::Fair });
    }

    /// Resets the watches that are open now.
    pub fn drop_watches(&self) {
        self.inner.break_watches.send_modify(|number| *number += 1);
    }

    fn set(&self, weather: Weather) {
        self.inner.dark.store(weather == Weather::Dark, Ordering::SeqCst);
        self.inner.weather.send_replace(weather);
    }

    // ---- what was called

    /// All calls since the start or the last [`forget_calls`](Self::forget_calls), in the order of their answers.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.inner.calls)
            .iter()
            .map(|record| Call {
                received: record.received.load(Ordering::Relaxed),
                ..record.call.clone()
            })
            .collect()
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&self) {
        lock(&self.inner.calls).clear();
    }

    /// How many calls there were of each kind: `update runners/status`.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.tally(|_| true, |target| format!("{} {}", target.verb, target.path()))
    }

    /// How many writes the API server carried out for each resource: `pods`, `runners/status`. Those whose answer was
    /// lost are among them; those that were refused are not.
    pub fn writes_by_resource(&self) -> BTreeMap<String, u64> {
        self.tally(Call::is_done_write, Target::path)
    }

    /// How many calls were answered by a fault.
    pub fn injected(&self) -> usize {
        lock(&self.inner.calls)
            .iter()
            .filter(|record| record.call.injected)
            .count()
    }

    fn tally(
        &self,
        counts: impl Fn(&Call) -> bool,
        name: impl Fn(&Target) -> String,
    ) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for record in lock(&self.inner.calls).iter().filter(|r| counts(&r.call)) {
            *sums.entry(name(&record.call.target)).or_default() += 1;
        }
        sums
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.set(Weather::Dark);
        self.server.abort();
    }
}

impl Inner {
    fn record(&self, mut call: Call) -> Arc<AtomicU64> {
        call.took = self.since_start().saturating_sub(call.at);
        let received = Arc::new(AtomicU64::new(call.received));
        lock(&self.calls).push(Record {
            call,
            received: received.clone(),
        });
        received
    }

    fn since_start(&self) -> Duration {
        self.begun.elapsed()
    }
}
