//! The simplest honest load balancer: connections go round the replicas, and one that refuses is skipped.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A loopback forwarder of TCP connections. It ends, with its connections, when it is dropped.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Balancer {
    /// Forwards to these addresses in turn.
    pub async fn start(targets: Vec<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("could not bind a port")?;
        let address = listener.local_addr().context("the port is unknown")?;
        let stop = CancellationToken::new();
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(accept(listener, targets.into(), stop.clone())),
        );
        Ok(Self {
            address,
            _stop: stop.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, targets: Arc<[SocketAddr]>, stop: CancellationToken) {
    let mut first = 0;
    loop {
        // Out of file descriptors, or a client that went away at once: neither ends the service.
        let Ok((client, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let targets = targets.clone();
        let forward = async move { forward(client, &targets, first).await };
        tokio::spawn(stop.clone().run_until_cancelled_owned(forward));
        first += 1;
    }
}

/// A replica that dies breaks its connections: the client sees that as it would see it without us.
async fn forward(mut client: TcpStream, targets: &[SocketAddr], first: usize) {
    for target in targets
        .iter()
        .cycle()
        .skip(first % targets.len().max(1))
        .take(targets.len())
    {
        if let Ok(mut replica) = TcpStream::connect(target).await {
            let is_prompt = client.set_nodelay(true).and_then(|()| replica.set_nodelay(true));
            if is_prompt.is_ok() {
                drop(copy_bidirectional(&mut client, &mut replica).await);
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn replica(letter: u8) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(&[letter]).await.unwrap();
            }
        });
        (address, task)
    }

    async fn ask(balancer: &Balancer) -> String {
        let mut stream = TcpStream::connect(balancer.address()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn connections_go_round_and_skip_a_replica_that_refuses() {
        let ((a, first), (b, _second)) = (replica(b'a').await, replica(b'b').await);
        let balancer = Balancer::start(vec![a, b]).await.unwrap();
        assert_eq!([ask(&balancer).await, ask(&balancer).await], ["a", "b"]);
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!([ask(&balancer).await, ask(&balancer).await], ["b", "b"]);
    }
}
