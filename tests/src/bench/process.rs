//! What a process has used so far, from `/proc`.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Linux tells CPU time in hundredths of a second, whatever the kernel's own tick is.
const TICK: Duration = Duration::from_millis(10);

/// Resources that a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// CPU time in user and kernel mode.
    pub(super) cpu: Duration,
    /// Resident memory now, in KiB.
    pub(super) rss_kib: u64,
}

impl Usage {
    /// Looks at a running process.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{pid}/{file}"))
                .with_context(|| format!("could not read /proc/{pid}/{file}"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        Ok(Self {
            cpu: cpu_time(&stat).context("/proc/…/stat has another form than expected")?,
            rss_kib: field(&status, "VmRSS").context("/proc/…/status has no VmRSS")?,
        })
    }
}

/// Fields 14 and 15. The name in parentheses before them may contain anything.
fn cpu_time(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(TICK * (ticks()? + ticks()?))
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_of_this_process_is_read() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_kib > 1_000, "{usage:?}");
        assert_eq!(
            cpu_time("7 (a) b)) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0"),
            Some(Duration::from_secs(2))
        );
    }
}
