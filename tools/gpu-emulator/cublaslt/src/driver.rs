//! The stand-in driver that the process has loaded.

use std::sync::OnceLock;

use gpu_emulator::product::Product;
use libloading::Library;

use crate::status::{Outcome, Refusal};

type Multiply = unsafe extern "C" fn(*const Product, usize) -> i32;
type Count = unsafe extern "C" fn() -> i32;

struct Driver {
    multiply: Multiply,
    count: Count,
}

/// The driver's two functions for this library; another driver has none.
fn driver() -> Outcome<&'static Driver> {
    static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();
    let find = || {
        // SAFETY: the stand-in driver's initialisers ask nothing of their caller, and it is loaded already.
        let library = unsafe { Library::new("libcuda.so.1") }.ok()?;
        // SAFETY: the types are the functions' in the driver's abi/cublaslt.rs.
        let (multiply, count) = unsafe {
            (*library.get::<Multiply>(b"emulatedProduct").ok()?, *library.get::<Count>(b"emulatedCublasCall").ok()?)
        };
        std::mem::forget(library);
        Some(Driver { multiply, count })
    };
    DRIVER.get_or_init(find).as_ref().ok_or(Refusal::NotInitialized)
}

/// Enqueues a product on a stream of the current context.
pub fn multiply(product: &Product, stream: usize) -> Outcome<()> {
    // SAFETY: the product is read during the call; a stream that is none is refused.
    match unsafe { (driver()?.multiply)(product, stream) } {
        0 => Ok(()),
        _ => Err(Refusal::ExecutionFailed),
    }
}

/// Whether a call that enqueues nothing may go on.
pub fn count_call() -> Outcome<()> {
    // SAFETY: takes nothing.
    match unsafe { (driver()?.count)() } {
        0 => Ok(()),
        // CUDA_ERROR_INVALID_CONTEXT
        201 => Err(Refusal::NotInitialized),
        _ => Err(Refusal::InternalError),
    }
}
