//! Refusing early what a service could only answer late.

use std::sync::Arc;

use http::StatusCode;

use super::{Filter, Later, Next};
use crate::body::Whole;
use crate::exchange::Exchange;
use crate::problem::Problem;
use crate::shed::Concurrency;
use crate::table::{Route, Target};

/// Sheds load of services with `shed: true`.
pub(super) struct Shed;

impl Filter for Shed {
    fn applies(&self, route: &Route) -> bool {
        matches!(&route.target, Target::Service(target) if target.upstream.settings.shed)
    }

    fn call(&self, exchange: Box<Exchange>, next: Next) -> Later<'_> {
        Box::pin(async move {
            let Target::Service(target) = &exchange.found.route.target else { return next.run(exchange).await };
            let Some(mut turn) = Turn::take(&target.upstream.concurrency, exchange.whole.clone()) else {
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded").retry_after(1);
                return problem.into_response();
            };
            let answer = next.run(exchange).await;
            // An answer that says "too much" is no sign of quickness.
            turn.late = matches!(
                answer.status(),
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
            );
            turn.answered = true;
            answer
        })
    }
}

/// A request among those at once; a client that goes away ends it without having taught anything.
struct Turn {
    concurrency: Arc<Concurrency>,
    begun: u32,
    whole: Whole,
    answered: bool,
    late: bool,
}

impl Turn {
    fn take(concurrency: &Arc<Concurrency>, whole: Whole) -> Option<Turn> {
        let begun = concurrency.begin()?;
        Some(Turn { concurrency: concurrency.clone(), begun, whole, answered: false, late: false })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Counted from the end of the request: a client that sends slowly teaches nothing about the service.
        match (self.answered, self.whole.since(), self.late) {
            (true, Some(since), false) => self.concurrency.end(self.begun, Some(since.elapsed())),
            (true, Some(_), true) => self.concurrency.end(self.begun, None),
            _ => self.concurrency.leave(),
        }
    }
}
