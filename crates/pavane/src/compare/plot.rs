//! Plots of the report as SVG: lines of both modes over a rate, and the timeline of an outage.

use std::fmt::Write as _;

use super::outage::{BUCKET, Outage};
use super::page::{escape, number};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 40.0;
const RIGHT: f64 = 20.0;
const BOTTOM: f64 = 45.0;

/// The line of a mode.
pub(super) struct Series {
    pub mode: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// Draws lines; a vertical axis by powers of ten where `log`.
pub(super) fn lines(title: &str, below: &str, log: bool, series: &[Series]) -> String {
    let all = || series.iter().flat_map(|one| &one.points).copied();
    let scale = |y: f64| if log { y.max(0.01).log10() } else { y };
    let right = all().map(|(x, _)| x).fold(1e-9, f64::max);
    let high = all().map(|(_, y)| scale(y)).fold(f64::NEG_INFINITY, f64::max);
    let low = if log { all().map(|(_, y)| scale(y)).fold(f64::INFINITY, f64::min).floor() } else { 0.0 };
    if !high.is_finite() || !low.is_finite() {
        return String::new();
    }
    let high = if log { high.ceil().max(low + 1.0) } else { high.max(1e-9) };
    let x = |x: f64| LEFT + x / right * (WIDTH - LEFT - RIGHT);
    let y = |y: f64| HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut svg = open(title, below, WIDTH);
    let steps = if log { (high - low) as u32 } else { 4 };
    for step in 0..=steps {
        let at = low + (high - low) * f64::from(step) / f64::from(steps);
        let label = number(if log { 10f64.powf(at) } else { at });
        grid(&mut svg, y(at), WIDTH, &label);
    }
    // A whole number for each line where there are few.
    let columns = if right.fract() == 0.0 && right <= 6.0 { right as u32 } else { 4 };
    for step in 0..=columns {
        let at = right * f64::from(step) / f64::from(columns);
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(at),
            HEIGHT - 26.0,
            number(at)
        );
    }
    for (index, one) in series.iter().enumerate() {
        let (colour, dash) = if index == 0 { ("var(--o)", "none") } else { ("var(--c)", "6 4") };
        let points: Vec<String> = one.points.iter().map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(scale(*b)))).collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>",
            points.join(" ")
        );
        for (a, b) in &one.points {
            let (a, b) = (x(*a), y(scale(*b)));
            let _ = match index {
                0 => write!(svg, "<circle cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"4\" fill=\"{colour}\"/>"),
                _ => write!(
                    svg,
                    "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\" fill=\"{colour}\"/>",
                    a - 4.0,
                    b - 4.0
                ),
            };
        }
        let at = 200.0 + 130.0 * index as f64;
        let _ = write!(
            svg,
            "<line x1=\"{at}\" x2=\"{}\" y1=\"14\" y2=\"14\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/><text x=\"{}\" y=\"18\">{}</text>",
            at + 24.0,
            at + 30.0,
            escape(one.mode)
        );
    }
    svg + "</svg>"
}

/// Instances due in each bucket, on time, late and failed, and the moments of the outage.
pub(super) fn timeline(outage: &Outage) -> String {
    let (Some(first), Some(last)) = (outage.timeline.first(), outage.timeline.last()) else { return String::new() };
    let (wide, step) = (1000.0, BUCKET);
    let (from, to) = (first.at_s, last.at_s + step);
    let most = outage.timeline.iter().map(|b| b.on_time + b.late + b.failed).max().unwrap_or(1).max(1) as f64;
    let x = |s: f64| LEFT + (s - from) / (to - from) * (wide - LEFT - RIGHT);
    let tall = |many: u64| many as f64 / most * (HEIGHT - TOP - BOTTOM);
    let mut svg =
        open("", "due, seconds from the kill; each bar: on time grey, late light, failed dark and outlined", wide);
    for share in [0.0, 0.5, 1.0] {
        grid(&mut svg, HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), wide, &number(most * share));
    }
    for bucket in &outage.timeline {
        let mut foot = HEIGHT - BOTTOM;
        for (many, look) in [
            (bucket.on_time, "fill=\"var(--soft)\" opacity=\".45\""),
            (bucket.late, "fill=\"var(--bad)\" opacity=\".55\""),
            (bucket.failed, "fill=\"var(--bad)\" stroke=\"var(--fg)\""),
        ] {
            foot -= tall(many);
            let width = x(bucket.at_s + step) - x(bucket.at_s) - 1.0;
            let _ = write!(
                svg,
                "<rect x=\"{:.1}\" y=\"{foot:.1}\" width=\"{width:.1}\" height=\"{:.1}\" {look}/>",
                x(bucket.at_s),
                tall(many)
            );
        }
    }
    let moments = [
        ("killed", Some(0.0)),
        ("noticed", outage.detected_ms.map(|ms| ms / 1_000.0)),
        ("restarted", Some(outage.restarted_s)),
        ("recovered", outage.recovery_s.map(|s| outage.restarted_s + s)),
    ];
    for (index, (word, at)) in moments.into_iter().enumerate() {
        let Some(at) = at else { continue };
        let (at, top) = (x(at), if index % 2 == 0 { 14.0 } else { 30.0 });
        let _ = write!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{}\" stroke=\"var(--fg)\" stroke-dasharray=\"3 3\"/><text x=\"{:.1}\" y=\"{top}\">{word}</text>",
            HEIGHT - BOTTOM,
            at + 3.0
        );
    }
    for second in (from.ceil() as i32)..=(to.floor() as i32) {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{second}</text>",
            x(f64::from(second)),
            HEIGHT - 26.0
        );
    }
    svg + "</svg>"
}

fn open(title: &str, below: &str, width: f64) -> String {
    format!(
        "<svg class=\"plot\" viewBox=\"0 0 {width} {HEIGHT}\" width=\"{width}\" height=\"{HEIGHT}\" role=\"img\">\
         <text x=\"4\" y=\"18\">{}</text><text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        escape(title),
        width / 2.0,
        HEIGHT - 6.0,
        escape(below)
    )
}

fn grid(svg: &mut String, y: f64, width: f64, label: &str) {
    let _ = write!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"var(--line)\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
        width - RIGHT,
        LEFT - 6.0,
        y + 4.0
    );
}
