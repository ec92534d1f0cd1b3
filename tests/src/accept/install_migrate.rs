//! The list of moving: what is wrong is found, ARC's runners go over and back, and the image runs anywhere.

use std::{sync::Arc, time::Duration};

use anyhow::Result;

use crate::{
    control_plane::ControlPlane,
    scenarios::{doctor, documents, handback, image, take_over},
};

use super::{Item, Running, Verdict, item};

/// Runners that ARC leaves, busy and idle.
const BUSY: usize = 20;
const IDLE: usize = 20;
/// How long the jobs take: longer than the swap there and back.
const JOB: Duration = Duration::from_mins(3);
/// How long nobody may take webhooks.
const GAP: Duration = Duration::from_secs(30);
/// Faults that must be known.
const FAULTS: usize = 20;

/// The list, in the order in which it is run.
pub(super) const ITEMS: &[Item; 5] = &[
    item(
        "doctor",
        "every seeded fault is the first finding, with a remedy; a healthy installation has none",
        |running| Box::pin(diagnose(running)),
    ),
    item(
        "take-over",
        "40 runners of ARC's, half of them busy, go on under Muster",
        |running| Box::pin(taken_over(running)),
    ),
    item(
        "handback",
        "the same 40 go back, and ARC's list algorithm finds its own ledger",
        |running| Box::pin(handed_back(running)),
    ),
    item(
        "image",
        "every executable starts from the unpacked image alone",
        |running| Box::pin(packed(running)),
    ),
    item(
        "documents",
        "the commands of README.md, docs/install.md and docs/migrate-from-arc.md work as written",
        |running| Box::pin(executed(running)),
    ),
];

/// [`ITEMS`], and that nothing is left.
pub(super) const ALONE: &[Item] = {
    let [doctor, take_over, handback, image, documents] = ITEMS;
    &[*doctor, *take_over, *handback, *image, *documents, super::TRACES]
};

async fn plane() -> Result<Arc<ControlPlane>> {
    ControlPlane::start().await.map(Arc::new)
}

async fn diagnose(running: &Running<'_>) -> Result<Verdict> {
    let figures = running.scenario(doctor::run()).await?;
    let missed = figures.missed();
    let ok = missed.is_empty()
        && figures.faults.len() >= FAULTS
        && figures.healthy.is_empty()
        && figures.may_write.is_empty();
    let figure = format!(
        "{} of {} faults are the first finding, with a remedy; {} findings in a healthy installation {}; writes that its role allows: {} {}",
        figures.faults.len() - missed.len(),
        figures.faults.len(),
        figures.healthy.len(),
        figures.healthy.join("; "),
        figures.may_write.len(),
        missed.join("; ")
    );
    Ok(Verdict::new(ok, figure))
}

async fn taken_over(running: &Running<'_>) -> Result<Verdict> {
    let taking = async { take_over::take_over(Some(plane().await?), BUSY, IDLE, JOB).await };
    let figures = running.scenario(taking).await?;
    let ok = figures.pods == BUSY + IDLE
        && figures.recreated == 0
        && figures.objections.is_empty()
        && figures.templates_unchanged
        && (figures.completed, figures.interrupted) == (BUSY, 0)
        && figures.webhook_gap < GAP;
    let figure = format!(
        "{} pods of ARC's, {} made anew; {} of {BUSY} jobs completed, {} interrupted; no webhook taken for {:.1} s, everything looked at after {:.1} s; \
         ARC would object to {} things {}",
        figures.pods,
        figures.recreated,
        figures.completed,
        figures.interrupted,
        figures.webhook_gap.as_secs_f32(),
        figures.taken_over_after.as_secs_f32(),
        figures.objections.len(),
        figures.objections.join("; ")
    );
    Ok(Verdict::new(ok, figure))
}

async fn handed_back(running: &Running<'_>) -> Result<Verdict> {
    let handing = async { handback::there_and_back(Some(plane().await?), BUSY, IDLE, JOB).await };
    let back = running.scenario(handing).await?;
    let [announced, made, again] = back.changes;
    let [entries, with_another, at_the_end] = back.entries;
    let figure = format!(
        "{} pods, {} made anew; no webhook taken for {:.1} s; {made} changes in {:.1} s ({announced} announced, {again} at a second run); ledger: {entries} entries for {BUSY} jobs, \
         {with_another} after one more, {at_the_end} after all are over; {} of {BUSY} jobs completed, {} interrupted; left of ours: {} {}",
        back.pods,
        back.recreated,
        back.webhook_gap.as_secs_f32(),
        back.handed_back_in.as_secs_f32(),
        back.completed,
        back.interrupted,
        back.left.len(),
        back.left.join("; ")
    );
    Ok(Verdict::new(back.is_good(BUSY), figure))
}

async fn packed(running: &Running<'_>) -> Result<Verdict> {
    let packing = async { image::run(Some(plane().await?)).await };
    let figures = running.scenario(packing).await?;
    let how = match figures.how {
        image::How::Chroot => "with the root as their own",
        image::How::Loader => {
            "by the root's loader and libraries: this kernel gives users no root of their own"
        }
    };
    let figure = format!(
        "{} started, {how}; {} files, {} MB packed, user {} {}",
        figures.started.join(", "),
        figures.files,
        figures.packed / 1_000_000,
        figures.user,
        figures.failed.join("; ")
    );
    Ok(Verdict::new(figures.is_good(), figure))
}

async fn executed(running: &Running<'_>) -> Result<Verdict> {
    let figures = running.scenario(documents::run()).await?;
    let figure = format!(
        "{} blocks executed, {} marked as somebody else's {}",
        figures.executed,
        figures.left_out,
        figures.failed.join("; ")
    );
    Ok(Verdict::new(figures.is_good(), figure))
}
