//! Traces leave the process: spans are gathered and sent to a collector by OTLP over HTTP.
//!
//! A collector that is slow or down costs spans, and nothing else: they are dropped and counted where they have no room
//! ([`pavane_watch::MAX_WAITING`]). It is told once that they cannot be sent, not for each attempt. Start reading at `Exporter::run`.

mod otlp;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use pavane_runtime::effects::{Client, NetworkOptions};
use pavane_watch::{Attribute, Span, Spans};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::config::TracesConfig;

/// Spans in one request: about 300 KB.
const BATCH: usize = 512;

/// How long spans are gathered for a request.
const GATHER: Duration = Duration::from_secs(1);

/// How long a collector may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How often a batch is sent that a collector cannot take now: for about half a minute. Then those behind it have their turn.
const ATTEMPTS: u32 = 6;

/// The wait before the second attempt; it doubles up to the last.
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How long the end of the process waits for what is left.
const LAST: Duration = Duration::from_secs(2);

/// The exporter as the process holds it.
#[derive(Debug)]
pub struct Export {
    stop: Arc<Notify>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

/// The task that sends spans.
struct Exporter {
    client: Client,
    to: Uri,
    headers: HeaderMap,
    resource: Vec<(&'static str, Attribute)>,
    spans: Spans,
    queue: mpsc::Receiver<Span>,
    stop: Arc<Notify>,
    /// Whether the last batch was not taken: then it was told.
    down: bool,
}

/// Why a batch was not taken.
enum Refused {
    /// It may be taken later; the collector may say when.
    Now(String, Option<Duration>),
    /// It never will be.
    Ever(String),
}

/// Where spans go by a configuration, and the queue that is to be exported.
pub(crate) fn spans(config: Option<&TracesConfig>) -> (Spans, Option<mpsc::Receiver<Span>>) {
    match config {
        Some(traces) => {
            let (spans, queue) = Spans::new(traces.ratio.unwrap_or(1.0));
            (spans, Some(queue))
        }
        None => (Spans::default(), None),
    }
}

impl Export {
    /// Begins to send what comes through a queue.
    ///
    /// # Errors
    /// What is wrong with the settings, a line each.
    pub(crate) fn begin(
        traces: &TracesConfig,
        options: &NetworkOptions,
        spans: Spans,
        queue: mpsc::Receiver<Span>,
    ) -> Result<Export, Vec<String>> {
        let to = format!("{}/v1/traces", traces.otlp.trim_end_matches('/'));
        let to: Uri = to.parse().map_err(|error| vec![format!("traces.otlp: {to}: {error}")])?;
        let mut headers = traces.header_map()?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let resource: Vec<(&'static str, Attribute)> = vec![
            ("service.name", traces.service.as_deref().unwrap_or("pavane").into()),
            ("service.version", env!("CARGO_PKG_VERSION").into()),
            ("service.instance.id", uuid::Uuid::now_v7().to_string().into()),
            ("process.pid", i64::from(std::process::id()).into()),
            ("telemetry.sdk.name", "pavane".into()),
            ("telemetry.sdk.language", "rust".into()),
            ("telemetry.sdk.version", env!("CARGO_PKG_VERSION").into()),
        ];
        let client = Client::new(options).map_err(|why| vec![why])?;
        let stop = Arc::new(Notify::new());
        let exporter = Exporter { client, to, headers, resource, spans, queue, stop: stop.clone(), down: false };
        let task = tokio::sync::Mutex::new(Some(tokio::spawn(exporter.run())));
        Ok(Export { stop, task })
    }

    /// Sends what is left, if the collector takes it soon.
    pub(crate) async fn stop(&self) {
        self.stop.notify_one();
        if let Some(task) = self.task.lock().await.take() {
            // What is not sent by then is lost, as it would be with the process.
            let _ = tokio::time::timeout(LAST, task).await;
        }
    }
}

impl Exporter {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut stopping = false;
        while !stopping {
            stopping = tokio::select! {
                count = self.queue.recv_many(&mut batch, BATCH) => count == 0,
                () = self.stop.notified() => true,
            };
            let gathered = tokio::time::Instant::now() + GATHER;
            while !stopping && batch.len() < BATCH {
                let room = BATCH - batch.len();
                stopping = tokio::select! {
                    count = self.queue.recv_many(&mut batch, room) => count == 0,
                    () = self.stop.notified() => true,
                    () = tokio::time::sleep_until(gathered) => break,
                };
            }
            stopping |= self.export(&batch).await;
            batch.clear();
        }
        self.queue.close();
        while self.queue.recv_many(&mut batch, BATCH).await > 0 {
            let sent = self.send(&batch).await;
            self.note(&batch, sent);
            batch.clear();
        }
    }

    /// Sends a batch, again if need be. Gives whether the process stops meanwhile: then it has been tried once.
    async fn export(&mut self, batch: &[Span]) -> bool {
        let mut attempt = 1;
        while !batch.is_empty() {
            match self.send(batch).await {
                Err(Refused::Now(why, later)) if attempt < ATTEMPTS => {
                    self.tell(&why);
                    let doubled = BACKOFF.saturating_mul(1 << (attempt - 1));
                    let wait = later.unwrap_or(doubled).clamp(BACKOFF, MAX_BACKOFF);
                    attempt += 1;
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.stop.notified() => {
                            self.spans.lost(batch.len() as u64);
                            return true;
                        }
                    }
                }
                sent => {
                    self.note(batch, sent);
                    break;
                }
            }
        }
        false
    }

    /// Notes what became of a batch in the end.
    fn note(&mut self, batch: &[Span], sent: Result<u64, Refused>) {
        let all = batch.len() as u64;
        match sent {
            Ok(rejected) => {
                let rejected = rejected.min(all);
                self.spans.exported(all - rejected);
                if rejected > 0 {
                    self.spans.lost(rejected);
                    self.tell("the collector did not take some of them");
                } else if std::mem::take(&mut self.down) {
                    tracing::info!(collector = %self.to, "traces are sent again");
                }
            }
            Err(Refused::Now(why, _) | Refused::Ever(why)) => {
                self.spans.lost(all);
                self.tell(&why);
            }
        }
    }

    /// Says that spans are lost, once for as long as they are.
    fn tell(&mut self, why: &str) {
        if !std::mem::replace(&mut self.down, true) {
            tracing::warn!(collector = %self.to, why, "traces cannot be sent: they wait, and are dropped when there are too many");
        }
    }

    /// Sends a batch once. Gives how many of its spans were not taken.
    async fn send(&self, batch: &[Span]) -> Result<u64, Refused> {
        let body = Bytes::from(otlp::request(&self.resource, batch));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.to.clone();
        *request.headers_mut() = self.headers.clone();
        let (status, headers, body) = self.client.send(request, ANSWER).await.map_err(|why| Refused::Now(why, None))?;
        let told = || format!("it answered {status}");
        match status {
            status if status.is_success() => Ok(otlp::rejected(&body)),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                Err(Refused::Now(told(), seconds.map(Duration::from_secs)))
            }
            _ => Err(Refused::Ever(told())),
        }
    }
}
