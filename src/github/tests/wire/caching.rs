//! Part 92 §5 and §6 with our set-up.

use std::time::Duration;

use muster_github::{ErrorClass, Removal, RequestOutcome};

use crate::fake::{Reply, Rig, acme, names, render, token};

#[tokio::test]
async fn listings_are_cached_for_their_minute_and_then_confirmed_by_one_conditional_request() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake
        .script(|seen| Reply::listing(&["one"]).etag(seen, "\"v1\""));
    for _ in 0..3 {
        assert_eq!(names(&github.list_runners(&acme()).await.unwrap()), ["one"]);
    }
    assert_eq!((rig.fake.count(), rig.hits()), (1, 2));
    assert_eq!(rig.observer.outcomes(), [(("list_runners", "ok"), 1)].into());

    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let mut first = true;
    rig.fake.script(move |seen| {
        let age = if std::mem::take(&mut first) { 100 } else { 0 };
        Reply::listing(&["one"]).with("age", age).etag(seen, "\"v1\"")
    });
    for _ in 0..4 {
        assert_eq!(names(&github.list_runners(&acme()).await.unwrap()), ["one"]);
    }
    assert_eq!((rig.fake.count(), rig.hits()), (2, 2));
    let outcomes = [(("list_runners", "ok"), 1), (("list_runners", "revalidated"), 1)];
    assert_eq!(rig.observer.outcomes(), outcomes.into());
}

#[tokio::test]
async fn thirty_callers_of_one_scope_within_a_minute_are_one_request() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake
        .script(|_| Reply::listing(&["one"]).after(Duration::from_millis(20)));
    let scope = acme();
    let all = futures::future::join_all((0..30).map(|_| github.list_runners(&scope))).await;
    assert!(
        all.iter()
            .all(|runners| names(runners.as_ref().unwrap()) == ["one"])
    );
    for _ in 0..30 {
        github.list_runners(&scope).await.unwrap();
    }
    assert_eq!(rig.fake.count(), 1);
}

#[tokio::test]
async fn eight_callers_of_a_stale_listing_are_one_conditional_request() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake.script(|seen| {
        Reply::listing(&["one"])
            .stale()
            .etag(seen, "\"v1\"")
            .after(Duration::from_millis(20))
    });
    let scope = acme();
    github.list_runners(&scope).await.unwrap();
    assert_eq!(rig.fake.count(), 1);
    let all = futures::future::join_all((0..8).map(|_| github.list_runners(&scope))).await;
    assert!(all.iter().all(Result::is_ok));
    let seen = rig.fake.take();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("if-none-match"), "\"v1\"");
}

#[tokio::test]
async fn credentials_never_mix() {
    let rig = Rig::new().await;
    rig.fake
        .script(|seen| Reply::listing(&[seen.header("authorization")]));
    let (a, b) = (rig.client(token("aaaa")), rig.client(token("bbbb")));
    for _ in 0..2 {
        assert_eq!(names(&a.list_runners(&acme()).await.unwrap()), ["Bearer aaaa"]);
        assert_eq!(names(&b.list_runners(&acme()).await.unwrap()), ["Bearer bbbb"]);
    }
    assert_eq!(rig.fake.count(), 2);
    // Not even when GitHub is gone and the third credential has nothing of its own.
    rig.fake.script(|_| Reply::broken());
    let c = rig.client(token("cccc"));
    assert_eq!(
        c.list_runners(&acme()).await.unwrap_err().class(),
        ErrorClass::Unavailable
    );
    assert_eq!(
        names(&a.list_runners(&acme()).await.unwrap()),
        ["Bearer aaaa"],
        "still fresh"
    );
}

#[tokio::test]
async fn unreachable_after_expiry_is_an_error_and_recovers_by_itself() {
    let rig = Rig::with(|builder| builder.request_timeout(Duration::from_millis(800))).await;
    let github = rig.client(token("a"));
    for policy in ["private, max-age=60", "private, max-age=60, must-revalidate"] {
        let good = move |seen: &_| {
            Reply::listing(&["one"])
                .with("cache-control", policy)
                .stale()
                .etag(seen, "\"v1\"")
        };
        rig.fake.script(good);
        github.list_runners(&acme()).await.unwrap();
        for trouble in [
            Reply::broken(),
            Reply::new(502, "<html>"),
            Reply::new(503, "{}"),
            Reply::listing(&["old"]).with("warning", r#"111 proxy "Revalidation failed""#),
            Reply::listing(&["late"]).after(Duration::from_secs(5)),
        ] {
            let status = format!("{policy}: {trouble:?}");
            rig.fake.script(move |_| trouble.clone());
            let error = github.list_runners(&acme()).await.unwrap_err();
            assert_eq!(
                error.class(),
                ErrorClass::Unavailable,
                "{status}: {}",
                render(&error)
            );
        }
        rig.fake.script(good);
        assert_eq!(names(&github.list_runners(&acme()).await.unwrap()), ["one"]);
    }
}

#[tokio::test]
async fn only_answers_that_may_be_kept_are_kept() {
    let minute = |status, body: &str| Reply::new(status, body).cacheable();
    let list = r#"{"runners":[]}"#;
    let table = [
        ("404", minute(404, "{}"), 3),
        ("403", minute(403, "{}"), 3),
        ("401", minute(401, "{}"), 3),
        ("500", minute(500, "{}"), 3),
        ("204", minute(204, ""), 3),
        (
            "301 elsewhere",
            minute(301, "").with("location", "http://127.0.0.1:1/"),
            3,
        ),
        ("no policy", Reply::new(200, list), 3),
        (
            "no-store",
            Reply::new(200, list).with("cache-control", "no-store"),
            3,
        ),
        (
            "only Last-Modified",
            Reply::new(200, list).with("last-modified", "Mon, 01 Jan 2018 00:00:00 GMT"),
            3,
        ),
        ("private, a minute", minute(200, list), 1),
        (
            "public, a day",
            Reply::new(200, list).with("cache-control", "public, max-age=86400"),
            1,
        ),
        (
            "a day, but 61 s old",
            Reply::new(200, list)
                .with("cache-control", "max-age=86400")
                .with("age", 61),
            3,
        ),
    ];
    for (what, reply, requests) in table {
        let rig = Rig::new().await;
        let github = rig.client(token("a"));
        rig.fake.script(move |_| reply.clone());
        for _ in 0..3 {
            github.list_runners(&acme()).await.ok();
        }
        assert_eq!(rig.fake.count(), requests, "{what}");
    }
}

#[tokio::test]
async fn a_removal_is_seen_by_the_next_listing_of_its_scope_and_of_no_other() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let other = muster_core::scope::Scope::Organization("acme-two".into());
    for (status, removal) in [
        (204, Some(Removal::Removed)),
        (404, Some(Removal::Gone)),
        (403, None),
    ] {
        rig.fake.script(move |seen| match seen.method.as_str() {
            "DELETE" => Reply::new(status, "{}"),
            _ => Reply::listing(&["one"]),
        });
        github.list_runners(&acme()).await.unwrap();
        github.list_runners(&other).await.unwrap();
        rig.fake.take();
        assert_eq!(github.remove_runner(&acme(), 1).await.ok(), removal);
        github.list_runners(&acme()).await.unwrap();
        github.list_runners(&acme()).await.unwrap();
        github.list_runners(&other).await.unwrap();
        let listed = rig.fake.take().iter().filter(|seen| seen.method == "GET").count();
        assert_eq!(listed, usize::from(removal.is_some()), "{status}");
    }
}

#[tokio::test]
async fn a_walk_that_began_before_a_removal_does_not_bring_the_runner_back() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let mut first = true;
    rig.fake.script(move |seen| match seen.method.as_str() {
        "DELETE" => Reply::new(204, ""),
        _ if std::mem::take(&mut first) => Reply::listing(&["removed"]).after(Duration::from_millis(500)),
        _ => Reply::listing(&[]),
    });
    let scope = acme();
    let early = github.list_runners(&scope);
    let late = async {
        rig.fake.reached().await;
        github.remove_runner(&scope, 1).await.unwrap();
        let joined = github.list_runners(&scope).await.unwrap();
        let later = github.list_runners(&scope).await.unwrap();
        (joined, later)
    };
    let (early, (joined, later)) = futures::future::join(early, late).await;
    assert_eq!(names(&early.unwrap()), ["removed"]);
    assert!(joined.is_empty() && later.is_empty());
}

#[tokio::test]
async fn a_fresh_listing_is_confirmed_although_the_cached_one_is_fresh() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake
        .script(|seen| Reply::listing(&["one"]).etag(seen, "\"v1\""));
    github.list_runners(&acme()).await.unwrap();
    let confirmed = github.list_runners_fresh(&acme()).await.unwrap();
    assert_eq!(names(&confirmed), ["one"]);
    let seen = rig.fake.take();
    assert_eq!((seen.len(), seen[1].header("if-none-match")), (2, "\"v1\""));

    rig.fake
        .script(|seen| Reply::listing(&["two"]).etag(seen, "\"v2\""));
    assert_eq!(
        names(&github.list_runners(&acme()).await.unwrap()),
        ["one"],
        "within the minute"
    );
    assert_eq!(rig.fake.count(), 0);
    assert_eq!(names(&github.list_runners_fresh(&acme()).await.unwrap()), ["two"]);
    assert_eq!(
        names(&github.list_runners(&acme()).await.unwrap()),
        ["two"],
        "the cache has learnt it"
    );
    assert_eq!(rig.fake.count(), 1);
}

#[tokio::test]
async fn one_runner_is_looked_for_by_its_name_where_the_server_can() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake.script(|seen| {
        let wanted = seen.path.contains("name=a%20b");
        Reply::listing(if wanted { &["a b"] } else { &[] }).etag(seen, "\"v1\"")
    });
    for (name, id) in [("a b", Some(1)), ("c", None), ("a b", Some(1))] {
        let found = github.find_runner(&acme(), name).await.unwrap();
        assert_eq!(found.map(|runner| runner.id), id, "{name}");
    }
    let seen = rig.fake.take();
    let answers_of_now = seen.iter().all(|seen| seen.header("if-none-match").is_empty());
    assert!(seen.len() == 3 && answers_of_now, "{seen:?}");

    // An older Enterprise Server lists all of them: it is not asked by name again, and its listing is shared and confirmed.
    let github = rig.client(token("b"));
    rig.fake
        .script(|seen| Reply::listing(&["x", "y"]).etag(seen, "\"v1\""));
    for (name, id) in [("y", Some(2)), ("z", None), ("x", Some(1))] {
        let found = github.find_runner(&acme(), name).await.unwrap();
        assert_eq!(found.map(|runner| runner.id), id, "{name}");
    }
    let asked: Vec<bool> = rig
        .fake
        .take()
        .iter()
        .map(|seen| seen.path.contains("name="))
        .collect();
    assert_eq!(asked, [true, false, false]);
    rig.fake.script(|_| Reply::new(502, ""));
    assert!(
        github.find_runner(&acme(), "x").await.is_err(),
        "unknown is not absent"
    );
}

#[tokio::test]
async fn budgets_are_reported_by_live_answers_only() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let reset = rig.now() + jiff::SignedDuration::from_mins(30);
    let mut left = 4000;
    rig.fake.script(move |seen| {
        left -= 1;
        Reply::listing(&["one"]).budget(left, reset).etag(seen, "\"v1\"")
    });
    github.list_runners(&acme()).await.unwrap();
    github.list_runners(&acme()).await.unwrap();
    github.list_runners_fresh(&acme()).await.unwrap();
    let live: Vec<_> = rig.observer.live.lock().unwrap().drain(..).collect();
    assert_eq!(live.len(), 2);
    let first = live[0].rate_limit.as_ref().unwrap();
    assert_eq!(
        (first.limit, first.remaining, first.reset_at),
        (5000, 3999, Some(reset))
    );
    assert_eq!(first.resource.as_deref(), Some("core"));
    assert_eq!(live[1].outcome, RequestOutcome::Revalidated);
    assert_eq!(
        live[1].rate_limit.as_ref().unwrap().remaining,
        3998,
        "a 304 tells the present number"
    );
    assert_eq!((live[0].status, live[1].status), (Some(200), Some(304)));
    assert_eq!(rig.hits(), 1);
}
