//! What a call to the API server is, read off its method, path and query as the API server's own request info does.

use std::{fmt, time::Duration};

use http::{Method, Uri};

/// What a call does to a resource, in the words of the authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// One object.
    Get,
    /// Many objects.
    List,
    /// Their changes, until the connection ends.
    Watch,
    /// `POST`.
    Create,
    /// `PUT`.
    Update,
    /// `PATCH`, server-side apply included.
    Patch,
    /// `DELETE` of one object.
    Delete,
    /// `DELETE` of many.
    DeleteCollection,
    /// Nothing of a resource: discovery, versions, health.
    Other,
}

impl Verb {
    /// The word in roles.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Other => "other",
        }
    }

    /// Whether it changes something.
    pub fn is_write(self) -> bool {
        matches!(
            self,
            Self::Create | Self::Update | Self::Patch | Self::Delete | Self::DeleteCollection
        )
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What it does.
    pub verb: Verb,
    /// API group; empty for the core group.
    pub group: String,
    /// Plural name of the resource; the path where there is none.
    pub resource: String,
    /// `status`, `finalizers`, `scale`, …
    pub subresource: Option<String>,
    /// Namespace of the object or the collection.
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: Option<String>,
}

impl Target {
    /// Reads a request.
    pub fn parse(method: &Method, uri: &Uri) -> Self {
        let parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
        let (group, rest) = match parts.as_slice() {
            ["api", _version, rest @ ..] => ("", rest),
            ["apis", group, _version, rest @ ..] => (*group, rest),
            _ => return Self::other(uri),
        };
        let (namespace, rest) = match rest {
            // `namespaces` is a resource too, and these are its subresources.
            ["namespaces", _, "status" | "finalize"] | ["namespaces", _] => (None, rest),
            ["namespaces", namespace, rest @ ..] => (Some(*namespace), rest),
            _ => (None, rest),
        };
        let (resource, name, subresource) = match rest {
            [] => return Self::other(uri),
            [resource] => (*resource, None, None),
            [resource, name] => (*resource, Some(*name), None),
            [resource, name, subresource @ ..] => (*resource, Some(*name), Some(subresource.join("/"))),
        };
        let is_watch = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .any(|pair| matches!(pair, "watch" | "watch=true" | "watch=1"));
        let verb = match (method, name) {
            (&Method::GET | &Method::HEAD, _) if is_watch => Verb::Watch,
            (&Method::GET | &Method::HEAD, Some(_)) => Verb::Get,
            (&Method::GET | &Method::HEAD, None) => Verb::List,
            (&Method::POST, _) => Verb::Create,
            (&Method::PUT, _) => Verb::Update,
            (&Method::PATCH, _) => Verb::Patch,
            (&Method::DELETE, Some(_)) => Verb::Delete,
            (&Method::DELETE, None) => Verb::DeleteCollection,
            _ => Verb::Other,
        };
        Self {
            verb,
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        }
    }

    fn other(uri: &Uri) -> Self {
        Self {
            verb: Verb::Other,
            group: String::new(),
            resource: uri.path().to_owned(),
            subresource: None,
            namespace: None,
            name: None,
        }
    }

    /// `runners` or `runners/status`.
    pub fn path(&self) -> String {
        match &self.subresource {
            Some(subresource) => format!("{}/{subresource}", self.resource),
            None => self.resource.clone(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.path())?;
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => write!(f, " {namespace}/{name}"),
            (Some(text), None) | (None, Some(text)) => write!(f, " {text}"),
            (None, None) => Ok(()),
        }
    }
}

/// A call as the proxy saw it.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it came, since the proxy's start.
    pub at: Duration,
    /// What it was about.
    pub target: Target,
    /// Status code that the component got; `None`: the connection was cut, or nobody waited for the answer any more.
    pub status: Option<u16>,
    /// Status code of the API server; `None`: it did not answer, or never saw the call.
    pub upstream: Option<u16>,
    /// Time to the head of the answer, or until it was clear that there is none.
    pub took: Duration,
    /// Length of the request's body.
    pub sent: u64,
    /// Bytes of the answer's body that were passed on so far.
    pub received: u64,
    /// Whether a fault decided the answer.
    pub injected: bool,
}

impl Call {
    /// Whether something was changed, as far as the API server said: it answered 2xx to a write.
    pub fn is_done_write(&self) -> bool {
        self.target.verb.is_write() && self.upstream.is_some_and(is_success)
    }

    /// Whether something was changed and the component was not told so.
    pub fn is_lost_write(&self) -> bool {
        self.is_done_write() && !self.status.is_some_and(is_success)
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(method: &Method, uri: &str) -> String {
        let target = Target::parse(method, &uri.parse().unwrap());
        format!("[{}] {target}", target.group)
    }

    #[test]
    fn calls_are_named_as_the_authorizer_names_them() {
        let arc = "/apis/actions.summerwind.dev/v1alpha1";
        let cases = [
            (
                Method::GET,
                format!("{arc}/runners?limit=500"),
                "[actions.summerwind.dev] list runners",
            ),
            (
                Method::GET,
                format!("{arc}/namespaces/ci/runners?watch=true&resourceVersion=1"),
                "[actions.summerwind.dev] watch runners ci",
            ),
            (
                Method::PUT,
                format!("{arc}/namespaces/ci/runners/a/status?fieldManager=m"),
                "[actions.summerwind.dev] update runners/status ci/a",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/ci/pods/a".to_owned(),
                "[] get pods ci/a",
            ),
            (
                Method::POST,
                "/api/v1/namespaces/ci/pods".to_owned(),
                "[] create pods ci",
            ),
            (
                Method::PATCH,
                "/api/v1/namespaces/ci/pods/a".to_owned(),
                "[] patch pods ci/a",
            ),
            (
                Method::DELETE,
                "/api/v1/namespaces/ci/pods/a".to_owned(),
                "[] delete pods ci/a",
            ),
            (
                Method::DELETE,
                "/api/v1/namespaces/ci/pods".to_owned(),
                "[] deletecollection pods ci",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/ci".to_owned(),
                "[] get namespaces ci",
            ),
            (
                Method::PUT,
                "/api/v1/namespaces/ci/finalize".to_owned(),
                "[] update namespaces/finalize ci",
            ),
            (Method::GET, "/api/v1/nodes/n".to_owned(), "[] get nodes n"),
            (Method::GET, "/apis/apps/v1".to_owned(), "[] other /apis/apps/v1"),
            (Method::GET, "/version".to_owned(), "[] other /version"),
        ];
        for (method, uri, expected) in cases {
            assert_eq!(parsed(&method, &uri), expected, "{method} {uri}");
        }
    }
}
