//! The router with a client that sends as GitHub does; a GitHub that is asked for logs is in the tests crate.

use std::sync::Arc;

use axum::body::Body;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use muster_core::job_metrics::{Bounds, JobLabel};
use muster_runtime::metrics::{Exposition, Form, Registry};
use secrecy::SecretString;
use serde_json::{Value, json};
use sha2::Sha256;
use tower::ServiceExt as _;

use crate::{
    handler::{App, router},
    metrics::Metrics,
};

const SECRET: &str = "s3cr3t";

struct Bench {
    router: axum::Router,
    shown: Exposition,
}

impl Bench {
    fn new(labels: &[JobLabel], bounds: Bounds) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry, labels.to_vec(), bounds);
        let app = App::new(vec![SecretString::from(SECRET)], metrics, None);
        Self {
            router: router(Arc::new(app)),
            shown: Exposition::new(registry),
        }
    }

    fn bounded() -> Self {
        Self::new(&JobLabel::BOUNDED, Bounds::default())
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, String) {
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn job(&self, guid: &str, payload: &Value) {
        let mut request = signed("workflow_job", &payload.to_string());
        request
            .headers_mut()
            .insert("x-github-delivery", guid.parse().unwrap());
        assert_eq!(self.send(request).await, (StatusCode::OK, "ok".to_owned()));
    }

    fn metrics(&self) -> String {
        self.shown.encode(Form::Classic).unwrap()
    }

    fn assert_shows(&self, lines: &[&str]) {
        let text = self.metrics();
        for line in lines {
            assert!(text.lines().any(|have| have == *line), "{line} is not in\n{text}");
        }
    }
}

fn signed(event: &str, body: &str) -> Request<Body> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    let signature = mac
        .finalize()
        .into_bytes()
        .iter()
        .fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"));
    Request::post("/any/path")
        .header("content-type", "application/json")
        .header("x-github-event", event)
        .header("x-hub-signature-256", signature)
        .body(Body::from(body.to_owned()))
        .unwrap()
}

fn job(action: &str, name: &str) -> Value {
    json!({"action": action, "workflow_job": {
        "id": 7, "name": name, "workflow_name": "CI", "head_branch": "main", "labels": ["self-hosted", "linux"],
        "conclusion": if action == "completed" { json!("failure") } else { Value::Null },
        "runner_id": if action == "queued" { Value::Null } else { json!(3) },
        "created_at": "2024-09-11T21:00:00Z", "started_at": "2024-09-11T21:00:07Z", "completed_at": "2024-09-11T21:01:07Z",
        "steps": [{"conclusion": "success"}, {"conclusion": "failure"}]},
        "repository": {"id": 1, "name": "api", "full_name": "acme/api", "owner": {"login": "acme"}},
        "organization": {"login": "acme"}})
}

#[tokio::test]
async fn a_jobs_life_is_counted_with_bounded_labels() {
    let bench = Bench::bounded();
    for (guid, action) in [
        ("a", "queued"),
        ("b", "in_progress"),
        ("c", "completed"),
        ("d", "waiting"),
    ] {
        bench.job(guid, &job(action, "build")).await;
    }
    let labels = "runs_on=\"self-hosted,linux\",organization=\"acme\",owner=\"acme\"";
    bench.assert_shows(&[
        "# TYPE github_workflow_jobs_queued_total counter",
        &format!("github_workflow_jobs_queued_total{{{labels}}} 1"),
        &format!("github_workflow_jobs_started_total{{{labels}}} 1"),
        &format!("github_workflow_jobs_completed_total{{{labels}}} 1"),
        &format!("github_workflow_job_conclusions_total{{{labels},job_conclusion=\"failure\"}} 1"),
        &format!("github_workflow_job_failures_total{{{labels},failed_step=\"1\",exit_code=\"na\"}} 1"),
        "# TYPE github_workflow_job_queue_duration_seconds histogram",
        &format!("github_workflow_job_queue_duration_seconds_sum{{{labels}}} 7.0"),
        &format!("github_workflow_job_queue_duration_seconds_bucket{{le=\"6\",{labels}}} 0"),
        &format!("github_workflow_job_queue_duration_seconds_bucket{{le=\"7\",{labels}}} 1"),
        &format!("github_workflow_job_run_duration_seconds_sum{{{labels},job_conclusion=\"failure\"}} 60.0"),
        "muster_actions_metrics_deliveries_total{event=\"workflow_job\",outcome=\"counted\"} 3",
        "muster_actions_metrics_deliveries_total{event=\"workflow_job\",outcome=\"ignored\"} 1",
    ]);
}

#[tokio::test]
async fn upstreams_labels_are_shown_when_asked_for() {
    let bench = Bench::new(&JobLabel::ALL, Bounds::NONE);
    bench.job("a", &job("queued", "build")).await;
    bench.assert_shows(&[
        "github_workflow_jobs_queued_total{runs_on=\"self-hosted,linux\",job_name=\"build\",organization=\"acme\",repository=\"api\",\
         repository_full_name=\"acme/api\",owner=\"acme\",workflow_name=\"CI\",head_branch=\"main\"} 1",
    ]);
}

#[tokio::test]
async fn a_delivery_that_is_sent_again_counts_once() {
    let bench = Bench::bounded();
    for guid in ["a", "a", "b"] {
        bench.job(guid, &job("queued", "build")).await;
    }
    bench.assert_shows(&[
        "muster_actions_metrics_deliveries_total{event=\"workflow_job\",outcome=\"counted\"} 2",
        "muster_actions_metrics_deliveries_total{event=\"workflow_job\",outcome=\"repeated\"} 1",
    ]);
}

#[tokio::test]
async fn payloads_without_anything_break_nothing() {
    let bench = Bench::new(&JobLabel::ALL, Bounds::NONE);
    for body in [
        json!({"action": "queued"}),
        json!({"action": "completed", "workflow_job": {"conclusion": null, "steps": null}, "repository": null}),
        json!({"action": "in_progress", "workflow_job": null}),
        json!({}),
    ] {
        bench.job("", &body).await;
    }
    let (status, body) = bench.send(signed("workflow_job", "[]")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let text = bench.metrics();
    assert!(
        !text.contains("NaN") && !text.contains("duration_seconds_count{"),
        "{text}"
    );
}

#[tokio::test]
async fn what_is_no_job_is_answered() {
    let bench = Bench::bounded();
    let running = (StatusCode::OK, "actions-metrics-server is running\n".to_owned());
    let look = Request::get("/").body(Body::empty()).unwrap();
    assert_eq!(bench.send(look).await, running);
    assert_eq!(
        bench.send(signed("ping", "{}")).await,
        (StatusCode::OK, "pong".to_owned())
    );
    for event in ["workflow_run", "push", "check_run", "something_new"] {
        assert_eq!(
            bench.send(signed(event, "{}")).await,
            (StatusCode::OK, "ok".to_owned())
        );
    }
    let delete = Request::delete("/").body(Body::empty()).unwrap();
    assert_eq!(bench.send(delete).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let mut forged = signed("workflow_job", "{}");
    *forged.body_mut() = Body::from(job("queued", "forged").to_string());
    assert_eq!(bench.send(forged).await.0, StatusCode::UNAUTHORIZED);
    let mut text = signed("workflow_job", "{}");
    text.headers_mut()
        .insert("content-type", "text/plain".parse().unwrap());
    assert_eq!(bench.send(text).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(bench.send(signed("", "{}")).await.0, StatusCode::BAD_REQUEST);
    bench.assert_shows(&[
        "muster_actions_metrics_deliveries_total{event=\"workflow_run\",outcome=\"ignored\"} 1",
        "muster_actions_metrics_deliveries_total{event=\"workflow_job\",outcome=\"unauthorized\"} 1",
        "muster_actions_metrics_deliveries_total{event=\"other\",outcome=\"ignored\"} 1",
    ]);
    assert!(!bench.metrics().contains("github_workflow_jobs_queued_total{"));
}

/// Spec 90, PAIN 25: jobs with names of their own must not make series of their own.
#[tokio::test]
async fn many_jobs_make_few_series() {
    let bench = Bench::new(
        &[JobLabel::Owner, JobLabel::JobName],
        Bounds { values: 20, sets: 50 },
    );
    let mut after_warm_up = 0;
    for number in 0..5_000 {
        bench
            .job(&number.to_string(), &job("completed", &format!("job {number}")))
            .await;
        if number == 100 {
            after_warm_up = bench.metrics().lines().count();
        }
    }
    assert_eq!(bench.metrics().lines().count(), after_warm_up);
    bench.assert_shows(&["muster_actions_metrics_label_overflows_total 4980"]);
}
