//! Who asks, and whether they may: before anything is done for them.

use http::header::{self, HeaderValue};
use http::{HeaderName, StatusCode};

use super::{Filter, Later, Next};
use crate::auth::API_KEY;
use crate::exchange::Exchange;
use crate::problem::Problem;
use crate::settings::Way;
use crate::table::Route;

/// What the service is told about the caller. Clients cannot send these: names of the gateway's own are removed.
pub(crate) const CALLER: HeaderName = HeaderName::from_static("pavane-caller");
pub(crate) const SCOPES: HeaderName = HeaderName::from_static("pavane-scopes");

/// Authentication and scopes.
pub(super) struct Authenticate;

impl Filter for Authenticate {
    fn applies(&self, route: &Route) -> bool {
        !route.auth.is_empty()
    }

    fn call(&self, mut exchange: Box<Exchange>, next: Next) -> Later<'_> {
        Box::pin(async move {
            let route = exchange.found.route.clone();
            let state = exchange.state.clone();
            let certificate = exchange.came.certificate.as_deref();
            let known = state.auth.caller(&route.auth, exchange.request.headers(), certificate, &state.clients).await;
            let caller = match known {
                Ok(caller) => caller,
                Err(problem) => return problem.into_response(),
            };
            if !route.scopes.iter().all(|scope| caller.scopes.contains(scope)) {
                let mut problem = Problem::new(StatusCode::FORBIDDEN, "insufficient_scope");
                if route.auth.contains(&Way::Jwt)
                    && let Ok(challenge) = HeaderValue::try_from(format!(
                        "Bearer error=\"insufficient_scope\", scope=\"{}\"",
                        route.scopes.join(" ")
                    ))
                {
                    problem = problem.header(header::WWW_AUTHENTICATE, challenge);
                }
                return problem.into_response();
            }
            // A secret has done its work here; a token may be needed behind.
            let headers = exchange.request.headers_mut();
            headers.remove(API_KEY);
            if caller.name.starts_with("basic ") {
                headers.remove(header::AUTHORIZATION);
            }
            exchange.caller = Some(caller);
            next.run(exchange).await
        })
    }
}
