//! `sidereal eval --perplexity`: how well a decoder-only checkpoint predicts texts.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::cli::measure::without_place;
use crate::cli::options::DeviceArgs;
use crate::cli::style::{self, Style};
use crate::cli::{Failure, units};
use crate::schedule::{LoadError, Teacher};

/// A line of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    tokens: Vec<u32>,
}

/// What it came to.
#[derive(Debug, Serialize)]
struct Figures {
    device: String,
    dtype: &'static str,
    threads: usize,
    texts: usize,
    /// Tokens that were scored: all but the first of each text.
    tokens: usize,
    /// Mean negative log-probability of a token, in nats.
    loss: f64,
    /// e to the loss.
    perplexity: f64,
    seconds: f64,
}

/// Runs the command.
pub fn run(checkpoint: &Path, file: &Path, device: &DeviceArgs, json: bool) -> Result<(), Failure> {
    let texts = read_texts(file)?;
    let mut teacher = Teacher::open(checkpoint, &device.choice(), texts)?;
    let began = Instant::now();
    let bar = style::progress(teacher.texts().len(), "texts");
    let (mut sum, mut tokens) = (0.0, 0);
    for index in 0..teacher.texts().len() {
        let log_probs = teacher.log_probs(index).map_err(LoadError::Device)?;
        tokens += log_probs.len();
        sum -= log_probs.iter().map(|&log_prob| f64::from(log_prob)).sum::<f64>();
        bar.inc(1);
    }
    bar.finish_and_clear();
    let (facts, loss) = (teacher.device(), sum / tokens as f64);
    let figures = Figures {
        device: facts.name.clone(),
        dtype: facts.compute.name(),
        threads: facts.threads,
        texts: teacher.texts().len(),
        tokens,
        loss,
        perplexity: loss.exp(),
        seconds: began.elapsed().as_secs_f64(),
    };
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&figures).unwrap_or_default())?;
    } else {
        figures.print(checkpoint, Style::stdout(), &mut out)?;
    }
    if loss.is_finite() {
        return Ok(());
    }
    Err(Failure::bad("the loss is not a finite number: the weights, or the way in which they are read, are broken"))
}

impl Figures {
    fn print(&self, checkpoint: &Path, style: Style, out: &mut dyn Write) -> Result<(), Failure> {
        let Figures { device, dtype, threads, texts, tokens, loss, perplexity, seconds } = self;
        let threads = units::plural(*threads, "thread");
        writeln!(out, "{}  {device}, {dtype}, {threads}\n", style.bold(&checkpoint.display().to_string()))?;
        let found = style.bold(&format!("{perplexity:.4}"));
        let (tokens, texts) = (units::plural(*tokens, "token"), units::plural(*texts, "text"));
        writeln!(out, "  perplexity  {found}   loss {loss:.5} a token, over {tokens} of {texts}")?;
        writeln!(out, "{}", style.dim(&format!("  in {seconds:.1} s")))?;
        Ok(())
    }
}

/// Reads `{"tokens":[..]}` lines.
fn read_texts(path: &Path) -> Result<Vec<Vec<u32>>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::read(path, &error))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(number, line): (usize, &str)| match serde_json::from_str::<Line>(line) {
        Ok(line) => Ok(line.tokens),
        Err(error) => Err(Failure::bad(format!("{}, line {}: {}", path.display(), number + 1, without_place(&error)))),
    };
    lines.map(read).collect()
}
