//! Which volume was mounted by which pod, and when.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use jiff::Timestamp;

use super::Bound;

/// Sums over all volumes and mounts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeCounters {
    /// Volumes that the provisioner made.
    pub created: usize,
    /// Volumes whose storage was deleted.
    pub deleted: usize,
    /// Volumes of classes that delete whose object is gone and whose storage is not: nobody knows it any more.
    pub orphaned: usize,
    /// Volumes of classes that retain whose object is gone: the storage is somebody's to keep.
    pub retained: usize,
    /// Times that a pod mounted a volume.
    pub mounts: usize,
    /// Mounts of volumes that another pod had used before.
    pub reused: usize,
    /// Mounts of volumes that another pod had mounted at that moment.
    pub double_mounts: usize,
}

/// A volume in use by a pod. The times are the machine's.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The volume's name.
    pub volume: String,
    /// The claim's name.
    pub claim: String,
    /// The pod's uid.
    pub pod: String,
    /// The pod's name.
    pub pod_name: String,
    /// The node's name.
    pub node: String,
    /// When the containers began.
    pub mounted: Timestamp,
    /// When they had ended.
    pub unmounted: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Inner {
    counters: VolumeCounters,
    mounts: Vec<Mount>,
    /// Claims for one pod alone, and the pod that has them.
    reserved: BTreeMap<String, String>,
    /// Nodes that were given to pods.
    placed: usize,
    /// Volumes that were made and whose storage exists.
    storage: BTreeMap<String, Storage>,
}

#[derive(Clone, Copy, Debug)]
struct Storage {
    /// Its class deletes what is released.
    class_deletes: bool,
    /// As long as the object says so, the storage goes with it.
    goes: bool,
}

/// The book that the provisioner and all pods write to.
#[derive(Debug, Default)]
pub(super) struct Book {
    inner: Mutex<Inner>,
}

impl Book {
    pub(super) fn counters(&self) -> VolumeCounters {
        self.read(|inner| inner.counters)
    }

    pub(super) fn mounts(&self) -> Vec<Mount> {
        self.read(|inner| inner.mounts.clone())
    }

    pub(super) fn placed(&self) -> usize {
        self.read(|inner| inner.placed)
    }

    /// Gives a pod the claims that it must not share. False when another pod has one of them.
    pub(super) fn reserve(&self, pod: &str, claims: &[String]) -> bool {
        self.read(|inner| {
            let is_taken = |claim: &String| inner.reserved.get(claim).is_some_and(|holder| holder != pod);
            if claims.iter().any(is_taken) {
                return false;
            }
            for claim in claims {
                inner.reserved.insert(claim.clone(), pod.to_owned());
            }
            inner.placed += 1;
            true
        })
    }

    pub(super) fn mount(&self, pod: &str, name: &str, node: &str, volumes: &[Bound]) {
        self.read(|inner| {
            for bound in volumes {
                let before = inner
                    .mounts
                    .iter()
                    .filter(|m| m.volume == bound.volume && m.pod != pod);
                let (mut is_used, mut is_mounted) = (false, false);
                for other in before {
                    is_used = true;
                    is_mounted |= other.unmounted.is_none();
                }
                inner.counters.mounts += 1;
                inner.counters.reused += usize::from(is_used);
                inner.counters.double_mounts += usize::from(is_mounted && !bound.shared);
                inner.mounts.push(Mount {
                    volume: bound.volume.clone(),
                    claim: bound.claim.clone(),
                    pod: pod.to_owned(),
                    pod_name: name.to_owned(),
                    node: node.to_owned(),
                    mounted: crate::kubelet::now(),
                    unmounted: None,
                });
            }
        });
    }

    pub(super) fn unmount(&self, pod: &str) {
        self.read(|inner| {
            let own = inner.mounts.iter_mut().filter(|mount| mount.pod == pod);
            for mount in own {
                mount.unmounted.get_or_insert_with(crate::kubelet::now);
            }
            inner.reserved.retain(|_, holder| holder != pod);
        });
    }

    /// The provisioner made a volume, of a class that deletes what is released or not.
    pub(super) fn created(&self, volume: &str, class_deletes: bool) {
        let storage = Storage {
            class_deletes,
            goes: class_deletes,
        };
        self.read(|inner| {
            if inner.storage.insert(volume.to_owned(), storage).is_none() {
                inner.counters.created += 1;
            }
        });
    }

    /// Compares what exists with the objects, given as the names of those that there are and whether their storage
    /// goes with them; `unseen` are those that are so new that they may be missing.
    pub(super) fn compare(&self, objects: &BTreeMap<String, bool>, unseen: &BTreeSet<String>) {
        self.read(|inner| {
            let counters = &mut inner.counters;
            inner.storage.retain(|volume, storage| match objects.get(volume) {
                Some(goes) => {
                    storage.goes = *goes;
                    true
                }
                None if unseen.contains(volume) => true,
                None => {
                    match (storage.goes, storage.class_deletes) {
                        (true, _) => counters.deleted += 1,
                        (false, true) => counters.orphaned += 1,
                        (false, false) => counters.retained += 1,
                    }
                    false
                }
            });
        });
    }

    fn read<T: Default>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        self.inner
            .lock()
            .map(|mut inner| look(&mut inner))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(volume: &str, shared: bool) -> Vec<Bound> {
        vec![Bound {
            volume: volume.to_owned(),
            claim: "claim".to_owned(),
            shared,
        }]
    }

    #[test]
    fn one_after_the_other_is_reuse_and_two_at_once_is_a_double_mount() {
        let book = Book::default();
        book.mount("a", "a-0", "n", &bound("v", false));
        book.unmount("a");
        book.mount("b", "b-0", "n", &bound("v", false));
        let counters = book.counters();
        assert_eq!(
            (counters.mounts, counters.reused, counters.double_mounts),
            (2, 1, 0)
        );
        book.mount("c", "c-0", "n", &bound("v", false));
        assert_eq!(book.counters().double_mounts, 1);
        book.mount("d", "d-0", "n", &bound("w", true));
        book.mount("e", "e-0", "n", &bound("w", true));
        assert_eq!(
            book.counters().double_mounts,
            1,
            "what may be shared is not counted"
        );
    }

    #[test]
    fn a_claim_for_one_pod_is_free_again_when_that_pod_has_ended() {
        let book = Book::default();
        let claims = ["c".to_owned()];
        assert!(book.reserve("a", &claims) && book.reserve("a", &claims));
        assert!(!book.reserve("b", &claims));
        book.unmount("a");
        assert!(book.reserve("b", &claims));
    }

    #[test]
    fn storage_without_an_object_is_deleted_or_orphaned_by_its_last_policy() {
        let book = Book::default();
        let none = BTreeSet::new();
        for (volume, class_deletes) in [("v", true), ("w", true), ("x", false)] {
            book.created(volume, class_deletes);
        }
        let (v, w, x) = (
            ("v".to_owned(), true),
            ("w".to_owned(), false),
            ("x".to_owned(), false),
        );
        book.compare(&[v, w, x].into(), &none);
        book.compare(&BTreeMap::new(), &none);
        let counters = book.counters();
        assert_eq!(
            (counters.deleted, counters.orphaned, counters.retained),
            (1, 1, 1)
        );
    }
}
