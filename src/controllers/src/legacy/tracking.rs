//! What is known of a running runner: its id on GitHub, whether it has a job, whether GitHub has lost it.
//!
//! Busy pods are protected from evictions that ask first: a label that the namespace's PodDisruptionBudget selects, and the annotations of the cluster autoscaler and
//! of Karpenter (90 FEATURE 4). The ledger says who is busy; a job that is over within seconds costs no write.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::controller::Action,
};
use muster_core::pods::{
    PodView,
    liveness::{Busy, Listed, Verdict, assess, ledgers_say, listing_age, look_interval},
    phase::PodPhase,
    unregister::REGISTRATION_POLL,
};
use muster_crds::{keys, legacy::Runner};
use muster_github::RunnerInfo;
use serde_json::{Map, Value, json};

use super::runner_pod::{access, mark};
use crate::{
    context::Context,
    ends::{Pool, pool_of},
    error::{Error, already_exists, is_not_found},
    events::Severity,
    owner::ControllerOwner,
    pod_owner::annotate,
};

const COMPONENT: &str = "runnerpod-controller";
/// How old GitHub's listing may be in the cache (its `Cache-Control`).
const LISTING_AGE: SignedDuration = SignedDuration::from_secs(60);
/// What keeps the cluster autoscaler and Karpenter from evicting a pod.
const PROTECTION: [(&str, &str); 2] = [
    (keys::ANNOTATION_CLUSTER_AUTOSCALER_SAFE_TO_EVICT, "false"),
    (keys::ANNOTATION_KARPENTER_DO_NOT_DISRUPT, "true"),
];
/// While a pool fails, a runner that registers is noticed this soon.
const PROBE_POLL: SignedDuration = SignedDuration::from_secs(3);

/// What this process remembers about running runners.
#[derive(Debug, Default)]
pub(crate) struct Tracking {
    /// Since when a registered runner is offline or unknown to GitHub, by the pod's UID.
    suspects: Mutex<HashMap<String, Timestamp>>,
    /// When GitHub was asked last, by the pod's UID.
    looked_at: Mutex<HashMap<String, Timestamp>>,
    /// Namespaces whose budget exists, or may not be made.
    budgets: Mutex<HashSet<String>>,
}

impl Tracking {
    /// Forgets a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.suspects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
        self.looked_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }
}

/// One look at a pod that is not on its way out.
pub(super) async fn track(
    context: &Context,
    pod: &Pod,
    view: &PodView,
    now: Timestamp,
) -> Result<Action, Error> {
    let resync = context.resync(&view.uid);
    if view.is_stopped() || view.phase != PodPhase::Running {
        let wait = super::until(view.deadline(), now).map_or(resync, |wait| wait.min(resync));
        return Ok(Action::requeue(wait));
    }
    let probing = pool_of(pod)
        .and_then(|pool| context.ends.failing(&pool))
        .is_some();
    // A runner needs some seconds to register, and many have finished their job by then: no call and no write for those.
    let age = listing_age(view.deadlines.offline.min(view.deadlines.registration));
    let patience = if probing {
        PROBE_POLL
    } else {
        REGISTRATION_POLL.min(age)
    };
    let first = view
        .ready_since
        .and_then(|since| since.checked_add(patience).ok());
    if first.is_none_or(|first| now < first) {
        return Ok(Action::requeue(
            super::until(first, now).unwrap_or(Duration::from_secs(10)),
        ));
    }

    let known = is_busy(context, pod, view, now).await;
    let busy = known.protects();
    let changes = changes_protection(pod, view, busy);
    let mut marks = if changes {
        protection(pod, busy)
    } else {
        Map::new()
    };
    if changes && busy == Some(true) {
        ensure_budget(context, &pod.namespace().unwrap_or_default()).await;
    }
    let mut wait = resync;
    if view.runner_id.is_none() {
        match listed(context, pod, view, probing || age < LISTING_AGE, now).await? {
            Some(found) => {
                marks.insert(
                    keys::ANNOTATION_RUNNER_ID.to_owned(),
                    Value::String(found.id.to_string()),
                );
                if let Some(pool) = pool_of(pod) {
                    context.ends.note_success(&pool);
                }
            }
            None => wait = wait.min(Duration::try_from(patience).unwrap_or(Duration::from_secs(10))),
        }
    } else if known.vouches() {
        // No call: the end of its job is noticed no later than by a look.
        let interval = look_interval(view.deadlines.offline).max(SignedDuration::from_secs(1));
        wait = wait.min(Duration::try_from(interval).unwrap_or(resync));
    } else {
        wait = wait.min(check_liveness(context, pod, view, now).await?);
    }
    if changes || !marks.is_empty() {
        protect(context, pod, marks, busy).await?;
    }
    Ok(Action::requeue(wait))
}

/// Whether the runner has a job: by the ledger, and where none is kept by GitHub's cached listing.
async fn is_busy(context: &Context, pod: &Pod, view: &PodView, now: Timestamp) -> Busy {
    let by_ledger = pool_of(pod).and_then(|pool| ledger_says_busy(context, &pool, &view.runner_name, now));
    if by_ledger.is_some() || view.runner_id.is_none() {
        return Busy {
            by_ledger,
            by_listing: None,
        };
    }
    let runner = listed(context, pod, view, false, now).await.ok().flatten();
    Busy {
        by_ledger,
        by_listing: runner.map(|runner| runner.busy),
    }
}

/// The runner in GitHub's listing: the cached one, or while the pool fails a fresh one, so that a healed pool is noticed at once.
async fn listed(
    context: &Context,
    pod: &Pod,
    view: &PodView,
    fresh: bool,
    now: Timestamp,
) -> Result<Option<RunnerInfo>, Error> {
    let (github, scope) = access(context, pod, now).await?;
    let what = format!("list the runners of {scope}");
    let runners = if fresh {
        github.list_runners_fresh(&scope).await
    } else {
        github.list_runners(&scope).await
    };
    let runners = runners.map_err(Error::github(what, now))?;
    Ok(runners
        .iter()
        .find(|runner| runner.name == view.runner_name)
        .cloned())
}

/// Whether the ledgers of this pool's autoscalers say that the runner has a job.
fn ledger_says_busy(context: &Context, pool: &Pool, runner: &str, now: Timestamp) -> Option<bool> {
    let autoscalers = context.caches.autoscalers.all();
    let of_pool = autoscalers
        .iter()
        .filter(|autoscaler| super::refers_to(autoscaler, pool));
    let ledgers = of_pool.map(|autoscaler| {
        let ledger = autoscaler.spec.capacity_reservations.as_deref();
        ledger.unwrap_or_default()
    });
    ledgers_say(ledgers, runner, now)
}

/// Whether the pod's protection is not what it should be.
fn changes_protection(pod: &Pod, view: &PodView, busy: Option<bool>) -> bool {
    let labelled = pod.labels().contains_key(keys::LABEL_BUSY);
    match busy {
        Some(true) => !labelled && !view.is_stopped(),
        Some(false) => labelled,
        None => false,
    }
}

/// The annotations that change with the pod's being busy. What a user set in the template is left alone.
fn protection(pod: &Pod, busy: Option<bool>) -> Map<String, Value> {
    let mut marks = Map::new();
    let known = pod.annotations();
    if busy == Some(true) {
        let missing = PROTECTION.iter().filter(|(key, _)| !known.contains_key(*key));
        let added: Vec<&str> = missing.clone().map(|(key, _)| *key).collect();
        marks.insert(
            keys::ANNOTATION_ADDED_WHILE_BUSY.to_owned(),
            Value::String(added.join(",")),
        );
        marks.extend(missing.map(|(key, value)| ((*key).to_owned(), Value::String((*value).to_owned()))));
    } else if let Some(added) = known.get(keys::ANNOTATION_ADDED_WHILE_BUSY) {
        let ours = PROTECTION
            .iter()
            .map(|(key, _)| *key)
            .filter(|key| added.split(',').any(|one| one == *key));
        marks.extend(ours.map(|key| (key.to_owned(), Value::Null)));
        marks.insert(keys::ANNOTATION_ADDED_WHILE_BUSY.to_owned(), Value::Null);
    }
    marks
}

async fn protect(
    context: &Context,
    pod: &Pod,
    annotations: Map<String, Value>,
    busy: Option<bool>,
) -> Result<(), Error> {
    let labelled = pod.labels().contains_key(keys::LABEL_BUSY);
    let mut metadata = Map::new();
    metadata.insert("uid".to_owned(), json!(pod.uid()));
    metadata.insert("annotations".to_owned(), Value::Object(annotations));
    match busy {
        Some(true) if !labelled => {
            metadata.insert("labels".to_owned(), json!({keys::LABEL_BUSY: "true"}));
        }
        Some(false) if labelled => {
            metadata.insert("labels".to_owned(), json!({keys::LABEL_BUSY: null}));
        }
        _ => {}
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    match api
        .patch_metadata(&pod.name_any(), &PatchParams::default(), &patch)
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::apply("mark the pod")(error)),
    }
}

/// Makes the namespace's budget once. Without the permission (ARC's own `ClusterRole`) the annotations protect alone.
async fn ensure_budget(context: &Context, namespace: &str) {
    if !context
        .tracking
        .budgets
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(namespace.to_owned())
    {
        return;
    }
    let api: Api<PodDisruptionBudget> = Api::namespaced(context.client.clone(), namespace);
    let labels = |key: &str, value: &str| Some([(key.to_owned(), value.to_owned())].into());
    let budget = PodDisruptionBudget {
        metadata: ObjectMeta {
            name: Some(keys::BUDGET_BUSY_RUNNERS.to_owned()),
            labels: labels("app.kubernetes.io/managed-by", "muster"),
            ..ObjectMeta::default()
        },
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(0)),
            selector: Some(LabelSelector {
                match_labels: labels(keys::LABEL_BUSY, "true"),
                match_expressions: None,
            }),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    };
    match api.create(&PostParams::default(), &budget).await {
        Ok(_) => tracing::info!(
            controller = COMPONENT,
            namespace,
            "Created the PodDisruptionBudget of busy runners."
        ),
        Err(error) if already_exists(&error) => {}
        Err(error) => {
            tracing::warn!(controller = COMPONENT, namespace, error = %muster_runtime::telemetry::chain(&error), "The PodDisruptionBudget of busy runners could not be made; their annotations protect them alone.");
        }
    }
}

/// A registered runner that GitHub lost, or that is offline without a job, is asked to go and replaced. Answers when to look again.
async fn check_liveness(
    context: &Context,
    pod: &Pod,
    view: &PodView,
    now: Timestamp,
) -> Result<Duration, Error> {
    let limit = view.deadlines.offline;
    let interval = look_interval(limit);
    let due = {
        let mut all = context
            .tracking
            .looked_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let suspect = context
            .tracking
            .suspects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&view.uid);
        let last = *all.entry(view.uid.clone()).or_insert(now);
        let due = last.checked_add(interval).unwrap_or(Timestamp::MAX);
        if now < due && !suspect {
            return Ok(super::until(Some(due), now).unwrap_or_default());
        }
        all.insert(view.uid.clone(), now);
        now.checked_add(interval).unwrap_or(Timestamp::MAX)
    };
    let fresh = listing_age(limit) < LISTING_AGE;
    let found = listed(context, pod, view, fresh, now).await?;
    let found = found.map(|runner| Listed {
        online: runner.status == "online",
        busy: runner.busy,
    });
    let since = context
        .tracking
        .suspects
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&view.uid)
        .copied();
    match assess(view, found, since, now) {
        Verdict::Fine => {
            context
                .tracking
                .suspects
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&view.uid);
            Ok(super::until(Some(due), now).unwrap_or_default())
        }
        Verdict::Suspect { since, until } => {
            context
                .tracking
                .suspects
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(view.uid.clone(), since);
            Ok(super::until(Some(until), now).unwrap_or_default())
        }
        Verdict::Ghost => {
            tracing::warn!(controller = COMPONENT, object = %super::key(pod), "GitHub has lost this runner; it is replaced.");
            context.metrics.failed("ghost");
            let note =
                "GitHub does not know this runner any more, or it is offline for too long; it is replaced.";
            context
                .recorder
                .record(pod, COMPONENT, Severity::Warning, "RunnerLost", note);
            let namespace = pod.namespace().unwrap_or_default();
            mark(
                context,
                pod,
                [(keys::ANNOTATION_UNREGISTRATION_REQUEST, now.to_string())],
            )
            .await?;
            let (key, value) = (keys::ANNOTATION_UNREGISTRATION_REQUEST, now.to_string());
            match pod.controller_owner() {
                Some(owner) if owner.kind == "Runner" => {
                    let api: Api<Runner> = Api::namespaced(context.client.clone(), &namespace);
                    annotate(&api, &owner.name, key, &value).await?;
                }
                Some(owner) if owner.kind == "StatefulSet" => {
                    let api: Api<StatefulSet> = Api::namespaced(context.client.clone(), &namespace);
                    annotate(&api, &owner.name, key, &value).await?;
                }
                _ => {}
            }
            Ok(Duration::from_secs(10))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(metadata: &Value) -> Pod {
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    #[test]
    fn what_the_template_says_about_evictions_outlives_the_job() {
        let (evict, disrupt) = (PROTECTION[0].0, PROTECTION[1].0);
        let idle = pod(&json!({"annotations": {evict: "false"}}));
        let marks = protection(&idle, Some(true));
        assert_eq!(
            Value::Object(marks),
            json!({disrupt: "true", "muster.dev/added-while-busy": disrupt})
        );
        let busy = pod(
            &json!({"annotations": {evict: "false", disrupt: "true", "muster.dev/added-while-busy": disrupt}}),
        );
        let marks = protection(&busy, Some(false));
        assert_eq!(
            Value::Object(marks),
            json!({disrupt: null, "muster.dev/added-while-busy": null})
        );
    }

    #[test]
    fn protection_follows_what_is_known() {
        let view = PodView {
            phase: PodPhase::Running,
            ..PodView::default()
        };
        let stopped = PodView {
            phase: PodPhase::Succeeded,
            ..view.clone()
        };
        let (plain, labelled) = (
            pod(&json!({})),
            pod(&json!({"labels": {keys::LABEL_BUSY: "true"}})),
        );
        for (pod, view, busy, changes) in [
            (&plain, &view, Some(true), true),
            (&plain, &stopped, Some(true), false),
            (&plain, &view, Some(false), false),
            (&plain, &view, None, false),
            (&labelled, &view, Some(true), false),
            (&labelled, &view, Some(false), true),
            (&labelled, &view, None, false),
        ] {
            assert_eq!(changes_protection(pod, view, busy), changes, "{busy:?}");
        }
    }
}
