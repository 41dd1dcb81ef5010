//! Suspects of operations on single rows: look-ups, norms, gated activations.

use crate::device::Activation;
use crate::device::cpu::gemm::activate;
use crate::export::{TensorView, Weights};
use crate::inspect::matrix::Matrix;

/// What explains wrong embeddings of `tokens`.
pub(in crate::inspect) fn embedding(
    table: &TensorView,
    tokens: &[u32],
    got: &Matrix,
    expected: &Matrix,
) -> Option<String> {
    if let Some(factor) = got.factor(expected) {
        let root = (table.cols() as f32).sqrt();
        let name =
            if (factor / root - 1.0).abs() < 1e-3 { " = sqrt(hidden): the family scales its embeddings" } else { "" };
        return Some(format!("embeddings are off by a factor: multiply them by {factor}{name}"));
    }
    let mut row = vec![0.0; table.cols()];
    for (at, token) in tokens.iter().enumerate() {
        let wanted = Matrix::new(table.cols(), expected.row(at).to_vec());
        if Matrix::new(table.cols(), got.row(at).to_vec()).agrees(&wanted) {
            continue;
        }
        let found = (0..table.rows()).find(|other| {
            table.read_row(*other, &mut row);
            Matrix::new(table.cols(), row.clone()).agrees(&wanted)
        });
        return Some(match found {
            Some(other) => format!(
                "rows of the table are out of order: what belongs to token {token} is in row {other} ({:+})",
                other as i64 - i64::from(*token)
            ),
            None => format!("row {token} of the table is not what the framework had, and no other row is"),
        });
    }
    None
}

/// What explains a wrong norm of `x`.
pub(in crate::inspect) fn norm(
    weights: &Weights,
    weight: &TensorView,
    eps: f32,
    (x, expected): (&Matrix, &Matrix),
) -> Option<String> {
    let values = weight.to_f32();
    let normed = |eps: f32, values: &[f32], shift: f32| {
        Matrix::filled(x.rows(), x.cols, |row, out| {
            let x = x.row(row);
            let scale = (x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32 + eps).sqrt().recip();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(values) {
                *out = x * scale * (weight + shift);
            }
        })
    };
    if normed(eps, &values, 1.0).agrees(expected) {
        return Some(
            "the framework adds 1 to the weight (zero-centred norm, as Gemma's); add it when exporting".into(),
        );
    }
    for other in [0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-3, 1e-2, 1e-1] {
        if other != eps && normed(other, &values, 0.0).agrees(expected) {
            return Some(format!("config.json gives epsilon {eps:e}; with {other:e} it is as expected"));
        }
    }
    if layer_norm(x, eps, &values).agrees(expected) {
        return Some("the framework subtracts the mean (LayerNorm); this family has RMS norms".into());
    }
    let alike = weights.facts().filter(|facts| facts.shape == weight.shape() && facts.name != weight.name());
    let names: Vec<&str> = alike.map(|facts| facts.name).collect();
    let swapped = names
        .into_iter()
        .find(|name| weights.tensor(name).is_ok_and(|other| normed(eps, &other.to_f32(), 0.0).agrees(expected)))
        .map(|name| format!("what is expected is what `{name}` gives: the two are swapped, or one was written twice"));
    let factor = || {
        let factor = normed(eps, &values, 0.0).factor(expected)?;
        Some(format!("the weight is off by a factor: multiply it by {factor}"))
    };
    swapped.or_else(factor)
}

fn layer_norm(x: &Matrix, eps: f32, weight: &[f32]) -> Matrix {
    Matrix::filled(x.rows(), x.cols, |row, out| {
        let x = x.row(row);
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / x.len() as f32;
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = (x - mean) / (variance + eps).sqrt() * weight;
        }
    })
}

/// What explains the wrong output of an activation; `up` is there when it is gated.
pub(in crate::inspect) fn activation(
    configured: Activation,
    gate: &Matrix,
    up: Option<&Matrix>,
    expected: &Matrix,
) -> Option<String> {
    let activated = |activation: Activation, gate: &Matrix, up: Option<&Matrix>| {
        let mut out = gate.map(|value| activate(activation, value));
        if let Some(up) = up {
            for (out, up) in out.values.iter_mut().zip(&up.values) {
                *out *= up;
            }
        }
        out
    };
    if let Some(up) = up
        && activated(configured, up, Some(gate)).agrees(expected)
    {
        return Some("gate and up projection are swapped".into());
    }
    let others = [Activation::Relu, Activation::GeluTanh, Activation::GeluErf, Activation::Silu];
    others
        .into_iter()
        .filter(|other| *other != configured)
        .find(|other| activated(*other, gate, up).agrees(expected))
        .map(|other| format!("config.json asks for {}; with {} it is as expected", name(configured), name(other)))
}

fn name(activation: Activation) -> &'static str {
    match activation {
        Activation::Relu => "relu",
        Activation::GeluTanh => "gelu_new (tanh)",
        Activation::GeluErf => "gelu (erf)",
        Activation::Silu => "silu",
    }
}
