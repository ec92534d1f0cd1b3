//! One handler for every path: `GET` says that the server runs, `POST` is a delivery (spec 03 §1.4).

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{BODY_TIMEOUT, BodyBudget, Reason, Refusal, refusal::PLAIN};

/// A request to a server of webhooks.
pub type Request = axum::extract::Request;

/// What came in.
#[derive(Debug)]
pub enum Received {
    /// Somebody looks whether the server runs.
    Look,
    /// Not a delivery.
    Refused {
        /// The request's headers.
        headers: HeaderMap,
        /// What is wrong with it.
        refusal: Refusal,
    },
    /// A delivery, not verified yet.
    Delivery {
        /// The request's headers.
        headers: HeaderMap,
        /// Its whole body.
        body: Bytes,
        /// Keeps the room of a large body until it is dropped.
        room: Option<OwnedSemaphorePermit>,
        /// When the request's head arrived.
        at: Instant,
    },
}

/// Reads a request to its end, within bounds.
pub async fn receive(request: Request, budget: &BodyBudget) -> Received {
    let at = Instant::now();
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    // Upstream's webhook server compares GET ignoring case.
    if parts.method.as_str().eq_ignore_ascii_case("GET") || parts.method == Method::HEAD {
        return Received::Look;
    }
    if parts.method != Method::POST {
        let refusal = Refusal::new(Reason::Method, "deliveries are sent with POST");
        return Received::Refused { headers, refusal };
    }
    match tokio::time::timeout_at(at + BODY_TIMEOUT, budget.read(&headers, body)).await {
        Ok(Ok((body, room))) => Received::Delivery {
            headers,
            body,
            room,
            at,
        },
        Ok(Err(refusal)) => Received::Refused { headers, refusal },
        Err(_) => Received::Refused {
            headers,
            refusal: Refusal::new(Reason::Timeout, "the body did not arrive in time"),
        },
    }
}

/// The answer to [`Received::Look`].
pub fn running(text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    let plain = HeaderValue::from_static(PLAIN);
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
