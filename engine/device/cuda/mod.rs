//! The CUDA device: the same operations as the CPU's, as kernels on one card.
//!
//! Operations only enqueue, on one of two queues; each is one or a few kernels of `kernels/`, launched by a file of `ops`. A
//! launch's parameters hold addresses and shapes that never change; what varies by request is read on the card from the
//! lanes, so that a step can be recorded once and replayed. The host waits in [`Device::read_beams`], and where a staging
//! buffer's last copy has not run yet.
//!
//! A CUDA error ([`DeviceError::Lost`]) breaks the context for good: whoever owns the device drops it and opens another.

mod beams;
mod cublaslt;
mod dense;
mod driver;
mod graphs;
mod image_cache;
pub mod images;
mod kv;
mod lanes;
pub mod load;
mod masks;
mod memory;
pub mod nvrtc;
mod ops;
mod pack;
mod slots;
mod staging;
mod stopwatch;
mod weights;

pub use cublaslt::{Cublaslt, is_present as has_cublaslt};
pub use stopwatch::{Enqueue, Timing};

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{DriverError, sys};
use half::bf16;
use sidereal_ffi::params::KernelParams;

use self::cublaslt::Products;
use self::driver::{Driver, Kernel, Marker, Pinned, Timestamp, failed};
use self::graphs::{Graphs, Key};
use self::kv::{Pool, Slab};
use self::lanes::{Cohorts, Tokens};
use self::masks::Masks;
use self::memory::{Memory, Purpose};
use self::slots::Slots;
use self::weights::Weights;
use super::{
    Beam, BeamAttentionArgs, Cohort, CohortLane, CohortPlan, Device, DeviceError, DeviceFacts, Dtype, Embedding,
    ExpandArgs, ForceArgs, Head, HeadArgs, HeadSource, HistoryAttentionArgs, KvPool, KvShape, Linear, LinearArgs,
    LinearSource, Mark, Marks, NormArgs, OwnShape, OwnSlab, Queue, RelativeBias, RelativeBiasSource, Rope, RopeSource,
    Rows, SlotPlan, SlotState, Tensor, TokenBatch, TokenLane, TrieId, Vector, WriteKvArgs,
};
use crate::catalog::{Catalog, NodeMask};
use crate::export::TensorView;

/// A planned buffer.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    address: u64, // [rows, stride]
    rows: usize,
    stride: usize,
    dtype: Dtype,
}

/// The rows that an operation covers.
#[derive(Clone, Copy, Debug)]
struct RowSet {
    /// Address of the `u32` that holds how many there are.
    live: u64,
    /// Rows to launch for: a bucket that holds them.
    bucket: usize,
    queue: Queue,
}

/// Where a cohort's results land on the host.
struct Results {
    words: Pinned, // node [rows], score [rows], live [requests], then what `Cohorts::wants`
    arrived: Marker,
    /// Their copy is enqueued.
    collected: bool,
}

/// The device. Fields are dropped in order: the memory plan waits for the queues before anything they use goes.
pub struct CudaDevice {
    memory: Memory,
    products: Option<Products>,
    graphs: Graphs,
    facts: DeviceFacts,
    buffers: Vec<Buffer>,
    weights: Weights,
    pools: Vec<Pool>,
    slabs: Vec<Slab>,
    slots: Option<Slots>,
    masks: Option<Masks>,
    tokens: Vec<Tokens>,
    cohorts: Vec<Cohorts>,
    results: Vec<Results>, // [cohort lanes]
    marks: Marks<Timestamp>,
    /// Timestamps that nobody asks any more.
    used_stamps: Vec<Timestamp>,
    scratch: ops::Scratch,
    /// (address, bytes) of what a stopwatch zeroes.
    ballast: Option<(u64, usize)>,
    /// End of the prefill, or of the search, that the other queue has to follow.
    prefilled: Marker,
    searched: Marker,
    driver: Arc<Driver>,
}

/// Appends and returns the handle's number.
fn add<T>(list: &mut Vec<T>, item: T) -> u32 {
    list.push(item);
    list.len() as u32 - 1
}

/// Cards that a driver on this machine offers.
///
/// # Errors
/// [`DeviceError::Unavailable`] with the reason when there is no driver or no card.
pub fn cards() -> Result<u32, DeviceError> {
    driver::count()
}

impl CudaDevice {
    /// Opens card `ordinal` and loads the kernels for `compute`. `cache` is where kernels that have to be compiled are kept.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] when there is no such card, no kernel image that its driver takes, or no cuBLASLt where
    /// that must be there.
    pub fn open(ordinal: u32, compute: Dtype, cache: &Path, cublaslt: Cublaslt) -> Result<CudaDevice, DeviceError> {
        let mut driver = Driver::open(ordinal)?;
        ops::load_kernels(&mut driver, compute, cache)?;
        let card = driver.facts();
        let name = format!("cuda:{ordinal}/sm_{}", card.card.capability);
        tracing::info!(
            card = card.name,
            driver = card.card.driver,
            multiprocessors = card.multiprocessors,
            "card opened"
        );
        let driver = Arc::new(driver);
        let marker = || driver.marker().map_err(|error| failed("start", error));
        let mut memory = Memory::new(Arc::clone(&driver));
        let products = Products::open(cublaslt, compute, (&driver, &mut memory))?;
        Ok(CudaDevice {
            memory,
            products,
            graphs: Graphs::default(),
            facts: DeviceFacts { name, compute, threads: 1 },
            buffers: Vec::new(),
            weights: Weights::default(),
            pools: Vec::new(),
            slabs: Vec::new(),
            slots: None,
            masks: None,
            tokens: Vec::new(),
            cohorts: Vec::new(),
            results: Vec::new(),
            marks: Marks::default(),
            used_stamps: Vec::new(),
            scratch: ops::Scratch::default(),
            ballast: None,
            prefilled: marker()?,
            searched: marker()?,
            driver,
        })
    }

    /// How many steps are recorded.
    pub fn recorded_steps(&self) -> usize {
        self.graphs.len()
    }

    /// How many linear weights cuBLASLt multiplies by, of how many.
    pub fn cublaslt_weights(&self) -> (usize, usize) {
        (self.weights.linears.iter().filter(|weight| weight.is_plain()).count(), self.weights.linears.len())
    }

    fn slots(&self) -> &Slots {
        self.slots.as_ref().expect("plan_slots comes before lanes and writes")
    }

    fn token_lane_of(&self, lane: TokenLane) -> &Tokens {
        &self.tokens[lane.0 as usize]
    }

    fn cohort_lane_of(&self, lane: CohortLane) -> &Cohorts {
        &self.cohorts[lane.0 as usize]
    }

    /// What an operation over `rows` is launched for.
    fn row_set(&self, rows: Rows) -> RowSet {
        match rows {
            Rows::Tokens(lane) => {
                let lane = self.token_lane_of(lane);
                RowSet { live: lane.view().rows, bucket: lane.extent.rows, queue: lane.queue }
            }
            Rows::Last(lane) => {
                let lane = self.token_lane_of(lane);
                RowSet { live: lane.view().lasts, bucket: lane.extent.lasts, queue: lane.queue }
            }
            Rows::Requests(lane) => {
                let lane = self.cohort_lane_of(lane);
                RowSet { live: lane.view().requests_count, bucket: lane.extent.requests, queue: Queue::Search }
            }
            Rows::Beams(lane) => {
                let lane = self.cohort_lane_of(lane);
                RowSet { live: lane.view().rows, bucket: lane.extent.rows, queue: Queue::Search }
            }
        }
    }

    /// Address of a view's first element.
    ///
    /// # Panics
    /// If the view is not one of a buffer, or has fewer than `rows` rows or other than `cols` columns: a bug in a model file.
    fn place(&self, op: &str, tensor: Tensor, rows: usize, cols: usize) -> u64 {
        let buffer = self.buffers.get(tensor.buffer as usize).unwrap_or_else(|| panic!("{op}: no buffer {tensor:?}"));
        assert!(
            tensor.dtype == buffer.dtype
                && tensor.stride == buffer.stride
                && tensor.rows <= buffer.rows
                && tensor.first_col + tensor.cols <= buffer.stride,
            "{op}: {tensor:?} is no view of {buffer:?}"
        );
        assert!(tensor.rows >= rows && tensor.cols == cols, "{op}: {tensor:?} for {rows} rows of {cols} columns");
        buffer.address + (tensor.first_col * tensor.dtype.bytes()) as u64
    }

    fn launch<P: KernelParams>(&self, kernel: &Kernel, shape: driver::Shape, parameters: P) -> Result<(), DeviceError> {
        self.driver.launch(kernel, shape, parameters)
    }
}

impl Device for CudaDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn buffer(&mut self, rows: usize, cols: usize, dtype: Dtype) -> Result<Tensor, DeviceError> {
        let stride = cols.next_multiple_of(64);
        let padded = if self.products.is_some() { cublaslt::padded(rows) } else { rows };
        let what = format!("buffer [{rows}, {cols}] {}", dtype.name());
        let bytes = padded.checked_mul(stride).and_then(|elements| elements.checked_mul(dtype.bytes()));
        let Some(bytes) = bytes else {
            let reason = "more than the address space".to_owned();
            return Err(DeviceError::OutOfMemory { what, bytes: usize::MAX, reason });
        };
        let address = self.memory.zeroed(Purpose::Workspace, what, bytes)?;
        let buffer = add(&mut self.buffers, Buffer { address, rows, stride, dtype });
        Ok(Tensor { buffer, rows, first_col: 0, cols, stride, dtype })
    }

    fn linear_weight(&mut self, source: &LinearSource) -> Result<Linear, DeviceError> {
        let weight = self.upload_linear(source)?;
        let linear = Linear(add(&mut self.weights.linears, weight));
        self.plan_sums()?;
        Ok(linear)
    }

    fn vector(&mut self, values: &TensorView, scale: f32) -> Result<Vector, DeviceError> {
        let vector = weights::vector(&mut self.memory, values, scale)?;
        Ok(Vector(add(&mut self.weights.vectors, vector)))
    }

    fn embedding(&mut self, matrix: &TensorView) -> Result<Embedding, DeviceError> {
        let table = weights::table(&mut self.memory, matrix)?;
        Ok(Embedding(add(&mut self.weights.embeddings, table)))
    }

    fn head_weight(&mut self, source: &HeadSource) -> Result<Head, DeviceError> {
        let packed = ops::head::pack(&mut self.memory, self.facts.compute, source)?;
        let head = Head(add(&mut self.weights.heads, packed));
        self.plan_head_scratch()?;
        Ok(head)
    }

    fn relative_bias(&mut self, source: &RelativeBiasSource) -> Result<RelativeBias, DeviceError> {
        let bias = weights::bias(&mut self.memory, source)?;
        Ok(RelativeBias(add(&mut self.weights.biases, bias)))
    }

    fn rope(&mut self, source: &RopeSource) -> Result<Rope, DeviceError> {
        let tables = weights::rope(&mut self.memory, source)?;
        Ok(Rope(add(&mut self.weights.ropes, tables)))
    }

    fn kv_pool(&mut self, shape: KvShape) -> Result<KvPool, DeviceError> {
        let pool = Pool::plan(&mut self.memory, shape, self.facts.compute)?;
        Ok(KvPool(add(&mut self.pools, pool)))
    }

    fn own_slab(&mut self, shape: OwnShape) -> Result<OwnSlab, DeviceError> {
        let slab = Slab::plan(&mut self.memory, shape, self.facts.compute)?;
        self.scratch.beam_attention.fit(&mut self.memory, &slab)?;
        Ok(OwnSlab(add(&mut self.slabs, slab)))
    }

    fn trie(&mut self, catalog: &Arc<Catalog>) -> Result<TrieId, DeviceError> {
        let trie = weights::trie(&mut self.memory, catalog)?;
        let trie = TrieId(add(&mut self.weights.tries, trie));
        self.plan_expand_scratch()?;
        Ok(trie)
    }

    fn plan_masks(&mut self, trie: TrieId, slots: usize) -> Result<(), DeviceError> {
        let catalog = &self.weights.tries[trie.0 as usize].catalog;
        self.masks = Some(Masks::plan(&self.driver, &mut self.memory, (trie, catalog), slots)?);
        Ok(())
    }

    fn plan_slots(&mut self, plan: SlotPlan) -> Result<(), DeviceError> {
        self.slots = Some(Slots::plan(&self.driver, &mut self.memory, plan)?);
        Ok(())
    }

    fn token_lane(&mut self, rows: usize, queue: Queue) -> Result<TokenLane, DeviceError> {
        let room = (rows, self.slots().count());
        let lane = Tokens::plan(&self.driver, &mut self.memory, room, queue)?;
        let lane = TokenLane(add(&mut self.tokens, lane));
        self.plan_sums()?;
        Ok(lane)
    }

    fn plan_dense(&mut self, lane: TokenLane, cols: usize) -> Result<(), DeviceError> {
        self.tokens[lane.0 as usize].plan_dense(&self.driver, &mut self.memory, cols)
    }

    fn cohort_lane(&mut self, plan: CohortPlan) -> Result<CohortLane, DeviceError> {
        let lane = Cohorts::plan(&self.driver, &mut self.memory, plan)?;
        let pinned = self.driver.pin("beams", beams::words(&plan))?;
        let arrived = self.driver.marker().map_err(|error| failed("pin", error))?;
        self.results.push(Results { words: pinned, arrived, collected: false });
        let lane = CohortLane(add(&mut self.cohorts, lane));
        self.plan_expand_scratch()?;
        self.plan_head_scratch()?;
        self.plan_sums()?;
        Ok(lane)
    }

    fn planned_bytes(&self) -> (usize, usize, usize) {
        let [weights, kv, rest] =
            [Purpose::Weights, Purpose::Kv, Purpose::Workspace].map(|purpose| self.memory.bytes(purpose));
        (weights, kv, rest)
    }

    fn write_slot(&mut self, slot: u32, state: &SlotState) -> Result<(), DeviceError> {
        // A cohort that was given up may still read this slot's former pages.
        let in_use = |lane: &Cohorts| lane.outstanding && lane.requests.iter().any(|request| request.slot == slot);
        if self.cohorts.iter().any(in_use) {
            let follow = || {
                self.driver.mark(Queue::Search, &self.searched)?;
                self.driver.follow(Queue::Prefill, &self.searched)
            };
            follow().map_err(|error| failed("write_slot", error))?;
        }
        self.slots.as_mut().expect("plan_slots comes before writes").write(slot, state)
    }

    fn write_tokens(&mut self, lane: TokenLane, batch: &TokenBatch) -> Result<(), DeviceError> {
        let slots = self.slots().count();
        self.tokens[lane.0 as usize].write(batch, slots)
    }

    fn write_dense(&mut self, lane: TokenLane, values: &[f32]) -> Result<(), DeviceError> {
        self.tokens[lane.0 as usize].write_dense(values)
    }

    fn write_mask(&mut self, slot: u32, mask: &Arc<NodeMask>) -> Result<(), DeviceError> {
        self.masks.as_mut().expect("plan_masks comes before writes").write(slot, mask)
    }

    fn write_cohort(&mut self, lane: CohortLane, cohort: &Cohort) -> Result<(), DeviceError> {
        let slots = self.slots.as_ref().expect("plan_slots comes before writes");
        let masks = self.masks.as_ref().map_or(0, Masks::count);
        self.cohorts[lane.0 as usize].write(cohort, slots, masks)?;
        let follow = || {
            self.driver.mark(Queue::Prefill, &self.prefilled)?;
            self.driver.follow(Queue::Search, &self.prefilled)
        };
        follow().map_err(|error| failed("write_cohort", error))?;
        self.results[lane.0 as usize].collected = false;
        self.run_begin_cohort(lane)
    }

    fn replay(
        &mut self,
        lanes: (CohortLane, TokenLane),
        step: usize,
        body: &mut dyn FnMut(&mut dyn Device) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let broken = |error| failed("replay", error);
        let key = Key {
            lanes: (lanes.0.0, lanes.1.0),
            step,
            cohort: self.cohort_lane_of(lanes.0).extent,
            prefix: self.token_lane_of(lanes.1).extent,
        };
        // A recording names the beam states by turns.
        assert_eq!(step, self.cohort_lane_of(lanes.0).chosen, "replay: step after tokens chosen");
        if let Some(recording) = self.graphs.find(&key) {
            self.driver.replay(recording).map_err(broken)?;
            self.cohorts[lanes.0.0 as usize].chosen = step + 1;
            return Ok(());
        }
        self.driver.begin_recording(Queue::Search).map_err(broken)?;
        let outcome = body(self);
        // Ended in any case: a queue that goes on recording would run nothing ever again.
        let recording = self.driver.end_recording(Queue::Search);
        outcome?;
        let replayed = recording.and_then(|recording| {
            recording.as_ref().map_or(Ok(()), |recording| self.driver.replay(recording))?;
            Ok(recording)
        });
        match replayed {
            Ok(Some(recording)) => self.graphs.keep(key, recording),
            Ok(None) => {
                let reason = "the driver recorded nothing".to_owned();
                return Err(DeviceError::Lost { op: "replay", reason });
            }
            // Recordings lie in memory of the driver's, which no plan holds: all make room, and the step runs as it is.
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                tracing::warn!(recorded = self.graphs.len(), "the card has no memory for another recording");
                self.graphs = Graphs::default();
                self.cohorts[lanes.0.0 as usize].chosen = step;
                return body(self);
            }
            Err(error) => return Err(broken(error)),
        }
        Ok(())
    }

    fn embed(&mut self, rows: Rows, table: Embedding, out: Tensor) -> Result<(), DeviceError> {
        self.run_embed(rows, table, out)
    }

    fn embed_dense(&mut self, lane: TokenLane, out: Tensor) -> Result<(), DeviceError> {
        self.run_embed_dense(lane, out)
    }

    fn add_positions(&mut self, rows: Rows, table: Embedding, step: usize, out: Tensor) -> Result<(), DeviceError> {
        self.run_add_positions((rows, step), table, out)
    }

    fn norm(&mut self, args: &NormArgs) -> Result<(), DeviceError> {
        self.run_norm(args)
    }

    fn linear(&mut self, args: &LinearArgs) -> Result<(), DeviceError> {
        self.run_linear(args)
    }

    fn write_kv(&mut self, args: &WriteKvArgs) -> Result<(), DeviceError> {
        self.run_write_kv(args)
    }

    fn history_attention(&mut self, args: &HistoryAttentionArgs) -> Result<(), DeviceError> {
        self.run_history_attention(args)
    }

    fn beam_attention(&mut self, args: &BeamAttentionArgs) -> Result<(), DeviceError> {
        self.run_beam_attention(args)
    }

    fn gather_last(&mut self, lane: TokenLane, from: Tensor, to: Tensor) -> Result<(), DeviceError> {
        self.run_gather_last(lane, from, to)
    }

    fn store_slots(&mut self, lane: TokenLane, from: Tensor, to: Tensor) -> Result<(), DeviceError> {
        self.run_store_slots(lane, from, to)
    }

    fn load_slots(&mut self, lane: CohortLane, from: Tensor, to: Tensor) -> Result<(), DeviceError> {
        self.run_load_slots(lane, from, to)
    }

    fn head(&mut self, args: &HeadArgs) -> Result<(), DeviceError> {
        self.run_head(args)
    }

    fn expand_select(&mut self, args: &ExpandArgs) -> Result<(), DeviceError> {
        let lane = args.lane.0 as usize;
        assert_eq!(args.level, self.cohorts[lane].chosen, "expand_select: level after tokens chosen");
        self.run_expand_select(args)?;
        self.cohorts[lane].chosen += 1;
        Ok(())
    }

    fn force_token(&mut self, args: &ForceArgs) -> Result<(), DeviceError> {
        let lane = args.lane.0 as usize;
        assert_eq!(args.step, self.cohorts[lane].chosen, "force_token: step after tokens chosen");
        self.run_force_token(args)?;
        self.cohorts[lane].chosen += 1;
        Ok(())
    }

    fn mark(&mut self, queue: Queue) -> Result<Mark, DeviceError> {
        let stamp = self.driver.stamp(queue, self.used_stamps.pop()).map_err(|error| failed("mark", error))?;
        Ok(self.marks.put(stamp))
    }

    fn between(&mut self, from: Mark, to: Mark) -> Result<Option<Duration>, DeviceError> {
        let elapsed = self.driver.elapsed(self.marks.get(from), self.marks.get(to));
        let elapsed = elapsed.map_err(|error| failed("between", error))?;
        if elapsed.is_some() {
            self.used_stamps.extend([self.marks.take(from), self.marks.take(to)]);
        }
        Ok(elapsed)
    }

    fn collect_beams(&mut self, lane: CohortLane) -> Result<(), DeviceError> {
        self.run_collect_beams(lane)
    }

    fn beams_are_here(&mut self, lane: CohortLane) -> Result<bool, DeviceError> {
        let results = &self.results[lane.0 as usize];
        if !results.collected {
            return Ok(false);
        }
        self.driver.is_passed(&results.arrived).map_err(|error| failed("beams_are_here", error))
    }

    fn read_beams(&mut self, lane: CohortLane) -> Result<Vec<Vec<Beam>>, DeviceError> {
        let index = lane.0 as usize;
        if !self.results[index].collected {
            self.collect_beams(lane)?;
        }
        let (cohort, results) = (&mut self.cohorts[index], &mut self.results[index]);
        self.driver.wait(&results.arrived).map_err(|error| failed("read_beams", error))?;
        (cohort.outstanding, results.collected) = (false, false);
        Ok(beams::found(cohort, &results.words))
    }

    fn read_buffer(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<f32>, DeviceError> {
        let broken = |error| failed("read_buffer", error);
        let base = self.place("read_buffer", tensor, rows, tensor.cols);
        self.driver.drain().map_err(broken)?;
        let width = tensor.dtype.bytes();
        let mut bytes = vec![0u8; tensor.cols * width];
        let mut values = Vec::with_capacity(rows * tensor.cols);
        for row in 0..rows {
            let address = base + (row * tensor.stride * width) as u64;
            self.driver.read(address, &mut bytes).map_err(broken)?;
            match tensor.dtype {
                Dtype::F32 => values.extend(bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned::<f32>)),
                Dtype::Bf16 => {
                    values.extend(bytes.chunks_exact(2).map(|x| bytemuck::pod_read_unaligned::<bf16>(x).to_f32()));
                }
            }
        }
        Ok(values)
    }

    fn write_buffer(&mut self, tensor: Tensor, values: &[f32]) -> Result<(), DeviceError> {
        let broken = |error| failed("write_buffer", error);
        let base = self.place("write_buffer", tensor, values.len() / tensor.cols, tensor.cols);
        self.driver.drain().map_err(broken)?;
        let width = tensor.dtype.bytes();
        for (row, values) in values.chunks(tensor.cols).enumerate() {
            let address = base + (row * tensor.stride * width) as u64;
            let bytes: Vec<u8> = match tensor.dtype {
                Dtype::F32 => bytemuck::cast_slice(values).to_vec(),
                Dtype::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_bits().to_le_bytes()).collect(),
            };
            self.driver.write(address, &bytes).map_err(broken)?;
        }
        Ok(())
    }
}
