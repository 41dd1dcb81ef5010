//! Runs, one after the other: a fixed rate, several, a closed loop, or the probes of a search.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::BenchArgs;
use super::output::Table;
use crate::bench::load::{Demand, GiveUp, Load, Target};
use crate::bench::measure::{self, Asked, Run};
use crate::bench::random::Random;
use crate::bench::report::number;
use crate::bench::schedule::{MAX_REQUESTS, ScheduleSpec};
use crate::bench::search::{Found, SearchPlan, Verdict, round, search};
use crate::bench::workload::Workload;
use crate::cli::{Failure, style};

/// Before a search: a short closed loop, which tells the order of magnitude.
const CALIBRATION: Duration = Duration::from_secs(2);
/// Requests in flight in it.
const CALIBRATION_IN_FLIGHT: usize = 16;
/// Most probes of a search.
const MAX_PROBES: usize = 40;

/// Makes the runs of a bench.
pub struct Driver<'a> {
    args: &'a BenchArgs,
    target: &'a Target,
    workload: &'a Workload,
    stop: &'a AtomicBool,
    /// Those made.
    pub runs: Vec<Run>,
    /// Number of the next request.
    next_request: u64,
}

impl<'a> Driver<'a> {
    /// One that has made none.
    pub fn new(args: &'a BenchArgs, target: &'a Target, workload: &'a Workload, stop: &'a AtomicBool) -> Driver<'a> {
        Driver { args, target, workload, stop, runs: Vec::new(), next_request: 0 }
    }

    /// Makes every run that the flags ask for, each a row of `table`. What a search found, if there was one.
    pub fn run_all(&mut self, table: &mut Table) -> Result<Option<Found>, Failure> {
        let load = &self.args.load;
        if let Some(in_flight) = load.concurrency {
            self.closed(in_flight as usize, load.warmup + load.duration, table)?;
            return Ok(None);
        }
        let rates = load.rates.clone().or(load.rate.map(|rate| vec![rate]));
        let Some(rates) = rates else { return self.search(table).map(Some) };
        for rate in rates {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            self.open(rate, load.duration, table)?;
        }
        Ok(None)
    }

    fn search(&mut self, table: &mut Table) -> Result<Found, Failure> {
        let load = &self.args.load;
        let calibration = self.closed(CALIBRATION_IN_FLIGHT, load.warmup + CALIBRATION, table)?;
        // A quarter of what the server does at most: doubling finds the rest, and the first probe is no avalanche.
        let start = round((calibration / 4.0).max(0.01));
        let plan = SearchPlan { start, precision: load.precision, max_probes: MAX_PROBES };
        search(plan, |rate| {
            let enough = Duration::from_secs_f64(f64::from(load.min_requests) / rate);
            self.open(rate, load.duration.max(enough), table)?;
            let good = self.runs.last().is_some_and(Run::is_good);
            Ok(match (self.stop.load(Ordering::Relaxed), good) {
                (true, _) => Verdict::Stop,
                (false, true) => Verdict::Met,
                (false, false) => Verdict::Missed,
            })
        })
    }

    /// Arrivals at `rate`, of which `length` is measured.
    fn open(&mut self, rate: f64, length: Duration, table: &mut Table) -> Result<(), Failure> {
        let load = &self.args.load;
        let length = load.warmup + length;
        // Every run has arrivals of its own: a repeat that repeats the arrivals would confirm nothing.
        let seed = Random::nth(load.seed, self.runs.len() as u64).next();
        let schedule = ScheduleSpec { arrivals: load.arrivals.into(), rate, length, seed };
        if schedule.expected() > MAX_REQUESTS {
            let told = format!("{rate} requests/s for {length:?} are more than {MAX_REQUESTS} requests");
            return Err(Failure::bad(format!("{told}: the SLO is beyond what this bench can ask")));
        }
        let demand = Demand::Open(schedule.arrivals());
        let asked = Asked { name: format!("{}/s", number(rate)), rate: Some(rate), in_flight: None, seed };
        self.run(asked, (&demand, length), table)
    }

    /// `in_flight` requests at a time. Returns the answers a second.
    fn closed(&mut self, in_flight: usize, length: Duration, table: &mut Table) -> Result<f64, Failure> {
        let demand = Demand::Closed { in_flight, length };
        let name = format!("{in_flight} in flight");
        let asked = Asked { name, rate: None, in_flight: Some(in_flight), seed: self.args.load.seed };
        self.run(asked, (&demand, length), table)?;
        Ok(self.runs.last().map_or(0.0, |run| run.throughput))
    }

    fn run(&mut self, asked: Asked, (demand, length): (&Demand, Duration), table: &mut Table) -> Result<(), Failure> {
        let load = &self.args.load;
        let slo = load.slo_p99_ms.map(|ms| Duration::from_secs_f64(ms / 1e3));
        // The calibration of a search is no attempt at its SLO.
        let calibrates = load.concurrency.is_none() && matches!(demand, Demand::Closed { .. });
        let slo = slo.filter(|_| !calibrates);
        let judged = measure::Target {
            warmup: load.warmup,
            length,
            slo,
            deadline: self.args.requests.deadline,
            max_lag: load.max_lag,
        };
        let planned = match demand {
            Demand::Open(arrivals) => arrivals.len(),
            Demand::Closed { .. } => 0,
        };
        let bar = match demand {
            Demand::Open(_) => style::progress(planned, "requests"),
            Demand::Closed { .. } => style::spinner(asked.name.clone()),
        };
        let run = Load {
            target: self.target,
            workload: self.workload,
            first: self.next_request,
            demand,
            deadline: self.args.requests.deadline,
            timeout: load.timeout,
            give_up: self.give_up(slo, demand),
            stop: self.stop,
        };
        let records = run.run(|settled| bar.set_position(settled as u64));
        bar.finish_and_clear();
        let records = records?;
        self.next_request += (records.requests.len() + records.unsent) as u64;
        let run = Run::measure(asked, &records, &judged);
        table.row(&run)?;
        self.runs.push(run);
        Ok(())
    }

    /// A probe of a search ends once it can only miss.
    fn give_up(&self, slo: Option<Duration>, demand: &Demand) -> Option<GiveUp> {
        let load = &self.args.load;
        let searching = load.rate.is_none() && load.rates.is_none() && load.concurrency.is_none();
        let (Some(latency), Demand::Open(arrivals), true) = (slo, demand, searching) else { return None };
        let measured = arrivals.iter().filter(|due| **due >= load.warmup).count();
        Some(GiveUp { latency, misses: measured / 100, warmup: load.warmup })
    }
}
