//! Frames as a server reads them from a stream: every kind, however the stream is cut.

use sidereal::serve::wire::{
    Frame, FrameReader, HEADER_BYTES, Header, Kind, MAGIC, Message, SECTION_HEADER_BYTES, Sections, VERSION, WireError,
};

/// The limit of the streams here: frames beyond it are met, and inputs stay small.
const LIMIT: usize = 1 << 16;

/// The stream as it is, and again with every header and checksum repaired, so that damage in payloads is reached.
pub fn frame(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    check_stream(stream, usize::from(cut) + 1);
    check_stream(&repaired(stream), usize::from(cut) + 1);
    // The bytes as the payload of any kind.
    let kind = Kind::ALL[usize::from(cut) % Kind::ALL.len()];
    check_stream(&with_header(kind as u8, stream), HEADER_BYTES);
}

/// One frame of a stream: what it said, encoded again, or why it says nothing.
type Said = Result<Vec<u8>, WireError>;

/// Reads the stream whole and in pieces of `piece` bytes, which must come to the same.
fn check_stream(stream: &[u8], piece: usize) {
    let (whole, end) = read(stream, stream.len().max(1));
    let (pieces, end_of_pieces) = read(stream, piece);
    assert_eq!(whole, pieces, "pieces of {piece} bytes read differently");
    // Wrong magic is told at its first wrong byte, with the bytes that have come: the same fault in other words.
    let name = |end: Result<(), WireError>| end.map_err(|error| error.name());
    assert_eq!(name(end), name(end_of_pieces), "pieces of {piece} bytes end differently");
}

/// The frames of the stream, and how it ended.
fn read(stream: &[u8], piece: usize) -> (Vec<Said>, Result<(), WireError>) {
    let mut reader = FrameReader::new(LIMIT);
    let mut said = Vec::new();
    for bytes in stream.chunks(piece) {
        reader.push(bytes);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => said.push(check_frame(&frame)),
                Ok(None) => break,
                Err(error) => {
                    assert!(error.breaks_framing() && !error.to_string().is_empty());
                    return (said, Err(error));
                }
            }
        }
        let most = 2 * (HEADER_BYTES + LIMIT + piece);
        assert!(reader.capacity() <= most, "{} bytes held, at most {most} expected", reader.capacity());
    }
    let end = reader.end();
    (said, end)
}

/// Decodes a frame; whatever decodes is encoded to a frame that decodes to the same.
fn check_frame(frame: &Frame<'_>) -> Said {
    let sections = Sections::new(frame.payload);
    let covered: usize = sections.flatten().map(|section| SECTION_HEADER_BYTES + section.value.len()).sum();
    assert!(covered <= frame.payload.len());
    let message = match Message::decode(frame) {
        Ok(message) => message,
        Err(error) => {
            assert!(!error.breaks_framing() && !error.to_string().is_empty() && !error.name().is_empty());
            return Err(error);
        }
    };
    assert_eq!(message.kind() as u8, frame.header.kind);
    let bytes = message.to_bytes().expect("what was decoded fits a frame");
    let (again, length) = Frame::decode(&bytes, u32::MAX as usize).expect("our own frame").expect("a whole frame");
    assert_eq!(length, bytes.len());
    let again = Message::decode(&again).expect("our own frame decodes");
    // Bytes, not values: a score may be NaN.
    assert_eq!(again.to_bytes().expect("as before"), bytes);
    let mut short = vec![7];
    if bytes.len() > HEADER_BYTES {
        assert!(message.encode(bytes.len() - HEADER_BYTES - 1, &mut short).is_err());
        assert_eq!(short, [7], "a frame that is too long leaves the buffer as it was");
    }
    Ok(bytes)
}

/// A frame of `kind` around `payload`.
pub fn with_header(kind: u8, payload: &[u8]) -> Vec<u8> {
    let header = Header { kind, flags: 0, id: 7, length: payload.len() as u32, payload_crc: crc32c::crc32c(payload) };
    [&header.encode()[..], payload].concat()
}

/// The stream cut into frames by the lengths that its headers announce, as far as there are bytes for them, each with a
/// header that is right.
pub fn repaired(stream: &[u8]) -> Vec<u8> {
    let mut rest = stream.to_vec();
    let mut out = Vec::with_capacity(stream.len());
    while rest.len() >= HEADER_BYTES {
        rest[..4].copy_from_slice(&MAGIC);
        rest[4] = VERSION;
        let announced = u32::from_le_bytes([rest[16], rest[17], rest[18], rest[19]]) as usize;
        let end = HEADER_BYTES + announced.min(rest.len() - HEADER_BYTES);
        let payload = &rest[HEADER_BYTES..end];
        let header = Header {
            kind: rest[5],
            flags: u16::from_le_bytes([rest[6], rest[7]]),
            id: u64::from_le_bytes(rest[8..16].try_into().expect("eight bytes")),
            length: payload.len() as u32,
            payload_crc: crc32c::crc32c(payload),
        };
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(payload);
        rest.drain(..end);
    }
    out.extend_from_slice(&rest);
    out
}
