//! Writing what a look found into ledgers.

use std::{collections::BTreeMap, time::Duration};

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use muster_core::{
    autoscale::{
        recovery::queue::{Change, Why, fold},
        reservation::diff_patch,
    },
    explain::{Code, notice},
    routing::AutoscalerId,
};
use muster_crds::{keys::FIELD_MANAGER, legacy::HorizontalRunnerAutoscaler};
use muster_runtime::{drive::Class, telemetry::chain};
use serde_json::json;

use super::pools::Pools;
use crate::{
    context::Context,
    error::{is_not_found, kube_class},
};

const COMPONENT: &str = "queue-reconciliation";
/// The intake writes too: after so many lost races the next look tries again.
const TRIES: u32 = 6;

/// Writes the changes, autoscaler by autoscaler; answers which of them had an effect. A failure is logged, and the next look finds the
/// same difference again.
pub(super) async fn write(context: &Context, pools: &Pools, changes: &[Change]) -> Vec<Why> {
    let mut by_autoscaler: BTreeMap<&AutoscalerId, Vec<&Change>> = BTreeMap::new();
    for change in changes {
        by_autoscaler.entry(&change.autoscaler).or_default().push(change);
    }
    let mut done = Vec::new();
    for (id, changes) in by_autoscaler {
        let Some(view) = pools
            .pools
            .iter()
            .map(|pool| &pool.view)
            .find(|view| view.id == *id)
        else {
            continue;
        };
        match write_one(context, id, &changes, view.duration).await {
            Ok(effects) => {
                let effective = changes.iter().zip(effects).filter(|(_, effect)| *effect);
                let effective: Vec<&Change> = effective.map(|(change, _)| *change).collect();
                tell(context, pools, id, &effective);
                let whys: Vec<Why> = effective.iter().map(|change| change.why).collect();
                if !whys.is_empty() {
                    tracing::info!(object = %id, changes = ?summary(&whys), "Mended the ledger after GitHub's queue.");
                }
                done.extend(whys);
            }
            Err(error) => tracing::warn!(
                object = %id,
                error = %chain(&error),
                "Could not mend the ledger after GitHub's queue; the next look tries again."
            ),
        }
    }
    done
}

/// Says which jobs no webhook had told of: who asks why a job was late finds it there.
fn tell(context: &Context, pools: &Pools, id: &AutoscalerId, changes: &[&Change]) {
    let Some(pool) = pools.pools.iter().find(|pool| pool.view.id == *id) else {
        return;
    };
    for change in changes.iter().filter(|change| change.why == Why::Missing) {
        let key = &change.event.key;
        let note = format!(
            "Job {key} is in GitHub's queue and no webhook had told of it: queue reconciliation counts it"
        );
        let annotations = notice::annotations(key, "", &[]);
        context.recorder.record_job(
            &*pool.object,
            COMPONENT,
            (Code::WebhookMissed, &note),
            annotations,
        );
    }
}

async fn write_one(
    context: &Context,
    id: &AutoscalerId,
    changes: &[&Change],
    duration: jiff::SignedDuration,
) -> Result<Vec<bool>, kube::Error> {
    let api: Api<HorizontalRunnerAutoscaler> = Api::namespaced(context.client.clone(), &id.namespace);
    let mut pause = Duration::from_millis(20);
    let mut tries = 0;
    loop {
        tries += 1;
        // From the API server, not from the cache: what webhooks have just written must not be mended.
        let object = match api.get(&id.name).await {
            Ok(object) => object,
            Err(error) if is_not_found(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let base = object.spec.capacity_reservations.as_deref();
        let now = context.clock.now();
        let (ledger, effects) = fold(base.unwrap_or_default(), changes, duration, now);
        let generation = object.metadata.generation.unwrap_or(0);
        let mut operations = diff_patch(base, &ledger, generation);
        match operations.first().map(|first| &first["op"]) {
            None => return Ok(effects),
            Some(op) if op == "test" => {}
            // The webhook may come this very moment: nothing hurries here, and one entry per job is better than two.
            Some(_) => operations.insert(
                0,
                json!({"op": "test", "path": "/metadata/generation", "value": generation}),
            ),
        }
        let patch: kube::core::params::Patch<()> =
            Patch::Json(serde_json::from_value(operations.into()).map_err(kube::Error::SerdeError)?);
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api.patch_metadata(&id.name, &params, &patch).await {
            Ok(_) => return Ok(effects),
            Err(error) if is_not_found(&error) => return Ok(Vec::new()),
            Err(error) if kube_class(&error) == Class::Conflict && tries < TRIES => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(error) => return Err(error),
        }
    }
}

/// How many changes there were of each kind.
fn summary(whys: &[Why]) -> BTreeMap<&'static str, usize> {
    let mut summary = BTreeMap::new();
    for why in whys {
        *summary.entry(why.as_str()).or_default() += 1;
    }
    summary
}
