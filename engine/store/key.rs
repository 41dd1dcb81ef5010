//! Keys: whose instruction, for which scenario, and which one. In bytes for LMDB, as text for Redis.
//!
//! ```text
//! bytes:  1 | name length (u8) | name | 0            | user ..          for every scenario
//!         1 | name length (u8) | name | 1 | u32 (BE) | user ..          for one scenario
//! text:   sidereal:1:NAME:-:USER                                       for every scenario
//!         sidereal:1:NAME:SCENARIO:USER                                for one scenario, in decimal
//! ```
//!
//! The user stands last and runs to the end, so that it may hold any text. A name holds no `:`.

use std::sync::Arc;

/// First byte of every key of a record; the byte 0 is the store's own.
pub(super) const KEY_FORMAT: u8 = 1;
/// What keys in Redis begin with: `sidereal`, and the format.
pub(super) const TEXT_PREFIX: &str = "sidereal:1:";
/// Longest instruction name.
pub const MAX_NAME_BYTES: usize = 64;
/// Longest user. With everything around it a key stays below LMDB's limit of 511 bytes.
pub const MAX_USER_BYTES: usize = 400;

/// Why something cannot be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The instruction's name cannot be used.
    #[error("instruction name {name:?}: 1 to {MAX_NAME_BYTES} letters, digits, `.`, `_` and `-` are supported")]
    Name {
        /// The name given.
        name: String,
    },
    /// A user without a letter.
    #[error("the user is empty")]
    NoUser,
    /// A user that is too long.
    #[error("the user has {bytes} bytes; {MAX_USER_BYTES} are supported")]
    LongUser {
        /// Its bytes.
        bytes: usize,
    },
}

/// What is looked up: an instruction of a user. Cloning shares the strings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    name: Arc<str>,
    user: Arc<str>,
    scenario: Option<u32>,
    size: Option<usize>,
}

impl Key {
    /// The instruction `name` of `user`, for every scenario.
    ///
    /// # Errors
    /// If the name or the user cannot be in a key.
    pub fn new(name: impl Into<Arc<str>>, user: impl Into<Arc<str>>) -> Result<Key, KeyError> {
        let (name, user) = (name.into(), user.into());
        RawKey { name: &name, user: &user, scenario: None }.check()?;
        Ok(Key { name, user, scenario: None, size: None })
    }

    /// The same for a scenario; where that has none of its own, the user's for every scenario is taken.
    pub fn for_scenario(self, scenario: u32) -> Key {
        Key { scenario: Some(scenario), ..self }
    }

    /// The same with the elements that the vector must have.
    pub fn of_size(self, size: usize) -> Key {
        Key { size: Some(size), ..self }
    }

    /// Name of the instruction.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The scenario, if it is for one.
    pub fn scenario(&self) -> Option<u32> {
        self.scenario
    }

    /// The elements that the vector must have, if that is known.
    pub fn size(&self) -> Option<usize> {
        self.size
    }

    /// The places where a record may be, in the order in which they are tried.
    pub(super) fn places(&self) -> impl Iterator<Item = RawKey<'_>> {
        let own = self.scenario.map(Some);
        own.into_iter().chain([None]).map(|scenario| RawKey { name: &self.name, user: &self.user, scenario })
    }
}

/// One place of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawKey<'a> {
    /// Name of the instruction.
    pub name: &'a str,
    /// The scenario, or every one.
    pub scenario: Option<u32>,
    /// The user.
    pub user: &'a str,
}

impl<'a> RawKey<'a> {
    /// Whether this can be a key.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), KeyError> {
        check_name(self.name)?;
        match self.user.len() {
            0 => Err(KeyError::NoUser),
            bytes if bytes > MAX_USER_BYTES => Err(KeyError::LongUser { bytes }),
            _ => Ok(()),
        }
    }

    /// Appends the key as bytes. It has been [checked](RawKey::check).
    pub fn write(&self, out: &mut Vec<u8>) {
        assert!(self.name.len() <= MAX_NAME_BYTES && self.user.len() <= MAX_USER_BYTES, "an unchecked key");
        out.extend([KEY_FORMAT, self.name.len() as u8]);
        out.extend_from_slice(self.name.as_bytes());
        match self.scenario {
            None => out.push(0),
            Some(scenario) => {
                out.push(1);
                out.extend(scenario.to_be_bytes());
            }
        }
        out.extend_from_slice(self.user.as_bytes());
    }

    /// Reads a key of bytes; `None` if they are none.
    pub fn read(bytes: &'a [u8]) -> Option<RawKey<'a>> {
        let (&[KEY_FORMAT, name], rest) = bytes.split_first_chunk::<2>()? else { return None };
        let (name, rest) = rest.split_at_checked(usize::from(name))?;
        let (&scoped, rest) = rest.split_first()?;
        let (scenario, user) = match scoped {
            0 => (None, rest),
            1 => {
                let (scenario, user) = rest.split_first_chunk::<4>()?;
                (Some(u32::from_be_bytes(*scenario)), user)
            }
            _ => return None,
        };
        let key = RawKey { name: std::str::from_utf8(name).ok()?, scenario, user: std::str::from_utf8(user).ok()? };
        key.check().is_ok().then_some(key)
    }

    /// The key as text.
    pub fn text(&self) -> String {
        match self.scenario {
            None => format!("{TEXT_PREFIX}{}:-:{}", self.name, self.user),
            Some(scenario) => format!("{TEXT_PREFIX}{}:{scenario}:{}", self.name, self.user),
        }
    }

    /// Reads a key of text; `None` if it is none.
    pub fn from_text(text: &'a str) -> Option<RawKey<'a>> {
        let mut parts = text.strip_prefix(TEXT_PREFIX)?.splitn(3, ':');
        let (name, scenario, user) = (parts.next()?, parts.next()?, parts.next()?);
        let scenario = match scenario {
            "-" => None,
            number => Some(number.parse().ok()?),
        };
        let key = RawKey { name, scenario, user };
        // One text a key: a number with a sign or zeros in front is none.
        (key.check().is_ok() && key.text() == text).then_some(key)
    }
}

/// Whether `name` can be an instruction's.
///
/// # Errors
/// [`KeyError::Name`].
pub(super) fn check_name(name: &str) -> Result<(), KeyError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(KeyError::Name { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of docs/instruction-store.md.
    const VECTORS: [(RawKey<'static>, &[u8], &str); 2] = [
        (
            RawKey { name: "reasoning", scenario: None, user: "u:42" },
            b"\x01\x09reasoning\x00u:42",
            "sidereal:1:reasoning:-:u:42",
        ),
        (
            RawKey { name: "r", scenario: Some(258), user: "é" },
            b"\x01\x01r\x01\x00\x00\x01\x02\xc3\xa9",
            "sidereal:1:r:258:é",
        ),
    ];

    #[test]
    fn keys_have_the_documented_bytes_and_text() {
        for (key, bytes, text) in VECTORS {
            let mut out = Vec::new();
            key.write(&mut out);
            assert_eq!(out, bytes);
            assert_eq!(key.text(), text);
            assert_eq!(RawKey::read(bytes), Some(key));
            assert_eq!(RawKey::from_text(text), Some(key));
        }
    }

    #[test]
    fn the_largest_key_fits_lmdb() {
        let (name, user) = ("n".repeat(MAX_NAME_BYTES), "u".repeat(MAX_USER_BYTES));
        let key = RawKey { name: &name, scenario: Some(u32::MAX), user: &user };
        assert_eq!(key.check(), Ok(()));
        let mut out = Vec::new();
        key.write(&mut out);
        assert!(out.len() <= 511, "{}", out.len());
        let longer = "u".repeat(MAX_USER_BYTES + 1);
        assert_eq!(Key::new("a", longer), Err(KeyError::LongUser { bytes: MAX_USER_BYTES + 1 }));
    }

    #[test]
    fn what_is_no_key_is_not_read() {
        for bytes in [&b""[..], b"\x01", b"\x02\x01r\x00u", b"\x01\x01r\x00", b"\x01\x09r\x00u", b"\x01\x01r\x02u"] {
            assert_eq!(RawKey::read(bytes), None, "{bytes:?}");
        }
        for text in
            ["", "sidereal:1:r:-:", "sidereal:1:r:+1:u", "sidereal:1:r:01:u", "sidereal:2:r:-:u", "sidereal:1:r"]
        {
            assert_eq!(RawKey::from_text(text), None, "{text}");
        }
        for name in ["", "a:b", "a b", "é"] {
            assert_eq!(Key::new(name, "u"), Err(KeyError::Name { name: name.into() }));
        }
        assert_eq!(Key::new("a", ""), Err(KeyError::NoUser));
    }

    #[test]
    fn a_scenario_falls_back_to_every_scenario() {
        let key = Key::new("r", "u").unwrap().for_scenario(3);
        let places: Vec<_> = key.places().map(|place| place.scenario).collect();
        assert_eq!(places, [Some(3), None]);
        assert_eq!(Key::new("r", "u").unwrap().places().count(), 1);
    }
}
