//! World tests (spec part 91 B9, tiers 3 and 4): real control plane, fake GitHub, simulated kubelet, real binaries.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy.toml exempts test functions, not the helpers that they share"
)]

/// Makes a test of each function for each kind of pool: `runner_deployment::name` and `runner_set::name`.
macro_rules! over_both_kinds {
    ($($name:ident),+ $(,)?) => {
        mod runner_deployment {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(muster_tests::world::Kind::RunnerDeployment).await;
            })+
        }
        mod runner_set {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(muster_tests::world::Kind::RunnerSet).await;
            })+
        }
    };
}

mod admission;
mod autoscaling;
mod budgets;
mod control_plane;
mod costs;
mod demo;
mod doctor;
mod documents;
mod explain;
mod handback;
mod healing;
mod image;
mod install;
mod intake;
mod interleavings;
mod kills;
mod kubelet;
mod kubernetes_mode;
mod main_job;
mod manifests;
mod metrics_server;
mod monitoring;
mod process;
mod protection;
mod recovery;
mod replay;
mod runner_set;
mod runners;
mod shapes;
mod simulation;
mod swaps;
mod take_over;
mod template_change;
mod volumes;
