//! One peer: sends its script in its own way, ends in its own way, and checks what comes back.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use sidereal::request::RefusalKind;
use sidereal::serve::wire::{FrameReader, Message};

use crate::Siege;
use crate::common::Seeded;
use crate::script::{REFUSED, Script};
use crate::socket::Socket;

/// A peer that reads nothing asks for this many kilobytes of STATS.
const UNREAD_STATS: u64 = 2_000;
/// Longest frame from a server here.
const LIMIT: usize = 1 << 20;

/// Lives through one connection.
pub fn misbehave(siege: &Siege, mut seeded: Seeded) {
    let address = &siege.addresses[seeded.below(siege.addresses.len() as u64) as usize];
    let socket = Socket::connect(address);
    let mut script = Script::random(siege, &mut seeded, 24);
    match seeded.below(10) {
        // The orderly, in disorderly pieces: they are owed every reply.
        0..=2 => leave_politely(siege, socket, script, seeded),
        3 => ask_behind_goodbye(siege, socket, script, seeded),
        4 | 5 => stay(siege, socket, script, seeded),
        // The others are owed nothing, and get nothing twice.
        6 => {
            let cut = 1 + seeded.below(script.bytes.len() as u64) as usize;
            script.bytes.truncate(cut);
            converse(siege, socket, &script, seeded).gave_nothing_extra(&script);
        }
        7 => {
            let at = seeded.below(script.bytes.len() as u64) as usize;
            let noise: Vec<u8> = (0..1 + seeded.below(80)).map(|_| seeded.below(256) as u8).collect();
            script.bytes.splice(at..at, noise);
            converse(siege, socket, &script, seeded).gave_nothing_extra(&script);
        }
        8 => vanish(socket, script, seeded),
        _ => fall_silent(socket, script, seeded),
    }
}

/// GOODBYE, then everything until the end.
fn leave_politely(siege: &Siege, socket: Socket, mut script: Script, seeded: Seeded) {
    script.put(&Message::Goodbye);
    converse(siege, socket, &script, seeded).owes_nothing(&script);
}

/// A request behind GOODBYE is refused, or comes when the server has left already.
fn ask_behind_goodbye(siege: &Siege, socket: Socket, mut script: Script, seeded: Seeded) {
    const LATE: u64 = REFUSED | 77;
    script.put(&Message::Goodbye);
    script.ask(&siege.request(LATE));
    let tally = converse(siege, socket, &script, seeded);
    if !tally.replies.contains_key(&LATE) {
        script.owed.remove(&LATE);
    }
    tally.owes_nothing(&script);
}

/// Waits for every reply without ever saying that it will leave, then for a last PONG: nothing more may come.
fn stay(siege: &Siege, socket: Socket, script: Script, mut seeded: Seeded) {
    const FENCE: u64 = u64::MAX;
    let mut writer = socket.try_clone();
    let mut reading = Reading::new(siege, socket, Seeded(seeded.below(u64::MAX)));
    thread::scope(|scope| {
        scope.spawn(|| writer.send(&script.bytes, &mut seeded).unwrap());
        while !reading.tally.is_complete(&script) {
            assert!(reading.next(), "the server ended a living connection: {:?}", reading.tally);
        }
    });
    writer.send(&Message::Ping { id: FENCE }.to_bytes().unwrap(), &mut seeded).unwrap();
    while reading.tally.pongs.remove(&FENCE).is_none() {
        assert!(reading.next(), "the server ended a living connection: {:?}", reading.tally);
    }
    reading.tally.owes_nothing(&script);
}

/// Leaves with bytes of the server unread, which resets the connection, at any point of the script.
fn vanish(mut socket: Socket, script: Script, mut seeded: Seeded) {
    let cut = seeded.below(script.bytes.len() as u64) as usize;
    let _ = socket.send(&script.bytes[..cut], &mut seeded);
    if cut > 100 && seeded.below(2) == 0 {
        // HELLO_OK is longer than a byte.
        let _ = socket.read(&mut [0]);
    }
}

/// Asks for much, says GOODBYE or not, reads nothing and holds the connection for a while.
fn fall_silent(mut socket: Socket, mut script: Script, mut seeded: Seeded) {
    for id in 0..UNREAD_STATS * seeded.below(2) {
        script.ask_for_stats(id);
    }
    if seeded.below(2) == 0 {
        script.put(&Message::Goodbye);
    }
    let mut writer = socket.try_clone();
    thread::scope(|scope| {
        // The server stops reading at some point; the end of the connection frees the writer.
        scope.spawn(|| drop(writer.send(&script.bytes, &mut Seeded(0))));
        thread::sleep(Duration::from_millis(1 + seeded.below(150)));
        socket.end_writing();
        let _ = socket.read(&mut [0; 16]);
        drop(socket);
    });
}

/// Sends the script and ends its side, while a second thread reads everything until the server's end.
fn converse(siege: &Siege, socket: Socket, script: &Script, mut seeded: Seeded) -> Tally {
    let mut writer = socket.try_clone();
    let mut reading = Reading::new(siege, socket, Seeded(seeded.below(u64::MAX)));
    thread::scope(|scope| {
        scope.spawn(|| {
            // A server that has ended the connection for our noise need not hear the rest.
            let _ = writer.send(&script.bytes, &mut seeded);
            writer.end_writing();
        });
        while reading.next() {}
    });
    reading.tally
}

/// Replies so far, by id.
#[derive(Debug, Default)]
struct Tally {
    replies: HashMap<u64, usize>,
    pongs: HashMap<u64, usize>,
    stats: HashMap<u64, usize>,
    ended_by_error: bool,
}

impl Tally {
    fn is_complete(&self, script: &Script) -> bool {
        let sum = |counts: &HashMap<u64, usize>| counts.values().sum::<usize>();
        sum(&self.replies) >= sum(&script.owed)
            && sum(&self.pongs) >= sum(&script.pings)
            && sum(&self.stats) >= sum(&script.stats)
    }

    /// Exactly one reply to everything.
    fn owes_nothing(&self, script: &Script) {
        assert!(!self.ended_by_error, "ERROR to an orderly peer");
        assert_eq!(self.replies, script.owed, "replies to requests");
        assert_eq!(self.pongs, script.pings, "replies to PING");
        assert_eq!(self.stats, script.stats, "replies to STATS");
    }

    /// At most one reply to everything.
    fn gave_nothing_extra(&self, script: &Script) {
        for (got, asked) in [(&self.replies, &script.owed), (&self.pongs, &script.pings), (&self.stats, &script.stats)]
        {
            for (id, count) in got {
                assert!(asked.get(id).is_some_and(|asked| count <= asked), "{count} replies to {id}");
            }
        }
    }
}

/// A peer's receiving side.
struct Reading<'a> {
    siege: &'a Siege,
    socket: Socket,
    frames: FrameReader,
    tally: Tally,
    seeded: Seeded,
}

impl<'a> Reading<'a> {
    fn new(siege: &'a Siege, socket: Socket, seeded: Seeded) -> Reading<'a> {
        Reading { siege, socket, frames: FrameReader::new(LIMIT), tally: Tally::default(), seeded }
    }

    /// Takes some bytes, slowly at times; false at the end of the connection.
    fn next(&mut self) -> bool {
        let mut buffer = [0; 512];
        let room = 1 + self.seeded.below(buffer.len() as u64) as usize;
        if self.seeded.below(20) == 0 {
            thread::sleep(Duration::from_micros(self.seeded.below(3000)));
        }
        let count = match self.socket.read(&mut buffer[..room]) {
            Ok(count) => count,
            // What a server throws away of our noise may come back as a reset, after all it had to say.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("waiting for the server: {error}; {:?}", self.tally),
        };
        self.frames.push(&buffer[..count]);
        while let Some(frame) = self.frames.next_frame().unwrap() {
            assert!(!self.tally.ended_by_error, "a frame behind ERROR");
            take(self.siege, &mut self.tally, Message::decode(&frame).unwrap());
        }
        count > 0
    }
}

/// Books one frame of the server.
fn take(siege: &Siege, tally: &mut Tally, message: Message) {
    match message {
        Message::HelloOk(_) => {}
        Message::Recommendation(answer) => {
            assert!(answer.id < REFUSED, "{} is answered", answer.id);
            assert_eq!(answer.results, siege.known(answer.id).results, "results of {}", answer.id);
            *tally.replies.entry(answer.id).or_default() += 1;
        }
        Message::Refusal { id, refusal } => {
            let rightly = match refusal.kind {
                // Cancelled, too many at once, or an id that was in flight already.
                RefusalKind::Cancelled | RefusalKind::Overloaded | RefusalKind::BadRequest => true,
                RefusalKind::TooLong | RefusalKind::Deadline | RefusalKind::Unsupported => id >= REFUSED,
                _ => false,
            };
            assert!(rightly, "request {id} was refused: {refusal}");
            *tally.replies.entry(id).or_default() += 1;
        }
        Message::Pong { id } => *tally.pongs.entry(id).or_default() += 1,
        Message::StatsReply { id, .. } => *tally.stats.entry(id).or_default() += 1,
        Message::Error(_) => tally.ended_by_error = true,
        other => panic!("unexpected {other:?}"),
    }
}
