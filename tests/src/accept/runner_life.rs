//! The list of a runner's life: pod shapes, a busy runner never killed, swapped jobs, faults, credentials, take-over.

mod decisions;
mod faults;

use super::{Item, item};

/// The list, in the order in which it is run.
pub(super) const ITEMS: &[Item] = &[
    item(
        "plan-interleavings",
        "a busy runner is never deleted: 1,000 random interleavings of decisions",
        |running| Box::pin(decisions::interleavings(running)),
    ),
    item(
        "faults",
        "thirteen faults of kubelet, node, runner and registration: the place is filled within its deadline",
        |running| Box::pin(faults::faults(running)),
    ),
    item(
        "start-ups",
        "start-ups that all fail are bounded, and healed at full speed",
        |running| Box::pin(faults::start_ups(running)),
    ),
    item(
        "namespace",
        "100 runners can be deleted while GitHub is down, refuses the login, or the login is gone",
        |running| Box::pin(faults::namespace(running)),
    ),
    item(
        "credentials",
        "two Apps and a token side by side, rotated",
        |running| Box::pin(faults::credentials(running)),
    ),
    item(
        "take-over",
        "20 busy and 20 idle runners of ARC's, and back",
        |running| Box::pin(faults::take_over(running)),
    ),
    item(
        "admission",
        "the admission webhooks, live and in detail",
        |running| Box::pin(faults::admission(running)),
    ),
    // Add items above this line.
    super::TRACES,
];
