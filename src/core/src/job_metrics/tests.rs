use proptest::prelude::*;

use super::*;

#[expect(clippy::unnecessary_wraps, reason = "the fields that it fills are optional")]
fn at(text: &str) -> Option<Timestamp> {
    Some(text.parse().unwrap())
}

fn job(action: &'static str) -> JobView<'static> {
    JobView {
        action,
        runs_on: vec!["self-hosted", "linux"],
        job_name: "build",
        repository: "api",
        repository_full_name: "acme/api",
        owner: "acme",
        has_runner: true,
        created_at: at("2024-09-11T21:00:00Z"),
        started_at: at("2024-09-11T21:00:07Z"),
        ..JobView::default()
    }
}

fn completed(conclusion: &'static str, steps: &[&'static str]) -> JobView<'static> {
    JobView {
        conclusion,
        steps: steps.to_vec(),
        completed_at: at("2024-09-11T21:01:03Z"),
        ..job("completed")
    }
}

fn read(text: &str) -> JobLog {
    let mut reader = LogReader::default();
    reader.feed(text.as_bytes());
    reader.finish()
}

/// The example of the specification.
const LOG: &str = "\
2024-09-11T10:00:00.0000000Z Waiting for a runner to pick up this job...
2024-09-11T10:00:07.5000000Z Job is about to start running on the runner: r1 (repository)
2024-09-11T10:01:00.0000000Z doing things
2024-09-11T10:01:02.0000000Z ##[error]Process completed with exit code 2.
2024-09-11T10:01:03.0000000Z Cleaning up
";

#[test]
fn events_count_and_measure() {
    let ran = |conclusion: &str, seconds| Observation::RanFor {
        conclusion: conclusion.to_owned(),
        seconds,
    };
    let ended = |conclusion: &str| {
        vec![
            Observation::Completed,
            Observation::Concluded(conclusion.to_owned()),
        ]
    };
    let (seen, pending) = observe(&job("queued"));
    assert_eq!((seen, pending), (vec![Observation::Queued], None));
    let (seen, pending) = observe(&job("in_progress"));
    assert_eq!(seen, [Observation::Started, Observation::QueuedFor(7.0)]);
    assert_eq!(pending, None);
    let (seen, pending) = observe(&completed("success", &["success", "success"]));
    assert_eq!(seen, [ended("success"), vec![ran("success", 56.0)]].concat());
    assert_eq!(
        pending, None,
        "GitHub is asked only where the event does not tell"
    );
    let mut never_ran = completed("cancelled", &[]);
    never_ran.has_runner = false;
    assert_eq!(observe(&never_ran), (ended("cancelled"), None));
    for action in ["waiting", "", "something newer"] {
        assert_eq!(observe(&job(action)), (Vec::new(), None));
    }
}

#[test]
fn a_failure_waits_for_its_exit_code() {
    let (seen, pending) = observe(&completed("failure", &["success", "failure", "skipped"]));
    assert!(!seen.iter().any(|one| matches!(one, Observation::Failed { .. })));
    let pending = pending.unwrap();
    let failed = |step, exit_code| vec![Observation::Failed { step, exit_code }];
    assert_eq!(
        pending.clone().conclude(Some(&read(LOG))),
        failed(Some(1), ExitCode::Code(2))
    );
    assert_eq!(
        pending.clone().conclude(Some(&JobLog::default())),
        failed(Some(1), ExitCode::Unnamed)
    );
    assert_eq!(pending.conclude(None), failed(Some(1), ExitCode::NotAvailable));

    let (seen, pending) = observe(&completed("failure", &["timed_out", "failure"]));
    assert_eq!(pending, None, "the log could not tell more");
    assert!(seen.contains(&Observation::Failed {
        step: Some(0),
        exit_code: ExitCode::TimedOut
    }));
    let (_, pending) = observe(&completed("failure", &["success"]));
    assert_eq!(
        pending.unwrap().conclude(None),
        failed(None, ExitCode::NotAvailable)
    );
}

#[test]
fn the_log_tells_times_that_the_event_lacks() {
    let mut old = job("in_progress");
    old.created_at = None;
    let (seen, pending) = observe(&old);
    assert_eq!(seen, [Observation::Started]);
    assert_eq!(
        pending.clone().unwrap().conclude(Some(&read(LOG))),
        [Observation::QueuedFor(7.5)]
    );
    assert_eq!(pending.clone().unwrap().conclude(None), []);
    assert_eq!(pending.unwrap().conclude(Some(&JobLog::default())), []);

    let mut old = completed("success", &[]);
    old.started_at = None;
    let (_, pending) = observe(&old);
    assert_eq!(
        pending.unwrap().conclude(Some(&read(LOG))),
        [Observation::RanFor {
            conclusion: "success".into(),
            seconds: 55.5
        }]
    );
}

#[test]
fn times_that_run_backwards_are_not_measured() {
    let mut absurd = job("in_progress");
    absurd.started_at = at("2024-09-11T20:00:00Z");
    assert_eq!(observe(&absurd), (vec![Observation::Started], None));
    let log = JobLog {
        queued_at: at("2024-09-11T21:00:00Z"),
        started_at: at("2024-09-11T20:00:00Z"),
        ..JobLog::default()
    };
    absurd.created_at = None;
    assert_eq!(observe(&absurd).1.unwrap().conclude(Some(&log)), []);
}

#[test]
fn the_specifications_log_is_understood() {
    assert_eq!(
        read(LOG),
        JobLog {
            queued_at: at("2024-09-11T10:00:00Z"),
            started_at: at("2024-09-11T10:00:07.5Z"),
            completed_at: at("2024-09-11T10:01:03Z"),
            exit_code: Some(2),
        }
    );
}

#[test]
fn exit_codes_of_any_length_count_and_the_last_wins() {
    let line = |text: &str| format!("2024-09-11T10:01:02.0000000Z {text}\n");
    let code = |texts: &[&str]| read(&texts.iter().map(|text| line(text)).collect::<String>()).exit_code;
    assert_eq!(
        code(&["##[error]Process completed with exit code 137."]),
        Some(137)
    );
    assert_eq!(
        code(&["##[error]Process completed with exit code -1073741510."]),
        Some(-1_073_741_510)
    );
    let two = [
        "##[error]Process completed with exit code 3.",
        "##[error]boom",
        "##[error]a ##[error]Process completed with exit code 127.",
        "##[error]unrelated",
    ];
    assert_eq!(code(&two), Some(127));
    for none in [
        "##[error]Process completed with exit code .",
        "##[error]Process completed with exit code 1",
        "##[error]Process completed with exit code 99999999999999999999.",
        "Process completed with exit code 1.",
        " ##[error]Process completed with exit code 1.",
    ] {
        assert_eq!(code(&[none]), None, "{none}");
    }
}

#[test]
fn only_lines_with_a_time_and_a_text_count() {
    let first = "\u{feff}2024-09-11T10:00:00.0000000Z Waiting for a runner to pick up this job...\r\n";
    assert_eq!(read(first).queued_at, at("2024-09-11T10:00:00Z"));
    for line in [
        "2024-09-11T10:00:00.000000Z six digits",
        "2024-09-11T10:00:00.00000000Z eight",
        "2024-09-11T10:00:00.0000000Z",
        "2024-09-11T10:00:00.0000000Z ",
        "2024-09-11T10:00:00.0000000Z \r",
        "2024-09-11T10:00:00.0000000Zx no space",
        "2024-13-11T10:00:00.0000000Z no such month",
        " 2024-09-11T10:00:00.0000000Z shifted",
        "",
    ] {
        assert_eq!(read(line), JobLog::default(), "{line:?}");
    }
    assert_eq!(
        read("2024-09-11T10:00:00.0000000Z\tx").completed_at,
        at("2024-09-11T10:00:00Z")
    );
}

#[test]
fn a_line_of_any_length_ends_nothing() {
    let long = "x".repeat(1 << 20);
    let text = format!("2024-09-11T10:00:00.0000000Z {long}\n2024-09-11T10:00:09.0000000Z after\n");
    assert_eq!(read(&text).completed_at, at("2024-09-11T10:00:09Z"));
}

fn labelled(labeller: &mut Labeller, job: &JobView<'_>) -> String {
    let (set, _) = labeller.label(job);
    set.iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn labels_are_chosen_by_name() {
    let mut bounded = Labeller::new(JobLabel::BOUNDED.to_vec(), Bounds::default());
    assert_eq!(
        labelled(&mut bounded, &job("queued")),
        "runs_on=self-hosted,linux organization= owner=acme"
    );
    let mut all = Labeller::new(parse_labels("all").unwrap(), Bounds::NONE);
    assert_eq!(
        labelled(&mut all, &job("queued")),
        "runs_on=self-hosted,linux job_name=build organization= repository=api repository_full_name=acme/api \
         owner=acme workflow_name= head_branch="
    );
    assert_eq!(
        parse_labels(" owner, runs_on ,"),
        Ok(vec![JobLabel::RunsOn, JobLabel::Owner])
    );
    let error = parse_labels("owner,branch").unwrap_err().to_string();
    assert!(
        error.contains("\"branch\"") && error.contains("head_branch"),
        "{error}"
    );
}

#[test]
fn what_finds_no_room_is_other() {
    let bounds = Bounds { values: 2, sets: 3 };
    let mut labeller = Labeller::new(vec![JobLabel::Repository, JobLabel::HeadBranch], bounds);
    let mut seen = |repository, head_branch| {
        let view = JobView {
            repository,
            head_branch,
            ..JobView::default()
        };
        labelled(&mut labeller, &view)
    };
    assert_eq!(seen("a", "x"), "repository=a head_branch=x");
    assert_eq!(seen("a", "y"), "repository=a head_branch=y");
    assert_eq!(seen("a", "z"), "repository=a head_branch=other");
    assert_eq!(
        seen("b", "x"),
        "repository=other head_branch=other",
        "no fourth combination"
    );
    assert_eq!(seen("a", "y"), "repository=a head_branch=y", "known ones stay");
}

#[test]
fn labels_of_a_failure_come_from_closed_sets() {
    let bounded = Labeller::new(Vec::new(), Bounds::default());
    let upstream = Labeller::new(Vec::new(), Bounds::NONE);
    for (code, short, whole) in [
        (ExitCode::Code(137), "137", "137"),
        (ExitCode::Code(-5), "other", "-5"),
        (ExitCode::Unnamed, "null", "null"),
        (ExitCode::NotAvailable, "na", "na"),
        (ExitCode::TimedOut, "timed_out", "timed_out"),
    ] {
        assert_eq!(
            (
                bounded.exit_code(code).as_str(),
                upstream.exit_code(code).as_str()
            ),
            (short, whole)
        );
    }
    assert_eq!(bounded.failed_step(None), "null");
    assert_eq!(
        (bounded.failed_step(Some(0)), bounded.failed_step(Some(100))),
        ("0".into(), "other".into())
    );
    assert_eq!(
        (bounded.conclusion("success"), bounded.conclusion("")),
        ("success".into(), String::new())
    );
    assert_eq!(
        (bounded.conclusion("new"), upstream.conclusion("new")),
        ("other".into(), "new".into())
    );
}

#[test]
fn bounds_are_upstreams() {
    assert!(BOUNDS.is_sorted());
    assert_eq!((BOUNDS[0], BOUNDS[44]), (0.01, 3600.0));
}

proptest! {
    /// A log means the same however it is cut into pieces.
    #[test]
    fn pieces_do_not_matter(cuts in prop::collection::vec(0..LOG.len(), 0..20), crlf: bool) {
        let text = if crlf { LOG.replace('\n', "\r\n") } else { LOG.to_owned() };
        let mut cuts: Vec<usize> = cuts.into_iter().chain([0, text.len()]).collect();
        cuts.sort_unstable();
        let mut reader = LogReader::default();
        for pair in cuts.windows(2) {
            reader.feed(&text.as_bytes()[pair[0]..pair[1]]);
        }
        prop_assert_eq!(reader.finish(), read(LOG));
    }

    #[test]
    fn no_bytes_make_it_panic(pieces in prop::collection::vec(any::<Vec<u8>>(), 0..8)) {
        let mut reader = LogReader::default();
        for piece in &pieces {
            reader.feed(piece);
        }
        reader.finish();
    }

    /// No stream of jobs makes more combinations than there is room for, and one for `other`.
    #[test]
    fn series_are_bounded(names in prop::collection::vec(("[a-d]{1,2}", "[a-d]{1,2}"), 0..200), values in 1..6_usize, sets in 1..10_usize) {
        let mut labeller = Labeller::new(vec![JobLabel::Owner, JobLabel::JobName], Bounds { values, sets });
        let mut shown = std::collections::HashSet::new();
        for (owner, job_name) in &names {
            let view = JobView { job_name, owner, ..JobView::default() };
            shown.insert(labeller.label(&view).0);
        }
        prop_assert!(shown.len() <= sets + 1);
        for label in 0..2 {
            let distinct: std::collections::HashSet<_> = shown.iter().map(|set| set[label].1.clone()).collect();
            prop_assert!(distinct.len() <= values + 1);
        }
    }

    /// Whatever times an event and a log claim, nothing negative is measured.
    #[test]
    fn nothing_negative_is_measured(times in prop::array::uniform3(prop::option::of(-1000_i64..1000)), logged in prop::array::uniform3(prop::option::of(-1000_i64..1000)), runner: bool, action in 0..3_usize) {
        let at = |second: Option<i64>| second.and_then(|second| Timestamp::from_second(second).ok());
        let view = JobView {
            action: ["in_progress", "completed", "queued"][action],
            conclusion: "failure",
            has_runner: runner,
            created_at: at(times[0]),
            started_at: at(times[1]),
            completed_at: at(times[2]),
            ..JobView::default()
        };
        let log = JobLog { queued_at: at(logged[0]), started_at: at(logged[1]), completed_at: at(logged[2]), exit_code: None };
        let (mut seen, pending) = observe(&view);
        seen.extend(pending.map(|pending| pending.conclude(Some(&log))).unwrap_or_default());
        for one in seen {
            if let Observation::QueuedFor(seconds) | Observation::RanFor { seconds, .. } = one {
                prop_assert!((0.0..=2000.0).contains(&seconds));
            }
        }
    }
}
