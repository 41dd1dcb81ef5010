//! Says where and why an export parts from its goldens, as far as what was recorded tells.

use std::sync::Arc;

use crate::cli::check::CheckArgs;
use crate::cli::check::report::{Part, Report};
use crate::cli::units;
use crate::export::{Export, GoldenCase};
use crate::inspect::{self, Means};

/// Compares recorded activations, if there are any; where they do not show why golden cases fail, looks at the tokens.
pub fn check(export: &Arc<Export>, cases: &[GoldenCase], args: &CheckArgs, report: &mut Report) {
    let choice = args.device.choice();
    let means = Means { catalog: args.catalog.as_deref(), device: &choice };
    let failed = report.is_bad(Part::Goldens);
    let activations = match export.activations() {
        Ok(activations) => activations,
        Err(fault) => return report.bad(Part::Activations, fault),
    };
    if let Some(activations) = &activations {
        match inspect::bisect(export, activations, cases, means) {
            Err(fault) => return report.bad(Part::Activations, fault),
            Ok(found) => {
                let agreed = units::plural(found.agreed, "activation");
                if let Some(divergence) = found.divergence {
                    return report.bad(
                        Part::Activations,
                        format!("case {}: after {agreed} that agree it {divergence}", found.case),
                    );
                }
                let told = format!("case {}: {agreed} agree, at most {:.1e} off", found.case, found.largest);
                report.good(Part::Activations, told);
            }
        }
    }
    if !failed {
        return;
    }
    match inspect::token_order(export, cases, means) {
        Err(fault) => report.bad(Part::Tokens, fault),
        Ok(Some(finding)) => report.bad(Part::Tokens, finding),
        Ok(None) if activations.is_none() => report.note(
            Part::Activations,
            "no golden/activations.safetensors: record it where the model was trained (tools/python/activations.py) to learn \
             which operation parts",
        ),
        Ok(None) => {}
    }
}
