"""HR@10 and NDCG@10 of the finished export against popularity, from the committed files alone:
`python tools/python/demo/evaluate.py demo/movielens`. With `--transformers N` it also asks Hugging Face's `generate` for
N users and compares lists and scores.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from transformers import T5ForConditionalGeneration

from search import BEAMS, Catalogue, figures, most_popular, prompt, recommend, search
from t5 import FIRST_TOKEN


class Export:
    """An export directory read back: model in f32 (weights as stored), catalogue, manifest."""

    def __init__(self, folder):
        self.manifest = json.loads((folder / "sidereal.json").read_text())
        self.model = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        items = [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]
        self.movie_ids = np.array([i["item"] for i in items])
        self.weights = np.array([i["weight"] for i in items])
        self.catalogue = Catalogue(np.array([i["sid"] for i in items]), self.weights,
                                   self.manifest["sid"]["levels"][0]["codes"])
        self.max_items = self.manifest["prompt"]["max_items"]

    def rows(self, movie_ids):
        """Item rows of movie ids."""
        return np.searchsorted(self.movie_ids, movie_ids).tolist()


def compare(demo, histories, targets, export=None):
    """Figures of model and popularity for the same users, both without the items of the history."""
    export = export or Export(demo / "export")
    model = figures(recommend(export.model, export.catalogue, histories, export.max_items), targets)
    popular = figures(most_popular(export.weights, histories), targets)
    return {"users": len(targets),
            "model": {"hr_at_10": round(model[0], 4), "ndcg_at_10": round(model[1], 4)},
            "popularity": {"hr_at_10": round(popular[0], 4), "ndcg_at_10": round(popular[1], 4)}}


def against_transformers(export, histories):
    """Largest |score difference| and share of equal leaf lists between `search` and `generate` (no bans: `generate` has
    none). A difference of order at a tie counts as unequal."""
    codes, catalogue = export.catalogue.codes, export.catalogue
    children = {}
    for sid in catalogue.sids.tolist():
        for level in range(3):
            children.setdefault(tuple(sid[:level]), set()).add(FIRST_TOKEN + level * codes + sid[level])
    children = {prefix: sorted(tokens) for prefix, tokens in children.items()}

    def allowed(_, tokens):
        prefix = tuple(t - FIRST_TOKEN - level * codes for level, t in enumerate(tokens.tolist()[1:]))
        return children.get(prefix, [FIRST_TOKEN])      # a beam without a legal past has score -inf already

    worst, equal = 0.0, 0
    for history in histories:
        tokens = torch.tensor([prompt(history, catalogue.sids, codes, export.max_items)])
        out = export.model.generate(
            input_ids=tokens, max_new_tokens=3, num_beams=BEAMS, num_return_sequences=BEAMS, do_sample=False,
            length_penalty=0.0, early_stopping=False, prefix_allowed_tokens_fn=allowed, output_scores=True,
            return_dict_in_generate=True)
        sids = (out.sequences[:, 1:4] - FIRST_TOKEN - codes * torch.arange(3)).numpy()
        theirs = catalogue.third[catalogue.second[sids[:, 0], sids[:, 1]], sids[:, 2]].tolist()
        [ours] = search_unbanned(export, tokens)
        equal += [leaf for leaf, _ in ours] == theirs
        scores = dict(ours)
        worst = max([worst] + [abs(scores[l] - s) for l, s in zip(theirs, out.sequences_scores.tolist()) if l in scores])
    return {"users": len(histories), "equal_lists": equal / len(histories), "largest_score_difference": worst}


def search_unbanned(export, tokens):
    """`search` on a ready prompt with nothing banned."""
    return search(export.model, export.catalogue, [[]], export.max_items, prompts=[tokens[0].tolist()])


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("demo", type=pathlib.Path)
    args.add_argument("--transformers", type=int, default=0, metavar="N", help="compare with `generate` for N users")
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    export = Export(args.demo / "export")
    users = [json.loads(line) for line in (args.demo / "users.jsonl").read_text().splitlines()]
    histories = [export.rows(u["items"]) for u in users]
    targets = np.array(export.rows([u["target"] for u in users]))
    print(json.dumps(compare(args.demo, histories, targets, export), indent=2))
    if args.transformers:
        print(json.dumps(against_transformers(export, histories[:args.transformers]), indent=2))


if __name__ == "__main__":
    main()
