//! The report of a comparison as one HTML page that needs nothing else: no script, no font, no style from elsewhere.
//!
//! Orchestration is blue and solid with discs, choreography orange and dashed with squares. Every text that comes from
//! a document is escaped.

use std::fmt::Write as _;

use super::coupling::Knows;
use super::measures::{AtRate, Costs};
use super::outage::Outage;
use super::plot::{Series, lines, timeline};
use super::{Figures, Participants, Report};

const STYLE: &str = ":root{color-scheme:light dark;--bg:#fff;--fg:#1c1c1c;--soft:#667;--line:#ccd;--box:#f3f6fa;\
--o:#0072b2;--c:#c25500;--bad:#8b1a4a}\
@media(prefers-color-scheme:dark){:root{--bg:#15181c;--fg:#e6e6e6;--soft:#9aa4b0;--line:#3a424c;--box:#1f252c;\
--o:#56b4e9;--c:#f0a030;--bad:#ee88bb}}\
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}\
table{border-collapse:collapse;margin:.5em 0}td,th{border:1px solid var(--line);padding:.2em .6em;text-align:left}\
td.n{text-align:right;font-variant-numeric:tabular-nums}.verdict{background:var(--box);border-left:5px solid var(--o);\
padding:.6em 1em}.bad{border-left-color:var(--bad)}.row{display:flex;flex-wrap:wrap;gap:1.5em}.wide{overflow-x:auto}.wide svg{max-width:100%;height:auto}\
svg.plot text{fill:var(--fg);font-size:12px}.soft{color:var(--soft)}code{overflow-wrap:anywhere}";

/// Text made safe for an element or an attribute.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The page; `pictures` are titles and SVG elements of the flow in each mode, drawn and escaped by the caller.
pub(crate) fn page(report: &Report, pictures: &[(String, String)]) -> String {
    let [namespace, name, version] = &report.workflow;
    let title = escape(&format!("{namespace}/{name} {version}: orchestrated and choreographed"));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    );
    page.push_str(&verdict(report));
    page.push_str(&compared(report));
    for (title, svg) in pictures {
        let _ = writeln!(page, "<h3>{}</h3><div class=\"wide\">{svg}</div>", escape(title));
    }
    if report.correctness.correct && !report.modes.is_empty() {
        page.push_str(&latency(&report.modes));
        page.push_str(&costs(&report.modes));
        page.push_str(&outages(&report.modes));
    }
    page.push_str(&coupling(report));
    page.push_str(&correctness(report));
    page.push_str(
        "<h2>How it was measured</h2><ul><li>Open loop: instances begin at their rate whether or not others have ended; \
         a latency counts from the moment the start was due.</li><li>Warm-up and the first second of each rate are \
         dropped.</li><li>The modes take turns on the same machine, with stores of their own and the same durability.</li>\
         <li>Limits: one machine, load and services on it too; the figures hold for this workflow, these answers and this \
         machine.</li></ul>\n</body></html>\n",
    );
    page
}

fn verdict(report: &Report) -> String {
    if !report.correctness.correct || report.modes.is_empty() {
        return "<div class=\"verdict bad\"><h2>No verdict</h2><p>Figures are missing because a mode did something wrong \
                or nothing was measured; no performance figure is told. See correctness below.</p></div>\n"
            .to_owned();
    }
    let mut out = "<div class=\"verdict\"><h2>When to choose which</h2>".to_owned();
    for sentence in &report.verdict.advice {
        let _ = write!(out, "<p>{}</p>", escape(sentence));
    }
    let rows = report.verdict.findings.iter().map(|finding| {
        let figure = |value: Option<f64>| value.map_or("not known".to_owned(), number);
        vec![
            finding.measure.clone(),
            figure(finding.orchestration),
            figure(finding.choreography),
            finding.favours.unwrap_or("neither").to_owned(),
            finding.why.to_owned(),
        ]
    });
    out + &table(&["measure", "orchestration", "choreography", "favours", "why it matters"], rows) + "</div>\n"
}

fn compared(report: &Report) -> String {
    let settings = &report.settings;
    let rows = [
        ("workflow digest", report.digest.clone()),
        ("Pavane", report.pavane.to_owned()),
        ("command", report.command.join(" ")),
        ("machine", report.machine.to_string()),
        ("seed", settings.seed.to_string()),
        ("load", format!("{:?} instances/s, {} s each", settings.rates_per_s, settings.seconds)),
        ("service time", format!("{} ms", settings.service_time_ms)),
        ("outages", format!(
            "under {} instances/s, {} s between kill and restart; an instance is on time within {} s",
            settings.outage_rate_per_s, settings.down_s, settings.objective_s
        )),
        ("thresholds", format!(
            "p99 within {} ms; figures apart by less than {} % count as alike",
            settings.thresholds.p99_ms, settings.thresholds.alike_percent
        )),
        ("answered by", report.answered_by.to_owned()),
        ("layout", match settings.participants {
            Participants::Here => "one server process with the engine and all participants; one process for each service",
            Participants::Processes => {
                "one process for each service; orchestrated, one server process; choreographed, one with the engine and the \
                 bus, and one for each participant, which is killed with its service"
            }
        }
        .into()),
    ];
    let rows = rows.into_iter().map(|(what, value)| vec![what.to_owned(), value]);
    "<h2>What was compared</h2>".to_owned() + &table(&["what", "value"], rows)
}

/// The curve of percentiles ends here: behind it are single instances.
const MOST_NINES: f64 = 0.999;

fn latency(modes: &[Figures]) -> String {
    let series = |x: fn(&AtRate) -> f64, y: fn(&AtRate) -> f64| {
        let of = |figures: &Figures| figures.rates.iter().map(|rate| (x(rate), y(rate))).collect();
        modes.iter().map(|figures| Series { mode: figures.mode, points: of(figures) }).collect::<Vec<_>>()
    };
    let rate = |at: &AtRate| at.offered_per_s;
    let p50 = lines("p50, ms (log)", "offered, instances/s", true, &series(rate, |at| at.latency_ms.p50));
    let p99 = lines("p99, ms (log)", "offered, instances/s", true, &series(rate, |at| at.latency_ms.p99));
    let ended = lines("ended, instances/s", "offered, instances/s", false, &series(rate, |at| at.ended_per_s));
    let spectrum = |figures: &Figures| {
        let spectrum = figures.rates.last().into_iter().flat_map(|at| &at.latency_ms.spectrum);
        // Rounded, so that three nines are 3 and not a little more.
        let nines =
            spectrum.filter(|(q, _)| *q <= MOST_NINES).map(|(q, ms)| ((-(1.0 - q).log10() * 1e6).round() / 1e6, *ms));
        Series { mode: figures.mode, points: nines.collect() }
    };
    let highest = modes.iter().filter_map(|figures| figures.rates.last()).map(rate).fold(0.0, f64::max);
    let title = format!("latency, ms (log), at {} instances/s", number(highest));
    let spectrum: Vec<Series> = modes.iter().map(spectrum).collect();
    let percentiles = lines(&title, "nines: 1 is p90, 2 is p99, 3 is p99.9", true, &spectrum);
    let rows = modes.iter().flat_map(|figures| {
        figures.rates.iter().map(|at| {
            let l = &at.latency_ms;
            let all = [at.offered_per_s, l.p50, l.p95, l.p99, l.p999, l.max, at.overhead_ms];
            std::iter::once(figures.mode.to_owned()).chain(all.map(number)).collect()
        })
    });
    let distribution = table(&["mode", "offered/s", "p50 ms", "p95", "p99", "p99.9", "max", "overhead"], rows);
    let rows = modes.iter().filter_map(|figures| {
        let closed = figures.throughput.as_ref()?;
        Some(vec![
            figures.mode.into(),
            closed.in_flight.to_string(),
            number(closed.per_s),
            number(closed.latency_ms.p99),
        ])
    });
    let throughput = table(&["mode", "in flight", "instances/s", "p99 ms"], rows);
    format!(
        "<h2>Latency against offered rate</h2><div class=\"row\">{p50}{p99}{percentiles}{ended}</div><h3>Distribution at each rate</h3>\
         {distribution}<h2>Throughput</h2>{throughput}"
    )
}

fn costs(modes: &[Figures]) -> String {
    let costs: Vec<&Costs> =
        modes.iter().filter_map(|figures| figures.throughput.as_ref().map(|closed| &closed.costs)).collect();
    let row = |what: &str, of: fn(&Costs) -> Option<f64>| {
        let figures = costs.iter().map(|costs| of(costs).map_or("not known".to_owned(), number));
        std::iter::once(what.to_owned()).chain(figures).collect::<Vec<_>>()
    };
    let rows = [
        row("CPU of Pavane, ms", |c| Some(c.cpu_ms_pavane)),
        row("CPU of services, ms", |c| c.cpu_ms_services),
        row("CPU of the load, ms", |c| Some(c.cpu_ms_load)),
        row("calls", |c| Some(c.calls)),
        row("messages", |c| Some(c.messages)),
        row("commits", |c| Some(c.commits)),
        row("fsyncs", |c| Some(c.fsyncs)),
        row("bytes of rows", |c| Some(c.row_bytes)),
        row("bytes to the disk", |c| Some(c.disk_bytes)),
        row("bytes stored", |c| Some(c.file_bytes)),
        row("bytes with clients", |c| Some(c.client_bytes)),
        row("bytes with services", |c| c.service_bytes),
    ];
    let with = modes.iter().filter(|figures| figures.throughput.is_some()).map(|figures| figures.mode);
    let head: Vec<&str> = std::iter::once("each instance").chain(with).collect();
    let processes = modes.iter().flat_map(|figures| {
        figures.processes.iter().map(|process| {
            let mib = process.peak_bytes as f64 / 1_048_576.0;
            vec![figures.mode.to_owned(), process.name.clone(), number(process.cpu_s), number(mib)]
        })
    });
    "<h2>Costs</h2>".to_owned()
        + &table(&head, rows.into_iter())
        + &table(&["mode", "process", "CPU, s", "peak, MiB"], processes)
}

fn outages(modes: &[Figures]) -> String {
    let mut out = "<h2>Outages</h2>".to_owned();
    for (figures, outage) in modes.iter().flat_map(|figures| figures.outages.iter().map(move |o| (figures, o))) {
        let _ = write!(
            out,
            "<h3>{}: {} killed</h3>{}<p>{}</p>",
            escape(figures.mode),
            escape(&outage.victim),
            timeline(outage),
            told(outage)
        );
    }
    out
}

fn told(outage: &Outage) -> String {
    let during = &outage.during;
    let detected = match (outage.detected_ms, outage.detected_by) {
        (Some(ms), Some(by)) => format!("noticed after {} ms ({by})", number(ms)),
        _ => "noticed by no client".to_owned(),
    };
    let recovery = outage
        .recovery_s
        .map_or("no recovery was seen".to_owned(), |s| format!("recovered {} s after the restart", number(s)));
    let shares = [during.on_time_percent, during.late_percent, during.failed_percent].map(number);
    format!(
        "{detected}; {recovery}. Of {} due meanwhile: {} % on time, {} % late, {} % failed.",
        during.due, shares[0], shares[1], shares[2]
    )
}

fn coupling(report: &Report) -> String {
    let coupling = &report.coupling;
    let matrix = |title: &str, knows: &Knows| {
        let head: Vec<&str> =
            std::iter::once("from \u{2192} to").chain(coupling.names.iter().map(String::as_str)).collect();
        let rows = coupling.names.iter().zip(&knows.matrix).map(|(name, row)| {
            let cells = row.iter().map(|cell| if *cell == 0 { "\u{b7}".to_owned() } else { cell.to_string() });
            std::iter::once(name.clone()).chain(cells).collect()
        });
        format!("<div class=\"wide\"><h3>{title}: {} pairs</h3>{}</div>", knows.pairs, table(&head, rows))
    };
    let edits = coupling.edits.iter().map(|edit| {
        let choreography =
            edit.choreography.as_ref().map_or("cannot be choreographed".to_owned(), |all| all.join(", "));
        vec![edit.edit.clone(), edit.orchestration.join(", "), choreography, edit.services_changed.to_string()]
    });
    format!(
        "<h2>Coupling</h2><p>How many kinds of work each hands to the other.</p><div class=\"row\">{}{}</div>{}",
        matrix("Orchestration", &coupling.orchestration),
        matrix("Choreography", &coupling.choreography),
        table(&["edit", "touches, orchestrated", "touches, choreographed", "services changed"], edits)
    )
}

fn correctness(report: &Report) -> String {
    let found = &report.correctness;
    let mut out =
        format!("<h2>Correctness</h2><p>Looked at: {}. {} instances", escape(&found.looked_at), found.instances);
    if let Some(effects) = found.effects {
        let _ = write!(out, ", {effects} effects in the books");
    }
    let _ = write!(out, "; {} problems.</p>", found.problem_count);
    if !found.problems.is_empty() {
        let items: String = found.problems.iter().map(|problem| format!("<li>{}</li>", escape(problem))).collect();
        let _ = write!(out, "<ul>{items}</ul>");
    }
    out
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let heads: String = head.iter().map(|cell| format!("<th>{}</th>", escape(cell))).collect();
    let cell = |cell: &String| match cell.parse::<f64>() {
        Ok(_) => format!("<td class=\"n\">{cell}</td>"),
        Err(_) => format!("<td>{}</td>", escape(cell)),
    };
    let rows: String = rows.map(|row| format!("<tr>{}</tr>", row.iter().map(cell).collect::<String>())).collect();
    format!("<div class=\"wide\"><table><tr>{heads}</tr>{rows}</table></div>\n")
}

/// Three figures or so.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_document_says_is_text_and_nothing_else() {
        let page = table(&["<b>"], [vec!["<script>alert(1)</script>".to_owned(), "1 & \"2\"".to_owned()]].into_iter());
        assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
        assert!(page.contains("&lt;script&gt;") && page.contains("1 &amp; &quot;2&quot;"), "{page}");
    }
}
