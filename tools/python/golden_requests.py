"""The exports of `tests/oxygenrec`: requests with instructions, histories of features, and retrieval. Data, as in golden_models.py."""
from golden_models import Spec

SMALL = {"d_model": 24, "d_kv": 6, "d_ff": 24, "num_heads": 4, "num_layers": 1, "num_decoder_layers": 2}
SCENARIO = {"name": "scenario", "source": "scenario", "ids": [1, 2, 7], "trigger": True}
REASONING = {"name": "reasoning", "source": "store", "size": 12}
BEHAVIOUR = {"name": "behaviour", "source": "behaviour", "ids": [1, 2, 3]}
ITEM, KIND, DEED = ({"name": name, "table": f"tables/{name}.safetensors"} for name in ("item", "kind", "deed"))

GIVEN = [SCENARIO, REASONING, {"name": "hint", "source": "request", "size": 6}, {"name": "topic", "source": "request", "ids": [10, 20, 30]}, BEHAVIOUR]
ASKED = [
    ({"tokens": 20, "scenario": 1, "trigger": True, "behaviour": 2, "give": ["reasoning", "hint", "topic"]}, 32),
    ({"tokens": 20, "scenario": 7, "behaviour": 3, "give": ["reasoning", "hint", "topic"]}, 32),
    ({"tokens": 5, "scenario": 2, "trigger": True}, 8),
    ({"tokens": 33, "behaviour": 1, "give": ["hint"]}, 8),
    ({"tokens": 1, "give": ["reasoning", "topic"]}, 8),
    ({"tokens": 70}, 16)]

SPECS = [
    Spec("instructions", "five instructions after decoder_prefix [0, 2]: a scenario fused with a trigger, a store vector, a request's vector and id, "
         "a behaviour; each of them missing once; experts in the decoder", "oxygenrec",
         SMALL | {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}, "own", [16, 16, 16], 60, ASKED, sids=150,
         hf_names=False, inputs={"hidden": {"scenario": 20, "reasoning": 18, "hint": 16}}, manifest={"decoder_prefix": [0, 2], "instructions": GIVEN}),
    Spec("instructions-t5", "the same instructions before a T5: no experts, HF's names, `model_type` t5", "oxygenrec",
         SMALL | {"model_type": "t5", "feed_forward_proj": "gated-gelu"}, "own", [16, 16, 16], 60, ASKED, sids=150,
         inputs={"hidden": {"scenario": 30, "reasoning": 10, "hint": 24}}, manifest={"instructions": GIVEN}),
    Spec("features", "histories of three features side by side, projected with a bias, or embedded already; tables in f32, f16 and bf16; a scenario "
         "without trigger; absolute positions", "oxygenrec",
         SMALL | {"position_embeddings": "absolute", "n_positions": 40, "attention_scale": True, "feed_forward_proj": "relu"}, "own",
         [16, 16, 16], 60, [
             ({"features": 1, "scenario": 1}, 8), ({"features": 7, "scenario": 7}, 32), ({"features": 32}, 8),
             ({"features": 50, "scenario": 2}, 16), ({"embedded": 9, "scenario": 2}, 16), ({"embedded": 45}, 8)],
         sids=150, inputs={"hidden": {}, "tables": {"item": (60, 10), "kind": (7, 6), "deed": (3, 4)}, "projection": "bias"}, manifest={
             "instructions": [{"name": "scenario", "source": "scenario", "ids": [1, 2, 7]}],
             "history": {"features": [ITEM, KIND, DEED], "combine": "concat", "max_items": 32, "embedded": True, "version": "golden.1"}}),
    Spec("retrieval", "retrieval by scenario and reasoning over histories of summed features without a projection: the newest 3 and 6 of the others, "
         "of similarity 0 and more, repeated items among them", "oxygenrec", SMALL | {"feed_forward_proj": "gated-gelu"}, "own",
         [16, 16, 16], 60, [
             ({"features": 2, "scenario": 1, "give": ["reasoning"]}, 8),
             ({"features": 11, "scenario": 2, "trigger": True, "give": ["reasoning"]}, 8),
             ({"features": 40, "scenario": 7, "give": ["reasoning"]}, 32),
             ({"features": 150, "scenario": 1, "trigger": True}, 8), ({"features": 60}, 8)],
         sids=150, inputs={"hidden": {"scenario": 20, "reasoning": 18}, "tables": {"item": (90, 24), "kind": (5, 24)}, "retrieval": 16}, manifest={
             "instructions": [SCENARIO, REASONING],
             "history": {"features": [ITEM, KIND], "combine": "sum", "max_items": 100, "version": "golden.1"},
             "retrieval": {"instructions": ["scenario", "reasoning"], "top_k": 6, "min_similarity": 0.0, "keep_newest": 3}}),
    Spec("retrieval-alone", "retrieval by one instruction of three, with biases, no newest items and no least similarity, over features side by side", "oxygenrec",
         SMALL | {"num_decoder_layers": 1, "tie_word_embeddings": False}, "own", [16, 16, 16], 60, [
             ({"features": 30, "scenario": 1, "give": ["reasoning"]}, 8), ({"features": 30, "scenario": 2, "behaviour": 2}, 8),
             ({"features": 4, "behaviour": 1, "give": ["reasoning"]}, 32)],
         sids=150, inputs={"hidden": {"scenario": 20, "reasoning": 18}, "tables": {"item": (60, 12), "kind": (5, 4)}, "projection": "plain",
                           "retrieval": 8, "retrieval_bias": True}, manifest={
             "instructions": [SCENARIO, REASONING, BEHAVIOUR],
             "history": {"features": [ITEM, KIND], "max_items": 200, "version": "golden.1"},
             "retrieval": {"instructions": ["reasoning"], "top_k": 8}}),
]
