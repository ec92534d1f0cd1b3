//! Volumes, claims and StatefulSets as Kubernetes has them, with processes that die between two writes, caches that lag, and a binder that takes its
//! time: no volume is in use twice, and none leaks (90 PAIN-14).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{
    ClaimWant, Holder, VolumeView,
    allocate::{Input, allocate},
    claim::{self, ClaimView},
    keep::{Fate, Limits, fate},
    node::PodWant,
};
use crate::pods::stateful_set::claim_name;

const TEMPLATE: &str = "cache";

#[derive(Clone, Debug, Default)]
struct Volume {
    view: VolumeView,
    version: u64,
    /// Claims that have used it, in order.
    users: Vec<String>,
}

#[derive(Debug, Default)]
struct World {
    now: Timestamp,
    volumes: BTreeMap<String, Volume>,
    /// Claims, and the volume that each is bound to.
    claims: BTreeMap<String, Option<String>>,
    owners: BTreeSet<String>,
    /// StatefulSets whose pod stands still, which may be gone themselves.
    pods: BTreeSet<String>,
    made: usize,
    version: u64,
    most: usize,
}

fn want() -> ClaimWant {
    ClaimWant {
        template: TEMPLATE.to_owned(),
        storage: 1,
        volume_mode: "Filesystem".to_owned(),
        ..ClaimWant::default()
    }
}

impl World {
    fn touch(&mut self, name: &str) -> Option<&mut Volume> {
        self.version += 1;
        let (version, now) = (self.version, self.now);
        let volume = self.volumes.get_mut(name)?;
        volume.version = version;
        volume.view.resource_version = version.to_string();
        volume.view.since = Some(now);
        Some(volume)
    }

    /// What a cache shows: volumes of some moments ago, claims and owners as they are now.
    fn free(&self, cache: &BTreeMap<String, Volume>) -> Vec<VolumeView> {
        let mut claims: BTreeSet<String> = self.claims.keys().cloned().collect();
        claims.extend(self.owners.iter().map(|owner| claim_name(TEMPLATE, owner, 0)));
        let views = cache.values().map(|volume| volume.view.clone());
        views.filter(|view| view.is_free(&claims)).collect()
    }

    /// Makes runners; the process dies after so many writes.
    fn create(&mut self, count: usize, cache: &BTreeMap<String, Volume>, mut writes: usize) {
        let free = self.free(cache);
        let (templates, pod) = ([want()], PodWant::default());
        let allocation = allocate(&Input {
            count,
            templates: &templates,
            free: &free,
            freeing: &[],
            pod: &pod,
            nodes: None,
            patience: SignedDuration::ZERO,
            now: self.now,
        });
        for bundle in allocation.bundles {
            self.made += 1;
            let name = format!("set-{:05}", self.made);
            let mut refused = false;
            for (template, volume) in bundle {
                if writes == 0 {
                    return;
                }
                writes -= 1;
                refused |= !self.promise(volume, &claim_name(template, &name, 0));
            }
            if refused {
                continue;
            }
            if writes == 0 {
                return;
            }
            writes -= 1;
            self.owners.insert(name.clone());
            self.pods.insert(name);
            self.most = self.most.max(self.standing());
        }
    }

    fn standing(&self) -> usize {
        let all: BTreeSet<&String> = self.owners.iter().chain(&self.pods).collect();
        let of_claims = self.claims.len();
        all.len().max(of_claims)
    }

    /// The API server takes the write only for the version that was read.
    fn promise(&mut self, seen: &VolumeView, claim: &str) -> bool {
        let current = self
            .volumes
            .get(&seen.name)
            .map(|volume| volume.view.resource_version.clone());
        if current.as_ref() != Some(&seen.resource_version) {
            return false;
        }
        if let Some(volume) = self.touch(&seen.name) {
            volume.view.holder = Holder::Promised(claim.to_owned());
        }
        true
    }

    /// The StatefulSet controller makes a claim, and Kubernetes binds it: to the volume that was promised, else to a new one.
    fn bind(&mut self, index: usize) {
        let Some(owner) = pick(&self.pods, index) else {
            return;
        };
        let claim = claim_name(TEMPLATE, &owner, 0);
        if self.claims.get(&claim).is_some_and(Option::is_some) {
            return;
        }
        let promised = self
            .volumes
            .iter()
            .find(|(_, volume)| volume.view.holder == Holder::Promised(claim.clone()))
            .map(|(name, _)| name.clone());
        let name = promised.unwrap_or_else(|| {
            self.made += 1;
            let name = format!("pv-{}", self.made);
            let view = VolumeView {
                name: name.clone(),
                template: TEMPLATE.to_owned(),
                capacity: 1,
                volume_mode: "Filesystem".to_owned(),
                ..VolumeView::default()
            };
            self.volumes.insert(
                name.clone(),
                Volume {
                    view,
                    ..Volume::default()
                },
            );
            name
        });
        if let Some(volume) = self.touch(&name) {
            volume.view.holder = Holder::Bound(claim.clone());
            volume.users.push(claim.clone());
        }
        self.claims.insert(claim, Some(name));
    }

    /// A claim's reconcile, and Kubernetes after it.
    fn look_at_claim(&mut self, index: usize) {
        let names: BTreeSet<String> = self.claims.keys().cloned().collect();
        let Some(name) = pick(&names, index) else { return };
        let owner = name
            .trim_start_matches("cache-")
            .trim_end_matches("-0")
            .to_owned();
        let next = claim::next(ClaimView {
            has_owner: Some(self.owners.contains(&owner)),
            has_pod: self.pods.contains(&owner),
            is_bound: true,
            is_kept: true,
            keeps: true,
            is_deleting: false,
        });
        if !next.delete {
            return;
        }
        if let Some(Some(volume)) = self.claims.remove(&name)
            && let Some(volume) = self.touch(&volume)
        {
            volume.view.holder = Holder::Released;
        }
    }

    fn discard(&mut self, count: usize) {
        let free = self.free(&self.volumes.clone());
        let claims: BTreeSet<String> = self.claims.keys().cloned().collect();
        let limits = Limits {
            count,
            age: SignedDuration::from_secs(1_000),
        };
        for view in &free {
            let since = |view: &VolumeView| view.since.unwrap_or(Timestamp::UNIX_EPOCH);
            let fate = fate(view, &free, &claims, limits, since, self.now);
            if matches!(fate, Fate::HandBack | Fate::Forget) {
                self.volumes.remove(&view.name);
            }
        }
    }

    fn check(&self) {
        let mut bound = BTreeSet::new();
        for (claim, volume) in &self.claims {
            let Some(volume) = volume else { continue };
            assert!(bound.insert(volume), "{volume} is in use twice");
            let holder = self.volumes.get(volume).map(|volume| volume.view.holder.clone());
            assert_eq!(
                holder,
                Some(Holder::Bound(claim.clone())),
                "{volume} was taken from {claim}"
            );
        }
    }
}

fn pick(names: &BTreeSet<String>, index: usize) -> Option<String> {
    names.iter().nth(index % names.len().max(1)).cloned()
}

#[derive(Clone, Debug)]
enum Event {
    Create {
        count: usize,
        stale: bool,
        writes: usize,
    },
    Bind(usize),
    DeleteOwner(usize),
    PodGone(usize),
    Claim(usize),
    Discard(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (1_usize..4, any::<bool>(), prop_oneof![Just(99_usize), 0_usize..6])
            .prop_map(|(count, stale, writes)| Event::Create { count, stale, writes }),
        4 => (0_usize..8).prop_map(Event::Bind),
        2 => (0_usize..8).prop_map(Event::DeleteOwner),
        3 => (0_usize..8).prop_map(Event::PodGone),
        4 => (0_usize..8).prop_map(Event::Claim),
        1 => (0_usize..4).prop_map(Event::Discard),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_volume_is_in_use_twice_and_none_leaks(events in prop::collection::vec(event(), 1..60)) {
        let mut world = World { now: Timestamp::from_second(1_800_000_000).unwrap(), ..World::default() };
        let mut stale = BTreeMap::new();
        for (index, event) in events.into_iter().enumerate() {
            world.now += SignedDuration::from_secs(1);
            match event {
                Event::Create { count, stale: is_stale, writes } => {
                    let cache = if is_stale { stale.clone() } else { world.volumes.clone() };
                    world.create(count, &cache, writes);
                }
                Event::Bind(index) => world.bind(index),
                Event::DeleteOwner(index) => {
                    if let Some(owner) = pick(&world.owners.clone(), index) {
                        world.owners.remove(&owner);
                    }
                }
                Event::PodGone(index) => {
                    let gone: BTreeSet<String> = world.pods.difference(&world.owners).cloned().collect();
                    if let Some(pod) = pick(&gone, index) {
                        world.pods.remove(&pod);
                    }
                }
                Event::Claim(index) => world.look_at_claim(index),
                Event::Discard(count) => world.discard(count),
            }
            if index % 5 == 0 {
                stale = world.volumes.clone();
            }
            world.check();
        }
        // Everything goes: every claim is deleted and every volume is free, then handed back.
        world.owners.clear();
        world.pods.clear();
        for _ in 0..world.claims.len() {
            world.look_at_claim(0);
        }
        prop_assert!(world.claims.is_empty(), "a claim is left");
        prop_assert_eq!(world.free(&world.volumes.clone()).len(), world.volumes.len(), "a volume that nobody may use again");
        world.discard(0);
        prop_assert!(world.volumes.is_empty(), "a volume is left");
    }

    /// In order and with caches that are up to date, there are never more volumes than runners were at once.
    #[test]
    fn no_volume_is_made_while_one_is_free(waves in prop::collection::vec(1_usize..6, 1..10)) {
        let mut world = World { now: Timestamp::from_second(1_800_000_000).unwrap(), ..World::default() };
        for count in waves {
            world.now += SignedDuration::from_secs(1);
            let cache = world.volumes.clone();
            world.create(count, &cache, 99);
            for index in 0..count {
                world.bind(index);
            }
            world.owners.clear();
            world.pods.clear();
            for _ in 0..count {
                world.look_at_claim(0);
            }
            prop_assert!(world.volumes.len() <= world.most, "{} volumes for {} runners", world.volumes.len(), world.most);
        }
    }
}
