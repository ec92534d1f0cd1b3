//! The worked examples and the decision table of spec 03 (§1.17, §1.16): what upstream answers, what Muster
//! answers, and why where the two differ.

use super::*;
use crate::testing::{FakeGitHub, listed};

/// What an example finds.
enum Given {
    /// The objects of spec 03 §1.17.
    Objects,
    /// An autoscaler besides whose target was deleted.
    Dangling,
    /// GitHub says that `team-a` is not visible to `acme/web`.
    TeamAHidden,
    /// An API server that fails every write, a queue of three, and little patience.
    Stuck,
}

struct Example {
    name: &'static str,
    given: Given,
    sent: Vec<Request<Body>>,
    upstream: Vec<(u16, &'static str)>,
    muster: Vec<(u16, &'static str)>,
    /// Live entries afterwards, of all autoscalers.
    live: Vec<&'static str>,
    /// Why Muster's answers or entries are not upstream's; nothing where they are.
    why: &'static str,
}

fn jobs_trigger() -> Value {
    json!({"scaleUpTriggers": [{"githubEvent": {"workflowJob": {}}}]})
}

fn objects(queue_limit: usize) -> Bench {
    let repo = json!({"maxReplicas": 2, "scaleUpTriggers": [{"githubEvent": {"workflowJob": {}}, "duration": "30m"}]});
    Bench::new(queue_limit)
        .with_spec(
            "repo",
            "RunnerDeployment",
            &json!({"repository": "acme/api", "labels": ["linux", "x64"]}),
            &repo,
        )
        .with_spec(
            "org",
            "",
            &json!({"organization": "acme", "labels": ["linux", "gpu"]}),
            &jobs_trigger(),
        )
        .with_spec(
            "grp",
            "RunnerDeployment",
            &json!({"organization": "acme", "group": "team-a", "labels": ["linux", "arm64"]}),
            &jobs_trigger(),
        )
        .with_spec(
            "ent",
            "RunnerSet",
            &json!({"enterprise": "bigco", "labels": ["big"]}),
            &jobs_trigger(),
        )
}

/// Live entries of all autoscalers.
fn live(bench: &Bench) -> Vec<String> {
    let mut all = Vec::new();
    for name in ["repo-hra", "org-hra", "grp-hra", "ent-hra"] {
        let jobs = bench.cluster.jobs(name).into_iter();
        all.extend(
            jobs.filter(|(_, replicas)| *replicas > 0)
                .map(|(job, _)| format!("{name} {job}")),
        );
    }
    all
}

fn of(id: u64, action: &str, repository: &str, labels: &[&str], more: &Value) -> Request<Body> {
    let mut payload = job(action, repository, labels, more);
    payload["workflow_job"]["id"] = id.into();
    delivery(&format!("{action}-{id}"), &payload)
}

fn queued(repository: &str, labels: &[&str]) -> Request<Body> {
    of(100, "queued", repository, labels, &json!({}))
}

fn completed(more: &Value) -> Request<Body> {
    of(100, "completed", "acme/api", &["linux"], more)
}

fn with(repository: &str, labels: &[&str], pointer: &str, value: Value) -> Request<Body> {
    let mut payload = job("queued", repository, labels, &json!({}));
    match pointer.rsplit_once('/') {
        Some((parent, field)) => payload.pointer_mut(parent).unwrap()[field] = value,
        None => payload[pointer] = value,
    }
    delivery("g", &payload)
}

const FINISHED: &str = "noted in repo-hra that the job has finished";
const UNCONFIRMED: &str = "the write could not be confirmed in time; send the delivery again";
const BUSY: &str = "too many deliveries wait for their write";
const STATUS: &str =
    "status codes: what is the sender's fault is 4xx, what may be tried again 503, the rest 2xx";

#[expect(clippy::too_many_lines, reason = "one table")]
fn examples() -> Vec<Example> {
    let ran = json!({"conclusion": "success", "runner_id": 17, "runner_name": "elsewhere"});
    let example = |name,
                   sent,
                   upstream: &[(u16, &'static str)],
                   muster: &[(u16, &'static str)],
                   live: &[&'static str],
                   why| {
        Example {
            name,
            given: Given::Objects,
            sent,
            upstream: upstream.to_vec(),
            muster: muster.to_vec(),
            live: live.to_vec(),
            why,
        }
    };
    let same = |name, sent, answer: (u16, &'static str), live: &[&'static str]| {
        example(name, vec![sent], &[answer], &[answer], live, "")
    };
    let push =
        json!({"ref": "refs/heads/main", "repository": {"id": 7, "name": "api", "owner": {"login": "acme"}}});
    let stuck: Vec<_> = (1..=5)
        .map(|id| of(id, "queued", "acme/api", &["linux"], &json!({})))
        .collect();
    vec![
        same("1", signed("ping", r#"{"zen":"hello"}"#), (200, "pong"), &[]),
        same(
            "2",
            queued("acme/api", &["self-hosted", "linux"]),
            (200, "scaled repo-hra by 1"),
            &["repo-hra 7/100"],
        ),
        same(
            "3",
            queued("acme/web", &["self-hosted", "Linux", "GPU"]),
            (200, "scaled org-hra by 1"),
            &["org-hra 7/100"],
        ),
        same(
            "4",
            queued("acme/web", &["linux"]),
            (200, "scaled org-hra by 1"),
            &["org-hra 7/100"],
        ),
        same(
            "5",
            queued("acme/web", &["self-hosted", "linux", "arm64"]),
            (200, "scaled grp-hra by 1"),
            &["grp-hra 7/100"],
        ),
        Example {
            given: Given::TeamAHidden,
            ..same(
                "6",
                queued("acme/web", &["self-hosted", "linux", "arm64"]),
                (200, NOTHING),
                &[],
            )
        },
        same(
            "7",
            with("acme/web", &["big"], "enterprise", json!({"slug": "bigco"})),
            (200, "scaled ent-hra by 1"),
            &["ent-hra 7/100"],
        ),
        same("8", queued("acme/web", &["big"]), (200, NOTHING), &[]),
        same("9", queued("acme/web", &["windows"]), (200, NOTHING), &[]),
        example(
            "10",
            vec![queued("acme/api", &["Self-Hosted", "linux"])],
            &[(200, NOTHING)],
            &[(200, "scaled repo-hra by 1")],
            &["repo-hra 7/100"],
            "labels do not tell case apart, self-hosted like all others (03 §1.18)",
        ),
        example(
            "11",
            vec![completed(&ran)],
            &[(200, "scaled repo-hra by -1")],
            &[(200, FINISHED)],
            &[],
            "a job that was never counted takes nobody's place (part 20)",
        ),
        same(
            "12",
            completed(&json!({"conclusion": "success", "runner_id": null})),
            (200, ""),
            &[],
        ),
        same("13", completed(&json!({"conclusion": "skipped"})), (200, ""), &[]),
        example(
            "14",
            vec![completed(&json!({"conclusion": "cancelled", "runner_id": 0}))],
            &[(200, "scaled repo-hra by -1")],
            &[(200, FINISHED)],
            &[],
            "a job that was never counted takes nobody's place (part 20)",
        ),
        example(
            "15 in_progress",
            vec![of(
                100,
                "in_progress",
                "acme/api",
                &["linux"],
                &json!({"runner_name": "repo-a-b"}),
            )],
            &[(200, "")],
            &[(200, "scaled repo-hra by 1")],
            &["repo-hra 7/100@repo-a-b"],
            "a running job is demand, also when its queued was lost (part 20)",
        ),
        same(
            "15 waiting",
            of(100, "waiting", "acme/api", &["linux"], &json!({})),
            (200, ""),
            &[],
        ),
        example(
            "16",
            vec![signed("push", push.to_string())],
            &[(500, "")],
            &[(200, NOTHING)],
            &[],
            "push, check_run and pull_request are events again; what nobody waits for is no failure",
        ),
        example(
            "17",
            vec![signed("dependabot_alert", "{}")],
            &[(500, "unknown X-Github-Event in message: dependabot_alert")],
            &[(200, "ignored: this server has no use for events of this type")],
            &[],
            "an event that nobody acts on is no failure",
        ),
        example(
            "18",
            vec![{
                let mut request = queued("acme/api", &["linux"]);
                let wrong = sign(b"something else").parse().unwrap();
                request.headers_mut().insert("x-hub-signature-256", wrong);
                request
            }],
            &[(500, "payload signature check failed")],
            &[(401, "the delivery's signature does not match")],
            &[],
            STATUS,
        ),
        same(
            "19",
            with("bob/x", &["linux"], "/repository/owner/type", "User".into()),
            (200, NOTHING),
            &[],
        ),
        Example {
            given: Given::Dangling,
            ..example(
                "20",
                vec![queued("acme/web", &["linux"])],
                &[(500, "RunnerDeployment.actions.summerwind.dev \"gone\" not found")],
                &[(200, "scaled org-hra by 1")],
                &["org-hra 7/100"],
                "a broken autoscaler harms nobody else (03 §1.18)",
            )
        },
        example(
            "21",
            vec![
                of(1, "queued", "acme/api", &["linux"], &json!({})),
                of(2, "queued", "acme/api", &["linux"], &json!({})),
                of(2, "completed", "acme/api", &["linux"], &ran),
            ],
            &[
                (200, "scaled repo-hra by 1"),
                (200, "scaled repo-hra by 1"),
                (200, "scaled repo-hra by -1"),
            ],
            &[
                (200, "scaled repo-hra by 1"),
                (200, "scaled repo-hra by 1"),
                (200, "scaled repo-hra by -1"),
            ],
            &["repo-hra 7/1"],
            "",
        ),
        example(
            "22",
            vec![
                of(1, "completed", "acme/api", &["linux"], &ran),
                of(1, "queued", "acme/api", &["linux"], &json!({})),
            ],
            &[(200, "scaled repo-hra by -1"), (200, "scaled repo-hra by 1")],
            &[
                (200, FINISHED),
                (200, "repo-hra knows already that the job has finished"),
            ],
            &[],
            "a late queued of a finished job is no demand; upstream ends with one entry (part 20)",
        ),
        example(
            "23",
            vec![
                of(1, "queued", "acme/api", &["linux"], &json!({})),
                of(2, "queued", "acme/api", &["linux"], &json!({})),
                of(3, "queued", "acme/api", &["linux"], &json!({})),
                of(2, "completed", "acme/api", &["linux"], &ran),
            ],
            &[
                (200, "scaled repo-hra by 1"),
                (200, "scaled repo-hra by 1"),
                (200, "scaled repo-hra by 1"),
                (200, "scaled repo-hra by -1"),
            ],
            &[
                (200, "scaled repo-hra by 1"),
                (200, "scaled repo-hra by 1"),
                (200, "scaled repo-hra by 1"),
                (200, "scaled repo-hra by -1"),
            ],
            &["repo-hra 7/1", "repo-hra 7/3"],
            "the job that ended is the one that goes, not the oldest; entries beyond max are kept alive by the autoscaler (part 20)",
        ),
        Example {
            given: Given::Stuck,
            ..example(
                "24",
                stuck,
                &[
                    (200, "scaled repo-hra by 1"),
                    (200, "scaled repo-hra by 1"),
                    (200, "scaled repo-hra by 1"),
                    (500, ""),
                    (500, ""),
                ],
                &[
                    (503, UNCONFIRMED),
                    (503, UNCONFIRMED),
                    (503, UNCONFIRMED),
                    (503, BUSY),
                    (503, BUSY),
                ],
                &[],
                "2xx means written: what is not is sent again by whoever reads GitHub's delivery log (part 20)",
            )
        },
    ]
}

#[tokio::test]
async fn the_worked_examples() {
    let all = examples();
    assert_eq!(all.len(), 25, "24, and two of 15");
    for example in all {
        let name = example.name;
        let (queue_limit, deadline) = match example.given {
            Given::Stuck => (3, Duration::from_millis(300)),
            _ => (100, Duration::from_secs(8)),
        };
        let mut bench = objects(queue_limit);
        let mut groups = None;
        match example.given {
            Given::Objects => {}
            Given::Dangling => bench = bench.with_dangling("gone", "RunnerDeployment", &jobs_trigger()),
            Given::TeamAHidden => {
                let github = FakeGitHub::default();
                github.says().groups = json!([listed(1, "Default", true, false)]);
                groups = Some(github.start().await);
            }
            Given::Stuck => bench.cluster.faults([Fault::FailBefore; 500]),
        }
        let app = router(bench.app_with(&[SECRET], groups, deadline));
        let mut answers = Vec::new();
        if matches!(example.given, Given::Stuck) {
            let all = example.sent.into_iter().map(|request| exchange(&app, request));
            answers.extend(futures::future::join_all(all).await);
        } else {
            for request in example.sent {
                answers.push(exchange(&app, request).await);
            }
        }
        let answers: Vec<(u16, String)> = answers
            .into_iter()
            .map(|(status, _, body)| (status.as_u16(), body))
            .collect();
        let expected: Vec<(u16, String)> = example
            .muster
            .iter()
            .map(|(status, body)| (*status, (*body).to_owned()))
            .collect();
        assert_eq!(answers, expected, "example {name}");
        assert_eq!(live(&bench), example.live, "example {name}");
        assert!(
            example.upstream == example.muster || !example.why.is_empty(),
            "example {name} deviates without a reason"
        );
    }
}

/// Row, request, upstream's status and body, Muster's, and why where they differ.
type Row = (
    &'static str,
    Request<Body>,
    (u16, &'static str),
    (u16, &'static str),
    &'static str,
);

/// Spec 03 §1.16, row by row.
#[tokio::test(start_paused = true)]
#[expect(clippy::too_many_lines, reason = "one table")]
async fn the_decision_table() {
    let none = json!({});
    let kind = |kind: &str| {
        let mut request = signed("ping", "{}");
        request
            .headers_mut()
            .insert("content-type", kind.parse().unwrap());
        request
    };
    let plain = |method: &str| {
        Request::builder()
            .method(method)
            .uri("/healthz/../x")
            .body(Body::empty())
            .unwrap()
    };
    let without = |object: &str| {
        let mut payload = job("queued", "acme/api", &["linux"], &none);
        payload.as_object_mut().unwrap().remove(object);
        signed("workflow_job", payload.to_string())
    };
    let api = |action: &str, more: &Value| of(100, action, "acme/api", &["linux"], more);
    let unsigned = Request::post("/")
        .header("x-github-event", "ping")
        .header("content-type", "application/json")
        .body(Body::from("{}"))
        .unwrap();
    let broken = Body::from_stream(futures::stream::iter([Err::<Bytes, _>(std::io::Error::other(
        "reset",
    ))]));
    let running = "webhook server is running\n";
    let no_type = "the delivery has no content type";
    let other_type =
        "the delivery's content type is neither application/json nor application/x-www-form-urlencoded";
    let table: Vec<Row> = vec![
        ("1", plain("GET"), (200, running), (200, running), ""),
        ("1 get", plain("get"), (200, running), (200, running), ""),
        (
            "1 HEAD",
            plain("HEAD"),
            (500, ""),
            (200, ""),
            "a probe may use HEAD",
        ),
        (
            "1 PUT",
            plain("PUT"),
            (500, ""),
            (405, "deliveries are sent with POST"),
            STATUS,
        ),
        (
            "2 signature",
            unsigned,
            (500, "missing signature"),
            (401, "the delivery has no signature"),
            STATUS,
        ),
        (
            "2 no type",
            kind(""),
            (500, "mime: no media type"),
            (415, no_type),
            STATUS,
        ),
        (
            "2 other type",
            kind("text/plain"),
            (500, "webhook request has unsupported Content-Type \"text/plain\""),
            (415, other_type),
            STATUS,
        ),
        (
            "3",
            Request::post("/").body(broken).unwrap(),
            (500, "unexpected EOF"),
            (400, "the body could not be read to its end"),
            STATUS,
        ),
        (
            "4",
            signed("made_up", "{}"),
            (500, "unknown X-Github-Event in message: made_up"),
            (200, "ignored: this server has no use for events of this type"),
            "an event that nobody acts on is no failure",
        ),
        (
            "4 none",
            signed("", "{}"),
            (500, "unknown X-Github-Event in message: "),
            (400, "the delivery does not name its event"),
            STATUS,
        ),
        (
            "5",
            signed("workflow_job", "{"),
            (500, "unexpected end of JSON input"),
            (400, "the workflow_job payload is not JSON (line 1, column 1)"),
            STATUS,
        ),
        (
            "5a",
            signed("workflow_job", "null"),
            (500, ""),
            (
                400,
                "the workflow_job payload has a missing or unexpected field (line 1, column 4)",
            ),
            STATUS,
        ),
        ("6", signed("ping", "{}"), (200, "pong"), (200, "pong"), ""),
        (
            "7",
            signed("check_suite", "{}"),
            (500, ""),
            (200, "ignored: this server has no use for events of this type"),
            "an event that nobody acts on is no failure",
        ),
        (
            "7a repository",
            without("repository"),
            (0, "connection closed"),
            (400, "the workflow_job payload has no repository"),
            STATUS,
        ),
        (
            "7a job",
            without("workflow_job"),
            (0, "connection closed"),
            (400, "the workflow_job payload has no workflow_job"),
            STATUS,
        ),
        ("8", api("waiting", &none), (200, ""), (200, ""), ""),
        ("8 other", api("made_up", &none), (200, ""), (200, ""), ""),
        (
            "8 in_progress",
            api("in_progress", &none),
            (200, ""),
            (200, "scaled repo-hra by 1"),
            "a running job is demand (part 20)",
        ),
        (
            "10",
            of(100, "queued", "acme/web", &["windows"], &none),
            (200, NOTHING),
            (200, NOTHING),
            "",
        ),
        (
            "10 skipped",
            of(
                100,
                "completed",
                "acme/web",
                &["windows"],
                &json!({"conclusion": "skipped"}),
            ),
            (200, NOTHING),
            (200, NOTHING),
            "",
        ),
        (
            "11",
            api("completed", &json!({"conclusion": "skipped"})),
            (200, ""),
            (200, ""),
            "",
        ),
        (
            "12",
            api("completed", &json!({"conclusion": "success"})),
            (200, ""),
            (200, ""),
            "",
        ),
        (
            "14",
            api("queued", &none),
            (200, "scaled repo-hra by 1"),
            (200, "scaled repo-hra by 1"),
            "",
        ),
        (
            "15",
            api("completed", &json!({"conclusion": "failure"})),
            (200, "scaled repo-hra by -1"),
            (200, FINISHED),
            "a job that was never counted takes nobody's place (part 20)",
        ),
    ];
    for (row, request, upstream, muster, why) in table {
        let (status, body) = send(&objects(100), request).await;
        assert_eq!((status.as_u16(), body.as_str()), muster, "row {row}");
        assert!(
            upstream == muster || !why.is_empty(),
            "row {row} deviates without a reason"
        );
    }
    // Rows 9 and 13 are examples 20 and 24; every other conclusion is row 15's.
    for conclusion in [
        Value::Null,
        "timed_out".into(),
        "neutral".into(),
        "action_required".into(),
        "stale".into(),
    ] {
        let bench = objects(100);
        let app = router(bench.app(&[SECRET]));
        exchange(&app, api("queued", &none)).await;
        let ended = api("completed", &json!({"conclusion": conclusion, "runner_id": null}));
        assert_eq!(
            exchange(&app, ended).await.2,
            "scaled repo-hra by -1",
            "{conclusion}"
        );
    }
}

#[test]
fn every_outcome_is_in_the_documented_table() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/webhooks.md")).unwrap();
    for outcome in crate::answer::Outcome::ALL {
        let row = format!("| `{}` |", outcome.as_str());
        assert!(page.contains(&row), "{row} is missing");
        let status = Answer::new(outcome, "").status().as_u16();
        let line = page.lines().find(|line| line.contains(&row)).unwrap();
        assert!(line.contains(&status.to_string()), "{line}: {status}");
    }
}
