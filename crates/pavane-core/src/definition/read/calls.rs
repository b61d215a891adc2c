//! `call`: HTTP, OpenAPI, functions; what comes later is named.

use super::*;
use crate::definition::{CallOutput, Endpoint, HttpCall, OpenApiCall, TaskKind, Template, UriSource};
use crate::value::Value;

const LATER: [(&str, &str); 4] = [("grpc", "D901"), ("asyncapi", "D902"), ("mcp", "D903"), ("a2a", "D904")];
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

impl<'n> Reader<'n> {
    pub(super) fn call(&mut self, task: &'n Node, path: &str) -> Option<TaskKind> {
        let call = task.get("call")?;
        let at = child(path, "call");
        let name = self.text(call, &at)?;
        if let Some((_, code)) = LATER.iter().find(|(later, _)| *later == name) {
            self.later(code, call.at, &at, &format!("`call: {name}`"));
            return None;
        }
        match name {
            "http" => self.required(task, path, "with").and_then(|with| self.http(with, &child(path, "with"))),
            "openapi" => self.required(task, path, "with").and_then(|with| self.openapi(with, &child(path, "with"))),
            name if self.uses.functions.contains_key(name) => {
                let with = match task.get("with") {
                    Some(with) => self.template(with, &child(path, "with"))?,
                    None => Template::Literal(Value::empty_object()),
                };
                Some(TaskKind::Function { name: name.to_owned(), with })
            }
            name if name.contains("://") || name.contains('@') => {
                self.later("D909", call.at, &at, &format!("the catalog function `{name}`"));
                None
            }
            name => {
                let known = self.uses.functions.keys().copied().chain(["http", "openapi"]).collect();
                self.unknown_name(call, &at, "functions", name, known);
                None
            }
        }
    }

    fn http(&mut self, with: &'n Node, path: &str) -> Option<TaskKind> {
        self.map(with, path, &["method", "endpoint", "headers", "query", "body", "output", "redirect"])?;
        let endpoint = self.required(with, path, "endpoint").and_then(|n| self.endpoint(n, &child(path, "endpoint")));
        let method = self.required_text(with, path, "method").map(|m| m.to_uppercase());
        if let (Some(method), Some(node)) = (&method, with.get("method"))
            && !METHODS.contains(&method.as_str())
        {
            let help = suggestion(method, METHODS.into_iter()).map(|near| format!("did you mean `{near}`?"));
            self.report("D005", node.at, &child(path, "method"), format!("`{method}` is no HTTP method"), help);
        }
        let mut part = |name: &str| with.get(name).and_then(|n| self.template(n, &child(path, name)));
        let (headers, query, body) = (part("headers"), part("query"), part("body"));
        Some(TaskKind::Http(Box::new(HttpCall {
            method: method?,
            endpoint: endpoint?,
            headers,
            query,
            body,
            output: self.call_output(with, path),
            redirect: self.redirect(with, path),
        })))
    }

    fn openapi(&mut self, with: &'n Node, path: &str) -> Option<TaskKind> {
        let known = ["document", "operationId", "parameters", "authentication", "output", "redirect"];
        self.map(with, path, &known)?;
        let document = self.required(with, path, "document").and_then(|document| {
            let path = child(path, "document");
            self.map(document, &path, &["name", "endpoint"])?;
            self.required(document, &path, "endpoint").and_then(|n| self.endpoint(n, &child(&path, "endpoint")))
        });
        let operation = self.required_text(with, path, "operationId");
        let parameters = with.get("parameters").and_then(|n| self.template(n, &child(path, "parameters")));
        let authentication =
            with.get("authentication").and_then(|n| self.authentication(n, &child(path, "authentication")));
        Some(TaskKind::OpenApi(Box::new(OpenApiCall {
            document: document?,
            operation: operation?,
            parameters,
            authentication,
            output: self.call_output(with, path),
            redirect: self.redirect(with, path),
        })))
    }

    fn call_output(&mut self, with: &'n Node, path: &str) -> CallOutput {
        let words = [("content", CallOutput::Content), ("raw", CallOutput::Raw), ("response", CallOutput::Response)];
        with.get("output").and_then(|n| self.word(n, &child(path, "output"), &words)).unwrap_or_default()
    }

    fn redirect(&mut self, with: &'n Node, path: &str) -> bool {
        with.get("redirect").and_then(|n| self.boolean(n, &child(path, "redirect"))).unwrap_or_default()
    }

    /// A URI, or a URI with authentication.
    fn endpoint(&mut self, node: &'n Node, path: &str) -> Option<Endpoint> {
        match &node.kind {
            Kind::Str(_) => Some(Endpoint { uri: self.uri(node, path)?, authentication: None }),
            Kind::Map(_) => {
                self.map(node, path, &["uri", "authentication"])?;
                let uri = self.required(node, path, "uri").and_then(|n| self.uri(n, &child(path, "uri")));
                let authentication =
                    node.get("authentication").and_then(|n| self.authentication(n, &child(path, "authentication")));
                Some(Endpoint { uri: uri?, authentication })
            }
            _ => {
                self.wrong_type(node, path, "a URI, or a map with `uri` and `authentication`,");
                None
            }
        }
    }

    fn uri(&mut self, node: &'n Node, path: &str) -> Option<UriSource> {
        let text = self.text(node, path)?;
        if let Some(Template::Expression(source)) = self.template(node, path).filter(|_| text.trim().starts_with("${"))
        {
            return Some(UriSource::Expression(source));
        }
        if !(text.starts_with("http://") || text.starts_with("https://")) && !text.starts_with('{') {
            let message = format!("`{text}` cannot be called");
            let help = "an endpoint is an absolute http or https URI; the host may be the name of a service".to_owned();
            self.report("D005", node.at, path, message, Some(help));
            return None;
        }
        Some(UriSource::Text(text.to_owned()))
    }
}
