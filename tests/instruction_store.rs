//! The instruction store: `sidereal instructions` as a user meets it, what a look-up makes of every kind of record, and loads that
//! are killed.

mod cli_support;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cli_support::{command, sidereal};
use half::f16;
use serde_json::{Value, json};
use sidereal::export::WeightDtype;
use sidereal::store::{Found, Header, Key, RawKey, Reason, Store, StoreConfig, ValueError, unix_ms};
use sidereal_ffi::{Lmdb, LmdbOptions};
use tempfile::TempDir;

const WAIT: Duration = Duration::from_secs(60);

fn write(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

/// A safetensors file of these tensors: name, type, shape, bytes.
fn safetensors(tensors: &[(&str, &str, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        header.insert((*name).into(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()] }));
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

fn ints(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A binary file of f16 vectors of two elements.
fn binary(users: &[&str], vectors: &[[f32; 2]], columns: &[(&str, Vec<i64>)]) -> Vec<u8> {
    let mut offsets = vec![0];
    users.iter().for_each(|user| offsets.push(offsets.last().unwrap() + user.len() as i64));
    let text = users.concat().into_bytes();
    let elements = vectors.iter().flatten().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
    let mut tensors = vec![
        ("vectors", "F16", vec![vectors.len(), 2], elements),
        ("user_offsets", "I64", vec![offsets.len()], ints(&offsets)),
    ];
    tensors.extend(columns.iter().map(|(name, values)| (*name, "I64", vec![values.len()], ints(values))));
    tensors.push(("users", "U8", vec![text.len()], text));
    safetensors(&tensors)
}

#[test]
fn loads_lines_and_tells_what_it_has() {
    let folder = TempDir::new().unwrap();
    let store = folder.path().join("store").to_str().unwrap().to_owned();
    let file = write(
        &folder,
        "records.jsonl",
        lines(&[
            json!({"user": "u1", "vector": [0.5, -1.25], "version": 5, "created_at": 1_700_000_000_000u64}),
            json!({"user": "u1", "scenario": 3, "vector": [2.0, 4.0]}),
            json!({"user": "u2", "name": "other", "vector": [1.0, 2.0, 3.0]}),
        ]),
    );
    let said =
        sidereal(&["instructions", "load", &file, "--store", &store, "--json", "--version", "9"]).exits(0).json();
    assert_eq!((&said["records"], &said["bad"], &said["batches"]), (&json!(3), &json!(0), &json!(1)));

    let get = |more: &[&str]| sidereal(&[&["instructions", "get", "--store", &store, "--json"], more].concat());
    let found = get(&["u1"]).exits(0).json();
    assert_eq!(found["vector"], json!([0.5, -1.25]));
    assert_eq!((&found["version"], &found["created_at"]), (&json!(5), &json!(1_700_000_000_000u64)));
    let found = get(&["u1", "--scenario", "3"]).exits(0).json();
    assert_eq!((&found["vector"], &found["version"], &found["scenario"]), (&json!([2.0, 4.0]), &json!(9), &json!(3)));
    let found = get(&["u1", "--scenario", "4"]).exits(0).json();
    assert_eq!((&found["vector"], &found["scenario"]), (&json!([0.5, -1.25]), &Value::Null), "the user's own");
    assert_eq!(get(&["u2"]).exits(1).json()["outcome"], "missing");
    assert_eq!(get(&["u2", "--name", "other"]).exits(0).json()["vector"], json!([1.0, 2.0, 3.0]));
    assert_eq!(get(&["u1", "--max-age", "1h"]).exits(1).json()["outcome"], "expired");
    get(&["u1", "--name", "a:b"]).exits(2).says("a:b");
    sidereal(&["instructions", "get", "--store", &store, "u1"]).exits(0).says("2 elements").says("days ago");

    let stats = sidereal(&["instructions", "stats", "--store", &store, "--json"]).exits(0).json();
    assert_eq!((&stats["records"], &stats["scenario_records"], &stats["bad"]), (&json!(3), &json!(1), &json!(0)));
    assert_eq!(stats["oldest"], json!(1_700_000_000_000u64));
    let versions = json!([{"version": 5, "records": 1}, {"version": 9, "records": 2}]);
    assert_eq!(stats["versions"], versions);
    assert_eq!(stats["instructions"][0], json!({"name": "other", "size": 3, "records": 1}));
    sidereal(&["instructions", "stats", "--store", &store]).exits(0).says("reasoning: 2 records of 2 elements");
}

#[test]
fn bad_lines_are_told_counted_and_left_out() {
    let folder = TempDir::new().unwrap();
    let store = folder.path().join("store").to_str().unwrap().to_owned();
    let long = "u".repeat(401);
    let bad = [
        (r#"{"user":"u1","vector":[1,2]"#.to_owned(), "column 27: not JSON"),
        (r#"{"user":"u1"}"#.to_owned(), "`vector` is missing"),
        (r#"{"user":7,"vector":[1]}"#.to_owned(), "`user`: 7: expected a string"),
        (r#"{"user":"u1","vector":[1,"x"]}"#.to_owned(), "`vector[1]`: \"x\": expected a number"),
        (r#"{"user":"u1","vector":[]}"#.to_owned(), "a vector of 0 elements"),
        (r#"{"user":"u1","vector":[1,70000]}"#.to_owned(), "element 1 is too large for f16"),
        (r#"{"user":"u1","vector":[1e39]}"#.to_owned(), "number out of range"),
        (r#"{"user":"u1","vector":[1],"scenario":-1}"#.to_owned(), "`scenario`: -1: expected a whole number"),
        (r#"{"user":"u1","vector":[1],"colour":1}"#.to_owned(), "`colour` is unknown"),
        (r#"{"user":"","vector":[1]}"#.to_owned(), "the user is empty"),
        (format!(r#"{{"user":"{long}","vector":[1]}}"#), "the user has 401 bytes"),
        ("[1]".to_owned(), "expected an object"),
    ];
    let mut text = String::from("\u{feff}{\"user\":\"first\",\"vector\":[1]}\r\n\n");
    bad.iter().for_each(|(line, _)| text.push_str(&format!("{line}\n")));
    text.push_str(r#"{"user":"last","vector":[2]}"#);
    let file = write(&folder, "records.jsonl", text);
    let load = |more: &[&str]| sidereal(&[&["instructions", "load", &file, "--store", &store], more].concat());
    let mut ran = load(&[]).exits(0).says("2 records").says("12 records are bad");
    for (number, (_, reason)) in bad.iter().enumerate() {
        let line = number + 3;
        let told = ran.stderr.lines().find(|said| said.starts_with(&format!("sidereal: line {line}: ")));
        assert!(told.is_some_and(|told| told.contains(reason)), "{reason}: {told:?}");
    }
    // The first bad line ends a strict load; what was committed before it stays.
    std::fs::remove_dir_all(&store).unwrap();
    ran = load(&["--strict", "--batch", "1"]).exits(1).says("line 3").says("1 records of earlier batches are written");
    assert_eq!(ran.stdout, "");
    sidereal(&["instructions", "get", "--store", &store, "first"]).exits(0);
    sidereal(&["instructions", "get", "--store", &store, "last"]).exits(1);
    // Nothing usable at all is a failure.
    let file = write(&folder, "none.jsonl", "{}\n");
    sidereal(&["instructions", "load", &file, "--store", &store]).exits(1).says("`user` is missing");
}

#[test]
fn loads_binary_files_in_any_order() {
    let folder = TempDir::new().unwrap();
    let store = folder.path().join("store").to_str().unwrap().to_owned();
    // Not in the order of keys; u1 twice, of which the last stays; one user that is no text.
    let users = ["u3", "u1", "u22", "u1", "u4"];
    let vectors = [[3.0, 0.0], [1.0, 0.0], [22.0, 0.0], [1.5, 0.0], [4.0, f32::INFINITY]];
    let columns = [("scenarios", vec![-1, -1, 7, -1, -1]), ("versions", vec![1, 2, 3, 4, 5])];
    let file = write(&folder, "records.safetensors", binary(&users, &vectors, &columns));
    let ran = sidereal(&["instructions", "load", &file, "--store", &store]).exits(0).says("4 records");
    assert!(ran.stderr.contains("row 4: element 1 is not a finite number"), "{}", ran.stderr);
    let get = |more: &[&str]| sidereal(&[&["instructions", "get", "--store", &store, "--json"], more].concat());
    let found = get(&["u1"]).exits(0).json();
    assert_eq!((&found["vector"], &found["version"]), (&json!([1.5, 0.0]), &json!(4)));
    assert_eq!(get(&["u22", "--scenario", "7"]).exits(0).json()["vector"], json!([22.0, 0.0]));
    assert_eq!(get(&["u22"]).exits(1).json()["outcome"], "missing");
    let stats = sidereal(&["instructions", "stats", "--store", &store, "--json"]).exits(0).json();
    assert_eq!(stats["records"], 3);

    // Stored as something else on request.
    let args = ["instructions", "load", &file, "--store", &store, "--dtype", "f32", "--size", "2"];
    sidereal(&args).exits(0);
    assert_eq!(get(&["u3"]).exits(0).json()["vector"], json!([3.0, 0.0]));

    let wrong = binary(&["u1"], &[[1.0, 2.0]], &[("versions", vec![1, 2])]);
    let file = write(&folder, "wrong.safetensors", wrong);
    sidereal(&["instructions", "load", &file, "--store", &store])
        .exits(1)
        .says("`versions` is I64 [2], I64 [1] expected");
    let file = write(&folder, "empty.safetensors", safetensors(&[]));
    sidereal(&["instructions", "load", &file, "--store", &store]).exits(1).says("`vectors` is missing");
    let offsets = [("vectors", "F32", vec![1, 1], vec![0; 4]), ("users", "U8", vec![1], vec![65])];
    let offsets = [&offsets[..], &[("user_offsets", "I64", vec![2], ints(&[0, 2]))]].concat();
    let file = write(&folder, "offsets.safetensors", safetensors(&offsets));
    sidereal(&["instructions", "load", &file, "--store", &store])
        .exits(1)
        .says("row 0: 0 to 2, which is not a part of 1");
}

#[test]
fn what_is_not_there_or_has_no_room_is_named() {
    let folder = TempDir::new().unwrap();
    let store = folder.path().join("store").to_str().unwrap().to_owned();
    sidereal(&["instructions", "get", "--store", &store, "u1"]).exits(3).says("no instruction store").says("load");
    sidereal(&["instructions", "load", "/nowhere", "--store", &store]).exits(3).says("/nowhere");
    assert!(!Path::new(&store).exists(), "a file that is not there makes no store");
    let records: Vec<Value> =
        (0..2000).map(|n| json!({"user": format!("u{n:05}"), "vector": vec![0.25; 100]})).collect();
    let file = write(&folder, "records.jsonl", lines(&records));
    let args = ["instructions", "load", &file, "--store", &store, "--batch", "100", "--map-size", "256KiB"];
    sidereal(&args).exits(3).says("is full at 262144 bytes").says("--map-size");
    // What was committed before is there, and there is room again in a larger map.
    sidereal(&["instructions", "get", "--store", &store, "u00099"]).exits(0);
    sidereal(&["instructions", "get", "--store", &store, "u01999"]).exits(1);
    sidereal(&args[..7]).exits(0);
    sidereal(&["instructions", "get", "--store", &store, "u01999"]).exits(0);
    sidereal(&["instructions", "load", &file, "--store", &store, "--ttl", "1h"]).exits(2).says("for Redis");
    sidereal(&["instructions", "stats", "--store", "redis://127.0.0.1:port"]).exits(2).says("redis://");

    let foreign = folder.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    let lmdb = Lmdb::open(&foreign, &LmdbOptions { map_bytes: 1 << 20, max_readers: 8 }).unwrap();
    lmdb.write(|writer| writer.put(b"theirs", b"1")).unwrap();
    drop(lmdb);
    sidereal(&["instructions", "stats", "--store", foreign.to_str().unwrap()])
        .exits(1)
        .says("not an instruction store");
}

/// Puts values into a store as somebody might who does not use the loader.
fn put(store: &Path, records: &[(&str, Option<u32>, &[u8])]) {
    let lmdb = Lmdb::open(store, &LmdbOptions { map_bytes: 1 << 20, max_readers: 8 }).unwrap();
    lmdb.write(|writer| {
        for (user, scenario, value) in records {
            let mut key = Vec::new();
            RawKey { name: "r", scenario: *scenario, user }.write(&mut key);
            writer.put(&key, value)?;
        }
        Ok::<(), sidereal_ffi::LmdbError>(())
    })
    .unwrap();
}

fn value(created_at_ms: u64, vector: &[f32]) -> Vec<u8> {
    let mut out = Vec::new();
    let header = Header { dtype: WeightDtype::F32, size: vector.len(), version: 1, created_at_ms };
    header.write_vector(vector, &mut out).unwrap();
    out
}

#[test]
fn every_kind_of_record_has_its_outcome() {
    let folder = TempDir::new().unwrap();
    let config = StoreConfig { create: true, ..StoreConfig::new(folder.path().to_str().unwrap()) };
    // Makes it a store.
    let file = write(&folder, "one.jsonl", lines(&[json!({"user": "x", "vector": [1]})]));
    sidereal(&["instructions", "load", &file, "--store", &config.location]).exits(0);
    let now = unix_ms(std::time::SystemTime::now());
    let (fresh, old, future) =
        (value(now, &[1.0, 2.0]), value(now - 7_200_000, &[3.0]), value(now + 3_600_000, &[4.0]));
    let mut torn = fresh.clone();
    torn[30] ^= 1;
    let records: [(&str, Option<u32>, &[u8]); 6] = [
        ("fresh", None, &fresh),
        ("fresh", Some(1), &torn),
        ("old", None, &old),
        ("old", Some(1), b"?"),
        ("future", None, &future),
        ("torn", None, &torn),
    ];
    put(folder.path(), &records);
    let store = Store::open(&StoreConfig { max_age: Some(Duration::from_secs(3600)), ..config }).unwrap();
    let key = |user: &str| Key::new("r", user).unwrap();
    let found = store.lookup(
        &[
            key("fresh"),
            key("fresh").for_scenario(1),
            key("fresh").of_size(3),
            key("old"),
            key("old").for_scenario(1),
            key("future"),
            key("torn"),
            key("nobody").for_scenario(1),
        ],
        WAIT,
    );
    let record = |found: &Found| match found {
        Found::Record(record) => record.vector.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(record(&found[0]), [1.0, 2.0]);
    assert_eq!(record(&found[1]), [1.0, 2.0], "what is damaged for the scenario does not hide the user's own");
    assert_eq!(found[2], Found::Bad { reason: ValueError::Size { expected: 3, found: 2 } });
    assert!(matches!(found[3], Found::Expired { age } if age >= Duration::from_secs(7200)), "{:?}", found[3]);
    assert_eq!(found[4], Found::Bad { reason: ValueError::NotAValue { bytes: 1 } }, "the more specific one is told");
    assert!(matches!(found[5], Found::Bad { reason: ValueError::Future { ahead_ms } } if ahead_ms > 3_000_000));
    assert_eq!(found[6], Found::Bad { reason: ValueError::Checksum });
    assert_eq!(found[7], Found::Missing);
    let counts = store.counts();
    assert_eq!((counts.lookups, counts.hits, counts.missing, counts.expired, counts.bad), (8, 2, 1, 1, 4));
    assert_eq!(store.lookup(&[key("fresh")], Duration::ZERO), [Found::Failed { reason: Reason::Timeout }]);
    assert_eq!(
        store.stats().unwrap().bad,
        1,
        "a damaged value is found when it is read, a header that is none at once"
    );
}

#[test]
fn readers_and_the_writer_do_not_wait_for_each_other() {
    let folder = TempDir::new().unwrap();
    let lmdb = Lmdb::open(folder.path(), &LmdbOptions { map_bytes: 1 << 20, max_readers: 8 }).unwrap();
    lmdb.write(|writer| writer.put(b"key", b"before")).unwrap();
    let get = || lmdb.read(|snapshot| snapshot.get(b"key").unwrap().unwrap().to_vec()).unwrap();
    // A reader while a transaction is open.
    lmdb.write(|writer| {
        writer.put(b"key", b"after")?;
        std::thread::scope(|scope| assert_eq!(scope.spawn(get).join().unwrap(), b"before"));
        Ok::<(), sidereal_ffi::LmdbError>(())
    })
    .unwrap();
    assert_eq!(get(), b"after");
    // A transaction while a reader looks on: its snapshot stays.
    lmdb.read(|snapshot| {
        std::thread::scope(|scope| {
            scope.spawn(|| lmdb.write(|writer| writer.put(b"key", b"later")).unwrap()).join().unwrap();
        });
        assert_eq!(snapshot.get(b"key").unwrap().unwrap(), b"after");
    })
    .unwrap();
    assert_eq!(get(), b"later");
    let again = Lmdb::open(folder.path(), &LmdbOptions { map_bytes: 1 << 20, max_readers: 8 });
    assert!(again.unwrap_err().to_string().contains("open already"));
}

/// Another process writes beyond the map of a reader that has been open all the time.
#[test]
fn a_reader_takes_over_a_larger_map() {
    let folder = TempDir::new().unwrap();
    let location = folder.path().join("store").to_str().unwrap().to_owned();
    let config = StoreConfig { create: true, map_bytes: 256 << 10, ..StoreConfig::new(&location) };
    let store = Store::open(&config).unwrap();
    let user = |number: usize| format!("u{number:05}");
    let records: Vec<Value> =
        (0..2000).map(|number| json!({"user": user(number), "vector": vec![0.25; 100]})).collect();
    let file = write(&folder, "records.jsonl", lines(&records));
    let keys: Vec<Key> = (0..2000).map(|number| Key::new("reasoning", user(number)).unwrap()).collect();
    assert!(store.lookup(&keys, WAIT).iter().all(|found| *found == Found::Missing));
    sidereal(&["instructions", "load", &file, "--store", &location, "--map-size", "64MiB"]).exits(0);
    assert!(store.lookup(&keys, WAIT).iter().all(|found| matches!(found, Found::Record(_))));
    assert!(store.stats().unwrap().map_bytes.unwrap() > 256 << 10);
}

/// A load is killed while it writes: every batch that a reader has seen is whole, and loading again completes it. Readers are in
/// this process, the writer in another.
#[test]
fn a_killed_load_leaves_whole_batches() {
    const BATCH: u64 = 50;
    const RECORDS: u64 = 50_000;
    let folder = TempDir::new().unwrap();
    let location = folder.path().join("store").to_str().unwrap().to_owned();
    let user = |number: u64| format!("u{number:06}");
    let vector = |number: u64| vec![number as f32, 0.5, -0.5, 1.0];
    let records: Vec<Value> =
        (0..RECORDS).map(|number| json!({"user": user(number), "vector": vector(number)})).collect();
    let file = write(&folder, "records.jsonl", lines(&records));
    let batch = BATCH.to_string();
    let args = ["instructions", "load", &file, "--store", &location, "--batch", &batch, "--dtype", "f32"];
    let mut config = StoreConfig::new(&location);
    config.create = true;
    let store = Store::open(&config).unwrap();
    let mut writer = command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while store.stats().unwrap().records < 3 * BATCH {
        assert!(writer.try_wait().unwrap().is_none(), "the load ended before it wrote three batches");
    }
    writer.kill().unwrap();
    assert!(!writer.wait().unwrap().success(), "the load was over before it could be killed");

    let written = store.stats().unwrap();
    assert_eq!((written.records % BATCH, written.bad), (0, 0), "{} records", written.records);
    assert!(written.records < RECORDS);
    let check = |up_to: u64| {
        let keys: Vec<Key> = (0..RECORDS).map(|number| Key::new("reasoning", user(number)).unwrap()).collect();
        for (number, found) in store.lookup(&keys, WAIT).iter().enumerate() {
            match found {
                Found::Record(record) => assert_eq!(record.vector, vector(number as u64)),
                other => assert!(*other == Found::Missing && number as u64 >= up_to, "{number}: {other:?}"),
            }
        }
    };
    check(written.records);
    // The lock that the dead writer held is no hindrance.
    sidereal(&["instructions", "load", &file, "--store", &location, "--dtype", "f32"]).exits(0);
    check(RECORDS);
}
