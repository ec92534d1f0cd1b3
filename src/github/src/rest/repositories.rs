//! Repositories by id or name: ledgers know ids, everything else on GitHub wants names (spec part 20 "Recovery").

use http::{Method, StatusCode};

use crate::{
    error::{Attempt, Error},
    events::Repository,
    observer::CallFamily,
    rest::{GitHub, RepositoryName, path},
    urls::Urls,
    wire::Freshness,
};

impl GitHub {
    /// The addresses that this client asks at.
    pub fn urls(&self) -> &Urls {
        &self.urls
    }

    /// A repository by its id, under the name that it has now; as old as GitHub's `Cache-Control` allows (a minute at most).
    ///
    /// # Errors
    /// [`Error`]; it is [`Error::NotFound`] when the repository is gone or hidden.
    pub async fn repository_by_id(&self, id: u64) -> Result<Repository, Error> {
        let attempt = Attempt::new(CallFamily::GetRepository, format!("look at repository {id}"));
        self.repository_at(&format!("/repositories/{id}"), &attempt).await
    }

    /// A repository by its name, which may be a former one.
    ///
    /// # Errors
    /// As [`Self::repository_by_id`].
    pub async fn repository(&self, repository: &RepositoryName) -> Result<Repository, Error> {
        let attempt = Attempt::new(CallFamily::GetRepository, format!("look at {repository}"));
        let path = path::of_repository(repository, &attempt)?;
        self.repository_at(&path, &attempt).await
    }

    async fn repository_at(&self, path: &str, attempt: &Attempt) -> Result<Repository, Error> {
        let work = |one: Self| async move { one.repository_as_one(path, attempt).await };
        self.with_any(path, attempt, |_| false, work).await
    }

    async fn repository_as_one(&self, path: &str, attempt: &Attempt) -> Result<Repository, Error> {
        self.bounded(attempt, async {
            let reply = self.ask(Method::GET, path, attempt, Freshness::Cached).await?;
            if reply.status != StatusCode::OK {
                return Err(self.refused(attempt, &reply));
            }
            serde_json::from_slice(&reply.body).map_err(|source| Error::malformed(attempt, source))
        })
        .await
    }
}
