//! The testbed of Muster: a real Kubernetes control plane, a fake GitHub, a simulated kubelet with runner agents,
//! and the real binaries as processes; tests, the demo and the benchmarks are made of these parts.
//!
//! Everything listens on loopback and dies with the process that started it, however that process ends.

#![recursion_limit = "256"] // GitHub's payloads are large `json!` literals.

pub mod accept;
pub mod agent;
pub mod bench;
pub mod control_plane;
pub mod demo;
pub mod github;
pub(crate) mod go;
pub mod helm;
pub mod install;
pub mod keeper;
pub mod kubelet;
pub mod monitoring;
pub mod process;
pub mod proxy;
pub mod scenarios;
pub mod simulation;
pub mod terminal;
pub mod volumes;
pub mod world;
