//! Tables, for people and as JSON.

use std::fmt;

use pavane_core::definition::Mode;
use serde_json::{Map, Value, json};

/// Figures under their names, a row for each measurement.
pub struct Table {
    title: &'static str,
    notes: Vec<String>,
    columns: Vec<&'static str>,
    rows: Vec<(Mode, String, u64, Vec<f64>)>,
    /// Whether everything that was measured was done right.
    pub correct: bool,
}

impl Table {
    pub fn new(title: &'static str, columns: &[&'static str]) -> Table {
        Table { title, notes: Vec::new(), columns: columns.to_vec(), rows: Vec::new(), correct: true }
    }

    /// A line below the title.
    pub fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    /// A row of a mode; `wrong` is how much the audit found.
    pub fn row<const N: usize>(&mut self, mode: Mode, wrong: u64, figures: [f64; N]) {
        self.named(mode, "", wrong, figures);
    }

    /// A row with a name.
    pub fn named<const N: usize>(&mut self, mode: Mode, name: &str, wrong: u64, figures: [f64; N]) {
        self.correct &= wrong == 0;
        self.rows.push((mode, name.to_owned(), wrong, figures.to_vec()));
    }

    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|(mode, name, wrong, figures)| {
            let mut row: Map<String, Value> = self
                .columns
                .iter()
                .zip(figures)
                .map(|(column, figure)| ((*column).to_owned(), json!(figure)))
                .collect();
            row.insert("mode".to_owned(), json!(mode.as_str()));
            row.insert("wrong".to_owned(), json!(wrong));
            if !name.is_empty() {
                row.insert("name".to_owned(), json!(name));
            }
            Value::from(row)
        });
        rows.collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        self.notes.iter().try_for_each(|note| writeln!(f, "({note})"))?;
        writeln!(f, "| | {} | audit |", self.columns.join(" | "))?;
        writeln!(f, "|---|{}---|", "---|".repeat(self.columns.len()))?;
        for (mode, name, wrong, figures) in &self.rows {
            let figure = |figure: &f64| match figure.abs() {
                small if small < 2.0 && figure.fract() != 0.0 => format!("{figure:.2}"),
                large if large >= 1_000.0 || figure.fract() == 0.0 => format!("{figure:.0}"),
                _ => format!("{figure:.2}"),
            };
            let figures: Vec<String> = figures.iter().map(figure).collect();
            let audit = if *wrong == 0 { "clean".to_owned() } else { format!("{wrong} wrong") };
            let name = if name.is_empty() { String::new() } else { format!(", {name}") };
            writeln!(f, "| {}{name} | {} | {audit} |", mode.as_str(), figures.join(" | "))?;
        }
        Ok(())
    }
}

/// The machine's load in the last minute: what else it had to do.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}
