use super::*;

fn listed(name: &'static str, is_default: bool, is_inherited: bool) -> ListedGroup<'static> {
    ListedGroup {
        name,
        is_default,
        is_inherited,
    }
}

/// One autoscaler per tier, each with a label of its own, and two groups of the organization.
fn all() -> Index {
    index(&[
        given("repo", "acme/api", None, &["a"]),
        given("org", "org:acme", None, &["a", "b"]),
        given("ent", "ent:bigco", None, &["a", "c"]),
        given("orggrp", "org:acme", Some("Team A"), &["a", "d"]),
        given("orggrp2", "org:acme", Some("team-b"), &["a", "d", "x"]),
        given("entgrp", "ent:bigco", Some("shared"), &["a", "e"]),
    ])
}

fn event(labels: &[&'static str]) -> JobFacts<'static> {
    JobFacts {
        enterprise: Some("bigco"),
        ..facts("queued", "acme/api", labels)
    }
}

#[test]
fn each_tier_is_matched_as_its_group_is_visible() {
    let index = all();
    let organization = listed("Default", true, false);
    let enterprise = listed("Default", true, true);
    let team_a = listed("team a", false, false);
    let team_b = listed("team-b", false, false);
    let shared = listed("Shared", false, true);
    // A group of the same name, but the other scope's.
    let impostor = listed("team a", false, true);
    let table: &[(&[ListedGroup<'_>], &[&'static str], &str)] = &[
        (&[], &["a"], "repo-hra"),
        (&[organization], &["b"], "org-hra"),
        (&[enterprise, team_a], &["b"], "-"),
        (&[enterprise], &["c"], "ent-hra"),
        (&[organization], &["c"], "-"),
        (&[team_a, team_b], &["d"], "orggrp-hra"),
        (&[team_b], &["d"], "orggrp2-hra"),
        (&[impostor], &["d"], "-"),
        (&[shared], &["e"], "entgrp-hra"),
        (&[listed("shared", false, false)], &["e"], "-"),
    ];
    for (groups, labels, expected) in table {
        let visible = VisibleGroups::of(groups.iter().copied());
        let routing = route_in(&event(labels), &index, Visibility::Known(&visible));
        assert_eq!(targets(&routing), [*expected], "{groups:?} {labels:?}");
    }
}

#[test]
fn an_invisible_default_group_leaves_the_job_to_the_next_that_has_its_labels() {
    let index = all();
    let only_group = VisibleGroups::of([listed("team-b", false, false)]);
    let mut job = event(&["a"]);
    job.repository = "web";
    assert_eq!(
        targets(&route_in(&job, &index, Visibility::Known(&only_group))),
        ["orggrp2-hra"]
    );
    let Routing::Unmatched(Some(nearest)) =
        route_in(&job, &index, Visibility::Known(&VisibleGroups::default()))
    else {
        panic!("nothing is visible")
    };
    assert_eq!(nearest.obstacle, Obstacle::GroupNotVisible);
}

#[test]
fn groups_are_asked_for_only_when_the_answer_matters() {
    let mut index = all();
    let ask = |index: &Index, event: &JobFacts<'_>| {
        targets(&route_in(event, index, Visibility::Unknown))
            .first()
            .map(|name| (*name).to_owned())
    };
    let some = |name: &str| Some(name.to_owned());
    assert_eq!(
        ask(&index, &event(&["a"])),
        some("repo-hra"),
        "the repository's own"
    );
    assert_eq!(ask(&index, &event(&["d"])), some("?"));
    assert_eq!(
        ask(&index, &event(&["windows"])),
        some("-"),
        "no labels would fit"
    );
    assert_eq!(ask(&index, &facts("waiting", "acme/web", &["d"])), None);
    let skipped = JobFacts {
        action: WorkflowAction::Completed,
        conclusion: Some("skipped"),
        ..event(&["d"])
    };
    assert_eq!(ask(&index, &skipped), None, "ignored whatever the groups");
    let runs = JobFacts {
        action: WorkflowAction::InProgress,
        runner: Some("orggrp2-abcde-fghij"),
        ..event(&["d"])
    };
    assert_eq!(ask(&index, &runs), some("orggrp2-hra"), "the runner says it");
    let user = JobFacts {
        owner_is_user: true,
        ..event(&["d"])
    };
    assert_eq!(ask(&index, &user), some("-"));
    index.hold(&AutoscalerId::new("ci", "org-hra"), JobKey::new(None, 1, 1));
    assert_eq!(
        ask(&index, &event(&["d"])),
        some("org-hra"),
        "a held job is followed"
    );
}

#[test]
fn a_target_with_both_scopes_is_found_by_each() {
    let mut both = given("both", "org:acme", Some("g"), &["a"]);
    both.keys.enterprise = Some("bigco".into());
    let index = index(&[both]);
    for groups in [[listed("g", false, false)], [listed("g", false, true)]] {
        let visible = VisibleGroups::of(groups);
        assert_eq!(
            targets(&route_in(&event(&["a"]), &index, Visibility::Known(&visible))),
            ["both-hra"]
        );
    }
}
