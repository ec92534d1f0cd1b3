//! For tests: canned answers of an API server that knows autoscalers by path, applies JSON patches to them
//! and fails as it is told. What a real one does is tested against a real one, in the tests crate.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use kube::Client;
use muster_core::routing::AutoscalerId;
use muster_crds::legacy::{CapacityReservation, HorizontalRunnerAutoscaler, RunnerDeployment, RunnerSet};
use muster_github::{Auth, GitHub, Shared, UrlSettings, Urls};
use muster_runtime::clock::Clock;
use muster_runtime::serve::Readiness;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::api::Autoscalers;
use crate::batch::{BatchSettings, Writers};
use crate::groups::Groups;
use crate::handler::{App, AppSettings};
use crate::index::{Index, WatchedAutoscaler, Watching};
use crate::metrics::Metrics;
use crate::objects::Watched;
use crate::unmatched::UnmatchedLog;

/// What the next patch meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An internal error, nothing is written.
    FailBefore,
    /// An internal error, although the patch was applied.
    FailAfter,
    /// Somebody else adds an entry just before, so that a precondition fails.
    Overtaken,
    /// No answer.
    Hang,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Value>,
    faults: VecDeque<Fault>,
    patches: Vec<Value>,
    delay: Duration,
}

/// The canned API server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster(Arc<Mutex<State>>);

pub(crate) const NOW: i64 = 1_795_000_000;

pub(crate) fn id(name: &str) -> AutoscalerId {
    AutoscalerId::new("ci", name)
}

fn path(name: &str) -> String {
    format!("/apis/actions.summerwind.dev/v1alpha1/namespaces/ci/horizontalrunnerautoscalers/{name}")
}

impl Cluster {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn put(&self, name: &str, target: &str, entries: Option<Value>) {
        let mut spec = json!({"scaleTargetRef": {"name": target}, "maxReplicas": 5,
            "scaleUpTriggers": [{"githubEvent": {"workflowJob": {}}, "duration": "30m"}]});
        if let Some(entries) = entries {
            spec["capacityReservations"] = entries;
        }
        self.put_spec(name, &spec);
    }

    pub(crate) fn put_spec(&self, name: &str, spec: &Value) {
        let object = json!({"apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "HorizontalRunnerAutoscaler",
            "metadata": {"name": name, "namespace": "ci", "uid": format!("uid-{name}"), "generation": 1, "resourceVersion": "1"},
            "spec": spec});
        self.state().objects.insert(path(name), object);
    }

    pub(crate) fn delete(&self, name: &str) {
        self.state().objects.remove(&path(name));
    }

    pub(crate) fn watched(&self, name: &str) -> WatchedAutoscaler {
        serde_json::from_str(&self.state().objects[&path(name)].to_string()).unwrap()
    }

    pub(crate) fn ledger(&self, name: &str) -> Vec<CapacityReservation> {
        let list = self.state().objects[&path(name)]["spec"]["capacityReservations"].clone();
        if list.is_null() {
            Vec::new()
        } else {
            serde_json::from_value(list).unwrap()
        }
    }

    /// Names and replicas of a ledger.
    pub(crate) fn jobs(&self, name: &str) -> Vec<(String, i64)> {
        self.ledger(name)
            .into_iter()
            .map(|entry| (entry.name.unwrap_or_default(), entry.replicas.unwrap_or_default()))
            .collect()
    }

    pub(crate) fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }

    pub(crate) fn clear_faults(&self) {
        self.state().faults.clear();
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Patches that were received.
    pub(crate) fn patches(&self) -> Vec<Value> {
        self.state().patches.clone()
    }

    pub(crate) fn client(&self) -> Client {
        let cluster = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let cluster = cluster.clone();
            async move { Ok::<_, Infallible>(cluster.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let place = request.uri().path().to_owned();
        let is_patch = request.method() == Method::PATCH;
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let (delay, fault) = {
            let mut state = self.state();
            let fault = if is_patch { state.faults.pop_front() } else { None };
            (state.delay, fault)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match fault {
            Some(Fault::Hang) => std::future::pending::<()>().await,
            Some(Fault::FailBefore) => return status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            _ => {}
        }
        let mut state = self.state();
        if is_patch {
            state.patches.push(serde_json::from_slice(&body).unwrap());
        }
        let Some(object) = state.objects.get_mut(&place) else {
            return status(StatusCode::NOT_FOUND, "NotFound");
        };
        if !is_patch {
            return respond(StatusCode::OK, object);
        }
        if fault == Some(Fault::Overtaken) {
            bump(object);
            let list = object["spec"]
                .as_object_mut()
                .unwrap()
                .entry("capacityReservations")
                .or_insert(json!([]));
            let other =
                json!({"name": "9/9", "replicas": 1, "effectiveTime": at(0), "expirationTime": at(600)});
            list.as_array_mut().unwrap().push(other);
        }
        let operations: json_patch::Patch = serde_json::from_slice(&body).unwrap();
        if json_patch::patch(object, &operations).is_err() {
            return status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid");
        }
        bump(object);
        if fault == Some(Fault::FailAfter) {
            return status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        respond(
            StatusCode::OK,
            &json!({"kind": "PartialObjectMetadata", "metadata": object["metadata"]}),
        )
    }
}

fn bump(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap() + 1;
    object["metadata"]["generation"] = generation.into();
}

pub(crate) fn at(seconds: i64) -> String {
    Timestamp::from_second(NOW + seconds).unwrap().to_string()
}

fn status(code: StatusCode, reason: &str) -> Response<Body> {
    respond(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no",
        "reason": reason, "code": code.as_u16()}),
    )
}

fn respond(code: StatusCode, value: &Value) -> Response<Body> {
    Response::builder()
        .status(code)
        .body(Body::from(value.to_string()))
        .unwrap()
}

/// A server without sockets, over a canned cluster.
pub(crate) struct Bench {
    pub(crate) cluster: Cluster,
    pub(crate) index: Arc<Index>,
    pub(crate) writers: Arc<Writers>,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    pub(crate) unmatched: UnmatchedLog,
}

pub(crate) fn clock() -> Clock {
    Clock::manual(Timestamp::from_second(NOW).unwrap())
}

impl Bench {
    pub(crate) fn new(queue_limit: usize) -> Self {
        let cluster = Cluster::default();
        let metrics = Metrics::default();
        let index = Arc::new(Index::new(Vec::new(), metrics.clone()));
        let settings = BatchSettings {
            window: Duration::from_millis(50),
            queue_limit,
        };
        let writers = Arc::new(Writers::new(
            Arc::clone(&index),
            Autoscalers::new(cluster.client()),
            metrics.clone(),
            clock(),
            settings,
        ));
        Self {
            cluster,
            index,
            writers,
            metrics,
            readiness: Readiness::new(),
            unmatched: UnmatchedLog::default(),
        }
    }

    /// Adds an autoscaler `<name>-hra` and its RunnerDeployment, of a repository or an organization.
    pub(crate) fn with(self, name: &str, scope: &str, labels: &[&str], entries: Option<Value>) -> Self {
        let field = if scope.contains('/') {
            "repository"
        } else {
            "organization"
        };
        let target = json!({"metadata": {"name": name, "namespace": "ci", "uid": name},
            "spec": {"template": {"spec": {field: scope, "labels": labels}}}});
        let target: Watched<RunnerDeployment> = serde_json::from_str(&target.to_string()).unwrap();
        RunnerDeployment::observe(&self.index, &target, true);
        let autoscaler = format!("{name}-hra");
        self.cluster.put(&autoscaler, name, entries);
        HorizontalRunnerAutoscaler::observe(&self.index, &self.cluster.watched(&autoscaler), true);
        self
    }

    /// Adds an autoscaler `<name>-hra` with this spec besides its target, a RunnerDeployment or RunnerSet with these
    /// fields.
    pub(crate) fn with_spec(self, name: &str, kind: &str, fields: &Value, spec: &Value) -> Self {
        let metadata = json!({"name": name, "namespace": "ci", "uid": name});
        if kind == "RunnerSet" {
            let target = json!({"metadata": metadata, "spec": fields}).to_string();
            let target: Watched<RunnerSet> = serde_json::from_str(&target).unwrap();
            RunnerSet::observe(&self.index, &target, true);
        } else {
            let target = json!({"metadata": metadata, "spec": {"template": {"spec": fields}}}).to_string();
            let target: Watched<RunnerDeployment> = serde_json::from_str(&target).unwrap();
            RunnerDeployment::observe(&self.index, &target, true);
        }
        self.with_dangling(name, kind, spec)
    }

    /// As [`Bench::with_spec`], without the target.
    pub(crate) fn with_dangling(self, name: &str, kind: &str, spec: &Value) -> Self {
        let mut all = json!({"scaleTargetRef": {"kind": kind, "name": name}});
        all.as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        let autoscaler = format!("{name}-hra");
        self.cluster.put_spec(&autoscaler, &all);
        HorizontalRunnerAutoscaler::observe(&self.index, &self.cluster.watched(&autoscaler), true);
        self
    }

    pub(crate) fn app(&self, secrets: &[&str]) -> Arc<App> {
        self.app_with(secrets, None, Duration::from_secs(8))
    }

    pub(crate) fn app_with(&self, secrets: &[&str], groups: Option<Groups>, deadline: Duration) -> Arc<App> {
        let settings = AppSettings {
            heard: crate::replay::Heard::default(),
            secrets: secrets.iter().map(|secret| SecretString::from(*secret)).collect(),
            commit_deadline: deadline,
            clock: clock(),
            groups,
            unmatched: self.unmatched.clone(),
            notices: crate::notices::Notices::default(),
        };
        Arc::new(App::new(
            Arc::clone(&self.index),
            Arc::clone(&self.writers),
            self.metrics.clone(),
            self.readiness.clone(),
            settings,
        ))
    }
}

/// What GitHub says about the runner groups of an organization.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeGitHub(Arc<Mutex<Says>>);

#[derive(Debug)]
pub(crate) struct Says {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) groups: Value,
    pub(crate) hangs: bool,
    pub(crate) calls: Vec<String>,
}

impl Default for Says {
    fn default() -> Self {
        Self {
            status: StatusCode::OK,
            headers: vec![("cache-control", "private, max-age=60".to_owned())],
            groups: json!([]),
            hangs: false,
            calls: Vec::new(),
        }
    }
}

/// A group as GitHub lists it.
pub(crate) fn listed(id: u64, name: &str, is_default: bool, is_inherited: bool) -> Value {
    json!({"id": id, "name": name, "visibility": "selected", "default": is_default, "inherited": is_inherited})
}

impl FakeGitHub {
    pub(crate) fn says(&self) -> std::sync::MutexGuard<'_, Says> {
        self.0.lock().unwrap()
    }

    /// Listens on a loopback port; a client that asks it.
    pub(crate) async fn start(&self) -> Groups {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = self.clone();
        let router = axum::Router::new().fallback(move |request: Request<Body>| {
            let fake = fake.clone();
            async move {
                let hangs = {
                    let mut says = fake.says();
                    says.calls.push(request.uri().to_string());
                    says.hangs
                };
                if hangs {
                    std::future::pending::<()>().await;
                }
                let says = fake.says();
                let body = json!({"total_count": 1, "runner_groups": says.groups, "message": "no"});
                let mut response = respond(says.status, &body);
                for (name, value) in &says.headers {
                    response.headers_mut().insert(*name, value.parse().unwrap());
                }
                response
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let urls = Urls::resolve(&UrlSettings {
            api: Some(format!("http://{address}/")),
            ..UrlSettings::default()
        });
        let now = clock();
        let shared = Shared::builder(Arc::new(move || now.now()))
            .without_proxy()
            .build()
            .unwrap();
        let auth = Auth::Token(SecretString::from("ghp_x"));
        Groups::new(GitHub::new(auth, urls.unwrap(), &shared).unwrap(), clock())
    }
}
