use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use muster_crds::{
    legacy::{CapacityReservation, RunnerSet},
    time::MicroTime,
};
use proptest::prelude::*;
use serde::de::DeserializeOwned;

use super::*;

const NOW: &str = "2027-03-01T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn autoscaler(spec: &Value) -> HorizontalRunnerAutoscaler {
    object(
        json!({"apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "HorizontalRunnerAutoscaler",
        "metadata": {"name": "linux", "namespace": "ci", "resourceVersion": "7"}, "spec": spec}),
    )
}

fn patch(step: &Step) -> &Value {
    match &step.action {
        Action::Merge(patch) | Action::MergeStatus(patch) | Action::StrategicStatus(patch) => patch,
        Action::Delete { .. } => panic!("{step:?} is no patch"),
    }
}

/// What stands in the way of upstream, as an autoscaler that has everything.
fn full() -> HorizontalRunnerAutoscaler {
    let entry = |name: Option<&str>, replicas: i64, since: &str, until: &str| {
        let mut entry = json!({"replicas": replicas, "effectiveTime": format!("2027-03-01T{since}.000001Z"),
            "expirationTime": format!("2027-03-01T{until}.000000Z")});
        if let Some(name) = name {
            entry["name"] = json!(name);
        }
        entry
    };
    autoscaler(
        &json!({"minReplicas": 0, "maxReplicas": 9, "scaleUpTriggers": [{"githubEvent": {"workflowJob": {}}, "duration": "30m"}],
        "capacityReservations": [
            entry(Some("night shift"), 5, "08:00:00", "20:00:00"),
            entry(Some("41/17@linux-a-b"), 1, "11:50:00", "12:20:00"),
            entry(Some("41/16"), 1, "09:00:00", "12:25:00"),
            entry(None, 1, "11:45:00", "12:15:00"),
            entry(Some("41/17"), 1, "11:51:00", "12:21:00"),
            entry(Some("41/15"), 0, "11:00:00", "12:30:00"),
            entry(Some("41/14"), 1, "11:00:00", "11:59:59"),
            entry(Some("push/1a-2b"), 2, "11:58:00", "12:28:00"),
        ]}),
    )
}

#[test]
fn upstream_finds_its_own_list() {
    let observed = Observed {
        objects: Objects {
            autoscalers: vec![full()],
            ..Objects::default()
        },
        ..Observed::default()
    };
    let plan = plan(&observed, Options::default(), at(NOW));
    let [step] = plan.steps.as_slice() else {
        panic!("{plan:?}")
    };
    assert_eq!(
        step.what,
        [
            "take the job's name from 2 entries",
            "remove 1 tombstone",
            "remove 2 expired or repeated entries"
        ]
    );
    let patch = patch(step);
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
    let list: Vec<CapacityReservation> = object(patch["spec"]["capacityReservations"].clone());
    let seen: Vec<(Option<&str>, i64, String, String)> = list
        .iter()
        .map(|entry| {
            let time = |time: Option<MicroTime>| time.unwrap().0.strftime("%H:%M:%S").to_string();
            (
                entry.name.as_deref(),
                entry.replicas.unwrap(),
                time(entry.effective_time),
                time(entry.expiration_time),
            )
        })
        .collect();
    let expect =
        |name, replicas, since: &str, until: &str| (name, replicas, since.to_owned(), until.to_owned());
    assert_eq!(
        seen,
        [
            expect(None, 1, "11:45:00", "12:15:00"),
            // The job's two entries: the older time, the later end; both within the trigger's 30 minutes.
            expect(None, 1, "11:51:00", "12:21:00"),
            // Waited since nine, kept alive: as if upstream had begun it anew.
            expect(None, 1, "11:55:00", "12:25:00"),
            // What only expires comes last: `completed` takes the first.
            expect(Some("night shift"), 5, "08:00:00", "20:00:00"),
            expect(Some("push/1a-2b"), 2, "11:58:00", "12:28:00"),
        ]
    );
}

#[test]
fn an_empty_ledger_is_taken_out() {
    let entry =
        json!({"name": "1/2", "replicas": 0, "effectiveTime": NOW, "expirationTime": "2027-03-01T13:00:00Z"});
    let observed = Observed {
        objects: Objects {
            autoscalers: vec![autoscaler(&json!({ "capacityReservations": [entry] }))],
            ..Objects::default()
        },
        ..Observed::default()
    };
    let plan = plan(&observed, Options::default(), at(NOW));
    assert_eq!(
        patch(&plan.steps[0])["spec"],
        json!({"capacityReservations": null})
    );
}

#[test]
fn marks_go_and_settings_stay_unless_asked() {
    let set = |annotations: Value| -> RunnerSet {
        object(
            json!({"apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "RunnerSet",
            "metadata": {"name": "caches", "namespace": "ci", "annotations": annotations},
            "spec": {"selector": {}, "serviceName": "", "template": {}}}),
        )
    };
    let annotations =
        json!({"muster.dev/kept-volumes": "3", "muster.dev/retain-idle-until": NOW, "mine": "x"});
    let mut observed = Observed {
        objects: Objects {
            runner_sets: vec![set(annotations)],
            ..Objects::default()
        },
        ..Observed::default()
    };
    let kept = plan(&observed, Options::default(), at(NOW));
    assert_eq!(
        patch(&kept.steps[0]),
        &json!({"metadata": {"annotations": {"muster.dev/retain-idle-until": null}}})
    );
    assert_eq!(kept.notes.len(), 1, "{:?}", kept.notes);

    let all = plan(&observed, Options { drop_settings: true }, at(NOW));
    assert_eq!(
        patch(&all.steps[0])["metadata"]["annotations"],
        json!({"muster.dev/kept-volumes": null, "muster.dev/retain-idle-until": null})
    );
    assert!(all.notes.is_empty());

    observed.objects.runner_sets = vec![set(json!({"muster.dev/kept-volumes": "3", "mine": "x"}))];
    assert!(plan(&observed, Options::default(), at(NOW)).steps.is_empty());
}

#[test]
fn a_busy_pod_loses_its_protection_as_far_as_it_is_ours() {
    let pod: Pod = object(json!({"metadata": {"name": "linux-a-b", "namespace": "ci",
            "labels": {"muster.dev/busy": "true", "actions-runner": ""},
            "annotations": {"muster.dev/added-while-busy": "karpenter.sh/do-not-disrupt", "karpenter.sh/do-not-disrupt": "true",
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "actions-runner/id": "3"},
            "finalizers": [keys::FINALIZER_RUNNER_POD]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "muster.dev/Unregistered", "status": "False"}]}}));
    let budget: PodDisruptionBudget = object(
        json!({"metadata": {"name": "muster-busy-runners", "namespace": "ci", "uid": "u"}, "spec": {}}),
    );
    let other: PodDisruptionBudget =
        object(json!({"metadata": {"name": "theirs", "namespace": "ci"}, "spec": {}}));
    let observed = Observed {
        objects: Objects {
            pods: vec![pod],
            ..Objects::default()
        },
        budgets: vec![budget, other],
        ..Observed::default()
    };
    let steps = plan(&observed, Options::default(), at(NOW)).steps;
    assert_eq!(
        patch(&steps[0]),
        &json!({"metadata": {"labels": {"muster.dev/busy": null},
            "annotations": {"muster.dev/added-while-busy": null, "karpenter.sh/do-not-disrupt": null}}})
    );
    assert_eq!(
        patch(&steps[1]),
        &json!({"status": {"conditions": [{"$patch": "delete", "type": "muster.dev/Unregistered"}]}})
    );
    assert_eq!(steps[2].action, Action::Delete { uid: "u".to_owned() });
    assert_eq!(steps.len(), 3, "{steps:?}");
}

#[test]
fn conditions_and_leases_go() {
    let condition = json!({"type": "Reconciled", "status": "False", "reason": "X", "message": "", "lastTransitionTime": NOW});
    let mut scaled = autoscaler(&json!({}));
    scaled.status = object(json!({"desiredReplicas": 2, "conditions": [condition]}));
    let lease = |name: &str, annotations: Value| -> Lease {
        object(
            json!({"metadata": {"name": name, "namespace": "arc", "uid": name, "annotations": annotations}}),
        )
    };
    let observed = Observed {
        objects: Objects {
            autoscalers: vec![scaled],
            ..Objects::default()
        },
        leases: vec![
            lease("actions-runner-controller", json!({})),
            lease("replay", json!({"muster.dev/replay": "{}"})),
        ],
        secrets: vec![object(
            json!({"metadata": {"name": "webhook-service-self-signed", "namespace": "arc", "uid": "s",
            "annotations": {"muster.dev/not-after": NOW}}}),
        )],
        ..Observed::default()
    };
    let steps = plan(&observed, Options::default(), at(NOW)).steps;
    let names: Vec<String> = steps
        .iter()
        .map(|step| {
            format!(
                "{} {}: {}",
                step.object.kind,
                step.object.name,
                step.what.join("; ")
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            "HorizontalRunnerAutoscaler linux: remove condition Reconciled",
            "Lease replay: delete it",
            "Secret webhook-service-self-signed: delete it",
        ]
    );
}

fn volume(phase: &str, policy: &str, claim: &Value) -> PersistentVolume {
    object(json!({"metadata": {"name": "pv", "resourceVersion": "3",
            "labels": {"runnerset-name": "caches", "muster.dev/runnerset-namespace": "ci", "muster.dev/claim-template": "cache"},
            "annotations": {"muster.dev/reclaim-policy": policy, "theirs": "x"}},
        "spec": {"persistentVolumeReclaimPolicy": "Retain", "claimRef": claim}, "status": {"phase": phase}}))
}

#[test]
fn volumes_get_their_policy_back_and_free_ones_become_available() {
    let bound = json!({"namespace": "ci", "name": "cache-a-0", "uid": "1"});
    let promised = json!({"namespace": "ci", "name": "cache-b-0"});
    for (phase, policy, claim, expected) in [
        (
            "Bound",
            "Delete",
            &bound,
            json!({"persistentVolumeReclaimPolicy": "Delete"}),
        ),
        (
            "Released",
            "Delete",
            &bound,
            json!({"persistentVolumeReclaimPolicy": "Delete"}),
        ),
        (
            "Released",
            "Retain",
            &bound,
            json!({"persistentVolumeReclaimPolicy": "Retain", "claimRef": null}),
        ),
        (
            "Available",
            "Delete",
            &promised,
            json!({"persistentVolumeReclaimPolicy": "Delete", "claimRef": null}),
        ),
    ] {
        let observed = Observed {
            objects: Objects {
                volumes: vec![volume(phase, policy, claim)],
                ..Objects::default()
            },
            ..Observed::default()
        };
        let steps = plan(&observed, Options::default(), at(NOW)).steps;
        let patch = patch(&steps[0]);
        assert_eq!(patch["spec"], expected, "{phase} {policy}");
        assert_eq!(patch["metadata"]["resourceVersion"], "3");
        assert_eq!(
            patch["metadata"]["labels"],
            json!({"runnerset-name": null, "muster.dev/runnerset-namespace": null, "muster.dev/claim-template": null})
        );
        assert_eq!(
            patch["metadata"]["annotations"],
            json!({"muster.dev/reclaim-policy": null})
        );
    }
}

#[test]
fn what_upstream_does_not_read_is_told() {
    let spec = json!({
        "scheduledOverrides": [{"startTime": NOW, "endTime": "2027-03-01T13:00:00Z", "minReplicas": 1, "maxReplicas": 4,
            "timeZone": "Europe/Berlin"}],
        "scaleUpTriggers": [{"githubEvent": {"push": {}}, "duration": "5m"}],
    });
    let observed = Observed {
        objects: Objects {
            autoscalers: vec![autoscaler(&spec)],
            ..Objects::default()
        },
        ..Observed::default()
    };
    let told = plan(&observed, Options::default(), at(NOW));
    assert_eq!((told.steps.len(), told.notes.len()), (0, 2), "{told:?}");
    let dropped = plan(&observed, Options { drop_settings: true }, at(NOW));
    let overrides = &patch(&dropped.steps[0])["spec"]["scheduledOverrides"][0];
    assert_eq!(
        (overrides.get("maxReplicas"), overrides.get("timeZone")),
        (None, None)
    );
    assert_eq!(overrides["minReplicas"], 1);
}

fn entries() -> impl Strategy<Value = Vec<CapacityReservation>> {
    let name = prop_oneof![
        Just(None),
        (1_u64..4, 1_u64..9).prop_map(|(repository, job)| Some(format!("{repository}/{job}"))),
        (1_u64..4, 1_u64..9).prop_map(|(repository, job)| Some(format!("{repository}/{job}@r-{job}"))),
        Just(Some("mine".to_owned())),
        Just(Some("push/1a".to_owned())),
    ];
    let time = || proptest::option::of((-7_200_i64..7_200).prop_map(|off| at(NOW).as_second() + off));
    let entry = (name, 0_i64..3, time(), time()).prop_map(|(name, replicas, since, until)| {
        let time = |second: Option<i64>| {
            second
                .and_then(|second| Timestamp::from_second(second).ok())
                .map(MicroTime)
        };
        // A trigger's entry never changes its number.
        let is_trigger = name.as_deref().is_some_and(|name| name.starts_with("push/"));
        CapacityReservation {
            replicas: Some(if is_trigger { 2 } else { replicas }),
            name,
            effective_time: time(since),
            expiration_time: time(until),
        }
    });
    proptest::collection::vec(entry, 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The capacity that counts is the same before and after, a second time changes nothing, and nothing of ours is left.
    #[test]
    fn handing_back_keeps_the_demand(ledger in entries()) {
        let duration = jiff::SignedDuration::from_mins(30);
        let now = at(NOW);
        let first = ledger::hand_back(&ledger, duration, now);
        let demand = |entries: &[CapacityReservation]| crate::autoscale::reservation::demand(entries, now);
        prop_assert_eq!(demand(&first.entries), demand(&ledger));
        let second = ledger::hand_back(&first.entries, duration, now);
        prop_assert_eq!(&second.entries, &first.entries);
        for entry in &first.entries {
            let name = entry.name.as_deref().unwrap_or_default();
            prop_assert!(crate::autoscale::reservation::EntryName::parse(name).is_none(), "{}", name);
            prop_assert!(entry.expiration_time.is_some_and(|until| until.0 > now));
        }
    }
}
