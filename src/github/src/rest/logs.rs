//! A job's log, which GitHub keeps elsewhere: it answers with an address that is good for a minute, for whoever has it.

use http::{Method, StatusCode, header};
use tokio::time::Instant;

use crate::{
    error::{Attempt, Error},
    observer::{CallFamily, Identity, LiveRequest, RequestOutcome},
    rest::{GitHub, RepositoryName, path, within},
    wire::Freshness,
};

impl GitHub {
    /// Hands the log of a finished job to `take`, piece by piece and `limit` bytes at most. Whether that was all of it.
    ///
    /// # Errors
    /// [`Error`]; it is [`Error::NotFound`] while there is no log, and [`Error::Rejected`] once it is too old to be kept.
    pub async fn read_job_log(
        &self,
        repository: &RepositoryName,
        job_id: u64,
        limit: u64,
        take: impl FnMut(&[u8]) + Send,
    ) -> Result<bool, Error> {
        let attempt = Attempt::new(
            CallFamily::JobLog,
            format!("find the log of job {job_id} of {repository}"),
        );
        let path = path::of_repository(repository, &attempt)? + &format!("/actions/jobs/{job_id}/logs");
        let work = |one: Self| {
            let (path, attempt) = (&path, &attempt);
            async move { one.bounded(attempt, one.log_address(path, attempt)).await }
        };
        let address = self.with_any(&path, &attempt, |_| false, work).await?;
        let attempt = Attempt::new(
            CallFamily::DownloadLog,
            format!("download the log of job {job_id} of {repository}"),
        );
        let began = Instant::now();
        let download = self.download(address, &attempt, limit, take);
        let result = within(self.shared.operation_timeout(), &attempt, download).await;
        self.shared.observer().request(&LiveRequest {
            family: CallFamily::DownloadLog,
            identity: Identity::Credential,
            outcome: match &result {
                Ok(_) => RequestOutcome::Ok,
                Err(Error::Rejected { .. }) => RequestOutcome::ClientError,
                Err(Error::Server { .. }) => RequestOutcome::ServerError,
                Err(_) => RequestOutcome::Network,
            },
            status: None,
            elapsed: began.elapsed(),
            rate_limit: None,
        });
        result
    }

    /// The address holds a signature that lets anybody read the log: it must not get into an error or a log line of ours.
    async fn log_address(&self, path: &str, attempt: &Attempt) -> Result<reqwest::Url, Error> {
        let reply = self.ask(Method::GET, path, attempt, Freshness::Uncached).await?;
        let address = reply
            .headers
            .get(header::LOCATION)
            .filter(|_| reply.status == StatusCode::FOUND)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| reqwest::Url::parse(&self.urls.api).ok()?.join(location).ok())
            .filter(|address| matches!(address.scheme(), "http" | "https"));
        address.ok_or_else(|| self.refused(attempt, &reply))
    }

    async fn download(
        &self,
        address: reqwest::Url,
        attempt: &Attempt,
        limit: u64,
        mut take: impl FnMut(&[u8]) + Send,
    ) -> Result<bool, Error> {
        let broken = |source| Error::transport(attempt.clone(), source);
        let request = self
            .shared
            .plain()
            .get(address)
            .header(header::USER_AGENT, self.shared.user_agent())
            .timeout(self.shared.operation_timeout());
        let mut response = request.send().await.map_err(broken)?;
        let status = response.status();
        if status != StatusCode::OK {
            let attempt = attempt.clone();
            let message = "where GitHub keeps its logs".to_owned();
            let status = status.as_u16();
            return Err(if status >= 500 {
                Error::Server {
                    attempt,
                    status,
                    message,
                }
            } else {
                Error::Rejected {
                    attempt,
                    status,
                    message,
                }
            });
        }
        let mut room = limit;
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if length > room {
                take(
                    chunk
                        .get(..usize::try_from(room).unwrap_or(usize::MAX))
                        .unwrap_or(&chunk),
                );
                return Ok(false);
            }
            take(&chunk);
            room -= length;
        }
        Ok(true)
    }
}
