//! Sampling in place of the best children: independent sequences, and stochastic beam search.
//!
//! Both perturb (logit - max) / temperature of each legal child with Gumbel noise. A sequence's child with the largest sum
//! is a draw from the softmax over legal children. Perturbed log-probabilities of all semantic IDs, of which the largest are
//! a sample without replacement, are found top-down: a child's is conditioned on the largest of its siblings' being the
//! parent's (Kool, van Hoof and Welling 2019), so none exceeds its parent's.

use super::select::{Candidates, Child, Expansion, Norm, Parent, key, score_of};
use crate::device::noise::{Noise, conditioned};
use crate::sampling::Sampling;

impl Candidates {
    /// Draws one child for each beam; at the first step, for each of the request's sequences. Beams without a legal child end.
    pub(super) fn draw<'a>(
        &mut self,
        expansion: &Expansion,
        sampling: &Sampling,
        parents: impl Iterator<Item = Parent<'a>>,
    ) {
        for (rank, parent) in parents.enumerate() {
            let norm = self.normalize(expansion, sampling, &parent);
            let sequences = match expansion.step {
                0 => 0..expansion.beams as u32,
                _ => rank as u32..rank as u32 + 1,
            };
            for sequence in sequences {
                Noise::new(sampling, expansion.step, sequence).fill(parent.children.clone(), &mut self.noise);
                let mut most = 0;
                for node in parent.legal.runs(parent.children.clone()).flatten() {
                    let code = expansion.codes[node as usize];
                    most = most.max(key(self.perturbed(&norm, &parent, (node, code)), 0, code));
                }
                if most > 0 {
                    self.chosen.push(Child { key: 0.0, parent_rank: rank, code: 0xffff - (most & 0xffff) as u16 });
                }
            }
        }
    }

    /// Offers every legal child with its perturbed log-probability.
    pub(super) fn perturb<'a>(
        &mut self,
        expansion: &Expansion,
        sampling: &Sampling,
        parents: impl Iterator<Item = Parent<'a>>,
    ) {
        for (rank, parent) in parents.enumerate() {
            if self.threshold > 0 && parent.key < score_of(self.threshold) {
                self.norms.push(Norm::default()); // no child of it is kept
                continue;
            }
            let norm = self.normalize(expansion, sampling, &parent);
            Noise::new(sampling, expansion.step, 0).fill(parent.children.clone(), &mut self.noise);
            let first = parent.children.start;
            let mut most = f32::NEG_INFINITY;
            for node in parent.legal.runs(parent.children.clone()).flatten() {
                let sum = self.perturbed(&norm, &parent, (node, expansion.codes[node as usize]));
                self.noise[(node - first) as usize] = sum;
                most = if sum > most { sum } else { most };
            }
            // The largest unconditioned perturbed log-probability of a child, from which the parent's may differ.
            let rise = parent.key - ((parent.log_prob - norm.log_sum) + most);
            for node in parent.legal.runs(parent.children.clone()).flatten() {
                let conditioned = conditioned(parent.key, rise, most - self.noise[(node - first) as usize]);
                self.offer(key(conditioned, rank, expansion.codes[node as usize]), expansion.beams);
            }
        }
    }

    /// Normalises over the legal children, and keeps that for the beam.
    fn normalize(&mut self, expansion: &Expansion, sampling: &Sampling, parent: &Parent) -> Norm {
        self.masked.gather(parent.legal, parent.children.clone(), (expansion.codes, parent.logits));
        let norm = Norm {
            lognorm: parent.lognorm.unwrap_or_else(|| self.masked.max() + self.masked.log_sum(1.0)),
            max: self.masked.max(),
            log_sum: self.masked.log_sum(sampling.scale()),
            scale: sampling.scale(),
        };
        self.norms.push(norm);
        norm
    }

    fn perturbed(&self, norm: &Norm, parent: &Parent, (node, code): (u32, u16)) -> f32 {
        let noise = self.noise[(node - parent.children.start) as usize];
        (parent.logits[usize::from(code)] - norm.max) * norm.scale + noise
    }
}
