//! What the socket loop counts.

use std::sync::atomic::{AtomicU64, Ordering};

use super::wire::FaultCode;
use crate::request::RefusalKind;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of a server since its start. The I/O thread writes them, anyone reads them.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
            /// Requests refused before they reached the engine, in the order of [`RefusalKind::ALL`].
            pub refused: [AtomicU64; RefusalKind::ALL.len()],
            /// Connections ended by an ERROR of each code, in the order of [`FaultCode::ALL`].
            pub faults: [AtomicU64; FaultCode::ALL.len()],
        }

        impl Counters {
            /// Every counter by name; refusals are named `refused_` and the kind's name, faults `fault_` and the code's name.
            pub fn snapshot(&self) -> Vec<(String, u64)> {
                let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                let mut all = vec![$((stringify!($name).to_owned(), read(&self.$name)),)*];
                let refused = RefusalKind::ALL.iter().zip(&self.refused);
                all.extend(
                    refused.map(|(kind, count)| (format!("refused_{}", kind.name().to_lowercase()), read(count))),
                );
                let faults = FaultCode::ALL.iter().zip(&self.faults);
                all.extend(faults.map(|(code, count)| (format!("fault_{}", code.name().to_lowercase()), read(count))));
                all
            }
        }
    };
}

counters! {
    /// Connections open now.
    connections_open,
    /// Connections accepted.
    connections_accepted,
    /// Connections that vanished with requests in flight.
    connections_lost,
    /// Connections closed because their replies were not read.
    connections_unread,
    /// Times that the system refused another connection.
    accept_errors,
    /// Frames received.
    frames_received,
    /// Bytes read from connections.
    bytes_received,
    /// Bytes written to connections.
    bytes_sent,
    /// Requests handed to the engine.
    requests_accepted,
    /// Answers from the engine sent on.
    answers_sent,
    /// Answers from the engine whose connection had gone.
    answers_orphaned,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_refusal(&self, kind: RefusalKind) {
        Counters::add(&self.refused[kind as usize - 1]);
    }

    pub(super) fn add_fault(&self, code: FaultCode) {
        if let Some(at) = FaultCode::ALL.iter().position(|known| *known == code) {
            Counters::add(&self.faults[at]);
        }
    }

    /// As a JSON object.
    pub fn to_json(&self) -> String {
        let fields: serde_json::Map<_, _> =
            self.snapshot().into_iter().map(|(name, value)| (name, value.into())).collect();
        serde_json::Value::Object(fields).to_string()
    }
}
