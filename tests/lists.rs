//! Lists of semantic IDs as a caller sees them: nothing twice, scores that add up, the same bits in any company.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use common::{Seeded, demo_export, engine, golden, prompt_request, small_limits};
use sidereal::client::{Client, ClientOptions};
use sidereal::device::Dtype;
use sidereal::export::Manifest;
use sidereal::request::{Entry, Item, ItemRefs, Ranked, Recommendation, RefusalKind, Request};
use sidereal::sampling::{Sampling, SamplingKind};
use sidereal::schedule::{Engine, Limits};
use sidereal::serve::{Server, ServerConfig, Service};

const PROMPT: [u32; 4] = [5, 9, 14, 7];

fn limits() -> Limits {
    Limits { max_list_items: 32, ..small_limits() }
}

fn open(name: &str) -> Engine {
    engine(&golden(name), Dtype::F32, 2, limits())
}

/// A request for `beams` lists of `items` semantic IDs.
fn lists(id: u64, items: u32, beams: u32) -> Request {
    Request { list: Some(items), log_probs: true, ..prompt_request(id, PROMPT.to_vec(), beams) }
}

fn ids(items: &[Item]) -> Vec<u64> {
    items.iter().map(|item| item.id).collect()
}

/// Checks what holds of every list, and gives its semantic IDs.
fn check(ranked: &Ranked, items: usize) -> Vec<Vec<u16>> {
    assert!(ranked.sid.is_empty() && ranked.items.is_empty() && ranked.key.is_none());
    let sids: Vec<Vec<u16>> = ranked.list.iter().map(|entry| entry.sid.clone()).collect();
    assert_eq!(sids.len(), items);
    assert_eq!(sids.iter().collect::<BTreeSet<_>>().len(), items, "a semantic ID twice: {sids:?}");
    let shown: Vec<u64> = ranked.list.iter().flat_map(|entry| ids(&entry.items)).collect();
    assert!(ranked.list.iter().all(|entry| !entry.items.is_empty()));
    assert_eq!(shown.iter().collect::<BTreeSet<_>>().len(), shown.len(), "an item twice: {shown:?}");
    sids
}

#[test]
fn log_probabilities_of_a_list_add_up_to_its_score() {
    // (export, levels, scored end tokens, length penalty)
    for (name, levels, end, penalty) in [
        ("qwen3-gqa", 3, 0, 0.0),
        ("qwen3-mask-norm", 4, 0, 1.0),
        ("t5-end-penalty", 3, 2, 1.0),
        ("t5-mask-norm", 3, 0, 0.0f32),
    ] {
        let engine = open(name);
        let independent = Sampling { kind: SamplingKind::Independent, seed: 11, temperature: 1.0 };
        for (items, sampling) in [(1, None), (3, None), (5, None), (4, Some(independent))] {
            let request = Request { sampling, ..lists(1, items, 24) };
            let results = engine.recommend(request.clone()).unwrap().results;
            assert_eq!(results.len(), 24, "{name}");
            let mut found = BTreeSet::new();
            for ranked in &results {
                found.insert(check(ranked, items as usize));
                let steps = levels * items as usize + end;
                assert_eq!(ranked.log_probs.len(), steps, "{name}");
                let sum: f32 = ranked.log_probs.iter().map(|of| of.raw).sum();
                let score = sum / (steps as f32).powf(penalty);
                assert!((score - ranked.score).abs() < 1e-4, "{name}: {score} and not {}", ranked.score);
            }
            match sampling {
                None => {
                    assert_eq!(found.len(), 24, "{name}: two beams are never one list");
                    assert!(results.is_sorted_by(|a, b| a.score >= b.score), "{name}");
                }
                Some(of) => {
                    assert_eq!(engine.recommend(request.clone()).unwrap().results, results, "{name}");
                    let other = Some(Sampling { seed: 12, ..of });
                    assert_ne!(engine.recommend(Request { sampling: other, ..request }).unwrap().results, results);
                }
            }
        }
    }
}

#[test]
fn a_list_of_one_is_the_plain_search() {
    for name in ["qwen3-gqa", "t5-end-penalty"] {
        let engine = open(name);
        let plain = Request { list: None, ..lists(1, 1, 40) };
        let plain = engine.recommend(plain).unwrap().results;
        let lists = engine.recommend(lists(1, 1, 40)).unwrap().results;
        let as_list = |ranked: &Ranked| {
            let Ranked { sid, items, .. } = ranked.clone();
            Ranked { sid: vec![], items: vec![], list: vec![Entry { sid, items }], ..ranked.clone() }
        };
        assert_eq!(lists, plain.iter().map(as_list).collect::<Vec<_>>(), "{name}");
    }
}

/// With one beam, each semantic ID of a list is what a plain search finds behind the tokens of those before, when they are denied.
#[test]
fn a_list_goes_on_behind_its_own_tokens() {
    for name in ["qwen3-gqa", "qwen3-mask-norm", "llama-biases"] {
        let engine = open(name);
        let manifest = Manifest::open(&golden(name).join("sidereal.json")).unwrap();
        let end = manifest.scored_end().len();
        let list = engine.recommend(lists(1, 4, 1)).unwrap().results.remove(0);
        let sids = check(&list, 4);
        let (mut tokens, mut denied) = (PROMPT.to_vec(), Vec::new());
        for (at, entry) in list.list.iter().enumerate() {
            let deny = ItemRefs::Ids(denied.clone());
            let request = Request { deny, log_probs: true, ..prompt_request(2, tokens.clone(), 1) };
            let found = engine.recommend(request).unwrap().results.remove(0);
            assert_eq!((&found.sid, ids(&found.items)), (&sids[at], ids(&entry.items)), "{name}: semantic ID {at}");
            let levels = found.sid.len();
            assert_eq!(found.log_probs.len(), levels + end);
            for (level, of) in found.log_probs[..levels].iter().enumerate() {
                let in_list = list.log_probs[at * levels + level].raw;
                assert!((of.raw - in_list).abs() < 1e-4, "{name}: {in_list} and not {} at {at}, {level}", of.raw);
            }
            denied.extend(ids(&found.items));
            tokens.extend((0..levels).map(|level| manifest.level_tokens(level)[usize::from(found.sid[level])]));
        }
    }
}

#[test]
fn denied_items_are_in_no_list() {
    let engine = open("t5-relu");
    let first = engine.recommend(lists(1, 3, 16)).unwrap().results;
    let denied: Vec<u64> = first.iter().flat_map(|ranked| ids(&ranked.list[0].items)).collect();
    let deny = ItemRefs::Ids(denied.clone());
    let results = engine.recommend(Request { deny, ..lists(1, 3, 16) }).unwrap().results;
    assert_eq!(results.len(), 16);
    for ranked in &results {
        check(ranked, 3);
        assert!(ranked.every_item().all(|item| !denied.contains(&item.id)));
    }
}

#[test]
fn a_catalogue_that_runs_out_gives_no_list_and_repeats_nothing() {
    let engine = open("t5-small-catalog");
    let leaves = engine.catalog().leaves();
    assert!((3..32).contains(&leaves), "{leaves} leaves");
    // Every list is then an arrangement of the whole catalogue.
    let whole = engine.recommend(lists(1, leaves as u32, 32)).unwrap().results;
    assert_eq!(whole.len(), 32);
    whole.iter().for_each(|ranked| drop(check(ranked, leaves)));
    assert_eq!(engine.recommend(lists(2, leaves as u32 + 1, 32)).unwrap().results, []);
    // Two semantic IDs are left: two lists of two, and none of three.
    let keep = ids(&whole[0].list[0].items).into_iter().chain(ids(&whole[0].list[1].items)).collect::<BTreeSet<_>>();
    let others = engine.catalog().ids().iter().copied().filter(|id| !keep.contains(id)).collect();
    let deny = ItemRefs::Ids(others);
    let count = |items| engine.recommend(Request { deny: deny.clone(), ..lists(3, items, 16) }).unwrap().results.len();
    assert_eq!((count(1), count(2), count(3)), (2, 2, 0));
}

#[test]
fn what_is_not_offered_is_refused_by_name() {
    let engine = engine(&golden("t5-relu"), Dtype::F32, 1, Limits { max_list_items: 3, ..small_limits() });
    let refusal = |request| engine.recommend(request).unwrap_err();
    for items in [0, 4, u32::MAX] {
        let refused = refusal(lists(1, items, 8));
        assert_eq!(refused.kind, RefusalKind::BadRequest);
        assert!(refused.message.contains(&format!("list is {items}; it must be 1 to 3")), "{refused}");
    }
    let sampling = Some(Sampling { kind: SamplingKind::Distinct, seed: 1, temperature: 1.0 });
    let refused = refusal(Request { sampling, ..lists(1, 2, 8) });
    assert_eq!(refused.kind, RefusalKind::Unsupported);
    assert!(refused.message.contains("distinct"), "{refused}");
}

/// Plain requests and lists of several lengths, with prompts and widths of their own.
fn mixed(vocabulary: u64, count: u64) -> Vec<Request> {
    let mut seeded = Seeded(5);
    let request = |id| {
        let tokens = (0..=seeded.below(100)).map(|_| seeded.below(vocabulary) as u32).collect();
        let beams = [1, 7, 32, 100][seeded.below(4) as usize];
        let kind = (id % 5 == 4).then_some(SamplingKind::Independent);
        let sampling = kind.map(|kind| Sampling { kind, seed: id, temperature: 0.8 });
        let list = [None, Some(1), Some(2), Some(4)][id as usize % 4];
        Request { list, sampling, log_probs: true, ..prompt_request(id, tokens, beams) }
    };
    (0..count).map(request).collect()
}

/// The part of an answer that must not change, floats as bits.
fn bits(answer: &Recommendation) -> Vec<(Vec<Entry>, Vec<u32>)> {
    let of = |ranked: &Ranked| {
        let plain = Entry { sid: ranked.sid.clone(), items: ranked.items.clone() };
        let floats = ranked.log_probs.iter().flat_map(|of| [of.behaviour, of.raw]).chain([ranked.score]);
        ([&[plain], &ranked.list[..]].concat(), floats.map(f32::to_bits).collect())
    };
    answer.results.iter().map(of).collect()
}

#[test]
fn lists_do_not_depend_on_their_company() {
    for (name, vocabulary, dtype) in [("qwen3-gqa", 200, Dtype::F32), ("t5-gated", 80, Dtype::Bf16)] {
        let requests = mixed(vocabulary, 20);
        let alone: Vec<_> = {
            let engine = engine(&golden(name), dtype, 1, limits());
            requests.iter().map(|request| bits(&engine.recommend(request.clone()).unwrap())).collect()
        };
        // Where no list is planned for, plain requests find the same.
        let plain = engine(&golden(name), dtype, 2, small_limits());
        for (request, alone) in requests.iter().zip(&alone).filter(|(request, _)| request.list.is_none()) {
            assert_eq!(&bits(&plain.recommend(request.clone()).unwrap()), alone, "{name}: request {}", request.id);
        }
        let engine = engine(&golden(name), dtype, 2, limits());
        let (send, receive) = crossbeam_channel::bounded(requests.len());
        for request in &requests {
            let send = send.clone();
            let done = Box::new(move |answer: sidereal::request::Answer| send.send(answer.unwrap()).unwrap());
            engine.submit(request.clone(), Instant::now(), Arc::new(AtomicBool::new(false)), done);
        }
        for _ in &requests {
            let answer = receive.recv().unwrap();
            assert_eq!(bits(&answer), alone[answer.id as usize], "{name}: request {}", answer.id);
        }
        let stats = engine.stats();
        let (searched, cohorts) = (stats["cohort_requests"].as_u64().unwrap(), stats["cohorts"].as_u64().unwrap());
        assert!(searched > cohorts, "requests were never batched: {stats}");
    }
}

#[test]
fn lists_over_the_socket() {
    let requests = mixed(80, 12);
    let engine = Arc::new(engine(&golden("t5-gated"), Dtype::F32, 2, limits()));
    let alone: Vec<_> = requests.iter().map(|request| engine.recommend(request.clone()).unwrap()).collect();
    let config = ServerConfig::new(vec!["127.0.0.1:0".parse().unwrap()]);
    let server = Server::start(config, Arc::clone(&engine) as Arc<dyn Service>).unwrap();
    let mut client = Client::connect(&server.addresses()[0], &ClientOptions::default()).unwrap();
    requests.iter().for_each(|request| client.send(request).unwrap());
    for _ in &requests {
        let (id, answer) = client.receive().unwrap();
        let (answer, request) = (answer.unwrap(), &requests[id as usize]);
        assert_eq!(bits(&answer), bits(&alone[id as usize]), "request {id}");
        let items = request.list.unwrap_or(0) as usize;
        assert!(!answer.results.is_empty() && answer.results.iter().all(|ranked| ranked.list.len() == items));
    }
}

/// The widest output that production asks for: 512 beams, and every one of them shown.
#[test]
fn five_hundred_and_twelve_semantic_ids_are_shown() {
    let limits = Limits { max_beams: 512, max_cohort_rows: 512, max_list_items: 2, ..small_limits() };
    let engine = engine(&demo_export(), Dtype::F32, 2, limits);
    assert!(engine.catalog().leaves() >= 512);
    let answer = engine.recommend(prompt_request(1, PROMPT.to_vec(), 512)).unwrap();
    let sids: BTreeSet<_> = answer.results.iter().map(|ranked| &ranked.sid).collect();
    assert_eq!((answer.results.len(), sids.len()), (512, 512));
    assert!(answer.results.is_sorted_by(|a, b| a.score >= b.score));
    let pairs = engine.recommend(lists(2, 2, 512)).unwrap().results;
    assert_eq!(pairs.len(), 512);
    pairs.iter().for_each(|ranked| drop(check(ranked, 2)));
}
