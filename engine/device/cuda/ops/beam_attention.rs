//! Attention of beam rows over a shared segment and their own tokens. Two ways with the same bits, as
//! `kernels/beam_attention.cu` tells: *whole*, one kernel that walks all splits of the segment; *apart*, splits of the segment
//! by one kernel, merged with the own tokens by another.

use sidereal_ffi::params::{BeamAttentionParams, OwnKeys, PagedKeys};

use super::super::CudaDevice;
use super::super::driver::{Kernel, Shape};
use super::super::kv::Slab;
use super::super::memory::{Memory, Purpose};
use super::params::paged_keys;
use crate::device::{BeamAttentionArgs, DeviceError, Dtype, Queue, Rows};

// As in kernels/include/params/beam_attention.h.
const SPLIT_TOKENS: usize = 256;
const MAX_SPLITS: usize = 8;
const BLOCK_SPLITS: usize = 2;

/// Threads of a block that merges.
const MERGE_THREADS: u32 = 256;
/// Elements of a head that a lane of it has.
const MERGE_ELEMENTS: usize = 8;

/// A kernel over splits for heads of one stored width.
#[derive(Clone, Copy)]
struct Variant {
    dim: usize,
    /// Virtual rows (beams x query heads of a KV head) of a block.
    rows: usize,
    /// Adds a relative bias.
    biased: bool,
    threads: u32,
    /// Splits of a block.
    splits: usize,
    /// Dynamic shared memory of splits apart; of whole rows it is the kernel's, if it can have them.
    apart_shared: u32,
    has_whole: bool,
    kernel: Kernel,
}

const fn bf16(dim: usize, rows: usize, name: &'static str) -> Variant {
    let keys = if dim == 256 { 32 } else { 64 };
    // Queries, keys and values of two groups of warps with their page rows, and the block's work (`Shared` of the file).
    let apart = 2 * rows * dim + 2 * (2 * 2 * keys * dim + 2 * 4 * keys) + 48;
    // And the rows' sums.
    let whole = apart + rows * (4 * dim + 8);
    let kernel = Kernel { module: "beam_attention", name, dynamic_shared: whole as u32 };
    let (biased, splits) = (rows == 64, BLOCK_SPLITS);
    Variant { dim, rows, biased, threads: 256, splits, apart_shared: apart as u32, has_whole: true, kernel }
}

const fn f32(dim: usize, name: &'static str, dynamic_shared: u32) -> Variant {
    let kernel = Kernel { module: "beam_attention_f32", name, dynamic_shared };
    let (apart_shared, has_whole) = (dynamic_shared, false);
    Variant { dim, rows: 32, biased: true, threads: 128, splits: 1, apart_shared, has_whole, kernel }
}

/// Of one width, the one with more rows first.
const BF16: [Variant; 6] = [
    bf16(32, 64, "beam_attention_bf16_32_64"),
    bf16(64, 128, "beam_attention_bf16_64_128"),
    bf16(64, 64, "beam_attention_bf16_64_64"),
    bf16(128, 128, "beam_attention_bf16_128_128"),
    bf16(128, 64, "beam_attention_bf16_128_64"),
    bf16(256, 64, "beam_attention_bf16_256_64"),
];
const F32: [Variant; 4] = [
    f32(32, "beam_attention_f32_32", 14_208),
    f32(64, "beam_attention_f32_64", 22_400),
    f32(128, "beam_attention_f32_128", 38_784),
    f32(256, "beam_attention_f32_256", 71_552),
];

const fn merge(name: &'static str) -> Kernel {
    Kernel { module: "beam_attention_merge", name, dynamic_shared: 0 }
}
const MERGE_BF16: Kernel = merge("beam_attention_merge_bf16");
const MERGE_F32: Kernel = merge("beam_attention_merge_f32");

fn variants(compute: Dtype) -> (&'static [Variant], Kernel) {
    match compute {
        Dtype::F32 => (&F32, MERGE_F32),
        Dtype::Bf16 => (&BF16, MERGE_BF16),
    }
}

/// What decides how a launch is cut: the buckets that it is for, and the card.
#[derive(Clone, Copy)]
struct Load {
    /// Of one request and KV head.
    virtual_rows: usize,
    /// Pairs of a request and a KV head.
    heads: usize,
    splits: usize,
    multiprocessors: usize,
    block_shared: u32,
}

impl Load {
    /// Whether tiles of `rows` give half of the multiprocessors something to do.
    fn fills(&self, rows: usize) -> bool {
        2 * self.virtual_rows.div_ceil(rows) * self.heads >= self.multiprocessors
    }

    /// The kernel for heads stored in `dim`: large tiles where they are full and many.
    fn variant(&self, variants: &'static [Variant], dim: usize, needs_bias: bool) -> &'static Variant {
        let fits = |variant: &&Variant| variant.dim == dim && (variant.biased || !needs_bias);
        let pays = |variant: &&Variant| variant.rows <= 64 || self.virtual_rows > 64 && self.fills(variant.rows);
        let found = variants.iter().filter(fits).find(pays);
        found.expect("every stored width has a kernel with small tiles")
    }

    /// Whether blocks walk all splits: they have the room, and splits apart would not be more blocks or are not needed.
    fn is_whole(&self, variant: &Variant) -> bool {
        let has_room = variant.has_whole && variant.kernel.dynamic_shared <= self.block_shared;
        has_room && (self.splits <= variant.splits || self.fills(variant.rows))
    }
}

/// Splits that are enough for segments of up to `tokens` tokens, from 1 on. All that a launch depends on a segment's length by:
/// a finer bucket would only record steps more often.
pub(in crate::device::cuda) fn split_bucket(tokens: usize) -> usize {
    tokens.div_ceil(SPLIT_TOKENS).min(MAX_SPLITS).next_power_of_two()
}

/// The kernels for a compute type.
pub(super) fn kernels(compute: Dtype) -> Vec<Kernel> {
    let (variants, merge) = variants(compute);
    variants.iter().map(|variant| variant.kernel).chain([merge]).collect()
}

/// What the splits of a row found, until they are merged. All cohort lanes share it: their operations run one after another.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::device::cuda) struct Scratch {
    rows: usize,
    /// Elements of all heads of a row.
    elements: usize,
    heads: usize,
    output: u64,  // f32[MAX_SPLITS][rows][heads][dim]
    softmax: u64, // f32[MAX_SPLITS][rows][heads][2]
}

impl Scratch {
    /// Makes room for the rows of a slab.
    pub(in crate::device::cuda) fn fit(&mut self, memory: &mut Memory, slab: &Slab) -> Result<(), DeviceError> {
        let (rows, heads, elements) = (slab.shape.rows, slab.shape.heads, slab.shape.heads * slab.dim);
        if rows <= self.rows && elements <= self.elements && heads <= self.heads {
            return Ok(());
        }
        *self = Scratch {
            rows: rows.max(self.rows),
            elements: elements.max(self.elements),
            heads: heads.max(self.heads),
            ..*self
        };
        let mut part = |what: &str, elements: usize| {
            let bytes = MAX_SPLITS * self.rows * elements * size_of::<f32>();
            memory.zeroed(Purpose::Workspace, format!("beam attention: {what} of {MAX_SPLITS} splits"), bytes)
        };
        (self.output, self.softmax) = (part("outputs", self.elements)?, part("sums", 2 * self.heads)?);
        Ok(())
    }
}

impl CudaDevice {
    pub(in crate::device::cuda) fn run_beam_attention(&mut self, args: &BeamAttentionArgs) -> Result<(), DeviceError> {
        let op = "beam_attention";
        let lane = self.cohort_lane_of(args.lane);
        let (view, extent, state) = (lane.view(), lane.extent, lane.now());
        let slab = args.own.map(|own| self.slabs[own.slab.0 as usize]);
        let pool = args.shared.map(|shared| self.pools[shared.pool.0 as usize]);
        assert!(args.bias.is_none() || slab.is_some(), "{op}: a bias without own tokens");
        let (dim, head_dim, kv_heads) = match (slab, pool) {
            (Some(slab), _) => (slab.dim, slab.shape.head_dim, slab.shape.kv_heads),
            (None, Some(pool)) => (pool.dim, pool.shape.head_dim, pool.shape.kv_heads),
            (None, None) => panic!("{op}: neither shared keys nor own tokens"),
        };
        assert!(pool.is_none_or(|pool| (pool.dim, pool.shape.kv_heads) == (dim, kv_heads)), "{op}: heads differ");
        let heads = args.query.cols / head_dim;
        assert!(heads.is_multiple_of(kv_heads), "{op}: {heads} heads over {kv_heads}");
        let scratch = self.scratch.beam_attention;
        assert!(
            extent.rows <= scratch.rows && heads <= scratch.heads && heads * dim <= scratch.elements,
            "{op}: {} rows of {heads} heads of {dim} in scratch for {scratch:?}",
            extent.rows
        );
        let bias = args.bias.map(|bias| self.weights.biases[bias.0 as usize]);
        assert!(bias.is_none_or(|bias| bias.heads == heads), "{op}: {heads} heads with {bias:?}");
        let rows = self.row_set(Rows::Beams(args.lane)).bucket;
        let params = BeamAttentionParams {
            query: self.place(op, args.query, rows, heads * head_dim),
            out: self.place(op, args.out, rows, heads * head_dim),
            requests: view.requests,
            counts: view.requests_count,
            live: state.live,
            bias: bias.map_or(0, |bias| bias.address),
            partial_output: scratch.output,
            partial_softmax: scratch.softmax,
            shared: args.shared.zip(pool).map_or(PagedKeys::default(), |(shared, pool)| {
                paged_keys(&pool, shared.layer, self.slots().table(shared.segment))
            }),
            own: args.own.zip(slab).map_or(OwnKeys::default(), |(own, slab)| {
                let (keys, values) = slab.layer(own.layer, 0);
                let (rows, step) = (slab.shape.rows as u32, own.step as u32);
                OwnKeys { keys, values, ancestors: state.ancestors, rows, step }
            }),
            query_stride: args.query.stride as u32,
            out_stride: args.out.stride as u32,
            heads: heads as u32,
            kv_heads: kv_heads as u32,
            head_dim: head_dim as u32,
            dim: dim as u32,
            max_distance: bias.map_or(0, |bias| bias.max_distance as u32),
            partial_rows: scratch.rows as u32,
        };
        let (variants, merge) = variants(self.facts.compute);
        if let Some(shared) = args.shared {
            let card = self.driver.facts();
            let load = Load {
                virtual_rows: extent.beams * (heads / kv_heads),
                heads: extent.requests * kv_heads,
                splits: extent.splits[shared.segment as usize],
                multiprocessors: card.multiprocessors as usize,
                block_shared: card.block_shared,
            };
            let variant = load.variant(variants, dim, bias.is_some());
            let is_whole = load.is_whole(variant);
            let (blocks, dynamic_shared) = if is_whole {
                (1, variant.kernel.dynamic_shared)
            } else {
                (load.splits.div_ceil(variant.splits), variant.apart_shared)
            };
            let tiles = load.virtual_rows.div_ceil(variant.rows);
            let grid = [tiles as u32, (kv_heads * blocks) as u32, extent.requests as u32];
            let shape = Shape { queue: Queue::Search, grid, threads: variant.threads, dynamic_shared };
            if is_whole {
                let params = BeamAttentionParams { partial_output: 0, partial_softmax: 0, ..params };
                return self.launch(&variant.kernel, shape, params);
            }
            self.launch(&variant.kernel, shape, params)?;
        }
        let lanes = extent.beams * heads * (dim / MERGE_ELEMENTS);
        let grid = [lanes.div_ceil(MERGE_THREADS as usize) as u32, extent.requests as u32, 1];
        self.launch(&merge, Shape { queue: Queue::Search, grid, threads: MERGE_THREADS, dynamic_shared: 0 }, params)
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_SPLITS, SPLIT_TOKENS, split_bucket};

    #[test]
    fn no_segment_has_more_splits_than_its_bucket() {
        for tokens in 0..10_000usize {
            // As `split_length` of kernels/include/beam_work.cuh.
            let length = SPLIT_TOKENS * tokens.div_ceil(SPLIT_TOKENS * MAX_SPLITS).max(1);
            let bucket = split_bucket(tokens);
            assert!(tokens.div_ceil(length) <= bucket && bucket <= MAX_SPLITS, "{tokens} tokens");
            assert!(bucket <= split_bucket(tokens + 1), "{tokens} tokens: a shorter one of the cohort has no more");
        }
    }
}
