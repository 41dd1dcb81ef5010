//! HELLO's challenge: a client shows that it knows the shared secret without sending it.
//!
//! The proof is HMAC-SHA256(secret, nonce || context). The nonce is fresh for every connection, so a recorded proof is
//! worth nothing; the context keeps it from meaning anything in another protocol. This proves the client to the server
//! and nothing else: it neither hides nor seals what follows, which is TLS's work.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;
/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;
/// Follows the nonce in what is signed.
pub const CONTEXT: &[u8] = b"sidereal wire 1 client";

/// Shortest secret accepted.
const LEAST_BYTES: usize = 16;

/// A secret shared by a server and its clients. Never printed.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// Why bytes cannot be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// A guess would find it.
    #[error(
        "the shared secret has {bytes} bytes, expected at least 16: make one with `head -c 32 /dev/urandom | base64`"
    )]
    TooShort {
        /// Its length.
        bytes: usize,
    },
}

impl Secret {
    /// A secret from its bytes, exactly as given.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Secret, SecretError> {
        let bytes = bytes.into();
        match bytes.len() < LEAST_BYTES {
            true => Err(SecretError::TooShort { bytes: bytes.len() }),
            false => Ok(Secret(bytes)),
        }
    }

    /// A secret from a file's contents: white space at its ends does not count.
    pub fn from_text(contents: &[u8]) -> Result<Secret, SecretError> {
        Secret::new(contents.trim_ascii())
    }

    fn mac(&self, nonce: &[u8; NONCE_BYTES]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(nonce);
        mac.update(CONTEXT);
        mac
    }

    /// What a client answers to `nonce`.
    pub fn prove(&self, nonce: &[u8; NONCE_BYTES]) -> [u8; PROOF_BYTES] {
        self.mac(nonce).finalize().into_bytes().into()
    }

    /// True if `proof` answers `nonce`; takes the same time wherever they differ.
    pub fn verify(&self, nonce: &[u8; NONCE_BYTES], proof: &[u8; PROOF_BYTES]) -> bool {
        self.mac(nonce).verify_slice(proof).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Fresh random bytes from the operating system.
pub fn new_nonce() -> std::io::Result<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(std::io::Error::other)?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_answer_their_nonce_only() {
        let secret = Secret::from_text(b"a secret of some length\n").unwrap();
        let proof = secret.prove(&[7; NONCE_BYTES]);
        assert!(secret.verify(&[7; NONCE_BYTES], &proof));
        assert!(!secret.verify(&[8; NONCE_BYTES], &proof));
        let other = Secret::new(*b"another secret, as long").unwrap();
        assert!(!other.verify(&[7; NONCE_BYTES], &proof));
    }

    #[test]
    fn short_secrets_are_refused_and_none_is_printed() {
        assert_eq!(Secret::new(*b"short").unwrap_err(), SecretError::TooShort { bytes: 5 });
        let shown = format!("{:?}", Secret::new(*b"0123456789abcdef").unwrap());
        assert!(!shown.contains("0123"), "{shown}");
    }
}
