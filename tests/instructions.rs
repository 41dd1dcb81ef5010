//! The decoder's prompt from the outside: an export with instructions against the same export whose decoder begins with the
//! tokens that the instructions stand for.

mod cli_support;
mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use cli_support::sidereal;
use common::{engine, golden, prompt_request, small_limits};
use safetensors::tensor::{Dtype as SavedDtype, TensorView};
use serde_json::{Value, json};
use sidereal::device::Dtype;
use sidereal::export::Weights;
use sidereal::request::{Answer, InstructionValue, ItemRef, Origin, Ranked, Recommendation, RefusalKind, Request};
use sidereal::schedule::{DeviceChoice, DeviceKind, Engine, EngineConfig, StoreUse};
use sidereal::store::StoreConfig;

const TABLE: &str = "shared.weight";
/// Tokens whose embeddings the instructions of `with_instructions` are.
const HOME: u32 = 33;
const MOOD: u32 = 21;
const NOBODY: u32 = 9;
const NO_MOOD: u32 = 17;

/// f32 tensors by name: shape and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn tensors(export: &Path) -> Tensors {
    let weights = Weights::open(export).unwrap();
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    let read = |name: String| {
        let tensor = weights.tensor(&name).unwrap();
        (name, (tensor.shape().to_vec(), tensor.to_f32()))
    };
    names.into_iter().map(read).collect()
}

fn write(to: &Path, tensors: &Tensors) {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let saved: Vec<(&str, Vec<usize>, Vec<u8>)> =
        tensors.iter().map(|(name, (shape, values))| (name.as_str(), shape.clone(), bytes(values))).collect();
    let views = saved
        .iter()
        .map(|(name, shape, bytes)| (*name, TensorView::new(SavedDtype::F32, shape.clone(), bytes).unwrap()));
    std::fs::write(to.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The golden with another manifest, and perhaps other tensors.
fn export(manifest: impl FnOnce(&mut Value), more: impl FnOnce(&mut Tensors)) -> tempfile::TempDir {
    let (from, to) = (golden("t5-gated"), tempfile::tempdir().unwrap());
    for file in ["config.json", "items.csv"] {
        std::fs::copy(from.join(file), to.path().join(file)).unwrap();
    }
    let mut value: Value = serde_json::from_slice(&std::fs::read(from.join("sidereal.json")).unwrap()).unwrap();
    manifest(&mut value);
    std::fs::write(to.path().join("sidereal.json"), value.to_string()).unwrap();
    let mut all = tensors(&from);
    more(&mut all);
    write(to.path(), &all);
    to
}

/// The golden whose decoder begins with these tokens.
fn with_prefix(prefix: &[u32]) -> tempfile::TempDir {
    export(|manifest| manifest["decoder_prefix"] = json!(prefix), |_| {})
}

fn listed() -> Value {
    json!([
        {"name": "scenario", "source": "scenario", "ids": [7, 3], "trigger": true},
        {"name": "mood", "source": "store", "size": 3},
        {"name": "did", "source": "behaviour", "ids": [40, 50]}
    ])
}

/// Scenario 3 is HOME, without a trigger; a mood is MOOD's embedding times its first element; what did is told by id: 40 is
/// HOME, 50 is MOOD. The defaults are NOBODY, NO_MOOD, NOBODY.
fn with_instructions() -> tempfile::TempDir {
    export(|manifest| manifest["instructions"] = listed(), add_instructions)
}

fn add_instructions(all: &mut Tensors) {
    let (shape, table) = all[TABLE].clone();
    let hidden = shape[1];
    let row = |token: u32| table[token as usize * hidden..][..hidden].to_vec();
    let mut put = |name: &str, shape: &[usize], values: Vec<f32>| {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        all.insert(format!("instructions.{name}"), (shape.to_vec(), values));
    };
    for (name, token) in [("scenario", NOBODY), ("mood", NO_MOOD), ("did", NOBODY)] {
        put(&format!("{name}.default"), &[hidden], row(token));
    }
    // The fusion adds scenario and trigger, passed on in pairs: gelu(v) - gelu(-v) = v.
    put("scenario.table.weight", &[2, hidden], [row(MOOD), row(HOME)].concat());
    put("scenario.trigger_default", &[hidden], vec![0.0; hidden]);
    let (mut first, mut second) = (vec![0.0; 2 * hidden * 2 * hidden], vec![0.0; hidden * 2 * hidden]);
    for at in 0..hidden {
        for (pair, sign) in [(2 * at, 1.0), (2 * at + 1, -1.0)] {
            first[pair * 2 * hidden + at] = sign;
            first[pair * 2 * hidden + hidden + at] = sign;
            second[at * 2 * hidden + pair] = sign;
        }
    }
    put("scenario.fusion.0.weight", &[2 * hidden, 2 * hidden], first);
    put("scenario.fusion.0.bias", &[2 * hidden], vec![0.0; 2 * hidden]);
    put("scenario.fusion.1.weight", &[hidden, 2 * hidden], second);
    put("scenario.fusion.1.bias", &[hidden], vec![0.0; hidden]);
    // Of a mood only the first element counts.
    put("mood.adapter.0.weight", &[2, 3], vec![1.0, 0.0, 0.0, -1.0, 0.0, 0.0]);
    put("mood.adapter.0.bias", &[2], vec![0.0; 2]);
    let mood = row(MOOD);
    put("mood.adapter.1.weight", &[hidden, 2], mood.iter().flat_map(|value| [*value, -value]).collect());
    put("mood.adapter.1.bias", &[hidden], vec![0.0; hidden]);
    put("did.table.weight", &[2, hidden], [row(HOME), row(MOOD)].concat());
}

fn started(export: &tempfile::TempDir, threads: usize) -> Engine {
    engine(export.path(), Dtype::F32, threads, small_limits())
}

fn request(id: u64) -> Request {
    prompt_request(id, vec![11, 43, 3, 7, 20, 1], 24)
}

fn bits(answer: &Recommendation) -> Vec<(Vec<u16>, u32)> {
    answer.results.iter().map(|Ranked { sid, score, .. }| (sid.clone(), score.to_bits())).collect()
}

fn origins(answer: &Recommendation) -> Vec<(&str, Origin)> {
    answer.instructions.iter().map(|used| (used.name.as_str(), used.origin)).collect()
}

#[test]
fn defaults_are_used_and_told() {
    let answer = started(&with_instructions(), 2).recommend(request(1)).unwrap();
    let plain = started(&with_prefix(&[0, NOBODY, NO_MOOD, NOBODY]), 2).recommend(request(1)).unwrap();
    assert_eq!(bits(&answer), bits(&plain));
    let missing = ["scenario", "mood", "did"].map(|name| (name, Origin::Missing));
    assert_eq!(origins(&answer), missing);
    assert!(plain.instructions.is_empty());
}

#[test]
fn an_instruction_by_id_is_a_row_of_its_table() {
    let engine = started(&with_instructions(), 2);
    for (id, token) in [(40, HOME), (50, MOOD)] {
        let asked = Request { instructions: vec![("did".into(), InstructionValue::Id(id))], ..request(1) };
        let answer = engine.recommend(asked).unwrap();
        let plain = started(&with_prefix(&[0, NOBODY, NO_MOOD, token]), 2).recommend(request(1)).unwrap();
        assert_eq!(bits(&answer), bits(&plain), "{id}");
        assert_eq!(origins(&answer)[2], ("did", Origin::Given));
    }
}

/// The adapters and the fusion go through gelu(v) - gelu(-v) = v, which holds up to rounding.
fn assert_close(answer: &Answer, plain: &Answer) {
    let (answer, plain) = (answer.as_ref().unwrap(), plain.as_ref().unwrap());
    assert_eq!(answer.results.len(), plain.results.len());
    for (one, other) in answer.results.iter().zip(&plain.results) {
        assert_eq!(one.sid, other.sid);
        assert!((one.score - other.score).abs() < 1e-4, "{} {}", one.score, other.score);
    }
}

#[test]
fn vectors_go_through_their_adapter_and_scenarios_through_their_fusion() {
    let engine = started(&with_instructions(), 2);
    let mood = |value| ("mood".to_owned(), InstructionValue::Vector(vec![value, 5.0, -3.0]));
    let given = Request { scenario: Some(3), instructions: vec![mood(1.0)], ..request(1) };
    let answer = engine.recommend(given);
    let plain = started(&with_prefix(&[0, HOME, MOOD, NOBODY]), 2).recommend(request(1));
    assert_close(&answer, &plain);
    let expected = [("scenario", Origin::Given), ("mood", Origin::Given), ("did", Origin::Missing)];
    assert_eq!(origins(answer.as_ref().unwrap()), expected);
    // Another mood and another scenario say something else.
    for other in [
        Request { scenario: Some(3), instructions: vec![mood(-1.0)], ..request(1) },
        Request { scenario: Some(7), instructions: vec![mood(1.0)], ..request(1) },
    ] {
        assert_ne!(bits(&engine.recommend(other).unwrap()), bits(answer.as_ref().unwrap()));
    }
}

#[test]
fn a_trigger_is_the_sum_of_its_semantic_ids_embeddings() {
    let exported = with_instructions();
    let engine = started(&exported, 2);
    let catalog = engine.catalog();
    let item = engine.recommend(request(1)).unwrap().results[0].items[0].id;
    let index = catalog.item(item).unwrap();
    let mut sid = vec![0; catalog.levels()];
    catalog.sid_of_leaf(catalog.leaf_of(index), &mut sid);
    let answer = engine.recommend(Request { scenario: Some(3), trigger: Some(ItemRef::Id(item)), ..request(1) });
    // The same sum, as the default of an export that is asked for nothing.
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(exported.path().join("sidereal.json")).unwrap()).unwrap();
    let fused = export(
        |manifest| {
            manifest["instructions"] = listed();
        },
        |all| {
            add_instructions(all);
            let (shape, table) = all[TABLE].clone();
            let mut sum = table[HOME as usize * shape[1]..][..shape[1]].to_vec();
            for (level, code) in sid.iter().enumerate() {
                let token = manifest["sid"]["levels"][level]["tokens"]["list"][usize::from(*code)].as_u64().unwrap();
                let row = &table[token as usize * shape[1]..][..shape[1]];
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            all.insert("instructions.scenario.default".into(), (vec![shape[1]], sum));
        },
    );
    assert_close(&answer, &started(&fused, 2).recommend(request(1)));
    let without = engine.recommend(Request { scenario: Some(3), ..request(1) }).unwrap();
    assert_ne!(bits(answer.as_ref().unwrap()), bits(&without));
}

#[test]
fn what_stands_beside_a_request_does_not_matter() {
    let exported = with_instructions();
    let kinds = |id: u64| {
        let mut instructions = Vec::new();
        if id.is_multiple_of(2) {
            instructions.push(("mood".to_owned(), InstructionValue::Vector(vec![id as f32 * 0.1, 1.0, 2.0])));
        }
        if id.is_multiple_of(3) {
            instructions.push(("did".to_owned(), InstructionValue::Id(40 + 10 * (id % 2) as u32)));
        }
        Request { scenario: [None, Some(3), Some(7)][id as usize % 3], instructions, ..request(id) }
    };
    let alone: Vec<_> = {
        let engine = started(&exported, 1);
        (0..12).map(|id| bits(&engine.recommend(kinds(id)).unwrap())).collect()
    };
    let engine = started(&exported, 2);
    let (send, receive) = crossbeam_channel::bounded(12);
    for id in 0..12 {
        let send = send.clone();
        let done = Box::new(move |answer| send.send((id, answer)).unwrap());
        engine.submit(kinds(id), Instant::now(), Arc::new(AtomicBool::new(false)), done);
    }
    for _ in 0..12 {
        let (id, answer): (u64, Answer) = receive.recv().unwrap();
        assert_eq!(bits(&answer.unwrap()), alone[id as usize], "{id}");
    }
}

#[test]
fn wrong_instructions_are_refused_by_name() {
    let engine = started(&with_instructions(), 1);
    let given = |name: &str, value| Request { instructions: vec![(name.to_owned(), value)], ..request(1) };
    let vector = |values: &[f32]| InstructionValue::Vector(values.to_vec());
    let twice = vec![("did".to_owned(), InstructionValue::Id(40)), ("did".to_owned(), InstructionValue::Id(50))];
    let bad = RefusalKind::BadRequest;
    for (asked, kind, told) in [
        (given("moood", vector(&[0.0; 3])), bad, "it has scenario, mood, did"),
        (given("mood", vector(&[0.0; 4])), bad, "\"mood\": the vector has 4 elements; 3 are needed"),
        (given("mood", vector(&[0.0, f32::NAN, 0.0])), bad, "\"mood\": element 1 is NaN"),
        (given("mood", vector(&[0.0, 0.0, f32::INFINITY])), bad, "\"mood\": element 2 is inf"),
        (given("mood", InstructionValue::Id(1)), bad, "takes a vector, not the id 1"),
        (given("did", vector(&[1.0])), bad, "takes an id, not a vector"),
        (given("did", InstructionValue::Id(41)), bad, "\"did\": id 41 is not one of its 2"),
        (given("scenario", InstructionValue::Id(3)), bad, "follows from the request's scenario"),
        (Request { instructions: twice, ..request(1) }, bad, "\"did\" is given twice"),
        (Request { scenario: Some(4), ..request(1) }, RefusalKind::Unsupported, "scenario 4 is not one of"),
        (
            Request { scenario: Some(3), trigger: Some(ItemRef::Id(u64::MAX)), ..request(1) },
            RefusalKind::UnknownItem,
            "has no semantic ID",
        ),
        (
            Request { scenario: Some(3), trigger: Some(ItemRef::Key("a".into())), ..request(1) },
            RefusalKind::Unsupported,
            "no item keys",
        ),
    ] {
        let refusal = engine.recommend(asked).unwrap_err();
        assert!(refusal.kind == kind && refusal.message.contains(told), "{refusal}");
    }
    let plain = started(&with_prefix(&[0]), 1);
    for asked in [given("mood", vector(&[0.0; 3])), Request { trigger: Some(ItemRef::Id(1)), ..request(1) }] {
        let refusal = plain.recommend(asked).unwrap_err();
        assert!(refusal.kind == RefusalKind::Unsupported && refusal.message.contains("no instructions"), "{refusal}");
    }
    assert!(engine.recommend(request(2)).is_ok());
}

#[test]
fn a_scenario_may_require_an_instruction() {
    let exported = with_instructions();
    let scenarios = json!({"scenarios": [
        {"id": 3, "name": "home", "instructions": {"mood": "required", "did": "default"}},
        {"id": 12}
    ]});
    std::fs::write(exported.path().join("scenarios.json"), scenarios.to_string()).unwrap();
    let engine = started(&exported, 1);
    let refusal = engine.recommend(Request { scenario: Some(3), ..request(1) }).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::BadRequest);
    assert!(refusal.message.contains("\"mood\" is missing; scenario 3 (\"home\") requires it"), "{refusal}");
    let mood = vec![("mood".to_owned(), InstructionValue::Vector(vec![1.0, 0.0, 0.0]))];
    let home = engine.recommend(Request { scenario: Some(3), instructions: mood, ..request(1) }).unwrap();
    assert_eq!(home.instructions[1].origin, Origin::Given);
    // A scenario of the file that the decoder has no row for gets the default, and the reply says so.
    let twelve = engine.recommend(Request { scenario: Some(12), ..request(1) }).unwrap();
    assert_eq!(twelve.instructions[0].origin, Origin::Missing);
    // The file says which scenarios there are.
    let refusal = engine.recommend(Request { scenario: Some(7), ..request(1) }).unwrap_err();
    assert!(refusal.kind == RefusalKind::Unsupported && refusal.message.contains("scenario 7"), "{refusal}");
}

#[test]
fn the_store_gives_what_the_request_does_not() {
    let (exported, folder) = (with_instructions(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // The near-line writer is another process, before and while the server reads.
    let load = |records: &[Value]| {
        let text: String = records.iter().map(|record| format!("{record}\n")).collect();
        std::fs::write(path("records.jsonl"), text).unwrap();
        let load = ["instructions", "load", &path("records.jsonl"), "--store", &path("store"), "--name", "mood"];
        sidereal(&load).exits(0);
    };
    load(&[
        json!({"user": "u", "version": 7, "vector": [1.0, 0.0, 0.0]}),
        json!({"user": "u", "scenario": 3, "version": 8, "vector": [-1.0, 0.0, 0.0]}),
        json!({"user": "old", "created_at": 1_000_000_000_000u64, "vector": [1.0, 0.0, 0.0]}),
        json!({"user": "narrow", "vector": [1.0, 0.0]}),
    ]);
    let config = StoreConfig { max_age: Some(Duration::from_secs(3600)), ..StoreConfig::new(path("store")) };
    let device = DeviceChoice { kind: DeviceKind::Cpu, threads: Some(1), ..DeviceChoice::default() };
    let start = |exported: &tempfile::TempDir| {
        let store = Some(StoreUse { config: config.clone(), budget: Duration::from_secs(60) });
        let limits = small_limits();
        Engine::start(&EngineConfig { device: device.clone(), limits, store, ..EngineConfig::new(exported.path()) })
    };
    let engine = start(&exported).unwrap();
    let asked = |user: &str, scenario| Request { user: Some(user.into()), scenario, ..request(1) };
    let mood = |request: Request| {
        let answer = engine.recommend(request).unwrap();
        (answer.instructions[1].origin, answer.instructions[1].version, bits(&answer))
    };
    let given = |value: f32, scenario| {
        let instructions = vec![("mood".to_owned(), InstructionValue::Vector(vec![value, 0.0, 0.0]))];
        mood(Request { instructions, ..asked("u", scenario) })
    };
    let (origin, version, found) = mood(asked("u", None));
    assert_eq!((origin, version, &found), (Origin::Stored, Some(7), &given(1.0, None).2));
    // A scenario's own record comes before the user's, and the request's before both.
    let (origin, version, own) = mood(asked("u", Some(3)));
    assert_eq!((origin, version, &own), (Origin::Stored, Some(8), &given(-1.0, Some(3)).2));
    assert_eq!(given(0.5, None).0, Origin::Given);
    let defaults = mood(request(1)).2;
    for (user, origin) in [("nobody", Origin::Missing), ("old", Origin::Expired), ("narrow", Origin::Unusable)] {
        assert_eq!(mood(asked(user, None)), (origin, None, defaults.clone()), "{user}");
    }
    load(&[json!({"user": "nobody", "version": 1, "vector": [1.0, 0.0, 0.0]})]);
    assert_eq!(mood(asked("nobody", None)), (Origin::Stored, Some(1), found));
    let counts = engine.stats();
    assert_eq!((&counts["store"]["hits"], &counts["store"]["expired"]), (&json!(3), &json!(1)), "{counts}");
    let plain = start(&with_prefix(&[0])).err().expect("nothing reads the store");
    assert!(plain.to_string().contains("no instruction of this export comes from one"), "{plain}");
}

#[test]
fn an_export_that_lacks_what_its_instructions_need_does_not_load() {
    let load = |exported: &tempfile::TempDir| {
        let config = sidereal::schedule::EngineConfig::new(exported.path());
        Engine::start(&config).err().expect("it must not load").to_string()
    };
    let without = |name: &'static str| {
        export(
            |manifest| manifest["instructions"] = listed(),
            move |all| {
                add_instructions(all);
                all.remove(name).unwrap();
            },
        )
    };
    for name in [
        "instructions.mood.default",
        "instructions.mood.adapter.0.weight",
        "instructions.mood.adapter.1.bias",
        "instructions.did.table.weight",
        "instructions.scenario.fusion.1.weight",
        "instructions.scenario.trigger_default",
    ] {
        assert!(load(&without(name)).contains(name), "{name}: {}", load(&without(name)));
    }
    let narrow = export(
        |manifest| manifest["instructions"] = listed(),
        |all| {
            add_instructions(all);
            all.insert("instructions.did.table.weight".into(), (vec![2, 3], vec![0.0; 6]));
        },
    );
    let told = load(&narrow);
    assert!(told.contains("instructions.did.table.weight") && told.contains("[2, 3]"), "{told}");
}
