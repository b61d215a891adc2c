//! Rate limits of a route. Those by address come before authentication, so that nobody can try secrets as fast as they
//! like; those by caller come after it, because only then there is one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, StatusCode};

use super::{Filter, Later, Next};
use crate::exchange::Exchange;
use crate::problem::Problem;
use crate::rate::{Limiter, Per, Verdict, Who};
use crate::table::Route;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Limits that need no caller.
pub(super) struct ByAddress;
/// Limits for each caller.
pub(super) struct ByCaller;

impl Filter for ByAddress {
    fn applies(&self, route: &Route) -> bool {
        route.limiters.iter().any(|l| l.rate.per != Per::Key)
    }

    fn call(&self, exchange: Box<Exchange>, next: Next) -> Later<'_> {
        Box::pin(count(exchange, next, |per| per != Per::Key))
    }
}

impl Filter for ByCaller {
    fn applies(&self, route: &Route) -> bool {
        route.limiters.iter().any(|l| l.rate.per == Per::Key)
    }

    fn call(&self, exchange: Box<Exchange>, next: Next) -> Later<'_> {
        Box::pin(count(exchange, next, |per| per == Per::Key))
    }
}

async fn count(exchange: Box<Exchange>, next: Next, which: fn(Per) -> bool) -> crate::exchange::Answered {
    let now = exchange.began;
    let route = exchange.found.route.clone();
    let mut tightest: Option<Verdict> = None;
    for limiter in route.limiters.iter().filter(|l| which(l.rate.per)) {
        let verdict = ask(limiter, &exchange, now);
        if !verdict.allowed {
            let problem =
                Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited").retry_after(seconds(verdict.retry));
            return told(problem.into_response(), verdict);
        }
        tightest = tightest.filter(|t| t.remaining <= verdict.remaining).or(Some(verdict));
    }
    let answer = next.run(exchange).await;
    match tightest {
        // A tighter one further in has told already.
        Some(verdict) if !answer.headers().contains_key(LIMIT) => told(answer, verdict),
        _ => answer,
    }
}

fn ask(limiter: &Arc<Limiter>, exchange: &Exchange, now: Instant) -> Verdict {
    let who = match (limiter.rate.per, &exchange.caller) {
        (Per::Route, _) => Who::Everybody,
        (Per::Key, Some(caller)) => Who::Caller(&caller.name),
        (Per::Client | Per::Key, _) => Who::at(exchange.came.client.address),
    };
    limiter.count(who, now)
}

fn told(mut answer: crate::exchange::Answered, verdict: Verdict) -> crate::exchange::Answered {
    let headers = answer.headers_mut();
    headers.insert(LIMIT, HeaderValue::from(verdict.limit));
    headers.insert(REMAINING, HeaderValue::from(verdict.remaining));
    headers.insert(RESET, HeaderValue::from(seconds(verdict.reset)));
    answer
}

/// Whole seconds, never too few.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
