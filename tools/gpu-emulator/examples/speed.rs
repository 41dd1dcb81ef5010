//! What the emulator costs on this machine: `cargo run --release -p gpu-emulator --example speed`.
//!
//! Each row is a loop of one kind of instruction in one block of 128 threads. The fastest of fifty short runs counts, so that
//! other programs on the machine disturb little.

use gpu_emulator::machine::{LaunchConfig, launch};
use gpu_emulator::memory::GlobalMemory;
use gpu_emulator::ptx::Module;
use std::time::{Duration, Instant};

/// Loop rounds, and copies of the body a round.
const ROUNDS: u32 = 20;
const COPIES: usize = 32;
const WARPS: u32 = 4;

const BODIES: [(&str, &str); 7] = [
    ("fma.rn.f32", "fma.rn.f32 %a, %b, %c, %a;"),
    ("mad.lo.s32", "mad.lo.s32 %a, %b, %c, %a;"),
    ("add.s64", "add.s64 %l, %l, %m;"),
    ("shfl.sync.bfly", "shfl.sync.bfly.b32 %a, %a, 1, 31, -1;"),
    ("ld.shared.u32", "ld.shared.u32 %b, [%s];"),
    ("ld.global.u32", "ld.global.u32 %b, [%g];"),
    (
        "mma.m16n8k16.bf16",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%a,%e,%f,%h}, {%b,%c,%b,%c}, {%b,%c}, {%a,%e,%f,%h};",
    ),
];

fn main() {
    for (name, body) in BODIES {
        let text = format!(
            ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p) {{\n\
             .reg .b32 %a, %b, %c, %e, %f, %h, %s, %i, %t; .reg .b64 %l, %m, %g; .reg .pred %p; .shared .align 4 .b8 x[512];\n\
             mov.u32 %t, %tid.x; mov.u32 %s, x; mad.lo.u32 %s, %t, 4, %s; st.shared.u32 [%s], %t; bar.sync 0;\n\
             ld.param.u64 %g, [p]; mad.wide.u32 %g, %t, 4, %g; mov.u64 %l, 1; mov.u64 %m, 3; mov.u32 %i, 0;\n\
             mov.b32 %a, 0f3F800000; mov.b32 %b, %a; mov.b32 %c, %a; mov.b32 %e, %a; mov.b32 %f, %a; mov.b32 %h, %a;\n\
             L: {}\nadd.u32 %i, %i, 1; setp.lt.u32 %p, %i, {ROUNDS}; @%p bra L; ret; }}",
            body.repeat(COPIES)
        );
        let best = (0..50).map(|_| run(&text)).min().unwrap_or_default();
        let warps = f64::from(ROUNDS * WARPS) * COPIES as f64;
        let ns = best.as_secs_f64() * 1e9 / warps;
        println!("{name:20} {ns:8.1} ns a warp {:8.2} ns a thread", ns / 32.0);
    }
}

fn run(text: &str) -> Duration {
    let mut memory = GlobalMemory::new(1 << 20);
    let data = memory.alloc(512).and_then(|at| memory.fill(at, &[0], 512).map(|()| at));
    let (Ok(module), Ok(data)) = (Module::parse(text), data) else { panic!("the benchmark's own code is wrong") };
    let Some(kernel) = module.kernel("k") else { panic!("the benchmark's own code is wrong") };
    let config = LaunchConfig { grid: [1; 3], block: [WARPS * 32, 1, 1], dynamic_shared_bytes: 0 };
    let start = Instant::now();
    if let Err(fault) = launch(kernel, &config, &data.to_le_bytes(), &mut memory) {
        panic!("{fault}");
    }
    start.elapsed()
}
