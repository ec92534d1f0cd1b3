//! The one vocabulary of reasons: conditions, Events, holds of plans and explanations use these words and no others.
//!
//! The order of declaration is the order of precedence: of several reasons the first one is what to look at first.

use std::fmt;

use serde::Serialize;

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $name:ident: $remedy:literal,)+) => {
        /// Why something is as it is. The name is what conditions, Events and `-o json` show; docs/troubleshooting.md lists all.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub enum Code {
            $($(#[doc = $meaning])+ $name,)+
        }

        impl Code {
            /// All codes, the most pressing first.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The word in conditions, Events and JSON.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// What to do about it, as a sentence; empty where nothing needs doing.
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Self::$name => $remedy,)+
                }
            }
        }
    };
}

codes! {
    /// There is no object or job of that name.
    NotFound: "Check the name and the namespace (-n NAMESPACE).",
    /// `spec.scaleTargetRef` names what does not exist.
    TargetNotFound: "Create the RunnerDeployment or RunnerSet in the autoscaler's namespace, or correct spec.scaleTargetRef.",
    /// Two autoscalers scale one target.
    SeveralAutoscalers: "Keep one HorizontalRunnerAutoscaler per target and delete the others.",
    /// A field has a value that cannot be worked with.
    InvalidSpec: "Correct the field that the message names.",
    /// The autoscaler takes no `workflow_job` events.
    TriggerMissing: "Give the autoscaler exactly one entry of spec.scaleUpTriggers, with githubEvent.workflowJob: {}.",
    /// The manager has not looked at the object for long.
    NotReconciled: "See that the manager runs (kubectl get pods -A -l control-plane=controller-manager), leads, and watches this namespace (--watch-namespace).",
    /// The GitHub login cannot be used: its Secret is missing or incomplete.
    InvalidCredentials: "Create or complete the Secret that the message names, or set the manager's own login.",
    /// GitHub answers 401.
    GitHubUnauthorized: "GitHub does not accept the credentials: renew the token or the App's private key in the Secret that the manager or githubAPICredentialsFrom uses.",
    /// GitHub answers 403 for want of a permission.
    GitHubForbidden: "The credentials lack a permission: self-hosted runners (organization) or administration (repository), read and write.",
    /// GitHub answers 404.
    GitHubNotFound: "GitHub knows no such repository, organization or enterprise, or the credentials may not see it: check the name and the permissions.",
    /// GitHub refuses this very request.
    GitHubRejected: "Correct what GitHub's message names.",
    /// A rate limit of GitHub's is used up.
    GitHubRateLimited: "GitHub's rate limit is used up; Muster continues when it resets.",
    /// A `ResourceQuota` leaves no room for a pod.
    QuotaExceeded: "Raise the namespace's ResourceQuota, lower spec.maxReplicas, or make the runners' requests smaller.",
    /// The namespace's Pod Security level refuses the pod.
    PodSecurityViolated: "Label the namespace pod-security.kubernetes.io/enforce=privileged for runners with Docker, or use dockerEnabled: false with a restricted security context.",
    /// An admission webhook refused the object.
    AdmissionDenied: "Satisfy or exempt the policy that the message names.",
    /// The API server refuses the manager.
    Forbidden: "The manager's ServiceAccount lacks a permission: apply the ClusterRole of this version.",
    /// GitHub does not answer, or with 5xx.
    GitHubUnavailable: "GitHub does not answer properly; Muster keeps what is there and tries again.",
    /// The API server does not answer the manager.
    KubernetesUnavailable: "The manager cannot read or write the API server; it tries again. See its log.",
    /// A defect of Muster.
    InternalError: "Please report it with the manager's log.",
    /// A condition that this program does not know.
    ConditionNotMet: "Do what the message says.",
    /// No autoscaler's runners have all labels of the job.
    MissingLabel: "Add the label to spec.template.spec.labels of the pool, or correct runs-on of the job.",
    /// The repository may not use the pool's runner group.
    GroupNotVisible: "Give the repository access to the runner group in GitHub's settings, or move the pool to another group.",
    /// No autoscaler is for the job's repository, organization or enterprise.
    NoPoolInScope: "Create a RunnerDeployment and a HorizontalRunnerAutoscaler for that repository, organization or enterprise.",
    /// GitHub holds the job back until somebody approves it.
    JobWaitsForApproval: "Approve the deployment on GitHub; until then no runner may take the job.",
    /// No event of the job has arrived.
    WebhookNotReceived: "Look at the webhook's recent deliveries on GitHub (event Workflow jobs, same secret), and switch on queue reconciliation or delivery replay.",
    /// The image of a runner pod cannot be had.
    ImagePullFailed: "Correct spec.image or give the pods an imagePullSecret.",
    /// A container refers to a Secret, `ConfigMap` or key that does not exist.
    ContainerConfigInvalid: "Create the Secret, ConfigMap or key that the message names, or take it out of the template.",
    /// A volume of a runner pod cannot be mounted.
    VolumeNotMounted: "See that the claim, Secret or ConfigMap of the volume exists and is bound, and that its driver works.",
    /// The scheduler finds no node for a runner pod.
    Unschedulable: "Add nodes, lower the requests, or correct nodeSelector, affinity and tolerations.",
    /// The node of a runner pod does not answer.
    NodeLost: "See what became of the node; GitHub fails the job after a while, and a runner without a job is replaced.",
    /// A runner runs and GitHub does not know it.
    RunnerNotRegistered: "See the log of the container runner: it must reach GitHub (proxy, certificates, GITHUB_URL).",
    /// Runners of the pool fail one after the other; one at a time is tried.
    RunnersFail: "See the log and the exit code of the container runner; Muster goes on at full speed once a runner registers.",
    /// The container `runner` ended with an error.
    RunnerCrashed: "See the log of the container runner (kubectl logs --previous).",
    /// The kubelet evicted the pod.
    PodEvicted: "Give the runners requests and an ephemeral-storage limit that fit, or nodes with more room.",
    /// GitHub lost the runner, or it was offline for too long; it was replaced.
    RunnerLost: "Nothing, if it happens once; else see that runners keep their connection to GitHub.",
    /// The removal of the runner from GitHub has no clear answer yet.
    UnregistrationDelayed: "Nothing: the pod stays until GitHub says that the runner is idle or gone.",
    /// Idle runners that match are there, and GitHub gives the job to none.
    NotDispatched: "See on GitHub whether a concurrency group or an environment holds the job, and whether the runner group allows the repository; then ask GitHub's support with the ids below.",
    /// The pool is set to no runners at all.
    Paused: "Set spec.maxReplicas of the autoscaler (or spec.replicas without one) above 0.",
    /// All runners that are allowed are there.
    MaxReplicasReached: "Raise spec.maxReplicas, or wait for a running job to end.",
    /// The ended runners are not replaced before the autoscaler asks again.
    EffectiveTimeServed: "Nothing: it ends with the next job, or at the time below.",
    /// Runners ended and nobody has said which jobs they had: as many jobs are taken for done.
    EndsUncharged: "Nothing: it ends when the jobs' completed events arrive, or ten minutes after the runners' end. If it is frequent, look at the webhook's recent deliveries on GitHub.",
    /// The job's webhook was lost; queue reconciliation found the job.
    WebhookMissed: "Look at the webhook's recent deliveries on GitHub: they fail or are lost.",
    /// Queue reconciliation may not read the runs of a repository.
    QueueNotReadable: "Give the credentials the permission Actions, read-only (a classic token: repo).",
    /// GitHub may still list runners whose pods are gone.
    RunnersLeftOnGitHub: "Nothing: they are removed when GitHub answers clearly. See what keeps it from that in the message.",
    /// Somebody replaced the autoscaler with a ledger that lacks entries.
    LedgerReplaced: "Take capacityReservations out of the manifest, and apply it without replace and without force.",
    /// A scheduled override cannot be, and is ignored.
    ScheduleInvalid: "Correct the entry of spec.scheduledOverrides that the message names.",
    /// A Runner has no pod yet.
    WaitingForPod: "Wait; if it lasts, see the manager's log.",
    /// The scheduler has not chosen a node yet.
    WaitingForNode: "Wait; if it lasts, see that a scheduler runs.",
    /// A node was chosen, and the containers are not up yet.
    PodStarting: "Wait; a smaller image or a node that has it already starts faster.",
    /// The runner's container is up; it is about to register.
    RunnerRegistering: "Wait: a runner needs some seconds to register.",
    /// Another set of runners, with the template of before, still has runners.
    RollingOut: "Wait: busy runners of the former template finish their job first.",
    /// A surplus runner has a job and goes when it is done.
    RetiringBusy: "Nothing: a busy runner is never stopped.",
    /// A runner is being taken off GitHub.
    Unregistering: "Wait.",
    /// Surplus runners are starting.
    SurplusStarting: "Nothing: they are retired once they run.",
    /// Surplus idle runners are kept for the next job.
    IdleRetained: "Nothing; a smaller scaleDownDelaySecondsAfterScaleOut keeps them for a shorter time.",
    /// The number of runners is not lowered yet.
    ScaleDownDelayed: "Nothing; a smaller scaleDownDelaySecondsAfterScaleOut lowers it sooner.",
    /// A scheduled override holds the number of runners.
    ScheduledOverride: "Nothing; spec.scheduledOverrides says so.",
    /// A runner of the pool has the job.
    JobRunning: "",
    /// The job is over.
    JobFinished: "",
    /// The job's demand has expired without a sign of life.
    JobExpired: "If the job still waits, raise spec.scaleUpTriggers[0].duration and switch on queue reconciliation.",
    /// The runner has a job.
    RunnerBusy: "",
    /// The runner waits for a job.
    RunnerIdle: "",
    /// The runner has ended, as an ephemeral runner does after its job.
    RunnerFinished: "",
    /// No job is queued, so no runner beyond the minimum is wanted.
    NoDemand: "",
    /// Everything is as it is wanted.
    AsWanted: "",
}

impl Code {
    /// Reads what [`Code::as_str`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }

    /// The word for an object that the API server refused with 403. Admission answers like the authorizer; only the text tells who refused.
    pub fn of_refusal(message: &str) -> Self {
        if message.contains("exceeded quota") {
            Self::QuotaExceeded
        } else if message.contains("violates PodSecurity") {
            Self::PodSecurityViolated
        } else if message.contains("ValidatingAdmissionPolicy")
            || message.contains("admission webhook") && message.contains("denied the request")
        {
            Self::AdmissionDenied
        } else {
            Self::Forbidden
        }
    }

    /// Nothing is wrong and nothing is missing.
    pub fn is_good(self) -> bool {
        self >= Self::JobRunning && self != Self::JobExpired
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
