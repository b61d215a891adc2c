//! Routing as data: tables, requests, and where they go.

use super::*;

fn table(routes: &str) -> Result<Table, Vec<Fault>> {
    let routes: Vec<Located<RouteSettings>> = serde_saphyr::from_str(routes).expect("routes");
    let upstream = |name: &str| {
        let urls = ["http://127.0.0.1:1".to_owned()];
        (name.to_owned(), Arc::new(Upstream::new(name, &urls, Default::default()).expect("a service")))
    };
    let upstreams = ["a", "b", "c", "d"].map(upstream).into_iter().collect();
    Table::build(&GatewaySettings::default(), &routes, &upstreams, None)
}

/// The service or workflow of a request, or why there is none.
fn ask(table: &Table, request: &str) -> String {
    let mut words = request.split(' ');
    let (method, url) = (words.next().unwrap(), words.next().unwrap());
    let (host, path) = url.split_at(url.find('/').unwrap());
    let headers: HeaderMap = words
        .map(|word| word.split_once('=').unwrap())
        .map(|(name, value)| (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap()))
        .collect();
    match table.find(host, &method.parse().unwrap(), path, &headers) {
        Ok(found) => {
            let target = match &found.route.target {
                Target::Service(target) => target.upstream.name.clone(),
                Target::Workflow(target) => format!("{:?} {}", found.role, target.workflow.name),
            };
            let parameters = found.parameters(path).into_iter().map(|(n, v)| format!(" {n}={v}"));
            std::iter::once(target).chain(parameters).collect()
        }
        Err(Unrouted::NotFound) => "404".to_owned(),
        Err(Unrouted::Method(allowed)) => {
            format!("405 {}", allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(","))
        }
    }
}

#[test]
fn a_request_goes_to_the_most_particular_route() {
    let table = table(
        "- { match: { path: '/*' }, service: a }\n\
         - { match: { path: '/x/*' }, service: b }\n\
         - { match: { path: '/x/{id}', method: [GET, PUT] }, service: c }\n\
         - { match: { path: '/x/one', method: POST }, service: d }\n\
         - { match: { path: '/only', host: api.example, method: GET }, service: d }\n\
         - { match: { path: '/*', host: '*.example' }, service: c }\n\
         - { match: { path: '/beta', headers: { x-beta: '*' } }, service: b }\n\
         - { match: { path: '/beta', headers: { x-beta: 'v2', x-more: '1' } }, service: d }\n\
         - { match: { path: '/orders/{customer}' }, workflow: shop/order }\n",
    )
    .unwrap();
    for (request, goes_to) in [
        ("GET h/", "a"),
        ("GET h/other", "a"),
        ("GET h/x", "b"),
        ("GET h/x/1", "c id=1"),
        ("HEAD h/x/1", "c id=1"),
        ("DELETE h/x/1", "b"),
        ("POST h/x/one", "d"),
        ("GET h/x/one", "c id=one"),
        ("GET h/x/1/2", "b"),
        ("GET api.example/only", "d"),
        ("POST api.example/only", "c"),
        ("GET other.example/x", "c"),
        ("GET example/x", "b"),
        ("GET h/beta", "a"),
        ("GET h/beta x-beta=v1", "b"),
        ("GET h/beta x-beta=v2", "b"),
        ("GET h/beta x-beta=v2 x-more=1", "d"),
        ("POST h/orders/7", "Main order customer=7"),
        ("GET h/orders/7", "a"),
        ("GET h/orders/7/instances/i", "Status order customer=7 instance=i"),
        ("GET h/orders/7/instances/i/events", "Events order customer=7 instance=i"),
        ("POST h/orders/7/instances/i", "a"),
    ] {
        assert_eq!(ask(&table, request), goes_to, "{request}");
    }
}

#[test]
fn a_path_without_the_method_says_which_there_are() {
    let table = table(
        "- { match: { path: /x, method: [PUT, GET] }, service: a }\n\
         - { match: { path: '/{any}', method: POST }, service: b }\n\
         - { match: { path: /orders }, workflow: shop/order }\n",
    )
    .unwrap();
    for (request, answer) in [
        ("DELETE h/x", "405 GET,HEAD,POST,PUT"),
        ("DELETE h/y", "405 POST"),
        ("DELETE h/orders", "405 POST"),
        ("POST h/orders/instances/i", "405 GET,HEAD"),
        ("GET h/y/z", "404"),
    ] {
        assert_eq!(ask(&table, request), answer, "{request}");
    }
}

#[test]
fn every_fault_is_told_with_its_line() {
    let faults = table(
        "- { match: { path: /a }, service: a }\n\
         - { match: { path: a }, service: nobody }\n\
         - { match: { path: /b } }\n\
         - { match: { path: '/c/*' }, workflow: shop/order, strip: /c }\n\
         - { match: { path: /d, method: get }, service: a, wait: 5s }\n\
         - { match: { path: /e }, workflow: order, wait: 1h }\n\
         - { match: { path: /a }, service: b }\n\
         - { match: { path: '/f/{x}', host: 'a b' }, service: b }\n\
         - { match: { path: '/f/{y}', host: 'A B' }, service: b, strip: '/{x}' }\n\
         - { match: { path: /g, headers: { 'a b': x } }, service: b }\n",
    )
    .unwrap_err();
    let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
    for (line, part) in [
        (2, "must begin with a slash"),
        (2, "`nobody` is not under `services`; there: a, b, c, d"),
        (3, "exactly one of `service` and `workflow`"),
        (4, "`strip` is for routes to a service"),
        (4, "not `/*`"),
        (5, "write it in capitals"),
        (5, "`wait` is for routes to a workflow"),
        (6, "write namespace/name"),
        (6, "at most 300 s"),
        (7, "the same requests as the 1. one"),
        (8, "is no host name"),
        (9, "the same requests as the 8. one"),
        (9, "must be a plain path"),
        (10, "cannot be a header"),
    ] {
        let place = format!("{line}:");
        assert!(told.iter().any(|t| t.starts_with(&place) && t.contains(part)), "{line} {part}: {told:#?}");
    }
}

#[test]
fn a_request_has_one_host() {
    for (uri, hosts, host) in [
        ("/x", vec!["Api.Example:8080"], Some("api.example")),
        ("http://api.example/x", vec!["api.example"], Some("api.example")),
        ("http://api.example/x", vec![], Some("api.example")),
        ("/x", vec!["[::1]:80"], Some("[::1]")),
        ("/x", vec![], None),
        ("/x", vec!["a", "b"], None),
        ("http://a/x", vec!["b"], None),
        ("/x", vec!["user@a"], None),
        ("/x", vec!["a/b"], None),
        ("/x", vec!["a b"], None),
    ] {
        let mut headers = HeaderMap::new();
        for host in &hosts {
            headers.append("host", HeaderValue::from_str(host).unwrap());
        }
        assert_eq!(host_of(&uri.parse().unwrap(), &headers).ok().as_deref(), host, "{uri} {hosts:?}");
    }
}

#[test]
fn a_route_whose_first_segment_is_known_hides_none_that_takes_any() {
    let table = table(
        "- { match: { path: '/*' }, service: a }\n\
         - { match: { path: '/k/*', method: GET }, service: b }\n\
         - { match: { path: '/{x}/a' }, service: c }\n\
         - { match: { path: '/k' , method: PUT }, service: d }\n",
    )
    .unwrap();
    for (request, goes_to) in [
        ("GET h/k/a", "b"),
        ("POST h/k/a", "c x=k"),
        ("GET h/q/a", "c x=q"),
        ("PUT h/k", "d"),
        ("POST h/k", "a"),
        ("GET h/kk", "a"),
        ("GET h/", "a"),
    ] {
        assert_eq!(ask(&table, request), goes_to, "{request}");
    }
}
