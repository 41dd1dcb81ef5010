//! The socket side: the wire format, the event loop that speaks it, and the seam behind which an engine answers.
//!
//! One I/O thread owns every socket and never waits for anything but readiness; the engine owns every tensor and never
//! touches a socket. They meet in [`Service`]: a request goes in with a closure, the closure brings the answer back through
//! a queue and a wake-up. `serve` knows neither models nor devices.

mod address;
mod admin;
mod config;
mod connection;
mod counters;
mod event_loop;
mod inbox;
mod outgoing;
mod request_log;
mod server;
mod service;
mod socket;
pub mod wire;

pub use address::{Address, AddressError};
pub use admin::{Admin, AdminConfig, AdminReach, Board};
pub use config::{MAX_HANDSHAKE_BYTES, MAX_REPLY_BYTES, ServeError, ServerConfig};
pub use counters::Counters;
pub use server::{DrainReport, Server};

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::request::{Answer, Request};
use crate::schedule::{EngineCounts, ReplaceError, WeightsStatus};

/// What the socket loop asks of the engine. Implementations never block.
pub trait Service: Send + Sync {
    /// Takes a request; `done` is called exactly once, from any thread, possibly before this returns (early refusal).
    /// Setting `cancel` asks for it to be dropped: `done` is then called with CANCELLED unless the answer came first.
    fn submit(&self, request: Request, arrived: Instant, cancel: Arc<AtomicBool>, done: Box<dyn FnOnce(Answer) + Send>);
    /// Counters and facts for STATS, as JSON text.
    fn stats(&self) -> String;
    /// The same counters for metrics. Who counts nothing need not say more.
    fn counts(&self) -> EngineCounts {
        EngineCounts::default()
    }
    /// Begins to replace the weights; returns the number of the policy to be, or why it does not begin.
    ///
    /// # Errors
    /// As [`Engine::replace_weights`](crate::schedule::Engine::replace_weights); `Unavailable` where there are no weights.
    fn replace_weights(&self, path: &Path, version: &str) -> Result<u64, ReplaceError> {
        let _ = (path, version);
        Err(ReplaceError::Unavailable("nothing here has weights".to_owned()))
    }
    /// Whose weights serve, and how far the newest replacement is.
    fn weights(&self) -> WeightsStatus {
        WeightsStatus::default()
    }
    /// What is served, told in HELLO's answer.
    fn facts(&self) -> ServerFacts;
}

/// What a server serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// `name@version` of the export.
    pub model: String,
    /// Version of the catalogue.
    pub catalog: String,
    /// Device and instruction set, e.g. `cpu/avx512bf16`.
    pub device: String,
    /// `f32` or `bf16`.
    pub dtype: String,
    /// Codes of each level of a semantic ID.
    pub levels: Vec<u32>,
    /// Widest beam of a request.
    pub max_beams: u32,
    /// Longest prompt of a request.
    pub max_prompt_tokens: u32,
}
