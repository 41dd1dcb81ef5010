"""Makes a small Hugging Face directory for an index.json, to try the converter: seeded weights, and a tokenizer with its tokens added.

    python tools/python/small_model.py qwen3 --items index.json --out MODEL [--spelling '<s_a_12>'] [--order lexical] [--only-used]

Weights are those of golden_models.py (random, but with lively logits). `--only-used` adds tokens of the codes that items have and no
others, as MiniOneRec does. Nothing is trained and nothing is fetched.
"""
import argparse
import pathlib

from tokenizers import AddedToken, Tokenizer, models as token_models, pre_tokenizers

import convert_items
import golden_models as models

SPELLINGS = {
    "<a_12>": lambda level, code, codes: f"<{'abcdefgh'[level]}_{code}>",
    "<s_a_12>": lambda level, code, codes: f"<s_{'abcdefgh'[level]}_{code}>",
    "<|sid_12|>": lambda level, code, codes: f"<|sid_{level * codes + code}|>",
}
WORDS = ["<pad>", "</s>", "<unk>", "<|sid_begin|>", "<|sid_end|>", "the", "user", "has", "bought", "next"]


def code_of(told):
    """A code as index files have it: a number, or the number in a token."""
    return told if isinstance(told, int) else int(told.strip("<>").rsplit("_", 1)[1])


def sid_tokens(sids, spelling, only_used):
    """Tokens to add, in the order of levels and codes."""
    spell = SPELLINGS[spelling]
    codes = [max(sid[level] for sid in sids) + 1 for level in range(len(sids[0]))]
    codes = [max(codes)] * len(codes) if spelling == "<|sid_12|>" else codes
    used = {(level, code) for sid in sids for level, code in enumerate(sid)}
    return [spell(level, code, codes[0]) for level, count in enumerate(codes) for code in range(count) if not only_used or (level, code) in used]


def make(family, sids, out, spelling="<a_12>", order="numeric", only_used=False, layers=2, begin_end=True):
    """Writes the directory. `sids`: semantic IDs of the items, as numbers."""
    words = WORDS if begin_end else [word for word in WORDS if not word.startswith("<|sid_")]
    tokenizer = Tokenizer(token_models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = sid_tokens(sids, spelling, only_used)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in (sorted(tokens) if order == "lexical" else tokens)])
    vocab = (tokenizer.get_vocab_size() + 7) // 8 * 8
    config = {"t5": {"tie_word_embeddings": True, "num_layers": layers, "num_decoder_layers": layers},
              "qwen3": {"tie_word_embeddings": True, "num_hidden_layers": layers,
                        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}}[family]
    spec = models.Spec(f"small-{family}", "", family, config, "v5", [], vocab, [])
    out.mkdir(parents=True)
    models.write_json(out / "config.json", models.config_json(spec))
    models.write_weights(out, models.weights(spec, scaled=family == "t5"), shards=1)
    tokenizer.save(str(out / "tokenizer.json"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("family", choices=("qwen3", "t5"))
    parser.add_argument("--items", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--spelling", choices=SPELLINGS, default="<a_12>")
    parser.add_argument("--order", choices=("numeric", "lexical"), default="numeric")
    parser.add_argument("--only-used", action="store_true")
    args = parser.parse_args()
    sids = [[code_of(told) for told in row["sid"]] for row in convert_items.read(args.items)]
    make(args.family, sids, args.out, args.spelling, args.order, args.only_used)


if __name__ == "__main__":
    main()
