//! Each operation's answers, deadlines, limits; and that secrets stay out of errors.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use muster_core::scope::Scope;
use muster_github::{Auth, BuildError, Error, ErrorClass, GitHub, Removal, Shared, UrlSettings, Urls};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use crate::fake::{Fake, Reply, Rig, acme, render, token};

#[tokio::test]
async fn requests_carry_githubs_headers() {
    let rig = Rig::new().await;
    let basic = Auth::Basic {
        username: " me ".into(),
        password: SecretString::from("pw\n"),
    };
    for (auth, header) in [(token(" tkn\n"), "Bearer tkn"), (basic, "Basic bWU6cHc=")] {
        let github = rig.client(auth);
        rig.fake.script(|_| Reply::listing(&[]));
        github.list_runners(&acme()).await.unwrap();
        rig.fake.script(|_| Reply::new(204, ""));
        github.remove_runner(&acme(), 7).await.unwrap();
        let expires_at = rig.now() + SignedDuration::from_hours(1);
        rig.fake
            .script(move |_| Reply::new(201, json!({"token": "t", "expires_at": expires_at})));
        github.registration_token(&acme()).await.unwrap();
        let seen = rig.fake.take();
        for request in &seen {
            assert_eq!(request.header("authorization"), header);
            assert_eq!(request.header("user-agent"), "actions-runner-controller/1.2.3");
            assert_eq!(request.header("accept"), "application/vnd.github.v3+json");
            assert_eq!(request.header("x-github-api-version"), "2022-11-28");
        }
        let lines: Vec<_> = seen
            .iter()
            .map(|request| format!("{} {}", request.method, request.path))
            .collect();
        assert_eq!(
            lines,
            [
                "GET /orgs/acme/actions/runners?per_page=100",
                "DELETE /orgs/acme/actions/runners/7",
                "POST /orgs/acme/actions/runners/registration-token",
            ]
        );
        assert_eq!(seen[2].header("content-length"), "0");
    }
}

#[tokio::test]
async fn a_base_path_that_begins_like_the_calls_path_is_kept() {
    let rig = Rig::new().await;
    let github = rig.client_at(&format!("{}/o", rig.fake.base), token("a"));
    rig.fake.script(|_| Reply::listing(&[]));
    github.list_runners(&acme()).await.unwrap();
    assert_eq!(
        rig.fake.take()[0].path,
        "/o/orgs/acme/actions/runners?per_page=100"
    );
}

#[tokio::test]
async fn a_build_without_a_version_says_so() {
    let fake = Fake::start().await;
    fake.script(|_| Reply::listing(&[]));
    let shared = Shared::builder(Arc::new(|| Timestamp::UNIX_EPOCH))
        .without_proxy()
        .build()
        .unwrap();
    let urls = Urls::resolve(&UrlSettings {
        api: Some(fake.base.clone()),
        ..UrlSettings::default()
    });
    let github = GitHub::new(token("a"), urls.unwrap(), &shared).unwrap();
    github.list_runners(&acme()).await.unwrap();
    assert_eq!(
        fake.take()[0].header("user-agent"),
        "actions-runner-controller/NA"
    );
}

#[tokio::test]
async fn nothing_to_list_is_an_empty_list() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake.script(|_| Reply::new(204, ""));
    assert!(github.list_runners(&acme()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_removal_has_three_answers_and_everything_else_is_an_error() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let busy = r#"{"message":"Bad request - Runner \"example-1\" is still running a job\""}"#;
    let table = [
        (204, "", Some(Removal::Removed), None),
        (404, "{}", Some(Removal::Gone), None),
        (
            422,
            busy,
            Some(Removal::Busy {
                message: r#"Bad request - Runner "example-1" is still running a job""#.into(),
            }),
            None,
        ),
        (
            422,
            "",
            Some(Removal::Busy {
                message: "Unprocessable Entity".into(),
            }),
            None,
        ),
        (200, "{}", None, Some(ErrorClass::Rejected)),
        (202, "{}", None, Some(ErrorClass::Rejected)),
        (401, "{}", None, Some(ErrorClass::Unauthorized)),
        (403, "{}", None, Some(ErrorClass::Forbidden)),
        (409, "{}", None, Some(ErrorClass::Rejected)),
        (500, "", None, Some(ErrorClass::Unavailable)),
        (502, "<html>", None, Some(ErrorClass::Unavailable)),
    ];
    for (status, body, removal, class) in table {
        rig.fake.script(move |_| Reply::new(status, body));
        let result = github.remove_runner(&acme(), 1).await;
        assert_eq!(result.as_ref().err().map(Error::class), class, "{status}");
        assert_eq!(result.ok(), removal, "{status}");
        assert_eq!(rig.fake.count(), 1, "no retries inside");
    }
}

#[tokio::test]
async fn a_registration_token_is_shared_while_it_is_good_for_more_than_half_an_hour() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let mut issued = 0;
    let (now, start) = (rig.now(), rig.now());
    rig.fake.script(move |_| {
        issued += 1;
        let expires_at = start + SignedDuration::from_mins(60 * issued);
        Reply::new(
            201,
            json!({"token": format!("token-{issued}"), "expires_at": expires_at}),
        )
        .after(Duration::from_millis(20))
    });
    let scope = acme();
    let all = futures::future::join_all((0..30).map(|_| github.registration_token(&scope))).await;
    assert!(
        all.iter()
            .all(|token| token.as_ref().unwrap().token.expose_secret() == "token-1")
    );
    assert_eq!(
        all[0].as_ref().unwrap().expires_at,
        now + SignedDuration::from_mins(60)
    );
    rig.advance(SignedDuration::from_secs(30 * 60 - 1));
    assert_eq!(
        github.registration_token(&scope).await.unwrap().expose(),
        "token-1"
    );
    assert_eq!(rig.fake.count(), 1);
    rig.advance(SignedDuration::from_secs(1));
    assert_eq!(
        github.registration_token(&scope).await.unwrap().expose(),
        "token-2"
    );
    assert_eq!(rig.fake.count(), 1);
    // Neither another scope nor another credential gets it; an equal credential does.
    let repository = Scope::Repository {
        owner: "acme".into(),
        name: "api".into(),
    };
    assert_eq!(
        github.registration_token(&repository).await.unwrap().expose(),
        "token-3"
    );
    assert_eq!(
        rig.client(token("b"))
            .registration_token(&scope)
            .await
            .unwrap()
            .expose(),
        "token-4"
    );
    assert_eq!(
        rig.client(token("a"))
            .registration_token(&scope)
            .await
            .unwrap()
            .expose(),
        "token-2"
    );
}

#[tokio::test]
async fn only_201_with_a_token_is_a_registration_token() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let answer = json!({"token": "t", "expires_at": rig.now() + SignedDuration::from_hours(1)}).to_string();
    let table = [
        (200, answer.as_str(), ErrorClass::Rejected),
        (202, answer.as_str(), ErrorClass::Rejected),
        (204, "", ErrorClass::Rejected),
        (201, "", ErrorClass::Bug),
        (201, "{}", ErrorClass::Bug),
        (201, r#"{"token":"t","expires_at":"soon"}"#, ErrorClass::Bug),
        (400, "{}", ErrorClass::Rejected),
        (401, "{}", ErrorClass::Unauthorized),
        (403, "{}", ErrorClass::Forbidden),
        (404, "{}", ErrorClass::NotFound),
        (422, "{}", ErrorClass::Rejected),
        (503, "{}", ErrorClass::Unavailable),
    ];
    for (status, body, class) in table {
        let reply = Reply::new(status, body);
        rig.fake.script(move |_| reply.clone());
        assert_eq!(
            github.registration_token(&acme()).await.unwrap_err().class(),
            class,
            "{status} {body}"
        );
        assert_eq!(rig.fake.count(), 1, "errors are not kept");
    }
}

#[tokio::test]
async fn a_used_up_budget_stops_calls_without_io_until_its_reset() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let reset = rig.now() + SignedDuration::from_mins(10);
    rig.fake
        .script(move |_| Reply::listing(&["one"]).budget(0, reset));
    github.list_runners(&acme()).await.unwrap();
    rig.fake.take();
    rig.observer.outcomes();

    let throttled = ErrorClass::Throttled { until: Some(reset) };
    assert_eq!(
        github.remove_runner(&acme(), 1).await.unwrap_err().class(),
        throttled
    );
    assert_eq!(
        github.list_runners_fresh(&acme()).await.unwrap_err().class(),
        throttled
    );
    assert_eq!(
        github.list_runners(&acme()).await.unwrap().len(),
        1,
        "the cache still answers"
    );
    assert_eq!(
        rig.client(token("a"))
            .remove_runner(&acme(), 1)
            .await
            .unwrap_err()
            .class(),
        throttled
    );
    assert_eq!(rig.fake.count(), 0);
    assert!(rig.observer.outcomes().is_empty());
    assert_eq!(rig.observer.held.load(std::sync::atomic::Ordering::SeqCst), 3);

    rig.fake.script(|_| Reply::new(204, ""));
    assert_eq!(
        rig.client(token("b")).remove_runner(&acme(), 1).await.unwrap(),
        Removal::Removed,
        "another's budget"
    );
    rig.advance(SignedDuration::from_mins(10));
    assert_eq!(github.remove_runner(&acme(), 1).await.unwrap(), Removal::Removed);
}

#[tokio::test]
async fn announced_limits_are_kept() {
    let secondary =
        json!({"message": "slow", "documentation_url": "https://docs.github.com/x#secondary-rate-limits"});
    let table = [
        ("primary 403", Reply::new(403, "{}"), Some(0), 600),
        ("primary 429", Reply::new(429, "{}"), Some(0), 600),
        (
            "secondary",
            Reply::new(403, &secondary).with("retry-after", 30),
            None,
            30,
        ),
        ("secondary without a time", Reply::new(403, &secondary), None, 60),
        ("429", Reply::new(429, "").with("retry-after", 7), None, 7),
    ];
    for (what, reply, remaining, seconds) in table {
        let rig = Rig::new().await;
        let github = rig.client(token("a"));
        let reset = rig.now() + SignedDuration::from_mins(10);
        rig.fake.script(move |_| match remaining {
            Some(remaining) => reply.clone().budget(remaining, reset),
            None => reply.clone(),
        });
        let until = rig.now() + SignedDuration::from_secs(seconds);
        for requests in [1, 0] {
            let error = github.remove_runner(&acme(), 1).await.unwrap_err();
            assert_eq!(
                error.class(),
                ErrorClass::Throttled { until: Some(until) },
                "{what}"
            );
            assert_eq!(rig.fake.count(), requests, "{what}");
        }
        assert_eq!(
            rig.observer.outcomes(),
            [(("remove_runner", "throttled"), 1)].into(),
            "{what}"
        );
        rig.fake.script(|_| Reply::new(204, ""));
        rig.advance(SignedDuration::from_secs(seconds - 1));
        github.remove_runner(&acme(), 1).await.unwrap_err();
        rig.advance(SignedDuration::from_secs(1));
        github.remove_runner(&acme(), 1).await.unwrap();
    }
}

#[tokio::test]
async fn a_github_that_does_not_answer_costs_a_crowd_one_deadline() {
    let rig = Rig::with(|builder| builder.request_timeout(Duration::from_millis(300))).await;
    let github = rig.client(token("a"));
    rig.fake
        .script(|_| Reply::new(204, "").after(Duration::from_secs(30)));
    let started = std::time::Instant::now();
    let scope = acme();
    let all = futures::future::join_all((0..10).map(|_| github.list_runners(&scope))).await;
    assert!(
        all.iter()
            .all(|result| result.as_ref().unwrap_err().class() == ErrorClass::Unavailable)
    );
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(rig.fake.count(), 1);
    assert_eq!(rig.observer.outcomes(), [(("list_runners", "network"), 1)].into());
}

#[tokio::test]
async fn refused_and_broken_connections_are_unavailable() {
    let rig = Rig::with(|builder| builder.connect_timeout(Duration::from_millis(100))).await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let error = rig
        .client_at(&address, token("a"))
        .remove_runner(&acme(), 7)
        .await
        .unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable);
    assert_eq!(
        error.to_string(),
        "could not remove runner 7 of acme: GitHub cannot be reached"
    );
    rig.fake.script(|_| Reply::broken());
    let error = rig
        .client(token("a"))
        .registration_token(&acme())
        .await
        .unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_read() {
    let rig = Rig::with(|builder| builder.max_body(1000)).await;
    let github = rig.client(token("a"));
    rig.fake
        .script(|_| Reply::new(200, format!(r#"{{"runners":[]}}{}"#, " ".repeat(1000))));
    let error = github.list_runners(&acme()).await.unwrap_err();
    assert!(
        matches!(error, Error::TooLarge { limit: 1000, .. }),
        "{}",
        render(&error)
    );
    rig.fake
        .script(|_| Reply::new(200, format!(r#"{{"runners":[]}}{}"#, " ".repeat(900))));
    github.list_runners(&acme()).await.unwrap();
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_only() {
    let rig = Rig::new().await;
    let elsewhere = Fake::start().await;
    let github = rig.client(token("a"));
    rig.fake.script(|seen| match seen.path.as_str() {
        "/moved" => Reply::listing(&["one"]),
        _ => Reply::new(307, "").with("location", "/moved"),
    });
    assert_eq!(github.list_runners(&acme()).await.unwrap().len(), 1);
    assert_eq!(rig.fake.take()[1].header("authorization"), "Bearer a");

    let away = elsewhere.base.clone();
    rig.fake
        .script(move |_| Reply::new(307, "").with("location", &away));
    assert_eq!(
        github.list_runners_fresh(&acme()).await.unwrap_err().class(),
        ErrorClass::Rejected
    );
    assert_eq!(elsewhere.count(), 0);
    rig.fake
        .script(|_| Reply::new(307, "").with("location", "/again"));
    github.list_runners_fresh(&acme()).await.unwrap_err();
}

#[tokio::test]
async fn impossible_scopes_cause_no_call() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let scope = Scope::Repository {
        owner: "acme".into(),
        name: "..".into(),
    };
    assert_eq!(
        github.list_runners(&scope).await.unwrap_err().class(),
        ErrorClass::Rejected
    );
    assert_eq!(
        github.remove_runner(&scope, 1).await.unwrap_err().class(),
        ErrorClass::Rejected
    );
    assert_eq!(
        github.registration_token(&scope).await.unwrap_err().class(),
        ErrorClass::Rejected
    );
    assert_eq!(rig.fake.count(), 0);
}

#[tokio::test]
async fn secrets_stay_out_of_every_error_and_rendering() {
    const SECRET: &str = "s3ntinel-of-the-token";
    let rig = Rig::new().await;
    let basic = Auth::Basic {
        username: "me".into(),
        password: SecretString::from(SECRET),
    };
    for auth in [token(SECRET), basic] {
        let github = rig.client(auth.clone());
        // A server or proxy that repeats what it was sent, and answers that hold tokens in the wrong place.
        for status in [
            200, 201, 202, 204, 302, 400, 401, 403, 404, 409, 418, 422, 429, 500, 503,
        ] {
            for shape in 0..4 {
                rig.fake.script(move |seen| {
                    let sent = seen
                        .header("authorization")
                        .split_once(' ')
                        .map(|(_, sent)| sent.to_owned())
                        .unwrap();
                    match shape {
                        0 => Reply::new(
                            status,
                            json!({"message": format!("no {sent} nor {SECRET} here"), "token": 5}),
                        ),
                        1 => Reply::new(
                            status,
                            json!({"token": {"x": SECRET}, "expires_at": SECRET, "runners": SECRET}),
                        ),
                        2 => Reply::new(
                            status,
                            json!({"token": SECRET, "expires_at": SECRET, "runners": [SECRET]}),
                        ),
                        _ => Reply::new(status, sent).with("x-odd", SECRET),
                    }
                });
                let errors = [
                    github.list_runners_fresh(&acme()).await.err(),
                    github.remove_runner(&acme(), 1).await.err(),
                    github.registration_token(&acme()).await.err(),
                ];
                for error in errors.into_iter().flatten() {
                    let text = render(&error);
                    assert!(!text.contains(SECRET), "{text}");
                    assert!(!text.contains("bWU6"), "{text}");
                }
                rig.advance(SignedDuration::from_hours(2));
            }
        }
        let expires_at = rig.now() + SignedDuration::from_hours(1);
        rig.fake
            .script(move |_| Reply::new(201, json!({"token": SECRET, "expires_at": expires_at})));
        let registration = github.registration_token(&acme()).await.unwrap();
        let text = format!(
            "{auth:?} {github:?} {:?} {registration:?} {:?}",
            rig.shared, rig.observer
        );
        assert!(!text.contains(SECRET) && !text.contains("bWU6"), "{text}");
    }
}

#[test]
fn a_client_outside_of_a_runtime_is_an_error_not_a_panic() {
    let shared = Shared::builder(std::sync::Arc::new(|| jiff::Timestamp::UNIX_EPOCH))
        .build()
        .unwrap();
    let urls = Urls::resolve(&UrlSettings::default()).unwrap();
    assert_eq!(
        GitHub::new(token("a"), urls, &shared).unwrap_err(),
        BuildError::NoRuntime
    );
}

#[tokio::test]
async fn addresses_that_are_none_are_refused() {
    let rig = Rig::new().await;
    let mut urls = Urls::resolve(&UrlSettings::default()).unwrap();
    urls.app_token = "nonsense".into();
    assert_eq!(
        GitHub::new(token("a"), urls, &rig.shared).unwrap_err(),
        BuildError::Address { what: "app token" }
    );
    let version = Shared::builder(std::sync::Arc::new(|| jiff::Timestamp::UNIX_EPOCH))
        .version("1\n2")
        .build();
    assert_eq!(version.unwrap_err(), BuildError::Characters { what: "version" });
}
