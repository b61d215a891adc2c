//! The routes as OpenAPI 3.1, for those who call them.

use http::Method;
use serde_json::{Map, Value, json};

use crate::path::Pattern;
use crate::port::Workflows;
use crate::settings::Way;
use crate::table::{Route, Table, Target};

/// Methods that a route takes when it says none.
const EVERY: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// The document. Of routes with the same path and method, which differ by host or headers, the most particular stands.
pub(crate) fn document(table: &Table, port: &dyn Workflows) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for (pattern, methods, hosts, route) in table.shown() {
        let item = paths.entry(written(pattern)).or_insert_with(|| json!({}));
        let every = methods.is_empty();
        for method in if every { &EVERY[..] } else { methods } {
            let name = method.as_str().to_ascii_lowercase();
            // Methods that the standard has no place for.
            let known = ["get", "put", "post", "delete", "options", "head", "patch"].contains(&name.as_str());
            if known && item.get(&name).is_none() {
                item[name] = operation(pattern, hosts, route, port);
            }
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Routes of the gateway", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "securitySchemes": {
            "key": { "type": "apiKey", "in": "header", "name": "X-Api-Key" },
            "basic": { "type": "http", "scheme": "basic" },
            "jwt": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
            "certificate": { "type": "mutualTLS" },
        } },
    })
}

/// A pattern as OpenAPI writes paths, which has no word for "all below".
fn written(pattern: &Pattern) -> String {
    let text = pattern.to_string();
    match text.strip_suffix("/*") {
        Some(before) => format!("{before}/{{rest}}"),
        None => text,
    }
}

fn operation(pattern: &Pattern, hosts: Option<&str>, route: &Route, port: &dyn Workflows) -> Value {
    let rest = pattern.is_prefix().then_some("rest");
    let parameters: Vec<Value> = pattern
        .parameters()
        .chain(rest)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    let mut operation = json!({ "parameters": parameters });
    if let Some(host) = hosts {
        operation["servers"] = json!([{ "url": format!("//{host}") }]);
    }
    let schemes = route.auth.iter().map(|way| {
        let name = match way {
            Way::Key => "key",
            Way::Basic => "basic",
            Way::Jwt => "jwt",
            Way::Certificate => "certificate",
        };
        json!({ name: route.scopes })
    });
    if !route.auth.is_empty() {
        operation["security"] = schemes.collect();
    }
    match &route.target {
        Target::Service(target) => {
            operation["summary"] = json!(format!("The service {}", target.upstream.name));
            operation["responses"] = json!({ "default": { "description": "What the service answers" } });
        }
        Target::Workflow(target) => {
            let workflow = &target.workflow;
            operation["summary"] = json!(format!("Runs the workflow {}/{}", workflow.namespace, workflow.name));
            let schema = port.input_schema(workflow).ok().flatten().unwrap_or(json!(true));
            operation["requestBody"] = json!({ "content": { "application/json": { "schema": schema } } });
            operation["responses"] = json!({
                "200": { "description": "It has completed: its output", "content": { "application/json": {} } },
                "202": {
                    "description": "It takes longer: come back to Location, or with the same Idempotency-Key",
                    "headers": { "Location": { "schema": { "type": "string" } } },
                },
                "default": {
                    "description": "A problem (RFC 9457)",
                    "content": { "application/problem+json": { "schema": { "type": "object" } } },
                },
            });
        }
    }
    operation
}
