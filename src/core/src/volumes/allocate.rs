//! Free volumes + runners to be made → which runner gets which, which get new ones, and which wait a moment for one that is about to be
//! free.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::NodeSelector;

use super::{
    ClaimWant, VolumeView,
    node::{NodeView, PodWant, is_schedulable},
};

/// A volume that is about to be free: its runner has ended, its claim goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeing {
    /// Claim template.
    pub template: String,
    /// Since when.
    pub since: Timestamp,
}

/// Everything that an allocation depends on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Runners to be made.
    pub count: usize,
    /// Claim templates of the RunnerSet.
    pub templates: &'a [ClaimWant],
    /// Free volumes of the RunnerSet.
    pub free: &'a [VolumeView],
    /// Volumes that are about to be free.
    pub freeing: &'a [Freeing],
    /// What the pod asks of its node.
    pub pod: &'a PodWant,
    /// Nodes that take pods; `None` when they are not known.
    pub nodes: Option<&'a [NodeView]>,
    /// How long a runner waits for a volume that is about to be free.
    pub patience: SignedDuration,
    /// The time.
    pub now: Timestamp,
}

/// The volumes of one runner: template and name. A template that is missing gets a new one.
pub type Bundle<'a> = Vec<(&'a str, &'a VolumeView)>;

/// The decision about the runners of one pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation<'a> {
    /// One for each runner to be made now.
    pub bundles: Vec<Bundle<'a>>,
    /// Runners that wait.
    pub waiting: usize,
    /// When the first of them has waited long enough.
    pub retry_at: Option<Timestamp>,
}

/// Decides. A volume is in one bundle at most; the one that was used last is taken first, since its content is the freshest, and so the
/// others grow old and go.
pub fn allocate<'a>(input: &Input<'a>) -> Allocation<'a> {
    let mut free: Vec<&VolumeView> = input.free.iter().collect();
    free.sort_by_key(|volume| (std::cmp::Reverse(volume.since), volume.name.as_str()));
    let mut freeing: Vec<&Freeing> = input
        .freeing
        .iter()
        .filter(|freeing| ends_at(freeing, input.patience) > input.now)
        .collect();
    freeing.sort_by_key(|freeing| freeing.since);
    let wanted: Vec<&ClaimWant> = input
        .templates
        .iter()
        .filter(|template| !template.is_fixed)
        .collect();

    let mut result = Allocation::default();
    for _ in 0..input.count {
        let bundle = best(&wanted, &free, input.pod, input.nodes);
        let missing: Vec<&str> = wanted
            .iter()
            .map(|template| template.template.as_str())
            .filter(|template| !bundle.iter().any(|(name, _)| name == template))
            .collect();
        if let Some(until) = take_freeing(&missing, &mut freeing, input.patience) {
            // The volumes that are there stay for a runner that needs no others.
            result.waiting += 1;
            result.retry_at = Some(result.retry_at.map_or(until, |at| at.min(until)));
            continue;
        }
        free.retain(|volume| !bundle.iter().any(|(_, taken)| taken.name == volume.name));
        result.bundles.push(bundle);
    }
    result
}

fn ends_at(freeing: &Freeing, patience: SignedDuration) -> Timestamp {
    freeing.since.checked_add(patience).unwrap_or(Timestamp::MAX)
}

/// Reserves one volume that is about to be free for each missing template; `None` when there is not one for each, or none is missing.
fn take_freeing(
    missing: &[&str],
    freeing: &mut Vec<&Freeing>,
    patience: SignedDuration,
) -> Option<Timestamp> {
    let mut taken = Vec::new();
    for template in missing {
        let index = freeing
            .iter()
            .enumerate()
            .position(|(index, freeing)| freeing.template == *template && !taken.contains(&index))?;
        taken.push(index);
    }
    let until = taken
        .iter()
        .filter_map(|index| freeing.get(*index))
        .map(|freeing| ends_at(freeing, patience))
        .min()?;
    let mut index = 0;
    freeing.retain(|_| {
        index += 1;
        !taken.contains(&(index - 1))
    });
    Some(until)
}

/// The bundle with the most volumes that can be together on some node: each free volume is tried as the first one, in order.
fn best<'a>(
    wanted: &[&'a ClaimWant],
    free: &[&'a VolumeView],
    pod: &PodWant,
    nodes: Option<&[NodeView]>,
) -> Bundle<'a> {
    let mut best: Bundle<'a> = Vec::new();
    for first in free {
        let bundle = bundle(wanted, first, free, pod, nodes);
        if bundle.len() > best.len() {
            best = bundle;
        }
        if best.len() == wanted.len() {
            break;
        }
    }
    best
}

/// Volumes beside `first`, template by template.
fn bundle<'a>(
    wanted: &[&'a ClaimWant],
    first: &'a VolumeView,
    free: &[&'a VolumeView],
    pod: &PodWant,
    nodes: Option<&[NodeView]>,
) -> Bundle<'a> {
    let mut bundle: Bundle<'a> = Vec::new();
    let Some(of_first) = wanted.iter().find(|template| template.fits(first)) else {
        return bundle;
    };
    if !is_schedulable(pod, &[first.affinity.as_ref()], nodes) {
        return bundle;
    }
    bundle.push((of_first.template.as_str(), first));
    for template in wanted
        .iter()
        .filter(|template| template.template != of_first.template)
    {
        let fitting = free.iter().find(|volume| {
            let mut places: Vec<Option<&NodeSelector>> = bundle
                .iter()
                .map(|(_, volume)| volume.affinity.as_ref())
                .collect();
            places.push(volume.affinity.as_ref());
            template.fits(volume) && is_schedulable(pod, &places, nodes)
        });
        if let Some(volume) = fitting {
            bundle.push((template.template.as_str(), volume));
        }
    }
    bundle
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: SignedDuration = SignedDuration::from_secs(10);

    fn t(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn want(template: &str) -> ClaimWant {
        ClaimWant {
            template: template.to_owned(),
            storage: 10,
            class: Some("fast".to_owned()),
            access_modes: BTreeSet::from(["ReadWriteOnce".to_owned()]),
            volume_mode: "Filesystem".to_owned(),
            is_fixed: false,
        }
    }

    fn volume(name: &str, template: &str, zone: Option<&str>, since: i64) -> VolumeView {
        VolumeView {
            name: name.to_owned(),
            template: template.to_owned(),
            holder: super::super::Holder::Released,
            capacity: 10,
            class: "fast".to_owned(),
            access_modes: BTreeSet::from(["ReadWriteOnce".to_owned()]),
            volume_mode: "Filesystem".to_owned(),
            affinity: zone.map(zone_selector),
            since: Some(t(since)),
            ..VolumeView::default()
        }
    }

    fn zone_selector(zone: &str) -> NodeSelector {
        NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_expressions: Some(vec![NodeSelectorRequirement {
                    key: "zone".to_owned(),
                    operator: "In".to_owned(),
                    values: Some(vec![zone.to_owned()]),
                }]),
                match_fields: None,
            }],
        }
    }

    fn nodes(zones: &[&str]) -> Vec<NodeView> {
        zones
            .iter()
            .map(|zone| NodeView {
                name: (*zone).to_owned(),
                labels: [("zone".to_owned(), (*zone).to_owned())].into(),
            })
            .collect()
    }

    /// Names of the volumes of each runner, and how many wait.
    fn names(
        count: usize,
        templates: &[ClaimWant],
        free: &[VolumeView],
        freeing: &[Freeing],
        zones: Option<&[&str]>,
    ) -> (Vec<Vec<String>>, usize) {
        let nodes = zones.map(nodes);
        let pod = PodWant::default();
        let allocation = allocate(&Input {
            count,
            templates,
            free,
            freeing,
            pod: &pod,
            nodes: nodes.as_deref(),
            patience: PATIENCE,
            now: t(100),
        });
        let names = |bundle: &Bundle<'_>| bundle.iter().map(|(_, volume)| volume.name.clone()).collect();
        (allocation.bundles.iter().map(names).collect(), allocation.waiting)
    }

    fn freeing(template: &str, since: i64) -> Freeing {
        Freeing {
            template: template.to_owned(),
            since: t(since),
        }
    }

    #[test]
    fn the_volume_used_last_is_taken_first_and_the_rest_is_new() {
        let free = [volume("old", "a", None, 1), volume("new", "a", None, 2)];
        assert_eq!(
            names(3, &[want("a")], &free, &[], None),
            (vec![vec!["new".to_owned()], vec!["old".to_owned()], vec![]], 0)
        );
    }

    #[test]
    fn only_what_fits_is_offered() {
        let change = |change: fn(&mut VolumeView)| {
            let mut volume = volume("v", "a", None, 1);
            change(&mut volume);
            volume
        };
        let misfits = [
            change(|volume| volume.template = "b".to_owned()),
            change(|volume| volume.capacity = 9),
            change(|volume| volume.class = "slow".to_owned()),
            change(|volume| volume.volume_mode = "Block".to_owned()),
            change(|volume| volume.access_modes = BTreeSet::from(["ReadWriteOncePod".to_owned()])),
        ];
        for misfit in misfits {
            assert_eq!(
                names(1, &[want("a")], std::slice::from_ref(&misfit), &[], None).0,
                [[""; 0]],
                "{misfit:?}"
            );
        }
        let larger = change(|volume| volume.capacity = 11);
        assert_eq!(names(1, &[want("a")], &[larger], &[], None).0, [["v"]]);
        let mut once_per_pod = want("a");
        once_per_pod.access_modes = BTreeSet::from(["ReadWriteOncePod".to_owned()]);
        let fitting = change(|volume| volume.access_modes = BTreeSet::from(["ReadWriteOncePod".to_owned()]));
        assert_eq!(names(1, &[once_per_pod], &[fitting], &[], None).0, [["v"]]);
        let mut fixed = want("a");
        fixed.is_fixed = true;
        assert_eq!(
            names(1, &[fixed], &[volume("v", "a", None, 1)], &[], None).0,
            [[""; 0]]
        );
    }

    #[test]
    fn volumes_of_one_runner_are_in_one_zone_and_where_there_are_nodes() {
        let free = [
            volume("a-east", "a", Some("east"), 9),
            volume("a-west", "a", Some("west"), 8),
            volume("b-west", "b", Some("west"), 7),
        ];
        let templates = [want("a"), want("b")];
        let (bundles, _) = names(2, &templates, &free, &[], Some(&["east", "west"]));
        assert_eq!(bundles, [vec!["a-west", "b-west"], vec!["a-east"]]);
        let (bundles, _) = names(2, &templates, &free, &[], Some(&["east"]));
        assert_eq!(bundles, [vec!["a-east"], vec![]]);
        let (bundles, _) = names(1, &templates, &free, &[], None);
        assert_eq!(bundles, [vec!["a-west", "b-west"]], "nodes that are not known");
    }

    #[test]
    fn a_runner_waits_for_a_volume_that_is_about_to_be_free_but_not_for_ever() {
        let one = [want("a")];
        assert_eq!(names(2, &one, &[], &[freeing("a", 95)], None), (vec![vec![]], 1));
        assert_eq!(
            names(2, &one, &[], &[freeing("a", 90)], None),
            (vec![vec![], vec![]], 0)
        );
        assert_eq!(names(1, &one, &[], &[freeing("b", 99)], None), (vec![vec![]], 0));
        // The second volume of the pair will never come.
        let two = [want("a"), want("b")];
        assert_eq!(names(1, &two, &[], &[freeing("a", 99)], None), (vec![vec![]], 0));
        assert_eq!(
            names(1, &two, &[], &[freeing("a", 99), freeing("b", 99)], None).1,
            1
        );
        let free = [volume("b", "b", None, 1)];
        assert_eq!(names(1, &two, &free, &[freeing("a", 99)], None), (vec![], 1));
        assert_eq!(names(3, &[], &[], &[], None).0.len(), 3, "no volumes at all");
    }

    proptest! {
        #[test]
        fn a_volume_is_given_once_to_a_runner_that_can_use_it(
            count in 0_usize..8,
            volumes in prop::collection::vec((0_usize..2, prop::option::of(0_usize..3), 0_i64..50, any::<bool>()), 0..12),
            going in prop::collection::vec((0_usize..2, 80_i64..100), 0..6),
            known in any::<bool>(),
        ) {
            let (templates, zones) = (["a", "b"], ["x", "y", "z"]);
            let free: Vec<VolumeView> = volumes
                .iter()
                .enumerate()
                .map(|(index, (template, zone, since, large))| {
                    let mut volume = volume(&format!("v{index}"), templates[*template], zone.map(|zone| zones[zone]), *since);
                    volume.capacity = if *large { 20 } else { 5 };
                    volume
                })
                .collect();
            let going: Vec<Freeing> = going.iter().map(|(template, since)| freeing(templates[*template], *since)).collect();
            let nodes = nodes(&["x", "y"]);
            let wants = [want("a"), want("b")];
            let pod = PodWant::default();
            let result = allocate(&Input {
                count, templates: &wants, free: &free, freeing: &going, pod: &pod,
                nodes: known.then_some(nodes.as_slice()), patience: PATIENCE, now: t(100),
            });
            prop_assert_eq!(result.bundles.len() + result.waiting, count);
            prop_assert!(result.waiting <= going.len());
            prop_assert_eq!(result.retry_at.is_some(), result.waiting > 0);
            prop_assert!(result.retry_at.is_none_or(|at| at > t(100)));
            let mut given = BTreeSet::new();
            for bundle in &result.bundles {
                let affinities: Vec<_> = bundle.iter().map(|(_, volume)| volume.affinity.as_ref()).collect();
                prop_assert!(is_schedulable(&pod, &affinities, known.then_some(nodes.as_slice())));
                let of: BTreeSet<_> = bundle.iter().map(|(template, _)| *template).collect();
                prop_assert_eq!(of.len(), bundle.len(), "one for each template");
                for (template, volume) in bundle {
                    prop_assert!(given.insert(volume.name.clone()), "given twice");
                    prop_assert!(volume.capacity >= 10 && volume.template == *template);
                }
            }
            // Nobody gets nothing while a volume that it could use is left.
            if result.bundles.iter().any(Vec::is_empty) {
                let left = free.iter().filter(|volume| !given.contains(&volume.name) && volume.capacity >= 10);
                for volume in left {
                    prop_assert!(!is_schedulable(&pod, &[volume.affinity.as_ref()], known.then_some(nodes.as_slice())));
                }
            }
        }
    }
}
