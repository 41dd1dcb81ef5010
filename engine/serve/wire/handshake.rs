//! HELLO_OK: what a server says of itself.

use std::time::Duration;

use super::section::{Fields, put_text};
use super::{Frame, FrameWriter, Kind, Sections, Tag, WireError};
use crate::serve::ServerFacts;

/// What the server allows on this connection, so that a client can stay within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of one frame's payload.
    pub max_frame_bytes: u32,
    /// Requests in flight.
    pub max_in_flight: u32,
    /// A quiet connection is closed after this long; whole microseconds.
    pub idle_timeout: Duration,
}

/// The server's answer to HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloOk {
    /// What is served.
    pub facts: ServerFacts,
    /// What is allowed.
    pub bounds: Bounds,
}

/// Appends a HELLO_OK.
pub(super) fn encode_hello_ok(hello: &HelloOk, limit: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
    let mut frame = FrameWriter::begin(out, Kind::HelloOk, 0);
    frame.optional(Tag::Facts, |out| {
        let facts = &hello.facts;
        [&facts.model, &facts.catalog, &facts.device, &facts.dtype].into_iter().for_each(|text| put_text(out, text));
        let numbers = [facts.max_beams, facts.max_prompt_tokens, facts.levels.len() as u32];
        numbers.iter().chain(&facts.levels).for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    });
    frame.optional(Tag::Bounds, |out| {
        let bounds = &hello.bounds;
        out.extend_from_slice(&bounds.max_frame_bytes.to_le_bytes());
        out.extend_from_slice(&bounds.max_in_flight.to_le_bytes());
        let idle_us = u64::try_from(bounds.idle_timeout.as_micros()).unwrap_or(u64::MAX);
        out.extend_from_slice(&idle_us.to_le_bytes());
    });
    frame.finish(limit)
}

/// Reads the payload of a HELLO_OK.
pub(super) fn decode_hello_ok(frame: &Frame<'_>) -> Result<HelloOk, WireError> {
    let (mut facts, mut bounds) = (None, None);
    for section in Sections::new(frame.payload) {
        let section = section?;
        let tag = Tag::from_code(section.id.0).filter(|tag| matches!(tag, Tag::Facts | Tag::Bounds));
        let Some(tag) = tag else {
            section.skip(Kind::HelloOk)?;
            continue;
        };
        let mut fields = section.fields(tag);
        match tag {
            Tag::Facts => section.store(tag, &mut facts, read_facts(&mut fields)?)?,
            _ => section.store(tag, &mut bounds, read_bounds(&mut fields)?)?,
        }
        fields.end()?;
    }
    let missing = |expected| WireError::MissingSection { kind: Kind::HelloOk, expected };
    Ok(HelloOk { facts: facts.ok_or_else(|| missing("FACTS"))?, bounds: bounds.ok_or_else(|| missing("BOUNDS"))? })
}

fn read_facts(fields: &mut Fields<'_>) -> Result<ServerFacts, WireError> {
    let model = fields.text("the model")?.to_owned();
    let catalog = fields.text("the catalogue")?.to_owned();
    let device = fields.text("the device")?.to_owned();
    let dtype = fields.text("the dtype")?.to_owned();
    let (max_beams, max_prompt_tokens) = (fields.u32("max beams")?, fields.u32("max prompt tokens")?);
    let levels = fields.count(4, "levels")?;
    let levels = fields.u32s(levels, "levels")?;
    Ok(ServerFacts { model, catalog, device, dtype, levels, max_beams, max_prompt_tokens })
}

fn read_bounds(fields: &mut Fields<'_>) -> Result<Bounds, WireError> {
    Ok(Bounds {
        max_frame_bytes: fields.u32("max frame bytes")?,
        max_in_flight: fields.u32("max in flight")?,
        idle_timeout: Duration::from_micros(fields.u64("idle timeout")?),
    })
}
