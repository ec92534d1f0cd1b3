use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::Sha256;
use tower::ServiceExt as _;

use super::*;

mod examples;
mod groups;
mod triggers;

use crate::metrics::DeliveryLabels;
use crate::testing::{Bench, Fault, at, id};

const SECRET: &str = "s3cr3t";

fn bench() -> Bench {
    Bench::new(100)
        .with("repo", "acme/api", &["linux", "x64"], None)
        .with("org", "acme", &["linux", "gpu"], None)
}

fn sign(body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(body);
    mac.finalize()
        .into_bytes()
        .iter()
        .fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn job(action: &str, repository: &str, labels: &[&str], more: &Value) -> Value {
    let (owner, name) = repository.split_once('/').unwrap();
    let mut job = json!({"id": 100, "run_id": 1, "labels": labels, "status": action, "created_at": at(-5)});
    job.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    json!({"action": action, "workflow_job": job, "repository": {"id": 7, "name": name, "full_name": repository,
        "owner": {"login": owner, "type": "Organization"}}})
}

fn signed(event: &str, body: impl Into<String>) -> Request<Body> {
    let body = body.into();
    Request::post("/any/path")
        .header("content-type", "application/json")
        .header("x-github-event", event)
        .header("x-hub-signature-256", sign(body.as_bytes()))
        .body(Body::from(body))
        .unwrap()
}

fn delivery(guid: &str, payload: &Value) -> Request<Body> {
    let mut request = signed("workflow_job", payload.to_string());
    request
        .headers_mut()
        .insert("x-github-delivery", guid.parse().unwrap());
    request
}

async fn send(bench: &Bench, request: Request<Body>) -> (StatusCode, String) {
    let (status, _, body) = exchange(&router(bench.app(&[SECRET])), request).await;
    (status, body)
}

async fn exchange(router: &Router, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
    let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        parts.status,
        parts.headers,
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

fn counted(bench: &Bench, event: &'static str, action: &'static str, outcome: &'static str) -> u64 {
    bench
        .metrics
        .deliveries
        .get_or_create(&DeliveryLabels {
            event,
            action,
            outcome,
        })
        .get()
}

const NOTHING: &str = "no horizontalrunnerautoscaler to scale for this github event";

// The vectors of spec 03 §1.5.
const JSON: &str = r#"{"zen":"hello"}"#;
const FORM: &str = "payload=%7B%22zen%22%3A%22hello%22%7D";
const JSON_256: &str = "sha256=40d69f7c0a5c0dc9e8c44e71160f5ab1ca329afdc9c030994c47dda66aee4eb0";
const JSON_1: &str = "sha1=2dcb35f6b3aa78772a4e65e928b80bacbc2a6c50";
const FORM_256: &str = "sha256=cc01ffed1a2b133fb6460ca5a7bb9a61ef285daa2ab1b7dee6dbe093d9ffeaf8";

#[tokio::test(start_paused = true)]
async fn a_jobs_life() {
    let bench = bench();
    let app = router(bench.app(&[SECRET]));
    let runs = json!({"runner_name": "repo-a-b", "runner_id": 3});
    let ended = json!({"runner_name": "repo-a-b", "runner_id": 3, "conclusion": "success"});
    let linux = &["linux"];
    for (guid, action, more, expected) in [
        ("1", "queued", &json!({}), "scaled repo-hra by 1"),
        ("2", "queued", &json!({}), "scaled repo-hra by 1"),
        ("3", "in_progress", &runs, "noted in repo-hra who runs the job"),
        (
            "4",
            "in_progress",
            &runs,
            "repo-hra knows already that the job runs",
        ),
        ("5", "completed", &ended, "scaled repo-hra by -1"),
        (
            "6",
            "completed",
            &ended,
            "repo-hra knows already that the job has finished",
        ),
        (
            "7",
            "queued",
            &json!({}),
            "repo-hra knows already that the job has finished",
        ),
        (
            "8",
            "completed",
            &json!({"conclusion": "skipped"}),
            "repo-hra knows already that the job has finished",
        ),
    ] {
        let (status, _, body) = exchange(&app, delivery(guid, &job(action, "acme/api", linux, more))).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, expected), "{guid}");
    }
    assert_eq!(bench.cluster.jobs("repo-hra"), [("7/100@repo-a-b".into(), 0)]);
    assert_eq!(
        bench.cluster.patches().len(),
        3,
        "what changes nothing is not written"
    );
    assert_eq!(counted(&bench, "workflow_job", "queued", "scaled_up"), 2);
    assert_eq!(counted(&bench, "workflow_job", "completed", "scaled_down"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_names_its_autoscaler_and_why() {
    let bench = bench().with("other", "acme/api", &["linux", "x64", "gpu"], None);
    let app = router(bench.app(&[SECRET]));
    let runs = json!({"runner_name": "repo-a-b", "runner_id": 3});
    for (guid, action, more, reason) in [
        ("1", "queued", &json!({}), "labels (first of 2)"),
        ("2", "in_progress", &runs, "holds-job"),
    ] {
        let (_, headers, _) =
            exchange(&app, delivery(guid, &job(action, "acme/api", &["linux"], more))).await;
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!(
            (text("x-muster-autoscaler"), text("x-muster-reason")),
            ("ci/repo-hra".to_owned(), reason.to_owned())
        );
    }
    let both = job(
        "in_progress",
        "acme/api",
        &["linux"],
        &json!({"id": 100, "runner_name": "other-a-b"}),
    );
    let (_, headers, _) = exchange(&app, delivery("3", &both)).await;
    assert_eq!(headers["x-muster-autoscaler"], "ci/repo-hra, ci/other-hra");
    assert_eq!(headers["x-muster-reason"], "holds-job, runner-name");
    let nobody = job("queued", "acme/api", &["windows"], &json!({"id": 8}));
    let (_, headers, _) = exchange(&app, delivery("4", &nobody)).await;
    assert!(!headers.contains_key("x-muster-autoscaler"));
    let unmatched = bench.unmatched.newest_first();
    assert_eq!(unmatched.len(), 1);
    let nearest = unmatched[0].nearest.as_ref().unwrap();
    assert_eq!(
        (nearest.autoscaler.as_str(), nearest.missing_label.as_deref()),
        ("ci/repo-hra", Some("windows"))
    );
    assert_eq!(
        (unmatched[0].job, unmatched[0].delivery.as_deref()),
        (8, Some("4"))
    );
}

#[tokio::test(start_paused = true)]
async fn two_secrets_are_valid_while_one_replaces_the_other() {
    let bench = bench();
    let ask = |secrets: &'static [&'static str]| {
        let app = router(bench.app(secrets));
        async move { exchange(&app, signed("ping", "{}")).await.0.as_u16() }
    };
    for (secrets, status) in [
        (&["s3cr3t"][..], 200),
        (&["new", "s3cr3t"], 200),
        (&["s3cr3t", "old"], 200),
        (&["new"], 401),
        (&["new", "old"], 401),
    ] {
        assert_eq!(ask(secrets).await, status, "{secrets:?}");
    }
    let signed_with = |secret| {
        let labels = crate::metrics::SignatureLabels { secret };
        bench.metrics.signatures.get_or_create(&labels).get()
    };
    assert_eq!((signed_with("current"), signed_with("previous")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn an_enterprise_servers_jobs_have_its_host_in_their_key() {
    let bench = bench();
    let mut request = delivery("g", &job("queued", "acme/api", &["linux"], &json!({})));
    request
        .headers_mut()
        .insert("x-github-enterprise-host", "GHES.example.com".parse().unwrap());
    send(&bench, request).await;
    assert_eq!(
        bench.cluster.jobs("repo-hra"),
        [("ghes.example.com/7/100".into(), 1)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_delivery_again_gets_the_same_answer_without_effect() {
    let bench = bench();
    let app = router(bench.app(&[SECRET]));
    let queued = job("queued", "acme/api", &["linux"], &json!({}));
    bench.cluster.delay(Duration::from_millis(100));
    // The duplicate in flight waits for the same commit.
    let (first, second) = futures::join!(
        exchange(&app, delivery("g", &queued)),
        exchange(&app, delivery("g", &queued))
    );
    let third = exchange(&app, delivery("g", &queued)).await;
    for (status, _, body) in [first, second, third] {
        assert_eq!((status, body.as_str()), (StatusCode::OK, "scaled repo-hra by 1"));
    }
    assert_eq!(bench.cluster.patches().len(), 1);
    assert_eq!(bench.metrics.duplicates.get(), 1);
    // The same GUID for something else is something else.
    let (_, _, body) = exchange(
        &app,
        delivery("g", &job("completed", "acme/api", &["linux"], &json!({}))),
    )
    .await;
    assert_eq!(body, "scaled repo-hra by -1");
    // What was not committed is not remembered.
    let windows = job("queued", "acme/api", &["windows"], &json!({"id": 8}));
    assert_eq!(exchange(&app, delivery("h", &windows)).await.2, NOTHING);
    let bench = bench.with("win", "acme/api", &["windows"], None);
    assert_eq!(
        exchange(&app, delivery("h", &windows)).await.2,
        "scaled win-hra by 1"
    );
    drop(bench);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_not_confirmed_is_answered_503_and_may_be_repeated() {
    let bench = bench();
    let app = router(bench.app(&[SECRET]));
    bench.cluster.faults([Fault::FailBefore; 100]);
    let queued = delivery("g", &job("queued", "acme/api", &["linux"], &json!({})));
    let (status, headers, body) = exchange(&app, queued).await;
    assert_eq!(
        (status, headers["retry-after"].to_str().unwrap()),
        (StatusCode::SERVICE_UNAVAILABLE, "5")
    );
    assert!(body.contains("could not be confirmed in time"), "{body}");
    bench.cluster.faults([]);
    let bench = self::bench();
    let app = router(bench.app(&[SECRET]));
    let queued = delivery("g", &job("queued", "acme/api", &["linux"], &json!({})));
    assert_eq!(exchange(&app, queued).await.2, "scaled repo-hra by 1");
}

#[tokio::test(start_paused = true)]
async fn an_autoscaler_that_goes_is_routed_around_once() {
    let bench = bench();
    bench.cluster.delete("repo-hra");
    let queued = delivery("g", &job("queued", "acme/api", &["linux"], &json!({})));
    assert_eq!(send(&bench, queued).await.1, "scaled org-hra by 1");
    let bench = self::bench();
    bench.cluster.delete("org-hra");
    let queued = delivery("g", &job("queued", "acme/web", &["gpu"], &json!({})));
    assert_eq!(send(&bench, queued).await, (StatusCode::OK, NOTHING.to_owned()));
    assert!(bench.index.view(&id("org-hra")).is_none());
}

#[tokio::test(start_paused = true)]
async fn before_the_autoscalers_are_known_jobs_are_put_off() {
    let bench = bench();
    let gate = bench.readiness.gate("horizontalrunnerautoscalers");
    let app = router(bench.app(&[SECRET]));
    let queued = || delivery("g", &job("queued", "acme/api", &["linux"], &json!({})));
    let (status, headers, _) = exchange(&app, queued()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(headers.contains_key("retry-after"));
    assert_eq!(exchange(&app, signed("ping", "{}")).await.2, "pong");
    gate.open();
    assert_eq!(exchange(&app, queued()).await.2, "scaled repo-hra by 1");
}

#[tokio::test(start_paused = true)]
async fn bodies_have_a_limit_and_a_time() {
    let bench = bench();
    let app = router(bench.app(&[SECRET]));
    let announced = Request::post("/")
        .header("content-length", "26214401")
        .body(Body::empty())
        .unwrap();
    assert_eq!(exchange(&app, announced).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let piece = Bytes::from(vec![b' '; 1 << 20]);
    let pieces = (0..30).map(move |_| Ok::<_, std::io::Error>(piece.clone()));
    let streamed = Request::post("/")
        .body(Body::from_stream(futures::stream::iter(pieces)))
        .unwrap();
    let (status, headers, body) = exchange(&app, streamed).await;
    assert_eq!(
        (status, headers["connection"].to_str().unwrap()),
        (StatusCode::PAYLOAD_TOO_LARGE, "close")
    );
    assert!(body.contains("25 MB"));
    let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    assert_eq!(
        exchange(&app, Request::post("/").body(never).unwrap()).await.0,
        StatusCode::REQUEST_TIMEOUT
    );
    // As large as GitHub sends, and in pieces, is fine.
    let mut payload = job("queued", "acme/api", &["linux"], &json!({}));
    payload["padding"] = "x".repeat(1 << 20).into();
    let text = payload.to_string();
    let chunks: Vec<_> = text
        .as_bytes()
        .chunks(10_000)
        .map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk)))
        .collect();
    let mut request = signed("workflow_job", text);
    *request.body_mut() = Body::from_stream(futures::stream::iter(chunks));
    assert_eq!(exchange(&app, request).await.2, "scaled repo-hra by 1");
}

#[tokio::test(start_paused = true)]
async fn content_types_forms_and_the_vectors_of_the_specification() {
    let bench = bench();
    let app = router(bench.app(&["other", SECRET]));
    let ask = |kind: Option<&str>, header: &str, signature: &str, body: &str| {
        let mut request = Request::post("/")
            .header("x-github-event", "ping")
            .header(header, signature);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        request.body(Body::from(body.to_owned())).unwrap()
    };
    let (json, form) = (
        Some("application/json; charset=utf-8"),
        Some("application/x-www-form-urlencoded"),
    );
    for (request, status) in [
        (ask(json, "x-hub-signature-256", JSON_256, JSON), 200),
        (ask(json, "x-hub-signature", JSON_1, JSON), 200),
        (ask(form, "x-hub-signature-256", FORM_256, FORM), 200),
        (ask(json, "x-hub-signature-256", FORM_256, JSON), 401),
        (ask(None, "x-hub-signature-256", JSON_256, JSON), 415),
        (
            ask(Some("text/plain"), "x-hub-signature-256", JSON_256, JSON),
            415,
        ),
        (
            ask(Some("text/plain"), "x-hub-signature-256", FORM_256, JSON),
            401,
        ),
    ] {
        assert_eq!(exchange(&app, request).await.0.as_u16(), status);
    }
    // Without a secret nothing is verified; a form is understood all the same, unlike upstream.
    let open = router(bench.app(&[]));
    for (kind, body) in [(None, JSON), (Some("text/plain"), JSON), (form, FORM)] {
        assert_eq!(
            exchange(&open, ask(kind, "x-hub-signature", "", body)).await.2,
            "pong"
        );
    }
    assert_eq!(counted(&bench, "ping", "", "pong"), 6);
    assert_eq!(counted(&bench, "ping", "", "unauthorized"), 2);
    assert_eq!(counted(&bench, "ping", "", "unsupported_media_type"), 2);
}

/// JSON that is shaped like a delivery now and then.
fn payload() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!(["linux"])),
        Just(json!({})),
    ];
    let word = prop_oneof![
        Just("queued"),
        Just("in_progress"),
        Just("completed"),
        Just("waiting"),
        Just("x")
    ];
    let odd = proptest::collection::vec((0..12_usize, scalar), 0..3);
    (word, 0..6_u64, odd).prop_map(|(action, id, odd)| {
        let mut value = job(
            action,
            "acme/api",
            &["linux"],
            &json!({"id": id, "runner_name": "repo-a-b", "conclusion": "success"}),
        );
        let places = [
            "/action",
            "/workflow_job",
            "/workflow_job/id",
            "/workflow_job/labels",
            "/workflow_job/runner_name",
            "/workflow_job/created_at",
            "/workflow_job/conclusion",
            "/repository",
            "/repository/id",
            "/repository/name",
            "/repository/owner",
            "/repository/owner/type",
        ];
        for (place, replacement) in odd {
            if let Some(slot) = value.pointer_mut(places[place]) {
                *slot = replacement;
            }
        }
        value
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_pipeline_panic(
        body in any::<Vec<u8>>(),
        event in prop_oneof![Just("workflow_job".to_owned()), Just("ping".to_owned()), "[ -~]{0,12}"],
        kind in "[ -~]{0,40}",
        signature in "(sha(1|256|512)=)?[ -~]{0,70}",
    ) {
        let mut headers = HeaderMap::new();
        headers.insert("x-github-event", event.parse().unwrap());
        headers.insert("content-type", kind.parse().unwrap());
        headers.insert("x-hub-signature-256", signature.parse().unwrap());
        let secret = secrecy::SecretString::from(SECRET);
        prop_assert!(crate::delivery::examine(std::slice::from_ref(&secret), &headers, &body).is_err());
        headers.insert("x-hub-signature-256", sign(&body).parse().unwrap());
        crate::delivery::examine(&[secret], &headers, &body).ok();
        crate::delivery::examine(&[], &headers, &body).ok();
    }

    #[test]
    fn no_payload_is_answered_with_a_server_error(payloads in proptest::collection::vec(payload(), 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let bench = bench();
            let app = router(bench.app(&[SECRET]));
            for payload in payloads {
                let (status, _, body) = exchange(&app, signed("workflow_job", payload.to_string())).await;
                assert!(status == StatusCode::OK || status == StatusCode::BAD_REQUEST, "{status} {body}");
                let valid = ["scaled ", "no horizontal", "noted in ", "repo-hra knows", "org-hra knows", "the workflow_job"];
                assert!(body.is_empty() || valid.iter().any(|start| body.starts_with(start)), "{body}");
            }
        });
    }
}
