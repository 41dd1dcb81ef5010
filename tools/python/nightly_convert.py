"""The converter with its goldens, end to end: small seeded models of two real catalogues, checked and asked by the built `sidereal`.

    SIDEREAL=target/debug/sidereal python -m unittest discover -s tools/python -p 'nightly_convert.py'

Needs requirements.txt. Catalogues and histories are those of $SIDEREAL_DATA, else ../shared/data; where they are not, generated ones of
the same shape take their place, which is said.
"""
import ast
import contextlib
import csv
import io
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

import convert
import small_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = pathlib.Path(os.environ.get("SIDEREAL_DATA", ROOT.parent / "shared" / "data"))
SIDEREAL = os.environ.get("SIDEREAL", str(ROOT / "target" / "debug" / "sidereal"))


def office():
    """-> (path of the index, histories)"""
    with open(DATA / "office" / "Office_Products.test.csv", newline="", encoding="utf-8") as f:
        histories = [[int(item) for item in ast.literal_eval(row["history_item_id"])] for row in csv.DictReader(f)]
    return DATA / "office" / "Office_Products.index.json", histories


def instruments():
    users = json.loads((DATA / "instruments" / "Instruments.inter.json").read_text())
    return DATA / "instruments" / "Instruments.index.json", [items[:-1] for items in users.values()]


def generated(folder, name, levels):
    """An index of 2000 items whose first level leaves codes unused, and histories."""
    rng = random.Random(name)
    sids = [[rng.randrange(88) * 2 % 256, *(rng.randrange(256) for _ in range(levels - 1))] for _ in range(2000)]
    index = {str(item): [f"<{'abcd'[level]}_{code}>" for level, code in enumerate(sid)] for item, sid in enumerate(sids)}
    path = folder / f"{name}.index.json"
    path.write_text(json.dumps(index))
    return path, [[rng.randrange(2000) for _ in range(rng.randrange(1, 12))] for _ in range(300)]


def sidereal(*args, text=None):
    ran = subprocess.run([SIDEREAL, *map(str, args)], input=text, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise AssertionError(f"sidereal {args[0]}: exit {ran.returncode}: {ran.stdout}{ran.stderr}")
    return ran.stdout


class Converted(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def data(self, read, name, levels):
        try:
            return read()
        except OSError:
            print(f"{name} is not in {DATA}: using a generated catalogue instead", file=sys.stderr)
            return generated(self.root, name, levels)

    def convert(self, index, histories, family, spelling, order, *options, only_used=False):
        """-> the export, checked by `sidereal check`, after 50 real histories were answered."""
        model, out, users = self.root / "model", self.root / "export", self.root / "users.jsonl"
        sids = [[small_model.code_of(token) for token in sid] for sid in json.loads(index.read_text()).values()]
        small_model.make(family, sids, model, spelling, order, only_used)
        users.write_text("".join(json.dumps({"items": items}) + "\n" for items in histories))
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = convert.main([str(model), "--items", str(index), "--out", str(out), "--goldens", "5", "--histories", str(users), *options])
        self.assertEqual(code, 0, said.getvalue())
        self.report = report = json.loads(sidereal("check", out, "--json"))
        self.assertTrue(report["good"], report)
        self.assertEqual(len(report["goldens"]["cases"]), 5)
        self.assertLessEqual(report["goldens"]["max_delta"], 1e-4)
        asked = "".join(json.dumps({"id": at, "items": items, "beams": 32, "top": 5}) + "\n" for at, items in enumerate(histories[:50]))
        answers = [json.loads(line) for line in sidereal("recommend", out, "--requests", "-", text=asked).splitlines()]
        self.assertEqual([len(answer["results"]) for answer in answers], [5] * 50)
        self.assertEqual({answer["unknown_items"] for answer in answers}, {0})
        return out

    def test_office_as_minionerec_adds_its_tokens(self):
        """Lexical order, and no token of the codes that no item has."""
        index, histories = self.data(office, "office", 3)
        out = self.convert(index, histories, "qwen3", "<a_12>", "lexical", "--fill-gaps", "--activations", "--prompt-prefix",
                           "text:the user has bought", only_used=True)
        manifest = json.loads((out / "sidereal.json").read_text())
        self.assertTrue(all("list" in level["tokens"] for level in manifest["sid"]["levels"]))
        self.assertEqual(manifest["prompt"]["prefix"], [small_model.WORDS.index(word) for word in ("the", "user", "has", "bought")])
        self.hold_activations(self.report, 25)

    def test_instruments_with_four_levels(self):
        index, histories = self.data(instruments, "instruments", 4)
        out = self.convert(index, histories, "t5", "<s_a_12>", "lexical", "--activations", "--sidereal", SIDEREAL)
        self.assertTrue((out / "catalog.sid").is_file() and not (out / "items.jsonl").exists())
        self.hold_activations(self.report, 50)

    def test_instruments_with_the_level_in_the_number(self):
        index, histories = self.data(instruments, "instruments", 4)
        out = self.convert(index, histories, "qwen3", "<|sid_12|>", "numeric")
        self.assertFalse((out / "golden" / "activations.safetensors").exists())
        levels = json.loads((out / "sidereal.json").read_text())["sid"]["levels"]
        first = levels[0]["tokens"]["first"]
        self.assertEqual([level["tokens"]["first"] - first for level in levels], [0, 256, 512, 768])

    def test_level_norm_with_a_scored_length(self):
        index, histories = self.data(office, "office", 3)
        self.convert(index, histories, "t5", "<a_12>", "numeric", "--score", "level_norm", "--length-penalty", "1", "--max-items", "4")

    def hold_activations(self, report, least):
        """`check` has compared what was recorded with what the engine computes."""
        told = [finding for finding in report["findings"] if finding["part"] == "activations"]
        self.assertEqual([finding["grade"] for finding in told], ["good"], told)
        self.assertGreaterEqual(int(told[0]["message"].split()[2]), least, told)


if __name__ == "__main__":
    unittest.main()
