//! Planned buffers and the checked way from a [`Tensor`] handle to the rows behind it.
//!
//! A buffer is allocated once, page-aligned and zeroed. Operations borrow buffers through `RefCell`, so an operation that
//! would read what it writes stops with a panic instead of racing with itself.

use std::cell::{Ref, RefCell, RefMut};
use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::Pod;
use half::bf16;
use sidereal_ffi::Pages;

use crate::device::{DeviceError, Dtype, Tensor};

/// A zeroed block of elements of one type, aligned to a page at least.
pub(super) struct Buffer {
    memory: Pages, // [rows * cols * dtype]
    rows: usize,
    cols: usize,
    dtype: Dtype,
}

impl Buffer {
    fn new(rows: usize, cols: usize, dtype: Dtype) -> Result<Buffer, DeviceError> {
        let bytes = rows.checked_mul(cols).and_then(|n| n.checked_mul(dtype.bytes()));
        let memory = match bytes.filter(|&bytes| bytes <= isize::MAX as usize / 2) {
            Some(bytes) => Pages::zeroed(bytes).map_err(|error| error.to_string()),
            None => Err("more than the address space".to_owned()),
        };
        let mut memory = memory.map_err(|reason| DeviceError::OutOfMemory {
            what: format!("buffer [{rows}, {cols}] {}", dtype.name()),
            bytes: bytes.unwrap_or(usize::MAX),
            reason,
        })?;
        // Written once now, so that no operation waits for the kernel to find memory.
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 0);
        Ok(Buffer { memory, rows, cols, dtype })
    }

    fn bytes(&self) -> usize {
        self.memory.len()
    }
}

/// Element types of buffers.
pub(super) trait Element: Pod + Send + Sync {
    /// The buffer type that holds it.
    const DTYPE: Dtype;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
    fn from_f32(value: f32) -> f32 {
        value
    }
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
    fn from_f32(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
}

/// All planned buffers.
#[derive(Default)]
pub(super) struct Store {
    buffers: Vec<RefCell<Buffer>>,
}

impl Store {
    /// Plans a zeroed buffer.
    pub(super) fn plan(&mut self, rows: usize, cols: usize, dtype: Dtype) -> Result<Tensor, DeviceError> {
        let buffer = self.buffers.len() as u32;
        self.buffers.push(RefCell::new(Buffer::new(rows, cols, dtype)?));
        Ok(Tensor { buffer, rows, first_col: 0, cols, stride: cols, dtype })
    }

    /// Bytes of all buffers.
    pub(super) fn bytes(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.borrow().bytes()).sum()
    }

    /// Borrows a tensor for reading.
    ///
    /// # Panics
    /// If the handle is not one of this store's, or the operation also writes the buffer.
    pub(super) fn read(&self, op: &str, tensor: Tensor) -> Ref<'_, Buffer> {
        let buffer = self.cell(op, tensor).try_borrow();
        let buffer = buffer.unwrap_or_else(|_| panic!("{op}: buffer {} is read and written", tensor.buffer));
        buffer.check(op, tensor);
        buffer
    }

    /// Borrows a tensor for writing.
    ///
    /// # Panics
    /// If the handle is not one of this store's, or the operation also reads the buffer.
    pub(super) fn write(&self, op: &str, tensor: Tensor) -> RefMut<'_, Buffer> {
        let buffer = self.cell(op, tensor).try_borrow_mut();
        let buffer = buffer.unwrap_or_else(|_| panic!("{op}: buffer {} is read and written", tensor.buffer));
        buffer.check(op, tensor);
        buffer
    }

    /// Copies rows `(source, target)` of `pairs` between buffers of one width and type.
    pub(super) fn copy(&self, op: &str, pairs: impl Iterator<Item = (usize, usize)>, from: Tensor, to: Tensor) {
        assert!(from.cols == to.cols && from.dtype == to.dtype, "{op}: {from:?} to {to:?}");
        let source = self.read(op, from);
        let mut target = self.write(op, to);
        let (element, cols) = (from.dtype.bytes(), from.cols);
        let source: &[u8] = &source.memory;
        let target: &mut [u8] = &mut target.memory;
        let place = |tensor: Tensor, row: usize| {
            assert!(row < tensor.rows, "{op}: row {row} of {tensor:?}");
            let start = (row * tensor.stride + tensor.first_col) * element;
            start..start + cols * element
        };
        for (from_row, to_row) in pairs {
            target[place(to, to_row)].copy_from_slice(&source[place(from, from_row)]);
        }
    }

    fn cell(&self, op: &str, tensor: Tensor) -> &RefCell<Buffer> {
        self.buffers.get(tensor.buffer as usize).unwrap_or_else(|| panic!("{op}: no buffer {}", tensor.buffer))
    }
}

impl Buffer {
    fn check(&self, op: &str, tensor: Tensor) {
        assert!(
            tensor.dtype == self.dtype
                && tensor.stride == self.cols
                && tensor.rows <= self.rows
                && tensor.first_col + tensor.cols <= self.cols,
            "{op}: {tensor:?} is no view of a [{}, {}] {} buffer",
            self.rows,
            self.cols,
            self.dtype.name(),
        );
    }

    /// The elements from the view's first one on; row r of the view starts at `r * stride`.
    pub(super) fn elements<T: Element>(&self, tensor: Tensor) -> &[T] {
        assert_eq!(T::DTYPE, tensor.dtype, "element type of {tensor:?}");
        let all: &[T] = bytemuck::cast_slice(&self.memory);
        &all[tensor.first_col..self.rows * self.cols]
    }

    /// As [`Buffer::elements`], to write.
    pub(super) fn elements_mut<T: Element>(&mut self, tensor: Tensor) -> &mut [T] {
        assert_eq!(T::DTYPE, tensor.dtype, "element type of {tensor:?}");
        let end = self.rows * self.cols;
        let all: &mut [T] = bytemuck::cast_slice_mut(&mut self.memory);
        &mut all[tensor.first_col..end]
    }

    /// A row of the view, widened.
    pub(super) fn row(&self, tensor: Tensor, row: usize) -> Vec<f32> {
        let place = row * tensor.stride..row * tensor.stride + tensor.cols;
        match tensor.dtype {
            Dtype::F32 => self.elements::<f32>(tensor)[place].to_vec(),
            Dtype::Bf16 => self.elements::<bf16>(tensor)[place].iter().map(|x| x.to_f32()).collect(),
        }
    }

    /// Overwrites a row of the view, rounding to its type.
    pub(super) fn set_row(&mut self, tensor: Tensor, row: usize, values: &[f32]) {
        fn fill<T: Element>(out: &mut [T], values: &[f32]) {
            out.iter_mut().zip(values).for_each(|(out, &value)| *out = T::from_f32(value));
        }
        let place = row * tensor.stride..row * tensor.stride + tensor.cols;
        match tensor.dtype {
            Dtype::F32 => fill(&mut self.elements_mut::<f32>(tensor)[place], values),
            Dtype::Bf16 => fill(&mut self.elements_mut::<bf16>(tensor)[place], values),
        }
    }
}

/// Asserts what an operation needs of a tensor.
pub(super) fn expect_shape(op: &str, name: &str, tensor: Tensor, rows: usize, cols: usize) {
    assert!(
        tensor.rows >= rows && tensor.cols == cols,
        "{op}: {name} is [{}, {}], needed are at least {rows} rows of {cols} columns",
        tensor.rows,
        tensor.cols,
    );
}

/// A slice that the tasks of one job write together, each task its own part.
pub(super) struct Parts<'a, T> {
    base: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: `Parts` hands out no reference by itself; whoever calls `range` promises that the parts in use are disjoint, and
// disjoint parts of a `&mut [T]` may go to different threads when T may.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Takes the slice for the job's duration.
    pub(super) fn new(slice: &'a mut [T]) -> Parts<'a, T> {
        Parts { base: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// One task's part.
    ///
    /// # Safety
    /// While the result lives, no other call of `range` on this value may return an overlapping part.
    #[allow(clippy::mut_from_ref)] // disjointness is the caller's promise
    pub(super) unsafe fn range(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {}", self.len);
        // SAFETY: in bounds by the assertion, exclusive by the caller's promise, alive for 'a by `owner`.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_reach_their_columns() {
        let mut store = Store::default();
        let whole = store.plan(3, 5, Dtype::F32).unwrap();
        assert_eq!(store.bytes(), 60);
        let view = whole.columns(2, 2);
        {
            let mut buffer = store.write("test", view);
            let elements = buffer.elements_mut::<f32>(view);
            elements[view.stride] = 7.0;
        }
        assert_eq!(store.read("test", whole).elements::<f32>(whole)[5 + 2], 7.0);
        let base = store.read("test", whole).elements::<f32>(whole).as_ptr() as usize;
        assert_eq!(base % 64, 0);
    }

    #[test]
    #[should_panic(expected = "norm: buffer 0 is read and written")]
    fn reading_what_is_written_is_a_bug() {
        let mut store = Store::default();
        let whole = store.plan(3, 5, Dtype::F32).unwrap();
        let _read = store.read("norm", whole);
        let _write = store.write("norm", whole);
    }

    #[test]
    fn too_large_a_buffer_is_an_error() {
        let error = Store::default().plan(usize::MAX / 2, 16, Dtype::F32).unwrap_err();
        assert!(matches!(error, DeviceError::OutOfMemory { .. }), "{error}");
    }
}
