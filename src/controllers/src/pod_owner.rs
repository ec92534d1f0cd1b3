//! Effects of the pod-owner plan, generic over the owner kind (91 B3). No decision is made here.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::Debug,
    sync::{Mutex, PoisonError},
};

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use muster_core::pods::{Plan, PodOwner, Served, Step, plan::SERVED_NONE};
use muster_crds::keys;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    context::Context,
    error::{Error, is_conflict, is_not_found},
};

/// Owners created at a time.
const CREATES: usize = 32;
/// A created owner that the cache does not show for this long is not waited for any more.
const EXPECTATION_LIMIT: SignedDuration = SignedDuration::from_secs(60);

#[derive(Debug, Default)]
struct Expected {
    created: HashMap<String, HashMap<String, Timestamp>>,
    listed: HashSet<String>,
}

/// Owners that this process created and the cache may not show yet (91 B7: read your writes).
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    state: Mutex<Expected>,
}

impl Expectations {
    /// Owners of the set that exist although the cache lacks them.
    pub(crate) fn missing(&self, set: &str, cached: &BTreeSet<String>, now: Timestamp) -> Vec<String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(created) = state.created.get_mut(set) else {
            return Vec::new();
        };
        created.retain(|name, at| !cached.contains(name) && now.duration_since(*at) < EXPECTATION_LIMIT);
        created.keys().cloned().collect()
    }

    /// True until the owners of the set were read from the API server once: what another process created just before may not be in the cache yet.
    pub(crate) fn must_list(&self, set: &str) -> bool {
        !self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .listed
            .contains(set)
    }

    pub(crate) fn listed(&self, set: &str) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .listed
            .insert(set.to_owned());
    }

    /// A set that this process created has no owners by others.
    pub(crate) fn forget(&self, set: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.created.remove(set);
        state.listed.remove(set);
    }

    fn add(&self, set: &str, name: String, now: Timestamp) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.created.entry(set.to_owned()).or_default().insert(name, now);
    }
}

/// What annotation `muster.dev/served` says; `None` when it is missing (the set is upstream's).
pub(crate) fn served<S: Resource>(set: &S) -> Option<Served> {
    let text = set.meta().annotations.as_ref()?.get(keys::ANNOTATION_SERVED)?;
    Served::read(text)
}

/// The annotation of a new set.
pub(crate) fn served_none() -> (String, String) {
    (keys::ANNOTATION_SERVED.to_owned(), SERVED_NONE.to_owned())
}

/// The record of a new set.
pub(crate) const fn never_served() -> Served {
    Served {
        effective_time: None,
        at: Timestamp::UNIX_EPOCH,
    }
}

/// Carries out the steps of a plan for `set`. `new` are the owners that it creates: where fewer can be made now than the plan asks for, the next pass asks again.
///
/// # Errors
/// The first step that failed ends the pass; the next reconcile plans anew from fresh facts.
pub(crate) async fn apply<S, O>(
    context: &Context,
    set: &S,
    mut new: Vec<O>,
    plan: &Plan,
    now: Timestamp,
) -> Result<(), Error>
where
    S: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    O: PodOwner + Serialize + DeserializeOwned + Debug,
{
    let namespace = set.meta().namespace.clone().unwrap_or_default();
    let owners: Api<O> = Api::namespaced(context.client.clone(), &namespace);
    let kind = O::kind(&());
    for step in &plan.steps {
        match step {
            Step::Create { .. } => create(context, set, &owners, std::mem::take(&mut new), now).await?,
            Step::RecordServed { effective_time } => {
                let value = format!("{effective_time}@{now}");
                let sets: Api<S> = Api::namespaced(context.client.clone(), &namespace);
                annotate(&sets, &set.name_any(), keys::ANNOTATION_SERVED, &value).await?;
            }
            Step::RequestUnregistration { owner, pods } => {
                let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
                for pod in pods {
                    annotate(
                        &api,
                        pod,
                        keys::ANNOTATION_UNREGISTRATION_REQUEST,
                        &now.to_string(),
                    )
                    .await?;
                }
                annotate(
                    &owners,
                    owner,
                    keys::ANNOTATION_UNREGISTRATION_REQUEST,
                    &now.to_string(),
                )
                .await?;
                tracing::info!(object = %format_args!("{namespace}/{owner}"), kind = %kind, "Asked a surplus runner to unregister.");
            }
            Step::Delete { owner, uid, why } => {
                delete(&owners, owner, uid).await?;
                tracing::debug!(object = %format_args!("{namespace}/{owner}"), kind = %kind, reason = ?why, "Deleted.");
            }
        }
    }
    Ok(())
}

async fn create<S, O>(
    context: &Context,
    set: &S,
    owners: &Api<O>,
    new: Vec<O>,
    now: Timestamp,
) -> Result<(), Error>
where
    S: Resource<DynamicType = ()>,
    O: PodOwner + Serialize + DeserializeOwned + Debug,
{
    let uid = set.uid().unwrap_or_default();
    let name = set.name_any();
    let params = PostParams {
        field_manager: Some(keys::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let params = &params;
    let mut created = futures::stream::iter(new)
        .map(|owner| async move { owners.create(params, &owner).await })
        .buffer_unordered(CREATES);
    let mut first_error = None;
    let mut done = 0_usize;
    while let Some(result) = created.next().await {
        match result {
            Ok(owner) => {
                done += 1;
                context.expectations.add(&uid, owner.name_any(), now);
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    if done > 0 {
        tracing::info!(object = %format_args!("{}/{name}", set.namespace().unwrap_or_default()), kind = %O::kind(&()), replicas = done, "Created.");
    }
    first_error.map_or(Ok(()), |error| {
        Err(Error::apply(format!("create a {} of {name}", O::kind(&())))(
            error,
        ))
    })
}

/// Sets one annotation. An object that is gone is none of our business any more.
pub(crate) async fn annotate<K>(api: &Api<K>, name: &str, key: &str, value: &str) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let patch = json!({"metadata": {"annotations": {key: value}}});
    match api
        .patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::apply(format!("set annotation {key} of {name}"))(error)),
    }
}

/// Deletes the object that this decision was about, and no other of its name.
pub(crate) async fn delete<K>(api: &Api<K>, name: &str, uid: &str) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::background()
    };
    match api.delete(name, &params).await {
        Ok(_) => Ok(()),
        // Gone, or another object by that name: what was decided about is no more.
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(Error::apply(format!("delete {name}"))(error)),
    }
}
