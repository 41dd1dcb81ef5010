//! Records of the instruction store: values, keys, and the JSON lines that they are loaded from.

use sidereal::export::WeightDtype;
use sidereal::store::load::{LoadOptions, check_line};
use sidereal::store::{Header, RawKey, Value};

/// The bytes as a value, as a key in bytes and in text, and as a line.
pub fn instruction(data: &[u8]) {
    match Value::read(data) {
        Ok(value) => check_value(data, &value),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = Header::read(data).map_err(|error| error.to_string());
    if let Some(key) = RawKey::read(data) {
        let mut again = Vec::new();
        key.write(&mut again);
        assert_eq!(again, data);
        check_key(&key);
    }
    if let Some(key) = std::str::from_utf8(data).ok().and_then(RawKey::from_text) {
        check_key(&key);
    }
    for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
        let mut options = LoadOptions::new("fuzz");
        options.dtype = Some(dtype);
        match check_line(data, &options) {
            Ok((key, value)) => {
                check_key(&RawKey::read(&key).expect("a key that we wrote"));
                let read = Value::read(&value).expect("a value that we wrote");
                assert!(read.vector().expect("finite").iter().all(|element| element.is_finite()));
                check_value(&value, &read);
            }
            Err(reason) => assert!(!reason.is_empty()),
        }
    }
}

/// A value that is read can be written again, to the same bytes.
fn check_value(bytes: &[u8], value: &Value<'_>) {
    let Ok(vector) = value.vector() else { return };
    assert_eq!(vector.len(), value.header.size);
    let mut again = Vec::new();
    value.header.write_vector(&vector, &mut again).expect("it fitted before");
    assert_eq!(again, bytes);
}

/// A key survives both of its forms.
fn check_key(key: &RawKey<'_>) {
    assert!(key.check().is_ok());
    let text = key.text();
    assert_eq!(RawKey::from_text(&text), Some(*key));
    let mut bytes = Vec::new();
    key.write(&mut bytes);
    assert!(bytes.len() <= 511, "LMDB's limit");
    assert_eq!(RawKey::read(&bytes), Some(*key));
}
