"""Tokenizes a passage and writes what Hugging Face `transformers` makes of it: the reference of tools/smollm2.

    tools/smollm2 --convert-only
    python tools/python/perplexity_reference.py target/smollm2/checkpoint --folder tests/perplexity

Reads `passage.txt` in the folder and writes `passage.jsonl` (token ids, for `sidereal eval --perplexity`) and `reference.json`. Needs
torch (CPU), transformers 5.x, tokenizers. The model is computed in f32 from the checkpoint's weights as they are.
"""
import argparse
import json
import math
import os

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="Hugging Face directory with tokenizer.json")
    parser.add_argument("--folder", required=True, help="folder of passage.txt")
    args = parser.parse_args()
    place = lambda name: os.path.join(args.folder, name)
    torch.set_num_threads(1)
    with open(place("passage.txt"), encoding="utf-8") as f:
        text = f.read().strip()
    tokenizer = Tokenizer.from_file(os.path.join(args.checkpoint, "tokenizer.json"))
    tokens = tokenizer.encode(text).ids
    assert tokenizer.decode(tokens, skip_special_tokens=False) == text
    model, info = transformers.AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    with torch.inference_mode():
        logits = model.eval()(torch.tensor([tokens]), use_cache=False).logits[0]
    log_probs = logits[:-1].log_softmax(-1)[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]
    loss = -log_probs.double().mean().item()
    with open(place("passage.jsonl"), "w", newline="\n") as f:
        f.write(json.dumps({"tokens": tokens}, separators=(",", ":")) + "\n")
    made_with = {module.__name__: module.__version__ for module in (transformers, torch, tokenizers)}
    reference = {"tokens": len(tokens) - 1, "loss": round(loss, 6), "perplexity": round(math.exp(loss), 5), "made_with": made_with}
    with open(place("reference.json"), "w", newline="\n") as f:
        f.write(json.dumps(reference, indent=2) + "\n")
    print(json.dumps(reference))


if __name__ == "__main__":
    main()
