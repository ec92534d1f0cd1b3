//! The faults, each as the changes that make it.

use serde_json::{Value, json};

use super::{
    HOME,
    edit::{At, Edit},
};

const ARC: &str = "actions.summerwind.dev/v1alpha1";
const LATER: &str = "2027-01-01T00:00:00Z";

/// A fault by its word, and how it is made.
pub(super) struct Seed {
    pub(super) fault: &'static str,
    pub(super) edits: Vec<Edit>,
}

const fn at(api: &'static str, kind: &'static str, namespace: &'static str, name: &'static str) -> At {
    At {
        api,
        kind,
        namespace,
        name,
    }
}

const MANAGER: At = at("apps/v1", "Deployment", HOME, "controller-manager");
const SERVER: At = at("apps/v1", "Deployment", HOME, "github-webhook-server");
const HOOKS: At = at(
    "admissionregistration.k8s.io/v1",
    "MutatingWebhookConfiguration",
    "",
    "mutating-webhook-configuration",
);
const ROLE: At = at("rbac.authorization.k8s.io/v1", "ClusterRole", "", "manager-role");
const LOGIN: At = at("v1", "Secret", "ci", "login");
const SCALED: At = at(ARC, "HorizontalRunnerAutoscaler", "ci", "linux");
const POOL: At = at(ARC, "RunnerDeployment", "ci", "linux");

fn definition(name: &'static str) -> At {
    at("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", name)
}

/// Writes a member of the object at a path.
fn set(object: &mut Value, path: &str, member: &str, value: Value) {
    if let Some(fields) = object.pointer_mut(path).and_then(Value::as_object_mut) {
        fields.insert(member.to_owned(), value);
    }
}

/// Takes a member of the object at a path away.
fn unset(object: &mut Value, path: &str, member: &str) {
    if let Some(fields) = object.pointer_mut(path).and_then(Value::as_object_mut) {
        fields.remove(member);
    }
}

fn secret(object: &mut Value, data: &Value) {
    unset(object, "", "data");
    set(object, "", "stringData", data.clone());
}

fn deployment(name: &str, config: &Value) -> Value {
    json!({"apiVersion": ARC, "kind": "RunnerDeployment", "metadata": {"name": name, "namespace": "ci"},
        "spec": {"template": {"spec": config}}})
}

fn autoscaler(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": ARC, "kind": "HorizontalRunnerAutoscaler", "metadata": {"name": name, "namespace": "ci"}, "spec": spec})
}

fn scaled_by_jobs(target: &str) -> Value {
    json!({"scaleTargetRef": {"kind": "RunnerDeployment", "name": target}, "minReplicas": 0, "maxReplicas": 3,
        "scaleUpTriggers": [{"githubEvent": {"workflowJob": {}}, "duration": "30m"}]})
}

fn runner_set() -> Value {
    json!({"apiVersion": ARC, "kind": "RunnerSet", "metadata": {"name": "caches", "namespace": "ci"},
        "spec": {"organization": "muster", "labels": ["caches"], "serviceName": "caches",
            "selector": {"matchLabels": {"app": "caches"}},
            "template": {"metadata": {"labels": {"app": "caches"}},
                "spec": {"containers": [{"name": "runner", "image": "summerwind/actions-runner:latest"}]}}}})
}

fn condition(type_: &str, status: &str, reason: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason, "message": "A message.", "lastTransitionTime": LATER})
}

/// A path where the key itself belongs.
fn not_pem(object: &mut Value) {
    secret(
        object,
        &json!({"github_app_id": "12", "github_app_installation_id": "77", "github_app_private_key": "/etc/key.pem"}),
    );
}

pub(super) fn all() -> Vec<Seed> {
    let mut seeds = definitions();
    seeds.extend(installation());
    seeds.extend(access());
    seeds.extend(admission());
    seeds.extend(objects());
    seeds.extend(leftovers());
    seeds
}

fn seed(fault: &'static str, edits: Vec<Edit>) -> Seed {
    Seed { fault, edits }
}

fn change(fault: &'static str, at: At, change: fn(&mut Value)) -> Seed {
    seed(fault, vec![Edit::Change(at, change)])
}

fn definitions() -> Vec<Seed> {
    vec![
        seed(
            "DefinitionMissing",
            vec![Edit::Delete(definition("runnersets.actions.summerwind.dev"))],
        ),
        change(
            "DefinitionFieldMissing",
            definition("horizontalrunnerautoscalers.actions.summerwind.dev"),
            |object| {
                let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/capacityReservations/items/properties";
                unset(object, path, "name");
            },
        ),
        change(
            "DefinitionVersionMissing",
            definition("runnersets.actions.summerwind.dev"),
            |object| {
                set(object, "/spec/versions/0", "served", json!(false));
            },
        ),
        change(
            "DefinitionOutdated",
            definition("runners.actions.summerwind.dev"),
            |object| {
                let path = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties";
                unset(object, path, "conditions");
            },
        ),
        seed(
            "StoredVersionOld",
            vec![
                Edit::Change(definition("runners.actions.summerwind.dev"), |object| {
                    let versions = object.pointer_mut("/spec/versions").and_then(Value::as_array_mut);
                    if let Some(versions) = versions
                        && let Some(mut old) = versions.first().cloned()
                    {
                        set(&mut old, "", "name", json!("v1alpha0"));
                        set(&mut old, "", "served", json!(false));
                        set(&mut old, "", "storage", json!(false));
                        versions.push(old);
                    }
                }),
                Edit::ChangeStatus(definition("runners.actions.summerwind.dev"), |object| {
                    set(
                        object,
                        "/status",
                        "storedVersions",
                        json!(["v1alpha1", "v1alpha0"]),
                    );
                }),
            ],
        ),
    ]
}

fn installation() -> Vec<Seed> {
    vec![
        seed("ManagerMissing", vec![Edit::Delete(MANAGER)]),
        change("ManagerStopped", MANAGER, |object| {
            set(object, "/spec", "replicas", json!(0));
        }),
        seed(
            "ManagerNotReady",
            vec![Edit::ChangeStatus(MANAGER, |object| {
                set(object, "", "status", json!({"replicas": 1}));
            })],
        ),
        seed(
            "TwoManagers",
            vec![Edit::CreateWithStatus(
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "arc", "namespace": "default"},
                    "spec": {"selector": {"matchLabels": {"app": "arc"}}, "template": {"metadata": {"labels": {"app": "arc"}},
                        "spec": {"containers": [{"name": "manager", "image": "summerwind/actions-runner-controller:v0.27.6",
                            "command": ["/manager"], "env": [{"name": "GITHUB_TOKEN", "value": "arcs"}]}]}}}}),
                json!({"replicas": 1, "readyReplicas": 1}),
            )],
        ),
        change("NoLeaderElection", MANAGER, |object| {
            set(object, "/spec", "replicas", json!(2));
            set(
                object,
                "/spec/template/spec/containers/0",
                "args",
                json!(["--runner-image=x"]),
            );
        }),
        change(
            "LeaderSilent",
            at(
                "coordination.k8s.io/v1",
                "Lease",
                HOME,
                "actions-runner-controller",
            ),
            |object| set(object, "/spec", "renewTime", json!("2020-01-01T00:00:00.000000Z")),
        ),
        change("NamespaceNotWatched", MANAGER, |object| {
            let args = json!(["--enable-leader-election", "--watch-namespace=elsewhere"]);
            set(object, "/spec/template/spec/containers/0", "args", args);
        }),
        seed("WebhookServerMissing", vec![Edit::Delete(SERVER)]),
        seed(
            "WebhookServerNotReady",
            vec![Edit::ChangeStatus(SERVER, |object| {
                set(object, "", "status", json!({"replicas": 2}));
            })],
        ),
    ]
}

/// Takes the verbs of a resource out of a role.
fn without(object: &mut Value, resource: &str, verb: &str) {
    for rule in object
        .pointer_mut("/rules")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let names = |field: &str| rule.pointer(field).and_then(Value::as_array).cloned();
        let is_it = names("/resources").is_some_and(|all| all.contains(&json!(resource)));
        let verbs = names("/verbs").unwrap_or_default();
        if is_it {
            let rest: Vec<Value> = verbs.into_iter().filter(|one| *one != json!(verb)).collect();
            let rest = if rest.is_empty() { vec![json!("get")] } else { rest };
            set(rule, "", "verbs", json!(rest));
        }
    }
}

fn access() -> Vec<Seed> {
    vec![
        change("PermissionMissing", ROLE, |object| {
            without(object, "pods", "patch");
        }),
        change("PermissionOptional", ROLE, |object| {
            without(object, "nodes", "list");
        }),
        seed(
            "LoginMissing",
            vec![Edit::Delete(at("v1", "Secret", HOME, "controller-manager"))],
        ),
        seed("CredentialsMissing", vec![Edit::Delete(LOGIN)]),
        change("CredentialsIncomplete", LOGIN, |object| {
            secret(object, &json!({"github_app_id": "12"}));
        }),
        change("CredentialsMalformed", LOGIN, not_pem),
        seed(
            "WebhookSecretMissing",
            vec![Edit::Delete(at("v1", "Secret", HOME, "github-webhook-server"))],
        ),
        change("WebhooksUnsigned", SERVER, |object| {
            unset(object, "/spec/template/spec/containers/0", "env");
        }),
    ]
}

fn admission() -> Vec<Seed> {
    vec![
        seed(
            "AdmissionServiceMissing",
            vec![Edit::Delete(at("v1", "Service", HOME, "webhook-service"))],
        ),
        change(
            "AdmissionServiceEmpty",
            at("discovery.k8s.io/v1", "EndpointSlice", HOME, "webhook-service-1"),
            |object| set(object, "/endpoints/0", "conditions", json!({"ready": false})),
        ),
        change("AdmissionCaInvalid", HOOKS, |object| {
            unset(object, "/webhooks/0/clientConfig", "caBundle");
        }),
        change(
            "AdmissionCaMismatch",
            at("v1", "Secret", HOME, "webhook-server-cert"),
            |object| {
                let other = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
                secret(object, &json!({ "ca.crt": other }));
            },
        ),
        change("AdmissionTooWide", HOOKS, |object| {
            unset(object, "/webhooks/0", "objectSelector");
        }),
        seed(
            "AdmissionMissing",
            vec![Edit::Create(runner_set()), Edit::Delete(HOOKS)],
        ),
        seed(
            "AdmissionIgnored",
            vec![
                Edit::Create(runner_set()),
                Edit::Change(HOOKS, |object| {
                    set(object, "/webhooks/0", "failurePolicy", json!("Ignore"));
                }),
            ],
        ),
    ]
}

fn objects() -> Vec<Seed> {
    let linux = json!({"organization": "muster", "labels": ["linux"]});
    vec![
        change("TargetMissing", SCALED, |object| {
            set(object, "/spec/scaleTargetRef", "kind", json!("RunnerSet"));
        }),
        seed(
            "TwoAutoscalers",
            vec![Edit::Create(autoscaler("second", &scaled_by_jobs("linux")))],
        ),
        change("BoundsInvalid", SCALED, |object| {
            set(object, "/spec", "minReplicas", json!(11));
        }),
        change("ScheduleInvalid", SCALED, |object| {
            let reversed = json!([{"startTime": "2027-01-02T00:00:00Z", "endTime": LATER, "minReplicas": 1}]);
            set(object, "/spec", "scheduledOverrides", reversed);
        }),
        seed(
            "PoolInvalid",
            vec![Edit::Create(deployment(
                "nowhere",
                &json!({"labels": ["nowhere"]}),
            ))],
        ),
        change("AutoscalerDoubtful", SCALED, |object| {
            set(object, "/spec/scaleUpTriggers/0", "duration", json!("soon"));
        }),
        seed(
            "LabelsClash",
            vec![
                Edit::Create(deployment("twin", &linux)),
                Edit::Create(autoscaler("twin", &scaled_by_jobs("twin"))),
            ],
        ),
        seed(
            "NotReconciled",
            vec![Edit::ChangeStatus(SCALED, |object| {
                let failed = condition("Reconciled", "False", "GitHubUnauthorized");
                set(object, "", "status", json!({ "conditions": [failed] }));
            })],
        ),
    ]
}

fn leftovers() -> Vec<Seed> {
    let runner = json!({"apiVersion": ARC, "kind": "Runner",
        "metadata": {"name": "linux-a-b", "namespace": "ci", "finalizers": ["runner.actions.summerwind.dev"]},
        "spec": {"organization": "muster"}});
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "runner", "image": "x"}]}});
    vec![
        seed("DeletionStuck", vec![Edit::CreateDeleted(runner)]),
        seed(
            "LeftOnGitHub",
            vec![Edit::ChangeStatus(POOL, |object| {
                let left = condition("RunnersLeftOnGitHub", "True", "RunnersLeftOnGitHub");
                set(object, "", "status", json!({ "conditions": [left] }));
            })],
        ),
        seed(
            "StatefulSetOfNobody",
            vec![Edit::Create(
                json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
                "metadata": {"name": "gone-1", "namespace": "ci", "labels": {"runnerset-name": "gone"}},
                "spec": {"replicas": 0, "serviceName": "x", "selector": {"matchLabels": {"app": "x"}}, "template": template}}),
            )],
        ),
        seed(
            "PodOfNobody",
            vec![Edit::Create(json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "linux-gone", "namespace": "ci", "labels": {"actions-runner": ""}},
                "spec": {"containers": [{"name": "runner", "image": "x"}]}}))],
        ),
        seed(
            "VolumeOfNobody",
            vec![Edit::Create(
                json!({"apiVersion": "v1", "kind": "PersistentVolume",
                "metadata": {"name": "kept", "labels": {"runnerset-name": "gone", "muster.dev/runnerset-namespace": "ci",
                    "muster.dev/claim-template": "cache"}},
                "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/nowhere"}}}),
            )],
        ),
    ]
}
