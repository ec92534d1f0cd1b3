//! API types of Muster's custom resources, the keys shared between components, and the CRDs made from the types.
//!
//! The wire format is the one of the `actions.summerwind.dev/v1alpha1` group as its users know it (spec 01): every
//! field is accepted, nothing is defaulted by the schema, and additions of our own (`status.conditions`) are optional.
//! This crate knows neither a Kubernetes client nor a clock; it describes data.
//!
//! ```text
//! legacy::*  ──derive──▶ schema::crds() ──crdgen──▶ crds/actions.summerwind.dev_<plural>.yaml
//!    ▲
//!    └── muster-core, controllers, webhook server (typed objects)      keys: names used by all of them
//! ```

pub mod keys;
pub mod legacy;
pub mod local_time;
pub mod schema;
pub mod time;
