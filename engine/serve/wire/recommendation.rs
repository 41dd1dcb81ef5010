//! RECOMMENDATION: a [`Recommendation`] as sections.
//!
//! RESULTS (or LISTS) keeps numbers and ITEM_TEXT the strings, in the same order, so that a caller who asked for no text receives
//! none and a gateway can read ids and scores without touching a string.

use super::recommend::store_one_of;
use super::section::{Fields, put_optional_text, put_text};
use super::{Frame, FrameWriter, Kind, Sections, Tag, WireError};
use crate::request::{Entry, InstructionUsed, Item, Origin, Policy, Provenance, Ranked, Recommendation, StageTimings};
use crate::sampling::LogProb;

/// Appends a RECOMMENDATION.
pub fn encode_recommendation(answer: &Recommendation, limit: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
    let mut frame = FrameWriter::begin(out, Kind::Recommendation, answer.id);
    frame.required(Tag::Summary, |out| put_u32s(out, &[answer.unknown_items, answer.prompt_tokens]));
    // The engine gives lists throughout, or none. Without results there is nothing to tell them apart by.
    let lists = answer.results.iter().any(|ranked| !ranked.list.is_empty());
    if !lists {
        frame.required(Tag::Results, |out| {
            put_u32s(out, &[answer.results.len() as u32]);
            answer.results.iter().for_each(|ranked| put_ranked(out, ranked));
        });
    }
    let items = || answer.results.iter().flat_map(Ranked::every_item);
    if items().any(|item| item.key.is_some() || item.title.is_some()) {
        frame.optional(Tag::ItemText, |out| {
            for item in items() {
                put_optional_text(out, item.key.as_deref());
                put_optional_text(out, item.title.as_deref());
            }
        });
    }
    frame.optional(Tag::Provenance, |out| {
        let made = &answer.provenance;
        [&made.model, &made.catalog, &made.device, &made.dtype].into_iter().for_each(|text| put_text(out, text));
    });
    let spent = &answer.timings;
    frame.optional(Tag::Timings, |out| {
        let stages =
            [spent.resolve_us, spent.queue_us, spent.prefill_us, spent.search_us, spent.expand_us, spent.total_us];
        put_u32s(out, &stages);
    });
    let results = &answer.results;
    // The engine gives all results as many, or none.
    let steps = results.iter().map(|ranked| ranked.log_probs.len()).min().unwrap_or_default();
    if steps > 0 {
        frame.optional(Tag::LevelLogProbs, |out| {
            put_u32s(out, &[steps as u32]);
            for log_prob in results.iter().flat_map(|ranked| &ranked.log_probs[..steps]) {
                put_u32s(out, &[log_prob.behaviour.to_bits(), log_prob.raw.to_bits()]);
            }
        });
    }
    let keys: Vec<u32> = results.iter().filter_map(|ranked| ranked.key).map(f32::to_bits).collect();
    if !keys.is_empty() && keys.len() == results.len() {
        frame.optional(Tag::SampleKeys, |out| put_u32s(out, &keys));
    }
    if !answer.instructions.is_empty() {
        frame.optional(Tag::InstructionsUsed, |out| {
            put_u32s(out, &[answer.instructions.len() as u32]);
            for used in &answer.instructions {
                put_text(out, &used.name);
                put_u32s(out, &[used.origin as u32, used.version.is_some().into()]);
                out.extend_from_slice(&used.version.unwrap_or_default().to_le_bytes());
            }
        });
    }
    if lists {
        frame.required(Tag::Lists, |out| {
            put_u32s(out, &[results.len() as u32]);
            results.iter().for_each(|ranked| put_list(out, ranked));
        });
    }
    let policy = &answer.provenance.policy;
    if *policy != Policy::default() {
        frame.optional(Tag::Policy, |out| {
            out.extend_from_slice(&policy.number.to_le_bytes());
            put_text(out, &policy.version);
        });
    }
    frame.finish(limit)
}

fn put_u32s(out: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

fn put_ranked(out: &mut Vec<u8>, ranked: &Ranked) {
    put_u32s(out, &[ranked.score.to_bits()]);
    put_entry(out, &ranked.sid, &ranked.items);
}

fn put_entry(out: &mut Vec<u8>, sid: &[u16], items: &[Item]) {
    put_u32s(out, &[sid.len() as u32, items.len() as u32]);
    sid.iter().for_each(|code| out.extend_from_slice(&code.to_le_bytes()));
    items.iter().for_each(|item| out.extend_from_slice(&item.id.to_le_bytes()));
}

fn put_list(out: &mut Vec<u8>, ranked: &Ranked) {
    put_u32s(out, &[ranked.score.to_bits(), ranked.list.len() as u32]);
    ranked.list.iter().for_each(|entry| put_entry(out, &entry.sid, &entry.items));
}

/// Reads the payload of a RECOMMENDATION. Absent text, provenance, policy or timings read as none, empty and zero.
pub fn decode_recommendation(frame: &Frame<'_>) -> Result<Recommendation, WireError> {
    let (mut summary, mut results, mut text, mut provenance, mut timings) = (None, None, None, None, None);
    let (mut log_probs, mut keys, mut instructions, mut policy) = (None, None, None, None);
    for section in Sections::new(frame.payload) {
        let section = section?;
        let Some(tag) = Tag::from_code(section.id.0) else {
            section.skip(Kind::Recommendation)?;
            continue;
        };
        let mut fields = section.fields(tag);
        match tag {
            Tag::Summary => {
                let value = (fields.u32("unknown items")?, fields.u32("prompt tokens")?);
                section.store(tag, &mut summary, value)?;
            }
            Tag::Results => store_one_of(&section, tag, &mut results, read_results(&mut fields)?)?,
            Tag::Lists => store_one_of(&section, tag, &mut results, read_lists(&mut fields)?)?,
            Tag::ItemText => {
                section.store(tag, &mut text, section)?;
                continue; // Read below: it needs the items, and sections come in any order.
            }
            Tag::LevelLogProbs => {
                section.store(tag, &mut log_probs, section)?;
                continue;
            }
            Tag::SampleKeys => {
                section.store(tag, &mut keys, section)?;
                continue;
            }
            Tag::InstructionsUsed => section.store(tag, &mut instructions, read_instructions(&mut fields)?)?,
            Tag::Provenance => section.store(tag, &mut provenance, read_provenance(&mut fields)?)?,
            Tag::Policy => section.store(tag, &mut policy, read_policy(&mut fields)?)?,
            Tag::Timings => section.store(tag, &mut timings, read_timings(&mut fields)?)?,
            _ => {
                section.skip(Kind::Recommendation)?;
                continue;
            }
        }
        fields.end()?;
    }
    let missing = |expected| WireError::MissingSection { kind: Kind::Recommendation, expected };
    let (unknown_items, prompt_tokens) = summary.ok_or_else(|| missing("SUMMARY"))?;
    let (_, mut results) = results.ok_or_else(|| missing("RESULTS or LISTS"))?;
    if let Some(section) = text {
        let mut fields = section.fields(Tag::ItemText);
        for item in results.iter_mut().flat_map(Ranked::every_item_mut) {
            item.key = fields.optional_text("a key")?.map(str::to_owned);
            item.title = fields.optional_text("a title")?.map(str::to_owned);
        }
        fields.end()?;
    }
    if let Some(section) = log_probs {
        read_log_probs(section.fields(Tag::LevelLogProbs), &mut results)?;
    }
    if let Some(section) = keys {
        let mut fields = section.fields(Tag::SampleKeys);
        for ranked in &mut results {
            ranked.key = Some(fields.f32("a key")?);
        }
        fields.end()?;
    }
    Ok(Recommendation {
        id: frame.header.id,
        results,
        unknown_items,
        prompt_tokens,
        instructions: instructions.unwrap_or_default(),
        provenance: Provenance { policy: policy.unwrap_or_default(), ..provenance.unwrap_or_default() },
        timings: timings.unwrap_or_default(),
    })
}

fn read_results(fields: &mut Fields<'_>) -> Result<Vec<Ranked>, WireError> {
    let count = fields.count(12, "results")?;
    let mut results = Vec::with_capacity(count);
    for _ in 0..count {
        let score = fields.f32("a score")?;
        let Entry { sid, items } = read_entry(fields)?;
        results.push(Ranked { sid, score, items, ..Ranked::default() });
    }
    Ok(results)
}

fn read_instructions(fields: &mut Fields<'_>) -> Result<Vec<InstructionUsed>, WireError> {
    let count = fields.count(20, "instructions")?;
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        let name = fields.text("a name")?.to_owned();
        let at = fields.offset();
        let code = fields.u32("an origin")?;
        let origin = Origin::ALL.get(code as usize).copied();
        let origin = origin.ok_or_else(|| fields.bad_value(at, "an origin", code.into(), "0 to 5"))?;
        let at = fields.offset();
        let has_version = match fields.u32("whether there is a version")? {
            0 => false,
            1 => true,
            other => return Err(fields.bad_value(at, "whether there is a version", other.into(), "0 or 1")),
        };
        let version = fields.u64("a version")?;
        list.push(InstructionUsed { name, origin, version: has_version.then_some(version) });
    }
    Ok(list)
}

fn read_entry(fields: &mut Fields<'_>) -> Result<Entry, WireError> {
    let (levels, items) = (fields.u32("a level count")? as usize, fields.u32("an item count")? as usize);
    let sid = fields.u16s(levels, "codes")?;
    let ids = fields.u64s(items, "item ids")?;
    Ok(Entry { sid, items: ids.into_iter().map(|id| Item { id, key: None, title: None }).collect() })
}

fn read_lists(fields: &mut Fields<'_>) -> Result<Vec<Ranked>, WireError> {
    let count = fields.count(8, "lists")?;
    let mut results = Vec::with_capacity(count);
    for _ in 0..count {
        let score = fields.f32("a score")?;
        let entries = fields.count(8, "entries")?;
        let list = (0..entries).map(|_| read_entry(fields)).collect::<Result<_, _>>()?;
        results.push(Ranked { score, list, ..Ranked::default() });
    }
    Ok(results)
}

fn read_log_probs(mut fields: Fields<'_>, results: &mut [Ranked]) -> Result<(), WireError> {
    let steps = fields.count(8, "steps")?;
    for ranked in results {
        // As many as the section holds: nothing is allocated that is not there.
        let values = fields.u32s(2 * steps, "log-probabilities")?;
        let pair = |pair: &[u32; 2]| LogProb { behaviour: f32::from_bits(pair[0]), raw: f32::from_bits(pair[1]) };
        ranked.log_probs = values.as_chunks().0.iter().map(pair).collect();
    }
    fields.end()
}

fn read_provenance(fields: &mut Fields<'_>) -> Result<Provenance, WireError> {
    Ok(Provenance {
        model: fields.text("the model")?.to_owned(),
        catalog: fields.text("the catalogue")?.to_owned(),
        device: fields.text("the device")?.to_owned(),
        dtype: fields.text("the dtype")?.to_owned(),
        policy: Policy::default(),
    })
}

fn read_policy(fields: &mut Fields<'_>) -> Result<Policy, WireError> {
    Ok(Policy { number: fields.u64("the policy's number")?, version: fields.text("the policy's version")?.to_owned() })
}

fn read_timings(fields: &mut Fields<'_>) -> Result<StageTimings, WireError> {
    Ok(StageTimings {
        resolve_us: fields.u32("resolve_us")?,
        queue_us: fields.u32("queue_us")?,
        prefill_us: fields.u32("prefill_us")?,
        search_us: fields.u32("search_us")?,
        expand_us: fields.u32("expand_us")?,
        total_us: fields.u32("total_us")?,
    })
}
