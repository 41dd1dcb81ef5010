//! A blocking client of the wire protocol, for tools, tests, load generators and callers without an event loop.
//!
//! Many requests may be in flight: [`Client::send`] returns at once, [`Client::receive`] brings the next answer, in whatever
//! order the server gives them. [`Client::split`] puts sending and receiving on two threads. A server stops reading from a
//! client that does not read: whoever sends thousands of requests must receive in between, or split.
//!
//! Invariant: a timeout while receiving loses nothing. A partly received frame stays, and the next call goes on with it.

mod error;
mod halves;
mod stream;

use std::ops::ControlFlow::{Break, Continue};
use std::time::{Duration, Instant};

pub use error::ClientError;
pub use halves::{Receiver, Sender};
use stream::Stream;

use crate::request::{Answer, Request};
use crate::serve::Address;
use crate::serve::wire::{HelloOk, Message, Secret};

/// How a client connects.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Longest wait for the connection, and again for each answer of the handshake.
    pub connect_timeout: Duration,
    /// Longest wait of a call for its answer, or for room to send; `None` waits for ever.
    pub timeout: Option<Duration>,
    /// Answers a challenge.
    pub secret: Option<Secret>,
    /// Told to the server, for its log.
    pub name: String,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            connect_timeout: Duration::from_secs(5),
            timeout: Some(Duration::from_secs(60)),
            secret: None,
            name: concat!("sidereal-rust ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// The counters of a server, as JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The engine's.
    pub engine: String,
    /// The socket loop's.
    pub server: String,
}

/// A connection to a server, ready for requests.
pub struct Client {
    sender: Sender,
    receiver: Receiver,
    hello: HelloOk,
    next_ping: u64,
}

impl Client {
    /// Connects and shakes hands.
    pub fn connect(address: &Address, options: &ClientOptions) -> Result<Client, ClientError> {
        let stream = Stream::connect(address, options.connect_timeout)?;
        let mut sender = Sender::new(stream.try_clone()?);
        let mut receiver = Receiver::new(stream, Some(options.connect_timeout));
        sender.set_timeout(Some(options.connect_timeout))?;
        let hello = shake_hands(&mut sender, &mut receiver, options)?;
        sender.set_timeout(options.timeout)?;
        receiver.set_timeout(options.timeout);
        Ok(Client { sender, receiver, hello, next_ping: 1 })
    }

    /// What the server said of itself and what it allows.
    pub fn hello(&self) -> &HelloOk {
        &self.hello
    }

    /// Sends a request and returns; its answer comes from [`receive`](Client::receive). Ids in flight must differ.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        self.sender.send(request)
    }

    /// Asks for a request to be dropped. It is still answered: with CANCELLED, or with its result if that came first.
    pub fn cancel(&mut self, id: u64) -> Result<(), ClientError> {
        self.sender.write(&Message::Cancel { id })
    }

    /// The next answer to any request in flight, with its id.
    pub fn receive(&mut self) -> Result<(u64, Answer), ClientError> {
        self.receiver.receive()
    }

    /// Sends a request and waits for its answer. Answers to others that come before it wait for
    /// [`receive`](Client::receive).
    pub fn recommend(&mut self, request: &Request) -> Result<Answer, ClientError> {
        self.send(request)?;
        self.receiver.receive_for(request.id)
    }

    /// Measures a round trip.
    pub fn ping(&mut self) -> Result<Duration, ClientError> {
        let id = self.next_ping;
        self.next_ping += 1;
        let start = Instant::now();
        self.sender.write(&Message::Ping { id })?;
        self.receiver.wait_for("PONG", |message| match message {
            Message::Pong { id: echoed } if echoed == id => Break(start.elapsed()),
            other => Continue(other),
        })
    }

    /// Asks for the server's counters.
    pub fn stats(&mut self) -> Result<Stats, ClientError> {
        let asked = self.next_ping;
        self.next_ping += 1;
        self.sender.write(&Message::Stats { id: asked })?;
        self.receiver.wait_for("STATS_REPLY", |message| match message {
            Message::StatsReply { id, engine, server } if id == asked => Break(Stats { engine, server }),
            other => Continue(other),
        })
    }

    /// Says that no request will follow. Those in flight are still answered; then the server closes.
    pub fn goodbye(&mut self) -> Result<(), ClientError> {
        self.sender.write(&Message::Goodbye)
    }

    /// True once the server said GOODBYE: it drains, and answers only what it has accepted.
    pub fn server_leaves(&self) -> bool {
        self.receiver.server_leaves()
    }

    /// Two halves, for two threads.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }
}

fn shake_hands(sender: &mut Sender, receiver: &mut Receiver, options: &ClientOptions) -> Result<HelloOk, ClientError> {
    sender.write(&Message::Hello { client: Some(options.name.clone()) })?;
    let mut answer = receiver.wait_for("HELLO_OK", Break)?;
    if let Message::Challenge { nonce } = answer {
        let secret = options.secret.as_ref().ok_or(ClientError::SecretRequired)?;
        sender.write(&Message::Auth { proof: secret.prove(&nonce) })?;
        answer = receiver.wait_for("HELLO_OK", Break)?;
    }
    match answer {
        Message::HelloOk(hello) => Ok(hello),
        other => Err(ClientError::Unexpected { kind: other.kind().name(), expected: "HELLO_OK" }),
    }
}
