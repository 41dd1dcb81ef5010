"""`sidereal.json`: how semantic IDs are spelled, the prompt template, the score. Defaults come from the model and its tokenizer.

A decoder-only model that has `<|sid_begin|>` and `<|sid_end|>` is prompted as OpenOneRec's: each item, and the answer, between the two.
An encoder-decoder gets its end-of-sequence token behind the history and its start token before the answer, as in T5.
"""
import json

from convert_errors import Refused

BEGIN, END = "<|sid_begin|>", "<|sid_end|>"


def level(spelling, at):
    tokens = spelling.tokens(at)
    first = tokens[0]
    in_order = tokens == list(range(first, first + len(tokens)))
    return {"codes": len(tokens), "tokens": {"first": first} if in_order else {"list": tokens}}


def token_ids(text, vocabulary, option, tokenize=None):
    """Tokens of an option: ids and token texts between spaces, or, behind `text:`, text for the tokenizer to cut."""
    if text.startswith("text:"):
        if tokenize is None:
            raise Refused(f"{option}: text needs tokenizer.json and the package `tokenizers`; or name the tokens one by one")
        return tokenize(text.removeprefix("text:"))
    ids = []
    for word in text.split():
        token = vocabulary.get(word, int(word) if word.isdecimal() else None)
        if token is None:
            raise Refused(f"{option}: {word} is neither a token nor a number")
        ids.append(token)
    return ids


def one_id(config, key):
    """A token that config.json names; some files name a list of them."""
    value = config.get(key)
    value = value[0] if isinstance(value, list) and value else value
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []


def prompt_defaults(source, vocabulary):
    """-> (template, end tokens)"""
    if source.encoder_decoder:
        return {"suffix": one_id(source.config, "eos_token_id")}, []
    if BEGIN in vocabulary and END in vocabulary:
        begin, end = [vocabulary[BEGIN]], [vocabulary[END]]
        return {"item_prefix": begin, "item_suffix": end, "suffix": begin}, end
    return {}, []


def build(args, source, spelling, vocabulary, tokenize):
    """The manifest as a dict, in the order of docs/export-format.md."""
    ids = lambda text, option, default: default if text is None else token_ids(text, vocabulary, option, tokenize)
    template, end = prompt_defaults(source, vocabulary)
    manifest = {"sidereal": 1, "name": args.name or source.folder.resolve().name, "version": args.version}
    manifest["sid"] = {"levels": [level(spelling, at) for at in range(len(spelling.levels))]}
    pick = lambda name: ids(getattr(args, name), "--" + name.replace("_", "-"), template.get(name.removeprefix("prompt_"), []))
    manifest["prompt"] = {"prefix": pick("prompt_prefix"), "item": {"prefix": pick("item_prefix"), "suffix": pick("item_suffix")},
                          "suffix": pick("prompt_suffix")}
    if args.max_items:
        manifest["prompt"]["max_items"] = args.max_items
    if source.encoder_decoder:
        start = one_id(source.config, "decoder_start_token_id") or one_id(source.config, "pad_token_id")
        manifest["decoder_prefix"] = ids(args.decoder_prefix, "--decoder-prefix", start)
        if not manifest["decoder_prefix"]:
            raise Refused("config.json names no decoder_start_token_id: give --decoder-prefix")
    elif args.decoder_prefix:
        raise Refused("--decoder-prefix: this model has no decoder of its own: use --prompt-suffix")
    end = ids(args.end, "--end", end)
    if end:
        manifest["end"] = {"tokens": end, "scored": args.end_scored}
    elif args.end_scored:
        raise Refused("--end-scored: name the tokens with --end")
    if args.end_scored and args.score != "full_then_mask":
        raise Refused(f"--end-scored goes with full_then_mask, not {args.score}")
    manifest |= {"score": args.score, "length_penalty": args.length_penalty}
    check_tokens(manifest, source.vocabulary_size)
    return manifest


def check_tokens(manifest, size):
    """Every token of the template is one of the model's."""
    prompt = manifest["prompt"]
    lists = {"prompt.prefix": prompt["prefix"], "prompt.item.prefix": prompt["item"]["prefix"], "prompt.item.suffix": prompt["item"]["suffix"],
             "prompt.suffix": prompt["suffix"], "decoder_prefix": manifest.get("decoder_prefix", []), "end": manifest.get("end", {}).get("tokens", [])}
    for name, tokens in lists.items():
        for token in tokens:
            if token >= size:
                raise Refused(f"{name}: token {token} is not one of the model's {size}")


def prompt_tokens(manifest, spelling, sids):
    """The prompt of a history of semantic IDs, oldest first."""
    prompt = manifest["prompt"]
    tokens = list(prompt["prefix"])
    for sid in sids[-prompt["max_items"]:] if "max_items" in prompt else sids:
        tokens += prompt["item"]["prefix"] + [spelling.levels[at][code][1] for at, code in enumerate(sid)] + prompt["item"]["suffix"]
    return tokens + prompt["suffix"]


def write(manifest, path):
    """A list of numbers stays on one line. (A control character is in no name, so it marks the lists' places.)"""
    lists = []

    def hide(value):
        if isinstance(value, list) and all(isinstance(x, int) for x in value):
            lists.append(json.dumps(value))
            return f"\0{len(lists) - 1}"
        return {k: hide(v) for k, v in value.items()} if isinstance(value, dict) else [hide(v) for v in value] if isinstance(value, list) else value

    text = json.dumps(hide(manifest), indent=2, ensure_ascii=False)
    for at, line in enumerate(lists):
        text = text.replace(json.dumps(f"\0{at}"), line)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
