"""Makes tests/goldens: tiny seeded exports with results computed by Hugging Face `transformers`; of the family `oxygenrec`, which
Hugging Face does not have, by our own reference model, oxygenrec.py.

    python tools/python/make_goldens.py --out tests/goldens            # write every export anew
    python tools/python/make_goldens.py --check [--out tests/goldens]  # make them elsewhere and compare (scores within 1e-5)
    python tools/python/make_goldens.py --only t5-relu ...             # some of them
    python tools/python/make_goldens.py --requests [--check]           # those of tests/oxygenrec (its README has their format)

Needs torch (CPU), transformers 5.x, safetensors, numpy. Everything is a function of the export's name; nothing is fetched.

Format of an export's `golden/cases.jsonl` (what `sidereal check` reads), one JSON object a line:

    id          number, unique in the file
    tokens      the complete prompt: the encoder's input, or the decoder-only model's input. No padding, nothing added.
    beams       beam width B
    score       score mode. The manifest rules; this is a cross-check and must equal it.
    results     [{"sid": [code of each level], "score": f32}] best first; at most B, fewer when the catalogue has fewer SIDs
    forced      [{"sid": [..], "logprobs": [..]}] teacher-forced log-probability of each level under the mode (then of each
                scored end token), from one forward over the whole sequence, so that a failure can be placed at a level
    reference   "hf_generate": results and scores are HF's own `generate(num_beams=B, prefix_allowed_tokens_fn=..)`.
                "hf_logits": a plain beam search over HF's logits (golden_search.py), where HF's search cannot say it: under
                every other score mode than `full_then_mask`, and where fewer than B SIDs exist (HF fills up with dead beams).
                "oxygenrec": the same search over the logits of oxygenrec.py.

Scores. score = (sum of the log-probabilities of the levels and of the scored end tokens) / length ^ length_penalty, where
length = levels + scored end tokens. HF divides by the number of generated tokens; it is made to generate the end tokens
exactly when the manifest scores them, so the two are one number. An unscored end token is not generated here at all.
With 1 beam HF runs greedy search, which has no sequence score: its steps' log-probabilities are added up instead.

Checked on every case while making them: HF's search == the plain search (same list, scores within 2e-5); forced
log-probabilities add up to the score; where B covers the whole catalogue, the list is the exhaustive ranking; a float64
forward (but for the norms, which HF computes in f32 whatever it is given) agrees with the float32 one within 2e-5, so 1e-4 is
a fair tolerance. Prompts are chosen (first of a seeded series)
such that no cut or order within a list hangs on less than MARGIN, so lists are comparable exactly.
"""
import argparse
import copy
import filecmp
import json
import os
import shutil
import sys
import tempfile
import warnings

import numpy as np
import torch
from safetensors import safe_open
from transformers import (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, SwitchTransformersForConditionalGeneration,
                          T5ForConditionalGeneration)
from transformers.utils import logging

import activations
import golden_bf16
import golden_models as models
import golden_requests
import oxygenrec
from golden_oxygenrec import OxygenScorer, SwitchScorer, assert_inputs_matter, request
from golden_search import Scorer, Trie, watch

MARGIN = 4e-4
TRIES = 40
AGREE = 2e-5


def load(spec, folder):
    """The model as HF itself loads the finished directory; weights of every dtype are computed in f32."""
    if spec.family == "oxygenrec":
        return oxygenrec.load(folder)
    cls = {"t5": T5ForConditionalGeneration, "switch_transformers": SwitchTransformersForConditionalGeneration,
           "qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM, "llama": LlamaForCausalLM}[spec.family]
    model, info = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is table) != spec.lm_head, (spec.name, "tied" if head is table else "untied")
    if heads := models.head_names(spec):
        attach_heads(model, folder, heads)
    return model.eval()


def attach_heads(model, folder, names):
    """Gives the model the heads of an export's levels, as `level_heads`."""
    model.level_heads = torch.nn.ModuleList()
    with safe_open(os.path.join(folder, "model.safetensors"), "pt") as f:
        for name in names:
            weight = f.get_tensor(name).float()
            model.level_heads.append(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False))
            model.level_heads[-1].weight = torch.nn.Parameter(weight, requires_grad=False)
    watch(model)


def scorer(spec, model, manifest, trie, rows):
    if spec.family == "oxygenrec":
        return OxygenScorer(model, manifest, trie, dict(rows))
    config = model.config
    # HF 5.x: with a cache, `generate` on a T5 decoder deeper than its encoder fails with an IndexError in the cache.
    paired = spec.family in models.ENCODER_DECODERS
    use_cache = not paired or config.num_decoder_layers <= config.num_layers
    if spec.family == "switch_transformers":
        return SwitchScorer(model, manifest, use_cache, trie)
    return Scorer(model, manifest, paired, use_cache, trie)


def prompt(spec, score, rows, length, attempt):
    """Tokens of random catalogue items, some specials strewn in, inside the manifest's template where there is one."""
    rng, template = spec.rng("prompt", length, attempt), score.template
    tokens = list(template.get("prefix", []))
    while len(tokens) < length + 8:
        tokens += score.tokens(rows[rng.integers(len(rows))][1])
        if rng.random() < 0.1:
            tokens.append(int(rng.integers(3, spec.vocab)))
    suffix = template.get("suffix", [])
    return (tokens[:max(length - len(suffix), 0)] + suffix)[-length:]


def f32(x):
    return float(str(np.float32(x)))


def close(a, b, tolerance):
    return len(a) == len(b) and all(abs(x - y) <= tolerance for x, y in zip(a, b))


def make_case(spec, score, exact, rows, prompts, number, beams):
    """`prompts`: candidates; the first on which nothing hangs on less than MARGIN is taken."""
    for tokens in prompts:
        score.forget()
        results, margin = score.plain_beam(tokens, beams)
        if margin >= MARGIN and score.safe():
            break
    else:
        raise ValueError(f"{spec.name}, case {number}: close calls in the lists of all candidate prompts")
    reference = "oxygenrec" if spec.family == "oxygenrec" else "hf_logits"
    if reference == "hf_logits" and score.mode == "full_then_mask":
        found, full = score.hf_generate(tokens, beams)
        assert [sid for sid, _ in found] == [sid for sid, _ in results], (spec.name, number, margin)
        assert close([s for _, s in found], [s for _, s in results], AGREE), (spec.name, number)
        if full:
            results, reference = found, "hf_generate"
    scale, trie = score.length ** score.length_penalty, score.trie
    if all(trie.width(level) <= beams for level in range(trie.levels)):
        every = sorted(((sum(score.forced(tokens, sid)) / scale, list(sid)) for sid in trie.leaves), reverse=True)
        assert [sid for _, sid in every] == [sid for sid, _ in results], (spec.name, number, "exhaustive")
    picks = [results[0][0], results[-1][0], list(rows[spec.rng("forced", number).integers(len(rows))][1])]
    forced = []
    for sid in [sid for i, sid in enumerate(picks) if sid not in picks[:i]]:
        logprobs = score.forced(tokens, sid)
        assert close(logprobs, exact.forced(tokens, sid), AGREE), (spec.name, number, "float64")
        for found, total in results:
            assert found != sid or abs(sum(logprobs) / scale - total) <= AGREE, (spec.name, number, "sum")
        forced.append({"sid": sid, "logprobs": [f32(p) for p in logprobs]})
    assert score.safe(), (spec.name, number, "a close call of a router")
    asked = {"request": tokens} if spec.requests else {"tokens": tokens}
    about = score.about(tokens) if spec.requests else {}
    return {"id": number} | asked | {"beams": beams, "score": score.mode, "results": [{"sid": sid, "score": f32(s)} for sid, s in results],
                                     "forced": forced, "reference": reference} | about, margin


def assert_lively(spec, cases):
    """A model whose lists ignore the prompt would prove nothing."""
    tops = {tuple(c["results"][0]["sid"]) for c in cases}
    assert len(tops) >= min(len(cases), spec.sids) * 0.5, (spec.name, tops)
    wide = [{tuple(r["sid"]) for r in c["results"]} for c in cases if 32 <= c["beams"] < spec.sids]
    overlap = [len(a & b) / min(len(a), len(b)) for i, a in enumerate(wide) for b in wide[:i]]
    assert not overlap or np.mean(overlap) < 0.85, (spec.name, overlap)
    spread = [c["results"][0]["score"] - c["results"][-1]["score"] for c in cases if c["beams"] >= 32]
    assert not spread or np.mean(spread) > 1.0, (spec.name, spread)


def make(spec, out):
    folder = os.path.join(out, spec.name)
    shutil.rmtree(folder, ignore_errors=True)
    manifest, rows = models.write_export(spec, folder)
    if spec.requests:
        return write_goldens(spec, folder, manifest, rows, lambda _, number, recipe: (
            request(spec, rows, recipe, attempt, number) for attempt in range(TRIES)))
    write_goldens(spec, folder, manifest, rows, lambda score, _, length: (
        prompt(spec, score, rows, length, attempt) for attempt in range(TRIES if length < 300 else 12)))


def write_goldens(spec, folder, manifest, rows, prompts):
    """`golden/` of a finished export. `rows`: [(item id, sid)]; `prompts(scorer, case number, length of spec.cases)`: candidates
    for the case's prompt."""
    model = load(spec, folder)
    trie = Trie([sid for _, sid in rows])
    score, exact = scorer(spec, model, manifest, trie, rows), scorer(spec, double(model), manifest, trie, rows)
    score.template = manifest.get("prompt", {})
    cases, margins = [], []
    for number, (length, beams) in enumerate(spec.cases, 1):
        case, margin = make_case(spec, score, exact, rows, prompts(score, number, length), number, beams)
        cases.append(case)
        margins.append(margin)
    assert_lively(spec, cases)
    if spec.tied_experts:
        experts = score.model.config.num_experts
        assert all(watch.ties > 0 and len(watch.used) < experts for watch in score.watches), spec.name
    with open(os.path.join(folder, "golden", "requests.jsonl" if spec.requests else "cases.jsonl"), "w", newline="\n") as f:
        f.writelines(json.dumps(c, separators=(",", ":")) + "\n" for c in cases)
    if spec.activations:
        activations.write(folder, model, manifest, activations.shortest(cases))
    if spec.requests:  # what they add is computed on the host in f32
        assert_inputs_matter(spec, score, cases)
        rounded = ""
    else:
        rounding = write_bf16(spec, folder, manifest, cases, trie, rows)
        rounded = f"  bf16 |delta| {rounding['max']:.3f} rms {rounding['rms']:.3f}"
    size = sum(os.path.getsize(os.path.join(d, name)) for d, _, names in os.walk(folder) for name in names)
    by_hf = sum(c["reference"] == "hf_generate" for c in cases)
    print(f"{spec.name:20} {size / 1000:6.0f} kB  {len(rows):4} items  {len(cases):2} cases ({by_hf} hf_generate)  "
          f"smallest margin {min(margins):.1e}{rounded}", flush=True)


def double(model):
    """A copy in float64."""
    twin = copy.deepcopy(model).double()
    if hasattr(twin, "level_heads"):
        watch(twin)
    return twin


def write_bf16(spec, folder, manifest, cases, trie, rows):
    """`golden/bf16.json`: what rounding to bf16 alone does to the scores."""
    scorers = [scorer(spec, golden_bf16.rounded(load(spec, folder), kind), manifest, trie, rows) for kind in golden_bf16.KINDS]
    rounding = golden_bf16.figures(scorers, cases)
    models.write_json(os.path.join(folder, "golden", "bf16.json"), {"rounding": rounding})
    return rounding


def differences(old, new, tolerance=1e-5):
    """Names what differs between two folders of one export."""
    listing = lambda top: sorted(os.path.relpath(os.path.join(d, n), top) for d, _, names in os.walk(top) for n in names)
    if listing(old) != listing(new):
        return [f"files: {listing(old)} != {listing(new)}"]
    out = []
    for name in listing(old):
        a, b = os.path.join(old, name), os.path.join(new, name)
        if name == "config.json":  # the one key that names the library's version may differ
            x, y = ({k: v for k, v in json.load(open(p)).items() if k != "transformers_version"} for p in (a, b))
            out += [f"{name}: {x} != {y}"] if x != y else []
        elif name.endswith("activations.safetensors"):
            with safe_open(a, "pt") as x, safe_open(b, "pt") as y:
                out += [f"{name}: names"] if set(x.keys()) != set(y.keys()) else [
                    f"{name}: {k}" for k in x.keys() if not torch.allclose(x.get_tensor(k), y.get_tensor(k), rtol=tolerance, atol=tolerance)]
        elif name.endswith(".safetensors"):
            with safe_open(a, "pt") as x, safe_open(b, "pt") as y:
                out += [f"{name}: names"] if set(x.keys()) != set(y.keys()) else [
                    f"{name}: {k}" for k in x.keys() if not torch.equal(x.get_tensor(k), y.get_tensor(k))]
        elif name.endswith(".jsonl"):
            out += [f"{name}: {x['id']}" for x, y in zip(*([json.loads(line) for line in open(p)] for p in (a, b)), strict=True)
                    if not same(x, y, tolerance)]
        elif name.endswith("bf16.json"):  # a sum in another order may round to the other side: figures move, by far less than this
            x, y = (json.load(open(p))["rounding"] for p in (a, b))
            out += [f"{name}: {x} != {y}"] if x.keys() != y.keys() or any(abs(x[k] - y[k]) > 0.25 * x[k] for k in x) else []
        elif not filecmp.cmp(a, b, shallow=False):
            out.append(name)
    return out


def same(x, y, tolerance):
    """Deep equality, floats within a tolerance."""
    if isinstance(x, float) and isinstance(y, float):
        return abs(x - y) <= tolerance
    if isinstance(x, dict) and isinstance(y, dict):
        return x.keys() == y.keys() and all(same(x[k], y[k], tolerance) for k in x)
    if isinstance(x, list) and isinstance(y, list):
        return len(x) == len(y) and all(same(a, b, tolerance) for a, b in zip(x, y))
    return x == y


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", action="store_true", help="the exports of requests with instructions, features and retrieval")
    parser.add_argument("--out", help="folder of the exports (default: tests/goldens, with --requests tests/oxygenrec)")
    parser.add_argument("--check", action="store_true", help="write nothing; make everything in a temporary folder and compare")
    parser.add_argument("--only", nargs="+", metavar="EXPORT", choices=[s.name for s in models.SPECS + golden_requests.SPECS])
    args = parser.parse_args()
    known = golden_requests.SPECS if args.requests else models.SPECS
    args.out = args.out or ("tests/oxygenrec" if args.requests else "tests/goldens")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    specs = [s for s in known if not args.only or s.name in args.only]
    if not args.check:
        for spec in specs:
            make(spec, args.out)
        return 0
    bad = 0
    with tempfile.TemporaryDirectory() as new:
        for spec in specs:
            make(spec, new)
            for line in differences(os.path.join(args.out, spec.name), os.path.join(new, spec.name)):
                print(f"DIFFERS {spec.name}/{line}")
                bad += 1
    stray = set(e.name for e in os.scandir(args.out) if e.is_dir()) - {s.name for s in known}
    for name in sorted(stray):
        print(f"DIFFERS {name}: no such export is made any more")
    bad += len(stray)
    print("goldens: differ" if bad else "goldens: the same")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
