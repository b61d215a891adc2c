//! `/metrics`: the engine's and the store's numbers, in the text format that Prometheus reads.

use axum::http::header;
use axum::response::IntoResponse;
use pavane_gateway::{Snapshot, UpstreamNumbers};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
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
        match self.0.gateway() {
            Some(gateway) => gateway_numbers(&gateway.numbers(), &mut encoder),
            None => Ok(()),
        }
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
