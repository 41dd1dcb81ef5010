//! Made by `tools/kernel-params` from `kernels/include/params.h`. Not edited by hand.
//!
//! Size and offsets of every struct are asserted at compile time.

pub const DTYPE_F32: u32 = 0;
pub const DTYPE_BF16: u32 = 1;
pub const DTYPE_F16: u32 = 2;
pub const QUERY_TILE_ROWS: u32 = 64;
pub const MAX_LEVELS: u32 = 8;
#[doc = " One layer of a paged segment, and how a slot finds its pages."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct PagedKeys {
    #[doc = " T\\[pages\\]\\[kv\\_heads\\]\\[page\\_tokens\\]\\[dim\\]; T is the compute type"]
    pub keys: u64,
    #[doc = " the same shape"]
    pub values: u64,
    #[doc = " u32\\[slots\\]\\[2\\]: valid tokens of the segment in element 0 of a pair"]
    pub lengths: u64,
    #[doc = " u32\\[slots\\]\\[table\\_stride\\]: page ids"]
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
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BeamState"][::core::mem::size_of::<BeamState>() - 40usize];
    ["Alignment of BeamState"][::core::mem::align_of::<BeamState>() - 8usize];
    ["Offset of field: BeamState::node"][::core::mem::offset_of!(BeamState, node) - 0usize];
    ["Offset of field: BeamState::score"][::core::mem::offset_of!(BeamState, score) - 8usize];
    ["Offset of field: BeamState::token"][::core::mem::offset_of!(BeamState, token) - 16usize];
    ["Offset of field: BeamState::live"][::core::mem::offset_of!(BeamState, live) - 24usize];
    ["Offset of field: BeamState::ancestors"][::core::mem::offset_of!(BeamState, ancestors) - 32usize];
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
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RequestEntry"][::core::mem::size_of::<RequestEntry>() - 16usize];
    ["Alignment of RequestEntry"][::core::mem::align_of::<RequestEntry>() - 4usize];
    ["Offset of field: RequestEntry::slot"][::core::mem::offset_of!(RequestEntry, slot) - 0usize];
    ["Offset of field: RequestEntry::beams"][::core::mem::offset_of!(RequestEntry, beams) - 4usize];
    ["Offset of field: RequestEntry::first_row"][::core::mem::offset_of!(RequestEntry, first_row) - 8usize];
    ["Offset of field: RequestEntry::reserved"][::core::mem::offset_of!(RequestEntry, reserved) - 12usize];
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

/// Every struct that a kernel takes, and its bytes.
#[rustfmt::skip]
pub const PARAMETER_BYTES: &[(&str, usize)] = &[
];
