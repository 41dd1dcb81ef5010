//! The card by the driver's own calls, for what the engine's device does not do: probes, ceilings, facts.
//!
//! The driver gives every user of a process the same primary context, so that this is the context of an engine's device too.
//! A kernel here takes one [`Parameters`]; nothing else is launched.

use std::collections::BTreeMap;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUfunction_attribute_enum as FunctionAttribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg, result};
use cudarc::nvrtc::Ptx;
use sidereal::device::cuda::images::{self, Card as Capabilities};
use sidereal::device::cuda::{self};

use crate::error::{CheckError, calling};
use crate::probe::images as probe_images;
use crate::probe::{Launch, Machine};

/// What a probe is launched with (`ProbeParams` of probes/probe.h).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// Address of the inputs.
    pub input: u64,
    /// Address of the outputs.
    pub output: u64,
    /// Items or rounds.
    pub count: u32,
    /// Nothing.
    pub reserved: u32,
}

// SAFETY: plain integers in C's layout, the kernels' only parameter.
unsafe impl DeviceRepr for Parameters {}

/// A card.
pub struct Card {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    functions: BTreeMap<(&'static str, &'static str), CudaFunction>,
    /// What images have to suit.
    pub capabilities: Capabilities,
    /// Its name.
    pub name: String,
}

impl Card {
    /// Opens card 0.
    pub fn open() -> Result<Card, CheckError> {
        cuda::cards().map_err(|error| CheckError::NoCard(error.to_string()))?;
        let context = CudaContext::new(0).map_err(calling("open card 0"))?;
        // SAFETY: everything here runs on one stream, in order.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(calling("make a stream"))?;
        let (major, minor) = context.compute_capability().map_err(calling("ask for the capability"))?;
        let mut driver = 0;
        // SAFETY: writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut driver) }.result().map_err(calling("ask for the version"))?;
        let capability = 10 * major.unsigned_abs() + minor.unsigned_abs();
        Ok(Card {
            name: context.name().map_err(calling("ask for the name"))?,
            stream,
            context,
            functions: BTreeMap::new(),
            capabilities: Capabilities { capability, driver: driver.unsigned_abs() },
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

    /// Streaming multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).map_or(1, i32::unsigned_abs)
    }

    fn function(&mut self, launch: &Launch) -> Result<CudaFunction, CheckError> {
        let key = (launch.module, launch.kernel);
        if let Some(function) = self.functions.get(&key) {
            return Ok(function.clone());
        }
        let module = probe_images::module(launch.module)?;
        let mut refusals = Vec::new();
        for image in images::choose(module.images, self.capabilities) {
            match self.context.load_module(Ptx::from_binary(image.bytes.to_vec())) {
                Ok(loaded) => {
                    let function = loaded.load_function(launch.kernel).map_err(calling(launch.kernel))?;
                    let most = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    function.set_attribute(most, launch.shared as i32).map_err(calling(launch.kernel))?;
                    return Ok(self.functions.entry(key).or_insert(function).clone());
                }
                Err(error) => refusals.push(format!("{}: {error:?}", image.target)),
            }
        }
        Err(CheckError::Missing(format!(
            "probes/{}.cu: no image suits the card ({})",
            module.name,
            refusals.join("; ")
        )))
    }

    fn enqueue(&mut self, launch: &Launch, parameters: Parameters) -> Result<(), CheckError> {
        let function = self.function(launch)?;
        let config = LaunchConfig {
            grid_dim: (launch.blocks, 1, 1),
            block_dim: (launch.threads, 1, 1),
            shared_mem_bytes: launch.shared,
        };
        let mut builder = self.stream.launch_builder(&function);
        builder.arg(&parameters);
        // SAFETY: the kernel's one parameter is `Parameters`; its addresses are live blocks of the sizes that it was written for.
        unsafe { builder.launch(config) }.map(drop).map_err(calling(launch.kernel))
    }

    /// Milliseconds that `work` took on the card, once for each of `repeats`, after one that is not counted.
    fn time(
        &mut self,
        repeats: usize,
        work: &mut dyn FnMut(&mut Card) -> Result<(), CheckError>,
    ) -> Result<Vec<f32>, CheckError> {
        let event =
            || self.context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(calling("make an event"));
        let (begun, ended) = (event()?, event()?);
        work(self)?;
        let mut times = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            begun.record(&self.stream).map_err(calling("record an event"))?;
            work(self)?;
            ended.record(&self.stream).map_err(calling("record an event"))?;
            ended.synchronize().map_err(calling("wait"))?;
            // SAFETY: two events of this context that note times, both passed.
            let time = unsafe { cuda::elapsed_ms(begun.cu_event(), ended.cu_event()) };
            times.push(time.map_err(calling("elapsed time"))?);
        }
        Ok(times)
    }

    /// Times a kernel that reads and writes nothing but `output_bytes` of scratch.
    pub fn time_kernel(&mut self, launch: &Launch, repeats: usize) -> Result<Vec<f32>, CheckError> {
        let output = Block::new(self, 256)?;
        let parameters = Parameters { input: output.address, output: output.address, count: launch.count, reserved: 0 };
        self.time(repeats, &mut |card| card.enqueue(launch, parameters))
    }

    /// Times a copy of `bytes` from one place of the card to another.
    pub fn time_copy(&mut self, bytes: usize, repeats: usize) -> Result<Vec<f32>, CheckError> {
        let (from, to) = (Block::new(self, bytes)?, Block::new(self, bytes)?);
        self.time(repeats, &mut |card| {
            // SAFETY: both blocks are live and `bytes` long.
            unsafe { result::memcpy_dtod_async(to.address, from.address, bytes, card.stream.cu_stream()) }
                .map_err(calling("copy on the card"))
        })
    }
}

impl Machine for Card {
    fn run(&mut self, launch: &Launch, input: &[u8], output_bytes: usize) -> Result<Vec<u8>, CheckError> {
        let (from, to) = (Block::new(self, input.len())?, Block::new(self, output_bytes)?);
        let mut output = vec![0; output_bytes];
        // SAFETY: the block is as long as the input.
        unsafe { result::memcpy_htod_sync(from.address, input) }.map_err(calling("copy to the card"))?;
        let parameters = Parameters { input: from.address, output: to.address, count: launch.count, reserved: 0 };
        self.enqueue(launch, parameters)?;
        self.stream.synchronize().map_err(calling(launch.kernel))?;
        // SAFETY: the block is as long as the output.
        unsafe { result::memcpy_dtoh_sync(&mut output, to.address) }.map_err(calling("copy from the card"))?;
        Ok(output)
    }
}

/// Memory of the card, all bytes 0xff at first.
struct Block {
    address: u64,
    stream: Arc<CudaStream>,
}

impl Block {
    fn new(card: &Card, bytes: usize) -> Result<Block, CheckError> {
        card.context.bind_to_thread().map_err(calling("bind the context"))?;
        let bytes = bytes.max(1);
        let what = || format!("allocate {bytes} bytes");
        // SAFETY: the size is not zero; freed once, by `Block`.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(calling(what()))?;
        let block = Block { address, stream: Arc::clone(&card.stream) };
        // SAFETY: the block is live and that long.
        unsafe { result::memset_d8_async(address, 0xff, bytes, card.stream.cu_stream()) }.map_err(calling(what()))?;
        card.stream.synchronize().map_err(calling(what()))?;
        Ok(block)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // A broken context has lost its memory anyway.
        let _ = self.stream.synchronize();
        // SAFETY: allocated in `new`, freed once; nothing that was enqueued uses it any more.
        let _ = unsafe { result::free_sync(self.address) };
    }
}
