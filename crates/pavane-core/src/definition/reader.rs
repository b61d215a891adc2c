//! What every part of the reader works with: places in the document, fields with checked keys, and the diagnostics
//! gathered so far. Knows no construct of the DSL.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Key, Kind, Node};
use super::{Authentication, Diagnostic, DurationSource, ErrorTemplate, Position, Retry, Severity, codes};

/// A node and the JSON pointer that leads to it.
#[derive(Clone)]
pub(super) struct Place<'n> {
    pub node: &'n Node,
    pub reference: String,
}

/// The entries of an object whose keys have been checked.
pub(super) struct Fields<'n> {
    pub place: Place<'n>,
}

/// Definitions of `use` by name. `None`: defined, but broken; reported where it stands.
#[derive(Default)]
pub(super) struct Used {
    pub retries: BTreeMap<String, Option<Retry>>,
    pub errors: BTreeMap<String, Option<ErrorTemplate>>,
    pub timeouts: BTreeMap<String, Option<DurationSource>>,
    pub authentications: BTreeMap<String, Option<Authentication>>,
    pub secrets: Vec<String>,
    pub functions: BTreeSet<String>,
    /// Functions whose own task asks to be compensated.
    pub compensable: BTreeSet<String>,
}

/// The state of one reading.
pub(super) struct Reader<'t> {
    pub file: &'t str,
    pub lines: Vec<&'t str>,
    pub diagnostics: Vec<Diagnostic>,
    pub errors: usize,
    pub used: Used,
    /// The function that is being read, and every call of a function seen inside one.
    pub function: Option<String>,
    pub calls: Vec<(String, String)>,
}

impl<'n> Place<'n> {
    /// The place of a value below this one.
    pub fn child(&self, key: &str, node: &'n Node) -> Place<'n> {
        Place { node, reference: format!("{}/{}", self.reference, key.replace('~', "~0").replace('/', "~1")) }
    }

    /// The property `key` of an object.
    pub fn get(&self, key: &str) -> Option<Place<'n>> {
        self.node.get(key).map(|node| self.child(key, node))
    }

    /// The items of a list; none of anything else.
    pub fn items(&self) -> Vec<Place<'n>> {
        match &self.node.kind {
            Kind::Seq(items) => items.iter().enumerate().map(|(i, node)| self.child(&i.to_string(), node)).collect(),
            _ => Vec::new(),
        }
    }

    /// The properties of an object, with their keys; none of anything else.
    pub fn entries(&self) -> Vec<(&'n Key, Place<'n>)> {
        self.node.entries().iter().map(|(key, node)| (key, self.child(&key.name, node))).collect()
    }

    pub fn text(&self) -> Option<&'n str> {
        match &self.node.kind {
            Kind::Str(text) => Some(text),
            _ => None,
        }
    }
}

impl<'n> Fields<'n> {
    pub fn get(&self, key: &str) -> Option<Place<'n>> {
        self.place.get(key)
    }
}

impl<'t> Reader<'t> {
    pub fn new(file: &'t str, text: &'t str) -> Reader<'t> {
        Reader {
            file,
            lines: text.lines().collect(),
            diagnostics: Vec::new(),
            errors: 0,
            used: Used::default(),
            function: None,
            calls: Vec::new(),
        }
    }

    /// Adds a diagnostic. The caller may give it a reason and a remedy.
    pub fn report(
        &mut self,
        code: &'static str,
        at: Position,
        reference: &str,
        message: impl Into<String>,
    ) -> Reported<'_> {
        let severity = if code.starts_with('W') { Severity::Warning } else { Severity::Error };
        self.errors += usize::from(severity == Severity::Error);
        self.diagnostics.push(Diagnostic {
            code,
            severity,
            file: self.file.to_owned(),
            at,
            reference: reference.to_owned(),
            message: message.into(),
            why: None,
            help: None,
        });
        Reported(self.diagnostics.last_mut())
    }

    /// Adds a diagnostic about the value at `place`.
    pub fn report_at(&mut self, code: &'static str, place: &Place<'_>, message: impl Into<String>) -> Reported<'_> {
        self.report(code, place.node.at, &place.reference, message)
    }

    /// Runs `read` and gives its result only when it reported no error.
    pub fn whole<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let before = self.errors;
        read(self).filter(|_| self.errors == before)
    }

    /// An object with no keys but the allowed ones.
    pub fn fields<'n>(&mut self, place: &Place<'n>, what: &str, allowed: &[&str]) -> Option<Fields<'n>> {
        if !self.object(place, what) {
            return None;
        }
        for (key, value) in place.entries() {
            if !allowed.contains(&key.name.as_str()) {
                let message = format!("{what} has no property `{}`", key.name);
                let help = suggestion(&key.name, allowed.iter().copied())
                    .unwrap_or_else(|| format!("known here: {}", allowed.join(", ")));
                self.report(codes::UNKNOWN_KEY, key.at, &value.reference, message).help(help);
            }
        }
        Some(Fields { place: place.clone() })
    }

    /// Whether `place` is an object; reports it when it is none.
    pub fn object(&mut self, place: &Place<'_>, what: &str) -> bool {
        let is = matches!(place.node.kind, Kind::Map(_));
        if !is {
            self.wrong_type(place, what, "an object");
        }
        is
    }

    /// A list; reports anything else.
    pub fn list<'n>(&mut self, place: &Place<'n>, what: &str) -> Option<Vec<Place<'n>>> {
        if matches!(place.node.kind, Kind::Seq(_)) {
            return Some(place.items());
        }
        self.wrong_type(place, what, "a list");
        None
    }

    /// A list of objects with one key each.
    pub fn named_items<'n>(&mut self, place: &Place<'n>, what: &str) -> Option<Vec<(&'n Key, Place<'n>)>> {
        let mut named: Vec<(&'n Key, Place<'n>)> = Vec::new();
        for item in self.list(place, what)? {
            let mut entries = item.entries();
            match entries.pop() {
                Some(entry) if entries.is_empty() => named.push(entry),
                _ => {
                    let message = format!("an item of {what} must be an object with exactly one key, its name");
                    self.report_at(codes::LIST_ITEM, &item, message)
                        .help("write `- name:` and indent everything else two columns further than the name");
                }
            }
        }
        for (i, (key, value)) in named.iter().enumerate() {
            if named.iter().take(i).any(|(earlier, _)| earlier.name == key.name) {
                let message = format!("`{}` stands twice in {what}", key.name);
                self.report(codes::DUPLICATE_NAME, key.at, &value.reference, message)
                    .help("names are unique within a list, so that `then` can tell them apart: rename one");
            }
        }
        Some(named)
    }

    /// The property `key`; reports its absence.
    pub fn required<'n>(&mut self, fields: &Fields<'n>, what: &str, key: &str) -> Option<Place<'n>> {
        let found = fields.get(key);
        if found.is_none() {
            self.report_at(codes::MISSING, &fields.place, format!("{what} lacks `{key}`"))
                .help(format!("add `{key}:`"));
        }
        found
    }

    /// A text.
    pub fn string<'n>(&mut self, place: &Place<'n>, what: &str) -> Option<&'n str> {
        if place.text().is_none() {
            self.wrong_type(place, what, "a text");
        }
        place.text()
    }

    /// A text out of a fixed set.
    pub fn one_of(&mut self, place: &Place<'_>, what: &str, allowed: &[&'static str]) -> Option<&'static str> {
        let text = self.string(place, what)?;
        let found = allowed.iter().copied().find(|a| *a == text);
        if found.is_none() {
            let help =
                suggestion(text, allowed.iter().copied()).unwrap_or_else(|| format!("allowed: {}", allowed.join(", ")));
            self.report_at(codes::WRONG_VALUE, place, format!("{what} cannot be `{text}`")).help(help);
        }
        found
    }

    /// A boolean, `false` when the property is absent or wrong.
    pub fn flag(&mut self, fields: &Fields<'_>, key: &str, default: bool) -> bool {
        match fields.get(key) {
            None => default,
            Some(place) => match place.node.kind {
                Kind::Bool(value) => value,
                _ => {
                    self.wrong_type(&place, &format!("`{key}`"), "a boolean");
                    default
                }
            },
        }
    }

    /// The definition `name` among those of `use.<section>`.
    pub fn named<T: Clone>(
        &mut self,
        place: &Place<'_>,
        section: &str,
        code: &'static str,
        of: impl Fn(&Used) -> &BTreeMap<String, Option<T>>,
    ) -> Option<T> {
        let name = self.string(place, &format!("a name of `use.{section}`"))?;
        match of(&self.used).get(name) {
            // A broken definition was reported where it stands; without it this use cannot be read either.
            Some(found) => found.clone(),
            None => {
                let help = suggestion(name, of(&self.used).keys().map(String::as_str))
                    .unwrap_or_else(|| format!("define it below `use.{section}`"));
                self.report_at(code, place, format!("`use.{section}` has no `{name}`")).help(help);
                None
            }
        }
    }

    /// Reports alternatives of which none or several are given; gives the one that is.
    pub fn exactly_one<'n>(&mut self, place: &Place<'n>, what: &str, of: &[&'static str]) -> Option<&'static str> {
        let mut given = of.iter().copied().filter(|key| place.node.get(key).is_some());
        match (given.next(), given.next()) {
            (Some(one), None) => Some(one),
            _ => {
                let message = format!("{what} must have exactly one of: {}", of.join(", "));
                self.report_at(codes::ALTERNATIVES, place, message).help("keep one and remove the others");
                None
            }
        }
    }

    pub fn wrong_type(&mut self, place: &Place<'_>, what: &str, wanted: &str) -> Reported<'_> {
        self.report_at(codes::WRONG_TYPE, place, format!("{what} must be {wanted}, not {}", place.node.describe()))
    }
}

/// A diagnostic just added, to be completed.
pub(super) struct Reported<'d>(Option<&'d mut Diagnostic>);

impl Reported<'_> {
    pub fn why(mut self, why: impl Into<String>) -> Self {
        if let Some(diagnostic) = &mut self.0 {
            diagnostic.why = Some(why.into());
        }
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        if let Some(diagnostic) = &mut self.0 {
            diagnostic.help = Some(help.into());
        }
        self
    }
}

/// "Did you mean" for the nearest of `known`, when one is near enough to be a slip of the finger.
pub(super) fn suggestion<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
    let wanted = name.to_lowercase();
    known
        .map(|candidate| (strsim::osa_distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}
