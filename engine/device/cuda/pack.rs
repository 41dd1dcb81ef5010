//! Weights in the order in which the products' kernels copy them to shared memory.
//!
//! ```text
//! bf16  [group][slab of 32 k][32 columns][4 chunks of 8 k]    chunk c of column p lies at place c ^ (p / 2 % 4)
//! f32   [group][k][32 columns]
//! ```
//!
//! A *group* is 32 columns of the product (rows of the weight). Its columns are permuted so that the columns whose sums end up
//! in one thread are neighbours in the output:
//!
//! * bf16: a quad's thread t holds 2 of every 8 packed columns. These are columns 8 t ..+8 of the group's 32; of a gated
//!   weight, columns 4 t ..+4 of its 16, the gate in the first and third eight and the up projection in the others.
//! * f32: a thread holds 4 packed columns in a row: 4 columns; of a gated weight, the gate of two columns and then their up
//!   projection.
//!
//! k is padded to a multiple of 64 and columns to whole groups, with zeros. So a group stands alone: any range of groups is a
//! packed weight.

use std::ops::Range;

use half::bf16;

use crate::device::Dtype;

/// Columns of a group; `GEMM_GROUP` of `kernels/include/params/gemm.h`.
pub(super) const GROUP: usize = 32;
/// What k is padded to; `GEMM_K_PADDING` there.
const K_PADDING: usize = 64;
/// k of a slab and of a chunk.
const SLAB: usize = 32;
const CHUNK: usize = 8;

/// Which weight is packed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packing {
    pub(super) compute: Dtype,
    /// Rows of the weight; of a gated one, gate and up projection together.
    pub(super) n: usize,
    /// Columns of the weight.
    pub(super) k: usize,
    pub(super) gated: bool,
}

impl Packing {
    /// Columns of the output.
    pub(super) fn output_columns(&self) -> usize {
        if self.gated { self.n / 2 } else { self.n }
    }

    /// k with its padding.
    pub(super) fn k_padded(&self) -> usize {
        self.k.next_multiple_of(K_PADDING)
    }

    /// Groups of the packed weight.
    pub(super) fn groups(&self) -> usize {
        self.output_columns().div_ceil(self.group_outputs())
    }

    /// Bytes of a group.
    pub(super) fn group_bytes(&self) -> usize {
        GROUP * self.k_padded() * self.compute.bytes()
    }

    /// Output columns of a group.
    fn group_outputs(&self) -> usize {
        if self.gated { GROUP / 2 } else { GROUP }
    }

    /// The weight's row at `place` of `group`, unless that is padding.
    fn source_row(&self, group: usize, place: usize) -> Option<usize> {
        let (eight, thread, parity) = (place / 8, place % 8 / 2, place % 2);
        let (is_up, column) = match (self.compute, self.gated) {
            (Dtype::Bf16, false) => (false, 8 * thread + 2 * eight + parity),
            (Dtype::Bf16, true) => (eight % 2 == 1, 4 * thread + eight / 2 * 2 + parity),
            (Dtype::F32, false) => (false, place),
            (Dtype::F32, true) => (place / 2 % 2 == 1, place / 4 * 2 + parity),
        };
        let column = group * self.group_outputs() + column;
        let first = if is_up { self.output_columns() } else { 0 };
        (column < self.output_columns()).then_some(first + column)
    }

    /// Packs the weight whose row `i` is written by `read_row(i, row)`; bf16 rounds to nearest even.
    pub(super) fn pack(&self, read_row: impl Fn(usize, &mut [f32]) + Sync) -> Vec<u8> {
        let (groups, group_bytes) = (self.groups(), self.group_bytes());
        let mut bytes = vec![0u8; groups * group_bytes];
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(groups.max(1));
        let share = groups.div_ceil(workers).max(1);
        std::thread::scope(|scope| {
            for (worker, part) in bytes.chunks_mut((share * group_bytes).max(1)).enumerate() {
                let read_row = &read_row;
                scope.spawn(move || {
                    self.pack_groups(worker * share..((worker + 1) * share).min(groups), part, read_row)
                });
            }
        });
        bytes
    }

    /// The weight as it is, `[n, k]`; bf16 rounds to nearest even.
    pub(super) fn plain(&self, read_row: impl Fn(usize, &mut [f32]) + Sync) -> Vec<u8> {
        let row_bytes = self.k * self.compute.bytes();
        let mut bytes = vec![0u8; self.n * row_bytes];
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let share = self.n.div_ceil(workers).max(1);
        std::thread::scope(|scope| {
            for (worker, part) in bytes.chunks_mut((share * row_bytes).max(1)).enumerate() {
                let read_row = &read_row;
                scope.spawn(move || {
                    let mut row = vec![0.0f32; self.k];
                    for (index, bytes) in part.chunks_exact_mut(row_bytes).enumerate() {
                        read_row(worker * share + index, &mut row);
                        match self.compute {
                            Dtype::Bf16 => put_row(bytes, row.iter().map(|&x| bf16::from_f32(x).to_ne_bytes())),
                            Dtype::F32 => put_row(bytes, row.iter().map(|x| x.to_ne_bytes())),
                        }
                    }
                });
            }
        });
        bytes
    }

    /// A value for each packed column from one for each row of the weight; padding is zero.
    pub(super) fn pack_bias(&self, bias: &[f32]) -> Vec<f32> {
        let places = (0..self.groups()).flat_map(|group| (0..GROUP).map(move |place| (group, place)));
        places.map(|(group, place)| self.source_row(group, place).map_or(0.0, |row| bias[row])).collect()
    }

    fn pack_groups(&self, groups: Range<usize>, bytes: &mut [u8], read_row: impl Fn(usize, &mut [f32])) {
        let mut row = vec![0.0f32; self.k];
        for (group, bytes) in groups.zip(bytes.chunks_exact_mut(self.group_bytes())) {
            for place in 0..GROUP {
                if let Some(source) = self.source_row(group, place) {
                    read_row(source, &mut row);
                    match self.compute {
                        Dtype::Bf16 => put_bf16(&row, place, bytes),
                        Dtype::F32 => put_f32(&row, place, bytes),
                    }
                }
            }
        }
    }
}

fn put_row<const BYTES: usize>(to: &mut [u8], values: impl Iterator<Item = [u8; BYTES]>) {
    to.chunks_exact_mut(BYTES).zip(values).for_each(|(to, value)| to.copy_from_slice(&value));
}

/// Writes a column of a group, in chunks.
fn put_bf16(row: &[f32], place: usize, group: &mut [u8]) {
    const BYTES: usize = size_of::<bf16>();
    for (index, values) in row.chunks(CHUNK).enumerate() {
        let (slab, chunk) = (index / (SLAB / CHUNK), index % (SLAB / CHUNK));
        let at = slab * GROUP * SLAB + place * SLAB + (chunk ^ (place / 2 % 4)) * CHUNK;
        for (to, &value) in group[at * BYTES..].chunks_exact_mut(BYTES).zip(values) {
            to.copy_from_slice(&bf16::from_f32(value).to_le_bytes());
        }
    }
}

/// Writes a column of a group, an element a line.
fn put_f32(row: &[f32], place: usize, group: &mut [u8]) {
    const BYTES: usize = size_of::<f32>();
    for (line, value) in group.chunks_exact_mut(GROUP * BYTES).zip(row) {
        line[place * BYTES..][..BYTES].copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(Dtype, bool); 4] =
        [(Dtype::Bf16, false), (Dtype::Bf16, true), (Dtype::F32, false), (Dtype::F32, true)];

    #[test]
    fn every_row_lies_at_one_place() {
        for (compute, gated) in ALL {
            for n in [2, 30, 64, 98] {
                let packing = Packing { compute, n, k: 5, gated };
                let places = (0..packing.groups()).flat_map(|group| (0..GROUP).map(move |place| (group, place)));
                let mut rows: Vec<usize> =
                    places.filter_map(|(group, place)| packing.source_row(group, place)).collect();
                rows.sort_unstable();
                assert_eq!(rows, (0..n).collect::<Vec<_>>(), "{packing:?}");
            }
        }
    }

    #[test]
    fn gate_and_up_of_a_column_are_neighbours_of_one_thread() {
        let bf16 = Packing { compute: Dtype::Bf16, n: 64, k: 1, gated: true };
        let f32 = Packing { compute: Dtype::F32, ..bf16 };
        for place in (0..8).chain(16..24) {
            assert_eq!(bf16.source_row(1, place).unwrap() + 32, bf16.source_row(1, place + 8).unwrap());
        }
        for place in (0..32).step_by(4).flat_map(|four| [four, four + 1]) {
            assert_eq!(f32.source_row(1, place).unwrap() + 32, f32.source_row(1, place + 2).unwrap());
        }
    }

    #[test]
    fn elements_lie_where_the_layout_says_and_the_rest_is_zero() {
        let value = |row: usize, k: usize| (row * 100 + k) as f32;
        let read = |row: usize, out: &mut [f32]| (0..).zip(out).for_each(|(k, out)| *out = value(row, k));
        let (n, k) = (3, 70);
        let packing = Packing { compute: Dtype::F32, n, k, gated: false };
        let bytes = packing.pack(read);
        let words: &[f32] = bytemuck::cast_slice(&bytes);
        assert_eq!(words.len(), 128 * GROUP);
        assert_eq!(words[69 * GROUP + 2], value(2, 69));
        assert!(words[70 * GROUP..].iter().all(|&word| word == 0.0));

        let packing = Packing { compute: Dtype::Bf16, ..packing };
        let bytes = packing.pack(read);
        // Row 2 is thread 0's third column: place 0 of the second eight. k = 69 is element 5 of the first chunk of slab 2.
        assert_eq!(packing.source_row(0, 8), Some(2));
        let at = 2 * (2 * GROUP * SLAB + 8 * SLAB + 5);
        assert_eq!(bf16::from_le_bytes([bytes[at], bytes[at + 1]]), bf16::from_f32(value(2, 69)));
        assert_eq!(bytes.len(), packing.groups() * packing.group_bytes());
    }

    #[test]
    fn a_plain_weight_has_its_rows_in_order() {
        let read = |row: usize, out: &mut [f32]| (0..).zip(out).for_each(|(k, out)| *out = (row * 8 + k) as f32);
        let packing = Packing { compute: Dtype::F32, n: 7, k: 8, gated: false };
        let expected: Vec<f32> = (0..56).map(|i| i as f32).collect();
        assert_eq!(packing.plain(read), bytemuck::cast_slice::<f32, u8>(&expected));
        let bf16s: Vec<bf16> = expected.iter().map(|&x| bf16::from_f32(x)).collect();
        let packing = Packing { compute: Dtype::Bf16, ..packing };
        assert_eq!(packing.plain(read), bytemuck::cast_slice::<bf16, u8>(&bf16s));
    }

    #[test]
    fn an_empty_weight_packs_to_nothing() {
        let packing = Packing { compute: Dtype::Bf16, n: 0, k: 8, gated: false };
        assert!(packing.pack(|_, _| unreachable!("there are no rows")).is_empty());
    }
}
