//! `workflow_job` payloads of the size and shape that github.com sends (8 to 9 KB), rendered from a compact
//! description: the big parts about repository, organization and sender are rendered once per repository.

use std::fmt::Write as _;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::model::{OwnerType, RunnerRef, stable_id};

/// A repository as payloads and API answers describe it; ids follow from the names.
#[derive(Clone, Debug)]
pub struct RepositoryInfo {
    /// `repository.id`.
    pub id: u64,
    /// Login of the owner.
    pub owner: String,
    /// `repository.owner.id`.
    pub owner_id: u64,
    /// Kind of owner.
    pub owner_type: OwnerType,
    /// Name without the owner.
    pub name: String,
    /// Slug of the enterprise, if any.
    pub enterprise: Option<String>,
    /// The members `repository`, `organization`, `enterprise` and `sender` as JSON text, comma separated.
    context: String,
}

impl RepositoryInfo {
    /// Describes `owner/name`.
    pub fn new(owner: &str, owner_type: OwnerType, name: &str, enterprise: Option<&str>) -> Self {
        let id = stable_id("repository", &format!("{owner}/{name}"));
        let owner_id = stable_id("account", owner);
        let mut info = Self {
            id,
            owner: owner.to_owned(),
            owner_id,
            owner_type,
            name: name.to_owned(),
            enterprise: enterprise.map(str::to_owned),
            context: String::new(),
        };
        info.context = info.render_context();
        info
    }

    /// `owner/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The repository as JSON, as in webhooks and API answers.
    pub fn to_json(&self) -> Value {
        let full_name = self.full_name();
        let api = format!("https://api.github.com/repos/{full_name}");
        let html = format!("https://github.com/{full_name}");
        let mut repository = json!({
            "id": self.id,
            "node_id": node_id("R", self.id),
            "name": self.name,
            "full_name": full_name,
            "private": true,
            "owner": account(&self.owner, self.owner_id, self.owner_type.as_str()),
            "html_url": html,
            "description": REPOSITORY_DESCRIPTION,
            "fork": false,
            "url": api,
            "created_at": "2024-02-05T09:11:52Z",
            "updated_at": "2026-11-20T17:43:30Z",
            "pushed_at": "2026-11-20T17:43:26Z",
            "git_url": format!("git://github.com/{full_name}.git"),
            "ssh_url": format!("git@github.com:{full_name}.git"),
            "clone_url": format!("{html}.git"),
            "svn_url": html,
            "default_branch": "main",
            "visibility": "private",
            "language": "Rust",
            "topics": ["api", "backend", "grpc", "kubernetes", "microservice", "payments", "rust", "service"],
            "custom_properties": {
                "business-unit": "payments",
                "compliance": ["pci-dss", "soc2"],
                "criticality": "tier-1",
                "data-classification": "confidential",
                "on-call-rotation": "payments-platform-primary",
                "owning-team": "payments-platform"
            }
        });
        let Some(members) = repository.as_object_mut() else {
            return repository;
        };
        for (name, path) in REPOSITORY_LINKS {
            members.insert((*name).to_owned(), Value::String(format!("{api}{path}")));
        }
        for (name, number) in REPOSITORY_NUMBERS {
            members.insert((*name).to_owned(), Value::from(*number));
        }
        for (name, flag) in REPOSITORY_FLAGS {
            members.insert((*name).to_owned(), Value::from(*flag));
        }
        for name in ["homepage", "mirror_url", "license"] {
            members.insert(name.to_owned(), Value::Null);
        }
        repository
    }

    fn render_context(&self) -> String {
        let mut context = format!("\"repository\":{}", self.to_json());
        if self.owner_type == OwnerType::Organization {
            let api = format!("https://api.github.com/orgs/{}", self.owner);
            let organization = json!({
                "login": self.owner,
                "id": self.owner_id,
                "node_id": node_id("O", self.owner_id),
                "url": api,
                "repos_url": format!("{api}/repos"),
                "events_url": format!("{api}/events"),
                "hooks_url": format!("{api}/hooks"),
                "issues_url": format!("{api}/issues"),
                "members_url": format!("{api}/members{{/member}}"),
                "public_members_url": format!("{api}/public_members{{/member}}"),
                "avatar_url": format!("https://avatars.githubusercontent.com/u/{}?v=4", self.owner_id),
                "description": "Everything that moves money: services, libraries, tools and their infrastructure"
            });
            push_member(&mut context, "organization", &organization);
        }
        if let Some(slug) = &self.enterprise {
            let id = stable_id("enterprise", slug);
            let enterprise = json!({
                "id": id,
                "slug": slug,
                "name": slug,
                "node_id": node_id("E", id),
                "avatar_url": format!("https://avatars.githubusercontent.com/b/{id}?v=4"),
                "description": null,
                "website_url": null,
                "html_url": format!("https://github.com/enterprises/{slug}"),
                "created_at": "2023-05-02T08:30:00Z",
                "updated_at": "2026-01-12T10:15:21Z"
            });
            push_member(&mut context, "enterprise", &enterprise);
        }
        let sender = account("octo-dev", stable_id("account", "octo-dev"), "User");
        push_member(&mut context, "sender", &sender);
        context
    }
}

/// Links below the API address of a repository that every payload carries.
const REPOSITORY_LINKS: &[(&str, &str)] = &[
    ("forks_url", "/forks"),
    ("keys_url", "/keys{/key_id}"),
    ("collaborators_url", "/collaborators{/collaborator}"),
    ("teams_url", "/teams"),
    ("hooks_url", "/hooks"),
    ("issue_events_url", "/issues/events{/number}"),
    ("events_url", "/events"),
    ("assignees_url", "/assignees{/user}"),
    ("branches_url", "/branches{/branch}"),
    ("tags_url", "/tags"),
    ("blobs_url", "/git/blobs{/sha}"),
    ("git_tags_url", "/git/tags{/sha}"),
    ("git_refs_url", "/git/refs{/sha}"),
    ("trees_url", "/git/trees{/sha}"),
    ("statuses_url", "/statuses/{sha}"),
    ("languages_url", "/languages"),
    ("stargazers_url", "/stargazers"),
    ("contributors_url", "/contributors"),
    ("subscribers_url", "/subscribers"),
    ("subscription_url", "/subscription"),
    ("commits_url", "/commits{/sha}"),
    ("git_commits_url", "/git/commits{/sha}"),
    ("comments_url", "/comments{/number}"),
    ("issue_comment_url", "/issues/comments{/number}"),
    ("contents_url", "/contents/{+path}"),
    ("compare_url", "/compare/{base}...{head}"),
    ("merges_url", "/merges"),
    ("archive_url", "/{archive_format}{/ref}"),
    ("downloads_url", "/downloads"),
    ("issues_url", "/issues{/number}"),
    ("pulls_url", "/pulls{/number}"),
    ("milestones_url", "/milestones{/number}"),
    ("notifications_url", "/notifications{?since,all,participating}"),
    ("labels_url", "/labels{/name}"),
    ("releases_url", "/releases{/id}"),
    ("deployments_url", "/deployments"),
];

const REPOSITORY_DESCRIPTION: &str = "Public API of the platform: accepts orders, talks to the payment providers, \
    keeps the ledger and tells everybody who needs to know. Built and released from the main branch several \
    times a day; see the docs folder for how to run it on your own machine, and the wiki of the organization \
    for who is on call.";

const REPOSITORY_NUMBERS: &[(&str, u64)] = &[
    ("size", 48_213),
    ("stargazers_count", 12),
    ("watchers_count", 12),
    ("forks_count", 3),
    ("open_issues_count", 21),
    ("forks", 3),
    ("open_issues", 21),
    ("watchers", 12),
];

const REPOSITORY_FLAGS: &[(&str, bool)] = &[
    ("has_issues", true),
    ("has_projects", true),
    ("has_downloads", true),
    ("has_wiki", false),
    ("has_pages", false),
    ("has_discussions", false),
    ("archived", false),
    ("disabled", false),
    ("allow_forking", false),
    ("is_template", false),
    ("web_commit_signoff_required", false),
];

fn push_member(context: &mut String, name: &str, value: &Value) {
    // Writing to a String cannot fail.
    let _infallible = write!(context, ",\"{name}\":{value}");
}

fn account(login: &str, id: u64, kind: &str) -> Value {
    let api = format!("https://api.github.com/users/{login}");
    json!({
        "login": login,
        "id": id,
        "node_id": node_id("U", id),
        "avatar_url": format!("https://avatars.githubusercontent.com/u/{id}?v=4"),
        "gravatar_id": "",
        "url": api,
        "html_url": format!("https://github.com/{login}"),
        "followers_url": format!("{api}/followers"),
        "following_url": format!("{api}/following{{/other_user}}"),
        "gists_url": format!("{api}/gists{{/gist_id}}"),
        "starred_url": format!("{api}/starred{{/owner}}{{/repo}}"),
        "subscriptions_url": format!("{api}/subscriptions"),
        "organizations_url": format!("{api}/orgs"),
        "repos_url": format!("{api}/repos"),
        "events_url": format!("{api}/events{{/privacy}}"),
        "received_events_url": format!("{api}/received_events"),
        "type": kind,
        "user_view_type": "public",
        "site_admin": false
    })
}

fn node_id(kind: &str, id: u64) -> String {
    format!("{kind}_kgDO{id:010}")
}

/// Everything that a `workflow_job` payload says about a job.
#[derive(Clone, Debug)]
pub struct JobPayload {
    /// The repository the job belongs to.
    pub repository: std::sync::Arc<RepositoryInfo>,
    /// `workflow_job.id`.
    pub job_id: u64,
    /// `workflow_job.run_id`.
    pub run_id: u64,
    /// `workflow_job.run_attempt`, from 1.
    pub run_attempt: u32,
    /// `workflow_job.workflow_name`.
    pub workflow: String,
    /// `workflow_job.name`.
    pub name: String,
    /// `workflow_job.labels`.
    pub labels: Vec<String>,
    /// `workflow_job.conclusion`.
    pub conclusion: Option<String>,
    /// `workflow_job.runner_*`.
    pub runner: Option<RunnerRef>,
    /// `workflow_job.created_at`; payloads carry whole seconds.
    pub created_at: Timestamp,
    /// `workflow_job.started_at`; `None` repeats `created_at`, as GitHub does for a job without a runner.
    pub started_at: Option<Timestamp>,
    /// `workflow_job.completed_at`.
    pub completed_at: Option<Timestamp>,
    /// `installation.id`, for deliveries of a GitHub App.
    pub installation: Option<u64>,
}

impl JobPayload {
    /// A job with this id in a repository, without a runner.
    pub fn new(
        repository: std::sync::Arc<RepositoryInfo>,
        job_id: u64,
        labels: Vec<String>,
        now: Timestamp,
    ) -> Self {
        Self {
            repository,
            job_id,
            run_id: job_id / 2,
            run_attempt: 1,
            workflow: "ci".to_owned(),
            name: format!("job-{job_id}"),
            labels,
            conclusion: None,
            runner: None,
            created_at: now,
            started_at: None,
            completed_at: None,
            installation: None,
        }
    }

    /// The request body for this `action` (`queued`, `waiting`, `in_progress`, `completed`; anything else is
    /// written as it is). The same description always gives the same bytes.
    pub fn render(&self, action: &str) -> Bytes {
        let repository = &self.repository;
        let full_name = repository.full_name();
        let api = format!("https://api.github.com/repos/{full_name}");
        let html = format!("https://github.com/{full_name}/actions/runs/{}", self.run_id);
        let sha = format!("{:040x}", u128::from(self.run_id) * 0x9e37_79b9_7f4a_7c15);
        let started_at = self.started_at.unwrap_or(self.created_at);
        let job = json!({
            "id": self.job_id,
            "run_id": self.run_id,
            "workflow_name": self.workflow,
            "head_branch": "main",
            "run_url": format!("{api}/actions/runs/{}", self.run_id),
            "run_attempt": self.run_attempt,
            "node_id": node_id("CR", self.job_id),
            "head_sha": sha,
            "url": format!("{api}/actions/jobs/{}", self.job_id),
            "html_url": format!("{html}/job/{}", self.job_id),
            "status": action,
            "conclusion": self.conclusion,
            "created_at": seconds(self.created_at),
            "started_at": seconds(started_at),
            "completed_at": self.completed_at.map(seconds),
            "name": self.name,
            "steps": self.steps(action, started_at),
            "check_run_url": format!("{api}/check-runs/{}", self.job_id),
            "labels": self.labels,
            "runner_id": self.runner.as_ref().map(|runner| runner.id),
            "runner_name": self.runner.as_ref().map(|runner| runner.name.as_str()),
            "runner_group_id": self.runner.as_ref().map(|runner| runner.group_id),
            "runner_group_name": self.runner.as_ref().map(|runner| runner.group_name.as_str())
        });
        let mut body = String::with_capacity(9 * 1024);
        // Writing to a String cannot fail.
        let _infallible = write!(
            body,
            "{{\"action\":{},\"workflow_job\":{job},{}",
            json!(action),
            repository.context
        );
        if let Some(id) = self.installation {
            let _infallible = write!(
                body,
                ",\"installation\":{{\"id\":{id},\"node_id\":\"{}\"}}",
                node_id("I", id)
            );
        }
        body.push('}');
        Bytes::from(body)
    }

    fn steps(&self, action: &str, started_at: Timestamp) -> Vec<Value> {
        let names: &[&str] = match action {
            "in_progress" => &["Set up job"],
            "completed" if self.runner.is_some() => &[
                "Set up job",
                "Run actions/checkout@v5",
                "Build",
                "Test",
                "Complete job",
            ],
            _ => &[],
        };
        (1_u64..)
            .zip(names)
            .map(|(number, name)| {
                // What fails is the test; what stands around it is GitHub's own.
                let conclusion = match self.conclusion.as_deref() {
                    Some("failure") if *name != "Test" => Some("success"),
                    other => other,
                };
                json!({
                    "name": name,
                    "status": action,
                    "conclusion": conclusion,
                    "number": number,
                    "started_at": seconds(started_at),
                    "completed_at": self.completed_at.map(seconds)
                })
            })
            .collect()
    }
}

/// A time as GitHub writes it: UTC, whole seconds.
pub(crate) fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as GitHub writes the end of a registration token's life: milliseconds and an offset, not UTC.
pub(crate) fn with_offset(at: Timestamp) -> String {
    let shifted = at.checked_sub(SignedDuration::from_hours(8)).unwrap_or(at);
    format!("{}-08:00", shifted.strftime("%Y-%m-%dT%H:%M:%S%.3f"))
}
