//! What dashboards, alerts and documentation say about metrics, and what the processes show.

pub mod documented;
pub mod promql;
pub mod queries;
pub mod shown;
