//! One connection of a run: a thread that sends when requests are due, and one that receives.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, TrySendError, bounded};

use super::load::{Demand, Load, Shared, WATCH};
use super::records::Outcome;
use crate::client::{Client, ClientError, Receiver, Sender};
use crate::request::Answer;

/// After an interrupt, how long answers are waited for.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How many are sent is not known yet.
const SENDING: usize = usize::MAX;

/// A request that was due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// From the start of the run.
    pub due: Duration,
    /// When sending began.
    pub began: Duration,
}

/// What came back for a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// Which request of this connection.
    pub position: u64,
    /// From the start of the run.
    pub at: Duration,
    /// What it was.
    pub outcome: Outcome,
}

/// Everything that happened on a connection.
#[derive(Debug, Default)]
pub(super) struct Talk {
    /// By position.
    pub sent: Vec<Sent>,
    pub received: Vec<Received>,
    /// Requests whose time had not come, or whose connection was gone.
    pub unsent: Vec<Duration>,
    pub first_refusal: Option<String>,
    /// What ended the connection, if it did not last.
    pub failure: Option<String>,
    /// Answers were no longer waited for, though their time was not over.
    pub abandoned: bool,
    pub end: Duration,
}

/// One connection of a run.
pub(super) struct Lane<'a> {
    pub load: &'a Load<'a>,
    pub shared: &'a Shared,
    pub number: usize,
    pub connections: usize,
}

/// Room for one more request, free since an instant.
type Permit = Duration;

impl Lane<'_> {
    /// Sends and receives until everything is settled or the run is cut short.
    pub fn run(&self, client: Client) -> Talk {
        let (sender, receiver) = client.split();
        let width = self.width();
        let (give, take) = bounded::<Permit>(width.max(1));
        for _ in 0..width {
            let _ = give.try_send(Duration::ZERO);
        }
        let count = AtomicUsize::new(SENDING);
        std::thread::scope(|scope| {
            let (count, shared) = (&count, self.shared);
            let receive = scope.spawn(move || self.receive(receiver, count, &|at| give.try_send(at)));
            let mut talk = match &self.load.demand {
                Demand::Open(arrivals) => self.send_scheduled(sender, arrivals),
                Demand::Closed { length, .. } => self.send_in_turn(sender, *length, &take),
            };
            count.store(talk.sent.len(), Ordering::Release);
            // A receiver panics only where this program is wrong.
            let came = receive.join().expect("a receiver of the generator panicked");
            talk.received = came.received;
            talk.first_refusal = came.first_refusal;
            talk.failure = talk.failure.or(came.failure);
            talk.abandoned = came.abandoned;
            talk.end = shared.start.elapsed();
            talk
        })
    }

    /// Requests in flight on this connection, in a closed loop.
    fn width(&self) -> usize {
        match self.load.demand {
            Demand::Open(_) => 0,
            Demand::Closed { in_flight, .. } => {
                in_flight / self.connections + usize::from(self.number < in_flight % self.connections)
            }
        }
    }

    fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    fn send_scheduled(&self, mut sender: Sender, arrivals: &[Duration]) -> Talk {
        let mut talk = Talk::default();
        let mut mine = arrivals.iter().skip(self.number).step_by(self.connections);
        for &due in mine.by_ref() {
            let sent = match self.wait_until(due) {
                true => self.send(&mut sender, due, &mut talk),
                false => Err(None),
            };
            if let Err(failure) = sent {
                talk.failure = failure.map(|error| error.to_string());
                // One that failed while it was sent is among the sent ones.
                talk.unsent.extend(talk.failure.is_none().then_some(due));
                break;
            }
        }
        talk.unsent.extend(mine);
        talk
    }

    fn send_in_turn(
        &self,
        mut sender: Sender,
        length: Duration,
        permits: &crossbeam_channel::Receiver<Permit>,
    ) -> Talk {
        let mut talk = Talk::default();
        self.wait_until(Duration::ZERO);
        while self.now() < length && !self.shared.stop.load(Ordering::Relaxed) {
            let free = match permits.recv_timeout(WATCH.min(length.saturating_sub(self.now()))) {
                Ok(free) => free,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Err(failure) = self.send(&mut sender, free, &mut talk) {
                talk.failure = failure.map(|error| error.to_string());
                break;
            }
        }
        talk
    }

    /// Sends the next request of this connection.
    fn send(&self, sender: &mut Sender, due: Duration, talk: &mut Talk) -> Result<(), Option<ClientError>> {
        let position = talk.sent.len();
        let mut request =
            self.load.workload.request(self.load.first + (position * self.connections + self.number) as u64);
        request.id = position as u64;
        let began = self.now();
        if let Some(deadline) = self.load.deadline {
            // Whoever is sent late has that much less time.
            request.deadline = Some(deadline.saturating_sub(began.saturating_sub(due)).max(Duration::from_micros(1)));
        }
        talk.sent.push(Sent { due, began });
        sender.send(&request).map_err(Some)
    }

    /// False when the run stops first.
    fn wait_until(&self, due: Duration) -> bool {
        let due = self.shared.start + due;
        loop {
            if self.shared.stop.load(Ordering::Relaxed) {
                return false;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(WATCH));
        }
    }

    fn receive(
        &self,
        mut receiver: Receiver,
        count: &AtomicUsize,
        permit: &dyn Fn(Permit) -> Result<(), TrySendError<Permit>>,
    ) -> Talk {
        let mut talk = Talk::default();
        let mut sent_at = None;
        receiver.set_timeout(Some(WATCH));
        loop {
            let count = count.load(Ordering::Acquire);
            if count != SENDING {
                let waited = sent_at.get_or_insert_with(Instant::now).elapsed();
                let stopped = self.shared.stop.load(Ordering::Relaxed);
                let patience = if stopped { self.load.timeout.min(LAST_ANSWERS) } else { self.load.timeout };
                talk.abandoned = self.shared.abandon.load(Ordering::Relaxed) || (stopped && waited > patience);
                if talk.received.len() >= count || waited > patience || talk.abandoned {
                    return talk;
                }
            }
            match receiver.receive() {
                Ok((position, answer)) => {
                    let at = self.now();
                    self.settle(position, at, answer, &mut talk);
                    // In an open loop nobody waits for permits.
                    let _ = permit(at);
                }
                Err(ClientError::Timeout { .. }) => {}
                Err(error) => {
                    talk.failure = Some(error.to_string());
                    return talk;
                }
            }
        }
    }

    fn settle(&self, position: u64, at: Duration, answer: Answer, talk: &mut Talk) {
        let outcome = match answer {
            Ok(good) => Outcome::Answered(good.timings),
            Err(refusal) => {
                let kind = refusal.kind;
                talk.first_refusal.get_or_insert_with(|| refusal.to_string());
                Outcome::Refused(kind)
            }
        };
        talk.received.push(Received { position, at, outcome });
        self.shared.settled.fetch_add(1, Ordering::Relaxed);
        if let (Some(give_up), Demand::Open(arrivals)) = (self.load.give_up, self.load.demand) {
            let index = (position as usize).saturating_mul(self.connections).saturating_add(self.number);
            let due = arrivals.get(index).copied().unwrap_or_default();
            let missed = !matches!(outcome, Outcome::Answered(_)) || at.saturating_sub(due) > give_up.latency;
            if missed && due >= give_up.warmup {
                self.shared.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
