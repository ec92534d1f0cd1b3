//! The agent in the container `runner`: registers, takes jobs, ends. Behaves as the runner image does (spec 02
//! §11.10), as far as controllers can tell the difference.

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use reqwest::StatusCode;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::agent::{Assignment, Completion, Conclusion, PREFIX, Register, Registered, SYSTEM_LABELS};

use super::{
    environment::Environment,
    fault::{Fault, Strike, When},
    ledger::{JobOutcome, Ledger},
};

/// How long one poll for a job stays open.
const POLL_SECONDS: u64 = 30;
/// Pause after a failed call.
const RETRY: Duration = Duration::from_secs(1);
/// The image tries to register this often …
const REGISTER_ATTEMPTS: usize = 10;

/// Why the agent's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// By itself, with this exit code.
    Code(i32),
    /// By a planned fault.
    Struck(Strike),
}

/// One runner agent. Dropping the future of [`live`](Self::live) is SIGKILL; [`bury`](Self::bury) tells GitHub.
#[derive(Debug)]
pub(super) struct Agent {
    env: Environment,
    base: String,
    http: reqwest::Client,
    fault: Option<Fault>,
    pod: String,
    ledger: Arc<Ledger>,
    busy: AtomicBool,
    /// SIGTERM found the runner with a job, seen by the agent or not.
    asked_while_busy: AtomicBool,
    registered: Mutex<Option<Registered>>,
    job: Mutex<Option<(Assignment, Timestamp)>>,
}

/// What a poll for a job brought.
enum Poll {
    Job(Assignment),
    Nothing,
    Unregistered,
}

/// What the removal of the own registration brought.
enum Removal {
    Gone,
    Busy,
    Failed,
}

impl Agent {
    pub(super) fn new(
        env: Environment,
        http: reqwest::Client,
        fault: Option<Fault>,
        pod: String,
        ledger: Arc<Ledger>,
    ) -> Self {
        let base = format!("{}{PREFIX}", env.github_url());
        Self {
            env,
            base,
            http,
            fault,
            pod,
            ledger,
            busy: AtomicBool::new(false),
            asked_while_busy: AtomicBool::new(false),
            registered: Mutex::new(None),
            job: Mutex::new(None),
        }
    }

    /// Whether a job runs at this moment.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Whether GitHub refused to remove the runner because it has a job.
    pub(super) fn was_asked_while_busy(&self) -> bool {
        self.asked_while_busy.load(Ordering::Relaxed)
    }

    /// The whole life of the agent. `term` is SIGTERM.
    pub(super) async fn live(&self, term: &CancellationToken) -> Exit {
        sleep(self.env.startup_delay()).await;
        let (Some(name), Some(token), Some(scope)) = (self.env.name(), self.env.token(), self.env.scope())
        else {
            tracing::debug!(pod = self.pod, "Runner lacks its name, token or scope");
            return Exit::Code(1);
        };
        if let Some(strike) = self.due(When::Started).await {
            return Exit::Struck(strike);
        }
        if self.fault == Some(Fault::NeverRegisters) {
            return pending().await;
        }
        let register = Register {
            scope,
            token: token.to_owned(),
            name: name.to_owned(),
            labels: self
                .env
                .labels()
                .chain(SYSTEM_LABELS)
                .map(str::to_owned)
                .collect(),
            group: self.env.group().map(str::to_owned),
            ephemeral: self.env.is_ephemeral(),
        };
        let Some(registered) = self.register(&register).await else {
            // The image's outer script ends with 0 although its set-up failed.
            return Exit::Code(0);
        };
        self.ledger.registered(&self.pod);
        if let Ok(mut slot) = self.registered.lock() {
            *slot = Some(registered.clone());
        }
        if self.fault == Some(Fault::GoesOffline) {
            self.bury().await;
            term.cancelled().await;
            return Exit::Code(0);
        }
        let struck_idle = async {
            match self.due(When::Idle).await {
                Some(strike) => strike,
                None => pending().await,
            }
        };
        tokio::select! {
            exit = self.work(&registered, term) => exit,
            strike = struck_idle => Exit::Struck(strike),
        }
    }

    /// Tells GitHub that the agent was killed: a job of its fails, and it gets no other.
    pub(super) async fn bury(&self) {
        if let Some((job, started)) = self.job.lock().ok().and_then(|mut job| job.take()) {
            self.ledger.job_ended(&self.pod, &job, started, JobOutcome::Lost);
        }
        self.busy.store(false, Ordering::Relaxed);
        let Some(registered) = self
            .registered
            .lock()
            .ok()
            .and_then(|mut registered| registered.take())
        else {
            return;
        };
        let url = format!("{}/runners/{}/abandon", self.base, registered.id);
        for _ in 0..REGISTER_ATTEMPTS {
            let call = self
                .http
                .post(&url)
                .bearer_auth(&registered.agent_token)
                .timeout(RETRY * 10);
            match call.send().await {
                Ok(answer) if !answer.status().is_server_error() => return,
                Ok(_) | Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// The planned blow for this point, after its delay.
    async fn due(&self, point: When) -> Option<Strike> {
        match self.fault {
            Some(Fault::Strike { when, after, strike }) if when == point => {
                sleep(after).await;
                Some(strike)
            }
            _ => None,
        }
    }

    async fn register(&self, register: &Register) -> Option<Registered> {
        if !is_local(&self.base) {
            tracing::warn!(
                pod = self.pod,
                url = self.base,
                "A simulated runner never calls a real server"
            );
            return None;
        }
        let url = format!("{}/register", self.base);
        for attempt in 0..REGISTER_ATTEMPTS {
            if attempt > 0 {
                sleep(RETRY).await;
            }
            let call = self.http.post(&url).json(register).timeout(RETRY * 30);
            match call.send().await {
                Ok(answer) if answer.status().is_success() => return answer.json().await.ok(),
                Ok(answer) => {
                    tracing::debug!(
                        pod = self.pod,
                        status = answer.status().as_u16(),
                        "Registration was refused"
                    );
                }
                Err(error) => tracing::debug!(pod = self.pod, %error, "Registration failed"),
            }
        }
        None
    }

    async fn work(&self, registered: &Registered, term: &CancellationToken) -> Exit {
        let mut stopping = false;
        loop {
            let polled = if stopping {
                // GitHub says that there is a job; it is on its way.
                self.poll(registered).await
            } else {
                tokio::select! {
                    polled = self.poll(registered) => polled,
                    () = term.cancelled() => {
                        match self.remove(registered).await {
                            Removal::Gone | Removal::Failed => return Exit::Code(0),
                            Removal::Busy => self.asked_while_busy.store(true, Ordering::Relaxed),
                        }
                        stopping = true;
                        continue;
                    }
                }
            };
            match polled {
                Poll::Nothing => {}
                Poll::Unregistered => return Exit::Code(0),
                Poll::Job(job) => {
                    if let Some(exit) = self.run(registered, &job, term).await {
                        return exit;
                    }
                }
            }
        }
    }

    /// Runs one job; answers how the agent ends, or `None` when it waits for another job.
    async fn run(&self, registered: &Registered, job: &Assignment, term: &CancellationToken) -> Option<Exit> {
        let started = super::now();
        self.busy.store(true, Ordering::Relaxed);
        if let Ok(mut slot) = self.job.lock() {
            *slot = Some((job.clone(), started));
        }
        self.ledger.job_started(&self.pod);
        let body = async {
            if self.fault == Some(Fault::Hangs) {
                return pending().await;
            }
            sleep(Duration::from_millis(job.duration_ms)).await;
            Ok(Conclusion::Success)
        };
        let struck = async {
            match self.due(When::Busy).await {
                Some(strike) => Err(strike),
                None => pending().await,
            }
        };
        let stopped = async {
            term.cancelled().await;
            // The image asks first; a busy runner is refused, and the job gets some time.
            self.remove(registered).await;
            if self.fault == Some(Fault::Hangs) {
                return pending().await;
            }
            sleep(self.env.graceful_stop()).await;
            Ok(Conclusion::Cancelled)
        };
        let ended: Result<Conclusion, Strike> = tokio::select! {
            ended = body => ended,
            ended = struck => ended,
            ended = stopped => ended,
        };
        let conclusion = match ended {
            Ok(conclusion) => conclusion,
            Err(strike) => return Some(Exit::Struck(strike)),
        };
        // The work is over: whoever deletes the pod from now on takes nothing away.
        self.busy.store(false, Ordering::Relaxed);
        let outcome = if conclusion == Conclusion::Success {
            JobOutcome::Success
        } else {
            JobOutcome::Cancelled
        };
        self.complete(
            registered,
            &Completion {
                job_id: job.job_id,
                conclusion,
            },
        )
        .await;
        if let Ok(mut slot) = self.job.lock() {
            slot.take();
        }
        self.ledger.job_ended(&self.pod, job, started, outcome);
        if self.fault == Some(Fault::Lingers) {
            return pending().await;
        }
        if self.env.is_ephemeral() {
            // An ephemeral runner has removed itself; there is nothing left to bury.
            if let Ok(mut slot) = self.registered.lock() {
                slot.take();
            }
            return Some(Exit::Code(0));
        }
        (conclusion != Conclusion::Success).then_some(Exit::Code(0))
    }

    async fn poll(&self, registered: &Registered) -> Poll {
        let url = format!("{}/runners/{}/job?wait={POLL_SECONDS}", self.base, registered.id);
        let patience = Duration::from_secs(POLL_SECONDS + 30);
        let call = self
            .http
            .get(url)
            .bearer_auth(&registered.agent_token)
            .timeout(patience);
        let status = match call.send().await {
            Ok(answer) if answer.status() == StatusCode::OK => match answer.json().await {
                Ok(job) => return Poll::Job(job),
                Err(error) => {
                    tracing::debug!(pod = self.pod, %error, "The answer to a poll broke off");
                    None
                }
            },
            Ok(answer) => Some(answer.status()),
            Err(_) => None,
        };
        match status {
            Some(StatusCode::NO_CONTENT) => Poll::Nothing,
            Some(StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::UNAUTHORIZED) => {
                if let Ok(mut slot) = self.registered.lock() {
                    slot.take();
                }
                Poll::Unregistered
            }
            _ => {
                sleep(RETRY).await;
                Poll::Nothing
            }
        }
    }

    /// Reports the end of a job, again and again until GitHub has heard it.
    async fn complete(&self, registered: &Registered, completion: &Completion) {
        let url = format!("{}/runners/{}/complete", self.base, registered.id);
        loop {
            let call = self
                .http
                .post(&url)
                .bearer_auth(&registered.agent_token)
                .json(completion);
            match call.timeout(RETRY * 30).send().await {
                Ok(answer) if !answer.status().is_server_error() => return,
                Ok(_) | Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// `config.sh remove`, with the registration token.
    async fn remove(&self, registered: &Registered) -> Removal {
        let url = format!("{}/runners/{}", self.base, registered.id);
        let token = self.env.token().unwrap_or_default();
        let removal = match self
            .http
            .delete(url)
            .bearer_auth(token)
            .timeout(RETRY * 30)
            .send()
            .await
        {
            Ok(answer) => match answer.status() {
                StatusCode::UNPROCESSABLE_ENTITY => Removal::Busy,
                status if status.is_success() || status == StatusCode::NOT_FOUND => Removal::Gone,
                _ => Removal::Failed,
            },
            Err(_) => Removal::Failed,
        };
        if matches!(removal, Removal::Gone)
            && let Ok(mut slot) = self.registered.lock()
        {
            slot.take();
        }
        removal
    }
}

/// Whether the host is this machine: the simulation must never reach a real GitHub.
fn is_local(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| {
        url.host_str().is_some_and(|host| {
            let host = host.trim_matches(['[', ']']);
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_called() {
        assert!(is_local("http://127.0.0.1:80/_agent"));
        assert!(is_local("http://[::1]:80/_agent"));
        assert!(is_local("http://localhost/_agent"));
        assert!(!is_local("https://github.com/_agent"));
        assert!(!is_local("http://10.0.0.1/"));
    }
}
