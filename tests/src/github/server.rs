//! The parts of a running fake, and its background work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::auth::Credentials;
use super::clock::ServerClock;
use super::counters::Counters;
use super::faults::Faults;
use super::lock;
use super::options::FakeGitHubOptions;
use super::sender::Sender;
use super::world::World;

/// Everything that handlers and the handle share. Locks are short, never held across an await, and taken one
/// at a time.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) options: FakeGitHubOptions,
    pub(crate) clock: Arc<ServerClock>,
    pub(crate) world: Mutex<World>,
    pub(crate) faults: Mutex<Faults>,
    pub(crate) counters: Mutex<Counters>,
    pub(crate) credentials: Mutex<Credentials>,
    pub(crate) sender: Arc<Sender>,
    pub(crate) dark: Arc<AtomicBool>,
    /// Grows with every change of the world.
    pub(crate) revision: watch::Sender<u64>,
    pub(crate) stop: CancellationToken,
    secrets: Mutex<StdRng>,
}

impl Core {
    pub(crate) fn new(
        options: FakeGitHubOptions,
        clock: Arc<ServerClock>,
        world: World,
        sender: Arc<Sender>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            credentials: Mutex::new(Credentials::new(&options)),
            faults: Mutex::new(Faults::new(options.seed)),
            secrets: Mutex::new(StdRng::seed_from_u64(options.seed ^ 0x005e_c2e7)),
            counters: Mutex::default(),
            dark: Arc::default(),
            revision: watch::Sender::new(0),
            options,
            clock,
            world: Mutex::new(world),
            sender,
            stop,
        }
    }

    /// Changes the world and tells those who wait for changes.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let (result, revision) = {
            let mut world = lock(&self.world);
            (change(&mut world), world.revision)
        };
        self.revision.send_if_modified(|seen| {
            let newer = revision > *seen;
            *seen = revision.max(*seen);
            newer
        });
        result
    }

    pub(crate) fn is_dark(&self) -> bool {
        self.dark.load(Ordering::Relaxed)
    }

    /// Letters and digits that nobody guesses, the same for the same seed.
    pub(crate) fn secret(&self, length: usize) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut rng = lock(&self.secrets);
        (0..length)
            .filter_map(|_| LETTERS.get(rng.random_range(0..LETTERS.len())))
            .map(|letter| char::from(*letter))
            .collect()
    }

    /// Lets time pass: old queued jobs, silent runners.
    pub(crate) async fn sweep(self: Arc<Self>) {
        let every =
            (self.options.interrupted_after / 4).clamp(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let now = self.clock.now();
            self.change(|world| world.sweep(now, Instant::now()));
        }
    }
}
