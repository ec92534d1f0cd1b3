//! Reconcilers of Muster.
//!
//! Each reconciler goes through the same five stages (91 B4): **gather** facts from caches, **check** what the object asks for, **plan** with the pure functions of `muster-core`,
//! **apply** the steps, **report** status, conditions and Events. What wakes whom is in [`legacy::start`].

pub mod admission;
mod clients;
mod conditions;
mod context;
mod ends;
mod error;
mod events;
mod gate;
pub mod legacy;
mod logins;
mod metrics;
mod owner;
mod pod_owner;

pub use clients::{Clients, DefaultClient};
pub use context::{Context, Settings};
pub use error::Error;
pub use legacy::{reconciliation::ReconciliationSettings, runner_set::storage::VolumeSettings};
pub use metrics::Metrics;
