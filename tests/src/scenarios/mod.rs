//! Whole scenarios with their size as a parameter: world tests run them small in `make test`, acceptance lists run them at the
//! size that was promised. Each answers figures; its caller judges them.

pub mod interleavings;
