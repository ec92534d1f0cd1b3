//! Runners that GitHub may still list although their pod was released: nobody could be asked in time, or nobody gave a clear answer (90 PAIN-07, FEATURE 3).
//!
//! They are counted in `muster_leftover_runners`, named in the condition `RunnersLeftOnGitHub` of their RunnerDeployment if that is still there, and removed as soon as GitHub
//! can be asked again. All of it is in memory: GitHub forgets an offline ephemeral runner by itself after a day, another one after two weeks.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use muster_core::scope::Scope;
use muster_github::{GitHub, Removal};
use tokio_util::sync::CancellationToken;

use crate::{
    conditions::{self, Conditioned},
    context::Context,
    ends::Pool,
    error::Error,
};

/// Time between two attempts.
const ROUND: Duration = Duration::from_secs(15);
/// Calls of a round: a cleanup must not use up the rate limit that runners need.
const CALLS: usize = 100;
/// More are counted where they are released, but not kept.
const LIMIT: usize = 10_000;
/// GitHub removes an offline ephemeral runner after this long …
const EPHEMERAL_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// … and another one after this long.
const PERSISTENT_LIFE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// A runner without a pod.
#[derive(Clone, Debug)]
pub(crate) struct Leftover {
    /// Namespace of its pod.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) runner: String,
    /// GitHub's id, where it was known.
    pub(crate) id: Option<u64>,
    /// Where it registered.
    pub(crate) scope: Scope,
    /// The Secret that its pod named.
    pub(crate) secret: Option<String>,
    /// Its RunnerDeployment.
    pub(crate) pool: Option<Pool>,
    /// GitHub forgets it within a day.
    pub(crate) ephemeral: bool,
    /// Why it was left, as in conditions.
    pub(crate) reason: &'static str,
    /// Since when.
    pub(crate) since: Timestamp,
}

type Key = (String, String);

/// All of them that this process knows.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    all: Mutex<BTreeMap<Key, Leftover>>,
}

impl Leftovers {
    /// Takes note of one; how many there are then.
    pub(crate) fn add(&self, leftover: Leftover) -> usize {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < LIMIT {
            all.insert((leftover.namespace.clone(), leftover.runner.clone()), leftover);
        }
        all.len()
    }

    /// Names and reasons of those of a pool.
    pub(crate) fn of(&self, pool: &Pool) -> Vec<(String, &'static str)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values()
            .filter(|leftover| leftover.pool.as_ref() == Some(pool))
            .map(|leftover| (leftover.runner.clone(), leftover.reason))
            .collect()
    }

    fn remove(&self, leftover: &Leftover) {
        let key = (leftover.namespace.clone(), leftover.runner.clone());
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
    }

    /// Those that count still; forgets those that GitHub has forgotten by itself.
    fn current(&self, now: Timestamp) -> Vec<Leftover> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, leftover| {
            let life = if leftover.ephemeral {
                EPHEMERAL_LIFE
            } else {
                PERSISTENT_LIFE
            };
            now.duration_since(leftover.since) < life
        });
        all.values().cloned().collect()
    }
}

/// Says on a scale target which of its runners GitHub may still list although their pods are gone.
pub(super) async fn report<K: Conditioned>(context: &Context, target: &K, pool: &Pool, now: Timestamp) {
    let left = context.leftovers.of(pool);
    let message = message(&left);
    let verdict = match left.first() {
        Some((_, reason)) => conditions::Verdict::left_on_github(true, reason, &message),
        None => conditions::Verdict::left_on_github(false, "AllRemoved", ""),
    };
    conditions::report(&context.client, target, &verdict, now).await;
}

/// Says what a condition says of these runners, ten names at most.
pub(crate) fn message(left: &[(String, &'static str)]) -> String {
    let names: Vec<&str> = left.iter().take(10).map(|(name, _)| name.as_str()).collect();
    let more = if left.len() > names.len() { ", …" } else { "" };
    let reason = left.first().map_or("", |(_, reason)| reason);
    format!(
        "{} runners whose pods are gone may still be listed by GitHub, which gave no clear answer to their removal ({reason}): {}{more}. They are removed when it does.",
        left.len(),
        names.join(", ")
    )
}

/// Tries again and again until `shutdown`.
pub(crate) async fn run(context: &Context, shutdown: CancellationToken, changed: impl Fn(&Pool)) {
    let mut tick = tokio::time::interval(ROUND);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let round = settle_all(context, &changed);
        if shutdown.run_until_cancelled(round).await.is_none() {
            return;
        }
        context
            .metrics
            .leftovers(context.leftovers.current(context.clock.now()).len());
    }
}

async fn settle_all(context: &Context, changed: &impl Fn(&Pool)) {
    let now = context.clock.now();
    // One that cannot ask for one runner cannot ask for the others.
    let mut mute: HashSet<(String, Option<String>)> = HashSet::new();
    for leftover in context.leftovers.current(now).into_iter().take(CALLS) {
        let login = (leftover.namespace.clone(), leftover.secret.clone());
        if mute.contains(&login) {
            continue;
        }
        match settle(context, &leftover, now).await {
            Ok(true) => {
                tracing::info!(runner = %leftover.runner, object = %format_args!("{}/{}", leftover.namespace, leftover.runner), "GitHub does not list a runner any more that was left there.");
                context.leftovers.remove(&leftover);
                if let Some(pool) = &leftover.pool {
                    changed(pool);
                }
            }
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(error = %muster_runtime::telemetry::chain(&error), "Runners that were left on GitHub cannot be removed yet.");
                mute.insert(login);
            }
        }
    }
}

/// Whether the runner is off GitHub now.
async fn settle(context: &Context, leftover: &Leftover, now: Timestamp) -> Result<bool, Error> {
    let github = context
        .clients
        .for_removal(&leftover.namespace, leftover.secret.as_deref(), now)
        .await?;
    let scope = &leftover.scope;
    let id = match leftover.id {
        Some(id) => Some(id),
        None => by_name(context, &github, leftover, now).await?,
    };
    let Some(id) = id else { return Ok(true) };
    let removal = github.remove_runner(scope, id).await;
    let removal = removal.map_err(Error::github(format!("remove runner {id} of {scope}"), now))?;
    Ok(!matches!(removal, Removal::Busy { .. }))
}

/// The id of a runner that was never seen registered: only an offline one that no pod stands for.
async fn by_name(
    context: &Context,
    github: &GitHub,
    leftover: &Leftover,
    now: Timestamp,
) -> Result<Option<u64>, Error> {
    let scope = &leftover.scope;
    let runners = github.list_runners(scope).await;
    let runners = runners.map_err(Error::github(format!("list the runners of {scope}"), now))?;
    let taken = context
        .caches
        .pods
        .get(&leftover.namespace, &leftover.runner)
        .is_some();
    Ok(runners
        .iter()
        .find(|runner| runner.name == leftover.runner && runner.status != "online" && !runner.busy && !taken)
        .map(|runner| runner.id))
}

#[cfg(test)]
mod tests {
    use muster_core::target::TargetKind;

    use super::*;

    fn t(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn leftover(runner: &str, ephemeral: bool) -> Leftover {
        Leftover {
            namespace: "ns".to_owned(),
            runner: runner.to_owned(),
            id: Some(1),
            scope: Scope::from_fields(None, Some("acme"), None).unwrap(),
            secret: None,
            pool: Some(Pool::new(TargetKind::Deployment, "ns", "pool")),
            ephemeral,
            reason: "GitHubUnauthorized",
            since: t(0),
        }
    }

    #[test]
    fn a_leftover_is_named_once_and_forgotten_when_github_has_forgotten_it() {
        let leftovers = Leftovers::default();
        for _ in 0..2 {
            leftovers.add(leftover("a", true));
            leftovers.add(leftover("b", false));
        }
        let pool = Pool::new(TargetKind::Deployment, "ns", "pool");
        let named = leftovers.of(&pool);
        assert_eq!(named.len(), 2);
        let message = message(&named);
        assert!(
            message.contains("2 runners") && message.contains("GitHubUnauthorized"),
            "{message}"
        );
        assert!(message.contains("a, b"), "{message}");
        assert_eq!(leftovers.current(t(86_399)).len(), 2);
        assert_eq!(
            leftovers.current(t(86_400)).len(),
            1,
            "a day for an ephemeral one"
        );
        assert_eq!(leftovers.current(t(14 * 86_400)).len(), 0);
        leftovers.add(leftover("c", true));
        leftovers.remove(&leftover("c", true));
        assert_eq!(leftovers.of(&pool).len(), 0);
    }
}
