//! What the log says about requests: refusals, slow answers, connections ended for a fault.
//!
//! Invariant: whoever can make the server log cannot fill a disk with it. Each kind of line has a budget a second; what does
//! not fit is counted, and the next line or the next quiet second tells how many were left out. What peers write is cut to
//! [`LONGEST_TOLD`] bytes. A user is told by a pseudonym, which means the same user within one life of the process and
//! nothing beyond it.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::wire::Fault;
use crate::request::{Answer, Recommendation, Refusal, Request};

/// Lines of one kind a second.
const LINES_PER_SECOND: u32 = 10;
/// Bytes of a peer's own words in a line.
const LONGEST_TOLD: usize = 400;

/// A request that the engine has, as the log needs it.
pub(super) struct Asked {
    /// Tells the engine that nobody waits any more.
    pub(super) cancel: Arc<AtomicBool>,
    arrived: Instant,
    user: Option<u64>,
    beams: u32,
    scenario: Option<u32>,
}

/// Whom a line is about.
pub(super) struct Who<'a> {
    pub(super) connection: usize,
    pub(super) peer: &'a str,
    pub(super) request: u64,
}

/// The log of one server's requests. Used by its I/O thread alone.
pub(super) struct RequestLog {
    slow: Duration,
    pseudonyms: RandomState,
    refusals: Budget,
    slow_answers: Budget,
    faults: Budget,
}

impl RequestLog {
    /// Answers that take longer than `slow` are told.
    pub(super) fn new(slow: Duration) -> RequestLog {
        RequestLog {
            slow,
            pseudonyms: RandomState::new(),
            refusals: Budget::new("requests refused"),
            slow_answers: Budget::new("slow requests"),
            faults: Budget::new("connections ended by a fault"),
        }
    }

    /// Takes note of a request that goes to the engine.
    pub(super) fn asked(&self, request: &Request, arrived: Instant) -> Asked {
        let user = request.user.as_ref().map(|user| self.pseudonyms.hash_one(user));
        Asked { cancel: Arc::default(), arrived, user, beams: request.beams, scenario: request.scenario }
    }

    /// The engine has answered.
    pub(super) fn answered(&self, who: &Who<'_>, asked: &Asked, answer: &Answer, now: Instant) {
        let took = now.saturating_duration_since(asked.arrived);
        match answer {
            Ok(recommendation) if took > self.slow => self.slow(who, asked, recommendation, took, now),
            Ok(_) => tracing::debug!(
                connection = who.connection,
                request = who.request,
                user = asked.user.map(pseudonym),
                took_us = micros(took),
                "answered"
            ),
            Err(refusal) => self.refused(who, refusal, Some((asked, took)), now),
        }
    }

    /// Refused before the engine had it.
    pub(super) fn refused_at_once(&self, who: &Who<'_>, refusal: &Refusal, now: Instant) {
        self.refused(who, refusal, None, now);
    }

    fn slow(&self, who: &Who<'_>, asked: &Asked, answer: &Recommendation, took: Duration, now: Instant) {
        if !self.slow_answers.allows(now) {
            return;
        }
        let spent = &answer.timings;
        tracing::warn!(
            connection = who.connection,
            peer = who.peer,
            request = who.request,
            user = asked.user.map(pseudonym),
            took_us = micros(took),
            resolve_us = spent.resolve_us,
            queue_us = spent.queue_us,
            prefill_us = spent.prefill_us,
            search_us = spent.search_us,
            expand_us = spent.expand_us,
            total_us = spent.total_us,
            prompt_tokens = answer.prompt_tokens,
            beams = asked.beams,
            scenario = asked.scenario,
            "slow request"
        );
    }

    fn refused(&self, who: &Who<'_>, refusal: &Refusal, asked: Option<(&Asked, Duration)>, now: Instant) {
        if !self.refusals.allows(now) {
            return;
        }
        tracing::info!(
            connection = who.connection,
            peer = who.peer,
            request = who.request,
            user = asked.and_then(|(asked, _)| asked.user).map(pseudonym),
            took_us = asked.map(|(_, took)| micros(took)),
            kind = refusal.kind.name(),
            reason = cut(&refusal.message),
            "request refused"
        );
    }

    /// A connection is ended with a reason.
    pub(super) fn fault(&self, who: &Who<'_>, fault: &Fault, now: Instant) {
        if !self.faults.allows(now) {
            return;
        }
        tracing::info!(
            connection = who.connection,
            peer = who.peer,
            code = fault.code.name(),
            reason = cut(&fault.message),
            "connection ended by a fault"
        );
    }

    /// Tells what was left out in seconds that have passed.
    pub(super) fn tell_left_out(&self, now: Instant) {
        [&self.refusals, &self.slow_answers, &self.faults].into_iter().for_each(|budget| budget.renew(now));
    }
}

/// How many lines of a kind may still be written in this second.
struct Budget {
    what: &'static str,
    /// When the second began.
    since: Cell<Option<Instant>>,
    written: Cell<u32>,
    left_out: Cell<u64>,
}

impl Budget {
    fn new(what: &'static str) -> Budget {
        Budget { what, since: Cell::default(), written: Cell::default(), left_out: Cell::default() }
    }

    /// Whether one more line may be written; if not, it is counted.
    fn allows(&self, now: Instant) -> bool {
        self.renew(now);
        if self.written.get() >= LINES_PER_SECOND {
            self.left_out.set(self.left_out.get() + 1);
            return false;
        }
        self.written.set(self.written.get() + 1);
        true
    }

    /// Begins a new second if the last has passed.
    fn renew(&self, now: Instant) {
        if self.since.get().is_some_and(|since| now.saturating_duration_since(since) < Duration::from_secs(1)) {
            return;
        }
        self.since.set(Some(now));
        self.written.set(0);
        let left_out = self.left_out.take();
        if left_out > 0 {
            tracing::warn!(what = self.what, left_out, "lines were left out of the log");
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A user's pseudonym as the log writes it.
fn pseudonym(hash: u64) -> String {
    format!("{hash:016x}")
}

/// The beginning of a text, on a character's edge.
fn cut(text: &str) -> &str {
    let end = (0..=LONGEST_TOLD.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_a_second() {
        let budget = Budget::new("tests");
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!((0..1000).filter(|ms| budget.allows(at(*ms))).count(), LINES_PER_SECOND as usize);
        assert_eq!(budget.left_out.get(), 1000 - u64::from(LINES_PER_SECOND));
        assert!(budget.allows(at(1000)), "a new second");
        assert_eq!(budget.left_out.get(), 0, "and what was left out is told");
    }

    #[test]
    fn a_user_is_the_same_user_and_nobody_knows_who() {
        let log = RequestLog::new(Duration::MAX);
        let asked = |log: &RequestLog, user: &str| {
            let request = Request {
                user: Some(user.into()),
                ..crate::request::Request::new(1, crate::request::History::Tokens(vec![1]), 1, 1)
            };
            log.asked(&request, Instant::now()).user.unwrap()
        };
        assert_eq!(asked(&log, "anna"), asked(&log, "anna"));
        assert_ne!(asked(&log, "anna"), asked(&log, "otto"));
        assert_ne!(asked(&log, "anna"), asked(&RequestLog::new(Duration::MAX), "anna"), "another key");
    }

    #[test]
    fn long_words_are_cut_on_an_edge() {
        assert_eq!(cut("short"), "short");
        let told = cut(&"\u{e9}".repeat(4000)).len();
        assert!(told <= LONGEST_TOLD && told > LONGEST_TOLD - 2);
    }
}
