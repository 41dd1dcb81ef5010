//! Which children a request may expand: the one place on this device that decides it.

use std::ops::Range;

use crate::catalog::bits;

/// What a request may expand at one level: nodes that its mask has, if it has one, and that are not banned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Legal<'a> {
    /// A bit a node of the level.
    pub(super) mask: Option<&'a [u64]>,
    /// Banned nodes of the level, sorted.
    pub(super) banned: &'a [u32],
}

impl<'a> Legal<'a> {
    /// The legal nodes among `nodes`, as ascending runs that are not empty.
    pub(super) fn runs(self, nodes: Range<u32>) -> impl Iterator<Item = Range<u32>> + 'a {
        let mut banned = &self.banned[self.banned.partition_point(|&node| node < nodes.start)..];
        let mut at = nodes.start;
        std::iter::from_fn(move || {
            loop {
                at = self.next(true, at, nodes.end);
                if at >= nodes.end {
                    return None;
                }
                let passed = banned.iter().take_while(|&&node| node < at).count();
                banned = &banned[passed..];
                if banned.first() != Some(&at) {
                    break;
                }
                at += 1;
            }
            let start = at;
            let end = banned.first().map_or(nodes.end, |&node| node.min(nodes.end));
            at = self.next(false, start, end);
            Some(start..at)
        })
    }

    /// The first node from `from` on, below `end`, that the mask allows or not; `end` if there is none.
    fn next(self, allowed: bool, from: u32, end: u32) -> u32 {
        match self.mask {
            Some(mask) => bits::next(mask, allowed, from as usize, end as usize) as u32,
            None if allowed => from,
            None => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_hold_what_is_legal_and_nothing_else(
            allowed in proptest::collection::vec(proptest::bool::weighted(0.7), 200),
            banned in proptest::collection::btree_set(0u32..200, 0..60),
            with_mask in any::<bool>(),
            (start, len) in (0u32..150, 0u32..50),
        ) {
            let mut words = vec![0; bits::words(allowed.len())];
            allowed.iter().enumerate().for_each(|(node, &value)| bits::put(&mut words, node, value));
            let banned: Vec<u32> = banned.into_iter().collect();
            let legal = Legal { mask: with_mask.then_some(&words), banned: &banned };
            let runs: Vec<Range<u32>> = legal.runs(start..start + len).collect();
            prop_assert!(runs.iter().all(|run| !run.is_empty()));
            prop_assert!(runs.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let is_legal = |node: &u32| (!with_mask || allowed[*node as usize]) && !banned.contains(node);
            let expected: Vec<u32> = (start..start + len).filter(is_legal).collect();
            prop_assert_eq!(runs.into_iter().flatten().collect::<Vec<_>>(), expected);
        }
    }
}
