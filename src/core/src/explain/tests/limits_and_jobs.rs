//! Holds, bounds, jobs, totals and the vocabulary, in the worlds of the parent module.

use jiff::SignedDuration;
use serde_json::json;

use super::*;

#[test]
fn holds_are_those_of_the_plan() {
    let annotate = |key: &'static str, value: String| {
        move |observed: &mut Observed| {
            let meta = &mut observed.replica_sets[0].metadata;
            meta.annotations
                .get_or_insert_default()
                .insert(key.to_owned(), value);
        }
    };
    let served = format!("{}@{}", ago(5), ago(4));
    let ephemeral_until = pool(0)
        .idle("a")
        .change(annotate("muster.dev/retain-idle-until", ahead(120)));
    let retained = of("pool linux", &ephemeral_until);
    assert_eq!(retained.reasons[0].code, Code::IdleRetained);
    assert_eq!(
        retained.reasons[0].until,
        Some(now() + SignedDuration::from_secs(120))
    );
    let surplus = pending(json!({}));
    let asked = json!({"metadata": {"annotations": {"actions-runner/id": "7", "actions-runner/unregistration-request-timestamp": ago(9),
        "actions-runner/unregistration-failure-message": "busy"}}});
    let unclear = json!({"metadata": {"annotations": {"actions-runner/id": "7", "actions-runner/unregistration-request-timestamp": ago(9)}}});
    let mut delayed = unclear.clone();
    merge(
        &mut delayed,
        &json!({"status": {"conditions": [{"type": "muster.dev/Unregistered", "status": "False",
            "reason": "GitHubForbidden", "message": "GitHub answers 403"}]}}),
    );
    check(vec![
        (
            "pool linux",
            pool(1).change(annotate("muster.dev/served", served)),
            Code::EffectiveTimeServed,
            "not replaced before the autoscaler asks again",
        ),
        (
            "pool linux",
            pool(0).pod("a", &surplus),
            Code::PodStarting,
            "pod a",
        ),
        (
            "runner a",
            pool(0).pod("a", &asked),
            Code::RetiringBusy,
            "goes when the job is done",
        ),
        (
            "runner a",
            pool(0).pod("a", &unclear),
            Code::Unregistering,
            "taken off GitHub",
        ),
        (
            "runner a",
            pool(0).pod("a", &delayed),
            Code::UnregistrationDelayed,
            "(GitHubForbidden): GitHub answers 403",
        ),
        ("runner a", pool(1).idle("a"), Code::RunnerIdle, "waits for a job"),
        (
            "runner a",
            pool(1).idle("a").entry("1/2@a", 1, 60),
            Code::RunnerBusy,
            "has job 1/2",
        ),
        (
            "runner gone",
            pool(0).entry("1/2@gone", 0, 60),
            Code::RunnerFinished,
            "it had job 1/2",
        ),
        ("runner gone", pool(0), Code::NotFound, "gone"),
        (
            "runner gone",
            pool(0).event(
                "Pod",
                "gone",
                "RunnerLost",
                "GitHub does not know the runner any more",
                json!({}),
            ),
            Code::RunnerLost,
            "does not know",
        ),
    ]);
}

#[test]
fn a_number_that_is_kept_says_until_when() {
    let mut observed = pool(2);
    observed.deployments[0].spec.template.spec.config.ephemeral = Some(false);
    let status = observed.autoscalers[0].status.get_or_insert_default();
    status.last_successful_scale_out_time = Some(read(json!(ago(60))));
    let explained = of("pool linux", &observed.idle("a").idle("b"));
    assert_eq!(explained.reasons[0].code, Code::ScaleDownDelayed);
    assert_eq!(
        explained.reasons[0].until,
        Some(now() + SignedDuration::from_mins(9))
    );
}

#[test]
fn a_job_says_where_it_stands() {
    let job = |key: &str, labels: &str| json!({"muster.dev/job": key, "muster.dev/labels": labels});
    let full = pool(2)
        .entry("1/1@a", 1, 300)
        .entry("1/2@b", 1, 200)
        .entry("1/3", 1, 4);
    let full = full.idle("a").idle("b");
    let dispatched = pool(1).entry("1/2", 1, 45).idle("a").change(|observed| {
        observed.deployments[0].spec.effective_time = read(json!(ago(45)));
        observed.replica_sets[0].spec.effective_time = read(json!(ago(45)));
    });
    let missed = pool(1).entry("1/2", 1, 4).event(
        "HorizontalRunnerAutoscaler",
        "linux",
        "WebhookMissed",
        "GitHub's queue has the job",
        job("1/2", "linux"),
    );
    check(vec![
        ("job 1/9", pool(0), Code::WebhookNotReceived, "did not arrive"),
        (
            "job 1/2",
            pool(1).entry("1/2", 0, 60),
            Code::JobFinished,
            "is over",
        ),
        (
            "job 1/2",
            pool(1).entry("ghes.example.com/1/2", 0, 60),
            Code::JobFinished,
            "job ghes.example.com/1/2 is over",
        ),
        (
            "job 1/2",
            pool(1).entry("1/2@a", 0, 60),
            Code::JobFinished,
            "on runner a",
        ),
        (
            "job 1/2",
            pool(1).entry("1/2", 1, 60).entry("1/2", 0, 50),
            Code::JobFinished,
            "is over",
        ),
        (
            "job 1/2",
            pool(1).entry("1/2@a", 1, 60).idle("a"),
            Code::JobRunning,
            "on runner a",
        ),
        (
            "job 1/3",
            full.clone(),
            Code::MaxReplicasReached,
            "held by a (job 1/1, 5 min), b (job 1/2, 3 min)",
        ),
        (
            "pool linux",
            full,
            Code::MaxReplicasReached,
            "3 jobs want a runner, and spec.maxReplicas of linux is 2",
        ),
        ("job 1/2", dispatched, Code::NotDispatched, "a (id 7)"),
        ("job 1/2", missed.clone(), Code::WebhookMissed, "GitHub's queue"),
        (
            "job https://github.com/acme/api/actions/runs/9/job/2?pr=1",
            missed.pod("a", &pending(json!({}))),
            Code::WebhookMissed,
            "GitHub's queue",
        ),
        (
            "job 5/6",
            pool(0).event(
                "HorizontalRunnerAutoscaler",
                "linux",
                "MissingLabel",
                "its runners lack the label \"gpu\"",
                job("5/6", "gpu"),
            ),
            Code::MissingLabel,
            "lack the label \"gpu\"",
        ),
        (
            "job 5/6",
            pool(0).event(
                "Namespace",
                "ns",
                "NoPoolInScope",
                "nothing for other/api",
                job("5/6", "gpu"),
            ),
            Code::NoPoolInScope,
            "other/api",
        ),
    ]);
    let mut old = pool(0).entry("1/2", 1, 900);
    let ledger = old.autoscalers[0].spec.capacity_reservations.as_mut().unwrap();
    ledger[0].expiration_time = read(json!(ago(300)));
    check(vec![("job 1/2", old, Code::JobExpired, "5 min ago")]);
}

#[test]
fn a_scheduled_maximum_is_named_as_such() {
    let night = json!([{"startTime": ago(600), "endTime": ahead(900), "maxReplicas": 1}]);
    let observed = pool(1).entry("1/1@a", 1, 300).entry("1/2", 1, 4).idle("a");
    let observed =
        observed.change(|observed| observed.autoscalers[0].spec.scheduled_overrides = Some(read(night)));
    for question in ["pool linux", "job 1/2"] {
        let explained = of(question, &observed);
        let first = &explained.reasons[0];
        assert_eq!(first.code, Code::ScheduledOverride, "{question}");
        assert_eq!(first.until, Some(now() + SignedDuration::from_secs(900)));
        assert_eq!(explained.wanted.unwrap().max, Some(1));
    }
}

#[test]
fn jobs_whose_runners_ended_unnamed_are_taken_for_done() {
    let mut observed = pool(0).entry("1/2", 1, 60);
    observed.deployments[0].spec.effective_time = read(json!(ago(60)));
    observed.replica_sets[0].spec.effective_time = read(json!(ago(60)));
    for question in ["pool linux", "job 1/2"] {
        let first = of(question, &observed).reasons.remove(0);
        assert_eq!(first.code, Code::EndsUncharged, "{question}");
        assert!(first.sentence.contains("1 of 1 jobs"), "{}", first.sentence);
    }
    let long = observed.autoscalers[0]
        .spec
        .capacity_reservations
        .as_mut()
        .unwrap();
    long[0].effective_time = read(json!(ago(1_500)));
    assert_eq!(of("pool linux", &observed).reasons[0].code, Code::NotReconciled);
}

#[test]
fn totals_have_a_line_for_each_pool() {
    let observed = pool(2).entry("1/1@a", 1, 300).entry("1/3", 1, 40).idle("a");
    let lines = totals(&observed, None, now());
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    assert_eq!(
        (line.existing.busy, line.wanted.queued, line.oldest_queued_seconds),
        (1, 1, Some(40))
    );
    let orphan = pool(0).change(|observed| observed.deployments.clear());
    assert!(totals(&orphan, None, now())[0].is_bad());
}

#[test]
fn every_code_reads_as_it_is_written_and_is_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/troubleshooting.md");
    let documented = std::fs::read_to_string(path).unwrap();
    for code in Code::ALL {
        assert_eq!(Code::parse(code.as_str()), Some(*code));
        assert!(
            documented.contains(&format!("| `{code}` |")),
            "docs/troubleshooting.md has no row for {code}"
        );
        assert!(
            code.is_good() || !code.remedy().is_empty(),
            "{code} has no remedy"
        );
    }
}
