//! The instruction store: what the near-line pipeline has worked out about users, read by user while a request is resolved.
//!
//! A record is a vector with a version and the time at which it was made (`docs/instruction-store.md`). It lives in an LMDB
//! environment on this machine, or in Redis. A look-up never fails as a whole and never outlives its budget when it goes
//! through [`Lookups`]: what is missing, too old, damaged or not known in time is an outcome with a name, and the request is
//! served without it.
//!
//! Nothing here knows a request, a model or a tensor.

mod backend;
mod breaker;
mod counts;
mod error;
mod key;
mod lmdb;
pub mod load;
mod lookups;
mod redis;
mod stats;
mod value;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use backend::Backend;
pub use breaker::BreakerConfig;
use counts::Counters;
pub use counts::{BreakerState, StoreCounts};
pub use error::StoreError;
pub use key::{Key, KeyError, MAX_NAME_BYTES, MAX_USER_BYTES, RawKey};
pub use lookups::{LookupLimits, Lookups};
pub use redis::RemoteConfig;
pub use stats::{StoreStats, VersionStats};
pub use value::{HEADER_BYTES, Header, MAX_ELEMENTS, Value, ValueError};

/// How to open a store, and which of its records to believe.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// A directory, or the `redis://` address of a server.
    pub location: String,
    /// Whether to make a directory that is not there.
    pub create: bool,
    /// Most bytes an embedded store may grow to. Address space until it is written.
    pub map_bytes: usize,
    /// Reader slots of an embedded store, of all processes together.
    pub max_readers: u32,
    /// Records that were made longer ago are [`Found::Expired`]; `None` takes any.
    pub max_age: Option<Duration>,
    /// How far a record's time may be ahead of this machine's clock.
    pub max_skew: Duration,
    /// How long to wait for a remote store.
    pub remote: RemoteConfig,
}

impl StoreConfig {
    /// The store at `location` with defaults: not made if missing, up to 64 GiB, records of any age, a minute of skew.
    pub fn new(location: impl Into<String>) -> StoreConfig {
        StoreConfig {
            location: location.into(),
            create: false,
            map_bytes: 64 << 30,
            max_readers: 126,
            max_age: None,
            max_skew: Duration::from_secs(60),
            remote: RemoteConfig::default(),
        }
    }
}

/// A record that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The writer's version of what made it.
    pub version: u64,
    /// When it was made, in milliseconds since 1970-01-01 UTC.
    pub created_at_ms: u64,
    /// The scenario that it was stored for; `None` if it is for every scenario.
    pub scenario: Option<u32>,
    /// Its elements, all finite.
    pub vector: Vec<f32>,
}

/// Why a look-up has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The budget ran out.
    #[error("timeout")]
    Timeout,
    /// The store has failed too often and is left alone for a while.
    #[error("the circuit breaker is open")]
    BreakerOpen,
    /// More look-ups are waiting than the queue takes.
    #[error("too many look-ups are waiting")]
    Overloaded,
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
    /// The store said no.
    #[error("{0}")]
    Backend(Arc<str>),
}

/// What became of one key.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A record.
    Record(Record),
    /// There is none.
    Missing,
    /// There is one, and it is too old.
    Expired {
        /// How long ago it was made.
        age: Duration,
    },
    /// There is one, and it cannot be used.
    Bad {
        /// Why.
        reason: ValueError,
    },
    /// Nobody knows.
    Failed {
        /// Why.
        reason: Reason,
    },
}

/// An open store. Shared by reference; every call may come from any thread.
#[derive(Debug)]
pub struct Store {
    backend: Box<dyn Backend>,
    max_age: Option<Duration>,
    max_skew: Duration,
    location: String,
    counters: Arc<Counters>,
}

impl Store {
    /// Opens the store that `config` names.
    ///
    /// # Errors
    /// If an embedded store cannot be opened, or the address of a remote one cannot be used. A remote store need not be
    /// reachable.
    pub fn open(config: &StoreConfig) -> Result<Store, StoreError> {
        let counters = Arc::new(Counters::default());
        let location = &config.location;
        let backend: Box<dyn Backend> = if redis::is_address(location) {
            Box::new(redis::RedisStore::new(location, &config.remote, Arc::clone(&counters))?)
        } else {
            Box::new(lmdb::LmdbStore::open(location.as_ref(), config)?)
        };
        let location = redis::shown(location);
        Ok(Store { backend, max_age: config.max_age, max_skew: config.max_skew, location, counters })
    }

    /// Where it is: the directory, or the address without its password.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Looks up `keys` together, on this thread; an outcome for each, in their order. Gives up after `budget` as well as the
    /// store lets it: a read from a disk that hangs is not interrupted. Who must not wait longer uses [`Lookups`].
    pub fn lookup(&self, keys: &[Key], budget: Duration) -> Vec<Found> {
        let now = Instant::now();
        let deadline = now.checked_add(budget).unwrap_or(now + Duration::from_secs(3600));
        let found = self.find(keys, deadline);
        found.iter().for_each(|found| self.counters.count(found));
        found
    }

    /// Counters since the store was opened.
    pub fn counts(&self) -> StoreCounts {
        self.counters.read()
    }

    /// Goes through the whole store.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn stats(&self) -> Result<StoreStats, StoreError> {
        stats::gather(&*self.backend)
    }

    /// Looks up without counting.
    fn find(&self, keys: &[Key], deadline: Instant) -> Vec<Found> {
        let places: Vec<(usize, RawKey<'_>)> =
            keys.iter().enumerate().flat_map(|(number, key)| key.places().map(move |place| (number, place))).collect();
        let raw: Vec<RawKey<'_>> = places.iter().map(|(_, place)| *place).collect();
        let now_ms = unix_ms(SystemTime::now());
        let mut found: Vec<Option<Found>> = vec![None; keys.len()];
        self.backend.fetch(&raw, deadline, &mut |at, value| {
            let (number, place) = places[at];
            let judged = match value {
                Ok(None) => Found::Missing,
                Ok(Some(bytes)) => self.judge(&keys[number], place.scenario, bytes, now_ms),
                Err(reason) => Found::Failed { reason },
            };
            let slot = &mut found[number];
            // A usable record wins, the scenario's own first; else what is wrong with the more specific one is told.
            let better = match slot {
                None | Some(Found::Missing) => true,
                Some(Found::Record(_)) => false,
                Some(_) => matches!(judged, Found::Record(_)),
            };
            if better {
                *slot = Some(judged);
            }
        });
        let unknown = || Found::Failed { reason: Reason::Timeout };
        found.into_iter().map(|found| found.unwrap_or_else(unknown)).collect()
    }

    /// Whether a value is a record to believe.
    fn judge(&self, key: &Key, scenario: Option<u32>, bytes: &[u8], now_ms: u64) -> Found {
        let value = match Value::read(bytes) {
            Ok(value) => value,
            Err(reason) => return Found::Bad { reason },
        };
        let Header { size, version, created_at_ms, .. } = value.header;
        let ahead_ms = created_at_ms.saturating_sub(now_ms);
        if u128::from(ahead_ms) > self.max_skew.as_millis() {
            return Found::Bad { reason: ValueError::Future { ahead_ms } };
        }
        let age = Duration::from_millis(now_ms.saturating_sub(created_at_ms));
        if self.max_age.is_some_and(|most| age > most) {
            return Found::Expired { age };
        }
        if let Some(expected) = key.size().filter(|expected| *expected != size) {
            return Found::Bad { reason: ValueError::Size { expected, found: size } };
        }
        match value.vector() {
            Ok(vector) => Found::Record(Record { version, created_at_ms, scenario, vector }),
            Err(reason) => Found::Bad { reason },
        }
    }
}

/// Milliseconds since 1970-01-01 UTC; 0 before.
pub fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
