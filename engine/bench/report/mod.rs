//! What a bench tells: the data of its JSON, and the same as one HTML page.
//!
//! Invariant: the page needs nothing but itself. No script, no font, no address that a browser would ask; its content
//! security policy forbids them. It is well-formed XML, so that tools can read it too.

mod charts;
mod svg;

use std::fmt::Write;

use serde::Serialize;

use super::machine::Machine;
use super::measure::Run;
use super::search::Found;
use svg::escape;

pub use svg::number;

const STYLE: &str = include_str!("style.css");
/// Character set, width, and the policy that forbids everything but the page's own style.
const HEAD: &str = include_str!("head.html");

/// What was run, where, and against what.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Setting {
    /// The command line.
    pub command: String,
    /// When it began.
    pub started: String,
    /// Version of this program.
    pub version: String,
    /// Machine that the load came from; with a server of the bench's own, also the one that computed.
    pub machine: Machine,
    /// Where the server is.
    pub server: String,
    /// `name@version` of its export.
    pub model: String,
    /// Version of its catalogue.
    pub catalog: String,
    /// Device.
    pub device: String,
    /// Type.
    pub dtype: String,
    /// What the requests are.
    pub workload: String,
    /// How they arrive.
    pub arrivals: &'static str,
    /// Seed of requests and arrivals.
    pub seed: u64,
    /// Connections.
    pub connections: usize,
    /// Seconds before anything counts.
    pub warmup_seconds: f64,
    /// Time that a request has.
    pub deadline_ms: Option<f64>,
    /// How long an answer is waited for.
    pub timeout_seconds: f64,
    /// Latency that 99% of the requests shall keep.
    pub slo_p99_ms: Option<f64>,
}

/// Everything that a bench found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was run.
    pub setting: Setting,
    /// What the search found, if there was one.
    pub search: Option<Found>,
    /// The run that the figures in detail are of.
    pub main: usize,
    /// Every run, in the order that they were made.
    pub runs: Vec<Run>,
}

impl Report {
    /// One that looks at the run that a reader wants to see: the last good one at the rate that a search found, or the last
    /// good one where nothing was searched; else the last.
    pub fn new(setting: Setting, search: Option<Found>, runs: Vec<Run>) -> Report {
        let found = search.as_ref().and_then(|found| found.rate);
        let of_found = runs.iter().rposition(|run| found.is_some() && run.rate == found && run.is_good());
        let good = runs.iter().rposition(|run| search.is_none() && run.is_good());
        let main = of_found.or(good).unwrap_or(runs.len().saturating_sub(1));
        Report { setting, search, main, runs }
    }

    /// The run that the figures in detail are of.
    pub fn main_run(&self) -> Option<&Run> {
        self.runs.get(self.main)
    }

    /// What the search came to, in words.
    pub fn finding(&self) -> Option<String> {
        let (found, slo) = (self.search.as_ref()?, self.setting.slo_p99_ms?);
        let slo = format!("P99 within {} ms", number(slo));
        Some(match (found.rate, found.missed_at) {
            (Some(rate), Some(missed)) if found.confirmed => format!(
                "{slo} up to {} requests/s, confirmed by a repeat; {} is too many (precision {:.1}%)",
                number(rate),
                number(missed),
                found.precision().unwrap_or(0.0) * 100.0
            ),
            (Some(rate), _) => {
                format!("{slo} at {} requests/s at least; the search ended before it was confirmed", number(rate))
            }
            (None, Some(missed)) => format!("{slo} at no rate tried, down to {} requests/s", number(missed)),
            (None, None) => format!("{slo}: nothing was tried"),
        })
    }

    /// The page.
    pub fn html(&self) -> String {
        let title = format!("sidereal bench: {}", self.setting.model);
        let mut body = String::new();
        let _ = write!(body, "<header><h1>{}</h1>{}</header>", escape(&title), self.verdict());
        if let Some(main) = self.main_run() {
            let slo = self.setting.slo_p99_ms;
            let _ = write!(body, "{}<div class=\"grid\">", cards(main));
            body.push_str(&charts::rates(&self.runs, slo).unwrap_or_default());
            body.push_str(&charts::curve(&self.runs, main, slo));
            body.push_str(&charts::timeline(main, slo));
            body.push_str(&charts::stages(&self.runs, main));
            body.push_str("</div>");
            body.push_str(&self.table());
        }
        body.push_str(&self.facts());
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head>{HEAD}<title>{}</title><style>{STYLE}</style></head>\
             <body><main>{body}</main></body></html>\n",
            escape(&title)
        )
    }

    fn verdict(&self) -> String {
        let mut told = String::new();
        if let Some(finding) = self.finding() {
            let class = if self.search.as_ref().is_some_and(|found| found.confirmed) { "good" } else { "bad" };
            let _ = write!(told, "<p class=\"{class}\"><strong>{}</strong></p>", escape(&finding));
        } else if let Some((run, slo)) = self.main_run().and_then(|run| Some((run, run.slo?))) {
            let (class, met) = if run.is_good() { ("good", "met") } else { ("bad", "not met") };
            let _ = write!(
                told,
                "<p class=\"{class}\"><strong>{}: P99 within {} ms is {met}</strong></p>",
                escape(&run.name),
                number(slo.p99_ms)
            );
        }
        if let Some(fault) = self.main_run().and_then(|run| run.invalid.as_deref()) {
            let _ = write!(told, "<p class=\"bad\"><strong>Not valid:</strong> {}</p>", escape(fault));
        }
        let Setting { device, dtype, started, .. } = &self.setting;
        let _ = write!(told, "<p class=\"soft\">{}</p>", escape(&format!("{device}, {dtype}; {started}")));
        told
    }

    fn table(&self) -> String {
        let heads = [
            "run",
            "verdict",
            "due",
            "answers/s",
            "in time/s",
            "in time",
            "P50 ms",
            "P95 ms",
            "P99 ms",
            "P99.9 ms",
            "max ms",
            "refused",
            "errors",
            "timeouts",
            "cut off",
            "not sent",
            "lag P99 ms",
        ];
        let heads: String = heads.iter().map(|head| format!("<th scope=\"col\">{head}</th>")).collect();
        let rows: String = self.runs.iter().enumerate().map(|(at, run)| row(run, at == self.main)).collect();
        let notes: String = self.runs.iter().filter_map(note).map(|note| format!("<p>{}</p>", escape(&note))).collect();
        format!(
            "<section><h2>Runs</h2><div class=\"scroll\" tabindex=\"0\"><table><thead><tr>{heads}</tr></thead><tbody>{rows}\
             </tbody></table></div>{notes}<p class=\"soft\">Latencies are of answered requests and count from the scheduled \
             arrival. An SLO is judged over all requests that were due: one without an answer has missed it.</p></section>"
        )
    }

    fn facts(&self) -> String {
        let Setting { machine, .. } = &self.setting;
        let optional = |ms: Option<f64>| ms.map_or("none".to_owned(), |ms| format!("{} ms", number(ms)));
        let memory = machine
            .memory_bytes
            .map_or(String::new(), |bytes| format!(", {:.1} GiB", bytes as f64 / (1u64 << 30) as f64));
        let cpu = machine.cpu.as_deref().unwrap_or("unknown processor");
        let facts = [
            ("command", self.setting.command.clone()),
            ("server", self.setting.server.clone()),
            ("model", self.setting.model.clone()),
            ("catalogue", self.setting.catalog.clone()),
            ("device", format!("{}, {}", self.setting.device, self.setting.dtype)),
            ("requests", self.setting.workload.clone()),
            ("arrivals", format!("{}, seed {}", self.setting.arrivals, self.setting.seed)),
            ("connections", self.setting.connections.to_string()),
            ("warm-up", format!("{} s", number(self.setting.warmup_seconds))),
            ("deadline", optional(self.setting.deadline_ms)),
            ("SLO, P99", optional(self.setting.slo_p99_ms)),
            ("answers waited for", format!("{} s", number(self.setting.timeout_seconds))),
            ("generator's machine", format!("{cpu}, {} cores{memory}, {}", machine.cores, machine.system)),
            ("version", format!("sidereal {}", self.setting.version)),
            ("started", self.setting.started.clone()),
        ];
        let fact = |(name, value): &(&str, String)| {
            let value = escape(value);
            let value = if *name == "command" { format!("<code>{value}</code>") } else { value };
            format!("<dt>{name}</dt><dd>{value}</dd>")
        };
        let facts: String = facts.iter().map(fact).collect();
        format!("<section><h2>Setting</h2><dl class=\"facts\">{facts}</dl></section>")
    }
}

fn cards(main: &Run) -> String {
    let text = |name: &str, value: &str, unit: &str| {
        format!("<div><dt>{name}</dt><dd>{value} <small>{unit}</small></dd></div>")
    };
    let card = |name: &str, value: f64, unit: &str| text(name, &number(value), unit);
    let latency = &main.latency_ms;
    [
        "<dl class=\"cards\">".to_owned(),
        card("answers", main.throughput, "/s"),
        card("P50", latency.p50, "ms"),
        card("P95", latency.p95, "ms"),
        card("P99", latency.p99, "ms"),
        text("in time", &main.counts.in_time_percent(), "%"),
        card("generator lag P99", main.lag_ms.p99, "ms"),
        "</dl>".to_owned(),
    ]
    .concat()
}

fn row(run: &Run, is_main: bool) -> String {
    let Run { counts, latency_ms, .. } = run;
    let cells = [
        word(run).to_owned(),
        counts.due.to_string(),
        number(run.throughput),
        number(run.goodput),
        format!("{}%", counts.in_time_percent()),
        number(latency_ms.p50),
        number(latency_ms.p95),
        number(latency_ms.p99),
        number(latency_ms.p999),
        number(latency_ms.max),
        counts.refused().to_string(),
        counts.errors.to_string(),
        counts.timeouts.to_string(),
        counts.cut_off.to_string(),
        counts.unsent.to_string(),
        number(run.lag_ms.p99),
    ];
    let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
    let class = if is_main { " class=\"main\"" } else { "" };
    format!("<tr{class}><th scope=\"row\">{}</th>{cells}</tr>", escape(&run.name))
}

/// A run's verdict in one word.
pub fn word(run: &Run) -> &'static str {
    match (&run.invalid, run.slo) {
        (Some(_), _) => "invalid",
        (None, Some(slo)) if slo.met => "met",
        (None, Some(_)) => "missed",
        (None, None) => "ok",
    }
}

/// What went wrong in a run, if anything did.
pub fn note(run: &Run) -> Option<String> {
    let kinds: Vec<String> = run.counts.refused.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let refused = (!kinds.is_empty()).then(|| {
        format!("refused {}, e.g. \"{}\"", kinds.join(", "), run.first_refusal.as_deref().unwrap_or_default())
    });
    let told: Vec<String> = [run.invalid.clone(), refused, run.first_failure.clone()].into_iter().flatten().collect();
    (!told.is_empty()).then(|| format!("{}: {}", run.name, told.join("; ")))
}

#[cfg(test)]
mod tests;
