//! Patterns of trigger filters (spec 03 §1.15, without upstream's crashes and with backtracking).

/// Whether a pattern fits a text: `*` stands for any run of characters, a slash and nothing included; a leading
/// `!` turns the result around; everything else stands for itself, case counts, and nothing may be left over.
/// A lone `!` fits nothing.
pub fn fits(pattern: &str, text: &str) -> bool {
    match pattern.strip_prefix('!') {
        Some("") => false,
        Some(pattern) => !plain(pattern, text),
        None => plain(pattern, text),
    }
}

/// The text before the first `*` begins, that behind the last ends, and those between follow one another, each
/// as early as possible: that leaves the most room for the rest.
fn plain(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(text) = text.strip_prefix(head).and_then(|text| text.strip_suffix(tail)) else {
        return false;
    };
    middle
        .split('*')
        .try_fold(text, |text, piece| {
            text.find(piece)
                .and_then(|at| text.get(at.saturating_add(piece.len())..))
        })
        .is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_patterns() {
        let table = [
            ("build", "build", true),
            ("build", "build2", false),
            ("build", "Build", false),
            ("!build", "build", false),
            ("!build", "build2", true),
            ("*test", "unit test", true),
            ("test*", "test (1 / 2)", true),
            ("*test*", "a test b", true),
            ("*test*", "a tes b", false),
            ("ci-*-metrics", "ci-workflow-metrics", true),
            ("ci-*-metrics", "ci-metrics", false),
            ("*", "anything", true),
            ("*", "", true),
            ("**", "", true),
            ("!*", "anything", false),
            // Upstream takes the first occurrence only and says no to these.
            ("*b", "bb", true),
            ("*b", "abab", true),
            ("x*y", "xayby", true),
            // Upstream crashes on these.
            ("*foo", "bar", false),
            ("a*b*c", "axc", false),
            ("a*b*c", "a b b c", true),
            ("foo*bar", "foobaz", false),
            ("build", "", false),
            ("test*", "", false),
            ("", "", true),
            ("", "x", false),
            ("!", "", false),
            ("!", "x", false),
            ("a*a", "a", false),
            ("release/**", "release/1/x", true),
            ("*ä*", "größe äpfel", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(fits(pattern, text), expected, "{pattern:?} on {text:?}");
        }
    }
}
