//! Device memory: allocation, copies, memsets.

use std::ffi::{c_int, c_uint, c_void};

use super::pointers::{HostPointer, Out};
use super::stream::on_stream;
use super::{Code, answer};
use crate::driver::in_context;
use crate::handle::Handle;
use crate::session::Session;
use crate::status::{CudaError, Outcome};
use crate::work::Fill;

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) -> Code {
    answer(in_context(|session| {
        session.refuse_unsafe_call()?;
        address.put(session.allocate(bytes)?)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Code {
    answer(in_context(|session| session.free(address)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) -> Code {
    // The address is the caller's at once: no later call can tell that from an allocation made when the stream gets there.
    on_stream(stream, |session, stream| {
        session.refuse_while_capturing(stream)?;
        address.put(session.allocate(bytes)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, stream: Handle) -> Code {
    on_stream(stream, |session, stream| session.free_in_order(address, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> Code {
    answer(in_context(|session| {
        let memory = &session.context.memory;
        free.put((memory.capacity() - memory.used()) as usize)?;
        total.put(memory.capacity() as usize)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) -> Code {
    answer(in_context(|session| {
        let (start, size) = session.context.allocations.around(address).ok_or(CudaError::NotFound)?;
        base.put_if_wanted(start);
        bytes.put_if_wanted(size as usize);
        Ok(())
    }))
}

/// Makes a call in the legacy stream and waits for it.
fn blocking(call: impl FnOnce(&mut Session<'_>, Handle) -> Outcome<()>) -> Code {
    answer(in_context(|session| session.blocking(call)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoD_v2(to: u64, from: HostPointer, bytes: usize) -> Code {
    blocking(|session, stream| session.upload(to, from.bytes(bytes)?, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: HostPointer, bytes: usize, stream: Handle) -> Code {
    on_stream(stream, |session, stream| session.upload(to, from.bytes(bytes)?, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoH_v2(mut to: HostPointer, from: u64, bytes: usize) -> Code {
    blocking(|session, stream| session.download(to.buffer(bytes)?, from, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(mut to: HostPointer, from: u64, bytes: usize, stream: Handle) -> Code {
    on_stream(stream, |session, stream| session.download(to.buffer(bytes)?, from, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> Code {
    blocking(|session, stream| session.copy(to, from, bytes, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> Code {
    on_stream(stream, |session, stream| session.copy(to, from, bytes, stream))
}

/// A copy between contexts, which must both be this one: there are no peers.
fn copy_between(
    session: &mut Session<'_>,
    contexts: [Handle; 2],
    copy: (u64, u64, usize),
    stream: Handle,
) -> Outcome<()> {
    if contexts.iter().any(|context| *context != session.context.id) {
        return Err(CudaError::PeerAccessUnsupported);
    }
    let (to, from, bytes) = copy;
    session.copy(to, from, bytes, stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeer(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) -> Code {
    blocking(|session, stream| copy_between(session, [to_context, from_context], (to, from, bytes), stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    to_context: Handle,
    from: u64,
    from_context: Handle,
    bytes: usize,
    stream: Handle,
) -> Code {
    on_stream(stream, |session, stream| copy_between(session, [to_context, from_context], (to, from, bytes), stream))
}

fn fill8(address: u64, value: u8, count: usize) -> Fill {
    Fill { address, value: [value, 0, 0, 0], width: 1, count }
}

fn fill16(address: u64, value: u16, count: usize) -> Fill {
    Fill { address, value: u32::from(value).to_le_bytes(), width: 2, count }
}

fn fill32(address: u64, value: u32, count: usize) -> Fill {
    Fill { address, value: value.to_le_bytes(), width: 4, count }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(address: u64, value: u8, count: usize) -> Code {
    blocking(|session, stream| session.fill(fill8(address, value, count), stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(address: u64, value: u8, count: usize, stream: Handle) -> Code {
    on_stream(stream, |session, stream| session.fill(fill8(address, value, count), stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16_v2(address: u64, value: u16, count: usize) -> Code {
    blocking(|session, stream| session.fill(fill16(address, value, count), stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(address: u64, value: u16, count: usize, stream: Handle) -> Code {
    on_stream(stream, |session, stream| session.fill(fill16(address, value, count), stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(address: u64, value: c_uint, count: usize) -> Code {
    blocking(|session, stream| session.fill(fill32(address, value, count), stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(address: u64, value: c_uint, count: usize, stream: Handle) -> Code {
    on_stream(stream, |session, stream| session.fill(fill32(address, value, count), stream))
}

/// `CU_POINTER_ATTRIBUTE_CONTEXT`, `_MEMORY_TYPE`, `_DEVICE_ORDINAL`.
const POINTER_CONTEXT: c_int = 1;
const POINTER_MEMORY_TYPE: c_int = 2;
const POINTER_DEVICE: c_int = 9;
/// `CU_MEMORYTYPE_HOST` and `_DEVICE`.
const HOST_MEMORY: c_int = 1;
const DEVICE_MEMORY: c_int = 2;

#[unsafe(no_mangle)]
pub extern "C" fn cuPointerGetAttribute(data: *mut c_void, attribute: c_int, address: u64) -> Code {
    answer(in_context(|session| {
        let on_device = session.context.allocations.contains(address, 1);
        let on_host = session.process.pinned.flags(address as usize).is_some();
        if !on_device && !on_host {
            return Err(CudaError::InvalidValue);
        }
        match attribute {
            POINTER_CONTEXT => Out::from_untyped(data).put(session.context.id),
            POINTER_MEMORY_TYPE => Out::from_untyped(data).put(if on_device { DEVICE_MEMORY } else { HOST_MEMORY }),
            POINTER_DEVICE => Out::from_untyped(data).put(0 as c_int),
            _ => Err(CudaError::NotSupported),
        }
    }))
}
