//! How many free volumes are kept and for how long; what is beyond goes as its reclaim policy says.

use std::{cmp::Reverse, collections::BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{Reclaim, VolumeView};

/// A RunnerSet that is gone may be made again by the same manifest within this time, and find its volumes.
pub const ORPHANED: SignedDuration = SignedDuration::from_mins(1);

/// How many free volumes of one RunnerSet and claim template are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many.
    pub count: usize,
    /// How long each.
    pub age: SignedDuration,
}

/// What becomes of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is in use, or on its way out by itself.
    Busy,
    /// It is kept for the next runner until then.
    Kept {
        /// Until when.
        until: Timestamp,
    },
    /// It goes back to what its reclaim policy says: Kubernetes deletes it with its storage.
    HandBack,
    /// Its policy keeps the storage: only the object goes.
    Forget,
}

/// Decides about `volume`, one of `all` of its RunnerSet. `since` says when a volume became free. Of the free ones those that were used last
/// are kept.
pub fn fate(
    volume: &VolumeView,
    all: &[VolumeView],
    claims: &BTreeSet<String>,
    limits: Limits,
    since: impl Fn(&VolumeView) -> Timestamp,
    now: Timestamp,
) -> Fate {
    if !volume.is_free(claims) {
        return Fate::Busy;
    }
    let own = rank(volume, &since);
    let fresher = free_like(volume, all, claims)
        .filter(|other| rank(other, &since) < own)
        .count();
    let until = since(volume).checked_add(limits.age).unwrap_or(Timestamp::MAX);
    if fresher < limits.count && now < until {
        return Fate::Kept { until };
    }
    match volume.reclaim {
        Reclaim::Reclaimed => Fate::HandBack,
        Reclaim::Retain => Fate::Forget,
    }
}

/// Names of the free volumes of `volume`'s template that are one too many, as [`fate`] decides, because `limits.count` others were used later.
pub fn displaced<'a>(
    volume: &VolumeView,
    all: &'a [VolumeView],
    claims: &BTreeSet<String>,
    limits: Limits,
    since: impl Fn(&VolumeView) -> Timestamp,
) -> Vec<&'a str> {
    let mut free: Vec<&VolumeView> = free_like(volume, all, claims).collect();
    if free.len() <= limits.count {
        return Vec::new();
    }
    free.sort_by_cached_key(|other| rank(other, &since));
    free.iter()
        .skip(limits.count)
        .map(|other| other.name.as_str())
        .collect()
}

/// Used last comes first; the name decides between two of the same moment.
fn rank(volume: &VolumeView, since: impl Fn(&VolumeView) -> Timestamp) -> (Reverse<Timestamp>, String) {
    (Reverse(since(volume)), volume.name.clone())
}

fn free_like<'a>(
    volume: &VolumeView,
    all: &'a [VolumeView],
    claims: &BTreeSet<String>,
) -> impl Iterator<Item = &'a VolumeView> {
    all.iter()
        .filter(|other| other.template == volume.template && other.is_free(claims))
}

#[cfg(test)]
mod tests {
    use super::{super::Holder, *};

    fn t(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn volume(name: &str, since: i64, holder: Holder) -> VolumeView {
        VolumeView {
            name: name.to_owned(),
            template: "a".to_owned(),
            holder,
            since: Some(t(since)),
            ..VolumeView::default()
        }
    }

    #[test]
    fn the_freshest_are_kept_and_none_for_ever() {
        let mut all = vec![
            volume("a", 10, Holder::Released),
            volume("b", 20, Holder::Released),
            volume("c", 30, Holder::Released),
            volume("bound", 40, Holder::Bound("x".to_owned())),
            volume("promised", 40, Holder::Promised("claim".to_owned())),
        ];
        all.push(VolumeView {
            template: "another".to_owned(),
            ..volume("d", 50, Holder::Released)
        });
        let claims = BTreeSet::from(["claim".to_owned()]);
        let of = |index: usize, count, now| {
            let limits = Limits {
                count,
                age: SignedDuration::from_secs(100),
            };
            fate(
                &all[index],
                &all,
                &claims,
                limits,
                |volume| volume.since.unwrap(),
                t(now),
            )
        };
        assert_eq!(of(0, 2, 60), Fate::Forget, "the third");
        assert_eq!(of(1, 2, 60), Fate::Kept { until: t(120) });
        assert_eq!(of(2, 2, 60), Fate::Kept { until: t(130) });
        assert_eq!(of(2, 2, 130), Fate::Forget, "too old");
        assert_eq!(of(3, 0, 999), Fate::Busy);
        assert_eq!(of(4, 0, 999), Fate::Busy);
        assert_eq!(of(5, 1, 60), Fate::Kept { until: t(150) });
        assert_eq!(of(5, 0, 60), Fate::Forget);
    }

    #[test]
    fn displaced_are_exactly_those_that_do_not_stay() {
        // Two of the same moment: the name decides, whichever is looked at.
        let mut all: Vec<_> = [("a", 10), ("b", 20), ("c", 20), ("d", 30)]
            .map(|(name, since)| volume(name, since, Holder::Released))
            .into();
        all.push(volume("bound", 5, Holder::Bound("x".to_owned())));
        all.push(VolumeView {
            template: "another".to_owned(),
            ..volume("other", 0, Holder::Released)
        });
        let claims = BTreeSet::new();
        let since = |volume: &VolumeView| volume.since.unwrap();
        let expected = [
            vec!["d", "b", "c", "a"],
            vec!["b", "c", "a"],
            vec!["c", "a"],
            vec!["a"],
            vec![],
        ];
        for (count, expected) in expected.into_iter().enumerate() {
            let limits = Limits {
                count,
                age: SignedDuration::from_hours(1),
            };
            assert_eq!(
                displaced(&all[3], &all, &claims, limits, since),
                expected,
                "{count} are kept"
            );
            for view in &all[..4] {
                let stays = matches!(fate(view, &all, &claims, limits, since, t(60)), Fate::Kept { .. });
                assert_eq!(stays, !expected.contains(&view.name.as_str()), "{}", view.name);
            }
        }
    }

    #[test]
    fn a_volume_goes_as_its_policy_says() {
        let limits = Limits {
            count: 0,
            age: SignedDuration::ZERO,
        };
        for (reclaim, expected) in [
            (Reclaim::Reclaimed, Fate::HandBack),
            (Reclaim::Retain, Fate::Forget),
        ] {
            let volume = VolumeView {
                reclaim,
                ..volume("a", 0, Holder::Released)
            };
            let all = [volume.clone()];
            assert_eq!(
                fate(&volume, &all, &BTreeSet::new(), limits, |_| t(0), t(1)),
                expected
            );
        }
    }
}
