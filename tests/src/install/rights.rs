//! What service accounts may do, and what they did: the rules that are bound to them, and the API server's audit log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
};

use anyhow::{Context, Result};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use kube::{Api, Client, api::ListParams};
use serde_json::Value;

use crate::control_plane::ControlPlane;

/// One verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// API group; empty for the core group.
    pub group: String,
    /// `pods`, `pods/status`.
    pub resource: String,
    /// `get`, `list`, …
    pub verb: String,
}

impl Right {
    /// A right by its words.
    pub fn new(group: &str, resource: &str, verb: &str) -> Self {
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
            verb: verb.to_owned(),
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

/// The rights that rules grant, whatever objects they name.
pub fn of_rules(rules: &[PolicyRule]) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                rights.extend(rule.verbs.iter().map(|verb| Right::new(group, resource, verb)));
            }
        }
    }
    rights
}

/// Everything that is bound to a service account.
pub async fn granted(client: &Client, ns: &str, account: &str) -> Result<BTreeSet<Right>> {
    let is_subject = |subjects: Option<Vec<Subject>>| {
        subjects.into_iter().flatten().any(|subject| {
            subject.kind == "ServiceAccount"
                && subject.name == account
                && subject.namespace.as_deref() == Some(ns)
        })
    };
    let params = ListParams::default();
    let mut rules = Vec::new();
    let cluster_roles: Api<ClusterRole> = Api::all(client.clone());
    let mut bound: Vec<(Option<String>, RoleRef)> = Vec::new();
    for binding in Api::<ClusterRoleBinding>::all(client.clone())
        .list(&params)
        .await?
    {
        if is_subject(binding.subjects) {
            bound.push((None, binding.role_ref));
        }
    }
    for binding in Api::<RoleBinding>::all(client.clone()).list(&params).await? {
        if is_subject(binding.subjects) {
            bound.push((binding.metadata.namespace, binding.role_ref));
        }
    }
    for (namespace, role) in bound {
        let missing = || format!("{} {} is bound and does not exist", role.kind, role.name);
        let found = match (role.kind.as_str(), namespace) {
            ("Role", Some(namespace)) => {
                let api: Api<Role> = Api::namespaced(client.clone(), &namespace);
                api.get(&role.name).await.with_context(missing)?.rules
            }
            _ => cluster_roles.get(&role.name).await.with_context(missing)?.rules,
        };
        rules.extend(found.unwrap_or_default());
    }
    Ok(of_rules(&rules))
}

/// What service accounts asked for so far.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// What was allowed, by account (`namespace/name`).
    pub allowed: BTreeMap<String, BTreeSet<Right>>,
    /// What was refused.
    pub refused: BTreeMap<String, BTreeSet<Right>>,
}

/// Reads the audit log from the byte `from` on; answers where it ends, too.
pub fn asked(plane: &ControlPlane, from: usize) -> Result<(Asked, usize)> {
    let path = plane.access_log();
    let text = fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
    let part = text.get(from..).unwrap_or_default();
    let mut asked = Asked::default();
    for line in part.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        // The last line may be half written.
        let Ok(event) = serde_json::from_slice::<Value>(line) else {
            continue;
        };
        let word = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let Some(account) = word("/user/username").strip_prefix("system:serviceaccount:") else {
            continue;
        };
        let resource = match (word("/objectRef/resource"), word("/objectRef/subresource")) {
            ("", _) => continue,
            (resource, "") => resource.to_owned(),
            (resource, sub) => format!("{resource}/{sub}"),
        };
        let right = Right::new(word("/objectRef/apiGroup"), &resource, word("/verb"));
        let refused = word("/annotations/authorization.k8s.io~1decision") == "forbid";
        let side = if refused {
            &mut asked.refused
        } else {
            &mut asked.allowed
        };
        side.entry(account.replace(':', "/")).or_default().insert(right);
    }
    Ok((asked, text.len()))
}
