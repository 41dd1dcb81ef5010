//! `sidereal instructions load`: a file of records into a store.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;

use super::StoreArgs;
use crate::cli::style::{self, Style};
use crate::cli::{Failure, units};
use crate::export::WeightDtype;
use crate::store::Store;
use crate::store::load::{BadRecord, LoadFormat, LoadOptions, Watcher, load};

/// Bad records that are told one by one.
const MOST_TOLD: u64 = 20;

/// Load records from a file; those with a key that is there replace it
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// File of records
    pub file: PathBuf,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Name of the instruction, where a record does not say
    #[arg(long, value_name = "NAME", default_value = "reasoning")]
    pub name: String,
    /// Format of the file [default: told from the file]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<FormatName>,
    /// Version, where a record does not say
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub version: u64,
    /// When records were made, in milliseconds since 1970, where they do not say [default: now]
    #[arg(long, value_name = "MS")]
    pub created_at: Option<u64>,
    /// What elements are stored as [default: as in a binary file; f16 otherwise]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub dtype: Option<DtypeName>,
    /// Elements that every vector must have [default: any]
    #[arg(long, value_name = "N")]
    pub size: Option<usize>,
    /// Most records of one commit
    #[arg(long, value_name = "N", default_value_t = 1 << 16, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub batch: u32,
    /// When a store in Redis forgets the records again, e.g. 1h [default: never]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub ttl: Option<Duration>,
    /// End at the first bad record
    #[arg(long)]
    pub strict: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Format of a file of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatName {
    /// Safetensors with vectors, users and user_offsets
    Binary,
    /// {"user":"u1","scenario":1,"name":"..","version":5,"created_at":..,"vector":[..]} a line
    Jsonl,
}

/// Type of stored elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeName {
    /// 32-bit float
    F32,
    /// IEEE half
    F16,
    /// bfloat16
    Bf16,
}

impl From<DtypeName> for WeightDtype {
    fn from(name: DtypeName) -> WeightDtype {
        match name {
            DtypeName::F32 => WeightDtype::F32,
            DtypeName::F16 => WeightDtype::F16,
            DtypeName::Bf16 => WeightDtype::Bf16,
        }
    }
}

struct Told {
    bar: ProgressBar,
    bad: u64,
}

impl Watcher for Told {
    fn progress(&mut self, done: u64, total: u64) {
        self.bar.set_length(total.max(done));
        self.bar.set_position(done);
    }

    fn bad(&mut self, unit: &'static str, bad: BadRecord) {
        self.bad += 1;
        if self.bad > MOST_TOLD {
            return;
        }
        let more = if self.bad == MOST_TOLD { "; further bad records are only counted" } else { "" };
        self.bar.suspend(|| {
            // Where even stderr is gone there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "sidereal: {unit} {}: {}{more}", bad.place, bad.reason);
        });
    }
}

/// Runs the command: exit code 1 if the file has records and none could be used.
pub(super) fn run(args: &LoadArgs) -> Result<(), Failure> {
    let began = Instant::now();
    let mut options = LoadOptions::new(&*args.name);
    options.format = args.format.map(|format| match format {
        FormatName::Binary => LoadFormat::Binary,
        FormatName::Jsonl => LoadFormat::JsonLines,
    });
    options.version = args.version;
    options.created_at_ms = args.created_at.unwrap_or(options.created_at_ms);
    options.dtype = args.dtype.map(WeightDtype::from);
    options.size = args.size;
    options.batch = args.batch as usize;
    options.strict = args.strict;
    options.ttl = args.ttl;
    // A file that is not there makes no store.
    if let Err(error) = std::fs::metadata(&args.file) {
        return Err(Failure::read(&args.file, &error));
    }
    let store = Store::open(&args.store.config(true))?;
    let mut told = Told { bar: style::progress(0, "loading"), bad: 0 };
    let loaded = load(&args.file, &store, &options, &mut told);
    told.bar.finish_and_clear();
    let report = loaded?;
    let seconds = began.elapsed().as_secs_f64();
    let mut out = std::io::stdout().lock();
    if args.json {
        let said = serde_json::json!({
            "store": store.location(), "records": report.records, "bad": report.bad, "batches": report.batches,
            "bytes": report.bytes, "seconds": seconds,
        });
        writeln!(out, "{said}")?;
    } else {
        let [records, per_second] =
            [report.records, (report.records as f64 / seconds.max(1e-9)) as u64].map(units::show_count);
        let bytes = units::show_bytes(report.bytes as usize);
        writeln!(out, "{}: {records} records, {bytes}, in {seconds:.2} s ({per_second} a second)", store.location())?;
        if report.bad > 0 {
            let left_out = format!("{} records are bad and were left out", units::show_count(report.bad));
            writeln!(out, "{}", Style::stdout().bad(&left_out))?;
        }
    }
    if report.records == 0 && report.bad > 0 { Err(Failure::already_said()) } else { Ok(()) }
}
