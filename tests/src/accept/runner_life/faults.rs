//! Items about runners that fail, logins that are lost or rotated, and clusters that ARC ran before.

use std::{sync::Arc, time::Duration};

use anyhow::Result;

use crate::{
    control_plane::ControlPlane,
    scenarios::{
        abandoned::{self, Abandoned, FORCE_AFTER, GRACE, Outage, TIME_BOX},
        credentials::{self, ROTATED_WITHIN},
        healing, take_over,
    },
    world::Kind,
};

use super::super::{Running, Verdict};

/// What is promised beyond a deadline.
const SLACK: Duration = Duration::from_secs(5);
/// Places that each fault strikes.
const PLACES: usize = 3;
/// Runners of a namespace that is deleted.
const RUNNERS: usize = 100;
/// How long Kubernetes' namespace controller may take to see that a namespace is empty.
const NAMESPACE_CONTROLLER: Duration = Duration::from_secs(70);
/// Start-ups that fail are watched for so long.
const FAILING: Duration = Duration::from_secs(95);
/// Pods a minute and RunnerDeployment, once the back-off has begun.
const CREATIONS: usize = 10;
/// A healed pool is full within this time.
const FULL_WITHIN: Duration = Duration::from_secs(30);

async fn plane() -> Result<Option<Arc<ControlPlane>>> {
    ControlPlane::start().await.map(|plane| Some(Arc::new(plane)))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Every fault, several places each: filled again within the deadline and five seconds.
pub(super) async fn faults(running: &Running<'_>) -> Result<Verdict> {
    let healed = running
        .scenario(async { healing::faults(plane().await?, Kind::RunnerDeployment, PLACES).await })
        .await?;
    let late: Vec<&str> = healed
        .iter()
        .filter(|fault| !fault.is_within(SLACK))
        .map(|fault| fault.fault)
        .collect();
    let figures: Vec<String> = healed
        .iter()
        .map(|fault| {
            let slowest = fault.took.first().copied().unwrap_or(Duration::MAX);
            format!(
                "{} {} of {}",
                fault.fault,
                seconds(slowest),
                seconds(fault.deadline + SLACK)
            )
        })
        .collect();
    let ok = late.is_empty() && healed.iter().all(|fault| fault.took.len() == PLACES);
    let late = if late.is_empty() {
        String::new()
    } else {
        format!("; LATE: {}", late.join(", "))
    };
    Ok(Verdict::new(
        ok,
        format!("{PLACES} places each, slowest: {}{late}", figures.join(", ")),
    ))
}

/// A namespace of a hundred runners, deleted while nobody can ask GitHub.
pub(super) async fn namespace(running: &Running<'_>) -> Result<Verdict> {
    let outages = [Outage::Down, Outage::Unauthorized, Outage::SecretGone];
    let lost = RUNNERS / 10;
    // One after the other: the garbage collector and the simulated node of a hundred pods fill two cores.
    let all = running
        .scenario(async {
            let plane = plane().await?;
            let mut all = Vec::new();
            for outage in outages {
                all.push(abandoned::namespace(plane.clone(), RUNNERS, lost, outage).await?);
            }
            anyhow::Ok(all)
        })
        .await?;
    let (mut ok, mut figures) = (true, Vec::new());
    for (outage, out) in outages.into_iter().zip(all) {
        let good = is_good(&out, outage);
        ok &= good;
        figures.push(format!(
            "{outage:?}: {} pods told to go within {}, gone {} after their grace period at most, all after {}, {} on a lost node after {}, the namespace after {}; {} pods said {}; GitHub had {} left, {} reported{}{}",
            out.pods - out.lost,
            seconds(out.told_after),
            seconds(out.slowest),
            seconds(out.pods_gone_after),
            out.lost,
            seconds(out.empty_after),
            seconds(out.gone_after),
            out.with_condition,
            out.reasons.iter().map(String::as_str).collect::<Vec<_>>().join("/"),
            out.on_github,
            out.reported,
            out.settled_after.map_or_else(String::new, |after| format!(", none {} after the outage", seconds(after))),
            if good { "" } else { " (BAD)" },
        ));
    }
    Ok(Verdict::new(ok, figures.join("; ")))
}

/// In time, said, and nothing left unsaid.
fn is_good(out: &Abandoned, outage: Outage) -> bool {
    let reason = match outage {
        Outage::Down => "GitHubUnavailable",
        Outage::Unauthorized => "GitHubUnauthorized",
        Outage::SecretGone => "InvalidCredentials",
    };
    out.pods == RUNNERS
        && out.slowest <= TIME_BOX + SLACK
        && out.pods_gone_after <= out.told_after + GRACE + TIME_BOX + SLACK
        && out.empty_after <= out.told_after + GRACE + TIME_BOX.max(FORCE_AFTER) + 2 * SLACK
        && out.gone_after <= out.empty_after + NAMESPACE_CONTROLLER
        && out.reasons.contains(reason)
        && out.with_condition > 0
        && out.reported >= out.on_github
        && out.on_github >= out.lost
        && (outage == Outage::SecretGone || out.settled_after.is_some())
}

/// Start-ups that all fail, in three ways.
pub(super) async fn start_ups(running: &Running<'_>) -> Result<Verdict> {
    let pools = running
        .scenario(async { healing::start_ups(plane().await?, CREATIONS, FAILING).await })
        .await?;
    let good = |pool: &healing::StartUps| {
        pool.created > CREATIONS
            && pool.created_late <= CREATIONS
            && pool.healed_after <= FULL_WITHIN
            && pool.reason.contains("in a row failed")
    };
    let ok = pools.len() == 3 && pools.iter().all(good);
    let figures: Vec<String> = pools
        .iter()
        .map(|pool| {
            format!(
                "{}: {} pods in {}, {} of them in the last minute; full {} after healing{}",
                pool.fault,
                pool.created,
                seconds(FAILING),
                pool.created_late,
                seconds(pool.healed_after),
                if good(pool) { "" } else { " (BAD)" },
            )
        })
        .collect();
    Ok(Verdict::new(ok, figures.join("; ")))
}

/// Two Apps and a token in three namespaces, rotated and revoked.
pub(super) async fn credentials(running: &Running<'_>) -> Result<Verdict> {
    let out = running
        .scenario(async {
            let plane = Arc::new(ControlPlane::start().await?);
            credentials::credentials(plane, 5, ROTATED_WITHIN + SLACK).await
        })
        .await?;
    let times = |all: &std::collections::BTreeMap<String, Duration>| {
        let all: Vec<String> = all.values().map(|after| seconds(*after)).collect();
        all.join(", ")
    };
    let within = |all: &std::collections::BTreeMap<String, Duration>, count: usize| {
        all.len() == count && all.values().all(|after| *after <= ROTATED_WITHIN)
    };
    let calls: u64 = out.uses.values().flatten().map(|(_, calls)| calls).sum();
    let ok = out.runners.values().all(|runners| *runners == 5)
        && out.runners.len() == 3
        && out.foreign == 0
        && out.stale_calls == 0
        && within(&out.rotated_after, 3)
        && within(&out.healed_after, 1);
    Ok(Verdict::new(
        ok,
        format!(
            "2 Apps and a token in 3 namespaces, {calls} calls, {} with another's login; rotated logins in use after {}, {} old ones used later than 10 s; a pool with a revoked login full {} after the Secret had a good one",
            out.foreign,
            times(&out.rotated_after),
            out.stale_calls,
            times(&out.healed_after),
        ),
    ))
}

/// ARC leaves twenty busy and twenty idle runners.
pub(super) async fn take_over(running: &Running<'_>) -> Result<Verdict> {
    let (busy, idle) = (20, 20);
    let out = running
        .scenario(async { take_over::take_over(plane().await?, busy, idle, Duration::from_secs(45)).await })
        .await?;
    let ok = out.pods == busy + idle
        && out.recreated == 0
        && out.objections.is_empty()
        && out.templates_unchanged
        && out.completed == busy
        && out.interrupted == 0
        && out.pods_created == busy + idle + 1;
    Ok(Verdict::new(
        ok,
        format!(
            "{busy} busy and {idle} idle runners of ARC's: taken over in {}, {} pods recreated; idle ones gone {} after the scale-down, {} jobs completed, {} interrupted; what ARC would object to: {}",
            seconds(out.taken_over_after),
            out.recreated,
            seconds(out.idle_gone_after),
            out.completed,
            out.interrupted,
            if out.objections.is_empty() && out.templates_unchanged {
                "nothing".to_owned()
            } else {
                format!(
                    "templates unchanged: {}, {}",
                    out.templates_unchanged,
                    out.objections.join("; ")
                )
            },
        ),
    ))
}

/// Tests of the admission webhooks, live on the API server and of the decisions.
const ADMISSION: &[&str] = &[
    "what_can_never_work_is_refused_with_its_causes",
    "runner_pods_get_what_they_register_with",
    "a_manager_that_is_down_blocks_nobody_else",
    "what_became_invalid_can_still_be_deleted",
    "a_self_made_certificate_is_announced_and_served",
];

/// Both review versions, five kinds, token injection, certificates, and a manager that is down.
pub(super) async fn admission(running: &Running<'_>) -> Result<Verdict> {
    let live = ["test", "--workspace", "--test", "world", "--", "admission::"];
    let live = running.run("cargo", &live, &[]).await?;
    let missing: Vec<&str> = ADMISSION
        .iter()
        .copied()
        .filter(|name| !live.output.contains(&format!("admission::{name} ... ok")))
        .collect();
    let pure = ["test", "--workspace", "--lib", "--", "admission::", "tls::"];
    let pure = running.run("cargo", &pure, &[]).await?;
    let (live_passed, pure_passed) = (live.tests_passed(), pure.tests_passed());
    let ok = live.is_success() && pure.is_success() && missing.is_empty() && pure_passed >= 20;
    let missing = if missing.is_empty() {
        String::new()
    } else {
        format!("; missing: {}", missing.join(", "))
    };
    Ok(Verdict::new(
        ok,
        format!(
            "{live_passed} tests on the API server (v1 and v1beta1, five kinds, tokens, certificates, manager down), {pure_passed} of the decisions{missing}"
        ),
    ))
}
