//! How a process logs in to GitHub and where it finds it: flags, environment, precedence (spec 02 §2.2–2.3, §3.1; 03 §1.2).

use std::{fmt, path::PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::{
    env::{Env, EnvError},
    values::{parse_int, secret},
};

/// The GitHub flags that manager and webhook server share; an absent flag leaves the environment's value.
/// `--github-enterprise-url` is not among them, because only the manager has it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct GitHubFlags {
    /// Personal access token [env: `GITHUB_TOKEN`].
    #[arg(long, value_name = "TOKEN", value_parser = secret)]
    pub github_token: Option<SecretString>,
    /// Id or client id of the GitHub App [env: `GITHUB_APP_ID`].
    #[arg(long, value_name = "ID")]
    pub github_app_id: Option<AppId>,
    /// Installation id of the GitHub App [env: `GITHUB_APP_INSTALLATION_ID`].
    #[arg(long, value_name = "ID", value_parser = parse_int)]
    pub github_app_installation_id: Option<i64>,
    /// Path of the GitHub App's private key in PEM form, or the PEM text itself [env: `GITHUB_APP_PRIVATE_KEY`].
    #[arg(long, value_name = "PATH OR PEM", value_parser = secret)]
    pub github_app_private_key: Option<SecretString>,
    /// Base URL of the GitHub API, for a proxy or another API than `https://api.github.com` [env: `GITHUB_URL`].
    #[arg(long, value_name = "URL")]
    pub github_url: Option<String>,
    /// Base URL for uploads [env: `GITHUB_UPLOAD_URL`].
    #[arg(long, value_name = "URL")]
    pub github_upload_url: Option<String>,
    /// User for basic authentication with an API proxy [env: `GITHUB_BASICAUTH_USERNAME`].
    #[arg(long, value_name = "USER")]
    pub github_basicauth_username: Option<String>,
    /// Password for basic authentication with an API proxy [env: `GITHUB_BASICAUTH_PASSWORD`].
    #[arg(long, value_name = "PASSWORD", value_parser = secret)]
    pub github_basicauth_password: Option<SecretString>,
    /// The most calls to GitHub that each login makes in an hour; 0 means that only GitHub's own limits count [env: `GITHUB_CALLS_PER_HOUR`].
    #[arg(long, value_name = "NUMBER", value_parser = parse_int)]
    pub github_calls_per_hour: Option<i64>,
    /// Base URL that runners register with; without effect beside an enterprise URL [env: `GITHUB_RUNNER_GIT_HUB_URL`].
    #[arg(long, value_name = "URL")]
    pub runner_github_url: Option<String>,
}

/// Identity of a GitHub App as it goes into the JWT: its number, or its client id (`Iv…`), which GitHub recommends today.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppId(String);

impl AppId {
    /// The id as text; a number is in decimal form whatever base it was written in.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for AppId {
    type Err = super::ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_client_id = text.starts_with("Iv")
            && text.len() > 10
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
        if is_client_id {
            return Ok(Self(text.to_owned()));
        }
        parse_int(text).map(|number| Self(number.to_string()))
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The `GITHUB_*` variables, parsed. This happens before the flags are looked at (spec 02 §2.1 step 1).
#[derive(Clone, Debug, Default)]
pub struct GitHubEnv(GitHubFlags, Option<String>, Vec<NumberedLogin>);

/// The highest number of a further login.
const MOST_LOGINS: u32 = 16;

/// A further login: `GITHUB_TOKEN_2`, or `GITHUB_APP_ID_2` and its kin, and so on. It shares the work of the first.
#[derive(Clone, Debug)]
pub struct NumberedLogin {
    /// The number behind the names of its variables.
    pub number: u32,
    /// Personal access token.
    pub token: Option<SecretString>,
    /// Id of the GitHub App.
    pub app_id: Option<AppId>,
    /// Id of the App's installation.
    pub app_installation_id: Option<u64>,
    /// Path of a PEM file, or PEM text.
    pub app_private_key: Option<SecretString>,
}

impl NumberedLogin {
    /// The login with this number, unless none of its variables is set.
    fn read(env: &Env, suffix: u32) -> Result<Option<Self>, EnvError> {
        let name = |name: &str| format!("{name}_{suffix}");
        let is_set = |name: &str| {
            env.get(name)
                .map(|value| value.is_some_and(|value| !value.is_empty()))
        };
        let secret = |name: &str| -> Result<Option<SecretString>, EnvError> {
            let value = env.get(name)?.filter(|value| !value.trim().is_empty());
            Ok(value.map(SecretString::from))
        };
        let (id, installation) = (name("GITHUB_APP_ID"), name("GITHUB_APP_INSTALLATION_ID"));
        let login = Self {
            number: suffix,
            token: secret(&name("GITHUB_TOKEN"))?,
            app_id: if is_set(&id)? {
                number(env, &id, str::parse)?
            } else {
                None
            },
            app_installation_id: if is_set(&installation)? {
                number(env, &installation, parse_int)?.and_then(|id| u64::try_from(id).ok())
            } else {
                None
            },
            app_private_key: secret(&name("GITHUB_APP_PRIVATE_KEY"))?,
        };
        let is_empty = login.token.is_none()
            && login.app_id.is_none()
            && login.app_installation_id.is_none()
            && login.app_private_key.is_none();
        Ok((!is_empty).then_some(login))
    }

    fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let parts = (&self.app_id, self.app_installation_id, &self.app_private_key);
        let variables = [
            "GITHUB_APP_ID",
            "GITHUB_APP_INSTALLATION_ID",
            "GITHUB_APP_PRIVATE_KEY",
        ];
        token_or_app(self.token.as_ref(), parts, |missing| CredentialsError::Numbered {
            missing: missing
                .into_iter()
                .zip(variables)
                .filter(|(absent, _)| *absent)
                .map(|(_, name)| format!("{name}_{}", self.number))
                .collect(),
        })
    }
}

/// What an App's login is made of: its id, its installation, its key.
type AppParts<'a> = (&'a Option<AppId>, Option<u64>, &'a Option<SecretString>);

/// The token where there is one, or else the App, or else what `lacks` makes of which of its parts are missing.
fn token_or_app(
    token: Option<&SecretString>,
    parts: AppParts<'_>,
    lacks: impl FnOnce([bool; 3]) -> CredentialsError,
) -> Result<Credentials, CredentialsError> {
    if let Some(token) = token {
        // A Secret made from a file often ends in a newline, which no header may contain.
        return Ok(Credentials::Token(SecretString::from(
            token.expose_secret().trim(),
        )));
    }
    match parts {
        (Some(app_id), Some(installation_id), Some(key)) => Ok(Credentials::App {
            app_id: app_id.to_string(),
            installation_id,
            private_key: private_key(key)?,
        }),
        (app_id, installation_id, key) => Err(lacks([
            app_id.is_none(),
            installation_id.is_none(),
            key.is_none(),
        ])),
    }
}

impl GitHubEnv {
    /// Reads the variables of spec 02 §2.3. Unset ones are fine; an integer that is set but empty is not.
    ///
    /// # Errors
    /// [`EnvError`], for which the process exits with code 1.
    pub fn read(env: &Env) -> Result<Self, EnvError> {
        let text = |name: &str| env.get(name).map(|value| value.map(str::to_owned));
        let secret = |name: &str| env.get(name).map(|value| value.map(SecretString::from));
        // The first spelling is what upstream reads, the second what everybody would expect (spec 02 Q3).
        let runner_url = text("GITHUB_RUNNER_GIT_HUB_URL")?
            .filter(|url| !url.is_empty())
            .or(text("GITHUB_RUNNER_GITHUB_URL")?);
        let flags = GitHubFlags {
            github_token: secret("GITHUB_TOKEN")?,
            github_app_id: number(env, "GITHUB_APP_ID", str::parse)?,
            github_app_installation_id: number(env, "GITHUB_APP_INSTALLATION_ID", parse_int)?,
            github_app_private_key: secret("GITHUB_APP_PRIVATE_KEY")?,
            github_url: text("GITHUB_URL")?,
            github_upload_url: text("GITHUB_UPLOAD_URL")?,
            github_basicauth_username: text("GITHUB_BASICAUTH_USERNAME")?,
            github_basicauth_password: secret("GITHUB_BASICAUTH_PASSWORD")?,
            github_calls_per_hour: number(env, "GITHUB_CALLS_PER_HOUR", parse_int)?,
            runner_github_url: runner_url,
        };
        let further: Result<Vec<_>, EnvError> = (2..=MOST_LOGINS)
            .filter_map(|number| NumberedLogin::read(env, number).transpose())
            .collect();
        Ok(Self(flags, text("GITHUB_ENTERPRISE_URL")?, further?))
    }
}

fn number<T>(
    env: &Env,
    name: &str,
    parse: impl Fn(&str) -> Result<T, super::ValueError>,
) -> Result<Option<T>, EnvError> {
    let Some(value) = env.get(name)? else {
        return Ok(None);
    };
    parse(value).map(Some).map_err(|error| EnvError::Invalid {
        name: name.to_owned(),
        // Longer than any id: more likely a token in the wrong variable than a typing error.
        value: if value.len() > 24 {
            format!("({} bytes, not shown)", value.len())
        } else {
            value.to_owned()
        },
        reason: error.to_string(),
    })
}

/// The merged settings; empty values and zero ids count as unset and are `None`.
#[derive(Clone, Debug, Default)]
pub struct GitHubArgs {
    /// Personal access token.
    pub token: Option<SecretString>,
    /// Id of the GitHub App.
    pub app_id: Option<AppId>,
    /// Id of the App's installation.
    pub app_installation_id: Option<u64>,
    /// Path of a PEM file, or PEM text.
    pub app_private_key: Option<SecretString>,
    /// API base URL for anything but an enterprise server.
    pub url: Option<String>,
    /// Upload base URL.
    pub upload_url: Option<String>,
    /// Base URL of an enterprise server; wins over the other URLs.
    pub enterprise_url: Option<String>,
    /// Base URL that runners register with.
    pub runner_url: Option<String>,
    /// Basic authentication: user.
    pub basic_auth_username: Option<String>,
    /// Basic authentication: password.
    pub basic_auth_password: Option<SecretString>,
    /// Further logins, by number.
    pub further: Vec<NumberedLogin>,
    /// The most calls that each login makes in an hour.
    pub calls_per_hour: Option<u64>,
}

impl GitHubArgs {
    /// Merges: a flag that is present wins over the environment, even when it is empty.
    pub fn merge(env: GitHubEnv, flags: GitHubFlags, enterprise_url_flag: Option<String>) -> Self {
        let GitHubEnv(env, enterprise_url_env, further) = env;
        let text = |flag: Option<String>, env: Option<String>| flag.or(env).filter(|value| !value.is_empty());
        let secret = |flag: Option<SecretString>, env: Option<SecretString>| {
            flag.or(env).filter(|value| !value.expose_secret().is_empty())
        };
        Self {
            token: secret(flags.github_token, env.github_token),
            app_id: flags
                .github_app_id
                .or(env.github_app_id)
                .filter(|id| id.0 != "0" && !id.0.starts_with('-')),
            app_installation_id: flags
                .github_app_installation_id
                .or(env.github_app_installation_id)
                .and_then(|id| u64::try_from(id).ok())
                .filter(|id| *id > 0),
            app_private_key: secret(flags.github_app_private_key, env.github_app_private_key),
            url: text(flags.github_url, env.github_url),
            upload_url: text(flags.github_upload_url, env.github_upload_url),
            enterprise_url: text(enterprise_url_flag, enterprise_url_env),
            runner_url: text(flags.runner_github_url, env.runner_github_url),
            basic_auth_username: text(flags.github_basicauth_username, env.github_basicauth_username),
            basic_auth_password: secret(flags.github_basicauth_password, env.github_basicauth_password),
            further,
            calls_per_hour: flags
                .github_calls_per_hour
                .or(env.github_calls_per_hour)
                .and_then(|calls| u64::try_from(calls).ok())
                .filter(|calls| *calls > 0),
        }
    }

    /// All logins with their names in metrics, the one of [`Self::credentials`] first.
    ///
    /// # Errors
    /// As [`Self::credentials`], and for a further login that is not complete.
    pub fn logins(&self) -> Result<Vec<(String, Credentials)>, CredentialsError> {
        let name = |credentials: &Credentials, number: Option<u32>| match (credentials, number) {
            (
                Credentials::App {
                    app_id,
                    installation_id,
                    ..
                },
                _,
            ) => format!("app/{app_id}/{installation_id}"),
            (_, None) => "default".to_owned(),
            (_, Some(number)) => format!("default#{number}"),
        };
        let first = self.credentials()?;
        let mut logins = vec![(name(&first, None), first)];
        for further in &self.further {
            let credentials = further.credentials()?;
            logins.push((name(&credentials, Some(further.number)), credentials));
        }
        Ok(logins)
    }

    /// Selects the login (spec 02 §3.1): basic authentication, else the token, else the App, whose key is read from its file if the
    /// setting names one.
    ///
    /// # Errors
    /// [`CredentialsError`]; the manager cannot start then, the webhook server runs without a GitHub client unless a key file is bad.
    pub fn credentials(&self) -> Result<Credentials, CredentialsError> {
        if let (Some(username), Some(password)) = (&self.basic_auth_username, &self.basic_auth_password) {
            return Ok(Credentials::Basic {
                username: username.clone(),
                password: password.clone(),
            });
        }
        let parts = (&self.app_id, self.app_installation_id, &self.app_private_key);
        let names = [
            "the App id (GITHUB_APP_ID)",
            "the installation id (GITHUB_APP_INSTALLATION_ID)",
            "the private key (GITHUB_APP_PRIVATE_KEY)",
        ];
        token_or_app(self.token.as_ref(), parts, |missing| {
            if missing == [true; 3] {
                return CredentialsError::Missing;
            }
            let missing = missing.into_iter().zip(names).filter(|(absent, _)| *absent);
            CredentialsError::Incomplete {
                missing: missing.map(|(_, name)| name).collect(),
            }
        })
    }
}

/// A login to GitHub.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Basic authentication with an API proxy.
    Basic {
        /// User.
        username: String,
        /// Password.
        password: SecretString,
    },
    /// Personal access token.
    Token(SecretString),
    /// GitHub App.
    App {
        /// Id or client id.
        app_id: String,
        /// Installation id.
        installation_id: u64,
        /// Private key as PEM text; its content is not checked here.
        private_key: SecretString,
    },
}

/// Why there is no login.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Nothing is set.
    #[error(
        "no GitHub credentials: set GITHUB_TOKEN, or GITHUB_APP_ID, GITHUB_APP_INSTALLATION_ID and GITHUB_APP_PRIVATE_KEY, or \
         GITHUB_BASICAUTH_USERNAME and GITHUB_BASICAUTH_PASSWORD"
    )]
    Missing,
    /// An App is set in part.
    #[error("the GitHub App credentials lack {}", missing.join(" and "))]
    Incomplete {
        /// What to add.
        missing: Vec<&'static str>,
    },
    /// A further login is set in part.
    #[error("a further GitHub App login lacks {}", missing.join(" and "))]
    Numbered {
        /// The variables to add.
        missing: Vec<String>,
    },
    /// The private key names a file that cannot be read.
    #[error("could not read the GitHub App private key from {path}", path = path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The key's PEM text: the content of the file that the setting names, or else the setting itself.
fn private_key(setting: &SecretString) -> Result<SecretString, CredentialsError> {
    let text = setting.expose_secret();
    let path = PathBuf::from(text.trim());
    let names_a_file = !text.trim().contains('\n') && !text.contains("-----BEGIN") && path.exists();
    if !names_a_file {
        return Ok(setting.clone());
    }
    std::fs::read_to_string(&path)
        .map(SecretString::from)
        .map_err(|source| CredentialsError::KeyFile { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_env(pairs: &[(&str, &str)]) -> GitHubArgs {
        let env = GitHubEnv::read(&Env::of(pairs.iter().copied())).unwrap();
        GitHubArgs::merge(env, GitHubFlags::default(), None)
    }

    #[test]
    fn the_environment_fills_every_field() {
        let args = from_env(&[
            ("GITHUB_TOKEN", "t"),
            ("GITHUB_APP_ID", "0x10"),
            ("GITHUB_APP_INSTALLATION_ID", "12"),
            ("GITHUB_APP_PRIVATE_KEY", "pem"),
            ("GITHUB_URL", "https://proxy.example/"),
            ("GITHUB_UPLOAD_URL", "https://up.example/"),
            ("GITHUB_ENTERPRISE_URL", "https://ghes.example"),
            ("GITHUB_BASICAUTH_USERNAME", "u"),
            ("GITHUB_BASICAUTH_PASSWORD", "p"),
            ("GITHUB_RUNNER_GIT_HUB_URL", "https://runner.example"),
        ]);
        assert_eq!(args.token.unwrap().expose_secret(), "t");
        assert_eq!(args.app_id.unwrap().as_str(), "16");
        assert_eq!(args.app_installation_id, Some(12));
        assert_eq!(args.app_private_key.unwrap().expose_secret(), "pem");
        assert_eq!(args.url.as_deref(), Some("https://proxy.example/"));
        assert_eq!(args.upload_url.as_deref(), Some("https://up.example/"));
        assert_eq!(args.enterprise_url.as_deref(), Some("https://ghes.example"));
        assert_eq!(args.basic_auth_username.as_deref(), Some("u"));
        assert_eq!(args.basic_auth_password.unwrap().expose_secret(), "p");
        assert_eq!(args.runner_url.as_deref(), Some("https://runner.example"));
    }

    #[test]
    fn both_spellings_of_the_runner_url_are_read() {
        assert_eq!(
            from_env(&[("GITHUB_RUNNER_GITHUB_URL", "b")])
                .runner_url
                .as_deref(),
            Some("b")
        );
        let both = [
            ("GITHUB_RUNNER_GIT_HUB_URL", "a"),
            ("GITHUB_RUNNER_GITHUB_URL", "b"),
        ];
        assert_eq!(from_env(&both).runner_url.as_deref(), Some("a"));
        let empty = [
            ("GITHUB_RUNNER_GIT_HUB_URL", ""),
            ("GITHUB_RUNNER_GITHUB_URL", "b"),
        ];
        assert_eq!(from_env(&empty).runner_url.as_deref(), Some("b"));
    }

    #[test]
    fn integers_that_are_set_but_unusable_are_errors() {
        for name in ["GITHUB_APP_ID", "GITHUB_APP_INSTALLATION_ID"] {
            for value in ["", "abc", "12\n", "1.5", "9223372036854775808"] {
                let error = GitHubEnv::read(&Env::of([(name, value)])).unwrap_err();
                assert!(error.to_string().contains(name), "{error}");
            }
            assert!(GitHubEnv::read(&Env::of([(name, "0b11")])).is_ok());
        }
        assert!(GitHubEnv::read(&Env::of([("GITHUB_APP_ID", "Iv23liAbCdEf12345678")])).is_ok());
        assert!(GitHubEnv::read(&Env::of([("GITHUB_APP_INSTALLATION_ID", "Iv23liAbCdEf12345678")])).is_err());
    }

    #[test]
    fn a_flag_wins_over_the_environment_even_when_empty() {
        let env = GitHubEnv::read(&Env::of([
            ("GITHUB_TOKEN", "env"),
            ("GITHUB_ENTERPRISE_URL", "env"),
        ]))
        .unwrap();
        let flags = GitHubFlags {
            github_token: Some("".into()),
            ..GitHubFlags::default()
        };
        let merged = GitHubArgs::merge(env.clone(), flags, Some(String::new()));
        assert!(merged.token.is_none() && merged.enterprise_url.is_none());
        let flags = GitHubFlags {
            github_token: Some("flag".into()),
            ..GitHubFlags::default()
        };
        let merged = GitHubArgs::merge(env, flags, None);
        assert_eq!(merged.token.unwrap().expose_secret(), "flag");
        assert_eq!(merged.enterprise_url.as_deref(), Some("env"));
    }

    #[test]
    fn zero_and_negative_ids_count_as_unset() {
        let args = from_env(&[("GITHUB_APP_ID", "0"), ("GITHUB_APP_INSTALLATION_ID", "-3")]);
        assert_eq!((args.app_id, args.app_installation_id), (None, None));
    }

    #[test]
    fn login_precedence() {
        let app = [
            ("GITHUB_APP_ID", "7"),
            ("GITHUB_APP_INSTALLATION_ID", "8"),
            ("GITHUB_APP_PRIVATE_KEY", "PEM"),
        ];
        let args = from_env(&app);
        let Ok(Credentials::App {
            app_id,
            installation_id,
            private_key,
        }) = args.credentials()
        else {
            panic!("{args:?}")
        };
        assert_eq!(
            (app_id.as_str(), installation_id, private_key.expose_secret()),
            ("7", 8, "PEM")
        );

        let with_token: Vec<_> = app.into_iter().chain([("GITHUB_TOKEN", "tok\n")]).collect();
        let Ok(Credentials::Token(token)) = from_env(&with_token).credentials() else {
            panic!()
        };
        assert_eq!(token.expose_secret(), "tok");

        let basic: Vec<_> = with_token
            .into_iter()
            .chain([
                ("GITHUB_BASICAUTH_USERNAME", "u"),
                ("GITHUB_BASICAUTH_PASSWORD", "p"),
            ])
            .collect();
        assert!(matches!(
            from_env(&basic).credentials(),
            Ok(Credentials::Basic { .. })
        ));

        assert!(matches!(
            from_env(&[]).credentials(),
            Err(CredentialsError::Missing)
        ));
        let half = from_env(&[("GITHUB_APP_ID", "7")])
            .credentials()
            .unwrap_err()
            .to_string();
        assert!(
            half.contains("GITHUB_APP_INSTALLATION_ID") && half.contains("GITHUB_APP_PRIVATE_KEY"),
            "{half}"
        );
        // One half of basic authentication is not basic authentication.
        let half = from_env(&[("GITHUB_BASICAUTH_USERNAME", "u"), ("GITHUB_TOKEN", "t")]);
        assert!(matches!(half.credentials(), Ok(Credentials::Token(_))));
    }

    #[test]
    fn numbered_variables_are_further_logins() {
        let names = |pairs: &[(&str, &str)]| {
            let logins = from_env(pairs).logins().map_err(|error| error.to_string())?;
            Ok::<_, String>(logins.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[("GITHUB_TOKEN", "t")]).unwrap(), ["default"]);
        let several = [
            ("GITHUB_TOKEN", "t"),
            ("GITHUB_TOKEN_3", "u"),
            ("GITHUB_APP_ID_2", "7"),
            ("GITHUB_APP_INSTALLATION_ID_2", "8"),
            ("GITHUB_APP_PRIVATE_KEY_2", "PEM"),
            ("GITHUB_TOKEN_4", ""),
            ("GITHUB_APP_ID_4", ""),
        ];
        assert_eq!(names(&several).unwrap(), ["default", "app/7/8", "default#3"]);
        let half = [("GITHUB_TOKEN", "t"), ("GITHUB_APP_ID_2", "7")];
        let error = names(&half).unwrap_err();
        assert!(
            error.contains("GITHUB_APP_INSTALLATION_ID_2") && error.contains("GITHUB_APP_PRIVATE_KEY_2"),
            "{error}"
        );
        assert!(GitHubEnv::read(&Env::of([("GITHUB_APP_ID_2", "x")])).is_err());
    }

    #[test]
    fn a_cap_of_zero_is_none() {
        let cap = |value| from_env(&[("GITHUB_CALLS_PER_HOUR", value)]).calls_per_hour;
        assert_eq!([cap("400"), cap("0"), cap("-1")], [Some(400), None, None]);
    }

    #[test]
    fn the_private_key_is_read_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        std::fs::write(&path, "-----BEGIN RSA PRIVATE KEY-----\n").unwrap();
        let read = private_key(&SecretString::from(path.to_str().unwrap())).unwrap();
        assert!(read.expose_secret().starts_with("-----BEGIN"));
        let inline = "-----BEGIN RSA PRIVATE KEY-----\nabc\n";
        assert_eq!(
            private_key(&SecretString::from(inline)).unwrap().expose_secret(),
            inline
        );
        assert!(private_key(&SecretString::from(dir.path().to_str().unwrap())).is_err());
    }

    #[test]
    fn no_secret_is_shown() {
        let args = from_env(&[
            ("GITHUB_TOKEN", "sentinel-1"),
            ("GITHUB_APP_PRIVATE_KEY", "sentinel-2"),
            ("GITHUB_BASICAUTH_USERNAME", "user"),
            ("GITHUB_BASICAUTH_PASSWORD", "sentinel-3"),
            ("GITHUB_TOKEN_2", "sentinel-4"),
            ("GITHUB_APP_PRIVATE_KEY_3", "sentinel-5"),
        ]);
        let shown = format!("{args:?} {:?}", args.credentials());
        assert!(!shown.contains("sentinel"), "{shown}");
    }
}
