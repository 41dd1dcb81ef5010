//! Copies between compact rows and slots.

use sidereal_ffi::params::{CopyParams, RequestEntry, RowList};

use super::super::driver::{Kernel, Shape};
use super::super::{CudaDevice, RowSet};
use crate::device::{CohortLane, DeviceError, Rows, Tensor, TokenLane};

const COPY: Kernel = Kernel { module: "copy_rows", name: "copy_rows", dynamic_shared: 0 };
pub(super) const KERNELS: [Kernel; 1] = [COPY];

/// Rows of a block: a warp each.
const BLOCK_ROWS: usize = 4;
/// Row i for copy i.
const IN_ORDER: RowList = RowList { rows: 0, stride: 0, reserved: 0 };
/// Words of a `RequestEntry`, which begins with its slot.
const REQUEST_WORDS: u32 = (size_of::<RequestEntry>() / size_of::<u32>()) as u32;

fn listed(rows: u64, stride: u32) -> RowList {
    RowList { rows, stride, reserved: 0 }
}

/// One side of a copy.
#[derive(Clone, Copy)]
struct Side {
    tensor: Tensor,
    list: RowList,
    /// Rows that the list may name.
    rows: usize,
}

impl CudaDevice {
    pub(in crate::device::cuda) fn run_gather_last(
        &mut self,
        lane: TokenLane,
        from: Tensor,
        to: Tensor,
    ) -> Result<(), DeviceError> {
        let set = self.row_set(Rows::Last(lane));
        let lane = self.token_lane_of(lane);
        let from = Side { tensor: from, list: listed(lane.view().last_row, 1), rows: lane.extent.rows };
        self.copy_rows("gather_last", set, from, Side { tensor: to, list: IN_ORDER, rows: set.bucket })
    }

    pub(in crate::device::cuda) fn run_store_slots(
        &mut self,
        lane: TokenLane,
        from: Tensor,
        to: Tensor,
    ) -> Result<(), DeviceError> {
        let set = self.row_set(Rows::Last(lane));
        let list = listed(self.token_lane_of(lane).view().last_slot, 1);
        let to = Side { tensor: to, list, rows: self.slots().count() };
        self.copy_rows("store_slots", set, Side { tensor: from, list: IN_ORDER, rows: set.bucket }, to)
    }

    pub(in crate::device::cuda) fn run_load_slots(
        &mut self,
        lane: CohortLane,
        from: Tensor,
        to: Tensor,
    ) -> Result<(), DeviceError> {
        let set = self.row_set(Rows::Requests(lane));
        let list = listed(self.cohort_lane_of(lane).view().requests, REQUEST_WORDS);
        let from = Side { tensor: from, list, rows: self.slots().count() };
        self.copy_rows("load_slots", set, from, Side { tensor: to, list: IN_ORDER, rows: set.bucket })
    }

    fn copy_rows(&self, op: &str, set: RowSet, from: Side, to: Side) -> Result<(), DeviceError> {
        let (source, target) = (from.tensor, to.tensor);
        assert!(source.cols == target.cols && source.dtype == target.dtype, "{op}: {source:?} to {target:?}");
        let width = source.dtype.bytes();
        let mut params = CopyParams {
            from: self.place(op, source, from.rows, source.cols),
            to: self.place(op, target, to.rows, target.cols),
            live: set.live,
            from_rows: from.list,
            to_rows: to.list,
            from_stride_bytes: (source.stride * width) as u32,
            to_stride_bytes: (target.stride * width) as u32,
            row_bytes: (source.cols * width) as u32,
            unit_bytes: 0,
        };
        params.unit_bytes = unit_bytes(&params);
        let grid = [set.bucket.div_ceil(BLOCK_ROWS) as u32, 1, 1];
        self.launch(&COPY, Shape { queue: set.queue, grid, threads: 32 * BLOCK_ROWS as u32, dynamic_shared: 0 }, params)
    }
}

/// The widest unit that the copy can be made of.
fn unit_bytes(params: &CopyParams) -> u32 {
    let sizes = params.from_stride_bytes | params.to_stride_bytes | params.row_bytes;
    let all = params.from | params.to | u64::from(sizes);
    [16, 4].into_iter().find(|&unit| all.is_multiple_of(u64::from(unit))).unwrap_or(2)
}
