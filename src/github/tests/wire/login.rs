//! GitHub Apps: JWT, installation token, its reuse and its refusals.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::{SignedDuration, Timestamp};
use muster_github::{Auth, CallFamily, ErrorClass};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use crate::fake::{Reply, Rig, Seen, acme, render};

/// A key made for this run, so that no key lies in the repository.
pub(crate) struct Key {
    pkcs1: String,
    pub(crate) pkcs8: String,
    public: Vec<u8>,
}

pub(crate) fn key() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let pem = |label: &str, der: &[u8]| {
            let text = BASE64_STANDARD.encode(der);
            let lines: Vec<_> = text
                .as_bytes()
                .chunks(64)
                .map(|line| std::str::from_utf8(line).unwrap())
                .collect();
            format!(
                "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
                lines.join("\n")
            )
        };
        // PKCS#8 is 26 bytes of wrapping around PKCS#1 for a key of this size.
        Key {
            pkcs1: pem("RSA PRIVATE KEY", der.as_ref().get(26..).unwrap()),
            pkcs8: pem("PRIVATE KEY", der.as_ref()),
            public: pair.public_key().as_ref().to_vec(),
        }
    })
}

pub(crate) fn app(pem: &str) -> Auth {
    Auth::App {
        app_id: " 1234\n".into(),
        installation_id: 42,
        private_key: SecretString::from(pem),
    }
}

fn is_exchange(seen: &Seen) -> bool {
    seen.path.starts_with("/app/")
}

/// Issues `ghs_1`, `ghs_2`, … for an hour each, and empty listings.
fn issue(rig: &Rig, delay: Duration) {
    let mut issued = 0;
    let issued_at: Arc<Mutex<Timestamp>> = Arc::new(Mutex::new(rig.now()));
    rig.fake.script(move |seen| {
        if is_exchange(seen) {
            issued += 1;
            let mut at = issued_at.lock().unwrap();
            let expires_at = *at + SignedDuration::from_hours(1);
            *at = expires_at;
            let answer =
                json!({"token": format!("ghs_{issued}"), "expires_at": expires_at, "permissions": {}});
            return Reply::new(201, answer).after(delay);
        }
        Reply::new(200, r#"{"runners":[]}"#)
    });
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    iat: i64,
    exp: i64,
}

#[tokio::test]
async fn an_app_logs_in_with_a_signed_jwt_and_uses_the_installations_token() {
    for pem in [&key().pkcs1, &key().pkcs8, &format!("\n  {}  \n", key().pkcs8)] {
        let rig = Rig::new().await;
        let github = rig.client(app(pem));
        issue(&rig, Duration::ZERO);
        github.list_runners(&acme()).await.unwrap();
        let seen = rig.fake.take();
        assert_eq!(seen.len(), 2);
        assert_eq!(
            (seen[0].method.as_str(), seen[0].path.as_str()),
            ("POST", "/app/installations/42/access_tokens")
        );
        assert_eq!(seen[0].header("accept"), "application/vnd.github.v3+json");
        assert_eq!(seen[0].header("user-agent"), "actions-runner-controller/1.2.3");
        assert_eq!(seen[0].header("content-length"), "0");
        assert_eq!(seen[1].header("authorization"), "token ghs_1");

        let jwt = seen[0].header("authorization").strip_prefix("Bearer ").unwrap();
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
        rules.validate_exp = false;
        let public = jsonwebtoken::DecodingKey::from_rsa_der(&key().public);
        let claims = jsonwebtoken::decode::<Claims>(jwt, &public, &rules)
            .unwrap()
            .claims;
        let now = rig.now().as_second();
        assert_eq!(claims.iss, "1234");
        assert!((30..=60).contains(&(now - claims.iat)), "back-dated");
        assert!(claims.exp > now + 60 && claims.exp - claims.iat <= 600);
        let outcomes = [(("installation_token", "ok"), 1), (("list_runners", "ok"), 1)];
        assert_eq!(rig.observer.outcomes(), outcomes.into());
    }
}

#[tokio::test]
async fn the_installation_token_is_shared_until_a_minute_before_its_end() {
    let rig = Rig::new().await;
    let github = rig.client(app(&key().pkcs8));
    issue(&rig, Duration::from_millis(20));
    let scopes: Vec<_> = (0..8)
        .map(|at| muster_core::scope::Scope::Organization(format!("org{at}")))
        .collect();
    let all = futures::future::join_all(scopes.iter().map(|scope| github.list_runners(scope))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(rig.fake.take().iter().filter(|seen| is_exchange(seen)).count(), 1);
    // A client that is built again, for instance because its Secret was read again, logs in with the same token.
    let again = rig.client(app(&key().pkcs8));
    rig.advance(SignedDuration::from_secs(59 * 60 - 1));
    again.list_runners_fresh(&acme()).await.unwrap();
    assert_eq!(
        rig.fake
            .take()
            .iter()
            .map(|seen| seen.header("authorization"))
            .collect::<Vec<_>>(),
        ["token ghs_1"]
    );
    rig.advance(SignedDuration::from_secs(1));
    github.list_runners_fresh(&acme()).await.unwrap();
    let seen = rig.fake.take();
    assert_eq!((seen.len(), seen[1].header("authorization")), (2, "token ghs_2"));
}

#[tokio::test]
async fn a_token_that_is_not_accepted_is_not_used_again() {
    let rig = Rig::new().await;
    let github = rig.client(app(&key().pkcs8));
    let expires_at = rig.now() + SignedDuration::from_hours(1);
    let mut issued = 0;
    rig.fake.script(move |seen| {
        if is_exchange(seen) {
            issued += 1;
            return Reply::new(
                201,
                json!({"token": format!("ghs_{issued}"), "expires_at": expires_at}),
            );
        }
        match seen.header("authorization") {
            "token ghs_1" => Reply::new(401, r#"{"message":"Bad credentials"}"#),
            _ => Reply::new(204, ""),
        }
    });
    assert_eq!(
        github.remove_runner(&acme(), 1).await.unwrap_err().class(),
        ErrorClass::Unauthorized
    );
    github.remove_runner(&acme(), 1).await.unwrap();
    github.remove_runner(&acme(), 1).await.unwrap();
    assert_eq!(rig.fake.take().iter().filter(|seen| is_exchange(seen)).count(), 2);
}

#[tokio::test]
async fn a_failed_login_is_no_answer_about_the_runner() {
    let table = [
        (401, "{}", ErrorClass::Unauthorized),
        (403, "{}", ErrorClass::Unauthorized),
        (404, "{}", ErrorClass::Unauthorized),
        (422, "{}", ErrorClass::Unauthorized),
        (500, "{}", ErrorClass::Unavailable),
        (201, r#"{"token":5}"#, ErrorClass::Bug),
    ];
    for (status, body, class) in table {
        let rig = Rig::new().await;
        let github = rig.client(app(&key().pkcs8));
        rig.fake
            .script(move |_| Reply::new(status, body).after(Duration::from_millis(20)));
        let scope = acme();
        let all = futures::future::join_all((1..=8).map(|id| github.remove_runner(&scope, id))).await;
        for (at, result) in all.into_iter().enumerate() {
            let error = result.unwrap_err();
            assert_eq!(error.class(), class, "{status}: {}", render(&error));
            assert_eq!(error.attempt().family(), CallFamily::RemoveRunner);
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("could not remove runner {} of acme", at + 1))
            );
        }
        assert_eq!(rig.fake.count(), 1, "eight callers share one failed login");
    }
}

#[tokio::test]
async fn the_apps_own_limit_is_kept_too() {
    let rig = Rig::new().await;
    let github = rig.client(app(&key().pkcs8));
    rig.fake.script(|_| Reply::new(429, "{}").with("retry-after", 30));
    let until = Some(rig.now() + SignedDuration::from_secs(30));
    for requests in [1, 0] {
        let error = github.remove_runner(&acme(), 1).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Throttled { until });
        assert_eq!(rig.fake.count(), requests);
    }
}

#[tokio::test]
async fn listings_survive_nothing_but_the_rotation_of_a_token_costs_one_full_answer() {
    let rig = Rig::new().await;
    let github = rig.client(app(&key().pkcs8));
    let start = rig.now();
    let mut issued = 0;
    rig.fake.script(move |seen| {
        if is_exchange(seen) {
            issued += 1;
            let expires_at = start + SignedDuration::from_hours(issued);
            return Reply::new(
                201,
                json!({"token": format!("ghs_{issued}"), "expires_at": expires_at}),
            );
        }
        Reply::listing(&["one"]).etag(seen, "\"v1\"")
    });
    github.list_runners(&acme()).await.unwrap();
    github.list_runners(&acme()).await.unwrap();
    assert_eq!(rig.fake.count(), 2);
    rig.advance(SignedDuration::from_mins(60));
    github.list_runners(&acme()).await.unwrap();
    github.list_runners(&acme()).await.unwrap();
    let seen = rig.fake.take();
    assert_eq!(seen.len(), 2, "login and one listing");
    assert_eq!(
        seen[1].header("if-none-match"),
        "",
        "GitHub varies on Authorization"
    );
}

#[tokio::test]
async fn no_part_of_a_key_is_ever_shown() {
    let rig = Rig::new().await;
    let middle: String = key().pkcs8.lines().nth(3).unwrap().into();
    let broken = key()
        .pkcs8
        .replace(&middle, &middle.chars().rev().collect::<String>());
    let urls = muster_github::Urls::resolve(&muster_github::UrlSettings::default()).unwrap();
    let ec = key().pkcs8.replace("PRIVATE KEY", "EC PRIVATE KEY");
    for pem in [broken.as_str(), ec.as_str(), &middle, "", "/run/secrets/key.pem"] {
        let Err(error) = muster_github::GitHub::new(app(pem), urls.clone(), &rig.shared) else {
            continue;
        };
        let text = render(&error);
        assert!(
            text.contains("1234") && !text.contains(&middle) && !text.contains("-----"),
            "{text}"
        );
        for line in pem.lines().filter(|line| !line.is_empty()) {
            assert!(!text.contains(line), "{text}");
        }
    }
    let github = rig.client(app(&key().pkcs8));
    rig.fake.script(|seen| {
        Reply::new(
            403,
            json!({"message": seen.header("authorization").strip_prefix("Bearer ").unwrap()}),
        )
    });
    let text = render(&github.list_runners(&acme()).await.unwrap_err())
        + &format!("{github:?} {:?}", app(&key().pkcs8));
    assert!(!text.contains("eyJ") && !text.contains(&middle), "{text}");
}
