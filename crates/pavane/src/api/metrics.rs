//! `/metrics`: the engine's and the store's numbers, in the text format that Prometheus reads.

use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
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
        )?)
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
