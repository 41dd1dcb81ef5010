//! What the operations that multiply by a packed weight share: the weight on the card, the kernels' tiles and which is chosen.
//!
//! Every tile gives the same bits (`gemm_bf16.cuh` says why), so the choice may follow the number of rows.

use sidereal_ffi::params::Product;

use crate::device::cuda::driver::{Kernel, Shape};
use crate::device::cuda::memory::{Memory, Purpose};
use crate::device::cuda::pack::{GROUP, Packing};
use crate::device::cuda::{CudaDevice, RowSet};
use crate::device::{DeviceError, Dtype, Tensor};

/// A packed weight on the card.
#[derive(Clone, Copy, Debug)]
pub(in crate::device::cuda) struct Packed {
    pub(super) packing: Packing,
    address: u64,         // [groups, group_bytes]
    pub(super) bias: u64, // f32[groups * GROUP] in packed order, or 0
}

impl Packed {
    /// Packs and uploads a weight.
    pub(super) fn upload(
        memory: &mut Memory,
        what: String,
        packing: Packing,
        read_row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<Packed, DeviceError> {
        let address = memory.holding(Purpose::Weights, what, &packing.pack(read_row))?;
        Ok(Packed { packing, address, bias: 0 })
    }

    /// Where it lies.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Uploads a bias: a value for each row of the weight, or none.
    pub(super) fn with_bias(self, memory: &mut Memory, weight: &str, bias: &[f32]) -> Result<Packed, DeviceError> {
        if bias.is_empty() {
            return Ok(self);
        }
        let values = self.packing.pack_bias(bias);
        let bias = memory.holding(Purpose::Weights, format!("bias of {weight}"), bytemuck::cast_slice(&values))?;
        Ok(Packed { bias, ..self })
    }
}

/// A kernel, and the part of a product that one of its blocks computes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub(super) kernel: Kernel,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) threads: u32,
    /// Time of a block beside those of the other tiles.
    cost: usize,
}

impl Tile {
    /// 128 x 256: the fewest bytes from L2 and shared memory for a product.
    pub(super) const fn wide(module: &'static str, name: &'static str) -> Tile {
        let kernel = Kernel { module, name, dynamic_shared: 96 << 10 };
        Tile { kernel, rows: 128, columns: 256, threads: 256, cost: 32 }
    }

    /// 64 x 128: half the bytes for a product again, but eight or more blocks for one.
    pub(super) const fn middle(module: &'static str, name: &'static str) -> Tile {
        let kernel = Kernel { module, name, dynamic_shared: 72 << 10 };
        Tile { kernel, rows: 64, columns: 128, threads: 128, cost: 10 }
    }

    /// 64 x 64: for few rows, where the weight's way from memory counts.
    pub(super) const fn small(module: &'static str, name: &'static str) -> Tile {
        let kernel = Kernel { module, name, dynamic_shared: 96 << 10 };
        Tile { kernel, rows: 64, columns: 64, threads: 128, cost: 8 }
    }

    /// 64 x 64 in f32: the only one there.
    pub(super) const fn f32(module: &'static str, name: &'static str) -> Tile {
        let kernel = Kernel { module, name, dynamic_shared: 48 << 10 };
        Tile { kernel, rows: 64, columns: 64, threads: 128, cost: 1 }
    }

    fn blocks(&self, rows: usize, groups: usize) -> (usize, usize) {
        (rows.div_ceil(self.rows), (groups * GROUP).div_ceil(self.columns))
    }

    /// The tile whose waves of blocks take least time on a card; of equals the first.
    pub(super) fn choose(tiles: &[Tile], rows: usize, groups: usize, multiprocessors: usize) -> &Tile {
        let time = |tile: &&Tile| {
            let (rows, columns) = tile.blocks(rows, groups);
            (rows * columns).div_ceil(multiprocessors.max(1)) * tile.cost
        };
        tiles.iter().min_by_key(time).expect("an operation has a kernel")
    }

    /// The launch over a bucket of rows and a weight's groups.
    pub(super) fn shape(&self, rows: &RowSet, groups: usize) -> Shape {
        let (row_tiles, column_tiles) = self.blocks(rows.bucket, groups);
        Shape {
            queue: rows.queue,
            grid: [row_tiles as u32, column_tiles as u32, 1],
            threads: self.threads,
            dynamic_shared: self.kernel.dynamic_shared,
        }
    }
}

impl CudaDevice {
    /// `x` times `groups` groups of a packed weight from `first` on.
    ///
    /// # Panics
    /// As [`CudaDevice::factor`].
    pub(super) fn product(
        &self,
        op: &str,
        (rows, x): (&RowSet, Tensor),
        weight: &Packed,
        (first, groups): (usize, usize),
    ) -> Product {
        let packing = &weight.packing;
        Product {
            x: self.factor(op, (rows, x), packing.k),
            weight: weight.address + (first * packing.group_bytes()) as u64,
            live: rows.live,
            x_stride: x.stride as u32,
            k: packing.k as u32,
            k_padded: packing.k_padded() as u32,
            groups: groups as u32,
        }
    }

    /// Address of a product's left side.
    ///
    /// # Panics
    /// If it has not the compute type, `k` columns and an alignment of 16 bytes: a bug in a model file.
    pub(super) fn factor(&self, op: &str, (rows, x): (&RowSet, Tensor), k: usize) -> u64 {
        assert_eq!(x.dtype, self.facts.compute, "{op}: type of x");
        let address = self.place(op, x, rows.bucket, k);
        assert!(
            address.is_multiple_of(16),
            "{op}: x begins at column {} of its buffer; a multiple of {} is needed",
            x.first_col,
            16 / x.dtype.bytes()
        );
        address
    }

    /// The tile for a product on this card.
    pub(super) fn tile<'a>(&self, (f32, bf16): (&'a [Tile], &'a [Tile]), rows: &RowSet, groups: usize) -> &'a Tile {
        let tiles = match self.facts.compute {
            Dtype::F32 => f32,
            Dtype::Bf16 => bf16,
        };
        Tile::choose(tiles, rows.bucket, groups, self.driver.facts().multiprocessors as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::Tile;

    #[test]
    fn tiles_follow_rows_and_columns() {
        let tiles = [Tile::wide("m", "wide"), Tile::middle("m", "middle"), Tile::small("m", "small")];
        let chosen = |rows, columns: usize| Tile::choose(&tiles, rows, columns.div_ceil(32), 132).kernel.name;
        assert_eq!(chosen(2048, 6144), "wide");
        assert_eq!(chosen(512, 176_000), "wide");
        assert_eq!(chosen(512, 2048), "middle");
        assert_eq!(chosen(128, 2048), "small");
        assert_eq!(chosen(8, 2048), "small");
    }
}
