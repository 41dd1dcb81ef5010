"""Semantic IDs: residual k-means over item embeddings learnt from training interactions, genres and years.

An item's embedding says which items are rated near it in time; its code tuple is coarse to fine: level 1 is its
cluster, level 2 the cluster of what level 1 leaves over, level 3 likewise. k-means is weighted by popularity, so that
codes are spent where recommendations happen. Leaves are then made small: an item that is rated often gets a leaf of its
own, rare ones share.
"""

import numpy as np

CONTEXT_ITEMS = 10        # co-occurrence window, in items of one user's sequence
CONTEXT_DECAY = 0.9       # weight of a neighbour one step further away
DIMENSIONS = 64           # of the collaborative embedding
HEAD_WEIGHT = 3           # training interactions from which an item gets a leaf of its own
LEAF_ITEMS_MAX = 4        # rare items that may share a leaf


def cooccurrence(sequences, items):
    """[items, items] float32, symmetric: decayed counts of pairs within CONTEXT_ITEMS of each other."""
    counts = np.zeros((items, items), np.float32)
    for sequence in sequences:
        s = np.asarray(sequence)
        for step in range(1, CONTEXT_ITEMS + 1):
            counts[s[:-step], s[step:]] += CONTEXT_DECAY ** (step - 1)  # a user rates an item once: no repeated pair
    return counts + counts.T


def ppmi(counts):
    """Positive pointwise mutual information, context distribution smoothed by the power 0.75. [items, items]"""
    row = counts.sum(1)
    context = row ** 0.75
    context /= max(context.sum(), 1e-9)
    expected = row[:, None] * context[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log(counts / expected)
    return np.where(counts > 0, np.maximum(pmi, 0), 0).astype(np.float32)


def truncated_svd(matrix, dimensions, rng, rounds=6):
    """Left singular vectors scaled by the square root of their values, by subspace iteration. [rows, dimensions]"""
    basis = rng.standard_normal((matrix.shape[1], dimensions + 16)).astype(np.float32)
    for _ in range(rounds):
        basis, _ = np.linalg.qr(matrix.T @ (matrix @ basis))
    u, s, _ = np.linalg.svd(matrix @ basis, full_matrices=False)
    return u[:, :dimensions] * np.sqrt(s[:dimensions])


def unit(x):
    """Rows scaled to length 1; zero rows stay zero."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


def item_embeddings(data, rng):
    """[items, DIMENSIONS + genres + 1]: collaborative part (trusted as far as an item was rated), genres, year."""
    popularity = data.popularity()
    items = len(popularity)
    collaborative = unit(truncated_svd(ppmi(cooccurrence(data.train(), items)), DIMENSIONS, rng))
    collaborative *= (popularity / (popularity + 3.0))[:, None]
    names = sorted({g for gs in data.genres for g in gs})
    genres = np.zeros((items, len(names)))
    for row, gs in enumerate(data.genres):
        genres[row, [names.index(g) for g in gs]] = 1
    years = np.nan_to_num((data.years - 1990) / 20, nan=0.0).clip(-2, 2)
    return np.concatenate([collaborative, 0.4 * unit(genres), 0.2 * years[:, None]], axis=1)


def kmeans(points, weights, k, rng, rounds=40):
    """Weighted Lloyd from a k-means++ start. Returns ([n] codes, [k, d] centroids)."""
    nearest = np.full(len(points), np.inf)
    centroids = np.empty((k, points.shape[1]))
    for j in range(k):
        p = weights if j == 0 else weights * nearest
        centroids[j] = points[rng.choice(len(points), p=p / p.sum())]
        nearest = np.minimum(nearest, ((points - centroids[j]) ** 2).sum(1))
    for _ in range(rounds):
        codes = distances(points, centroids).argmin(1)
        for j in range(k):
            mine = codes == j
            if mine.any():
                centroids[j] = np.average(points[mine], axis=0, weights=weights[mine])
    return distances(points, centroids).argmin(1), centroids


def distances(points, centroids):
    """Squared distances. [n, k]"""
    return (points ** 2).sum(1)[:, None] - 2 * points @ centroids.T + (centroids ** 2).sum(1)[None, :]


def semantic_ids(data, codes, seed):
    """[items, 3] int64 code tuples, `codes` codes a level, deterministic in `seed`."""
    rng = np.random.default_rng(seed)
    residual = item_embeddings(data, rng)
    popularity = data.popularity()
    weights = np.sqrt(popularity + 1.0)
    sids = np.zeros((len(residual), 3), np.int64)
    for level in range(2):
        sids[:, level], centroids = kmeans(residual, weights, codes, rng)
        residual = residual - centroids[sids[:, level]]
    _, centroids = kmeans(residual, weights, codes, rng)
    sids[:, 2] = place(sids[:, :2], distances(residual, centroids), popularity)
    return sids


def place(prefixes, cost, popularity):
    """Last codes, given out in popularity order: the nearest code whose leaf has room. Then each prefix renumbers its
    codes in the order in which it gave them out, most popular leaf first: a prefix has few leaves, "the popular one" is
    easily learnt, and which of `codes` numbers it happened to get is not. [items]"""
    codes = cost.shape[1]
    last = np.zeros(len(prefixes), np.int64)
    used = {}  # prefix -> ([codes] room taken, in LEAF_ITEMS_MAX-ths of a leaf; {code: its new number})
    for item in np.argsort(-popularity, kind="stable"):
        taken, number = used.setdefault(tuple(prefixes[item]), (np.zeros(codes, np.int64), {}))
        need = LEAF_ITEMS_MAX if popularity[item] >= HEAD_WEIGHT else 1
        room = taken + need <= LEAF_ITEMS_MAX
        # A prefix with more items than room shares its emptiest leaf rather than lose an item.
        code = int(np.where(room, cost[item], np.inf).argmin() if room.any() else taken.argmin())
        taken[code] += need
        last[item] = number.setdefault(code, len(number))
    return last
