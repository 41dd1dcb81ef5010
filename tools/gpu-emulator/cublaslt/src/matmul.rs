//! Which products there are, which algorithms do them, and what is checked before one is enqueued.

use gpu_emulator::product::Product;

use crate::objects::{Layout, Operation, Preference, R_16BF, R_32F};
use crate::status::{Outcome, Refusal};

/// `cublasLtMatmulAlgo_t`.
pub type Words = [u64; 8];
/// First word of an algorithm of this library.
const MARK: u64 = 0x656d_756c_6174_6564;
/// Algorithms of a product, besides the one that splits sums.
const EVEN: u64 = 3;
/// Row from which on an uneven algorithm adds in another order.
const FIRST_UNEVEN_ROW: u64 = 64;
/// No algorithm here needs more of an address.
const MOST_ALIGNMENT: u64 = 16;
/// Of a workspace.
const WORKSPACE_ALIGNMENT: u64 = 16;

/// A product's operands: A, B, C, D.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    layouts: [Layout; 4],
}

/// A way to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm {
    pub workspace_bytes: u64,
    /// Bytes that each operand's address and columns are multiples of.
    alignments: [u64; 4],
    types: [i32; 2], // of A and of D
    is_uneven: bool,
}

/// The addresses and factors of a call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub addresses: [u64; 4], // A, B, C, D
    pub alpha: f32,
    pub beta: f32,
    pub workspace: u64,
    pub workspace_bytes: u64,
}

impl Problem {
    /// Checks that the operands fit each other and that there are algorithms for them.
    pub fn new(operation: &Operation, layouts: [Layout; 4]) -> Outcome<Problem> {
        let [a, b, c, d] = layouts;
        if operation.transposed != [true, false] {
            return Err(Refusal::NotSupported);
        }
        let is_whole = |layout: &Layout| {
            layout.rows > 0 && layout.columns > 0 && u64::try_from(layout.leading).is_ok_and(|ld| ld >= layout.rows)
        };
        let fits = a.rows == b.rows
            && (d.rows, d.columns) == (a.columns, b.columns)
            && (c.rows, c.columns) == (d.rows, d.columns)
            && layouts.iter().all(is_whole);
        if !fits {
            return Err(Refusal::InvalidValue);
        }
        match (a.dtype, b.dtype, c.dtype, d.dtype) {
            (R_32F, R_32F, R_32F, R_32F) | (R_16BF, R_16BF, R_32F, R_32F) | (R_16BF, R_16BF, R_16BF, R_16BF) => {
                Ok(Problem { layouts })
            }
            _ => Err(Refusal::NotSupported),
        }
    }

    fn types(&self) -> [i32; 2] {
        [self.layouts[0].dtype, self.layouts[3].dtype]
    }

    /// Bytes between an operand's columns.
    fn column_bytes(layout: &Layout) -> u64 {
        layout.leading.unsigned_abs() * layout.width()
    }

    /// The algorithms for it, best first. The first `uneven` ones, and every one that splits sums, treat rows differently.
    pub fn algorithms(&self, preference: &Preference, uneven: u64) -> Vec<Algorithm> {
        let mut alignments = [0; 4];
        for ((alignment, wanted), layout) in alignments.iter_mut().zip(preference.alignments).zip(&self.layouts) {
            let of_columns = 1 << Self::column_bytes(layout).trailing_zeros().min(4);
            *alignment = u64::from(wanted).min(of_columns).min(MOST_ALIGNMENT);
        }
        let of = |workspace_bytes, is_uneven| Algorithm { workspace_bytes, alignments, types: self.types(), is_uneven };
        let split = (preference.reduction_schemes != 0).then(|| of(4096, true));
        let even = (0..EVEN).map(|index| of(1024 * index, index < uneven));
        split.into_iter().chain(even).filter(|one| one.workspace_bytes <= preference.workspace_bytes).collect()
    }

    /// Whether an algorithm can do it.
    pub fn check(&self, algorithm: &Algorithm) -> Outcome<()> {
        if algorithm.types != self.types() {
            return Err(Refusal::InvalidValue);
        }
        let fits = |(layout, alignment): (&Layout, &u64)| Self::column_bytes(layout).is_multiple_of(*alignment);
        if self.layouts.iter().zip(&algorithm.alignments).all(fits) { Ok(()) } else { Err(Refusal::NotSupported) }
    }

    /// The work of a call.
    pub fn product(&self, algorithm: &Algorithm, call: &Call) -> Outcome<Product> {
        self.check(algorithm)?;
        let [a, b, c, d] = self.layouts;
        let [weight, x, before, out] = call.addresses;
        let is_there = |(address, alignment): (&u64, &u64)| *address != 0 && address.is_multiple_of(*alignment);
        let needs_c = call.beta != 0.0;
        let there = call.addresses.iter().zip(&algorithm.alignments).enumerate();
        let workspace = call.workspace != 0 && call.workspace.is_multiple_of(WORKSPACE_ALIGNMENT);
        let fits = there.into_iter().all(|(index, pair)| index == 2 && !needs_c || is_there(pair))
            && call.workspace_bytes >= algorithm.workspace_bytes
            && (workspace || algorithm.workspace_bytes == 0)
            // In place only as it is.
            && (before != out || c == d);
        if !fits {
            return Err(Refusal::InvalidValue);
        }
        Ok(Product {
            weight,
            x,
            c: before,
            out,
            workspace: call.workspace,
            workspace_bytes: algorithm.workspace_bytes,
            weight_stride: a.leading.unsigned_abs(),
            x_stride: b.leading.unsigned_abs(),
            c_stride: c.leading.unsigned_abs(),
            out_stride: d.leading.unsigned_abs(),
            rows: d.columns,
            n: d.rows,
            k: a.rows,
            alpha: call.alpha,
            beta: call.beta,
            x_is_bf16: u32::from(a.dtype == R_16BF),
            out_is_bf16: u32::from(d.dtype == R_16BF),
            first_reversed_row: if algorithm.is_uneven { FIRST_UNEVEN_ROW } else { u64::MAX },
        })
    }
}

impl Algorithm {
    /// As the program keeps it.
    pub fn words(&self) -> Words {
        let [a, b, c, d] = self.alignments;
        let types = self.types.map(|dtype| dtype as u64);
        [MARK, self.workspace_bytes, a << 32 | b, c << 32 | d, types[0], types[1], u64::from(self.is_uneven), 0]
    }

    /// What the program kept.
    pub fn of(words: &Words) -> Outcome<Algorithm> {
        let [MARK, workspace_bytes, ab, cd, a_type, d_type, is_uneven, 0] = *words else {
            return Err(Refusal::InvalidValue);
        };
        let half = |word: u64| [word >> 32, word & 0xffff_ffff];
        let ([a, b], [c, d]) = (half(ab), half(cd));
        let types = [a_type as i32, d_type as i32];
        Ok(Algorithm { workspace_bytes, alignments: [a, b, c, d], types, is_uneven: is_uneven != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATION: Operation = Operation { transposed: [true, false] };

    /// 6 rows of 8 times 16 columns.
    fn layouts() -> [Layout; 4] {
        let of = |dtype, rows, columns, leading| Layout { dtype, rows, columns, leading };
        let out = of(R_32F, 16, 6, 64);
        [of(R_16BF, 8, 16, 8), of(R_16BF, 8, 6, 64), out, out]
    }

    fn preference() -> Preference {
        Preference { workspace_bytes: 4096, reduction_schemes: 0, alignments: [16; 4] }
    }

    fn call() -> Call {
        Call {
            addresses: [0x100, 0x200, 0x300, 0x300],
            alpha: 1.0,
            beta: 1.0,
            workspace: 0x1000,
            workspace_bytes: 4096,
        }
    }

    #[test]
    fn an_algorithm_comes_back_from_its_words() {
        let problem = Problem::new(&OPERATION, layouts()).unwrap();
        for algorithm in problem.algorithms(&preference(), 1) {
            assert_eq!(Algorithm::of(&algorithm.words()).unwrap(), algorithm);
        }
        assert_eq!(Algorithm::of(&[0; 8]), Err(Refusal::InvalidValue));
    }

    #[test]
    fn who_does_not_exclude_split_sums_gets_them() {
        let problem = Problem::new(&OPERATION, layouts()).unwrap();
        let first_reversed = |preference: &Preference| {
            let algorithm = problem.algorithms(preference, 0)[0];
            problem.product(&algorithm, &call()).unwrap().first_reversed_row
        };
        assert_eq!(first_reversed(&preference()), u64::MAX);
        assert_eq!(first_reversed(&Preference { reduction_schemes: 7, ..preference() }), 64);
    }

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        let with = |index: usize, layout: Layout| {
            let mut layouts = layouts();
            layouts[index] = layout;
            Problem::new(&OPERATION, layouts).err()
        };
        let [a, b, c, d] = layouts();
        assert_eq!(with(0, Layout { rows: 7, ..a }), Some(Refusal::InvalidValue));
        assert_eq!(with(1, Layout { leading: 7, ..b }), Some(Refusal::InvalidValue));
        assert_eq!(with(2, Layout { columns: 5, ..c }), Some(Refusal::InvalidValue));
        assert_eq!(with(3, Layout { dtype: R_16BF, ..d }), Some(Refusal::NotSupported));
        assert_eq!(with(3, d), None);
        assert_eq!(Problem::new(&Operation { transposed: [false; 2] }, layouts()).err(), Some(Refusal::NotSupported));
    }

    #[test]
    fn calls_that_do_not_fit_are_refused() {
        let problem = Problem::new(&OPERATION, layouts()).unwrap();
        let algorithm = problem.algorithms(&preference(), 0)[1];
        let refused = |call: Call| problem.product(&algorithm, &call).err() == Some(Refusal::InvalidValue);
        assert!(!refused(call()));
        assert!(refused(Call { workspace: 0, ..call() }) && refused(Call { workspace_bytes: 1023, ..call() }));
        assert!(refused(Call { workspace: 0x1008, ..call() }));
        for operand in 0..4 {
            for address in [0, 0x308] {
                let mut addresses = call().addresses;
                addresses[operand] = address;
                assert!(refused(Call { addresses, ..call() }), "operand {operand} at {address:#x}");
            }
        }
        let without_c = Call { addresses: [0x100, 0x200, 0, 0x300], beta: 0.0, ..call() };
        assert!(!refused(without_c));
        let narrow = layouts().map(|layout| Layout { leading: layout.leading + 2, ..layout });
        assert_eq!(Problem::new(&OPERATION, narrow).unwrap().check(&algorithm), Err(Refusal::NotSupported));
    }
}
