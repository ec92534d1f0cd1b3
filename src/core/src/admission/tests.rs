//! Tables of what is refused, remarked upon and filled in.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::scope::Scope;

const CLAIM: &str = "spec.template.spec.workVolumeClaimTemplate";

fn deployment(spec: &Value) -> Value {
    json!({"metadata": {"name": "pool"}, "spec": {"template": {"spec": spec}}})
}

/// The refused fields and what is wrong with them.
fn refused(kind: Kind, object: &Value) -> Vec<(String, String)> {
    let violations = judge(kind, object, None).violations;
    violations
        .into_iter()
        .map(|violation| (violation.field, violation.detail))
        .collect()
}

fn kubernetes(claim: &Value) -> Value {
    deployment(
        &json!({"organization": "acme", "containerMode": "kubernetes", "workVolumeClaimTemplate": claim}),
    )
}

#[test]
fn the_five_rules_of_upstream() {
    let claim = |modes: &[&str]| json!({"storageClassName": "fast", "accessModes": modes, "resources": {}});
    let repository = "spec.template.spec.repository";
    let table = [
        (deployment(&json!({})), vec![(repository, "must be set")]),
        (
            deployment(&json!({"organization": "", "labels": ["a"]})),
            vec![(repository, "must be set")],
        ),
        (
            deployment(&json!({"organization": "acme", "enterprise": "big"})),
            vec![(repository, "only one")],
        ),
        (deployment(&json!({"repository": "acme/api"})), vec![]),
        (deployment(&json!({"enterprise": "big"})), vec![]),
        (kubernetes(&Value::Null), vec![(CLAIM, "needs it")]),
        (kubernetes(&claim(&[])), vec![(CLAIM, "at least one")]),
        (
            kubernetes(&claim(&["ReadWriteOnce", "ReadWriteOncePod", "ReadOnlyMany"])),
            vec![(CLAIM, "\"ReadWriteOncePod\"")],
        ),
        (kubernetes(&claim(&["ReadWriteOnce", "ReadWriteMany"])), vec![]),
        // All violations at once.
        (
            deployment(&json!({"containerMode": "kubernetes"})),
            vec![(repository, "must be set"), (CLAIM, "needs it")],
        ),
        // Outside kubernetes mode nobody reads the claim.
        (
            deployment(
                &json!({"organization": "acme", "workVolumeClaimTemplate": claim(&["ReadWriteOncePod"])}),
            ),
            vec![],
        ),
    ];
    for (object, expected) in table {
        for kind in [Kind::RunnerDeployment, Kind::RunnerReplicaSet] {
            let found = refused(kind, &object);
            assert_eq!(found.len(), expected.len(), "{object}: {found:?}");
            for ((field, detail), (wanted, words)) in found.iter().zip(&expected) {
                assert_eq!(field, wanted, "{object}");
                assert!(detail.contains(words), "{object}: {detail}");
            }
        }
    }
    // A Runner has it one level higher, and an object without a spec is stopped here only.
    assert_eq!(
        refused(Kind::Runner, &json!({"metadata": {}}))[0].0,
        "spec.repository"
    );
    assert!(refused(Kind::Runner, &json!({"spec": {"organization": "acme"}})).is_empty());
}

#[test]
fn a_refusal_reads_like_kubernetes_own() {
    let object =
        deployment(&json!({"repository": "a/b", "organization": "a", "containerMode": "kubernetes"}));
    let violations = judge(Kind::RunnerDeployment, &object, None).violations;
    let message = refusal(Kind::RunnerDeployment, "pool", &violations);
    assert!(
        message.starts_with(
            "RunnerDeployment.actions.summerwind.dev \"pool\" is invalid: [spec.template.spec.repository: Invalid value: \"a/b\": "
        ),
        "{message}"
    );
    assert!(
        message.contains(&format!(", {CLAIM}: Invalid value: null: ")) && message.ends_with(']'),
        "{message}"
    );
    let one = refusal(Kind::RunnerDeployment, "pool", &violations[..1]);
    assert!(!one.contains('['), "{one}");
}

#[test]
fn what_is_deleted_or_keeps_its_spec_is_let_be() {
    let bad = deployment(&json!({}));
    let mut deleted = bad.clone();
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut labelled = bad.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    let judged = |new: &Value, old: &Value| judge(Kind::RunnerDeployment, new, Some(old));
    assert_eq!(judged(&deleted, &bad), Verdict::default());
    assert_eq!(judged(&labelled, &bad), Verdict::default());
    let mut changed = bad.clone();
    changed["spec"]["replicas"] = json!(3);
    assert_eq!(judged(&changed, &bad).violations.len(), 1);
}

fn runner_set(change: impl FnOnce(&mut Value)) -> Value {
    let mut spec = json!({
        "organization": "acme",
        "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}},
    });
    change(&mut spec);
    json!({"metadata": {"name": "set"}, "spec": spec})
}

#[test]
fn of_runner_sets_only_what_never_worked_is_refused() {
    type Change = fn(&mut Value);
    let table: [(Change, Option<&str>); 14] = [
        (|_| {}, None),
        (|spec| spec["organization"] = json!(""), Some("spec.repository")),
        (|spec| spec["repository"] = json!("acme/api"), None),
        (
            |spec| spec["selector"]["matchLabels"]["app"] = json!("b"),
            Some("spec.selector"),
        ),
        (
            |spec| spec["selector"]["matchLabels"]["runnerset-name"] = json!("set"),
            None,
        ),
        (|spec| spec["selector"] = json!({}), None),
        (
            |spec| {
                spec["selector"] =
                    json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]});
            },
            None,
        ),
        (
            |spec| {
                spec["selector"] = json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]});
            },
            Some("spec.selector"),
        ),
        (
            |spec| spec["containerMode"] = json!("kubernetes"),
            Some("spec.workVolumeClaimTemplate"),
        ),
        (
            |spec| {
                spec["containerMode"] = json!("kubernetes");
                spec["workVolumeClaimTemplate"] = json!({"accessModes": ["ReadWriteOncePod"]});
            },
            None,
        ),
        (
            |spec| {
                spec["containerMode"] = json!("kubernetes");
                spec["workVolumeClaimTemplate"] = json!({"accessModes": ["ReadWriteOnce"]});
                spec["template"]["spec"] = json!({"containers": [], "volumes": [{"name": "work"}]});
            },
            Some("spec.template.spec.volumes[0].name"),
        ),
        (
            |spec| spec["volumeSizeLimit"] = json!("0Gi"),
            Some("spec.volumeSizeLimit"),
        ),
        (|spec| spec["volumeSizeLimit"] = json!("10Gi"), None),
        (
            |spec| {
                spec["volumeSizeLimit"] = json!(0);
                spec["dockerEnabled"] = json!(false);
            },
            None,
        ),
    ];
    for (change, field) in table {
        let object = runner_set(change);
        let found = refused(Kind::RunnerSet, &object);
        let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, Vec::from_iter(field), "{object}");
    }
    let both = judge(
        Kind::RunnerSet,
        &runner_set(|spec| spec["repository"] = json!("a/b")),
        None,
    );
    assert_eq!(both.warnings.len(), 1, "{both:?}");
}

fn autoscaler(change: impl FnOnce(&mut Value)) -> Value {
    let mut spec = json!({"scaleTargetRef": {"name": "pool"}, "minReplicas": 0, "maxReplicas": 5});
    change(&mut spec);
    json!({"metadata": {"name": "pool"}, "spec": spec})
}

#[test]
fn of_autoscalers_what_was_always_accepted_is_a_warning() {
    type Change = fn(&mut Value);
    let table: [(Change, &str); 11] = [
        (|spec| spec["scaleTargetRef"] = Value::Null, "scaleTargetRef"),
        (
            |spec| spec["maxReplicas"] = Value::Null,
            "spec.maxReplicas is missing",
        ),
        (|spec| spec["minReplicas"] = json!(-1), "negative"),
        (|spec| spec["minReplicas"] = json!(6), "more than maxReplicas"),
        (|spec| spec["metrics"] = json!([{}, {}, {}]), "more than two"),
        (
            |spec| {
                let metric = json!({"type": "PercentageRunnersBusy"});
                spec["metrics"] = json!([metric, metric]);
            },
            "in this order",
        ),
        (
            |spec| {
                spec["scaleUpTriggers"] = json!([{"githubEvent": {"workflowJob": {}}, "duration": "banana"}]);
            },
            "banana",
        ),
        (
            |spec| spec["scaleUpTriggers"] = json!([{"githubEvent": {}}]),
            "names no event",
        ),
        (
            |spec| spec["scaleUpTriggers"] = json!([{"githubEvent": {"workflowJob": null}}]),
            "names no event",
        ),
        (
            |spec| {
                spec["scheduledOverrides"] =
                    json!([{"startTime": "2026-01-02T00:00:00Z", "endTime": "2026-01-02T00:00:00+01:00"}]);
            },
            "never active",
        ),
        (
            |spec| {
                spec["scheduledOverrides"] =
                    json!([{"startTime": "2026-01-02t00:00:00z", "endTime": "2026-01-01T00:00:00Z"}]);
            },
            "never active",
        ),
    ];
    for (change, words) in table {
        let verdict = judge(Kind::HorizontalRunnerAutoscaler, &autoscaler(change), None);
        assert_eq!(verdict.violations, [], "{words}");
        assert_eq!(verdict.warnings.len(), 1, "{verdict:?}");
        assert!(verdict.warnings[0].contains(words), "{verdict:?}");
    }
    let good = autoscaler(|spec| {
        spec["metrics"] = json!([
            {"type": "PercentageRunnersBusy", "scaleUpThreshold": "0.75", "scaleUpFactor": "1e0", "scaleDownAdjustment": 2},
            {"type": "TotalNumberOfQueuedAndInProgressWorkflowRuns"},
        ]);
        spec["scaleUpTriggers"] = json!([{"githubEvent": {"workflowJob": {}}, "duration": "30m"}]);
    });
    assert_eq!(
        judge(Kind::HorizontalRunnerAutoscaler, &good, None),
        Verdict::default()
    );
}

#[test]
fn of_autoscalers_metrics_that_nobody_can_evaluate_are_refused() {
    let table = [
        (json!({"type": "Banana"}), "type"),
        (json!({}), "type"),
        (
            json!({"type": "PercentageRunnersBusy", "scaleUpThreshold": "75%"}),
            "scaleUpThreshold",
        ),
        (
            json!({"type": "PercentageRunnersBusy", "scaleDownAdjustment": -1}),
            "scaleDownAdjustment",
        ),
        (
            json!({"type": "PercentageRunnersBusy", "scaleUpFactor": "2", "scaleUpAdjustment": 2}),
            "scaleUpAdjustment",
        ),
    ];
    for (metric, field) in table {
        let bad = autoscaler(|spec| spec["metrics"] = json!([metric]));
        let found = refused(Kind::HorizontalRunnerAutoscaler, &bad);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, format!("spec.metrics[0].{field}"));

        // An object that has got away with it is told, and can be changed otherwise.
        let mut changed = bad.clone();
        changed["spec"]["maxReplicas"] = json!(9);
        let verdict = judge(Kind::HorizontalRunnerAutoscaler, &changed, Some(&bad));
        assert_eq!(
            (verdict.violations.len(), verdict.warnings.len()),
            (0, 1),
            "{verdict:?}"
        );
        let good = autoscaler(|_| {});
        assert_eq!(
            judge(Kind::HorizontalRunnerAutoscaler, &bad, Some(&good))
                .violations
                .len(),
            1
        );
    }
}

/// A pod of a RunnerSet as its StatefulSet creates it.
fn pod(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "set-abc-0", "labels": {"a": "b"}},
        "spec": {
            "aFieldOfTheFuture": {"kept": true},
            "restartPolicy": "Always",
            "containers": [
                {"name": "docker", "image": "docker:dind"},
                {
                    "name": "runner",
                    "aFieldOfTheFuture": 1,
                    "env": [
                        {"name": "RUNNER_ORG", "value": "acme"},
                        {"name": "RUNNER_REPO", "value": ""},
                        {"name": "RUNNER_ENTERPRISE"},
                    ],
                },
            ],
        },
    });
    change(&mut pod);
    pod
}

fn env(pod: &mut Value) -> &mut Vec<Value> {
    pod["spec"]["containers"][1]["env"].as_array_mut().unwrap()
}

fn expires_at() -> Timestamp {
    "2026-01-01T01:02:03.456Z".parse().unwrap()
}

fn patched(pod: &Value, request_name: &str) -> (Value, usize) {
    let runner = RunnerPod::read(pod).unwrap().unwrap();
    let token = runner.needs_token().then(|| ("token", expires_at()));
    let operations = runner.patch(request_name, token);
    let count = operations.len();
    let patch: json_patch::Patch = serde_json::from_value(operations.into()).unwrap();
    let mut after = pod.clone();
    json_patch::patch(&mut after, &patch).unwrap();
    (after, count)
}

#[test]
fn a_runner_set_pod_gets_what_it_lacks_and_nothing_else() {
    let before = pod(|_| {});
    let (after, operations) = patched(&before, "");
    assert_eq!(operations, 5);
    let expected = pod(|pod| {
        pod["metadata"]["annotations"] =
            json!({"actions-runner-controller/token-expires-at": "2026-01-01T01:02:03Z"});
        pod["spec"]["restartPolicy"] = json!("Never");
        env(pod).extend([
            json!({"name": "RUNNER_NAME", "value": "set-abc-0"}),
            json!({"name": "RUNNER_TOKEN", "value": "token"}),
        ]);
    });
    assert_eq!(after, expected);
    assert_eq!(patched(&after, "").1, 0, "a second time there is nothing to do");
}

#[test]
fn empty_entries_are_filled_in_place_and_annotations_kept() {
    let before = pod(|pod| {
        pod["metadata"]["annotations"] = json!({"actions-runner/github-api-creds-secret": "own", "x": "y"});
        env(pod).insert(0, json!({"name": "RUNNER_TOKEN", "value": ""}));
        env(pod).insert(1, json!({"name": "RUNNER_NAME"}));
    });
    let (after, _) = patched(&before, "");
    let expected = pod(|pod| {
        pod["metadata"]["annotations"] = json!({
            "actions-runner/github-api-creds-secret": "own",
            "x": "y",
            "actions-runner-controller/token-expires-at": "2026-01-01T01:02:03Z",
        });
        pod["spec"]["restartPolicy"] = json!("Never");
        env(pod).insert(0, json!({"name": "RUNNER_TOKEN", "value": "token"}));
        env(pod).insert(1, json!({"name": "RUNNER_NAME", "value": "set-abc-0"}));
    });
    assert_eq!(after, expected);
    let runner = RunnerPod::read(&before).unwrap().unwrap();
    assert_eq!(runner.credentials(), Some("own"));
    assert_eq!(runner.scope(), Ok(&Scope::Organization("acme".to_owned())));
}

#[test]
fn a_name_that_is_not_drawn_yet_is_referred_to() {
    let nameless = pod(|pod| pod["metadata"] = json!({"generateName": "set-"}));
    let name = |pod: &Value| pod["spec"]["containers"][1]["env"][3].clone();
    let (after, _) = patched(&nameless, "");
    assert_eq!(
        name(&after),
        json!({"name": "RUNNER_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
    );
    let (after, _) = patched(&nameless, "from-request");
    assert_eq!(
        name(&after),
        json!({"name": "RUNNER_NAME", "value": "from-request"})
    );
}

#[test]
fn the_pod_of_a_runner_object_needs_nothing_of_github() {
    let complete = pod(|pod| {
        pod["spec"]["restartPolicy"] = json!("Never");
        env(pod).push(json!({"name": "RUNNER_NAME", "value": "a"}));
        env(pod).push(json!({"name": "RUNNER_TOKEN", "value": "own"}));
    });
    assert!(!RunnerPod::read(&complete).unwrap().unwrap().needs_token());
    assert_eq!(patched(&complete, ""), (complete.clone(), 0));

    // valueFrom is a value too.
    let source = json!({"secretKeyRef": {"name": "s", "key": "token"}});
    let referring = pod(|pod| env(pod).push(json!({"name": "RUNNER_TOKEN", "valueFrom": source})));
    let (after, _) = patched(&referring, "");
    assert_eq!(after["spec"]["restartPolicy"], "Never");
    assert_eq!(
        after["spec"]["containers"][1]["env"][3],
        referring["spec"]["containers"][1]["env"][3]
    );
    assert!(after["metadata"].get("annotations").is_none());
}

#[test]
fn the_last_of_two_variables_counts() {
    let doubled = pod(|pod| {
        env(pod).push(json!({"name": "RUNNER_ORG", "value": ""}));
        env(pod).push(json!({"name": "RUNNER_REPO", "value": "acme/api"}));
        env(pod).push(json!({"name": "RUNNER_TOKEN", "value": "first"}));
        env(pod).push(json!({"name": "RUNNER_TOKEN", "value": ""}));
    });
    let runner = RunnerPod::read(&doubled).unwrap().unwrap();
    assert_eq!(runner.scope().unwrap().api_path(), "repos/acme/api");
    let (after, _) = patched(&doubled, "");
    assert_eq!(after["spec"]["containers"][1]["env"][6]["value"], "token");
    assert_eq!(after["spec"]["containers"][1]["env"][5]["value"], "first");
}

#[test]
fn other_pods_are_left_alone() {
    for other in [
        json!({}),
        json!({"spec": {"containers": [{"name": "app"}]}}),
        json!({"spec": {"containers": null}}),
        // A runner of a scale set.
        json!({"spec": {"containers": [{"name": "runner", "env": [{"name": "ACTIONS_RUNNER_INPUT_JITCONFIG"}]}]}}),
        pod(|pod| {
            env(pod).pop();
        }),
    ] {
        assert!(RunnerPod::read(&other).unwrap().is_none(), "{other}");
    }
    for nothing in [Value::Null, json!("pod"), json!([])] {
        assert_eq!(RunnerPod::read(&nothing).unwrap_err(), NotAPod);
    }
    let scopeless = pod(|pod| env(pod)[0]["value"] = json!(""));
    assert!(RunnerPod::read(&scopeless).unwrap().unwrap().scope().is_err());
}
