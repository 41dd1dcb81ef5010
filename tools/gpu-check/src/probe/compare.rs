//! When two machines' outputs agree.

use super::Outcome;
use super::cases::Case;

/// What agreement means.
#[derive(Clone, Debug)]
pub enum Rule {
    /// Every bit.
    Exact,
    /// f32 values apart by at most so many units in the last place; special values alike.
    Ulps(u32),
    /// f32 values apart by at most `tolerance` times the magnitude that stands beside each.
    Relative {
        /// Factor.
        tolerance: f64,
        /// What each output's error is measured against.
        magnitudes: Vec<f64>,
    },
}

/// Words of four bytes.
fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

/// Compares outputs by the case's rule.
pub fn compare(case: &Case, actual: &[u8], expected: &[u8]) -> Outcome {
    let (actual, expected) = (words(actual), words(expected));
    let pairs = || std::iter::zip(&actual, &expected).map(|(&a, &b)| (a, b));
    let (rule, difference, agrees) = match &case.rule {
        Rule::Exact => {
            let wrong: Vec<usize> = pairs().enumerate().filter(|(_, (a, b))| a != b).map(|(index, _)| index).collect();
            let told = match wrong.first() {
                None => "none".to_owned(),
                Some(&at) => {
                    format!(
                        "{} words, the first at {at}: {:#010x}, not {:#010x}",
                        wrong.len(),
                        actual[at],
                        expected[at]
                    )
                }
            };
            ("every bit".to_owned(), told, wrong.is_empty())
        }
        Rule::Ulps(most) => {
            let worst = pairs().map(|(a, b)| ulps(f32::from_bits(a), f32::from_bits(b))).max().unwrap_or(0);
            (format!("at most {most} ulp"), format!("{worst} ulp"), worst <= u64::from(*most))
        }
        Rule::Relative { tolerance, magnitudes } => {
            let error = |((a, b), magnitude): ((u32, u32), &f64)| {
                let error = (f64::from(f32::from_bits(a)) - f64::from(f32::from_bits(b))).abs();
                if error.is_nan() { f64::INFINITY } else { error / magnitude.max(f64::MIN_POSITIVE) }
            };
            let worst = pairs().zip(magnitudes).map(error).fold(0.0, f64::max);
            let rule = format!("at most {tolerance:.1e} of the sum of magnitudes");
            (rule, format!("{worst:.1e} of it"), worst <= *tolerance)
        }
    };
    let agrees = agrees && actual.len() == expected.len() && !actual.is_empty();
    Outcome { name: case.name, values: actual.len(), rule, difference, agrees }
}

/// How many floats lie between two; NaN is like NaN and like nothing else.
fn ulps(a: f32, b: f32) -> u64 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() && b.is_nan() { 0 } else { u64::MAX };
    }
    // Numbers in order, with both zeros at 0.
    let place = |x: f32| {
        let magnitude = i64::from(x.to_bits() & 0x7fff_ffff);
        if x.is_sign_negative() { -magnitude } else { magnitude }
    };
    place(a).abs_diff(place(b))
}

#[cfg(test)]
mod tests {
    use super::{Rule, compare, ulps};
    use crate::probe::Launch;
    use crate::probe::cases::Case;

    fn case(rule: Rule) -> Case {
        let launch = Launch { module: "m", kernel: "k", blocks: 1, threads: 1, shared: 0, count: 2 };
        Case { name: "k", launch, input: Vec::new(), output_bytes: 8, rule }
    }

    fn bytes(values: [f32; 2]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn distances_count_floats_and_cross_zero() {
        assert_eq!(ulps(1.0, 1.0 + f32::EPSILON), 1);
        assert_eq!(ulps(-0.0, 0.0), 0);
        assert_eq!(ulps(f32::from_bits(1), -f32::from_bits(1)), 2);
        assert_eq!(ulps(f32::NAN, f32::NAN), 0);
        assert_eq!(ulps(f32::NAN, 1.0), u64::MAX);
        assert_eq!(ulps(f32::INFINITY, f32::MAX), 1);
    }

    #[test]
    fn each_rule_passes_and_fails_where_it_should() {
        let (one, next) = (bytes([1.0, 2.0]), bytes([1.0, 2.0 + 2.0 * f32::EPSILON]));
        assert!(compare(&case(Rule::Exact), &one, &one).agrees);
        assert!(!compare(&case(Rule::Exact), &one, &next).agrees);
        assert!(compare(&case(Rule::Ulps(1)), &one, &next).agrees);
        assert!(!compare(&case(Rule::Ulps(0)), &one, &next).agrees);
        let relative = |tolerance| case(Rule::Relative { tolerance, magnitudes: vec![1.0, 2.0] });
        assert!(compare(&relative(1e-6), &one, &next).agrees);
        assert!(!compare(&relative(1e-8), &one, &next).agrees);
        assert!(!compare(&relative(1.0), &bytes([f32::NAN, 2.0]), &one).agrees, "NaN is no small error");
        assert!(!compare(&case(Rule::Exact), &[], &[]).agrees, "nothing compared is no agreement");
    }
}
