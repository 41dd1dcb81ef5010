//! Noise of sampling: a function of seed, level, trie node and sequence, the same on every device
//! (`kernels/include/noise.cuh`), so that what is drawn depends on no neighbour and no order of evaluation.
//!
//! The generator is Philox 4x32-10 (Salmon, Moraes, Dror and Shaw 2011). A call gives four words, those of four nodes that
//! stand one after another: counter `[node / 4, level, sequence, kind]`, key the seed, word `node mod 4`.

use super::exact::{exp, ln, ln_1p, one_minus_exp};
use crate::sampling::{Sampling, SamplingKind};

/// The level that stands for the root, above all levels.
const ROOT_LEVEL: u32 = u32::MAX;

/// Ten rounds of Philox 4x32.
pub(super) fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let product = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    for _ in 0..10 {
        let (high_0, low_0) = product(0xd251_1f53, counter[0]);
        let (high_1, low_1) = product(0xcd9e_8d57, counter[2]);
        counter = [high_1 ^ counter[1] ^ key[0], low_1, high_0 ^ counter[3] ^ key[1], low_0];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

/// A standard Gumbel variable of 32 random bits: -ln(-ln u), u = (bits + 0.5) / 2^32 and nowhere rounded to 0 or 1. From
/// -3.13 to 22.9.
pub(super) fn gumbel(bits: u32) -> f32 {
    const SCALE: f32 = 1.0 / 4_294_967_296.0;
    let uniform = |bits: u32| (bits as f32 + 0.5) * SCALE;
    // The smaller of u and 1 - u keeps its digits.
    let exponential = if bits >> 31 == 1 { -ln_1p(-uniform(!bits)) } else { -ln(uniform(bits)) };
    -ln(exponential)
}

/// Noise of a level's nodes for one sequence (0 when sequences are not independent).
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise {
    key: [u32; 2],
    level: u32,
    sequence: u32,
    kind: u32,
}

impl Noise {
    pub(super) fn new(sampling: &Sampling, level: u32, sequence: u32) -> Noise {
        let kind = match sampling.kind {
            SamplingKind::Independent => 0,
            SamplingKind::Distinct => 1,
        };
        Noise { key: [sampling.seed as u32, (sampling.seed >> 32) as u32], level, sequence, kind }
    }

    /// Writes the noise of `nodes`.
    pub(super) fn fill(self, nodes: std::ops::Range<u32>, out: &mut Vec<f32>) {
        out.clear();
        let mut words = [0; 4];
        for node in nodes {
            if out.is_empty() || node % 4 == 0 {
                words = philox([node / 4, self.level, self.sequence, self.kind], self.key);
            }
            out.push(gumbel(words[node as usize % 4]));
        }
    }

    /// The perturbed log-probability of the root, whose own is 0.
    pub(super) fn root(sampling: &Sampling) -> f32 {
        let root = Noise::new(sampling, ROOT_LEVEL, 0);
        gumbel(philox([0, root.level, root.sequence, root.kind], root.key)[0])
    }
}

/// ln(1 + exp(x)).
fn softplus(x: f32) -> f32 {
    (if x > 0.0 { x } else { 0.0 }) + ln(1.0 + exp(-x.abs()))
}

/// A child's perturbed log-probability under the condition that the largest of its siblings' is their parent's `key`:
/// -ln(exp(-key) + exp(-g) - exp(-z)), where g is the child's unconditioned one, z the largest of its siblings', `rise` =
/// key - z, and `below` = z - g.
pub(super) fn conditioned(key: f32, rise: f32, below: f32) -> f32 {
    key - softplus((rise + below) + ln(one_minus_exp(below)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers that its authors publish (Random123, `kat_vectors`).
    #[test]
    fn philox_gives_the_published_answers() {
        let pi = ([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        for ((counter, key), answer) in [
            (([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ] {
            assert_eq!(philox(counter, key), answer);
        }
    }

    #[test]
    fn gumbel_variables_are_accurate_over_their_whole_range() {
        let bits = (0..4096u32).map(|i| i << 20 | i).chain([1, 2, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX]);
        for bits in bits {
            let below = u32::MAX - bits;
            // The rounding of u or 1 - u to 24 bits is part of the definition's error.
            let exact = match bits >> 31 {
                1 => -(-(-(f64::from(below) + 0.5) * 2f64.powi(-32)).ln_1p()).ln(),
                _ => -(-((f64::from(bits) + 0.5) * 2f64.powi(-32)).ln()).ln(),
            };
            let value = gumbel(bits);
            assert!((f64::from(value) - exact).abs() <= 2e-6 * exact.abs().max(1.0), "{bits:#x}: {value}, {exact}");
        }
        assert!(gumbel(0) > -3.2 && gumbel(u32::MAX) > 22.8 && gumbel(u32::MAX) < 23.0);
    }

    #[test]
    fn nodes_have_the_same_noise_in_any_range() {
        let sampling = Sampling { kind: SamplingKind::Distinct, seed: 5 << 40 | 3, temperature: 1.0 };
        let mut whole = Vec::new();
        Noise::new(&sampling, 2, 0).fill(0..50, &mut whole);
        for start in 0..9 {
            let mut part = Vec::new();
            Noise::new(&sampling, 2, 0).fill(start..start + 17, &mut part);
            assert_eq!(part, whole[start as usize..][..17]);
        }
        for other in [
            Noise::new(&sampling, 1, 0),
            Noise::new(&sampling, 2, 1),
            Noise::new(&Sampling { kind: SamplingKind::Independent, ..sampling }, 2, 0),
            Noise::new(&Sampling { seed: 3, ..sampling }, 2, 0),
        ] {
            let mut noise = Vec::new();
            other.fill(0..50, &mut noise);
            assert!(noise.iter().zip(&whole).all(|(a, b)| a != b));
        }
    }

    #[test]
    fn conditioned_keys_follow_the_formula_and_the_largest_is_the_parents() {
        for key in [-3.0f32, 0.5, 12.0] {
            for z in [-4.0f32, 0.0, 9.0] {
                assert_eq!(conditioned(key, key - z, 0.0), key);
                let mut last = key;
                for below in [1e-4f32, 0.01, 0.3, 1.0, 5.0, 20.0, 60.0] {
                    let (t, z, g) = (f64::from(key), f64::from(z), f64::from(z) - f64::from(below));
                    let exact = -((-t).exp() + (-g).exp() - (-z).exp()).ln();
                    let value = conditioned(key, key - z as f32, below);
                    assert!((f64::from(value) - exact).abs() < 3e-5, "{key} {z} {below}: {value} and not {exact}");
                    assert!(value <= last, "{key} {z} {below}");
                    last = value;
                }
            }
        }
    }
}
