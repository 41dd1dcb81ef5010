"""The teacher: which items follow which, counted on the training part.

A tiny data set gives a transformer few examples of each item. Counting is better at that, so the model also learns from
a distribution over leaves computed from counts: for a history, the sum over its newest items of their (decayed) follower
counts, divided by the follower's own frequency to the power 0.5. Unlike one next item, it names all plausible ones at once.
"""

import numpy as np

from sids import CONTEXT_DECAY, CONTEXT_ITEMS

NEWEST_ITEMS = 10         # of the history that count
RECENCY = 0.85            # weight of an item one place older
FREQUENCY_POWER = 0.5
FREQUENCY_SHIFT = 5.0
SHARPNESS = 1.5           # power of the summed scores: the head of the list matters


class Teacher:
    """Follower counts by leaf."""

    def __init__(self, sequences, catalogue):
        items = len(catalogue.sids)
        counts = np.zeros((items, items), np.float32)      # counts[i, j]: j was rated up to CONTEXT_ITEMS after i
        for sequence in sequences:
            s = np.asarray(sequence)
            for step in range(1, CONTEXT_ITEMS + 1):
                counts[s[:-step], s[step:]] += CONTEXT_DECAY ** (step - 1)
        counts /= (counts.sum(0, keepdims=True) + FREQUENCY_SHIFT) ** FREQUENCY_POWER
        self.catalogue, self.counts = catalogue, counts
        order = np.argsort(catalogue.leaf_of, kind="stable")
        starts = np.searchsorted(catalogue.leaf_of[order], np.arange(len(catalogue.leaves)))
        self.follow = np.add.reduceat(counts[:, order], starts, axis=1)                    # [items, leaves]
        self.roots, self.root_starts = np.unique(catalogue.prefixes // catalogue.codes, return_index=True)
        self.starts = np.searchsorted(catalogue.prefix_of, np.arange(len(catalogue.prefixes)))

    def leaf_scores(self, histories):
        """[b, leaves] float32, rows sum to 1 (or are 0: nothing known); items of the history take no part."""
        out = np.zeros((len(histories), len(self.catalogue.leaves)), np.float32)
        for row, history in zip(out, histories):
            newest = history[-NEWEST_ITEMS:]
            if newest:
                weight = (RECENCY ** np.arange(len(newest))[::-1]).astype(np.float32)
                row += weight @ self.follow[newest]
                np.subtract.at(row, self.catalogue.leaf_of[history], weight @ self.counts[np.ix_(newest, history)])
        np.maximum(out, 0, out=out)
        out **= SHARPNESS
        return out / np.maximum(out.sum(1, keepdims=True), 1e-9)

    def sample(self, scores, k, rng):
        """[b, k] leaf rows drawn from each row of scores, -1 where it is empty."""
        cumulative = scores.cumsum(1)
        at = rng.random((len(scores), k)).astype(np.float32) * cumulative[:, -1:] * 0.9999
        drawn = np.stack([np.searchsorted(c, a, side="right") for c, a in zip(cumulative, at)])
        return np.where(cumulative[:, -1:] > 0, drawn, -1)

    def conditionals(self, scores, leaf):
        """For each leaf row of [b, k], the distribution over codes at each level given the leaf's own prefix.
        [b, k, 3, codes] float32; rows sum to 1, or are 0 where the scores know nothing below that prefix."""
        catalogue, rows = self.catalogue, np.arange(len(leaf))[:, None, None]
        nothing = np.zeros((len(leaf), 1), np.float32)
        leaves = np.concatenate([scores, nothing], 1)
        prefixes = np.concatenate([np.add.reduceat(scores, self.starts, axis=1), nothing], 1)
        out = np.zeros((*leaf.shape, 3, catalogue.codes), np.float32)
        out[:, :, 0, self.roots] = np.add.reduceat(prefixes, self.root_starts, axis=1)[:, None]
        out[:, :, 1] = prefixes[rows, catalogue.second[catalogue.codes_of(leaf)[:, :, 0]]]
        out[:, :, 2] = leaves[rows, catalogue.third[catalogue.prefix_of[leaf]]]
        return out / np.maximum(out.sum(3, keepdims=True), 1e-9)
