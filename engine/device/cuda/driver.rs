//! The driver behind checked calls: a context, the two queues as streams, the kernels by name, copies, events.
//!
//! Everything here takes addresses that [`super::memory::Memory`] handed out, so every `unsafe` block of this device rests on
//! one invariant: memory is freed only when the whole device is dropped, after its queues have run dry. Nothing here knows an
//! operation.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUfunction_attribute_enum as FunctionAttribute};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaStream, DeviceRepr, DriverError, LaunchConfig,
    PushKernelArg, result,
};
use cudarc::nvrtc::Ptx;
use sidereal_ffi::params::KernelParams;

use super::images::Card;
use crate::device::{DeviceError, Queue};

/// A kernel of the images: which module holds it, and the dynamic shared memory it may be launched with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// File in `kernels/`, without its ending.
    pub(super) module: &'static str,
    pub(super) name: &'static str,
    /// Most bytes of dynamic shared memory of any launch, on a card that has them.
    pub(super) dynamic_shared: u32,
}

/// Where a launch runs and in what shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) queue: Queue,
    pub(super) grid: [u32; 3],
    pub(super) threads: u32,
    pub(super) dynamic_shared: u32,
}

/// A parameter struct as the driver takes it.
#[repr(transparent)]
struct Parameters<P>(P);

// SAFETY: `KernelParams` are the generated `repr(C)` structs of plain integers and floats that kernels declare as their only
// parameter.
unsafe impl<P: KernelParams> DeviceRepr for Parameters<P> {}

/// A captured sequence of operations.
pub(super) struct Recording(CudaGraph);

// SAFETY: a graph may be used by one thread at a time (CUDA, "graphs thread safety"), and a device is owned by one thread.
unsafe impl Send for Recording {}

/// A marker in a queue.
pub(super) struct Marker(CudaEvent);

/// A marker that knows when it was passed.
pub(super) struct Timestamp(CudaEvent);

/// The card, as far as it matters here.
#[derive(Clone, Debug)]
pub(super) struct CardFacts {
    pub(super) name: String,
    /// What images have to suit.
    pub(super) card: Card,
    pub(super) multiprocessors: u32,
    /// Most bytes of shared memory that a block may have.
    pub(super) block_shared: u32,
}

/// One context with its queues and kernels.
pub(super) struct Driver {
    context: Arc<CudaContext>,
    prefill: Arc<CudaStream>,
    search: Arc<CudaStream>,
    functions: BTreeMap<&'static str, CudaFunction>,
    facts: CardFacts,
}

/// What went wrong once the device works: the context counts as broken for good.
pub(super) fn failed(op: &'static str, error: DriverError) -> DeviceError {
    DeviceError::Lost { op, reason: text(error) }
}

/// Name and description of an error.
fn text(error: DriverError) -> String {
    let text = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| format!("{:?}", error.0), |text| text.to_string_lossy().into_owned())
    };
    format!("{}: {}", text(error.error_name()), text(error.error_string()))
}

/// Whether a driver can be loaded at all.
pub(super) fn is_present() -> bool {
    // SAFETY: only looks for the library.
    unsafe { sys::is_culib_present() }
}

/// Loads a kernel's code. Drivers leave that to its first launch (lazy loading), which may be within a recording, where a
/// driver must not wait for the card, and is a request's time in any case.
fn load_now(function: &CudaFunction) -> Result<(), DriverError> {
    type Load = unsafe extern "C" fn(sys::CUfunction) -> sys::CUresult;
    // SAFETY: a context is current, so the library is there; the type is the function's in cuda.h.
    let load = unsafe { sys::culib().get::<Load>(b"cuFuncLoad") };
    // Drivers before 12.4 cannot be asked: theirs is loaded at the first launch.
    let Ok(load) = load else { return Ok(()) };
    // SAFETY: a function of a module of the current context.
    unsafe { load(function.cu_function()) }.result()
}

/// Number of cards, or why there are none.
pub(super) fn count() -> Result<u32, DeviceError> {
    if !is_present() {
        return Err(DeviceError::Unavailable(
            "no CUDA driver (libcuda.so.1) on this machine; --device cpu needs none".to_owned(),
        ));
    }
    let none = |error| DeviceError::Unavailable(format!("the CUDA driver does not start: {}", text(error)));
    result::init().map_err(none)?;
    let count = result::device::get_count().map_err(none)?;
    match u32::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(DeviceError::Unavailable("the CUDA driver is there, but no card".to_owned())),
    }
}

impl Driver {
    /// Opens card `ordinal`; kernels are loaded afterwards.
    pub(super) fn open(ordinal: u32) -> Result<Driver, DeviceError> {
        let cards = count()?;
        if ordinal >= cards {
            return Err(DeviceError::Unavailable(format!("no card {ordinal}: the driver knows {cards}")));
        }
        let start = |error| DeviceError::Unavailable(format!("card {ordinal} does not start: {}", text(error)));
        // Releasing the primary context leaves it current on the thread, destroyed: the bindings, who ask for the current one
        // first, are to meet nothing of a device that was lost here.
        // SAFETY: the driver has started; no context at all is a state that every call here expects.
        unsafe { result::ctx::set_current(ptr::null_mut()) }.map_err(start)?;
        let context = CudaContext::new(ordinal as usize).map_err(start)?;
        // SAFETY: this device orders its queues itself, by markers.
        unsafe { context.disable_event_tracking() };
        let (major, minor) = context.compute_capability().map_err(start)?;
        let attribute = |which| context.attribute(which).map(|value| value.unsigned_abs()).map_err(start);
        let mut driver_version = 0;
        // SAFETY: writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut driver_version) }.result().map_err(start)?;
        let name = context.name().map_err(start)?;
        if major < 8 {
            return Err(DeviceError::Unavailable(format!(
                "card {ordinal} ({name}) has compute capability {major}.{minor}; 8.0 is needed"
            )));
        }
        let facts = CardFacts {
            name,
            card: Card {
                capability: 10 * major.unsigned_abs() + minor.unsigned_abs(),
                driver: driver_version.unsigned_abs(),
            },
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            block_shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        };
        // Search goes first where both want the card: its requests have waited longer.
        let search = context.new_stream_with_priority(-1).map_err(start)?;
        let prefill = context.new_stream_with_priority(0).map_err(start)?;
        Ok(Driver { context, prefill, search, functions: BTreeMap::new(), facts })
    }

    pub(super) fn facts(&self) -> &CardFacts {
        &self.facts
    }

    /// Loads an image.
    pub(super) fn load(&self, image: &[u8]) -> Result<Arc<CudaModule>, DriverError> {
        self.context.load_module(Ptx::from_binary(image.to_vec()))
    }

    /// Finds a kernel in a loaded module and allows it its shared memory.
    pub(super) fn add_kernel(&mut self, module: &Arc<CudaModule>, kernel: &Kernel) -> Result<(), DeviceError> {
        let start = |error| failed(kernel.name, error);
        let function = module.load_function(kernel.name).map_err(start)?;
        load_now(&function).map_err(start)?;
        if kernel.dynamic_shared > 48 << 10 {
            let most = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = kernel.dynamic_shared.min(self.facts.block_shared);
            function.set_attribute(most, bytes as i32).map_err(start)?;
        }
        self.functions.insert(kernel.name, function);
        Ok(())
    }

    /// Makes the context this thread's, for calls past this file.
    pub(super) fn bind(&self) -> Result<(), DriverError> {
        self.context.bind_to_thread()
    }

    /// A queue as other libraries of CUDA's know it.
    pub(super) fn raw_stream(&self, queue: Queue) -> sys::CUstream {
        self.stream(queue).cu_stream()
    }

    fn stream(&self, queue: Queue) -> &Arc<CudaStream> {
        match queue {
            Queue::Prefill => &self.prefill,
            Queue::Search => &self.search,
        }
    }

    /// Enqueues a kernel. An empty grid is nothing to do.
    ///
    /// # Panics
    /// If the kernel is in no module's list, or wants more shared memory than it said.
    pub(super) fn launch<P: KernelParams>(
        &self,
        kernel: &Kernel,
        shape: Shape,
        parameters: P,
    ) -> Result<(), DeviceError> {
        if shape.grid.contains(&0) {
            return Ok(());
        }
        assert!(shape.dynamic_shared <= kernel.dynamic_shared, "{}: {shape:?}", kernel.name);
        let function = self.functions.get(kernel.name).unwrap_or_else(|| panic!("{} was not loaded", kernel.name));
        let parameters = Parameters(parameters);
        let config = LaunchConfig {
            grid_dim: shape.grid.into(),
            block_dim: (shape.threads, 1, 1),
            shared_mem_bytes: shape.dynamic_shared,
        };
        let mut launch = self.stream(shape.queue).launch_builder(function);
        launch.arg(&parameters);
        // SAFETY: the kernel's one parameter is `P`; the addresses in it are of planned memory that outlives the queues.
        unsafe { launch.launch(config) }.map(drop).map_err(|error| failed(kernel.name, error))
    }

    /// Allocates device memory.
    pub(super) fn allocate(&self, bytes: usize) -> Result<u64, DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: the size is not zero; whoever gets the address frees it once.
        unsafe { result::malloc_sync(bytes.max(1)) }
    }

    /// Frees what [`Driver::allocate`] gave. An error means that the context is broken, and its memory gone with it.
    pub(super) fn free(&self, address: u64) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: `Memory` calls this once for each address, when nothing is enqueued any more.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    /// (free, total) bytes of the card.
    pub(super) fn memory(&self) -> Result<(usize, usize), DriverError> {
        self.context.mem_get_info()
    }

    /// Enqueues zeroing.
    pub(super) fn zero(&self, queue: Queue, address: u64, bytes: usize) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: the range is planned memory.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream(queue).cu_stream()) }
    }

    /// Copies to the card and waits. Planning and inspection only.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        // On a queue, and waited for: a synchronous copy from pageable memory may return while its last part is still on its
        // way, and the queues do not wait for the default stream that it is on.
        // SAFETY: the range is planned memory of at least that size, and the source outlives the wait.
        unsafe { result::memcpy_htod_async(address, bytes, self.search.cu_stream()) }?;
        self.search.synchronize()
    }

    /// Copies from the card and waits. Inspection only.
    pub(super) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: the range is planned memory of at least that size.
        unsafe { result::memcpy_dtoh_sync(bytes, address) }
    }

    /// Enqueues a copy from pinned memory.
    ///
    /// # Safety
    /// `from` stays valid and unchanged until the copy has run.
    pub(super) unsafe fn enqueue_write(&self, queue: Queue, address: u64, from: &[u32]) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: the range is planned memory; the source is the caller's promise.
        unsafe { result::memcpy_htod_async(address, from, self.stream(queue).cu_stream()) }
    }

    /// Enqueues a copy to pinned memory.
    ///
    /// # Safety
    /// `to` stays valid and unread until the copy has run.
    pub(super) unsafe fn enqueue_read(&self, queue: Queue, address: u64, to: &mut [u32]) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: the range is planned memory; the target is the caller's promise.
        unsafe { result::memcpy_dtoh_async(to, address, self.stream(queue).cu_stream()) }
    }

    /// Page-locked host memory of `words` zeroed `u32`s, for `what`.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] where the system locks no more.
    pub(super) fn pin(&self, what: &str, words: usize) -> Result<Pinned, DeviceError> {
        let bytes = words.max(1) * size_of::<u32>();
        self.context.bind_to_thread().map_err(|error| failed("pin", error))?;
        // SAFETY: plain memory (no flags: cached, so that it is fast to read); freed by `Pinned`.
        let base = match unsafe { result::malloc_host(bytes, 0) } {
            Ok(base) => base.cast::<u32>(),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let what = format!("{what}, page-locked on the host");
                let reason = "the system locks no more memory".to_owned();
                return Err(DeviceError::OutOfMemory { what, bytes, reason });
            }
            Err(error) => return Err(failed("pin", error)),
        };
        // SAFETY: the block is `bytes` long and no one else has it.
        unsafe { base.write_bytes(0, words.max(1)) };
        Ok(Pinned { base, words, context: Arc::clone(&self.context) })
    }

    /// A marker that nothing has passed yet.
    pub(super) fn marker(&self) -> Result<Marker, DriverError> {
        self.context.new_event(None).map(Marker)
    }

    /// Puts the marker behind what is enqueued.
    pub(super) fn mark(&self, queue: Queue, marker: &Marker) -> Result<(), DriverError> {
        marker.0.record(self.stream(queue))
    }

    /// What is enqueued from now on waits for the marker.
    pub(super) fn follow(&self, queue: Queue, marker: &Marker) -> Result<(), DriverError> {
        self.stream(queue).wait(&marker.0)
    }

    /// Waits on the host.
    pub(super) fn wait(&self, marker: &Marker) -> Result<(), DriverError> {
        marker.0.synchronize()
    }

    /// Whether the marker has been passed.
    pub(super) fn is_passed(&self, marker: &Marker) -> Result<bool, DriverError> {
        marker.0.try_is_complete()
    }

    /// The time at which what is enqueued will be done; `used` is a timestamp that nobody asks any more.
    pub(super) fn stamp(&self, queue: Queue, used: Option<Timestamp>) -> Result<Timestamp, DriverError> {
        let event = match used {
            Some(stamp) => stamp.0,
            None => self.context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))?,
        };
        event.record(self.stream(queue))?;
        Ok(Timestamp(event))
    }

    /// Time between two timestamps, or `None` while the later one lies ahead.
    pub(super) fn elapsed(&self, from: &Timestamp, to: &Timestamp) -> Result<Option<Duration>, DriverError> {
        if !to.0.try_is_complete()? {
            return Ok(None);
        }
        self.context.bind_to_thread()?;
        // SAFETY: both are events of this context that note times.
        let ms = unsafe { sidereal_card::elapsed_ms(from.0.cu_event(), to.0.cu_event()) }?;
        Ok(Some(Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3)))
    }

    /// Waits on the host for everything.
    pub(super) fn drain(&self) -> Result<(), DriverError> {
        self.prefill.synchronize()?;
        self.search.synchronize()
    }

    /// Operations of a queue are recorded from now on instead of run.
    pub(super) fn begin_recording(&self, queue: Queue) -> Result<(), DriverError> {
        self.stream(queue).begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    }

    /// Ends a recording; `None` if it is empty.
    pub(super) fn end_recording(&self, queue: Queue) -> Result<Option<Recording>, DriverError> {
        Ok(self.stream(queue).end_capture(sys::CUgraphInstantiate_flags(0))?.map(Recording))
    }

    /// Enqueues a recording on its queue.
    pub(super) fn replay(&self, recording: &Recording) -> Result<(), DriverError> {
        recording.0.launch()
    }
}

/// Page-locked host memory.
pub(super) struct Pinned {
    base: *mut u32,
    words: usize,
    context: Arc<CudaContext>,
}

// SAFETY: the block belongs to this value alone.
unsafe impl Send for Pinned {}

impl std::ops::Deref for Pinned {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        // SAFETY: allocated with this length and zeroed.
        unsafe { std::slice::from_raw_parts(self.base, self.words) }
    }
}

impl std::ops::DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: allocated with this length and zeroed; borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.words) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: allocated by `malloc_host`, freed once.
            let _ = unsafe { result::free_host(self.base.cast::<c_void>()) };
        }
    }
}
