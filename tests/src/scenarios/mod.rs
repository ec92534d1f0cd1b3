//! Whole scenarios with their size as a parameter: world tests run them small in `make test`, acceptance lists run them at the
//! size that was promised. Each answers figures; its caller judges them.

pub mod abandoned;
pub mod arc;
pub mod autoscaling;
pub mod backlog;
pub mod budgets;
pub mod credentials;
pub mod doctor;
pub mod documents;
pub mod explain;
pub mod handback;
pub mod healing;
pub mod image;
pub mod intake;
pub mod interleavings;
pub mod kills;
pub mod linked;
pub mod recovery;
pub mod schedule;
pub mod shapes;
pub mod swaps;
pub mod take_over;
pub mod template_change;
pub mod warm_pool;
