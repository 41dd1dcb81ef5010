//! The CPU device: packed weights, vector kernels chosen at run time, and a plain scalar path that is the oracle for all.
//!
//! An operation runs to its end before it returns. Every operation checks its handles and shapes once and then works on
//! slices: a wrong shape is a bug in a model file and panics with the operation's name; what depends on data is an error.
//! An operation never reads a buffer that it writes, except where it adds to its output.

pub mod attention;
mod expand;
pub mod gemm;
mod head;
mod isa;
pub mod kv;
mod kv_rows;
mod lanes;
mod plain;
mod pool;
mod reduce;
mod rows;
mod select;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use half::bf16;

pub use isa::Isa;
pub use pool::Pool;

use self::expand::{Scores, Step, Trie};
use self::head::{HeadRun, HeadScratch, PackedHead};
use self::lanes::{CohortState, Lanes, TokenState, end_of};
use self::plain::{KvPages, MatrixMut, MatrixRef, OwnKv, PackedMatrix};
use self::rows::{Norm, Out};
use self::select::Candidates;
use self::store::{Buffer, Store, expect_shape};
use super::{
    Beam, BeamAttentionArgs, Cohort, CohortLane, Device, DeviceError, DeviceFacts, Dtype, Embedding, Epilogue,
    ExpandArgs, ForceArgs, Head, HeadArgs, HeadSource, HistoryAttentionArgs, KvPool, KvShape, Linear, LinearArgs,
    LinearSource, NormArgs, OwnShape, OwnSlab, RelativeBias, RelativeBiasSource, Rope, RopeSource, Rows, SlotState,
    Tensor, TokenBatch, TokenLane, TrieId, Vector, WriteKvArgs,
};
use crate::catalog::Catalog;
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
    candidates: Vec<Candidates>, // one a request of a cohort
}

/// What comes from an export or a catalogue.
#[derive(Default)]
struct Weights {
    linears: Vec<PackedLinear>,
    vectors: Vec<Vec<f32>>,
    embeddings: Vec<TensorView>,
    heads: Vec<PackedHead>,
    biases: Vec<RelativeBiasSource>,
    ropes: Vec<RopeSource>,
    tries: Vec<Trie>,
}

struct PackedLinear {
    matrix: PackedMatrix,
    rows: usize,
    cols: usize,
    gated: bool,
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
            candidates: Vec::new(),
        })
    }

    /// A trie given as levels of codes and first children.
    #[cfg(test)]
    fn trie_of_levels(&mut self, codes: Vec<Vec<u16>>, first_child: Vec<Vec<u32>>) -> TrieId {
        TrieId(add(&mut self.weights.tries, Trie::of_levels(codes, first_child)))
    }
}

/// Appends and returns the handle's number.
fn add<T>(list: &mut Vec<T>, item: T) -> u32 {
    list.push(item);
    list.len() as u32 - 1
}

fn matrix(buffer: &Buffer, tensor: Tensor) -> MatrixRef<'_> {
    match tensor.dtype {
        Dtype::F32 => MatrixRef::F32(buffer.elements(tensor), tensor.stride),
        Dtype::Bf16 => MatrixRef::Bf16(buffer.elements(tensor), tensor.stride),
    }
}

fn matrix_mut(buffer: &mut Buffer, tensor: Tensor) -> MatrixMut<'_> {
    match tensor.dtype {
        Dtype::F32 => MatrixMut::F32(buffer.elements_mut(tensor), tensor.stride),
        Dtype::Bf16 => MatrixMut::Bf16(buffer.elements_mut(tensor), tensor.stride),
    }
}

/// The tensor from row `first` on.
fn from_row(tensor: Tensor, first: usize) -> Tensor {
    Tensor { first_col: tensor.first_col + first * tensor.stride, ..tensor }
}

fn out_f32(buffer: &mut Buffer, tensor: Tensor) -> Out<'_, f32> {
    Out { data: buffer.elements_mut(tensor), stride: tensor.stride }
}

fn out_bf16(buffer: &mut Buffer, tensor: Tensor) -> Out<'_, bf16> {
    Out { data: buffer.elements_mut(tensor), stride: tensor.stride }
}

fn scores<'a>(logits: (&'a Buffer, Tensor), lognorm: (&'a Buffer, Tensor)) -> Scores<'a> {
    Scores {
        logits: logits.0.elements(logits.1),
        logits_stride: logits.1.stride,
        lognorm: lognorm.0.elements(lognorm.1),
        lognorm_stride: lognorm.1.stride,
    }
}

impl Weights {
    fn bytes(&self) -> usize {
        let linears: usize = self.linears.iter().map(|linear| linear.matrix.bytes()).sum();
        let heads: usize = self.heads.iter().map(PackedHead::bytes).sum();
        let vectors: usize = self.vectors.iter().map(|vector| vector.len() * 4).sum();
        let tables: usize = self.biases.iter().map(|bias| bias.by_distance.len() * 4).sum::<usize>()
            + self.ropes.iter().map(|rope| (rope.cos.len() + rope.sin.len()) * 4).sum::<usize>();
        linears + heads + vectors + tables
    }
}

impl Device for CpuDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn buffer(&mut self, rows: usize, cols: usize, dtype: Dtype) -> Result<Tensor, DeviceError> {
        self.store.plan(rows, cols, dtype)
    }

    fn linear_weight(&mut self, source: &LinearSource) -> Result<Linear, DeviceError> {
        let first = source.parts.first().expect("a linear weight has parts");
        let cols = first.cols();
        let bad = |part: &TensorView, reason| DeviceError::BadWeight { name: part.name().to_owned(), reason };
        for part in &source.parts {
            if part.shape().len() != 2 || part.cols() != cols {
                return Err(bad(part, format!("{:?} is no [out, {cols}] matrix", part.shape())));
            }
        }
        if source.gated && (source.parts.len() != 2 || source.parts[1].rows() != first.rows()) {
            return Err(bad(first, "a gate comes with an up projection of its own shape".to_owned()));
        }
        let rows = source.parts.iter().map(TensorView::rows).sum();
        let read = |mut row: usize, out: &mut [f32]| {
            for part in &source.parts {
                if row < part.rows() {
                    return part.read_row(row, out);
                }
                row -= part.rows();
            }
        };
        let matrix = PackedMatrix::pack(&self.pool, self.isa, self.facts.compute, rows, cols, source.gated, read);
        Ok(Linear(add(&mut self.weights.linears, PackedLinear { matrix, rows, cols, gated: source.gated })))
    }

    fn vector(&mut self, values: &TensorView, scale: f32) -> Result<Vector, DeviceError> {
        if values.shape().len() != 1 {
            let reason = format!("{:?} is no vector", values.shape());
            return Err(DeviceError::BadWeight { name: values.name().to_owned(), reason });
        }
        let values = values.to_f32().into_iter().map(|value| value * scale).collect();
        Ok(Vector(add(&mut self.weights.vectors, values)))
    }

    fn embedding(&mut self, matrix: &TensorView) -> Result<Embedding, DeviceError> {
        if matrix.shape().len() != 2 {
            let reason = format!("{:?} is no [vocabulary, hidden] matrix", matrix.shape());
            return Err(DeviceError::BadWeight { name: matrix.name().to_owned(), reason });
        }
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
        Ok(TrieId(add(&mut self.weights.tries, Trie::of(Arc::clone(catalog)))))
    }

    fn plan_slots(&mut self, slots: usize) -> Result<(), DeviceError> {
        self.lanes.slots.resize_with(slots, SlotState::default);
        Ok(())
    }

    fn token_lane(&mut self, rows: usize) -> Result<TokenLane, DeviceError> {
        Ok(TokenLane(add(&mut self.lanes.tokens, TokenState::plan(rows))))
    }

    fn cohort_lane(&mut self, rows: usize, steps: usize) -> Result<CohortLane, DeviceError> {
        Ok(CohortLane(add(&mut self.lanes.cohorts, CohortState::plan(rows, steps))))
    }

    fn planned_bytes(&self) -> (usize, usize, usize) {
        let kv = self.kv_pools.iter().map(KvPages::bytes).sum::<usize>();
        let own = self.own_slabs.iter().map(OwnKv::bytes).sum::<usize>();
        (self.weights.bytes(), kv + own, self.store.bytes() + self.lanes.bytes())
    }

    fn write_slot(&mut self, slot: u32, state: &SlotState) -> Result<(), DeviceError> {
        self.lanes.write_slot(slot, state)
    }

    fn write_tokens(&mut self, lane: TokenLane, batch: &TokenBatch) -> Result<(), DeviceError> {
        self.lanes.tokens[lane.0 as usize].write(batch, self.lanes.slots.len())
    }

    fn write_cohort(&mut self, lane: CohortLane, cohort: &Cohort) -> Result<(), DeviceError> {
        self.lanes.cohorts[lane.0 as usize].write(cohort, self.lanes.slots.len())
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
        rows::embed(&self.pool, &ranges, table, tokens, out_f32(&mut buffer, out));
        Ok(())
    }

    fn norm(&mut self, args: &NormArgs) -> Result<(), DeviceError> {
        let weight = &self.weights.vectors[args.weight.0 as usize];
        let ranges = self.lanes.ranges(args.rows);
        expect_shape("norm", "x", args.x, end_of(&ranges), weight.len());
        expect_shape("norm", "out", args.out, end_of(&ranges), weight.len());
        let x = self.store.read("norm", args.x);
        let mut out = self.store.write("norm", args.out);
        let norm = Norm { x: x.elements(args.x), stride: args.x.stride, weight, eps: args.eps };
        match args.out.dtype {
            Dtype::F32 => rows::norm(self.isa, &self.pool, &ranges, norm, out_f32(&mut out, args.out)),
            Dtype::Bf16 => rows::norm(self.isa, &self.pool, &ranges, norm, out_bf16(&mut out, args.out)),
        }
        Ok(())
    }

    fn linear(&mut self, args: &LinearArgs) -> Result<(), DeviceError> {
        let weight = &self.weights.linears[args.weight.0 as usize];
        let ranges = self.lanes.ranges(args.rows);
        let is_gate = matches!(args.epilogue, Epilogue::Gate(_));
        assert_eq!(is_gate, weight.gated, "linear: {:?} with a weight that is gated: {}", args.epilogue, weight.gated);
        let out_cols = if is_gate { weight.rows / 2 } else { weight.rows };
        expect_shape("linear", "x", args.x, end_of(&ranges), weight.cols);
        expect_shape("linear", "out", args.out, end_of(&ranges), out_cols);
        assert_eq!(args.x.dtype, self.facts.compute, "linear: type of x");
        assert!(
            args.epilogue != Epilogue::Residual || args.out.dtype == Dtype::F32,
            "linear: the residual stream is f32"
        );
        let x = self.store.read("linear", args.x);
        let mut out = self.store.write("linear", args.out);
        for range in ranges.iter() {
            let x = matrix(&x, from_row(args.x, range.start));
            let out = matrix_mut(&mut out, from_row(args.out, range.start));
            plain::gemm(&self.pool, self.isa, x, range.len(), &weight.matrix, out, args.epilogue);
        }
        Ok(())
    }

    fn write_kv(&mut self, args: &WriteKvArgs) -> Result<(), DeviceError> {
        kv_rows::write_kv(self, args)
    }

    fn history_attention(&mut self, args: &HistoryAttentionArgs) -> Result<(), DeviceError> {
        let (lane, last) = match args.rows {
            Rows::Tokens(lane) => (lane, false),
            Rows::Last(lane) => (lane, true),
            other => panic!("history_attention: {other:?} have no positions"),
        };
        let token_rows = plain::token_rows(&self.lanes.tokens[lane.0 as usize], last);
        expect_shape("history_attention", "query", args.query, token_rows.0.len(), args.out.cols);
        expect_shape("history_attention", "out", args.out, token_rows.0.len(), args.query.cols);
        let query = self.store.read("history_attention", args.query);
        let mut out = self.store.write("history_attention", args.out);
        plain::history_attention(
            &self.pool,
            token_rows,
            &self.lanes.slots,
            matrix(&query, args.query),
            args.query.cols,
            (&self.kv_pools[args.pool.0 as usize], args.layer, args.segment),
            args.mask,
            args.bias.map(|bias| &self.weights.biases[bias.0 as usize]),
            matrix_mut(&mut out, args.out),
        );
        Ok(())
    }

    fn beam_attention(&mut self, args: &BeamAttentionArgs) -> Result<(), DeviceError> {
        let cohort = &self.lanes.cohorts[args.lane.0 as usize];
        let rows = end_of(&cohort.live_ranges);
        expect_shape("beam_attention", "query", args.query, rows, args.out.cols);
        expect_shape("beam_attention", "out", args.out, rows, args.query.cols);
        let query = self.store.read("beam_attention", args.query);
        let mut out = self.store.write("beam_attention", args.out);
        plain::beam_attention(
            &self.pool,
            cohort,
            &self.lanes.slots,
            matrix(&query, args.query),
            args.query.cols,
            args.shared.map(|keys| (&self.kv_pools[keys.pool.0 as usize], keys.layer, keys.segment)),
            args.own.map(|own| (&self.own_slabs[own.slab.0 as usize], own.layer, own.step)),
            args.bias.map(|bias| &self.weights.biases[bias.0 as usize]),
            matrix_mut(&mut out, args.out),
        );
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
            x: matrix(&x, args.x),
            ranges: &ranges,
            target: args.target,
            normalizer: args.normalizer,
            logits: out_f32(&mut logits, args.logits),
            lognorm: out_f32(&mut lognorm, args.lognorm),
        };
        head::run(run, &mut self.head_scratch);
        Ok(())
    }

    fn expand_select(&mut self, args: &ExpandArgs) -> Result<(), DeviceError> {
        let tokens = &self.weights.heads[args.head.0 as usize].level_tokens[args.level];
        let trie = &self.weights.tries[args.trie.0 as usize];
        let cohort = &mut self.lanes.cohorts[args.lane.0 as usize];
        let (logits, lognorm) =
            (self.store.read("expand_select", args.logits), self.store.read("expand_select", args.lognorm));
        let step = Step {
            isa: self.isa,
            pool: &self.pool,
            trie,
            tokens,
            level: args.level,
            scores: scores((&logits, args.logits), (&lognorm, args.lognorm)),
        };
        expand::expand_select(&step, cohort, &mut self.candidates)
    }

    fn force_token(&mut self, args: &ForceArgs) -> Result<(), DeviceError> {
        let cohort = &mut self.lanes.cohorts[args.lane.0 as usize];
        match args.scored {
            None => expand::force_token(cohort, args.token, args.step, None),
            Some((logits, lognorm)) => {
                let buffers = (self.store.read("force_token", logits), self.store.read("force_token", lognorm));
                let scores = scores((&buffers.0, logits), (&buffers.1, lognorm));
                expand::force_token(cohort, args.token, args.step, Some(scores));
            }
        }
        Ok(())
    }

    fn read_beams(&mut self, lane: CohortLane) -> Result<Vec<Vec<Beam>>, DeviceError> {
        Ok(self.lanes.cohorts[lane.0 as usize].beams())
    }
}
