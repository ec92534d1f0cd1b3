//! Runner pods and the owners between a set of runners and its pods.

pub mod linked;
pub mod liveness;
pub mod owner;
pub mod phase;
pub mod plan;
pub mod rbac;
mod rollout;
pub mod stateful_set;
pub mod template;
pub mod unregister;

pub use owner::{OwnerView, PodOwner, PodSelection};
pub use phase::{PodClass, PodView};
pub use plan::{Hold, Plan, Served, Step, Want, Why, counts, plan};

#[cfg(test)]
mod interleavings_tests;
