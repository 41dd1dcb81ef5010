"""The reference model of the family `oxygenrec`, in plain PyTorch. Where the engine and this file differ, this file is right.

An encoder-decoder in T5's shape (RMS norms before every sublayer, no biases, relative positions) with the parts that OxygenREC
(arXiv 2512.22386) adds: a mixture of experts in the feed-forward blocks, instructions to the right of BOS, a history of items
that are sums or concatenations of feature embeddings, and instruction-guided retrieval. config.json has T5's keys and those of
`Config`; how a request becomes the model's input vectors is the business of oxygenrec_inputs.py and igr.py.
docs/export-format.md describes the files.

Shapes: b requests, n encoder positions, k decoder sequences of a request, t decoder positions, d = d_model. Histories of one
length only, unless a mask is given. Nothing is cached: a step of a search computes its whole prefix again.
"""
import dataclasses
import json
import math
import os

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import oxygenrec_inputs as inputs

ACTIVATIONS = {
    "relu": torch.relu, "silu": nn.functional.silu, "swish": nn.functional.silu, "gelu": nn.functional.gelu,
    "gelu_new": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
}


@dataclasses.dataclass
class Config:
    """config.json. The first block is T5's, with T5's meaning; `read` fills in what depends on other keys."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_layers: int
    num_decoder_layers: int | None = None            # num_layers
    feed_forward_proj: str = "relu"                  # an activation, "gated-" before it for a gate
    layer_norm_epsilon: float = 1e-6
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None        # tie_word_embeddings

    position_embeddings: str = "relative"            # or "absolute": learned tables, no relative bias
    n_positions: int = 512                           # rows of the absolute tables
    attention_scale: bool = False                    # queries times d_kv^-0.5
    num_experts: int = 0                             # 0: dense everywhere
    num_experts_per_tok: int = 1
    moe_intermediate_size: int | None = None         # d_ff
    router_order: str = "softmax_topk"               # or "topk_softmax"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    n_shared_experts: int = 0
    shared_expert_intermediate_size: int | None = None   # moe_intermediate_size
    decoder_moe_layers: list | None = None           # all
    encoder_moe_layers: list | None = None           # none

    @classmethod
    def read(cls, keys):
        """From the dict of config.json; keys that are not named here, or null, are ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        config = cls(**{key: value for key, value in keys.items() if key in known and value is not None})

        def default(key, value):
            if getattr(config, key) is None:
                setattr(config, key, value)
        default("num_decoder_layers", config.num_layers)
        default("scale_decoder_outputs", config.tie_word_embeddings)
        default("moe_intermediate_size", config.d_ff)
        default("shared_expert_intermediate_size", config.moe_intermediate_size)
        default("decoder_moe_layers", list(range(config.num_decoder_layers)) if config.num_experts else [])
        default("encoder_moe_layers", [])
        assert config.position_embeddings in ("relative", "absolute"), config.position_embeddings
        assert config.router_order in ("softmax_topk", "topk_softmax"), config.router_order
        return config

    @property
    def gated(self):
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self):
        name = self.feed_forward_proj.removeprefix("gated-")
        return ACTIVATIONS["gelu_new" if self.gated and name == "gelu" else name]  # as HF: gated-gelu is the tanh form


class Norm(nn.Module):
    """RMS norm, no mean, no bias."""

    def __init__(self, config):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(config.d_model)), config.layer_norm_epsilon

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon))


def attend(_module, query, key, value, mask, scaling=None):
    """[b, heads, queries, d_kv] against [b, heads, keys, d_kv] -> ([b, queries, heads, d_kv], None). Signature as in HF."""
    scores = (query if scaling is None else query * scaling) @ key.transpose(2, 3)
    return ((scores if mask is None else scores + mask).softmax(-1) @ value).transpose(1, 2), None


class Attention(nn.Module):
    core = staticmethod(attend)   # golden_bf16.py puts another in its place

    def __init__(self, config, relative):
        super().__init__()
        width = config.num_heads * config.d_kv
        self.heads, self.scaling = config.num_heads, config.d_kv ** -0.5 if config.attention_scale else None
        for name in ("q", "k", "v"):
            setattr(self, name, nn.Linear(config.d_model, width, bias=False))
        self.o = nn.Linear(width, config.d_model, bias=False)
        if relative:
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def forward(self, x, memory, mask):
        """x: [b, queries, d]; memory: [b, keys, d]; mask: added to the scores."""
        q, k, v = (w(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w, y in ((self.q, x), (self.k, memory), (self.v, memory)))
        out, _ = self.core(self, q, k, v, mask, scaling=self.scaling)
        return self.o(out.flatten(2))


def buckets(length, bidirectional, config):
    """[length, length] bucket of (query, key), T5's rule: half of the buckets for single steps, the others logarithmic up to
    the maximum distance; an encoder has buckets of its own for keys behind the query."""
    count, at = config.relative_attention_num_buckets, torch.arange(length)
    distance = at[:, None] - at[None, :]                                     # > 0: the key is older
    offset = torch.zeros_like(distance)
    if bidirectional:
        count //= 2
        offset = torch.where(distance < 0, count, 0)
        distance = distance.abs()
    distance = distance.clamp(min=0)
    single = count // 2
    far = torch.log(distance.clamp(min=1).float() / single) / math.log(config.relative_attention_max_distance / single) * (count - single)
    return offset + torch.where(distance < single, distance, (single + far.long()).clamp(max=count - 1))


class FeedForward(nn.Module):
    """wo(activation(wi x)), or with a gate wo(activation(gate_proj x) * wi x)."""

    def __init__(self, config, inner):
        super().__init__()
        self.activation = config.activation
        self.wi = nn.Linear(config.d_model, inner, bias=False)
        self.gate_proj = nn.Linear(config.d_model, inner, bias=False) if config.gated else None
        self.wo = nn.Linear(inner, config.d_model, bias=False)

    def forward(self, x):
        if self.gate_proj is None:
            return self.wo(self.activation(self.wi(x)))
        return self.wo(self.activation(self.gate_proj(x)) * self.wi(x))


class Router(nn.Module):
    """Logits of the experts. A sum of products each, so that equal rows of the matrix give equal bits."""

    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.d_model).normal_(std=config.d_model ** -0.5))

    def forward(self, x):
        return (x[:, None, :] * self.weight).sum(-1)


class Experts(nn.Module):
    """Each row goes to its `num_experts_per_tok` experts; shared experts see every row and are not weighted."""

    def __init__(self, config):
        super().__init__()
        self.config, self.router = config, Router(config)
        self.experts = nn.ModuleList(FeedForward(config, config.moe_intermediate_size) for _ in range(config.num_experts))
        self.shared_experts = nn.ModuleList(
            FeedForward(config, config.shared_expert_intermediate_size) for _ in range(config.n_shared_experts))

    def route(self, logits):
        """[rows, experts] -> (weights, experts) of [rows, num_experts_per_tok], in order of choice: by logit, of equal logits
        the lower expert."""
        config = self.config
        ordered, chosen = logits.sort(dim=-1, descending=True, stable=True)
        chosen = chosen[:, :config.num_experts_per_tok]
        if config.router_order == "softmax_topk":
            weights = logits.softmax(-1).gather(1, chosen)
        else:
            weights = ordered[:, :config.num_experts_per_tok].softmax(-1)
        if config.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights * config.routed_scaling_factor, chosen

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        weights, chosen = self.route(self.router(rows))
        out = torch.zeros_like(rows)
        for place in range(chosen.shape[1]):                                 # in order of choice, as the engine adds
            for number, expert in enumerate(self.experts):
                mine = (chosen[:, place] == number).nonzero()[:, 0]
                if len(mine):
                    out = out.index_add(0, mine, weights[mine, place, None] * expert(rows[mine]))
        for expert in self.shared_experts:
            out = out + expert(rows)
        return out.view_as(x)


class Sublayer(nn.Module):
    """What T5 calls layer.I of a block: a norm and one of attention, feed-forward, experts."""

    def __init__(self, config, **module):
        super().__init__()
        self.layer_norm = Norm(config)
        for name, value in module.items():
            setattr(self, name, value)


class Block(nn.Module):
    def __init__(self, config, decoder, number):
        super().__init__()
        experts = number in (config.decoder_moe_layers if decoder else config.encoder_moe_layers)
        relative = config.position_embeddings == "relative" and number == 0
        self.layer = nn.ModuleList([Sublayer(config, SelfAttention=Attention(config, relative))])
        if decoder:
            self.layer.append(Sublayer(config, EncDecAttention=Attention(config, False)))
        self.layer.append(Sublayer(config, ffn=Experts(config) if experts else FeedForward(config, config.d_ff)))

    def forward(self, x, mask, memory=None, memory_mask=None):
        """x: [b, n, d], or with a memory [b, k, t, d]: the k sequences do not see each other, all see the memory [b, n, d]."""
        own, y = self.layer[0], x.flatten(0, -3)
        normed = own.layer_norm(y)
        x = (y + own.SelfAttention(normed, normed, mask)).view_as(x)
        if memory is not None:
            cross = self.layer[1]
            x = x + cross.EncDecAttention(cross.layer_norm(x).flatten(1, 2), memory, memory_mask).view_as(x)
        last = self.layer[-1]
        return x + last.ffn(last.layer_norm(x))


class Stack(nn.Module):
    def __init__(self, config, decoder):
        super().__init__()
        self.config, self.decoder = config, decoder
        if config.position_embeddings == "absolute":
            self.embed_positions = nn.Embedding(config.n_positions, config.d_model)
        self.block = nn.ModuleList(Block(config, decoder, i) for i in range(config.num_decoder_layers if decoder else config.num_layers))
        self.final_layer_norm = Norm(config)

    def forward(self, x, memory=None, memory_mask=None):
        """x: input vectors, [b, n, d] or [b, k, t, d] -> the same shape."""
        length = x.shape[-2]
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1) if self.decoder else memory_mask
        if self.config.position_embeddings == "absolute":
            x = x + self.embed_positions.weight[:length]
        else:
            table = self.block[0].layer[0].SelfAttention.relative_attention_bias
            bias = table(buckets(length, not self.decoder, self.config)).permute(2, 0, 1)
            mask = bias if mask is None else bias + mask
        for block in self.block:
            x = block(x, mask, memory, memory_mask if self.decoder else None)
        return self.final_layer_norm(x)


class OxygenRec(nn.Module):
    """`manifest`: sidereal.json; what it declares beyond tokens becomes modules. `sizes` says what neither file does: `tables`
    {feature: (rows, width)}, `projection` ("plain", "bias" or absent), `hidden` {instruction: width of its adapter or
    fusion}, `retrieval` (size of query and keys), `retrieval_bias`."""

    def __init__(self, config, manifest=None, sizes=None):
        super().__init__()
        self.config, manifest, sizes = config, manifest or {}, sizes or {}
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder, self.decoder = Stack(config, False), Stack(config, True)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.lm_head.weight = self.shared.weight                             # until a file brings another
        levels = manifest["sid"]["levels"] if "heads" in manifest else []
        self.heads = nn.ModuleList(nn.Linear(config.d_model, level["codes"], bias=False) for level in levels)
        self.instructions = nn.ModuleDict({
            spec["name"]: inputs.Instruction(spec, config.d_model, sizes.get("hidden", {}).get(spec["name"], config.d_model))
            for spec in manifest.get("instructions", [])})
        self.history = self.retrieval = None
        if manifest.get("history", {}).get("features"):
            self.history = inputs.History(manifest["history"], sizes["tables"], config.d_model, sizes.get("projection"))
        if "retrieval" in manifest:
            self.retrieval = inputs.Retrieval(manifest["retrieval"], config.d_model, self.history.width, sizes["retrieval"],
                                              sizes.get("retrieval_bias", False))

    def encode(self, x, mask=None):
        """Input vectors [b, n, d] -> [b, n, d]. `mask`: [b, 1, 1, n], -inf where a position is padding."""
        return self.encoder(x, memory_mask=mask)

    def decode(self, states, x, mask=None):
        """states: [b, n, d] of `encode`; x: input vectors [b, k, t, d] -> what the head reads, [b, k, t, d]."""
        out = self.decoder(x, states, mask)
        return out * self.config.d_model ** -0.5 if self.config.scale_decoder_outputs else out

    def get_output_embeddings(self):
        return self.lm_head


def file_names(model, hf_names):
    """{name in the module: name in model.safetensors}. `hf_names`: dense feed-forward blocks under HF's names, not OneRec's."""
    names = {}
    for name in model.state_dict():
        if name == "lm_head.weight" and model.lm_head.weight is model.shared.weight or name.startswith("history.tables."):
            continue
        stem, _, leaf = name.rpartition(".ffn.")
        if hf_names and leaf in ("wi.weight", "gate_proj.weight", "wo.weight"):
            hf = {"wi.weight": "wi_1" if model.config.gated else "wi", "gate_proj.weight": "wi_0", "wo.weight": "wo"}[leaf]
            names[name] = f"{stem}.DenseReluDense.{hf}.weight"
        else:
            names[name] = name
    return names


def load_weights(model, tensors):
    """`tensors`: {file name: tensor}, every dense block under HF's or OneRec's names; tables as `history.tables.{feature}.weight`.
    Anything missing is an error."""
    if "lm_head.weight" in tensors:
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.shared.weight))
    hf, own = file_names(model, True), file_names(model, False)
    state = {name: tensors[hf[name] if hf[name] in tensors else own[name]].float() for name in own}
    if model.lm_head.weight is model.shared.weight:
        state["lm_head.weight"] = state["shared.weight"]
    model.load_state_dict(state | {name: tensor.float() for name, tensor in tensors.items() if name.startswith("history.tables.")})


def sizes_in(manifest, tensors):
    """`sizes` of OxygenRec, from the shapes of an export's tensors."""
    found = {"hidden": {}, "tables": {}}
    for spec in manifest.get("instructions", []):
        for layers in ("adapter", "fusion"):
            name = f"instructions.{spec['name']}.{layers}.0.weight"
            if name in tensors:
                found["hidden"][spec["name"]] = tensors[name].shape[0]
    for feature in manifest.get("history", {}).get("features", []):
        found["tables"][feature["name"]] = tuple(tensors[f"history.tables.{feature['name']}.weight"].shape)
    if "history.projection.weight" in tensors:
        found["projection"] = "bias" if "history.projection.bias" in tensors else "plain"
    if "retrieval" in manifest:
        found |= {"retrieval": tensors["retrieval.query.weight"].shape[0], "retrieval_bias": "retrieval.query.bias" in tensors}
    return found


def read_json(folder, name):
    with open(os.path.join(folder, name), encoding="utf-8") as f:
        return json.load(f)


def load(folder):
    """The model of an export, in f32, for inference."""
    manifest, tensors = read_json(folder, "sidereal.json"), load_file(os.path.join(folder, "model.safetensors"))
    tensors |= {f"heads.{level}.weight": tensors[name] for level, name in enumerate(manifest.get("heads", []))}
    for feature in manifest.get("history", {}).get("features", []):
        tensors[f"history.tables.{feature['name']}.weight"] = load_file(os.path.join(folder, feature["table"]))["weight"]
    model = OxygenRec(Config.read(read_json(folder, "config.json")), manifest, sizes_in(manifest, tensors))
    load_weights(model, tensors)
    return model.eval()


def save_export(folder, model, manifest, items, scenarios=None, dtype=torch.float32, hf_names=True):
    """Writes a whole export but its goldens: config.json, model.safetensors, sidereal.json, tables, scenarios.json and the
    catalogue's source. `items`: dicts of items.jsonl; `scenarios`: the list of scenarios.json. Tables get `dtype` too."""
    os.makedirs(folder, exist_ok=True)
    keys = {key: value for key, value in dataclasses.asdict(model.config).items() if value is not None}
    write_json(folder, "config.json", {"model_type": "oxygenrec"} | keys)
    state, names = model.state_dict(), file_names(model, hf_names)
    heads = dict(zip((f"heads.{level}.weight" for level in range(len(model.heads))), manifest.get("heads", [])))
    save(folder, "model.safetensors", {heads.get(name, file): state[name].to(dtype) for name, file in sorted(names.items())})
    for feature in manifest.get("history", {}).get("features", []):
        save(folder, feature["table"], {"weight": state[f"history.tables.{feature['name']}.weight"].to(dtype)})
    write_json(folder, "sidereal.json", manifest)
    if scenarios is not None:
        write_json(folder, "scenarios.json", {"scenarios": scenarios})
    with open(os.path.join(folder, "items.jsonl"), "w", encoding="utf-8", newline="\n") as f:
        f.writelines(json.dumps(item, ensure_ascii=False, separators=(",", ":")) + "\n" for item in items)


def save(folder, name, tensors):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata={"format": "pt"})
    os.chmod(path, 0o644)


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8", newline="\n") as f:
        f.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
