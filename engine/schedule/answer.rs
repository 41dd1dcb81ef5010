//! From finished beams to a reply: semantic IDs to allowed items, in weight order. Runs off the engine thread.
//!
//! What was delisted since the request was resolved is dropped here; a semantic ID that this leaves empty makes room for the next.
//! In a list it keeps its place, without items: the list was scored with it.

use crate::catalog::{ItemIndex, Snapshot};
use crate::device::Beam;
use crate::request::{Entry, Item, Ranked};
use crate::schedule::resolve::Resolved;
use crate::search::SearchPlan;

/// The reply's results, best first. `newest` is the snapshot of now.
pub fn results(beams: &[Beam], request: &Resolved, plan: &SearchPlan, newest: &Snapshot) -> Vec<Ranked> {
    let catalog = newest.catalog();
    let is_allowed = |item: &ItemIndex| {
        request.allowed.as_ref().is_none_or(|allowed| allowed.contains(*item))
            && newest.is_live(*item)
            && request.denied.binary_search(item).is_err()
    };
    let per_sid = request.max_items_per_sid.map_or(usize::MAX, |count| count as usize);
    let entry = |leaf: u32| {
        let mut sid = vec![0; catalog.levels()];
        catalog.sid_of_leaf(leaf, &mut sid);
        let items = catalog
            .items_of_leaf(leaf)
            .iter()
            .copied()
            .filter(is_allowed)
            .take(per_sid)
            .map(|item| Item {
                id: catalog.id(item),
                key: if request.with_text { catalog.key(item).map(str::to_owned) } else { None },
                title: if request.with_text { catalog.title(item).map(str::to_owned) } else { None },
            })
            .collect();
        Entry { sid, items }
    };
    let ranked = |beam: &Beam| {
        let (score, log_probs) = (plan.final_score(beam.score, request.items()), beam.log_probs.clone());
        let ranked = Ranked { score, key: beam.key, log_probs, ..Ranked::default() };
        if request.list.is_some() {
            let list = beam.earlier.iter().chain([&beam.leaf]).map(|&leaf| entry(leaf)).collect();
            return Ranked { list, ..ranked };
        }
        let Entry { sid, items } = entry(beam.leaf);
        Ranked { sid, items, ..ranked }
    };
    beams.iter().map(ranked).filter(|ranked| ranked.every_item().next().is_some()).take(request.top as usize).collect()
}
