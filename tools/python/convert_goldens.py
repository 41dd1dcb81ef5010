"""Goldens of a finished export: what `transformers` answers to prompts of items, and, if asked, what every layer computes.

Searches are those of golden_search.py: a plain beam search over HF's logits, held against HF's own `generate` where that can say the
score mode. Prompts are real histories, or random items; unlike tests/goldens they are not chosen, so lists may hang on close calls:
`sidereal check` allows for those. Needs torch and transformers (requirements.txt).
"""
import json
import random

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.utils import logging

import activations
from convert_errors import Refused
from convert_manifest import prompt_tokens
from golden_search import Scorer, Trie

SCORES = ("full_then_mask", "mask_then_norm", "level_norm")
LENGTHS = (1, 3, 10, 30, 5, 100)  # items of a random history, in turn
AGREE = 1e-4


def load(folder, encoder_decoder):
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kind = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for key in ("missing_keys", "mismatched_keys"):
        if info[key]:
            raise Refused(f"{folder}: transformers finds {key.replace('_', ' ')}: {sorted(map(str, info[key]))[:3]}: is it the model of config.json?")
    return model.eval()


def scorer(model, manifest, trie):
    config, encoder_decoder = model.config, bool(model.config.is_encoder_decoder)
    # HF 5.x: with a cache, `generate` on a T5 decoder deeper than its encoder fails with an IndexError in the cache.
    use_cache = not encoder_decoder or config.num_decoder_layers <= config.num_layers
    return Scorer(model, manifest, encoder_decoder, use_cache, trie)


def histories(rows, given, count, seed):
    """`count` histories as semantic IDs: those given, in turn, or random items."""
    if given:
        sids = {row["item"]: row["sid"] for row in rows}
        known = [[sids[item] for item in history if item in sids] for history in given]
        known = [history for history in known if history]
        if not known:
            raise Refused("--histories: none of their items is in the item file")
        return [known[at % len(known)] for at in range(count)]
    rng = random.Random(seed)
    return [[rng.choice(rows)["sid"] for _ in range(LENGTHS[at % len(LENGTHS)])] for at in range(count)]


def make_case(number, score, tokens, beams):
    results, _ = score.plain_beam(tokens, beams)
    reference = "hf_logits"
    if score.mode == "full_then_mask":
        found, full = score.hf_generate(tokens, beams)
        apart = max((abs(a[1] - b[1]) for a, b in zip(found, results)), default=0.0)
        if len(found) != len(results) or apart > AGREE:
            raise Refused(f"golden {number}: HF's generate gives {len(found)} results, the plain search {len(results)}, up to {apart:.1e} apart: "
                          "a fault of the converter or of transformers; please report it")
        if full:
            results, reference = found, "hf_generate"
    picks = [results[0][0], results[-1][0]] if len(results) > 1 else [results[0][0]]
    forced = [{"sid": list(sid), "logprobs": [f32(p) for p in score.forced(tokens, sid)]} for sid in picks]
    return {"id": number, "tokens": tokens, "beams": beams, "score": score.mode,
            "results": [{"sid": list(sid), "score": f32(s)} for sid, s in results], "forced": forced, "reference": reference}


def f32(x):
    return float(f"{x:.9g}")


def write(folder, manifest, spelling, rows, options):
    """`golden/` of the export in `folder`. -> number of cases"""
    if manifest["score"] not in SCORES:
        raise Refused(f"--goldens: the reference search knows {' and '.join(SCORES)}, not {manifest['score']}; leave --goldens out")
    torch.set_num_threads(options.threads)
    model = load(folder, "decoder_prefix" in manifest)
    score = scorer(model, manifest, Trie([row["sid"] for row in rows]))
    cases = []
    for number, sids in enumerate(histories(rows, options.histories, options.goldens, options.seed), 1):
        tokens = prompt_tokens(manifest, spelling, sids)
        if not tokens:
            raise Refused("--goldens: the prompt of an item is empty")
        cases.append(make_case(number, score, tokens, options.beams[(number - 1) % len(options.beams)]))
    (folder / "golden").mkdir(exist_ok=True)
    with open(folder / "golden" / "cases.jsonl", "w", newline="\n") as f:
        f.writelines(json.dumps(case, separators=(",", ":")) + "\n" for case in cases)
    if options.activations:
        activations.write(folder, model, manifest, activations.shortest(cases))
    return len(cases)
