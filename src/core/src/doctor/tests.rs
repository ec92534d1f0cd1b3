use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use muster_crds::legacy::{HorizontalRunnerAutoscaler, Runner, RunnerDeployment};

use crate::installation::Program;

const ARC: &str = "actions.summerwind.dev/v1alpha1";

fn now() -> Timestamp {
    "2027-03-01T12:00:00Z".parse().unwrap()
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn faults(observed: &Observed) -> Vec<Fault> {
    examine(observed, now())
        .iter()
        .map(|finding| finding.fault)
        .collect()
}

fn autoscaler(name: &str, target: &str, spec: Value) -> HorizontalRunnerAutoscaler {
    let mut spec = spec;
    spec["scaleTargetRef"] = json!({ "name": target });
    object(
        json!({"apiVersion": ARC, "kind": "HorizontalRunnerAutoscaler", "metadata": {"name": name, "namespace": "ci"}, "spec": spec}),
    )
}

fn pool(name: &str, config: &Value) -> RunnerDeployment {
    object(
        json!({"apiVersion": ARC, "kind": "RunnerDeployment", "metadata": {"name": name, "namespace": "ci"},
        "spec": {"template": {"spec": config}}}),
    )
}

fn bounds() -> Value {
    json!({"minReplicas": 0, "maxReplicas": 3})
}

#[test]
fn what_could_not_be_read_is_no_finding() {
    let observed = Observed {
        objects: Objects {
            deployments: vec![pool("linux", &json!({"organization": "octo"}))],
            autoscalers: vec![autoscaler("linux", "linux", bounds())],
            ..Objects::default()
        },
        ..Observed::default()
    };
    assert_eq!(faults(&observed), []);
}

#[test]
fn causes_come_first_and_errors_before_warnings() {
    let observed = Observed {
        definitions: Some(Vec::new()),
        deployments: Some(Vec::new()),
        objects: Objects {
            deployments: vec![pool("linux", &json!({"organization": "octo"}))],
            autoscalers: vec![
                autoscaler(
                    "b",
                    "nothing",
                    json!({"minReplicas": 0, "maxReplicas": 3, "scaleUpTriggers": [{"duration": "soon"}]}),
                ),
                autoscaler("a", "linux", json!({"minReplicas": 4, "maxReplicas": 3})),
            ],
            ..Objects::default()
        },
        ..Observed::default()
    };
    let mut found = faults(&observed);
    found.dedup();
    assert_eq!(
        found,
        [
            Fault::DefinitionMissing,
            Fault::ManagerMissing,
            Fault::WebhookServerMissing,
            Fault::TargetMissing,
            Fault::BoundsInvalid,
            Fault::AutoscalerDoubtful,
        ]
    );
}

fn secret(data: &Value) -> Secret {
    let data: std::collections::BTreeMap<String, k8s_openapi::ByteString> = data
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| {
            (
                key.clone(),
                k8s_openapi::ByteString(value.as_str().unwrap().as_bytes().to_vec()),
            )
        })
        .collect();
    Secret {
        metadata: object(json!({"name": "login", "namespace": "ci"})),
        data: Some(data),
        ..Secret::default()
    }
}

/// The findings about a login that a pool names.
fn login(secret: Option<Secret>) -> Vec<Finding> {
    let config =
        json!({"organization": "octo", "githubAPICredentialsFrom": {"secretRef": {"name": "login"}}});
    let observed = Observed {
        objects: Objects {
            deployments: vec![pool("linux", &config)],
            ..Objects::default()
        },
        secrets: [(("ci".to_owned(), "login".to_owned()), secret)].into(),
        ..Observed::default()
    };
    let wanted: Vec<SecretName> = credentials::wanted(&observed).into_iter().collect();
    assert_eq!(wanted, [("ci".to_owned(), "login".to_owned())]);
    examine(&observed, now())
}

#[test]
fn logins_are_judged_by_their_form_and_never_shown() {
    let pem = |kind: &str| {
        format!(
            "-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n",
            "QUJD".repeat(30)
        )
    };
    let app = |key: &str| json!({"github_app_id": "12", "github_app_installation_id": "77", "github_app_private_key": key});
    let secret_text = "sentinel of a secret";
    for (data, expected) in [
        (Some(json!({"github_token": "ghp_x"})), None),
        (Some(app(&pem("RSA PRIVATE KEY"))), None),
        (Some(app(&pem("PRIVATE KEY"))), None),
        (Some(app(&pem("CERTIFICATE"))), Some(Fault::CredentialsMalformed)),
        (Some(app(secret_text)), Some(Fault::CredentialsMalformed)),
        (
            Some(json!({"github_token": secret_text})),
            Some(Fault::CredentialsMalformed),
        ),
        (
            Some(json!({"github_app_id": "12"})),
            Some(Fault::CredentialsIncomplete),
        ),
        (
            Some(json!({"github_token": " \n"})),
            Some(Fault::CredentialsIncomplete),
        ),
        (None, Some(Fault::CredentialsMissing)),
    ] {
        let findings = login(data.as_ref().map(secret));
        let first = findings.first().map(|finding| finding.fault);
        assert_eq!(first, expected, "{data:?}");
        let text = serde_json::to_string(&findings).unwrap();
        assert!(!text.contains("sentinel"), "{text}");
    }
}

#[test]
fn rights_are_asked_about_where_the_process_looks() {
    let manager: Deployment = object(json!({"metadata": {"name": "m", "namespace": "arc"},
        "spec": {"selector": {}, "template": {"spec": {"serviceAccountName": "sa", "containers": [{"name": "manager", "image": "x",
            "command": ["/manager"], "args": ["--runner-image=x", "--watch-namespace=ci", "--enable-leader-election"]}]}}}}));
    let mut observed = Observed {
        deployments: Some(vec![manager]),
        ..Observed::default()
    };
    let questions = rights::wanted(&observed);
    let place = |resource: &str| {
        let found = questions.iter().find(|question| question.resource == resource);
        found.unwrap().namespace.clone()
    };
    assert_eq!(place("pods").as_deref(), Some("ci"));
    assert_eq!(place("leases").as_deref(), Some("arc"));
    assert_eq!(place("nodes"), None);
    assert!(
        questions
            .iter()
            .all(|question| question.program == Program::Manager
                && question.account == "system:serviceaccount:arc:sa")
    );

    observed.rights = questions
        .into_iter()
        .filter(|question| question.resource == "pods" && matches!(question.verb, "patch" | "watch"))
        .map(|question| rights::Answer {
            question,
            is_allowed: false,
        })
        .collect();
    let findings = examine(&observed, now());
    let lacking = findings
        .iter()
        .find(|finding| finding.fault == Fault::PermissionMissing)
        .unwrap();
    assert_eq!(
        lacking.sentence,
        "manager may not patch, watch pods (core) in namespace ci"
    );
}

#[test]
fn a_deletion_is_stuck_after_its_time_only() {
    let runner = |deleted: &str| -> Runner {
        object(
            json!({"apiVersion": ARC, "kind": "Runner", "metadata": {"name": "r", "namespace": "ci", "deletionTimestamp": deleted,
            "finalizers": ["runner.actions.summerwind.dev"]}, "spec": {"organization": "octo"}}),
        )
    };
    for (deleted, expected) in [
        ("2027-03-01T11:50:01Z", vec![]),
        ("2027-03-01T11:49:59Z", vec![Fault::DeletionStuck]),
    ] {
        let observed = Observed {
            objects: Objects {
                runners: vec![runner(deleted)],
                ..Objects::default()
            },
            ..Observed::default()
        };
        assert_eq!(faults(&observed), expected, "{deleted}");
    }
}

#[test]
fn words_are_unique() {
    let names: std::collections::BTreeSet<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
    assert_eq!(names.len(), Fault::ALL.len());
    assert!(names.len() >= 20);
}
