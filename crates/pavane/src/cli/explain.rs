//! `pavane explain`: what choreography makes of a definition.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pavane_core::definition;
use pavane_core::program::{Cost, Explanation, Location, Program};
use serde_json::json;

use super::{Done, Failure, OK, picture, print_json, stand_ins};
use crate::config::Config;

/// Of a page of text.
const COLUMNS: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// A definition in YAML or JSON.
    file: PathBuf,
    /// Form of the output.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Configuration: its services have participants. Without it every host that the definition names has one.
    #[arg(short, long)]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs; stable.
    Json,
    /// A flow chart of who hands work to whom, for a document that draws Mermaid.
    Mermaid,
    /// A picture.
    Svg,
}

impl Explain {
    pub fn run(self) -> Done {
        let name = self.file.display().to_string();
        let text = std::fs::read_to_string(&self.file).map_err(|e| Failure::wrong(format!("{name}: {e}")))?;
        let config = self.config.as_deref().map(Config::read).transpose().map_err(Failure::all)?;
        let told = |problems: Vec<definition::Diagnostic>| {
            Failure::wrong(format!(
                "it cannot be choreographed\n{}",
                problems.iter().map(ToString::to_string).collect::<String>()
            ))
        };
        let reading = definition::read(&name, &text);
        let failed = reading.has_errors();
        let definition = match reading.definition {
            Some(definition) if !failed => definition,
            _ => return Err(told(reading.diagnostics)),
        };
        let resources = stand_ins(&definition);
        let services = match config {
            Some(config) => config.services.into_keys().collect(),
            None => Program::compile(&definition, &resources).map_err(told)?.hosts(),
        };
        let program = Program::choreograph(&definition, &resources, &services).map_err(told)?;
        let explanation = program.explain();
        match self.format {
            Format::Json => {
                let mut all = json!(explanation);
                all["slices"] = json!(program.slices());
                print_json(&all);
            }
            Format::Text => print!("{}", in_text(&program, &explanation)),
            Format::Mermaid => print!("{}", in_mermaid(&explanation)),
            Format::Svg => print!("{}", picture::svg(&title(&program, &explanation), &explanation)),
        }
        Ok(OK)
    }
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn title(program: &Program, explanation: &Explanation) -> String {
    let document = program.document();
    let others = count(explanation.participants.len() - 1, "participant");
    format!("{}/{} {}, choreographed: the engine and {others}", document.namespace, document.name, document.version)
}

fn in_text(program: &Program, explanation: &Explanation) -> String {
    let cost = explanation.straight;
    let number = |number: u32, what: &str| count(usize::try_from(number).unwrap_or(usize::MAX), what);
    let (calls, messages) = (number(cost.calls, "call"), number(cost.messages, "message"));
    let mut text = format!(
        "{}\nstraight through: {calls}, {messages}, {} of them one after the other\n\
         orchestrated:     {calls}, no messages\n\n",
        title(program, explanation),
        cost.hops
    );
    let width = explanation.tasks.iter().map(|task| task.name.len()).max().unwrap_or(0).max(4);
    text.push_str(&format!("{:<width$}  KIND    MADE BY\n", "TASK"));
    for task in explanation.tasks.iter().filter(|task| !task.reference.starts_with("/use/")) {
        let at = task.location.as_ref().map_or("whoever has the work", Location::name);
        let undone = task.undone_by.as_ref().map(|by| format!(", undone by {by}")).unwrap_or_default();
        text.push_str(&format!("{:<width$}  {:<6}  {at}{undone}\n", task.name, task.kind));
    }
    for participant in &explanation.participants {
        text.push_str(&format!("\n{}\n", participant.name.name()));
        let hands = |other: &dyn Fn(&pavane_core::program::HandOver) -> Option<String>| {
            let found: Vec<String> = explanation.hand_overs.iter().filter_map(other).collect();
            found.join(", ")
        };
        let comes =
            hands(&|hand| (hand.to == participant.name).then(|| format!("{} (from {})", hand.what, hand.from.name())));
        let goes =
            hands(&|hand| (hand.from == participant.name).then(|| format!("{} (to {})", hand.what, hand.to.name())));
        let lines = [
            ("on", comes),
            ("does", participant.does.join(", ")),
            ("hands on", goes),
            ("undoes by", participant.undoes.join(", ")),
        ];
        for (what, list) in lines.iter().filter(|(_, list)| !list.is_empty()) {
            text.push_str(&wrapped(&format!("  {what:<9}  "), list));
        }
        text.push_str(&format!("  slice      {}\n", participant.slice.get(..16).unwrap_or(&participant.slice)));
    }
    text.push_str(&knows(explanation));
    text.push_str(&paths(explanation));
    text.push_str(&exposure(explanation));
    text
}

/// A list behind a head, broken at commas so that the page stays readable.
fn wrapped(head: &str, list: &str) -> String {
    let indent = " ".repeat(head.chars().count());
    let mut lines = vec![head.to_owned()];
    for (item, first) in list.split(", ").zip(std::iter::once(true).chain(std::iter::repeat(false))) {
        let Some(line) = lines.last_mut() else { continue };
        if first {
            line.push_str(item);
        } else if line.chars().count() + 2 + item.chars().count() < COLUMNS {
            line.push_str(&format!(", {item}"));
        } else {
            line.push(',');
            lines.push(format!("{indent}{item}"));
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Who hands work or rollbacks to whom. Columns are numbered as the rows are.
fn knows(explanation: &Explanation) -> String {
    let names: Vec<&Location> = explanation.participants.iter().map(|participant| &participant.name).collect();
    let width = names.iter().map(|name| name.name().len()).max().unwrap_or(0);
    let numbers = 1..=names.len();
    if names.len() < 2 || width + names.len() * 4 + 20 > COLUMNS {
        return String::new();
    }
    let heads: String = numbers.clone().map(|number| format!("{number:>4}")).collect();
    let mut text =
        format!("\nWHO SENDS TO WHOM: w work, u what has to be undone\n    {:<width$}{heads}   in  out\n", "");
    for (participant, number) in explanation.participants.iter().zip(numbers) {
        let here = &participant.name;
        text.push_str(&format!("{number:>3} {:<width$}", here.name()));
        for other in &names {
            let undo = explanation.rollbacks.iter().any(|way| way.from == *here && way.to == **other);
            let cell = match (participant.to.contains(*other), undo) {
                (true, true) => "wu",
                (true, false) => "w",
                (false, true) => "u",
                (false, false) => ".",
            };
            text.push_str(&format!("{cell:>4}"));
        }
        text.push_str(&format!("{:>5}{:>5}\n", participant.fan_in, participant.fan_out));
    }
    text
}

fn paths(explanation: &Explanation) -> String {
    let width = explanation.paths.iter().map(|path| path.way.chars().count()).max().unwrap_or(0).clamp(3, 50);
    let mut text = format!("\n{:<width$}  MESSAGES  HOPS  CALLS  UNDONE  ENDS\n", "WAY");
    for path in &explanation.paths {
        let Cost { messages, hops, calls, .. } = path.cost;
        let way: String = path.way.chars().take(width).collect();
        text.push_str(&format!(
            "{way:<width$}  {messages:>8}  {hops:>4}  {calls:>5}  {:>6}  {}\n",
            path.undone, path.ends
        ));
    }
    if explanation.paths_left_out > 0 {
        text.push_str(&format!("and {} more\n", explanation.paths_left_out));
    }
    text
}

fn exposure(explanation: &Explanation) -> String {
    let mut text = "\nWHO MAY SEE WHAT, beside the engine, which records everything\n".to_owned();
    for row in &explanation.exposure {
        let seen: Vec<String> =
            row.seen_by.iter().map(|(at, reason)| format!("{} ({})", at.name(), reason.as_str())).collect();
        let indent = " ".repeat(4);
        text.push_str(&format!("{}\n{}", row.data, wrapped(&indent, &seen.join(", "))));
    }
    text
}

fn in_mermaid(explanation: &Explanation) -> String {
    // Names of services may hold what Mermaid gives a meaning to: they stand in quotes, behind ids of their own.
    let id = |location: &Location| {
        let index = explanation.participants.iter().position(|participant| participant.name == *location);
        format!("p{}", index.unwrap_or_default())
    };
    let quoted = |text: &str| text.replace('"', "#quot;");
    let mut text = "flowchart LR\n".to_owned();
    for participant in &explanation.participants {
        let does = participant.does.join("<br>");
        let name = participant.name.name();
        let label =
            if does.is_empty() { quoted(name) } else { format!("<b>{}</b><br>{}", quoted(name), quoted(&does)) };
        text.push_str(&format!("  {}[\"{label}\"]\n", id(&participant.name)));
    }
    for hand in &explanation.hand_overs {
        text.push_str(&format!("  {} -->|\"{}\"| {}\n", id(&hand.from), quoted(&hand.what), id(&hand.to)));
    }
    for way in &explanation.rollbacks {
        text.push_str(&format!("  {} -.->|\"undo\"| {}\n", id(&way.from), id(&way.to)));
    }
    text
}
