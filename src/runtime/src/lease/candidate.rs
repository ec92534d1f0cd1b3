//! Reading and writing the Lease for one candidate.

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::time::Instant;

use super::{
    LeaseConfig,
    decide::{Observer, Record, Step, decide},
};
use crate::clock::Clock;

/// Result of one attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Created, claimed or renewed.
    Held,
    /// Somebody else holds the lock.
    HeldByOther { holder: String, until: Instant },
    /// Somebody wrote at the same time; look again.
    Contended,
}

/// Reads and writes the Lease.
pub(super) struct Candidate {
    api: Api<Lease>,
    pub(super) config: LeaseConfig,
    clock: Clock,
    observer: Observer,
    /// The Lease as we wrote it last; renewing it needs no reading.
    held: Option<Lease>,
}

impl Candidate {
    pub(super) fn new(client: Client, config: LeaseConfig, clock: Clock) -> Self {
        let api = Api::namespaced(client, &config.namespace);
        Self {
            api,
            config,
            clock,
            observer: Observer::default(),
            held: None,
        }
    }

    pub(super) async fn attempt(&mut self) -> Result<Outcome, kube::Error> {
        let found = match self.held.take() {
            Some(held) => Some(held),
            None => self.api.get_opt(&self.config.name).await?,
        };
        let now = Instant::now();
        let record = found.as_ref().map(Record::of);
        let seen = record
            .as_ref()
            .map(|record| (record, self.observer.unchanged_since(record, now)));
        let written = match decide(&self.config.identity, seen, self.config.term, now) {
            Step::Wait { until } => {
                let holder = record.and_then(|record| record.holder).unwrap_or_default();
                return Ok(Outcome::HeldByOther { holder, until });
            }
            Step::Create => {
                self.api
                    .create(&PostParams::default(), &self.lease(None, 0))
                    .await
            }
            Step::Claim { transitions } => self.update(&self.lease(found, transitions)).await,
            Step::Renew => {
                let mut lease = found.unwrap_or_default();
                lease.spec.get_or_insert_default().renew_time = Some(MicroTime(self.clock.now()));
                self.update(&lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.held = Some(lease);
                Ok(Outcome::Held)
            }
            // 409: somebody was faster; 404: the Lease was deleted in between. Both are settled by looking again.
            Err(kube::Error::Api(status))
                if matches!(status.code, 404 | 409) && !is_namespace_missing(&status.message) =>
            {
                Ok(Outcome::Contended)
            }
            Err(error) => Err(error),
        }
    }

    async fn update(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        // The charts grant `update` and not `patch`; the resource version in the object makes this a compare-and-swap.
        self.api
            .replace(&self.config.name, &PostParams::default(), lease)
            .await
    }

    /// The Lease with us as the holder, based on what was found.
    fn lease(&self, found: Option<Lease>, transitions: i32) -> Lease {
        let now = MicroTime(self.clock.now());
        let metadata = found.map_or_else(
            || ObjectMeta {
                name: Some(self.config.name.clone()),
                namespace: Some(self.config.namespace.clone()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata,
        );
        let spec = LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: i32::try_from(self.config.term.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        Lease {
            metadata,
            spec: Some(spec),
        }
    }

    /// Empties the holder, if that is still us.
    pub(super) async fn give_back(&mut self) -> Result<(), kube::Error> {
        // The renewal that was under way when the end came may have changed the resource version; then a second turn reads it.
        let mut known = self.held.take();
        for last_try in [false, true] {
            let lease = match known.take() {
                Some(lease) => lease,
                None => self.api.get(&self.config.name).await?,
            };
            if Record::of(&lease).holder.as_ref() != Some(&self.config.identity) {
                return Ok(());
            }
            let mut emptied = lease;
            let spec = emptied.spec.get_or_insert_default();
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(self.clock.now()));
            match self.update(&emptied).await {
                Err(kube::Error::Api(status)) if status.code == 409 && !last_try => {}
                written => return written.map(drop),
            }
        }
        Ok(())
    }
}

/// A 404 on creation means that the namespace does not exist, which looking again does not settle.
fn is_namespace_missing(message: &str) -> bool {
    message.starts_with("namespaces ")
}
