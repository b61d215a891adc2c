//! The document as a whole: `document`, `use`, `do` and the order in which they are read. Start here.
//!
//! `use` comes first, because everything else refers to it by name; the diagnostics are put into the order of the
//! text at the end.

use std::collections::BTreeMap;

use super::node::{Kind, Node, parse};
use super::reader::{Fields, Place, Reader};
use super::{Definition, Diagnostic, Document, MAX_TEXT, Mode, Position, Reading, Task, codes};

/// The DSL versions read: every 1.0 patch, since they differ only in additions.
const DSL: &str = "1.0.";
const ROOT: [&str; 8] = ["document", "input", "use", "do", "timeout", "output", "schedule", "evaluate"];
const DOCUMENT: [&str; 8] = ["dsl", "namespace", "name", "version", "title", "summary", "tags", "metadata"];
const USE: [&str; 8] =
    ["authentications", "errors", "extensions", "functions", "retries", "secrets", "timeouts", "catalogs"];

/// See [`super::read`].
pub(super) fn read(file: &str, text: &str) -> Reading {
    let mut reader = Reader::new(file, text);
    let start = Position { line: 1, column: 1 };
    if text.len() > MAX_TEXT {
        reader.lines.clear();
        let message = format!("the text has {} bytes; at most {MAX_TEXT} are read", text.len());
        reader.report(codes::TOO_LARGE, start, "", message).help("split the workflow: use `run: workflow`");
        return Reading { definition: None, diagnostics: reader.diagnostics };
    }
    let definition = match parse(text) {
        Ok(root) => reader.definition(&root),
        Err((at, message)) => {
            let at = if at.line == 0 { start } else { at };
            reader.report(codes::SYNTAX, at, "", message).help("correct the YAML or JSON at this place");
            None
        }
    };
    let mut diagnostics = reader.diagnostics;
    diagnostics.sort_by(|a: &Diagnostic, b| (a.at, a.code, &a.reference).cmp(&(b.at, b.code, &b.reference)));
    Reading { definition, diagnostics }
}

impl Reader<'_> {
    fn definition(&mut self, root: &Node) -> Option<Definition> {
        let place = Place { node: root, reference: String::new() };
        let fields = self.fields(&place, "a workflow", &ROOT)?;
        let document = self.required(&fields, "a workflow", "document").and_then(|p| self.document(&p));
        let functions = fields.get("use").map(|p| self.use_(&p)).unwrap_or_default();
        if let Some(schedule) = fields.get("schedule") {
            self.later::<()>(
                codes::LATER_SCHEDULE,
                &schedule,
                "`schedule`",
                "remove it and start instances through the API or the command line",
            );
        }
        if let Some(evaluate) = fields.get("evaluate") {
            self.evaluate(&evaluate);
        }
        let input = self.filter(fields.get("input"), "`input`", "from");
        let output = self.filter(fields.get("output"), "`output`", "as");
        let timeout = fields.get("timeout").and_then(|p| self.timeout(&p));
        let tasks = self.required(&fields, "a workflow", "do").map(|p| self.tasks(&p, "`do`")).unwrap_or_default();
        Some(Definition {
            file: self.file.to_owned(),
            document: document?,
            input,
            output,
            tasks,
            timeout,
            functions,
            secrets: self.used.secrets.clone(),
            source: root.to_value(),
        })
    }

    /// A name or namespace: a DNS label, as the standard's schema demands.
    pub fn name(&mut self, place: &Place<'_>, what: &str) -> Option<String> {
        let text = self.string(place, what)?;
        let label = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if !label {
            self.report_at(codes::PATTERN, place, format!("{what} cannot be `{text}`"))
                .help("use 1 to 63 letters, digits and hyphens, with no hyphen at either end");
            return None;
        }
        Some(text.to_owned())
    }

    /// A semantic version.
    pub fn version(&mut self, place: &Place<'_>, what: &str) -> Option<String> {
        let Some(text) = place.text() else {
            self.wrong_type(place, what, "a text").help("put it in quotes: '1.0.0'");
            return None;
        };
        if !semantic(text) {
            self.report_at(codes::PATTERN, place, format!("{what} cannot be `{text}`"))
                .help("write a semantic version such as '1.0.0' or '2.1.0-beta.1'");
            return None;
        }
        Some(text.to_owned())
    }

    fn document(&mut self, place: &Place<'_>) -> Option<Document> {
        let fields = self.fields(place, "`document`", &DOCUMENT)?;
        let dsl = self.required(&fields, "`document`", "dsl").and_then(|p| self.dsl(&p));
        let namespace = self.required(&fields, "`document`", "namespace").and_then(|p| self.name(&p, "`namespace`"));
        let name = self.required(&fields, "`document`", "name").and_then(|p| self.name(&p, "`name`"));
        let version = self.required(&fields, "`document`", "version").and_then(|p| self.version(&p, "`version`"));
        for key in ["title", "summary"] {
            if let Some(p) = fields.get(key) {
                self.string(&p, &format!("`{key}`"));
            }
        }
        if let Some(tags) = fields.get("tags") {
            self.object(&tags, "`tags`");
        }
        let mode = self.mode(&fields);
        Some(Document { dsl: dsl?, namespace: namespace?, name: name?, version: version?, mode })
    }

    fn dsl(&mut self, place: &Place<'_>) -> Option<String> {
        let text = self.version(place, "`dsl`")?;
        if !text.starts_with(DSL) {
            self.report_at(codes::DSL_VERSION, place, format!("DSL version {text} is not supported"))
                .help("write the document for version 1.0.3: `dsl: '1.0.3'`");
        }
        Some(text)
    }

    fn mode(&mut self, document: &Fields<'_>) -> Mode {
        let metadata = document.get("metadata").filter(|p| self.object(p, "`metadata`"));
        let pavane = metadata.and_then(|p| p.get("pavane"));
        let fields =
            pavane.and_then(|p| self.fields(&p, "`metadata.pavane` of the document", &["mode", "home", "eventPrefix"]));
        let Some(fields) = fields else { return Mode::default() };
        for key in ["home", "eventPrefix"] {
            if let Some(p) = fields.get(key) {
                self.string(&p, &format!("`{key}`"));
            }
        }
        match fields.get("mode").and_then(|p| self.one_of(&p, "`mode`", &["orchestration", "choreography"])) {
            Some("choreography") => Mode::Choreography,
            _ => Mode::Orchestration,
        }
    }

    fn evaluate(&mut self, place: &Place<'_>) {
        let Some(fields) = self.fields(place, "`evaluate`", &["language", "mode"]) else { return };
        if let Some(language) = fields.get("language")
            && let Some(text) = self.string(&language, "`language`")
            && text != "jq"
        {
            self.report_at(codes::LANGUAGE, &language, format!("expressions in `{text}` cannot be evaluated"))
                .help("write the expressions in jq");
        }
        if let Some(mode) = fields.get("mode")
            && self.one_of(&mode, "`mode`", &["strict", "loose"]) == Some("loose")
        {
            self.later::<()>(
                codes::LATER_LOOSE,
                &mode,
                "`evaluate.mode: loose`",
                "use `strict`, and give expressions that may fail a default with `//` or `?`",
            );
        }
    }

    /// `use`. Policies are kept for the rest of the reading; functions are given back.
    fn use_(&mut self, place: &Place<'_>) -> BTreeMap<String, Task> {
        let Some(fields) = self.fields(place, "`use`", &USE) else { return BTreeMap::new() };
        for (key, code, what, help) in [
            ("extensions", codes::LATER_EXTENSIONS, "`use.extensions`", "write the tasks before and after by hand"),
            ("catalogs", codes::LATER_CATALOG, "`use.catalogs`", "copy the functions below `use.functions`"),
        ] {
            if let Some(p) = fields.get(key) {
                self.later::<()>(code, &p, what, help);
            }
        }
        if let Some(p) = fields.get("secrets") {
            for item in self.list(&p, "`secrets`").unwrap_or_default() {
                let name = self.string(&item, "the name of a secret").map(str::to_owned);
                self.used.secrets.extend(name);
            }
        }
        self.used.authentications = self.section(&fields, "authentications", Self::authentication);
        self.used.errors = self.section(&fields, "errors", Self::error);
        self.used.retries = self.section(&fields, "retries", Self::retry);
        self.used.timeouts = self.section(&fields, "timeouts", Self::timeout);
        fields.get("functions").map(|p| self.functions(&p)).unwrap_or_default()
    }

    fn section<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        read: fn(&mut Self, &Place<'_>) -> Option<T>,
    ) -> BTreeMap<String, Option<T>> {
        let Some(place) = fields.get(key).filter(|p| self.object(p, &format!("`use.{key}`"))) else {
            return BTreeMap::new();
        };
        let mut section = BTreeMap::new();
        for (name, value) in place.entries() {
            // A text would refer to another entry of the same section, which the standard does not allow.
            let found = if matches!(value.node.kind, Kind::Map(_)) {
                self.whole(|reader| read(reader, &value))
            } else {
                self.wrong_type(&value, &format!("an entry of `use.{key}`"), "an object");
                None
            };
            section.insert(name.name.clone(), found);
        }
        section
    }

    fn functions(&mut self, place: &Place<'_>) -> BTreeMap<String, Task> {
        if !self.object(place, "`use.functions`") {
            return BTreeMap::new();
        }
        let entries = place.entries();
        for (key, value) in &entries {
            let compensate = value.get("metadata").and_then(|p| p.get("pavane")).and_then(|p| p.get("compensate"));
            if compensate.is_some() {
                self.used.compensable.insert(key.name.clone());
            }
            self.used.functions.insert(key.name.clone());
        }
        let mut functions = BTreeMap::new();
        for (key, value) in &entries {
            self.function = Some(key.name.clone());
            if let Some(task) = self.task(key, value, &[]) {
                functions.insert(key.name.clone(), task);
            }
        }
        self.function = None;
        for (key, value) in &entries {
            if self.recurses(&key.name) {
                self.report(
                    codes::RECURSION,
                    key.at,
                    &value.reference,
                    format!("function `{}` calls itself, directly or through another", key.name),
                )
                .why("a call of it would never end")
                .help("repeat with `for`, or with `then` to an earlier task");
                functions.remove(&key.name);
            }
        }
        functions
    }

    fn recurses(&self, name: &str) -> bool {
        let mut reached: Vec<&str> = Vec::new();
        let mut open = vec![name];
        while let Some(caller) = open.pop() {
            for (_, callee) in self.calls.iter().filter(|(from, _)| from == caller) {
                if callee == name {
                    return true;
                }
                if !reached.contains(&callee.as_str()) {
                    reached.push(callee);
                    open.push(callee);
                }
            }
        }
        false
    }
}

/// Semantic Versioning 2.0.0.
fn semantic(text: &str) -> bool {
    let identifiers = |part: &str, numbers_are_plain: bool| {
        part.split('.').all(|id| {
            let digits = id.bytes().all(|b| b.is_ascii_digit());
            !id.is_empty()
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !(numbers_are_plain && digits && id.len() > 1 && id.starts_with('0'))
        })
    };
    let (rest, build) = text.split_once('+').map_or((text, None), |(r, b)| (r, Some(b)));
    let (core, before) = rest.split_once('-').map_or((rest, None), |(c, p)| (c, Some(p)));
    core.split('.').count() == 3
        && core.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && identifiers(core, true)
        && before.is_none_or(|p| identifiers(p, true))
        && build.is_none_or(|b| identifiers(b, false))
}
