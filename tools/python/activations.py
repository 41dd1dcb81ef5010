"""Records what every module of a Hugging Face model computes for one golden prompt, so that `sidereal check` can say where an
export first parts from the model that it was made of.

    python tools/python/activations.py EXPORT [--case ID]     # writes EXPORT/golden/activations.safetensors

The prompt is that of golden case ID, by default the shortest one of at least 4 tokens. Every tensor is f32 `[tokens, width]` and
is named by the *weight* that its module applies, without `.weight`:

    case4/model.layers.0.self_attn.q_proj/out      what came out: for every norm, linear map and embedding
    case4/model.layers.0.self_attn.o_proj/in       what went in: where no recorded module made it (attention, gated activations)
    case4/head/in, case4/head/out                  the same of the output head, for the position that starts the search

A module that runs more than once (a table shared by encoder and decoder) has `out.1`, `out.2` ... for the later runs.
An encoder-decoder's decoder reads the manifest's `decoder_prefix`. docs/export-format.md has the format.
"""
import argparse
import json
import os

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def names_in_files(folder):
    """The tensor names of the export's files."""
    files = sorted(name for name in os.listdir(folder) if name.startswith("model") and name.endswith(".safetensors"))
    names = set()
    for name in files:
        with safe_open(os.path.join(folder, name), "pt") as opened:
            names |= set(opened.keys())
    return names


def weight_names(model, stored):
    """module -> the name, without `.weight`, under which its weight is stored; tied modules share one."""
    by_data = {}
    modules = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor):
            continue
        modules[module] = weight.data_ptr()
        if f"{prefix}.weight" in stored:
            by_data.setdefault(weight.data_ptr(), prefix)
    return {module: by_data[data] for module, data in modules.items() if data in by_data}


def record(model, stored, tokens, decoder_prefix):
    """-> {name: f32 [tokens, width]} for one prompt; names as in the file, without the case."""
    recorded, made, handles = {}, set(), []
    head = model.get_output_embeddings()

    def keep(name, value):
        flat = value.detach().float().reshape(-1, value.shape[-1])
        if name in recorded:
            name += "." + str(1 + sum(other.startswith(name + ".") for other in recorded))
        recorded[name] = flat.clone().contiguous()

    def hook(name, linear):
        def after(_, inputs, output):
            if linear and inputs[0].data_ptr() not in made:
                keep(f"{name}/in", inputs[0])
            keep(f"{name}/out", output)
            made.add(output.data_ptr())
        return after

    def after_head(_, inputs, output):
        keep("head/in", inputs[0][:, -1])
        keep("head/out", output[:, -1])

    for module, name in weight_names(model, stored).items():
        if module is not head:
            handles.append(module.register_forward_hook(hook(name, isinstance(module, torch.nn.Linear))))
    handles.append(head.register_forward_hook(after_head))
    # The outputs stay alive, so that an address means one tensor.
    alive = []
    handles += [module.register_forward_hook(lambda _, inputs, output: alive.append((inputs, output))) for module in model.modules()]
    ids = torch.tensor([tokens])
    try:
        with torch.no_grad():
            if decoder_prefix:
                model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=torch.tensor([decoder_prefix]), use_cache=False)
            else:
                model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return recorded


def shortest(cases):
    """The shortest case of at least 4 tokens, else the longest: fewer positions leave more causes indistinguishable."""
    long = [case for case in cases if len(case["tokens"]) >= 4]
    return min(long, key=lambda case: len(case["tokens"])) if long else max(cases, key=lambda case: len(case["tokens"]))


def write(folder, model, manifest, case):
    """Writes `golden/activations.safetensors` of an export; `model` is what the export was made of."""
    recorded = record(model, names_in_files(folder), case["tokens"], manifest.get("decoder_prefix", []))
    named = {f"case{case['id']}/{name}": value for name, value in recorded.items()}
    save_file(named, os.path.join(folder, "golden", "activations.safetensors"))
    return named


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("export")
    parser.add_argument("--case", type=int, help="golden case whose prompt is read")
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
    with open(os.path.join(args.export, "sidereal.json")) as opened:
        manifest = json.load(opened)
    with open(os.path.join(args.export, "golden", "cases.jsonl")) as opened:
        cases = [json.loads(line) for line in opened if line.strip()]
    case = next(case for case in cases if case["id"] == args.case) if args.case is not None else shortest(cases)
    auto = AutoModelForSeq2SeqLM if "decoder_prefix" in manifest else AutoModelForCausalLM
    model = auto.from_pretrained(args.export, dtype=torch.float32).eval()
    named = write(args.export, model, manifest, case)
    print(f"case {case['id']}, {len(case['tokens'])} tokens: {len(named)} activations")


if __name__ == "__main__":
    main()
