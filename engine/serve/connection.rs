//! One connection: bytes in, frames handled, bytes out, and the clock that ends it when its peer stops taking part.
//!
//! ```text
//!            HELLO (no secret)
//! Hello ------------------------------------> Open --- GOODBYE ---> Leaving
//!   | HELLO                    AUTH, right     |                      | all answered and sent
//!   +----------> Challenged ------------------>+                      |
//!         any fault or timeout: ERROR          v                      v
//!   ----------------------------------------> Closing <---------------+   (flush, shut down, discard until the peer ends)
//! ```
//!
//! `Closing` exists because closing a TCP socket with unread bytes resets it, and a reset may destroy the last reply on its
//! way; so the last bytes are sent, our side is shut down, and what still arrives is thrown away for a moment.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::event::Event;

use super::inbox::{Inbox, ReplySlot};
use super::outgoing::{HIGH_BYTES, LOW_BYTES, Outgoing};
use super::request_log::{Asked, RequestLog, Who};
use super::socket::Stream;
use super::wire::{
    Bounds, Fault, FaultCode, Frame, FrameReader, HelloOk, Kind, Message, NONCE_BYTES, WireError, decode_recommend,
    encode_answer, encode_refusal, new_nonce,
};
use super::{Counters, MAX_HANDSHAKE_BYTES, MAX_REPLY_BYTES, ServerConfig, Service};
use crate::request::{Answer, Refusal, RefusalKind, Request};

/// Bytes read from one connection before the others get a turn.
const TURN_BYTES: usize = 256 << 10;
/// How long a closing connection waits for its peer's end.
const LINGER: Duration = Duration::from_millis(500);

/// What the loop lends to a connection.
pub(super) struct Context<'a> {
    pub(super) service: &'a dyn Service,
    pub(super) config: &'a ServerConfig,
    pub(super) counters: &'a Counters,
    pub(super) inbox: &'a Inbox,
    pub(super) log: &'a RequestLog,
    /// The server is draining: no new requests.
    pub(super) draining: bool,
    /// When this round of the loop began.
    pub(super) now: Instant,
    /// For reading into.
    pub(super) scratch: &'a mut [u8],
}

/// What becomes of a connection after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Wait for its next event.
    Keep,
    /// It has more to read: another turn, after the others.
    Again,
    /// Drop it.
    Close,
}

enum Phase {
    Hello,
    Challenged([u8; NONCE_BYTES]),
    Open,
    Leaving,
    Closing { until: Instant, shut: bool },
}

/// One connection.
pub(super) struct Connection {
    serial: usize,
    socket: Stream,
    peer: String,
    phase: Phase,
    reader: FrameReader,
    out: Outgoing,
    in_flight: HashMap<u64, Asked>,
    born: Instant,
    last_active: Instant,
    /// Since when an unfinished frame has been held.
    partial_since: Option<Instant>,
    /// Not read from until the peer takes its replies.
    paused: bool,
    /// There may be bytes to read.
    readable: bool,
    /// The peer has hung up: there is an end to be read behind the bytes.
    hung_up: bool,
    /// The peer's end has been read.
    ended: bool,
}

impl Connection {
    pub(super) fn new(serial: usize, socket: Stream, peer: String, ctx: &Context<'_>) -> Connection {
        Connection {
            serial,
            socket,
            peer,
            phase: Phase::Hello,
            reader: FrameReader::new(ctx.config.limits.max_frame_bytes),
            out: Outgoing::default(),
            in_flight: HashMap::new(),
            born: ctx.now,
            last_active: ctx.now,
            partial_since: None,
            paused: false,
            readable: true,
            hung_up: false,
            ended: false,
        }
    }

    /// The socket, for registering it.
    pub(super) fn socket(&mut self) -> &mut Stream {
        &mut self.socket
    }

    /// True once it only waits for its peer to go.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }

    /// Requests accepted and not answered.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Takes note of what the system says about the socket.
    pub(super) fn notice(&mut self, event: &Event) {
        self.hung_up |= event.is_read_closed() || event.is_error();
        self.readable |= event.is_readable() || self.hung_up;
    }

    /// Does whatever can be done now: handle frames, read, send.
    pub(super) fn turn(&mut self, ctx: &mut Context<'_>) -> Verdict {
        match self.try_turn(ctx) {
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::debug!(peer = self.peer, %error, "connection lost");
                Verdict::Close
            }
        }
    }

    fn try_turn(&mut self, ctx: &mut Context<'_>) -> io::Result<Verdict> {
        let mut budget = TURN_BYTES;
        loop {
            self.handle_frames(ctx);
            self.flush(ctx)?;
            if self.paused && self.out.waiting() <= LOW_BYTES {
                self.paused = false;
                continue;
            }
            if self.paused || self.ended || !self.readable {
                break;
            }
            if budget == 0 {
                return Ok(Verdict::Again);
            }
            match self.socket.read(ctx.scratch) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    budget = budget.saturating_sub(count);
                    ctx.counters.bytes_received.fetch_add(count as u64, Ordering::Relaxed);
                    self.last_active = ctx.now;
                    // A short read has emptied the socket, and whatever comes now is another event. Only an end that came
                    // along with these bytes would not be.
                    self.readable = count == ctx.scratch.len() || self.hung_up;
                    if !self.is_closing() {
                        self.reader.push(&ctx.scratch[..count]);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.finish_if_done(ctx);
        Ok(self.verdict())
    }

    fn flush(&mut self, ctx: &Context<'_>) -> io::Result<()> {
        let before = self.out.total_sent();
        let result = self.out.flush(&mut self.socket, ctx.now);
        ctx.counters.bytes_sent.fetch_add(self.out.total_sent() - before, Ordering::Relaxed);
        result
    }

    /// A peer that ended its side may still be owed something: after GOODBYE its answers, in `Closing` the last bytes. (Its
    /// end is read only when every whole frame before it has been handled.)
    fn verdict(&self) -> Verdict {
        let owed = match self.phase {
            Phase::Leaving => true,
            Phase::Closing { shut, .. } => !shut,
            _ => false,
        };
        if self.ended && !owed { Verdict::Close } else { Verdict::Keep }
    }

    /// Moves on once everything is answered and sent.
    fn finish_if_done(&mut self, ctx: &Context<'_>) {
        if self.out.waiting() > 0 {
            return;
        }
        let leaving = matches!(self.phase, Phase::Leaving) || ctx.draining;
        if leaving && !self.is_closing() && self.in_flight.is_empty() {
            self.begin_closing(ctx);
        }
        if let Phase::Closing { shut, .. } = &mut self.phase
            && !std::mem::replace(shut, true)
        {
            self.socket.finish_writing();
        }
    }

    fn begin_closing(&mut self, ctx: &Context<'_>) {
        let linger = LINGER.min(ctx.config.limits.stall_timeout);
        self.phase = Phase::Closing { until: ctx.now + linger, shut: false };
        self.partial_since = None;
        self.paused = false;
        self.cancel_all();
    }

    /// Ends the connection with a reason.
    pub(super) fn fail(&mut self, fault: Fault, ctx: &Context<'_>) {
        ctx.log.fault(&self.who(0), &fault, ctx.now);
        ctx.counters.add_fault(fault.code);
        self.send(&Message::Error(fault));
        self.begin_closing(ctx);
    }

    /// Asks the engine to drop everything in flight.
    pub(super) fn cancel_all(&mut self) {
        self.in_flight.drain().for_each(|(_, asked)| asked.cancel.store(true, Ordering::Release));
    }

    /// The server is draining: says so, or ends a conversation that has not begun.
    pub(super) fn announce_drain(&mut self, ctx: &Context<'_>) {
        match self.phase {
            Phase::Open | Phase::Leaving => self.send(&Message::Goodbye),
            Phase::Hello | Phase::Challenged(_) => {
                self.fail(Fault::new(FaultCode::ShuttingDown, "the server is draining: connect to another"), ctx);
            }
            Phase::Closing { .. } => {}
        }
    }

    fn send(&mut self, message: &Message) {
        // Only replies can be long, and those go through `answer`; a failure leaves nothing behind.
        if let Err(error) = message.encode(MAX_REPLY_BYTES, self.out.tail()) {
            tracing::error!(peer = self.peer, kind = message.kind().name(), %error, "cannot encode");
        }
    }

    fn who(&self, request: u64) -> Who<'_> {
        Who { connection: self.serial, peer: &self.peer, request }
    }

    fn refuse(&mut self, id: u64, refusal: &Refusal, ctx: &Context<'_>) {
        ctx.counters.add_refusal(refusal.kind);
        ctx.log.refused_at_once(&self.who(id), refusal, ctx.now);
        if let Err(error) = encode_refusal(id, refusal, MAX_REPLY_BYTES, self.out.tail()) {
            tracing::error!(peer = self.peer, %error, "cannot encode a refusal");
        }
    }

    /// Queues the engine's answer to request `id`; false if nobody waits for it any more.
    pub(super) fn answer(&mut self, id: u64, mut answer: Answer, ctx: &Context<'_>) -> bool {
        let Some(asked) = self.in_flight.remove(&id) else { return false };
        ctx.log.answered(&self.who(id), &asked, &answer, ctx.now);
        self.last_active = ctx.now;
        if let Ok(recommendation) = &mut answer {
            recommendation.id = id;
        }
        if let Err(error) = encode_answer(&answer, id, MAX_REPLY_BYTES, self.out.tail()) {
            let message =
                format!("the reply does not fit a frame ({error}): ask for fewer results or set max_items_per_sid");
            self.refuse(id, &Refusal::new(RefusalKind::TooLong, message), ctx);
        }
        true
    }

    /// Handles every whole frame that has arrived, until the peer owes us some reading.
    fn handle_frames(&mut self, ctx: &Context<'_>) {
        // The reader lends frames from its buffer, so it steps out of `self` while they are handled.
        let mut reader = std::mem::replace(&mut self.reader, FrameReader::new(0));
        let mut took_one = false;
        while !self.is_closing() && !self.paused {
            reader.set_limit(self.frame_limit(ctx));
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    took_one = true;
                    Counters::add(&ctx.counters.frames_received);
                    self.handle(&frame, ctx);
                    self.paused = self.out.waiting() > HIGH_BYTES;
                }
                Ok(None) => break,
                Err(error) => self.fail(Fault::from(&error), ctx),
            }
        }
        let waits_for_peer = reader.holds_bytes() && !self.paused && !self.is_closing();
        self.partial_since = match self.partial_since {
            Some(since) if waits_for_peer && !took_one => Some(since),
            _ => waits_for_peer.then_some(ctx.now),
        };
        self.reader = reader;
    }

    /// Longest payload of the next frame. A request may come right behind HELLO, so this is asked before each frame.
    fn frame_limit(&self, ctx: &Context<'_>) -> usize {
        let most = ctx.config.limits.max_frame_bytes;
        match self.phase {
            Phase::Hello | Phase::Challenged(_) => most.min(MAX_HANDSHAKE_BYTES),
            _ => most,
        }
    }

    fn handle(&mut self, frame: &Frame<'_>, ctx: &Context<'_>) {
        let message = match frame.kind() {
            // Decoded on its own: a fault inside it costs the request, not the connection.
            Err(_) | Ok(Kind::Recommend) if self.may_ask(frame) => {
                return match frame.kind().and_then(|_| decode_recommend(frame)) {
                    Ok(request) => self.accept(request, ctx),
                    Err(error) => self.refuse_malformed(frame.header.id, &error, ctx),
                };
            }
            Err(error) => Err(error),
            Ok(_) => Message::decode(frame),
        };
        match (message, &self.phase) {
            (Err(error), _) => self.fail(Fault::from(&error), ctx),
            (Ok(Message::Hello { client }), Phase::Hello) => self.greet(client, ctx),
            (Ok(Message::Auth { proof }), Phase::Challenged(nonce)) => {
                let nonce = *nonce;
                match ctx.config.secret.as_ref().is_some_and(|secret| secret.verify(&nonce, &proof)) {
                    true => self.open(ctx),
                    false => self.fail(Fault::new(FaultCode::AuthFailed, "the proof does not match the secret"), ctx),
                }
            }
            (Ok(Message::Cancel { id }), Phase::Open | Phase::Leaving) => {
                // Unknown ids are fine: the answer may have crossed the CANCEL.
                if let Some(asked) = self.in_flight.get(&id) {
                    asked.cancel.store(true, Ordering::Release);
                }
            }
            (Ok(Message::Ping { id }), Phase::Open | Phase::Leaving) => self.send(&Message::Pong { id }),
            (Ok(Message::Stats { id }), Phase::Open | Phase::Leaving) => {
                let (engine, server) = (ctx.service.stats(), ctx.counters.to_json());
                self.send(&Message::StatsReply { id, engine, server });
            }
            (Ok(Message::Goodbye), Phase::Open | Phase::Leaving) => self.phase = Phase::Leaving,
            (Ok(message), phase) => {
                let expected = match phase {
                    Phase::Hello => "HELLO",
                    Phase::Challenged(_) => "AUTH",
                    _ => "a client's frame",
                };
                let message = format!("unexpected {} frame, expected {expected}", message.kind().name());
                self.fail(Fault::new(FaultCode::UnexpectedFrame, message), ctx);
            }
        }
    }

    /// True for a RECOMMEND, whatever is wrong with it, at a time when requests are taken.
    fn may_ask(&self, frame: &Frame<'_>) -> bool {
        frame.header.kind == Kind::Recommend as u8 && matches!(self.phase, Phase::Open | Phase::Leaving)
    }

    fn greet(&mut self, client: Option<String>, ctx: &Context<'_>) {
        tracing::debug!(peer = self.peer, client, "HELLO");
        if ctx.config.secret.is_none() {
            return self.open(ctx);
        }
        match new_nonce() {
            Ok(nonce) => {
                self.phase = Phase::Challenged(nonce);
                self.send(&Message::Challenge { nonce });
            }
            Err(error) => {
                tracing::error!(%error, "no random bytes for a challenge");
                self.fail(Fault::new(FaultCode::AuthFailed, "the server cannot make a challenge"), ctx);
            }
        }
    }

    fn open(&mut self, ctx: &Context<'_>) {
        let limits = &ctx.config.limits;
        let bounds = Bounds {
            max_frame_bytes: limits.max_frame_bytes as u32,
            max_in_flight: limits.max_in_flight_per_connection as u32,
            idle_timeout: limits.idle_timeout,
        };
        self.phase = Phase::Open;
        self.send(&Message::HelloOk(HelloOk { facts: ctx.service.facts(), bounds }));
    }

    fn refuse_malformed(&mut self, id: u64, error: &WireError, ctx: &Context<'_>) {
        self.refuse(id, &Refusal::new(error.refusal_kind(), error.to_string()), ctx);
    }

    fn accept(&mut self, request: Request, ctx: &Context<'_>) {
        let id = request.id;
        let most = ctx.config.limits.max_in_flight_per_connection;
        let refusal = if ctx.draining {
            Refusal::new(RefusalKind::ShuttingDown, "the server is draining: ask another")
        } else if matches!(self.phase, Phase::Leaving) {
            Refusal::new(RefusalKind::BadRequest, "a request behind GOODBYE")
        } else if self.in_flight.len() >= most {
            Refusal::new(
                RefusalKind::Overloaded,
                format!("{most} requests are in flight on this connection, its limit"),
            )
        } else if let Entry::Vacant(entry) = self.in_flight.entry(id) {
            let arrived = Instant::now();
            let cancel = Arc::clone(&entry.insert(ctx.log.asked(&request, arrived)).cancel);
            Counters::add(&ctx.counters.requests_accepted);
            let slot = ReplySlot { inbox: ctx.inbox.clone(), connection: self.serial, id, answered: false };
            return ctx.service.submit(request, arrived, cancel, Box::new(move |answer| slot.answer(answer)));
        } else {
            Refusal::new(RefusalKind::BadRequest, format!("request id {id} is already in flight on this connection"))
        };
        self.refuse(id, &refusal, ctx);
    }

    /// Ends what has taken too long; the loop then gives the connection a turn.
    pub(super) fn check_clock(&mut self, ctx: &Context<'_>) -> Verdict {
        let limits = &ctx.config.limits;
        let over = |since: Instant, timeout: Duration| ctx.now.duration_since(since) > timeout;
        if self.out.is_stalled(ctx.now, limits.stall_timeout) {
            Counters::add(&ctx.counters.connections_unread);
            tracing::debug!(peer = self.peer, waiting_bytes = self.out.waiting(), "replies are not read: closed");
            return Verdict::Close;
        }
        match &self.phase {
            Phase::Closing { until, shut } => {
                return if *shut && ctx.now >= *until { Verdict::Close } else { Verdict::Keep };
            }
            Phase::Hello | Phase::Challenged(_) if over(self.born, limits.stall_timeout) => {
                self.fail(Fault::new(FaultCode::Stalled, "the handshake was not finished in time"), ctx);
            }
            _ if self.partial_since.is_some_and(|since| over(since, limits.stall_timeout)) => {
                let message = format!("a frame was not finished within {:?}", limits.stall_timeout);
                self.fail(Fault::new(FaultCode::Stalled, message), ctx);
            }
            Phase::Open if self.is_idle() && over(self.last_active, limits.idle_timeout) => {
                self.fail(Fault::new(FaultCode::Idle, format!("nothing was asked for {:?}", limits.idle_timeout)), ctx);
            }
            _ => return Verdict::Keep,
        }
        Verdict::Again
    }

    fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.out.waiting() == 0 && !self.reader.holds_bytes()
    }
}
