//! As much of HTTP/1.1 as pages and a short order take: one request in, one response out, then the connection closes.
//!
//! Only a POST's body is read, as far as its `Content-Length` says; whatever follows is thrown away, so there is nothing to
//! smuggle a second request in.

use std::fmt::Write;

/// Bytes of a request's head.
pub(super) const MAX_HEAD_BYTES: usize = 8 << 10;
/// Bytes of a request's body.
pub(super) const MAX_BODY_BYTES: usize = 8 << 10;
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
    /// Of a POST.
    pub(super) order: Option<Order>,
}

/// What a POST brings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// Without parameters, in lower case.
    pub(super) content_type: String,
    /// Whether a browser says that a page sent it.
    pub(super) from_page: bool,
    pub(super) body: Vec<u8>,
}

/// What it wants with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    /// Like GET, without the body.
    Head,
    /// Bring something about.
    Post,
    /// Anything else.
    Other,
}

/// Why a head is not read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHead {
    /// Not HTTP/1.
    Malformed,
    /// Longer than [`MAX_HEAD_BYTES`], or more than [`MAX_HEADERS`], or a body of more than [`MAX_BODY_BYTES`].
    TooLarge,
}

/// Reads the request at the beginning of `bytes`; `None` while it is not complete.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Ask>, BadHead> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length > MAX_HEAD_BYTES => return Err(BadHead::TooLarge),
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD_BYTES => return Err(BadHead::TooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooLarge),
        Err(_) => return Err(BadHead::Malformed),
    };
    let (Some(method), Some(target)) = (head.method, head.path) else { return Err(BadHead::Malformed) };
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
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
    let order = match method {
        Method::Post => match read_order(head.headers, &bytes[length..])? {
            Some(order) => Some(order),
            None => return Ok(None),
        },
        _ => None,
    };
    Ok(Some(Ask { method, path, host, order }))
}

/// A POST's body and what is said of it; `None` while it is not complete.
fn read_order(headers: &[httparse::Header<'_>], rest: &[u8]) -> Result<Option<Order>, BadHead> {
    let (mut order, mut told) = (Order::default(), None);
    for header in headers {
        let value = std::str::from_utf8(header.value).map(str::trim).map_err(|_| BadHead::Malformed)?;
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" if told.is_none() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                // A number that is too long for a usize is too large as well.
                told = Some(value.parse().unwrap_or(usize::MAX));
            }
            // Two lengths are two opinions, and pieces of a length that is told later are not read.
            "content-length" | "transfer-encoding" => return Err(BadHead::Malformed),
            "content-type" => {
                order.content_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            }
            "origin" | "sec-fetch-site" => order.from_page = true,
            _ => {}
        }
    }
    let told = told.unwrap_or(0);
    if told > MAX_BODY_BYTES {
        return Err(BadHead::TooLarge);
    }
    Ok(rest.get(..told).map(|body| Order { body: body.to_vec(), ..order }))
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

    /// A JSON object.
    pub(super) fn json(status: u16, told: &serde_json::Value) -> Response {
        Response { status, content_type: "application/json", body: format!("{told}\n") }
    }

    /// As bytes; without the body for HEAD.
    pub(super) fn to_bytes(&self, method: Method) -> Vec<u8> {
        let mut out = String::with_capacity(512 + self.body.len());
        let reason = match self.status {
            200 => "OK",
            202 => "Accepted",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            409 => "Conflict",
            415 => "Unsupported Media Type",
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
        Ask { method, path: path.into(), host: host.map(Into::into), order: None }
    }

    fn order(content_type: &str, from_page: bool, body: &str) -> Option<Order> {
        Some(Order { content_type: content_type.into(), from_page, body: body.into() })
    }

    #[test]
    fn heads_are_read() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: localhost:9\r\n\r\n", ask(Method::Get, "/", Some("localhost"))),
            ("GET /metrics?a=b#c HTTP/1.0\r\n\r\n", ask(Method::Get, "/metrics", None)),
            ("HEAD /x HTTP/1.1\r\nhOST: [::1]:80\r\n\r\nrest", ask(Method::Head, "/x", Some("::1"))),
            ("DELETE /x HTTP/1.1\nHost: a\n\n", ask(Method::Other, "/x", Some("a"))),
            ("POST /x HTTP/1.1\r\n\r\nrest", Ask { order: order("", false, ""), ..ask(Method::Post, "/x", None) }),
            (
                "POST /x HTTP/1.1\r\nContent-Type: Application/JSON; charset=utf-8\r\ncontent-length: 2\r\n\r\n{}rest",
                Ask { order: order("application/json", false, "{}"), ..ask(Method::Post, "/x", None) },
            ),
            (
                "POST /x HTTP/1.1\r\nOrigin: null\r\nContent-Length: 1\r\n\r\n{rest",
                Ask { order: order("", true, "{"), ..ask(Method::Post, "/x", None) },
            ),
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
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", BadHead::Malformed),
            ("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na", BadHead::Malformed),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na", BadHead::Malformed),
            ("POST / HTTP/1.1\r\nContent-Length: 8193\r\n\r\n", BadHead::TooLarge),
            ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", BadHead::TooLarge),
            (long.as_str(), BadHead::TooLarge),
            (&long[..MAX_HEAD_BYTES], BadHead::TooLarge),
        ] {
            assert_eq!(parse(head.as_bytes()), Err(expected), "{:?}", &head[..head.len().min(60)]);
        }
    }
}
