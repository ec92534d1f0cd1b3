//! `kubectl muster doctor`: gather → examine (`core::doctor`) → report. Reads only; asking the authorizer what an account may do leaves nothing behind.

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    coordination::v1::Lease,
    core::v1::{Secret, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Resource,
    api::{ListParams, PostParams},
};
use muster_core::{
    doctor::{Finding, Objects, Observed, SecretName, Severity, admission, credentials, examine, rights},
    installation::Process,
};
use muster_crds::keys;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    args::{ClusterArgs, DoctorArgs, Format},
    cluster::{Cluster, is_forbidden},
    explain::now,
    output, render,
};

/// Nothing is wrong.
const HEALTHY: u8 = 0;
/// Something is wrong.
const ILL: u8 = 3;
/// Questions to the authorizer at a time.
const AT_ONCE: usize = 16;
/// Name of the definitions' group.
const SUFFIX: &str = muster_crds::keys::GROUP;

/// What JSON has.
#[derive(Debug, Serialize)]
struct Report {
    at: jiff::Timestamp,
    findings: Vec<Finding>,
    /// What the one who asks may not look at.
    unseen: Vec<String>,
}

/// Looks and reports; answers the exit code.
pub(crate) async fn run(cluster: &ClusterArgs, asked: &DoctorArgs) -> Result<u8> {
    let cluster = Cluster::of(cluster).await?;
    let mut reader = Reader {
        cluster: &cluster,
        unseen: Vec::new(),
    };
    let mut observed = reader.observe().await?;
    observed.stuck_after = Some(asked.stuck_after);
    let at = now();
    let report = Report {
        at,
        findings: examine(&observed, at),
        unseen: reader.unseen,
    };
    match asked.output {
        Format::Json => output::print_json(&report)?,
        Format::Text => output::print(&text(&report)),
    }
    let is_ill = report
        .findings
        .iter()
        .any(|finding| asked.strict || finding.severity == Severity::Error);
    Ok(if is_ill { ILL } else { HEALTHY })
}

struct Reader<'a> {
    cluster: &'a Cluster,
    unseen: Vec<String>,
}

impl Reader<'_> {
    /// What may not be read is told, and unknown.
    fn allowed<T>(&mut self, answer: Result<T>, what: &str) -> Result<Option<T>> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_forbidden(&error) => {
                self.unseen.push(what.to_owned());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn everywhere<K>(&mut self, what: &str) -> Result<Option<Vec<K>>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let listed = known(self.cluster.list_everywhere(what, &ListParams::default()).await);
        self.allowed(listed, &format!("{what} of the cluster"))
    }

    /// All objects of a kind in some namespaces; unknown where one of them may not be read.
    async fn within<K>(&mut self, what: &str, places: &[String]) -> Result<Option<Vec<K>>>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let mut found = Some(Vec::new());
        for place in places {
            let api: Api<K> = Api::namespaced(self.cluster.client.clone(), place);
            let listed = api.list(&ListParams::default()).await;
            let listed = listed.map(|list| list.items);
            let listed = known(listed.with_context(|| format!("could not list {what} in {place}")));
            match (
                self.allowed(listed, &format!("{what} of namespace {place}"))?,
                &mut found,
            ) {
                (Some(items), Some(found)) => found.extend(items),
                _ => found = None,
            }
        }
        Ok(found)
    }

    async fn observe(&mut self) -> Result<Observed> {
        let definitions = self
            .everywhere::<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition>(
                "CustomResourceDefinitions",
            )
            .await?;
        let definitions = definitions.map(|all| {
            let ours = all.into_iter().filter(|one| one.spec.group == SUFFIX);
            ours.collect()
        });
        let mut observed = Observed {
            namespace: self.cluster.namespace.clone(),
            definitions,
            deployments: self.everywhere("Deployments").await?,
            mutating: self.everywhere("MutatingWebhookConfigurations").await?,
            validating: self.everywhere("ValidatingWebhookConfigurations").await?,
            objects: self.objects().await?,
            ..Observed::default()
        };
        let deployments = observed.deployments.as_deref().unwrap_or_default();
        let mut homes: Vec<String> = Process::all(deployments)
            .iter()
            .filter_map(|process| process.deployment.metadata.namespace.clone())
            .collect();
        homes.sort();
        homes.dedup();
        observed.leases = self.within::<Lease>("Leases", &homes).await?;
        let hooked: Vec<String> = admission::namespaces(&observed).into_iter().collect();
        observed.services = self.within::<Service>("Services", &hooked).await?;
        observed.endpoints = self.within::<EndpointSlice>("EndpointSlices", &hooked).await?;
        for name in credentials::wanted(&observed) {
            if let Some(secret) = self.secret(&name).await? {
                observed.secrets.insert(name, secret);
            }
        }
        observed.rights = self.rights(rights::wanted(&observed)).await?;
        Ok(observed)
    }

    async fn objects(&mut self) -> Result<Objects> {
        let (cluster, all) = (self.cluster, ListParams::default());
        let pods = ListParams::default().labels(keys::LABEL_ACTIONS_RUNNER);
        let sets = ListParams::default().labels(keys::LABEL_RUNNERSET_NAME);
        let volumes = cluster.kept_volumes().await;
        let stateful_sets = cluster.list("StatefulSets", &sets).await;
        Ok(Objects {
            autoscalers: known(cluster.list("HorizontalRunnerAutoscalers", &all).await)?,
            deployments: known(cluster.list("RunnerDeployments", &all).await)?,
            replica_sets: known(cluster.list("RunnerReplicaSets", &all).await)?,
            runner_sets: known(cluster.list("RunnerSets", &all).await)?,
            runners: known(cluster.list("Runners", &all).await)?,
            pods: cluster.list("pods", &pods).await?,
            stateful_sets: self.allowed(stateful_sets, "StatefulSets")?.unwrap_or_default(),
            volumes: self.allowed(volumes, "PersistentVolumes")?.unwrap_or_default(),
        })
    }

    /// A Secret, or that it is not there; nothing where it may not be read.
    async fn secret(&mut self, (namespace, name): &SecretName) -> Result<Option<Option<Secret>>> {
        let api: Api<Secret> = Api::namespaced(self.cluster.client.clone(), namespace);
        let got = api.get_opt(name).await;
        let got = got.with_context(|| format!("could not get Secret {namespace}/{name}"));
        self.allowed(got, &format!("Secret {namespace}/{name}"))
    }

    async fn rights(&mut self, questions: Vec<rights::Question>) -> Result<Vec<rights::Answer>> {
        let api: Api<SubjectAccessReview> = Api::all(self.cluster.client.clone());
        let answers = stream::iter(questions)
            .map(|question| ask(api.clone(), question))
            .buffered(AT_ONCE)
            .try_collect()
            .await;
        let answers = self.allowed(
            answers,
            "rights of the processes' accounts (create subjectaccessreviews)",
        )?;
        Ok(answers.unwrap_or_default())
    }
}

/// A kind that is not defined has no objects; the findings say so.
fn known<K>(listed: Result<Vec<K>>) -> Result<Vec<K>> {
    match listed {
        Err(error) if is_unknown_kind(&error) => Ok(Vec::new()),
        other => other,
    }
}

fn is_unknown_kind(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<kube::Error>();
    // The answer about a kind that is not defined is a page and no Status.
    cause.is_some_and(|cause| matches!(cause, kube::Error::Api(status) if status.code == 404))
}

async fn ask(api: Api<SubjectAccessReview>, question: rights::Question) -> Result<rights::Answer> {
    let (resource, subresource) = question
        .resource
        .split_once('/')
        .map_or((question.resource, None), |(resource, sub)| (resource, Some(sub)));
    let namespace = question.account.split(':').nth(2).unwrap_or_default();
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(question.account.clone()),
            groups: Some(vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ]),
            resource_attributes: Some(ResourceAttributes {
                namespace: question.namespace.clone(),
                verb: Some(question.verb.to_owned()),
                group: Some(question.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: subresource.map(str::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = api.create(&PostParams::default(), &review).await;
    let answer = answer.with_context(|| format!("could not ask what {} may do", question.account))?;
    Ok(rights::Answer {
        is_allowed: answer.status.is_some_and(|status| status.allowed),
        question,
    })
}

fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    for (number, finding) in report.findings.iter().enumerate() {
        let word = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        lines.push(format!(
            "{}. {word} {}  {}",
            number + 1,
            finding.fault.name(),
            render::subject(&finding.object)
        ));
        lines.push(format!("   {}", finding.sentence));
        lines.push(format!("   do  {}", finding.remedy));
        lines.push(String::new());
    }
    lines.extend(
        report
            .unseen
            .iter()
            .map(|what| format!("not looked at, for want of a right: {what}")),
    );
    let count = |severity: Severity| {
        report
            .findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    };
    lines.push(match (count(Severity::Error), count(Severity::Warning)) {
        (0, 0) => "nothing is wrong as far as can be seen".to_owned(),
        (errors, warnings) => format!("{errors} errors, {warnings} warnings"),
    });
    lines.join("\n") + "\n"
}
