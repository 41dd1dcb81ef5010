//! What can go wrong between a client and its server. Refusals are answers and no part of this.

use std::io;
use std::time::Duration;

use crate::serve::Address;
use crate::serve::wire::{Fault, WireError};

/// A connection that did not come about or did not last.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection broke while {doing}: {source}")]
    Io {
        /// What was going on.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Nothing came, or nothing could be sent, for too long. The connection is still good unless a send timed out.
    #[error("no {expected} within {timeout:?}")]
    Timeout {
        /// What was waited for.
        expected: &'static str,
        /// How long.
        timeout: Duration,
    },
    /// The server closed the connection.
    #[error("the server closed the connection while {expected} was expected")]
    Closed {
        /// What was waited for.
        expected: &'static str,
    },
    /// The server ended the connection and says why.
    #[error("the server ended the connection: {0}")]
    Fault(Fault),
    /// The server wants a proof and there is no secret to make it with.
    #[error("the server wants a proof of the shared secret: configure it")]
    SecretRequired,
    /// A frame that makes no sense here.
    #[error("unexpected {kind} frame, expected {expected}")]
    Unexpected {
        /// What came.
        kind: &'static str,
        /// What should have come.
        expected: &'static str,
    },
    /// What the server sent is not the protocol; or a request does not fit a frame.
    #[error(transparent)]
    Wire(#[from] WireError),
}
