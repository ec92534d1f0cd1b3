//! The runner groups of an organization that a repository may use (spec 03 §1.9).

use std::sync::Arc;

use serde::Deserialize;

use crate::{
    cache::Shelf,
    error::{Attempt, Error},
    lenient,
    observer::CallFamily,
    rest::{
        GitHub,
        listing::{Item, Listing, Listings},
        path,
    },
    wire::Freshness,
};

/// A group of runners.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RunnerGroup {
    /// GitHub's id of the group.
    pub id: u64,
    /// Its name.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub name: String,
    /// Whether it is the group for runners that name none.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub default: bool,
    /// Whether it is the enterprise's and only lent to the organization.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub inherited: bool,
    /// `all`, `selected` or `private`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub visibility: String,
}

#[derive(Deserialize)]
struct GroupsPage {
    runner_groups: Vec<RunnerGroup>,
}

impl Item for RunnerGroup {
    /// The enterprise numbers its groups itself.
    type Key = (u64, bool);

    fn key(&self) -> (u64, bool) {
        (self.id, self.inherited)
    }

    fn shelf(listings: &Listings) -> &Shelf<Listing<Self>> {
        &listings.groups
    }

    fn on_page(body: &[u8]) -> serde_json::Result<Vec<Self>> {
        serde_json::from_slice(body).map(|page: GroupsPage| page.runner_groups)
    }
}

impl GitHub {
    /// The groups of the organization, and of its enterprise, that `repository` (its name without the owner) may use; in GitHub's
    /// order, as old as its `Cache-Control` allows (a minute at most). Callers at the same time cause one call.
    ///
    /// # Errors
    /// [`Error`]. It takes the organization permission "Self-hosted runners: read", and GitHub Enterprise Server 3.6.
    pub async fn visible_runner_groups(
        &self,
        organization: &str,
        repository: &str,
    ) -> Result<Arc<Vec<RunnerGroup>>, Error> {
        let attempt = Attempt::new(
            CallFamily::RunnerGroups,
            format!("list the runner groups of {organization} that {repository} may use"),
        );
        let organization = path::of(&["orgs", organization], &attempt)?;
        let repository = path::escaped(repository);
        // With nothing behind the equals sign GitHub would list the groups of every repository.
        if repository.is_empty() {
            return Err(Error::Scope {
                attempt,
                name: repository,
            });
        }
        let path = format!("{organization}/actions/runner-groups?visible_to_repository={repository}");
        self.list(&path, &attempt, Freshness::Cached).await
    }
}
