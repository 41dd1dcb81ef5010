//! A device that keeps what passes through another: every operation over prompt rows with what it read and what came out.
//!
//! Families are written once against [`Device`], so this sees every module of every family without knowing any. It waits after
//! each operation and records nothing for replay: it is for one prompt, never for serving. Beam rows pass unrecorded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::matrix::Matrix;
use crate::catalog::{Catalog, NodeMask};
use crate::device::{
    Beam, BeamAttentionArgs, Cohort, CohortLane, CohortPlan, Device, DeviceError, DeviceFacts, Dtype, Embedding,
    Epilogue, ExpandArgs, Experts, ExpertsArgs, ExpertsPlan, ExpertsSource, ExpertsWork, ForceArgs, Head, HeadArgs,
    HeadSource, HistoryAttentionArgs, KvPool, KvShape, KvTarget, Linear, LinearArgs, LinearSource, Mark, Mask,
    NormArgs, OwnShape, OwnSlab, Queue, RelativeBias, RelativeBiasSource, Rope, RopeSource, Rows, SlotPlan, SlotState,
    Target, Tensor, TokenBatch, TokenLane, TrieId, Vector, WriteKvArgs,
};
use crate::export::TensorView;

/// One operation.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Embed {
        table: TensorView,
        tokens: Vec<u32>,
        out: Matrix,
    },
    Norm {
        weight: TensorView,
        eps: f32,
        x: Matrix,
        out: Matrix,
    },
    Linear {
        source: LinearSource,
        epilogue: Epilogue,
        x: Matrix,
        out: Matrix,
    },
    Attention(Box<Attended>),
    /// What a router read; its logits stay on the device.
    Experts {
        router: TensorView,
        x: Matrix,
    },
    Logits {
        level: usize,
        x: Matrix,
        logits: Matrix,
        lognorm: f32,
    },
}

/// An attention over a paged segment, with what is behind the cached keys.
#[derive(Clone, Debug)]
pub(super) struct Attended {
    /// Before norm and rotation, `[rows, heads * head_dim]`; as attention read them where they were never prepared.
    pub query: Matrix,
    pub key: Matrix,
    pub value: Matrix,
    pub head_dim: usize,
    pub head_norm: Option<HeadNormWeights>,
    pub rope: Option<Arc<RopeSource>>,
    pub scale: f32,
    pub mask: Mask,
    pub bias: Option<Arc<RelativeBiasSource>>,
}

/// Weights of the norms of queries and keys.
#[derive(Clone, Debug)]
pub(super) struct HeadNormWeights {
    pub query: TensorView,
    pub key: TensorView,
    pub eps: f32,
}

/// What [`Device::write_kv`] read for a segment's layer.
struct Written {
    query: Option<Matrix>,
    key: Matrix,
    value: Matrix,
    head_norm: Option<HeadNormWeights>,
    rope: Option<Arc<RopeSource>>,
    scale: f32,
}

/// What was recorded so far; shared with whoever runs the prompt.
pub(super) type Trace = Arc<Mutex<Vec<Event>>>;

/// See the module's documentation.
pub(super) struct Tracer {
    inner: Box<dyn Device>,
    trace: Trace,
    linears: HashMap<Linear, LinearSource>,
    /// The weight, and what was multiplied in.
    vectors: HashMap<Vector, (TensorView, f32)>,
    /// What was multiplied in by the norm that a buffer was last written by.
    scales: HashMap<u32, f32>,
    tables: HashMap<Embedding, TensorView>,
    /// The router.
    experts: HashMap<Experts, TensorView>,
    biases: HashMap<RelativeBias, Arc<RelativeBiasSource>>,
    ropes: HashMap<Rope, Arc<RopeSource>>,
    head_dims: HashMap<KvPool, usize>,
    batches: HashMap<TokenLane, TokenBatch>,
    requests: HashMap<CohortLane, usize>,
    written: HashMap<(KvPool, usize), Written>,
}

impl Tracer {
    /// Wraps a device on which nothing has been planned yet.
    pub fn new(inner: Box<dyn Device>) -> (Tracer, Trace) {
        let trace = Trace::default();
        let tracer = Tracer {
            inner,
            trace: Arc::clone(&trace),
            linears: HashMap::new(),
            vectors: HashMap::new(),
            scales: HashMap::new(),
            tables: HashMap::new(),
            experts: HashMap::new(),
            biases: HashMap::new(),
            ropes: HashMap::new(),
            head_dims: HashMap::new(),
            batches: HashMap::new(),
            requests: HashMap::new(),
            written: HashMap::new(),
        };
        (tracer, trace)
    }

    /// Live rows of what is recorded; `None` for beams.
    fn live(&self, rows: Rows) -> Option<usize> {
        match rows {
            Rows::Tokens(lane) => self.batches.get(&lane).map(|batch| batch.tokens.len()),
            Rows::Last(lane) => {
                self.batches.get(&lane).map(|batch| batch.spans.iter().filter(|span| span.last).count())
            }
            Rows::Requests(lane) => self.requests.get(&lane).copied(),
            Rows::Beams(_) => None,
        }
    }

    fn read(&mut self, tensor: Tensor, rows: usize) -> Result<Matrix, DeviceError> {
        Ok(Matrix::new(tensor.cols, self.inner.read_buffer(tensor, rows)?))
    }

    fn keep(&self, event: Event) {
        // Poisoned only if a reader panicked, and then nobody is left to read.
        if let Ok(mut events) = self.trace.lock() {
            events.push(event);
        }
    }

    fn note_written(&mut self, args: &WriteKvArgs, rows: usize) -> Result<(), DeviceError> {
        let KvTarget::Pages { pool, layer, .. } = args.target else { return Ok(()) };
        let written = Written {
            query: args.query.map(|query| self.read(query, rows)).transpose()?,
            key: self.read(args.key, rows)?,
            value: self.read(args.value, rows)?,
            head_norm: args.head_norm.map(|norm| HeadNormWeights {
                query: self.vectors[&norm.query].0.clone(),
                key: self.vectors[&norm.key].0.clone(),
                eps: norm.eps,
            }),
            rope: args.rope.and_then(|rope| self.ropes.get(&rope).cloned()),
            scale: args.query_scale,
        };
        self.written.insert((pool, layer), written);
        Ok(())
    }

    fn note_attended(&mut self, args: &HistoryAttentionArgs, rows: usize) -> Result<(), DeviceError> {
        let query = self.read(args.query, rows)?;
        let Some(written) = self.written.get(&(args.pool, args.layer)) else { return Ok(()) };
        self.keep(Event::Attention(Box::new(Attended {
            query: written.query.clone().unwrap_or(query),
            key: written.key.clone(),
            value: written.value.clone(),
            head_dim: self.head_dims[&args.pool],
            head_norm: written.head_norm.clone(),
            rope: written.rope.clone(),
            scale: written.scale,
            mask: args.mask,
            bias: args.bias.and_then(|bias| self.biases.get(&bias).cloned()),
        })));
        Ok(())
    }
}

impl Device for Tracer {
    fn facts(&self) -> &DeviceFacts {
        self.inner.facts()
    }

    fn buffer(&mut self, rows: usize, cols: usize, dtype: Dtype) -> Result<Tensor, DeviceError> {
        self.inner.buffer(rows, cols, dtype)
    }

    fn linear_weight(&mut self, source: &LinearSource) -> Result<Linear, DeviceError> {
        let linear = self.inner.linear_weight(source)?;
        self.linears.insert(linear, source.clone());
        Ok(linear)
    }

    fn vector(&mut self, values: &TensorView, scale: f32) -> Result<Vector, DeviceError> {
        let vector = self.inner.vector(values, scale)?;
        self.vectors.insert(vector, (values.clone(), scale));
        Ok(vector)
    }

    fn embedding(&mut self, matrix: &TensorView) -> Result<Embedding, DeviceError> {
        let table = self.inner.embedding(matrix)?;
        self.tables.insert(table, matrix.clone());
        Ok(table)
    }

    fn head_weight(&mut self, source: &HeadSource) -> Result<Head, DeviceError> {
        self.inner.head_weight(source)
    }

    fn relative_bias(&mut self, source: &RelativeBiasSource) -> Result<RelativeBias, DeviceError> {
        let bias = self.inner.relative_bias(source)?;
        self.biases.insert(bias, Arc::new(source.clone()));
        Ok(bias)
    }

    fn experts_weight(&mut self, source: &ExpertsSource) -> Result<Experts, DeviceError> {
        let experts = self.inner.experts_weight(source)?;
        self.experts.insert(experts, source.router.clone());
        Ok(experts)
    }

    fn experts_work(&mut self, plan: ExpertsPlan) -> Result<ExpertsWork, DeviceError> {
        self.inner.experts_work(plan)
    }

    fn rope(&mut self, source: &RopeSource) -> Result<Rope, DeviceError> {
        let rope = self.inner.rope(source)?;
        self.ropes.insert(rope, Arc::new(source.clone()));
        Ok(rope)
    }

    fn kv_pool(&mut self, shape: KvShape) -> Result<KvPool, DeviceError> {
        let pool = self.inner.kv_pool(shape)?;
        self.head_dims.insert(pool, shape.head_dim);
        Ok(pool)
    }

    fn own_slab(&mut self, shape: OwnShape) -> Result<OwnSlab, DeviceError> {
        self.inner.own_slab(shape)
    }

    fn trie(&mut self, catalog: &Arc<Catalog>) -> Result<TrieId, DeviceError> {
        self.inner.trie(catalog)
    }

    fn plan_masks(&mut self, trie: TrieId, slots: usize) -> Result<(), DeviceError> {
        self.inner.plan_masks(trie, slots)
    }

    fn plan_slots(&mut self, plan: SlotPlan) -> Result<(), DeviceError> {
        self.inner.plan_slots(plan)
    }

    fn token_lane(&mut self, rows: usize, queue: Queue) -> Result<TokenLane, DeviceError> {
        self.inner.token_lane(rows, queue)
    }

    fn plan_dense(&mut self, lane: TokenLane, cols: usize) -> Result<(), DeviceError> {
        self.inner.plan_dense(lane, cols)
    }

    fn cohort_lane(&mut self, plan: CohortPlan) -> Result<CohortLane, DeviceError> {
        self.inner.cohort_lane(plan)
    }

    fn planned_bytes(&self) -> (usize, usize, usize) {
        self.inner.planned_bytes()
    }

    fn write_slot(&mut self, slot: u32, state: &SlotState) -> Result<(), DeviceError> {
        self.inner.write_slot(slot, state)
    }

    fn write_tokens(&mut self, lane: TokenLane, batch: &TokenBatch) -> Result<(), DeviceError> {
        self.batches.insert(lane, batch.clone());
        self.inner.write_tokens(lane, batch)
    }

    fn write_dense(&mut self, lane: TokenLane, values: &[f32]) -> Result<(), DeviceError> {
        self.inner.write_dense(lane, values)
    }

    fn write_mask(&mut self, slot: u32, mask: &Arc<NodeMask>) -> Result<(), DeviceError> {
        self.inner.write_mask(slot, mask)
    }

    fn write_cohort(&mut self, lane: CohortLane, cohort: &Cohort) -> Result<(), DeviceError> {
        self.requests.insert(lane, cohort.requests.len());
        self.inner.write_cohort(lane, cohort)
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
        self.inner.embed(rows, table, out)?;
        if let (Rows::Tokens(lane), Some(live)) = (rows, self.live(rows)) {
            let tokens = self.batches[&lane].tokens.clone();
            let event = Event::Embed { table: self.tables[&table].clone(), tokens, out: self.read(out, live)? };
            self.keep(event);
        }
        Ok(())
    }

    fn embed_dense(&mut self, lane: TokenLane, out: Tensor) -> Result<(), DeviceError> {
        self.inner.embed_dense(lane, out)
    }

    fn add_positions(&mut self, rows: Rows, table: Embedding, step: usize, out: Tensor) -> Result<(), DeviceError> {
        self.inner.add_positions(rows, table, step, out)
    }

    fn norm(&mut self, args: &NormArgs) -> Result<(), DeviceError> {
        self.inner.norm(args)?;
        if let Some(live) = self.live(args.rows) {
            let (weight, scale) = self.vectors[&args.weight].clone();
            let (x, out) = (self.read(args.x, live)?, self.read(args.out, live)?);
            self.scales.insert(args.out.buffer, scale);
            self.keep(Event::Norm { weight, eps: args.eps, x, out: out.map(|value| value / scale) });
        }
        Ok(())
    }

    fn linear(&mut self, args: &LinearArgs) -> Result<(), DeviceError> {
        let Some(live) = self.live(args.rows) else { return self.inner.linear(args) };
        let residual = args.epilogue == Epilogue::Residual;
        let before = if residual { Some(self.read(args.out, live)?) } else { None };
        // A scale that a norm's weight carries was multiplied in behind the product where it comes from.
        let scale =
            self.scales.get(&args.x.buffer).copied().filter(|_| args.epilogue == Epilogue::Store).unwrap_or(1.0);
        let x = self.read(args.x, live)?.map(|value| value / scale);
        self.inner.linear(args)?;
        let after = self.read(args.out, live)?.map(|value| value / scale);
        let out = before.map_or_else(|| after.clone(), |before| after.minus(&before));
        let source = self.linears[&args.weight].clone();
        self.keep(Event::Linear { source, epilogue: args.epilogue, x, out });
        Ok(())
    }

    fn experts(&mut self, args: &ExpertsArgs) -> Result<(), DeviceError> {
        let Some(live) = self.live(args.rows) else { return self.inner.experts(args) };
        let x = self.read(args.x, live)?;
        self.inner.experts(args)?;
        let router = self.experts[&args.experts].clone();
        self.keep(Event::Experts { router, x });
        Ok(())
    }

    fn write_kv(&mut self, args: &WriteKvArgs) -> Result<(), DeviceError> {
        if let Some(live) = self.live(args.rows) {
            self.note_written(args, live)?;
        }
        self.inner.write_kv(args)
    }

    fn history_attention(&mut self, args: &HistoryAttentionArgs) -> Result<(), DeviceError> {
        if let Some(live) = self.live(args.rows) {
            self.note_attended(args, live)?;
        }
        self.inner.history_attention(args)
    }

    fn beam_attention(&mut self, args: &BeamAttentionArgs) -> Result<(), DeviceError> {
        self.inner.beam_attention(args)
    }

    fn gather_last(&mut self, lane: TokenLane, from: Tensor, to: Tensor) -> Result<(), DeviceError> {
        self.inner.gather_last(lane, from, to)
    }

    fn store_slots(&mut self, lane: TokenLane, from: Tensor, to: Tensor) -> Result<(), DeviceError> {
        self.inner.store_slots(lane, from, to)
    }

    fn load_slots(&mut self, lane: CohortLane, from: Tensor, to: Tensor) -> Result<(), DeviceError> {
        self.inner.load_slots(lane, from, to)
    }

    fn head(&mut self, args: &HeadArgs) -> Result<(), DeviceError> {
        self.inner.head(args)?;
        if let (Target::Level(level), Some(live)) = (args.target, self.live(args.rows)) {
            let (x, logits) = (self.read(args.x, live)?, self.read(args.logits, live)?);
            let lognorm = self.read(args.lognorm, live)?.values[0];
            self.keep(Event::Logits { level, x, logits, lognorm });
        }
        Ok(())
    }

    fn expand_select(&mut self, args: &ExpandArgs) -> Result<(), DeviceError> {
        self.inner.expand_select(args)
    }

    fn force_token(&mut self, args: &ForceArgs) -> Result<(), DeviceError> {
        self.inner.force_token(args)
    }

    fn mark(&mut self, queue: Queue) -> Result<Mark, DeviceError> {
        self.inner.mark(queue)
    }

    fn between(&mut self, from: Mark, to: Mark) -> Result<Option<Duration>, DeviceError> {
        self.inner.between(from, to)
    }

    fn collect_beams(&mut self, lane: CohortLane) -> Result<(), DeviceError> {
        self.inner.collect_beams(lane)
    }

    fn beams_are_here(&mut self, lane: CohortLane) -> Result<bool, DeviceError> {
        self.inner.beams_are_here(lane)
    }

    fn read_beams(&mut self, lane: CohortLane) -> Result<Vec<Vec<Beam>>, DeviceError> {
        self.inner.read_beams(lane)
    }

    fn read_buffer(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<f32>, DeviceError> {
        self.inner.read_buffer(tensor, rows)
    }

    fn write_buffer(&mut self, tensor: Tensor, values: &[f32]) -> Result<(), DeviceError> {
        self.inner.write_buffer(tensor, values)
    }
}
