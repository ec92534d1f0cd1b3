//! The list of a runner's life: pod shapes, a busy runner never killed, swapped jobs, faults, credentials, take-over.

mod decisions;
mod faults;
mod live;

use super::{Item, item};

/// The list, in the order in which it is run.
pub(super) const ITEMS: &[Item] = &[
    item(
        "shapes",
        "pod shapes with every field: snapshots, and strictly validated by the API server",
        |running| Box::pin(live::shapes(running)),
    ),
    item(
        "vectors",
        "the conformance vectors of pods, templates, removals and GitHub's answers",
        |running| Box::pin(decisions::vectors(running)),
    ),
    item(
        "plan-interleavings",
        "a busy runner is never deleted: 1,000 random interleavings of decisions",
        |running| Box::pin(decisions::interleavings(running)),
    ),
    item(
        "live-interleavings",
        "the same live: 100 seeds, each with two managers, kills, leader changes and GitHub's faults",
        |running| Box::pin(live::interleavings(running)),
    ),
    item(
        "plan-swaps",
        "10,000 random schedules in which GitHub gives jobs to other runners than those made for them",
        |running| Box::pin(decisions::swaps(running)),
    ),
    item(
        "live-swaps",
        "the same live: 200 jobs over two pools",
        |running| Box::pin(live::swaps(running)),
    ),
    item(
        "linked",
        "what a job left is given up after 2 minutes where Secrets may not be deleted",
        |running| Box::pin(live::linked(running)),
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
