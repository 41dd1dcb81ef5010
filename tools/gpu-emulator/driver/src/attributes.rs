//! What the device says of itself: an sm_80 card with the figures of NVIDIA's documentation, and few multiprocessors, since blocks
//! run one after another here.
//!
//! Attributes of things this driver does not do (textures, managed memory, peers, cooperative launches) are 0.

use crate::status::{CudaError, Outcome};

/// The card's name.
pub const NAME: &str = "gpu-emulator (no GPU: PTX run on the CPU)";
/// Major and minor.
pub const COMPUTE_CAPABILITY: (i32, i32) = (8, 0);
/// Threads of a block.
pub const MAX_THREADS_PER_BLOCK: usize = 1024;
/// Block sizes.
pub const MAX_BLOCK: [i32; 3] = [1024, 1024, 64];
/// Grid sizes.
pub const MAX_GRID: [i32; 3] = [i32::MAX, 65_535, 65_535];
/// Shared memory of a block that a kernel need not ask for: 48 KiB.
pub const SHARED_BYTES_PER_BLOCK: usize = 48 << 10;
/// Shared memory of a block that a kernel can ask for: 163 KiB.
pub const SHARED_BYTES_PER_BLOCK_OPTIN: usize = 163 << 10;
/// Shared memory of a multiprocessor: 164 KiB.
pub const SHARED_BYTES_PER_MULTIPROCESSOR: usize = 164 << 10;
/// Shared memory the system takes of each block.
pub const RESERVED_SHARED_BYTES: usize = 1 << 10;
/// Threads of a multiprocessor.
pub const MAX_THREADS_PER_MULTIPROCESSOR: usize = 2048;
/// Blocks of a multiprocessor.
pub const MAX_BLOCKS_PER_MULTIPROCESSOR: usize = 32;
/// Multiprocessors.
pub const MULTIPROCESSORS: usize = 4;
/// Threads of a warp.
pub const WARP_THREADS: usize = 32;
/// Stream priorities, least and greatest.
pub const PRIORITIES: (i32, i32) = (0, -5);
/// Sixteen bytes that name the card.
pub const UUID: [u8; 16] = *b"gpu-emulator-000";
/// Where the card would be.
pub const PCI_BUS_ID: &str = "0000:00:00.0";

const REGISTERS: i32 = 65_536;
const HIGHEST_ATTRIBUTE: i32 = 162;

/// `cuDeviceGetAttribute`: the numbers are `CUdevice_attribute`'s.
pub fn device_attribute(number: i32) -> Outcome<i32> {
    Ok(match number {
        1 => MAX_THREADS_PER_BLOCK as i32,
        2..=4 => MAX_BLOCK[number as usize - 2],
        5..=7 => MAX_GRID[number as usize - 5],
        8 => SHARED_BYTES_PER_BLOCK as i32,
        9 => 64 << 10, // total constant memory
        10 => WARP_THREADS as i32,
        11 => i32::MAX,       // maximum pitch
        12 | 82 => REGISTERS, // of a block, of a multiprocessor
        13 => 1_410_000,      // clock, kHz
        14 => 512,            // texture alignment
        15 => 1,              // copies overlap kernels
        16 => MULTIPROCESSORS as i32,
        30 => 512,       // surface alignment
        31 => 1,         // concurrent kernels
        36 => 1_215_000, // memory clock, kHz
        37 => 5_120,     // bus width, bits
        38 => 40 << 20,  // L2
        39 => MAX_THREADS_PER_MULTIPROCESSOR as i32,
        40 => 2,  // copy engines
        41 => 1,  // unified addressing
        51 => 32, // texture pitch alignment
        75 => COMPUTE_CAPABILITY.0,
        76 => COMPUTE_CAPABILITY.1,
        78..=80 => 1, // stream priorities, L1 caches globals, L1 caches locals
        81 => SHARED_BYTES_PER_MULTIPROCESSOR as i32,
        87 => 2, // single to double precision
        90 => 1, // compute preemption
        97 => SHARED_BYTES_PER_BLOCK_OPTIN as i32,
        99 => 1, // host memory can be registered
        106 => MAX_BLOCKS_PER_MULTIPROCESSOR as i32,
        111 => RESERVED_SHARED_BYTES as i32,
        115 => 1, // memory pools
        126 => 1, // memory synchronisation domains
        _ if (1..=HIGHEST_ATTRIBUTE).contains(&number) => 0,
        _ => return Err(CudaError::InvalidValue),
    })
}
