//! Suspects of a matrix product: a weight that was transposed, permuted, scaled, swapped or rounded on its way here.

use crate::export::{TensorView, Weights};
use crate::inspect::matrix::{Matrix, TOLERANCE};

/// Below this, values are those of the weight, changed a little; other values are about as far off as they are large.
const CLOSE: f32 = 0.15;
/// Tensors tried in a weight's place.
const MOST_TRIED: usize = 256;

/// A product that is not what it should be.
pub(in crate::inspect) struct Product<'a> {
    /// The export's weights.
    pub weights: &'a Weights,
    /// `[out, in]`.
    pub weight: &'a TensorView,
    /// Elements of an attention head.
    pub head_dim: usize,
    /// What it is multiplied with, `[rows, in]`.
    pub x: &'a Matrix,
    /// `[rows, out]`.
    pub got: &'a Matrix,
    /// `[rows, out]`.
    pub expected: &'a Matrix,
}

/// What explains the difference.
pub(in crate::inspect) fn product(product: &Product<'_>) -> Option<String> {
    let Product { weight, x, got, expected, .. } = *product;
    if weight.rows() == weight.cols() && x.times_transposed(weight).agrees(expected) {
        return Some("the weight is stored transposed".into());
    }
    if let Some(factor) = got.factor(expected) {
        return Some(format!("the weight is off by a factor: multiply it by {factor}{}", known(factor, product)));
    }
    rotary_order(product)
        .or_else(|| missing_bias(got, expected))
        .or_else(|| permutation(got, expected))
        .or_else(|| another(product))
        .or_else(|| Some(extent(got, expected)))
}

/// Says where a factor comes from, if it is one of those that exporters fold in or forget.
fn known(factor: f32, product: &Product<'_>) -> String {
    let near = |value: f32| (factor / value - 1.0).abs() < 1e-3;
    let (head, width) = (product.head_dim as f32, product.x.cols as f32);
    let names = [
        (head.sqrt(), "sqrt(head_dim): the attention scale was folded in"),
        (head.sqrt().recip(), "1/sqrt(head_dim): the attention scale is to be folded in"),
        (width.sqrt(), "sqrt(hidden)"),
        (width.sqrt().recip(), "1/sqrt(hidden)"),
    ];
    names.iter().find(|(value, _)| near(*value)).map_or_else(String::new, |(_, name)| format!(" = {name}"))
}

/// Rows of a head in the order of Meta's checkpoints and of GGUF files, where RoPE turns neighbours, or the reverse.
fn rotary_order(product: &Product<'_>) -> Option<String> {
    let (dim, cols) = (product.head_dim, product.got.cols);
    if dim == 0 || !dim.is_multiple_of(2) || !cols.is_multiple_of(dim) {
        return None;
    }
    let halves = |column: usize| column / dim * dim + (column % dim % 2) * (dim / 2) + column % dim / 2;
    let pairs = |column: usize| column / dim * dim + (column % dim % (dim / 2)) * 2 + column % dim / (dim / 2);
    if product.got.reordered(pairs).agrees(product.expected) {
        return Some(
            "rows of each head are interleaved for RoPE over neighbours, as Meta's and GGUF files have them: \
             write first all even rows of a head, then all odd ones"
                .into(),
        );
    }
    product.got.reordered(halves).agrees(product.expected).then(|| {
        "rows of each head are split for RoPE over halves, once more than they should be: it was un-permuted twice"
            .into()
    })
}

/// The same difference in every row.
fn missing_bias(got: &Matrix, expected: &Matrix) -> Option<String> {
    let difference = expected.minus(got);
    if got.rows() < 2 {
        return None;
    }
    let first = Matrix::filled(got.rows(), got.cols, |_, out| out.copy_from_slice(difference.row(0)));
    let corrected = Matrix::filled(got.rows(), got.cols, |row, out| {
        for (column, value) in out.iter_mut().enumerate() {
            *value = got.row(row)[column] + first.row(row)[column];
        }
    });
    corrected
        .agrees(expected)
        .then(|| "the same vector is missing in every row: a bias was left out, or is another".into())
}

/// Every expected column is there, elsewhere.
fn permutation(got: &Matrix, expected: &Matrix) -> Option<String> {
    let columns: Vec<Vec<f32>> = (0..got.cols).map(|column| got.column(column)).collect();
    let norm = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt();
    let mut by_first: Vec<usize> = (0..got.cols).collect();
    by_first.sort_by(|a, b| columns[*a][0].total_cmp(&columns[*b][0]));
    let mut taken = vec![false; got.cols];
    let mut moved = None;
    let mut count = 0;
    for column in 0..expected.cols {
        let wanted = expected.column(column);
        let slack = TOLERANCE * norm(&wanted).max(1e-6);
        let from = by_first.partition_point(|other| columns[*other][0] < wanted[0] - slack);
        let found = by_first[from..]
            .iter()
            .take_while(|other| columns[**other][0] <= wanted[0] + slack)
            .filter(|other| !taken[**other])
            .find(|other| norm(&wanted.iter().zip(&columns[**other]).map(|(a, b)| a - b).collect::<Vec<_>>()) <= slack);
        let found = *found?;
        taken[found] = true;
        if found != column {
            count += 1;
            moved.get_or_insert((column, found));
        }
    }
    let (column, found) = moved?;
    Some(format!(
        "{count} of {} rows of the weight are permuted; the first that belongs elsewhere: row {column} is stored as row {found}",
        got.cols
    ))
}

/// Another tensor of the export gives what is expected.
fn another(product: &Product<'_>) -> Option<String> {
    let Product { weights, weight, x, expected, .. } = *product;
    // One row tells; a large export has hundreds of tensors of one shape.
    let (x, expected) = (x.last(1), expected.last(1));
    let alike = weights.facts().filter(|facts| facts.shape == weight.shape() && facts.name != weight.name());
    let names: Vec<&str> = alike.map(|facts| facts.name).take(MOST_TRIED).collect();
    names
        .into_iter()
        .find(|name| weights.tensor(name).is_ok_and(|tensor| x.times(&tensor).agrees(&expected)))
        .map(|name| format!("what is expected is what `{name}` gives: the two are swapped, or one was written twice"))
}

/// How much of it is wrong.
fn extent(got: &Matrix, expected: &Matrix) -> String {
    let difference = got.difference(expected);
    if difference < CLOSE {
        let percent = difference * 100.0;
        return format!("values are close ({percent:.2}% off): the weight was rounded, quantised or trained further");
    }
    let wrong: Vec<usize> = (0..got.cols)
        .filter(|column| {
            let column = |matrix: &Matrix| Matrix::new(1, matrix.column(*column));
            !column(got).agrees(&column(expected))
        })
        .collect();
    match (wrong.first(), wrong.last()) {
        (Some(first), Some(last)) if wrong.len() < got.cols => {
            format!("{} of {} rows of the weight are wrong, between rows {first} and {last}", wrong.len(), got.cols)
        }
        _ => "every row of the weight gives something else: it is not the weight that the framework had".into(),
    }
}

/// What explains logits of a level's `tokens` that are wrong behind right hidden states. `all`: the expected logits of the whole
/// vocabulary, one row.
pub(in crate::inspect) fn head(product: &Product<'_>, tokens: &[u32], all: &Matrix) -> Option<String> {
    let Product { weights, weight, x, got, expected, .. } = *product;
    if let Some(factor) = got.factor(expected) {
        return Some(format!("logits are off by a factor: multiply them by {factor}{}", known(factor, product)));
    }
    let alike = weights.facts().filter(|facts| facts.shape == weight.shape() && facts.name != weight.name());
    let names: Vec<&str> = alike.map(|facts| facts.name).collect();
    let other = names.into_iter().find(|name| weights.tensor(name).is_ok_and(|other| x.times(&other).agrees(all)));
    if let Some(other) = other {
        let head = weight.name();
        return Some(format!("the framework's head is `{other}`, the export's `{head}`: tie_word_embeddings is wrong"));
    }
    let wrong = (0..got.cols).filter(|column| (got.row(0)[*column] - expected.row(0)[*column]).abs() > TOLERANCE);
    let belongs = |column: usize| {
        let here = got.row(0)[column];
        (0..all.cols).find(|token| (all.row(0)[*token] - here).abs() <= TOLERANCE * 0.01 * (1.0 + here.abs()))
    };
    let moved: Option<Vec<(usize, usize)>> = wrong.map(|column| Some((column, belongs(column)?))).collect();
    match moved.as_deref() {
        Some([(column, token), ..]) => Some(format!(
            "rows of the head are permuted: token {}'s row is the one that belongs to token {token}",
            tokens[*column]
        )),
        _ => Some(extent(got, expected)),
    }
}
