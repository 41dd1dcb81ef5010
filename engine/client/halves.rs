//! The sending and the receiving half of a client.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::ops::ControlFlow::{self, Break, Continue};
use std::time::{Duration, Instant};

use super::ClientError;
use super::stream::Stream;
use crate::request::{Answer, Request};
use crate::serve::MAX_REPLY_BYTES;
use crate::serve::wire::{FrameReader, Message, WireError, encode_recommend};

/// Bytes read at once.
const SCRATCH_BYTES: usize = 64 << 10;

/// Sends requests.
pub struct Sender {
    stream: Stream,
    buffer: Vec<u8>,
    timeout: Option<Duration>,
}

impl Sender {
    pub(super) fn new(stream: Stream) -> Sender {
        Sender { stream, buffer: Vec::new(), timeout: None }
    }

    /// Longest wait for room to send.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        self.timeout = timeout;
        let result = self.stream.set_write_timeout(timeout.map(at_least_a_little));
        result.map_err(|source| ClientError::Io { doing: "setting a timeout", source })
    }

    /// Sends a request.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        self.write_frame(|out| encode_recommend(request, u32::MAX as usize, out))
    }

    /// Asks for a request to be dropped.
    pub fn cancel(&mut self, id: u64) -> Result<(), ClientError> {
        self.write(&Message::Cancel { id })
    }

    /// Says that no request will follow.
    pub fn goodbye(&mut self) -> Result<(), ClientError> {
        self.write(&Message::Goodbye)
    }

    pub(super) fn write(&mut self, message: &Message) -> Result<(), ClientError> {
        self.write_frame(|out| message.encode(u32::MAX as usize, out))
    }

    fn write_frame(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), WireError>) -> Result<(), ClientError> {
        self.buffer.clear();
        encode(&mut self.buffer)?;
        self.stream.write_all(&self.buffer).map_err(|source| match self.timeout {
            Some(timeout) if is_timeout(&source) => ClientError::Timeout { expected: "room to send", timeout },
            _ => ClientError::Io { doing: "sending", source },
        })
    }
}

/// Receives answers.
pub struct Receiver {
    stream: Stream,
    frames: FrameReader,
    scratch: Box<[u8]>,
    timeout: Option<Duration>,
    /// Answers that came while something else was waited for.
    early: VecDeque<(u64, Answer)>,
    server_leaves: bool,
}

impl Receiver {
    pub(super) fn new(stream: Stream, timeout: Option<Duration>) -> Receiver {
        Receiver {
            stream,
            frames: FrameReader::new(MAX_REPLY_BYTES),
            scratch: vec![0; SCRATCH_BYTES].into(),
            timeout,
            early: VecDeque::new(),
            server_leaves: false,
        }
    }

    /// Longest wait of a call.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// True once the server said GOODBYE.
    pub fn server_leaves(&self) -> bool {
        self.server_leaves
    }

    /// The next answer, with its request's id.
    pub fn receive(&mut self) -> Result<(u64, Answer), ClientError> {
        if let Some(early) = self.early.pop_front() {
            return Ok(early);
        }
        self.wait_for("an answer", |message| match message {
            Message::Recommendation(answer) => Break((answer.id, Ok(answer))),
            Message::Refusal { id, refusal } => Break((id, Err(refusal))),
            other => Continue(other),
        })
    }

    /// The answer to request `id`; others wait for [`receive`](Receiver::receive).
    pub(super) fn receive_for(&mut self, id: u64) -> Result<Answer, ClientError> {
        self.wait_for("an answer", |message| match message {
            Message::Recommendation(answer) if answer.id == id => Break(Ok(answer)),
            Message::Refusal { id: refused, refusal } if refused == id => Break(Err(refusal)),
            other => Continue(other),
        })
    }

    /// Receives until `want` takes a message. Answers that it leaves are kept; late PONGs and the like are dropped.
    pub(super) fn wait_for<T>(
        &mut self,
        expected: &'static str,
        mut want: impl FnMut(Message) -> ControlFlow<T, Message>,
    ) -> Result<T, ClientError> {
        let until = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            while let Some(frame) = self.frames.next_frame()? {
                let message = match Message::decode(&frame)? {
                    Message::Error(fault) => return Err(ClientError::Fault(fault)),
                    message => message,
                };
                match want(message) {
                    Break(wanted) => return Ok(wanted),
                    Continue(Message::Recommendation(answer)) => self.early.push_back((answer.id, Ok(answer))),
                    Continue(Message::Refusal { id, refusal }) => self.early.push_back((id, Err(refusal))),
                    Continue(Message::Goodbye) => self.server_leaves = true,
                    Continue(Message::Pong { .. } | Message::StatsReply { .. }) => {}
                    Continue(other) => return Err(ClientError::Unexpected { kind: other.kind().name(), expected }),
                }
            }
            self.fill(expected, until)?;
        }
    }

    /// Reads once.
    fn fill(&mut self, expected: &'static str, until: Option<Instant>) -> Result<(), ClientError> {
        let timed_out = || ClientError::Timeout { expected, timeout: self.timeout.unwrap_or_default() };
        let fail = |source| ClientError::Io { doing: "receiving", source };
        let left = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return Err(timed_out()),
            left => left,
        };
        self.stream.set_read_timeout(left.map(at_least_a_little)).map_err(fail)?;
        match self.frames.read_from(&mut self.stream, &mut self.scratch) {
            Ok(0) => {
                self.frames.end()?;
                Err(ClientError::Closed { expected })
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) if is_timeout(&error) => Err(timed_out()),
            Err(error) => Err(fail(error)),
        }
    }
}

/// The system reads a zero timeout as none.
fn at_least_a_little(timeout: Duration) -> Duration {
    timeout.max(Duration::from_micros(1))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
