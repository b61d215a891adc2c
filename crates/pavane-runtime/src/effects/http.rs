//! HTTP calls: from an evaluated request to an outcome.
//!
//! Whatever happens becomes an [`Outcome`]; what matters most is its certainty. A service that answered has decided; a
//! connection that was never made has done nothing; everything else may have happened, and only a repeat with the same
//! key can tell.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use http::{Method, StatusCode, Uri};
use http_body_util::Full;
use pavane_core::definition::CallOutput;
use pavane_core::engine::{Call, Certainty, Credentials, Held, HttpRequest, Outcome, Request};
use pavane_core::policy::{self, Standing, Verdict};
use pavane_core::problem::Kind;
use pavane_core::{Problem, Value};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::egress::{Egress, refusal};
use super::gate::{Gate, Refused, Turn};
use super::network::{BoxError, Failure, NetworkOptions, Pooled, Unread, client, tls};
use super::openapi::Documents;
use super::secrets;
use super::watched::{Ended, Watched};
use super::{Context, Effects, Performed, Performing, headers};
use crate::services::{Idempotency, Service, Services};

/// Redirects followed, as browsers do.
const MAX_REDIRECTS: usize = 10;

/// How much of an error's body goes into its detail.
const EXCERPT: usize = 300;

/// Authorities whose limits are remembered. A workflow that calls more hosts than this shares limits among them.
const MAX_AUTHORITIES: usize = 10_000;

/// How long before its deadline a call gives up waiting for its turn. Sent later, it would be cut before it could be
/// answered, and nobody would know whether it happened; given up now, it is known not to have.
const TOO_LATE: Duration = Duration::from_millis(50);

/// From how long on the record tells what a call waited for.
const WORTH_TELLING: Duration = Duration::from_millis(10);

/// Headers whose values are credentials.
const PRIVATE: [&str; 5] = ["authorization", "cookie", "set-cookie", "proxy-authorization", headers::CALLBACK];

/// What a query component may not hold as it is.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The network: the effects of the product.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    options: NetworkOptions,
    /// With connections to what the operator has named.
    client: Pooled,
    /// With connections to all else: what was a service once is not reached by what is left of it.
    guarded: Pooled,
    egress: Arc<Egress>,
    documents: Documents,
    services: RwLock<Arc<BTreeMap<String, Known>>>,
    authorities: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Places for calls, whoever they go to.
    places: Semaphore,
}

/// A service and its gate.
#[derive(Clone)]
struct Known {
    service: Arc<Service>,
    gate: Gate,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("services", &self.known().keys()).finish_non_exhaustive()
    }
}

/// An answer, read whole.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Where it came from, after redirects.
    pub uri: Uri,
    /// What was sent.
    pub sent: HeaderMap,
    /// Whether a request before a redirect has done the work, so that this answer tells nothing about it.
    worked: bool,
}

/// A call that got no answer.
pub(super) struct NoAnswer {
    pub problem: Problem,
    pub certainty: Certainty,
    /// What it tells about the service.
    verdict: Verdict,
}

/// Why a call was not sent.
pub(super) enum Unsent {
    /// For this, having waited for that.
    For(Problem, Option<Held>),
    /// The process stops.
    Stopping,
}

impl From<Problem> for Unsent {
    fn from(problem: Problem) -> Unsent {
        Unsent::For(problem, None)
    }
}

/// What is on its way to a service, and what waits for it.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// The service.
    pub service: Arc<Service>,
    /// How its gate stands.
    pub standing: Standing,
    /// For how much longer its breaker is open, while it is.
    pub open_for: Option<Duration>,
}

impl Known {
    fn traffic(&self) -> Traffic {
        let (standing, open_for) = self.gate.standing();
        Traffic { service: self.service.clone(), standing, open_for }
    }
}

impl NoAnswer {
    fn never_sent(problem: Problem) -> NoAnswer {
        NoAnswer { problem, certainty: Certainty::NotSent, verdict: Verdict::NoNews }
    }

    /// What it tells when a request before it may have done the work.
    fn after(self, worked: bool) -> NoAnswer {
        NoAnswer { certainty: if worked { Certainty::Indeterminate } else { self.certainty }, ..self }
    }
}

impl Network {
    /// Sets the client up.
    ///
    /// # Errors
    /// A CA file that cannot be read.
    pub fn new(options: NetworkOptions) -> Result<Network, String> {
        let egress = Arc::new(Egress::new(options.egress.clone()));
        let tls = tls(&options)?;
        let guarded = client(&options, tls.clone(), Some(egress.clone()));
        let client = client(&options, tls, None);
        let places = Semaphore::new(options.max_calls.clamp(1, Semaphore::MAX_PERMITS));
        let (documents, authorities, services) = (Documents::default(), Mutex::default(), RwLock::default());
        let first = options.services.clone();
        let network =
            Network(Arc::new(Inner { options, client, guarded, egress, documents, services, authorities, places }));
        network.replace(&first);
        Ok(network)
    }

    /// From now on these are the services. One whose settings are the same keeps its gate; calls that wait at the gate of
    /// another, or are under way, end as they began.
    pub fn replace(&self, services: &Services) {
        self.0.egress.name(services);
        let mut known = self.0.services.write().unwrap_or_else(PoisonError::into_inner);
        let new = services.iter().map(|service| {
            let former = known.get(&service.name).filter(|former| former.service.settings == service.settings);
            let fresh =
                || Known { service: service.clone(), gate: Gate::new(service.gate(self.0.options.max_per_authority)) };
            (service.name.clone(), former.cloned().unwrap_or_else(fresh))
        });
        *known = Arc::new(new.collect());
    }

    fn known(&self) -> Arc<BTreeMap<String, Known>> {
        self.0.services.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it was set up with.
    pub fn options(&self) -> &NetworkOptions {
        &self.0.options
    }

    /// What is on its way to each service.
    pub fn traffic(&self) -> Vec<Traffic> {
        self.known().values().map(Known::traffic).collect()
    }

    /// What is on its way to a service.
    pub fn traffic_of(&self, service: &str) -> Option<Traffic> {
        self.known().get(service).map(Known::traffic)
    }

    /// The gate of a service for requests that are forwarded to it; none when its configuration limits nothing.
    pub fn gate(&self, service: &str) -> Option<Gate> {
        self.known().get(service).filter(|known| known.service.is_limited()).map(|known| known.gate.clone())
    }

    /// How many calls of an instance wait for their turn at a service.
    pub fn waiting_of(&self, service: &str, instance: &str) -> usize {
        self.known().get(service).map_or(0, |known| known.gate.waiting_of(instance))
    }

    /// Sends nothing more to services: what waits at their gates is left to the next process. Calls in flight may end.
    pub fn drain(&self) {
        self.known().values().for_each(|known| known.gate.close());
    }

    async fn perform(&self, context: Context, call: Call) -> Option<Performed> {
        let now = crate::now();
        let left = call.deadline.map(|at| Duration::from_millis(u64::try_from(at.since(now)).unwrap_or(0)));
        let due = left.map(|left| Instant::now() + left);
        let turn = async {
            let request = self.resolve(&call.request, due).await?;
            let known = self.service(&request.uri);
            // Its query may hold what is opened of secrets.
            let target = request.uri.split('?').next().unwrap_or_default();
            let what = || format!("{} {target}", request.method);
            let turn = self.enter(known.as_ref(), &context.instance, call.attempt > 1, due, what).await?;
            Ok((request, known, turn))
        };
        let turn = tokio::select! {
            biased;
            turn = turn => Some(turn),
            () = context.release.withdrawn() => None,
        };
        let unwanted = || {
            let why = format!("the call of {} was not sent: nobody waits for its answer any more", call.reference);
            Unsent::from(Kind::Communication.problem(why))
        };
        let turn = match turn {
            Some(Ok(turn)) if context.release.send() => Ok(turn),
            Some(Err(unsent)) => Err(unsent),
            Some(Ok(_)) | None => Err(unwanted()),
        };
        let (request, known, turn) = match turn {
            Ok(turn) => turn,
            Err(Unsent::For(problem, held)) => {
                return Some(Performed { outcome: Outcome::Failure { problem, certainty: Certainty::NotSent }, held });
            }
            Err(Unsent::Stopping) => return None,
        };
        let service = known.as_ref().map(|known| &*known.service);
        let held = turn.as_ref().and_then(|turn| told(service, turn.held()));
        let limit = service.and_then(|s| s.settings.timeout).unwrap_or(self.0.options.call_timeout);
        let limited = Instant::now() + limit;
        let deadline = due.map_or(limited, |due| due.min(limited));
        let watched = Watched::begin(&context, &call);
        let headers = headers::own(&context, &call, &watched, deadline);
        // Boxed: of the calls that wait for their turn, none needs the room for this yet.
        // With secrets opened it is another one.
        let written = context.body.as_deref().filter(|_| matches!(request, Cow::Borrowed(_)));
        let result = Box::pin(self.exchange(&request, written, headers, service, deadline)).await;
        let ended = match &result {
            Ok(answer) => Ended::Answered(answer.status.as_u16(), &answer.uri),
            Err(none) if Kind::of(&none.problem.type_) == Some(Kind::Timeout) => Ended::Late,
            Err(_) => Ended::Failed,
        };
        watched.end(&self.0.options.watch, &call, &request, service, ended);
        turn.into_iter().for_each(|turn| turn.end(verdict(&result)));
        let outcome = match result {
            Ok(answer) if call.callback && answer.status == StatusCode::ACCEPTED => Outcome::Accepted,
            Ok(answer) => outcome(&request, answer),
            Err(NoAnswer { problem, certainty, .. }) => Outcome::Failure { problem, certainty },
        };
        Some(Performed { outcome, held })
    }

    /// The service that a URI names.
    fn service(&self, uri: &str) -> Option<Known> {
        let uri: Uri = uri.parse().ok()?;
        self.known().get(uri.host()?).cloned()
    }

    /// Waits for the turn of a call at its service's gate. A call that is given up there was not sent.
    async fn enter(
        &self,
        known: Option<&Known>,
        flow: &str,
        retry: bool,
        due: Option<Instant>,
        what: impl Fn() -> String,
    ) -> Result<Option<Turn>, Unsent> {
        let Some(Known { service, gate }) = known else { return Ok(None) };
        let now = Instant::now();
        let until = match due {
            Some(due) => due.checked_sub(TOO_LATE).unwrap_or(now),
            None => now + service.longest_wait(),
        };
        gate.enter(flow, retry, until).await.map(Some).map_err(|refused| {
            let name = &service.name;
            match refused {
                Refused::Late(held) => {
                    let whose = if due.is_some() { "its deadline" } else { "`limits.wait` of the service" };
                    let reasons = held.reasons().map(|(reason, time)| format!("{} {time:.1?}", reason.as_str()));
                    let why = reasons.collect::<Vec<_>>().join(", ");
                    let text =
                        format!("{} (service {name}) was not sent: {whose} came before its turn ({why})", what());
                    Unsent::For(Kind::Timeout.problem(text), told(Some(service), held))
                }
                Refused::Full => {
                    let text = format!("{} (service {name}) was not sent: too many calls wait for {name}", what());
                    Problem { status: 503, ..Kind::Communication.problem(text) }.into()
                }
                Refused::Open(left) => {
                    let text = format!("{} (service {name}) was not sent: its breaker is open for {left:.1?}", what());
                    Problem { status: 503, ..Kind::Communication.problem(text) }.into()
                }
                Refused::Closed => Unsent::Stopping,
            }
        })
    }

    /// The HTTP request a call comes to, with its secrets opened.
    async fn resolve<'a>(&self, request: &'a Request, due: Option<Instant>) -> Result<Cow<'a, HttpRequest>, Unsent> {
        let denied = |why: String| Unsent::from(Kind::Authorization.problem(why));
        match request {
            Request::Http(request) => secrets::open_request(request, &self.0.options.secrets).map_err(denied),
            Request::OpenApi(operation) => {
                let request = self.0.documents.request(self, operation, due).await?;
                let opened = secrets::open_request(&request, &self.0.options.secrets).map_err(denied)?.into_owned();
                Ok(Cow::Owned(opened))
            }
        }
    }

    /// Sends a request and reads its answer, redirects included. `written` is its body as JSON, if that is known.
    pub(super) async fn exchange(
        &self,
        request: &HttpRequest,
        written: Option<&str>,
        own: headers::Own,
        service: Option<&Service>,
        deadline: Instant,
    ) -> Result<Answer, NoAnswer> {
        let wrong = |why: String| NoAnswer::never_sent(Kind::Configuration.problem(why));
        let mut method = Method::from_bytes(request.method.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        let mut uri = target(request, service).map_err(wrong)?;
        let mut body = Bytes::new();
        let mut headers = headers::of_author(request, own.len()).map_err(wrong)?;
        if let Some(value) = &request.body {
            body = encode(value, written, &mut headers);
        }
        for (name, value) in own {
            headers.insert(name, value);
        }
        let mut worked = false;
        for _ in 0..=MAX_REDIRECTS {
            let sending = self.send(&method, &uri, &headers, body.clone(), service, deadline);
            let answer = sending.await.map_err(|failure| failure.after(worked))?;
            let next = answer.headers.get(LOCATION).and_then(|l| l.to_str().ok()).and_then(|l| join(&uri, l));
            let Some(next) = next.filter(|_| request.redirect && answer.status.is_redirection()) else {
                return Ok(Answer { worked, sent: headers, ..answer });
            };
            if rewritten(answer.status, &method) {
                worked |= !method.is_safe();
                (method, body) = (Method::GET, Bytes::new());
                headers.remove(CONTENT_TYPE);
            }
            if (next.authority(), next.scheme()) != (uri.authority(), uri.scheme()) {
                PRIVATE.iter().for_each(|name| drop(headers.remove(*name)));
            }
            uri = next;
        }
        let problem = Kind::Communication.problem(format!("{uri} redirects more than {MAX_REDIRECTS} times"));
        Err(NoAnswer { problem, certainty: Certainty::Definite, verdict: Verdict::Success }.after(worked))
    }

    async fn send(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: Bytes,
        service: Option<&Service>,
        deadline: Instant,
    ) -> Result<Answer, NoAnswer> {
        let what = || match service {
            Some(service) => format!("{method} {uri} (service {})", service.name),
            None => format!("{method} {uri}"),
        };
        let late = |sent: bool| {
            let problem = Kind::Timeout.problem(format!("{} was not answered in time", what()));
            let certainty = if sent { Certainty::Indeterminate } else { Certainty::NotSent };
            NoAnswer { problem, certainty, verdict: Verdict::Failure }
        };
        let gated = service.is_some_and(|service| uri.authority().is_some_and(|own| service.is_at(own.as_str())));
        let place = async {
            // Neither of the semaphores is ever closed. The common one comes last: calls that wait for a slow host must
            // not hold the places of the others. A service's own gate has given the place there.
            let permit = if gated { None } else { self.authority(uri).acquire_owned().await.ok() };
            (permit, self.0.places.acquire().await.ok())
        };
        let Ok(_place) = tokio::time::timeout_at(deadline, place).await else {
            return Err(NoAnswer { verdict: Verdict::NoNews, ..late(false) });
        };
        let client = if self.0.egress.is_named(uri) { &self.0.client } else { &self.0.guarded };
        let failed = |error: &BoxError, certainty: Certainty| {
            let problem = Kind::Communication.problem(format!("{} failed: {}", what(), causes(&**error)));
            NoAnswer { problem, certainty, verdict: Verdict::Failure }
        };
        // Whether a request that broke off may have been read: then a connection that is not made tells nothing.
        let mut unsure = false;
        let (head, body) = loop {
            let mut request = http::Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers.clone();
            match client.send(request, deadline, self.0.options.max_body).await {
                Ok(came) => break came,
                // Without a connection nothing has left.
                Err(Failure::Late { connected }) => return Err(late(connected || unsure)),
                Err(Failure::Unconnected(error)) => {
                    let refused = refusal(&*error).map(|refused| format!("{} was not sent: {refused}", what()));
                    let refused = refused.map(|why| NoAnswer::never_sent(Kind::Communication.problem(why)));
                    return Err(refused.unwrap_or_else(|| failed(&error, Certainty::NotSent)).after(unsure));
                }
                // It was closed while it was idle: the next attempt takes another one, in the end a fresh one.
                Err(Failure::Broken { reused: true, .. }) if repeatable(method, service) => unsure = true,
                Err(Failure::Broken { error, .. }) => return Err(failed(&error, Certainty::Indeterminate)),
            }
        };
        let body = match body {
            Ok(body) => body,
            // The service has decided already; the body would only have told more.
            Err(_) if head.status.is_client_error() || head.status.is_server_error() => Bytes::new(),
            Err(Unread::Late) => return Err(late(true)),
            Err(Unread::Broken(why)) => {
                let problem = Kind::Communication.problem(format!("{} answered with {why}", what()));
                return Err(NoAnswer { problem, certainty: Certainty::Indeterminate, verdict: Verdict::Failure });
            }
        };
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            uri: uri.clone(),
            sent: HeaderMap::new(),
            worked: false,
        })
    }

    /// The places of an authority.
    fn authority(&self, uri: &Uri) -> Arc<Semaphore> {
        let name = uri.authority().map(|a| a.as_str()).unwrap_or_default();
        let mut authorities = self.0.authorities.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if authorities.len() >= MAX_AUTHORITIES && !authorities.contains_key(name) { "" } else { name };
        if let Some(places) = authorities.get(key) {
            return places.clone();
        }
        let places = Arc::new(Semaphore::new(self.0.options.max_per_authority.clamp(1, Semaphore::MAX_PERMITS)));
        authorities.insert(key.to_owned(), places.clone());
        places
    }

    /// Fetches a document, JSON or YAML, for somebody who needs it by `due`.
    pub(super) async fn document(
        &self,
        uri: &str,
        credentials: Option<&Credentials>,
        due: Option<Instant>,
    ) -> Result<Value, Unsent> {
        let communication = |why: String| Kind::Communication.problem(why);
        let text = if let Some(path) = uri.strip_prefix("file://") {
            tokio::fs::read_to_string(path).await.map_err(|e| communication(format!("{uri}: {e}")))?
        } else {
            let request = HttpRequest {
                method: "GET".into(),
                uri: uri.to_owned(),
                headers: vec![("accept".into(), "application/json, application/yaml, */*;q=0.5".into())],
                query: Vec::new(),
                body: None,
                output: CallOutput::Content,
                redirect: true,
                authentication: credentials.cloned(),
            };
            let opened = secrets::open_request(&request, &self.0.options.secrets)
                .map_err(|why| Kind::Authorization.problem(why))?;
            let known = self.service(uri);
            let service = known.as_ref().map(|known| &*known.service);
            let turn = self.enter(known.as_ref(), uri, false, due, || format!("GET {uri}")).await?;
            let limited = Instant::now() + self.0.options.call_timeout;
            let deadline = due.map_or(limited, |due| due.min(limited));
            let result = self.exchange(&opened, None, Vec::new(), service, deadline).await;
            turn.into_iter().for_each(|turn| turn.end(verdict(&result)));
            let answer = result.map_err(|n| n.problem)?;
            if !answer.status.is_success() {
                let why = communication(format!("{uri} answered {}", answer.status));
                return Err(Problem { status: i64::from(answer.status.as_u16()), ..why }.into());
            }
            String::from_utf8_lossy(&answer.body).into_owned()
        };
        pavane_core::definition::document(&text)
            .map_err(|why| communication(format!("{uri} is neither JSON nor YAML: {why}")).into())
    }
}

impl Effects for Network {
    fn call(&self, context: Context, call: Call) -> Performing<Option<Performed>> {
        let network = self.clone();
        Box::pin(async move { network.perform(context, call).await })
    }

    fn fetch(&self, uri: String) -> Performing<Result<Value, String>> {
        let network = self.clone();
        Box::pin(async move {
            // Whoever deploys waits for it: not for as long as a service may be away.
            let due = Instant::now() + network.0.options.call_timeout;
            network.document(&uri, None, Some(due)).await.map_err(|unsent| match unsent {
                Unsent::For(problem, _) => problem.detail.unwrap_or(problem.title),
                Unsent::Stopping => "the process stops".to_owned(),
            })
        })
    }
}

/// What an exchange tells about its service. A refusal of the request is an answer like any other; 429 says that there
/// is too much of it, as 503 does.
fn verdict(result: &Result<Answer, NoAnswer>) -> Verdict {
    match result {
        Ok(answer) if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS => {
            Verdict::Failure
        }
        Ok(_) => Verdict::Success,
        Err(none) => none.verdict,
    }
}

/// What a call waited for, for its record.
fn told(service: Option<&Service>, held: policy::Held) -> Option<Held> {
    let millis = |reason| u64::try_from(held.by(reason).as_millis()).unwrap_or(u64::MAX);
    let told = |service: &Service| Held {
        service: service.name.clone(),
        breaker: millis(policy::Reason::Breaker),
        rate: millis(policy::Reason::Rate),
        in_flight: millis(policy::Reason::InFlight),
        retries: millis(policy::Reason::Retries),
    };
    service.filter(|_| held.total() >= WORTH_TELLING).map(told)
}

/// Whether sending a request twice is like sending it once: by its method, or because the service says so.
fn repeatable(method: &Method, service: Option<&Service>) -> bool {
    method.is_idempotent() || service.is_some_and(|s| s.settings.idempotency != Idempotency::None)
}

/// Whether a redirect is followed with GET: 303 says so, and for 301 and 302 every browser does it after a POST.
fn rewritten(status: StatusCode, method: &Method) -> bool {
    status == StatusCode::SEE_OTHER && *method != Method::HEAD
        || matches!(status, StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND) && *method == Method::POST
}

/// Where a request goes: a service's base URL takes the place of its name.
fn target(request: &HttpRequest, service: Option<&Service>) -> Result<Uri, String> {
    let mut text = match service {
        Some(service) => {
            let named = request.uri.as_str();
            let after_scheme = named.find("://").map_or(0, |at| at + 3);
            let rest = named[after_scheme..].find(['/', '?']).map_or("", |at| &named[after_scheme + at..]);
            [service.base(), rest].concat()
        }
        None => request.uri.clone(),
    };
    for (name, value) in &request.query {
        text.push(if text.contains('?') { '&' } else { '?' });
        text.push_str(&format!("{}={}", utf8_percent_encode(name, QUERY), utf8_percent_encode(value, QUERY)));
    }
    let uri = Uri::try_from(text.as_str()).map_err(|e| format!("`{text}` is no URI: {e}"))?;
    if uri.authority().is_none() {
        return Err(format!("`{text}` names no host"));
    }
    Ok(uri)
}

/// A body as JSON; a string goes as it is when the author says that it is something else.
fn encode(value: &Value, written: Option<&str>, headers: &mut HeaderMap) -> Bytes {
    let json = headers.get(CONTENT_TYPE).is_none_or(|t| t.to_str().is_ok_and(is_json));
    if !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    match value.as_str() {
        Some(text) if !json => Bytes::copy_from_slice(text.as_bytes()),
        _ => written.map_or_else(|| value.to_json().into(), |text| Bytes::copy_from_slice(text.as_bytes())),
    }
}

fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind == "text/json" || kind.ends_with("+json")
}

fn is_text(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.starts_with("text/")
        || kind.ends_with("+xml")
        || ["application/xml", "application/yaml", "application/x-www-form-urlencoded"].contains(&kind.as_str())
}

fn outcome(request: &HttpRequest, answer: Answer) -> Outcome {
    let status = answer.status;
    let fine = status.is_success() || (request.redirect && status.is_redirection());
    if !fine {
        let certainty = match status {
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Certainty::Indeterminate,
            _ if answer.worked => Certainty::Indeterminate,
            _ => Certainty::Definite,
        };
        let text = String::from_utf8_lossy(&answer.body);
        let excerpt: String = text.trim().chars().take(EXCERPT).collect();
        let told = if excerpt.is_empty() { String::new() } else { format!(": {excerpt}") };
        let problem = Problem {
            status: i64::from(status.as_u16()),
            title: status.canonical_reason().unwrap_or("Communication Error").to_owned(),
            ..Kind::Communication.problem(format!("{} {} answered {status}{told}", request.method, answer.uri))
        };
        return Outcome::Failure { problem, certainty };
    }
    match request.output {
        CallOutput::Raw => Outcome::Success(Value::text(BASE64.encode(&answer.body))),
        CallOutput::Content => decoded(&answer),
        CallOutput::Response => match decoded(&answer) {
            Outcome::Success(content) => Outcome::Success(response(request, &answer, content)),
            failure => failure,
        },
    }
}

/// The body by its content type: JSON is read, text is a string, anything else base64, nothing is null.
fn decoded(answer: &Answer) -> Outcome {
    if answer.body.is_empty() {
        return Outcome::Success(Value::NULL);
    }
    let Some(content_type) = answer.headers.get(CONTENT_TYPE).and_then(|t| t.to_str().ok()) else {
        return Outcome::Success(guessed(&answer.body));
    };
    if is_json(content_type) {
        return match Value::parse(&answer.body) {
            Ok(value) => Outcome::Success(value),
            Err(error) => {
                let why = format!("{} answered {} with a body that is no JSON: {error}", answer.uri, answer.status);
                // The service did its work.
                Outcome::Failure { problem: Kind::Communication.problem(why), certainty: Certainty::Indeterminate }
            }
        };
    }
    match std::str::from_utf8(&answer.body) {
        Ok(text) if is_text(content_type) => Outcome::Success(Value::text(text)),
        _ => Outcome::Success(Value::text(BASE64.encode(&answer.body))),
    }
}

/// A body whose type nobody told: JSON if it is that, else text, else base64.
fn guessed(body: &[u8]) -> Value {
    let text = || Value::text(std::str::from_utf8(body).map_or_else(|_| BASE64.encode(body), str::to_owned));
    Value::parse(body).unwrap_or_else(|_| text())
}

fn response(request: &HttpRequest, answer: &Answer, content: Value) -> Value {
    let map = |headers: &HeaderMap| {
        Value::object(headers.iter().map(|(name, value)| {
            let secret = PRIVATE.contains(&name.as_str());
            (
                name.to_string(),
                Value::text(if secret { "***".into() } else { String::from_utf8_lossy(value.as_bytes()) }),
            )
        }))
    };
    Value::object([
        (
            "request",
            Value::object([
                ("method", Value::text(request.method.to_lowercase())),
                ("uri", Value::text(answer.uri.to_string())),
                ("headers", map(&answer.sent)),
            ]),
        ),
        ("statusCode", Value::integer(i64::from(answer.status.as_u16()))),
        ("headers", map(&answer.headers)),
        ("content", content),
    ])
}

/// A redirect's target: absolute, or on the same authority.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if let Some(other) = location.strip_prefix("//") {
        return format!("{scheme}://{other}").parse().ok();
    }
    let path = if location.starts_with('/') {
        location.to_owned()
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{directory}/{location}")
    };
    format!("{scheme}://{authority}{}", without_dots(&path)).parse().ok()
}

/// A path without `.` and `..` (RFC 3986, 5.2.4); a query behind it stays as it is.
pub(super) fn without_dots(path: &str) -> String {
    let (path, query) = path.find('?').map_or((path, ""), |at| path.split_at(at));
    let mut out: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => {
                if segment == ".." {
                    out.pop();
                }
                // A directory stays one.
                if segments.peek().is_none() {
                    out.push("");
                }
            }
            segment => out.push(segment),
        }
    }
    format!("/{}{query}", out.join("/"))
}

/// An error with what caused it.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
