//! Look-ups for callers that must not wait: a bounded queue, workers that ask the store, and a clock.
//!
//! ```text
//! submit ──▶ desk: keeps every open look-up and its deadline ──▶ workers: one batch at a time
//!              │  answers at the deadline, come what may     ◀──
//!              ▼
//!            done(outcomes)
//! ```
//!
//! Whatever waits while a worker is busy goes into its next batch, which is one call of the store. Every look-up is answered exactly
//! once, and by the desk at its deadline at the latest: a store that hangs holds up a worker and nobody else.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};

use super::{Found, Key, Reason, Store, StoreError};

/// Bounds of the queue.
#[derive(Clone, Debug)]
pub struct LookupLimits {
    /// Look-ups that may be open; one more is refused.
    pub open: usize,
    /// Look-ups of one batch.
    pub batch: usize,
    /// Batches that may be under way together. A remote store has one connection: more than one does not help it.
    pub workers: usize,
}

impl Default for LookupLimits {
    /// 4,096 open, 256 a batch, one worker.
    fn default() -> LookupLimits {
        LookupLimits { open: 4096, batch: 256, workers: 1 }
    }
}

/// Called once with an outcome for each key. It runs on the desk's thread and must not wait.
type Done = Box<dyn FnOnce(Vec<Found>) + Send>;

/// The promise of exactly one answer: who drops it answers.
struct Promise {
    done: Option<Done>,
    keys: usize,
    store: Arc<Store>,
    open: Arc<AtomicUsize>,
}

impl Promise {
    fn keep(mut self, found: Vec<Found>) {
        self.answer(found);
    }

    fn fail(self, reason: &Reason) {
        let found = vec![Found::Failed { reason: reason.clone() }; self.keys];
        self.keep(found);
    }

    fn answer(&mut self, found: Vec<Found>) {
        if let Some(done) = self.done.take() {
            self.open.fetch_sub(1, Ordering::AcqRel);
            found.iter().for_each(|found| self.store.counters.count(found));
            done(found);
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.answer(vec![Found::Failed { reason: Reason::Closed }; self.keys]);
    }
}

struct Job {
    keys: Vec<Key>,
    deadline: Instant,
    promise: Promise,
}

/// What a worker is given.
struct Batch {
    /// Number of the look-up and its keys.
    jobs: Vec<(u64, Vec<Key>)>,
    /// The latest deadline of them.
    deadline: Instant,
}

type Results = Vec<(u64, Vec<Found>)>;

/// Look-ups under way. Dropping it answers everything that is open.
#[derive(Debug)]
pub struct Lookups {
    store: Arc<Store>,
    limit: usize,
    open: Arc<AtomicUsize>,
    jobs: Option<Sender<Job>>,
    desk: Option<JoinHandle<()>>,
}

impl Lookups {
    /// Starts the threads.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn start(store: Arc<Store>, limits: &LookupLimits) -> Result<Lookups, StoreError> {
        let (open_limit, workers) = (limits.open.max(1), limits.workers.max(1));
        let (jobs, incoming) = bounded(open_limit);
        // The desk hands out no more batches than there are workers, so it never waits for one; nor do they for it.
        let (batches, work) = bounded::<Batch>(workers);
        let (results, finished) = bounded::<Results>(workers);
        for _ in 0..workers {
            let (store, work, results) = (Arc::clone(&store), work.clone(), results.clone());
            std::thread::Builder::new()
                .name("store-lookup".into())
                .spawn(move || ask(&store, &work, &results))
                .map_err(StoreError::Thread)?;
        }
        let desk = Desk {
            batches,
            idle: workers,
            most: limits.batch.max(1),
            next: 0,
            open: HashMap::new(),
            deadlines: BinaryHeap::new(),
            waiting: VecDeque::new(),
        };
        let desk = std::thread::Builder::new()
            .name("store-desk".into())
            .spawn(move || desk.run(&incoming, &finished))
            .map_err(StoreError::Thread)?;
        let open = Arc::new(AtomicUsize::new(0));
        Ok(Lookups { store, limit: open_limit, open, jobs: Some(jobs), desk: Some(desk) })
    }

    /// The store that is asked.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Looks up `keys`; `done` is called exactly once with an outcome for each, in their order, `budget` from now at the
    /// latest. It runs on a thread of the store (or here, when too many look-ups are open) and must not wait.
    pub fn submit(&self, keys: Vec<Key>, budget: Duration, done: impl FnOnce(Vec<Found>) + Send + 'static) {
        let now = Instant::now();
        let deadline = now.checked_add(budget).unwrap_or(now + Duration::from_secs(3600));
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        let (store, open) = (Arc::clone(&self.store), Arc::clone(&self.open));
        let promise = Promise { done: Some(Box::new(done)), keys: keys.len(), store, open };
        if before >= self.limit {
            return promise.fail(&Reason::Overloaded);
        }
        let Some(jobs) = &self.jobs else { return promise.fail(&Reason::Closed) };
        match jobs.try_send(Job { keys, deadline, promise }) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => job.promise.fail(&Reason::Overloaded),
            Err(TrySendError::Disconnected(job)) => job.promise.fail(&Reason::Closed),
        }
    }

    /// Looks up `keys` and waits, no longer than `budget`.
    pub fn lookup(&self, keys: Vec<Key>, budget: Duration) -> Vec<Found> {
        let (sender, receiver) = bounded(1);
        let count = keys.len();
        self.submit(keys, budget, move |found| {
            let _ = sender.send(found);
        });
        receiver.recv().unwrap_or_else(|_| vec![Found::Failed { reason: Reason::Closed }; count])
    }
}

impl Drop for Lookups {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(desk) = self.desk.take() {
            // It ends at once; a worker that hangs in the store is not waited for.
            let _ = desk.join();
        }
    }
}

/// A worker: asks the store, batch by batch.
fn ask(store: &Store, work: &Receiver<Batch>, results: &Sender<Results>) {
    for Batch { jobs, deadline } in work {
        let keys: Vec<Key> = jobs.iter().flat_map(|(_, keys)| keys.iter().cloned()).collect();
        let mut found = store.find(&keys, deadline).into_iter();
        let answered = jobs.iter().map(|(number, keys)| (*number, found.by_ref().take(keys.len()).collect())).collect();
        if results.send(answered).is_err() {
            return;
        }
    }
}

struct Desk {
    batches: Sender<Batch>,
    /// Workers without a batch.
    idle: usize,
    most: usize,
    next: u64,
    /// Bounded by the limit on open look-ups.
    open: HashMap<u64, Promise>,
    /// Soonest first; look-ups that have been answered stay until their time.
    deadlines: BinaryHeap<std::cmp::Reverse<(Instant, u64)>>,
    waiting: VecDeque<(u64, Instant, Vec<Key>)>,
}

/// What has been answered may be half of what the desk remembers, and this much more.
const FORGOTTEN: usize = 64;

impl Desk {
    fn run(mut self, incoming: &Receiver<Job>, finished: &Receiver<Results>) {
        loop {
            let soonest = self.deadlines.peek().map(|soonest| soonest.0.0);
            let wait = soonest.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
            select! {
                recv(incoming) -> job => match job {
                    Ok(job) => self.take(job),
                    // The promises that are left answer when they are dropped.
                    Err(_) => return,
                },
                recv(finished) -> results => match results {
                    Ok(results) => self.finish(results),
                    // Every worker is gone, which takes a panic.
                    Err(_) => return,
                },
                default(wait) => {}
            }
            self.expire();
            self.hand_out();
        }
    }

    fn take(&mut self, Job { keys, deadline, promise }: Job) {
        let number = self.next;
        self.next += 1;
        self.open.insert(number, promise);
        self.deadlines.push(std::cmp::Reverse((deadline, number)));
        self.waiting.push_back((number, deadline, keys));
    }

    fn finish(&mut self, results: Results) {
        self.idle += 1;
        for (number, found) in results {
            if let Some(promise) = self.open.remove(&number) {
                promise.keep(found);
            }
        }
    }

    /// Answers those whose time has come.
    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(soonest) = self.deadlines.peek() {
            let (at, number) = soonest.0;
            if at > now {
                break;
            }
            self.deadlines.pop();
            if let Some(promise) = self.open.remove(&number) {
                promise.fail(&Reason::Timeout);
            }
        }
        // Nothing grows while a store hangs: what has been answered is forgotten.
        let most = 2 * self.open.len() + FORGOTTEN;
        if self.waiting.len() > most {
            self.waiting.retain(|(number, ..)| self.open.contains_key(number));
        }
        if self.deadlines.len() > most {
            self.deadlines.retain(|entry| self.open.contains_key(&entry.0.1));
        }
    }

    fn hand_out(&mut self) {
        while self.idle > 0 {
            let mut jobs = Vec::new();
            let mut latest = None;
            while jobs.len() < self.most
                && let Some((number, deadline, keys)) = self.waiting.pop_front()
            {
                if self.open.contains_key(&number) {
                    latest = latest.max(Some(deadline));
                    jobs.push((number, keys));
                }
            }
            let Some(deadline) = latest else { return };
            self.idle -= 1;
            if self.batches.try_send(Batch { jobs, deadline }).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::backend::{Backend, Entries, Facts, Sink, Values};
    use super::super::{Counters, RawKey, Record, unix_ms};
    use super::*;
    use crate::export::WeightDtype;
    use crate::store::Header;

    /// Answers with what it is told, each call after a word from the test.
    #[derive(Debug)]
    struct Gate {
        opened: Receiver<()>,
        calls: Mutex<Vec<usize>>,
    }

    impl Backend for Gate {
        fn fetch(&self, keys: &[RawKey<'_>], _deadline: Instant, values: &mut Values<'_>) {
            self.calls.lock().unwrap().push(keys.len());
            // A test that is over lets go of what hangs.
            let _ = self.opened.recv();
            for (number, key) in keys.iter().enumerate() {
                let mut value = Vec::new();
                let created_at_ms = unix_ms(std::time::SystemTime::now());
                let header = Header { dtype: WeightDtype::F32, size: 1, version: key.user.len() as u64, created_at_ms };
                header.write_vector(&[1.0], &mut value).unwrap();
                values(number, Ok(Some(&value)));
            }
        }

        fn each(&self, _entries: &mut Entries<'_>) -> Result<Facts, StoreError> {
            Ok(Facts::default())
        }

        fn sink(&self, _ttl: Option<Duration>) -> Result<Box<dyn Sink + '_>, StoreError> {
            unreachable!("nothing is written here")
        }
    }

    /// A store that answers when the sender says so.
    fn gated() -> (Arc<Store>, Sender<()>) {
        let (open, opened) = bounded(1000);
        let backend = Box::new(Gate { opened, calls: Mutex::default() });
        let store = Store {
            backend,
            max_age: None,
            max_skew: Duration::from_secs(60),
            location: "gate".into(),
            counters: Arc::new(Counters::default()),
        };
        (Arc::new(store), open)
    }

    fn key(user: &str) -> Key {
        Key::new("r", user).unwrap()
    }

    fn version(found: &[Found]) -> Vec<u64> {
        found.iter().map(|found| if let Found::Record(Record { version, .. }) = found { *version } else { 0 }).collect()
    }

    const LONG: Duration = Duration::from_secs(600);
    const TIMEOUT: Found = Found::Failed { reason: Reason::Timeout };

    #[test]
    fn a_store_that_hangs_holds_nobody_beyond_the_budget() {
        let (store, open) = gated();
        let lookups = Lookups::start(Arc::clone(&store), &LookupLimits::default()).unwrap();
        // The store never answers: these return at all because of their budgets. The first is with the worker, the others wait.
        for round in 0..20 {
            let found = lookups.lookup(vec![key("a"), key("b")], Duration::from_millis(2));
            assert_eq!(found, [TIMEOUT, TIMEOUT], "{round}");
        }
        assert_eq!((store.counts().timeouts, store.counts().failed, store.counts().lookups), (40, 40, 40));
        // An answer that comes too late is nobody's; later look-ups are served.
        open.send(()).unwrap();
        open.send(()).unwrap();
        open.send(()).unwrap();
        assert_eq!(version(&lookups.lookup(vec![key("abc")], LONG)), [3]);
    }

    #[test]
    fn what_waits_is_asked_together_and_answered_in_order() {
        let (store, open) = gated();
        let lookups = Lookups::start(Arc::clone(&store), &LookupLimits::default()).unwrap();
        let (sender, receiver) = bounded(100);
        let submit = |number: usize| {
            let sender = sender.clone();
            let keys = (1..=number).map(|length| key(&"u".repeat(length))).collect();
            lookups.submit(keys, LONG, move |found| sender.send((number, version(&found))).unwrap());
        };
        (1..=40).for_each(submit);
        // Every call gets its word; there are at most as many calls as look-ups.
        (0..40).for_each(|_| open.send(()).unwrap());
        for _ in 0..40 {
            let (number, versions) = receiver.recv().unwrap();
            assert_eq!(versions, (1..=number as u64).collect::<Vec<_>>());
        }
        assert_eq!(store.counts().hits, 820);
    }

    #[test]
    fn one_too_many_is_refused_at_once() {
        let (store, _open) = gated();
        let limits = LookupLimits { open: 3, ..LookupLimits::default() };
        let lookups = Lookups::start(store, &limits).unwrap();
        let (sender, receiver) = bounded(10);
        for number in 0..4 {
            let sender = sender.clone();
            lookups.submit(vec![key("a")], LONG, move |found| sender.send((number, found)).unwrap());
        }
        let refused = vec![Found::Failed { reason: Reason::Overloaded }];
        assert_eq!(receiver.recv().unwrap(), (3, refused));
    }

    #[test]
    fn closing_answers_everything_that_is_open() {
        let (store, _open) = gated();
        let lookups = Lookups::start(store, &LookupLimits::default()).unwrap();
        let (sender, receiver) = bounded(10);
        for _ in 0..5 {
            let sender = sender.clone();
            lookups.submit(vec![key("a")], LONG, move |found| sender.send(found).unwrap());
        }
        drop(lookups);
        for _ in 0..5 {
            assert_eq!(receiver.recv().unwrap(), [Found::Failed { reason: Reason::Closed }]);
        }
    }
}
