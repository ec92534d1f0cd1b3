//! The thread that writes log lines, and the bounded buffer in front of it.

use std::{
    fmt,
    io::Write,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::Level;

use super::{fields::Fields, lines::render};
use crate::{args::LogFormat, clock::Clock};

/// Debug lines are dropped beyond this many buffered bytes.
const IDLE_LIMIT: usize = 4 << 20;
/// Info lines are dropped, and warnings and errors wait, beyond this many.
const ROOM_LIMIT: usize = 8 << 20;
/// How long a warning or an error waits for room before it is dropped as well.
const PATIENCE: Duration = Duration::from_secs(1);
/// At most one line per this time says how many lines were dropped.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);
/// A buffer that grew beyond this is given back after it was written.
const SHRINK_ABOVE: usize = 1 << 20;

/// What happens to a line when the buffer fills up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Dropped first: trace and debug.
    WhileIdle,
    /// Dropped when the buffer is full: info.
    WhileRoom,
    /// Waits for room: warnings and errors.
    Always,
}

/// The buffer, shared by the logging threads and the writing one.
pub(super) struct Writer {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// The thread is writing what it took.
    writing: bool,
    /// Somebody waited in vain; nobody waits again before the next write succeeds, so that a dead pipe does not stall the process.
    stuck: bool,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// Starts the thread, which lives as long as the process or until this writer is dropped everywhere.
    pub(super) fn start(
        sink: Box<dyn Write + Send>,
        clock: Clock,
        format: LogFormat,
    ) -> std::io::Result<Arc<Self>> {
        let writer = Arc::new(Self {
            state: Mutex::new(State::default()),
            filled: Condvar::new(),
            drained: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&writer);
        thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || {
                let mut writing = Writing {
                    sink,
                    clock,
                    format,
                    told: 0,
                    last_told: None,
                };
                // Looking up again after every wait lets the thread end once nobody can log any more.
                while let Some(writer) = weak.upgrade() {
                    writer.write_pending(&mut writing);
                }
            })?;
        Ok(writer)
    }

    /// Number of lines dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Buffers a line.
    pub(super) fn write(&self, line: &[u8], keep: Keep) {
        let limit = if keep == Keep::WhileIdle {
            IDLE_LIMIT
        } else {
            ROOM_LIMIT
        };
        let mut state = self.lock();
        if state.pending.len() + line.len() > limit && keep == Keep::Always && !state.stuck {
            let (waited, _) = self
                .drained
                .wait_timeout_while(state, PATIENCE, |state| {
                    state.pending.len() + line.len() > limit && !state.stuck
                })
                .unwrap_or_else(PoisonError::into_inner);
            state = waited;
            state.stuck = state.pending.len() + line.len() > limit;
        }
        if state.pending.len() + line.len() > limit {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = state.pending.is_empty();
        state.pending.extend_from_slice(line);
        drop(state);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Waits until everything buffered so far is written, at most `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let state = self.lock();
        drop(
            self.drained
                .wait_timeout_while(state, timeout, |state| state.writing || !state.pending.is_empty()),
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One turn of the thread: waits up to a second for lines and writes them.
    fn write_pending(&self, writing: &mut Writing) {
        let (mut state, _) = self
            .filled
            .wait_timeout_while(self.lock(), Duration::from_secs(1), |state| {
                state.pending.is_empty()
            })
            .unwrap_or_else(PoisonError::into_inner);
        if state.pending.is_empty() {
            return;
        }
        let mut taken = std::mem::take(&mut state.pending);
        state.writing = true;
        drop(state);
        // There is no place left to report that standard error is broken.
        let wrote = writing
            .sink
            .write_all(&taken)
            .and_then(|()| writing.sink.flush())
            .is_ok();
        writing.tell_dropped(self.dropped());
        taken.clear();
        let mut state = self.lock();
        state.writing = false;
        state.stuck &= !wrote;
        if state.pending.is_empty() && taken.capacity() <= SHRINK_ABOVE {
            state.pending = taken;
        }
        drop(state);
        self.drained.notify_all();
    }
}

/// What only the thread needs.
struct Writing {
    sink: Box<dyn Write + Send>,
    clock: Clock,
    format: LogFormat,
    told: u64,
    last_told: Option<Instant>,
}

impl Writing {
    /// Says now and then that lines are missing.
    fn tell_dropped(&mut self, dropped: u64) {
        let recently = self.last_told.is_some_and(|at| at.elapsed() < NOTICE_INTERVAL);
        if dropped == self.told || recently {
            return;
        }
        let count = dropped - self.told;
        (self.told, self.last_told) = (dropped, Some(Instant::now()));
        let message = format!("Dropped {count} log lines because standard error is too slow");
        let mut fields = Fields::default();
        fields.message = message;
        let mut line = String::new();
        render(
            &mut line,
            self.format,
            self.clock.now(),
            Level::WARN,
            module_path!(),
            &fields,
        );
        drop(self.sink.write_all(line.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use jiff::Timestamp;

    use super::*;

    /// Blocks in every write until the test lets it through.
    struct Gate {
        open: mpsc::Receiver<()>,
        seen: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // Once the test has dropped its end, everything passes.
            self.open.recv().unwrap_or_default();
            drop(self.seen.send(bytes.to_vec()));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn debug_lines_are_dropped_first_and_errors_are_kept() {
        let (open, opened) = mpsc::channel();
        let (sent, seen) = mpsc::channel();
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let writer = Writer::start(
            Box::new(Gate {
                open: opened,
                seen: sent,
            }),
            clock,
            LogFormat::Text,
        )
        .unwrap();
        writer.write(b"first\n", Keep::Always);
        // The thread takes the first line and blocks; what follows stays buffered.
        while !writer.lock().writing {
            thread::yield_now();
        }
        let block = vec![b'x'; 1 << 20];
        for _ in 0..6 {
            writer.write(&block, Keep::WhileIdle);
        }
        assert_eq!(writer.dropped(), 2, "4 MiB of debug lines fit");
        for _ in 0..6 {
            writer.write(&block, Keep::WhileRoom);
        }
        assert_eq!(writer.dropped(), 4, "8 MiB of info lines fit");

        let begun = Instant::now();
        writer.write(b"error\n", Keep::Always);
        assert!(begun.elapsed() >= PATIENCE);
        assert_eq!(writer.dropped(), 5, "patience ends");
        let begun = Instant::now();
        writer.write(b"error\n", Keep::Always);
        assert!(begun.elapsed() < PATIENCE, "nobody waits for a stuck pipe twice");

        drop(open);
        writer.flush(Duration::from_secs(5));
        writer.write(b"last\n", Keep::Always);
        writer.flush(Duration::from_secs(5));
        let written: Vec<u8> = seen.try_iter().flatten().collect();
        assert!(written.starts_with(b"first\n") && written.ends_with(b"last\n"));
        let text = String::from_utf8(written).unwrap();
        assert!(
            text.contains("WARN\truntime.telemetry.writer\tDropped 6 log lines"),
            "{:?}",
            &text[text.len() - 200..]
        );
    }

    #[test]
    fn many_threads_lose_nothing_while_there_is_room() {
        #[derive(Clone, Default)]
        struct Count(Arc<AtomicU64>);
        impl Write for Count {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let lines = bytes.split(|byte| *byte == b'\n').count() - 1;
                self.0.fetch_add(u64::try_from(lines).unwrap(), Ordering::Relaxed);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let count = Count::default();
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let writer = Writer::start(Box::new(count.clone()), clock, LogFormat::Text).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5_000).for_each(|_| writer.write(b"line\n", Keep::WhileIdle)));
            }
        });
        writer.flush(Duration::from_secs(10));
        assert_eq!(count.0.load(Ordering::Relaxed) + writer.dropped(), 20_000);
        assert_eq!(writer.dropped(), 0);
    }
}
