//! What every kernel measurement needs: a device, its timing, and rows of results in percent of the ceilings.
//!
//! Every shape gets a device of its own, so that nothing but its buffers is on the card. All token lanes are on the search queue,
//! which is the one that is timed, but those of [`prompt_lane`]. Inputs are noise, never zeros, which a card multiplies with less power and so faster.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use sidereal::device::cuda::{Cublaslt, CudaDevice, Enqueue, Timing};
use sidereal::device::{
    Cohort, CohortLane, CohortPlan, CohortRequest, Device, DeviceError, Dtype, ExpandArgs, Head, HeadSource, KvPool,
    KvShape, KvTarget, Queue, Rows, Segment, SlotPlan, SlotState, Span, Tensor, TokenBatch, TokenLane, TrieId,
    WriteKvArgs,
};
use sidereal::export::TensorView;

use super::ceilings;
use super::work::{Ceilings, Heads, Work};
use crate::error::CheckError;
use crate::exporter::{self, Items, LEVELS};
use crate::random::Random;
use crate::report::{Section, Table, Verdict};
use crate::setting::Setting;
use crate::statistics::Summary;

/// Tokens in a page, as served by default.
const PAGE: usize = 64;
const FULL: Timing = Timing { queue: Queue::Search, warm_ups: 5, replays: 30, ballast_bytes: 256 << 20 };
const REHEARSED: Timing = Timing { queue: Queue::Search, warm_ups: 0, replays: 2, ballast_bytes: 256 };

/// A group's measurements.
pub struct Rig<'a> {
    setting: &'a Setting,
    ceilings: Ceilings,
    timing: Timing,
    table: Table,
    verdict: Verdict,
}

/// One row.
pub struct Measurement<'a> {
    /// The shape, in words.
    pub shape: String,
    /// What one run of the operation has to do.
    pub work: Work,
    /// How often `body` enqueues it.
    pub runs: usize,
    /// Enqueued before each replay and not timed.
    pub prepare: &'a mut Enqueue<'a>,
    /// What is timed.
    pub body: &'a mut Enqueue<'a>,
}

impl<'a> Rig<'a> {
    /// For a group called `title`.
    pub fn new(setting: &'a Setting, title: &str) -> Result<Rig<'a>, CheckError> {
        setting.load_driver()?;
        let timing = if setting.is_rehearsal { REHEARSED } else { FULL };
        let columns = ["shape", "median_us", "spread_pct", "GFLOP", "MB", "floor_us", "bound by", "% of ceiling"];
        let table = Table::new(title, &columns);
        Ok(Rig { setting, ceilings: ceilings::read(setting)?, timing, table, verdict: Verdict::Measured })
    }

    /// A device for one shape, computing in bf16.
    pub fn device(&self) -> Result<CudaDevice, CheckError> {
        self.device_with(Cublaslt::Off)
    }

    /// A device for one shape, computing in bf16, with cuBLASLt or without.
    pub fn device_with(&self, cublaslt: Cublaslt) -> Result<CudaDevice, CheckError> {
        Ok(CudaDevice::open(0, Dtype::Bf16, &self.setting.scratch, cublaslt)?)
    }

    /// Measures one shape; what fails, or has no time left, is a row that says so.
    pub fn shape(&mut self, shape: &str, measure: impl FnOnce(&mut Rig<'a>) -> Result<(), CheckError>) {
        let missing = if Instant::now() >= self.setting.deadline {
            Some("dropped: out of time".to_owned())
        } else {
            // An assertion of the engine's fails this row alone; its device is dropped with it.
            let outcome = catch_unwind(AssertUnwindSafe(|| measure(self)));
            let why = match outcome {
                Ok(outcome) => outcome.err().map(|error| error.to_string()),
                Err(panic) => Some(panic_message(&*panic)),
            };
            if why.is_some() {
                self.verdict = Verdict::Failed;
            }
            why
        };
        if let Some(why) = missing {
            let mut row = vec![Value::Null; self.table.columns.len()];
            row[0] = json!(format!("{shape} ({why})"));
            self.table.rows.push(row);
        }
    }

    /// Times one row on the search queue.
    pub fn measure(&mut self, device: &mut CudaDevice, row: Measurement<'_>) -> Result<(), CheckError> {
        self.measure_on(Queue::Search, device, row)
    }

    /// Times one row.
    pub fn measure_on(
        &mut self,
        queue: Queue,
        device: &mut CudaDevice,
        row: Measurement<'_>,
    ) -> Result<(), CheckError> {
        let times = device.time_replays(Timing { queue, ..self.timing }, row.prepare, row.body)?;
        let each_us = times.iter().map(|time| time.as_secs_f64() * 1e6 / row.runs as f64);
        let Some(summary) = Summary::of(each_us) else {
            return Err(CheckError::Answer("nothing was timed".to_owned()));
        };
        let (floor, bound) = row.work.floor(&self.ceilings);
        self.table.rows.push(vec![
            json!(row.shape),
            json!(summary.median),
            json!(summary.spread_pct()),
            json!(row.work.flops / 1e9),
            json!(row.work.bytes / 1e6),
            json!(floor * 1e6),
            json!(bound),
            json!(100.0 * floor * 1e6 / summary.median),
        ]);
        Ok(())
    }

    /// The group's section.
    pub fn finish(self, name: &str) -> Section {
        let mut section = Section::new(name, self.verdict);
        section.notes.push(format!(
            "Medians of {} replays of a recorded sequence after {} warm-ups, by the card's clock.",
            self.timing.replays, self.timing.warm_ups
        ));
        section.tables.push(self.table);
        section
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("without a message"))
}

/// Nothing to prepare.
pub fn nothing(_: &mut dyn Device) -> Result<(), DeviceError> {
    Ok(())
}

/// Noise between -1 and 1, times `scale`.
pub fn noise(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.unit() * scale).collect()
}

/// A matrix of noise that keeps its input's scale.
pub fn matrix(seed: u64, outputs: usize, inputs: usize) -> TensorView {
    let values = noise(seed, outputs * inputs, (3.0 / inputs as f32).sqrt());
    TensorView::owned("noise", vec![outputs, inputs], values)
}

/// A buffer of noise.
pub fn noisy(device: &mut CudaDevice, rows: usize, cols: usize, dtype: Dtype) -> Result<Tensor, DeviceError> {
    let tensor = device.buffer(rows, cols, dtype)?;
    device.write_buffer(tensor, &noise(rows as u64, rows * cols, 1.0))?;
    Ok(tensor)
}

/// A lane over `rows` rows that is filled: `sequences` spans of equal length, each with pages of its own.
pub fn token_lane(device: &mut CudaDevice, sequences: usize, tokens: usize) -> Result<TokenLane, DeviceError> {
    lane_on(device, Queue::Search, (sequences, tokens))
}

/// The same for one sequence, on a queue of one's choice.
pub fn prompt_lane(device: &mut CudaDevice, queue: Queue, tokens: usize) -> Result<TokenLane, DeviceError> {
    lane_on(device, queue, (1, tokens))
}

fn lane_on(
    device: &mut CudaDevice,
    queue: Queue,
    (sequences, tokens): (usize, usize),
) -> Result<TokenLane, DeviceError> {
    let pages = tokens.div_ceil(PAGE);
    device.plan_slots(SlotPlan { slots: sequences, history_pages: pages, prefix_pages: 1 })?;
    for slot in 0..sequences {
        let first = slot * pages;
        // Pages in no order, as after a day of serving.
        let history_pages = (0..pages).rev().map(|page| (first + page) as u32).collect();
        let state = SlotState { history_len: tokens as u32, history_pages, ..SlotState::default() };
        device.write_slot(slot as u32, &state)?;
    }
    let lane = device.token_lane(sequences * tokens, queue)?;
    let span = |slot: usize| Span {
        slot: slot as u32,
        first_row: (slot * tokens) as u32,
        rows: tokens as u32,
        first_position: 0,
        last: true,
    };
    let mut random = Random::new(9);
    let batch = TokenBatch {
        tokens: (0..sequences * tokens).map(|_| random.below(64) as u32).collect(),
        spans: (0..sequences).map(span).collect(),
    };
    device.write_tokens(lane, &batch)?;
    Ok(lane)
}

/// Paged keys and values of every sequence of a lane, in `layers` layers, all noise.
pub fn history(
    device: &mut CudaDevice,
    (lane, sequences, tokens): (TokenLane, usize, usize),
    heads: Heads,
    layers: usize,
) -> Result<KvPool, DeviceError> {
    let pages = sequences * tokens.div_ceil(PAGE);
    let shape = KvShape { layers, kv_heads: heads.kv, head_dim: heads.dim, pages, page_tokens: PAGE };
    let pool = device.kv_pool(shape)?;
    let width = heads.kv * heads.dim;
    let [key, value] = [1, 2].map(|_| noisy(device, sequences * tokens, width, Dtype::F32));
    let (key, value) = (key?, value?);
    for layer in 0..layers {
        device.write_kv(&WriteKvArgs {
            rows: Rows::Tokens(lane),
            query: None,
            key,
            value,
            query_out: None,
            query_scale: 1.0,
            head_norm: None,
            rope: None,
            target: KvTarget::Pages { pool, segment: Segment::History, layer },
        })?;
    }
    Ok(pool)
}

/// A lane of one request of `rows` beams, none of which has chosen a token. Slots are planned before.
pub fn beam_lane(device: &mut CudaDevice, rows: usize) -> Result<CohortLane, DeviceError> {
    let lane = device.cohort_lane(CohortPlan { rows, steps: LEVELS, requests: 1, banned_nodes: 64, lists: None })?;
    let request = CohortRequest { slot: 0, beams: rows as u32, first_row: 0, ..CohortRequest::default() };
    device.write_cohort(lane, &Cohort { requests: vec![request] })?;
    Ok(lane)
}

/// A search over a trie with given logits, without a model.
pub struct Search {
    /// Its lane.
    pub lane: CohortLane,
    trie: TrieId,
    head: Head,
    logits: Tensor,
    lognorm: Tensor,
    cohort: Cohort,
}

impl Search {
    /// For `requests` requests of `beams` beams. Slots are planned before.
    pub fn plan(
        device: &mut CudaDevice,
        (requests, beams): (usize, usize),
        catalog: &Arc<sidereal::catalog::Catalog>,
    ) -> Result<Search, DeviceError> {
        let rows = requests * beams;
        let codes = catalog.codes(0) as usize;
        let level_tokens =
            (0..LEVELS).map(|level| (0..codes).map(|code| (level * codes + code) as u32).collect()).collect();
        let head = HeadSource { matrix: matrix(4, LEVELS * codes, 64).into(), level_tokens, whole_vocabulary: true };
        let request = |index: usize| CohortRequest {
            slot: index as u32,
            beams: beams as u32,
            first_row: (index * beams) as u32,
            ..CohortRequest::default()
        };
        Ok(Search {
            lane: device.cohort_lane(CohortPlan { rows, steps: LEVELS, requests, banned_nodes: 64, lists: None })?,
            trie: device.trie(catalog)?,
            head: device.head_weight(&head)?,
            logits: noisy(device, rows, codes, Dtype::F32)?,
            lognorm: device.buffer(rows, 1, Dtype::F32)?,
            cohort: Cohort { requests: (0..requests).map(request).collect() },
        })
    }

    /// Back to one beam a request.
    pub fn begin(&self, device: &mut dyn Device) -> Result<(), DeviceError> {
        device.write_cohort(self.lane, &self.cohort)
    }

    /// Expands and selects one level.
    pub fn step(&self, device: &mut dyn Device, level: usize) -> Result<(), DeviceError> {
        let Search { lane, trie, head, logits, lognorm, .. } = *self;
        device.expand_select(&ExpandArgs { lane, trie, head, item: 0, level, logits, lognorm: Some(lognorm) })
    }

    /// Leaf and score of the beams, to know how many there are.
    pub fn live_beams(&self, device: &mut CudaDevice) -> Result<usize, DeviceError> {
        Ok(device.read_beams(self.lane)?.iter().map(Vec::len).sum())
    }
}

/// A catalogue of random semantic IDs.
pub fn catalog(items: Items) -> Result<Arc<sidereal::catalog::Catalog>, CheckError> {
    Ok(Arc::new(exporter::catalog(items)?))
}
