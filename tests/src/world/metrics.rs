//! The numbers that the processes show.

use anyhow::Result;

use super::{World, processes::WEBHOOK_COMPONENT};

impl World {
    /// The sum of a metric's series that have all these label pairs (`outcome="ok"`), of whole numbers; 0 when there is none.
    pub async fn metric(&self, component: &str, name: &str, labels: &[&str]) -> Result<u64> {
        Ok(sum(&self.metrics(component).await?, name, labels))
    }

    /// The names of the webhook servers, for [`metrics`](Self::metrics).
    pub fn webhook_components(&self) -> Vec<String> {
        let all = self.metrics_urls.keys();
        all.filter(|component| component.starts_with(WEBHOOK_COMPONENT))
            .cloned()
            .collect()
    }
}

fn sum(text: &str, name: &str, labels: &[&str]) -> u64 {
    let series = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    series
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_name_are_added_up() {
        let text =
            "a_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\na_total_more 5\n# a_total 6\nb 7\n";
        assert_eq!(sum(text, "a_total", &[]), 7);
        assert_eq!(sum(text, "a_total", &["y=\"3\""]), 4);
        assert_eq!(sum(text, "b", &[]), 7);
        assert_eq!(sum(text, "c", &[]), 0);
    }
}
