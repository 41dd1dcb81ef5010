//! The plain path: one row and head after the other, every score in memory, softmax in two passes. The oracle.

use std::cell::RefCell;

use super::tile::Tile;

thread_local! {
    /// Scores and one key or value, kept from call to call: grows to the longest history once.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Computes a tile.
pub(super) fn run(tile: &Tile<'_>) {
    SCRATCH.with_borrow_mut(|scratch| {
        for v in 0..tile.count {
            run_row(tile, v, scratch);
        }
    });
}

fn run_row(tile: &Tile<'_>, v: usize, scratch: &mut Vec<f32>) {
    let n = tile.head_dim;
    let visible = tile.visible(v);
    let own_tokens = tile.own.map_or(0, |own| own.step + 1);
    scratch.clear();
    scratch.resize(4 * n + visible + own_tokens, 0.0);
    let (query, rest) = scratch.split_at_mut(n);
    let (key, rest) = rest.split_at_mut(n);
    let (value, rest) = rest.split_at_mut(n);
    let (out, scores) = rest.split_at_mut(n);
    tile.load_query(v, query);

    let bias = |distance: isize| tile.bias.map_or(0.0, |bias| bias.at(tile.head(v), distance));
    let dot = |key: &[f32], query: &[f32]| key.iter().zip(query).map(|(k, q)| k * q).sum::<f32>();
    for (position, score) in scores[..visible].iter_mut().enumerate() {
        load_shared(tile, position, key, value);
        *score = dot(key, query) + bias(position as isize - tile.position(v) as isize);
    }
    for (s, score) in scores[visible..].iter_mut().enumerate() {
        load_own(tile, v, s, key, value);
        *score = dot(key, query) + bias(s as isize - (own_tokens - 1) as isize);
    }

    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for score in &mut *scores {
        *score = (*score - max).exp();
    }
    let denominator = scores.iter().sum::<f32>();
    for (index, &probability) in scores.iter().enumerate() {
        if index < visible {
            load_shared(tile, index, key, value);
        } else {
            load_own(tile, v, index - visible, key, value);
        }
        for (out, value) in out.iter_mut().zip(&*value) {
            *out += probability * value;
        }
    }
    if denominator > 0.0 {
        for out in &mut *out {
            *out /= denominator;
        }
    }
    tile.store(v, out);
}

/// Key and value at `position` of the shared pages.
fn load_shared(tile: &Tile<'_>, position: usize, key: &mut [f32], value: &mut [f32]) {
    let shared = tile.shared.expect("a tile that sees shared keys has pages");
    let page_tokens = shared.kv.shape().page_tokens;
    let page = shared.pages[position / page_tokens];
    // SAFETY: attention borrows the pool, so nobody writes it.
    unsafe { shared.kv.read_head(shared.layer, page, position % page_tokens, tile.kv_head, key, value) };
}

/// Key and value of virtual row `v`'s own token of step `s`.
fn load_own(tile: &Tile<'_>, v: usize, s: usize, key: &mut [f32], value: &mut [f32]) {
    let own = tile.own.expect("a tile that sees own tokens has a slab");
    let row = tile.own_row(&own, v, s);
    // SAFETY: attention borrows the slab, so nobody writes it.
    unsafe {
        own.kv.read_head(own.layer, s, row, 0, tile.kv_head, key);
        own.kv.read_head(own.layer, s, row, 1, tile.kv_head, value);
    }
}
