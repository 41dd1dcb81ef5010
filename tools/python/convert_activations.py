"""What each layer of a Hugging Face model computes for one prompt, by module hooks: docs/export-format.md lists the names.

Two shapes of model are known: decoder-only ones built like Llama (Qwen2 and 3 too), and T5. Nothing is computed anew: every tensor is
what HF's own forward handed from one module to the next, in f32.
"""
import contextlib

import torch

from convert_errors import Refused


class Recorder:
    """Hooks that copy what passes a module's door, row by row of the one sequence in the batch."""

    def __init__(self):
        self.told, self.hooks = {}, contextlib.ExitStack()

    def keep(self, name, value):
        value = value[0] if isinstance(value, tuple) else value
        self.told[name] = value[0].detach().to(torch.float32).clone().contiguous()

    def output(self, module, name):
        handle = module.register_forward_hook(lambda _, args, out: self.keep(name, out))
        self.hooks.callback(handle.remove)

    def input(self, module, name):
        def hook(_, args, kwargs):
            self.keep(name, args[0] if args else kwargs["hidden_states"])
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        self.hooks.callback(handle.remove)


def decoder_only(recorder, model):
    stack = getattr(model, "model", None)
    if not all(hasattr(stack, part) for part in ("embed_tokens", "layers", "norm")):
        raise Refused(f"--activations: {type(model).__name__} is not built like Llama; leave --activations out")
    recorder.input(stack.layers[0], "embed")
    for at, layer in enumerate(stack.layers):
        for part in ("q_proj", "k_proj", "v_proj"):
            recorder.output(getattr(layer.self_attn, part), f"layer{at}.{part}")
        recorder.input(layer.post_attention_layernorm, f"layer{at}.attention")
        recorder.output(layer, f"layer{at}")
    recorder.output(stack.norm, "final")


def t5(recorder, model):
    for side, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        recorder.input(stack.block[0], "embed" if side == "encoder" else "decoder.embed")
        for at, block in enumerate(stack.block):
            name = f"{side}.layer{at}"
            attentions = [("SelfAttention", "", "attention"), ("EncDecAttention", "cross_", "cross_attention")]
            for sub, (kind, prefix, result) in zip(block.layer, attentions[:len(block.layer) - 1]):
                for part in "qkv":
                    recorder.output(getattr(getattr(sub, kind), part), f"{name}.{prefix}{part}_proj")
                recorder.output(sub, f"{name}.{result}")
            recorder.output(block, name)
        recorder.output(stack.final_layer_norm, "encoder.final" if side == "encoder" else "final")


@torch.inference_mode()
def record(model, tokens, decoder_prefix):
    """-> {name: f32 tensor [rows, width]}; `decoder_prefix` of an encoder-decoder, else None."""
    recorder = Recorder()
    with recorder.hooks:
        (decoder_only if decoder_prefix is None else t5)(recorder, model)
        extra = {} if decoder_prefix is None else {"decoder_input_ids": torch.tensor([decoder_prefix])}
        out = model(input_ids=torch.tensor([tokens]), use_cache=False, **extra)
    return recorder.told | {"logits": out.logits[0, -1:].to(torch.float32).contiguous()}
