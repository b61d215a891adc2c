//! `pavane show`: one instance as a tree of its tasks.

use clap::Args;
use serde_json::{Value, json};

use super::remote::{At, missing, word};
use super::{Done, OK, Output, print_json};

/// What tells that a call waited at the gate of its service.
const HELD: &str = "io.pavane.task.held.v1";

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Instance id.
    id: String,
    #[command(flatten)]
    at: At,
}

impl Show {
    pub async fn run(self) -> Done {
        let instance = self.at.get(&format!("/api/v1/instances/{}", self.id)).await?;
        let tasks = self.at.get(&format!("/api/v1/instances/{}/tasks", self.id)).await?;
        let progress = self.at.get(&format!("/api/v1/instances/{}/progress", self.id)).await?;
        let events = self.at.get(&format!("/api/v1/instances/{}/events", self.id)).await?;
        let events = events["events"].as_array().map_or(&[][..], Vec::as_slice);
        let held: Vec<&Value> = events.iter().filter(|e| e["type"] == HELD).map(|event| &event["data"]).collect();
        if self.at.output == Output::Json {
            let shown = json!({ "instance": instance, "tasks": tasks["tasks"], "progress": progress, "held": held });
            print_json(&shown);
            return Ok(OK);
        }
        print!("{}", tree(&instance, tasks["tasks"].as_array().map_or(&[], Vec::as_slice)));
        print!("{}", held.iter().map(|held| waited(held)).collect::<String>());
        print!("{}", standing(&progress));
        Ok(OK)
    }
}

/// What a call that has ended waited for before it was sent.
fn waited(held: &Value) -> String {
    let times = held["waitedMs"].as_object().into_iter().flatten();
    let times: Vec<String> = times.map(|(reason, millis)| format!("{reason} {millis} ms")).collect();
    format!("{} waited for {}: {}\n", word(&held["task"]), word(&held["service"]), times.join(", "))
}

/// What an instance that has not ended waits for, and what should have come.
fn standing(progress: &Value) -> String {
    let standing = word(&progress["standing"]);
    if standing == "ended" {
        return String::new();
    }
    let mut out = standing.to_owned();
    if let Some(last) = progress["last"].as_object() {
        out.push_str(&format!(", last seen: {} at {}", word(&last["task"]), word(&last["at"])));
    }
    out.push('\n');
    for wait in progress["waits"].as_array().into_iter().flatten() {
        let service = wait["service"].as_str().map(|service| format!(" of {service}")).unwrap_or_default();
        let until = wait["until"].as_str().map(|until| format!(", until {until}")).unwrap_or_default();
        let (task, what, since) = (word(&wait["task"]), word(&wait["for"]), word(&wait["since"]));
        let gate = wait["gate"].as_str().map(|why| format!(" (not sent: {why})")).unwrap_or_default();
        out.push_str(&format!("  {task} waits for {what}{service} since {since}{until}{gate}\n"));
    }
    progress["missing"].as_array().into_iter().flatten().for_each(|message| out.push_str(&missing(message)));
    out
}

/// The tree: a line for each task run, indented by how deep it stands in the definition.
pub(crate) fn tree(instance: &Value, tasks: &[Value]) -> String {
    let mut out = format!(
        "{}/{} {}  {}  {}\n",
        word(&instance["namespace"]),
        word(&instance["name"]),
        word(&instance["version"]),
        word(&instance["status"]),
        word(&instance["id"])
    );
    for task in tasks {
        let reference = word(&task["reference"]);
        // Two segments a level: the list and the position; function bodies stand below what called them.
        let depth = reference.split('/').filter(|part| part.parse::<u32>().is_ok()).count().max(1);
        let mark = match word(&task["status"]) {
            "completed" => "✓",
            "faulted" => "✗",
            "cancelled" => "–",
            "waiting" => "…",
            _ => "▶",
        };
        let undo = if task["compensates"].is_string() { "  (undoes)" } else { "" };
        let attempt = task["attempt"].as_u64().filter(|n| *n > 1).map(|n| format!("  attempt {n}")).unwrap_or_default();
        let service = task["service_name"].as_str().map(|s| format!(" → {s}")).unwrap_or_default();
        let error =
            task["error"]["title"].as_str().map(|t| format!("  {} {t}", task["error"]["status"])).unwrap_or_default();
        out.push_str(&format!(
            "{}{mark} {} {}{service}{attempt}{undo}{error}\n",
            "  ".repeat(depth),
            word(&task["name"]),
            word(&task["kind"])
        ));
    }
    if let Some(error) = instance["error"].as_object() {
        let part = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
        out.push_str(&format!(
            "error at {}: {}\n",
            part("instance"),
            if part("detail").is_empty() { part("title") } else { part("detail") }
        ));
    }
    for unresolved in instance["compensation"]["unresolved"].as_array().into_iter().flatten() {
        out.push_str(&format!(
            "NOT undone: {} (key {}): {}\n",
            word(&unresolved["reference"]),
            word(&unresolved["key"]),
            word(&unresolved["reason"])
        ));
    }
    out
}
