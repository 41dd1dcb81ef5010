//! What a server needs to start, and why it may not.

use std::path::PathBuf;
use std::time::Duration;

use super::Address;
use super::wire::Secret;
use crate::schedule::Limits;

/// Largest payload of a reply; a longer one is refused `TOO_LONG`.
pub const MAX_REPLY_BYTES: usize = 64 << 20;

/// What a slow request takes unless somebody says otherwise.
const SLOW_REQUEST: Duration = Duration::from_secs(1);

/// Largest payload of a frame before HELLO_OK: whoever has not shown that it may ask holds next to nothing.
pub const MAX_HANDSHAKE_BYTES: usize = 4 << 10;

/// What a server needs to start.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen, at least one place; port 0 takes a free port.
    pub listen: Vec<Address>,
    /// With a secret every connection must prove that it knows it. Needed beyond loopback.
    pub secret: Option<Secret>,
    /// Frame size, connections, in flight, timeouts; the rest is the engine's.
    pub limits: Limits,
    /// Permission bits of Unix sockets.
    pub unix_mode: u32,
    /// A request that takes longer than this from arrival to answer is logged, with its stages.
    pub slow_request: Duration,
}

impl ServerConfig {
    /// Listens on `listen` without a secret, with the default limits, Unix sockets for the owner only.
    pub fn new(listen: Vec<Address>) -> ServerConfig {
        ServerConfig { listen, secret: None, limits: Limits::default(), unix_mode: 0o600, slow_request: SLOW_REQUEST }
    }

    pub(super) fn check(&self) -> Result<(), ServeError> {
        if self.listen.is_empty() {
            return Err(ServeError::NoAddress);
        }
        if let (None, Some(address)) = (&self.secret, self.listen.iter().find(|address| !address.is_local())) {
            return Err(ServeError::SecretRequired { address: address.clone() });
        }
        let limits = &self.limits;
        let counts = [
            ("max_frame_bytes", limits.max_frame_bytes),
            ("max_connections", limits.max_connections),
            ("max_in_flight_per_connection", limits.max_in_flight_per_connection),
        ];
        for (name, value) in counts {
            if value == 0 || u32::try_from(value).is_err() {
                return Err(ServeError::BadLimit { name, value });
            }
        }
        Ok(())
    }
}

/// Why a server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Nowhere to listen.
    #[error("no address to listen on: name at least one, such as 127.0.0.1:7070")]
    NoAddress,
    /// An address that others can reach, and no way to tell friends from strangers.
    #[error("{address} is reachable from other machines: configure a shared secret, or listen on 127.0.0.1")]
    SecretRequired {
        /// Where.
        address: Address,
    },
    /// An admin address that others can reach, and nobody said that they may.
    #[error(
        "{address} is reachable from other machines, and the admin pages ask nobody who they are: listen on 127.0.0.1 or a \
         Unix socket, or say --admin-open where the network lets only your monitoring in"
    )]
    AdminBeyondLoopback {
        /// Where.
        address: Address,
    },
    /// A limit that no frame could carry.
    #[error("limit {name} is {value}, expected 1 to 4294967295")]
    BadLimit {
        /// Which.
        name: &'static str,
        /// Its value.
        value: usize,
    },
    /// Binding failed.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: Address,
        /// Why.
        source: std::io::Error,
    },
    /// A live server has the Unix socket.
    #[error("another server listens on {}: stop it, or choose another path", path.display())]
    SocketInUse {
        /// The path.
        path: PathBuf,
    },
    /// Something else has the path of the Unix socket.
    #[error("{} exists and is not a socket: it is left alone, choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses what the socket loop stands on.
    #[error("the socket loop failed at {what}: {source}")]
    Loop {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The I/O thread panicked; its message is in the log.
    #[error("the I/O thread panicked")]
    Panicked,
}
