//! Attention of token rows over a paged segment: one block a query tile and head.

use sidereal_ffi::params::HistoryAttentionParams;

use super::super::CudaDevice;
use super::super::driver::{Kernel, Shape};
use super::super::lanes::QUERY_TILE_ROWS;
use super::params::paged_keys;
use crate::device::{DeviceError, Dtype, HistoryAttentionArgs, Mask, Rows};

/// Threads of a block.
const THREADS: u32 = 128;

/// A kernel for heads of one stored width.
struct Variant {
    dim: usize,
    /// Query rows of a block: a tile, or a part of one.
    rows: usize,
    kernel: Kernel,
}

const fn bf16(dim: usize, name: &'static str, dynamic_shared: u32) -> Variant {
    Variant { dim, rows: QUERY_TILE_ROWS, kernel: Kernel { module: "history_attention", name, dynamic_shared } }
}

const fn f32(dim: usize, rows: usize, name: &'static str, dynamic_shared: u32) -> Variant {
    Variant { dim, rows, kernel: Kernel { module: "history_attention_f32", name, dynamic_shared } }
}

/// Shared memory as the heads of the kernels' files state it.
const BF16: [Variant; 4] = [
    bf16(32, "history_attention_bf16_32", 13_824),
    bf16(64, "history_attention_bf16_64", 26_112),
    bf16(128, "history_attention_bf16_128", 50_688),
    bf16(256, "history_attention_bf16_256", 66_560),
];
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
        let Variant { rows, kernel, .. } = variant.unwrap_or_else(|| panic!("{op}: heads stored in {}", pool.dim));
        let parts = QUERY_TILE_ROWS / rows;
        let shape = Shape {
            queue: set.queue,
            grid: [bucket as u32, heads as u32, parts as u32],
            threads: THREADS,
            dynamic_shared: kernel.dynamic_shared,
        };
        self.launch(kernel, shape, params)
    }
}
