use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn claim(name: &str, mode: &str, volume: Option<&str>, annotations: &Value) -> Arc<PersistentVolumeClaim> {
    object(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "annotations": annotations},
        "spec": {"accessModes": [mode], "storageClassName": "class", "volumeName": volume,
            "resources": {"requests": {"storage": "1Gi"}}},
    }))
}

fn volume(
    name: &str,
    phase: &str,
    zone: Option<&str>,
    size: &str,
    claim: Option<&str>,
) -> Arc<PersistentVolume> {
    let affinity = zone.map(|zone| {
        json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": super::super::ZONE, "operator": "In", "values": [zone]}]}]}})
    });
    object(json!({
        "metadata": {"name": name, "resourceVersion": "7"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "class", "capacity": {"storage": size},
            "nodeAffinity": affinity, "claimRef": claim.map(|name| json!({"namespace": "ns", "name": name}))},
        "status": {"phase": phase},
    }))
}

fn class(mode: &str, provisioner: &str) -> Arc<StorageClass> {
    object(json!({"metadata": {"name": "class"}, "provisioner": provisioner, "volumeBindingMode": mode}))
}

fn pod(claims: &[&str]) -> PodSpec {
    let volumes: Vec<Value> = claims
        .iter()
        .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
        .collect();
    serde_json::from_value(json!({"containers": [], "volumes": volumes})).unwrap()
}

fn decided(
    claims: &[Arc<PersistentVolumeClaim>],
    volumes: &[Arc<PersistentVolume>],
    class: Arc<StorageClass>,
    turn: usize,
) -> Decision {
    let names: Vec<String> = claims.iter().map(|claim| claim.name_any()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let nodes = [Node::new("n-a").in_zone("a"), Node::new("n-b").in_zone("b")];
    decide(&View {
        spec: &pod(&names),
        claims,
        volumes,
        classes: &[class],
        nodes: &nodes,
        turn,
    })
}

const WAITING: &str = "WaitForFirstConsumer";

#[test]
fn a_bound_volume_decides_the_zone() {
    let bound = claim("c", "ReadWriteOnce", Some("v"), &json!({(BIND_COMPLETED): "yes"}));
    for turn in 0..3 {
        let there = volume("v", "Bound", Some("b"), "1Gi", Some("c"));
        let decision = decided(std::slice::from_ref(&bound), &[there], class(WAITING, "p"), turn);
        let Decision::On { node, volumes, alone } = decision else {
            panic!("{decision:?}")
        };
        assert_eq!((node.as_str(), volumes.len(), alone.len()), ("n-b", 1, 0));
    }
    let nowhere = volume("v", "Bound", Some("c"), "1Gi", Some("c"));
    let decision = decided(&[bound], &[nowhere], class(WAITING, "p"), 0);
    assert!(matches!(decision, Decision::Waits(Some(_))), "{decision:?}");
}

#[test]
fn a_claim_that_waits_gets_the_smallest_free_volume_that_fits() {
    let open = claim("c", "ReadWriteOnce", None, &json!({}));
    let volumes = [
        volume("small", "Available", None, "512Mi", None),
        volume("large", "Available", None, "5Gi", None),
        volume("fits", "Available", None, "2Gi", None),
        volume("used", "Bound", None, "1Gi", Some("other")),
    ];
    let decision = decided(std::slice::from_ref(&open), &volumes, class(WAITING, "p"), 0);
    let expected = Step::Reserve {
        volume: "fits".to_owned(),
        version: "7".to_owned(),
        claim: ("c".to_owned(), "uid-c".to_owned()),
    };
    assert_eq!(decision, Decision::Acts(vec![expected]));
}

#[test]
fn a_free_volume_is_worth_the_way_to_its_zone() {
    let open = claim("c", "ReadWriteOnce", None, &json!({}));
    let there = volume("v", "Available", Some("b"), "1Gi", None);
    for turn in 0..2 {
        let decision = decided(
            std::slice::from_ref(&open),
            std::slice::from_ref(&there),
            class(WAITING, "p"),
            turn,
        );
        assert!(
            matches!(&decision, Decision::Acts(steps) if matches!(&steps[..], [Step::Reserve { volume, .. }] if volume == "v")),
            "{decision:?}"
        );
    }
}

#[test]
fn without_a_free_volume_one_is_made_where_the_pod_goes() {
    let open = claim("c", "ReadWriteOnce", None, &json!({}));
    let decision = decided(std::slice::from_ref(&open), &[], class(WAITING, "p"), 1);
    let expected = Step::Provision {
        claim: ("c".to_owned(), "uid-c".to_owned()),
        node: "n-b".to_owned(),
    };
    assert_eq!(decision, Decision::Acts(vec![expected]));
    // Asked for already: nothing to do but to wait, and no other node.
    let selected = claim("c", "ReadWriteOnce", None, &json!({(SELECTED_NODE): "n-b"}));
    assert_eq!(
        decided(&[selected], &[], class(WAITING, "p"), 0),
        Decision::Waits(None)
    );
    let decision = decided(&[open], &[], class(WAITING, NO_PROVISIONER), 0);
    assert!(matches!(decision, Decision::Waits(Some(_))), "{decision:?}");
}

#[test]
fn what_the_binder_does_is_left_to_it() {
    let open = claim("c", "ReadWriteOnce", None, &json!({}));
    let reserved = volume("v", "Available", Some("b"), "1Gi", Some("c"));
    let waits = Decision::Waits(None);
    let decision = decided(std::slice::from_ref(&open), &[reserved], class(WAITING, "p"), 0);
    assert_eq!(decision, waits, "a volume waits for this claim");
    assert_eq!(
        decided(&[open], &[], class("Immediate", "p"), 0),
        waits,
        "the class needs no pod"
    );
    let half = claim("c", "ReadWriteOnce", Some("v"), &json!({}));
    assert_eq!(
        decided(&[half], &[], class(WAITING, "p"), 0),
        waits,
        "the binding is under way"
    );
}

#[test]
fn a_claim_for_one_pod_is_named() {
    let bound = claim(
        "c",
        "ReadWriteOncePod",
        Some("v"),
        &json!({(BIND_COMPLETED): "yes"}),
    );
    let there = volume("v", "Bound", None, "1Gi", Some("c"));
    let decision = decided(&[bound], &[there], class(WAITING, "p"), 0);
    assert!(
        matches!(&decision, Decision::On { alone, .. } if *alone == ["uid-c"]),
        "{decision:?}"
    );
}
