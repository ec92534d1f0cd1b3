//! Who may run what. Runners and jobs with equal requirements share a class, classes know which classes they
//! match, and waiting members sit in indexed sets: queueing a job or parking a runner costs the same with ten
//! runners as with a thousand.

use std::collections::{BTreeSet, HashMap};

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::model::ScopeKey;

/// Where a class of runners serves: the question asked of the owner of this module's data.
pub(crate) type Covers<'a> = &'a dyn Fn(&ScopeKey, u64, u64) -> bool;

/// What runners of one class have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RunnerKey {
    pub(crate) scope: ScopeKey,
    pub(crate) group: u64,
    /// Folded, see [`super::model::fold_labels`].
    pub(crate) labels: Vec<String>,
}

/// What jobs of one class have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct JobKey {
    pub(crate) repository: u64,
    /// Folded, see [`super::model::fold_labels`].
    pub(crate) labels: Vec<String>,
}

/// A set with constant-time insertion, removal and random choice.
#[derive(Debug, Default)]
struct IndexedSet {
    members: Vec<u64>,
    positions: HashMap<u64, usize>,
}

impl IndexedSet {
    fn insert(&mut self, member: u64) {
        if !self.positions.contains_key(&member) {
            self.positions.insert(member, self.members.len());
            self.members.push(member);
        }
    }

    fn remove(&mut self, member: u64) -> bool {
        let Some(position) = self.positions.remove(&member) else {
            return false;
        };
        self.members.swap_remove(position);
        if let Some(moved) = self.members.get(position) {
            self.positions.insert(*moved, position);
        }
        true
    }

    fn len(&self) -> usize {
        self.members.len()
    }
}

#[derive(Debug)]
struct RunnerClass {
    key: RunnerKey,
    idle: IndexedSet,
    serves: Vec<usize>,
}

#[derive(Debug)]
struct JobClass {
    key: JobKey,
    waiting: IndexedSet,
    oldest: BTreeSet<u64>,
    served_by: Vec<usize>,
}

/// All classes, the idle runners that wait in a poll and the queued jobs that wait for one.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    runners: Vec<RunnerClass>,
    runner_index: HashMap<RunnerKey, usize>,
    jobs: Vec<JobClass>,
    job_index: HashMap<JobKey, usize>,
}

impl Matcher {
    /// The class of runners with this key.
    pub(crate) fn runner_class(&mut self, key: RunnerKey, covers: Covers<'_>) -> usize {
        if let Some(class) = self.runner_index.get(&key) {
            return *class;
        }
        let class = self.runners.len();
        let mut serves = Vec::new();
        for (index, jobs) in self.jobs.iter_mut().enumerate() {
            if matches(&key, &jobs.key, covers) {
                serves.push(index);
                jobs.served_by.push(class);
            }
        }
        self.runner_index.insert(key.clone(), class);
        self.runners.push(RunnerClass {
            key,
            idle: IndexedSet::default(),
            serves,
        });
        class
    }

    /// The class of jobs with this key.
    pub(crate) fn job_class(&mut self, key: JobKey, covers: Covers<'_>) -> usize {
        if let Some(class) = self.job_index.get(&key) {
            return *class;
        }
        let class = self.jobs.len();
        let mut served_by = Vec::new();
        for (index, runners) in self.runners.iter_mut().enumerate() {
            if matches(&runners.key, &key, covers) {
                served_by.push(index);
                runners.serves.push(class);
            }
        }
        self.job_index.insert(key.clone(), class);
        self.jobs.push(JobClass {
            key,
            waiting: IndexedSet::default(),
            oldest: BTreeSet::new(),
            served_by,
        });
        class
    }

    /// Works out anew who serves whom: the visibility of a group has changed.
    pub(crate) fn rematch(&mut self, covers: Covers<'_>) {
        for jobs in &mut self.jobs {
            jobs.served_by.clear();
        }
        for (class, runners) in self.runners.iter_mut().enumerate() {
            runners.serves.clear();
            for (index, jobs) in self.jobs.iter_mut().enumerate() {
                if matches(&runners.key, &jobs.key, covers) {
                    runners.serves.push(index);
                    jobs.served_by.push(class);
                }
            }
        }
    }

    /// A runner of the class waits for a job.
    pub(crate) fn park(&mut self, class: usize, runner: u64) {
        if let Some(class) = self.runners.get_mut(class) {
            class.idle.insert(runner);
        }
    }

    /// A runner of the class waits no more.
    pub(crate) fn unpark(&mut self, class: usize, runner: u64) -> bool {
        self.runners
            .get_mut(class)
            .is_some_and(|class| class.idle.remove(runner))
    }

    /// A job of the class waits for a runner.
    pub(crate) fn enqueue(&mut self, class: usize, job: u64) {
        if let Some(class) = self.jobs.get_mut(class) {
            class.waiting.insert(job);
            class.oldest.insert(job);
        }
    }

    /// A job of the class waits no more.
    pub(crate) fn dequeue(&mut self, class: usize, job: u64) -> bool {
        self.jobs.get_mut(class).is_some_and(|class| {
            class.oldest.remove(&job);
            class.waiting.remove(job)
        })
    }

    /// Takes any waiting runner that may run jobs of this class, each with the same chance.
    pub(crate) fn take_runner(&mut self, job_class: usize, rng: &mut StdRng) -> Option<u64> {
        let served_by = &self.jobs.get(job_class)?.served_by;
        let sizes = |class: &usize| self.runners.get(*class).map_or(0, |class| class.idle.len());
        let total: usize = served_by.iter().map(sizes).sum();
        if total == 0 {
            return None;
        }
        let mut at = rng.random_range(0..total);
        for class in served_by {
            let Some(class) = self.runners.get_mut(*class) else {
                continue;
            };
            if let Some(runner) = class.idle.members.get(at).copied() {
                class.idle.remove(runner);
                return Some(runner);
            }
            at -= class.idle.len();
        }
        None
    }

    /// Takes a waiting job that runners of this class may run: the oldest (the lowest id), or any.
    pub(crate) fn take_job(&mut self, runner_class: usize, rng: &mut StdRng, any: bool) -> Option<u64> {
        let serves = &self.runners.get(runner_class)?.serves;
        let job = if any {
            let sizes = |class: &usize| self.jobs.get(*class).map_or(0, |class| class.waiting.len());
            let total: usize = serves.iter().map(sizes).sum();
            if total == 0 {
                return None;
            }
            let mut at = rng.random_range(0..total);
            serves.iter().find_map(|class| {
                let waiting = &self.jobs.get(*class)?.waiting;
                let found = waiting.members.get(at).map(|job| (*class, *job));
                at = at.saturating_sub(waiting.len());
                found
            })
        } else {
            serves
                .iter()
                .filter_map(|class| Some((*class, *self.jobs.get(*class)?.oldest.first()?)))
                .min_by_key(|(_, job)| *job)
        };
        let (class, job) = job?;
        self.dequeue(class, job);
        Some(job)
    }
}

fn matches(runners: &RunnerKey, jobs: &JobKey, covers: Covers<'_>) -> bool {
    covers(&runners.scope, runners.group, jobs.repository)
        && jobs
            .labels
            .iter()
            .all(|label| runners.labels.binary_search(label).is_ok())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn everywhere(_: &ScopeKey, _: u64, _: u64) -> bool {
        true
    }

    fn runners(labels: &[&str]) -> RunnerKey {
        RunnerKey {
            scope: ScopeKey::Organization("acme".to_owned()),
            group: 1,
            labels: crate::github::model::fold_labels(labels),
        }
    }

    fn jobs(labels: &[&str]) -> JobKey {
        JobKey {
            repository: 7,
            labels: crate::github::model::fold_labels(labels),
        }
    }

    /// Which of ten equal runners get five jobs.
    fn draw(seed: u64) -> Vec<u64> {
        let mut matcher = Matcher::default();
        let class = matcher.runner_class(runners(&["Linux", "x64"]), &everywhere);
        for runner in 0..10 {
            matcher.park(class, runner);
        }
        let wanted = matcher.job_class(jobs(&["self-hosted", "linux"]), &everywhere);
        let mut rng = StdRng::seed_from_u64(seed);
        (0..5)
            .filter_map(|_| matcher.take_runner(wanted, &mut rng))
            .collect()
    }

    #[test]
    fn any_idle_runner_may_be_chosen_and_the_seed_decides() {
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let first: BTreeSet<u64> = (0..60).map(|seed| draw(seed)[0]).collect();
        assert_eq!(first.len(), 10, "every runner is chosen by some seed");
    }

    #[test]
    fn labels_must_be_a_superset_whatever_the_order_of_arrival() {
        let mut matcher = Matcher::default();
        let mut rng = StdRng::seed_from_u64(0);
        let gpu_jobs = matcher.job_class(jobs(&["GPU", "linux"]), &everywhere);
        let plain = matcher.runner_class(runners(&["linux"]), &everywhere);
        let gpu = matcher.runner_class(runners(&["linux", "gpu"]), &everywhere);
        matcher.park(plain, 1);
        assert_eq!(matcher.take_runner(gpu_jobs, &mut rng), None);
        matcher.park(gpu, 2);
        assert_eq!(matcher.take_runner(gpu_jobs, &mut rng), Some(2));
        matcher.enqueue(gpu_jobs, 50);
        assert_eq!(matcher.take_job(plain, &mut rng, false), None);
        assert_eq!(matcher.take_job(gpu, &mut rng, true), Some(50));
        assert_eq!(matcher.take_job(gpu, &mut rng, true), None);
    }

    #[test]
    fn the_oldest_job_comes_first_across_classes() {
        let mut matcher = Matcher::default();
        let mut rng = StdRng::seed_from_u64(0);
        let both = matcher.runner_class(runners(&["a", "b"]), &everywhere);
        let (a, b) = (
            matcher.job_class(jobs(&["a"]), &everywhere),
            matcher.job_class(jobs(&["b"]), &everywhere),
        );
        matcher.enqueue(a, 3);
        matcher.enqueue(b, 2);
        matcher.enqueue(a, 1);
        assert!(matcher.dequeue(a, 3));
        let order: Vec<_> = std::iter::from_fn(|| matcher.take_job(both, &mut rng, false)).collect();
        assert_eq!(order, [1, 2]);
    }
}
