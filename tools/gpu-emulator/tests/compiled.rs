//! PTX as the compilers wrote it, run and compared with plain loops: paged flash attention and radix top-k.

mod support;

use std::time::Instant;
use support::{Attention, attention, only_kernel, topk};

const ATTENTION: [(&str, &str); 2] = [
    ("nvcc 13.0", include_str!("ptx/attention.nvcc13_0.ptx")),
    ("NVRTC 12.9", include_str!("ptx/attention.nvrtc12_9.ptx")),
];
const TOPK: [(&str, &str); 2] =
    [("nvcc 13.0", include_str!("ptx/topk.nvcc13_0.ptx")), ("NVRTC 12.9", include_str!("ptx/topk.nvrtc12_9.ptx"))];

/// Prints what a run cost: `cargo test -- --nocapture`.
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
            let (report, error) =
                timed(compiler, || attention(&kernel, shape)).unwrap_or_else(|fault| panic!("{compiler}: {fault}"));
            println!("{report:?}");
            assert!(error < 0.02, "{compiler}: error {error}");
        }
    }
}

#[test]
fn topk_matches_a_full_sort() {
    for (compiler, ptx) in TOPK {
        let kernel = only_kernel(ptx);
        assert_eq!(kernel.unsupported().count(), 0);
        for (rows, n, k) in [(4, 32_768, 50), (3, 5000, 256), (1, 7, 7)] {
            let (report, wrong) =
                timed(compiler, || topk(&kernel, rows, n, k)).unwrap_or_else(|fault| panic!("{compiler}: {fault}"));
            println!("{report:?}");
            assert_eq!(wrong, 0, "{compiler}: {rows} rows of {n}, top {k}");
        }
    }
}
