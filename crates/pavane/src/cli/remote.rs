//! Commands that talk to a server.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use pavane_core::definition::Mode;
use serde_json::Value;

use super::{Done, FAILED, Failure, LATE, ModeArgument, OK, Output, duration_argument, json_argument, print_json};
use crate::client::{Server, problem};

/// Which server.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The server's HTTP API.
    #[arg(long, env = "PAVANE_SERVER", default_value = "http://127.0.0.1:8081")]
    server: String,
    /// What to show the server to be let in: a key, or NAME:PASSWORD. Others on this machine may see what stands on a command
    /// line: the variable is better.
    #[arg(long, env = "PAVANE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

impl At {
    pub fn server(&self) -> Result<Server, Failure> {
        let server = Server::new(&self.server);
        match &self.token {
            Some(token) => server.with_token(token).map_err(|why| Failure::wrong(format!("--token: {why}"))),
            None => Ok(server),
        }
    }

    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.server()?.get(Method::GET, path, &[], Bytes::new()).await.map_err(Failure::failed)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// Definitions.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    at: At,
}

impl Deploy {
    pub async fn run(self) -> Done {
        let server = self.at.server()?;
        for file in &self.files {
            let text = std::fs::read(file).map_err(|e| Failure::wrong(format!("{}: {e}", file.display())))?;
            let headers = [("content-type", "application/yaml")];
            let answer =
                server.ask(Method::POST, "/api/v1/workflows", &headers, text.into()).await.map_err(Failure::failed)?;
            if !answer.status.is_success() {
                return Err(Failure::wrong(format!("{}: {}", file.display(), problem(&answer))));
            }
            match self.at.output {
                Output::Json => print_json(&answer.body),
                Output::Text => println!(
                    "{} {}/{} {}",
                    if answer.status == 201 { "deployed" } else { "unchanged" },
                    word(&answer.body["namespace"]),
                    word(&answer.body["name"]),
                    word(&answer.body["version"])
                ),
            }
        }
        Ok(OK)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// NAMESPACE/NAME[@VERSION]
    workflow: String,
    /// Input: JSON, @file, or - for standard input.
    #[arg(short, long, default_value = "{}")]
    input: String,
    /// Instance id, a UUID: starting it again attaches to it.
    #[arg(long)]
    id: Option<String>,
    /// Mode to run in; the one the document asks for by default.
    #[arg(long, value_enum)]
    mode: Option<ModeArgument>,
    /// Wait for the end.
    #[arg(long, value_parser = duration_argument)]
    wait: Option<Duration>,
    #[command(flatten)]
    at: At,
}

impl Start {
    pub async fn run(self) -> Done {
        let (workflow, version) =
            self.workflow.split_once('@').map_or((self.workflow.as_str(), None), |(w, v)| (w, Some(v)));
        let (namespace, name) = workflow
            .split_once('/')
            .ok_or_else(|| Failure::wrong(format!("`{}`: write NAMESPACE/NAME[@VERSION]", self.workflow)))?;
        let version = version.map(|version| format!("version={version}"));
        let mode = self.mode.map(|mode| format!("mode={}", Mode::from(mode).as_str()));
        let query: Vec<String> = version.into_iter().chain(mode).collect();
        let path = format!("/api/v1/workflows/{namespace}/{name}/instances?{}", query.join("&"));
        let input = json_argument(&self.input)?.to_string();
        let wait = self.wait.map(|wait| format!("wait={}", wait.as_secs().max(1)));
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(wait.as_deref().map(|wait| ("prefer", wait)));
        headers.extend(self.id.as_deref().map(|id| ("pavane-instance", id)));
        let answer =
            self.at.server()?.ask(Method::POST, &path, &headers, input.into()).await.map_err(Failure::failed)?;
        let ended = answer.body["code"] == "instance_faulted" || answer.body["code"] == "instance_cancelled";
        if !answer.status.is_success() && !ended {
            let wrong = answer.status.is_client_error();
            let message = problem(&answer);
            return Err(if wrong { Failure::wrong(message) } else { Failure::failed(message) });
        }
        match self.at.output {
            Output::Json => print_json(&answer.body),
            Output::Text if ended => println!("{} {}", word(&answer.body["id"]), problem(&answer)),
            Output::Text if answer.status == 200 => {
                println!("{} completed", word(&answer.body["id"]));
                print_json(&answer.body["output"]);
            }
            Output::Text => println!("{}", word(&answer.body["id"])),
        }
        Ok(match answer.status.as_u16() {
            200 => OK,
            202 if self.wait.is_some() => LATE,
            202 => OK,
            _ => FAILED,
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Only of this workflow: NAMESPACE/NAME, or NAME.
    #[arg(long)]
    workflow: Option<String>,
    /// Only with this status; several separated by commas.
    #[arg(long)]
    status: Option<String>,
    /// Only in this mode.
    #[arg(long, value_enum)]
    mode: Option<ModeArgument>,
    /// Only those with work that nobody has taken for so long; as long as the server has configured when no time is given.
    #[arg(long, num_args = 0..=1, default_missing_value = "", value_parser = duration_or_none, conflicts_with_all = ["workflow", "status", "mode"])]
    stuck: Option<String>,
    /// How many.
    #[arg(long, default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    at: At,
}

impl Ps {
    pub async fn run(self) -> Done {
        let mut path = format!("/api/v1/instances?limit={}", self.limit);
        for (name, value) in [("workflow", &self.workflow), ("status", &self.status)] {
            path.extend(value.iter().map(|value| format!("&{name}={}", value.replace('/', "%2F"))));
        }
        path.extend(self.mode.map(|mode| format!("&mode={}", Mode::from(mode).as_str())));
        path.extend(self.stuck.iter().map(|after| format!("&stuck={after}")));
        let body = self.at.get(&path).await?;
        if self.at.output == Output::Json {
            print_json(&body);
            return Ok(OK);
        }
        if self.stuck.is_some() {
            print!("{}", stuck(&body));
            return Ok(OK);
        }
        let instances = body["instances"].as_array().cloned().unwrap_or_default();
        println!(
            "{:<36}  {:<9}  {:<13}  {:<24}  {:<24}  COMPENSATION",
            "INSTANCE", "STATUS", "MODE", "STARTED", "WORKFLOW"
        );
        for instance in &instances {
            println!(
                "{:<36}  {:<9}  {:<13}  {:<24}  {:<24}  {}",
                word(&instance["id"]),
                word(&instance["status"]),
                word(&instance["mode"]),
                word(&instance["start_time"]),
                format!("{}/{} {}", word(&instance["namespace"]), word(&instance["name"]), word(&instance["version"])),
                word(&instance["compensation"]["status"])
            );
        }
        if body["next"].is_string() {
            println!("… there are more; see --limit, --status and --workflow");
        }
        Ok(OK)
    }
}

/// A length of time, which may be left out; as it was written.
fn duration_or_none(text: &str) -> Result<String, String> {
    if !text.is_empty() {
        duration_argument(text)?;
    }
    Ok(text.to_owned())
}

/// Stuck instances, each with what should have come and what to do.
fn stuck(body: &Value) -> String {
    let instances = body["instances"].as_array().cloned().unwrap_or_default();
    if instances.is_empty() {
        return "no instance is stuck\n".into();
    }
    let mut text = String::new();
    for instance in &instances {
        let workflow =
            format!("{}/{} {}", word(&instance["namespace"]), word(&instance["name"]), word(&instance["version"]));
        text.push_str(&format!("{}  {workflow}\n{}", word(&instance["id"]), missing(&instance["stuck"])));
    }
    if body["all"] == false {
        text.push_str("… there may be more: see --limit; participants that are away cannot be asked\n");
    }
    text
}

/// A message that should have been taken.
pub(super) fn missing(message: &Value) -> String {
    let task = message["task"].as_str().map(|task| format!(" for {task}")).unwrap_or_default();
    let reason = message["reason"].as_str().map(|why| format!("  dead letter: {why}\n")).unwrap_or_default();
    format!(
        "  expected: {}{task}\n  from {} to {}, since {}\n{reason}  {}\n",
        word(&message["expected"]),
        word(&message["from"]),
        word(&message["to"]),
        word(&message["since"]),
        word(&message["remedy"])
    )
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Instance id.
    id: String,
    /// Go on until the instance ends.
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    at: At,
}

impl Events {
    pub async fn run(self) -> Done {
        let path = format!("/api/v1/instances/{}/events", self.id);
        if self.follow {
            return self.stream(&format!("{path}/stream")).await;
        }
        let body = self.at.get(&path).await?;
        if self.at.output == Output::Json {
            print_json(&body);
        } else {
            body["events"].as_array().into_iter().flatten().for_each(print_event);
        }
        Ok(OK)
    }

    async fn stream(&self, path: &str) -> Done {
        let response = self.at.server()?.send(Method::GET, path, &[], Bytes::new()).await.map_err(Failure::failed)?;
        if !response.status().is_success() {
            return Err(Failure::failed(format!("{}: there is no instance {}", response.status(), self.id)));
        }
        let mut body = response.into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Failure::failed(format!("the stream broke off: {e}")))?;
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if let Some(Ok(event)) = line.strip_prefix(b"data: ").map(serde_json::from_slice::<Value>) {
                    match self.at.output {
                        Output::Json => println!("{event}"),
                        Output::Text => print_event(&event),
                    }
                }
            }
        }
        Ok(OK)
    }
}

fn print_event(event: &Value) {
    let name = word(&event["type"]);
    let name = name.strip_prefix("io.serverlessworkflow.").and_then(|n| n.strip_suffix(".v1")).unwrap_or(name);
    println!("{}  {name:<28}  {}", word(&event["time"]), word(&event["data"]["task"]));
}

#[derive(Debug, Args)]
pub(crate) struct Operate {
    /// Instance id.
    id: String,
    #[command(flatten)]
    at: At,
}

impl Operate {
    pub async fn run(self, operation: &str) -> Done {
        let path = format!("/api/v1/instances/{}/{operation}", self.id);
        let body = self.at.server()?.get(Method::POST, &path, &[], Bytes::new()).await.map_err(Failure::failed)?;
        match self.at.output {
            Output::Json => print_json(&body),
            Output::Text => println!("{operation}: {}", self.id),
        }
        Ok(OK)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Emit {
    /// A CloudEvent: JSON, a file, @file, or - for standard input.
    event: String,
    #[command(flatten)]
    at: At,
}

impl Emit {
    pub async fn run(self) -> Done {
        let is_file = std::path::Path::new(&self.event).is_file();
        let event = json_argument(&if is_file { format!("@{}", self.event) } else { self.event.clone() })?;
        let kind = if event.is_array() { "application/cloudevents-batch+json" } else { "application/cloudevents+json" };
        let body = event.to_string().into();
        let answer = self.at.server()?.get(Method::POST, "/api/v1/events", &[("content-type", kind)], body).await;
        let answer = answer.map_err(Failure::failed)?;
        match self.at.output {
            Output::Json => print_json(&answer),
            Output::Text => println!("published {}", answer["accepted"]),
        }
        Ok(OK)
    }
}

#[derive(Debug, Args)]
pub(crate) struct ServicesOf {
    #[command(flatten)]
    at: At,
}

impl ServicesOf {
    pub async fn run(self) -> Done {
        let body = self.at.get("/api/v1/services").await?;
        if self.at.output == Output::Json {
            print_json(&body);
            return Ok(OK);
        }
        println!(
            "{:<20}  {:<9}  {:>11}  {:>7}  {:>5}  {:<11}  {:<11}  URLS",
            "SERVICE", "BREAKER", "IN FLIGHT", "WAITING", "USED", "IDEMPOTENCY", "PARTICIPANT"
        );
        for service in body["services"].as_array().into_iter().flatten() {
            let urls: Vec<&str> = service["urls"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            println!(
                "{:<20}  {:<9}  {:>11}  {:>7}  {:>4.0}%  {:<11}  {:<11}  {}",
                word(&service["name"]),
                service["breaker"].as_str().unwrap_or("none"),
                format!("{}/{}", service["in_flight"], service["max_in_flight"]),
                service["waiting"].to_string(),
                service["utilisation"].as_f64().unwrap_or_default() * 100.0,
                word(&service["idempotency"]),
                word(&service["participant"]),
                urls.join(", ")
            );
        }
        Ok(OK)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Redrive {
    /// Dead letters to send again, by id; without any, they are listed.
    ids: Vec<String>,
    /// All of them.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    at: At,
}

impl Redrive {
    pub async fn run(self) -> Done {
        let body = self.at.get("/api/v1/dead-letters").await?;
        let letters = body["dead_letters"].as_array().cloned().unwrap_or_default();
        if !self.all && self.ids.is_empty() {
            match self.at.output {
                Output::Json => print_json(&body),
                Output::Text if letters.is_empty() => println!("there are no dead letters"),
                Output::Text => letters.iter().for_each(|letter| {
                    let instance = word(&letter["message"]["pvninstance"]);
                    println!("{}  to {}  instance {instance}", word(&letter["id"]), word(&letter["to"]));
                    println!("  {}", word(&letter["reason"]));
                }),
            }
            return Ok(OK);
        }
        let all = letters.iter().filter(|_| self.all).map(|letter| word(&letter["id"]).to_owned());
        let ids: Vec<String> = self.ids.iter().cloned().chain(all).collect();
        for id in &ids {
            let path = format!("/api/v1/dead-letters/{id}/redrive");
            let answer = self.at.server()?.ask(Method::POST, &path, &[], "".into()).await.map_err(Failure::failed)?;
            if !answer.status.is_success() {
                return Err(Failure::wrong(problem(&answer)));
            }
            println!("{id} is on its way again");
        }
        Ok(OK)
    }
}

/// A JSON string, or nothing.
pub(crate) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
