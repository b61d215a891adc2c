//! What the process says on standard error: lines for people, or JSON in the form of the Elastic Common Schema, one object
//! a line, as the ECS logging specification has it. Nothing that is logged may hold data of instances.
//!
//! Start reading at [`decide`], and at `object` for what a line in JSON holds.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

use pavane_core::Timestamp;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;

/// The version of the schema whose fields are used.
const ECS_VERSION: &str = "8.11.0";

/// Whether lines are JSON, once somebody has said so. Standard error is the process's, and so is this.
static ECS: OnceLock<bool> = OnceLock::new();

/// Decides on the form of lines. Who comes first decides: the command line is read before the configuration.
pub fn decide(format: LogFormat) {
    let ecs = match format {
        LogFormat::Text => false,
        LogFormat::Ecs => true,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    ECS.get_or_init(|| ecs);
}

fn is_ecs() -> bool {
    ECS.get().copied().unwrap_or_default()
}

/// Says on standard error that something is wrong, if anybody still reads: whoever started the process may have closed it.
pub fn complain(problem: &str) {
    say("error", &format!("error: {}", problem.trim_end()), problem.trim_end());
}

/// Says something on standard error.
pub fn notice(line: &str) {
    say("info", line, line);
}

fn say(level: &str, text: &str, message: &str) {
    let line = if is_ecs() { base(level, message, env!("CARGO_PKG_NAME")).to_string() } else { text.to_owned() };
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The events of [`tracing`] as lines.
#[derive(Default)]
pub struct Lines(format::Format);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        match is_ecs() {
            true => writeln!(writer, "{}", object(event)),
            false => self.0.format_event(context, writer, event),
        }
    }
}

/// What every line has, in the order that the specification recommends: `serde_json` keeps it within `Line`.
fn base(level: &str, message: &str, logger: &str) -> Line {
    let dataset = match logger {
        "pavane_gateway::access" => "pavane.access",
        "pavane::instance" => "pavane.instance",
        _ => "pavane.log",
    };
    let mut more = Map::new();
    more.insert("log.logger".into(), json!(logger));
    more.insert("service.name".into(), json!("pavane"));
    more.insert("service.version".into(), json!(env!("CARGO_PKG_VERSION")));
    more.insert("process.pid".into(), json!(std::process::id()));
    more.insert("event.dataset".into(), json!(dataset));
    Line { at: now(), level: level.to_owned(), message: message.to_owned(), more, labels: Map::new() }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A line in JSON. Its first fields are written by hand: people look at the beginning of lines, and parsers may.
struct Line {
    at: Timestamp,
    level: String,
    message: String,
    more: Map<String, Value>,
    labels: Map<String, Value>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &str| Value::from(text).to_string();
        let (at, level, message) = (text(&self.at.to_string()), text(&self.level), text(&self.message));
        write!(
            f,
            "{{\"@timestamp\":{at},\"log.level\":{level},\"message\":{message},\"ecs.version\":\"{ECS_VERSION}\""
        )?;
        for (name, value) in &self.more {
            write!(f, ",{}:{value}", text(name))?;
        }
        if !self.labels.is_empty() {
            write!(f, ",\"labels\":{}", Value::Object(self.labels.clone()))?;
        }
        f.write_str("}")
    }
}

/// An event as a line in JSON.
fn object(event: &Event<'_>) -> Line {
    let metadata = event.metadata();
    let level = match *metadata.level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let mut line = base(level, "", metadata.target());
    event.record(&mut line);
    // What went wrong is said under several names.
    if *metadata.level() <= Level::WARN && !line.more.contains_key("error.message") {
        let why = ["why", "reason"].iter().find_map(|name| line.labels.remove(*name));
        line.more.extend(why.map(|why| ("error.message".to_owned(), why)));
    }
    line
}

/// Where a field goes whose name the schema has in another form.
fn place(name: &str) -> Option<&'static str> {
    Some(match name {
        "error" | "failure" => "error.message",
        "trace" => "trace.id",
        "client" => "client.ip",
        "method" => "http.request.method",
        "path" => "url.path",
        "status" => "http.response.status_code",
        "request" => "http.request.id",
        _ => return None,
    })
}

/// Fields of the schema that are said by their own names.
const OWN: [&str; 4] = ["event.", "error.", "trace.", "http."];

impl Line {
    fn put(&mut self, name: &str, value: Value) {
        let access = self.more.get("event.dataset").is_some_and(|dataset| dataset == "pavane.access");
        let placed = place(name).filter(|place| access || matches!(*place, "error.message" | "trace.id"));
        if name == "message" {
            self.message = shown(&value);
        } else if let Some(place) = placed {
            self.more.insert(place.to_owned(), value);
        } else if OWN.iter().any(|own| name.starts_with(own)) {
            self.more.insert(name.to_owned(), value);
        } else {
            // Labels are texts, and dots in their names would make objects of them.
            self.labels.insert(name.replace(['.', '*', '\\'], "_"), Value::String(shown(&value)));
        }
    }
}

/// A value as a text.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), json!(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A text that is shown for debugging has quotation marks.
        let text = format!("{value:?}");
        let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).map(str::to_owned);
        self.put(field.name(), Value::String(bare.unwrap_or(text)));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Json;

    impl<S, N> FormatEvent<S, N> for Json
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
            writeln!(writer, "{}", object(event))
        }
    }

    fn logged(log: impl FnOnce()) -> (String, Value) {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt().event_format(Json).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        (text, value)
    }

    #[test]
    fn an_error_has_its_own_field_and_other_fields_are_labels() {
        let error = io::Error::other("line 1\nline \"2\"");
        let (text, line) = logged(|| tracing::error!(%error, place = 7, a.b = true, "it failed"));
        assert!(text.starts_with("{\"@timestamp\":\"20") && text.matches('\n').count() == 1, "{text}");
        assert!(text.find("log.level") < text.find("\"message\""), "{text}");
        assert_eq!((&line["log.level"], &line["message"]), (&json!("error"), &json!("it failed")));
        assert_eq!(line["error.message"], "line 1\nline \"2\"");
        assert_eq!(line["labels"], json!({ "place": "7", "a_b": "true" }));
    }

    #[test]
    fn a_reason_is_what_went_wrong_only_when_something_did() {
        let (_, line) = logged(|| tracing::warn!(why = "no room", "dropped"));
        assert_eq!((&line["error.message"], line.get("labels")), (&json!("no room"), None));
        let (_, line) = logged(|| tracing::info!(why = "asked", "stopping"));
        assert_eq!((line.get("error.message"), &line["labels"]), (None, &json!({ "why": "asked" })));
    }

    #[test]
    fn an_answer_of_the_gateway_is_told_in_the_words_of_the_schema() {
        let id = http::HeaderValue::from_static("abc");
        let (_, line) = logged(|| {
            tracing::info!(target: "pavane_gateway::access", client = %"127.0.0.1", method = %"GET", path = "/a",
                status = 200_u16, request = ?id, "answered");
        });
        for (field, value) in [
            ("event.dataset", json!("pavane.access")),
            ("client.ip", json!("127.0.0.1")),
            ("http.request.method", json!("GET")),
            ("http.request.id", json!("abc")),
            ("http.response.status_code", json!(200)),
            ("url.path", json!("/a")),
        ] {
            assert_eq!(line[field], value, "{line}");
        }
        assert_eq!(line.get("labels"), None);
    }
}
