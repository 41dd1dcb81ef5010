//! Builds, opens and verifies catalogues, and prints seconds and bytes an item; then what a view and a delisting cost.
//!
//! `cargo bench --bench catalog_build` runs the npm-1m codes (from `$SIDEREAL_DATA`, else `../shared/data`) and ten million
//! uniform random semantic IDs of 3 x 8192 codes, without and with weights. Under `cargo test` it runs a hundredth of that,
//! so that the bench keeps working. Targets: npm-1m below 2 s, ten million below 20 s with a trie of at most 80 MB and a
//! file of at most 28 bytes an item.

use std::path::{Path, PathBuf};
use std::time::Instant;

use std::sync::Arc;

use sidereal::catalog::{
    Catalog, CatalogBuilder, Change, ItemIndex, NewItem, Snapshot, SourceOptions, View, read_source, verify,
};

fn main() {
    let full = std::env::args().any(|argument| argument == "--bench");
    let items = if full { 10_000_000 } else { 100_000 };
    println!(
        "{:<28} {:>6} {:>6} {:>7} {:>7} {:>9} {:>8} {:>10}",
        "seconds", "add", "build", "open", "verify", "trie MB", "B/item", "ban us"
    );
    let folder = std::env::var_os("SIDEREAL_DATA").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"));
    let codes = folder.join("npm-1m/codes.npy");
    if codes.is_file() {
        let info =
            measure("npm-1m", || read_source(&codes, &SourceOptions::default(), &mut |_, _| {}).expect("codes.npy"));
        assert_eq!((info.0, info.1), (1_000_000, 457_031));
    } else {
        println!("npm-1m is not in {}: skipped", folder.display());
    }
    for weights in [false, true] {
        let name = format!("{items} random, weights: {}", if weights { "yes" } else { "no" });
        let info = measure(&name, || random(items, weights));
        assert_eq!(info.0, items);
    }
}

/// Uniform semantic IDs of 3 x 8192 codes, ids scattered and in no order.
fn random(items: u64, weights: bool) -> CatalogBuilder {
    let mut builder = CatalogBuilder::new(&[8192; 3]).expect("levels");
    builder.reserve(items as usize);
    for i in 0..items {
        // SplitMix64 of the item's number: a bijection, so ids do not repeat.
        let mut z = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let id = z ^ (z >> 31);
        let sid = [(id & 8191) as u16, (id >> 13 & 8191) as u16, (id >> 26 & 8191) as u16];
        let weight = if weights { (id >> 40) as f32 } else { 0.0 };
        builder.add(NewItem { id, sid: &sid, weight, key: None, title: None }).expect("item");
    }
    builder
}

/// One line of figures; returns (items, leaves).
fn measure(name: &str, add: impl FnOnce() -> CatalogBuilder) -> (u64, u64) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("catalog.sid");
    let seconds = |since: Instant| since.elapsed().as_secs_f64();
    let start = Instant::now();
    let builder = add();
    let add_s = seconds(start);
    let start = Instant::now();
    builder.write(&path).expect("write");
    let build_s = seconds(start);
    let start = Instant::now();
    let catalog = Catalog::open(&path).expect("open");
    let open_s = seconds(start);
    let start = Instant::now();
    verify(&path).expect("verify");
    let verify_s = seconds(start);
    // A heavy request's bans: 2,000 items, all over the catalogue.
    let step = (catalog.items() / 2000).max(1);
    let mut bans: Vec<ItemIndex> = (0..2000.min(catalog.items())).map(|i| ItemIndex((i * step) as u32)).collect();
    // The first round touches the pages; the best of the others is the figure.
    let first = catalog.banned_nodes(&mut bans, None);
    let mut ban_us = f64::INFINITY;
    for _ in 0..20 {
        let start = Instant::now();
        assert_eq!(catalog.banned_nodes(&mut bans, None), first);
        ban_us = ban_us.min(seconds(start) * 1e6);
    }
    let info = catalog.info();
    let (trie_mb, bytes_per_item) = (info.trie_bytes as f64 / 1e6, info.bytes_per_item);
    println!(
        "{name:<28} {add_s:>6.2} {build_s:>6.2} {open_s:>7.3} {verify_s:>7.3} {trie_mb:>9.2} {bytes_per_item:>8.2} {ban_us:>10.0}"
    );
    delistings(&Arc::new(catalog));
    (info.items, info.leaves)
}

/// What a snapshot costs that is made beside the one that is served: with a view of every second item, then after delistings.
fn delistings(catalog: &Arc<Catalog>) {
    let timed = |what: &str, make: &dyn Fn() -> Snapshot| {
        let start = Instant::now();
        let made = make();
        println!("    {what:<44} {:>9.2} ms", start.elapsed().as_secs_f64() * 1e3);
        made
    };
    let view = || View::new("half", catalog, (0..catalog.items() as u32).step_by(2).map(ItemIndex)).expect("a name");
    let first = timed("a view of half the items, with its mask", &|| Snapshot::new(Arc::clone(catalog), vec![view()]));
    let change = |from: usize, count: usize| {
        let step = (catalog.items() / count).max(1);
        let items = catalog.ids().iter().skip(from).step_by(step).take(count).copied().collect();
        Change { delists: true, unix_ms: 0, items }
    };
    let second = timed("the first item delisted", &|| first.after(&[change(0, 1)], 1));
    let third = timed("another item", &|| second.after(&[change(1, 1)], 2));
    let fourth = timed("a thousand more", &|| third.after(&[change(2, 1000)], 3));
    let tenth = timed("a tenth of the catalogue", &|| fourth.after(&[change(3, catalog.items() / 10)], 4));
    let mask = tenth.allowed(None).expect("no view is named").expect("something is delisted").nodes();
    println!("    {:<44} {:>9.2} MB", "a mask", size_of_val(mask.words()) as f64 / 1e6);
}
