//! Go's command-line syntax, rewritten so that clap understands it: one word `--name=value` per flag.

/// How a flag takes its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagKind {
    /// Always has one: `-x=v`, or the next word whatever it looks like.
    Value,
    /// May stand alone for `true`; a value must be attached (`-x=false`).
    Bool,
}

/// Why a command line is refused before its values are looked at; the texts are the ones that Go prints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// `-h` or `--help`.
    #[error("flag: help requested")]
    Help,
    /// Three dashes, or no name.
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    /// Nobody knows the flag.
    #[error("flag provided but not defined: -{0}")]
    Undefined(String),
    /// The last word is a flag that wants a value.
    #[error("flag needs an argument: -{0}")]
    MissingValue(String),
}

/// A command line in clap's form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Normalised {
    /// `--name=value` words, in the order given.
    pub args: Vec<String>,
    /// The first word that is not a flag, and all behind it; words behind `--`.
    pub ignored: Vec<String>,
}

/// Rewrites the words of a command line (without the program's name); `kind` tells which flags exist.
///
/// # Errors
/// [`FlagError`] at the first word that Go's `flag` package would refuse.
pub fn normalise(
    words: impl IntoIterator<Item = String>,
    kind: impl Fn(&str) -> Option<FlagKind>,
) -> Result<Normalised, FlagError> {
    let mut words = words.into_iter();
    let mut out = Normalised::default();
    while let Some(word) = words.next() {
        let Some(body) = word.strip_prefix('-').filter(|body| !body.is_empty()) else {
            out.ignored.push(word);
            break;
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.is_empty() {
            break;
        }
        if body.starts_with(['-', '=']) {
            return Err(FlagError::Syntax(word.clone()));
        }
        let (name, attached) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let value = match (kind(name), attached) {
            (None, _) if name == "h" || name == "help" => return Err(FlagError::Help),
            (None, _) => return Err(FlagError::Undefined(name.to_owned())),
            (Some(_), Some(value)) => value.to_owned(),
            (Some(FlagKind::Bool), None) => "true".to_owned(),
            (Some(FlagKind::Value), None) => words
                .next()
                .ok_or_else(|| FlagError::MissingValue(name.to_owned()))?,
        };
        out.args.push(format!("--{name}={value}"));
    }
    out.ignored.extend(words);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> Option<FlagKind> {
        match name {
            "addr" | "label" => Some(FlagKind::Value),
            "on" => Some(FlagKind::Bool),
            _ => None,
        }
    }

    fn run(line: &str) -> Result<(Vec<String>, Vec<String>), FlagError> {
        normalise(line.split(' ').filter(|w| !w.is_empty()).map(str::to_owned), kind)
            .map(|normalised| (normalised.args, normalised.ignored))
    }

    #[test]
    fn spellings_table() {
        let table: &[(&str, &[&str], &[&str])] = &[
            ("", &[], &[]),
            ("-addr v", &["--addr=v"], &[]),
            ("--addr v", &["--addr=v"], &[]),
            ("-addr=v", &["--addr=v"], &[]),
            ("--addr=v", &["--addr=v"], &[]),
            ("--addr=", &["--addr="], &[]),
            ("--addr=a=b", &["--addr=a=b"], &[]),
            ("--addr --on", &["--addr=--on"], &[]),
            ("--addr -- --on", &["--addr=--", "--on=true"], &[]),
            ("--on", &["--on=true"], &[]),
            ("-on --addr v", &["--on=true", "--addr=v"], &[]),
            ("--on=false", &["--on=false"], &[]),
            ("--on=F -on=0", &["--on=F", "--on=0"], &[]),
            ("--on false --addr v", &["--on=true"], &["false", "--addr", "v"]),
            ("--label a --label b", &["--label=a", "--label=b"], &[]),
            ("--on -- --addr v", &["--on=true"], &["--addr", "v"]),
            ("word --on", &[], &["word", "--on"]),
            ("- --on", &[], &["-", "--on"]),
        ];
        for (line, args, ignored) in table {
            let (got_args, got_ignored) = run(line).unwrap();
            assert_eq!((got_args, got_ignored), (owned(args), owned(ignored)), "{line}");
        }
    }

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn refusals_table() {
        assert_eq!(run("--nope=1"), Err(FlagError::Undefined("nope".into())));
        assert_eq!(run("--on -addr"), Err(FlagError::MissingValue("addr".into())));
        assert_eq!(run("---addr=1"), Err(FlagError::Syntax("---addr=1".into())));
        assert_eq!(run("--=1"), Err(FlagError::Syntax("--=1".into())));
        assert_eq!(run("-=1"), Err(FlagError::Syntax("-=1".into())));
        assert_eq!(run("--help"), Err(FlagError::Help));
        assert_eq!(run("-h"), Err(FlagError::Help));
        // A word that ends the flags protects what is behind it.
        assert_eq!(run("x --nope").unwrap().1, ["x", "--nope"]);
    }
}
