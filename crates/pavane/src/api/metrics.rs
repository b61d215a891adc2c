//! `/metrics`: the numbers of engine, participants, store, gates and gateway. Labels are names of configured services and
//! routes, words of this file, and names that users give, of which there are as many as [`pavane_watch::Family`] allows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use pavane_core::definition::Mode;
use pavane_core::policy::{BreakerState, Reason, Standing};
use pavane_gateway::{RouteNumbers, Snapshot, UpstreamNumbers};
use pavane_runtime::effects::Traffic;
use pavane_runtime::watch::{CODES, ENDS, KINDS, Watch, WorkflowNumbers};
use pavane_watch::{OTHER, Reading, SECONDS, Spans};

use super::exposition::{Form, Kind, Page};
use super::stuck::Backlog;
use super::{ApiError, Shared};
use crate::server::Running;

use Kind::{Counter, Gauge, Histogram};

/// Routes with numbers of their own; those behind them in the file are counted together as [`OTHER`].
const MAX_ROUTES: usize = 200;

/// How a compensation can end, as a label.
const UNDONE: &str = "undone";
const UNRESOLVED: &str = "unresolved";

pub(super) async fn metrics(api: Shared, headers: HeaderMap) -> Result<impl IntoResponse, ApiError> {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let form = Form::accepted(&accept.collect::<Vec<_>>().join(","));
    let mut page = Page::new(form);
    let (running, backlog) = (&api.running, api.backlog().await?);
    let dropped = running.gateway().map_or(0, |gateway| gateway_numbers(&mut page, &gateway.numbers()));
    process(&mut page, running);
    waiting(&mut page, running, &backlog);
    workflows(&mut page, &running.watch);
    services(&mut page, &running.network.traffic(), &running.watch);
    store(&mut page, running);
    spans(&mut page, &running.watch.spans);
    labels(&mut page, &running.watch, dropped);
    Ok(([(header::CONTENT_TYPE, form.content_type())], page.finish()))
}

/// What the process did since it began.
fn process(page: &mut Page, running: &Running) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.family("pavane_build_info", "The program that runs", Gauge).sample(&version, 1);
    let (counters, totals) = (running.engine.counters(), running.totals());
    for (name, help, value) in [
        ("pavane_instances_started", "Instances started", counters.started),
        ("pavane_steps", "Steps committed: one for each durable decision", totals.steps),
        ("pavane_batches", "Batches handed to the engine's store", counters.batches),
        ("pavane_calls", "Service calls made", totals.calls),
        ("pavane_call_retries", "Service calls that repeat an attempt of the same task", totals.retries),
        ("pavane_messages", "Messages delivered between engine and participants", totals.messages),
        ("pavane_message_refusals", "Times a message was not taken by its receiver", totals.refusals),
        (
            "pavane_oversize_messages",
            "Messages that were larger than `limits.token` allows: the tasks they would have led to failed",
            totals.oversize,
        ),
        ("pavane_late_callbacks", "Callbacks that nobody waited for any more", totals.late_callbacks),
        ("pavane_dead_letters", "Messages that became dead letters", totals.dead_letters),
        ("pavane_store_transactions", "Transactions made durable, each with one fsync", totals.transactions),
        ("pavane_store_commits", "Commits made durable", totals.commits),
        ("pavane_store_bytes", "Bytes of rows made durable", totals.bytes),
    ] {
        page.one(name, help, Counter, value);
    }
    for (status, value) in counters.ended {
        page.one(&format!("pavane_instances_{status}"), "Instances that ended so", Counter, value);
    }
    page.one("pavane_instances_active", "Instances in memory", Gauge, counters.active);
}

/// What waits, and where.
fn waiting(page: &mut Page, running: &Running, backlog: &Backlog) {
    let lag = &backlog.lag;
    let help = "Instances with work that nobody has taken for too long, as of a few seconds ago";
    page.one("pavane_stuck_instances", help, Gauge, lag.stuck_instances);
    let help = "Messages that nobody has taken for too long, dead letters included, as of a few seconds ago";
    page.one("pavane_stuck_messages", help, Gauge, lag.stuck_messages);
    let help = "Published events that were not delivered to everybody who listens, as of a few seconds ago";
    page.one("pavane_outbox_events", help, Gauge, backlog.events);
    let help = "Instances that have not ended, by status, as of a few seconds ago";
    let mut open = page.family("pavane_instances_open", help, Gauge);
    backlog.open.iter().for_each(|(status, count)| open.sample(&[("status", status.as_str())], *count));
    let engines = running.engines();
    let help = "Inputs that wait to be decided, by location";
    let mut queued = page.family("pavane_queued_inputs", help, Gauge);
    engines.iter().for_each(|engine| queued.sample(&[("location", engine.location())], engine.queued()));
    let help = "Messages sent and not taken yet, by the location that sent them";
    let mut outbox = page.family("pavane_outbox_messages", help, Gauge);
    engines.iter().for_each(|engine| outbox.sample(&[("location", engine.location())], engine.progress().waiting));
    // Everybody is told of, or one that catches up would stay where it was.
    let known = running.participant_names().into_iter().map(|name| (name, 0.0));
    let mut behind: BTreeMap<String, f64> = known.collect();
    behind.extend(lag.behind.iter().map(|(name, age)| (name.clone(), age.as_secs_f64())));
    let help = "How long the oldest message to a participant has been on its way, from a second on";
    let mut family = page.family("pavane_participant_lag_seconds", help, Gauge);
    behind.iter().for_each(|(name, age)| family.sample(&[("participant", name)], age));
}

/// Numbers of each workflow.
fn workflows(page: &mut Page, watch: &Watch) {
    let all = watch.workflows.all();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let help = "Instances started, by workflow and mode";
    let mut started = page.family("pavane_workflow_instances_started", help, Counter);
    for (workflow, numbers) in &all {
        for (mode, count) in Mode::ALL.iter().zip(&numbers.started).filter(|(_, count)| read(count) > 0) {
            started.sample(&[("workflow", workflow), ("mode", mode.as_str())], read(count));
        }
    }
    let lives: Vec<(&str, &str, &str, Reading)> = all
        .iter()
        .flat_map(|(workflow, numbers)| {
            let modes = Mode::ALL.iter().zip(&numbers.lives);
            modes.flat_map(move |(mode, lives)| {
                let ends = ENDS.iter().zip(lives).filter_map(|(end, life)| Some((end, life.get()?.read())));
                ends.map(move |(end, life)| (workflow.as_str(), mode.as_str(), end.as_str(), life))
            })
        })
        .collect();
    let help = "Instances that ended, by workflow, mode and status";
    let mut ended = page.family("pavane_workflow_instances_ended", help, Counter);
    for (workflow, mode, status, life) in &lives {
        ended.sample(&[("workflow", workflow), ("mode", mode), ("status", status)], life.count());
    }
    let help = "How long instances took from start to end";
    let mut family = page.family("pavane_workflow_duration_seconds", help, Histogram);
    for (workflow, mode, status, life) in &lives {
        family.histogram(&[("workflow", workflow), ("mode", mode), ("status", status)], life);
    }
    let mut family = page.family("pavane_task_duration_seconds", "How long tasks took from start to end", Histogram);
    for (workflow, numbers) in &all {
        for (kind, tasks) in KINDS.iter().zip(&numbers.tasks) {
            for (end, task) in ENDS.iter().zip(tasks) {
                let Some(task) = task.get() else { continue };
                family.histogram(&[("workflow", workflow), ("kind", kind), ("status", end.as_str())], &task.read());
            }
        }
    }
    let help = "Attempts that follow a failed one, of tries and of compensations";
    let mut retries = page.family("pavane_task_retries", help, Counter);
    all.iter().for_each(|(workflow, numbers)| retries.sample(&[("workflow", workflow)], read(&numbers.retries)));
    let help = "Effects to be undone, by what came of it";
    let mut compensations = page.family("pavane_compensations", help, Counter);
    for (workflow, WorkflowNumbers { undone, unresolved, .. }) in all.iter().map(|(name, numbers)| (name, &**numbers)) {
        for (result, count) in [(UNDONE, undone), (UNRESOLVED, unresolved)] {
            compensations.sample(&[("workflow", workflow), ("result", result)], read(count));
        }
    }
}

/// A number of each service: its name, what it means, and how it is read.
type OfService<T> = (&'static str, &'static str, fn(&Standing) -> T);

const GAUGES: [OfService<f64>; 6] = [
    ("in_flight", "Calls in flight", |s| f64::from(s.in_flight)),
    ("in_flight_limit", "Calls that may be in flight", |s| f64::from(s.limit)),
    ("waiting", "Calls that wait for their turn", |s| s.waiting as f64),
    ("oldest_waiting_seconds", "How long the call has waited that came first", |s| s.oldest.as_secs_f64()),
    ("utilisation", "Part of the places that was taken over the last while, from 0 to 1", |s| s.utilisation),
    ("breaker_state", "0 closed or no breaker, 1 half-open, 2 open", |s| match s.breaker {
        None | Some(BreakerState::Closed) => 0.0,
        Some(BreakerState::HalfOpen) => 1.0,
        Some(BreakerState::Open) => 2.0,
    }),
];

const COUNTERS: [OfService<u64>; 6] = [
    ("calls", "Calls let through", |s| s.counts.passed),
    ("calls_retries", "Calls let through that repeat a failed one", |s| s.counts.retries),
    ("calls_waited", "Calls let through that had to wait", |s| s.counts.waited),
    ("calls_late", "Calls whose deadline came before their turn", |s| s.counts.late),
    ("calls_refused", "Calls refused because too many waited", |s| s.counts.refused),
    ("breaker_opened", "Times the breaker opened", |s| s.counts.opened),
];

/// What is on its way to each service, and how its calls went. `traffic` is one look at each, so that the numbers of one
/// scrape fit together.
fn services(page: &mut Page, traffic: &[Traffic], watch: &Watch) {
    let help = "How long calls took once they were sent, by service and first digit of the status";
    let mut family = page.family("pavane_service_call_duration_seconds", help, Histogram);
    for (service, numbers) in watch.services.all() {
        for (code, calls) in CODES.iter().zip(&numbers.calls) {
            let Some(calls) = calls.get() else { continue };
            family.histogram(&[("service", &service), ("code", code)], &calls.read());
        }
    }
    for (name, help, read) in GAUGES {
        let name = format!("pavane_service_{name}");
        let mut family = page.family(&name, help, Gauge);
        for Traffic { service, standing, .. } in traffic {
            family.sample(&[("service", &service.name)], read(standing));
        }
    }
    for (name, help, read) in COUNTERS {
        let name = format!("pavane_service_{name}");
        let mut family = page.family(&name, help, Counter);
        for Traffic { service, standing, .. } in traffic {
            family.sample(&[("service", &service.name)], read(standing));
        }
    }
    let help = "How long calls waited for their turn, by reason";
    let mut family = page.family("pavane_service_waited_seconds", help, Counter);
    for Traffic { service, standing, .. } in traffic {
        for reason in Reason::ALL {
            let labels = [("service", service.name.as_str()), ("reason", reason.as_str())];
            family.sample(&labels, standing.counts.held.by(reason).as_secs_f64());
        }
    }
}

/// How the store's transactions went.
fn store(page: &mut Page, running: &Running) {
    let Some((groups, syncs)) = running.sqlite.as_ref().map(|file| file.distributions()) else { return };
    let help = "Commits that shared a transaction";
    page.family("pavane_store_transaction_commits", help, Histogram).histogram(&[], &groups);
    let help = "How long transactions took to become durable, once they were written: fsync, above all";
    page.family("pavane_store_sync_seconds", help, Histogram).histogram(&[], &syncs);
}

/// What became of spans, where they are taken.
fn spans(page: &mut Page, spans: &Spans) {
    if spans.are_taken() {
        page.one("pavane_trace_spans_exported", "Spans that the collector took", Counter, spans.sent());
        let help = "Spans that were lost: the collector did not take them, or too many waited";
        page.one("pavane_trace_spans_dropped", help, Counter, spans.dropped());
        page.one("pavane_trace_spans_waiting", "Spans that wait to be sent", Gauge, spans.waiting());
    }
}

/// Names that have no numbers of their own.
fn labels(page: &mut Page, watch: &Watch, routes: usize) {
    let help = "Times that a name was new and had no room: it is counted as `other`";
    let mut family = page.family("pavane_metrics_labels_dropped", help, Counter);
    family.sample(&[("label", "workflow")], watch.workflows.dropped());
    family.sample(&[("label", "service")], watch.services.dropped());
    family.sample(&[("label", "route")], routes);
}

/// Numbers of the gateway: of the routes and services of the configuration, and nothing that a client sends. Gives how many
/// routes have none of their own.
fn gateway_numbers(page: &mut Page, numbers: &Snapshot) -> usize {
    page.one("pavane_gateway_connections", "Connections to the gateway that are open", Gauge, numbers.connections);
    let help = "Requests that no route took, or that were refused before";
    page.one("pavane_gateway_unrouted", help, Counter, numbers.unrouted);
    let (routes, rest) = numbers.routes.split_at(numbers.routes.len().min(MAX_ROUTES));
    let mut routes = routes.to_vec();
    routes.extend(together(rest));
    let help = "Answers of the gateway, by route and first digit of the status";
    let mut answers = page.family("pavane_gateway_answers", help, Counter);
    for route in &routes {
        for (digit, count) in route.answers.iter().enumerate().filter(|(_, count)| **count > 0) {
            answers.sample(&[("route", &route.route), ("status", &format!("{digit}xx"))], count);
        }
    }
    let help = "Time from requests to the beginning of their answers";
    let mut times = page.family("pavane_gateway_request_duration_seconds", help, Histogram);
    for route in &routes {
        for (digit, reading) in route.times.iter().enumerate() {
            let Some(reading) = reading else { continue };
            times.histogram(&[("route", &route.route), ("status", &format!("{digit}xx"))], reading);
        }
    }
    let help = "Requests whose answer has not ended, by route";
    let mut requests = page.family("pavane_gateway_requests_in_flight", help, Gauge);
    routes.iter().for_each(|route| requests.sample(&[("route", &route.route)], route.in_flight));
    for (name, help, of) in [
        ("pavane_gateway_urls", "URLs of a service", (|u| u.urls) as fn(&UpstreamNumbers) -> usize),
        ("pavane_gateway_urls_well", "URLs of a service that get requests", |u| u.well),
        ("pavane_gateway_service_requests_in_flight", "Requests of the gateway at a service", |u| u.in_flight),
    ] {
        let mut family = page.family(name, help, Gauge);
        numbers.upstreams.iter().for_each(|upstream| family.sample(&[("service", &upstream.service)], of(upstream)));
    }
    let help = "Requests that may be at a service at once, as learned, where load is shed";
    let mut limits = page.family("pavane_gateway_learned_limit", help, Gauge);
    for upstream in &numbers.upstreams {
        if let Some(limit) = upstream.limit {
            limits.sample(&[("service", &upstream.service)], limit);
        }
    }
    rest.len()
}

/// Numbers of several routes as those of one.
fn together(routes: &[RouteNumbers]) -> Option<RouteNumbers> {
    let none = RouteNumbers { route: OTHER.to_owned(), answers: [0; 6], times: [const { None }; 6], in_flight: 0 };
    (!routes.is_empty()).then(|| {
        routes.iter().fold(none, |mut all, route| {
            all.in_flight += route.in_flight;
            all.answers.iter_mut().zip(&route.answers).for_each(|(sum, count)| *sum += count);
            for (sum, reading) in all.times.iter_mut().zip(&route.times) {
                if let Some(reading) = reading {
                    sum.get_or_insert_with(|| Reading::none(SECONDS)).add(reading);
                }
            }
            all
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_past_the_limit_are_counted_together() {
        let histogram = pavane_watch::Histogram::new(SECONDS);
        histogram.record(0.02, None);
        let route = |number: usize| RouteNumbers {
            route: format!("{number} /r{number}"),
            answers: [0, 0, 1, 0, 0, 0],
            times: [None, None, Some(histogram.read()), None, None, None],
            in_flight: 1,
        };
        let numbers = Snapshot { routes: (1..=MAX_ROUTES + 3).map(route).collect(), ..Snapshot::default() };
        let mut page = Page::new(Form::OpenMetrics);
        assert_eq!(gateway_numbers(&mut page, &numbers), 3);
        let text = page.finish();
        for line in [
            "pavane_gateway_answers_total{route=\"200 /r200\",status=\"2xx\"} 1\n",
            "pavane_gateway_answers_total{route=\"other\",status=\"2xx\"} 3\n",
            "pavane_gateway_requests_in_flight{route=\"other\"} 3\n",
            "pavane_gateway_request_duration_seconds_count{route=\"other\",status=\"2xx\"} 3\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("201 /r201"), "{text}");
    }
}
