//! The tables of spec 01 §1 and §8 as assertions about the generated definitions.

mod lists;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::LazyLock,
};

use serde_json::{Value, json};

use super::{crds, files, shape::QUANTITY};

const KINDS: [&str; 5] = [
    "Runner",
    "RunnerReplicaSet",
    "RunnerDeployment",
    "RunnerSet",
    "HorizontalRunnerAutoscaler",
];

/// Where a kind has the fields of a runner's pod, if it has.
const RUNNER_PODS: [(&str, &str); 3] = [
    ("Runner", "spec"),
    ("RunnerReplicaSet", "spec.template.spec"),
    ("RunnerDeployment", "spec.template.spec"),
];

// Made once: in a debug build it takes a second.
static DEFINITIONS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let definitions = crds().unwrap();
    definitions
        .iter()
        .map(|crd| (crd.spec.names.kind.clone(), serde_json::to_value(crd).unwrap()))
        .collect()
});

fn definition(kind: &str) -> &'static Value {
    &DEFINITIONS[kind]
}

fn root(kind: &str) -> &'static Value {
    &definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

fn at<'a>(schema: &'a Value, path: &str) -> &'a Value {
    let mut node = schema;
    for segment in path.split('.') {
        node = &node["properties"][segment.trim_end_matches("[]")];
        if segment.ends_with("[]") {
            node = &node["items"];
        }
        assert!(node.is_object(), "no {segment} in {path}");
    }
    node
}

/// All schemas of a kind by path.
fn all(kind: &str) -> BTreeMap<String, Value> {
    fn walk(schema: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
        found.insert(path.to_owned(), schema.clone());
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let separator = if path.is_empty() { "" } else { "." };
            walk(property, &format!("{path}{separator}{name}"), found);
        }
        if schema["items"].is_object() {
            walk(&schema["items"], &format!("{path}[]"), found);
        }
        if schema["additionalProperties"].is_object() {
            walk(&schema["additionalProperties"], &format!("{path}{{}}"), found);
        }
    }
    let mut found = BTreeMap::new();
    walk(root(kind), "", &mut found);
    found
}

/// Paths of a kind whose schema has `keyword`, with its value.
fn having(kind: &str, keyword: &str) -> BTreeMap<String, Value> {
    all(kind)
        .into_iter()
        .filter_map(|(path, schema)| schema.get(keyword).map(|value| (path, value.clone())))
        .collect()
}

fn paths(found: &BTreeMap<String, Value>) -> Vec<&str> {
    found.keys().map(String::as_str).collect()
}

#[test]
fn names_and_scope_are_those_users_know() {
    let expected = [
        ("Runner", "runners", "runner", None),
        (
            "RunnerReplicaSet",
            "runnerreplicasets",
            "runnerreplicaset",
            Some("rrs"),
        ),
        (
            "RunnerDeployment",
            "runnerdeployments",
            "runnerdeployment",
            Some("rdeploy"),
        ),
        ("RunnerSet", "runnersets", "runnerset", None),
        (
            "HorizontalRunnerAutoscaler",
            "horizontalrunnerautoscalers",
            "horizontalrunnerautoscaler",
            Some("hra"),
        ),
    ];
    assert_eq!(crds().unwrap().len(), expected.len());
    for (kind, plural, singular, short) in expected {
        let crd = definition(kind);
        let mut names = json!({
            "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": singular,
        });
        if let Some(short) = short {
            names["shortNames"] = json!([short]);
        }
        assert_eq!(crd["spec"]["names"], names);
        assert_eq!(
            crd["metadata"],
            json!({"name": format!("{plural}.actions.summerwind.dev")})
        );
        assert_eq!(crd["spec"]["group"], "actions.summerwind.dev");
        assert_eq!(crd["spec"]["scope"], "Namespaced");
        assert!(crd["spec"].get("conversion").is_none());
        let versions = crd["spec"]["versions"].as_array().unwrap();
        assert_eq!(versions.len(), 1);
        assert_eq!(versions[0]["name"], "v1alpha1");
        assert_eq!(versions[0]["served"], true);
        assert_eq!(versions[0]["storage"], true);
        assert_eq!(versions[0]["subresources"], json!({"status": {}}));
    }
}

#[test]
fn printer_columns_are_in_the_order_users_know() {
    let scope = |prefix: &str| {
        ["Enterprise", "Organization", "Repository", "Group", "Labels"]
            .map(|name| (name, format!("{prefix}.{}", name.to_lowercase()), "string"))
            .to_vec()
    };
    let column = |name: &'static str, path: &str, type_: &'static str| (name, path.to_owned(), type_);
    let age = || column("Age", ".metadata.creationTimestamp", "date");
    let fleet = || {
        vec![
            column("Desired", ".spec.replicas", "number"),
            column("Current", ".status.replicas", "number"),
            column("Up-To-Date", ".status.updatedReplicas", "number"),
            column("Available", ".status.availableReplicas", "number"),
            age(),
        ]
    };
    let expected = [
        (
            "Runner",
            [
                scope(".spec"),
                vec![
                    column("Status", ".status.phase", "string"),
                    column("Message", ".status.message", "string"),
                    column("WF Repo", ".status.workflow.repository", "string"),
                    column("WF Run", ".status.workflow.runID", "string"),
                    age(),
                ],
            ]
            .concat(),
        ),
        (
            "RunnerReplicaSet",
            vec![
                column("Desired", ".spec.replicas", "number"),
                column("Current", ".status.replicas", "number"),
                column("Ready", ".status.readyReplicas", "number"),
                age(),
            ],
        ),
        (
            "RunnerDeployment",
            [scope(".spec.template.spec"), fleet()].concat(),
        ),
        ("RunnerSet", fleet()),
        (
            "HorizontalRunnerAutoscaler",
            vec![
                column("Min", ".spec.minReplicas", "number"),
                column("Max", ".spec.maxReplicas", "number"),
                column("Desired", ".status.desiredReplicas", "number"),
                column("Schedule", ".status.scheduledOverridesSummary", "string"),
            ],
        ),
    ];
    for (kind, columns) in expected {
        let columns: Vec<Value> = columns
            .into_iter()
            .map(|(name, path, type_)| json!({"name": name, "jsonPath": path, "type": type_}))
            .collect();
        assert_eq!(
            definition(kind)["spec"]["versions"][0]["additionalPrinterColumns"],
            json!(columns)
        );
    }
}

#[test]
fn an_object_needs_neither_spec_nor_status() {
    for kind in KINDS {
        let root = root(kind);
        assert!(root.get("required").is_none());
        assert_eq!(root["type"], "object");
        assert_eq!(root["properties"]["metadata"], json!({"type": "object"}));
        let names: Vec<_> = root["properties"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["apiVersion", "kind", "metadata", "spec", "status"]);
    }
}

#[test]
fn a_schema_is_structural_and_prunes() {
    for kind in KINDS {
        let text = definition(kind).to_string();
        for keyword in [
            "$ref",
            "preserve-unknown",
            "x-kubernetes-validations",
            "embedded-resource",
            "\"title\"",
        ] {
            assert!(!text.contains(keyword), "{kind} has {keyword}");
        }
        for (path, schema) in all(kind) {
            let typed = schema.get("type").is_some() || schema.get("x-kubernetes-int-or-string").is_some();
            assert!(typed, "{kind} {path} has no type");
        }
    }
}

#[test]
fn each_definition_fits_the_annotation_of_kubectl_apply() {
    for kind in KINDS {
        let size = definition(kind).to_string().len();
        assert!(size < 200_000, "{kind} has {size} bytes");
    }
}

#[test]
fn descriptions_end_where_the_types_of_kubernetes_begin() {
    for (kind, pod) in RUNNER_PODS {
        let described = having(kind, "description");
        for (path, text) in &described {
            assert!(!text.as_str().unwrap().contains('\n'), "{path}");
        }
        assert!(described.contains_key(&format!("{pod}.containers")));
        assert!(described.contains_key(&format!("{pod}.enterprise")));
        for below in [
            "containers[]",
            "resources.limits",
            "securityContext.fsGroup",
            "affinity.nodeAffinity",
        ] {
            let below = format!("{pod}.{below}");
            assert!(
                !paths(&described).iter().any(|path| path.starts_with(&below)),
                "{below} is described"
            );
        }
    }
    let set = having("RunnerSet", "description");
    assert!(set.contains_key("spec.template"));
    assert!(!paths(&set).iter().any(|path| path.starts_with("spec.template.")));
    assert!(
        !paths(&set)
            .iter()
            .any(|path| path.starts_with("spec.volumeClaimTemplates[]"))
    );
}

#[test]
fn embedded_metadata_has_five_keys_wherever_it_nests() {
    let places: [(&str, &[&str]); 4] = [
        (
            "Runner",
            &["spec.volumes[].ephemeral.volumeClaimTemplate.metadata"],
        ),
        ("RunnerReplicaSet", &["spec.template.metadata"]),
        (
            "RunnerDeployment",
            &[
                "spec.template.metadata",
                "spec.template.spec.volumes[].ephemeral.volumeClaimTemplate.metadata",
            ],
        ),
        (
            "RunnerSet",
            &[
                "spec.template.metadata",
                "spec.template.spec.volumes[].ephemeral.volumeClaimTemplate.metadata",
                "spec.volumeClaimTemplates[].metadata",
            ],
        ),
    ];
    let string = json!({"type": "string"});
    let expected = BTreeMap::from([
        (
            "annotations",
            json!({"type": "object", "additionalProperties": string}),
        ),
        ("finalizers", json!({"type": "array", "items": string})),
        (
            "labels",
            json!({"type": "object", "additionalProperties": string}),
        ),
        ("name", string.clone()),
        ("namespace", string.clone()),
    ]);
    for (kind, paths) in places {
        let root = root(kind);
        for path in paths {
            let mut schema = at(root, path).clone();
            assert_eq!(schema["type"], "object");
            assert!(schema.get("required").is_none());
            for property in schema["properties"].as_object_mut().unwrap().values_mut() {
                property.as_object_mut().unwrap().remove("description");
            }
            assert_eq!(schema["properties"], json!(expected), "{kind} {path}");
        }
    }
    for kind in KINDS {
        for (path, _) in all(kind)
            .iter()
            .filter(|(path, _)| path.ends_with("metadata.labels"))
        {
            let parent = path.trim_end_matches(".labels").to_owned();
            assert_eq!(
                at(root(kind), &parent)["properties"].as_object().unwrap().len(),
                5
            );
        }
    }
}

#[test]
fn nulls_are_kept_in_the_listed_fields_only() {
    let workload = ["spec.effectiveTime", "spec.replicas", "spec.selector"];
    let expected: [(&str, &[&str]); 5] = [
        ("Runner", &["status.lastRegistrationCheckTime"]),
        ("RunnerReplicaSet", &workload),
        ("RunnerDeployment", &workload),
        ("RunnerSet", &["spec.effectiveTime"]),
        (
            "HorizontalRunnerAutoscaler",
            &[
                "spec.scheduledOverrides[].minReplicas",
                "status.lastSuccessfulScaleOutTime",
            ],
        ),
    ];
    for (kind, nullable) in expected {
        assert_eq!(paths(&having(kind, "nullable")), nullable, "{kind}");
    }
}

#[test]
fn defaults_are_those_of_kubernetes_and_no_others() {
    let tails = [
        (".azureDisk.fsType", json!("ext4")),
        (".azureDisk.readOnly", json!(false)),
        (".configMap.name", json!("")),
        (".configMapKeyRef.name", json!("")),
        (".configMapRef.name", json!("")),
        (".fileKeyRef.optional", json!(false)),
        (".grpc.service", json!("")),
        (".iscsi.iscsiInterface", json!("default")),
        (".nodePublishSecretRef.name", json!("")),
        (".ports[].protocol", json!("TCP")),
        (".rbd.keyring", json!("/etc/ceph/keyring")),
        (".rbd.pool", json!("rbd")),
        (".rbd.user", json!("admin")),
        (".scaleIO.fsType", json!("xfs")),
        (".scaleIO.storageMode", json!("ThinProvisioned")),
        (".secret.name", json!("")),
        (".secretKeyRef.name", json!("")),
        (".secretRef.name", json!("")),
        ("imagePullSecrets[].name", json!("")),
    ];
    for kind in ["Runner", "RunnerReplicaSet", "RunnerDeployment", "RunnerSet"] {
        let mut seen = BTreeSet::new();
        for (path, value) in having(kind, "default") {
            assert!(!path.contains("githubAPICredentialsFrom"), "{path}");
            let (tail, expected) = tails
                .iter()
                .find(|(tail, _)| path.ends_with(tail))
                .unwrap_or_else(|| panic!("{kind} {path} has a default"));
            assert_eq!(&value, expected, "{kind} {path}");
            seen.insert(*tail);
        }
        assert_eq!(seen.len(), tails.len(), "{kind}");
    }
    assert!(having("HorizontalRunnerAutoscaler", "default").is_empty());
}

#[test]
fn quantities_are_integers_or_strings_of_the_right_form() {
    let quantity = json!({
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": QUANTITY,
        "x-kubernetes-int-or-string": true,
    });
    for (kind, pod) in RUNNER_PODS {
        let root = root(kind);
        for path in [
            "dockerVarRunVolumeSizeLimit",
            "volumeSizeLimit",
            "volumes[].emptyDir.sizeLimit",
        ] {
            let mut schema = at(root, &format!("{pod}.{path}")).clone();
            schema.as_object_mut().unwrap().remove("description");
            assert_eq!(schema, quantity, "{kind} {path}");
        }
        for path in [
            "resources.limits",
            "workVolumeClaimTemplate.resources.requests",
            "containers[].resources.limits",
        ] {
            let schema = at(root, &format!("{pod}.{path}"));
            assert_eq!(schema["additionalProperties"], quantity, "{kind} {path}");
        }
    }
    for kind in KINDS {
        for (path, schema) in all(kind) {
            if schema["x-kubernetes-int-or-string"] == true {
                assert_eq!(schema["anyOf"], quantity["anyOf"], "{path}");
                let is_port_or_share = matches!(path.rsplit('.').next(), Some("port" | "maxUnavailable"));
                assert_eq!(schema.get("pattern").is_none(), is_port_or_share, "{path}");
            }
        }
    }
}

#[test]
fn patterns_are_on_the_scopes_and_quantities_only() {
    for kind in KINDS {
        let prefix = match kind {
            "Runner" | "RunnerSet" => Some("spec"),
            "RunnerReplicaSet" | "RunnerDeployment" => Some("spec.template.spec"),
            _ => None,
        };
        let expected: BTreeMap<String, Value> = prefix
            .into_iter()
            .flat_map(|prefix| {
                [
                    ("enterprise", "^[^/]+$"),
                    ("organization", "^[^/]+$"),
                    ("repository", "^[^/]+/[^/]+$"),
                ]
                .map(|(field, pattern)| (format!("{prefix}.{field}"), json!(pattern)))
            })
            .collect();
        let mut found = having(kind, "pattern");
        found.retain(|_, pattern| pattern != QUANTITY);
        assert_eq!(found, expected, "{kind}");
    }
}

#[test]
fn enums_and_bounds_are_in_three_fields_of_the_autoscaler_only() {
    for kind in KINDS
        .into_iter()
        .filter(|kind| *kind != "HorizontalRunnerAutoscaler")
    {
        for keyword in [
            "enum",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
        ] {
            assert!(having(kind, keyword).is_empty(), "{kind} {keyword}");
        }
    }
    let kind = "HorizontalRunnerAutoscaler";
    assert_eq!(
        having(kind, "enum"),
        BTreeMap::from([
            (
                "spec.scheduledOverrides[].recurrenceRule.frequency".to_owned(),
                json!(["Daily", "Weekly", "Monthly", "Yearly"]),
            ),
            (
                "spec.scaleTargetRef.kind".to_owned(),
                json!(["RunnerDeployment", "RunnerSet"])
            ),
        ])
    );
    let minimum = having(kind, "minimum");
    assert_eq!(
        paths(&minimum),
        [
            "spec.scheduledOverrides[].maxReplicas",
            "spec.scheduledOverrides[].minReplicas"
        ]
    );
    assert!(minimum.values().all(|least| least.as_f64() == Some(0.0)));
}

#[test]
fn integers_state_a_width_only_where_users_know_one() {
    let own = |kind: &str| -> BTreeMap<String, Value> {
        all(kind)
            .into_iter()
            // Ours are the described ones.
            .filter(|(_, schema)| schema["type"] == "integer" && schema["description"].is_string())
            .map(|(path, schema)| (path, schema["format"].clone()))
            .collect()
    };
    let none = Value::Null;
    let expected: [(&str, Vec<(&str, Value)>); 5] = [
        (
            "Runner",
            vec![
                ("spec.dockerMTU", json!("int64")),
                ("spec.terminationGracePeriodSeconds", json!("int64")),
            ],
        ),
        (
            "RunnerReplicaSet",
            vec![
                ("spec.replicas", none.clone()),
                ("spec.template.spec.dockerMTU", json!("int64")),
                ("spec.template.spec.terminationGracePeriodSeconds", json!("int64")),
                ("status.availableReplicas", none.clone()),
                ("status.readyReplicas", none.clone()),
                ("status.replicas", none.clone()),
            ],
        ),
        (
            "RunnerDeployment",
            vec![
                ("spec.replicas", none.clone()),
                ("spec.template.spec.dockerMTU", json!("int64")),
                ("spec.template.spec.terminationGracePeriodSeconds", json!("int64")),
                ("status.availableReplicas", none.clone()),
                ("status.desiredReplicas", none.clone()),
                ("status.readyReplicas", none.clone()),
                ("status.replicas", none.clone()),
                ("status.updatedReplicas", none.clone()),
            ],
        ),
        (
            "RunnerSet",
            vec![
                ("spec.dockerMTU", json!("int64")),
                ("spec.minReadySeconds", json!("int32")),
                ("spec.replicas", json!("int32")),
                ("spec.revisionHistoryLimit", json!("int32")),
                ("status.availableReplicas", none.clone()),
                ("status.desiredReplicas", none.clone()),
                ("status.readyReplicas", none.clone()),
                ("status.replicas", none.clone()),
                ("status.updatedReplicas", none.clone()),
            ],
        ),
        (
            "HorizontalRunnerAutoscaler",
            vec![
                ("spec.capacityReservations[].replicas", none.clone()),
                ("spec.maxReplicas", none.clone()),
                ("spec.metrics[].scaleDownAdjustment", none.clone()),
                ("spec.metrics[].scaleUpAdjustment", none.clone()),
                ("spec.minReplicas", none.clone()),
                ("spec.scaleDownDelaySecondsAfterScaleOut", none.clone()),
                ("spec.scaleUpTriggers[].amount", none.clone()),
                ("spec.scheduledOverrides[].maxReplicas", none.clone()),
                ("spec.scheduledOverrides[].minReplicas", none.clone()),
                ("status.cacheEntries[].value", none.clone()),
                ("status.desiredReplicas", none.clone()),
                ("status.observedGeneration", json!("int64")),
            ],
        ),
    ];
    for (kind, formats) in expected {
        let formats: BTreeMap<String, Value> = formats
            .into_iter()
            .map(|(path, format)| (path.to_owned(), format))
            .collect();
        assert_eq!(own(kind), formats, "{kind}");
    }
}

#[test]
fn required_fields_are_those_of_the_reference() {
    let required = |kind: &str, path: &str| -> BTreeSet<String> {
        let root = root(kind);
        let schema = at(root, path);
        schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect()
    };
    let set = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|&name| name.to_owned()).collect() };
    assert_eq!(required("Runner", "spec"), set(&[]));
    assert_eq!(required("Runner", "status"), set(&[]));
    assert_eq!(
        required("Runner", "status.registration"),
        set(&["expiresAt", "token"])
    );
    assert_eq!(required("Runner", "status.workflow"), set(&[]));
    assert_eq!(required("RunnerReplicaSet", "spec"), set(&["template"]));
    assert_eq!(required("RunnerReplicaSet", "spec.template"), set(&[]));
    assert_eq!(
        required("RunnerReplicaSet", "status"),
        set(&["availableReplicas", "readyReplicas"])
    );
    assert_eq!(required("RunnerDeployment", "spec"), set(&["template"]));
    assert_eq!(required("RunnerDeployment", "spec.template"), set(&[]));
    assert_eq!(required("RunnerDeployment", "status"), set(&[]));
    assert_eq!(required("RunnerSet", "spec"), set(&["selector", "template"]));
    assert_eq!(required("RunnerSet", "status"), set(&[]));
    let hra = "HorizontalRunnerAutoscaler";
    assert_eq!(
        paths(&having(hra, "required")),
        [
            "spec.githubAPICredentialsFrom.secretRef",
            "spec.scheduledOverrides[]",
            "status.conditions[]"
        ]
    );
    assert_eq!(
        required(hra, "spec.scheduledOverrides[]"),
        set(&["endTime", "startTime"])
    );
    for (kind, pod) in RUNNER_PODS {
        let claim = set(&["accessModes", "resources", "storageClassName"]);
        assert_eq!(required(kind, &format!("{pod}.workVolumeClaimTemplate")), claim);
        assert_eq!(
            required(kind, &format!("{pod}.githubAPICredentialsFrom.secretRef")),
            set(&["name"])
        );
        assert_eq!(
            required(kind, &format!("{pod}.githubAPICredentialsFrom")),
            set(&[])
        );
        assert_eq!(required(kind, &format!("{pod}.hostAliases[]")), set(&["ip"]));
        assert_eq!(required(kind, &format!("{pod}.tolerations[]")), set(&[]));
        assert_eq!(required(kind, &format!("{pod}.imagePullSecrets[]")), set(&[]));
        assert_eq!(required(kind, &format!("{pod}.env[]")), set(&["name"]));
        assert_eq!(
            required(kind, &format!("{pod}.env[].valueFrom.secretKeyRef")),
            set(&["key"])
        );
        assert_eq!(required(kind, &format!("{pod}.volumes[].configMap")), set(&[]));
        let spread = set(&["maxSkew", "topologyKey", "whenUnsatisfiable"]);
        assert_eq!(
            required(kind, &format!("{pod}.topologySpreadConstraints[]")),
            spread
        );
    }
}

#[test]
fn unused_fields_of_old_manifests_are_still_there() {
    let hra = root("HorizontalRunnerAutoscaler");
    for path in [
        "spec.scaleUpTriggers[].amount",
        "spec.scaleUpTriggers[].duration",
        "spec.scaleUpTriggers[].githubEvent.checkRun.types",
        "spec.scaleUpTriggers[].githubEvent.checkRun.names",
        "spec.scaleUpTriggers[].githubEvent.checkRun.repositories",
        "spec.scaleUpTriggers[].githubEvent.checkRun.status",
        "spec.scaleUpTriggers[].githubEvent.pullRequest.branches",
        "spec.scaleUpTriggers[].githubEvent.pullRequest.types",
        "spec.scaleUpTriggers[].githubEvent.push",
        "spec.scaleUpTriggers[].githubEvent.workflowJob",
        "status.cacheEntries[].key",
        "status.observedGeneration",
    ] {
        at(hra, path);
    }
    at(root("Runner"), "status.lastRegistrationCheckTime");
    at(root("Runner"), "status.registration.enterprise");
}

#[test]
fn a_runner_lacks_what_only_whole_pods_have() {
    for (kind, pod) in RUNNER_PODS {
        let root = root(kind);
        let names = at(root, pod)["properties"].as_object().unwrap();
        for absent in [
            "hostNetwork",
            "restartPolicy",
            "schedulerName",
            "activeDeadlineSeconds",
            "shareProcessNamespace",
        ] {
            assert!(!names.contains_key(absent), "{kind} {absent}");
        }
        assert_eq!(names.len(), 17 + 29, "{kind}");
    }
}

#[test]
fn committed_files_are_those_that_would_be_generated() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, text) in files().unwrap() {
        let committed = fs::read_to_string(directory.join(&name)).unwrap_or_default();
        assert!(committed == text, "{} is stale: run `make crds`", name.display());
    }
    let committed = fs::read_dir(directory).unwrap().filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .path()
            .extension()
            .is_some_and(|extension| extension == "yaml")
    });
    assert_eq!(committed.count(), KINDS.len());
}

#[test]
fn a_file_reads_back_as_the_definition_it_was_made_from() {
    for (name, text) in files().unwrap() {
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        let kind = read["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        assert_eq!(
            normal(read),
            normal(definition(&kind).clone()),
            "{}",
            name.display()
        );
    }
}

/// Numbers by value: YAML does not tell `0.0` from `0`.
fn normal(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.into_iter().map(normal).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, normal(value)))
            .collect(),
        other => other,
    }
}
