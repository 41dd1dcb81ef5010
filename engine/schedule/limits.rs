//! Every bound of the engine in one struct. Memory is planned from it at start; going over a bound is an answer to the
//! caller, never growth.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::device::MAX_LIST_ITEMS;

/// About 30 years: a deadline is an instant, and instants end.
const LONGEST_DEADLINE: Duration = Duration::from_secs(1_000_000_000);

/// Bounds of one engine. All counts are at least 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Requests waiting or running; one more is refused `OVERLOADED`.
    pub max_requests: usize,
    /// Requests that hold KV pages at the same time.
    pub max_sequences: usize,
    /// Prompt tokens of a request.
    pub max_prompt_tokens: usize,
    /// Beam width of a request.
    pub max_beams: usize,
    /// Tokens of one prefill batch; also the chunk size of causal prefill.
    pub max_prefill_tokens: usize,
    /// Beam rows of one cohort (the sum of its requests' beam widths).
    pub max_cohort_rows: usize,
    /// Cohorts searched in an interleaved manner.
    pub max_cohorts: usize,
    /// Tokens in a decoder prefix (BOS and instructions).
    pub max_decoder_prefix: usize,
    /// Items in the history of a request, unknown ones included: each costs a look-up.
    pub max_history_items: usize,
    /// Items that one request may deny, its history included.
    pub max_denied_items: usize,
    /// Views of the catalogue. Each takes two masks, of an eighth of a byte a node of the trie, on the device.
    pub max_views: usize,
    /// Semantic IDs of a list. Every beam's own keys and values are planned for that many.
    pub max_list_items: usize,
    /// Bytes of a text prompt: a tokenizer's work grows with them, whatever tokens come out.
    pub max_text_bytes: usize,
    /// Tokens in a KV page.
    pub page_tokens: usize,
    /// Memory for history KV in bytes; at least the longest prompt is always held.
    pub kv_bytes: usize,
    /// Deadline of a request that names none.
    pub default_deadline: Duration,
    /// Longest deadline that a request may ask for.
    pub max_deadline: Duration,
    /// Bytes of one frame's payload.
    pub max_frame_bytes: usize,
    /// Open connections.
    pub max_connections: usize,
    /// Requests in flight on one connection; fewer than `max_requests`, so that one caller cannot take the whole queue.
    pub max_in_flight_per_connection: usize,
    /// A connection with nothing in flight and nothing arriving is closed after this long.
    pub idle_timeout: Duration,
    /// A partly received frame, or a reply that the peer does not read, closes the connection after this long.
    pub stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_requests: 1024,
            max_sequences: 64,
            max_prompt_tokens: 8192,
            max_beams: 1024,
            max_prefill_tokens: 2048,
            max_cohort_rows: 1024,
            max_cohorts: 2,
            max_decoder_prefix: 16,
            max_history_items: 20_000,
            max_denied_items: 20_000,
            max_views: 64,
            max_list_items: 1,
            max_text_bytes: 64 << 10,
            page_tokens: 64,
            kv_bytes: 1 << 30,
            default_deadline: Duration::from_secs(10),
            max_deadline: Duration::from_secs(600),
            max_frame_bytes: 4 << 20,
            max_connections: 1024,
            max_in_flight_per_connection: 256,
            idle_timeout: Duration::from_secs(600),
            stall_timeout: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// Pages of the history pool: as many as `kv_bytes` holds, but at least one longest prompt and no more than
    /// `max_sequences` of them could use.
    pub fn history_pages(&self, longest_prompt: usize, page_bytes: usize) -> usize {
        let longest = longest_prompt.div_ceil(self.page_tokens);
        (self.kv_bytes / page_bytes.max(1)).clamp(longest, longest * self.max_sequences)
    }

    /// Mask slots for a catalogue with so many views: each view, and what is live without one, in the version of requests under
    /// way and the next.
    pub fn mask_slots(&self, views: usize) -> usize {
        2 * (views + 1)
    }

    /// Checks what every other part relies on.
    ///
    /// # Errors
    /// A message naming the limit and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        const ANY: usize = u32::MAX as usize;
        // Queues and slots are allocated at start; a beam's rank has 16 bits on the device, and a launch has room for 65,535
        // requests.
        let counts = [
            ("max_requests", self.max_requests, 1 << 20),
            ("max_sequences", self.max_sequences, (1 << 16) - 1),
            ("max_prompt_tokens", self.max_prompt_tokens, ANY),
            ("max_beams", self.max_beams, 1 << 16),
            ("max_prefill_tokens", self.max_prefill_tokens, ANY),
            ("max_cohort_rows", self.max_cohort_rows, ANY),
            ("max_cohorts", self.max_cohorts, 1 << 10),
            ("max_decoder_prefix", self.max_decoder_prefix, 1 << 16),
            ("max_list_items", self.max_list_items, MAX_LIST_ITEMS),
            ("page_tokens", self.page_tokens, 1 << 16),
            ("max_frame_bytes", self.max_frame_bytes, ANY),
            ("max_connections", self.max_connections, ANY),
            ("max_in_flight_per_connection", self.max_in_flight_per_connection, ANY),
        ];
        for (name, value, most) in counts {
            if value == 0 {
                return Err(format!("{name} is 0; it must be at least 1"));
            }
            if value > most {
                return Err(format!("{name} is {value}; it must be at most {most}"));
            }
        }
        for (name, time) in [("default_deadline", self.default_deadline), ("max_deadline", self.max_deadline)] {
            if time.is_zero() || time > LONGEST_DEADLINE {
                let most = LONGEST_DEADLINE.as_secs();
                return Err(format!("{name} is {time:?}; it must be more than 0 and at most {most} s"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_others_cannot_rely_on_is_named() {
        assert_eq!(Limits::default().validate(), Ok(()));
        for (limits, name) in [
            (Limits { max_requests: 0, ..Limits::default() }, "max_requests is 0"),
            (Limits { max_requests: usize::MAX, ..Limits::default() }, "max_requests"),
            // The device refuses the whole cohort of such a request.
            (Limits { max_beams: 65_537, ..Limits::default() }, "max_beams is 65537; it must be at most 65536"),
            (Limits { max_list_items: 33, ..Limits::default() }, "max_list_items is 33; it must be at most 32"),
            // An instant cannot lie that far ahead.
            (Limits { max_deadline: Duration::MAX, ..Limits::default() }, "max_deadline"),
            (Limits { default_deadline: Duration::ZERO, ..Limits::default() }, "default_deadline"),
        ] {
            let told = limits.validate().unwrap_err();
            assert!(told.contains(name), "{told}");
        }
    }
}
