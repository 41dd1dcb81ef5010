//! Which children a request may expand: the one place on this device that decides it.

use std::ops::Range;

use crate::catalog::bits;

/// What a beam may expand at one level: nodes that the request's mask has, if it has one, and that are neither banned nor spent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Legal<'a> {
    /// A bit a node of the level.
    pub(super) mask: Option<&'a [u64]>,
    /// Banned nodes of the level, sorted.
    pub(super) banned: &'a [u32],
    /// Nodes of the level below which the beam's list has everything, sorted; what is no node is at the end.
    pub(super) spent: &'a [u32],
}

impl<'a> Legal<'a> {
    /// The legal nodes among `nodes`, as ascending runs that are not empty.
    pub(super) fn runs(self, nodes: Range<u32>) -> impl Iterator<Item = Range<u32>> + 'a {
        let from = |list: &'a [u32]| &list[list.partition_point(|&node| node < nodes.start)..];
        let mut excluded = [from(self.banned), from(self.spent)];
        let mut at = nodes.start;
        std::iter::from_fn(move || {
            loop {
                at = self.next(true, at, nodes.end);
                if at >= nodes.end {
                    return None;
                }
                for list in &mut excluded {
                    let passed = list.iter().take_while(|&&node| node < at).count();
                    *list = &list[passed..];
                }
                if !excluded.iter().any(|list| list.first() == Some(&at)) {
                    break;
                }
                at += 1;
            }
            let start = at;
            let end = excluded.iter().filter_map(|list| list.first()).fold(nodes.end, |end, &node| end.min(node));
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
            spent in proptest::collection::btree_set(0u32..200, 0..6),
            with_mask in any::<bool>(),
            (start, len) in (0u32..150, 0u32..50),
        ) {
            let mut words = vec![0; bits::words(allowed.len())];
            allowed.iter().enumerate().for_each(|(node, &value)| bits::put(&mut words, node, value));
            let banned: Vec<u32> = banned.into_iter().collect();
            let spent: Vec<u32> = spent.into_iter().chain([u32::MAX, u32::MAX]).collect();
            let legal = Legal { mask: with_mask.then_some(&words), banned: &banned, spent: &spent };
            let runs: Vec<Range<u32>> = legal.runs(start..start + len).collect();
            prop_assert!(runs.iter().all(|run| !run.is_empty()));
            prop_assert!(runs.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let is_out = |node: &u32| banned.contains(node) || spent.contains(node);
            let is_legal = |node: &u32| (!with_mask || allowed[*node as usize]) && !is_out(node);
            let expected: Vec<u32> = (start..start + len).filter(is_legal).collect();
            prop_assert_eq!(runs.into_iter().flatten().collect::<Vec<_>>(), expected);
        }
    }
}
