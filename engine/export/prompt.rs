//! From a history of semantic IDs to the tokens that the model reads.

use super::{ExportError, Manifest};

/// `prompt` of the manifest: prefix, then for each item its prefix, its semantic ID and its suffix, then suffix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptTemplate {
    pub(super) prefix: Vec<u32>,
    pub(super) item_prefix: Vec<u32>,
    pub(super) item_suffix: Vec<u32>,
    pub(super) suffix: Vec<u32>,
    pub(super) max_items: Option<usize>,
}

impl PromptTemplate {
    /// Tokens before the first item.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// Tokens before each item's semantic ID.
    pub fn item_prefix(&self) -> &[u32] {
        &self.item_prefix
    }

    /// Tokens after each item's semantic ID.
    pub fn item_suffix(&self) -> &[u32] {
        &self.item_suffix
    }

    /// Tokens after the last item.
    pub fn suffix(&self) -> &[u32] {
        &self.suffix
    }

    /// How many items are kept, the newest ones; `None` = all.
    pub fn max_items(&self) -> Option<usize> {
        self.max_items
    }

    /// Tokens of one item. Every item has the same number.
    pub fn item_tokens(&self, manifest: &Manifest) -> usize {
        self.item_prefix.len() + manifest.levels().len() + self.item_suffix.len()
    }

    /// Tokens of the prompt for a history of `items`.
    pub fn rendered_tokens(&self, items: usize, manifest: &Manifest) -> usize {
        let kept = items.min(self.max_items.unwrap_or(usize::MAX));
        kept.saturating_mul(self.item_tokens(manifest)).saturating_add(self.prefix.len() + self.suffix.len())
    }

    /// Appends the prompt for a history, oldest item first, to `out` and returns how many items it kept. On error `out` is
    /// as before.
    pub fn render<'a>(
        &self,
        sids: impl Iterator<Item = &'a [u16]>,
        manifest: &Manifest,
        out: &mut Vec<u32>,
    ) -> Result<usize, ExportError> {
        let begin = out.len();
        out.extend_from_slice(&self.prefix);
        let items_begin = out.len();
        let mut items = 0;
        for sid in sids {
            if let Err(error) = manifest.check_sid(sid) {
                out.truncate(begin);
                return Err(error);
            }
            out.extend_from_slice(&self.item_prefix);
            out.extend(sid.iter().zip(manifest.levels()).filter_map(|(&code, level)| level.token(code)));
            out.extend_from_slice(&self.item_suffix);
            items += 1;
        }
        // Items are equally long, so the oldest can be cut off afterwards, and the iterator needs no length.
        let excess = items - items.min(self.max_items.unwrap_or(usize::MAX));
        out.drain(items_begin..items_begin + excess * self.item_tokens(manifest));
        out.extend_from_slice(&self.suffix);
        Ok(items - excess)
    }
}
