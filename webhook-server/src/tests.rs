//! A whole server on loopback sockets.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::*;
use crate::args::TlsFiles;
use crate::testing::{Bench, clock};

struct Running {
    webhook: SocketAddr,
    metrics: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn start(settings: Settings) -> Running {
    let client = Bench::new(1).cluster.client();
    let server = Server::with_client(settings, client, new_registry("test"), clock())
        .await
        .unwrap();
    let stop = CancellationToken::new();
    Running {
        webhook: server.webhook_address().unwrap(),
        metrics: server.metrics_address().unwrap(),
        stop: stop.clone(),
        task: tokio::spawn(server.run(stop)),
    }
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Sends a request and reads until the server closes.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), head: &str, body: &str) -> String {
    let length = body.len();
    let request = format!("{head} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n");
    let event =
        "X-GitHub-Event: ping\r\nContent-Type: application/json\r\nAuthorization: Bearer t0k3n\r\n\r\n";
    stream
        .write_all(format!("{request}{event}{body}").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok();
    answer
}

async fn plain(address: SocketAddr, head: &str, body: &str) -> String {
    exchange(&mut TcpStream::connect(address).await.unwrap(), head, body).await
}

async fn over_tls(address: SocketAddr, trusted: CertificateDer<'static>, head: &str, body: &str) -> String {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await.unwrap();
    exchange(&mut stream, head, body).await
}

#[tokio::test]
async fn webhooks_over_tls_and_the_rest_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles {
        certificate: folder.path().join("tls.crt"),
        key: folder.path().join("tls.key"),
    };
    let with_tls = Settings {
        tls: Some(files.clone()),
        debug_token: Some(SecretString::from("t0k3n")),
        ..Settings::loopback()
    };
    let missing = Server::with_client(
        with_tls.clone(),
        Bench::new(1).cluster.client(),
        new_registry("test"),
        clock(),
    )
    .await;
    assert!(matches!(missing.unwrap_err(), StartError::Tls(_)));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let server = start(with_tls).await;
    let trusted = made.cert.der().clone();
    let pong = over_tls(server.webhook, trusted.clone(), "POST /", "{}").await;
    assert!(
        pong.starts_with("HTTP/1.1 200") && pong.ends_with("pong"),
        "{pong}"
    );
    let running = over_tls(server.webhook, trusted, "GET /", "").await;
    assert!(running.ends_with("webhook server is running\n"), "{running}");
    // Metrics and health stay on plain HTTP.
    let metrics = plain(server.metrics, "GET /metrics", "").await;
    assert!(
        metrics.contains("muster_webhook_deliveries_total{event=\"ping\""),
        "{metrics}"
    );
    let debug = plain(server.metrics, "GET /debug/unmatched", "").await;
    assert!(
        debug.starts_with("HTTP/1.1 200") && debug.ends_with("[]"),
        "{debug}"
    );
    server.end().await;
}

#[tokio::test]
async fn the_debug_endpoint_is_off_without_a_token() {
    let server = start(Settings::loopback()).await;
    let debug = plain(server.metrics, "GET /debug/unmatched", "").await;
    assert!(debug.starts_with("HTTP/1.1 404"), "{debug}");
    // Nor is it where webhooks are received.
    let other = plain(server.webhook, "GET /debug/unmatched", "").await;
    assert!(other.ends_with("webhook server is running\n"), "{other}");
    server.end().await;
}

/// Feature 1 of part 90: who sends a byte now and then, or nothing, is let go within ten seconds; until then further
/// connections wait.
#[tokio::test]
async fn slow_senders_are_let_go_and_connections_are_limited() {
    let server = start(Settings {
        connection_limit: 2,
        ..Settings::loopback()
    })
    .await;
    let begun = Instant::now();
    let silent = TcpStream::connect(server.webhook).await.unwrap();
    let slow = TcpStream::connect(server.webhook).await.unwrap();
    let drip = tokio::spawn(async move {
        let (mut reading, mut writing) = slow.into_split();
        let drip = async {
            loop {
                if writing.write_all(b"G").await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let mut rest = Vec::new();
        tokio::select! {
            () = drip => {}
            _ = reading.read_to_end(&mut rest) => {}
        }
    });
    let third = plain(server.webhook, "POST /", "{}").await;
    assert!(third.ends_with("pong"), "{third}");
    let waited = begun.elapsed();
    assert!(
        (Duration::from_secs(8)..Duration::from_secs(12)).contains(&waited),
        "{waited:?}"
    );
    drip.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(12));
    drop(silent);
    server.end().await;
}
