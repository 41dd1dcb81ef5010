#!/usr/bin/env python3
"""Reinforcement learning with `sidereal serve` as the rollout worker: the demo's model learns by SA-GCPO.

    python tools/python/sa_gcpo.py --sidereal target/release/sidereal --rounds 30

A round:

1. The engine samples a group of semantic IDs for each prompt, by the weights that it was given last; every reply carries the
   log-probabilities of each level and names the policy that drew them.
2. PyTorch computes the same log-probabilities. They must agree to 1e-4, or everything below learns about another policy.
3. Each sample has a reward, its group gives it an advantage, and a few gradient steps follow.
4. The new weights are written beside the old, renamed into place, and handed to the running server (`POST /weights`).

**Group-relative advantage.** A = (R - mean of the group) / (deviation of the group + 0.05): no value network.

**Soft adaptive clip.** PPO's clip stops the gradient at a ratio of 1 +- eps. Here the surrogate of a level with ratio
r = p_new / p_drawn is f(r) A, f(r) = 4 / t * sigmoid(t (r - 1)): its gradient fades smoothly with the distance of r from 1, is that of the
plain ratio at r = 1, and never quite ends. t is greater where A < 0: pushing a code down spreads its probability over
thousands that nobody drew, so what has moved already is held more firmly.

**One scale of rewards.** A hit, legality and diversity are each mapped to 0 .. 1 before they are weighed, so that no source of
reward, and no scenario with more generous ones, drowns the others:

- hit: levels that the sample shares, from the first on, with an item that the user chose next: 0, 0.3, 0.6 or 1;
- legality: the probability that the model gives to codes that exist, over the sample's levels. The trie makes every sample legal; this
  teaches the model to need it less. It is exp(sum of raw - behaviour), so it costs nothing to know;
- diversity: 1 / the number of times that the group drew the sample.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import T5ForConditionalGeneration

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "demo")]

from search import Catalogue, pad, prompt  # noqa: E402
from sidereal_client import Client, Request, Sampling  # noqa: E402
from t5 import FIRST_TOKEN, PAD, decode, encode  # noqa: E402

LEVELS, CODES = 3, 128
AHEAD = 5                               # the newest items of a user: what was chosen next
HIT = torch.tensor([0.0, 0.3, 0.6, 1.0])  # by shared levels
WEIGHTS = {"hit": 0.6, "legality": 0.2, "diversity": 0.2}
TOLERANCE = 1e-4


class Server:
    """`sidereal serve` in f32, with a door for weights."""

    def __init__(self, program, export, threads):
        self.process = subprocess.Popen(
            [program, "serve", str(export), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--admin-weights",
             "--device", "cpu", "--dtype", "f32", "--threads", str(threads), "--json", "--log-level", "warn"],
            stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{program} did not start: exit code {self.process.wait()}")
        hello = json.loads(line)
        self.address, self.admin = hello["listening"][0], hello["admin"]

    def _ask(self, method, body=None):
        connection = http.client.HTTPConnection(self.admin, timeout=60)
        try:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, "/weights", None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status not in (200, 202):
            sys.exit(f"{method} /weights: {response.status} {text.strip()}")
        return json.loads(text)

    def replace(self, path, version):
        """Puts the weights at `path` in place; returns how long the server admitted nobody, in ms."""
        number = self._ask("POST", {"path": str(path), "version": version})["policy"]["number"]
        while True:
            last = self._ask("GET")["replacement"]
            if last["policy"]["number"] != number or last["stage"] == "failed":
                sys.exit(f"the weights {version} are not served: {last}")
            if last["stage"] == "serving":
                return last["pause_ms"]
            time.sleep(0.01)

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Policy:
    """The model in PyTorch, and what its probabilities are over: all codes, or those that exist."""

    def __init__(self, export):
        self.model = T5ForConditionalGeneration.from_pretrained(export, dtype=torch.float32).eval()
        self.stored = list(load_file(export / "model.safetensors"))
        items = [json.loads(line) for line in open(export / "items.jsonl", encoding="utf-8")]
        self.sid = {item["item"]: item["sid"] for item in items}
        self.catalogue = Catalogue(np.array([i["sid"] for i in items]), np.array([i["weight"] for i in items]), CODES)
        self.legal = self.catalogue.legal(np.zeros(0, int))
        self.second = torch.from_numpy(self.catalogue.second)
        self.first = FIRST_TOKEN + CODES * torch.arange(LEVELS)

    def tokens(self, history):
        """Encoder tokens of the newest twelve items, as sidereal.json has it."""
        sids = np.array([self.sid[item] for item in history])
        return prompt(np.arange(len(history)), sids, CODES, 12)

    def log_probs(self, prompts, sids):
        """Log-probabilities of each level of `sids` [b, g, 3]: over the codes that exist, and over the whole vocabulary.
        Both [b, g, 3]."""
        states, mask = encode(self.model, pad(prompts))
        inputs = torch.cat([torch.full_like(sids[..., :1], PAD), sids[..., :2] + self.first[:2]], -1)
        everything = decode(self.model, states, mask, inputs)                               # [b, g, 3, vocabulary]
        levels = torch.stack([everything[:, :, l, f:f + CODES] for l, f in enumerate(self.first.tolist())], 2)
        raw = levels.gather(-1, sids[..., None]).squeeze(-1)
        s1, s2 = sids[..., 0], sids[..., 1]
        node = [torch.zeros_like(s1), s1, self.second[s1, s2]]
        legal = torch.stack([allowed[at] for allowed, at in zip(self.legal, node)], 2)      # [b, g, 3, codes]
        mass = levels.masked_fill(~legal, -torch.inf).logsumexp(-1)
        return raw - mass, raw

    def write(self, path):
        """The weights by the export's names, whole or not at all."""
        state = self.model.state_dict()
        beside = path.with_suffix(".part")
        save_file({name: state[name].float().contiguous() for name in self.stored}, beside)
        os.rename(beside, path)


def rollout(client, policy, users, group, seed, expected):
    """A group of samples for each user, all in flight at once: sids [b, g, 3], behaviour and raw [b, g, 3]."""
    prompts = [policy.tokens(user["history"]) for user in users]
    order = [client.send(Request(tokens=tokens, beams=group, top=group, log_probs=True, deadline_us=30_000_000,
                                 sample=Sampling("independent", seed + at)))
             for at, tokens in enumerate(prompts)]
    answers = {}
    while len(answers) < len(order):
        number, answer = client.receive()
        if isinstance(answer, Exception):
            raise answer
        assert answer.policy == expected, f"{answer.policy} answered, {expected} was asked"
        answers[number] = answer
    results = [answers[number].results for number in order]
    sids = torch.tensor([[ranked.sid for ranked in row] for row in results])
    drawn = torch.tensor([[ranked.log_probs for ranked in row] for row in results])         # [b, g, 3, 2]
    return prompts, sids, drawn[..., 0], drawn[..., 1]


def rewards(policy, users, sids, behaviour, raw):
    """[b, g] of each source, mapped to 0 .. 1, and their weighted sum."""
    ahead = torch.tensor([[policy.sid[item] for item in user["ahead"]] for user in users])  # [b, AHEAD, 3]
    shared = (sids[:, :, None] == ahead[:, None]).long().cumprod(-1).sum(-1)                # [b, g, AHEAD]
    same = (sids[:, :, None] == sids[:, None]).all(-1).sum(-1)                              # [b, g]
    parts = {"hit": HIT[shared.amax(-1)], "legality": (raw - behaviour).sum(-1).exp().clamp(0, 1),
             "diversity": 1.0 / same}
    return sum(WEIGHTS[name] * part for name, part in parts.items()), parts


def surrogate(new, drawn, advantage, soft_up, soft_down):
    """Soft adaptive clip, [b, g, 3]: see the head of this file."""
    ratio = (new - drawn).exp()
    t = torch.where(advantage >= 0, soft_up, soft_down)
    return 4 / t * torch.sigmoid(t * (ratio - 1)) * advantage


def read_users(path, known):
    """Users with enough items: what they chose last is to be hit, what came before is the history."""
    users = []
    for line in open(path, encoding="utf-8"):
        items = [item for item in json.loads(line)["items"] if item in known]
        if len(items) > AHEAD + 3:
            users.append({"history": items[:-AHEAD], "ahead": items[-AHEAD:]})
    return users


def learn(policy, optimiser, rolled, reward, options):
    """A few gradient steps on one round's samples. Returns the mean of |ratio - 1| before the last of them."""
    prompts, sids, behaviour, _ = rolled
    advantage = (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 0.05)
    for _ in range(options.steps):
        new, raw = policy.log_probs(prompts, sids)
        moved = ((new - behaviour).exp() - 1).abs().mean().item()
        gained = surrogate(new, behaviour, advantage[..., None], options.soft_up, options.soft_down).mean()
        # Legality is a matter of the mass that the trie takes away, which the ratio cannot see: it has a term of its own.
        loss = -gained - WEIGHTS["legality"] * (raw - new).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimiser.step()
    return moved


def worst(policy, rolled):
    """Largest difference between the engine's log-probabilities and PyTorch's: behaviour, raw."""
    prompts, sids, behaviour, raw = rolled
    with torch.no_grad():
        ours = policy.log_probs(prompts, sids)
    found = [(mine - theirs).abs().max().item() for mine, theirs in zip(ours, (behaviour, raw))]
    assert max(found) <= TOLERANCE, f"engine and PyTorch differ by {max(found):.1e} in log-probability"
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sidereal", default="target/release/sidereal", help="the program")
    parser.add_argument("--demo", type=Path, default=HERE.parents[1] / "demo/movielens")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--prompts", type=int, default=32, help="users a round")
    parser.add_argument("--group", type=int, default=16, help="samples a user")
    parser.add_argument("--steps", type=int, default=4, help="gradient steps a round")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--soft-up", type=float, default=1.0, help="temperature of the gate where the advantage is positive")
    parser.add_argument("--soft-down", type=float, default=2.0, help="and where it is negative")
    parser.add_argument("--held-out", type=int, default=96, help="users that are never trained on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where the weights go (default: a folder that is removed)")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    export = options.demo / "export"
    policy = Policy(export)
    optimiser = torch.optim.AdamW(policy.model.parameters(), lr=options.learning_rate, weight_decay=0.0)
    users = read_users(options.demo / "users.jsonl", policy.sid)
    rng.shuffle(users)
    held_out, users = users[:options.held_out], users[options.held_out:]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        server = Server(options.sidereal, export, options.threads)
        try:
            run(server, policy, optimiser, (users, held_out), folder.resolve(), rng, options)
        finally:
            server.stop()
    print(f"{time.monotonic() - began:.0f} s in all")


def run(server, policy, optimiser, split, folder, rng, options):
    """The rounds. The first and the last line are of users who are not trained on."""
    users, held_out = split
    expected = {"number": 0, "version": "2016.1"}
    with Client(server.address, timeout=120) as client:
        def measure(name):
            rolled = rollout(client, policy, held_out, options.group, 10_000_000, expected)
            reward, parts = rewards(policy, held_out, *rolled[1:])
            told = "  ".join(f"{part} {value.mean():.3f}" for part, value in parts.items())
            print(f"{name}: reward {reward.mean():.4f}  {told}  (log-probs within {max(worst(policy, rolled)):.0e})", flush=True)
            return reward.mean().item()

        before = measure("held out, before")
        for number in range(1, options.rounds + 1):
            chosen = [users[at] for at in rng.choice(len(users), size=options.prompts, replace=False)]
            rolled = rollout(client, policy, chosen, options.group, number * 1000, expected)
            behaviour, raw = worst(policy, rolled)
            reward, parts = rewards(policy, chosen, *rolled[1:])
            moved = learn(policy, optimiser, rolled, reward, options)
            expected = {"number": number, "version": f"round-{number}"}
            path = folder / f"round-{number}.safetensors"
            policy.write(path)
            pause = server.replace(path, expected["version"])
            print(f"round {number:3d}  reward {reward.mean():.4f}  hit {parts['hit'].mean():.3f}  legality "
                  f"{parts['legality'].mean():.3f}  diversity {parts['diversity'].mean():.3f}  |ratio - 1| {moved:.3f}  "
                  f"log-probs within {behaviour:.0e} / {raw:.0e}  pause {pause:.2f} ms", flush=True)
        after = measure("held out, after ")
    assert after > before, "the reward did not rise"


if __name__ == "__main__":
    main()
