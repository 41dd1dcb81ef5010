//! The CPU device's threads: fork, join, and nothing else.
//!
//! One job runs at a time, split into numbered tasks that the workers and the calling thread claim one by one. Which thread
//! runs a task never changes its result, so claiming order is free. Idle workers spin briefly and then sleep.
//!
//! The caller waits only for workers that have *joined* a job. A worker that the system has not scheduled in time finds the
//! job closed and misses it: on a busy machine a small job then costs what it costs on one thread, not a time slice.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Turns of a wait loop before its thread sleeps or yields: tens of microseconds, longer than the host code between two
/// operations.
const SPINS: u32 = 4_000;

/// `State::word`: workers in the job.
const JOINED: u64 = (1 << 31) - 1;
/// `State::word`: the job takes workers.
const OPEN: u64 = 1 << 31;
/// `State::word`: one job, in the upper half.
const GENERATION: u64 = 1 << 32;

/// A job as workers see it.
type Task<'a> = &'a (dyn Fn(usize) + Sync);

struct Shared {
    /// Number of the job, whether it is open, and how many workers are in it: one word, so that joining an open job and
    /// closing it cannot cross.
    word: AtomicU64,
    /// Points to the caller's `Task` while the job is open or has workers in it.
    task: AtomicPtr<Task<'static>>,
    tasks: AtomicUsize,
    next_task: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Workers that sleep or are about to.
    sleepers: AtomicUsize,
    door: Mutex<()>,
    wake: Condvar,
}

/// A fixed set of worker threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool that runs jobs on `threads` threads, the caller's included. `threads` is at least 1.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            word: AtomicU64::new(0),
            task: AtomicPtr::new(std::ptr::null_mut()),
            tasks: AtomicUsize::new(0),
            next_task: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            door: Mutex::new(()),
            wake: Condvar::new(),
        });
        let workers = (1..threads.max(1))
            .map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("sidereal-cpu-{index}"))
                    .spawn(move || shared.work())
                    .expect("a worker thread starts")
            })
            .collect();
        Pool { shared, workers }
    }

    /// Threads that take part in a job.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i)` once for each `i < tasks`, on any thread, and returns when all are done. Not to be called from a task.
    ///
    /// # Panics
    /// If a task panicked.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(task);
            return;
        }
        let shared = &*self.shared;
        let job: Task<'_> = &task;
        shared.open(&job, tasks);
        // A panic must not leave this frame while a worker still runs the closure that lives in it.
        let outcome = catch_unwind(AssertUnwindSafe(|| shared.claim(job, tasks)));
        shared.close();
        if let Err(payload) = outcome {
            shared.panicked.store(false, Ordering::Relaxed);
            resume_unwind(payload);
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a task of the CPU device panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.rouse();
        for worker in self.workers.drain(..) {
            // A worker's panic was reported by the job that caused it.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Publishes a job. No other is open or has workers in it.
    fn open(&self, job: &Task<'_>, tasks: usize) {
        self.next_task.store(0, Ordering::Relaxed);
        self.tasks.store(tasks, Ordering::Relaxed);
        self.task.store(std::ptr::from_ref(job).cast_mut().cast(), Ordering::Relaxed);
        let word = self.word.load(Ordering::Relaxed);
        debug_assert_eq!(word & (OPEN | JOINED), 0, "one job at a time");
        // SeqCst against `sleepers`: either this sees a sleeper, or the sleeper sees the job.
        self.word.store(word.wrapping_add(GENERATION) | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.rouse();
        }
    }

    /// Lets nobody else in and waits for those who are.
    fn close(&self) {
        self.word.fetch_and(!OPEN, Ordering::AcqRel);
        let mut turns = 0u32;
        while self.word.load(Ordering::Acquire) & JOINED != 0 {
            turns = turns.saturating_add(1);
            if turns < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }

    fn claim(&self, task: Task<'_>, tasks: usize) {
        loop {
            let index = self.next_task.fetch_add(1, Ordering::Relaxed);
            if index >= tasks {
                return;
            }
            task(index);
        }
    }

    fn rouse(&self) {
        // Whoever is between its last look and its sleep holds the door.
        drop(self.door.lock());
        self.wake.notify_all();
    }

    /// A worker's life.
    fn work(&self) {
        let mut seen = 0;
        while let Some(word) = self.next_job(seen) {
            if self.word.compare_exchange(word, word + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                // Closed meanwhile, or another worker joined first: look again.
                continue;
            }
            seen = word / GENERATION;
            let tasks = self.tasks.load(Ordering::Relaxed);
            let task = self.task.load(Ordering::Relaxed);
            // SAFETY: this worker has joined the open job that `task` was published with, and `Pool::run` keeps the closure
            // alive until every worker that joined has left.
            let task = unsafe { *task };
            if catch_unwind(AssertUnwindSafe(|| self.claim(task, tasks))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.word.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for an open job other than number `seen`; `None` when the pool is being dropped.
    fn next_job(&self, seen: u64) -> Option<u64> {
        let look = || {
            let word = self.word.load(Ordering::SeqCst);
            (word & OPEN != 0 && word / GENERATION != seen).then_some(word)
        };
        for _ in 0..SPINS {
            if let Some(word) = look() {
                return Some(word);
            }
            std::hint::spin_loop();
        }
        let mut door = self.door.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let job = loop {
            if self.stop.load(Ordering::SeqCst) {
                break None;
            }
            if let Some(word) = look() {
                break Some(word);
            }
            door = self.wake.wait(door).unwrap_or_else(|poisoned| poisoned.into_inner());
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        let pool = Pool::new(3);
        for tasks in [0, 1, 2, 7, 1000] {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tasks, |index| {
                counts[index].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn small_jobs_in_a_row_stay_apart() {
        // Story: a worker that comes late must find the old job closed, not run a task of the next one twice.
        let pool = Pool::new(4);
        for job in 0..20_000usize {
            let sum = AtomicUsize::new(0);
            pool.run(3, |index| {
                sum.fetch_add(job + index, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 3 * job + 3);
        }
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_survives() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.run(64, |index| assert_ne!(index, 13));
            }));
            assert!(outcome.is_err());
        }
        let sum = AtomicUsize::new(0);
        pool.run(10, |index| {
            sum.fetch_add(index, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}
