//! Ordinary device code as both compilers lower it: calls, tables, jumps, slow paths, halves, reductions; against the host.

mod support;

use gpu_emulator::machine::{LaunchConfig, launch};
use gpu_emulator::memory::GlobalMemory;
use gpu_emulator::ptx::Module;
use support::{Random, from_bf16, read_u32, to_bf16, upload};

const N: usize = 300;

const COMPILED: [(&str, &str); 2] = [
    ("nvcc 13.0", include_str!("ptx/features.nvcc13_0.ptx")),
    ("NVRTC 12.9", include_str!("ptx/features.nvrtc12_9.ptx")),
];

fn input() -> Vec<f32> {
    let mut random = Random(21);
    (0..N).map(|_| random.float()).collect()
}

/// Runs a kernel over the input in blocks of 128 threads, the output zeroed.
fn run(ptx: &str, name: &str) -> Vec<f32> {
    let module = Module::parse(ptx).unwrap();
    let mut memory = GlobalMemory::new(1 << 20);
    let loaded = module.load(&mut memory).unwrap();
    let kernel = loaded.kernel(name).unwrap();
    assert_eq!(kernel.unsupported().next(), None);
    let source = upload(&mut memory, &input());
    let out = memory.alloc(N as u64 * 4).unwrap();
    memory.fill(out, &[0], N as u64 * 4).unwrap();
    let params = [&source.to_le_bytes()[..], &out.to_le_bytes(), &(N as i32).to_le_bytes()].concat();
    let config = LaunchConfig { grid: [3, 1, 1], block: [128, 1, 1], dynamic_shared_bytes: 0 };
    launch(kernel, &config, &params, &mut memory).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    let got = read_u32(&memory, out, N).into_iter().map(f32::from_bits).collect();
    loaded.unload(&mut memory).unwrap();
    got
}

fn compare(name: &str, tolerance: f32, want: impl Fn(usize, f32) -> f32) {
    for (compiler, ptx) in COMPILED {
        for (i, (got, x)) in run(ptx, name).into_iter().zip(input()).enumerate() {
            let want = want(i, x);
            let error = (got - want).abs() / want.abs().max(1.0);
            assert!(error <= tolerance, "{compiler}, {name}, element {i}: input {x}, got {got}, want {want}");
        }
    }
}

#[test]
fn calls() {
    let x = input();
    compare("calls", 0.0, |i, _| {
        let window: Vec<f32> = (0..5).map(|k| x[(i + k) % N]).collect();
        window.iter().copied().fold(f32::MIN, f32::max) - window.iter().copied().fold(f32::MAX, f32::min)
    });
}

#[test]
fn tables() {
    let (primes, weights) = ([2f32, 3., 5., 7., 11., 13., 17., 19.], [0.5f32, 0.25, -1., 8.]);
    compare("tables", 1e-6, |i, x| x * weights[i & 3] * primes[i & 7] * 3.0);
}

#[test]
fn jumps() {
    compare("jumps", 1e-6, |i, x| match i % 9 {
        0 => x + 1.0,
        1 => x * x,
        2 => -x,
        3 => x.abs() - 2.0,
        4 => x * 0.5,
        5 => x.min(0.25),
        6 => x.max(0.75),
        7 => x.floor(),
        _ => 42.0,
    });
}

#[test]
fn functions() {
    // The largest argument of the sine takes the slow path with its table of 2/pi.
    compare("functions", 2e-5, |_, x| {
        let root = x.abs().sqrt() + 1.0 / (1.0 + x * x).sqrt() + x.abs().powf(1.5);
        let sine = f64::from(x * 1e5).sin() as f32;
        sine + x.cos() + x.exp() + (x.abs() + 0.5).ln() + x.tanh() + x / (1.0 + x * x) + root + erf(f64::from(x)) as f32
    });
}

/// The error function by its Taylor series, enough for |x| <= 1.5.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..60 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[test]
fn integers() {
    compare("integers", 0.0, |_, x| {
        let wide = (x * 1e9) as i64 * 1_000_003;
        let small = (x * 1000.0) as i32;
        let hash = ((wide ^ (wide >> 29)) as u32).wrapping_mul(2_654_435_761);
        let first = if small == 0 { 0 } else { small.trailing_zeros() as i64 + 1 };
        let counts = i64::from(hash.count_ones()) + i64::from(hash.leading_zeros()) + first;
        (wide / 12_345 % 1000 + i64::from(small / 7 + small % 5) + i64::from(hash % 97) + counts) as f32
    });
}

#[test]
fn halves() {
    compare("halves", 2e-3, |_, x| {
        let (b, h) = (from_bf16(to_bf16(x)), x);
        let low = from_bf16(to_bf16(b * b + b));
        low + from_bf16(to_bf16(1.5 * 1.5 + 1.5)) + (h + 1.0) * (h * (h - 1.0))
    });
}

#[test]
fn reductions() {
    let total: f32 = input().iter().sum();
    for (compiler, ptx) in COMPILED {
        let got = run(ptx, "reduce");
        assert!((got[0] - total).abs() < 1e-3, "{compiler}: {} for {total}", got[0]);
        assert_eq!((got[1], got[2].to_bits()), (N as f32, 128), "{compiler}");
    }
}
