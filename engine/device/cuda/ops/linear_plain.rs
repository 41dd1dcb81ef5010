//! The matrix product with a plain weight: cuBLASLt's (`cublaslt/`), and what is left of its epilogue (`kernels/linear_epilogue.cu`).
//!
//! cuBLASLt writes f32 itself, and adds to an f32 residual stream: both round each sum once, as the engine's kernels do. Activations and
//! gates of its own are not those of the contract, so for them, and for bf16 or unaligned outputs, its sums go to scratch and
//! a kernel of ours takes them from there. Which way a product goes follows from the operation's arguments alone.

use sidereal_ffi::params::LinearEpilogueParams;

use super::linear::codes;
use crate::device::cuda::cublaslt::{ALIGNMENT, Algorithms, Combine, Kind, Product, Sums, calls};
use crate::device::cuda::driver::{Kernel, Shape};
use crate::device::cuda::memory::{Memory, Purpose};
use crate::device::cuda::ops::linear::LinearWeight;
use crate::device::cuda::pack::Packing;
use crate::device::cuda::{CudaDevice, RowSet};
use crate::device::{DeviceError, Dtype, Epilogue, LinearArgs, Queue, Rows};

const EPILOGUE: Kernel = Kernel { module: "linear_epilogue", name: "linear_epilogue", dynamic_shared: 0 };
pub(super) const KERNELS: [Kernel; 1] = [EPILOGUE];
const THREADS: usize = 128;
/// Columns of a block: four a thread.
const BLOCK_COLUMNS: usize = 4 * THREADS;

/// A plain weight on the card.
#[derive(Clone, Copy, Debug)]
pub(in crate::device::cuda) struct PlainLinear {
    pub(super) packing: Packing,
    address: u64, // [n, k]; of a gated weight all gates first
    algorithms: Algorithms,
}

impl PlainLinear {
    /// Uploads a weight as it is.
    pub(super) fn upload(
        memory: &mut Memory,
        what: String,
        (packing, algorithms): (Packing, Algorithms),
        read_row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<PlainLinear, DeviceError> {
        let address = memory.holding(Purpose::Weights, what, &packing.plain(read_row))?;
        Ok(PlainLinear { packing, address, algorithms })
    }
}

/// Which algorithm a lane's rows get.
fn kind(rows: Rows, queue: Queue) -> Kind {
    match (rows, queue) {
        (Rows::Tokens(_), Queue::Prefill) => Kind::Prompts,
        _ => Kind::Beams,
    }
}

impl CudaDevice {
    /// Makes room for the sums of the widest plain weight, on each queue that has a lane.
    pub(in crate::device::cuda) fn plan_sums(&mut self) -> Result<(), DeviceError> {
        let Some(products) = &mut self.products else { return Ok(()) };
        let columns = self.weights.linears.iter().map(|weight| match weight {
            LinearWeight::Plain(weight) => weight.packing.n,
            LinearWeight::Packed(_) => 0,
        });
        let columns = columns.max().unwrap_or(0);
        for queue in [Queue::Prefill, Queue::Search] {
            let tokens = self.tokens.iter().filter(|lane| lane.queue == queue).map(|lane| lane.capacity.rows);
            let beams = self.cohorts.iter().map(|lane| lane.plan.rows.max(lane.plan.requests));
            let beams = beams.filter(|_| queue == Queue::Search);
            let rows = tokens.chain(beams).max().unwrap_or(0);
            products.plan_sums(&mut self.memory, queue, (rows, columns))?;
        }
        Ok(())
    }

    fn sums_of(&self, queue: Queue) -> Sums {
        self.products.as_ref().expect("plain weights come from cuBLASLt").sums(queue)
    }

    pub(super) fn run_plain(&mut self, args: &LinearArgs, weight: &PlainLinear) -> Result<(), DeviceError> {
        let Packing { n, k, .. } = weight.packing;
        let LinearArgs { x, out, epilogue, .. } = *args;
        let rows = self.row_set(args.rows);
        let x_address = self.factor("linear", (&rows, x), k);
        let out_address = self.place("linear", out, rows.bucket, weight.packing.output_columns());
        let sums = self.sums_of(rows.queue);
        let algorithm = weight.algorithms.of(kind(args.rows, rows.queue));
        let direct = match epilogue {
            Epilogue::Store => Some(Combine::Replace),
            Epilogue::Residual => Some(Combine::Add),
            Epilogue::Activate(_) | Epilogue::Gate(_) => None,
        };
        let writable = out.dtype == Dtype::F32 && out_address.is_multiple_of(ALIGNMENT as u64);
        let direct = direct.filter(|_| writable);
        for (first, count) in calls(rows.bucket) {
            let at = |address: u64, stride: usize, dtype: Dtype| address + (first * stride * dtype.bytes()) as u64;
            let part_out = at(out_address, out.stride, out.dtype);
            let (to, to_stride, combine) = match direct {
                Some(combine) => (part_out, out.stride, combine),
                None => (sums.address, sums.stride, Combine::Replace),
            };
            let product = Product {
                weight: weight.address,
                x: at(x_address, x.stride, x.dtype),
                out: to,
                rows: count,
                n,
                k,
                x_stride: x.stride,
                out_stride: to_stride,
                combine,
            };
            let products = self.products.as_mut().expect("plain weights come from cuBLASLt");
            products.enqueue((&self.driver, rows.queue), &product, algorithm)?;
            if direct.is_none() {
                self.run_epilogue(args, &rows, (first, count, part_out))?;
            }
        }
        Ok(())
    }

    /// From scratch to `out`, for one call's rows.
    fn run_epilogue(
        &self,
        args: &LinearArgs,
        rows: &RowSet,
        (first, count, out): (usize, usize, u64),
    ) -> Result<(), DeviceError> {
        let sums = self.sums_of(rows.queue);
        let (combine, activation) = codes(args.epilogue);
        let columns = args.out.cols;
        let params = LinearEpilogueParams {
            sums: sums.address,
            out,
            live: rows.live,
            first_row: first as u32,
            sums_stride: sums.stride as u32,
            out_stride: args.out.stride as u32,
            columns: columns as u32,
            out_dtype: u32::from(args.out.dtype == Dtype::Bf16),
            combine,
            activation,
            aligned: u32::from(out.is_multiple_of(16)),
        };
        let grid = [count.min(rows.bucket - first) as u32, columns.div_ceil(BLOCK_COLUMNS) as u32, 1];
        let shape = Shape { queue: rows.queue, grid, threads: THREADS as u32, dynamic_shared: 0 };
        self.launch(&EPILOGUE, shape, params)
    }
}
