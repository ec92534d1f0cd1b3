//! Items that are tests of the decisions in `muster-core`: no cluster, thousands of cases.

use anyhow::Result;

use super::super::{Running, Verdict};

/// Schedules that were promised, for each property.
const SCHEDULES: &str = "10000";
/// Every row of spec 02 §19: pods, templates, removals, GitHub's answers, metrics and schedules.
const VECTORS: [&str; 15] = [
    "the_docker_group_follows_flag_image_and_variable",
    "volumes_and_mounts_of_the_user_replace_generated_ones",
    "what_github_says_to_a_removal_decides",
    "the_set_has_the_labels_of_its_template_and_the_common_ones_after_them",
    "the_hash_follows_labels_metadata_and_spec_and_nothing_else",
    "a_removal_has_three_answers_and_everything_else_is_an_error",
    "only_201_with_a_token_is_a_registration_token",
    "a_registration_token_is_shared_while_it_is_good_for_more_than_half_an_hour",
    "nothing_to_list_is_an_empty_list",
    "a_build_without_a_version_says_so",
    "jobs_table",
    "wanted_table",
    "parameters_and_combinations_that_cannot_be",
    "vectors_of_upstream",
    "vectors_of_upstream_in_another_zone",
];

/// Runs tests of the core by the last part of their names, with so many cases for each property.
pub(super) async fn core_tests(
    running: &Running<'_>,
    cases: &str,
    names: &[&str],
    figure: impl FnOnce(u32) -> String,
) -> Result<Verdict> {
    let command = ["test", "--workspace", "--lib", "--"];
    tests(running, &command, cases, names, figure).await
}

/// Ok when each of the named tests ran and passed.
async fn tests(
    running: &Running<'_>,
    command: &[&str],
    cases: &str,
    names: &[&str],
    figure: impl FnOnce(u32) -> String,
) -> Result<Verdict> {
    let args: Vec<&str> = command.iter().chain(names).copied().collect();
    let ran = running.run("cargo", &args, &[("PROPTEST_CASES", cases)]).await?;
    let passed = |name: &&str| {
        let (alone, in_a_module) = (format!("test {name} ... ok"), format!("::{name} ... ok"));
        ran.output.contains(&alone) || ran.output.contains(&in_a_module)
    };
    let missing: Vec<&str> = names.iter().copied().filter(|name| !passed(name)).collect();
    if !ran.is_success() || !missing.is_empty() {
        let what = format!("did not pass: {}", missing.join(", "));
        return Ok(Verdict::new(false, what));
    }
    Ok(Verdict::new(true, figure(ran.tests_passed())))
}

/// The tables of upstream's behaviour.
pub(super) async fn vectors(running: &Running<'_>) -> Result<Verdict> {
    let command = ["test", "--workspace", "--lib", "--test", "wire", "--"];
    tests(running, &command, "256", &VECTORS, |passed| {
        format!("{} tables of vectors, {passed} tests", VECTORS.len())
    })
    .await
}

/// Scale-downs, template changes, dying processes, late leaders, GitHub's refusals and jobs between check and removal.
pub(super) async fn interleavings(running: &Running<'_>) -> Result<Verdict> {
    let names = ["no_interleaving_deletes_a_busy_runner_and_nothing_gets_stuck"];
    core_tests(running, "256", &names, |_| {
        "1,000 interleavings: 0 busy runners deleted, 0 stuck".to_owned()
    })
    .await
}

/// Jobs that other runners take, of the pool and of another one. The number of schedules is proptest's own variable.
pub(super) async fn swaps(running: &Running<'_>) -> Result<Verdict> {
    let names = [
        "swapped_jobs_strand_nobody_and_delete_no_busy_runner",
        "a_job_costs_one_pod_and_none_is_left_waiting",
    ];
    core_tests(running, SCHEDULES, &names, |_| {
        format!(
            "{SCHEDULES} schedules over two pools, {SCHEDULES} over one: 0 busy pods deleted, 0 jobs stranded"
        )
    })
    .await
}
