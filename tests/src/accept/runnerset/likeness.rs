//! Finds code that is there twice: runs of lines that say the same, whatever their indentation.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result};

/// A run of lines that two places share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Alike {
    pub(super) lines: usize,
    pub(super) first: String,
    pub(super) second: String,
}

/// The lines of code of a file, each with its number: without comments, imports, blanks and what follows the tests.
fn code_lines(text: &str) -> Vec<(usize, &str)> {
    let mut in_import = false;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line == "#[cfg(test)]" {
            break;
        }
        let begins = ["use ", "pub use ", "pub(super) use "]
            .iter()
            .any(|word| line.starts_with(word));
        if begins || in_import {
            in_import = !line.ends_with(';');
            continue;
        }
        // What every block ends with says nothing.
        let is_said = line.chars().any(char::is_alphanumeric);
        if is_said && !line.starts_with("//") && !line.starts_with("#[") {
            lines.push((index + 1, line));
        }
    }
    lines
}

/// The longest runs of at least `least` lines that two of the texts (or two places of one) share.
pub(super) fn alike(texts: &[(String, String)], least: usize) -> Vec<Alike> {
    let files: Vec<_> = texts
        .iter()
        .map(|(name, text)| (name, code_lines(text)))
        .collect();
    let mut seen: HashMap<Vec<&str>, (usize, usize)> = HashMap::new();
    let mut found: Vec<Alike> = Vec::new();
    for (file, (name, lines)) in files.iter().enumerate() {
        let mut covered = 0;
        for at in 0..lines.len().saturating_sub(least.saturating_sub(1)) {
            let window: Vec<&str> = lines.iter().skip(at).take(least).map(|(_, line)| *line).collect();
            let Some((other, there)) = seen.get(&window).copied() else {
                seen.insert(window, (file, at));
                continue;
            };
            if at < covered || (other == file && there + least > at) {
                continue;
            }
            let Some((other_name, other_lines)) = files.get(other) else {
                continue;
            };
            let own = lines.iter().skip(at).map(|(_, line)| *line);
            let theirs = other_lines.iter().skip(there).map(|(_, line)| *line);
            let length = own.zip(theirs).take_while(|(one, two)| one == two).count();
            covered = at + length;
            let place = |name: &str, lines: &[(usize, &str)], at: usize| {
                format!("{name}:{}", lines.get(at).map_or(0, |(number, _)| *number))
            };
            found.push(Alike {
                lines: length,
                first: place(other_name, other_lines, there),
                second: place(name, lines, at),
            });
        }
    }
    found
}

/// The Rust files of a folder and what is below it, tests left out, with their paths as names.
pub(super) fn sources(folder: &Path) -> Result<Vec<(String, String)>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("could not list {}", folder.display()))?;
        for entry in entries {
            let path = entry.context("could not list a source folder")?.path();
            let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
            let name = name.unwrap_or_default();
            if name == "tests" || name.ends_with("_tests") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("could not read {}", path.display()))?;
                files.push((path.display().to_string(), text));
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (String, String) {
        (name.to_owned(), text.to_owned())
    }

    #[test]
    fn what_is_written_twice_is_found_whatever_stands_around_it() {
        let one = file(
            "one",
            "use a::b;\nfn x() {\n    first();\n    second();\n    third();\n}\n",
        );
        let two = file(
            "two",
            "fn y() {\n  other();\n  // why\n  first();\n\n      second();\n  third();\n  more();\n}\n",
        );
        let found = alike(&[one, two], 3);
        let expected = Alike {
            lines: 3,
            first: "one:3".to_owned(),
            second: "two:4".to_owned(),
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn imports_tests_and_short_likeness_are_not_code_that_is_there_twice() {
        let text = "use a::{\n    b,\n    c,\n};\nfirst();\nsecond();\n#[cfg(test)]\nx();\ny();\nz();\n";
        assert!(alike(&[file("one", text), file("two", text)], 3).is_empty());
        assert_eq!(alike(&[file("one", text), file("two", text)], 2).len(), 1);
    }
}
