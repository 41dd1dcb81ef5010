//! A card by the driver's own calls, for what the engine's device does not do: probes, ceilings, facts.
//!
//! The driver gives every user of a process the same primary context, so this is the context of an engine's device too. A kernel
//! here takes one `Parameters` struct and is launched on one stream; it must be one that keeps to the blocks it is given.

mod block;

use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction_attribute_enum as FunctionAttribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

pub use cudarc::driver::DriverError;
pub use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;

use block::Block;

/// Milliseconds between two events.
///
/// The bindings of CUDA 13 know `cuEventElapsedTime_v2` alone, which drivers before 12.8 do not have, and panic there. Every
/// driver has the older function, which differs in nothing else.
///
/// # Safety
/// Both are live events of the current context that were made to note times.
pub unsafe fn elapsed_ms(from: sys::CUevent, to: sys::CUevent) -> Result<f32, DriverError> {
    type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
    // SAFETY: a context is current, so the library is there; the type is the function's in cuda.h.
    let elapsed = unsafe { sys::culib().get::<Elapsed>(b"cuEventElapsedTime") };
    let Ok(elapsed) = elapsed else { return Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND)) };
    let mut milliseconds = 0.0;
    // SAFETY: the caller's promise.
    unsafe { elapsed(&mut milliseconds, from, to) }.result()?;
    Ok(milliseconds)
}

/// What a kernel is launched with.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Parameters {
    input: u64,
    output: u64,
    count: u32,
    reserved: u32,
}

// SAFETY: plain integers in C's layout, the kernels' only parameter.
unsafe impl DeviceRepr for Parameters {}

/// A kernel of a loaded image: `extern "C"` with one parameter of 24 bytes: two addresses (input, output), a count, and nothing.
#[derive(Clone)]
pub struct Function(CudaFunction);

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Blocks.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The parameter's count.
    pub count: u32,
}

/// A card.
pub struct Card {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// Compute capability: 8.6 is 86.
    pub capability: u32,
    /// What `cuDriverGetVersion` says: CUDA 12.4 is 12040.
    pub driver: u32,
    /// Its name.
    pub name: String,
}

impl Card {
    /// Opens card 0 of a driver that is there.
    pub fn open() -> Result<Card, DriverError> {
        let context = CudaContext::new(0)?;
        // SAFETY: everything here runs on one stream, in order.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let (major, minor) = context.compute_capability()?;
        let mut driver = 0;
        // SAFETY: writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut driver) }.result()?;
        Ok(Card {
            name: context.name()?,
            stream,
            context,
            capability: 10 * major.unsigned_abs() + minor.unsigned_abs(),
            driver: driver.unsigned_abs(),
        })
    }

    /// An attribute, where the driver knows it.
    pub fn attribute(&self, which: Attribute) -> Option<i32> {
        self.context.attribute(which).ok()
    }

    /// (free, total) bytes.
    pub fn memory(&self) -> Option<(usize, usize)> {
        self.context.mem_get_info().ok()
    }

    /// A kernel of an image, allowed `shared` bytes of dynamic shared memory.
    pub fn load(&self, image: &[u8], kernel: &str, shared: u32) -> Result<Function, DriverError> {
        let function = self.context.load_module(Ptx::from_binary(image.to_vec()))?.load_function(kernel)?;
        function.set_attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared as i32)?;
        Ok(Function(function))
    }

    /// Runs a kernel once on `input`; outputs that it does not write are 0xff.
    pub fn run(
        &self,
        function: &Function,
        shape: Shape,
        input: &[u8],
        output_bytes: usize,
    ) -> Result<Vec<u8>, DriverError> {
        let (from, to) = (self.block(input.len())?, self.block(output_bytes)?);
        from.write(input)?;
        self.enqueue(function, shape, (&from, &to))?;
        self.stream.synchronize()?;
        to.read(output_bytes)
    }

    /// Milliseconds of a kernel that reads and writes nothing but 256 bytes, once for each of `repeats`, after one that is not
    /// counted.
    pub fn time_kernel(&self, function: &Function, shape: Shape, repeats: usize) -> Result<Vec<f32>, DriverError> {
        let output = self.block(256)?;
        self.time(repeats, &|| self.enqueue(function, shape, (&output, &output)))
    }

    /// Milliseconds of a copy of `bytes` from one place of the card to another, as often.
    pub fn time_copy(&self, bytes: usize, repeats: usize) -> Result<Vec<f32>, DriverError> {
        let (from, to) = (self.block(bytes)?, self.block(bytes)?);
        self.time(repeats, &|| to.copy_from(&from))
    }

    fn block(&self, bytes: usize) -> Result<Block, DriverError> {
        self.context.bind_to_thread()?;
        Block::new(&self.stream, bytes)
    }

    fn enqueue(&self, function: &Function, shape: Shape, (from, to): (&Block, &Block)) -> Result<(), DriverError> {
        let parameters = Parameters { input: from.address(), output: to.address(), count: shape.count, reserved: 0 };
        let config = LaunchConfig {
            grid_dim: (shape.blocks, 1, 1),
            block_dim: (shape.threads, 1, 1),
            shared_mem_bytes: shape.shared,
        };
        let mut builder = self.stream.launch_builder(&function.0);
        builder.arg(&parameters);
        // SAFETY: the kernel's one parameter is `Parameters`; its addresses are live blocks of the sizes that it is written for.
        unsafe { builder.launch(config) }.map(drop)
    }

    fn time(&self, repeats: usize, work: &dyn Fn() -> Result<(), DriverError>) -> Result<Vec<f32>, DriverError> {
        let event = || self.context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
        let (begun, ended) = (event()?, event()?);
        work()?;
        let mut times = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            begun.record(&self.stream)?;
            work()?;
            ended.record(&self.stream)?;
            ended.synchronize()?;
            // SAFETY: two events of this context that note times, both passed.
            times.push(unsafe { elapsed_ms(begun.cu_event(), ended.cu_event()) }?);
        }
        Ok(times)
    }
}
