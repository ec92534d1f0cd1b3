//! The cluster's Services on this machine: the API server reaches them through a proxy (its egress selector), GitHub through a port that is
//! kept for one of them. Each connection goes to a ready pod.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::util::intstr::IntOrString};
use kube::{Api, Client, ResourceExt, api::ListParams};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixListener},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{node::Node, pod::port_number};

/// A head of a request that is longer is none.
const HEAD_LIMIT: usize = 4_096;

/// The socket, before somebody serves it: the API server must be told of it at its start.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    pub(super) fn bind(dir: &Path) -> Result<Self> {
        let path = dir.join("services.sock");
        let listener =
            UnixListener::bind(&path).with_context(|| format!("could not listen on {}", path.display()))?;
        Ok(Self { listener, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The Services of one namespace.
pub(super) struct Services {
    inner: Arc<Inner>,
    stop: CancellationToken,
    _guard: DropGuard,
}

struct Inner {
    client: Client,
    ns: String,
    node: Arc<Node>,
}

impl Services {
    pub(super) fn start(socket: Socket, client: Client, ns: &str, node: Arc<Node>) -> Self {
        let inner = Arc::new(Inner {
            client,
            ns: ns.to_owned(),
            node,
        });
        let stop = CancellationToken::new();
        let (serving, cut) = (inner.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let Ok((stream, _)) = socket.listener.accept().await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let inner = serving.clone();
                tokio::spawn(cut.clone().run_until_cancelled_owned(async move {
                    if let Err(error) = inner.connect(stream).await {
                        tracing::debug!("A call of the API server reached no pod: {error:#}");
                    }
                }));
            }
        }));
        Self {
            inner,
            _guard: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Keeps a port of this machine for a port of a Service.
    pub(super) async fn publish(&self, service: &str, port: i32) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("could not bind a port")?;
        let address = listener.local_addr().context("the port is unknown")?;
        let (inner, service, cut) = (self.inner.clone(), service.to_owned(), self.stop.clone());
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else {
                    continue;
                };
                let (inner, service) = (inner.clone(), service.clone());
                tokio::spawn(cut.clone().run_until_cancelled_owned(async move {
                    if let Ok(mut pod) = inner.dial(&service, port).await {
                        drop(copy_bidirectional(&mut stream, &mut pod).await);
                    }
                }));
            }
        }));
        Ok(address)
    }
}

impl Inner {
    /// One `CONNECT address:port` of the API server, where the address is a Service's.
    async fn connect(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > HEAD_LIMIT {
                bail!("the head of the request is too long");
            }
            head.push(stream.read_u8().await.context("the request broke off")?);
        }
        let text = String::from_utf8_lossy(&head);
        let target = text.split(' ').nth(1).context("the request names no address")?;
        let (host, port) = target.rsplit_once(':').context("the address has no port")?;
        let port = port.parse::<i32>().context("the port is no number")?;
        let dialled = async {
            let service = self.named(host).await?;
            self.dial(&service, port).await
        };
        match dialled.await {
            Ok(mut pod) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                drop(copy_bidirectional(&mut stream, &mut pod).await);
                Ok(())
            }
            Err(error) => {
                stream
                    .write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
                    .await?;
                Err(error)
            }
        }
    }

    /// The Service with this address in the cluster, or of this DNS name.
    async fn named(&self, host: &str) -> Result<String> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), &self.ns);
        let services = api
            .list(&ListParams::default())
            .await
            .context("could not list the Services")?;
        services
            .into_iter()
            .find(|service| {
                let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
                address == Some(host) || host.starts_with(&format!("{}.{}.svc", service.name_any(), self.ns))
            })
            .map(|service| service.name_any())
            .with_context(|| format!("no Service has the address {host}"))
    }

    async fn dial(&self, service: &str, port: i32) -> Result<TcpStream> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), &self.ns);
        let found = api.get(service).await.context("could not read the Service")?;
        let spec = found.spec.unwrap_or_default();
        let entry = spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .find(|entry| entry.port == port);
        let entry = entry.with_context(|| format!("Service {service} has no port {port}"))?;
        let target = entry.target_port.unwrap_or(IntOrString::Int(port));
        let labels: Vec<String> = spec
            .selector
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let labels = labels.join(",");
        let endpoints = self
            .node
            .endpoints(&labels, |containers| port_number(&target, containers));
        for here in endpoints.await? {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", here)).await {
                stream
                    .set_nodelay(true)
                    .context("could not set up the connection")?;
                return Ok(stream);
            }
        }
        bail!("no pod of Service {service} is ready")
    }
}
