//! Operations whose kernels are not in the tree yet. Each leaves this file as it arrives; the device cannot be chosen until the
//! file is gone.

use crate::device::cuda::CudaDevice;
use crate::device::{BeamAttentionArgs, DeviceError};

fn pending<T>(op: &str) -> Result<T, DeviceError> {
    Err(DeviceError::Unavailable(format!("{op}: not on the CUDA device yet")))
}

impl CudaDevice {
    pub(in crate::device::cuda) fn run_beam_attention(&mut self, _: &BeamAttentionArgs) -> Result<(), DeviceError> {
        pending("beam_attention")
    }
}
