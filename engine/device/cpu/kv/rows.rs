//! Borrowed arguments of the KV and attention operations: matrices whose rows lie apart, and descriptors of row ranges.
//!
//! Descriptors are plain data; block tables are ranges of one flat array, so that a device can keep both in reusable
//! vectors and an operation allocates nothing.

use half::bf16;

use crate::device::Dtype;

/// A matrix to read: row r is `data[r * stride ..]`, as many columns as the operation says.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a, T> {
    /// Starts at the first element of row 0.
    pub data: &'a [T],
    /// Elements between rows.
    pub stride: usize,
}

impl<T> Strided<'_, T> {
    /// The first `cols` elements of a row.
    #[inline]
    pub fn row(&self, row: usize, cols: usize) -> &[T] {
        &self.data[row * self.stride..][..cols]
    }
}

/// A matrix to write; rows as in [`Strided`].
#[derive(Debug)]
pub struct StridedMut<'a, T> {
    /// Starts at the first element of row 0.
    pub data: &'a mut [T],
    /// Elements between rows.
    pub stride: usize,
}

/// A matrix in the compute type, to read.
#[derive(Clone, Copy, Debug)]
pub enum ComputeRows<'a> {
    /// The device computes in f32.
    F32(Strided<'a, f32>),
    /// The device computes in bf16.
    Bf16(Strided<'a, bf16>),
}

impl ComputeRows<'_> {
    /// Element type.
    pub fn dtype(&self) -> Dtype {
        match self {
            ComputeRows::F32(_) => Dtype::F32,
            ComputeRows::Bf16(_) => Dtype::Bf16,
        }
    }
}

/// A matrix in the compute type, to write.
#[derive(Debug)]
pub enum ComputeRowsMut<'a> {
    /// The device computes in f32.
    F32(StridedMut<'a, f32>),
    /// The device computes in bf16.
    Bf16(StridedMut<'a, bf16>),
}

impl ComputeRowsMut<'_> {
    /// Element type.
    pub fn dtype(&self) -> Dtype {
        match self {
            ComputeRowsMut::F32(_) => Dtype::F32,
            ComputeRowsMut::Bf16(_) => Dtype::Bf16,
        }
    }

    /// The shared pointer that an operation's tasks write through.
    pub(in crate::device::cpu) fn target(&mut self) -> RowTarget {
        match self {
            ComputeRowsMut::F32(rows) => RowTarget {
                pointer: rows.data.as_mut_ptr().cast(),
                len: rows.data.len(),
                stride: rows.stride,
                dtype: Dtype::F32,
            },
            ComputeRowsMut::Bf16(rows) => RowTarget {
                pointer: rows.data.as_mut_ptr().cast(),
                len: rows.data.len(),
                stride: rows.stride,
                dtype: Dtype::Bf16,
            },
        }
    }
}

/// A [`ComputeRowsMut`] that several tasks write at once, each its own elements.
#[derive(Clone, Copy)]
pub(in crate::device::cpu) struct RowTarget {
    pointer: *mut u8,
    len: usize,
    stride: usize,
    pub dtype: Dtype,
}

// SAFETY: a pointer to plain floats that the operation borrowed mutably; tasks write disjoint elements (`RowTarget::at`).
unsafe impl Send for RowTarget {}
// SAFETY: as above.
unsafe impl Sync for RowTarget {}

impl RowTarget {
    /// Address of `cols` writable elements from column `col` of `row`. Callers write only elements that no other task writes.
    #[inline]
    pub(in crate::device::cpu) fn at(&self, row: usize, col: usize, cols: usize) -> *mut u8 {
        let first = row * self.stride + col;
        assert!(first + cols <= self.len, "row {row}, columns {col}+{cols}: outside the matrix");
        // SAFETY: checked against the borrowed slice just above.
        unsafe { self.pointer.add(first * self.dtype.bytes()) }
    }
}

/// Consecutive rows that belong to one sequence slot: row `first_row + i` is token `first_position + i` of its segment.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenSpan {
    /// First row, in the operation's matrices.
    pub first_row: usize,
    /// Rows.
    pub rows: usize,
    /// Position of the first row.
    pub first_position: usize,
    /// Valid tokens of the attended segment.
    pub kv_len: usize,
    /// Where the segment's block table starts in the flat array of block tables.
    pub first_page: usize,
}

/// The live beams of one request: rows `first_row .. first_row + live`.
#[derive(Clone, Copy, Debug, Default)]
pub struct BeamSpan {
    /// First row, in the operation's matrices, the own slab and the ancestor table.
    pub first_row: usize,
    /// Live beams.
    pub live: usize,
    /// Valid tokens of the attended shared segment (0 if none is attended). Step s stands at `shared_len + s` for the bias.
    pub shared_len: usize,
    /// Where the shared segment's block table starts in the flat array of block tables.
    pub first_page: usize,
    /// Position of the first own token for RoPE: step s is rotated as position `own_position + s`.
    pub own_position: usize,
}

/// Which task of an operation is which range of which span: spans are cut into pieces of at most `piece` rows.
///
/// Returns (span, first row within it, rows), walking the spans: there are few, and nothing needs to be allocated.
#[inline]
pub(super) fn locate(
    rows_of_spans: impl Iterator<Item = usize>,
    piece: usize,
    mut task: usize,
) -> (usize, usize, usize) {
    for (span, rows) in rows_of_spans.enumerate() {
        let pieces = rows.div_ceil(piece);
        if task < pieces {
            let first = task * piece;
            return (span, first, piece.min(rows - first));
        }
        task -= pieces;
    }
    panic!("task {task} beyond the last span");
}
