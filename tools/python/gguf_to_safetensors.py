"""Turns a GGUF file of a Llama model into a Hugging Face directory: config.json, model.safetensors, tokenizer.json.

    python tools/python/gguf_to_safetensors.py MODEL.gguf --out DIR [--dtype bf16|f32]

Needs gguf, numpy and safetensors. Quantised weights are widened to what they stand for; nothing is trained back.

GGUF stores the rows of each query and key head in another order than Hugging Face: for rotation of neighbouring pairs
(x0, x1), (x2, x3), ... instead of halves (x0, x_half), ... A model whose rows are left in that order still talks, and scores
wrongly (tools/smollm2 shows by how much), so they are put back here. What is not known by name is refused.

`tokenizer.json` is written where the file holds a byte-level BPE whose pre-tokenizer is known.
"""
import argparse
import json
import os
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file

LAYER_TENSORS = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
                 "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
                 "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
# `tokenizer.ggml.pre` -> what Hugging Face does before byte-level splitting.
PRE_TOKENIZERS = {"smollm": [{"type": "Digits", "individual_digits": True}]}
CONTROL = 3  # of tokenizer.ggml.token_type


def fields(reader):
    """-> a function from a key to its value; `default` makes it optional."""
    def get(key, *default):
        if key in reader.fields:
            return reader.fields[key].contents()
        if default:
            return default[0]
        raise SystemExit(f"the GGUF file has no {key!r}: it is not one of a Llama model")
    return get


def hf_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("blk."):
        _, layer, part = stem.split(".", 2)
        if part in LAYER_TENSORS:
            return f"model.layers.{layer}.{LAYER_TENSORS[part]}.{kind}"
    elif stem in TENSORS:
        return f"{TENSORS[stem]}.{kind}"
    raise SystemExit(f"tensor {name!r} is not one of a Llama model that this tool knows (scaled RoPE among them)")


def to_halves(rows, heads):
    """Rows [heads * dim, ..] from the order of neighbouring pairs to that of halves."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def weights(reader, get, dtype, halves=True):
    """-> {Hugging Face's name: array}"""
    heads = {"attn_q": get("llama.attention.head_count"), "attn_k": get("llama.attention.head_count_kv")}
    out = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        part = tensor.name.split(".")[-2]
        if halves and part in heads:
            values = to_halves(values, heads[part])
        out[hf_name(tensor.name)] = np.ascontiguousarray(values) if dtype == "f32" else to_bf16(values)
    return out


def to_bf16(values):
    """The bits of the nearest bf16, ties to even; numpy has no such type."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def write_weights(path, tensors, dtype):
    if dtype == "f32":
        return save_file(tensors, path, metadata={"format": "pt"})
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape), "data_offsets": [at, at + tensors[name].nbytes]}
        at += tensors[name].nbytes
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(len(head).to_bytes(8, "little") + head)
        for name in sorted(tensors):
            f.write(tensors[name].tobytes())


def config_json(get, tensors, dtype):
    heads, hidden = get("llama.attention.head_count"), get("llama.embedding_length")
    head_dim = get("llama.attention.key_length", hidden // heads)
    if get("llama.rope.dimension_count", head_dim) != head_dim:
        raise SystemExit("llama.rope.dimension_count: RoPE over a part of each head is not known to this tool")
    if get("llama.rope.scaling.type", "none") != "none":
        raise SystemExit(f"llama.rope.scaling.type: {get('llama.rope.scaling.type')!r} RoPE is not known to this tool")
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": {"f32": "float32", "bf16": "bfloat16"}[dtype],
        "vocab_size": tensors["model.embed_tokens.weight"].shape[0], "hidden_size": hidden,
        "intermediate_size": get("llama.feed_forward_length"), "num_hidden_layers": get("llama.block_count"),
        "num_attention_heads": heads, "num_key_value_heads": get("llama.attention.head_count_kv", heads), "head_dim": head_dim,
        "hidden_act": "silu", "max_position_embeddings": get("llama.context_length"),
        "rms_norm_eps": float(str(np.float32(get("llama.attention.layer_norm_rms_epsilon")))),
        "rope_parameters": {"rope_type": "default", "rope_theta": get("llama.rope.freq_base", 10000.0)},
        "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": "lm_head.weight" not in tensors,
        "bos_token_id": get("tokenizer.ggml.bos_token_id", None), "eos_token_id": get("tokenizer.ggml.eos_token_id", None),
    }


def tokenizer_json(get):
    """-> tokenizer.json, or None with the reason."""
    model, pre = get("tokenizer.ggml.model", None), get("tokenizer.ggml.pre", None)
    if model != "gpt2" or pre not in PRE_TOKENIZERS:
        return None, f"no tokenizer.json: tokenizer {model!r} with pre-tokenizer {pre!r} is not known to this tool"
    tokens, kinds = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.token_type")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
               for i, (token, kind) in enumerate(zip(tokens, kinds)) if kind == CONTROL]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[pre] + [byte_level]},
        "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)}, "merges": get("tokenizer.ggml.merges")},
    }, None


def convert(gguf, out, dtype="bf16", halves=True):
    """`halves=False` leaves queries and keys in GGUF's order: the fault that tools/smollm2 shows."""
    reader = GGUFReader(gguf)
    get = fields(reader)
    if get("general.architecture") != "llama":
        raise SystemExit(f"general.architecture {get('general.architecture')!r}: only llama is known to this tool")
    tensors = weights(reader, get, dtype, halves)
    tokenizer, why = tokenizer_json(get)
    os.makedirs(out, exist_ok=True)
    for name, value in (("config.json", config_json(get, tensors, dtype)), ("tokenizer.json", tokenizer)):
        if value is not None:
            with open(os.path.join(out, name), "w", encoding="utf-8", newline="\n") as f:
                json.dump(value, f, indent=1, ensure_ascii=False)
                f.write("\n")
    if why:
        print(why, file=sys.stderr)
    write_weights(os.path.join(out, "model.safetensors"), tensors, dtype)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("gguf", help="the GGUF file")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16", help="type of the weights (default: bf16)")
    args = parser.parse_args()
    convert(args.gguf, args.out, args.dtype)


if __name__ == "__main__":
    main()
