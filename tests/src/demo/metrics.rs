//! Numbers from metrics endpoints in the text format.

use crate::world::World;

/// Verbs of the API server that write.
const WRITES: [&str; 6] = ["APPLY", "DELETE", "DELETECOLLECTION", "PATCH", "POST", "PUT"];
/// What costs the same whether there is work or not, or writes nothing.
const LEFT_OUT: [&str; 5] = [
    "leases",
    "selfsubjectaccessreviews",
    "subjectaccessreviews",
    "tokenreviews",
    "serviceaccounts",
];

/// The value of the first line of a metric, whatever its labels.
pub(crate) fn value(text: &str, name: &str) -> Option<f64> {
    text.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with([' ', '{']))
        .find_map(|rest| rest.rsplit(' ').next()?.parse().ok())
}

/// How many writes the API server has served so far, by its own count. `None` where it does not say.
pub(super) async fn api_writes(world: &World) -> Option<u64> {
    // On somebody's cluster, others write too.
    world.plane()?;
    let request = http::Request::get("/metrics").body(Vec::new()).ok()?;
    let text = world.client.request_text(request).await.ok()?;
    Some(count_writes(&text))
}

fn count_writes(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.strip_prefix("apiserver_request_total{"))
        .filter_map(|line| {
            let (labels, count) = line.rsplit_once("} ")?;
            let is = |label: &str, values: &[&str]| {
                values
                    .iter()
                    .any(|value| labels.contains(&format!("{label}=\"{value}\"")))
            };
            let counts = is("verb", &WRITES) && !is("resource", &LEFT_OUT);
            // Large numbers are written as 1.2e+06.
            let count: f64 = count.parse().ok()?;
            counts.then(|| format!("{count:.0}").parse::<u64>().ok())?
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_without_leases_and_reads() {
        let text = "# HELP apiserver_request_total x\n\
            apiserver_request_total{code=\"201\",resource=\"pods\",verb=\"POST\",version=\"v1\"} 12\n\
            apiserver_request_total{code=\"200\",resource=\"pods\",verb=\"GET\",version=\"v1\"} 7\n\
            apiserver_request_total{code=\"200\",resource=\"leases\",verb=\"PUT\",version=\"v1\"} 5\n\
            apiserver_request_total{code=\"200\",resource=\"runners\",verb=\"PATCH\",version=\"v1\"} 1.5e+03\n";
        assert_eq!(count_writes(text), 1512);
        assert_eq!(value("a 1\nab{x=\"y z\"} 2.5\n", "ab"), Some(2.5));
        assert_eq!(value("a_total 1\n", "a"), None);
    }
}
