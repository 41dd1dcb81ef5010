//! The same launches on the PTX interpreter, in this process: what hardware is held against.

use gpu_emulator::machine::{self, LaunchConfig};
use gpu_emulator::memory::GlobalMemory;
use gpu_emulator::ptx::Module;

use crate::error::CheckError;
use crate::probe::images;
use crate::probe::{Launch, Machine};

/// Memory enough for any probe.
const MEMORY_BYTES: u64 = 1 << 28;

/// The interpreter.
pub struct Emulated;

impl Machine for Emulated {
    fn run(&mut self, launch: &Launch, input: &[u8], output_bytes: usize) -> Result<Vec<u8>, CheckError> {
        let failed = |error: &dyn std::fmt::Display| CheckError::Emulator(format!("{}: {error}", launch.kernel));
        let module = Module::parse(images::ptx(images::module(launch.module)?)?).map_err(|error| failed(&error))?;
        let mut memory = GlobalMemory::new(MEMORY_BYTES);
        let module = module.load(&mut memory).map_err(|error| failed(&error))?;
        let Some(kernel) = module.kernel(launch.kernel) else { return Err(failed(&"no such kernel")) };
        let from = memory.alloc(input.len().max(1) as u64).map_err(|error| failed(&error))?;
        let to = memory.alloc(output_bytes.max(1) as u64).map_err(|error| failed(&error))?;
        memory.write(from, input).map_err(|error| failed(&error))?;
        let mut parameters = Vec::with_capacity(24);
        parameters.extend(from.to_le_bytes());
        parameters.extend(to.to_le_bytes());
        parameters.extend(u64::from(launch.count).to_le_bytes());
        let config = LaunchConfig {
            grid: [launch.blocks, 1, 1],
            block: [launch.threads, 1, 1],
            dynamic_shared_bytes: launch.shared,
        };
        machine::launch(kernel, &config, &parameters, &mut memory).map_err(|fault| failed(&fault))?;
        let mut output = vec![0; output_bytes];
        memory.read(to, &mut output).map_err(|error| failed(&error))?;
        Ok(output)
    }
}
