//! Occupancy: how many blocks of a kernel a multiprocessor holds, by threads, blocks and shared memory.
//!
//! Registers do not count: PTX has no registers of the kind that run out, so real cards may hold fewer.

use crate::attributes::{
    MAX_BLOCKS_PER_MULTIPROCESSOR, MAX_THREADS_PER_MULTIPROCESSOR, MULTIPROCESSORS, RESERVED_SHARED_BYTES,
    SHARED_BYTES_PER_BLOCK_OPTIN, SHARED_BYTES_PER_MULTIPROCESSOR, WARP_THREADS,
};
use crate::module::Function;
use crate::status::{CudaError, Outcome};

/// Blocks of so many threads and so much dynamic shared memory on one multiprocessor.
pub fn blocks_per_multiprocessor(function: &Function, threads: usize, dynamic_shared_bytes: usize) -> Outcome<usize> {
    if threads == 0 {
        return Err(CudaError::InvalidValue);
    }
    let shared = function.code.kernel()?.static_shared_bytes() + dynamic_shared_bytes;
    if threads > function.code.max_threads()? || shared > SHARED_BYTES_PER_BLOCK_OPTIN {
        return Ok(0);
    }
    let by_threads = MAX_THREADS_PER_MULTIPROCESSOR / threads.next_multiple_of(WARP_THREADS);
    let by_shared = SHARED_BYTES_PER_MULTIPROCESSOR / (shared + RESERVED_SHARED_BYTES);
    Ok(by_threads.min(by_shared).min(MAX_BLOCKS_PER_MULTIPROCESSOR))
}

/// Dynamic shared memory each of so many blocks can have.
pub fn dynamic_shared_bytes(function: &Function, blocks: usize) -> Outcome<usize> {
    let share = SHARED_BYTES_PER_MULTIPROCESSOR.checked_div(blocks).ok_or(CudaError::InvalidValue)?;
    let share = share.saturating_sub(RESERVED_SHARED_BYTES).min(SHARED_BYTES_PER_BLOCK_OPTIN);
    Ok(share.saturating_sub(function.code.kernel()?.static_shared_bytes()))
}

/// The largest block that keeps most threads at work, and how many such blocks fill the device.
pub fn best_block(function: &Function, limit: usize, shared_bytes: impl Fn(usize) -> usize) -> Outcome<(usize, usize)> {
    let largest = function.code.max_threads()?.min(if limit == 0 { usize::MAX } else { limit });
    let mut best = (0, 0, 0);
    for threads in (WARP_THREADS..=largest).step_by(WARP_THREADS) {
        let blocks = blocks_per_multiprocessor(function, threads, shared_bytes(threads))?;
        best = best.max((blocks * threads, threads, blocks));
    }
    match best {
        (0, ..) => Err(CudaError::InvalidValue),
        (_, threads, blocks) => Ok((blocks * MULTIPROCESSORS, threads)),
    }
}
