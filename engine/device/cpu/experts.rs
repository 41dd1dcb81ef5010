//! Mixture of experts: route, group, multiply, sum.
//!
//! ```text
//! block of rows -> logits -> each row's choice -> rows grouped by expert -> two products an expert -> sum by row
//! ```
//!
//! **Invariant: a row's result depends on its own input only.** Its logits, and its products with an expert, are elements of
//! [`gemm`](super::gemm), which do not know how many rows stand beside them; what it chose is summed in the order of its choice.
//! So neither the blocks nor the company that a row has at an expert shows in a result, and no row is ever turned away.
//!
//! Rows are taken in blocks, since each needs room for the inputs and outputs of all its experts.

use std::ops::Range;

use half::bf16;

use super::gemm::{PackedMatrix, gemm};
use super::pool::Pool;
use super::rows::for_each_row;
use super::store::{Element, Parts, Store};
use super::views::{matrix, matrix_mut};
use super::weights::pack_linear;
use super::{Isa, TensorView};
use crate::device::{
    DeviceError, Dtype, Epilogue, ExpertsPlan, ExpertsShape, ExpertsSource, LinearSource, RouterOrder, Routing, Tensor,
};

/// Most rows of a block: with 2 of 24 experts still more than 80 rows an expert, enough for a product to be worth its weights.
const BLOCK_ROWS: usize = 1024;
/// Most experts of a layer.
const MOST_EXPERTS: usize = *ExpertsSource::EXPERTS.end();

/// The router and the experts of a layer.
pub(super) struct PackedExperts {
    shape: ExpertsShape,
    routing: Routing,
    router: PackedMatrix,                       // [experts, hidden], f32
    experts: Vec<(PackedMatrix, PackedMatrix)>, // input [inner or 2 inner, hidden], output [hidden, inner]
}

impl PackedExperts {
    /// Packs a layer's experts in the compute type.
    pub(super) fn pack(
        pool: &Pool,
        isa: Isa,
        compute: Dtype,
        source: &ExpertsSource,
    ) -> Result<PackedExperts, DeviceError> {
        let shape = source.check()?;
        let pack = |compute: Dtype, parts: Vec<TensorView>, gated: bool| {
            pack_linear(pool, isa, compute, &LinearSource { parts, biases: Vec::new(), gated })
        };
        let experts = source.experts.iter().map(|expert| {
            let input = pack(compute, expert.input.clone(), shape.gated)?;
            Ok((input, pack(compute, vec![expert.output.clone()], false)?))
        });
        Ok(PackedExperts {
            shape,
            routing: source.routing,
            router: pack(Dtype::F32, vec![source.router.clone()], false)?,
            experts: experts.collect::<Result<_, DeviceError>>()?,
        })
    }

    /// Sizes of the layer.
    pub(super) fn shape(&self) -> ExpertsShape {
        self.shape
    }

    /// Memory that the packed weights take.
    pub(super) fn bytes(&self) -> usize {
        let experts: usize = self.experts.iter().map(|(input, output)| input.bytes() + output.bytes()).sum();
        self.router.bytes() + experts
    }
}

/// One expert of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Choice {
    expert: u32,
    weight: f32,
    /// Row of the grouped buffers.
    place: u32,
}

/// Room for one block of rows.
pub(super) struct ExpertsScratch {
    plan: ExpertsPlan,
    wide: Tensor,         // f32 [block, hidden]: what the router reads
    logits: Tensor,       // f32 [block, experts]
    grouped: Tensor,      // compute type [block * top_k, hidden]
    inner: Tensor,        // compute type [block * top_k, inner]
    outputs: Tensor,      // f32 [block * top_k, hidden]
    rows: Vec<u32>,       // [block] row of the batch
    choices: Vec<Choice>, // [block, top_k] best first
}

impl ExpertsScratch {
    /// Plans the room.
    pub(super) fn plan(store: &mut Store, compute: Dtype, plan: ExpertsPlan) -> Result<ExpertsScratch, DeviceError> {
        let block = plan.rows.min(BLOCK_ROWS);
        let chosen = block * plan.top_k;
        Ok(ExpertsScratch {
            plan,
            wide: store.plan(block, plan.hidden, Dtype::F32)?,
            logits: store.plan(block, plan.experts, Dtype::F32)?,
            grouped: store.plan(chosen, plan.hidden, compute)?,
            inner: store.plan(chosen, plan.inner, compute)?,
            outputs: store.plan(chosen, plan.hidden, Dtype::F32)?,
            rows: Vec::with_capacity(block),
            choices: vec![Choice::default(); chosen],
        })
    }

    /// Columns as a layer of this shape uses them.
    fn views(&self, shape: ExpertsShape, top_k: usize) -> Views {
        let plan = self.plan;
        assert!(
            shape.experts <= plan.experts
                && top_k <= plan.top_k
                && shape.hidden <= plan.hidden
                && shape.inner <= plan.inner,
            "experts: {shape:?}, {top_k} of a row, in room for {plan:?}"
        );
        Views {
            wide: self.wide.columns(0, shape.hidden),
            logits: self.logits.columns(0, shape.experts),
            grouped: self.grouped.columns(0, shape.hidden),
            inner: self.inner.columns(0, shape.inner),
            outputs: self.outputs.columns(0, shape.hidden),
        }
    }
}

#[derive(Clone, Copy)]
struct Views {
    wide: Tensor,
    logits: Tensor,
    grouped: Tensor,
    inner: Tensor,
    outputs: Tensor,
}

/// One operation: checked arguments.
pub(super) struct ExpertsRun<'a> {
    pub(super) isa: Isa,
    pub(super) pool: &'a Pool,
    pub(super) store: &'a Store,
    pub(super) experts: &'a PackedExperts,
    pub(super) ranges: &'a [Range<usize>],
    pub(super) x: Tensor,
    pub(super) activation: Epilogue,
    pub(super) out: Tensor,
}

impl ExpertsRun<'_> {
    /// `out[row] += sum over the row's experts`.
    ///
    /// # Panics
    /// If the layer does not fit the room, or the activation the experts: a bug in a model file.
    pub(super) fn run(&self, scratch: &mut ExpertsScratch) {
        let views = scratch.views(self.experts.shape, self.experts.routing.top_k);
        let block = scratch.plan.rows.min(BLOCK_ROWS);
        let mut rows = self.ranges.iter().cloned().flatten().map(|row| row as u32);
        let ExpertsScratch { rows: taken, choices, .. } = scratch;
        loop {
            taken.clear();
            taken.extend(rows.by_ref().take(block));
            if taken.is_empty() {
                return;
            }
            let choices = &mut choices[..taken.len() * self.experts.routing.top_k];
            match self.x.dtype {
                Dtype::F32 => self.block::<f32>(taken, choices, views),
                Dtype::Bf16 => self.block::<bf16>(taken, choices, views),
            }
        }
    }

    fn block<T: Element + Into<f32>>(&self, rows: &[u32], choices: &mut [Choice], views: Views) {
        self.route::<T>(rows, choices, views);
        let mut starts = [0; MOST_EXPERTS + 1];
        group(choices, &mut starts);
        self.gather::<T>(rows, choices, views);
        self.multiply(&starts, views);
        self.sum(rows, choices, views);
    }

    /// Logits and choices.
    fn route<T: Element + Into<f32>>(&self, rows: &[u32], choices: &mut [Choice], views: Views) {
        let (shape, routing, x_stride) = (self.experts.shape, self.experts.routing, self.x.stride);
        let all = 0..rows.len();
        let all = std::slice::from_ref(&all);
        {
            let x = self.store.read("experts", self.x);
            let x: &[T] = x.elements(self.x);
            let mut wide = self.store.write("experts", views.wide);
            let wide = Parts::new(wide.elements_mut::<f32>(views.wide));
            for_each_row(self.pool, all, shape.hidden, |index| {
                let from = &x[rows[index] as usize * x_stride..][..shape.hidden];
                let place = index * views.wide.stride;
                // SAFETY: `for_each_row` visits a row once, and a row's columns lie within its stride.
                let to = unsafe { wide.range(place..place + shape.hidden) };
                to.iter_mut().zip(from).for_each(|(to, &from)| *to = from.into());
            });
        }
        let wide = self.store.read("experts", views.wide);
        let mut logits = self.store.write("experts", views.logits);
        let to = matrix_mut(&mut logits, views.logits, 0);
        let x = matrix(&wide, views.wide, 0);
        gemm(self.pool, self.isa, x, rows.len(), &self.experts.router, to, Epilogue::Store);
        let logits: &[f32] = logits.elements(views.logits);
        let choices = Parts::new(choices);
        let top_k = routing.top_k;
        for_each_row(self.pool, all, shape.experts * top_k, |index| {
            let logits = &logits[index * views.logits.stride..][..shape.experts];
            // SAFETY: `for_each_row` visits a row once, and these are its choices alone.
            choose(&routing, logits, unsafe { choices.range(index * top_k..(index + 1) * top_k) });
        });
    }

    /// Copies each row to its place in the group of each of its experts.
    fn gather<T: Element>(&self, rows: &[u32], choices: &[Choice], views: Views) {
        let (hidden, top_k, x_stride) = (self.experts.shape.hidden, self.experts.routing.top_k, self.x.stride);
        let x = self.store.read("experts", self.x);
        let x: &[T] = x.elements(self.x);
        let mut grouped = self.store.write("experts", views.grouped);
        let grouped = Parts::new(grouped.elements_mut::<T>(views.grouped));
        let all = 0..rows.len();
        for_each_row(self.pool, std::slice::from_ref(&all), hidden * top_k, |index| {
            let from = &x[rows[index] as usize * x_stride..][..hidden];
            for choice in &choices[index * top_k..][..top_k] {
                let place = choice.place as usize * views.grouped.stride;
                // SAFETY: `group` gave every choice a place of its own.
                unsafe { grouped.range(place..place + hidden) }.copy_from_slice(from);
            }
        });
    }

    /// Every expert's products with the rows of its group.
    fn multiply(&self, starts: &[usize; MOST_EXPERTS + 1], views: Views) {
        let grouped = self.store.read("experts", views.grouped);
        for (expert, (input, output)) in self.experts.experts.iter().enumerate() {
            let (start, rows) = (starts[expert], starts[expert + 1] - starts[expert]);
            if rows == 0 {
                continue;
            }
            let x = matrix(&grouped, views.grouped, start);
            let mut inner = self.store.write("experts", views.inner);
            let to = matrix_mut(&mut inner, views.inner, start);
            gemm(self.pool, self.isa, x, rows, input, to, self.activation);
            let mut outputs = self.store.write("experts", views.outputs);
            let to = matrix_mut(&mut outputs, views.outputs, start);
            gemm(self.pool, self.isa, matrix(&inner, views.inner, start), rows, output, to, Epilogue::Store);
        }
    }

    /// Adds the weighted outputs of a row's experts to it, in the order of its choice.
    fn sum(&self, rows: &[u32], choices: &[Choice], views: Views) {
        let (hidden, top_k, out_stride) = (self.experts.shape.hidden, self.experts.routing.top_k, self.out.stride);
        let outputs = self.store.read("experts", views.outputs);
        let outputs: &[f32] = outputs.elements(views.outputs);
        let mut out = self.store.write("experts", self.out);
        let out = Parts::new(out.elements_mut::<f32>(self.out));
        let all = 0..rows.len();
        for_each_row(self.pool, std::slice::from_ref(&all), hidden * top_k, |index| {
            let place = rows[index] as usize * out_stride;
            // SAFETY: every row is in a block once, and a row's columns lie within its stride.
            let to = unsafe { out.range(place..place + hidden) };
            let choices = &choices[index * top_k..][..top_k];
            for (column, to) in to.iter_mut().enumerate() {
                let part =
                    |choice: &Choice| choice.weight * outputs[choice.place as usize * views.outputs.stride + column];
                *to += choices[1..].iter().fold(part(&choices[0]), |sum, choice| sum + part(choice));
            }
        });
    }
}

/// A row's experts, best first. Of equal logits the lower expert comes first; NaN counts as negative infinity in the order, and
/// stays NaN in the weights.
fn choose(routing: &Routing, logits: &[f32], choices: &mut [Choice]) {
    let mut taken = [false; MOST_EXPERTS];
    for choice in &mut *choices {
        let mut best: Option<(usize, f32)> = None;
        for (expert, &logit) in logits.iter().enumerate().filter(|(expert, _)| !taken[*expert]) {
            let logit = if logit.is_nan() { f32::NEG_INFINITY } else { logit };
            if best.is_none_or(|(_, most)| logit > most) {
                best = Some((expert, logit));
            }
        }
        let (expert, _) = best.expect("a row has no more experts than there are");
        taken[expert] = true;
        *choice = Choice { expert: expert as u32, weight: 0.0, place: 0 };
    }
    let most = logits[choices[0].expert as usize];
    let exponential = |expert: u32| (logits[expert as usize] - most).exp();
    let total: f32 = match routing.order {
        RouterOrder::SoftmaxThenTopK => (0..logits.len() as u32).map(exponential).sum(),
        RouterOrder::TopKThenSoftmax => choices.iter().map(|choice| exponential(choice.expert)).sum(),
    };
    choices.iter_mut().for_each(|choice| choice.weight = exponential(choice.expert) / total);
    if routing.renormalise {
        let kept: f32 = choices.iter().map(|choice| choice.weight).sum();
        choices.iter_mut().for_each(|choice| choice.weight /= kept);
    }
    choices.iter_mut().for_each(|choice| choice.weight *= routing.scale);
}

/// Gives every choice a place: those of one expert stand together, in row order. `starts[e] .. starts[e + 1]` are expert e's.
fn group(choices: &mut [Choice], starts: &mut [usize; MOST_EXPERTS + 1]) {
    let mut counts = [0; MOST_EXPERTS];
    choices.iter().for_each(|choice| counts[choice.expert as usize] += 1);
    for (expert, count) in counts.iter().enumerate() {
        starts[expert + 1] = starts[expert] + count;
    }
    let mut next = *starts;
    for choice in choices {
        let place = &mut next[choice.expert as usize];
        choice.place = *place as u32;
        *place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(routing: Routing, logits: &[f32]) -> Vec<(u32, f32)> {
        let mut choices = vec![Choice::default(); routing.top_k];
        choose(&routing, logits, &mut choices);
        choices.iter().map(|choice| (choice.expert, choice.weight)).collect()
    }

    #[test]
    fn ties_go_to_the_lower_expert_and_nan_comes_last() {
        let routing = Routing { top_k: 3, order: RouterOrder::TopKThenSoftmax, renormalise: false, scale: 1.0 };
        let third = 1.0f32 / 3.0;
        assert_eq!(chosen(routing, &[2.0; 5]), [(0, third), (1, third), (2, third)]);
        let experts = |logits: &[f32]| chosen(routing, logits).iter().map(|(expert, _)| *expert).collect::<Vec<_>>();
        assert_eq!(experts(&[f32::NAN, -1.0, 7.0, -1.0]), [2, 1, 3]);
        assert_eq!(experts(&[f32::NAN; 4]), [0, 1, 2]);
        assert_eq!(experts(&[f32::NEG_INFINITY, f32::INFINITY, f32::NAN, f32::INFINITY]), [1, 3, 0]);
        assert!(chosen(routing, &[f32::NAN; 4]).iter().all(|(_, weight)| weight.is_nan()));
    }

    #[test]
    fn the_orders_of_softmax_and_choice_weigh_by_their_rules() {
        let routing = Routing { top_k: 2, order: RouterOrder::SoftmaxThenTopK, renormalise: false, scale: 1.0 };
        // Probabilities 1/8, 1/2, 3/8.
        let logits = [0.0f32, 4.0f32.ln(), 3.0f32.ln()];
        let close = |got: Vec<(u32, f32)>, expected: [(u32, f32); 2]| {
            for ((expert, weight), (wanted, value)) in got.iter().zip(expected) {
                assert_eq!(*expert, wanted);
                assert!((weight - value).abs() < 1e-6, "{got:?}");
            }
        };
        close(chosen(routing, &logits), [(1, 0.5), (2, 0.375)]);
        let renormalised = [(1, 4.0 / 7.0), (2, 3.0 / 7.0)];
        close(chosen(Routing { renormalise: true, ..routing }, &logits), renormalised);
        let order = RouterOrder::TopKThenSoftmax;
        close(chosen(Routing { order, ..routing }, &logits), renormalised);
        close(chosen(Routing { order, scale: 2.5, ..routing }, &logits), [(1, 10.0 / 7.0), (2, 7.5 / 7.0)]);
    }

    #[test]
    fn choices_of_an_expert_stand_together_in_row_order() {
        let mut choices = [3, 0, 3, 1, 0, 3].map(|expert| Choice { expert, ..Choice::default() });
        let mut starts = [0; MOST_EXPERTS + 1];
        group(&mut choices, &mut starts);
        assert_eq!(choices.map(|choice| choice.place), [3, 0, 4, 2, 1, 5]);
        assert_eq!((&starts[..6], starts[MOST_EXPERTS]), (&[0, 2, 3, 3, 6, 6][..], 6));
    }
}
