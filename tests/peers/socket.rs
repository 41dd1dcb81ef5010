//! A TCP or Unix socket, and ways of sending through it that no client would choose.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use sidereal::serve::Address;

use crate::PATIENCE;
use crate::common::Seeded;

pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub fn connect(address: &Address) -> Socket {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).unwrap();
                // Pieces leave as they are written.
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Socket::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Socket::Unix(stream)
            }
        }
    }

    pub fn try_clone(&self) -> Socket {
        match self {
            Socket::Tcp(stream) => Socket::Tcp(stream.try_clone().unwrap()),
            Socket::Unix(stream) => Socket::Unix(stream.try_clone().unwrap()),
        }
    }

    /// The server may have ended the connection already.
    pub fn end_writing(&self) {
        let _ = match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.write_all(bytes),
            Socket::Unix(stream) => stream.write_all(bytes),
        }
    }

    /// Sends in pieces: all at once, byte by byte, in crumbs, or in frames and halves; now and then with a pause.
    pub fn send(&mut self, bytes: &[u8], seeded: &mut Seeded) -> io::Result<()> {
        let style = seeded.below(4);
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = match style {
                0 => rest.len() as u64,
                1 => 1,
                2 => 1 + seeded.below(40),
                _ => 1 + seeded.below(600),
            };
            let (now, later) = rest.split_at(rest.len().min(piece as usize));
            self.write_all(now)?;
            rest = later;
            if seeded.below(24) == 0 {
                thread::sleep(Duration::from_micros(seeded.below(2000)));
            }
        }
        Ok(())
    }
}
