//! One call on its way through the proxy.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, State},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, Uri, header};
use serde_json::json;
use tokio::{sync::watch, time::Instant};

use crate::github::{lock, wire::Cut};

use super::{
    Inner, Weather,
    call::{Call, Target, Verb},
    fault::When,
};

/// Headers that speak of one connection, and those that the HTTP client writes itself.
const OWN_HEADERS: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Passes a call on, unless a fault says otherwise.
pub(super) async fn handle(
    State(proxy): State<Arc<Inner>>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let target = Target::parse(&method, &uri);
    let mut pending = Pending {
        call: Some(Call {
            at: proxy.since_start(),
            target: target.clone(),
            status: None,
            upstream: None,
            took: Duration::ZERO,
            sent: u64::try_from(body.len()).unwrap_or(u64::MAX),
            received: 0,
            injected: false,
        }),
        proxy: proxy.clone(),
    };
    let mut weather = proxy.weather.subscribe();
    until(&mut weather, |weather| weather != Weather::Hung).await;
    let fate = lock(&proxy.faults).draw(&target);
    if !fate.delay.is_zero() {
        tokio::time::sleep(fate.delay).await;
    }
    if let Some((When::Before, status)) = fate.answer {
        return pending.fake(status, When::Before, &cut);
    }
    let mut response = tokio::select! {
        biased;
        () = until(&mut weather, |weather| weather == Weather::Dark) => return reset(&cut),
        answer = forward(&proxy, method, &uri, headers, body) => match answer {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(%target, %error, "The API server did not answer");
                return reset(&cut);
            }
        },
    };
    let status = response.status();
    pending.note_upstream(status);
    if let Some((When::After, faked)) = fate.answer {
        // To its end, so that the connection can be used again.
        while let Ok(Some(_)) = response.chunk().await {}
        return pending.fake(faked, When::After, &cut);
    }
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    let length = response.headers().get(header::CONTENT_LENGTH).cloned();
    copy_headers(response.headers(), answer.headers_mut());
    if let Some(length) = length {
        answer.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    let received = pending.finish(|call| call.status = Some(status.as_u16()));
    let is_watch = target.verb == Verb::Watch;
    let stream = Stream {
        response,
        received,
        cut,
        weather,
        breaks: is_watch.then(|| proxy.break_watches.subscribe()),
        end: fate.end.map(|(after, is_cut)| (Instant::now() + after, is_cut)),
    };
    *answer.body_mut() = Body::from_stream(futures::stream::unfold(stream, Stream::next));
    answer
}

/// Waits for weather of a kind; the end of the proxy is weather of any kind.
async fn until(weather: &mut watch::Receiver<Weather>, wanted: impl Fn(Weather) -> bool) {
    drop(weather.wait_for(|weather| wanted(*weather)).await);
}

async fn forward(
    proxy: &Inner,
    method: Method,
    uri: &Uri,
    headers: HeaderMap,
    body: Bytes,
) -> reqwest::Result<reqwest::Response> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut passed = HeaderMap::with_capacity(headers.len());
    copy_headers(&headers, &mut passed);
    let request = proxy
        .client
        .request(method, format!("{}{path}", proxy.upstream))
        .headers(passed);
    let request = if body.is_empty() {
        request
    } else {
        request.body(body)
    };
    request.send().await
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        if !OWN_HEADERS.contains(name) {
            to.append(name.clone(), value.clone());
        }
    }
}

/// Has the connection reset; what is answered does not get through any more.
fn reset(cut: &Cut) -> Response<Body> {
    cut.cut();
    Response::new(Body::empty())
}

/// A call that is not answered yet. One that the component gives up is written down too, when it is dropped.
struct Pending {
    call: Option<Call>,
    proxy: Arc<Inner>,
}

impl Pending {
    fn note_upstream(&mut self, status: StatusCode) {
        if let Some(call) = &mut self.call {
            call.upstream = Some(status.as_u16());
        }
    }

    fn finish(mut self, change: impl FnOnce(&mut Call)) -> Arc<AtomicU64> {
        match self.call.take() {
            Some(mut call) => {
                change(&mut call);
                self.proxy.record(call)
            }
            None => Arc::default(),
        }
    }

    /// Answers with a status code of our own, or not at all.
    fn fake(self, status: Option<u16>, when: When, cut: &Cut) -> Response<Body> {
        let target = self.call.as_ref().map(|call| call.target.clone());
        self.finish(|call| {
            call.injected = true;
            call.status = status;
        });
        let (Some(status), Some(target)) = (status, target) else {
            return reset(cut);
        };
        status_answer(status, when, &target)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            self.proxy.record(call);
        }
    }
}

/// An answer as the API server itself gives it.
fn status_answer(code: u16, when: When, target: &Target) -> Response<Body> {
    let reason = match (code, target.verb, when) {
        // Who repeats a create that has worked is told so.
        (409, Verb::Create, When::After) => "AlreadyExists",
        (409, _, _) => "Conflict",
        (429, _, _) => "TooManyRequests",
        (503, _, _) => "ServiceUnavailable",
        (504, _, _) => "Timeout",
        _ => "InternalError",
    };
    let mut details = json!({
        "name": target.name,
        "group": target.group,
        "kind": target.resource,
    });
    let is_overload = matches!(code, 429 | 503);
    if let (true, Some(details)) = (is_overload, details.as_object_mut()) {
        details.insert("retryAfterSeconds".to_owned(), json!(1));
    }
    let body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": format!("fault proxy: {target} was answered {code}"),
        "reason": reason,
        "details": details,
        "code": code,
    });
    let mut answer = Response::builder()
        .status(code)
        .header(header::CONTENT_TYPE, "application/json");
    if is_overload {
        answer = answer.header(header::RETRY_AFTER, "1");
    }
    answer.body(Body::from(body.to_string())).unwrap_or_default()
}

/// The body of an answer on its way to the component.
struct Stream {
    response: reqwest::Response,
    received: Arc<AtomicU64>,
    cut: Cut,
    weather: watch::Receiver<Weather>,
    breaks: Option<watch::Receiver<u64>>,
    end: Option<(Instant, bool)>,
}

/// What ends the wait for the next piece.
enum Step {
    Chunk(reqwest::Result<Option<Bytes>>),
    Reset,
    End,
}

impl Stream {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let step = loop {
            let weather = *self.weather.borrow_and_update();
            break match weather {
                Weather::Dark => Step::Reset,
                Weather::Hung => match self.weather.changed().await {
                    Ok(()) => continue,
                    Err(_) => Step::Reset,
                },
                Weather::Fair => tokio::select! {
                    biased;
                    changed = self.weather.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => Step::Reset,
                    },
                    () = broken(&mut self.breaks) => Step::Reset,
                    is_cut = due(self.end) => if is_cut { Step::Reset } else { Step::End },
                    chunk = self.response.chunk() => Step::Chunk(chunk),
                },
            };
        };
        match step {
            Step::Chunk(Ok(Some(chunk))) => {
                let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
                self.received.fetch_add(length, Ordering::Relaxed);
                Some((Ok(chunk), self))
            }
            Step::Chunk(Ok(None)) | Step::End => None,
            Step::Chunk(Err(_)) | Step::Reset => {
                self.cut.cut();
                Some((Err(io::ErrorKind::ConnectionReset.into()), self))
            }
        }
    }
}

/// Waits until all watches are to break; for ever for an answer that is none.
async fn broken(breaks: &mut Option<watch::Receiver<u64>>) {
    match breaks {
        Some(breaks) => drop(breaks.changed().await),
        None => std::future::pending().await,
    }
}

/// Waits for the end that a fault has set; whether it is a reset.
async fn due(end: Option<(Instant, bool)>) -> bool {
    match end {
        Some((at, is_cut)) => {
            tokio::time::sleep_until(at).await;
            is_cut
        }
        None => std::future::pending().await,
    }
}
