//! Items that are tests of the decisions in `muster-core`: no cluster, thousands of cases.

use anyhow::Result;

use super::super::{Running, Verdict};

/// Runs tests of the core by the last part of their names. Ok when each of them ran and passed.
async fn core_tests(
    running: &Running<'_>,
    cases: &str,
    names: &[&str],
    figure: impl FnOnce(u32) -> String,
) -> Result<Verdict> {
    let args: Vec<&str> = ["test", "-p", "muster-core", "--lib", "--"]
        .into_iter()
        .chain(names.iter().copied())
        .collect();
    let ran = running.run("cargo", &args, &[("PROPTEST_CASES", cases)]).await?;
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !ran.output.contains(&format!("{name} ... ok")))
        .collect();
    if !ran.is_success() || !missing.is_empty() {
        let what = format!("did not pass: {}", missing.join(", "));
        return Ok(Verdict::new(false, what));
    }
    Ok(Verdict::new(true, figure(ran.tests_passed())))
}

/// Scale-downs, template changes, dying processes, late leaders, GitHub's refusals and jobs between check and removal.
pub(super) async fn interleavings(running: &Running<'_>) -> Result<Verdict> {
    let names = ["no_interleaving_deletes_a_busy_runner_and_nothing_gets_stuck"];
    core_tests(running, "1000", &names, |_| {
        "1,000 interleavings: 0 busy runners deleted, 0 stuck".to_owned()
    })
    .await
}
