//! The Lease that lets one replica at a time replay, and keeps what a successor must know.
//!
//! It is taken anew for every turn and read before; a holder that has not written for two periods, by our own clock, is gone. Two
//! holders for a moment are harmless: what both feed to the intake counts once.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use muster_runtime::clock::Clock;
use tokio::time::Instant;

use super::ReplaySettings;

/// Keeps the hooks and cursors, as JSON.
pub(super) const ANNOTATION: &str = muster_crds::keys::ANNOTATION_REPLAY;

/// The least time that a silent holder is respected.
const LEAST_TERM: Duration = Duration::from_secs(5);

/// How long giving the Lease back may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whose turn it is, with the annotation's text.
#[derive(Debug)]
pub(super) enum Taken {
    Ours(Option<String>),
    Others(Option<String>),
}

pub(super) struct Place {
    api: Api<Lease>,
    name: String,
    identity: String,
    term: Duration,
    clock: Clock,
    /// The Lease as read or written last.
    lease: Option<Lease>,
    /// The version of somebody else's Lease, and since when it has been that.
    unchanged: Option<(String, Instant)>,
}

impl Place {
    pub(super) fn new(client: Client, namespace: &str, settings: &ReplaySettings, period: Duration) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: settings.lease_name.clone(),
            identity: settings.identity.clone(),
            term: (period * 2).max(LEAST_TERM),
            clock: Clock::system(),
            lease: None,
            unchanged: None,
        }
    }

    /// Takes the Lease if nobody else has it.
    ///
    /// # Errors
    /// When it cannot be read or written; a conflict among them means that another replica was faster.
    pub(super) async fn take(&mut self) -> Result<Taken, kube::Error> {
        let found = self.api.get_opt(&self.name).await?;
        let now = Instant::now();
        let Some(lease) = found else {
            let lease = self.with_us(Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                ..Lease::default()
            });
            self.lease = Some(self.api.create(&PostParams::default(), &lease).await?);
            return Ok(Taken::Ours(None));
        };
        let text = lease
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(ANNOTATION))
            .cloned();
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.as_deref())
            .filter(|holder| !holder.is_empty() && *holder != self.identity);
        if holder.is_some() {
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            let since = match &self.unchanged {
                Some((known, since)) if *known == version => *since,
                _ => now,
            };
            self.unchanged = Some((version, since));
            if now.saturating_duration_since(since) < self.term {
                self.lease = Some(lease);
                return Ok(Taken::Others(text));
            }
        }
        let lease = self.with_us(lease);
        self.lease = Some(
            self.api
                .replace(&self.name, &PostParams::default(), &lease)
                .await?,
        );
        self.unchanged = None;
        Ok(Taken::Ours(text))
    }

    /// Writes the annotation; refused when somebody has written since.
    ///
    /// # Errors
    /// When it was not written.
    pub(super) async fn save(&mut self, text: &str) -> Result<(), kube::Error> {
        let Some(mut lease) = self.lease.take() else {
            return Ok(());
        };
        lease
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(ANNOTATION.to_owned(), text.to_owned());
        self.lease = Some(
            self.api
                .replace(&self.name, &PostParams::default(), &lease)
                .await?,
        );
        Ok(())
    }

    /// Empties the holder, if that is still us, so that a successor need not wait.
    pub(super) async fn give_back(&mut self) {
        let Some(mut lease) = self.lease.take() else {
            return;
        };
        let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_deref() == Some(self.identity.as_str()))
        else {
            return;
        };
        spec.holder_identity = None;
        let params = PostParams::default();
        let write = self.api.replace(&self.name, &params, &lease);
        // Whoever comes next waits a little longer then.
        if tokio::time::timeout(RELEASE_TIMEOUT, write).await.is_err() {
            tracing::debug!("Could not give the Lease of delivery replay back in time.");
        }
    }

    fn with_us(&self, mut lease: Lease) -> Lease {
        let now = MicroTime(self.clock.now());
        let old = lease.spec.take().unwrap_or_default();
        let is_ours = old.holder_identity.as_deref() == Some(self.identity.as_str());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.term.as_secs()).ok(),
            acquire_time: if is_ours {
                old.acquire_time
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(
                old.lease_transitions
                    .unwrap_or(0)
                    .saturating_add(i32::from(!is_ours)),
            ),
            ..LeaseSpec::default()
        });
        lease
    }
}
