//! Command lines and environment of the processes, as ARC's charts and docs write them (spec 02 §2.2–2.3, 03 §1.2).
//!
//! Go's flag syntax is normalised into what clap takes, the environment is read once into an [`Env`], and the two are merged here with
//! upstream's precedence. Whatever cannot be understood becomes an [`Exit`] with upstream's exit code: 2 for the command line, 1 for the rest.

mod env;
mod github;
mod log;
mod normalise;
mod values;

use std::{any::TypeId, collections::HashMap, ffi::OsString, fmt, io::Write as _, process::ExitCode};

use clap::{Arg, ArgAction, Parser};

pub use self::{
    env::{Env, EnvError, POD_NAMESPACE_VARIABLES},
    github::{AppId, Credentials, CredentialsError, GitHubArgs, GitHubEnv, GitHubFlags},
    log::{LogArgs, LogFlags, LogFormat, LogLevel},
    normalise::{FlagError, FlagKind, Normalised, normalise},
    values::{GoDuration, ValueError, parse_bool, parse_int, secret},
};

/// Exit code for a command line that cannot be understood.
pub const EXIT_USAGE: u8 = 2;
/// Exit code for every other failure at start-up.
pub const EXIT_FAILURE: u8 = 1;

/// Why the process ends before it starts: a text for standard error and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// What `main` returns.
    pub code: u8,
    /// What the user reads, without a newline at its end.
    pub message: String,
}

impl Exit {
    /// A failure that is not about the command line's form: unparsable environment, level or format.
    pub fn failure(message: impl fmt::Display) -> Self {
        Self {
            code: EXIT_FAILURE,
            message: message.to_string(),
        }
    }

    /// Writes the message to standard error and gives the code for `main` to return.
    pub fn report(&self) -> ExitCode {
        // Nobody is left to tell when standard error is closed.
        drop(writeln!(std::io::stderr().lock(), "{}", self.message));
        ExitCode::from(self.code)
    }
}

/// A command line that was understood.
#[derive(Clone, Debug)]
pub struct Parsed<T> {
    /// The flags.
    pub flags: T,
    /// Words that are no flags, and everything behind them. Go stops at the first such word and ARC ignores the rest without a sound
    /// (`--runner-status-update-hook false` loses all later flags that way); the caller should log them.
    pub ignored: Vec<String>,
}

/// Parses a command line in Go's syntax into `T`, whose flags are long ones. Fields of type `bool` are Go's booleans: the flag may stand
/// alone or carry any of Go's spellings.
/// `argv` starts with the program's name.
///
/// # Errors
/// An [`Exit`] with code 2 for unknown flags, missing or malformed values, and with code 0 for `-h` and `--help`; its message ends in
/// the usage text.
pub fn parse<T: Parser>(argv: impl IntoIterator<Item = OsString>) -> Result<Parsed<T>, Exit> {
    let mut command = T::command()
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .term_width(120)
        .no_binary_name(true)
        .mut_args(|arg| match kind(&arg) {
            FlagKind::Value => arg,
            FlagKind::Bool => arg
                .action(ArgAction::Set)
                .value_parser(parse_bool)
                .default_value("false")
                .value_name("BOOL"),
        });
    command.build();
    let usage = |code: u8, first: &dyn fmt::Display| {
        let help = command.clone().render_help();
        Exit {
            code,
            message: format!("{first}\n{help}").trim().to_owned(),
        }
    };
    let words: Result<Vec<String>, OsString> = argv.into_iter().skip(1).map(OsString::into_string).collect();
    let words = match words {
        Ok(words) => words,
        Err(word) => {
            return Err(usage(
                EXIT_USAGE,
                &format_args!("argument is not valid UTF-8: {}", word.display()),
            ));
        }
    };
    let kinds: HashMap<String, FlagKind> = command
        .get_arguments()
        .filter_map(|arg| arg.get_long().map(|long| (long.to_owned(), kind(arg))))
        .collect();
    let normalised = normalise(words, |name| kinds.get(name).copied());
    let Normalised { args, ignored } = match normalised {
        Ok(normalised) => normalised,
        Err(FlagError::Help) => return Err(usage(0, &"")),
        Err(error) => return Err(usage(EXIT_USAGE, &error)),
    };
    let outcome = command
        .clone()
        .try_get_matches_from(args)
        .and_then(|matches| T::from_arg_matches(&matches));
    match outcome {
        Ok(flags) => Ok(Parsed { flags, ignored }),
        Err(error) => {
            let text = error.to_string();
            // clap appends its own usage hint below the message; the full usage follows anyway.
            let message = text.split("\n\n").next().unwrap_or_default().trim().to_owned();
            Err(usage(EXIT_USAGE, &message))
        }
    }
}

fn kind(arg: &Arg) -> FlagKind {
    let is_bool = arg.get_value_parser().type_id() == TypeId::of::<bool>();
    if is_bool { FlagKind::Bool } else { FlagKind::Value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Sample {
        /// Where metrics are served.
        #[arg(long, default_value = ":8080")]
        metrics_addr: String,
        #[arg(long)]
        enable: bool,
        #[arg(long, value_parser = parse_int, default_value = "9443")]
        port: i64,
        #[arg(long, default_value = "1m")]
        sync_period: GoDuration,
        #[arg(long)]
        pull_secret: Vec<String>,
    }

    fn run(words: &[&str]) -> Result<Parsed<Sample>, Exit> {
        parse(
            std::iter::once("sample")
                .chain(words.iter().copied())
                .map(OsString::from),
        )
    }

    #[test]
    fn go_spellings_reach_the_fields() {
        let sample = run(&[
            "-metrics-addr",
            "0",
            "--enable",
            "-port=0x10",
            "--sync-period=1m30s",
            "--pull-secret",
            "a",
            "--pull-secret=b,c",
            "--port",
            "443",
        ])
        .unwrap();
        assert_eq!(sample.flags.metrics_addr, "0");
        assert!(sample.flags.enable);
        assert_eq!(sample.flags.port, 443, "the last occurrence wins");
        assert_eq!(sample.flags.sync_period.to_string(), "1m30s");
        assert_eq!(sample.flags.pull_secret, ["a", "b,c"]);
        assert!(sample.ignored.is_empty());
    }

    #[test]
    fn values_may_be_empty_or_look_like_flags() {
        let sample = run(&["--metrics-addr=", "--pull-secret", "--enable", "--pull-secret=--"]).unwrap();
        assert_eq!(sample.flags.metrics_addr, "");
        assert!(!sample.flags.enable);
        assert_eq!(sample.flags.pull_secret, ["--enable", "--"]);
    }

    #[test]
    fn a_boolean_with_its_value_apart_ends_the_flags() {
        let sample = run(&["--enable", "false", "--port=1"]).unwrap();
        assert!(sample.flags.enable);
        assert_eq!(sample.flags.port, 9443);
        assert_eq!(sample.ignored, ["false", "--port=1"]);
    }

    #[test]
    fn bad_command_lines_exit_with_two_and_show_the_usage() {
        for (words, expected) in [
            (&["--nope"][..], "flag provided but not defined: -nope"),
            (&["--port"], "flag needs an argument: -port"),
            (&["--port=many"], "many"),
            (&["--sync-period=10"], "10"),
            (&["--enable=maybe"], "maybe"),
            (&["---port=1"], "bad flag syntax: ---port=1"),
        ] {
            let exit = run(words).unwrap_err();
            assert_eq!(exit.code, 2, "{words:?}");
            let first = exit.message.lines().next().unwrap();
            assert!(first.contains(expected), "{words:?}: {first}");
            assert!(exit.message.contains("--metrics-addr"), "{}", exit.message);
        }
        for word in ["-h", "--help", "-help"] {
            let exit = run(&[word]).unwrap_err();
            assert_eq!(exit.code, 0, "{word}");
            assert!(
                exit.message.contains("Where metrics are served"),
                "{}",
                exit.message
            );
        }
    }
}
