//! Every frame as one enum: what clients, the server and the test vectors encode and decode.

use super::handshake::{decode_hello_ok, encode_hello_ok};
use super::{
    Frame, FrameWriter, HelloOk, Kind, NONCE_BYTES, PROOF_BYTES, Sections, Tag, WireError, decode_recommend,
    decode_recommendation, encode_recommend, encode_recommendation,
};
use crate::request::{Answer, Recommendation, Refusal, RefusalKind, Request};

/// Why a server ends a connection. The numbers are the wire codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum FaultCode {
    /// The bytes are not frames of this protocol, or were damaged.
    BadFrame = 1,
    /// A version that the server does not speak.
    BadVersion = 2,
    /// Longer than the server accepts.
    FrameTooLarge = 3,
    /// A frame that has no business here: its kind is unknown, is a server's own, or comes out of turn; or a frame other
    /// than RECOMMEND with a malformed payload.
    UnexpectedFrame = 4,
    /// The proof is wrong.
    AuthFailed = 5,
    /// The server has all the connections that it allows.
    TooManyConnections = 6,
    /// Nothing was asked for too long.
    Idle = 7,
    /// A frame was begun and not finished in time, or HELLO never came.
    Stalled = 8,
    /// The server is leaving.
    ShuttingDown = 9,
}

impl FaultCode {
    /// Every code, in wire order.
    pub const ALL: [FaultCode; 9] = [
        FaultCode::BadFrame,
        FaultCode::BadVersion,
        FaultCode::FrameTooLarge,
        FaultCode::UnexpectedFrame,
        FaultCode::AuthFailed,
        FaultCode::TooManyConnections,
        FaultCode::Idle,
        FaultCode::Stalled,
        FaultCode::ShuttingDown,
    ];

    /// The name that logs and clients use.
    pub fn name(self) -> &'static str {
        match self {
            FaultCode::BadFrame => "BAD_FRAME",
            FaultCode::BadVersion => "BAD_VERSION",
            FaultCode::FrameTooLarge => "FRAME_TOO_LARGE",
            FaultCode::UnexpectedFrame => "UNEXPECTED_FRAME",
            FaultCode::AuthFailed => "AUTH_FAILED",
            FaultCode::TooManyConnections => "TOO_MANY_CONNECTIONS",
            FaultCode::Idle => "IDLE",
            FaultCode::Stalled => "STALLED",
            FaultCode::ShuttingDown => "SHUTTING_DOWN",
        }
    }
}

/// The content of an ERROR frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Category.
    pub code: FaultCode,
    /// What, where, and what to do.
    pub message: String,
}

impl Fault {
    /// A fault of `code` saying `message`.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into() }
    }
}

impl From<&WireError> for Fault {
    fn from(error: &WireError) -> Fault {
        let code = match error {
            WireError::BadVersion { .. } => FaultCode::BadVersion,
            WireError::FrameTooLarge { .. } => FaultCode::FrameTooLarge,
            _ if error.breaks_framing() => FaultCode::BadFrame,
            _ => FaultCode::UnexpectedFrame,
        };
        Fault::new(code, error.to_string())
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

/// Any frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Opens a conversation.
    Hello {
        /// Name and version of the client, for logs.
        client: Option<String>,
    },
    /// The conversation is open.
    HelloOk(HelloOk),
    /// Asks for a proof.
    Challenge {
        /// Fresh random bytes.
        nonce: [u8; NONCE_BYTES],
    },
    /// The proof.
    Auth {
        /// See [`Secret::prove`](super::Secret::prove).
        proof: [u8; PROOF_BYTES],
    },
    /// A request.
    Recommend(Request),
    /// Its answer.
    Recommendation(Recommendation),
    /// Why there is none.
    Refusal {
        /// The request's.
        id: u64,
        /// The reason.
        refusal: Refusal,
    },
    /// Drop a request.
    Cancel {
        /// The request's.
        id: u64,
    },
    /// Are you there?
    Ping {
        /// Echoed.
        id: u64,
    },
    /// Yes.
    Pong {
        /// The PING's.
        id: u64,
    },
    /// Counters, please.
    Stats {
        /// Echoed.
        id: u64,
    },
    /// The counters.
    StatsReply {
        /// The STATS's.
        id: u64,
        /// The engine's, JSON text.
        engine: String,
        /// The socket loop's, JSON text.
        server: String,
    },
    /// Nothing new will come.
    Goodbye,
    /// Why the connection ends.
    Error(Fault),
}

impl Message {
    /// The frame kind.
    pub fn kind(&self) -> Kind {
        match self {
            Message::Hello { .. } => Kind::Hello,
            Message::HelloOk(_) => Kind::HelloOk,
            Message::Challenge { .. } => Kind::Challenge,
            Message::Auth { .. } => Kind::Auth,
            Message::Recommend(_) => Kind::Recommend,
            Message::Recommendation(_) => Kind::Recommendation,
            Message::Refusal { .. } => Kind::Refusal,
            Message::Cancel { .. } => Kind::Cancel,
            Message::Ping { .. } => Kind::Ping,
            Message::Pong { .. } => Kind::Pong,
            Message::Stats { .. } => Kind::Stats,
            Message::StatsReply { .. } => Kind::StatsReply,
            Message::Goodbye => Kind::Goodbye,
            Message::Error(_) => Kind::Error,
        }
    }

    /// Appends the frame to `out`; on error `out` is as before.
    pub fn encode(&self, limit: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
        let id = match self {
            Message::HelloOk(hello) => return encode_hello_ok(hello, limit, out),
            Message::Recommend(request) => return encode_recommend(request, limit, out),
            Message::Recommendation(answer) => return encode_recommendation(answer, limit, out),
            Message::Refusal { id, refusal } => return encode_refusal(*id, refusal, limit, out),
            Message::Cancel { id } | Message::Ping { id } | Message::Pong { id } | Message::Stats { id } => *id,
            Message::StatsReply { id, .. } => *id,
            _ => 0,
        };
        let mut frame = FrameWriter::begin(out, self.kind(), id);
        match self {
            Message::Hello { client: Some(client) } => {
                frame.optional(Tag::Client, |out| out.extend_from_slice(client.as_bytes()));
            }
            Message::Challenge { nonce } => frame.required(Tag::Nonce, |out| out.extend_from_slice(nonce)),
            Message::Auth { proof } => frame.required(Tag::Proof, |out| out.extend_from_slice(proof)),
            Message::StatsReply { engine, server, .. } => {
                frame.optional(Tag::EngineStats, |out| out.extend_from_slice(engine.as_bytes()));
                frame.optional(Tag::ServerStats, |out| out.extend_from_slice(server.as_bytes()));
            }
            Message::Error(fault) => put_code(&mut frame, Tag::Fault, fault.code as u16, &fault.message),
            _ => {}
        }
        frame.finish(limit)
    }

    /// The frame's bytes, for frames that are small by construction or whose size was bounded before.
    pub fn to_bytes(&self) -> Result<Vec<u8>, WireError> {
        let mut out = Vec::new();
        self.encode(u32::MAX as usize, &mut out)?;
        Ok(out)
    }

    /// Reads a frame.
    pub fn decode(frame: &Frame<'_>) -> Result<Message, WireError> {
        let id = frame.header.id;
        match frame.kind()? {
            Kind::HelloOk => decode_hello_ok(frame).map(Message::HelloOk),
            Kind::Recommend => decode_recommend(frame).map(Message::Recommend),
            Kind::Recommendation => decode_recommendation(frame).map(Message::Recommendation),
            Kind::Hello => {
                let [client] = texts(frame, Kind::Hello, [Tag::Client])?;
                Ok(Message::Hello { client })
            }
            Kind::Challenge => Ok(Message::Challenge { nonce: fixed(frame, Kind::Challenge, Tag::Nonce)? }),
            Kind::Auth => Ok(Message::Auth { proof: fixed(frame, Kind::Auth, Tag::Proof)? }),
            Kind::Refusal => {
                let (kind, message) = coded(frame, Kind::Refusal, Tag::Reason, |code| {
                    RefusalKind::ALL.into_iter().find(|kind| *kind as u16 == code)
                })?;
                Ok(Message::Refusal { id, refusal: Refusal { kind, message } })
            }
            Kind::Error => {
                let (code, message) = coded(frame, Kind::Error, Tag::Fault, |code| {
                    FaultCode::ALL.into_iter().find(|known| *known as u16 == code)
                })?;
                Ok(Message::Error(Fault { code, message }))
            }
            Kind::StatsReply => {
                let [engine, server] = texts(frame, Kind::StatsReply, [Tag::EngineStats, Tag::ServerStats])?;
                Ok(Message::StatsReply { id, engine: engine.unwrap_or_default(), server: server.unwrap_or_default() })
            }
            kind @ (Kind::Cancel | Kind::Ping | Kind::Pong | Kind::Stats | Kind::Goodbye) => {
                let [] = texts(frame, kind, [])?;
                Ok(match kind {
                    Kind::Cancel => Message::Cancel { id },
                    Kind::Ping => Message::Ping { id },
                    Kind::Pong => Message::Pong { id },
                    Kind::Stats => Message::Stats { id },
                    _ => Message::Goodbye,
                })
            }
        }
    }
}

/// Appends a REFUSAL.
pub fn encode_refusal(id: u64, refusal: &Refusal, limit: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
    let mut frame = FrameWriter::begin(out, Kind::Refusal, id);
    put_code(&mut frame, Tag::Reason, refusal.kind as u16, &refusal.message);
    frame.finish(limit)
}

/// Appends the frame that answers request `id`: RECOMMENDATION or REFUSAL.
pub fn encode_answer(answer: &Answer, id: u64, limit: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
    match answer {
        Ok(recommendation) => encode_recommendation(recommendation, limit, out),
        Err(refusal) => encode_refusal(id, refusal, limit, out),
    }
}

fn put_code(frame: &mut FrameWriter<'_>, tag: Tag, code: u16, message: &str) {
    frame.required(tag, |out| {
        out.extend_from_slice(&code.to_le_bytes());
        out.extend_from_slice(message.as_bytes());
    });
}

/// Reads a frame whose sections are optional texts.
fn texts<const N: usize>(frame: &Frame<'_>, kind: Kind, tags: [Tag; N]) -> Result<[Option<String>; N], WireError> {
    let mut found = [const { None }; N];
    for section in Sections::new(frame.payload) {
        let section = section?;
        match tags.iter().position(|tag| *tag as u16 == section.id.0) {
            None => section.skip(kind)?,
            Some(at) => {
                let text = section.fields(tags[at]).rest_as_text("the text")?.to_owned();
                section.store(tags[at], &mut found[at], text)?;
            }
        }
    }
    Ok(found)
}

/// Reads a frame whose one section has a fixed size.
fn fixed<const N: usize>(frame: &Frame<'_>, kind: Kind, tag: Tag) -> Result<[u8; N], WireError> {
    let mut found = None;
    for section in Sections::new(frame.payload) {
        let section = section?;
        if section.id.0 != tag as u16 {
            section.skip(kind)?;
            continue;
        }
        let mut fields = section.fields(tag);
        let mut value = [0; N];
        value.copy_from_slice(fields.take(N, "the bytes")?);
        fields.end()?;
        section.store(tag, &mut found, value)?;
    }
    found.ok_or(WireError::MissingSection { kind, expected: tag.name() })
}

/// Reads a frame whose one section is a code and a message.
fn coded<C>(
    frame: &Frame<'_>,
    kind: Kind,
    tag: Tag,
    known: impl Fn(u16) -> Option<C>,
) -> Result<(C, String), WireError> {
    let mut found = None;
    for section in Sections::new(frame.payload) {
        let section = section?;
        if section.id.0 != tag as u16 {
            section.skip(kind)?;
            continue;
        }
        let mut fields = section.fields(tag);
        let at = fields.offset();
        let code = fields.u16("the code")?;
        let code =
            known(code).ok_or_else(|| fields.bad_value(at, "the code", code.into(), "a code of this version"))?;
        let message = fields.rest_as_text("the message")?.to_owned();
        section.store(tag, &mut found, (code, message))?;
    }
    found.ok_or(WireError::MissingSection { kind, expected: tag.name() })
}
