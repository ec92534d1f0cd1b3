//! A change of the template where runners keep volumes: one runner makes room for the next, so that the volume follows and no second one is
//! made. Idle runners go first, a quarter at a time; busy ones when no idle one is left, and after their jobs.

use jiff::Timestamp;

use super::{OwnerView, PodClass};

/// So many idle runners of a former template are replaced at a time: one of four, at least one.
const SHARE: usize = 4;

/// The owners of a former template to be asked to go. `leaving` were asked already and still stand; `surplus` is how many runners there are
/// beyond those wanted.
pub(super) fn retire<'a>(
    outdated: &[&'a OwnerView],
    leaving: usize,
    replicas: usize,
    surplus: usize,
    now: Timestamp,
) -> Vec<&'a OwnerView> {
    let mut idle: Vec<&OwnerView> = Vec::new();
    let mut busy: Vec<&OwnerView> = Vec::new();
    for owner in outdated {
        if is_busy(owner, now) {
            busy.push(owner);
        } else {
            idle.push(owner);
        }
    }
    for owners in [&mut idle, &mut busy] {
        owners.sort_by_key(|owner| {
            (
                owner.count(PodClass::Running, now) > 0,
                owner.created_at,
                &owner.name,
            )
        });
    }
    if idle.is_empty() && leaving == 0 {
        return busy;
    }
    let room = replicas.div_ceil(SHARE).max(1).saturating_sub(leaving);
    idle.truncate(room.max(surplus));
    idle
}

fn is_busy(owner: &OwnerView, now: Timestamp) -> bool {
    owner
        .pods
        .iter()
        .any(|pod| pod.busy && pod.class(now) == PodClass::Running)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{PodView, phase::PodPhase},
        *,
    };

    fn owner(name: &str, busy: bool) -> OwnerView {
        OwnerView {
            name: name.to_owned(),
            pods: vec![PodView {
                phase: PodPhase::Running,
                scheduled: true,
                busy,
                ..PodView::default()
            }],
            ..OwnerView::default()
        }
    }

    #[test]
    fn idle_ones_go_by_quarters_and_busy_ones_at_the_end() {
        let owners: Vec<OwnerView> = [("a", true), ("b", false), ("c", true), ("d", false), ("e", false)]
            .map(|(name, busy)| owner(name, busy))
            .into();
        let of = |names: &str, leaving, replicas, surplus| {
            let outdated: Vec<&OwnerView> = owners
                .iter()
                .filter(|owner| names.contains(&owner.name))
                .collect();
            let now = Timestamp::UNIX_EPOCH;
            let retired = retire(&outdated, leaving, replicas, surplus, now);
            retired
                .iter()
                .map(|owner| owner.name.as_str())
                .collect::<String>()
        };
        assert_eq!(of("abcde", 0, 5, 0), "bd");
        assert_eq!(of("abce", 1, 5, 0), "b", "room for one more");
        assert_eq!(of("ace", 2, 5, 0), "");
        assert_eq!(of("ac", 1, 5, 0), "", "an idle one is still on its way");
        assert_eq!(of("ac", 0, 5, 0), "ac");
        assert_eq!(of("abcde", 0, 2, 3), "bde", "all that are too many");
        assert_eq!(of("b", 0, 1, 0), "b", "a single one too");
        assert_eq!(of("", 0, 5, 0), "");
    }
}
