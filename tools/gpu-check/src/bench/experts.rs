//! Mixture of experts over beams and prompts: few wide experts, and many narrow ones.

use sidereal::device::{
    Activation, Device, Dtype, Epilogue, ExpertSource, ExpertsArgs, ExpertsPlan, ExpertsSource, RouterOrder, Routing,
    Rows,
};

use super::rig::{self, Measurement, Rig, matrix, noisy, nothing};
use super::work;
use crate::error::CheckError;
use crate::report::Section;
use crate::setting::Setting;

/// Layers that are used in turn, so that no weight is still in the card's second-level cache.
const LAYERS: usize = 2;

/// `experts`, gated.
pub fn experts(setting: &Setting) -> Result<Section, CheckError> {
    let mut rig = Rig::new(setting, "mixture of experts, gated, route to sum")?;
    let plan = |rows, experts, top_k, hidden, inner| ExpertsPlan { rows, experts, top_k, hidden, inner };
    let plans = match setting.is_rehearsal {
        true => vec![plan(3, 4, 2, 64, 32)],
        false => {
            let shapes = [(8, 2, 4096), (64, 4, 1024)];
            let all = [256, 512, 2048].into_iter().flat_map(|rows| shapes.map(|shape| (rows, shape)));
            all.map(|(rows, (experts, top_k, inner))| plan(rows, experts, top_k, 1024, inner)).collect()
        }
    };
    for plan in plans {
        let ExpertsPlan { rows, experts, top_k, hidden, inner } = plan;
        let shape = format!("{rows} rows, {top_k} of {experts} experts of {hidden} x {inner}");
        rig.shape(&shape.clone(), |rig| one_layer(rig, plan, shape));
    }
    Ok(rig.finish("kernels: experts"))
}

fn one_layer(rig: &mut Rig, plan: ExpertsPlan, shape: String) -> Result<(), CheckError> {
    let ExpertsPlan { rows, experts, top_k, hidden, inner } = plan;
    let mut device = rig.device()?;
    let lane = rig::token_lane(&mut device, 1, rows)?;
    let expert = |seed: u64| ExpertSource {
        input: vec![matrix(seed, inner, hidden), matrix(seed + 1, inner, hidden)],
        output: matrix(seed + 2, hidden, inner),
    };
    let source = ExpertsSource {
        router: matrix(1, experts, hidden),
        routing: Routing { top_k, order: RouterOrder::SoftmaxThenTopK, renormalise: true, scale: 1.0 },
        experts: (0..experts as u64).map(|index| expert(2 + 3 * index)).collect(),
    };
    let layers = (0..LAYERS).map(|_| device.experts_weight(&source)).collect::<Result<Vec<_>, _>>()?;
    let work = device.experts_work(plan)?;
    let x = noisy(&mut device, rows, hidden, Dtype::Bf16)?;
    let out = device.buffer(rows, hidden, Dtype::F32)?;
    let (of, activation) = (Rows::Tokens(lane), Epilogue::Gate(Activation::Silu));
    let mut body = |device: &mut dyn Device| {
        layers
            .iter()
            .try_for_each(|&experts| device.experts(&ExpertsArgs { rows: of, x, experts, work, activation, out }))
    };
    let work = work::experts(rows, (experts, top_k), (hidden, inner));
    rig.measure(&mut device, Measurement { shape, work, runs: LAYERS, prepare: &mut nothing, body: &mut body })
}
