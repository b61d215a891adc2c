//! `emit` and `listen`.

use super::node::Kind;
use super::reader::{Fields, Place, Reader};
use super::{Consumption, Correlation, EventFilter, Foreach, Listen, Read, TaskKind, Template, Until, codes};

const STRATEGIES: [&str; 3] = ["one", "all", "any"];

impl Reader<'_> {
    /// `emit.event.with`.
    pub fn emit(&mut self, place: &Place<'_>) -> Option<TaskKind> {
        let fields = self.fields(place, "`emit`", &["event"])?;
        let event = self.required(&fields, "`emit`", "event")?;
        if !self.object(&event, "`event`") {
            return None;
        }
        let with = self.required(&Fields { place: event }, "`event`", "with")?;
        if !self.object(&with, "`with` of an event") {
            return None;
        }
        let attributes = Fields { place: with.clone() };
        let type_ = self.required(&attributes, "an event", "type")?;
        self.string(&type_, "`type` of an event");
        self.template(&with).map(TaskKind::Emit)
    }

    /// `listen` with its `foreach`.
    pub fn listen(&mut self, place: &Place<'_>, task: &Fields<'_>) -> Option<TaskKind> {
        let foreach = match task.get("foreach") {
            Some(p) => Some(self.foreach(&p)?),
            None => None,
        };
        let fields = self.fields(place, "`listen`", &["to", "read"])?;
        let read = fields.get("read").and_then(|p| self.one_of(&p, "`read`", &["data", "envelope", "raw"]));
        let to = self.required(&fields, "`listen`", "to")?;
        let to = self.consumption(&to, true)?;
        let read = match read {
            Some("envelope") => Read::Envelope,
            Some("raw") => Read::Raw,
            _ => Read::Data,
        };
        Some(TaskKind::Listen(Box::new(Listen { to, read, foreach })))
    }

    /// `one`, `all` or `any`. `outermost` is false inside an `until`, which may not hold another.
    fn consumption(&mut self, place: &Place<'_>, outermost: bool) -> Option<Consumption> {
        let fields = self.fields(place, "an event strategy", &["one", "all", "any", "until"])?;
        let strategy = self.exactly_one(place, "an event strategy", &STRATEGIES)?;
        let until = fields.get("until").filter(|p| !matches!(p.node.kind, Kind::Bool(false)));
        if let Some(until) = &until
            && (strategy != "any" || !outermost)
        {
            let message = if outermost {
                format!("`until` cannot stand beside `{strategy}`")
            } else {
                "`until` cannot stand inside another `until`".to_owned()
            };
            self.report_at(codes::UNTIL, until, message).help("`until` belongs to the `any` of a `listen` alone");
            return None;
        }
        let events = fields.get(strategy)?;
        if strategy == "one" {
            return self.event_filter(&events).map(Consumption::One);
        }
        let items = self.list(&events, &format!("`{strategy}`"))?;
        let filters: Vec<_> = items.iter().filter_map(|item| self.event_filter(item)).collect();
        if strategy == "all" {
            return Some(Consumption::All(filters));
        }
        let until = match until {
            None => None,
            Some(p) if matches!(p.node.kind, Kind::Map(_)) => {
                Some(Until::Events(Box::new(self.consumption(&p, false)?)))
            }
            Some(p) => Some(Until::Condition(self.expression(&p, "`until`")?)),
        };
        Some(Consumption::Any { filters, until })
    }

    fn event_filter(&mut self, place: &Place<'_>) -> Option<EventFilter> {
        let fields = self.fields(place, "an event filter", &["with", "correlate"])?;
        let with = self.required(&fields, "an event filter", "with")?;
        if !self.object(&with, "`with` of an event filter") {
            return None;
        }
        let attributes = with.entries();
        if attributes.is_empty() {
            self.report_at(codes::EMPTY_FILTER, &with, "an event filter needs at least one property")
                .help("name the event's `type`; to take every event write `any: []`");
        }
        let with =
            attributes.iter().filter_map(|(key, value)| Some((key.name.clone(), self.template(value)?))).collect();
        let keys = fields.get("correlate").filter(|p| self.object(p, "`correlate`"));
        let correlate = keys.map(|p| p.entries()).unwrap_or_default();
        let correlate = correlate.iter().filter_map(|(key, p)| self.correlation(&key.name, p)).collect();
        Some(EventFilter { with, correlate })
    }

    fn correlation(&mut self, key: &str, place: &Place<'_>) -> Option<Correlation> {
        let what = format!("correlation `{key}`");
        let fields = self.fields(place, &what, &["from", "expect"])?;
        let expect: Option<Template> = fields.get("expect").and_then(|p| self.template(&p));
        let from = self.required(&fields, &what, "from")?;
        Some(Correlation { key: key.to_owned(), from: self.expression(&from, "`from`")?, expect })
    }

    fn foreach(&mut self, place: &Place<'_>) -> Option<Foreach> {
        let fields = self.fields(place, "`foreach`", &["item", "at", "do", "output", "export"])?;
        Some(Foreach {
            item: self.variable(&fields, "item", "item"),
            at: self.variable(&fields, "at", "index"),
            body: fields.get("do").map(|p| self.tasks(&p, "`do`")).unwrap_or_default(),
            output: self.filter(fields.get("output"), "`output`", "as"),
            export: self.filter(fields.get("export"), "`export`", "as"),
        })
    }
}
