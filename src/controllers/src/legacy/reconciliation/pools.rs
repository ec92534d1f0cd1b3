//! The autoscalers with their ledgers, as matching wants them.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use muster_core::{
    autoscale::{demand::DemandMerge, recovery::queue::LedgerView},
    routing::{AutoscalerInput, AutoscalerView, Index, TargetKeys},
    target::TargetId,
};
use muster_crds::legacy::{
    CapacityReservation, GitHubApiCredentialsFrom, HorizontalRunnerAutoscaler, RunnerConfig,
};

use super::super::target::Target;
use crate::context::Context;

/// A login: a Secret of a namespace, or the process-wide one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Credential(pub(super) Option<(String, String)>);

impl Credential {
    fn of<'a>(namespace: &str, from: impl IntoIterator<Item = Option<&'a GitHubApiCredentialsFrom>>) -> Self {
        let name = from
            .into_iter()
            .flatten()
            .filter_map(|from| from.secret_ref.as_ref())
            .map(|secret| secret.name.as_str())
            .find(|name| !name.is_empty());
        Self(name.map(|name| (namespace.to_owned(), name.to_owned())))
    }
}

/// One autoscaler.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    pub(super) object: Arc<HorizontalRunnerAutoscaler>,
    pub(super) view: Arc<AutoscalerView>,
    /// Repositories (`owner/name`) that its target and metrics name.
    pub(super) names: Vec<String>,
    pub(super) credential: Credential,
    /// Its metrics are added to the ledger.
    pub(super) is_added: bool,
}

impl Pool {
    /// The autoscaler's conditions as they stand.
    pub(super) fn conditions(&self) -> &[Condition] {
        let status = self.object.status.as_ref();
        status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default()
    }

    pub(super) fn ledger(&self) -> &[CapacityReservation] {
        self.object
            .spec
            .capacity_reservations
            .as_deref()
            .unwrap_or_default()
    }
}

/// All autoscalers at one moment.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pub(super) pools: Vec<Pool>,
}

impl Pools {
    pub(super) fn gather(context: &Context) -> Self {
        let common = &context.settings.common_runner_labels;
        let pools = context.caches.autoscalers.all().into_iter();
        Self {
            pools: pools.map(|object| pool(context, object, common)).collect(),
        }
    }

    pub(super) fn ledgers(&self) -> Vec<LedgerView<'_>> {
        self.pools
            .iter()
            .map(|pool| LedgerView {
                view: Arc::clone(&pool.view),
                entries: pool.ledger(),
                is_added: pool.is_added,
            })
            .collect()
    }

    /// The autoscalers for matching, without the jobs that they hold.
    pub(super) fn index(&self) -> Index {
        let mut index = Index::default();
        for pool in &self.pools {
            index.upsert(AutoscalerView::clone(&pool.view));
        }
        index
    }
}

fn pool(context: &Context, object: Arc<HorizontalRunnerAutoscaler>, common: &[String]) -> Pool {
    let namespace = object.namespace().unwrap_or_default();
    let config = target(context, &namespace, &object);
    let keys = config.as_ref().map(|config| TargetKeys {
        repository: config.repository.clone(),
        organization: config.organization.clone(),
        enterprise: config.enterprise.clone(),
        group: config.group.clone(),
    });
    let labels = config
        .as_ref()
        .and_then(|config| config.labels.clone())
        .unwrap_or_default();
    let view = AutoscalerView::new(
        &AutoscalerInput {
            namespace: &namespace,
            name: object.metadata.name.as_deref().unwrap_or_default(),
            uid: object.metadata.uid.as_deref().unwrap_or_default(),
            created_at: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
            is_deleting: object.metadata.deletion_timestamp.is_some(),
            target_ref: object.spec.scale_target_ref.as_ref(),
            triggers: object.spec.scale_up_triggers.as_deref().unwrap_or_default(),
            target: keys.as_ref().map(|keys| (keys, labels.as_slice())),
        },
        common,
    );
    let credential = Credential::of(
        &namespace,
        [
            object.spec.github_api_credentials_from.as_ref(),
            config
                .as_ref()
                .and_then(|config| config.github_api_credentials_from.as_ref()),
        ],
    );
    // An autoscaler that counts no jobs makes nothing hot.
    let names = if view.not_considered.is_none() {
        names(&object, keys.as_ref())
    } else {
        Vec::new()
    };
    let metrics = object.spec.metrics.as_deref().unwrap_or_default();
    let is_added = !metrics.is_empty() && context.settings.demand_merge == DemandMerge::Sum;
    Pool {
        object,
        view: Arc::new(view),
        names,
        credential,
        is_added,
    }
}

/// What the runners of the target are configured with.
fn target(
    context: &Context,
    namespace: &str,
    autoscaler: &HorizontalRunnerAutoscaler,
) -> Option<RunnerConfig> {
    let id = TargetId::of(namespace, autoscaler.spec.scale_target_ref.as_ref())?;
    Some(Target::find(context, &id)?.config().clone())
}

/// `owner/name` of the target's own repository and of those that metrics name.
fn names(autoscaler: &HorizontalRunnerAutoscaler, keys: Option<&TargetKeys>) -> Vec<String> {
    let Some(keys) = keys else { return Vec::new() };
    let own = keys.repository.clone().filter(|name| !name.is_empty());
    let owner = own
        .as_deref()
        .and_then(|name| name.split_once('/'))
        .map(|(owner, _)| owner.to_owned())
        .or_else(|| keys.organization.clone())
        .filter(|owner| !owner.is_empty());
    let of_metrics = autoscaler
        .spec
        .metrics
        .iter()
        .flatten()
        .flat_map(|metric| metric.repository_names.iter().flatten())
        .filter_map(|name| match name.split_once('/') {
            Some(_) => Some(name.clone()),
            None => owner.as_ref().map(|owner| format!("{owner}/{name}")),
        });
    own.iter().cloned().chain(of_metrics).collect()
}

#[cfg(test)]
mod tests {
    use muster_crds::legacy::{HorizontalRunnerAutoscalerSpec, MetricSpec};

    use super::*;

    #[test]
    fn targets_and_metrics_name_repositories() {
        let autoscaler = |names: &[&str]| HorizontalRunnerAutoscaler {
            spec: HorizontalRunnerAutoscalerSpec {
                metrics: Some(vec![MetricSpec {
                    repository_names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
                    ..MetricSpec::default()
                }]),
                ..HorizontalRunnerAutoscalerSpec::default()
            },
            ..HorizontalRunnerAutoscaler::default()
        };
        let keys = |repository: Option<&str>, organization: Option<&str>| TargetKeys {
            repository: repository.map(str::to_owned),
            organization: organization.map(str::to_owned),
            ..TargetKeys::default()
        };
        for (names_of, keys, expected) in [
            (&["web"][..], keys(None, Some("acme")), &["acme/web"][..]),
            (&["web"], keys(Some("acme/api"), None), &["acme/api", "acme/web"]),
            (&["other/web"], keys(None, Some("acme")), &["other/web"]),
            (&["web"], keys(None, None), &[]),
        ] {
            assert_eq!(names(&autoscaler(names_of), Some(&keys)), expected);
        }
        assert!(names(&autoscaler(&["web"]), None).is_empty());
    }
}
