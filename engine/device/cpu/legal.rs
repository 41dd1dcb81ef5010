//! Which children a request may expand: the one place on this device that decides it.

use std::ops::Range;

/// What a request may expand at one level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Legal<'a> {
    /// Banned nodes of the level, sorted.
    pub(super) banned: &'a [u32],
}

impl<'a> Legal<'a> {
    /// The legal nodes among `nodes`, as ascending runs.
    pub(super) fn runs(self, nodes: Range<u32>) -> impl Iterator<Item = Range<u32>> + 'a {
        let from = self.banned.partition_point(|&node| node < nodes.start);
        let mut banned = self.banned[from..].iter().copied().take_while(move |&node| node < nodes.end);
        let mut next = Some(nodes.start);
        std::iter::from_fn(move || {
            let start = next?;
            let end = banned.next();
            next = end.map(|node| node + 1);
            Some(start..end.unwrap_or(nodes.end).max(start))
        })
    }
}
