//! The admission webhooks (spec 01 §11, 02 §14): reviews over TLS, on every replica.
//!
//! [`muster_core::admission`] decides; here reviews are read and answered ([`mod@review`]), tokens fetched ([`hooks`]), and the certificate
//! found or made ([`serving`], [`self_signed`]).

mod hooks;
mod metrics;
mod review;
mod self_signed;
mod serving;
#[cfg(test)]
mod tests;

use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
    routing::any,
};
use bytes::Bytes;
use futures::FutureExt as _;
use http::{StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use muster_core::go;
use muster_runtime::{clock::Clock, telemetry::chain};
use tokio::time::Instant;

use self::{
    hooks::Hook,
    review::{Answer, Review, Version},
};
pub use self::{
    metrics::AdmissionMetrics,
    self_signed::SelfSigned,
    serving::{Start, StartError, default_directory, start},
};
use crate::clients::Clients;

/// Larger requests are refused, as by upstream: etcd takes far less.
const BODY_LIMIT: usize = 7 << 20;
/// Time for a request's body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the API server waits where it does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Kept for the way back: an answer that says why is better than none.
const RETURN_TIME: Duration = Duration::from_millis(500);

/// What the webhooks need.
#[derive(Clone)]
pub struct Admission {
    /// GitHub, for registration tokens.
    pub clients: Arc<Clients>,
    /// The time.
    pub clock: Clock,
    /// Metrics with controller-runtime's names.
    pub metrics: AdmissionMetrics,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

/// The webhooks' routes. Whatever happens on one of them is said in a review with HTTP status 200 (spec 01 §11.1).
pub fn router(admission: Admission) -> Router {
    let admission = Arc::new(admission);
    Hook::all().into_iter().fold(Router::new(), |router, hook| {
        let state = (Arc::clone(&admission), hook);
        router.route(hook.path(), any(review).with_state(state))
    })
}

async fn review(State((admission, hook)): State<(Arc<Admission>, Hook)>, request: Request) -> Response {
    let begun = Instant::now();
    let counted = admission.metrics.begin(hook.path());
    let (version, uid, answer) = AssertUnwindSafe(answer(&admission, hook, request, begun))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| {
            admission.metrics.panicked();
            let answer = Answer::failed(
                500,
                "Muster has a defect: please report it, with the manager's log",
            );
            (Version::V1, String::new(), answer)
        });
    counted.end(answer.outcome(), begun.elapsed());
    let body = review::encode(version, &uid, &answer).to_string();
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn answer(
    admission: &Admission,
    hook: Hook,
    request: Request,
    begun: Instant,
) -> (Version, String, Answer) {
    let failed = |code, message: &str| (Version::V1, String::new(), Answer::failed(code, message));
    let (parts, body) = request.into_parts();
    let is_json = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            let essence = value.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/json")
        });
    if !is_json {
        return failed(400, "the Content-Type must be application/json");
    }
    let body = match tokio::time::timeout(BODY_TIMEOUT, read(body)).await {
        Ok(Ok(body)) => body,
        Ok(Err(status)) if status == StatusCode::PAYLOAD_TOO_LARGE => {
            return failed(413, "the request is larger than 7 MiB");
        }
        Ok(Err(_)) => return failed(400, "the request broke off"),
        Err(_) => return failed(400, "the request did not arrive in time"),
    };
    let Review { version, request } = match Review::decode(&body) {
        Ok(review) => review,
        Err(error) => return failed(400, &chain(&error)),
    };
    let deadline = begun + timeout(parts.uri.query()).saturating_sub(RETURN_TIME);
    let answer = hooks::handle(admission, hook, &request, deadline).await;
    (version, request.uid, answer)
}

async fn read(body: Body) -> Result<Bytes, StatusCode> {
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::BAD_REQUEST),
    }
}

/// The API server says in the query how long it waits: `timeout=10s`.
fn timeout(query: Option<&str>) -> Duration {
    query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .find_map(|pair| pair.strip_prefix("timeout="))
        .and_then(|text| go::parse_duration(text).ok())
        .and_then(|timeout| Duration::try_from(timeout).ok())
        .filter(|timeout| !timeout.is_zero())
        .unwrap_or(DEFAULT_TIMEOUT)
}
