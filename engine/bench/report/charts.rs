//! The plots of a report. Each is a figure with a heading, a legend and a sentence that says how to read it.

use super::svg::{Axis, Plot, escape, number};
use crate::bench::measure::Run;
use crate::bench::stages::SEGMENTS;

/// Other runs drawn behind the one that is looked at.
const SHADOWS: usize = 12;

/// A figure: heading, legend of `(class, name)`, drawings, caption.
struct Figure<'a> {
    heading: &'a str,
    legend: &'a [(&'a str, &'a str)],
    drawings: Vec<String>,
    caption: &'a str,
}

impl Figure<'_> {
    fn finish(self) -> String {
        let swatch = |(class, name): &(&str, &str)| {
            format!(
                "<li><svg viewBox=\"0 0 22 12\" aria-hidden=\"true\"><path class=\"key {class}\" d=\"M1 6H21\" /></svg>{}</li>",
                escape(name)
            )
        };
        let legend: String = self.legend.iter().map(swatch).collect();
        let legend = if legend.is_empty() { legend } else { format!("<ul class=\"legend\">{legend}</ul>") };
        format!(
            "<figure><h2>{}</h2>{legend}{}<figcaption>{}</figcaption></figure>",
            escape(self.heading),
            self.drawings.concat(),
            escape(self.caption)
        )
    }
}

/// Latency and goodput against the rate; nothing where fewer than two rates were tried.
pub fn rates(runs: &[Run], slo_ms: Option<f64>) -> Option<String> {
    let mut open: Vec<(f64, &Run)> = runs.iter().filter_map(|run| Some((run.rate?, run))).collect();
    open.sort_by(|a, b| a.0.total_cmp(&b.0));
    let highest = open.last()?.0;
    if open.first()?.0 == highest {
        return None;
    }
    let rate_axis = |label| Axis::linear(label, highest * 1.04);
    let series = |run: &Run| {
        let latency = &run.latency_ms;
        [("p50", "P50", latency.p50), ("p95", "P95", latency.p95), ("p99", "P99", latency.p99)]
    };
    let values = open.iter().flat_map(|(_, run)| series(run).map(|(_, _, value)| value));
    let mut latency = Plot::new(rate_axis(""), Axis::log("latency, ms", values.chain(slo_ms)), 290.0);
    for at in 0..3 {
        let answered = open.iter().filter(|(_, run)| run.counts.answered > 0);
        let points: Vec<(f64, f64, &Run)> = answered.map(|(rate, run)| (*rate, series(run)[at].2, *run)).collect();
        let (class, name, _) = series(open[0].1)[at];
        latency.line(class, points.iter().map(|(rate, value, _)| (*rate, *value)));
        for (rate, value, run) in points {
            let trusted = run.invalid.is_none() && run.counts.unsent == 0;
            let class = if trusted { class.to_owned() } else { format!("{class} hollow") };
            latency.dot(&class, (rate, value), &format!("{}: {name} {} ms", run.name, number(value)));
        }
    }
    if let Some(slo) = slo_ms {
        latency.level("slo", slo, &format!("SLO: P99 {} ms", number(slo)));
    }
    let mut goodput =
        Plot::new(rate_axis("offered, requests/s"), Axis::linear("in time, req/s", highest * 1.04), 200.0);
    goodput.line("offered", [(0.0, 0.0), (highest, highest)].into_iter());
    goodput.line("good", open.iter().map(|(rate, run)| (*rate, run.goodput)));
    for (rate, run) in &open {
        goodput.dot("good", (*rate, run.goodput), &format!("{}: {} requests/s in time", run.name, number(run.goodput)));
    }
    let figure = Figure {
        heading: "Latency against rate",
        legend: &[("p50", "P50"), ("p95", "P95"), ("p99", "P99"), ("good", "goodput"), ("offered", "offered")],
        drawings: vec![
            latency.finish("Latency percentiles against the offered rate"),
            goodput.finish("Goodput against the offered rate"),
        ],
        caption: "Latency of the answered requests, from their scheduled arrival. A hollow mark is a run that was cut short or is \
                  not valid.",
    };
    Some(figure.finish())
}

/// The percentile curve of `main`, the other runs behind it.
pub fn curve(runs: &[Run], main: &Run, slo_ms: Option<f64>) -> String {
    let highest = main.curve.last().map_or(0.9, |point| point.0);
    // A run that broke down would squeeze the others into a line.
    let ceiling = main.latency_ms.max.max(slo_ms.unwrap_or(0.0)) * 4.0;
    let fits = |run: &&Run| !std::ptr::eq(*run, main) && run.latency_ms.max <= ceiling && run.counts.answered > 0;
    let shadows: Vec<&Run> = runs.iter().filter(fits).take(SHADOWS).collect();
    let points = shadows.iter().copied().chain([main]).flat_map(|run| run.curve.iter().map(|point| point.1));
    let y = Axis::log("latency, ms", points.chain(slo_ms));
    let mut plot = Plot::new(Axis::nines("share of the answered requests", highest), y, 330.0);
    for run in &shadows {
        plot.line("shadow", run.curve.iter().copied().filter(|(share, _)| *share <= highest));
    }
    plot.line("p99", main.curve.iter().copied());
    for (share, name, value) in
        [(0.5, "P50", main.latency_ms.p50), (0.95, "P95", main.latency_ms.p95), (0.99, "P99", main.latency_ms.p99)]
    {
        plot.dot("p99", (share, value), &format!("{name} {} ms", number(value)));
    }
    if let Some(slo) = slo_ms {
        plot.level("slo", slo, &format!("SLO: P99 {} ms", number(slo)));
    }
    let mut legend = vec![("p99", main.name.as_str())];
    legend.extend((!shadows.is_empty()).then_some(("shadow", "other runs")));
    let figure = Figure {
        heading: "Percentile curve",
        legend: &legend,
        drawings: vec![plot.finish("Latency by percentile, on an axis of nines")],
        caption: "Each step to the right is one nine more. The dots are P50, P95 and P99.",
    };
    figure.finish()
}

/// How `main` went from its beginning to its end.
pub fn timeline(main: &Run, slo_ms: Option<f64>) -> String {
    let end = main.timeline.last().map_or(1.0, |moment| moment.at + moment.seconds);
    let moments = &main.timeline;
    let values = moments.iter().flat_map(|moment| [moment.p50_ms, moment.p99_ms]).flatten();
    let mut latency = Plot::new(Axis::linear("", end), Axis::log("latency, ms", values.chain(slo_ms)), 230.0);
    for (class, value) in [("p50", 0), ("p99", 1)] {
        let points = moments.iter().filter_map(|moment| {
            let value = [moment.p50_ms, moment.p99_ms][value]?;
            Some((moment.at + moment.seconds / 2.0, value))
        });
        latency.line(class, points);
    }
    if let Some(slo) = slo_ms {
        latency.level("slo", slo, "SLO");
    }
    let per_second = |count: usize| count as f64 / moments.first().map_or(1.0, |moment| moment.seconds);
    let most = moments.iter().map(|moment| moment.completions.max(moment.due)).max().unwrap_or(0);
    let mut answers =
        Plot::new(Axis::linear("seconds", end), Axis::linear("requests/s", per_second(most) * 1.05), 210.0);
    for moment in moments {
        let value = per_second(moment.completions);
        let told = format!("{} s: {} answers/s", number(moment.at), number(value));
        answers.bar("good", (moment.at, (moment.at + moment.seconds).min(end)), (0.0, value), &told);
    }
    answers.line("offered", moments.iter().map(|moment| (moment.at + moment.seconds / 2.0, per_second(moment.due))));
    let mut legend = vec![("p50", "P50"), ("p99", "P99"), ("good", "answers/s"), ("offered", "due/s")];
    if moments.iter().any(|moment| moment.unanswered > 0) {
        legend.push(("failed", "not answered/s"));
        let failed = moments.iter().map(|moment| (moment.at + moment.seconds / 2.0, per_second(moment.unanswered)));
        answers.line("failed", failed);
    }
    let heading = format!("Timeline of {}", main.name);
    let figure = Figure {
        heading: &heading,
        legend: &legend,
        drawings: vec![latency.finish("Latency over the run"), answers.finish("Answers a second over the run")],
        caption: "Latency stands where a request was due, an answer where it came. The warm-up is shown, and counted nowhere else.",
    };
    figure.finish()
}

/// Where the time went: groups of `main` in milliseconds, and every run in shares.
pub fn stages(runs: &[Run], main: &Run) -> String {
    let rows: Vec<(String, &[f64])> =
        main.stages.iter().map(|row| (format!("{} ({})", row.of, row.requests), row.ms.as_slice())).collect();
    let longest = rows.iter().map(|(_, ms)| ms.iter().sum::<f64>()).fold(0.0, f64::max);
    let mut drawings = vec![format!("<h3>{}, mean in ms</h3>", escape(&main.name)), bars(&rows, |_| longest)];
    let others: Vec<(String, &[f64])> = runs
        .iter()
        .filter_map(|run| Some((run.name.clone(), run.stages.first()?.ms.as_slice())))
        .take(SHADOWS)
        .collect();
    if others.len() > 1 {
        drawings.push("<h3>Every run, share of the mean</h3>".to_owned());
        drawings.push(bars(&others, |total| total));
    }
    let legend: Vec<(String, &str)> =
        SEGMENTS.iter().enumerate().map(|(at, name)| (format!("stage{at}"), *name)).collect();
    let legend: Vec<(&str, &str)> = legend.iter().map(|(class, name)| (class.as_str(), *name)).collect();
    let figure = Figure {
        heading: "Where the time went",
        legend: &legend,
        drawings,
        caption: "Stages are the server's own figures from its replies. What they leave of the latency is the wire, the sockets \
                  and the client.",
    };
    figure.finish()
}

/// Stacked bars, each as long as its total is of `whole(total)`.
fn bars(rows: &[(String, &[f64])], whole: impl Fn(f64) -> f64) -> String {
    let mut drawn = String::from("<div class=\"bars\">");
    for (name, ms) in rows {
        let total: f64 = ms.iter().sum();
        let whole = whole(total).max(1e-9);
        let (mut x, mut parts, mut told) = (0.0, String::new(), Vec::new());
        for (at, value) in ms.iter().enumerate() {
            let width = value / whole * 1000.0;
            let name = SEGMENTS[at];
            told.push(format!("{name} {} ms", number(*value)));
            parts.push_str(&format!(
                "<rect class=\"stage{at}\" x=\"{x:.1}\" y=\"0\" width=\"{width:.1}\" height=\"20\"><title>{name}: {} ms</title></rect>",
                number(*value)
            ));
            x += width;
        }
        drawn.push_str(&format!(
            "<div>{}</div><svg viewBox=\"0 0 1000 20\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">{parts}</svg>\
             <div class=\"total\">{} ms</div>",
            escape(name),
            escape(&told.join(", ")),
            number(total)
        ));
    }
    drawn.push_str("</div>");
    drawn
}
