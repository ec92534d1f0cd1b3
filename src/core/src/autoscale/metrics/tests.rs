use super::*;

fn repository() -> Scope {
    Scope::from_fields(Some("acme/api"), None, None).unwrap()
}

fn organization() -> Scope {
    Scope::from_fields(None, Some("acme"), None).unwrap()
}

fn spec(text: &str) -> MetricSpec {
    serde_json::from_str(text).unwrap()
}

fn busy_spec(fields: &str) -> Busy {
    let text = format!(r#"{{"type": "PercentageRunnersBusy"{fields}}}"#);
    match parse(&[spec(&text)], &organization()).unwrap().unwrap().first {
        Metric::Busy(busy) => busy,
        Metric::Jobs(_) => panic!("no percentage"),
    }
}

const JOBS: &str = r#"{"type": "TotalNumberOfQueuedAndInProgressWorkflowRuns"}"#;
const BUSY: &str = r#"{"type": "PercentageRunnersBusy"}"#;

#[test]
fn parameters_and_combinations_that_cannot_be() {
    let enterprise = Scope::from_fields(None, None, Some("acme")).unwrap();
    let of = |text: &str| vec![spec(text)];
    let pair = |one: &str, other: &str| vec![spec(one), spec(other)];
    for (specs, scope, problem) in [
        (of("{}"), repository(), r#"spec.metrics[0].type: "" is unknown"#),
        (
            of(r#"{"type": "Queue"}"#),
            repository(),
            r#"spec.metrics[0].type: "Queue" is unknown"#,
        ),
        (
            of(JOBS),
            organization(),
            "spec.metrics[0].repositoryNames is empty",
        ),
        (of(JOBS), enterprise, "cannot count the jobs of enterprise acme"),
        (
            of(r#"{"type": "TotalNumberOfQueuedAndInProgressWorkflowRuns", "repositoryNames": ["a/b/c"]}"#),
            organization(),
            r#""a/b/c" is no name of a repository"#,
        ),
        (
            of(r#"{"type": "PercentageRunnersBusy", "scaleUpThreshold": "80%"}"#),
            repository(),
            r#"spec.metrics[0].scaleUpThreshold: "80%" is no number"#,
        ),
        (
            of(r#"{"type": "PercentageRunnersBusy", "scaleDownFactor": "half"}"#),
            repository(),
            r#"spec.metrics[0].scaleDownFactor: "half" is no number"#,
        ),
        (
            of(r#"{"type": "PercentageRunnersBusy", "scaleUpAdjustment": -1}"#),
            repository(),
            "spec.metrics[0].scaleUpAdjustment: -1 is negative",
        ),
        (
            of(r#"{"type": "PercentageRunnersBusy", "scaleDownAdjustment": -2}"#),
            repository(),
            "spec.metrics[0].scaleDownAdjustment: -2 is negative",
        ),
        (
            of(r#"{"type": "PercentageRunnersBusy", "scaleUpAdjustment": 1, "scaleUpFactor": "2"}"#),
            repository(),
            "cannot be combined with scaleUpFactor",
        ),
        (
            of(r#"{"type": "PercentageRunnersBusy", "scaleDownAdjustment": 1, "scaleDownFactor": ".5"}"#),
            repository(),
            "cannot be combined with scaleDownFactor",
        ),
        (
            pair(JOBS, BUSY),
            repository(),
            "spec.metrics: two metrics must be",
        ),
        (
            pair(BUSY, BUSY),
            repository(),
            "spec.metrics: two metrics must be",
        ),
        (
            vec![spec(BUSY), spec(JOBS), spec(JOBS)],
            repository(),
            "3 metrics are too many",
        ),
    ] {
        let error = parse(&specs, &scope).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
    assert_eq!(parse(&[], &organization()).unwrap(), None);
}

#[test]
fn repositories_are_named_with_and_without_their_owner() {
    let of = |scope: Scope, names: &str| {
        let text = format!(
            r#"{{"type": "TotalNumberOfQueuedAndInProgressWorkflowRuns", "repositoryNames": [{names}]}}"#
        );
        match parse(&[spec(&text)], &scope).unwrap().unwrap().first {
            Metric::Jobs(repositories) => repositories
                .into_iter()
                .map(|repository| format!("{}/{}", repository.owner, repository.name))
                .collect::<Vec<_>>(),
            Metric::Busy(_) => panic!("no jobs"),
        }
    };
    assert_eq!(of(repository(), r#""ignored""#), ["acme/api"]);
    assert_eq!(of(repository(), ""), ["acme/api"]);
    assert_eq!(
        of(organization(), r#""web", "other/web", "web""#),
        ["acme/web", "other/web"]
    );
}

#[test]
fn defaults_are_upstreams() {
    let expected = Busy {
        up_threshold: 0.8,
        down_threshold: 0.3,
        up: Change::Factor(1.3),
        down: Change::Factor(0.7),
    };
    assert_eq!(busy_spec(""), expected);
    assert_eq!(
        busy_spec(r#", "scaleUpAdjustment": 0, "scaleUpFactor": "1.3", "scaleDownThreshold": """#),
        expected,
        "an adjustment of 0 and an empty text are absent"
    );
}

/// Every edge of spec 02 §5.2 and Q22.
#[test]
fn percentage_table() {
    let (plain, up_two) = (busy_spec(""), busy_spec(r#", "scaleUpAdjustment": 2"#));
    let down_three = busy_spec(r#", "scaleDownAdjustment": 3"#);
    let odd = busy_spec(
        r#", "scaleUpThreshold": "0.75", "scaleDownThreshold": "0.25", "scaleUpFactor": "1.5", "scaleDownFactor": "0.6""#,
    );
    let none = busy_spec(r#", "scaleUpThreshold": "NaN", "scaleDownThreshold": "NaN""#);
    // before, busy, busy while terminating → suggested
    for (metric, before, busy, terminating, suggested) in [
        (&plain, Some(4), 4, 0, 6),
        (&plain, Some(4), 1, 0, 2),
        (&plain, Some(10), 8, 0, 13), // exactly the threshold: up
        (&plain, Some(10), 3, 0, 10), // exactly the lower one: unchanged
        (&plain, Some(10), 2, 0, 7),
        (&plain, Some(10), 2, 6, 13), // those that cannot go count as busy
        (&plain, Some(1), 1, 0, 2),
        (&plain, Some(1), 0, 0, 0), // 0.7 runners are none
        (&plain, Some(2), 5, 0, 3), // more busy than wanted
        (&plain, None, 1, 0, 2),    // absent is 1
        (&plain, None, 0, 0, 0),
        (&plain, Some(0), 0, 0, 0), // no share of nothing: unchanged
        (&plain, Some(0), 3, 0, 0), // more than all, and a factor keeps 0
        (&up_two, Some(0), 3, 0, 2),
        (&up_two, Some(0), 0, 0, 0),
        (&up_two, Some(4), 4, 0, 6),
        (&down_three, Some(4), 0, 0, 1),
        (&down_three, Some(2), 0, 0, -1), // below zero: says nothing
        (&odd, Some(4), 3, 0, 6),
        (&odd, Some(4), 1, 0, 4),
        (&odd, Some(5), 1, 0, 3),
        (&none, Some(5), 5, 0, 5), // nothing compares to a threshold that is no number
    ] {
        let counts = BusyCounts {
            busy,
            terminating_busy: terminating,
            ..BusyCounts::default()
        };
        assert_eq!(
            metric.suggest(&counts, before),
            suggested,
            "{metric:?} {before:?} {busy} {terminating}"
        );
    }
}

#[test]
fn runners_are_counted_by_name() {
    let own = BTreeSet::from(["a", "b", "c", "d"]);
    let kept = BTreeSet::from(["b", "d", "a"]);
    let listed = [("a", true), ("b", false), ("c", false), ("foreign", true)];
    let counts = count_runners(&own, listed, &kept);
    let expected = BusyCounts {
        runners: 4,
        registered: 3,
        busy: 1,
        terminating_busy: 2, // b, and d that GitHub does not list at all
    };
    assert_eq!(counts, expected);
    assert_eq!(
        count_runners(&BTreeSet::new(), listed, &BTreeSet::new()),
        BusyCounts::default()
    );
}

fn strings(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|label| (*label).to_owned()).collect()
}

/// Spec 02 §19 and §5.2.1.
#[test]
fn jobs_table() {
    let count = |runner: &[&str], jobs: &[(&str, &[&str])]| {
        let asked: Vec<(&str, Vec<String>)> = jobs
            .iter()
            .map(|(status, labels)| (*status, strings(labels)))
            .collect();
        let run = Run {
            id: 1,
            status: "queued",
            jobs: asked
                .iter()
                .map(|(status, labels)| (*status, labels.as_slice()))
                .collect(),
        };
        let mut counts = JobCounts::default();
        counts.add([run], &labels(&strings(runner)));
        (counts.demand(), counts.unknown)
    };
    let hosted: &[&str] = &["self-hosted"];
    let custom: &[&str] = &["self-hosted", "custom"];
    let five = |labels| [("queued", labels); 5];
    for (runner, jobs, demand) in [
        (hosted, &[("queued", hosted); 3][..], 3),
        (
            &[],
            &[
                ("queued", hosted),
                ("queued", hosted),
                ("queued", hosted),
                ("in_progress", hosted),
                ("in_progress", hosted),
                ("completed", hosted),
            ],
            5,
        ),
        (hosted, &five(custom), 0),
        (&["custom"], &five(custom), 5),
        (&["custom"], &five(&["custom"]), 5),
        (&["custom2"], &five(custom), 0),
        (&[], &five(&[]), 0), // without labels: GitHub's own runners
        (&[], &[], 0),
        (
            &["Custom", "LINUX"],
            &five(&["SELF-Hosted", "custom", "linux"]),
            5,
        ), // as GitHub compares (spec 02 Q24)
        (&["custom"], &five(&["custom", "linux"]), 0), // what GitHub adds by itself must be listed
        (&["custom"], &[("waiting", &["custom"]), ("pending", custom)], 0),
    ] {
        assert_eq!(count(runner, jobs).0, demand, "{runner:?} {jobs:?}");
    }
    let waiting = count(&["custom"], &[("waiting", custom), ("pending", &["other"])]);
    assert_eq!(waiting, (0, 1), "unknown are only jobs that match");
}

#[test]
fn runs_table() {
    let asked = strings(&["self-hosted"]);
    let run = |id: u64, status: &'static str| Run {
        id,
        status,
        jobs: vec![("queued", asked.as_slice())],
    };
    let mut counts = JobCounts::default();
    counts.add(
        [
            run(1, "queued"),
            run(2, "in_progress"),
            run(2, "in_progress"), // in both lists: it began in between
            run(0, "queued"),      // without an id
            run(3, "completed"),
            run(4, "waiting"),
            run(5, "requested"),
        ],
        &labels(&[]),
    );
    let expected = JobCounts {
        queued: 2,
        in_progress: 0,
        completed: 1,
        unknown: 2,
    };
    assert_eq!(counts, expected);
    counts.add([run(1, "queued")], &labels(&[]));
    assert_eq!(counts.demand(), 3, "another repository's");
}

#[test]
fn the_second_metric_is_asked_when_the_first_says_nothing() {
    let pair = parse(&[spec(BUSY), spec(JOBS)], &repository()).unwrap().unwrap();
    let alone = parse(&[spec(BUSY)], &repository()).unwrap().unwrap();
    assert_eq!(pair.after_first(3).and_then(|value| value.suggestion(0)), Some(3));
    assert_eq!(pair.after_first(0), None);
    assert_eq!(pair.after_first(-1), None);
    assert_eq!(alone.after_first(0).unwrap().suggestion(0), None);
    assert_eq!(alone.after_first(-1).unwrap().suggestion(0), None);
    let second = Value {
        replicas: 0,
        source: Source::Jobs,
        is_second: true,
    };
    assert_eq!(second.suggestion(0), Some(0), "the second one's 0 stays 0");
}

#[test]
fn a_job_that_ended_is_no_demand_and_a_runner_that_ended_is_still_wanted() {
    let value = |replicas, source| Value {
        replicas,
        source,
        is_second: false,
    };
    assert_eq!(value(5, Source::Jobs).suggestion(2), Some(3));
    assert_eq!(value(5, Source::Jobs).suggestion(7), None);
    assert_eq!(value(5, Source::Busy).suggestion(2), Some(5));
}
