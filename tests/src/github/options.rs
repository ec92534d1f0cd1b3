//! Settings of the fake.

use std::time::Duration;

use jiff::SignedDuration;

use super::hooks::HookSpec;
use super::sender::WebhookChaos;

/// The personal access token that a fake accepts unless told otherwise.
pub const DEFAULT_TOKEN: &str = "ghp_musterTestToken0000000000000000000000";

/// A GitHub App with one installation.
#[derive(Clone, Debug)]
pub struct FakeApp {
    /// `iss` of its JWTs: the app id, or a client id.
    pub app_id: String,
    /// Its installation.
    pub installation_id: u64,
    /// PEM of the public key that its JWTs must be signed with (RS256); `None` does not look at signatures.
    pub public_key: Option<String>,
}

/// Settings of a [`FakeGitHub`](super::FakeGitHub).
#[derive(Clone, Debug)]
pub struct FakeGitHubOptions {
    /// Decides every random choice.
    pub seed: u64,
    /// Personal access tokens that are accepted (also as password of any user).
    pub tokens: Vec<String>,
    /// User name and password pairs that are accepted.
    pub basic: Vec<(String, String)>,
    /// GitHub Apps.
    pub apps: Vec<FakeApp>,
    /// Hooks that exist from the start.
    pub hooks: Vec<HookSpec>,
    /// Mishaps of webhooks.
    pub webhook_chaos: WebhookChaos,
    /// How many webhooks are on their way at a time.
    pub webhook_concurrency: usize,
    /// After how long GitHub gives up on a receiver.
    pub webhook_timeout: Duration,
    /// Repeats what was not answered 2xx (50 ms later, then doubling up to 1 s). GitHub itself does not.
    pub resend_until_2xx: bool,
    /// How many attempts each hook's delivery log keeps.
    pub delivery_log_limit: usize,
    /// How much GitHub's clock is ahead of this machine's.
    pub clock_offset: SignedDuration,
    /// How long a registration token is good for.
    pub registration_token_lifetime: SignedDuration,
    /// How long an installation token is good for.
    pub installation_token_lifetime: SignedDuration,
    /// Calls per hour and credential.
    pub rate_limit: u64,
    /// `max-age` of answers to GET, in seconds.
    pub max_age: u64,
    /// Whether answers to GET have an `ETag`, so that they can be confirmed by a 304.
    pub etags: bool,
    /// An agent that is silent for longer is offline.
    pub offline_after: Duration,
    /// A runner whose job is over for longer without a word is given up.
    pub interrupted_after: Duration,
    /// A job without a runner for so long is cancelled.
    pub queue_timeout: SignedDuration,
    /// Gives a polling runner any matching job instead of the oldest.
    pub shuffle_jobs: bool,
}

impl Default for FakeGitHubOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            tokens: vec![DEFAULT_TOKEN.to_owned()],
            basic: Vec::new(),
            apps: Vec::new(),
            hooks: Vec::new(),
            webhook_chaos: WebhookChaos::default(),
            webhook_concurrency: 32,
            webhook_timeout: Duration::from_secs(10),
            resend_until_2xx: false,
            delivery_log_limit: 100_000,
            clock_offset: SignedDuration::ZERO,
            registration_token_lifetime: SignedDuration::from_hours(1),
            installation_token_lifetime: SignedDuration::from_hours(1),
            rate_limit: 5_000,
            max_age: 60,
            etags: true,
            offline_after: Duration::from_secs(30),
            interrupted_after: Duration::from_secs(30),
            queue_timeout: SignedDuration::from_hours(24),
            shuffle_jobs: false,
        }
    }
}
