//! Kernel launches: parameters are gathered by the kernel's own parameter list.

use std::ffi::{c_uint, c_void};

use super::Code;
use super::answer;
use super::pointers::{HostPointer, In};
use super::stream::on_stream;
use crate::handle::Handle;
use crate::launch::Shape;
use crate::session::{Session, find};
use crate::status::{CudaError, Outcome};

/// Words of the `extra` array.
const END: usize = 0;
const BUFFER_POINTER: usize = 1;
const BUFFER_BYTES: usize = 2;

/// The two ways to pass parameters, of which one is null.
struct Parameters {
    pointers: In<HostPointer>,
    extra: In<HostPointer>,
}

impl Parameters {
    /// The parameters as the kernel reads them.
    fn gather(&self, session: &Session<'_>, function: Handle) -> Outcome<Vec<u8>> {
        let kernel = find(&session.context.functions, function)?.code.clone();
        let kernel = kernel.kernel()?;
        match (self.pointers.is_null(), self.extra.is_null()) {
            (false, false) => Err(CudaError::InvalidValue),
            (true, false) => self.buffer(),
            (pointers, true) if pointers && !kernel.params().is_empty() => Err(CudaError::InvalidValue),
            _ => {
                let mut gathered = vec![0; kernel.param_bytes()];
                for (index, parameter) in kernel.params().iter().enumerate() {
                    let from = self.pointers.get(index)?;
                    gathered[parameter.offset..][..parameter.bytes].copy_from_slice(from.bytes(parameter.bytes)?);
                }
                Ok(gathered)
            }
        }
    }

    /// The parameters out of the `extra` array: pairs of a word and a value, until the end.
    fn buffer(&self) -> Outcome<Vec<u8>> {
        let (mut buffer, mut bytes) = (None, None);
        for pair in 0..=2 {
            let word = self.extra.get(2 * pair)?.address();
            if word == END {
                break;
            }
            let value = self.extra.get(2 * pair + 1)?;
            match word {
                BUFFER_POINTER => buffer = Some(value),
                BUFFER_BYTES => bytes = Some(value.size()?),
                _ => return Err(CudaError::InvalidValue),
            }
        }
        match (buffer, bytes) {
            (Some(buffer), Some(bytes)) => Ok(buffer.bytes(bytes)?.to_vec()),
            _ => Err(CudaError::InvalidValue),
        }
    }
}

fn launch(function: Handle, shape: Shape, parameters: &Parameters, stream: Handle) -> Code {
    on_stream(stream, |session, stream| {
        let gathered = parameters.gather(session, function)?;
        session.launch(function, shape, &gathered, stream)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic_shared_bytes: c_uint,
    stream: Handle,
    pointers: In<HostPointer>,
    extra: In<HostPointer>,
) -> Code {
    let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared_bytes };
    launch(function, shape, &Parameters { pointers, extra }, stream)
}

/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Config {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    dynamic_shared_bytes: c_uint,
    stream: Handle,
    attributes: *mut c_void,
    attribute_count: c_uint,
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernelEx(
    config: In<Config>,
    function: Handle,
    pointers: In<HostPointer>,
    extra: In<HostPointer>,
) -> Code {
    let Config { grid, block, dynamic_shared_bytes, stream, attribute_count, .. } = match config.get(0) {
        Ok(config) => config,
        Err(error) => return answer(Err(error)),
    };
    // Clusters and programmatic launches are not sm_80's; ignoring what a caller asked for would hide that.
    if attribute_count != 0 {
        return answer(Err(CudaError::NotSupported));
    }
    launch(function, Shape { grid, block, dynamic_shared_bytes }, &Parameters { pointers, extra }, stream)
}
