//! Seeded mistakes: each kernel of kernels/faults.cu ends in the fault named here, its correct twins in none.

mod support;

use gpu_emulator::machine::{LaunchConfig, launch};
use gpu_emulator::memory::GlobalMemory;
use gpu_emulator::{Fault, ptx::Module};
use support::{Attention, AttentionCase, only_kernel, upload};

const THREADS: usize = 128;

/// Kernel, floats of input, floats of output, blocks, and the fault; none for correct code.
type Case = (&'static str, usize, usize, u32, Option<&'static str>);

const CASES: &[Case] = &[
    ("copy_good", 512, 128, 1, None),
    ("copy_own_good", 512, 128, 1, None),
    ("copy_without_wait", 512, 128, 1, Some("UnwaitedCopy")),
    ("copy_without_barrier_lanes", 512, 128, 1, Some("SharedRace")),
    ("copy_without_barrier_warps", 512, 128, 1, Some("Uninitialised")),
    ("copy_never_awaited", 512, 128, 1, Some("UnwaitedCopy")),
    ("copy_good", 510, 128, 1, Some("OutOfBounds")),
    ("stages_good", 512, 128, 1, None),
    ("stages_one_too_few", 512, 128, 1, Some("UnwaitedCopy")),
    ("pages_good", 136, 128, 1, None),
    ("pages_off_by_one", 136, 128, 1, Some("OutOfBounds")),
    ("rotate_good", 128, 128, 1, None),
    ("rotate_without_first_barrier", 128, 128, 1, Some("SharedRace")),
    ("rotate_without_trailing_barrier", 128, 128, 1, Some("SharedRace")),
    ("double_buffer_good", 128, 128, 1, None),
    ("counter_good", 128, 128, 1, None),
    ("counter_not_atomic", 128, 128, 1, Some("SharedRace")),
    ("counter_read_too_early", 128, 128, 1, Some("SharedRace")),
    ("warp_exchange_good", 128, 128, 1, None),
    ("warp_exchange_without_syncwarp", 128, 128, 1, Some("SharedRace")),
    ("quarter_exchange_good", 128, 128, 1, None),
    ("quarter_exchange_too_far", 128, 128, 1, Some("SharedRace")),
    ("halves_of_a_word_good", 128, 128, 1, None),
    ("shuffle_without_a_lane", 128, 128, 1, Some("BadCollective")),
    ("shuffle_part_good", 128, 128, 1, None),
    ("barrier_of_three_warps", 128, 128, 1, Some("DivergentBarrier")),
    ("barrier_of_half_a_warp", 128, 128, 1, Some("DivergentBarrier")),
    ("barrier_after_exit", 128, 128, 1, Some("DivergentBarrier")),
    ("two_different_barriers", 128, 128, 1, Some("DivergentBarrier")),
    ("pipeline_good", 128, 128, 1, None),
    ("pipeline_without_empty", 128, 128, 1, Some("DivergentBarrier")),
    ("pipeline_without_full", 128, 128, 1, Some("SharedRace")),
    ("barrier_nobody_else_reaches", 128, 128, 1, Some("Deadlock")),
    ("matrix_good", 128, 128, 1, None),
    ("matrix_past_the_end", 128, 128, 1, Some("OutOfBounds")),
    ("write_past_the_end", 128, 128, 1, Some("OutOfBounds")),
    ("read_before_the_start", 128, 128, 1, Some("OutOfBounds")),
    ("misaligned_vector", 136, 128, 1, Some("Misaligned")),
    ("shared_never_written", 128, 128, 1, Some("Uninitialised")),
    ("global_never_written", 128, 128, 1, Some("Uninitialised")),
    ("local_never_written", 128, 128, 1, Some("Uninitialised")),
    ("trap_reached", 128, 128, 1, Some("Trap")),
    ("blocks_good", 128, 512, 4, None),
    ("blocks_write_the_same_row", 128, 512, 4, Some("GlobalRace")),
    ("blocks_read_each_other", 128, 512, 4, Some("GlobalRace")),
    ("blocks_count_good", 128, 512, 4, None),
    ("blocks_halves_of_a_word_good", 128, 128, 2, None),
    ("last_block_good", 128, 640, 4, None),
    ("last_block_without_fence", 128, 640, 4, Some("GlobalRace")),
];

fn name(fault: &Fault) -> &'static str {
    match fault {
        Fault::OutOfBounds { .. } => "OutOfBounds",
        Fault::Misaligned { .. } => "Misaligned",
        Fault::SharedRace { .. } => "SharedRace",
        Fault::GlobalRace { .. } => "GlobalRace",
        Fault::Uninitialised { .. } => "Uninitialised",
        Fault::UnwaitedCopy { .. } => "UnwaitedCopy",
        Fault::Deadlock { .. } => "Deadlock",
        Fault::DivergentBarrier { .. } => "DivergentBarrier",
        Fault::BadCollective { .. } => "BadCollective",
        Fault::Unsupported { .. } => "Unsupported",
        Fault::Trap { .. } => "Trap",
        Fault::Runaway { .. } => "Runaway",
        Fault::BadLaunch { .. } => "BadLaunch",
    }
}

fn run(module: &Module, case: &Case) -> Result<(), Fault> {
    let &(name, inputs, outputs, blocks, _) = case;
    let mut memory = GlobalMemory::new(1 << 20);
    // The last eight of 136 values are a page table.
    let value = |i: usize| if (128..136).contains(&i) && inputs == 136 { (i - 128) as f32 } else { i as f32 * 0.5 };
    let input = upload(&mut memory, &(0..inputs).map(value).collect::<Vec<f32>>());
    let output = memory.alloc(outputs as u64 * 4).unwrap();
    if name != "global_never_written" {
        memory.fill(output, &[0], outputs as u64 * 4).unwrap();
    }
    let params = [&input.to_le_bytes()[..], &output.to_le_bytes(), &(THREADS as i32).to_le_bytes()].concat();
    let kernel = module.kernel(name).unwrap();
    let config = LaunchConfig {
        grid: [blocks, 1, 1],
        block: [THREADS as u32, 1, 1],
        dynamic_shared_bytes: if name.starts_with("matrix") { 512 } else { 0 },
    };
    launch(kernel, &config, &params[..kernel.param_bytes()], &mut memory).map(|_| ())
}

#[test]
fn every_seeded_mistake_is_caught_and_no_correct_twin() {
    let mut wrong = Vec::new();
    for (compiler, ptx) in [
        ("nvcc 13.0", include_str!("ptx/faults.nvcc13_0.ptx")),
        ("NVRTC 12.9", include_str!("ptx/faults.nvrtc12_9.ptx")),
    ] {
        let module = Module::parse(ptx).unwrap();
        for case in CASES {
            let got = run(&module, case);
            if got.as_ref().err().map(name) != case.4 {
                wrong.push(format!("{compiler}: {} wants {:?}, got {got:?}", case.0, case.4));
            }
        }
        // Every kernel of the file is in the table.
        for kernel in module.kernels() {
            assert!(CASES.iter().any(|case| case.0 == kernel.name()), "{} has no case", kernel.name());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A fault says where: kernel, block, thread, PTX line and text, and the .cu line if the PTX has it.
#[test]
fn a_fault_names_its_place() {
    let module = Module::parse(include_str!("ptx/faults.nvcc13_0.ptx")).unwrap();
    let case = CASES.iter().find(|case| case.0 == "write_past_the_end").unwrap();
    let fault = run(&module, case).unwrap_err();
    let Fault::OutOfBounds { site, .. } = &fault else { panic!("{fault}") };
    assert_eq!((site.kernel.as_str(), site.block, site.thread), ("write_past_the_end", [0; 3], [0; 3]));
    assert!(site.instruction.starts_with("st.global.f32") || site.instruction.starts_with("st.global.b32"), "{fault}");
    let line = 1 + include_str!("kernels/faults.cu").lines().position(|l| l.contains("write_past_the_end")).unwrap();
    assert_eq!(site.source, Some(format!("faults.cu:{line}")), "{fault}");
    assert!(fault.to_string().contains("nearest allocation: 512 bytes"), "{fault}");
}

/// One statement of the attention kernel's PTX taken out or changed at a time.
#[test]
fn attention_without_one_statement() {
    let ptx = include_str!("ptx/attention.nvcc13_0.ptx");
    let shape = Attention { queries: 128, keys: 256, heads: 1, page: 16 };
    let run = |text: &str| AttentionCase::new(shape).run(&only_kernel(text));
    assert!(run(ptx).is_ok());
    for (statement, instead, wants) in [
        ("bar.sync \t0;", "", &["SharedRace", "Uninitialised", "UnwaitedCopy"][..]),
        ("cp.async.wait_group 1;", "", &["UnwaitedCopy"]),
        ("cp.async.wait_group 0;", "", &["UnwaitedCopy"]),
        ("cp.async.wait_group 1;", "cp.async.wait_group 2;", &["UnwaitedCopy"]),
    ] {
        let places: Vec<usize> = ptx.match_indices(statement).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "{statement} is not there");
        for at in places {
            let changed = format!("{}{instead}{}", &ptx[..at], &ptx[at + statement.len()..]);
            let got = run(&changed).map_err(|fault| (name(&fault), fault.to_string()));
            assert!(got.as_ref().is_err_and(|(name, _)| wants.contains(name)), "{statement} at byte {at}: {got:?}");
        }
    }
}
