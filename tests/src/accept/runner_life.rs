//! The list of a runner's life: pod shapes, a busy runner never killed, swapped jobs, faults, credentials, take-over.

mod decisions;

use super::{Item, item};

/// The list, in the order in which it is run.
pub(super) const ITEMS: &[Item] = &[
    item(
        "plan-interleavings",
        "a busy runner is never deleted: 1,000 random interleavings of decisions",
        |running| Box::pin(decisions::interleavings(running)),
    ),
    // Add items above this line.
    super::TRACES,
];
