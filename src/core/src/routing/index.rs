//! Autoscalers by what an event knows of them.

use std::collections::HashMap;
use std::sync::Arc;

use super::groups::Tier;
use super::{AutoscalerId, AutoscalerView, Place};
use crate::autoscale::reservation::JobKey;

/// Place of an autoscaler in the table; small, because one stands beside every job.
type Slot = usize;

/// Autoscalers by scope key, by the jobs that they hold and by the name of their target.
#[derive(Clone, Debug, Default)]
pub struct Index {
    slots: Vec<Option<Arc<AutoscalerView>>>,
    free: Vec<Slot>,
    ids: HashMap<AutoscalerId, Slot>,
    by_key: HashMap<Box<str>, Vec<Slot>>,
    by_target: HashMap<Box<str>, Vec<Slot>>,
    held: HashMap<JobKey, Holders>,
    /// Autoscalers with triggers for other events than jobs: where there are none, such an event costs nothing.
    with_event_triggers: usize,
}

/// Nearly every job has one holder.
#[derive(Clone, Debug)]
enum Holders {
    One(Slot),
    Many(Vec<Slot>),
}

impl Holders {
    fn as_slice(&self) -> &[Slot] {
        match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Many(slots) => slots,
        }
    }
}

impl Index {
    /// Adds an autoscaler or replaces what is known of it; the jobs that it holds stay.
    pub fn upsert(&mut self, view: AutoscalerView) {
        let slot = if let Some(slot) = self.ids.get(&view.id).copied() {
            self.unlist(slot);
            slot
        } else {
            let slot = self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                self.slots.len() - 1
            });
            self.ids.insert(view.id.clone(), slot);
            slot
        };
        for key in view.keys.iter().map(|key| bucket(key)) {
            let slots = self.by_key.entry(key.into()).or_default();
            if !slots.contains(&slot) {
                slots.push(slot);
            }
        }
        if let Some(name) = &view.target_name {
            self.by_target.entry(name.as_str().into()).or_default().push(slot);
        }
        self.with_event_triggers += usize::from(!view.event_triggers.is_empty());
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Arc::new(view));
        }
    }

    /// Forgets an autoscaler and the jobs that it holds.
    pub fn remove(&mut self, id: &AutoscalerId) {
        let Some(slot) = self.ids.remove(id) else { return };
        self.unlist(slot);
        if let Some(place) = self.slots.get_mut(slot) {
            *place = None;
        }
        self.held.retain(|_, holders| drop_holder(holders, slot));
        self.free.push(slot);
    }

    /// Notes that an autoscaler's ledger has an entry of a job.
    pub fn hold(&mut self, id: &AutoscalerId, key: JobKey) {
        let Some(&slot) = self.ids.get(id) else { return };
        self.held
            .entry(key)
            .and_modify(|holders| {
                if !holders.as_slice().contains(&slot) {
                    let mut slots = holders.as_slice().to_vec();
                    slots.push(slot);
                    *holders = Holders::Many(slots);
                }
            })
            .or_insert(Holders::One(slot));
    }

    /// Notes that an autoscaler's ledger has no entry of a job any more.
    pub fn release(&mut self, id: &AutoscalerId, key: &JobKey) {
        let Some(&slot) = self.ids.get(id) else { return };
        if let Some(holders) = self.held.get_mut(key)
            && !drop_holder(holders, slot)
        {
            self.held.remove(key);
        }
    }

    /// What is known of an autoscaler.
    pub fn get(&self, id: &AutoscalerId) -> Option<&Arc<AutoscalerView>> {
        self.view(*self.ids.get(id)?)
    }

    /// All autoscalers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<AutoscalerView>> {
        self.slots.iter().flatten()
    }

    /// Number of autoscalers.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True when there is no autoscaler.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of jobs that somebody holds.
    pub fn held_jobs(&self) -> usize {
        self.held.len()
    }

    /// Autoscalers whose ledgers have an entry of the job.
    pub fn holders(&self, key: &JobKey) -> impl Iterator<Item = &Arc<AutoscalerView>> {
        self.views(self.held.get(key).map(Holders::as_slice))
    }

    /// Autoscalers whose target's name and `-` begin a runner's name.
    pub(super) fn owners_of_runner<'i>(
        &'i self,
        runner: &'i str,
    ) -> impl Iterator<Item = &'i Arc<AutoscalerView>> {
        runner
            .match_indices('-')
            .filter_map(|(at, _)| runner.get(..at))
            .flat_map(|prefix| self.views(self.by_target.get(prefix).map(Vec::as_slice)))
    }

    /// True when an autoscaler has a trigger for other events than jobs.
    pub fn has_event_triggers(&self) -> bool {
        self.with_event_triggers > 0
    }

    /// The candidates of an event with the group of each (empty outside of groups), key by key in part 03's order:
    /// repository, organization, enterprise, the organization's groups, the enterprise's groups. A user's
    /// repository has only its own.
    pub(super) fn tiers<'i>(
        &'i self,
        place: &Place<'_>,
    ) -> impl Iterator<Item = (Tier, impl Iterator<Item = (&'i Arc<AutoscalerView>, &'i str)>)> {
        let owner = place.owner.to_lowercase();
        let repository = format!("{owner}/{}", place.repository.to_lowercase());
        let enterprise = place
            .enterprise
            .filter(|slug| !slug.is_empty() && !place.owner_is_user)
            .map(|slug| format!("enterprises/{}", slug.to_lowercase()));
        let owner = (!place.owner_is_user && !owner.is_empty()).then_some(owner);
        let groups = |scope: &Option<String>| scope.as_ref().map(|scope| format!("{scope}{GROUPS}"));
        let keys = [
            (Tier::Repository, Some(repository)),
            (Tier::Organization, owner.clone()),
            (Tier::Enterprise, enterprise.clone()),
            (Tier::OrganizationGroups, groups(&owner)),
            (Tier::EnterpriseGroups, groups(&enterprise)),
        ];
        keys.into_iter().filter_map(move |(tier, key)| {
            let key = key?;
            let views = self.views(self.by_key.get(key.as_str()).map(Vec::as_slice));
            let with_group = views.map(move |view| {
                let group = if tier.is_grouped() {
                    view.keys.iter().find_map(|own| own.strip_prefix(key.as_str()))
                } else {
                    None
                };
                (view, group.unwrap_or_default())
            });
            Some((tier, with_group))
        })
    }

    fn views<'i>(&'i self, slots: Option<&'i [Slot]>) -> impl Iterator<Item = &'i Arc<AutoscalerView>> {
        slots
            .unwrap_or_default()
            .iter()
            .filter_map(|slot| self.view(*slot))
    }

    fn view(&self, slot: Slot) -> Option<&Arc<AutoscalerView>> {
        self.slots.get(slot)?.as_ref()
    }

    /// Takes an autoscaler out of the lookups by key and target.
    fn unlist(&mut self, slot: Slot) {
        let Some(view) = self.view(slot).cloned() else {
            return;
        };
        for key in view.keys.iter().map(|key| bucket(key)) {
            drop_slot(&mut self.by_key, key, slot);
        }
        if let Some(name) = &view.target_name {
            drop_slot(&mut self.by_target, name, slot);
        }
        self.with_event_triggers -= usize::from(!view.event_triggers.is_empty());
    }
}

/// All groups of a scope are looked up together: which of them a repository may use is not in the event.
const GROUPS: &str = "/group/";

fn bucket(key: &str) -> &str {
    key.find(GROUPS)
        .and_then(|at| key.get(..at + GROUPS.len()))
        .unwrap_or(key)
}

fn drop_slot(map: &mut HashMap<Box<str>, Vec<Slot>>, key: &str, slot: Slot) {
    if let Some(slots) = map.get_mut(key) {
        slots.retain(|other| *other != slot);
        if slots.is_empty() {
            map.remove(key);
        }
    }
}

/// False when nobody is left.
fn drop_holder(holders: &mut Holders, slot: Slot) -> bool {
    match holders {
        Holders::One(one) => *one != slot,
        Holders::Many(slots) => {
            slots.retain(|other| *other != slot);
            if let [one] = slots.as_slice() {
                *holders = Holders::One(*one);
                return true;
            }
            !slots.is_empty()
        }
    }
}
