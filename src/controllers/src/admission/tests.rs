//! The real server over TLS, called as the API server calls it; GitHub and Kubernetes are small HTTP fakes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json,
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use muster_github::{Auth, GitHub, Shared, UrlSettings, Urls};
use muster_runtime::{
    metrics::{Exposition, Form, new_registry},
    serve::{Address, Readiness},
};
use rcgen::{CertificateParams, KeyPair};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::clients::DefaultClient;

const PODS: &str = "/mutate-runner-set-pod";
const DEPLOYMENTS: &str = "/validate-actions-summerwind-dev-v1alpha1-runnerdeployment";
const AUTOSCALERS: &str = "/validate-actions-summerwind-dev-v1alpha1-horizontalrunnerautoscaler";

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// A running server with its surroundings.
struct Server {
    address: SocketAddr,
    tokens: Arc<AtomicUsize>,
    client: reqwest::Client,
    exposition: Exposition,
    readiness: Readiness,
    directory: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// GitHub and Kubernetes in one: tokens for the organization `acme`, and a Secret `own`.
async fn surroundings(tokens: Arc<AtomicUsize>) -> SocketAddr {
    let token = async move || {
        tokens.fetch_add(1, Ordering::SeqCst);
        let body = json!({"token": "a token", "expires_at": "2026-01-01T01:00:00Z"});
        (StatusCode::CREATED, Json(body))
    };
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "own", "resourceVersion": "1"},
        "data": {"github_token": STANDARD.encode("own token")},
    });
    let router = Router::new()
        .route(
            "/api/v3/orgs/acme/actions/runners/registration-token",
            post(token.clone()),
        )
        .route("/orgs/acme/actions/runners/registration-token", post(token))
        .route(
            "/api/v1/namespaces/ns/secrets/own",
            get(async move || Json(secret)),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn server() -> Server {
    muster_runtime::client::install_crypto_provider();
    let tokens = Arc::new(AtomicUsize::new(0));
    let base = format!("http://{}/", surroundings(Arc::clone(&tokens)).await);
    let clock = Clock::manual(now());
    let shared = Shared::builder(Arc::new(now)).version("test").build().unwrap();
    let urls = UrlSettings {
        enterprise: None,
        api: Some(base.clone()),
        upload: None,
        runner: None,
    };
    let resolved = Urls::resolve(&urls).unwrap();
    let github = GitHub::new(Auth::Token(SecretString::from("token")), resolved, &shared).unwrap();
    let kube = kube::Client::try_from(kube::Config::new(base.parse().unwrap())).unwrap();
    let mut registry = new_registry("test");
    let admission = Admission {
        clients: Arc::new(Clients::new(kube, DefaultClient { github, urls, shared })),
        clock,
        metrics: AdmissionMetrics::register(&mut registry),
    };

    let directory = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap()
        .pem();
    std::fs::write(directory.path().join("tls.crt"), &certificate).unwrap();
    std::fs::write(directory.path().join("tls.key"), key.serialize_pem()).unwrap();
    // A port that is free now: the server opens it itself.
    let address = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let readiness = Readiness::new();
    let stop = CancellationToken::new();
    let begin = Start {
        admission,
        address: Address::parse(&address.to_string(), "").unwrap(),
        directory: directory.path().to_owned(),
        self_signed: None,
        readiness: readiness.clone(),
    };
    start(begin, &stop, &TaskTracker::new()).await.unwrap();
    let trusted = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([trusted])
        .resolve("localhost", address)
        .build()
        .unwrap();
    Server {
        address,
        tokens,
        client,
        exposition: Exposition::new(registry),
        readiness,
        directory,
        stop,
    }
}

impl Server {
    async fn send(&self, path: &str, content_type: &str, body: Vec<u8>) -> Value {
        let url = format!("https://localhost:{}{path}?timeout=5s", self.address.port());
        let request = self
            .client
            .post(url)
            .header("content-type", content_type)
            .body(body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    async fn ask(&self, path: &str, version: &str, request: Value) -> Value {
        let mut review = json!({
            "apiVersion": format!("admission.k8s.io/{version}"), "kind": "AdmissionReview", "request": request,
        });
        review["request"]["uid"] = json!("the-uid");
        let answer = self
            .send(path, "application/json", review.to_string().into_bytes())
            .await;
        assert_eq!(answer["apiVersion"], review["apiVersion"]);
        assert_eq!(answer["kind"], "AdmissionReview");
        assert_eq!(answer["response"]["uid"], "the-uid");
        answer["response"].clone()
    }
}

fn deployment(spec: &Value) -> Value {
    let object = json!({"metadata": {"name": "pool"}, "spec": {"template": {"spec": spec}}});
    json!({"operation": "CREATE", "namespace": "ns", "name": "pool", "object": object, "oldObject": null, "dryRun": false})
}

#[tokio::test]
async fn both_versions_are_answered_in_kind() {
    let server = server().await;
    assert!(server.readiness.is_ready() || server.readiness.waiting_for() == ["admission certificate"]);
    for version in ["v1", "v1beta1"] {
        let good = server
            .ask(DEPLOYMENTS, version, deployment(&json!({"organization": "acme"})))
            .await;
        assert_eq!(
            (&good["allowed"], &good["status"]["code"]),
            (&json!(true), &json!(200))
        );
        assert!(good.get("patch").is_none() && good.get("warnings").is_none());

        let bad = server
            .ask(
                DEPLOYMENTS,
                version,
                deployment(&json!({"containerMode": "rootless"})),
            )
            .await;
        assert_eq!(bad["allowed"], false);
        let status = &bad["status"];
        assert_eq!(
            (&status["code"], &status["reason"]),
            (&json!(422), &json!("Invalid"))
        );
        assert_eq!(status["details"]["group"], "actions.summerwind.dev");
        assert_eq!(
            (&status["details"]["kind"], &status["details"]["name"]),
            (&json!("RunnerDeployment"), &json!("pool"))
        );
        let causes = status["details"]["causes"].as_array().unwrap();
        assert_eq!(causes.len(), 1);
        assert_eq!(causes[0]["field"], "spec.template.spec.repository");
        assert_eq!(causes[0]["reason"], "FieldValueInvalid");
        assert_eq!(bad["warnings"].as_array().unwrap().len(), 1);
    }
    assert!(server.readiness.is_ready());
    let metrics = server.exposition.encode(Form::Classic).unwrap();
    for line in [
        format!("controller_runtime_webhook_requests_total{{webhook=\"{DEPLOYMENTS}\",code=\"200\"}} 4"),
        format!("muster_admission_answers_total{{webhook=\"{DEPLOYMENTS}\",outcome=\"refused\"}} 2"),
        format!("controller_runtime_webhook_requests_in_flight{{webhook=\"{DEPLOYMENTS}\"}} 0"),
    ] {
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn every_path_answers_and_deletions_pass() {
    let server = server().await;
    for hook in Hook::all() {
        let request = json!({"operation": "DELETE", "object": null, "oldObject": {"spec": {}}});
        let answer = server.ask(hook.path(), "v1beta1", request).await;
        assert_eq!(answer["allowed"], true, "{hook:?}");
        if let Hook::Mutate(_) = hook {
            // Whatever it is: the schema decides.
            let odd = json!({"operation": "CREATE", "object": {"spec": {"replicas": "2"}}});
            let answer = server.ask(hook.path(), "v1", odd).await;
            assert_eq!(answer["allowed"], true);
            assert!(answer.get("patch").is_none());
        }
    }
    let autoscaler =
        json!({"operation": "CREATE", "object": {"metadata": {"name": "a"}, "spec": {"minReplicas": 1}}});
    let answer = server.ask(AUTOSCALERS, "v1", autoscaler).await;
    assert_eq!(
        (&answer["allowed"], answer["warnings"].as_array().unwrap().len()),
        (&json!(true), 2)
    );
}

#[tokio::test]
async fn what_is_no_review_is_answered_with_one() {
    let server = server().await;
    let table: [(&str, Vec<u8>, u16); 6] = [
        ("application/json", Vec::new(), 400),
        ("application/json", b"{".to_vec(), 400),
        ("text/plain", b"{}".to_vec(), 400),
        (
            "application/json",
            br#"{"apiVersion":"v1","kind":"Pod"}"#.to_vec(),
            400,
        ),
        (
            "application/json; charset=utf-8",
            br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#.to_vec(),
            400,
        ),
        ("application/json", vec![b' '; BODY_LIMIT + 1], 413),
    ];
    for (content_type, body, code) in table {
        let answer = server.send(PODS, content_type, body).await;
        let status = &answer["response"]["status"];
        assert_eq!(
            (&answer["response"]["allowed"], &status["code"]),
            (&json!(false), &json!(code))
        );
        assert!(!status["message"].as_str().unwrap().is_empty());
    }
}

fn pod(annotations: &Value, org: &str) -> Value {
    let env = json!([
        {"name": "RUNNER_ORG", "value": org}, {"name": "RUNNER_REPO", "value": ""}, {"name": "RUNNER_ENTERPRISE", "value": ""},
    ]);
    let object = json!({
        "metadata": {"name": "set-0", "annotations": annotations},
        "spec": {"restartPolicy": "Always", "containers": [{"name": "runner", "env": env}]},
    });
    json!({"operation": "CREATE", "namespace": "ns", "name": "set-0", "object": object})
}

fn operations(answer: &Value) -> Vec<Value> {
    assert_eq!(
        (&answer["allowed"], &answer["patchType"]),
        (&json!(true), &json!("JSONPatch"))
    );
    let patch = STANDARD.decode(answer["patch"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&patch).unwrap()
}

#[tokio::test]
async fn a_runner_pod_gets_a_token_of_its_credential() {
    let server = server().await;
    let answer = server.ask(PODS, "v1beta1", pod(&json!({}), "acme")).await;
    let patch = operations(&answer);
    assert!(
        patch
            .iter()
            .any(|operation| operation["value"]["value"] == "a token"),
        "{patch:?}"
    );
    assert!(
        patch
            .iter()
            .any(|operation| operation["value"] == "2026-01-01T01:00:00Z")
    );
    assert_eq!(server.tokens.load(Ordering::SeqCst), 1);
    // The token is shared by the scope.
    server.ask(PODS, "v1", pod(&Value::Null, "acme")).await;
    assert_eq!(server.tokens.load(Ordering::SeqCst), 1);
    // Another credential has a token of its own.
    let own = json!({"actions-runner/github-api-creds-secret": "own"});
    operations(&server.ask(PODS, "v1", pod(&own, "acme")).await);
    assert_eq!(server.tokens.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_dry_run_asks_nobody_and_other_pods_are_let_be() {
    let server = server().await;
    let mut dry = pod(&Value::Null, "acme");
    dry["dryRun"] = json!(true);
    let patch = operations(&server.ask(PODS, "v1", dry).await);
    assert_eq!(patch.len(), 2, "name and restart policy: {patch:?}");

    let mut other = pod(&Value::Null, "acme");
    other["object"]["spec"]["containers"][0]["name"] = json!("app");
    let mut complete = pod(
        &json!({"actions-runner/github-api-creds-secret": "missing"}),
        "gone",
    );
    complete["object"]["spec"]["restartPolicy"] = json!("Never");
    let env = complete["object"]["spec"]["containers"][0]["env"]
        .as_array_mut()
        .unwrap();
    env.push(json!({"name": "RUNNER_NAME", "value": "set-0"}));
    env.push(json!({"name": "RUNNER_TOKEN", "value": "own"}));
    let mut update = pod(&Value::Null, "acme");
    update["operation"] = json!("UPDATE");
    for request in [other, complete, update] {
        let answer = server.ask(PODS, "v1", request).await;
        assert_eq!(answer["allowed"], true);
        assert!(answer.get("patch").is_none());
    }
    assert_eq!(server.tokens.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn without_a_token_the_pod_is_refused_with_a_sentence() {
    let server = server().await;
    let missing = json!({"actions-runner/github-api-creds-secret": "missing"});
    let table = [
        (pod(&missing, "acme"), "ns/missing"),
        (pod(&Value::Null, "unknown"), "unknown"),
        (pod(&Value::Null, ""), "does not say where"),
    ];
    for (request, words) in table {
        let answer = server.ask(PODS, "v1", request).await;
        assert_eq!(
            (&answer["allowed"], &answer["status"]["code"]),
            (&json!(false), &json!(500))
        );
        let message = answer["status"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
    let mut empty = pod(&Value::Null, "acme");
    empty["object"] = Value::Null;
    assert_eq!(server.ask(PODS, "v1", empty).await["status"]["code"], 400);
}

#[tokio::test]
async fn without_files_nothing_is_served_and_nobody_waits() {
    let server = server().await;
    // Another process with an empty folder: no port is opened, readiness has no gate.
    std::fs::remove_file(server.directory.path().join("tls.key")).unwrap();
    let readiness = Readiness::new();
    let mut registry = new_registry("test");
    let base: http::Uri = "http://127.0.0.1:1/".parse().unwrap();
    let kube = kube::Client::try_from(kube::Config::new(base)).unwrap();
    let shared = Shared::builder(Arc::new(now)).version("test").build().unwrap();
    let urls = UrlSettings {
        enterprise: None,
        api: None,
        upload: None,
        runner: None,
    };
    let resolved = Urls::resolve(&urls).unwrap();
    let github = GitHub::new(Auth::Token(SecretString::from("token")), resolved, &shared).unwrap();
    let begin = Start {
        admission: Admission {
            clients: Arc::new(Clients::new(kube, DefaultClient { github, urls, shared })),
            clock: Clock::manual(now()),
            metrics: AdmissionMetrics::register(&mut registry),
        },
        // Taken by the other server: opening it would fail.
        address: Address::parse(&server.address.to_string(), "").unwrap(),
        directory: server.directory.path().to_owned(),
        self_signed: None,
        readiness: readiness.clone(),
    };
    start(begin, &server.stop, &TaskTracker::new()).await.unwrap();
    assert!(readiness.is_ready());
}

#[test]
fn the_api_server_says_how_long_it_waits() {
    let table = [
        (None, 10_000),
        (Some("timeout=3s"), 3_000),
        (Some("a=b&timeout=1m0s"), 60_000),
        (Some("timeout=banana"), 10_000),
        (Some("timeout=-1s"), 10_000),
    ];
    for (query, milliseconds) in table {
        assert_eq!(timeout(query), Duration::from_millis(milliseconds), "{query:?}");
    }
}
