//! What `/metrics` shows: one registry per process, built at start and passed down, and its two text forms.
//!
//! Scrapers that ask for `OpenMetrics` get it; all others get the classic text that ARC's `/metrics` speaks, with the same names.

mod process;
mod reconcile;
mod text;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{gauge::ConstGauge, info::Info},
    registry::Metric,
};

pub use prometheus_client::registry::Registry;

pub use self::reconcile::ReconcileMetrics;

/// Version of the running program, as `muster_build_info` and the user agent show it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A registry with what every process shows: `muster_build_info{component,version}` and the standard `process_*` metrics.
pub fn new_registry(component: &'static str) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(BuildInfo(component)));
    registry.register_collector(Box::new(process::Process));
    registry
}

/// Registers families so that their name, type and help are shown from the start.
///
/// The library leaves a family out until it has a series. Then a dashboard cannot tell a name that is wrong from an event that has not happened
/// yet, and neither can a test.
pub trait Announce {
    /// Registers a family of metrics.
    fn announce(&mut self, name: impl Into<String>, help: &str, family: impl Metric);
}

impl Announce for Registry {
    fn announce(&mut self, name: impl Into<String>, help: &str, family: impl Metric) {
        self.register_collector(Box::new(Announced {
            name: name.into(),
            // As the library ends the help of what it registers.
            help: format!("{help}."),
            family,
        }));
    }
}

#[derive(Debug)]
struct Announced<M> {
    name: String,
    help: String,
    family: M,
}

impl<M: Metric> Collector for Announced<M> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let kind = self.family.metric_type();
        let metric = encoder.encode_descriptor(&self.name, &self.help, None, kind)?;
        self.family.encode(metric)
    }
}

/// A finished registry, ready to be shown. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Exposition(Arc<Registry>);

impl Exposition {
    /// Seals the registry: nothing can be registered any more.
    pub fn new(registry: Registry) -> Self {
        Self(Arc::new(registry))
    }

    /// The present values as text.
    ///
    /// # Errors
    /// When a metric cannot be formatted.
    pub fn encode(&self, form: Form) -> Result<String, std::fmt::Error> {
        let mut openmetrics = String::with_capacity(16 << 10);
        prometheus_client::encoding::text::encode(&mut openmetrics, &self.0)?;
        Ok(match form {
            Form::OpenMetrics => openmetrics,
            Form::Classic => text::classic(&openmetrics),
        })
    }
}

/// The two text forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// Prometheus text format 0.0.4.
    Classic,
}

impl Form {
    /// What a scraper asks for with its `Accept` headers: `OpenMetrics` if it names it and prefers it to plain text.
    pub fn negotiate(headers: &HeaderMap) -> Self {
        let (mut openmetrics, mut plain) = (0.0_f32, 0.0_f32);
        for value in headers.get_all(header::ACCEPT) {
            for range in value.to_str().unwrap_or_default().split(',') {
                let mut parts = range.split(';').map(str::trim);
                let media = parts.next().unwrap_or_default().to_ascii_lowercase();
                let quality = parts
                    .filter_map(|parameter| parameter.strip_prefix("q="))
                    .find_map(|q| q.trim().parse::<f32>().ok())
                    .unwrap_or(1.0);
                match media.as_str() {
                    "application/openmetrics-text" => openmetrics = openmetrics.max(quality),
                    "text/plain" | "text/*" => plain = plain.max(quality),
                    _ => {}
                }
            }
        }
        if openmetrics > 0.0 && openmetrics >= plain {
            Self::OpenMetrics
        } else {
            Self::Classic
        }
    }

    /// Value of the `Content-Type` header.
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        })
    }
}

#[derive(Debug)]
struct BuildInfo(&'static str);

impl Collector for BuildInfo {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let info = Info::new([("component", self.0), ("version", VERSION)].to_vec());
        let metric = encoder.encode_descriptor(
            "muster_build",
            "The program that runs here",
            None,
            info.metric_type(),
        )?;
        info.encode(metric)
    }
}

/// Writes a gauge without labels from within a collector.
fn encode_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: f64,
) -> Result<(), std::fmt::Error> {
    let gauge = ConstGauge::new(value);
    let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
    gauge.encode(metric)
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::{counter::Counter, family::Family};

    use super::*;

    fn negotiated(accept: &[&'static str]) -> Form {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(header::ACCEPT, HeaderValue::from_static(value));
        }
        Form::negotiate(&headers)
    }

    #[test]
    fn openmetrics_is_for_those_who_ask() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(negotiated(&[prometheus]), Form::OpenMetrics);
        assert_eq!(negotiated(&["application/openmetrics-text"]), Form::OpenMetrics);
        assert_eq!(
            negotiated(&["text/plain;version=0.0.4", "Application/OpenMetrics-Text"]),
            Form::OpenMetrics
        );
        assert_eq!(negotiated(&[]), Form::Classic);
        assert_eq!(negotiated(&["*/*"]), Form::Classic);
        assert_eq!(negotiated(&["text/plain"]), Form::Classic);
        assert_eq!(
            negotiated(&["text/plain;q=0.9,application/openmetrics-text;q=0.1"]),
            Form::Classic
        );
        assert_eq!(negotiated(&["application/openmetrics-text;q=0"]), Form::Classic);
    }

    #[test]
    fn a_family_is_announced_before_its_first_series() {
        let family = Family::<Vec<(&'static str, &'static str)>, Counter>::default();
        let mut registry = Registry::default();
        registry
            .sub_registry_with_prefix("some")
            .announce("things", "Things that happened", family.clone());
        let exposition = Exposition::new(registry);
        let announced = "# HELP some_things_total Things that happened.\n# TYPE some_things_total counter\n";
        assert_eq!(exposition.encode(Form::Classic).unwrap(), announced);
        family.get_or_create(&vec![("kind", "good")]).inc();
        assert_eq!(
            exposition.encode(Form::Classic).unwrap(),
            format!("{announced}some_things_total{{kind=\"good\"}} 1\n")
        );
    }

    #[test]
    fn every_process_shows_its_build_and_itself() {
        let exposition = Exposition::new(new_registry("manager"));
        let text = exposition.encode(Form::OpenMetrics).unwrap();
        assert!(
            text.contains(&format!(
                "muster_build_info{{component=\"manager\",version=\"{VERSION}\"}} 1\n"
            )),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
        let text = exposition.encode(Form::Classic).unwrap();
        assert!(text.contains("# TYPE muster_build_info gauge\n"), "{text}");
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
        ] {
            assert!(text.contains(&format!("\n{name} ")), "{name}: {text}");
        }
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    }
}
