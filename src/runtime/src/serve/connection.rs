//! One connection: HTTP/1.1 with times for heads, idleness and writes.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::Limits;
use crate::telemetry::chain;

/// What a connection needs besides its stream.
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) router: Router,
    pub(super) limits: Limits,
    pub(super) shutdown: CancellationToken,
}

impl Connection {
    /// Serves until the peer or a limit ends the connection.
    pub(super) async fn run(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let Some(tls) = tls else {
            return self.serve(stream).await;
        };
        let handshake = tokio::select! {
            handshake = tokio::time::timeout(self.limits.head, tls.accept(stream)) => handshake,
            () = self.shutdown.cancelled() => return,
        };
        match handshake {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => {
                tracing::debug!(error = %chain(&error), peer = %self.peer, "TLS handshake failed");
            }
            Err(_) => tracing::debug!(peer = %self.peer, "TLS handshake took too long"),
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S) {
        let Self {
            peer,
            router,
            limits,
            shutdown,
        } = self;
        let progress = Arc::new(Progress::default());
        let service = {
            let progress = Arc::clone(&progress);
            hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let under_way = UnderWay::begin(Arc::clone(&progress));
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(ConnectInfo(peer));
                let answer = router.clone().oneshot(request);
                async move {
                    let answer = answer.await;
                    drop(under_way);
                    answer
                }
            })
        };
        let stream = Bounded {
            stream: TokioIo::new(stream),
            head_limit: limits.head,
            write_limit: limits.write,
            head: Some(Head::begun(0, limits.head)),
            write: None,
            progress,
        };
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            // Runs from the end of an answer on; what has begun to arrive has the shorter time of `Bounded`.
            .header_read_timeout(limits.idle.max(limits.head))
            .serve_connection(stream, service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = %chain(&error), %peer, "Connection ended early");
        }
    }
}

/// How far a connection's requests are, for the stream below them.
#[derive(Debug, Default)]
struct Progress {
    /// Requests whose head has arrived.
    requests: AtomicUsize,
    /// One is being answered.
    under_way: AtomicBool,
}

/// Lasts as long as a request is being answered.
struct UnderWay(Arc<Progress>);

impl UnderWay {
    fn begin(progress: Arc<Progress>) -> Self {
        progress.requests.fetch_add(1, Ordering::Relaxed);
        progress.under_way.store(true, Ordering::Relaxed);
        Self(progress)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.store(false, Ordering::Relaxed);
    }
}

/// The head that is arriving: the one after `requests` others.
struct Head {
    requests: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Head {
    fn begun(requests: usize, limit: Duration) -> Self {
        Self {
            requests,
            deadline: Box::pin(sleep(limit)),
        }
    }
}

/// A stream whose peer must send a head that it has begun, and take what we write, within a time: or else it would hold its slot for as
/// long as it likes.
struct Bounded<S> {
    stream: TokioIo<S>,
    head_limit: Duration,
    write_limit: Duration,
    head: Option<Head>,
    write: Option<Pin<Box<Sleep>>>,
    progress: Arc<Progress>,
}

impl<S> Bounded<S> {
    /// Ends a head that has been arriving for too long.
    fn bound_head(&mut self, context: &mut Context<'_>, is_read: bool) -> Poll<io::Result<()>> {
        let requests = self.progress.requests.load(Ordering::Relaxed);
        if self.progress.under_way.load(Ordering::Relaxed) {
            self.head = None;
            return Poll::Pending;
        }
        if self.head.as_ref().is_some_and(|head| head.requests != requests) {
            self.head = None;
        }
        if is_read {
            let limit = self.head_limit;
            self.head.get_or_insert_with(|| Head::begun(requests, limit));
            return Poll::Pending;
        }
        match &mut self.head {
            Some(head) => head
                .deadline
                .as_mut()
                .poll(context)
                .map(|()| Err(io::ErrorKind::TimedOut.into())),
            None => Poll::Pending,
        }
    }

    /// Ends a write that has been pending for too long.
    fn bound_write<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write = None;
            return written;
        }
        let limit = self.write_limit;
        let deadline = self.write.get_or_insert_with(|| Box::pin(sleep(limit)));
        deadline
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> hyper::rt::Read for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        match self.bound_head(context, read.is_ready()) {
            Poll::Ready(over) => Poll::Ready(over),
            Poll::Pending => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> hyper::rt::Write for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bound_write(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.bound_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.bound_write(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bound_write(context, shut)
    }
}
