//! A manager that does not run.

use std::time::Duration;

use anyhow::Result;

use crate::world::World;

use super::Case;

const LONG: Duration = Duration::from_mins(30);
const PATIENCE: Duration = Duration::from_mins(1);

/// A pool that worked, and a job that came after the manager's end.
pub(super) async fn all() -> Result<(World, Vec<Case>)> {
    let world = World::builder("explain-stopped").start().await?;
    world.deployment("orphan", |_| {}).await?;
    world.autoscaler("orphan", "orphan", |_| {}).await?;
    let decided = async |world: &World| {
        let status = world.get_autoscaler("orphan").await?.status;
        Ok(status.is_some_and(|status| status.desired_replicas.is_some()))
    };
    world.until("the manager has decided", PATIENCE, decided).await?;
    world.kill_manager().await?;
    let job = world.queue_job(LONG);
    let key = format!("{}/{}", job.repository_id, job.id);
    let cases = vec![Case::new(
        "the manager does not run",
        &world.ns,
        "job",
        key,
        "NotReconciled",
    )];
    Ok((world, cases))
}
