//! Logins and secrets: there, complete, and of the form that their keys say. Values never leave this file.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use muster_crds::{keys, legacy::GitHubApiCredentialsFrom};

use super::{Fault, Finding, Observed, SecretName, subject};
use crate::{
    explain::Subject,
    installation::{Process, Program},
};

/// Variable of the webhooks' secret.
const WEBHOOK_SECRET: &str = "GITHUB_WEBHOOK_SECRET_TOKEN";
/// The keys of a login as a GitHub App.
const APP: [&str; 3] = [
    keys::SECRET_GITHUB_APP_ID,
    keys::SECRET_GITHUB_APP_INSTALLATION_ID,
    keys::SECRET_GITHUB_APP_PRIVATE_KEY,
];
const LOGIN_REMEDY: &str =
    "Give it a GitHub App's login or a token: docs/github-access.md (authSecret in the chart).";

/// Secrets that are to be read: those that objects name, and those that the processes' variables come from.
pub fn wanted(observed: &Observed) -> BTreeSet<SecretName> {
    let named = users(observed).into_keys();
    let deployments = observed.deployments.as_deref().unwrap_or_default();
    let of_processes = Process::all(deployments).into_iter().flat_map(|process| {
        let namespace = process.deployment.namespace().unwrap_or_default();
        let variables = process.container.env.iter().flatten();
        let references: Vec<SecretName> = variables
            .filter_map(|variable| {
                variable
                    .value_from
                    .as_ref()?
                    .secret_key_ref
                    .as_ref()
                    .map(|reference| (namespace.clone(), reference.name.clone()))
            })
            .collect();
        references
    });
    named
        .chain(of_processes)
        .chain(super::admission::certificates(observed))
        .collect()
}

/// Secrets that objects name, and the first object that does.
fn users(observed: &Observed) -> BTreeMap<SecretName, Subject> {
    let mut users = BTreeMap::new();
    let mut note = |object: Subject, from: Option<&GitHubApiCredentialsFrom>| {
        let name = from
            .and_then(|from| from.secret_ref.as_ref())
            .map(|reference| reference.name.clone())
            .filter(|name| !name.is_empty());
        if let Some(name) = name {
            users.entry((object.namespace.clone(), name)).or_insert(object);
        }
    };
    let objects = &observed.objects;
    for one in &objects.deployments {
        note(
            subject(one),
            one.spec.template.spec.config.github_api_credentials_from.as_ref(),
        );
    }
    for one in &objects.runner_sets {
        note(subject(one), one.spec.config.github_api_credentials_from.as_ref());
    }
    for one in &objects.autoscalers {
        note(subject(one), one.spec.github_api_credentials_from.as_ref());
    }
    users
}

pub(super) fn check(observed: &Observed, findings: &mut Vec<Finding>) {
    for ((namespace, name), user) in users(observed) {
        match observed.secrets.get(&(namespace.clone(), name.clone())) {
            None => {}
            Some(None) => findings.push(Finding::new(
                Fault::CredentialsMissing,
                user,
                format!("githubAPICredentialsFrom names Secret {namespace}/{name}, which is not there"),
                format!("Create it with key github_token, or the three of a GitHub App: kubectl -n {namespace} create secret generic {name} --from-file=github_token=…"),
            )),
            Some(Some(secret)) => login(secret, findings),
        }
    }
    let deployments = observed.deployments.as_deref().unwrap_or_default();
    for process in Process::all(deployments) {
        if process.replicas() > 0 {
            of_process(&process, observed, findings);
        }
    }
}

/// The value of a key; `None` where it is absent or blank.
fn value(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    let text = String::from_utf8_lossy(&bytes.0).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// A Secret that must have a whole login.
fn login(secret: &Secret, findings: &mut Vec<Finding>) {
    if value(secret, keys::SECRET_GITHUB_TOKEN).is_none() {
        let missing: Vec<&str> = APP
            .into_iter()
            .filter(|key| value(secret, key).is_none())
            .collect();
        if !missing.is_empty() {
            findings.push(Finding::new(
                Fault::CredentialsIncomplete,
                subject(secret),
                format!(
                    "Secret {} has neither github_token nor a whole GitHub App: {} missing",
                    secret.name_any(),
                    missing.join(", ")
                ),
                "Add the keys: docs/github-access.md.",
            ));
        }
    }
    forms(secret, findings);
}

/// What the values of the keys that are there look like.
fn forms(secret: &Secret, findings: &mut Vec<Finding>) {
    let malformed = |key: &str, what: &str, remedy: &str| {
        Finding::new(
            Fault::CredentialsMalformed,
            subject(secret),
            format!("{key} of Secret {} {what}", secret.name_any()),
            remedy,
        )
    };
    if let Some(token) = value(secret, keys::SECRET_GITHUB_TOKEN)
        && token.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        findings.push(malformed(
            keys::SECRET_GITHUB_TOKEN,
            "has spaces or line breaks within",
            "Store the token alone, in one line.",
        ));
    }
    if let Some(id) = value(secret, keys::SECRET_GITHUB_APP_ID)
        && !is_number(&id)
        && !is_client_id(&id)
    {
        findings.push(malformed(
            keys::SECRET_GITHUB_APP_ID,
            "is neither a number nor a client id",
            "Take the App ID from the App's page on GitHub.",
        ));
    }
    if let Some(id) = value(secret, keys::SECRET_GITHUB_APP_INSTALLATION_ID)
        && !is_number(&id)
    {
        findings.push(malformed(
            keys::SECRET_GITHUB_APP_INSTALLATION_ID,
            "is no number",
            "Take the number at the end of the installation's address on GitHub.",
        ));
    }
    if let Some(key) = value(secret, keys::SECRET_GITHUB_APP_PRIVATE_KEY)
        && !is_private_key(&key)
    {
        findings.push(malformed(
            keys::SECRET_GITHUB_APP_PRIVATE_KEY,
            "is no private key in PEM form",
            "Store the file that GitHub gave as it is: --from-file=github_app_private_key=FILE.",
        ));
    }
}

fn is_number(text: &str) -> bool {
    text.parse::<u64>().is_ok()
}

/// Client ids begin with `Iv`.
fn is_client_id(text: &str) -> bool {
    text.starts_with("Iv") && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
}

/// Whether a text is PEM of an RSA key, PKCS#1 or PKCS#8, as far as its form goes.
fn is_private_key(text: &str) -> bool {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let [first, body @ .., last] = lines.as_slice() else {
        return false;
    };
    let kind = first
        .strip_prefix("-----BEGIN ")
        .and_then(|rest| rest.strip_suffix("-----"));
    let closed = last
        .strip_prefix("-----END ")
        .and_then(|rest| rest.strip_suffix("-----"));
    let letters: String = body.concat();
    kind == closed
        && kind.is_some_and(|kind| matches!(kind, "RSA PRIVATE KEY" | "PRIVATE KEY"))
        && letters.len() >= 64
        && letters.len().is_multiple_of(4)
        && letters
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '='))
}

/// Where a variable of a process gets its value.
enum Source<'a> {
    /// There is none of this name.
    Absent,
    /// Written in the manifest, or from something else than a Secret.
    Direct,
    /// A key of a Secret.
    Key(&'a str, &'a str),
}

fn source<'a>(process: &Process<'a>, name: &str) -> Source<'a> {
    let variable = process
        .container
        .env
        .iter()
        .flatten()
        .find(|variable| variable.name == name);
    let Some(variable) = variable else {
        return Source::Absent;
    };
    match variable
        .value_from
        .as_ref()
        .and_then(|from| from.secret_key_ref.as_ref())
    {
        Some(reference) => Source::Key(&reference.name, &reference.key),
        None if variable.value_from.is_some()
            || variable.value.as_ref().is_some_and(|text| !text.is_empty()) =>
        {
            Source::Direct
        }
        None => Source::Absent,
    }
}

/// Whether a variable has a value; `None` where the Secret could not be read.
fn is_given(process: &Process<'_>, name: &str, observed: &Observed) -> Option<bool> {
    match source(process, name) {
        Source::Absent => Some(false),
        Source::Direct => Some(true),
        Source::Key(secret, key) => {
            let namespace = process.deployment.namespace().unwrap_or_default();
            let read = observed.secrets.get(&(namespace, secret.to_owned()))?;
            Some(read.as_ref().is_some_and(|secret| value(secret, key).is_some()))
        }
    }
}

/// Names of the Secrets that a process's variables come from.
fn secrets_of(process: &Process<'_>, names: &[&str]) -> String {
    let named: BTreeSet<&str> = names
        .iter()
        .filter_map(|name| match source(process, name) {
            Source::Key(secret, _) => Some(secret),
            Source::Absent | Source::Direct => None,
        })
        .collect();
    named.into_iter().collect::<Vec<_>>().join(", ")
}

fn of_process(process: &Process<'_>, observed: &Observed, findings: &mut Vec<Finding>) {
    // Whole environments (envFrom) may bring anything.
    if process
        .container
        .env_from
        .as_ref()
        .is_some_and(|all| !all.is_empty())
    {
        return;
    }
    match process.program {
        Program::Manager => manager_login(process, observed, findings),
        Program::WebhookServer => webhook_secret(process, observed, findings),
        Program::MetricsServer => {}
    }
}

fn manager_login(process: &Process<'_>, observed: &Observed, findings: &mut Vec<Finding>) {
    let by_flag = ["github-token", "github-app-id", "github-basicauth-username"];
    if by_flag.iter().any(|flag| process.flag(flag).is_some()) {
        return;
    }
    let app = [
        "GITHUB_APP_ID",
        "GITHUB_APP_INSTALLATION_ID",
        "GITHUB_APP_PRIVATE_KEY",
    ];
    let basic = ["GITHUB_BASICAUTH_USERNAME", "GITHUB_BASICAUTH_PASSWORD"];
    let whole = |names: &[&str]| -> Option<bool> {
        let given: Vec<Option<bool>> = names
            .iter()
            .map(|name| is_given(process, name, observed))
            .collect();
        if given.contains(&Some(false)) {
            return Some(false);
        }
        (!given.contains(&None)).then_some(true)
    };
    let ways = [whole(&["GITHUB_TOKEN"]), whole(&app), whole(&basic)];
    if ways.iter().all(|way| *way == Some(false)) {
        let all: Vec<&str> = ["GITHUB_TOKEN"].into_iter().chain(app).chain(basic).collect();
        let from = secrets_of(process, &all);
        let from = if from.is_empty() {
            String::new()
        } else {
            format!(" (Secret {from})")
        };
        findings.push(Finding::new(
            Fault::LoginMissing,
            subject(process.deployment),
            format!(
                "the manager {} has no whole login to GitHub{from}: neither GITHUB_TOKEN nor GITHUB_APP_ID, …_INSTALLATION_ID and …_PRIVATE_KEY",
                process.deployment.name_any()
            ),
            LOGIN_REMEDY,
        ));
    }
    let namespace = process.deployment.namespace().unwrap_or_default();
    for (name, key) in app.into_iter().chain(["GITHUB_TOKEN"]).zip([
        keys::SECRET_GITHUB_APP_ID,
        keys::SECRET_GITHUB_APP_INSTALLATION_ID,
        keys::SECRET_GITHUB_APP_PRIVATE_KEY,
        keys::SECRET_GITHUB_TOKEN,
    ]) {
        // The form is known for the keys of the chart.
        if let Source::Key(secret, found) = source(process, name)
            && found == key
            && let Some(Some(secret)) = observed.secrets.get(&(namespace.clone(), secret.to_owned()))
        {
            let mut all = Vec::new();
            forms(secret, &mut all);
            findings.extend(
                all.into_iter()
                    .filter(|finding| finding.sentence.starts_with(key)),
            );
        }
    }
}

fn webhook_secret(process: &Process<'_>, observed: &Observed, findings: &mut Vec<Finding>) {
    if process.flag("github-webhook-secret-token").is_some() {
        return;
    }
    let object = subject(process.deployment);
    match source(process, WEBHOOK_SECRET) {
        Source::Direct => {}
        Source::Absent => findings.push(Finding::new(
            Fault::WebhooksUnsigned,
            object,
            format!("{WEBHOOK_SECRET} is not set: webhooks of anyone are taken"),
            "Set a secret on GitHub and here (githubWebhookServer.secret in the chart).",
        )),
        Source::Key(secret, key) => {
            if is_given(process, WEBHOOK_SECRET, observed) == Some(false) {
                findings.push(Finding::new(
                    Fault::WebhookSecretMissing,
                    object.clone(),
                    format!(
                        "{WEBHOOK_SECRET} comes from key {key} of Secret {}/{secret}, which is not there",
                        object.namespace
                    ),
                    "Create the Secret with that key; its value is the webhook's secret on GitHub.",
                ));
            }
        }
    }
}
