//! Where octocrab's requests become ours: address, login, headers (part 92 §7).

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use octocrab::OctoBody;

use crate::{rest::ACCEPT, shared::Shared, wire::Call};

/// The bottom of octocrab's stack and the top of ours.
#[derive(Clone)]
pub(super) struct Leaf {
    /// Address of the API without its trailing slash.
    pub(super) base: Arc<str>,
    pub(super) shared: Shared,
}

/// The `Authorization` header that was sent.
#[derive(Clone)]
pub(super) struct Sent(pub(super) HeaderValue);

/// A request that did not come from this module.
#[derive(Debug, thiserror::Error)]
enum Misuse {
    #[error("a request without its call")]
    NoCall,
    #[error("a request to an address that is not relative")]
    Absolute,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl tower::Service<http::Request<OctoBody>> for Leaf {
    type Response = http::Response<reqwest::Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<OctoBody>) -> Self::Future {
        let leaf = self.clone();
        async move { leaf.send(request).await }.boxed()
    }
}

impl Leaf {
    async fn send(
        &self,
        request: http::Request<OctoBody>,
    ) -> Result<http::Response<reqwest::Body>, BoxError> {
        let (mut parts, body) = request.into_parts();
        let Some(call) = parts.extensions.remove::<Call>() else {
            return Err(Misuse::NoCall.into());
        };
        if parts.uri.authority().is_some() {
            return Err(Misuse::Absolute.into());
        }
        let path = parts
            .uri
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        parts.uri = format!("{}{path}", self.base).parse()?;
        let authorization = call.authorization(&self.shared).await?;
        parts.headers.insert(header::AUTHORIZATION, authorization.clone());
        parts.headers.insert(header::ACCEPT, ACCEPT);
        parts.headers.insert(header::USER_AGENT, self.shared.user_agent());
        if parts.method != Method::POST {
            // octocrab announces an empty body for every method; only POST has one.
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        // Whole, as the cache clones requests.
        let body = body.collect().await?.to_bytes();
        let request = reqwest::Request::try_from(http::Request::from_parts(parts, body))?;
        let credential = Arc::clone(&call.credential);
        let (mut response, source) = self.shared.exchange(request, call).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            credential.refused(&authorization).await;
        }
        response.extensions_mut().insert(source);
        response.extensions_mut().insert(Sent(authorization));
        Ok(response)
    }
}
