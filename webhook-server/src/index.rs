//! The autoscalers and their targets as watched, merged with what this process has just written.
//!
//! An event changes what it concerns and nothing else. A ledger in the index always is the object's at the
//! generation beside it: a writer that computes a patch with a precondition from it is either right or
//! refused.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use kube::Resource;
use kube::core::NamespaceResourceScope;
use kube::runtime::watcher::Event;
use muster_core::autoscale::reservation::{Book, Delta, JobKey};
use muster_core::routing::{
    self, AutoscalerId, AutoscalerInput, AutoscalerView, EventFacts, JobFacts, Routing, TargetKeys,
    Triggered, Visibility, route_event, route_in,
};
use muster_core::target::{TargetId, TargetKind};
use muster_crds::legacy::{
    HorizontalRunnerAutoscaler, RunnerDeployment, RunnerSet, ScaleTargetRef, ScaleUpTrigger,
};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::objects::{AutoscalerSpec, DeploymentSpec, TargetSpec, Watched};

/// An autoscaler as watched.
pub type WatchedAutoscaler = Watched<HorizontalRunnerAutoscaler>;

/// Facts of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    keys: TargetKeys,
    labels: Vec<String>,
}

impl From<TargetSpec> for Target {
    fn from(spec: TargetSpec) -> Self {
        let TargetSpec {
            repository,
            organization,
            enterprise,
            group,
            labels,
        } = spec;
        Self {
            keys: TargetKeys {
                repository,
                organization,
                enterprise,
                group,
            },
            labels: labels.unwrap_or_default(),
        }
    }
}

/// Facts of an autoscaler.
#[derive(Clone, Debug)]
struct Autoscaler {
    created_at: Option<Timestamp>,
    is_deleting: bool,
    target_ref: Option<ScaleTargetRef>,
    triggers: Vec<ScaleUpTrigger>,
    ledger: Ledger,
    /// Ends the writer.
    gone: CancellationToken,
}

/// An autoscaler's ledger at one generation of the object.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// Identity of the object.
    pub uid: String,
    /// Generation at which the object's list is the book's.
    pub generation: i64,
    /// The entries.
    pub book: Book,
    /// True when the object has a list at all.
    pub list_exists: bool,
    /// Length of the spec besides the entries, about.
    pub rest_bytes: usize,
    /// Newest generation that is known of.
    newest_generation: i64,
    /// Jobs that we added since `generation`.
    ahead: Vec<JobKey>,
}

impl Ledger {
    /// True when this ledger cannot be the base for an event of the job: what we wrote about it is not in the
    /// book yet.
    pub fn is_behind_on(&self, key: &JobKey) -> bool {
        self.ahead.contains(key)
    }

    /// True when the watch has not told us of others' writes for so long that reading is cheaper than
    /// remembering.
    pub fn is_far_behind(&self) -> bool {
        self.ahead.len() > 256
    }

    /// True when others have written beside us and the watch has not told us yet.
    pub fn is_behind(&self) -> bool {
        self.newest_generation > self.generation
    }

    /// About the size of the object.
    pub fn object_bytes(&self) -> usize {
        // Metadata with managed fields, and the status.
        self.rest_bytes + self.book.bytes() + 2_048
    }
}

#[derive(Debug, Default)]
struct Inner {
    routing: routing::Index,
    autoscalers: HashMap<AutoscalerId, Autoscaler>,
    targets: HashMap<TargetId, Target>,
    referrers: HashMap<TargetId, HashSet<AutoscalerId>>,
}

/// The index of one server, shared by its watches, its writers and its handlers.
#[derive(Debug, Default)]
pub struct Index {
    inner: RwLock<Inner>,
    common_labels: Vec<String>,
    metrics: Metrics,
}

/// What an object that was read again changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// It is in the index.
    Present,
    /// It cannot be read, and is not in the index any more.
    Broken,
}

impl Index {
    /// An empty index. `common_labels` count as labels of every runner.
    pub fn new(common_labels: Vec<String>, metrics: Metrics) -> Self {
        Self {
            inner: RwLock::default(),
            common_labels,
            metrics,
        }
    }

    // A panic while the lock is held leaves at worst one autoscaler half updated; the next event of it
    // repairs that.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a job's event goes.
    pub fn route(&self, event: &JobFacts<'_>, visibility: Visibility<'_>) -> Routing {
        route_in(event, &self.read().routing, visibility)
    }

    /// Where an event goes that triggers may wait for.
    pub fn route_event(&self, event: &EventFacts<'_>, visibility: Visibility<'_>) -> Triggered {
        route_event(event, &self.read().routing, visibility)
    }

    /// What routing knows of all autoscalers.
    pub fn views(&self) -> Vec<std::sync::Arc<AutoscalerView>> {
        self.read().routing.iter().cloned().collect()
    }

    /// Whether an autoscaler has a trigger for other events than jobs.
    pub fn has_event_triggers(&self) -> bool {
        self.read().routing.has_event_triggers()
    }

    /// What routing knows of an autoscaler.
    pub fn view(&self, id: &AutoscalerId) -> Option<std::sync::Arc<AutoscalerView>> {
        self.read().routing.get(id).cloned()
    }

    /// Runs `f` on an autoscaler's ledger; `None` when it is not in the index.
    pub fn with_ledger<R>(
        &self,
        id: &AutoscalerId,
        f: impl FnOnce(&Ledger, &AutoscalerView) -> R,
    ) -> Option<R> {
        let inner = self.read();
        let ledger = &inner.autoscalers.get(id)?.ledger;
        Some(f(ledger, inner.routing.get(id)?))
    }

    /// Cancelled once the autoscaler is gone; `None` when it is not in the index.
    pub fn gone(&self, id: &AutoscalerId) -> Option<CancellationToken> {
        self.read()
            .autoscalers
            .get(id)
            .map(|autoscaler| autoscaler.gone.clone())
    }

    /// Takes over an autoscaler as watched or read. `fresh` says that it was listed or read just now and
    /// counts even if its generation is lower than the known one, as after a restored backup.
    pub fn observe_autoscaler(&self, object: &WatchedAutoscaler, fresh: bool) -> Observed {
        let id = AutoscalerId::new(object.namespace(), object.name());
        {
            let inner = self.read();
            if let Some(known) = inner.autoscalers.get(&id)
                && known.ledger.uid == object.uid()
                && known.is_deleting == object.is_deleting()
                && (object.generation() == known.ledger.generation
                    || object.generation() < known.ledger.generation && !fresh)
            {
                return Observed::Present;
            }
        }
        // Reading a large ledger takes milliseconds: not under the lock.
        let spec: AutoscalerSpec = match object.spec() {
            Ok(spec) => spec,
            Err(error) => {
                tracing::warn!(object = %id, error = %error, "Left out an autoscaler that cannot be read");
                self.remove_autoscaler(&id, None);
                return Observed::Broken;
            }
        };
        let list_exists = spec.capacity_reservations.is_some();
        let book = Book::new(spec.capacity_reservations.unwrap_or_default());
        let ledger = Ledger {
            uid: object.uid().to_owned(),
            generation: object.generation(),
            rest_bytes: object.spec_bytes().saturating_sub(book.bytes()),
            book,
            list_exists,
            newest_generation: object.generation(),
            ahead: Vec::new(),
        };
        self.write().put_autoscaler(
            &id,
            AutoscalerFacts {
                created_at: object.created_at(),
                is_deleting: object.is_deleting(),
                target_ref: spec.scale_target_ref,
                triggers: spec.scale_up_triggers.unwrap_or_default(),
            },
            ledger,
            fresh,
            &self.common_labels,
        );
        self.count();
        Observed::Present
    }

    /// Forgets an autoscaler, with `uid` only if it still is that one. Its writer ends.
    pub fn remove_autoscaler(&self, id: &AutoscalerId, uid: Option<&str>) {
        self.write().remove_autoscaler(id, uid);
        self.count();
    }

    fn count(&self) {
        let number = self.read().autoscalers.len();
        self.metrics
            .autoscalers
            .set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// Takes over what a patch has changed. `base` is the generation from which the change was computed,
    /// `generation` the one that the API server answered with.
    pub fn committed(&self, id: &AutoscalerId, uid: &str, base: i64, generation: i64, delta: Delta) {
        self.write().committed(id, uid, base, generation, delta);
    }

    fn put_target(&self, id: &TargetId, target: Target) {
        self.write().put_target(id, Some(target), &self.common_labels);
    }

    fn remove_target(&self, id: &TargetId) {
        self.write().put_target(id, None, &self.common_labels);
    }
}

struct AutoscalerFacts {
    created_at: Option<Timestamp>,
    is_deleting: bool,
    target_ref: Option<ScaleTargetRef>,
    triggers: Vec<ScaleUpTrigger>,
}

impl Inner {
    fn put_autoscaler(
        &mut self,
        id: &AutoscalerId,
        facts: AutoscalerFacts,
        mut ledger: Ledger,
        fresh: bool,
        common_labels: &[String],
    ) {
        if self
            .autoscalers
            .get(id)
            .is_some_and(|known| known.ledger.uid != ledger.uid)
        {
            self.remove_autoscaler(id, None);
        }
        // Another thread may have been faster with a newer one.
        if !fresh
            && self
                .autoscalers
                .get(id)
                .is_some_and(|known| known.ledger.generation > ledger.generation)
        {
            return;
        }
        let known = self.autoscalers.remove(id);
        let AutoscalerFacts {
            created_at,
            is_deleting,
            target_ref,
            triggers,
        } = facts;
        self.refer(
            id,
            known.as_ref().and_then(|known| known.target_ref.as_ref()),
            false,
        );
        self.refer(id, target_ref.as_ref(), true);
        let old = known.as_ref().map(|known| &known.ledger);
        let dropped: Vec<JobKey> = old
            .into_iter()
            .flat_map(|old| old.book.keys().chain(&old.ahead))
            .filter(|key| !ledger.book.holds(key))
            .cloned()
            .collect();
        let added: Vec<JobKey> = ledger
            .book
            .keys()
            .filter(|key| old.is_none_or(|old| !old.book.holds(key)))
            .cloned()
            .collect();
        if let Some(old) = old.filter(|_| !fresh) {
            ledger.newest_generation = ledger.newest_generation.max(old.newest_generation);
        }
        let gone = known.map(|known| known.gone).unwrap_or_default();
        self.autoscalers.insert(
            id.clone(),
            Autoscaler {
                created_at,
                is_deleting,
                target_ref,
                triggers,
                ledger,
                gone,
            },
        );
        self.show(id, common_labels);
        for key in &dropped {
            self.routing.release(id, key);
        }
        for key in added {
            self.routing.hold(id, key);
        }
    }

    fn remove_autoscaler(&mut self, id: &AutoscalerId, uid: Option<&str>) {
        if uid.is_some_and(|uid| {
            self.autoscalers
                .get(id)
                .is_some_and(|known| known.ledger.uid != uid)
        }) {
            return;
        }
        if let Some(known) = self.autoscalers.remove(id) {
            self.refer(id, known.target_ref.as_ref(), false);
            known.gone.cancel();
        }
        self.routing.remove(id);
    }

    fn refer(&mut self, id: &AutoscalerId, reference: Option<&ScaleTargetRef>, refers: bool) {
        let Some(target) = TargetId::of(&id.namespace, reference) else {
            return;
        };
        if refers {
            self.referrers.entry(target).or_default().insert(id.clone());
        } else if let Some(referrers) = self.referrers.get_mut(&target) {
            referrers.remove(id);
            if referrers.is_empty() {
                self.referrers.remove(&target);
            }
        }
    }

    /// Brings what routing knows of an autoscaler up to date.
    fn show(&mut self, id: &AutoscalerId, common_labels: &[String]) {
        let Some(autoscaler) = self.autoscalers.get(id) else {
            return;
        };
        let target = TargetId::of(&id.namespace, autoscaler.target_ref.as_ref())
            .and_then(|target| self.targets.get(&target))
            .map(|target| (&target.keys, target.labels.as_slice()));
        let view = AutoscalerView::new(
            &AutoscalerInput {
                namespace: &id.namespace,
                name: &id.name,
                uid: &autoscaler.ledger.uid,
                created_at: autoscaler.created_at,
                is_deleting: autoscaler.is_deleting,
                target_ref: autoscaler.target_ref.as_ref(),
                triggers: &autoscaler.triggers,
                target,
            },
            common_labels,
        );
        if self.routing.get(id).is_some_and(|known| **known == view) {
            return;
        }
        if let Some(reason) = &view.not_considered {
            tracing::debug!(object = %id, reason = %reason, "Autoscaler is not considered for webhooks");
        }
        self.routing.upsert(view);
    }

    fn put_target(&mut self, id: &TargetId, target: Option<Target>, common_labels: &[String]) {
        let changed = match target {
            Some(target) if self.targets.get(id) == Some(&target) => false,
            Some(target) => {
                self.targets.insert(id.clone(), target);
                true
            }
            None => self.targets.remove(id).is_some(),
        };
        if changed {
            let referrers: Vec<AutoscalerId> =
                self.referrers.get(id).into_iter().flatten().cloned().collect();
            for autoscaler in referrers {
                self.show(&autoscaler, common_labels);
            }
        }
    }

    fn committed(&mut self, id: &AutoscalerId, uid: &str, base: i64, generation: i64, delta: Delta) {
        let Some(autoscaler) = self
            .autoscalers
            .get_mut(id)
            .filter(|known| known.ledger.uid == uid)
        else {
            return;
        };
        let ledger = &mut autoscaler.ledger;
        ledger.newest_generation = ledger.newest_generation.max(generation);
        if ledger.generation >= generation {
            // The watch was faster.
            return;
        }
        // Only our own change lies between the two generations, and it holds for this very ledger: then the
        // outcome is known to the last entry.
        let exact = generation == ledger.generation + 1 && (ledger.generation == base || delta.is_additive());
        if exact {
            let (added, gone) = ledger.book.commit(delta);
            ledger.generation = generation;
            ledger.list_exists = true;
            for key in &gone {
                self.routing.release(id, key);
            }
            for key in added {
                self.routing.hold(id, key);
            }
            return;
        }
        // The watch will bring the whole; until then at least the jobs that are ours now are found here, and
        // those to which we appended something are not folded again without it.
        let added = Book::new(delta.appended);
        ledger.ahead.extend(added.keys().cloned());
        for key in added.keys() {
            self.routing.hold(id, key.clone());
        }
    }
}

/// One watch's view of the index: what it has seen since its last complete list.
pub trait Watching: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Sized {
    /// Takes over an object.
    fn observe(index: &Index, object: &Watched<Self>, fresh: bool);
    /// Forgets an object.
    fn forget(index: &Index, namespace: &str, name: &str);
    /// All objects of this kind in the index.
    fn known(index: &Index) -> Vec<(String, String)>;
}

impl Watching for HorizontalRunnerAutoscaler {
    fn observe(index: &Index, object: &Watched<Self>, fresh: bool) {
        index.observe_autoscaler(object, fresh);
    }

    fn forget(index: &Index, namespace: &str, name: &str) {
        index.remove_autoscaler(&AutoscalerId::new(namespace, name), None);
    }

    fn known(index: &Index) -> Vec<(String, String)> {
        index
            .read()
            .autoscalers
            .keys()
            .map(|id| (id.namespace.clone(), id.name.clone()))
            .collect()
    }
}

/// The two target kinds differ in where their facts stand.
fn observe_target<K, S>(index: &Index, kind: TargetKind, object: &Watched<K>)
where
    S: serde::de::DeserializeOwned + Default + Into<TargetSpec>,
{
    let id = TargetId {
        kind,
        namespace: object.namespace().to_owned(),
        name: object.name().to_owned(),
    };
    match object.spec::<S>() {
        Ok(spec) => index.put_target(&id, Target::from(spec.into())),
        Err(error) => {
            tracing::warn!(
                object = %format_args!("{}/{}", id.namespace, id.name),
                error = %error,
                "Left out a scale target that cannot be read"
            );
            index.remove_target(&id);
        }
    }
}

fn known_targets(index: &Index, kind: TargetKind) -> Vec<(String, String)> {
    let inner = index.read();
    inner
        .targets
        .keys()
        .filter(|id| id.kind == kind)
        .map(|id| (id.namespace.clone(), id.name.clone()))
        .collect()
}

impl Watching for RunnerDeployment {
    fn observe(index: &Index, object: &Watched<Self>, _fresh: bool) {
        observe_target::<Self, DeploymentSpec>(index, TargetKind::Deployment, object);
    }

    fn forget(index: &Index, namespace: &str, name: &str) {
        index.remove_target(&TargetId::new(TargetKind::Deployment, namespace, name));
    }

    fn known(index: &Index) -> Vec<(String, String)> {
        known_targets(index, TargetKind::Deployment)
    }
}

impl Watching for RunnerSet {
    fn observe(index: &Index, object: &Watched<Self>, _fresh: bool) {
        observe_target::<Self, TargetSpec>(index, TargetKind::Set, object);
    }

    fn forget(index: &Index, namespace: &str, name: &str) {
        index.remove_target(&TargetId::new(TargetKind::Set, namespace, name));
    }

    fn known(index: &Index) -> Vec<(String, String)> {
        known_targets(index, TargetKind::Set)
    }
}

/// Feeds the events of one watch to the index.
#[derive(Debug, Default)]
pub struct Feed {
    listed: BTreeSet<(String, String)>,
}

impl Feed {
    /// Takes over one event. True when a list is complete: everything that it did not name is gone.
    pub fn apply<K: Watching>(&mut self, index: &Index, event: Event<Watched<K>>) -> bool {
        match event {
            Event::Apply(object) => K::observe(index, &object, false),
            Event::Delete(object) => K::forget(index, object.namespace(), object.name()),
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                self.listed
                    .insert((object.namespace().to_owned(), object.name().to_owned()));
                K::observe(index, &object, true);
            }
            Event::InitDone => {
                for (namespace, name) in K::known(index) {
                    if !self.listed.contains(&(namespace.clone(), name.clone())) {
                        K::forget(index, &namespace, &name);
                    }
                }
                self.listed.clear();
                return true;
            }
        }
        false
    }
}
