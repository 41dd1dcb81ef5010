//! What happens to a tile's sums on their way out: from a tile in L1 to the output, one function of the element at a time.
//!
//! Every lane runs the same instructions wherever it stands; the last few columns of a row go through a buffer of one
//! vector. So an element's result does not depend on its column's place in a vector.

use super::Vector;
use super::math::{Function, Identity, WithFunction, with_function};
use crate::device::Epilogue;
use crate::device::cpu::gemm::output::Elements;
use crate::device::cpu::gemm::packed::{HALF, PANEL};

/// One tile's way out.
pub(super) struct FinishArgs {
    /// Sums, `[row][PANEL]`, with one vector more of readable memory behind the last row.
    pub(super) sums: *const f32,
    /// Rows of the tile.
    pub(super) rows: usize,
    /// Output columns, from the first of `sums` on.
    pub(super) columns: usize,
    /// First output element.
    pub(super) out: Elements,
    /// Elements between output rows.
    pub(super) out_stride: usize,
    /// What to do.
    pub(super) epilogue: Epilogue,
}

/// Finishes a tile.
///
/// # Safety
/// The machine has `V`'s instruction set; `sums` and `out` cover the rows and columns, and no other thread touches them.
/// `out` is f32 for [`Epilogue::Residual`].
#[inline(always)]
pub(super) unsafe fn finish<V: Vector>(args: &FinishArgs) {
    let mapped = |gated| Mapped::<V> { args, gated, lanes: std::marker::PhantomData };
    // SAFETY: passed on from the caller.
    unsafe {
        match args.epilogue {
            Epilogue::Store => mapped(false).run::<Identity>(),
            Epilogue::Residual => add::<V>(args),
            Epilogue::Activate(activation) => with_function(activation, mapped(false)),
            Epilogue::Gate(activation) => with_function(activation, mapped(true)),
        }
    }
}

/// out = f(sum), or f(gate sum) * up sum.
struct Mapped<'a, V> {
    args: &'a FinishArgs,
    gated: bool,
    lanes: std::marker::PhantomData<V>,
}

impl<V: Vector> WithFunction for Mapped<'_, V> {
    #[inline(always)]
    unsafe fn run<F: Function>(self) {
        let args = self.args;
        for row in 0..args.rows {
            for first in (0..args.columns).step_by(V::LANES) {
                // SAFETY: the caller vouches for the tile, whose rows have a vector of readable memory behind them.
                unsafe {
                    let sums = args.sums.add(row * PANEL + first);
                    let mut value = F::apply(V::load(sums));
                    if self.gated {
                        value = value * V::load(sums.add(HALF));
                    }
                    put(value, args.out, row * args.out_stride + first, args.columns - first);
                }
            }
        }
    }
}

/// out += sum
///
/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn add<V: Vector>(args: &FinishArgs) {
    let Elements::F32(out) = args.out else { unreachable!("a residual stream is f32") };
    for row in 0..args.rows {
        for first in (0..args.columns).step_by(V::LANES) {
            let left = args.columns - first;
            // SAFETY: the caller vouches for the tile and the output; a partial vector of it is read through `buffer`.
            unsafe {
                let sum = V::load(args.sums.add(row * PANEL + first));
                let to = out.add(row * args.out_stride + first);
                let before = if left >= V::LANES {
                    V::load(to)
                } else {
                    let mut buffer = [0.0f32; HALF];
                    to.copy_to_nonoverlapping(buffer.as_mut_ptr(), left);
                    V::load(buffer.as_ptr())
                };
                put(before + sum, args.out, row * args.out_stride + first, left);
            }
        }
    }
}

/// Writes the first `left` lanes, or all if there are no more, from element `at` on.
///
/// # Safety
/// `out` is writable there.
#[inline(always)]
unsafe fn put<V: Vector>(value: V, out: Elements, at: usize, left: usize) {
    // SAFETY: the caller vouches for `left` elements; a whole vector is written only if it fits them. A buffer of half a
    // panel holds any vector.
    unsafe {
        match out {
            Elements::F32(to) if left >= V::LANES => value.store(to.add(at)),
            Elements::Bf16(to) if left >= V::LANES => value.store_bf16(to.add(at)),
            Elements::F32(to) => {
                let mut buffer = [0.0f32; HALF];
                value.store(buffer.as_mut_ptr());
                to.add(at).copy_from_nonoverlapping(buffer.as_ptr(), left);
            }
            Elements::Bf16(to) => {
                let mut buffer = [half::bf16::ZERO; HALF];
                value.store_bf16(buffer.as_mut_ptr());
                to.add(at).copy_from_nonoverlapping(buffer.as_ptr(), left);
            }
        }
    }
}
