//! `pavane.yaml`: read once, checked whole, every problem told at once.
//!
//! Only settings that are honoured are accepted; one that belongs to a later version is named as such.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use pavane_core::Value;
use pavane_core::units::duration;
use pavane_gateway::settings::{GatewaySettings, KeySettings, PasswordSettings, RouteSettings};
use pavane_gateway::{Door, Fault, Located, Setup};
use pavane_runtime::effects::EgressSettings;
use pavane_runtime::services::{Place, ServiceSettings, Services};
use serde::Deserialize;

/// Settings of a later version, and the key they begin with.
const LATER: [(&str, &str); 1] = [("roles", "running parts of Pavane as processes of their own")];

/// The form of lines on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// JSON in the form of the Elastic Common Schema.
    Ecs,
    /// For people on a terminal, JSON otherwise.
    Auto,
}

/// A whole configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// Who may use the HTTP API.
    pub admin: AdminConfig,
    /// Where to keep things.
    pub store: StoreConfig,
    /// How events travel.
    pub bus: BusConfig,
    /// Definitions to deploy at the start: files, or `folder/*.yaml`.
    pub workflows: Vec<String>,
    /// What holds for all routes of the gateway.
    pub gateway: GatewaySettings,
    /// Routes of the gateway.
    pub routes: Vec<Located<RouteSettings>>,
    /// Services by the host name that endpoints use.
    pub services: BTreeMap<String, ServiceSettings>,
    /// Hosts that have participants without being configured: where `run` places the work of a bare document.
    #[serde(skip)]
    pub hosts: BTreeSet<String>,
    /// Callbacks of services.
    pub callbacks: CallbacksConfig,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Secret>,
    /// Outgoing HTTP.
    pub http: HttpConfig,
    /// Where calls may go that name no service.
    pub egress: EgressSettings,
    /// Limits.
    pub limits: LimitsConfig,
    /// What is said on standard error.
    pub log: LogConfig,
    /// Where traces go.
    pub traces: Option<TracesConfig>,
    /// How long calls in flight may take to end when the process is asked to stop.
    #[serde(deserialize_with = "duration")]
    pub shutdown: Option<Duration>,
}

/// Listeners.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// HTTP API.
    pub admin: SocketAddr,
    /// Where participants in processes of their own attach; opened when a service has one.
    pub bus: SocketAddr,
    /// The gateway; without it, it listens at its default address if there are routes.
    pub gateway: Option<SocketAddr>,
}

impl Listen {
    /// Where the gateway listens.
    pub fn gateway_address(&self) -> SocketAddr {
        self.gateway.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080)))
    }
}

impl Default for Listen {
    fn default() -> Listen {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Listen { admin: local(8081), bus: local(8082), gateway: None }
    }
}

/// Who may use the HTTP API; without keys and passwords, whoever reaches it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// API keys.
    pub keys: Vec<Located<KeySettings>>,
    /// Names and passwords.
    pub basic: Vec<Located<PasswordSettings>>,
    /// Whether the metrics are for everybody.
    pub open_metrics: bool,
}

/// The store.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// SQLite.
    pub sqlite: SqliteConfig,
}

/// The SQLite store.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SqliteConfig {
    /// The file, relative to the configuration.
    pub path: PathBuf,
    /// How long to wait for another process to let go of it.
    #[serde(deserialize_with = "duration")]
    pub wait: Option<Duration>,
}

impl Default for SqliteConfig {
    fn default() -> SqliteConfig {
        SqliteConfig { path: PathBuf::from("pavane.db"), wait: None }
    }
}

/// The bus; the embedded one, which lives in the store, is what there is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusConfig {
    /// The embedded bus.
    pub embedded: EmbeddedBus,
}

/// The embedded bus, as participants in processes of their own reach it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddedBus {
    /// Its base URL, for participants that reach it by another address than `listen.bus`.
    pub url: Option<String>,
    /// What participants show to be let in.
    pub token: Option<Secret>,
}

/// Callbacks of services that take a call with 202 and answer later.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallbacksConfig {
    /// Where services reach the HTTP API: the base of the URLs that they are given. Without it, `listen.admin`.
    pub url: Option<String>,
    /// What these URLs are signed with. Without it, one that the store keeps.
    pub secret: Option<Secret>,
    /// How long a callback is awaited by a task without a timeout.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Hosts, beside those of services, that clients may have told of the end of what they start.
    pub notify: Vec<String>,
}

/// A secret: given here, or read from a file or the environment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// The value itself.
    #[serde(default)]
    pub value: Option<serde_json::Value>,
    /// A file with JSON or text.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// A variable with JSON or text.
    #[serde(default)]
    pub env: Option<String>,
}

/// Outgoing HTTP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Further certificate authorities, in PEM.
    pub ca: Option<PathBuf>,
    /// Largest response body in bytes.
    pub max_body: Option<usize>,
    /// Longest call without a shorter deadline.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Longest wait for a connection.
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Option<Duration>,
    /// Calls in flight to one authority.
    pub max_connections: Option<usize>,
}

/// Limits.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Instances that move at the same time.
    pub active_instances: Option<usize>,
    /// Inputs waiting for the engine.
    pub queued_inputs: Option<usize>,
    /// Calls in flight over all services.
    pub calls_in_flight: Option<usize>,
    /// Largest request body of the HTTP API in bytes.
    pub request_body: Option<usize>,
    /// Largest message that takes work from one location to another, in bytes.
    pub token: Option<usize>,
    /// After how long a message that nobody takes makes its instance stuck.
    #[serde(deserialize_with = "duration")]
    pub stuck_after: Option<Duration>,
}

/// The log.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// The form of its lines.
    pub format: LogFormat,
}

/// Traces, as a collector of OpenTelemetry takes them by OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesConfig {
    /// The collector's base URL: traces go to `/v1/traces` there.
    pub otlp: String,
    /// The part of the traces that begin here that is recorded, from 0 to 1; all, if absent.
    #[serde(default)]
    pub ratio: Option<f64>,
    /// Headers that the collector wants, such as credentials.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// `service.name` of this process; `pavane` if absent.
    #[serde(default)]
    pub service: Option<String>,
}

/// The shortest token, in characters: 16 of a random base64 text are 96 bits.
const MIN_TOKEN: usize = 16;

impl Secret {
    /// Its value.
    ///
    /// # Errors
    /// Why it cannot be had.
    fn read(&self) -> Result<Value, String> {
        match (&self.value, &self.file, &self.env) {
            (Some(value), None, None) => Ok(Value::from(value)),
            (None, Some(file), None) => std::fs::read_to_string(file)
                .map(|text| text_or_json(text.trim_end()))
                .map_err(|e| format!("{}: {e}", file.display())),
            (None, None, Some(variable)) => {
                std::env::var(variable).map(|text| text_or_json(&text)).map_err(|e| format!("{variable}: {e}"))
            }
            _ => Err("give exactly one of `value`, `file`, `env`".into()),
        }
    }
}

impl TracesConfig {
    /// Whether it can be used.
    fn check(&self) -> Result<(), String> {
        let uri = self.otlp.parse::<http::Uri>().ok().filter(|uri| uri.host().is_some() && uri.query().is_none());
        if !uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https"))) {
            return Err(format!("otlp: `{}` is no base URL: write for example http://127.0.0.1:4318", self.otlp));
        }
        if self.ratio.is_some_and(|ratio| !(0.0..=1.0).contains(&ratio)) {
            return Err("ratio: it is a part of the traces, from 0 to 1".into());
        }
        Ok(())
    }

    /// The headers, with their values.
    ///
    /// # Errors
    /// Each that cannot be had, or sent.
    pub fn header_map(&self) -> Result<http::HeaderMap, Vec<String>> {
        let mut headers = http::HeaderMap::new();
        let mut problems = Vec::new();
        for (name, secret) in &self.headers {
            let value = secret.read().and_then(|value| {
                let text = value.as_str().map_or_else(|| value.to_json(), str::to_owned);
                let mut value = http::HeaderValue::try_from(text).map_err(|_| "its value cannot be sent".to_owned())?;
                value.set_sensitive(true);
                let name =
                    http::HeaderName::try_from(name).map_err(|_| "it cannot be the name of a header".to_owned())?;
                Ok((name, value))
            });
            match value {
                Ok((name, value)) => drop(headers.insert(name, value)),
                Err(why) => problems.push(format!("traces.headers.{name}: {why}")),
            }
        }
        if problems.is_empty() { Ok(headers) } else { Err(problems) }
    }
}

impl Config {
    /// Reads a configuration file. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// Everything that is wrong with it, a line each.
    pub fn read(path: &Path) -> Result<Config, Vec<String>> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| vec![format!("{name}: {e}")])?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut config = Config::parse(&name.to_string(), &text, folder)?;
        config.store.sqlite.path = folder.join(&config.store.sqlite.path);
        config.workflows.iter_mut().for_each(|w| *w = folder.join(&*w).display().to_string());
        config.http.ca = config.http.ca.map(|ca| folder.join(ca));
        let files = config.secrets.values_mut().chain(&mut config.bus.embedded.token);
        let files = files.chain(&mut config.callbacks.secret);
        let headers = config.traces.iter_mut().flat_map(|traces| traces.headers.values_mut());
        files.chain(headers).for_each(|secret| secret.file = secret.file.take().map(|file| folder.join(file)));
        Ok(config)
    }

    fn parse(name: &str, text: &str, folder: &Path) -> Result<Config, Vec<String>> {
        if let Ok(tree) = pavane_core::definition::document(text) {
            let mut problems: Vec<String> = LATER
                .iter()
                .filter(|(key, _)| tree.get(key).is_some())
                .map(|(key, what)| {
                    format!("{name}: `{key}`: {what}: not available in this version of Pavane; leave the key out")
                })
                .collect();
            for bus in ["nats", "rabbitmq", "kafka", "sqs"] {
                if tree.get("bus").is_some_and(|b| b.get(bus).is_some()) {
                    problems.push(format!(
                        "{name}: `bus.{bus}`: not available in this version of Pavane; use `bus: {{ embedded: {{}} }}`"
                    ));
                }
            }
            if tree.get("store").is_some_and(|s| s.get("postgres").is_some()) {
                problems.push(format!(
                    "{name}: `store.postgres`: not available in this version of Pavane; use `store.sqlite`"
                ));
            }
            if !problems.is_empty() {
                return Err(problems);
            }
        }
        let text = if text.trim().is_empty() { "{}" } else { text };
        let mut config: Config = serde_saphyr::from_str(text).map_err(|error| {
            let at = error.location().map(|l| format!(":{}:{}", l.line(), l.column())).unwrap_or_default();
            vec![format!("{name}{at}: {}", helpful(&error.to_string()))]
        })?;
        Services::new(config.services.clone())
            .map_err(|problems| problems.into_iter().map(|p| format!("{name}: {p}")).collect::<Vec<_>>())?;
        config.egress.check().map_err(|problem| vec![format!("{name}: {problem}")])?;
        config.door().map_err(|faults| in_file(name, &faults))?;
        if let Some(url) = &config.callbacks.url
            && !url.parse::<http::Uri>().is_ok_and(|url| url.scheme().is_some() && url.query().is_none())
        {
            return Err(vec![format!(
                "{name}: callbacks.url: `{url}` is no base URL: write where services reach the HTTP API, for example \
                 http://pavane.internal:8081"
            )]);
        }
        // Certificates are read by the check.
        config.gateway.relative_to(folder);
        config.gateway_setup().check().map_err(|faults| in_file(name, &faults))?;
        if let Some(traces) = &config.traces {
            traces.check().map_err(|why| vec![format!("{name}: traces.{why}")])?;
        }
        Ok(config)
    }

    /// The gateway's part.
    pub fn gateway_setup(&self) -> Setup {
        let urls = |s: &ServiceSettings| s.url.iter().chain(&s.urls).cloned().collect();
        Setup {
            settings: self.gateway.clone(),
            routes: self.routes.clone(),
            services: self.services.iter().map(|(name, settings)| (name.clone(), urls(settings))).collect(),
        }
    }

    /// The door of the HTTP API, if it has one.
    ///
    /// # Errors
    /// What is wrong with the credentials.
    pub fn door(&self) -> Result<Option<Door>, Vec<Fault>> {
        Door::new("admin", &self.admin.keys, &self.admin.basic)
    }

    /// Whether there is a gateway.
    pub fn has_gateway(&self) -> bool {
        self.listen.gateway.is_some() || !self.routes.is_empty()
    }

    /// The services.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn services(&self) -> Result<Services, Vec<String>> {
        Services::new(self.services.clone())
    }

    /// The secrets' values.
    ///
    /// # Errors
    /// Each that cannot be had.
    pub fn secrets(&self) -> Result<BTreeMap<String, Value>, Vec<String>> {
        let mut problems = Vec::new();
        let mut values = BTreeMap::new();
        for (name, secret) in &self.secrets {
            let value = secret.read().map_err(|why| format!("secrets.{name}: {why}"));
            match value {
                Ok(value) => drop(values.insert(name.clone(), value)),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(values) } else { Err(problems) }
    }

    /// What participants in processes of their own show to be let in: at least [`MIN_TOKEN`] characters.
    ///
    /// # Errors
    /// It cannot be had, or is too short.
    pub fn bus_token(&self) -> Result<Option<String>, String> {
        text("bus.embedded.token", self.bus.embedded.token.as_ref())
    }

    /// What the URLs of callbacks are signed with, if it is given: at least [`MIN_TOKEN`] characters.
    ///
    /// # Errors
    /// It cannot be had, or is too short.
    pub fn callback_secret(&self) -> Result<Option<String>, String> {
        text("callbacks.secret", self.callbacks.secret.as_ref())
    }

    /// Where services reach the HTTP API, as far as that is known before it listens.
    pub fn callback_url(&self) -> Option<String> {
        let admin = self.listen.admin;
        self.callbacks.url.clone().or_else(|| (admin.port() > 0).then(|| reachable(admin)))
    }

    /// Keys whose values differ from those of another configuration and that are read at the start alone.
    pub fn needs_restart(&self, other: &Config) -> Vec<&'static str> {
        // The gateway follows the file by itself.
        let Config {
            listen, admin, store, bus, callbacks, secrets, http, egress, limits, log, traces, shutdown, ..
        } = self;
        let keys = [
            ("listen", *listen != other.listen),
            ("admin", *admin != other.admin),
            ("store", *store != other.store),
            ("bus", *bus != other.bus),
            ("callbacks", *callbacks != other.callbacks),
            ("secrets", *secrets != other.secrets),
            ("http", *http != other.http),
            ("egress", *egress != other.egress),
            ("limits", *limits != other.limits),
            ("log", *log != other.log),
            ("traces", *traces != other.traces),
            ("shutdown", *shutdown != other.shutdown),
        ];
        keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }

    /// The services whose participants are in processes of their own.
    pub fn remote_services(&self) -> BTreeSet<String> {
        let remote = self.services.iter().filter(|(_, settings)| settings.participant == Place::Remote);
        remote.map(|(name, _)| name.clone()).collect()
    }

    /// The files that `workflows` names.
    ///
    /// # Errors
    /// A file or folder that is not there.
    pub fn workflow_files(&self) -> Result<Vec<PathBuf>, Vec<String>> {
        let mut files = Vec::new();
        let mut problems = Vec::new();
        for pattern in &self.workflows {
            let path = Path::new(pattern);
            match path.file_name().and_then(|n| n.to_str()).and_then(|n| n.split_once('*')) {
                None if path.is_file() => files.push(path.to_owned()),
                None => problems.push(format!("workflows: {pattern}: there is no such file")),
                Some((before, after)) => match std::fs::read_dir(path.parent().unwrap_or(Path::new("."))) {
                    Ok(entries) => {
                        let matches = |name: &str| {
                            name.len() >= before.len() + after.len()
                                && name.starts_with(before)
                                && name.ends_with(after)
                        };
                        let mut found: Vec<PathBuf> = entries
                            .filter_map(Result::ok)
                            .filter(|e| e.file_name().to_str().is_some_and(matches))
                            .map(|e| e.path())
                            .collect();
                        found.sort();
                        files.extend(found);
                    }
                    Err(e) => problems.push(format!("workflows: {pattern}: {e}")),
                },
            }
        }
        if problems.is_empty() { Ok(files) } else { Err(problems) }
    }
}

/// A secret text of at least [`MIN_TOKEN`] characters.
fn text(key: &str, secret: Option<&Secret>) -> Result<Option<String>, String> {
    let Some(secret) = secret else { return Ok(None) };
    let value = secret.read().map_err(|why| format!("{key}: {why}"))?;
    match value.as_str() {
        Some(token) if token.len() >= MIN_TOKEN => Ok(Some(token.to_owned())),
        _ => Err(format!(
            "{key}: it must be a text of at least {MIN_TOKEN} characters (one made of digits alone is read as a number)"
        )),
    }
}

/// The URL of a listener, for those on the same machine when it listens everywhere.
pub fn reachable(address: SocketAddr) -> String {
    let local = SocketAddr::from(([127, 0, 0, 1], address.port()));
    format!("http://{}", if address.ip().is_unspecified() { local } else { address })
}

/// A text that is JSON is that; any other is a string.
pub fn text_or_json(text: &str) -> Value {
    Value::parse(text.as_bytes()).unwrap_or_else(|_| Value::text(text))
}

/// Turns the reader's "unknown field `x`, expected one of a, b" into a question.
fn helpful(message: &str) -> String {
    let parts = message
        .split_once("unknown field `")
        .and_then(|(_, rest)| rest.split_once("`, expected one of "))
        .map(|(unknown, known)| (unknown, known.lines().next().unwrap_or_default()));
    let Some((unknown, known)) = parts else { return message.to_owned() };
    let distance = |other: &&str| strsim::damerau_levenshtein(unknown, other);
    match known.split(", ").map(|name| name.trim_matches('`')).min_by_key(distance).filter(|near| distance(near) <= 3) {
        Some(near) => format!("the key `{unknown}` is not known here: did you mean `{near}`?"),
        None => format!("the key `{unknown}` is not known here: there are {known}"),
    }
}

/// Faults with the file that they are in, a line each.
pub fn in_file(name: &str, faults: &[Fault]) -> Vec<String> {
    let place = |fault: &Fault| if fault.line > 0 { ":" } else { ": " };
    faults.iter().map(|fault| format!("{name}{}{fault}", place(fault))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Vec<String>> {
        Config::parse("p.yaml", text, Path::new("."))
    }

    #[test]
    fn problems_name_their_place_and_a_remedy() {
        for (text, part) in [
            (
                "listen: { admin: 127.0.0.1:9 }\nstor: {}\n",
                "p.yaml:2:1: the key `stor` is not known here: did you mean `store`?",
            ),
            ("roles: []\n", "not available in this version"),
            (
                "routes:\n  - { match: { path: /x }, service: a }\n",
                "p.yaml:2:5: routes: 1. `/x`: service: `a` is not under",
            ),
            ("routes:\n  - { match: { path: /x }, servce: a }\n", "did you mean `service`?"),
            ("gateway: { limits: { headers: 1 } }\n", "p.yaml: gateway.limits.headers: 1 is not from 10"),
            ("bus:\n  nats: { url: x }\n", "use `bus: { embedded: {} }`"),
            ("bus:\n  embedded: {}\nstor: {}\n", "p.yaml:3:1: the key `stor`"),
            ("bus: { embeded: {} }\n", "did you mean `embedded`?"),
            ("store: { postgres: { url: x } }\n", "not available in this version"),
            ("services: { a: { url: nonsense } }\n", "is no base URL"),
            ("services: { a: { timeout: 5 } }\n", "no duration"),
            (
                "services: { a: { url: 'http://h:1', limits: { rate: fast } } }\n",
                "`fast` is no rate: write for example 500/s",
            ),
            ("services: { a: { url: 'http://h:1', breaker: { open_fo: 5s } } }\n", "did you mean `open_for`?"),
            (
                "services: { a: { url: 'http://h:1', breaker: { min_calls: 0 } } }\n",
                "p.yaml: services.a.breaker.min_calls: at least 1",
            ),
            ("services: { engine: { url: 'http://h:1' } }\n", "the engine's own"),
            ("admin: { keys: [{ name: ops, sha256: abc }] }\n", "p.yaml:1:17: admin.keys: ops: `sha256` has 64"),
            ("admin: { keys: [{ name: ops, sha256: abc, scopes: [x] }] }\n", "`scopes` say nothing here"),
            ("admin: { basic: [{ name: ada, pbkdf2: abc }] }\n", "admin.basic: ada: `pbkdf2` is written"),
            ("egress: { allow: [10.0.0.0/8] }\n", "p.yaml: egress.allow: without `deny_private: true`"),
            ("egress: { deny_private: true, allow: [ten] }\n", "no block such as 10.0.0.0/8"),
            ("shutdown: soon\n", "no duration"),
            ("log: { format: xml }\n", "unknown variant `xml`, expected one of text, ecs, auto"),
            ("traces: { otlp: collector }\n", "p.yaml: traces.otlp: `collector` is no base URL"),
            ("traces: { otlp: 'http://h:4318', ratio: 5 }\n", "traces.ratio: it is a part"),
            ("traces: { ratio: 1 }\n", "missing field `otlp`"),
            ("listen: { admin: nowhere }\n", "p.yaml:1"),
            ("callbacks: { url: nowhere }\n", "callbacks.url: `nowhere` is no base URL"),
            ("callbacks: { timeuot: 1h }\n", "did you mean `timeout`?"),
        ] {
            let problems = parse(text).unwrap_err().join("\n");
            assert!(problems.contains(part), "{text}: {problems}");
        }
        assert!(parse("").is_ok());
        let whole =
            "services: { payment: { url: 'http://h:1', breaker: { failure_rate: 0.5, window: 10s, min_calls: 20,
            open_for: 5s, half_open_calls: 3, slow: 2s, slow_rate: 0.5 }, retries: { ratio: 0.2, at_least: 10/s },
            limits: { in_flight: 200, rate: 500/s, wait: 1h } } }";
        assert_eq!(parse(whole).err(), None);
        assert!(parse("bus:\n  embedded: {}\nworkflows:\n  - 'bus: a.yaml'\n").is_ok());
        assert!(parse("bus: { embedded: {} }\nservices: { a: { url: 'http://h:1', timeout: 250ms } }").is_ok());
    }
}
