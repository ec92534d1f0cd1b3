//! The two calls of a writer: patch an autoscaler's ledger, and read it again.

use std::time::Duration;

use http::{Method, Request, header};
use kube::{Client, Resource as _};
use muster_core::routing::AutoscalerId;
use muster_crds::keys::FIELD_MANAGER;
use muster_crds::legacy::HorizontalRunnerAutoscaler;
use serde::Deserialize;
use serde_json::Value;

use crate::index::WatchedAutoscaler;
use crate::objects::Meta;

/// How long one call may take; the API server answers a patch within milliseconds, or something is wrong.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// The answer to a patch is the object's metadata only: the ledger is known, and large.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The autoscaler does not exist.
    #[error("the autoscaler {0} does not exist")]
    NotFound(AutoscalerId),
    /// A precondition did not hold, or the object is not as the patch assumes.
    #[error("the patch of {id} was refused: {message}")]
    Refused {
        /// The autoscaler.
        id: AutoscalerId,
        /// The API server's words.
        message: String,
    },
    /// The outcome is unknown.
    #[error("no answer about {0} from the API server in time")]
    Timeout(AutoscalerId),
    /// Anything else.
    #[error("could not {what} the autoscaler {id}")]
    Failed {
        /// What was attempted.
        what: &'static str,
        /// The autoscaler.
        id: AutoscalerId,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Calls about autoscalers.
#[derive(Clone)]
pub struct Autoscalers {
    client: Client,
}

impl std::fmt::Debug for Autoscalers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Autoscalers").finish_non_exhaustive()
    }
}

impl Autoscalers {
    /// Calls through this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Applies a JSON patch; returns the object's new generation.
    ///
    /// # Errors
    /// [`ApiError`]; after anything but `Refused` and `NotFound` the patch may have been applied
    /// nevertheless.
    pub async fn patch(&self, id: &AutoscalerId, operations: &[Value]) -> Result<i64, ApiError> {
        #[derive(Deserialize)]
        struct Partial {
            metadata: Meta,
        }
        let failed = |source| failed("patch", id, source);
        let body = serde_json::to_vec(operations).map_err(|error| failed(kube::Error::SerdeError(error)))?;
        let request = Request::builder()
            .method(Method::PATCH)
            .uri(format!("{}?fieldManager={FIELD_MANAGER}", path(id)))
            .header(header::CONTENT_TYPE, "application/json-patch+json")
            .header(header::ACCEPT, METADATA_ONLY)
            .body(body)
            .map_err(|error| failed(kube::Error::HttpError(error)))?;
        let partial: Partial = self.call(id, "patch", request).await?;
        Ok(partial.metadata.generation.unwrap_or(0))
    }

    /// Reads an autoscaler from the API server.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get(&self, id: &AutoscalerId) -> Result<WatchedAutoscaler, ApiError> {
        let request = Request::builder()
            .uri(path(id))
            .header(header::ACCEPT, "application/json")
            .body(Vec::new())
            .map_err(|error| failed("read", id, kube::Error::HttpError(error)))?;
        self.call(id, "read", request).await
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        id: &AutoscalerId,
        what: &'static str,
        request: Request<Vec<u8>>,
    ) -> Result<T, ApiError> {
        let call = self.client.request::<T>(request);
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Err(_) => Err(ApiError::Timeout(id.clone())),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Err(ApiError::NotFound(id.clone())),
            // 409: somebody was faster; 422: a test failed, or a path of the patch does not exist.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 409 | 422) => Err(ApiError::Refused {
                id: id.clone(),
                message: status.message.clone(),
            }),
            Ok(Err(error)) => Err(failed(what, id, error)),
        }
    }
}

fn failed(what: &'static str, id: &AutoscalerId, source: kube::Error) -> ApiError {
    ApiError::Failed {
        what,
        id: id.clone(),
        source: Box::new(source),
    }
}

fn path(id: &AutoscalerId) -> String {
    format!(
        "{}/{}",
        HorizontalRunnerAutoscaler::url_path(&(), Some(&id.namespace)),
        id.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_an_autoscaler() {
        assert_eq!(
            path(&AutoscalerId::new("ci", "linux")),
            "/apis/actions.summerwind.dev/v1alpha1/namespaces/ci/horizontalrunnerautoscalers/linux"
        );
    }
}
