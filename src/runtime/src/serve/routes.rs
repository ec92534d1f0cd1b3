//! The routes that every process has: metrics and health.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse as _, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode, header};

use crate::{
    metrics::{Exposition, Form},
    telemetry::chain,
};

/// `GET /metrics` in the form that the scraper asks for.
pub fn metrics_router(exposition: Exposition) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .with_state(exposition)
}

/// The same, and on every other path too, as upstream's actions-metrics-server shows them.
pub fn metrics_everywhere(exposition: Exposition) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .fallback(get(show_metrics))
        .with_state(exposition)
}

async fn show_metrics(State(exposition): State<Exposition>, headers: HeaderMap) -> Response {
    let form = Form::negotiate(&headers);
    match exposition.encode(form) {
        Ok(text) => ([(header::CONTENT_TYPE, form.content_type())], text).into_response(),
        Err(error) => {
            tracing::error!(
                error = %chain(&error),
                "Could not encode the metrics"
            );
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// `GET /healthz`, 200 as long as the process answers, and `GET /readyz`, 200 once all gates are open and 503 with their names before.
pub fn health_router(readiness: Readiness) -> Router {
    let healthy = || async { "ok\n" };
    Router::new()
        .route("/healthz", get(healthy))
        .route("/healthz/", get(healthy))
        .route("/readyz", get(show_readiness))
        .route("/readyz/", get(show_readiness))
        .with_state(readiness)
}

async fn show_readiness(State(readiness): State<Readiness>) -> Response {
    let waiting = readiness.waiting_for();
    if waiting.is_empty() {
        "ok\n".into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("waiting for: {}\n", waiting.join(", ")),
        )
            .into_response()
    }
}

/// What must have happened before the process can do its work: a set of named gates. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, bool>>>);

impl Readiness {
    /// No gates: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a closed gate; a second one of the same name is the same gate, closed again.
    pub fn gate(&self, name: impl Into<String>) -> Gate {
        let gate = Gate {
            readiness: self.clone(),
            name: name.into(),
        };
        gate.close();
        gate
    }

    /// Names of the closed gates, sorted.
    pub fn waiting_for(&self) -> Vec<String> {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates
            .iter()
            .filter(|(_, open)| !**open)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// All gates are open.
    pub fn is_ready(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .all(|open| *open)
    }

    fn set(&self, name: &str, open: bool) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), open);
    }
}

/// One condition of readiness; stays as it is when dropped.
#[derive(Clone, Debug)]
#[must_use = "a gate that nobody opens keeps the process from becoming ready"]
pub struct Gate {
    readiness: Readiness,
    name: String,
}

impl Gate {
    /// The condition holds.
    pub fn open(&self) {
        self.readiness.set(&self.name, true);
    }

    /// The condition does not hold (any more).
    pub fn close(&self) {
        self.readiness.set(&self.name, false);
    }
}
