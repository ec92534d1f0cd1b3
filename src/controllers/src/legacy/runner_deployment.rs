//! RunnerDeployment: one RunnerReplicaSet per template, the newest filled, older ones drained (spec 02 §6).
//! gather → check → plan → apply → report

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    runtime::controller::Action,
};
use muster_core::{
    hash,
    scope::Scope,
    target::{TargetId, TargetKind},
};
use muster_crds::{
    keys,
    legacy::{RunnerDeployment, RunnerDeploymentStatus, RunnerReplicaSet, RunnerTemplate},
};
use serde_json::{Value, json};

use super::{leftovers, runner_replica_set};
use crate::{
    conditions,
    context::Context,
    error::Error,
    events::Severity,
    owner::ControllerOwner,
    pod_owner::{delete, served_none},
};

const COMPONENT: &str = "runnerdeployment-controller";
/// A new set that is not full after this long does not hold the old ones any more: with ephemeral runners it may never be full (spec 02 Q45).
const ROLLOUT_PATIENCE: SignedDuration = SignedDuration::from_mins(10);

pub(super) async fn reconcile(
    deployment: Arc<RunnerDeployment>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let namespace = deployment.namespace().unwrap_or_default();
    let target = TargetId::new(TargetKind::Deployment, &*namespace, deployment.name_any());
    if deployment.metadata.deletion_timestamp.is_some() {
        context.metrics.target(&target, None);
        return Ok(Action::await_change());
    }
    let now = context.clock.now();
    context.metrics.target(&target, deployment.spec.replicas);
    check(&deployment)?;

    let uid = deployment.uid().unwrap_or_default();
    let template = template(&deployment, &context.settings.common_runner_labels);
    let mut sets = newest_first(context.caches.replica_sets.owned_by(&uid));
    let mut current = find(&sets, &template)?;
    if current.is_none() {
        // Before another set is created, make sure that the cache is not just late.
        sets = newest_first(list(&context, &namespace, &uid).await?);
        current = find(&sets, &template)?;
    }
    let api: Api<RunnerReplicaSet> = Api::namespaced(context.client.clone(), &namespace);
    let Some(current) = current else {
        let set = new_set(&deployment, &template)?;
        let params = PostParams {
            field_manager: Some(keys::FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let set = api
            .create(&params, &set)
            .await
            .map_err(Error::apply("create a RunnerReplicaSet"))?;
        tracing::info!(controller = COMPONENT, object = %super::key(&*deployment), set = %set.name_any(), "Created a RunnerReplicaSet.");
        // Its appearance in the cache is the next trigger; this is only the safety net.
        return Ok(Action::requeue(Duration::from_secs(5)));
    };

    if let Some(patch) = drift(&deployment, &current)? {
        api.patch(&current.name_any(), &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(Error::apply(format!(
                "update RunnerReplicaSet {}",
                current.name_any()
            )))?;
    }
    let old: Vec<_> = sets
        .iter()
        .filter(|set| set.uid() != current.uid())
        .cloned()
        .collect();
    let retry = drain(&context, &deployment, &api, &current, &old, now).await?;
    let status_wait = report(&context, &deployment, &sets, &current, now).await?;
    conditions::report(&context.client, &*deployment, &conditions::Verdict::HEALTHY, now).await;
    leftovers::report(&context, &*deployment, &target, now).await;
    let wait = [retry, status_wait].into_iter().flatten().min();
    Ok(Action::requeue(wait.unwrap_or_else(|| context.resync(&uid))))
}

/// What the API server lets through but cannot work.
fn check(deployment: &RunnerDeployment) -> Result<(), Error> {
    let config = &deployment.spec.template.spec.config;
    Scope::from_fields(
        config.repository.as_deref(),
        config.organization.as_deref(),
        config.enterprise.as_deref(),
    )
    .map_err(|error| Error::Invalid {
        message: format!("spec.template.spec: {error}"),
    })?;
    let given = [&config.repository, &config.organization, &config.enterprise];
    if given
        .iter()
        .filter(|field| field.as_ref().is_some_and(|text| !text.is_empty()))
        .count()
        > 1
    {
        return Err(Error::Invalid {
            message: "spec.template.spec: more than one of repository, organization and enterprise is set: keep exactly one".to_owned(),
        });
    }
    if let Some(replicas) = deployment.spec.replicas.filter(|replicas| *replicas < 0) {
        return Err(Error::Invalid {
            message: format!(
                "spec.replicas: {replicas} is negative: use 0 or more, or omit it when a HorizontalRunnerAutoscaler refers to this RunnerDeployment"
            ),
        });
    }
    // Muster counts Runners by owner reference, so a selector that misses its own template cannot make runners without end (spec 02 Q10); it is still a mistake.
    if let Some(selector) = &deployment.spec.selector {
        let labels = deployment
            .spec
            .template
            .metadata
            .as_ref()
            .and_then(|meta| meta.labels.clone())
            .unwrap_or_default();
        let missing = selector.match_labels.iter().flatten().find(|(key, value)| {
            labels.get(*key) != Some(*value) && key.as_str() != keys::LABEL_RUNNER_DEPLOYMENT_NAME
        });
        if let Some((key, value)) = missing {
            return Err(Error::Invalid {
                message: format!(
                    "spec.selector.matchLabels: the template's labels lack {key}: {value}: add it to spec.template.metadata.labels or remove the selector"
                ),
            });
        }
    }
    Ok(())
}

/// The template with the common labels and the deployment's own label, without the hash.
fn template(deployment: &RunnerDeployment, common_labels: &[String]) -> RunnerTemplate {
    let mut template = deployment.spec.template.clone();
    if !common_labels.is_empty() {
        template
            .spec
            .config
            .labels
            .get_or_insert_default()
            .extend(common_labels.iter().cloned());
    }
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(
        keys::LABEL_RUNNER_DEPLOYMENT_NAME.to_owned(),
        deployment.name_any(),
    );
    template
}

fn without_hash(template: &RunnerTemplate) -> RunnerTemplate {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(keys::LABEL_RUNNER_TEMPLATE_HASH);
    }
    template
}

fn newest_first(mut sets: Vec<Arc<RunnerReplicaSet>>) -> Vec<Arc<RunnerReplicaSet>> {
    sets.retain(|set| set.metadata.deletion_timestamp.is_none());
    sets.sort_by_key(|set| {
        (
            std::cmp::Reverse(set.metadata.creation_timestamp.as_ref().map(|time| time.0)),
            set.name_any(),
        )
    });
    sets
}

/// The set whose template means the same, whoever wrote it and whatever its hash label says (spec 02 Q8, Q43).
fn find(
    sets: &[Arc<RunnerReplicaSet>],
    template: &RunnerTemplate,
) -> Result<Option<Arc<RunnerReplicaSet>>, Error> {
    for set in sets {
        let same = hash::same(&without_hash(&set.spec.template), template)
            .map_err(|error| Error::Bug(format!("the template could not be compared: {error}")))?;
        if same && set.labels().contains_key(keys::LABEL_RUNNER_TEMPLATE_HASH) {
            return Ok(Some(Arc::clone(set)));
        }
    }
    Ok(None)
}

/// The cached set that new runners of this deployment come from.
pub(super) fn current_set(
    context: &Context,
    deployment: &RunnerDeployment,
) -> Result<Option<Arc<RunnerReplicaSet>>, Error> {
    let sets = newest_first(
        context
            .caches
            .replica_sets
            .owned_by(&deployment.uid().unwrap_or_default()),
    );
    find(
        &sets,
        &template(deployment, &context.settings.common_runner_labels),
    )
}

async fn list(context: &Context, namespace: &str, uid: &str) -> Result<Vec<Arc<RunnerReplicaSet>>, Error> {
    let api: Api<RunnerReplicaSet> = Api::namespaced(context.client.clone(), namespace);
    let all = api
        .list(&ListParams::default())
        .await
        .map_err(Error::gather("the RunnerReplicaSets"))?;
    Ok(all
        .items
        .into_iter()
        .filter(|set| set.controller_owner().is_some_and(|owner| owner.uid == uid))
        .map(Arc::new)
        .collect())
}

fn selector(deployment: &RunnerDeployment, hash: &str) -> LabelSelector {
    let mut selector = deployment.spec.selector.clone().unwrap_or_else(|| LabelSelector {
        match_labels: Some(BTreeMap::from([(
            keys::LABEL_RUNNER_DEPLOYMENT_NAME.to_owned(),
            deployment.name_any(),
        )])),
        match_expressions: None,
    });
    selector
        .match_labels
        .get_or_insert_default()
        .insert(keys::LABEL_RUNNER_TEMPLATE_HASH.to_owned(), hash.to_owned());
    selector
}

/// What the autoscaler says to the set travels in these annotations.
const HANDED_DOWN: [&str; 2] = [
    keys::ANNOTATION_RETAIN_IDLE_UNTIL,
    keys::ANNOTATION_ENDS_ACCOUNTED,
];

fn new_set(deployment: &RunnerDeployment, template: &RunnerTemplate) -> Result<RunnerReplicaSet, Error> {
    let hash = hash::template_hash(template)
        .map_err(|error| Error::Bug(format!("the template could not be hashed: {error}")))?;
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    let labels = meta.labels.get_or_insert_default();
    labels.insert(keys::LABEL_RUNNER_TEMPLATE_HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut annotations = BTreeMap::from([served_none()]);
    for key in HANDED_DOWN {
        if let Some(value) = deployment.annotations().get(key) {
            annotations.insert(key.to_owned(), value.clone());
        }
    }
    let mut set = RunnerReplicaSet::new(
        "",
        muster_crds::legacy::RunnerReplicaSetSpec {
            replicas: deployment.spec.replicas,
            effective_time: deployment.spec.effective_time,
            selector: Some(selector(deployment, &hash)),
            template,
        },
    );
    set.metadata = ObjectMeta {
        generate_name: Some(format!("{}-", deployment.name_any())),
        namespace: deployment.namespace(),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: deployment.controller_owner_ref(&()).map(|mut owner| {
            owner.block_owner_deletion = Some(true);
            vec![owner]
        }),
        ..ObjectMeta::default()
    };
    Ok(set)
}

/// The merge patch that makes the current set follow the deployment, if it does not.
fn drift(deployment: &RunnerDeployment, set: &RunnerReplicaSet) -> Result<Option<Value>, Error> {
    let wanted = &deployment.spec;
    let hash = set
        .labels()
        .get(keys::LABEL_RUNNER_TEMPLATE_HASH)
        .cloned()
        .unwrap_or_default();
    let selector = selector(deployment, &hash);
    let mut spec = serde_json::Map::new();
    if wanted.replicas != set.spec.replicas {
        spec.insert("replicas".to_owned(), json!(wanted.replicas));
    }
    if wanted.effective_time != set.spec.effective_time {
        spec.insert("effectiveTime".to_owned(), json!(wanted.effective_time));
    }
    let same_selector = hash::same(&selector, &set.spec.selector)
        .map_err(|error| Error::Bug(format!("the selector could not be compared: {error}")))?;
    if !same_selector {
        spec.insert("selector".to_owned(), json!(selector));
    }
    let mut annotations = serde_json::Map::new();
    for key in HANDED_DOWN {
        let (wanted, known) = (deployment.annotations().get(key), set.annotations().get(key));
        if wanted != known {
            annotations.insert(key.to_owned(), json!(wanted));
        }
    }
    let mut patch = serde_json::Map::new();
    if !spec.is_empty() {
        patch.insert("spec".to_owned(), Value::Object(spec));
    }
    if !annotations.is_empty() {
        patch.insert("metadata".to_owned(), json!({ "annotations": annotations }));
    }
    Ok((!patch.is_empty()).then_some(Value::Object(patch)))
}

/// Scales old sets down once the current one is full, and deletes the empty ones.
async fn drain(
    context: &Context,
    deployment: &RunnerDeployment,
    api: &Api<RunnerReplicaSet>,
    current: &RunnerReplicaSet,
    old: &[Arc<RunnerReplicaSet>],
    now: Timestamp,
) -> Result<Option<Duration>, Error> {
    if old.is_empty() {
        return Ok(None);
    }
    let ready = current.status.as_ref().map_or(0, |status| status.ready_replicas);
    let patient_until = current
        .metadata
        .creation_timestamp
        .as_ref()
        .and_then(|time| time.0.checked_add(ROLLOUT_PATIENCE).ok());
    if ready < current.spec.replicas.unwrap_or(1) && patient_until.is_some_and(|until| until > now) {
        return Ok(super::until(patient_until, now));
    }
    for set in old {
        let name = set.name_any();
        if set
            .status
            .as_ref()
            .and_then(|status| status.replicas)
            .unwrap_or(0)
            == 0
            && context
                .caches
                .runners
                .owned_by(&set.uid().unwrap_or_default())
                .is_empty()
        {
            delete(api, &name, &set.uid().unwrap_or_default()).await?;
            let note = format!("Deleted runnerreplicaset '{name}'");
            context.recorder.record(
                deployment,
                COMPONENT,
                Severity::Normal,
                "RunnerReplicaSetDeleted",
                &note,
            );
        } else if set.spec.replicas != Some(0)
            || set.annotations().contains_key(keys::ANNOTATION_RETAIN_IDLE_UNTIL)
        {
            let patch = json!({
                "metadata": {"annotations": {keys::ANNOTATION_RETAIN_IDLE_UNTIL: null}}, "spec": {"replicas": 0}
            });
            api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map_err(Error::apply(format!(
                    "scale the old RunnerReplicaSet {name} to zero"
                )))?;
            tracing::info!(controller = COMPONENT, object = %super::key(deployment), set = %name, "Scaled an old RunnerReplicaSet to zero.");
        }
    }
    Ok(None)
}

async fn report(
    context: &Context,
    deployment: &RunnerDeployment,
    sets: &[Arc<RunnerReplicaSet>],
    current: &RunnerReplicaSet,
    now: Timestamp,
) -> Result<Option<Duration>, Error> {
    // From the sets' runners themselves: the sets' own status comes later, and would be a second write here.
    let (mut all, mut running, mut updated) = (0, 0, 0);
    for set in sets {
        let (total, up) = runner_replica_set::counts(context, set, now)?;
        all += total;
        running += up;
        if set.uid() == current.uid() {
            updated = total;
        }
    }
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let old = deployment.status.clone().unwrap_or_default();
    let new = RunnerDeploymentStatus {
        available_replicas: Some(count(running)),
        ready_replicas: Some(count(running)),
        updated_replicas: Some(count(updated)),
        desired_replicas: Some(deployment.spec.replicas.unwrap_or(1)),
        replicas: Some(count(all)),
        conditions: old.conditions.clone(),
    };
    if new == old {
        return Ok(None);
    }
    if let Some(wait) = context
        .gate
        .admit_counts(&deployment.uid().unwrap_or_default(), now)
    {
        return Ok(Some(wait));
    }
    let mut status = json!(new);
    if let Some(fields) = status.as_object_mut() {
        fields.remove("conditions");
    }
    let api: Api<RunnerDeployment> = Api::namespaced(
        context.client.clone(),
        &deployment.namespace().unwrap_or_default(),
    );
    api.patch_status(
        &deployment.name_any(),
        &PatchParams::default(),
        &Patch::Merge(json!({ "status": status })),
    )
    .await
    .map_err(Error::apply("write the status"))?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "reads better at the call")]
    fn deployment(template: Value) -> RunnerDeployment {
        serde_json::from_value(json!({
            "apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "RunnerDeployment",
            "metadata": {"name": "rd", "namespace": "ci", "uid": "u-1"},
            "spec": {"template": template}
        }))
        .unwrap()
    }

    fn set(template_value: Value, common: &[&str]) -> RunnerReplicaSet {
        let deployment = deployment(template_value);
        let common: Vec<String> = common.iter().map(|label| (*label).to_owned()).collect();
        new_set(&deployment, &template(&deployment, &common)).unwrap()
    }

    /// Spec 02 §19, "RD".
    #[test]
    fn the_set_has_the_labels_of_its_template_and_the_common_ones_after_them() {
        let made = set(
            json!({"metadata": {"labels": {"team": "a"}, "annotations": {"n": "1"}}, "spec": {"repository": "a/b", "labels": ["project1"]}}),
            &["dev"],
        );
        assert_eq!(
            made.spec.template.spec.config.labels,
            Some(vec!["project1".to_owned(), "dev".to_owned()])
        );
        let hash = made.labels().get("runner-template-hash").unwrap().clone();
        let expected: BTreeMap<String, String> = [
            ("team", "a"),
            ("runner-deployment-name", "rd"),
            ("runner-template-hash", hash.as_str()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        assert_eq!(made.labels(), &expected);
        let template = made.spec.template.metadata.unwrap();
        assert_eq!(template.labels, Some(expected));
        assert_eq!(template.annotations.unwrap().get("n"), Some(&"1".to_owned()));
        let selector = made.spec.selector.unwrap().match_labels.unwrap();
        assert_eq!(selector.get("runner-template-hash"), Some(&hash));
        assert_eq!(selector.get("runner-deployment-name"), Some(&"rd".to_owned()));
        assert_eq!(made.metadata.generate_name.as_deref(), Some("rd-"));
    }

    #[test]
    fn the_hash_follows_labels_metadata_and_spec_and_nothing_else() {
        let hash = |template: Value, common: &[&str]| -> String {
            set(template, common)
                .labels()
                .get("runner-template-hash")
                .unwrap()
                .clone()
        };
        let base = json!({"spec": {"repository": "a/b", "labels": ["project1"]}});
        let first = hash(base.clone(), &["dev"]);
        assert_eq!(first, hash(base.clone(), &["dev"]));
        for (template, common) in [
            (
                json!({"spec": {"repository": "a/b", "labels": ["project2"]}}),
                &["dev"][..],
            ),
            (base.clone(), &["other"]),
            (base, &[]),
            (
                json!({"metadata": {"labels": {"x": "y"}}, "spec": {"repository": "a/b", "labels": ["project1"]}}),
                &["dev"],
            ),
            (
                json!({"metadata": {"annotations": {"x": "y"}}, "spec": {"repository": "a/b", "labels": ["project1"]}}),
                &["dev"],
            ),
            (
                json!({"spec": {"repository": "a/b", "labels": ["project1"], "image": "r:2"}}),
                &["dev"],
            ),
        ] {
            assert_ne!(first, hash(template.clone(), common), "{template} {common:?}");
        }
    }
}
