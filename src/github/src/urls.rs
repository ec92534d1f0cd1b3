//! Which addresses a GitHub has: API, uploads, the one that runners register with, and the one for app tokens (spec 02 §3.2).

use reqwest::Url;

/// The four address settings as users give them; absent, empty and blank mean unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UrlSettings {
    /// Base URL of a GitHub Enterprise Server (`--github-enterprise-url`); the other three are ignored when it is set.
    pub enterprise: Option<String>,
    /// Base URL of the API (`--github-url`).
    pub api: Option<String>,
    /// Base URL for uploads (`--github-upload-url`).
    pub upload: Option<String>,
    /// Base URL that runners register with (`--runner-github-url`).
    pub runner: Option<String>,
}

/// The addresses of one GitHub. `api`, `upload` and `runner` end in a slash, `app_token` does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Urls {
    /// Base of the REST API.
    pub api: String,
    /// Base for uploads.
    pub upload: String,
    /// What runner pods get as `GITHUB_URL`.
    pub runner: String,
    /// Base for exchanging a GitHub App's JWT for an installation token.
    pub app_token: String,
    /// Whether this is a GitHub Enterprise Server (or an enterprise host of github.com).
    pub is_enterprise: bool,
}

/// Why an address setting cannot be used. The value is not part of the message, as it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not an absolute `http` or `https` address with a host.
    #[error("the {setting} URL is not an absolute http or https address")]
    Invalid {
        /// Which setting: `enterprise`, `API`, `upload` or `runner`.
        setting: &'static str,
    },
    /// The address carries a user or a password.
    #[error("the {setting} URL holds a user or a password: give them as basic authentication settings")]
    Login {
        /// Which setting: `enterprise`, `API`, `upload` or `runner`.
        setting: &'static str,
    },
}

const API_SUFFIX: &str = "api/v3/";
const UPLOAD_SUFFIX: &str = "api/uploads/";

impl Urls {
    /// The addresses that the settings stand for (spec 02 §3.2). Without any setting they are github.com's.
    ///
    /// # Errors
    /// [`UrlError`] for a setting that is not an absolute http or https address, or that holds a password.
    pub fn resolve(settings: &UrlSettings) -> Result<Self, UrlError> {
        if let Some(enterprise) = given(settings.enterprise.as_deref()) {
            let base = directory("enterprise", enterprise)?;
            let api = with_suffix(&base, API_SUFFIX);
            return Ok(Self {
                app_token: api.as_str().trim_end_matches('/').to_owned(),
                upload: with_suffix(&base, UPLOAD_SUFFIX).into(),
                runner: web_address(&api),
                api: api.into(),
                is_enterprise: true,
            });
        }
        let or = |setting, value: Option<&str>, default: &str| match given(value) {
            Some(value) => directory(setting, value).map(String::from),
            None => Ok(default.to_owned()),
        };
        let api = or("API", settings.api.as_deref(), "https://api.github.com/")?;
        Ok(Self {
            app_token: api.trim_end_matches('/').to_owned(),
            upload: or(
                "upload",
                settings.upload.as_deref(),
                "https://uploads.github.com/",
            )?,
            runner: or("runner", settings.runner.as_deref(), "https://github.com/")?,
            api,
            is_enterprise: false,
        })
    }
}

fn given(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|value| !value.is_empty())
}

/// The address with a trailing slash and without query and fragment.
fn directory(setting: &'static str, value: &str) -> Result<Url, UrlError> {
    let invalid = UrlError::Invalid { setting };
    let mut url = Url::parse(value).map_err(|_| invalid)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(invalid);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::Login { setting });
    }
    url.set_query(None);
    url.set_fragment(None);
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// Hosts that serve nothing but the API need no suffix, nor do paths that have it already.
fn with_suffix(base: &Url, suffix: &str) -> Url {
    let host = base.host_str().unwrap_or_default();
    let mut url = base.clone();
    if !base.path().ends_with(&format!("/{suffix}")) && !host.starts_with("api.") && !host.contains(".api.") {
        url.set_path(&format!("{}{suffix}", base.path()));
    }
    url
}

/// Where people and runners find the server whose API is at `api`.
fn web_address(api: &Url) -> String {
    let mut url = api.clone();
    if let Some(prefix) = api.path().strip_suffix(API_SUFFIX) {
        url.set_path(prefix);
    }
    let web_host = api
        .host_str()
        .and_then(|host| host.strip_prefix("api."))
        // Upstream gives runners the API host here, which is not where they can register (spec 02 Q46).
        .filter(|host| *host == "github.com" || host.ends_with(".ghe.com"));
    if let Some(host) = web_host
        && url.set_host(Some(host)).is_err()
    {
        return api.clone().into();
    }
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enterprise(url: &str) -> Urls {
        Urls::resolve(&UrlSettings {
            enterprise: Some(url.to_owned()),
            ..UrlSettings::default()
        })
        .unwrap()
    }

    #[test]
    fn without_settings_everything_is_on_github_com() {
        let urls = Urls::resolve(&UrlSettings {
            api: Some("  ".into()),
            ..UrlSettings::default()
        })
        .unwrap();
        assert_eq!(
            urls,
            Urls {
                api: "https://api.github.com/".into(),
                upload: "https://uploads.github.com/".into(),
                runner: "https://github.com/".into(),
                app_token: "https://api.github.com".into(),
                is_enterprise: false,
            }
        );
    }

    #[test]
    fn single_addresses_replace_github_coms_and_get_a_trailing_slash() {
        let urls = Urls::resolve(&UrlSettings {
            enterprise: None,
            api: Some("http://proxy.example.com:8080/gh\n".into()),
            upload: Some("https://up.example.com".into()),
            runner: Some("https://web.example.com/x".into()),
        })
        .unwrap();
        assert_eq!(urls.api, "http://proxy.example.com:8080/gh/");
        assert_eq!(urls.app_token, "http://proxy.example.com:8080/gh");
        assert_eq!(urls.upload, "https://up.example.com/");
        assert_eq!(urls.runner, "https://web.example.com/x/");
    }

    #[test]
    fn enterprise_addresses_follow_the_table() {
        let table = [
            // setting, API, uploads, runners
            (
                "https://ghes.example.com",
                "https://ghes.example.com/api/v3/",
                "https://ghes.example.com/api/uploads/",
                "https://ghes.example.com/",
            ),
            (
                "https://ghes.example.com:8443/git?x=1#y",
                "https://ghes.example.com:8443/git/api/v3/",
                "https://ghes.example.com:8443/git/api/uploads/",
                "https://ghes.example.com:8443/git/",
            ),
            (
                "https://ghes.example.com/api/v3",
                "https://ghes.example.com/api/v3/",
                "https://ghes.example.com/api/v3/api/uploads/",
                "https://ghes.example.com/",
            ),
            (
                "https://my.api.example.com",
                "https://my.api.example.com/",
                "https://my.api.example.com/",
                "https://my.api.example.com/",
            ),
            (
                "https://api.acme.ghe.com",
                "https://api.acme.ghe.com/",
                "https://api.acme.ghe.com/",
                "https://acme.ghe.com/",
            ),
            (
                "https://acme.ghe.com/",
                "https://acme.ghe.com/api/v3/",
                "https://acme.ghe.com/api/uploads/",
                "https://acme.ghe.com/",
            ),
            (
                "https://api.github.com",
                "https://api.github.com/",
                "https://api.github.com/",
                "https://github.com/",
            ),
        ];
        for (setting, api, upload, runner) in table {
            let urls = enterprise(setting);
            assert_eq!(
                (urls.api.as_str(), urls.upload.as_str(), urls.runner.as_str()),
                (api, upload, runner),
                "{setting}"
            );
            assert_eq!(urls.app_token, api.trim_end_matches('/'), "{setting}");
            assert!(urls.is_enterprise);
        }
    }

    #[test]
    fn the_other_settings_do_not_matter_beside_an_enterprise_url() {
        let settings = UrlSettings {
            enterprise: Some("https://ghes.example.com".into()),
            api: Some("nonsense".into()),
            upload: Some("nonsense".into()),
            runner: Some("nonsense".into()),
        };
        assert_eq!(
            Urls::resolve(&settings),
            Ok(enterprise("https://ghes.example.com"))
        );
    }

    #[test]
    fn unusable_addresses_are_refused_without_showing_them() {
        for bad in [
            "ghes.example.com",
            "ftp://x",
            "https://",
            "mailto:a@b",
            "/api/v3",
            "file:///etc",
        ] {
            let settings = UrlSettings {
                enterprise: Some(bad.into()),
                ..UrlSettings::default()
            };
            assert_eq!(
                Urls::resolve(&settings),
                Err(UrlError::Invalid {
                    setting: "enterprise"
                }),
                "{bad}"
            );
        }
        let settings = UrlSettings {
            api: Some("https://me:sentinel@proxy.example.com".into()),
            ..UrlSettings::default()
        };
        let error = Urls::resolve(&settings).unwrap_err();
        assert_eq!(error, UrlError::Login { setting: "API" });
        assert!(!format!("{error} {error:?}").contains("sentinel"));
    }
}
