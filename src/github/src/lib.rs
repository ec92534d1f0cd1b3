//! GitHub as Muster sees it: one cached REST client per credential, and the payloads and signatures of webhooks.
//!
//! The crate knows HTTP, GitHub's limits and its JSON; it knows nothing of Kubernetes or of how many runners anybody wants. A call runs through these layers (part 92 §7):
//!
//! ```text
//! GitHub (typed operations, choice among the credentials of a pool, page walk, single flight per scope)
//!   -> octocrab (request building) -> leaf (address, login, headers)
//!     -> cache (60 s, ETag, one store per process, keys per credential)
//!       -> wire (budget of the credential, capped bodies, observer) -> reqwest
//! ```
//!
//! Everything above the cache runs on every call, everything below it only when bytes go over the network.

mod auth;
mod budget;
mod cache;
mod error;
pub mod events;
mod lenient;
mod limits;
pub mod metrics;
mod observer;
mod pool;
mod rest;
mod shared;
pub mod signature;
mod urls;
mod wire;

pub use auth::{Auth, AuthError, AuthSettings, Login};
pub use budget::{Hold, Lane};
pub use error::{Attempt, BuildError, Error, ErrorClass, LimitKind};
pub use observer::{CallFamily, Identity, LiveRequest, NoObserver, Observer, RateLimit, RequestOutcome};
pub use rest::{
    Delivery, DeliveryPages, DeliverySummary, GitHub, Hook, HookInfo, RegistrationToken, Removal,
    RepositoryName, RunStatus, RunnerGroup, RunnerInfo, WorkflowJob, WorkflowRun,
};
pub use shared::{BucketView, BudgetView, Clock, Shared, SharedBuilder};
pub use urls::{UrlError, UrlSettings, Urls};
