//! A strict reader of Prometheus' text format 0.0.4: what it does not understand is a failed test.

use std::collections::{BTreeMap, BTreeSet};

/// One line with a value.
#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// What stands under one HELP and TYPE.
#[derive(Debug)]
pub struct Family {
    pub help: String,
    pub kind: String,
    pub samples: Vec<Sample>,
}

/// One scrape, by the families' names.
pub struct Scrape(pub BTreeMap<String, Family>);

impl Scrape {
    /// Reads and checks a whole exposition.
    pub fn parse(text: &str) -> Scrape {
        assert!(text.ends_with('\n') && !text.contains('\r'), "lines end with a line feed");
        let mut families = BTreeMap::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let (name, help) = line.strip_prefix("# HELP ").expect(line).split_once(' ').expect(line);
            assert!(is_name(name), "{line}");
            let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} ")).map(str::to_owned));
            let kind = kind.unwrap_or_else(|| panic!("{name} has HELP and no TYPE behind it"));
            assert!(["counter", "gauge", "histogram"].contains(&kind.as_str()), "{name}: {kind}");
            let mut samples = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                samples.push(sample(line));
            }
            let family = Family { help: help.to_owned(), kind, samples };
            check(name, &family);
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} comes twice");
        }
        Scrape(families)
    }

    /// The value of the one sample with these labels.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| self.0.get(name.strip_suffix(suffix)?))
            .or_else(|| self.0.get(name))
            .unwrap_or_else(|| panic!("no family for {name}"));
        let has = |sample: &&Sample| {
            sample.name == name
                && sample.labels.len() == labels.len()
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|own| own == value))
        };
        family.samples.iter().find(has).unwrap_or_else(|| panic!("no sample {name}{labels:?}")).value
    }

    /// Counters, buckets, sums and counts: whatever may only grow.
    fn growing(&self) -> impl Iterator<Item = (String, f64)> {
        let growing = self.0.values().filter(|family| family.kind != "gauge");
        growing.flat_map(|family| family.samples.iter().map(|s| (format!("{}{:?}", s.name, s.labels), s.value)))
    }

    /// Asserts that nothing that may only grow is smaller than in an earlier scrape, or gone.
    pub fn follows(&self, earlier: &Scrape) {
        let now: BTreeMap<_, _> = self.growing().collect();
        for (name, value) in earlier.growing() {
            assert!(now.get(&name).is_some_and(|now| *now >= value), "{name} was {value}, is {:?}", now.get(&name));
        }
    }
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().expect(line) };
    let (name, labels) = match series.split_once('{') {
        None => (series, BTreeMap::new()),
        Some((name, rest)) => (name, labels(rest.strip_suffix('}').expect(line))),
    };
    assert!(is_name(name), "{line}");
    Sample { name: name.to_owned(), labels, value }
}

/// `key="value"`, with commas between and `\\`, `\"`, `\n` in values.
fn labels(mut rest: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"").expect(rest);
        assert!(is_name(key), "{rest}");
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().expect("a value ends with a quote") {
                (at, '"') => break at,
                (_, '\\') => match chars.next().expect("something is escaped").1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    c => panic!("\\{c} is no escape"),
                },
                (_, c) => value.push(c),
            }
        };
        assert!(labels.insert(key.to_owned(), value).is_none(), "{key} comes twice");
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or_else(|| if rest.is_empty() { rest } else { panic!("{rest}") });
    }
    labels
}

fn check(name: &str, family: &Family) {
    let mut seen = BTreeSet::new();
    for sample in &family.samples {
        assert!(seen.insert((&sample.name, &sample.labels)), "{sample:?} comes twice");
        match family.kind.as_str() {
            "histogram" => {
                let suffix = sample.name.strip_prefix(name).expect("a sample of another family");
                assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{sample:?}");
            }
            kind => {
                assert_eq!(sample.name, name);
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
                assert!(sample.value.is_finite() && sample.value >= 0.0, "{sample:?}");
            }
        }
    }
    if family.kind == "histogram" {
        check_histogram(family);
    }
}

/// For each set of labels: buckets ascend to +Inf, hold ever more, and the last holds as many as were counted.
fn check_histogram(family: &Family) {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<&Sample>> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        labels.remove("le");
        series.entry(labels).or_default().push(sample);
    }
    for samples in series.values() {
        let of = |suffix: &'static str| samples.iter().filter(move |sample| sample.name.ends_with(suffix));
        let bound = |sample: &Sample| match sample.labels["le"].as_str() {
            "+Inf" => f64::INFINITY,
            le => le.parse().unwrap(),
        };
        let buckets: Vec<(f64, f64)> = of("_bucket").map(|sample| (bound(sample), sample.value)).collect();
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{buckets:?}");
        let [count] = of("_count").collect::<Vec<_>>()[..] else { panic!("one count: {samples:?}") };
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, count.value)));
        assert_eq!(of("_sum").count(), 1, "{samples:?}");
    }
}

#[test]
fn what_is_wrong_is_refused() {
    let good = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\\\"\\\\\\n\",y=\"\"} 2\n";
    assert_eq!(Scrape::parse(good).value("a_total", &[("x", "1\"\\\n"), ("y", "")]), 2.0);
    let histogram = |inf: u32| {
        format!(
            "# HELP h H\n# TYPE h histogram\nh_bucket{{le=\"0.5\"}} 1\nh_bucket{{le=\"+Inf\"}} {inf}\nh_sum 3\nh_count 2\n"
        )
    };
    assert_eq!(Scrape::parse(&histogram(2)).value("h_bucket", &[("le", "0.5")]), 1.0);
    for bad in [
        "a_total 1\n",
        "# HELP a_total A\na_total 1\n",
        "# HELP a A\n# TYPE a counter\na 1\n",
        "# HELP a_total A\n# TYPE a_total counter\na_total -1\n",
        "# HELP a_total A\n# TYPE a_total counter\na_total 1\na_total 1\n",
        "# HELP a_total A\n# TYPE a_total counter\nb_total 1\n",
        "# HELP a_total A\n# TYPE a_total counter\na_total{x=1} 1\n",
        "# HELP a_total A\n# TYPE a_total counter\na_total 1",
        &histogram(3),
        &histogram(0),
    ] {
        assert!(std::panic::catch_unwind(|| Scrape::parse(bad)).is_err(), "{bad}");
    }
}
