//! Matrix products with packed weights: `out = epilogue(x W^T + bias)`.
//!
//! **Invariant: an element depends on its own row and column only.** Whatever the number of rows, the tile that the row
//! falls into, the number of threads, and whether [`gemm`] or [`gemm_block`] computes it, each element is one sum in the
//! order of k from the bias on, in f32, by the same instructions. Across instruction sets results differ in the last bits.
//!
//! Weights are packed once ([`PackedMatrix`]); inputs are packed a block at a time into memory that each thread keeps.
//! k is never blocked, so epilogues see finished sums and the output is written once.

mod output;
mod packed;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(test)]
mod tests;

use std::ops::Range;

use half::bf16;

use self::output::Output;
pub use self::packed::{PANEL, PackedMatrix};
pub(crate) use self::scalar::activate;
use super::{Isa, Pool};
use crate::device::{Dtype, Epilogue};

/// Elements of an input.
#[derive(Clone, Copy, Debug)]
pub enum Elems<'a> {
    /// f32
    F32(&'a [f32]),
    /// bf16
    Bf16(&'a [bf16]),
}

/// Elements of an output.
#[derive(Debug)]
pub enum ElemsMut<'a> {
    /// f32
    F32(&'a mut [f32]),
    /// bf16
    Bf16(&'a mut [bf16]),
}

/// An input: row r begins at element `r * stride`.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRef<'a> {
    /// From the first element of the first row on.
    pub data: Elems<'a>,
    /// Elements between rows.
    pub stride: usize,
}

/// An output: row r begins at element `r * stride`.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    /// From the first element of the first row on.
    pub data: ElemsMut<'a>,
    /// Elements between rows.
    pub stride: usize,
}

/// A product to compute, in blocks.
struct Job<'a> {
    isa: Isa,
    x: MatrixRef<'a>,
    packed: &'a PackedMatrix,
    out: Output<'a>,
    epilogue: Epilogue,
}

impl Job<'_> {
    /// Checks that machine, input, weight, output and epilogue fit each other.
    fn check(&self, rows: usize) {
        let packed = self.packed;
        assert!(self.isa.is_available(), "this machine has no {}", self.isa.name());
        let (dtype, len) = match self.x.data {
            Elems::F32(data) => (Dtype::F32, data.len()),
            Elems::Bf16(data) => (Dtype::Bf16, data.len()),
        };
        assert_eq!(dtype, packed.dtype(), "input and weight have one type");
        check_extent("input", rows, packed.k(), self.x.stride, len);
        let gate = matches!(self.epilogue, Epilogue::Gate(_));
        assert_eq!(gate, packed.is_gated(), "a gated weight and the gate epilogue go together");
        assert!(self.out.is_f32() || self.epilogue != Epilogue::Residual, "a residual stream is f32");
    }

    /// Computes a block on this thread.
    ///
    /// # Safety
    /// The output covers the block, and no other thread touches that part of it.
    unsafe fn block(&self, rows: Range<usize>, columns: Range<usize>) {
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = simd::Kernel::choose(self.isa, self.packed.dtype()) {
            // SAFETY: passed on from the caller.
            return unsafe { simd::block(kernel, self, rows, columns) };
        }
        // SAFETY: passed on from the caller.
        unsafe { scalar::block(self, rows, columns) }
    }
}

/// `out = epilogue(x W^T + bias)` for the first `rows` rows, on all threads of the pool.
///
/// # Panics
/// If types or shapes do not fit: `x` has the weight's type and `k` columns; `out` has
/// [`output_columns`](PackedMatrix::output_columns) columns, and is f32 for [`Epilogue::Residual`]. Also if this machine
/// lacks `isa`.
pub fn gemm(
    pool: &Pool,
    isa: Isa,
    x: MatrixRef<'_>,
    rows: usize,
    packed: &PackedMatrix,
    out: MatrixMut<'_>,
    epilogue: Epilogue,
) {
    let columns = packed.output_columns();
    let job = Job { isa, x, packed, out: Output::new(out, rows, columns, (0, 0)), epilogue };
    job.check(rows);
    let split = Split::choose(pool.threads(), rows, packed);
    pool.run(split.row_blocks * split.column_blocks, |task| {
        let (row_block, column_block) = (task / split.column_blocks, task % split.column_blocks);
        let share = |total: usize, blocks: usize, i: usize| i * total / blocks;
        let rows = share(rows, split.row_blocks, row_block)..share(rows, split.row_blocks, row_block + 1);
        let panel = |i| (share(packed.panels(), split.column_blocks, i) * packed.panel_columns()).min(columns);
        // SAFETY: `Output::new` checked the whole extent, and the blocks of different tasks do not overlap.
        unsafe { job.block(rows, panel(column_block)..panel(column_block + 1)) }
    });
}

/// A block of `x W^T` on the calling thread: element `[i, j]` of `out` is that of row `rows.start + i` and column
/// `columns.start + j`, bit for bit what [`gemm`] computes.
///
/// `columns` may be any range; multiples of [`PANEL`] compute nothing twice. The input rows are packed anew in each call, so
/// a block of a few panels at least is well spent.
///
/// # Panics
/// If types or shapes do not fit, the weight is gated, or this machine lacks `isa`.
pub fn gemm_block(
    isa: Isa,
    x: MatrixRef<'_>,
    rows: Range<usize>,
    packed: &PackedMatrix,
    columns: Range<usize>,
    out: &mut [f32],
    out_stride: usize,
) {
    assert!(columns.end <= packed.output_columns(), "columns {columns:?} of {}", packed.output_columns());
    let out = MatrixMut { data: ElemsMut::F32(out), stride: out_stride };
    let out = Output::new(out, rows.len(), columns.len(), (rows.start, columns.start));
    let job = Job { isa, x, packed, out, epilogue: Epilogue::Store };
    job.check(rows.end);
    if !rows.is_empty() && !columns.is_empty() {
        // SAFETY: `Output::new` checked the extent of this block, and `out` is borrowed by this call alone.
        unsafe { job.block(rows, columns) }
    }
}

/// Bytes of packed input rows that leave room for panels in a 1 MiB L2.
const INPUT_BLOCK_BYTES: usize = 384 << 10;

/// How a product is cut into tasks. Results do not depend on it.
#[derive(Clone, Copy, Debug)]
struct Split {
    row_blocks: usize,
    column_blocks: usize,
}

impl Split {
    fn choose(threads: usize, rows: usize, packed: &PackedMatrix) -> Split {
        let work = rows * packed.panels();
        if work == 0 {
            return Split { row_blocks: 0, column_blocks: 0 };
        }
        let row_bytes = packed.units() * size_of::<u32>();
        let block_rows = (INPUT_BLOCK_BYTES / row_bytes.max(1)).max(56);
        let threads = if work * row_bytes < 64 << 10 { 1 } else { threads };
        // Rows first: blocks of rows share nothing but the weight. Below 64 rows they would read it too often.
        let row_blocks = if threads == 1 { 1 } else { (rows / 64).clamp(1, 2 * threads) };
        let row_blocks = row_blocks.max(rows.div_ceil(block_rows));
        let wanted = if threads == 1 { 1 } else { (4 * threads).div_ceil(row_blocks) };
        // Each block of columns packs the input again: a small share of 4 panels' products.
        let most = if rows <= 4 { packed.panels() } else { packed.panels().div_ceil(4) };
        Split { row_blocks, column_blocks: wanted.min(most).max(1) }
    }
}

/// Checks that rows of `columns` elements fit a slice.
fn check_extent(what: &str, rows: usize, columns: usize, stride: usize, len: usize) {
    let needed = if rows == 0 { 0 } else { (rows - 1) * stride + columns };
    assert!(rows <= 1 || stride >= columns, "{what}: rows of {columns} elements every {stride} overlap");
    assert!(
        needed <= len,
        "{what}: {rows} rows of {columns} elements every {stride} need {needed} elements, not {len}"
    );
}
