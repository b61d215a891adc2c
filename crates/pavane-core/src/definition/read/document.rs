//! The document itself: `document`, `use`, `input`, `output`, `timeout`, `do`.

use super::*;
use crate::definition::{Compensate, Document, DurationSource, Mode, Task, TaskKind};

const ROOT: &[&str] = &["document", "input", "use", "do", "timeout", "output", "schedule", "evaluate"];
const USE: &[&str] =
    &["authentications", "errors", "extensions", "functions", "retries", "secrets", "timeouts", "catalogs"];

impl<'n> Reader<'n> {
    pub(super) fn document(&mut self, root: &'n Node) -> Option<Definition> {
        self.map(root, "", ROOT)?;
        let head = self.required(root, "", "document").and_then(|node| self.head(node));
        self.collect_uses(root);
        self.check_evaluate(root);
        if let Some(schedule) = root.get("schedule") {
            self.later("D911", schedule.at, "/schedule", "`schedule`");
        }
        let functions = self.functions();
        let tasks = self.required(root, "", "do").map(|node| self.tasks(node, "/do")).unwrap_or_default();
        self.check_compensations(&functions, &tasks);
        let definition = Definition {
            file: self.file.to_owned(),
            document: head?,
            input: self.filter(root, "", "input", "from"),
            output: self.filter(root, "", "output", "as"),
            tasks,
            timeout: root.get("timeout").and_then(|node| self.timeout(node, "/timeout")),
            functions,
            secrets: self.uses.secrets.clone(),
            source: root.value(),
        };
        Some(definition)
    }

    fn head(&mut self, node: &'n Node) -> Option<Document> {
        let path = "/document";
        self.map(node, path, &["dsl", "namespace", "name", "version", "title", "summary", "tags", "metadata"])?;
        let dsl = self.required_text(node, path, "dsl");
        if let (Some(dsl), Some(at)) = (&dsl, node.get("dsl"))
            && !(dsl.starts_with("1.0.") || dsl == "1.0")
        {
            let help = Some("write `dsl: '1.0.3'`".to_owned());
            self.report(
                "D005",
                at.at,
                "/document/dsl",
                format!("DSL {dsl} is not understood: this is a runtime of 1.0.x"),
                help,
            );
        }
        let namespace = self.name(node, path, "namespace");
        let name = self.name(node, path, "name");
        let version = self.required_text(node, path, "version");
        if let (Some(version), Some(at)) = (&version, node.get("version"))
            && !is_semantic_version(version)
        {
            let help = Some("write for example '1.0.0'".to_owned());
            self.report("D005", at.at, "/document/version", format!("`{version}` is no semantic version"), help);
        }
        let mode = self.settings(node, path);
        Some(Document { dsl: dsl?, namespace: namespace?, name: name?, version: version?, mode })
    }

    /// A DNS label: letters, digits and hyphens, at most 63.
    fn name(&mut self, node: &'n Node, path: &str, key: &str) -> Option<String> {
        let name = self.required_text(node, path, key)?;
        let inner = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if name.is_empty() || name.len() > 63 || !inner || name.starts_with('-') || name.ends_with('-') {
            let help = "use letters, digits and inner hyphens, at most 63 characters".to_owned();
            let at = node.get(key).map_or(node.at, |n| n.at);
            self.report("D005", at, &child(path, key), format!("`{name}` cannot be a {key}"), Some(help));
        }
        Some(name)
    }

    fn settings(&mut self, node: &'n Node, path: &str) -> Mode {
        let Some(pavane) = node.get("metadata").and_then(|m| m.get("pavane")) else { return Mode::default() };
        let path = format!("{path}/metadata/pavane");
        if self.map(pavane, &path, &["mode", "home", "eventPrefix"]).is_none() {
            return Mode::default();
        }
        let _ = (self.optional_text(pavane, &path, "home"), self.optional_text(pavane, &path, "eventPrefix"));
        let words = [("orchestration", Mode::Orchestration), ("choreography", Mode::Choreography)];
        pavane.get("mode").and_then(|mode| self.word(mode, &child(&path, "mode"), &words)).unwrap_or_default()
    }

    fn check_evaluate(&mut self, root: &'n Node) {
        let Some(evaluate) = root.get("evaluate") else { return };
        if self.map(evaluate, "/evaluate", &["language", "mode"]).is_none() {
            return;
        }
        if let Some(language) = self.optional_text(evaluate, "/evaluate", "language")
            && language != "jq"
        {
            let at = evaluate.get("language").map_or(evaluate.at, |n| n.at);
            let message = format!("the expression language `{language}` is not known");
            self.report("D017", at, "/evaluate/language", message, Some("use jq, the standard's own".into()));
        }
        if let Some(mode) = self.optional_text(evaluate, "/evaluate", "mode")
            && mode != "strict"
        {
            let at = evaluate.get("mode").map_or(evaluate.at, |n| n.at);
            let message = format!("expressions are evaluated strictly; the mode `{mode}` is not available");
            self.report("D005", at, "/evaluate/mode", message, Some("write `${ }` around every expression".into()));
        }
    }

    /// Takes down what `use` defines, so that names can be resolved wherever they stand.
    fn collect_uses(&mut self, root: &'n Node) {
        let Some(uses) = root.get("use") else { return };
        let Some(entries) = self.map(uses, "/use", USE) else { return };
        for (key, node) in entries {
            let path = child("/use", &key.name);
            match key.name.as_str() {
                "extensions" => self.later("D908", key.at, &path, "`use.extensions`"),
                "catalogs" => self.later("D909", key.at, &path, "`use.catalogs`"),
                "secrets" => {
                    for (index, secret) in self.list(node, &path).unwrap_or_default().iter().enumerate() {
                        if let Some(name) = self.text(secret, &format!("{path}/{index}")) {
                            self.uses.secrets.push(name.to_owned());
                        }
                    }
                }
                "functions" => {
                    let functions = self.any_map(node, &path).unwrap_or_default();
                    self.uses.functions = functions.iter().map(|(k, n)| (k.name.as_str(), n)).collect();
                }
                kind => {
                    let entries = self.any_map(node, &path).unwrap_or_default();
                    let defined = entries.iter().map(|(k, n)| (k.name.as_str(), (n, child(&path, &k.name)))).collect();
                    match kind {
                        "retries" => self.uses.retries = defined,
                        "errors" => self.uses.errors = defined,
                        "timeouts" => self.uses.timeouts = defined,
                        "authentications" => self.uses.authentications = defined,
                        _ => {}
                    }
                }
            }
        }
        self.check_definitions();
    }

    /// What is defined under `use` must be right even when nothing refers to it.
    fn check_definitions(&mut self) {
        for (node, path) in self.uses.retries.values().cloned().collect::<Vec<_>>() {
            self.retry(node, &path);
        }
        for (node, path) in self.uses.errors.values().cloned().collect::<Vec<_>>() {
            self.error(node, &path);
        }
        for (node, path) in self.uses.timeouts.values().cloned().collect::<Vec<_>>() {
            self.timeout(node, &path);
        }
        for (node, path) in self.uses.authentications.values().cloned().collect::<Vec<_>>() {
            self.authentication(node, &path);
        }
        // The references would report the same again.
        let mut seen = std::collections::BTreeSet::new();
        self.problems.retain(|d| seen.insert((d.code, d.at, d.reference.clone())));
    }

    fn functions(&mut self) -> BTreeMap<String, Task> {
        let functions = self.uses.functions.clone();
        let mut read = BTreeMap::new();
        for (name, node) in functions {
            let path = child("/use/functions", name);
            if let Some(task) = self.task(name, node, node.at, &path, &[]) {
                read.insert(name.to_owned(), task);
            }
        }
        self.check_recursion(&read);
        read
    }

    /// What undoes a task cannot need undoing itself: a rollback must end.
    fn check_compensations(&mut self, functions: &BTreeMap<String, Task>, tasks: &[Task]) {
        let mut undone_by = Vec::new();
        compensations(tasks, &mut undone_by);
        for task in functions.values() {
            compensations(std::slice::from_ref(task), &mut undone_by);
        }
        for (name, task) in functions {
            if let Some(Compensate { at, .. }) = &task.pavane.compensate
                && undone_by.contains(name)
            {
                let message = format!("the function `{name}` is a compensation and cannot have one itself");
                self.report("D016", *at, &task.reference, message, None);
            }
        }
    }

    fn check_recursion(&mut self, functions: &BTreeMap<String, Task>) {
        for (name, task) in functions {
            let mut reached = Vec::new();
            calls(std::slice::from_ref(task), &mut reached);
            let mut next = 0;
            while let Some(called) = reached.get(next).cloned() {
                if let Some(task) = functions.get(&called) {
                    let mut more = Vec::new();
                    calls(std::slice::from_ref(task), &mut more);
                    for name in more {
                        if !reached.contains(&name) {
                            reached.push(name);
                        }
                    }
                }
                next += 1;
            }
            if reached.contains(name) {
                let message = format!("the function `{name}` calls itself");
                let help = "a function is worked into each of its calls: use a loop, or a sub-workflow".to_owned();
                self.report("D015", task.at, &task.reference, message, Some(help));
            }
        }
    }

    /// A timeout: its definition, or the name of one.
    pub(super) fn timeout(&mut self, node: &'n Node, path: &str) -> Option<DurationSource> {
        if let Some(name) = node.text() {
            return match self.uses.timeouts.get(name).cloned() {
                Some((defined, path)) => self.timeout_definition(defined, &path),
                None => {
                    let known = self.uses.timeouts.keys().copied().collect();
                    self.unknown_name(node, path, "timeouts", name, known);
                    None
                }
            };
        }
        self.timeout_definition(node, path)
    }

    fn timeout_definition(&mut self, node: &'n Node, path: &str) -> Option<DurationSource> {
        self.map(node, path, &["after"])?;
        let after = self.required(node, path, "after")?;
        self.duration(after, &child(path, "after"))
    }
}

/// Functions that tasks call or are undone by.
fn calls(tasks: &[Task], out: &mut Vec<String>) {
    compensations(tasks, out);
    each_task(tasks, &mut |task| {
        if let TaskKind::Function { name, .. } = &task.kind {
            out.push(name.clone());
        }
    });
}

/// Functions that undo tasks.
fn compensations(tasks: &[Task], out: &mut Vec<String>) {
    each_task(tasks, &mut |task| out.extend(task.pavane.compensate.iter().map(|undo| undo.function.clone())));
}

/// Shows every task of a list, at any depth.
fn each_task<'t>(tasks: &'t [Task], see: &mut dyn FnMut(&'t Task)) {
    for task in tasks {
        see(task);
        match &task.kind {
            TaskKind::Do(body) | TaskKind::Fork { branches: body, .. } => each_task(body, see),
            TaskKind::For(each) => each_task(&each.body, see),
            TaskKind::Try(attempt) => {
                each_task(&attempt.body, see);
                each_task(attempt.handler.as_deref().unwrap_or_default(), see);
            }
            TaskKind::Listen(listen) => {
                if let Some(foreach) = &listen.foreach {
                    each_task(&foreach.body, see);
                }
            }
            _ => {}
        }
    }
}

/// `major.minor.patch`, with the suffixes of SemVer 2.0.
fn is_semantic_version(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = core.split('.').collect();
    let number = |part: &&str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part.len() == 1 || !part.starts_with('0'))
    };
    let suffix = &text[core.len()..];
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-+.".contains(&b);
    parts.len() == 3 && parts.iter().all(number) && suffix.bytes().all(plain) && !suffix.ends_with(['-', '+', '.'])
}
