//! The REST API and the runners' side, over HTTP: one entry for every request, which finds out what is asked,
//! lets faults strike, checks who asks, answers, and counts.

pub(crate) mod agents;
mod api;
mod hook_api;
pub(crate) mod reply;
pub(crate) mod route;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use self::reply::Reply;
use self::route::{Call, Endpoint};
use super::auth::{Caller, Limit};
use super::faults::FaultKind;
use super::lock;
use super::model::ViolationKind;
use super::options::FakeGitHubOptions;
use super::server::Core;
use super::wire::Cut;

/// A request as the handlers see it.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) call: &'a Call,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) host: &'a str,
    pub(crate) body: &'a Bytes,
    pub(crate) now: Timestamp,
    /// Who asks; `None` on the runners' side.
    pub(crate) caller: Option<Caller>,
}

impl Ask<'_> {
    pub(crate) fn bearer(&self) -> &str {
        let value = text(self.headers, header::AUTHORIZATION).unwrap_or_default();
        value.split_once(' ').map_or("", |(_, token)| token.trim())
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Answers every request.
pub(crate) async fn handle(
    State(core): State<Arc<Core>>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path();
    let call = route::parse(
        &method,
        path,
        uri.query().unwrap_or_default(),
        &lock(&core.world).places,
    );
    let family = call.endpoint.family();
    let strikes = lock(&core.faults).strike(family, path);
    let note = |status| lock(&core.counters).note(family, status, core.clock.minute());

    let mut instead = None;
    for kind in &strikes {
        match kind {
            FaultKind::Slow(delay) => tokio::time::sleep(*delay).await,
            FaultKind::Reset => {
                note(None);
                cut.cut();
                return Response::new(Body::empty());
            }
            kind => instead = instead.or_else(|| fault_reply(kind, core.clock.now())),
        }
    }
    let now = core.clock.now();
    let host = text(&headers, header::HOST).unwrap_or("127.0.0.1").to_owned();
    let mut ask = Ask {
        call: &call,
        headers: &headers,
        host: &host,
        body: &body,
        now,
        caller: None,
    };
    let (mut reply, limit) = match instead {
        Some(reply) => (reply, None),
        None if family.is_agent() => (agents::answer(&core, &ask).await, None),
        None if !family.is_api() => (api::answer(&core, &ask), None),
        None => answer_api(&core, &mut ask),
    };
    if method == Method::GET && reply.status == StatusCode::OK && family.is_api() {
        add_cache_headers(&mut reply, &headers, &core.options);
    }
    let not_modified = reply.status == StatusCode::NOT_MODIFIED;
    let limit = limit.map(|caller| {
        let mut credentials = lock(&core.credentials);
        let limit = credentials.limit(&caller, now);
        if !not_modified && call.endpoint != Endpoint::RateLimit {
            limit.used = (limit.used + 1).min(limit.calls);
        }
        *limit
    });
    if strikes.contains(&FaultKind::ResetAfter) {
        note(None);
        cut.cut();
        return Response::new(Body::empty());
    }
    if core.is_dark() {
        cut.cut();
    }
    note(Some(reply.status.as_u16()));
    finish(reply, limit, now, &strikes)
}

/// Checks the caller and answers; also who is charged for the call.
fn answer_api(core: &Arc<Core>, ask: &mut Ask<'_>) -> (Reply, Option<Caller>) {
    if text(ask.headers, header::USER_AGENT).is_none_or(str::is_empty) {
        let message = "Request forbidden by administrative rules. Please make sure your request has a \
                       User-Agent header";
        return (Reply::error(StatusCode::FORBIDDEN, message, "rest"), None);
    }
    if ask.call.endpoint == Endpoint::Zen {
        return (Reply::ok(&serde_json::json!("Keep it logically awesome.")), None);
    }
    let authorization = text(ask.headers, header::AUTHORIZATION);
    let caller = match lock(&core.credentials).identify(authorization, ask.now) {
        Ok(caller) => caller,
        Err(message) => return (Reply::error(StatusCode::UNAUTHORIZED, &message, "rest"), None),
    };
    if ask.call.endpoint.wants_app() != matches!(caller, Caller::App { .. }) {
        let message = if ask.call.endpoint.wants_app() {
            "A JSON web token could not be decoded"
        } else {
            "Bad credentials"
        };
        return (Reply::error(StatusCode::UNAUTHORIZED, message, "rest"), None);
    }
    if let Some(owner) = ask.call.endpoint.owner()
        && !lock(&core.credentials).note_use(&caller, owner, ask.now)
    {
        let detail = format!("{} was used for {owner}", caller.name());
        core.change(|world| world.violate(ViolationKind::ForeignCredential, detail, ask.now));
        let message = "Resource not accessible by integration";
        return (Reply::error(StatusCode::FORBIDDEN, message, "rest"), Some(caller));
    }
    let exhausted = ask.call.endpoint != Endpoint::RateLimit
        && lock(&core.credentials).limit(&caller, ask.now).remaining() == 0;
    ask.caller = Some(caller.clone());
    if exhausted {
        return (rate_limited(), Some(caller));
    }
    (api::answer(core, ask), Some(caller))
}

fn rate_limited() -> Reply {
    let message = "API rate limit exceeded for this credential. If you reach out to GitHub Support for help, \
                   please include the request ID.";
    Reply::error(
        StatusCode::FORBIDDEN,
        message,
        "rest/overview/rate-limits-for-the-rest-api",
    )
}

fn fault_reply(kind: &FaultKind, now: Timestamp) -> Option<Reply> {
    let secondary =
        "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
    let page = "rest/overview/resources-in-the-rest-api#secondary-rate-limits";
    let seconds = |duration: &Duration| duration.as_secs().to_string();
    Some(match kind {
        FaultKind::Unauthorized => Reply::error(StatusCode::UNAUTHORIZED, "Bad credentials", "rest"),
        FaultKind::Forbidden => Reply::error(
            StatusCode::FORBIDDEN,
            "Resource not accessible by integration",
            "rest/actions",
        ),
        FaultKind::PrimaryRateLimit(wait) => {
            let reset = u64::try_from(now.as_second()).unwrap_or_default() + wait.as_secs();
            rate_limited()
                .with("x-ratelimit-limit", "5000")
                .with("x-ratelimit-remaining", "0")
                .with("x-ratelimit-used", "5000")
                .with("x-ratelimit-resource", "core")
                .with("x-ratelimit-reset", reset.to_string())
        }
        FaultKind::SecondaryRateLimit(wait) => {
            Reply::error(StatusCode::FORBIDDEN, secondary, page).with("retry-after", seconds(wait))
        }
        FaultKind::TooManyRequests(wait) => {
            Reply::error(StatusCode::TOO_MANY_REQUESTS, secondary, page).with("retry-after", seconds(wait))
        }
        FaultKind::Status(status) => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let message = if status == StatusCode::NOT_FOUND {
                "Not Found"
            } else {
                "Server Error"
            };
            Reply::error(status, message, "rest")
        }
        FaultKind::Garbage => Reply {
            status: StatusCode::OK,
            body: Some("<!DOCTYPE html><title>Unicorn!</title>".to_owned()),
            headers: Vec::new(),
        },
        FaultKind::Slow(_)
        | FaultKind::Reset
        | FaultKind::ResetAfter
        | FaultKind::CutBody
        | FaultKind::Chunked
        | FaultKind::Age(_)
        | FaultKind::NoCacheHeaders => return None,
    })
}

/// Adds what caches go by, and answers 304 when the caller has this very body already.
fn add_cache_headers(reply: &mut Reply, headers: &HeaderMap, options: &FakeGitHubOptions) {
    let Some(body) = &reply.body else { return };
    let max_age = options.max_age;
    let digest = Sha256::digest(body.as_bytes());
    let tag = digest
        .iter()
        .fold(String::from("W/\""), |tag, byte| format!("{tag}{byte:02x}"))
        + "\"";
    let known = text(headers, header::IF_NONE_MATCH).is_some_and(|known| {
        known
            .split(',')
            .map(str::trim)
            .any(|known| known == "*" || known.trim_start_matches("W/") == tag.trim_start_matches("W/"))
    });
    reply.headers.push((
        "cache-control",
        format!("private, max-age={max_age}, s-maxage={max_age}"),
    ));
    reply
        .headers
        .push(("vary", "Accept, Authorization, Cookie, X-GitHub-OTP".to_owned()));
    if !options.etags {
        return;
    }
    reply.headers.push(("etag", tag));
    if known {
        reply.status = StatusCode::NOT_MODIFIED;
        reply.body = None;
    }
}

fn finish(reply: Reply, limit: Option<Limit>, now: Timestamp, strikes: &[FaultKind]) -> Response {
    let has_body = reply.body.is_some();
    let body = Bytes::from(reply.body.unwrap_or_default());
    let length = body.len();
    let mut response = Response::new(if strikes.contains(&FaultKind::CutBody) && length > 1 {
        let half = body.slice(..length / 2);
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        Body::from_stream(futures::stream::iter([Ok(half), Err(broken)]))
    } else if strikes.contains(&FaultKind::Chunked) && length > 1 {
        let chunks = [
            body.slice(..length / 3),
            body.slice(length / 3..length / 2),
            body.slice(length / 2..),
        ];
        Body::from_stream(futures::stream::iter(chunks.map(Ok::<_, std::io::Error>)))
    } else {
        Body::from(body)
    });
    *response.status_mut() = reply.status;
    let mut add = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
    };
    if let Ok(date) = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now) {
        add("date", &date);
    }
    add("server", "github.com");
    add("x-github-request-id", &uuid::Uuid::new_v4().simple().to_string());
    add("x-github-media-type", "github.v3; format=json");
    add("x-github-api-version-selected", "2022-11-28");
    if has_body {
        add("content-type", "application/json; charset=utf-8");
    }
    if let Some(limit) = limit {
        add("x-ratelimit-limit", &limit.calls.to_string());
        add("x-ratelimit-remaining", &limit.remaining().to_string());
        add("x-ratelimit-used", &limit.used.to_string());
        add("x-ratelimit-reset", &limit.reset.to_string());
        add("x-ratelimit-resource", "core");
    }
    for (name, value) in &reply.headers {
        add(name, value);
    }
    for kind in strikes {
        match kind {
            FaultKind::Age(seconds) => add("age", &seconds.to_string()),
            FaultKind::CutBody => add("content-length", &length.to_string()),
            _ => {}
        }
    }
    if strikes.contains(&FaultKind::NoCacheHeaders) {
        response.headers_mut().remove(header::CACHE_CONTROL);
        response.headers_mut().remove(header::ETAG);
    }
    response
}
