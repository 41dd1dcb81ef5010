//! Input vectors to the residual stream, or to a product's left side.

use sidereal_ffi::params::EmbedDenseParams;

use super::super::CudaDevice;
use super::super::driver::{Kernel, Shape};
use crate::device::{DeviceError, Dtype, Rows, Tensor, TokenLane};

const F32: Kernel = Kernel { module: "embed_dense", name: "embed_dense_f32", dynamic_shared: 0 };
const BF16: Kernel = Kernel { module: "embed_dense", name: "embed_dense_bf16", dynamic_shared: 0 };
pub(super) const KERNELS: [Kernel; 2] = [F32, BF16];

/// Rows of a block: a warp each.
const BLOCK_ROWS: usize = 4;

impl CudaDevice {
    pub(in crate::device::cuda) fn run_embed_dense(&mut self, lane: TokenLane, out: Tensor) -> Result<(), DeviceError> {
        let set = self.row_set(Rows::Tokens(lane));
        let lane = self.token_lane_of(lane);
        let (address, values) = lane.dense.as_ref().map_or((0, 0), |dense| (dense.address, dense.written));
        if values != lane.written * out.cols {
            let reason = format!("{values} values for {} rows of {} columns", lane.written, out.cols);
            return Err(DeviceError::Failed { op: "embed_dense", reason });
        }
        let kernel = match out.dtype {
            Dtype::F32 => F32,
            Dtype::Bf16 => BF16,
        };
        let params = EmbedDenseParams {
            values: address,
            live: set.live,
            out: self.place("embed_dense", out, set.bucket, out.cols),
            cols: out.cols as u32,
            out_stride: out.stride as u32,
        };
        let grid = [set.bucket.div_ceil(BLOCK_ROWS) as u32, 1, 1];
        self.launch(
            &kernel,
            Shape { queue: set.queue, grid, threads: 32 * BLOCK_ROWS as u32, dynamic_shared: 0 },
            params,
        )
    }
}
