//! JSON that is read strictly: bounded, UTF-8, no key twice in an object, and errors that carry the JSON path.
//!
//! serde's derive could read the manifest in a third of the lines, but its messages name neither the path of a nested
//! value nor the nearest known key, and its maps silently keep the last of two equal keys.

use std::fmt::Write as _;
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::ExportError;

/// Longest JSON text that is parsed. Eight levels of 65,536 tokens, listed one a line with generous indentation, are 15 MB;
/// parsed, a text may take sixteen times its length.
pub(super) const MAX_JSON_BYTES: u64 = 32 << 20;

/// A regular file's length; `None` if nothing is there. Opening a pipe would block, so the kind is looked at first.
pub(super) fn regular_file_bytes(path: &Path) -> Result<Option<u64>, ExportError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
        Ok(_) => Err(ExportError::NotRegular { path: path.to_owned() }),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(source) => Err(ExportError::Read { path: path.to_owned(), source }),
    }
}

/// The text of a file of at most `limit` bytes.
pub(super) fn read_text(path: &Path, limit: u64, advice: &str) -> Result<String, ExportError> {
    let Some(bytes) = regular_file_bytes(path)? else {
        return Err(ExportError::MissingFile { path: path.to_owned(), advice: advice.to_owned() });
    };
    if bytes > limit {
        return Err(ExportError::TooLarge { path: path.to_owned(), bytes, limit });
    }
    let bytes = std::fs::read(path).map_err(|source| ExportError::Read { path: path.to_owned(), source })?;
    String::from_utf8(bytes)
        .map_err(|error| ExportError::NotUtf8 { path: path.to_owned(), at: error.utf8_error().valid_up_to() })
}

/// Parses `text`, refusing an object that names a key twice.
pub(super) fn parse(path: &Path, text: &str) -> Result<Value, ExportError> {
    parse_strict(text).map_err(|error| ExportError::Json { path: path.to_owned(), detail: error.to_string() })
}

/// As [`parse`], without a file to blame.
pub(super) fn parse_strict(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str::<Strict>(text).map(|strict| strict.0)
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = sequence.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let Strict(value) = entries.next_value()?;
            if map.contains_key(&key) {
                return Err(de::Error::custom(format_args!("key {key:?} appears twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A value for a message: short, and told apart by type.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("an array of {}", values.len()),
        Value::Object(map) => format!("an object of {} keys", map.len()),
        Value::String(text) if text.chars().count() > 60 => {
            format!("{:?}...", text.chars().take(60).collect::<String>())
        }
        scalar => scalar.to_string(),
    }
}

/// A JSON value with its place, for readers that report where they failed.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub path: &'a Path,
    /// JSON path; empty at the root.
    pub at: String,
    pub value: &'a Value,
}

impl<'a> Node<'a> {
    pub fn root(path: &'a Path, value: &'a Value) -> Node<'a> {
        Node { path, at: String::new(), value }
    }

    /// The JSON path of a key of this object.
    pub fn key(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) }
    }

    /// `WrongValue` here.
    pub fn wrong(&self, expected: impl Into<String>) -> ExportError {
        let key = if self.at.is_empty() { "(the whole file)" } else { &self.at };
        ExportError::WrongValue {
            path: self.path.to_owned(),
            key: key.to_owned(),
            expected: expected.into(),
            found: describe(self.value),
        }
    }

    /// `Contradiction` here.
    pub fn contradiction(&self, detail: impl Into<String>) -> ExportError {
        ExportError::Contradiction { path: self.path.to_owned(), key: self.at.clone(), detail: detail.into() }
    }

    /// Requires an object whose keys are all among `known`.
    pub fn object(&self, known: &[&str]) -> Result<&'a Map<String, Value>, ExportError> {
        let Value::Object(map) = self.value else {
            return Err(self.wrong(format!("an object with {}", list_of(known))));
        };
        match map.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(map),
            Some(key) => {
                let advice = match nearest(key, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known here: {}", list_of(known)),
                };
                Err(ExportError::UnknownKey { path: self.path.to_owned(), key: self.key(key), advice })
            }
        }
    }

    /// The value of `key`, if present. Call on a node known to be an object.
    pub fn get(&self, key: &str) -> Option<Node<'a>> {
        self.value.get(key).map(|value| Node { path: self.path, at: self.key(key), value })
    }

    /// The value of `key`.
    pub fn require(&self, key: &str, expected: &str) -> Result<Node<'a>, ExportError> {
        self.get(key).ok_or_else(|| ExportError::MissingKey {
            path: self.path.to_owned(),
            key: self.key(key),
            expected: expected.to_owned(),
        })
    }

    /// The elements of an array.
    pub fn elements(&self, expected: &str) -> Result<Vec<Node<'a>>, ExportError> {
        let Value::Array(values) = self.value else {
            return Err(self.wrong(expected));
        };
        let element = |(i, value)| Node { path: self.path, at: format!("{}[{i}]", self.at), value };
        Ok(values.iter().enumerate().map(element).collect())
    }

    /// A whole number in `low..=high`. A float without a fraction is not one.
    pub fn whole(&self, low: u64, high: u64, what: &str) -> Result<u64, ExportError> {
        match self.value.as_u64() {
            Some(number) if (low..=high).contains(&number) => Ok(number),
            _ => Err(self.wrong(format!("{what}, a whole number from {low} to {high}"))),
        }
    }

    /// A string.
    pub fn text(&self, expected: &str) -> Result<&'a str, ExportError> {
        self.value.as_str().ok_or_else(|| self.wrong(expected))
    }

    /// A list of token ids. Read without a `Node` an element: lists run to 65,536.
    pub fn tokens(&self) -> Result<Vec<u32>, ExportError> {
        const EXPECTED: &str = "a list of token ids";
        let Value::Array(values) = self.value else {
            return Err(self.wrong(EXPECTED));
        };
        let token = |(i, value): (usize, &'a Value)| {
            value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                Node { path: self.path, at: format!("{}[{i}]", self.at), value }
                    .wrong(format!("a token id, a whole number from 0 to {}", u32::MAX))
            })
        };
        values.iter().enumerate().map(token).collect()
    }
}

/// `a, b and c`, each in backticks.
pub(super) fn list_of(names: &[&str]) -> String {
    let mut out = String::new();
    for (i, name) in names.iter().enumerate() {
        let joint = if i == 0 {
            ""
        } else if i + 1 == names.len() {
            " and "
        } else {
            ", "
        };
        // Writing to a String cannot fail.
        let _ = write!(out, "{joint}`{name}`");
    }
    out
}

/// The candidate nearest to `name`, if one is near enough to be a slip: a third of its length, at least two edits.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer names are nobody's slip, and the distance is quadratic.
    const LONGEST: usize = 256;
    if name.len() > LONGEST {
        return None;
    }
    let allowed = (name.chars().count() / 3).max(2);
    candidates
        .filter(|candidate| candidate.len() <= LONGEST && candidate.len().abs_diff(name.len()) <= 4 * allowed)
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= allowed && distance < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and substitutions between two strings (Levenshtein), one row at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_levenshtein() {
        for (a, b, expected) in
            [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("score", "scroe", 2), ("é", "e", 1)]
        {
            assert_eq!(edit_distance(a, b), expected, "{a} {b}");
            assert_eq!(edit_distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn nearest_needs_a_resemblance() {
        let known = ["score", "sid", "name", "length_penalty"];
        assert_eq!(nearest("lenght_penalty", known.into_iter()), Some("length_penalty"));
        assert_eq!(nearest("nmae", known.into_iter()), Some("name"));
        assert_eq!(nearest("temperature", known.into_iter()), None);
        assert_eq!(nearest("", known.into_iter()), None);
    }

    #[test]
    fn a_key_twice_is_refused_at_any_depth() {
        let error = parse_strict(r#"{"a": [{"b": 1, "b": 2}]}"#).unwrap_err().to_string();
        assert!(error.contains("\"b\" appears twice") && error.contains("line 1"), "{error}");
        assert!(parse_strict(&"[".repeat(100_000)).is_err(), "deep nesting must not overflow the stack");
    }
}
