//! Sends webhooks: asynchronously, a bounded number at a time, with GitHub's time-out, and with the mishaps that
//! tests ask for. Every attempt lands in the hook's delivery log.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clock::ServerClock;
use super::delivery::read_capped;
use super::hooks::{Content, DeliveryRecord, Hooks, Outcome};
use super::lock;
use super::world::JobEvent;

/// Mishaps on the way to the receiver, each with its chance (0 to 1). All draws are seeded and made in the order
/// of the events.
#[derive(Clone, Debug, Default)]
pub struct WebhookChaos {
    /// The receiver does not see it, and the delivery log says that it failed (502).
    pub lose: f64,
    /// The receiver does not see it, and the delivery log says 200: a proxy on the way answered.
    pub swallow: f64,
    /// It is never sent, and the delivery log does not know it.
    pub forget: f64,
    /// It is sent twice with the same GUID.
    pub duplicate: f64,
    /// It is sent later, by up to `delay_up_to`.
    pub delay: f64,
    /// Bound of the delay.
    pub delay_up_to: Duration,
    /// Up to so many events that come within 50 ms are sent in shuffled order; 0 and 1 keep the order.
    pub reorder_window: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sent,
    Lost,
    Swallowed,
}

/// The sending half of the fake.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) hooks: Mutex<Hooks>,
    chaos: Mutex<(WebhookChaos, StdRng)>,
    client: reqwest::Client,
    clock: Arc<ServerClock>,
    slots: Semaphore,
    paused: watch::Sender<bool>,
    resend: AtomicBool,
    timeout: Duration,
    /// Events and attempts that are not over.
    pub(crate) pending: Arc<AtomicU64>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What the sender needs to know at the start.
#[derive(Debug)]
pub(crate) struct SenderSettings {
    pub(crate) seed: u64,
    pub(crate) chaos: WebhookChaos,
    pub(crate) concurrency: usize,
    pub(crate) timeout: Duration,
    pub(crate) resend: bool,
    pub(crate) log_limit: usize,
}

impl Sender {
    pub(crate) fn new(
        settings: SenderSettings,
        clock: Arc<ServerClock>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            hooks: Mutex::new(Hooks::new(settings.log_limit)),
            chaos: Mutex::new((settings.chaos, StdRng::seed_from_u64(settings.seed ^ 0x00ca_a405))),
            client,
            clock,
            slots: Semaphore::new(settings.concurrency.max(1)),
            paused: watch::Sender::new(false),
            resend: AtomicBool::new(settings.resend),
            timeout: settings.timeout,
            pending: Arc::default(),
            tasks,
            stop,
        })
    }

    pub(crate) fn set_chaos(&self, chaos: WebhookChaos) {
        lock(&self.chaos).0 = chaos;
    }

    pub(crate) fn set_resend(&self, resend: bool) {
        self.resend.store(resend, Ordering::Relaxed);
    }

    pub(crate) fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// Takes events as they happen, until the server ends.
    pub(crate) async fn run(self: Arc<Self>, mut events: mpsc::UnboundedReceiver<JobEvent>) {
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => return,
                event = events.recv() => event,
            };
            let Some(event) = event else { return };
            let window = lock(&self.chaos).0.reorder_window;
            let mut batch = vec![event];
            if window > 1 {
                let end = Instant::now() + Duration::from_millis(50);
                while batch.len() < window {
                    match tokio::time::timeout_at(end, events.recv()).await {
                        Ok(Some(event)) => batch.push(event),
                        Ok(None) | Err(_) => break,
                    }
                }
                batch.shuffle(&mut lock(&self.chaos).1);
            }
            for event in batch {
                for (hook, content) in lock(&self.hooks).fan_out(event.action, &event.job) {
                    self.begin(hook, &content);
                }
                self.pending.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Decides what becomes of a delivery and starts it.
    pub(crate) fn begin(self: &Arc<Self>, hook: u64, content: &Arc<Content>) {
        let (fate, copies, delay, guid) = {
            let mut guard = lock(&self.chaos);
            let (chaos, rng) = &mut *guard;
            let guid = uuid::Builder::from_random_bytes(rng.random())
                .into_uuid()
                .to_string();
            let mut chance = |probability: f64| {
                // Drawn always, so that switching one mishap on leaves the others where they were.
                let draw: f64 = rng.random();
                draw < probability
            };
            let forgotten = chance(chaos.forget);
            let lost = chance(chaos.lose);
            let swallowed = chance(chaos.swallow);
            let duplicated = chance(chaos.duplicate);
            let delayed = chance(chaos.delay);
            let part: f64 = rng.random();
            if forgotten {
                return;
            }
            let fate = if lost {
                Fate::Lost
            } else if swallowed {
                Fate::Swallowed
            } else {
                Fate::Sent
            };
            let delay = if delayed {
                chaos.delay_up_to.mul_f64(part)
            } else {
                Duration::ZERO
            };
            (fate, if duplicated { 2 } else { 1 }, delay, guid)
        };
        for copy in 0..copies {
            self.spawn(hook, content.clone(), guid.clone(), copy > 0, fate, delay);
        }
    }

    /// Sends an earlier delivery again; whether there is one.
    pub(crate) fn redeliver(self: &Arc<Self>, hook_id: u64, delivery_id: u64) -> bool {
        let found = lock(&self.hooks)
            .get(hook_id)
            .and_then(|hook| hook.log.get(&delivery_id))
            .map(|record| (record.content.clone(), record.view.guid.clone()));
        let Some((content, guid)) = found else {
            return false;
        };
        self.spawn(hook_id, content, guid, true, Fate::Sent, Duration::ZERO);
        true
    }

    fn spawn(
        self: &Arc<Self>,
        hook: u64,
        content: Arc<Content>,
        guid: String,
        redelivery: bool,
        fate: Fate,
        delay: Duration,
    ) {
        self.pending.fetch_add(1, Ordering::AcqRel);
        let sender = self.clone();
        self.tasks.spawn(async move {
            let deliver = sender.deliver(hook, content, &guid, redelivery, fate, delay);
            tokio::select! {
                () = sender.stop.cancelled() => {}
                () = deliver => {}
            }
            sender.pending.fetch_sub(1, Ordering::AcqRel);
        });
    }

    async fn deliver(
        &self,
        hook: u64,
        content: Arc<Content>,
        guid: &str,
        mut redelivery: bool,
        mut fate: Fate,
        delay: Duration,
    ) {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut pause = Duration::from_millis(50);
        loop {
            let status = self.attempt(hook, &content, guid, redelivery, fate).await;
            let accepted = status.is_none_or(|status| (200..300).contains(&status));
            if accepted || !self.resend.load(Ordering::Relaxed) {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
            redelivery = true;
            fate = Fate::Sent;
        }
    }

    /// One attempt; its status code, or `None` when the hook is gone.
    async fn attempt(
        &self,
        hook_id: u64,
        content: &Arc<Content>,
        guid: &str,
        redelivery: bool,
        fate: Fate,
    ) -> Option<u16> {
        let mut paused = self.paused.subscribe();
        if paused.wait_for(|paused| !paused).await.is_err() {
            return None;
        }
        let _slot = self.slots.acquire().await.ok()?;
        let (id, signed, url) = {
            let mut hooks = lock(&self.hooks);
            let id = hooks.next_delivery();
            let hook = hooks.get(hook_id)?;
            (
                id,
                hook.delivery(content, guid).sign(&hook.spec.secret),
                hook.spec.url.clone(),
            )
        };
        let delivered_at = self.clock.now();
        let outcome = match fate {
            Fate::Lost => failure(502, "failed to connect to host", Duration::ZERO),
            Fate::Swallowed => failure(200, "OK", Duration::from_millis(1)),
            Fate::Sent => {
                let began = Instant::now();
                let request = self
                    .client
                    .post(&url)
                    .headers(signed.headers())
                    .body(signed.delivery.body.clone())
                    .timeout(self.timeout);
                let answer = async {
                    let response = request.send().await?;
                    let status = response.status();
                    Ok::<_, reqwest::Error>((status, read_capped(response, 4096).await?))
                };
                match answer.await {
                    Ok((status, response)) => Outcome {
                        status_code: status.as_u16(),
                        status: status
                            .canonical_reason()
                            .unwrap_or("Invalid HTTP Response")
                            .to_owned(),
                        response,
                        duration: began.elapsed(),
                    },
                    Err(error) if error.is_timeout() => failure(504, "timed out", began.elapsed()),
                    Err(_) => failure(502, "failed to connect to host", began.elapsed()),
                }
            }
        };
        let status = outcome.status_code;
        let record = DeliveryRecord::new(id, guid, delivered_at, redelivery, content.clone(), url, outcome);
        lock(&self.hooks).record(hook_id, record);
        Some(status)
    }
}

fn failure(status_code: u16, status: &str, duration: Duration) -> Outcome {
    Outcome {
        status_code,
        status: status.to_owned(),
        response: String::new(),
        duration,
    }
}
