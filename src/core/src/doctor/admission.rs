//! The admission webhooks: what the API server asks, whom, and whether it can trust the answer (docs/admission.md).

use std::collections::BTreeSet;

use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{RuleWithOperations, WebhookClientConfig},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::ResourceExt;
use muster_crds::keys;

use super::{Fault, Finding, Observed, SecretName, subject};
use crate::{explain::Subject, installation::Process};

/// Path of the webhook that completes runner pods.
const POD_PATH: &str = "/mutate-runner-set-pod";
/// What the paths of the others have.
const OUR_PATHS: &str = "-actions-summerwind-dev-v1alpha1-";
/// Secrets in which the certificate is kept by default: by kustomize, and by the manager itself.
const CERTIFICATES: [&str; 2] = ["webhook-server-cert", "webhook-service-self-signed"];
const AUTHORITY: &str = "ca.crt";

/// One of our webhooks.
struct Hook {
    configuration: Subject,
    name: String,
    client: WebhookClientConfig,
    failure_policy: String,
    objects: LabelSelector,
    rules: Vec<RuleWithOperations>,
    /// It completes runner pods.
    completes_pods: bool,
}

impl Hook {
    fn service(&self) -> Option<(String, String)> {
        let service = self.client.service.as_ref()?;
        Some((service.namespace.clone(), service.name.clone()))
    }
}

fn path(client: &WebhookClientConfig) -> &str {
    let service = client.service.as_ref();
    let path = service.and_then(|service| service.path.as_deref());
    path.or(client.url.as_deref()).unwrap_or_default()
}

fn is_ours(client: &WebhookClientConfig) -> bool {
    path(client).ends_with(POD_PATH) || path(client).contains(OUR_PATHS)
}

/// Our webhooks among all of the cluster.
fn hooks(observed: &Observed) -> Vec<Hook> {
    let mut found = Vec::new();
    macro_rules! collect {
        ($configurations:expr) => {
            for configuration in $configurations.iter().flatten() {
                for hook in configuration.webhooks.iter().flatten() {
                    if is_ours(&hook.client_config) {
                        found.push(Hook {
                            configuration: subject(configuration),
                            name: hook.name.clone(),
                            client: hook.client_config.clone(),
                            failure_policy: hook
                                .failure_policy
                                .clone()
                                .unwrap_or_else(|| "Fail".to_owned()),
                            objects: hook.object_selector.clone().unwrap_or_default(),
                            rules: hook.rules.clone().unwrap_or_default(),
                            completes_pods: path(&hook.client_config).ends_with(POD_PATH),
                        });
                    }
                }
            }
        };
    }
    collect!(observed.mutating);
    collect!(observed.validating);
    found
}

/// Namespaces whose Services and endpoints the webhooks point to.
pub fn namespaces(observed: &Observed) -> BTreeSet<String> {
    hooks(observed)
        .iter()
        .filter_map(|hook| hook.service().map(|(namespace, _)| namespace))
        .collect()
}

/// Secrets that may hold the certificate: those that managers mount beside the webhooks' Services, and the default ones.
pub(super) fn certificates(observed: &Observed) -> Vec<SecretName> {
    let places = namespaces(observed);
    let deployments = observed.deployments.as_deref().unwrap_or_default();
    let mounted = Process::all(deployments).into_iter().filter_map(|process| {
        let place = process
            .deployment
            .namespace()
            .filter(|place| places.contains(place))?;
        let volumes = process.pod.volumes.as_ref()?;
        let volume = volumes.iter().find(|volume| volume.name == "cert")?;
        let name = volume.secret.as_ref()?.secret_name.clone()?;
        Some((place, name))
    });
    let usual = places
        .iter()
        .flat_map(|place| CERTIFICATES.map(|name| (place.clone(), name.to_owned())));
    mounted.chain(usual).collect()
}

pub(super) fn check(observed: &Observed, findings: &mut Vec<Finding>) {
    let hooks = hooks(observed);
    let mut told = BTreeSet::new();
    for hook in &hooks {
        authority(hook, observed, findings);
        width(hook, findings);
        if let Some(service) = hook.service()
            && told.insert(service.clone())
        {
            answers(hook, &service, observed, findings);
        }
    }
    tokens(&hooks, observed, findings);
}

fn remark(fault: Fault, hook: &Hook, sentence: String, remedy: &str) -> Finding {
    Finding::new(fault, hook.configuration.clone(), sentence, remedy)
}

/// Whether something answers behind the Service.
fn answers(
    hook: &Hook,
    (namespace, name): &(String, String),
    observed: &Observed,
    findings: &mut Vec<Finding>,
) {
    let Some(services) = &observed.services else {
        return;
    };
    let is_it = |one: &(Option<String>, String)| one.0.as_ref() == Some(namespace) && one.1 == *name;
    let exists = services
        .iter()
        .any(|service| is_it(&(service.namespace(), service.name_any())));
    if !exists {
        findings.push(remark(
            Fault::AdmissionServiceMissing,
            hook,
            format!("webhook {} points to Service {namespace}/{name}, which is not there", hook.name),
            "Apply the Service of the installation again, or delete the configuration if it is a leftover: with failurePolicy Fail it refuses every write.",
        ));
        return;
    }
    let Some(endpoints) = &observed.endpoints else {
        return;
    };
    let ready = endpoints
        .iter()
        .filter(|slice| {
            let owner = slice.labels().get("kubernetes.io/service-name");
            slice.namespace().as_ref() == Some(namespace) && owner == Some(name)
        })
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .any(|endpoint| {
            endpoint
                .conditions
                .as_ref()
                .is_none_or(|conditions| conditions.ready != Some(false))
        });
    if !ready {
        findings.push(remark(
            Fault::AdmissionServiceEmpty,
            hook,
            format!(
                "no ready pod is behind Service {namespace}/{name} of webhook {}",
                hook.name
            ),
            "See whether the manager's pods are ready, and whether the Service selects them.",
        ));
    }
}

/// Whether the API server trusts the right authority.
fn authority(hook: &Hook, observed: &Observed, findings: &mut Vec<Finding>) {
    let remedy = "cert-manager (annotation cert-manager.io/inject-ca-from) or --admission-self-signed writes it: docs/admission.md.";
    let bundle = hook.client.ca_bundle.as_ref().map(|bytes| bytes.0.as_slice());
    let Some(bundle) = bundle.filter(|bytes| !bytes.is_empty()) else {
        findings.push(remark(
            Fault::AdmissionCaInvalid,
            hook,
            format!(
                "webhook {} has no caBundle: the API server trusts nobody there",
                hook.name
            ),
            remedy,
        ));
        return;
    };
    let trusted = certificates_in(bundle);
    if trusted.is_empty() {
        findings.push(remark(
            Fault::AdmissionCaInvalid,
            hook,
            format!("caBundle of webhook {} is no PEM certificate", hook.name),
            remedy,
        ));
        return;
    }
    let Some((namespace, _)) = hook.service() else {
        return;
    };
    let kept: Vec<(&SecretName, &Secret)> = certificates(observed)
        .iter()
        .filter(|(place, _)| *place == namespace)
        .filter_map(|name| observed.secrets.get_key_value(name))
        .filter_map(|(name, secret)| Some((name, secret.as_ref()?)))
        .collect();
    let signers: Vec<String> = kept.iter().flat_map(|(_, secret)| signed_by(secret)).collect();
    if let Some(((_, secret), _)) = kept.first()
        && !signers.is_empty()
        && !signers.iter().any(|signer| trusted.contains(signer))
    {
        findings.push(remark(
            Fault::AdmissionCaMismatch,
            hook,
            format!(
                "caBundle of webhook {} is not the authority ({AUTHORITY}) of the certificate in Secret {namespace}/{secret}",
                hook.name
            ),
            remedy,
        ));
    }
}

fn signed_by(secret: &Secret) -> Vec<String> {
    let data = secret.data.as_ref();
    let authority = data.and_then(|data| data.get(AUTHORITY));
    authority.map_or_else(Vec::new, |ByteString(bytes)| certificates_in(bytes))
}

/// The bodies of the PEM certificates in some bytes, without line breaks.
fn certificates_in(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.split("-----BEGIN CERTIFICATE-----")
        .skip(1)
        .filter_map(|rest| rest.split_once("-----END CERTIFICATE-----"))
        .map(|(body, _)| body.split_whitespace().collect())
        .filter(|body: &String| !body.is_empty())
        .collect()
}

/// A webhook for pods asks about runner pods only: everyone else's must not wait for it.
fn width(hook: &Hook, findings: &mut Vec<Finding>) {
    let asks_for_pods = hook
        .rules
        .iter()
        .any(|rule| rule.resources.iter().flatten().any(|resource| resource == "pods"));
    let selects = hook
        .objects
        .match_labels
        .as_ref()
        .is_some_and(|all| !all.is_empty())
        || hook
            .objects
            .match_expressions
            .as_ref()
            .is_some_and(|all| !all.is_empty());
    if asks_for_pods && !selects {
        findings.push(remark(
            Fault::AdmissionTooWide,
            hook,
            format!("webhook {} has no objectSelector: every pod of the cluster waits for it", hook.name),
            "Set objectSelector.matchLabels to actions-runner-controller/inject-registration-token: \"true\", as config/webhook does.",
        ));
    }
}

/// Pods of RunnerSets get their token by the webhook for pods alone.
fn tokens(hooks: &[Hook], observed: &Observed, findings: &mut Vec<Finding>) {
    let Some(set) = observed.objects.runner_sets.first() else {
        return;
    };
    if observed.mutating.is_none() {
        return;
    }
    let pod_hooks: Vec<&Hook> = hooks.iter().filter(|hook| hook.completes_pods).collect();
    if pod_hooks.is_empty() {
        findings.push(Finding::new(
            Fault::AdmissionMissing,
            subject(set),
            format!(
                "no MutatingWebhookConfiguration has path {POD_PATH}: pods of RunnerSet {} get no {}",
                set.name_any(),
                keys::ENV_RUNNER_TOKEN
            ),
            "Apply config/webhook (admissionWebHooks in the chart).",
        ));
    }
    for hook in pod_hooks {
        if hook.failure_policy == "Ignore" {
            findings.push(remark(
                Fault::AdmissionIgnored,
                hook,
                format!(
                    "webhook {} has failurePolicy Ignore: while the manager does not answer, pods of RunnerSets start without {}",
                    hook.name,
                    keys::ENV_RUNNER_TOKEN
                ),
                "Set failurePolicy to Fail.",
            ));
        }
    }
}
