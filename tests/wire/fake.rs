//! A pretend engine that answers when a test says so, and a peer that can misbehave.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use sidereal::client::{Client, ClientOptions};
use sidereal::request::{
    Answer, History, Item, ItemRefs, Provenance, Ranked, Recommendation, Refusal, RefusalKind, Request, StageTimings,
};
use sidereal::schedule::Limits;
use sidereal::serve::wire::{FrameReader, Message, Secret};
use sidereal::serve::{Address, Server, ServerConfig, ServerFacts, Service};

/// Longest wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A request in the pretend engine.
pub struct Held {
    pub request: Request,
    pub cancel: Arc<AtomicBool>,
    done: Box<dyn FnOnce(Answer) + Send>,
}

impl Held {
    pub fn id(&self) -> u64 {
        self.request.id
    }

    pub fn answer(self) {
        let answer = answer_for(&self.request);
        (self.done)(Ok(answer));
    }

    pub fn refuse(self, kind: RefusalKind) {
        (self.done)(Err(Refusal::new(kind, "so the test wants it")));
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Acquire)
    }
}

/// Answers at once, or holds requests until the test answers them.
#[derive(Default)]
pub struct FakeEngine {
    holds: bool,
    held: Mutex<Vec<Held>>,
    came: Condvar,
}

impl FakeEngine {
    pub fn prompt() -> Arc<FakeEngine> {
        Arc::default()
    }

    pub fn holding() -> Arc<FakeEngine> {
        Arc::new(FakeEngine { holds: true, ..FakeEngine::default() })
    }

    /// Waits until `count` requests are held, and takes them.
    pub fn take(&self, count: usize) -> Vec<Held> {
        let held = self.held.lock().unwrap();
        let (mut held, timeout) = self.came.wait_timeout_while(held, PATIENCE, |held| held.len() < count).unwrap();
        assert!(!timeout.timed_out(), "{} of {count} requests came", held.len());
        held.drain(..count).collect()
    }
}

impl Service for FakeEngine {
    fn submit(
        &self,
        request: Request,
        _arrived: Instant,
        cancel: Arc<AtomicBool>,
        done: Box<dyn FnOnce(Answer) + Send>,
    ) {
        if request.beams == 0 {
            return done(Err(Refusal::new(RefusalKind::BadRequest, "beams is 0, expected at least 1")));
        }
        let held = Held { request, cancel, done };
        if !self.holds {
            return held.answer();
        }
        self.held.lock().unwrap().push(held);
        self.came.notify_all();
    }

    fn stats(&self) -> String {
        "{\"fake\":true}".into()
    }

    fn facts(&self) -> ServerFacts {
        ServerFacts {
            model: "fake@1".into(),
            catalog: "1".into(),
            device: "none".into(),
            dtype: "f32".into(),
            levels: vec![256, 256, 256],
            max_beams: 1024,
            max_prompt_tokens: 8192,
        }
    }
}

/// An answer that shows which request it belongs to: `top` results whose codes and scores come from the id.
pub fn answer_for(request: &Request) -> Recommendation {
    let ranked = |rank: u32| Ranked {
        sid: vec![request.id as u16, (request.id >> 16) as u16, rank as u16],
        score: -(rank as f32) - request.id as f32 / 1024.0,
        items: vec![Item { id: request.id, key: None, title: None }],
        ..Ranked::default()
    };
    Recommendation {
        id: request.id,
        results: (0..request.top).map(ranked).collect(),
        unknown_items: 0,
        prompt_tokens: request.beams,
        instructions: Vec::new(),
        provenance: Provenance::default(),
        timings: StageTimings::default(),
    }
}

/// Request `id` for `top` results.
pub fn request(id: u64, top: u32) -> Request {
    Request::new(id, History::Items(ItemRefs::Ids(vec![1, 2, 3])), 16, top)
}

/// A server on a free port, too patient to be hurried by a busy machine.
pub fn config() -> ServerConfig {
    let limits = Limits {
        stall_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        // Some tests pipeline a thousand requests on one connection.
        max_in_flight_per_connection: 1024,
        ..Limits::default()
    };
    ServerConfig { limits, ..ServerConfig::new(vec!["127.0.0.1:0".parse().unwrap()]) }
}

/// The same, with a stall timeout that a test can wait for.
pub fn hasty() -> ServerConfig {
    let mut config = config();
    config.limits.stall_timeout = Duration::from_millis(250);
    config
}

pub fn start(config: ServerConfig, engine: &Arc<FakeEngine>) -> Server {
    Server::start(config, engine.clone()).unwrap()
}

pub fn options() -> ClientOptions {
    ClientOptions { timeout: Some(PATIENCE), connect_timeout: PATIENCE, ..ClientOptions::default() }
}

pub fn connect(server: &Server) -> Client {
    Client::connect(&server.addresses()[0], &options()).unwrap()
}

pub fn secret() -> Secret {
    Secret::new("a secret of the tests").unwrap()
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A peer that sends any bytes.
pub struct RawPeer {
    pub stream: TcpStream,
    reader: FrameReader,
}

impl RawPeer {
    /// Connected, and nothing said.
    pub fn silent(server: &Server) -> RawPeer {
        let Address::Tcp(address) = &server.addresses()[0] else { panic!("TCP first") };
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        RawPeer { stream, reader: FrameReader::new(1 << 26) }
    }

    /// Connected and greeted.
    pub fn greeted(server: &Server) -> RawPeer {
        let mut peer = RawPeer::silent(server);
        peer.send(&Message::Hello { client: None });
        assert!(matches!(peer.receive(), Some(Message::HelloOk(_))));
        peer
    }

    pub fn send(&mut self, message: &Message) {
        self.send_bytes(&message.to_bytes().unwrap());
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame, or `None` at the end of the stream.
    pub fn receive(&mut self) -> Option<Message> {
        loop {
            if let Some(frame) = self.reader.next_frame().unwrap() {
                return Some(Message::decode(&frame).unwrap());
            }
            let mut bytes = [0; 4096];
            let count = self.stream.read(&mut bytes).unwrap();
            if count == 0 {
                self.reader.end().unwrap();
                return None;
            }
            self.reader.push(&bytes[..count]);
        }
    }

    /// Everything until the end of the stream.
    pub fn receive_all(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.receive()).collect()
    }
}
