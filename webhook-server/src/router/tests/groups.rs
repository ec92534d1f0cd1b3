//! Runner groups with GitHub in the process.

use tokio::time::Instant;

use super::*;
use crate::groups::Groups;
use crate::testing::{FakeGitHub, NOW, listed};

/// An autoscaler of the repository, one of the organization and one of its group `team-a`.
fn bench() -> Bench {
    let jobs = json!({"scaleUpTriggers": [{"githubEvent": {"workflowJob": {}}}]});
    let group = json!({"organization": "acme", "group": "team-a", "labels": ["linux", "arm64"]});
    super::bench()
        .with_spec("grp", "RunnerSet", &group, &jobs)
        .with_spec(
            "pushes",
            "RunnerDeployment",
            &json!({"organization": "acme", "group": "team-a"}),
            &json!({"scaleUpTriggers": [{"githubEvent": {"push": {}}}]}),
        )
}

fn app(bench: &Bench, groups: Groups) -> Router {
    router(bench.app_with(&[SECRET], Some(groups), Duration::from_millis(1_500)))
}

fn queued(id: u64, repository: &str, labels: &[&str]) -> Request<Body> {
    let payload = job("queued", repository, labels, &json!({"id": id}));
    delivery(&format!("guid-{id}"), &payload)
}

#[tokio::test]
async fn a_group_takes_jobs_of_the_repositories_that_may_use_it() {
    let github = FakeGitHub::default();
    let bench = bench();
    let app = app(&bench, github.start().await);
    let ask = |id, repository: &'static str, labels: &'static [&'static str]| {
        let app = &app;
        async move { exchange(app, queued(id, repository, labels)).await.2 }
    };
    github.says().groups = json!([
        listed(1, "Default", true, false),
        listed(2, "team-a", false, false)
    ]);
    assert_eq!(
        ask(1, "acme/web", &["linux", "arm64"]).await,
        "scaled grp-hra by 1"
    );
    assert_eq!(ask(2, "acme/web", &["linux"]).await, "scaled org-hra by 1");
    assert_eq!(
        github.says().calls,
        ["/orgs/acme/actions/runner-groups?visible_to_repository=web&per_page=100"],
        "one call per repository and minute"
    );
    // Another repository is another question.
    github.says().groups = json!([listed(2, "Team-A", false, false)]);
    assert_eq!(ask(3, "acme/db", &["linux"]).await, "scaled grp-hra by 1");
    github.says().groups = json!([]);
    assert_eq!(ask(4, "acme/ui", &["linux"]).await, NOTHING);
    let unmatched = bench.unmatched.newest_first();
    let nearest = unmatched[0].nearest.as_ref().unwrap();
    assert_eq!(
        (nearest.autoscaler.as_str(), nearest.obstacle.as_str()),
        ("ci/org-hra", "its runner group is not visible to the repository")
    );
    // Nobody is asked about a repository's own runners, a job that is held, or labels that nobody has.
    let calls = github.says().calls.len();
    assert_eq!(ask(5, "acme/api", &["linux"]).await, "scaled repo-hra by 1");
    assert_eq!(ask(6, "acme/new", &["windows"]).await, NOTHING);
    let held = job("completed", "acme/web", &["linux"], &json!({"id": 2}));
    assert_eq!(
        exchange(&app, delivery("end", &held)).await.2,
        "scaled org-hra by -1"
    );
    assert_eq!(github.says().calls.len(), calls);
}

#[tokio::test]
async fn what_github_does_not_say_puts_off_those_that_depend_on_it_and_nobody_else() {
    let github = FakeGitHub::default();
    let bench = bench();
    let app = app(&bench, github.start().await);
    let failures = [
        (StatusCode::INTERNAL_SERVER_ERROR, vec![], "30"),
        (StatusCode::FORBIDDEN, vec![], "30"),
        (StatusCode::NOT_FOUND, vec![], "30"),
    ];
    for (status, headers, retry_after) in failures {
        github.says().status = status;
        github.says().headers = headers;
        let (answered, headers, body) = exchange(&app, queued(1, "acme/web", &["linux"])).await;
        assert_eq!(answered, StatusCode::SERVICE_UNAVAILABLE, "{status}");
        assert_eq!(headers["retry-after"].to_str().unwrap(), retry_after);
        assert!(body.contains("GitHub did not say"), "{body}");
        assert_eq!(
            exchange(&app, queued(2, "acme/api", &["linux"])).await.2,
            "scaled repo-hra by 1"
        );
    }
    let pushed =
        json!({"repository": {"id": 7, "name": "web", "owner": {"login": "acme", "type": "Organization"}}});
    let mut push = signed("push", pushed.to_string());
    push.headers_mut()
        .insert("x-github-delivery", "p".parse().unwrap());
    assert_eq!(exchange(&app, push).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(counted(&bench, "workflow_job", "queued", "groups_unknown"), 3);
    assert_eq!(counted(&bench, "push", "", "groups_unknown"), 1);
    assert!(
        bench.unmatched.newest_first().is_empty(),
        "put off is not unmatched"
    );

    // No answer at all: the delivery's own deadline counts.
    github.says().hangs = true;
    let begun = Instant::now();
    let (status, _, _) = exchange(&app, queued(1, "acme/web", &["linux"])).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    github.says().hangs = false;

    // It is not remembered as an answer: the same delivery again is taken.
    github.says().status = StatusCode::OK;
    github.says().groups = json!([listed(1, "Default", true, false)]);
    let (status, headers, body) = exchange(&app, queued(1, "acme/web", &["linux"])).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "scaled org-hra by 1"));
    assert_eq!(headers["x-muster-autoscaler"], "ci/org-hra");
}

#[tokio::test]
async fn a_rate_limit_says_when_to_come_back() {
    let github = FakeGitHub::default();
    let bench = bench();
    let app = app(&bench, github.start().await);
    github.says().status = StatusCode::FORBIDDEN;
    github.says().headers = vec![
        ("x-ratelimit-limit", "5000".to_owned()),
        ("x-ratelimit-remaining", "0".to_owned()),
        ("x-ratelimit-reset", (NOW + 120).to_string()),
    ];
    let (status, headers, _) = exchange(&app, queued(1, "acme/web", &["linux"])).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let seconds: i64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((119..=130).contains(&seconds), "{seconds}");
}
