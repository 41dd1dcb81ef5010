//! The CPU device: packed weights, vector kernels chosen at run time, and a plain scalar path that is the oracle for all.
//!
//! An operation runs to its end before it returns. Every operation checks its handles and shapes once and then works on
//! slices: a wrong shape is a bug in a model file and panics with the operation's name; what depends on data is an error.
//! An operation never reads a buffer that it writes, except where it adds to its output.

mod attend;
pub mod attention;
mod draw;
mod expand;
mod experts;
pub mod gemm;
mod head;
mod isa;
pub mod kv;
mod lanes;
mod legal;
mod lists;
mod masked;
mod pool;
mod reduce;
mod rows;
mod select;
mod slots;
mod store;
#[cfg(test)]
mod tests;
mod views;
mod weights;

use std::sync::Arc;
use std::time::{Duration, Instant};

use half::bf16;

pub use isa::Isa;
pub use pool::Pool;

use self::expand::{Columns, Scores, Step};
use self::experts::{ExpertsRun, ExpertsScratch, PackedExperts};
use self::head::{HeadRun, HeadScratch, PackedHead};
use self::kv::{BeamSpan, KvPages, OwnKv, TokenSpan};
use self::lanes::{CohortState, Lanes, TokenState, end_of};
use self::rows::Norm;
use self::select::Candidates;
use self::slots::Slots;
use self::store::{Buffer, Store, expect_shape};
use self::views::{matrix, matrix_mut, out};
use self::weights::{Weights, pack_linear};
use super::{
    Beam, BeamAttentionArgs, Cohort, CohortLane, CohortPlan, Device, DeviceError, DeviceFacts, Dtype, Embedding,
    Epilogue, ExpandArgs, Experts, ExpertsArgs, ExpertsPlan, ExpertsSource, ExpertsWork, ForceArgs, Head, HeadArgs,
    HeadSource, HistoryAttentionArgs, KvPool, KvShape, Linear, LinearArgs, LinearSource, ListPlan, Mark, Marks,
    NormArgs, OwnShape, OwnSlab, Queue, RelativeBias, RelativeBiasSource, Rope, RopeSource, Rows, SlotPlan, SlotState,
    Tensor, TokenBatch, TokenLane, TrieId, Vector, WriteKvArgs, check_mask, expect_matrix, read_vector,
};
use crate::catalog::{Catalog, NodeMask};
use crate::export::TensorView;

/// The device.
pub struct CpuDevice {
    facts: DeviceFacts,
    isa: Isa,
    pool: Pool,
    store: Store,
    weights: Weights,
    kv_pools: Vec<KvPages>,
    own_slabs: Vec<OwnKv>,
    lanes: Lanes,
    head_scratch: HeadScratch,
    experts_scratch: Vec<ExpertsScratch>,
    marks: Marks<Instant>,
    candidates: Vec<Candidates>, // one a request of a cohort
    token_spans: Vec<TokenSpan>, // of the operation that runs
    beam_spans: Vec<BeamSpan>,   // of the operation that runs
}

impl CpuDevice {
    /// A device that computes in `compute` with `isa`'s instructions on `threads` threads.
    ///
    /// # Errors
    /// If this machine lacks the instruction set.
    pub fn new(isa: Isa, compute: Dtype, threads: usize) -> Result<CpuDevice, DeviceError> {
        if !isa.is_available() {
            return Err(DeviceError::Unavailable(format!("this machine has no {}", isa.name())));
        }
        let pool = Pool::new(threads);
        Ok(CpuDevice {
            facts: DeviceFacts { name: format!("cpu/{}", isa.name()), compute, threads: pool.threads() },
            isa,
            pool,
            store: Store::default(),
            weights: Weights::default(),
            kv_pools: Vec::new(),
            own_slabs: Vec::new(),
            lanes: Lanes::default(),
            head_scratch: HeadScratch::default(),
            experts_scratch: Vec::new(),
            marks: Marks::default(),
            candidates: Vec::new(),
            token_spans: Vec::new(),
            beam_spans: Vec::new(),
        })
    }
}

/// Appends and returns the handle's number.
fn add<T>(list: &mut Vec<T>, item: T) -> u32 {
    list.push(item);
    list.len() as u32 - 1
}

fn columns(buffer: &Buffer, tensor: Tensor) -> Columns<'_> {
    Columns { data: buffer.elements(tensor), stride: tensor.stride }
}

impl Device for CpuDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn buffer(&mut self, rows: usize, cols: usize, dtype: Dtype) -> Result<Tensor, DeviceError> {
        self.store.plan(rows, cols, dtype)
    }

    fn linear_weight(&mut self, source: &LinearSource) -> Result<Linear, DeviceError> {
        let packed = pack_linear(&self.pool, self.isa, self.facts.compute, source)?;
        Ok(Linear(add(&mut self.weights.linears, packed)))
    }

    fn vector(&mut self, values: &TensorView, scale: f32) -> Result<Vector, DeviceError> {
        let values = read_vector(values, scale)?;
        Ok(Vector(add(&mut self.weights.vectors, values)))
    }

    fn embedding(&mut self, matrix: &TensorView) -> Result<Embedding, DeviceError> {
        expect_matrix(matrix, "an embedding table is [vocabulary, hidden]")?;
        Ok(Embedding(add(&mut self.weights.embeddings, matrix.clone())))
    }

    fn head_weight(&mut self, source: &HeadSource) -> Result<Head, DeviceError> {
        let head = PackedHead::pack(&self.pool, self.isa, self.facts.compute, source)?;
        Ok(Head(add(&mut self.weights.heads, head)))
    }

    fn relative_bias(&mut self, source: &RelativeBiasSource) -> Result<RelativeBias, DeviceError> {
        let columns = 2 * source.max_distance + 1;
        assert_eq!(source.by_distance.len(), source.heads * columns, "relative_bias: {} heads", source.heads);
        Ok(RelativeBias(add(&mut self.weights.biases, source.clone())))
    }

    fn experts_weight(&mut self, source: &ExpertsSource) -> Result<Experts, DeviceError> {
        let packed = PackedExperts::pack(&self.pool, self.isa, self.facts.compute, source)?;
        Ok(Experts(add(&mut self.weights.experts, packed)))
    }

    fn experts_work(&mut self, plan: ExpertsPlan) -> Result<ExpertsWork, DeviceError> {
        let scratch = ExpertsScratch::plan(&mut self.store, self.facts.compute, plan)?;
        Ok(ExpertsWork(add(&mut self.experts_scratch, scratch)))
    }

    fn rope(&mut self, source: &RopeSource) -> Result<Rope, DeviceError> {
        assert!(
            source.cos.len() == source.sin.len() && source.cos.len().is_multiple_of(source.positions.max(1)),
            "rope"
        );
        Ok(Rope(add(&mut self.weights.ropes, source.clone())))
    }

    fn kv_pool(&mut self, shape: KvShape) -> Result<KvPool, DeviceError> {
        let pages = KvPages::new(shape, self.facts.compute)?;
        Ok(KvPool(add(&mut self.kv_pools, pages)))
    }

    fn own_slab(&mut self, shape: OwnShape) -> Result<OwnSlab, DeviceError> {
        let slab = OwnKv::new(shape, self.facts.compute)?;
        Ok(OwnSlab(add(&mut self.own_slabs, slab)))
    }

    fn trie(&mut self, catalog: &Arc<Catalog>) -> Result<TrieId, DeviceError> {
        Ok(TrieId(add(&mut self.weights.catalogs, Arc::clone(catalog))))
    }

    fn plan_masks(&mut self, trie: TrieId, slots: usize) -> Result<(), DeviceError> {
        let none = Arc::new(NodeMask::none(&self.weights.catalogs[trie.0 as usize]));
        self.lanes.masks = std::iter::repeat_n(none, slots).collect();
        Ok(())
    }

    fn plan_slots(&mut self, plan: SlotPlan) -> Result<(), DeviceError> {
        self.lanes.slots = Slots::plan(plan);
        Ok(())
    }

    fn token_lane(&mut self, rows: usize, _: Queue) -> Result<TokenLane, DeviceError> {
        Ok(TokenLane(add(&mut self.lanes.tokens, TokenState::plan(rows))))
    }

    fn plan_dense(&mut self, lane: TokenLane, cols: usize) -> Result<(), DeviceError> {
        self.lanes.tokens[lane.0 as usize].plan_dense(cols);
        Ok(())
    }

    fn cohort_lane(&mut self, plan: CohortPlan) -> Result<CohortLane, DeviceError> {
        plan.lists.as_ref().map_or(Ok(()), ListPlan::check)?;
        Ok(CohortLane(add(&mut self.lanes.cohorts, CohortState::plan(plan))))
    }

    fn planned_bytes(&self) -> (usize, usize, usize) {
        let kv = self.kv_pools.iter().map(KvPages::bytes).sum::<usize>();
        let own = self.own_slabs.iter().map(OwnKv::bytes).sum::<usize>();
        (self.weights.bytes(), kv + own, self.store.bytes() + self.lanes.bytes())
    }

    fn write_slot(&mut self, slot: u32, state: &SlotState) -> Result<(), DeviceError> {
        self.lanes.slots.write(slot, state)
    }

    fn write_tokens(&mut self, lane: TokenLane, batch: &TokenBatch) -> Result<(), DeviceError> {
        self.lanes.tokens[lane.0 as usize].write(batch, self.lanes.slots.count())
    }

    fn write_dense(&mut self, lane: TokenLane, values: &[f32]) -> Result<(), DeviceError> {
        self.lanes.tokens[lane.0 as usize].write_dense(values)
    }

    fn write_mask(&mut self, slot: u32, mask: &Arc<NodeMask>) -> Result<(), DeviceError> {
        let masks = &mut self.lanes.masks;
        check_mask(mask, masks.first().map_or(0, |mask| mask.words().len()), (slot, masks.len()))?;
        // An operation has ended when it returns, so nothing reads the former mask.
        masks[slot as usize] = Arc::clone(mask);
        Ok(())
    }

    fn write_cohort(&mut self, lane: CohortLane, cohort: &Cohort) -> Result<(), DeviceError> {
        let room = (self.lanes.slots.count(), self.lanes.masks.len());
        self.lanes.cohorts[lane.0 as usize].write(cohort, room)
    }

    fn replay(
        &mut self,
        _: (CohortLane, TokenLane),
        _: usize,
        body: &mut dyn FnMut(&mut dyn Device) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        body(self)
    }

    fn embed(&mut self, rows: Rows, table: Embedding, out: Tensor) -> Result<(), DeviceError> {
        let table = &self.weights.embeddings[table.0 as usize];
        let ranges = self.lanes.ranges(rows);
        expect_shape("embed", "out", out, end_of(&ranges), table.cols());
        let tokens = match rows {
            Rows::Tokens(lane) => &self.lanes.tokens[lane.0 as usize].tokens,
            Rows::Beams(lane) => &self.lanes.cohorts[lane.0 as usize].now.token,
            other => panic!("embed: {other:?} have no tokens"),
        };
        for row in ranges.iter().cloned().flatten() {
            if tokens[row] as usize >= table.rows() {
                let reason = format!("row {row}: token {} of {}", tokens[row], table.rows());
                return Err(DeviceError::Failed { op: "embed", reason });
            }
        }
        let mut buffer = self.store.write("embed", out);
        rows::embed(&self.pool, &ranges, table, tokens, views::out(&mut buffer, out));
        Ok(())
    }

    fn embed_dense(&mut self, lane: TokenLane, to: Tensor) -> Result<(), DeviceError> {
        let ranges = self.lanes.ranges(Rows::Tokens(lane));
        let rows = end_of(&ranges);
        let values = self.lanes.tokens[lane.0 as usize].dense();
        if values.len() != rows * to.cols {
            let reason = format!("{} values for {rows} rows of {} columns", values.len(), to.cols);
            return Err(DeviceError::Failed { op: "embed_dense", reason });
        }
        let mut buffer = self.store.write("embed_dense", to);
        match to.dtype {
            Dtype::F32 => rows::copy_dense::<f32>(&self.pool, &ranges, values, out(&mut buffer, to)),
            Dtype::Bf16 => rows::copy_dense::<bf16>(&self.pool, &ranges, values, out(&mut buffer, to)),
        }
        Ok(())
    }

    fn add_positions(&mut self, rows: Rows, table: Embedding, step: usize, out: Tensor) -> Result<(), DeviceError> {
        let table = &self.weights.embeddings[table.0 as usize];
        let ranges = self.lanes.ranges(rows);
        expect_shape("add_positions", "out", out, end_of(&ranges), table.cols());
        let lanes = &self.lanes;
        let position = |row: usize| lanes.position(rows, row, step);
        if let Some(row) = ranges.iter().cloned().flatten().find(|&row| position(row) >= table.rows()) {
            let reason = format!("row {row}: position {} of {}", position(row), table.rows());
            return Err(DeviceError::Failed { op: "add_positions", reason });
        }
        let mut buffer = self.store.write("add_positions", out);
        rows::add_positions(&self.pool, &ranges, table, position, views::out(&mut buffer, out));
        Ok(())
    }

    fn norm(&mut self, args: &NormArgs) -> Result<(), DeviceError> {
        let weight = &self.weights.vectors[args.weight.0 as usize];
        let ranges = self.lanes.ranges(args.rows);
        expect_shape("norm", "x", args.x, end_of(&ranges), weight.len());
        expect_shape("norm", "out", args.out, end_of(&ranges), weight.len());
        let x = self.store.read("norm", args.x);
        let mut buffer = self.store.write("norm", args.out);
        let norm = Norm { x: x.elements(args.x), stride: args.x.stride, weight, eps: args.eps };
        match args.out.dtype {
            Dtype::F32 => rows::norm::<f32>(self.isa, &self.pool, &ranges, norm, out(&mut buffer, args.out)),
            Dtype::Bf16 => rows::norm::<bf16>(self.isa, &self.pool, &ranges, norm, out(&mut buffer, args.out)),
        }
        Ok(())
    }

    fn linear(&mut self, args: &LinearArgs) -> Result<(), DeviceError> {
        let weight = &self.weights.linears[args.weight.0 as usize];
        let ranges = self.lanes.ranges(args.rows);
        let is_gate = matches!(args.epilogue, Epilogue::Gate(_));
        assert_eq!(is_gate, weight.is_gated(), "linear: {:?} and whether the weight is gated", args.epilogue);
        expect_shape("linear", "x", args.x, end_of(&ranges), weight.k());
        expect_shape("linear", "out", args.out, end_of(&ranges), weight.output_columns());
        assert_eq!(args.x.dtype, self.facts.compute, "linear: type of x");
        let x = self.store.read("linear", args.x);
        let mut out = self.store.write("linear", args.out);
        for range in ranges.iter() {
            let x = matrix(&x, args.x, range.start);
            let out = matrix_mut(&mut out, args.out, range.start);
            gemm::gemm(&self.pool, self.isa, x, range.len(), weight, out, args.epilogue);
        }
        Ok(())
    }

    fn experts(&mut self, args: &ExpertsArgs) -> Result<(), DeviceError> {
        let experts = &self.weights.experts[args.experts.0 as usize];
        let ranges = self.lanes.ranges(args.rows);
        expect_shape("experts", "x", args.x, end_of(&ranges), experts.shape().hidden);
        expect_shape("experts", "out", args.out, end_of(&ranges), experts.shape().hidden);
        assert_eq!(args.x.dtype, self.facts.compute, "experts: type of x");
        let run = ExpertsRun {
            isa: self.isa,
            pool: &self.pool,
            store: &self.store,
            experts,
            ranges: &ranges,
            x: args.x,
            activation: args.activation,
            out: args.out,
        };
        run.run(&mut self.experts_scratch[args.work.0 as usize]);
        Ok(())
    }

    fn write_kv(&mut self, args: &WriteKvArgs) -> Result<(), DeviceError> {
        self.run_write_kv(args);
        Ok(())
    }

    fn history_attention(&mut self, args: &HistoryAttentionArgs) -> Result<(), DeviceError> {
        self.run_history_attention(args);
        Ok(())
    }

    fn beam_attention(&mut self, args: &BeamAttentionArgs) -> Result<(), DeviceError> {
        self.run_beam_attention(args);
        Ok(())
    }

    fn gather_last(&mut self, lane: TokenLane, from: Tensor, to: Tensor) -> Result<(), DeviceError> {
        let rows = &self.lanes.tokens[lane.0 as usize].last_rows;
        let pairs = rows.iter().enumerate().map(|(index, &row)| (row as usize, index));
        self.store.copy("gather_last", pairs, from, to);
        Ok(())
    }

    fn store_slots(&mut self, lane: TokenLane, from: Tensor, to: Tensor) -> Result<(), DeviceError> {
        let slots = &self.lanes.tokens[lane.0 as usize].last_slots;
        let pairs = slots.iter().enumerate().map(|(index, &slot)| (index, slot as usize));
        self.store.copy("store_slots", pairs, from, to);
        Ok(())
    }

    fn load_slots(&mut self, lane: CohortLane, from: Tensor, to: Tensor) -> Result<(), DeviceError> {
        let requests = &self.lanes.cohorts[lane.0 as usize].requests;
        let pairs = requests.iter().enumerate().map(|(index, request)| (request.slot as usize, index));
        self.store.copy("load_slots", pairs, from, to);
        Ok(())
    }

    fn head(&mut self, args: &HeadArgs) -> Result<(), DeviceError> {
        let head = &self.weights.heads[args.head.0 as usize];
        let ranges = self.lanes.ranges(args.rows);
        let rows = end_of(&ranges);
        expect_shape("head", "x", args.x, rows, head.hidden());
        assert_eq!(args.x.dtype, self.facts.compute, "head: type of x");
        let columns = head.columns(args.target);
        assert!(args.logits.cols >= columns, "head: {} logit columns for {columns}", args.logits.cols);
        expect_shape("head", "logits", args.logits, rows, args.logits.cols);
        expect_shape("head", "lognorm", args.lognorm, rows, 1);
        let x = self.store.read("head", args.x);
        let mut logits = self.store.write("head", args.logits);
        let mut lognorm = self.store.write("head", args.lognorm);
        let run = HeadRun {
            isa: self.isa,
            pool: &self.pool,
            head,
            x: matrix(&x, args.x, 0),
            ranges: &ranges,
            target: args.target,
            normalizer: args.normalizer,
            logits: out(&mut logits, args.logits),
            lognorm: out(&mut lognorm, args.lognorm),
        };
        head::run(run, &mut self.head_scratch);
        Ok(())
    }

    fn expand_select(&mut self, args: &ExpandArgs) -> Result<(), DeviceError> {
        let tokens = &self.weights.heads[args.head.0 as usize].level_tokens[args.level];
        let catalog = &self.weights.catalogs[args.trie.0 as usize];
        let cohort = &mut self.lanes.cohorts[args.lane.0 as usize];
        let logits = self.store.read("expand_select", args.logits);
        let lognorm = args.lognorm.map(|lognorm| (self.store.read("expand_select", lognorm), lognorm));
        let step = Step {
            isa: self.isa,
            pool: &self.pool,
            catalog,
            masks: &self.lanes.masks,
            tokens,
            item: args.item,
            level: args.level,
            scores: Scores {
                logits: columns(&logits, args.logits),
                lognorm: lognorm.as_ref().map(|(buffer, lognorm)| columns(buffer, *lognorm)),
            },
        };
        expand::expand_select(&step, cohort, &mut self.candidates)
    }

    fn force_token(&mut self, args: &ForceArgs) -> Result<(), DeviceError> {
        let cohort = &mut self.lanes.cohorts[args.lane.0 as usize];
        match args.scored {
            None => expand::force_token(cohort, args.token, args.step, None),
            Some((logits, lognorm)) => {
                let buffers = (self.store.read("force_token", logits), self.store.read("force_token", lognorm));
                let scores =
                    Scores { logits: columns(&buffers.0, logits), lognorm: Some(columns(&buffers.1, lognorm)) };
                expand::force_token(cohort, args.token, args.step, Some(scores));
            }
        }
        Ok(())
    }

    fn mark(&mut self, _: Queue) -> Result<Mark, DeviceError> {
        Ok(self.marks.put(Instant::now()))
    }

    fn between(&mut self, from: Mark, to: Mark) -> Result<Option<Duration>, DeviceError> {
        let (from, to) = (self.marks.take(from), self.marks.take(to));
        Ok(Some(to - from))
    }

    fn collect_beams(&mut self, _: CohortLane) -> Result<(), DeviceError> {
        Ok(())
    }

    fn beams_are_here(&mut self, _: CohortLane) -> Result<bool, DeviceError> {
        Ok(true)
    }

    fn read_beams(&mut self, lane: CohortLane) -> Result<Vec<Vec<Beam>>, DeviceError> {
        Ok(self.lanes.cohorts[lane.0 as usize].beams())
    }

    fn read_buffer(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<f32>, DeviceError> {
        let buffer = self.store.read("read_buffer", tensor);
        Ok((0..rows).flat_map(|row| buffer.row(tensor, row)).collect())
    }

    fn write_buffer(&mut self, tensor: Tensor, values: &[f32]) -> Result<(), DeviceError> {
        let mut buffer = self.store.write("write_buffer", tensor);
        for (row, values) in values.chunks(tensor.cols).enumerate() {
            buffer.set_row(tensor, row, values);
        }
        Ok(())
    }
}
