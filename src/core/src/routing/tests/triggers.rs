use jiff::SignedDuration;
use muster_crds::legacy::{CheckRunSpec, PullRequestSpec, PushSpec};

use super::*;

fn on(event: GitHubEventScaleUpTriggerSpec) -> ScaleUpTrigger {
    ScaleUpTrigger {
        github_event: Some(event),
        amount: None,
        duration: None,
    }
}

fn push() -> ScaleUpTrigger {
    on(GitHubEventScaleUpTriggerSpec {
        push: Some(PushSpec {}),
        ..Default::default()
    })
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn pull_request(types: &[&str], branches: &[&str]) -> ScaleUpTrigger {
    on(GitHubEventScaleUpTriggerSpec {
        pull_request: Some(PullRequestSpec {
            types: Some(words(types)),
            branches: Some(words(branches)),
        }),
        ..Default::default()
    })
}

fn check_run(types: &[&str], status: &str, names: &[&str], repositories: &[&str]) -> ScaleUpTrigger {
    on(GitHubEventScaleUpTriggerSpec {
        check_run: Some(CheckRunSpec {
            types: Some(words(types)),
            status: Some(status.to_owned()),
            names: Some(words(names)),
            repositories: Some(words(repositories)),
        }),
        ..Default::default()
    })
}

fn with(name: &'static str, scope: &str, triggers: Vec<ScaleUpTrigger>) -> Given {
    Given {
        triggers,
        ..given(name, scope, None, &["linux"])
    }
}

fn happened(repository: &'static str, kind: EventKind<'static>) -> EventFacts<'static> {
    let (owner, repository) = repository.split_once('/').unwrap();
    EventFacts {
        place: Place {
            owner,
            owner_is_user: false,
            repository,
            enterprise: None,
        },
        kind,
    }
}

fn chosen(event: &EventFacts<'_>, index: &Index) -> Option<(String, i64)> {
    match route_event(event, index, Visibility::Unchecked) {
        Triggered::To {
            autoscaler, trigger, ..
        } => Some((autoscaler.id.name.clone(), trigger.amount)),
        Triggered::Nowhere => None,
        Triggered::NeedsGroups => Some(("?".to_owned(), 0)),
    }
}

#[test]
fn predicates() {
    let opened = EventKind::PullRequest {
        action: "opened",
        base: "main",
    };
    let unit = EventKind::CheckRun {
        action: "created",
        name: "unit test",
        status: "queued",
    };
    let table = [
        (push(), EventKind::Push, true),
        (push(), opened, false),
        (push(), unit, false),
        (pull_request(&[], &[]), opened, true),
        (pull_request(&["opened", "reopened"], &["main"]), opened, true),
        (pull_request(&["closed"], &[]), opened, false),
        (pull_request(&[], &["release"]), opened, false),
        (pull_request(&[], &["rel*", "ma*"]), opened, true),
        (pull_request(&[], &[]), EventKind::Push, false),
        (check_run(&[], "", &[], &[]), unit, true),
        (check_run(&["created"], "queued", &["*test"], &[]), unit, true),
        (check_run(&["completed"], "", &[], &[]), unit, false),
        (check_run(&[], "completed", &[], &[]), unit, false),
        (check_run(&[], "", &["build", "unit*"], &[]), unit, true),
        (check_run(&[], "", &["!unit*"], &[]), unit, false),
        (check_run(&[], "", &["!build"], &[]), unit, true),
        (check_run(&[], "", &[], &["api", "web"]), unit, true),
        (check_run(&[], "", &[], &["web"]), unit, false),
        // Names decide alone where they are given.
        (check_run(&[], "", &["unit test"], &["web"]), unit, true),
        (workflow_job(None), EventKind::Push, false),
        (
            on(GitHubEventScaleUpTriggerSpec::default()),
            EventKind::Push,
            false,
        ),
        (ScaleUpTrigger::default(), EventKind::Push, false),
    ];
    for (trigger, kind, expected) in table {
        let index = index(&[with("x", "acme/api", vec![trigger.clone()])]);
        let found = chosen(&happened("acme/api", kind), &index).is_some();
        assert_eq!(found, expected, "{trigger:?} {kind:?}");
    }
}

#[test]
fn several_triggers_count_and_the_first_that_fits_says_how_much_and_how_long() {
    let more = |amount, duration: &str, trigger: ScaleUpTrigger| ScaleUpTrigger {
        amount: Some(amount),
        duration: Some(duration.to_owned()),
        ..trigger
    };
    let triggers = vec![
        workflow_job(None),
        more(3, "5m", pull_request(&["opened"], &[])),
        more(-2, "soon", pull_request(&[], &[])),
    ];
    let index = index(&[with("x", "acme/api", triggers)]);
    for (action, amount, duration) in [
        ("opened", 3, SignedDuration::from_mins(5)),
        ("closed", 1, DEFAULT_DURATION),
    ] {
        let event = happened("acme/api", EventKind::PullRequest { action, base: "main" });
        let Triggered::To { trigger, .. } = route_event(&event, &index, Visibility::Unchecked) else {
            panic!("{action}")
        };
        assert_eq!((trigger.amount, trigger.duration), (amount, duration));
    }
    // A job needs an autoscaler whose only trigger it is, as upstream has it.
    assert_eq!(
        targets(&route(&facts("queued", "acme/api", &["linux"]), &index)),
        ["-"]
    );
}

#[test]
fn one_winner_in_the_order_of_jobs() {
    let pushed = happened("acme/api", EventKind::Push);
    let mut index = index(&[
        with("org", "org:acme", vec![push()]),
        Given {
            age: 1,
            ..with("young", "acme/api", vec![push()])
        },
        Given {
            age: 9,
            ..with("old", "acme/api", vec![push()])
        },
        given("jobs", "acme/api", None, &[]),
    ]);
    let Triggered::To {
        autoscaler,
        candidates,
        ..
    } = route_event(&pushed, &index, Visibility::Unknown)
    else {
        panic!("a repository's own need no groups")
    };
    assert_eq!((autoscaler.id.name.as_str(), candidates), ("old-hra", 2));
    for name in ["old-hra", "young-hra"] {
        index.remove(&AutoscalerId::new("ci", name));
    }
    assert_eq!(chosen(&pushed, &index), Some(("org-hra".into(), 1)));
    assert_eq!(
        route_event(&pushed, &index, Visibility::Unknown),
        Triggered::NeedsGroups
    );
    let none = VisibleGroups::default();
    assert_eq!(
        route_event(&pushed, &index, Visibility::Known(&none)),
        Triggered::Nowhere
    );
    assert_eq!(chosen(&happened("else/where", EventKind::Push), &index), None);
    assert!(index.has_event_triggers());
    index.remove(&AutoscalerId::new("ci", "org-hra"));
    assert!(!index.has_event_triggers());
    assert_eq!(chosen(&pushed, &index), None);
}

#[test]
fn an_autoscaler_that_goes_or_has_no_target_is_passed_over() {
    let triggers = [push()];
    let reference = ScaleTargetRef {
        kind: None,
        name: Some("x".into()),
    };
    let keys = given("x", "acme/api", None, &[]).keys;
    let input = AutoscalerInput {
        namespace: "ci",
        name: "x-hra",
        uid: "x",
        created_at: None,
        is_deleting: false,
        target_ref: Some(&reference),
        triggers: &triggers,
        target: Some((&keys, &[])),
    };
    let event = happened("acme/api", EventKind::Push);
    for (input, expected) in [
        (input, Some(("x-hra".to_owned(), 1))),
        (
            AutoscalerInput {
                is_deleting: true,
                ..input
            },
            None,
        ),
        (
            AutoscalerInput {
                target: None,
                ..input
            },
            None,
        ),
    ] {
        let mut index = Index::default();
        index.upsert(AutoscalerView::new(&input, &[]));
        assert_eq!(chosen(&event, &index), expected);
    }
}
