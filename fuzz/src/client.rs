//! What a server says, as the Rust client takes it: a hostile server costs a client its connection and nothing else.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use sidereal::client::{Client, ClientOptions};
use sidereal::request::{History, Request};
use sidereal::serve::wire::{Bounds, HelloOk, Message, Secret};
use sidereal::serve::{Address, ServerFacts};

use super::{scratch, wire};

/// Answers that a client asks for before it has seen enough.
const MOST_ANSWERS: usize = 64;
/// More than a socket holds could leave the impostor waiting for a client that has gone.
const MOST_BYTES: usize = 64 << 10;

/// Bit 0 of the first byte: the handshake goes well first. Bit 1: headers are repaired. The rest is what the server says.
pub fn client_frame(data: &[u8]) {
    let Some((&mode, said)) = data.split_first() else { return };
    let said = &said[..said.len().min(MOST_BYTES)];
    let mut bytes = if mode & 1 == 0 { Vec::new() } else { greeting() };
    if mode & 2 == 0 {
        bytes.extend_from_slice(said)
    } else {
        bytes.extend(wire::repaired(said))
    };
    talk(&bytes);
}

/// A conversation with a server that says `bytes` and falls silent for ever.
fn talk(bytes: &[u8]) {
    let (address, impostor) = impostor();
    impostor.send(bytes.to_vec()).expect("the impostor lives");
    let patience = Duration::from_secs(10);
    let options = ClientOptions {
        connect_timeout: patience,
        timeout: Some(patience),
        secret: Some(Secret::new("a secret of the fuzzer").expect("long enough")),
        name: "fuzz".to_owned(),
    };
    let Ok(mut client) = Client::connect(address, &options) else { return };
    assert!(!client.hello().facts.model.contains('\0') || client.hello().facts.levels.len() < MOST_BYTES);
    // Each call ends: with an answer, or with the end of the stream.
    let _ = client.recommend(&Request::new(7, History::Tokens(vec![1]), 1, 1));
    let _ = client.stats();
    for _ in 0..MOST_ANSWERS {
        if client.receive().is_err() {
            return;
        }
    }
}

/// A HELLO_OK.
fn greeting() -> Vec<u8> {
    let bounds = Bounds { max_frame_bytes: 1 << 20, max_in_flight: 4, idle_timeout: Duration::from_secs(9) };
    Message::HelloOk(HelloOk { facts: ServerFacts::default(), bounds }).to_bytes().expect("small")
}

/// A thread that accepts connections and says what it is told to; its sending end.
fn impostor() -> &'static (Address, SyncSender<Vec<u8>>) {
    static IMPOSTOR: OnceLock<(Address, SyncSender<Vec<u8>>)> = OnceLock::new();
    IMPOSTOR.get_or_init(|| {
        let path = scratch::folder("client").join("s.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let (send, receive) = sync_channel::<Vec<u8>>(1);
        std::thread::spawn(move || {
            let mut last: Option<UnixStream> = None;
            for bytes in receive {
                let (mut stream, _) = listener.accept().expect("a connection");
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                // Kept until the next: closing it would reset what the client still has to read.
                drop(last.replace(stream));
            }
        });
        (Address::Unix(path), send)
    })
}
