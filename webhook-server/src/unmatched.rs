//! The last deliveries that concerned nobody, for people who ask why nothing happened.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use muster_core::routing::{Nearest, Obstacle};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

/// Deliveries that are remembered.
const REMEMBERED: usize = 1_000;

/// Labels of a job that are remembered, and the length of each: a real job has a handful.
const LABELS: usize = 20;
const LABEL: usize = 100;

/// A delivery that concerned nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unmatched {
    /// When it was answered.
    pub at: Timestamp,
    /// Its GUID.
    pub delivery: Option<String>,
    /// What happened to the job.
    pub action: &'static str,
    /// `owner/name`.
    pub repository: String,
    /// Id of the job.
    pub job: u64,
    /// Labels that the job asks for.
    pub labels: Vec<String>,
    /// The autoscaler that came nearest, where one is of the same scope.
    pub nearest: Option<NearestText>,
}

/// An autoscaler that was not chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NearestText {
    /// `namespace/name`.
    pub autoscaler: String,
    /// What kept it, in words.
    pub obstacle: String,
    /// The label that its runners lack, if that is what kept it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_label: Option<String>,
}

impl From<&Nearest> for NearestText {
    fn from(nearest: &Nearest) -> Self {
        Self {
            autoscaler: nearest.autoscaler.id.to_string(),
            obstacle: nearest.obstacle.to_string(),
            missing_label: match &nearest.obstacle {
                Obstacle::MissingLabel(label) => Some(short(label)),
                Obstacle::NotConsidered(_) | Obstacle::GroupNotVisible => None,
            },
        }
    }
}

/// Labels as far as they are remembered.
pub fn short_labels(labels: &[String]) -> Vec<String> {
    labels.iter().take(LABELS).map(|label| short(label)).collect()
}

fn short(label: &str) -> String {
    label.chars().take(LABEL).collect()
}

/// The last deliveries that concerned nobody; clones are the same thing.
#[derive(Clone, Debug, Default)]
pub struct UnmatchedLog(Arc<Mutex<VecDeque<Unmatched>>>);

impl UnmatchedLog {
    /// Remembers one, and forgets the oldest beyond a thousand.
    pub fn push(&self, unmatched: Unmatched) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED {
            all.pop_front();
        }
        all.push_back(unmatched);
    }

    /// Newest first.
    pub fn newest_first(&self) -> Vec<Unmatched> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().rev().cloned().collect()
    }
}

/// `GET /debug/unmatched` for those who have the token, as `Authorization: Bearer <token>`.
pub fn debug_router(log: UnmatchedLog, token: SecretString) -> Router {
    Router::new()
        .route("/debug/unmatched", get(show))
        .with_state((log, Arc::new(token)))
}

async fn show(State((log, token)): State<(UnmatchedLog, Arc<SecretString>)>, headers: HeaderMap) -> Response {
    let given = headers
        .get(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes)
        .and_then(|value| value.split_at_checked(b"Bearer ".len()))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "))
        .map(|(_, given)| given)
        .unwrap_or_default();
    if verify_slices_are_equal(given, token.expose_secret().as_bytes()).is_err() {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (
            StatusCode::UNAUTHORIZED,
            challenge,
            "give the debug token as a bearer token\n",
        )
            .into_response();
    }
    Json(log.newest_first()).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt as _;
    use serde_json::Value;
    use tower::ServiceExt as _;

    use super::*;

    fn unmatched(job: u64) -> Unmatched {
        Unmatched {
            at: Timestamp::UNIX_EPOCH,
            delivery: None,
            action: "queued",
            repository: "acme/api".to_owned(),
            job,
            labels: short_labels(&["x".repeat(500)]),
            nearest: None,
        }
    }

    #[tokio::test]
    async fn the_last_thousand_are_shown_to_those_who_have_the_token() {
        let log = UnmatchedLog::default();
        (0..1_200).for_each(|job| log.push(unmatched(job)));
        let router = debug_router(log, SecretString::from("t0k3n"));
        for (authorization, status) in [
            (None, 401),
            (Some("Bearer"), 401),
            (Some("Bearer "), 401),
            (Some("Bearer t0k3"), 401),
            (Some("Bearer t0k3nn"), 401),
            (Some("Basic t0k3n"), 401),
            (Some("bearer t0k3n"), 200),
            (Some("Bearer t0k3n"), 200),
        ] {
            let mut request = Request::get("/debug/unmatched");
            if let Some(authorization) = authorization {
                request = request.header("authorization", authorization);
            }
            let answer = router
                .clone()
                .oneshot(request.body(Body::empty()).unwrap())
                .await
                .unwrap();
            assert_eq!(answer.status().as_u16(), status, "{authorization:?}");
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            if status == 200 {
                let list: Vec<Value> = serde_json::from_slice(&body).unwrap();
                assert_eq!(
                    (list.len(), &list[0]["job"], &list[999]["job"]),
                    (1_000, &1_199.into(), &200.into())
                );
                assert_eq!(list[0]["labels"][0].as_str().unwrap().len(), 100);
            } else {
                assert!(!String::from_utf8_lossy(&body).contains("acme"));
            }
        }
    }
}
