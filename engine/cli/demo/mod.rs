//! `sidereal demo`: the whole line once, on real data. An export from disk, a server on a loopback port, and a client that
//! asks it over TCP for users whose next item is known.

mod ask;
mod show;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use crate::cli::measure::{Measure, User, read_popularity, read_users};
use crate::cli::metrics::{Speed, rank_of};
use crate::cli::options::DeviceArgs;
use crate::cli::style::{self, Style};
use crate::cli::summary::{Asked, Summary};
use crate::cli::{Failure, measure, units};
use crate::request::{History, ItemRefs, Request};
use crate::schedule::{Engine, EngineConfig};

use ask::Line;
use show::Shown;

/// Beam width of the demo's requests.
const BEAMS: u32 = 50;
/// Semantic IDs asked for: each has at least one item, so ten items are always there.
const TOP: u32 = 10;
/// Requests in flight.
const IN_FLIGHT: usize = 16;
/// Users looked at for each one shown.
const CANDIDATES: usize = 8;
/// Where the demo's files are, relative to the repository.
const DEMO: &str = "demo/movielens";
const CITATION: &str = "\
Data: MovieLens latest-small. F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context.
ACM Transactions on Interactive Intelligent Systems 5, 4, Article 19. https://doi.org/10.1145/2827872";

/// Recommend films for real held-out users, through a server
///
/// Starts a server on a free loopback port with the small model in demo/movielens, asks it over TCP what to recommend to
/// users whose next film is known, and shows a few of them; then measures all of them against recommending what is popular.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Users shown
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub users: usize,
    /// Show every held-out user
    #[arg(long, conflicts_with = "users")]
    pub all: bool,
    /// Directory with export/, users.jsonl and popularity.json, or an export of the same films [default: demo/movielens]
    #[arg(long, value_name = "DIR")]
    pub export: Option<PathBuf>,
    /// Print the figures as one JSON object, and nothing else
    #[arg(long)]
    pub json: bool,
    /// What computes.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Runs the command.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let place = find(args.export.as_deref())?;
    let style = Style::stdout();
    let waiting = style::spinner("loading");
    let mut config = EngineConfig::new(&place.export);
    config.device = args.device.choice();
    config.limits.default_deadline = config.limits.max_deadline;
    let engine = Arc::new(Engine::start(&config)?);
    let users = read_users(&place.data.join("users.jsonl"), engine.catalog(), None)?;
    let popularity = read_popularity(&place.data.join("popularity.json"))?;
    let mut line = Line::open(Arc::clone(&engine))?;
    waiting.finish_and_clear();

    let mut out = std::io::stdout().lock();
    if !args.json {
        print_head(&engine, &line, &users, style, &mut out)?;
    }
    let looked_at = ask_some(args, &mut line, &users)?;
    if !args.json {
        show(args, &engine, looked_at.shown, style, &mut out)?;
    }
    let mut measure = Measure::new(engine.catalog(), Some(&popularity), true);
    let bar = style::progress(users.len(), "all users");
    let began = Instant::now();
    let requests = users.iter().enumerate().map(|(at, user)| request(at, user)).collect();
    line.ask(requests, IN_FLIGHT, |at, answer, latency| {
        measure.count(&users[at], &answer, latency);
        bar.inc(1);
    })?;
    let elapsed = began.elapsed();
    bar.finish_and_clear();
    line.close()?;

    let mut outcome = measure.finish();
    let speed = Speed::of(std::mem::take(&mut outcome.latencies), elapsed);
    let asked = Asked { beams: BEAMS, top: TOP, deny_history: true, in_flight: IN_FLIGHT };
    let summary = Summary::of(engine.facts(), asked, &outcome, speed).with_alone(looked_at.speed);
    if args.json {
        summary.print_json(&mut out)?;
    } else {
        writeln!(out, "{}", style.bold("All held-out users, through the server"))?;
        summary.print_figures(style, &mut out)?;
        let provenance = &engine.facts().provenance;
        let threads = units::plural(engine.facts().threads, "thread");
        writeln!(out, "  {:<12} {}, {}, {threads}", "computed on", provenance.device, provenance.dtype)?;
        writeln!(out, "\n{}", style.dim(CITATION))?;
    }
    outcome.verdict()
}

/// Where the demo's parts are.
struct Place {
    export: PathBuf,
    /// Holds users.jsonl and popularity.json.
    data: PathBuf,
}

/// The place named, else below the current directory, else where this binary was built. An export that is named by itself
/// is shown to the demo's own users.
fn find(named: Option<&Path>) -> Result<Place, Failure> {
    let whole = |dir: &Path| {
        let there = dir.join("export").is_dir() && dir.join("users.jsonl").is_file();
        there.then(|| Place { export: dir.join("export"), data: dir.to_owned() })
    };
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join(DEMO);
    let own = || [Path::new(DEMO), &built].into_iter().find_map(whole);
    let missing = || {
        Failure::environment(format!(
            "the demo's model and data are not here: {DEMO} is part of the repository (its licence keeps it out of packages). \
             Run `sidereal demo` in a clone of the repository, or name the directory with --export"
        ))
    };
    let Some(dir) = named else { return own().ok_or_else(missing) };
    if let Some(place) = whole(dir) {
        return Ok(place);
    }
    if dir.join("sidereal.json").is_file() {
        let data = own().ok_or_else(missing)?.data;
        return Ok(Place { export: dir.to_owned(), data });
    }
    Err(Failure::environment(format!(
        "{}: is neither an export nor a directory that holds export/ and users.jsonl, such as {DEMO}",
        dir.display()
    )))
}

fn request(id: usize, user: &User) -> Request {
    let mut request = Request::new(id as u64, History::Items(ItemRefs::Ids(user.history.clone())), BEAMS, TOP);
    request.deny_history = true;
    request.user = Some(user.name.clone());
    request
}

fn print_head(engine: &Engine, line: &Line, users: &[User], style: Style, out: &mut dyn Write) -> Result<(), Failure> {
    let facts = engine.facts();
    let catalog = engine.catalog();
    let served = format!("serving {} on {}", facts.provenance.model, line.address());
    writeln!(out, "{}  {served}", style.bold(&format!("Sidereal {}", env!("CARGO_PKG_VERSION"))))?;
    let told = format!(
        "{} films, {} semantic IDs of {} levels, {} held-out users; {}, {}, {}\n",
        units::show_count(catalog.items() as u64),
        units::show_count(catalog.leaves() as u64),
        facts.levels,
        units::show_count(users.len() as u64),
        facts.provenance.device,
        facts.provenance.dtype,
        units::plural(facts.threads, "thread")
    );
    writeln!(out, "{}", style.dim(&told))?;
    Ok(())
}

/// Users that were asked for one at a time.
struct LookedAt {
    shown: Vec<Shown>,
    /// What one request takes when it is alone.
    speed: Speed,
}

/// Asks for a few users, or all, one at a time.
fn ask_some(args: &DemoArgs, line: &mut Line, users: &[User]) -> Result<LookedAt, Failure> {
    let count = if args.all { users.len() } else { users.len().min(args.users.max(1).saturating_mul(CANDIDATES)) };
    // Spread evenly over the file, always the same ones.
    let chosen: Vec<&User> = (0..count).map(|at| &users[at * users.len() / count]).collect();
    let requests = chosen.iter().enumerate().map(|(at, user)| Request { with_text: true, ..request(at, user) });
    let mut answers = Vec::with_capacity(count);
    let mut latencies = Vec::with_capacity(count);
    let bar = style::progress(count, "a few users");
    let began = Instant::now();
    line.ask(requests.collect(), 1, |_, answer, latency| {
        answers.push(answer);
        latencies.push(latency);
        bar.inc(1);
    })?;
    let speed = Speed::of(latencies, began.elapsed());
    bar.finish_and_clear();
    let mut shown = Vec::with_capacity(count);
    for (user, answer) in chosen.into_iter().zip(answers) {
        let answer = answer.map_err(|refusal| Failure::bad(format!("user {} was refused: {refusal}", user.name)))?;
        let rank = user.target.and_then(|target| rank_of(&target, measure::ranked_items(&answer)));
        shown.push(Shown { user: user.clone(), answer, rank });
    }
    Ok(LookedAt { shown, speed })
}

/// Shows a few of the users looked at, or all.
fn show(
    args: &DemoArgs,
    engine: &Engine,
    looked_at: Vec<Shown>,
    style: Style,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let count = looked_at.len();
    let shown = if args.all { looked_at } else { show::pick(looked_at, args.users) };
    for each in &shown {
        show::print(each, engine.catalog(), style, out)?;
    }
    if !args.all && !shown.is_empty() {
        let hits = shown.iter().filter(|shown| shown.rank.is_some()).count();
        let told = format!(
            "{hits} of these {} got their next film recommended: they were picked from {count} users, spread evenly, to show \
             both cases.\nHow often it happens over everybody:\n",
            shown.len()
        );
        writeln!(out, "{}", style.dim(&told))?;
    }
    Ok(())
}
