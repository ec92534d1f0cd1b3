//! One handler for every path: `GET` says that the server runs, `POST` is a delivery (spec 03 §1.4).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::BodyExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::answer::{Answer, Outcome};
use crate::handler::{App, handle, observe_refused};

/// GitHub sends no more than 25 MB.
pub const BODY_LIMIT: usize = 25 << 20;

/// Time for a delivery's body to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Bodies up to this size need no room in the budget; deliveries about jobs are a third of it.
const SMALL_BODY: usize = 32 << 10;

const RUNNING: &str = "webhook server is running\n";

/// The webhook server's routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new().fallback(receive).with_state(app)
}

async fn receive(State(app): State<Arc<App>>, request: Request) -> Response {
    let received = Instant::now();
    let (parts, body) = request.into_parts();
    // Upstream compares GET ignoring case.
    if parts.method.as_str().eq_ignore_ascii_case("GET") || parts.method == Method::HEAD {
        let mut response = Response::new(Body::from(RUNNING));
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        return response;
    }
    if parts.method != Method::POST {
        let answer = Answer::new(Outcome::Method, "deliveries are sent with POST");
        observe_refused(&app, &parts.headers, &answer);
        return answer.into_response();
    }
    let read = tokio::time::timeout_at(received + BODY_TIMEOUT, read_body(&app, &parts.headers, body)).await;
    let answer = match read {
        Ok(Ok((body, _room))) => handle(&app, &parts.headers, body, received).await,
        Ok(Err(answer)) => {
            observe_refused(&app, &parts.headers, &answer);
            answer
        }
        Err(_) => {
            let answer = Answer::new(Outcome::Timeout, "the body did not arrive in time");
            observe_refused(&app, &parts.headers, &answer);
            answer
        }
    };
    answer.into_response()
}

/// Reads a body of at most [`BODY_LIMIT`]. Large ones, whose sender is not known yet to have the secret,
/// share a budget.
async fn read_body(
    app: &App,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Answer> {
    let too_large = || {
        Answer::new(
            Outcome::TooLarge,
            "the body is larger than 25 MB, which GitHub never sends",
        )
    };
    let broken = || Answer::new(Outcome::Malformed, "the body could not be read to its end");
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > BODY_LIMIT) {
        return Err(too_large());
    }
    let mut room = None;
    let mut first: Option<Bytes> = None;
    let mut joined: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| broken())?.into_data() else {
            continue;
        };
        let length =
            first.as_ref().map_or(0, Bytes::len) + joined.as_ref().map_or(0, BytesMut::len) + data.len();
        if length > BODY_LIMIT {
            return Err(too_large());
        }
        if length > SMALL_BODY && room.is_none() {
            room = Some(app.room(announced.unwrap_or(BODY_LIMIT)).await?);
        }
        // Most deliveries arrive in one piece and need no copy.
        match (&mut joined, first.take()) {
            (Some(joined), _) => joined.extend_from_slice(&data),
            (None, None) => first = Some(data),
            (None, Some(head)) => {
                let mut both = BytesMut::with_capacity(announced.unwrap_or(length).max(length));
                both.extend_from_slice(&head);
                both.extend_from_slice(&data);
                joined = Some(both);
            }
        }
    }
    let body = joined.map(BytesMut::freeze).or(first).unwrap_or_default();
    if announced.is_some_and(|length| length != body.len()) {
        return Err(broken());
    }
    Ok((body, room))
}

#[cfg(test)]
mod tests;
