//! A table of worlds: what stands in the objects, and what must be the first reason.

#![expect(
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    reason = "tables of JSON read best as they are"
)]

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::*;

mod limits_and_jobs;

/// The present of all tests.
fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn ago(seconds: i64) -> String {
    (now() - SignedDuration::from_secs(seconds)).to_string()
}

fn ahead(seconds: i64) -> String {
    ago(-seconds)
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A healthy pool `linux` that wants `replicas`, scaled by the autoscaler `linux` between 0 and 2.
fn pool(replicas: i64) -> Observed {
    let template = json!({"spec": {"organization": "acme", "labels": ["linux"]}});
    Observed {
        autoscalers: vec![read(json!({
            "metadata": {"name": "linux", "namespace": "ns", "uid": "hra", "creationTimestamp": ago(600)},
            "spec": {"scaleTargetRef": {"kind": "RunnerDeployment", "name": "linux"}, "minReplicas": 0, "maxReplicas": 2,
                "scaleUpTriggers": [{"githubEvent": {"workflowJob": {}}}]},
            "status": {"desiredReplicas": replicas}}))],
        deployments: vec![read(json!({
            "metadata": {"name": "linux", "namespace": "ns", "uid": "rd", "creationTimestamp": ago(600)},
            "spec": {"replicas": replicas, "effectiveTime": ago(5), "template": template}}))],
        replica_sets: vec![read(json!({
            "metadata": {"name": "linux-abc", "namespace": "ns", "uid": "rs", "creationTimestamp": ago(600),
                "labels": {"runner-template-hash": "h"}, "annotations": {"muster.dev/served": "none"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "RunnerDeployment", "name": "linux", "uid": "rd", "controller": true}]},
            "spec": {"replicas": replicas, "effectiveTime": ago(5), "template": template},
            "status": {"readyReplicas": 0, "availableReplicas": 0}}))],
        ..Observed::default()
    }
}

impl Observed {
    /// Adds an entry to the ledger.
    fn entry(mut self, name: &str, replicas: i64, since: i64) -> Self {
        let entry = json!({"name": name, "replicas": replicas, "effectiveTime": ago(since), "expirationTime": ahead(600)});
        self.autoscalers[0]
            .spec
            .capacity_reservations
            .get_or_insert_default()
            .push(read(entry));
        self
    }

    /// Adds a Runner.
    fn runner(mut self, name: &str, conditions: Value) -> Self {
        self.runners.push(read(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "creationTimestamp": ago(5),
                "labels": {"runner-template-hash": "h", "runner-deployment-name": "linux"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "RunnerReplicaSet", "name": "linux-abc", "uid": "rs", "controller": true}]},
            "spec": {"organization": "acme"}, "status": {"conditions": conditions}})));
        self
    }

    /// Adds a Runner with its pod, whose fields `with` replaces.
    fn pod(self, name: &str, with: &Value) -> Self {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "creationTimestamp": ago(40),
                "labels": {"actions-runner": "", "runner-deployment-name": "linux"}, "annotations": {}},
            "spec": {"nodeName": "n1", "containers": [{"name": "runner", "env": [
                {"name": "RUNNER_EPHEMERAL", "value": "true"}, {"name": "RUNNER_TOKEN", "value": "AAREGISTRATION"}]}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": ago(30)}],
                "containerStatuses": [container(json!({"running": {}}))]}});
        merge(&mut pod, with);
        let mut this = self.runner(name, json!([]));
        this.pods.push(read(pod));
        this
    }

    /// A registered, idle runner.
    fn idle(self, name: &str) -> Self {
        self.pod(
            name,
            &json!({"metadata": {"annotations": {"actions-runner/id": "7"}}}),
        )
    }

    fn event(mut self, kind: &str, name: &str, reason: &str, message: &str, annotations: Value) -> Self {
        self.events.push(read(json!({
            "metadata": {"name": format!("e{}", self.events.len()), "namespace": "ns", "annotations": annotations},
            "involvedObject": {"kind": kind, "name": name, "namespace": "ns"},
            "reason": reason, "message": message, "type": "Warning", "lastTimestamp": ago(3)})));
        self
    }

    fn change(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

fn container(state: Value) -> Value {
    json!({"name": "runner", "image": "acme/runner:1", "imageID": "", "ready": false, "restartCount": 0, "state": state})
}

fn merge(into: &mut Value, with: &Value) {
    match (into, with) {
        (Value::Object(into), Value::Object(with)) => {
            for (key, value) in with {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, with) => *into = with.clone(),
    }
}

fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
    json!([{"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": ago(50)}])
}

fn of(question: &str, observed: &Observed) -> Explanation {
    let (what, name) = question.split_once(' ').unwrap();
    let question = match what {
        "pool" => Question::Pool(name.to_owned()),
        "runner" => Question::Runner(name.to_owned()),
        _ => Question::Job(JobQuery::parse(name).unwrap()),
    };
    explain(&question, Some("ns"), observed, now())
}

/// Question, world, first reason, a part of its sentence.
type Case = (&'static str, Observed, Code, &'static str);

fn check(cases: Vec<Case>) {
    for (question, observed, code, part) in cases {
        let explained = of(question, &observed);
        let first = &explained.reasons[0];
        assert_eq!(first.code, code, "{question}: {:#?}", explained.reasons);
        assert!(first.sentence.contains(part), "{question}: {}", first.sentence);
        assert!(first.remedy.is_empty() == code.remedy().is_empty());
        let shown = serde_json::to_string(&explained).unwrap();
        assert!(!shown.contains("AAREGISTRATION"), "{shown}");
    }
}

fn pending(more: Value) -> Value {
    let mut pod = json!({"status": {"phase": "Pending", "conditions": [], "containerStatuses": []}});
    merge(&mut pod, &more);
    pod
}

#[test]
fn a_pool_says_what_its_objects_and_conditions_complain_about() {
    let set = |conditions: Value| {
        move |observed: &mut Observed| {
            observed.autoscalers[0].status.get_or_insert_default().conditions = Some(read(conditions));
        }
    };
    check(vec![
        ("pool windows", pool(0), Code::NotFound, "windows"),
        ("pool linux", pool(0), Code::NoDemand, "minimum of 0"),
        (
            "pool linux",
            pool(1).change(|observed| observed.deployments.clear()),
            Code::TargetNotFound,
            "no RunnerDeployment linux in namespace ns",
        ),
        (
            "pool linux",
            pool(1).change(|observed| {
                let mut second = observed.autoscalers[0].clone();
                second.metadata.name = Some("other".to_owned());
                observed.autoscalers.push(second);
            }),
            Code::SeveralAutoscalers,
            "linux, other",
        ),
        (
            "pool linux",
            pool(0).change(|observed| {
                let triggers = observed.autoscalers[0].spec.scale_up_triggers.as_mut().unwrap();
                let push = read(json!({"githubEvent": {}}));
                triggers.push(push);
            }),
            Code::TriggerMissing,
            "has 2 entries",
        ),
        (
            "pool linux",
            pool(0).change(set(condition(
                "Reconciled",
                "False",
                "InvalidSpec",
                "spec.maxReplicas: -1 is negative",
            ))),
            Code::InvalidSpec,
            "spec.maxReplicas: -1 is negative",
        ),
        (
            "pool linux",
            pool(0).change(set(condition(
                "Novel",
                "False",
                "Strange",
                "a newer manager wrote this",
            ))),
            Code::ConditionNotMet,
            "Novel is False (Strange): a newer manager wrote this",
        ),
        (
            "pool linux",
            pool(0).change(set(condition(
                "QueueReconciled",
                "False",
                "GitHubForbidden",
                "GitHub does not show the runs of acme/api",
            ))),
            Code::QueueNotReadable,
            "acme/api",
        ),
        (
            "pool linux",
            pool(0).change(|observed| observed.autoscalers[0].status = None),
            Code::NotReconciled,
            "not decided",
        ),
        (
            "pool linux",
            pool(1)
                .entry("1/2", 1, 60)
                .change(|observed| observed.deployments[0].spec.effective_time = read(json!(ago(500)))),
            Code::NotReconciled,
            "queued 60 s ago",
        ),
        (
            "pool linux",
            pool(1).change(|observed| observed.replica_sets.clear()),
            Code::NotReconciled,
            "RunnerReplicaSet",
        ),
        (
            "pool linux",
            pool(0).change(|observed| observed.autoscalers[0].spec.max_replicas = Some(0)),
            Code::Paused,
            "spec.maxReplicas of linux is 0",
        ),
        (
            "pool linux",
            pool(0).change(|observed| observed.autoscalers.clear()),
            Code::Paused,
            "spec.replicas is 0",
        ),
        (
            "pool linux",
            pool(2),
            Code::WaitingForPod,
            "2 runners are wanted and 0 are there",
        ),
        (
            "pool linux",
            pool(1).entry("1/2@a", 1, 60).idle("a"),
            Code::AsWanted,
            "1 of them have a job",
        ),
    ]);
}

#[test]
fn a_refused_runner_says_why_until_when_and_what_to_do() {
    let message = format!(
        "could not get a registration token. {} {}",
        Code::GitHubRateLimited.remedy(),
        text::until(now() + SignedDuration::from_mins(5))
    );
    let limited = condition("Reconciled", "False", "GitHubRateLimited", &message);
    let observed = pool(2).runner("a", limited.clone()).runner("b", limited);
    let explained = of("pool linux", &observed);
    let first = &explained.reasons[0];
    assert_eq!(
        (first.code, first.others, first.until),
        (
            Code::GitHubRateLimited,
            1,
            Some(now() + SignedDuration::from_mins(5))
        )
    );
    assert_eq!(first.sentence, "could not get a registration token");
    assert_eq!(first.remedy, Code::GitHubRateLimited.remedy());
    assert_eq!(of("runner a", &observed).reasons[0].code, Code::GitHubRateLimited);
    let cases = [
        "InvalidCredentials",
        "GitHubUnauthorized",
        "GitHubForbidden",
        "GitHubNotFound",
        "GitHubUnavailable",
        "QuotaExceeded",
        "PodSecurityViolated",
        "AdmissionDenied",
        "Forbidden",
    ];
    for word in cases {
        let observed = pool(1)
            .entry("1/2", 1, 4)
            .runner("a", condition("Reconciled", "False", word, "it was refused"));
        for question in ["pool linux", "runner a", "job 1/2"] {
            assert_eq!(
                of(question, &observed).reasons[0].code.as_str(),
                word,
                "{question}"
            );
        }
    }
}

#[test]
fn a_pod_says_what_it_waits_for() {
    let waiting = |word: &str, said: &str| {
        pending(
            json!({"status": {"containerStatuses": [container(json!({"waiting": {"reason": word, "message": said}}))]}}),
        )
    };
    let unscheduled = |conditions: Value| {
        pending(json!({"spec": {"nodeName": null}, "status": {"conditions": conditions}}))
    };
    let refused = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient cpu."}]);
    let late = json!({"metadata": {"annotations": {}}, "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": ago(90)}]}});
    let crashed = json!({"status": {"phase": "Failed", "containerStatuses": [container(json!({"terminated": {"exitCode": 3}}))]}});
    let evicted = json!({"status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory.", "containerStatuses": []}});
    let lost = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "lastTransitionTime": ago(60)}]}});
    let cases = vec![
        (unscheduled(refused), Code::Unschedulable, "3 Insufficient cpu"),
        (unscheduled(json!([])), Code::WaitingForNode, "for 40 s"),
        (
            waiting("ImagePullBackOff", "Back-off pulling image"),
            Code::ImagePullFailed,
            "acme/runner:1: ImagePullBackOff",
        ),
        (
            waiting("CreateContainerConfigError", "secret \"x\" not found"),
            Code::ContainerConfigInvalid,
            "secret \"x\" not found",
        ),
        (
            waiting("ContainerCreating", ""),
            Code::PodStarting,
            "on node n1 for 40 s",
        ),
        (json!({}), Code::RunnerRegistering, "about to register"),
        (late, Code::RunnerNotRegistered, "for 90 s and is not registered"),
        (crashed, Code::RunnerCrashed, "exit code 3"),
        (evicted, Code::PodEvicted, "low on resource"),
        (lost, Code::NodeLost, "node n1"),
    ];
    for (pod, code, part) in cases {
        let observed = pool(1).entry("1/2", 1, 4).pod("a", &pod);
        check(vec![
            ("pool linux", observed.clone(), code, part),
            ("runner a", observed.clone(), code, part),
            ("job 1/2", observed, code, part),
        ]);
    }
    let mounts = pool(1)
        .entry("1/2", 1, 4)
        .pod("a", &waiting("ContainerCreating", ""))
        .event("Pod", "a", "FailedMount", "configmap \"x\" not found", json!({}));
    check(vec![(
        "pool linux",
        mounts,
        Code::VolumeNotMounted,
        "configmap \"x\" not found",
    )]);
}

#[test]
fn a_failing_pool_says_the_cause_before_its_caution() {
    let failing = |observed: &mut Observed| {
        let said = format!(
            "4 runners in a row failed when they started, the last one because: exit code 1. {}",
            text::until(now() + SignedDuration::from_secs(9))
        );
        let conditions = condition("StartupFailing", "True", "RunnersFail", &said);
        observed.deployments[0].status.get_or_insert_default().conditions = Some(read(conditions));
    };
    let observed = pool(1).entry("1/2", 1, 4).change(failing);
    check(vec![
        ("pool linux", observed.clone(), Code::RunnersFail, "exit code 1"),
        ("job 2", observed.clone(), Code::RunnersFail, "4 runners in a row"),
    ]);
    let first = of("pool linux", &observed).reasons.remove(0);
    assert_eq!(first.until, Some(now() + SignedDuration::from_secs(9)));
    let pulling = observed.pod(
        "a",
        &pending(json!({"status": {"containerStatuses": [container(json!({"waiting": {"reason": "ErrImagePull"}}))]}})),
    );
    check(vec![(
        "pool linux",
        pulling,
        Code::ImagePullFailed,
        "ErrImagePull",
    )]);
}
