"""The tokens that spell semantic IDs, found in a tokenizer's files: which code of which level each one is.

Three spellings are known: `<a_12>` and `<s_a_12>`, where the letter is the level, and `<|sid_12|>`, where codes of level l are at
l * K + c. Any other is named by a pattern. The order in which tokens were added does not matter: tokenizers that added them in
lexical order have `<a_10>` before `<a_2>`. A level has codes 0, 1, 2, .. without gap; what does not fit is said by level and code.
Only JSON is read: no tokenizer library is needed.
"""
import re

from convert_errors import Refused
from convert_source import read_json

STYLES = {
    "<a_12>": r"<(?P<level>[a-z])_(?P<code>\d+)>",
    "<s_a_12>": r"<s_(?P<level>[a-z])_(?P<code>\d+)>",
    "<|sid_12|>": r"<\|sid_(?P<code>\d+)\|>",
}
LEVELS = range(2, 9)
MAX_CODES = 65536


def vocabulary(folder):
    """-> {token text: id} of every file that has some, or {} where the directory has no tokenizer."""
    tokens, owner = {}, {}
    for name, entries in files(folder):
        for text, token in entries:
            if not isinstance(text, str) or not isinstance(token, int):
                raise Refused(f"{folder / name}: expected texts and ids of tokens, found {text!r} and {token!r}")
            if tokens.setdefault(text, token) != token:
                raise Refused(f"{folder / name}: token {text} is {token} here and {tokens[text]} elsewhere: files of two tokenizers")
            if owner.setdefault(token, text) != text:
                raise Refused(f"{folder / name}: tokens {owner[token]} and {text} are both {token}")
    return tokens


def files(folder):
    """(file name, [(text, id)]) of every file of a tokenizer."""
    if (folder / "tokenizer.json").is_file():
        tokenizer = read_json(folder / "tokenizer.json")
        pieces = tokenizer.get("model", {}).get("vocab", {})
        numbered = pieces.items() if isinstance(pieces, dict) else [(piece[0], at) for at, piece in enumerate(pieces)]
        yield "tokenizer.json", [*numbered, *((t.get("content"), t.get("id")) for t in tokenizer.get("added_tokens", []))]
    for name in ("vocab.json", "added_tokens.json"):
        if (folder / name).is_file():
            yield name, read_json(folder / name).items()
    if (folder / "tokenizer_config.json").is_file():
        added = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
        yield "tokenizer_config.json", [(token.get("content"), int(number)) for number, token in added.items()]


class Spelling:
    """`levels`: of each level {code: (token text, id)}."""

    def __init__(self, levels):
        self.levels = levels
        self.codes = [max(level) + 1 for level in levels]
        self.place = {text: (at, code) for at, level in enumerate(levels) for code, (text, _) in level.items() if text is not None}

    def tokens(self, level):
        """Token of every code of a level."""
        return [self.levels[level][code][1] for code in range(self.codes[level])]

    def code(self, level, told, where):
        """A code as an item file tells it: a number, or a token's text."""
        if isinstance(told, str) and told in self.place:
            found, told = self.place[told]
            if found != level:
                raise Refused(f"{where}, level {level}: token {self.levels[found][told][0]} is of level {found}")
        elif isinstance(told, str):
            told = self.code_in_other_words(level, told, where)
        if not isinstance(told, int) or isinstance(told, bool) or told < 0:
            raise Refused(f"{where}, level {level}: code {told!r}: expected a whole number or a token")
        if told not in self.levels[level]:
            raise Refused(f"{where}, level {level}: code {told} has no token: the tokenizer has codes 0 to {self.codes[level] - 1}")
        return told

    def code_in_other_words(self, level, told, where):
        """The code of `<a_12>` where the tokenizer spells it otherwise: index files keep that form whatever the model's tokens are."""
        match = re.fullmatch(STYLES["<a_12>"], told)
        if match is None:
            raise Refused(f"{where}, level {level}: token {told} is not in the tokenizer: is this the item file of another model?")
        if match["level"] != "abcdefgh"[level]:
            raise Refused(f"{where}, level {level}: token {told} is of level {match['level']}")
        if int(match["code"]) not in self.levels[level]:
            raise Refused(f"{where}, level {level}: token {told}: the tokenizer has no token for code {int(match['code'])}")
        return int(match["code"])


def declared(first_tokens, codes):
    """The spelling of a model without tokenizer: code c of level l is token first_tokens[l] + c."""
    if len(first_tokens) != len(codes):
        raise Refused(f"--first-tokens has {len(first_tokens)} levels and --codes {len(codes)}")
    return Spelling([{code: (None, first + code) for code in range(count)} for first, count in zip(first_tokens, codes)])


def find(tokens, levels, pattern=None):
    """The spelling in a vocabulary. `levels`: how many the item file has, which splits the numbers of `<|sid_12|>`."""
    found = matches(tokens, pattern)
    by_level = {}
    for text, (letter, code) in found.items():
        by_level.setdefault(letter, {}).setdefault(code, []).append(text)
    if None in by_level:
        if len(by_level) > 1:
            raise Refused("the pattern's group `level` matches some tokens and not others")
        by_level = split(by_level[None], levels)
    names = sorted(by_level, key=lambda name: (len(str(name)), str(name)))
    if len(names) != levels:
        raise Refused(f"the tokenizer has tokens of {len(names)} levels ({', '.join(map(str, names))}), the item file {levels}: "
                      "name the right ones with --sid-pattern")
    return Spelling([one_each(at, by_level[name], tokens) for at, name in enumerate(names)])


def matches(tokens, pattern):
    """{text: (level's name or None, code)} of the tokens that spell codes."""
    styles = {"--sid-pattern": pattern} if pattern else STYLES
    found = {}
    for style, expression in styles.items():
        compiled = re.compile(expression)
        if "code" not in compiled.groupindex:
            raise Refused("--sid-pattern needs a group (?P<code>..), and (?P<level>..) unless the level is in the number")
        hits = {text: match for text in tokens if (match := compiled.fullmatch(text))}
        if hits:
            found[style] = {text: (match.groupdict().get("level"), int(match["code"])) for text, match in hits.items()}
    if not found:
        raise Refused(f"no token spells a code ({', '.join(styles)}): name them with --sid-pattern, or give --first-tokens and --codes")
    if len(found) > 1:
        raise Refused(f"tokens of several spellings: {', '.join(found)}: name the right ones with --sid-pattern")
    return next(iter(found.values()))


def split(numbers, levels):
    """Numbers with the level's offset inside, level by level."""
    count = max(numbers) + 1
    if count % levels:
        raise Refused(f"numbers 0 to {count - 1} in the tokens do not divide into {levels} levels of equal size (level {(count - 1) * levels // count} "
                      "is cut short, or the item file has another number of levels)")
    codes = count // levels
    out = {level: {} for level in range(levels)}
    for number, texts in numbers.items():
        out[number // codes][number % codes] = texts
    for level in range(levels):
        if not out[level]:
            raise Refused(f"level {level} has no token: its numbers are {level * codes} to {(level + 1) * codes - 1}")
    return out


def one_each(level, codes, tokens):
    for code, texts in codes.items():
        if len(texts) > 1:
            raise Refused(f"level {level}, code {code}: spelled by {texts[0]} and {texts[1]}: one must go")
    if max(codes) >= MAX_CODES:
        raise Refused(f"level {level}, code {max(codes)}: codes are below {MAX_CODES}")
    return {code: (texts[0], tokens[texts[0]]) for code, texts in codes.items()}


def close_gaps(spelling, codes, fill):
    """Every level has all its codes (`codes`: declared sizes, or None). `fill`: ids for codes that no item may have, or None."""
    if codes and len(codes) != len(spelling.levels):
        raise Refused(f"--codes has {len(codes)} levels, the tokenizer {len(spelling.levels)}")
    for level, known in enumerate(spelling.levels):
        size = codes[level] if codes else spelling.codes[level]
        if spelling.codes[level] > size:
            raise Refused(f"level {level}: the tokenizer has code {spelling.codes[level] - 1}, --codes says {size}")
        missing = [code for code in range(size) if code not in known]
        if missing and fill is None:
            shown = ", ".join(map(str, missing[:8])) + (", .." if len(missing) > 8 else "")
            raise Refused(f"level {level}: code {missing[0]} has no token ({len(missing)} of {size} codes have none: {shown}): "
                          "the tokenizer lacks them; --fill-gaps puts unrelated tokens there if no item has these codes")
        taken = {token for _, token in known.values()}
        free = (token for token in fill or () if token not in taken)
        for code in missing:
            token = next(free, None)
            if token is None:
                raise Refused(f"level {level}, code {code}: no token is left to fill the gap with")
            known[code] = (None, token)
        spelling.codes[level] = size


def check_vocabulary(spelling, size):
    """Every token is one of the model's."""
    for level, codes in enumerate(spelling.levels):
        for code, (text, token) in sorted(codes.items()):
            if not 0 <= token < size:
                name = f" ({text})" if text else ""
                raise Refused(f"level {level}, code {code}: token {token}{name} is not one of the model's {size}: the embeddings were not "
                              "resized after the tokens were added")
