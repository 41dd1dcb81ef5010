//! Made by `tools/kernel-params` from `kernels/include/params.h`. Not edited by hand.
//!
//! Size and offsets of every struct are asserted at compile time.

pub const DTYPE_F32: u32 = 0;
pub const DTYPE_BF16: u32 = 1;
pub const DTYPE_F16: u32 = 2;
pub const SAMPLING_NONE: u32 = 0;
pub const SAMPLING_INDEPENDENT: u32 = 1;
pub const SAMPLING_DISTINCT: u32 = 2;
pub const QUERY_TILE_ROWS: u32 = 64;
pub const MAX_LEVELS: u32 = 8;
pub const BEAM_SPLIT_TOKENS: u32 = 256;
pub const BEAM_MAX_SPLITS: u32 = 8;
pub const BEAM_BLOCK_SPLITS: u32 = 2;
pub const MASKED_NORMS: u32 = 4;
pub const EXPAND_GROUP: u32 = 32;
pub const EXPAND_RUN_GROUPS: u32 = 8;
pub const EXPAND_LISTED: u32 = 10;
pub const EXPAND_CANDIDATES: u32 = 40;
pub const EXPAND_ORDER: u32 = 2;
pub const EXPAND_NONE: u32 = 4294967295;
pub const GEMM_GROUP: u32 = 32;
pub const GEMM_K_PADDING: u32 = 64;
pub const HEAD_PARTIAL_COLUMNS: u32 = 64;
pub const MASK_FULL: u32 = 0;
pub const MASK_CAUSAL: u32 = 1;
pub const ACTIVATION_NONE: u32 = 0;
pub const ACTIVATION_RELU: u32 = 1;
pub const ACTIVATION_GELU_TANH: u32 = 2;
pub const ACTIVATION_GELU_ERF: u32 = 3;
pub const ACTIVATION_SILU: u32 = 4;
pub const COMBINE_STORE: u32 = 0;
pub const COMBINE_ADD: u32 = 1;
pub const COMBINE_GATE: u32 = 2;
#[doc = " One layer of a paged segment, and how a slot finds its pages."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct PagedKeys {
    #[doc = " T\\[pages\\]\\[kv\\_heads\\]\\[page\\_tokens\\]\\[dim\\]; T is the compute type"]
    pub keys: u64,
    #[doc = " the same shape"]
    pub values: u64,
    #[doc = " u32: valid tokens of slot s at lengths\\[s \\* table\\_stride\\]"]
    pub lengths: u64,
    #[doc = " u32: page ids of slot s from block\\_table\\[s \\* table\\_stride\\] on"]
    pub block_table: u64,
    pub table_stride: u32,
    pub page_tokens: u32,
    pub kv_heads: u32,
    #[doc = " head\\_dim rounded up to one of 32, 64, 128, 256; the padding is zero"]
    pub dim: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PagedKeys"][::core::mem::size_of::<PagedKeys>() - 48usize];
    ["Alignment of PagedKeys"][::core::mem::align_of::<PagedKeys>() - 8usize];
    ["Offset of field: PagedKeys::keys"][::core::mem::offset_of!(PagedKeys, keys) - 0usize];
    ["Offset of field: PagedKeys::values"][::core::mem::offset_of!(PagedKeys, values) - 8usize];
    ["Offset of field: PagedKeys::lengths"][::core::mem::offset_of!(PagedKeys, lengths) - 16usize];
    ["Offset of field: PagedKeys::block_table"][::core::mem::offset_of!(PagedKeys, block_table) - 24usize];
    ["Offset of field: PagedKeys::table_stride"][::core::mem::offset_of!(PagedKeys, table_stride) - 32usize];
    ["Offset of field: PagedKeys::page_tokens"][::core::mem::offset_of!(PagedKeys, page_tokens) - 36usize];
    ["Offset of field: PagedKeys::kv_heads"][::core::mem::offset_of!(PagedKeys, kv_heads) - 40usize];
    ["Offset of field: PagedKeys::dim"][::core::mem::offset_of!(PagedKeys, dim) - 44usize];
};
#[doc = " Own tokens of a cohort's beams, one layer."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct OwnKeys {
    #[doc = " T\\[steps\\]\\[rows\\]\\[kv\\_heads\\]\\[dim\\]"]
    pub keys: u64,
    #[doc = " the same shape"]
    pub values: u64,
    #[doc = " u32\\[steps\\]\\[rows\\]: row at which the token of that step was decoded, of the current beams"]
    pub ancestors: u64,
    #[doc = " row capacity of the slab and of the ancestor table"]
    pub rows: u32,
    #[doc = " step being decoded: steps 0 ..= step are attended to"]
    pub step: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of OwnKeys"][::core::mem::size_of::<OwnKeys>() - 32usize];
    ["Alignment of OwnKeys"][::core::mem::align_of::<OwnKeys>() - 8usize];
    ["Offset of field: OwnKeys::keys"][::core::mem::offset_of!(OwnKeys, keys) - 0usize];
    ["Offset of field: OwnKeys::values"][::core::mem::offset_of!(OwnKeys, values) - 8usize];
    ["Offset of field: OwnKeys::ancestors"][::core::mem::offset_of!(OwnKeys, ancestors) - 16usize];
    ["Offset of field: OwnKeys::rows"][::core::mem::offset_of!(OwnKeys, rows) - 24usize];
    ["Offset of field: OwnKeys::step"][::core::mem::offset_of!(OwnKeys, step) - 28usize];
};
#[doc = " State of every beam row after a step; a lane has two and steps alternate between them."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BeamState {
    #[doc = " u32\\[rows\\] node of the newest level"]
    pub node: u64,
    #[doc = " f32\\[rows\\]"]
    pub score: u64,
    #[doc = " u32\\[rows\\] newest token"]
    pub token: u64,
    #[doc = " u32\\[requests\\] live beams of each request"]
    pub live: u64,
    #[doc = " u32\\[steps\\]\\[rows\\]"]
    pub ancestors: u64,
    #[doc = " f32\\[rows\\] sum of behaviour log-probabilities; of distinct samples only"]
    pub log_prob: u64,
    #[doc = " f32\\[rows\\] perturbed log-probability; of distinct samples only"]
    pub key: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BeamState"][::core::mem::size_of::<BeamState>() - 56usize];
    ["Alignment of BeamState"][::core::mem::align_of::<BeamState>() - 8usize];
    ["Offset of field: BeamState::node"][::core::mem::offset_of!(BeamState, node) - 0usize];
    ["Offset of field: BeamState::score"][::core::mem::offset_of!(BeamState, score) - 8usize];
    ["Offset of field: BeamState::token"][::core::mem::offset_of!(BeamState, token) - 16usize];
    ["Offset of field: BeamState::live"][::core::mem::offset_of!(BeamState, live) - 24usize];
    ["Offset of field: BeamState::ancestors"][::core::mem::offset_of!(BeamState, ancestors) - 32usize];
    ["Offset of field: BeamState::log_prob"][::core::mem::offset_of!(BeamState, log_prob) - 40usize];
    ["Offset of field: BeamState::key"][::core::mem::offset_of!(BeamState, key) - 48usize];
};
#[doc = " One request of a cohort."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct RequestEntry {
    pub slot: u32,
    #[doc = " beam width"]
    pub beams: u32,
    #[doc = " its rows are first\\_row .. first\\_row + beams"]
    pub first_row: u32,
    #[doc = " 1 + its mask slot; 0: it has none, and every node of the trie is allowed"]
    pub mask: u32,
    #[doc = " SAMPLING\\_NONE, .."]
    pub sampling: u32,
    pub seed_low: u32,
    pub seed_high: u32,
    #[doc = " 1 / temperature"]
    pub scale: f32,
    #[doc = " perturbed log-probability of the root, of distinct samples"]
    pub root_key: f32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RequestEntry"][::core::mem::size_of::<RequestEntry>() - 40usize];
    ["Alignment of RequestEntry"][::core::mem::align_of::<RequestEntry>() - 4usize];
    ["Offset of field: RequestEntry::slot"][::core::mem::offset_of!(RequestEntry, slot) - 0usize];
    ["Offset of field: RequestEntry::beams"][::core::mem::offset_of!(RequestEntry, beams) - 4usize];
    ["Offset of field: RequestEntry::first_row"][::core::mem::offset_of!(RequestEntry, first_row) - 8usize];
    ["Offset of field: RequestEntry::mask"][::core::mem::offset_of!(RequestEntry, mask) - 12usize];
    ["Offset of field: RequestEntry::sampling"][::core::mem::offset_of!(RequestEntry, sampling) - 16usize];
    ["Offset of field: RequestEntry::seed_low"][::core::mem::offset_of!(RequestEntry, seed_low) - 20usize];
    ["Offset of field: RequestEntry::seed_high"][::core::mem::offset_of!(RequestEntry, seed_high) - 24usize];
    ["Offset of field: RequestEntry::scale"][::core::mem::offset_of!(RequestEntry, scale) - 28usize];
    ["Offset of field: RequestEntry::root_key"][::core::mem::offset_of!(RequestEntry, root_key) - 32usize];
    ["Offset of field: RequestEntry::reserved"][::core::mem::offset_of!(RequestEntry, reserved) - 36usize];
};
#[doc = " A block of query rows that belong to one slot and stand one after another."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct QueryTile {
    #[doc = " of the query and output buffers"]
    pub first_row: u32,
    #[doc = " 1 ..= QUERY\\_TILE\\_ROWS"]
    pub rows: u32,
    pub slot: u32,
    #[doc = " position of the first row in its segment"]
    pub first_position: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of QueryTile"][::core::mem::size_of::<QueryTile>() - 16usize];
    ["Alignment of QueryTile"][::core::mem::align_of::<QueryTile>() - 4usize];
    ["Offset of field: QueryTile::first_row"][::core::mem::offset_of!(QueryTile, first_row) - 0usize];
    ["Offset of field: QueryTile::rows"][::core::mem::offset_of!(QueryTile, rows) - 4usize];
    ["Offset of field: QueryTile::slot"][::core::mem::offset_of!(QueryTile, slot) - 8usize];
    ["Offset of field: QueryTile::first_position"][::core::mem::offset_of!(QueryTile, first_position) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct PositionsParams {
    #[doc = " T\\[positions\\]\\[cols\\], as in the file"]
    pub table: u64,
    #[doc = " u32: rows now"]
    pub live: u64,
    #[doc = " u32\\[rows\\] of a token lane; 0 for beams"]
    pub row_position: u64,
    #[doc = " u32\\[rows\\] of a cohort lane; 0 for tokens"]
    pub row_request: u64,
    #[doc = " RequestEntry\\[\\] of a cohort lane; 0 for tokens"]
    pub requests: u64,
    #[doc = " u32: valid prefix tokens of slot s at prefix\\_lengths\\[s \\* slot\\_stride\\]; 0 for tokens"]
    pub prefix_lengths: u64,
    #[doc = " f32\\[rows\\]\\[out\\_stride\\], added to"]
    pub out: u64,
    #[doc = " rows of the table"]
    pub positions: u32,
    pub cols: u32,
    pub out_stride: u32,
    pub slot_stride: u32,
    #[doc = " of the beams' newest token; 0 for tokens"]
    pub step: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PositionsParams"][::core::mem::size_of::<PositionsParams>() - 80usize];
    ["Alignment of PositionsParams"][::core::mem::align_of::<PositionsParams>() - 8usize];
    ["Offset of field: PositionsParams::table"][::core::mem::offset_of!(PositionsParams, table) - 0usize];
    ["Offset of field: PositionsParams::live"][::core::mem::offset_of!(PositionsParams, live) - 8usize];
    ["Offset of field: PositionsParams::row_position"]
        [::core::mem::offset_of!(PositionsParams, row_position) - 16usize];
    ["Offset of field: PositionsParams::row_request"][::core::mem::offset_of!(PositionsParams, row_request) - 24usize];
    ["Offset of field: PositionsParams::requests"][::core::mem::offset_of!(PositionsParams, requests) - 32usize];
    ["Offset of field: PositionsParams::prefix_lengths"]
        [::core::mem::offset_of!(PositionsParams, prefix_lengths) - 40usize];
    ["Offset of field: PositionsParams::out"][::core::mem::offset_of!(PositionsParams, out) - 48usize];
    ["Offset of field: PositionsParams::positions"][::core::mem::offset_of!(PositionsParams, positions) - 56usize];
    ["Offset of field: PositionsParams::cols"][::core::mem::offset_of!(PositionsParams, cols) - 60usize];
    ["Offset of field: PositionsParams::out_stride"][::core::mem::offset_of!(PositionsParams, out_stride) - 64usize];
    ["Offset of field: PositionsParams::slot_stride"][::core::mem::offset_of!(PositionsParams, slot_stride) - 68usize];
    ["Offset of field: PositionsParams::step"][::core::mem::offset_of!(PositionsParams, step) - 72usize];
    ["Offset of field: PositionsParams::reserved"][::core::mem::offset_of!(PositionsParams, reserved) - 76usize];
};
#[doc = " Of the kernels over shared keys and of the one that merges their splits."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BeamAttentionParams {
    #[doc = " T\\[rows\\]\\[query\\_stride\\]: heads of head\\_dim elements, already scaled"]
    pub query: u64,
    #[doc = " T\\[rows\\]\\[out\\_stride\\]: the same columns"]
    pub out: u64,
    #[doc = " RequestEntry\\[\\]"]
    pub requests: u64,
    #[doc = " u32\\[4\\]: requests in element 0"]
    pub counts: u64,
    #[doc = " u32\\[requests\\]: live beams"]
    pub live: u64,
    #[doc = " f32\\[heads\\]\\[2 max\\_distance + 1\\], or 0; only with own tokens"]
    pub bias: u64,
    #[doc = " What the splits of a row found, until they are merged: f32\\[BEAM\\_MAX\\_SPLITS\\]\\[partial\\_rows\\]\\[heads\\]\\[dim\\] and\nf32\\[BEAM\\_MAX\\_SPLITS\\]\\[partial\\_rows\\]\\[heads\\]\\[2\\] (maximum, denominator). 0: each block walks all splits and stores \\`out\\`."]
    pub partial_output: u64,
    pub partial_softmax: u64,
    #[doc = " keys 0: none"]
    pub shared: PagedKeys,
    #[doc = " keys 0: none"]
    pub own: OwnKeys,
    pub query_stride: u32,
    pub out_stride: u32,
    #[doc = " a multiple of kv\\_heads"]
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    #[doc = " of keys, values and partial outputs: 32, 64, 128 or 256"]
    pub dim: u32,
    pub max_distance: u32,
    pub partial_rows: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BeamAttentionParams"][::core::mem::size_of::<BeamAttentionParams>() - 176usize];
    ["Alignment of BeamAttentionParams"][::core::mem::align_of::<BeamAttentionParams>() - 8usize];
    ["Offset of field: BeamAttentionParams::query"][::core::mem::offset_of!(BeamAttentionParams, query) - 0usize];
    ["Offset of field: BeamAttentionParams::out"][::core::mem::offset_of!(BeamAttentionParams, out) - 8usize];
    ["Offset of field: BeamAttentionParams::requests"]
        [::core::mem::offset_of!(BeamAttentionParams, requests) - 16usize];
    ["Offset of field: BeamAttentionParams::counts"][::core::mem::offset_of!(BeamAttentionParams, counts) - 24usize];
    ["Offset of field: BeamAttentionParams::live"][::core::mem::offset_of!(BeamAttentionParams, live) - 32usize];
    ["Offset of field: BeamAttentionParams::bias"][::core::mem::offset_of!(BeamAttentionParams, bias) - 40usize];
    ["Offset of field: BeamAttentionParams::partial_output"]
        [::core::mem::offset_of!(BeamAttentionParams, partial_output) - 48usize];
    ["Offset of field: BeamAttentionParams::partial_softmax"]
        [::core::mem::offset_of!(BeamAttentionParams, partial_softmax) - 56usize];
    ["Offset of field: BeamAttentionParams::shared"][::core::mem::offset_of!(BeamAttentionParams, shared) - 64usize];
    ["Offset of field: BeamAttentionParams::own"][::core::mem::offset_of!(BeamAttentionParams, own) - 112usize];
    ["Offset of field: BeamAttentionParams::query_stride"]
        [::core::mem::offset_of!(BeamAttentionParams, query_stride) - 144usize];
    ["Offset of field: BeamAttentionParams::out_stride"]
        [::core::mem::offset_of!(BeamAttentionParams, out_stride) - 148usize];
    ["Offset of field: BeamAttentionParams::heads"][::core::mem::offset_of!(BeamAttentionParams, heads) - 152usize];
    ["Offset of field: BeamAttentionParams::kv_heads"]
        [::core::mem::offset_of!(BeamAttentionParams, kv_heads) - 156usize];
    ["Offset of field: BeamAttentionParams::head_dim"]
        [::core::mem::offset_of!(BeamAttentionParams, head_dim) - 160usize];
    ["Offset of field: BeamAttentionParams::dim"][::core::mem::offset_of!(BeamAttentionParams, dim) - 164usize];
    ["Offset of field: BeamAttentionParams::max_distance"]
        [::core::mem::offset_of!(BeamAttentionParams, max_distance) - 168usize];
    ["Offset of field: BeamAttentionParams::partial_rows"]
        [::core::mem::offset_of!(BeamAttentionParams, partial_rows) - 172usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BeginParams {
    #[doc = " the beams before step 0"]
    pub state: BeamState,
    #[doc = " RequestEntry\\[requests\\]"]
    pub requests: u64,
    #[doc = " u32\\[4\\]: requests, end of the last row"]
    pub counts: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BeginParams"][::core::mem::size_of::<BeginParams>() - 72usize];
    ["Alignment of BeginParams"][::core::mem::align_of::<BeginParams>() - 8usize];
    ["Offset of field: BeginParams::state"][::core::mem::offset_of!(BeginParams, state) - 0usize];
    ["Offset of field: BeginParams::requests"][::core::mem::offset_of!(BeginParams, requests) - 56usize];
    ["Offset of field: BeginParams::counts"][::core::mem::offset_of!(BeginParams, counts) - 64usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct ForceParams {
    #[doc = " beams before this step"]
    pub now: BeamState,
    #[doc = " beams after it"]
    pub next: BeamState,
    #[doc = " RequestEntry\\[requests\\]"]
    pub requests: u64,
    #[doc = " u32\\[4\\]: requests, end of the last row"]
    pub counts: u64,
    #[doc = " f32\\[rows\\]\\[logits\\_stride\\]: the token's logit in column 0; 0 when the token is not scored"]
    pub logits: u64,
    #[doc = " f32\\[rows\\]\\[lognorm\\_stride\\]; 0 when the token is not scored"]
    pub lognorm: u64,
    #[doc = " f32\\[steps\\]\\[rows\\]\\[2\\]"]
    pub log_probs: u64,
    #[doc = " scratch u64\\[rows\\]\\[EXPAND\\_ORDER\\]"]
    pub order: u64,
    pub logits_stride: u32,
    pub lognorm_stride: u32,
    pub token: u32,
    #[doc = " tokens chosen before this one"]
    pub step: u32,
    #[doc = " row capacity of the ancestor tables"]
    pub rows: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ForceParams"][::core::mem::size_of::<ForceParams>() - 184usize];
    ["Alignment of ForceParams"][::core::mem::align_of::<ForceParams>() - 8usize];
    ["Offset of field: ForceParams::now"][::core::mem::offset_of!(ForceParams, now) - 0usize];
    ["Offset of field: ForceParams::next"][::core::mem::offset_of!(ForceParams, next) - 56usize];
    ["Offset of field: ForceParams::requests"][::core::mem::offset_of!(ForceParams, requests) - 112usize];
    ["Offset of field: ForceParams::counts"][::core::mem::offset_of!(ForceParams, counts) - 120usize];
    ["Offset of field: ForceParams::logits"][::core::mem::offset_of!(ForceParams, logits) - 128usize];
    ["Offset of field: ForceParams::lognorm"][::core::mem::offset_of!(ForceParams, lognorm) - 136usize];
    ["Offset of field: ForceParams::log_probs"][::core::mem::offset_of!(ForceParams, log_probs) - 144usize];
    ["Offset of field: ForceParams::order"][::core::mem::offset_of!(ForceParams, order) - 152usize];
    ["Offset of field: ForceParams::logits_stride"][::core::mem::offset_of!(ForceParams, logits_stride) - 160usize];
    ["Offset of field: ForceParams::lognorm_stride"][::core::mem::offset_of!(ForceParams, lognorm_stride) - 164usize];
    ["Offset of field: ForceParams::token"][::core::mem::offset_of!(ForceParams, token) - 168usize];
    ["Offset of field: ForceParams::step"][::core::mem::offset_of!(ForceParams, step) - 172usize];
    ["Offset of field: ForceParams::rows"][::core::mem::offset_of!(ForceParams, rows) - 176usize];
    ["Offset of field: ForceParams::reserved"][::core::mem::offset_of!(ForceParams, reserved) - 180usize];
};
#[doc = " Which row the i-th copy reads or writes: word i \\* stride of the list, or i itself when there is no list."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct RowList {
    #[doc = " u32\\[count\\]\\[stride\\], or 0"]
    pub rows: u64,
    pub stride: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowList"][::core::mem::size_of::<RowList>() - 16usize];
    ["Alignment of RowList"][::core::mem::align_of::<RowList>() - 8usize];
    ["Offset of field: RowList::rows"][::core::mem::offset_of!(RowList, rows) - 0usize];
    ["Offset of field: RowList::stride"][::core::mem::offset_of!(RowList, stride) - 8usize];
    ["Offset of field: RowList::reserved"][::core::mem::offset_of!(RowList, reserved) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct CopyParams {
    pub from: u64,
    pub to: u64,
    #[doc = " u32: copies now"]
    pub live: u64,
    pub from_rows: RowList,
    pub to_rows: RowList,
    pub from_stride_bytes: u32,
    pub to_stride_bytes: u32,
    pub row_bytes: u32,
    #[doc = " 16, 4 or 2: divides both addresses, both strides and row\\_bytes"]
    pub unit_bytes: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CopyParams"][::core::mem::size_of::<CopyParams>() - 72usize];
    ["Alignment of CopyParams"][::core::mem::align_of::<CopyParams>() - 8usize];
    ["Offset of field: CopyParams::from"][::core::mem::offset_of!(CopyParams, from) - 0usize];
    ["Offset of field: CopyParams::to"][::core::mem::offset_of!(CopyParams, to) - 8usize];
    ["Offset of field: CopyParams::live"][::core::mem::offset_of!(CopyParams, live) - 16usize];
    ["Offset of field: CopyParams::from_rows"][::core::mem::offset_of!(CopyParams, from_rows) - 24usize];
    ["Offset of field: CopyParams::to_rows"][::core::mem::offset_of!(CopyParams, to_rows) - 40usize];
    ["Offset of field: CopyParams::from_stride_bytes"]
        [::core::mem::offset_of!(CopyParams, from_stride_bytes) - 56usize];
    ["Offset of field: CopyParams::to_stride_bytes"][::core::mem::offset_of!(CopyParams, to_stride_bytes) - 60usize];
    ["Offset of field: CopyParams::row_bytes"][::core::mem::offset_of!(CopyParams, row_bytes) - 64usize];
    ["Offset of field: CopyParams::unit_bytes"][::core::mem::offset_of!(CopyParams, unit_bytes) - 68usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct EmbedParams {
    #[doc = " T\\[vocabulary\\]\\[cols\\], as in the file"]
    pub table: u64,
    #[doc = " u32\\[rows\\]"]
    pub tokens: u64,
    #[doc = " u32: rows now"]
    pub live: u64,
    #[doc = " f32\\[rows\\]\\[out\\_stride\\]"]
    pub out: u64,
    pub vocabulary: u32,
    pub cols: u32,
    pub out_stride: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EmbedParams"][::core::mem::size_of::<EmbedParams>() - 48usize];
    ["Alignment of EmbedParams"][::core::mem::align_of::<EmbedParams>() - 8usize];
    ["Offset of field: EmbedParams::table"][::core::mem::offset_of!(EmbedParams, table) - 0usize];
    ["Offset of field: EmbedParams::tokens"][::core::mem::offset_of!(EmbedParams, tokens) - 8usize];
    ["Offset of field: EmbedParams::live"][::core::mem::offset_of!(EmbedParams, live) - 16usize];
    ["Offset of field: EmbedParams::out"][::core::mem::offset_of!(EmbedParams, out) - 24usize];
    ["Offset of field: EmbedParams::vocabulary"][::core::mem::offset_of!(EmbedParams, vocabulary) - 32usize];
    ["Offset of field: EmbedParams::cols"][::core::mem::offset_of!(EmbedParams, cols) - 36usize];
    ["Offset of field: EmbedParams::out_stride"][::core::mem::offset_of!(EmbedParams, out_stride) - 40usize];
    ["Offset of field: EmbedParams::reserved"][::core::mem::offset_of!(EmbedParams, reserved) - 44usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct EmbedDenseParams {
    #[doc = " f32\\[rows\\]\\[cols\\]"]
    pub values: u64,
    #[doc = " u32: rows now"]
    pub live: u64,
    #[doc = " T\\[rows\\]\\[out\\_stride\\]"]
    pub out: u64,
    pub cols: u32,
    pub out_stride: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EmbedDenseParams"][::core::mem::size_of::<EmbedDenseParams>() - 32usize];
    ["Alignment of EmbedDenseParams"][::core::mem::align_of::<EmbedDenseParams>() - 8usize];
    ["Offset of field: EmbedDenseParams::values"][::core::mem::offset_of!(EmbedDenseParams, values) - 0usize];
    ["Offset of field: EmbedDenseParams::live"][::core::mem::offset_of!(EmbedDenseParams, live) - 8usize];
    ["Offset of field: EmbedDenseParams::out"][::core::mem::offset_of!(EmbedDenseParams, out) - 16usize];
    ["Offset of field: EmbedDenseParams::cols"][::core::mem::offset_of!(EmbedDenseParams, cols) - 24usize];
    ["Offset of field: EmbedDenseParams::out_stride"][::core::mem::offset_of!(EmbedDenseParams, out_stride) - 28usize];
};
#[doc = " At one level."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct Legality {
    #[doc = " u32\\[requests\\]\\[MAX\\_LEVELS + 1\\]"]
    pub ban_ends: u64,
    #[doc = " u32\\[\\] sorted within a request's level"]
    pub ban_nodes: u64,
    #[doc = " u32\\[mask slots\\]\\[mask\\_stride\\]: a bit a node of the level"]
    pub masks: u64,
    #[doc = " words between slots"]
    pub mask_stride: u32,
    pub level: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Legality"][::core::mem::size_of::<Legality>() - 32usize];
    ["Alignment of Legality"][::core::mem::align_of::<Legality>() - 8usize];
    ["Offset of field: Legality::ban_ends"][::core::mem::offset_of!(Legality, ban_ends) - 0usize];
    ["Offset of field: Legality::ban_nodes"][::core::mem::offset_of!(Legality, ban_nodes) - 8usize];
    ["Offset of field: Legality::masks"][::core::mem::offset_of!(Legality, masks) - 16usize];
    ["Offset of field: Legality::mask_stride"][::core::mem::offset_of!(Legality, mask_stride) - 24usize];
    ["Offset of field: Legality::level"][::core::mem::offset_of!(Legality, level) - 28usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct MaskedParams {
    #[doc = " beams before this level"]
    pub now: BeamState,
    #[doc = " RequestEntry\\[requests\\]"]
    pub requests: u64,
    #[doc = " u32\\[rows\\]"]
    pub row_request: u64,
    #[doc = " u32\\[4\\]: requests, end of the last row"]
    pub counts: u64,
    #[doc = " which children count"]
    pub legal: Legality,
    #[doc = " u16\\[nodes of the level\\]"]
    pub codes: u64,
    #[doc = " u32\\[nodes of the level above + 1\\]; level 0: of the root"]
    pub first_child: u64,
    #[doc = " f32\\[rows\\]\\[logits\\_stride\\]; at level 0 a row a request, else a row a beam"]
    pub logits: u64,
    #[doc = " f32\\[rows\\]\\[MASKED\\_NORMS\\], rows as those of \\`logits\\`"]
    pub norms: u64,
    #[doc = " f32\\[rows\\]\\[key\\_stride\\]: perturbed log-probability of each child of a beam of distinct samples"]
    pub keys: u64,
    #[doc = " u32\\[rows\\]: place of the child that an independent sequence took, EXPAND\\_NONE if none"]
    pub draws: u64,
    pub logits_stride: u32,
    #[doc = " children that the widest node of the trie has"]
    pub key_stride: u32,
    pub level: u32,
    #[doc = " 1 when requests that are not sampled need the log-normaliser too"]
    pub normalizes: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MaskedParams"][::core::mem::size_of::<MaskedParams>() - 176usize];
    ["Alignment of MaskedParams"][::core::mem::align_of::<MaskedParams>() - 8usize];
    ["Offset of field: MaskedParams::now"][::core::mem::offset_of!(MaskedParams, now) - 0usize];
    ["Offset of field: MaskedParams::requests"][::core::mem::offset_of!(MaskedParams, requests) - 56usize];
    ["Offset of field: MaskedParams::row_request"][::core::mem::offset_of!(MaskedParams, row_request) - 64usize];
    ["Offset of field: MaskedParams::counts"][::core::mem::offset_of!(MaskedParams, counts) - 72usize];
    ["Offset of field: MaskedParams::legal"][::core::mem::offset_of!(MaskedParams, legal) - 80usize];
    ["Offset of field: MaskedParams::codes"][::core::mem::offset_of!(MaskedParams, codes) - 112usize];
    ["Offset of field: MaskedParams::first_child"][::core::mem::offset_of!(MaskedParams, first_child) - 120usize];
    ["Offset of field: MaskedParams::logits"][::core::mem::offset_of!(MaskedParams, logits) - 128usize];
    ["Offset of field: MaskedParams::norms"][::core::mem::offset_of!(MaskedParams, norms) - 136usize];
    ["Offset of field: MaskedParams::keys"][::core::mem::offset_of!(MaskedParams, keys) - 144usize];
    ["Offset of field: MaskedParams::draws"][::core::mem::offset_of!(MaskedParams, draws) - 152usize];
    ["Offset of field: MaskedParams::logits_stride"][::core::mem::offset_of!(MaskedParams, logits_stride) - 160usize];
    ["Offset of field: MaskedParams::key_stride"][::core::mem::offset_of!(MaskedParams, key_stride) - 164usize];
    ["Offset of field: MaskedParams::level"][::core::mem::offset_of!(MaskedParams, level) - 168usize];
    ["Offset of field: MaskedParams::normalizes"][::core::mem::offset_of!(MaskedParams, normalizes) - 172usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct ExpandParams {
    #[doc = " beams before this level"]
    pub now: BeamState,
    #[doc = " beams after it"]
    pub next: BeamState,
    #[doc = " RequestEntry\\[requests\\]"]
    pub requests: u64,
    #[doc = " u32\\[rows\\]"]
    pub row_request: u64,
    #[doc = " u32\\[4\\]: requests, end of the last row"]
    pub counts: u64,
    #[doc = " which children are candidates"]
    pub legal: Legality,
    #[doc = " u16\\[nodes of the level\\]"]
    pub codes: u64,
    #[doc = " u32\\[nodes of the level above + 1\\]; level 0: of the root"]
    pub first_child: u64,
    #[doc = " u32\\[codes of the level\\]"]
    pub tokens: u64,
    #[doc = " f32\\[rows\\]\\[logits\\_stride\\]; at level 0 a row a request, else a row a beam"]
    pub logits: u64,
    #[doc = " f32\\[rows\\]\\[lognorm\\_stride\\]"]
    pub lognorm: u64,
    #[doc = " from expand\\_masked: f32\\[rows\\]\\[MASKED\\_NORMS\\]"]
    pub norms: u64,
    #[doc = " from expand\\_masked: f32\\[rows\\]\\[key\\_stride\\]"]
    pub keys: u64,
    #[doc = " from expand\\_masked: u32\\[rows\\]"]
    pub draws: u64,
    #[doc = " f32\\[steps\\]\\[rows\\]\\[2\\]: behaviour and raw log-probability of the token of that step and row"]
    pub log_probs: u64,
    #[doc = " scratch: u32\\[rows\\]\\[4\\]: score, log-normaliser, first child, children"]
    pub parents: u64,
    #[doc = " scratch: u32\\[rows\\]\\[group\\_stride\\]\\[2\\]: best score, legal children"]
    pub groups: u64,
    #[doc = " scratch: u64\\[rows\\]\\[run\\_stride\\]"]
    pub run_keys: u64,
    #[doc = " scratch: u32\\[requests\\]; zero before expand\\_scan, and expand\\_finish leaves it so"]
    pub run_counts: u64,
    #[doc = " scratch: u64\\[rows\\]\\[EXPAND\\_LISTED\\]"]
    pub listed: u64,
    #[doc = " scratch: u64\\[rows\\]\\[EXPAND\\_CANDIDATES\\]"]
    pub candidates: u64,
    #[doc = " scratch: u64\\[rows\\]\\[EXPAND\\_ORDER\\]"]
    pub order: u64,
    #[doc = " groups that the widest node of the trie has"]
    pub group_stride: u32,
    #[doc = " runs that it has"]
    pub run_stride: u32,
    pub logits_stride: u32,
    pub lognorm_stride: u32,
    pub key_stride: u32,
    pub level: u32,
    #[doc = " row capacity of the ancestor and log-probability tables"]
    pub rows: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ExpandParams"][::core::mem::size_of::<ExpandParams>() - 328usize];
    ["Alignment of ExpandParams"][::core::mem::align_of::<ExpandParams>() - 8usize];
    ["Offset of field: ExpandParams::now"][::core::mem::offset_of!(ExpandParams, now) - 0usize];
    ["Offset of field: ExpandParams::next"][::core::mem::offset_of!(ExpandParams, next) - 56usize];
    ["Offset of field: ExpandParams::requests"][::core::mem::offset_of!(ExpandParams, requests) - 112usize];
    ["Offset of field: ExpandParams::row_request"][::core::mem::offset_of!(ExpandParams, row_request) - 120usize];
    ["Offset of field: ExpandParams::counts"][::core::mem::offset_of!(ExpandParams, counts) - 128usize];
    ["Offset of field: ExpandParams::legal"][::core::mem::offset_of!(ExpandParams, legal) - 136usize];
    ["Offset of field: ExpandParams::codes"][::core::mem::offset_of!(ExpandParams, codes) - 168usize];
    ["Offset of field: ExpandParams::first_child"][::core::mem::offset_of!(ExpandParams, first_child) - 176usize];
    ["Offset of field: ExpandParams::tokens"][::core::mem::offset_of!(ExpandParams, tokens) - 184usize];
    ["Offset of field: ExpandParams::logits"][::core::mem::offset_of!(ExpandParams, logits) - 192usize];
    ["Offset of field: ExpandParams::lognorm"][::core::mem::offset_of!(ExpandParams, lognorm) - 200usize];
    ["Offset of field: ExpandParams::norms"][::core::mem::offset_of!(ExpandParams, norms) - 208usize];
    ["Offset of field: ExpandParams::keys"][::core::mem::offset_of!(ExpandParams, keys) - 216usize];
    ["Offset of field: ExpandParams::draws"][::core::mem::offset_of!(ExpandParams, draws) - 224usize];
    ["Offset of field: ExpandParams::log_probs"][::core::mem::offset_of!(ExpandParams, log_probs) - 232usize];
    ["Offset of field: ExpandParams::parents"][::core::mem::offset_of!(ExpandParams, parents) - 240usize];
    ["Offset of field: ExpandParams::groups"][::core::mem::offset_of!(ExpandParams, groups) - 248usize];
    ["Offset of field: ExpandParams::run_keys"][::core::mem::offset_of!(ExpandParams, run_keys) - 256usize];
    ["Offset of field: ExpandParams::run_counts"][::core::mem::offset_of!(ExpandParams, run_counts) - 264usize];
    ["Offset of field: ExpandParams::listed"][::core::mem::offset_of!(ExpandParams, listed) - 272usize];
    ["Offset of field: ExpandParams::candidates"][::core::mem::offset_of!(ExpandParams, candidates) - 280usize];
    ["Offset of field: ExpandParams::order"][::core::mem::offset_of!(ExpandParams, order) - 288usize];
    ["Offset of field: ExpandParams::group_stride"][::core::mem::offset_of!(ExpandParams, group_stride) - 296usize];
    ["Offset of field: ExpandParams::run_stride"][::core::mem::offset_of!(ExpandParams, run_stride) - 300usize];
    ["Offset of field: ExpandParams::logits_stride"][::core::mem::offset_of!(ExpandParams, logits_stride) - 304usize];
    ["Offset of field: ExpandParams::lognorm_stride"][::core::mem::offset_of!(ExpandParams, lognorm_stride) - 308usize];
    ["Offset of field: ExpandParams::key_stride"][::core::mem::offset_of!(ExpandParams, key_stride) - 312usize];
    ["Offset of field: ExpandParams::level"][::core::mem::offset_of!(ExpandParams, level) - 316usize];
    ["Offset of field: ExpandParams::rows"][::core::mem::offset_of!(ExpandParams, rows) - 320usize];
    ["Offset of field: ExpandParams::reserved"][::core::mem::offset_of!(ExpandParams, reserved) - 324usize];
};
#[doc = " x W^T of the rows that live now."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct Product {
    #[doc = " T\\[rows\\]\\[x\\_stride\\], 16-byte aligned; columns from \\`k\\` on are not read"]
    pub x: u64,
    #[doc = " T, packed as engine/device/cuda/pack.rs says, from the first group that is wanted"]
    pub weight: u64,
    #[doc = " u32\\[1\\]: rows that there are"]
    pub live: u64,
    pub x_stride: u32,
    #[doc = " columns of x"]
    pub k: u32,
    pub k_padded: u32,
    #[doc = " groups of packed columns to compute"]
    pub groups: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Product"][::core::mem::size_of::<Product>() - 40usize];
    ["Alignment of Product"][::core::mem::align_of::<Product>() - 8usize];
    ["Offset of field: Product::x"][::core::mem::offset_of!(Product, x) - 0usize];
    ["Offset of field: Product::weight"][::core::mem::offset_of!(Product, weight) - 8usize];
    ["Offset of field: Product::live"][::core::mem::offset_of!(Product, live) - 16usize];
    ["Offset of field: Product::x_stride"][::core::mem::offset_of!(Product, x_stride) - 24usize];
    ["Offset of field: Product::k"][::core::mem::offset_of!(Product, k) - 28usize];
    ["Offset of field: Product::k_padded"][::core::mem::offset_of!(Product, k_padded) - 32usize];
    ["Offset of field: Product::groups"][::core::mem::offset_of!(Product, groups) - 36usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct HeadParams {
    pub product: Product,
    #[doc = " u32\\[groups\\]: bit c says that column c of the group is part of the normaliser"]
    pub counted: u64,
    #[doc = " f32\\[rows\\]\\[logits\\_stride\\]"]
    pub logits: u64,
    #[doc = " f32\\[rows\\]\\[partial\\_count\\]\\[2\\]: maximum and sum of exp(logit - maximum)"]
    pub partials: u64,
    pub logits_stride: u32,
    #[doc = " computed columns whose logits are stored: first\\_wanted .. end\\_wanted"]
    pub first_wanted: u32,
    pub end_wanted: u32,
    pub partial_count: u32,
    #[doc = " 1 when \\`logits\\`, less \\`first\\_wanted\\` elements, is a multiple of 16"]
    pub aligned: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HeadParams"][::core::mem::size_of::<HeadParams>() - 88usize];
    ["Alignment of HeadParams"][::core::mem::align_of::<HeadParams>() - 8usize];
    ["Offset of field: HeadParams::product"][::core::mem::offset_of!(HeadParams, product) - 0usize];
    ["Offset of field: HeadParams::counted"][::core::mem::offset_of!(HeadParams, counted) - 40usize];
    ["Offset of field: HeadParams::logits"][::core::mem::offset_of!(HeadParams, logits) - 48usize];
    ["Offset of field: HeadParams::partials"][::core::mem::offset_of!(HeadParams, partials) - 56usize];
    ["Offset of field: HeadParams::logits_stride"][::core::mem::offset_of!(HeadParams, logits_stride) - 64usize];
    ["Offset of field: HeadParams::first_wanted"][::core::mem::offset_of!(HeadParams, first_wanted) - 68usize];
    ["Offset of field: HeadParams::end_wanted"][::core::mem::offset_of!(HeadParams, end_wanted) - 72usize];
    ["Offset of field: HeadParams::partial_count"][::core::mem::offset_of!(HeadParams, partial_count) - 76usize];
    ["Offset of field: HeadParams::aligned"][::core::mem::offset_of!(HeadParams, aligned) - 80usize];
    ["Offset of field: HeadParams::reserved"][::core::mem::offset_of!(HeadParams, reserved) - 84usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct HeadMergeParams {
    #[doc = " as above"]
    pub partials: u64,
    #[doc = " f32\\[rows\\]\\[lognorm\\_stride\\]"]
    pub lognorm: u64,
    #[doc = " u32\\[1\\]"]
    pub live: u64,
    pub lognorm_stride: u32,
    pub partial_count: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HeadMergeParams"][::core::mem::size_of::<HeadMergeParams>() - 32usize];
    ["Alignment of HeadMergeParams"][::core::mem::align_of::<HeadMergeParams>() - 8usize];
    ["Offset of field: HeadMergeParams::partials"][::core::mem::offset_of!(HeadMergeParams, partials) - 0usize];
    ["Offset of field: HeadMergeParams::lognorm"][::core::mem::offset_of!(HeadMergeParams, lognorm) - 8usize];
    ["Offset of field: HeadMergeParams::live"][::core::mem::offset_of!(HeadMergeParams, live) - 16usize];
    ["Offset of field: HeadMergeParams::lognorm_stride"]
        [::core::mem::offset_of!(HeadMergeParams, lognorm_stride) - 24usize];
    ["Offset of field: HeadMergeParams::partial_count"]
        [::core::mem::offset_of!(HeadMergeParams, partial_count) - 28usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct HistoryAttentionParams {
    #[doc = " T\\[rows\\]\\[query\\_stride\\]: heads of head\\_dim elements, already scaled"]
    pub query: u64,
    #[doc = " T\\[rows\\]\\[out\\_stride\\]: the same columns"]
    pub out: u64,
    #[doc = " QueryTile\\[\\]"]
    pub tiles: u64,
    #[doc = " address of a u32: tiles there are now"]
    pub tile_count: u64,
    #[doc = " f32\\[heads\\]\\[2 max\\_distance + 1\\], or 0"]
    pub bias: u64,
    pub kv: PagedKeys,
    pub query_stride: u32,
    pub out_stride: u32,
    #[doc = " a multiple of kv.kv\\_heads"]
    pub heads: u32,
    pub head_dim: u32,
    pub max_distance: u32,
    #[doc = " MASK\\_FULL or MASK\\_CAUSAL"]
    pub mask: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HistoryAttentionParams"][::core::mem::size_of::<HistoryAttentionParams>() - 112usize];
    ["Alignment of HistoryAttentionParams"][::core::mem::align_of::<HistoryAttentionParams>() - 8usize];
    ["Offset of field: HistoryAttentionParams::query"][::core::mem::offset_of!(HistoryAttentionParams, query) - 0usize];
    ["Offset of field: HistoryAttentionParams::out"][::core::mem::offset_of!(HistoryAttentionParams, out) - 8usize];
    ["Offset of field: HistoryAttentionParams::tiles"]
        [::core::mem::offset_of!(HistoryAttentionParams, tiles) - 16usize];
    ["Offset of field: HistoryAttentionParams::tile_count"]
        [::core::mem::offset_of!(HistoryAttentionParams, tile_count) - 24usize];
    ["Offset of field: HistoryAttentionParams::bias"][::core::mem::offset_of!(HistoryAttentionParams, bias) - 32usize];
    ["Offset of field: HistoryAttentionParams::kv"][::core::mem::offset_of!(HistoryAttentionParams, kv) - 40usize];
    ["Offset of field: HistoryAttentionParams::query_stride"]
        [::core::mem::offset_of!(HistoryAttentionParams, query_stride) - 88usize];
    ["Offset of field: HistoryAttentionParams::out_stride"]
        [::core::mem::offset_of!(HistoryAttentionParams, out_stride) - 92usize];
    ["Offset of field: HistoryAttentionParams::heads"]
        [::core::mem::offset_of!(HistoryAttentionParams, heads) - 96usize];
    ["Offset of field: HistoryAttentionParams::head_dim"]
        [::core::mem::offset_of!(HistoryAttentionParams, head_dim) - 100usize];
    ["Offset of field: HistoryAttentionParams::max_distance"]
        [::core::mem::offset_of!(HistoryAttentionParams, max_distance) - 104usize];
    ["Offset of field: HistoryAttentionParams::mask"][::core::mem::offset_of!(HistoryAttentionParams, mask) - 108usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct LinearParams {
    pub product: Product,
    #[doc = " f32 or bf16 \\[rows\\]\\[out\\_stride\\]"]
    pub out: u64,
    #[doc = " f32\\[groups \\* GEMM\\_GROUP\\] in the order of the packed columns, or 0"]
    pub bias: u64,
    pub out_stride: u32,
    #[doc = " of the output; half the weight's for COMBINE\\_GATE"]
    pub columns: u32,
    #[doc = " DTYPE\\_F32 or DTYPE\\_BF16"]
    pub out_dtype: u32,
    pub combine: u32,
    #[doc = " of the products, or of the gate's half of them"]
    pub activation: u32,
    #[doc = " 1 when \\`out\\` is a multiple of 16"]
    pub aligned: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearParams"][::core::mem::size_of::<LinearParams>() - 80usize];
    ["Alignment of LinearParams"][::core::mem::align_of::<LinearParams>() - 8usize];
    ["Offset of field: LinearParams::product"][::core::mem::offset_of!(LinearParams, product) - 0usize];
    ["Offset of field: LinearParams::out"][::core::mem::offset_of!(LinearParams, out) - 40usize];
    ["Offset of field: LinearParams::bias"][::core::mem::offset_of!(LinearParams, bias) - 48usize];
    ["Offset of field: LinearParams::out_stride"][::core::mem::offset_of!(LinearParams, out_stride) - 56usize];
    ["Offset of field: LinearParams::columns"][::core::mem::offset_of!(LinearParams, columns) - 60usize];
    ["Offset of field: LinearParams::out_dtype"][::core::mem::offset_of!(LinearParams, out_dtype) - 64usize];
    ["Offset of field: LinearParams::combine"][::core::mem::offset_of!(LinearParams, combine) - 68usize];
    ["Offset of field: LinearParams::activation"][::core::mem::offset_of!(LinearParams, activation) - 72usize];
    ["Offset of field: LinearParams::aligned"][::core::mem::offset_of!(LinearParams, aligned) - 76usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct LinearEpilogueParams {
    #[doc = " f32\\[rows\\]\\[sums\\_stride\\]: rows first\\_row .. of the product"]
    pub sums: u64,
    #[doc = " f32 or bf16 \\[rows\\]\\[out\\_stride\\], of the same rows"]
    pub out: u64,
    #[doc = " u32: rows now, counted from row 0"]
    pub live: u64,
    pub first_row: u32,
    pub sums_stride: u32,
    pub out_stride: u32,
    #[doc = " of the output; COMBINE\\_GATE reads twice as many: all gates, then all up projections"]
    pub columns: u32,
    #[doc = " DTYPE\\_F32 or DTYPE\\_BF16"]
    pub out_dtype: u32,
    pub combine: u32,
    pub activation: u32,
    #[doc = " 1 when \\`out\\` is a multiple of 16"]
    pub aligned: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearEpilogueParams"][::core::mem::size_of::<LinearEpilogueParams>() - 56usize];
    ["Alignment of LinearEpilogueParams"][::core::mem::align_of::<LinearEpilogueParams>() - 8usize];
    ["Offset of field: LinearEpilogueParams::sums"][::core::mem::offset_of!(LinearEpilogueParams, sums) - 0usize];
    ["Offset of field: LinearEpilogueParams::out"][::core::mem::offset_of!(LinearEpilogueParams, out) - 8usize];
    ["Offset of field: LinearEpilogueParams::live"][::core::mem::offset_of!(LinearEpilogueParams, live) - 16usize];
    ["Offset of field: LinearEpilogueParams::first_row"]
        [::core::mem::offset_of!(LinearEpilogueParams, first_row) - 24usize];
    ["Offset of field: LinearEpilogueParams::sums_stride"]
        [::core::mem::offset_of!(LinearEpilogueParams, sums_stride) - 28usize];
    ["Offset of field: LinearEpilogueParams::out_stride"]
        [::core::mem::offset_of!(LinearEpilogueParams, out_stride) - 32usize];
    ["Offset of field: LinearEpilogueParams::columns"]
        [::core::mem::offset_of!(LinearEpilogueParams, columns) - 36usize];
    ["Offset of field: LinearEpilogueParams::out_dtype"]
        [::core::mem::offset_of!(LinearEpilogueParams, out_dtype) - 40usize];
    ["Offset of field: LinearEpilogueParams::combine"]
        [::core::mem::offset_of!(LinearEpilogueParams, combine) - 44usize];
    ["Offset of field: LinearEpilogueParams::activation"]
        [::core::mem::offset_of!(LinearEpilogueParams, activation) - 48usize];
    ["Offset of field: LinearEpilogueParams::aligned"]
        [::core::mem::offset_of!(LinearEpilogueParams, aligned) - 52usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct NormParams {
    #[doc = " f32\\[rows\\]\\[x\\_stride\\]"]
    pub x: u64,
    #[doc = " f32\\[cols\\]"]
    pub weight: u64,
    #[doc = " u32: rows now"]
    pub live: u64,
    #[doc = " T\\[rows\\]\\[out\\_stride\\]"]
    pub out: u64,
    pub cols: u32,
    pub x_stride: u32,
    pub out_stride: u32,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NormParams"][::core::mem::size_of::<NormParams>() - 48usize];
    ["Alignment of NormParams"][::core::mem::align_of::<NormParams>() - 8usize];
    ["Offset of field: NormParams::x"][::core::mem::offset_of!(NormParams, x) - 0usize];
    ["Offset of field: NormParams::weight"][::core::mem::offset_of!(NormParams, weight) - 8usize];
    ["Offset of field: NormParams::live"][::core::mem::offset_of!(NormParams, live) - 16usize];
    ["Offset of field: NormParams::out"][::core::mem::offset_of!(NormParams, out) - 24usize];
    ["Offset of field: NormParams::cols"][::core::mem::offset_of!(NormParams, cols) - 32usize];
    ["Offset of field: NormParams::x_stride"][::core::mem::offset_of!(NormParams, x_stride) - 36usize];
    ["Offset of field: NormParams::out_stride"][::core::mem::offset_of!(NormParams, out_stride) - 40usize];
    ["Offset of field: NormParams::eps"][::core::mem::offset_of!(NormParams, eps) - 44usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct WriteKvParams {
    #[doc = " f32\\[rows\\]\\[query\\_stride\\]: heads of head\\_dim elements; 0 when only K and V are written"]
    pub query: u64,
    #[doc = " f32\\[rows\\]\\[key\\_stride\\]: KV heads of head\\_dim elements"]
    pub key: u64,
    #[doc = " f32\\[rows\\]\\[value\\_stride\\]: the same columns"]
    pub value: u64,
    #[doc = " T\\[rows\\]\\[query\\_out\\_stride\\]: columns as in query"]
    pub query_out: u64,
    #[doc = " f32\\[head\\_dim\\], or 0"]
    pub query_norm: u64,
    #[doc = " f32\\[head\\_dim\\]; there when query\\_norm is"]
    pub key_norm: u64,
    #[doc = " f32\\[positions\\]\\[head\\_dim / 2\\], or 0"]
    pub cosines: u64,
    #[doc = " the same shape; there when cosines are"]
    pub sines: u64,
    #[doc = " address of a u32: rows there are now"]
    pub live: u64,
    #[doc = " u32\\[rows\\] of a token lane; 0 for beams"]
    pub row_slot: u64,
    #[doc = " u32\\[rows\\] of a token lane; 0 for beams"]
    pub row_position: u64,
    #[doc = " u32\\[rows\\] of a cohort lane; 0 for tokens"]
    pub row_request: u64,
    #[doc = " RequestEntry\\[\\] of a cohort lane; 0 for tokens"]
    pub requests: u64,
    #[doc = " as kv.lengths (histories), of prefixes; 0 for tokens"]
    pub prefix_lengths: u64,
    #[doc = " for beams keys and values are T\\[rows\\]\\[kv\\_heads\\]\\[dim\\] of the slab's step, and there is no table"]
    pub kv: PagedKeys,
    pub query_stride: u32,
    pub key_stride: u32,
    pub value_stride: u32,
    pub query_out_stride: u32,
    pub heads: u32,
    pub head_dim: u32,
    #[doc = " step that the beams' tokens belong to; 0 for tokens"]
    pub own_step: u32,
    pub query_scale: f32,
    #[doc = " of the norms"]
    pub eps: f32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of WriteKvParams"][::core::mem::size_of::<WriteKvParams>() - 200usize];
    ["Alignment of WriteKvParams"][::core::mem::align_of::<WriteKvParams>() - 8usize];
    ["Offset of field: WriteKvParams::query"][::core::mem::offset_of!(WriteKvParams, query) - 0usize];
    ["Offset of field: WriteKvParams::key"][::core::mem::offset_of!(WriteKvParams, key) - 8usize];
    ["Offset of field: WriteKvParams::value"][::core::mem::offset_of!(WriteKvParams, value) - 16usize];
    ["Offset of field: WriteKvParams::query_out"][::core::mem::offset_of!(WriteKvParams, query_out) - 24usize];
    ["Offset of field: WriteKvParams::query_norm"][::core::mem::offset_of!(WriteKvParams, query_norm) - 32usize];
    ["Offset of field: WriteKvParams::key_norm"][::core::mem::offset_of!(WriteKvParams, key_norm) - 40usize];
    ["Offset of field: WriteKvParams::cosines"][::core::mem::offset_of!(WriteKvParams, cosines) - 48usize];
    ["Offset of field: WriteKvParams::sines"][::core::mem::offset_of!(WriteKvParams, sines) - 56usize];
    ["Offset of field: WriteKvParams::live"][::core::mem::offset_of!(WriteKvParams, live) - 64usize];
    ["Offset of field: WriteKvParams::row_slot"][::core::mem::offset_of!(WriteKvParams, row_slot) - 72usize];
    ["Offset of field: WriteKvParams::row_position"][::core::mem::offset_of!(WriteKvParams, row_position) - 80usize];
    ["Offset of field: WriteKvParams::row_request"][::core::mem::offset_of!(WriteKvParams, row_request) - 88usize];
    ["Offset of field: WriteKvParams::requests"][::core::mem::offset_of!(WriteKvParams, requests) - 96usize];
    ["Offset of field: WriteKvParams::prefix_lengths"]
        [::core::mem::offset_of!(WriteKvParams, prefix_lengths) - 104usize];
    ["Offset of field: WriteKvParams::kv"][::core::mem::offset_of!(WriteKvParams, kv) - 112usize];
    ["Offset of field: WriteKvParams::query_stride"][::core::mem::offset_of!(WriteKvParams, query_stride) - 160usize];
    ["Offset of field: WriteKvParams::key_stride"][::core::mem::offset_of!(WriteKvParams, key_stride) - 164usize];
    ["Offset of field: WriteKvParams::value_stride"][::core::mem::offset_of!(WriteKvParams, value_stride) - 168usize];
    ["Offset of field: WriteKvParams::query_out_stride"]
        [::core::mem::offset_of!(WriteKvParams, query_out_stride) - 172usize];
    ["Offset of field: WriteKvParams::heads"][::core::mem::offset_of!(WriteKvParams, heads) - 176usize];
    ["Offset of field: WriteKvParams::head_dim"][::core::mem::offset_of!(WriteKvParams, head_dim) - 180usize];
    ["Offset of field: WriteKvParams::own_step"][::core::mem::offset_of!(WriteKvParams, own_step) - 184usize];
    ["Offset of field: WriteKvParams::query_scale"][::core::mem::offset_of!(WriteKvParams, query_scale) - 188usize];
    ["Offset of field: WriteKvParams::eps"][::core::mem::offset_of!(WriteKvParams, eps) - 192usize];
    ["Offset of field: WriteKvParams::reserved"][::core::mem::offset_of!(WriteKvParams, reserved) - 196usize];
};

/// Every struct that a kernel takes, and its bytes.
#[rustfmt::skip]
pub const PARAMETER_BYTES: &[(&str, usize)] = &[
    ("PositionsParams", size_of::<PositionsParams>()),
    ("BeamAttentionParams", size_of::<BeamAttentionParams>()),
    ("BeginParams", size_of::<BeginParams>()),
    ("ForceParams", size_of::<ForceParams>()),
    ("CopyParams", size_of::<CopyParams>()),
    ("EmbedParams", size_of::<EmbedParams>()),
    ("EmbedDenseParams", size_of::<EmbedDenseParams>()),
    ("MaskedParams", size_of::<MaskedParams>()),
    ("ExpandParams", size_of::<ExpandParams>()),
    ("HeadParams", size_of::<HeadParams>()),
    ("HeadMergeParams", size_of::<HeadMergeParams>()),
    ("HistoryAttentionParams", size_of::<HistoryAttentionParams>()),
    ("LinearParams", size_of::<LinearParams>()),
    ("LinearEpilogueParams", size_of::<LinearEpilogueParams>()),
    ("NormParams", size_of::<NormParams>()),
    ("WriteKvParams", size_of::<WriteKvParams>()),
];

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for PositionsParams {
    const NAME: &'static str = "PositionsParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for BeamAttentionParams {
    const NAME: &'static str = "BeamAttentionParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for BeginParams {
    const NAME: &'static str = "BeginParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for ForceParams {
    const NAME: &'static str = "ForceParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for CopyParams {
    const NAME: &'static str = "CopyParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for EmbedParams {
    const NAME: &'static str = "EmbedParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for EmbedDenseParams {
    const NAME: &'static str = "EmbedDenseParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for MaskedParams {
    const NAME: &'static str = "MaskedParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for ExpandParams {
    const NAME: &'static str = "ExpandParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for HeadParams {
    const NAME: &'static str = "HeadParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for HeadMergeParams {
    const NAME: &'static str = "HeadMergeParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for HistoryAttentionParams {
    const NAME: &'static str = "HistoryAttentionParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for LinearParams {
    const NAME: &'static str = "LinearParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for LinearEpilogueParams {
    const NAME: &'static str = "LinearEpilogueParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for NormParams {
    const NAME: &'static str = "NormParams";
}

// SAFETY: made from the header that kernels include.
unsafe impl super::KernelParams for WriteKvParams {
    const NAME: &'static str = "WriteKvParams";
}
