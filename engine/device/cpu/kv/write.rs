//! From projections to attention's operands: per-head RMS norm, RoPE, the query scale, and the write of K and V.
//!
//! `x' = x * rsqrt(mean(x^2) + eps) * weight`, then `[a, b] -> [a cos - b sin, b cos + a sin]` for the two halves of a head.
//! All in f32; only the stores round. Rows are independent, and 16 of them make a task, so that a key group's cache lines are
//! filled by one thread. The loops are plain Rust in a body that is compiled plainly and for AVX2: no reduction is
//! reordered and nothing is contracted, so both compute the same bits.

use half::bf16;

use super::rows::{BeamSpan, ComputeRowsMut, RowTarget, Strided, TokenSpan, locate};
use super::{GROUP, KvPages, OwnKv, round_slice};
use crate::device::Dtype;
use crate::device::cpu::{Isa, Pool};

/// Largest head that [`write_kv`] takes.
pub const MAX_HEAD_DIM: usize = 512;

/// Queries to prepare.
#[derive(Debug)]
pub struct QueryRows<'a> {
    /// `[rows, heads * head_dim]`.
    pub input: Strided<'a, f32>,
    /// `[rows, heads * head_dim]` in the compute type.
    pub output: ComputeRowsMut<'a>,
    /// Query heads.
    pub heads: usize,
    /// Multiplied in after norm and rotation.
    pub scale: f32,
}

/// Weights of the per-head RMS norm.
#[derive(Clone, Copy, Debug)]
pub struct HeadNormWeights<'a> {
    /// `[head_dim]` for queries.
    pub query: &'a [f32],
    /// `[head_dim]` for keys.
    pub key: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// RoPE tables, `[positions, head_dim / 2]`.
#[derive(Clone, Copy, Debug)]
pub struct RopeTables<'a> {
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
}

/// Where keys and values go, and which rows there are.
pub enum KvDestination<'a> {
    /// Row i of a span goes to token `first_position + i` of the span's block table. `kv_len` is not used.
    Pages {
        /// The segment's pool.
        kv: &'a mut KvPages,
        /// Layer of the pool.
        layer: usize,
        /// All block tables.
        pages: &'a [u32],
        /// Spans in any order; no token may appear twice.
        spans: &'a [TokenSpan],
    },
    /// Live beam rows go to `[layer, step, row]`. `shared_len` and `first_page` are not used.
    Own {
        /// The lane's slab.
        kv: &'a mut OwnKv,
        /// Layer of the slab.
        layer: usize,
        /// Which generated token.
        step: usize,
        /// Requests of the cohort.
        spans: &'a [BeamSpan],
    },
}

/// Arguments of [`write_kv`].
pub struct WriteKv<'a> {
    /// Queries, unless only K and V are written (cross-attention).
    pub query: Option<QueryRows<'a>>,
    /// `[rows, kv_heads * head_dim]`.
    pub key: Strided<'a, f32>,
    /// `[rows, kv_heads * head_dim]`.
    pub value: Strided<'a, f32>,
    /// Applied before rotation.
    pub head_norm: Option<HeadNormWeights<'a>>,
    /// Rotation by position.
    pub rope: Option<RopeTables<'a>>,
    /// Rows, and the place of each.
    pub destination: KvDestination<'a>,
}

/// What all tasks share.
struct Job<'a> {
    query: Option<(Strided<'a, f32>, RowTarget, usize, f32)>,
    key: Strided<'a, f32>,
    value: Strided<'a, f32>,
    head_norm: Option<HeadNormWeights<'a>>,
    rope: Option<RopeTables<'a>>,
    head_dim: usize,
    kv_heads: usize,
}

/// One token's place.
#[derive(Clone, Copy)]
enum Place<'a> {
    Page { kv: &'a KvPages, layer: usize, page: u32, offset: usize },
    Own { kv: &'a OwnKv, layer: usize, step: usize, row: usize },
}

/// Norms, rotates and scales queries and keys, and writes K and V where attention reads them.
///
/// # Panics
/// If shapes do not match, a position leaves the RoPE tables or a span leaves its block table.
pub fn write_kv(pool: &Pool, isa: Isa, args: WriteKv<'_>) {
    let WriteKv { query, key, value, head_norm, rope, destination } = args;
    let (head_dim, kv_heads) = match &destination {
        KvDestination::Pages { kv, .. } => (kv.shape().head_dim, kv.shape().kv_heads),
        KvDestination::Own { kv, .. } => (kv.shape().head_dim, kv.shape().kv_heads),
    };
    assert!(head_dim <= MAX_HEAD_DIM, "head_dim {head_dim} is over {MAX_HEAD_DIM}");
    assert!(rope.is_none() || head_dim.is_multiple_of(2), "RoPE needs an even head_dim, not {head_dim}");
    let query = query.map(|mut q| (q.input, q.output.target(), q.heads, q.scale));
    let job = Job { query, key, value, head_norm, rope, head_dim, kv_heads };
    match destination {
        KvDestination::Pages { kv, layer, pages, spans } => {
            let kv = &*kv;
            let page_tokens = kv.shape().page_tokens;
            let tasks = spans.iter().map(|span| span.rows.div_ceil(GROUP)).sum();
            pool.run(tasks, |task| {
                let (span, first, rows) = locate(spans.iter().map(|span| span.rows), GROUP, task);
                let span = spans[span];
                write_rows(isa, &job, span.first_row + first, span.first_position + first, rows, &|i| {
                    let position = span.first_position + first + i;
                    let page = pages[span.first_page + position / page_tokens];
                    Place::Page { kv, layer, page, offset: position % page_tokens }
                });
            });
        }
        KvDestination::Own { kv, layer, step, spans } => {
            let kv = &*kv;
            let tasks = spans.iter().map(|span| span.live.div_ceil(GROUP)).sum();
            pool.run(tasks, |task| {
                let (span, first, rows) = locate(spans.iter().map(|span| span.live), GROUP, task);
                let span = spans[span];
                // All rows of a task stand at the same position: one a row is asked for, so they go one by one.
                for row in span.first_row + first..span.first_row + first + rows {
                    write_rows(isa, &job, row, span.own_position + step, 1, &|_| Place::Own { kv, layer, step, row });
                }
            });
        }
    }
}

/// `rows` rows from `first_row`, at positions from `first_position`, compiled for `isa`. Compiled for AVX-512 it was a third
/// slower: the transposed key stores became scatter instructions.
fn write_rows<'a>(
    isa: Isa,
    job: &Job<'_>,
    first_row: usize,
    first_position: usize,
    rows: usize,
    place: &dyn Fn(usize) -> Place<'a>,
) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2<'a>(job: &Job<'_>, row: usize, position: usize, rows: usize, place: &dyn Fn(usize) -> Place<'a>) {
            body(job, row, position, rows, place);
        }
        if isa != Isa::Scalar {
            // SAFETY: an `Isa` is used only where it is available, and all but the plain one include AVX2.
            return unsafe { avx2(job, first_row, first_position, rows, place) };
        }
    }
    let _ = isa;
    body(job, first_row, first_position, rows, place);
}

#[inline(always)]
fn body<'a>(job: &Job<'_>, row: usize, position: usize, rows: usize, place: &dyn Fn(usize) -> Place<'a>) {
    let n = job.head_dim;
    let mut prepared = [0f32; MAX_HEAD_DIM];
    let norm = job.head_norm.map(|w| (w.query, w.eps));
    if let Some((input, output, heads, scale)) = &job.query {
        for i in 0..rows {
            let from = input.row(row + i, heads * n);
            for head in 0..*heads {
                let x = prepare(&from[head * n..][..n], norm, job.rope, position + i, &mut prepared);
                x.iter_mut().for_each(|x| *x *= scale);
                let to = output.at(row + i, head * n, n);
                // SAFETY: `at` checked the range; the row belongs to this task.
                unsafe {
                    match output.dtype {
                        Dtype::F32 => to.cast::<f32>().copy_from_nonoverlapping(x.as_ptr(), n),
                        Dtype::Bf16 => round_slice(x, std::slice::from_raw_parts_mut(to.cast::<bf16>(), n)),
                    }
                }
            }
        }
    }
    let mut places = [place(0); GROUP];
    for (i, to) in places[..rows].iter_mut().enumerate() {
        *to = place(i);
    }
    write_heads(job, row, position, &places[..rows], &mut prepared);
}

/// Keys and values of some rows, in the order in which they are read: the projections come from far away, while the key groups
/// of 16 rows (24 KiB for 12 heads of 64 in bf16) stay in cache until all their lanes have arrived.
#[inline(always)]
fn write_heads(job: &Job<'_>, row: usize, position: usize, places: &[Place<'_>], x: &mut [f32; MAX_HEAD_DIM]) {
    let n = job.head_dim;
    let mut paired = false;
    for (i, &place) in places.iter().enumerate() {
        let keys = job.key.row(row + i, job.kv_heads * n).chunks_exact(n);
        let values = job.value.row(row + i, job.kv_heads * n).chunks_exact(n);
        let norm = job.head_norm.map(|w| (w.key, w.eps));
        // SAFETY: a token appears once in an operation, and the operation borrows the pool or slab mutably.
        unsafe {
            match place {
                Place::Own { kv, layer, step, row } => {
                    for (head, (key, value)) in keys.zip(values).enumerate() {
                        kv.write_head(layer, step, row, head, prepare(key, norm, job.rope, position + i, x), value);
                    }
                }
                Place::Page { kv, layer, page, offset } => {
                    for (head, key) in keys.enumerate() {
                        kv.write_key(layer, page, offset, head, prepare(key, norm, job.rope, position + i, x));
                    }
                    if std::mem::take(&mut paired) {
                        continue;
                    }
                    // Tokens at offsets 2i and 2i + 1 of a page share cells; rows of a task are consecutive tokens.
                    paired = offset.is_multiple_of(2) && offset + 1 < kv.shape().page_tokens && i + 1 < places.len();
                    if paired {
                        let next = job.value.row(row + i + 1, job.kv_heads * n).chunks_exact(n);
                        for (head, (low, high)) in values.zip(next).enumerate() {
                            kv.write_value_pair(layer, page, offset, head, [low, high]);
                        }
                    } else {
                        for (head, value) in values.enumerate() {
                            kv.write_value(layer, page, offset, head, value);
                        }
                    }
                }
            }
        }
    }
}

/// Norm and rotation of one head. Returns its elements within `to`.
#[inline(always)]
fn prepare<'x>(
    from: &[f32],
    norm: Option<(&[f32], f32)>,
    rope: Option<RopeTables<'_>>,
    position: usize,
    to: &'x mut [f32; MAX_HEAD_DIM],
) -> &'x mut [f32] {
    let n = from.len();
    to[..n].copy_from_slice(from);
    if let Some((weight, eps)) = norm {
        // Zeros up to a whole number of vectors add nothing.
        let padded = n.next_multiple_of(16);
        to[n..padded].fill(0.0);
        let factor = 1.0 / (sum_of_squares(&to[..padded]) / n as f32 + eps).sqrt();
        for (to, &w) in to[..n].iter_mut().zip(&weight[..n]) {
            *to = *to * factor * w;
        }
    }
    if let Some(tables) = rope {
        let half = n / 2;
        let cos = &tables.cos[position * half..][..half];
        let sin = &tables.sin[position * half..][..half];
        let (first, second) = to[..n].split_at_mut(half);
        for (((a, b), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
    &mut to[..n]
}

/// Sum of squares of a whole number of vectors, in 16 interleaved partial sums that are then added pairwise: an order that
/// vectors can keep.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut partial = [0f32; 16];
    for chunk in x.as_chunks::<16>().0 {
        for i in 0..16 {
            partial[i] += chunk[i] * chunk[i];
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            partial[i] += partial[i + half];
        }
    }
    partial[0]
}
