//! `sidereal eval`: ranking quality, legality and speed of an export over held-out users, or perplexity over texts.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use crate::cli::measure::{Measure, User, read_popularity, read_users};
use crate::cli::metrics::Speed;
use crate::cli::options::EngineArgs;
use crate::cli::style::{self, Style};
use crate::cli::summary::{Asked, Summary};
use crate::cli::{Failure, perplexity, window};
use crate::request::{History, ItemRefs, Request};
use crate::schedule::Engine;

/// Measure an export over held-out users: HR@K, NDCG@K, legality, latency; or perplexity over texts
///
/// Histories are JSON lines {"user":"17","items":[oldest,..,newest],"target":123}, or "keys" and a string target. Ranks
/// are of items: results in order, the items of a semantic ID in weight order. Exits with 1 if anything illegal is
/// recommended or a request is refused.
///
/// With --perplexity, texts are JSON lines {"tokens":[..]} with all tokens a model expects (a BOS too); every token but a
/// text's first is scored by a decoder-only model. Any Hugging Face directory will do: no manifest is read.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Export directory; with --perplexity, any Hugging Face directory
    pub export: PathBuf,
    /// File of histories and targets
    #[arg(long, value_name = "FILE", required_unless_present = "perplexity")]
    pub histories: Option<PathBuf>,
    /// File of texts: measure how well the model predicts them, and nothing else
    #[arg(long, value_name = "FILE", conflicts_with_all = ["histories", "beams", "top", "limit", "deny_history",
        "concurrency", "popularity", "catalog"])]
    pub perplexity: Option<PathBuf>,
    /// Beam width
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub beams: u32,
    /// Semantic IDs asked for; fewer than 10 make the figures at 10 those of fewer items
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub top: u32,
    /// Only the first N users
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Never recommend what is in the history
    #[arg(long)]
    pub deny_history: bool,
    /// Recommend from this view of the catalogue
    #[arg(long, value_name = "NAME")]
    pub view: Option<String>,
    /// Requests in flight
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,
    /// Compare with the popular items of this file, {"items":[best,..]}
    #[arg(long, value_name = "FILE")]
    pub popularity: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Device and limits.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<(), Failure> {
    if let Some(texts) = &args.perplexity {
        return perplexity::run(&args.export, texts, &args.engine.device, args.json);
    }
    let histories = args.histories.as_deref().expect("one of two flags is there: the parser requires it");
    if args.top > args.beams {
        return Err(Failure::usage(format!("--top {} is more than --beams {}", args.top, args.beams)));
    }
    let popularity = args.popularity.as_deref().map(read_popularity).transpose()?;
    let width = usize::from(args.concurrency);
    let engine = Engine::start(&args.engine.offline(&args.export, width))?;
    let users = read_users(histories, engine.catalog(), args.limit)?;
    let mut measure = Measure::new(engine.catalog(), popularity.as_deref(), args.deny_history);
    let bar = style::progress(users.len(), "users");
    let began = Instant::now();
    let requests = users.iter().enumerate().map(|(at, user)| request(at as u64, user, args));
    let ran: Result<(), Infallible> = window::run_in_order(&engine, width, requests, |at, answer, latency| {
        measure.count(&users[at], &answer, latency);
        bar.inc(1);
        Ok(())
    });
    let Ok(()) = ran;
    let elapsed = began.elapsed();
    bar.finish_and_clear();
    let mut outcome = measure.finish();
    let speed = Speed::of(std::mem::take(&mut outcome.latencies), elapsed);
    let asked = Asked { beams: args.beams, top: args.top, deny_history: args.deny_history, in_flight: width };
    let summary = Summary::of(engine.facts(), asked, &outcome, speed);
    let mut out = std::io::stdout().lock();
    if args.json {
        summary.print_json(&mut out)?;
    } else {
        let style = Style::stdout();
        summary.print_setting(style, &mut out)?;
        summary.print_figures(style, &mut out)?;
    }
    outcome.verdict()
}

fn request(id: u64, user: &User, args: &EvalArgs) -> Request {
    let mut request = Request::new(id, History::Items(ItemRefs::Ids(user.history.clone())), args.beams, args.top);
    request.deny_history = args.deny_history;
    request.view.clone_from(&args.view);
    request.user = Some(user.name.clone());
    request
}
