//! Broken PTX and impossible launches are refused with a reason, and never panic.

mod support;

use gpu_emulator::machine::{LaunchConfig, launch};
use gpu_emulator::memory::GlobalMemory;
use gpu_emulator::{Fault, ptx::Module};
use support::Random;
use support::snippet::HEADER;

const PTX: [&str; 2] = [include_str!("ptx/features.nvrtc12_9.ptx"), include_str!("ptx/faults.nvcc13_0.ptx")];

#[test]
fn broken_text_never_panics() {
    let mut random = Random(3);
    for ptx in PTX {
        for _ in 0..40 {
            let mut bytes = ptx.as_bytes().to_vec();
            for _ in 0..1 + random.bits() % 8 {
                let at = random.bits() as usize % bytes.len();
                match random.bits() % 3 {
                    0 => bytes[at] = b" .,;{}[]()%+-0:|@!x"[random.bits() as usize % 19],
                    1 => drop(bytes.drain(at..(at + random.bits() as usize % 40).min(bytes.len()))),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            let text = String::from_utf8(bytes).unwrap();
            if let Err(error) = Module::parse(&text) {
                assert!(error.line >= 1 && !error.what.is_empty());
            }
        }
    }
}

#[test]
fn syntax_errors_have_their_line() {
    for (body, line) in
        [("{ add.s32 %a %b; }", 5), ("{\n\nmov.b32 %a, [;\n}", 7), ("{ .reg .b32 %r<9999999>; }", 5), ("{ /*", 5)]
    {
        let text = format!("{HEADER}.visible .entry k()\n{body}");
        let error = Module::parse(&text).unwrap_err();
        assert_eq!(error.line, line, "{body}: {error}");
    }
    let deep = format!("{HEADER}.entry k() {{ mov.b32 {};", "{".repeat(100_000));
    assert!(Module::parse(&deep).is_err());
}

/// What is not implemented faults when it is reached, naming itself, and not before.
#[test]
fn unsupported_instructions_fault_when_executed() {
    let text = format!(
        "{HEADER}.visible .entry fine() {{ ret; wgmma.fence.sync.aligned; }}\n\
         .visible .entry bad() {{ wgmma.fence.sync.aligned; ret; }}\n\
         .visible .entry loops() {{ .reg .b32 %r; call again, (); ret; }}\n\
         .func again() {{ call again, (); ret; }}\n"
    );
    let module = Module::parse(&text).unwrap();
    let config = LaunchConfig { grid: [1; 3], block: [32, 1, 1], dynamic_shared_bytes: 0 };
    let run = |name: &str| launch(module.kernel(name).unwrap(), &config, &[], &mut GlobalMemory::new(1));
    assert!(run("fine").is_ok());
    let Err(Fault::Unsupported { site, .. }) = run("bad") else { panic!("it ran") };
    assert_eq!(site.ptx_line, 5);
    assert!(site.instruction.contains("wgmma.fence.sync.aligned"));
    assert!(matches!(run("loops"), Err(Fault::Unsupported { .. })));
}

#[test]
fn impossible_launches_are_refused() {
    let text = format!("{HEADER}.visible .entry k(.param .u64 p) .maxntid 64, 1, 1 {{ ret; }}");
    let module = Module::parse(&text).unwrap();
    let kernel = module.kernel("k").unwrap();
    assert_eq!((kernel.max_threads(), kernel.param_bytes()), (Some(64), 8));
    let good = LaunchConfig { grid: [2, 1, 1], block: [64, 1, 1], dynamic_shared_bytes: 0 };
    let run = |config: &LaunchConfig, params: &[u8]| launch(kernel, config, params, &mut GlobalMemory::new(1));
    assert!(run(&good, &[0; 8]).is_ok());
    for config in [
        LaunchConfig { block: [65, 1, 1], ..good },
        LaunchConfig { block: [0, 1, 1], ..good },
        LaunchConfig { grid: [1, 65_536, 1], ..good },
        LaunchConfig { grid: [0, 1, 1], ..good },
        LaunchConfig { dynamic_shared_bytes: 200_000, ..good },
    ] {
        assert!(matches!(run(&config, &[0; 8]), Err(Fault::BadLaunch { .. })), "{config:?}");
    }
    assert!(matches!(run(&good, &[0; 7]), Err(Fault::BadLaunch { .. })));
}
