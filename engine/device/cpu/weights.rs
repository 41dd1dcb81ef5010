//! What comes from an export or a catalogue: packed matrices, vectors, tables, tries.

use std::sync::Arc;

use super::experts::PackedExperts;
use super::gemm::PackedMatrix;
use super::head::PackedHead;
use super::{Isa, Pool};
use crate::catalog::Catalog;
use crate::device::{DeviceError, Dtype, LinearSource, RelativeBiasSource, RopeSource};
use crate::export::TensorView;

/// Everything that handles of weights point to.
#[derive(Default)]
pub(super) struct Weights {
    pub(super) linears: Vec<PackedMatrix>,
    pub(super) experts: Vec<PackedExperts>,
    pub(super) vectors: Vec<Vec<f32>>,
    pub(super) embeddings: Vec<TensorView>,
    pub(super) heads: Vec<PackedHead>,
    pub(super) biases: Vec<RelativeBiasSource>,
    pub(super) ropes: Vec<RopeSource>,
    pub(super) catalogs: Vec<Arc<Catalog>>,
}

impl Weights {
    /// Bytes in memory; what stays mapped does not count.
    pub(super) fn bytes(&self) -> usize {
        let linears: usize = self.linears.iter().map(PackedMatrix::bytes).sum();
        let experts: usize = self.experts.iter().map(PackedExperts::bytes).sum();
        let heads: usize = self.heads.iter().map(PackedHead::bytes).sum();
        let vectors: usize = self.vectors.iter().map(|vector| vector.len() * 4).sum();
        let biases: usize = self.biases.iter().map(|bias| bias.by_distance.len() * 4).sum();
        let ropes: usize = self.ropes.iter().map(|rope| (rope.cos.len() + rope.sin.len()) * 4).sum();
        linears + experts + heads + vectors + biases + ropes
    }
}

/// Stacks and packs the parts of a linear weight.
pub(super) fn pack_linear(
    pool: &Pool,
    isa: Isa,
    compute: Dtype,
    source: &LinearSource,
) -> Result<PackedMatrix, DeviceError> {
    let (rows, cols) = source.check()?;
    let read = |row: usize, out: &mut [f32]| source.read_row(row, out);
    let packed = PackedMatrix::pack(pool, isa, compute, rows, cols, source.gated, read);
    Ok(packed.with_bias(&source.stacked_bias()))
}
