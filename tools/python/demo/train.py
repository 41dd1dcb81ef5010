"""Training: from a user's history, the items rated next.

An example is a random moment of a random user's training sequence: a random recent stretch before it is the history; a
few of the next items after it, the nearest most often, are its targets, beside a few drawn from the teacher. (Users of this
data set rate in long sittings, and the order within a sitting is loose: what comes second next is nearly as good a target
as what comes next, and several targets share one encoder run.)
"""

import itertools
import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from search import figures, pad, prompt, recommend
from teacher import Teacher
from t5 import FIRST_TOKEN, PAD, decode, encode

BATCH = 64
SHORT_ITEMS = 4           # longest history of the first, cheap part of the training


@dataclass
class Recipe:
    """Hyper-parameters; the defaults are those of the committed model."""

    steps: int = 1200
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    window: int = 10                # targets are drawn from the next items this far ahead ...
    targets: int = 3                # ... this many, without replacement
    teacher_targets: int = 3        # further ones drawn from the teacher
    teacher_share: float = 0.5      # of what is predicted at a real target
    target_decay: float = 0.8
    item_dropout: float = 0.3       # at most this share of a history is dropped
    smoothing: float = 0.0          # spread over the level's codes
    user_power: float = 0.5         # users are drawn in proportion to length ^ power
    max_items: int = 12             # history items read
    short_share: float = 0.5        # of the steps train on at most SHORT_ITEMS: what goes with what, before attention
    ema: float = 0.99 
    seed: int = 1


def draw(sequences, chance, max_items, recipe, rng):
    """One example: (history rows, target rows)."""
    s = sequences[rng.choice(len(sequences), p=chance)]
    moment = int(rng.integers(0, len(s)))
    longest = max_items if rng.random() < 0.7 else int(rng.integers(1, max_items + 1))
    keep = rng.random(min(longest, moment)) >= rng.random() * recipe.item_dropout
    history = [i for i, k in zip(s[moment - len(keep):moment], keep) if k]
    ahead = s[moment:moment + recipe.window]
    near = recipe.target_decay ** np.arange(len(ahead))
    chosen = rng.choice(len(ahead), size=min(recipe.targets, len(ahead)), replace=False, p=near / near.sum())
    return history, [ahead[j] for j in chosen]


def batches(sequences, catalogue, teacher, recipe, rng):
    """Endless batches, examples of like history length together:
    tokens [b, n] encoder input; goal [b, k, 3] target tokens; soft [b, k, 3, codes] what to predict at each; weight [b, k]."""
    chance = np.array([len(s) for s in sequences], float) ** recipe.user_power
    chance /= chance.sum()
    codes, sids = catalogue.codes, catalogue.sids
    levels = FIRST_TOKEN + codes * np.arange(3)
    real, k = recipe.targets, recipe.targets + recipe.teacher_targets
    for step in itertools.count(0, 16):
        max_items = SHORT_ITEMS if step < recipe.short_share * recipe.steps else recipe.max_items
        pool = sorted((draw(sequences, chance, max_items, recipe, rng) for _ in range(16 * BATCH)), key=lambda e: len(e[0]))
        for b in rng.permutation(16):
            rows = pool[b * BATCH:(b + 1) * BATCH]
            scores = teacher.leaf_scores([h for h, _ in rows])
            leaf = np.full((BATCH, k), -1)
            leaf[:, real:] = teacher.sample(scores, k - real, rng)
            for row, (_, targets) in zip(leaf, rows):
                row[:len(targets)] = catalogue.leaf_of[targets]
            weight = (leaf >= 0).astype(np.float32)
            weight /= weight.sum(1, keepdims=True)
            leaf = leaf.clip(0)
            sid = catalogue.codes_of(leaf)                                                    # [b, k, 3]
            taught = teacher.conditionals(scores, leaf)                                       # [b, k, 3, codes]
            hard = (1 - recipe.smoothing) * np.eye(codes, dtype=np.float32)[sid] + recipe.smoothing / codes
            share = recipe.teacher_share * taught.sum(3, keepdims=True)                       # 0 where nothing is taught
            share[:, real:] = taught[:, real:].sum(3, keepdims=True)
            yield (pad([prompt(h, sids, codes, recipe.max_items) for h, _ in rows]), torch.from_numpy(sid + levels),
                   torch.from_numpy(share * taught + (1 - share) * hard), torch.from_numpy(weight))


def loss_of(model, tokens, goal, soft, weight):
    """Cross-entropy of the three levels' distributions `soft`, each over the whole vocabulary, per example."""
    codes = soft.shape[-1]
    states, mask = encode(model, tokens)
    logp = decode(model, states, mask, torch.cat([torch.full_like(goal[:, :, :1], PAD), goal[:, :, :2]], 2))
    level = torch.stack([logp[:, :, l, FIRST_TOKEN + l * codes:FIRST_TOKEN + (l + 1) * codes] for l in range(3)], 2)
    return -((soft * level).sum((2, 3)) * weight).sum() / len(tokens)


def train(model, data, catalogue, recipe, validate_every=0, log=print):
    """Trains in place; the model ends with the running average of its weights."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    sequences, (histories, targets) = data.train(), data.histories("validation")
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW([{"params": decayed, "weight_decay": recipe.weight_decay},
                                   {"params": rest, "weight_decay": 0.0}], lr=recipe.learning_rate, betas=(0.9, 0.98))
    average = [p.detach().clone() for p in model.parameters()]
    begun, running = time.monotonic(), 0.0
    stream = batches(sequences, catalogue, Teacher(sequences, catalogue), recipe, rng)
    for step in range(1, recipe.steps + 1):
        warm, left = min(1.0, step / 50), step / recipe.steps
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * left)))
        model.train()
        loss = loss_of(model, *next(stream))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        keep = min(recipe.ema, step / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(average, list(model.parameters()), 1 - keep)
        running += (loss.item() - running) * max(0.01, 1 / step)
        if step % 100 == 0:
            log(f"step {step:5d}  loss {running:.4f}  {time.monotonic() - begun:5.0f} s")
        if validate_every and step % validate_every == 0 or step == recipe.steps:
            with torch.no_grad():
                live = [p.detach().clone() for p in model.parameters()]
                torch._foreach_copy_(list(model.parameters()), average)
                hr, ndcg = figures(recommend(model, catalogue, histories, recipe.max_items), targets)
                log(f"step {step:5d}  validation HR@10 {hr:.4f} NDCG@10 {ndcg:.4f}")
                if step < recipe.steps:
                    torch._foreach_copy_(list(model.parameters()), live)
    return time.monotonic() - begun
