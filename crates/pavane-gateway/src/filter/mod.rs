//! What happens to a request between its route and its target, and in which order: [`ORDER`].
//!
//! A filter wraps those after it: it may answer by itself, change the request on the way in and the answer on the way
//! out. A new one is a file here, a unit struct, and its line in the array.

pub(crate) mod authenticate;
mod cache;
mod compress;
pub(crate) mod cors;
mod rate;
mod shed;

use std::future::Future;
use std::pin::Pin;

use crate::exchange::{Answered, Exchange};
use crate::table::{Route, Target};
use crate::{proxy, workflow};

/// The order of filters. The reasons stand beside them.
static ORDER: [&dyn Filter; 7] = [
    // First: every answer needs its marks, and a preflight carries no secret.
    &cors::Cors,
    // Before secrets are tried: guessing has a rate, too.
    &rate::ByAddress,
    // Before anything is done for the caller.
    &authenticate::Authenticate,
    // Only now there is a caller to count.
    &rate::ByCaller,
    // Around the cache, which keeps answers as they came.
    &compress::Compress,
    // Behind authentication and rates: what is kept is no way around them.
    &cache::Cache,
    // Last: only what would reach the service takes a place there.
    &shed::Shed,
];

/// What a filter gives, in time.
pub(crate) type Later<'a> = Pin<Box<dyn Future<Output = Answered> + Send + 'a>>;

/// One thing that happens to requests.
pub(crate) trait Filter: Sync {
    /// Whether a route has it.
    fn applies(&self, route: &Route) -> bool;

    /// Does it, and goes on with `next` unless it answers by itself.
    fn call<'a>(&'a self, exchange: Box<Exchange>, next: Next) -> Later<'a>;
}

/// The filters that are still to come.
#[derive(Clone, Copy)]
pub(crate) struct Next(&'static [&'static dyn Filter]);

impl Next {
    /// All of them.
    pub fn all() -> Next {
        Next(&ORDER)
    }

    /// Goes on.
    pub fn run(self, exchange: Box<Exchange>) -> Later<'static> {
        let mut rest = self.0;
        while let Some((filter, after)) = rest.split_first() {
            rest = after;
            if filter.applies(&exchange.found.route) {
                return filter.call(exchange, Next(rest));
            }
        }
        Box::pin(async move {
            let route = exchange.found.route.clone();
            let answer = match &route.target {
                Target::Service(target) => proxy::answer(exchange, target).await,
                Target::Workflow(target) => workflow::answer(exchange, target).await,
            };
            answer.unwrap_or_else(|problem| problem.into_response())
        })
    }
}
