"""What rounding to bf16 alone does to a golden export: the yardstick for the engine's bf16.

`rounded` turns HF's f32 model into one that computes as the engine's bf16 does (design: "Numbers"): the inputs and weights
of every matrix product, queries, keys and values are rounded to bf16; the residual stream, norms, softmax, logits and all sums
stay f32. Whether attention's probabilities are rounded before they meet the values is a kernel's own business: both are
computed, and the larger figure counts.

`figures` scores the SIDs of the golden lists with it, teacher-forced, and compares with the golden scores.
"""
import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import oxygenrec
from golden_search import watch


def bf16(x):
    return x.to(torch.bfloat16).to(x.dtype)


def attention(round_probabilities):
    def forward(_module, query, key, value, mask, scaling=None, position_bias=None, **_):
        query, key, value = bf16(query if scaling is None else query * scaling), bf16(key), bf16(value)
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        scores = query @ key.transpose(2, 3)
        for term in (position_bias, mask):
            scores = scores if term is None else scores + term
        weights = (scores - scores.max(-1, keepdim=True).values).exp()
        total = weights.sum(-1, keepdim=True)
        out = (bf16(weights) if round_probabilities else weights) @ value / total
        return out.transpose(1, 2).contiguous(), None
    return forward


KINDS = {"bf16": attention(False), "bf16_probabilities": attention(True)}
for kind, function in KINDS.items():
    ALL_ATTENTION_FUNCTIONS.register(kind, function)
    ALL_MASK_ATTENTION_FUNCTIONS.register(kind, ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def rounded(model, kind):
    """Changes `model` (f32, freshly loaded) and returns it."""
    if isinstance(model, oxygenrec.OxygenRec):
        for module in model.modules():
            if isinstance(module, oxygenrec.Attention):
                module.core = KINDS[kind]
            if isinstance(module, oxygenrec.Router):  # its weights stay f32, what it reads does not
                module.register_forward_pre_hook(lambda _, args: (bf16(args[0]),))
    else:
        model.set_attn_implementation(kind)
    head = model.get_output_embeddings()
    model.lm_head = torch.nn.Linear(head.in_features, head.out_features, bias=False)  # a tied table is read unrounded
    model.lm_head.weight = head.weight
    if hasattr(model, "level_heads"):
        watch(model)
    for name, module in model.named_modules():
        if name.startswith(("instructions.", "history.", "retrieval.")):  # the host's, in f32
            continue
        if name.endswith("router.classifier"):  # its weights stay f32
            module.register_forward_pre_hook(lambda _, args: (bf16(args[0]),))
        elif isinstance(module, torch.nn.Linear):
            module.weight = torch.nn.Parameter(bf16(module.weight.detach()), requires_grad=False)
            module.register_forward_pre_hook(lambda _, args: (bf16(args[0]),))
    return model


def figures(scorers, cases):
    """-> {"max", "rms"} of |score - golden score| over every entry of every golden list, the larger of the scorers'."""
    worst = {"max": 0.0, "rms": 0.0}
    for score in scorers:
        deltas = []
        for case in cases:
            sids = [result["sid"] for result in case["results"]]
            golden = torch.tensor([result["score"] for result in case["results"]])
            deltas.append((score.forced_scores(case.get("tokens") or case["request"], sids) - golden).abs())
        deltas = torch.cat(deltas)
        for key, value in (("max", deltas.max()), ("rms", deltas.square().mean().sqrt())):
            worst[key] = max(worst[key], round(value.item(), 5))
    return worst
