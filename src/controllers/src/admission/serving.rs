//! The webhooks' port and its certificate (spec 02 §2.5): from files, as upstream's installations mount them, or self-made.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::Router;
use muster_runtime::{
    serve::{Address, AddressError, Certificate, Gate, Limits, Readiness, serve_tls},
    telemetry::chain,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Admission, SelfSigned, router};

/// Time between two looks at what is not there yet.
const RETRY: Duration = Duration::from_secs(10);
/// Readiness waits for it where the process is to serve webhooks.
const GATE: &str = "admission certificate";

/// Where upstream's library looks for `tls.crt` and `tls.key`: below the folder for temporary files (`TMPDIR`, else `/tmp`).
pub fn default_directory() -> PathBuf {
    std::env::temp_dir()
        .join("k8s-webhook-server")
        .join("serving-certs")
}

/// What is served, where.
pub struct Start {
    /// The webhooks.
    pub admission: Admission,
    /// `--port`.
    pub address: Address,
    /// Folder of `tls.crt` and `tls.key`.
    pub directory: PathBuf,
    /// Makes a certificate when the files are missing; `None` where that is not wanted.
    pub self_signed: Option<SelfSigned>,
    /// Gets a gate when there is a certificate to wait for.
    pub readiness: Readiness,
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("address", &self.address)
            .field("directory", &self.directory)
            .field("self_signed", &self.self_signed)
            .finish_non_exhaustive()
    }
}

/// Why there are no webhooks although there is a certificate.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken.
    #[error("could not serve the admission webhooks")]
    Listen(#[source] AddressError),
}

/// Serves the webhooks until `stop`, in a task of `tasks`.
///
/// Without files and without a self-made certificate nothing is served, and that is no error: upstream does not start then, but
/// installations that register no webhooks need none. The files may come later.
///
/// # Errors
/// [`StartError`].
pub async fn start(start: Start, stop: &CancellationToken, tasks: &TaskTracker) -> Result<(), StartError> {
    let Start {
        admission,
        address,
        directory,
        self_signed,
        readiness,
    } = start;
    let router = router(admission);
    let stop = stop.clone();
    let has_files = has_files(&directory);
    if !has_files && self_signed.is_none() {
        tracing::warn!(
            directory = %directory.display(),
            "There is no certificate (tls.crt, tls.key), so no admission webhooks are served: objects are not validated when they are \
             written, and RunnerSets, whose pods get their token from a webhook, do not work. Without registered webhooks nothing else \
             is missing."
        );
        tasks.spawn(late(router, address, directory, stop));
        return Ok(());
    }
    let Some(listener) = address.listen().await.map_err(StartError::Listen)? else {
        return Ok(());
    };
    let gate = readiness.gate(GATE);
    match self_signed.filter(|_| !has_files) {
        Some(own) => tasks.spawn(from_own(own, listener, router, gate, stop)),
        None => tasks.spawn(from_files(directory, listener, router, Some(gate), stop)),
    };
    Ok(())
}

fn has_files(directory: &Path) -> bool {
    directory.join("tls.crt").is_file() && directory.join("tls.key").is_file()
}

/// Begins when the files appear.
async fn late(router: Router, address: Address, directory: PathBuf, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return,
        }
        if !has_files(&directory) {
            continue;
        }
        match address.listen().await {
            Ok(Some(listener)) => return from_files(directory, listener, router, None, stop).await,
            Ok(None) => return,
            Err(error) => tracing::error!(error = %chain(&error), "Could not serve the admission webhooks."),
        }
    }
}

async fn from_files(
    directory: PathBuf,
    listener: TcpListener,
    router: Router,
    gate: Option<Gate>,
    stop: CancellationToken,
) {
    let mut patience = Patience::default();
    let certificate = loop {
        match Certificate::read(&directory.join("tls.crt"), &directory.join("tls.key")) {
            Ok(certificate) => break certificate,
            Err(error) => {
                if !patience.after(&error, &stop).await {
                    return;
                }
            }
        }
    };
    if let Some(gate) = gate {
        gate.open();
    }
    tracing::info!(directory = %directory.display(), "Serving the admission webhooks.");
    let follow = certificate.clone().follow(stop.clone());
    let serve = serve_tls(listener, router, Limits::default(), &certificate, stop.clone());
    tokio::join!(follow, serve);
}

async fn from_own(
    own: SelfSigned,
    listener: TcpListener,
    router: Router,
    gate: Gate,
    stop: CancellationToken,
) {
    let mut patience = Patience::default();
    let certificate = loop {
        match own.certificate().await {
            Ok(certificate) => break certificate,
            Err(error) => {
                if !patience.after(&error, &stop).await {
                    return;
                }
            }
        }
    };
    gate.open();
    tracing::info!("Serving the admission webhooks with a certificate of our own.");
    let keep = own.keep(&certificate, stop.clone());
    let serve = serve_tls(listener, router, Limits::default(), &certificate, stop.clone());
    tokio::join!(keep, serve);
}

/// Attempts that go on until one works. The same trouble is told once.
#[derive(Default)]
struct Patience {
    last: String,
}

impl Patience {
    /// Waits before the next attempt; false when the process ends instead.
    async fn after(
        &mut self,
        error: &(dyn std::error::Error + Sync + 'static),
        stop: &CancellationToken,
    ) -> bool {
        let error = chain(error);
        if error != self.last {
            tracing::error!(%error, "There is no usable certificate for the admission webhooks yet.");
            self.last = error;
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => true,
            () = stop.cancelled() => false,
        }
    }
}
