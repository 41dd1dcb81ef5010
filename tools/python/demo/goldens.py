"""Goldens of the finished demo export, a trained model: `python tools/python/demo/goldens.py demo/movielens`, with `--check`
to make them elsewhere and compare.

Searches, checks and files are those of `make_goldens.py`, which documents them. Only the prompts differ: the newest items of
held-out users, inside the manifest's template; for each case the first user of a seeded order whose list has no close call.
"""

import argparse
import json
import pathlib
import shutil
import sys
import tempfile
import warnings

import torch
from transformers.utils import logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from golden_models import Spec  # noqa: E402
from make_goldens import differences, write_goldens  # noqa: E402

CASES = [(1, 1), (1, 50), (1, 128), (2, 10), (2, 128), (5, 1), (5, 50), (5, 128), (12, 10), (12, 50), (12, 128)]  # (items, beams)


def make(demo, export):
    """Writes `golden/` of `export`; the users are those of `demo`."""
    manifest = json.loads((export / "sidereal.json").read_text())
    items = [json.loads(line) for line in (export / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    sids = {i["item"]: i["sid"] for i in items}
    histories = [json.loads(line)["items"] for line in (demo / "users.jsonl").read_text().splitlines()]
    template = manifest["prompt"]
    spec = Spec(manifest["name"], "", "t5", {}, "v5", [level["codes"] for level in manifest["sid"]["levels"]], 0, CASES)

    def prompts(score, number, length):
        enough = [h for h in histories if len(h) >= length]
        for user in spec.rng("users", number).permutation(len(enough)):
            tokens = list(template["prefix"])
            for item in enough[user][-length:]:
                tokens += template["item"]["prefix"] + score.tokens(sids[item]) + template["item"]["suffix"]
            yield tokens + template["suffix"]

    (export / "golden").mkdir(exist_ok=True)
    write_goldens(spec, str(export), manifest, [(i["item"], i["sid"]) for i in items], prompts)


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("demo", type=pathlib.Path)
    args.add_argument("--check", action="store_true", help="write nothing; make the goldens in a temporary folder and compare")
    args = args.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    export = args.demo / "export"
    if not args.check:
        make(args.demo, export)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        new = pathlib.Path(folder) / "export"
        shutil.copytree(export, new, ignore=shutil.ignore_patterns("golden"))
        make(args.demo, new)
        found = differences(str(export), str(new))
    for line in found:
        print(f"DIFFERS {line}")
    print("goldens: differ" if found else "goldens: the same")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
