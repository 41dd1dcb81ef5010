//! One HTTP connection: a head in, a response out, the end.
//!
//! ```text
//! Reading ---- head complete, or hopeless ----> Writing ---- all sent ----> Lingering ---- peer ends ----> gone
//!    |  patience over: 408                         |  patience over             |  LINGER over, or too many bytes
//!    +--------------------------------------------------------------------------+---------------------> gone
//! ```
//!
//! Every state has its time and its bytes, so that a peer holds its own socket for a few seconds and nothing else.
//! `Lingering` exists because closing a socket with unread bytes may destroy the response on its way.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::http::{self, BadHead, Method, Response};
use super::pages::Pages;
use crate::serve::socket::Stream;

/// How long the end waits for the peer's.
const LINGER: Duration = Duration::from_millis(500);
/// Bytes thrown away meanwhile.
const MAX_LATE_BYTES: usize = 64 << 10;

enum State {
    Reading(Vec<u8>),
    Writing { bytes: Vec<u8>, sent: usize },
    Lingering { late: usize },
}

/// One connection.
pub(super) struct Peer {
    socket: Stream,
    state: State,
    until: Instant,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    Close,
}

impl Peer {
    /// Its head must have arrived when the pages' patience is over, however the bytes trickle in.
    pub(super) fn new(socket: Stream, pages: &Pages, now: Instant) -> Peer {
        Peer { socket, state: State::Reading(Vec::new()), until: now + pages.patience() }
    }

    /// The socket, for registering it.
    pub(super) fn socket(&mut self) -> &mut Stream {
        &mut self.socket
    }

    /// When its patience ends.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Goes as far as the socket lets it. What a peer may send in all is bounded, so this ends soon.
    pub(super) fn turn(&mut self, pages: &Pages, now: Instant) -> Fate {
        loop {
            let step = match &mut self.state {
                State::Reading(_) => self.read(pages, now),
                State::Writing { .. } => self.write(now),
                State::Lingering { .. } => self.discard(),
            };
            match step {
                Ok(true) => {}
                Ok(false) => return Fate::Close,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Fate::Keep,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Fate::Close,
            }
        }
    }

    /// Its time is up.
    pub(super) fn expire(&mut self, pages: &Pages, now: Instant) -> Fate {
        match &self.state {
            State::Reading(head) if !head.is_empty() => {
                let response = Response::line(408, "the request did not arrive in time");
                self.respond(&response, Method::Get, now + pages.patience());
                self.turn(pages, now)
            }
            _ => Fate::Close,
        }
    }

    /// Reads once. False at the end of a peer that said nothing.
    fn read(&mut self, pages: &Pages, now: Instant) -> io::Result<bool> {
        let State::Reading(head) = &mut self.state else { return Ok(true) };
        let mut chunk = [0; 2048];
        let count = self.socket.read(&mut chunk)?;
        head.extend_from_slice(&chunk[..count]);
        let (response, method) = match http::parse(head) {
            Ok(Some(ask)) => (pages.respond(&ask), ask.method),
            Ok(None) if count > 0 => return Ok(true),
            Ok(None) if head.is_empty() => return Ok(false),
            Ok(None) => (Response::line(400, "the request ends in the middle"), Method::Get),
            Err(BadHead::Malformed) => (Response::line(400, "this is not HTTP/1.1"), Method::Get),
            Err(BadHead::TooLarge) => (Response::line(431, "the request is too large"), Method::Get),
        };
        self.respond(&response, method, now + pages.patience());
        Ok(true)
    }

    fn respond(&mut self, response: &Response, method: Method, until: Instant) {
        self.state = State::Writing { bytes: response.to_bytes(method), sent: 0 };
        self.until = until;
    }

    fn write(&mut self, now: Instant) -> io::Result<bool> {
        let State::Writing { bytes, sent } = &mut self.state else { return Ok(true) };
        match self.socket.write(&bytes[*sent..])? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => *sent += count,
        }
        if *sent == bytes.len() {
            self.socket.finish_writing();
            self.state = State::Lingering { late: 0 };
            self.until = now + LINGER;
        }
        Ok(true)
    }

    fn discard(&mut self) -> io::Result<bool> {
        let State::Lingering { late } = &mut self.state else { return Ok(true) };
        let count = self.socket.read(&mut [0; 4096])?;
        *late += count;
        Ok(count > 0 && *late < MAX_LATE_BYTES)
    }
}
