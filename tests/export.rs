//! A whole export on disk, read through the public API only.

mod export_fixture;

use std::path::Path;

use export_fixture::{Fixture, MANIFEST, tensor};
use sidereal::export::{CatalogSource, Export, ScoreMode, WeightDtype, first_non_finite};

#[test]
fn a_single_file_export_opens() {
    let fixture = Fixture::good();
    let export = Export::open(fixture.dir()).unwrap();
    assert_eq!(export.model_type(), "t5");
    assert_eq!(export.config().count("d_model").unwrap(), 4);
    assert_eq!(export.manifest().label(), "tiny@7");
    assert_eq!(export.manifest().score(), ScoreMode::FullThenMask);
    assert_eq!(export.manifest().level_tokens(0), [10, 11, 12]);
    assert_eq!(export.manifest().level_tokens(1), [21, 20]);
    assert_eq!(export.manifest().token(1, 0), Some(21));
    assert_eq!(export.manifest().token(1, 2), None);
    assert_eq!(export.manifest().token(2, 0), None);
    export.manifest().validate_against(32, true).unwrap();
    assert_eq!(export.weights().names().collect::<Vec<_>>(), ["half", "shared.weight", "steps"]);
    let shared = export.weights().expect("shared.weight", &[3, 4]).unwrap();
    assert_eq!((shared.dtype(), shared.to_f32()[5]), (WeightDtype::F32, 5.0));
    let half = export.weights().tensor("half").unwrap();
    assert_eq!((half.dtype(), half.to_f32()), (WeightDtype::Bf16, vec![1.0, -2.0]));
    assert!(export.weights().optional("lm_head.weight").unwrap().is_none());
    assert_eq!(first_non_finite(&shared), None);
    assert_eq!(export.weights().files().len(), 1);
    assert!(export.goldens().unwrap().is_none());
}

#[test]
fn a_sharded_export_opens() {
    let fixture = Fixture::sharded();
    let export = Export::open(fixture.dir()).unwrap();
    assert_eq!(export.weights().files().len(), 2);
    assert_eq!(export.weights().tensor("a").unwrap().to_f32(), [1.0, 2.0]);
    assert_eq!(export.weights().tensor("b").unwrap().to_f32(), [3.0]);
    let facts: Vec<_> = export.weights().facts().collect();
    assert_eq!((facts[1].name, &*facts[1].dtype, facts[1].shape), ("b", "F32", &[1][..]));
    assert!(facts[1].file.ends_with("model-00002-of-00002.safetensors"));
}

/// MLX writes an index beside a single file.
#[test]
fn an_index_of_the_single_file_is_no_contradiction() {
    let fixture = Fixture::good();
    fixture.index(&["shared.weight", "half", "steps"].map(|name| (name, "model.safetensors")));
    let export = Export::open(fixture.dir()).unwrap();
    assert_eq!((export.weights().files().len(), export.weights().names().count()), (1, 3));
}

#[test]
fn the_prompt_keeps_the_newest_items() {
    let fixture = Fixture::good();
    let export = Export::open(fixture.dir()).unwrap();
    let (manifest, sids) = (export.manifest(), [[0u16, 0], [1, 1], [2, 0]]);
    let template = manifest.prompt().unwrap();
    let mut out = vec![99];
    let kept = template.render(sids.iter().map(|sid| &sid[..]), manifest, &mut out).unwrap();
    assert_eq!((kept, &out[..]), (2, &[99, 1, 5, 11, 20, 6, 5, 12, 21, 6, 2, 3][..]));
    assert_eq!(template.rendered_tokens(3, manifest), out.len() - 1);
    assert_eq!(template.rendered_tokens(0, manifest), 3);
    let error = template.render([&[0u16, 2][..]].into_iter(), manifest, &mut out).unwrap_err().to_string();
    assert!(error.contains("[0, 2]") && error.contains("code 2 of level 1"), "{error}");
    assert_eq!(out.len(), 12, "an error leaves the output as it was");
}

#[test]
fn the_catalogue_is_found_in_the_declared_order() {
    let fixture = Fixture::good();
    let locate = |dir: &Path| Export::open(dir).unwrap().catalog_path();
    let none = locate(fixture.dir()).unwrap_err().to_string();
    assert!(none.contains("sidereal catalog build --from ITEMS --out"), "{none}");
    for name in ["Office.index.json", "index.json", "items.csv", "items.jsonl"] {
        fixture.write(name, b"{}");
        assert_eq!(locate(fixture.dir()).unwrap(), CatalogSource::Source(fixture.dir().join(name)));
    }
    fixture.write("catalog.sid", b"");
    assert_eq!(locate(fixture.dir()).unwrap(), CatalogSource::Built(fixture.dir().join("catalog.sid")));
    fixture.write("sub/x.csv", b"");
    fixture.write("sidereal.json", MANIFEST.replace("\"name\"", "\"catalog\": \"sub/x.csv\", \"name\"").as_bytes());
    assert_eq!(locate(fixture.dir()).unwrap(), CatalogSource::Source(fixture.dir().join("sub/x.csv")));
}

#[test]
fn non_finite_elements_are_found_in_every_type() {
    let fixture = Fixture::good();
    let long = |bad: usize| (0..10_000).map(move |i| if i == bad { f32::NAN } else { i as f32 }).collect::<Vec<_>>();
    let f32s = |values: Vec<f32>| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let u16s = |values: [u16; 4]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    fixture.weights(&[
        tensor("nan", "F32", &[100, 100], f32s(long(9_999))),
        tensor("early", "F32", &[10_000], f32s(long(4_096))),
        tensor("fine", "F32", &[2], f32s(vec![f32::MAX, -f32::MIN_POSITIVE / 2.0])),
        tensor("half", "F16", &[4], u16s([0x7bff, 0x8000, 0xfc00, 0x7e00])),
        tensor("brain", "BF16", &[4], u16s([0x7f7f, 0x7f80, 0, 0])),
        tensor("none", "F32", &[0, 3], vec![]),
    ]);
    let export = Export::open(fixture.dir()).unwrap();
    let at = |name: &str| first_non_finite(&export.weights().tensor(name).unwrap());
    assert_eq!(
        ["nan", "early", "fine", "half", "brain", "none"].map(at),
        [Some(9_999), Some(4_096), None, Some(2), Some(1), None]
    );
}
