"""Tests of the converter without its goldens: tokens, items, manifest, refusals. Standard library only.

    python3 -m unittest discover -s tools/python -p 'test_convert.py'

nightly_convert.py tests the goldens, which need torch.
"""
import contextlib
import io
import json
import pathlib
import pickle
import struct
import tempfile
import unittest
import zipfile

import convert
import convert_items
import convert_tokens
from convert_errors import Refused


def safetensors(tensors):
    """A safetensors file of zeros: {name: (type, shape)}."""
    header, at = {}, 0
    for name, (kind, shape) in tensors.items():
        size = 4 if kind in ("F32", "I32") else 2
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


def added(tokens, first=0):
    """tokenizer.json with these tokens added one after another."""
    entries = [{"id": first + at, "content": token, "special": False} for at, token in enumerate(tokens)]
    return {"model": {"type": "WordLevel", "vocab": {"<pad>": 0, "</s>": 1, "hello": 2}}, "added_tokens": entries}


def letters(codes, form="<{}_{}>"):
    return [form.format("abcdefgh"[level], code) for level, count in enumerate(codes) for code in range(count)]


class Directory(unittest.TestCase):
    """A small model in a temporary directory, and the converter run on it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.model, self.out = self.root / "model", self.root / "export"
        self.model.mkdir()
        self.put("config.json", {"model_type": "qwen3", "vocab_size": 40, "eos_token_id": 1})
        self.put("model.safetensors", safetensors({"model.embed_tokens.weight": ("F32", [40, 2])}))
        self.put("tokenizer.json", added(letters([12, 12]), first=3))
        self.items = self.root / "index.json"
        self.items.write_text('{"0": ["<a_10>", "<b_2>"], "7": ["<a_2>", "<b_11>"], "9": ["<a_10>", "<b_2>"]}')

    def put(self, name, content):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (self.model / name).write_bytes(data)

    def run_convert(self, *options):
        """-> (exit code, what was said)"""
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            code = convert.main([str(self.model), "--items", str(self.items), "--out", str(self.out), *options])
        return code, said.getvalue()

    def manifest(self, *options):
        code, said = self.run_convert(*options)
        self.assertEqual(code, 0, said)
        return json.loads((self.out / "sidereal.json").read_text())

    def refused(self, *parts, options=()):
        code, said = self.run_convert(*options)
        self.assertEqual(code, 1, said)
        for part in parts:
            self.assertIn(part, said)
        self.assertFalse(self.out.exists(), "nothing is left behind")
        self.assertEqual([entry.name for entry in self.root.iterdir() if entry.name.startswith(".")], [])


class Exports(Directory):
    def test_a_complete_export(self):
        manifest = self.manifest("--name", "m", "--version", "7", "--max-items", "5")
        self.assertEqual(manifest, {
            "sidereal": 1, "name": "m", "version": "7",
            "sid": {"levels": [{"codes": 12, "tokens": {"first": 3}}, {"codes": 12, "tokens": {"first": 15}}]},
            "prompt": {"prefix": [], "item": {"prefix": [], "suffix": []}, "suffix": [], "max_items": 5},
            "score": "full_then_mask", "length_penalty": 0.0})
        self.assertEqual(sorted(p.name for p in self.out.iterdir()),
                         ["config.json", "items.jsonl", "model.safetensors", "sidereal.json", "tokenizer.json"])
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            self.assertEqual((self.out / name).read_bytes(), (self.model / name).read_bytes(), name)
        rows = [json.loads(line) for line in (self.out / "items.jsonl").read_text().splitlines()]
        self.assertEqual(rows, [{"item": 0, "sid": [10, 2]}, {"item": 7, "sid": [2, 11]}, {"item": 9, "sid": [10, 2]}])

    def test_an_export_is_never_overwritten(self):
        self.manifest()
        before = (self.out / "sidereal.json").read_bytes()
        code, said = self.run_convert()
        self.assertEqual((code, "never changed in place" in said), (1, True), said)
        self.assertEqual((self.out / "sidereal.json").read_bytes(), before)

    def test_lexical_order_gives_lists(self):
        tokens = sorted(letters([12, 12]))
        self.assertLess(tokens.index("<a_10>"), tokens.index("<a_2>"))
        self.put("tokenizer.json", added(tokens, first=3))
        levels = self.manifest()["sid"]["levels"]
        self.assertEqual(levels[0]["tokens"]["list"], [3 + tokens.index(f"<a_{code}>") for code in range(12)])
        self.assertEqual(levels[1]["tokens"]["list"], [3 + tokens.index(f"<b_{code}>") for code in range(12)])

    def test_weights_are_linked(self):
        self.put("model.safetensors.index.json", {"weight_map": {"a": "one.safetensors"}})
        (self.model / "model.safetensors").rename(self.model / "one.safetensors")
        self.manifest("--link")
        self.assertTrue((self.out / "one.safetensors").is_symlink())
        self.assertFalse((self.out / "model.safetensors.index.json").is_symlink())

    def test_one_rec_is_prompted_between_its_tokens(self):
        self.put("tokenizer.json", added(["<|sid_begin|>", "<|sid_end|>", *letters([12, 12], "<s_{}_{}>")], first=3))
        manifest = self.manifest()
        self.assertEqual(manifest["prompt"], {"prefix": [], "item": {"prefix": [3], "suffix": [4]}, "suffix": [3]})
        self.assertEqual(manifest["end"], {"tokens": [4], "scored": False})

    def test_t5_has_a_decoder_prefix(self):
        self.put("config.json", {"model_type": "t5", "vocab_size": 40, "eos_token_id": [1, 2], "decoder_start_token_id": 0})
        manifest = self.manifest()
        self.assertEqual((manifest["decoder_prefix"], manifest["prompt"]["suffix"]), ([0], [1]))
        self.assertNotIn("end", manifest)

    def test_templates_are_given_as_tokens(self):
        manifest = self.manifest("--prompt-prefix", "hello 2 <a_3>", "--item-suffix", "1", "--end", "</s>", "--end-scored")
        self.assertEqual((manifest["prompt"]["prefix"], manifest["prompt"]["item"]["suffix"]), ([2, 2, 6], [1]))
        self.assertEqual(manifest["end"], {"tokens": [1], "scored": True})

    def test_wrong_templates(self):
        self.refused("--end: nothing is neither", options=["--end", "nothing"])
        self.refused("end: token 40 is not one of the model's 40", options=["--end", "40"])
        self.refused("--end-scored: name the tokens", options=["--end-scored"])
        self.refused("goes with full_then_mask", options=["--end", "1", "--end-scored", "--score", "level_norm"])
        self.refused("--decoder-prefix", options=["--decoder-prefix", "0"])

    def test_a_model_without_tokenizer(self):
        (self.model / "tokenizer.json").unlink()
        self.items.write_text('{"0": [10, 2], "7": [2, 11]}')
        self.refused("no tokenizer", "--first-tokens")
        self.refused("needs --codes", options=["--first-tokens", "3,15"])
        self.refused("level 1, code 10: token 40", options=["--first-tokens", "3,30", "--codes", "12,12"])
        levels = self.manifest("--first-tokens", "3,15", "--codes", "12,12")["sid"]["levels"]
        self.assertEqual(levels[1], {"codes": 12, "tokens": {"first": 15}})


class Tokens(Directory):
    def test_every_spelling(self):
        for form in ("<{}_{}>", "<s_{}_{}>"):
            spelling = convert_tokens.find({text: at for at, text in enumerate(letters([4, 3, 5], form))}, 3)
            self.assertEqual(spelling.codes, [4, 3, 5])
            self.assertEqual(spelling.tokens(1), [4, 5, 6])
        numbered = {f"<|sid_{number}|>": 100 - number for number in range(12)}
        spelling = convert_tokens.find(numbered, 3)
        self.assertEqual((spelling.codes, spelling.tokens(2)), ([4, 4, 4], [92, 91, 90, 89]))
        self.assertEqual(spelling.code(1, "<|sid_6|>", "here"), 2)
        custom = {f"[{level}:{code}]": 10 * level + code for level in range(3) for code in range(2)}
        self.assertEqual(convert_tokens.find(custom, 3, r"\[(?P<level>\d):(?P<code>\d+)\]").tokens(2), [20, 21])

    def test_two_to_eight_levels(self):
        for levels in range(2, 9):
            tokens = {text: at for at, text in enumerate(letters([3] * levels))}
            self.assertEqual(len(convert_tokens.find(tokens, levels).levels), levels)
        self.items.write_text('{"0": ["<a_1>"]}')
        self.refused("item 0: 1 codes; 2 to 8 levels")

    def test_gaps_say_level_and_code(self):
        self.put("tokenizer.json", added([t for t in letters([12, 12]) if t not in ("<b_4>", "<b_7>")], first=3))
        self.refused("level 1: code 4 has no token (2 of 12 codes have none: 4, 7)", "--fill-gaps")
        self.refused("level_norm counts every code", options=["--fill-gaps", "--score", "level_norm"])
        levels = self.manifest("--fill-gaps")["sid"]["levels"]
        filled = levels[1]["tokens"]["list"]
        self.assertEqual((levels[1]["codes"], len(set(filled))), (12, 12))
        self.assertEqual([filled[4], filled[7]], [0, 1], "tokens that no code of the level has")

    def test_an_item_in_a_gap_is_refused_though_gaps_are_filled(self):
        self.put("tokenizer.json", added([t for t in letters([12, 12]) if t != "<b_2>"], first=3))
        self.refused("index.json, item 0, level 1", "no token for code 2", options=["--fill-gaps"])

    def test_declared_codes_are_held(self):
        self.refused("level 0: code 12 has no token (4 of 16", options=["--codes", "16,12"])
        self.refused("level 1: the tokenizer has code 11, --codes says 8", options=["--codes", "12,8"])
        self.refused("--codes has 3 levels", options=["--codes", "12,12,12"])

    def test_duplicates(self):
        self.put("tokenizer.json", added([*letters([12, 12]), "<a_07>"], first=3))
        self.refused("level 0, code 7: spelled by <a_7> and <a_07>")
        tokenizer = added(letters([12, 12]), first=3)
        tokenizer["added_tokens"][5]["id"] = tokenizer["added_tokens"][4]["id"]
        self.put("tokenizer.json", tokenizer)
        self.refused("tokens <a_4> and <a_5> are both 7")
        self.put("tokenizer.json", added(letters([12, 12]), first=3))
        self.put("added_tokens.json", {"<a_0>": 39})
        self.refused("token <a_0> is 39 here and 3 elsewhere")

    def test_other_tokenizer_files(self):
        (self.model / "tokenizer.json").unlink()
        self.put("vocab.json", {"hello": 0})
        self.put("tokenizer_config.json", {"added_tokens_decoder": {str(3 + at): {"content": t} for at, t in enumerate(letters([12, 12]))}})
        self.assertEqual(self.manifest()["sid"]["levels"][0]["tokens"], {"first": 3})

    def test_unigram_vocabularies(self):
        tokenizer = {"model": {"type": "Unigram", "vocab": [["<pad>", 0.0], ["▁x", -1.0]]}, "added_tokens": []}
        self.put("tokenizer.json", tokenizer)
        self.assertEqual(convert_tokens.vocabulary(self.model), {"<pad>": 0, "▁x": 1})
        self.refused("no token spells a code", "--sid-pattern")

    def test_mismatches_with_the_item_file(self):
        self.items.write_text('{"0": ["<a_10>", "<b_2>", "<c_1>"]}')
        self.refused("tokens of 2 levels (a, b), the item file 3")
        self.items.write_text('{"0": ["<a_1>", "<b_2>"], "5": ["<a_1>", "<b_12>"]}')
        self.refused("item 5, level 1: token <b_12>", "no token for code 12")
        self.items.write_text('{"0": ["<b_1>", "<a_2>"]}')
        self.refused("item 0, level 0: token <b_1> is of level 1")
        self.items.write_text('{"0": [3, 12]}')
        self.refused("item 0, level 1: code 12 has no token")
        self.items.write_text('{"0": ["<x>", "<b_1>"]}')
        self.refused("item 0, level 0: token <x> is not in the tokenizer")

    def test_index_files_keep_their_letters(self):
        """An index.json says <a_10> whatever the model's tokens are called."""
        numbered = {f"<|sid_{number}|>": number for number in range(24)}
        spelling = convert_tokens.find(numbered, 2)
        self.assertEqual([spelling.code(0, "<a_10>", "here"), spelling.code(1, "<b_2>", "here")], [10, 2])
        with self.assertRaisesRegex(Refused, "level 0: token <b_2> is of level b"):
            spelling.code(0, "<b_2>", "here")

    def test_numbers_that_do_not_divide(self):
        self.put("tokenizer.json", added([f"<|sid_{number}|>" for number in range(23)], first=3))
        self.refused("numbers 0 to 22", "2 levels of equal size")

    def test_several_spellings(self):
        self.put("tokenizer.json", added([*letters([12, 12]), "<|sid_0|>"], first=3))
        self.refused("several spellings: <a_12>, <|sid_12|>")
        self.assertEqual(self.manifest("--sid-pattern", r"<(?P<level>[ab])_(?P<code>\d+)>")["sid"]["levels"][0]["codes"], 12)

    def test_embeddings_that_were_not_resized(self):
        self.put("config.json", {"model_type": "qwen3", "vocab_size": 20})
        self.refused("level 1, code 5: token 20 (<b_5>) is not one of the model's 20", "resized")


class Items(unittest.TestCase):
    def read(self, name, text, info=None):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / name
            path.write_text(text, encoding="utf-8")
            titles = pathlib.Path(folder) / "info.txt"
            if info is not None:
                titles.write_text(info, encoding="utf-8")
            return convert_items.read(path, titles if info is not None else None)

    def test_every_format(self):
        expected = [{"item": 5, "sid": [1, 2], "weight": 2.5, "title": "A, é"}, {"item": 18446744073709551615, "sid": [3, 4]}]
        lines = "".join(json.dumps(row) + "\n" for row in expected)
        self.assertEqual(self.read("x.jsonl", "\ufeff" + lines + "\n"), expected)
        self.assertEqual(self.read("x.csv", 'title,sid1,item,sid0,weight\n"A, é",2,5,1,2.5\n,4,18446744073709551615,3,\n'), expected)
        index = self.read("x.json", '{"5": ["<a_1>", "<b_2>"]}', "<a_1><b_2>\tA\ttab\t5\n")
        self.assertEqual(index, [{"item": 5, "sid": ["<a_1>", "<b_2>"], "title": "A\ttab"}])
        packed = (7 * 8192 + 8191) * 8192 + 9
        rows = self.read("sid2pid.json", f'{{"{packed}": [{{"pid": 3, "count": 8}}, {{"iid": 4}}]}}')
        self.assertEqual(rows, [{"item": 3, "sid": [7, 8191, 9], "weight": 8}, {"item": 4, "sid": [7, 8191, 9], "weight": 0}])

    def test_what_is_wrong_is_named(self):
        for name, text, says in (
            ("x.jsonl", '{"item": 1, "sid": [1, 2]}\n{"item": 1.5}', "line 2"),
            ("x.jsonl", '{"item": -1, "sid": [1, 2]}', "line 1: -1: expected a whole number"),
            ("x.jsonl", '{"item": 1, "sid": [1, 2]}\n{"item": 1, "sid": [1, 2]}', "item 1 is given twice"),
            ("x.jsonl", '{"item": 1, "sid": [1, 2]}\n{"item": 2, "sid": [1]}', "item 2: 1 codes, items before it have 2"),
            ("x.jsonl", '{"item": 1, "sid": [1, 2], "wieght": 3}', "line 1: expected .* unknown key wieght"),
            ("x.csv", "item,title\n1,x\n", "expected a header item,sid0"),
            ("x.csv", "item,sid0,sid2\n1,2,3\n", "expected a header item,sid0"),
            ("x.csv", "item,sid0,sid1,colour\n1,2,3,4\n", "expected a header item,sid0"),
            ("x.csv", "item,sid0,sid1,weight\n1,2,3,much\n", "line 2: weight 'much'"),
            ("x.json", '{"x": ["<a_1>", "<b_1>"]}', "'x': expected a whole number"),
            ("x.json", '{"549755813888": [{"pid": 1}]}', "too large for 3 levels"),
            ("x.json", "[1]", "expected an object"), ("x.json", "{", "not JSON"), ("x.json", "{}", "no items"),
            ("x.npy", "", "expected .jsonl, .csv or .json"),
        ):
            with self.subTest(says), self.assertRaises(Refused) as refused:
                self.read(name, text)
            self.assertRegex(str(refused.exception), says)
        with self.assertRaisesRegex(Refused, "item 6 is not in"):
            self.read("x.json", '{"5": [1, 2]}', "x\tT\t6\n")


class Refusals(Directory):
    def without_weights(self):
        (self.model / "model.safetensors").unlink()

    def test_lora(self):
        self.put("adapter_config.json", {})
        self.refused("unmerged LoRA", "merge_and_unload")
        (self.model / "adapter_config.json").unlink()
        self.put("model.safetensors", safetensors({"model.layers.0.self_attn.q_proj.lora_A.weight": ("F32", [2, 2])}))
        self.refused("lora_A", "unmerged LoRA", "merge_and_unload")

    def test_lightning(self):
        self.without_weights()
        with zipfile.ZipFile(self.model / "last.ckpt", "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": {}, "pytorch-lightning_version": "2.4"}))
        self.refused("last.ckpt: a Lightning checkpoint", "save_pretrained")
        self.put("last.ckpt", pickle.dumps({"state_dict": {}, "pytorch-lightning_version": "1.0"}))
        self.refused("a Lightning checkpoint")
        self.put("last.ckpt", pickle.dumps({"state_dict": {}}))
        self.refused("last.ckpt: a training checkpoint")
        self.model = self.model / "last.ckpt"
        self.refused("last.ckpt: a training checkpoint")

    def test_parallel_heads(self):
        for name in ("lm_heads.0.weight", "medusa_head.1.0.linear.weight", "model.level_heads.2.weight", "decoder_mlp.0.weight"):
            self.put("model.safetensors", safetensors({name: ("F32", [2, 2])}))
            self.refused(name, "parallel-head model", "one head")
        self.put("model.safetensors", safetensors({"model.layers.0.weight": ("F32", [2, 2])}))
        self.put("config.json", {"model_type": "qwen3", "vocab_size": 40, "medusa_num_heads": 4})
        self.refused("medusa_num_heads", "parallel-head model")
        self.put("config.json", {"model_type": "qwen3", "vocab_size": 40, "architectures": ["MedusaForCausalLM"]})
        self.refused("architectures", "parallel-head model")

    def test_pickles_and_gguf(self):
        self.without_weights()
        self.refused("no model.safetensors")
        self.put("model.gguf", b"GGUF")
        self.refused("GGUF")
        self.put("pytorch_model.bin", b"\x80")
        self.refused("pytorch_model.bin: pickled weights", "safe_serialization=True")

    def test_parts_of_tensors(self):
        for name in ("model-rank-0-part-0.safetensors", "mp_rank_00", "zero_pp_rank_0_mp_rank_00_optim_states.pt", "__0_0.distcp", "model.tp1.safetensors"):
            self.put(name, b"")
            self.refused(name, "one process's part")
            (self.model / name).unlink()

    def test_quantised(self):
        self.put("config.json", {"model_type": "qwen3", "vocab_size": 40, "quantization_config": {"quant_method": "gptq"}})
        self.refused("a quantised checkpoint (gptq)")
        self.put("config.json", {"model_type": "qwen3", "vocab_size": 40})
        self.put("model.safetensors", safetensors({"model.layers.0.q_proj.qweight": ("I32", [2, 2])}))
        self.refused("qweight", "quantised weights")
        self.put("model.safetensors", safetensors({"model.layers.0.q_proj.weight": ("F8_E4M3", [2, 2])}))
        self.refused("F8_E4M3", "F32, F16, BF16")

    def test_broken_files(self):
        self.put("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n")
        self.refused("Git LFS pointer")
        self.put("model.safetensors", struct.pack("<Q", 3) + b"{{{")
        self.refused("its header")
        self.put("model.safetensors.index.json", {"weight_map": {"a": "gone.safetensors"}})
        self.refused("names gone.safetensors, which is not there")
        (self.model / "model.safetensors.index.json").unlink()
        self.put("config.json", {"vocab_size": 4})
        self.put("model.safetensors", safetensors({"a.weight": ("F32", [1, 1])}))
        self.refused("no `model_type`")
        self.model = self.root / "nowhere"
        self.refused("nowhere: not a directory")


if __name__ == "__main__":
    unittest.main()
