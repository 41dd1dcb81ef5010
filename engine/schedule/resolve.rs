//! From a request to what the device needs: items to tokens, denied items to trie nodes. Runs off the engine thread.

use std::sync::Arc;

use crate::catalog::{Allowed, Catalog, ItemIndex, Snapshot};
use crate::export::Manifest;
use crate::request::{History, ItemRef, ItemRefs, Refusal, RefusalKind, Request};
use crate::sampling::{Sampling, SamplingKind};
use crate::schedule::instructions::{DecoderPrompt, Instructions, LookedUp};
use crate::schedule::text;

/// What requests are checked against: bounds that cannot change while the engine runs.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Longest prompt in tokens.
    pub max_prompt_tokens: usize,
    /// Widest beam.
    pub max_beams: usize,
    /// Items in one history, unknown ones included.
    pub max_history_items: usize,
    /// Items denied by one request, its history included when that is denied.
    pub max_denied_items: usize,
    /// Rows of the embedding table.
    pub vocabulary: usize,
    /// Bytes of a text prompt.
    pub max_text_bytes: usize,
    /// The export's instructions.
    pub instructions: Option<Arc<Instructions>>,
    /// Semantic IDs of the longest list.
    pub max_list_items: usize,
}

/// A request, ready for the device.
#[derive(Debug)]
pub struct Resolved {
    /// The caller's id.
    pub id: u64,
    /// The complete prompt.
    pub tokens: Vec<u32>,
    /// The decoder's, where the export has instructions.
    pub decoder_prompt: DecoderPrompt,
    /// Beam width.
    pub beams: u32,
    /// Draw semantic IDs instead of searching for the best.
    pub sampling: Option<Sampling>,
    /// Return log-probabilities.
    pub log_probs: bool,
    /// Return lists of so many semantic IDs.
    pub list: Option<u32>,
    /// Semantic IDs to return.
    pub top: u32,
    /// Items of each, if bounded.
    pub max_items_per_sid: Option<u32>,
    /// Return keys and titles.
    pub with_text: bool,
    /// What it is pinned to.
    pub snapshot: Arc<Snapshot>,
    /// Items that it may be given, denied ones included; `None` = every item.
    pub allowed: Option<Allowed>,
    /// Items that must not be returned, sorted.
    pub denied: Vec<ItemIndex>,
    /// Trie nodes that must not be expanded, by level, sorted.
    pub banned_nodes: Vec<Vec<u32>>,
    /// Items of the history that the catalogue does not know.
    pub unknown_items: u32,
}

impl Resolved {
    /// Semantic IDs that each beam becomes.
    pub fn items(&self) -> usize {
        self.list.unwrap_or(1) as usize
    }

    /// Beam rows of its search as the cost model counts them: a list takes that many times the steps.
    pub fn search_rows(&self) -> usize {
        self.beams as usize * self.items()
    }
}

/// Checks that need no look-up: what a refusal at the door costs almost nothing for.
pub fn check(request: &Request, bounds: &Bounds) -> Result<(), Refusal> {
    let bad = |message: String| Err(Refusal::new(RefusalKind::BadRequest, message));
    if request.beams == 0 {
        return bad("beams is 0; at least 1 is needed".into());
    }
    if request.beams as usize > bounds.max_beams {
        return bad(format!("beams is {}; the limit is {}", request.beams, bounds.max_beams));
    }
    if request.top == 0 || request.top > request.beams {
        return bad(format!("top is {}; it must be 1 to beams ({})", request.top, request.beams));
    }
    if request.max_items_per_sid == Some(0) {
        return bad("max_items_per_sid is 0; leave it out or give at least 1".into());
    }
    if let Some(sampling) = request.sampling.filter(|s| !Sampling::TEMPERATURES.contains(&s.temperature)) {
        let (low, high) = (Sampling::TEMPERATURES.start(), Sampling::TEMPERATURES.end());
        return bad(format!("temperature is {}; it must be {low} to {high}", sampling.temperature));
    }
    if let Some(items) = request.list {
        let most = bounds.max_list_items;
        if items == 0 || items as usize > most {
            return bad(format!("list is {items}; it must be 1 to {most} (the server's --max-list-items)"));
        }
        if request.sampling.is_some_and(|sampling| sampling.kind == SamplingKind::Distinct) {
            let message = "lists are searched for or sampled independently; distinct samples of lists are not offered";
            return Err(Refusal::new(RefusalKind::Unsupported, message));
        }
    }
    check_instructions(request, bounds.instructions.as_deref())?;
    let history_items = match &request.history {
        History::Tokens(tokens) => {
            too_long(tokens.len(), bounds)?;
            if tokens.is_empty() {
                return bad("tokens is empty; a prompt needs at least one token".into());
            }
            if let Some((at, token)) = tokens.iter().enumerate().find(|(_, t)| **t as usize >= bounds.vocabulary) {
                return bad(format!("tokens[{at}] is {token}; the vocabulary has {} tokens", bounds.vocabulary));
            }
            if request.deny_history {
                return bad("deny_history needs a history given as items, not tokens".into());
            }
            0
        }
        History::Text(text) => {
            text::check(text, bounds)?;
            if request.deny_history {
                return bad("deny_history needs a history given as items, not text".into());
            }
            0
        }
        History::Items(items) => {
            if items.len() > bounds.max_history_items {
                let message =
                    format!("the history has {} items; the limit is {}", items.len(), bounds.max_history_items);
                return Err(Refusal::new(RefusalKind::TooLong, message));
            }
            if request.deny_history { items.len() } else { 0 }
        }
    };
    let denied = request.deny.len() + history_items;
    if denied > bounds.max_denied_items {
        return bad(format!("{denied} items denied; the limit is {}", bounds.max_denied_items));
    }
    Ok(())
}

fn check_instructions(request: &Request, instructions: Option<&Instructions>) -> Result<(), Refusal> {
    let unsupported = |message: String| Err(Refusal::new(RefusalKind::Unsupported, message));
    match instructions {
        Some(instructions) => instructions.check(request),
        None if request.trigger.is_some() || !request.instructions.is_empty() => {
            unsupported("this export's decoder has no instructions: leave out `instructions` and `trigger`".into())
        }
        None => Ok(()),
    }
}

/// Refuses a prompt of more tokens than are served.
pub fn too_long(tokens: usize, bounds: &Bounds) -> Result<(), Refusal> {
    if tokens <= bounds.max_prompt_tokens {
        return Ok(());
    }
    let message = format!("the prompt has {tokens} tokens; the limit is {}", bounds.max_prompt_tokens);
    Err(Refusal::new(RefusalKind::TooLong, message))
}

/// Looks everything up in `snapshot`, which the request is pinned to.
pub fn resolve(
    request: Request,
    manifest: &Manifest,
    snapshot: &Arc<Snapshot>,
    bounds: &Bounds,
    looked_up: &LookedUp,
) -> Result<Resolved, Refusal> {
    let catalog = &**snapshot.catalog();
    let allowed = snapshot.allowed(request.view.as_deref());
    let allowed = allowed.map_err(|unknown| Refusal::new(RefusalKind::Unsupported, unknown.to_string()))?;
    // Nothing would be found by key, so a deny list would be ignored and what it names recommended.
    let by_key = |items: &ItemRefs| matches!(items, ItemRefs::Keys(keys) if !keys.is_empty());
    let history_by_key = matches!(&request.history, History::Items(items) if by_key(items));
    let trigger_by_key = matches!(request.trigger, Some(ItemRef::Key(_)));
    if !catalog.has_keys() && (history_by_key || trigger_by_key || by_key(&request.deny)) {
        let message = "this catalogue has no item keys: name items by numeric id";
        return Err(Refusal::new(RefusalKind::Unsupported, message));
    }
    let decoder_prompt = match &bounds.instructions {
        Some(instructions) => {
            let trigger = request.trigger.as_ref().map(|item| trigger(catalog, item)).transpose()?;
            instructions.prompt(&request, trigger, looked_up, catalog, manifest)
        }
        None => DecoderPrompt::default(),
    };
    let mut unknown_items = 0;
    let mut denied: Vec<ItemIndex> = look_up(catalog, &request.deny).flatten().collect();
    let tokens = match request.history {
        History::Tokens(tokens) => tokens,
        // Where there is a tokenizer, texts have become tokens before.
        History::Text(_) => return Err(Refusal::new(RefusalKind::Unsupported, text::NO_TOKENIZER)),
        History::Items(items) => {
            let Some(prompt) = manifest.prompt() else {
                let message = "this export has no prompt template: send the complete prompt as tokens";
                return Err(Refusal::new(RefusalKind::Unsupported, message));
            };
            let mut known = Vec::with_capacity(items.len());
            for (at, item) in look_up(catalog, &items).enumerate() {
                match item {
                    Some(item) => known.push(item),
                    None if request.strict => return Err(unknown(&items, at)),
                    None => unknown_items += 1,
                }
            }
            if request.deny_history {
                denied.extend(&known);
            }
            too_long(prompt.rendered_tokens(known.len(), manifest), bounds)?;
            // The template keeps the newest; of the others nobody needs to know the semantic ID.
            let kept = known.len().min(prompt.max_items().unwrap_or(usize::MAX));
            let known = &known[known.len() - kept..];
            let levels = catalog.levels();
            let mut sids = vec![0u16; known.len() * levels];
            for (item, sid) in known.iter().zip(sids.chunks_exact_mut(levels)) {
                catalog.sid_of_leaf(catalog.leaf_of(*item), sid);
            }
            let mut tokens = Vec::new();
            if let Err(error) = prompt.render(sids.chunks_exact(levels), manifest, &mut tokens) {
                // Catalogue and manifest were compared at start, so this names a fault of the export, not of the caller.
                return Err(Refusal::new(RefusalKind::BadRequest, error.to_string()));
            }
            if tokens.is_empty() {
                let message = "no item of the history is known and the prompt template adds no token";
                return Err(Refusal::new(RefusalKind::BadRequest, message));
            }
            tokens
        }
    };
    let banned_nodes = catalog.banned_nodes(&mut denied, allowed);
    Ok(Resolved {
        id: request.id,
        tokens,
        decoder_prompt,
        beams: request.beams,
        sampling: request.sampling,
        log_probs: request.log_probs,
        list: request.list,
        top: request.top,
        max_items_per_sid: request.max_items_per_sid,
        with_text: request.with_text,
        snapshot: Arc::clone(snapshot),
        allowed: allowed.cloned(),
        banned_nodes,
        denied,
        unknown_items,
    })
}

fn look_up<'a>(catalog: &'a Catalog, items: &'a ItemRefs) -> Box<dyn Iterator<Item = Option<ItemIndex>> + 'a> {
    match items {
        ItemRefs::Ids(ids) => Box::new(ids.iter().map(|id| catalog.item(*id))),
        ItemRefs::Keys(keys) => Box::new(keys.iter().map(|key| catalog.item_by_key(key))),
    }
}

/// The trigger's place in the catalogue. A shopper acts on one item: there is nothing to skip to.
fn trigger(catalog: &Catalog, item: &ItemRef) -> Result<ItemIndex, Refusal> {
    let (found, name) = match item {
        ItemRef::Id(id) => (catalog.item(*id), id.to_string()),
        ItemRef::Key(key) => (catalog.item_by_key(key), format!("{key:?}")),
    };
    found.ok_or_else(|| {
        let message = format!("trigger = {name} is not in the catalogue, so it has no semantic ID");
        Refusal::new(RefusalKind::UnknownItem, message)
    })
}

fn unknown(items: &ItemRefs, at: usize) -> Refusal {
    let name = match items {
        ItemRefs::Ids(ids) => ids[at].to_string(),
        ItemRefs::Keys(keys) => format!("{:?}", keys[at]),
    };
    Refusal::new(RefusalKind::UnknownItem, format!("items[{at}] = {name} is not in the catalogue"))
}

#[cfg(test)]
mod tests;
