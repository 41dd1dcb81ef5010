//! The matrix product with a weight: packed, by `kernels/linear.cu`; or plain, by cuBLASLt (`linear_plain.rs`).

use sidereal_ffi::params::LinearParams;

use super::linear_plain::PlainLinear;
use super::product::{Packed, Tile};
use crate::device::cuda::CudaDevice;
use crate::device::cuda::driver::Kernel;
use crate::device::cuda::pack::Packing;
use crate::device::{Activation, DeviceError, Dtype, Epilogue, LinearArgs, LinearSource};

/// A weight on the card, in the one order that its product reads.
#[derive(Clone, Copy, Debug)]
pub(in crate::device::cuda) enum LinearWeight {
    Packed(Packed),
    Plain(PlainLinear),
}

impl LinearWeight {
    pub(in crate::device::cuda) fn is_plain(&self) -> bool {
        matches!(self, LinearWeight::Plain(_))
    }
}

const BF16: [Tile; 3] = [
    Tile::wide("linear", "linear_bf16_wide"),
    Tile::middle("linear", "linear_bf16_middle"),
    Tile::small("linear", "linear_bf16_small"),
];
const F32: [Tile; 1] = [Tile::f32("linear", "linear_f32")];

/// The operation's kernels.
pub(super) fn kernels(compute: Dtype) -> Vec<Kernel> {
    let tiles: &[Tile] = if compute == Dtype::F32 { &F32 } else { &BF16 };
    tiles.iter().map(|tile| tile.kernel).collect()
}

/// `COMBINE_*` and `ACTIVATION_*` of an epilogue.
pub(super) fn codes(epilogue: Epilogue) -> (u32, u32) {
    let code = |activation| match activation {
        Activation::Relu => 1,
        Activation::GeluTanh => 2,
        Activation::GeluErf => 3,
        Activation::Silu => 4,
    };
    match epilogue {
        Epilogue::Store => (0, 0),
        Epilogue::Residual => (1, 0),
        Epilogue::Activate(activation) => (0, code(activation)),
        Epilogue::Gate(activation) => (2, code(activation)),
    }
}

impl CudaDevice {
    /// Uploads a weight: plain where cuBLASLt multiplies by it, packed otherwise, and always with a bias: our kernels add it to the
    /// sums that they hold.
    pub(in crate::device::cuda) fn upload_linear(
        &mut self,
        source: &LinearSource,
    ) -> Result<LinearWeight, DeviceError> {
        let (n, k) = source.check()?;
        let packing = Packing { compute: self.facts.compute, n, k, gated: source.gated };
        let (name, bias) = (source.parts[0].name(), source.stacked_bias());
        let rows = |row: usize, out: &mut [f32]| source.read_row(row, out);
        let algorithms = match &mut self.products {
            Some(products) if bias.is_empty() => products.algorithms(&self.driver, packing.compute, (n, k))?,
            _ => None,
        };
        Ok(match algorithms {
            Some(algorithms) => LinearWeight::Plain(PlainLinear::upload(
                &mut self.memory,
                name.to_owned(),
                (packing, algorithms),
                rows,
            )?),
            None => {
                let packed = Packed::upload(&mut self.memory, name.to_owned(), packing, rows)?;
                LinearWeight::Packed(packed.with_bias(&mut self.memory, name, &bias)?)
            }
        })
    }

    pub(in crate::device::cuda) fn run_linear(&mut self, args: &LinearArgs) -> Result<(), DeviceError> {
        let weight = self.weights.linears[args.weight.0 as usize];
        let packing = match weight {
            LinearWeight::Packed(weight) => weight.packing,
            LinearWeight::Plain(weight) => weight.packing,
        };
        let LinearArgs { x, out, epilogue, .. } = *args;
        assert_eq!(
            matches!(epilogue, Epilogue::Gate(_)),
            packing.gated,
            "linear: {epilogue:?} and whether the weight is gated"
        );
        assert!(epilogue != Epilogue::Residual || out.dtype == Dtype::F32, "linear: a residual stream is f32");
        assert_ne!(x.buffer, out.buffer, "linear: buffer {} is read and written", x.buffer);
        match weight {
            LinearWeight::Packed(weight) => self.run_packed(args, &weight),
            LinearWeight::Plain(weight) => self.run_plain(args, &weight),
        }
    }

    fn run_packed(&mut self, args: &LinearArgs, weight: &Packed) -> Result<(), DeviceError> {
        let (groups, columns) = (weight.packing.groups(), weight.packing.output_columns());
        let LinearArgs { x, out, epilogue, .. } = *args;
        let rows = self.row_set(args.rows);
        let address = self.place("linear", out, rows.bucket, columns);
        let (combine, activation) = codes(epilogue);
        let params = LinearParams {
            product: self.product("linear", (&rows, x), weight, (0, groups)),
            out: address,
            bias: weight.bias,
            out_stride: out.stride as u32,
            columns: columns as u32,
            out_dtype: u32::from(out.dtype == Dtype::Bf16),
            combine,
            activation,
            aligned: u32::from(address.is_multiple_of(16)),
        };
        let tile = self.tile((&F32, &BF16), &rows, groups);
        self.launch(&tile.kernel, tile.shape(&rows, groups), params)
    }
}
