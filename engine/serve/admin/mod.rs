//! The admin listener: HTTP pages about a server, for Prometheus, for probes, and for people.
//!
//! `GET /metrics`, `/healthz`, `/readyz`, `/stats`, `/weights`, `/`. It has a thread and a poll of its own, starts before the
//! engine loads and ends after the drain, and reads: nothing it does waits for the engine thread or the socket loop. The one
//! thing that can be changed through it are the weights (`POST /weights`), and only where that was said and from this
//! machine. There is no authentication, so it listens beyond loopback only when that is said.

mod board;
mod event_loop;
mod families;
mod http;
mod metrics;
mod page;
mod pages;
mod peer;
mod process;
mod weights;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Poll, Waker};

pub use board::Board;

use super::socket::Listener;
use super::{Address, ServeError};
use event_loop::{EventLoop, WAKE};
use pages::Pages;

/// Where the admin pages are.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Where to listen; port 0 takes a free port.
    pub listen: Address,
    /// Who may reach them.
    pub reach: AdminReach,
    /// Whether `POST /weights` replaces the engine's weights. It never does for [`AdminReach::Anybody`].
    pub weights: bool,
    /// Permission bits of a Unix socket.
    pub unix_mode: u32,
    /// How long a request may take to arrive, and a response to be taken.
    pub patience: Duration,
}

/// Who may reach the admin pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdminReach {
    /// Programs on this machine. A browser here that a foreign page sends is told apart by the host it asks for.
    #[default]
    ThisMachine,
    /// Whoever the network lets in.
    Anybody,
}

impl AdminConfig {
    /// On `listen`, for this machine; a Unix socket for the owner only.
    pub fn new(listen: Address) -> AdminConfig {
        let (reach, patience) = (AdminReach::ThisMachine, Duration::from_secs(5));
        AdminConfig { listen, reach, weights: false, unix_mode: 0o600, patience }
    }
}

/// The running admin listener. Dropping it ends it.
pub struct Admin {
    address: Address,
    waker: Waker,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Binds the address and starts the thread.
    ///
    /// # Errors
    /// The address is taken, or can be reached from elsewhere although nobody said so.
    pub fn start(config: &AdminConfig, board: Arc<Board>) -> Result<Admin, ServeError> {
        if config.reach == AdminReach::ThisMachine && !config.listen.is_local() {
            return Err(ServeError::AdminBeyondLoopback { address: config.listen.clone() });
        }
        let fail = |what| move |source| ServeError::Loop { what, source };
        let listener = Listener::bind(&config.listen, config.unix_mode)?;
        let address = listener.address().clone();
        let poll = Poll::new().map_err(fail("creating a poll for the admin pages"))?;
        let waker = Waker::new(poll.registry(), WAKE).map_err(fail("creating a waker for the admin pages"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let pages = Pages::new(board, config);
        let mut io =
            EventLoop::new(poll, listener, pages, Arc::clone(&stop)).map_err(fail("registering the admin listener"))?;
        let run = move || {
            if let Err(error) = io.run() {
                tracing::error!(%error, "the admin pages are gone; requests are served on");
            }
        };
        let thread = std::thread::Builder::new().name("sidereal-admin".into()).spawn(run);
        let thread = Some(thread.map_err(fail("starting the admin thread"))?);
        Ok(Admin { address, waker, stop, thread })
    }

    /// Where it listens, with the port that was found.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Err(error) = self.waker.wake() {
            // Joining would wait for ever.
            tracing::error!(%error, "cannot wake the admin thread");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the admin thread panicked");
        }
    }
}
