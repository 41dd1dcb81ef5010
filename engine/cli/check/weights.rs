//! Every tensor of an export: there, of the right shape, finite.

use std::collections::BTreeMap;

use crate::cli::check::report::{Part, Report, TensorRow};
use crate::cli::{style, units};
use crate::export::{Weights, first_non_finite};
use crate::model::Description;

/// Unused tensors named in the note; more are counted.
const NAMED: usize = 5;

/// Checks `weights` against what the model reads; without a description, only that values are finite.
pub fn check(weights: &Weights, description: Option<&Description>, report: &mut Report) {
    let before = report.bad_count();
    let wanted: Option<BTreeMap<&str, &[usize]>> = description.map(|description| {
        description.tensors.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice())).collect()
    });
    // What should be there: absent, misshapen, or of a type that is not read.
    for (name, shape) in wanted.iter().flatten() {
        if let Err(fault) = weights.expect(name, shape) {
            report.bad(Part::Weights, fault);
        }
    }
    // What is there: finite, where it is read.
    let bar = style::progress(weights.names().count(), "weights");
    let mut read_bytes = 0;
    let mut read_tensors = 0;
    let mut unused: Vec<String> = Vec::new();
    for facts in weights.facts() {
        bar.inc(1);
        let read = wanted.as_ref().map(|wanted| wanted.contains_key(facts.name));
        let mut first = None;
        if read != Some(false)
            && let Ok(tensor) = weights.tensor(facts.name)
        {
            read_tensors += 1;
            read_bytes += tensor.bytes().len();
            first = first_non_finite(&tensor);
        }
        if let Some(at) = first {
            report.bad(
                Part::Weights,
                format!(
                    "{}: tensor `{}` {:?}: value {at} is not finite; the training run or the conversion broke it",
                    facts.file.display(),
                    facts.name,
                    facts.shape
                ),
            );
        }
        if read == Some(false) {
            unused.push(facts.name.to_owned());
        }
        report.tensors.push(TensorRow {
            name: facts.name.to_owned(),
            dtype: facts.dtype.clone(),
            shape: facts.shape.to_vec(),
            read,
            first_non_finite: first,
        });
    }
    bar.finish_and_clear();
    if report.bad_count() == before {
        let tensors = units::plural(read_tensors, "tensor");
        let shapes = if wanted.is_some() { " of the right shape" } else { "" };
        report.good(Part::Weights, format!("{tensors}{shapes}, all finite, {}", units::show_bytes(read_bytes)));
    }
    if !unused.is_empty() {
        let named = unused.iter().take(NAMED).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let more = match unused.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        report.note(Part::Weights, format!("{} not read: {named}{more}", units::plural(unused.len(), "tensor")));
    }
}
