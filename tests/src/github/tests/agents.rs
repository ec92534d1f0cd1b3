use super::*;

#[tokio::test]
async fn a_waiting_runner_gets_a_job_at_once_and_hands_it_in() {
    let github = started(FakeGitHubOptions::default()).await;
    let runner = Agent::register(&github, organization(), "r", &["Linux", "GPU"]).await;
    let polling = tokio::spawn({
        let runner = runner.clone();
        async move {
            let job = runner.job().await;
            (job, Instant::now())
        }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let spec = job(&["self-hosted", "linux", "gpu"]).duration(Duration::from_millis(1500));
    let (queued, queued_at) = (github.queue_job(spec), Instant::now());
    let (assignment, got_at) = polling.await.unwrap();
    assert!(
        got_at - queued_at < Duration::from_millis(500),
        "{:?}",
        got_at - queued_at
    );
    assert_eq!(
        (assignment.job_id, assignment.run_id, assignment.duration_ms),
        (queued.id, queued.run_id, 1500)
    );
    assert_eq!(runner.job().await, assignment, "a poll is repeatable");
    let view = github.job(queued.id).unwrap();
    assert_eq!(
        (view.state, view.runner.unwrap().name.as_str()),
        (JobState::InProgress, "r")
    );
    assert!(github.runners()[0].busy);
    assert_eq!(runner.complete(&assignment, "failure").await, 204);
    assert_eq!(
        runner.complete(&assignment, "failure").await,
        204,
        "reports are repeatable"
    );
    assert_eq!(runner.poll(1.0).await.0, 410);
    github.await_all_completed(Duration::from_secs(1)).await.unwrap();
    let view = github.job(queued.id).unwrap();
    assert_eq!(view.conclusion.as_deref(), Some("failure"));
    assert!(view.queued_at <= view.started_at && view.started_at <= view.completed_at);
    assert!(github.runners().is_empty() && github.violations().is_empty());
}

#[tokio::test]
async fn registration_needs_a_good_token_and_a_free_name() {
    let github = started(FakeGitHubOptions::default()).await;
    Agent::register(&github, organization(), "r", &[]).await;
    let refused = Agent::try_register(&github, organization(), "R", &[], None).await;
    assert_eq!(refused.err(), Some(409));
    let repository = RunnerScope::Repository("acme/api".to_owned());
    let other = Agent::register(&github, repository.clone(), "r", &[]).await;
    assert_eq!(other.poll(0.0).await.0, 204);

    let client = Client::new(&github);
    let token = client
        .call("POST", "orgs/acme/actions/runners/registration-token")
        .await
        .json();
    let expires: Timestamp = token["expires_at"].as_str().unwrap().parse().unwrap();
    assert!((3590..=3600).contains(&(expires.as_second() - github.now().as_second())));
    let register = |scope: RunnerScope| {
        let body =
            json!({"scope": scope, "token": token["token"], "name": "n", "labels": [], "ephemeral": true});
        client
            .http
            .post(format!("{}_agent/register", github.base_url()))
            .json(&body)
            .send()
    };
    assert_eq!(
        register(repository).await.unwrap().status(),
        401,
        "a token is good for its own scope"
    );
    github.set_clock_offset(SignedDuration::from_mins(61));
    assert_eq!(
        register(organization()).await.unwrap().status(),
        401,
        "and for an hour"
    );
}

#[tokio::test]
async fn a_runner_that_vanishes_with_a_job_fails_it() {
    let options = FakeGitHubOptions {
        interrupted_after: Duration::from_millis(100),
        ..FakeGitHubOptions::default()
    };
    let github = started(options).await;
    let quick = |label: &str| job(&[label]).duration(Duration::from_millis(10));
    let killed = Agent::register(&github, organization(), "killed", &["a"]).await;
    let first = github.queue_job(quick("a"));
    killed.job().await;
    assert_eq!(killed.send("POST", "/abandon").await, 204);
    assert_eq!(killed.send("POST", "/abandon").await, 404);
    let silent = Agent::register(&github, organization(), "silent", &["b"]).await;
    let second = github.queue_job(quick("b"));
    silent.job().await;
    github.await_all_completed(Duration::from_secs(5)).await.unwrap();
    for id in [first.id, second.id] {
        let job = github.job(id).unwrap();
        assert_eq!(
            (job.conclusion.as_deref(), job.interrupted),
            (Some("failure"), true)
        );
    }
    assert_eq!(github.interrupted(), 2);
    let idle = Agent::register(&github, organization(), "idle", &["c"]).await;
    assert_eq!(idle.send("POST", "/abandon").await, 204);
    assert!(
        !github.runners()[0].online,
        "an idle runner that was killed stays registered, offline"
    );
    assert_eq!(github.interrupted(), 2);
}

#[tokio::test]
async fn a_poll_that_breaks_costs_no_job() {
    let github = started(FakeGitHubOptions::default()).await;
    let runner = Agent::register(&github, organization(), "r", &["x"]).await;
    for _ in 0..20 {
        let broken = tokio::time::timeout(Duration::from_millis(5), runner.poll(30.0)).await;
        assert!(broken.is_err());
    }
    let other = Agent::register(&github, organization(), "other", &["x"]).await;
    let polling = tokio::spawn(async move { other.job().await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let queued = github.queue_job(job(&["x"]));
    assert_eq!(polling.await.unwrap().job_id, queued.id);
    assert_eq!(github.job(queued.id).unwrap().runner.unwrap().name, "other");
}

#[tokio::test]
async fn a_silent_agent_goes_offline() {
    let options = FakeGitHubOptions {
        offline_after: Duration::from_millis(100),
        ..FakeGitHubOptions::default()
    };
    let github = started(options).await;
    let runner = Agent::register(&github, organization(), "r", &[]).await;
    assert!(github.runners()[0].online);
    runner.poll(0.0).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    let listed = Client::new(&github).get("orgs/acme/actions/runners").await.json();
    assert_eq!(
        (
            listed["runners"][0]["status"].as_str(),
            listed["runners"][0]["busy"].as_bool()
        ),
        (Some("offline"), Some(false))
    );
    runner.poll(0.0).await;
    assert!(github.runners()[0].online);
}

#[tokio::test]
async fn scopes_serve_their_own_repositories_only() {
    let github = started(FakeGitHubOptions::default()).await;
    let enterprise = Agent::register(&github, RunnerScope::Enterprise("bigco".to_owned()), "e", &["x"]).await;
    let org = Agent::register(&github, organization(), "o", &["x"]).await;
    let elsewhere = JobSpec::new("else/where", ["x"]).enterprise("BigCo");
    let users = JobSpec::new("acme/private", ["x"]).owned_by_user();
    let (elsewhere, _users) = (github.queue_job(elsewhere), github.queue_job(users));
    assert_eq!(org.poll(0.05).await.0, 204);
    assert_eq!(enterprise.job().await.job_id, elsewhere.id);
    let ours = github.queue_job(job(&["x"]));
    assert_eq!(org.job().await.job_id, ours.id);
}

#[tokio::test]
async fn a_job_without_a_runner_is_cancelled_after_a_day() {
    let github = started(FakeGitHubOptions::default()).await;
    let queued = github.queue_job(job(&["nobody"]));
    github.set_clock_offset(SignedDuration::from_hours(25));
    github.await_all_completed(Duration::from_secs(5)).await.unwrap();
    assert_eq!(
        github.job(queued.id).unwrap().conclusion.as_deref(),
        Some("cancelled")
    );
}

#[tokio::test]
async fn a_thousand_waiting_runners_take_ten_thousand_jobs_quickly() {
    use crate::agent::Register;
    use crate::github::model::ScopeKey;
    use crate::github::world::{Poll, Registration, Rules, Wake, World};

    let rules = Rules {
        offline_after: Duration::from_secs(30),
        interrupted_after: Duration::from_secs(30),
        queue_timeout: SignedDuration::from_hours(24),
        shuffle_jobs: true,
    };
    let (outbox, mut events) = mpsc::unbounded_channel();
    let mut world = World::new(7, rules, outbox, Arc::default());
    let now: Timestamp = "2026-11-21T03:41:00Z".parse().unwrap();
    let (at, began) = (Instant::now(), Instant::now());
    let scope = ScopeKey::of(&organization());
    world.add_token("T".to_owned(), scope, now, SignedDuration::from_hours(1));
    let mut waiting = Vec::new();
    let mut next_name = 0;
    let mut join = |world: &mut World| {
        next_name += 1;
        let request = Register {
            scope: organization(),
            token: "T".to_owned(),
            name: format!("r-{next_name}"),
            labels: vec![format!("l{}", next_name % 10), "x".to_owned()],
            group: None,
            ephemeral: true,
        };
        let Registration::Done { id, .. } = world.register(&request, "t".to_owned(), now, at) else {
            panic!("not registered")
        };
        id
    };
    for _ in 0..1000 {
        let id = join(&mut world);
        let Poll::Wait { wake, .. } = world.poll(id, "t", now, at) else {
            panic!("no job yet")
        };
        waiting.push((id, wake));
    }
    for _ in 0..10_000 {
        world.queue_job(job(&["x"]), now);
    }
    let mut done = 0;
    let mut running = Vec::new();
    for (id, mut wake) in waiting {
        let Ok(Wake::Job(job)) = wake.try_recv() else {
            panic!("every runner has a job")
        };
        running.push((id, world.take(id, job, now, at).unwrap().job_id));
    }
    while let Some((id, job)) = running.pop() {
        world.complete(id, "t", job, "success", now, at).unwrap();
        done += 1;
        let id = join(&mut world);
        if let Poll::Job(job) = world.poll(id, "t", now, at) {
            running.push((id, job.job_id));
        }
    }
    assert_eq!((done, world.stats.completed), (10_000, 10_000));
    let mut count = 0;
    while events.try_recv().is_ok() {
        count += 1;
    }
    assert_eq!(count, 30_000);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_shutdown_ends_open_polls_and_closes_the_port() {
    let github = started(FakeGitHubOptions::default()).await;
    let runner = Agent::register(&github, organization(), "r", &[]).await;
    let polling = tokio::spawn(async move { runner.poll(60.0).await.0 });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    github.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(polling.await.unwrap(), 204);
    assert!(Client::new(&github).try_call("GET", "zen", &[]).await.is_err());
}
