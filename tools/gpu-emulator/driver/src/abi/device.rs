//! Initialisation, errors' names, the device.

use std::ffi::{c_char, c_int, c_uint};
use std::ptr;

use super::pointers::{In, Out};
use super::{Code, answer};
use crate::attributes;
use crate::driver::{Driver, locked, print_summary};
use crate::status::{CudaError, Outcome};

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
}

extern "C" fn at_exit() {
    print_summary();
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> Code {
    answer(locked(|driver| {
        if flags != 0 {
            return Err(CudaError::InvalidValue);
        }
        if driver.initialise()? {
            // SAFETY: registers a function without arguments that stays loaded: the library is never unloaded by its users, and
            // unloading runs and removes the functions it registered.
            unsafe { atexit(at_exit) };
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: Out<c_int>) -> Code {
    answer(locked(|driver| version.put(driver.version()?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(error: Code, name: Out<*const c_char>) -> Code {
    let known = if error == 0 { Some(c"CUDA_SUCCESS") } else { CudaError::of(error).map(CudaError::name) };
    answer(put_text(known, &name))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(error: Code, text: Out<*const c_char>) -> Code {
    let known = if error == 0 { Some(c"no error") } else { CudaError::of(error).map(CudaError::text) };
    answer(put_text(known, &text))
}

fn put_text(text: Option<&'static std::ffi::CStr>, out: &Out<*const c_char>) -> Outcome<()> {
    match text {
        Some(text) => out.put(text.as_ptr()),
        None => out.put(ptr::null()).and(Err(CudaError::InvalidValue)),
    }
}

/// Answers a question about the device.
fn ask<T>(device: c_int, out: &Out<T>, question: impl FnOnce(&Driver) -> Outcome<T>) -> Code {
    answer(locked(|driver| {
        driver.device(device)?;
        out.put(question(driver)?)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) -> Code {
    ask(ordinal, &device, |_| Ok(0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: Out<c_int>) -> Code {
    ask(0, &count, |_| Ok(1))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetName(name: Out<u8>, room: c_int, device: c_int) -> Code {
    put_string(device, &name, room, attributes::NAME)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetPCIBusId(id: Out<u8>, room: c_int, device: c_int) -> Code {
    put_string(device, &id, room, attributes::PCI_BUS_ID)
}

fn put_string(device: c_int, out: &Out<u8>, room: c_int, text: &str) -> Code {
    answer(locked(|driver| {
        driver.device(device)?;
        let room = usize::try_from(room).ok().filter(|room| *room > 0).ok_or(CudaError::InvalidValue)?;
        let shown = text.bytes().take(room - 1).chain([0]);
        out.put_all(shown, room)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: c_int) -> Code {
    ask(device, &uuid, |_| Ok(attributes::UUID))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: c_int) -> Code {
    ask(device, &uuid, |_| Ok(attributes::UUID))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) -> Code {
    ask(device, &bytes, |driver| Ok(driver.settings()?.memory_bytes as usize))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(value: Out<c_int>, attribute: c_int, device: c_int) -> Code {
    ask(device, &value, |_| attributes::device_attribute(attribute))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceComputeCapability(major: Out<c_int>, minor: Out<c_int>, device: c_int) -> Code {
    ask(device, &major, |_| {
        minor.put(attributes::COMPUTE_CAPABILITY.1)?;
        Ok(attributes::COMPUTE_CAPABILITY.0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceCanAccessPeer(can: Out<c_int>, device: c_int, peer: c_int) -> Code {
    ask(device, &can, |driver| driver.device(peer).map(|()| 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxEnablePeerAccess(_context: u64, _flags: c_uint) -> Code {
    answer(Err(CudaError::PeerAccessUnsupported))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetByPCIBusId(device: Out<c_int>, id: In<u8>) -> Code {
    ask(0, &device, |_| {
        let same = attributes::PCI_BUS_ID.bytes().chain([0]).enumerate().all(|(index, byte)| id.get(index) == Ok(byte));
        if same { Ok(0) } else { Err(CudaError::InvalidDevice) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStart() -> Code {
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStop() -> Code {
    0
}
