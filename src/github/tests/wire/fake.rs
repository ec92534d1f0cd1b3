//! A scripted GitHub on loopback, and the client under test with a clock that stands still.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, http::HeaderMap, response::Response};
use jiff::{SignedDuration, Timestamp};
use muster_core::scope::Scope;
use muster_github::{
    Auth, CallFamily, Clock, GitHub, LiveRequest, Observer, Shared, SharedBuilder, UrlSettings, Urls,
};
use secrecy::SecretString;
use serde_json::{Value, json};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// An answer to give.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    delay: Duration,
    broken: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl ToString) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_string(),
            delay: Duration::ZERO,
            broken: false,
        }
    }

    /// A listing as GitHub sends it: private, a minute, varying.
    pub(crate) fn listing(names: &[&str]) -> Self {
        let runners: Vec<Value> = names
            .iter()
            .enumerate()
            .map(|(at, name)| json!({"id": at + 1, "name": name, "os": "linux", "status": "online", "busy": false}))
            .collect();
        Self::page(&runners)
    }

    pub(crate) fn page(runners: &[Value]) -> Self {
        Self::new(200, json!({"total_count": runners.len(), "runners": runners})).cacheable()
    }

    pub(crate) fn cacheable(self) -> Self {
        self.with("cache-control", "private, max-age=60, s-maxage=60")
            .with("vary", "Accept, Authorization, Cookie")
    }

    /// Answers 304 itself when the request has this entity tag.
    pub(crate) fn etag(self, seen: &Seen, etag: &str) -> Self {
        let mut reply = self.with("etag", etag);
        if seen.header("if-none-match") == etag {
            reply.status = 304;
            reply.body.clear();
        }
        reply
    }

    /// Makes it stale on arrival.
    pub(crate) fn stale(self) -> Self {
        self.with("age", "100")
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn budget(self, remaining: u32, reset: Timestamp) -> Self {
        self.with("x-ratelimit-limit", 5000)
            .with("x-ratelimit-remaining", remaining)
            .with("x-ratelimit-reset", reset.as_second())
            .with("x-ratelimit-resource", "core")
    }

    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The connection breaks in the middle of the body.
    pub(crate) fn broken() -> Self {
        Self {
            broken: true,
            ..Self::new(200, "")
        }
    }
}

type Script = Box<dyn FnMut(&Seen) -> Reply + Send>;

/// The server; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) base: String,
    script: Arc<Mutex<Script>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(|_| Reply::new(500, "no script"))));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script_of_app, seen_of_app) = (Arc::clone(&script), Arc::clone(&seen));
        let app = Router::new().fallback(move |request: Request| {
            let seen = Seen {
                method: request.method().to_string(),
                path: request.uri().path_and_query().unwrap().to_string(),
                headers: request.headers().clone(),
            };
            let reply = script_of_app.lock().unwrap()(&seen);
            seen_of_app.lock().unwrap().push(seen);
            answer(reply)
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { base, script, seen }
    }

    pub(crate) fn script(&self, script: impl FnMut(&Seen) -> Reply + Send + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    /// What came in since the last call.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// Returns once a request has come in.
    pub(crate) async fn reached(&self) {
        while self.seen.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many requests came in since the last call.
    pub(crate) fn count(&self) -> usize {
        self.take().len()
    }
}

async fn answer(reply: Reply) -> Response {
    tokio::time::sleep(reply.delay).await;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    let body = if reply.broken {
        let chunks = [Ok("{".to_owned()), Err(std::io::Error::other("broken"))];
        Body::from_stream(futures::stream::iter(chunks))
    } else {
        Body::from(reply.body)
    };
    response.body(body).unwrap()
}

/// Remembers what it was told.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) live: Mutex<Vec<LiveRequest>>,
    pub(crate) hits: AtomicUsize,
    pub(crate) held: AtomicUsize,
}

impl Recorder {
    /// Outcomes per family since the last call.
    pub(crate) fn outcomes(&self) -> BTreeMap<(&'static str, &'static str), usize> {
        let mut counts = BTreeMap::new();
        for request in self.live.lock().unwrap().drain(..) {
            *counts
                .entry((request.family.as_str(), request.outcome.as_str()))
                .or_default() += 1;
        }
        counts
    }
}

impl Observer for Recorder {
    fn request(&self, request: &LiveRequest) {
        self.live.lock().unwrap().push(request.clone());
    }

    fn cache_hit(&self, _family: CallFamily) {
        self.hits.fetch_add(1, Ordering::SeqCst);
    }

    fn held_back(&self, _family: CallFamily) {
        self.held.fetch_add(1, Ordering::SeqCst);
    }
}

/// Server, client parts and clock of one test.
pub(crate) struct Rig {
    pub(crate) fake: Fake,
    pub(crate) shared: Shared,
    pub(crate) observer: Arc<Recorder>,
    now: Arc<Mutex<Timestamp>>,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub(crate) async fn with(adjust: impl FnOnce(SharedBuilder) -> SharedBuilder) -> Self {
        let now = Arc::new(Mutex::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let clock: Clock = {
            let now = Arc::clone(&now);
            Arc::new(move || *now.lock().unwrap())
        };
        let observer = Arc::new(Recorder::default());
        let builder = Shared::builder(clock)
            .observer(Arc::<Recorder>::clone(&observer))
            .version("1.2.3")
            .without_proxy();
        Self {
            fake: Fake::start().await,
            shared: adjust(builder).build().unwrap(),
            observer,
            now,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    pub(crate) fn advance(&self, by: SignedDuration) {
        *self.now.lock().unwrap() += by;
    }

    /// A client at the fake's root.
    pub(crate) fn client(&self, auth: Auth) -> GitHub {
        self.client_at(&self.fake.base, auth)
    }

    pub(crate) fn client_at(&self, api: &str, auth: Auth) -> GitHub {
        let urls = Urls::resolve(&UrlSettings {
            api: Some(api.to_owned()),
            ..UrlSettings::default()
        })
        .unwrap();
        GitHub::new(auth, urls, &self.shared).unwrap()
    }

    pub(crate) fn hits(&self) -> usize {
        self.observer.hits.swap(0, Ordering::SeqCst)
    }
}

pub(crate) fn token(text: &str) -> Auth {
    Auth::Token(SecretString::from(text))
}

pub(crate) fn acme() -> Scope {
    Scope::Organization("acme".into())
}

pub(crate) fn names(runners: &[muster_github::RunnerInfo]) -> Vec<&str> {
    runners.iter().map(|runner| runner.name.as_str()).collect()
}

/// An error with everything that it wraps, in both forms.
pub(crate) fn render(error: &dyn std::error::Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut next = error.source();
    while let Some(source) = next {
        text.extend([source.to_string(), format!("{source:?}")]);
        next = source.source();
    }
    text
}
