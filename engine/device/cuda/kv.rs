//! Keys and values on the card: paged pools and own slabs. `kernels/README.md` has their layout.

use super::memory::{Memory, Purpose};
use crate::device::{DeviceError, Dtype, KvShape, OwnShape};

/// Head widths that attention kernels are compiled for.
const WIDTHS: [usize; 4] = [32, 64, 128, 256];

/// Elements of a stored head.
///
/// # Errors
/// If no kernel is wide enough.
fn stored_dim(head_dim: usize) -> Result<usize, DeviceError> {
    WIDTHS.into_iter().find(|width| *width >= head_dim).ok_or_else(|| {
        DeviceError::Unavailable(format!("heads of {head_dim} elements: the CUDA kernels go up to {}", WIDTHS[3]))
    })
}

fn product(what: &str, factors: &[usize]) -> Result<usize, DeviceError> {
    factors.iter().try_fold(1usize, |product, &factor| product.checked_mul(factor)).ok_or_else(|| {
        let reason = "more than the address space".to_owned();
        DeviceError::OutOfMemory { what: what.to_owned(), bytes: usize::MAX, reason }
    })
}

/// A paged pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool {
    pub(super) shape: KvShape,
    /// Elements of a stored head.
    pub(super) dim: usize,
    keys: u64,
    values: u64,
    layer_bytes: usize,
}

impl Pool {
    pub(super) fn plan(memory: &mut Memory, shape: KvShape, compute: Dtype) -> Result<Pool, DeviceError> {
        let KvShape { layers, kv_heads, head_dim, pages, page_tokens } = shape;
        let dim = stored_dim(head_dim)?;
        let what = format!("pages of {layers} layers: {pages} x {page_tokens} tokens");
        let layer_bytes = product(&what, &[pages, kv_heads, page_tokens, dim, compute.bytes()])?;
        let bytes = product(&what, &[layers, layer_bytes])?;
        let keys = memory.zeroed(Purpose::Kv, format!("{what}, keys"), bytes)?;
        let values = memory.zeroed(Purpose::Kv, format!("{what}, values"), bytes)?;
        Ok(Pool { shape, dim, keys, values, layer_bytes })
    }

    /// (keys, values) of a layer.
    pub(super) fn layer(&self, layer: usize) -> (u64, u64) {
        assert!(layer < self.shape.layers, "layer {layer} of {:?}", self.shape);
        let offset = (layer * self.layer_bytes) as u64;
        (self.keys + offset, self.values + offset)
    }
}

/// Own tokens of one cohort lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slab {
    pub(super) shape: OwnShape,
    /// Elements of a stored head.
    pub(super) dim: usize,
    keys: u64,
    values: u64,
    layer_bytes: usize,
    step_bytes: usize,
}

impl Slab {
    pub(super) fn plan(memory: &mut Memory, shape: OwnShape, compute: Dtype) -> Result<Slab, DeviceError> {
        let OwnShape { layers, kv_heads, head_dim, steps, rows, .. } = shape;
        let dim = stored_dim(head_dim)?;
        let what = format!("own tokens of {layers} layers: {steps} x {rows} rows");
        let step_bytes = product(&what, &[rows, kv_heads, dim, compute.bytes()])?;
        let layer_bytes = product(&what, &[steps, step_bytes])?;
        let bytes = product(&what, &[layers, layer_bytes])?;
        let keys = memory.zeroed(Purpose::Kv, format!("{what}, keys"), bytes)?;
        let values = memory.zeroed(Purpose::Kv, format!("{what}, values"), bytes)?;
        Ok(Slab { shape, dim, keys, values, layer_bytes, step_bytes })
    }

    /// (keys, values) of a layer from step `step` on.
    pub(super) fn layer(&self, layer: usize, step: usize) -> (u64, u64) {
        assert!(layer < self.shape.layers && step < self.shape.steps, "{layer}, {step} of {:?}", self.shape);
        let offset = (layer * self.layer_bytes + step * self.step_bytes) as u64;
        (self.keys + offset, self.values + offset)
    }
}
