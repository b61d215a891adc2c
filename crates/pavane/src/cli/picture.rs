//! The picture of an explanation: participants in the order in which work first reaches them, and who hands it to whom.
//!
//! Each participant has a column, each hand-over a line of its own, so that no label is ever crossed by another line.

use pavane_core::program::{Explanation, Location, TaskPlace};

/// Of a column.
const WIDTH: usize = 190;
const BOX: usize = 160;
/// Of a line of text, and of a hand-over.
const LINE: usize = 18;
const STEP: usize = 40;
const MARGIN: usize = 20;

/// Draws it as an SVG document of its own.
pub(super) fn svg(title: &str, explanation: &Explanation) -> String {
    let hands = &explanation.hand_overs;
    let columns = columns(explanation);
    let x = |location: &Location| {
        let column = columns.iter().position(|other| *other == location).unwrap_or_default();
        MARGIN + column * WIDTH + WIDTH / 2
    };
    // The last line is the slice's digest.
    let lines = explanation.participants.iter().map(|participant| participant.does.len()).max().unwrap_or(0) + 1;
    let top = MARGIN + 2 * LINE;
    let head = (lines + 1) * LINE + LINE;
    let width = 2 * MARGIN + columns.len() * WIDTH;
    let height = top + head + (hands.len() + explanation.rollbacks.len() + 1) * STEP + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <defs><marker id=\"arrow\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" markerHeight=\"7\" \
         orient=\"auto\"><path d=\"M0 0 L10 5 L0 10 z\" fill=\"#2f5d62\"/></marker></defs>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    svg.push_str(&text(MARGIN, MARGIN + LINE, "start", "#222222", true, title));
    for participant in &explanation.participants {
        let centre = x(&participant.name);
        let (left, bottom) = (centre - BOX / 2, top + head);
        let foot = height - MARGIN;
        svg.push_str(&format!(
            "<line x1=\"{centre}\" y1=\"{bottom}\" x2=\"{centre}\" y2=\"{foot}\" stroke=\"#c5ccd3\" stroke-dasharray=\"3 4\"/>\n\
             <rect x=\"{left}\" y=\"{top}\" width=\"{BOX}\" height=\"{head}\" rx=\"6\" fill=\"#eef4f4\" stroke=\"#2f5d62\"/>\n"
        ));
        svg.push_str(&text(centre, top + LINE + 2, "middle", "#12343b", true, participant.name.name()));
        for (task, line) in participant.does.iter().zip(2..) {
            svg.push_str(&text(centre, top + line * LINE + 2, "middle", "#333333", false, task));
        }
        let digest = participant.slice.get(..12).unwrap_or(&participant.slice);
        svg.push_str(&text(centre, bottom - 8, "middle", "#6b7280", false, digest));
    }
    // Work first, then what a rollback may add.
    let work = hands.iter().map(|hand| (&hand.from, &hand.to, hand.what.as_str(), ""));
    let undo = explanation.rollbacks.iter().map(|way| (&way.from, &way.to, "undo", " stroke-dasharray=\"6 4\""));
    for ((from, to, what, dashes), line) in work.chain(undo).zip(1..) {
        let (from, to, y) = (x(from), x(to), top + head + line * STEP);
        svg.push_str(&format!(
            "<line x1=\"{from}\" y1=\"{y}\" x2=\"{to}\" y2=\"{y}\" stroke=\"#2f5d62\" stroke-width=\"1.5\"{dashes} \
             marker-end=\"url(#arrow)\"/>\n<circle cx=\"{from}\" cy=\"{y}\" r=\"3\" fill=\"#2f5d62\"/>\n"
        ));
        svg.push_str(&text((from + to) / 2, y - 6, "middle", "#222222", false, what));
    }
    svg.push_str("</svg>\n");
    svg
}

/// Draws the same work with the engine making every call: a star.
pub(super) fn star(title: &str, explanation: &Explanation) -> String {
    let away = |task: &&TaskPlace| task.location.as_ref().is_some_and(|at| !at.is_engine());
    let calls: Vec<&TaskPlace> = explanation.tasks.iter().filter(away).collect();
    let columns = columns(explanation);
    let x =
        |at: &Location| MARGIN + columns.iter().position(|other| *other == at).unwrap_or_default() * WIDTH + WIDTH / 2;
    let (top, head) = (MARGIN + 2 * LINE, 2 * LINE);
    let width = 2 * MARGIN + columns.len() * WIDTH;
    let height = top + head + (calls.len() + 1) * STEP + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    svg.push_str(&text(MARGIN, MARGIN + LINE, "start", "#222222", true, title));
    for column in &columns {
        let (centre, bottom, foot) = (x(column), top + head, height - MARGIN);
        svg.push_str(&format!(
            "<line x1=\"{centre}\" y1=\"{bottom}\" x2=\"{centre}\" y2=\"{foot}\" stroke=\"#c5ccd3\" stroke-dasharray=\"3 4\"/>\n\
             <rect x=\"{}\" y=\"{top}\" width=\"{BOX}\" height=\"{head}\" rx=\"6\" fill=\"#eef4f4\" stroke=\"#2f5d62\"/>\n",
            centre - BOX / 2
        ));
        svg.push_str(&text(centre, top + LINE + 4, "middle", "#12343b", true, column.name()));
    }
    for (task, line) in calls.into_iter().zip(1..) {
        let to = task.location.as_ref().map_or(0, x);
        let (from, y) = (x(&Location::Engine), top + head + line * STEP);
        svg.push_str(&format!(
            "<line x1=\"{from}\" y1=\"{y}\" x2=\"{to}\" y2=\"{y}\" stroke=\"#2f5d62\" stroke-width=\"1.5\"/>\n\
             <circle cx=\"{from}\" cy=\"{y}\" r=\"3\" fill=\"#2f5d62\"/><circle cx=\"{to}\" cy=\"{y}\" r=\"5\" \
             fill=\"#ffffff\" stroke=\"#2f5d62\"/>\n"
        ));
        svg.push_str(&text((from + to) / 2, y - 6, "middle", "#222222", false, &task.name));
    }
    svg + "</svg>\n"
}

/// The engine, then the participants as work reaches them.
fn columns(explanation: &Explanation) -> Vec<&Location> {
    let all = explanation.participants.iter().map(|participant| &participant.name);
    let mut columns = vec![&Location::Engine];
    for location in explanation.hand_overs.iter().map(|hand| &hand.to).chain(all) {
        if !columns.contains(&location) {
            columns.push(location);
        }
    }
    columns
}

fn text(x: usize, y: usize, anchor: &str, colour: &str, bold: bool, text: &str) -> String {
    let weight = if bold { " font-weight=\"600\"" } else { "" };
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" fill=\"{colour}\"{weight}>{text}</text>\n")
}
