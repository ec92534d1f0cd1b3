//! Texts of explanations: instants in condition messages, and what may be shown on a terminal.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use muster_crds::keys;

/// What stands before an instant in a message.
const MARK: &str = "Until ";
/// Beginnings of GitHub's tokens.
const TOKENS: [&str; 8] = [
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "v1.",
    "eyJ",
];
/// A token is at least so long; a word that is shorter and begins alike is none.
const TOKEN_LENGTH: usize = 24;
/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";
/// Longest sentence that is shown.
const LONGEST: usize = 1_000;

/// A sentence that says when a hold ends, for the end of a condition's message: whole seconds, never too early.
pub fn until(at: Timestamp) -> String {
    let whole = if at.subsec_nanosecond() == 0 {
        at
    } else {
        Timestamp::from_second(at.as_second().saturating_add(1)).unwrap_or(at)
    };
    format!("{MARK}{}.", whole.strftime("%Y-%m-%dT%H:%M:%SZ"))
}

/// The instant that [`until`] wrote into a message.
pub fn read_until(message: &str) -> Option<Timestamp> {
    let (_, rest) = message.rsplit_once(MARK)?;
    rest.split_once('Z')
        .and_then(|(at, _)| format!("{at}Z").parse().ok())
}

/// A message without the instant and the remedy at its end: both are shown by themselves.
pub(super) fn without_tail(message: &str, remedy: &str) -> String {
    let mut text = message.trim();
    if let Some((before, _)) = text.rsplit_once(MARK).filter(|_| read_until(text).is_some()) {
        text = before.trim_end();
    }
    if !remedy.is_empty() {
        text = text.strip_suffix(remedy).unwrap_or(text).trim_end();
    }
    text.trim_end_matches('.').to_owned()
}

/// How long, in words: the largest unit, and the next where the number is small.
pub(super) fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// What no text may contain: the registration tokens that stand in runner pods.
#[derive(Clone, Debug, Default)]
pub(crate) struct Secrets(BTreeSet<String>);

impl Secrets {
    pub(crate) fn of(pods: &[Pod]) -> Self {
        let mut found = BTreeSet::new();
        for pod in pods {
            let containers = pod.spec.iter().flat_map(|spec| {
                spec.containers
                    .iter()
                    .chain(spec.init_containers.iter().flatten())
            });
            for variable in containers.flat_map(|container| container.env.iter().flatten()) {
                let secret = variable.name == keys::ENV_RUNNER_TOKEN
                    || ["TOKEN", "SECRET", "PASSWORD", "PRIVATE_KEY"]
                        .iter()
                        .any(|word| variable.name.to_ascii_uppercase().contains(word));
                if let Some(value) = variable
                    .value
                    .as_deref()
                    .filter(|value| secret && value.len() >= 6)
                {
                    found.insert(value.to_owned());
                }
            }
        }
        Self(found)
    }

    /// A text of somebody else's as it may be shown: without tokens, without characters that steer a terminal, on one line.
    pub(crate) fn clean(&self, text: &str) -> String {
        let mut text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        for secret in &self.0 {
            text = text.replace(secret.as_str(), REDACTED);
        }
        let words: Vec<String> = text.split_whitespace().map(hide).collect();
        let text = words.join(" ");
        if text.chars().count() > LONGEST {
            let mut short: String = text.chars().take(LONGEST).collect();
            short.push('…');
            return short;
        }
        text
    }
}

/// A word in which a token begins is cut there.
fn hide(word: &str) -> String {
    let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    for beginning in TOKENS {
        if let Some(at) = word.find(beginning) {
            let (before, rest) = word.split_at(at);
            let end = rest.find(|c| !is_token(c)).unwrap_or(rest.len());
            let (token, after) = rest.split_at(end);
            if token.len() >= TOKEN_LENGTH {
                return format!("{before}{REDACTED}{after}");
            }
        }
    }
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_survives_the_message() {
        let at = Timestamp::new(1_800_000_000, 1).unwrap();
        let message = format!("GitHub's primary rate limit is used up. {}", until(at));
        assert_eq!(
            read_until(&message),
            Some(Timestamp::from_second(1_800_000_001).unwrap())
        );
        assert_eq!(read_until("Until tomorrow"), None);
        assert_eq!(read_until("nothing"), None);
        assert_eq!(
            without_tail(&format!("It broke. Mend it. {}", until(at)), "Mend it."),
            "It broke"
        );
        assert_eq!(without_tail("Until then it is fine", ""), "Until then it is fine");
    }

    #[test]
    fn tokens_and_control_characters_are_not_shown() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "runner", "env": [
                {"name": "RUNNER_TOKEN", "value": "AABBCC-registration"}, {"name": "RUNNER_NAME", "value": "linux-abc"}]}]}
        }))
        .unwrap();
        let secrets = Secrets::of(&[pod]);
        let token = format!("ghp_{}", "a".repeat(36));
        let shown = secrets.clean(&format!(
            "linux-abc said\n\u{1b}[2J AABBCC-registration and https://x:{token}@github.com"
        ));
        assert_eq!(
            shown,
            "linux-abc said [2J [redacted] and https://x:[redacted]@github.com"
        );
        assert_eq!(secrets.clean("image v1.2 of ghp_x"), "image v1.2 of ghp_x");
        assert_eq!(secrets.clean(&"x".repeat(5_000)).chars().count(), LONGEST + 1);
    }
}
