//! The page is well-formed, needs nothing but itself, and says what was measured.

use std::time::Duration;

use super::*;
use crate::bench::measure::{Asked, Target};
use crate::bench::records::{Outcome, Record, Records};
use crate::request::{RefusalKind, StageTimings};

fn run(name: &str, rate: f64, latency_ms: u64) -> Run {
    let requests = (0..600).map(|at| {
        let timings = StageTimings { queue_us: 500, search_us: 1500, total_us: 2000, ..StageTimings::default() };
        let refused = at % 100 == 99 && latency_ms > 100;
        let outcome = if refused { Outcome::Refused(RefusalKind::Overloaded) } else { Outcome::Answered(timings) };
        let latency = Duration::from_millis(latency_ms + at % 7);
        Record { due: Duration::from_millis(at * 5), lag: Duration::from_micros(100), latency, outcome }
    });
    let first_refusal = (latency_ms > 100).then(|| "OVERLOADED: <full> & \"over\"".to_owned());
    let records = Records { requests: requests.collect(), first_refusal, ..Records::default() };
    let target = Target {
        warmup: Duration::from_millis(500),
        length: Duration::from_secs(3),
        slo: Some(Duration::from_millis(50)),
        ..Target::default()
    };
    Run::measure(Asked { name: name.into(), rate: Some(rate), in_flight: None, seed: 1 }, &records, &target)
}

fn report() -> Report {
    let found = Found { rate: Some(100.0), missed_at: Some(104.0), confirmed: true, probes: 3 };
    let setting = Setting {
        command: "sidereal bench 'a<b>' --slo-p99-ms 50".into(),
        model: "model<script>alert(1)</script>@1".into(),
        slo_p99_ms: Some(50.0),
        ..Setting::default()
    };
    Report::new(setting, Some(found), vec![run("50/s", 50.0, 11), run("100/s", 100.0, 23), run("104/s", 104.0, 210)])
}

fn parse(html: &str) -> roxmltree::Document<'_> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() };
    roxmltree::Document::parse_with_options(html, options).unwrap()
}

#[test]
fn the_page_is_well_formed_and_needs_nothing_but_itself() {
    let html = report().html();
    let page = parse(&html);
    for node in page.descendants().filter(|node| node.is_element()) {
        let name = node.tag_name().name();
        assert!(!["script", "link", "img", "iframe", "object", "use", "image", "base"].contains(&name), "<{name}>");
        for attribute in node.attributes() {
            let (name, value) = (attribute.name(), attribute.value());
            assert!(!["src", "href", "data", "action"].contains(&name) && !name.starts_with("on"), "{name}={value}");
            assert!(!value.contains("NaN") && !value.contains("inf"), "{name}={value}");
        }
    }
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
    assert!(STYLE.contains("prefers-color-scheme: dark"));
}

#[test]
fn every_drawing_has_a_name_and_every_figure_a_heading() {
    let html = report().html();
    let page = parse(&html);
    let drawings: Vec<_> = page.descendants().filter(|node| node.has_tag_name("svg")).collect();
    assert!(drawings.iter().all(|svg| svg.attribute("aria-label").is_some_and(|told| !told.is_empty())
        || svg.attribute("aria-hidden") == Some("true")));
    let figures: Vec<_> = page.descendants().filter(|node| node.has_tag_name("figure")).collect();
    let headings: Vec<&str> = figures
        .iter()
        .map(|figure| figure.descendants().find(|node| node.has_tag_name("h2")).unwrap().text().unwrap())
        .collect();
    assert_eq!(headings, ["Latency against rate", "Percentile curve", "Timeline of 100/s", "Where the time went"]);
    // P50, P95 and P99 of three runs, their goodput, and three dots on the curve.
    assert_eq!(page.descendants().filter(|node| node.has_tag_name("circle")).count(), 3 * 4 + 3);
}

#[test]
fn the_page_says_what_was_measured() {
    let report = report();
    assert_eq!(report.main_run().unwrap().name, "100/s");
    let html = report.html();
    let page = parse(&html);
    let text: String = page.descendants().filter(|node| node.is_text()).filter_map(|node| node.text()).collect();
    for part in [
        "P99 within 50 ms up to 100 requests/s, confirmed by a repeat; 104 is too many (precision 4.0%)",
        "model<script>alert(1)</script>@1",
        "sidereal bench 'a<b>' --slo-p99-ms 50",
        "104/s: refused 5 OVERLOADED, e.g. \"OVERLOADED: <full> & \"over\"\"",
        "SLO: P99 50 ms",
        "missed",
    ] {
        assert!(text.contains(part), "{part:?} not in {text}");
    }
    let rows = page.descendants().filter(|node| node.has_tag_name("tr")).count();
    assert_eq!(rows, 1 + 3);
}

#[test]
fn nothing_measured_is_still_a_page() {
    let nothing = Report::new(Setting::default(), None, vec![]);
    parse(&nothing.html());
    let empty = Records::default();
    let run =
        Run::measure(Asked { name: "x".into(), rate: None, in_flight: Some(4), seed: 1 }, &empty, &Target::default());
    let report = Report::new(Setting::default(), None, vec![run]);
    let html = report.html();
    parse(&html);
    assert!(html.contains("Not valid") && !html.contains("NaN"), "{html}");
}

#[test]
fn findings_are_told_apart() {
    let told = |found: Found| Report { search: Some(found), ..report() }.finding().unwrap();
    assert!(told(Found { rate: Some(7.0), ..Found::default() }).contains("at least"));
    assert!(told(Found { missed_at: Some(0.5), ..Found::default() }).contains("no rate tried, down to 0.5"));
    assert!(told(Found::default()).contains("nothing was tried"));
}
