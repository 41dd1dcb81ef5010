"""Makes tests/tokenizers: small tokenizers, and the tokens that `transformers` makes of texts with them.

    python tools/python/make_tokenizer_goldens.py            # make them anew, seconds
    python tools/python/make_tokenizer_goldens.py --check    # make them elsewhere, compare with these

Needs transformers (tools/python/requirements.txt), which brings tokenizers; made with transformers 5.23.0 and tokenizers
0.23.3. What a case holds is what
`PreTrainedTokenizerFast(tokenizer_file=...)(text)` returns, with nothing else said.
"""

import argparse
import collections
import filecmp
import json
import math
import pathlib
import random
import sys
import tempfile

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).resolve().parents[2] / "tests/tokenizers"

CORPUS = [
    "the history of a user is a list of items, oldest first; the model names the next one.",
    "Green tea 250 g, black tea, herbal tea: tea for the office and for the kitchen at home.",
    "user bought item 12 and item 7, then item 99 twice. What will the user buy next?",
    "caf\u00e9 na\u00efve fa\u00e7ade \u00fcber stra\u00dfe \u65e5\u672c\u8a9e \u4e2d\u6587 \u0440\u0443\u0441\u0441\u043a\u0438\u0439",
] * 4

TEXTS = [
    "", " ", "  ", "\n", "\t\t", " \n \r\n\t ", "a", "tea", "Green tea", " tea ", "tea  tea   tea", "TEA tEa",
    "item 12, item 7; item 1234567890", "3.14159 1,000,000 007", "it's they'll I'M we'RE don't 's", "a-b_c/d\\e@f#g%h&i*(j)k",
    "<a_1>", "<a_1><a_2><b_7>", "tea<a_1>tea", " <a_1> ", "<a_1> <a_1>  <a_1>", "<a_1", "a_1>", "<A_1>", "<a_10><a_1>0",
    "<<a_1>>", "x <pad> y", "</s>", "tea</s>tea", "<unk>", "<wide> tea", "tea   <wide>   tea", "TEA<Case>tea<case>",
    "caf\u00e9", "cafe\u0301", "\u00c5\u212b\u0041\u030a", "\ufb01\ufb02", "\u1e9b\u0323", "\uff34\uff25\uff21\uff11", "\u0130stanbul \u0131",
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0", "\u4e2d\u6587\uff0c\u6807\u70b9\u3002", "\ud55c\uad6d\uc5b4", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\u05e2\u05d1\u05e8\u05d9\u05ea",
    "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22", "\U0001f600", "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1e9\U0001f1ea\U0001f1eb",
    "\u2764\ufe0f\u2764", "a\u200bb\u200cc\u200dd\ufeffe", "\ufefftea", "\u00a0tea\u2003tea\u3000tea", "a\u2028b\u2029c\u0085d", "\x00", "a\x00b\x01c\x7fd",
    "\ue000\uf8ff", "\ufffd\ufffe\uffff", "\U0010ffff\U000e0001", "\u0301\u0301\u0301", "e" + "\u0301" * 40, "\u202eabc\u202c", "\u2581tea\u2581", "\u0120tea\u010a",
    "a" * 300, "ab" * 200, " " * 200 + "x", "\n" * 50 + "tea", "tea " * 100, "<a_1>" * 60, "1" * 100, "\u65e5" * 100,
]


def added():
    """Semantic IDs as converters add them, and tokens with every flag."""
    sids = [AddedToken(f"<{level}_{code}>", special=False, normalized=False) for level in "ab" for code in (1, 2, 7, 10)]
    return sids + [
        AddedToken("<wide>", special=False, normalized=False, lstrip=True, rstrip=True),
        AddedToken("<case>", special=False, normalized=True),
    ]


def byte_level():
    """Byte-level BPE with Qwen's pattern, whose look-ahead is the difference between two spaces and three."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("<pad>", special=True), AddedToken("</s>", special=True)])
    tokenizer.add_tokens(added())
    # A file may hold these; a prompt must not be cut or filled up for it.
    tokenizer.enable_truncation(max_length=5)
    tokenizer.enable_padding(length=12, pad_id=tokenizer.token_to_id("<pad>"), pad_token="<pad>")
    return tokenizer


def sentence_piece():
    """Unigram in T5's way: spaces become words' beginnings, `</s>` is put behind, unknown characters are `<unk>`."""
    # Pieces are counted here: the library's trainer gives other scores each time.
    words = [f"\u2581{word}" for text in CORPUS for word in text.split()]
    counts = collections.Counter(word for word in words if len(word) < 6)
    counts.update(char for word in words for char in word)
    counts.update(word[at:at + 2] for word in words for at in range(1, len(word) - 1))
    best = sorted(counts.items(), key=lambda piece: (-piece[1], piece[0]))[:147]
    total = sum(counts.values())
    special = ["<pad>", "</s>", "<unk>"]
    vocabulary = [(piece, 0.0) for piece in special] + [(piece, round(math.log(n / total), 4)) for piece, n in best]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(added())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))])
    return tokenizer


def character_bpe():
    """BPE over characters with byte fallback and a beginning, in Llama's way."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, show_progress=False, special_tokens=special)
    tokenizer.train_from_iterator([text.replace(" ", "\u2581") for text in CORPUS], trainer)
    document = json.loads(tokenizer.to_str())
    # The byte tokens are the model's, not texts to be found.
    document["added_tokens"] = [token for token in document["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.add_tokens(added())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def noise(seed, count):
    """Seeded texts of pieces that meet in odd places."""
    draw = random.Random(seed)
    pieces = [text for text in TEXTS if 0 < len(text) < 30] + ["".join(map(chr, range(first, first + 8))) for first in
              (0x20, 0x41, 0x61, 0x30, 0xC0, 0x300, 0x400, 0x600, 0x900, 0x3040, 0x4E00, 0xAC00, 0x1F600, 0x2000)]
    return ["".join(draw.choice(pieces) for _ in range(draw.randrange(1, 9))) for _ in range(count)]


def make(out):
    for name, build in [("byte-level", byte_level), ("sentence-piece", sentence_piece), ("character-bpe", character_bpe)]:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        build().save(str(folder / "tokenizer.json"), pretty=False)
        fast = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        with open(folder / "cases.jsonl", "w", encoding="ascii", newline="\n") as file:
            for text in TEXTS + noise(name, 60):
                print(json.dumps({"text": text, "tokens": fast(text)["input_ids"]}, separators=(",", ":")), file=file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with what is committed")
    if not parser.parse_args().check:
        make(HERE)
        return 0
    with tempfile.TemporaryDirectory() as made:
        made = pathlib.Path(made)
        make(made)
        names = [path.relative_to(made) for path in sorted(made.rglob("*.json*"))]
        differ = [name for name in names if not filecmp.cmp(made / name, HERE / name, shallow=False)]
    print("\n".join(f"differs: {name}" for name in differ) or f"{len(names)} files are as committed")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
