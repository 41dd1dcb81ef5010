//! Small dense matrices on the host: what was computed, beside what should have been.

use std::ops::Range;

use crate::export::TensorView;

/// Values are compared by the norm of their difference over the norm of what is expected. In f32 an engine and a framework differ
/// by about 1e-6 here; what is wrong in an export shows as 1e-2 and more.
pub(super) const TOLERANCE: f32 = 1e-3;

/// `[rows, cols]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix {
    pub cols: usize,
    pub values: Vec<f32>,
}

impl Matrix {
    /// # Panics
    /// If the values are no rows of `cols`.
    pub fn new(cols: usize, values: Vec<f32>) -> Matrix {
        assert!(cols > 0 && values.len().is_multiple_of(cols), "{} values are no rows of {cols}", values.len());
        Matrix { cols, values }
    }

    pub fn of(tensor: &TensorView) -> Matrix {
        Matrix::new(tensor.cols(), tensor.to_f32())
    }

    /// `rows` rows, each made by `fill`.
    pub fn filled(rows: usize, cols: usize, mut fill: impl FnMut(usize, &mut [f32])) -> Matrix {
        let mut values = vec![0.0; rows * cols];
        for (row, out) in values.chunks_exact_mut(cols).enumerate() {
            fill(row, out);
        }
        Matrix::new(cols, values)
    }

    pub fn rows(&self) -> usize {
        self.values.len() / self.cols
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }

    pub fn column(&self, column: usize) -> Vec<f32> {
        self.values.iter().skip(column).step_by(self.cols).copied().collect()
    }

    pub fn columns(&self, range: Range<usize>) -> Matrix {
        Matrix::filled(self.rows(), range.len(), |row, out| out.copy_from_slice(&self.row(row)[range.clone()]))
    }

    /// The columns in the order that `from` names.
    pub fn reordered(&self, from: impl Fn(usize) -> usize) -> Matrix {
        Matrix::filled(self.rows(), self.cols, |row, out| {
            for (column, value) in out.iter_mut().enumerate() {
                *value = self.row(row)[from(column)];
            }
        })
    }

    /// The last `rows` rows: a prompt's last layer computes only those that start the search.
    pub fn last(&self, rows: usize) -> Matrix {
        Matrix::new(self.cols, self.values[self.values.len() - rows.min(self.rows()) * self.cols..].to_vec())
    }

    pub fn map(&self, each: impl Fn(f32) -> f32) -> Matrix {
        Matrix::new(self.cols, self.values.iter().map(|value| each(*value)).collect())
    }

    /// `self - other`, of the same shape.
    pub fn minus(&self, other: &Matrix) -> Matrix {
        Matrix::new(self.cols, self.values.iter().zip(&other.values).map(|(a, b)| a - b).collect())
    }

    /// `self W^T` of a weight `[out, in]`.
    pub fn times(&self, weight: &TensorView) -> Matrix {
        let mut row = vec![0.0; weight.cols()];
        let mut out = Matrix::new(weight.rows(), vec![0.0; self.rows() * weight.rows()]);
        for column in 0..weight.rows() {
            weight.read_row(column, &mut row);
            for r in 0..self.rows() {
                out.values[r * weight.rows() + column] = dot(self.row(r), &row);
            }
        }
        out
    }

    /// `self W` of a square weight: what it gives when it is read the wrong way round.
    pub fn times_transposed(&self, weight: &TensorView) -> Matrix {
        let mut row = vec![0.0; weight.cols()];
        let mut out = Matrix::new(weight.cols(), vec![0.0; self.rows() * weight.cols()]);
        for k in 0..weight.rows() {
            weight.read_row(k, &mut row);
            for r in 0..self.rows() {
                let x = self.row(r)[k];
                for (sum, w) in out.values[r * weight.cols()..].iter_mut().zip(&row) {
                    *sum += x * w;
                }
            }
        }
        out
    }

    /// |self - expected| / |expected|; infinite when the shapes differ or a value is not finite.
    pub fn difference(&self, expected: &Matrix) -> f32 {
        if (self.cols, self.values.len()) != (expected.cols, expected.values.len()) {
            return f32::INFINITY;
        }
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let apart = norm(&mut self.values.iter().zip(&expected.values).map(|(a, b)| a - b));
        let whole = norm(&mut expected.values.iter().copied());
        let difference = if apart == 0.0 { 0.0 } else { (apart / whole) as f32 };
        if difference.is_nan() { f32::INFINITY } else { difference }
    }

    /// Whether it is what is expected.
    pub fn agrees(&self, expected: &Matrix) -> bool {
        self.difference(expected) <= TOLERANCE
    }

    /// The factor that makes `self` what is expected, if one does.
    pub fn factor(&self, expected: &Matrix) -> Option<f32> {
        let (mut both, mut own) = (0.0f64, 0.0f64);
        for (a, b) in self.values.iter().zip(&expected.values) {
            both += f64::from(*a) * f64::from(*b);
            own += f64::from(*a).powi(2);
        }
        let factor = (both / own) as f32;
        (factor.is_finite() && self.map(|value| value * factor).agrees(expected)).then_some(factor)
    }
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}
