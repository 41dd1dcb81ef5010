//! Suspects of attention: RoPE's form and base, norms of queries and keys, the scale, the mask, the grouping of heads, and the
//! relative bias. The projections were right, so it can be computed again from them under one changed setting at a time.

use crate::device::{Mask, RelativeBiasSource};
use crate::export::TensorView;
use crate::inspect::matrix::{Matrix, dot};
use crate::inspect::tracer::Attended;

/// Bases that published models use.
const BASES: [f64; 8] = [10_000.0, 1_000_000.0, 500_000.0, 100_000.0, 5_000_000.0, 1_000.0, 150_000.0, 8_000_000.0];

/// How queries and keys are turned by their position.
#[derive(Clone, Copy, PartialEq)]
enum Rotation {
    None,
    /// Element i turns with element i + half, by the configured angles.
    Halves,
    /// Neighbours turn together, by the configured angles.
    Neighbours,
    /// Halves, unscaled, with another base.
    Base(f64),
}

/// Which key head a query head uses.
#[derive(Clone, Copy, PartialEq)]
enum Grouping {
    /// Query heads of a group are neighbours.
    Blocks,
    /// They are as far apart as there are key heads.
    Strided,
}

/// Everything that may be otherwise.
#[derive(Clone)]
struct Setting<'a> {
    rotation: Rotation,
    head_norm: bool,
    scale: f32,
    mask: Mask,
    grouping: Grouping,
    bias: Bias<'a>,
}

/// Added to the scores.
#[derive(Clone, Copy)]
enum Bias<'a> {
    None,
    ByDistance(&'a RelativeBiasSource),
    /// As the framework recorded it: `[queries * keys, heads]`.
    Recorded(&'a Matrix),
}

/// What explains that attention over right projections gives something else than `expected`. `recorded`: the relative biases that
/// the framework computed, by name; `others`: the biases that the export holds.
pub(in crate::inspect) fn attention(
    attended: &Attended,
    expected: &Matrix,
    recorded: &[(String, Matrix)],
) -> Option<String> {
    let here = configured(attended);
    let explains = |setting: &Setting<'_>| attend(attended, setting).last(expected.rows()).agrees(expected);
    if explains(&here) {
        return Some(
            "attention computed again on the host is as expected: this is a fault of the engine, please report it"
                .into(),
        );
    }
    let scale = (attended.head_dim as f32).sqrt().recip();
    let mut suspects: Vec<(Setting<'_>, String)> = Vec::new();
    if let Some(rope) = &attended.rope {
        let neighbours = "the framework rotates neighbouring elements (GPT-J's form of RoPE); this family rotates halves: \
                          permute the rows of q_proj and k_proj when exporting";
        suspects.push((Setting { rotation: Rotation::Neighbours, ..here.clone() }, neighbours.into()));
        suspects.push((
            Setting { rotation: Rotation::None, ..here.clone() },
            "the framework does not rotate at all".into(),
        ));
        let half = attended.head_dim / 2;
        // The second frequency is base^(-2 / head_dim): it tells the base in use.
        let second = (rope.positions > 1 && half > 1).then(|| f64::from(rope.sin[half + 1]).asin());
        let current = second.map(|angle| angle.powf(-(attended.head_dim as f64) / 2.0));
        let told = current.map_or_else(String::new, |base| format!(" instead of about {base:.0}"));
        for base in BASES {
            let cause = format!(
                "with a RoPE base of {base} and no scaling{told} it is as expected: rope_theta or the scaling is wrong"
            );
            suspects.push((Setting { rotation: Rotation::Base(base), ..here.clone() }, cause));
        }
    }
    if attended.head_norm.is_some() {
        suspects.push((
            Setting { head_norm: false, ..here.clone() },
            "the framework does not norm queries and keys".into(),
        ));
    }
    let unscaled =
        "the framework does not scale its scores: fold sqrt(head_dim) into q_proj, or choose the right family";
    let scaled =
        "the framework scales its scores by 1/sqrt(head_dim); this family does not: fold it into the query projection";
    suspects.push((Setting { scale: 1.0, ..here.clone() }, unscaled.into()));
    suspects.push((Setting { scale, ..here.clone() }, scaled.into()));
    let (mask, cause) = match here.mask {
        Mask::Causal => (Mask::Full, "the framework attends to later positions too"),
        Mask::Full => (Mask::Causal, "the framework attends to earlier positions only"),
    };
    suspects.push((Setting { mask, ..here.clone() }, cause.into()));
    let grouping = Setting { grouping: Grouping::Strided, ..here.clone() };
    suspects.push((grouping, "query heads are grouped with a stride: heads of q_proj and o_proj are permuted".into()));
    for (name, bias) in recorded.iter().filter(|(_, bias)| fits(attended, bias)) {
        let cause = format!(
            "with the relative bias that the framework computed from `{name}` it is as expected: the table is wrong"
        );
        suspects.push((Setting { bias: Bias::Recorded(bias), ..here.clone() }, cause));
    }
    if attended.bias.is_some() {
        suspects
            .push((Setting { bias: Bias::None, ..here.clone() }, "the framework adds no relative bias here".into()));
    }
    suspects.into_iter().find(|(setting, _)| explains(setting)).map(|(_, cause)| cause)
}

fn fits(attended: &Attended, bias: &Matrix) -> bool {
    bias.cols == attended.query.cols / attended.head_dim && bias.rows() == attended.query.rows() * attended.key.rows()
}

fn configured(attended: &Attended) -> Setting<'_> {
    Setting {
        rotation: if attended.rope.is_some() { Rotation::Halves } else { Rotation::None },
        head_norm: attended.head_norm.is_some(),
        scale: attended.scale,
        mask: attended.mask,
        grouping: Grouping::Blocks,
        bias: attended.bias.as_deref().map_or(Bias::None, Bias::ByDistance),
    }
}

/// softmax(q k^T scale + bias) v, head by head, as it reads.
fn attend(attended: &Attended, setting: &Setting<'_>) -> Matrix {
    let dim = attended.head_dim;
    let query = prepared(attended, &attended.query, setting, true);
    let key = prepared(attended, &attended.key, setting, false);
    let (heads, kv_heads) = (query.cols / dim, key.cols / dim);
    let slice = |matrix: &Matrix, row: usize, head: usize| matrix.row(row)[head * dim..][..dim].to_vec();
    Matrix::filled(query.rows(), query.cols, |at, out| {
        for head in 0..heads {
            let kv_head = match setting.grouping {
                Grouping::Blocks => head / (heads / kv_heads),
                Grouping::Strided => head % kv_heads,
            };
            let q = slice(&query, at, head);
            let seen = match setting.mask {
                Mask::Causal => key.rows().min(at + 1),
                Mask::Full => key.rows(),
            };
            let scores: Vec<f32> = (0..seen)
                .map(|k| setting.scale * dot(&q, &slice(&key, k, kv_head)) + bias(setting, (at, k, head), &key))
                .collect();
            let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum: f32 = weights.iter().sum();
            for (k, weight) in weights.iter().enumerate() {
                let value = slice(&attended.value, k, kv_head);
                for (out, value) in out[head * dim..].iter_mut().zip(&value) {
                    *out += weight / sum * value;
                }
            }
        }
    })
}

fn bias(setting: &Setting<'_>, (query, key, head): (usize, usize, usize), keys: &Matrix) -> f32 {
    match setting.bias {
        Bias::None => 0.0,
        Bias::ByDistance(table) => {
            let longest = table.max_distance as i64;
            let distance = (key as i64 - query as i64).clamp(-longest, longest);
            table.by_distance[head * (2 * table.max_distance + 1) + (longest + distance) as usize]
        }
        Bias::Recorded(recorded) => recorded.row(query * keys.rows() + key)[head],
    }
}

/// Queries or keys after norm and rotation.
fn prepared(attended: &Attended, raw: &Matrix, setting: &Setting<'_>, queries: bool) -> Matrix {
    let dim = attended.head_dim;
    let norm = attended.head_norm.as_ref().filter(|_| setting.head_norm);
    let mut out = match norm {
        Some(norm) => head_normed(raw, if queries { &norm.query } else { &norm.key }, norm.eps),
        None => raw.clone(),
    };
    for (position, row) in out.values.chunks_exact_mut(raw.cols).enumerate() {
        for head in row.chunks_exact_mut(dim) {
            rotate(attended, setting.rotation, position, head);
        }
    }
    out
}

/// RMS norm of every head by itself, `[rows, heads * head_dim]`.
pub(in crate::inspect) fn head_normed(raw: &Matrix, weight: &TensorView, eps: f32) -> Matrix {
    let weight = weight.to_f32();
    let mut out = raw.clone();
    for head in out.values.chunks_exact_mut(weight.len()) {
        let scale = (dot(head, head) / head.len() as f32 + eps).sqrt().recip();
        head.iter_mut().zip(&weight).for_each(|(value, weight)| *value *= scale * weight);
    }
    out
}

fn rotate(attended: &Attended, rotation: Rotation, position: usize, head: &mut [f32]) {
    let half = head.len() / 2;
    for i in 0..half {
        let (sin, cos) = match (rotation, &attended.rope) {
            (Rotation::Base(base), _) => {
                let angle = position as f64 * base.powf(-2.0 * i as f64 / head.len() as f64);
                (angle.sin() as f32, angle.cos() as f32)
            }
            (Rotation::Halves | Rotation::Neighbours, Some(rope)) => {
                (rope.sin[position * half + i], rope.cos[position * half + i])
            }
            _ => return,
        };
        let (a, b) = if rotation == Rotation::Neighbours { (2 * i, 2 * i + 1) } else { (i, i + half) };
        (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::device::RopeSource;

    /// Values without structure.
    fn noise(rows: usize, cols: usize, seed: u32) -> Matrix {
        let mut state = seed;
        Matrix::filled(rows, cols, |_, out| {
            for value in out {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *value = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
            }
        })
    }

    /// Six positions, four query heads over two key heads of 8, base 10,000.
    fn sample() -> Attended {
        let (positions, half) = (6, 4);
        let angle = |at: usize| (at / half) as f64 * 1e4f64.powf(-2.0 * (at % half) as f64 / 8.0);
        let table = |f: fn(f64) -> f64| (0..positions * half).map(|at| f(angle(at)) as f32).collect();
        Attended {
            query: noise(positions, 32, 1).map(|v| 3.0 * v),
            key: noise(positions, 16, 2).map(|v| 3.0 * v),
            value: noise(positions, 16, 3),
            head_dim: 8,
            head_norm: None,
            rope: Some(Arc::new(RopeSource { positions, cos: table(f64::cos), sin: table(f64::sin) })),
            scale: 8f32.sqrt().recip(),
            mask: Mask::Causal,
            bias: None,
        }
    }

    /// What is said when the framework did `setting`.
    fn cause(sample: &Attended, setting: &Setting<'_>) -> String {
        attention(sample, &attend(sample, setting), &[]).expect("it is explained")
    }

    #[test]
    fn every_setting_is_told_from_the_others() {
        let sample = sample();
        let here = configured(&sample);
        assert!(cause(&sample, &here).contains("fault of the engine"));
        let cases: [(Setting<'_>, &str); 6] = [
            (Setting { rotation: Rotation::Neighbours, ..here.clone() }, "neighbouring elements"),
            (Setting { rotation: Rotation::None, ..here.clone() }, "does not rotate"),
            (
                Setting { rotation: Rotation::Base(500_000.0), ..here.clone() },
                "base of 500000 and no scaling instead of about 10000",
            ),
            (Setting { scale: 1.0, ..here.clone() }, "does not scale its scores"),
            (Setting { mask: Mask::Full, ..here.clone() }, "later positions too"),
            (Setting { grouping: Grouping::Strided, ..here.clone() }, "grouped with a stride"),
        ];
        for (setting, told) in &cases {
            let cause = cause(&sample, setting);
            assert!(cause.contains(told), "{cause:?} lacks {told:?}");
        }
        // Something that nobody does.
        assert_eq!(attention(&sample, &noise(6, 32, 9), &[]), None);
    }

    #[test]
    fn relative_biases_are_told_by_what_was_recorded() {
        let table = |seed| RelativeBiasSource { heads: 4, max_distance: 6, by_distance: noise(4, 13, seed).values };
        let (wrong, right) = (table(4), table(5));
        let mut sample = Attended { rope: None, mask: Mask::Full, scale: 1.0, bias: Some(Arc::new(wrong)), ..sample() };
        // Four key heads: T5 does not group.
        (sample.key, sample.value) = (noise(6, 32, 6), noise(6, 32, 7));
        let expected = attend(&sample, &Setting { bias: Bias::ByDistance(&right), ..configured(&sample) });
        let recorded = Matrix::filled(36, 4, |at, out| {
            let distance = (at % 6 + 6) - at / 6;
            out.iter_mut().enumerate().for_each(|(head, out)| *out = right.by_distance[head * 13 + distance]);
        });
        assert_eq!(attention(&sample, &expected, &[]), None);
        let cause = attention(&sample, &expected, &[("encoder.bias".into(), recorded)]).unwrap();
        assert!(cause.contains("`encoder.bias`") && cause.contains("the table is wrong"), "{cause}");
        let none = attend(&sample, &Setting { bias: Bias::None, ..configured(&sample) });
        assert!(attention(&sample, &none, &[]).unwrap().contains("no relative bias"));
    }
}
