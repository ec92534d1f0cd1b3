//! The controlling owner of an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

/// Look-up of the owner reference with `controller: true`.
pub(crate) trait ControllerOwner {
    /// The reference to the object that controls this one.
    fn controller_owner(&self) -> Option<OwnerReference>;
}

impl<K: Resource> ControllerOwner for K {
    fn controller_owner(&self) -> Option<OwnerReference> {
        let owners = self.meta().owner_references.as_deref().unwrap_or_default();
        owners
            .iter()
            .find(|owner| owner.controller == Some(true))
            .cloned()
    }
}
