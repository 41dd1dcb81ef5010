"""Makes a Sidereal export of a Hugging Face directory and an item file.

    python tools/python/convert.py MODEL --items index.json --out EXPORT
    python tools/python/convert.py MODEL --items items.csv --out EXPORT --goldens 8 --histories users.jsonl --activations
    sidereal check EXPORT

MODEL is what `save_pretrained` wrote: config.json, safetensors, and the tokenizer's files. The tokens that spell semantic IDs are found
in the tokenizer; a model without one needs --codes and --first-tokens. The item file may be items.jsonl, items.csv, an index.json, or
OpenOneRec's sid2pid.json. Weights and config.json are carried over unchanged. Everything but --goldens runs on Python's standard
library. docs/export-format.md describes what is written.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import convert_items
import convert_manifest
import convert_tokens
from convert_errors import Refused
from convert_source import Source

CARRIED = ("config.json", "tokenizer.json")


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="Tokens are ids or token texts between spaces, e.g. "
                                     "'151644 <|sid_begin|>', or text:SOME TEXT for the tokenizer to cut.")
    add = parser.add_argument
    add("model", type=pathlib.Path, help="Hugging Face directory")
    add("--items", type=pathlib.Path, required=True, help="item file: .jsonl, .csv, index.json or sid2pid.json")
    add("--info", type=pathlib.Path, help="titles beside an index.json: MiniOneRec's info.txt")
    add("--out", type=pathlib.Path, required=True, help="directory to write; must not exist")
    add("--name", help="name of the model (default: the directory's)")
    add("--version", default="1", help="version of the model (default: 1)")
    add("--link", action="store_true", help="link to the weights instead of copying them")
    add("--sidereal", help="the sidereal program: builds catalog.sid instead of leaving items.jsonl")
    sid = parser.add_argument_group("semantic IDs")
    sid.add_argument("--sid-pattern", help="regular expression of their tokens, with groups (?P<level>..) and (?P<code>..)")
    sid.add_argument("--codes", type=numbers, help="codes of each level, e.g. 256,256,256 (default: one more than the largest token)")
    sid.add_argument("--first-tokens", type=numbers, help="without a tokenizer: the token of code 0 of each level, e.g. 3,259,515")
    sid.add_argument("--fill-gaps", action="store_true", help="codes without a token, which no item has, get unrelated tokens")
    prompt = parser.add_argument_group("prompt and score")
    for option, what in (("--prompt-prefix", "before the first item"), ("--item-prefix", "before each item"), ("--item-suffix", "after each item"),
                         ("--prompt-suffix", "after the last item"), ("--decoder-prefix", "what the decoder begins with"),
                         ("--end", "after the last level")):
        prompt.add_argument(option, metavar="TOKENS", help=f"tokens {what}")
    prompt.add_argument("--end-scored", action="store_true", help="the end tokens count in the score")
    prompt.add_argument("--max-items", type=int, help="the newest items kept")
    prompt.add_argument("--score", choices=("full_then_mask", "mask_then_norm", "level_norm"), default="full_then_mask")
    prompt.add_argument("--length-penalty", type=float, default=0.0)
    golden = parser.add_argument_group("goldens (need torch and transformers)")
    golden.add_argument("--goldens", type=int, default=0, metavar="N", help="record N prompts with their results")
    golden.add_argument("--histories", type=pathlib.Path, help='real histories, {"items": [..]} a line (default: random items)')
    golden.add_argument("--beams", type=numbers, default=[4, 32, 1, 64], help="beam widths, in turn (default: 4,32,1,64)")
    golden.add_argument("--activations", action="store_true", help="also what every module computes for the shortest of them")
    golden.add_argument("--seed", type=int, default=1)
    golden.add_argument("--threads", type=int, default=1)
    return parser.parse_args(argv)


def numbers(text):
    return [int(part) for part in text.split(",")]


def spelling_of(args, source, vocabulary, levels):
    """The spelling of semantic IDs: found in the tokenizer, or declared."""
    if args.first_tokens:
        if not args.codes:
            raise Refused("--first-tokens needs --codes")
        spelling = convert_tokens.declared(args.first_tokens, args.codes)
    elif vocabulary:
        spelling = convert_tokens.find(vocabulary, levels, args.sid_pattern)
    else:
        raise Refused(f"{source.folder}: no tokenizer: give --first-tokens and --codes")
    convert_tokens.check_vocabulary(spelling, source.vocabulary_size)
    return spelling


def tokenizer_of(source):
    """A function from text to tokens, or None where tokenizer.json or the package is missing."""
    path = source.folder / "tokenizer.json"
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    return (lambda text: Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).ids) if path.is_file() else None


def carry(source, out, link):
    """config.json, weights and tokenizer.json, unchanged."""
    for name in (*CARRIED, *source.weights):
        path = source.folder / name
        if path.is_file():
            if link and name.endswith(".safetensors"):
                os.symlink(path.resolve(), out / name)
            else:
                shutil.copyfile(path, out / name)


def write_catalogue(args, out, rows):
    convert_items.write(rows, out / "items.jsonl")
    if args.sidereal:
        command = [args.sidereal, "catalog", "build", "--from", out / "items.jsonl", "--out", out / "catalog.sid", "--manifest", out / "sidereal.json"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise Refused(f"{args.sidereal} catalog build: {ran.stderr.strip()}")
        (out / "items.jsonl").unlink()


def read_histories(path):
    try:
        return [json.loads(line)["items"] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f'{path}: expected {{"items": [..]}} a line: {error}') from None


def write_goldens(args, out, manifest, spelling, rows):
    try:
        import convert_goldens
    except ImportError as error:
        raise Refused(f"--goldens needs torch and transformers ({error}): pip install -r tools/python/requirements.txt") from None
    args.histories = args.histories and read_histories(args.histories)
    return convert_goldens.write(out, manifest, spelling, rows, args)


def export(args, out):
    """Writes everything into the empty directory `out`. -> what to tell"""
    source = Source(args.model)
    rows = convert_items.read(args.items, args.info)
    vocabulary = convert_tokens.vocabulary(source.folder)
    spelling = spelling_of(args, source, vocabulary, len(rows[0]["sid"]))
    # Items come first: a code of theirs that has no token is an error whatever the gaps are filled with.
    convert_items.resolve(rows, spelling, args.items)
    if args.fill_gaps and args.score == "level_norm":
        raise Refused("--fill-gaps: level_norm counts every code of a level, unrelated tokens too: add the missing tokens to the tokenizer instead")
    convert_tokens.close_gaps(spelling, args.codes, range(source.vocabulary_size) if args.fill_gaps else None)
    manifest = convert_manifest.build(args, source, spelling, vocabulary, tokenizer_of(source))
    carry(source, out, args.link)
    convert_manifest.write(manifest, out / "sidereal.json")
    write_catalogue(args, out, rows)
    cases = write_goldens(args, out, manifest, spelling, rows) if args.goldens else 0
    return f"{len(rows)} items, levels of {spelling.codes} codes, {cases} goldens"


def main(argv=None):
    args = arguments(argv)
    try:
        if args.out.exists():
            raise Refused(f"{args.out} exists: an export is never changed in place; name a new directory")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all.
        with tempfile.TemporaryDirectory(prefix=f".{args.out.name}.", dir=args.out.parent) as partial:
            partial = pathlib.Path(partial) / args.out.name
            partial.mkdir()
            told = export(args, partial)
            partial.rename(args.out)
    except Refused as refusal:
        print(f"convert: {refusal}", file=sys.stderr)
        return 1
    print(f"{args.out}: {told}; now run `sidereal check {args.out}`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
