//! Operations whose kernels are not in the tree yet. Each leaves this file as it arrives; the device cannot be chosen until the
//! file is gone.

use crate::device::cuda::CudaDevice;
use crate::device::{
    BeamAttentionArgs, CohortLane, DeviceError, Embedding, ExpandArgs, ForceArgs, HeadArgs, HistoryAttentionArgs,
    LinearArgs, NormArgs, Rows, Tensor, TokenLane, WriteKvArgs,
};

fn pending<T>(op: &str) -> Result<T, DeviceError> {
    Err(DeviceError::Unavailable(format!("{op}: not on the CUDA device yet")))
}

impl CudaDevice {
    pub(in crate::device::cuda) fn run_begin_cohort(&mut self, _: CohortLane) -> Result<(), DeviceError> {
        pending("begin_cohort")
    }
    pub(in crate::device::cuda) fn run_embed(&mut self, _: Rows, _: Embedding, _: Tensor) -> Result<(), DeviceError> {
        pending("embed")
    }
    pub(in crate::device::cuda) fn run_norm(&mut self, _: &NormArgs) -> Result<(), DeviceError> {
        pending("norm")
    }
    pub(in crate::device::cuda) fn run_linear(&mut self, _: &LinearArgs) -> Result<(), DeviceError> {
        pending("linear")
    }
    pub(in crate::device::cuda) fn run_write_kv(&mut self, _: &WriteKvArgs) -> Result<(), DeviceError> {
        pending("write_kv")
    }
    pub(in crate::device::cuda) fn run_history_attention(
        &mut self,
        _: &HistoryAttentionArgs,
    ) -> Result<(), DeviceError> {
        pending("history_attention")
    }
    pub(in crate::device::cuda) fn run_beam_attention(&mut self, _: &BeamAttentionArgs) -> Result<(), DeviceError> {
        pending("beam_attention")
    }
    pub(in crate::device::cuda) fn run_gather_last(
        &mut self,
        _: TokenLane,
        _: Tensor,
        _: Tensor,
    ) -> Result<(), DeviceError> {
        pending("gather_last")
    }
    pub(in crate::device::cuda) fn run_store_slots(
        &mut self,
        _: TokenLane,
        _: Tensor,
        _: Tensor,
    ) -> Result<(), DeviceError> {
        pending("store_slots")
    }
    pub(in crate::device::cuda) fn run_load_slots(
        &mut self,
        _: CohortLane,
        _: Tensor,
        _: Tensor,
    ) -> Result<(), DeviceError> {
        pending("load_slots")
    }
    pub(in crate::device::cuda) fn run_head(&mut self, _: &HeadArgs) -> Result<(), DeviceError> {
        pending("head")
    }
    pub(in crate::device::cuda) fn run_expand_select(&mut self, _: &ExpandArgs) -> Result<(), DeviceError> {
        pending("expand_select")
    }
    pub(in crate::device::cuda) fn run_force_token(&mut self, _: &ForceArgs) -> Result<(), DeviceError> {
        pending("force_token")
    }
}
