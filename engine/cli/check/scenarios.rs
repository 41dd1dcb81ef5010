//! `scenarios.json` against what is served: the views beside the catalogue and the limits.

use std::time::Duration;

use crate::catalog::{Catalog, View};
use crate::cli::check::CheckArgs;
use crate::cli::check::report::{Part, Report};
use crate::cli::units;
use crate::export::{Export, ExportError, ScenarioBounds, Scenarios};
use crate::schedule::{Limits, LoadError, catalog_folder};

/// Reports the scenarios, where there are any. Without a catalogue nothing is known of views, and the file is only read.
pub fn check(export: &Export, args: &CheckArgs, catalog: Option<&Catalog>, report: &mut Report) {
    let scenarios = match export.scenarios() {
        Ok(Some(scenarios)) => scenarios,
        Ok(None) => return,
        Err(fault) => return report.bad(Part::Scenarios, fault),
    };
    let told = units::plural(scenarios.list().len(), "scenario");
    let Some(catalog) = catalog else {
        return report
            .note(Part::Scenarios, format!("{told}, readable; views cannot be looked at without the catalogue"));
    };
    let views = match views(export, args, catalog) {
        Ok(views) => views,
        Err(fault) => return report.bad(Part::Scenarios, fault),
    };
    let instructions = export.manifest().instructions().iter().map(|listed| listed.name.clone()).collect();
    match fit(&scenarios, views, instructions) {
        Ok(None) => report.good(Part::Scenarios, format!("{told}, within the default limits; their views are there")),
        Ok(Some(narrow)) => report.note(Part::Scenarios, format!("{told}; only higher limits serve them: {narrow}")),
        Err(fault) => report.bad(Part::Scenarios, fault),
    }
}

fn views(export: &Export, args: &CheckArgs, catalog: &Catalog) -> Result<Vec<String>, LoadError> {
    let folder = catalog_folder(export, args.catalog.as_deref())?;
    Ok(View::open_all(&folder, catalog)?.iter().map(|view| view.name().to_owned()).collect())
}

/// What is wrong under any limits is an error; what is wrong only under the default ones is returned, for limits are the server's.
fn fit(scenarios: &Scenarios, views: Vec<String>, instructions: Vec<String>) -> Result<Option<String>, ExportError> {
    let Limits { max_beams, max_deadline, .. } = Limits::default();
    let any = ScenarioBounds { views, instructions, max_beams: usize::MAX, max_deadline: Duration::MAX };
    scenarios.validate_against(&any)?;
    let narrow = ScenarioBounds { max_beams, max_deadline, ..any };
    Ok(scenarios.validate_against(&narrow).err().map(|narrow| narrow.to_string()))
}
