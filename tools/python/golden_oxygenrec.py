"""The goldens' scorer for `oxygenrec`: the searches of golden_search.py over the reference model (oxygenrec.py), which has no
`generate` of its own to be held against; what watches routers; and the requests with instructions and histories of features, from `Spec.cases`.
"""
import torch
from transformers.modeling_outputs import MoEModelOutput

import oxygenrec
from golden_search import Scorer
from oxygenrec_inputs import encoder_inputs, instruction_vectors

# A row whose last chosen and first left expert are closer than this (and not equal) could go elsewhere by rounding alone.
ROUTER_MARGIN = 3e-5
# The same of a history item that retrieval keeps, or not.
RETRIEVAL_MARGIN = 1e-4


class RouterWatch:
    """A hook on what computes a router's logits: how close its choices were, how often a tie decided, which experts were used."""

    def __init__(self, top):
        self.top, self.closest, self.ties, self.used = top, float("inf"), 0, set()

    def __call__(self, _module, _inputs, logits):
        ordered, experts = logits.flatten(0, -2).sort(dim=-1, descending=True, stable=True)
        gap = ordered[:, self.top - 1] - ordered[:, self.top]
        self.ties += int((gap == 0).sum())
        self.closest = min([self.closest] + gap[gap > 0].tolist())
        self.used |= set(experts[:, :self.top].flatten().tolist())


class Routed:
    """A scorer that knows of close calls of routers, `self.watches`."""

    def forget(self):
        for watch in self.watches:
            watch.closest = float("inf")

    def safe(self):
        return all(watch.closest >= ROUTER_MARGIN for watch in self.watches)


def watched(routers, top):
    """Watches of the routers."""
    watches = []
    for router in routers:
        watches.append(RouterWatch(top))
        router.register_forward_hook(watches[-1])
    return watches


class SwitchScorer(Routed, Scorer):
    """HF's Switch Transformers."""

    def __init__(self, model, manifest, use_cache, trie):
        super().__init__(model, manifest, True, use_cache, trie)
        self.watches = watched((m for name, m in model.named_modules() if name.endswith("router.classifier")), 1)

    def encoder_outputs(self, states):
        return MoEModelOutput(last_hidden_state=states)


class OxygenScorer(Routed, Scorer):
    """A prompt is a list of tokens, or a request as oxygenrec_inputs.py has it."""

    def __init__(self, model, manifest, trie, items):
        """`items`: {item id: sid}, for triggers."""
        super().__init__(model, manifest, True, False, trie)
        self.items = items
        self.watches = watched((m for m in model.modules() if isinstance(m, oxygenrec.Router)), model.config.num_experts_per_tok)
        self.forget()

    def forget(self):
        super().forget()
        if self.model.retrieval is not None:
            self.model.retrieval.closest = float("inf")

    def safe(self):
        retrieval = self.model.retrieval
        return super().safe() and (retrieval is None or retrieval.closest >= RETRIEVAL_MARGIN)

    def inputs(self, prompt):
        """-> ([n, d] encoder inputs, {instruction: vector}, names of defaults, history items kept or None)"""
        request = prompt if isinstance(prompt, dict) else {"tokens": prompt}
        trigger = request.get("trigger")
        vectors, defaulted = instruction_vectors(self.model, request, None if trigger is None else self.tokens(self.items[trigger]))
        return *encoder_inputs(self.model, request, vectors), vectors, defaulted

    def encode(self, prompt):
        return self.model.encode(self.inputs(prompt)[0][None])

    def prefix(self, prompt):
        """Input vectors before the first level, [positions, d_model]: those of decoder_prefix, then the instructions."""
        vectors = self.inputs(prompt)[2].values()
        return torch.cat([self.model.shared(torch.tensor(self.start)), *(vector[None] for vector in vectors)])

    @torch.inference_mode()
    def about(self, prompt):
        """What a case of a request says beside its results."""
        _, kept, vectors, defaulted = self.inputs(prompt)
        numbers = {name: [float(f"{x:.8g}") for x in vector.tolist()] for name, vector in vectors.items()}
        return ({} if kept is None else {"kept": kept}) | {"defaulted": defaulted, "vectors": numbers}

    def logits(self, prompt, encoded, rows):
        rows = torch.tensor(rows, dtype=torch.long).view(len(rows), -1)
        prefix = self.prefix(prompt)
        inputs = torch.cat([prefix.expand(len(rows), -1, -1), self.model.shared(rows)], 1)
        hidden = self.model.decode(encoded, inputs[None])[0, :, len(prefix) - 1:]
        return hidden if self.mode == "level_head" else self.model.lm_head(hidden)

    def level_log_probs(self, logits, level, prefixes):
        if self.mode == "level_head":
            return self.model.heads[level](logits).log_softmax(-1)
        return super().level_log_probs(logits, level, prefixes)


def request(spec, rows, recipe, attempt, number):
    """A seeded request. `recipe`: `tokens`, `features` or `embedded` with their number; `scenario` and `behaviour` with ids;
    `trigger` True; `give`: names of the instructions that it brings."""
    rng, out = spec.rng("request", number, attempt), {}
    if "tokens" in recipe:
        out["tokens"] = [int(t) for t in rng.integers(spec.first, spec.first + sum(spec.codes), recipe["tokens"])]
    if "features" in recipe:
        sizes = [spec.inputs["tables"][f["name"]][0] for f in spec.manifest["history"]["features"]]
        items = [[int(rng.integers(size)) for size in sizes] for _ in range(recipe["features"])]
        for i in range(3, len(items)):                       # users come back to items: equal similarities
            if rng.random() < 0.15:
                items[i] = items[int(rng.integers(i))]
        out["features"] = items
    if "embedded" in recipe:
        d = spec.config.get("d_model", 32)
        out["embedded"] = [numbers(rng, d, 0.6) for _ in range(recipe["embedded"])]
    out |= {key: recipe[key] for key in ("scenario", "behaviour") if key in recipe}
    if recipe.get("trigger"):
        out["trigger"] = int(rows[rng.integers(len(rows))][0])
    given = {}
    for instruction in spec.manifest.get("instructions", []):
        if instruction["name"] in recipe.get("give", []):
            given[instruction["name"]] = (instruction["ids"][int(rng.integers(len(instruction["ids"])))] if "ids" in instruction
                                          else numbers(rng, instruction["size"], 1.0))
    return out | ({"instructions": given} if given else {})


def numbers(rng, count, scale):
    return [round(float(x), 3) for x in scale * rng.standard_normal(count)]


def assert_inputs_matter(spec, score, cases):
    """An export whose scores ignore an instruction, or the newest item that the encoder reads, would prove nothing."""
    for case in cases:
        asked, sid = case["request"], case["results"][0]["sid"]
        base = sum(score.forced(asked, sid))
        without = [{k: v for k, v in asked.items() if k != key} for key in ("scenario", "trigger", "behaviour") if key in asked]
        given = asked.get("instructions", {})
        without += [asked | {"instructions": {k: v for k, v in given.items() if k != name}} for name in given]
        [key] = {"tokens", "features", "embedded"} & set(asked)
        last = (case.get("kept") or [len(asked[key]) - 1])[-1]
        without += [asked | {key: asked[key][:last] + asked[key][last + 1:]}] if len(asked[key]) > 1 else []
        for other in without:
            assert abs(sum(score.forced(other, sid)) - base) > 1e-3, (spec.name, case["id"], set(asked) - set(other) or "a value")
