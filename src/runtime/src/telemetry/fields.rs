//! Fields of events and spans, rendered to JSON values as they are recorded.

use std::{error::Error, fmt};

use tracing::field::{Field, Visit};

/// Recorded fields in order; a name occurs once, the later value wins.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    /// The event's message, unescaped.
    pub(super) message: String,
    /// The `logger` or `controller` field, unescaped.
    pub(super) logger: Option<String>,
    entries: Vec<(&'static str, String)>,
}

impl Fields {
    /// Takes over what `outer` has and `self` lacks, in front of what `self` has.
    pub(super) fn inherit(&mut self, outer: &Self) {
        if self.logger.is_none() {
            self.logger.clone_from(&outer.logger);
        }
        let inherited: Vec<_> = outer
            .entries
            .iter()
            .filter(|(name, _)| !self.entries.iter().any(|(own, _)| own == name))
            .cloned()
            .collect();
        self.entries.splice(0..0, inherited);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends `"name":value` pairs, separated by commas.
    pub(super) fn write(&self, out: &mut String) {
        for (index, (name, value)) in self.entries.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            write_json_string(out, name);
            out.push(':');
            out.push_str(value);
        }
    }

    fn set(&mut self, field: &Field, value: String) {
        // Raw identifiers keep their prefix in tracing's metadata, and the keys of the line itself must stay unique in JSON.
        let name = match field.name().trim_start_matches("r#") {
            "severity" => "severity_",
            "ts" => "ts_",
            "stacktrace" => "stacktrace_",
            name => name,
        };
        match self.entries.iter_mut().find(|(own, _)| *own == name) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((name, value)),
        }
    }

    fn set_text(&mut self, field: &Field, text: &str) {
        match field.name() {
            "message" => text.clone_into(&mut self.message),
            // Controllers are named as their metrics label says, loggers without the suffix (spec 02 §2.4, §2.6).
            "logger" | "controller" => {
                self.logger = Some(text.strip_suffix("-controller").unwrap_or(text).to_owned());
            }
            _ => {
                let mut value = String::with_capacity(text.len() + 2);
                write_json_string(&mut value, text);
                self.set(field, value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set_text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set_text(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.set_text(field, &super::chain(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.to_string());
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.set(field, value.to_string());
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.set(field, value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinities and no NaN.
        if value.is_finite() {
            self.set(field, value.to_string());
        } else {
            self.set_text(field, &value.to_string());
        }
    }
}

/// Appends `text` as a JSON string.
pub(super) fn write_json_string(out: &mut String, text: &str) {
    // A string always serialises.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}
