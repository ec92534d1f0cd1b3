//! Webhooks are hints, the queue is the truth (spec 20 "Recovery").
//!
//! Two loops mend what webhooks did not tell. [`queue`] compares the jobs that GitHub lists with the ledgers, [`replay`] finds the
//! deliveries that nobody took, [`hot`] says which repositories are worth asking about, and how often, and [`replaced`] notices when
//! somebody else has emptied a ledger. All of it is decided here,
//! from what was read; an answer that could not be read never gets here, so nothing follows from an error.

pub mod hot;
pub mod queue;
#[cfg(test)]
mod queue_tests;
pub mod replaced;
pub mod replay;
