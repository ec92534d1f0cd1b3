//! Items on a real control plane: every shape of a pod, a busy runner never killed, swapped jobs, what jobs leave.

use std::{fs, sync::Arc};

use anyhow::{Context, Result};

use crate::{
    control_plane::ControlPlane,
    scenarios::{interleavings, linked, shapes, swaps},
    world::{Kind, World},
};

use super::super::{Running, Verdict};

/// Shapes that were promised.
const SHAPES: usize = 40;
/// Interleavings that were promised.
const SEEDS: u64 = 100;
/// Worlds at once: two processes of each wait most of the time.
const AT_ONCE: usize = 10;
/// Swapped jobs that were promised.
const JOBS: usize = 200;

/// Each shape strictly validated, after its snapshot was compared.
pub(super) async fn shapes(running: &Running<'_>) -> Result<Verdict> {
    let names = [
        "every_shape_is_as_it_was",
        "every_field_of_a_runner_is_in_some_shape",
    ];
    let snapshots = super::decisions::core_tests(running, "256", &names, |_| String::new()).await?;
    if !snapshots.ok {
        return Ok(snapshots);
    }
    let figures = running
        .scenario(async {
            let plane = ControlPlane::start().await?;
            shapes::run(&plane).await
        })
        .await?;
    let refused = figures.refused.first().map(String::as_str).unwrap_or_default();
    Ok(Verdict::new(
        figures.refused.is_empty() && figures.shapes >= SHAPES,
        format!(
            "{} shapes as in their snapshots, every field in one of them; {} objects accepted by the API server, {} refused{refused}",
            figures.shapes,
            figures.accepted,
            figures.refused.len()
        ),
    ))
}

pub(super) async fn interleavings(running: &Running<'_>) -> Result<Verdict> {
    let figures = running
        .scenario(async {
            let plane = Arc::new(ControlPlane::start().await?);
            Ok(interleavings::run(&plane, Kind::RunnerDeployment, 0..SEEDS, AT_ONCE).await)
        })
        .await?;
    if !figures.failures.is_empty() {
        let log = running.runner.logs.join(format!("{}.log", running.item));
        let text = figures.failures.join("\n\n");
        fs::write(&log, text).with_context(|| format!("could not write {}", log.display()))?;
    }
    Ok(Verdict::new(figures.is_good(), figures.line()))
}

pub(super) async fn swaps(running: &Running<'_>) -> Result<Verdict> {
    let figures = running
        .scenario(async {
            let plane = Arc::new(ControlPlane::start().await?);
            let world = swaps::builder(Kind::RunnerDeployment, 1)
                .on(plane)
                .start()
                .await?;
            swaps::run(&world, JOBS, 1).await
        })
        .await?;
    Ok(Verdict::new(figures.is_good(JOBS), figures.line()))
}

/// The pod of a finished job is not held for ever by Secrets that nobody may delete.
pub(super) async fn linked(running: &Running<'_>) -> Result<Verdict> {
    let figures = running
        .scenario(async {
            let plane = Arc::new(ControlPlane::start().await?);
            let world = World::builder("linked").on(plane).start().await?;
            linked::without_the_right(&world).await
        })
        .await?;
    let (left, gone) = (figures.secret_is_left, figures.job_pod_is_gone);
    let reasons: Vec<&str> = figures
        .reasons
        .iter()
        .map(String::as_str)
        .filter(|reason| reason.starts_with("Linked"))
        .collect();
    Ok(Verdict::new(
        figures.is_good(),
        format!(
            "held for {:.1} s; the job's pod is gone: {gone}, its Secret is left: {left}; Events {}",
            figures.held.as_secs_f64(),
            reasons.join(", ")
        ),
    ))
}
