//! Keys and values as the CPU's attention kernels want them.
//!
//! **Pages.** A page of one layer and KV head is a run of *groups* of 16 tokens, all key groups first, then all value
//! groups (the last group of a page may have unused lanes when `page_tokens` is not a multiple of 16):
//!
//! ```text
//! key group    [step][16 tokens]  one 32-bit cell: an f32 (step = element d), or the bf16 elements (2 step, 2 step + 1)
//! value group  [step][width]      one 32-bit cell: an f32 (step = token), or the bf16 values of tokens (2 step, 2 step + 1)
//! ```
//!
//! Keys are thus transposed: a vector of 16 tokens meets one broadcast query cell. Values keep their rows: a broadcast
//! probability cell meets a vector of 16 output elements. In bf16 both are already the operands of `vdpbf16ps`; instruction
//! sets without it widen the two halves of a cell with a shift and a mask. `width` is `head_dim` rounded up to 16; the
//! padding is zero and stays zero. What lies behind a sequence's last token is whatever the page's previous owner left, so
//! no kernel may multiply by it.
//!
//! **Own slab.** `[layer][step][kv head][row][key, value][width]`, dense; read row by row through the ancestor table. A tile of
//! attention works on one head, so what it jumps about in is `[row][key, value][width]`: 128 KiB for 512 beams at head_dim 64
//! in bf16, which stays in L2.

mod cells;
mod rows;
#[cfg(test)]
mod tests;
mod write;

use half::bf16;

use crate::device::{DeviceError, Dtype, KvShape, OwnShape};

pub(in crate::device::cpu) use self::cells::Cells;
pub(in crate::device::cpu) use self::rows::RowTarget;
pub use self::rows::{BeamSpan, ComputeRows, ComputeRowsMut, Strided, StridedMut, TokenSpan};
pub use self::write::{HeadNormWeights, KvDestination, QueryRows, RopeTables, WriteKv, write_kv};

/// Tokens of a group.
pub(in crate::device::cpu) const GROUP: usize = 16;

/// Rounds to bf16, to nearest even; NaN stays NaN. Without branches, so that loops over it become vectors.
#[inline(always)]
fn bf16_bits(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    (if value.is_nan() { bits | 0x0040_0000 } else { rounded }) >> 16
}

/// Rounds a slice to bf16.
#[inline(always)]
fn round_slice(from: &[f32], to: &mut [bf16]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = bf16::from_bits(bf16_bits(from) as u16);
    }
}

/// Cell arithmetic of one head's groups.
#[derive(Clone, Copy, Debug)]
pub(in crate::device::cpu) struct HeadLayout {
    /// Element type of the stored keys and values.
    pub dtype: Dtype,
    /// Elements of a head.
    pub head_dim: usize,
    /// `head_dim` rounded up to 16: columns of a value step.
    pub width: usize,
    /// Steps of a key group.
    pub key_steps: usize,
    /// Steps of a value group.
    pub value_steps: usize,
}

impl HeadLayout {
    /// The layout of heads of `head_dim` elements stored as `dtype`.
    pub(in crate::device::cpu) fn new(head_dim: usize, dtype: Dtype) -> HeadLayout {
        let (key_steps, value_steps) = match dtype {
            Dtype::F32 => (head_dim, GROUP),
            Dtype::Bf16 => (head_dim.div_ceil(2), GROUP / 2),
        };
        HeadLayout { dtype, head_dim, width: head_dim.next_multiple_of(16), key_steps, value_steps }
    }

    /// Cells of a key group.
    pub(in crate::device::cpu) fn key_cells(&self) -> usize {
        self.key_steps * GROUP
    }

    /// Cells of a value group.
    pub(in crate::device::cpu) fn value_cells(&self) -> usize {
        self.value_steps * self.width
    }
}

/// A paged pool: every layer's keys and values of every page.
pub struct KvPages {
    shape: KvShape,
    layout: HeadLayout,
    /// Groups of a page.
    groups: usize,
    cells: Cells,
}

impl KvPages {
    /// A zeroed pool that stores `dtype`.
    ///
    /// # Errors
    /// Not enough memory.
    ///
    /// # Panics
    /// If a dimension other than the number of pages is zero.
    pub fn new(shape: KvShape, dtype: Dtype) -> Result<KvPages, DeviceError> {
        assert!(shape.layers > 0 && shape.kv_heads > 0 && shape.head_dim > 0 && shape.page_tokens > 0, "{shape:?}");
        let layout = HeadLayout::new(shape.head_dim, dtype);
        let groups = shape.page_tokens.div_ceil(GROUP);
        let head_cells = groups * (layout.key_cells() + layout.value_cells());
        let len = [shape.layers, shape.pages, shape.kv_heads].iter().fold(head_cells, |a, &b| a.saturating_mul(b));
        Ok(KvPages { shape, layout, groups, cells: Cells::new(len, "KV pool")? })
    }

    /// The pool's shape.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Stored element type.
    pub fn dtype(&self) -> Dtype {
        self.layout.dtype
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.cells.bytes()
    }

    /// The page's keys of one head: its first group.
    #[inline]
    pub(in crate::device::cpu) fn keys(&self, layer: usize, page: u32, kv_head: usize) -> *mut u32 {
        let page = page as usize;
        assert!(layer < self.shape.layers && page < self.shape.pages && kv_head < self.shape.kv_heads);
        let head_cells = self.groups * (self.layout.key_cells() + self.layout.value_cells());
        self.cells.at(((layer * self.shape.pages + page) * self.shape.kv_heads + kv_head) * head_cells)
    }

    /// The page's values of one head: its first group.
    #[inline]
    pub(in crate::device::cpu) fn values(&self, layer: usize, page: u32, kv_head: usize) -> *mut u32 {
        // SAFETY: a head's value groups follow its key groups within the same allocation.
        unsafe { self.keys(layer, page, kv_head).add(self.groups * self.layout.key_cells()) }
    }

    /// Writes one token's key and value, `[kv_heads * head_dim]` each, rounded to the pool's type.
    pub fn write(&mut self, layer: usize, page: u32, offset: usize, key: &[f32], value: &[f32]) {
        let n = self.shape.head_dim;
        assert_eq!((key.len(), value.len()), (self.shape.kv_heads * n, self.shape.kv_heads * n));
        for (head, (key, value)) in key.chunks_exact(n).zip(value.chunks_exact(n)).enumerate() {
            // SAFETY: `&mut self` keeps everyone else out.
            unsafe { self.write_head(layer, page, offset, head, key, value) };
        }
    }

    /// Writes one head of one token.
    ///
    /// # Safety
    /// Nobody else reads or writes this (layer, page, offset, head) meanwhile. Other offsets of the page are not touched,
    /// so several threads may write different tokens at once.
    #[inline(always)]
    pub(in crate::device::cpu) unsafe fn write_head(
        &self,
        layer: usize,
        page: u32,
        offset: usize,
        kv_head: usize,
        key: &[f32],
        value: &[f32],
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            self.write_key(layer, page, offset, kv_head, key);
            self.write_value(layer, page, offset, kv_head, value);
        }
    }

    /// Writes one head's key of one token.
    ///
    /// # Safety
    /// As for [`KvPages::write_head`].
    #[inline(always)]
    unsafe fn write_key(&self, layer: usize, page: u32, offset: usize, kv_head: usize, key: &[f32]) {
        let layout = self.layout;
        assert!(offset < self.shape.page_tokens && key.len() == layout.head_dim);
        let (group, lane) = (offset / GROUP, offset % GROUP);
        // SAFETY: group and lane lie within the page; every index below stays within the group (see `HeadLayout`).
        unsafe {
            let keys = self.keys(layer, page, kv_head).add(group * layout.key_cells() + lane);
            match layout.dtype {
                Dtype::F32 => {
                    for (d, &x) in key.iter().enumerate() {
                        keys.add(d * GROUP).write(x.to_bits());
                    }
                }
                Dtype::Bf16 => {
                    let pairs = key.chunks_exact(2);
                    if let [last] = pairs.remainder() {
                        keys.add((layout.key_steps - 1) * GROUP).write(bf16_bits(*last));
                    }
                    for (step, pair) in pairs.enumerate() {
                        keys.add(step * GROUP).write(bf16_bits(pair[0]) | bf16_bits(pair[1]) << 16);
                    }
                }
            }
        }
    }

    /// Writes one head's value of one token.
    ///
    /// # Safety
    /// As for [`KvPages::write_head`].
    #[inline(always)]
    unsafe fn write_value(&self, layer: usize, page: u32, offset: usize, kv_head: usize, value: &[f32]) {
        let layout = self.layout;
        assert!(offset < self.shape.page_tokens && value.len() == layout.head_dim);
        let (group, lane) = (offset / GROUP, offset % GROUP);
        // SAFETY: as in `write_key`.
        unsafe {
            let values = self.values(layer, page, kv_head).add(group * layout.value_cells());
            match layout.dtype {
                Dtype::F32 => {
                    let row = values.cast::<f32>().add(lane * layout.width);
                    row.copy_from_nonoverlapping(value.as_ptr(), layout.head_dim);
                }
                Dtype::Bf16 => {
                    let row = values.add(lane / 2 * layout.width).cast::<u16>().add(lane % 2);
                    for (d, &x) in value.iter().enumerate() {
                        row.add(2 * d).write(bf16_bits(x) as u16);
                    }
                }
            }
        }
    }

    /// Writes one head's values of two neighbouring tokens, at `offset` (even) and `offset + 1`: whole cells in bf16.
    ///
    /// # Safety
    /// As for [`KvPages::write_head`], for both tokens.
    #[inline(always)]
    unsafe fn write_value_pair(&self, layer: usize, page: u32, offset: usize, kv_head: usize, values: [&[f32]; 2]) {
        let layout = self.layout;
        // SAFETY: as in `write_key`; the two halves of a cell are two tokens of the same group.
        unsafe {
            match layout.dtype {
                Dtype::F32 => {
                    self.write_value(layer, page, offset, kv_head, values[0]);
                    self.write_value(layer, page, offset + 1, kv_head, values[1]);
                }
                Dtype::Bf16 => {
                    assert!(offset.is_multiple_of(2) && offset + 1 < self.shape.page_tokens);
                    let (group, lane) = (offset / GROUP, offset % GROUP);
                    let cells = self.values(layer, page, kv_head).add(group * layout.value_cells());
                    let row = cells.add(lane / 2 * layout.width);
                    let row = std::slice::from_raw_parts_mut(row, layout.head_dim);
                    for ((cell, &low), &high) in row.iter_mut().zip(values[0]).zip(values[1]) {
                        *cell = bf16_bits(low) | bf16_bits(high) << 16;
                    }
                }
            }
        }
    }

    /// Reads one head of one token back, as f32: the plain path's way in.
    ///
    /// # Safety
    /// Nobody writes this token meanwhile.
    pub(in crate::device::cpu) unsafe fn read_head(
        &self,
        layer: usize,
        page: u32,
        offset: usize,
        kv_head: usize,
        key: &mut [f32],
        value: &mut [f32],
    ) {
        let layout = self.layout;
        assert!(offset < self.shape.page_tokens && key.len() == layout.head_dim && value.len() == layout.head_dim);
        let (group, lane) = (offset / GROUP, offset % GROUP);
        // SAFETY: as in `write_head`.
        unsafe {
            let keys = self.keys(layer, page, kv_head).add(group * layout.key_cells() + lane);
            let values = self.values(layer, page, kv_head).add(group * layout.value_cells());
            for d in 0..layout.head_dim {
                (key[d], value[d]) = match layout.dtype {
                    Dtype::F32 => (
                        keys.cast::<f32>().add(d * GROUP).read(),
                        values.cast::<f32>().add(lane * layout.width + d).read(),
                    ),
                    Dtype::Bf16 => (
                        keys.add(d / 2 * GROUP).cast::<bf16>().add(d % 2).read().to_f32(),
                        values.add(lane / 2 * layout.width + d).cast::<bf16>().add(lane % 2).read().to_f32(),
                    ),
                };
            }
        }
    }
}

/// Own tokens of a cohort lane's beams.
pub struct OwnKv {
    shape: OwnShape,
    dtype: Dtype,
    width: usize,
    cells: Cells,
}

impl OwnKv {
    /// A zeroed slab that stores `dtype`.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn new(shape: OwnShape, dtype: Dtype) -> Result<OwnKv, DeviceError> {
        let width = shape.head_dim.next_multiple_of(16);
        let row_cells = 2 * shape.kv_heads * width * dtype.bytes() / 4;
        let len = [shape.layers, shape.steps, shape.rows].iter().fold(row_cells, |a, &b| a.saturating_mul(b));
        Ok(OwnKv { shape, dtype, width, cells: Cells::new(len, "own-token KV")? })
    }

    /// The slab's shape.
    pub fn shape(&self) -> OwnShape {
        self.shape
    }

    /// Stored element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.cells.bytes()
    }

    /// Key (`part` 0) or value (`part` 1) of one head: `head_dim` elements and zeros up to a multiple of 16.
    #[inline]
    pub(in crate::device::cpu) fn head(
        &self,
        layer: usize,
        step: usize,
        row: usize,
        part: usize,
        kv_head: usize,
    ) -> *mut u32 {
        let shape = self.shape;
        assert!(layer < shape.layers && step < shape.steps && row < shape.rows && part < 2 && kv_head < shape.kv_heads);
        let row = ((layer * shape.steps + step) * shape.kv_heads + kv_head) * shape.rows + row;
        self.cells.at((row * 2 + part) * (self.width * self.dtype.bytes() / 4))
    }

    /// Writes one row's key and value, `[kv_heads * head_dim]` each, rounded to the slab's type.
    pub fn write(&mut self, layer: usize, step: usize, row: usize, key: &[f32], value: &[f32]) {
        let n = self.shape.head_dim;
        assert_eq!((key.len(), value.len()), (self.shape.kv_heads * n, self.shape.kv_heads * n));
        for (head, (key, value)) in key.chunks_exact(n).zip(value.chunks_exact(n)).enumerate() {
            // SAFETY: `&mut self` keeps everyone else out.
            unsafe { self.write_head(layer, step, row, head, key, value) };
        }
    }

    /// Writes one head of one row.
    ///
    /// # Safety
    /// Nobody else reads or writes this (layer, step, row, head) meanwhile.
    #[inline(always)]
    pub(in crate::device::cpu) unsafe fn write_head(
        &self,
        layer: usize,
        step: usize,
        row: usize,
        kv_head: usize,
        key: &[f32],
        value: &[f32],
    ) {
        for (part, from) in [key, value].into_iter().enumerate() {
            assert_eq!(from.len(), self.shape.head_dim);
            let to = self.head(layer, step, row, part, kv_head);
            // SAFETY: a head has room for `width >= head_dim` elements.
            unsafe {
                match self.dtype {
                    Dtype::F32 => to.cast::<f32>().copy_from_nonoverlapping(from.as_ptr(), from.len()),
                    Dtype::Bf16 => round_slice(from, std::slice::from_raw_parts_mut(to.cast::<bf16>(), from.len())),
                }
            }
        }
    }

    /// Reads one head's key (`part` 0) or value (`part` 1) as f32.
    ///
    /// # Safety
    /// Nobody writes it meanwhile.
    pub(in crate::device::cpu) unsafe fn read_head(
        &self,
        layer: usize,
        step: usize,
        row: usize,
        part: usize,
        kv_head: usize,
        to: &mut [f32],
    ) {
        assert_eq!(to.len(), self.shape.head_dim);
        let from = self.head(layer, step, row, part, kv_head);
        for (d, x) in to.iter_mut().enumerate() {
            // SAFETY: `d` lies within the head.
            *x = unsafe {
                match self.dtype {
                    Dtype::F32 => from.cast::<f32>().add(d).read(),
                    Dtype::Bf16 => from.cast::<bf16>().add(d).read().to_f32(),
                }
            };
        }
    }
}
