//! The figures of a run over held-out users, for people and for machines.

use std::io::Write;

use serde::Serialize;

use crate::cli::measure::{Legality, Outcome};
use crate::cli::metrics::{Quality, Speed};
use crate::cli::style::Style;
use crate::cli::{Failure, units};
use crate::schedule::EngineFacts;

/// What was asked of the engine for every user.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Asked {
    /// Beam width.
    pub beams: u32,
    /// Semantic IDs asked for.
    pub top: u32,
    /// Whether the history was denied.
    pub deny_history: bool,
    /// Requests in flight.
    pub in_flight: usize,
}

/// Everything that a run came to.
#[derive(Debug, Serialize)]
pub struct Summary<'a> {
    model: &'a str,
    catalog: &'a str,
    device: &'a str,
    dtype: &'a str,
    threads: usize,
    #[serde(flatten)]
    asked: Asked,
    quality: Quality,
    popularity: Option<Quality>,
    unknown_targets: usize,
    refused: usize,
    first_refusal: Option<&'a str>,
    legality: &'a Legality,
    /// With as many requests in flight as were asked for.
    speed: Speed,
    /// With one request at a time, where that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    alone: Option<Speed>,
}

impl<'a> Summary<'a> {
    /// Puts the parts together.
    pub fn of(facts: &'a EngineFacts, asked: Asked, outcome: &'a Outcome, speed: Speed) -> Summary<'a> {
        Summary {
            model: &facts.provenance.model,
            catalog: &facts.provenance.catalog,
            device: &facts.provenance.device,
            dtype: &facts.provenance.dtype,
            threads: facts.threads,
            asked,
            quality: outcome.quality,
            popularity: outcome.popularity,
            unknown_targets: outcome.unknown_targets,
            refused: outcome.refused,
            first_refusal: outcome.first_refusal.as_deref(),
            legality: &outcome.legality,
            speed,
            alone: None,
        }
    }

    /// Adds what a request takes when it is alone.
    pub fn with_alone(self, alone: Speed) -> Summary<'a> {
        Summary { alone: Some(alone), ..self }
    }

    /// One JSON object.
    pub fn print_json(&self, out: &mut dyn Write) -> Result<(), Failure> {
        writeln!(out, "{}", serde_json::to_string(self).unwrap_or_default())?;
        Ok(())
    }

    /// What was measured, on what.
    pub fn print_setting(&self, style: Style, out: &mut dyn Write) -> Result<(), Failure> {
        let Summary { model, catalog, device, dtype, threads, asked, .. } = self;
        let threads = units::plural(*threads, "thread");
        writeln!(out, "{}  catalogue {catalog}, {device}, {dtype}, {threads}", style.bold(model))?;
        let bans = if asked.deny_history { ", history denied" } else { "" };
        writeln!(out, "beams {}, top {}{bans}, {} in flight\n", asked.beams, asked.top, asked.in_flight)?;
        Ok(())
    }

    /// Quality, legality, speed.
    pub fn print_figures(&self, style: Style, out: &mut dyn Write) -> Result<(), Failure> {
        let head = format!("  {:<12} {:>8} {:>8} {:>8} {:>8}", "", "HR@1", "HR@5", "HR@10", "NDCG@10");
        writeln!(out, "{}", style.dim(&head))?;
        let mut row = |name: &str, q: &Quality| {
            let Quality { hr_at_1, hr_at_5, hr_at_10, ndcg_at_10, .. } = q;
            writeln!(out, "  {name:<12} {hr_at_1:>8.4} {hr_at_5:>8.4} {hr_at_10:>8.4} {ndcg_at_10:>8.4}")
        };
        row("sidereal", &self.quality)?;
        if let Some(popularity) = &self.popularity {
            row("popularity", popularity)?;
        }
        writeln!(out, "{}\n", style.dim(&format!("  over {}", units::plural(self.quality.users, "held-out user"))))?;
        self.print_legality(style, out)?;
        let Speed { requests, seconds, requests_per_second, .. } = self.speed;
        let rate = style.bold(&format!("{requests_per_second:.0} requests/s"));
        let requests = units::show_count(requests as u64);
        writeln!(out, "  {:<12} {rate}, {requests} in {seconds:.1} s", "throughput")?;
        let mut latency = |name: &str, speed: &Speed, load: &str| {
            let Speed { latency_ms_p50, latency_ms_p95, latency_ms_p99, .. } = speed;
            writeln!(
                out,
                "  {name:<12} p50 {latency_ms_p50:>6.1} ms   p95 {latency_ms_p95:>6.1} ms   p99 {latency_ms_p99:>6.1} ms   {load}"
            )
        };
        latency("latency", &self.speed, &format!("with {} in flight", self.asked.in_flight))?;
        if let Some(alone) = &self.alone {
            latency("", alone, "one at a time")?;
        }
        if self.unknown_targets > 0 {
            let users = units::plural(self.unknown_targets, "user");
            let told = format!("{users} took an item that the catalogue does not have; they count as misses");
            writeln!(out, "  {}", style.note(&told))?;
        }
        Ok(())
    }

    fn print_legality(&self, style: Style, out: &mut dyn Write) -> Result<(), Failure> {
        let Legality { answers, items, illegal, .. } = self.legality;
        let share = if *answers == 0 { 1.0 } else { (answers - illegal) as f64 / *answers as f64 };
        let told = if *illegal == 0 {
            style.good("100%")
        } else {
            // Never rounded up to 100.
            style.bad(&format!("{:.2}%", (share * 1e4).floor() / 100.0))
        };
        let (items, answers) = (units::show_count(*items as u64), units::show_count(*answers as u64));
        writeln!(
            out,
            "  {:<12} {told} of {answers} answers ({items} items): real semantic IDs, allowed items",
            "legality"
        )?;
        Ok(())
    }
}
