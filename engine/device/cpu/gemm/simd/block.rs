//! A block of the product on one thread: pack the input rows, then for each panel, for each tile.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::Kernel;
use super::epilogue::FinishArgs;
use super::tile::{CHUNK, TileArgs};
use crate::device::Epilogue;
use crate::device::cpu::gemm::output::Elements;
use crate::device::cpu::gemm::packed::PANEL;
use crate::device::cpu::gemm::{Elems, Job, MatrixRef};

/// Most rows of any kernel's tile.
const MAX_TILE_ROWS: usize = 14;

/// A tile's sums before the epilogue, and one vector more that partial loads may touch.
#[repr(align(64))]
struct Sums([f32; (MAX_TILE_ROWS + 1) * PANEL]);

thread_local! {
    /// Packed input rows. Grows to the largest block of the process and stays.
    static PACKED_INPUT: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Computes a block of the product.
///
/// # Safety
/// The job's output covers the block, and no other thread touches that part of it.
pub(in crate::device::cpu::gemm) unsafe fn block(
    kernel: Kernel,
    job: &Job<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
) {
    PACKED_INPUT.with_borrow_mut(|input| {
        let tiles = Tiles { rows: rows.len(), count: rows.len().div_ceil(kernel.max_tile_rows) };
        let row_words = job.packed.units().div_ceil(CHUNK) * CHUNK * kernel.input_words;
        if input.len() < rows.len() * row_words {
            input.resize(rows.len() * row_words, 0);
        }
        for tile in tiles.iter() {
            let words = &mut input[tile.start * row_words..tile.end * row_words];
            pack_tile(
                &job.x,
                job.packed.k(),
                rows.start + tile.start..rows.start + tile.end,
                kernel.input_words,
                words,
            );
        }
        let mut sums = Sums([0.0; (MAX_TILE_ROWS + 1) * PANEL]);
        let width = job.packed.panel_columns();
        for panel in columns.start / width..columns.end.div_ceil(width) {
            let first = columns.start.max(panel * width);
            let last = columns.end.min((panel + 1) * width);
            let in_place = job.epilogue == Epilogue::Store && last - first == PANEL;
            for tile in tiles.iter() {
                let (out, out_stride) = job.out.at(rows.start + tile.start, first);
                let (sums_to, sums_stride) = match out {
                    Elements::F32(out) if in_place => (out, out_stride),
                    _ => (sums.0.as_mut_ptr(), PANEL),
                };
                // SAFETY: `Kernel::choose` saw the instruction set. The packed rows, the panel and its bias cover the tile by
                // construction; the sums go to a buffer of a whole tile, or in place where the panel's 32 columns are
                // all the job's. The caller vouches for the output.
                unsafe {
                    (kernel.tile)(
                        tile.len(),
                        &TileArgs {
                            input: input[tile.start * row_words..].as_ptr(),
                            weights: job.packed.panel(panel).as_ptr(),
                            bias: job.packed.panel_bias(panel).as_ptr(),
                            units: job.packed.units(),
                            out: sums_to,
                            out_stride: sums_stride,
                        },
                    );
                    if sums_to == sums.0.as_mut_ptr() {
                        (kernel.finish)(&FinishArgs {
                            sums: sums.0.as_ptr().add(first - panel * width),
                            rows: tile.len(),
                            columns: last - first,
                            out,
                            out_stride,
                            epilogue: job.epilogue,
                        });
                    }
                }
            }
        }
    });
}

/// Rows cut into tiles of nearly equal height.
#[derive(Clone, Copy)]
struct Tiles {
    rows: usize,
    count: usize,
}

impl Tiles {
    fn iter(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.count).map(move |i| i * self.rows / self.count..(i + 1) * self.rows / self.count)
    }
}

/// Copies rows of the input to `[chunk][row][CHUNK]` units, widening bf16 where a unit is two words.
fn pack_tile(x: &MatrixRef<'_>, k: usize, rows: Range<usize>, input_words: usize, words: &mut [u32]) {
    let height = rows.len();
    let chunk_words = CHUNK * input_words;
    for (i, row) in rows.enumerate() {
        let lines = words.chunks_exact_mut(chunk_words).skip(i).step_by(height);
        match x.data {
            Elems::F32(data) => {
                let (whole, rest) = data[row * x.stride..][..k].as_chunks::<CHUNK>();
                for (line, values) in lines.zip(whole.iter().map(|v| &v[..]).chain([rest])) {
                    let line: &mut [f32] = bytemuck::cast_slice_mut(line);
                    copy_padded(values, line);
                }
            }
            Elems::Bf16(data) => {
                let (whole, rest) = data[row * x.stride..][..k].as_chunks::<{ 2 * CHUNK }>();
                for (line, values) in lines.zip(whole.iter().map(|v| &v[..]).chain([rest])) {
                    if input_words == 1 {
                        copy_padded(values, bytemuck::cast_slice_mut::<u32, bf16>(line));
                    } else {
                        let line: &mut [f32] = bytemuck::cast_slice_mut(line);
                        values.convert_to_f32_slice(&mut line[..values.len()]);
                        line[values.len()..].fill(0.0);
                    }
                }
            }
        }
    }
}

/// Copies `from` to the head of `to` and zeroes the rest: an odd last k meets a weight of zero, and must not be NaN.
#[inline(always)]
fn copy_padded<T: Copy + bytemuck::Zeroable>(from: &[T], to: &mut [T]) {
    to[..from.len()].copy_from_slice(from);
    to[from.len()..].fill(T::zeroed());
}
