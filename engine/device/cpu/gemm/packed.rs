//! Weights in the order in which kernels read them.
//!
//! ```text
//! [panel][unit][32 columns]      one word of 4 bytes each
//! ```
//!
//! A *panel* is 32 output columns (rows of the weight). A *unit* is what one word of a column holds: one f32, or a pair of
//! bf16 that are neighbours in k (what `vdpbf16ps` multiplies at once). Columns and the odd last k are padded with zeros.
//!
//! A gated weight `[G; U]` has 16 columns of G and the same 16 columns of U in each panel, so that one tile holds both
//! factors of `act(G) * U`.
//!
//! The order is the same for every instruction set: kernels with narrower vectors, or without bf16 products, read the same
//! words.

use std::sync::Mutex;

use half::bf16;
use half::slice::HalfFloatSliceExt;
use sidereal_ffi::Pages;

use crate::device::Dtype;
use crate::device::cpu::{Isa, Pool};

/// Columns of a panel.
pub const PANEL: usize = 32;
/// Columns of half a panel: the gate's, or the up projection's.
pub(super) const HALF: usize = PANEL / 2;

/// What the sums of a weight without bias start from.
static NO_BIAS: [f32; PANEL] = [0.0; PANEL];

/// A weight `[n, k]` (`out = x W^T + bias`), packed once at planning.
#[derive(Debug)]
pub struct PackedMatrix {
    n: usize,
    k: usize,
    gated: bool,
    dtype: Dtype,
    words: Pages,   // [panels, units, PANEL]
    bias: Vec<f32>, // [panels, PANEL], or empty
}

impl PackedMatrix {
    /// Packs the weight whose row `i` is written by `read_row(i, row)` into a row of `k` values. bf16 rounds to nearest even.
    ///
    /// `gated`: rows `0 .. n / 2` are the gate and `n / 2 .. n` the up projection of [`Epilogue::Gate`]. `isa` is the
    /// instruction set that will multiply with it; all of today's share one order.
    ///
    /// # Panics
    /// If `n` is odd and the weight gated, or the memory cannot be had.
    ///
    /// [`Epilogue::Gate`]: crate::device::Epilogue::Gate
    pub fn pack(
        pool: &Pool,
        _isa: Isa,
        compute: Dtype,
        n: usize,
        k: usize,
        gated: bool,
        read_row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> PackedMatrix {
        assert!(!gated || n.is_multiple_of(2), "a gated weight has as many gate rows as up rows, not {n} in all");
        let mut packed = PackedMatrix {
            n,
            k,
            gated,
            dtype: compute,
            words: Pages::zeroed(0).expect("no memory asked"),
            bias: Vec::new(),
        };
        let (panels, units) = (packed.panels(), packed.units());
        let bytes = panels * units * PANEL * size_of::<u32>();
        packed.words = Pages::zeroed(bytes).unwrap_or_else(|e| panic!("{bytes} bytes for a packed weight: {e}"));
        if bytes == 0 {
            return packed;
        }
        let words: &mut [u32] = bytemuck::cast_slice_mut(&mut packed.words);
        let slots: Vec<Mutex<&mut [u32]>> = words.chunks_exact_mut(units * PANEL).map(Mutex::new).collect();
        // An odd number of cache lines between rows keeps 32 power-of-two rows out of one cache set.
        let row_words = (units.div_ceil(16) | 1) * 16;
        pool.run(panels, |panel| {
            let mut slot = slots[panel].lock().expect("each panel is packed by one task");
            let mut row = vec![0.0f32; k];
            let mut columns = vec![0u32; PANEL * row_words];
            for column in 0..PANEL {
                let Some(source) = source_row(n, gated, panel, column) else { continue };
                read_row(source, &mut row);
                to_words(compute, &row, &mut columns[column * row_words..][..units]);
            }
            for (unit, line) in slot.chunks_exact_mut(PANEL).enumerate() {
                for (column, word) in line.iter_mut().enumerate() {
                    *word = columns[column * row_words + unit];
                }
            }
        });
        drop(slots);
        packed
    }

    /// Adds `bias` to every product: a value for each row of the weight, or none.
    ///
    /// # Panics
    /// If there are others than `n` values or none.
    pub fn with_bias(mut self, bias: &[f32]) -> PackedMatrix {
        assert!(bias.is_empty() || bias.len() == self.n, "{} values for {} rows", bias.len(), self.n);
        self.bias.clear();
        if !bias.is_empty() {
            let places = (0..self.panels()).flat_map(|panel| (0..PANEL).map(move |column| (panel, column)));
            let value = |(panel, column)| source_row(self.n, self.gated, panel, column).map_or(0.0, |row| bias[row]);
            self.bias = places.map(value).collect();
        }
        self
    }

    /// Rows of the weight: columns of the product before a gate halves them.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of the weight: columns of the input.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Memory that the packed weight takes.
    pub fn bytes(&self) -> usize {
        self.words.len() + size_of_val(&self.bias[..])
    }

    /// Element type of the weight and of the inputs that it multiplies.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Whether it is a gate and an up projection, for [`Epilogue::Gate`](crate::device::Epilogue::Gate) only.
    pub fn is_gated(&self) -> bool {
        self.gated
    }

    /// Columns of the output.
    pub fn output_columns(&self) -> usize {
        if self.gated { self.n / 2 } else { self.n }
    }

    /// Output columns of a panel.
    pub(super) fn panel_columns(&self) -> usize {
        if self.gated { HALF } else { PANEL }
    }

    /// Panels.
    pub(super) fn panels(&self) -> usize {
        self.output_columns().div_ceil(self.panel_columns())
    }

    /// Words of a column.
    pub(super) fn units(&self) -> usize {
        match self.dtype {
            Dtype::F32 => self.k,
            Dtype::Bf16 => self.k.div_ceil(2),
        }
    }

    /// The words of one panel, `[units, PANEL]`.
    pub(super) fn panel(&self, panel: usize) -> &[u32] {
        let words = self.units() * PANEL;
        &bytemuck::cast_slice(&self.words)[panel * words..][..words]
    }

    /// What the sums of one panel's columns start from.
    pub(super) fn panel_bias(&self, panel: usize) -> &[f32; PANEL] {
        match self.bias.as_chunks().0.get(panel) {
            Some(bias) => bias,
            None => &NO_BIAS,
        }
    }
}

/// The row of a weight of `n` rows that is column `column` of a panel, unless that is padding.
fn source_row(n: usize, gated: bool, panel: usize, column: usize) -> Option<usize> {
    let (row, rows) = if !gated {
        (panel * PANEL + column, n)
    } else if column < HALF {
        (panel * HALF + column, n / 2)
    } else {
        (n / 2 + panel * HALF + column - HALF, n)
    };
    (row < rows).then_some(row)
}

/// A weight row as words.
fn to_words(dtype: Dtype, row: &[f32], words: &mut [u32]) {
    match dtype {
        Dtype::F32 => words.copy_from_slice(bytemuck::cast_slice(row)),
        Dtype::Bf16 => {
            let halves: &mut [bf16] = bytemuck::cast_slice_mut(words);
            halves[..row.len()].convert_from_f32_slice(row);
            // The odd last half is still zero.
        }
    }
}
