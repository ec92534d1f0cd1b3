//! Servers on loopback sockets.

use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::metrics::{Exposition, new_registry};
use tokio::net::TcpStream;

fn at(host: &str, port: u16) -> Address {
    Address::At {
        host: host.to_owned(),
        port,
    }
}

#[test]
fn addresses_in_gos_notation() {
    let parse = |text| Address::parse(text, ":8080").ok();
    assert_eq!(parse(""), Some(at("", 8080)));
    assert_eq!(parse("0"), Some(Address::Off));
    assert_eq!(parse(":9"), Some(at("", 9)));
    assert_eq!(parse("127.0.0.1:8080"), Some(at("127.0.0.1", 8080)));
    assert_eq!(parse("localhost:0"), Some(at("localhost", 0)));
    assert_eq!(parse("[::1]:8080"), Some(at("::1", 8080)));
    for bad in ["8080", "::1:80", "[::1:80", "a:", "a:b", ":65536", "0.0.0.0"] {
        assert_eq!(parse(bad), None, "{bad}");
    }
    assert_eq!(Address::parse("", "").unwrap(), Address::Off);
}

#[tokio::test]
async fn listening_says_which_address_is_taken() {
    assert!(Address::Off.listen().await.unwrap().is_none());
    let first = at("", 0).listen().await.unwrap().unwrap();
    let port = first.local_addr().unwrap().port();
    let error = at("", port).listen().await.unwrap_err();
    assert_eq!(error.to_string(), format!("could not listen on :{port}"));
}

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn start(router: Router, limits: Limits) -> Server {
    let listener = at("127.0.0.1", 0).listen().await.unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, router, limits, shutdown.clone()));
    Server {
        address,
        shutdown,
        task,
    }
}

/// Sends raw bytes and reads until the server closes.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn fetch(address: SocketAddr, path: &str, headers: &str) -> String {
    exchange(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n"),
    )
    .await
}

#[tokio::test]
async fn metrics_and_health_over_a_socket() {
    let readiness = Readiness::new();
    let (synced, certificate) = (readiness.gate("watches"), readiness.gate("certificate"));
    let router = metrics_router(Exposition::new(new_registry("test"))).merge(health_router(readiness));
    let server = start(router, Limits::default()).await;

    let classic = fetch(server.address, "/metrics", "").await;
    assert!(
        classic.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{classic}"
    );
    assert!(classic.contains("\nmuster_build_info{"), "{classic}");
    let open = fetch(
        server.address,
        "/metrics",
        "Accept: application/openmetrics-text;version=1.0.0\r\n",
    )
    .await;
    assert!(
        open.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{open}"
    );
    assert!(open.ends_with("# EOF\n"), "{open}");
    assert!(fetch(server.address, "/", "").await.starts_with("HTTP/1.1 404"));

    assert!(
        fetch(server.address, "/healthz", "")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let waiting = fetch(server.address, "/readyz", "").await;
    assert!(waiting.starts_with("HTTP/1.1 503"), "{waiting}");
    assert!(
        waiting.ends_with("waiting for: certificate, watches\n"),
        "{waiting}"
    );
    synced.open();
    certificate.open();
    assert!(
        fetch(server.address, "/readyz", "")
            .await
            .starts_with("HTTP/1.1 200")
    );
    synced.close();
    assert!(
        fetch(server.address, "/readyz", "")
            .await
            .ends_with("waiting for: watches\n")
    );

    server.shutdown.cancel();
    server.task.await.unwrap();
    assert!(
        TcpStream::connect(server.address).await.is_err(),
        "the port is closed"
    );
}

#[tokio::test]
async fn a_running_request_ends_before_the_server_does() {
    let begun = Arc::new(tokio::sync::Notify::new());
    let release = Arc::new(tokio::sync::Notify::new());
    let handler = {
        let (begun, release) = (Arc::clone(&begun), Arc::clone(&release));
        move || async move {
            begun.notify_one();
            release.notified().await;
            "done"
        }
    };
    let server = start(Router::new().route("/", post(handler)), Limits::default()).await;
    let request = tokio::spawn(async move {
        exchange(
            server.address,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        )
        .await
    });
    begun.notified().await;
    server.shutdown.cancel();
    tokio::task::yield_now().await;
    assert!(!server.task.is_finished());
    release.notify_one();
    assert!(request.await.unwrap().ends_with("done"));
    server.task.await.unwrap();
}

#[tokio::test]
async fn bounds_hold() {
    let limits = Limits {
        connections: 2,
        head: Duration::from_millis(200),
        request: Duration::from_millis(100),
        drain: Duration::from_millis(50),
        ..Limits::default()
    };
    let router = Router::new()
        .route("/", get(|| async { "ok" }))
        .route("/slow", get(std::future::pending::<&'static str>))
        .route(
            "/panic",
            get(|| async { Option::<&'static str>::default().expect("handler bug") }),
        );
    let server = start(router, limits).await;
    assert!(
        fetch(server.address, "/slow", "")
            .await
            .starts_with("HTTP/1.1 503")
    );
    assert!(
        fetch(server.address, "/panic", "")
            .await
            .starts_with("HTTP/1.1 500")
    );

    // Two connections that send nothing hold both slots until the time for a head is over; the third is served then.
    let idle = (
        TcpStream::connect(server.address).await.unwrap(),
        TcpStream::connect(server.address).await.unwrap(),
    );
    let begun = tokio::time::Instant::now();
    assert!(fetch(server.address, "/", "").await.ends_with("ok"));
    assert!(
        begun.elapsed() >= Duration::from_millis(100),
        "{:?}",
        begun.elapsed()
    );
    drop(idle);

    // An idle connection does not hold up the end.
    let _idle = TcpStream::connect(server.address).await.unwrap();
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), server.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_peer_that_takes_nothing_loses_its_connection() {
    let limits = Limits {
        connections: 1,
        write: Duration::from_millis(100),
        ..Limits::default()
    };
    let big = Router::new()
        .route("/", get(|| async { "ok" }))
        .route("/big", get(|| async { vec![0_u8; 64 << 20] }));
    let server = start(big, limits).await;
    let mut lazy = TcpStream::connect(server.address).await.unwrap();
    lazy.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(10), fetch(server.address, "/", "")).await;
    assert!(answer.unwrap().ends_with("ok"), "the only slot is free again");
    drop(lazy);
    server.shutdown.cancel();
    server.task.await.unwrap();
}

#[tokio::test]
async fn handlers_see_the_peer() {
    let handler = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() };
    let server = start(Router::new().route("/", get(handler)), Limits::default()).await;
    assert!(fetch(server.address, "/", "").await.ends_with("127.0.0.1"));
    server.shutdown.cancel();
    server.task.await.unwrap();
}

/// Reads one answer with a body of two bytes from a connection that stays open.
async fn answer<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"ok") {
        text.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

/// How long until the server closes.
async fn until_closed<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> Duration {
    let begun = tokio::time::Instant::now();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.ok();
    begun.elapsed()
}

#[tokio::test]
async fn a_begun_head_has_less_time_than_an_idle_connection() {
    const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let limits = Limits {
        head: Duration::from_millis(150),
        idle: Duration::from_millis(600),
        ..Limits::default()
    };
    let handler = |body: String| async move { if body == "abc" { "ok" } else { "no" } };
    let server = start(Router::new().route("/", post(handler)), limits).await;
    let connect = || async { TcpStream::connect(server.address).await.unwrap() };
    let is_head =
        |elapsed: Duration| (Duration::from_millis(100)..Duration::from_millis(500)).contains(&elapsed);

    // Silence from the start, and one byte now and then.
    assert!(is_head(until_closed(&mut connect().await).await));
    let (mut reading, mut writing) = connect().await.into_split();
    let drip = tokio::spawn(async move {
        for byte in REQUEST {
            if writing.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    });
    assert!(is_head(until_closed(&mut reading).await));
    drip.await.unwrap();

    // A kept connection may pause between requests for longer than a head may take, but not within one.
    let mut kept = connect().await;
    for _ in 0..3 {
        kept.write_all(REQUEST).await.unwrap();
        assert!(answer(&mut kept).await.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    kept.write_all(b"POST / HT").await.unwrap();
    assert!(is_head(until_closed(&mut kept).await));

    let mut idle = connect().await;
    idle.write_all(REQUEST).await.unwrap();
    answer(&mut idle).await;
    let elapsed = until_closed(&mut idle).await;
    assert!(elapsed >= Duration::from_millis(500), "{elapsed:?}");
    server.shutdown.cancel();
    server.task.await.unwrap();
}

#[tokio::test]
async fn a_slow_body_is_not_a_slow_head() {
    let limits = Limits {
        head: Duration::from_millis(100),
        ..Limits::default()
    };
    let handler = |body: String| async move { if body == "abcdefgh" { "ok" } else { "no" } };
    let server = start(Router::new().route("/", post(handler)), limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n")
        .await
        .unwrap();
    for byte in b"abcdefgh" {
        tokio::time::sleep(Duration::from_millis(40)).await;
        stream.write_all(&[*byte]).await.unwrap();
    }
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    server.shutdown.cancel();
    server.task.await.unwrap();
}

/// A self-signed certificate for `localhost`, written where the server reads it.
fn write_certificate(folder: &std::path::Path) -> rustls::pki_types::CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

async fn over_tls(
    address: SocketAddr,
    trusted: rustls::pki_types::CertificateDer<'static>,
) -> io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await?;
    let mut stream = connector
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    Ok(answer(&mut stream).await)
}

#[tokio::test]
async fn a_renewed_certificate_is_used_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let missing = Certificate::read(&certificate, &key).unwrap_err();
    assert!(matches!(missing, CertificateError::Read { .. }), "{missing:?}");
    let first = write_certificate(folder.path());
    let pair = Certificate::read(&certificate, &key).unwrap();
    let listener = at("127.0.0.1", 0).listen().await.unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let limits = Limits {
        head: Duration::from_millis(200),
        ..Limits::default()
    };
    let task = tokio::spawn({
        let (pair, shutdown) = (pair.clone(), shutdown.clone());
        let router = Router::new().route("/", get(|| async { "ok" }));
        async move { serve_tls(listener, router, limits, &pair, shutdown).await }
    });
    assert!(
        over_tls(address, first.clone())
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
    assert!(!pair.refresh().unwrap(), "nothing has changed");

    let second = write_certificate(folder.path());
    assert!(pair.refresh().unwrap());
    assert!(over_tls(address, second.clone()).await.is_ok());
    assert!(over_tls(address, first).await.is_err(), "the old one is gone");

    for (file, content) in [
        (&certificate, ""),
        (&key, "no key"),
        (&certificate, "no certificate"),
    ] {
        std::fs::write(file, content).unwrap();
        let error = pair.refresh().unwrap_err();
        assert!(matches!(error, CertificateError::Pem { .. }), "{error:?}");
        assert!(
            over_tls(address, second.clone()).await.is_ok(),
            "the one before stays"
        );
        write_certificate(folder.path());
        std::fs::write(&certificate, rcgen_pem(&second)).unwrap();
        let mixed = pair.refresh().unwrap_err();
        assert!(matches!(mixed, CertificateError::Key { .. }), "{mixed:?}");
    }

    // Who does not speak TLS, or nothing at all, is let go.
    assert!(until_closed(&mut TcpStream::connect(address).await.unwrap()).await < Duration::from_secs(2));
    assert!(!fetch(address, "/", "").await.starts_with("HTTP/1.1 200"));
    shutdown.cancel();
    task.await.unwrap();
}

fn rcgen_pem(certificate: &rustls::pki_types::CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
