//! Where a product goes: memory that many threads write at once, each its own block.

use std::marker::PhantomData;

use half::bf16;

use super::{ElemsMut, MatrixMut};

/// A pointer to elements of either type.
#[derive(Clone, Copy)]
pub(super) enum Elements {
    /// f32
    F32(*mut f32),
    /// bf16
    Bf16(*mut bf16),
}

/// An output matrix whose bounds were checked, borrowed for as long as it is shared between threads.
pub(super) struct Output<'a> {
    elements: Elements,
    stride: usize,
    origin: (usize, usize),
    borrowed: PhantomData<&'a mut [f32]>,
}

// SAFETY: it only computes addresses; whoever dereferences them vouches that no two threads use the same elements.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// An output of `rows x columns` whose first element stands for element `origin` of the product.
    ///
    /// # Panics
    /// If the slice is too short.
    pub(super) fn new(out: MatrixMut<'a>, rows: usize, columns: usize, origin: (usize, usize)) -> Output<'a> {
        let (elements, len) = match out.data {
            ElemsMut::F32(data) => (Elements::F32(data.as_mut_ptr()), data.len()),
            ElemsMut::Bf16(data) => (Elements::Bf16(data.as_mut_ptr()), data.len()),
        };
        super::check_extent("output", rows, columns, out.stride, len);
        Output { elements, stride: out.stride, origin, borrowed: PhantomData }
    }

    /// The address of an element of the product, and the elements between rows.
    ///
    /// # Panics
    /// If it lies before the origin.
    pub(super) fn at(&self, row: usize, column: usize) -> (Elements, usize) {
        let (first_row, first_column) = self.origin;
        assert!(row >= first_row && column >= first_column, "element {row}, {column} lies before the output");
        let offset = (row - first_row) * self.stride + (column - first_column);
        let elements = match self.elements {
            Elements::F32(data) => Elements::F32(data.wrapping_add(offset)),
            Elements::Bf16(data) => Elements::Bf16(data.wrapping_add(offset)),
        };
        (elements, self.stride)
    }

    /// Whether elements are f32.
    pub(super) fn is_f32(&self) -> bool {
        matches!(self.elements, Elements::F32(_))
    }
}
