//! What the stand-in cuBLASLt asks of this driver, where NVIDIA's two libraries have interfaces of their own.

use gpu_emulator::product::Product;

use super::pointers::In;
use super::stream::on_stream;
use super::{Code, answer};
use crate::driver::in_context;
use crate::handle::Handle;

/// Enqueues a product.
#[unsafe(no_mangle)]
pub extern "C" fn emulatedProduct(product: In<Product>, stream: Handle) -> Code {
    on_stream(stream, |session, stream| session.multiply(product.get(0)?, stream))
}

/// Whether a call that enqueues nothing may go on: there is a context, and no fault was asked for.
#[unsafe(no_mangle)]
pub extern "C" fn emulatedCublasCall() -> Code {
    answer(in_context(|session| session.count_cublas()))
}
