//! Flags that several subcommands share, and what they turn into.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::units;
use crate::device::Dtype;
use crate::device::cuda::Cublaslt;
use crate::schedule::{DeviceChoice, DeviceKind, EngineConfig, Limits, StoreUse};
use crate::store::StoreConfig;

/// `--device`.
fn device_kind(text: &str) -> Result<DeviceKind, String> {
    match text.split_once(':') {
        None if text == "auto" => Ok(DeviceKind::Auto),
        None if text == "cpu" => Ok(DeviceKind::Cpu),
        None if text == "cuda" => Ok(DeviceKind::Cuda(0)),
        Some(("cuda", number)) => {
            number.parse().map(DeviceKind::Cuda).map_err(|_| format!("cuda:{number}: a card's number is needed"))
        }
        _ => Err("auto, cpu, cuda and cuda:N are known".to_owned()),
    }
}

/// `--dtype`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DtypeName {
    /// 32-bit float throughout.
    #[default]
    F32,
    /// GEMM inputs and KV in bfloat16, everything else in f32.
    Bf16,
}

/// `--cublaslt`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CublasltUse {
    /// The engine's own kernels: a row's bits depend on that row alone, by construction.
    #[default]
    Off,
    /// Where the library is there.
    Auto,
    /// An error without the library.
    On,
}

/// Which device computes.
#[derive(Clone, Debug, Default, Args)]
pub struct DeviceArgs {
    /// Device that computes: auto, cpu, cuda or cuda:N; auto is the first card if there is one, else the CPU
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_parser = device_kind)]
    pub device: DeviceKind,
    /// Type of GEMM inputs and KV
    #[arg(long, value_enum, default_value_t, value_name = "TYPE")]
    pub dtype: DtypeName,
    /// Whether NVIDIA's cuBLASLt computes the products of a card's linear layers
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub cublaslt: CublasltUse,
    /// Compute threads [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Where compiled kernels are kept [default: the user's cache directory]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
}

impl DeviceArgs {
    /// The engine's terms.
    pub fn choice(&self) -> DeviceChoice {
        DeviceChoice {
            kind: self.device,
            dtype: Some(match self.dtype {
                DtypeName::F32 => Dtype::F32,
                DtypeName::Bf16 => Dtype::Bf16,
            }),
            threads: self.threads.map(usize::from),
            cublaslt: match self.cublaslt {
                CublasltUse::Off => Cublaslt::Off,
                CublasltUse::Auto => Cublaslt::Auto,
                CublasltUse::On => Cublaslt::On,
            },
            cache: self.cache_dir.clone(),
        }
    }
}

/// Bounds that memory is planned from. Every default is that of [`Limits`].
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Requests waiting or running; one more is refused OVERLOADED [default: 1024]
    #[arg(long, value_name = "N")]
    pub max_requests: Option<usize>,
    /// Requests that hold KV pages at the same time [default: 64]
    #[arg(long, value_name = "N")]
    pub max_sequences: Option<usize>,
    /// Prompt tokens of a request [default: 8192]
    #[arg(long, value_name = "N")]
    pub max_prompt_tokens: Option<usize>,
    /// Beam width of a request [default: 1024]
    #[arg(long, value_name = "N")]
    pub max_beams: Option<usize>,
    /// Tokens of one prefill batch [default: 2048]
    #[arg(long, value_name = "N")]
    pub max_prefill_tokens: Option<usize>,
    /// Beam rows of one cohort [default: 1024]
    #[arg(long, value_name = "N")]
    pub max_cohort_rows: Option<usize>,
    /// Items in a request's history, before the newest are kept [default: 20000]
    #[arg(long, value_name = "N")]
    pub max_history_items: Option<usize>,
    /// Items that one request may deny, its history included [default: 20000]
    #[arg(long, value_name = "N")]
    pub max_denied_items: Option<usize>,
    /// Semantic IDs of the longest list that a request may ask for [default: 1]
    #[arg(long, value_name = "N")]
    pub max_list_items: Option<usize>,
    /// Bytes of a text prompt, e.g. 64KiB [default: 64KiB]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub max_text_bytes: Option<usize>,
    /// Memory for history KV, e.g. 1GiB [default: 1GiB]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub kv_bytes: Option<usize>,
    /// Deadline of a request that names none, e.g. 200ms [default: 10s when serving, else the longest allowed]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub default_deadline: Option<Duration>,
    /// Longest deadline that a request may ask for [default: 600s]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_deadline: Option<Duration>,
}

fn set<T: Clone>(limit: &mut T, flag: &Option<T>) {
    if let Some(value) = flag {
        limit.clone_from(value);
    }
}

impl LimitArgs {
    /// Puts the flags that were given into `limits`.
    pub fn apply(&self, limits: &mut Limits) {
        set(&mut limits.max_requests, &self.max_requests);
        set(&mut limits.max_sequences, &self.max_sequences);
        set(&mut limits.max_prompt_tokens, &self.max_prompt_tokens);
        set(&mut limits.max_beams, &self.max_beams);
        set(&mut limits.max_prefill_tokens, &self.max_prefill_tokens);
        set(&mut limits.max_cohort_rows, &self.max_cohort_rows);
        set(&mut limits.max_history_items, &self.max_history_items);
        set(&mut limits.max_denied_items, &self.max_denied_items);
        set(&mut limits.max_list_items, &self.max_list_items);
        set(&mut limits.max_text_bytes, &self.max_text_bytes);
        set(&mut limits.kv_bytes, &self.kv_bytes);
        set(&mut limits.default_deadline, &self.default_deadline);
        set(&mut limits.max_deadline, &self.max_deadline);
    }
}

/// Everything about an engine but the export.
#[derive(Clone, Debug, Default, Args)]
pub struct EngineArgs {
    /// Catalogue to use instead of the export's own
    #[arg(long, value_name = "FILE")]
    pub catalog: Option<PathBuf>,
    /// Device, type, threads.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The instruction store.
    #[command(flatten)]
    pub store: StoreUseArgs,
    /// Bounds.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// Where the instructions of users are read from.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Instructions")]
pub struct StoreUseArgs {
    /// Store of users' instructions: a directory, or redis://HOST:PORT/DB
    #[arg(long = "instructions", value_name = "DIR|URL")]
    pub location: Option<String>,
    /// How long a request waits for the store before it goes on with the export's default [default: 5ms]
    #[arg(long = "instructions-budget", value_name = "TIME", value_parser = units::duration, requires = "location")]
    pub budget: Option<Duration>,
    /// How old an instruction may be, e.g. 15m [default: any age]
    #[arg(long = "instructions-max-age", value_name = "TIME", value_parser = units::duration, requires = "location")]
    pub max_age: Option<Duration>,
}

impl StoreUseArgs {
    fn used(&self) -> Option<StoreUse> {
        let location = self.location.as_ref()?;
        // It may be filled later: the near-line pipeline need not start first.
        let config = StoreConfig { max_age: self.max_age, create: true, ..StoreConfig::new(location) };
        Some(StoreUse { config, budget: self.budget.unwrap_or(Duration::from_millis(5)) })
    }
}

impl EngineArgs {
    /// The configuration for serving `export`.
    pub fn serving(&self, export: &Path) -> EngineConfig {
        let mut config = EngineConfig::new(export);
        config.catalog.clone_from(&self.catalog);
        config.device = self.device.choice();
        config.store = self.store.used();
        self.limits.apply(&mut config.limits);
        config
    }

    /// The configuration for offline work with `in_flight` requests at a time: nobody waits for a single answer, so no
    /// request fails for having queued unless a deadline was asked for.
    pub fn offline(&self, export: &Path, in_flight: usize) -> EngineConfig {
        let mut config = self.serving(export);
        if self.limits.default_deadline.is_none() {
            config.limits.default_deadline = config.limits.max_deadline;
        }
        if self.limits.max_requests.is_none() {
            config.limits.max_requests = config.limits.max_requests.max(in_flight + 2);
        }
        config
    }
}
