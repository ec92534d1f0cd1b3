//! Which repositories are asked about, and how often.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use muster_crds::legacy::CapacityReservation;

use crate::autoscale::reservation::{self, Kind};

/// Calls that one look at a repository costs when nothing happens: queued runs and runs in progress.
const CALLS_PER_LOOK: i64 = 2;

/// A repository as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RepositoryRef {
    /// By id, as ledgers know it; the host is none for github.com.
    Id {
        /// Host of the GitHub server where it is not github.com.
        host: Option<String>,
        /// Id of the repository.
        id: u64,
    },
    /// `owner/name` in lower case, as specs and flags name it.
    Name(String),
}

/// Why a repository is asked about; the later the more pressing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Heat {
    /// Its jobs have finished within the last hour.
    Recent,
    /// A spec or a flag names it.
    Named,
    /// It has jobs that count as demand.
    Live,
}

/// The repositories that one autoscaler makes hot: those of its ledger's jobs, finished ones included for as long as they are
/// remembered (an hour), and those that its target and its metrics name.
pub fn repositories<'n>(
    ledger: &[CapacityReservation],
    names: impl IntoIterator<Item = &'n str>,
    now: Timestamp,
) -> BTreeMap<RepositoryRef, Heat> {
    let mut found = BTreeMap::new();
    let mut note = |repository: RepositoryRef, heat: Heat| {
        let known = found.entry(repository).or_insert(heat);
        *known = heat.max(*known);
    };
    for entry in ledger {
        if let Kind::Job { key, .. } = reservation::classify(entry) {
            let heat = if reservation::is_live(entry, now) {
                Heat::Live
            } else {
                Heat::Recent
            };
            let host = key.host().map(str::to_owned);
            let id = key.repository_id();
            note(RepositoryRef::Id { host, id }, heat);
        }
    }
    for name in names {
        let is_name = name
            .split_once('/')
            .is_some_and(|(owner, name)| !owner.is_empty() && !name.is_empty() && !name.contains('/'));
        if is_name {
            note(RepositoryRef::Name(name.to_lowercase()), Heat::Named);
        }
    }
    found
}

/// Time between two looks at a repository when so many are hot: the period, stretched where it would cost more than `calls_per_hour`
/// (0: no bound).
pub fn period(hot: usize, period: SignedDuration, calls_per_hour: i64) -> SignedDuration {
    if calls_per_hour <= 0 {
        return period;
    }
    let hot = i64::try_from(hot).unwrap_or(i64::MAX);
    let seconds = hot.saturating_mul(CALLS_PER_LOOK).saturating_mul(3_600) / calls_per_hour;
    period.max(SignedDuration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use muster_crds::time::MicroTime;

    use super::*;

    fn entry(name: &str, replicas: i64, expires: i64) -> CapacityReservation {
        CapacityReservation {
            name: Some(name.to_owned()),
            replicas: Some(replicas),
            effective_time: Some(MicroTime(Timestamp::from_second(1).unwrap())),
            expiration_time: Some(MicroTime(Timestamp::from_second(expires).unwrap())),
        }
    }

    #[test]
    fn ledgers_and_names_make_repositories_hot() {
        let ledger = [
            entry("7/1", 1, 100),
            entry("7/2", 0, 100),
            entry("8/1@x", 0, 100),
            entry("9/1", 1, 5),
            entry("ghes.example/7/1", 1, 100),
            entry("push/1a", 1, 100),
            entry("mine", 1, 100),
        ];
        let hot = repositories(
            &ledger,
            ["Acme/Api", "nonsense", "a/b/c", "/x"],
            Timestamp::from_second(10).unwrap(),
        );
        let id = |host: Option<&str>, id| RepositoryRef::Id {
            host: host.map(str::to_owned),
            id,
        };
        let expected = [
            (id(None, 7), Heat::Live),
            (id(None, 8), Heat::Recent),
            (id(None, 9), Heat::Recent),
            (id(Some("ghes.example"), 7), Heat::Live),
            (RepositoryRef::Name("acme/api".to_owned()), Heat::Named),
        ];
        assert_eq!(hot, BTreeMap::from(expected));
    }

    #[test]
    fn many_repositories_stretch_the_period() {
        let minute = SignedDuration::from_mins(1);
        assert_eq!(period(1, minute, 3_000), minute);
        assert_eq!(period(25, minute, 3_000), minute);
        assert_eq!(period(50, minute, 3_000), minute * 2);
        assert_eq!(period(usize::MAX, minute, 0), minute);
        assert!(period(usize::MAX, minute, 1) > minute);
    }
}
