//! Answers: JSON bodies, paging with `Link` headers, GitHub's error texts.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::route::Call;

/// An answer before headers that all answers have.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Option<String>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Reply {
    pub(crate) fn json(status: StatusCode, body: &Value) -> Self {
        Self {
            status,
            body: Some(body.to_string()),
            headers: Vec::new(),
        }
    }

    pub(crate) fn ok(body: &Value) -> Self {
        Self::json(StatusCode::OK, body)
    }

    pub(crate) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            body: None,
            headers: Vec::new(),
        }
    }

    pub(crate) fn error(status: StatusCode, message: &str, documentation: &str) -> Self {
        let body = json!({
            "message": message,
            "documentation_url": format!("https://docs.github.com/{documentation}"),
            "status": status.as_u16().to_string()
        });
        Self::json(status, &body)
    }

    pub(crate) fn not_found() -> Self {
        Self::error(StatusCode::NOT_FOUND, "Not Found", "rest")
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) size: usize,
    pub(crate) number: usize,
}

impl Page {
    /// `per_page` (30, at most 100) and `page` (from 1).
    pub(crate) fn of(query: &BTreeMap<String, String>) -> Self {
        let number = |name: &str| query.get(name).and_then(|value| value.parse::<usize>().ok());
        Self {
            size: number("per_page").filter(|size| *size > 0).unwrap_or(30).min(100),
            number: number("page").filter(|page| *page > 0).unwrap_or(1),
        }
    }

    /// The wanted part of a list.
    pub(crate) fn cut<T>(self, items: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        items
            .skip(self.size.saturating_mul(self.number - 1))
            .take(self.size)
    }

    /// The `Link` header for a list of this length; none when it fits on one page.
    pub(crate) fn link(self, call: &Call, host: &str, total: usize) -> Option<String> {
        let last = total.div_ceil(self.size).max(1);
        let to = |page: usize, rel: &str| {
            let mut query = call.query.clone();
            query.insert("page".to_owned(), page.to_string());
            link(call, host, &query, rel)
        };
        let mut links = Vec::new();
        if self.number > 1 {
            links.push(to(1, "first"));
            links.push(to((self.number - 1).min(last), "prev"));
        }
        if self.number < last {
            links.push(to(self.number + 1, "next"));
            links.push(to(last, "last"));
        }
        (!links.is_empty()).then(|| links.join(", "))
    }
}

/// One entry of a `Link` header, with an absolute URL.
pub(crate) fn link(call: &Call, host: &str, query: &BTreeMap<String, String>, rel: &str) -> String {
    let query: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    format!(
        "<http://{host}{}{}?{}>; rel=\"{rel}\"",
        call.base,
        call.link_path,
        query.join("&")
    )
}

fn encode(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    value
        .bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
