//! What a request may be given: a search within a view, behind delistings and bans, equals a search over a catalogue that was
//! rebuilt from what is left.

mod cli_support;
mod common;

use std::collections::BTreeSet;

use cli_support::{Copy, sidereal, sidereal_with_input};
use common::{Seeded, engine, small_limits};
use serde_json::json;
use sidereal::catalog::{Journal, View};
use sidereal::device::Dtype;
use sidereal::request::{History, ItemRefs, Request};

/// A seeded part of the items: one in `one_in`, and at least one.
fn part(items: &[u64], one_in: u64, chance: &mut Seeded) -> Vec<u64> {
    let drawn: Vec<u64> = items.iter().copied().filter(|_| chance.below(one_in) == 0).collect();
    if drawn.is_empty() { items[..1].to_vec() } else { drawn }
}

fn check(name: &str, seed: u64) {
    let mut chance = Seeded(seed);
    let export = Copy::of(name);
    let items = export.items();
    let folder = export.path("");
    let started = engine(&folder, Dtype::F32, 1, small_limits());
    let catalog = std::sync::Arc::clone(started.catalog());
    drop(started);
    // Views of nearly all items, of a fifth, and of a handful.
    let pools = [("wide", 1), ("fifth", 5), ("few", items.len() as u64 / 6)].map(|(name, one_in)| {
        let inside = part(&items, one_in, &mut chance);
        let view = View::new(name, &catalog, inside.iter().map(|id| catalog.item(*id).unwrap())).unwrap();
        view.write(&catalog, &View::path(&folder, name)).unwrap();
        (Some(name), inside)
    });
    let journal = Journal::beside(&folder);
    let delisted = part(&items, 4, &mut chance);
    journal.append(true, delisted.clone()).unwrap();
    let relisted = part(&delisted, 3, &mut chance);
    journal.append(false, relisted.clone()).unwrap();
    let delisted: BTreeSet<u64> = delisted.into_iter().filter(|item| !relisted.contains(item)).collect();

    let engine_of_all = engine(&folder, Dtype::F32, 1, small_limits());
    let vocabulary = 30;
    for (view, inside) in [(None, items.clone())].into_iter().chain(pools) {
        let denied = part(&items, 6, &mut chance);
        let allowed = |item: &u64| !delisted.contains(item) && !denied.contains(item);
        let left: BTreeSet<u64> = inside.into_iter().filter(allowed).collect();
        let tokens = (0..1 + chance.below(20)).map(|_| chance.below(vocabulary) as u32).collect();
        let mut request = Request::new(7, History::Tokens(tokens), 24, 24);
        let plain = request.clone();
        request.deny = ItemRefs::Ids(denied);
        request.view = view.map(str::to_owned);
        let found = engine_of_all.recommend(request).unwrap();
        assert!(found.provenance.catalog.ends_with("+e2"), "{}", found.provenance.catalog);
        if left.is_empty() {
            assert!(found.results.is_empty());
            continue;
        }
        let alone = Copy::with_items(name, &left);
        let expected = engine(&alone.path(""), Dtype::F32, 1, small_limits()).recommend(plain).unwrap();
        assert_eq!(found.results, expected.results, "{name}, seed {seed}, view {view:?}");
        assert!(!found.results.is_empty());
    }
}

#[test]
fn a_search_equals_one_over_a_rebuilt_catalogue() {
    for seed in 0..3 {
        for name in ["t5-small-catalog", "t5-relu", "qwen3-gqa", "qwen3-level-norm", "t5-level-norm", "t5-end-scored"] {
            check(name, seed);
        }
    }
}

/// The command line from end to end: build views, ask within them, delist, look, break, verify.
#[test]
fn views_and_delistings_on_the_command_line() {
    let export = Copy::of("t5-relu");
    let items = export.items();
    let list = |items: &[u64]| items.iter().map(u64::to_string).collect::<Vec<_>>();
    let half = list(&items[..items.len() / 2]);
    std::fs::write(export.path("half.txt"), half.join("\n")).unwrap();
    let from = export.path("half.txt");
    let view = |name: &str, more: &[&str]| {
        let all = ["catalog", "view", "build", "--catalog", export.arg(), "--name", name];
        sidereal(&[&all[..], more].concat())
    };
    let built = view("half", &["--from", from.to_str().unwrap(), "--json"]).exits(0).json();
    assert_eq!((&built["items"], &built["of"]), (&json!(half.len()), &json!(items.len())));
    view("one", &["--items", &half[0]]).exits(0).says("view \"one\", 1 of");
    view("bad", &["--items", "999999999"]).exits(1).says("1 items are not in the catalogue").says("--skip-unknown");
    view("bad", &["--items", "x"]).exits(1).says("\"x\" is no item id");
    view("a/b", &["--items", &half[0]]).exits(1).says("view name \"a/b\"");
    view("none", &[]).exits(2);

    let ask = |view: &str| {
        let line = json!({"items": [12069, 23326], "beams": 32, "top": 32, "view": view});
        let args = ["recommend", export.arg(), "--requests", "-", "--threads", "1"];
        sidereal_with_input(&args, &format!("{line}\n"))
    };
    let recommended = |view: &str| -> Vec<u64> {
        let answer = ask(view).exits(0).json_lines().remove(0);
        let results = answer["results"].as_array().unwrap().clone();
        results.iter().flat_map(|r| r["items"].as_array().unwrap()).map(|item| item.as_u64().unwrap()).collect()
    };
    assert_eq!(recommended("one"), items[..1]);
    let before = recommended("half");
    assert!(!before.is_empty() && before.iter().all(|item| half.contains(&item.to_string())));
    ask("home").says("view \\\"home\\\": this export has half, one").says("UNSUPPORTED");

    let delist = |what: &str, target: &str, items: &str| sidereal(&["catalog", what, target, "--items", items]);
    delist("delist", export.arg(), &format!("{},77", before[0]))
        .exits(0)
        .says("epoch 1, 2 items delisted")
        .says("1 of them");
    assert!(!recommended("half").contains(&before[0]));
    let told = sidereal(&["catalog", "info", export.arg(), "--json"]).exits(0).json();
    assert_eq!(told["views"][0], json!({"name": "half", "items": half.len(), "live": half.len() - 1}));
    assert_eq!((&told["journal"]["epoch"], &told["journal"]["delisted"]), (&json!(1), &json!(2)));
    assert_eq!(told["journal"]["unknown"], 1);
    sidereal(&["catalog", "info", export.arg()])
        .exits(0)
        .says("view half")
        .says("2 items (1 not in this catalogue), epoch 1");
    let journal = export.path("catalog.delist");
    delist("relist", journal.to_str().unwrap(), &before[0].to_string()).exits(0).says("epoch 2, 1 items relisted");
    assert_eq!(recommended("half"), before);

    sidereal(&["catalog", "verify", export.arg()]).exits(0);
    let intact = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, &intact[..intact.len() - 3]).unwrap();
    sidereal(&["catalog", "verify", export.arg()]).exits(1).says("cut short").says("behind record 1");
    let mut damaged = intact;
    damaged[20] ^= 1;
    std::fs::write(&journal, &damaged).unwrap();
    sidereal(&["catalog", "verify", export.arg()]).exits(1).says("where record 1 begins");
    ask("half").exits(1).says("where record 1 begins");
    std::fs::remove_file(&journal).unwrap();
    export.edit("views/one.view", |bytes| bytes[130] ^= 1);
    sidereal(&["catalog", "verify", export.arg()]).exits(1).says("one.view").says("checksum");
    ask("half").exits(1).says("one.view");
}
