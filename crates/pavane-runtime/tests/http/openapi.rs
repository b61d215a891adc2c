//! OpenAPI calls against a local server that serves its own documents.

use pavane_core::engine::{Certainty, Credentials, OpenApiRequest, Outcome, Request};
use pavane_runtime::effects::Network;

use crate::server::*;

const SWAGGER_YAML: &str = "
swagger: '2.0'
basePath: /v2
paths:
  /pet/{id}:
    parameters: [{ name: id, in: path, required: true, type: string }, { name: verbose, in: query, type: boolean }]
    get:
      operationId: getPet
      parameters: [{ name: verbose, in: query, type: boolean, default: true }, { name: X-Tag, in: header, type: string }]
  /find:
    get:
      operationId: find
      parameters:
        - { name: multi, in: query, type: array, collectionFormat: multi, required: true }
        - { name: csv, in: query, type: array }
        - { name: pipes, in: query, type: array, collectionFormat: pipes }
        - { name: ssv, in: query, type: array, collectionFormat: ssv }
  /pet:
    post: { operationId: addPet, parameters: [{ name: pet, in: body, required: true }] }
  /form:
    post: { operationId: form, parameters: [{ name: a, in: formData, type: string }, { name: b, in: formData, type: string }] }
";

const OPENAPI_JSON: &str = r##"{"openapi":"3.1.0","servers":[{"url":"../api/{stage}/","variables":{"stage":{"default":"prod"}}}],
  "paths":{"/orders/{id}":{"parameters":[{"$ref":"#/components/parameters/id"}],
    "put":{"operationId":"putOrder","parameters":[
      {"name":"deep","in":"query","style":"deepObject","schema":{}},
      {"name":"list","in":"query","schema":{}},{"name":"flat","in":"query","explode":false,"schema":{}},
      {"name":"object","in":"query","schema":{}},{"name":"piped","in":"query","style":"pipeDelimited","explode":false,"schema":{}},
      {"name":"session","in":"cookie","schema":{}},{"name":"x-need","in":"header","required":true,"schema":{}}],
      "requestBody":{"required":true,"content":{"application/json":{}}}},
    "get":{"operationId":"getOrder","servers":[{"url":"/other"}]}}},
  "components":{"parameters":{"id":{"name":"id","in":"path","required":true,"schema":{}}}}}"##;

async fn api() -> Server {
    Server::start(|request| match request.target.as_str() {
        "/docs/swagger.yaml" => Reply::Bytes(answer("200 OK", &[("content-type", "application/yaml")], SWAGGER_YAML)),
        "/docs/openapi.json" => json(OPENAPI_JSON),
        "/docs/private.json" if request.header("authorization") == Some("Bearer doc") => json(OPENAPI_JSON),
        "/docs/private.json" => Reply::Bytes(answer("401 Unauthorized", &[], "")),
        "/docs/broken" => json("[: not yaml"),
        _ => json(r#"{"ok":1}"#),
    })
    .await
}

fn operation(server: &Server, document: &str, operation: &str, parameters: &str) -> OpenApiRequest {
    OpenApiRequest {
        document: server.url(&format!("/docs/{document}")),
        document_authentication: None,
        operation: operation.into(),
        parameters: value(parameters),
        output: Default::default(),
        redirect: false,
        authentication: None,
    }
}

async fn send_operation(network: &Network, request: OpenApiRequest) -> Outcome {
    perform(network, call(Request::OpenApi(request))).await
}

#[tokio::test]
async fn operations_come_as_their_documents_say() {
    let server = api().await;
    let network = network(&[]);
    for (document, name, parameters, expected) in [
        ("swagger.yaml", "getPet", r#"{"id":"a b/c","X-Tag":7}"#, "GET /v2/pet/a%20b%2Fc?verbose=true "),
        ("swagger.yaml", "getPet", r#"{"id":1,"verbose":false}"#, "GET /v2/pet/1?verbose=false "),
        (
            "swagger.yaml",
            "find",
            r#"{"multi":["a","b"],"csv":[1,2],"pipes":[3,4],"ssv":[5,6]}"#,
            "GET /v2/find?multi=a&multi=b&csv=1%2C2&pipes=3%7C4&ssv=5%206 ",
        ),
        ("swagger.yaml", "addPet", r#"{"pet":{"name":"Rex"}}"#, r#"POST /v2/pet {"name":"Rex"}"#),
        ("swagger.yaml", "form", r#"{"a":"x y","b":1}"#, "POST /v2/form a=x%20y&b=1"),
        (
            "openapi.json",
            "putOrder",
            r#"{"id":7,"x-need":"n","deep":{"a":1},"list":[1,2],"flat":[3,4],"object":{"k":"v"},"piped":[5,6],"total":9}"#,
            r#"PUT /api/prod/orders/7?deep%5Ba%5D=1&list=1&list=2&flat=3%2C4&k=v&piped=5%7C6 {"total":9}"#,
        ),
        ("openapi.json", "putOrder", r#"{"id":7,"x-need":"n","body":[1],"session":"s"}"#, "PUT /api/prod/orders/7 [1]"),
        ("openapi.json", "getOrder", r#"{"id":7}"#, "GET /other/orders/7 "),
    ] {
        let outcome = send_operation(&network, operation(&server, document, name, parameters)).await;
        assert_eq!(output(outcome), r#"{"ok":1}"#);
        let came = server.last();
        assert_eq!(format!("{} {} {}", came.method, came.target, came.body), expected);
        match (name, parameters.contains("session")) {
            ("form", _) => assert_eq!(came.header("content-type"), Some("application/x-www-form-urlencoded")),
            ("putOrder", true) => assert_eq!(came.header("cookie"), Some("session=s")),
            ("putOrder", false) => assert_eq!(came.header("x-need"), Some("n")),
            _ => {}
        }
        assert_eq!(came.header("idempotency-key"), Some("key-1"));
    }
    let documents = server.received().iter().filter(|r| r.target.starts_with("/docs/")).count();
    assert_eq!(documents, 2, "each is fetched once");
}

#[tokio::test]
async fn a_document_and_its_operations_have_their_own_credentials() {
    let server = api().await;
    let network = network(&[]);
    let mut request = operation(&server, "private.json", "getOrder", r#"{"id":1}"#);
    let (status, _, detail, certainty) = failure(send_operation(&network, request.clone()).await);
    assert_eq!((status, certainty), (401, Certainty::NotSent), "{detail}");
    request.document_authentication = Some(Credentials::Bearer { token: "doc".into() });
    request.authentication = Some(Credentials::Basic { username: "a".into(), password: "b".into() });
    output(send_operation(&network, request).await);
    assert_eq!(server.last().header("authorization"), Some("Basic YTpi"));
    // Who has no right to the document gets nothing by its being known already.
    let stranger = operation(&server, "private.json", "getOrder", r#"{"id":1}"#);
    assert_eq!(failure(send_operation(&network, stranger).await).0, 401);
}

#[tokio::test]
async fn what_a_document_does_not_allow_is_refused_before_anything_is_sent() {
    let server = api().await;
    let network = network(&[]);
    for (document, name, parameters, kind, named) in [
        ("openapi.json", "nothing", "{}", "configuration", "getOrder, putOrder"),
        ("openapi.json", "getOrder", "{}", "validation", "`id`"),
        ("openapi.json", "putOrder", r#"{"id":1,"total":1}"#, "validation", "`x-need`"),
        ("openapi.json", "putOrder", r#"{"id":1,"x-need":"n"}"#, "validation", "needs a body"),
        ("swagger.yaml", "find", "{}", "validation", "`multi`"),
    ] {
        let outcome = send_operation(&network, operation(&server, document, name, parameters)).await;
        let Outcome::Failure { problem, certainty } = outcome else { panic!("{name}") };
        assert!(problem.type_.ends_with(kind) && problem.status == 400, "{problem:?}");
        assert!(problem.detail.as_deref().is_some_and(|detail| detail.contains(named)), "{problem:?}");
        assert_eq!(certainty, Certainty::NotSent);
    }
    let (_, _, detail, _) = failure(send_operation(&network, operation(&server, "broken", "x", "{}")).await);
    assert!(detail.contains("neither JSON nor YAML"), "{detail}");
    assert!(server.received().iter().all(|request| request.target.starts_with("/docs/")));
}
