//! Budgets, lanes and pools of credentials at the wire (spec 90 FEATURE 7).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use jiff::{SignedDuration, Timestamp};
use muster_github::{
    Error, ErrorClass, GitHub, Hold, Lane, Login, Removal, UrlSettings, Urls, metrics::Budgets,
};
use prometheus_client::{encoding::text::encode, registry::Registry};

use crate::fake::{Reply, Rig, Seen, acme, names, token};

/// Calls of each credential within an hour, charged and refused as GitHub does.
struct Account {
    limit: u32,
    used: u32,
    reset: Timestamp,
}

impl Account {
    fn answer(&mut self, reply: Reply, is_free: bool) -> Reply {
        let budget = |reply: Reply, left| {
            reply
                .budget(left, self.reset)
                .with("x-ratelimit-limit", self.limit)
        };
        if self.used == self.limit {
            return budget(Reply::new(403, r#"{"message": "API rate limit exceeded"}"#), 0);
        }
        self.used += u32::from(!is_free);
        budget(reply, self.limit - self.used)
    }
}

fn pool(rig: &Rig, tokens: &[&str]) -> GitHub {
    let urls = Urls::resolve(&UrlSettings {
        api: Some(rig.fake.base.clone()),
        ..UrlSettings::default()
    });
    let logins = tokens
        .iter()
        .map(|text| Login::new(format!("ns/{text}"), token(text)));
    GitHub::pooled(logins.collect(), urls.unwrap(), &rig.shared).unwrap()
}

fn who(seen: &Seen) -> String {
    seen.header("authorization").replace("Bearer ", "")
}

#[tokio::test]
async fn what_is_kept_for_urgent_calls_is_not_spent_on_others() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let reset = rig.now() + SignedDuration::from_hours(1);
    rig.fake.script(move |seen| match seen.method.as_str() {
        "DELETE" => Reply::new(204, "").budget(999, reset),
        _ => Reply::listing(&["one"]).budget(1_000, reset).etag(seen, "\"1\""),
    });
    github.list_runners(&acme()).await.unwrap();
    rig.fake.take();
    let error = github.list_runners_fresh(&acme()).await.unwrap_err();
    let Error::Held {
        lane, hold, until, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!((*lane, *hold, *until), (Lane::Reconcile, Hold::Reserve, reset));
    assert_eq!(
        error.class(),
        ErrorClass::Throttled { until: Some(reset) },
        "it is waiting, and told until when"
    );
    assert_eq!(rig.fake.count(), 0, "GitHub was not asked");
    github.list_runners(&acme()).await.unwrap();
    assert_eq!(rig.fake.count(), 0, "what is in the cache needs no budget");
    github
        .in_lane(Lane::Critical)
        .list_runners_fresh(&acme())
        .await
        .unwrap();
    assert_eq!(github.remove_runner(&acme(), 1).await.unwrap(), Removal::Removed);
    assert_eq!(rig.fake.count(), 2, "urgent calls go through");
    rig.advance(SignedDuration::from_hours(1));
    github.list_runners_fresh(&acme()).await.unwrap();
}

#[tokio::test]
async fn an_urgent_caller_is_not_held_in_the_flight_of_another() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let reset = rig.now() + SignedDuration::from_hours(1);
    rig.fake
        .script(move |seen| Reply::listing(&["one"]).budget(900, reset).etag(seen, "\"1\""));
    github.list_runners(&acme()).await.unwrap();
    let (cosmetic, critical) = (github.in_lane(Lane::Cosmetic), github.in_lane(Lane::Critical));
    let (scope, mut tasks) = (acme(), Vec::new());
    for _ in 0..4 {
        tasks.push(cosmetic.list_runners_fresh(&scope));
        tasks.push(critical.list_runners_fresh(&scope));
    }
    let outcomes = futures::future::join_all(tasks).await;
    let went: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(
        went.iter().skip(1).step_by(2).filter(|ok| **ok).count(),
        4,
        "{went:?}"
    );
}

#[tokio::test]
async fn limits_of_one_credential_are_not_those_of_another() {
    for status in [403, 429] {
        let rig = Rig::new().await;
        rig.fake.script(move |seen| match who(seen).as_str() {
            "a" => Reply::new(status, "{}").with("retry-after", 60),
            _ => Reply::listing(&["one"]),
        });
        let (a, b) = (rig.client(token("a")), rig.client(token("b")));
        let until = rig.now() + SignedDuration::from_mins(1);
        for _ in 0..3 {
            let error = a.list_runners(&acme()).await.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Throttled { until: Some(until) });
            a.registration_token(&acme()).await.unwrap_err();
        }
        assert_eq!(rig.fake.count(), 1, "silence until then");
        b.list_runners(&acme()).await.unwrap();
        rig.advance(SignedDuration::from_secs(59));
        a.list_runners(&acme()).await.unwrap_err();
        assert_eq!(rig.fake.count(), 1);
        rig.advance(SignedDuration::from_secs(1));
        a.list_runners(&acme()).await.unwrap_err();
        assert_eq!(rig.fake.count(), 1, "asked again at the very time");
    }
}

#[tokio::test]
async fn a_server_without_limits_is_asked_whatever_the_lane_but_for_the_cap() {
    let rig = Rig::new().await;
    let github = rig.client(token("a")).in_lane(Lane::Cosmetic);
    rig.fake.script(|_| Reply::listing(&["one"]));
    for _ in 0..50 {
        github.list_runners_fresh(&acme()).await.unwrap();
    }
    assert_eq!(rig.fake.count(), 50);

    let rig = Rig::with(|builder| builder.calls_per_hour(10)).await;
    let github = rig.client(token("a")).in_lane(Lane::Critical);
    rig.fake.script(|_| Reply::listing(&["one"]));
    for _ in 0..10 {
        github.list_runners_fresh(&acme()).await.unwrap();
    }
    let error = github.list_runners_fresh(&acme()).await.unwrap_err();
    assert!(matches!(error, Error::Held { hold: Hold::Cap, .. }), "{error}");
    assert_eq!(rig.fake.count(), 10);
    rig.advance(SignedDuration::from_hours(1));
    github.list_runners_fresh(&acme()).await.unwrap();
}

#[tokio::test]
async fn a_listing_is_confirmed_when_it_is_old_by_the_injected_clock_too() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake
        .script(|seen| Reply::listing(&["one"]).etag(seen, "\"1\""));
    github.list_runners(&acme()).await.unwrap();
    rig.advance(SignedDuration::from_secs(59));
    github.list_runners(&acme()).await.unwrap();
    assert_eq!(rig.fake.count(), 1);
    rig.advance(SignedDuration::from_secs(1));
    github.list_runners(&acme()).await.unwrap();
    github.list_runners(&acme()).await.unwrap();
    let outcomes = [(("list_runners", "ok"), 1), (("list_runners", "revalidated"), 1)];
    assert_eq!(rig.observer.outcomes(), outcomes.into());
}

#[tokio::test]
async fn three_credentials_do_the_work_of_three() {
    async fn calls(rig: &Rig, github: &GitHub) -> u32 {
        let mut made = 0;
        loop {
            match github.list_runners_fresh(&acme()).await {
                Ok(_) => made += 1,
                Err(error) => {
                    assert!(matches!(error, Error::Held { .. }), "{error}");
                    break;
                }
            }
        }
        assert_eq!(rig.fake.count(), usize::try_from(made).unwrap());
        made
    }
    let accounts: Arc<Mutex<BTreeMap<String, Account>>> = Arc::default();
    let rig = Rig::new().await;
    let reset = rig.now() + SignedDuration::from_hours(1);
    let state = Arc::clone(&accounts);
    rig.fake.script(move |seen| {
        let mut accounts = state.lock().unwrap();
        let account = accounts.entry(who(seen)).or_insert(Account {
            limit: 100,
            used: 0,
            reset,
        });
        account.answer(Reply::listing(&["one"]), false)
    });
    let one = calls(&rig, &pool(&rig, &["single"])).await;
    let three = calls(&rig, &pool(&rig, &["x", "y", "z"])).await;
    assert_eq!(
        (one, three),
        (20, 60),
        "what may be spent at the beginning of an hour"
    );
    let left: Vec<u32> = accounts
        .lock()
        .unwrap()
        .values()
        .map(|a| a.limit - a.used)
        .collect();
    assert_eq!(left, [80, 80, 80, 80]);
}

#[tokio::test]
async fn a_place_stays_with_its_credential_and_the_others_take_other_places() {
    let rig = Rig::new().await;
    let reset = rig.now() + SignedDuration::from_hours(1);
    let mut left = BTreeMap::from([("x", 4_900), ("y", 4_900)]);
    rig.fake.script(move |seen| {
        let who = if who(seen) == "x" { "x" } else { "y" };
        let left = left.get_mut(who).unwrap();
        *left -= 1;
        Reply::listing(&["one"]).budget(*left, reset).etag(seen, "\"1\"")
    });
    let github = pool(&rig, &["x", "y"]);
    let scopes: Vec<_> = (0..6)
        .map(|at| muster_core::scope::Scope::Organization(format!("org-{at}")))
        .collect();
    for scope in &scopes {
        github.list_runners(scope).await.unwrap();
    }
    let asked = |rig: &Rig| -> Vec<(String, String)> {
        let seen = rig.fake.take();
        seen.iter().map(|seen| (seen.path.clone(), who(seen))).collect()
    };
    let first = asked(&rig);
    let of = |name: &str| first.iter().filter(|(_, who)| who == name).count();
    assert_eq!((of("x"), of("y")), (3, 3));
    for scope in &scopes {
        github.list_runners_fresh(scope).await.unwrap();
    }
    assert_eq!(asked(&rig), first, "by its ETag");
}

#[tokio::test]
async fn a_credential_that_is_not_accepted_or_sees_nothing_is_passed_over() {
    for status in [401, 403, 404] {
        let rig = Rig::new().await;
        rig.fake.script(move |seen| match who(seen).as_str() {
            "good" => Reply::listing(&["one"]),
            _ => Reply::new(status, "{}"),
        });
        let github = pool(&rig, &["bad", "good"]);
        for _ in 0..3 {
            assert_eq!(names(&github.list_runners_fresh(&acme()).await.unwrap()), ["one"]);
        }
        assert_eq!(rig.fake.count(), 4, "{status}: once was enough");
        let accepted: Vec<bool> = rig.shared.budgets().iter().map(|view| view.is_accepted).collect();
        assert_eq!(accepted, [status != 401, true]);
        // What was wrong may have been put right.
        rig.advance(SignedDuration::from_mins(10));
        rig.fake.script(|_| Reply::listing(&["two"]));
        github.list_runners_fresh(&acme()).await.unwrap();
        assert!(rig.shared.budgets().iter().all(|view| view.is_accepted));
    }
    let rig = Rig::new().await;
    rig.fake.script(|_| Reply::new(401, "{}"));
    let error = pool(&rig, &["x", "y"]).list_runners(&acme()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unauthorized, "nobody is left");
    assert_eq!(rig.fake.count(), 2);
}

#[tokio::test]
async fn a_runner_that_a_credential_may_not_see_is_not_gone() {
    // "blind" is not installed on the organization: to it, nothing exists.
    let script = |busy: bool| {
        move |seen: &Seen| match (who(seen).as_str(), seen.method.as_str()) {
            ("blind", _) => Reply::new(404, "{}"),
            (_, "DELETE") if busy => Reply::new(422, "{}"),
            (_, "DELETE") => Reply::new(404, "{}"),
            _ => Reply::listing(&["one"]),
        }
    };
    let rig = Rig::new().await;
    rig.fake.script(script(true));
    let github = pool(&rig, &["blind", "seeing"]);
    let removal = github.remove_runner(&acme(), 1).await.unwrap();
    assert!(matches!(removal, Removal::Busy { .. }), "{removal:?}");
    rig.fake.script(script(false));
    assert_eq!(github.remove_runner(&acme(), 1).await.unwrap(), Removal::Gone);
    // With nobody who sees the scope, nobody says that it is gone.
    let error = pool(&rig, &["blind"]).list_runners(&acme()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
    rig.fake.script(|_| Reply::new(404, "{}"));
    let error = pool(&rig, &["p", "q"])
        .remove_runner(&acme(), 1)
        .await
        .unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
}

#[tokio::test]
async fn a_removal_is_seen_through_every_credential_of_the_pool() {
    let rig = Rig::new().await;
    let removed = Arc::new(Mutex::new(false));
    let state = Arc::clone(&removed);
    rig.fake.script(move |seen| {
        if seen.method == "DELETE" {
            *state.lock().unwrap() = true;
            return Reply::new(204, "");
        }
        Reply::listing(if *state.lock().unwrap() { &[] } else { &["one"] })
    });
    let (x, y, both) = (pool(&rig, &["x"]), pool(&rig, &["y"]), pool(&rig, &["x", "y"]));
    for client in [&x, &y, &both] {
        assert_eq!(names(&client.list_runners(&acme()).await.unwrap()), ["one"]);
    }
    assert_eq!(both.remove_runner(&acme(), 1).await.unwrap(), Removal::Removed);
    for client in [&x, &y, &both] {
        assert!(client.list_runners(&acme()).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn budgets_are_metrics_without_any_secret() {
    let rig = Rig::new().await;
    let mut registry = Registry::default();
    Budgets::register(&rig.shared, &mut registry);
    let reset = rig.now() + SignedDuration::from_hours(1);
    rig.fake.script(move |seen| match seen.method.as_str() {
        "POST" => Reply::new(429, "{}").with("retry-after", 5),
        _ => Reply::listing(&["one"]).budget(42, reset),
    });
    let shown = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    };
    {
        let urls = Urls::resolve(&UrlSettings {
            api: Some(rig.fake.base.clone()),
            ..UrlSettings::default()
        });
        let login = Login::new("ns/login", token("s3ntinel"));
        let github = GitHub::pooled(vec![login], urls.unwrap(), &rig.shared).unwrap();
        github.list_runners(&acme()).await.unwrap();
        github.list_runners_fresh(&acme()).await.unwrap_err();
        github.registration_token(&acme()).await.unwrap_err();
        let text = shown();
        for line in [
            r#"muster_github_budget_limit{credential="ns/login",bucket="core"} 5000"#,
            r#"muster_github_budget_remaining{credential="ns/login",bucket="core"} 42"#,
            r#"muster_github_waits_total{credential="ns/login",lane="reconcile"} 1"#,
            r#"muster_github_refusals_total{credential="ns/login",limit="secondary"} 1"#,
            r#"muster_github_credential_accepted{credential="ns/login"} 1"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert_eq!(
            text.matches("s3ntinel").count(),
            text.matches("ns/s3ntinel").count()
        );
    }
    assert!(!shown().contains("ns/login"), "{}", shown());
}
