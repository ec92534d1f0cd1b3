//! The real client against an in-process HTTP server on loopback: caching, single flight, limits, login, refusals.
//!
//! The cache tests re-run part 92 §5 and the rows of §6 that our set-up fixes, so that an update of the caching crates that
//! changes their behaviour fails here. Answers are made stale by an `Age` header: HTTP freshness follows the system clock.
#![expect(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "helpers of tests fail by panicking and take what is at hand"
)]

mod budgets;
mod caching;
mod calls;
mod fake;
mod hooks;
mod login;
mod logs;
mod paging;
mod queue;
