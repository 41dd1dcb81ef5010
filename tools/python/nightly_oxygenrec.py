"""The reference model `oxygenrec.py` against Hugging Face's T5, and its own rules against plain loops.

    python -m unittest discover -s tools/python -p 'nightly_oxygenrec.py'     # needs requirements.txt; tools/nightly runs it
"""
import unittest

import torch
from transformers import T5Config, T5ForConditionalGeneration

from oxygenrec import Config, Experts, OxygenRec, load_weights


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


if __name__ == "__main__":
    unittest.main()
