//! How lists and objects merge (spec 01 §8.3).

use serde_json::{Value, json};

use super::{KINDS, RUNNER_PODS, all, at, having, paths, root};

fn list_type(schema: &Value) -> (Option<&str>, Vec<&str>) {
    let keys = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten();
    (
        schema["x-kubernetes-list-type"].as_str(),
        keys.filter_map(Value::as_str).collect(),
    )
}

#[test]
fn lists_within_containers_merge_as_in_pods() {
    let keyed: [(&str, &[&str]); 4] = [
        ("env", &["name"]),
        ("ports", &["containerPort", "protocol"]),
        ("volumeMounts", &["mountPath"]),
        ("volumeDevices", &["devicePath"]),
    ];
    let atomic = [
        "args",
        "command",
        "envFrom",
        "resizePolicy",
        "restartPolicyRules",
        "lifecycle.preStop.exec.command",
        "lifecycle.postStart.httpGet.httpHeaders",
        "livenessProbe.exec.command",
        "readinessProbe.httpGet.httpHeaders",
        "startupProbe.exec.command",
        "securityContext.capabilities.add",
        "securityContext.capabilities.drop",
    ];
    let mut places: Vec<(&str, String)> = Vec::new();
    for (kind, pod) in RUNNER_PODS {
        for list in [
            "containers",
            "initContainers",
            "sidecarContainers",
            "ephemeralContainers",
        ] {
            places.push((kind, format!("{pod}.{list}[]")));
        }
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        places.push(("RunnerSet", format!("spec.template.spec.{list}[]")));
    }
    for (kind, place) in places {
        let root = root(kind);
        let container = at(root, &place);
        for (field, keys) in keyed {
            assert_eq!(
                list_type(at(container, field)),
                (Some("map"), keys.to_vec()),
                "{kind} {place} {field}"
            );
        }
        for field in atomic {
            assert_eq!(
                list_type(at(container, field)),
                (Some("atomic"), vec![]),
                "{kind} {place} {field}"
            );
        }
        let codes = at(container, "restartPolicyRules[].exitCodes.values");
        assert_eq!(list_type(codes), (Some("set"), vec![]));
        assert_eq!(list_type(at(container, "resources.claims")), (None, vec![]));
        assert_eq!(container["required"], json!(["name"]));
    }
}

#[test]
fn lists_of_our_own_carry_no_type() {
    let own = [
        "containers",
        "initContainers",
        "sidecarContainers",
        "ephemeralContainers",
        "env",
        "dockerEnv",
        "envFrom",
        "volumeMounts",
        "dockerVolumeMounts",
        "volumes",
        "imagePullSecrets",
        "tolerations",
        "topologySpreadConstraints",
        "hostAliases",
        "labels",
        "workVolumeClaimTemplate.accessModes",
        "resources.claims",
        "dockerdContainerResources.claims",
    ];
    for (kind, pod) in RUNNER_PODS {
        let root = root(kind);
        for field in own {
            let schema = at(root, &format!("{pod}.{field}"));
            assert_eq!(schema["type"], "array");
            assert_eq!(list_type(schema), (None, vec![]), "{kind} {field}");
        }
        let selector = at(root, &format!("{pod}.nodeSelector"));
        assert!(selector.get("x-kubernetes-map-type").is_none());
    }
    let marked = having("HorizontalRunnerAutoscaler", "x-kubernetes-list-type");
    assert_eq!(paths(&marked), ["status.conditions"]);
}

#[test]
fn a_runner_set_embeds_a_real_pod_template() {
    let root = root("RunnerSet");
    let pod = at(root, "spec.template.spec");
    let keyed: [(&str, &[&str]); 9] = [
        ("containers", &["name"]),
        ("initContainers", &["name"]),
        ("ephemeralContainers", &["name"]),
        ("volumes", &["name"]),
        ("imagePullSecrets", &["name"]),
        ("resourceClaims", &["name"]),
        ("schedulingGates", &["name"]),
        ("hostAliases", &["ip"]),
        ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ];
    for (field, keys) in keyed {
        assert_eq!(list_type(at(pod, field)), (Some("map"), keys.to_vec()), "{field}");
    }
    for field in ["tolerations", "readinessGates"] {
        assert_eq!(list_type(at(pod, field)), (Some("atomic"), vec![]), "{field}");
    }
    assert_eq!(pod["required"], json!(["containers"]));
    assert_eq!(at(pod, "nodeSelector")["x-kubernetes-map-type"], "atomic");
    assert_eq!(list_type(at(pod, "resources.claims")), (None, vec![]));
    assert!(at(root, "spec.template").get("required").is_none());

    let claims = at(root, "spec.volumeClaimTemplates");
    assert_eq!(list_type(claims), (Some("atomic"), vec![]));
    let claim = &claims["items"];
    assert!(claim.get("required").is_none());
    let names: Vec<_> = claim["properties"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["apiVersion", "kind", "metadata", "spec", "status"]);
    assert_eq!(
        list_type(at(claim, "status.conditions")),
        (Some("map"), vec!["type"])
    );
    assert_eq!(list_type(at(claim, "spec.accessModes")), (Some("atomic"), vec![]));
    assert_eq!(
        at(claim, "status.allocatedResourceStatuses")["x-kubernetes-map-type"],
        "granular"
    );
    assert_eq!(at(claim, "spec.dataSource")["x-kubernetes-map-type"], "atomic");
    assert!(
        at(claim, "spec.dataSourceRef")
            .get("x-kubernetes-map-type")
            .is_none()
    );
}

#[test]
fn every_list_of_kubernetes_types_has_a_type() {
    for (kind, pod) in RUNNER_PODS
        .into_iter()
        .chain([("RunnerSet", "spec.template.spec")])
    {
        for (path, schema) in all(kind) {
            let Some(below) = path.strip_prefix(&format!("{pod}.")) else {
                continue;
            };
            let nested = below.contains("[]") && !below.ends_with("[]") || kind == "RunnerSet";
            let ours = below.ends_with("claims") || below.ends_with("metadata.finalizers");
            if schema["type"] == "array" && nested && !ours {
                assert!(schema["x-kubernetes-list-type"].is_string(), "{kind} {path}");
            }
        }
    }
    // The parts of a runner's pod that are objects rather than lists.
    let root = root("Runner");
    for path in [
        "spec.securityContext.supplementalGroups",
        "spec.securityContext.sysctls",
        "spec.dnsConfig.nameservers",
        "spec.dnsConfig.searches",
        "spec.dnsConfig.options",
        "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution",
        "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution",
        "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.namespaces",
        "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchFields",
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
        "spec.volumes[].cephfs.monitors",
        "spec.volumes[].rbd.monitors",
        "spec.volumes[].iscsi.portals",
        "spec.volumes[].fc.targetWWNs",
        "spec.volumes[].fc.wwids",
        "spec.volumes[].projected.sources",
        "spec.volumes[].projected.sources[].secret.items",
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.accessModes",
        "spec.hostAliases[].hostnames",
        "spec.topologySpreadConstraints[].matchLabelKeys",
    ] {
        assert_eq!(list_type(at(root, path)), (Some("atomic"), vec![]), "{path}");
    }
}

#[test]
fn references_and_selectors_are_replaced_as_a_whole() {
    for (kind, pod) in RUNNER_PODS {
        let root = root(kind);
        for path in [
            "env[].valueFrom.configMapKeyRef",
            "env[].valueFrom.secretKeyRef",
            "env[].valueFrom.fieldRef",
            "env[].valueFrom.resourceFieldRef",
            "env[].valueFrom.fileKeyRef",
            "envFrom[].configMapRef",
            "envFrom[].secretRef",
            "containers[].envFrom[].secretRef",
            "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
            "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[]",
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference",
            "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[].labelSelector",
            "topologySpreadConstraints[].labelSelector",
            "volumes[].csi.nodePublishSecretRef",
            "volumes[].cephfs.secretRef",
            "volumes[].configMap",
            "volumes[].projected.sources[].configMap",
            "volumes[].projected.sources[].secret",
            "volumes[].ephemeral.volumeClaimTemplate.spec.dataSource",
            "volumes[].ephemeral.volumeClaimTemplate.spec.selector",
            "imagePullSecrets[]",
        ] {
            let schema = at(root, &format!("{pod}.{path}"));
            assert_eq!(schema["x-kubernetes-map-type"], "atomic", "{kind} {path}");
        }
    }
    for kind in ["RunnerReplicaSet", "RunnerDeployment", "RunnerSet"] {
        let root = root(kind);
        let selector = at(root, "spec.selector");
        assert_eq!(selector["x-kubernetes-map-type"], "atomic");
        assert_eq!(
            list_type(at(selector, "matchExpressions")),
            (Some("atomic"), vec![])
        );
        assert_eq!(
            list_type(at(selector, "matchExpressions[].values")),
            (Some("atomic"), vec![])
        );
    }
}

#[test]
fn conditions_merge_by_type() {
    for kind in KINDS {
        let root = root(kind);
        let conditions = at(root, "status.conditions");
        assert_eq!(list_type(conditions), (Some("map"), vec!["type"]), "{kind}");
        assert_eq!(conditions.get("nullable"), None);
    }
}
