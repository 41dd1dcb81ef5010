//! `config.json`, read key by key with errors that name file, key, expected and found.
//!
//! Which keys a family needs is the family's business (engine/model); nothing here lists families. Unknown keys are
//! normal: the file is Hugging Face's and stays unchanged. `null` counts as absent, as it does there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::ExportError;
use super::json::{self, Node};

/// Largest count a configuration may state. Products of two of them fit `usize`.
const MAX_COUNT: u64 = (1 << 31) - 1;

/// A typed view of `config.json` or of an object inside it.
#[derive(Clone, Debug)]
pub struct ConfigReader {
    path: Arc<Path>,
    at: String,
    value: Arc<Value>,
}

impl ConfigReader {
    /// Reads `path`.
    pub fn open(path: &Path) -> Result<ConfigReader, ExportError> {
        let advice = "every export has the config.json that Hugging Face `save_pretrained` wrote";
        ConfigReader::parse(path, &json::read_text(path, json::MAX_JSON_BYTES, advice)?)
    }

    /// Parses `text`; `path` is named in errors.
    pub fn parse(path: &Path, text: &str) -> Result<ConfigReader, ExportError> {
        let value = json::parse(path, text)?;
        if !value.is_object() {
            return Err(Node::root(path, &value).wrong("an object"));
        }
        Ok(ConfigReader { path: path.into(), at: String::new(), value: Arc::new(value) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The family's name in Hugging Face's terms.
    pub fn model_type(&self) -> Result<&str, ExportError> {
        self.text("model_type")
    }

    /// Whether `key` is present and not `null`.
    pub fn has(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    /// A whole number, at least 1.
    pub fn count(&self, key: &str) -> Result<usize, ExportError> {
        self.require(key, "a whole number, at least 1", whole(1))
    }

    /// As [`ConfigReader::count`], or `default` when absent.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize, ExportError> {
        Ok(self.optional(key, whole(1))?.unwrap_or(default))
    }

    /// A whole number that may be 0, or `default` when absent.
    pub fn whole_or(&self, key: &str, default: usize) -> Result<usize, ExportError> {
        Ok(self.optional(key, whole(0))?.unwrap_or(default))
    }

    /// A finite number.
    pub fn float(&self, key: &str) -> Result<f64, ExportError> {
        self.require(key, "a number", number)
    }

    /// As [`ConfigReader::float`], or `default` when absent.
    pub fn float_or(&self, key: &str, default: f64) -> Result<f64, ExportError> {
        Ok(self.optional(key, number)?.unwrap_or(default))
    }

    /// `true` or `false`, or `default` when absent.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool, ExportError> {
        Ok(self.optional_flag(key)?.unwrap_or(default))
    }

    /// `true` or `false`, or `None` when absent.
    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>, ExportError> {
        self.optional(key, |node| node.value.as_bool().ok_or_else(|| node.wrong("true or false")))
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<&str, ExportError> {
        match self.node(key) {
            Some(node) => node.text("a string"),
            None => Err(self.missing(key, "a string")),
        }
    }

    /// A string, or `default` when absent.
    pub fn text_or<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str, ExportError> {
        self.node(key).map_or(Ok(default), |node| node.text("a string"))
    }

    /// A list of whole numbers, each at least 0; `None` when absent.
    pub fn wholes(&self, key: &str) -> Result<Option<Vec<usize>>, ExportError> {
        self.optional(key, |node| node.elements("a list of whole numbers")?.iter().map(whole(0)).collect())
    }

    /// A list of numbers; `None` when absent.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f64>>, ExportError> {
        self.optional(key, |node| node.elements("a list of numbers")?.iter().map(number).collect())
    }

    /// A list of strings; `None` when absent.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>, ExportError> {
        self.optional(key, |node| {
            node.elements("a list of strings")?.iter().map(|e| Ok(e.text("a string")?.to_owned())).collect()
        })
    }

    /// A nested object; `None` when absent.
    pub fn object(&self, key: &str) -> Result<Option<ConfigReader>, ExportError> {
        self.optional(key, |node| {
            if !node.value.is_object() {
                return Err(node.wrong("an object"));
            }
            Ok(ConfigReader { path: self.path.clone(), at: node.at.clone(), value: Arc::new(node.value.clone()) })
        })
    }

    /// `UnsupportedConfig` for the present value of `key`; `advice` says what is supported.
    pub fn unsupported(&self, key: &str, advice: impl Into<String>) -> ExportError {
        let found = self.value.get(key).map_or_else(|| "(absent)".to_owned(), json::describe);
        let key = self.root().key(key);
        ExportError::UnsupportedConfig { path: self.path.to_path_buf(), key, found, advice: advice.into() }
    }

    /// `Contradiction` at `key`, e.g. two keys that cannot both hold.
    pub fn contradiction(&self, key: &str, detail: impl Into<String>) -> ExportError {
        let key = self.root().key(key);
        ExportError::Contradiction { path: PathBuf::from(&*self.path), key, detail: detail.into() }
    }

    fn root(&self) -> Node<'_> {
        Node { path: &self.path, at: self.at.clone(), value: &self.value }
    }

    fn node(&self, key: &str) -> Option<Node<'_>> {
        self.root().get(key).filter(|node| !node.value.is_null())
    }

    fn missing(&self, key: &str, expected: &str) -> ExportError {
        let key = self.root().key(key);
        ExportError::MissingKey { path: self.path.to_path_buf(), key, expected: expected.to_owned() }
    }

    fn optional<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Node<'_>) -> Result<T, ExportError>,
    ) -> Result<Option<T>, ExportError> {
        self.node(key).map(|node| read(&node)).transpose()
    }

    fn require<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Node<'_>) -> Result<T, ExportError>,
    ) -> Result<T, ExportError> {
        self.optional(key, read)?.ok_or_else(|| self.missing(key, expected))
    }
}

fn whole(low: u64) -> impl Fn(&Node<'_>) -> Result<usize, ExportError> {
    // At most 2^31 - 1, so the cast cannot cut.
    move |node| node.whole(low, MAX_COUNT, "a count").map(|number| number as usize)
}

fn number(node: &Node<'_>) -> Result<f64, ExportError> {
    node.value.as_f64().filter(|n| n.is_finite()).ok_or_else(|| node.wrong("a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> ConfigReader {
        ConfigReader::parse(Path::new("m/config.json"), text).unwrap()
    }

    #[test]
    fn reads_every_type_and_treats_null_as_absent() {
        let c = config(
            r#"{"model_type": "t5", "d_model": 64, "eps": 1e-6, "theta": 10000, "tie": false, "none": null,
                "layers": ["a", "b"], "sections": [1, 0], "f": [0.5, 2], "rope": {"theta": 5e5, "n": {"x": 1}}}"#,
        );
        assert_eq!(c.model_type().unwrap(), "t5");
        assert_eq!(c.count("d_model").unwrap(), 64);
        assert_eq!(c.float("theta").unwrap(), 10000.0);
        assert_eq!(c.float_or("eps", 1.0).unwrap(), 1e-6);
        assert_eq!(c.float_or("none", 2.5).unwrap(), 2.5);
        assert_eq!(c.count_or("none", 7).unwrap(), 7);
        assert_eq!(c.whole_or("none", 0).unwrap(), 0);
        assert_eq!(c.optional_flag("tie").unwrap(), Some(false));
        assert_eq!(c.optional_flag("scale").unwrap(), None);
        assert!(c.flag_or("scale", true).unwrap());
        assert_eq!(c.text_or("act", "relu").unwrap(), "relu");
        assert_eq!(c.texts("layers").unwrap().unwrap(), ["a", "b"]);
        assert_eq!(c.wholes("sections").unwrap().unwrap(), [1, 0]);
        assert_eq!(c.floats("f").unwrap().unwrap(), [0.5, 2.0]);
        let rope = c.object("rope").unwrap().unwrap();
        assert_eq!(rope.float("theta").unwrap(), 5e5);
        assert!(c.object("none").unwrap().is_none());
        assert!(c.has("tie") && !c.has("none"));
    }

    #[test]
    fn errors_name_file_key_expected_and_found() {
        let c =
            config(r#"{"d_model": "64", "heads": 0, "eps": [], "rope": {"n": {"x": 1.5}}, "layers": [1], "big": 3e9}"#);
        let check = |error: ExportError, parts: &[&str]| {
            let message = error.to_string();
            for part in ["m/config.json"].iter().chain(parts) {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
        };
        check(c.count("d_model").unwrap_err(), &["`d_model`", "whole number", "\"64\""]);
        check(c.count("heads").unwrap_err(), &["`heads`", "from 1", "found 0"]);
        check(c.count("big").unwrap_err(), &["`big`"]);
        check(c.count("layers_n").unwrap_err(), &["`layers_n` is missing", "at least 1"]);
        check(c.float("eps").unwrap_err(), &["`eps`", "a number", "an array of 0"]);
        check(c.texts("layers").unwrap_err(), &["`layers[0]`", "a string", "found 1"]);
        check(c.object("eps").unwrap_err(), &["`eps`", "an object"]);
        let n = c.object("rope").unwrap().unwrap().object("n").unwrap().unwrap();
        check(n.count("x").unwrap_err(), &["`rope.n.x`", "1.5"]);
        check(n.unsupported("x", "use 1"), &["`rope.n.x` = 1.5", "use 1"]);
        check(c.contradiction("heads", "and d_model"), &["`heads`", "and d_model"]);
        check(c.model_type().unwrap_err(), &["`model_type` is missing"]);
    }
}
