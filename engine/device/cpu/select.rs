//! Trie expansion and selection: the best B children of a request's beams, exactly as brute force would find them.
//!
//! A candidate is one `u64`: score, parent rank and code, packed so that a larger number is a better candidate. Scores,
//! then ranks, then codes decide, which is the order that the search promises, and no two candidates are equal; so any
//! selection algorithm gives the same set. Candidates are collected above a rising threshold and cut back to the best B
//! whenever twice as many are held: linear in the children looked at. A beam whose best imaginable child cannot pass the
//! threshold is skipped without looking at its children.
//!
//! NaN scores count as negative infinity: they lose to everything, and among themselves order by rank and code.

use std::ops::Range;

use super::legal::Legal;
use super::masked::Masked;
use super::{Isa, reduce};
use crate::sampling::{LogProb, Sampling, SamplingKind};

/// What one request's selection reads.
pub(super) struct Expansion<'a> {
    /// Code of each node of the level: `[nodes]`.
    pub(super) codes: &'a [u16],
    /// Tokens chosen before: what noise is a function of.
    pub(super) step: u32,
    /// Beams to keep.
    pub(super) beams: usize,
    /// Draws children instead of keeping the best.
    pub(super) sampling: Option<Sampling>,
    pub(super) isa: Isa,
}

/// A live beam, as a parent.
#[derive(Clone)]
pub(super) struct Parent<'a> {
    pub(super) score: f32,
    /// Sum of behaviour log-probabilities, where beams are distinct samples.
    pub(super) log_prob: f32,
    /// Perturbed log-probability, where beams are distinct samples.
    pub(super) key: f32,
    /// Nodes of the level below it.
    pub(super) children: Range<u32>,
    /// Which of them may be candidates.
    pub(super) legal: Legal<'a>,
    /// Logits of the level's codes.
    pub(super) logits: &'a [f32],
    /// The head's; without one, the log-sum-exp over the legal children.
    pub(super) lognorm: Option<f32>,
}

/// A chosen child.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Child {
    /// What it was chosen by, if it was compared with others': its score, or its perturbed log-probability.
    pub(super) key: f32,
    pub(super) parent_rank: usize,
    pub(super) code: u16,
}

/// What turns a beam's logits into log-probabilities.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Norm {
    pub(super) lognorm: f32,
    /// Largest legal logit, ln of the sum of exp((logit - max) * scale), and scale; of sampled beams.
    pub(super) max: f32,
    pub(super) log_sum: f32,
    pub(super) scale: f32,
}

/// Candidates of one request; reused from step to step.
#[derive(Default)]
pub(super) struct Candidates {
    keys: Vec<u64>, // [at most 2 * beams]
    /// All keys above it are held; 0 while every candidate is.
    pub(super) threshold: u64,
    pub(super) chosen: Vec<Child>, // [at most beams] what the last selection chose, in order
    pub(super) norms: Vec<Norm>,   // [parents]
    pub(super) masked: Masked,
    pub(super) noise: Vec<f32>, // [children of a beam]
}

impl Candidates {
    /// Room for the candidates of `beams` beams.
    fn begin(&mut self, beams: usize) {
        self.keys.clear();
        self.keys.reserve(2 * beams);
        self.chosen.clear();
        self.norms.clear();
        self.threshold = 0; // below every key: even negative infinity packs to more
    }

    /// Chooses children. `parents` come in rank order.
    pub(super) fn select<'a>(&mut self, expansion: &Expansion, parents: impl Iterator<Item = Parent<'a>>) {
        self.begin(expansion.beams);
        match &expansion.sampling {
            None => self.rank(expansion, parents),
            Some(sampling) => match sampling.kind {
                SamplingKind::Independent => return self.draw(expansion, sampling, parents),
                SamplingKind::Distinct => self.perturb(expansion, sampling, parents),
            },
        }
        if self.keys.len() > expansion.beams {
            self.keep(expansion.beams);
        }
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        self.chosen.extend(self.keys.iter().map(|&key| Child {
            key: score_of(key),
            parent_rank: 0xffff - (key >> 16 & 0xffff) as usize,
            code: 0xffff - (key & 0xffff) as u16,
        }));
    }

    /// Offers every legal child with its score.
    fn rank<'a>(&mut self, expansion: &Expansion, parents: impl Iterator<Item = Parent<'a>>) {
        for (rank, parent) in parents.enumerate() {
            if self.threshold > 0 && cannot_pass(expansion, &parent, self.threshold) {
                self.norms.push(Norm::default()); // no child of it is kept
                continue;
            }
            let lognorm = parent.lognorm.unwrap_or_else(|| self.legal_lognorm(expansion, &parent));
            self.norms.push(Norm { lognorm, ..Norm::default() });
            for run in parent.legal.runs(parent.children.clone()) {
                for &code in &expansion.codes[run.start as usize..run.end as usize] {
                    let score = parent.score + (parent.logits[usize::from(code)] - lognorm);
                    self.offer(key(score, rank, code), expansion.beams);
                }
            }
        }
    }

    /// Holds a candidate unless it cannot be among the best `beams`.
    #[inline]
    pub(super) fn offer(&mut self, key: u64, beams: usize) {
        if key > self.threshold {
            if self.keys.len() == 2 * beams {
                self.threshold = self.keep(beams);
                if key < self.threshold {
                    return;
                }
            }
            self.keys.push(key);
        }
    }

    /// Log-sum-exp over the legal children of a beam; at least the largest legal logit.
    fn legal_lognorm(&mut self, expansion: &Expansion, parent: &Parent) -> f32 {
        self.masked.gather(parent.legal, parent.children.clone(), (expansion.codes, parent.logits));
        self.masked.max() + self.masked.log_sum(1.0)
    }

    /// Cuts the candidates to the best `beams` and returns the worst of them.
    fn keep(&mut self, beams: usize) -> u64 {
        let worst = *self.keys.select_nth_unstable_by(beams - 1, |a, b| b.cmp(a)).1;
        self.keys.truncate(beams);
        worst
    }

    /// Log-probabilities of a chosen child.
    pub(super) fn log_prob(&self, child: &Child, sampled: Option<Sampling>, logit: f32) -> LogProb {
        let Norm { lognorm, max, log_sum, scale } = self.norms[child.parent_rank];
        let raw = logit - lognorm;
        LogProb { behaviour: sampled.map_or(raw, |_| (logit - max) * scale - log_sum), raw }
    }
}

/// Whether no child of `parent` can beat `threshold`. The bound is exact in f32: rounding is monotone, so no child's score,
/// computed by the same operations, exceeds the one of the row's largest logit. A normaliser over the legal children is not
/// less than any of their logits, so that no child's score exceeds its beam's.
fn cannot_pass(expansion: &Expansion, parent: &Parent, threshold: u64) -> bool {
    let Some(lognorm) = parent.lognorm else { return parent.score < score_of(threshold) };
    // The scan reads logits in order, 16 at a time; it pays when it replaces a fair number of scattered reads.
    if parent.children.len() * 16 < parent.logits.len() {
        return false;
    }
    let bound = parent.score + (reduce::max(expansion.isa, parent.logits) - lognorm);
    bound < score_of(threshold)
}

/// A score as a selection keeps it: NaN loses to everything, and -0 is 0.
pub(super) fn settled(score: f32) -> f32 {
    if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 }
}

/// Packs a candidate; larger is better.
pub(super) fn key(score: f32, rank: usize, code: u16) -> u64 {
    // Flipping the sign bit, or all bits of a negative number, makes the bits of a float order as the float does.
    let bits = settled(score).to_bits();
    let ordered = bits ^ (((bits as i32) >> 31) as u32 | 0x8000_0000);
    u64::from(ordered) << 32 | u64::from(0xffff - rank as u16) << 16 | u64::from(0xffff - code)
}

pub(super) fn score_of(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    let bits = if ordered >> 31 == 1 { ordered ^ 0x8000_0000 } else { !ordered };
    f32::from_bits(bits)
}

/// The node of `code` among `children`.
pub(super) fn child_node(codes: &[u16], children: Range<u32>, code: u16) -> u32 {
    let place = codes[children.start as usize..children.end as usize].partition_point(|&other| other < code);
    children.start + place as u32
}
