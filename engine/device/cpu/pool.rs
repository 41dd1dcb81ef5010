//! The CPU device's threads: fork, join, and nothing else.
//!
//! One job runs at a time, split into numbered tasks that the workers and the calling thread claim one by one. Which thread
//! runs a task never changes its result, so claiming order is free. Idle workers spin briefly and then sleep.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Turns of the wait loop before a worker sleeps: about 20 microseconds, longer than the host code between two operations.
const SPINS: u32 = 4_000;

/// A job as workers see it: a borrowed closure whose lifetime `Pool::run` guarantees by waiting for every worker.
#[derive(Clone, Copy)]
struct Job {
    call: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: the closure is Sync, and `Pool::run` keeps it alive until no worker can call it any more.
unsafe impl Send for Job {}

struct Shared {
    job: Mutex<Option<Job>>,
    wake: Condvar,
    /// Counts jobs; a worker runs each job at most once.
    generation: AtomicU64,
    next_task: AtomicUsize,
    /// Workers that have not left the current job.
    busy: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
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
            job: Mutex::new(None),
            wake: Condvar::new(),
            generation: AtomicU64::new(0),
            next_task: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let workers = (1..threads.max(1))
            .map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("sidereal-cpu-{index}"))
                    .spawn(move || work(&shared))
                    .expect("a worker thread starts")
            })
            .collect();
        Pool { shared, workers }
    }

    /// Threads that take part in a job.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i)` once for each `i < tasks`, on any thread, and returns when all are done.
    ///
    /// # Panics
    /// If a task panicked.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(task);
            return;
        }
        let shared = &*self.shared;
        let call: &(dyn Fn(usize) + Sync) = &task;
        // SAFETY: the erased lifetime ends when `run` returns, and it returns only after every worker left the job.
        let call: *const (dyn Fn(usize) + Sync) =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(call) };
        shared.next_task.store(0, Ordering::Relaxed);
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        {
            let mut job = shared.job.lock().expect("no thread panics while it holds the job");
            *job = Some(Job { call, tasks });
            shared.generation.fetch_add(1, Ordering::Release);
            shared.wake.notify_all();
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| claim_tasks(shared, &task, tasks)));
        let mut turns = 0u32;
        while shared.busy.load(Ordering::Acquire) != 0 {
            turns += 1;
            if turns < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if let Err(payload) = outcome {
            std::panic::resume_unwind(payload);
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a task of the CPU device panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Taking the lock orders the store before any worker's check-then-sleep.
        drop(self.shared.job.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panic was reported by the job that caused it.
            let _ = worker.join();
        }
    }
}

fn claim_tasks(shared: &Shared, task: &(dyn Fn(usize) + Sync), tasks: usize) {
    loop {
        let index = shared.next_task.fetch_add(1, Ordering::Relaxed);
        if index >= tasks {
            return;
        }
        task(index);
    }
}

fn work(shared: &Shared) {
    let mut seen = 0;
    loop {
        let mut turns = 0;
        while shared.generation.load(Ordering::Acquire) == seen && turns < SPINS {
            turns += 1;
            std::hint::spin_loop();
        }
        let job = {
            let mut job = shared.job.lock().expect("no thread panics while it holds the job");
            loop {
                if shared.stop.load(Ordering::Acquire) {
                    return;
                }
                let generation = shared.generation.load(Ordering::Acquire);
                if generation != seen {
                    seen = generation;
                    break;
                }
                job = shared.wake.wait(job).expect("no thread panics while it holds the job");
            }
            job.expect("a new generation has a job")
        };
        // SAFETY: `Pool::run` waits for `busy` to reach zero before the closure goes out of scope.
        let call = unsafe { &*job.call };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| claim_tasks(shared, call, job.tasks))).is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.busy.fetch_sub(1, Ordering::Release);
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
