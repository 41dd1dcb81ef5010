//! Requests through the whole engine, beside the best published figure and the bar of each workload.
//!
//! Weights are seeded random ones, written to disk here; a request's cost does not depend on them. Latency is the host's time from
//! handing a batch of requests over to its last answer; every request has a prompt of its own.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sidereal::device::Dtype;
use sidereal::request::{Answer, History, Request};
use sidereal::schedule::{DeviceChoice, DeviceKind, Engine, EngineConfig, Limits};

use crate::error::CheckError;
use crate::exporter::{self, Items, LEVELS, Layout, Model};
use crate::report::{Section, Table, Verdict};
use crate::setting::Setting;
use crate::statistics::Summary;

const WARM_UPS: usize = 3;
const REPEATS: usize = 20;
/// Answers of a closed loop, and how many are out at a time.
const LOOP_ANSWERS: usize = 200;
const CONCURRENCY: usize = 4;

/// How a workload is driven.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Drive {
    /// So many requests at once, again when all are answered.
    Batch(usize),
    /// [`CONCURRENCY`] requests out at any time.
    Loop,
}

/// A row of the bars.
#[derive(Clone, Copy, Debug)]
struct Workload {
    name: &'static str,
    tokens: usize,
    beams: u32,
    drive: Drive,
    best_published: &'static str,
    bar: &'static str,
}

const fn workload(name: &'static str, tokens: usize, beams: u32, drive: Drive, told: [&'static str; 2]) -> Workload {
    Workload { name, tokens, beams, drive, best_published: told[0], bar: told[1] }
}

/// NVIDIA's are those of recsys-examples (sid-gr-inference), on one H100.
const QWEN3: &[Workload] = &[
    workload("Qwen3-1.7B, ctx 1000", 1000, 256, Drive::Batch(1), ["17.6 ms (NVIDIA)", "11 ms, goal 8 ms"]),
    workload("Qwen3-1.7B, ctx 1000", 1000, 256, Drive::Batch(8), ["93.2 ms (NVIDIA)", "70 ms, goal 58 ms"]),
    workload("Qwen3-1.7B, ctx 5000", 5000, 256, Drive::Batch(1), ["42.3 ms (NVIDIA)", "37 ms, goal 30 ms"]),
    workload("Qwen3-1.7B, ctx 5000", 5000, 256, Drive::Batch(8), ["307.9 ms (NVIDIA)", "280 ms, goal 235 ms"]),
    workload(
        "Qwen3-1.7B, ctx 5000, online",
        5000,
        256,
        Drive::Loop,
        ["19.4-20.1 req/s, p99 252-324 ms (NVIDIA)", "30 req/s, p99 <= 160 ms"],
    ),
];
const PER_TERAFLOP: &str = "3x per peak TFLOP/s of the card";
const ONEREC: &[Workload] = &[
    workload("OneRec-1.7B-like", 2465, 50, Drive::Loop, ["28.1 req/s (FlashRec, RTX 5090, FP8)", PER_TERAFLOP]),
    workload("OneRec-1.7B-like", 2465, 128, Drive::Loop, ["19.9 req/s (FlashRec, RTX 5090, FP8)", PER_TERAFLOP]),
    workload("OneRec-1.7B-like", 2465, 512, Drive::Loop, ["8.2 req/s (FlashRec, RTX 5090, FP8)", PER_TERAFLOP]),
    workload("OneRec-1.7B-like", 2465, 1000, Drive::Loop, ["4.6 req/s (FlashRec, RTX 5090, FP8)", PER_TERAFLOP]),
];
const T5: &[Workload] = &[
    workload(
        "T5 of 0.74 B (dense, OxygenREC-like)",
        1000,
        256,
        Drive::Batch(1),
        ["about 50 ms, TP99 < 70 ms (JD)", "10 ms"],
    ),
    workload(
        "T5 of 0.74 B (dense, OxygenREC-like)",
        1000,
        512,
        Drive::Batch(1),
        ["about 50 ms, TP99 < 70 ms (JD)", "10 ms"],
    ),
];
const REHEARSED: &[Workload] = &[
    workload("tiny, batch", 12, 4, Drive::Batch(2), ["-", "-"]),
    workload("tiny, loop", 12, 4, Drive::Loop, ["-", "-"]),
];

/// 1.52 M semantic IDs, as FlashRec's.
const ITEMS: Items = Items { codes: 8192, count: 1_520_000 };
const TINY_ITEMS: Items = Items { codes: 16, count: 200 };

/// A model and what is asked of it.
struct Group {
    title: &'static str,
    folder: &'static str,
    model: Model,
    items: Items,
    workloads: &'static [Workload],
}

impl Group {
    fn new(setting: &Setting, title: &'static str, workloads: &'static [Workload], is_t5: bool) -> Group {
        let make = if is_t5 { exporter::t5 } else { exporter::qwen3 };
        let codes = |items: Items| LEVELS * items.codes;
        if setting.is_rehearsal {
            let (items, codes) = (TINY_ITEMS, codes(TINY_ITEMS));
            let layout =
                Layout { hidden: 32, heads: 2, kv_heads: 1, head_dim: 32, inner: 64, layers: 1, vocabulary: 16, codes };
            let folder = if is_t5 { "tiny-t5" } else { "tiny-qwen3" };
            return Group { title, folder, model: make(layout), items, workloads: REHEARSED };
        }
        let codes = codes(ITEMS);
        let layout = if is_t5 {
            // T5-large's.
            Layout {
                hidden: 1024,
                heads: 16,
                kv_heads: 16,
                head_dim: 64,
                inner: 4096,
                layers: 24,
                vocabulary: 32_128,
                codes,
            }
        } else {
            Layout {
                hidden: 2048,
                heads: 16,
                kv_heads: 8,
                head_dim: 128,
                inner: 6144,
                layers: 28,
                vocabulary: 151_936,
                codes,
            }
        };
        let folder = if is_t5 { "t5" } else { "qwen3" };
        Group { title, folder, model: make(layout), items: ITEMS, workloads }
    }

    /// The export, written unless an earlier part did.
    fn export(&self, setting: &Setting) -> Result<std::path::PathBuf, CheckError> {
        let folder = setting.scratch.join(self.folder);
        // Written last: there only if all of it is.
        if !folder.join("sidereal.json").is_file() {
            exporter::write(&folder, &self.model, self.items)?;
        }
        Ok(folder)
    }

    fn limits(&self) -> Limits {
        let over = |of: fn(&Workload) -> usize| self.workloads.iter().map(of).max().unwrap_or(1);
        let batch = over(|workload| match workload.drive {
            Drive::Batch(requests) => requests,
            Drive::Loop => CONCURRENCY,
        });
        let (tokens, beams) = (over(|workload| workload.tokens), over(|workload| workload.beams as usize));
        Limits {
            max_prompt_tokens: tokens,
            max_prefill_tokens: tokens.clamp(64, 8192),
            max_beams: beams,
            max_cohort_rows: beams * batch.min(8),
            max_sequences: 2 * batch,
            max_denied_items: 100,
            // As much as the longest prompts of all sequences take; `history_pages` cuts it to that.
            kv_bytes: 16 << 30,
            default_deadline: Duration::from_secs(60),
            ..Limits::default()
        }
    }
}

/// Qwen3-1.7B's shape.
pub fn qwen3(setting: &Setting) -> Result<Section, CheckError> {
    section(setting, &Group::new(setting, "Qwen3-1.7B shape, 3 tokens, 1.52 M semantic IDs", QWEN3, false))
}

/// The same at OneRec's widths.
pub fn onerec(setting: &Setting) -> Result<Section, CheckError> {
    section(setting, &Group::new(setting, "OneRec-1.7B-like, 2,465 tokens, 1.52 M semantic IDs", ONEREC, false))
}

/// An encoder-decoder of OxygenREC's size.
pub fn t5(setting: &Setting) -> Result<Section, CheckError> {
    section(setting, &Group::new(setting, "T5 shape, 3 tokens, 1.52 M semantic IDs", T5, true))
}

fn section(setting: &Setting, group: &Group) -> Result<Section, CheckError> {
    setting.load_driver()?;
    let mut section = Section::new(format!("end to end: {}", group.title), Verdict::Measured);
    let columns =
        ["workload", "beams", "requests at once", "median_ms", "p90_ms", "p99_ms", "req/s", "best published", "bar"];
    let mut table = Table::new(group.title, &columns);
    let began = Instant::now();
    let export = group.export(setting)?;
    let written = began.elapsed();
    let device = DeviceChoice {
        kind: DeviceKind::Cuda(0),
        dtype: Some(Dtype::Bf16),
        cache: Some(setting.scratch.clone()),
        ..DeviceChoice::default()
    };
    let engine = Engine::start(&EngineConfig { device, limits: group.limits(), ..EngineConfig::new(&export) })?;
    section.notes.push(format!(
        "bf16, seeded random weights; the export was there after {:.1} s, the engine after {:.1} s.",
        written.as_secs_f64(),
        (began.elapsed() - written).as_secs_f64()
    ));
    for workload in group.workloads {
        let at_once = match workload.drive {
            Drive::Batch(requests) => requests,
            Drive::Loop => CONCURRENCY,
        };
        let figures = if setting.left().is_zero() {
            Err("dropped: out of time".to_owned())
        } else {
            drive(setting, &engine, group, workload).inspect_err(|_| section.verdict = Verdict::Failed)
        };
        let (name, figures) = match figures {
            Ok(Figures { summary, per_second }) => {
                let Summary { median, p90, p99, .. } = summary;
                (workload.name.to_owned(), [median, p90, p99, per_second].map(|figure| json!(figure)))
            }
            Err(told) => (format!("{} ({told})", workload.name), [Value::Null, Value::Null, Value::Null, Value::Null]),
        };
        let mut row = vec![json!(name), json!(workload.beams), json!(at_once)];
        row.extend(figures);
        row.extend([json!(workload.best_published), json!(workload.bar)]);
        table.rows.push(row);
    }
    section.tables.push(table);
    engine.drain();
    Ok(section)
}

struct Figures {
    /// Milliseconds.
    summary: Summary,
    per_second: f64,
}

fn drive(setting: &Setting, engine: &Engine, group: &Group, workload: &Workload) -> Result<Figures, String> {
    let (warm_ups, repeats, answers) =
        if setting.is_rehearsal { (0, 1, CONCURRENCY + 1) } else { (WARM_UPS, REPEATS, LOOP_ANSWERS) };
    let mut clients = Clients::new(engine, group, workload);
    let (mut latencies, began) = match workload.drive {
        Drive::Batch(requests) => {
            (0..warm_ups).try_for_each(|_| clients.batch(requests).map(drop))?;
            let began = Instant::now();
            let mut times = Vec::new();
            while times.len() < repeats && (times.is_empty() || !setting.left().is_zero()) {
                times.push(clients.batch(requests)?);
            }
            (times, began)
        }
        Drive::Loop => {
            (0..warm_ups).try_for_each(|_| clients.batch(CONCURRENCY).map(drop))?;
            let began = Instant::now();
            (clients.closed_loop(answers, setting.deadline)?, began)
        }
    };
    let requests = match workload.drive {
        Drive::Batch(requests) => requests * latencies.len(),
        Drive::Loop => latencies.len(),
    };
    let per_second = requests as f64 / began.elapsed().as_secs_f64();
    let summary = Summary::of(latencies.drain(..).map(|latency| latency.as_secs_f64() * 1e3));
    Ok(Figures { summary: summary.ok_or("nothing was answered")?, per_second })
}

/// An answer, and when its request was handed over.
type Arrived = (Instant, Answer);

/// Those who ask.
struct Clients<'a> {
    engine: &'a Engine,
    group: &'a Group,
    workload: &'a Workload,
    next: u64,
    sender: mpsc::Sender<Arrived>,
    receiver: mpsc::Receiver<Arrived>,
}

impl<'a> Clients<'a> {
    fn new(engine: &'a Engine, group: &'a Group, workload: &'a Workload) -> Clients<'a> {
        let (sender, receiver) = mpsc::channel();
        Clients { engine, group, workload, next: 1, sender, receiver }
    }

    fn ask(&mut self) {
        let Clients { engine, group, workload, next, sender, .. } = self;
        let tokens = exporter::prompt(&group.model, group.items, workload.tokens, *next);
        let request = Request::new(*next, History::Tokens(tokens), workload.beams, workload.beams);
        *next += 1;
        let (sender, arrived) = (sender.clone(), Instant::now());
        let done = Box::new(move |answer| {
            // The receiver outlives every request.
            let _ = sender.send((arrived, answer));
        });
        engine.submit(request, arrived, Arc::new(AtomicBool::new(false)), done);
    }

    /// The latency of the next answer, which must be a full list.
    fn wait(&self) -> Result<Duration, String> {
        let (arrived, answer) = self.receiver.recv().map_err(|_| "the engine stopped".to_owned())?;
        match answer {
            Ok(answer) if answer.results.is_empty() => Err("a request was answered with nothing".to_owned()),
            Ok(_) => Ok(arrived.elapsed()),
            Err(refusal) => Err(format!("{}: {}", refusal.kind.name(), refusal.message)),
        }
    }

    /// The time from the first request to the last answer.
    fn batch(&mut self, requests: usize) -> Result<Duration, String> {
        let began = Instant::now();
        (0..requests).for_each(|_| self.ask());
        (0..requests).try_for_each(|_| self.wait().map(drop))?;
        Ok(began.elapsed())
    }

    /// Latencies of `count` answers, or of as many as there is time for.
    fn closed_loop(&mut self, count: usize, deadline: Instant) -> Result<Vec<Duration>, String> {
        let mut latencies = Vec::with_capacity(count);
        let mut out = 0;
        while out < CONCURRENCY.min(count) {
            self.ask();
            out += 1;
        }
        while out > 0 {
            latencies.push(self.wait()?);
            out -= 1;
            if latencies.len() + out < count && Instant::now() < deadline {
                self.ask();
                out += 1;
            }
        }
        Ok(latencies)
    }
}
