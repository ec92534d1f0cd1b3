//! What the programs for people (demo, acceptance, benchmark) print, and how they notice that they are to end.
//!
//! Text goes to the standard output. On a terminal, steps that take time show a spinner and the demo a progress bar,
//! both on the standard error; where there is none, lines say the same.

use std::{
    fmt,
    io::{IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Frames of a spinner; the last one is what stays.
const SPINNER: &str = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏✓";
/// How often a spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Nothing: a test reads the result.
    Nothing,
    /// Lines.
    Lines,
    /// Lines, spinners and bars.
    Live,
}

/// Where text goes.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    show: Show,
}

impl Terminal {
    /// Shows what this process's terminal can show.
    pub fn detect() -> Self {
        let live = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        Self {
            show: if live { Show::Live } else { Show::Lines },
        }
    }

    /// Prints nothing at all.
    pub fn silent() -> Self {
        Self { show: Show::Nothing }
    }

    /// How much is shown.
    pub fn shows(self) -> Show {
        self.show
    }

    /// Prints a line.
    pub fn say(self, line: impl fmt::Display) {
        if self.show != Show::Nothing {
            write_line(line);
        }
    }

    /// Begins something that takes time; to be ended with [`Step::done`].
    pub fn step(self, what: impl Into<String>) -> Step {
        let what = what.into();
        let spinner = (self.show == Show::Live).then(|| {
            let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                spinner.set_style(style.tick_chars(SPINNER));
            }
            spinner.set_message(what.clone());
            spinner.enable_steady_tick(TURN);
            spinner
        });
        Step {
            what,
            begun: Instant::now(),
            spinner,
            terminal: self,
        }
    }
}

/// Prints a line whatever is shown: results for programs.
pub fn write_line(line: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    // Nobody reads any more: no reason to stop half way.
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

/// Something that takes time.
#[derive(Debug)]
pub struct Step {
    what: String,
    begun: Instant,
    spinner: Option<ProgressBar>,
    terminal: Terminal,
}

impl Step {
    /// Says that it is over, with what came out.
    pub fn done(mut self, result: impl fmt::Display) {
        self.clear();
        let seconds = self.begun.elapsed().as_secs_f32();
        self.terminal
            .say(format_args!("✓ {:<18} {result}, {seconds:.1} s", self.what));
    }

    fn clear(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Exit code after Ctrl-C, as shells know it.
const INTERRUPTED: u8 = 130;
/// Exit code after SIGTERM.
const TERMINATED: u8 = 143;

/// Listens to Ctrl-C and SIGTERM as long as it lives.
#[derive(Debug)]
pub struct Signals {
    stop: CancellationToken,
    code: tokio::sync::watch::Receiver<u8>,
    _listener: AbortOnDropHandle<()>,
}

impl Signals {
    /// Takes both signals over from now on.
    pub fn listen() -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt()).context("could not listen to Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("could not listen to SIGTERM")?;
        let stop = CancellationToken::new();
        let (codes, code) = tokio::sync::watch::channel(0);
        let stopping = stop.clone();
        let listener = tokio::spawn(async move {
            let code = tokio::select! {
                _ = interrupt.recv() => INTERRUPTED,
                _ = terminate.recv() => TERMINATED,
            };
            codes.send_replace(code);
            stopping.cancel();
        });
        Ok(Self {
            stop,
            code,
            _listener: AbortOnDropHandle::new(listener),
        })
    }

    /// Cancelled by the first signal.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// The code to exit with after a signal.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(*self.code.borrow())
    }
}
