//! The routing table: from settings to routes, and from a request to its route.
//!
//! Checked whole: every fault is told at once, with its line. Routes are asked from the most particular to the most
//! general, whatever their order in the file; two that match the same requests are a fault.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};

use crate::path::{Parameters, Pattern};
use crate::port::WorkflowName;
use crate::rate::{Limiter, Rate};
use crate::settings::{CorsSettings, GatewaySettings, InputKind, MatchSettings, RouteSettings, Way};
use crate::stats::RouteStats;
use crate::units::{Fault, Located};
use crate::upstream::Upstream;

/// Most routes of a table: a request may have to be held against all that have parameters or rests.
const MAX_ROUTES: usize = 1_000;

/// How long a request waits for its turn at a service when nothing else is set: a burst passes in that time, and whoever
/// waits does not give up yet.
const QUEUE: Duration = Duration::from_secs(1);

/// How long a caller waits for a workflow's end when the route says nothing.
const WAIT: Duration = Duration::from_secs(10);

/// Longest a route may let a caller wait: connections are cut by what stands between after about as long.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// What happens to the requests that a route takes.
#[derive(Debug)]
pub(crate) struct Route {
    /// What it is called in metrics: its number in the file and its path.
    pub name: String,
    /// Where it stands in the file.
    pub line: u64,
    pub column: u64,
    pub stats: Arc<RouteStats>,
    pub target: Target,
    pub max_body: u64,
    pub limiters: Vec<Arc<Limiter>>,
    pub auth: Vec<Way>,
    pub scopes: Vec<String>,
    /// How long answers are fresh that do not say so themselves; none: nothing is kept.
    pub cache: Option<Duration>,
    pub compress: bool,
    pub cors: Option<CorsSettings>,
}

/// Who answers.
#[derive(Debug)]
pub(crate) enum Target {
    Service(ServiceTarget),
    Workflow(WorkflowTarget),
}

#[derive(Debug)]
pub(crate) struct ServiceTarget {
    pub upstream: Arc<Upstream>,
    pub strip: Option<Pattern>,
    /// Until the answer begins.
    pub timeout: Duration,
    /// For the turn at the service's gate.
    pub queue: Duration,
}

#[derive(Debug)]
pub(crate) struct WorkflowTarget {
    pub workflow: WorkflowName,
    pub wait: Duration,
    pub input: InputKind,
}

/// What of a route a request asks for. A workflow's route brings two more with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The route itself.
    Main,
    /// How an instance stands.
    Status,
    /// An instance's lifecycle, as server-sent events.
    Events,
}

/// A host in a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Exact(String),
    /// With its leading dot.
    Below(String),
    Any,
}

impl Host {
    fn parse(text: &str) -> Result<Host, String> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        let valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.[]:_".contains(&b));
        if !valid {
            return Err(format!("`{text}` is no host name: write api.example.com or *.example.com, without a port"));
        }
        Ok(if name.len() < lower.len() { Host::Below(format!(".{name}")) } else { Host::Exact(lower) })
    }

    fn rank(&self) -> (u8, std::cmp::Reverse<usize>) {
        match self {
            Host::Exact(_) => (0, std::cmp::Reverse(0)),
            Host::Below(name) => (1, std::cmp::Reverse(name.len())),
            Host::Any => (2, std::cmp::Reverse(0)),
        }
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Host::Exact(name) => name == host,
            Host::Below(name) => host.len() > name.len() && host.ends_with(name.as_str()),
            Host::Any => true,
        }
    }
}

#[derive(Debug)]
struct Entry {
    host: Host,
    pattern: Arc<Pattern>,
    /// None: every method.
    methods: Vec<Method>,
    headers: Vec<(HeaderName, Option<HeaderValue>)>,
    role: Role,
    route: Arc<Route>,
}

impl Entry {
    fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty()
            || self.methods.contains(method)
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }

    fn has(&self, headers: &HeaderMap) -> bool {
        self.headers.iter().all(|(name, value)| match value {
            None => headers.contains_key(name),
            Some(value) => headers.get_all(name).iter().any(|v| v == value),
        })
    }
}

/// All routes, in the order in which they are asked.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
    routes: Vec<Arc<Route>>,
    /// By the first segment of a path, which entries may match it, in their order: most routes differ in it.
    by_first: HashMap<String, Vec<usize>>,
    /// Those that may match a path with any other.
    others: Vec<usize>,
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub route: Arc<Route>,
    pub role: Role,
    pattern: Arc<Pattern>,
}

impl Found {
    /// The values of the parameters in the path that was found, by name.
    pub fn parameters(&self, path: &str) -> Parameters {
        self.pattern.values(path)
    }
}

/// Why no route takes a request.
#[derive(Debug)]
pub(crate) enum Unrouted {
    /// None has this host and path.
    NotFound,
    /// Some have, with other methods.
    Method(Vec<Method>),
}

impl Table {
    /// Makes routes of settings.
    ///
    /// # Errors
    /// Every fault.
    pub fn build(
        settings: &GatewaySettings,
        routes: &[Located<RouteSettings>],
        upstreams: &BTreeMap<String, Arc<Upstream>>,
        before: Option<&Table>,
    ) -> Result<Table, Vec<Fault>> {
        let mut table = Table::default();
        let mut faults = Vec::new();
        if routes.len() > MAX_ROUTES {
            let message = format!("routes: {} of them; at most {MAX_ROUTES} are taken", routes.len());
            return Err(vec![Fault { line: 0, column: 0, message }]);
        }
        let mut seen: Vec<(usize, &MatchSettings)> = Vec::new();
        for (index, located) in routes.iter().enumerate() {
            let number = index + 1;
            let mut wrong = |message: String| {
                let message = format!("routes: {number}. `{}`: {message}", located.value.match_.path);
                faults.push(Fault { line: located.line, column: located.column, message });
            };
            if let Some((twin, _)) = seen.iter().find(|(_, m)| same_match(m, &located.value.match_)) {
                wrong(format!("it matches the same requests as the {twin}. one: no request can reach it"));
            }
            seen.push((number, &located.value.match_));
            let name = format!("{number} {}", located.value.match_.path);
            let known = before.and_then(|table| table.routes.iter().find(|route| route.name == name));
            match read(name, known, settings, located, upstreams) {
                Ok((route, entries)) => {
                    table.routes.push(route);
                    table.entries.extend(entries);
                }
                Err(why) => why.into_iter().for_each(&mut wrong),
            }
        }
        // Stable: among equals, the order of the file.
        table.entries.sort_by(|a, b| {
            let particular = |e: &Entry| (std::cmp::Reverse(e.headers.len()), e.methods.is_empty());
            a.host
                .rank()
                .cmp(&b.host.rank())
                .then_with(|| a.pattern.order(&b.pattern))
                .then_with(|| particular(a).cmp(&particular(b)))
        });
        table.index();
        if faults.is_empty() { Ok(table) } else { Err(faults) }
    }

    fn index(&mut self) {
        let entries = || self.entries.iter().enumerate();
        self.others = entries().filter(|(_, e)| e.pattern.first().is_none()).map(|(at, _)| at).collect();
        let firsts: HashSet<&str> = entries().filter_map(|(_, entry)| entry.pattern.first()).collect();
        let of = |first: &str| {
            let may = |entry: &Entry| entry.pattern.first().is_none_or(|own| own == first);
            entries().filter(|(_, entry)| may(entry)).map(|(at, _)| at).collect()
        };
        self.by_first = firsts.into_iter().map(|first| (first.to_owned(), of(first))).collect();
    }

    /// The routes, in the order of the file.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Routes as they are shown: pattern, methods (none: all), host if it is one, and the route itself.
    pub fn shown(&self) -> impl Iterator<Item = (&Pattern, &[Method], Option<&str>, &Route)> {
        let main = self.entries.iter().filter(|entry| entry.role == Role::Main);
        main.map(|entry| {
            let host = match &entry.host {
                Host::Exact(name) => Some(name.as_str()),
                Host::Below(_) | Host::Any => None,
            };
            (&*entry.pattern, entry.methods.as_slice(), host, &*entry.route)
        })
    }

    /// Finds the route of a request. The host is in lower case and without a port, the path normal.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(&self, host: &str, method: &Method, path: &str, headers: &HeaderMap) -> Result<Found, Unrouted> {
        let mut allowed: Vec<Method> = Vec::new();
        let first = path.split('/').nth(1).unwrap_or_default();
        let candidates = self.by_first.get(first).unwrap_or(&self.others).iter().filter_map(|at| self.entries.get(*at));
        for entry in candidates.filter(|e| e.host.matches(host) && e.has(headers)) {
            if !entry.pattern.matches(path) {
                continue;
            }
            if entry.takes(method) {
                let pattern = entry.pattern.clone();
                return Ok(Found { route: entry.route.clone(), role: entry.role, pattern });
            }
            allowed.extend(entry.methods.iter().filter(|m| !allowed.contains(m)).cloned().collect::<Vec<_>>());
        }
        if allowed.is_empty() {
            return Err(Unrouted::NotFound);
        }
        if allowed.contains(&Method::GET) && !allowed.contains(&Method::HEAD) {
            allowed.push(Method::HEAD);
        }
        allowed.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        Err(Unrouted::Method(allowed))
    }
}

fn same_match(a: &MatchSettings, b: &MatchSettings) -> bool {
    let sorted = |list: &[String]| {
        let mut list: Vec<String> = list.iter().map(|t| t.to_ascii_lowercase()).collect();
        list.sort();
        list
    };
    let path = match (Pattern::parse(&a.path), Pattern::parse(&b.path)) {
        (Ok(a), Ok(b)) => a.same(&b),
        _ => false,
    };
    path && sorted(&a.host) == sorted(&b.host)
        && sorted(&a.method) == sorted(&b.method)
        && a.headers.iter().map(|(n, v)| (n.to_ascii_lowercase(), v)).collect::<HashMap<_, _>>()
            == b.headers.iter().map(|(n, v)| (n.to_ascii_lowercase(), v)).collect::<HashMap<_, _>>()
}

fn read(
    name: String,
    known: Option<&Arc<Route>>,
    settings: &GatewaySettings,
    located: &Located<RouteSettings>,
    upstreams: &BTreeMap<String, Arc<Upstream>>,
) -> Result<(Arc<Route>, Vec<Entry>), Vec<String>> {
    let route = &located.value;
    let mut faults = Vec::new();
    let pattern = Pattern::parse(&route.match_.path).map_err(|e| faults.push(format!("path: {e}"))).ok();
    let mut hosts = Vec::new();
    for text in &route.match_.host {
        match Host::parse(text) {
            Ok(host) => hosts.push(host),
            Err(why) => faults.push(format!("host: {why}")),
        }
    }
    let mut methods = Vec::new();
    for text in &route.match_.method {
        match Method::from_bytes(text.as_bytes()) {
            Ok(Method::CONNECT | Method::TRACE) => faults.push(format!("method: {text} is never forwarded")),
            Ok(method) if text.bytes().all(|b| b.is_ascii_uppercase()) => methods.push(method),
            _ => faults.push(format!("method: `{text}` is no method: write it in capitals, such as POST")),
        }
    }
    let mut headers = Vec::new();
    for (name, value) in &route.match_.headers {
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(_)) if value == "*" => headers.push((name, None)),
            (Ok(name), Ok(value)) => headers.push((name, Some(value))),
            _ => faults.push(format!("headers: `{name}: {value}` cannot be a header")),
        }
    }
    let target = target(settings, route, pattern.as_ref(), upstreams).map_err(|e| faults.extend(e)).ok();
    if route.auth.is_empty() && !route.scopes.is_empty() {
        faults.push("`scopes` needs `auth`: nobody can be known to have them".into());
    }
    for scope in route.scopes.iter().filter(|s| s.contains(|c: char| c.is_whitespace() || c == '"' || !c.is_ascii())) {
        faults.push(format!("scopes: `{scope}` is no scope: no spaces and quotes"));
    }
    if let Some(cors) = &route.cors {
        let odd = |o: &&String| *o != "*" && *o != "null" && !o.contains("://") || o.ends_with('/');
        for origin in cors.origins.iter().filter(odd) {
            faults.push(format!("cors: `{origin}` is no origin: write https://shop.example, without a path, or '*'"));
        }
        if cors.credentials && cors.origins.iter().chain(&cors.headers).any(|o| o == "*") {
            faults.push(
                "cors: with `credentials`, origins and headers are listed one by one: `*` would open it to every page"
                    .into(),
            );
        }
    }
    if route.cache.is_some() && route.workflow.is_some() {
        faults.push("`cache` is for routes to a service".into());
    }
    let (Some(pattern), Some(target), true) = (pattern, target, faults.is_empty()) else { return Err(faults) };
    let workflow = matches!(target, Target::Workflow(_));
    if workflow && methods.is_empty() {
        methods.push(Method::POST);
    }
    if hosts.is_empty() {
        hosts.push(Host::Any);
    }
    let route = Arc::new(Route {
        name,
        line: located.line,
        column: located.column,
        stats: known.map(|known| known.stats.clone()).unwrap_or_default(),
        target,
        max_body: route.max_body.unwrap_or(settings.limits.body),
        limiters: limiters(&route.rate, known),
        auth: route.auth.clone(),
        scopes: route.scopes.clone(),
        cache: route.cache,
        compress: route.compress,
        cors: route.cors.clone(),
    });
    let mut entries = Vec::new();
    for host in hosts {
        let entry = |pattern: Pattern, methods: Vec<Method>, role: Role| Entry {
            host: host.clone(),
            pattern: Arc::new(pattern),
            methods,
            headers: headers.clone(),
            role,
            route: route.clone(),
        };
        entries.push(entry(pattern.clone(), methods.clone(), Role::Main));
        if workflow {
            entries.push(entry(pattern.below(&["instances", "{instance}"]), vec![Method::GET], Role::Status));
            entries.push(entry(pattern.below(&["instances", "{instance}", "events"]), vec![Method::GET], Role::Events));
        }
    }
    Ok((route, entries))
}

/// Limits; those that were there before go on counting where they were.
fn limiters(rates: &[Rate], known: Option<&Arc<Route>>) -> Vec<Arc<Limiter>> {
    let before = |rate: &Rate| known.and_then(|k| k.limiters.iter().find(|l| l.rate == *rate)).cloned();
    let new = |rate: &Rate| Arc::new(Limiter::new(*rate, Instant::now()));
    rates.iter().map(|rate| before(rate).unwrap_or_else(|| new(rate))).collect()
}

fn target(
    settings: &GatewaySettings,
    route: &RouteSettings,
    pattern: Option<&Pattern>,
    upstreams: &BTreeMap<String, Arc<Upstream>>,
) -> Result<Target, Vec<String>> {
    let mut faults = Vec::new();
    let mut only = |given: bool, key: &str, kind: &str| {
        if given {
            faults.push(format!("`{key}` is for routes to a {kind}"));
        }
    };
    match (&route.service, &route.workflow) {
        (Some(service), None) => {
            only(route.wait.is_some(), "wait", "workflow");
            only(route.version.is_some(), "version", "workflow");
            only(route.mode.is_some(), "mode", "workflow");
            only(route.input != InputKind::Body, "input", "workflow");
            let strip = route.strip.as_deref().map(|text| {
                let strip = Pattern::parse(text).map_err(|why| format!("strip: {why}"))?;
                if strip.is_prefix() || strip.parameters().next().is_some() {
                    return Err(format!("strip: `{text}` must be a plain path such as /inventory"));
                }
                Ok(strip)
            });
            let strip = strip.transpose().map_err(|e| faults.push(e)).ok().flatten();
            let Some(upstream) = upstreams.get(service) else {
                let known: Vec<&str> = upstreams.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                faults.push(format!("service: `{service}` is not under `services`; there: {known}"));
                return Err(faults);
            };
            let timeout = route.timeout.or(settings.timeouts.response).unwrap_or(Duration::from_secs(30));
            let queue = route.queue.unwrap_or(QUEUE);
            let target = ServiceTarget { upstream: upstream.clone(), strip, timeout, queue };
            if faults.is_empty() { Ok(Target::Service(target)) } else { Err(faults) }
        }
        (None, Some(workflow)) => {
            only(route.strip.is_some(), "strip", "service");
            only(route.timeout.is_some(), "timeout", "service");
            only(route.queue.is_some(), "queue", "service");
            if pattern.is_some_and(Pattern::is_prefix) {
                faults.push("a route to a workflow has a path of its own, not `/*`: its instances are below it".into());
            }
            if pattern.is_some_and(|p| p.parameters().any(|name| name == "instance")) {
                faults.push("path: `{instance}` is the gateway's own name for an instance's id".into());
            }
            let wait = route.wait.unwrap_or(WAIT);
            if wait > MAX_WAIT {
                faults.push(format!(
                    "wait: at most {} s; clients re-attach with their Idempotency-Key",
                    MAX_WAIT.as_secs()
                ));
            }
            let workflow = WorkflowName::parse(workflow, route.version.clone(), route.mode.clone());
            let workflow = workflow.map_err(|e| faults.push(format!("workflow: {e}"))).ok();
            match workflow {
                Some(workflow) if faults.is_empty() => {
                    Ok(Target::Workflow(WorkflowTarget { workflow, wait, input: route.input }))
                }
                _ => Err(faults),
            }
        }
        _ => Err(vec!["give exactly one of `service` and `workflow`".into()]),
    }
}

/// The host of a request, in lower case and without its port.
pub(crate) fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<Cow<'a, str>, &'static str> {
    let mut hosts = headers.get_all(http::header::HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err("a request has one Host header"),
        (Some(host), None) => Some(host.to_str().map_err(|_| "the Host header is no text")?),
        (None, None) => None,
    };
    let authority = match (uri.authority().map(http::uri::Authority::as_str), header) {
        (Some(authority), Some(header)) if !authority.eq_ignore_ascii_case(header) => {
            return Err("the Host header and the request line name different hosts");
        }
        (Some(authority), _) => authority,
        (None, Some(header)) => header,
        (None, None) => return Err("the Host header is missing"),
    };
    if let Some(host) = plain_host(authority) {
        return Ok(Cow::Borrowed(host));
    }
    let authority: http::uri::Authority = authority.parse().map_err(|_| "the Host header is no host")?;
    if authority.as_str().contains('@') {
        return Err("the Host header holds credentials");
    }
    Ok(Cow::Owned(authority.host().to_ascii_lowercase()))
}

/// The host of an authority that is written as most are: small letters, digits, dots and hyphens, and a port or none.
fn plain_host(authority: &str) -> Option<&str> {
    let (host, port) = authority.split_once(':').unwrap_or((authority, "0"));
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b);
    let port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    (port && !host.is_empty() && host.bytes().all(plain)).then_some(host)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
