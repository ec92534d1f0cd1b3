//! Ledgers whose entries vanished although none of our writers removed them: said on the autoscaler, and a reason to look at the
//! repositories concerned at once. What counts as vanished is decided in `core::autoscale::recovery::replaced`.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use kube::ResourceExt as _;
use muster_core::autoscale::recovery::{
    hot::RepositoryRef,
    replaced::{TOLD_FOR, Vanished, vanished},
};
use muster_crds::legacy::HorizontalRunnerAutoscaler;

use super::pools::Pools;
use crate::conditions::Verdict;

/// Type of the condition.
const LEDGER_REPLACED: &str = "LedgerReplaced";

/// What the ledgers were at the last look.
#[derive(Debug, Default)]
pub(super) struct Ledgers {
    /// By the autoscaler's UID.
    known: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    object: Arc<HorizontalRunnerAutoscaler>,
    lost: Option<Lost>,
}

/// What was lost last.
#[derive(Clone, Debug)]
struct Lost {
    at: Timestamp,
    what: Vanished,
}

impl Ledgers {
    /// Compares with the last look; answers the repositories of which entries have vanished since.
    pub(super) fn look(&mut self, pools: &Pools, now: Timestamp) -> Vec<RepositoryRef> {
        let mut news = Vec::new();
        let mut known = HashMap::with_capacity(pools.pools.len());
        for pool in &pools.pools {
            let uid = pool.object.uid().unwrap_or_default();
            let before = self.known.remove(&uid);
            let ledger_before = before
                .as_ref()
                .and_then(|known| known.object.spec.capacity_reservations.as_deref())
                .unwrap_or_default();
            let gone = match &before {
                Some(known) if Arc::ptr_eq(&known.object, &pool.object) => None,
                _ => vanished(ledger_before, pool.ledger(), now),
            };
            let lost_before = before
                .and_then(|known| known.lost)
                .filter(|lost| now.duration_since(lost.at) < TOLD_FOR);
            let lost = gone.map(|what| Lost { at: now, what });
            if let Some(lost) = &lost {
                tracing::warn!(
                    object = %pool.view.id,
                    entries = lost.what.entries,
                    "Entries have vanished from spec.capacityReservations: somebody has replaced the list. They are not restored; their repositories' queues are looked at now."
                );
                news.extend(lost.what.repositories.iter().cloned());
            }
            let lost = match (lost, lost_before) {
                (Some(mut lost), Some(before)) => {
                    lost.what.repositories.extend(before.what.repositories);
                    Some(lost)
                }
                (lost, before) => lost.or(before),
            };
            let object = Arc::clone(&pool.object);
            known.insert(uid, Known { object, lost });
        }
        self.known = known;
        news
    }

    /// The repositories of which this autoscaler has lost entries.
    pub(super) fn repositories(
        &self,
        autoscaler: &HorizontalRunnerAutoscaler,
    ) -> impl Iterator<Item = &RepositoryRef> {
        let lost = self.lost(autoscaler);
        lost.into_iter().flat_map(|lost| &lost.what.repositories)
    }

    fn lost(&self, autoscaler: &HorizontalRunnerAutoscaler) -> Option<&Lost> {
        let uid = autoscaler.metadata.uid.as_deref()?;
        self.known.get(uid)?.lost.as_ref()
    }

    /// What the autoscaler's condition shall say; `None` where it shall stay as it is: an earlier process has written it not long ago.
    pub(super) fn message(&self, autoscaler: &HorizontalRunnerAutoscaler, now: Timestamp) -> Option<String> {
        if let Some(lost) = self.lost(autoscaler) {
            let (entries, at) = (lost.what.entries, lost.at);
            return Some(format!(
                "{entries} entries vanished from spec.capacityReservations at {at:.0} although Muster had not removed them: somebody has replaced the list. They are not restored; jobs that GitHub still lists count again. Leave the field out of manifests and out of replaced or force-applied objects; minReplicas is for standing capacity."
            ));
        }
        let conditions = autoscaler
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref());
        let told = conditions
            .unwrap_or_default()
            .iter()
            .find(|condition| condition.type_ == LEDGER_REPLACED && condition.status == "True");
        match told {
            Some(told) if now.duration_since(told.last_transition_time.0) < TOLD_FOR => None,
            _ => Some(String::new()),
        }
    }
}

/// The condition with this message; without one nothing is wrong.
pub(super) fn verdict(message: &str) -> Verdict<'_> {
    Verdict {
        type_: LEDGER_REPLACED,
        status: !message.is_empty(),
        default: false,
        reason: if message.is_empty() {
            "Intact"
        } else {
            "EntriesVanished"
        },
        message,
    }
}
