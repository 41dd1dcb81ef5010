//! Where a server listens and a client connects.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// A TCP address or the path of a Unix socket. As text: `127.0.0.1:7070`, `[::1]:7070`, `localhost:7070`,
/// `unix:/run/sidereal.sock`, or a path that contains a slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why text is not an address.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not an address ({source}): expected HOST:PORT, or unix:PATH")]
pub struct AddressError {
    /// The text.
    pub text: String,
    /// What the resolver says.
    pub source: std::io::Error,
}

impl Address {
    /// True if only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Address::Unix(_) => true,
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Address::Unix(path.into()));
        }
        if text.contains('/') {
            return Ok(Address::Unix(text.into()));
        }
        let fail = |source| AddressError { text: text.to_owned(), source };
        let first = text.to_socket_addrs().map_err(fail)?.next();
        first.map(Address::Tcp).ok_or_else(|| fail(std::io::Error::other("the name has no address")))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Tcp(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in ["127.0.0.1:7070", "[::1]:7070", "0.0.0.0:0", "unix:/run/sidereal.sock", "unix:relative.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("./a.sock".parse::<Address>().unwrap(), Address::Unix("./a.sock".into()));
        let error = "7070".parse::<Address>().unwrap_err();
        assert!(error.to_string().contains("`7070`") && error.to_string().contains("HOST:PORT"), "{error}");
    }

    #[test]
    fn only_loopback_and_unix_are_local() {
        for (text, local) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("unix:/x", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().is_local(), local, "{text}");
        }
    }
}
