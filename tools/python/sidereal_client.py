#!/usr/bin/env python3
"""A client of Sidereal's wire protocol, version 1, in one file of standard-library Python.

    with Client("127.0.0.1:7070") as client:
        answer = client.recommend(Request(items=[1, 2, 3], beams=50, top=10))
        for ranked in answer.results:
            print(ranked.score, ranked.sid, [item.id for item in ranked.items])

Many requests may be in flight: `send` returns at once, `receive` brings the next answer in whatever order the server
gives them. A refusal is raised by `recommend` and returned by `receive`. `docs/protocol.md` has every byte; the vectors in
`tests/wire/vectors` prove that this file and the server agree on them.

As a command:

    python sidereal_client.py --address 127.0.0.1:7070 --items 1,2,3 --beams 50 --top 10
"""

import argparse
import hashlib
import hmac
import json
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field

MAGIC = b"SDRL"
VERSION = 1
HEADER_BYTES = 28
CONTEXT = b"sidereal wire 1 client"
MAX_REPLY_BYTES = 64 << 20
ABSENT = 0xFFFFFFFF

KINDS = {
    1: "HELLO", 2: "HELLO_OK", 3: "CHALLENGE", 4: "AUTH",
    16: "RECOMMEND", 17: "RECOMMENDATION", 18: "REFUSAL", 19: "CANCEL",
    32: "PING", 33: "PONG", 34: "STATS", 35: "STATS_REPLY", 48: "GOODBYE", 49: "ERROR",
}
KIND_CODES = {name: code for code, name in KINDS.items()}

TAGS = {
    0x0001: "CLIENT", 0x0002: "NONCE", 0x0003: "PROOF", 0x0010: "FACTS", 0x0011: "BOUNDS",
    0x0020: "ENGINE_STATS", 0x0021: "SERVER_STATS",
    0x0100: "SEARCH", 0x0101: "HISTORY_TOKENS", 0x0102: "HISTORY_IDS", 0x0103: "HISTORY_KEYS",
    0x0104: "DENY_IDS", 0x0105: "DENY_KEYS", 0x0106: "MAX_ITEMS_PER_SID", 0x0107: "DEADLINE",
    0x0108: "USER", 0x0109: "VIEW", 0x010A: "SCENARIO", 0x010B: "SAMPLE", 0x010C: "HISTORY_TEXT",
    0x010F: "INSTRUCTIONS", 0x0110: "TRIGGER_ID", 0x0111: "LIST", 0x0112: "TRIGGER_KEY",
    0x0200: "SUMMARY", 0x0201: "RESULTS", 0x0202: "ITEM_TEXT", 0x0203: "PROVENANCE", 0x0204: "TIMINGS",
    0x0205: "LEVEL_LOGPROBS", 0x0206: "SAMPLE_KEYS", 0x0207: "INSTRUCTIONS_USED", 0x0209: "LISTS", 0x020A: "POLICY",
    0x0300: "REASON", 0x0301: "FAULT",
}
TAG_CODES = {name: code for code, name in TAGS.items()}

REFUSALS = dict(enumerate(
    ["BAD_REQUEST", "UNKNOWN_ITEM", "TOO_LONG", "OVERLOADED", "DEADLINE", "CANCELLED", "SHUTTING_DOWN",
     "DEVICE_FAILED", "UNSUPPORTED"], start=1))
FAULTS = dict(enumerate(
    ["BAD_FRAME", "BAD_VERSION", "FRAME_TOO_LARGE", "UNEXPECTED_FRAME", "AUTH_FAILED", "TOO_MANY_CONNECTIONS", "IDLE",
     "STALLED", "SHUTTING_DOWN"], start=1))
SAMPLING_KINDS = ("independent", "distinct")  # the position is the wire code
ORIGINS = ("given", "stored", "missing", "expired", "unavailable", "unusable")  # likewise
TIMINGS = ("resolve_us", "queue_us", "prefill_us", "search_us", "expand_us", "total_us")


# -- Errors -----------------------------------------------------------------------------------------------------------

class SiderealError(Exception):
    """Anything that goes wrong here."""


class WireError(SiderealError):
    """Bytes that are not the protocol. `name` is the error's name, the same in every implementation."""

    BREAKS_FRAMING = {"BadMagic", "BadVersion", "BadHeaderCrc", "FrameTooLarge", "BadPayloadCrc", "Truncated"}

    def __init__(self, name, text):
        super().__init__(f"{name}: {text}")
        self.name = name

    @property
    def breaks_framing(self):
        """True when nothing behind this frame can be read either."""
        return self.name in self.BREAKS_FRAMING


class Refused(SiderealError):
    """The server's answer to a request that it does not fulfil: `code_name` such as DEADLINE, and a message."""

    def __init__(self, code, message):
        super().__init__(f"{REFUSALS[code]}: {message}")
        self.code, self.code_name, self.message = code, REFUSALS[code], message


class ServerFault(SiderealError):
    """The server ends the connection and says why."""

    def __init__(self, code, message):
        super().__init__(f"the server ended the connection: {FAULTS[code]}: {message}")
        self.code, self.code_name, self.message = code, FAULTS[code], message


class ConnectionEnded(SiderealError):
    """The connection broke, or the server closed it."""


class TimedOut(SiderealError):
    """Nothing came in time. What has arrived of a frame is kept: the next call goes on with it."""


# -- What is asked and answered ---------------------------------------------------------------------------------------

@dataclass
class Sampling:
    """Draw semantic IDs instead of searching for the best: "independent" sequences, or "distinct" ones."""

    kind: str
    seed: int
    temperature: float = 1.0


@dataclass
class Request:
    """One of `tokens` (the complete prompt), `text` (the same for the export's tokenizer), `items` (numeric ids) and `keys`
    (string keys), oldest first. `beams` and `top` that are not given are the scenario's, or 50 and 10 where none is named."""

    items: list | None = None
    keys: list | None = None
    tokens: list | None = None
    text: str | None = None
    beams: int | None = None
    top: int | None = None
    max_items_per_sid: int | None = None
    deny_items: list | None = None
    deny_keys: list | None = None
    deny_history: bool = False
    strict: bool = False
    with_text: bool = False
    deadline_us: int | None = None
    user: str | None = None
    view: str | None = None
    scenario: int | None = None
    trigger_item: int | None = None  # the item that the shopper acts on, by id or by key
    trigger_key: str | None = None
    instructions: dict = field(default_factory=dict)  # name -> a vector (list of numbers) or an id (int)
    sample: Sampling | None = None
    log_probs: bool = False
    lists: int | None = None  # lists of so many semantic IDs instead of single ones


@dataclass
class Item:
    """An item; key and title when asked for and present."""

    id: int
    key: str | None = None
    title: str | None = None


@dataclass
class Entry:
    """A semantic ID of a list with its items, heaviest first."""

    sid: list
    items: list


@dataclass
class Ranked:
    """A semantic ID with its score (and that score's bits, as computed) and its items, heaviest first; or, where lists were asked
    for, the entries of one, with no semantic ID and items of its own."""

    sid: list
    score: float
    score_bits: int
    items: list
    key: float | None = None  # perturbed log-probability of a distinct sample
    log_probs: list = field(default_factory=list)  # (behaviour, raw) of each level and scored end token
    entries: list = field(default_factory=list)

    def every_item(self):
        """Its items, or those of its entries, in order."""
        return self.items + [item for entry in self.entries for item in entry.items]


@dataclass
class InstructionUsed:
    """Where an instruction of the decoder's prompt came from; the version is the store's."""

    name: str
    origin: str  # one of ORIGINS; all but the first two mean that the export's default was used
    version: int | None = None


@dataclass
class Recommendation:
    """A successful answer, best first."""

    id: int
    results: list
    unknown_items: int
    prompt_tokens: int
    provenance: dict = field(default_factory=lambda: dict.fromkeys(("model", "catalog", "device", "dtype"), ""))
    timings: dict = field(default_factory=lambda: dict.fromkeys(TIMINGS, 0))
    instructions: list = field(default_factory=list)
    policy: dict = field(default_factory=lambda: {"number": 0, "version": ""})  # the weights that computed it


# -- Checksum ---------------------------------------------------------------------------------------------------------

def _crc_tables():
    """Slicing by 8: table k moves a byte k places further."""
    first = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        first.append(value)
    tables = [first]
    for _ in range(7):
        tables.append([first[value & 255] ^ (value >> 8) for value in tables[-1]])
    return tables


_CRC = _crc_tables()


def crc32c(data):
    """CRC-32C (Castagnoli) of `data`."""
    crc = 0xFFFFFFFF
    t0, t1, t2, t3, t4, t5, t6, t7 = _CRC
    whole = len(data) & ~7
    for low, high in struct.iter_unpack("<II", data[:whole]):
        low ^= crc
        crc = (t7[low & 255] ^ t6[(low >> 8) & 255] ^ t5[(low >> 16) & 255] ^ t4[low >> 24]
               ^ t3[high & 255] ^ t2[(high >> 8) & 255] ^ t1[(high >> 16) & 255] ^ t0[high >> 24])
    for byte in data[whole:]:
        crc = (crc >> 8) ^ t0[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


# -- Encoding ---------------------------------------------------------------------------------------------------------

def _frame(kind, request_id, sections=()):
    payload = b"".join(
        struct.pack("<HHI", TAG_CODES[tag], required, len(value)) + value for tag, required, value in sections)
    head = struct.pack("<4sBBHQII", MAGIC, VERSION, KIND_CODES[kind], 0, request_id, len(payload), crc32c(payload))
    return head + struct.pack("<I", crc32c(head)) + payload


def _text(value):
    value = value.encode()
    return struct.pack("<I", len(value)) + value


def _texts(values):
    return struct.pack("<I", len(values)) + b"".join(map(_text, values))


def _optional_text(value):
    return struct.pack("<I", ABSENT) if value is None else _text(value)


def _instructions(values):
    parts = [struct.pack("<I", len(values))]
    for name, value in values.items():
        parts.append(_text(name))
        if isinstance(value, int):
            parts.append(struct.pack("<II", 1, value))
        else:
            parts.append(struct.pack(f"<II{len(value)}f", 0, len(value), *value))
    return b"".join(parts)


def encode_recommend(request_id, request):
    """The RECOMMEND frame of a `Request`."""
    sources = [request.tokens, request.items, request.keys, request.text]
    if sum(source is not None for source in sources) != 1:
        raise ValueError("a request has exactly one of tokens, items, keys and text")
    if request.deny_items is not None and request.deny_keys is not None:
        raise ValueError("a request denies items by id or by key, not both")
    if request.trigger_item is not None and request.trigger_key is not None:
        raise ValueError("a request has one trigger, by id or by key")
    options = request.deny_history | request.strict << 1 | request.with_text << 2 | request.log_probs << 3
    # 0 stands for the scenario's own.
    beams, top = (50, 10) if request.scenario is None else (0, 0)
    beams = beams if request.beams is None else request.beams
    top = top if request.top is None else request.top
    sections = [("SEARCH", 1, struct.pack("<III", beams, top, options))]
    if request.tokens is not None:
        sections.append(("HISTORY_TOKENS", 1, struct.pack(f"<{len(request.tokens)}I", *request.tokens)))
    elif request.items is not None:
        sections.append(("HISTORY_IDS", 1, struct.pack(f"<{len(request.items)}Q", *request.items)))
    elif request.keys is not None:
        sections.append(("HISTORY_KEYS", 1, _texts(request.keys)))
    if request.deny_items:
        sections.append(("DENY_IDS", 1, struct.pack(f"<{len(request.deny_items)}Q", *request.deny_items)))
    if request.deny_keys is not None:
        sections.append(("DENY_KEYS", 1, _texts(request.deny_keys)))
    if request.max_items_per_sid is not None:
        sections.append(("MAX_ITEMS_PER_SID", 1, struct.pack("<I", request.max_items_per_sid)))
    if request.deadline_us is not None:
        sections.append(("DEADLINE", 1, struct.pack("<Q", request.deadline_us)))
    if request.user is not None:
        sections.append(("USER", 0, request.user.encode()))
    if request.view is not None:
        sections.append(("VIEW", 1, request.view.encode()))
    if request.scenario is not None:
        sections.append(("SCENARIO", 1, struct.pack("<I", request.scenario)))
    if request.sample is not None:
        said = request.sample
        sections.append(("SAMPLE", 1, struct.pack("<IfQ", SAMPLING_KINDS.index(said.kind), said.temperature, said.seed)))
    if request.text is not None:
        sections.append(("HISTORY_TEXT", 1, request.text.encode()))
    if request.instructions:
        sections.append(("INSTRUCTIONS", 1, _instructions(request.instructions)))
    if request.trigger_item is not None:
        sections.append(("TRIGGER_ID", 1, struct.pack("<Q", request.trigger_item)))
    if request.lists is not None:
        sections.append(("LIST", 1, struct.pack("<I", request.lists)))
    if request.trigger_key is not None:
        sections.append(("TRIGGER_KEY", 1, request.trigger_key.encode()))
    return _frame("RECOMMEND", request_id, sections)


def encode_recommendation(answer):
    """The RECOMMENDATION frame of a `Recommendation`: for tests and stand-in servers."""
    lists = any(ranked.entries for ranked in answer.results)
    results = [struct.pack("<I", len(answer.results))]
    for ranked in answer.results:
        results.append(struct.pack("<I", ranked.score_bits))
        if lists:
            results.append(struct.pack("<I", len(ranked.entries)))
        for entry in ranked.entries if lists else [ranked]:
            results.append(struct.pack("<II", len(entry.sid), len(entry.items)))
            results.append(struct.pack(f"<{len(entry.sid)}H", *entry.sid))
            results.append(struct.pack(f"<{len(entry.items)}Q", *(item.id for item in entry.items)))
    items = [item for ranked in answer.results for item in ranked.every_item()]
    sections = [("SUMMARY", 1, struct.pack("<II", answer.unknown_items, answer.prompt_tokens))]
    if not lists:
        sections.append(("RESULTS", 1, b"".join(results)))
    if any(item.key is not None or item.title is not None for item in items):
        texts = [_optional_text(text) for item in items for text in (item.key, item.title)]
        sections.append(("ITEM_TEXT", 0, b"".join(texts)))
    made = answer.provenance
    sections.append(("PROVENANCE", 0, b"".join(_text(made[name]) for name in ("model", "catalog", "device", "dtype"))))
    sections.append(("TIMINGS", 0, struct.pack("<6I", *(answer.timings[name] for name in TIMINGS))))
    steps = min((len(ranked.log_probs) for ranked in answer.results), default=0)
    if steps:
        pairs = [value for ranked in answer.results for pair in ranked.log_probs[:steps] for value in pair]
        sections.append(("LEVEL_LOGPROBS", 0, struct.pack(f"<I{len(pairs)}f", steps, *pairs)))
    keys = [ranked.key for ranked in answer.results if ranked.key is not None]
    if keys and len(keys) == len(answer.results):
        sections.append(("SAMPLE_KEYS", 0, struct.pack(f"<{len(keys)}f", *keys)))
    if answer.instructions:
        used = [_text(used.name) + struct.pack("<IIQ", ORIGINS.index(used.origin), used.version is not None, used.version or 0)
                for used in answer.instructions]
        sections.append(("INSTRUCTIONS_USED", 0, struct.pack("<I", len(used)) + b"".join(used)))
    if lists:
        sections.append(("LISTS", 1, b"".join(results)))
    if any(answer.policy.values()):
        number, version = answer.policy["number"], answer.policy["version"]
        sections.append(("POLICY", 0, struct.pack("<Q", number) + _text(version)))
    return _frame("RECOMMENDATION", answer.id, sections)


def encode(kind, request_id=0, **values):
    """Any other frame: `encode("PING", 7)`, `encode("ERROR", code=1, message="..")`."""
    if kind == "HELLO" and values.get("client") is not None:
        return _frame(kind, 0, [("CLIENT", 0, values["client"].encode())])
    if kind == "CHALLENGE":
        return _frame(kind, 0, [("NONCE", 1, values["nonce"])])
    if kind == "AUTH":
        return _frame(kind, 0, [("PROOF", 1, values["proof"])])
    if kind == "REFUSAL":
        reason = struct.pack("<H", values["code"]) + values["message"].encode()
        return _frame(kind, request_id, [("REASON", 1, reason)])
    if kind == "ERROR":
        return _frame(kind, 0, [("FAULT", 1, struct.pack("<H", values["code"]) + values["message"].encode())])
    if kind == "STATS_REPLY":
        return _frame(kind, request_id, [
            ("ENGINE_STATS", 0, values["engine"].encode()), ("SERVER_STATS", 0, values["server"].encode())])
    if kind == "HELLO_OK":
        facts, bounds = values["facts"], values["bounds"]
        levels = facts["levels"]
        return _frame(kind, 0, [
            ("FACTS", 0, b"".join(_text(facts[name]) for name in ("model", "catalog", "device", "dtype"))
             + struct.pack(f"<III{len(levels)}I", facts["max_beams"], facts["max_prompt_tokens"], len(levels), *levels)),
            ("BOUNDS", 0, struct.pack(
                "<IIQ", bounds["max_frame_bytes"], bounds["max_in_flight"], bounds["idle_timeout_us"])),
        ])
    return _frame(kind, request_id)


def prove(secret, nonce):
    """The answer to a CHALLENGE."""
    return hmac.new(secret, nonce + CONTEXT, hashlib.sha256).digest()


# -- Decoding ---------------------------------------------------------------------------------------------------------

class _Fields:
    """A cursor over a section's value; errors name the section and the payload offset."""

    def __init__(self, tag, start, value):
        self.tag, self.start, self.value, self.at = tag, start, value, 0

    def fail(self, name, text, at=None):
        offset = self.start + (self.at if at is None else at)
        return WireError(name, f"section {self.tag} at payload offset {offset}: {text}")

    def take(self, count, what):
        left = len(self.value) - self.at
        if count > left:
            raise self.fail("FieldCut", f"expected {count} bytes of {what}, found {left}")
        self.at += count
        return self.value[self.at - count:self.at]

    def numbers(self, layout, what):
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout), what))

    def number(self, layout, what):
        return self.numbers(layout, what)[0]

    def count(self, least, what):
        at = self.at
        count = self.number("I", what)
        room = (len(self.value) - self.at) // least
        if count > room:
            raise self.fail("CountOverrun", f"{count} {what}, expected at most {room}", at)
        return count

    def array(self, layout, what):
        size = struct.calcsize("<" + layout)
        if (len(self.value) - self.at) % size:
            raise self.fail("BadLength", f"{len(self.value) - self.at} bytes long, expected a multiple of {size}")
        return list(self.numbers(f"{(len(self.value) - self.at) // size}{layout}", what))

    def utf8(self, count, what):
        at = self.at
        try:
            return self.take(count, what).decode()
        except UnicodeDecodeError as error:
            raise self.fail("BadUtf8", f"{what} is not UTF-8", at + error.start) from None

    def text(self, what):
        return self.utf8(self.number("I", what), what)

    def optional_text(self, what):
        length = self.number("I", what)
        return None if length == ABSENT else self.utf8(length, what)

    def texts(self, what):
        return [self.text(what) for _ in range(self.count(4, what))]

    def rest(self, what):
        return self.utf8(len(self.value) - self.at, what)

    def coded(self, codes):
        code = self.number("H", "the code")
        if code not in codes:
            raise self.fail("BadValue", f"the code is {code}, expected a code of this version", self.at - 2)
        return {"code": code, "code_name": codes[code], "message": self.rest("the message")}

    def end(self):
        if self.at < len(self.value):
            raise self.fail("TrailingBytes", f"{len(self.value) - self.at} bytes after its last field")


def _search(fields):
    beams, top = fields.number("I", "beams"), fields.number("I", "top")
    options = fields.number("I", "options")
    if options & ~15:
        raise fields.fail("BadValue", f"options is {options}, expected no bit above bit 3", fields.at - 4)
    return beams, top, options


def _sample(fields):
    kind = fields.number("I", "the kind")
    if kind >= len(SAMPLING_KINDS):
        raise fields.fail("BadValue", f"the kind is {kind}, expected 0 or 1", fields.at - 4)
    temperature = fields.number("f", "the temperature")
    return Sampling(SAMPLING_KINDS[kind], fields.number("Q", "the seed"), temperature)


def _read_instructions(fields):
    values = {}
    for _ in range(fields.count(12, "instructions")):
        name, kind = fields.text("a name"), fields.number("I", "a kind")
        if kind > 1:
            raise fields.fail("BadValue", f"a kind is {kind}, expected 0 or 1", fields.at - 4)
        if kind == 1:
            values[name] = fields.number("I", "an id")
        else:
            values[name] = list(fields.numbers(f"{fields.count(4, 'elements')}f", "elements"))
    return values


def _used(fields):
    used = []
    for _ in range(fields.count(20, "instructions")):
        name, origin = fields.text("a name"), fields.number("I", "an origin")
        if origin >= len(ORIGINS):
            raise fields.fail("BadValue", f"an origin is {origin}, expected 0 to 5", fields.at - 4)
        has_version = fields.number("I", "whether there is a version")
        if has_version > 1:
            raise fields.fail("BadValue", f"whether there is a version is {has_version}, expected 0 or 1", fields.at - 4)
        version = fields.number("Q", "a version")
        used.append(InstructionUsed(name, ORIGINS[origin], version if has_version else None))
    return used


def _score(fields):
    bits = fields.number("I", "a score")
    return struct.unpack("<f", struct.pack("<I", bits))[0], bits


def _entry(fields):
    levels, count = fields.number("I", "a level count"), fields.number("I", "an item count")
    sid = list(fields.numbers(f"{levels}H", "codes"))
    return Entry(sid, [Item(item) for item in fields.numbers(f"{count}Q", "item ids")])


def _results(fields):
    results = []
    for _ in range(fields.count(12, "results")):
        (score, bits), entry = _score(fields), _entry(fields)
        results.append(Ranked(entry.sid, score, bits, entry.items))
    return results


def _lists(fields):
    results = []
    for _ in range(fields.count(8, "lists")):
        score, bits = _score(fields)
        entries = [_entry(fields) for _ in range(fields.count(8, "entries"))]
        results.append(Ranked([], score, bits, [], entries=entries))
    return results


def _facts(fields):
    facts = {name: fields.text(name) for name in ("model", "catalog", "device", "dtype")}
    facts["max_beams"], facts["max_prompt_tokens"] = fields.number("I", "max beams"), fields.number("I", "max prompt tokens")
    facts["levels"] = list(fields.numbers(f"{fields.count(4, 'levels')}I", "levels"))
    return facts


def _bounds(fields):
    names = (("max_frame_bytes", "I"), ("max_in_flight", "I"), ("idle_timeout_us", "Q"))
    return {name: fields.number(layout, name) for name, layout in names}


_READERS = {
    "HELLO": {"CLIENT": lambda f: f.rest("the client")},
    "HELLO_OK": {"FACTS": _facts, "BOUNDS": _bounds},
    "CHALLENGE": {"NONCE": lambda f: f.take(32, "the nonce")},
    "AUTH": {"PROOF": lambda f: f.take(32, "the proof")},
    "RECOMMEND": {
        "SEARCH": _search,
        "HISTORY_TOKENS": lambda f: f.array("I", "tokens"),
        "HISTORY_IDS": lambda f: f.array("Q", "ids"),
        "HISTORY_KEYS": lambda f: f.texts("keys"),
        "HISTORY_TEXT": lambda f: f.rest("the prompt"),
        "DENY_IDS": lambda f: f.array("Q", "ids"),
        "DENY_KEYS": lambda f: f.texts("keys"),
        "MAX_ITEMS_PER_SID": lambda f: f.number("I", "the count"),
        "DEADLINE": lambda f: f.number("Q", "the microseconds"),
        "USER": lambda f: f.rest("the user"),
        "VIEW": lambda f: f.rest("the view"),
        "SCENARIO": lambda f: f.number("I", "the scenario"),
        "SAMPLE": _sample,
        "INSTRUCTIONS": _read_instructions,
        "TRIGGER_ID": lambda f: f.number("Q", "the item"),
        "TRIGGER_KEY": lambda f: f.rest("the item"),
        "LIST": lambda f: f.number("I", "the length"),
    },
    "RECOMMENDATION": {
        "SUMMARY": lambda f: (f.number("I", "unknown items"), f.number("I", "prompt tokens")),
        "RESULTS": _results,
        "LISTS": _lists,
        "ITEM_TEXT": None,  # Read behind the others: it needs the items.
        "PROVENANCE": lambda f: {name: f.text(name) for name in ("model", "catalog", "device", "dtype")},
        "POLICY": lambda f: {"number": f.number("Q", "the policy's number"), "version": f.text("the policy's version")},
        "TIMINGS": lambda f: {name: f.number("I", name) for name in TIMINGS},
        "LEVEL_LOGPROBS": None,  # These too: they need the results.
        "SAMPLE_KEYS": None,
        "INSTRUCTIONS_USED": _used,
    },
    "REFUSAL": {"REASON": lambda f: f.coded(REFUSALS)},
    "ERROR": {"FAULT": lambda f: f.coded(FAULTS)},
    "STATS_REPLY": {"ENGINE_STATS": lambda f: f.rest("the text"), "SERVER_STATS": lambda f: f.rest("the text")},
}
_EXCLUSIVE = ({"HISTORY_TOKENS", "HISTORY_IDS", "HISTORY_KEYS", "HISTORY_TEXT"}, {"DENY_IDS", "DENY_KEYS"},
              {"TRIGGER_ID", "TRIGGER_KEY"}, {"RESULTS", "LISTS"})


def _sections(kind, payload):
    """The sections of a payload, read: name -> value."""
    readers = _READERS.get(kind, {})
    found, at = {}, 0
    while at < len(payload):
        start, left = at, len(payload) - at
        if left < 8:
            raise WireError("SectionHeaderCut", f"payload offset {at}: expected an 8-byte section header, found {left}")
        code, flags, length = struct.unpack_from("<HHI", payload, at)
        tag = TAGS.get(code, f"{code:#06x}")
        where = f"section {tag} at payload offset {start}"
        if flags & ~1:
            raise WireError("UnknownSectionFlags", f"{where}: unknown flags {flags:#06x}, expected 0 or 1")
        if length > left - 8:
            raise WireError("SectionOverrun", f"{where}: {length} bytes long, expected at most the {left - 8} left")
        at += 8 + length
        if tag not in readers:
            if flags:
                raise WireError("UnknownRequired", f"{where} is required and unknown in a {kind} frame")
            continue
        fields = _Fields(tag, start + 8, payload[start + 8:at])
        value = fields
        if readers[tag]:
            value = readers[tag](fields)
            fields.end()
        if tag in found:
            raise WireError("DuplicateSection", f"{where} appears a second time")
        for group in _EXCLUSIVE:
            if tag in group and group & found.keys():
                raise WireError("ConflictingSections", f"{where} contradicts section {(group & found.keys()).pop()}")
        found[tag] = value
    return found


def _need(kind, found, *tags):
    for tag in tags:
        if tag in found:
            return found[tag]
    raise WireError("MissingSection", f"frame {kind}: expected section {' or '.join(tags)}, found none")


def _read_request(found):
    beams, top, options = _need("RECOMMEND", found, "SEARCH")
    _need("RECOMMEND", found, "HISTORY_TOKENS", "HISTORY_IDS", "HISTORY_KEYS", "HISTORY_TEXT")
    return Request(
        tokens=found.get("HISTORY_TOKENS"), items=found.get("HISTORY_IDS"), keys=found.get("HISTORY_KEYS"),
        text=found.get("HISTORY_TEXT"),
        beams=beams, top=top, max_items_per_sid=found.get("MAX_ITEMS_PER_SID"),
        deny_items=found.get("DENY_IDS"), deny_keys=found.get("DENY_KEYS"),
        deny_history=bool(options & 1), strict=bool(options & 2), with_text=bool(options & 4),
        deadline_us=found.get("DEADLINE"), user=found.get("USER"), view=found.get("VIEW"),
        scenario=found.get("SCENARIO"), trigger_item=found.get("TRIGGER_ID"), trigger_key=found.get("TRIGGER_KEY"),
        instructions=found.get("INSTRUCTIONS", {}), sample=found.get("SAMPLE"), log_probs=bool(options & 8),
        lists=found.get("LIST"))


def _read_recommendation(request_id, found):
    unknown_items, prompt_tokens = _need("RECOMMENDATION", found, "SUMMARY")
    answer = Recommendation(request_id, _need("RECOMMENDATION", found, "RESULTS", "LISTS"), unknown_items, prompt_tokens)
    answer.provenance = found.get("PROVENANCE", answer.provenance)
    answer.timings = found.get("TIMINGS", answer.timings)
    answer.instructions = found.get("INSTRUCTIONS_USED", [])
    answer.policy = found.get("POLICY", answer.policy)
    if text := found.get("ITEM_TEXT"):
        for ranked in answer.results:
            for item in ranked.every_item():
                item.key, item.title = text.optional_text("a key"), text.optional_text("a title")
        text.end()
    if fields := found.get("LEVEL_LOGPROBS"):
        steps = fields.count(8, "steps")
        for ranked in answer.results:
            values = fields.numbers(f"{2 * steps}f", "log-probabilities")
            ranked.log_probs = list(zip(values[::2], values[1::2]))
        fields.end()
    if fields := found.get("SAMPLE_KEYS"):
        for ranked in answer.results:
            ranked.key = fields.number("f", "a key")
        fields.end()
    return answer


def decode_payload(kind, request_id, payload):
    """What a frame says: a `Request`, a `Recommendation`, or a dict."""
    found = _sections(kind, payload)
    if kind == "RECOMMEND":
        return _read_request(found)
    if kind == "RECOMMENDATION":
        return _read_recommendation(request_id, found)
    if kind == "HELLO":
        return {"client": found.get("CLIENT")}
    if kind == "HELLO_OK":
        return {"facts": _need(kind, found, "FACTS"), "bounds": _need(kind, found, "BOUNDS")}
    if kind == "CHALLENGE":
        return {"nonce": _need(kind, found, "NONCE")}
    if kind == "AUTH":
        return {"proof": _need(kind, found, "PROOF")}
    if kind == "REFUSAL":
        return _need(kind, found, "REASON")
    if kind == "ERROR":
        return _need(kind, found, "FAULT")
    if kind == "STATS_REPLY":
        return {"engine": found.get("ENGINE_STATS", ""), "server": found.get("SERVER_STATS", "")}
    return {}


class FrameReader:
    """Cuts a byte stream into frames, however the bytes arrive."""

    def __init__(self, limit=MAX_REPLY_BYTES):
        self.buffer, self.limit = bytearray(), limit

    def push(self, data):
        """Adds bytes that arrived."""
        self.buffer += data

    def _header(self):
        data = self.buffer
        if data[:4] != MAGIC[:len(data)]:
            raise WireError("BadMagic", f"header offset 0: expected 53 44 52 4c, found {bytes(data[:4]).hex(' ')}")
        if len(data) > 4 and data[4] != VERSION:
            raise WireError("BadVersion", f"header offset 4: expected protocol version 1, found {data[4]}")
        if len(data) < HEADER_BYTES:
            return None
        _, _, kind, flags, request_id, length, crc, header_crc = struct.unpack_from("<4sBBHQIII", data)
        if header_crc != crc32c(bytes(data[:24])):
            raise WireError("BadHeaderCrc", f"header offset 24: header CRC32C {header_crc:08x} is wrong")
        if length > self.limit:
            raise WireError("FrameTooLarge", f"header offset 16: payload of {length} bytes, expected at most {self.limit}")
        return kind, flags, request_id, length, crc

    def next(self):
        """The next frame as (kind, request id, meaning), or None until more bytes arrive."""
        header = self._header()
        if header is None:
            return None
        code, flags, request_id, length, crc = header
        if len(self.buffer) < HEADER_BYTES + length:
            return None
        payload = bytes(self.buffer[HEADER_BYTES:HEADER_BYTES + length])
        if crc != crc32c(payload):
            raise WireError("BadPayloadCrc", f"header offset 20: payload CRC32C {crc:08x} is wrong")
        del self.buffer[:HEADER_BYTES + length]
        if code not in KINDS:
            raise WireError("UnknownKind", f"header offset 5: unknown frame kind {code}")
        if flags:
            raise WireError("UnknownFlags", f"header offset 6: unknown frame flags {flags:#06x}, expected 0")
        return KINDS[code], request_id, decode_payload(KINDS[code], request_id, payload)

    def end(self):
        """What the end of the stream means now."""
        if self.buffer:
            header = self._header()
            need = HEADER_BYTES + (header[3] if header else 0)
            raise WireError("Truncated", f"the stream ended inside a frame: {len(self.buffer)} of {need} bytes came")


# -- The client -------------------------------------------------------------------------------------------------------

def _connect(address, timeout):
    path = address.removeprefix("unix:")
    try:
        if path != address or "/" in address:
            stream = socket.socket(socket.AF_UNIX)
            stream.settimeout(timeout)
            stream.connect(path)
            return stream
        host, _, port = address.rpartition(":")
        stream = socket.create_connection((host.strip("[]"), int(port)), timeout)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return stream
    except ValueError:
        raise ConnectionEnded(f"`{address}` is not an address: expected HOST:PORT, or unix:PATH") from None
    except OSError as error:
        raise ConnectionEnded(f"cannot connect to {address}: {error}") from error


class Client:
    """A connection. Not safe to share between threads."""

    def __init__(self, address, secret=None, timeout=60.0, name="sidereal-python 1"):
        self.timeout = timeout
        self.server_leaves = False
        self._frames, self._early, self._next_id = FrameReader(), deque(), 1
        self._stream = _connect(address, timeout)
        try:
            self.hello = self._shake_hands(secret, name)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends the connection; what is in flight is cancelled."""
        self._stream.close()

    def _shake_hands(self, secret, name):
        self._write(encode("HELLO", client=name))
        kind, _, said = self._wait("HELLO_OK", lambda kind, *_: True)
        if kind == "CHALLENGE":
            if secret is None:
                raise SiderealError("the server wants a proof of the shared secret: give `secret`")
            self._write(encode("AUTH", proof=prove(secret, said["nonce"])))
            kind, _, said = self._wait("HELLO_OK", lambda kind, *_: True)
        if kind != "HELLO_OK":
            raise SiderealError(f"unexpected {kind} frame, expected HELLO_OK")
        return said

    def _write(self, data):
        try:
            self._stream.settimeout(self.timeout)
            self._stream.sendall(data)
        except TimeoutError:
            raise TimedOut(f"no room to send within {self.timeout} s") from None
        except OSError as error:
            raise ConnectionEnded(f"the connection broke while sending: {error}") from error

    def _wait(self, expected, want):
        """Receives until `want(kind, id, meaning)`; answers that it leaves are kept for `receive`."""
        until = None if self.timeout is None else time.monotonic() + self.timeout
        while True:
            while (frame := self._frames.next()) is not None:
                kind, request_id, said = frame
                if kind == "ERROR":
                    raise ServerFault(said["code"], said["message"])
                if want(kind, request_id, said):
                    return frame
                if kind in ("RECOMMENDATION", "REFUSAL"):
                    self._early.append(frame)
                elif kind == "GOODBYE":
                    self.server_leaves = True
                elif kind not in ("PONG", "STATS_REPLY"):
                    raise SiderealError(f"unexpected {kind} frame, expected {expected}")
            self._fill(expected, until)

    def _fill(self, expected, until):
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            raise TimedOut(f"no {expected} within {self.timeout} s")
        try:
            self._stream.settimeout(left)
            data = self._stream.recv(1 << 16)
        except TimeoutError:
            raise TimedOut(f"no {expected} within {self.timeout} s") from None
        except OSError as error:
            raise ConnectionEnded(f"the connection broke while receiving: {error}") from error
        if not data:
            self._frames.end()
            raise ConnectionEnded(f"the server closed the connection while {expected} was expected")
        self._frames.push(data)

    def _take_id(self):
        self._next_id += 1
        return self._next_id - 1

    @staticmethod
    def _answer(frame):
        kind, request_id, said = frame
        return request_id, said if kind == "RECOMMENDATION" else Refused(said["code"], said["message"])

    def send(self, request, request_id=None):
        """Sends a request and returns its id; the answer comes from `receive`."""
        request_id = self._take_id() if request_id is None else request_id
        self._write(encode_recommend(request_id, request))
        return request_id

    def receive(self):
        """The next answer to any request in flight: (id, `Recommendation` or `Refused`)."""
        if self._early:
            return self._answer(self._early.popleft())
        return self._answer(self._wait("answer", lambda kind, *_: kind in ("RECOMMENDATION", "REFUSAL")))

    def recommend(self, request):
        """Sends a request and returns its `Recommendation`; raises `Refused`."""
        asked = self.send(request)
        frame = self._wait("answer", lambda kind, to, _: to == asked and kind in ("RECOMMENDATION", "REFUSAL"))
        answer = self._answer(frame)[1]
        if isinstance(answer, Refused):
            raise answer
        return answer

    def cancel(self, request_id):
        """Asks for a request to be dropped; it is still answered."""
        self._write(encode("CANCEL", request_id))

    def ping(self):
        """Seconds of a round trip."""
        asked, start = self._take_id(), time.perf_counter()
        self._write(encode("PING", asked))
        self._wait("PONG", lambda kind, to, _: (kind, to) == ("PONG", asked))
        return time.perf_counter() - start

    def stats(self):
        """Counters: {"engine": .., "server": ..}."""
        asked = self._take_id()
        self._write(encode("STATS", asked))
        said = self._wait("STATS_REPLY", lambda kind, to, _: (kind, to) == ("STATS_REPLY", asked))[2]
        return {name: json.loads(text) for name, text in said.items() if text}

    def goodbye(self):
        """Says that no request will follow; those in flight are still answered."""
        self._write(encode("GOODBYE"))


# -- The command ------------------------------------------------------------------------------------------------------

def _numbers(text):
    return [int(part) for part in text.split(",") if part]


def _words(text):
    return text.split(",") if text else []


def _arguments(arguments):
    parser = argparse.ArgumentParser(description="Ask a Sidereal server for recommendations.")
    parser.add_argument("--address", default="127.0.0.1:7070", help="HOST:PORT or unix:PATH (default: %(default)s)")
    parser.add_argument("--secret-file", help="file with the shared secret")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    history = parser.add_mutually_exclusive_group()
    history.add_argument("--items", type=_numbers, help="history as numeric ids, oldest first: 1,2,3")
    history.add_argument("--keys", type=_words, help="history as string keys, oldest first: a,b,c")
    history.add_argument("--tokens", type=_numbers, help="complete prompt as token ids")
    history.add_argument("--prompt", help="complete prompt as text, for the export's tokenizer")
    parser.add_argument("--beams", type=int, help="default: the scenario's, or 50")
    parser.add_argument("--top", type=int, help="semantic IDs to return; default: the scenario's, or 10")
    parser.add_argument("--max-items-per-sid", type=int)
    parser.add_argument("--deny", type=_numbers, help="numeric ids that must not be recommended")
    parser.add_argument("--deny-keys", type=_words, help="string keys that must not be recommended")
    parser.add_argument("--deny-history", action="store_true")
    parser.add_argument("--strict", action="store_true", help="refuse unknown items instead of skipping them")
    parser.add_argument("--text", action="store_true", help="ask for keys and titles")
    parser.add_argument("--deadline-ms", type=float)
    parser.add_argument("--user")
    parser.add_argument("--view")
    parser.add_argument("--scenario", type=int, help="scenario of the export that says what is left open")
    parser.add_argument("--trigger", type=int, help="the item that the shopper acts on, by numeric id")
    parser.add_argument("--instructions", type=json.loads, default={}, metavar="JSON",
                        help='values of instructions: {"NAME": [0.5, ..]} or {"NAME": 3}')
    parser.add_argument("--sample", choices=SAMPLING_KINDS, help="draw instead of search")
    parser.add_argument("--seed", type=int, default=0, help="of --sample")
    parser.add_argument("--temperature", type=float, default=1.0, help="of --sample")
    parser.add_argument("--list", type=int, metavar="N", help="lists of N semantic IDs instead of single ones")
    parser.add_argument("--log-probs", action="store_true", help="ask for log-probabilities of each level")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--ping", type=int, metavar="COUNT", help="measure round trips instead")
    parser.add_argument("--stats", action="store_true", help="print the server's counters instead")
    return parser, parser.parse_args(arguments)


def _print_answer(answer):
    for rank, ranked in enumerate(answer.results, start=1):
        head = f"{rank:>3}  {ranked.score:>10.4f}"
        for entry in ranked.entries or [ranked]:
            items = ", ".join(f"{item.id}" + (f" {item.title or item.key}" if item.title or item.key else "")
                              for item in entry.items)
            print(f"{head}  {'.'.join(map(str, entry.sid)):<18} {items}")
            head = " " * len(head)
    made, spent = answer.provenance, answer.timings
    print(f"{made['model']} on {made['device']} ({made['dtype']}), catalogue {made['catalog']}; "
          f"{answer.prompt_tokens} prompt tokens, {answer.unknown_items} unknown items; {spent['total_us'] / 1000:.2f} ms")


def main(arguments=None):
    """The command; returns its exit code: 0 good, 1 refused, 2 usage, 3 environment."""
    parser, chosen = _arguments(arguments)
    asks = [chosen.items, chosen.keys, chosen.tokens, chosen.prompt]
    if not (chosen.ping or chosen.stats or any(ask is not None for ask in asks)):
        parser.error("one of --items, --keys, --tokens, --prompt, --ping and --stats is needed")
    if chosen.deny is not None and chosen.deny_keys is not None:
        parser.error("--deny and --deny-keys exclude each other")
    try:
        secret = None
        if chosen.secret_file:
            with open(chosen.secret_file, "rb") as file:
                secret = file.read().strip()
        with Client(chosen.address, secret, chosen.timeout) as client:
            if chosen.stats:
                print(json.dumps(client.stats(), indent=2))
            elif chosen.ping:
                times = sorted(client.ping() * 1e6 for _ in range(chosen.ping))
                print(f"{len(times)} round trips, us: min {times[0]:.0f}, "
                      f"median {times[len(times) // 2]:.0f}, max {times[-1]:.0f}")
            else:
                deadline_us = None if chosen.deadline_ms is None else int(chosen.deadline_ms * 1000)
                sample = None if chosen.sample is None else Sampling(chosen.sample, chosen.seed, chosen.temperature)
                answer = client.recommend(Request(
                    items=chosen.items, keys=chosen.keys, tokens=chosen.tokens, text=chosen.prompt,
                    beams=chosen.beams, top=chosen.top,
                    max_items_per_sid=chosen.max_items_per_sid, deny_items=chosen.deny, deny_keys=chosen.deny_keys,
                    deny_history=chosen.deny_history, strict=chosen.strict, with_text=chosen.text,
                    deadline_us=deadline_us, user=chosen.user, view=chosen.view, scenario=chosen.scenario,
                    trigger_item=chosen.trigger, instructions=chosen.instructions,
                    sample=sample, log_probs=chosen.log_probs, lists=chosen.list))
                if chosen.json:
                    print(json.dumps(asdict(answer)))
                else:
                    _print_answer(answer)
        return 0
    except Refused as refusal:
        print(f"refused: {refusal}", file=sys.stderr)
        return 1
    except (SiderealError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
