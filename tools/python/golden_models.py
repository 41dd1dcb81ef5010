"""The golden exports: what each one covers, its seeded weights, its catalogue, its files.

An export here is data: one `Spec`. Weights are drawn with NumPy's Philox, one stream a tensor keyed by (export, tensor), at
scales at which logits have a standard deviation of about 3 and attention is peaked, so that lists depend on the prompt and
ties are rare. The exports named `*-bf16` are calmer (`logits`, `calm`). Nothing is trained.

`config.json` comes in the two forms that exist in the wild. "v5" is what transformers 5.x writes today (taken from the
config class itself); "v4" is what 4.x wrote (spelled out below), with `tie_word_embeddings` meaning what it meant there.
"""
import csv
import dataclasses
import hashlib
import json
import os

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, Qwen2Config, Qwen3Config, SwitchTransformersConfig, T5Config

import oxygenrec

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclasses.dataclass
class Spec:
    name: str
    covers: str
    family: str                      # a key of BASES
    config: dict                     # keys of the HF config that differ from the base below
    form: str                        # "v4" | "v5"; "own": the family is defined by oxygenrec.py, not by HF
    codes: list                      # codes of each level
    vocab: int
    cases: list                      # (prompt tokens, beams)
    sids: int = 400                  # distinct SIDs in the catalogue
    items_per_sid: int = 1           # the most items that share one SID
    single_child: tuple = ()         # levels at which every node has exactly one child
    first: int = 3                   # first SID token id
    permuted: bool = False           # token `list`s, shuffled across levels, instead of `first`
    lm_head: bool = False            # the file holds lm_head.weight, different from the input table
    dtype: str = "f32"
    shards: int = 1
    manifest: dict = dataclasses.field(default_factory=dict)
    extra: tuple = ()                # tensors that real files also hold and a loader must ignore
    logits: float = 3.0              # standard deviation of the logits
    activations: bool = False        # record golden/activations.safetensors
    hf_names: bool = True            # oxygenrec: dense feed-forward blocks under HF's names, not OneRec's
    tied_experts: dict = dataclasses.field(default_factory=dict)   # oxygenrec: router row -> the row that it is a copy of
    inputs: dict = dataclasses.field(default_factory=dict)   # oxygenrec: `sizes` of OxygenRec; cases are then requests
    calm: float = 1.0                # divides what makes attention peaked (T5: q and o; decoders: o, and the head norms or q and k)

    @property
    def requests(self):
        """Whether `cases` holds (recipe of a request, beams), for golden_oxygenrec.request."""
        return bool(self.inputs)

    def rng(self, *key):
        digest = hashlib.sha256("/".join(map(str, (self.name,) + key)).encode()).digest()
        return np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "little")))


T5_BASE = dict(d_model=32, d_kv=8, d_ff=64, num_heads=4, num_layers=2, num_decoder_layers=2, dropout_rate=0.1,
               relative_attention_num_buckets=32, relative_attention_max_distance=128, layer_norm_epsilon=1e-6,
               feed_forward_proj="relu", initializer_factor=1.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
DECODER_BASE = dict(hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    hidden_act="silu", max_position_embeddings=4096, rms_norm_eps=1e-6, attention_dropout=0.0, initializer_range=0.02)
OXYGENREC_BASE = dict(d_model=32, d_kv=8, d_ff=40, num_heads=4, num_layers=1, num_decoder_layers=2, feed_forward_proj="gated-silu",
                      layer_norm_epsilon=1e-6, tie_word_embeddings=True, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
SWITCH_BASE = {key: value for key, value in T5_BASE.items() if key not in ("feed_forward_proj", "initializer_factor")} | {
    "dense_act_fn": "relu", "num_experts": 4, "expert_capacity": 4096, "router_jitter_noise": 0.01}
ENCODER_DECODERS = ("t5", "oxygenrec", "switch_transformers")
BASES = {"t5": T5_BASE, "oxygenrec": OXYGENREC_BASE, "switch_transformers": SWITCH_BASE, "qwen2": DECODER_BASE, "llama": DECODER_BASE | {"attention_bias": False, "mlp_bias": False},
         "qwen3": DECODER_BASE | {"attention_bias": False, "head_dim": 16}}
CONFIGS = {"t5": T5Config, "switch_transformers": SwitchTransformersConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}
ARCHITECTURES = {"t5": "T5ForConditionalGeneration", "switch_transformers": "SwitchTransformersForConditionalGeneration",
                 "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
# What 4.x wrote beside the base.
V4_KEYS = {"t5": {"is_encoder_decoder": True, "n_positions": 512, "output_past": True},
           "llama": {"bos_token_id": 1, "eos_token_id": 2, "pretraining_tp": 1, "rope_scaling": None},
           "qwen2": {"bos_token_id": 1, "eos_token_id": 2, "rope_scaling": None, "sliding_window": 4, "use_sliding_window": False,
                     "max_window_layers": 1}}
V4_KEYS["qwen3"] = V4_KEYS["qwen2"]

WIDE = [(1, 1), (1, 32), (2, 4), (7, 32), (63, 32), (64, 4), (65, 128), (128, 1), (300, 32), (600, 128)]
NARROW = [(1, 4), (7, 32), (65, 32), (128, 128), (300, 4)]
FEW = [(1, 32), (64, 4), (129, 32)]
SOME = [(1, 32), (6, 4), (33, 32), (64, 4), (129, 32)]
CALM = [(1, 32), (5, 4), (20, 128), (40, 32), (64, 64), (65, 4), (128, 32), (200, 128), (300, 32)]

SPECS = [
    Spec("t5-relu", "T5 v1.0: relu, tied and scaled, heads x d_kv == d_model; contiguous tokens; several items a SID; padded vocabulary",
         "t5", {"tie_word_embeddings": True}, "v5", [64, 64, 64], 200, WIDE, items_per_sid=4, activations=True,
         manifest={"prompt": {"prefix": [], "item": {"prefix": [], "suffix": []}, "suffix": [1], "max_items": 512}}),
    Spec("t5-gated", "T5 v1.1 as 4.x wrote it: gated-gelu (gelu_new), lm_head, not scaled, heads x d_kv != d_model, encoder deeper than "
         "decoder; 4 levels, token lists permuted across levels; tied copies and an unused cross-attention bias in the file",
         "t5", {"feed_forward_proj": "gated-gelu", "d_kv": 12, "num_layers": 3, "d_ff": 40, "tie_word_embeddings": False}, "v4",
         [16, 24, 8, 16], 80, WIDE, permuted=True, lm_head=True, activations=True, extra=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
         "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight")),
    Spec("t5-tied-default", "4.x config without the key tie_word_embeddings (t5-small's own form): tied and scaled",
         "t5", {"num_layers": 1, "num_decoder_layers": 1}, "v4", [16, 16, 16], 64, FEW, sids=200),
    Spec("t5-tied-unscaled", "scale_decoder_outputs false without lm_head: tied, not scaled (what 5.x trains when told tie_word_embeddings=False); "
         "decoder deeper than encoder; f16 weights", "t5", {"num_layers": 1, "num_decoder_layers": 3, "tie_word_embeddings": False}, "v5",
         [32, 32, 32], 112, NARROW, dtype="f16", permuted=True),
    Spec("t5-untied-scaled", "lm_head in the file while scale_decoder_outputs is true: untied, scaled; length_penalty 0.5",
         "t5", {"num_layers": 1, "num_decoder_layers": 1, "tie_word_embeddings": True}, "v5", [16, 16, 16], 64, FEW, sids=200, lm_head=True,
         manifest={"length_penalty": 0.5}),
    Spec("t5-untied-unscaled", "a v1.1 model re-saved by 5.x: tie_word_embeddings true, scale_decoder_outputs false, lm_head: untied, not scaled; "
         "gated-silu", "t5", {"num_layers": 1, "num_decoder_layers": 1, "feed_forward_proj": "gated-silu", "tie_word_embeddings": False}, "v5",
         [16, 16, 16], 64, FEW, sids=200, lm_head=True),
    Spec("t5-end-scored", "scored end token (EOS after the SID), length_penalty 0; layer_norm_epsilon 0.01",
         "t5", {"layer_norm_epsilon": 0.01, "tie_word_embeddings": True}, "v5", [32, 32, 32], 104, NARROW,
         manifest={"end": {"tokens": [1], "scored": True}}),
    Spec("t5-end-penalty", "two scored end tokens, length_penalty 1: score = sum / (levels + 2)", "t5",
         {"num_layers": 1, "num_decoder_layers": 2, "tie_word_embeddings": True}, "v5", [16, 16, 16], 64, NARROW,
         manifest={"end": {"tokens": [2, 1], "scored": True}, "length_penalty": 1.0}),
    Spec("t5-end-unscored", "unscored end token and length_penalty 1: score = sum / levels; decoder prefix of three tokens", "t5",
         {"num_layers": 1, "num_decoder_layers": 1, "tie_word_embeddings": True}, "v5", [16, 16, 16], 64, NARROW,
         manifest={"end": {"tokens": [1], "scored": False}, "length_penalty": 1.0, "decoder_prefix": [0, 60, 61]}),
    Spec("t5-level-norm", "level_norm, gated-gelu, permuted tokens; 16 relative buckets up to distance 64", "t5",
         {"relative_attention_num_buckets": 16, "relative_attention_max_distance": 64, "num_layers": 1, "num_decoder_layers": 2,
          "feed_forward_proj": "gated-gelu", "tie_word_embeddings": True}, "v5", [24, 16, 32], 80, NARROW, permuted=True,
         manifest={"score": "level_norm"}),
    Spec("t5-small-catalog", "fewer SIDs than beams, two levels, a level of single children; SIDs shared by many items", "t5",
         {"num_layers": 1, "num_decoder_layers": 1, "tie_word_embeddings": True}, "v5", [16, 16], 40, [(1, 1), (2, 4), (7, 32), (64, 128)],
         sids=5, items_per_sid=9, single_child=(1,)),
    Spec("qwen3-gqa", "Qwen3 with 4 query and 2 KV heads, heads x head_dim != hidden, tied; rope_parameters (5.x); several items a SID",
         "qwen3", {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, "v5",
         [64, 64, 64], 200, WIDE, items_per_sid=3, activations=True,
         manifest={"prompt": {"prefix": [1], "item": {"prefix": [], "suffix": []}, "suffix": [2], "max_items": 512}}),
    Spec("qwen3-untied", "Qwen3 with lm_head, one KV head a query head; rope_theta at top level (4.x), sliding_window present but unused; bf16, "
         "three shards; unscored end token; single-child level", "qwen3",
         {"hidden_size": 32, "num_key_value_heads": 4, "head_dim": 8, "intermediate_size": 96, "rope_theta": 1000000.0,
          "tie_word_embeddings": False}, "v4", [48, 48, 48], 160, WIDE, lm_head=True, dtype="bf16", shards=3, permuted=True,
         single_child=(2,), manifest={"end": {"tokens": [2], "scored": False}}),
    Spec("qwen3-level-norm", "level_norm over 8 levels, one KV head for all query heads, tied; rms_norm_eps 0.01", "qwen3",
         {"rms_norm_eps": 0.01, "hidden_size": 32, "num_key_value_heads": 1, "intermediate_size": 48, "tie_word_embeddings": True,
          "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}}, "v5", [6, 4, 8, 4, 6, 4, 8, 4], 48, NARROW,
         manifest={"score": "level_norm"}),
    Spec("t5-mask-norm", "mask_then_norm: log-probabilities over the legal codes; several items a SID", "t5",
         {"num_layers": 1, "num_decoder_layers": 2, "tie_word_embeddings": True}, "v5", [24, 16, 32], 80, NARROW, items_per_sid=2,
         manifest={"score": "mask_then_norm"}),
    Spec("qwen3-mask-norm", "mask_then_norm over 4 levels, a level of single children, length_penalty 1", "qwen3",
         {"hidden_size": 32, "intermediate_size": 48, "tie_word_embeddings": True,
          "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, "v5", [16, 12, 8, 16], 64, NARROW, permuted=True,
         single_child=(3,), manifest={"score": "mask_then_norm", "length_penalty": 1.0}),
    Spec("t5-level-head", "level_head: a matrix a level, not scaled; no lm_head in the file", "t5",
         {"num_layers": 1, "num_decoder_layers": 1, "tie_word_embeddings": False}, "v5", [24, 16, 32], 80, NARROW,
         manifest={"score": "level_head"}),
    Spec("qwen3-level-head", "level_head over 3 levels; tied, no lm_head in the file", "qwen3",
         {"hidden_size": 32, "intermediate_size": 48, "tie_word_embeddings": True,
          "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, "v5", [20, 24, 16], 70, NARROW, permuted=True,
         manifest={"score": "level_head"}),
    Spec("t5-bf16", "bf16 contract, T5: hidden 64, 2 + 2 layers, narrower logits, calmer attention; bf16 weights", "t5",
         {"d_model": 64, "d_ff": 96, "tie_word_embeddings": True}, "v5", [24, 24, 24], 80, CALM, sids=1200, dtype="bf16", logits=2.0, calm=1.6),
    Spec("qwen3-bf16", "bf16 contract, Qwen3: hidden 64, 3 layers, narrower logits, calmer attention; bf16 weights", "qwen3",
         {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "tie_word_embeddings": True,
          "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, "v5", [24, 24, 24], 80, CALM, sids=1200, dtype="bf16", logits=2.0,
         calm=1.6),
    Spec("qwen2-gqa", "Qwen2 with biases of q, k and v, 4 query and 2 KV heads, tied; rope_parameters (5.x)", "qwen2",
         {"hidden_size": 40, "intermediate_size": 48, "tie_word_embeddings": True,
          "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, "v5", [40, 40, 40], 128, WIDE),
    Spec("qwen2-linear", "Qwen2 as 4.x wrote it, with lm_head and one KV head a query head; rope_theta at top level, rope_scaling with the old "
         "`type` linear; a head_dim that is not hidden / heads; sliding_window present but unused; bf16, two shards", "qwen2",
         {"hidden_size": 32, "intermediate_size": 48, "num_key_value_heads": 4, "head_dim": 12, "rope_theta": 1000000.0,
          "rope_scaling": {"type": "linear", "factor": 4.0}, "tie_word_embeddings": False}, "v4", [24, 24, 24], 80, NARROW, lm_head=True,
         dtype="bf16", shards=2, permuted=True),
    Spec("llama-llama3", "Llama without any bias, 6 query and 2 KV heads, tied; llama3 RoPE in rope_parameters (5.x), its original context "
         "shorter than the prompts; scored end token", "llama",
         {"num_attention_heads": 6, "intermediate_size": 56, "tie_word_embeddings": True, "rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}}, "v5", [40, 40, 40], 128, WIDE, manifest={"end": {"tokens": [2], "scored": True}}),
    Spec("llama-biases", "Llama as 4.x wrote it, without head_dim: attention_bias and mlp_bias, lm_head, llama3 RoPE in rope_scaling with "
         "`rope_type`; rms_norm_eps 1e-5; f16", "llama",
         {"hidden_size": 32, "intermediate_size": 40, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
          "rope_scaling": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                           "original_max_position_embeddings": 32}, "tie_word_embeddings": False}, "v4", [24, 24, 24], 80, NARROW, lm_head=True,
         dtype="f16", permuted=True),
    Spec("qwen2-bf16", "bf16 contract, Qwen2: hidden 64, 3 layers, narrower logits, calmer attention; bf16 weights", "qwen2",
         {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "tie_word_embeddings": True,
          "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, "v5", [24, 24, 24], 80, CALM, sids=1200, dtype="bf16", logits=2.0,
         calm=1.6),
    Spec("llama-bf16", "bf16 contract, Llama: hidden 64, 3 layers, llama3 RoPE, narrower logits, calmer attention; bf16 weights", "llama",
         {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "tie_word_embeddings": True, "rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}}, "v5", [24, 24, 24], 80, CALM, sids=1200, dtype="bf16", logits=2.0, calm=1.6),
    Spec("switch-top1", "Switch Transformers as 5.x writes them: the best of 4 experts, weighted by its probability, in every decoder layer and "
         "every second encoder layer; no expert's capacity is ever full; tied and scaled", "switch_transformers",
         {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 2, "d_ff": 24, "d_model": 24, "d_kv": 6, "tie_word_embeddings": True}, "v5",
         [24, 24, 24], 80, NARROW, sids=300, logits=2.0, calm=1.6),
    Spec("oxygenrec-dense", "no experts: T5's own form, gated-gelu under HF's names; tied and scaled", "oxygenrec",
         {"feed_forward_proj": "gated-gelu", "num_layers": 2}, "own", [24, 24, 16], 72, SOME, sids=200),
    Spec("oxygenrec-absolute", "absolute positions in both stacks, queries scaled by d_kv^-0.5, relu under OneRec's names, heads x d_kv != d_model; "
         "lm_head, not scaled; f16", "oxygenrec",
         {"position_embeddings": "absolute", "n_positions": 160, "attention_scale": True, "feed_forward_proj": "relu", "d_kv": 12, "num_heads": 3,
          "tie_word_embeddings": False}, "own", [24, 16, 32], 80, FEW, sids=200, lm_head=True, dtype="f16", hf_names=False, permuted=True),
    Spec("oxygenrec-moe", "experts in every decoder layer: softmax, then the best 2 of 4, renormalised; one shared expert; gated-silu", "oxygenrec",
         {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1}, "own", [24, 24, 24], 80, NARROW,
         sids=300),
    Spec("oxygenrec-moe-heads", "experts in some layers of both stacks, dense in the others: the best 3 of 6, then softmax, scaled by 1.5; relu; "
         "level_head; f16", "oxygenrec",
         {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "router_order": "topk_softmax", "norm_topk_prob": False,
          "routed_scaling_factor": 1.5, "encoder_moe_layers": [1], "decoder_moe_layers": [0], "num_layers": 2, "feed_forward_proj": "relu"}, "own",
         [24, 16, 32], 80, NARROW, sids=300, dtype="f16", hf_names=False, manifest={"score": "level_head"}),
    Spec("oxygenrec-moe-ties", "equal rows in the router, so that ties decide and one expert stays empty; 2 of 5, not renormalised, scaled by 1.25; two "
         "shared experts of another width; f16", "oxygenrec",
         {"num_experts": 5, "num_experts_per_tok": 2, "num_heads": 2, "d_kv": 16, "moe_intermediate_size": 20, "norm_topk_prob": False, "routed_scaling_factor": 1.25,
          "n_shared_experts": 2, "shared_expert_intermediate_size": 12}, "own", [24, 16, 16], 64, SOME, sids=200, dtype="f16",
         tied_experts={2: 0, 4: 0}),
]


def head_names(spec):
    """Names of the heads of the levels, where the manifest has such."""
    return [f"heads.{level}.weight" for level in range(len(spec.codes))] if spec.manifest.get("score") == "level_head" else []


def manifest(spec):
    free = np.arange(spec.first, spec.first + sum(spec.codes))
    if spec.permuted:
        free = spec.rng("tokens").permutation(free)
    levels, at = [], 0
    for codes in spec.codes:
        mine = [int(t) for t in free[at:at + codes]]
        levels.append({"codes": codes, "tokens": {"list": mine} if spec.permuted else {"first": mine[0]}})
        at += codes
    out = {"sidereal": 1, "name": spec.name, "version": "golden.1", "sid": {"levels": levels}}
    if spec.family in ENCODER_DECODERS:
        out["decoder_prefix"] = [0]
    heads = {"heads": head_names(spec)} if head_names(spec) else {}
    return out | {"score": "full_then_mask"} | heads | {"length_penalty": 0.0} | spec.manifest


def catalogue(spec):
    """-> [(item id, sid)]; codes are drawn unevenly, so that branching is skewed, and some codes are never used."""
    rng, sids = spec.rng("catalogue"), {}
    only = {}
    while len(sids) < spec.sids:
        sid = ()
        for level, codes in enumerate(spec.codes):
            code = int(codes * rng.random() ** 1.5)
            sid += (only.setdefault(sid, code) if level in spec.single_child else code,)
        sids[sid] = None
    rows, item = [], 1000
    for sid in sids:
        for _ in range(1 + int(rng.integers(spec.items_per_sid))):
            item += int(rng.integers(1, 50))
            rows.append((item, sid))
    rows[-1] = (2**63 + 25, rows[-1][1])  # item ids are u64: this one fits neither i64 nor f64
    return [rows[i] for i in rng.permutation(len(rows))]


def config_json(spec):
    """-> the dict written as config.json"""
    keys = BASES[spec.family] | {"vocab_size": spec.vocab} | spec.config
    if spec.form == "own":
        return {"model_type": spec.family} | keys
    arch, torch_dtype = ARCHITECTURES[spec.family], str(DTYPES[spec.dtype]).removeprefix("torch.")
    if spec.form == "v5":
        config = CONFIGS[spec.family](**keys, architectures=[arch], dtype=torch_dtype)
        return json.loads(config.to_json_string())
    return {"architectures": [arch], "model_type": spec.family, "torch_dtype": torch_dtype, "transformers_version": "4.51.0",
            "use_cache": True} | V4_KEYS[spec.family] | keys


def encoder_decoder_shapes(spec):
    c = BASES[spec.family] | {"vocab_size": spec.vocab} | spec.config
    d, inner = c["d_model"], c["num_heads"] * c["d_kv"]
    sharp = 2.5 / spec.calm * (d if c.get("attention_scale") else d * c["d_kv"]) ** -0.5
    # Input table small and final norm large: the residual stream then forgets the last token's own embedding.
    yield "shared.weight", (spec.vocab, d), 0.6
    for stack, depth in (("encoder", c["num_layers"]), ("decoder", c["num_decoder_layers"])):
        if c.get("position_embeddings") == "absolute":
            yield f"{stack}.embed_positions.weight", (c["n_positions"], d), 0.4
        else:
            yield (f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                   (c.get("relative_attention_num_buckets", 32), c["num_heads"]), 1.0)
        for i in range(depth):
            for sub, kind in enumerate(("SelfAttention",) if stack == "encoder" else ("SelfAttention", "EncDecAttention")):
                p = f"{stack}.block.{i}.layer.{sub}"
                yield f"{p}.layer_norm.weight", (d,), "norm"
                yield f"{p}.{kind}.q.weight", (inner, d), sharp
                yield f"{p}.{kind}.k.weight", (inner, d), d ** -0.5
                yield f"{p}.{kind}.v.weight", (inner, d), d ** -0.5
                yield f"{p}.{kind}.o.weight", (d, inner), 2.5 / spec.calm * inner ** -0.5
            p = f"{stack}.block.{i}.layer.{1 if stack == 'encoder' else 2}"
            yield f"{p}.layer_norm.weight", (d,), "norm"
            yield from feed_forward_shapes(spec, c, stack, i, p)
        yield f"{stack}.final_layer_norm.weight", (d,), "norm" if stack == "encoder" else "head"
    if spec.lm_head:
        yield "lm_head.weight", (spec.vocab, d), 0.6
    yield from level_heads(spec, d)
    yield from input_shapes(spec, d)
    for name in spec.extra:
        yield name, None, None


def feed_forward_shapes(spec, c, stack, layer, p):
    """The feed-forward of a block: dense, or the router and experts of oxygenrec."""
    d, gated = c["d_model"], c.get("feed_forward_proj", "").startswith("gated")

    def block(prefix, inner, names):
        for name in names if gated else names[1:]:
            yield f"{prefix}.{name}.weight", (inner, d), d ** -0.5
        yield f"{prefix}.wo.weight", (d, inner), inner ** -0.5

    own = ("gate_proj", "wi")
    config = oxygenrec.Config.read(c) if spec.family == "oxygenrec" else None
    if config and layer in (config.encoder_moe_layers if stack == "encoder" else config.decoder_moe_layers):
        yield f"{p}.ffn.router.weight", (config.num_experts, d), 2.0 * d ** -0.5
        for e in range(config.num_experts):
            yield from block(f"{p}.ffn.experts.{e}", config.moe_intermediate_size, own)
        for s in range(config.n_shared_experts):
            yield from block(f"{p}.ffn.shared_experts.{s}", config.shared_expert_intermediate_size, own)
    elif spec.family == "switch_transformers":
        # HF: every `step`th layer, and not the first of them, unless every layer is sparse.
        step = c["num_layers" if stack == "encoder" else "num_decoder_layers"] // c[f"num_sparse_{stack}_layers"]
        if step > 1 and layer % step != 1:
            yield from block(f"{p}.mlp", c["d_ff"], ("", "wi"))
            return
        yield f"{p}.mlp.router.classifier.weight", (c["num_experts"], d), 2.0 * d ** -0.5
        for e in range(c["num_experts"]):
            yield from block(f"{p}.mlp.experts.expert_{e}", c["d_ff"], ("", "wi"))
    elif config and not spec.hf_names:
        yield from block(f"{p}.ffn", c["d_ff"], own)
    else:
        yield from block(f"{p}.DenseReluDense", c["d_ff"], ("wi_0", "wi_1" if gated else "wi"))


def input_shapes(spec, d):
    """Instructions, history and retrieval of oxygenrec."""
    def layers(name, read, width):
        for i, shape in enumerate(((width, read), (d, width))):
            yield f"{name}.{i}.weight", shape, (1.5 if i else 1.0) * shape[1] ** -0.5
            yield f"{name}.{i}.bias", shape[:1], 0.2

    for given in spec.manifest.get("instructions", []):
        p, width = f"instructions.{given['name']}", spec.inputs["hidden"].get(given["name"], d)
        yield f"{p}.default", (d,), 0.6
        if "ids" in given:
            yield f"{p}.table.weight", (len(given["ids"]), d), 0.8
        else:
            yield from layers(f"{p}.adapter", given["size"], width)
        if given.get("trigger"):
            yield f"{p}.trigger_default", (d,), 0.6
            yield from layers(f"{p}.fusion", 2 * d, width)
    widths = []
    for feature in spec.manifest.get("history", {}).get("features", []):
        shape = spec.inputs["tables"][feature["name"]]
        widths.append(shape[1])
        yield f"history.tables.{feature['name']}.weight", shape, 0.6
    width = widths and (widths[0] if spec.manifest["history"].get("combine") == "sum" else sum(widths))
    if projection := spec.inputs.get("projection"):
        yield "history.projection.weight", (d, width), width ** -0.5
        if projection == "bias":
            yield "history.projection.bias", (d,), 0.2
    if "retrieval" in spec.manifest:
        size = spec.inputs["retrieval"]
        for name, read in (("query", d * len(spec.manifest["retrieval"]["instructions"])), ("key", width)):
            yield f"retrieval.{name}.weight", (size, read), read ** -0.5
            if spec.inputs.get("retrieval_bias"):
                yield f"retrieval.{name}.bias", (size,), 0.2


def level_heads(spec, d):
    for name, codes in zip(head_names(spec), spec.codes):
        yield name, (codes, d), 0.6


def decoder_shapes(spec):
    c = BASES[spec.family] | spec.config
    d, ff, heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
    hd = c.get("head_dim", d // heads)
    q, kv = heads * hd, c["num_key_value_heads"] * hd
    head_norm, qkv_bias = spec.family == "qwen3", spec.family == "qwen2" or c["attention_bias"]
    sharp = 1.0 if head_norm else 1.6 / spec.calm
    biased = {"q_proj": qkv_bias, "k_proj": qkv_bias, "v_proj": qkv_bias, "o_proj": c.get("attention_bias", False)}
    yield "model.embed_tokens.weight", (spec.vocab, d), 0.6
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}"
        yield f"{p}.input_layernorm.weight", (d,), "norm"
        for name, shape, scale in (("q_proj", (q, d), sharp * d ** -0.5), ("k_proj", (kv, d), sharp * d ** -0.5),
                                   ("v_proj", (kv, d), d ** -0.5), ("o_proj", (d, q), 1.5 / spec.calm * q ** -0.5)):
            yield f"{p}.self_attn.{name}.weight", shape, scale
            if biased[name]:
                yield f"{p}.self_attn.{name}.bias", shape[:1], 0.5
        if head_norm:
            yield f"{p}.self_attn.q_norm.weight", (hd,), "sharp"
            yield f"{p}.self_attn.k_norm.weight", (hd,), "sharp"
        yield f"{p}.post_attention_layernorm.weight", (d,), "norm"
        for name, shape in (("gate_proj", (ff, d)), ("up_proj", (ff, d)), ("down_proj", (d, ff))):
            yield f"{p}.mlp.{name}.weight", shape, shape[1] ** -0.5
            if c.get("mlp_bias", False):
                yield f"{p}.mlp.{name}.bias", shape[:1], 0.5
    yield "model.norm.weight", (d,), "head"
    if spec.lm_head:
        yield "lm_head.weight", (spec.vocab, d), 0.6
    yield from level_heads(spec, d)


def weights(spec, scaled):
    """-> {tensor name: tensor}. `scaled`: the engine multiplies by d_model^-0.5 before the head."""
    paired = spec.family in ENCODER_DECODERS
    d = (BASES[spec.family] | spec.config)["d_model" if paired else "hidden_size"]
    means = {"norm": 1.0, "sharp": 1.6 / spec.calm, "head": spec.logits / 0.6 if scaled else spec.logits / (0.6 * d ** 0.5)}
    out = {}
    for name, shape, scale in (encoder_decoder_shapes if paired else decoder_shapes)(spec):
        if shape is None:
            if name.endswith("embed_tokens.weight"):
                out[name] = out["shared.weight"].clone()
                continue
            shape, scale = (32, T5_BASE["num_heads"]), 5.0
        noise = spec.rng("weights", name).standard_normal(shape, dtype=np.float32)
        values = noise * np.float32(scale) if scale not in means else np.float32(means[scale]) * (1 + np.float32(0.2) * noise)
        if name.endswith("router.weight"):
            for copy, original in spec.tied_experts.items():
                values[copy] = values[original]
        out[name] = torch.from_numpy(values.astype(np.float32)).to(DTYPES[spec.dtype])
    return out


def write_json(path, value):
    with open(path, "w", newline="\n") as f:
        f.write(json.dumps(value, indent=2) + "\n")


def write_manifest(path, value):
    """Like write_json, but a list of numbers stays on one line."""
    lists = []

    def hide(v):
        if isinstance(v, list) and v and all(isinstance(x, int) for x in v):
            lists.append(json.dumps(v))
            return f"@{len(lists) - 1}@"
        return {k: hide(x) for k, x in v.items()} if isinstance(v, dict) else [hide(x) for x in v] if isinstance(v, list) else v

    text = json.dumps(hide(value), indent=2)
    for i, line in enumerate(lists):
        text = text.replace(f'"@{i}@"', line)
    with open(path, "w", newline="\n") as f:
        f.write(text + "\n")


def write_weights(folder, tensors, shards):
    names = sorted(tensors)
    if shards == 1:
        return save_file({n: tensors[n] for n in names}, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        mine = names[shard::shards]  # neighbours in a layer land in different files
        save_file({n: tensors[n] for n in mine}, os.path.join(folder, file), metadata={"format": "pt"})
        weight_map |= {n: file for n in mine}
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(os.path.join(folder, "model.safetensors.index.json"),
               {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def write_items(path, rows, levels):
    with open(path, "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["item"] + [f"sid{level}" for level in range(levels)])
        out.writerows([item, *sid] for item, sid in rows)


def write_export(spec, folder):
    """Everything but the goldens. -> (manifest, catalogue rows)"""
    os.makedirs(os.path.join(folder, "golden"))
    config = config_json(spec)
    scaled = spec.family in ENCODER_DECODERS and config.get("scale_decoder_outputs", config.get("tie_word_embeddings") is not False)
    rows, declared = catalogue(spec), manifest(spec)
    write_json(os.path.join(folder, "config.json"), config)
    write_manifest(os.path.join(folder, "sidereal.json"), declared)
    tensors = weights(spec, scaled)
    for number, feature in enumerate(declared.get("history", {}).get("features", [])):
        dtype = list(DTYPES.values())[number % len(DTYPES)]   # the tables of an export are of different types
        table = tensors.pop(f"history.tables.{feature['name']}.weight").to(dtype)
        os.makedirs(os.path.dirname(os.path.join(folder, feature["table"])), exist_ok=True)
        save_file({"weight": table}, os.path.join(folder, feature["table"]))
    write_weights(folder, tensors, spec.shards)
    write_items(os.path.join(folder, "items.csv"), rows, len(spec.codes))
    return declared, rows
