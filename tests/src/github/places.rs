//! Repositories, accounts and runner groups: who may serve whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::model::{JobState, JobStats, OwnerType, ScopeKey, stable_id};
use super::payload::RepositoryInfo;
use crate::agent::RunnerScope;

/// The group of runners that name none.
pub(crate) const DEFAULT_GROUP: u64 = 1;

/// A runner group besides the default one.
#[derive(Clone, Debug)]
pub struct RunnerGroupSpec {
    /// The organization or enterprise that owns it.
    pub scope: RunnerScope,
    /// Its name.
    pub name: String,
    /// `owner/name` of the repositories that may use it; `None` is all of them.
    pub repositories: Option<Vec<String>>,
}

/// A runner group as stored.
#[derive(Clone, Debug)]
pub(crate) struct RunnerGroup {
    pub(crate) id: u64,
    pub(crate) scope: ScopeKey,
    pub(crate) name: String,
    /// Folded full names; `None` is all.
    pub(crate) repositories: Option<BTreeSet<String>>,
}

/// A repository with its runs by status.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(crate) info: Arc<RepositoryInfo>,
    key: String,
    owner_key: String,
    enterprise_key: Option<String>,
    runs: BTreeMap<JobState, BTreeSet<u64>>,
    all_runs: BTreeSet<u64>,
}

impl Repository {
    /// Runs with this status (all without), newest first.
    pub(crate) fn runs(&self, status: Option<JobState>) -> impl Iterator<Item = u64> + '_ {
        let runs = match status {
            Some(status) => self.runs.get(&status),
            None => Some(&self.all_runs),
        };
        runs.into_iter().flat_map(|runs| runs.iter().rev().copied())
    }

    pub(crate) fn run_count(&self, status: Option<JobState>) -> usize {
        match status {
            Some(status) => self.runs.get(&status).map_or(0, BTreeSet::len),
            None => self.all_runs.len(),
        }
    }

    pub(crate) fn move_run(&mut self, run: u64, from: Option<JobState>, to: JobState) {
        if let Some(runs) = from.and_then(|from| self.runs.get_mut(&from)) {
            runs.remove(&run);
        }
        self.runs.entry(to).or_default().insert(run);
        self.all_runs.insert(run);
    }
}

/// A workflow run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: u64,
    pub(crate) repository: u64,
    pub(crate) number: u64,
    pub(crate) workflow: String,
    pub(crate) attempt: u32,
    /// Jobs of all attempts, oldest first.
    pub(crate) jobs: Vec<u64>,
    /// Jobs that count in the latest attempt.
    pub(crate) latest: Vec<u64>,
    /// States of `latest`.
    pub(crate) counts: JobStats,
    pub(crate) status: Option<JobState>,
    pub(crate) created_at: jiff::Timestamp,
    pub(crate) updated_at: jiff::Timestamp,
}

impl Run {
    /// What the REST API says about the run: a run with a job under way or behind it has started.
    pub(crate) fn derived_status(&self) -> JobState {
        let counts = &self.counts;
        if counts.in_progress > 0 || (counts.completed > 0 && counts.open() > 0) {
            JobState::InProgress
        } else if counts.queued > 0 {
            JobState::Queued
        } else if counts.waiting > 0 {
            JobState::Waiting
        } else {
            JobState::Completed
        }
    }
}

/// Repositories, groups, and the names behind numeric ids.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) repositories: HashMap<u64, Repository>,
    ids: HashMap<String, u64>,
    accounts: HashMap<u64, String>,
    groups: Vec<RunnerGroup>,
}

impl Places {
    /// Id of the repository; makes it when it is new.
    pub(crate) fn repository(
        &mut self,
        owner: &str,
        owner_type: OwnerType,
        name: &str,
        enterprise: Option<&str>,
    ) -> u64 {
        let key = format!("{owner}/{name}").to_lowercase();
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let info = RepositoryInfo::new(owner, owner_type, name, enterprise);
        let id = info.id;
        self.note_account(owner);
        self.ids.insert(key.clone(), id);
        let repository = Repository {
            info: Arc::new(info),
            key,
            owner_key: owner.to_lowercase(),
            enterprise_key: enterprise.map(str::to_lowercase),
            runs: BTreeMap::new(),
            all_runs: BTreeSet::new(),
        };
        self.repositories.insert(id, repository);
        id
    }

    /// Id of a repository that exists, by `owner/name`.
    pub(crate) fn repository_id(&self, full_name: &str) -> Option<u64> {
        self.ids.get(&full_name.to_lowercase()).copied()
    }

    /// `owner/name` of a repository id; ids of repositories without jobs are known once they were linked to.
    pub(crate) fn repository_name(&self, id: u64) -> Option<String> {
        let known = self
            .repositories
            .get(&id)
            .map(|repository| repository.info.full_name());
        known.or_else(|| self.accounts.get(&id).cloned())
    }

    /// Remembers which login an account's id stands for.
    pub(crate) fn note_account(&mut self, login: &str) {
        self.accounts
            .insert(stable_id("account", login), login.to_owned());
    }

    /// Remembers which `owner/name` a repository's id stands for.
    pub(crate) fn note_repository(&mut self, full_name: &str) {
        self.accounts
            .insert(stable_id("repository", full_name), full_name.to_owned());
    }

    /// Login of an account id.
    pub(crate) fn login(&self, id: u64) -> Option<&String> {
        self.accounts.get(&id)
    }

    /// May a runner of this scope and group run jobs of this repository?
    pub(crate) fn covers(&self, scope: &ScopeKey, group: u64, repository: u64) -> bool {
        let Some(repository) = self.repositories.get(&repository) else {
            return false;
        };
        let in_organization = repository.info.owner_type == OwnerType::Organization;
        match scope {
            ScopeKey::Repository(full_name) => repository.key == *full_name,
            ScopeKey::Organization(login) => {
                in_organization && repository.owner_key == *login && self.is_visible(group, &repository.key)
            }
            ScopeKey::Enterprise(slug) => {
                in_organization
                    && repository.enterprise_key.as_ref() == Some(slug)
                    && self.is_visible(group, &repository.key)
            }
        }
    }

    fn is_visible(&self, group: u64, repository_key: &str) -> bool {
        if group == DEFAULT_GROUP {
            return true;
        }
        self.groups
            .iter()
            .find(|candidate| candidate.id == group)
            .is_some_and(|group| {
                group
                    .repositories
                    .as_ref()
                    .is_none_or(|names| names.contains(repository_key))
            })
    }

    /// Adds a group; its id.
    pub(crate) fn add_group(&mut self, spec: &RunnerGroupSpec) -> u64 {
        let id = DEFAULT_GROUP + 1 + super::model::count(self.groups.len());
        self.groups.push(RunnerGroup {
            id,
            scope: ScopeKey::of(&spec.scope),
            name: spec.name.clone(),
            repositories: spec.repositories.as_ref().map(|names| fold_names(names)),
        });
        id
    }

    /// Changes who may use a group; whether there is one.
    pub(crate) fn set_group_repositories(&mut self, id: u64, repositories: Option<&[String]>) -> bool {
        let Some(group) = self.groups.iter_mut().find(|group| group.id == id) else {
            return false;
        };
        group.repositories = repositories.map(fold_names);
        true
    }

    /// The group with this name in this scope.
    pub(crate) fn group_by_name(&self, scope: &ScopeKey, name: &str) -> Option<u64> {
        if name.eq_ignore_ascii_case("default") {
            return Some(DEFAULT_GROUP);
        }
        self.groups
            .iter()
            .find(|group| group.scope == *scope && group.name.eq_ignore_ascii_case(name))
            .map(|group| group.id)
    }

    /// Name of a group.
    pub(crate) fn group_name(&self, id: u64) -> String {
        self.groups
            .iter()
            .find(|group| group.id == id)
            .map_or_else(|| "Default".to_owned(), |group| group.name.clone())
    }

    /// Groups of an organization and those it inherits from its enterprise, as (group, inherited). With a
    /// repository (name without owner), only those that it may use.
    pub(crate) fn groups_of(&self, login: &str, repository: Option<&str>) -> Vec<(RunnerGroup, bool)> {
        let login = login.to_lowercase();
        let enterprise = self
            .repositories
            .values()
            .find(|candidate| candidate.owner_key == login)
            .and_then(|repository| repository.enterprise_key.clone());
        let own = ScopeKey::Organization(login.clone());
        let inherited = enterprise.map(ScopeKey::Enterprise);
        let default = |scope: &ScopeKey| RunnerGroup {
            id: DEFAULT_GROUP,
            scope: scope.clone(),
            name: "Default".to_owned(),
            repositories: None,
        };
        let mut groups = vec![(default(&own), false)];
        groups.extend(inherited.iter().map(|scope| (default(scope), true)));
        for group in &self.groups {
            if group.scope == own || Some(&group.scope) == inherited.as_ref() {
                groups.push((group.clone(), group.scope != own));
            }
        }
        if let Some(name) = repository {
            let key = format!("{login}/{}", name.to_lowercase());
            groups.retain(|(group, _)| {
                group
                    .repositories
                    .as_ref()
                    .is_none_or(|names| names.contains(&key))
            });
        }
        groups
    }
}

fn fold_names(names: &[String]) -> BTreeSet<String> {
    names.iter().map(|name| name.to_lowercase()).collect()
}
