"""From a request to what `oxygenrec` reads: instructions become decoder inputs, features become encoder inputs.

Built from the manifest's `instructions`, `history` and `retrieval`; tensor names follow from the names there
(docs/export-format.md). A request is a dict, the same as in the goldens' JSON:

    tokens         the encoder's input as tokens; or
    features       [[row in the table of each feature] of each item], oldest first; or
    embedded       [[d_model numbers] of each item]: what the encoder reads
    scenario       id
    trigger        id of an item of the catalogue
    behaviour      id
    instructions   {name: vector, or id}: what the store holds for the user, or what the request itself brings

All in f32. A request without an instruction gets that instruction's default.
"""
import torch
from torch import nn

import igr


def gelu_layers(read, width, out):
    """A layer, GELU (the erf form), a layer; the parameters are numbered 0 and 1."""
    return nn.ModuleList([nn.Linear(read, width), nn.Linear(width, out)])


def through(layers, x):
    return layers[1](nn.functional.gelu(layers[0](x)))


class Instruction(nn.Module):
    """One entry of the manifest's `instructions`: at most one vector [d_model] a request."""

    def __init__(self, spec, d_model, width):
        super().__init__()
        self.spec = spec
        self.default = nn.Parameter(torch.randn(d_model))
        if "ids" in spec:
            self.table = nn.Embedding(len(spec["ids"]), d_model)
        else:
            self.adapter = gelu_layers(spec["size"], width, d_model)
        if spec.get("trigger"):
            self.trigger_default = nn.Parameter(torch.randn(d_model))
            self.fusion = gelu_layers(2 * d_model, width, d_model)

    def value(self, request):
        """The id or vector that a request has for this instruction, or None."""
        source = self.spec["source"]
        if source in ("scenario", "behaviour"):
            return request.get(source)
        return request.get("instructions", {}).get(self.spec["name"])

    def forward(self, value, trigger=None):
        """An id or a vector, and the trigger's vector [d_model] where there is one -> [d_model]. None: the default, as it is."""
        if value is None:
            return self.default
        if "ids" not in self.spec:
            return through(self.adapter, torch.as_tensor(value, dtype=self.default.dtype))
        row = self.table.weight[self.spec["ids"].index(value)]
        if not self.spec.get("trigger"):
            return row
        return through(self.fusion, torch.cat([row, self.trigger_default if trigger is None else trigger], -1))


class History(nn.Module):
    """Items by feature rows. The tables are files of their own; here they are modules, so that they can be trained."""

    def __init__(self, spec, columns, d_model, projected):
        """`columns`: {feature: (rows, width)}."""
        super().__init__()
        self.spec = spec
        self.tables = nn.ModuleDict({feature["name"]: nn.Embedding(*columns[feature["name"]]) for feature in spec["features"]})
        widths = [table.embedding_dim for table in self.tables.values()]
        self.width = sum(widths) if spec.get("combine", "concat") == "concat" else widths[0]
        self.projection = nn.Linear(self.width, d_model, bias=projected == "bias") if projected else None
        assert projected or self.width == d_model, (self.width, d_model)

    def combine(self, rows):
        """[..., features] row numbers -> [..., width]."""
        parts = [table(rows[..., i]) for i, table in enumerate(self.tables.values())]
        return torch.cat(parts, -1) if self.spec.get("combine", "concat") == "concat" else sum(parts[1:], parts[0])

    def project(self, combined):
        return combined if self.projection is None else self.projection(combined)


class Retrieval(nn.Module):
    """The query's and keys' projections."""

    def __init__(self, spec, d_model, width, size, bias=False):
        super().__init__()
        self.spec = spec
        self.query = nn.Linear(len(spec["instructions"]) * d_model, size, bias=bias)
        self.key = nn.Linear(width, size, bias=bias)

    def keep(self, vectors, combined):
        """Rows of `combined` [n, width] that are kept. `vectors`: {instruction: vector}."""
        query = self.query(torch.cat([vectors[name] for name in self.spec["instructions"]]))
        rule = {key: self.spec[key] for key in ("top_k", "keep_newest", "min_similarity") if key in self.spec}
        query, keys = query.detach().numpy(), self.key(combined).detach().numpy()
        self.closest = igr.closest_call(query, keys, **rule)
        return igr.retrieve(query, keys, **rule)


def trigger_vector(model, sid_tokens):
    """Sum of the shared table's rows of an item's SID tokens, in level order."""
    rows = model.shared.weight[torch.tensor(sid_tokens)]
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    return total


def instruction_vectors(model, request, trigger_tokens=None):
    """-> ({name: [d_model]}, names that fell back to their default). `trigger_tokens`: SID tokens of the request's trigger."""
    vectors, defaulted = {}, []
    trigger = None if trigger_tokens is None else trigger_vector(model, trigger_tokens)
    for name, instruction in model.instructions.items():
        value = instruction.value(request)
        vectors[name] = instruction(value, trigger)
        defaulted += [name] if value is None else []
    return vectors, defaulted


def encoder_inputs(model, request, vectors):
    """-> ([n, d_model] the encoder's input vectors, history items kept or None)."""
    if "tokens" in request:
        return model.shared(torch.tensor(request["tokens"])), None
    limit = model.history.spec.get("max_items")
    if "embedded" in request:
        given = torch.tensor(request["embedded"], dtype=model.shared.weight.dtype)
        return given[-limit:] if limit else given, None
    rows = torch.tensor(request["features"])
    first = max(len(rows) - limit, 0) if limit else 0
    combined = model.history.combine(rows[first:])
    if model.retrieval is None:
        return model.history.project(combined), list(range(first, len(rows)))
    kept = model.retrieval.keep(vectors, combined)
    return model.history.project(combined[kept]), [first + i for i in kept]
