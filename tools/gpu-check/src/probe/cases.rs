//! The probes with their inputs: every kind of special value first, then seeded random ones.

use half::{bf16, f16};

use super::Launch;
use super::compare::Rule;
use crate::random::Random;

/// One launch to compare.
#[derive(Clone, Debug)]
pub struct Case {
    /// The wrapper, and which inputs.
    pub name: &'static str,
    /// What to launch.
    pub launch: Launch,
    /// Bytes of the inputs.
    pub input: Vec<u8>,
    /// Bytes of the outputs.
    pub output_bytes: usize,
    /// When two outputs agree.
    pub rule: Rule,
}

/// Items of an element-wise probe.
const ITEMS: u32 = 4096;
/// Warps of a warp-wide probe.
const WARPS: u32 = 64;
/// ISA: `ex2.approx` errs by at most 2^-22 of the value, which is four units of the smallest mantissa.
const EXP2_ULPS: u32 = 4;
/// ISA: `rcp.approx` errs by at most one unit; the interpreter rounds to nearest.
const RECIPROCAL_ULPS: u32 = 2;
/// Partial sums of 17 terms, each rounded or cut at 2^-23 of the largest: 2^-18 with room for the order.
const MMA_TOLERANCE: f64 = 3.8e-6;

/// Every case.
pub fn all() -> Vec<Case> {
    let mut cases = vec![
        elements("pack_bf16", "conversions", "pack_bf16_probe", bytes(&specials(2 * ITEMS)), Rule::Exact),
        elements("round_bf16", "conversions", "round_bf16_probe", bytes(&specials(ITEMS)), Rule::Exact),
        elements("to_float(bf16)", "conversions", "widen_bf16_probe", bytes(&every_16_bits(ITEMS)), Rule::Exact),
        elements("to_float(f16)", "conversions", "widen_f16_probe", bytes(&every_16_bits(ITEMS)), Rule::Exact),
        elements("low_bf16, high_bf16", "conversions", "halves_bf16_probe", bytes(&noise_words(ITEMS)), Rule::Exact),
        elements("exp2_flushed", "arithmetic", "exp2_flushed_probe", bytes(&exponents()), Rule::Ulps(EXP2_ULPS)),
        elements(
            "reciprocal_flushed",
            "arithmetic",
            "reciprocal_flushed_probe",
            bytes(&denominators()),
            Rule::Ulps(RECIPROCAL_ULPS),
        ),
        copy_async(),
        barriers(),
        load_matrix("load_matrix_x4", "load_matrix_probe"),
        load_matrix("load_matrix_x4_transposed", "load_matrix_transposed_probe"),
        mma_whole_numbers(),
        mma_random(),
        warps("warp_sum", "warp_sum_probe", bytes(&noise(32 * WARPS)), 4),
        warps("warp_max", "warp_max_probe", bytes(&noise(32 * WARPS)), 4),
        warps("warp_max_u32", "warp_max_u32_probe", bytes(&noise_words(32 * WARPS)), 4),
        warps("warp_min_u32", "warp_min_u32_probe", bytes(&noise_words(32 * WARPS)), 4),
        warps("shuffles and votes", "shuffles_probe", bytes(&noise_words(32 * WARPS)), 32),
    ];
    // Kernels see NaN only as a mark of a bug, which must survive.
    cases.push(warps("warp_max of special values", "warp_max_probe", bytes(&specials(32 * WARPS)), 4));
    cases
}

fn elements(name: &'static str, module: &'static str, kernel: &'static str, input: Vec<u8>, rule: Rule) -> Case {
    let launch = Launch { module, kernel, blocks: ITEMS / 128, threads: 128, shared: 0, count: ITEMS };
    let output_bytes = if kernel == "halves_bf16_probe" { 8 } else { 4 } * ITEMS as usize;
    Case { name, launch, input, output_bytes, rule }
}

fn warps(name: &'static str, kernel: &'static str, input: Vec<u8>, bytes_a_lane: usize) -> Case {
    let launch = Launch { module: "warps", kernel, blocks: WARPS, threads: 32, shared: 0, count: 32 * WARPS };
    Case { name, launch, input, output_bytes: 32 * WARPS as usize * bytes_a_lane, rule: Rule::Exact }
}

fn copy_async() -> Case {
    let launch =
        Launch { module: "copies", kernel: "copy_async_probe", blocks: 1, threads: 128, shared: 4096, count: 0 };
    let input = bytes(&noise_words(1024));
    Case { name: "copy_async_16, commit, wait", launch, input, output_bytes: 4096, rule: Rule::Exact }
}

fn barriers() -> Case {
    let launch =
        Launch { module: "barriers", kernel: "barriers_probe", blocks: 1, threads: 128, shared: 512, count: 64 };
    let name = "barrier_sync, barrier_arrive, prefetch_l2, opaque";
    Case { name, launch, input: bytes(&noise_words(64)), output_bytes: 256, rule: Rule::Exact }
}

fn load_matrix(name: &'static str, kernel: &'static str) -> Case {
    const CASES: u32 = 16;
    let launch = Launch { module: "matrix", kernel, blocks: CASES, threads: 32, shared: 512, count: CASES };
    let input = bytes(&noise_words(128 * CASES));
    Case { name, launch, input, output_bytes: 512 * CASES as usize, rule: Rule::Exact }
}

/// One tensor-core product with its operands by row and column.
struct Product {
    a: [[f32; 16]; 16],
    b: [[f32; 8]; 16],
    c: [[f32; 8]; 16],
}

impl Product {
    fn of(mut number: impl FnMut() -> f32) -> Product {
        let round = |x: f32| bf16::from_f32(x).to_f32();
        Product {
            a: std::array::from_fn(|_| std::array::from_fn(|_| round(number()))),
            b: std::array::from_fn(|_| std::array::from_fn(|_| round(number()))),
            c: std::array::from_fn(|_| std::array::from_fn(|_| number())),
        }
    }

    /// Words of each lane, as the PTX ISA lays the fragments of `mma.m16n8k16` out.
    fn fragments(&self, words: &mut Vec<u32>) {
        let pack = |low: f32, high: f32| {
            u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
        };
        for lane in 0..32 {
            let (group, member) = (lane / 4, lane % 4);
            for (row, first) in [(group, 0), (group + 8, 0), (group, 8), (group + 8, 8)] {
                let column = first + 2 * member;
                words.push(pack(self.a[row][column], self.a[row][column + 1]));
            }
            for first in [0, 8] {
                let row = first + 2 * member;
                words.push(pack(self.b[row][group], self.b[row + 1][group]));
            }
            words.extend(Self::places(lane).map(|(row, column)| self.c[row][column].to_bits()));
        }
    }

    /// Rows and columns of a lane's four accumulators.
    fn places(lane: usize) -> [(usize, usize); 4] {
        let (group, column) = (lane / 4, 2 * (lane % 4));
        [(group, column), (group, column + 1), (group + 8, column), (group + 8, column + 1)]
    }

    /// |c| + sum of |a b|, in the order of the outputs.
    fn magnitudes(&self) -> impl Iterator<Item = f64> + '_ {
        (0..32).flat_map(Self::places).map(|(row, column)| {
            let products = (0..16).map(|k| f64::from(self.a[row][k] * self.b[k][column]).abs());
            products.sum::<f64>() + f64::from(self.c[row][column]).abs()
        })
    }
}

fn mma(name: &'static str, products: &[Product], rule: Rule) -> Case {
    let blocks = products.len() as u32;
    let launch = Launch { module: "matrix", kernel: "mma_bf16_probe", blocks, threads: 32, shared: 0, count: blocks };
    let mut words = Vec::with_capacity(products.len() * 320);
    products.iter().for_each(|product| product.fragments(&mut words));
    Case { name, launch, input: bytes(&words), output_bytes: products.len() * 512, rule }
}

/// Small whole numbers: every partial sum is exact, whatever the order.
fn mma_whole_numbers() -> Case {
    let mut random = Random::new(11);
    let products: Vec<Product> = (0..64).map(|_| Product::of(|| random.below(33) as f32 - 16.0)).collect();
    mma("mma_bf16, whole numbers", &products, Rule::Exact)
}

/// Magnitudes from 2^-8 to 2^8: the order of additions and their rounding show.
fn mma_random() -> Case {
    let mut random = Random::new(12);
    let mut number = || random.unit() * 2f32.powi(random.below(17) as i32 - 8);
    let products: Vec<Product> = (0..256).map(|_| Product::of(&mut number)).collect();
    let magnitudes = products.iter().flat_map(Product::magnitudes).collect();
    mma("mma_bf16, random", &products, Rule::Relative { tolerance: MMA_TOLERANCE, magnitudes })
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn noise_words(count: u32) -> Vec<u32> {
    let mut random = Random::new(u64::from(count));
    (0..count).map(|_| random.bits() as u32).collect()
}

/// From -1 to 1, over several magnitudes.
fn noise(count: u32) -> Vec<u32> {
    let mut random = Random::new(u64::from(count) + 1);
    (0..count).map(|_| (random.unit() * 2f32.powi(random.below(9) as i32 - 4)).to_bits()).collect()
}

/// f32 patterns where rounding to bf16 has a case of its own (ties of both parities and their neighbours, overflow to
/// infinity, subnormals, zeros, infinities, NaNs of every kind), then random patterns.
fn specials(count: u32) -> Vec<u32> {
    let mut words = vec![
        0x0000_0000,
        0x8000_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0xffc0_0000,
        0x7f80_0001,
        0xffff_ffff,
        0x7fff_ffff,
        0x7f80_ffff,
        0x0000_0001,
        0x8000_0001,
        0x007f_ffff,
        0x0080_0000,
        0x0000_7fff,
        0x0000_8000,
        0x0000_8001,
        0x0001_8000,
        0x7f7f_ffff,
        0xff7f_ffff,
        0x7f7f_8000,
        0x7f7f_7fff,
        0x7f7f_0000,
    ];
    for upper in [0x3f80u32, 0x3f81, 0xbf80, 0xbf81, 0x0001, 0x0080, 0x7f7e] {
        words.extend([0x7fff, 0x8000, 0x8001, 0x0001, 0xffff].map(|lower| upper << 16 | lower));
    }
    let mut random = Random::new(3);
    words.resize_with(count as usize, || random.bits() as u32);
    words
}

/// bf16 and f16 patterns, special ones first.
fn every_16_bits(count: u32) -> Vec<u32> {
    let mut words: Vec<u32> = [f16::INFINITY, f16::NAN, f16::MIN_POSITIVE, f16::MAX, f16::NEG_ZERO]
        .iter()
        .map(|x| u32::from(x.to_bits()))
        .chain([0x0001, 0x03ff, 0x7c01, 0xfe00, 0x7f80, 0x7f81, 0xffff, 0x8001])
        .collect();
    let mut random = Random::new(4);
    words.resize_with(count as usize, || random.bits() as u32 & 0xffff);
    words
}

/// What attention's softmax feeds to 2^x, and the edges: overflow, subnormal results, infinities, NaN.
fn exponents() -> Vec<u32> {
    let edges = [0.0, -0.0, 1.0, -1.0, 127.99999, 128.0, -126.0, -126.5, -149.0, -150.0, -1e30, 1e30];
    let mut words: Vec<u32> =
        edges.iter().chain(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN]).map(|x: &f32| x.to_bits()).collect();
    let mut random = Random::new(5);
    words.resize_with(ITEMS as usize, || (random.unit() * 40.0 - 38.0).to_bits());
    words
}

/// What a softmax or an activation divides by, and the edges: results that are flushed, zeros, infinities, NaN.
fn denominators() -> Vec<u32> {
    let edges = [1.0, -1.0, 0.0, -0.0, 3.0, 1.5, f32::MAX, 1e38, 1.7e38, f32::MIN_POSITIVE, f32::INFINITY, f32::NAN];
    let mut words: Vec<u32> = edges.iter().map(|x: &f32| x.to_bits()).collect();
    let mut random = Random::new(6);
    words.resize_with(ITEMS as usize, || (random.unit() * 2f32.powi(random.below(60) as i32 - 20)).to_bits());
    words
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Product, all};

    /// The bodies of functions in ptx.h, by name, of which some instruction is written by name.
    fn wrappers(header: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut current = String::new();
        for line in header.lines() {
            if line.starts_with("DEVICE") || line.contains("__forceinline__") {
                let before = line.split('(').next().unwrap_or_default();
                current = before.split_whitespace().last().unwrap_or_default().to_owned();
            }
            if line.contains("asm") && !current.is_empty() && !line.trim_start().starts_with("//") {
                found.push(current.clone());
            }
        }
        found.sort();
        found.dedup();
        found
    }

    #[test]
    fn every_wrapper_has_a_probe() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let header = std::fs::read_to_string(here.join("../../kernels/include/ptx.h")).unwrap();
        let probes: String = std::fs::read_dir(here.join("probes"))
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect();
        let wrappers = wrappers(&header);
        assert!(wrappers.len() > 8, "{wrappers:?}");
        let missing: Vec<&String> = wrappers.iter().filter(|name| !probes.contains(&format!("{name}("))).collect();
        let missing: Vec<_> = missing.into_iter().filter(|name| !probes.contains(&format!("{name}<"))).collect();
        assert!(missing.is_empty(), "no probe in tools/gpu-check/probes calls {missing:?} of kernels/include/ptx.h");
    }

    #[test]
    fn every_probe_is_in_the_list() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let cases = all();
        for entry in std::fs::read_dir(here.join("probes")).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            for line in text.lines().filter(|line| line.starts_with("PROBE(")) {
                let name = line["PROBE(".len()..].split(',').next().unwrap();
                let listed = cases.iter().any(|case| case.launch.kernel == name) || name.ends_with("_ceiling");
                assert!(listed, "{name} is in no case");
            }
        }
    }

    #[test]
    fn whole_numbers_have_exact_sums() {
        let mut number = 0.0;
        let product = Product::of(|| {
            number = if number > 15.0 { -16.0 } else { number + 1.0 };
            number
        });
        let mut words = Vec::new();
        product.fragments(&mut words);
        assert_eq!(words.len(), 320);
        assert!(product.magnitudes().all(|magnitude| magnitude < f64::from(1 << 24)));
    }
}
