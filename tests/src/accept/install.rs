//! The list of the installation: the chart, its rights, upgrade from ARC, the end.

mod charts;
mod release;

use super::{Item, install_migrate, item};

/// The list, in the order in which it is run.
pub(super) const ITEMS: &[Item] = &{
    let [doctor, take_over, handback, image, documents] = *install_migrate::ITEMS;
    let [charts, golden, apply, rbac_run, verbs, upgrade, uninstall] = OWN;
    [
        charts,
        golden,
        apply,
        rbac_run,
        verbs,
        upgrade,
        uninstall,
        doctor,
        take_over,
        handback,
        image,
        documents,
        super::TRACES,
    ]
};

const OWN: [Item; 7] = [
    item(
        "charts",
        "values files that set every value, each with an effect: linted, rendered, strictly validated by the API server",
        |running| Box::pin(charts::charts(running)),
    ),
    item(
        "golden",
        "rendered shapes are those that were reviewed",
        |running| Box::pin(charts::golden(running)),
    ),
    item(
        "apply",
        "kubectl applies crds/ and every base of config/, all of it strictly valid",
        |running| Box::pin(charts::apply(running)),
    ),
    item(
        "rbac-run",
        "the demo's 50 jobs with the accounts, rights, flags and variables that the chart renders, in both scopes",
        |running| Box::pin(release::rbac_run(running)),
    ),
    item(
        "verbs",
        "a role without one of its verbs is noticed, whichever of those that a job needs it is",
        |running| Box::pin(release::verbs(running)),
    ),
    item(
        "upgrade",
        "helm upgrade from a release as ARC's chart leaves it keeps definitions, objects and selectors",
        |running| Box::pin(release::upgrade(running)),
    ),
    item(
        "uninstall",
        "helm uninstall ends all runners, the busy one after its job, and leaves nothing",
        |running| Box::pin(release::uninstall(running)),
    ),
];
