//! RMS norm.

use sidereal_ffi::params::NormParams;

use super::super::CudaDevice;
use super::super::driver::{Kernel, Shape};
use crate::device::{DeviceError, Dtype, NormArgs};

const F32: Kernel = Kernel { module: "norm", name: "norm_f32", dynamic_shared: 0 };
const BF16: Kernel = Kernel { module: "norm", name: "norm_bf16", dynamic_shared: 0 };
pub(super) const KERNELS: [Kernel; 2] = [F32, BF16];

impl CudaDevice {
    pub(in crate::device::cuda) fn run_norm(&mut self, args: &NormArgs) -> Result<(), DeviceError> {
        let set = self.row_set(args.rows);
        let weight = self.weights.vectors[args.weight.0 as usize];
        assert_eq!(args.x.dtype, Dtype::F32, "norm: type of x");
        let kernel = match args.out.dtype {
            Dtype::F32 => F32,
            Dtype::Bf16 => BF16,
        };
        let params = NormParams {
            x: self.place("norm", args.x, set.bucket, weight.len),
            weight: weight.address,
            live: set.live,
            out: self.place("norm", args.out, set.bucket, weight.len),
            cols: weight.len as u32,
            x_stride: args.x.stride as u32,
            out_stride: args.out.stride as u32,
            eps: args.eps,
        };
        let grid = [set.bucket as u32, 1, 1];
        self.launch(&kernel, Shape { queue: set.queue, grid, threads: 128, dynamic_shared: 0 }, params)
    }
}
