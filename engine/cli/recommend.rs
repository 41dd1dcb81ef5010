//! `sidereal recommend`: JSON lines in, JSON lines out, in the same order.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use clap::Args;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::cli::options::EngineArgs;
use crate::cli::requests::{self, Defaults};
use crate::cli::window::Pending;
use crate::cli::{Failure, units};
use crate::schedule::Engine;

/// Longest line read: no request within the limits of a server's frame is longer.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Recommend for the requests of a file or of stdin
///
/// Reads JSON lines such as {"id":1,"items":[5,9],"beams":128,"top":10,"deny":[7]} and writes one line for each, in order:
/// {"id":1,"results":[{"sid":[1,2,3],"score":-1.2,"items":[7,9]}],...} or {"id":1,"error":{"kind":..,"message":..}}. A
/// history is given as "items" (ids), "keys" (strings) or "tokens" (the complete prompt). Also known: max_items_per_sid,
/// deny_history, strict, with_text, deadline_ms, view, user, scenario (it says what its line leaves out), sample, logprobs. Exits
/// with 1 if any line got an error.
#[derive(Debug, Args)]
pub struct RecommendArgs {
    /// Export directory
    pub export: PathBuf,
    /// File of requests, or - for stdin
    #[arg(long, value_name = "FILE|-")]
    pub requests: PathBuf,
    /// Beam width of requests that name neither it nor a scenario
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub beams: u32,
    /// Semantic IDs returned to requests that name neither a number nor a scenario
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub top: u32,
    /// Requests in flight
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,
    /// Accepted for symmetry: this command speaks nothing but JSON
    #[arg(long, hide = true)]
    pub json: bool,
    /// Device and limits.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// What stands for a line while it is answered.
enum Slot {
    Waiting { id: u64, with_text: bool, pending: Pending },
    Bad(requests::BadLine),
}

/// How many lines were answered, and how many of those with an error.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    lines: usize,
    errors: usize,
}

/// Runs the command.
pub fn run(args: &RecommendArgs) -> Result<(), Failure> {
    let mut input: Box<dyn BufRead> = if args.requests.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(&args.requests).map_err(|error| Failure::read(&args.requests, &error))?;
        Box::new(std::io::BufReader::new(file))
    };
    let width = usize::from(args.concurrency);
    let engine = Engine::start(&args.engine.offline(&args.export, width))?;
    // A bounded queue of pending answers, not a loop over batches: someone who types a line sees its answer before
    // typing the next, and a file keeps the engine full.
    let (send, receive) = bounded::<Slot>(width);
    // One permit a request in flight: taken before it is submitted, given back when its answer is written.
    let (take, give_back) = bounded::<()>(width);
    let counts = std::thread::scope(|scope| {
        let writer = scope.spawn(move || write_answers(&receive, &give_back));
        let read = read_requests(args, &engine, input.as_mut(), &take, |slot| send.send(slot).is_ok());
        drop(send);
        let written = writer.join().unwrap_or_else(|_| Err(Failure::environment("the writer stopped")));
        read.and(written)
    })?;
    if counts.errors == 0 {
        return Ok(());
    }
    let lines = units::plural(counts.lines, "request");
    Err(Failure::bad(format!("{} of {lines} got an error; the lines with \"error\" say why", counts.errors)))
}

/// Submits every line until the input ends or nobody writes any more.
fn read_requests(
    args: &RecommendArgs,
    engine: &Engine,
    input: &mut dyn BufRead,
    permits: &Sender<()>,
    mut push: impl FnMut(Slot) -> bool,
) -> Result<(), Failure> {
    let defaults = Defaults { beams: args.beams, top: args.top };
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let read = std::io::Read::take(&mut *input, MAX_LINE_BYTES).read_until(b'\n', &mut bytes);
        if read.map_err(|error| Failure::read(&args.requests, &error))? == 0 {
            break;
        }
        if bytes.len() as u64 == MAX_LINE_BYTES && !bytes.ends_with(b"\n") {
            return Err(Failure::bad(format!(
                "{}: line {number} is longer than {}; one request stands on one line",
                args.requests.display(),
                units::show_bytes(MAX_LINE_BYTES as usize)
            )));
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        if permits.send(()).is_err() {
            break;
        }
        let slot = match std::str::from_utf8(bytes.trim_ascii()) {
            Ok(text) => match requests::parse(text, number, defaults) {
                Ok(request) => Slot::Waiting {
                    id: request.id,
                    with_text: request.with_text,
                    pending: Pending::submit(engine, request),
                },
                Err(bad) => Slot::Bad(bad),
            },
            Err(error) => {
                let message = format!("line {number}, byte {}: not UTF-8", error.valid_up_to());
                Slot::Bad(requests::BadLine { id: None, message })
            }
        };
        if !push(slot) {
            break;
        }
    }
    Ok(())
}

/// Writes one line a slot, each as soon as it and all before it are answered.
fn write_answers(slots: &Receiver<Slot>, permits: &Receiver<()>) -> Result<Counts, Failure> {
    let mut out = std::io::stdout().lock();
    let mut counts = Counts::default();
    for slot in slots {
        counts.lines += 1;
        let line = match slot {
            Slot::Bad(bad) => {
                counts.errors += 1;
                requests::bad_line(&bad)
            }
            Slot::Waiting { id, with_text, pending } => {
                let (answer, _) = pending.wait();
                counts.errors += usize::from(answer.is_err());
                requests::answer_line(id, &answer, with_text)
            }
        };
        writeln!(out, "{line}")?;
        out.flush()?;
        // Every slot was sent with a permit taken.
        let _ = permits.try_recv();
    }
    Ok(counts)
}
