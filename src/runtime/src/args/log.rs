//! `--log-level` and `--log-format` (spec 02 §2.2, §2.6).

use super::Exit;

/// The two logging flags, as text.
#[derive(Clone, Debug, clap::Args)]
pub struct LogFlags {
    /// Log level: debug, info, warn, error, or an integer from -128 (most verbose) to 127.
    #[arg(long, value_name = "LEVEL", default_value = "debug")]
    pub log_level: String,
    /// Log format: text or json.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: String,
}

impl LogFlags {
    /// Reads both values.
    ///
    /// # Errors
    /// An [`Exit`] with code 1, as upstream: these two are looked at after the command line as a whole.
    pub fn resolve(&self) -> Result<LogArgs, Exit> {
        let level = LogLevel::parse(&self.log_level).ok_or_else(|| {
            Exit::failure(format_args!(
                "--log-level has the value {:?}: expected debug, info, warn, error or an integer from -128 to 127",
                self.log_level
            ))
        })?;
        let format = match self.log_format.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => {
                return Err(Exit::failure(format_args!(
                    "--log-format has the value {other:?}: expected text or json"
                )));
            }
        };
        Ok(LogArgs { level, format })
    }
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogArgs {
    /// The least important level that is shown.
    pub level: LogLevel,
    /// Layout of the lines.
    pub format: LogFormat,
}

impl Default for LogArgs {
    fn default() -> Self {
        Self {
            level: LogLevel::DEBUG,
            format: LogFormat::Text,
        }
    }
}

/// Layout of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Tab-separated columns.
    Text,
    /// One JSON object per line.
    Json,
}

/// A log level in zap's numbering: -1 debug, 0 info, 1 warn, 2 error; below -1 ever more verbose, above 2 nothing is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogLevel(pub i8);

impl LogLevel {
    /// The default.
    pub const DEBUG: Self = Self(-1);
    /// Actions that change the world.
    pub const INFO: Self = Self(0);
    /// Degradations.
    pub const WARN: Self = Self(1);
    /// What a person must look at.
    pub const ERROR: Self = Self(2);

    /// Reads a level's name or number.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "debug" => Some(Self::DEBUG),
            "info" => Some(Self::INFO),
            "warn" => Some(Self::WARN),
            "error" => Some(Self::ERROR),
            number => number.parse().ok().map(Self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(level: &str, format: &str) -> LogFlags {
        LogFlags {
            log_level: level.to_owned(),
            log_format: format.to_owned(),
        }
    }

    #[test]
    fn levels_by_name_and_number() {
        for (text, expected) in [
            ("debug", -1),
            ("info", 0),
            ("warn", 1),
            ("error", 2),
            ("-4", -4),
            ("-128", -128),
            ("127", 127),
            ("+1", 1),
        ] {
            assert_eq!(LogLevel::parse(text), Some(LogLevel(expected)), "{text}");
        }
        for text in ["", "Debug", "trace", "-129", "128", "1.0", " info"] {
            assert_eq!(LogLevel::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn bad_level_or_format_exits_with_one() {
        assert_eq!(flags("debug", "json").resolve().unwrap().format, LogFormat::Json);
        assert_eq!(flags("debug", "text").resolve(), Ok(LogArgs::default()));
        for flags in [
            flags("loud", "text"),
            flags("", "text"),
            flags("info", "xml"),
            flags("info", ""),
        ] {
            assert_eq!(flags.resolve().unwrap_err().code, 1, "{flags:?}");
        }
    }
}
