//! Mixture of experts: route, group, two products of every expert, sum.
//!
//! ```text
//! x -> logits, choices -> positions, tiles -> inner [positions] -> outputs [positions] -> out += weighted outputs
//! ```
//!
//! Rows of an expert stand together at *positions*; a tile is 64 positions of one expert. How many rows an expert has is known on
//! the card alone: grids are launched for all tiles that a bucket of rows can have, and blocks beyond those that there are leave.
//! An element of a product is computed as `linear` computes it (`gemm_bf16.cuh`), so that a row's result does not know its company.

use sidereal_ffi::params::{
    ExpertTile, ExpertsGroupParams, ExpertsLinearParams, ExpertsRouteParams, ExpertsSumParams, LinearParams, Product,
};

use super::linear::codes;
use super::product::{Packed, Tile};
use crate::device::cuda::driver::{Kernel, Shape};
use crate::device::cuda::memory::{Memory, Purpose};
use crate::device::cuda::pack::Packing;
use crate::device::cuda::{CudaDevice, RowSet};
use crate::device::{
    DeviceError, Dtype, Epilogue, ExpertsArgs, ExpertsPlan, ExpertsShape, ExpertsSource, LinearSource, RouterOrder,
    Routing,
};

/// Positions of a tile; `EXPERT_TILE_ROWS` of `kernels/include/params/experts.h`.
const TILE_ROWS: usize = 64;
/// Rows of a block of the router; `ROUTE_ROWS` there.
const ROUTE_ROWS: usize = 4;
/// Threads of the block that groups; `EXPERT_GROUP_THREADS` there.
const GROUP_THREADS: usize = 256;
/// Bytes of its dynamic shared memory for an expert.
const GROUP_BYTES: usize = GROUP_THREADS * size_of::<u32>();
/// Threads of the other kernels' blocks.
const THREADS: u32 = 128;

const fn kernel(name: &'static str) -> Kernel {
    Kernel { module: "experts", name, dynamic_shared: 0 }
}

const ROUTE_F32: Kernel = kernel("experts_route_f32");
const ROUTE_BF16: Kernel = kernel("experts_route_bf16");
const GROUP: Kernel =
    Kernel { dynamic_shared: (*ExpertsSource::EXPERTS.end() * GROUP_BYTES) as u32, ..kernel("experts_group") };
const SUM: Kernel = kernel("experts_sum");

/// Tiles of the two products. None is wide: a block has 64 positions.
struct Tiles {
    f32: [Tile; 1],
    bf16: [Tile; 2],
}

const MODULE: &str = "experts_linear";
const INPUT: Tiles = Tiles {
    f32: [Tile::f32(MODULE, "experts_input_f32")],
    bf16: [Tile::middle(MODULE, "experts_input_bf16_middle"), Tile::small(MODULE, "experts_input_bf16_small")],
};
const OUTPUT: Tiles = Tiles {
    f32: [Tile::f32(MODULE, "experts_output_f32")],
    bf16: [Tile::middle(MODULE, "experts_output_bf16_middle"), Tile::small(MODULE, "experts_output_bf16_small")],
};

/// The operation's kernels.
pub(super) fn kernels(compute: Dtype) -> Vec<Kernel> {
    let tiles = |tiles: &'static [Tile]| tiles.iter().map(|tile| tile.kernel);
    match compute {
        Dtype::F32 => [ROUTE_F32, GROUP, SUM].into_iter().chain(tiles(&INPUT.f32)).chain(tiles(&OUTPUT.f32)).collect(),
        Dtype::Bf16 => {
            [ROUTE_BF16, GROUP, SUM].into_iter().chain(tiles(&INPUT.bf16)).chain(tiles(&OUTPUT.bf16)).collect()
        }
    }
}

/// A layer's router and experts on the card.
#[derive(Clone, Copy, Debug)]
pub(in crate::device::cuda) struct ExpertsOnCard {
    shape: ExpertsShape,
    routing: Routing,
    router: u64, // f32[experts][router_stride], zeros behind `hidden`
    router_stride: usize,
    input: Matrices,
    output: Matrices,
}

/// One matrix of every expert, packed alike.
#[derive(Clone, Copy, Debug)]
struct Matrices {
    packing: Packing,
    addresses: u64, // u64[experts]
}

impl Matrices {
    /// Uploads the matrices whose rows are `sources`.
    fn upload(memory: &mut Memory, packing: Packing, sources: &[LinearSource]) -> Result<Matrices, DeviceError> {
        let addresses = sources.iter().map(|source| {
            let name = source.parts[0].name().to_owned();
            Ok(Packed::upload(memory, name, packing, |row, out| source.read_row(row, out))?.address())
        });
        let addresses = addresses.collect::<Result<Vec<u64>, DeviceError>>()?;
        let what = "addresses of experts".to_owned();
        let addresses = memory.holding(Purpose::Weights, what, bytemuck::cast_slice(&addresses))?;
        Ok(Matrices { packing, addresses })
    }
}

impl ExpertsOnCard {
    /// Packs and uploads a layer's experts.
    pub(in crate::device::cuda) fn upload(
        memory: &mut Memory,
        compute: Dtype,
        source: &ExpertsSource,
    ) -> Result<ExpertsOnCard, DeviceError> {
        let shape = source.check()?;
        let ExpertsShape { experts, hidden, inner, gated } = shape;
        let router_stride = hidden.next_multiple_of(4);
        let mut router = vec![0.0f32; experts * router_stride];
        for (expert, row) in router.chunks_exact_mut(router_stride).enumerate() {
            source.router.read_row(expert, &mut row[..hidden]);
        }
        let name = source.router.name().to_owned();
        let router = memory.holding(Purpose::Weights, name, bytemuck::cast_slice(&router))?;
        let inputs: Vec<LinearSource> = source
            .experts
            .iter()
            .map(|expert| LinearSource { parts: expert.input.clone(), biases: Vec::new(), gated })
            .collect();
        let outputs: Vec<LinearSource> = source
            .experts
            .iter()
            .map(|expert| LinearSource { parts: vec![expert.output.clone()], biases: Vec::new(), gated: false })
            .collect();
        let input = Packing { compute, n: inner * (1 + usize::from(gated)), k: hidden, gated };
        let output = Packing { compute, n: hidden, k: inner, gated: false };
        Ok(ExpertsOnCard {
            shape,
            routing: source.routing,
            router,
            router_stride,
            input: Matrices::upload(memory, input, &inputs)?,
            output: Matrices::upload(memory, output, &outputs)?,
        })
    }
}

/// Tiles that `pairs` of rows and choices can fill at most: whole ones, and a partial one of every expert.
fn most_tiles(pairs: usize, experts: usize) -> usize {
    pairs / TILE_ROWS + experts.min(pairs)
}

/// What lies between the operation's kernels.
#[derive(Clone, Copy, Debug)]
pub(in crate::device::cuda) struct ExpertsRoom {
    plan: ExpertsPlan,
    choices: u64,    // u32[rows][top_k]
    weights: u64,    // f32[rows][top_k]
    positions: u64,  // u32[rows][top_k]
    rows: u64,       // u32[rows * top_k]
    tiles: u64,      // ExpertTile[]
    tile_count: u64, // u32[1]
    inner: u64,      // T[rows * top_k][inner_stride]
    outputs: u64,    // f32[rows * top_k][outputs_stride]
    inner_stride: usize,
    outputs_stride: usize,
}

impl ExpertsRoom {
    /// Plans it.
    pub(in crate::device::cuda) fn plan(
        memory: &mut Memory,
        compute: Dtype,
        plan: ExpertsPlan,
    ) -> Result<ExpertsRoom, DeviceError> {
        let pairs = plan.rows * plan.top_k;
        let (inner_stride, outputs_stride) = (plan.inner.next_multiple_of(64), plan.hidden.next_multiple_of(64));
        let mut room = |what: &str, bytes: usize| {
            let what = format!("{what} of {} rows with {} experts each", plan.rows, plan.top_k);
            memory.zeroed(Purpose::Workspace, what, bytes)
        };
        Ok(ExpertsRoom {
            plan,
            choices: room("choices", pairs * size_of::<u32>())?,
            weights: room("experts' weights", pairs * size_of::<f32>())?,
            positions: room("positions", pairs * size_of::<u32>())?,
            rows: room("experts' rows", pairs * size_of::<u32>())?,
            tiles: room("experts' tiles", most_tiles(pairs, plan.experts) * size_of::<ExpertTile>())?,
            tile_count: room("number of experts' tiles", size_of::<u32>())?,
            inner: room("experts' inner values", pairs * inner_stride * compute.bytes())?,
            outputs: room("experts' outputs", pairs * outputs_stride * size_of::<f32>())?,
            inner_stride,
            outputs_stride,
        })
    }

    /// # Panics
    /// If rows or a layer do not fit: a bug in a model file.
    fn check(&self, rows: usize, layer: &ExpertsOnCard) {
        let (plan, shape, top_k) = (self.plan, layer.shape, layer.routing.top_k);
        assert!(
            rows <= plan.rows
                && shape.experts <= plan.experts
                && top_k <= plan.top_k
                && shape.hidden <= plan.hidden
                && shape.inner <= plan.inner,
            "experts: {rows} rows, {shape:?}, {top_k} of a row, in room for {plan:?}"
        );
    }
}

impl CudaDevice {
    pub(in crate::device::cuda) fn run_experts(&mut self, args: &ExpertsArgs) -> Result<(), DeviceError> {
        let layer = self.weights.experts[args.experts.0 as usize];
        let room = self.experts_rooms[args.work.0 as usize];
        let set = self.row_set(args.rows);
        let ExpertsArgs { x, out, activation, .. } = *args;
        room.check(set.bucket, &layer);
        let fits = match activation {
            Epilogue::Activate(_) => !layer.shape.gated,
            Epilogue::Gate(_) => layer.shape.gated,
            Epilogue::Store | Epilogue::Residual => false,
        };
        assert!(fits, "experts: {activation:?} and {:?}", layer.shape);
        assert_eq!(out.dtype, Dtype::F32, "experts: a residual stream is f32");
        assert_ne!(x.buffer, out.buffer, "experts: buffer {} is read and written", x.buffer);
        let x_address = self.factor("experts", (&set, x), layer.shape.hidden);
        let out_address = self.place("experts", out, set.bucket, layer.shape.hidden);

        self.route(&layer, &room, (&set, x_address, x.stride))?;
        self.group(&layer, &room, &set)?;
        let input = Factor { address: x_address, stride: x.stride };
        let inner = Sums { address: room.inner, stride: room.inner_stride, dtype: self.facts.compute };
        self.multiply(
            &room,
            &set,
            Half { layer: &layer, matrices: &layer.input, tiles: &INPUT },
            (input, inner, activation),
        )?;
        let input = Factor { address: room.inner, stride: room.inner_stride };
        let outputs = Sums { address: room.outputs, stride: room.outputs_stride, dtype: Dtype::F32 };
        self.multiply(
            &room,
            &set,
            Half { layer: &layer, matrices: &layer.output, tiles: &OUTPUT },
            (input, outputs, Epilogue::Store),
        )?;
        let params = ExpertsSumParams {
            outputs: room.outputs,
            positions: room.positions,
            weights: room.weights,
            live: set.live,
            out: out_address,
            outputs_stride: room.outputs_stride as u32,
            out_stride: out.stride as u32,
            cols: layer.shape.hidden as u32,
            top_k: layer.routing.top_k as u32,
        };
        let grid = [set.bucket as u32, 1, 1];
        self.launch(&SUM, Shape { queue: set.queue, grid, threads: THREADS, dynamic_shared: 0 }, params)
    }

    fn route(
        &self,
        layer: &ExpertsOnCard,
        room: &ExpertsRoom,
        (set, x, x_stride): (&RowSet, u64, usize),
    ) -> Result<(), DeviceError> {
        let Routing { top_k, order, renormalise, scale } = layer.routing;
        let params = ExpertsRouteParams {
            x,
            router: layer.router,
            live: set.live,
            choices: room.choices,
            weights: room.weights,
            x_stride: x_stride as u32,
            router_stride: layer.router_stride as u32,
            cols: layer.shape.hidden as u32,
            experts: layer.shape.experts as u32,
            top_k: top_k as u32,
            order: match order {
                RouterOrder::SoftmaxThenTopK => 0,
                RouterOrder::TopKThenSoftmax => 1,
            },
            renormalise: u32::from(renormalise),
            scale,
        };
        let kernel = match self.facts.compute {
            Dtype::F32 => ROUTE_F32,
            Dtype::Bf16 => ROUTE_BF16,
        };
        let grid = [set.bucket.div_ceil(ROUTE_ROWS) as u32, 1, 1];
        self.launch(&kernel, Shape { queue: set.queue, grid, threads: THREADS, dynamic_shared: 0 }, params)
    }

    fn group(&self, layer: &ExpertsOnCard, room: &ExpertsRoom, set: &RowSet) -> Result<(), DeviceError> {
        let params = ExpertsGroupParams {
            choices: room.choices,
            live: set.live,
            tiles: room.tiles,
            tile_count: room.tile_count,
            rows: room.rows,
            positions: room.positions,
            experts: layer.shape.experts as u32,
            top_k: layer.routing.top_k as u32,
        };
        let dynamic_shared = (layer.shape.experts * GROUP_BYTES) as u32;
        let shape = Shape { queue: set.queue, grid: [1, 1, 1], threads: GROUP_THREADS as u32, dynamic_shared };
        self.launch(&GROUP, shape, params)
    }

    fn multiply(
        &self,
        room: &ExpertsRoom,
        set: &RowSet,
        half: Half,
        (x, out, epilogue): (Factor, Sums, Epilogue),
    ) -> Result<(), DeviceError> {
        let Half { layer, matrices, tiles } = half;
        let packing = &matrices.packing;
        let (combine, activation) = codes(epilogue);
        let params = ExpertsLinearParams {
            linear: LinearParams {
                product: Product {
                    x: x.address,
                    weight: 0,
                    live: 0,
                    x_stride: x.stride as u32,
                    k: packing.k as u32,
                    k_padded: packing.k_padded() as u32,
                    groups: packing.groups() as u32,
                },
                out: out.address,
                bias: 0,
                out_stride: out.stride as u32,
                columns: packing.output_columns() as u32,
                out_dtype: u32::from(out.dtype == Dtype::Bf16),
                combine,
                activation,
                aligned: 1,
            },
            weights: matrices.addresses,
            tiles: room.tiles,
            tile_count: room.tile_count,
            rows: room.rows,
        };
        let (experts, pairs) = (layer.shape.experts, set.bucket * layer.routing.top_k);
        // Which tile is best is asked for rows that are spread evenly over the experts.
        let even =
            RowSet { live: 0, bucket: pairs.next_multiple_of(TILE_ROWS).max(experts.min(pairs) * TILE_ROWS), ..*set };
        let tile = self.tile((&tiles.f32, &tiles.bf16), &even, packing.groups());
        let most = RowSet { bucket: most_tiles(pairs, experts) * TILE_ROWS, ..even };
        self.launch(&tile.kernel, tile.shape(&most, packing.groups()), params)
    }
}

/// One of a layer's two products.
struct Half<'a> {
    layer: &'a ExpertsOnCard,
    matrices: &'a Matrices,
    tiles: &'static Tiles,
}

/// A product's left side.
struct Factor {
    address: u64,
    stride: usize,
}

/// Where a product goes: a row a position.
struct Sums {
    address: u64,
    stride: usize,
    dtype: Dtype,
}

#[cfg(test)]
mod tests {
    use super::most_tiles;

    #[test]
    fn tiles_suffice_for_any_choice() {
        let tiles = |rows: &[usize]| rows.iter().map(|rows| rows.div_ceil(64)).sum::<usize>();
        for rows in [[0, 0, 0], [1, 0, 0], [1, 1, 0], [64, 0, 0], [65, 0, 0], [63, 65, 1], [65, 65, 65], [129, 1, 64]] {
            assert!(tiles(&rows) <= most_tiles(rows.iter().sum(), 3), "{rows:?}");
        }
        assert_eq!(most_tiles(0, 64), 0);
    }
}
