//! `tokenizer.json`: text to the tokens of a prompt.
//!
//! The result is that of `transformers`' `PreTrainedTokenizerFast(tokenizer_file="tokenizer.json")(text)`: added tokens are
//! found in the text, and the file's post-processor adds the special tokens that it declares. Truncation and padding that the
//! file may hold are left out, as `transformers` does unless it is asked for them: a prompt is never cut unsaid.
//! What is refused: a file whose tokens the model does not have, and one that tokenizes by chance (`dropout`).

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokenizers::Tokenizer;

use super::ExportError;
use super::json;

/// File name of the tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// Bytes of the file; the largest in use hold some 40 MB.
const MAX_BYTES: u64 = 256 << 20;

/// What turns text into tokens.
pub struct TextTokenizer {
    path: PathBuf,
    tokenizer: Tokenizer,
    tokens: usize,
    /// The token with the highest id.
    last: Option<(String, u32)>,
}

/// What is looked at in the file before the library reads it.
#[derive(Deserialize)]
struct Outline {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    dropout: Option<f64>,
}

impl fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextTokenizer").field("path", &self.path).field("tokens", &self.tokens).finish()
    }
}

impl TextTokenizer {
    /// Opens the tokenizer of the export in `dir`; `None` if it has none.
    ///
    /// # Errors
    /// The file cannot be read, is not a tokenizer, or tokenizes by chance.
    pub fn open(dir: &Path) -> Result<Option<TextTokenizer>, ExportError> {
        let path = dir.join(TOKENIZER);
        if json::regular_file_bytes(&path)?.is_none() {
            return Ok(None);
        }
        let text = json::read_text(&path, MAX_BYTES, "save it with tokenizer.save(..)")?;
        let bad = |reason: String| ExportError::Tokenizer { path: path.clone(), reason };
        let outline: Outline = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if let Some(dropout) = outline.model.dropout.filter(|dropout| *dropout > 0.0) {
            return Err(bad(format!(
                "model.dropout is {dropout}: the same text would give other tokens each time; set it to null"
            )));
        }
        // The library may panic on a file that contradicts itself.
        let read = catch_unwind(|| Tokenizer::from_bytes(&text));
        let read = read.map_err(|_| bad("the tokenizer library panicked on it".into()))?;
        let mut tokenizer = read.map_err(|error| bad(error.to_string()))?;
        tokenizer.with_truncation(None).map_err(|error| bad(error.to_string()))?;
        tokenizer.with_padding(None);
        let vocabulary = tokenizer.get_vocab(true);
        let (tokens, last) = (vocabulary.len(), vocabulary.into_iter().max_by_key(|(_, id)| *id));
        Ok(Some(TextTokenizer { path, tokenizer, tokens, last }))
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many tokens it knows, added ones included.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Checks that the model has a row for every token.
    ///
    /// # Errors
    /// The token with the highest id, by name, if it has none.
    pub fn validate_against(&self, vocabulary: usize) -> Result<(), ExportError> {
        match &self.last {
            Some((token, id)) if *id as usize >= vocabulary => Err(ExportError::TokenBeyondVocabulary {
                path: self.path.clone(),
                token: token.clone(),
                id: *id,
                vocabulary,
            }),
            _ => Ok(()),
        }
    }

    /// The tokens of a complete prompt.
    ///
    /// # Errors
    /// What the library says, or that it panicked.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        // Patterns and models come from a file: no text may end the thread that tries them.
        let encoded = catch_unwind(AssertUnwindSafe(|| self.tokenizer.encode_fast(text, true)));
        let encoded = encoded.map_err(|_| "the tokenizer library panicked".to_owned())?;
        Ok(encoded.map_err(|error| error.to_string())?.get_ids().to_vec())
    }
}
