//! Contexts: the primary one, others, and which one a thread works in.

use std::ffi::{c_int, c_uint, c_void};

use super::pointers::Out;
use super::{Code, answer};
use crate::attributes;
use crate::driver::{current, in_context, locked, pop_current, push_current, replace_current};
use crate::handle::Handle;
use crate::status::{CudaError, Outcome};

/// Flags there are: schedules, map host, local memory, coredumps, sync memops.
const CONTEXT_FLAGS: c_uint = 0xff;
/// Limits there are.
const LIMITS: c_uint = 0x0b;
/// `cuCtxGetApiVersion`'s answer since CUDA 3.2.
const API_VERSION: c_uint = 3020;

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: c_int) -> Code {
    answer(locked(|driver| {
        driver.device(device)?;
        context.put(driver.retain_primary()?)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> Code {
    answer(locked(|driver| {
        driver.device(device)?;
        driver.release_primary()
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: c_int) -> Code {
    answer(locked(|driver| {
        driver.device(device)?;
        driver.reset_primary();
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<c_uint>, active: Out<c_int>) -> Code {
    answer(locked(|driver| {
        driver.device(device)?;
        let (set, exists) = driver.primary_state();
        flags.put(set)?;
        active.put(exists.into())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) -> Code {
    answer(locked(|driver| {
        driver.device(device)?;
        driver.set_primary_flags(checked_flags(flags)?);
        Ok(())
    }))
}

fn checked_flags(flags: c_uint) -> Outcome<c_uint> {
    if flags & !CONTEXT_FLAGS == 0 { Ok(flags) } else { Err(CudaError::InvalidValue) }
}

fn create(context: &Out<Handle>, flags: c_uint, device: c_int) -> Code {
    answer(locked(|driver| {
        driver.device(device)?;
        let made = driver.create_context(checked_flags(flags)?)?;
        push_current(made);
        context.put(made)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v2(context: Out<Handle>, flags: c_uint, device: c_int) -> Code {
    create(&context, flags, device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v3(
    context: Out<Handle>,
    _affinity: *mut c_void,
    count: c_int,
    flags: c_uint,
    device: c_int,
) -> Code {
    if count == 0 { create(&context, flags, device) } else { answer(Err(CudaError::NotSupported)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v4(context: Out<Handle>, parameters: *mut c_void, flags: c_uint, device: c_int) -> Code {
    if parameters.is_null() { create(&context, flags, device) } else { answer(Err(CudaError::NotSupported)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: Handle) -> Code {
    answer(locked(|driver| {
        driver.destroy_context(context)?;
        if current() == context {
            pop_current()?;
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Handle) -> Code {
    answer(locked(|driver| {
        if context != 0 {
            driver.check_context(context)?;
        }
        replace_current(context);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(context: Out<Handle>) -> Code {
    answer(locked(|driver| {
        driver.settings()?;
        context.put(current())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: Handle) -> Code {
    answer(locked(|driver| {
        driver.check_context(context)?;
        push_current(context);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPopCurrent_v2(context: Out<Handle>) -> Code {
    answer(locked(|driver| {
        driver.settings()?;
        context.put_if_wanted(pop_current()?);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetDevice(device: Out<c_int>) -> Code {
    answer(locked(|driver| driver.session().and(device.put(0))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetId(context: Handle, id: Out<u64>) -> Code {
    answer(locked(|driver| {
        let context = if context == 0 { current() } else { context };
        driver.check_context(context)?;
        id.put(context)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetApiVersion(_context: Handle, version: Out<c_uint>) -> Code {
    answer(version.put(API_VERSION))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetFlags(flags: Out<c_uint>) -> Code {
    answer(in_context(|session| flags.put(session.context.flags)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(flags: c_uint) -> Code {
    answer(in_context(|session| {
        session.context.flags = checked_flags(flags)?;
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Code {
    answer(in_context(|session| session.wait_for_all()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetLimit(value: Out<usize>, limit: c_uint) -> Code {
    answer(in_context(|session| {
        let set = session.context.limits.get(&limit).copied();
        if limit < LIMITS { value.put(set.unwrap_or(0)) } else { Err(CudaError::InvalidValue) }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(limit: c_uint, value: usize) -> Code {
    answer(in_context(|session| {
        if limit >= LIMITS {
            return Err(CudaError::InvalidValue);
        }
        session.context.limits.insert(limit, value);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCacheConfig(config: Out<c_int>) -> Code {
    answer(in_context(|_| config.put(0)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCacheConfig(_config: c_int) -> Code {
    answer(in_context(|_| Ok(())))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxResetPersistingL2Cache() -> Code {
    answer(in_context(|_| Ok(())))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) -> Code {
    answer(in_context(|_| {
        least.put_if_wanted(attributes::PRIORITIES.0);
        greatest.put_if_wanted(attributes::PRIORITIES.1);
        Ok(())
    }))
}
