//! The `ServiceAccount`, `Role` and `RoleBinding` that a Runner gets when its pod talks to the API server and the user gave no account (spec 02 §10.6).

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::ServiceAccount,
        rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, ResourceExt};
use muster_crds::{keys, legacy::Runner};

use super::template::is_kubernetes;

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// The three objects, in the order in which they are made. All have the Runner's name and go with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Account of the pod.
    pub service_account: ServiceAccount,
    /// What the pod may do.
    pub role: Role,
    /// Gives the one to the other.
    pub role_binding: RoleBinding,
}

/// Whether a Runner gets an account of its own: its pod needs rights, and the user names no account.
pub fn is_generated(runner: &Runner, status_update_hook: bool) -> bool {
    let given = runner.spec.pod.service_account_name.as_deref();
    given.unwrap_or_default().is_empty() && (status_update_hook || is_kubernetes(&runner.spec.config))
}

/// The name of all three.
pub fn name(runner: &Runner) -> String {
    runner.name_any()
}

/// The account, role and binding of a Runner; `None` when it gets none.
pub fn generated(runner: &Runner, status_update_hook: bool) -> Option<Generated> {
    is_generated(runner, status_update_hook).then(|| Generated {
        service_account: ServiceAccount {
            metadata: metadata(runner),
            ..ServiceAccount::default()
        },
        role: Role {
            metadata: metadata(runner),
            rules: Some(rules(runner, status_update_hook)),
        },
        role_binding: RoleBinding {
            metadata: metadata(runner),
            role_ref: RoleRef {
                api_group: Some(RBAC_GROUP.to_owned()),
                kind: "Role".to_owned(),
                name: name(runner),
            },
            subjects: Some(vec![Subject {
                api_group: None,
                kind: "ServiceAccount".to_owned(),
                name: name(runner),
                namespace: runner.namespace(),
            }]),
        },
    })
}

fn rules(runner: &Runner, status_update_hook: bool) -> Vec<PolicyRule> {
    let mut rules = Vec::new();
    if status_update_hook {
        rules.push(PolicyRule {
            resource_names: Some(vec![name(runner)]),
            ..rule(keys::GROUP, "runners/status", &["get", "update", "patch"])
        });
    }
    if is_kubernetes(&runner.spec.config) {
        rules.extend([
            rule("", "pods", &["get", "list", "create", "delete"]),
            rule("", "pods/exec", &["get", "create"]),
            rule("", "pods/log", &["get", "list", "watch"]),
            rule("batch", "jobs", &["get", "list", "create", "delete"]),
            rule("", "secrets", &["get", "list", "create", "delete"]),
        ]);
    }
    rules
}

fn rule(group: &str, resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}

fn metadata(runner: &Runner) -> ObjectMeta {
    // What they belong to can be seen without following owner references.
    let labels: BTreeMap<String, String> = runner
        .labels()
        .get_key_value(keys::LABEL_RUNNER_DEPLOYMENT_NAME)
        .map(|(key, value)| (key.clone(), value.clone()))
        .into_iter()
        .collect();
    ObjectMeta {
        name: Some(name(runner)),
        namespace: runner.namespace(),
        labels: (!labels.is_empty()).then_some(labels),
        owner_references: runner.controller_owner_ref(&()).map(|mut reference| {
            reference.block_owner_deletion = Some(true);
            vec![reference]
        }),
        ..ObjectMeta::default()
    }
}

/// Whether an object of that name is what a former Runner of the same name left behind: the garbage collector is about to take it away, so it must not be used again.
pub fn is_left_over(existing: &ObjectMeta, runner: &Runner) -> bool {
    existing.owner_references.iter().flatten().any(|owner| {
        owner.controller == Some(true)
            && owner.kind == "Runner"
            && owner.name == runner.name_any()
            && Some(&owner.uid) != runner.metadata.uid.as_ref()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "reads better at the call")]
    fn runner(spec: Value) -> Runner {
        serde_json::from_value(json!({
            "apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "Runner",
            "metadata": {"name": "rd-abcde-fghij", "namespace": "ci", "uid": "u-1", "labels": {"runner-deployment-name": "rd"}},
            "spec": spec
        }))
        .unwrap()
    }

    #[test]
    fn only_a_pod_that_needs_rights_gets_them_and_only_without_an_account_of_the_users() {
        let plain = json!({"repository": "a/b"});
        let kubernetes = json!({"repository": "a/b", "containerMode": "kubernetes"});
        let empty = json!({"repository": "a/b", "containerMode": "kubernetes", "serviceAccountName": ""});
        let given = json!({"repository": "a/b", "containerMode": "kubernetes", "serviceAccountName": "mine"});
        for (spec, hook, expected) in [
            (&plain, false, false),
            (&plain, true, true),
            (&kubernetes, false, true),
            (&empty, false, true),
            (&given, false, false),
            (&given, true, false),
        ] {
            let made = generated(&runner(spec.clone()), hook);
            assert_eq!(made.is_some(), expected, "{spec} hook={hook}");
        }
    }

    #[test]
    fn the_rights_are_those_of_both_uses() {
        let both = generated(
            &runner(json!({"repository": "a/b", "containerMode": "kubernetes"})),
            true,
        )
        .unwrap();
        insta::assert_json_snapshot!(
            "generated_rbac",
            json!({"serviceAccount": both.service_account, "role": both.role, "roleBinding": both.role_binding})
        );
        let hook = generated(&runner(json!({"repository": "a/b"})), true).unwrap();
        assert_eq!(hook.role.rules.unwrap().len(), 1);
        let jobs = generated(
            &runner(json!({"repository": "a/b", "containerMode": "kubernetes"})),
            false,
        )
        .unwrap();
        assert_eq!(jobs.role.rules.unwrap().len(), 5);
    }

    #[test]
    fn what_a_former_runner_left_is_told_from_what_the_user_made() {
        let now = runner(json!({"repository": "a/b"}));
        let own = metadata(&now);
        let mut former = own.clone();
        former.owner_references.as_mut().unwrap()[0].uid = "u-0".to_owned();
        let foreign = ObjectMeta {
            name: own.name.clone(),
            ..ObjectMeta::default()
        };
        assert!(is_left_over(&former, &now));
        assert!(!is_left_over(&own, &now) && !is_left_over(&foreign, &now));
    }
}
