//! A load generator that is honest about latency, and a search for the highest rate that meets a target.
//!
//! Everything goes over the wire protocol, through [`crate::client`]: what is measured is what a caller sees. Requests and
//! arrivals are fixed by a seed before the run. Figures say what they are of: answers, refusals by kind, errors, timeouts and
//! requests cut off are counted apart and add up to what was due.
//!
//! What this module does not do: judge results (that is `eval`), start servers, or parse a command line.

mod connection;
pub mod load;
pub mod machine;
pub mod measure;
pub mod mix;
pub mod random;
pub mod records;
pub mod report;
pub mod schedule;
pub mod search;
pub mod stages;
pub mod timeline;
pub mod workload;
