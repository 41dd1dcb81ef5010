//! Properties of the codec: what goes in comes out, however the stream is cut; whatever the bytes, no panic, and a fault in
//! one frame's payload does not touch its neighbours.

use std::time::Duration;

use proptest::prelude::*;
use sidereal::request::{
    Entry, History, InstructionUsed, InstructionValue, Item, ItemRef, ItemRefs, Origin, Policy, Provenance, Ranked,
    Recommendation, Request, StageTimings,
};
use sidereal::sampling::{LogProb, Sampling, SamplingKind};
use sidereal::serve::wire::*;

const LIMIT: usize = 1 << 20;

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..6).prop_map(|chars| chars.into_iter().collect())
}

fn items() -> impl Strategy<Value = ItemRefs> {
    prop_oneof![
        proptest::collection::vec(any::<u64>(), 0..20).prop_map(ItemRefs::Ids),
        proptest::collection::vec(text(), 0..8).prop_map(ItemRefs::Keys),
    ]
}

fn history() -> impl Strategy<Value = History> {
    prop_oneof![
        proptest::collection::vec(any::<u32>(), 0..40).prop_map(History::Tokens),
        items().prop_map(History::Items),
        text().prop_map(History::Text),
    ]
}

prop_compose! {
    fn sampling()(distinct in any::<bool>(), seed in any::<u64>(), temperature in 0.01f32..100.0) -> Sampling {
        let kind = if distinct { SamplingKind::Distinct } else { SamplingKind::Independent };
        Sampling { kind, seed, temperature }
    }
}

fn trigger() -> impl Strategy<Value = ItemRef> {
    prop_oneof![any::<u64>().prop_map(ItemRef::Id), text().prop_map(ItemRef::Key)]
}

fn instructions() -> impl Strategy<Value = Vec<(String, InstructionValue)>> {
    let value = prop_oneof![
        proptest::collection::vec(-1e3f32..1e3, 0..20).prop_map(InstructionValue::Vector),
        any::<u32>().prop_map(InstructionValue::Id),
    ];
    proptest::collection::vec((text(), value), 0..4)
}

prop_compose! {
    fn used()(name in text(), code in 0..Origin::ALL.len(), version in any::<Option<u64>>()) -> InstructionUsed {
        InstructionUsed { name, origin: Origin::ALL[code], version }
    }
}

prop_compose! {
    fn request()(
        (id, history, beams, top) in (any::<u64>(), history(), any::<u32>(), any::<u32>()),
        (max_items_per_sid, deny) in (any::<Option<u32>>(), items()),
        (deny_history, strict, with_text) in any::<(bool, bool, bool)>(),
        deadline_us in any::<Option<u64>>(),
        (user, view) in (proptest::option::of(text()), proptest::option::of(text())),
        (trigger, instructions) in (proptest::option::of(trigger()), instructions()),
        (scenario, sampling, log_probs) in (any::<Option<u32>>(), proptest::option::of(sampling()), any::<bool>()),
        list in any::<Option<u32>>(),
    ) -> Request {
        Request {
            id, history, beams, top, max_items_per_sid, deny, deny_history, strict, with_text,
            deadline: deadline_us.map(Duration::from_micros), user, view, scenario, sampling,
            log_probs, trigger, instructions, list,
        }
    }
}

prop_compose! {
    fn item()(id in any::<u64>(), key in proptest::option::of(text()), title in proptest::option::of(text())) -> Item {
        Item { id, key, title }
    }
}

prop_compose! {
    fn ranked()(
        sid in proptest::collection::vec(any::<u16>(), 0..9),
        score_bits in any::<u32>(),
        items in proptest::collection::vec(item(), 0..4),
    ) -> Ranked {
        Ranked { sid, score: f32::from_bits(score_bits), items, ..Ranked::default() }
    }
}

prop_compose! {
    fn answer()(
        id in any::<u64>(),
        mut results in proptest::collection::vec(ranked(), 0..6),
        (steps, with_keys, bits) in (0usize..4, any::<bool>(), any::<u32>()),
        (unknown_items, prompt_tokens) in any::<(u32, u32)>(),
        instructions in proptest::collection::vec(used(), 0..4),
        (model, catalog, device, dtype) in (text(), text(), text(), text()),
        policy in (any::<u64>(), text()).prop_map(|(number, version)| Policy { number, version }),
        (times, lists) in (any::<[u32; 6]>(), any::<bool>()),
    ) -> Recommendation {
        for (rank, ranked) in (0u32..).zip(&mut results) {
            let number = |salt: u32| f32::from_bits(bits.rotate_left(rank) ^ salt);
            ranked.log_probs =
                (0..steps as u32).map(|step| LogProb { behaviour: number(step), raw: number(!step) }).collect();
            ranked.key = with_keys.then(|| number(7));
            if lists {
                let entry = Entry { sid: std::mem::take(&mut ranked.sid), items: std::mem::take(&mut ranked.items) };
                ranked.list = vec![entry; 1 + rank as usize % 3];
            }
        }
        let [resolve_us, queue_us, prefill_us, search_us, expand_us, total_us] = times;
        Recommendation {
            id, results, unknown_items, prompt_tokens, instructions,
            provenance: Provenance { model, catalog, device, dtype, policy },
            timings: StageTimings { resolve_us, queue_us, prefill_us, search_us, expand_us, total_us },
        }
    }
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        4 => request().prop_map(Message::Recommend),
        4 => answer().prop_map(Message::Recommendation),
        1 => any::<u64>().prop_map(|id| Message::Ping { id }),
        1 => any::<u64>().prop_map(|id| Message::Cancel { id }),
        1 => proptest::option::of(text()).prop_map(|client| Message::Hello { client }),
        1 => any::<[u8; 32]>().prop_map(|nonce| Message::Challenge { nonce }),
        1 => (any::<u64>(), text(), text())
            .prop_map(|(id, engine, server)| Message::StatsReply { id, engine, server }),
    ]
}

/// What a stream of bytes says when it arrives in pieces that end at `cuts`.
fn read_in_pieces(stream: &[u8], cuts: &[usize]) -> Result<Vec<Result<Message, WireError>>, WireError> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).chain([0, stream.len()]).collect();
    cuts.sort_unstable();
    let mut reader = FrameReader::new(LIMIT);
    let mut messages = Vec::new();
    for piece in cuts.windows(2) {
        reader.push(&stream[piece[0]..piece[1]]);
        while let Some(frame) = reader.next_frame()? {
            messages.push(Message::decode(&frame));
        }
    }
    reader.end()?;
    Ok(messages)
}

/// Encoded bytes: messages that hold NaN scores are equal only there.
fn bytes(message: &Message) -> Vec<u8> {
    message.to_bytes().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_of_the_stream_reads_the_same(
        messages in proptest::collection::vec(message(), 1..6),
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(bytes).collect();
        let read = read_in_pieces(&stream, &cuts).unwrap();
        prop_assert_eq!(read.len(), messages.len());
        for (read, sent) in read.iter().zip(&messages) {
            let read = read.as_ref().unwrap();
            prop_assert_eq!(bytes(read), bytes(sent));
            if let (Message::Recommend(read), Message::Recommend(sent)) = (read, sent) {
                prop_assert_eq!(read, sent);
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_always_noticed(message in message(), at in any::<usize>(), bit in 0..8) {
        let mut frame = bytes(&message);
        let at = at % frame.len();
        frame[at] ^= 1u8 << bit;
        // A damaged length may leave the frame unfinished, but its header CRC is checked first.
        let error = read_in_pieces(&frame, &[]).unwrap_err();
        prop_assert!(error.breaks_framing(), "{}", error);
    }

    #[test]
    fn a_fault_inside_a_frame_leaves_its_neighbours_alone(
        first in message(), payload in proptest::collection::vec(any::<u8>(), 0..80), kind in any::<u8>(), last in message(),
    ) {
        let header = Header {
            kind, flags: 0, id: 3, length: payload.len() as u32, payload_crc: crc32c::crc32c(&payload),
        };
        let stream = [bytes(&first), header.encode().to_vec(), payload, bytes(&last)].concat();
        let read = read_in_pieces(&stream, &[]).unwrap();
        prop_assert_eq!(read.len(), 3);
        prop_assert_eq!(bytes(read[0].as_ref().unwrap()), bytes(&first));
        prop_assert_eq!(bytes(read[2].as_ref().unwrap()), bytes(&last));
        if let Err(error) = &read[1] {
            prop_assert!(!error.breaks_framing());
        }
    }

    /// Damage behind a correct checksum: what a faulty client sends, rather than a faulty wire.
    #[test]
    fn mutated_payloads_never_panic(
        message in message(),
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<usize>()),
    ) {
        let mut payload = bytes(&message)[HEADER_BYTES..].to_vec();
        for (at, byte) in edits {
            if !payload.is_empty() {
                let at = at % payload.len();
                payload[at] = byte;
            }
        }
        if let Some(cut) = cut {
            payload.truncate(cut % (payload.len() + 1));
        }
        for kind in Kind::ALL {
            let header = Header {
                kind: kind as u8, flags: 0, id: 3, length: payload.len() as u32, payload_crc: crc32c::crc32c(&payload),
            };
            let frame = [&header.encode()[..], &payload].concat();
            match &read_in_pieces(&frame, &[]).unwrap()[0] {
                Ok(read) => prop_assert!(read.to_bytes().is_ok()),
                Err(error) => {
                    prop_assert!(!error.breaks_framing());
                    prop_assert!(!error.to_string().is_empty() && !error.name().is_empty());
                }
            }
        }
    }

    #[test]
    fn garbage_never_panics(stream in proptest::collection::vec(any::<u8>(), 1..200), cuts in any::<[usize; 3]>()) {
        let _ = read_in_pieces(&stream, &cuts);
        let with_magic = [&MAGIC[..], &[VERSION], &stream].concat();
        let _ = read_in_pieces(&with_magic, &cuts);
    }
}

#[test]
fn a_promise_of_bytes_costs_no_memory() {
    let header = Header { kind: Kind::Recommend as u8, flags: 0, id: 1, length: LIMIT as u32, payload_crc: 0 };
    let mut reader = FrameReader::new(LIMIT);
    reader.push(&header.encode());
    assert!(reader.next_frame().unwrap().is_none());
    assert!(reader.capacity() < 1024, "{} bytes for a header", reader.capacity());
}

#[test]
fn a_frame_too_long_to_encode_leaves_the_buffer_as_it_was() {
    let request = Request::new(1, History::Tokens(vec![0; 100]), 1, 1);
    let mut out = vec![1, 2, 3];
    let error = encode_recommend(&request, 400, &mut out).unwrap_err();
    assert_eq!(error, WireError::FrameTooLarge { length: 428, limit: 400 });
    assert_eq!(out, [1, 2, 3]);
}
