//! The logins in a Secret: ARC's keys, and the same keys with a number behind them for further logins that share the work.

use muster_crds::keys;
use muster_github::{Auth, Login};
use secrecy::SecretString;

/// The highest number of a further login.
const MOST: u32 = 16;

/// The logins in the Secret `name` (`namespace/name`), whose values `value` gives: ARC's first, then those of `github_token_2`,
/// `github_app_id_2`, … in the order of their numbers. Numbers may be left out.
///
/// # Errors
/// A sentence that names the key that is missing or wrong.
pub(crate) fn logins(name: &str, value: impl Fn(&str) -> Option<String>) -> Result<Vec<Login>, String> {
    let mut logins = vec![Login::new(name, login("", &value)?)];
    for number in 2..=MOST {
        let suffix = format!("_{number}");
        let is_given = [
            keys::SECRET_GITHUB_TOKEN,
            keys::SECRET_GITHUB_APP_ID,
            keys::SECRET_GITHUB_APP_INSTALLATION_ID,
            keys::SECRET_GITHUB_APP_PRIVATE_KEY,
        ]
        .iter()
        .any(|key| value(&format!("{key}{suffix}")).is_some());
        if is_given {
            logins.push(Login::new(format!("{name}#{number}"), login(&suffix, &value)?));
        }
    }
    Ok(logins)
}

/// One login: a token, or else a GitHub App.
fn login(suffix: &str, value: &impl Fn(&str) -> Option<String>) -> Result<Auth, String> {
    if let Some(token) = value(&format!("{}{suffix}", keys::SECRET_GITHUB_TOKEN)) {
        return Ok(Auth::Token(SecretString::from(token)));
    }
    let part = |key: &str| {
        let key = format!("{key}{suffix}");
        value(&key).ok_or_else(|| {
            format!("it has neither github_token{suffix} nor {key}, which a GitHub App login needs")
        })
    };
    Ok(Auth::App {
        app_id: part(keys::SECRET_GITHUB_APP_ID)?,
        installation_id: part(keys::SECRET_GITHUB_APP_INSTALLATION_ID)?
            .parse()
            .map_err(|_| {
                format!(
                    "{}{suffix} is not a whole number",
                    keys::SECRET_GITHUB_APP_INSTALLATION_ID
                )
            })?,
        private_key: SecretString::from(part(keys::SECRET_GITHUB_APP_PRIVATE_KEY)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let value = |key: &str| {
            let pair = pairs.iter().find(|(name, _)| *name == key);
            pair.map(|(_, value)| (*value).to_owned())
        };
        let logins = logins("ns/login", value)?;
        Ok(logins
            .iter()
            .map(|login| match &login.auth {
                Auth::Token(_) => format!("{} token", login.name),
                Auth::App {
                    app_id,
                    installation_id,
                    ..
                } => format!("{} app {app_id}/{installation_id}", login.name),
                Auth::Basic { .. } => format!("{} basic", login.name),
            })
            .collect())
    }

    #[test]
    fn arcs_keys_are_one_login_and_numbered_ones_are_more() {
        let app = [
            ("github_app_id", "1"),
            ("github_app_installation_id", "2"),
            ("github_app_private_key", "k"),
        ];
        assert_eq!(read(&[("github_token", "t")]).unwrap(), ["ns/login token"]);
        assert_eq!(read(&app).unwrap(), ["ns/login app 1/2"]);
        let more = [
            ("github_app_private_key_12", "k"),
            ("github_app_installation_id_12", "6"),
            ("github_app_id_12", "5"),
            ("github_token_2", "u"),
            ("github_token_99", "not read"),
        ];
        let all: Vec<_> = app.into_iter().chain(more).collect();
        assert_eq!(
            read(&all).unwrap(),
            ["ns/login app 1/2", "ns/login#2 token", "ns/login#12 app 5/6"]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let wrong = |pairs: &[(&str, &str)]| read(pairs).unwrap_err();
        assert!(wrong(&[]).contains("github_token nor github_app_id,"));
        let half = [("github_token", "t"), ("github_app_id_3", "1")];
        assert!(
            wrong(&half).contains("github_app_installation_id_3"),
            "{}",
            wrong(&half)
        );
        let typing = [
            ("github_token", "t"),
            ("github_app_id_3", "1"),
            ("github_app_installation_id_3", "x"),
        ];
        assert_eq!(
            wrong(&typing),
            "github_app_installation_id_3 is not a whole number"
        );
        assert!(
            wrong(&[("github_token_2", "t")]).contains("github_token nor"),
            "the first is ARC's"
        );
    }
}
