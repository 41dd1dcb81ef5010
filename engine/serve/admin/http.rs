//! As much of HTTP/1.1 as reading pages takes: the head of one request in, one response out, then the connection closes.
//!
//! A body is never read, so there is nothing to smuggle a second request in; whatever follows the head is thrown away.

use std::fmt::Write;

/// Bytes of a request's head.
pub(super) const MAX_HEAD_BYTES: usize = 8 << 10;
/// Headers of a request.
const MAX_HEADERS: usize = 64;

/// What a peer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Without its query.
    pub(super) path: String,
    /// The host it means, without the port.
    pub(super) host: Option<String>,
}

/// What it wants with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    /// Like GET, without the body.
    Head,
    /// Anything else.
    Other,
}

/// Why a head is not read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHead {
    /// Not HTTP/1.
    Malformed,
    /// Longer than [`MAX_HEAD_BYTES`], or more than [`MAX_HEADERS`].
    TooLarge,
}

/// Reads the head at the beginning of `bytes`; `None` while it is not complete.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Ask>, BadHead> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length > MAX_HEAD_BYTES => return Err(BadHead::TooLarge),
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD_BYTES => return Err(BadHead::TooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooLarge),
        Err(_) => return Err(BadHead::Malformed),
    }
    let (Some(method), Some(target)) = (head.method, head.path) else { return Err(BadHead::Malformed) };
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => Method::Other,
    };
    let mut hosts = head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let host = hosts.next().map(|header| std::str::from_utf8(header.value).map(without_port));
    // Two hosts are two opinions about where this request goes.
    let host = match host {
        _ if hosts.next().is_some() => return Err(BadHead::Malformed),
        Some(Err(_)) => return Err(BadHead::Malformed),
        Some(Ok(host)) => Some(host.to_owned()),
        None => None,
    };
    let path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
    Ok(Some(Ask { method, path, host }))
}

fn without_port(host: &str) -> &str {
    let host = host.trim();
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _)) => inside,
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// What a peer gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Response {
    /// One line for people.
    pub(super) fn line(status: u16, text: &str) -> Response {
        Response { status, content_type: "text/plain; charset=utf-8", body: format!("{text}\n") }
    }

    /// As bytes; without the body for HEAD.
    pub(super) fn to_bytes(&self, method: Method) -> Vec<u8> {
        let mut out = String::with_capacity(512 + self.body.len());
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        };
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\nCache-Control: \
             no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Security-Policy: script-src 'none'; frame-ancestors 'none'\r\n",
            self.status,
            self.content_type,
            self.body.len()
        );
        if self.status == 405 {
            out.push_str("Allow: GET, HEAD\r\n");
        }
        out.push_str("\r\n");
        if method != Method::Head {
            out.push_str(&self.body);
        }
        out.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: Method, path: &str, host: Option<&str>) -> Ask {
        Ask { method, path: path.into(), host: host.map(Into::into) }
    }

    #[test]
    fn heads_are_read() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: localhost:9\r\n\r\n", ask(Method::Get, "/", Some("localhost"))),
            ("GET /metrics?a=b#c HTTP/1.0\r\n\r\n", ask(Method::Get, "/metrics", None)),
            ("HEAD /x HTTP/1.1\r\nhOST: [::1]:80\r\n\r\nrest", ask(Method::Head, "/x", Some("::1"))),
            ("DELETE /x HTTP/1.1\nHost: a\n\n", ask(Method::Other, "/x", Some("a"))),
        ] {
            assert_eq!(parse(head.as_bytes()), Ok(Some(expected)), "{head:?}");
            let end = head.find("rest").unwrap_or(head.len());
            for cut in 0..end {
                let part = parse(&head.as_bytes()[..cut]);
                assert!(matches!(part, Ok(None)), "{:?}: {part:?}", &head[..cut]);
            }
        }
    }

    #[test]
    fn what_is_not_a_head_is_refused() {
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(MAX_HEAD_BYTES));
        for (head, expected) in [
            ("\0\0\0\0", BadHead::Malformed),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BadHead::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", BadHead::Malformed),
            ("GET / HTTP/1.1\r\nHost: \u{ff}\x01\r\n\r\n", BadHead::Malformed),
            (many.as_str(), BadHead::TooLarge),
            (long.as_str(), BadHead::TooLarge),
            (&long[..MAX_HEAD_BYTES], BadHead::TooLarge),
        ] {
            assert_eq!(parse(head.as_bytes()), Err(expected), "{:?}", &head[..head.len().min(60)]);
        }
    }
}
