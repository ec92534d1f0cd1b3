//! The delivery API: what was sent to a hook, how it went, and sending it again.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Ask;
use super::reply::{Page, Reply, link};
use super::route::HookRef;
use crate::github::hooks::{DeliveryRecord, Hook, Hooks};
use crate::github::lock;
use crate::github::payload::seconds;
use crate::github::server::Core;

/// The hook that a path speaks of. An app has one hook without an id in its path.
fn find<'a>(hooks: &'a Hooks, wanted: &HookRef) -> Option<&'a Hook> {
    hooks
        .of(wanted.target, wanted.name.as_deref())
        .find(|hook| wanted.id.is_none_or(|id| id == hook.id))
}

pub(crate) fn hooks(core: &Core, ask: &Ask<'_>, wanted: &HookRef) -> Reply {
    let hooks = lock(&core.sender.hooks);
    if wanted.id.is_some() || wanted.name.is_none() {
        return find(&hooks, wanted).map_or_else(Reply::not_found, |hook| Reply::ok(&hook_json(hook)));
    }
    let page = Page::of(&ask.call.query);
    let all: Vec<Value> = hooks
        .of(wanted.target, wanted.name.as_deref())
        .map(hook_json)
        .collect();
    let total = all.len();
    let body = Value::Array(page.cut(all.into_iter()).collect());
    let reply = Reply::ok(&body);
    match page.link(ask.call, ask.host, total) {
        Some(link) => reply.with("link", link),
        None => reply,
    }
}

fn hook_json(hook: &Hook) -> Value {
    json!({
        "type": hook.spec.target.as_str(),
        "id": hook.id,
        "name": "web",
        "active": hook.active,
        "events": hook.spec.events,
        "config": {
            "content_type": if hook.spec.form { "form" } else { "json" },
            "insecure_ssl": "0",
            "secret": if hook.spec.secret.is_empty() { None } else { Some("********") },
            "url": hook.spec.url
        },
        "created_at": "2026-01-05T08:00:00Z",
        "updated_at": "2026-01-05T08:00:00Z"
    })
}

pub(crate) fn deliveries(core: &Core, ask: &Ask<'_>, wanted: &HookRef) -> Reply {
    let size = Page::of(&ask.call.query).size;
    let hooks = lock(&core.sender.hooks);
    let Some(hook) = find(&hooks, wanted) else {
        return Reply::not_found();
    };
    let cursor = ask.call.query.get("cursor");
    let before = cursor.map_or(Some(u64::MAX), |cursor| cursor.strip_prefix("v1_")?.parse().ok());
    let Some(before) = before else {
        let page = "rest/webhooks/repo-deliveries";
        return Reply::error(StatusCode::UNPROCESSABLE_ENTITY, "Invalid cursor", page);
    };
    let mut records = hook.log.range(..before).rev().map(|(_, record)| record);
    let listed: Vec<&DeliveryRecord> = records.by_ref().take(size).collect();
    let body = Value::Array(listed.iter().map(|record| record_json(record, hook)).collect());
    let reply = Reply::ok(&body);
    match (records.next(), listed.last()) {
        (Some(_), Some(last)) => {
            let mut query = ask.call.query.clone();
            query.insert("cursor".to_owned(), format!("v1_{}", last.view.id));
            reply.with("link", link(ask.call, ask.host, &query, "next"))
        }
        _ => reply,
    }
}

fn record_json(record: &DeliveryRecord, hook: &Hook) -> Value {
    let view = &record.view;
    json!({
        "id": view.id,
        "guid": view.guid,
        "delivered_at": seconds(view.delivered_at),
        "redelivery": view.redelivery,
        "duration": view.duration.as_secs_f64(),
        "status": view.status,
        "status_code": view.status_code,
        "event": view.event,
        "action": view.action,
        "installation_id": hook.spec.installation,
        "repository_id": view.repository_id,
        "throttled_at": null
    })
}

pub(crate) fn delivery(core: &Core, wanted: &HookRef, id: u64) -> Reply {
    let hooks = lock(&core.sender.hooks);
    let found = find(&hooks, wanted).and_then(|hook| Some((hook, hook.log.get(&id)?)));
    let Some((hook, record)) = found else {
        return Reply::not_found();
    };
    let signed = hook
        .delivery(&record.content, &record.view.guid)
        .sign(&hook.spec.secret);
    let headers: serde_json::Map<String, Value> = signed
        .header_pairs()
        .into_iter()
        .map(|(name, value)| (canonical(name), Value::String(value)))
        .collect();
    let raw = if hook.spec.form {
        None
    } else {
        serde_json::from_slice::<Value>(&signed.delivery.body).ok()
    };
    let payload =
        raw.unwrap_or_else(|| Value::String(String::from_utf8_lossy(&signed.delivery.body).into_owned()));
    let mut body = record_json(record, hook);
    if let Some(members) = body.as_object_mut() {
        members.insert("url".to_owned(), Value::String(record.url.clone()));
        members.insert(
            "request".to_owned(),
            json!({"headers": headers, "payload": payload}),
        );
        members.insert(
            "response".to_owned(),
            json!({"headers": {}, "payload": record.view.response}),
        );
    }
    Reply::ok(&body)
}

/// `x-github-event` as GitHub shows it: `X-GitHub-Event`.
fn canonical(name: &str) -> String {
    let part = |part: &str| match part {
        "github" => "GitHub".to_owned(),
        "id" => "ID".to_owned(),
        part => {
            let mut chars = part.chars();
            chars
                .next()
                .map(|first| first.to_ascii_uppercase())
                .into_iter()
                .chain(chars)
                .collect()
        }
    };
    name.split('-').map(part).collect::<Vec<_>>().join("-")
}

pub(crate) fn redeliver(core: &Core, wanted: &HookRef, id: u64) -> Reply {
    let Some(hook) = find(&lock(&core.sender.hooks), wanted).map(|hook| hook.id) else {
        return Reply::not_found();
    };
    let sender: &Arc<_> = &core.sender;
    if sender.redeliver(hook, id) {
        Reply::json(StatusCode::ACCEPTED, &json!({}))
    } else {
        Reply::not_found()
    }
}
