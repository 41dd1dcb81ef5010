//! Attention over paged history and over beams' own tokens.
//!
//! `out = softmax(q K^T + bias) V`, one row and head at a time as far as numbers go. Two operations:
//!
//! * [`history_attention`]: rows of ragged spans against their slot's pages, causal or over all valid keys;
//! * [`beam_attention`]: all live beams of a request against the shared pages, plus each beam's own few tokens through the
//!   ancestor table. No KV is copied; the two parts merge by (max, denominator, output).
//!
//! Both cut their work into tiles: some rows, all query heads of one KV head. A tile reads its keys once, in blocks that
//! start at fixed absolute positions, for all its rows together as a matrix product. Tasks are tiles; keys are never split
//! among threads, so scratch memory is per thread and independent of beams and history.
//!
//! **Invariant: batch invariance.** A row's bits depend on its query, its keys and its position only. Every reduction of a
//! row runs over key blocks in order of position, and a key that is masked for the row adds an exact zero, so neither the
//! tile's other rows, nor the chunking of a prompt, nor the number of threads is visible in the result.
//!
//! The plain path (`scalar`) is the oracle. The vector kernel is one generic structure over a small trait for vectors,
//! instantiated per instruction set and stored type.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod block;
#[cfg(target_arch = "x86_64")]
mod kernel;
#[cfg(target_arch = "x86_64")]
mod own;
mod scalar;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(target_arch = "x86_64")]
mod vector;
#[cfg(target_arch = "x86_64")]
mod work;

use self::tile::Tile;
use super::kv::{BeamSpan, ComputeRows, ComputeRowsMut, KvPages, OwnKv, TokenSpan};
use super::{Isa, Pool};
use crate::device::Mask;

/// Attention bias by clipped distance, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct DistanceBias<'a> {
    /// `[heads, 2 * max_distance + 1]`; column `max_distance + (key - query)`, clipped.
    pub by_distance: &'a [f32],
    /// Distances beyond this use the entry of this distance.
    pub max_distance: usize,
}

impl DistanceBias<'_> {
    /// The bias of `head` at `distance` = key position - query position.
    #[inline]
    fn at(&self, head: usize, distance: isize) -> f32 {
        let max = self.max_distance as isize;
        self.by_distance[head * (2 * self.max_distance + 1) + (max + distance.clamp(-max, max)) as usize]
    }
}

/// Arguments of [`history_attention`].
pub struct HistoryAttention<'a> {
    /// The segment's pool.
    pub kv: &'a KvPages,
    /// Layer of the pool.
    pub layer: usize,
    /// All block tables.
    pub pages: &'a [u32],
    /// Rows, each span against its own block table. For the compact rows of `Last`, give spans of one row.
    pub spans: &'a [TokenSpan],
    /// Query heads, a multiple of the pool's KV heads.
    pub heads: usize,
    /// Visibility.
    pub mask: Mask,
    /// Added to the scores.
    pub bias: Option<DistanceBias<'a>>,
    /// `[rows, heads * head_dim]` in the pool's type, already scaled.
    pub query: ComputeRows<'a>,
    /// `[rows, heads * head_dim]` in the pool's type.
    pub out: ComputeRowsMut<'a>,
}

/// Shared pages of a [`BeamAttention`].
#[derive(Clone, Copy)]
pub struct SharedPages<'a> {
    /// The segment's pool.
    pub kv: &'a KvPages,
    /// Layer of the pool.
    pub layer: usize,
    /// All block tables.
    pub pages: &'a [u32],
}

/// Own tokens of a [`BeamAttention`].
#[derive(Clone, Copy)]
pub struct OwnTokens<'a> {
    /// The lane's slab.
    pub kv: &'a OwnKv,
    /// Layer of the slab.
    pub layer: usize,
    /// The step being decoded: steps `0 ..= step` are attended to.
    pub step: usize,
    /// `[rows, max_steps]`: the slab row that holds a beam's token of an earlier step. Entries from `step` on are not
    /// read: at `step` a beam's token is in its own row.
    pub ancestors: &'a [u32],
    /// Entries of a row of `ancestors`.
    pub max_steps: usize,
}

/// Arguments of [`beam_attention`].
pub struct BeamAttention<'a> {
    /// Keys shared by all beams of a request, if any.
    pub shared: Option<SharedPages<'a>>,
    /// The beams' own tokens, if they are attended to.
    pub own: Option<OwnTokens<'a>>,
    /// Requests of the cohort.
    pub spans: &'a [BeamSpan],
    /// Query heads, a multiple of the KV heads.
    pub heads: usize,
    /// Added to the scores; the query stands at `shared_len + step`, own token s at `shared_len + s`. Without own tokens
    /// there is no step and no bias (cross-attention has none).
    pub bias: Option<DistanceBias<'a>>,
    /// `[rows, heads * head_dim]` in the compute type, already scaled.
    pub query: ComputeRows<'a>,
    /// `[rows, heads * head_dim]` in the compute type.
    pub out: ComputeRowsMut<'a>,
}

/// Which task is which tile: (span, KV head, first virtual row, virtual rows). Tiles of a head follow each other, so that its
/// keys and values are still in L2 for the next one.
fn locate_tile(
    virtual_rows: impl Iterator<Item = usize>,
    kv_heads: usize,
    mut task: usize,
) -> (usize, usize, usize, usize) {
    for (span, rows) in virtual_rows.enumerate() {
        let tiles = rows.div_ceil(tile::ROWS);
        if task < tiles * kv_heads {
            let first = task % tiles * tile::ROWS;
            return (span, task / tiles, first, tile::ROWS.min(rows - first));
        }
        task -= tiles * kv_heads;
    }
    panic!("task {task} beyond the last tile");
}

/// Attention of token rows over a paged segment. A row that sees no key becomes zero.
///
/// # Panics
/// If shapes or types do not match, or a span leaves its block table.
pub fn history_attention(pool: &Pool, isa: Isa, args: HistoryAttention<'_>) {
    let HistoryAttention { kv, layer, pages, spans, heads, mask, bias, query, mut out } = args;
    let shape = kv.shape();
    assert!(heads.is_multiple_of(shape.kv_heads), "{heads} heads over {} KV heads", shape.kv_heads);
    assert!(query.dtype() == kv.dtype() && out.dtype() == kv.dtype(), "attention computes in the pool's type");
    let out = out.target();
    let group = heads / shape.kv_heads;
    let virtual_rows = || spans.iter().map(|span| span.rows * group);
    let tiles: usize = virtual_rows().map(|rows| rows.div_ceil(tile::ROWS)).sum();
    pool.run(tiles * shape.kv_heads, |task| {
        // Late tiles first: in a causal prompt they are the long ones, and a long last task leaves threads idle.
        let task = tiles * shape.kv_heads - 1 - task;
        let (span, kv_head, first, count) = locate_tile(virtual_rows(), shape.kv_heads, task);
        let span = spans[span];
        tile::run(
            isa,
            &Tile {
                head_dim: shape.head_dim,
                group,
                kv_head,
                first,
                count,
                first_row: span.first_row,
                position: span.first_position,
                advance: 1,
                shared: Some(SharedPages { kv, layer, pages: &pages[span.first_page..] }),
                shared_len: span.kv_len,
                mask,
                own: None,
                bias,
                query,
                out,
            },
        );
    });
}

/// Attention of beam rows over the shared segment and their own tokens.
///
/// # Panics
/// If shapes or types do not match, or a span leaves its block table.
pub fn beam_attention(pool: &Pool, isa: Isa, args: BeamAttention<'_>) {
    let BeamAttention { shared, own, spans, heads, bias, query, mut out } = args;
    let shared_shape = shared.map(|shared| (shared.kv.shape().kv_heads, shared.kv.shape().head_dim, shared.kv.dtype()));
    let own_shape = own.map(|own| (own.kv.shape().kv_heads, own.kv.shape().head_dim, own.kv.dtype()));
    let Some((kv_heads, head_dim, dtype)) = shared_shape.or(own_shape) else {
        panic!("beam attention needs shared or own keys");
    };
    assert!(own_shape.is_none_or(|own| own == (kv_heads, head_dim, dtype)), "shared and own keys have the same shape");
    assert!(heads.is_multiple_of(kv_heads), "{heads} heads over {kv_heads} KV heads");
    assert!(query.dtype() == dtype && out.dtype() == dtype, "attention computes in the pool's type");
    assert!(own.is_some() || bias.is_none(), "a bias needs a step to stand at");
    let out = out.target();
    let group = heads / kv_heads;
    let virtual_rows = || spans.iter().map(|span| span.live * group);
    let tiles: usize = virtual_rows().map(|rows| rows.div_ceil(tile::ROWS)).sum();
    pool.run(tiles * kv_heads, |task| {
        let (span, kv_head, first, count) = locate_tile(virtual_rows(), kv_heads, task);
        let span = spans[span];
        tile::run(
            isa,
            &Tile {
                head_dim,
                group,
                kv_head,
                first,
                count,
                first_row: span.first_row,
                position: span.shared_len + own.map_or(0, |own| own.step),
                advance: 0,
                shared: shared.map(|shared| SharedPages { pages: &shared.pages[span.first_page..], ..shared }),
                shared_len: if shared.is_some() { span.shared_len } else { 0 },
                mask: Mask::Full,
                own,
                bias,
                query,
                out,
            },
        );
    });
}
