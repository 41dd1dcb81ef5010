//! `docs/sidereal.schema.json` and the manifest's parser say the same, `docs/scenarios.schema.json` and that of scenarios too: a good
//! file is mutated in every place, and the two must agree on each. `Contradiction`s are the parser's alone: values that are each fine but not together.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sidereal::export::{ExportError, Manifest, Scenarios};

/// Every key, so that every key is mutated.
const FULL: &str = r#"{
  "sidereal": 1, "name": "m", "version": "1",
  "sid": {"levels": [{"codes": 2, "tokens": {"first": 10}}, {"codes": 2, "tokens": {"list": [21, 20]}}]},
  "prompt": {"prefix": [1], "item": {"prefix": [5], "suffix": [6]}, "suffix": [2], "max_items": 2},
  "decoder_prefix": [0],
  "instructions": [
    {"name": "scenario", "source": "scenario", "ids": [1, 2], "trigger": true}, {"name": "mood", "source": "store", "size": 8},
    {"name": "hint", "source": "request", "size": 4}, {"name": "did", "source": "behaviour", "ids": [7]}
  ], "end": {"tokens": [4], "scored": true},
  "score": "full_then_mask", "length_penalty": 0.5, "catalog": "catalog.sid"
}"#;

/// The same for levels with heads of their own, which allow no scored end.
const HEADS: &str = r#"{
  "sidereal": 1, "name": "m", "version": "1",
  "sid": {"levels": [{"codes": 2, "tokens": {"first": 10}}, {"codes": 2, "tokens": {"list": [21, 20]}}]},
  "score": "level_head", "heads": ["heads.0.weight", "heads.1.weight"]
}"#;

/// Scenarios with every key.
const SCENARIOS: &str = r#"{"scenarios": [
  {"id": 0, "name": "home", "view": "home", "beams": 3, "top": 2, "max_items_per_sid": 2, "deadline_ms": 0.5,
   "instructions": {"hint": "required", "reasoning": "default"}},
  {"id": 4294967295}
]}"#;

/// The only pattern of the schemas: no control characters.
const PATTERN: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

fn docs(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The part of JSON Schema that our schema uses. A keyword that it does not know is a failure, not a pass.
fn accepts(root: &Value, schema: &Value, value: &Value) -> bool {
    let unsigned = |limit: &Value| limit.as_u64().unwrap() as usize;
    schema.as_object().unwrap().iter().all(|(keyword, rule)| match keyword.as_str() {
        "$schema" | "$defs" | "title" | "description" => true,
        "$ref" => {
            let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
            accepts(root, root.pointer(pointer).unwrap(), value)
        }
        "type" => match rule.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "number" => value.is_number(),
            "integer" => value.is_u64() || value.is_i64(),
            other => panic!("type {other}"),
        },
        "const" => value == rule,
        "enum" => rule.as_array().unwrap().contains(value),
        "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() >= unsigned(rule)),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() <= unsigned(rule)),
        "pattern" => {
            assert_eq!(rule, PATTERN);
            value.as_str().is_none_or(|text| !text.chars().any(char::is_control))
        }
        "minItems" => value.as_array().is_none_or(|list| list.len() >= unsigned(rule)),
        "maxItems" => value.as_array().is_none_or(|list| list.len() <= unsigned(rule)),
        "uniqueItems" => value.as_array().is_none_or(|list| (1..list.len()).all(|i| !list[..i].contains(&list[i]))),
        "items" => value.as_array().is_none_or(|list| list.iter().all(|element| accepts(root, rule, element))),
        "required" => rule.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
        "properties" => {
            rule.as_object().unwrap().iter().all(|(key, rule)| value.get(key).is_none_or(|v| accepts(root, rule, v)))
        }
        "additionalProperties" => value.as_object().is_none_or(|map| {
            let mut others = map.iter().filter(|(key, _)| schema["properties"].get(key.as_str()).is_none());
            others.all(|(_, value)| rule.is_object() && accepts(root, rule, value))
        }),
        "oneOf" => rule.as_array().unwrap().iter().filter(|schema| accepts(root, schema, value)).count() == 1,
        other => panic!("the test does not know the keyword {other}"),
    })
}

/// Every value with one place changed, removed or added to.
fn mutations(value: &Value) -> Vec<Value> {
    let mut out: Vec<Value> = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(2),
        json!(9),
        json!(-1),
        json!(0.5),
        json!(0.0001),
        json!(16.5),
        json!(65536),
        json!(65537),
        json!(1048577),
        json!(4294967295u64),
        json!(4294967296u64),
        json!(18446744073709551615u64),
        json!(1e300),
        json!(""),
        json!("x"),
        json!("level_norm"),
        json!("default"),
        json!("a\u{85}b"),
        json!("é".repeat(128)),
        json!("x".repeat(129)),
        json!("../x"),
        json!([]),
        json!([1]),
        json!([1, 1]),
        json!(vec![1; 65]),
        json!([-1]),
        json!({}),
        json!({"first": 1}),
        json!({"list": [1, 2]}),
        json!({"first": 1, "list": [1, 2]}),
        json!({"tokens": [1]}),
        json!({"scored": true}),
        json!({"codes": 2, "tokens": {"first": 3}}),
        json!({"levels": [{"codes": 2, "tokens": {"first": 3}}]}),
    ]
    .into();
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                out.extend(mutations(inner).into_iter().map(|new| with(map, key, Some(new))));
                out.push(with(map, key, None));
            }
            for key in ["unknown", "first", "list", "codes", "prefix", "scored", "Name"] {
                if !map.contains_key(key) {
                    out.push(with(map, key, Some(json!(1))));
                }
            }
        }
        Value::Array(list) => {
            for (i, inner) in list.iter().enumerate() {
                for new in mutations(inner) {
                    let mut list = list.clone();
                    list[i] = new;
                    out.push(Value::Array(list));
                }
            }
            for copies in [0, 2, 4, 5] {
                out.push(Value::Array(list.iter().cycle().take(list.len() * copies).cloned().collect()));
            }
        }
        _ => {}
    }
    out
}

fn with(map: &serde_json::Map<String, Value>, key: &str, value: Option<Value>) -> Value {
    let mut map = map.clone();
    match value {
        Some(value) => map.insert(key.to_owned(), value),
        None => map.remove(key),
    };
    Value::Object(map)
}

/// Holds schema and parser against each other; true if both accept.
fn agree(schema: &Value, file: &Value, parse: Parser) -> bool {
    let by_schema = accepts(schema, schema, file);
    match parse(&file.to_string()) {
        Ok(()) => assert!(by_schema, "the parser accepts, the schema does not: {file}"),
        Err(ExportError::Contradiction { .. }) => return false,
        Err(error) => assert!(!by_schema, "the schema accepts, the parser does not ({error}): {file}"),
    }
    by_schema
}

type Parser = fn(&str) -> Result<(), ExportError>;

fn manifest(text: &str) -> Result<(), ExportError> {
    Manifest::parse(Path::new("sidereal.json"), text).map(drop)
}

fn scenarios(text: &str) -> Result<(), ExportError> {
    Scenarios::parse(Path::new("scenarios.json"), text).map(drop)
}

/// Mutates `good` files; at least so many must come out, and so many of them accepted by both.
fn agree_on_every_mutation(schema: &str, good: &[&str], parse: Parser, least: [usize; 2]) {
    let schema: Value = serde_json::from_str(&docs(schema)).unwrap();
    let good: Vec<Value> = good.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    assert!(good.iter().all(|file| agree(&schema, file, parse)));
    let all: Vec<Value> = good.iter().flat_map(mutations).collect();
    let accepted = all.iter().filter(|file| agree(&schema, file, parse)).count();
    assert!(all.len() > least[0] && accepted > least[1] && accepted < all.len() / 2, "{accepted} of {}", all.len());
}

#[test]
fn schema_and_parser_agree_on_every_mutation() {
    agree_on_every_mutation("sidereal.schema.json", &[FULL, HEADS], manifest, [1000, 100]);
    agree_on_every_mutation("scenarios.schema.json", &[SCENARIOS], scenarios, [300, 30]);
}

/// Every manifest and every file of scenarios shown in the documentation is one.
#[test]
fn the_documented_files_parse() {
    let text = docs("export-format.md");
    let blocks: Vec<&str> = text.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    for (key, schema, parse, least) in [
        ("\"sidereal\"", "sidereal.schema.json", manifest as Parser, 2),
        ("\"scenarios\"", "scenarios.schema.json", scenarios as Parser, 1),
    ] {
        let schema: Value = serde_json::from_str(&docs(schema)).unwrap();
        let files: Vec<&&str> = blocks.iter().filter(|block| block.contains(key)).collect();
        assert!(files.len() >= least, "{}", files.len());
        for file in files {
            parse(file).unwrap();
            assert!(agree(&schema, &serde_json::from_str(file).unwrap(), parse), "{file}");
        }
    }
}

/// Every key of the schema stands in the documentation's table.
#[test]
fn every_key_is_documented() {
    let text = docs("export-format.md");
    let keys = [
        "sidereal",
        "name",
        "version",
        "sid.levels",
        "codes",
        "tokens.first",
        "tokens.list",
        "prompt",
        "prompt.prefix",
        "prompt.item.prefix",
        "prompt.item.suffix",
        "prompt.suffix",
        "prompt.max_items",
        "decoder_prefix",
        "end.tokens",
        "end.scored",
        "score",
        "heads",
        "length_penalty",
        "catalog",
        "scenarios",
        "id",
        "view",
        "beams",
        "top",
        "max_items_per_sid",
        "deadline_ms",
        "instructions",
    ];
    for key in keys {
        assert!(text.contains(&format!("| `{key}` |")), "docs/export-format.md has no row for `{key}`");
    }
}

/// Every error stands in the documentation's list.
#[test]
fn every_error_is_documented() {
    let text = docs("export-format.md");
    let source = include_str!("../engine/export/error.rs");
    let variants = source.lines().filter_map(|line| {
        let name = line.strip_prefix("    ")?.split([' ', '(']).next()?;
        (name.starts_with(|c: char| c.is_ascii_uppercase()) && line.ends_with(['{', ','])).then_some(name)
    });
    let variants: Vec<&str> = variants.collect();
    assert!(variants.len() > 30, "{variants:?}");
    for name in variants {
        assert!(text.contains(&format!("`{name}`")), "docs/export-format.md does not list {name}");
    }
}
