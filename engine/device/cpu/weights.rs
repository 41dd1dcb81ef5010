//! What comes from an export or a catalogue: packed matrices, vectors, tables, tries.

use std::sync::Arc;

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
        let heads: usize = self.heads.iter().map(PackedHead::bytes).sum();
        let vectors: usize = self.vectors.iter().map(|vector| vector.len() * 4).sum();
        let biases: usize = self.biases.iter().map(|bias| bias.by_distance.len() * 4).sum();
        let ropes: usize = self.ropes.iter().map(|rope| (rope.cos.len() + rope.sin.len()) * 4).sum();
        linears + heads + vectors + biases + ropes
    }
}

fn bad(tensor: &TensorView, reason: String) -> DeviceError {
    DeviceError::BadWeight { name: tensor.name().to_owned(), reason }
}

/// Checks that a tensor is a matrix.
pub(super) fn expect_matrix(tensor: &TensorView, what: &str) -> Result<(), DeviceError> {
    match tensor.shape() {
        [_, _] => Ok(()),
        shape => Err(bad(tensor, format!("{what}, not {shape:?}"))),
    }
}

/// A vector, scaled.
pub(super) fn read_vector(tensor: &TensorView, scale: f32) -> Result<Vec<f32>, DeviceError> {
    match tensor.shape() {
        [_] => Ok(tensor.to_f32().into_iter().map(|value| value * scale).collect()),
        shape => Err(bad(tensor, format!("a scale is a vector, not {shape:?}"))),
    }
}

/// Stacks and packs the parts of a linear weight.
pub(super) fn pack_linear(
    pool: &Pool,
    isa: Isa,
    compute: Dtype,
    source: &LinearSource,
) -> Result<PackedMatrix, DeviceError> {
    let parts = &source.parts;
    let first = parts.first().expect("a linear weight has parts");
    let cols = first.cols();
    for part in parts {
        expect_matrix(part, "a linear weight is [out, in]")?;
        if part.cols() != cols {
            return Err(bad(part, format!("{} columns beside {} with {cols}", part.cols(), first.name())));
        }
    }
    if source.gated && (parts.len() != 2 || parts[1].rows() != first.rows()) {
        return Err(bad(first, "a gate comes with one up projection of its own shape".to_owned()));
    }
    let rows = parts.iter().map(TensorView::rows).sum();
    let read = |mut row: usize, out: &mut [f32]| {
        for part in parts {
            if row < part.rows() {
                return part.read_row(row, out);
            }
            row -= part.rows();
        }
    };
    Ok(PackedMatrix::pack(pool, isa, compute, rows, cols, source.gated, read))
}
