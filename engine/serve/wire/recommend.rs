//! RECOMMEND: a [`Request`] as sections.

use std::time::Duration;

use super::section::{Fields, put_text, put_texts};
use super::{Frame, FrameWriter, Kind, Section, Sections, Tag, WireError};
use crate::request::{History, InstructionValue, ItemRef, ItemRefs, Request};
use crate::sampling::{Sampling, SamplingKind};

/// Bits of SEARCH's options.
const DENY_HISTORY: u32 = 1;
const STRICT: u32 = 2;
const WITH_TEXT: u32 = 4;
const LOG_PROBS: u32 = 8;

/// Codes of SAMPLE's kind.
const INDEPENDENT: u32 = 0;
const DISTINCT: u32 = 1;

/// Codes of an instruction's kind.
const VECTOR: u32 = 0;
const ID: u32 = 1;

/// Appends a RECOMMEND. Deadlines travel as whole microseconds, rounded down: what is left of one is worthless.
pub fn encode_recommend(request: &Request, limit: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
    let mut frame = FrameWriter::begin(out, Kind::Recommend, request.id);
    let options = [
        (request.deny_history, DENY_HISTORY),
        (request.strict, STRICT),
        (request.with_text, WITH_TEXT),
        (request.log_probs, LOG_PROBS),
    ];
    let options = options.iter().filter(|(set, _)| *set).fold(0, |bits, (_, bit)| bits | bit);
    frame.required(Tag::Search, |out| {
        for field in [request.beams, request.top, options] {
            out.extend_from_slice(&field.to_le_bytes());
        }
    });
    match &request.history {
        History::Tokens(tokens) => frame.required(Tag::HistoryTokens, |out| {
            tokens.iter().for_each(|token| out.extend_from_slice(&token.to_le_bytes()))
        }),
        History::Items(items) => put_items(&mut frame, Tag::HistoryIds, Tag::HistoryKeys, items),
        // Sections stand in the order of their tags: it comes later.
        History::Text(_) => {}
    }
    // Absent means no ids; an empty list of keys is another value, and is said.
    if request.deny != ItemRefs::Ids(Vec::new()) {
        put_items(&mut frame, Tag::DenyIds, Tag::DenyKeys, &request.deny);
    }
    if let Some(most) = request.max_items_per_sid {
        frame.required(Tag::MaxItemsPerSid, |out| out.extend_from_slice(&most.to_le_bytes()));
    }
    if let Some(deadline) = request.deadline {
        let left_us = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
        frame.required(Tag::Deadline, |out| out.extend_from_slice(&left_us.to_le_bytes()));
    }
    if let Some(user) = &request.user {
        frame.optional(Tag::User, |out| out.extend_from_slice(user.as_bytes()));
    }
    if let Some(view) = &request.view {
        frame.required(Tag::View, |out| out.extend_from_slice(view.as_bytes()));
    }
    if let Some(scenario) = request.scenario {
        frame.required(Tag::Scenario, |out| out.extend_from_slice(&scenario.to_le_bytes()));
    }
    if let Some(sampling) = &request.sampling {
        frame.required(Tag::Sample, |out| put_sampling(out, sampling));
    }
    if let History::Text(text) = &request.history {
        frame.required(Tag::HistoryText, |out| out.extend_from_slice(text.as_bytes()));
    }
    if !request.instructions.is_empty() {
        frame.required(Tag::Instructions, |out| put_instructions(out, &request.instructions));
    }
    if let Some(ItemRef::Id(id)) = &request.trigger {
        frame.required(Tag::TriggerId, |out| out.extend_from_slice(&id.to_le_bytes()));
    }
    if let Some(items) = request.list {
        frame.required(Tag::List, |out| out.extend_from_slice(&items.to_le_bytes()));
    }
    if let Some(ItemRef::Key(key)) = &request.trigger {
        frame.required(Tag::TriggerKey, |out| out.extend_from_slice(key.as_bytes()));
    }
    frame.finish(limit)
}

fn put_instructions(out: &mut Vec<u8>, instructions: &[(String, InstructionValue)]) {
    out.extend_from_slice(&(instructions.len() as u32).to_le_bytes());
    for (name, value) in instructions {
        put_text(out, name);
        match value {
            InstructionValue::Vector(vector) => {
                out.extend_from_slice(&VECTOR.to_le_bytes());
                out.extend_from_slice(&(vector.len() as u32).to_le_bytes());
                vector.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
            }
            InstructionValue::Id(id) => {
                out.extend_from_slice(&ID.to_le_bytes());
                out.extend_from_slice(&id.to_le_bytes());
            }
        }
    }
}

fn put_sampling(out: &mut Vec<u8>, sampling: &Sampling) {
    let kind = match sampling.kind {
        SamplingKind::Independent => INDEPENDENT,
        SamplingKind::Distinct => DISTINCT,
    };
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&sampling.temperature.to_le_bytes());
    out.extend_from_slice(&sampling.seed.to_le_bytes());
}

fn put_items(frame: &mut FrameWriter<'_>, ids: Tag, keys: Tag, items: &ItemRefs) {
    match items {
        ItemRefs::Ids(list) => {
            frame.required(ids, |out| list.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes())));
        }
        ItemRefs::Keys(list) => frame.required(keys, |out| put_texts(out, list)),
    }
}

/// Sections seen so far.
#[derive(Default)]
struct Partial {
    search: Option<(u32, u32, u32)>,
    history: Option<(Tag, History)>,
    deny: Option<(Tag, ItemRefs)>,
    max_items_per_sid: Option<u32>,
    deadline: Option<Duration>,
    user: Option<String>,
    view: Option<String>,
    scenario: Option<u32>,
    trigger: Option<(Tag, ItemRef)>,
    instructions: Option<Vec<(String, InstructionValue)>>,
    sampling: Option<Sampling>,
    list: Option<u32>,
}

/// Reads the payload of a RECOMMEND.
pub fn decode_recommend(frame: &Frame<'_>) -> Result<Request, WireError> {
    let mut partial = Partial::default();
    for section in Sections::new(frame.payload) {
        partial.take(&section?)?;
    }
    let missing = |expected| WireError::MissingSection { kind: Kind::Recommend, expected };
    let (beams, top, options) = partial.search.ok_or_else(|| missing("SEARCH"))?;
    let (_, history) =
        partial.history.ok_or_else(|| missing("HISTORY_TOKENS, HISTORY_IDS, HISTORY_KEYS or HISTORY_TEXT"))?;
    Ok(Request {
        id: frame.header.id,
        history,
        beams,
        top,
        max_items_per_sid: partial.max_items_per_sid,
        deny: partial.deny.map_or(ItemRefs::Ids(Vec::new()), |(_, items)| items),
        deny_history: options & DENY_HISTORY != 0,
        strict: options & STRICT != 0,
        with_text: options & WITH_TEXT != 0,
        deadline: partial.deadline,
        user: partial.user,
        view: partial.view,
        scenario: partial.scenario,
        trigger: partial.trigger.map(|(_, item)| item),
        instructions: partial.instructions.unwrap_or_default(),
        sampling: partial.sampling,
        log_probs: options & LOG_PROBS != 0,
        list: partial.list,
    })
}

impl Partial {
    fn take(&mut self, section: &Section<'_>) -> Result<(), WireError> {
        let Some(tag) = Tag::from_code(section.id.0) else { return section.skip(Kind::Recommend) };
        let mut fields = section.fields(tag);
        match tag {
            Tag::Search => section.store(tag, &mut self.search, search(&mut fields)?)?,
            Tag::HistoryTokens => {
                let count = fields.elements(4, "a multiple of 4")?;
                store_one_of(section, tag, &mut self.history, History::Tokens(fields.u32s(count, "tokens")?))?;
            }
            Tag::HistoryIds | Tag::HistoryKeys => {
                let items = items(tag == Tag::HistoryIds, &mut fields)?;
                store_one_of(section, tag, &mut self.history, History::Items(items))?;
            }
            Tag::HistoryText => {
                let text = fields.rest_as_text("the prompt")?.to_owned();
                store_one_of(section, tag, &mut self.history, History::Text(text))?;
            }
            Tag::DenyIds | Tag::DenyKeys => {
                let items = items(tag == Tag::DenyIds, &mut fields)?;
                store_one_of(section, tag, &mut self.deny, items)?;
            }
            Tag::MaxItemsPerSid => section.store(tag, &mut self.max_items_per_sid, fields.u32("the count")?)?,
            Tag::Deadline => {
                let left = Duration::from_micros(fields.u64("the microseconds")?);
                section.store(tag, &mut self.deadline, left)?;
            }
            Tag::User => section.store(tag, &mut self.user, fields.rest_as_text("the user")?.to_owned())?,
            Tag::View => section.store(tag, &mut self.view, fields.rest_as_text("the view")?.to_owned())?,
            Tag::Scenario => section.store(tag, &mut self.scenario, fields.u32("the scenario")?)?,
            Tag::Instructions => section.store(tag, &mut self.instructions, instructions(&mut fields)?)?,
            Tag::TriggerId => {
                let item = ItemRef::Id(fields.u64("the item")?);
                store_one_of(section, tag, &mut self.trigger, item)?;
            }
            Tag::TriggerKey => {
                let item = ItemRef::Key(fields.rest_as_text("the item")?.to_owned());
                store_one_of(section, tag, &mut self.trigger, item)?;
            }
            Tag::Sample => section.store(tag, &mut self.sampling, sampling(&mut fields)?)?,
            Tag::List => section.store(tag, &mut self.list, fields.u32("the length")?)?,
            _ => return section.skip(Kind::Recommend),
        }
        fields.end()
    }
}

fn search(fields: &mut Fields<'_>) -> Result<(u32, u32, u32), WireError> {
    let (beams, top) = (fields.u32("beams")?, fields.u32("top")?);
    let at = fields.offset();
    let options = fields.u32("options")?;
    if options & !(DENY_HISTORY | STRICT | WITH_TEXT | LOG_PROBS) != 0 {
        return Err(fields.bad_value(at, "options", options.into(), "no bit above bit 3"));
    }
    Ok((beams, top, options))
}

fn sampling(fields: &mut Fields<'_>) -> Result<Sampling, WireError> {
    let at = fields.offset();
    let kind = match fields.u32("the kind")? {
        INDEPENDENT => SamplingKind::Independent,
        DISTINCT => SamplingKind::Distinct,
        other => return Err(fields.bad_value(at, "the kind", other.into(), "0 or 1")),
    };
    // Its bounds are the engine's affair, which refuses with them in the message.
    Ok(Sampling { kind, temperature: fields.f32("the temperature")?, seed: fields.u64("the seed")? })
}

fn instructions(fields: &mut Fields<'_>) -> Result<Vec<(String, InstructionValue)>, WireError> {
    let count = fields.count(12, "instructions")?;
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        let name = fields.text("a name")?.to_owned();
        let at = fields.offset();
        let value = match fields.u32("a kind")? {
            VECTOR => {
                let size = fields.count(4, "elements")?;
                InstructionValue::Vector(fields.u32s(size, "elements")?.into_iter().map(f32::from_bits).collect())
            }
            ID => InstructionValue::Id(fields.u32("an id")?),
            other => return Err(fields.bad_value(at, "a kind", other.into(), "0 or 1")),
        };
        list.push((name, value));
    }
    Ok(list)
}

fn items(are_ids: bool, fields: &mut Fields<'_>) -> Result<ItemRefs, WireError> {
    if !are_ids {
        return fields.texts("keys").map(ItemRefs::Keys);
    }
    let count = fields.elements(8, "a multiple of 8")?;
    fields.u64s(count, "ids").map(ItemRefs::Ids)
}

/// Stores a value that several sections can bring, but only one of them.
pub(super) fn store_one_of<T>(
    section: &Section<'_>,
    tag: Tag,
    slot: &mut Option<(Tag, T)>,
    value: T,
) -> Result<(), WireError> {
    let offset = section.offset;
    match slot.replace((tag, value)) {
        None => Ok(()),
        Some((first, _)) if first == tag => Err(WireError::DuplicateSection { section: tag, offset }),
        Some((first, _)) => Err(WireError::ConflictingSections { first, second: tag, offset }),
    }
}
