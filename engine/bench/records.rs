//! What became of every request of a run.

use std::time::Duration;

use super::connection::Talk;
use crate::request::{RefusalKind, StageTimings};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With results.
    Answered(StageTimings),
    /// With a named refusal.
    Refused(RefusalKind),
    /// Without an answer within the time that one is waited for.
    TimedOut,
    /// The connection broke before its answer, or before it could be sent.
    Failed,
    /// The run was cut short before its answer.
    CutOff,
}

/// A request that was due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Scheduled arrival, from the start of the run.
    pub due: Duration,
    /// From there to when sending began.
    pub lag: Duration,
    /// From the scheduled arrival to the answer, or to when it was no longer waited for.
    pub latency: Duration,
    /// What became of it.
    pub outcome: Outcome,
}

/// Why a run ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// So many requests had missed that the rest could not change the verdict.
    Decided,
    /// By the user.
    Interrupted,
}

/// Every request of a run.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// In order of arrival.
    pub requests: Vec<Record>,
    /// Requests of the schedule whose time had not come when the run was cut short.
    pub unsent: usize,
    /// Why it was.
    pub cut: Option<Cut>,
    /// Message of one of the first refusals.
    pub first_refusal: Option<String>,
    /// What broke a connection.
    pub first_failure: Option<String>,
    /// From the start to the last answer.
    pub length: Duration,
}

impl Records {
    /// Puts the connections' talk together.
    pub(super) fn merge(talks: Vec<Talk>, cut: Option<Cut>) -> Records {
        let mut merged = Records { cut, ..Records::default() };
        for mut talk in talks {
            merged.length = merged.length.max(talk.end);
            merged.add_requests(&talk);
            merged.first_refusal = merged.first_refusal.take().or(talk.first_refusal.take());
            merged.first_failure = merged.first_failure.take().or(talk.failure.take());
        }
        merged.requests.sort_by_key(|record| record.due);
        merged
    }

    fn add_requests(&mut self, talk: &Talk) {
        let unanswered = match talk {
            Talk { failure: Some(_), .. } => Outcome::Failed,
            Talk { abandoned: true, .. } => Outcome::CutOff,
            _ => Outcome::TimedOut,
        };
        let record = |due: Duration, began: Duration, outcome| Record {
            due,
            lag: began.saturating_sub(due),
            latency: talk.end.saturating_sub(due),
            outcome,
        };
        let first = self.requests.len();
        self.requests.extend(talk.sent.iter().map(|sent| record(sent.due, sent.began, unanswered)));
        for received in &talk.received {
            match self.requests.get_mut(first.saturating_add(received.position as usize)) {
                Some(record) if record.outcome == unanswered => {
                    record.outcome = received.outcome;
                    record.latency = received.at.saturating_sub(record.due);
                }
                _ => {
                    let told = format!("the server answered request {}, which waits for none", received.position);
                    self.first_failure.get_or_insert(told);
                }
            }
        }
        if talk.failure.is_some() {
            // Due, and nobody left to send it to: it did not get an answer.
            self.requests.extend(talk.unsent.iter().map(|&due| record(due, due, Outcome::Failed)));
        } else {
            self.unsent += talk.unsent.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::{Received, Sent};
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn talk() -> Talk {
        let answered = Outcome::Answered(StageTimings::default());
        let received = |position, at, outcome| Received { position, at: MS(at), outcome };
        Talk {
            sent: [(0, 1), (10, 10), (20, 45)].map(|(due, began)| Sent { due: MS(due), began: MS(began) }).to_vec(),
            received: vec![received(1, 30, Outcome::Refused(RefusalKind::Overloaded)), received(0, 35, answered)],
            unsent: vec![MS(50), MS(60)],
            end: MS(100),
            ..Talk::default()
        }
    }

    #[test]
    fn latency_counts_from_the_scheduled_arrival() {
        let records = Records::merge(vec![talk()], None);
        let of = |at: usize| (records.requests[at].latency, records.requests[at].lag);
        assert_eq!([of(0), of(1), of(2)], [(MS(35), MS(1)), (MS(20), MS(0)), (MS(80), MS(25))]);
        assert_eq!(records.requests[2].outcome, Outcome::TimedOut);
        assert_eq!(records.unsent, 2);
    }

    #[test]
    fn nothing_that_was_due_is_dropped() {
        let broken = Talk { failure: Some("gone".into()), ..talk() };
        let records = Records::merge(vec![broken, talk()], None);
        assert_eq!(records.requests.len() + records.unsent, 10);
        let failed = records.requests.iter().filter(|record| record.outcome == Outcome::Failed).count();
        assert_eq!((failed, records.first_failure.as_deref()), (3, Some("gone")));
        let abandoned = Talk { abandoned: true, ..talk() };
        let records = Records::merge(vec![abandoned], Some(Cut::Decided));
        assert_eq!(records.requests[2].outcome, Outcome::CutOff);
    }

    #[test]
    fn a_second_answer_is_a_fault_of_the_server() {
        let mut twice = talk();
        twice.received.push(twice.received[0]);
        let told = Records::merge(vec![twice], None).first_failure.unwrap();
        assert!(told.contains("request 1"), "{told}");
    }
}
