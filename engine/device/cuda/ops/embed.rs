//! The embedding gather.

use sidereal_ffi::params::EmbedParams;

use super::super::CudaDevice;
use super::super::driver::{Kernel, Shape};
use crate::device::{DeviceError, Embedding, Rows, Tensor};
use crate::export::WeightDtype;

const F32: Kernel = Kernel { module: "embed", name: "embed_f32", dynamic_shared: 0 };
const BF16: Kernel = Kernel { module: "embed", name: "embed_bf16", dynamic_shared: 0 };
const F16: Kernel = Kernel { module: "embed", name: "embed_f16", dynamic_shared: 0 };
pub(super) const KERNELS: [Kernel; 3] = [F32, BF16, F16];

/// Rows of a block: a warp each.
const BLOCK_ROWS: usize = 4;

impl CudaDevice {
    pub(in crate::device::cuda) fn run_embed(
        &mut self,
        rows: Rows,
        table: Embedding,
        out: Tensor,
    ) -> Result<(), DeviceError> {
        let set = self.row_set(rows);
        let table = self.weights.embeddings[table.0 as usize];
        let tokens = match rows {
            Rows::Tokens(lane) => self.token_lane_of(lane).view().tokens,
            Rows::Beams(lane) => self.cohort_lane_of(lane).now().token,
            other => panic!("embed: {other:?} have no tokens"),
        };
        let kernel = match table.dtype {
            WeightDtype::F32 => F32,
            WeightDtype::Bf16 => BF16,
            WeightDtype::F16 => F16,
        };
        let params = EmbedParams {
            table: table.address,
            tokens,
            live: set.live,
            out: self.place("embed", out, set.bucket, table.cols),
            vocabulary: table.rows as u32,
            cols: table.cols as u32,
            out_stride: out.stride as u32,
            reserved: 0,
        };
        let grid = [set.bucket.div_ceil(BLOCK_ROWS) as u32, 1, 1];
        self.launch(
            &kernel,
            Shape { queue: set.queue, grid, threads: 32 * BLOCK_ROWS as u32, dynamic_shared: 0 },
            params,
        )
    }
}
