//! `push`, `pull_request` and `check_run` from the request to the ledger.

use http::HeaderValue;

use super::*;

fn bench() -> Bench {
    let triggers = json!({"maxReplicas": 9, "scaleUpTriggers": [
        {"githubEvent": {"workflowJob": {}}},
        {"githubEvent": {"push": {}}, "amount": 3, "duration": "5m"},
        {"githubEvent": {"pullRequest": {"types": ["opened"], "branches": ["main"]}}},
        {"githubEvent": {"checkRun": {"types": ["created"], "names": ["!docs*"]}}, "amount": 2},
    ]});
    let fields = json!({"repository": "acme/tools", "labels": ["linux"]});
    super::bench().with_spec("tools", "RunnerDeployment", &fields, &triggers)
}

fn event(name: &str, guid: Option<&str>, repository: &str, more: &Value) -> Request<Body> {
    let (owner, repository) = repository.split_once('/').unwrap();
    let mut payload = json!({"repository": {"id": 7, "name": repository, "owner": {"login": owner, "type": "Organization"}}});
    payload
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let mut request = signed(name, payload.to_string());
    if let Some(guid) = guid {
        request
            .headers_mut()
            .insert("x-github-delivery", guid.parse().unwrap());
    }
    request
}

#[tokio::test(start_paused = true)]
async fn events_add_their_triggers_amount_for_its_duration_once_per_delivery() {
    let bench = bench();
    let app = router(bench.app(&[SECRET]));
    let opened = json!({"action": "opened", "pull_request": {"base": {"ref": "main"}}});
    let elsewhere = json!({"action": "opened", "pull_request": {"base": {"ref": "old"}}});
    let unit = json!({"action": "created", "check_run": {"name": "unit", "status": "queued"}});
    let docs = json!({"action": "created", "check_run": {"name": "docs build", "status": "queued"}});
    let tools = "acme/tools";
    for (request, expected) in [
        (
            event("push", Some("p1"), tools, &json!({})),
            "scaled tools-hra by 3",
        ),
        (
            event("push", Some("p1"), tools, &json!({})),
            "scaled tools-hra by 3",
        ),
        (
            event("pull_request", Some("r1"), tools, &opened),
            "scaled tools-hra by 1",
        ),
        (event("pull_request", Some("r2"), tools, &elsewhere), NOTHING),
        (
            event("check_run", Some("c1"), tools, &unit),
            "scaled tools-hra by 2",
        ),
        (event("check_run", Some("c2"), tools, &docs), NOTHING),
        (event("push", Some("p2"), "acme/api", &json!({})), NOTHING),
    ] {
        let (status, headers, body) = exchange(&app, request).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, expected));
        assert_eq!(headers.contains_key("x-muster-autoscaler"), body != NOTHING);
    }
    let jobs: Vec<_> = bench.cluster.jobs("tools-hra");
    assert_eq!(
        jobs,
        [
            ("push/p1".into(), 3),
            ("pull_request/r1".into(), 1),
            ("check_run/c1".into(), 2)
        ]
    );
    let ledger = bench.cluster.ledger("tools-hra");
    assert_eq!(ledger[0].expiration_time.unwrap().0.to_string(), at(300));
    assert_eq!(ledger[1].expiration_time.unwrap().0.to_string(), at(600));
    // A replica that does not remember the delivery finds its entry.
    let other = router(bench.app(&[SECRET]));
    exchange(&other, event("push", Some("p1"), tools, &json!({}))).await;
    assert_eq!(bench.cluster.jobs("tools-hra").len(), 3);
    assert_eq!(bench.cluster.patches().len(), 3);
    assert_eq!(counted(&bench, "push", "", "scaled_up"), 3);
    assert_eq!(counted(&bench, "pull_request", "opened", "unmatched"), 1);
    assert_eq!(bench.metrics.unmatched.get(), 0, "only jobs are missed");
    // A job needs an autoscaler with exactly one trigger, as upstream has it.
    let queued = job("queued", tools, &["linux"], &json!({}));
    assert_eq!(
        exchange(&app, delivery("j", &queued)).await.2,
        "scaled org-hra by 1"
    );
}

#[tokio::test(start_paused = true)]
async fn an_entry_needs_the_deliverys_name() {
    let bench = bench();
    for guid in [None, Some("a/b"), Some("")] {
        let (status, body) = send(&bench, event("push", guid, "acme/tools", &json!({}))).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(body.contains("X-GitHub-Delivery"), "{body}");
        // Where nothing is added, nothing needs a name.
        let nowhere = event("push", guid, "acme/api", &json!({}));
        assert_eq!(send(&bench, nowhere).await, (StatusCode::OK, NOTHING.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_those_of_jobs() {
    let bench = bench();
    let push = || event("push", Some("p1"), "acme/tools", &json!({}));
    bench.cluster.faults([Fault::FailBefore; 500]);
    let (status, headers, _) = exchange(&router(bench.app(&[SECRET])), push()).await;
    assert_eq!(
        (status, &headers["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &HeaderValue::from_static("5"))
    );
    let bench = self::bench();
    bench.cluster.delete("tools-hra");
    assert_eq!(send(&bench, push()).await, (StatusCode::OK, NOTHING.to_owned()));
    let gate = bench.readiness.gate("horizontalrunnerautoscalers");
    assert_eq!(send(&bench, push()).await.0, StatusCode::SERVICE_UNAVAILABLE);
    drop(gate);
}
