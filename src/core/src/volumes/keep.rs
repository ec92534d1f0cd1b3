//! How many free volumes are kept and for how long; what is beyond goes as its reclaim policy says.

use std::collections::BTreeSet;

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
    let rank = |volume: &VolumeView| (std::cmp::Reverse(since(volume)), volume.name.clone());
    let own = rank(volume);
    let fresher = all
        .iter()
        .filter(|other| other.template == volume.template && other.is_free(claims))
        .filter(|other| rank(other) < own)
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
