//! Kernel launches: what is checked at the call, and what happens when the stream gets there.

use std::sync::Arc;
use std::time::Instant;

use gpu_emulator::machine::{self, LaunchConfig};

use crate::attributes;
use crate::handle::Handle;
use crate::inject::Kind;
use crate::module::KernelCode;
use crate::session::{Session, find};
use crate::status::{CudaError, Outcome};
use crate::work::Work;

/// A checked launch.
#[derive(Clone)]
pub struct Launch {
    code: KernelCode,
    config: LaunchConfig,
    parameters: Arc<[u8]>,
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub dynamic_shared_bytes: u32,
}

impl Session<'_> {
    /// `cuLaunchKernel` with its parameters laid out as the kernel's parameter list says.
    pub fn launch(&mut self, function: Handle, shape: Shape, parameters: &[u8], stream: Handle) -> Outcome<()> {
        let code = self.check_launch(function, shape)?;
        if parameters.len() != code.kernel()?.param_bytes() {
            return Err(CudaError::InvalidValue);
        }
        let config =
            LaunchConfig { grid: shape.grid, block: shape.block, dynamic_shared_bytes: shape.dynamic_shared_bytes };
        let work = Work::Launch(Launch { code, config, parameters: parameters.into() });
        let captured = self.capture_of(stream)?.is_some();
        let work = if captured { work } else { self.spoil(Kind::Launch, work)? };
        self.submit(stream, work)
    }

    /// The kernel of a launch whose shape the device can run.
    fn check_launch(&self, function: Handle, shape: Shape) -> Outcome<KernelCode> {
        let function = find(&self.context.functions, function)?;
        let kernel = function.code.kernel()?;
        let dynamic = shape.dynamic_shared_bytes as usize;
        let fits = |sizes: [u32; 3], limits: [i32; 3]| {
            sizes.iter().zip(limits).all(|(size, limit)| (1..=limit as u32).contains(size))
        };
        let threads: usize = shape.block.iter().map(|size| *size as usize).product();
        let valid = fits(shape.grid, attributes::MAX_GRID)
            && fits(shape.block, attributes::MAX_BLOCK)
            && threads <= function.code.max_threads()?
            && dynamic <= function.dynamic_shared_limit
            && dynamic + kernel.static_shared_bytes() <= attributes::SHARED_BYTES_PER_BLOCK_OPTIN;
        if valid { Ok(function.code.clone()) } else { Err(CudaError::InvalidValue) }
    }

    /// Runs a launch to its end; a fault breaks the context.
    pub fn run_launch(&mut self, launch: &Launch) -> Outcome<()> {
        let start = Instant::now();
        let kernel = launch.code.kernel()?;
        match machine::launch(kernel, &launch.config, &launch.parameters, &mut self.context.memory) {
            Ok(report) => {
                self.process.statistics.count_kernel(launch.code.name(), report.warp_instructions, start.elapsed());
                Ok(())
            }
            Err(fault) => {
                let LaunchConfig { grid, block, .. } = launch.config;
                let what = format!("kernel {} (grid {grid:?}, block {block:?}): {fault}", launch.code.name());
                Err(self.fail(crate::report::error_of(&fault), &what))
            }
        }
    }
}
