//! The command line as a user meets it: help, usage errors, `recommend`, `check`, `eval`, `catalog`.

mod cli_support;

use cli_support::{Copy, golden, golden_arg, sidereal, sidereal_with_input};
use serde_json::{Value, json};

#[test]
fn help_version_and_usage_errors() {
    sidereal(&["--version"]).exits(0).says(&format!("sidereal {}", env!("CARGO_PKG_VERSION")));
    sidereal(&[]).exits(0).says("Usage: sidereal").says("Exit codes");
    sidereal(&["recommend", "--help"]).exits(0).says("deny_history");
    sidereal(&["recomend"]).exits(2).says("recommend");
    sidereal(&["check"]).exits(2).says("EXPORT");
    sidereal(&["check", "/nowhere/at/all"]).exits(3).says("/nowhere/at/all").says("does not exist");
    sidereal(&["serve", "/a", "/b"]).exits(2).says("one export");
    sidereal(&["check", &golden_arg("t5-relu"), "--threads", "0"]).exits(2).says("threads");
}

fn requests(export: &str, lines: &[Value]) -> cli_support::Ran {
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    sidereal_with_input(&["recommend", export, "--requests", "-", "--threads", "1"], &input)
}

/// Lists have entries in place of a semantic ID and items; the flag makes room for them.
#[test]
fn recommend_answers_with_lists() {
    let line = json!({"id": 1, "items": [12069, 23326], "beams": 16, "top": 4, "list": 3}).to_string();
    let export = golden_arg("t5-relu");
    let args = &["recommend", &export, "--requests", "-", "--threads", "1", "--max-list-items", "3"];
    let answers = sidereal_with_input(args, &line).exits(0).json_lines();
    let results = answers[0]["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    for ranked in results {
        assert!(ranked["score"].is_f64() && ranked.get("sid").is_none() && ranked.get("items").is_none());
        let list = ranked["list"].as_array().unwrap();
        let sids: std::collections::BTreeSet<String> = list.iter().map(|entry| entry["sid"].to_string()).collect();
        assert_eq!((list.len(), sids.len()), (3, 3));
        assert!(list.iter().all(|entry| entry["items"][0].is_u64()));
    }
    let refused = requests(&export, &[serde_json::from_str(&line).unwrap()]).json_lines();
    let told = refused[0]["error"]["message"].as_str().unwrap();
    assert!(told.contains("list is 3; it must be 1 to 1"), "{told}");
}

/// Items 20768 and others share semantic IDs in this export; see items.csv.
#[test]
fn recommend_answers_every_line_in_order() {
    let export = golden_arg("t5-relu");
    let first = json!({"id": 10, "items": [12069, 23326], "beams": 32, "top": 3});
    let answers = requests(
        &export,
        &[
            first.clone(),
            json!({"items": [12069, 4], "top": 2, "with_text": true}),
            json!({"id": 18_446_744_073_709_551_615u64, "tokens": [5, 70, 140, 1], "beams": 8, "max_items_per_sid": 1}),
        ],
    )
    .exits(0)
    .json_lines();
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0]["id"], 10);
    assert_eq!(answers[1]["id"], 2, "a line without an id gets its number");
    assert_eq!(answers[2]["id"], 18_446_744_073_709_551_615u64);
    assert_eq!(answers[0]["results"].as_array().unwrap().len(), 3);
    assert_eq!((&answers[0]["unknown_items"], &answers[1]["unknown_items"]), (&json!(0), &json!(1)));
    assert_eq!(answers[0]["prompt_tokens"], 7, "two items of three tokens, and the suffix");
    assert_eq!(answers[0]["model"], "t5-relu@golden.1");
    assert_eq!(answers[0]["dtype"], "f32");
    for key in ["catalog", "device", "timings"] {
        assert!(!answers[0][key].is_null(), "{key}");
    }
    assert!(answers[0]["timings"]["total_us"].as_u64().unwrap() > 0);
    assert!(answers[0]["results"][0]["items"][0].is_u64());
    assert!(answers[1]["results"][0]["items"][0]["id"].is_u64(), "with_text makes items objects");
    for ranked in answers[2]["results"].as_array().unwrap() {
        assert_eq!(ranked["items"].as_array().unwrap().len(), 1);
        assert_eq!(ranked["sid"].as_array().unwrap().len(), 3);
    }
    let scores: Vec<f64> =
        answers[2]["results"].as_array().unwrap().iter().map(|r| r["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");

    // What is denied does not come back; the rest of the list moves up.
    let best = answers[0]["results"][0]["items"].clone();
    let mut denied = first;
    denied["deny"] = best.clone();
    let again = requests(&export, &[denied]).exits(0).json_lines();
    assert_eq!(again[0]["results"][0]["sid"], answers[0]["results"][1]["sid"]);
    assert!(!again[0]["results"].to_string().contains(&best[0].to_string()));
}

#[test]
fn recommend_samples_and_tells_log_probabilities() {
    let export = golden_arg("t5-relu");
    let line = |sample| json!({"items": [12069], "beams": 8, "top": 8, "logprobs": true, "sample": sample});
    let distinct = json!({"kind": "distinct", "seed": 7, "temperature": 1.5});
    let asked =
        [line(distinct.clone()), line(json!({"kind": "independent", "seed": 7})), line(json!(null)), line(distinct)];
    let answers = requests(&export, &asked).exits(0).json_lines();
    for answer in &answers {
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), 8);
        for ranked in results {
            let levels = ranked["logprobs"].as_array().unwrap();
            assert_eq!(levels.len(), 3);
            let sum: f64 = levels.iter().map(|level| level["raw"].as_f64().unwrap()).sum();
            assert!((sum - ranked["score"].as_f64().unwrap()).abs() < 1e-4, "{ranked}");
        }
    }
    assert_eq!(answers[0]["results"], answers[3]["results"], "one seed, one sample");
    assert!(answers[0]["results"][0]["key"].is_f64() && answers[1]["results"][0]["key"].is_null());
    let hot = json!({"items": [12069], "sample": {"kind": "distinct", "seed": 7, "temperature": 0}});
    let refused = requests(&export, &[hot]).exits(1).json_lines();
    assert!(refused[0]["error"]["message"].as_str().unwrap().contains("temperature is 0"), "{}", refused[0]);
}

#[test]
fn recommend_names_what_is_wrong_and_goes_on() {
    let export = golden_arg("t5-relu");
    let input = concat!(
        "{\"id\":1,\"items\":[12069],\"top\":1}\n",
        "\n",
        "{\"id\":2,\"itmes\":[1]}\n",
        "{\"id\":3,\"items\":[1],\"beams\":\"8\"}\n",
        "{\"id\":4,\"items\":[12069],\"beams\":9,\"top\":10}\n",
        "{\"id\":5,\"items\":[4],\"strict\":true}\n",
        "{\"id\":6,\"tokens\":[200]}\n",
        "{\"id\":7,\"items\":[1],\"view\":\"v\"}\n",
        "nonsense\n",
        "{\"id\":8,\"items\":[12069],\"top\":1}",
    );
    let ran = sidereal_with_input(&["recommend", &export, "--requests", "-"], input).exits(1).says("7 of 9 requests");
    let answers = ran.json_lines();
    let error = |at: usize| {
        let error = &answers[at]["error"];
        (error["kind"].as_str().unwrap(), error["message"].as_str().unwrap())
    };
    assert_eq!(answers.len(), 9);
    assert_eq!(answers[0]["results"], answers[8]["results"]);
    for (at, kind, parts) in [
        (1, "BAD_REQUEST", &["line 3", "unknown key \"itmes\""][..]),
        (2, "BAD_REQUEST", &["line 4", "key \"beams\"", "string \"8\""]),
        (3, "BAD_REQUEST", &["top is 10"]),
        (4, "UNKNOWN_ITEM", &["items[0]", "4"]),
        (5, "BAD_REQUEST", &["tokens[0] is 200"]),
        (6, "UNSUPPORTED", &["view"]),
        (7, "BAD_REQUEST", &["line 9"]),
    ] {
        let (found, message) = error(at);
        assert_eq!(found, kind, "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message:?} lacks one of {parts:?}");
    }
    let ids: Vec<&Value> = answers.iter().map(|answer| &answer["id"]).collect();
    assert_eq!(json!(ids), json!([1, 2, 3, 4, 5, 6, 7, null, 8]));

    sidereal(&["recommend", &export, "--requests", "/no/such/file"]).exits(3).says("/no/such/file");
}

#[test]
fn recommend_does_not_depend_on_concurrency() {
    let export = golden_arg("t5-relu");
    let input: String =
        (0..40).map(|id| format!("{{\"id\":{id},\"items\":[12069,23326],\"beams\":{}}}\n", 10 + id % 7)).collect();
    let run = |width: &str| {
        let ran =
            sidereal_with_input(&["recommend", &export, "--requests", "-", "--concurrency", width], &input).exits(0);
        ran.json_lines().into_iter().map(|line| (line["id"].clone(), line["results"].clone())).collect::<Vec<_>>()
    };
    let one = run("1");
    assert_eq!(one.len(), 40);
    assert_eq!(one, run("16"));
}

#[test]
fn check_passes_good_exports() {
    for name in ["t5-relu", "qwen3-untied"] {
        let report = sidereal(&["check", &golden_arg(name), "--json"]).exits(0).json();
        assert_eq!(report["good"], true, "{report}");
        assert!(report["goldens"]["max_delta"].as_f64().unwrap() <= 1e-4);
        assert_eq!(report["goldens"]["cases"].as_array().unwrap().len(), 10);
        assert!(report["tensors"].as_array().unwrap().len() > 20);
    }
    // Tensors that the model does not read are a note.
    sidereal(&["check", &golden_arg("t5-gated")]).exits(0).says("3 tensors not read").says("10 of 10 cases agree");
    sidereal(&["check", &golden_arg("t5-small-catalog"), "--verbose"]).exits(0).says("golden cases").says("F32");
    sidereal(&["check", &golden_arg("t5-small-catalog"), "--dtype", "bf16"]).exits(0).says("in bf16");
    // Goldens were made of the whole catalogue: what was withdrawn since is no fault of the export.
    let copy = Copy::of("t5-small-catalog");
    let first = std::fs::read_to_string(copy.path("items.csv")).unwrap().lines().nth(1).unwrap().to_owned();
    sidereal(&["catalog", "delist", copy.arg(), "--items", first.split(',').next().unwrap()]).exits(0);
    sidereal(&["check", copy.arg()]).exits(0).says("4 of 4 cases agree");
}

#[test]
fn check_collects_every_finding() {
    let copy = Copy::of("t5-relu");
    // A NaN in the last tensor, a token beyond the vocabulary, an item beyond the codebook: three faults, all told.
    copy.edit("model.safetensors", |bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    copy.replace("sidereal.json", "\"suffix\": [1]", "\"suffix\": [200]");
    copy.replace("items.csv", "12069,2,1,3", "12069,2,1,64");
    let report = sidereal(&["check", copy.arg(), "--json"]).exits(1).json();
    let bad: Vec<(&str, &str)> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["grade"] == "bad")
        .map(|finding| (finding["part"].as_str().unwrap(), finding["message"].as_str().unwrap()))
        .collect();
    let said = |part: &str, text: &str| bad.iter().any(|(p, message)| *p == part && message.contains(text));
    assert!(said("weights", "not finite"), "{bad:?}");
    assert!(said("tokens", "`prompt.suffix`") && said("tokens", "200"), "{bad:?}");
    assert!(said("catalogue", "code 64"), "{bad:?}");
    assert_eq!((bad.len(), &report["good"]), (3, &json!(false)), "{bad:?}");
    sidereal(&["check", copy.arg()]).exits(1).says("3 things are bad").says("not run");
}

#[test]
fn check_names_each_broken_part() {
    let broken = |edit: &dyn Fn(&Copy), parts: &[&str]| {
        let copy = Copy::of("t5-relu");
        edit(&copy);
        let ran = sidereal(&["check", copy.arg()]).exits(1);
        parts.iter().fold(ran, |ran, part| ran.says(part));
    };
    broken(
        &|copy| copy.replace("config.json", "\"d_model\": 32", "\"d_model\": 48"),
        &["must be [32, 48]", "found [32, 32]", "and 37 more"],
    );
    broken(&|copy| copy.replace("config.json", "\"model_type\": \"t5\"", "\"model_type\": \"t9\""), &["t9", "served"]);
    broken(&|copy| copy.replace("sidereal.json", "\"score\"", "\"scroe\""), &["manifest", "scroe", "score"]);
    broken(&|copy| copy.edit("model.safetensors", |bytes| bytes.truncate(bytes.len() - 1)), &["weights", "cut short"]);
    broken(&|copy| copy.edit("model.safetensors", |bytes| bytes.truncate(5)), &["weights"]);
    broken(&|copy| std::fs::remove_file(copy.path("items.csv")).unwrap(), &["catalogue", "catalog build"]);
    broken(
        &|copy| {
            std::fs::remove_file(copy.path("config.json")).unwrap();
            copy.replace("sidereal.json", "\"codes\": 64", "\"codes\": 0");
        },
        &["config.json", "codes", "2 things are bad"],
    );
    // A changed weight is no fault of form; only the goldens can tell.
    broken(
        &|copy| {
            copy.edit("model.safetensors", |bytes| {
                let at = bytes.len() - 4;
                bytes[at..].copy_from_slice(&9.0f32.to_le_bytes());
            });
        },
        &["goldens", "case 1"],
    );
    broken(&|copy| copy.replace("golden/cases.jsonl", "\"score\":-16.132048", "\"score\":-16.2"), &["case 1", "off"]);
}

#[test]
fn eval_measures_ranking_and_legality() {
    let export = golden_arg("t5-relu");
    let dir = tempfile::tempdir().unwrap();
    let histories = dir.path().join("users.jsonl");
    let popularity = dir.path().join("popularity.json");
    // The first user's target is what the engine ranks first; the second's does not exist.
    let best = requests(&export, &[json!({"items": [12069, 23326], "deny_history": true})]).exits(0).json_lines();
    let best = &best[0]["results"][0]["items"][0];
    let users = [
        json!({"user": "17", "items": [12069, 23326], "target": best}),
        json!({"user": 18, "items": [12069], "target": 4}),
    ];
    std::fs::write(&histories, users.map(|user| format!("{user}\n")).concat()).unwrap();
    std::fs::write(&popularity, json!({"items": [12069, 23326, best]}).to_string()).unwrap();
    let (histories, popularity) = (histories.to_str().unwrap(), popularity.to_str().unwrap());
    let args = ["eval", &export, "--histories", histories, "--popularity", popularity, "--deny-history", "--json"];
    let told = sidereal(&args).exits(0).json();
    assert_eq!(told["quality"]["users"], 2);
    assert_eq!(told["quality"]["hr@1"], 0.5);
    assert_eq!(told["quality"]["ndcg@10"], 0.5);
    assert_eq!(told["popularity"]["hr@1"], 0.5, "the history is denied to the baseline too");
    assert_eq!((&told["unknown_targets"], &told["refused"]), (&json!(1), &json!(0)));
    assert_eq!((&told["legality"]["answers"], &told["legality"]["illegal"]), (&json!(2), &json!(0)));
    assert!(told["speed"]["latency_ms_p99"].as_f64().unwrap() > 0.0);
    sidereal(&args[..7]).exits(0).says("popularity").says("100%").says("p99");
    sidereal(&["eval", &export, "--histories", histories, "--beams", "5"]).exits(2).says("--top 10");
    std::fs::write(histories, "{\"items\":[1]}\n").unwrap();
    sidereal(&args).exits(1).says("line 1").says("target");
}

#[test]
fn catalogues_are_built_shown_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let out = path("catalog.sid");
    let csv = golden("t5-relu").join("items.csv");
    let csv = csv.to_str().unwrap();
    let built = sidereal(&["catalog", "build", "--from", csv, "--out", &out, "--version", "v7", "--json"]);
    let built = built.exits(0).json();
    assert_eq!((&built["items"], &built["semantic_ids"]), (&json!(982), &json!(400)));
    assert_eq!(built["version"], "v7");
    let info = sidereal(&["catalog", "info", &out, "--json"]).exits(0).json();
    assert_eq!(info["levels"][2], json!({"codes": 64, "nodes": 400}));
    assert_eq!(info["items"], 982);
    sidereal(&["catalog", "info", &out]).exits(0).says("982").says("400");
    sidereal(&["catalog", "verify", &out]).exits(0).says("good");
    // It serves like the list it was built from.
    let export = golden_arg("t5-relu");
    let line = json!({"items": [12069], "top": 5});
    let input = format!("{line}\n");
    let with = sidereal_with_input(&["recommend", &export, "--requests", "-", "--catalog", &out], &input).exits(0);
    let without = requests(&export, &[line]).exits(0);
    assert_eq!(with.json_lines()[0]["results"], without.json_lines()[0]["results"]);
    assert_eq!(with.json_lines()[0]["catalog"], "v7");

    // Declared codes bound what the list may hold; a failed build leaves the old file.
    let narrow = ["catalog", "build", "--from", csv, "--out", &out, "--codes", "64,64,32"];
    sidereal(&narrow).exits(1).says("level 2").says("32");
    sidereal(&["catalog", "verify", &out]).exits(0);
    sidereal(&["catalog", "build", "--from", csv, "--out", &out, "--codes", "64,0"]).exits(2).says("--codes");
    sidereal(&["catalog", "build", "--from", &path("none.csv"), "--out", &out]).exits(3).says("none.csv");

    // One flipped byte anywhere is noticed.
    let bytes = std::fs::read(&out).unwrap();
    let bad = path("bad.sid");
    for at in [0, 20, 60, bytes.len() / 2, bytes.len() - 1] {
        let mut broken = bytes.clone();
        broken[at] ^= 0x10;
        std::fs::write(&bad, broken).unwrap();
        let report = sidereal(&["catalog", "verify", &bad, "--json"]).exits(1).json();
        assert_eq!(report["good"], false, "byte {at}");
        assert!(report["faults"][0].as_str().unwrap().contains("bad.sid"), "{report}");
    }
    sidereal(&["catalog", "info", &path("gone.sid")]).exits(3).says("gone.sid");

    let jsonl = path("items.jsonl");
    let items = "{\"item\":1,\"sid\":[0,1],\"key\":\"a\",\"title\":\"A\"}\n{\"item\":2,\"sid\":[0,1],\"weight\":2}\n";
    std::fs::write(&jsonl, items).unwrap();
    let build = ["catalog", "build", "--from", &jsonl, "--out", &out, "--format", "jsonl", "--json"];
    let built = sidereal(&build).exits(0).json();
    assert_eq!((&built["keys"], &built["titles"], &built["weights"]), (&json!(true), &json!(true), &json!(true)));
    assert_eq!(built["sharing_items"], 2);
}

#[test]
fn catalogues_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let build = |name: &str, version: &str, items: &str| {
        let list = path("items.csv");
        std::fs::write(&list, format!("item,sid0,sid1,weight\n{items}")).unwrap();
        let out = path(name);
        sidereal(&["catalog", "build", "--from", &list, "--out", &out, "--version", version, "--codes", "4,4"])
            .exits(0);
        out
    };
    let old = build("old.sid", "monday", "1,0,1,2\n2,0,1,1\n3,0,2,0\n4,3,3,0\n");
    let renamed = build("renamed.sid", "sunday", "4,3,3,0\n3,0,2,0\n2,0,1,1\n1,0,1,2\n");
    let new = build("new.sid", "tuesday", "1,0,1,2\n2,0,1,3\n3,1,0,0\n5,3,2,0\n");
    sidereal(&["catalog", "diff", &old, &renamed]).exits(0).says("monday").says("sunday").says("the same");
    let ran = sidereal(&["catalog", "diff", &old, &new]).exits(1);
    ran.says("3 in both, 1 added, 1 removed, 1 moved to another semantic ID, 1 of another weight")
        .says("1 in both, 2 added, 2 removed, 1 with items in another order")
        .says("2 and 3 prefixes, 2 in both (66.7%)")
        .says("3 [0, 2] -> [1, 0]")
        .says("different");
    let told = sidereal(&["catalog", "diff", &old, &new, "--json", "--examples", "1"]).exits(1).json();
    assert_eq!(
        (&told["same"], &told["a"]["version"], &told["b"]["version"]),
        (&json!(false), &json!("monday"), &json!("tuesday"))
    );
    assert_eq!(told["items"]["moved"], 1);
    assert_eq!(told["examples"]["moved"], json!([{"item": 3, "from": [0, 2], "to": [1, 0]}]));
    assert_eq!(told["prefixes"][1], json!({"a": 3, "b": 3, "shared": 1}));
    sidereal(&["catalog", "diff", &old, &path("gone.sid")]).exits(3).says("gone.sid");
    sidereal(&["catalog", "diff", &old]).exits(2);
}

/// Lists of other engines: packed integers told by their content, binary records by a manifest.
#[test]
fn catalogues_of_other_engines_are_built() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let out = path("catalog.sid");
    let packed = path("sid2pid.json");
    std::fs::write(&packed, "{\"8193\": [{\"pid\": 7, \"count\": 3, \"count_after_downsample\": 1}]}").unwrap();
    let built = sidereal(&["catalog", "build", "--from", &packed, "--out", &out, "--json"]).exits(0).json();
    assert_eq!((&built["items"], &built["levels"][0]["codes"]), (&json!(1), &json!(8192)));
    // Tokens of t5-gated are in no order; its manifest says which code each is.
    let manifest = golden("t5-gated").join("sidereal.json");
    let levels: Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    let token = |level: usize, code: usize| levels["sid"]["levels"][level]["tokens"]["list"][code].as_i64().unwrap();
    let mut record = 99i64.to_le_bytes().to_vec();
    for (level, code) in [(0, 15), (1, 23), (2, 7), (3, 0)] {
        record.extend_from_slice(&(token(level, code) as i32).to_le_bytes());
    }
    let records = path("content.bin");
    std::fs::write(&records, &record).unwrap();
    let build = ["catalog", "build", "--from", &records, "--out", &out, "--format", "xllm", "--json"];
    sidereal(&build).exits(1).says("--manifest");
    let built = sidereal(&[&build[..], &["--manifest", manifest.to_str().unwrap()]].concat()).exits(0).json();
    assert_eq!((&built["items"], &built["levels"][1]), (&json!(1), &json!({"codes": 24, "nodes": 1})));
    record.pop();
    std::fs::write(&records, &record).unwrap();
    sidereal(&[&build[..], &["--manifest", manifest.to_str().unwrap()]].concat()).exits(1).says("byte offset 20");
    sidereal(&["catalog", "build", "--from", &records, "--out", &out]).exits(1).says("xllm");
}
