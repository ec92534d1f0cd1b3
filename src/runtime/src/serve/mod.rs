//! HTTP servers with bounds: connections, time for a request's head, time for an answer, time to end (part 91 B8).
//!
//! [`serve`] runs any router until it is told to stop; [`metrics_router`] and [`health_router`] are the two that every process has.

mod address;
mod connection;
mod routes;
mod tls;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use http::StatusCode;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};

use self::connection::Connection;
pub use self::{
    address::{Address, AddressError},
    routes::{Gate, Readiness, health_router, metrics_everywhere, metrics_router},
    tls::{Certificate, CertificateError},
};
use crate::telemetry::chain;

/// Bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// Time for a request's head to arrive once it has begun, for a new connection's first one from the start, and for the TLS handshake.
    pub head: Duration,
    /// Time for which a connection may wait for its next request.
    pub idle: Duration,
    /// Time from a request's head to the answer's head; the answer is 503 then.
    pub request: Duration,
    /// Time for the peer to take a part of the answer.
    pub write: Duration,
    /// Time for running requests to end after the server was told to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            head: Duration::from_secs(10),
            // Longer than the 60 s after which common proxies let go of a connection themselves.
            idle: Duration::from_secs(75),
            request: Duration::from_secs(30),
            write: Duration::from_secs(30),
            drain: Duration::from_secs(20),
        }
    }
}

/// Serves HTTP/1.1 until `shutdown`, then lets running requests end. A handler that panics answers 500 and harms nobody else.
/// Handlers can take the peer's address as `ConnectInfo<SocketAddr>`; a limit for bodies is the router's business.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: CancellationToken) {
    serve_with(listener, router, limits, None, shutdown).await;
}

/// As [`serve`], over TLS with this certificate.
pub async fn serve_tls(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    certificate: &Certificate,
    shutdown: CancellationToken,
) {
    serve_with(listener, router, limits, Some(certificate.acceptor()), shutdown).await;
}

async fn serve_with(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    tls: Option<TlsAcceptor>,
    shutdown: CancellationToken,
) {
    let router = router
        .layer(TimeoutLayer::with_status_code(
            StatusCode::SERVICE_UNAVAILABLE,
            limits.request,
        ))
        .layer(CatchPanicLayer::new());
    let slots = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    let abandon = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, peer, slot)) => {
                let connection = Connection {
                    peer,
                    router: router.clone(),
                    limits,
                    shutdown: shutdown.clone(),
                };
                let connection = connection.run(stream, tls.clone());
                let abandon = abandon.clone();
                connections.spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        () = abandon.cancelled() => {}
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // Mostly out of file descriptors: connections that end free some.
                tracing::warn!(
                    error = %chain(&error),
                    "Could not accept a connection"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = connections.len(),
            "Cut off requests that did not end in time"
        );
        abandon.cancel();
        connections.wait().await;
    }
}

type Slot = tokio::sync::OwnedSemaphorePermit;

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> io::Result<(TcpStream, SocketAddr, Slot)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    // Answers are small and complete; waiting to fill a packet would only delay them.
    stream.set_nodelay(true)?;
    Ok((stream, peer, slot))
}

#[cfg(test)]
mod tests;
