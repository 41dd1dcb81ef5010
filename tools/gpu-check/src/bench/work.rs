//! Operations and bytes of each kernel, counted in this one place: multiply and add are two operations, and every byte that has
//! to come from or go to the card's memory counts once.

/// What has to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Floating-point operations of matrix products.
    pub flops: f64,
    /// Bytes read and written.
    pub bytes: f64,
}

/// What a card can do at most.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Ceilings {
    /// Bytes a second, read and written, of a copy on the card.
    pub copy: f64,
    /// Operations a second of `mma.sync` on registers, bf16.
    pub mma: f64,
    /// Operations a second of f32 multiply-adds on registers.
    pub fma: f64,
}

impl Work {
    /// Of several parts.
    pub fn sum(parts: impl IntoIterator<Item = Work>) -> Work {
        parts
            .into_iter()
            .fold(Work::default(), |sum, part| Work { flops: sum.flops + part.flops, bytes: sum.bytes + part.bytes })
    }

    /// The same, `n` times.
    pub fn times(self, n: usize) -> Work {
        Work { flops: self.flops * n as f64, bytes: self.bytes * n as f64 }
    }

    /// Seconds that it takes at least, and what bounds it.
    pub fn floor(&self, ceilings: &Ceilings) -> (f64, &'static str) {
        let (compute, memory) = (self.flops / ceilings.mma, self.bytes / ceilings.copy);
        if compute > memory { (compute, "mma") } else { (memory, "memory") }
    }
}

/// Bytes of bf16 and f32.
pub const BF16: usize = 2;
/// Bytes of f32 and of a token.
pub const F32: usize = 4;

fn bytes(parts: &[usize]) -> f64 {
    parts.iter().map(|&part| part as f64).sum()
}

/// `out[rows, outputs] = x[rows, inputs] W^T`; `out_bytes` for all that is written (and read, for a residual) a row.
pub fn linear(rows: usize, inputs: usize, outputs: usize, out_bytes: usize) -> Work {
    Work {
        flops: 2.0 * rows as f64 * inputs as f64 * outputs as f64,
        bytes: bytes(&[outputs * inputs * BF16, rows * inputs * BF16, rows * out_bytes]),
    }
}

/// Logits of the whole vocabulary for the normaliser; those of one level are written.
pub fn head(rows: usize, hidden: usize, vocabulary: usize, codes: usize) -> Work {
    linear(rows, hidden, vocabulary, (codes + 1) * F32)
}

/// Rows through `top_k` of `experts` gated experts each: the router in f32, and of the experts those that rows can have chosen.
pub fn experts(rows: usize, (experts, top_k): (usize, usize), (hidden, inner): (usize, usize)) -> Work {
    let (pairs, read) = (rows * top_k, experts.min(rows * top_k));
    let multiplied = |outputs: usize, inputs: usize| 2.0 * pairs as f64 * outputs as f64 * inputs as f64;
    Work {
        flops: multiplied(2 * inner, hidden) + multiplied(hidden, inner),
        bytes: bytes(&[read * 3 * inner * hidden * BF16, experts * hidden * F32, rows * hidden * (BF16 + 2 * F32)]),
    }
}

/// Heads of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key/value heads.
    pub kv: usize,
    /// Elements of a head.
    pub dim: usize,
}

impl Heads {
    /// Bytes of a token's keys and values in bf16.
    pub fn kv_bytes(self) -> usize {
        2 * self.kv * self.dim * BF16
    }

    /// Bytes of a row's queries, or its output, in bf16.
    pub fn query_bytes(self) -> usize {
        self.query * self.dim * BF16
    }

    /// Operations of one query row over `keys` keys: scores and weighted sum.
    fn flops(self, keys: f64) -> f64 {
        4.0 * (self.query * self.dim) as f64 * keys
    }
}

/// Prompt attention of one sequence over itself; causal halves it.
pub fn history_attention(heads: Heads, tokens: usize, is_causal: bool) -> Work {
    let n = tokens as f64;
    let pairs = if is_causal { n * (n + 1.0) / 2.0 } else { n * n };
    Work { flops: heads.flops(pairs), bytes: bytes(&[tokens * heads.kv_bytes(), 2 * tokens * heads.query_bytes()]) }
}

/// Attention of a request's beams over its history, read once for all, and `own` tokens of each beam.
pub fn beam_attention(heads: Heads, history: usize, beams: usize, own: usize) -> Work {
    let rows = beams as f64;
    Work {
        flops: rows * heads.flops((history + own) as f64),
        bytes: bytes(&[history * heads.kv_bytes(), beams * own * heads.kv_bytes(), 2 * beams * heads.query_bytes()]),
    }
}

/// Expansion of `beams` beams with `children` legal children in all: a code and a logit each, two ends of children a beam, and
/// the new state of the beams that are kept (node, score, token, parent).
pub fn expand_select(beams: usize, children: usize, kept: usize) -> Work {
    Work { flops: 0.0, bytes: bytes(&[children * (2 + F32), beams * (2 * 4 + 3 * 4), kept * 4 * 4]) }
}

/// RMS norm from f32 to bf16.
pub fn norm(rows: usize, width: usize) -> Work {
    Work { flops: 0.0, bytes: bytes(&[rows * width * (F32 + BF16), width * F32]) }
}

/// Rows of a bf16 table to f32.
pub fn embed(rows: usize, width: usize) -> Work {
    Work { flops: 0.0, bytes: bytes(&[rows * width * (BF16 + F32), rows * 4]) }
}

/// f32 queries, keys and values to bf16, normed and rotated.
pub fn write_kv(heads: Heads, rows: usize) -> Work {
    let elements = rows * (heads.query + 2 * heads.kv) * heads.dim;
    Work { flops: 0.0, bytes: bytes(&[elements * (F32 + BF16), rows * heads.dim * F32]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CEILINGS: Ceilings = Ceilings { copy: 1e12, mma: 1e14, fma: 1e13 };
    const QWEN: Heads = Heads { query: 16, kv: 8, dim: 128 };

    #[test]
    fn a_product_counts_two_operations_an_element() {
        let work = linear(3, 4, 5, 5 * F32);
        assert_eq!(work, Work { flops: 120.0, bytes: (5 * 4 * 2 + 3 * 4 * 2 + 3 * 5 * 4) as f64 });
        assert_eq!(head(3, 4, 50, 9).flops, 1200.0);
    }

    #[test]
    fn experts_that_nobody_can_have_chosen_are_not_read() {
        let work = experts(3, (8, 2), (4, 5));
        assert_eq!(work.flops, 6.0 * 2.0 * (3 * 4 * 5) as f64);
        assert_eq!(work.bytes, (6 * 3 * 5 * 4 * 2 + 8 * 4 * 4 + 3 * 4 * 10) as f64);
        assert_eq!(experts(30, (8, 2), (4, 5)).bytes, (8 * 3 * 5 * 4 * 2 + 8 * 4 * 4 + 30 * 4 * 10) as f64);
    }

    #[test]
    fn attention_counts_scores_and_sums() {
        // 16 heads of 128, two products of two operations: 8,192 a pair.
        assert_eq!(history_attention(QWEN, 3, true).flops, 6.0 * 8192.0);
        assert_eq!(history_attention(QWEN, 3, false).flops, 9.0 * 8192.0);
        assert_eq!(QWEN.kv_bytes(), 4096);
        let work = beam_attention(QWEN, 1000, 256, 2);
        assert_eq!(work.flops, 256.0 * 1002.0 * 8192.0);
        assert_eq!(
            work.bytes,
            (1000 * 4096 + 256 * 2 * 4096 + 2 * 256 * 4096) as f64,
            "the history is read once for all beams"
        );
    }

    #[test]
    fn the_larger_bound_is_the_floor() {
        assert_eq!(Work { flops: 1e14, bytes: 1.0 }.floor(&CEILINGS), (1.0, "mma"));
        assert_eq!(Work { flops: 1.0, bytes: 2e12 }.floor(&CEILINGS), (2.0, "memory"));
        let sum = Work::sum([norm(1, 64), norm(1, 64)]);
        assert_eq!(sum, norm(1, 64).times(2));
    }

    #[test]
    fn rows_of_small_kernels_count_in_and_out() {
        assert_eq!(norm(2, 64).bytes, (2 * 64 * 6 + 256) as f64);
        assert_eq!(embed(2, 64).bytes, (2 * 64 * 6 + 8) as f64);
        assert_eq!(write_kv(Heads { query: 2, kv: 1, dim: 8 }, 1).bytes, (32 * 6 + 32) as f64);
        assert_eq!(expand_select(2, 10, 2).bytes, (60 + 40 + 32) as f64);
    }
}
