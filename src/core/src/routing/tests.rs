use jiff::Timestamp;
use muster_crds::legacy::{GitHubEventScaleUpTriggerSpec, ScaleTargetRef, ScaleUpTrigger, WorkflowJobSpec};

use super::*;

mod groups;
mod triggers;

fn workflow_job(duration: Option<&str>) -> ScaleUpTrigger {
    ScaleUpTrigger {
        github_event: Some(GitHubEventScaleUpTriggerSpec {
            workflow_job: Some(WorkflowJobSpec {}),
            ..Default::default()
        }),
        amount: None,
        duration: duration.map(Into::into),
    }
}

/// An autoscaler named `<target>-hra`, given by scope, group and labels.
struct Given {
    name: &'static str,
    keys: TargetKeys,
    labels: Vec<String>,
    triggers: Vec<ScaleUpTrigger>,
    age: i64,
}

fn given(name: &'static str, scope: &str, group: Option<&str>, labels: &[&str]) -> Given {
    let mut keys = TargetKeys {
        group: group.map(Into::into),
        ..Default::default()
    };
    match scope.split_once(':') {
        Some(("org", login)) => keys.organization = Some(login.into()),
        Some(("ent", slug)) => keys.enterprise = Some(slug.into()),
        _ => keys.repository = Some(scope.into()),
    }
    Given {
        name,
        keys,
        labels: labels.iter().map(|label| (*label).into()).collect(),
        triggers: vec![workflow_job(None)],
        age: 0,
    }
}

impl Given {
    fn view(&self) -> AutoscalerView {
        AutoscalerView::new(
            &AutoscalerInput {
                namespace: "ci",
                name: &format!("{}-hra", self.name),
                uid: self.name,
                created_at: Timestamp::from_second(1_000_000 - self.age).ok(),
                is_deleting: false,
                target_ref: Some(&ScaleTargetRef {
                    kind: None,
                    name: Some(self.name.into()),
                }),
                triggers: &self.triggers,
                target: Some((&self.keys, &self.labels)),
            },
            &[],
        )
    }
}

fn index(given: &[Given]) -> Index {
    let mut index = Index::default();
    for autoscaler in given {
        index.upsert(autoscaler.view());
    }
    index
}

/// The objects of spec 03 §1.17.
fn examples() -> Vec<Given> {
    vec![
        given("repo", "acme/api", None, &["linux", "x64"]),
        given("org", "org:acme", None, &["linux", "gpu"]),
        given("grp", "org:acme", Some("team-a"), &["linux", "arm64"]),
        given("ent", "ent:bigco", None, &["big"]),
    ]
}

fn facts<'a>(action: &str, repository: &'a str, labels: &[&'a str]) -> JobFacts<'a> {
    let (owner, repository) = repository.split_once('/').unwrap();
    JobFacts {
        key: JobKey::new(None, 1, 1),
        action: WorkflowAction::parse(action),
        owner,
        owner_is_user: false,
        repository,
        enterprise: None,
        labels: labels.to_vec(),
        runner: None,
        has_runner_id: false,
        conclusion: None,
    }
}

fn targets(routing: &Routing) -> Vec<&str> {
    match routing {
        Routing::To(chosen) => chosen
            .iter()
            .map(|chosen| chosen.autoscaler.id.name.as_str())
            .collect(),
        Routing::Unmatched(_) => vec!["-"],
        Routing::NeedsGroups => vec!["?"],
        Routing::Ignored(_) => vec![],
    }
}

/// Spec 03 §1.17 as far as routing decides it, with what part 20 and 03 §1.18 change of it.
#[test]
fn the_worked_examples() {
    let index = index(&examples());
    let queued = |repository, labels: &[&'static str]| facts("queued", repository, labels);
    let completed = |conclusion, has_runner_id| JobFacts {
        conclusion: Some(conclusion),
        has_runner_id,
        ..facts("completed", "acme/api", &["linux"])
    };
    let big = JobFacts {
        enterprise: Some("bigco"),
        ..queued("acme/web", &["big"])
    };
    let bob = JobFacts {
        owner_is_user: true,
        ..queued("bob/x", &["linux"])
    };
    let table: Vec<(u8, JobFacts<'_>, &[&str])> = vec![
        (2, queued("acme/api", &["self-hosted", "linux"]), &["repo-hra"]),
        (
            3,
            queued("acme/web", &["self-hosted", "Linux", "GPU"]),
            &["org-hra"],
        ),
        (4, queued("acme/web", &["linux"]), &["org-hra"]),
        (
            5,
            queued("acme/web", &["self-hosted", "linux", "arm64"]),
            &["grp-hra"],
        ),
        (7, big, &["ent-hra"]),
        (8, queued("acme/web", &["big"]), &["-"]),
        (9, queued("acme/web", &["windows"]), &["-"]),
        // Changed: `self-hosted` is ignored in any case (03 §1.18).
        (10, queued("acme/api", &["Self-Hosted", "linux"]), &["repo-hra"]),
        // 11 and 14 go where they went; what they do there is the ledger's (part 20).
        (11, completed("success", true), &["repo-hra"]),
        (12, completed("success", false), &[]),
        (13, completed("skipped", false), &[]),
        (14, completed("cancelled", true), &["repo-hra"]),
        // Changed: in_progress is looked up (part 20); waiting is not.
        (15, facts("in_progress", "acme/api", &["linux"]), &["repo-hra"]),
        (15, facts("waiting", "acme/api", &["linux"]), &[]),
        (19, bob, &["-"]),
    ];
    for (example, event, expected) in table {
        assert_eq!(targets(&route(&event, &index)), expected, "example {example}");
    }
}

#[test]
fn an_autoscaler_without_target_is_passed_over() {
    // Example 20, changed: upstream answers every organization's event with an error.
    let mut index = index(&examples());
    let reference = ScaleTargetRef {
        kind: None,
        name: Some("gone".into()),
    };
    let triggers = [workflow_job(None)];
    let input = AutoscalerInput {
        namespace: "ci",
        name: "dangling",
        uid: "d",
        created_at: None,
        is_deleting: false,
        target_ref: Some(&reference),
        triggers: &triggers,
        target: None,
    };
    index.upsert(AutoscalerView::new(&input, &[]));
    assert_eq!(
        targets(&route(&facts("queued", "acme/web", &["gpu"]), &index)),
        ["org-hra"]
    );
    let view = index.get(&AutoscalerId::new("ci", "dangling")).unwrap();
    assert_eq!(
        view.not_considered,
        Some(NotConsidered::TargetMissing("gone".into()))
    );
}

#[test]
fn keys_of_both_kinds_are_derived_alike_and_in_lower_case() {
    let keys = |scope, group| given("x", scope, group, &[]).keys.keys();
    assert_eq!(keys("Acme/API", None), ["acme/api"]);
    assert_eq!(keys("Acme/API", Some("g")), ["acme/api"]);
    assert_eq!(keys("org:Acme", None), ["acme"]);
    assert_eq!(keys("org:acme", Some("Team A")), ["acme/group/team a"]);
    assert_eq!(keys("ent:BigCo", None), ["enterprises/bigco"]);
    assert_eq!(keys("ent:bigco", Some("g")), ["enterprises/bigco/group/g"]);
    assert!(
        TargetKeys {
            group: Some("g".into()),
            organization: Some(String::new()),
            ..Default::default()
        }
        .keys()
        .is_empty()
    );
    let index = index(&[given("repo", "Acme/API", None, &["Linux"])]);
    assert_eq!(
        targets(&route(&facts("queued", "ACME/api", &["LINUX"]), &index)),
        ["repo-hra"]
    );
}

#[test]
fn default_groups_precede_custom_ones_and_the_organization_the_enterprise() {
    let all = [
        given("entgrp", "ent:bigco", Some("g"), &["a", "d"]),
        given("orggrp", "org:acme", Some("g"), &["a", "d"]),
        given("ent", "ent:bigco", None, &["a", "c"]),
        given("org", "org:acme", None, &["a", "b"]),
        given("repo", "acme/api", None, &["a"]),
    ];
    let index = index(&all);
    let event = |labels: &[&'static str]| JobFacts {
        enterprise: Some("BigCo"),
        ..facts("queued", "acme/api", labels)
    };
    for (labels, expected) in [
        (&["a"][..], "repo-hra"),
        (&["a", "b"], "org-hra"),
        (&["a", "c"], "ent-hra"),
        (&["a", "d"], "orggrp-hra"),
    ] {
        assert_eq!(targets(&route(&event(labels), &index)), [expected]);
    }
    let user = JobFacts {
        owner_is_user: true,
        ..event(&["b"])
    };
    assert_eq!(
        targets(&route(&user, &index)),
        ["-"],
        "a user has no organization runners"
    );
}

#[test]
fn among_equal_keys_fewest_surplus_labels_then_age_then_name() {
    let labels = ["linux", "x64", "gpu"];
    let old = |name, age, labels: &[&str]| Given {
        age,
        ..given(name, "org:acme", None, labels)
    };
    let event = facts("queued", "acme/api", &["linux"]);
    let by_surplus = [
        old("a", 9, &labels),
        old("b", 1, &labels[..2]),
        old("c", 5, &labels),
    ];
    assert_eq!(targets(&route(&event, &index(&by_surplus))), ["b-hra"]);
    let by_age = [old("a", 1, &labels), old("b", 2, &labels)];
    assert_eq!(targets(&route(&event, &index(&by_age))), ["b-hra"]);
    let by_name = [old("b", 1, &labels), old("a", 1, &labels)];
    assert_eq!(targets(&route(&event, &index(&by_name))), ["a-hra"]);
}

#[test]
fn exactly_one_workflow_job_trigger_is_needed() {
    let with = |triggers: Vec<ScaleUpTrigger>| Given {
        triggers,
        ..given("x", "acme/api", None, &["linux"])
    };
    let empty = ScaleUpTrigger {
        github_event: Some(GitHubEventScaleUpTriggerSpec::default()),
        ..Default::default()
    };
    for (autoscaler, reason) in [
        (with(vec![]), NotConsidered::NoTrigger),
        (
            with(vec![workflow_job(None), workflow_job(None)]),
            NotConsidered::SeveralTriggers(2),
        ),
        (with(vec![empty]), NotConsidered::NotWorkflowJob),
        (
            with(vec![ScaleUpTrigger::default()]),
            NotConsidered::NotWorkflowJob,
        ),
    ] {
        let routing = route(&facts("queued", "acme/api", &["linux"]), &index(&[autoscaler]));
        let Routing::Unmatched(Some(nearest)) = routing else {
            panic!("{routing:?}")
        };
        assert_eq!(nearest.obstacle, Obstacle::NotConsidered(reason));
    }
    let duration = |text| {
        Given {
            triggers: vec![workflow_job(Some(text))],
            ..given("x", "a/b", None, &[])
        }
        .view()
        .duration
    };
    assert_eq!(duration("30m"), jiff::SignedDuration::from_mins(30));
    for text in ["0", "-5m", "nonsense", ""] {
        assert_eq!(duration(text), DEFAULT_DURATION, "{text}");
    }
}

#[test]
fn the_nearest_autoscaler_and_its_missing_label_are_told() {
    let index = index(&examples());
    let routing = route(
        &facts("queued", "acme/web", &["self-hosted", "linux", "arm64", "fast"]),
        &index,
    );
    let Routing::Unmatched(Some(nearest)) = routing else {
        panic!("{routing:?}")
    };
    assert_eq!(nearest.autoscaler.id.name, "grp-hra");
    assert_eq!(nearest.obstacle, Obstacle::MissingLabel("fast".into()));
    assert_eq!(
        route(&facts("queued", "else/where", &["linux"]), &index),
        Routing::Unmatched(None)
    );
}

#[test]
fn an_event_follows_its_job() {
    let mut index = index(&examples());
    let grp = AutoscalerId::new("ci", "grp-hra");
    let org = AutoscalerId::new("ci", "org-hra");
    let event = facts("completed", "acme/api", &["linux"]);
    index.hold(&grp, event.key.clone());
    assert_eq!(
        targets(&route(&event, &index)),
        ["grp-hra"],
        "whatever the labels say"
    );
    let skipped = JobFacts {
        conclusion: Some("skipped"),
        ..event.clone()
    };
    assert_eq!(
        targets(&route(&skipped, &index)),
        ["grp-hra"],
        "a held key always ends as a tombstone"
    );
    index.hold(&org, event.key.clone());
    index.hold(&org, event.key.clone());
    assert_eq!(targets(&route(&event, &index)), ["grp-hra", "org-hra"]);
    index.release(&grp, &event.key);
    assert_eq!(targets(&route(&event, &index)), ["org-hra"]);
    index.remove(&org);
    assert_eq!(index.held_jobs(), 0);
    assert_eq!(targets(&route(&event, &index)), ["repo-hra"]);
}

#[test]
fn a_runner_is_known_by_its_targets_name() {
    let mut index = index(&[
        given("linux", "acme/api", None, &["linux"]),
        given("linux-big", "acme/other", None, &["linux"]),
        given("win", "acme/third", None, &["windows"]),
    ]);
    let on = |action, runner| JobFacts {
        runner: Some(runner),
        ..facts(action, "acme/third", &["windows"])
    };
    assert_eq!(
        targets(&route(&on("in_progress", "linux-big-x2k4j-9qxz7"), &index)),
        ["linux-hra", "linux-big-hra"]
    );
    assert_eq!(
        targets(&route(&on("completed", "linux-x2k4j-9qxz7"), &index)),
        ["linux-hra"]
    );
    assert_eq!(
        targets(&route(&on("queued", "linux-x2k4j-9qxz7"), &index)),
        ["win-hra"],
        "only once it runs"
    );
    assert_eq!(
        targets(&route(&on("in_progress", "linux"), &index)),
        ["win-hra"],
        "the dash belongs to it"
    );
    assert_eq!(
        targets(&route(&on("in_progress", "linuxes-a-b"), &index)),
        ["win-hra"]
    );
    index.hold(&AutoscalerId::new("ci", "win-hra"), JobKey::new(None, 1, 1));
    assert_eq!(
        targets(&route(&on("completed", "linux-a-b"), &index)),
        ["win-hra", "linux-hra"]
    );
    index.hold(&AutoscalerId::new("ci", "linux-hra"), JobKey::new(None, 1, 1));
    assert_eq!(
        targets(&route(&on("completed", "linux-a-b"), &index)),
        ["win-hra", "linux-hra"],
        "each once"
    );
}

#[test]
fn a_replaced_autoscaler_is_found_by_its_new_key_only() {
    let mut index = index(&[given("x", "acme/api", None, &["linux"])]);
    index.upsert(given("x", "org:other", Some("g"), &["linux"]).view());
    assert_eq!(
        targets(&route(&facts("queued", "acme/api", &["linux"]), &index)),
        ["-"]
    );
    assert_eq!(
        targets(&route(&facts("queued", "other/api", &["linux"]), &index)),
        ["x-hra"]
    );
    assert_eq!(index.len(), 1);
    index.remove(&AutoscalerId::new("ci", "x-hra"));
    assert!(index.is_empty());
    assert_eq!(
        targets(&route(&facts("queued", "other/api", &["linux"]), &index)),
        ["-"]
    );
}

#[test]
fn common_labels_count_as_the_targets() {
    let autoscaler = given("x", "acme/api", None, &["linux"]);
    let reference = ScaleTargetRef {
        kind: Some("RunnerSet".into()),
        name: Some("x".into()),
    };
    let input = AutoscalerInput {
        namespace: "ci",
        name: "x-hra",
        uid: "x",
        created_at: None,
        is_deleting: false,
        target_ref: Some(&reference),
        triggers: &autoscaler.triggers,
        target: Some((&autoscaler.keys, &autoscaler.labels)),
    };
    let mut index = Index::default();
    index.upsert(AutoscalerView::new(&input, &["Fast".into()]));
    assert_eq!(
        targets(&route(&facts("queued", "acme/api", &["fast", "linux"]), &index)),
        ["x-hra"]
    );
    let deleting = AutoscalerInput {
        is_deleting: true,
        ..input
    };
    index.upsert(AutoscalerView::new(&deleting, &[]));
    assert_eq!(
        targets(&route(&facts("queued", "acme/api", &["linux"]), &index)),
        ["-"]
    );
}
