"""Beam search over the catalogue's trie, exactly as the server does it, and the figures HR@10 and NDCG@10.

A beam's score is the sum of log-softmax over the whole vocabulary; illegal children are dropped and nothing is
renormalised. Items of the user's history are banned exactly: a leaf whose every item is banned, and a prefix whose every
leaf is, does not exist for that request. Leaves are expanded to items in weight order, banned ones skipped.
"""

import numpy as np
import torch

from t5 import EOS, FIRST_TOKEN, PAD, decode, encode

BEAMS = 50
TOP = 10


def prompt(history, sids, codes, max_items):
    """Encoder tokens of the newest `max_items` items, oldest first, then EOS."""
    tokens = sids[history[-max_items:]] + FIRST_TOKEN + codes * np.arange(3) if len(history) else np.zeros((0, 3), int)
    return tokens.reshape(-1).tolist() + [EOS]


def pad(rows):
    """Ragged token lists -> [b, longest] int64, PAD on the right."""
    out = np.full((len(rows), max(map(len, rows))), PAD)
    for row, tokens in zip(out, rows):
        row[:len(tokens)] = tokens
    return torch.from_numpy(out)


class Catalogue:
    """Semantic IDs of all items as a trie: rows of existing prefixes and leaves, in code order."""

    def __init__(self, sids, weights, codes):
        self.sids, self.codes = sids, codes
        key = (sids * np.array([codes * codes, codes, 1])).sum(1)
        self.leaves, self.leaf_of, self.leaf_count = np.unique(key, return_inverse=True, return_counts=True)
        self.prefixes, self.prefix_of = np.unique(self.leaves // codes, return_inverse=True)    # of two codes; [leaves]
        # Absent children point one past the end, where callers keep a row that is always dead.
        self.second = np.full((codes, codes), len(self.prefixes))                               # -> prefix row
        self.second[self.prefixes // codes, self.prefixes % codes] = np.arange(len(self.prefixes))
        self.third = np.full((len(self.prefixes) + 1, codes), len(self.leaves))                 # -> leaf row
        self.third[self.prefix_of, self.leaves % codes] = np.arange(len(self.leaves))
        self.leaf_items = [[] for _ in self.leaves]
        for item in np.argsort(-weights, kind="stable"):                      # weight order, ties by id
            self.leaf_items[self.leaf_of[item]].append(int(item))

    def codes_of(self, leaf):
        """Code tuples of leaf rows. [..., 3]"""
        key, codes = self.leaves[leaf], self.codes
        return np.stack([key // codes ** 2, key // codes % codes, key % codes], -1)

    def legal(self, banned):
        """Boolean [1, codes], [codes, codes], [prefixes + 1, codes]: children with an allowed item, by level."""
        left = np.append(self.leaf_count, 0)
        np.subtract.at(left, self.leaf_of[banned], 1)
        third = (left > 0)[self.third]
        second = third.any(1)[self.second]
        return [torch.from_numpy(a) for a in (second.any(1)[None], second, third)]


@torch.no_grad()
def search(model, catalogue, histories, max_items, beams=BEAMS, batch=32, prompts=None):
    """[users] ranked lists of (leaf row, score), best first, ties by parent rank then code. `prompts` replaces the encoder
    tokens made from the histories, which are then only bans."""
    model.eval()
    codes, results = catalogue.codes, []
    prompts = prompts or [prompt(h, catalogue.sids, codes, max_items) for h in histories]
    for start in range(0, len(histories), batch):
        states, mask = encode(model, pad(prompts[start:start + batch]))
        results += beam(catalogue, histories[start:start + batch], lambda tokens: decode(model, states, mask, tokens)[:, :, -1], beams)
    return results


def beam(catalogue, histories, step, beams):
    """`search` of one batch. `step`: decoder tokens [b, beams, 1 + level] -> log-probabilities of the next, [b, beams, vocab]."""
    codes, results = catalogue.codes, []
    second = torch.from_numpy(catalogue.second)
    legal = [catalogue.legal(h) for h in histories]
    tokens = torch.full((len(histories), 1, 1), PAD)                          # [b, beams, 1 + level]
    scores = torch.zeros(len(histories), 1)                                   # [b, beams]
    node = torch.zeros(len(histories), 1, dtype=torch.long)                   # [b, beams] row among the level's nodes
    for level in range(3):
        first = FIRST_TOKEN + level * codes
        found = step(tokens)[:, :, first:first + codes]
        children = torch.stack([l[level][n] for l, n in zip(legal, node)])                    # [b, beams, codes]
        candidates = (scores[:, :, None] + found).masked_fill(~children, -torch.inf).flatten(1)
        scores, order = candidates.sort(dim=1, descending=True, stable=True)
        scores, order = scores[:, :beams], order[:, :beams]
        parent, code = order // codes, order % codes
        tokens = torch.cat([tokens.gather(1, parent[:, :, None].expand(-1, -1, level + 1)), code[:, :, None] + first], 2)
        node = code if level == 0 else second[node.gather(1, parent), code] if level == 1 else node.gather(1, parent)
    leaf = torch.from_numpy(catalogue.third)[node, code]
    for row_leaf, row_score in zip(leaf.tolist(), scores.tolist()):
        results.append([(l, s) for l, s in zip(row_leaf, row_score) if s > -float("inf")])
    return results


def recommend(model, catalogue, histories, max_items, top=TOP, **kw):
    """[users] lists of at most `top` items."""
    return [expand(catalogue, leaves, history, top)
            for history, leaves in zip(histories, search(model, catalogue, histories, max_items, **kw))]


def expand(catalogue, leaves, history, top=TOP):
    """The first `top` items of ranked leaves that are not in the history."""
    seen = set(history)
    return [i for leaf, _ in leaves for i in catalogue.leaf_items[leaf] if i not in seen][:top]


def most_popular(weights, histories, top=TOP):
    """[users] lists: the items with most training interactions that the user has not rated."""
    order = np.argsort(-weights, kind="stable")
    lists = []
    for history in histories:
        seen = set(history)
        lists.append([int(i) for i in order[:len(seen) + top] if i not in seen][:top])
    return lists


def figures(lists, targets, top=TOP):
    """(HR@top, NDCG@top) of one relevant item a user."""
    gains = [1 / np.log2(l.index(t) + 2) if t in l else 0.0 for l, t in zip(lists, targets.tolist())]
    return float(np.mean(np.array(gains) > 0)), float(np.mean(gains))
