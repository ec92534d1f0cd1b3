//! The words of findings. Their order is the order in which faults are told: what causes others comes first.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Something works worse than it could, or will not work for long.
    Warning,
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident $severity:ident,)*) => {
        /// What is wrong. The words never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// How bad it is.
            pub const fn severity(self) -> Severity {
                match self {
                    $(Self::$name => Severity::$severity,)*
                }
            }

            /// The word.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

faults! {
    /// A kind is not defined.
    DefinitionMissing Error,
    /// A definition does not serve the version that the programs use.
    DefinitionVersionMissing Error,
    /// A definition lacks a field that capacity is written to.
    DefinitionFieldMissing Error,
    /// Nothing reconciles.
    ManagerMissing Error,
    /// The manager is scaled to zero.
    ManagerStopped Error,
    /// The manager has no pod that is ready.
    ManagerNotReady Error,
    /// Two managers scale the same objects.
    TwoManagers Error,
    /// Managers elect a leader, and none renews its Lease.
    LeaderSilent Error,
    /// Objects stand in a namespace that no manager watches.
    NamespaceNotWatched Error,
    /// Autoscalers wait for webhooks, and nothing receives them.
    WebhookServerMissing Error,
    /// The webhook server has no pod that is ready.
    WebhookServerNotReady Error,
    /// A process may not do what it must.
    PermissionMissing Error,
    /// The manager has no login to GitHub.
    LoginMissing Error,
    /// A Secret that an object names is not there.
    CredentialsMissing Error,
    /// A Secret lacks keys of a login.
    CredentialsIncomplete Error,
    /// A value of a login cannot be what its key says.
    CredentialsMalformed Error,
    /// The Secret of the webhooks' signature is missing.
    WebhookSecretMissing Error,
    /// An admission webhook points to a Service that is not there.
    AdmissionServiceMissing Error,
    /// Nothing answers behind the Service of the admission webhooks.
    AdmissionServiceEmpty Error,
    /// The API server cannot trust the admission webhook.
    AdmissionCaInvalid Error,
    /// The API server trusts another authority than the one that signed the certificate.
    AdmissionCaMismatch Error,
    /// All pods of the cluster wait for our webhook.
    AdmissionTooWide Error,
    /// Pods of RunnerSets get no registration token.
    AdmissionMissing Error,
    /// The target of an autoscaler is not there.
    TargetMissing Error,
    /// Two autoscalers scale one target.
    TwoAutoscalers Error,
    /// An autoscaler's bounds contradict each other or are missing.
    BoundsInvalid Error,
    /// A scheduled override is ignored.
    ScheduleInvalid Error,
    /// A pool's spec cannot be worked with.
    PoolInvalid Error,
    /// An object cannot be deleted.
    DeletionStuck Error,
    /// The manager says that an object cannot be reconciled.
    NotReconciled Error,
    /// Definitions are older than the programs: something is lost.
    DefinitionOutdated Warning,
    /// Objects are stored in a version that is on its way out.
    StoredVersionOld Warning,
    /// Several managers without a leader.
    NoLeaderElection Warning,
    /// A process may not do something that it can do without.
    PermissionOptional Warning,
    /// Webhooks are taken from anyone.
    WebhooksUnsigned Warning,
    /// Pods of RunnerSets may start without a registration token.
    AdmissionIgnored Warning,
    /// An autoscaler has settings that have no effect.
    AutoscalerDoubtful Warning,
    /// Two pools take the same jobs.
    LabelsClash Warning,
    /// Runners are registered on GitHub that exist no more.
    LeftOnGitHub Warning,
    /// A StatefulSet of a RunnerSet that is not there.
    StatefulSetOfNobody Warning,
    /// A runner's pod whose Runner or StatefulSet is not there.
    PodOfNobody Warning,
    /// A kept volume of a RunnerSet that is not there.
    VolumeOfNobody Warning,
}
