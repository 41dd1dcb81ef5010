//! Runs a grid: blocks one after another, a block's warps in turn, a warp's lanes in lockstep.
//!
//! Blocks run in index order and a warp runs until it must wait, so a launch's result depends on its inputs alone. A block that
//! waits for a later block never gets what it waits for; it ends as [`Fault::Runaway`].

mod access;
mod alu;
mod alu_bits;
mod alu_int;
mod atomic;
mod block;
mod clocks;
mod collective;
mod copy;
mod matrix;
mod order;
mod registers;
mod shared;
mod warp;

use crate::fault::{Fault, Site};
use crate::ir::{Instr, Preset};
use crate::memory::GlobalMemory;
use crate::memory::race::MAX_BLOCKS;
use crate::ptx::Kernel;
use block::Block;
use order::BlockOrder;
use registers::LANES;
use shared::Shared;

/// The hardware's limits on a launch (compute capability 8.0).
const MAX_THREADS: u64 = 1024;
const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
const MAX_SHARED_BYTES: usize = 163 * 1024;
const MAX_LOCAL_BYTES: usize = 512 * 1024;

/// Shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Shared memory beyond what the kernel declares.
    pub dynamic_shared_bytes: u32,
}

/// What a launch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Instructions executed, counted once a warp.
    pub warp_instructions: u64,
    /// Instructions executed, counted once an active thread.
    pub thread_instructions: u64,
}

/// Runs all blocks of a kernel. `params` is the parameter block, laid out as [`Kernel::params`] says.
pub fn launch(
    kernel: &Kernel,
    config: &LaunchConfig,
    params: &[u8],
    memory: &mut GlobalMemory,
) -> Result<Report, Fault> {
    let shared_bytes = check(kernel, config, params)?;
    memory.launches = memory.launches.wrapping_add(1);
    let threads = config.block.iter().product::<u32>();
    let warps = (threads as usize).div_ceil(LANES);
    let mut context = Context {
        kernel,
        config,
        params,
        memory,
        shared: Shared::new(shared_bytes, warps),
        order: BlockOrder::default(),
        block: [0; 3],
        number: 0,
        hint: 0,
        report: Report::default(),
        begun: 0,
    };
    let mut block = Block::new(&context, threads);
    let [x, y, z] = config.grid;
    for number in 0..x * y * z {
        context.begin([number % x, number / x % y, number / x / y], number);
        block.run(&mut context)?;
    }
    Ok(context.report)
}

/// Refuses what the hardware or the kernel's declaration refuses; returns the block's shared memory size.
fn check(kernel: &Kernel, config: &LaunchConfig, params: &[u8]) -> Result<usize, Fault> {
    let refuse = |what: String| Err(Fault::BadLaunch { kernel: kernel.name().to_string(), what });
    let LaunchConfig { grid, block, dynamic_shared_bytes } = *config;
    let over = |size: &[u32; 3], limit: &[u32; 3]| size.iter().zip(limit).any(|(s, l)| *s == 0 || s > l);
    let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
    if over(&block, &MAX_BLOCK) || threads > MAX_THREADS {
        return refuse(format!(
            "blocks of {block:?} threads; at least 1, at most {MAX_BLOCK:?} and {MAX_THREADS} in all"
        ));
    }
    let blocks = grid.iter().fold(1u64, |n, &g| n.saturating_mul(u64::from(g)));
    if over(&grid, &MAX_GRID) || blocks > MAX_BLOCKS {
        return refuse(format!("a grid of {grid:?} blocks; at least 1, at most {MAX_GRID:?} and {MAX_BLOCKS} in all"));
    }
    if let Some(limit) = kernel.max_threads().filter(|&limit| threads > u64::from(limit)) {
        return refuse(format!("blocks of {threads} threads; the kernel was compiled for at most {limit}"));
    }
    if params.len() != kernel.param_bytes() {
        return refuse(format!("{} parameter bytes; the kernel takes {}", params.len(), kernel.param_bytes()));
    }
    let shared = match dynamic_shared_bytes {
        0 => kernel.static_shared_bytes(),
        more => kernel.dynamic_shared_start + more as usize,
    };
    if shared > MAX_SHARED_BYTES {
        return refuse(format!("{shared} bytes of shared memory; a block has {MAX_SHARED_BYTES}"));
    }
    if kernel.code.local_bytes > MAX_LOCAL_BYTES {
        return refuse(format!("{} bytes of local memory; a thread has {MAX_LOCAL_BYTES}", kernel.code.local_bytes));
    }
    if kernel.needs_globals() && kernel.globals.is_empty() {
        return refuse("it uses module variables, and its module was not loaded".to_string());
    }
    Ok(shared)
}

/// What all warps of the running block share.
struct Context<'a> {
    kernel: &'a Kernel,
    config: &'a LaunchConfig,
    params: &'a [u8],
    memory: &'a mut GlobalMemory,
    shared: Shared,
    order: BlockOrder,
    block: [u32; 3],
    number: u32,
    /// The allocation that was used last.
    hint: usize,
    report: Report,
    /// Warp instructions when the block began.
    begun: u64,
}

impl Context<'_> {
    fn begin(&mut self, block: [u32; 3], number: u32) {
        if number > 0 {
            self.shared.reset();
        }
        self.order.begin();
        self.block = block;
        self.number = number;
        self.begun = self.report.warp_instructions;
    }

    fn thread_of(&self, warp: usize, lane: usize) -> [u32; 3] {
        let [x, y, _] = self.config.block;
        let thread = (warp * LANES + lane) as u32;
        [thread % x, thread / x % y, thread / x / y]
    }

    /// The value of a preset for one lane.
    fn preset(&self, preset: Preset, warp: usize, lane: usize) -> u64 {
        let bit = 1u32 << lane;
        u64::from(match preset {
            Preset::Word(value) => value,
            Preset::Double(value) => return value,
            Preset::Global { variable, offset } => {
                return self.kernel.globals[variable as usize].wrapping_add(offset as u64);
            }
            Preset::Thread(axis) => self.thread_of(warp, lane)[usize::from(axis)],
            Preset::BlockSize(axis) => self.config.block[usize::from(axis)],
            Preset::BlockIndex(axis) => self.block[usize::from(axis)],
            Preset::GridSize(axis) => self.config.grid[usize::from(axis)],
            Preset::Lane => lane as u32,
            Preset::Warp => warp as u32,
            Preset::LaneMaskEq => bit,
            Preset::LaneMaskLt => bit - 1,
            Preset::LaneMaskLe => bit | (bit - 1),
            Preset::LaneMaskGt => !(bit | (bit - 1)),
            Preset::LaneMaskGe => !(bit - 1),
            Preset::DynamicShared => self.kernel.dynamic_shared_start as u32,
            Preset::TotalShared => self.shared.data.len() as u32,
            Preset::Zero => 0,
            Preset::True => 1,
        })
    }

    fn site(&self, instr: &Instr, warp: usize, lane: usize) -> Box<Site> {
        let text = &self.kernel.text;
        let instruction = text.source.lines().nth(instr.line.saturating_sub(1) as usize).unwrap_or_default().trim();
        let file = text.files.iter().find(|(number, _)| *number == instr.source.file).map(|(_, path)| path);
        Box::new(Site {
            kernel: self.kernel.name().to_string(),
            block: self.block,
            thread: self.thread_of(warp, lane),
            warp: warp as u32,
            lane: lane as u32,
            ptx_line: instr.line,
            instruction: instruction.to_string(),
            source: file.filter(|_| instr.source.line > 0).map(|file| format!("{file}:{}", instr.source.line)),
        })
    }
}

/// A fault in the making: the lane and everything but the site, which only the warp knows.
struct Stop {
    lane: usize,
    fault: Box<dyn FnOnce(Box<Site>) -> Fault>,
}

impl Stop {
    #[cold]
    fn new(lane: usize, fault: impl FnOnce(Box<Site>) -> Fault + 'static) -> Stop {
        Stop { lane, fault: Box::new(fault) }
    }

    #[cold]
    fn collective(lane: usize, what: String) -> Stop {
        Stop::new(lane, move |site| Fault::BadCollective { site, what })
    }
}
