//! OpenAPI calls: an operation of a document (Swagger 2.0 or OpenAPI 3.x, JSON or YAML) as an HTTP request.
//!
//! Documents are fetched once and kept. The reader takes what real documents have and is strict only about what a
//! request needs: the operation, its server and its required parameters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pavane_core::engine::{Credentials, HttpRequest, OpenApiRequest};
use pavane_core::problem::Kind;
use pavane_core::{Problem, Value};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;
use tokio::time::Instant;

use super::http::{Network, Unsent, without_dots};

/// Documents kept. A definition names few; when there are more, all are fetched again.
const MAX_DOCUMENTS: usize = 256;

/// References followed in a row.
const MAX_REFERENCES: usize = 16;

const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b',');

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// Documents by URI and the credentials they were fetched with: what one caller may read is not another's.
#[derive(Debug, Default)]
pub(super) struct Documents(Mutex<Kept>);

type Kept = HashMap<String, Vec<(Option<Credentials>, Arc<Json>)>>;

impl Documents {
    /// The HTTP request of an operation that must have ended by `due`.
    pub async fn request(
        &self,
        network: &Network,
        call: &OpenApiRequest,
        due: Option<Instant>,
    ) -> Result<HttpRequest, Unsent> {
        let known = self.known(call);
        let document = match known {
            Some(document) => document,
            None => {
                let fetched = network.document(&call.document, call.document_authentication.as_ref(), due).await?;
                let document: Arc<Json> = Arc::new((&fetched).into());
                let mut documents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if documents.values().map(Vec::len).sum::<usize>() >= MAX_DOCUMENTS {
                    documents.clear();
                }
                let kept = (call.document_authentication.clone(), document.clone());
                documents.entry(call.document.clone()).or_default().push(kept);
                document
            }
        };
        build(&document, call).map_err(Unsent::from)
    }

    fn known(&self, call: &OpenApiRequest) -> Option<Arc<Json>> {
        let documents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_uri = documents.get(&call.document)?;
        of_uri.iter().find(|(credentials, _)| *credentials == call.document_authentication).map(|(_, d)| d.clone())
    }
}

/// One parameter of an operation.
struct Parameter<'d> {
    name: &'d str,
    place: &'d str,
    required: bool,
    definition: &'d Json,
}

fn build(document: &Json, call: &OpenApiRequest) -> Result<HttpRequest, Problem> {
    let (path, method, item, operation) = find(document, &call.operation)?;
    let mut request = HttpRequest {
        method: method.to_uppercase(),
        uri: String::new(),
        headers: Vec::new(),
        query: Vec::new(),
        body: None,
        output: call.output,
        redirect: call.redirect,
        authentication: call.authentication.clone(),
    };
    let mut path = path.to_owned();
    let mut cookies = Vec::new();
    let mut form = Vec::new();
    let mut used = Vec::new();
    for parameter in parameters(document, item, operation) {
        used.push(parameter.name);
        let given = call.parameters.get(parameter.name).filter(|value| !value.is_null());
        let default = || parameter.definition.pointer("/schema/default").or(parameter.definition.get("default"));
        let Some(value) = given.or_else(|| default().map(Value::from)) else {
            if parameter.required {
                let why = format!(
                    "the operation `{}` needs the parameter `{}` ({})",
                    call.operation, parameter.name, parameter.place
                );
                return Err(Kind::Validation.problem(why));
            }
            continue;
        };
        match parameter.place {
            "path" => {
                let text: Vec<String> =
                    texts(&value).iter().map(|t| utf8_percent_encode(t, PATH).to_string()).collect();
                path = path.replace(&format!("{{{}}}", parameter.name), &text.join(","));
            }
            "query" => request.query.extend(query(&parameter, &value)),
            "header" => request.headers.push((parameter.name.to_owned(), texts(&value).join(","))),
            "cookie" => cookies.push(format!("{}={}", parameter.name, texts(&value).join(","))),
            "body" => request.body = Some(value),
            "formData" => form.extend(texts(&value).into_iter().map(|text| (parameter.name.to_owned(), text))),
            _ => {}
        }
    }
    if !cookies.is_empty() {
        request.headers.push(("cookie".into(), cookies.join("; ")));
    }
    if !form.is_empty() {
        let pairs: Vec<String> = form
            .iter()
            .map(|(name, value)| format!("{}={}", utf8_percent_encode(name, PATH), utf8_percent_encode(value, PATH)))
            .collect();
        request.headers.push(("content-type".into(), "application/x-www-form-urlencoded".into()));
        request.body = Some(Value::text(pairs.join("&")));
    }
    if operation.get("requestBody").is_some() {
        body(document, operation, call, &used, &mut request)?;
    }
    request.uri = format!("{}{path}", server(document, item, operation, &call.document)?);
    Ok(request)
}

/// The operation, with its path, method and path item.
fn find<'d>(document: &'d Json, id: &str) -> Result<(&'d str, &'d str, &'d Json, &'d Json), Problem> {
    let mut known = Vec::new();
    for (path, item) in document.get("paths").and_then(Json::as_object).into_iter().flatten() {
        let item = resolve(document, item);
        for method in METHODS {
            let Some(operation) = item.get(method) else { continue };
            match operation.get("operationId").and_then(Json::as_str) {
                Some(found) if found == id => return Ok((path, method, item, operation)),
                Some(other) => known.push(other),
                None => {}
            }
        }
    }
    known.sort_unstable();
    known.truncate(20);
    let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
    Err(Kind::Configuration.problem(format!("the OpenAPI document has no operation `{id}`; {known}")))
}

/// Parameters of the operation, and those of its path that it does not redefine.
fn parameters<'d>(document: &'d Json, item: &'d Json, operation: &'d Json) -> Vec<Parameter<'d>> {
    let list = |holder: &'d Json| holder.get("parameters").and_then(Json::as_array).into_iter().flatten();
    let mut found: Vec<Parameter<'d>> = Vec::new();
    for definition in list(operation).chain(list(item)) {
        let definition = resolve(document, definition);
        let text = |key: &str| definition.get(key).and_then(Json::as_str);
        let (Some(name), Some(place)) = (text("name"), text("in")) else { continue };
        if !found.iter().any(|p| p.name == name && p.place == place) {
            let required = definition.get("required").and_then(Json::as_bool).unwrap_or(place == "path");
            found.push(Parameter { name, place, required, definition });
        }
    }
    found
}

/// Follows local references.
fn resolve<'d>(document: &'d Json, value: &'d Json) -> &'d Json {
    let mut value = value;
    for _ in 0..MAX_REFERENCES {
        let reference = value.get("$ref").and_then(Json::as_str).and_then(|r| r.strip_prefix('#'));
        match reference.and_then(|pointer| document.pointer(pointer)) {
            Some(next) => value = next,
            None => break,
        }
    }
    value
}

/// A query parameter: `form` exploded by default in 3.x; Swagger 2.0 says how in `collectionFormat`.
fn query(parameter: &Parameter<'_>, value: &Value) -> Vec<(String, String)> {
    let text = |key: &str| parameter.definition.get(key).and_then(Json::as_str);
    let name = parameter.name.to_owned();
    if let (Some(entries), Some("deepObject")) = (value.entries(), text("style")) {
        return entries.into_iter().map(|(key, value)| (format!("{name}[{key}]"), texts(&value).join(","))).collect();
    }
    let explode = parameter.definition.get("explode").and_then(Json::as_bool);
    let swagger = parameter.definition.get("schema").is_none();
    let separator = match (text("collectionFormat"), text("style")) {
        (Some("multi"), _) => None,
        (Some("ssv"), _) | (_, Some("spaceDelimited")) => Some(" "),
        (Some("tsv"), _) => Some("\t"),
        (Some("pipes"), _) | (_, Some("pipeDelimited")) => Some("|"),
        (Some("csv"), _) => Some(","),
        _ if explode.unwrap_or(!swagger) => None,
        _ => Some(","),
    };
    if let (Some(entries), None) = (value.entries(), separator) {
        return entries.into_iter().map(|(key, value)| (key, texts(&value).join(","))).collect();
    }
    match separator {
        Some(separator) => vec![(name, texts(value).join(separator))],
        None => texts(value).into_iter().map(|text| (name.clone(), text)).collect(),
    }
}

/// The request body of 3.x: the parameter `body`, else all parameters that are none of the operation's own.
fn body(
    document: &Json,
    operation: &Json,
    call: &OpenApiRequest,
    used: &[&str],
    request: &mut HttpRequest,
) -> Result<(), Problem> {
    let definition = operation.get("requestBody").map(|body| resolve(document, body)).unwrap_or(&Json::Null);
    let rest: Vec<(String, Value)> = call
        .parameters
        .entries()
        .unwrap_or_default()
        .into_iter()
        .filter(|(name, _)| !used.contains(&name.as_str()))
        .collect();
    let body = match call.parameters.get("body") {
        Some(body) if !used.contains(&"body") => Some(body),
        _ if rest.is_empty() => None,
        _ => Some(Value::object(rest)),
    };
    if body.is_none() && definition.get("required").and_then(Json::as_bool) == Some(true) {
        let why =
            format!("the operation `{}` needs a body: give its properties, or `body`, as parameters", call.operation);
        return Err(Kind::Validation.problem(why));
    }
    let types: Vec<&String> =
        definition.get("content").and_then(Json::as_object).map(|c| c.keys().collect()).unwrap_or_default();
    let json = types.iter().find(|t| t.contains("json"));
    if let (Some(kind), true) = (json.or(types.first()), body.is_some()) {
        request.headers.push(("content-type".into(), (*kind).clone()));
    }
    request.body = body;
    Ok(())
}

/// The base URL, without a slash at its end.
fn server(document: &Json, item: &Json, operation: &Json, source: &str) -> Result<String, Problem> {
    let (scheme, rest) = source.split_once("://").unwrap_or(("http", source));
    let own = format!("{scheme}://{}", rest.split('/').next().unwrap_or_default());
    if document.get("swagger").is_some() {
        let text = |key: &str| document.get(key).and_then(Json::as_str);
        let schemes: Vec<&str> =
            document.get("schemes").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
        let chosen = if schemes.is_empty() || schemes.contains(&scheme) { scheme } else { schemes[0] };
        let host = text("host").map_or_else(|| own.clone(), |host| format!("{chosen}://{host}"));
        return Ok(format!("{host}{}", text("basePath").unwrap_or_default().trim_end_matches('/')));
    }
    let servers = [operation, item, document].into_iter().find_map(|holder| holder.get("servers")?.as_array()?.first());
    let Some(server) = servers else { return Ok(own) };
    let mut url = server.get("url").and_then(Json::as_str).unwrap_or("/").to_owned();
    for (name, variable) in server.get("variables").and_then(Json::as_object).into_iter().flatten() {
        let default = variable.get("default").and_then(Json::as_str).unwrap_or_default();
        url = url.replace(&format!("{{{name}}}"), default);
    }
    if url.contains('{') {
        return Err(Kind::Configuration
            .problem(format!("the server `{url}` of the OpenAPI document has a variable without default")));
    }
    let url = url.trim_end_matches('/');
    Ok(if url.contains("://") {
        url.to_owned()
    } else if url.starts_with('/') || url.is_empty() {
        format!("{own}{url}")
    } else {
        let path = rest.split(['?', '#']).next().unwrap_or_default().split_once('/').map_or("", |(_, path)| path);
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let slash = if directory.is_empty() { "" } else { "/" };
        format!("{own}{}", without_dots(&format!("{slash}{directory}/{url}")))
    })
}

/// A value as text, item by item.
fn texts(value: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_json(), str::to_owned);
    match (value.as_array(), value.entries()) {
        (Some(items), _) => items.iter().map(text).collect(),
        (None, Some(entries)) => entries.iter().flat_map(|(key, value)| [key.clone(), text(value)]).collect(),
        _ => vec![text(value)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(document: &str, operation: &str, parameters: &str) -> Result<HttpRequest, Problem> {
        let document: Json = serde_json::from_str(document).unwrap();
        build(
            &document,
            &OpenApiRequest {
                document: "https://api.example.com/v1/openapi.json".into(),
                document_authentication: None,
                operation: operation.into(),
                parameters: Value::parse(parameters.as_bytes()).unwrap(),
                output: Default::default(),
                redirect: false,
                authentication: None,
            },
        )
    }

    const SWAGGER: &str = r##"{"swagger":"2.0","host":"pets.example.com","basePath":"/v2","schemes":["https","http"],"paths":{
        "/pet/{id}":{"parameters":[{"$ref":"#/parameters/id"}],"get":{"operationId":"getPet"}},
        "/pet":{"post":{"operationId":"addPet","parameters":[{"name":"pet","in":"body","required":true}]}},
        "/find":{"get":{"operationId":"find","parameters":[
            {"name":"status","in":"query","required":true,"type":"array","collectionFormat":"multi"},
            {"name":"tags","in":"query","type":"array"},{"name":"limit","in":"query","default":10}]}}},
        "parameters":{"id":{"name":"id","in":"path","required":true}}}"##;
    const OPENAPI: &str = r##"{"openapi":"3.1.0","servers":[{"url":"/{stage}/api","variables":{"stage":{"default":"prod"}}}],"paths":{
        "/orders/{id}":{"put":{"operationId":"putOrder","parameters":[{"name":"id","in":"path","schema":{}},
            {"name":"x-tag","in":"header","schema":{}},{"name":"q","in":"query","style":"deepObject","schema":{}},
            {"name":"ids","in":"query","schema":{}},{"name":"csv","in":"query","explode":false,"schema":{}}],
            "requestBody":{"required":true,"content":{"application/json":{}}}}}}}"##;

    #[test]
    fn operations_become_requests() {
        for (document, operation, parameters, expected) in [
            (SWAGGER, "getPet", r#"{"id":"a b"}"#, "GET https://pets.example.com/v2/pet/a%20b [] null"),
            (SWAGGER, "addPet", r#"{"pet":{"n":1}}"#, r#"POST https://pets.example.com/v2/pet [] {"n":1}"#),
            (
                SWAGGER,
                "find",
                r#"{"status":["a","b"],"tags":["x","y"]}"#,
                r#"GET https://pets.example.com/v2/find [("status", "a"), ("status", "b"), ("tags", "x,y"), ("limit", "10")] null"#,
            ),
            (
                OPENAPI,
                "putOrder",
                r#"{"id":7,"q":{"a":1},"ids":[1,2],"csv":[1,2],"total":5}"#,
                r#"PUT https://api.example.com/prod/api/orders/7 [("q[a]", "1"), ("ids", "1"), ("ids", "2"), ("csv", "1,2")] {"total":5}"#,
            ),
            (OPENAPI, "putOrder", r#"{"id":7,"body":[1]}"#, r#"PUT https://api.example.com/prod/api/orders/7 [] [1]"#),
        ] {
            let request = call(document, operation, parameters).unwrap();
            let body = request.body.unwrap_or_default().to_json();
            assert_eq!(format!("{} {} {:?} {body}", request.method, request.uri, request.query), expected);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = call(SWAGGER, "findd", "{}").unwrap_err();
        assert_eq!((error.status, error.detail.unwrap().contains("it has addPet, find, getPet")), (400, true));
        for (document, operation, parameters, named) in [
            (SWAGGER, "find", "{}", "`status`"),
            (SWAGGER, "getPet", "{}", "`id`"),
            (OPENAPI, "putOrder", r#"{"id":1}"#, "needs a body"),
        ] {
            assert!(call(document, operation, parameters).unwrap_err().detail.unwrap().contains(named), "{operation}");
        }
    }
}
