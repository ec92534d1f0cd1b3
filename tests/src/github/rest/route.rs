//! What a path means. Written by hand instead of as a route table, because both bases (`/` and `/api/v3/`) and
//! the numeric paths of `Link` headers (`/organizations/1/…`) lead to the same places.

use std::collections::BTreeMap;

use axum::http::Method;

use crate::github::counters::Family;
use crate::github::delivery::HookTarget;
use crate::github::model::ScopeKey;
use crate::github::places::Places;

/// Which hook a path speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HookRef {
    pub(crate) target: HookTarget,
    pub(crate) name: Option<String>,
    pub(crate) id: Option<u64>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    RegistrationToken(ScopeKey),
    RemoveToken(ScopeKey),
    ListRunners(ScopeKey),
    GetRunner(ScopeKey, u64),
    RemoveRunner(ScopeKey, u64),
    Repository(String),
    Runs(String),
    Run(String, u64),
    RunJobs(String, u64),
    Job(String, u64),
    JobLog(String, u64),
    LogFile(u64),
    Groups(String),
    GroupRepositories(String, u64),
    Hooks(HookRef),
    Deliveries(HookRef),
    Delivery(HookRef, u64),
    Redeliver(HookRef, u64),
    InstallationToken(u64),
    RateLimit,
    Zen,
    AgentRegister,
    AgentPoll(u64),
    AgentComplete(u64),
    AgentAbandon(u64),
    AgentRemove(u64),
    Unknown,
}

impl Endpoint {
    pub(crate) fn family(&self) -> Family {
        match self {
            Self::RegistrationToken(_) => Family::RegistrationToken,
            Self::RemoveToken(_) => Family::RemoveToken,
            Self::ListRunners(_) => Family::ListRunners,
            Self::GetRunner(..) => Family::GetRunner,
            Self::RemoveRunner(..) => Family::RemoveRunner,
            Self::Repository(_) => Family::GetRepository,
            Self::Runs(_) => Family::ListRuns,
            Self::Run(..) => Family::GetRun,
            Self::RunJobs(..) => Family::ListJobs,
            Self::Job(..) => Family::GetJob,
            Self::JobLog(..) => Family::JobLog,
            Self::LogFile(_) => Family::LogFile,
            Self::Groups(_) | Self::GroupRepositories(..) => Family::RunnerGroups,
            Self::Hooks(_) => Family::Hooks,
            Self::Deliveries(_) | Self::Delivery(..) => Family::Deliveries,
            Self::Redeliver(..) => Family::Redeliver,
            Self::InstallationToken(_) => Family::InstallationToken,
            Self::RateLimit => Family::RateLimit,
            Self::Zen | Self::Unknown => Family::Other,
            Self::AgentRegister => Family::AgentRegister,
            Self::AgentPoll(_) => Family::AgentPoll,
            Self::AgentComplete(_) => Family::AgentComplete,
            Self::AgentAbandon(_) => Family::AgentAbandon,
            Self::AgentRemove(_) => Family::AgentRemove,
        }
    }

    /// The organization, enterprise or owner of the repository that is asked about.
    pub(crate) fn owner(&self) -> Option<&str> {
        match self {
            Self::RegistrationToken(scope)
            | Self::RemoveToken(scope)
            | Self::ListRunners(scope)
            | Self::GetRunner(scope, _)
            | Self::RemoveRunner(scope, _) => Some(match scope {
                ScopeKey::Repository(name) => owner_of(name),
                ScopeKey::Organization(name) | ScopeKey::Enterprise(name) => name,
            }),
            Self::Repository(name)
            | Self::Runs(name)
            | Self::Run(name, _)
            | Self::RunJobs(name, _)
            | Self::Job(name, _)
            | Self::JobLog(name, _) => Some(owner_of(name)),
            Self::Groups(login) | Self::GroupRepositories(login, _) => Some(login),
            Self::Hooks(hook)
            | Self::Deliveries(hook)
            | Self::Delivery(hook, _)
            | Self::Redeliver(hook, _) => hook.name.as_deref().map(owner_of),
            _ => None,
        }
    }

    /// Must the caller be a GitHub App?
    pub(crate) fn wants_app(&self) -> bool {
        match self {
            Self::InstallationToken(_) => true,
            Self::Hooks(hook)
            | Self::Deliveries(hook)
            | Self::Delivery(hook, _)
            | Self::Redeliver(hook, _) => hook.target == HookTarget::App,
            _ => false,
        }
    }
}

fn owner_of(full_name: &str) -> &str {
    full_name.split_once('/').map_or(full_name, |(owner, _)| owner)
}

/// A call as parsed.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) endpoint: Endpoint,
    /// `/api/v3` or nothing.
    pub(crate) base: &'static str,
    /// The path for `Link` headers, numeric where GitHub's is.
    pub(crate) link_path: String,
    pub(crate) query: BTreeMap<String, String>,
}

/// Reads a method, path and query.
pub(crate) fn parse(method: &Method, path: &str, query: &str, places: &Places) -> Call {
    let (base, rest) = match path.strip_prefix("/api/v3/") {
        Some(rest) => ("/api/v3", rest),
        None => ("", path.trim_start_matches('/')),
    };
    let mut segments: Vec<String> = rest
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(decode)
        .collect();
    resolve_numbers(&mut segments, places);
    let names: Vec<&str> = segments.iter().map(String::as_str).collect();
    let endpoint = endpoint(method, &names);
    Call {
        endpoint,
        base,
        link_path: link_path(&names),
        query: parse_query(query),
    }
}

/// Replaces `/organizations/{id}` and `/repositories/{id}` by the names they stand for.
fn resolve_numbers(segments: &mut Vec<String>, places: &Places) {
    let Some([kind, id]) = segments.first_chunk::<2>() else {
        return;
    };
    let Ok(id) = id.parse::<u64>() else { return };
    let names = match kind.as_str() {
        "organizations" => places
            .login(id)
            .map(|login| vec!["orgs".to_owned(), login.clone()]),
        "repositories" => places.repository_name(id).and_then(|name| {
            let (owner, name) = name.split_once('/')?;
            Some(vec!["repos".to_owned(), owner.to_owned(), name.to_owned()])
        }),
        _ => None,
    };
    if let Some(names) = names {
        segments.splice(..2, names);
    }
}

fn link_path(names: &[&str]) -> String {
    use crate::github::model::stable_id;
    match names {
        ["orgs", login, rest @ ..] => {
            format!(
                "/organizations/{}/{}",
                stable_id("account", login),
                rest.join("/")
            )
        }
        ["repos", owner, name, rest @ ..] => {
            let id = stable_id("repository", &format!("{owner}/{name}"));
            format!("/repositories/{id}/{}", rest.join("/"))
        }
        names => format!("/{}", names.join("/")),
    }
}

fn endpoint(method: &Method, names: &[&str]) -> Endpoint {
    let (get, post) = (method == Method::GET, method == Method::POST);
    match names {
        ["_agent", rest @ ..] => agent_endpoint(method, rest),
        ["_logs", id] if get => number(id, Endpoint::LogFile),
        ["rate_limit"] if get => Endpoint::RateLimit,
        ["zen" | "meta"] | [] if get => Endpoint::Zen,
        ["app", "installations", id, "access_tokens"] if post => number(id, Endpoint::InstallationToken),
        ["app", "hook", rest @ ..] => hook_endpoint(
            method,
            HookRef {
                target: HookTarget::App,
                name: None,
                id: None,
            },
            rest,
        ),
        ["repos", owner, name, "hooks", rest @ ..] => {
            let target = HookTarget::Repository;
            hook_list(
                method,
                HookRef {
                    target,
                    name: Some(format!("{owner}/{name}")),
                    id: None,
                },
                rest,
            )
        }
        ["orgs", login, "hooks", rest @ ..] => {
            let target = HookTarget::Organization;
            hook_list(
                method,
                HookRef {
                    target,
                    name: Some((*login).to_owned()),
                    id: None,
                },
                rest,
            )
        }
        ["repos", owner, name, "actions", "runners", rest @ ..] => runner_endpoint(
            method,
            ScopeKey::Repository(format!("{owner}/{name}").to_lowercase()),
            rest,
        ),
        ["orgs", login, "actions", "runners", rest @ ..] => {
            runner_endpoint(method, ScopeKey::Organization(login.to_lowercase()), rest)
        }
        ["enterprises", slug, "actions", "runners", rest @ ..] => {
            runner_endpoint(method, ScopeKey::Enterprise(slug.to_lowercase()), rest)
        }
        ["orgs", login, "actions", "runner-groups"] if get => Endpoint::Groups((*login).to_owned()),
        ["orgs", login, "actions", "runner-groups", id, "repositories"] if get => {
            number(id, |id| Endpoint::GroupRepositories((*login).to_owned(), id))
        }
        ["repos", owner, name] if get => Endpoint::Repository(format!("{owner}/{name}")),
        ["repos", owner, name, "actions", rest @ ..] if get => {
            let repository = format!("{owner}/{name}");
            match rest {
                ["runs"] => Endpoint::Runs(repository),
                ["runs", id] => number(id, |id| Endpoint::Run(repository, id)),
                ["runs", id, "jobs"] => number(id, |id| Endpoint::RunJobs(repository, id)),
                ["jobs", id] => number(id, |id| Endpoint::Job(repository, id)),
                ["jobs", id, "logs"] => number(id, |id| Endpoint::JobLog(repository, id)),
                _ => Endpoint::Unknown,
            }
        }
        _ => Endpoint::Unknown,
    }
}

fn runner_endpoint(method: &Method, scope: ScopeKey, rest: &[&str]) -> Endpoint {
    match (method.as_str(), rest) {
        ("POST", ["registration-token"]) => Endpoint::RegistrationToken(scope),
        ("POST", ["remove-token"]) => Endpoint::RemoveToken(scope),
        ("GET", []) => Endpoint::ListRunners(scope),
        ("GET", [id]) => number(id, |id| Endpoint::GetRunner(scope, id)),
        ("DELETE", [id]) => number(id, |id| Endpoint::RemoveRunner(scope, id)),
        _ => Endpoint::Unknown,
    }
}

fn hook_list(method: &Method, mut hook: HookRef, rest: &[&str]) -> Endpoint {
    match rest {
        [] if method == Method::GET => Endpoint::Hooks(hook),
        [id, rest @ ..] => match id.parse() {
            Ok(id) => {
                hook.id = Some(id);
                hook_endpoint(method, hook, rest)
            }
            Err(_) => Endpoint::Unknown,
        },
        _ => Endpoint::Unknown,
    }
}

fn hook_endpoint(method: &Method, hook: HookRef, rest: &[&str]) -> Endpoint {
    match (method.as_str(), rest) {
        ("GET", [] | ["config"]) => Endpoint::Hooks(hook),
        ("GET", ["deliveries"]) => Endpoint::Deliveries(hook),
        ("GET", ["deliveries", id]) => number(id, |id| Endpoint::Delivery(hook, id)),
        ("POST", ["deliveries", id, "attempts"]) => number(id, |id| Endpoint::Redeliver(hook, id)),
        _ => Endpoint::Unknown,
    }
}

fn agent_endpoint(method: &Method, rest: &[&str]) -> Endpoint {
    match (method.as_str(), rest) {
        ("POST", ["register"]) => Endpoint::AgentRegister,
        ("GET", ["runners", id, "job"]) => number(id, Endpoint::AgentPoll),
        ("POST", ["runners", id, "complete"]) => number(id, Endpoint::AgentComplete),
        ("POST", ["runners", id, "abandon"]) => number(id, Endpoint::AgentAbandon),
        ("DELETE", ["runners", id]) => number(id, Endpoint::AgentRemove),
        _ => Endpoint::Unknown,
    }
}

fn number(text: &str, endpoint: impl FnOnce(u64) -> Endpoint) -> Endpoint {
    text.parse().map_or(Endpoint::Unknown, endpoint)
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(&value.replace('+', " ")))
        })
        .collect()
}

/// Undoes percent encoding; what is not valid stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail.first_chunk::<2>()) {
            (b'%', Some(digits)) => std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = tail
            .get(if escaped.is_some() { 2 } else { 0 }..)
            .unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
