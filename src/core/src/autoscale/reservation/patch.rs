//! The difference between two ledgers as a JSON patch of the autoscaler (spec 20 "Intake" 3).

use serde_json::{Value, json};

use muster_crds::legacy::CapacityReservation;

use super::book::{Book, Delta};
use super::{Kind, classify};

const LEDGER: &str = "/spec/capacityReservations";

/// Operations that make `target` of `base`. `None` as base means that the object has no list. Additions are
/// appended without a precondition; whatever touches what exists, and the creation of the list, hold only
/// while the object's generation is `generation`. Entries that change places cost the whole list.
pub fn diff_patch(
    base: Option<&[CapacityReservation]>,
    target: &[CapacityReservation],
    generation: i64,
) -> Vec<Value> {
    let Some(base) = base else {
        return if target.is_empty() {
            Vec::new()
        } else {
            vec![test(generation), create(target)]
        };
    };
    let mut delta = Delta::default();
    let mut rest = target.iter();
    let mut wanted = rest.next();
    for (position, old) in base.iter().enumerate() {
        match wanted {
            Some(new) if same_entry(old, new) => {
                if old != new {
                    delta.changed.push((position, new.clone()));
                }
                wanted = rest.next();
            }
            _ => {
                delta.removed.insert(position);
            }
        }
    }
    delta.appended.extend(wanted.into_iter().chain(rest).cloned());
    let moved = !delta.removed.is_empty() && !delta.appended.is_empty();
    if delta.changed.len() + delta.removed.len() > base.len() / 2 && base.len() > 16
        || moved && delta.removed.len() + delta.appended.len() > target.len()
    {
        return vec![
            test(generation),
            json!({"op": "replace", "path": LEDGER, "value": target}),
        ];
    }
    delta.patch(true, generation)
}

/// True when one may become the other in place.
fn same_entry(a: &CapacityReservation, b: &CapacityReservation) -> bool {
    match (classify(a), classify(b)) {
        (Kind::Job { key: a, .. }, Kind::Job { key: b, .. }) => a == b,
        _ => a == b,
    }
}

impl Delta {
    /// Operations for an object whose list exists or not, in the order in which they hold: changes, removals
    /// from the end on, additions.
    pub fn patch(&self, list_exists: bool, generation: i64) -> Vec<Value> {
        if self.is_empty() {
            return Vec::new();
        }
        if !list_exists {
            return vec![test(generation), create(&self.appended)];
        }
        let mut operations =
            Vec::with_capacity(1 + self.changed.len() + self.removed.len() + self.appended.len());
        if !self.is_additive() {
            operations.push(test(generation));
        }
        operations.extend(self.changed.iter().filter(|(position, _)| !self.removed.contains(position)).map(
            |(position, entry)| json!({"op": "replace", "path": format!("{LEDGER}/{position}"), "value": entry}),
        ));
        operations.extend(
            self.removed
                .iter()
                .rev()
                .map(|position| json!({"op": "remove", "path": format!("{LEDGER}/{position}")})),
        );
        operations.extend(
            self.appended
                .iter()
                .map(|entry| json!({"op": "add", "path": format!("{LEDGER}/-"), "value": entry})),
        );
        operations
    }
}

impl Book {
    /// [`Delta::patch`] for this ledger: a book without entries may stand for an object without a list.
    pub fn patch(&self, delta: &Delta, list_exists: bool, generation: i64) -> Vec<Value> {
        delta.patch(list_exists || !self.entries().is_empty(), generation)
    }
}

/// The generation moves with every change of the spec and with nothing else: status writes do not get in the
/// way.
fn test(generation: i64) -> Value {
    json!({"op": "test", "path": "/metadata/generation", "value": generation})
}

fn create(entries: &[CapacityReservation]) -> Value {
    json!({"op": "add", "path": LEDGER, "value": entries})
}
