//! Parts that families share: workspaces and the feed-forward block.

use crate::device::{
    Activation, Device, DeviceError, Dtype, Epilogue, Linear, LinearArgs, NormArgs, Rows, Tensor, Vector,
};
use crate::export::{Checkpoint, ConfigReader};
use crate::model::ModelError;

/// Widths of a workspace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Widths {
    pub hidden: usize,
    /// Queries, keys and values of a layer side by side.
    pub qkv: usize,
    /// heads * head_dim
    pub query: usize,
    /// Feed-forward width.
    pub inner: usize,
}

/// Activations of one flow of rows. Every buffer is written before it is read within a layer, except the residual stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workspace {
    /// Residual stream, f32 `[rows, hidden]`.
    pub residual: Tensor,
    /// Normed residual, compute type `[rows, hidden]`.
    pub normed: Tensor,
    /// f32 `[rows, qkv]`.
    pub qkv: Tensor,
    /// Normed, rotated, scaled queries, compute type `[rows, query]`.
    pub query: Tensor,
    /// Attention output, compute type `[rows, query]`.
    pub attended: Tensor,
    /// Feed-forward activations, compute type `[rows, inner]`.
    pub inner: Tensor,
}

impl Workspace {
    pub fn plan(device: &mut dyn Device, rows: usize, widths: Widths) -> Result<Workspace, DeviceError> {
        let compute = device.facts().compute;
        Ok(Workspace {
            residual: device.buffer(rows, widths.hidden, Dtype::F32)?,
            normed: device.buffer(rows, widths.hidden, compute)?,
            qkv: device.buffer(rows, widths.qkv, Dtype::F32)?,
            query: device.buffer(rows, widths.query, compute)?,
            attended: device.buffer(rows, widths.query, compute)?,
            inner: device.buffer(rows, widths.inner, compute)?,
        })
    }
}

/// `x += W_out act(W_in norm(x))`, gated or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct FeedForward {
    pub norm: Vector,
    pub eps: f32,
    pub input: Linear,
    /// `Activate` or `Gate`.
    pub activation: Epilogue,
    pub output: Linear,
}

impl FeedForward {
    pub fn run(&self, device: &mut dyn Device, rows: Rows, work: &Workspace) -> Result<(), DeviceError> {
        norm(device, rows, work.residual, self.norm, self.eps, work.normed)?;
        linear(device, rows, work.normed, self.input, work.inner, self.activation)?;
        linear(device, rows, work.inner, self.output, work.residual, Epilogue::Residual)
    }
}

pub(super) fn norm(
    device: &mut dyn Device,
    rows: Rows,
    x: Tensor,
    weight: Vector,
    eps: f32,
    out: Tensor,
) -> Result<(), DeviceError> {
    device.norm(&NormArgs { rows, x, weight, eps, out })
}

pub(super) fn linear(
    device: &mut dyn Device,
    rows: Rows,
    x: Tensor,
    weight: Linear,
    out: Tensor,
    epilogue: Epilogue,
) -> Result<(), DeviceError> {
    device.linear(&LinearArgs { rows, x, weight, out, epilogue })
}

/// The epsilon of a norm.
pub(super) fn epsilon(config: &ConfigReader, key: &str) -> Result<f32, ModelError> {
    let epsilon = config.float_or(key, 1e-6)?;
    if !(0.0..=1.0).contains(&epsilon) {
        return Err(config.unsupported(key, "a norm needs a number from 0 to 1").into());
    }
    Ok(epsilon as f32)
}

/// Refuses more layers than there are tensors. Every layer has its own, and their names are listed before they are looked
/// for: an absurd count must not become a list of billions.
pub(super) fn check_layers(checkpoint: &Checkpoint, key: &str, layers: usize) -> Result<(), ModelError> {
    let tensors = checkpoint.weights().names().count();
    if layers > tensors {
        let detail = format!("{layers} layers cannot be in weights of {tensors} tensors");
        return Err(checkpoint.config().contradiction(key, detail).into());
    }
    Ok(())
}

/// The activation that Hugging Face calls `name`.
pub(super) fn activation(family: &'static str, key: &'static str, name: &str) -> Result<Activation, ModelError> {
    match name {
        "relu" => Ok(Activation::Relu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::GeluErf),
        "silu" | "swish" => Ok(Activation::Silu),
        _ => Err(ModelError::Unsupported {
            family,
            key,
            value: format!("{name:?}"),
            advice: "relu, gelu, gelu_new, gelu_pytorch_tanh, silu and swish are known",
        }),
    }
}
