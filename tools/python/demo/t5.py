"""A T5 forward pass for training and search, over the modules (and so the parameter names) of Hugging Face's
`T5ForConditionalGeneration`.

Why not call the Hugging Face model itself: one history trains many next items at once here. The encoder runs once, its
output is cross-attended by K short decoder sequences, and the cross-attention keys are computed once, not K times.
`evaluate.py --transformers` shows that both give the same lists and scores.
"""

import torch
import torch.nn.functional as F
from transformers import T5Config, T5ForConditionalGeneration

PAD, EOS = 0, 1           # 0 also starts the decoder
FIRST_TOKEN = 2           # token of (level, code) = FIRST_TOKEN + level * codes + code


def config(codes, d_model, d_ff, heads, encoder_layers, decoder_layers, dropout):
    """T5 v1.0: ReLU, one embedding table shared by encoder, decoder and head (so logits are scaled by d_model^-0.5)."""
    return T5Config(
        vocab_size=FIRST_TOKEN + 3 * codes, d_model=d_model, d_kv=d_model // heads, num_heads=heads, d_ff=d_ff,
        num_layers=encoder_layers, num_decoder_layers=decoder_layers, dropout_rate=dropout, feed_forward_proj="relu",
        tie_word_embeddings=True, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD)


def build(cfg, seed):
    """A freshly initialised model, deterministic in `seed`. The table starts small and the last norm large enough to undo
    the head's d_model^-0.5: from T5's own start (table of variance 1) Adam needs thousands of steps to learn even the
    codes' frequencies."""
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(cfg)
    torch.nn.init.normal_(model.shared.weight, std=0.1)
    torch.nn.init.constant_(model.decoder.final_layer_norm.weight, cfg.d_model ** 0.5)
    return model


def split_heads(x, heads):
    """[b, n, heads * d_kv] -> [b, heads, n, d_kv]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(layer, q, k, v, bias):
    """Unscaled attention, as T5 has it; `bias` holds positions and -1e9 for padding. No dropout on its weights: on a
    CPU the random numbers would cost more than the product.
    q: [b, heads, n, d_kv]; k, v: [b, heads, m, d_kv]; bias: [1 or b, heads or 1, 1 or n, m]; -> [b, n, d_model]"""
    out = (q @ k.transpose(-1, -2) + bias).softmax(-1) @ v
    return layer.o(out.transpose(1, 2).flatten(2))


def feed_forward(sublayer, x, dropout):
    """Pre-norm ReLU block with its residual. [b, n, d_model]"""
    ff = sublayer.DenseReluDense
    h = F.dropout(F.relu(ff.wi(sublayer.layer_norm(x))), dropout, dropout > 0)
    return x + F.dropout(ff.wo(h), dropout, dropout > 0)


def encode(model, tokens):
    """[b, n] padded tokens -> ([b, n, d_model] states, [b, 1, 1, n] additive padding mask)."""
    p = model.config.dropout_rate if model.training else 0.0
    heads = model.config.num_heads
    x = F.dropout(model.shared(tokens), p, p > 0)
    mask = torch.zeros_like(tokens, dtype=x.dtype).masked_fill(tokens == PAD, -1e9)[:, None, None, :]
    bias = None
    for block in model.encoder.block:
        attention = block.layer[0].SelfAttention
        if bias is None:
            bias = attention.compute_bias(tokens.shape[1], tokens.shape[1]) + mask
        h = block.layer[0].layer_norm(x)
        q, k, v = (split_heads(w(h), heads) for w in (attention.q, attention.k, attention.v))
        x = x + F.dropout(attend(attention, q, k, v, bias), p, p > 0)
        x = feed_forward(block.layer[1], x, p)
    return F.dropout(model.encoder.final_layer_norm(x), p, p > 0), mask


def decode(model, states, mask, tokens):
    """Log-probabilities over the whole vocabulary after each decoder token.
    states: [b, n, d_model]; tokens: [b, k, t], k independent decoder inputs a history, first token PAD; -> [b, k, t, vocab]"""
    p = model.config.dropout_rate if model.training else 0.0
    heads = model.config.num_heads
    b, k, t = tokens.shape
    x = F.dropout(model.shared(tokens.reshape(b * k, t)), p, p > 0)
    causal = torch.full((t, t), -1e9).triu(1)
    bias = None
    for block in model.decoder.block:
        own, cross = block.layer[0].SelfAttention, block.layer[1].EncDecAttention
        if bias is None:
            bias = own.compute_bias(t, t) + causal
        h = block.layer[0].layer_norm(x)
        x = x + F.dropout(attend(own, *(split_heads(w(h), heads) for w in (own.q, own.k, own.v)), bias), p, p > 0)
        # All k sequences of a history are one run of k * t queries against its states: queries do not see each other.
        h = block.layer[1].layer_norm(x).reshape(b, k * t, -1)
        q = split_heads(cross.q(h), heads)
        out = attend(cross, q, split_heads(cross.k(states), heads), split_heads(cross.v(states), heads), mask)
        x = x + F.dropout(out.reshape(b * k, t, -1), p, p > 0)
        x = feed_forward(block.layer[2], x, p)
    x = F.dropout(model.decoder.final_layer_norm(x), p, p > 0) * model.config.d_model ** -0.5
    return model.lm_head(x).log_softmax(-1).reshape(b, k, t, -1)
