//! Secrets of webhooks, from flags or the environment.

use muster_runtime::args::{self, Env, Exit};
use secrecy::{ExposeSecret as _, SecretString};

const SECRET_VARIABLE: &str = "GITHUB_WEBHOOK_SECRET_TOKEN";
const PREVIOUS_SECRET_VARIABLE: &str = "GITHUB_WEBHOOK_SECRET_TOKEN_PREVIOUS";

/// The flags that name the webhooks' secrets.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SecretFlags {
    /// Secret that webhooks are signed with [env: `GITHUB_WEBHOOK_SECRET_TOKEN`].
    #[arg(long, value_name = "SECRET", value_parser = args::secret)]
    pub github_webhook_secret_token: Option<SecretString>,
    /// Secret that webhooks may still be signed with while it is being replaced [env: `GITHUB_WEBHOOK_SECRET_TOKEN_PREVIOUS`].
    #[arg(long, value_name = "SECRET", value_parser = args::secret)]
    pub github_webhook_previous_secret_token: Option<SecretString>,
}

impl SecretFlags {
    /// Secrets that a signature may be made with, the current one first; none accepts unsigned deliveries. What the user should know about them
    /// goes to `notices`.
    ///
    /// # Errors
    /// An [`Exit`] for a previous secret without a current one, and for a variable that is not text.
    pub fn resolve(self, env: &Env, notices: &mut Vec<String>) -> Result<Vec<SecretString>, Exit> {
        let current = secret(self.github_webhook_secret_token, env, SECRET_VARIABLE, notices)?;
        let previous = secret(
            self.github_webhook_previous_secret_token,
            env,
            PREVIOUS_SECRET_VARIABLE,
            notices,
        )?;
        match &current {
            None if previous.is_some() => {
                return Err(Exit::failure(format_args!(
                    "{PREVIOUS_SECRET_VARIABLE} is set without {SECRET_VARIABLE}: the secret that webhooks have now comes first"
                )));
            }
            None => notices.push(format!(
                "No webhook secret: deliveries are accepted unsigned; set {SECRET_VARIABLE} to what the webhook has on GitHub"
            )),
            Some(secret) if secret.expose_secret().trim() != secret.expose_secret() => notices.push(
                "The webhook secret begins or ends with white space, which belongs to it: signatures fail unless GitHub's has it too"
                    .to_owned(),
            ),
            Some(_) => {}
        }
        Ok(current.into_iter().chain(previous).collect())
    }
}

/// A secret of the command line, or else of the environment; empty ones count as absent.
///
/// # Errors
/// An [`Exit`] when the variable is not text.
pub fn secret(
    flag: Option<SecretString>,
    env: &Env,
    variable: &str,
    notices: &mut Vec<String>,
) -> Result<Option<SecretString>, Exit> {
    if let Some(given) = flag.filter(|secret| !secret.expose_secret().is_empty()) {
        return Ok(Some(given));
    }
    let text = env
        .get(variable)
        .map_err(Exit::failure)?
        .filter(|text| !text.is_empty());
    if text.is_some() {
        notices.push(format!("A secret is taken from {variable}"));
    }
    Ok(text.map(SecretString::from))
}

/// A number of things that there can be at least one of; none for zero, less, and what no machine has room for.
pub fn positive(number: i64) -> Option<usize> {
    usize::try_from(number)
        .ok()
        .filter(|number| *number > 0 && *number <= 1 << 20)
}
