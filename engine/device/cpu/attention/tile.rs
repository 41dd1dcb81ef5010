//! The unit of work: some rows of one span or request, against the keys of one KV head.
//!
//! Query heads that share a KV head are rows of the same matrix product: *virtual row* v of a span is row `v / group`, query
//! head `v % group` of the KV head's group.

use half::bf16;

use super::{DistanceBias, OwnTokens, SharedPages, scalar};
use crate::device::cpu::Isa;
use crate::device::cpu::kv::{ComputeRows, RowTarget};
use crate::device::{Dtype, Mask};

/// Virtual rows of a tile, at most: 16 panels of 6 rows. Keys are read from L2 or beyond once a tile, and the tile's outputs
/// (24 KiB at head_dim 64) stay in cache beside a block of keys and values.
pub(super) const ROWS: usize = 96;

/// A tile and everything it needs to know.
pub(super) struct Tile<'a> {
    /// Elements of a head.
    pub head_dim: usize,
    /// Query heads of a KV head.
    pub group: usize,
    /// The KV head.
    pub kv_head: usize,
    /// First virtual row of the span.
    pub first: usize,
    /// Virtual rows.
    pub count: usize,
    /// The span's first row in the matrices.
    pub first_row: usize,
    /// Position of the span's first row, for the mask and the bias.
    pub position: usize,
    /// Positions from one row to the next: 1 for tokens, 0 for beams.
    pub advance: usize,
    /// Pages; the block table starts at this span's.
    pub shared: Option<SharedPages<'a>>,
    /// Valid tokens in them.
    pub shared_len: usize,
    /// Visibility.
    pub mask: Mask,
    /// Own tokens.
    pub own: Option<OwnTokens<'a>>,
    /// Added to the scores.
    pub bias: Option<DistanceBias<'a>>,
    /// Queries.
    pub query: ComputeRows<'a>,
    /// Results.
    pub out: RowTarget,
}

impl Tile<'_> {
    /// Matrix row of virtual row `v` of this tile.
    #[inline]
    pub(super) fn row(&self, v: usize) -> usize {
        self.first_row + (self.first + v) / self.group
    }

    /// Query head of virtual row `v`.
    #[inline]
    pub(super) fn head(&self, v: usize) -> usize {
        self.kv_head * self.group + (self.first + v) % self.group
    }

    /// Position of virtual row `v`.
    #[inline]
    pub(super) fn position(&self, v: usize) -> usize {
        self.position + (self.first + v) / self.group * self.advance
    }

    /// Shared keys that virtual row `v` sees: those at positions below this.
    #[inline]
    pub(super) fn visible(&self, v: usize) -> usize {
        match self.mask {
            Mask::Causal => self.shared_len.min(self.position(v) + 1),
            Mask::Full => self.shared_len,
        }
    }

    /// Copies virtual row `v`'s query into `to[..head_dim]`, as f32.
    #[inline(always)]
    pub(super) fn load_query(&self, v: usize, to: &mut [f32]) {
        let (first, n) = (self.head(v) * self.head_dim, self.head_dim);
        match self.query {
            ComputeRows::F32(rows) => to[..n].copy_from_slice(&rows.row(self.row(v), first + n)[first..]),
            ComputeRows::Bf16(rows) => {
                for (to, from) in to[..n].iter_mut().zip(&rows.row(self.row(v), first + n)[first..]) {
                    *to = from.to_f32();
                }
            }
        }
    }

    /// Slab row of the own token that virtual row `v` attends to at step `s`.
    #[inline]
    pub(super) fn own_row(&self, own: &OwnTokens<'_>, v: usize, s: usize) -> usize {
        let row = self.row(v);
        if s == own.step { row } else { own.ancestors[row * own.max_steps + s] as usize }
    }

    /// Stores virtual row `v`'s result, rounded to the compute type. Adding zero turns -0 into +0: whether a vanishing sum
    /// got its sign from a key that is masked is not to be seen.
    #[inline]
    pub(super) fn store(&self, v: usize, result: &[f32]) {
        let to = self.out.at(self.row(v), self.head(v) * self.head_dim, self.head_dim);
        for (d, &x) in result[..self.head_dim].iter().enumerate() {
            // SAFETY: `at` checked the range, and no other tile has this row and head.
            unsafe {
                match self.out.dtype {
                    Dtype::F32 => to.cast::<f32>().add(d).write(x + 0.0),
                    Dtype::Bf16 => to.cast::<bf16>().add(d).write(bf16::from_f32(x + 0.0)),
                }
            }
        }
    }
}

/// Computes a tile with the kernel of `isa`.
pub(super) fn run(isa: Isa, tile: &Tile<'_>) {
    #[cfg(target_arch = "x86_64")]
    {
        use super::{avx2, avx512, work};
        use crate::device::cpu::kv::HeadLayout;
        type Run = unsafe fn(&Tile<'_>, HeadLayout, &work::Workspace);
        let stored = HeadLayout::new(tile.head_dim, tile.out.dtype);
        // The same head in f32, a whole number of pairs long.
        let wide = match stored.dtype {
            Dtype::F32 => stored,
            Dtype::Bf16 => HeadLayout::new(tile.head_dim.next_multiple_of(2), Dtype::F32),
        };
        let chosen: Option<(Run, HeadLayout)> = match (isa, stored.dtype) {
            (Isa::Scalar, _) => None,
            (Isa::Avx2, _) => Some((avx2::run, wide)),
            (Isa::Avx512Bf16, Dtype::Bf16) => Some((avx512::run_native, stored)),
            (Isa::Avx512 | Isa::Avx512Bf16, _) => Some((avx512::run, wide)),
        };
        if let Some((run, layout)) = chosen {
            // SAFETY: an `Isa` is used only where it is available, and `work::with` sizes the scratch for the tile.
            work::with(tile, layout, |work| unsafe { run(tile, layout, work) });
            return;
        }
    }
    let _ = isa;
    scalar::run(tile);
}
