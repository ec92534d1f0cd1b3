//! Elections on the wire.

use std::sync::Mutex;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::client::Body;

use super::{decide::Record, *};

/// The wire behaviour that the election relies on: optimistic locking and status codes. Elections against a real API server are world
/// tests.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    version: u64,
    calls: Vec<Method>,
    down: bool,
}

impl Wire {
    fn client(&self) -> Client {
        let wire = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let wire = wire.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                if wire.0.lock().unwrap().down {
                    return Err(tower::BoxError::from("connection refused"));
                }
                Ok(wire.answer(&parts.method, &body))
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, method: &Method, body: &[u8]) -> Response<Body> {
        let mut state = self.0.lock().unwrap();
        state.calls.push(method.clone());
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        match *method {
            Method::GET => match &state.lease {
                Some(lease) => reply(StatusCode::OK, lease),
                None => failure(StatusCode::NOT_FOUND),
            },
            Method::POST if state.lease.is_some() => failure(StatusCode::CONFLICT),
            Method::POST | Method::PUT => {
                let mut lease: Lease = serde_json::from_slice(body).unwrap();
                if *method == Method::PUT && version(&lease) != state.lease.as_ref().and_then(version) {
                    return failure(StatusCode::CONFLICT);
                }
                state.version += 1;
                lease.metadata.resource_version = Some(state.version.to_string());
                state.lease = Some(lease.clone());
                reply(StatusCode::OK, &lease)
            }
            _ => failure(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    fn set_down(&self, down: bool) {
        self.0.lock().unwrap().down = down;
    }

    fn record(&self) -> Record {
        Record::of(self.0.lock().unwrap().lease.as_ref().unwrap())
    }

    fn force_holder(&self, holder: &str) {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        let version = state.version.to_string();
        let lease = state.lease.get_or_insert_default();
        lease.metadata.resource_version = Some(version);
        lease.spec.get_or_insert_default().holder_identity = Some(holder.to_owned());
    }

    async fn elect(&self, identity: &str) -> Option<Leadership> {
        let config = LeaseConfig {
            identity: identity.to_owned(),
            ..LeaseConfig::new("ns", "lock")
        };
        let shutdown = CancellationToken::new();
        acquire(
            self.client(),
            config,
            Clock::system(),
            LeaseMetrics::default(),
            &shutdown,
        )
        .await
    }
}

fn reply(status: StatusCode, lease: &Lease) -> Response<Body> {
    let body = serde_json::to_vec(lease).unwrap();
    Response::builder().status(status).body(Body::from(body)).unwrap()
}

fn failure(code: StatusCode) -> Response<Body> {
    let reason = if code == StatusCode::NOT_FOUND {
        "NotFound"
    } else {
        "Conflict"
    };
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "message": "m", "reason": reason,
    });
    Response::builder()
        .status(code)
        .body(Body::from(serde_json::to_vec(&status).unwrap()))
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_lone_candidate_leads_at_once_and_renews() {
    let wire = Wire::default();
    let leadership = wire.elect("a").await.unwrap();
    assert!(leadership.is_leader());
    let first = wire.record();
    assert_eq!(
        (first.holder.as_deref(), first.term, first.transitions),
        (Some("a"), Some(Duration::from_secs(15)), 0)
    );
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(leadership.is_leader());
    let calls = wire.0.lock().unwrap().calls.clone();
    let count = |method| calls.iter().filter(|call| **call == method).count();
    assert_eq!(count(Method::POST), 1);
    assert!((29..=30).contains(&count(Method::PUT)), "{}", count(Method::PUT));
    assert_eq!(count(Method::GET), 1, "a renewal needs no reading");
    assert_eq!(
        calls.len(),
        count(Method::POST) + count(Method::PUT) + count(Method::GET),
        "no other verbs"
    );
}

#[tokio::test(start_paused = true)]
async fn a_released_lock_is_taken_within_a_retry_period() {
    let wire = Wire::default();
    let first = wire.elect("a").await.unwrap();
    let second = tokio::spawn({
        let wire = wire.clone();
        async move { wire.elect("b").await.unwrap() }
    });
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!second.is_finished());
    let state = first.state();
    first.release().await;
    assert!(!state.is_leader());
    assert!(!state.lost().is_cancelled(), "giving it back is no loss");
    assert_eq!(wire.record().holder, None);
    let begun = Instant::now();
    let second = second.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(second.is_leader());
    assert_eq!(wire.record().transitions, 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_replaced_after_its_term_and_not_before() {
    let wire = Wire::default();
    let first = wire.elect("a").await.unwrap();
    drop(first);
    let begun = Instant::now();
    wire.elect("b").await.unwrap();
    assert!(
        begun.elapsed() >= Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    assert!(begun.elapsed() < Duration::from_secs(18), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_gives_up_before_others_may_take_over() {
    let wire = Wire::default();
    let leadership = wire.elect("a").await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    wire.set_down(true);
    let begun = Instant::now();
    leadership.lost().await;
    assert!(
        begun.elapsed() <= Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert!(begun.elapsed() >= Duration::from_secs(7), "{:?}", begun.elapsed());
    assert!(!leadership.is_leader());
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_and_a_foreign_write_are_survived() {
    let wire = Wire::default();
    let leadership = wire.elect("a").await.unwrap();
    wire.set_down(true);
    tokio::time::sleep(Duration::from_secs(7)).await;
    wire.set_down(false);
    // Somebody labels the Lease: our resource version is stale, the holder is still us.
    wire.force_holder("a");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(leadership.is_leader());
    leadership.release().await;
    assert_eq!(wire.record().holder, None);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_replaced_notices() {
    let wire = Wire::default();
    let leadership = wire.elect("a").await.unwrap();
    wire.force_holder("thief");
    tokio::time::timeout(Duration::from_secs(5), leadership.lost())
        .await
        .unwrap();
    leadership.release().await;
    assert_eq!(
        wire.record().holder.as_deref(),
        Some("thief"),
        "another's lock is not given back"
    );
}

#[tokio::test(start_paused = true)]
async fn a_candidate_waits_out_an_outage_and_stops_when_asked() {
    let wire = Wire::default();
    wire.set_down(true);
    let shutdown = CancellationToken::new();
    let config = LeaseConfig::new("ns", "lock");
    let waiting = acquire(
        wire.client(),
        config,
        Clock::system(),
        LeaseMetrics::default(),
        &shutdown,
    );
    let stop = async {
        tokio::time::sleep(Duration::from_mins(1)).await;
        shutdown.cancel();
    };
    let (leadership, ()) = tokio::join!(waiting, stop);
    assert!(leadership.is_none());
}

#[tokio::test(start_paused = true)]
async fn without_an_election_the_process_always_leads() {
    let leadership = Leadership::always();
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(leadership.is_leader() && leadership.state().is_leader());
    leadership.release().await;
}

#[test]
fn the_namespace_comes_from_the_environment_or_the_kubeconfig() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    let write = |context: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{{context}}}}}]\n"
        );
        std::fs::write(&path, text).unwrap();
    };
    write("cluster: k, user: u, namespace: from-context");
    assert_eq!(
        namespace(&Env::of([("POD_NAMESPACE", "from-env")]), Some(&path)).as_deref(),
        Ok("from-env")
    );
    assert_eq!(
        namespace(&Env::default(), Some(&path)).as_deref(),
        Ok("from-context")
    );
    write("cluster: k, user: u");
    let error = namespace(&Env::default(), Some(&path)).unwrap_err();
    assert!(error.to_string().contains("POD_NAMESPACE"), "{error}");
}

#[test]
fn identities_are_hostname_and_uuid() {
    let (one, two) = (LeaseConfig::new("ns", "a"), LeaseConfig::new("ns", "a"));
    assert_ne!(one.identity, two.identity);
    let (hostname, uuid) = one.identity.rsplit_once('_').unwrap();
    assert!(!hostname.is_empty() && uuid.len() == 36, "{}", one.identity);
}
