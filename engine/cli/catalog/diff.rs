//! `sidereal catalog diff`: what changed between two catalogue files.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::catalog::{Catalog, CatalogDiff, DiffSide, diff};
use crate::cli::style::{self, Style};
use crate::cli::{Failure, units};

/// Flags of `catalog diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The first catalogue file, usually the older
    pub a: PathBuf,
    /// The second
    pub b: PathBuf,
    /// How many changes of each kind to name
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub examples: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Runs the command: exit code 0 when both say the same, 1 when not.
pub fn run(args: &DiffArgs) -> Result<(), Failure> {
    let waiting = style::spinner("comparing");
    let opened = Catalog::open(&args.a).and_then(|a| Ok((a, Catalog::open(&args.b)?)));
    let compared = opened.map(|(a, b)| diff(&a, &b, args.examples as usize));
    waiting.finish_and_clear();
    let compared = compared?;
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &compared).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&mut out, &compared)?;
    }
    if compared.same { Ok(()) } else { Err(Failure::already_said()) }
}

fn print(out: &mut impl Write, diff: &CatalogDiff) -> std::io::Result<()> {
    let style = Style::stdout();
    let mut row = |name: &str, value: String| writeln!(out, "  {} {value}", style.dim(&format!("{name:<14}")));
    row("first", side(&diff.a))?;
    row("second", side(&diff.b))?;
    let (items, sids) = (&diff.items, &diff.sids);
    let mut counts = vec![
        (items.shared, "in both"),
        (items.added, "added"),
        (items.removed, "removed"),
        (items.moved, "moved to another semantic ID"),
    ];
    let details = [
        (items.weight_changed, "of another weight"),
        (items.key_changed, "of another key"),
        (items.title_changed, "of another title"),
    ];
    counts.extend(details.into_iter().filter(|(count, _)| *count > 0));
    row("items", listed(&counts))?;
    row(
        "semantic IDs",
        listed(&[
            (sids.shared, "in both"),
            (sids.added, "added"),
            (sids.removed, "removed"),
            (sids.reordered, "with items in another order"),
        ]),
    )?;
    for (level, prefixes) in diff.prefixes.iter().enumerate() {
        let all = prefixes.a + prefixes.b - prefixes.shared;
        let percent = 100.0 * prefixes.shared as f64 / all.max(1) as f64;
        let [first, second, shared] = [prefixes.a, prefixes.b, prefixes.shared].map(units::show_count);
        row(&format!("level {level}"), format!("{first} and {second} prefixes, {shared} in both ({percent:.1}%)"))?;
    }
    let told = &diff.examples;
    let moved = told.moved.iter().map(|moved| format!("{} {:?} -> {:?}", moved.item, moved.from, moved.to)).collect();
    let examples = [
        ("added", items.added, strings(&told.added)),
        ("removed", items.removed, strings(&told.removed)),
        ("moved", items.moved, moved),
        ("other weight", items.weight_changed, strings(&told.weight_changed)),
        ("other order", sids.reordered, told.reordered.iter().map(|sid| format!("{sid:?}")).collect()),
    ];
    for (name, count, shown) in examples.into_iter().filter(|(_, _, shown)| !shown.is_empty()) {
        let rest = if count > shown.len() as u64 { ", .." } else { "" };
        row(name, format!("{}{rest}", shown.join(", ")))?;
    }
    writeln!(out, "{}", if diff.same { style.good("the same") } else { style.note("different") })
}

fn side(side: &DiffSide) -> String {
    let [items, sids] = [side.items, side.semantic_ids].map(units::show_count);
    let (path, version) = (side.path.display(), &side.version);
    format!("{path}, version {version}: {items} items, {sids} semantic IDs, codes {:?}", side.codes)
}

fn listed(counts: &[(u64, &str)]) -> String {
    let parts: Vec<String> =
        counts.iter().map(|(count, what)| format!("{} {what}", units::show_count(*count))).collect();
    parts.join(", ")
}

fn strings(ids: &[u64]) -> Vec<String> {
    ids.iter().map(u64::to_string).collect()
}
