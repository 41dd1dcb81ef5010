//! Tensors as the kernels take them: slices from the view's first element on, with a row stride.

use super::gemm::{Elems, ElemsMut, MatrixMut, MatrixRef};
use super::kv::{ComputeRows, ComputeRowsMut, Strided, StridedMut};
use super::rows::Out;
use super::store::{Buffer, Element};
use crate::device::{Dtype, Tensor};

/// Rows of `tensor` from row `first` on, for a matrix product.
pub(super) fn matrix(buffer: &Buffer, tensor: Tensor, first: usize) -> MatrixRef<'_> {
    let skip = first * tensor.stride;
    let data = match tensor.dtype {
        Dtype::F32 => Elems::F32(&buffer.elements(tensor)[skip..]),
        Dtype::Bf16 => Elems::Bf16(&buffer.elements(tensor)[skip..]),
    };
    MatrixRef { data, stride: tensor.stride }
}

/// As [`matrix`], to write.
pub(super) fn matrix_mut(buffer: &mut Buffer, tensor: Tensor, first: usize) -> MatrixMut<'_> {
    let skip = first * tensor.stride;
    let data = match tensor.dtype {
        Dtype::F32 => ElemsMut::F32(&mut buffer.elements_mut(tensor)[skip..]),
        Dtype::Bf16 => ElemsMut::Bf16(&mut buffer.elements_mut(tensor)[skip..]),
    };
    MatrixMut { data, stride: tensor.stride }
}

/// Rows to read.
pub(super) fn strided<T: Element>(buffer: &Buffer, tensor: Tensor) -> Strided<'_, T> {
    Strided { data: buffer.elements(tensor), stride: tensor.stride }
}

/// Rows in the compute type, to read.
pub(super) fn compute_rows(buffer: &Buffer, tensor: Tensor) -> ComputeRows<'_> {
    match tensor.dtype {
        Dtype::F32 => ComputeRows::F32(strided(buffer, tensor)),
        Dtype::Bf16 => ComputeRows::Bf16(strided(buffer, tensor)),
    }
}

/// Rows in the compute type, to write.
pub(super) fn compute_rows_mut(buffer: &mut Buffer, tensor: Tensor) -> ComputeRowsMut<'_> {
    let stride = tensor.stride;
    match tensor.dtype {
        Dtype::F32 => ComputeRowsMut::F32(StridedMut { data: buffer.elements_mut(tensor), stride }),
        Dtype::Bf16 => ComputeRowsMut::Bf16(StridedMut { data: buffer.elements_mut(tensor), stride }),
    }
}

/// Rows to write.
pub(super) fn out<T: Element>(buffer: &mut Buffer, tensor: Tensor) -> Out<'_, T> {
    Out { data: buffer.elements_mut(tensor), stride: tensor.stride }
}
