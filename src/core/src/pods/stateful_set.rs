//! RunnerSet → StatefulSets, one per runner (spec 02 §9.2): everything that is the same for all of them is a [`Blueprint`], a name makes it one.
//!
//! Names are chosen here and not by the API server: a volume is promised to the claim of a StatefulSet before that exists.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec},
        core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{Resource, ResourceExt};
use muster_crds::{
    keys,
    legacy::{RunnerConfig, RunnerSet},
    time::MicroTime,
};
use serde_json::Value;

use super::{
    linked,
    template::{PodDefaults, TemplateError, claim_work_volume, complete, is_kubernetes},
};
use crate::hash;

/// Characters of generated names, as the API server takes them: without vowels and look-alikes.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Random characters of a name.
const SUFFIX: usize = 5;
/// A longer prefix is cut, as `generateName` is.
const PREFIX_LIMIT: usize = 58;

/// Why a RunnerSet's StatefulSets cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BlueprintError {
    /// The pod cannot be built.
    #[error("spec.template: {0}")]
    Template(#[from] TemplateError),
    /// The template cannot be written as JSON.
    #[error("the template could not be hashed")]
    Hash(#[from] serde_json::Error),
}

/// What all StatefulSets of a RunnerSet have in common.
#[derive(Clone, Debug)]
pub struct Blueprint {
    hash: String,
    comparable: Value,
    object: StatefulSet,
}

impl Blueprint {
    /// Builds the StatefulSet of a RunnerSet, without its name. `common_labels` are appended to the runner's; `github_url` is where runners register.
    ///
    /// # Errors
    /// When the pod cannot be built.
    pub fn of(
        set: &RunnerSet,
        common_labels: &[String],
        defaults: &PodDefaults,
        github_url: &str,
    ) -> Result<Self, BlueprintError> {
        let config = config(set, common_labels);
        let mut template = template(set, &config, defaults, github_url)?;
        let comparable = comparable(&template)?;
        let hash = hash::template_hash(&comparable)?;
        let own = [
            (keys::LABEL_RUNNER_TEMPLATE_HASH, hash.as_str()),
            (keys::LABEL_RUNNERSET_NAME, &set.name_any()),
            (keys::LABEL_INJECT_REGISTRATION_TOKEN, keys::LABEL_VALUE_TRUE),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let labels = template
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default();
        labels.extend(own.clone());

        let mut selector: LabelSelector = set.spec.selector.clone();
        selector.match_labels.get_or_insert_default().extend(own);
        let mut labels: BTreeMap<String, String> = set.metadata.labels.clone().unwrap_or_default();
        labels.insert(keys::LABEL_RUNNER_TEMPLATE_HASH.to_owned(), hash.clone());
        let object = StatefulSet {
            metadata: ObjectMeta {
                namespace: set.namespace(),
                labels: Some(labels),
                owner_references: set.controller_owner_ref(&()).map(|mut owner| {
                    owner.block_owner_deletion = Some(true);
                    vec![owner]
                }),
                ..ObjectMeta::default()
            },
            spec: spec(set, selector, template),
            status: None,
        };
        Ok(Self {
            hash,
            comparable,
            object,
        })
    }

    /// The value of label `runner-template-hash`.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The StatefulSet of this name, made at `now`.
    pub fn named(&self, name: &str, now: Timestamp) -> StatefulSet {
        let mut object = self.object.clone();
        object.metadata.name = Some(name.to_owned());
        object.metadata.annotations = Some(BTreeMap::from([(
            keys::ANNOTATION_SYNC_TIME.to_owned(),
            MicroTime::from(now).to_string(),
        )]));
        // In the template, so that no write adds it later (spec 02 §13.1).
        for claim in object.spec.volume_claim_templates.iter_mut().flatten() {
            claim
                .labels_mut()
                .insert(keys::LABEL_RUNNER_STATEFULSET_NAME.to_owned(), name.to_owned());
        }
        object
    }

    /// Whether an existing StatefulSet has runners of this template, whoever made it and whatever its hash label says: upstream's cannot be computed anew (spec 02 Q8).
    pub fn is_current(&self, existing: &StatefulSet) -> bool {
        let label = existing.labels().get(keys::LABEL_RUNNER_TEMPLATE_HASH);
        label == Some(&self.hash)
            || (label.is_some_and(|label| !label.is_empty())
                && comparable(&existing.spec.template).is_ok_and(|other| other == self.comparable))
    }
}

/// A name for a new StatefulSet, in the form of `generateName`; `entropy` is any random number.
pub fn new_name(set: &str, entropy: u128) -> String {
    let mut name: String = set.chars().take(PREFIX_LIMIT - 1).collect();
    name.push('-');
    let mut rest = entropy;
    for _ in 0..SUFFIX {
        let index = usize::try_from(rest % 27).unwrap_or_default();
        name.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'x')));
        rest /= 27;
    }
    name
}

/// Number of the one pod of each StatefulSet of this RunnerSet.
pub fn first_ordinal(set: &RunnerSet) -> i32 {
    let ordinals = set.spec.ordinals.as_ref();
    ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0)
}

/// Name of the one pod of a StatefulSet.
pub fn pod_name(name: &str, ordinal: i32) -> String {
    format!("{name}-{ordinal}")
}

/// Name of the claim that the StatefulSet controller makes of a template.
pub fn claim_name(template: &str, stateful_set: &str, ordinal: i32) -> String {
    format!("{template}-{stateful_set}-{ordinal}")
}

fn config(set: &RunnerSet, common_labels: &[String]) -> RunnerConfig {
    let mut config = set.spec.config.clone();
    if !common_labels.is_empty() {
        // Upstream means to, and loses them on the way (spec 02 Q17, spec 01 quirk 10).
        config
            .labels
            .get_or_insert_default()
            .extend(common_labels.iter().cloned());
    }
    config
}

fn template(
    set: &RunnerSet,
    config: &RunnerConfig,
    defaults: &PodDefaults,
    github_url: &str,
) -> Result<PodTemplateSpec, TemplateError> {
    let mut template = set.spec.template.clone();
    if is_kubernetes(config) {
        claim_work_volume(
            &mut template,
            config,
            set.spec.work_volume_claim_template.as_ref(),
        )?;
    }
    let mut template = complete(template, config, defaults, github_url)?;
    let spec = template.spec.get_or_insert_default();
    // The only value that a StatefulSet takes; the webhook makes it `Never` in the pod.
    spec.restart_policy = Some("Always".to_owned());
    // In every mode, and without taking the template's away (spec 01 quirk 13).
    let account = set.spec.service_account_name.as_ref();
    if let Some(account) = account.filter(|account| !account.is_empty()) {
        spec.service_account_name = Some(account.clone());
    }
    let finalizers = linked::finalizers(&Pod {
        spec: template.spec.clone(),
        ..Pod::default()
    });
    // The StatefulSet controller copies them to the pod, so that none lives without.
    template.metadata.get_or_insert_default().finalizers = Some(finalizers);
    Ok(template)
}

fn spec(set: &RunnerSet, selector: LabelSelector, template: PodTemplateSpec) -> StatefulSetSpec {
    let own = &set.spec;
    StatefulSetSpec {
        replicas: Some(1),
        selector,
        template,
        volume_claim_templates: own.volume_claim_templates.clone(),
        service_name: own.service_name.clone(),
        pod_management_policy: own.pod_management_policy.clone(),
        update_strategy: own.update_strategy.clone(),
        revision_history_limit: own.revision_history_limit,
        min_ready_seconds: own.min_ready_seconds,
        persistent_volume_claim_retention_policy: own.persistent_volume_claim_retention_policy.clone(),
        ordinals: own.ordinals.clone(),
    }
}

/// The pod's spec as far as it decides whether a runner is of this template: without the program's version, which changes with every upgrade (spec 02 Q16), and without
/// what the API server fills in. Metadata is no part of it, as with upstream (spec 02 §9.3).
fn comparable(template: &PodTemplateSpec) -> Result<Value, serde_json::Error> {
    let mut spec = template.spec.clone().unwrap_or_default();
    for container in &mut spec.containers {
        if let Some(env) = &mut container.env {
            env.retain(|variable| variable.name != keys::ENV_GITHUB_ACTIONS_RUNNER_EXTRA_USER_AGENT);
        }
    }
    Ok(hash::without_defaults(&serde_json::to_value(spec)?))
}

/// Templates of the claims, by name.
pub fn claim_templates(set: &RunnerSet) -> impl Iterator<Item = (&str, &PersistentVolumeClaim)> {
    set.spec
        .volume_claim_templates
        .iter()
        .flatten()
        .filter_map(|claim| claim.metadata.name.as_deref().map(|name| (name, claim)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(change: impl FnOnce(&mut Value)) -> RunnerSet {
        let mut object = json!({
            "apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "RunnerSet",
            "metadata": {"name": "warm", "namespace": "ci", "uid": "u-1", "labels": {"team": "a"}},
            "spec": {
                "organization": "acme", "labels": ["warm"], "replicas": 4, "serviceName": "warm",
                "selector": {"matchLabels": {"pool": "warm"}},
                "template": {"metadata": {"labels": {"pool": "warm"}, "annotations": {"n": "1"}}, "spec": {"containers": [
                    {"name": "runner", "resources": {"limits": {"cpu": 4, "memory": "8Gi"}}, "volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "cache"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]
            }
        });
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    fn blueprint(set: &RunnerSet) -> Blueprint {
        versioned(set, "1")
    }

    fn versioned(set: &RunnerSet, version: &str) -> Blueprint {
        let defaults = PodDefaults {
            runner_image: "runner:1".to_owned(),
            docker_image: "docker:dind".to_owned(),
            docker_gid: "1001".to_owned(),
            version: version.to_owned(),
            ..PodDefaults::default()
        };
        Blueprint::of(set, &["common".to_owned()], &defaults, "https://github.com/").unwrap()
    }

    #[test]
    fn a_stateful_set_is_made_of_the_runner_set_and_a_name() {
        let blueprint = blueprint(&set(|_| {}));
        let made = blueprint.named("warm-x7k2p", Timestamp::from_second(1_800_000_000).unwrap());
        insta::assert_json_snapshot!(made);
    }

    /// Spec 02 §9.3: the pod's spec decides, and neither its metadata nor what stands around it.
    #[test]
    fn the_hash_follows_the_pods_spec_and_nothing_else() {
        let base = set(|_| {});
        let hash = blueprint(&base).hash().to_owned();
        assert_eq!(versioned(&base, "2").hash(), hash, "an upgrade rolls nothing");
        let same: [fn(&mut Value); 4] = [
            |set| set["spec"]["template"]["metadata"]["labels"]["more"] = json!("yes"),
            |set| set["spec"]["replicas"] = json!(9),
            |set| set["spec"]["volumeClaimTemplates"] = json!([]),
            |set| {
                set["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] =
                    json!("4000m");
            },
        ];
        for (index, change) in same.into_iter().enumerate() {
            assert_eq!(blueprint(&set(change)).hash(), hash, "{index}");
        }
        let other: [fn(&mut Value); 4] = [
            |set| set["spec"]["organization"] = json!("other"),
            |set| set["spec"]["labels"] = json!(["cold"]),
            |set| set["spec"]["serviceAccountName"] = json!("builder"),
            |set| set["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"}),
        ];
        for (index, change) in other.into_iter().enumerate() {
            assert_ne!(blueprint(&set(change)).hash(), hash, "{index}");
        }
    }

    #[test]
    fn a_stateful_set_of_upstream_is_known_by_what_it_says() {
        let blueprint = blueprint(&set(|_| {}));
        let mut object = serde_json::to_value(
            versioned(&set(|_| {}), "0.27.6").named("warm-abcde", Timestamp::UNIX_EPOCH),
        )
        .unwrap();
        object["metadata"]["labels"]["runner-template-hash"] = json!("7b9c5d6f84");
        let pod = &mut object["spec"]["template"]["spec"];
        // As the API server stores it.
        for (field, value) in [
            ("dnsPolicy", json!("ClusterFirst")),
            ("schedulerName", json!("default-scheduler")),
            ("terminationGracePeriodSeconds", json!(30)),
            ("securityContext", json!({})),
        ] {
            pod[field] = value;
        }
        for container in pod["containers"].as_array_mut().unwrap() {
            container["terminationMessagePath"] = json!("/dev/termination-log");
            container["terminationMessagePolicy"] = json!("File");
            if container["name"] == "runner" {
                container["resources"]["limits"]["cpu"] = json!("4");
            } else {
                container["imagePullPolicy"] = json!("IfNotPresent");
            }
        }
        let existing: StatefulSet = serde_json::from_value(object.clone()).unwrap();
        assert!(blueprint.is_current(&existing));

        object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("runner:0");
        let outdated: StatefulSet = serde_json::from_value(object.clone()).unwrap();
        assert!(!blueprint.is_current(&outdated));
        object["metadata"]["labels"] = json!({});
        let unlabelled: StatefulSet = serde_json::from_value(object).unwrap();
        assert!(!blueprint.is_current(&unlabelled), "none of ours (spec 02 Q9)");
    }

    #[test]
    fn names_are_those_of_generate_name() {
        let name = new_name("warm", 12_345_678_901);
        assert_eq!(name.len(), 10);
        assert!(name.starts_with("warm-"));
        assert_ne!(new_name("warm", 1), new_name("warm", 2));
        assert_eq!(new_name(&"x".repeat(80), 7).len(), 63);
    }
}
