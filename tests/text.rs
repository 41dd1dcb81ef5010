//! Text prompts: the tokens that `transformers` makes, and the same recommendations as for those tokens.

mod cli_support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cli_support::serving::Serving;
use cli_support::{Copy, sidereal, sidereal_with_input};
use serde::Deserialize;
use serde_json::{Value, json};
use sidereal::export::TextTokenizer;
use sidereal::request::{History, RefusalKind, Request};

/// One line of `cases.jsonl`.
#[derive(Deserialize)]
struct Case {
    text: String,
    tokens: Vec<u32>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizers").join(name)
}

fn cases(name: &str) -> Vec<Case> {
    let cases = std::fs::read_to_string(folder(name).join("cases.jsonl")).unwrap();
    cases.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn tokenizer(name: &str) -> TextTokenizer {
    TextTokenizer::open(&folder(name)).unwrap().unwrap()
}

/// An export of 200 tokens with the tokenizer that fits it.
fn export() -> Copy {
    let export = Copy::of("qwen3-gqa");
    std::fs::copy(folder("sentence-piece").join("tokenizer.json"), export.path("tokenizer.json")).unwrap();
    export
}

#[test]
fn texts_become_the_tokens_of_transformers() {
    for name in ["byte-level", "sentence-piece", "character-bpe"] {
        let tokenizer = tokenizer(name);
        let cases = cases(name);
        assert!(cases.len() > 120, "{name}");
        for case in cases {
            assert_eq!(tokenizer.encode(&case.text), Ok(case.tokens), "{name}: {:?}", case.text);
        }
    }
}

/// The byte-level file says that prompts are cut after 5 tokens and filled up to 12; a server must do neither.
#[test]
fn nothing_is_cut_or_filled_up() {
    let file = std::fs::read_to_string(folder("byte-level").join("tokenizer.json")).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    assert_eq!((&file["truncation"]["max_length"], &file["padding"]["strategy"]["Fixed"]), (&json!(5), &json!(12)));
    let tokenizer = tokenizer("byte-level");
    assert_eq!(tokenizer.encode("tea").unwrap().len(), 2);
    assert_eq!(tokenizer.encode(&"tea ".repeat(100)).unwrap().len(), 102);
}

/// What the longest text that is let in may cost, in the shapes that are hard: one word, spaces, noise.
#[test]
fn the_longest_text_takes_little_time() {
    let longest = 64 << 10;
    for name in ["byte-level", "sentence-piece", "character-bpe"] {
        let tokenizer = tokenizer(name);
        for piece in ["a", " ", "ab", "<a_1", "\u{301}", "\u{1f469}\u{200d}", "1", "\n ", "'"] {
            let text = piece.repeat(longest / piece.len());
            let began = Instant::now();
            assert!(!tokenizer.encode(&text).unwrap().is_empty() || piece.trim().is_empty());
            assert!(began.elapsed() < Duration::from_secs(10), "{name}: {piece:?} took {:?}", began.elapsed());
        }
    }
}

#[test]
fn a_text_is_recommended_for_like_its_tokens() {
    let export = export();
    let case = cases("sentence-piece").into_iter().find(|case| case.text == "tea<a_1>tea").unwrap();
    let ask = |history: Value| {
        let mut line = json!({"id": 1, "beams": 8, "top": 5});
        line.as_object_mut().unwrap().extend(history.as_object().unwrap().clone());
        let args = ["recommend", export.arg(), "--requests", "-", "--device", "cpu", "--threads", "1"];
        let answer = sidereal_with_input(&args, &line.to_string()).exits(0).json_lines().remove(0);
        (answer["results"].clone(), answer["prompt_tokens"].clone())
    };
    let by_text = ask(json!({"text": case.text}));
    assert_eq!(by_text, ask(json!({"tokens": case.tokens})));
    assert_eq!(by_text.0.as_array().map(Vec::len), Some(5));
    assert_ne!(by_text, ask(json!({"text": "coffee"})));
}

#[test]
fn a_server_takes_text_and_names_what_it_does_not() {
    let export = export();
    let args = ["--listen", "127.0.0.1:0", "--max-text-bytes", "1000", "--max-prompt-tokens", "60"];
    let server = Serving::of(export.arg(), &args);
    let mut client = server.connect(0, None);
    let mut ask = |text: &str| client.recommend(&Request::new(1, History::Text(text.into()), 8, 5)).unwrap();
    assert_eq!(ask("Green tea <a_1>").unwrap().results.len(), 5);
    for (text, kind, told) in [
        ("a".repeat(1001), RefusalKind::TooLong, "the text has 1001 bytes; the limit is 1000"),
        ("\u{e9}".repeat(501), RefusalKind::TooLong, "the text has 1002 bytes"),
        ("tea ".repeat(100), RefusalKind::TooLong, "tokens; the limit is 60"),
    ] {
        let refusal = ask(&text).unwrap_err();
        assert_eq!(refusal.kind, kind);
        assert!(refusal.message.contains(told), "{refusal}");
    }
    let denied = Request { deny_history: true, ..Request::new(2, History::Text("tea".into()), 8, 5) };
    let refusal = client.recommend(&denied).unwrap().unwrap_err();
    assert!(refusal.kind == RefusalKind::BadRequest && refusal.message.contains("deny_history"), "{refusal}");
    drop(client);
    server.signal("TERM");
    server.finish().exits(0);

    let without = Serving::start(&["--listen", "127.0.0.1:0"]);
    let asked = Request::new(1, History::Text("tea".into()), 8, 5);
    let refusal = without.connect(0, None).recommend(&asked).unwrap().unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unsupported);
    assert!(refusal.message.contains("no tokenizer.json") && refusal.message.contains("send"), "{refusal}");
}

#[test]
fn check_looks_at_the_tokenizer() {
    let check = |export: &Copy| sidereal(&["check", export.arg(), "--skip-goldens", "--device", "cpu"]);
    let export = export();
    check(&export).exits(0).says("160 tokens, all in the model");
    let broken = |from: &str, to: &str, told: &str| {
        let export = self::export();
        export.replace("tokenizer.json", from, to);
        check(&export).exits(1).says("tokenizer.json").says(told);
        let args = ["recommend", export.arg(), "--requests", "/dev/null", "--device", "cpu", "--threads", "1"];
        sidereal(&args).exits(1).says("tokenizer.json").says(told);
    };
    broken("{", "{{", "is not a tokenizer that can be served");
    broken("\"Unigram\"", "\"Bigram\"", "is not a tokenizer that can be served");
    broken("\"unk_id\":2", "\"unk_id\":2,\"dropout\":0.1", "model.dropout is 0.1");
    // Of another model: 430 tokens where this one has rows for 200.
    let foreign = self::export();
    std::fs::copy(folder("character-bpe").join("tokenizer.json"), foreign.path("tokenizer.json")).unwrap();
    check(&foreign).exits(1).says("\"<case>\" has id 429").says("vocabulary ends at 200");
    // Cut anywhere, it is an error and nothing worse.
    let whole = std::fs::read(export.path("tokenizer.json")).unwrap();
    for part in [0, 1, 10, whole.len() / 2, whole.len() - 1] {
        std::fs::write(export.path("tokenizer.json"), &whole[..part]).unwrap();
        assert!(TextTokenizer::open(Path::new(export.arg())).is_err(), "cut after {part}");
    }
}
