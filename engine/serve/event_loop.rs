//! The I/O thread: one poll over every socket.
//!
//! Readiness is edge-triggered: a connection whose turn ends before its socket would block is remembered in `again` and
//! gets another turn after the others. Timeouts are checked on a coarse tick over all connections, so that a frame costs no
//! timer. If the system has no descriptors left for a new connection, accepting rests until the next tick instead of
//! spinning.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use mio::{Events, Poll, Token};

use super::connection::{Connection, Context, Verdict};
use super::inbox::{Inbox, Note};
use super::request_log::RequestLog;
use super::server::DrainReport;
use super::socket::{Listener, Stream};
use super::wire::{Fault, FaultCode};
use super::{Counters, ServeError, ServerConfig, Service};

/// The inbox's wake-up.
pub(super) const WAKE: Token = Token(0);
/// The first listener; the others follow.
const FIRST_LISTENER: usize = 1;
/// Bytes read at once.
const SCRATCH_BYTES: usize = 64 << 10;
/// Connections accepted in a row before others get a turn.
const ACCEPT_TURN: usize = 64;
/// How long accepting rests when the system has no room for another connection.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Refused connections that may linger to read why.
const REFUSED_LINGERERS: usize = 64;

/// State of the I/O thread.
pub(super) struct EventLoop {
    pub(super) poll: Poll,
    pub(super) listeners: Vec<Listener>,
    pub(super) inbox: Inbox,
    pub(super) notes: Receiver<Note>,
    pub(super) config: ServerConfig,
    pub(super) service: Arc<dyn Service>,
    pub(super) counters: Arc<Counters>,
    pub(super) log: RequestLog,
}

struct Drain {
    until: Instant,
    done: Sender<DrainReport>,
}

/// How far accepting came.
enum Accepted {
    /// Nobody waits any more.
    All,
    /// There may be more.
    Some,
}

struct State {
    connections: HashMap<usize, Connection>,
    next_serial: usize,
    /// Connections that get a turn in this round.
    ready: Vec<usize>,
    /// Listeners with connections left to accept.
    to_accept: Vec<usize>,
    /// The system has no room for another connection: accepting waits for the next tick.
    accept_blocked: bool,
    drains: Vec<Drain>,
    stopped: bool,
    last_tick: Instant,
    scratch: Box<[u8]>,
}

impl EventLoop {
    /// Runs until drained or stopped.
    pub(super) fn run(mut self) -> Result<(), ServeError> {
        let fail = |what| move |source| ServeError::Loop { what, source };
        for (at, listener) in self.listeners.iter_mut().enumerate() {
            listener
                .register(self.poll.registry(), Token(FIRST_LISTENER + at))
                .map_err(fail("registering a listener"))?;
        }
        let mut state = State {
            connections: HashMap::new(),
            next_serial: FIRST_LISTENER + self.listeners.len(),
            ready: Vec::new(),
            to_accept: Vec::new(),
            accept_blocked: false,
            drains: Vec::new(),
            stopped: false,
            last_tick: Instant::now(),
            scratch: vec![0; SCRATCH_BYTES].into(),
        };
        let tick = (self.config.limits.stall_timeout.min(self.config.limits.idle_timeout) / 8)
            .clamp(Duration::from_millis(5), Duration::from_secs(1));
        let mut events = Events::with_capacity(1024);
        while !state.stopped {
            let timeout = match () {
                () if !state.ready.is_empty() => Some(Duration::ZERO),
                () if state.accept_blocked => Some(tick.min(ACCEPT_REST)),
                () if !state.to_accept.is_empty() => Some(Duration::ZERO),
                () if state.connections.is_empty() && state.drains.is_empty() => None,
                () => Some(tick),
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(fail("polling")(error)),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    WAKE => {}
                    Token(at) if at < FIRST_LISTENER + self.listeners.len() => {
                        state.to_accept.push(at - FIRST_LISTENER);
                    }
                    Token(serial) => {
                        if let Some(connection) = state.connections.get_mut(&serial) {
                            connection.notice(event);
                            state.ready.push(serial);
                        }
                    }
                }
            }
            self.round(&mut state, tick);
        }
        Ok(())
    }

    /// Everything that follows one poll.
    fn round(&mut self, state: &mut State, tick: Duration) {
        let now = Instant::now();
        let ticked = now.duration_since(state.last_tick) >= tick;
        self.take_notes(state, now);
        self.accept(state, now);
        if ticked {
            state.last_tick = now;
            self.check_clocks(state, now);
            self.log.tell_left_out(now);
        }
        self.give_turns(state, now);
        self.end_drains(state, now);
        self.counters.connections_open.store(state.connections.len() as u64, Ordering::Relaxed);
    }

    fn context<'a>(&'a self, draining: bool, now: Instant, scratch: &'a mut [u8]) -> Context<'a> {
        Context {
            service: &*self.service,
            config: &self.config,
            counters: &self.counters,
            inbox: &self.inbox,
            log: &self.log,
            draining,
            now,
            scratch,
        }
    }

    fn take_notes(&mut self, state: &mut State, now: Instant) {
        self.inbox.looked();
        while let Ok(note) = self.notes.try_recv() {
            match note {
                Note::Answer { connection, id, answer } => {
                    let ctx = self.context(!state.drains.is_empty(), now, &mut []);
                    let taken =
                        state.connections.get_mut(&connection).is_some_and(|asker| asker.answer(id, answer, &ctx));
                    Counters::add(if taken { &self.counters.answers_sent } else { &self.counters.answers_orphaned });
                    if taken {
                        state.ready.push(connection);
                    }
                }
                Note::Drain { timeout, done } => {
                    let first = state.drains.is_empty();
                    // A timeout beyond what a clock can say is none.
                    let until = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(1 << 30));
                    state.drains.push(Drain { until, done });
                    if first {
                        self.begin_drain(state, now);
                    }
                }
                Note::Stop => {
                    state.stopped = true;
                    state.connections.values_mut().for_each(Connection::cancel_all);
                }
            }
        }
    }

    /// Stops listening; every connection hears of it and gets a turn, in which late requests are refused.
    fn begin_drain(&mut self, state: &mut State, now: Instant) {
        self.listeners.clear();
        state.to_accept.clear();
        let ctx = self.context(true, now, &mut []);
        for (serial, connection) in &mut state.connections {
            connection.announce_drain(&ctx);
            state.ready.push(*serial);
        }
    }

    /// Ends when everybody has gone, or the time is up.
    fn end_drains(&self, state: &mut State, now: Instant) {
        let Some(until) = state.drains.iter().map(|drain| drain.until).min() else { return };
        if !state.connections.is_empty() && now < until {
            return;
        }
        let unanswered = state.connections.values().map(Connection::in_flight).sum();
        state.connections.values_mut().for_each(Connection::cancel_all);
        state.connections.clear();
        for drain in state.drains.drain(..) {
            // Whoever asked may have stopped waiting.
            let _ = drain.done.send(DrainReport { unanswered });
        }
        state.stopped = true;
    }

    fn accept(&self, state: &mut State, now: Instant) {
        let mut waiting = std::mem::take(&mut state.to_accept);
        waiting.sort_unstable();
        waiting.dedup();
        for at in waiting {
            let Some(listener) = self.listeners.get(at) else { continue };
            match self.accept_from(listener, state, now) {
                Ok(Accepted::All) => state.accept_blocked = false,
                Ok(Accepted::Some) => {
                    state.accept_blocked = false;
                    state.to_accept.push(at);
                }
                Err(error) => {
                    Counters::add(&self.counters.accept_errors);
                    if !std::mem::replace(&mut state.accept_blocked, true) {
                        tracing::warn!(address = %listener.address(), %error, "cannot accept connections for now");
                    }
                    state.to_accept.push(at);
                }
            }
        }
    }

    fn accept_from(&self, listener: &Listener, state: &mut State, now: Instant) -> io::Result<Accepted> {
        for _ in 0..ACCEPT_TURN {
            match listener.accept() {
                Ok((stream, peer)) => self.welcome(stream, peer, state, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Accepted::All),
                // The peer has given up already, or a signal came: there may be others.
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Accepted::Some)
    }

    fn welcome(&self, stream: Stream, peer: String, state: &mut State, now: Instant) {
        let most = self.config.limits.max_connections;
        let ctx = self.context(!state.drains.is_empty(), now, &mut []);
        let serial = state.next_serial;
        state.next_serial += 1;
        let mut connection = Connection::new(serial, stream, peer, &ctx);
        if let Err(error) = connection.socket().register(self.poll.registry(), Token(serial)) {
            tracing::warn!(%error, "cannot watch a connection");
            return;
        }
        Counters::add(&self.counters.connections_accepted);
        if is_full(state, most) {
            let message = format!("{most} connections are open, the limit: close one or ask another server");
            connection.fail(Fault::new(FaultCode::TooManyConnections, message), &ctx);
        }
        // Beyond the lingerers a refused one gets its turn, which sends the reason, and is then dropped.
        if state.connections.len() >= most + REFUSED_LINGERERS {
            let _ = connection.turn(&mut self.context(false, now, &mut [0; 512]));
            return;
        }
        state.connections.insert(serial, connection);
        state.ready.push(serial);
    }

    fn check_clocks(&self, state: &mut State, now: Instant) {
        let ctx = self.context(!state.drains.is_empty(), now, &mut []);
        let mut overdue = Vec::new();
        for (serial, connection) in &mut state.connections {
            match connection.check_clock(&ctx) {
                Verdict::Keep => {}
                Verdict::Again => state.ready.push(*serial),
                Verdict::Close => overdue.push(*serial),
            }
        }
        overdue.into_iter().for_each(|serial| self.close(state, serial));
    }

    fn give_turns(&self, state: &mut State, now: Instant) {
        let mut ready = std::mem::take(&mut state.ready);
        ready.sort_unstable();
        ready.dedup();
        let mut scratch = std::mem::take(&mut state.scratch);
        let draining = !state.drains.is_empty();
        for serial in ready {
            let Some(connection) = state.connections.get_mut(&serial) else { continue };
            match connection.turn(&mut self.context(draining, now, &mut scratch)) {
                Verdict::Keep => {}
                Verdict::Again => state.ready.push(serial),
                Verdict::Close => self.close(state, serial),
            }
        }
        state.scratch = scratch;
    }

    /// Drops a connection; what it had in flight is cancelled.
    fn close(&self, state: &mut State, serial: usize) {
        let Some(mut connection) = state.connections.remove(&serial) else { return };
        if connection.in_flight() > 0 && !connection.is_closing() {
            Counters::add(&self.counters.connections_lost);
        }
        connection.cancel_all();
    }
}

/// Connections that only wait for their peer to go do not count; they are few and brief.
fn is_full(state: &State, most: usize) -> bool {
    state.connections.len() >= most && state.connections.values().filter(|one| !one.is_closing()).count() >= most
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), Interrupted | ConnectionAborted | ConnectionReset)
}
