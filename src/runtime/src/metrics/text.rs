//! From `OpenMetrics` text to the classic one.
//!
//! The library writes `OpenMetrics` only. Old scrapers want the sample's full name in `# TYPE`, know neither units, info nor the end mark, and
//! have stored bucket bounds without a trailing `.0`.

/// Rewrites `OpenMetrics` text, as `prometheus-client` emits it, to Prometheus text format 0.0.4.
pub(super) fn classic(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len() + openmetrics.len() / 16);
    // HELP precedes TYPE, and its name depends on the type.
    let mut help: Option<(&str, &str)> = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest.split_once(' ').unwrap_or((rest, "")));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, text)) = help.take().filter(|(helped, _)| *helped == name) {
                out.extend(["# HELP ", name, suffix, " ", text, "\n"]);
            }
            out.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if line.starts_with('#') || line.is_empty() {
            // UNIT and EOF.
        } else {
            push_sample(&mut out, line);
        }
    }
    out
}

/// Appends a sample, with `le="5"` for `le="5.0"`.
fn push_sample(out: &mut String, line: &str) {
    const BOUND: &str = "le=\"";
    let bound = line
        .find("_bucket{")
        .and_then(|at| {
            line.get(at..)
                .and_then(|tail| tail.find(BOUND))
                .map(|offset| at + offset + BOUND.len())
        })
        .and_then(|start| line.split_at_checked(start))
        .and_then(|(head, tail)| tail.split_once('"').map(|(value, rest)| (head, value, rest)));
    match bound {
        Some((head, value, rest)) => {
            out.extend([head, value.strip_suffix(".0").unwrap_or(value), "\"", rest, "\n"]);
        }
        None => out.extend([line, "\n"]),
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
        registry::{Registry, Unit},
    };

    use super::*;

    #[test]
    fn classic_text_carries_the_names_that_old_scrapers_know() {
        let mut registry = Registry::default();
        let requests = Family::<Vec<(&'static str, &'static str)>, Counter>::default();
        registry.register("rest_client_requests", "Requests", requests.clone());
        requests
            .get_or_create(&vec![("code", "200"), ("host", "a:# TYPE b counter")])
            .inc();
        let size: Gauge = Gauge::default();
        registry.register_with_unit("cache", "Size", Unit::Bytes, size.clone());
        size.set(7);
        let took = Histogram::new([0.5, 5.0, 10.0]);
        registry.register("took_seconds", "Time", took.clone());
        took.observe(4.0);
        let mut openmetrics = String::new();
        prometheus_client::encoding::text::encode(&mut openmetrics, &registry).unwrap();

        let expected = "\
# HELP rest_client_requests_total Requests.
# TYPE rest_client_requests_total counter
rest_client_requests_total{code=\"200\",host=\"a:# TYPE b counter\"} 1
# HELP cache_bytes Size.
# TYPE cache_bytes gauge
cache_bytes 7
# HELP took_seconds Time.
# TYPE took_seconds histogram
took_seconds_sum 4.0
took_seconds_count 1
took_seconds_bucket{le=\"0.5\"} 0
took_seconds_bucket{le=\"5\"} 1
took_seconds_bucket{le=\"10\"} 1
took_seconds_bucket{le=\"+Inf\"} 1
";
        assert_eq!(classic(&openmetrics), expected);
    }
}
