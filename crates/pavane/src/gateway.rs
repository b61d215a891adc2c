//! The gateway within a process: its port to the engine, its part of the configuration, and taking up changes of the file.
//!
//! Starting, waiting and telling errors are the HTTP API's own (`api/instances.rs`); here they are put behind the port.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use pavane_core::policy::Verdict;
use pavane_core::problem::Kind;
use pavane_core::record::{Status, WorkflowInstance};
use pavane_gateway::{
    Answer, Body, Entering, Gate, Gateway, Outcome, Problem, Start, Turn, Turned, WorkflowName, Workflows,
};
use pavane_runtime::effects::{self, Network, Refused};
use pavane_runtime::watch::trace_of;
use pavane_runtime::{Engine, StartRequest};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::api::{self, ApiError};
use crate::config::{Config, in_file};
use crate::server::Running;

/// Builds the gateway of a process over its engine, and binds its listener.
///
/// # Errors
/// What is wrong with the routes, a line each; a port in use.
pub(crate) async fn open(running: &Running) -> Result<(Gateway, TcpListener), String> {
    let tls = effects::tls(running.network.options())?;
    let (engine, network, config) = (running.engine.clone(), running.network.clone(), running.config.clone());
    let port = Arc::new(Port { engine, network, config });
    let gateway = Gateway::traced(running.config.gateway_setup(), port, tls, running.watch.spans.clone());
    let gateway = gateway.map_err(|faults| in_file("the configuration", &faults).join("\n"))?;
    let address = running.config.listen.gateway_address();
    let listener = TcpListener::bind(address).await.map_err(|e| {
        format!("{address} cannot be listened on: {e}; set `listen.gateway` to another address, or end the process that uses it")
    })?;
    Ok((gateway, listener))
}

/// Gives the gateway the routes of a configuration that was read again.
///
/// # Errors
/// What is wrong with them, a line each: it goes on with those it has.
pub(crate) fn take_up(gateway: &Gateway, config: &Config) -> Result<(), Vec<String>> {
    gateway.replace(config.gateway_setup()).map_err(|faults| in_file("the configuration", &faults))
}

/// The engine, as the gateway needs it, and what tells whom it may notify.
struct Port {
    engine: Engine,
    network: Network,
    config: Arc<Config>,
}

impl Workflows for Port {
    fn start(&self, start: Start) -> Answer<'_, Outcome> {
        Box::pin(async move { Ok(self.begin(start).await?) })
    }

    fn status<'a>(&'a self, workflow: &WorkflowName, id: &str, wait: Option<Duration>) -> Answer<'a, Outcome> {
        let (workflow, id) = (workflow.clone(), id.to_owned());
        Box::pin(async move {
            let record = self.instance(&workflow, &id).await?;
            let record = match wait {
                Some(wait) if !record.status.is_terminal() => {
                    self.engine.wait(&id, wait).await.map_err(ApiError::from)?
                }
                _ => record,
            };
            Ok(outcome(&record))
        })
    }

    fn events<'a>(&'a self, workflow: &WorkflowName, id: &str, after: Option<String>) -> Answer<'a, Body> {
        let (workflow, id) = (workflow.clone(), id.to_owned());
        Box::pin(async move {
            let record = self.instance(&workflow, &id).await?;
            let stream = api::follow(self.engine.clone(), record, after.as_deref());
            Ok(Body::new(stream.into_body().map_err(Into::into)))
        })
    }

    fn input_schema(&self, workflow: &WorkflowName) -> Result<Option<Value>, String> {
        let mode = api::mode(workflow.mode.as_deref())?;
        let program = self.engine.program(&workflow.namespace, &workflow.name, workflow.version.as_deref(), mode);
        let program = program.map_err(|error| error.to_string())?;
        let source: Value = program.source().into();
        Ok(source.pointer("/input/schema/document").cloned())
    }

    fn gate(&self, service: &str) -> Option<Arc<dyn Gate>> {
        self.network.gate(service).map(|gate| Arc::new(Shared(gate)) as Arc<dyn Gate>)
    }
}

/// The gate of a service, for requests that are forwarded.
struct Shared(effects::Gate);

impl Gate for Shared {
    fn enter<'a>(&'a self, flow: &'a str, retry: bool, wait: Duration) -> Entering<'a> {
        Box::pin(async move {
            let turn = self.0.enter_within(flow, retry, wait).await.map_err(|refused| match refused {
                Refused::Open(left) => Turned::Open(left),
                Refused::Late(_) | Refused::Full => Turned::Busy,
                Refused::Closed => Turned::Stopping,
            })?;
            Ok(Box::new(Forwarded(turn)) as Box<dyn Turn>)
        })
    }
}

/// The turn of a forwarded request.
struct Forwarded(effects::Turn);

impl Turn for Forwarded {
    fn judge(&mut self, verdict: Verdict) {
        self.0.judge(verdict);
    }
}

impl Port {
    async fn begin(&self, start: Start) -> Result<Outcome, ApiError> {
        let Start { workflow, input, key, wait, notify, traceparent, tracestate } = start;
        let notify = api::callbacks::notify(&self.config, &self.network, notify)?;
        let mode = api::mode(workflow.mode.as_deref()).map_err(|why| ApiError::bad_request("unknown_mode", why))?;
        let input = api::input(&input)?;
        let WorkflowName { namespace, name, version, .. } = workflow;
        let program = self.engine.program(&namespace, &name, version.as_deref(), mode)?;
        let violations = program.input_violations(&input);
        if !violations.is_empty() {
            return Err(ApiError::input(&violations));
        }
        let trace = trace_of(traceparent.as_deref(), tracestate.as_deref());
        let request =
            StartRequest { namespace, name, version, mode, input, idempotency_key: key, id: None, trace, notify };
        let started = self.engine.start(request).await?;
        let Some(wait) = wait else {
            return Ok(Outcome::Running { id: started.id, status: Status::Running.as_str().to_owned() });
        };
        Ok(outcome(&self.engine.wait(&started.id, wait).await?))
    }

    /// An instance, if it is one of the workflow.
    async fn instance(&self, workflow: &WorkflowName, id: &str) -> Result<WorkflowInstance, Problem> {
        let unknown = || ApiError::from(pavane_runtime::Error::UnknownInstance(id.to_owned()));
        let record = self.engine.instance(id).await.map_err(ApiError::from)?;
        match record.namespace == workflow.namespace && record.name == workflow.name {
            true => Ok(record),
            false => Err(unknown().into()),
        }
    }
}

fn outcome(record: &WorkflowInstance) -> Outcome {
    let (id, status) = (record.id.clone(), record.status.as_str().to_owned());
    if !record.status.is_terminal() {
        return Outcome::Running { id, status };
    }
    match api::ended(record) {
        Ok(output) => {
            let output = output.map_or_else(|| "null".to_owned(), pavane_core::Value::to_json);
            Outcome::Completed { id, output: output.into() }
        }
        Err(error) => {
            let problem = Problem::from(error);
            let problem = if is_inner(record) { problem.without_detail() } else { problem };
            Outcome::Failed { id, status, problem }
        }
    }
}

/// Whether an error is of the kinds that Pavane itself raises about what is behind it: their details name services,
/// addresses and expressions. What an author raises, and what is wrong with data, is for the caller.
fn is_inner(record: &WorkflowInstance) -> bool {
    let kind = record.error.as_ref().and_then(|error| Kind::of(&error.type_));
    kind.is_some_and(|kind| kind != Kind::Validation)
}
