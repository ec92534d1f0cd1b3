//! Answers of the REST API: runners, tokens, runs and jobs, groups.

use std::sync::Arc;

use axum::http::StatusCode;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::reply::{Page, Reply};
use super::route::Endpoint;
use super::{Ask, hook_api};
use crate::github::auth::Caller;
use crate::github::lock;
use crate::github::model::{JobState, JobView, ScopeKey, count};
use crate::github::payload::{seconds, with_offset};
use crate::github::places::Run;
use crate::github::server::Core;
use crate::github::world::{Removal, Runner, World};

pub(crate) fn answer(core: &Arc<Core>, ask: &Ask<'_>) -> Reply {
    note_names(core, &ask.call.endpoint);
    match &ask.call.endpoint {
        Endpoint::RegistrationToken(scope) => registration_token(core, ask, scope, true),
        Endpoint::RemoveToken(scope) => registration_token(core, ask, scope, false),
        Endpoint::ListRunners(scope) => list_runners(core, ask, scope),
        Endpoint::GetRunner(scope, id) => {
            let world = lock(&core.world);
            world.runner(scope, *id).map_or_else(Reply::not_found, |runner| {
                Reply::ok(&runner_json(runner, &world, Instant::now()))
            })
        }
        Endpoint::RemoveRunner(scope, id) => removal(&core.change(|world| world.remove(scope, *id))),
        Endpoint::Repository(repository) => {
            let places = &lock(&core.world).places;
            let found = places
                .repository_id(repository)
                .and_then(|id| places.repositories.get(&id));
            found.map_or_else(Reply::not_found, |found| Reply::ok(&found.info.to_json()))
        }
        Endpoint::Runs(repository) => list_runs(core, ask, repository),
        Endpoint::Run(repository, id) => {
            let world = lock(&core.world);
            find_run(&world, repository, *id)
                .map_or_else(Reply::not_found, |run| Reply::ok(&run_json(run, &world)))
        }
        Endpoint::RunJobs(repository, id) => list_jobs(core, ask, repository, *id),
        Endpoint::Job(repository, id) => {
            let world = lock(&core.world);
            world
                .job(*id)
                .filter(|job| job.repository.eq_ignore_ascii_case(repository))
                .map_or_else(Reply::not_found, |job| Reply::ok(&job_json(&job)))
        }
        Endpoint::JobLog(repository, id) => job_log(core, ask, repository, *id),
        Endpoint::LogFile(id) => log_file(core, ask, *id),
        Endpoint::Groups(login) => groups(core, ask, login),
        Endpoint::GroupRepositories(login, id) => group_repositories(core, ask, login, *id),
        Endpoint::Hooks(hook) => hook_api::hooks(core, ask, hook),
        Endpoint::Deliveries(hook) => hook_api::deliveries(core, ask, hook),
        Endpoint::Delivery(hook, id) => hook_api::delivery(core, hook, *id),
        Endpoint::Redeliver(hook, id) => hook_api::redeliver(core, hook, *id),
        Endpoint::InstallationToken(id) => installation_token(core, ask, *id),
        Endpoint::RateLimit => rate_limit(core, ask),
        Endpoint::Zen
        | Endpoint::AgentRegister
        | Endpoint::AgentPoll(_)
        | Endpoint::AgentComplete(_)
        | Endpoint::AgentAbandon(_)
        | Endpoint::AgentRemove(_)
        | Endpoint::Unknown => Reply::not_found(),
    }
}

/// Numeric paths in `Link` headers must lead back: remembers which names the ids stand for.
fn note_names(core: &Core, endpoint: &Endpoint) {
    let scope = match endpoint {
        Endpoint::ListRunners(scope) => scope.clone(),
        Endpoint::Groups(login) | Endpoint::GroupRepositories(login, _) => {
            ScopeKey::Organization(login.clone())
        }
        Endpoint::Runs(repository) | Endpoint::RunJobs(repository, _) => {
            ScopeKey::Repository(repository.clone())
        }
        Endpoint::Deliveries(hook) => match (&hook.name, hook.target) {
            (Some(name), crate::github::HookTarget::Repository) => ScopeKey::Repository(name.clone()),
            (Some(name), crate::github::HookTarget::Organization) => ScopeKey::Organization(name.clone()),
            _ => return,
        },
        _ => return,
    };
    let places = &mut lock(&core.world).places;
    match scope {
        ScopeKey::Repository(full_name) => places.note_repository(&full_name),
        ScopeKey::Organization(login) => places.note_account(&login),
        ScopeKey::Enterprise(_) => {}
    }
}

fn registration_token(core: &Core, ask: &Ask<'_>, scope: &ScopeKey, register: bool) -> Reply {
    let token = format!("A{}", core.secret(28).to_uppercase());
    let lifetime = core.options.registration_token_lifetime;
    let expires_at = ask.now.checked_add(lifetime).unwrap_or(ask.now);
    // Runners may be removed with either kind; only one kind registers.
    if register {
        lock(&core.world).add_token(token.clone(), scope.clone(), ask.now, lifetime);
    }
    Reply::json(
        StatusCode::CREATED,
        &json!({"token": token, "expires_at": with_offset(expires_at)}),
    )
}

fn list_runners(core: &Core, ask: &Ask<'_>, scope: &ScopeKey) -> Reply {
    let page = Page::of(&ask.call.query);
    let at = Instant::now();
    let world = lock(&core.world);
    let (total, runners) = world.runners_of(scope, ask.call.query.get("name").map(String::as_str));
    let listed: Vec<Value> = page
        .cut(runners.into_iter())
        .map(|runner| runner_json(runner, &world, at))
        .collect();
    drop(world);
    paged(
        ask,
        page,
        total,
        &json!({"total_count": total, "runners": listed}),
    )
}

fn paged(ask: &Ask<'_>, page: Page, total: usize, body: &Value) -> Reply {
    let reply = Reply::ok(body);
    match page.link(ask.call, ask.host, total) {
        Some(link) => reply.with("link", link),
        None => reply,
    }
}

fn runner_json(runner: &Runner, world: &World, at: Instant) -> Value {
    let labels: Vec<Value> = (1_u64..)
        .zip(&runner.labels)
        .map(|(number, label)| {
            let system = crate::agent::SYSTEM_LABELS
                .iter()
                .any(|name| name.eq_ignore_ascii_case(label));
            json!({"id": number, "name": label, "type": if system { "read-only" } else { "custom" }})
        })
        .collect();
    let online = runner.is_online(at, world.rules.offline_after);
    json!({
        "id": runner.id,
        "runner_group_id": runner.group,
        "name": runner.name,
        "os": "linux",
        "status": if online { "online" } else { "offline" },
        "busy": runner.is_busy(),
        "ephemeral": runner.ephemeral,
        "labels": labels
    })
}

/// The answer to a removal; also the runners' side gives it.
pub(crate) fn removal(removal: &Removal) -> Reply {
    match removal {
        Removal::Done => Reply::empty(StatusCode::NO_CONTENT),
        Removal::NotFound => Reply::not_found(),
        Removal::Busy { name } => {
            let message = format!("Bad request - Runner \"{name}\" is still running a job\"");
            let page = "rest/actions/self-hosted-runners#delete-a-self-hosted-runner-from-a-repository";
            Reply::error(StatusCode::UNPROCESSABLE_ENTITY, &message, page)
        }
    }
}

fn find_run<'a>(world: &'a World, repository: &str, id: u64) -> Option<&'a Run> {
    let repository = world.places.repository_id(repository)?;
    world.runs.get(&id).filter(|run| run.repository == repository)
}

fn list_runs(core: &Core, ask: &Ask<'_>, repository: &str) -> Reply {
    let page = Page::of(&ask.call.query);
    let status = match ask.call.query.get("status").map(String::as_str) {
        None => None,
        Some("queued") => Some(JobState::Queued),
        Some("waiting") => Some(JobState::Waiting),
        Some("in_progress") => Some(JobState::InProgress),
        Some("completed") => Some(JobState::Completed),
        Some(_) => return paged(ask, page, 0, &json!({"total_count": 0, "workflow_runs": []})),
    };
    let world = lock(&core.world);
    let found = world
        .places
        .repository_id(repository)
        .and_then(|id| world.places.repositories.get(&id));
    let Some(found) = found else {
        return paged(ask, page, 0, &json!({"total_count": 0, "workflow_runs": []}));
    };
    let total = found.run_count(status);
    let runs: Vec<Value> = page
        .cut(found.runs(status))
        .filter_map(|id| world.runs.get(&id))
        .map(|run| run_json(run, &world))
        .collect();
    drop(world);
    paged(
        ask,
        page,
        total,
        &json!({"total_count": total, "workflow_runs": runs}),
    )
}

fn run_json(run: &Run, world: &World) -> Value {
    let full_name = world.places.repository_name(run.repository).unwrap_or_default();
    let status = run.derived_status();
    let conclusion = (status == JobState::Completed).then(|| {
        let mut conclusions = run
            .latest
            .iter()
            .filter_map(|id| world.job(*id))
            .filter_map(|job| job.conclusion);
        conclusions
            .find(|conclusion| !matches!(conclusion.as_str(), "success" | "skipped" | "neutral"))
            .unwrap_or_else(|| "success".to_owned())
    });
    let api = format!("https://api.github.com/repos/{full_name}/actions/runs/{}", run.id);
    json!({
        "id": run.id,
        "name": run.workflow,
        "head_branch": "main",
        "run_number": run.number,
        "run_attempt": run.attempt,
        "event": "push",
        "status": status.as_str(),
        "conclusion": conclusion,
        "url": api,
        "html_url": format!("https://github.com/{full_name}/actions/runs/{}", run.id),
        "jobs_url": format!("{api}/jobs"),
        "created_at": seconds(run.created_at),
        "updated_at": seconds(run.updated_at),
        "run_started_at": seconds(run.created_at),
        "repository": {"id": run.repository, "full_name": full_name}
    })
}

fn list_jobs(core: &Core, ask: &Ask<'_>, repository: &str, id: u64) -> Reply {
    let page = Page::of(&ask.call.query);
    let world = lock(&core.world);
    let Some(run) = find_run(&world, repository, id) else {
        return Reply::not_found();
    };
    let all = ask.call.query.get("filter").is_some_and(|filter| filter == "all");
    let ids = if all { &run.jobs } else { &run.latest };
    let jobs: Vec<Value> = page
        .cut(ids.iter())
        .filter_map(|id| world.job(*id))
        .map(|job| job_json(&job))
        .collect();
    let total = ids.len();
    drop(world);
    paged(ask, page, total, &json!({"total_count": total, "jobs": jobs}))
}

fn job_json(job: &JobView) -> Value {
    let api = format!("https://api.github.com/repos/{}/actions", job.repository);
    json!({
        "id": job.id,
        "run_id": job.run_id,
        "run_attempt": job.run_attempt,
        "url": format!("{api}/jobs/{}", job.id),
        "run_url": format!("{api}/runs/{}", job.run_id),
        "html_url": format!("https://github.com/{}/actions/runs/{}/job/{}", job.repository, job.run_id, job.id),
        "status": job.state.as_str(),
        "conclusion": job.conclusion,
        "created_at": seconds(job.created_at),
        "started_at": seconds(job.started_at.unwrap_or(job.created_at)),
        "completed_at": job.completed_at.map(seconds),
        "name": job.name,
        "steps": [],
        "labels": job.labels,
        "runner_id": job.runner.as_ref().map(|runner| runner.id),
        "runner_name": job.runner.as_ref().map(|runner| runner.name.as_str()),
        "runner_group_id": job.runner.as_ref().map(|runner| runner.group_id),
        "runner_group_name": job.runner.as_ref().map(|runner| runner.group_name.as_str())
    })
}

/// Proves that a log was asked for before it is fetched: what stands in the address instead of a credential.
const LOG_SIGNATURE: &str = "kept-from-logs";

/// Where the log of a job is, once there is one.
fn job_log(core: &Core, ask: &Ask<'_>, repository: &str, id: u64) -> Reply {
    let has_log = lock(&core.world).job(id).is_some_and(|job| {
        job.repository.eq_ignore_ascii_case(repository)
            && job.state == JobState::Completed
            && job.runner.is_some()
    });
    if !has_log {
        return Reply::not_found();
    }
    let location = format!("http://{}/_logs/{id}?sig={LOG_SIGNATURE}", ask.host);
    Reply::empty(StatusCode::FOUND).with("location", location)
}

/// The log itself, for whoever has its address; a credential would be one too many.
fn log_file(core: &Core, ask: &Ask<'_>, id: u64) -> Reply {
    let signed = ask.call.query.get("sig").is_some_and(|sig| LOG_SIGNATURE == sig);
    if !signed || ask.headers.contains_key("authorization") {
        return Reply::empty(StatusCode::FORBIDDEN);
    }
    let Some(log) = lock(&core.world).log(id) else {
        return Reply::empty(StatusCode::NOT_FOUND);
    };
    Reply {
        status: StatusCode::OK,
        body: Some(log),
        headers: vec![("content-type", "text/plain".to_owned())],
    }
}

fn groups(core: &Core, ask: &Ask<'_>, login: &str) -> Reply {
    let page = Page::of(&ask.call.query);
    let visible_to = ask.call.query.get("visible_to_repository").map(String::as_str);
    let groups = lock(&core.world).places.groups_of(login, visible_to);
    let total = groups.len();
    let listed: Vec<Value> = page
        .cut(groups.into_iter())
        .map(|(group, inherited)| {
            json!({
                "id": group.id,
                "name": group.name,
                "visibility": if group.repositories.is_some() { "selected" } else { "all" },
                "default": group.id == crate::github::places::DEFAULT_GROUP,
                "inherited": inherited,
                "allows_public_repositories": false,
                "restricted_to_workflows": false,
                "selected_workflows": []
            })
        })
        .collect();
    paged(
        ask,
        page,
        total,
        &json!({"total_count": total, "runner_groups": listed}),
    )
}

fn group_repositories(core: &Core, ask: &Ask<'_>, login: &str, id: u64) -> Reply {
    let page = Page::of(&ask.call.query);
    let world = lock(&core.world);
    let groups = world.places.groups_of(login, None);
    let Some((group, _)) = groups.into_iter().find(|(group, _)| group.id == id) else {
        return Reply::not_found();
    };
    let names: Vec<String> = group.repositories.into_iter().flatten().collect();
    let listed: Vec<Value> = page
        .cut(names.iter())
        .filter_map(|name| world.places.repositories.get(&world.places.repository_id(name)?))
        .map(|repository| repository.info.to_json())
        .collect();
    paged(
        ask,
        page,
        names.len(),
        &json!({"total_count": count(names.len()), "repositories": listed}),
    )
}

fn installation_token(core: &Core, ask: &Ask<'_>, id: u64) -> Reply {
    let Some(Caller::App { app_id }) = &ask.caller else {
        return Reply::not_found();
    };
    let mut credentials = lock(&core.credentials);
    if !credentials.has_installation(app_id, id) {
        return Reply::not_found();
    }
    let token = format!("ghs_{}", core.secret(36));
    let lifetime: SignedDuration = core.options.installation_token_lifetime;
    let expires_at = ask.now.checked_add(lifetime).unwrap_or(ask.now);
    credentials.issue(&token, id, ask.now, expires_at);
    let body = json!({
        "token": token,
        "expires_at": seconds(expires_at),
        "permissions": {"actions": "read", "administration": "write", "organization_self_hosted_runners": "write"},
        "repository_selection": "all"
    });
    Reply::json(StatusCode::CREATED, &body)
}

fn rate_limit(core: &Core, ask: &Ask<'_>) -> Reply {
    let Some(caller) = &ask.caller else {
        return Reply::not_found();
    };
    let limit = *lock(&core.credentials).limit(caller, ask.now);
    let core_limit = json!({
        "limit": limit.calls,
        "used": limit.used,
        "remaining": limit.remaining(),
        "reset": limit.reset
    });
    Reply::ok(&json!({"resources": {"core": core_limit}, "rate": core_limit}))
}
