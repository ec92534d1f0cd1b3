//! Process chassis of Muster's binaries: arguments, telemetry, metrics, HTTP servers, leader election, signals, the Kubernetes client.
//!
//! Nothing here knows runners or GitHub's API; what a binary is about lives above this crate.

pub mod args;
pub mod client;
pub mod clock;
pub mod drive;
pub mod lease;
pub mod metrics;
pub mod process;
pub mod serve;
pub mod shutdown;
pub mod telemetry;
