"""Item files: which item has which semantic ID. Codes are numbers, or tokens that the tokenizer knows.

Read are JSON lines, CSV, the `index.json` of LETTER, MiniOneRec and LC-Rec (with titles from MiniOneRec's info.txt), and OpenOneRec's
`sid2pid.json`; docs/catalog-format.md describes them. What is written is `items.jsonl`, with codes. Finer checks of a catalogue are
`sidereal catalog build`'s business.
"""
import csv
import json
import re

from convert_errors import Refused
from convert_source import read_json

PACKED = [8192, 8192, 8192]  # OpenOneRec
OPTIONAL = ("weight", "key", "title")


def read(path, info=None):
    """-> [{"item", "sid": [code or token], "weight"?, "key"?, "title"?}], places for messages being "PATH, item ID"."""
    titles = read_titles(info) if info else {}
    if path.suffix in (".jsonl", ".ndjson"):
        rows = json_lines(path)
    elif path.suffix == ".csv":
        rows = csv_rows(path)
    elif path.suffix == ".json":
        rows = json_object(path)
    else:
        raise Refused(f"{path}: expected .jsonl, .csv or .json; write one of them")
    if not rows:
        raise Refused(f"{path}: no items")
    levels, seen = len(rows[0]["sid"]), set()
    for row in rows:
        if len(row["sid"]) != levels:
            raise Refused(f"{path}, item {row['item']}: {len(row['sid'])} codes, items before it have {levels}")
        if row["item"] in seen:
            raise Refused(f"{path}: item {row['item']} is given twice")
        seen.add(row["item"])
        if title := titles.pop(row["item"], None):
            row["title"] = title
    if titles:
        raise Refused(f"{info}: item {min(titles)} is not in {path}: titles of another catalogue?")
    if not 2 <= levels <= 8:
        raise Refused(f"{path}, item {rows[0]['item']}: {levels} codes; 2 to 8 levels are served")
    return rows


def whole(text, where):
    try:
        number = int(text)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number < 1 << 64:
        raise Refused(f"{where}: {text!r}: expected a whole number from 0 to {(1 << 64) - 1}")
    return number


def code_or_token(told):
    return int(told) if isinstance(told, str) and told.isdecimal() else told


def json_lines(path):
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if unknown := sorted(set(row) - {"item", "sid", *OPTIONAL}):
                raise ValueError(f"unknown key {unknown[0]}")
            rows.append({"item": whole(row["item"], f"{path}, line {number}"), "sid": [code_or_token(code) for code in row["sid"]]}
                        | {key: row[key] for key in OPTIONAL if row.get(key) is not None})
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"{path}, line {number}: expected {{\"item\": 1, \"sid\": [3, 17, 44]}}: {error}") from None
    return rows


def csv_rows(path):
    with open(path, newline="", encoding="utf-8-sig") as f:
        reader = csv.DictReader(f)
        names = reader.fieldnames or []
        columns = sorted(name for name in names if re.fullmatch(r"sid\d", name))
        known = {"item", *OPTIONAL, *(f"sid{level}" for level in range(len(columns)))}
        if "item" not in names or not columns or len(set(names)) != len(names) or set(names) - known:
            raise Refused(f"{path}: expected a header item,sid0,sid1,..[,weight][,key][,title]")
        rows = []
        for row in reader:
            told = {"item": whole(row["item"], f"{path}, line {reader.line_num}"), "sid": [code_or_token(row[c]) for c in columns]}
            told |= {key: row[key] for key in ("key", "title") if row.get(key)}
            if row.get("weight"):
                try:
                    told["weight"] = float(row["weight"])
                except ValueError:
                    raise Refused(f"{path}, line {reader.line_num}: weight {row['weight']!r}: expected a number") from None
            rows.append(told)
    return rows


def json_object(path):
    """`index.json`, or packed integers where an entry's list holds objects."""
    told = read_json(path)
    if not isinstance(told, dict):
        raise Refused(f"{path}: expected an object of item ids and token lists")
    rows = []
    for name, entry in told.items():
        if not isinstance(entry, list):
            raise Refused(f"{path}, entry {name}: expected a list")
        if entry and isinstance(entry[0], dict):
            sid = unpack(whole(name, f"{path}, key"), f"{path}, key {name}")
            rows += [{"item": whole(e.get("pid", e.get("iid")), f"{path}, key {name}"), "sid": sid, "weight": e.get("count", 0)} for e in entry]
        elif entry:
            rows.append({"item": whole(name, f"{path}, entry"), "sid": [code_or_token(token) for token in entry]})
    return rows


def unpack(packed, where):
    sid, rest = [], packed
    for codes in reversed(PACKED):
        sid.insert(0, rest % codes)
        rest //= codes
    if rest:
        raise Refused(f"{where}: too large for {len(PACKED)} levels of {PACKED[0]}")
    return sid


def read_titles(path):
    """MiniOneRec's info.txt: tokens, tab, title, tab, item."""
    titles = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        parts = line.rstrip("\r").split("\t")
        if line.strip():
            if len(parts) < 3:
                raise Refused(f"{path}, line {number}: expected tokens, tab, title, tab, item")
            titles[whole(parts[-1], f"{path}, line {number}")] = "\t".join(parts[1:-1])
    return titles


def resolve(rows, spelling, path):
    """Tokens become codes, and every code is one that has a token."""
    for row in rows:
        where = f"{path}, item {row['item']}"
        row["sid"] = [spelling.code(level, told, where) for level, told in enumerate(row["sid"])]


def write(rows, path):
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
