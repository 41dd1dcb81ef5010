//! The feed-forward part of a layer: one block, or experts.

use crate::device::{
    Device, DeviceError, Epilogue, ExpertSource, Experts, ExpertsArgs, ExpertsPlan, ExpertsSource, ExpertsWork, Linear,
    Rows, Vector,
};
use crate::model::ModelError;
use crate::model::blocks::{FeedForward, Workspace, linear, norm};

use super::config::{self, Config, FeedForwardNames, Projections, Side};
use super::load::Loader;

/// Activations of one flow of rows.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub work: Workspace,
    /// Where one of the flow's layers has experts.
    pub experts: Option<ExpertsWork>,
}

/// Plans room for the experts of a side, if it has any.
pub(super) fn plan_experts(
    device: &mut dyn Device,
    config: &Config,
    side: Side,
    rows: usize,
) -> Result<Option<ExpertsWork>, DeviceError> {
    let experts = config.experts.as_ref().filter(|experts| experts.of(side).contains(&true));
    let plan = |experts: &config::Experts| ExpertsPlan {
        rows,
        experts: experts.count,
        top_k: experts.routing.top_k,
        hidden: config.hidden,
        inner: experts.inner,
    };
    experts.map(|experts| device.experts_work(plan(experts))).transpose()
}

/// What follows the attentions of a layer.
pub(super) enum FeedForwardLayer {
    /// `x += W_out act(W_in norm(x))`; the width of the block.
    Dense(FeedForward, usize),
    /// `x += experts(norm(x)) + shared experts(norm(x))`.
    Experts(ExpertsLayer),
}

/// Routed and shared experts behind one norm.
pub(super) struct ExpertsLayer {
    norm: Vector,
    eps: f32,
    experts: Experts,
    activation: Epilogue,
    /// Input and output of each.
    shared: Vec<(Linear, Linear)>,
    /// Width of a shared expert.
    shared_inner: usize,
}

impl FeedForwardLayer {
    pub fn load(loader: &mut Loader<'_>, side: Side, layer: usize) -> Result<FeedForwardLayer, ModelError> {
        let config = loader.config;
        let (at, names) = config.feed_forward(loader.checkpoint, side, layer);
        let norm = loader.vector(&format!("{at}.layer_norm.weight"), 1.0)?;
        let eps = config.eps;
        let activation =
            if config.gated { Epilogue::Gate(config.activation) } else { Epilogue::Activate(config.activation) };
        let (router, experts, shared) = match names {
            FeedForwardNames::Dense(block) => {
                let (input, output) = loader.block(&block)?;
                let block = FeedForward { norm, eps, input, activation, output };
                return Ok(FeedForwardLayer::Dense(block, config.inner));
            }
            FeedForwardNames::Experts { router, experts, shared } => (router, experts, shared),
        };
        let kind = config.experts.as_ref().expect("names of experts follow from experts in the configuration");
        let expert = |block: &Projections| {
            let input = block.input.iter().map(|name| loader.tensor(name)).collect::<Result<_, _>>()?;
            Ok(ExpertSource { input, output: loader.tensor(&block.output)? })
        };
        let experts = experts.iter().map(expert).collect::<Result<_, ModelError>>()?;
        let source = ExpertsSource { router: loader.tensor(&router)?, routing: kind.routing, experts };
        Ok(FeedForwardLayer::Experts(ExpertsLayer {
            norm,
            eps,
            experts: loader.device.experts_weight(&source)?,
            activation,
            shared: shared.iter().map(|block| loader.block(block)).collect::<Result<_, _>>()?,
            shared_inner: kind.shared_inner,
        }))
    }

    pub fn run(&self, device: &mut dyn Device, rows: Rows, room: &Room) -> Result<(), DeviceError> {
        let work = room.work;
        let layer = match self {
            FeedForwardLayer::Dense(block, inner) => {
                return block.run(device, rows, &Workspace { inner: work.inner.columns(0, *inner), ..work });
            }
            FeedForwardLayer::Experts(layer) => layer,
        };
        let (x, out) = (work.normed, work.residual);
        norm(device, rows, out, layer.norm, layer.eps, x)?;
        let scratch = room.experts.expect("room was planned for the experts of this side");
        let (experts, activation) = (layer.experts, layer.activation);
        device.experts(&ExpertsArgs { rows, x, experts, work: scratch, activation, out })?;
        let inner = work.inner.columns(0, layer.shared_inner);
        for (input, output) in &layer.shared {
            linear(device, rows, x, *input, inner, activation)?;
            linear(device, rows, inner, *output, out, Epilogue::Residual)?;
        }
        Ok(())
    }
}
