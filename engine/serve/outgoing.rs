//! What a connection still has to send.
//!
//! The queue is bounded by the rule that a connection whose queue is above [`HIGH_BYTES`] is not read from: it can then
//! only grow by the answers to what is already in flight. Whatever is queued at some moment must have left within the stall
//! timeout, so that a peer that drains a byte a second is as stalled as one that drains nothing.

use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Above this many waiting bytes the connection is not read from.
pub(super) const HIGH_BYTES: usize = 256 << 10;
/// At or below this many it is read from again.
pub(super) const LOW_BYTES: usize = 64 << 10;

/// Encoded frames, partly sent.
#[derive(Default)]
pub(super) struct Outgoing {
    buffer: Vec<u8>,
    /// Bytes of `buffer` already sent.
    sent: usize,
    /// Bytes ever sent.
    total_sent: u64,
    /// Set while bytes wait: everything up to this total must be sent within the stall timeout of this moment.
    mark: Option<(Instant, u64)>,
}

impl Outgoing {
    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.buffer.len() - self.sent
    }

    /// Bytes sent since the beginning.
    pub(super) fn total_sent(&self) -> u64 {
        self.total_sent
    }

    /// Where to append frames.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Sends as much as the socket takes.
    pub(super) fn flush(&mut self, socket: &mut impl Write, now: Instant) -> io::Result<()> {
        let result = self.write_waiting(socket);
        if self.waiting() == 0 {
            self.buffer.clear();
            self.buffer.shrink_to(LOW_BYTES);
            self.sent = 0;
        } else if self.sent >= HIGH_BYTES.max(self.buffer.len() / 2) {
            self.buffer.drain(..self.sent);
            self.sent = 0;
        }
        let waiting = self.waiting() as u64;
        self.mark = match self.mark {
            _ if waiting == 0 => None,
            Some((since, upto)) if self.total_sent < upto => Some((since, upto)),
            _ => Some((now, self.total_sent + waiting)),
        };
        result
    }

    fn write_waiting(&mut self, socket: &mut impl Write) -> io::Result<()> {
        while self.sent < self.buffer.len() {
            match socket.write(&self.buffer[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.sent += count;
                    self.total_sent += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// True if what waits has waited for too long.
    pub(super) fn is_stalled(&self, now: Instant, timeout: Duration) -> bool {
        self.mark.is_some_and(|(since, _)| now.duration_since(since) > timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes and then would block.
    struct Narrow {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_trickle_is_a_stall_and_progress_is_not() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let timeout = Duration::from_secs(10);
        let mut socket = Narrow { room: 0, taken: Vec::new() };
        let mut out = Outgoing::default();
        out.tail().extend_from_slice(&[1; 100]);
        out.flush(&mut socket, at(0)).unwrap();
        for second in 1..=11 {
            socket.room = 1;
            out.flush(&mut socket, at(second)).unwrap();
        }
        assert!(!out.is_stalled(at(10), timeout) && out.is_stalled(at(11), timeout));

        out.tail().extend_from_slice(&[2; 50]);
        socket.room = 89; // What waited at the mark, but not what was added.
        out.flush(&mut socket, at(11)).unwrap();
        assert!(!out.is_stalled(at(21), timeout));
        socket.room = 50;
        out.flush(&mut socket, at(30)).unwrap();
        assert!(!out.is_stalled(at(99), timeout) && out.waiting() == 0);
        assert_eq!(socket.taken, [[1; 100].as_slice(), &[2; 50]].concat());
    }
}
