//! What may be recommended at one moment: a catalogue, its views, and which items are delisted.
//!
//! A snapshot never changes. A delisting makes a new one beside it; whoever holds the old one goes on with a set that does
//! not move.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Allowed, Catalog, Change, ItemIndex, View};

/// A catalogue, its views and the delist epoch.
#[derive(Clone, Debug)]
pub struct Snapshot {
    catalog: Arc<Catalog>,
    epoch: u64,
    delisted: BTreeSet<u64>,
    /// Items that are not delisted; `None` while that is all of them.
    live: Option<Allowed>,
    views: Vec<(Arc<View>, Allowed)>,
}

/// A request names a view that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("view {name:?}: {}", if known.is_empty() { "this export has no views".to_owned() } else { format!("this export has {}", known.join(", ")) })]
pub struct UnknownView {
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub known: Vec<String>,
}

impl Snapshot {
    /// Everything is live, in the catalogue and in its views.
    pub fn new(catalog: Arc<Catalog>, views: Vec<View>) -> Snapshot {
        let views = views.into_iter().map(|view| {
            let allowed = Allowed::of_items(&catalog, view.items().to_vec());
            (Arc::new(view), allowed)
        });
        let views = views.collect();
        Snapshot { catalog, epoch: 0, delisted: BTreeSet::new(), live: None, views }
    }

    /// The snapshot after the journal's next changes, the last of which is `epoch`.
    pub fn after(&self, changes: &[Change], epoch: u64) -> Snapshot {
        let mut delisted = self.delisted.clone();
        let mut touched = BTreeSet::new();
        for change in changes {
            for &item in &change.items {
                touched.insert(item);
                if change.delists {
                    delisted.insert(item)
                } else {
                    delisted.remove(&item)
                };
            }
        }
        // What the catalogue does not know may come with the next one; until then it changes nothing here.
        let known = touched.into_iter().filter_map(|id| Some((self.catalog.item(id)?, !delisted.contains(&id))));
        let known: Vec<(ItemIndex, bool)> = known.collect();
        let everything = || Allowed::everything(&self.catalog);
        let live = match (&self.live, known.iter().any(|(_, live)| !live)) {
            (None, false) => None,
            (live, _) => Some(live.clone().unwrap_or_else(everything).with(&self.catalog, &known)),
        };
        let of_view = |(view, allowed): &(Arc<View>, Allowed)| {
            let inside: Vec<_> = known.iter().copied().filter(|(item, _)| view.contains(*item)).collect();
            (Arc::clone(view), allowed.with(&self.catalog, &inside))
        };
        let live = live.filter(|live| live.count() < self.catalog.items());
        let views = self.views.iter().map(of_view).collect();
        Snapshot { catalog: Arc::clone(&self.catalog), epoch, delisted, live, views }
    }

    /// The catalogue.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Records of the journal that it follows from; 0 without a journal.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many ids are delisted, those that the catalogue does not know included.
    pub fn delisted(&self) -> usize {
        self.delisted.len()
    }

    /// What replies call it: the catalogue's version, then `+e` and the epoch once anything was delisted.
    pub fn version(&self) -> String {
        let version = self.catalog.version();
        if self.epoch == 0 { version.to_owned() } else { format!("{version}+e{}", self.epoch) }
    }

    /// Whether the item may be recommended at all.
    pub fn is_live(&self, item: ItemIndex) -> bool {
        self.live.as_ref().is_none_or(|live| live.contains(item))
    }

    /// Views with what is live of them.
    pub fn views(&self) -> impl ExactSizeIterator<Item = (&View, &Allowed)> {
        self.views.iter().map(|(view, allowed)| (&**view, allowed))
    }

    /// What a request may be given: the live items of its view, or of the catalogue; `None` when that is every item.
    ///
    /// # Errors
    /// There is no such view.
    pub fn allowed(&self, view: Option<&str>) -> Result<Option<&Allowed>, UnknownView> {
        let Some(name) = view else { return Ok(self.live.as_ref()) };
        match self.views().find(|(view, _)| view.name() == name) {
            Some((_, allowed)) => Ok(Some(allowed)),
            None => {
                let known = self.views().map(|(view, _)| view.name().to_owned()).collect();
                Err(UnknownView { name: name.to_owned(), known })
            }
        }
    }
}
