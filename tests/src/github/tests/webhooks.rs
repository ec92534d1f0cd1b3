use super::*;

const SECRET: &str = "s3cr3t";

async fn with_hook(options: FakeGitHubOptions) -> (FakeGitHub, Receiver, u64) {
    let (receiver, url) = Receiver::start().await;
    let github = started(options).await;
    let hook = github.add_hook(HookSpec::organization("acme", &url, SECRET));
    (github, receiver, hook)
}

async fn sent(github: &FakeGitHub) {
    github.await_webhooks_sent(Duration::from_secs(20)).await.unwrap();
}

async fn run(github: &FakeGitHub, name: &str, conclusion: &str) -> u64 {
    let runner = Agent::register(github, organization(), name, &["x"]).await;
    let assignment = runner.job().await;
    runner.complete(&assignment, conclusion).await;
    assignment.job_id
}

#[tokio::test]
async fn every_step_of_a_job_is_told_with_a_good_signature() {
    let (github, receiver, hook) = with_hook(FakeGitHubOptions::default()).await;
    github.add_hook(HookSpec::repository("acme/unrelated", "http://127.0.0.1:1/", ""));
    let waiting = github.queue_job(job(&["x"]).waiting());
    sent(&github).await;
    assert!(github.release_job(waiting.id));
    sent(&github).await;
    let runner = Agent::register(&github, organization(), "r", &["x"]).await;
    let assignment = runner.job().await;
    sent(&github).await;
    runner.complete(&assignment, "success").await;
    sent(&github).await;
    let names: Vec<String> = receiver.actions().into_iter().map(|(action, _)| action).collect();
    assert_eq!(names, ["waiting", "queued", "in_progress", "completed"]);
    let seen = lock(&receiver.seen).clone();
    for (headers, body) in &seen {
        assert_eq!(
            headers["x-hub-signature-256"],
            signature_sha256(SECRET.as_bytes(), body).as_str()
        );
        assert_eq!(
            headers["x-hub-signature"],
            signature_sha1(SECRET.as_bytes(), body).as_str()
        );
        assert_eq!(headers["x-github-event"], "workflow_job");
        assert_eq!(headers["x-github-hook-id"], hook.to_string().as_str());
        assert_eq!(headers["x-github-hook-installation-target-type"], "organization");
        assert_eq!(headers["x-github-delivery"].len(), 36);
    }
    let body = |at: usize| serde_json::from_slice::<Value>(&seen[at].1).unwrap();
    assert_eq!(body(1)["workflow_job"]["runner_name"], Value::Null);
    assert_eq!(body(2)["workflow_job"]["runner_name"], "r");
    assert_eq!(
        (
            body(3)["workflow_job"]["conclusion"].as_str(),
            body(3)["workflow_job"]["status"].as_str()
        ),
        (Some("success"), Some("completed"))
    );
    let log = github.deliveries(hook);
    assert_eq!(
        log.iter()
            .map(|delivery| delivery.status_code)
            .collect::<Vec<_>>(),
        [200; 4]
    );
}

#[tokio::test]
async fn the_delivery_api_shows_and_repeats_what_was_sent() {
    let (github, receiver, hook) = with_hook(FakeGitHubOptions::default()).await;
    github.set_webhook_chaos(WebhookChaos {
        lose: 1.0,
        ..WebhookChaos::default()
    });
    for _ in 0..5 {
        github.queue_job(job(&["x"]));
        sent(&github).await;
    }
    github.set_webhook_chaos(WebhookChaos::default());
    assert!(receiver.actions().is_empty());
    let client = Client::new(&github);
    let base = format!("orgs/acme/hooks/{hook}/deliveries");
    let (mut all, mut next) = (Vec::new(), Some(format!("{base}?per_page=2")));
    while let Some(path) = next {
        let page = client.get(&path).await;
        assert_eq!(page.status, 200, "{path}");
        all.extend(page.json().as_array().unwrap().clone());
        next = page.next();
    }
    assert_eq!(all.len(), 5);
    let ids: Vec<u64> = all
        .iter()
        .map(|delivery| delivery["id"].as_u64().unwrap())
        .collect();
    assert!(ids.is_sorted_by(|a, b| a > b), "newest first");
    assert!(
        all.iter()
            .all(|delivery| delivery["status_code"] == 502 && delivery["event"] == "workflow_job")
    );
    let detail = client.get(&format!("{base}/{}", ids[0])).await.json();
    assert_eq!(detail["request"]["payload"]["action"], "queued");
    assert_eq!(detail["request"]["headers"]["X-GitHub-Event"], "workflow_job");
    assert_eq!(detail["request"]["headers"]["X-GitHub-Delivery"], detail["guid"]);
    assert_eq!(
        client
            .call("POST", &format!("{base}/{}/attempts", ids[0]))
            .await
            .status,
        202
    );
    sent(&github).await;
    assert_eq!(receiver.actions().len(), 1);
    let newest = client.get(&format!("{base}?per_page=1")).await.json();
    assert_eq!(
        (
            newest[0]["redelivery"].as_bool(),
            newest[0]["status_code"].as_u64()
        ),
        (Some(true), Some(200))
    );
    assert_eq!(newest[0]["guid"], detail["guid"]);
    let payload = &detail["request"]["payload"];
    let arrived: Value = serde_json::from_slice(&lock(&receiver.seen)[0].1).unwrap();
    assert_eq!(*payload, arrived, "a repetition carries the same payload");
    assert_eq!(client.get("orgs/other/hooks/1/deliveries").await.status, 404);
    let hooks = client.get("orgs/acme/hooks").await.json();
    assert_eq!(
        (hooks[0]["id"].as_u64(), hooks[0]["config"]["secret"].as_str()),
        (Some(hook), Some("********"))
    );
}

#[tokio::test]
async fn what_is_not_answered_2xx_is_repeated_when_asked_for() {
    let options = FakeGitHubOptions {
        resend_until_2xx: true,
        ..FakeGitHubOptions::default()
    };
    let (github, receiver, hook) = with_hook(options).await;
    *lock(&receiver.refuse) = 2;
    let queued = github.queue_job(job(&["x"]));
    sent(&github).await;
    assert_eq!(receiver.actions(), [("queued".to_owned(), queued.id)]);
    let log = github.deliveries(hook);
    assert_eq!(
        log.iter()
            .map(|delivery| delivery.status_code)
            .collect::<Vec<_>>(),
        [503, 503, 200]
    );
    assert!(log.iter().all(|delivery| delivery.guid == log[0].guid));

    github.set_hook_url(hook, "http://127.0.0.1:1/");
    github.queue_job(job(&["x"]));
    eventually("an attempt failed", || github.deliveries(hook).len() > 3).await;
    assert_eq!(github.deliveries(hook)[3].status_code, 502);
    let (moved, url) = Receiver::start().await;
    github.set_hook_url(hook, &url);
    sent(&github).await;
    assert_eq!(moved.actions().len(), 1);
}

#[tokio::test]
async fn mishaps_are_drawn_from_the_seed() {
    let mut logs = Vec::new();
    for _ in 0..2 {
        let chaos = WebhookChaos {
            lose: 0.2,
            swallow: 0.1,
            forget: 0.1,
            duplicate: 0.2,
            delay: 0.3,
            delay_up_to: Duration::from_millis(20),
            reorder_window: 0,
        };
        let options = FakeGitHubOptions {
            webhook_chaos: chaos,
            seed: 5,
            ..FakeGitHubOptions::default()
        };
        let (github, receiver, hook) = with_hook(options).await;
        for _ in 0..100 {
            github.queue_job(job(&["x"]));
        }
        sent(&github).await;
        let log = github.deliveries(hook);
        let lost = log.iter().filter(|delivery| delivery.status_code == 502).count();
        let doubled = log.iter().filter(|delivery| delivery.redelivery).count();
        assert!(lost > 0 && doubled > 0 && receiver.actions().len() < log.len());
        let mut outcome: Vec<(Option<u64>, u16, bool)> = log
            .iter()
            .map(|delivery| (delivery.job_id, delivery.status_code, delivery.redelivery))
            .collect();
        outcome.sort_unstable();
        logs.push((outcome, receiver.actions().len()));
    }
    assert_eq!(logs[0], logs[1]);
}

#[tokio::test]
async fn events_can_arrive_in_shuffled_order() {
    let chaos = WebhookChaos {
        reorder_window: 20,
        ..WebhookChaos::default()
    };
    let options = FakeGitHubOptions {
        webhook_chaos: chaos,
        webhook_concurrency: 1,
        ..FakeGitHubOptions::default()
    };
    let (github, receiver, _) = with_hook(options).await;
    let queued: Vec<u64> = (0..20).map(|_| github.queue_job(job(&["x"])).id).collect();
    sent(&github).await;
    let mut arrived: Vec<u64> = receiver.actions().into_iter().map(|(_, id)| id).collect();
    assert_ne!(arrived, queued);
    arrived.sort_unstable();
    assert_eq!(arrived, queued);
}

#[tokio::test]
async fn running_failed_jobs_again_repeats_completed_for_the_others() {
    let (github, receiver, _) = with_hook(FakeGitHubOptions::default()).await;
    let good = github.queue_job(job(&["x"]));
    assert_eq!(run(&github, "r1", "success").await, good.id);
    let bad = github.queue_job(job(&["x"]).in_run(good.run_id).concludes("failure"));
    assert!(
        github.rerun_failed_jobs(good.run_id).is_empty(),
        "the run is not over"
    );
    assert_eq!(run(&github, "r2", "success").await, bad.id);
    sent(&github).await;
    lock(&receiver.seen).clear();
    let again = github.rerun_failed_jobs(good.run_id);
    assert_eq!((again.len(), again[0].run_id), (1, good.run_id));
    assert!(again[0].id > bad.id);
    sent(&github).await;
    let mut told = receiver.actions();
    told.sort();
    assert_eq!(
        told,
        [
            ("completed".to_owned(), good.id),
            ("queued".to_owned(), again[0].id)
        ]
    );
    assert_eq!(run(&github, "r3", "success").await, again[0].id);
    let view = github.job(again[0].id).unwrap();
    assert_eq!(
        (view.run_attempt, view.conclusion.as_deref()),
        (2, Some("success"))
    );
    assert!(
        github.rerun_failed_jobs(good.run_id).is_empty(),
        "nothing has failed"
    );
    assert_eq!(github.job_stats().completed, 3);
}

#[tokio::test]
async fn cancelling_tells_of_no_runner_before_one_was_found() {
    let (github, receiver, _) = with_hook(FakeGitHubOptions::default()).await;
    let queued = github.queue_job(job(&["x"]));
    assert!(github.cancel_job(queued.id) && !github.cancel_job(queued.id));
    sent(&github).await;
    let seen = lock(&receiver.seen).clone();
    let completed = seen
        .iter()
        .map(|(_, body)| serde_json::from_slice::<Value>(body).unwrap());
    let completed = completed
        .into_iter()
        .find(|body| body["action"] == "completed")
        .unwrap();
    assert_eq!(completed["workflow_job"]["conclusion"], "cancelled");
    assert_eq!(completed["workflow_job"]["runner_id"], Value::Null);
    let second = github.queue_job(job(&["x"]));
    let runner = Agent::register(&github, organization(), "r", &["x"]).await;
    let assignment = runner.job().await;
    assert!(github.cancel_job(second.id));
    assert_eq!(github.job(second.id).unwrap().state, JobState::InProgress);
    runner.complete(&assignment, "success").await;
    assert_eq!(
        github.job(second.id).unwrap().conclusion.as_deref(),
        Some("cancelled")
    );
    let third = github.queue_job(job(&["x"]));
    assert!(github.start_elsewhere(third.id, "foreign-1"));
    assert!(github.complete_job(third.id, "success"));
    sent(&github).await;
    assert_eq!(github.job(third.id).unwrap().runner.unwrap().name, "foreign-1");
}

#[tokio::test]
async fn hand_made_deliveries_arrive_as_signed() {
    let (receiver, url) = Receiver::start().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (status, _) = Delivery::ping().sign(SECRET).send(&client, &url).await.unwrap();
    assert_eq!(status, 200);
    let form = Delivery::new("ping", r#"{"zen":"hello"}"#)
        .form_encoded()
        .with_guid("g")
        .sign("");
    form.send(&client, &url).await.unwrap();
    let seen = lock(&receiver.seen).clone();
    assert_eq!(
        seen[0].0["x-hub-signature-256"],
        signature_sha256(SECRET.as_bytes(), &seen[0].1).as_str()
    );
    assert_eq!(seen[1].0["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(seen[1].0["x-github-delivery"], "g");
    assert!(seen[1].0.get("x-hub-signature-256").is_none());
}
