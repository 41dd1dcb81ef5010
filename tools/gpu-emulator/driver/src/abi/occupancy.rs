//! Occupancy questions.

use std::ffi::{c_int, c_uint};

use super::pointers::Out;
use super::{Code, answer};
use crate::driver::in_context;
use crate::handle::Handle;
use crate::module::Function;
use crate::occupancy;
use crate::session::find;
use crate::status::{CudaError, Outcome};

/// Dynamic shared memory that a block of so many threads needs.
type SharedBytes = Option<unsafe extern "C" fn(c_int) -> usize>;

fn ask(function: Handle, question: impl FnOnce(&Function) -> Outcome<()>) -> Code {
    answer(in_context(|session| question(find(&session.context.functions, function)?)))
}

fn count(number: c_int) -> Outcome<usize> {
    usize::try_from(number).map_err(|_| CudaError::InvalidValue)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: Out<c_int>,
    function: Handle,
    threads: c_int,
    dynamic_shared_bytes: usize,
) -> Code {
    ask(function, |function| {
        blocks.put(occupancy::blocks_per_multiprocessor(function, count(threads)?, dynamic_shared_bytes)? as c_int)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: Out<c_int>,
    function: Handle,
    threads: c_int,
    dynamic_shared_bytes: usize,
    _flags: c_uint,
) -> Code {
    cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, dynamic_shared_bytes)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: Out<usize>,
    function: Handle,
    blocks: c_int,
    _threads: c_int,
) -> Code {
    ask(function, |function| bytes.put(occupancy::dynamic_shared_bytes(function, count(blocks)?)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: Out<c_int>,
    threads: Out<c_int>,
    function: Handle,
    shared_bytes: SharedBytes,
    dynamic_shared_bytes: usize,
    limit: c_int,
) -> Code {
    let needed = |threads: usize| match shared_bytes {
        // SAFETY: cuda.h asks of the caller a function of one int, callable now.
        Some(function) => unsafe { function(threads as c_int) },
        None => dynamic_shared_bytes,
    };
    ask(function, |function| {
        let (blocks, best) = occupancy::best_block(function, count(limit)?, needed)?;
        grid.put(blocks as c_int)?;
        threads.put(best as c_int)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: Out<c_int>,
    threads: Out<c_int>,
    function: Handle,
    shared_bytes: SharedBytes,
    dynamic_shared_bytes: usize,
    limit: c_int,
    _flags: c_uint,
) -> Code {
    cuOccupancyMaxPotentialBlockSize(grid, threads, function, shared_bytes, dynamic_shared_bytes, limit)
}
