//! `index.json` of LETTER, MiniOneRec and LC-Rec: item id -> token strings. Titles may come from MiniOneRec's `info.txt`.
//!
//! A token is `<a_137>`: a name for the level and a code. The name must be the same for all items of a level, so that a
//! token in the wrong place is found. Plain integers are accepted in place of tokens.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use super::super::error::{Place, Unit};
use super::{CatalogError, Input, RawItem, malformed, name_of};

/// Entries between two calls of the progress callback.
const ENTRIES_PER_REPORT: u64 = 1 << 14;

pub(super) fn read(input: &mut Input<'_>, mut reader: impl Read, info: Option<&Path>) -> Result<(), CatalogError> {
    let titles = info.map(read_info).transpose()?.unwrap_or_default();
    let mut text = Vec::new();
    reader.read_to_end(&mut text).map_err(|error| input.io(error))?;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let mut failure = None;
    let mut unused = titles.len();
    let entries = Entries { input, titles: &titles, unused: &mut unused, failure: &mut failure };
    let mut json = serde_json::Deserializer::from_slice(text);
    let parsed = entries.deserialize(&mut json).and_then(|()| json.end());
    if let Some(failure) = failure {
        return Err(failure);
    }
    if let Err(error) = parsed {
        let place = input.place(Unit::Line, error.line() as u64);
        return Err(malformed(&place, None, format!("column {}: {error}", error.column())));
    }
    if unused > 0 {
        let known: std::collections::HashSet<u64> = input.builder.ids.iter().copied().collect();
        let stray = titles.iter().filter(|(id, _)| !known.contains(id)).min_by_key(|(_, line)| line.place.number);
        if let Some((id, line)) = stray {
            let reason = format!("item {id} is not in {}; is this the info.txt of another catalogue?", input.source);
            return Err(malformed(&line.place, Some("item"), reason));
        }
    }
    (input.progress)(input.total, input.total);
    Ok(())
}

/// One line of `info.txt`.
struct InfoLine {
    tokens: String,
    title: String,
    place: Place,
}

fn read_info(path: &Path) -> Result<HashMap<u64, InfoLine>, CatalogError> {
    let failed = |source| CatalogError::Io { action: "read", path: path.to_owned(), source };
    let reader = BufReader::new(sidereal_ffi::open_regular(path).map_err(failed)?);
    let mut lines = HashMap::new();
    for (line, number) in reader.split(b'\n').zip(1u64..) {
        let place = Place { source: name_of(path), unit: Unit::Line, number };
        let line = String::from_utf8(line.map_err(failed)?)
            .map_err(|error| malformed(&place, None, format!("not UTF-8: {error}")))?;
        let line = line.trim_end_matches('\r');
        if line.is_empty() {
            continue;
        }
        let parts = line.split_once('\t').and_then(|(tokens, rest)| Some((tokens, rest.rsplit_once('\t')?)));
        let Some((tokens, (title, item))) = parts else {
            return Err(malformed(&place, None, "expected tokens, tab, title, tab, item"));
        };
        let reason = || format!("\"{}\": expected a whole number", item.escape_debug());
        let item: u64 = item.trim().parse().map_err(|_| malformed(&place, Some("item"), reason()))?;
        let line = InfoLine { tokens: tokens.to_owned(), title: title.to_owned(), place: place.clone() };
        if let Some(earlier) = lines.insert(item, line) {
            return Err(CatalogError::DuplicateItem { item, first: earlier.place, second: place });
        }
    }
    Ok(lines)
}

/// A token string, or a code by itself.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Code(u64),
    Text(String),
}

/// Streams the object's entries into the builder. serde carries only text through an error, so ours waits in `failure`.
struct Entries<'a, 'b> {
    input: &'a mut Input<'b>,
    titles: &'a HashMap<u64, InfoLine>,
    unused: &'a mut usize,
    failure: &'a mut Option<CatalogError>,
}

impl<'de> DeserializeSeed<'de> for Entries<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(r#"an object of item ids and token lists such as {"0": ["<a_1>", "<b_2>"]}"#)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut names = Vec::new();
        let mut number = 0;
        while let Some(item) = map.next_key::<String>()? {
            number += 1;
            let place = self.input.place(Unit::Entry, number);
            let value = map.next_value::<serde_json::Value>()?;
            if let Err(failure) = self.entry(&place, &item, value, &mut names) {
                *self.failure = Some(failure);
                // The text is never shown; what stands in `failure` is.
                return Err(A::Error::custom("stopped"));
            }
            if number.is_multiple_of(ENTRIES_PER_REPORT) {
                (self.input.progress)(number, 0);
            }
        }
        Ok(())
    }
}

impl Entries<'_, '_> {
    fn entry(
        &mut self,
        place: &Place,
        item: &str,
        value: serde_json::Value,
        names: &mut Vec<String>,
    ) -> Result<(), CatalogError> {
        let reason = || format!("item \"{}\": expected a whole number as the entry's name", item.escape_debug());
        let id: u64 = item.parse().map_err(|_| malformed(place, Some("item"), reason()))?;
        let field = format!("item {id}");
        let tokens: Vec<Token> = serde_json::from_value(value)
            .map_err(|_| malformed(place, Some(&field), r#"expected a list of tokens such as ["<a_1>", "<b_2>"]"#))?;
        let mut sid = Vec::with_capacity(tokens.len());
        for (level, token) in tokens.iter().enumerate() {
            let (name, code) = match token {
                Token::Code(code) => ("", *code),
                Token::Text(text) => split_token(text).ok_or_else(|| {
                    let reason = format!("\"{}\": expected a token such as <a_137>", text.escape_debug());
                    malformed(place, Some(&format!("{field}, level {level}")), reason)
                })?,
            };
            match names.get(level) {
                Some(known) if known != name => {
                    let reason = format!("token <{name}_{code}> where earlier items have <{known}_..>");
                    return Err(malformed(place, Some(&format!("{field}, level {level}")), reason));
                }
                Some(_) => {}
                None => names.push(name.to_owned()),
            }
            sid.push(code);
        }
        let info = self.titles.get(&id);
        if let Some(info) = info {
            *self.unused = self.unused.saturating_sub(1);
            let given: String =
                tokens.iter().map(|token| if let Token::Text(text) = token { text } else { "" }).collect();
            if given != info.tokens {
                let reason = format!("item {id} is {} here and {given} in {}", info.tokens, self.input.source);
                return Err(malformed(&info.place, Some("tokens"), reason));
            }
        }
        let title = info.map(|info| info.title.as_str());
        self.input.add(place, &RawItem { id, sid: &sid, weight: None, key: None, title })
    }
}

/// `<a_137>` to (`a`, 137).
fn split_token(token: &str) -> Option<(&str, u64)> {
    let (name, code) = token.strip_prefix('<')?.strip_suffix('>')?.rsplit_once('_')?;
    let digits = !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_digit());
    if digits { Some((name, code.parse().ok()?)) } else { None }
}
