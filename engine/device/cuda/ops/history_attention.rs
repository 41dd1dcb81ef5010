//! Attention of token rows over a paged segment: one block a query tile and head.

use sidereal_ffi::params::HistoryAttentionParams;

use super::super::CudaDevice;
use super::super::driver::{Kernel, Shape};
use super::super::lanes::QUERY_TILE_ROWS;
use super::params::paged_keys;
use crate::device::{DeviceError, Dtype, HistoryAttentionArgs, Mask, Rows};

/// A kernel for heads of one stored width.
struct Variant {
    dim: usize,
    /// Query rows of a block: a tile, or a part of one.
    rows: usize,
    /// Threads for each head of a block.
    head_threads: u32,
    /// Shared memory for each head of a block.
    head_shared: u32,
    /// With the shared memory of the most heads that a block may have.
    kernel: Kernel,
    most_heads: u32,
}

const fn bf16(dim: usize, name: &'static str) -> Variant {
    let head_shared = (QUERY_TILE_ROWS * dim * 2) as u32;
    // Beside queries 32 keys, as many values, and 1,024 bytes of what is known about them.
    let dynamic_shared = 2 * 32 * dim as u32 * 2 + 1024 + 2 * head_shared;
    Variant {
        dim,
        rows: QUERY_TILE_ROWS,
        head_threads: if dim <= 128 { 64 } else { 128 },
        head_shared,
        kernel: Kernel { module: "history_attention", name, dynamic_shared },
        most_heads: 2,
    }
}

const fn f32(dim: usize, rows: usize, name: &'static str, dynamic_shared: u32) -> Variant {
    let kernel = Kernel { module: "history_attention_f32", name, dynamic_shared };
    Variant { dim, rows, head_threads: 128, head_shared: 0, kernel, most_heads: 1 }
}

const BF16: [Variant; 4] = [
    bf16(32, "history_attention_bf16_32"),
    bf16(64, "history_attention_bf16_64"),
    bf16(128, "history_attention_bf16_128"),
    bf16(256, "history_attention_bf16_256"),
];
/// Shared memory as the head of the kernels' file states it.
const F32: [Variant; 4] = [
    f32(32, 64, "history_attention_f32_32", 27_136),
    f32(64, 64, "history_attention_f32_64", 43_520),
    f32(128, 64, "history_attention_f32_128", 76_288),
    f32(256, 32, "history_attention_f32_256", 68_864),
];

fn variants(compute: Dtype) -> &'static [Variant; 4] {
    match compute {
        Dtype::F32 => &F32,
        Dtype::Bf16 => &BF16,
    }
}

/// The kernels for a compute type.
pub(super) fn kernels(compute: Dtype) -> [Kernel; 4] {
    variants(compute).each_ref().map(|variant| variant.kernel)
}

impl CudaDevice {
    pub(in crate::device::cuda) fn run_history_attention(
        &mut self,
        args: &HistoryAttentionArgs,
    ) -> Result<(), DeviceError> {
        let op = "history_attention";
        let set = self.row_set(args.rows);
        let (tiles, tile_count, bucket) = match args.rows {
            Rows::Tokens(lane) => {
                let lane = self.token_lane_of(lane);
                (lane.view().tiles, lane.view().tile_count, lane.extent.tiles)
            }
            Rows::Last(lane) => {
                let lane = self.token_lane_of(lane);
                (lane.view().last_tiles, lane.view().lasts, lane.extent.lasts)
            }
            rows => panic!("{op}: {rows:?} have no positions"),
        };
        let pool = &self.pools[args.pool.0 as usize];
        let (head_dim, cols) = (pool.shape.head_dim, args.query.cols);
        let heads = cols / head_dim;
        assert!(
            cols.is_multiple_of(head_dim) && heads.is_multiple_of(pool.shape.kv_heads),
            "{op}: {cols} columns, heads {head_dim}, {} KV heads",
            pool.shape.kv_heads
        );
        let compute = self.facts.compute;
        assert!(args.query.dtype == compute && args.out.dtype == compute, "{op}: types of query and out");
        let bias = args.bias.map(|bias| self.weights.biases[bias.0 as usize]);
        assert!(bias.is_none_or(|bias| bias.heads == heads), "{op}: heads of the bias");
        let params = HistoryAttentionParams {
            query: self.place(op, args.query, set.bucket, cols),
            out: self.place(op, args.out, set.bucket, cols),
            tiles,
            tile_count,
            bias: bias.map_or(0, |bias| bias.address),
            kv: paged_keys(pool, args.layer, self.slots().table(args.segment)),
            query_stride: args.query.stride as u32,
            out_stride: args.out.stride as u32,
            heads: heads as u32,
            head_dim: head_dim as u32,
            max_distance: bias.map_or(0, |bias| bias.max_distance as u32),
            mask: u32::from(args.mask == Mask::Causal),
        };
        let variant = variants(compute).iter().find(|variant| variant.dim == pool.dim);
        let variant = variant.unwrap_or_else(|| panic!("{op}: heads stored in {}", pool.dim));
        // Heads that share keys share a block, which reads them once; a block has room for the biases of one head.
        let group = heads / pool.shape.kv_heads;
        let paired = variant.most_heads == 2 && group.is_multiple_of(2) && bias.is_none();
        let block_heads = if paired { 2 } else { 1 };
        let parts = QUERY_TILE_ROWS / variant.rows;
        let shape = Shape {
            queue: set.queue,
            grid: [bucket as u32, heads as u32 / block_heads, parts as u32],
            threads: block_heads * variant.head_threads,
            dynamic_shared: variant.kernel.dynamic_shared - (variant.most_heads - block_heads) * variant.head_shared,
        };
        self.launch(&variant.kernel, shape, params)
    }
}
