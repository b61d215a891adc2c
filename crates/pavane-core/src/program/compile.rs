//! Compiling: a walk over the definition that turns names into node ids and text into compiled expressions.
//!
//! It never stops at the first problem: what does not compile is left out of its node and reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::*;
use crate::definition::{
    Authentication, Consumption, DurationSource, Endpoint, EventFilter, Filter, Position, Retry,
    Schema as SchemaSource, Severity, Source, Task, TaskKind, Template as TemplateSource, Then, Until, UriSource,
};
use crate::expression::{CompileError, Expression, Schema, Template};
use crate::id;

/// Which of the standard's arguments an expression may name, by where it stands (the standard's table).
const WORKFLOW_INPUT: &[&str] = &["secrets", "workflow", "runtime"];
const WORKFLOW_OUTPUT: &[&str] = &["context", "secrets", "workflow", "runtime"];
const BEFORE: &[&str] = &["context", "secrets", "task", "workflow", "runtime"];
const WITHIN: &[&str] = &["context", "input", "secrets", "task", "workflow", "runtime", "authorization"];
/// `$output` in `output.as` is the raw output: wider than the standard's table, and what its users write.
const AFTER: &[&str] = &["context", "input", "output", "secrets", "task", "workflow", "runtime", "authorization"];

pub(super) fn compile(definition: &Definition, resources: &Resources) -> Result<Program, Vec<Diagnostic>> {
    let mut compiler = Compiler {
        definition,
        resources,
        nodes: Vec::new(),
        functions: HashMap::new(),
        problems: Vec::new(),
        types: BTreeSet::new(),
        every_type: false,
        fleeting: false,
    };
    compiler.functions();
    let (entry, _) = compiler.list(&definition.tasks, &[]);
    let input = compiler.filter(&definition.input, WORKFLOW_INPUT, &[]);
    let output = compiler.filter(&definition.output, WORKFLOW_OUTPUT, &[]);
    let timeout = definition.timeout.as_ref().and_then(|d| compiler.duration(d, WORKFLOW_INPUT, &[]));
    if !compiler.problems.is_empty() {
        return Err(compiler.problems);
    }
    let nodes: Vec<Node> = compiler.nodes.into_iter().flatten().collect();
    let by_reference =
        nodes.iter().zip(0..).map(|(node, index)| (node.reference.clone(), NodeId(index))).collect::<HashMap<_, _>>();
    let subscriptions = if compiler.every_type {
        vec![Subscription::All]
    } else {
        compiler.types.into_iter().map(Subscription::Type).collect()
    };
    let mut program = Program {
        document: definition.document.clone(),
        digest: String::new(),
        attributes: String::new(),
        source: definition.source.clone(),
        nodes,
        by_reference,
        entry,
        input,
        output,
        timeout,
        secrets: definition.secrets.clone(),
        subscriptions,
        resources: resources
            .iter()
            .map(|(uri, document)| (uri.clone(), id::digest(document.to_canonical_json().as_bytes())))
            .collect(),
        locations: vec![Location::Engine],
        fleeting: compiler.fleeting,
    };
    program.identify(digest(definition, resources));
    Ok(program)
}

fn digest(definition: &Definition, resources: &Resources) -> String {
    let mut text = format!("{MEANING}\n{}\n", definition.source.to_canonical_json());
    for (uri, document) in resources {
        text.push_str(&format!("{uri}\n{}\n", document.to_canonical_json()));
    }
    id::digest(text.as_bytes())
}

struct Compiler<'a> {
    definition: &'a Definition,
    resources: &'a Resources,
    /// `None` while a node's own children are being compiled.
    nodes: Vec<Option<Node>>,
    functions: HashMap<&'a str, NodeId>,
    problems: Vec<Diagnostic>,
    types: BTreeSet<String>,
    every_type: bool,
    fleeting: bool,
}

/// Variables in scope beside the standard's arguments.
type Variables = [Arc<str>];

impl<'a> Compiler<'a> {
    /// Reserves a node for each function first, because functions call each other in any order.
    fn functions(&mut self) {
        let functions: &'a BTreeMap<String, Task> = &self.definition.functions;
        for name in functions.keys() {
            let id = self.reserve();
            self.functions.insert(name, id);
        }
        for (name, task) in functions {
            let id = self.functions[name.as_str()];
            let node = self.node(task, None, &BTreeMap::new(), &[]);
            self.nodes[id.0 as usize] = Some(node);
        }
    }

    fn reserve(&mut self) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(None);
        id
    }

    /// Compiles a list as a chain; gives its first node and the ids by name.
    fn list(&mut self, tasks: &'a [Task], variables: &Variables) -> (Option<NodeId>, BTreeMap<&'a str, NodeId>) {
        let ids: Vec<NodeId> = tasks.iter().map(|_| self.reserve()).collect();
        let names: BTreeMap<&str, NodeId> = tasks.iter().map(|t| t.name.as_str()).zip(ids.iter().copied()).collect();
        for (index, task) in tasks.iter().enumerate() {
            let node = self.node(task, ids.get(index + 1).copied(), &names, variables);
            self.nodes[ids[index].0 as usize] = Some(node);
        }
        (ids.first().copied(), names)
    }

    fn node(
        &mut self,
        task: &'a Task,
        next: Option<NodeId>,
        names: &BTreeMap<&str, NodeId>,
        variables: &Variables,
    ) -> Node {
        let node = Node {
            name: task.name.as_str().into(),
            reference: task.reference.as_str().into(),
            kind: kind(&task.kind),
            source: task.source.clone(),
            location: None,
            condition: task.condition.as_ref().and_then(|s| self.expression(s, BEFORE, variables)),
            input: self.filter(&task.input, BEFORE, variables),
            output: self.filter(&task.output, AFTER, variables),
            export: self.filter(&task.export, AFTER, variables),
            timeout: task.timeout.as_ref().and_then(|d| self.duration(d, WITHIN, variables)),
            flow: flow(&task.then, names),
            next,
            undo: task.pavane.compensate.as_ref().and_then(|undo| {
                Some(Undo {
                    function: *self.functions.get(undo.function.as_str())?,
                    retry: undo.retry.as_ref().map(|r| self.retry(r, variables)),
                    continue_on_failure: undo.continue_on_failure,
                })
            }),
            keep_effects: task.pavane.keep_effects,
            callback: task.pavane.callback,
            act: self.act(task, names, variables),
        };
        if node.callback.is_some() && !super::place::names_host(&node.act) {
            self.unknown_service(task);
        }
        node
    }

    /// Whoever has the URL of a callback may complete the task: data must not decide who that is.
    fn unknown_service(&mut self, task: &Task) {
        self.report(
            definition::codes::AWAIT_HOST,
            task.at,
            &task.reference,
            format!("`{}` awaits a callback, and the host of its endpoint is decided at run time", task.name),
            Some(
                "begin the endpoint with a fixed scheme and host, so that it is known who may complete the task".into(),
            ),
        );
    }

    fn act(&mut self, task: &'a Task, names: &BTreeMap<&str, NodeId>, variables: &Variables) -> Act {
        match &task.kind {
            TaskKind::Do(body) => Act::Do { first: self.list(body, variables).0 },
            TaskKind::Set(template) => Act::Set(self.template(template, WITHIN, variables)),
            TaskKind::Switch(cases) => Act::Switch(
                cases
                    .iter()
                    .map(|case| {
                        let when = case.when.as_ref().and_then(|s| self.expression(s, WITHIN, variables));
                        (when, flow(&case.then, names))
                    })
                    .collect(),
            ),
            TaskKind::For(each) => {
                let inner = extended(variables, &[&each.each, &each.at]);
                Act::For(Box::new(ForCode {
                    each: each.each.as_str().into(),
                    at: each.at.as_str().into(),
                    collection: self.template(&each.collection, WITHIN, variables),
                    condition: each.condition.as_ref().and_then(|s| self.expression(s, WITHIN, &inner)),
                    first: self.list(&each.body, &inner).0,
                }))
            }
            TaskKind::Fork { compete, branches } => {
                let ids = branches.iter().map(|branch| {
                    let id = self.reserve();
                    let node = self.node(branch, None, &BTreeMap::new(), variables);
                    self.nodes[id.0 as usize] = Some(node);
                    id
                });
                Act::Fork { compete: *compete, branches: ids.collect() }
            }
            TaskKind::Try(attempt) => self.attempt(attempt, names, variables),
            TaskKind::Raise(error) => Act::Raise(Box::new(RaiseCode {
                type_: self.template(&error.type_, WITHIN, variables),
                status: self.template(&error.status, WITHIN, variables),
                title: error.title.as_ref().map(|t| self.template(t, WITHIN, variables)),
                detail: error.detail.as_ref().map(|t| self.template(t, WITHIN, variables)),
                instance: error.instance.as_ref().map(|t| self.template(t, WITHIN, variables)),
            })),
            TaskKind::Wait(duration) => Act::Wait(
                self.duration(duration, WITHIN, variables)
                    .unwrap_or(DurationCode::Fixed(crate::time::Duration::default())),
            ),
            TaskKind::Http(call) => {
                let (uri, authentication) = self.endpoint(&call.endpoint, variables);
                Act::Http(Box::new(HttpCode {
                    method: call.method.clone(),
                    uri,
                    authentication,
                    headers: call.headers.as_ref().map(|t| self.template(t, WITHIN, variables)),
                    query: call.query.as_ref().map(|t| self.template(t, WITHIN, variables)),
                    body: call.body.as_ref().map(|t| self.template(t, WITHIN, variables)),
                    output: call.output,
                    redirect: call.redirect,
                }))
            }
            TaskKind::OpenApi(call) => {
                let (document, document_authentication) = self.endpoint(&call.document, variables);
                Act::OpenApi(Box::new(OpenApiCode {
                    document,
                    document_authentication,
                    operation: call.operation.clone(),
                    parameters: call.parameters.as_ref().map(|t| self.template(t, WITHIN, variables)),
                    authentication: call.authentication.as_ref().map(|a| self.authentication(a, variables)),
                    output: call.output,
                    redirect: call.redirect,
                }))
            }
            TaskKind::Function { name, with } => match self.functions.get(name.as_str()) {
                Some(body) => Act::Function { body: *body, with: self.template(with, WITHIN, variables) },
                // The reader has reported it.
                None => Act::Do { first: None },
            },
            TaskKind::Emit(template) => Act::Emit(self.template(template, WITHIN, variables)),
            TaskKind::Listen(listen) => self.listen(listen, variables),
            TaskKind::RunWorkflow(run) => Act::Run(Box::new(RunCode {
                namespace: run.namespace.clone(),
                name: run.name.clone(),
                version: run.version.clone(),
                input: run.input.as_ref().map(|t| self.template(t, WITHIN, variables)),
                wait: run.wait,
            })),
        }
    }

    fn attempt(&mut self, attempt: &'a definition::Try, names: &BTreeMap<&str, NodeId>, variables: &Variables) -> Act {
        let inner = extended(variables, &[&attempt.variable]);
        Act::Try(Box::new(TryCode {
            first: self.list(&attempt.body, variables).0,
            errors: attempt.errors.clone(),
            variable: attempt.variable.as_str().into(),
            when: attempt.when.as_ref().and_then(|s| self.expression(s, WITHIN, &inner)),
            except_when: attempt.except_when.as_ref().and_then(|s| self.expression(s, WITHIN, &inner)),
            retry: attempt.retry.as_ref().map(|r| self.retry(r, &inner)),
            handler: attempt.handler.as_ref().map(|tasks| self.list(tasks, &inner).0),
            flow: attempt.then.as_ref().map(|then| flow(then, names)),
        }))
    }

    fn retry(&mut self, retry: &Retry, variables: &Variables) -> RetryCode {
        RetryCode {
            when: retry.when.as_ref().and_then(|s| self.expression(s, WITHIN, variables)),
            except_when: retry.except_when.as_ref().and_then(|s| self.expression(s, WITHIN, variables)),
            delay: retry.delay.as_ref().and_then(|d| self.duration(d, WITHIN, variables)),
            backoff: retry.backoff,
            max_retries: retry.max_retries,
            attempt_timeout: retry.attempt_timeout.as_ref().and_then(|d| self.duration(d, WITHIN, variables)),
            max_duration: retry.max_duration.as_ref().and_then(|d| self.duration(d, WITHIN, variables)),
            jitter: retry.jitter,
        }
    }

    fn listen(&mut self, listen: &'a definition::Listen, variables: &Variables) -> Act {
        let to = self.consumption(&listen.to, variables);
        let foreach = listen.foreach.as_ref().map(|foreach| {
            let inner = extended(variables, &[&foreach.item, &foreach.at]);
            ForeachCode {
                item: foreach.item.as_str().into(),
                at: foreach.at.as_str().into(),
                first: self.list(&foreach.body, &inner).0,
                output: self.filter(&foreach.output, AFTER, &inner),
                export: self.filter(&foreach.export, AFTER, &inner),
            }
        });
        Act::Listen(Box::new(ListenCode { to, read: listen.read, foreach }))
    }

    fn consumption(&mut self, to: &Consumption, variables: &Variables) -> ConsumptionCode {
        let (kind, filters) = match to {
            Consumption::One(filter) => (ConsumptionKind::One, std::slice::from_ref(filter)),
            Consumption::All(filters) => (ConsumptionKind::All, filters.as_slice()),
            Consumption::Any { filters, until } => {
                let until = until.as_ref().and_then(|until| match until {
                    Until::Condition(source) => self.expression(source, WITHIN, variables).map(UntilCode::Condition),
                    Until::Events(to) => Some(UntilCode::Events(Box::new(self.consumption(to, variables)))),
                });
                self.every_type |= filters.is_empty();
                (ConsumptionKind::Any(until), filters.as_slice())
            }
        };
        ConsumptionCode { kind, filters: filters.iter().map(|f| self.event_filter(f, variables)).collect() }
    }

    fn event_filter(&mut self, filter: &EventFilter, variables: &Variables) -> EventFilterCode {
        let mut typed = false;
        let mut with = Vec::new();
        for (name, wanted) in &filter.with {
            let code = self.attribute(wanted, variables);
            if name == "type"
                && let AttributeCode::Text { exact, pattern: None } = &code
            {
                typed = true;
                self.types.insert(exact.clone());
            }
            with.push((name.clone(), code));
        }
        self.every_type |= !typed;
        let correlate = filter.correlate.iter().filter_map(|c| {
            Some(CorrelationCode {
                key: c.key.clone(),
                from: self.expression(&c.from, WITHIN, variables)?,
                expect: c.expect.as_ref().map(|t| self.template(t, WITHIN, variables)),
            })
        });
        EventFilterCode { correlate: correlate.collect(), with }
    }

    fn attribute(&mut self, wanted: &TemplateSource, variables: &Variables) -> AttributeCode {
        match wanted {
            TemplateSource::Literal(value) if value.as_str().is_some() => {
                let exact = value.as_str().unwrap_or_default().to_owned();
                // Dots and slashes are plain in event types and sources; only these make a text a pattern.
                let pattern = exact
                    .contains(['*', '+', '?', '[', '(', '|', '^', '$', '\\'])
                    .then(|| regex_lite::RegexBuilder::new(&format!("^(?:{exact})$")).size_limit(1 << 20).build().ok());
                AttributeCode::Text { exact, pattern: pattern.flatten() }
            }
            TemplateSource::Expression(source) => match self.expression(source, WITHIN, variables) {
                Some(expression) => AttributeCode::Expression(expression),
                None => AttributeCode::Text { exact: String::new(), pattern: None },
            },
            other => AttributeCode::Value(self.template(other, WITHIN, variables)),
        }
    }

    fn endpoint(&mut self, endpoint: &Endpoint, variables: &Variables) -> (UriCode, Option<AuthenticationCode>) {
        let uri = match &endpoint.uri {
            UriSource::Text(text) => UriCode::Text(text.clone()),
            UriSource::Expression(source) => self
                .expression(source, WITHIN, variables)
                .map_or_else(|| UriCode::Text(String::new()), UriCode::Expression),
        };
        (uri, endpoint.authentication.as_ref().map(|a| self.authentication(a, variables)))
    }

    fn authentication(&mut self, policy: &Authentication, variables: &Variables) -> AuthenticationCode {
        match policy {
            Authentication::Basic { username, password } => AuthenticationCode::Basic {
                username: self.template(username, WITHIN, variables),
                password: self.template(password, WITHIN, variables),
            },
            Authentication::Bearer { token } => {
                AuthenticationCode::Bearer { token: self.template(token, WITHIN, variables) }
            }
            Authentication::Secret { scheme, secret } => AuthenticationCode::Secret { scheme, secret: secret.clone() },
        }
    }

    fn filter(&mut self, filter: &Filter, arguments: &[&str], variables: &Variables) -> FilterCode {
        FilterCode {
            schema: filter.schema.as_ref().and_then(|s| self.schema(s)),
            transform: filter.transform.as_ref().map(|t| self.template(t, arguments, variables)),
        }
    }

    fn schema(&mut self, schema: &SchemaSource) -> Option<Schema> {
        let (document, at, reference) = match schema {
            SchemaSource::Inline { document, at, reference } => (document, at, reference),
            SchemaSource::Resource { uri, at, reference } => match self.resources.get(uri) {
                Some(document) => (document, at, reference),
                None => {
                    let help = "deploy it to a server that can fetch the schema, or write it inline as `document`";
                    self.report("D203", *at, reference, format!("the schema {uri} is not at hand"), Some(help.into()));
                    return None;
                }
            },
        };
        match Schema::compile(document) {
            Ok(schema) => Some(schema),
            Err(why) => {
                self.report("D202", *at, reference, format!("this is no JSON Schema: {why}"), None);
                None
            }
        }
    }

    fn duration(&mut self, source: &DurationSource, arguments: &[&str], variables: &Variables) -> Option<DurationCode> {
        match source {
            DurationSource::Fixed(duration) => Some(DurationCode::Fixed(*duration)),
            DurationSource::Expression(source) => {
                self.expression(source, arguments, variables).map(DurationCode::Expression)
            }
        }
    }

    fn expression(&mut self, source: &Source, arguments: &[&str], variables: &Variables) -> Option<Expression> {
        match Expression::compile(&source.text, &names(arguments, variables)) {
            Ok(expression) => {
                self.fleeting |= expression.is_fleeting();
                Some(expression)
            }
            Err(error) => {
                self.wrong_expression(source, &error);
                None
            }
        }
    }

    fn template(&mut self, source: &TemplateSource, arguments: &[&str], variables: &Variables) -> Template {
        match Template::compile(source, &names(arguments, variables)) {
            Ok(template) => {
                self.fleeting |= template.is_fleeting();
                template
            }
            Err(errors) => {
                for (source, error) in &errors {
                    self.wrong_expression(source, error);
                }
                Template::literal(Value::NULL)
            }
        }
    }

    fn wrong_expression(&mut self, source: &Source, error: &CompileError) {
        let message = format!("the expression `{}` does not compile: {}", source.text.trim(), error.message);
        self.report("D201", source.at, &source.reference, message, None);
    }

    fn report(&mut self, code: &'static str, at: Position, reference: &str, message: String, help: Option<String>) {
        self.problems.push(Diagnostic {
            code,
            severity: Severity::Error,
            file: self.definition.file.clone(),
            at,
            reference: reference.to_owned(),
            message,
            why: None,
            help,
        });
    }
}

fn names<'n>(arguments: &[&'n str], variables: &'n Variables) -> Vec<&'n str> {
    arguments.iter().copied().chain(variables.iter().map(|v| &**v)).collect()
}

fn extended(variables: &Variables, more: &[&String]) -> Vec<Arc<str>> {
    variables.iter().cloned().chain(more.iter().map(|name| name.as_str().into())).collect()
}

fn flow(then: &Then, names: &BTreeMap<&str, NodeId>) -> Flow {
    match then {
        Then::Continue => Flow::Continue,
        Then::Exit => Flow::Exit,
        Then::End => Flow::End,
        // An unknown name was reported by the reader; its task may have been left out with an error of its own.
        Then::Task(name) => names.get(name.as_str()).map_or(Flow::Continue, |id| Flow::Goto(*id)),
    }
}

fn kind(kind: &TaskKind) -> &'static str {
    match kind {
        TaskKind::Do(_) => "do",
        TaskKind::Set(_) => "set",
        TaskKind::Switch(_) => "switch",
        TaskKind::For(_) => "for",
        TaskKind::Fork { .. } => "fork",
        TaskKind::Try(_) => "try",
        TaskKind::Raise(_) => "raise",
        TaskKind::Wait(_) => "wait",
        TaskKind::Http(_) | TaskKind::OpenApi(_) | TaskKind::Function { .. } => "call",
        TaskKind::Emit(_) => "emit",
        TaskKind::Listen(_) => "listen",
        TaskKind::RunWorkflow(_) => "run",
    }
}
