//! Steps of the beam state that choose no children: the reset of a cohort, and forced tokens.

use sidereal_ffi::params::{BeginParams, ForceParams};

use super::super::CudaDevice;
use super::super::driver::{Kernel, Shape};
use crate::device::{CohortLane, DeviceError, ForceArgs, Queue};

const BEGIN: Kernel = Kernel { module: "beam_state", name: "begin_cohort", dynamic_shared: 0 };
const FORCE: Kernel = Kernel { module: "beam_state", name: "force_token", dynamic_shared: 0 };
pub(super) const KERNELS: [Kernel; 2] = [BEGIN, FORCE];

/// A block a request.
fn shape(requests: usize) -> Shape {
    Shape { queue: Queue::Search, grid: [requests as u32, 1, 1], threads: 256, dynamic_shared: 0 }
}

impl CudaDevice {
    pub(in crate::device::cuda) fn run_begin_cohort(&mut self, lane: CohortLane) -> Result<(), DeviceError> {
        let lane = self.cohort_lane_of(lane);
        let view = lane.view();
        let params = BeginParams { state: lane.now().into(), requests: view.requests, counts: view.requests_count };
        self.launch(&BEGIN, shape(lane.extent.requests), params)
    }

    pub(in crate::device::cuda) fn run_force_token(&mut self, args: &ForceArgs) -> Result<(), DeviceError> {
        let op = "force_token";
        let lane = self.cohort_lane_of(args.lane);
        assert!(args.step < lane.plan.steps, "{op}: step {} of a lane of {} steps", args.step, lane.plan.steps);
        let view = lane.view();
        let mut params = ForceParams {
            now: lane.now().into(),
            next: lane.next().into(),
            requests: view.requests,
            counts: view.requests_count,
            logits: 0,
            lognorm: 0,
            log_probs: view.log_probs,
            order: self.scratch.expand.order,
            logits_stride: 0,
            lognorm_stride: 0,
            token: args.token,
            step: args.step as u32,
            rows: lane.plan.rows as u32,
            reserved: 0,
        };
        if let Some((logits, lognorm)) = args.scored {
            params.logits = self.place(op, logits, lane.extent.rows, logits.cols);
            params.lognorm = self.place(op, lognorm, lane.extent.rows, 1);
            (params.logits_stride, params.lognorm_stride) = (logits.stride as u32, lognorm.stride as u32);
        }
        self.launch(&FORCE, shape(lane.extent.requests), params)
    }
}
