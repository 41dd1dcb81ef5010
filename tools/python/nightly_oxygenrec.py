"""The reference model `oxygenrec.py` against Hugging Face's T5, and its own rules against plain loops.

    python -m unittest discover -s tools/python -p 'nightly_oxygenrec.py'     # needs requirements.txt; tools/nightly runs it
"""
import json
import pathlib
import tempfile
import unittest

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration, T5Config, T5ForConditionalGeneration

import igr
from golden_oxygenrec import OxygenScorer
from golden_search import Trie
from oxygenrec import Config, Experts, OxygenRec, load, load_weights, save_export
from oxygenrec_inputs import instruction_vectors


torch.set_num_threads(1)


def hf_model(seed, **keys):
    """A seeded T5 with peaked attention, so that positions and scales matter."""
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(T5Config(
        **dict(vocab_size=50, d_model=24, d_kv=6, d_ff=40, num_heads=4, num_layers=2, num_decoder_layers=3, decoder_start_token_id=0) | keys))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "SelfAttention" in name or "EncDecAttention" in name:
                weight.mul_(3)
            if "layer_norm" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    return model.eval()


class DenseIsT5(unittest.TestCase):
    def check(self, seed, **keys):
        theirs = hf_model(seed, **keys)
        ours = OxygenRec(Config.read(theirs.config.to_dict() | {"model_type": "oxygenrec"})).eval()
        tensors = dict(theirs.state_dict())
        if theirs.lm_head.weight is theirs.shared.weight:
            del tensors["lm_head.weight"]
        load_weights(ours, tensors)
        generator = torch.Generator().manual_seed(seed)
        for length in (1, 9, 200):
            tokens = torch.randint(0, 50, (2, length), generator=generator)
            decoder = torch.randint(0, 50, (2, 3, 5), generator=generator)
            mask = torch.ones(2, length, dtype=torch.long)
            mask[1, (length + 1) // 2:] = 0
            with torch.no_grad():
                states = ours.encode(ours.shared(tokens), torch.where(mask == 0, float("-inf"), 0.0)[:, None, None])
                got = ours.lm_head(ours.decode(states, ours.shared(decoder), torch.where(mask == 0, float("-inf"), 0.0)[:, None, None]))
                for k in range(3):
                    expected = theirs(input_ids=tokens, attention_mask=mask, decoder_input_ids=decoder[:, k]).logits
                    self.assertGreater(expected.std().item(), 0.1)
                    torch.testing.assert_close(got[:, k], expected, atol=2e-4, rtol=2e-4)

    def test_tied(self):
        self.check(1)

    def test_gated_untied(self):
        self.check(2, feed_forward_proj="gated-gelu", tie_word_embeddings=False)

    def test_buckets_and_epsilon(self):
        self.check(3, relative_attention_num_buckets=12, relative_attention_max_distance=40, layer_norm_epsilon=0.01, feed_forward_proj="gated-silu")


class ExpertsAreSwitch(unittest.TestCase):
    """Top-1 routing, against Hugging Face's Switch Transformers: experts that somebody else wrote."""

    def test_the_same_logits(self):
        torch.manual_seed(7)
        theirs = SwitchTransformersForConditionalGeneration(SwitchTransformersConfig(
            vocab_size=50, d_model=24, d_kv=6, d_ff=16, num_heads=4, num_layers=2, num_decoder_layers=2, num_sparse_encoder_layers=1,
            num_sparse_decoder_layers=2, num_experts=4, expert_capacity=4096, decoder_start_token_id=0)).eval()
        ours = OxygenRec(Config.read(theirs.config.to_dict() | {
            "num_experts_per_tok": 1, "norm_topk_prob": False, "encoder_moe_layers": [1], "decoder_moe_layers": [0, 1]})).eval()
        with torch.no_grad():
            for name, weight in theirs.named_parameters():
                if "router" in name or "wo.weight" in name:
                    weight.mul_(20)                                          # as they are, experts would hardly matter
        rename = {".mlp.": ".ffn.", "router.classifier": "router", "expert_": ""}
        tensors = {}
        for name, tensor in theirs.state_dict().items():
            for old, new in rename.items():
                name = name.replace(old, new)
            tensors[name] = tensor
        del tensors["lm_head.weight"]
        load_weights(ours, tensors)
        used = [set() for _ in range(3)]
        for seen, experts in zip(used, (m for m in ours.modules() if isinstance(m, Experts))):
            experts.router.register_forward_hook(lambda _, __, logits, seen=seen: seen.update(logits.argmax(-1).tolist()))
        tokens, decoder = torch.randint(0, 50, (2, 40)), torch.randint(0, 50, (2, 5))
        with torch.no_grad():
            expected = theirs(input_ids=tokens, attention_mask=torch.ones_like(tokens), decoder_input_ids=decoder).logits
            got = ours.lm_head(ours.decode(ours.encode(ours.shared(tokens)), ours.shared(decoder)[:, None]))[:, 0]
        self.assertGreater(expected.std().item(), 0.1)
        self.assertTrue(all(len(seen) > 1 for seen in used), used)
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)


class Routing(unittest.TestCase):
    def experts(self, **keys):
        torch.manual_seed(4)
        config = Config.read(dict(vocab_size=8, d_model=16, d_kv=4, d_ff=8, num_heads=4, num_layers=1, num_experts=5, num_experts_per_tok=3) | keys)
        return config, Experts(config)

    def by_hand(self, config, experts, x):
        """One row, in f64, by loops over experts."""
        logits = [float((x.double() * row.double()).sum()) for row in experts.router.weight]
        chosen = sorted(range(len(logits)), key=lambda e: (-logits[e], e))[:config.num_experts_per_tok]
        over = range(len(logits)) if config.router_order == "softmax_topk" else chosen
        total = sum(torch.tensor(logits[e]).double().exp() for e in over)
        weights = [torch.tensor(logits[e]).double().exp() / total for e in chosen]
        if config.norm_topk_prob:
            weights = [w / sum(weights) for w in weights]
        out = sum(w * config.routed_scaling_factor * experts.experts[e](x).double() for w, e in zip(weights, chosen))
        return out + sum(s(x).double() for s in experts.shared_experts)

    def test_every_rule(self):
        for order in ("softmax_topk", "topk_softmax"):
            for norm in (True, False):
                for shared in (0, 2):
                    config, experts = self.experts(router_order=order, norm_topk_prob=norm, n_shared_experts=shared,
                                                   shared_expert_intermediate_size=6, routed_scaling_factor=1.7, feed_forward_proj="gated-silu")
                    rows = torch.randn(2, 7, 16)
                    with torch.no_grad():
                        got = experts(rows)
                        for b in range(2):
                            for n in range(7):
                                torch.testing.assert_close(got[b, n].double(), self.by_hand(config, experts, rows[b, n]), atol=1e-5, rtol=1e-5)

    def test_ties_go_to_the_lower_expert(self):
        _, experts = self.experts(num_experts_per_tok=2)
        with torch.no_grad():
            experts.router.weight[4] = experts.router.weight[1]
            experts.router.weight[3] = experts.router.weight[1]
            _, chosen = experts.route(experts.router(torch.randn(300, 16)))
        self.assertNotIn(4, chosen.flatten().tolist())
        self.assertIn([1, 3], chosen.tolist())

    def test_a_row_does_not_depend_on_the_others(self):
        _, experts = self.experts(n_shared_experts=1)
        rows = torch.randn(40, 16)
        with torch.no_grad():
            together = experts(rows[None])[0]
            alone = torch.cat([experts(row[None, None])[0] for row in rows])
        torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


class Retrieval(unittest.TestCase):
    def test_against_a_plain_loop(self):
        rng = np.random.default_rng(5)
        for _ in range(300):
            count = int(rng.integers(0, 12))
            keys = rng.integers(-2, 3, (count, 3)).astype(np.float32)     # small numbers: many exact ties, some zero vectors
            query = rng.integers(-2, 3, 3).astype(np.float32)
            top_k, newest, least = int(rng.integers(0, 6)), int(rng.integers(0, 4)), float(rng.choice([-1.0, 0.0, 0.5]))
            similar = [0.0 if not key.any() or not query.any() else np.float32(key @ query) / (np.sqrt(key @ key) * np.sqrt(query @ query)) for key in keys]
            left, picked = [i for i in range(count) if count - i > newest and (least == -1.0 or similar[i] >= least)], []
            for _ in range(min(top_k, len(left))):
                best = left[0]
                for i in left:
                    if similar[i] > similar[best] or similar[i] == similar[best] and i > best:
                        best = i
                left.remove(best)
                picked.append(best)
            picked += [i for i in range(count) if count - i <= newest]
            self.assertEqual(igr.retrieve(query, keys, top_k, newest, least), sorted(picked))

    def test_equal_items_go_newest_first(self):
        keys = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
        self.assertEqual(igr.retrieve(np.array([1, 0], np.float32), keys, 2), [1, 3])
        self.assertEqual(igr.retrieve(np.array([1, 0], np.float32), keys, 2, keep_newest=2), [0, 1, 3, 4])


MANIFEST = {"sidereal": 1, "name": "n", "version": "1", "score": "level_head", "length_penalty": 0.0, "decoder_prefix": [0],
            "heads": ["first.weight", "second.weight"],
            "sid": {"levels": [{"codes": 4, "tokens": {"first": 2}}, {"codes": 4, "tokens": {"first": 6}}]},
            "instructions": [{"name": "scenario", "source": "scenario", "ids": [5, 9], "trigger": True},
                             {"name": "mood", "source": "store", "size": 3}, {"name": "topic", "source": "request", "ids": [4]}],
            "history": {"features": [{"name": "item", "table": "tables/i.safetensors"}], "version": "1"},
            "retrieval": {"instructions": ["mood"], "top_k": 2}}


class Export(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(6)
        config = Config.read(dict(vocab_size=10, d_model=8, d_kv=4, d_ff=12, num_heads=2, num_layers=1, num_experts=2, encoder_moe_layers=[0],
                                  decoder_moe_layers=[], feed_forward_proj="gated-silu", tie_word_embeddings=False))
        sizes = {"tables": {"item": (7, 5)}, "projection": "plain", "hidden": {"scenario": 6}, "retrieval": 4}
        self.model = OxygenRec(config, MANIFEST, sizes).eval()
        self.request = {"features": [[1], [6], [0], [2]], "scenario": 9, "trigger": 30, "instructions": {"mood": [0.5, -1.0, 2.0]}}

    def score(self, model):
        return OxygenScorer(model, MANIFEST, Trie([(1, 2), (3, 0)]), {30: (1, 2), 31: (3, 0)}).forced(self.request, (3, 0))

    def test_what_is_saved_is_what_is_loaded(self):
        items = [{"item": 30, "sid": [1, 2]}, {"item": 31, "sid": [3, 0]}]
        for hf_names in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                save_export(folder, self.model, MANIFEST, items, [{"id": 5, "name": "home"}], hf_names=hf_names)
                names = set(load_file(f"{folder}/model.safetensors"))
                self.assertIn("decoder.block.0.layer.2." + ("DenseReluDense.wi_0" if hf_names else "ffn.gate_proj") + ".weight", names)
                self.assertIn("encoder.block.0.layer.1.ffn.experts.1.gate_proj.weight", names)
                self.assertIn("second.weight", names)
                self.assertIn("instructions.scenario.fusion.1.bias", names)
                self.assertNotIn("lm_head.weight", names)
                self.assertNotIn("history.tables.item.weight", names)
                self.assertEqual(json.loads(pathlib.Path(folder, "scenarios.json").read_text()), {"scenarios": [{"id": 5, "name": "home"}]})
                self.assertEqual(self.score(load(folder)), self.score(self.model))

    def test_instructions_by_hand(self):
        vectors, defaulted = instruction_vectors(self.model, self.request, [3, 8])
        self.assertEqual(defaulted, ["topic"])
        one, table = self.model.instructions["scenario"], self.model.shared.weight
        read = torch.cat([one.table.weight[1], table[3] + table[8]])
        hidden = one.fusion[0].weight @ read + one.fusion[0].bias
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2 ** 0.5))
        torch.testing.assert_close(vectors["scenario"], one.fusion[1].weight @ hidden + one.fusion[1].bias)
        self.assertTrue(torch.equal(vectors["topic"], self.model.instructions["topic"].default))
        without, _ = instruction_vectors(self.model, {"scenario": 9})
        self.assertTrue(torch.equal(without["scenario"], one(9, one.trigger_default)))


if __name__ == "__main__":
    unittest.main()
