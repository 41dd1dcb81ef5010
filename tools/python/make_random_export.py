"""Writes an export of the family `oxygenrec` with random weights, in the sizes of the OxygenREC paper, to try and time the engine on.

    python tools/python/make_random_export.py SIZE OUT [--dtype bf16|f32] [--items 20000] [--seed 0]
    sidereal check OUT
    sidereal recommend OUT --requests OUT/requests.jsonl

SIZE is one of 0.1B, 0.4B, 0.7B, 1.5B, 3.0B. All have 4 encoder layers without experts, and experts in every decoder layer; semantic
IDs of 3 levels of 8,192 codes; the head is the embedding table. What the paper does not say is chosen so that the totals come out:
gated feed-forward blocks of one width, d_kv 64, as many heads as make up the hidden width.

Weights are cut from one long stretch of normal noise at random places, scaled by 1/sqrt(inputs), and written piece by piece: the
program needs about 200 MB whatever the size. The lists that such a model gives mean nothing.
"""
import argparse
import json
import os
import struct
import sys

import numpy as np

#        hidden, decoder layers, experts, experts of a token, width of a feed-forward block
SIZES = {
    "0.1B": (1024, 4, 2, 1, 512),
    "0.4B": (2048, 6, 4, 2, 1024),
    "0.7B": (2048, 8, 8, 2, 1024),
    "1.5B": (2048, 8, 24, 2, 1024),
    "3.0B": (2048, 16, 24, 2, 1024),
}
ENCODER_LAYERS, HEAD_DIM, BUCKETS = 4, 64, 32
LEVELS, CODES, FIRST_TOKEN = 3, 8192, 3
VOCABULARY = FIRST_TOKEN + LEVELS * CODES
PIECE = 1 << 22                      # elements written at a time
NOISE = 1 << 24                      # elements of the noise that weights are cut from


def config(size):
    hidden, layers, experts, active, inner = SIZES[size]
    return {
        "model_type": "oxygenrec", "vocab_size": VOCABULARY, "d_model": hidden, "d_kv": HEAD_DIM, "d_ff": inner,
        "num_heads": hidden // HEAD_DIM, "num_layers": ENCODER_LAYERS, "num_decoder_layers": layers,
        "feed_forward_proj": "gated-silu", "layer_norm_epsilon": 1e-6, "relative_attention_num_buckets": BUCKETS,
        "relative_attention_max_distance": 128, "tie_word_embeddings": True, "attention_scale": True, "num_experts": experts,
        "num_experts_per_tok": active, "moe_intermediate_size": inner,
    }


def shapes(keys):
    """(name, shape) of every tensor."""
    hidden, width, inner = keys["d_model"], keys["num_heads"] * HEAD_DIM, keys["d_ff"]

    def block(at):
        yield f"{at}.gate_proj.weight", (inner, hidden)
        yield f"{at}.wi.weight", (inner, hidden)
        yield f"{at}.wo.weight", (hidden, inner)

    yield "shared.weight", (VOCABULARY, hidden)
    for side, layers, attentions in (("encoder", keys["num_layers"], ["SelfAttention"]),
                                     ("decoder", keys["num_decoder_layers"], ["SelfAttention", "EncDecAttention"])):
        yield f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (BUCKETS, keys["num_heads"])
        for layer in range(layers):
            at = f"{side}.block.{layer}.layer"
            for index, attention in enumerate(attentions):
                yield f"{at}.{index}.layer_norm.weight", (hidden,)
                for name in "qkv":
                    yield f"{at}.{index}.{attention}.{name}.weight", (width, hidden)
                yield f"{at}.{index}.{attention}.o.weight", (hidden, width)
            at = f"{at}.{len(attentions)}"
            yield f"{at}.layer_norm.weight", (hidden,)
            if side == "encoder":
                yield from block(f"{at}.ffn")
                continue
            yield f"{at}.ffn.router.weight", (keys["num_experts"], hidden)
            for expert in range(keys["num_experts"]):
                yield from block(f"{at}.ffn.experts.{expert}")
        yield f"{side}.final_layer_norm.weight", (hidden,)


def to_bf16(values):
    """f32 as bf16 words, rounded to nearest, ties to even."""
    words = values.view(np.uint32)
    return ((words + (0x7FFF + ((words >> 16) & 1))) >> 16).astype("<u2")


def pieces(shape, noise, rng):
    """The values of a tensor, f32, a piece at a time."""
    left = int(np.prod(shape))
    if len(shape) == 1:
        yield np.ones(left, dtype=np.float32)
        return
    scale = np.float32(shape[1] ** -0.5)
    while left:
        count = min(left, PIECE)
        start = int(rng.integers(NOISE - count + 1))
        yield noise[start:start + count] * scale
        left -= count


def write_weights(path, tensors, dtype, rng):
    """A safetensors file: header, then the tensors one behind the other. -> number of parameters"""
    header, at, parameters = {}, 0, 0
    for name, shape in tensors:
        elements = int(np.prod(shape))
        header[name] = {"dtype": dtype.upper(), "shape": list(shape), "data_offsets": [at, at + elements * (2 if dtype == "bf16" else 4)]}
        at, parameters = header[name]["data_offsets"][1], parameters + elements
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    noise = rng.standard_normal(NOISE, dtype=np.float32)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for _, shape in tensors:
            for values in pieces(shape, noise, rng):
                file.write((to_bf16(values) if dtype == "bf16" else values.astype("<f4")).tobytes())
    return parameters


def active_parameters(keys, parameters):
    """Parameters that a token meets: all but those of the experts that it does not choose."""
    expert = 3 * keys["d_model"] * keys["moe_intermediate_size"]
    return parameters - keys["num_decoder_layers"] * (keys["num_experts"] - keys["num_experts_per_tok"]) * expert


def write_json(path, value):
    with open(path, "w", newline="\n") as file:
        file.write(json.dumps(value, indent=2) + "\n")


def write_catalogue(path, items, rng):
    """Items 1, 2, 3 .. with distinct semantic IDs."""
    sids = rng.choice(CODES ** 2, size=items, replace=False)  # the first two levels: distinct, so that the third may be any
    with open(path, "w", newline="\n") as file:
        file.write("item,sid0,sid1,sid2\n")
        for item, (sid, last) in enumerate(zip(sids, rng.integers(CODES, size=items)), 1):
            file.write(f"{item},{sid // CODES},{sid % CODES},{last}\n")


def write_requests(path, items, rng):
    with open(path, "w", newline="\n") as file:
        for number, length in enumerate((20, 100, 300), 1):
            history = [int(item) for item in rng.integers(1, items + 1, size=length)]
            file.write(json.dumps({"id": number, "items": history, "beams": 128, "top": 10}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("out", help="a directory that does not exist")
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--items", type=int, default=20_000, help="items of the catalogue")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not 1 <= args.items <= 1_000_000:
        parser.error("--items: 1 to 1,000,000")
    try:
        os.mkdir(args.out)
    except OSError as error:
        parser.error(f"{args.out}: {error.strerror}")
    rng, keys = np.random.default_rng(args.seed), config(args.size)
    level = lambda number: {"codes": CODES, "tokens": {"first": FIRST_TOKEN + number * CODES}}
    write_json(os.path.join(args.out, "config.json"), keys)
    write_json(os.path.join(args.out, "sidereal.json"), {
        "sidereal": 1, "name": f"random-{args.size}", "version": f"seed.{args.seed}",
        "sid": {"levels": [level(number) for number in range(LEVELS)]},
        "prompt": {"prefix": [], "item": {"prefix": [], "suffix": []}, "suffix": [1], "max_items": 2048},
        "decoder_prefix": [0], "score": "full_then_mask", "length_penalty": 0.0,
    })
    write_catalogue(os.path.join(args.out, "items.csv"), args.items, rng)
    write_requests(os.path.join(args.out, "requests.jsonl"), args.items, rng)
    parameters = write_weights(os.path.join(args.out, "model.safetensors"), list(shapes(keys)), args.dtype, rng)
    active = active_parameters(keys, parameters)
    print(f"{args.out}: {parameters:,} parameters ({active:,} for a token), {VOCABULARY * keys['d_model']:,} of them embeddings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
