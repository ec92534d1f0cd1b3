//! The runners' side (see [`crate::agent`] for the protocol): registration, the long poll for a job, its end.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Ask;
use super::api::removal;
use super::reply::Reply;
use super::route::Endpoint;
use crate::agent::{Completion, Register, Registered};
use crate::github::lock;
use crate::github::server::Core;
use crate::github::world::{Poll, Registration, Wake};

pub(crate) async fn answer(core: &Arc<Core>, ask: &Ask<'_>) -> Reply {
    match ask.call.endpoint {
        Endpoint::AgentRegister => register(core, ask),
        Endpoint::AgentPoll(id) => poll(core, ask, id).await,
        Endpoint::AgentComplete(id) => complete(core, ask, id),
        Endpoint::AgentAbandon(id) => {
            let done = core.change(|world| world.abandon(id, Some(ask.bearer()), ask.now));
            done.map_or_else(Reply::not_found, |()| Reply::empty(StatusCode::NO_CONTENT))
        }
        Endpoint::AgentRemove(id) => core
            .change(|world| world.remove_by_agent(id, ask.bearer(), ask.now))
            .map_or_else(unauthorized, |done| removal(&done)),
        _ => Reply::not_found(),
    }
}

fn unauthorized() -> Reply {
    Reply::error(StatusCode::UNAUTHORIZED, "Bad credentials", "rest")
}

fn register(core: &Core, ask: &Ask<'_>) -> Reply {
    let request: Register = match serde_json::from_slice(ask.body) {
        Ok(request) => request,
        Err(error) => return Reply::error(StatusCode::BAD_REQUEST, &error.to_string(), "actions"),
    };
    let token = core.secret(32);
    let at = Instant::now();
    match core.change(|world| world.register(&request, token, ask.now, at)) {
        Registration::Done { id, agent_token } => {
            Reply::json(StatusCode::CREATED, &json!(Registered { id, agent_token }))
        }
        Registration::BadToken => Reply::error(
            StatusCode::UNAUTHORIZED,
            "Invalid or expired registration token",
            "actions",
        ),
        Registration::NameTaken => {
            let message = format!("A runner exists with the same name {}", request.name);
            Reply::error(StatusCode::CONFLICT, &message, "actions")
        }
        Registration::UnknownGroup => {
            let group = request.group.unwrap_or_default();
            let message = format!("Could not find any self-hosted runner group named \"{group}\"");
            Reply::error(StatusCode::NOT_FOUND, &message, "actions")
        }
    }
}

/// Keeps the world in order when a poll ends, however it ends: an answer, the time, or a broken connection.
struct OpenPoll {
    core: Arc<Core>,
    runner: u64,
    ticket: u64,
    wake: oneshot::Receiver<Wake>,
    open: bool,
}

impl Drop for OpenPoll {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let mut world = lock(&self.core.world);
        world.leave(self.runner, self.ticket, Instant::now());
        // A job that was on its way to a runner that has gone is up for others.
        if let Ok(Wake::Job(job)) = self.wake.try_recv() {
            world.give_back(self.runner, job);
        }
    }
}

async fn poll(core: &Arc<Core>, ask: &Ask<'_>, id: u64) -> Reply {
    let wait = ask
        .call
        .query
        .get("wait")
        .and_then(|wait| wait.parse::<f64>().ok())
        .unwrap_or(0.0);
    let until = Instant::now() + Duration::try_from_secs_f64(wait.clamp(0.0, 120.0)).unwrap_or_default();
    loop {
        let token = ask.bearer();
        let (ticket, wake) =
            match core.change(|world| world.poll(id, token, core.clock.now(), Instant::now())) {
                Poll::Job(assignment) => return Reply::ok(&json!(assignment)),
                Poll::Gone => return gone(),
                Poll::Unauthorized => return unauthorized(),
                Poll::Wait { ticket, wake } => (ticket, wake),
            };
        let mut poll = OpenPoll {
            core: core.clone(),
            runner: id,
            ticket,
            wake,
            open: true,
        };
        if core.stop.is_cancelled() || core.is_dark() {
            return Reply::empty(StatusCode::NO_CONTENT);
        }
        let Ok(wake) = tokio::time::timeout_at(until, &mut poll.wake).await else {
            return Reply::empty(StatusCode::NO_CONTENT);
        };
        poll.open = false;
        match wake {
            Ok(Wake::Job(job)) => {
                let assigned = core.change(|world| world.take(id, job, core.clock.now(), Instant::now()));
                if let Some(assignment) = assigned {
                    return Reply::ok(&json!(assignment));
                }
                // It was cancelled on the way here: wait for another.
            }
            Ok(Wake::Gone) => return gone(),
            Ok(Wake::Dark | Wake::Replaced) | Err(_) => return Reply::empty(StatusCode::NO_CONTENT),
        }
    }
}

fn gone() -> Reply {
    Reply::error(
        StatusCode::GONE,
        "The runner registration has been deleted",
        "actions",
    )
}

fn complete(core: &Core, ask: &Ask<'_>, id: u64) -> Reply {
    let report: Completion = match serde_json::from_slice(ask.body) {
        Ok(report) => report,
        Err(error) => return Reply::error(StatusCode::BAD_REQUEST, &error.to_string(), "actions"),
    };
    let (token, now, at) = (ask.bearer(), ask.now, Instant::now());
    core.change(|world| world.complete(id, token, report.job_id, report.conclusion.as_str(), now, at))
        .map_or_else(Reply::not_found, |()| Reply::empty(StatusCode::NO_CONTENT))
}
