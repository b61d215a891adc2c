//! Task lists and the tasks that steer the flow; calls stand in `calls`, events in `events`.

use super::node::{Key, Kind};
use super::reader::{Fields, Place, Reader, suggestion};
use super::{Callback, Case, Compensate, For, MIN_HEARTBEAT, Task, TaskKind, TaskSettings, Template, Then, Try, codes};
use crate::time::Timestamp;
use crate::value::Value;

/// Names that `then` may give: those of the list the task stands in.
pub(super) type Scope<'s> = &'s [String];

/// Every kind's key and the further keys that belong to it.
const KINDS: [(&str, &[&str]); 12] = [
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
const COMMON: [&str; 7] = ["if", "input", "output", "export", "timeout", "then", "metadata"];

/// Variables that expressions have anyway; hiding one would change what every expression below means.
const RESERVED_VARIABLES: [&str; 10] =
    ["context", "input", "output", "secrets", "task", "workflow", "runtime", "authorization", "__loc__", "ENV"];

/// Settings of `metadata.pavane` that are planned for tasks. To ignore one would break its author's trust.
const LATER_SETTINGS: [&str; 4] = ["confidential", "abortable", "eventName", "loop"];

impl Reader<'_> {
    /// A `do` list or one like it. `then` inside it may name its tasks.
    pub fn tasks(&mut self, place: &Place<'_>, what: &str) -> Vec<Task> {
        self.task_list(place, what, true)
    }

    fn task_list(&mut self, place: &Place<'_>, what: &str, sequence: bool) -> Vec<Task> {
        let named = self.named_items(place, what).unwrap_or_default();
        for (key, value) in &named {
            if ["end", "exit", "continue"].contains(&key.name.as_str()) {
                let message = format!("a task cannot be named `{}`", key.name);
                self.report(codes::RESERVED_NAME, key.at, &value.reference, message)
                    .why("`then` would mean the flow directive, never the task")
                    .help("rename the task");
            }
        }
        // Branches of a fork run side by side: none of them can be gone to.
        let scope: Vec<String> =
            if sequence { named.iter().map(|(key, _)| key.name.clone()).collect() } else { Vec::new() };
        named.iter().filter_map(|(key, value)| self.task(key, value, &scope)).collect()
    }

    /// One task; `None` when it or a task inside it has an error.
    pub fn task(&mut self, key: &Key, place: &Place<'_>, scope: Scope<'_>) -> Option<Task> {
        self.whole(|reader| {
            let what = format!("task `{}`", key.name);
            if !reader.object(place, &what) {
                return None;
            }
            let kind = reader.kind_of(key, place);
            let mut allowed: Vec<&str> = COMMON.to_vec();
            match KINDS.iter().find(|(name, _)| Some(*name) == kind) {
                Some((name, extra)) => {
                    allowed.push(name);
                    allowed.extend(*extra);
                }
                // Several kinds or none were reported; only keys that belong to no kind at all are worth another word.
                None => allowed.extend(KINDS.iter().flat_map(|(name, extra)| extra.iter().chain([name]))),
            }
            let fields = reader.fields(place, &what, &allowed)?;
            let condition = fields.get("if").and_then(|p| reader.expression(&p, "`if`"));
            let input = reader.filter(fields.get("input"), "`input`", "from");
            let read = kind.and_then(|kind| reader.kind(kind, &fields, scope));
            Some(Task {
                name: key.name.clone(),
                reference: place.reference.clone(),
                at: key.at,
                source: place.node.to_value(),
                condition,
                input,
                output: reader.filter(fields.get("output"), "`output`", "as"),
                export: reader.filter(fields.get("export"), "`export`", "as"),
                timeout: fields.get("timeout").and_then(|p| reader.timeout(&p)),
                then: fields.get("then").and_then(|p| reader.then(&p, scope)).unwrap_or_default(),
                pavane: reader.settings(&fields, kind),
                kind: read?,
            })
        })
    }

    /// Variables of loops, handlers and iterators.
    pub fn variable(&mut self, fields: &Fields<'_>, key: &str, default: &str) -> String {
        let Some(place) = fields.get(key) else { return default.to_owned() };
        let Some(name) = self.string(&place, &format!("`{key}`")) else { return default.to_owned() };
        let identifier = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !identifier || RESERVED_VARIABLES.contains(&name) {
            let help = match name.strip_prefix('$') {
                Some(bare) => format!("leave out the `$`: write `{bare}`"),
                None => "choose letters, digits and `_`, and none of the standard's own arguments".to_owned(),
            };
            self.report_at(codes::VARIABLE, &place, format!("a variable cannot be named `{name}`")).help(help);
        }
        name.to_owned()
    }

    /// The one key that says what a task does. `for` has a `do` of its own.
    fn kind_of(&mut self, key: &Key, place: &Place<'_>) -> Option<&'static str> {
        let has = |name: &str| place.node.get(name).is_some();
        let given: Vec<&'static str> =
            KINDS.iter().map(|(name, _)| *name).filter(|name| has(name) && !(*name == "do" && has("for"))).collect();
        match given.as_slice() {
            [one] => Some(one),
            [] => {
                let kinds = KINDS.map(|(name, _)| name);
                let help = place
                    .node
                    .entries()
                    .iter()
                    .find_map(|(key, _)| suggestion(&key.name, kinds.into_iter()))
                    .unwrap_or_else(|| format!("give it one of: {}", kinds.join(", ")));
                let message = format!("task `{}` does not say what it does", key.name);
                self.report(codes::NO_KIND, key.at, &place.reference, message).help(help);
                None
            }
            several => {
                let message = format!("task `{}` does several things: {}", key.name, several.join(", "));
                self.report(codes::TWO_KINDS, key.at, &place.reference, message)
                    .help("make a task of each, one after the other");
                None
            }
        }
    }

    fn kind(&mut self, kind: &'static str, fields: &Fields<'_>, scope: Scope<'_>) -> Option<TaskKind> {
        let place = fields.get(kind)?;
        match kind {
            "call" => self.call(&place, fields),
            "do" => Some(TaskKind::Do(self.tasks(&place, "`do`"))),
            "emit" => self.emit(&place),
            "for" => self.for_(&place, fields),
            "fork" => self.fork(&place),
            "listen" => self.listen(&place, fields),
            "raise" => {
                let raise = self.fields(&place, "`raise`", &["error"])?;
                let error = self.required(&raise, "`raise`", "error")?;
                self.error(&error).map(|error| TaskKind::Raise(Box::new(error)))
            }
            "run" => self.run(&place),
            "set" => match place.node.kind {
                Kind::Map(_) | Kind::Str(_) => self.template(&place).map(TaskKind::Set),
                _ => {
                    self.wrong_type(&place, "`set`", "an object or a text");
                    None
                }
            },
            "switch" => self.switch(&place, scope),
            "try" => self.try_(&place, fields, scope),
            _ => self.duration(&place, "`wait`").map(TaskKind::Wait),
        }
    }

    fn for_(&mut self, place: &Place<'_>, task: &Fields<'_>) -> Option<TaskKind> {
        let condition = task.get("while").and_then(|p| self.expression(&p, "`while`"));
        let body = self.required(task, "a `for` task", "do").map(|p| self.tasks(&p, "`do`"));
        let fields = self.fields(place, "`for`", &["each", "in", "at"])?;
        let each = self.variable(&fields, "each", "item");
        let at = self.variable(&fields, "at", "index");
        if each == at {
            self.report_at(codes::VARIABLE, place, format!("`each` and `at` are both named `{at}`"))
                .help("give the item and the index different names");
        }
        let collection = self.required(&fields, "`for`", "in")?;
        let collection = match collection.node.kind {
            Kind::Seq(_) => self.template(&collection)?,
            _ => Template::Expression(self.expression(&collection, "`in`")?),
        };
        Some(TaskKind::For(Box::new(For { each, at, collection, condition, body: body? })))
    }

    fn fork(&mut self, place: &Place<'_>) -> Option<TaskKind> {
        let fields = self.fields(place, "`fork`", &["branches", "compete"])?;
        let compete = self.flag(&fields, "compete", false);
        let branches = self.required(&fields, "`fork`", "branches")?;
        Some(TaskKind::Fork { compete, branches: self.task_list(&branches, "`branches`", false) })
    }

    fn switch(&mut self, place: &Place<'_>, scope: Scope<'_>) -> Option<TaskKind> {
        let named = self.named_items(place, "`switch`")?;
        if named.is_empty() {
            self.report_at(codes::MISSING, place, "a `switch` needs at least one case")
                .help("add a case: `- name: { when: .x == 1, then: task }`");
        }
        let mut cases: Vec<Case> = Vec::new();
        let mut default: Option<Case> = None;
        for (key, value) in &named {
            let what = format!("case `{}`", key.name);
            let Some(fields) = self.fields(value, &what, &["when", "then"]) else { continue };
            let then = self.required(&fields, &what, "then").and_then(|p| self.then(&p, scope)).unwrap_or_default();
            let when = fields.get("when").map(|p| self.expression(&p, "`when`"));
            let case = Case { name: key.name.clone(), when: when.clone().flatten(), then };
            match (when, &default) {
                (Some(_), _) => cases.push(case),
                (None, None) => default = Some(case),
                (None, Some(first)) => {
                    let message = format!("`{}` and `{}` are both cases without `when`", first.name, key.name);
                    self.report(codes::TWO_DEFAULTS, key.at, &value.reference, message)
                        .why("a case without `when` is the default, and only one case can be it")
                        .help("give one of them a `when`, or remove it");
                }
            }
        }
        cases.extend(default);
        Some(TaskKind::Switch(cases))
    }

    fn try_(&mut self, place: &Place<'_>, task: &Fields<'_>, scope: Scope<'_>) -> Option<TaskKind> {
        let body = self.tasks(place, "`try`");
        let catch = self.required(task, "a `try` task", "catch")?;
        let known = ["errors", "as", "when", "exceptWhen", "retry", "do", "then"];
        let fields = self.fields(&catch, "`catch`", &known)?;
        Some(TaskKind::Try(Box::new(Try {
            body,
            errors: fields.get("errors").map(|p| self.error_filter(&p)).unwrap_or_default(),
            variable: self.variable(&fields, "as", "error"),
            when: fields.get("when").and_then(|p| self.expression(&p, "`when`")),
            except_when: fields.get("exceptWhen").and_then(|p| self.expression(&p, "`exceptWhen`")),
            retry: fields.get("retry").and_then(|p| self.retry(&p)),
            handler: fields.get("do").map(|p| self.tasks(&p, "`do`")),
            then: fields.get("then").and_then(|p| self.then(&p, scope)),
        })))
    }

    fn error_filter(&mut self, place: &Place<'_>) -> Vec<(String, Value)> {
        let with = self.fields(place, "`errors`", &["with"]).and_then(|fields| fields.get("with")).and_then(|p| {
            self.fields(&p, "`errors.with`", &["type", "status", "title", "detail", "details", "instance"])
        });
        let Some(with) = with else { return Vec::new() };
        let mut filter = Vec::new();
        for (key, value) in with.place.entries() {
            if key.name == "status" {
                if value.node.to_value().as_i64().is_none() {
                    self.wrong_type(&value, "`status`", "a whole number");
                }
            } else {
                self.string(&value, &format!("`{}`", key.name));
            }
            // The 1.0.3 schema calls it `details`; the property of an error is `detail`.
            let name = if key.name == "details" { "detail" } else { &key.name };
            filter.push((name.to_owned(), value.node.to_value()));
        }
        filter
    }

    fn then(&mut self, place: &Place<'_>, scope: Scope<'_>) -> Option<Then> {
        let target = self.string(place, "`then`")?;
        match target {
            "continue" => Some(Then::Continue),
            "exit" => Some(Then::Exit),
            "end" => Some(Then::End),
            name if scope.iter().any(|known| known == name) => Some(Then::Task(name.to_owned())),
            name => {
                let known = scope.iter().map(String::as_str).chain(["continue", "exit", "end"]);
                let help = suggestion(name, known)
                    .unwrap_or_else(|| "name a task of the same list, or use continue, exit or end".to_owned());
                self.report_at(codes::THEN, place, format!("this list has no task `{name}` to go to"))
                    .why("`then` reaches only tasks of the list it stands in; branches of a fork are no list to go through")
                    .help(help);
                None
            }
        }
    }

    /// `metadata.pavane` of a task. Other metadata is not ours.
    fn settings(&mut self, task: &Fields<'_>, kind: Option<&str>) -> TaskSettings {
        let Some(metadata) = task.get("metadata") else { return TaskSettings::default() };
        if !self.object(&metadata, "`metadata`") {
            return TaskSettings::default();
        }
        let Some(pavane) = metadata.get("pavane") else { return TaskSettings::default() };
        let mut known = vec!["compensate", "owner", "placement", "rollback", "await", "heartbeat"];
        known.extend(LATER_SETTINGS);
        let Some(fields) = self.fields(&pavane, "`metadata.pavane` of a task", &known) else {
            return TaskSettings::default();
        };
        for name in LATER_SETTINGS {
            if let Some(place) = fields.get(name) {
                let message = format!("`metadata.pavane.{name}` is not available in this version of Pavane");
                self.report_at(codes::LATER_SETTING, &place, message)
                    .why("a setting that is ignored in silence would promise what is not kept")
                    .help("remove it");
            }
        }
        let rollback = fields.get("rollback");
        if let Some(place) = &rollback
            && kind != Some("try")
        {
            self.report_at(codes::WRONG_VALUE, place, "`rollback` belongs to a `try` task")
                .help("move it to the `try`");
        }
        TaskSettings {
            compensate: fields.get("compensate").and_then(|p| self.compensate(&p)),
            owner: fields.get("owner").and_then(|p| self.string(&p, "`owner`").map(str::to_owned)),
            engine: fields.get("placement").is_some_and(|p| self.one_of(&p, "`placement`", &["engine"]).is_some()),
            keep_effects: rollback.is_some_and(|p| self.one_of(&p, "`rollback`", &["none"]).is_some()),
            callback: self.callback(task, &fields),
        }
    }

    /// `await` and `heartbeat`.
    fn callback(&mut self, task: &Fields<'_>, settings: &Fields<'_>) -> Option<Callback> {
        let heartbeat = settings.get("heartbeat");
        let Some(place) = settings.get("await") else {
            if let Some(place) = heartbeat {
                self.report_at(codes::AWAIT, &place, "a `heartbeat` without `await: callback`")
                    .why("a call that is not answered by a callback ends with its answer: nothing beats in between")
                    .help("add `await: callback`, or remove the `heartbeat`");
            }
            return None;
        };
        self.one_of(&place, "`await`", &["callback"])?;
        let call = task.get("call").and_then(|call| call.text());
        if !matches!(call, Some("http" | "openapi")) {
            let help = match call {
                Some(_) => "move it to the `call: http` or `call: openapi` within the function",
                None => "move it to the `call: http` or `call: openapi` that the service answers with 202",
            };
            self.report_at(codes::AWAIT, &place, "only a call of a service can be answered by a callback")
                .why("the service is told in the header `Pavane-Callback` where to complete or fail the task")
                .help(help);
            return None;
        }
        let output = task.get("with").and_then(|with| with.get("output"));
        if let Some(output) = output.filter(|output| matches!(output.text(), Some("raw" | "response"))) {
            self.report_at(codes::AWAIT, &output, "a callback has no HTTP response to give")
                .why("the output of the task is what the callback brings as its `output`")
                .help("remove `output`, or write `output: content`");
            return None;
        }
        let Some(place) = heartbeat else { return Some(Callback { heartbeat: None }) };
        let heartbeat = self.fixed_duration(&place, "`heartbeat`")?;
        if Timestamp(0).plus(heartbeat).0 < MIN_HEARTBEAT {
            self.report_at(codes::WRONG_VALUE, &place, "a `heartbeat` is at least one second")
                .help("write for example `PT30S`: the service then beats every ten seconds or so");
            return None;
        }
        Some(Callback { heartbeat: Some(heartbeat) })
    }

    fn compensate(&mut self, place: &Place<'_>) -> Option<Compensate> {
        let detailed = matches!(place.node.kind, Kind::Map(_));
        let (name, retry, continue_on_failure) = if detailed {
            let fields = self.fields(place, "`compensate`", &["function", "retry", "onFailure"])?;
            let retry = fields.get("retry").and_then(|p| self.retry(&p));
            let on_failure =
                fields.get("onFailure").and_then(|p| self.one_of(&p, "`onFailure`", &["halt", "continue"]));
            (self.required(&fields, "`compensate`", "function")?, retry, on_failure == Some("continue"))
        } else {
            (place.clone(), None, false)
        };
        let function = self.string(&name, "a compensation")?.to_owned();
        if !self.known_function(&name, &function) {
            return None;
        }
        if self.used.compensable.contains(&function) {
            self.report_at(
                codes::COMPENSATION,
                &name,
                format!("`{function}` undoes a task, yet has a `compensate` itself"),
            )
            .help("remove `compensate` from the function: what undoes is not undone");
        }
        if let Some(caller) = &self.function {
            self.calls.push((caller.clone(), function.clone()));
        }
        Some(Compensate { function, retry, continue_on_failure, at: place.node.at })
    }
}
