//! What the parser takes and refuses, and what must fit what is served.

use super::*;

fn parse(text: &str) -> Result<Scenarios, ExportError> {
    Scenarios::parse(Path::new("scenarios.json"), text)
}

fn told(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// A file of one scenario of id 1 with these keys.
fn with(keys: &str) -> String {
    format!(r#"{{"scenarios": [{{"id": 0}}, {{"id": 1, {keys}}}]}}"#)
}

#[test]
fn reads_every_key() {
    let read = parse(
        r#"{"scenarios": [
            {"id": 4294967295},
            {"id": 1, "name": "home", "view": "home", "beams": 128, "top": 10, "max_items_per_sid": 2, "deadline_ms": 0.5,
             "instructions": {"reasoning": "required", "hint": "default"}}
        ]}"#,
    )
    .unwrap();
    let rule = |name: &str, rule| (name.to_owned(), rule);
    let rules = [rule("hint", InstructionRule::Default), rule("reasoning", InstructionRule::Required)];
    let home = Scenario {
        id: 1,
        name: Some("home".into()),
        view: Some("home".into()),
        beams: Some(128),
        top: Some(10),
        max_items_per_sid: Some(2),
        deadline: Some(Duration::from_micros(500)),
        instructions: rules.into(),
    };
    assert_eq!(read.get(1).map(|scenario| &**scenario), Some(&home));
    let last = read.get(u32::MAX).unwrap();
    assert_eq!((last.beams, last.top, &last.view, &last.name), (None, None, &None, &None));
    assert!(read.get(0).is_none());
    assert_eq!(read.to_string(), "4294967295, 1 (\"home\")");
    assert_eq!(parse(r#"{"scenarios": []}"#).unwrap().to_string(), "no scenarios");
    let many: Vec<String> = (0..20).map(|id| format!(r#"{{"id": {id}}}"#)).collect();
    let many = parse(&format!(r#"{{"scenarios": [{}]}}"#, many.join(","))).unwrap().to_string();
    assert!(many.starts_with("0, 1, ") && many.ends_with("15 and 4 more"), "{many}");
}

#[test]
fn errors_name_file_place_and_what_was_expected() {
    let cases = [
        ("[]".to_owned(), "`(the whole file)` must be an object with `scenarios`"),
        ("{}".into(), "`scenarios` is missing"),
        (r#"{"scenario": []}"#.into(), "unknown key `scenario`; did you mean `scenarios`?"),
        (r#"{"scenarios": {}}"#.into(), "`scenarios` must be a list of at most 4096 scenarios"),
        (r#"{"scenarios": [3]}"#.into(), "`scenarios[0]` must be an object with `id`, `name`"),
        (r#"{"scenarios": [{"name": "x"}]}"#.into(), "`scenarios[0].id` is missing"),
        (r#"{"scenarios": [{"id": -1}]}"#.into(), "`scenarios[0].id` must be the scenario's id"),
        (r#"{"scenarios": [{"id": 4294967296}]}"#.into(), "found 4294967296"),
        (r#"{"scenarios": [{"id": 1}, {"id": 1}]}"#.into(), "`scenarios[1].id`: 1 is the id of scenarios[0] already"),
        (r#"{"scenarios": [], "scenarios": []}"#.into(), "\"scenarios\" appears twice"),
        (r#"{"scenarios": ["#.into(), "is not valid JSON"),
        (with(r#""beam": 3"#), "unknown key `scenarios[1].beam`; did you mean `beams`?"),
        (with(r#""beams": 0"#), "`scenarios[1].beams` must be a beam width, a whole number from 1"),
        (with(r#""top": "3""#), "`scenarios[1].top` must be how many semantic IDs to return"),
        (with(r#""top": 1.0"#), "found 1.0"),
        (with(r#""beams": 4, "top": 5"#), "`scenarios[1].top`: is 5; it must be at most beams (4)"),
        (with(r#""max_items_per_sid": 0"#), "`scenarios[1].max_items_per_sid` must be"),
        (
            with(r#""deadline_ms": 0"#),
            "`scenarios[1].deadline_ms` must be milliseconds, a number from 0.001 to 86400000",
        ),
        (with(r#""deadline_ms": 1e300"#), "`scenarios[1].deadline_ms`"),
        (with(r#""name": """#), "`scenarios[1].name` must be a string of 1 to 128"),
        (with(r#""view": null"#), "`scenarios[1].view` must be a string"),
        (with(r#""instructions": ["hint"]"#), "`scenarios[1].instructions` must be an object"),
        (with(r#""instructions": {"hint": true}"#), "`scenarios[1].instructions.hint` must be `required` or `default`"),
    ];
    for (text, part) in cases {
        let told = told(&text);
        assert!(told.starts_with("scenarios.json: ") && told.contains(part), "{text}: {told:?} lacks {part:?}");
    }
    let many: Vec<String> = (0..4097).map(|id| format!(r#"{{"id": {id}}}"#)).collect();
    assert!(told(&format!(r#"{{"scenarios": [{}]}}"#, many.join(","))).contains("an array of 4097"));
}

#[test]
fn what_is_served_must_have_what_they_name() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let bounds = ScenarioBounds {
        views: names(&["home", "search"]),
        instructions: names(&["scenario", "hint"]),
        max_beams: 64,
        max_deadline: Duration::from_secs(1),
    };
    let nothing = ScenarioBounds { views: Vec::new(), instructions: Vec::new(), ..bounds.clone() };
    let fits = r#""view": "home", "beams": 64, "top": 64, "deadline_ms": 1000, "instructions": {"hint": "required"}"#;
    parse(&with(fits)).unwrap().validate_against(&bounds).unwrap();
    for (keys, bounds, part) in [
        (r#""view": "hom""#, &bounds, "`scenarios[1].view`: view \"hom\": this export has home, search"),
        (r#""view": "home""#, &nothing, "this export has no views"),
        (r#""beams": 65"#, &bounds, "`scenarios[1].beams`: is 65; the limit (max_beams) is 64"),
        (r#""top": 65"#, &bounds, "`scenarios[1].top`: is 65; the limit (max_beams) is 64"),
        (
            r#""deadline_ms": 1000.5"#,
            &bounds,
            "`scenarios[1].deadline_ms`: is 1000.5; the limit (max_deadline) is 1000 ms",
        ),
        (r#""instructions": {"hnt": "default"}"#, &bounds, "`scenarios[1].instructions.hnt`; did you mean `hint`?"),
        (r#""instructions": {"weather": "default"}"#, &bounds, "this export has `scenario` and `hint`"),
        (r#""instructions": {"hint": "default"}"#, &nothing, "this export has no instructions"),
    ] {
        let told = parse(&with(keys)).unwrap().validate_against(bounds).unwrap_err().to_string();
        assert!(told.starts_with("scenarios.json: ") && told.contains(part), "{keys}: {told:?} lacks {part:?}");
    }
}

#[test]
fn an_export_may_have_none() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Scenarios::open(dir.path()).unwrap().is_none());
    let path = dir.path().join(SCENARIOS);
    std::fs::write(&path, r#"{"scenarios": [{"id": 7}]}"#).unwrap();
    assert_eq!(Scenarios::open(dir.path()).unwrap().unwrap().list().len(), 1);
    std::fs::write(&path, vec![b' '; (4 << 20) + 1]).unwrap();
    assert!(matches!(Scenarios::open(dir.path()), Err(ExportError::TooLarge { .. })));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(Scenarios::open(dir.path()), Err(ExportError::NotRegular { .. })));
}
