//! The admin thread: one poll over the listener and a few connections.
//!
//! There are at most [`MAX_PEERS`]; one more takes the place of the oldest, which has had its chance: an honest peer is done
//! in milliseconds, so whoever holds connections open harms only its own kind.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use super::pages::Pages;
use super::peer::{Fate, Peer};
use crate::serve::socket::Listener;

/// The handle's wake-up.
pub(super) const WAKE: Token = Token(0);
const LISTENER: Token = Token(1);
const FIRST_PEER: usize = 2;
/// Connections at a time.
const MAX_PEERS: usize = 64;
/// Connections accepted in a row before others get a turn.
const ACCEPT_TURN: usize = 16;
/// How long accepting rests when the system has no room for another connection.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// State of the admin thread.
pub(super) struct EventLoop {
    poll: Poll,
    listener: Listener,
    pages: Pages,
    stop: Arc<AtomicBool>,
    /// By age: serial numbers ascend.
    peers: BTreeMap<usize, Peer>,
    next_serial: usize,
    /// From when on there may be connections to accept.
    accept_at: Option<Instant>,
}

impl EventLoop {
    pub(super) fn new(
        poll: Poll,
        mut listener: Listener,
        pages: Pages,
        stop: Arc<AtomicBool>,
    ) -> io::Result<EventLoop> {
        listener.register(poll.registry(), LISTENER)?;
        let peers = BTreeMap::new();
        Ok(EventLoop { poll, listener, pages, stop, peers, next_serial: FIRST_PEER, accept_at: None })
    }

    /// Runs until it is stopped.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(128);
        while !self.stop.load(Ordering::Acquire) {
            let next = self.peers.values().map(Peer::until).chain(self.accept_at).min();
            let timeout = next.map(|next| next.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    WAKE => {}
                    LISTENER => self.accept_at = Some(now),
                    Token(serial) => self.give_turn(serial, now),
                }
            }
            if self.accept_at.is_some_and(|at| at <= now) {
                self.accept(now);
            }
            self.expire(now);
        }
        Ok(())
    }

    fn give_turn(&mut self, serial: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(&serial) else { return };
        if peer.turn(&self.pages, now) == Fate::Close {
            self.peers.remove(&serial);
        }
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPT_TURN {
            match self.listener.accept() {
                Ok((socket, _)) => self.welcome(Peer::new(socket, &self.pages, now), now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_at = None;
                    return;
                }
                // The peer has given up already, or the system has no room; either way there may be others.
                Err(_) => {
                    self.accept_at = Some(now + ACCEPT_REST);
                    return;
                }
            }
        }
        self.accept_at = Some(now);
    }

    fn welcome(&mut self, mut peer: Peer, now: Instant) {
        let serial = self.next_serial;
        self.next_serial += 1;
        if peer.socket().register(self.poll.registry(), Token(serial)).is_err() {
            return;
        }
        if self.peers.len() >= MAX_PEERS {
            self.peers.pop_first();
        }
        self.peers.insert(serial, peer);
        self.give_turn(serial, now);
    }

    fn expire(&mut self, now: Instant) {
        let pages = &self.pages;
        self.peers.retain(|_, peer| peer.until() > now || peer.expire(pages, now) == Fate::Keep);
    }
}
