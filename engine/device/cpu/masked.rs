//! A softmax over the legal children of one beam: what `mask_then_norm` and sampling normalise by.
//!
//! Sums run in an order that a beam's children fix: child i belongs to stripe i mod 256 (on a card, to that thread), a stripe
//! adds its children in order, 32 stripes are folded by halves, and those sums are added in order. Children that are not
//! legal add zero.

use super::legal::Legal;
use crate::device::exact::{exp, ln};

/// Stripes, and how many are folded by halves.
const STRIPES: usize = 256;
const FOLDED: usize = 32;

/// Logits of a beam's children; reused from beam to beam.
#[derive(Default)]
pub(super) struct Masked {
    logits: Vec<f32>, // [children], negative infinity where a child is not legal
    max: f32,
}

impl Masked {
    /// Looks at the legal ones among `nodes`, whose codes are in `codes` and whose logits by code in `logits`.
    pub(super) fn gather(&mut self, legal: Legal, nodes: std::ops::Range<u32>, (codes, logits): (&[u16], &[f32])) {
        self.logits.clear();
        self.logits.resize(nodes.len(), f32::NEG_INFINITY);
        let first = nodes.start;
        for run in legal.runs(nodes) {
            for node in run {
                self.logits[(node - first) as usize] = logits[usize::from(codes[node as usize])];
            }
        }
        // A comparison and not f32::max, as in the other reductions: a NaN never wins.
        self.max = self.logits.iter().fold(f32::NEG_INFINITY, |max, &logit| if logit > max { logit } else { max });
    }

    /// The largest legal logit.
    pub(super) fn max(&self) -> f32 {
        self.max
    }

    /// ln of the sum of exp((logit - max) * scale) over the legal children.
    pub(super) fn log_sum(&self, scale: f32) -> f32 {
        let mut stripes = [0.0f32; STRIPES];
        for block in self.logits.chunks(STRIPES) {
            for (sum, &logit) in stripes.iter_mut().zip(block) {
                *sum += exp((logit - self.max) * scale);
            }
        }
        let used = self.logits.len().div_ceil(FOLDED).min(STRIPES / FOLDED);
        let folded = stripes.chunks_exact_mut(FOLDED).take(used).map(|stripes| {
            let mut half = FOLDED / 2;
            while half > 0 {
                for i in 0..half {
                    stripes[i] += stripes[i + half];
                }
                half /= 2;
            }
            stripes[0]
        });
        ln(folded.fold(0.0, |sum, part| sum + part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_run_over_legal_children_only() {
        for count in [1u32, 2, 31, 33, 255, 256, 257, 1000] {
            let codes: Vec<u16> = (0..count as u16 + 5).rev().collect();
            let logits: Vec<f32> = (0..count + 5).map(|code| ((code * 37) % 101) as f32 / 10.0).collect();
            let banned: Vec<u32> = (0..count + 5).filter(|node| node % 3 == 1).collect();
            let mut masked = Masked::default();
            masked.gather(Legal { banned: &banned, ..Legal::default() }, 3..3 + count, (&codes, &logits));
            let of = |node: u32| f64::from(logits[usize::from(codes[node as usize])]);
            let legal = (3..3 + count).filter(|node| node % 3 != 1).map(of);
            let max = legal.clone().fold(f64::NEG_INFINITY, f64::max);
            assert_eq!(f64::from(masked.max()), max);
            for scale in [1.0, 0.25, 4.0] {
                let exact = legal.clone().map(|x| ((x - max) * f64::from(scale)).exp()).sum::<f64>().ln();
                let sum = masked.log_sum(scale);
                assert!(
                    (f64::from(sum) - exact).abs() < 1e-6,
                    "{count} children, scale {scale}: {sum} and not {exact}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_number_spoils_the_sum_and_nothing_else() {
        let codes = [0, 1, 2];
        let mut masked = Masked::default();
        masked.gather(Legal::default(), 0..3, (&codes, &[1.0, f32::NAN, 2.0]));
        assert_eq!(masked.max(), 2.0);
        assert!(masked.log_sum(1.0).is_nan());
        masked.gather(Legal { banned: &[1], ..Legal::default() }, 0..3, (&codes, &[1.0, f32::NAN, 1.0]));
        assert_eq!(masked.log_sum(1.0), ln(2.0));
    }
}
