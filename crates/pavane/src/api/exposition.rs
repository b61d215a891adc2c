//! The two text forms in which Prometheus and its kin read numbers: OpenMetrics 1.0, and the older one of Prometheus.
//!
//! They differ in the names of counters, in the end of the page, and in exemplars, which the older one has not.

use std::fmt::{Display, Write};
use std::time::UNIX_EPOCH;

use pavane_watch::Reading;

/// A form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format, 0.0.4.
    Text,
}

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// They only rise.
    Counter,
    /// They rise and fall.
    Gauge,
    /// Distributions.
    Histogram,
}

/// A page of numbers.
pub(super) struct Page {
    form: Form,
    text: String,
}

/// Numbers of one name.
pub(super) struct Family<'p> {
    page: &'p mut Page,
    name: &'p str,
    help: &'p str,
    kind: Kind,
    /// A family without numbers is not told.
    told: bool,
}

impl Form {
    /// What a scraper that sent this `Accept` can read: the older form only if it asks for text and for nothing newer.
    pub fn accepted(accept: &str) -> Form {
        match accept.contains("text/plain") && !accept.contains("openmetrics") {
            true => Form::Text,
            false => Form::OpenMetrics,
        }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Form::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Page {
    pub fn new(form: Form) -> Page {
        Page { form, text: String::new() }
    }

    /// A family. Names of counters are given without `_total`.
    pub fn family<'p>(&'p mut self, name: &'p str, help: &'p str, kind: Kind) -> Family<'p> {
        Family { page: self, name, help, kind, told: false }
    }

    /// A family of one number without labels.
    pub fn one(&mut self, name: &str, help: &str, kind: Kind, value: impl Display) {
        self.family(name, help, kind).sample(&[], value);
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        if self.form == Form::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn line(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        for (index, (label, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            value.chars().for_each(|c| match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
            });
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        // Writing to a text cannot fail.
        let _ = write!(self.text, " {value}");
    }
}

impl Family<'_> {
    /// A number with its labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.tell();
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        self.page.line(self.name, suffix, labels, value);
        self.page.text.push('\n');
    }

    /// A distribution with its labels.
    pub fn histogram(&mut self, labels: &[(&str, &str)], reading: &Reading) {
        self.tell();
        let mut below = 0;
        let bounds = reading.bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, (count, exemplar)) in bounds.zip(&reading.buckets) {
            below += count;
            let labels = [labels, &[("le", bound.as_str())]].concat();
            self.page.line(self.name, "_bucket", &labels, below);
            if let Some(exemplar) = exemplar.filter(|_| self.page.form == Form::OpenMetrics) {
                let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                let (trace, value) = (exemplar.trace, exemplar.value);
                let _ = write!(self.page.text, " # {{trace_id=\"{trace}\"}} {value} {at:.3}");
            }
            self.page.text.push('\n');
        }
        for (suffix, value) in [("_sum", reading.sum), ("_count", below as f64)] {
            self.page.line(self.name, suffix, labels, value);
            self.page.text.push('\n');
        }
    }

    fn tell(&mut self) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let total = if self.kind == Kind::Counter && self.page.form == Form::Text { "_total" } else { "" };
        let (name, help) = (self.name, self.help);
        let _ = writeln!(self.page.text, "# HELP {name}{total} {help}.\n# TYPE {name}{total} {kind}");
    }
}

#[cfg(test)]
mod tests {
    use pavane_watch::{Histogram, TraceId};

    use super::*;

    fn page(form: Form) -> String {
        let mut page = Page::new(form);
        page.one("a", "Things", Kind::Counter, 3);
        page.family("empty", "Nothing", Kind::Gauge);
        page.family("b_ratio", "Parts", Kind::Gauge).sample(&[("x", "a\"b\\c\nd"), ("y", "")], 0.25);
        let histogram = Histogram::new(&[0.5, 1.0]);
        histogram.record(0.75, TraceId::of(0xab));
        histogram.record(7.0, None);
        page.family("c_seconds", "Times", Kind::Histogram).histogram(&[("x", "1")], &histogram.read());
        page.finish()
    }

    #[test]
    fn numbers_are_written_as_openmetrics() {
        let text = page(Form::OpenMetrics);
        let (before, after) = text.split_once(" # {trace_id=\"000000000000000000000000000000ab\"} 0.75 ").unwrap();
        let after = after.split_once('\n').unwrap().1;
        assert_eq!(
            format!("{before}\n{after}"),
            "# HELP a Things.\n# TYPE a counter\na_total 3\n\
             # HELP b_ratio Parts.\n# TYPE b_ratio gauge\nb_ratio{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 0.25\n\
             # HELP c_seconds Times.\n# TYPE c_seconds histogram\n\
             c_seconds_bucket{x=\"1\",le=\"0.5\"} 0\nc_seconds_bucket{x=\"1\",le=\"1\"} 1\n\
             c_seconds_bucket{x=\"1\",le=\"+Inf\"} 2\nc_seconds_sum{x=\"1\"} 7.75\nc_seconds_count{x=\"1\"} 2\n# EOF\n"
        );
    }

    #[test]
    fn the_older_form_has_its_own_names_and_no_exemplars() {
        let text = page(Form::Text);
        assert!(text.starts_with("# HELP a_total Things.\n# TYPE a_total counter\na_total 3\n"), "{text}");
        assert!(!text.contains("trace_id") && !text.contains("EOF"), "{text}");
    }

    #[test]
    fn a_scraper_gets_what_it_can_read() {
        for (accept, form) in [
            ("", Form::OpenMetrics),
            ("*/*", Form::OpenMetrics),
            ("text/plain;version=0.0.4;q=1,*/*;q=0.1", Form::Text),
            ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2", Form::OpenMetrics),
        ] {
            assert_eq!(Form::accepted(accept), form, "{accept}");
        }
    }
}
