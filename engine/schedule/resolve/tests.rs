//! Hostile and odd requests.

use super::*;
use crate::catalog::{CatalogBuilder, Change, NewItem, View};
use crate::export::Manifest;
use crate::sampling::SamplingKind;
use crate::schedule::core::simulation::fakes::export;

/// No store.
const NOBODY: &LookedUp = &Vec::new();

const BOUNDS: Bounds = Bounds {
    instructions: None,
    max_prompt_tokens: 100,
    max_beams: 16,
    max_history_items: 1000,
    max_denied_items: 1000,
    vocabulary: 200,
    max_text_bytes: 50,
    max_list_items: 4,
};

fn tokens(tokens: Vec<u32>) -> Request {
    Request::new(1, History::Tokens(tokens), 8, 4)
}

fn text(text: &str) -> Request {
    Request::new(1, History::Text(text.into()), 8, 4)
}

fn items(ids: Vec<u64>) -> Request {
    Request::new(1, History::Items(ItemRefs::Ids(ids)), 8, 4)
}

/// Levels of 64 codes as the manifest has them; item 10 n + k is the k-th of three items of leaf n.
fn catalog() -> Arc<Catalog> {
    let mut builder = CatalogBuilder::new(&[64, 64, 64]).unwrap();
    for leaf in 0..40u16 {
        for k in 0..3 {
            let sid = [leaf / 8, leaf / 2 % 4, leaf % 2];
            let key = format!("key {leaf} {k}");
            let id = u64::from(leaf) * 10 + k;
            builder.add(NewItem { id, sid: &sid, weight: -(k as f32), key: Some(&key), ..NewItem::default() }).unwrap();
        }
    }
    Arc::new(builder.finish().unwrap())
}

fn everything(catalog: Arc<Catalog>) -> Arc<Snapshot> {
    Arc::new(Snapshot::new(catalog, Vec::new()))
}

fn manifest() -> &'static Manifest {
    &export(0).0
}

fn resolved(request: Request) -> Result<Resolved, Refusal> {
    check(&request, &BOUNDS)?;
    resolve(request, manifest(), &everything(catalog()), &BOUNDS, NOBODY)
}

#[test]
fn the_door_names_what_is_wrong() {
    let base = || tokens(vec![1, 2, 3]);
    let deny = |count: u64| ItemRefs::Ids((0..count).collect());
    let bad = RefusalKind::BadRequest;
    let sampling = |temperature| Some(Sampling { kind: SamplingKind::Distinct, seed: 1, temperature });
    for (request, kind, told) in [
        (Request { beams: 0, ..base() }, bad, "beams is 0"),
        (Request { beams: 17, ..base() }, bad, "beams is 17; the limit is 16"),
        (Request { beams: u32::MAX, ..base() }, bad, "the limit is 16"),
        (Request { top: 0, ..base() }, bad, "top is 0"),
        (Request { top: 9, ..base() }, bad, "top is 9; it must be 1 to beams (8)"),
        (Request { max_items_per_sid: Some(0), ..base() }, bad, "max_items_per_sid"),
        (Request { sampling: sampling(f32::NAN), ..base() }, bad, "temperature is NaN; it must be 0.01 to 100"),
        (Request { sampling: sampling(0.0), ..base() }, bad, "temperature is 0;"),
        (Request { sampling: sampling(f32::INFINITY), ..base() }, bad, "temperature is inf"),
        (tokens(vec![]), bad, "tokens is empty"),
        (text(&"\u{e9}".repeat(26)), RefusalKind::TooLong, "the text has 52 bytes; the limit is 50"),
        (Request { deny_history: true, ..text("tea") }, bad, "deny_history needs a history given as items, not text"),
        (tokens(vec![1, 200]), bad, "tokens[1] is 200; the vocabulary has 200"),
        (tokens(vec![u32::MAX]), bad, "tokens[0]"),
        (tokens(vec![1; 101]), RefusalKind::TooLong, "101 tokens; the limit is 100"),
        (Request { deny_history: true, ..base() }, bad, "deny_history"),
        (Request { deny: deny(1001), ..base() }, bad, "1001 items denied; the limit is 1000"),
        (Request { deny: deny(600), deny_history: true, ..items(vec![1; 401]) }, bad, "1001 items denied"),
        (items(vec![1; 1001]), RefusalKind::TooLong, "the history has 1001 items; the limit is 1000"),
    ] {
        let refusal = check(&request, &BOUNDS).unwrap_err();
        assert!(refusal.kind == kind && refusal.message.contains(told), "{refusal} for {told}");
    }
    for request in [tokens(vec![199; 100]), Request { deny: deny(1000), ..base() }, items(vec![1; 1000])] {
        assert_eq!(check(&request, &BOUNDS), Ok(()));
    }
    // Known only where there is no tokenizer to make tokens of it before.
    let refusal = resolved(text("tea")).unwrap_err();
    assert!(refusal.kind == RefusalKind::Unsupported && refusal.message.contains("no tokenizer.json"), "{refusal}");
}

#[test]
fn a_history_goes_through_the_template() {
    let prompt = manifest().prompt().unwrap();
    let around: Vec<u32> = [prompt.prefix(), prompt.suffix()].concat();
    let empty = resolved(items(vec![])).unwrap();
    assert_eq!((&empty.tokens, empty.unknown_items), (&around, 0));
    let unknown = resolved(items(vec![5, 999, u64::MAX])).unwrap();
    assert_eq!((&unknown.tokens, unknown.unknown_items), (&around, 3));
    let strict = resolved(Request { strict: true, ..items(vec![0, 999]) }).unwrap_err();
    assert_eq!(strict.kind, RefusalKind::UnknownItem);
    assert!(strict.message.contains("items[1] = 999"), "{strict}");
    let twice = resolved(items(vec![10, 10])).unwrap();
    assert_eq!(twice.tokens.len(), around.len() + 2 * manifest().levels().len());
    let long = resolved(items(vec![10; 33])).unwrap_err();
    assert_eq!((long.kind, long.message.contains("101 tokens")), (RefusalKind::TooLong, true), "{long}");
}

#[test]
fn the_newest_items_are_kept() {
    let bounds = Bounds { max_prompt_tokens: 10_000, ..BOUNDS };
    let most = manifest().prompt().unwrap().max_items().unwrap() as u64;
    let of = |ids: Vec<u64>| resolve(items(ids), manifest(), &everything(catalog()), &bounds, NOBODY).unwrap();
    let newest: Vec<u64> = (0..most).map(|n| n * 7 % 40 * 10).collect();
    let mut all = vec![390; 300];
    all.extend(&newest);
    assert_eq!(of(all).tokens, of(newest).tokens);
}

#[test]
fn denied_items_are_exact_whatever_the_list_looks_like() {
    let catalog = catalog();
    // One of three items of leaf 1, all of leaf 2 (twice, in disorder, among unknown ones).
    let deny = ItemRefs::Ids(vec![22, 999, 10, 21, 22, 20, u64::MAX, 10]);
    let resolved = resolved(Request { deny, deny_history: true, ..items(vec![200, 200]) }).unwrap();
    assert_eq!(resolved.denied.len(), 5);
    assert!(resolved.denied.is_sorted());
    let sid = |leaf: u32| [leaf as u16 / 8, leaf as u16 / 2 % 4, leaf as u16 % 2];
    assert_eq!(resolved.banned_nodes.last().unwrap()[..], [catalog.leaf_of_sid(&sid(2)).unwrap()]);

    let plan = crate::search::SearchPlan::new(manifest());
    let beams: Vec<_> = [1, 20, 3]
        .map(|leaf| crate::device::Beam {
            leaf: catalog.leaf_of_sid(&sid(leaf)).unwrap(),
            score: -1.0,
            ..Default::default()
        })
        .to_vec();
    let ids = |resolved: &Resolved| -> Vec<Vec<u64>> {
        let results = crate::schedule::answer::results(&beams, resolved, &plan, &resolved.snapshot);
        results.iter().map(|ranked| ranked.items.iter().map(|item| item.id).collect()).collect()
    };
    assert_eq!(ids(&resolved), [vec![11, 12], vec![201, 202], vec![30, 31, 32]]);
    // The cuts count what is allowed.
    assert_eq!(ids(&Resolved { max_items_per_sid: Some(1), top: 2, ..resolved }), [vec![11], vec![201]]);
}

#[test]
fn a_view_is_a_set_that_requests_name() {
    let catalog = catalog();
    // One item of leaf 1, two of leaf 2.
    let ids = [10, 21, 22];
    let view = View::new("home", &catalog, ids.map(|id| catalog.item(id).unwrap())).unwrap();
    let snapshot = Arc::new(Snapshot::new(Arc::clone(&catalog), vec![view, View::new("none", &catalog, []).unwrap()]));
    let within = |view: &str, deny: Vec<u64>, snapshot: &Arc<Snapshot>| {
        let request = Request { view: Some(view.into()), deny: ItemRefs::Ids(deny), ..tokens(vec![1]) };
        resolve(request, manifest(), snapshot, &BOUNDS, NOBODY)
    };
    let refusal = within("shop", vec![], &snapshot).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unsupported);
    assert_eq!(refusal.message, "view \"shop\": this export has home, none");
    let refusal = within("shop", vec![], &everything(Arc::clone(&catalog))).unwrap_err();
    assert_eq!(refusal.message, "view \"shop\": this export has no views");

    let bans = |deny: Vec<u64>, snapshot| -> Vec<usize> {
        within("home", deny, snapshot).unwrap().banned_nodes.iter().map(Vec::len).collect()
    };
    // What is not in the view does not keep a leaf: exact bans count what is left.
    assert_eq!(bans(vec![21], &snapshot), [0, 0, 0]);
    assert_eq!(bans(vec![21, 22], &snapshot), [0, 1, 1]);
    assert_eq!(bans(vec![10, 21, 22, 200], &snapshot), [1, 2, 2]);
    let delisted = snapshot.after(&[Change { delists: true, unix_ms: 0, items: vec![21] }], 1);
    assert_eq!(bans(vec![22], &Arc::new(delisted)), [0, 1, 1]);
}

/// In a list, a semantic ID that was emptied meanwhile keeps its place: the list was scored with it.
#[test]
fn an_emptied_entry_keeps_its_place_in_a_list() {
    let catalog = catalog();
    let before = everything(Arc::clone(&catalog));
    let request = Request { top: 2, list: Some(2), ..tokens(vec![1]) };
    let resolved = resolve(request, manifest(), &before, &BOUNDS, NOBODY).unwrap();
    assert_eq!((resolved.items(), resolved.search_rows()), (2, 16));
    let plan = crate::search::SearchPlan::new(manifest()).with_lists(2);
    let leaf = |item| catalog.leaf_of(catalog.item(item).unwrap());
    let beams = [(10, 20), (20, 21), (20, 30)].map(|(first, last)| crate::device::Beam {
        leaf: leaf(last),
        earlier: vec![leaf(first)],
        score: -1.0,
        ..Default::default()
    });
    let delisted = Change { delists: true, unix_ms: 0, items: vec![20, 21, 22] };
    let newest = before.after(&[delisted], 1);
    let results = crate::schedule::answer::results(&beams, &resolved, &plan, &newest);
    let ids = |entry: &crate::request::Entry| entry.items.iter().map(|item| item.id).collect::<Vec<_>>();
    let ids: Vec<Vec<Vec<u64>>> = results.iter().map(|ranked| ranked.list.iter().map(ids).collect()).collect();
    // Of the second, nothing is left: it makes room.
    assert_eq!(ids, [[vec![10, 11, 12], vec![]], [vec![], vec![30, 31, 32]]]);
    assert_eq!(results[0].list[1].sid, results[1].list[0].sid, "what it was is still told");
}

/// Pinned before, answered after: what was delisted in between is not in the reply, and the next semantic ID is.
#[test]
fn the_newest_journal_has_the_last_word() {
    let catalog = catalog();
    let before = everything(Arc::clone(&catalog));
    let resolved = resolve(Request { top: 2, ..tokens(vec![1]) }, manifest(), &before, &BOUNDS, NOBODY).unwrap();
    let plan = crate::search::SearchPlan::new(manifest());
    let leaf = |item| catalog.leaf_of(catalog.item(item).unwrap());
    let beams = [10, 20, 30].map(|item| crate::device::Beam {
        leaf: leaf(item),
        earlier: Vec::new(),
        score: -1.0,
        key: None,
        log_probs: Vec::new(),
    });
    let delist = |items: &[u64]| Change { delists: true, unix_ms: 0, items: items.to_vec() };
    let newest = before.after(&[delist(&[10, 11, 12, 20, 77_777])], 1);
    let results = crate::schedule::answer::results(&beams, &resolved, &plan, &newest);
    let ids: Vec<Vec<u64>> = results.iter().map(|r| r.items.iter().map(|item| item.id).collect()).collect();
    assert_eq!(ids, [vec![21, 22], vec![30, 31, 32]]);
    assert_eq!((newest.version(), newest.delisted()), (format!("{}+e1", catalog.version()), 5));
    // In a history, delisted items still resolve.
    let history = resolve(items(vec![10, 20]), manifest(), &Arc::new(newest), &BOUNDS, NOBODY).unwrap();
    assert_eq!((history.unknown_items, history.tokens), (0, resolved_tokens(vec![10, 20])));
}

fn resolved_tokens(ids: Vec<u64>) -> Vec<u32> {
    resolved(items(ids)).unwrap().tokens
}

#[test]
fn everything_may_be_denied() {
    let every = |leaf: u64| [leaf * 10, leaf * 10 + 1, leaf * 10 + 2];
    let deny = ItemRefs::Ids((0..40).flat_map(every).collect());
    let resolved = resolved(Request { deny, ..tokens(vec![1]) }).unwrap();
    assert_eq!(resolved.banned_nodes.iter().map(Vec::len).collect::<Vec<_>>(), [5, 20, 40]);
}

/// Every key was unknown to a catalogue without keys, so a deny list of keys was ignored in silence.
#[test]
fn keys_need_a_catalogue_that_has_them() {
    let keys = || ItemRefs::Keys(vec!["key 2 0".into(), "key 2 1".into(), "key 2 2".into()]);
    let by_key = Request { deny: keys(), ..tokens(vec![1]) };
    assert_eq!(resolved(by_key.clone()).unwrap().banned_nodes[2].len(), 1);
    let (manifest, without_keys) = export(0);
    let history = Request { history: History::Items(keys()), ..tokens(vec![1]) };
    for request in [by_key, history] {
        let refusal = resolve(request, manifest, &everything(Arc::clone(without_keys)), &BOUNDS, NOBODY).unwrap_err();
        assert!(refusal.kind == RefusalKind::Unsupported && refusal.message.contains("keys"), "{refusal}");
    }
    let none = Request { deny: ItemRefs::Keys(vec![]), ..tokens(vec![1]) };
    assert!(resolve(none, manifest, &everything(Arc::clone(without_keys)), &BOUNDS, NOBODY).is_ok());
}
