//! Safetensors files and their index, mapped from files as the engine does it.

use std::path::Path;

use sidereal::export::{INDEX, SINGLE, Weights, first_non_finite};

use super::scratch;

/// Parted by the first `\xff\xfe\xff`: a weights file, and an index that places its tensors in it. Without the mark the
/// bytes are a weights file alone.
const PARTING: &[u8] = b"\xff\xfe\xff";

/// Opens the bytes as they are; and again with a length in front that fits, so that the header is reached.
pub fn safetensors(data: &[u8]) {
    let (file, index) = match data.windows(PARTING.len()).position(|bytes| bytes == PARTING) {
        Some(at) => (&data[..at], Some(&data[at + PARTING.len()..])),
        None => (data, None),
    };
    let folder = scratch::folder("weights");
    let _ = std::fs::remove_file(folder.join(INDEX));
    if let Some(index) = index {
        scratch::write(&folder, INDEX, index);
    }
    for bytes in [file.to_vec(), with_length(file)] {
        scratch::write(&folder, SINGLE, &bytes);
        check(&folder);
    }
}

/// Puts the length of the header, which ends where its braces close, into the first eight bytes.
fn with_length(file: &[u8]) -> Vec<u8> {
    let header = file.get(8..).unwrap_or_default();
    let mut depth = 0usize;
    let end = header.iter().position(|&byte| {
        depth = match byte {
            b'{' => depth + 1,
            b'}' => depth.saturating_sub(1),
            _ => depth,
        };
        byte == b'}' && depth == 0
    });
    let end = end.map_or(header.len(), |end| end + 1);
    [&(end as u64).to_le_bytes()[..], header].concat()
}

/// Opens the weights of a folder and touches all that they claim to hold.
fn check(folder: &Path) {
    let weights = match Weights::open(folder) {
        Ok(weights) => weights,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for name in weights.names() {
        assert!(weights.contains(name));
        match weights.tensor(name) {
            Ok(tensor) => {
                assert_eq!(tensor.bytes().len(), tensor.shape().iter().product::<usize>() * tensor.dtype().bytes());
                assert_eq!(tensor.to_f32().len(), tensor.rows() * tensor.cols());
                let _ = first_non_finite(&tensor);
                assert!(weights.expect(name, tensor.shape()).is_ok());
                assert!(weights.expect(name, &[3, 5, 7]).is_err() || tensor.shape() == [3, 5, 7]);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert_eq!(weights.facts().count(), weights.names().count());
    if !weights.contains("nearly.weight") {
        assert!(weights.tensor("nearly.weight").is_err_and(|error| !error.to_string().is_empty()));
    }
}

/// A legal file of two tensors.
pub fn small_file() -> Vec<u8> {
    let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[16,20]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 20]].concat()
}
