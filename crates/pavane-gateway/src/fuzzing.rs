//! Doors for fuzz targets: what happens to a request's line and headers, without sockets, and what must hold whatever
//! they are. Not part of the product.

use std::net::{IpAddr, Ipv4Addr};

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request};
use pavane_core::units::Block;

use crate::state::{Setup, upstreams};
use crate::table::{Role, Table, Target, host_of};
use crate::{auth, headers, path, proxy, workflow};

/// Routes to find requests by.
pub struct Routes(Table);

impl Routes {
    /// The routes of a setup that is without faults.
    pub fn new(setup: &Setup) -> Option<Routes> {
        let (upstreams, _) = upstreams(setup, None, &mut Vec::new());
        Table::build(&setup.settings, &setup.routes, &upstreams, None).ok().map(Routes)
    }

    /// Takes a request from its line to what would be sent on; panics when something does not hold.
    pub fn take(&self, request: Request<Vec<u8>>) {
        let (parts, body) = request.into_parts();
        let _ = auth::read(&parts.headers);
        let _ = workflow::Preferences::of(&parts.headers).map(|_| workflow::readable(&parts.headers));
        forwarded(&parts.headers);
        let (Ok(host), Ok(normal)) = (host_of(&parts.uri, &parts.headers), path::normalise(parts.uri.path())) else {
            return;
        };
        let normal = normal.into_owned();
        assert!(!host.contains(['@', ' ', '/']) && host == host.to_ascii_lowercase(), "{host:?}");
        assert_eq!(path::normalise(&normal).as_deref(), Ok(&*normal), "one form is the only one");
        let mut segments = normal.split('/').skip(1);
        assert!(normal.starts_with('/') && segments.all(|s| s != ".." && s != "."), "{normal:?}");
        assert!(!normal.contains("//") && !normal.contains('\\'), "{normal:?}");
        let Ok(found) = self.0.find(&host, &parts.method, &normal, &parts.headers) else { return };
        match &found.route.target {
            Target::Service(target) => {
                let mut parts = parts;
                let query = parts.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
                let Ok(uri) = format!("{normal}{query}").parse() else { return };
                parts.uri = uri;
                let sent = proxy::path_for(&parts, target.strip.as_ref());
                assert!(
                    sent.is_ok_and(|sent| sent.as_str().starts_with('/') && !sent.as_str().starts_with("//")),
                    "{normal:?}"
                );
            }
            Target::Workflow(_) if found.role == Role::Main => {
                let input = workflow::request_as_input(&parts, &found.parameters(&normal), &body);
                let read = input.map(|input| serde_json::from_slice::<serde_json::Value>(&input));
                assert!(read.is_err() || read.is_ok_and(|input| input.is_ok()), "the input is JSON");
            }
            Target::Workflow(_) => {
                assert!(!found.parameters(&normal).is_empty(), "an instance's route names the instance")
            }
        }
    }
}

/// What of the headers goes on to a service.
fn forwarded(came: &HeaderMap) {
    let peer = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
    for trusted in [false, true] {
        let blocks = if trusted { vec![Block::new(peer, 32)] } else { Vec::new() };
        let client = headers::client(peer, came, &blocks);
        assert!(trusted || client == peer, "a stranger does not say who it is");
        let id = headers::request_id(came, trusted);
        assert!(id.to_str().is_ok_and(|id| !id.is_empty()), "{id:?}");
        let mut map = came.clone();
        headers::end_request_hop(&mut map, trusted);
        headers::forward(
            &mut map,
            &headers::Came {
                peer: &headers::Client::of(peer),
                host: &HeaderValue::from_static("shop.example"),
                tls: true,
                trusted,
            },
        );
        let gone = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::PROXY_AUTHORIZATION];
        let own = |name: &HeaderName| name.as_str().starts_with("pavane-") || name.as_str().contains('_');
        assert!(!map.keys().any(|name| gone.contains(name) || own(name)), "{map:?}");
        for name in ["x-forwarded-for", "forwarded"] {
            let values: Vec<_> = map.get_all(name).iter().collect();
            let [value] = values.as_slice() else { panic!("{name} is there {} times", values.len()) };
            let last = value.to_str().unwrap_or_default().rsplit(',').next().unwrap_or_default().trim().to_owned();
            assert!(last.contains("203.0.113.9"), "who came last stands last: {last}");
        }
        assert!(map.get_all(header::TE).iter().all(|value| value == "trailers"));
    }
}
