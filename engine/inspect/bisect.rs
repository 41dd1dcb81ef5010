//! Walks the operations of one prompt in order, each beside what the framework recorded, to the first that parts.

use super::matrix::{Matrix, TOLERANCE};
use super::suspects::{self, Product};
use super::tracer::{Attended, Event};
use crate::device::{Epilogue, LinearSource};
use crate::export::{Activations, Export, ExportError, TensorView};

/// How a prompt came out beside the recorded activations.
#[derive(Clone, Debug)]
pub struct Bisection {
    /// Golden case of the prompt.
    pub case: u64,
    /// Activations that agree, up to the first that does not.
    pub agreed: usize,
    /// Largest relative difference among those.
    pub largest: f32,
    /// Where the export parts from what it was made of, if it does.
    pub divergence: Option<Divergence>,
}

/// The first operation that computes something else.
#[derive(Clone, Debug)]
pub struct Divergence {
    /// Recorded name, e.g. `model.layers.0.self_attn.q_proj/out`.
    pub activation: String,
    /// What computes it: `embedding`, `norm`, `linear`, `attention`, `router`, `activation`, `head`.
    pub op: &'static str,
    /// |got - expected| / |expected|.
    pub difference: f32,
    /// What explains it, if an experiment does.
    pub cause: Option<String>,
}

impl std::fmt::Display for Divergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Divergence { activation, op, difference, cause } = self;
        write!(f, "parts from the recorded activations at `{activation}` ({op}): {difference:.1e} off, ")?;
        match cause {
            Some(cause) => write!(f, "{cause}"),
            None => write!(f, "for a reason that none of the usual mistakes explains"),
        }
    }
}

/// One prompt's walk.
pub(super) struct Walk<'a> {
    pub export: &'a Export,
    pub activations: &'a Activations,
    pub head: &'a str,
    pub head_dim: usize,
    pub found: Bisection,
}

impl Walk<'_> {
    /// Compares every event up to the first difference.
    ///
    /// # Errors
    /// A recorded tensor is no matrix, or a weight cannot be read.
    pub fn run(&mut self, events: &[Event]) -> Result<(), ExportError> {
        let mut looked_up: Vec<String> = Vec::new();
        for (at, event) in events.iter().enumerate() {
            match event {
                Event::Embed { table, tokens, out } => {
                    let times = looked_up.iter().filter(|name| *name == table.name()).count();
                    looked_up.push(table.name().to_owned());
                    let suffix = if times == 0 { "out".to_owned() } else { format!("out.{times}") };
                    self.check(table, &suffix, "embedding", out, |expected| {
                        suspects::embedding(table, tokens, out, expected)
                    })?;
                }
                Event::Norm { weight, eps, x, out } => {
                    let weights = self.export.weights();
                    self.check(weight, "out", "norm", out, |expected| {
                        suspects::norm(weights, weight, *eps, (x, expected))
                    })?;
                }
                Event::Linear { source, epilogue, x, out } => {
                    self.linear((source, *epilogue), (x, out), &events[..at])?
                }
                Event::Logits { level, x, logits, .. } => self.logits(*level, x, logits)?,
                Event::Experts { router, x } => self.router(router, x)?,
                // Its output is the next product's input, and recorded there.
                Event::Attention(attended) => self.head_norms(attended)?,
            }
            if self.found.divergence.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// What was recorded for a weight's module, as many rows of it as were computed.
    fn recorded(&self, name: &str, rows: usize) -> Result<Option<Matrix>, ExportError> {
        let recorded = self.activations.get(name)?;
        Ok(recorded.map(|tensor| Matrix::of(&tensor)).filter(|matrix| matrix.rows() >= rows).map(|m| m.last(rows)))
    }

    fn check(
        &mut self,
        weight: &TensorView,
        suffix: &str,
        op: &'static str,
        got: &Matrix,
        cause: impl FnOnce(&Matrix) -> Option<String>,
    ) -> Result<(), ExportError> {
        let name = format!("{}/{suffix}", weight.name().trim_end_matches(".weight"));
        self.compare(name, op, got, cause)
    }

    fn compare(
        &mut self,
        activation: String,
        op: &'static str,
        got: &Matrix,
        cause: impl FnOnce(&Matrix) -> Option<String>,
    ) -> Result<(), ExportError> {
        if self.found.divergence.is_some() {
            return Ok(());
        }
        let Some(expected) = self.recorded(&activation, got.rows())? else { return Ok(()) };
        if expected.cols != got.cols {
            let detail = format!("`{activation}` is {} wide; the export computes {}", expected.cols, got.cols);
            return Err(ExportError::Activations { path: self.activations.path().to_owned(), detail });
        }
        let difference = got.difference(&expected);
        if difference <= TOLERANCE {
            self.found.agreed += 1;
            self.found.largest = self.found.largest.max(difference);
        } else {
            let cause = cause(&expected);
            self.found.divergence = Some(Divergence { activation, op, difference, cause });
        }
        Ok(())
    }

    fn linear(
        &mut self,
        (source, epilogue): (&LinearSource, Epilogue),
        (x, out): (&Matrix, &Matrix),
        before: &[Event],
    ) -> Result<(), ExportError> {
        self.input(&source.parts[0], x, before)?;
        let weights = self.export.weights();
        let head_dim = self.head_dim;
        let mut first = 0;
        for (at, part) in source.parts.iter().enumerate() {
            // What comes out of an activation is the next product's input; its own products are computed again.
            let got = match epilogue {
                Epilogue::Store | Epilogue::Residual => out.columns(first..first + part.rows()),
                Epilogue::Activate(_) | Epilogue::Gate(_) => product(source, at, x),
            };
            first += part.rows();
            self.check(part, "out", "linear", &got, |expected| {
                suspects::product(&Product { weights, weight: part, head_dim, x, got: &got, expected })
            })?;
        }
        Ok(())
    }

    /// Logits of a router; they are computed again.
    fn router(&mut self, router: &TensorView, x: &Matrix) -> Result<(), ExportError> {
        let (weights, got) = (self.export.weights(), x.times(router));
        self.check(router, "out", "router", &got, |expected| {
            suspects::product(&Product { weights, weight: router, head_dim: 0, x, got: &got, expected })
        })
    }

    /// Norms of queries and keys are one operation with rotation and storing; what they give is computed again.
    fn head_norms(&mut self, attended: &Attended) -> Result<(), ExportError> {
        let Some(norm) = &attended.head_norm else { return Ok(()) };
        let weights = self.export.weights();
        for (weight, raw) in [(&norm.query, &attended.query), (&norm.key, &attended.key)] {
            let by_head = |matrix: &Matrix| Matrix::new(attended.head_dim, matrix.values.clone());
            let (x, got) = (by_head(raw), by_head(&suspects::head_normed(raw, weight, norm.eps)));
            self.check(weight, "out", "norm", &got, |expected| {
                suspects::norm(weights, weight, norm.eps, (&x, expected))
            })?;
        }
        Ok(())
    }

    /// What a product reads, where nothing recorded made it: attention or an activation did.
    fn input(&mut self, weight: &TensorView, x: &Matrix, before: &[Event]) -> Result<(), ExportError> {
        let maker = before.iter().rev().find(|event| matches!(event, Event::Attention(_) | Event::Linear { .. }));
        match maker {
            Some(Event::Attention(attended)) => {
                let biases = self.recorded_biases(attended)?;
                self.check(weight, "in", "attention", x, |expected| suspects::attention(attended, expected, &biases))
            }
            Some(Event::Linear {
                source, epilogue: Epilogue::Gate(act) | Epilogue::Activate(act), x: input, ..
            }) => {
                let (gate, up) = (product(source, 0, input), source.gated.then(|| product(source, 1, input)));
                self.check(weight, "in", "activation", x, |expected| {
                    suspects::activation(*act, &gate, up.as_ref(), expected)
                })
            }
            _ => Ok(()),
        }
    }

    fn recorded_biases(&self, attended: &Attended) -> Result<Vec<(String, Matrix)>, ExportError> {
        if attended.bias.is_none() {
            return Ok(Vec::new());
        }
        let names: Vec<String> = self
            .activations
            .names()
            .filter(|name| name.ends_with("relative_attention_bias/out"))
            .map(str::to_owned)
            .collect();
        let mut biases = Vec::new();
        for name in names {
            if let Some(tensor) = self.activations.get(&name)? {
                biases.push((name.trim_end_matches("/out").to_owned(), Matrix::of(&tensor)));
            }
        }
        Ok(biases)
    }

    fn logits(&mut self, level: usize, x: &Matrix, logits: &Matrix) -> Result<(), ExportError> {
        self.compare("head/in".into(), "head", x, |expected| {
            let factor = x.factor(expected)?;
            let root = (x.cols as f32).sqrt().recip();
            let name = if (factor / root - 1.0).abs() < 1e-3 { " = 1/sqrt(hidden)" } else { "" };
            let inverse = if (factor * root - 1.0).abs() < 1e-3 { " = sqrt(hidden)" } else { "" };
            Some(format!(
                "hidden states are to be multiplied by {factor}{name}{inverse} before the head: scale_decoder_outputs or \
                 tie_word_embeddings is wrong"
            ))
        })?;
        let manifest = self.export.manifest();
        if !manifest.heads().is_empty() {
            // The recorded head is the framework's, over the vocabulary; the export has one a level.
            return Ok(());
        }
        let tokens = manifest.level_tokens(level);
        let got = logits.columns(0..tokens.len());
        let Some(all) = self.recorded("head/out", got.rows())? else { return Ok(()) };
        let within = |token: &u32| (*token as usize) < all.cols;
        if !tokens.iter().all(within) {
            return Ok(());
        }
        let row = tokens.iter().map(|token| all.row(0)[*token as usize]).collect();
        let expected = Matrix::new(tokens.len(), row);
        let difference = got.difference(&expected);
        if self.found.divergence.is_none() && difference > TOLERANCE {
            let weights = self.export.weights();
            let weight = weights.tensor(self.head)?;
            let product = Product { weights, weight: &weight, head_dim: 0, x, got: &got, expected: &expected };
            let cause = suspects::head(&product, &tokens, &all);
            self.found.divergence = Some(Divergence { activation: "head/out".into(), op: "head", difference, cause });
        } else if self.found.divergence.is_none() {
            self.found.agreed += 1;
            self.found.largest = self.found.largest.max(difference);
        }
        Ok(())
    }
}

/// Part `at` of a weight times `x`, and its bias.
fn product(source: &LinearSource, at: usize, x: &Matrix) -> Matrix {
    let mut out = x.times(&source.parts[at]);
    if let Some(bias) = source.biases.get(at) {
        let bias = bias.to_f32();
        for row in out.values.chunks_exact_mut(out.cols) {
            row.iter_mut().zip(&bias).for_each(|(value, bias)| *value += bias);
        }
    }
    out
}
