//! Standard output and error. A reader that went away is no reason to complain.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Prints text as it is.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Prints a value for programs.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("could not write JSON")?;
    text.push('\n');
    print(&text);
    Ok(())
}

/// Prints a line on the standard error.
pub(crate) fn complain(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}
