//! The standard `process_*` metrics, read from `/proc` at every scrape. Where there is no `/proc` they are absent.

use std::{fs, sync::OnceLock};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::counter::ConstCounter,
};

use super::encode_gauge;

/// Unit of CPU times in `/proc` per second; the kernel's interface fixes it at 100 on all machines that we are built for.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if let Some(stat) = read("/proc/self/stat").as_deref().and_then(Stat::parse) {
            let counter = ConstCounter::new(stat.cpu_seconds);
            let metric = encoder.encode_descriptor(
                "process_cpu_seconds",
                "Total user and system CPU time spent in seconds",
                None,
                counter.metric_type(),
            )?;
            counter.encode(metric)?;
            if let Some(boot) = boot_time() {
                encode_gauge(
                    &mut encoder,
                    "process_start_time_seconds",
                    "Start time of the process since the Unix epoch in seconds",
                    boot + stat.started_after_boot,
                )?;
            }
        }
        if let Some(status) = read("/proc/self/status") {
            let sizes = [
                (
                    "process_resident_memory_bytes",
                    "Resident memory size in bytes",
                    "VmRSS:",
                ),
                (
                    "process_virtual_memory_bytes",
                    "Virtual memory size in bytes",
                    "VmSize:",
                ),
            ];
            for (name, help, key) in sizes {
                if let Some(bytes) = status_bytes(&status, key) {
                    encode_gauge(&mut encoder, name, help, bytes)?;
                }
            }
            if let Some(threads) = first_number(&status, "Threads:") {
                encode_gauge(&mut encoder, "process_threads", "Number of threads", threads)?;
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // Reading the directory opened one more.
            let count = u32::try_from(open.count().saturating_sub(1)).unwrap_or(u32::MAX);
            encode_gauge(
                &mut encoder,
                "process_open_fds",
                "Number of open file descriptors",
                count.into(),
            )?;
        }
        if let Some(limit) = read("/proc/self/limits")
            .as_deref()
            .and_then(|text| first_number(text, "Max open files"))
        {
            encode_gauge(
                &mut encoder,
                "process_max_fds",
                "Maximum number of open file descriptors",
                limit,
            )?;
        }
        Ok(())
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// When the machine started, in seconds since the epoch.
fn boot_time() -> Option<f64> {
    static BOOT: OnceLock<Option<f64>> = OnceLock::new();
    *BOOT.get_or_init(|| first_number(&read("/proc/stat")?, "btime"))
}

/// The numbers of `/proc/self/stat` that we show, in seconds.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    started_after_boot: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in parentheses and may contain anything, also parentheses.
        let (_, rest) = text.rsplit_once(')')?;
        let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            started_after_boot: field(22)? / TICKS_PER_SECOND,
        })
    }
}

fn status_bytes(status: &str, key: &str) -> Option<f64> {
    first_number(status, key).map(|kibibytes| kibibytes * 1024.0)
}

/// The first number of the line that starts with `key`.
fn first_number(text: &str, key: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))?
        .split_whitespace()
        .find_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_understood() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 12345 1000000 500 18446744073709551615 1";
        assert_eq!(
            Stat::parse(stat),
            Some(Stat {
                cpu_seconds: 3.0,
                started_after_boot: 123.45
            })
        );
        assert_eq!(Stat::parse("42 (short) S 1"), None);
        let status = "Name:\tx\nVmSize:\t  2048 kB\nVmRSS:\t    1024 kB\nThreads:\t7\n";
        assert_eq!(status_bytes(status, "VmRSS:"), Some(1_048_576.0));
        assert_eq!(first_number(status, "Threads:"), Some(7.0));
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(first_number(limits, "Max open files"), Some(1024.0));
        assert_eq!(
            first_number(
                "Max open files            unlimited  unlimited files",
                "Max open files"
            ),
            None
        );
    }
}
