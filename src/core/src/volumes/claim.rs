//! What happens to the claim of a runner: its volume is taken into the RunnerSet's keeping while it is bound, and it goes after its
//! StatefulSet and pod (spec 02 §13.2). The order matters: the volume is marked before the claim disappears.

/// The facts of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts, each observed on its own")]
pub struct ClaimView {
    /// It is being deleted.
    pub is_deleting: bool,
    /// Its StatefulSet exists; `None` when that is not known for sure.
    pub has_owner: Option<bool>,
    /// Its pod exists.
    pub has_pod: bool,
    /// It is bound to a volume.
    pub is_bound: bool,
    /// That volume is in the RunnerSet's keeping already.
    pub is_kept: bool,
    /// Volumes of this RunnerSet are kept: `persistentVolumeClaimRetentionPolicy.whenDeleted` is not `Delete`.
    pub keeps: bool,
}

/// What to do, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// Take the volume into keeping.
    pub keep_volume: bool,
    /// Make sure that the StatefulSet is gone, then delete the claim.
    pub delete: bool,
}

/// Decides about one claim.
pub const fn next(claim: ClaimView) -> Next {
    Next {
        keep_volume: claim.keeps && claim.is_bound && !claim.is_kept,
        // Where nothing is kept, the StatefulSet controller deletes claims by itself.
        delete: claim.keeps && !claim.is_deleting && !claim.has_pod && matches!(claim.has_owner, Some(false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_kept_before_its_claim_goes() {
        let used = ClaimView {
            has_owner: Some(true),
            has_pod: true,
            is_bound: true,
            keeps: true,
            ..ClaimView::default()
        };
        let gone = ClaimView {
            has_owner: Some(false),
            has_pod: false,
            is_kept: true,
            ..used
        };
        for (claim, keep_volume, delete) in [
            (used, true, false),
            (
                ClaimView {
                    is_kept: true,
                    ..used
                },
                false,
                false,
            ),
            (
                ClaimView {
                    is_bound: false,
                    ..used
                },
                false,
                false,
            ),
            (gone, false, true),
            (
                ClaimView {
                    is_kept: false,
                    ..gone
                },
                true,
                true,
            ),
            (
                ClaimView {
                    is_bound: false,
                    ..gone
                },
                false,
                true,
            ),
            (
                ClaimView {
                    has_pod: true,
                    ..gone
                },
                false,
                false,
            ),
            (
                ClaimView {
                    has_owner: None,
                    ..gone
                },
                false,
                false,
            ),
            (
                ClaimView {
                    is_deleting: true,
                    ..gone
                },
                false,
                false,
            ),
            (
                ClaimView {
                    keeps: false,
                    is_kept: false,
                    ..gone
                },
                false,
                false,
            ),
        ] {
            assert_eq!(next(claim), Next { keep_volume, delete }, "{claim:?}");
        }
    }
}
