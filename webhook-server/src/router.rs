//! One handler for every path: `GET` says that the server runs, `POST` is a delivery (spec 03 §1.4).

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use muster_intake::{Received, Request, receive, running};

use crate::answer::Answer;
use crate::handler::{App, handle, observe_refused};

pub use muster_intake::{BODY_LIMIT, BODY_TIMEOUT};

/// The webhook server's routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new().fallback(take).with_state(app)
}

async fn take(State(app): State<Arc<App>>, request: Request) -> Response {
    match receive(request, app.bodies()).await {
        Received::Look => running("webhook server is running\n"),
        Received::Refused { headers, refusal } => {
            let answer = Answer::from(refusal);
            observe_refused(&app, &headers, &answer);
            answer.into_response()
        }
        Received::Delivery {
            headers,
            body,
            room: _room,
            at,
        } => handle(&app, &headers, body, at).await.into_response(),
    }
}

#[cfg(test)]
mod tests;
