"""The demo's OxygenREC model in batches: instructions, histories, retrieval and search of many requests at once.

`oxygenrec_inputs.py` says the same for one request; `evaluate_oxygenrec.py` holds the two against each other.
"""

import pathlib
import sys
from dataclasses import dataclass

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from oxygenrec_inputs import through  # noqa: E402

from moods import era  # noqa: E402
from search import BEAMS, TOP, beam, expand  # noqa: E402

PAD, FIRST_TOKEN = 0, 2
HOME, TONIGHT = 1, 2                # scenario ids
NEWEST = 24                         # history items read without retrieval
KEEP_NEWEST, TOP_K = 8, 16          # with it, out of LONGEST
LONGEST = 512


@dataclass
class Ask:
    """What a request says; items as rows."""

    history: list                   # oldest first
    scenario: int = HOME
    trigger: int | None = None
    mood: np.ndarray | None = None


def feature_rows(data):
    """[items, 3]: rows of the tables item, genres (sets of genres, in order of first appearance) and era."""
    sets = {}
    genres = [sets.setdefault(tuple(g), len(sets)) for g in data.genres]
    return np.stack([np.arange(len(genres)), np.array(genres), era(data.years)], 1), list(sets)


def item_tokens(sids, codes):
    """[items, 3] tokens."""
    return torch.from_numpy(sids + FIRST_TOKEN + codes * np.arange(3))


def instruct(model, tokens, asks):
    """-> ([b, d] scenario, [b, d] mood) vectors."""
    scenario, mood = model.instructions["scenario"], model.instructions["mood"]
    row = scenario.table.weight[torch.tensor([scenario.spec["ids"].index(a.scenario) for a in asks])]
    triggers = model.shared(tokens[[0 if a.trigger is None else a.trigger for a in asks]]).sum(1)
    has = torch.tensor([a.trigger is not None for a in asks])[:, None]
    first = through(scenario.fusion, torch.cat([row, torch.where(has, triggers, scenario.trigger_default)], 1))
    size = mood.spec["size"]
    given = torch.from_numpy(np.stack([np.zeros(size, np.float32) if a.mood is None else a.mood for a in asks]))
    has = torch.tensor([a.mood is not None for a in asks])[:, None]
    return first, torch.where(has, through(mood.adapter, given), mood.default)


def newest(history, items=NEWEST):
    return history[-items:]


@torch.no_grad()
def retrieved(model, features, asks, vectors, keys=None):
    """The histories that retrieval keeps, item rows in order. `keys`: of all items, where they are at hand already."""
    keys = item_keys(model, features) if keys is None else keys
    queries = torch.nn.functional.normalize(model.retrieval.query(torch.cat(vectors, 1)), dim=1)
    out = []
    for query, ask in zip(queries, asks):
        long = ask.history[-LONGEST:]
        older = long[:-KEEP_NEWEST]
        similar = (keys[older] @ query).numpy() if older else np.zeros(0)
        best = np.lexsort((-np.arange(len(older)), -similar))[:TOP_K]         # ties: the newer
        out.append([older[i] for i in sorted(best)] + long[-KEEP_NEWEST:])
    return out


def item_keys(model, features):
    """[items, D] of length 1."""
    return torch.nn.functional.normalize(model.retrieval.key(model.history.combine(torch.from_numpy(features))), dim=1)


def encode(model, features, histories):
    """Item rows, padded on the right -> ([b, n, d] states, [b, 1, 1, n] mask). An empty history reads item 0 alone."""
    histories = [h if len(h) else [0] for h in histories]
    rows = torch.zeros(len(histories), max(map(len, histories)), features.shape[1], dtype=torch.long)
    mask = torch.full(rows.shape[:2], float("-inf"))
    for i, history in enumerate(histories):
        rows[i, :len(history)] = torch.from_numpy(features[history])
        mask[i, :len(history)] = 0
    mask = mask[:, None, None]
    return model.encode(model.history.project(model.history.combine(rows)), mask), mask


def decode(model, states, mask, vectors, tokens):
    """tokens: [b, k, t], the first is BOS -> log-probabilities after BOS with its instructions and after each later token."""
    inputs = model.shared(tokens)
    b, k, _, d = inputs.shape
    given = torch.stack(vectors, 1)[:, None].expand(b, k, len(vectors), d)
    hidden = model.decode(states, torch.cat([inputs[:, :, :1], given, inputs[:, :, 1:]], 2), mask)
    return model.lm_head(hidden[:, :, len(vectors):]).log_softmax(-1)


@torch.no_grad()
def search(model, catalogue, features, asks, retrieve=True, ban=True, beams=BEAMS, batch=32):
    """[asks] ranked lists of (leaf row, score). `ban`: items of the history are not legal."""
    tokens, keys, found = item_tokens(catalogue.sids, catalogue.codes), item_keys(model, features), []
    for start in range(0, len(asks), batch):
        chunk = asks[start:start + batch]
        vectors = instruct(model, tokens, chunk)
        kept = retrieved(model, features, chunk, vectors, keys) if retrieve else [newest(a.history) for a in chunk]
        states, mask = encode(model, features, kept)
        banned = [a.history if ban else [] for a in chunk]
        found += beam(catalogue, banned, lambda t: decode(model, states, mask, vectors, t)[:, :, -1], beams)
    return found


def recommend(model, catalogue, features, asks, retrieve=True, top=TOP):
    """[asks] lists of at most `top` item rows that are not in the history."""
    return [expand(catalogue, leaves, a.history, top) for leaves, a in zip(search(model, catalogue, features, asks, retrieve), asks)]
