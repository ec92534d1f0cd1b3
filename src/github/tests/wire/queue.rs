//! What is in the queue, and who may serve it: workflow runs, their jobs, runner groups.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use muster_github::{CallFamily, Error, ErrorClass, GitHub, RepositoryName, RunStatus};
use serde_json::{Value, json};

use crate::fake::{Reply, Rig, Seen, token};

fn api() -> RepositoryName {
    "acme/api".parse().unwrap()
}

fn job(id: usize) -> Value {
    json!({
        "id": id, "run_id": 7, "status": "in_progress", "conclusion": null, "labels": ["self-hosted", "x64"],
        "runner_id": 11, "runner_name": "r1", "created_at": "2026-01-05T08:00:00Z",
        "started_at": "2026-01-05T08:00:05Z", "completed_at": null, "steps": [{"name": "x"}]
    })
}

fn run(id: usize) -> Value {
    json!({
        "id": id, "run_attempt": 2, "status": "queued", "created_at": "2026-01-05T08:00:00Z",
        "updated_at": "2026-01-05T08:01:00Z", "repository": {"id": 1}
    })
}

fn group(id: usize) -> Value {
    json!({"id": id, "name": format!("g{id}"), "default": id == 1, "inherited": id == 2, "visibility": "all"})
}

/// The page of `total` things that is asked for, as the member `name`.
fn page(seen: &Seen, name: &str, total: usize, item: fn(usize) -> Value) -> Reply {
    let number: usize = seen
        .path
        .split_once("&page=")
        .map_or(1, |(_, page)| page.parse().unwrap());
    let items: Vec<Value> = (1..=total).skip((number - 1) * 100).take(100).map(item).collect();
    let reply = Reply::new(200, json!({"total_count": total, name: items}))
        .cacheable()
        .etag(seen, &format!("\"{name}-{number}-{total}\""));
    if number * 100 < total {
        let links = format!(
            r#"<https://elsewhere.example.com/x?page={}>; rel="next""#,
            number + 1
        );
        return reply.with("link", links);
    }
    reply
}

fn things(seen: &Seen, total: usize) -> Reply {
    if seen.path.contains("runner-groups") {
        page(seen, "runner_groups", total, group)
    } else if seen.path.contains("/jobs") {
        page(seen, "jobs", total, job)
    } else {
        page(seen, "workflow_runs", total, run)
    }
}

/// The listings of this module: how many things there are, or why not.
async fn count(github: &GitHub, family: CallFamily) -> Result<usize, Error> {
    match family {
        CallFamily::RunnerGroups => github
            .visible_runner_groups("acme", "api")
            .await
            .map(|all| all.len()),
        CallFamily::ListRuns => github
            .list_runs(&api(), RunStatus::Queued)
            .await
            .map(|all| all.len()),
        _ => github.list_jobs(&api(), 7).await.map(|all| all.len()),
    }
}

const LISTINGS: [(CallFamily, &str); 3] = [
    (
        CallFamily::RunnerGroups,
        "/orgs/acme/actions/runner-groups?visible_to_repository=api&per_page=100",
    ),
    (
        CallFamily::ListRuns,
        "/repos/acme/api/actions/runs?status=queued&per_page=100",
    ),
    (
        CallFamily::ListJobs,
        "/repos/acme/api/actions/runs/7/jobs?per_page=100",
    ),
];

#[tokio::test]
async fn all_pages_are_read_once_a_minute_by_all_callers_together() {
    for (family, path) in LISTINGS {
        let rig = Rig::new().await;
        let github = rig.client(token("a"));
        rig.fake
            .script(|seen| things(seen, 201).after(Duration::from_millis(10)));
        let all = futures::future::join_all((0..8).map(|_| count(&github, family))).await;
        assert!(all.into_iter().all(|found| found.unwrap() == 201));
        assert_eq!(count(&github, family).await.unwrap(), 201);
        let paths: Vec<_> = rig.fake.take().into_iter().map(|seen| seen.path).collect();
        assert_eq!(
            paths,
            [
                path.to_owned(),
                format!("{path}&page=2"),
                format!("{path}&page=3")
            ]
        );
        assert_eq!(rig.hits(), 3);
        assert_eq!(rig.observer.outcomes(), [((family.as_str(), "ok"), 3)].into());
    }
}

#[tokio::test]
async fn a_stale_listing_is_confirmed_by_its_etag() {
    for (family, _) in LISTINGS {
        let rig = Rig::new().await;
        let github = rig.client(token("a"));
        rig.fake.script(|seen| things(seen, 2).stale());
        for _ in 0..3 {
            assert_eq!(count(&github, family).await.unwrap(), 2);
        }
        let outcomes = [
            ((family.as_str(), "ok"), 1),
            ((family.as_str(), "revalidated"), 2),
        ];
        assert_eq!(rig.observer.outcomes(), outcomes.into());
        rig.fake.script(|seen| things(seen, 3));
        assert_eq!(count(&github, family).await.unwrap(), 3);
        // Unreachable after expiry: an error, and never yesterday's queue.
        rig.fake.script(|seen| things(seen, 4).stale());
        let other = rig.client(token("b"));
        count(&other, family).await.unwrap();
        rig.fake.script(|_| Reply::broken());
        assert_eq!(
            count(&other, family).await.unwrap_err().class(),
            ErrorClass::Unavailable
        );
    }
}

#[tokio::test]
async fn refusals_and_nonsense_are_errors_and_never_an_empty_list() {
    let table = [
        (200, "", ErrorClass::Bug),
        (200, "{}", ErrorClass::Bug),
        (200, "[]", ErrorClass::Bug),
        (
            200,
            r#"{"jobs":null,"workflow_runs":null,"runner_groups":null}"#,
            ErrorClass::Bug,
        ),
        (
            200,
            r#"{"jobs":[{}],"workflow_runs":[{}],"runner_groups":[{}]}"#,
            ErrorClass::Bug,
        ),
        (202, "{}", ErrorClass::Rejected),
        (401, "{}", ErrorClass::Unauthorized),
        (403, "{}", ErrorClass::Forbidden),
        (404, "{}", ErrorClass::NotFound),
        (422, "{}", ErrorClass::Rejected),
        (502, "<html>", ErrorClass::Unavailable),
    ];
    for (family, _) in LISTINGS {
        let rig = Rig::new().await;
        let github = rig.client(token("a"));
        for (status, body, class) in table {
            rig.fake.script(move |_| Reply::new(status, body).cacheable());
            // What is cached is not the error but the answer that made it.
            let error = count(&rig.client(token(&format!("t{status}{body}"))), family)
                .await
                .unwrap_err();
            assert_eq!(error.class(), class, "{family} {status} {body}");
            assert_eq!(error.attempt().family(), family);
        }
        rig.fake.script(|_| Reply::new(429, "").with("retry-after", 30));
        let until = Some(rig.now() + SignedDuration::from_secs(30));
        for requests in [1, 0] {
            rig.fake.take();
            assert_eq!(
                count(&github, family).await.unwrap_err().class(),
                ErrorClass::Throttled { until }
            );
            assert_eq!(rig.fake.count(), requests, "{family}");
        }
    }
}

#[tokio::test]
async fn a_used_up_budget_holds_all_of_them_and_the_cache_still_answers() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let reset = rig.now() + SignedDuration::from_mins(10);
    rig.fake.script(move |seen| things(seen, 2).budget(0, reset));
    count(&github, CallFamily::ListRuns).await.unwrap();
    rig.fake.take();
    let throttled = ErrorClass::Throttled { until: Some(reset) };
    for family in [CallFamily::ListJobs, CallFamily::RunnerGroups] {
        assert_eq!(count(&github, family).await.unwrap_err().class(), throttled);
    }
    assert_eq!(github.get_job(&api(), 1).await.unwrap_err().class(), throttled);
    assert_eq!(count(&github, CallFamily::ListRuns).await.unwrap(), 2);
    assert_eq!(
        github
            .list_runs_fresh(&api(), RunStatus::Queued)
            .await
            .unwrap_err()
            .class(),
        throttled
    );
    assert_eq!(rig.fake.count(), 0);
}

#[tokio::test]
async fn fresh_listings_are_confirmed_at_once() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake.script(|seen| things(seen, 2));
    github.list_runs(&api(), RunStatus::InProgress).await.unwrap();
    github.list_jobs(&api(), 7).await.unwrap();
    rig.observer.outcomes();
    github
        .list_runs_fresh(&api(), RunStatus::InProgress)
        .await
        .unwrap();
    github.list_jobs_fresh(&api(), 7).await.unwrap();
    let outcomes = [
        (("list_runs", "revalidated"), 1),
        (("list_jobs", "revalidated"), 1),
    ];
    assert_eq!(rig.observer.outcomes(), outcomes.into());
    rig.fake.script(|seen| things(seen, 5));
    assert_eq!(github.list_jobs_fresh(&api(), 7).await.unwrap().len(), 5);
    assert_eq!(
        github.list_jobs(&api(), 7).await.unwrap().len(),
        5,
        "the cache has learnt it"
    );
}

#[tokio::test]
async fn listings_that_differ_in_anything_are_kept_apart() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake.script(|seen| {
        let id = match seen.path.as_str() {
            path if path.contains("status=queued") => 1,
            path if path.contains("status=in_progress") => 2,
            path if path.contains("/runs/7/") => 3,
            path if path.contains("/runs/77/") => 4,
            path if path.contains("visible_to_repository=api&") => 5,
            _ => 6,
        };
        let list = json!([{"id": id}]);
        Reply::new(
            200,
            json!({"workflow_runs": list, "jobs": list, "runner_groups": list}),
        )
        .cacheable()
    });
    for _ in 0..2 {
        let mut ids = Vec::new();
        for status in RunStatus::ALL {
            ids.push(github.list_runs(&api(), status).await.unwrap()[0].id);
        }
        for run in [7, 77] {
            ids.push(github.list_jobs(&api(), run).await.unwrap()[0].id);
        }
        for repository in ["api", "api&x=/1"] {
            ids.push(github.visible_runner_groups("acme", repository).await.unwrap()[0].id);
        }
        assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
    }
    let seen = rig.fake.take();
    assert_eq!(seen.len(), 6);
    assert_eq!(
        seen[5].path,
        "/orgs/acme/actions/runner-groups?visible_to_repository=api%26x%3D%2F1&per_page=100"
    );
    let nameless = github.visible_runner_groups("acme", "").await.unwrap_err();
    assert!(matches!(nameless, Error::Scope { .. }), "{nameless}");
    let climbing = RepositoryName {
        owner: "acme".into(),
        name: "..".into(),
    };
    assert_eq!(
        github.list_jobs(&climbing, 1).await.unwrap_err().class(),
        ErrorClass::Rejected
    );
    assert_eq!(rig.fake.count(), 0);
}

#[tokio::test]
async fn things_are_read_with_what_counts_and_leniently() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    rig.fake.script(|seen| things(seen, 2));
    let at = |text: &str| text.parse::<Timestamp>().ok();
    let jobs = github.list_jobs(&api(), 7).await.unwrap();
    let first = &jobs[0];
    assert_eq!(
        (first.id, first.run_id, first.status.as_str()),
        (1, 7, "in_progress")
    );
    assert_eq!(first.labels, ["self-hosted", "x64"]);
    assert_eq!(
        (first.runner_id, first.runner_name.as_deref()),
        (Some(11), Some("r1"))
    );
    assert_eq!((first.conclusion.as_deref(), first.completed_at), (None, None));
    assert_eq!(
        (first.created_at, first.started_at),
        (at("2026-01-05T08:00:00Z"), at("2026-01-05T08:00:05Z"))
    );
    let runs = github.list_runs(&api(), RunStatus::Queued).await.unwrap();
    assert_eq!(
        (runs[1].id, runs[1].run_attempt, runs[1].status.as_str()),
        (2, 2, "queued")
    );
    assert_eq!(runs[1].updated_at, at("2026-01-05T08:01:00Z"));
    let groups = github.visible_runner_groups("acme", "api").await.unwrap();
    assert_eq!(
        groups
            .iter()
            .map(|group| (group.name.as_str(), group.default, group.inherited))
            .collect::<Vec<_>>(),
        [("g1", true, false), ("g2", false, true)]
    );
    assert_eq!((groups[0].id, groups[0].visibility.as_str()), (1, "all"));

    let odd = json!({"id": 9, "labels": null, "runner_id": 0, "runner_name": "", "conclusion": 5, "created_at": "soon"});
    rig.fake.script(move |_| Reply::new(200, &odd));
    let job = github.get_job(&api(), 9).await.unwrap().unwrap();
    assert_eq!((job.id, job.runner_id, job.runner_name), (9, None, None));
    assert!(job.labels.is_empty() && job.conclusion.is_none() && job.created_at.is_none());
}

#[tokio::test]
async fn a_job_is_gone_only_if_its_repository_answers() {
    // The answers about the job and about the repository's runs; whether it is gone, or the error's class.
    let table = [
        (404, 200, Ok(true)),
        (200, 500, Ok(false)),
        (404, 404, Err(ErrorClass::NotFound)),
        (404, 403, Err(ErrorClass::Forbidden)),
        (404, 401, Err(ErrorClass::Unauthorized)),
        (404, 500, Err(ErrorClass::Unavailable)),
        (404, 204, Err(ErrorClass::Rejected)),
        (403, 200, Err(ErrorClass::Forbidden)),
        (410, 200, Err(ErrorClass::Rejected)),
        (502, 200, Err(ErrorClass::Unavailable)),
    ];
    let rig = Rig::new().await;
    for (of_job, of_runs, expected) in table {
        let github = rig.client(token(&format!("{of_job}{of_runs}")));
        rig.fake.script(move |seen| {
            if seen.path.contains("/jobs/") {
                let body = if of_job == 200 {
                    job(5)
                } else {
                    json!({"message": "Not Found"})
                };
                Reply::new(of_job, body).cacheable().etag(seen, "\"job\"")
            } else {
                Reply::new(of_runs, r#"{"total_count":0,"workflow_runs":[]}"#)
                    .cacheable()
                    .etag(seen, "\"runs\"")
            }
        });
        for round in 0..2 {
            let answer = github.get_job(&api(), 5).await;
            let found = answer
                .as_ref()
                .map(Option::is_none)
                .map_err(muster_github::Error::class);
            assert_eq!(found, expected, "{of_job} {of_runs}");
            let seen = rig.fake.take();
            assert_eq!(seen[0].path, "/repos/acme/api/actions/jobs/5");
            assert_eq!(
                seen[0].header("if-none-match"),
                "",
                "a job is never kept, found or not"
            );
            assert_eq!(seen.len(), if of_job == 404 { 2 } else { 1 });
            if let Some(probe) = seen.get(1) {
                assert_eq!(probe.path, "/repos/acme/api/actions/runs?per_page=1");
                let confirms = round == 1 && of_runs == 200;
                assert_eq!(probe.header("if-none-match") == "\"runs\"", confirms);
            }
        }
    }
}

#[tokio::test]
async fn a_job_that_comes_back_as_nonsense_is_neither_there_nor_gone() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    for body in ["", "null", "[]", r#"{"status":"queued"}"#, "<html>"] {
        rig.fake.script(move |_| Reply::new(200, body));
        assert_eq!(
            github.get_job(&api(), 5).await.unwrap_err().class(),
            ErrorClass::Bug,
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_default_group_and_the_enterprises_are_two_though_their_ids_agree() {
    let rig = Rig::new().await;
    let github = rig.client(token("a"));
    let default = |inherited| json!({"id": 1, "name": "Default", "default": true, "inherited": inherited});
    let groups = json!([default(false), default(true), default(false)]);
    rig.fake
        .script(move |_| Reply::new(200, json!({"runner_groups": groups})));
    let found = github.visible_runner_groups("acme", "api").await.unwrap();
    assert_eq!(
        found.iter().map(|group| group.inherited).collect::<Vec<_>>(),
        [false, true]
    );
}
