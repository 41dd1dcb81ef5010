//! From projections to attention's operands: per-head RMS norm, RoPE, the query scale, and the write of K and V.
//!
//! `x' = x * rsqrt(mean(x^2) + eps) * weight`, then `[a, b] -> [a cos - b sin, b cos + a sin]` for the two halves of a head.
//! All in f32; only the stores round. Rows are independent, and 16 of them make a task, so that a key group's cache lines are
//! filled by one thread. The loops are plain Rust in a body that is compiled once for each instruction set: no reduction is
//! reordered and nothing is contracted, so every instruction set computes the same bits.

use half::bf16;

use super::rows::{BeamSpan, ComputeRowsMut, RowTarget, Strided, TokenSpan, locate};
use super::{GROUP, KvPages, OwnKv, round_bf16};
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

/// `rows` rows from `first_row`, at positions from `first_position`, compiled for `isa`.
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
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn avx512<'a>(job: &Job<'_>, row: usize, position: usize, rows: usize, place: &dyn Fn(usize) -> Place<'a>) {
            body(job, row, position, rows, place);
        }
        match isa {
            Isa::Scalar => {}
            // SAFETY: an `Isa` is used only where it is available.
            Isa::Avx2 => return unsafe { avx2(job, first_row, first_position, rows, place) },
            // SAFETY: as above.
            Isa::Avx512 | Isa::Avx512Bf16 => return unsafe { avx512(job, first_row, first_position, rows, place) },
        }
    }
    let _ = isa;
    body(job, first_row, first_position, rows, place);
}

#[inline(always)]
fn body<'a>(job: &Job<'_>, row: usize, position: usize, rows: usize, place: &dyn Fn(usize) -> Place<'a>) {
    let n = job.head_dim;
    let mut prepared = [0f32; MAX_HEAD_DIM];
    let norm = job.head_norm;
    if let Some((input, output, heads, scale)) = &job.query {
        for i in 0..rows {
            let from = input.row(row + i, heads * n);
            for head in 0..*heads {
                let x = &mut prepared[..n];
                prepare(&from[head * n..][..n], norm.map(|w| (w.query, w.eps)), job.rope, position + i, x);
                let to = output.at(row + i, head * n, n);
                // SAFETY: `at` checked the range; the row belongs to this task.
                unsafe {
                    match output.dtype {
                        Dtype::F32 => {
                            for (d, &x) in x.iter().enumerate() {
                                to.cast::<f32>().add(d).write(x * scale);
                            }
                        }
                        Dtype::Bf16 => {
                            for (d, &x) in x.iter().enumerate() {
                                to.cast::<bf16>().add(d).write(round_bf16(x * scale));
                            }
                        }
                    }
                }
            }
        }
    }
    for head in 0..job.kv_heads {
        for i in 0..rows {
            let key = &job.key.row(row + i, job.kv_heads * n)[head * n..][..n];
            let value = &job.value.row(row + i, job.kv_heads * n)[head * n..][..n];
            let x = &mut prepared[..n];
            prepare(key, norm.map(|w| (w.key, w.eps)), job.rope, position + i, x);
            // SAFETY: a token appears once in an operation, and the operation borrows the pool or slab mutably.
            unsafe {
                match place(i) {
                    Place::Page { kv, layer, page, offset } => kv.write_head(layer, page, offset, head, x, value),
                    Place::Own { kv, layer, step, row } => kv.write_head(layer, step, row, head, x, value),
                }
            }
        }
    }
}

/// Norm and rotation of one head.
#[inline(always)]
fn prepare(from: &[f32], norm: Option<(&[f32], f32)>, rope: Option<RopeTables<'_>>, position: usize, to: &mut [f32]) {
    let n = from.len();
    match norm {
        None => to.copy_from_slice(from),
        Some((weight, eps)) => {
            let factor = 1.0 / (sum_of_squares(from) / n as f32 + eps).sqrt();
            for ((to, &x), &w) in to.iter_mut().zip(from).zip(&weight[..n]) {
                *to = x * factor * w;
            }
        }
    }
    if let Some(tables) = rope {
        let half = n / 2;
        let cos = &tables.cos[position * half..][..half];
        let sin = &tables.sin[position * half..][..half];
        let (first, second) = to.split_at_mut(half);
        for (((a, b), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// Sum of squares in 16 interleaved partial sums, added in order: an order that vectors can keep.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut partial = [0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (sum, &x) in partial.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    for (sum, &x) in partial.iter_mut().zip(rest) {
        *sum += x * x;
    }
    partial.iter().sum()
}
