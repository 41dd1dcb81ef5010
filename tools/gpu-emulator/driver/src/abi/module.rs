//! Modules and functions.

use std::ffi::{c_char, c_int, c_uint, c_void};

use super::pointers::{HostPointer, In, Out, Text};
use super::{Code, answer};
use crate::attributes;
use crate::driver::{in_context, locked};
use crate::handle::Handle;
use crate::module::{Image, Refusal};
use crate::session::{Session, find, find_mut};
use crate::status::{CudaError, Outcome};

/// `CUjit_option`: where the caller wants to read why.
const ERROR_LOG: c_int = 5;
const ERROR_LOG_BYTES: c_int = 6;

/// Loads an image, or says why not.
fn load(session: &mut Session<'_>, image: HostPointer) -> Result<Handle, Refusal> {
    let plain = |error| Refusal { error, why: String::new() };
    match Image::of(&image.magic().map_err(plain)?) {
        Image::Binary => Err(plain(CudaError::NoBinaryForGpu)),
        Image::Garbage => Err(plain(CudaError::InvalidImage)),
        Image::Text => session.load_ptx(image.text().get().map_err(|_| plain(CudaError::InvalidImage))?),
    }
}

/// Loads an image and tells a refusal of PTX on standard error, where a person looks first.
fn load_and_tell(module: &Out<Handle>, image: HostPointer, log: impl FnOnce(&str)) -> Code {
    answer(in_context(|session| match load(session, image) {
        Ok(handle) => module.put(handle),
        Err(Refusal { error, why }) => {
            if !why.is_empty() {
                eprintln!("gpu-emulator: {error}: {why}");
                log(&why);
            }
            Err(error)
        }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadData(module: Out<Handle>, image: HostPointer) -> Code {
    load_and_tell(&module, image, |_| ())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadFatBinary(module: Out<Handle>, image: HostPointer) -> Code {
    load_and_tell(&module, image, |_| ())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadDataEx(
    module: Out<Handle>,
    image: HostPointer,
    count: c_uint,
    options: In<c_int>,
    values: In<*mut c_void>,
) -> Code {
    let option = |wanted: c_int| {
        (0..count as usize).find_map(|index| (options.get(index) == Ok(wanted)).then(|| values.get(index).ok())?)
    };
    let room = option(ERROR_LOG_BYTES).map_or(0, |value| value as usize);
    load_and_tell(&module, image, |why| {
        let Some(log) = option(ERROR_LOG).filter(|_| room > 0) else { return };
        let text = why.bytes().take(room - 1).chain([0]);
        // The caller's room was checked; a null log is skipped.
        let _ = Out::<u8>::from_untyped(log).put_all(text, room);
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> Code {
    answer(in_context(|session| session.unload(module)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) -> Code {
    answer(in_context(|session| function.put(session.function(module, name.get()?)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) -> Code {
    answer(in_context(|session| {
        let (start, size) = session.variable(module, name.get()?)?;
        address.put_if_wanted(start);
        bytes.put_if_wanted(size as usize);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetLoadingMode(mode: Out<c_int>) -> Code {
    const EAGER: c_int = 1;
    answer(locked(|driver| driver.settings().and(mode.put(EAGER))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncLoad(function: Handle) -> Code {
    answer(in_context(|session| find(&session.context.functions, function).map(|_| ())))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncIsLoaded(state: Out<c_int>, function: Handle) -> Code {
    answer(in_context(|session| find(&session.context.functions, function).and(state.put(1))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetModule(module: Out<Handle>, function: Handle) -> Code {
    answer(in_context(|session| module.put(find(&session.context.functions, function)?.module)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetName(name: Out<*const c_char>, function: Handle) -> Code {
    answer(in_context(|session| name.put(find(&session.context.functions, function)?.name.as_ptr())))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetParamCount(function: Handle, count: Out<usize>) -> Code {
    answer(in_context(|session| count.put(find(&session.context.functions, function)?.code.kernel()?.params().len())))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetParamInfo(function: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) -> Code {
    answer(in_context(|session| {
        let function = find(&session.context.functions, function)?;
        let parameter = function.code.kernel()?.params().get(index).ok_or(CudaError::InvalidValue)?;
        offset.put(parameter.offset)?;
        bytes.put_if_wanted(parameter.bytes);
        Ok(())
    }))
}

/// `CUfunction_attribute`.
const MAX_THREADS: c_int = 0;
const STATIC_SHARED: c_int = 1;
const PTX_VERSION: c_int = 5;
const BINARY_VERSION: c_int = 6;
const MAX_DYNAMIC_SHARED: c_int = 8;
const CARVEOUT: c_int = 9;
const LAST_ATTRIBUTE: c_int = 15;

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetAttribute(value: Out<c_int>, attribute: c_int, function: Handle) -> Code {
    answer(in_context(|session| {
        let function = find(&session.context.functions, function)?;
        let (major, minor) = attributes::COMPUTE_CAPABILITY;
        value.put(match attribute {
            MAX_THREADS => function.code.max_threads()? as c_int,
            STATIC_SHARED => function.code.kernel()?.static_shared_bytes() as c_int,
            PTX_VERSION | BINARY_VERSION => 10 * major + minor,
            MAX_DYNAMIC_SHARED => function.dynamic_shared_limit as c_int,
            CARVEOUT => function.carveout,
            // Registers, constant and local memory are the compiler's, which is not here; clusters are not sm_80's.
            _ if (0..=LAST_ATTRIBUTE).contains(&attribute) => 0,
            _ => return Err(CudaError::InvalidValue),
        })
    }))
}

fn set_attribute(session: &mut Session<'_>, function: Handle, attribute: c_int, value: c_int) -> Outcome<()> {
    let function = find_mut(&mut session.context.functions, function)?;
    match attribute {
        MAX_DYNAMIC_SHARED => {
            let bytes = usize::try_from(value).map_err(|_| CudaError::InvalidValue)?;
            if bytes + function.code.kernel()?.static_shared_bytes() > attributes::SHARED_BYTES_PER_BLOCK_OPTIN {
                return Err(CudaError::InvalidValue);
            }
            function.dynamic_shared_limit = bytes;
        }
        CARVEOUT if (-1..=100).contains(&value) => function.carveout = value,
        _ => return Err(CudaError::InvalidValue),
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: Handle, attribute: c_int, value: c_int) -> Code {
    answer(in_context(|session| set_attribute(session, function, attribute, value)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(function: Handle, _config: c_int) -> Code {
    answer(in_context(|session| find(&session.context.functions, function).map(|_| ())))
}
