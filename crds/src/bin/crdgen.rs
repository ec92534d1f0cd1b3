//! Writes the CRDs of the types in this crate as YAML files, or checks that the files are up to date.
//!
//! `crdgen DIR` writes, `crdgen --check DIR` lists what is stale and then exits with 1.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use muster_crds::schema::{self, SchemaError};
use thiserror::Error;

/// Why the files could not be written or compared.
#[derive(Debug, Error)]
enum Error {
    #[error("usage: crdgen [--check] DIRECTORY")]
    Usage,
    #[error("could not make the definitions")]
    Schema(#[from] SchemaError),
    #[error("could not write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("these files are stale, run `make crds`: {}", names(.0))]
    Stale(Vec<PathBuf>),
}

fn main() -> ExitCode {
    let Err(error) = run(std::env::args().skip(1)) else {
        return ExitCode::SUCCESS;
    };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    // Nothing is left to tell a failure to when standard error is closed.
    writeln!(io::stderr(), "crdgen: {text}").ok();
    ExitCode::FAILURE
}

fn run(arguments: impl Iterator<Item = String>) -> Result<(), Error> {
    let arguments: Vec<String> = arguments.collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["--check", directory] => check(Path::new(directory)),
        [directory] if !directory.starts_with('-') => write(Path::new(directory)),
        _ => Err(Error::Usage),
    }
}

fn write(directory: &Path) -> Result<(), Error> {
    for (name, text) in schema::files()? {
        let path = directory.join(name);
        fs::write(&path, text).map_err(|source| Error::Write { path, source })?;
    }
    Ok(())
}

fn check(directory: &Path) -> Result<(), Error> {
    let stale: Vec<PathBuf> = schema::files()?
        .into_iter()
        .map(|(name, text)| (directory.join(name), text))
        // A file that cannot be read is as good as missing: writing it again tells why.
        .filter(|(path, text)| fs::read_to_string(path).ok().as_ref() != Some(text))
        .map(|(path, _)| path)
        .collect();
    if stale.is_empty() {
        Ok(())
    } else {
        Err(Error::Stale(stale))
    }
}

fn names(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
