//! What this card can do at most, measured first: everything else is given in percent of it.

use serde_json::json;

use super::work::Ceilings;
use crate::card::Card;
use crate::error::{CheckError, at};
use crate::probe::Launch;
use crate::report::{Section, Table, Verdict};
use crate::setting::Setting;
use crate::statistics::Summary;

/// Where the parts that come later find them.
const FILE: &str = "ceilings.json";
const REPEATS: usize = 30;

/// Sizes of the measurements.
struct Sizes {
    copy_bytes: usize,
    rounds: u32,
    blocks_a_multiprocessor: u32,
}

const FULL: Sizes = Sizes { copy_bytes: 1 << 30, rounds: 4096, blocks_a_multiprocessor: 2 };
const REHEARSED: Sizes = Sizes { copy_bytes: 1 << 16, rounds: 2, blocks_a_multiprocessor: 0 };

/// Threads of a block of the loops in probes/ceilings.cu.
const THREADS: u32 = 256;

/// Measures and keeps them.
pub fn section(setting: &Setting) -> Result<Section, CheckError> {
    setting.load_driver()?;
    let mut card = Card::open()?;
    let sizes = if setting.is_rehearsal { REHEARSED } else { FULL };
    let repeats = if setting.is_rehearsal { 2 } else { REPEATS };
    let blocks = (card.multiprocessors() * sizes.blocks_a_multiprocessor).max(1);
    let launch =
        |kernel| Launch { module: "ceilings", kernel, blocks, threads: THREADS, shared: 0, count: sizes.rounds };
    let warps = f64::from(blocks * THREADS / 32);
    let rounds = f64::from(sizes.rounds);
    let copy = Summary::of(card.time_copy(sizes.copy_bytes, repeats)?.into_iter().map(f64::from));
    let mma = Summary::of(card.time_kernel(&launch("mma_bf16_ceiling"), repeats)?.into_iter().map(f64::from));
    let fma = Summary::of(card.time_kernel(&launch("fma_f32_ceiling"), repeats)?.into_iter().map(f64::from));
    let mut table = Table::new("ceilings", &["what", "amount", "median_ms", "spread_pct", "rate a second"]);
    let mut rate = |what: &str, amount: f64, summary: Option<Summary>| {
        let summary = summary.ok_or_else(|| CheckError::Answer(format!("{what}: nothing was timed")))?;
        let rate = amount / (summary.median.max(f64::MIN_POSITIVE) / 1e3);
        table.rows.push(vec![
            json!(what),
            json!(amount),
            json!(summary.median),
            json!(summary.spread_pct()),
            json!(rate),
        ]);
        Ok::<f64, CheckError>(rate)
    };
    let ceilings = Ceilings {
        copy: rate("copy on the card, bytes read and written", 2.0 * sizes.copy_bytes as f64, copy)?,
        mma: rate("mma.sync m16n8k16 bf16 on registers, operations", warps * rounds * 65_536.0, mma)?,
        fma: rate("f32 multiply-adds on registers, operations", warps * rounds * 32.0 * 64.0, fma)?,
    };
    keep(setting, &ceilings)?;
    let mut section = Section::new("ceilings of the card", Verdict::Measured);
    section.tables.push(table);
    section.notes.push(
        "The rate of products is that of `mma.sync`, which the sm_80 path uses; Hopper's `wgmma` goes higher (800 TFLOP/s is \
         what the targets' floors assume)."
            .to_owned(),
    );
    Ok(section)
}

fn keep(setting: &Setting, ceilings: &Ceilings) -> Result<(), CheckError> {
    let path = setting.scratch.join(FILE);
    let text = serde_json::to_string(ceilings).map_err(|error| CheckError::Answer(error.to_string()))?;
    std::fs::write(&path, text).map_err(at(&path))
}

/// Those that were measured before.
pub fn read(setting: &Setting) -> Result<Ceilings, CheckError> {
    let path = setting.scratch.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(at(&path))?;
    serde_json::from_str(&text).map_err(|error| CheckError::Answer(format!("{}: {error}", path.display())))
}
