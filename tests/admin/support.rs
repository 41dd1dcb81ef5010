//! A pretend engine with counters that a test sets, a server with admin pages, and a small HTTP client.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sidereal::request::{Answer, Refusal, RefusalKind, Request};
use sidereal::schedule::{EngineCounts, ReplaceError};
use sidereal::serve::{Address, Admin, AdminConfig, Board, Server, ServerConfig, ServerFacts, Service};

/// Longest wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Refuses everything, and says of itself what it is told to.
pub struct Pretend(pub Mutex<EngineCounts>);

impl Service for Pretend {
    fn submit(&self, _: Request, _: Instant, _: Arc<AtomicBool>, done: Box<dyn FnOnce(Answer) + Send>) {
        done(Err(Refusal::new(RefusalKind::Unsupported, "this engine only pretends")));
    }

    fn stats(&self) -> String {
        self.counts().to_json().to_string()
    }

    fn counts(&self) -> EngineCounts {
        self.0.lock().unwrap().clone()
    }

    /// What was asked for comes back as a number, or as a refusal that the path names.
    fn replace_weights(&self, path: &Path, version: &str) -> Result<u64, ReplaceError> {
        match path.to_str().unwrap() {
            "/busy" => Err(ReplaceError::Busy { number: 3 }),
            "/draining" => Err(ReplaceError::Unavailable("the engine is draining".into())),
            "relative" => Err(ReplaceError::Asked("path: is relative".into())),
            path => Ok((100 * path.len() + version.len()) as u64),
        }
    }

    fn facts(&self) -> ServerFacts {
        ServerFacts { model: "a \"model\" <b>\\\n".into(), catalog: "7".into(), ..ServerFacts::default() }
    }
}

/// Admin pages of a server that has not started.
pub struct Rig {
    pub board: Arc<Board>,
    pub engine: Arc<Pretend>,
    pub admin: Admin,
}

impl Rig {
    pub fn start() -> Rig {
        Rig::of(AdminConfig::new("127.0.0.1:0".parse().unwrap()))
    }

    pub fn of(config: AdminConfig) -> Rig {
        let board = Arc::new(Board::default());
        let engine = Arc::new(Pretend(Mutex::new(EngineCounts { ready: true, ..EngineCounts::default() })));
        Rig { admin: Admin::start(&config, Arc::clone(&board)).unwrap(), board, engine }
    }

    /// Starts the server that the pages are about.
    pub fn serve(&self) -> Server {
        let config = ServerConfig::new(vec!["127.0.0.1:0".parse().unwrap()]);
        let server = Server::start(config, Arc::clone(&self.engine) as Arc<dyn Service>).unwrap();
        self.board.serving(&server, Arc::clone(&self.engine) as Arc<dyn Service>);
        server
    }

    pub fn address(&self) -> SocketAddr {
        let Address::Tcp(address) = self.admin.address() else { panic!("TCP") };
        *address
    }

    pub fn get(&self, path: &str) -> Response {
        get(self.address(), path)
    }
}

/// A response, taken apart.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

impl Response {
    pub fn parse(bytes: &[u8]) -> Response {
        let text = std::str::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let (line, headers) = head.split_once("\r\n").unwrap();
        let status = line.strip_prefix("HTTP/1.1 ").unwrap().split(' ').next().unwrap().parse().unwrap();
        Response { status, headers: headers.to_owned(), body: body.to_owned() }
    }
}

/// A page by GET.
pub fn get(address: SocketAddr, path: &str) -> Response {
    let response = exchange(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes());
    let told = response.headers.split("\r\n").find_map(|header| header.strip_prefix("Content-Length: ")).unwrap();
    assert_eq!(told.parse(), Ok(response.body.len()), "{path}");
    response
}

/// Sends bytes, and reads the one response until the server ends.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Response {
    Response::parse(&raw(address, bytes, false))
}

/// Sends bytes, then perhaps its end, and reads all there is.
pub fn raw(address: SocketAddr, bytes: &[u8], end: bool) -> Vec<u8> {
    let mut stream = connect(address);
    stream.write_all(bytes).unwrap();
    if end {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    rest(&mut stream)
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything until the server ends.
pub fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
