//! Decisions of Muster: functions of observed state and time, without I/O.
//!
//! Facts enter as plain structs named `…View` or `…Input`; conclusions leave as a plan, a decision or a built object. This crate knows
//! neither tokio nor a Kubernetes client, reads no clock and draws no random number, so every decision can be replayed in a test.

pub mod admission;
pub mod autoscale;
pub mod doctor;
pub mod explain;
pub mod go;
pub mod handback;
pub mod hash;
pub mod installation;
pub mod job_metrics;
pub mod pods;
pub mod quantity;
pub mod routing;
pub mod scope;
pub mod target;
pub mod volumes;
