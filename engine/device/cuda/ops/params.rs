//! Parameter structs as the kernels declare them in `kernels/include/params`.

use super::super::lanes::StateView;

/// State of every beam row after a step.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct BeamState {
    pub(super) node: u64,
    pub(super) score: u64,
    pub(super) token: u64,
    pub(super) live: u64,
    pub(super) ancestors: u64,
}

impl From<StateView> for BeamState {
    fn from(view: StateView) -> BeamState {
        let StateView { node, score, token, live, ancestors } = view;
        BeamState { node, score, token, live, ancestors }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpandParams {
    pub(super) now: BeamState,
    pub(super) next: BeamState,
    pub(super) requests: u64,
    pub(super) row_request: u64,
    pub(super) counts: u64,
    pub(super) ban_ends: u64,
    pub(super) ban_nodes: u64,
    pub(super) codes: u64,
    pub(super) first_child: u64,
    pub(super) tokens: u64,
    pub(super) logits: u64,
    pub(super) lognorm: u64,
    pub(super) parents: u64,
    pub(super) groups: u64,
    pub(super) run_keys: u64,
    pub(super) run_counts: u64,
    pub(super) listed: u64,
    pub(super) candidates: u64,
    pub(super) order: u64,
    pub(super) group_stride: u32,
    pub(super) run_stride: u32,
    pub(super) logits_stride: u32,
    pub(super) lognorm_stride: u32,
    pub(super) level: u32,
    pub(super) rows: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct BeginParams {
    pub(super) state: BeamState,
    pub(super) requests: u64,
    pub(super) counts: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct ForceParams {
    pub(super) now: BeamState,
    pub(super) next: BeamState,
    pub(super) requests: u64,
    pub(super) counts: u64,
    pub(super) logits: u64,
    pub(super) lognorm: u64,
    pub(super) order: u64,
    pub(super) logits_stride: u32,
    pub(super) lognorm_stride: u32,
    pub(super) token: u32,
    pub(super) step: u32,
    pub(super) rows: u32,
    pub(super) reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct EmbedParams {
    pub(super) table: u64,
    pub(super) tokens: u64,
    pub(super) live: u64,
    pub(super) out: u64,
    pub(super) vocabulary: u32,
    pub(super) cols: u32,
    pub(super) out_stride: u32,
    pub(super) reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct NormParams {
    pub(super) x: u64,
    pub(super) weight: u64,
    pub(super) live: u64,
    pub(super) out: u64,
    pub(super) cols: u32,
    pub(super) x_stride: u32,
    pub(super) out_stride: u32,
    pub(super) eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct RowList {
    pub(super) rows: u64,
    pub(super) stride: u32,
    pub(super) reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyParams {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) live: u64,
    pub(super) from_rows: RowList,
    pub(super) to_rows: RowList,
    pub(super) from_stride_bytes: u32,
    pub(super) to_stride_bytes: u32,
    pub(super) row_bytes: u32,
    pub(super) unit_bytes: u32,
}
use super::super::kv::Pool;
use super::super::slots::SegmentTable;

/// One layer of a paged segment, and how a slot finds its pages.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PagedKeys {
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) lengths: u64,
    pub(super) block_table: u64,
    pub(super) table_stride: u32,
    pub(super) page_tokens: u32,
    pub(super) kv_heads: u32,
    pub(super) dim: u32,
}

impl PagedKeys {
    /// A layer of a pool, through the tables of the segment that its pages belong to.
    pub(super) fn new(pool: &Pool, layer: usize, table: SegmentTable) -> PagedKeys {
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
}

/// Attention of token rows over a paged segment.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct HistoryAttentionParams {
    pub(super) query: u64,
    pub(super) out: u64,
    pub(super) tiles: u64,
    pub(super) tile_count: u64,
    pub(super) bias: u64,
    pub(super) kv: PagedKeys,
    pub(super) query_stride: u32,
    pub(super) out_stride: u32,
    pub(super) heads: u32,
    pub(super) head_dim: u32,
    pub(super) max_distance: u32,
    pub(super) mask: u32,
}

/// Norm, rotation and scale of queries and keys; keys and values to where attention reads them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteKvParams {
    pub(super) query: u64,
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) query_out: u64,
    pub(super) query_norm: u64,
    pub(super) key_norm: u64,
    pub(super) cosines: u64,
    pub(super) sines: u64,
    pub(super) live: u64,
    pub(super) row_slot: u64,
    pub(super) row_position: u64,
    pub(super) row_request: u64,
    pub(super) requests: u64,
    pub(super) prefix_lengths: u64,
    pub(super) kv: PagedKeys,
    pub(super) query_stride: u32,
    pub(super) key_stride: u32,
    pub(super) value_stride: u32,
    pub(super) query_out_stride: u32,
    pub(super) heads: u32,
    pub(super) head_dim: u32,
    pub(super) own_step: u32,
    pub(super) query_scale: f32,
    pub(super) eps: f32,
    pub(super) reserved: u32,
}
