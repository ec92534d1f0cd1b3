//! Scripted causes: each makes a pool, a runner or a job wait for one known reason, and `kubectl muster explain` must name that reason first
//! (90 PAIN-26, FEATURE 5). All run at once, in three namespaces of one control plane, and are asked by a service account that may read our kinds,
//! pods and Events, and nothing else.

mod ask;
mod guarded;
mod main;
mod stopped;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::future::try_join_all;

use crate::{github::DEFAULT_TOKEN, world::SECRET};

use self::ask::Asker;

/// A cause must show within this time: the slowest are a runner that does not register (75 s) and an unreachable GitHub (five attempts).
const PATIENCE: Duration = Duration::from_mins(3);
/// Time between two questions about one cause.
const PAUSE: Duration = Duration::from_millis(700);

/// Which causes are scripted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Those that show within seconds, in one namespace.
    Few,
    /// All.
    All,
}

/// A question about a cause, and the reason that must come first.
#[derive(Clone, Debug)]
struct Case {
    cause: &'static str,
    ns: String,
    what: &'static str,
    name: String,
    code: &'static str,
}

impl Case {
    fn new(
        cause: &'static str,
        ns: &str,
        what: &'static str,
        name: impl Into<String>,
        code: &'static str,
    ) -> Self {
        Self {
            cause,
            ns: ns.to_owned(),
            what,
            name: name.into(),
            code,
        }
    }
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Causes that were scripted.
    pub causes: usize,
    /// Different codes among them.
    pub codes: usize,
    /// First reasons that were wrong, a sentence each.
    pub wrong: Vec<String>,
    /// Secrets that were looked for in every output.
    pub secrets: usize,
    /// Outputs that held one.
    pub leaks: Vec<String>,
    /// Outputs that were looked at.
    pub outputs: usize,
    /// The slowest answer of `explain`, in the last round.
    pub slowest: Duration,
    /// Until the last cause showed.
    pub shown_after: Duration,
}

impl Figures {
    /// Every first reason was right, and nothing leaked.
    pub fn is_good(&self) -> bool {
        self.causes > 0 && self.wrong.is_empty() && self.leaks.is_empty() && self.secrets > 0
    }

    /// The figures in a line.
    pub fn line(&self) -> String {
        let right = self.causes.saturating_sub(self.wrong.len());
        let mut line = format!(
            "first reason right in {right} of {} causes ({} codes), shown after {} s at most; slowest answer {} ms; {} outputs, {} with one of {} secrets",
            self.causes,
            self.codes,
            self.shown_after.as_secs(),
            self.slowest.as_millis(),
            self.outputs,
            self.leaks.len(),
            self.secrets
        );
        for bad in self.wrong.iter().chain(&self.leaks) {
            line.push_str("; ");
            line.push_str(bad);
        }
        line
    }
}

/// Scripts the causes and asks about each: until it shows, and once more when all have shown.
pub async fn run(extent: Extent) -> Result<Figures> {
    let begun = Instant::now();
    let (worlds, mut cases) = match extent {
        Extent::Few => {
            let (world, cases) = main::few().await?;
            (vec![world], cases)
        }
        Extent::All => {
            let ((first, mut cases), (second, more), (third, last)) =
                tokio::try_join!(main::all(), guarded::all(), stopped::all())?;
            cases.extend(more);
            cases.extend(last);
            (vec![first, second, third], cases)
        }
    };
    let asker = Asker::new(&worlds).await?;
    asker.refuses_secrets().await?;
    cases.sort_by_key(|case| case.cause);
    try_join_all(cases.iter().map(|case| until_shown(&asker, case))).await?;

    let mut figures = Figures {
        causes: cases.len(),
        codes: cases.iter().map(|case| case.code).collect::<BTreeSet<_>>().len(),
        shown_after: begun.elapsed(),
        ..Figures::default()
    };
    // One after the other: the time of an answer is that of the program, not of thirty at once.
    for case in &cases {
        let answer = asker.explain(case).await?;
        figures.slowest = figures.slowest.max(answer.took);
        if answer.code != case.code {
            let found = &answer.code;
            figures
                .wrong
                .push(format!("{}: {found} instead of {}", case.cause, case.code));
        }
        asker.explain_text(case).await?;
    }
    asker.top(&worlds).await?;

    let mut secrets: BTreeSet<String> = [
        DEFAULT_TOKEN,
        SECRET,
        main::LIMITED_TOKEN,
        main::BURSTING_TOKEN,
        main::REVOKED_TOKEN,
    ]
    .map(str::to_owned)
    .into();
    secrets.extend(asker.token()?);
    for world in &worlds {
        secrets.extend(ask::registration_tokens(world).await?);
    }
    figures.secrets = secrets.len();
    let outputs = asker.outputs();
    figures.outputs = outputs.len();
    for (question, text) in &outputs {
        if secrets.iter().any(|secret| text.contains(secret.as_str())) {
            figures.leaks.push(format!("{question} shows a secret"));
        }
    }
    for world in worlds {
        world.tear_down().await?;
    }
    Ok(figures)
}

/// Asks until the first reason is the expected one; what it is in the end is judged later.
async fn until_shown(asker: &Asker, case: &Case) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = asker.explain(case).await?;
        if answer.code == case.code || Instant::now() > end {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
