//! Tasks: what all kinds share, and the kinds that are no calls.

use super::*;
use crate::definition::{
    Case, Compensate, ErrorTemplate, For, Listen, RunWorkflow, Task, TaskKind, TaskSettings, Template, Then, Try,
};
use crate::value::Value;

/// Keys every task may have.
const SHARED: &[&str] = &["if", "input", "output", "export", "timeout", "then", "metadata"];
/// Keys that say what a task does, and the keys that may stand beside each.
const KINDS: &[(&str, &[&str])] = &[
    ("call", &["with"]),
    ("do", &[]),
    ("emit", &[]),
    ("for", &["while", "do"]),
    ("fork", &[]),
    ("listen", &["foreach"]),
    ("raise", &[]),
    ("run", &[]),
    ("set", &[]),
    ("switch", &[]),
    ("try", &["catch"]),
    ("wait", &[]),
];
const DIRECTIVES: [&str; 3] = ["continue", "exit", "end"];

impl<'n> Reader<'n> {
    /// A list of tasks. Broken tasks are left out, but their names can be jumped to.
    pub(super) fn tasks(&mut self, node: &'n Node, path: &str) -> Vec<Task> {
        self.task_list(node, path, true)
    }

    /// `jumps`: whether `then` may name a sibling; branches of a fork have none.
    fn task_list(&mut self, node: &'n Node, path: &str, jumps: bool) -> Vec<Task> {
        let items = self.list(node, path).unwrap_or_default();
        let named: Vec<Option<(&'n Key, &'n Node)>> =
            items.iter().enumerate().map(|(index, item)| self.item(item, &format!("{path}/{index}"))).collect();
        let names: Vec<&str> = named.iter().flatten().map(|(key, _)| key.name.as_str()).collect();
        let mut tasks = Vec::new();
        for (index, entry) in named.iter().enumerate() {
            let Some((key, node)) = entry else { continue };
            let path = child(&format!("{path}/{index}"), &key.name);
            self.check_name(key, &path, &names, index, &named);
            tasks.extend(self.task(&key.name, node, key.at, &path, if jumps { &names } else { &[] }));
        }
        tasks
    }

    fn item(&mut self, item: &'n Node, path: &str) -> Option<(&'n Key, &'n Node)> {
        match self.any_map(item, path)? {
            [(key, node)] => Some((key, node)),
            entries => {
                let message = format!("a task is one name with its definition; here are {} keys", entries.len());
                let help = "indent what belongs to a task below its name, and begin each task with `- `".to_owned();
                self.report("D007", item.at, path, message, Some(help));
                None
            }
        }
    }

    fn check_name(
        &mut self,
        key: &Key,
        path: &str,
        names: &[&str],
        index: usize,
        named: &[Option<(&'n Key, &'n Node)>],
    ) {
        if DIRECTIVES.contains(&key.name.as_str()) {
            let message = format!("`{}` is a flow directive: nothing could jump to a task of that name", key.name);
            self.report("D012", key.at, path, message, Some("give the task another name".into()));
        }
        let before = named.iter().take(index).flatten().find(|(other, _)| other.name == key.name);
        if let Some((first, _)) = before
            && names.contains(&key.name.as_str())
        {
            let message = format!("there is another task `{}` in this list, at line {}", key.name, first.at.line);
            self.report("D011", key.at, path, message, Some("give one of them another name".into()));
        }
    }

    /// One task.
    pub(super) fn task(
        &mut self,
        name: &str,
        node: &'n Node,
        at: Position,
        path: &str,
        siblings: &[&str],
    ) -> Option<Task> {
        let before = self.problems.len();
        let entries = self.any_map(node, path)?;
        let kinds: Vec<&(&str, &[&str])> = KINDS
            .iter()
            .filter(|(kind, _)| entries.iter().any(|(key, _)| key.name == *kind))
            // `do` beside `for` is the loop's body.
            .filter(|(kind, _)| *kind != "do" || node.get("for").is_none())
            .collect();
        let [(kind, beside)] = kinds.as_slice() else {
            self.kind_unclear(node, at, path, &kinds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>());
            return None;
        };
        let known: Vec<&str> = SHARED.iter().chain([kind]).chain(beside.iter()).copied().collect();
        self.map(node, path, &known);
        let shared = Task {
            name: name.to_owned(),
            reference: path.to_owned(),
            at,
            source: node.value(),
            condition: node.get("if").and_then(|n| self.expression(n, &child(path, "if"))),
            input: self.filter(node, path, "input", "from"),
            output: self.filter(node, path, "output", "as"),
            export: self.filter(node, path, "export", "as"),
            timeout: node.get("timeout").and_then(|n| self.timeout(n, &child(path, "timeout"))),
            then: self.then(node.get("then"), &child(path, "then"), siblings).unwrap_or_default(),
            pavane: self.task_settings(node, path),
            kind: TaskKind::Do(Vec::new()),
        };
        let kind = self.kind(kind, node, path, siblings);
        let task = Task { kind: kind?, ..shared };
        (!self.has_errors_since(before) || self.only_inner_errors(before, path, &task)).then_some(task)
    }

    /// Errors of tasks inside do not make the task around them unreadable.
    fn only_inner_errors(&self, before: usize, path: &str, task: &Task) -> bool {
        let composite = matches!(
            task.kind,
            TaskKind::Do(_) | TaskKind::For(_) | TaskKind::Fork { .. } | TaskKind::Try(_) | TaskKind::Listen(_)
        );
        let inner = [
            format!("{path}/do/"),
            format!("{path}/try/"),
            format!("{path}/catch/do/"),
            format!("{path}/fork/branches/"),
            format!("{path}/foreach/do/"),
        ];
        composite
            && self.problems[before..]
                .iter()
                .all(|d| d.severity == Severity::Warning || inner.iter().any(|inner| d.reference.starts_with(inner)))
    }

    fn kind_unclear(&mut self, node: &Node, at: Position, path: &str, kinds: &[&str]) {
        if kinds.is_empty() {
            let Kind::Map(entries) = &node.kind else { return };
            let known = KINDS.iter().map(|(kind, _)| *kind);
            let near = entries.iter().find_map(|(key, _)| Some((key, suggestion(&key.name, known.clone())?)));
            let help = match near {
                Some((key, near)) => format!("did you mean `{near}` where `{}` is written?", key.name),
                None => format!("give it one of {}", known.collect::<Vec<_>>().join(", ")),
            };
            self.report("D006", at, path, "the task does nothing".into(), Some(help));
        } else {
            let message = format!("the task does {} things at once: {}", kinds.len(), kinds.join(", "));
            self.report("D006", at, path, message, Some("make a task of each".into()));
        }
    }

    fn kind(&mut self, kind: &str, node: &'n Node, path: &str, siblings: &[&str]) -> Option<TaskKind> {
        let inner = node.get(kind)?;
        let at = child(path, kind);
        match kind {
            "call" => self.call(node, path),
            "do" => Some(TaskKind::Do(self.tasks(inner, &at))),
            "emit" => self.emit(inner, &at),
            "for" => self.for_(node, inner, path),
            "fork" => self.fork(inner, &at),
            "listen" => self.listen(node, inner, path),
            "raise" => self.raise(inner, &at),
            "run" => self.run(inner, &at),
            "set" => self.set(inner, &at),
            "switch" => self.switch(inner, &at, siblings),
            "try" => self.try_(node, inner, path, siblings),
            "wait" => self.duration(inner, &at).map(TaskKind::Wait),
            _ => None,
        }
    }

    /// A flow directive.
    fn then(&mut self, node: Option<&'n Node>, path: &str, siblings: &[&str]) -> Option<Then> {
        let node = node?;
        Some(match self.text(node, path)? {
            "continue" => Then::Continue,
            "exit" => Then::Exit,
            "end" => Then::End,
            name if siblings.contains(&name) => Then::Task(name.to_owned()),
            name => {
                let known = siblings.iter().copied().chain(DIRECTIVES);
                let near = suggestion(name, known).map(|near| format!("did you mean `{near}`?"));
                let help = near.or_else(|| {
                    Some("`then` takes continue, exit, end, or the name of a task of the same list".into())
                });
                self.report("D010", node.at, path, format!("there is no task `{name}` in this list"), help);
                return None;
            }
        })
    }

    fn task_settings(&mut self, node: &'n Node, path: &str) -> TaskSettings {
        let Some(pavane) = node.get("metadata").and_then(|m| m.get("pavane")) else { return TaskSettings::default() };
        let path = format!("{path}/metadata/pavane");
        let known = ["compensate", "owner", "placement", "rollback"];
        if self.map(pavane, &path, &known).is_none() {
            return TaskSettings::default();
        }
        let placement =
            pavane.get("placement").and_then(|n| self.word(n, &child(&path, "placement"), &[("engine", true)]));
        let rollback = pavane.get("rollback").and_then(|n| self.word(n, &child(&path, "rollback"), &[("none", true)]));
        TaskSettings {
            compensate: pavane.get("compensate").and_then(|n| self.compensate(n, &child(&path, "compensate"))),
            owner: self.optional_text(pavane, &path, "owner"),
            engine: placement.unwrap_or_default(),
            keep_effects: rollback.unwrap_or_default(),
        }
    }

    fn compensate(&mut self, node: &'n Node, path: &str) -> Option<Compensate> {
        let (name_node, retry, on_failure) = match &node.kind {
            Kind::Map(_) => {
                self.map(node, path, &["function", "retry", "onFailure"]);
                let retry = node.get("retry").and_then(|n| self.named_retry(n, &child(path, "retry")));
                let words = [("halt", false), ("continue", true)];
                let on_failure = node.get("onFailure").and_then(|n| self.word(n, &child(path, "onFailure"), &words));
                (self.required(node, path, "function")?, retry, on_failure)
            }
            _ => (node, None, None),
        };
        let function = self.text(name_node, path)?;
        let Some(body) = self.uses.functions.get(function) else {
            let known = self.uses.functions.keys().copied().collect();
            self.unknown_name(name_node, path, "functions", function, known);
            return None;
        };
        self.warn_of_output_only(body, name_node.at, path, function);
        Some(Compensate {
            function: function.to_owned(),
            retry,
            continue_on_failure: on_failure.unwrap_or_default(),
            at: node.at,
        })
    }

    /// After an outcome nobody knows there is no output to undo by.
    fn warn_of_output_only(&mut self, body: &Node, at: Position, path: &str, function: &str) {
        let from = body.get("input").and_then(|i| i.get("from")).and_then(Node::text).map(str::trim);
        if matches!(from, Some(".output" | "${ .output }" | "${.output}")) {
            let message = format!(
                "`{function}` reads the output only: a call whose outcome stays unknown cannot be undone by it"
            );
            let help = "identify the work by `.input` (or by the header Pavane-Compensates), or accept that such an entry is reported as unresolved".to_owned();
            self.report("W306", at, path, message, Some(help));
        }
    }

    fn set(&mut self, node: &'n Node, path: &str) -> Option<TaskKind> {
        match &node.kind {
            Kind::Map(_) | Kind::Str(_) => self.template(node, path).map(TaskKind::Set),
            _ => {
                self.wrong_type(node, path, "a map or an expression");
                None
            }
        }
    }

    fn switch(&mut self, node: &'n Node, path: &str, siblings: &[&str]) -> Option<TaskKind> {
        let mut cases = Vec::new();
        let mut default: Option<Case> = None;
        for (index, item) in self.list(node, path)?.iter().enumerate() {
            let path = format!("{path}/{index}");
            let Some((key, case)) = self.item(item, &path) else { continue };
            let path = child(&path, &key.name);
            if self.map(case, &path, &["when", "then"]).is_none() {
                continue;
            }
            self.required(case, &path, "then");
            let when = case.get("when").and_then(|n| self.expression(n, &child(&path, "when")));
            let then = self.then(case.get("then"), &child(&path, "then"), siblings).unwrap_or_default();
            let read = Case { name: key.name.clone(), when, then };
            if case.get("when").is_some() {
                cases.push(read);
            } else if let Some(first) = &default {
                let message =
                    format!("`{}` is a default as `{}` is already: a case without `when`", key.name, first.name);
                self.report("D013", key.at, &path, message, Some("give one of them a `when`".into()));
            } else {
                default = Some(read);
            }
        }
        cases.extend(default);
        Some(TaskKind::Switch(cases))
    }

    fn for_(&mut self, task: &'n Node, node: &'n Node, path: &str) -> Option<TaskKind> {
        let at = child(path, "for");
        self.map(node, &at, &["each", "in", "at"])?;
        let collection = self.required(node, &at, "in").and_then(|n| self.transform(n, &child(&at, "in")));
        let body = self.required(task, path, "do").map(|n| self.tasks(n, &child(path, "do")));
        Some(TaskKind::For(Box::new(For {
            each: self.variable(node, &at, "each", "item"),
            at: self.variable(node, &at, "at", "index"),
            collection: collection?,
            condition: task.get("while").and_then(|n| self.expression(n, &child(path, "while"))),
            body: body?,
        })))
    }

    /// The name of a variable, written without `$`.
    fn variable(&mut self, node: &'n Node, path: &str, key: &str, default: &str) -> String {
        let name = self.optional_text(node, path, key).unwrap_or_else(|| default.to_owned());
        let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !first || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let help = "use letters, digits and _, without `$`".to_owned();
            let at = node.get(key).map_or(node.at, |n| n.at);
            self.report(
                "D005",
                at,
                &child(path, key),
                format!("`{name}` cannot be the name of a variable"),
                Some(help),
            );
        }
        name
    }

    fn fork(&mut self, node: &'n Node, path: &str) -> Option<TaskKind> {
        self.map(node, path, &["branches", "compete"])?;
        let compete = node.get("compete").and_then(|n| self.boolean(n, &child(path, "compete"))).unwrap_or_default();
        let branches = self.required(node, path, "branches")?;
        Some(TaskKind::Fork { compete, branches: self.task_list(branches, &child(path, "branches"), false) })
    }

    fn try_(&mut self, task: &'n Node, node: &'n Node, path: &str, siblings: &[&str]) -> Option<TaskKind> {
        let body = self.tasks(node, &child(path, "try"));
        let catch = self.required(task, path, "catch")?;
        let at = child(path, "catch");
        self.map(catch, &at, &["errors", "as", "when", "exceptWhen", "retry", "do", "then"])?;
        Some(TaskKind::Try(Box::new(Try {
            body,
            errors: catch.get("errors").map(|n| self.error_filter(n, &child(&at, "errors"))).unwrap_or_default(),
            variable: self.variable(catch, &at, "as", "error"),
            when: catch.get("when").and_then(|n| self.expression(n, &child(&at, "when"))),
            except_when: catch.get("exceptWhen").and_then(|n| self.expression(n, &child(&at, "exceptWhen"))),
            retry: catch.get("retry").and_then(|n| self.named_retry(n, &child(&at, "retry"))),
            handler: catch.get("do").map(|n| self.tasks(n, &child(&at, "do"))),
            then: self.then(catch.get("then"), &child(&at, "then"), siblings),
        })))
    }

    fn error_filter(&mut self, node: &'n Node, path: &str) -> Vec<(String, Value)> {
        if self.map(node, path, &["with"]).is_none() {
            return Vec::new();
        }
        let Some(with) = node.get("with") else { return Vec::new() };
        let known = ["type", "status", "instance", "title", "detail", "details"];
        let entries = self.map(with, &child(path, "with"), &known).unwrap_or_default();
        entries.iter().map(|(key, value)| (key.name.clone(), value.value())).collect()
    }

    fn raise(&mut self, node: &'n Node, path: &str) -> Option<TaskKind> {
        self.map(node, path, &["error"])?;
        let error = self.required(node, path, "error")?;
        let path = child(path, "error");
        let read = match error.text() {
            Some(name) => match self.uses.errors.get(name).cloned() {
                Some((defined, path)) => self.error(defined, &path),
                None => {
                    let known = self.uses.errors.keys().copied().collect();
                    self.unknown_name(error, &path, "errors", name, known);
                    None
                }
            },
            None => self.error(error, &path),
        };
        read.map(TaskKind::Raise)
    }

    /// The definition of an error.
    pub(super) fn error(&mut self, node: &'n Node, path: &str) -> Option<ErrorTemplate> {
        self.map(node, path, &["type", "status", "title", "detail", "instance"])?;
        let mut part = |name: &str| node.get(name).and_then(|n| self.template(n, &child(path, name)));
        let (title, detail, instance) = (part("title"), part("detail"), part("instance"));
        let type_ = self.required(node, path, "type").and_then(|n| self.template(n, &child(path, "type")));
        let status = self.required(node, path, "status").and_then(|n| self.template(n, &child(path, "status")));
        if let Some(Template::Literal(value)) = &status
            && value.as_i64().is_none()
        {
            let at = node.get("status").map_or(node.at, |n| n.at);
            self.report("D004", at, &child(path, "status"), "the status of an error is a whole number".into(), None);
        }
        Some(ErrorTemplate { type_: type_?, status: status?, title, detail, instance })
    }

    fn emit(&mut self, node: &'n Node, path: &str) -> Option<TaskKind> {
        self.map(node, path, &["event", "cc"])?;
        let event = self.required(node, path, "event")?;
        let path = child(path, "event");
        self.map(event, &path, &["with", "cc"])?;
        let with = self.required(event, &path, "with")?;
        let path = child(&path, "with");
        self.any_map(with, &path)?;
        self.required(with, &path, "type");
        self.template(with, &path).map(TaskKind::Emit)
    }

    fn listen(&mut self, task: &'n Node, node: &'n Node, path: &str) -> Option<TaskKind> {
        let at = child(path, "listen");
        self.map(node, &at, &["to", "read"])?;
        let to = self.required(node, &at, "to").and_then(|n| self.consumption(n, &child(&at, "to"), true));
        let read = node.get("read").and_then(|n| self.read_mode(n, &child(&at, "read"))).unwrap_or_default();
        let foreach = task.get("foreach").and_then(|n| self.foreach(n, &child(path, "foreach")));
        Some(TaskKind::Listen(Box::new(Listen { to: to?, read, foreach })))
    }

    pub(super) fn foreach(&mut self, node: &'n Node, path: &str) -> Option<crate::definition::Foreach> {
        self.map(node, path, &["item", "at", "do", "output", "export"])?;
        Some(crate::definition::Foreach {
            item: self.variable(node, path, "item", "item"),
            at: self.variable(node, path, "at", "index"),
            body: node.get("do").map(|n| self.tasks(n, &child(path, "do"))).unwrap_or_default(),
            output: self.filter(node, path, "output", "as"),
            export: self.filter(node, path, "export", "as"),
        })
    }

    fn run(&mut self, node: &'n Node, path: &str) -> Option<TaskKind> {
        let entries = self.map(node, path, &["container", "script", "shell", "workflow", "await", "return"])?;
        for (kind, code, what) in [
            ("container", "D905", "`run: container`"),
            ("script", "D906", "`run: script`"),
            ("shell", "D907", "`run: shell`"),
        ] {
            if let Some((key, _)) = entries.iter().find(|(key, _)| key.name == kind) {
                self.later(code, key.at, &child(path, kind), what);
                return None;
            }
        }
        let wait = node.get("await").and_then(|n| self.boolean(n, &child(path, "await"))).unwrap_or(true);
        let workflow = self.required(node, path, "workflow")?;
        let path = child(path, "workflow");
        self.map(workflow, &path, &["namespace", "name", "version", "input"])?;
        Some(TaskKind::RunWorkflow(Box::new(RunWorkflow {
            namespace: self.required_text(workflow, &path, "namespace")?,
            name: self.required_text(workflow, &path, "name")?,
            version: self.optional_text(workflow, &path, "version").unwrap_or_else(|| "latest".to_owned()),
            input: workflow.get("input").and_then(|n| self.template(n, &child(&path, "input"))),
            wait,
        })))
    }
}
