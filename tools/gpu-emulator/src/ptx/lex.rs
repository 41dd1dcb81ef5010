//! Splits PTX text into words, numbers, strings and punctuation, each with its line. Comments vanish here.
//!
//! A word keeps its dots (`ld.global.v4.u32`, `%tid.x`, `.reg`), because PTX separates an instruction's modifiers by nothing else.

use super::ParseError;

/// One token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    Word(&'a str),
    Number(&'a str),
    Text(&'a str),
    Mark(char),
}

/// A token and the line it starts on, counted from one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located<'a> {
    pub token: Token<'a>,
    pub line: u32,
}

/// All tokens of `text`.
pub(crate) fn tokens(text: &str) -> Result<Vec<Located<'_>>, ParseError> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(text.len() / 4);
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let start = at;
        let byte = bytes[at];
        if byte == b'\n' {
            line += 1;
            at += 1;
        } else if byte.is_ascii_whitespace() || byte == 0 {
            at += 1;
        } else if bytes[at..].starts_with(b"//") {
            at = find(bytes, at, b"\n").unwrap_or(bytes.len());
        } else if bytes[at..].starts_with(b"/*") {
            let end = find(bytes, at + 2, b"*/").ok_or_else(|| ParseError::new(line, "a comment without its end"))?;
            line += count_lines(&bytes[at..end]);
            at = end + 2;
        } else if byte == b'"' {
            let end = find(bytes, at + 1, b"\"").ok_or_else(|| ParseError::new(line, "a string without its end"))?;
            out.push(Located { token: Token::Text(&text[at + 1..end]), line });
            line += count_lines(&bytes[at..end]);
            at = end + 1;
        } else if is_word(byte) {
            while at < bytes.len() && (is_word(bytes[at]) || bytes[at].is_ascii_digit() || is_scope(bytes, at)) {
                at += if is_scope(bytes, at) { 2 } else { 1 };
            }
            out.push(Located { token: Token::Word(&text[start..at]), line });
        } else if byte.is_ascii_digit() {
            while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'.') {
                at += 1;
            }
            out.push(Located { token: Token::Number(&text[start..at]), line });
        } else if byte.is_ascii() {
            out.push(Located { token: Token::Mark(byte as char), line });
            at += 1;
        } else {
            return Err(ParseError::new(line, "a byte that is not ASCII outside a comment"));
        }
    }
    Ok(out)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

/// `L2::128B` and `shared::cta` are modifiers of one word.
fn is_scope(bytes: &[u8], at: usize) -> bool {
    bytes[at..].starts_with(b"::")
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes[from..].windows(what.len()).position(|w| w == what).map(|p| from + p)
}

fn count_lines(bytes: &[u8]) -> u32 {
    bytes.iter().filter(|&&b| b == b'\n').count() as u32
}
