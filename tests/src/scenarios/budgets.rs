//! A simulated hour of calls to GitHub: the real client stack over HTTP against the fake GitHub, both by one clock that jumps from
//! one event to the next. Who asks are the questions of reconcilers (a listing per runner and autoscaler and minute, a token and a
//! removal per runner), not the reconcilers themselves: they need Kubernetes, whose clock cannot be moved.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use jiff::{SignedDuration, Timestamp};
use muster_core::scope::Scope;
use muster_github::{
    Auth, BudgetView, Error, ErrorClass, GitHub, Lane, Login, RegistrationToken, Shared, UrlSettings, Urls,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    agent::{PREFIX, Register, Registered, RunnerScope},
    github::{FakeGitHub, FakeGitHubOptions, Family},
};

/// How often a runner's state and an autoscaler's metric are looked at, up to a tenth more.
const PERIOD: SignedDuration = SignedDuration::from_secs(60);

/// What asks, and what may be asked.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Organizations.
    pub scopes: usize,
    /// Runners in all of them together.
    pub runners: usize,
    /// Simulated minutes.
    pub minutes: i64,
    /// How long a runner lives, at least and at most, in minutes.
    pub life: (i64, i64),
    /// Whether a runner goes by itself, as ephemeral ones do, or is removed by a call.
    pub ephemeral: bool,
    /// Calls per hour and credential.
    pub limit: u64,
    /// Credentials that share the work.
    pub credentials: usize,
    /// Whether listings can be confirmed for nothing, by their `ETag`.
    pub etags: bool,
    /// Decides lives and order.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Requests for listings that reached GitHub, confirmations included.
    pub listings: u64,
    /// Requests that GitHub charged.
    pub charged: u64,
    /// Confirmations, which it did not charge.
    pub free: u64,
    /// Requests that it refused for a limit.
    pub refused: u64,
    /// Most that one credential was charged.
    pub most_charged: u64,
    /// Tokens and removals that were needed.
    pub critical: u64,
    /// The longest that one of them had to wait.
    pub critical_wait: Duration,
    /// How often a listing was told to wait.
    pub waits: u64,
    /// The longest time that an autoscaler had to do without a listing.
    pub longest_gap: Duration,
    /// Scopes whose autoscaler got no listing at all.
    pub starved: usize,
    /// Runners that were made.
    pub made: u64,
}

/// Runs it.
///
/// # Errors
/// A call that failed otherwise than by having to wait.
pub async fn simulate(load: &Load) -> Result<Figures> {
    let mut hour = Hour::begin(load).await?;
    hour.run().await?;
    hour.figures()
}

/// Somebody who asks.
#[derive(Debug)]
enum Actor {
    Runner(Runner),
    Autoscaler { scope: usize, last: Timestamp },
}

#[derive(Debug)]
struct Runner {
    scope: usize,
    name: String,
    stage: Stage,
    /// Since when something critical has been wanted.
    wanted: Option<Timestamp>,
}

#[derive(Debug)]
enum Stage {
    New,
    Alive { id: u64, token: String, ends: Timestamp },
    Ending { id: u64, token: String },
}

/// What all actors share.
#[derive(Debug)]
struct Place {
    load: Load,
    fake: FakeGitHub,
    github: GitHub,
    agent: reqwest::Client,
    noted: Mutex<(StdRng, Figures, BTreeMap<usize, u64>)>,
}

struct Hour {
    place: Arc<Place>,
    shared: Shared,
    offset: SignedDuration,
    end: Timestamp,
    actors: Vec<Option<Actor>>,
    due: BinaryHeap<Reverse<(Timestamp, usize)>>,
}

fn organization(scope: usize) -> String {
    format!("org-{scope}")
}

fn token(number: usize) -> String {
    format!("ghp_simulated{number}")
}

impl Hour {
    async fn begin(load: &Load) -> Result<Self> {
        let fake = FakeGitHub::start(FakeGitHubOptions {
            seed: load.seed,
            tokens: (0..load.credentials).map(token).collect(),
            rate_limit: load.limit,
            offline_after: Duration::from_hours(24),
            etags: load.etags,
            ..FakeGitHubOptions::default()
        })
        .await?;
        let clock = fake.clone();
        let shared = Shared::builder(Arc::new(move || clock.now()))
            .without_proxy()
            .build()?;
        let urls = Urls::resolve(&UrlSettings {
            api: Some(fake.base_url()),
            ..UrlSettings::default()
        })?;
        let logins = (0..load.credentials)
            .map(|number| Login::new(format!("login-{number}"), Auth::Token(token(number).into())));
        let github = GitHub::pooled(logins.collect(), urls, &shared)?;
        let start = fake.now();
        let mut random = StdRng::seed_from_u64(load.seed);
        let mut actors = Vec::new();
        let mut due = BinaryHeap::new();
        for number in 0..load.runners {
            actors.push(Some(Actor::Runner(Runner {
                scope: number % load.scopes,
                name: format!("runner-{number}"),
                stage: Stage::New,
                wanted: None,
            })));
        }
        for scope in 0..load.scopes {
            actors.push(Some(Actor::Autoscaler { scope, last: start }));
        }
        for actor in 0..actors.len() {
            let at = start + SignedDuration::from_millis(random.random_range(0..60_000));
            due.push(Reverse((at, actor)));
        }
        let place = Place {
            load: *load,
            fake,
            github,
            agent: reqwest::Client::builder().no_proxy().build()?,
            noted: Mutex::new((random, Figures::default(), BTreeMap::new())),
        };
        Ok(Self {
            place: Arc::new(place),
            shared,
            offset: SignedDuration::ZERO,
            end: start + SignedDuration::from_mins(load.minutes),
            actors,
            due,
        })
    }

    async fn run(&mut self) -> Result<()> {
        while let Some(Reverse((at, _))) = self.due.peek().copied() {
            if at >= self.end {
                break;
            }
            let ahead = at.duration_since(self.place.fake.now());
            if ahead.is_positive() {
                self.offset += ahead;
                self.place.fake.set_clock_offset(self.offset);
            }
            // Whoever is due by now, all at the same time, as in a controller.
            let now = self.place.fake.now();
            let mut batch = Vec::new();
            while let Some(Reverse((at, number))) = self.due.peek().copied() {
                if at > now {
                    break;
                }
                self.due.pop();
                let actor = self.actors.get_mut(number).and_then(Option::take);
                batch.push((number, actor.context("an actor was due twice")?));
            }
            let steps = batch.into_iter().map(|(number, mut actor)| {
                let place = Arc::clone(&self.place);
                async move {
                    let next = place.step(&mut actor).await?;
                    anyhow::Ok((number, actor, next))
                }
            });
            for step in futures::future::join_all(steps).await {
                let (number, actor, next) = step?;
                if let Some(slot) = self.actors.get_mut(number) {
                    *slot = Some(actor);
                }
                self.due.push(Reverse((next, number)));
            }
        }
        Ok(())
    }

    fn figures(&self) -> Result<Figures> {
        let place = &self.place;
        let noted = place.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut figures = noted.1.clone();
        let families = [
            Family::ListRunners,
            Family::RegistrationToken,
            Family::RemoveRunner,
        ];
        for family in families {
            let calls = place.fake.calls(family);
            figures.charged += calls.full + calls.client_error;
            figures.free += calls.not_modified;
        }
        figures.listings = place.fake.calls(Family::ListRunners).total;
        let budgets = self.shared.budgets();
        figures.refused = budgets.iter().map(|view| view.refusals.iter().sum::<u64>()).sum();
        let spent = |view: &BudgetView| {
            let buckets = view.buckets.iter();
            buckets.map(|bucket| bucket.limit - bucket.remaining).max()
        };
        figures.most_charged = budgets
            .iter()
            .filter_map(spent)
            .max()
            .context("no budget was learned")?;
        figures.starved = place.load.scopes - noted.2.len();
        Ok(figures)
    }
}

impl Place {
    fn scope(scope: usize) -> Scope {
        Scope::Organization(organization(scope))
    }

    fn note<T>(&self, note: impl FnOnce(&mut StdRng, &mut Figures) -> T) -> T {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let (random, figures, _) = &mut *noted;
        note(random, figures)
    }

    fn after(&self, base: SignedDuration) -> Timestamp {
        let spread = self.note(|random, _| random.random_range(0..6_000));
        self.fake.now() + base + SignedDuration::from_millis(spread)
    }

    /// Does what is due, and says when to come back.
    async fn step(&self, actor: &mut Actor) -> Result<Timestamp> {
        match actor {
            Actor::Autoscaler { scope, last } => {
                if let Some(wait) = self.listing(*scope).await? {
                    return Ok(wait);
                }
                let now = self.fake.now();
                let gap = Duration::try_from(now.duration_since(*last))?;
                *last = now;
                self.note(|_, figures| figures.longest_gap = figures.longest_gap.max(gap));
                let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
                *noted.2.entry(*scope).or_default() += 1;
                drop(noted);
                Ok(self.after(PERIOD))
            }
            Actor::Runner(runner) => self.live(runner).await,
        }
    }

    /// Lists the runners of a scope; a time if that has to wait.
    async fn listing(&self, scope: usize) -> Result<Option<Timestamp>> {
        match self.github.list_runners(&Self::scope(scope)).await {
            Ok(_) => Ok(None),
            Err(error) => {
                self.note(|_, figures| figures.waits += 1);
                Ok(Some(waits(&error)?))
            }
        }
    }

    async fn live(&self, runner: &mut Runner) -> Result<Timestamp> {
        let (id, token) = match &runner.stage {
            Stage::New => return self.create(runner).await,
            Stage::Alive { id, token, ends } => {
                if self.fake.now() < *ends {
                    let wait = self.listing(runner.scope).await?;
                    return Ok(wait.unwrap_or_else(|| self.after(PERIOD).min(*ends)));
                }
                (*id, token.clone())
            }
            Stage::Ending { id, token } => (*id, token.clone()),
        };
        if matches!(runner.stage, Stage::Alive { .. }) {
            runner.stage = Stage::Ending {
                id,
                token: token.clone(),
            };
        }
        runner.wanted.get_or_insert_with(|| self.fake.now());
        if self.load.ephemeral {
            let address = format!("{}{PREFIX}/runners/{id}", self.fake.base_url());
            let answer = self.agent.delete(address).bearer_auth(token).send().await?;
            answer.error_for_status()?;
        } else {
            let github = self.github.in_lane(Lane::Critical);
            let scope = Self::scope(runner.scope);
            let removed = async {
                github.list_runners(&scope).await?;
                github.remove_runner(&scope, id).await
            };
            if let Err(error) = removed.await {
                return waits(&error);
            }
            self.done(runner);
        }
        let number = self.note(|_, figures| figures.made);
        runner.name = format!("{}-{number}", runner.name.split('+').next().unwrap_or("runner"));
        runner.stage = Stage::New;
        runner.wanted = None;
        Ok(self.fake.now() + SignedDuration::from_secs(1))
    }

    async fn create(&self, runner: &mut Runner) -> Result<Timestamp> {
        let scope = Self::scope(runner.scope);
        runner.wanted.get_or_insert_with(|| self.fake.now());
        let token = match self.github.registration_token(&scope).await {
            Ok(token) => token,
            Err(error) => return waits(&error),
        };
        self.done(runner);
        let name = self.note(|_, figures| {
            figures.made += 1;
            format!("{}+{}", runner.name, figures.made)
        });
        let id = self.register(runner.scope, name, &token).await?;
        let (least, most) = self.load.life;
        let life = self.note(|random, _| random.random_range(least * 60..=most * 60));
        runner.stage = Stage::Alive {
            id,
            token: token.expose().to_owned(),
            ends: self.fake.now() + SignedDuration::from_secs(life),
        };
        // It is looked for a few seconds later.
        Ok(self.after(SignedDuration::from_secs(10)))
    }

    async fn register(&self, scope: usize, name: String, token: &RegistrationToken) -> Result<u64> {
        let request = Register {
            scope: RunnerScope::Organization(organization(scope)),
            token: token.expose().to_owned(),
            name,
            labels: vec!["self-hosted".to_owned()],
            group: None,
            ephemeral: self.load.ephemeral,
        };
        let address = format!("{}{PREFIX}/register", self.fake.base_url());
        let answer = self.agent.post(address).json(&request).send().await?;
        let registered: Registered = answer.error_for_status()?.json().await?;
        Ok(registered.id)
    }

    /// Something critical is done.
    fn done(&self, runner: &mut Runner) {
        let now = self.fake.now();
        let waited = now.duration_since(runner.wanted.take().unwrap_or(now));
        let waited = Duration::try_from(waited).unwrap_or_default();
        self.note(|_, figures| {
            figures.critical += 1;
            figures.critical_wait = figures.critical_wait.max(waited);
        });
    }
}

/// When to come back; anything but a wait is an error.
fn waits(error: &Error) -> Result<Timestamp> {
    match error.class() {
        ErrorClass::Throttled { until: Some(until) } => Ok(until),
        _ => bail!("{error}"),
    }
}
