//! PTX as the compilers wrote it, run and compared with plain loops: paged flash attention and radix top-k.

mod support;

use std::time::Instant;
use support::{Attention, AttentionCase, TopkCase, only_kernel};

const ATTENTION: [(&str, &str); 2] = [
    ("nvcc 13.0", include_str!("ptx/attention.nvcc13_0.ptx")),
    ("NVRTC 12.9", include_str!("ptx/attention.nvrtc12_9.ptx")),
];
const TOPK: [(&str, &str); 2] =
    [("nvcc 13.0", include_str!("ptx/topk.nvcc13_0.ptx")), ("NVRTC 12.9", include_str!("ptx/topk.nvrtc12_9.ptx"))];

/// Runs and prints what it cost: `cargo test -- --nocapture`.
fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let out = run();
    println!("{what}: {:?}", start.elapsed());
    out
}

#[test]
fn attention_matches_a_plain_loop() {
    for (compiler, ptx) in ATTENTION {
        let kernel = timed("parse", || only_kernel(ptx));
        assert_eq!(kernel.unsupported().count(), 0);
        for shape in [
            Attention { queries: 128, keys: 2048, heads: 1, page: 16 },
            Attention { queries: 100, keys: 333, heads: 2, page: 16 },
            Attention { queries: 1, keys: 1, heads: 1, page: 16 },
        ] {
            let mut case = AttentionCase::new(shape);
            let report = timed(compiler, || case.run(&kernel)).unwrap_or_else(|fault| panic!("{compiler}: {fault}"));
            println!("{report:?}");
            assert!(case.error() < 0.02, "{compiler}: error {}", case.error());
        }
    }
}

#[test]
fn topk_matches_a_full_sort() {
    for (compiler, ptx) in TOPK {
        let kernel = only_kernel(ptx);
        assert_eq!(kernel.unsupported().count(), 0);
        for (rows, n, k) in [(4, 32_768, 50), (3, 5000, 256), (1, 7, 7)] {
            let mut case = TopkCase::new(rows, n, k);
            let report = timed(compiler, || case.run(&kernel)).unwrap_or_else(|fault| panic!("{compiler}: {fault}"));
            println!("{report:?}");
            assert_eq!(case.wrong_rows(), 0, "{compiler}: {rows} rows of {n}, top {k}");
        }
    }
}
