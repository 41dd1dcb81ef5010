//! Parts of the kernels' parameters, from what the device knows. The structs are those of `kernels/include/params`.

use sidereal_ffi::params::{BeamState, PagedKeys};

use super::super::kv::Pool;
use super::super::lanes::StateView;
use super::super::slots::SegmentTable;

impl From<StateView> for BeamState {
    fn from(view: StateView) -> BeamState {
        let StateView { node, score, token, live, ancestors, log_prob, key } = view;
        BeamState { node, score, token, live, ancestors, log_prob, key }
    }
}

/// A layer of a pool, through the tables of the segment that its pages belong to.
pub(super) fn paged_keys(pool: &Pool, layer: usize, table: SegmentTable) -> PagedKeys {
    let (keys, values) = pool.layer(layer);
    PagedKeys {
        keys,
        values,
        lengths: table.lengths,
        block_table: table.pages,
        table_stride: table.stride,
        page_tokens: pool.shape.page_tokens as u32,
        kv_heads: pool.shape.kv_heads as u32,
        dim: pool.dim as u32,
    }
}
