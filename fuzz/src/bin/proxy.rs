//! A request at the gateway, from its line to what would be sent on.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pavane_fuzz::{head_and_body, header};
use pavane_gateway::fuzzing::Routes;
use pavane_gateway::settings::{GatewaySettings, RouteSettings};
use pavane_gateway::{Located, Setup};

/// Routes of every kind.
const ROUTES: &str = "
- { match: { path: /orders }, workflow: shop/order, input: request }
- { match: { path: '/orders/{id}/lines/{line}', method: [GET, PUT] }, service: a }
- { match: { path: '/a/*' }, service: a, strip: /a }
- { match: { path: '/*', host: '*.b.example' }, service: a }
- { match: { path: /deep/er, headers: { x-kind: '*' } }, service: a, strip: /deep }
";

static TABLE: LazyLock<Routes> = LazyLock::new(|| {
    let routes: Vec<Located<RouteSettings>> = serde_saphyr::from_str(ROUTES).expect("the routes are right");
    let services = [("a".to_owned(), vec!["http://127.0.0.1:1/base".to_owned()])].into();
    let setup = Setup { settings: GatewaySettings::default(), routes, services };
    Routes::new(&setup).expect("the routes are right")
});

fuzz_target!(|data: &[u8]| {
    let (head, body) = head_and_body(data);
    let mut lines = head.into_iter();
    let mut line = lines.next().unwrap_or_default().split(|byte| *byte == b' ');
    let (method, target) = (line.next().unwrap_or_default(), line.next().unwrap_or_default());
    let mut request = http::Request::builder().method(method).uri(target);
    for (name, value) in lines.filter_map(header) {
        request = request.header(name, value);
    }
    if let Ok(request) = request.body(body.to_vec()) {
        TABLE.take(request);
    }
});
