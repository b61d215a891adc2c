//! Event consumption strategies: `one`, `all`, `any` with `until`; filters and correlation.

use super::*;
use crate::definition::{Consumption, Correlation, EventFilter, Read, Until};

impl<'n> Reader<'n> {
    /// `outermost`: only there may `any` have an `until`.
    pub(super) fn consumption(&mut self, node: &'n Node, path: &str, outermost: bool) -> Option<Consumption> {
        let entries = self.map(node, path, &["one", "all", "any", "until"])?;
        let kinds: Vec<&str> = entries
            .iter()
            .map(|(key, _)| key.name.as_str())
            .filter(|name| ["one", "all", "any"].contains(name))
            .collect();
        let [kind] = kinds.as_slice() else {
            let message = "an event strategy is exactly one of one, all, any".to_owned();
            self.report("D018", node.at, path, message, None);
            return None;
        };
        if let Some(until) = node.get("until")
            && (*kind != "any" || !outermost)
        {
            let message = "`until` stands beside an outermost `any` only".to_owned();
            self.report("D018", until.at, &child(path, "until"), message, None);
        }
        let inner = node.get(kind)?;
        let at = child(path, kind);
        Some(match *kind {
            "one" => Consumption::One(self.event_filter(inner, &at)?),
            "all" => Consumption::All(self.event_filters(inner, &at)?),
            _ => Consumption::Any {
                filters: self.event_filters(inner, &at)?,
                until: match node.get("until") {
                    Some(until) => Some(self.until(until, &child(path, "until"))?),
                    None => None,
                },
            },
        })
    }

    fn until(&mut self, node: &'n Node, path: &str) -> Option<Until> {
        match &node.kind {
            Kind::Map(_) => self.consumption(node, path, false).map(|to| Until::Events(Box::new(to))),
            _ => self.expression(node, path).map(Until::Condition),
        }
    }

    fn event_filters(&mut self, node: &'n Node, path: &str) -> Option<Vec<EventFilter>> {
        let items = self.list(node, path)?;
        let filters: Vec<Option<EventFilter>> =
            items.iter().enumerate().map(|(i, item)| self.event_filter(item, &format!("{path}/{i}"))).collect();
        filters.into_iter().collect()
    }

    fn event_filter(&mut self, node: &'n Node, path: &str) -> Option<EventFilter> {
        self.map(node, path, &["with", "correlate"])?;
        let with = self.required(node, path, "with")?;
        let at = child(path, "with");
        let entries = self.any_map(with, &at)?;
        if entries.is_empty() {
            let message = "an event filter names at least one attribute".to_owned();
            self.report("D018", with.at, &at, message, Some("give `type`, for example".into()));
        }
        let mut attributes = Vec::new();
        for (key, value) in entries {
            attributes.push((key.name.clone(), self.template(value, &child(&at, &key.name))?));
        }
        let mut correlate = Vec::new();
        if let Some(node) = node.get("correlate") {
            let path = child(path, "correlate");
            for (key, value) in self.any_map(node, &path)? {
                correlate.extend(self.correlation(&key.name, value, &child(&path, &key.name)));
            }
        }
        Some(EventFilter { with: attributes, correlate })
    }

    fn correlation(&mut self, key: &str, node: &'n Node, path: &str) -> Option<Correlation> {
        self.map(node, path, &["from", "expect"])?;
        Some(Correlation {
            key: key.to_owned(),
            from: self.required(node, path, "from").and_then(|n| self.expression(n, &child(path, "from")))?,
            expect: node.get("expect").and_then(|n| self.template(n, &child(path, "expect"))),
        })
    }

    pub(super) fn read_mode(&mut self, node: &'n Node, path: &str) -> Option<Read> {
        self.word(node, path, &[("data", Read::Data), ("envelope", Read::Envelope), ("raw", Read::Raw)])
    }
}
