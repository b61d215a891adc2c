//! `call` and `run`: HTTP, OpenAPI, functions and sub-workflows. Calls that this version cannot make are refused by
//! name.

use super::node::Kind;
use super::reader::{Fields, Place, Reader, suggestion};
use super::{CallOutput, HttpCall, OpenApiCall, RunWorkflow, TaskKind, Template, codes};
use crate::value::Value;

const BUILT_IN: [&str; 6] = ["http", "openapi", "grpc", "asyncapi", "a2a", "mcp"];

impl Reader<'_> {
    /// `call` with its `with`.
    pub fn call(&mut self, place: &Place<'_>, task: &Fields<'_>) -> Option<TaskKind> {
        let name = self.string(place, "`call`")?;
        match name {
            "http" => self.http(task),
            "openapi" => self.openapi(task),
            "grpc" => {
                self.later(codes::LATER_GRPC, place, "`call: grpc`", "call the service through an HTTP interface")
            }
            "asyncapi" => {
                self.later(codes::LATER_ASYNCAPI, place, "`call: asyncapi`", "use `emit` and `listen` with CloudEvents")
            }
            "a2a" => self.later(codes::LATER_A2A, place, "`call: a2a`", "call the agent with `call: http`"),
            "mcp" => self.later(codes::LATER_MCP, place, "`call: mcp`", "call the tool's server with `call: http`"),
            _ if name.contains("://") || name.contains('@') => self.later(
                codes::LATER_CATALOG,
                place,
                "a function from a catalog or URI",
                "copy the function below `use.functions` and call it by its name",
            ),
            _ => self.function_call(place, name, task),
        }
    }

    /// Whether `use.functions` has `name`; reports it when it has not.
    pub fn known_function(&mut self, place: &Place<'_>, name: &str) -> bool {
        let known = self.used.functions.contains(name);
        if !known {
            let candidates = self.used.functions.iter().map(String::as_str).chain(BUILT_IN);
            let help = suggestion(name, candidates).unwrap_or_else(|| "define it below `use.functions`".to_owned());
            self.report_at(codes::UNKNOWN_FUNCTION, place, format!("there is no function `{name}`")).help(help);
        }
        known
    }

    /// `run` of a sub-workflow.
    pub fn run(&mut self, place: &Place<'_>) -> Option<TaskKind> {
        let kinds = ["workflow", "container", "script", "shell"];
        let fields = self.fields(place, "`run`", &["workflow", "container", "script", "shell", "await", "return"])?;
        let kind = self.exactly_one(place, "`run`", &kinds)?;
        let run = fields.get(kind)?;
        if kind != "workflow" {
            let what = format!("`run: {kind}`");
            return self.later(
                codes::LATER_PROCESS,
                &run,
                &what,
                "offer the program as a service and use `call: http`",
            );
        }
        let wait = self.flag(&fields, "await", true);
        if let Some(form) = fields.get("return") {
            self.one_of(&form, "`return`", &["stdout", "stderr", "code", "all", "none"]);
        }
        let inner = self.fields(&run, "`workflow`", &["namespace", "name", "version", "input"])?;
        let namespace = self.required(&inner, "`workflow`", "namespace").and_then(|p| self.name(&p, "`namespace`"));
        let name = self.required(&inner, "`workflow`", "name").and_then(|p| self.name(&p, "`name`"));
        let version = match inner.get("version") {
            Some(p) if p.text() == Some("latest") => Some("latest".to_owned()),
            Some(p) => self.version(&p, "`version`"),
            None => Some("latest".to_owned()),
        };
        let input = inner.get("input").and_then(|p| self.template(&p));
        Some(TaskKind::RunWorkflow(Box::new(RunWorkflow {
            namespace: namespace?,
            name: name?,
            version: version?,
            input,
            wait,
        })))
    }

    /// Refuses a construct that this version cannot run.
    pub fn later<T>(&mut self, code: &'static str, place: &Place<'_>, what: &str, help: &str) -> Option<T> {
        self.report_at(code, place, format!("{what} is not available in this version of Pavane")).help(help);
        None
    }

    fn http(&mut self, task: &Fields<'_>) -> Option<TaskKind> {
        let with = self.required(task, "`call: http`", "with")?;
        let known = ["method", "endpoint", "headers", "query", "body", "output", "redirect"];
        let fields = self.fields(&with, "`with` of an HTTP call", &known)?;
        let method = self.required(&fields, "an HTTP call", "method").and_then(|p| self.method(&p));
        let endpoint = self.required(&fields, "an HTTP call", "endpoint").and_then(|p| self.endpoint(&p));
        let call = HttpCall {
            headers: fields.get("headers").and_then(|p| self.object_template(&p, "`headers`")),
            query: fields.get("query").and_then(|p| self.object_template(&p, "`query`")),
            body: fields.get("body").and_then(|p| self.template(&p)),
            output: self.call_output(&fields),
            redirect: self.flag(&fields, "redirect", false),
            method: method?,
            endpoint: endpoint?,
        };
        Some(TaskKind::Http(Box::new(call)))
    }

    fn openapi(&mut self, task: &Fields<'_>) -> Option<TaskKind> {
        let with = self.required(task, "`call: openapi`", "with")?;
        let known = ["document", "operationId", "parameters", "authentication", "output", "redirect"];
        let fields = self.fields(&with, "`with` of an OpenAPI call", &known)?;
        let document =
            self.required(&fields, "an OpenAPI call", "document").and_then(|p| self.resource(&p, "`document`"));
        let operation =
            self.required(&fields, "an OpenAPI call", "operationId").and_then(|p| self.string(&p, "`operationId`"));
        let call = OpenApiCall {
            parameters: fields.get("parameters").and_then(|p| self.object_template(&p, "`parameters`")),
            authentication: fields.get("authentication").and_then(|p| self.authentication(&p)),
            output: self.call_output(&fields),
            redirect: self.flag(&fields, "redirect", false),
            document: document?,
            operation: operation?.to_owned(),
        };
        Some(TaskKind::OpenApi(Box::new(call)))
    }

    fn function_call(&mut self, place: &Place<'_>, name: &str, task: &Fields<'_>) -> Option<TaskKind> {
        let with = match task.get("with") {
            Some(p) => self.object_template(&p, "`with`"),
            None => Some(Template::Literal(Value::empty_object())),
        };
        if !self.known_function(place, name) {
            return None;
        }
        if let Some(caller) = &self.function {
            self.calls.push((caller.clone(), name.to_owned()));
        }
        Some(TaskKind::Function { name: name.to_owned(), with: with? })
    }

    fn method(&mut self, place: &Place<'_>) -> Option<String> {
        let text = self.string(place, "`method`")?;
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') {
            self.report_at(codes::WRONG_VALUE, place, format!("`{text}` is no HTTP method"))
                .help("write get, post, put, patch, delete, head or options");
            return None;
        }
        Some(text.to_ascii_uppercase())
    }

    fn call_output(&mut self, fields: &Fields<'_>) -> CallOutput {
        match fields.get("output").and_then(|p| match p.node.kind {
            Kind::Null => None,
            _ => self.one_of(&p, "`output`", &["content", "raw", "response"]),
        }) {
            Some("raw") => CallOutput::Raw,
            Some("response") => CallOutput::Response,
            _ => CallOutput::Content,
        }
    }
}
