"""Tests of the Python client: the committed vectors, and a live server where SIDEREAL_ADDRESS names one.

    python3 -m unittest discover -s tools/python -p 'test_sidereal_client.py'

A live server with a secret: SIDEREAL_SECRET. The history asked for is SIDEREAL_ITEMS (default 1,2,3).
"""

import contextlib
import io
import json
import os
import random
import socket
import struct
import threading
import unittest
from dataclasses import asdict
from pathlib import Path

import sidereal_client as sidereal

VECTORS = Path(__file__).resolve().parents[2] / "tests" / "wire" / "vectors"


def vectors():
    """(vector, bytes) of every file."""
    for path in sorted(VECTORS.glob("*.json")):
        for vector in json.loads(path.read_text())["vectors"]:
            yield vector, bytes.fromhex("".join(vector["hex"]))


def decode(data, limit=4 << 20):
    """The one frame of `data`, read as a stream that ends behind it."""
    reader = sidereal.FrameReader(limit)
    reader.push(data)
    frame = reader.next()
    if frame is None:
        reader.end()
    return frame


def bits(value):
    return struct.unpack("<I", struct.pack("<f", value))[0]


def number(bits_of):
    return struct.unpack("<f", struct.pack("<I", bits_of))[0]


def references(items, keys):
    return {"ids": items or []} if keys is None else {"keys": keys}


def shown(items):
    return [{"id": item.id, "key": item.key, "title": item.title} for item in items]


def meaning(frame):
    """A frame as the vectors write it."""
    kind, request_id, said = frame
    if kind == "RECOMMEND":
        whole = {name: getattr(said, name) for name in ("tokens", "text") if getattr(said, name) is not None}
        history = whole or references(said.items, said.keys)
        names = ("beams", "top", "max_items_per_sid", "deny_history", "strict", "with_text", "deadline_us", "user",
                 "view", "scenario", "log_probs", "lists")
        sample = None if said.sample is None else {
            "kind": said.sample.kind, "seed": said.sample.seed, "temperature_bits": bits(said.sample.temperature)}
        trigger = {name: value for name, value in (("id", said.trigger_item), ("key", said.trigger_key))
                   if value is not None} or None
        return {"kind": kind, "id": request_id, "history": history, "deny": references(said.deny_items, said.deny_keys),
                "sample": sample, "trigger": trigger,
                "instructions": [
                    {"name": name, "id": value} if isinstance(value, int)
                    else {"name": name, "bits": [bits(element) for element in value]}
                    for name, value in said.instructions.items()],
                **{name: getattr(said, name) for name in names}}
    if kind == "RECOMMENDATION":
        results = [{"sid": ranked.sid, "score_bits": ranked.score_bits,
                    "key_bits": None if ranked.key is None else bits(ranked.key),
                    "log_probs_bits": [[bits(value) for value in pair] for pair in ranked.log_probs],
                    "items": shown(ranked.items),
                    "entries": [{"sid": entry.sid, "items": shown(entry.items)} for entry in ranked.entries]}
                   for ranked in said.results]
        return {"kind": kind, "id": said.id, "results": results, "unknown_items": said.unknown_items,
                "instructions": [asdict(used) for used in said.instructions],
                "prompt_tokens": said.prompt_tokens, "provenance": said.provenance, "timings": said.timings,
                "policy": said.policy}
    said = {name: value.hex() if isinstance(value, bytes) else value for name, value in said.items()}
    belongs_to_connection = kind in ("HELLO", "HELLO_OK", "CHALLENGE", "AUTH", "GOODBYE", "ERROR")
    return {"kind": kind, **({} if belongs_to_connection else {"id": request_id}), **said}


def encode(message):
    """The bytes of a message as the vectors write it: from its JSON, not from what was decoded."""
    message = dict(message)
    kind, request_id = message.pop("kind"), message.pop("id", 0)
    if kind == "RECOMMEND":
        history, deny, sample = message.pop("history"), message.pop("deny"), message.pop("sample")
        if sample:
            sample = sidereal.Sampling(sample["kind"], sample["seed"], number(sample["temperature_bits"]))
        trigger = message.pop("trigger") or {}
        instructions = {given["name"]: given["id"] if "id" in given else [number(of) for of in given["bits"]]
                        for given in message.pop("instructions")}
        return sidereal.encode_recommend(request_id, sidereal.Request(
            trigger_item=trigger.get("id"), trigger_key=trigger.get("key"), instructions=instructions,
            tokens=history.get("tokens"), text=history.get("text"), items=history.get("ids"), keys=history.get("keys"),
            deny_items=deny.get("ids"), deny_keys=deny.get("keys"), sample=sample, **message))
    if kind == "RECOMMENDATION":
        results = [sidereal.Ranked(ranked["sid"], 0.0, ranked["score_bits"],
                                   [sidereal.Item(**item) for item in ranked["items"]],
                                   None if ranked["key_bits"] is None else number(ranked["key_bits"]),
                                   [[number(value) for value in pair] for pair in ranked["log_probs_bits"]],
                                   [sidereal.Entry(entry["sid"], [sidereal.Item(**item) for item in entry["items"]])
                                    for entry in ranked["entries"]])
                   for ranked in message.pop("results")]
        message["instructions"] = [sidereal.InstructionUsed(**used) for used in message["instructions"]]
        return sidereal.encode_recommendation(sidereal.Recommendation(request_id, results, **message))
    for name in ("nonce", "proof"):
        if name in message:
            message[name] = bytes.fromhex(message[name])
    return sidereal.encode(kind, request_id, **message)


class Vectors(unittest.TestCase):
    def test_there_are_some(self):
        self.assertGreater(sum(1 for _ in vectors()), 60)

    def test_decode(self):
        for vector, data in vectors():
            with self.subTest(vector["name"]):
                if "error" in vector:
                    with self.assertRaises(sidereal.WireError) as caught:
                        decode(data, vector["limit"])
                    self.assertEqual(caught.exception.name, vector["error"])
                    self.assertEqual(caught.exception.breaks_framing, vector["breaks_framing"])
                else:
                    self.assertEqual(meaning(decode(data)), vector["message"])

    def test_encode(self):
        for vector, data in vectors():
            if "message" in vector and not vector.get("decode_only"):
                with self.subTest(vector["name"]):
                    self.assertEqual(encode(vector["message"]).hex(), data.hex())

    def test_proof(self):
        [auth] = [vector for vector, _ in vectors() if vector["name"] == "auth"]
        proof = sidereal.prove(auth["secret"].encode(), bytes.fromhex(auth["nonce"]))
        self.assertEqual(proof.hex(), auth["message"]["proof"])
        self.assertEqual(sidereal.CONTEXT.decode(), auth["context"])

    def test_any_cut_of_the_stream(self):
        good = [(vector, data) for vector, data in vectors() if "message" in vector]
        stream = b"".join(data for _, data in good)
        for seed in range(5):
            chance, reader, frames, at = random.Random(seed), sidereal.FrameReader(), [], 0
            while at < len(stream):
                size = chance.choice([1, 7, 100, 1000])
                reader.push(stream[at:at + size])
                at += size
                while (frame := reader.next()) is not None:
                    frames.append(meaning(frame))
            self.assertEqual(frames, [vector["message"] for vector, _ in good])

    def test_mutations_raise_wire_errors_only(self):
        chance = random.Random(1)
        for _, data in vectors():
            for _ in range(20):
                payload = bytearray(data[28:])
                for _ in range(chance.randrange(1, 4) if payload else 0):
                    payload[chance.randrange(len(payload))] = chance.randrange(256)
                for kind in sidereal.KIND_CODES:
                    with contextlib.suppress(sidereal.WireError):
                        sidereal.decode_payload(kind, 1, bytes(payload))


class Checksum(unittest.TestCase):
    def test_known_values(self):
        self.assertEqual(sidereal.crc32c(b""), 0)
        self.assertEqual(sidereal.crc32c(b"123456789"), 0xE3069283)
        self.assertEqual(sidereal.crc32c(bytes(32)), 0x8A9136AA)
        self.assertEqual(sidereal.crc32c(b"\xff" * 32), 0x62A8AB43)


class StandIn:
    """A server of one connection that follows a script: a function of (receive, send)."""

    def __init__(self, script):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run, args=(script,), daemon=True)
        self.thread.start()

    def run(self, script):
        stream, _ = self.listener.accept()
        reader = sidereal.FrameReader()

        def receive():
            while (frame := reader.next()) is None:
                data = stream.recv(4096)
                if not data:
                    return None
                reader.push(data)
            return frame

        with stream:
            script(receive, stream.sendall)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.thread.join(10)
        self.listener.close()


HELLO_OK = sidereal.encode(
    "HELLO_OK",
    facts={"model": "m@1", "catalog": "1", "device": "none", "dtype": "f32", "levels": [4, 4], "max_beams": 8,
           "max_prompt_tokens": 16},
    bounds={"max_frame_bytes": 1 << 20, "max_in_flight": 4, "idle_timeout_us": 1})


def answer(request_id, score=-1.5):
    bits = struct.unpack("<I", struct.pack("<f", score))[0]
    ranked = sidereal.Ranked([1, 2], score, bits, [sidereal.Item(9, "k", "Title")])
    return sidereal.Recommendation(request_id, [ranked], 1, 2)


class Conversations(unittest.TestCase):
    def test_out_of_order_answers(self):
        def script(receive, send):
            receive(), send(HELLO_OK)
            ids = [receive()[1] for _ in range(3)]
            send(b"".join(sidereal.encode_recommendation(answer(to)) for to in reversed(ids)))
            ping = receive()[1]
            send(sidereal.encode("PONG", ping))

        with StandIn(script) as server, sidereal.Client(server.address, timeout=10) as client:
            ids = [client.send(sidereal.Request(items=[1])) for _ in range(3)]
            self.assertGreater(client.ping(), 0)  # The answers overtake the PONG and are kept.
            self.assertEqual([client.receive()[0] for _ in ids], ids[::-1])
            self.assertEqual(client.hello["facts"]["levels"], [4, 4])

    def test_refusals_faults_and_ends(self):
        def script(receive, send):
            receive(), send(HELLO_OK)
            send(sidereal.encode("REFUSAL", receive()[1], code=5, message="3 ms left, 9 ms needed"))
            send(sidereal.encode("GOODBYE"))
            send(sidereal.encode_recommendation(answer(receive()[1])))
            send(sidereal.encode("ERROR", code=7, message="nothing was asked"))

        with StandIn(script) as server, sidereal.Client(server.address, timeout=10) as client:
            with self.assertRaises(sidereal.Refused) as caught:
                client.recommend(sidereal.Request(items=[1]))
            self.assertEqual(caught.exception.code_name, "DEADLINE")
            self.assertEqual(client.recommend(sidereal.Request(items=[1])).results[0].items[0].title, "Title")
            self.assertTrue(client.server_leaves)
            with self.assertRaises(sidereal.ServerFault) as caught:
                client.receive()
            self.assertEqual(caught.exception.code_name, "IDLE")
            with self.assertRaises(sidereal.ConnectionEnded):
                client.receive()

    def test_challenge(self):
        nonce = bytes(range(32))

        def script(receive, send):
            receive(), send(sidereal.encode("CHALLENGE", nonce=nonce))
            good = (frame := receive()) and frame[2]["proof"] == sidereal.prove(b"the secret of this test", nonce)
            send(HELLO_OK if good else sidereal.encode("ERROR", code=5, message="wrong"))

        with StandIn(script) as server, sidereal.Client(server.address, b"the secret of this test", 10):
            pass
        with StandIn(script) as server, self.assertRaises(sidereal.ServerFault):
            sidereal.Client(server.address, b"another secret of this test", 10)
        with StandIn(lambda receive, send: (receive(), send(sidereal.encode("CHALLENGE", nonce=nonce)))) as server:
            with self.assertRaisesRegex(sidereal.SiderealError, "shared secret"):
                sidereal.Client(server.address, None, 10)

    def test_a_timeout_loses_nothing(self):
        go = threading.Event()

        def script(receive, send):
            receive(), send(HELLO_OK)
            frame = sidereal.encode_recommendation(answer(receive()[1]))
            send(frame[:40])
            go.wait(10)
            send(frame[40:])

        with StandIn(script) as server, sidereal.Client(server.address, timeout=10) as client:
            asked = client.send(sidereal.Request(items=[1]))
            client.timeout = 0.05
            with self.assertRaises(sidereal.TimedOut):
                client.receive()
            client.timeout = 10
            go.set()
            self.assertEqual(client.receive()[0], asked)

    def test_command(self):
        def script(receive, send):
            receive(), send(HELLO_OK)
            _, asked, request = receive()
            assert (request.items, request.beams, request.top, request.deadline_us) == ([1, 2], 5, 3, 1500)
            send(sidereal.encode_recommendation(answer(asked)))

        arguments = ["--items", "1,2", "--beams", "5", "--top", "3", "--deadline-ms", "1.5"]
        for extra in ([], ["--json"]):
            out = io.StringIO()
            with StandIn(script) as server, contextlib.redirect_stdout(out):
                self.assertEqual(sidereal.main(["--address", server.address, *arguments, *extra]), 0)
            self.assertIn("Title", out.getvalue())
        self.assertEqual(json.loads(out.getvalue())["results"][0]["score"], -1.5)
        error = io.StringIO()
        with contextlib.redirect_stderr(error):
            self.assertEqual(sidereal.main(["--address", "nonsense", "--items", "1"]), 3)
        self.assertIn("HOST:PORT", error.getvalue())

    def test_what_is_left_out_is_the_scenario_s(self):
        for said, expected in (({}, (50, 10)), ({"scenario": 0}, (0, 0)), ({"scenario": 3, "beams": 7}, (7, 0)),
                               ({"scenario": 3, "top": 4}, (0, 4)), ({"beams": 0, "top": 5}, (0, 5))):
            frame = sidereal.encode_recommend(1, sidereal.Request(items=[1], **said))
            request = sidereal.decode_payload("RECOMMEND", 1, frame[28:])
            self.assertEqual((request.beams, request.top), expected, said)

    def test_contradictory_requests(self):
        for request in (sidereal.Request(), sidereal.Request(items=[], keys=[]),
                        sidereal.Request(items=[1], deny_items=[1], deny_keys=["a"])):
            with self.assertRaises(ValueError):
                sidereal.encode_recommend(1, request)


@unittest.skipUnless(os.environ.get("SIDEREAL_ADDRESS"), "SIDEREAL_ADDRESS names no live server")
class LiveServer(unittest.TestCase):
    def setUp(self):
        secret = os.environ.get("SIDEREAL_SECRET")
        self.client = sidereal.Client(os.environ["SIDEREAL_ADDRESS"], secret and secret.encode(), 30)
        self.addCleanup(self.client.close)
        items = [int(item) for item in os.environ.get("SIDEREAL_ITEMS", "1,2,3").split(",")]
        self.request = sidereal.Request(items=items, beams=10, top=5)

    def test_recommend_ping_stats(self):
        answer = self.client.recommend(self.request)
        self.assertLessEqual(len(answer.results), 5)
        scores = [ranked.score for ranked in answer.results]
        self.assertEqual(scores, sorted(scores, reverse=True))
        self.assertGreater(self.client.ping(), 0)
        self.assertIn("requests_accepted", self.client.stats()["server"])

    def test_pipelining_answers_each_once(self):
        ids = {self.client.send(self.request) for _ in range(50)}
        answers = dict(self.client.receive() for _ in range(50))
        self.assertEqual(answers.keys(), ids)

    def test_a_bad_request_leaves_the_connection(self):
        bad = sidereal._frame("RECOMMEND", 999, [("SEARCH", 1, b"short")])
        self.client._write(bad)
        asked, refusal = self.client.receive()
        self.assertEqual((asked, refusal.code_name), (999, "BAD_REQUEST"))
        self.client.recommend(self.request)


if __name__ == "__main__":
    unittest.main()
