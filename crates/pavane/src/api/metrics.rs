//! `/metrics`: the numbers of the engine, the store and the gates before services, in the text format that Prometheus
//! reads. Labels are names of configured services and words of this file: their number is bounded.

use axum::http::header;
use axum::response::IntoResponse;
use pavane_core::policy::{BreakerState, Reason, Standing};
use pavane_gateway::{Snapshot, UpstreamNumbers};
use pavane_runtime::effects::Traffic;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::{ApiError, Shared};
use crate::server::Running;

#[derive(Debug)]
struct Numbers(Running, usize);

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counters = self.0.engine.counters();
        let totals = self.0.totals();
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
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        for (status, value) in counters.ended {
            let counter = ConstCounter::new(value);
            let name = format!("pavane_instances_{status}");
            counter.encode(encoder.encode_descriptor(
                &name,
                "Instances that ended so",
                None,
                counter.metric_type(),
            )?)?;
        }
        let gauge = ConstGauge::new(i64::try_from(self.1).unwrap_or(i64::MAX));
        gauge.encode(encoder.encode_descriptor(
            "pavane_stuck_instances",
            "Instances with work that nobody has taken for too long, as of a few seconds ago",
            None,
            gauge.metric_type(),
        )?)?;
        let gauge = ConstGauge::new(i64::try_from(counters.active).unwrap_or(i64::MAX));
        gauge.encode(encoder.encode_descriptor(
            "pavane_instances_active",
            "Instances in memory",
            None,
            gauge.metric_type(),
        )?)?;
        self.services(&mut encoder)?;
        match self.0.gateway() {
            Some(gateway) => gateway_numbers(&gateway.numbers(), &mut encoder),
            None => Ok(()),
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

impl Numbers {
    /// What is on its way to each service.
    fn services(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        // One look at each, so that the numbers of one scrape fit together.
        let traffic: Vec<Traffic> = self.0.network.traffic();
        if traffic.is_empty() {
            return Ok(());
        }
        for (name, help, read) in GAUGES {
            let name = format!("pavane_service_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            for Traffic { service, standing, .. } in &traffic {
                let labels = [("service", service.name.as_str())];
                family.encode_family(&labels)?.encode_gauge(&read(standing))?;
            }
        }
        for (name, help, read) in COUNTERS {
            let name = format!("pavane_service_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for Traffic { service, standing, .. } in &traffic {
                let labels = [("service", service.name.as_str())];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&read(standing), None)?;
            }
        }
        let (name, help) = ("pavane_service_waited_seconds", "How long calls waited for their turn, by reason");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for Traffic { service, standing, .. } in &traffic {
            for reason in Reason::ALL {
                let labels = [("service", service.name.as_str()), ("reason", reason.as_str())];
                let seconds = standing.counts.held.by(reason).as_secs_f64();
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
            }
        }
        Ok(())
    }
}

/// Numbers of the gateway. Their labels are the routes and services of the configuration, and nothing that a client sends.
fn gateway_numbers(numbers: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    let whole = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let gauge = ConstGauge::new(whole(numbers.connections));
    let help = "Connections to the gateway that are open";
    gauge.encode(encoder.encode_descriptor("pavane_gateway_connections", help, None, gauge.metric_type())?)?;
    let counter = ConstCounter::new(numbers.unrouted);
    let help = "Requests that no route took, or that were refused before";
    counter.encode(encoder.encode_descriptor("pavane_gateway_unrouted", help, None, counter.metric_type())?)?;
    let help = "Answers of the gateway, by route and first digit of the status";
    let mut answers = encoder.encode_descriptor("pavane_gateway_answers", help, None, MetricType::Counter)?;
    for route in &numbers.routes {
        for (digit, count) in route.answers.iter().enumerate().filter(|(_, count)| **count > 0) {
            let labels = [("route", route.route.clone()), ("status", format!("{digit}xx"))];
            ConstCounter::new(*count).encode(answers.encode_family(&labels)?)?;
        }
    }
    let help = "Time from requests to the beginning of their answers, in sum";
    let unit = Unit::Seconds;
    let mut times = encoder.encode_descriptor("pavane_gateway_answer_time", help, Some(&unit), MetricType::Counter)?;
    for route in &numbers.routes {
        ConstCounter::new(route.seconds).encode(times.encode_family(&[("route", route.route.clone())])?)?;
    }
    let help = "Requests whose answer has not ended, by route";
    let mut requests = encoder.encode_descriptor("pavane_gateway_requests_in_flight", help, None, MetricType::Gauge)?;
    for route in &numbers.routes {
        let count = i64::try_from(route.in_flight).unwrap_or(i64::MAX);
        ConstGauge::new(count).encode(requests.encode_family(&[("route", route.route.clone())])?)?;
    }
    for (name, help, of) in [
        ("pavane_gateway_urls", "URLs of a service", (|u| u.urls) as fn(&UpstreamNumbers) -> usize),
        ("pavane_gateway_urls_well", "URLs of a service that get requests", |u| u.well),
        ("pavane_gateway_service_requests_in_flight", "Requests of the gateway at a service", |u| u.in_flight),
    ] {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for upstream in &numbers.upstreams {
            let labels = [("service", upstream.service.clone())];
            ConstGauge::new(whole(of(upstream))).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "Requests that may be at a service at once, as learned, where load is shed";
    let mut limits = encoder.encode_descriptor("pavane_gateway_learned_limit", help, None, MetricType::Gauge)?;
    for upstream in &numbers.upstreams {
        if let Some(limit) = upstream.limit {
            ConstGauge::new(limit).encode(limits.encode_family(&[("service", upstream.service.clone())])?)?;
        }
    }
    Ok(())
}

pub(super) async fn metrics(api: Shared) -> Result<impl IntoResponse, ApiError> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Numbers(api.running.clone(), api.count_stuck().await?)));
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|e| ApiError::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, "metrics_failed", e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}
