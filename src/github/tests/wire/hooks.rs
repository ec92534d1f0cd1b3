//! Hooks and their deliveries: cursors, early end, the App's own login, payloads.

use jiff::{SignedDuration, Timestamp};
use muster_github::{CallFamily, DeliverySummary, Error, ErrorClass, GitHub, Hook, Identity, RepositoryName};
use serde_json::{Value, json};

use crate::{
    fake::{Reply, Rig, Seen, render, token},
    login::{app, key},
};

fn api() -> RepositoryName {
    "acme/api".parse().unwrap()
}

fn of_repository() -> Hook {
    Hook::Repository {
        repository: api(),
        id: 3,
    }
}

fn of_organization() -> Hook {
    Hook::Organization {
        login: "acme".into(),
        id: 4,
    }
}

fn delivered_at(id: u64) -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap() + SignedDuration::from_secs(i64::try_from(id).unwrap())
}

fn delivery(id: u64) -> Value {
    json!({
        "id": id, "guid": format!("guid-{id}"), "delivered_at": delivered_at(id), "redelivery": false,
        "duration": 0.27, "status": if id.is_multiple_of(2) { "OK" } else { "timed out" },
        "status_code": if id.is_multiple_of(2) { 200 } else { 0 }, "event": "workflow_job", "action": "queued",
        "installation_id": null, "repository_id": 77, "throttled_at": null
    })
}

/// A hook's log of deliveries 1 to `newest`, by cursor, as GitHub writes it: absolute links by numeric ids.
fn log(seen: &Seen, newest: u64) -> Reply {
    let before = seen
        .path
        .split_once("&cursor=v1_")
        .map_or(newest + 1, |(_, cursor)| cursor.parse().unwrap());
    let ids: Vec<u64> = (1..before).rev().take(100).collect();
    let reply = Reply::new(200, Value::Array(ids.iter().copied().map(delivery).collect()))
        .cacheable()
        .etag(seen, &format!("\"{before}\""));
    match ids.last() {
        Some(last) if *last > 1 => {
            let links = format!(
                r#"<https://api.github.com/organizations/5/hooks/4/deliveries?per_page=100&cursor=v1_{last}>; rel="next""#
            );
            reply.with("link", links)
        }
        _ => reply,
    }
}

fn ids(deliveries: &[DeliverySummary]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

#[tokio::test]
async fn deliveries_are_paged_by_cursor_and_never_cached() {
    for (hook, path) in [
        (of_repository(), "/repos/acme/api/hooks/3/deliveries?per_page=100"),
        (of_organization(), "/orgs/acme/hooks/4/deliveries?per_page=100"),
    ] {
        let rig = Rig::new().await;
        let github = rig.client(token("a"));
        rig.fake.script(|seen| log(seen, 250));
        for _ in 0..2 {
            let all = github.deliveries_while(&hook, |_| true).await.unwrap();
            assert_eq!(ids(&all), (1..=250).rev().collect::<Vec<_>>());
            let seen = rig.fake.take();
            let paths: Vec<_> = seen.iter().map(|seen| seen.path.as_str()).collect();
            assert_eq!(
                paths,
                [
                    path.to_owned(),
                    format!("{path}&cursor=v1_151"),
                    format!("{path}&cursor=v1_51")
                ]
            );
            for request in seen {
                assert_eq!(request.header("authorization"), "Bearer a");
                assert_eq!(request.header("if-none-match"), "");
            }
        }
        assert_eq!(
            rig.observer.outcomes(),
            [(("list_deliveries", "ok"), 6)].into(),
            "{hook}"
        );
    }
}

#[tokio::test]
async fn a_delivery_is_summed_up() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake.script(|seen| log(seen, 2));
    let all = github.deliveries_while(&of_repository(), |_| true).await.unwrap();
    let (newest, oldest) = (&all[0], &all[1]);
    assert_eq!((newest.id, newest.guid.as_str()), (2, "guid-2"));
    assert_eq!(newest.delivered_at, delivered_at(2));
    assert_eq!((newest.status_code, newest.status.as_str()), (200, "OK"));
    assert_eq!(
        (newest.event.as_str(), newest.action.as_deref()),
        ("workflow_job", Some("queued"))
    );
    assert_eq!((newest.installation_id, newest.repository_id), (None, Some(77)));
    assert!(newest.is_accepted() && !oldest.is_accepted() && !newest.redelivery);
    let sparse =
        json!([{"id": 1, "guid": "g", "delivered_at": delivered_at(1), "status_code": null, "action": null}]);
    rig.fake.script(move |_| Reply::new(200, &sparse));
    let all = github.deliveries_while(&of_repository(), |_| true).await.unwrap();
    assert_eq!((all[0].status_code, all[0].action.as_deref()), (0, None));
}

#[tokio::test]
async fn no_page_is_read_beyond_the_first_delivery_that_is_not_wanted() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake.script(|seen| log(seen, 250));
    for (last_known, requests) in [(250, 1), (249, 1), (151, 1), (150, 2), (149, 2), (0, 3)] {
        let new = github
            .deliveries_while(&of_organization(), |delivery| delivery.id > last_known)
            .await
            .unwrap();
        assert_eq!(ids(&new), (last_known + 1..=250).rev().collect::<Vec<_>>());
        assert_eq!(rig.fake.count(), requests, "{last_known}");
    }
}

#[tokio::test]
async fn pages_can_be_had_one_by_one_again_after_an_error_and_in_another_process() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake.script(|seen| log(seen, 150));
    let mut pages = github.deliveries(&of_organization()).unwrap();
    assert_eq!((rig.fake.count(), pages.cursor()), (0, None));
    assert_eq!(pages.next_page().await.unwrap().unwrap().len(), 100);
    assert_eq!(pages.cursor(), Some("v1_51"));
    rig.fake.script(|_| Reply::new(502, "<html>"));
    assert_eq!(
        pages.next_page().await.unwrap_err().class(),
        ErrorClass::Unavailable
    );
    rig.fake.script(|seen| log(seen, 150));
    let mut resumed = github.deliveries(&of_organization()).unwrap().resume("v1_51");
    for pages in [&mut pages, &mut resumed] {
        assert_eq!(
            ids(&pages.next_page().await.unwrap().unwrap()),
            (1..=50).rev().collect::<Vec<_>>()
        );
        assert_eq!((pages.next_page().await.unwrap(), pages.cursor()), (None, None));
    }
    rig.fake.take();
    let mut odd = github
        .deliveries(&of_organization())
        .unwrap()
        .resume("a&per_page=1 ");
    odd.next_page().await.unwrap();
    assert_eq!(
        rig.fake.take()[0].path,
        "/orgs/acme/hooks/4/deliveries?per_page=100"
    );
}

#[tokio::test]
async fn a_link_that_leads_nowhere_does_not_look_like_the_end() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    for link in [
        "<https://x/deliveries?page=2>; rel=next",
        "<https://x/deliveries?cursor=>; rel=next",
        "<https://x/deliveries?cursor=a b>; rel=next",
    ] {
        rig.fake.script(move |_| Reply::new(200, "[]").with("link", link));
        let error = github
            .deliveries_while(&of_repository(), |_| true)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Paging { .. }), "{link}: {error}");
        assert_eq!(error.class(), ErrorClass::Bug);
        assert_eq!(rig.fake.count(), 1);
    }
    // A cursor that leads back to itself would never end.
    rig.fake
        .script(|_| Reply::new(200, "[]").with("link", "<https://x/?cursor=a>; rel=next"));
    let error = github
        .deliveries_while(&of_repository(), |_| true)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Paging { .. }), "{error}");
    assert_eq!(rig.fake.count(), 2);
}

/// Every call of this module, with its family.
async fn call(github: &GitHub, family: CallFamily) -> Result<(), Error> {
    match family {
        CallFamily::ListDeliveries => github
            .deliveries_while(&of_repository(), |_| true)
            .await
            .map(|_| ()),
        CallFamily::GetDelivery => github.get_delivery(&of_organization(), 9).await.map(|_| ()),
        _ => github.organization_hooks("acme").await.map(|_| ()),
    }
}

#[tokio::test]
async fn refusals_and_nonsense_are_errors() {
    let table = [
        (200, "", ErrorClass::Bug),
        (200, "null", ErrorClass::Bug),
        (200, r#"{"id":5}"#, ErrorClass::Bug),
        (200, "[{}]", ErrorClass::Bug),
        (202, "[]", ErrorClass::Rejected),
        (401, "{}", ErrorClass::Unauthorized),
        (403, "{}", ErrorClass::Forbidden),
        (404, "{}", ErrorClass::NotFound),
        (422, "{}", ErrorClass::Rejected),
        (500, "", ErrorClass::Unavailable),
    ];
    for family in [
        CallFamily::ListDeliveries,
        CallFamily::GetDelivery,
        CallFamily::ListHooks,
    ] {
        let rig = Rig::new().await;
        let github = rig.client(token("a"));
        for (status, body, class) in table {
            rig.fake.script(move |_| Reply::new(status, body).cacheable());
            let error = call(&github, family).await.unwrap_err();
            assert_eq!(error.class(), class, "{family} {status} {body}");
            assert_eq!(error.attempt().family(), family);
            assert_eq!(rig.fake.count(), 1);
        }
        let reset = rig.now() + SignedDuration::from_mins(5);
        rig.fake.script(move |_| Reply::new(403, "{}").budget(0, reset));
        for requests in [1, 0] {
            let throttled = ErrorClass::Throttled { until: Some(reset) };
            assert_eq!(call(&github, family).await.unwrap_err().class(), throttled);
            assert_eq!(rig.fake.count(), requests, "{family}");
        }
    }
}

#[tokio::test]
async fn hooks_are_listed_on_all_pages_and_never_cached() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let script = |seen: &Seen| {
        let hook = |id: u64| json!({"id": id, "active": true, "events": ["*"], "config": {"url": format!("https://hook.example/{id}")}});
        if seen.path.ends_with("&page=2") {
            let odd = json!({"id": 8, "active": null, "events": null, "config": null, "name": "web"});
            Reply::new(200, json!([hook(7), odd])).cacheable()
        } else {
            Reply::new(200, json!([hook(6)]))
                .cacheable()
                .with("link", "<https://x/>; rel=next")
        }
    };
    rig.fake.script(script);
    for _ in 0..2 {
        let hooks = github.organization_hooks("acme").await.unwrap();
        let shown: Vec<_> = hooks
            .iter()
            .map(|hook| (hook.id, hook.active, hook.url.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                (6, true, "https://hook.example/6"),
                (7, true, "https://hook.example/7"),
                (8, false, "")
            ]
        );
        assert_eq!(hooks[0].events, ["*"]);
    }
    assert_eq!(github.repository_hooks(&api()).await.unwrap().len(), 3);
    let paths: Vec<_> = rig.fake.take().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths.len(), 6);
    assert_eq!(paths[3], "/orgs/acme/hooks?per_page=100&page=2");
    assert_eq!(paths[4], "/repos/acme/api/hooks?per_page=100");
}

#[tokio::test]
async fn a_delivery_comes_with_headers_and_payload() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let json_headers = json!({"Content-Type": "application/json", "X-GitHub-Event": "workflow_job", "X-Odd\n": "x", "X-N": 5});
    let form_headers = json!({"content-type": "application/x-www-form-urlencoded"});
    let payload = json!({"action": "queued", "big": 18_446_744_073_709_551_615_u64, "text": "a\"ü"});
    let text = payload.to_string();
    let table = [
        ("an object", &json_headers, payload.clone(), text.as_str()),
        ("text", &json_headers, json!(text), &text),
        ("an object of a form", &form_headers, payload.clone(), &text),
        ("a form", &form_headers, json!("payload=%7B%7D&x=1"), "{}"),
        ("a broken form", &form_headers, json!("payload=%7"), "payload=%7"),
        ("forgotten", &json_headers, Value::Null, ""),
    ];
    for (what, headers, sent, expected) in table {
        let mut answer = delivery(9);
        answer["request"] = json!({"headers": headers, "payload": sent});
        answer["response"] = json!({"headers": {}, "payload": "ok"});
        rig.fake.script(move |_| Reply::new(200, &answer).cacheable());
        let found = github.get_delivery(&of_organization(), 9).await.unwrap();
        assert_eq!((found.summary.id, found.summary.guid.as_str()), (9, "guid-9"));
        assert_eq!(found.payload, expected, "{what}");
        assert!(found.headers.contains_key("content-type"));
        assert!(!format!("{found:?}").contains("queued\",\"big"));
        let seen = rig.fake.take();
        assert_eq!(seen.len(), 1, "never cached");
        assert_eq!(seen[0].path, "/orgs/acme/hooks/4/deliveries/9");
    }
    let bare = delivery(9);
    rig.fake.script(move |_| Reply::new(200, &bare));
    let found = github.get_delivery(&of_repository(), 9).await.unwrap();
    assert!(found.payload.is_empty() && found.headers.is_empty());
}

#[tokio::test]
async fn only_the_apps_hook_is_asked_for_with_the_apps_own_login() {
    let rig = Rig::new().await;
    let github = rig.client(app(&key().pkcs8));
    let expires_at = rig.now() + SignedDuration::from_hours(1);
    rig.fake.script(move |seen| {
        if seen.path.ends_with("/access_tokens") {
            return Reply::new(201, json!({"token": "ghs_1", "expires_at": expires_at}));
        }
        if seen.path.ends_with("/9") {
            return Reply::new(200, delivery(9));
        }
        log(seen, 150)
    });
    github.deliveries_while(&Hook::App, |_| true).await.unwrap();
    github.get_delivery(&Hook::App, 9).await.unwrap();
    let seen = rig.fake.take();
    let paths: Vec<_> = seen.iter().map(|seen| seen.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/app/hook/deliveries?per_page=100",
            "/app/hook/deliveries?per_page=100&cursor=v1_51",
            "/app/hook/deliveries/9"
        ],
        "no installation token is fetched for it"
    );
    for request in &seen {
        let jwt = request.header("authorization").strip_prefix("Bearer ").unwrap();
        assert_eq!(jwt.split('.').count(), 3);
        assert_eq!(request.header("user-agent"), "actions-runner-controller/1.2.3");
    }
    let identities: Vec<_> = rig
        .observer
        .live
        .lock()
        .unwrap()
        .drain(..)
        .map(|live| live.identity)
        .collect();
    assert_eq!(identities, [Identity::App; 3]);

    github
        .deliveries_while(&of_organization(), |_| true)
        .await
        .unwrap();
    let seen = rig.fake.take();
    assert!(seen[0].path.ends_with("/access_tokens"));
    for request in &seen[1..] {
        assert_eq!(request.header("authorization"), "token ghs_1");
    }
    let identities: Vec<_> = rig
        .observer
        .live
        .lock()
        .unwrap()
        .drain(..)
        .map(|live| live.identity)
        .collect();
    assert_eq!(
        identities,
        [Identity::App, Identity::Credential, Identity::Credential]
    );
}

#[tokio::test]
async fn the_apps_budget_is_its_own() {
    let rig = Rig::new().await;
    let github = rig.client(app(&key().pkcs8));
    let expires_at = rig.now() + SignedDuration::from_hours(1);
    let reset = rig.now() + SignedDuration::from_mins(5);
    rig.fake.script(move |seen| {
        if seen.path.ends_with("/access_tokens") {
            return Reply::new(201, json!({"token": "ghs_1", "expires_at": expires_at})).budget(0, reset);
        }
        log(seen, 1).budget(4999, reset)
    });
    github
        .deliveries_while(&of_organization(), |_| true)
        .await
        .unwrap();
    rig.fake.take();
    let throttled = ErrorClass::Throttled { until: Some(reset) };
    assert_eq!(
        github
            .deliveries_while(&Hook::App, |_| true)
            .await
            .unwrap_err()
            .class(),
        throttled
    );
    assert_eq!(rig.fake.count(), 0);
    github
        .deliveries_while(&of_organization(), |_| true)
        .await
        .unwrap();
    assert_eq!(rig.fake.count(), 1);
}

#[tokio::test]
async fn an_apps_login_that_is_refused_stays_out_of_the_error_and_others_have_none() {
    let rig = Rig::new().await;
    rig.fake.script(|seen| {
        let message = format!("cannot decode {}", seen.header("authorization"));
        Reply::new(401, json!({"message": message}))
    });
    let github = rig.client(app(&key().pkcs8));
    let error = github.get_delivery(&Hook::App, 1).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unauthorized);
    let seen = rig.fake.take();
    let jwt = seen[0].header("authorization").strip_prefix("Bearer ").unwrap();
    let text = render(&error);
    assert!(text.contains("[redacted]") && !text.contains(jwt), "{text}");

    let error = rig
        .client(token("a"))
        .deliveries_while(&Hook::App, |_| true)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotAnApp { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Forbidden);
    assert_eq!(rig.fake.count(), 0, "no call is made");
}
