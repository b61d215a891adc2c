//! `/metrics`: the numbers of the engine, the store and the gates before services, in the text format that Prometheus
//! reads. Labels are names of configured services and words of this file: their number is bounded.

use axum::http::header;
use axum::response::IntoResponse;
use pavane_core::policy::{BreakerState, Reason, Standing};
use pavane_runtime::effects::Traffic;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

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
        self.services(&mut encoder)
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

pub(super) async fn metrics(api: Shared) -> Result<impl IntoResponse, ApiError> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Numbers(api.running.clone(), api.count_stuck().await?)));
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|e| ApiError::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, "metrics_failed", e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}
