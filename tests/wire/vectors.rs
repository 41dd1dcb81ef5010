//! The committed byte-level examples: made here, read by every client's tests.
//!
//! A file is `{"about", "vectors": [..]}`. A vector has a `name`, an `about`, its bytes as `hex` (an array of strings: the
//! header first, then one string a section; blanks do not count) and either
//! * `message`: what the bytes mean. Encoding it gives exactly these bytes, unless `decode_only` is set; or
//! * `error`: the name of the error that decoding gives, with `text`, its message in this implementation, and
//!   `breaks_framing`. `limit` is the largest payload accepted.
//!
//! Scores are given as the bits of the f32, so that no reader rounds them.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use sidereal::request::{
    Entry, History, InstructionUsed, InstructionValue, Item, ItemRef, ItemRefs, Origin, Policy, Provenance, Ranked,
    Recommendation, Refusal, RefusalKind, Request, StageTimings,
};
use sidereal::sampling::{LogProb, Sampling, SamplingKind};
use sidereal::serve::ServerFacts;
use sidereal::serve::wire::*;

const LIMIT: usize = 4 << 20;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire/vectors")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(value: &Value) -> Vec<u8> {
    let text: String = value.as_array().unwrap().iter().flat_map(|line| line.as_str().unwrap().chars()).collect();
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Header, then a line for each section, as far as the sections make sense.
fn hex_lines(bytes: &[u8]) -> Vec<String> {
    let (header, payload) = bytes.split_at(bytes.len().min(HEADER_BYTES));
    let mut lines = vec![hex(header)];
    let mut at = 0;
    for section in Sections::new(payload).map_while(Result::ok) {
        at = section.offset + SECTION_HEADER_BYTES + section.value.len();
        lines.push(format!("{} {}", hex(&payload[section.offset..section.offset + 8]), hex(section.value)));
    }
    if at < payload.len() {
        lines.push(hex(&payload[at..]));
    }
    lines
}

fn items_json(items: &ItemRefs) -> Value {
    match items {
        ItemRefs::Ids(ids) => json!({ "ids": ids }),
        ItemRefs::Keys(keys) => json!({ "keys": keys }),
    }
}

fn shown_json(items: &[Item]) -> Vec<Value> {
    items.iter().map(|item| json!({ "id": item.id, "key": item.key, "title": item.title })).collect()
}

fn message_json(message: &Message) -> Value {
    let mut value = match message {
        Message::Hello { client } => json!({ "client": client }),
        Message::HelloOk(HelloOk { facts, bounds }) => json!({
            "facts": {
                "model": facts.model, "catalog": facts.catalog, "device": facts.device, "dtype": facts.dtype,
                "levels": facts.levels, "max_beams": facts.max_beams, "max_prompt_tokens": facts.max_prompt_tokens,
            },
            "bounds": {
                "max_frame_bytes": bounds.max_frame_bytes, "max_in_flight": bounds.max_in_flight,
                "idle_timeout_us": bounds.idle_timeout.as_micros() as u64,
            },
        }),
        Message::Challenge { nonce } => json!({ "nonce": hex(nonce) }),
        Message::Auth { proof } => json!({ "proof": hex(proof) }),
        Message::Recommend(request) => json!({
            "id": request.id,
            "history": match &request.history {
                History::Tokens(tokens) => json!({ "tokens": tokens }),
                History::Items(items) => items_json(items),
                History::Text(text) => json!({ "text": text }),
            },
            "beams": request.beams, "top": request.top, "max_items_per_sid": request.max_items_per_sid,
            "deny": items_json(&request.deny), "deny_history": request.deny_history, "strict": request.strict,
            "with_text": request.with_text, "deadline_us": request.deadline.map(|left| left.as_micros() as u64),
            "user": request.user, "view": request.view, "scenario": request.scenario, "log_probs": request.log_probs,
            "trigger": request.trigger.as_ref().map(|item| match item {
                ItemRef::Id(id) => json!({ "id": id }),
                ItemRef::Key(key) => json!({ "key": key }),
            }),
            "instructions": request.instructions.iter().map(|(name, value)| match value {
                InstructionValue::Vector(vector) => {
                    json!({ "name": name, "bits": vector.iter().map(|value| value.to_bits()).collect::<Vec<_>>() })
                }
                InstructionValue::Id(id) => json!({ "name": name, "id": id }),
            }).collect::<Vec<_>>(),
            "lists": request.list,
            "sample": request.sampling.map(|sampling| json!({
                "kind": sampling.kind.name(), "seed": sampling.seed,
                "temperature_bits": sampling.temperature.to_bits(),
            })),
        }),
        Message::Recommendation(answer) => json!({
            "id": answer.id,
            "results": answer.results.iter().map(|ranked| json!({
                "sid": ranked.sid, "score_bits": ranked.score.to_bits(), "key_bits": ranked.key.map(f32::to_bits),
                "log_probs_bits": ranked.log_probs.iter()
                    .map(|of| [of.behaviour.to_bits(), of.raw.to_bits()]).collect::<Vec<_>>(),
                "items": shown_json(&ranked.items),
                "entries": ranked.list.iter()
                    .map(|entry| json!({ "sid": entry.sid, "items": shown_json(&entry.items) })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "unknown_items": answer.unknown_items, "prompt_tokens": answer.prompt_tokens,
            "instructions": answer.instructions.iter().map(|used| json!({
                "name": used.name, "origin": used.origin.name(), "version": used.version,
            })).collect::<Vec<_>>(),
            "provenance": {
                "model": answer.provenance.model, "catalog": answer.provenance.catalog,
                "device": answer.provenance.device, "dtype": answer.provenance.dtype,
            },
            "policy": {
                "number": answer.provenance.policy.number, "version": answer.provenance.policy.version,
            },
            "timings": {
                "resolve_us": answer.timings.resolve_us, "queue_us": answer.timings.queue_us,
                "prefill_us": answer.timings.prefill_us, "search_us": answer.timings.search_us,
                "expand_us": answer.timings.expand_us, "total_us": answer.timings.total_us,
            },
        }),
        Message::Refusal { id, refusal } => json!({
            "id": id, "code": refusal.kind as u16, "code_name": refusal.kind.name(), "message": refusal.message,
        }),
        Message::Error(fault) => {
            json!({ "code": fault.code as u16, "code_name": fault.code.name(), "message": fault.message })
        }
        Message::StatsReply { id, engine, server } => json!({ "id": id, "engine": engine, "server": server }),
        Message::Cancel { id } | Message::Ping { id } | Message::Pong { id } | Message::Stats { id } => {
            json!({ "id": id })
        }
        Message::Goodbye => json!({}),
    };
    value["kind"] = json!(message.kind().name());
    value
}

/// Decodes the one frame of a vector the way a connection would: as a stream that ends after it.
fn decode(bytes: &[u8], limit: usize) -> Result<Message, WireError> {
    let mut reader = FrameReader::new(limit);
    reader.push(bytes);
    if let Some(frame) = reader.next_frame()? {
        return Message::decode(&frame);
    }
    reader.end()?;
    panic!("no frame and no error");
}

fn valid(name: &str, about: &str, message: &Message) -> Value {
    let bytes = message.to_bytes().unwrap();
    json!({ "name": name, "about": about, "hex": hex_lines(&bytes), "message": message_json(message) })
}

/// Bytes that no encoder of this version makes and every decoder must read.
fn decode_only(name: &str, about: &str, bytes: &[u8]) -> Value {
    let message = decode(bytes, LIMIT).unwrap();
    let hex = hex_lines(bytes);
    json!({ "name": name, "about": about, "hex": hex, "message": message_json(&message), "decode_only": true })
}

fn malformed(name: &str, about: &str, bytes: &[u8]) -> Value {
    let error = decode(bytes, LIMIT).expect_err(name);
    json!({
        "name": name, "about": about, "hex": hex_lines(bytes), "limit": LIMIT,
        "error": error.name(), "text": error.to_string(), "breaks_framing": error.breaks_framing(),
    })
}

/// A frame of `kind` with the given payload and correct checksums.
fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    frame_of(kind as u8, 0, payload)
}

fn frame_of(kind: u8, flags: u16, payload: &[u8]) -> Vec<u8> {
    let header = Header { kind, flags, id: 7, length: payload.len() as u32, payload_crc: crc32c::crc32c(payload) };
    [&header.encode()[..], payload].concat()
}

fn section(tag: u16, flags: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [tag.to_le_bytes(), flags.to_le_bytes()].concat();
    bytes.extend((value.len() as u32).to_le_bytes());
    bytes.extend(value);
    bytes
}

fn u32s(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn search() -> Vec<u8> {
    section(Tag::Search as u16, REQUIRED, &u32s(&[50, 10, 0]))
}

fn history() -> Vec<u8> {
    section(Tag::HistoryTokens as u16, REQUIRED, &u32s(&[11, 12, 13]))
}

fn full_request() -> Request {
    Request {
        id: 0x0123_4567_89ab_cdef,
        history: History::Items(ItemRefs::Keys(vec!["sku-1".into(), "".into(), "café-2".into()])),
        beams: 128,
        top: 10,
        max_items_per_sid: Some(3),
        deny: ItemRefs::Keys(vec!["sku-9".into()]),
        deny_history: true,
        strict: true,
        with_text: true,
        deadline: Some(Duration::from_micros(49_500)),
        user: Some("user-42".into()),
        view: Some("checkout".into()),
        scenario: Some(3),
        trigger: Some(ItemRef::Key("sku-7".into())),
        instructions: vec![
            ("hint".into(), InstructionValue::Vector(vec![0.5, -1.0, f32::MIN_POSITIVE])),
            ("behaviour".into(), InstructionValue::Id(u32::MAX)),
        ],
        sampling: Some(Sampling { kind: SamplingKind::Independent, seed: u64::MAX, temperature: 1.5 }),
        log_probs: true,
        list: Some(5),
    }
}

fn small_request() -> Request {
    Request::new(7, History::Items(ItemRefs::Ids(vec![1, 2, 3])), 50, 10)
}

fn full_answer() -> Recommendation {
    let item = |id, key: Option<&str>, title: Option<&str>| Item {
        id,
        key: key.map(str::to_owned),
        title: title.map(str::to_owned),
    };
    Recommendation {
        id: 7,
        results: vec![
            Ranked {
                sid: vec![17, 255, 65_535],
                score: -1.25,
                items: vec![item(5, Some("sku-5"), Some("Tea")), item(u64::MAX, None, Some(""))],
                ..Ranked::default()
            },
            Ranked {
                sid: vec![17, 3, 0],
                score: f32::from_bits(0xc04c_cccd),
                items: vec![item(6, None, None)],
                ..Ranked::default()
            },
            Ranked { sid: vec![18, 0, 1], score: f32::NEG_INFINITY, ..Ranked::default() },
        ],
        unknown_items: 2,
        prompt_tokens: 321,
        instructions: vec![
            InstructionUsed { name: "scenario".into(), origin: Origin::Given, version: None },
            InstructionUsed { name: "reasoning".into(), origin: Origin::Stored, version: Some(1 << 40) },
        ],
        provenance: Provenance {
            model: "minionerec-office@2026-11-24.1".into(),
            catalog: "2026-11-24.1".into(),
            device: "cpu/avx512bf16".into(),
            dtype: "bf16".into(),
            policy: Policy { number: 3, version: "step-120".into() },
        },
        timings: StageTimings {
            resolve_us: 31,
            queue_us: 120,
            prefill_us: 9_000,
            search_us: 4_500,
            expand_us: 40,
            total_us: 13_691,
        },
    }
}

fn handshake_vectors() -> Vec<Value> {
    let secret = "correct horse battery staple";
    let nonce: [u8; NONCE_BYTES] = std::array::from_fn(|at| at as u8);
    let proof = Secret::new(secret).unwrap().prove(&nonce);
    let mut auth = valid(
        "auth",
        "HMAC-SHA256(secret, nonce || context); the inputs are given beside it",
        &Message::Auth { proof },
    );
    auth["secret"] = json!(secret);
    auth["nonce"] = json!(hex(&nonce));
    auth["context"] = json!(std::str::from_utf8(CONTEXT).unwrap());
    let hello_ok = Message::HelloOk(HelloOk {
        facts: ServerFacts {
            model: "minionerec-office@2026-11-24.1".into(),
            catalog: "2026-11-24.1".into(),
            device: "cpu/avx2".into(),
            dtype: "f32".into(),
            levels: vec![256, 256, 256],
            max_beams: 1024,
            max_prompt_tokens: 8192,
        },
        bounds: Bounds { max_frame_bytes: 4 << 20, max_in_flight: 1024, idle_timeout: Duration::from_secs(600) },
    });
    vec![
        valid("hello", "the first frame of every connection", &Message::Hello { client: Some("example 1.0".into()) }),
        valid("hello_anonymous", "the shortest HELLO", &Message::Hello { client: None }),
        valid("challenge", "the server wants a proof", &Message::Challenge { nonce }),
        auth,
        valid("hello_ok", "the conversation is open", &hello_ok),
    ]
}

fn recommend_vectors() -> Vec<Value> {
    let tokens = Request { scenario: Some(0), ..Request::new(1, History::Tokens(vec![1, 2, u32::MAX]), 1, 1) };
    let text = Request { scenario: Some(0), ..Request::new(2, History::Text("tea <a_1>, caf\u{e9}\n".into()), 4, 4) };
    let deny = Request {
        deny: ItemRefs::Ids(vec![9, u64::MAX]),
        max_items_per_sid: Some(0),
        deadline: Some(Duration::ZERO),
        ..small_request()
    };
    let empty = Request {
        deny: ItemRefs::Keys(vec![]),
        user: Some(String::new()),
        view: Some(String::new()),
        ..Request::new(0, History::Items(ItemRefs::Keys(vec![])), 0, 0)
    };
    let sampled = Request {
        sampling: Some(Sampling { kind: SamplingKind::Distinct, seed: 7, temperature: 0.5 }),
        log_probs: true,
        ..Request::new(2, History::Tokens(vec![1, 2]), 2, 2)
    };
    let triggered = Request {
        scenario: Some(1),
        trigger: Some(ItemRef::Id(u64::MAX)),
        instructions: vec![("".into(), InstructionValue::Vector(vec![]))],
        ..small_request()
    };
    let unknown = section(0x7abc, 0, b"from a later version");
    let misplaced = section(Tag::Timings as u16, 0, &[1, 2, 3]);
    vec![
        valid("recommend_ids", "three item ids, 50 beams, top 10, nothing else", &Message::Recommend(small_request())),
        valid("recommend_tokens", "a complete prompt as token ids", &Message::Recommend(tokens)),
        valid("recommend_text", "a complete prompt as text", &Message::Recommend(text)),
        valid(
            "recommend_deny",
            "denied ids, a limit of 0 items, a deadline that has passed",
            &Message::Recommend(deny),
        ),
        valid("recommend_full", "every section, string keys, all options", &Message::Recommend(full_request())),
        valid("recommend_empty", "empty lists and texts are not absent ones", &Message::Recommend(empty)),
        valid(
            "recommend_sample",
            "two distinct samples at temperature 0.5, with log-probabilities",
            &Message::Recommend(sampled),
        ),
        valid(
            "recommend_trigger",
            "a scenario, its trigger item by id, and an instruction without elements",
            &Message::Recommend(triggered),
        ),
        decode_only(
            "recommend_unknown_optional",
            "an unknown optional section, and a known one that belongs to another kind, are skipped",
            &frame(Kind::Recommend, &[search(), unknown, misplaced, history()].concat()),
        ),
        decode_only(
            "recommend_any_order",
            "sections in another order than encoders use",
            &frame(Kind::Recommend, &[history(), search()].concat()),
        ),
    ]
}

fn reply_vectors() -> Vec<Value> {
    let mut plain = full_answer();
    plain
        .results
        .iter_mut()
        .flat_map(|ranked| &mut ranked.items)
        .for_each(|item| (item.key, item.title) = (None, None));
    let empty = Recommendation {
        id: 8,
        results: vec![],
        unknown_items: 0,
        prompt_tokens: 0,
        instructions: Vec::new(),
        provenance: Provenance::default(),
        timings: StageTimings::default(),
    };
    let mut sampled = Recommendation { id: 9, results: plain.results[..2].to_vec(), ..empty.clone() };
    for (rank, ranked) in sampled.results.iter_mut().enumerate() {
        ranked.key = Some(1.5 - rank as f32);
        ranked.log_probs =
            (0..3).map(|level| LogProb { behaviour: -0.25 * level as f32, raw: -1.0 - rank as f32 }).collect();
    }
    let mut lists = Recommendation { id: 10, results: full_answer().results[..2].to_vec(), ..empty.clone() };
    for ranked in &mut lists.results {
        let first = Entry { sid: std::mem::take(&mut ranked.sid), items: std::mem::take(&mut ranked.items) };
        // The second has no items: they were delisted meanwhile.
        ranked.list = vec![first, Entry { sid: vec![18, 0, 1], items: vec![] }];
    }
    let mut vectors = vec![
        valid("recommendation_lists", "two lists of two semantic IDs, with text", &Message::Recommendation(lists)),
        valid("recommendation_sample", "keys and log-probabilities", &Message::Recommendation(sampled)),
        valid("recommendation_text", "keys and titles where there are some", &Message::Recommendation(full_answer())),
        valid("recommendation_plain", "no text: no ITEM_TEXT section", &Message::Recommendation(plain)),
        valid("recommendation_empty", "nothing to recommend", &Message::Recommendation(empty)),
        decode_only(
            "recommendation_bare",
            "without the optional sections: text, provenance and timings read as none",
            &frame(
                Kind::Recommendation,
                &[
                    section(Tag::Results as u16, REQUIRED, &[u32s(&[1, 0, 1, 0]), vec![9, 0]].concat()),
                    section(Tag::Summary as u16, REQUIRED, &u32s(&[0, 5])),
                ]
                .concat(),
            ),
        ),
    ];
    for kind in RefusalKind::ALL {
        let name = format!("refusal_{}", kind.name().to_lowercase());
        let refusal = Refusal::new(kind, format!("example of code {}", kind as u16));
        vectors.push(valid(&name, "a refusal", &Message::Refusal { id: 7, refusal }));
    }
    vectors
}

fn control_vectors() -> Vec<Value> {
    let stats = Message::StatsReply { id: 12, engine: "{\"requests\":3}".into(), server: "{}".into() };
    let mut vectors = vec![
        valid("cancel", "drops request 7", &Message::Cancel { id: 7 }),
        valid("ping", "a header and nothing else", &Message::Ping { id: 11 }),
        valid("pong", "the same id", &Message::Pong { id: 11 }),
        valid("stats", "asks for counters", &Message::Stats { id: 12 }),
        valid("stats_reply", "JSON text of the engine and of the socket loop", &stats),
        valid("goodbye", "nothing new will come", &Message::Goodbye),
    ];
    for code in FaultCode::ALL {
        let name = format!("error_{}", code.name().to_lowercase());
        let fault = Fault::new(code, format!("example of code {}", code as u16));
        vectors.push(valid(&name, "the connection ends", &Message::Error(fault)));
    }
    vectors
}

fn malformed_vectors() -> Vec<Value> {
    let good = Message::Recommend(small_request()).to_bytes().unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let recommend = |sections: &[Vec<u8>]| frame(Kind::Recommend, &sections.concat());
    let required = |tag: Tag, value: &[u8]| section(tag as u16, REQUIRED, value);
    let mut overrun = required(Tag::Search, &u32s(&[50, 10, 0]));
    overrun[4] = 13;
    let long = Header { kind: Kind::Recommend as u8, flags: 0, id: 7, length: LIMIT as u32 + 1, payload_crc: 0 };
    let results = |fields: &[u32]| {
        let summary = required(Tag::Summary, &u32s(&[0, 0]));
        frame(Kind::Recommendation, &[summary, required(Tag::Results, &u32s(fields))].concat())
    };
    let text = |value: &[u8]| {
        let summary = required(Tag::Summary, &u32s(&[0, 0]));
        let results = required(Tag::Results, &[u32s(&[1, 0, 0, 1]), vec![5, 0, 0, 0, 0, 0, 0, 0]].concat());
        frame(Kind::Recommendation, &[summary, results, section(Tag::ItemText as u16, 0, value)].concat())
    };
    vec![
        malformed("bad_magic", "another protocol", b"GET / HTTP/1.1\r\nHost: example\r\n\r\n"),
        malformed("bad_version", "version 2", &with(4, 2)),
        malformed("bad_header_crc", "one bit of the request id flipped", &with(8, 6)),
        malformed("bad_payload_crc", "one bit of the payload flipped", &with(36, 51)),
        malformed("frame_too_large", "a payload of one byte more than the limit", &long.encode()),
        malformed("truncated_header", "the stream ends inside the header", &good[..20]),
        malformed("truncated_payload", "the stream ends inside the payload", &good[..good.len() - 1]),
        malformed("unknown_kind", "kind 200", &frame_of(200, 0, &[])),
        malformed("unknown_flags", "frame flag bit 1", &frame_of(Kind::Recommend as u8, 2, &good[HEADER_BYTES..])),
        malformed(
            "section_header_cut",
            "7 bytes where a section header should stand",
            &recommend(&[search(), vec![0; 7]]),
        ),
        malformed("section_overrun", "SEARCH claims 13 bytes of the 12 left", &frame(Kind::Recommend, &overrun)),
        malformed(
            "unknown_required",
            "an unknown section that must be understood",
            &recommend(&[search(), history(), section(0x7abc, REQUIRED, b"new")]),
        ),
        malformed(
            "misplaced_required",
            "a known section that must be understood, in a kind that does not have it",
            &recommend(&[search(), history(), required(Tag::Timings, &[0; 24])]),
        ),
        malformed("unknown_section_flags", "section flag bit 1", &recommend(&[section(Tag::Search as u16, 3, &[])])),
        malformed("duplicate_section", "SEARCH twice", &recommend(&[search(), history(), search()])),
        malformed("missing_search", "no SEARCH", &recommend(&[history()])),
        malformed("missing_history", "no history", &recommend(&[search()])),
        malformed(
            "conflicting_history",
            "tokens and ids",
            &recommend(&[search(), history(), required(Tag::HistoryIds, &[0; 8])]),
        ),
        malformed(
            "conflicting_deny",
            "denied ids and denied keys",
            &recommend(&[search(), history(), required(Tag::DenyIds, &[]), required(Tag::DenyKeys, &[0; 4])]),
        ),
        malformed("field_cut", "SEARCH ends inside top", &recommend(&[required(Tag::Search, &[1, 0, 0, 0, 1, 0])])),
        malformed(
            "count_overrun",
            "4,294,967,295 keys in 8 bytes",
            &recommend(&[search(), required(Tag::HistoryKeys, &[255, 255, 255, 255, 0, 0, 0, 0])]),
        ),
        malformed("bad_length_ids", "9 bytes of ids", &recommend(&[search(), required(Tag::HistoryIds, &[0; 9])])),
        malformed(
            "bad_length_tokens",
            "6 bytes of tokens",
            &recommend(&[search(), required(Tag::HistoryTokens, &[0; 6])]),
        ),
        malformed(
            "trailing_bytes",
            "SCENARIO of 5 bytes",
            &recommend(&[search(), history(), required(Tag::Scenario, &[0; 5])]),
        ),
        malformed(
            "bad_utf8_user",
            "USER is not text",
            &recommend(&[search(), history(), required(Tag::User, b"ab\xff")]),
        ),
        malformed(
            "bad_utf8_key",
            "the second key is not text",
            &recommend(&[search(), required(Tag::HistoryKeys, b"\x02\0\0\0\x01\0\0\0a\x02\0\0\0\xc3\x28")]),
        ),
        malformed(
            "bad_value_sample_kind",
            "a kind of sampling of a later version",
            &recommend(&[search(), history(), required(Tag::Sample, &[u32s(&[2, 0]), vec![0; 8]].concat())]),
        ),
        malformed(
            "log_probs_cut",
            "LEVEL_LOGPROBS of one step for two results",
            &frame(
                Kind::Recommendation,
                &[
                    required(Tag::Summary, &u32s(&[0, 0])),
                    required(Tag::Results, &u32s(&[2, 0, 0, 0, 0, 0, 0])),
                    section(Tag::LevelLogProbs as u16, 0, &u32s(&[1, 0, 0])),
                ]
                .concat(),
            ),
        ),
        malformed(
            "bad_value_options",
            "an option bit of a later version",
            &recommend(&[required(Tag::Search, &u32s(&[50, 10, 16])), history()]),
        ),
        malformed(
            "lists_entries_overrun",
            "a list of more entries than bytes",
            &frame(
                Kind::Recommendation,
                &[required(Tag::Summary, &u32s(&[0, 0])), required(Tag::Lists, &u32s(&[1, 0, u32::MAX]))].concat(),
            ),
        ),
        malformed(
            "conflicting_results",
            "semantic IDs and lists",
            &frame(
                Kind::Recommendation,
                &[
                    required(Tag::Summary, &u32s(&[0, 0])),
                    required(Tag::Results, &u32s(&[0])),
                    required(Tag::Lists, &u32s(&[0])),
                ]
                .concat(),
            ),
        ),
        malformed("results_count_overrun", "more results than bytes", &results(&[2, 0, 0, 0])),
        malformed("results_items_cut", "more item ids than bytes", &results(&[1, 0, 0, u32::MAX])),
        malformed("results_trailing", "bytes behind the last result", &results(&[0, 1])),
        malformed("item_text_cut", "ITEM_TEXT ends before the title", &text(&u32s(&[u32::MAX]))),
        malformed("item_text_trailing", "ITEM_TEXT names more items than RESULTS", &text(&u32s(&[u32::MAX; 3]))),
        malformed("nonce_cut", "31 bytes", &frame(Kind::Challenge, &required(Tag::Nonce, &[0; 31]))),
        malformed("proof_missing", "AUTH without a proof", &frame(Kind::Auth, &[])),
        malformed(
            "refusal_code",
            "a refusal code of a later version",
            &frame(Kind::Refusal, &required(Tag::Reason, b"\x63\0later")),
        ),
    ]
}

fn files() -> Vec<(&'static str, &'static str, Vec<Value>)> {
    vec![
        ("handshake.json", "HELLO, CHALLENGE, AUTH, HELLO_OK", handshake_vectors()),
        ("recommend.json", "RECOMMEND", recommend_vectors()),
        ("reply.json", "RECOMMENDATION, REFUSAL", reply_vectors()),
        ("control.json", "CANCEL, PING, PONG, STATS, STATS_REPLY, GOODBYE, ERROR", control_vectors()),
        ("malformed.json", "frames that must be refused, each with its error", malformed_vectors()),
    ]
}

#[test]
fn committed_vectors_are_current() {
    for (name, about, vectors) in files() {
        let text = serde_json::to_string_pretty(&json!({ "about": about, "vectors": vectors })).unwrap() + "\n";
        let path = directory().join(name);
        if std::env::var_os("SIDEREAL_WRITE_VECTORS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap();
        assert!(committed == text, "{name} is not current: SIDEREAL_WRITE_VECTORS=1 cargo test --test protocol");
    }
}

#[test]
fn committed_vectors_decode_and_encode() {
    let mut kinds = std::collections::BTreeSet::new();
    let mut errors = std::collections::BTreeSet::new();
    for (name, ..) in files() {
        let file: Value = serde_json::from_str(&std::fs::read_to_string(directory().join(name)).unwrap()).unwrap();
        for vector in file["vectors"].as_array().unwrap() {
            let (name, bytes) = (vector["name"].as_str().unwrap(), unhex(&vector["hex"]));
            if let Some(expected) = vector["error"].as_str() {
                let error = decode(&bytes, vector["limit"].as_u64().unwrap() as usize).expect_err(name);
                assert_eq!(error.name(), expected, "{name}");
                assert_eq!(error.to_string(), vector["text"], "{name}");
                errors.insert(expected.to_owned());
                continue;
            }
            let message = decode(&bytes, LIMIT).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(message_json(&message), vector["message"], "{name}");
            if vector["decode_only"] != json!(true) {
                assert_eq!(hex(&message.to_bytes().unwrap()), hex(&bytes), "{name}");
            }
            kinds.insert(message.kind() as u8);
        }
    }
    assert_eq!(kinds.len(), Kind::ALL.len(), "a kind without a vector");
    assert_eq!(errors.len(), 21, "an error without a vector: {errors:?}");
}

#[test]
fn codes_and_names_are_unique() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_code(kind as u8), Some(kind));
    }
    for tag in Tag::ALL {
        assert_eq!(Tag::from_code(*tag as u16), Some(*tag));
    }
    let names: std::collections::BTreeSet<_> = Tag::ALL.iter().map(|tag| tag.name()).collect();
    assert_eq!(names.len(), Tag::ALL.len());
}

/// docs/protocol.md names every code as the code does, and its examples are the vectors.
#[test]
fn the_protocol_page_is_current() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md")).unwrap();
    let rows = Kind::ALL.iter().map(|kind| format!("\n| {} | `{}` |", *kind as u8, kind.name()));
    let rows = rows.chain(Tag::ALL.iter().map(|tag| format!("\n| `{:#06x}` | `{}` |", *tag as u16, tag.name())));
    let rows = rows.chain(RefusalKind::ALL.iter().map(|kind| format!("\n| {} | `{}` |", *kind as u16, kind.name())));
    let rows = rows.chain(FaultCode::ALL.iter().map(|code| format!("\n| {} | `{}` |", *code as u16, code.name())));
    for row in rows {
        assert_eq!(page.matches(&row).count(), 1, "{row}");
    }
    let all: Vec<Value> = files().into_iter().flat_map(|(.., vectors)| vectors).collect();
    let mut examples = 0;
    for block in page.split("```hex ").skip(1) {
        let (name, block) = block.split_once('\n').unwrap();
        let lines = block.split("```").next().unwrap().lines();
        let is_byte = |word: &&str| word.len() == 2 && word.chars().all(|c| c.is_ascii_hexdigit());
        // The bytes of a line end at the first wide gap.
        let shown: String =
            lines.flat_map(|line| line.split("  ").next().unwrap().split(' ').take_while(is_byte)).collect();
        let vector = all.iter().find(|vector| vector["name"] == name).expect(name);
        assert_eq!(shown, hex(&unhex(&vector["hex"])), "{name}");
        examples += 1;
    }
    assert_eq!(examples, 2);
    for error in all.iter().filter_map(|vector| vector["error"].as_str()) {
        assert!(page.contains(&format!("`{error}`")), "{error}");
    }
}
