//! Damage without a plan: whatever happens to a file, it is an error or a consistent export, never a panic.

mod export_fixture;

use std::path::Path;

use export_fixture::{CONFIG, Fixture, MANIFEST, file, floats, tensor};
use proptest::prelude::*;
use sidereal::export::{ConfigReader, Manifest, PromptTemplate, Weights, first_non_finite, read_goldens};

const MASKS: [u8; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 255];

/// Opens weights and touches all that they claim to hold.
fn weights_are_an_error_or_consistent(dir: &Path) -> bool {
    let Ok(weights) = Weights::open(dir) else { return false };
    for name in weights.names() {
        if let Ok(tensor) = weights.tensor(name) {
            assert_eq!(tensor.bytes().len(), tensor.shape().iter().product::<usize>() * tensor.dtype().bytes());
            assert_eq!(tensor.to_f32().len(), tensor.rows() * tensor.cols());
            let _ = first_non_finite(&tensor);
        }
    }
    let _ = weights.tensor("nearly.weight").map_err(|error| error.to_string());
    true
}

/// Parses a manifest and uses all that it says.
fn manifest_is_an_error_or_consistent(text: &str) -> bool {
    let Ok(manifest) = Manifest::parse(Path::new("sidereal.json"), text) else { return false };
    for (number, level) in manifest.levels().iter().enumerate() {
        let tokens = manifest.level_tokens(number);
        assert_eq!(tokens.len(), level.codes());
        let last = (level.codes() - 1) as u16;
        assert_eq!(manifest.token(number, last), tokens.last().copied());
        assert_eq!(last.checked_add(1).and_then(|beyond| manifest.token(number, beyond)), None);
    }
    let _ = manifest.validate_against(100, true).map_err(|error| error.to_string());
    let _ = manifest.validate_against(0, false).map_err(|error| error.to_string());
    let sid = vec![0u16; manifest.levels().len()];
    let template = manifest.prompt().cloned().unwrap_or_else(PromptTemplate::default);
    let mut out = Vec::new();
    let kept = template.render([&sid[..]; 3].into_iter(), &manifest, &mut out).unwrap();
    assert!(kept <= 3);
    assert_eq!(out.len(), template.rendered_tokens(3, &manifest));
    true
}

fn small_file() -> Vec<u8> {
    file(&[
        tensor("a.weight", "F32", &[2, 2], floats([1.0, 2.0, 3.0, 4.0])),
        tensor("b", "BF16", &[2], vec![0x80, 0x3f, 0x00, 0xc0]),
        tensor("c", "F16", &[0, 3], vec![]),
    ])
}

#[test]
fn every_flipped_byte_of_a_safetensors_file() {
    let fixture = Fixture::empty();
    let good = small_file();
    let mut opened = 0;
    for at in 0..good.len() {
        for mask in MASKS {
            let mut bad = good.clone();
            bad[at] ^= mask;
            fixture.write("model.safetensors", &bad);
            opened += usize::from(weights_are_an_error_or_consistent(fixture.dir()));
        }
    }
    // Flips in names, in data and the like leave a legal file.
    assert!(opened > 200, "{opened}");
}

#[test]
fn every_length_of_a_safetensors_file() {
    let fixture = Fixture::empty();
    let good = small_file();
    for length in 0..good.len() {
        fixture.write("model.safetensors", &good[..length]);
        assert!(!weights_are_an_error_or_consistent(fixture.dir()), "accepted {length} of {} bytes", good.len());
    }
    fixture.write("model.safetensors", &good);
    assert!(weights_are_an_error_or_consistent(fixture.dir()));
}

#[test]
fn every_flipped_byte_of_an_index() {
    let fixture = Fixture::sharded();
    let name = "model.safetensors.index.json";
    let good = std::fs::read(fixture.dir().join(name)).unwrap();
    for at in 0..good.len() {
        for mask in MASKS {
            let mut bad = good.clone();
            bad[at] ^= mask;
            fixture.write(name, &bad);
            weights_are_an_error_or_consistent(fixture.dir());
        }
        fixture.write(name, &good[..at]);
        assert!(!weights_are_an_error_or_consistent(fixture.dir()));
    }
}

#[test]
fn every_flipped_byte_and_length_of_the_json_files() {
    for at in 0..MANIFEST.len() {
        for mask in MASKS {
            let mut bad = MANIFEST.as_bytes().to_vec();
            bad[at] ^= mask;
            if let Ok(text) = String::from_utf8(bad) {
                manifest_is_an_error_or_consistent(&text);
            }
        }
        assert!(!manifest_is_an_error_or_consistent(&MANIFEST[..at]));
    }
    for at in 0..CONFIG.len() {
        assert!(ConfigReader::parse(Path::new("config.json"), &CONFIG[..at]).is_err());
    }
}

#[test]
fn every_flipped_byte_of_a_golden_case() {
    let fixture = Fixture::empty();
    let manifest = Manifest::parse(Path::new("sidereal.json"), MANIFEST).unwrap();
    let good = concat!(
        r#"{"id":1,"tokens":[5,6],"beams":2,"score":"full_then_mask","results":[{"sid":[1,1],"score":-1.5}],"#,
        r#""forced":[{"sid":[1,1],"logprobs":[-0.5,-0.5,-0.5]}],"reference":"x"}"#
    );
    let path = fixture.dir().join("cases.jsonl");
    fixture.write("cases.jsonl", good.as_bytes());
    assert_eq!(read_goldens(&path, &manifest).unwrap().len(), 1);
    for at in 0..good.len() {
        for mask in MASKS {
            let mut bad = good.as_bytes().to_vec();
            bad[at] ^= mask;
            fixture.write("cases.jsonl", &bad);
            if let Ok(cases) = read_goldens(&path, &manifest) {
                assert!(
                    cases.iter().all(|case| case.results.iter().all(|r| manifest.validate_catalog(&r.sid).is_ok()))
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn bytes_at_random_are_no_weights(bytes in proptest::collection::vec(any::<u8>(), 0..200), header in 0u64..120) {
        let fixture = Fixture::empty();
        fixture.write("model.safetensors", &bytes);
        weights_are_an_error_or_consistent(fixture.dir());
        fixture.write("model.safetensors", &[&header.to_le_bytes()[..], &bytes].concat());
        weights_are_an_error_or_consistent(fixture.dir());
    }

    /// Headers of the right form with any numbers in them.
    #[test]
    fn any_offsets_and_shapes(
        entries in proptest::collection::vec((number(), number(), proptest::collection::vec(number(), 0..4), 0usize..4), 0..4),
        data in 0usize..64,
    ) {
        let dtypes = ["F32", "BF16", "I64", "F4"];
        let entry = |(i, (begin, end, shape, dtype)): (usize, &(u64, u64, Vec<u64>, usize))| {
            format!(r#""t{i}":{{"dtype":"{}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#, dtypes[*dtype])
        };
        let header = format!("{{{}}}", entries.iter().enumerate().map(entry).collect::<Vec<_>>().join(","));
        let fixture = Fixture::empty();
        fixture.write("model.safetensors", &export_fixture::raw_file(&header, &vec![0; data]));
        weights_are_an_error_or_consistent(fixture.dir());
    }

    #[test]
    fn text_at_random_is_no_manifest(text in "\\PC{0,80}") {
        prop_assert!(!manifest_is_an_error_or_consistent(&text));
    }
}

/// Numbers that sizes are wrong at.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..20, Just(1 << 31), Just(1 << 32), Just(1 << 61), Just(u64::MAX), Just(u64::MAX - 7), any::<u64>()]
}
