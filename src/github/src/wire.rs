//! The layer next to the network, below the cache: asks the rate-limit guard, caps bodies, tells the observer (part 92 §6, end).

use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use reqwest::{Request, Response, ResponseBuilderExt as _};
use reqwest_middleware::{Middleware, Next};
use tokio::time::Instant;

use crate::{
    auth::{Credential, secrets_in},
    budget::{Lane, Wait, Why},
    error::{Attempt, Error, refusal},
    limits::Pass,
    observer::{Identity, LiveRequest, Observer, RequestOutcome},
    shared::{Clock, Shared},
};

/// How old an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// As old as GitHub allows, a minute at most.
    Cached,
    /// Confirmed by GitHub now, by its `ETag` if possible.
    Revalidated,
    /// Never stored.
    Uncached,
}

/// Travels with a request through the layers.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) attempt: Attempt,
    pub(crate) credential: Arc<Credential>,
    pub(crate) identity: Identity,
    pub(crate) lane: Lane,
    pub(crate) freshness: Freshness,
}

impl Call {
    /// The `Authorization` header for this call; for an installation this may exchange a JWT for a token first.
    pub(crate) async fn authorization(&self, shared: &Shared) -> Result<HeaderValue, Error> {
        match self.identity {
            Identity::Credential => self.credential.authorization(shared, &self.attempt).await,
            Identity::App => self.credential.app_authorization(shared.now(), &self.attempt),
        }
    }
}

/// What happened on the wire; left in the request's extensions, as the cache flattens errors into text and hides answers.
#[derive(Clone, Debug)]
pub(crate) enum Report {
    /// There was no complete answer.
    Failed(Error),
    /// There was one, which may be a refusal.
    Answered {
        status: StatusCode,
        refusal: Option<Error>,
    },
}

pub(crate) struct Wire {
    pub(crate) clock: Clock,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) max_body: usize,
}

#[async_trait::async_trait]
impl Middleware for Wire {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let Some(call) = extensions.get::<Call>().cloned() else {
            return next.run(request, extensions).await;
        };
        let family = call.attempt.family();
        let pass = match Pass::take(
            &call.credential,
            call.identity,
            call.lane,
            &call.attempt,
            &self.clock,
        ) {
            Ok(pass) => pass,
            Err(wait) => {
                self.observer.held_back(family);
                return Err(failed(extensions, held(call.attempt, call.lane, wait)));
            }
        };
        let secrets = request
            .headers()
            .get(header::AUTHORIZATION)
            .map(secrets_in)
            .unwrap_or_default();
        let started = Instant::now();
        let answer = match next.run(request, extensions).await {
            Ok(response) => self.read(&call.attempt, response).await,
            Err(reqwest_middleware::Error::Reqwest(source)) => {
                Err(Error::transport(call.attempt.clone(), source))
            }
            Err(other) => Err(Error::internal(call.attempt.clone(), other)),
        };
        let mut live = LiveRequest {
            family,
            identity: call.identity,
            outcome: RequestOutcome::Network,
            status: None,
            elapsed: started.elapsed(),
            rate_limit: None,
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.tell(&live);
                return Err(failed(extensions, error));
            }
        };
        let now = (self.clock)();
        let refusal = (!answer.status.is_success() && answer.status != StatusCode::NOT_MODIFIED).then(|| {
            refusal(
                &call.attempt,
                answer.status,
                &answer.headers,
                &answer.body,
                &secrets,
                now,
            )
        });
        live.rate_limit = pass.answered(answer.status, &answer.headers, refusal.as_ref());
        live.status = Some(answer.status.as_u16());
        live.outcome = outcome(answer.status, refusal.as_ref());
        self.tell(&live);
        extensions.insert(Report::Answered {
            status: answer.status,
            refusal,
        });
        answer
            .rebuild()
            .map_err(|source| failed(extensions, Error::internal(call.attempt, source)))
    }
}

impl Wire {
    fn tell(&self, live: &LiveRequest) {
        tracing::trace!(
            family = live.family.as_str(),
            outcome = live.outcome.as_str(),
            status = live.status,
            "GitHub was asked"
        );
        self.observer.request(live);
    }

    /// Reads the whole body, at most `max_body` bytes of it.
    async fn read(&self, attempt: &Attempt, mut response: Response) -> Result<Answer, Error> {
        let too_large = || Error::TooLarge {
            attempt: attempt.clone(),
            limit: self.max_body,
        };
        let fits = |length: usize| length <= self.max_body;
        if response
            .content_length()
            .is_some_and(|length| !usize::try_from(length).is_ok_and(fits))
        {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|e| Error::transport(attempt.clone(), e))?
        {
            if !fits(body.len().saturating_add(chunk.len())) {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status: response.status(),
            version: response.version(),
            url: response.url().clone(),
            headers: std::mem::take(response.headers_mut()),
            body,
        })
    }
}

struct Answer {
    status: StatusCode,
    version: http::Version,
    url: reqwest::Url,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn rebuild(self) -> Result<Response, http::Error> {
        let mut response = http::Response::builder()
            .status(self.status)
            .version(self.version)
            .url(self.url)
            .body(self.body)?;
        *response.headers_mut() = self.headers;
        Ok(Response::from(response))
    }
}

/// The error of a call that is not made now.
fn held(attempt: Attempt, lane: Lane, wait: Wait) -> Error {
    match wait.why {
        Why::Limit(limit) => Error::Throttled {
            attempt,
            limit,
            until: Some(wait.until),
        },
        Why::Hold(hold) => Error::Held {
            attempt,
            lane,
            hold,
            until: wait.until,
        },
    }
}

/// Leaves the typed error in the extensions and returns what the layers above can carry.
fn failed(extensions: &mut Extensions, error: Error) -> reqwest_middleware::Error {
    extensions.insert(Report::Failed(error.clone()));
    reqwest_middleware::Error::middleware(error)
}

fn outcome(status: StatusCode, refusal: Option<&Error>) -> RequestOutcome {
    match refusal {
        Some(Error::Throttled { .. }) => RequestOutcome::Throttled,
        _ if status == StatusCode::NOT_MODIFIED => RequestOutcome::Revalidated,
        _ if status.is_client_error() => RequestOutcome::ClientError,
        _ if status.is_server_error() => RequestOutcome::ServerError,
        _ => RequestOutcome::Ok,
    }
}
