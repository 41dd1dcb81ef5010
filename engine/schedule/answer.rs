//! From finished beams to a reply: semantic IDs to allowed items, in weight order. Runs off the engine thread.

use crate::catalog::Catalog;
use crate::device::Beam;
use crate::request::{Item, Ranked};
use crate::schedule::resolve::Resolved;
use crate::search::SearchPlan;

/// The reply's results, best first.
pub fn results(beams: &[Beam], request: &Resolved, plan: &SearchPlan, catalog: &Catalog) -> Vec<Ranked> {
    let per_sid = request.max_items_per_sid.map_or(usize::MAX, |count| count as usize);
    beams
        .iter()
        .take(request.top as usize)
        .map(|beam| {
            let mut sid = vec![0; catalog.levels()];
            catalog.sid_of_leaf(beam.leaf, &mut sid);
            let items = catalog
                .items_of_leaf(beam.leaf)
                .iter()
                .copied()
                .filter(|item| request.denied.binary_search(item).is_err())
                .take(per_sid)
                .map(|item| Item {
                    id: catalog.id(item),
                    key: if request.with_text { catalog.key(item).map(str::to_owned) } else { None },
                    title: if request.with_text { catalog.title(item).map(str::to_owned) } else { None },
                })
                .collect();
            let (score, log_probs) = (plan.final_score(beam.score), beam.log_probs.clone());
            Ranked { sid, score, items, key: beam.key, log_probs }
        })
        .collect()
}
