//! OpenOneRec's `sid2pid.json` and `sid2iid.json`: packed semantic ID -> the items that share it.
//!
//! A key is one integer, `(c0 * K1 + c1) * K2 + c2`, where `Kl` is the size of level `l`'s codebook. OpenOneRec has three
//! levels of 8192; declared codes say otherwise. The file has millions of entries, so it is streamed and never held whole.
//! `count` becomes the weight; `count_after_downsample`, which only its benchmark uses, is checked and left out.

use std::io::Read;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::CatalogBuilder;
use super::super::error::{Place, Unit};
use super::{CatalogError, Input, RawItem, malformed};

/// What OpenOneRec packs by.
const CODES: [u32; 3] = [8192; 3];
/// Items between two calls of the progress callback.
const ITEMS_PER_REPORT: u64 = 1 << 16;

/// Whether the object that `text` begins is of this format: the first list in it holds objects, not tokens.
pub(super) fn looks_like(text: &[u8]) -> bool {
    let list = text.iter().position(|&byte| byte == b'[').map(|at| text[at + 1..].trim_ascii_start());
    list.is_some_and(|list| list.starts_with(b"{"))
}

pub(super) fn read(input: &mut Input<'_>, reader: impl Read) -> Result<(), CatalogError> {
    if input.builder.declared.is_none() {
        input.builder = CatalogBuilder::new(&CODES)?;
    }
    let codes = input.builder.codes();
    let place = input.place(Unit::Record, 0);
    let mut failure = None;
    let mut json = serde_json::Deserializer::from_reader(reader);
    let parsed = json.deserialize_map(Entries(Items { input, codes: &codes, place, failure: &mut failure }));
    if let Some(failure) = failure {
        return Err(failure);
    }
    if let Err(error) = parsed.and_then(|()| json.end()) {
        if error.is_io() {
            return Err(input.io(error.into()));
        }
        let place = input.place(Unit::Line, error.line() as u64);
        return Err(malformed(&place, None, format!("column {}: {error}", error.column())));
    }
    (input.progress)(input.total, input.total);
    Ok(())
}

/// One item of a list. Goods have an `iid`, videos and advertisements a `pid`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(alias = "iid")]
    pid: u64,
    count: Option<u64>,
    #[serde(rename = "count_after_downsample")]
    _after_downsample: Option<IgnoredAny>,
}

/// Adds items to the builder. serde carries only text through an error, so ours waits in `failure`.
struct Items<'a, 'b> {
    input: &'a mut Input<'b>,
    codes: &'a [u32],
    /// Of the item added last: items are counted over all lists.
    place: Place,
    failure: &'a mut Option<CatalogError>,
}

impl Items<'_, '_> {
    /// The codes that a key packs.
    fn unpack(&self, key: &str) -> Result<Vec<u64>, CatalogError> {
        let next = Place { number: self.place.number + 1, ..self.place.clone() };
        let refused = |reason: String| malformed(&next, Some(&format!("key \"{}\"", key.escape_debug())), reason);
        let mut packed: u64 =
            key.parse().map_err(|_| refused("expected a packed semantic ID, a whole number".into()))?;
        let mut sid = vec![0; self.codes.len()];
        for (code, &codes) in sid.iter_mut().zip(self.codes).rev() {
            (*code, packed) = (packed % u64::from(codes), packed / u64::from(codes));
        }
        if packed == 0 { Ok(sid) } else { Err(refused(format!("too large to pack codes of levels {:?}", self.codes))) }
    }

    fn add(&mut self, entry: &Entry, sid: &[u64]) -> Result<(), CatalogError> {
        self.place.number += 1;
        if self.place.number.is_multiple_of(ITEMS_PER_REPORT) {
            (self.input.progress)(self.place.number, 0);
        }
        let weight = entry.count.map(|count| count as f64);
        self.input.add(&self.place, &RawItem { id: entry.pid, sid, weight, key: None, title: None })
    }

    /// Keeps the failure, and gives serde something to stop with, which is never shown.
    fn stop<E: serde::de::Error>(&mut self, failure: CatalogError) -> E {
        *self.failure = Some(failure);
        E::custom("stopped")
    }
}

/// The whole object.
struct Entries<'a, 'b>(Items<'a, 'b>);

impl<'de> Visitor<'de> for Entries<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(r#"an object of packed semantic IDs and items such as {"71868170501": [{"pid": 5, "count": 3}]}"#)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let sid = self.0.unpack(&key).map_err(|failure| self.0.stop(failure))?;
            map.next_value_seed(List { items: &mut self.0, sid: &sid })?;
        }
        Ok(())
    }
}

/// The items of one semantic ID.
struct List<'a, 'b, 'c> {
    items: &'a mut Items<'b, 'c>,
    sid: &'a [u64],
}

impl<'de> DeserializeSeed<'de> for List<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(r#"a list of items such as [{"pid": 5, "count": 3}]"#)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(entry) = list.next_element::<Entry>()? {
            self.items.add(&entry, self.sid).map_err(|failure| self.items.stop(failure))?;
        }
        Ok(())
    }
}
