//! `sidereal.json` and `config.json`: the readers, and what a model family makes of both.

use std::path::Path;

use sidereal::export::{CONFIG, ConfigReader, Export, MANIFEST, Manifest, PromptTemplate, SINGLE};
use sidereal::model::family;

use super::{scratch, weights};

/// A manifest, a zero byte, a configuration. Either may be missing.
pub fn manifest(data: &[u8]) {
    let (manifest, config) = match data.iter().position(|&byte| byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[][..]),
    };
    let manifest_reads = std::str::from_utf8(manifest).is_ok_and(check_manifest);
    let config_reads = std::str::from_utf8(config).is_ok_and(check_config);
    if manifest_reads && config_reads {
        check_export(manifest, config);
    }
}

/// Parses a manifest and uses all that it says; false if it is refused.
fn check_manifest(text: &str) -> bool {
    let manifest = match Manifest::parse(Path::new(MANIFEST), text) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    for (number, level) in manifest.levels().iter().enumerate() {
        let tokens = manifest.level_tokens(number);
        assert_eq!(tokens.len(), level.codes());
        let last = (level.codes() - 1) as u16;
        assert_eq!(manifest.token(number, last), tokens.last().copied());
        assert_eq!(last.checked_add(1).and_then(|beyond| manifest.token(number, beyond)), None);
    }
    for encoder_decoder in [true, false] {
        let _ = manifest.validate_against(100, encoder_decoder).map_err(|error| error.to_string());
    }
    let sid = vec![0u16; manifest.levels().len()];
    let template = manifest.prompt().cloned().unwrap_or_else(PromptTemplate::default);
    let mut out = Vec::new();
    let kept = template.render([&sid[..]; 3].into_iter(), &manifest, &mut out).expect("code 0 is in every level");
    assert!(kept <= 3);
    assert_eq!(out.len(), template.rendered_tokens(3, &manifest));
    let _ = template.rendered_tokens(usize::MAX, &manifest);
    assert!(manifest.length_penalty().is_finite() && manifest.scored_length() >= manifest.levels().len());
    true
}

/// Parses a configuration and reads every kind of value from every key that families look at.
fn check_config(text: &str) -> bool {
    let Ok(config) = ConfigReader::parse(Path::new(CONFIG), text) else { return false };
    for key in ["model_type", "d_model", "num_layers", "rope_theta", "layer_types", "eos_token_id", "rope_scaling"] {
        if let Ok(count) = config.count(key) {
            assert!(count.checked_mul(count).is_some());
        }
        assert!(config.float_or(key, 0.0).is_ok_and(f64::is_finite) || config.has(key));
        let _ = (config.flag_or(key, false), config.text_or(key, ""), config.wholes(key), config.texts(key));
        let _ = (config.floats(key), config.object(key).map(|object| object.map(|object| object.count("factor"))));
    }
    true
}

/// Opens both as an export with a few weights, and asks the family what it needs.
fn check_export(manifest: &[u8], config: &[u8]) {
    let folder = scratch::folder("manifest");
    if !folder.join(SINGLE).exists() {
        scratch::write(&folder, SINGLE, &weights::small_file());
    }
    scratch::write(&folder, MANIFEST, manifest);
    scratch::write(&folder, CONFIG, config);
    let Ok(export) = Export::open(&folder) else { return };
    let _ = export.catalog_path().map_err(|error| error.to_string());
    let Ok(family) = family(export.checkpoint()) else { return };
    match family.description(&export) {
        Ok(told) => {
            assert!(told.hidden > 0 && told.vocabulary > 0);
            assert!(!told.tensors.is_empty() && told.tensors.len() < 1 << 16, "{} tensors", told.tensors.len());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
