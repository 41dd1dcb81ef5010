//! What a caller says of sampling: plain data, shared by requests and devices.

/// How semantic IDs are drawn instead of searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SamplingKind {
    /// Each beam row is a sequence of its own, drawn level by level from the softmax over legal children; two may coincide.
    Independent,
    /// Stochastic beam search: semantic IDs drawn without replacement, as by perturbing the log-probability of each with
    /// Gumbel noise and keeping the largest (Kool, van Hoof and Welling 2019).
    Distinct,
}

impl SamplingKind {
    /// Every kind.
    pub const ALL: [SamplingKind; 2] = [SamplingKind::Independent, SamplingKind::Distinct];

    /// The name that requests use.
    pub fn name(self) -> &'static str {
        match self {
            SamplingKind::Independent => "independent",
            SamplingKind::Distinct => "distinct",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<SamplingKind> {
        SamplingKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What is drawn: the same request with the same seed has the same results, whatever else is computed beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// How.
    pub kind: SamplingKind,
    /// What the noise is a function of, together with level, trie node and, if sequences are independent, their number.
    pub seed: u64,
    /// Divides the logits; 0.01 to 100.
    pub temperature: f32,
}

impl Sampling {
    /// Least and highest temperature: beyond them f32 has too few digits, or every child the same probability.
    pub const TEMPERATURES: std::ops::RangeInclusive<f32> = 0.01..=100.0;

    /// What logits are multiplied by.
    pub fn scale(&self) -> f32 {
        1.0 / self.temperature
    }
}

/// Log-probabilities of one step: of a level, or of a scored end token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LogProb {
    /// Under the distribution that the step was chosen by: `raw` without sampling, else over the legal children with the
    /// temperature, and 0 for an end token, which is not chosen.
    pub behaviour: f32,
    /// What a search adds to the score, under the export's score mode.
    pub raw: f32,
}
