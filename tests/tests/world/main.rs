//! World tests (spec part 91 B9, tiers 3 and 4): real control plane, fake GitHub, simulated kubelet, real binaries.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy.toml exempts test functions, not the helpers that they share"
)]

mod admission;
mod control_plane;
mod demo;
mod healing;
mod intake;
mod interleavings;
mod kills;
mod kubelet;
mod kubernetes_mode;
mod main_job;
mod manifests;
mod process;
mod recovery;
mod runners;
mod shapes;
mod take_over;
mod volumes;
