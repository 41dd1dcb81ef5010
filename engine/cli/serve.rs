//! `sidereal serve`: an engine behind sockets, until it is told to drain.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};

use crate::cli::options::EngineArgs;
use crate::cli::{Failure, logging, units};
use crate::schedule::{Engine, EngineFacts};
use crate::serve::wire::Secret;
use crate::serve::{Address, Admin, AdminConfig, AdminReach, Board, Server, ServerConfig, Service};

/// How often a server that nobody stops is looked at.
const WATCH: Duration = Duration::from_secs(1);

/// Why a server ends by itself.
const LOST: &str = "the device was lost and could not be brought back, or the engine met a fault of its own (the log says \
                    which); start the server again";

/// Longest secret: a wrong file, or a device without an end, must not fill the memory.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// Serve an export over TCP and Unix sockets
///
/// Prints one line with the bound addresses once it answers. SIGTERM or SIGINT drains: no new connections, late requests
/// are refused SHUTTING_DOWN, every accepted request is answered, exit 0. A second signal ends the process at once.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Export directory
    #[arg(required = true, value_name = "EXPORT")]
    pub exports: Vec<PathBuf>,
    /// Where to listen: HOST:PORT (port 0 takes a free one) or unix:PATH; may be repeated
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDRESS")]
    pub listen: Vec<Address>,
    /// File with the secret that clients must know; needed beyond loopback
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// How long a drain may take
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = units::duration)]
    pub drain_timeout: Duration,
    /// Print the bound addresses as a JSON object
    #[arg(long)]
    pub json: bool,
    /// A request that takes longer is logged with its stages; 0s logs every one, off none
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = slow_request)]
    pub slow_request: Duration,
    /// Where the admin pages are.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Device and limits of the engine.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Limits of the sockets.
    #[command(flatten)]
    pub sockets: SocketLimitArgs,
}

/// HTTP pages about the server.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Admin pages")]
pub struct AdminArgs {
    /// Show /metrics, /healthz, /readyz, /stats, /weights and a status page over HTTP at HOST:PORT or unix:PATH [default: off]
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<Address>,
    /// Let other machines read them: nobody is asked who they are
    #[arg(long, requires = "admin")]
    pub admin_open: bool,
    /// Let programs on this machine replace the weights: POST /weights with {"path": .., "version": ..}
    #[arg(long, requires = "admin", conflicts_with = "admin_open")]
    pub admin_weights: bool,
}

impl AdminArgs {
    fn start(&self, board: &Arc<Board>) -> Result<Option<Admin>, Failure> {
        let Some(listen) = &self.admin else { return Ok(None) };
        let mut config = AdminConfig::new(listen.clone());
        config.reach = if self.admin_open { AdminReach::Anybody } else { AdminReach::ThisMachine };
        config.weights = self.admin_weights;
        Ok(Some(Admin::start(&config, Arc::clone(board))?))
    }
}

/// `--slow-request`.
fn slow_request(text: &str) -> Result<Duration, String> {
    if text == "off" { Ok(Duration::MAX) } else { units::duration(text) }
}

/// Bounds of the socket side.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Limits of sockets")]
pub struct SocketLimitArgs {
    /// Bytes of one frame's payload, e.g. 4MiB [default: 4MiB]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub max_frame_bytes: Option<usize>,
    /// Open connections [default: 1024]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<usize>,
    /// Requests in flight on one connection [default: 256]
    #[arg(long, value_name = "N")]
    pub max_in_flight_per_connection: Option<usize>,
    /// A connection with nothing in flight is closed after this long [default: 600s]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub idle_timeout: Option<Duration>,
    /// A half-sent frame or an unread reply closes the connection after this long [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub stall_timeout: Option<Duration>,
}

/// Runs the command.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let [export] = args.exports.as_slice() else {
        return Err(Failure::usage(format!(
            "{} exports were given; a server serves one export: start one server for each, on addresses of their own",
            args.exports.len()
        )));
    };
    let mut config = args.engine.serving(export);
    let limits = &mut config.limits;
    limits.max_frame_bytes = args.sockets.max_frame_bytes.unwrap_or(limits.max_frame_bytes);
    limits.max_connections = args.sockets.max_connections.unwrap_or(limits.max_connections);
    limits.max_in_flight_per_connection =
        args.sockets.max_in_flight_per_connection.unwrap_or(limits.max_in_flight_per_connection);
    limits.idle_timeout = args.sockets.idle_timeout.unwrap_or(limits.idle_timeout);
    limits.stall_timeout = args.sockets.stall_timeout.unwrap_or(limits.stall_timeout);
    let mut sockets = ServerConfig::new(args.listen.clone());
    sockets.limits = config.limits.clone();
    sockets.secret = args.secret_file.as_deref().map(read_secret).transpose()?;
    sockets.slow_request = args.slow_request;

    // Up before the export is loaded: who probes hears that the server is starting.
    let board = Arc::new(Board::default());
    let admin = args.admin.start(&board)?;
    let engine = Arc::new(Engine::start(&config)?);
    // From here on a signal drains; while loading it just ends the process, which has promised nobody anything.
    let told_to_stop = watch_signals()?;
    let server = Server::start(sockets, Arc::clone(&engine) as Arc<dyn Service>)?;
    board.serving(&server, Arc::clone(&engine) as Arc<dyn Service>);
    announce(&server, admin.as_ref(), engine.facts(), args.json)?;
    let reason = loop {
        match told_to_stop.recv_timeout(WATCH) {
            Ok(signal) => break signal_name(signal).unwrap_or("a signal"),
            Err(RecvTimeoutError::Timeout) if engine.has_given_up() => break LOST,
            Err(RecvTimeoutError::Timeout) if !server.has_ended() => {}
            // The socket loop ends by itself only when the system fails it; then nobody can reach the engine any more.
            Err(_) => {
                let told = server.join().err().map_or_else(|| "the server ended".to_owned(), |error| error.to_string());
                return Err(Failure::environment(told));
            }
        }
    };
    board.draining();
    drain(server, engine, reason, args.drain_timeout)?;
    if reason == LOST { Err(Failure::environment(LOST)) } else { Ok(()) }
}

/// A secret from its file, which may be a pipe.
pub fn read_secret(path: &Path) -> Result<Secret, Failure> {
    let mut contents = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut contents));
    read.map_err(|error| Failure::read(path, &error))?;
    if contents.len() as u64 > MAX_SECRET_BYTES {
        let told =
            format!("{}: is longer than {MAX_SECRET_BYTES} bytes; is it the file of the secret?", path.display());
        return Err(Failure::environment(told));
    }
    Secret::from_text(&contents).map_err(|error| Failure::environment(format!("{}: {error}", path.display())))
}

/// The first SIGTERM or SIGINT arrives in the channel; the next one ends the process as if nobody had caught it.
fn watch_signals() -> Result<Receiver<i32>, Failure> {
    let failed = |error: std::io::Error| Failure::environment(format!("cannot watch for signals: {error}"));
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(failed)?;
    let (send, receive) = bounded(1);
    let watch = move || {
        let mut first = true;
        for signal in signals.forever() {
            if !std::mem::take(&mut first) || send.send(signal).is_err() {
                tracing::warn!("a second signal: ending at once, accepted requests are lost");
                logging::finish();
                let _ = emulate_default_handler(signal);
            }
        }
    };
    std::thread::Builder::new().name("sidereal-signals".into()).spawn(watch).map_err(failed)?;
    Ok(receive)
}

/// One line on stdout, for scripts that wait for it.
fn announce(server: &Server, admin: Option<&Admin>, facts: &EngineFacts, json: bool) -> Result<(), Failure> {
    let admin = admin.map(|admin| admin.address().to_string());
    let addresses: Vec<String> = server.addresses().iter().map(ToString::to_string).collect();
    let provenance = &facts.provenance;
    let mut out = std::io::stdout().lock();
    if json {
        let told = serde_json::json!({
            "listening": addresses,
            "admin": admin,
            "model": provenance.model,
            "catalog": provenance.catalog,
            "device": provenance.device,
            "dtype": provenance.dtype,
            "threads": facts.threads,
            "pid": std::process::id(),
        });
        writeln!(out, "{told}")?;
    } else {
        let pages = admin.map(|admin| format!(", admin pages on {admin}")).unwrap_or_default();
        writeln!(out, "serving {} on {}{pages}", provenance.model, addresses.join(", "))?;
    }
    out.flush()?;
    Ok(())
}

/// Answers what was accepted, and ends.
fn drain(server: Server, engine: Arc<Engine>, reason: &str, timeout: Duration) -> Result<(), Failure> {
    tracing::info!(reason, "draining");
    let report = server.drain(timeout);
    if report.unanswered > 0 {
        // The engine is still at work on them; waiting for it to end would wait for as long as they take.
        std::mem::forget(engine);
        let requests = units::plural(report.unanswered, "accepted request");
        return Err(Failure::environment(format!(
            "{requests} had no answer when --drain-timeout ({} s) was over",
            timeout.as_secs_f64()
        )));
    }
    server.join()?;
    engine.drain();
    tracing::info!(stats = %engine.stats(), "drained");
    Ok(())
}
