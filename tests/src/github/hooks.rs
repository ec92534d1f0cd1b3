//! Hooks and the log of their deliveries, as the delivery API shows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use super::delivery::{Delivery, HookIdentity, HookTarget};
use super::model::{OwnerType, stable_id};
use super::payload::{JobPayload, RepositoryInfo};

/// A webhook as users configure it.
#[derive(Clone)]
pub struct HookSpec {
    /// What it hangs on.
    pub target: HookTarget,
    /// `owner/name`, login or enterprise slug; the app id for a GitHub App.
    pub name: String,
    /// Where deliveries go.
    pub url: String,
    /// Signs deliveries; empty: they are not signed.
    pub secret: String,
    /// Events it wants.
    pub events: Vec<String>,
    /// Sends the JSON as form field `payload`.
    pub form: bool,
    /// `installation.id` of its payloads (a GitHub App's hook).
    pub installation: Option<u64>,
}

impl std::fmt::Debug for HookSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HookSpec")
            .field("target", &self.target)
            .field("name", &self.name)
            .field("url", &self.url)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

impl HookSpec {
    fn new(target: HookTarget, name: &str, url: &str, secret: &str) -> Self {
        Self {
            target,
            name: name.to_owned(),
            url: url.to_owned(),
            secret: secret.to_owned(),
            events: vec!["workflow_job".to_owned()],
            form: false,
            installation: None,
        }
    }

    /// The hook of a repository (`owner/name`) for `workflow_job`.
    pub fn repository(full_name: &str, url: &str, secret: &str) -> Self {
        Self::new(HookTarget::Repository, full_name, url, secret)
    }

    /// The hook of an organization for `workflow_job`.
    pub fn organization(login: &str, url: &str, secret: &str) -> Self {
        Self::new(HookTarget::Organization, login, url, secret)
    }

    /// The hook of an enterprise for `workflow_job`.
    pub fn enterprise(slug: &str, url: &str, secret: &str) -> Self {
        Self::new(HookTarget::Enterprise, slug, url, secret)
    }

    /// The hook of a GitHub App that is installed everywhere: it hears of every repository.
    pub fn app(app_id: u64, installation: u64, url: &str, secret: &str) -> Self {
        let mut spec = Self::new(HookTarget::App, &app_id.to_string(), url, secret);
        spec.installation = Some(installation);
        spec
    }

    fn target_id(&self) -> u64 {
        match self.target {
            HookTarget::Repository => stable_id("repository", &self.name),
            HookTarget::Organization => stable_id("account", &self.name),
            HookTarget::Enterprise => stable_id("enterprise", &self.name),
            HookTarget::App => self.name.parse().unwrap_or_default(),
        }
    }

    fn hears_of(&self, repository: &RepositoryInfo) -> bool {
        match self.target {
            HookTarget::App => true,
            HookTarget::Repository => repository.full_name().eq_ignore_ascii_case(&self.name),
            HookTarget::Organization => {
                repository.owner_type == OwnerType::Organization
                    && repository.owner.eq_ignore_ascii_case(&self.name)
            }
            HookTarget::Enterprise => repository
                .enterprise
                .as_ref()
                .is_some_and(|slug| slug.eq_ignore_ascii_case(&self.name)),
        }
    }
}

/// What a delivery carries; kept small, the bytes are made when they are needed.
#[derive(Debug)]
pub(crate) enum Content {
    Job {
        action: &'static str,
        job: Box<JobPayload>,
    },
    Raw {
        event: String,
        body: Bytes,
    },
}

impl Content {
    pub(crate) fn event(&self) -> &str {
        match self {
            Self::Job { .. } => "workflow_job",
            Self::Raw { event, .. } => event,
        }
    }

    pub(crate) fn action(&self) -> Option<&str> {
        match self {
            Self::Job { action, .. } => Some(action),
            Self::Raw { .. } => None,
        }
    }

    fn body(&self) -> Bytes {
        match self {
            Self::Job { action, job } => job.render(action),
            Self::Raw { body, .. } => body.clone(),
        }
    }

    fn repository_id(&self) -> Option<u64> {
        match self {
            Self::Job { job, .. } => Some(job.repository.id),
            Self::Raw { .. } => None,
        }
    }

    fn job_id(&self) -> Option<u64> {
        match self {
            Self::Job { job, .. } => Some(job.job_id),
            Self::Raw { .. } => None,
        }
    }
}

/// One attempt at a delivery, as the delivery API lists it.
#[derive(Clone, Debug, Serialize)]
pub struct DeliveryView {
    /// Id of the attempt.
    pub id: u64,
    /// `X-GitHub-Delivery`: the same for every attempt.
    pub guid: String,
    /// When the attempt began.
    pub delivered_at: Timestamp,
    /// Is it a repetition?
    pub redelivery: bool,
    /// How long the receiver took.
    pub duration: Duration,
    /// `OK`, or what went wrong.
    pub status: String,
    /// Status code of the answer; 502 and 504 stand for no answer.
    pub status_code: u16,
    /// `X-GitHub-Event`.
    pub event: String,
    /// `action` of the payload.
    pub action: Option<String>,
    /// The job it is about.
    pub job_id: Option<u64>,
    /// Repository it is about.
    pub repository_id: Option<u64>,
    /// First 4 KB of the answer's body.
    pub response: String,
}

/// An attempt as stored: what the API shows and what it takes to repeat it.
#[derive(Debug)]
pub(crate) struct DeliveryRecord {
    pub(crate) view: DeliveryView,
    pub(crate) content: Arc<Content>,
    pub(crate) url: String,
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status_code: u16,
    pub(crate) status: String,
    pub(crate) response: String,
    pub(crate) duration: Duration,
}

#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) id: u64,
    pub(crate) spec: HookSpec,
    pub(crate) active: bool,
    pub(crate) log: BTreeMap<u64, DeliveryRecord>,
}

impl Hook {
    /// What an attempt sends to this hook.
    pub(crate) fn delivery(&self, content: &Content, guid: &str) -> Delivery {
        let identity = HookIdentity {
            id: self.id,
            target: self.spec.target,
            target_id: self.spec.target_id(),
        };
        let delivery = Delivery::new(content.event(), content.body())
            .with_guid(guid)
            .from_hook(identity);
        if self.spec.form {
            delivery.form_encoded()
        } else {
            delivery
        }
    }
}

/// All hooks.
#[derive(Debug)]
pub(crate) struct Hooks {
    all: BTreeMap<u64, Hook>,
    next_hook: u64,
    next_delivery: u64,
    log_limit: usize,
}

impl Hooks {
    pub(crate) fn new(log_limit: usize) -> Self {
        Self {
            all: BTreeMap::new(),
            next_hook: 600_000_000,
            next_delivery: 190_000_000_000,
            log_limit,
        }
    }

    pub(crate) fn add(&mut self, spec: HookSpec) -> u64 {
        self.next_hook += 1;
        let id = self.next_hook;
        self.all.insert(
            id,
            Hook {
                id,
                spec,
                active: true,
                log: BTreeMap::new(),
            },
        );
        id
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Hook> {
        self.all.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Hook> {
        self.all.get_mut(&id)
    }

    /// Hooks of this kind on this repository, organization or app.
    pub(crate) fn of(&self, target: HookTarget, name: Option<&str>) -> impl Iterator<Item = &Hook> {
        let name = name.map(str::to_owned);
        self.all.values().filter(move |hook| {
            hook.spec.target == target
                && name
                    .as_ref()
                    .is_none_or(|name| hook.spec.name.eq_ignore_ascii_case(name))
        })
    }

    /// What becomes of a job's event: the content for each hook that hears of it.
    pub(crate) fn fan_out(&self, action: &'static str, job: &JobPayload) -> Vec<(u64, Arc<Content>)> {
        self.all
            .values()
            .filter(|hook| hook.active && hook.spec.hears_of(&job.repository))
            .filter(|hook| {
                hook.spec
                    .events
                    .iter()
                    .any(|event| event == "workflow_job" || event == "*")
            })
            .map(|hook| {
                let mut job = job.clone();
                job.installation = hook.spec.installation;
                (
                    hook.id,
                    Arc::new(Content::Job {
                        action,
                        job: Box::new(job),
                    }),
                )
            })
            .collect()
    }

    /// The next delivery id: they grow with the begin of the attempts.
    pub(crate) fn next_delivery(&mut self) -> u64 {
        self.next_delivery += 1;
        self.next_delivery
    }

    /// Notes how an attempt ended.
    pub(crate) fn record(&mut self, hook: u64, record: DeliveryRecord) {
        let limit = self.log_limit;
        if let Some(hook) = self.all.get_mut(&hook) {
            hook.log.insert(record.view.id, record);
            while hook.log.len() > limit {
                hook.log.pop_first();
            }
        }
    }
}

impl DeliveryRecord {
    pub(crate) fn new(
        id: u64,
        guid: &str,
        delivered_at: Timestamp,
        redelivery: bool,
        content: Arc<Content>,
        url: String,
        outcome: Outcome,
    ) -> Self {
        let view = DeliveryView {
            id,
            guid: guid.to_owned(),
            delivered_at,
            redelivery,
            duration: outcome.duration,
            status: outcome.status,
            status_code: outcome.status_code,
            event: content.event().to_owned(),
            action: content.action().map(str::to_owned),
            job_id: content.job_id(),
            repository_id: content.repository_id(),
            response: outcome.response,
        };
        Self { view, content, url }
    }
}
