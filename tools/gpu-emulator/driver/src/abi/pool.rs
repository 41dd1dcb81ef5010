//! Memory pools: there is one, and it keeps nothing back.

use std::ffi::{c_int, c_void};

use super::pointers::Out;
use super::stream::on_stream;
use super::{Code, answer};
use crate::driver::{in_context, locked};
use crate::handle::Handle;
use crate::status::{CudaError, Outcome};

/// The default pool's handle, below those of objects.
const POOL: Handle = 0x800;

/// `CUmemPool_attribute`: three switches (32 bits), then sizes (64 bits).
const LAST_SWITCH: c_int = 3;
const RELEASE_THRESHOLD: c_int = 4;
const RESERVED_NOW: c_int = 5;
const RESERVED_PEAK: c_int = 6;
const USED_NOW: c_int = 7;
const USED_PEAK: c_int = 8;

fn check(pool: Handle) -> Outcome<()> {
    if pool == POOL { Ok(()) } else { Err(CudaError::InvalidValue) }
}

fn put_pool(pool: &Out<Handle>, device: c_int) -> Code {
    answer(locked(|driver| {
        driver.device(device)?;
        pool.put(POOL)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: c_int) -> Code {
    put_pool(&pool, device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetMemPool(pool: Out<Handle>, device: c_int) -> Code {
    put_pool(&pool, device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceSetMemPool(device: c_int, pool: Handle) -> Code {
    answer(locked(|driver| {
        driver.device(device)?;
        check(pool)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle, stream: Handle) -> Code {
    on_stream(stream, |session, stream| {
        check(pool)?;
        session.refuse_while_capturing(stream)?;
        address.put(session.allocate(bytes)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(pool: Handle, _bytes_to_keep: usize) -> Code {
    answer(check(pool))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolSetAttribute(pool: Handle, attribute: c_int, _value: *mut c_void) -> Code {
    // Accepted without effect: memory goes back at once, whatever the threshold says.
    answer(check(pool).and(match attribute {
        1..=USED_PEAK => Ok(()),
        _ => Err(CudaError::InvalidValue),
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolGetAttribute(pool: Handle, attribute: c_int, value: *mut c_void) -> Code {
    answer(in_context(|session| {
        check(pool)?;
        let used = session.context.memory.used();
        match attribute {
            1..=LAST_SWITCH => Out::from_untyped(value).put(1 as c_int),
            RELEASE_THRESHOLD => Out::from_untyped(value).put(0_u64),
            RESERVED_NOW | USED_NOW => Out::from_untyped(value).put(used),
            // The highest values so far are not kept.
            RESERVED_PEAK | USED_PEAK => Err(CudaError::NotSupported),
            _ => Err(CudaError::InvalidValue),
        }
    }))
}
