//! `call`: HTTP and OpenAPI requests, and functions of `use.functions`.
//!
//! The request is evaluated here and recorded; the runtime only sends it. Its idempotency key belongs to an *epoch* of
//! the task: it stays the same while the outcome is unknown, and a repeat under the same key sends the recorded
//! request again, because only that can tell what happened.

use std::sync::Arc;

use crate::engine::event::{Awaited, Event, TokenId, Trace};
use crate::engine::machine::{Go, Machine};
use crate::engine::scope::{Scope, text};
use crate::engine::secret;
use crate::engine::types::{Certainty, Credentials, HttpRequest, OpenApiRequest, Outcome, Request};
use crate::expression::Template;
use crate::id;
use crate::problem::{Kind, Problem};
use crate::program::{AuthenticationCode, HttpCode, NodeId, OpenApiCode, UriCode};
use crate::value::Value;

impl Machine<'_> {
    pub fn http(&mut self, t: TokenId, code: &HttpCode) -> Result<Go, Problem> {
        let data = self.data(t);
        let scope = self.task_scope(t);
        let credentials = code.authentication.as_ref().map(|a| credentials(&scope, a, &data)).transpose()?;
        let scope = Scope { credentials: credentials.as_ref(), ..scope };
        let gaps = self.gaps(t);
        let request = Request::Http(HttpRequest {
            method: code.method.clone(),
            uri: uri(&scope, &code.uri, &data, gaps)?,
            headers: pairs(&scope, code.headers.as_ref(), &data, "headers")?,
            query: pairs(&scope, code.query.as_ref(), &data, "query")?,
            body: code.body.as_ref().map(|b| scope.template(b, &data)).transpose()?,
            output: code.output,
            redirect: code.redirect,
            authentication: credentials,
        });
        self.request(t, request);
        Ok(Go::Wait)
    }

    pub fn openapi(&mut self, t: TokenId, code: &OpenApiCode) -> Result<Go, Problem> {
        let data = self.data(t);
        let scope = self.task_scope(t);
        let evaluate = |policy: &Option<_>| policy.as_ref().map(|a| credentials(&scope, a, &data)).transpose();
        let authentication = evaluate(&code.authentication)?;
        let document_authentication = evaluate(&code.document_authentication)?;
        let scope = Scope { credentials: authentication.as_ref(), ..scope };
        let parameters = match &code.parameters {
            Some(template) => scope.template(template, &data)?,
            None => Value::empty_object(),
        };
        if !parameters.is_object() {
            return Err(Kind::Expression.problem("the parameters of an OpenAPI call must be an object"));
        }
        let request = Request::OpenApi(OpenApiRequest {
            document: uri(&scope, &code.document, &data, self.gaps(t))?,
            document_authentication,
            operation: code.operation.clone(),
            parameters,
            output: code.output,
            redirect: code.redirect,
            authentication,
        });
        self.request(t, request);
        Ok(Go::Wait)
    }

    /// A function runs as a task of its own, with `with` as its raw input, and sees no variable of its caller.
    pub fn function(&mut self, t: TokenId, body: NodeId, with: &Template) -> Result<Go, Problem> {
        let data = self.task_scope(t).template(with, &self.data(t))?;
        self.emit(Event::Called { t, data });
        Ok(Go::Enter(body))
    }

    /// The call of the task on top ended.
    pub fn call_ended(&self, t: TokenId, outcome: Outcome) -> Go {
        match outcome {
            Outcome::Success(output) => Go::Leave(output),
            Outcome::Failure { problem, certainty } => {
                let trace = match certainty {
                    Certainty::Definite => Trace::Settled,
                    Certainty::NotSent => Trace::NotSent,
                    Certainty::Indeterminate => Trace::Indeterminate,
                };
                let reference = self.top(t).map(|(_, node)| node.reference.clone()).unwrap_or_default();
                Go::Fail(problem.at(&reference), trace)
            }
            // It goes on when it is called back.
            Outcome::Accepted => Go::Wait,
        }
    }

    /// What a property that is missing means for a URI template of the task on top. A compensation must not be sent to
    /// another address than its own: what cannot be named cannot be undone.
    fn gaps(&self, t: TokenId) -> Gaps {
        if self.token(t).is_some_and(|token| token.undoing().is_some()) { Gaps::Refused } else { Gaps::Empty }
    }

    fn request(&mut self, t: TokenId, request: Request) {
        let (Some(token), Some((frame, node))) = (self.token(t), self.top(t)) else { return };
        let (run, task) = (frame.run, node.reference.clone());
        let address = token.address(self.program);
        // A rollback is not bound by the workflow's timeout: it may be what caused it.
        let workflow = self.state.deadline.filter(|_| !token.rolling_back());
        let deadline = token.soonest_deadline().into_iter().chain(workflow).min();
        let attempt = token.attempts_before() + 1;
        let compensates = token.undoing().map(|undoing| undoing.task.key.clone());
        let epoch = self.state.epochs.get(&address);
        let number = epoch.map_or(0, |e| e.number + u32::from(e.settled));
        let recorded = epoch.is_some_and(|e| e.request.is_some());
        let key = id::idempotency_key(self.state.id(), &address, &[], number);
        let request = (!recorded).then(|| Arc::new(request));
        let callback = node.callback.map(|callback| {
            let millis = |duration| self.now.plus(duration).since(self.now);
            Awaited { heartbeat: callback.heartbeat.map(millis) }
        });
        self.emit(Event::Requested { t, run, task, key, address, request, attempt, compensates, deadline, callback });
    }
}

impl Request {
    /// The credentials the request is sent with.
    pub fn credentials(&self) -> Option<&Credentials> {
        match self {
            Request::Http(request) => request.authentication.as_ref(),
            Request::OpenApi(request) => request.authentication.as_ref(),
        }
    }

    /// The host the request goes to: the name of a service, or any other host.
    pub fn host(&self) -> Option<&str> {
        let uri = match self {
            Request::Http(request) => &request.uri,
            Request::OpenApi(request) => &request.document,
        };
        let authority = uri.split_once("://")?.1.split(['/', '?', '#']).next()?;
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        Some(
            host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(h, _)| h),
        )
    }
}

fn credentials(scope: &Scope<'_>, policy: &AuthenticationCode, data: &Value) -> Result<Credentials, Problem> {
    match policy {
        AuthenticationCode::Basic { username, password } => {
            Ok(Credentials::Basic { username: scope.text(username, data)?, password: scope.text(password, data)? })
        }
        AuthenticationCode::Bearer { token } => Ok(Credentials::Bearer { token: scope.text(token, data)? }),
        AuthenticationCode::Secret { scheme, secret: name } => {
            secret::granted(scope.program, scope.host).map_err(|why| Kind::Authorization.problem(why))?;
            let field = |field: &str| secret::marker(name, &format!("/{field}"));
            Ok(match *scheme {
                "basic" => Credentials::Basic { username: field("username"), password: field("password") },
                _ => Credentials::Bearer { token: field("token") },
            })
        }
    }
}

/// What becomes of `{name}` when the data has no such property.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gaps {
    Empty,
    Refused,
}

/// An absolute `http` or `https` URI.
fn uri(scope: &Scope<'_>, code: &UriCode, data: &Value, gaps: Gaps) -> Result<String, Problem> {
    let uri = match code {
        UriCode::Text(template) => expand(template, data, gaps)?,
        UriCode::Expression(expression) => text(&scope.expression(expression, data)?),
    };
    if uri.starts_with("http://") || uri.starts_with("https://") {
        Ok(uri)
    } else {
        Err(Kind::Configuration
            .problem(format!("`{uri}` cannot be called: an endpoint is an absolute http or https URI")))
    }
}

/// Fills `{name}` from the data's top-level properties, percent-encoded; a missing one is empty (RFC 6570, level 1),
/// unless `gaps` are refused.
fn expand(template: &str, data: &Value, gaps: Gaps) -> Result<String, Problem> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            return Err(Kind::Expression.problem(format!("the URI template `{template}` has a `{{` without its `}}`")));
        };
        let value = data.get(name).unwrap_or_default();
        if value.is_object() || value.as_array().is_some() {
            return Err(Kind::Expression.problem(format!(
                "`{{{name}}}` of the URI template `{template}` is no simple value: {}",
                crate::value::excerpt(&value)
            )));
        }
        let filled = if value.is_null() { String::new() } else { text(&value) };
        if filled.is_empty() && gaps == Gaps::Refused {
            return Err(Kind::Expression.problem(format!("`{{{name}}}` of the URI template `{template}` has no value")));
        }
        encode(&filled, &mut out);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Percent-encodes a text; sealed secrets in it will be when they are put back.
fn encode(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(secret::OPEN) {
        let Some((marker, after)) = after.split_once(secret::CLOSE) else { break };
        encode_plain(before, out);
        out.extend([secret::OPEN, secret::ENCODED]);
        out.push_str(marker);
        out.push(secret::CLOSE);
        rest = after;
    }
    encode_plain(rest, out);
}

fn encode_plain(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// A map of texts; an array gives its name once for each item, null is left out.
fn pairs(
    scope: &Scope<'_>,
    template: Option<&Template>,
    data: &Value,
    what: &str,
) -> Result<Vec<(String, String)>, Problem> {
    let Some(template) = template else { return Ok(Vec::new()) };
    let value = scope.template(template, data)?;
    if value.is_null() {
        return Ok(Vec::new());
    }
    let entries = value.entries().ok_or_else(|| {
        Kind::Expression.problem(format!("`{what}` must be an object, not {}", crate::value::excerpt(&value)))
    })?;
    let mut pairs = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        match value.as_array() {
            Some(items) => pairs.extend(items.iter().map(|item| (name.clone(), text(item)))),
            None if value.is_null() => {}
            None => pairs.push((name, text(&value))),
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_templates_take_simple_top_level_values() {
        let data = Value::parse(br#"{"id":7,"name":"a b/c","list":[1],"none":null}"#).unwrap();
        for (template, expected) in [
            ("http://h/{id}", Some("http://h/7")),
            ("http://{name}/x?q={name}", Some("http://a%20b%2Fc/x?q=a%20b%2Fc")),
            ("http://h/{missing}{none}/x", Some("http://h//x")),
            ("http://h/{list}", None),
            ("http://h/{id", None),
        ] {
            assert_eq!(expand(template, &data, Gaps::Empty).ok().as_deref(), expected, "{template}");
        }
    }
}
