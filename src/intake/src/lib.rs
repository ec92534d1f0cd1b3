//! What the two servers that receive GitHub's webhooks share, `github-webhook-server` and `actions-metrics-server`.
//!
//! ```text
//! receive (method, bounded body) -> open (signature, content type, event) -> the server's own business
//! ```
//!
//! Whatever is not in order becomes a [`Refusal`]: a reason from a closed set, which decides the status code, and a sentence for the sender.

mod body;
mod login;
mod open;
mod receive;
mod refusal;
mod secrets;

pub use self::{
    body::{BODY_LIMIT, BODY_TIMEOUT, BodyBudget},
    login::{LoginError, github_client},
    open::{Opened, guid, open},
    receive::{Received, Request, receive, running},
    refusal::{Reason, Refusal},
    secrets::{SecretFlags, positive, secret},
};
