//! From a text prompt to its tokens. Runs off the engine thread, before everything else is looked up.

use super::resolve::{Bounds, too_long};
use crate::export::TextTokenizer;
use crate::request::{History, Refusal, RefusalKind, Request};

/// What a caller is told whose text nothing can read.
pub const NO_TOKENIZER: &str =
    "this export has no tokenizer.json: send the complete prompt as tokens, or the history as items";

/// Checks that cost nothing: the work of a tokenizer grows with the bytes.
pub fn check(text: &str, bounds: &Bounds) -> Result<(), Refusal> {
    if text.len() <= bounds.max_text_bytes {
        return Ok(());
    }
    let message = format!("the text has {} bytes; the limit is {}", text.len(), bounds.max_text_bytes);
    Err(Refusal::new(RefusalKind::TooLong, message))
}

/// The same request with its text as tokens; any other as it is.
pub fn tokenized(mut request: Request, tokenizer: &TextTokenizer, bounds: &Bounds) -> Result<Request, Refusal> {
    let History::Text(text) = &request.history else { return Ok(request) };
    let refuse = |message| Err(Refusal::new(RefusalKind::BadRequest, message));
    let tokens = match tokenizer.encode(text) {
        Ok(tokens) => tokens,
        Err(reason) => return refuse(format!("the text cannot be tokenized: {reason}")),
    };
    too_long(tokens.len(), bounds)?;
    if tokens.is_empty() {
        return refuse(format!("the text of {} bytes gives no token; a prompt needs at least one", text.len()));
    }
    request.history = History::Tokens(tokens);
    Ok(request)
}
