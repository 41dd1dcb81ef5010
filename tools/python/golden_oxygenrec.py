"""The goldens' scorer for `oxygenrec`: the searches of golden_search.py over the reference model (oxygenrec.py), which has no
`generate` of its own to be held against. `tests/goldens` holds requests of tokens.
"""
import torch

import oxygenrec
from golden_search import Scorer

# A row whose last chosen and first left expert are closer than this (and not equal) could go elsewhere by rounding alone.
ROUTER_MARGIN = 3e-5


class OxygenScorer(Scorer):
    """A prompt is a list of tokens."""

    def __init__(self, model, manifest, trie):
        super().__init__(model, manifest, True, False, trie)
        self.closest, self.ties, self.used = float("inf"), 0, {}
        for name, module in model.named_modules():
            if isinstance(module, oxygenrec.Experts):
                self.used[name] = set()
                module.router.register_forward_hook(lambda _, __, logits, name=name, module=module: self.note(name, module, logits))

    def note(self, name, module, logits):
        """Remembers how close a router's choice was, how often a tie decided, and which experts were used."""
        top = module.config.num_experts_per_tok
        ordered = logits.sort(-1, descending=True).values
        gap = ordered[:, top - 1] - ordered[:, top]
        self.ties += int((gap == 0).sum())
        self.closest = min([self.closest] + gap[gap > 0].tolist())
        self.used[name] |= set(module.route(logits)[1].flatten().tolist())

    def encode(self, prompt):
        return self.model.encode(self.model.shared(torch.tensor([prompt])))

    def prefix(self, prompt):
        """Input vectors before the first level, [positions, d_model]."""
        return self.model.shared(torch.tensor(self.start))

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
