//! How many runners are wanted: the ledger of jobs and what follows from it.

pub mod demand;
pub mod desired;
pub mod metrics;
pub mod recovery;
pub mod reservation;
pub mod schedule;

#[cfg(test)]
mod model_tests;
