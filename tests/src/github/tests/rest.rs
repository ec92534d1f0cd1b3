use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::*;

#[tokio::test]
async fn lists_come_in_pages_with_absolute_links_and_can_be_filtered_by_name() {
    let github = started(FakeGitHubOptions::default()).await;
    for number in 0..45 {
        Agent::register(&github, organization(), &format!("r-{number}"), &["x"]).await;
    }
    for base in [github.base_url(), github.enterprise_api_url()] {
        let mut client = Client::new(&github);
        client.base = base;
        let first = client.get("orgs/acme/actions/runners?per_page=20").await;
        assert_eq!(
            (first.status, first.json()["total_count"].as_u64()),
            (200, Some(45))
        );
        assert!(
            first.header("link").contains("page=3&per_page=20>; rel=\"last\""),
            "{}",
            first.header("link")
        );
        let (mut names, mut next) = (Vec::new(), Some(first));
        while let Some(page) = next {
            let page_names = page.json()["runners"].as_array().unwrap().clone();
            names.extend(
                page_names
                    .iter()
                    .map(|runner| runner["name"].as_str().unwrap().to_owned()),
            );
            next = match page.next() {
                Some(url) => Some(client.get(&url).await),
                None => None,
            };
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 45);
    }
    let client = Client::new(&github);
    let one = client.get("orgs/ACME/actions/runners?name=r-7").await.json();
    assert_eq!(
        (one["total_count"].as_u64(), one["runners"][0]["name"].as_str()),
        (Some(1), Some("r-7"))
    );
    assert_eq!(one["runners"][0]["labels"][0]["type"], "read-only");
    assert_eq!(one["runners"][0]["labels"][3]["type"], "custom");
    let id = one["runners"][0]["id"].as_u64().unwrap();
    assert_eq!(
        client
            .get(&format!("orgs/acme/actions/runners/{id}"))
            .await
            .json()["name"],
        "r-7"
    );
    assert_eq!(
        client
            .get(&format!("orgs/other/actions/runners/{id}"))
            .await
            .status,
        404
    );
    assert_eq!(
        client.get("repos/acme/api/actions/runners").await.json()["total_count"],
        0
    );
}

#[tokio::test]
async fn a_known_etag_is_answered_304_and_costs_nothing() {
    let github = started(FakeGitHubOptions::default()).await;
    let client = Client::new(&github);
    let path = "orgs/acme/actions/runners?per_page=100";
    let first = client.get(path).await;
    assert_eq!(first.header("cache-control"), "private, max-age=60, s-maxage=60");
    assert_eq!(
        first.header("vary"),
        "Accept, Authorization, Cookie, X-GitHub-OTP"
    );
    assert_eq!(first.header("x-ratelimit-remaining"), "4999");
    let tag = first.header("etag").to_owned();
    let again = client
        .try_call("GET", path, &[("if-none-match", &tag)])
        .await
        .unwrap();
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    assert_eq!(
        (again.header("x-ratelimit-remaining"), again.header("etag")),
        ("4999", tag.as_str())
    );
    Agent::register(&github, organization(), "new", &[]).await;
    assert_eq!(
        client
            .try_call("GET", path, &[("if-none-match", &tag)])
            .await
            .unwrap()
            .status,
        200
    );
    let calls = github.calls(Family::ListRunners);
    assert_eq!((calls.total, calls.full, calls.not_modified), (3, 2, 1));
    assert_eq!(github.counters()["list_runners"], 3);
    assert_eq!(github.calls_per_minute(Family::ListRunners), [3]);
    let limit = client.get("rate_limit").await.json();
    assert_eq!(limit["rate"]["used"], 3, "two lists and a registration token");
}

#[tokio::test]
async fn callers_must_say_who_they_are() {
    let options = FakeGitHubOptions {
        basic: vec![("u".to_owned(), "p".to_owned())],
        rate_limit: 2,
        ..FakeGitHubOptions::default()
    };
    let github = started(options).await;
    let mut client = Client::new(&github);
    client.authorization = "Bearer wrong".to_owned();
    let refused = client.get("orgs/acme/actions/runners").await;
    assert_eq!(
        (refused.status, refused.json()["message"].as_str()),
        (401, Some("Bad credentials"))
    );
    client.authorization = format!("Basic {}", STANDARD.encode("u:p"));
    assert_eq!(client.get("orgs/acme/actions/runners").await.status, 200);
    assert_eq!(client.get("orgs/acme/actions/runners").await.status, 200);
    let exhausted = client.get("orgs/acme/actions/runners").await;
    assert_eq!(
        (exhausted.status, exhausted.header("x-ratelimit-remaining")),
        (403, "0")
    );
    assert_eq!(client.get("rate_limit").await.json()["rate"]["remaining"], 0);
    client.http = reqwest::Client::builder().no_proxy().build().unwrap();
    let nameless = client
        .try_call("GET", "rate_limit", &[("user-agent", "")])
        .await
        .unwrap();
    assert_eq!(nameless.status, 403);
    assert!(nameless.body.contains("User-Agent"));
}

#[tokio::test]
async fn a_busy_runner_cannot_be_removed() {
    let github = started(FakeGitHubOptions::default()).await;
    let client = Client::new(&github);
    let runner = Agent::register(&github, organization(), "r", &["x"]).await;
    let path = format!("orgs/acme/actions/runners/{}", runner.id);
    github.queue_job(job(&["x"]));
    let assignment = runner.job().await;
    let refused = client.call("DELETE", &path).await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.json()["message"]
            .as_str()
            .unwrap()
            .contains("is still running a job")
    );
    assert_eq!(runner.send("DELETE", "").await, 422);
    assert_eq!(runner.complete(&assignment, "success").await, 204);
    assert_eq!(
        client.call("DELETE", &path).await.status,
        404,
        "an ephemeral runner is gone after its job"
    );
    let idle = Agent::register(&github, organization(), "r", &["x"]).await;
    let polling = tokio::spawn(async move { idle.poll(10.0).await.0 });
    let idle_id = github.runners()[0].id;
    assert_eq!(
        client
            .call("DELETE", &format!("orgs/acme/actions/runners/{idle_id}"))
            .await
            .status,
        204
    );
    assert_eq!(polling.await.unwrap(), 410);
    assert_eq!(github.calls(Family::RemoveRunner).client_error, 2);
}

#[tokio::test]
async fn runs_and_jobs_are_listed_by_status() {
    let github = started(FakeGitHubOptions::default()).await;
    let client = Client::new(&github);
    let first = github.queue_job(job(&["x"]));
    let second = github.queue_job(job(&["x"]).in_run(first.run_id));
    github.queue_job(job(&["y"]));
    let list = |status: &'static str| {
        let client = &client;
        async move {
            let path = format!("repos/acme/api/actions/runs?status={status}&per_page=100");
            client.get(&path).await.json()["total_count"].as_u64().unwrap()
        }
    };
    assert_eq!((list("queued").await, list("in_progress").await), (2, 0));
    let runner = Agent::register(&github, organization(), "r", &["x"]).await;
    let assignment = runner.job().await;
    assert_eq!(assignment.job_id, first.id, "the oldest comes first");
    assert_eq!((list("queued").await, list("in_progress").await), (1, 1));
    let jobs = client
        .get(&format!(
            "repos/acme/api/actions/runs/{}/jobs?per_page=50",
            first.run_id
        ))
        .await
        .json();
    assert_eq!(jobs["total_count"], 2);
    assert_eq!(
        (
            jobs["jobs"][0]["status"].as_str(),
            jobs["jobs"][1]["status"].as_str()
        ),
        (Some("in_progress"), Some("queued"))
    );
    assert_eq!(jobs["jobs"][0]["runner_name"], "r");
    runner.complete(&assignment, "success").await;
    github.cancel_job(second.id);
    let run = client
        .get(&format!("repos/acme/api/actions/runs/{}", first.run_id))
        .await
        .json();
    assert_eq!(
        (run["status"].as_str(), run["conclusion"].as_str()),
        (Some("completed"), Some("cancelled"))
    );
    assert_eq!(list("completed").await, 1);
    let single = client
        .get(&format!("repos/acme/api/actions/jobs/{}", second.id))
        .await
        .json();
    assert_eq!(
        (single["conclusion"].as_str(), single["runner_id"].as_u64()),
        (Some("cancelled"), None)
    );
    assert_eq!(client.get("repos/acme/api/actions/jobs/1").await.status, 404);
    assert_eq!(
        client.get("repos/acme/none/actions/runs").await.json()["total_count"],
        0
    );
}

#[tokio::test]
async fn faults_strike_where_they_should_and_end() {
    let github = started(FakeGitHubOptions::default()).await;
    let client = Client::new(&github);
    let path = "orgs/acme/actions/runners";
    let minute = Duration::from_mins(1);
    github.inject(Fault::on(Family::ListRunners, FaultKind::Unauthorized).times(1));
    assert_eq!(client.get("rate_limit").await.status, 200);
    assert_eq!(client.get(path).await.status, 401);
    assert_eq!(client.get(path).await.status, 200);

    let primary = github.inject(Fault::everywhere(FaultKind::PrimaryRateLimit(minute)));
    let limited = client.get(path).await;
    assert_eq!(
        (limited.status, limited.header("x-ratelimit-remaining")),
        (403, "0")
    );
    let reset: i64 = limited.header("x-ratelimit-reset").parse().unwrap();
    assert!((55..=65).contains(&(reset - github.now().as_second())));
    github.clear_fault(primary);

    github.inject(Fault::everywhere(FaultKind::SecondaryRateLimit(minute)).times(1));
    let secondary = client.get(path).await;
    assert_eq!((secondary.status, secondary.header("retry-after")), (403, "60"));
    assert!(
        secondary.json()["documentation_url"]
            .as_str()
            .unwrap()
            .ends_with("#secondary-rate-limits")
    );
    for (kind, status) in [
        (FaultKind::TooManyRequests(minute), 429),
        (FaultKind::Forbidden, 403),
        (FaultKind::Status(502), 502),
        (FaultKind::Garbage, 200),
        (FaultKind::Chunked, 200),
        (FaultKind::Age(90), 200),
    ] {
        github.inject(Fault::everywhere(kind.clone()).times(1));
        let answer = client.get(path).await;
        assert_eq!(answer.status, status, "{kind:?}");
        match kind {
            FaultKind::Chunked => {
                assert_eq!(answer.header("transfer-encoding"), "chunked");
                assert_eq!(answer.json()["total_count"], 0);
            }
            FaultKind::Age(_) => assert_eq!(answer.header("age"), "90"),
            _ => {}
        }
    }
    for kind in [FaultKind::Reset, FaultKind::ResetAfter, FaultKind::CutBody] {
        github.inject(Fault::everywhere(kind.clone()).times(1));
        assert!(client.try_call("GET", path, &[]).await.is_err(), "{kind:?}");
    }
    assert_eq!(github.calls(Family::ListRunners).reset, 2);
    github.inject(Fault::everywhere(FaultKind::Slow(Duration::from_millis(80))).at_path("acme"));
    let began = Instant::now();
    assert_eq!(client.get(path).await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(80));
    github.clear_faults();

    github.set_dark(true);
    assert!(client.try_call("GET", path, &[]).await.is_err());
    github.set_dark(false);
    assert_eq!(client.get(path).await.status, 200);
}

fn jwt(issuer: &str, not_before: i64, expires: i64) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"iss": issuer, "iat": not_before, "exp": expires});
    format!(
        "{}.{}.c2ln",
        part(json!({"alg": "RS256", "typ": "JWT"})),
        part(claims)
    )
}

#[tokio::test]
async fn an_app_exchanges_a_fresh_jwt_for_an_installation_token() {
    let app = FakeApp {
        app_id: "12".to_owned(),
        installation_id: 34,
        public_key: None,
    };
    let github = started(FakeGitHubOptions {
        apps: vec![app],
        ..FakeGitHubOptions::default()
    })
    .await;
    let mut client = Client::new(&github);
    let path = "app/installations/34/access_tokens";
    assert_eq!(
        client.call("POST", path).await.status,
        401,
        "a person's token is no JWT"
    );
    let now = github.now().as_second();
    for (bad, status) in [
        (jwt("12", now - 300, now - 10), 401),
        (jwt("12", now - 30, now + 1200), 401),
        (jwt("12", now + 60, now + 120), 401),
        (jwt("13", now - 30, now + 90), 401),
    ] {
        client.authorization = format!("Bearer {bad}");
        assert_eq!(client.call("POST", path).await.status, status);
    }
    client.authorization = format!("Bearer {}", jwt("12", now - 30, now + 90));
    assert_eq!(
        client
            .call("POST", "app/installations/35/access_tokens")
            .await
            .status,
        404
    );
    let issued = client.call("POST", path).await;
    assert_eq!(issued.status, 201);
    let expires: Timestamp = issued.json()["expires_at"].as_str().unwrap().parse().unwrap();
    assert!((3590..=3600).contains(&(expires.as_second() - now)));
    assert_eq!(
        client.get("orgs/acme/actions/runners").await.status,
        401,
        "an app itself lists no runners"
    );
    client.authorization = format!("token {}", issued.json()["token"].as_str().unwrap());
    assert_eq!(client.get("orgs/acme/actions/runners").await.status, 200);
    github.set_clock_offset(SignedDuration::from_mins(61));
    assert_eq!(
        client.get("orgs/acme/actions/runners").await.status,
        401,
        "an hour later it is worth nothing"
    );
}

#[tokio::test]
async fn a_configured_public_key_decides_about_signatures() {
    use aws_lc_rs::encoding::AsDer as _;
    let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let pem = |label: &str, der: &[u8]| {
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            STANDARD.encode(der)
        )
    };
    let private: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let private = pem("PRIVATE KEY", private.as_ref());
    let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> =
        aws_lc_rs::signature::KeyPair::public_key(&pair).as_der().unwrap();
    let public_key = Some(pem("PUBLIC KEY", public.as_ref()));
    let app = FakeApp {
        app_id: "Iv1.x".to_owned(),
        installation_id: 34,
        public_key,
    };
    let github = started(FakeGitHubOptions {
        apps: vec![app],
        ..FakeGitHubOptions::default()
    })
    .await;
    let now = github.now().as_second();
    let mut client = Client::new(&github);
    client.authorization = format!("Bearer {}", jwt("Iv1.x", now - 30, now + 90));
    assert_eq!(
        client
            .call("POST", "app/installations/34/access_tokens")
            .await
            .status,
        401
    );
    let good = jsonwebtoken::encode(
        &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256),
        &json!({"iss": "Iv1.x", "iat": now - 30, "exp": now + 90}),
        &jsonwebtoken::EncodingKey::from_rsa_pem(private.as_bytes()).unwrap(),
    );
    client.authorization = format!("Bearer {}", good.unwrap());
    assert_eq!(
        client
            .call("POST", "app/installations/34/access_tokens")
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn runner_groups_are_visible_to_the_repositories_they_name() {
    let github = started(FakeGitHubOptions::default()).await;
    let client = Client::new(&github);
    let spec = RunnerGroupSpec {
        scope: organization(),
        name: "team-a".to_owned(),
        repositories: Some(vec!["acme/other".to_owned()]),
    };
    let group = github.add_runner_group(&spec);
    let visible = |repo: &'static str| {
        let client = &client;
        async move {
            let path = format!("orgs/acme/actions/runner-groups?visible_to_repository={repo}&per_page=100");
            client.get(&path).await.json()["runner_groups"]
                .as_array()
                .unwrap()
                .len()
        }
    };
    assert_eq!((visible("api").await, visible("other").await), (1, 2));
    assert_eq!(
        Agent::try_register(&github, organization(), "x", &["x"], Some("none"))
            .await
            .err(),
        Some(404)
    );
    let runner = Agent::try_register(&github, organization(), "r", &["x"], Some("team-a"))
        .await
        .unwrap();
    let queued = github.queue_job(job(&["x"]));
    assert_eq!(
        runner.poll(0.05).await.0,
        204,
        "the group does not serve acme/api"
    );
    let polling = tokio::spawn(async move { runner.job().await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    github.set_group_repositories(group, None);
    assert_eq!(polling.await.unwrap().job_id, queued.id);
    assert_eq!(
        github.job(queued.id).unwrap().runner.unwrap().group_name,
        "team-a"
    );
}

#[tokio::test]
async fn a_finished_jobs_log_is_elsewhere_and_wants_no_credential() {
    let github = started(FakeGitHubOptions::default()).await;
    let id = github.queue_job(job(&["x"]).fails_with(137)).id;
    let client = Client::new(&github);
    let path = format!("repos/acme/api/actions/jobs/{id}/logs");
    assert_eq!(client.get(&path).await.status, 404, "there is no log yet");
    assert!(github.start_elsewhere(id, "r-1") && github.complete_job(id, "success"));
    assert_eq!(
        client.get(&path.replace("acme/api", "acme/web")).await.status,
        404
    );
    let plain = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let asked = plain
        .get(format!("{}{path}", github.base_url()))
        .header("user-agent", "test")
        .bearer_auth(DEFAULT_TOKEN);
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 302);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let with_credential = plain
        .get(&location)
        .bearer_auth(DEFAULT_TOKEN)
        .send()
        .await
        .unwrap();
    assert_eq!(with_credential.status(), 403);
    let unsigned = location.split('?').next().unwrap();
    assert_eq!(plain.get(unsigned).send().await.unwrap().status(), 403);
    let log = plain.get(&location).send().await.unwrap().text().await.unwrap();
    assert!(
        log.starts_with("\u{feff}20") && log.contains("Waiting for a runner to pick up this job...\r\n"),
        "{log}"
    );
    assert!(
        log.contains("##[error]Process completed with exit code 137."),
        "{log}"
    );
    let calls = |family| github.calls(family).total;
    assert_eq!((calls(Family::JobLog), calls(Family::LogFile)), (3, 3));
}
