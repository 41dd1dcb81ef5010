//! TCP and Unix sockets behind one type each: a listener and a stream.
//!
//! A Unix socket is bound under a temporary name, given its mode and moved to its place: nobody can connect before the mode
//! is right, and a stale file is replaced in one step. It is removed at the end if it is still ours.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use super::{Address, ServeError};

/// A listening socket.
pub(super) struct Listener {
    socket: ListenerSocket,
    address: Address,
}

enum ListenerSocket {
    Tcp(TcpListener),
    /// The file goes when the listener does.
    Unix {
        socket: UnixListener,
        _file: SocketFile,
    },
}

/// Removes the socket's file when dropped, if it still is the one we made.
struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.device_and_inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

impl Listener {
    /// Binds `address`.
    pub(super) fn bind(address: &Address, unix_mode: u32) -> Result<Listener, ServeError> {
        let fail = |source| ServeError::Listen { address: address.clone(), source };
        match address {
            Address::Tcp(wanted) => {
                let socket = TcpListener::bind(*wanted).map_err(fail)?;
                let address = Address::Tcp(socket.local_addr().map_err(fail)?);
                Ok(Listener { socket: ListenerSocket::Tcp(socket), address })
            }
            Address::Unix(path) => {
                check_free(path)?;
                let (socket, file) = bind_unix(path, unix_mode).map_err(fail)?;
                Ok(Listener { socket: ListenerSocket::Unix { socket, _file: file }, address: address.clone() })
            }
        }
    }

    /// Where it listens, with the port that was found.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The next connection, with a name for its peer.
    pub(super) fn accept(&self) -> io::Result<(Stream, String)> {
        match &self.socket {
            ListenerSocket::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                // Best effort: without it replies are correct, only later.
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), peer.to_string()))
            }
            ListenerSocket::Unix { socket, .. } => Ok((Stream::Unix(socket.accept()?.0), self.address.to_string())),
        }
    }

    /// Asks `registry` to report connections as `token`.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.socket {
            ListenerSocket::Tcp(socket) => socket.register(registry, token, Interest::READABLE),
            ListenerSocket::Unix { socket, .. } => socket.register(registry, token, Interest::READABLE),
        }
    }
}

/// Refuses a path that a live server or another kind of file has.
fn check_free(path: &Path) -> Result<(), ServeError> {
    let fail = |source| ServeError::Listen { address: Address::Unix(path.to_owned()), source };
    let kind = match fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    if !kind.is_socket() {
        return Err(ServeError::NotASocket { path: path.to_owned() });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(ServeError::SocketInUse { path: path.to_owned() }),
        // Nobody listens: left behind by a server that was killed.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(fail(error)),
    }
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let socket = UnixListener::bind(&temporary)?;
    let place = || {
        fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
        let meta = fs::symlink_metadata(&temporary)?;
        fs::rename(&temporary, path)?;
        Ok(SocketFile { path: path.to_owned(), device_and_inode: (meta.dev(), meta.ino()) })
    };
    let file = place().inspect_err(|_: &io::Error| drop(fs::remove_file(&temporary)))?;
    Ok((socket, file))
}

/// A connected socket.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Asks `registry` to report readiness, both ways, as `token`.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match self {
            Stream::Tcp(stream) => stream.register(registry, token, both),
            Stream::Unix(stream) => stream.register(registry, token, both),
        }
    }

    /// Tells the peer that nothing more will come.
    pub(super) fn finish_writing(&self) {
        // The peer may be gone already, which comes to the same.
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
