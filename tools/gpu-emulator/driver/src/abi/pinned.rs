//! Pinned host memory.

use std::ffi::c_uint;

use super::pointers::{HostPointer, Out};
use super::{Code, answer};
use crate::driver::in_context;
use crate::inject::Kind;
use crate::session::Session;
use crate::status::{CudaError, Outcome};

/// Portable, device map, write combined.
const ALLOCATION_FLAGS: c_uint = 7;
/// Portable, device map; I/O memory and read-only memory are not supported.
const REGISTRATION_FLAGS: c_uint = 3;

fn allocate(session: &mut Session<'_>, bytes: usize, flags: c_uint) -> Outcome<usize> {
    session.refuse_unsafe_call()?;
    session.count_allocation(Kind::Pinned)?;
    session.process.pinned.allocate(bytes, session.context.id, flags)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostAlloc(pointer: Out<usize>, bytes: usize, flags: c_uint) -> Code {
    answer(in_context(|session| match flags {
        0..=ALLOCATION_FLAGS => pointer.put(allocate(session, bytes, flags)?),
        _ => Err(CudaError::InvalidValue),
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocHost_v2(pointer: Out<usize>, bytes: usize) -> Code {
    cuMemHostAlloc(pointer, bytes, 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(pointer: HostPointer) -> Code {
    // As a real driver, waits for all work first: a copy may still want the memory.
    answer(in_context(|session| {
        session.refuse_unsafe_call()?;
        session.run_all()?;
        session.process.pinned.free(pointer.address(), session.context.id)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(pointer: HostPointer, bytes: usize, flags: c_uint) -> Code {
    answer(in_context(|session| {
        session.refuse_unsafe_call()?;
        if flags > REGISTRATION_FLAGS {
            return Err(CudaError::NotSupported);
        }
        let owner = (session.context.id, flags);
        // SAFETY: cuda.h asks of the caller what `register` does.
        unsafe { session.process.pinned.register(pointer.address(), bytes, owner) }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(pointer: HostPointer) -> Code {
    answer(in_context(|session| {
        session.refuse_unsafe_call()?;
        session.run_all()?;
        session.process.pinned.unregister(pointer.address())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostGetFlags(flags: Out<c_uint>, pointer: HostPointer) -> Code {
    answer(in_context(|session| {
        flags.put(session.process.pinned.flags(pointer.address()).ok_or(CudaError::InvalidValue)?)
    }))
}
