//! `--keep`: the demo stays, and says how to play with it.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};

use crate::{
    github::{Delivery, JobHandle, JobSpec, JobState},
    terminal::Terminal,
    world::{LABEL, REPOSITORY, SECRET, World},
};

/// Time between two looks at the job that waits for its webhook.
const LOOK: Duration = Duration::from_millis(200);

/// Prints how to use the demo and serves until the program ends.
pub(super) async fn stay(world: &World, terminal: Terminal) -> Result<()> {
    let kubeconfig = world.admin_kubeconfig()?;
    terminal.say(format_args!(
        "\nEverything stays until Ctrl-C. Try:\n\n  \
         export KUBECONFIG={}\n  \
         kubectl -n {} get pods,runners,rdeploy,hra --watch\n\n\
         Webhook URL: {}\n\
         Logs of the processes: {}",
        kubeconfig.display(),
        world.ns,
        world.webhook_url,
        world.dir().display()
    ));
    loop {
        let job = queue_silently(world).await?;
        let (file, headers) = write_webhook(world, job)?;
        terminal.say(format_args!(
            "\nA job waits on GitHub, but its webhook was not sent. Send it, and a runner comes, runs the job and goes:\n\n  \
             curl -i {headers} --data-binary @{} {}",
            file.display(),
            world.webhook_url
        ));
        while world
            .github
            .job(job.id)
            .is_some_and(|job| job.state != JobState::Completed)
        {
            tokio::time::sleep(LOOK).await;
            world.check_alive().await?;
        }
        terminal.say("The job is done.");
    }
}

/// Queues a job of which nobody hears.
async fn queue_silently(world: &World) -> Result<JobHandle> {
    let hook = world.hook.context("there is no hook")?;
    world.github.set_hook_active(hook, false);
    let spec = JobSpec::new(REPOSITORY, ["self-hosted", LABEL]).duration(Duration::from_secs(10));
    let job = world.github.queue_job(spec);
    // Whether a hook hears of an event is settled when it would be sent.
    world.github.await_webhooks_sent(Duration::from_secs(5)).await?;
    world.github.set_hook_active(hook, true);
    Ok(job)
}

/// Writes the job's webhook to a file, signed as GitHub does. Answers the file and the options for curl.
fn write_webhook(world: &World, job: JobHandle) -> Result<(PathBuf, String)> {
    let payload = world.github.job_payload(job.id).context("there is no job")?;
    let signed = Delivery::workflow_job("queued", &payload).sign(SECRET);
    let file = world.dir().join(format!("queued-{}.json", job.id));
    fs::write(&file, &signed.delivery.body).with_context(|| format!("could not write {}", file.display()))?;
    let wanted = [
        "content-type",
        "x-github-event",
        "x-github-delivery",
        "x-hub-signature-256",
    ];
    let headers: Vec<String> = signed
        .header_pairs()
        .into_iter()
        .filter(|(name, _)| wanted.contains(name))
        .map(|(name, value)| format!("-H '{name}: {value}'"))
        .collect();
    Ok((file, headers.join(" ")))
}
