//! Bodies of a bounded size, and of a bounded size together.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Reason, Refusal};

/// GitHub sends no more than 25 MB.
pub const BODY_LIMIT: usize = 25 << 20;

/// Time for a delivery's body to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Bodies up to this size need no room in the budget; deliveries about jobs are a third of it.
const SMALL_BODY: usize = 32 << 10;

/// Memory for bodies that are larger than a delivery about a job ever is, in KiB.
const BUDGET: u32 = 128 << 10;

/// Room that large bodies share, as their senders are not known yet to have the secret. Clones share it.
#[derive(Clone, Debug)]
pub struct BodyBudget(Arc<Semaphore>);

impl Default for BodyBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(
            usize::try_from(BUDGET).unwrap_or_default(),
        )))
    }
}

impl BodyBudget {
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let kibibytes = u32::try_from(bytes >> 10).unwrap_or(BUDGET).clamp(1, BUDGET);
        // Nobody closes the semaphore.
        Arc::clone(&self.0)
            .acquire_many_owned(kibibytes)
            .await
            .map_err(|_| Refusal::new(Reason::Busy, "the server is stopping"))
    }

    /// Reads a body of at most [`BODY_LIMIT`]. What comes with it keeps its room.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refusal> {
        let too_large = || {
            Refusal::new(
                Reason::TooLarge,
                "the body is larger than 25 MB, which GitHub never sends",
            )
        };
        let broken = || Refusal::new(Reason::Malformed, "the body could not be read to its end");
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > BODY_LIMIT) {
            return Err(too_large());
        }
        let mut room = None;
        let mut first: Option<Bytes> = None;
        let mut joined: Option<BytesMut> = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| broken())?.into_data() else {
                continue;
            };
            let length =
                first.as_ref().map_or(0, Bytes::len) + joined.as_ref().map_or(0, BytesMut::len) + data.len();
            if length > BODY_LIMIT {
                return Err(too_large());
            }
            if length > SMALL_BODY && room.is_none() {
                room = Some(self.room(announced.unwrap_or(BODY_LIMIT)).await?);
            }
            // Most deliveries arrive in one piece and need no copy.
            match (&mut joined, first.take()) {
                (Some(joined), _) => joined.extend_from_slice(&data),
                (None, None) => first = Some(data),
                (None, Some(head)) => {
                    let mut both = BytesMut::with_capacity(announced.unwrap_or(length).max(length));
                    both.extend_from_slice(&head);
                    both.extend_from_slice(&data);
                    joined = Some(both);
                }
            }
        }
        let body = joined.map(BytesMut::freeze).or(first).unwrap_or_default();
        if announced.is_some_and(|length| length != body.len()) {
            return Err(broken());
        }
        Ok((body, room))
    }
}
