//! What can go wrong with a simulated runner pod, and for which pods it does.

use std::{fmt, ops::RangeInclusive, sync::Mutex, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Annotation of a pod that asks for a fault: `never-scheduled`, `never-ready`, `never-registers`, `hangs`,
/// `lingers`, `goes-offline`, `slow-start=<seconds>`, or `crash=<code>`, `evict`, `lose-node`, these three with `@started`, `@idle` (the
/// default) or `@busy` behind.
pub const ANNOTATION: &str = "sim.muster.dev/fault";

/// A point in the life of a runner pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The containers run, the runner is not registered yet.
    Started,
    /// Registered, waiting for a job.
    Idle,
    /// A job runs.
    Busy,
}

/// A blow that ends a running pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// The container `runner` ends with this exit code.
    Crash(i32),
    /// The kubelet evicts the pod: phase `Failed`, reason `Evicted`.
    Evict,
    /// The node is lost: the pod's status stays as it is, nobody confirms its deletion.
    LoseNode,
}

/// A fault of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No node is found: stays `Pending`.
    NeverScheduled,
    /// The image cannot be pulled: stays `Pending` on its node.
    NeverReady,
    /// `Running` and `Ready`, but never known to GitHub, and deaf to SIGTERM.
    NeverRegisters,
    /// Takes a job and never finishes it; only SIGKILL ends it.
    Hangs,
    /// Does its job, and then does not end; only SIGKILL ends it.
    Lingers,
    /// Registers, and then loses its connection to GitHub for good. SIGTERM ends it.
    GoesOffline,
    /// The containers start this much later.
    SlowStart(Duration),
    /// Struck once.
    Strike {
        /// The point in the pod's life …
        when: When,
        /// … and how long after it.
        after: Duration,
        /// The blow.
        strike: Strike,
    },
}

impl Fault {
    /// A runner that crashes with `code` as soon as the point is reached.
    pub fn crash(code: i32, when: When) -> Self {
        Self::Strike {
            when,
            after: Duration::ZERO,
            strike: Strike::Crash(code),
        }
    }

    /// Reads the value of [`ANNOTATION`].
    pub fn parse(text: &str) -> Option<Self> {
        let (what, when) = match text.split_once('@') {
            Some((what, "started")) => (what, When::Started),
            Some((what, "idle")) => (what, When::Idle),
            Some((what, "busy")) => (what, When::Busy),
            Some(_) => return None,
            None => (text, When::Idle),
        };
        let strike = |strike| {
            Some(Self::Strike {
                when,
                after: Duration::ZERO,
                strike,
            })
        };
        match what.split_once('=') {
            Some(("slow-start", seconds)) => seconds
                .parse()
                .ok()
                .map(|s| Self::SlowStart(Duration::from_secs(s))),
            Some(("crash", code)) => code.parse().ok().and_then(|code| strike(Strike::Crash(code))),
            Some(_) => None,
            None => match what {
                "never-scheduled" => Some(Self::NeverScheduled),
                "never-ready" => Some(Self::NeverReady),
                "never-registers" => Some(Self::NeverRegisters),
                "hangs" => Some(Self::Hangs),
                "lingers" => Some(Self::Lingers),
                "goes-offline" => Some(Self::GoesOffline),
                "evict" => strike(Strike::Evict),
                "lose-node" => strike(Strike::LoseNode),
                _ => None,
            },
        }
    }
}

type Selector = Box<dyn Fn(&Pod) -> bool + Send + Sync>;

/// Which pods suffer which fault.
pub struct FaultRule {
    fault: Fault,
    selector: Selector,
    share: f64,
    left: Option<usize>,
}

impl FaultRule {
    /// Every pod suffers `fault`.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            selector: Box::new(|_| true),
            share: 1.0,
            left: None,
        }
    }

    /// Only pods for which `selector` answers true.
    #[must_use]
    pub fn matching(mut self, selector: impl Fn(&Pod) -> bool + Send + Sync + 'static) -> Self {
        self.selector = Box::new(selector);
        self
    }

    /// Only pods whose name contains `part`.
    #[must_use]
    pub fn named(self, part: &str) -> Self {
        let part = part.to_owned();
        self.matching(move |pod| pod.name_any().contains(&part))
    }

    /// Only pods with this label.
    #[must_use]
    pub fn labelled(self, key: &str, value: &str) -> Self {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.matching(move |pod| pod.labels().get(&key) == Some(&value))
    }

    /// Only this share (0 to 1) of the pods, drawn from the seeded generator.
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Only the first `times` pods.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.left = Some(times);
        self
    }
}

impl fmt::Debug for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultRule")
            .field("fault", &self.fault)
            .field("share", &self.share)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

/// The rules in force and the seeded generator that all chance comes from.
#[derive(Debug)]
pub(super) struct Fate {
    inner: Mutex<(Vec<FaultRule>, StdRng)>,
}

impl Fate {
    pub(super) fn new(seed: u64, rules: Vec<FaultRule>) -> Self {
        Self {
            inner: Mutex::new((rules, StdRng::seed_from_u64(seed))),
        }
    }

    pub(super) fn add(&self, rule: FaultRule) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.0.push(rule);
        }
    }

    pub(super) fn clear(&self) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.0.clear();
        }
    }

    /// The fault of a new pod: the one that its annotation asks for, or that of the first rule that fits.
    pub(super) fn of(&self, pod: &Pod) -> Option<Fault> {
        if let Some(text) = pod.annotations().get(ANNOTATION) {
            let fault = Fault::parse(text);
            if fault.is_none() {
                tracing::warn!(pod = pod.name_any(), text, "The fault annotation makes no sense");
            }
            return fault;
        }
        let mut inner = self.inner.lock().ok()?;
        let (rules, rng) = &mut *inner;
        for rule in rules {
            if rule.left == Some(0) || !(rule.selector)(pod) {
                continue;
            }
            if rule.share < 1.0 && !rng.random_bool(rule.share.max(0.0)) {
                continue;
            }
            rule.left = rule.left.map(|left| left.saturating_sub(1));
            return Some(rule.fault);
        }
        None
    }

    /// A duration within the range.
    pub(super) fn draw(&self, range: &RangeInclusive<Duration>) -> Duration {
        if range.start() >= range.end() {
            return *range.start();
        }
        self.inner.lock().map_or_else(
            |_| *range.start(),
            |mut inner| inner.1.random_range(range.clone()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_read_as_documented() {
        let busy = |strike| {
            Some(Fault::Strike {
                when: When::Busy,
                after: Duration::ZERO,
                strike,
            })
        };
        assert_eq!(Fault::parse("crash=3@busy"), busy(Strike::Crash(3)));
        assert_eq!(Fault::parse("lose-node@busy"), busy(Strike::LoseNode));
        assert_eq!(
            Fault::parse("evict"),
            Some(Fault::Strike {
                when: When::Idle,
                after: Duration::ZERO,
                strike: Strike::Evict
            })
        );
        assert_eq!(
            Fault::parse("slow-start=2"),
            Some(Fault::SlowStart(Duration::from_secs(2)))
        );
        assert_eq!(Fault::parse("never-ready"), Some(Fault::NeverReady));
        assert_eq!(Fault::parse("lingers"), Some(Fault::Lingers));
        assert_eq!(Fault::parse("crash"), None);
        assert_eq!(Fault::parse("crash=1@noon"), None);
    }

    #[test]
    fn a_rule_counts_the_pods_it_hits() {
        let fate = Fate::new(1, vec![FaultRule::new(Fault::Hangs).named("a").times(1)]);
        let pod = |name: &str| Pod {
            metadata: kube::api::ObjectMeta {
                name: Some(name.to_owned()),
                ..Default::default()
            },
            ..Pod::default()
        };
        assert_eq!(fate.of(&pod("b")), None);
        assert_eq!(fate.of(&pod("a1")), Some(Fault::Hangs));
        assert_eq!(fate.of(&pod("a2")), None);
    }
}
