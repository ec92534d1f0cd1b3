//! The GitHub client of a server that can do without one.

use std::sync::Arc;

use muster_github::{
    Auth, BuildError, GitHub, Shared, UrlError, UrlSettings, Urls,
    metrics::{Budgets, GitHubMetrics},
};
use muster_runtime::{
    args::{Credentials, CredentialsError, GitHubArgs},
    clock::Clock,
    metrics::{Registry, VERSION},
};

/// Why there is no client although there is a login.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The login names a key file that cannot be read.
    #[error("could not read the GitHub credentials")]
    Credentials(#[from] CredentialsError),
    /// A GitHub URL cannot be used.
    #[error("a GitHub URL cannot be used")]
    Url(#[from] UrlError),
    /// The login cannot be used.
    #[error("could not set up the GitHub client")]
    Client(#[from] BuildError),
}

/// The client, where there is a login for one; `without` says in the log what is not done otherwise.
///
/// # Errors
/// [`LoginError`].
pub fn github_client(
    args: &GitHubArgs,
    clock: &Clock,
    registry: &mut Registry,
    without: &str,
) -> Result<Option<GitHub>, LoginError> {
    let auth = match args.credentials() {
        Ok(Credentials::Basic { username, password }) => Auth::Basic { username, password },
        Ok(Credentials::Token(token)) => Auth::Token(token),
        Ok(Credentials::App {
            app_id,
            installation_id,
            private_key,
        }) => Auth::App {
            app_id,
            installation_id,
            private_key,
        },
        Err(CredentialsError::Missing) => {
            tracing::info!("GitHub client is not configured; {without}");
            return Ok(None);
        }
        Err(error @ (CredentialsError::Incomplete { .. } | CredentialsError::Numbered { .. })) => {
            tracing::warn!(error = %error, "GitHub client is not configured; {without}");
            return Ok(None);
        }
        Err(error @ CredentialsError::KeyFile { .. }) => return Err(error.into()),
    };
    let urls = Urls::resolve(&UrlSettings {
        enterprise: args.enterprise_url.clone(),
        api: args.url.clone(),
        upload: args.upload_url.clone(),
        runner: args.runner_url.clone(),
    })?;
    let now = clock.clone();
    let builder = Shared::builder(Arc::new(move || now.now()))
        .version(VERSION)
        .observer(Arc::new(GitHubMetrics::register(registry)));
    let shared = match args.calls_per_hour {
        Some(calls) => builder.calls_per_hour(calls),
        None => builder,
    }
    .build()?;
    Budgets::register(&shared, registry);
    Ok(Some(GitHub::new(auth, urls, &shared)?))
}
