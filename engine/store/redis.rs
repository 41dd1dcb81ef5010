//! The remote store: Redis. Values are the same bytes as in an embedded store, keys are their text.
//!
//! One connection, used in turns. A look-up is one round trip: MGETs in one pipeline. Every wait has an end: connecting and each
//! read of an answer, within what is left of the look-up's budget. After any error the connection is given up, since an answer
//! may still be on its way, and the next look-up makes another. A [breaker](super::breaker) keeps look-ups from waiting for a
//! server that is gone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Client, Connection, IntoConnectionInfo, RedisError};

use super::backend::{Backend, Entries, Facts, Sink, Values};
use super::breaker::{Breaker, BreakerConfig};
use super::counts::Counters;
use super::key::TEXT_PREFIX;
use super::{HEADER_BYTES, RawKey, Reason, StoreError};

/// Keys of one MGET: the server does nothing else meanwhile.
const KEYS_PER_COMMAND: usize = 256;
/// Records of one pipeline of a load or a walk.
const RECORDS_PER_PIPELINE: usize = 512;
/// With less than this left nothing is asked.
const LEAST_WAIT: Duration = Duration::from_millis(1);
/// Loads and walks are not in a hurry.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for a remote store.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// For a connection.
    pub connect_timeout: Duration,
    /// For an answer.
    pub response_timeout: Duration,
    /// When to leave it alone.
    pub breaker: BreakerConfig,
}

impl Default for RemoteConfig {
    /// 200 ms for a connection, 100 ms for an answer.
    fn default() -> RemoteConfig {
        RemoteConfig {
            connect_timeout: Duration::from_millis(200),
            response_timeout: Duration::from_millis(100),
            breaker: BreakerConfig::default(),
        }
    }
}

/// A server.
pub(super) struct RedisStore {
    client: Client,
    /// Its address without a password.
    server: String,
    config: RemoteConfig,
    session: Mutex<Session>,
    counters: Arc<Counters>,
}

struct Session {
    connection: Option<Connection>,
    breaker: Breaker,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Whether a location is the address of a server.
pub(super) fn is_address(location: &str) -> bool {
    ["redis:", "rediss:", "redis+unix:", "unix:"].iter().any(|scheme| location.starts_with(scheme))
}

/// The address without user and password.
pub(super) fn shown(location: &str) -> String {
    match (location.split_once("://"), location.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) if is_address(location) => format!("{scheme}://{host}"),
        _ => location.to_owned(),
    }
}

impl RedisStore {
    /// The server at `location`; it need not be there yet.
    pub(super) fn new(
        location: &str,
        config: &RemoteConfig,
        counters: Arc<Counters>,
    ) -> Result<RedisStore, StoreError> {
        let server = shown(location);
        let wrong = |error: RedisError| {
            let reason = format!("not an address such as redis://127.0.0.1:6379/0: {error}");
            StoreError::Address { url: server.clone(), reason }
        };
        // Nothing is said to the server before the first look-up but user, password and database, where the address has them.
        let info = location.into_connection_info().map_err(wrong)?;
        let quiet = info.redis_settings().clone().set_skip_set_lib_name();
        let client = Client::open(info.set_redis_settings(quiet)).map_err(wrong)?;
        let breaker = Breaker::new(config.breaker.clone());
        let session = Mutex::new(Session { connection: None, breaker });
        Ok(RedisStore { client, server, config: config.clone(), session, counters })
    }

    /// MGETs within `wait`.
    fn ask(&self, session: &mut Session, keys: &[RawKey<'_>], wait: Duration) -> Result<Vec<Answers>, RedisError> {
        let began = Instant::now();
        let mut connection = match session.connection.take() {
            Some(connection) => connection,
            None => self.client.get_connection_with_timeout(wait.min(self.config.connect_timeout))?,
        };
        let left = wait.saturating_sub(began.elapsed()).min(self.config.response_timeout).max(LEAST_WAIT);
        connection.set_read_timeout(Some(left))?;
        connection.set_write_timeout(Some(left))?;
        let mut pipeline = redis::pipe();
        for keys in keys.chunks(KEYS_PER_COMMAND) {
            pipeline.cmd("MGET");
            for key in keys {
                pipeline.arg(key.text());
            }
        }
        let answers = pipeline.query(&mut connection)?;
        // Kept only now: after an error the rest of an answer may still come.
        session.connection = Some(connection);
        Ok(answers)
    }

    /// A connection for what is not in a hurry.
    fn patient(&self) -> Result<Connection, StoreError> {
        let connection = self.client.get_connection_with_timeout(PATIENCE).map_err(|error| self.failed(&error))?;
        connection.set_read_timeout(Some(PATIENCE)).map_err(|error| self.failed(&error))?;
        connection.set_write_timeout(Some(PATIENCE)).map_err(|error| self.failed(&error))?;
        Ok(connection)
    }

    fn failed(&self, error: &RedisError) -> StoreError {
        let reason = if error.is_timeout() { format!("no answer within {PATIENCE:?}") } else { error.to_string() };
        StoreError::Redis { server: self.server.clone(), reason }
    }
}

/// Answers of one MGET.
type Answers = Vec<Option<Vec<u8>>>;

impl Backend for RedisStore {
    fn fetch(&self, keys: &[RawKey<'_>], deadline: Instant, values: &mut Values<'_>) {
        let mut fail = |reason: Reason| (0..keys.len()).for_each(|number| values(number, Err(reason.clone())));
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let wait = deadline.saturating_duration_since(began);
        if wait < LEAST_WAIT {
            return fail(Reason::Timeout);
        }
        if !session.breaker.permits(began) {
            return fail(Reason::BreakerOpen);
        }
        self.counters.breaker(session.breaker.state());
        let asked = self.ask(&mut session, keys, wait);
        let now = Instant::now();
        session.breaker.went(asked.is_ok(), now - began, now);
        self.counters.breaker(session.breaker.state());
        drop(session);
        match asked {
            Ok(answers) => {
                let mut flat = answers.iter().flatten();
                for number in 0..keys.len() {
                    // A server that answers with fewer values than keys is no Redis.
                    let missing = || Reason::Backend("fewer values than keys".into());
                    values(number, flat.next().map(Option::as_deref).ok_or_else(missing));
                }
            }
            Err(error) if error.is_timeout() => fail(Reason::Timeout),
            Err(error) => fail(Reason::Backend(error.to_string().into())),
        }
    }

    fn each(&self, entries: &mut Entries<'_>) -> Result<Facts, StoreError> {
        let mut connection = self.patient()?;
        let mut cursor = 0u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{TEXT_PREFIX}*")).arg("COUNT").arg(RECORDS_PER_PIPELINE);
            let (next, names): (u64, Vec<Vec<u8>>) =
                scan.query(&mut connection).map_err(|error| self.failed(&error))?;
            let known: Vec<RawKey<'_>> =
                names.iter().filter_map(|name| RawKey::from_text(std::str::from_utf8(name).ok()?)).collect();
            let mut pipeline = redis::pipe();
            for key in &known {
                let text = key.text();
                pipeline.cmd("GETRANGE").arg(&text).arg(0).arg(HEADER_BYTES - 1);
                pipeline.cmd("STRLEN").arg(&text);
            }
            if !known.is_empty() {
                let answers: Vec<redis::Value> =
                    pipeline.query(&mut connection).map_err(|error| self.failed(&error))?;
                for (key, answer) in known.iter().zip(answers.chunks_exact(2)) {
                    // A record that has run out meanwhile is empty.
                    if let [redis::Value::BulkString(header), redis::Value::Int(bytes @ 1..)] = answer {
                        entries(*key, header, *bytes as usize);
                    }
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(Facts::default());
            }
        }
    }

    fn sink(&self, ttl: Option<Duration>) -> Result<Box<dyn Sink + '_>, StoreError> {
        Ok(Box::new(RedisSink { store: self, connection: self.patient()?, ttl }))
    }
}

struct RedisSink<'a> {
    store: &'a RedisStore,
    connection: Connection,
    ttl: Option<Duration>,
}

impl Sink for RedisSink<'_> {
    /// In pipelines: a failure leaves what the server has taken until then.
    fn write(&mut self, records: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Result<(), StoreError> {
        let mut pipeline = redis::pipe();
        let mut waiting = 0;
        loop {
            let record = records.next();
            if waiting == RECORDS_PER_PIPELINE || (record.is_none() && waiting > 0) {
                pipeline.exec(&mut self.connection).map_err(|error| self.store.failed(&error))?;
                pipeline.clear();
                waiting = 0;
            }
            let Some((key, value)) = record else { return Ok(()) };
            // Batches hold keys that were checked.
            let Some(key) = RawKey::read(key) else { continue };
            let set = pipeline.cmd("SET").arg(key.text()).arg(value);
            if let Some(ttl) = self.ttl {
                set.arg("PX").arg(ttl.as_millis().max(1) as u64);
            }
            set.ignore();
            waiting += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_directories_and_shown_without_passwords() {
        assert!(is_address("redis://127.0.0.1:6379/0") && is_address("rediss://x") && !is_address("/var/lib/store"));
        assert_eq!(shown("redis://user:p@ss@host:1/2"), "redis://host:1/2");
        assert_eq!(shown("redis://host:1/2"), "redis://host:1/2");
        let wrong = RedisStore::new("redis://:secret@host:port", &RemoteConfig::default(), Arc::default());
        let said = wrong.unwrap_err().to_string();
        assert!(said.contains("redis://host:port") && !said.contains("secret"), "{said}");
    }
}
