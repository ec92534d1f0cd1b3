//! What is wrong with an installation and its objects, and what to do about it (90 FEATURE 10).
//!
//! ```text
//! observed (definitions, processes, rights, Secrets, webhooks, our objects) -> findings, causes before their consequences
//! ```
//!
//! Nothing is changed, and what could not be read is unknown and never a finding. Which Secrets and rights are to be looked at is decided here too
//! ([`credentials::wanted`], [`rights::wanted`]), so that the reader asks for nothing else.

pub mod admission;
pub mod credentials;
mod definitions;
mod fault;
mod leftovers;
mod pools;
mod processes;
pub mod rights;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        apps::v1::Deployment,
        coordination::v1::Lease,
        core::v1::{Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Resource, ResourceExt};
use serde::Serialize;

pub use fault::{Fault, Severity};

pub use crate::installation::Objects;

use crate::explain::{Subject, text::Secrets};

/// Namespace and name of a Secret.
pub type SecretName = (String, String);

/// Everything that was read. `None` is what could not be read.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The namespace that was asked about; `None` for all.
    pub namespace: Option<String>,
    /// How long a deletion may take; 10 minutes where nothing is said.
    pub stuck_after: Option<SignedDuration>,
    /// Definitions of the group.
    pub definitions: Option<Vec<CustomResourceDefinition>>,
    /// Deployments of all namespaces.
    pub deployments: Option<Vec<Deployment>>,
    /// Leases of the processes' namespaces.
    pub leases: Option<Vec<Lease>>,
    /// Mutating webhooks of the cluster.
    pub mutating: Option<Vec<MutatingWebhookConfiguration>>,
    /// Validating webhooks of the cluster.
    pub validating: Option<Vec<ValidatingWebhookConfiguration>>,
    /// Services of the namespaces that webhooks point to.
    pub services: Option<Vec<Service>>,
    /// What is behind them.
    pub endpoints: Option<Vec<EndpointSlice>>,
    /// Secrets that were looked for; `None` for one that is not there.
    pub secrets: BTreeMap<SecretName, Option<Secret>>,
    /// What the processes' accounts may do.
    pub rights: Vec<rights::Answer>,
    /// Our kinds and what belongs to them.
    pub objects: Objects,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The machine-readable word.
    pub fault: Fault,
    /// How bad it is.
    pub severity: Severity,
    /// The object that it is about.
    pub object: Subject,
    /// A sentence with field and value.
    pub sentence: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    fn new(fault: Fault, object: Subject, sentence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            fault,
            severity: fault.severity(),
            object,
            sentence: sentence.into(),
            remedy: remedy.into(),
        }
    }
}

/// All findings: errors before warnings, causes before consequences.
pub fn examine(observed: &Observed, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    definitions::check(observed, &mut findings);
    processes::check(observed, now, &mut findings);
    rights::check(observed, &mut findings);
    credentials::check(observed, &mut findings);
    admission::check(observed, &mut findings);
    pools::check(observed, &mut findings);
    leftovers::check(observed, now, &mut findings);
    findings.sort_by(|a, b| {
        let key = |one: &Finding| (one.severity, one.fault, one.object.clone());
        key(a).cmp(&key(b)).then_with(|| a.sentence.cmp(&b.sentence))
    });
    findings.dedup();
    // Conditions and fields come from elsewhere: nothing secret, nothing that steers a terminal.
    let secrets = Secrets::of(&observed.objects.pods);
    for finding in &mut findings {
        finding.sentence = secrets.clean(&finding.sentence);
    }
    findings
}

/// Kind, namespace and name.
fn subject<K: Resource<DynamicType = ()>>(object: &K) -> Subject {
    Subject::new(
        &K::kind(&()),
        &object.namespace().unwrap_or_default(),
        &object.name_any(),
    )
}
