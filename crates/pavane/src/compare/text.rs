//! The comparison as a text for a terminal: the table people read first.

use std::fmt::Write as _;

use super::Report;

/// The report in lines of at most about a hundred columns.
pub(crate) fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a text cannot fail.
    let _ = write(report, &mut out);
    out
}

fn write(report: &Report, out: &mut String) -> std::fmt::Result {
    let [namespace, name, version] = &report.workflow;
    writeln!(out, "{namespace}/{name}@{version}, answered by {}", report.answered_by)?;
    let correctness = &report.correctness;
    let verdict = if correctness.correct { "clean" } else { "NOT CORRECT: no figures are told" };
    let effects = correctness.effects.map_or(String::new(), |effects| format!(", {effects} effects"));
    writeln!(out, "audit: {verdict} ({} instances{effects})", correctness.instances)?;
    for problem in &correctness.problems {
        writeln!(out, "  {problem}")?;
    }
    if report.modes.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{:<16}{:>12}{:>10}{:>10}{:>10}{:>10}", "", "offered/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms")?;
    for mode in &report.modes {
        for rate in &mode.rates {
            let l = &rate.latency_ms;
            let (name, offered) = (mode.mode, rate.offered_per_s);
            writeln!(out, "{name:<16}{offered:>12}{:>10.1}{:>10.1}{:>10.1}{:>10.1}", l.p50, l.p99, l.p999, l.max)?;
        }
    }
    for mode in &report.modes {
        for outage in &mode.outages {
            let detected = match (outage.detected_ms, outage.detected_by) {
                (Some(ms), Some(by)) => format!("noticed after {ms:.0} ms ({by})"),
                _ => "noticed by nobody".into(),
            };
            let recovered = outage.recovery_s.map_or("not seen".into(), |s| format!("{s:.2} s after the restart"));
            writeln!(
                out,
                "{:<16}{} killed: {detected}; on time of those due meanwhile {:.0} %; recovered {recovered}",
                mode.mode, outage.victim, outage.during.on_time_percent
            )?;
        }
    }
    writeln!(out, "\n{:<68}{:>14}{:>14}  favours", "", "orchestrated", "choreographed")?;
    let figure = |value: Option<f64>| match value {
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
        None => "-".into(),
    };
    for finding in &report.verdict.findings {
        let (one, other) = (figure(finding.orchestration), figure(finding.choreography));
        writeln!(out, "{:<68}{one:>14}{other:>14}  {}", finding.measure, finding.favours.unwrap_or("neither"))?;
    }
    Ok(())
}
