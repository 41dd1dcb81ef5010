//! The status page: one HTML document that needs nothing from anywhere, readable in light and in dark.

use std::sync::atomic::Ordering;

use super::Board;
use super::board::Moment;
use crate::request::{RefusalKind, StageTimings};

const HEAD: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\">
<meta name=\"viewport\" content=\"width=device-width\"><title>Sidereal</title><style>
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--line:#d8dee4;--paper:#fff;--good:#1a7f37;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9198a1;--line:#30363d;--paper:#0d1117;--good:#3fb950;--bad:#ff7b72}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:44rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.3rem;margin:0}h2{font-size:1rem;margin:1.6rem 0 .3rem}p{color:var(--soft);margin:.2rem 0}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .6rem .2rem 0;border-bottom:1px solid var(--line)}
td:not(:first-child),th:not(:first-child){text-align:right;font-variant-numeric:tabular-nums}
th{font-weight:500;color:var(--soft)}.ready{color:var(--good)}.not{color:var(--bad)}a{color:inherit}
</style></head><body>
";

/// The page as it is now.
pub(super) fn status_page(board: &Board) -> String {
    let Moment { facts, engine, counters } = board.moment();
    let (class, state) = match board.readiness() {
        Ok(()) => ("ready", "ready"),
        Err(why) => ("not", why),
    };
    let mut page = Page(String::from(HEAD));
    page.raw(&format!("<h1>Sidereal <span class=\"{class}\">{state}</span></h1>\n<p>"));
    let served = format!("{} · catalogue {} · {} · {}", facts.model, facts.catalog, facts.device, facts.dtype);
    page.text(if facts.model.is_empty() { "the engine is loading" } else { &served });
    page.raw("</p>\n<p>");
    if engine.policy.number > 0 {
        page.text(&format!("weights {} (replacement {}) · ", engine.policy.version, engine.policy.number));
    }
    page.text(&format!("version {} · up {}", env!("CARGO_PKG_VERSION"), show_time(board.uptime().as_secs())));
    page.raw("</p>\n");

    let refused = |at: usize| engine.refused[at] + counters.refused[at].load(Ordering::Relaxed);
    page.begin("Requests", &["", "since start"]);
    page.row(&["answered", &engine.answered.to_string()]);
    for (at, kind) in RefusalKind::ALL.iter().enumerate().filter(|(at, _)| refused(*at) > 0) {
        page.row(&[&format!("refused {}", kind.name()), &refused(at).to_string()]);
    }
    page.end();

    page.begin("Now", &["", "used", "of"]);
    page.row(&["in flight", &engine.in_flight.to_string(), ""]);
    page.row(&["waiting for a slot", &engine.waiting.to_string(), ""]);
    page.row(&["slots", &engine.running.to_string(), &engine.slots.to_string()]);
    let used = engine.pages.saturating_sub(engine.free_pages);
    page.row(&["KV pages", &used.to_string(), &engine.pages.to_string()]);
    page.row(&["connections", &counters.connections_open.load(Ordering::Relaxed).to_string(), ""]);
    page.end();

    page.begin("Stages of answered requests", &["", "mean", "half within", "99% within"]);
    for (name, spent) in StageTimings::STAGES.iter().zip(&engine.stages) {
        let mean = spent.sum.checked_div(spent.count()).map_or_else(|| "-".into(), show_us);
        let within = |share| match (spent.count(), spent.bound_of(share)) {
            (0, _) => "-".to_owned(),
            (_, Some(bound)) => show_us(bound),
            (_, None) => "above 10 s".to_owned(),
        };
        page.row(&[name, &mean, &within(0.5), &within(0.99)]);
    }
    page.end();
    page.raw(
        "<p><a href=\"/metrics\">metrics</a> · <a href=\"/stats\">stats</a> · <a href=\"/readyz\">readyz</a> · <a \
         href=\"/healthz\">healthz</a></p>\n</body></html>\n",
    );
    page.0
}

/// A document as it is written.
struct Page(String);

impl Page {
    fn raw(&mut self, html: &str) {
        self.0.push_str(html);
    }

    /// Names come from files and may hold anything.
    fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '<' => self.raw("&lt;"),
                '>' => self.raw("&gt;"),
                '&' => self.raw("&amp;"),
                '"' => self.raw("&quot;"),
                c => self.0.push(c),
            }
        }
    }

    fn begin(&mut self, title: &str, columns: &[&str]) {
        self.raw(&format!("<h2>{title}</h2>\n<table><tr>"));
        columns.iter().for_each(|column| self.raw(&format!("<th>{column}</th>")));
        self.raw("</tr>\n");
    }

    fn row(&mut self, cells: &[&str]) {
        self.raw("<tr>");
        for cell in cells {
            self.raw("<td>");
            self.text(cell);
            self.raw("</td>");
        }
        self.raw("</tr>\n");
    }

    fn end(&mut self) {
        self.raw("</table>\n");
    }
}

fn show_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{} ms", us as f64 / 1e3),
        _ => format!("{} s", us as f64 / 1e6),
    }
}

fn show_time(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
