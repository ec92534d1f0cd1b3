//! One operation with whichever credential of the pool suits it: choose, do, and where that credential may not or must wait, the
//! next one.

use std::future::Future;

use crate::{
    auth::Credential,
    budget::Ask,
    error::{Attempt, Error, ErrorClass},
    observer::{CallFamily, Identity},
    rest::GitHub,
};

/// The scope or repository that a path is about; runners are a place of their own, as who sees a repository need not see them.
pub(super) fn place(path: &str) -> &str {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    if path.ends_with("/actions/runners") {
        return path;
    }
    let segments = if path.starts_with("/repos/") { 4 } else { 3 };
    let end = path.match_indices('/').nth(segments - 1).map(|(at, _)| at);
    end.and_then(|end| path.get(..end)).unwrap_or(path)
}

/// Which of two failures to tell: that some credential may ask later, and the earliest of those; else what was first.
fn tell(first: Option<Error>, next: Error) -> Error {
    let opens = |error: &Error| match error.class() {
        ErrorClass::Throttled { until } => Some(until),
        _ => None,
    };
    match first {
        None => next,
        Some(first) => match (opens(&first), opens(&next)) {
            (None, Some(_)) => next,
            (Some(Some(a)), Some(Some(b))) if b < a => next,
            _ => first,
        },
    }
}

impl GitHub {
    /// Does `work` with the best credential for `path`, and with others where that one is not accepted, may not see the place, or
    /// has to wait. `has_answer` says who need not ask GitHub.
    pub(super) async fn with_any<T, Work>(
        &self,
        path: &str,
        attempt: &Attempt,
        has_answer: impl Fn(&Credential) -> bool,
        work: impl Fn(Self) -> Work,
    ) -> Result<T, Error>
    where
        Work: Future<Output = Result<T, Error>>,
    {
        let (place, now) = (place(path), self.shared.now());
        let mut failure = None;
        for member in self.members_for(place, attempt, has_answer) {
            let Some(credential) = self.pool.members().get(member) else {
                continue;
            };
            let one = Self {
                credential: credential.clone(),
                member,
                ..self.clone()
            };
            let error = match work(one).await {
                Ok(done) => {
                    credential.note_refused(false, now);
                    self.note_proved(place, member);
                    return Ok(done);
                }
                Err(error) => error,
            };
            match error.class() {
                ErrorClass::Unauthorized => {
                    if !credential.is_refused(now) {
                        tracing::warn!(credential = %credential.name, %error, "GitHub does not accept a login.");
                    }
                    credential.note_refused(true, now);
                }
                // Who sees the repository knows that a run of it is gone.
                ErrorClass::NotFound
                    if attempt.family() == CallFamily::ListJobs && self.pool.has_proved(place, member) =>
                {
                    return Err(error);
                }
                ErrorClass::Forbidden | ErrorClass::NotFound => self.note_unsuited(place, member),
                ErrorClass::Throttled { .. } => {}
                ErrorClass::Unavailable | ErrorClass::Rejected | ErrorClass::Bug => return Err(error),
            }
            failure = Some(tell(failure, error));
        }
        Err(failure.unwrap_or_else(|| Error::NoCredential {
            attempt: attempt.clone(),
        }))
    }

    /// Whom to ask, the best first.
    fn members_for(
        &self,
        place: &str,
        attempt: &Attempt,
        has_answer: impl Fn(&Credential) -> bool,
    ) -> Vec<usize> {
        if self.pool.is_single() {
            return vec![self.member];
        }
        let now = self.shared.now();
        let question = attempt.to_string();
        let ask = Ask {
            identity: Identity::Credential,
            family: attempt.family(),
            lane: self.lane(attempt.family()),
            question: &question,
        };
        self.pool.order(place, now, |credential| {
            let limits = &credential.limits;
            let opens = limits.wait(&ask, now).map(|wait| wait.until);
            let left = limits.left(ask.identity, ask.family, now);
            (has_answer(credential), opens, left)
        })
    }

    fn note_proved(&self, place: &str, member: usize) {
        if !self.pool.is_single() {
            self.pool.proved(place, member);
        }
    }

    fn note_unsuited(&self, place: &str, member: usize) {
        if !self.pool.is_single() {
            self.pool.unsuited(place, member, self.shared.now());
        }
    }

    /// Whether a "not found" at this path can mean that the credential may not see it: with one credential, what it was asked about
    /// was seen with it before.
    pub(super) fn may_be_hidden(&self, path: &str) -> bool {
        !self.pool.is_single() && !self.pool.has_proved(place(path), self.member)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::error::LimitKind;

    #[test]
    fn what_a_path_is_about() {
        for (path, about) in [
            ("/orgs/acme/actions/runners", "/orgs/acme/actions/runners"),
            (
                "/repos/acme/api/actions/runners?x=1",
                "/repos/acme/api/actions/runners",
            ),
            ("/repos/acme/api/actions/runs?status=queued", "/repos/acme/api"),
            ("/repos/acme/api/actions/runs/7/jobs", "/repos/acme/api"),
            ("/repos/acme/api", "/repos/acme/api"),
            (
                "/orgs/acme/actions/runner-groups?visible_to_repository=api",
                "/orgs/acme",
            ),
            ("/enterprises/big/actions/x", "/enterprises/big"),
            ("/repositories/12", "/repositories/12"),
        ] {
            assert_eq!(place(path), about, "{path}");
        }
    }

    #[test]
    fn the_failure_that_ends_soonest_is_told() {
        let attempt = || Attempt::new(CallFamily::ListRunners, "list");
        let throttled = |second| Error::Throttled {
            attempt: attempt(),
            limit: LimitKind::Primary,
            until: Timestamp::from_second(second).ok(),
        };
        let hidden = || Error::NotFound {
            attempt: attempt(),
            message: String::new(),
        };
        let until = |error: Error| match error.class() {
            ErrorClass::Throttled { until } => until.map(Timestamp::as_second),
            _ => None,
        };
        assert_eq!(until(tell(Some(hidden()), throttled(5))), Some(5));
        assert_eq!(until(tell(Some(throttled(5)), hidden())), Some(5));
        assert_eq!(until(tell(Some(throttled(5)), throttled(3))), Some(3));
        assert_eq!(until(tell(Some(throttled(5)), throttled(8))), Some(5));
        assert_eq!(until(tell(None, hidden())), None);
    }
}
