//! The Kubernetes client: where its configuration comes from, its transport, what it counts.
//!
//! The transport is HTTP/1.1 with as many connections as are needed. Over HTTP/2 a burst of writes holds up the watches on the same
//! connection, and the API server then closes them for being slow (measured with 1,000 creates, 64 at a time: no faster, and all four
//! watches were closed in two of three runs).
//!
//! There is no client-side throttle: API servers protect themselves with priority and fairness, and answer 429 when they must; such an answer
//! is the only one that is repeated here, because the server has not touched the request then.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::metrics::Announce as _;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Builder, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tower::{BoxError, Layer, Service, ServiceBuilder, retry::RetryLayer};

use crate::metrics::VERSION;

/// Time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which a connection counts as dead. Watches get a bookmark about every minute; where they do not, they are resumed from
/// where they were, which costs one request.
const READ_TIMEOUT: Duration = Duration::from_mins(3);
/// Time for the peer to take what we send.
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);
/// TCP probes on a silent connection: the first after this time, and so many unanswered ones that the peer counts as gone.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_RETRIES: u32 = 3;
/// Time to the head of an answer to anything but a watch; the API server gives up after 60 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(65);
/// How often a request that the server refused for overload is repeated, and the longest wait before it is.
const OVERLOAD_RETRIES: u32 = 5;
const LONGEST_OVERLOAD_WAIT: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A kubeconfig that was named cannot be used.
    #[error("could not use the kubeconfig {path}", path = path.display())]
    Kubeconfig {
        /// What was named, by the flag or by `KUBECONFIG`.
        path: PathBuf,
        /// Why.
        #[source]
        source: KubeconfigError,
    },
    /// No kubeconfig is named, this is no pod, and there is no usable `~/.kube/config`.
    #[error(
        "no Kubernetes configuration: not in a cluster ({in_cluster}), and the default kubeconfig is not usable; give --kubeconfig"
    )]
    Nowhere {
        /// Why this is no pod.
        in_cluster: InClusterError,
        /// What is wrong with the default kubeconfig.
        #[source]
        source: KubeconfigError,
    },
    /// The kubeconfig asks for a proxy.
    #[error("the kubeconfig's cluster has a proxy-url, which is not supported: {0}")]
    Proxy(String),
    /// The certificates, the server name or the login of the configuration are unusable.
    #[error("could not set up the connection to {server}")]
    Setup {
        /// URL of the API server.
        server: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Makes aws-lc-rs the process' TLS provider. Call it first in `main`; calling it again does nothing.
pub fn install_crypto_provider() {
    // An error means that a provider is installed already.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// Counts the requests to the API server under the name that client-go uses. Clones share their counters.
#[derive(Clone, Debug, Default)]
pub struct ClientMetrics(Family<RequestLabels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: String,
    method: String,
    host: String,
}

impl ClientMetrics {
    /// Creates `rest_client_requests_total{code,method,host}` in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Requests to the Kubernetes API by status code, method and host";
        registry.announce("rest_client_requests", help, metrics.0.clone());
        metrics
    }

    fn count(&self, code: String, method: &Method, host: &str) {
        let labels = RequestLabels {
            code,
            method: method.to_string(),
            host: host.to_owned(),
        };
        self.0.get_or_create(&labels).inc();
    }
}

/// A client for the cluster that the process belongs to, see [`configuration`].
///
/// # Errors
/// [`ClientError`]; the API server is not contacted yet.
pub async fn kube_client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    kube_client_with(kubeconfig, ClientMetrics::default()).await
}

/// The same with metrics.
///
/// # Errors
/// [`ClientError`].
pub async fn kube_client_with(
    kubeconfig: Option<&Path>,
    metrics: ClientMetrics,
) -> Result<Client, ClientError> {
    connect(configuration(kubeconfig).await?, metrics)
}

/// Finds the configuration in upstream's order: the `--kubeconfig` flag, `KUBECONFIG`, the pod's service account, `~/.kube/config`.
///
/// # Errors
/// [`ClientError`] when the first source that exists is not usable, or none exists.
pub async fn configuration(kubeconfig: Option<&Path>) -> Result<Config, ClientError> {
    let options = KubeConfigOptions::default();
    if let Some(path) = kubeconfig.filter(|path| !path.as_os_str().is_empty()) {
        let failed = |source| ClientError::Kubeconfig {
            path: path.to_owned(),
            source,
        };
        let config = Kubeconfig::read_from(path).map_err(failed)?;
        return from_kubeconfig(config, &options)
            .await
            .map_err(|error| error.or(failed));
    }
    if let Some(paths) = std::env::var_os("KUBECONFIG").filter(|paths| !paths.is_empty()) {
        let failed = |source| ClientError::Kubeconfig {
            path: PathBuf::from(&paths),
            source,
        };
        let config = Kubeconfig::read().map_err(failed)?;
        return from_kubeconfig(config, &options)
            .await
            .map_err(|error| error.or(failed));
    }
    let in_cluster = match Config::incluster() {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    let config = match Kubeconfig::read() {
        Ok(config) => config,
        Err(source) => return Err(ClientError::Nowhere { in_cluster, source }),
    };
    from_kubeconfig(config, &options)
        .await
        .map_err(|error| error.or(|source| ClientError::Nowhere { in_cluster, source }))
}

enum LoadError {
    Proxy(String),
    Kubeconfig(KubeconfigError),
}

impl LoadError {
    fn or(self, wrap: impl FnOnce(KubeconfigError) -> ClientError) -> ClientError {
        match self {
            Self::Proxy(url) => ClientError::Proxy(url),
            Self::Kubeconfig(source) => wrap(source),
        }
    }
}

async fn from_kubeconfig(kubeconfig: Kubeconfig, options: &KubeConfigOptions) -> Result<Config, LoadError> {
    let proxy = kubeconfig
        .clusters
        .iter()
        .filter_map(|cluster| cluster.cluster.as_ref()?.proxy_url.clone());
    let proxies: Vec<String> = proxy.filter(|url| !url.is_empty()).collect();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, options)
        .await
        .map_err(LoadError::Kubeconfig)?;
    if let Some(url) = config.proxy_url.take() {
        // The loader also takes HTTPS_PROXY, which is meant for GitHub and knows no NO_PROXY there. Only a proxy that the cluster's entry
        // names is meant for the API server.
        if proxies
            .iter()
            .any(|proxy| proxy.parse::<http::Uri>().is_ok_and(|proxy| proxy == url))
        {
            return Err(LoadError::Proxy(url.host().unwrap_or_default().to_owned()));
        }
    }
    Ok(config)
}

/// A client for a known configuration.
///
/// # Errors
/// [`ClientError`]; the API server is not contacted yet.
pub fn connect(mut config: Config, metrics: ClientMetrics) -> Result<Client, ClientError> {
    install_crypto_provider();
    let server = config.cluster_url.to_string();
    let host = config
        .cluster_url
        .authority()
        .map(ToString::to_string)
        .unwrap_or_default();
    if let Ok(agent) = HeaderValue::from_str(&format!("muster/{VERSION}")) {
        config.headers.push((header::USER_AGENT, agent));
    }
    let failed = |source| ClientError::Setup {
        server: server.clone(),
        source: Box::new(source),
    };

    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    let tls = config
        .rustls_https_connector_with_connector(tcp)
        .map_err(failed)?;
    let mut connector = TimeoutConnector::new(tls);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_read_timeout(Some(READ_TIMEOUT));
    connector.set_write_timeout(Some(WRITE_TIMEOUT));
    let transport = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .build::<_, Body>(connector);

    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(Overload {
            left: OVERLOAD_RETRIES,
        }))
        .option_layer(config.auth_layer().map_err(failed)?)
        .layer(config.extra_headers_layer().map_err(failed)?)
        .layer(MeterLayer { metrics, host })
        .map_err(BoxError::from)
        .service(transport);
    Ok(Client::new(service, config.default_namespace))
}

/// Repeats what the server refused with 429, after the time it asks for.
#[derive(Clone, Debug)]
struct Overload {
    left: u32,
}

impl<B> tower::retry::Policy<Request<Body>, Response<B>, BoxError> for Overload {
    type Future = tokio::time::Sleep;

    fn retry(
        &mut self,
        _: &mut Request<Body>,
        result: &mut Result<Response<B>, BoxError>,
    ) -> Option<Self::Future> {
        let response = result.as_ref().ok()?;
        if response.status() != StatusCode::TOO_MANY_REQUESTS {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let asked = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Some(tokio::time::sleep(
            Duration::from_secs(asked.unwrap_or(1)).min(LONGEST_OVERLOAD_WAIT),
        ))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        let mut clone = Request::new(request.body().try_clone()?);
        *clone.method_mut() = request.method().clone();
        *clone.uri_mut() = request.uri().clone();
        *clone.version_mut() = request.version();
        *clone.headers_mut() = request.headers().clone();
        *clone.extensions_mut() = request.extensions().clone();
        Some(clone)
    }
}

/// Counts requests and limits the time to their answers.
#[derive(Clone, Debug)]
struct MeterLayer {
    metrics: ClientMetrics,
    host: String,
}

impl<S> Layer<S> for MeterLayer {
    type Service = Meter<S>;

    fn layer(&self, inner: S) -> Meter<S> {
        Meter {
            inner,
            metrics: self.metrics.clone(),
            host: self.host.clone(),
        }
    }
}

#[derive(Clone, Debug)]
struct Meter<S> {
    inner: S,
    metrics: ClientMetrics,
    host: String,
}

impl<S, B> Service<Request<Body>> for Meter<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.method().clone();
        let limit = (!is_watch(request.uri().query().unwrap_or_default())).then_some(ANSWER_TIMEOUT);
        let (metrics, host) = (self.metrics.clone(), self.host.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let result = match limit {
                Some(limit) => match tokio::time::timeout(limit, answer).await {
                    Ok(result) => result.map_err(Into::into),
                    Err(elapsed) => Err(elapsed.into()),
                },
                None => answer.await.map_err(Into::into),
            };
            let code = match &result {
                Ok(response) => response.status().as_str().to_owned(),
                Err(_) => "<error>".to_owned(),
            };
            metrics.count(code, &method, &host);
            result
        })
    }
}

fn is_watch(query: &str) -> bool {
    query
        .split('&')
        .any(|pair| matches!(pair, "watch=true" | "watch=1" | "follow=true"))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use axum::{Router, extract::State, http::HeaderMap, routing::get};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        metrics::{Exposition, Form},
        serve::{Limits, serve},
    };

    #[test]
    fn watches_are_recognised() {
        assert!(is_watch("limit=5&watch=true"));
        assert!(is_watch("watch=1"));
        assert!(!is_watch("labelSelector=watch%3Dtrue"));
        assert!(!is_watch(""));
    }

    #[tokio::test]
    async fn requests_are_counted_and_repeated_only_after_429() {
        async fn answer(State(calls): State<Arc<AtomicU32>>, headers: HeaderMap) -> axum::response::Response {
            use axum::response::IntoResponse as _;
            assert_eq!(headers[header::USER_AGENT], format!("muster/{VERSION}"));
            match calls.fetch_add(1, Ordering::SeqCst) {
                0 => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "0")], "{}").into_response(),
                1 => axum::Json(
                    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}),
                )
                .into_response(),
                _ => (StatusCode::SERVICE_UNAVAILABLE, "{}").into_response(),
            }
        }
        let calls = Arc::new(AtomicU32::new(0));
        let router = Router::new()
            .route("/api/v1/namespaces/default/configmaps/a", get(answer))
            .with_state(Arc::clone(&calls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router, Limits::default(), shutdown.clone()));

        let mut registry = Registry::default();
        let metrics = ClientMetrics::register(&mut registry);
        let config = Config::new(format!("http://{address}").parse().unwrap());
        let maps: Api<ConfigMap> = Api::default_namespaced(connect(config, metrics).unwrap());
        maps.get("a").await.unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        assert!(maps.get("a").await.is_err());
        assert_eq!(
            calls.load(Ordering::SeqCst),
            3,
            "503 is not repeated: the server may have begun"
        );

        shutdown.cancel();
        server.await.unwrap();
        assert!(maps.get("a").await.is_err());
        let text = Exposition::new(registry).encode(Form::Classic).unwrap();
        for (code, count) in [("429", 1), ("200", 1), ("503", 1), ("<error>", 1)] {
            let line = format!(
                "rest_client_requests_total{{code=\"{code}\",method=\"GET\",host=\"{address}\"}} {count}"
            );
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }

    #[tokio::test]
    async fn a_named_kubeconfig_that_is_unusable_is_an_error() {
        let missing = Path::new("/nonexistent/kubeconfig");
        let error = configuration(Some(missing)).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/kubeconfig"), "{error}");
    }

    #[tokio::test]
    async fn a_proxy_in_the_kubeconfig_is_refused_with_a_clear_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let kubeconfig = |proxy: &str| {
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: k, cluster: {{server: \"https://127.0.0.1:6443\"{proxy}}}}}]\n\
                 users: [{{name: u, user: {{token: t}}}}]\ncontexts: [{{name: c, context: {{cluster: k, user: u, namespace: ns}}}}]\n"
            )
        };
        std::fs::write(&path, kubeconfig("")).unwrap();
        let config = configuration(Some(&path)).await.unwrap();
        assert_eq!(config.cluster_url.to_string(), "https://127.0.0.1:6443/");
        assert_eq!(config.default_namespace, "ns");
        assert!(config.proxy_url.is_none());
        connect(config, ClientMetrics::default()).unwrap();
        std::fs::write(
            &path,
            kubeconfig(", proxy-url: \"http://user:sentinel@proxy:3128\""),
        )
        .unwrap();
        let error = configuration(Some(&path)).await.unwrap_err();
        assert!(
            matches!(error, ClientError::Proxy(_)) && !error.to_string().contains("sentinel"),
            "{error}"
        );
    }
}
