"""Instruction-guided retrieval, in NumPy: which items of a long history the encoder reads. The definition that the engine is held to.

The query is made of the instructions, the keys of the items (oxygenrec_inputs.py); here they are vectors already.
"""
import numpy as np


def similarities(query, keys):
    """Cosines in f32, [n]. query: [D]; keys: [n, D]. A vector of length 0 is similar to nothing: 0."""
    query, keys = np.asarray(query, np.float32), np.asarray(keys, np.float32)
    lengths = np.sqrt((keys * keys).sum(1)) * np.sqrt((query * query).sum())
    return np.divide(keys @ query, lengths, out=np.zeros(len(keys), np.float32), where=lengths > 0)


def retrieve(query, keys, top_k, keep_newest=0, min_similarity=-1.0):
    """-> rows kept, ascending (the history's own order, oldest first). The newest `keep_newest` stay whatever they are; of the
    others the `top_k` most similar that reach `min_similarity`, of equal ones the newer. -1 asks for nothing."""
    older = max(len(keys) - keep_newest, 0)
    found = similarities(query, keys[:older])
    fit = [i for i in range(older) if min_similarity <= -1 or found[i] >= min_similarity]
    fit.sort(key=lambda i: (-found[i], -i))
    return sorted(fit[:top_k]) + list(range(older, len(keys)))


def closest_call(query, keys, top_k, keep_newest=0, min_similarity=-1.0):
    """The smallest difference of similarities on which `retrieve` hangs, but for exact ties."""
    older = max(len(keys) - keep_newest, 0)
    found = similarities(query, keys[:older]).astype(np.float64)
    gaps = [] if min_similarity <= -1 else list(abs(found - min_similarity))
    fit = sorted(f for f in found if min_similarity <= -1 or f >= min_similarity)[::-1]
    if 0 < top_k < len(fit) and fit[top_k - 1] != fit[top_k]:
        gaps.append(fit[top_k - 1] - fit[top_k])
    return min(gaps, default=float("inf"))
