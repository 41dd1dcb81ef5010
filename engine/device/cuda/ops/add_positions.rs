//! Learned positions, added to the residual stream.

use sidereal_ffi::params::PositionsParams;

use super::super::CudaDevice;
use super::super::driver::{Kernel, Shape};
use crate::device::{DeviceError, Dtype, Embedding, Rows, Segment, Tensor};
use crate::export::WeightDtype;

const F32: Kernel = Kernel { module: "add_positions", name: "add_positions_f32", dynamic_shared: 0 };
const BF16: Kernel = Kernel { module: "add_positions", name: "add_positions_bf16", dynamic_shared: 0 };
const F16: Kernel = Kernel { module: "add_positions", name: "add_positions_f16", dynamic_shared: 0 };
pub(super) const KERNELS: [Kernel; 3] = [F32, BF16, F16];

/// Rows of a block: a warp each.
const BLOCK_ROWS: usize = 4;

impl CudaDevice {
    /// Adds the positions of `rows`: of beams whose newest token is their `step`-th.
    pub(in crate::device::cuda) fn run_add_positions(
        &mut self,
        (rows, step): (Rows, usize),
        table: Embedding,
        out: Tensor,
    ) -> Result<(), DeviceError> {
        let set = self.row_set(rows);
        let table = self.weights.embeddings[table.0 as usize];
        assert_eq!(out.dtype, Dtype::F32, "add_positions: a residual stream is f32");
        let kernel = match table.dtype {
            WeightDtype::F32 => F32,
            WeightDtype::Bf16 => BF16,
            WeightDtype::F16 => F16,
        };
        let mut params = PositionsParams {
            table: table.address,
            live: set.live,
            row_position: 0,
            row_request: 0,
            requests: 0,
            prefix_lengths: 0,
            out: self.place("add_positions", out, set.bucket, table.cols),
            positions: table.rows as u32,
            cols: table.cols as u32,
            out_stride: out.stride as u32,
            slot_stride: 0,
            step: 0,
            reserved: 0,
        };
        match rows {
            Rows::Tokens(lane) => params.row_position = self.token_lane_of(lane).view().row_position,
            Rows::Beams(lane) => {
                let (view, prefixes) = (self.cohort_lane_of(lane).view(), self.slots().table(Segment::Prefix));
                params.row_request = view.row_request;
                params.requests = view.requests;
                params.prefix_lengths = prefixes.lengths;
                params.slot_stride = prefixes.stride;
                params.step = step as u32;
            }
            other => panic!("add_positions: {other:?} have no positions"),
        }
        let grid = [set.bucket.div_ceil(BLOCK_ROWS) as u32, 1, 1];
        self.launch(
            &kernel,
            Shape { queue: set.queue, grid, threads: 32 * BLOCK_ROWS as u32, dynamic_shared: 0 },
            params,
        )
    }
}
