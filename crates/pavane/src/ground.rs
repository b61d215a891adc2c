//! What an engine stands on in a process, made of the configuration: its effects, what they count and trace, its options.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pavane_core::Value;
use pavane_core::engine::Host;
use pavane_runtime::Options;
use pavane_runtime::effects::{Network, NetworkOptions};
use pavane_runtime::watch::Watch;
use pavane_watch::Span;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::traces::{self, Export};

/// What an engine stands on, whichever it is.
pub(crate) struct Ground {
    /// The effects it performs.
    pub network: Network,
    /// What they count and trace.
    pub watch: Arc<Watch>,
    /// Where their traces go.
    pub export: Option<Arc<Export>>,
}

impl Ground {
    /// Lays it by a configuration, and gives the options of an engine on it.
    ///
    /// # Errors
    /// What is wrong with the configuration, a line each.
    pub fn lay(
        config: &Config,
        more_secrets: BTreeMap<String, Value>,
        resolve: Vec<(String, Option<u16>, SocketAddr)>,
    ) -> Result<(Ground, Options), Vec<String>> {
        let mut secrets = config.secrets()?;
        secrets.extend(more_secrets);
        let (spans, queue) = traces::spans(config.traces.as_ref());
        let watch = Arc::new(Watch::new(spans));
        let network = network(config, &secrets, resolve, &watch)?;
        let export = export(config, &network, &watch, queue)?;
        let options = Options { watch: watch.clone(), ..options(config, secrets) };
        Ok((Ground { network, watch, export }, options))
    }
}

/// Sends what is traced where a configuration says.
fn export(
    config: &Config,
    network: &Network,
    watch: &Watch,
    queue: Option<mpsc::Receiver<Span>>,
) -> Result<Option<Arc<Export>>, Vec<String>> {
    let Some((traces, queue)) = config.traces.as_ref().zip(queue) else { return Ok(None) };
    let export = Export::begin(traces, network.options(), watch.spans.clone(), queue)?;
    Ok(Some(Arc::new(export)))
}

/// The effects of a configuration.
fn network(
    config: &Config,
    secrets: &BTreeMap<String, Value>,
    resolve: Vec<(String, Option<u16>, SocketAddr)>,
    watch: &Arc<Watch>,
) -> Result<Network, Vec<String>> {
    let defaults = NetworkOptions::default();
    let http = &config.http;
    let options = NetworkOptions {
        services: config.services()?,
        secrets: secrets.clone(),
        egress: config.egress.clone(),
        resolve,
        ca: http.ca.clone(),
        max_body: http.max_body.unwrap_or(defaults.max_body),
        connect_timeout: http.connect_timeout.unwrap_or(defaults.connect_timeout),
        call_timeout: http.timeout.unwrap_or(defaults.call_timeout),
        max_per_authority: http.max_connections.unwrap_or(defaults.max_per_authority),
        max_calls: config.limits.calls_in_flight.unwrap_or(defaults.max_calls),
        watch: watch.clone(),
    };
    Network::new(options).map_err(|e| vec![e])
}

/// What a configuration makes of the engine, and of the participants beside it.
pub(crate) fn options(config: &Config, secrets: BTreeMap<String, Value>) -> Options {
    let (limits, host) = (Options::default(), Host::default());
    Options {
        host: Host {
            secrets,
            runtime: runtime(),
            max_token: config.limits.token.unwrap_or(host.max_token),
            callback_timeout: config.callbacks.timeout.map_or(host.callback_timeout, |timeout| {
                i64::try_from(timeout.as_millis()).unwrap_or(host.callback_timeout)
            }),
            ..host
        },
        services: config.services.keys().chain(&config.hosts).cloned().collect(),
        max_active: config.limits.active_instances.unwrap_or(limits.max_active),
        max_queued: config.limits.queued_inputs.unwrap_or(limits.max_queued),
        partitions: limits.partitions,
        watch: limits.watch,
    }
}

/// `$runtime`.
fn runtime() -> Value {
    Value::object([
        ("name", Value::text("pavane")),
        ("version", Value::text(env!("CARGO_PKG_VERSION"))),
        ("metadata", Value::empty_object()),
    ])
}
