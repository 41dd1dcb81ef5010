//! The output head: logits of one level's codes, and the log-normaliser over that level or over the whole vocabulary.
//!
//! The vocabulary is packed in *parts*: one a level, its columns in code order, and one for the tokens of no level. Levels
//! may repeat tokens; a column whose token was already packed does not count again in the vocabulary's log-sum-exp. A head of
//! a matrix a level is those parts alone.
//!
//! `[rows, vocabulary]` is never materialised. Columns are computed in blocks of fixed boundaries, each block of a row gives
//! (maximum, sum of exponentials), and the blocks of a row are merged in order: neither threads nor neighbours change a bit.
//! At 1,024 rows, 176,000 tokens and hidden 1,024 that keeps 3 MB where the logits would take 720 MB.

use std::ops::Range;

use super::gemm::{MatrixRef, PackedMatrix, gemm_block};
use super::lanes::end_of;
use super::pool::Pool;
use super::rows::Out;
use super::store::Parts;
use super::{Isa, reduce};
use crate::device::{DeviceError, Dtype, HeadMatrix, HeadSource, Normalizer, Target};
use crate::export::TensorView;

/// Columns of a block: a block of f32 weights of hidden 1,024 is 2 MB, about a core's share of cache.
const BLOCK_COLUMNS: usize = 512;
/// Rows of a task: with the block's columns, 128 KB of logits.
const BLOCK_ROWS: usize = 64;

/// A packed head.
pub(super) struct PackedHead {
    /// For each level, the token of each code.
    pub(super) level_tokens: Vec<Vec<u32>>,
    level_part: Vec<usize>, // [levels]
    parts: Vec<Part>,
    place: Vec<Place>, // [vocabulary]
    whole_vocabulary: bool,
    hidden: usize,
}

struct Part {
    matrix: PackedMatrix,
    columns: usize,
    /// Sorted columns whose token another column stands for.
    uncounted: Vec<u32>,
}

/// Where a token was first packed.
#[derive(Clone, Copy, PartialEq)]
struct Place {
    part: u32,
    column: u32,
}

const NOWHERE: Place = Place { part: u32::MAX, column: 0 };

impl PackedHead {
    /// Packs the head.
    pub(super) fn pack(pool: &Pool, isa: Isa, compute: Dtype, source: &HeadSource) -> Result<PackedHead, DeviceError> {
        source.check()?;
        let packing = Packing { pool, isa, compute };
        Ok(match &source.matrix {
            HeadMatrix::Shared(matrix) => packing.shared(matrix, source),
            HeadMatrix::PerLevel(matrices) => packing.per_level(matrices, source),
        })
    }

    /// Bytes of the packed weights and token lists.
    pub(super) fn bytes(&self) -> usize {
        let tokens: usize = self.level_tokens.iter().map(|tokens| tokens.len() * 4).sum();
        self.parts.iter().map(|part| part.matrix.bytes()).sum::<usize>() + tokens + self.place.len() * 8
    }

    /// Columns of `x`.
    pub(super) fn hidden(&self) -> usize {
        self.hidden
    }

    /// Columns of the logits of `target`.
    pub(super) fn columns(&self, target: Target) -> usize {
        match target {
            Target::Level(level) => self.level_tokens[level].len(),
            Target::Token(_) => 1,
        }
    }

    /// The part and columns that hold the logits of `target`.
    fn wanted(&self, target: Target) -> (usize, Range<usize>) {
        match target {
            Target::Level(level) => (self.level_part[level], 0..self.level_tokens[level].len()),
            Target::Token(token) => {
                let place = self.place.get(token as usize).copied().unwrap_or(NOWHERE);
                assert!(place != NOWHERE, "head: token {token} is not packed: the whole vocabulary was not asked for");
                (place.part as usize, place.column as usize..place.column as usize + 1)
            }
        }
    }
}

/// How parts are packed.
struct Packing<'a> {
    pool: &'a Pool,
    isa: Isa,
    compute: Dtype,
}

impl Packing<'_> {
    fn matrix(&self, matrix: &TensorView, rows: &[u32]) -> PackedMatrix {
        let read = |column: usize, out: &mut [f32]| matrix.read_row(rows[column] as usize, out);
        PackedMatrix::pack(self.pool, self.isa, self.compute, rows.len(), matrix.cols(), false, read)
    }

    fn shared(&self, matrix: &TensorView, source: &HeadSource) -> PackedHead {
        let mut head = PackedHead {
            level_tokens: source.level_tokens.clone(),
            level_part: Vec::new(),
            parts: Vec::new(),
            place: vec![NOWHERE; matrix.rows()],
            whole_vocabulary: source.whole_vocabulary,
            hidden: matrix.cols(),
        };
        let add = |head: &mut PackedHead, tokens: &[u32]| {
            let part = head.parts.len() as u32;
            let mut uncounted = Vec::new();
            for (column, &token) in (0..).zip(tokens) {
                match &mut head.place[token as usize] {
                    place if *place == NOWHERE => *place = Place { part, column },
                    _ => uncounted.push(column),
                }
            }
            head.parts.push(Part { matrix: self.matrix(matrix, tokens), columns: tokens.len(), uncounted });
        };
        for (level, tokens) in source.level_tokens.iter().enumerate() {
            let same = source.level_tokens[..level].iter().position(|other| other == tokens);
            if same.is_none() {
                add(&mut head, tokens);
            }
            head.level_part.push(same.map_or(head.parts.len() - 1, |same| head.level_part[same]));
        }
        if source.whole_vocabulary {
            let tokens = 0..matrix.rows() as u32;
            let rest: Vec<u32> = tokens.filter(|&token| head.place[token as usize] == NOWHERE).collect();
            if !rest.is_empty() {
                add(&mut head, &rest);
            }
        }
        head
    }

    fn per_level(&self, matrices: &[TensorView], source: &HeadSource) -> PackedHead {
        let part = |matrix: &TensorView| {
            let codes: Vec<u32> = (0..matrix.rows() as u32).collect();
            Part { matrix: self.matrix(matrix, &codes), columns: codes.len(), uncounted: Vec::new() }
        };
        PackedHead {
            level_tokens: source.level_tokens.clone(),
            level_part: (0..matrices.len()).collect(),
            parts: matrices.iter().map(part).collect(),
            place: Vec::new(),
            whole_vocabulary: false,
            hidden: matrices[0].cols(),
        }
    }
}

/// Space that a head operation reuses.
#[derive(Default)]
pub(super) struct HeadScratch {
    blocks: Vec<Block>,
    row_blocks: Vec<Range<usize>>,
    logits: Vec<f32>, // [threads, BLOCK_ROWS, BLOCK_COLUMNS]
    maxima: Vec<f32>, // [rows, blocks]
    sums: Vec<f32>,   // [rows, blocks]
}

#[derive(Clone)]
struct Block {
    part: usize,
    columns: Range<usize>,
}

/// One head operation.
pub(super) struct HeadRun<'a> {
    pub(super) isa: Isa,
    pub(super) pool: &'a Pool,
    pub(super) head: &'a PackedHead,
    pub(super) x: MatrixRef<'a>,
    pub(super) ranges: &'a [Range<usize>],
    pub(super) target: Target,
    pub(super) normalizer: Normalizer,
    pub(super) logits: Out<'a, f32>,
    pub(super) lognorm: Out<'a, f32>,
}

/// Computes logits and log-normalisers.
pub(super) fn run(run: HeadRun, scratch: &mut HeadScratch) {
    let HeadRun { isa, pool, head, x, ranges, target, normalizer, logits, lognorm } = run;
    let wanted = head.wanted(target);
    plan_blocks(head, normalizer, &wanted, &mut scratch.blocks);
    plan_rows(ranges, &mut scratch.row_blocks);
    let HeadScratch { blocks, row_blocks, logits: space, maxima, sums } = scratch;
    let (blocks, row_blocks) = (&blocks[..], &row_blocks[..]);
    let cells = end_of(ranges) * blocks.len();
    let workers = pool.threads();
    for (list, len) in [(&mut *space, workers * BLOCK_ROWS * BLOCK_COLUMNS), (&mut *maxima, cells), (&mut *sums, cells)]
    {
        if list.len() < len {
            list.resize(len, 0.0);
        }
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let (space, maxima_parts, sums_parts) = (Parts::new(space), Parts::new(maxima), Parts::new(sums));
    let logits_parts = Parts::new(logits.data);
    pool.run(workers, |worker| {
        let size = BLOCK_ROWS * BLOCK_COLUMNS;
        // SAFETY: `worker` runs once in this job and is the only one to take this part.
        let space = unsafe { space.range(worker * size..(worker + 1) * size) };
        loop {
            // Neighbouring tasks share a block's weights.
            let task = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(block) = blocks.get(task / row_blocks.len().max(1)).filter(|_| !row_blocks.is_empty()) else {
                return;
            };
            let (number, rows) = (task / row_blocks.len(), row_blocks[task % row_blocks.len()].clone());
            let part = &head.parts[block.part];
            let width = block.columns.len();
            let space = &mut space[..rows.len() * width];
            gemm_block(isa, x, rows.clone(), &part.matrix, block.columns.clone(), space, width);
            for (row, values) in rows.zip(space.chunks_exact_mut(width)) {
                if block.part == wanted.0 {
                    let start = wanted.1.start.max(block.columns.start);
                    let end = wanted.1.end.min(block.columns.end);
                    if start < end {
                        let to = row * logits.stride + start - wanted.1.start;
                        // SAFETY: tasks differ in row or in columns.
                        let out = unsafe { logits_parts.range(to..to + end - start) };
                        out.copy_from_slice(&values[start - block.columns.start..end - block.columns.start]);
                    }
                }
                if normalizer == Normalizer::Vocabulary {
                    hide_uncounted(&part.uncounted, &block.columns, values);
                }
                if normalizer == Normalizer::Legal {
                    continue;
                }
                let cell = row * blocks.len() + number;
                // SAFETY: this task is the only one with this row and block.
                let (max, sum) = unsafe { (maxima_parts.range(cell..cell + 1), sums_parts.range(cell..cell + 1)) };
                (max[0], sum[0]) = reduce::exp_parts(isa, values);
            }
        }
    });
    if normalizer != Normalizer::Legal {
        merge(isa, pool, ranges, (maxima, sums, blocks.len()), lognorm);
    }
}

/// The blocks to compute, in the order in which a row merges them.
fn plan_blocks(head: &PackedHead, normalizer: Normalizer, wanted: &(usize, Range<usize>), blocks: &mut Vec<Block>) {
    assert!(
        normalizer != Normalizer::Vocabulary || head.whole_vocabulary,
        "head: the vocabulary's normaliser needs a head packed with the whole vocabulary"
    );
    blocks.clear();
    for (number, part) in head.parts.iter().enumerate() {
        let needed = match normalizer {
            Normalizer::Vocabulary => number == wanted.0 || part.uncounted.len() < part.columns,
            Normalizer::Level | Normalizer::Legal => number == wanted.0,
        };
        let starts = (0..part.columns).step_by(BLOCK_COLUMNS).filter(|_| needed);
        blocks.extend(
            starts.map(|start| Block { part: number, columns: start..(start + BLOCK_COLUMNS).min(part.columns) }),
        );
    }
}

fn plan_rows(ranges: &[Range<usize>], row_blocks: &mut Vec<Range<usize>>) {
    row_blocks.clear();
    for range in ranges {
        row_blocks.extend(range.clone().step_by(BLOCK_ROWS).map(|start| start..(start + BLOCK_ROWS).min(range.end)));
    }
}

/// Takes columns that do not count out of the sum.
fn hide_uncounted(uncounted: &[u32], columns: &Range<usize>, values: &mut [f32]) {
    let from = uncounted.partition_point(|&column| (column as usize) < columns.start);
    for &column in uncounted[from..].iter().take_while(|&&column| (column as usize) < columns.end) {
        values[column as usize - columns.start] = f32::NEG_INFINITY;
    }
}

fn merge(
    isa: Isa,
    pool: &Pool,
    ranges: &[Range<usize>],
    (maxima, sums, blocks): (&[f32], &[f32], usize),
    lognorm: Out<f32>,
) {
    let out = Parts::new(lognorm.data);
    super::rows::for_each_row(pool, ranges, blocks, |row| {
        let cells = row * blocks..(row + 1) * blocks;
        // SAFETY: `for_each_row` visits a row once.
        let out = unsafe { out.range(row * lognorm.stride..row * lognorm.stride + 1) };
        out[0] = reduce::merge_parts(isa, &maxima[cells.clone()], &sums[cells]);
    });
}
