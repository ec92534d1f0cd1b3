//! The list of webhook intake.

use super::Item;

/// The list, in the order in which it is run.
pub(super) const ITEMS: &[Item] = &[super::TRACES];
