//! Listings of more than one page.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use muster_core::scope::Scope;
use muster_github::{ErrorClass, GitHub, UrlSettings, Urls};
use serde_json::{Value, json};

use crate::fake::{Reply, Rig, Seen, acme, names, token};

fn page_of(seen: &Seen) -> usize {
    seen.path
        .split_once("&page=")
        .map_or(1, |(_, page)| page.parse().unwrap())
}

fn runner(id: usize) -> Value {
    json!({"id": id, "name": format!("r{id}"), "status": "online", "busy": id.is_multiple_of(2), "labels": [{"name": "x"}]})
}

/// One page of `total` runners, with an absolute `next` link that must not be followed.
fn page(seen: &Seen, total: usize) -> Reply {
    let page = page_of(seen);
    let runners: Vec<Value> = (1..=total).skip((page - 1) * 100).take(100).map(runner).collect();
    let reply = Reply::page(&runners);
    if page * 100 < total {
        let links = format!(
            r#"<https://elsewhere.example.com/x?page={}>; rel="next", <https://x/>; rel="last""#,
            page + 1
        );
        return reply.with("link", links);
    }
    reply
}

#[tokio::test]
async fn all_pages_are_read_and_kept_together() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake.script(|seen| page(seen, 250));
    let runners = github.list_runners(&acme()).await.unwrap();
    assert_eq!(runners.len(), 250);
    assert_eq!(
        (runners[249].id, runners[249].name.as_str(), runners[249].busy),
        (250, "r250", true)
    );
    assert_eq!(runners[0].status, "online");
    let paths: Vec<_> = rig.fake.take().into_iter().map(|seen| seen.path).collect();
    let first = "/orgs/acme/actions/runners?per_page=100";
    assert_eq!(
        paths,
        [
            first.to_owned(),
            format!("{first}&page=2"),
            format!("{first}&page=3")
        ]
    );
    assert_eq!(github.list_runners(&acme()).await.unwrap(), runners);
    assert_eq!((rig.fake.count(), rig.hits()), (0, 3));
    let scope = acme();
    let all = futures::future::join_all((0..8).map(|_| github.list_runners_fresh(&scope))).await;
    assert!(all.iter().all(|found| found.as_ref().unwrap() == &runners));
    assert!(rig.fake.count() <= 6, "eight callers at once walk twice at most");
}

#[tokio::test]
async fn an_enterprise_servers_pages_are_all_asked_for_with_the_credential() {
    let rig = Rig::new().await;
    let settings = UrlSettings {
        enterprise: Some(rig.fake.base.clone()),
        ..UrlSettings::default()
    };
    let github = GitHub::new(token("ghes"), Urls::resolve(&settings).unwrap(), &rig.shared).unwrap();
    rig.fake.script(|seen| page(seen, 201));
    let scopes = [
        (Scope::Enterprise("big".into()), "enterprises/big"),
        (acme(), "orgs/acme"),
        (
            Scope::Repository {
                owner: "acme".into(),
                name: "api".into(),
            },
            "repos/acme/api",
        ),
    ];
    for (scope, path) in scopes {
        assert_eq!(github.list_runners(&scope).await.unwrap().len(), 201);
        let seen = rig.fake.take();
        assert_eq!(seen.len(), 3);
        for request in seen {
            assert_eq!(request.header("authorization"), "Bearer ghes");
            assert!(
                request
                    .path
                    .starts_with(&format!("/api/v3/{path}/actions/runners?per_page=100")),
                "{request:?}"
            );
        }
    }
    assert_eq!(github.runner_base_url(), format!("{}/", rig.fake.base));
}

#[tokio::test]
async fn a_runner_that_stands_on_two_pages_is_one_runner() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake.script(|seen| match page_of(seen) {
        1 => Reply::page(&[runner(1), runner(2)]).with("link", r#"<x>; rel="next""#),
        _ => Reply::page(&[runner(2), runner(3)]),
    });
    assert_eq!(
        names(&github.list_runners(&acme()).await.unwrap()),
        ["r1", "r2", "r3"]
    );
}

#[tokio::test]
async fn a_page_that_changed_beside_one_from_the_cache_has_the_listing_read_again() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let walks = Arc::new(AtomicUsize::new(0));
    let script_walks = Arc::clone(&walks);
    // Runner 2 moves from the second page to the first; the first page expires earlier.
    rig.fake.script(move |seen| {
        let first_page = page_of(seen) == 1;
        let walk = if first_page {
            script_walks.fetch_add(1, Ordering::SeqCst)
        } else {
            script_walks.load(Ordering::SeqCst) - 1
        };
        let reply = match (walk, first_page) {
            (0, true) => Reply::page(&[runner(1)]).stale(),
            (0, false) | (_, true) => Reply::page(&[runner(2)]),
            (_, false) => Reply::page(&[]),
        };
        if first_page {
            reply.with("link", r#"<x>; rel="next""#)
        } else {
            reply
        }
    });
    assert_eq!(names(&github.list_runners(&acme()).await.unwrap()), ["r1", "r2"]);
    assert_eq!(rig.fake.count(), 2);
    assert_eq!(names(&github.list_runners(&acme()).await.unwrap()), ["r2"]);
    assert_eq!(rig.fake.count(), 3, "the changed page, then both again");
    assert_eq!(names(&github.list_runners(&acme()).await.unwrap()), ["r2"]);
    assert_eq!(rig.fake.count(), 0);
}

#[tokio::test]
async fn a_listing_without_an_end_and_one_without_runners_are_errors_not_empty_lists() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake
        .script(|_| Reply::new(200, r#"{"runners":[]}"#).with("link", r#"<x>; rel="next""#));
    assert_eq!(
        github.list_runners(&acme()).await.unwrap_err().class(),
        ErrorClass::Bug
    );
    for body in [
        "",
        "null",
        "{}",
        "[]",
        r#"{"runners":null}"#,
        r#"{"runners":[{"name":"x"}]}"#,
        "<html>",
    ] {
        rig.fake.script(move |_| Reply::new(200, body));
        assert_eq!(
            github.list_runners(&acme()).await.unwrap_err().class(),
            ErrorClass::Bug,
            "{body}"
        );
    }
    rig.fake.script(|_| Reply::new(202, "{}"));
    assert_eq!(
        github.list_runners(&acme()).await.unwrap_err().class(),
        ErrorClass::Rejected
    );
    rig.fake.script(|_| Reply::new(204, ""));
    assert!(github.list_runners(&acme()).await.unwrap().is_empty());
    let lenient = r#"{"runners":[{"id":7,"name":null,"busy":null,"labels":"odd"}]}"#;
    rig.fake.script(move |_| Reply::new(200, lenient));
    assert_eq!(github.list_runners(&acme()).await.unwrap()[0].id, 7);
}

#[tokio::test]
async fn the_whole_walk_has_one_deadline() {
    let rig = Rig::with(|builder| builder.operation_timeout(Duration::from_millis(250))).await;
    let github = rig.client(token("a"));
    rig.fake
        .script(|seen| page(seen, 100_000).after(Duration::from_millis(40)));
    let started = std::time::Instant::now();
    assert_eq!(
        github.list_runners(&acme()).await.unwrap_err().class(),
        ErrorClass::Unavailable
    );
    assert!(started.elapsed() < Duration::from_secs(2));
}
