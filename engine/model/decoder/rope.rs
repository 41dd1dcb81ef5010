//! RoPE's settings in `config.json`, in both spellings, and the tables made of them.
//!
//! transformers 5.x nests all settings in `rope_parameters` and takes from the top level what is not there; 4.x has the base
//! at top level and the scaling in `rope_scaling`, whose `rope_type` was once called `type`. Served are one RoPE over whole
//! heads for all layers, unscaled, `linear` and `llama3`: these scale frequencies, so a device sees only tables.

use std::f32::consts::PI;

use crate::device::RopeSource;
use crate::export::ConfigReader;
use crate::model::ModelError;

/// RoPE's base and scaling.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RopeConfig {
    base: f64,
    scaling: Scaling,
}

/// What becomes of the frequencies.
#[derive(Clone, Debug, PartialEq)]
enum Scaling {
    Unscaled,
    Linear { factor: f32 },
    Llama3 { factor: f32, low: f32, high: f32, original_positions: f32 },
}

impl RopeConfig {
    /// Reads the settings of a model made for `max_positions` positions.
    ///
    /// # Errors
    /// Naming the key that is not served, or contradicts another.
    pub fn read(config: &ConfigReader, max_positions: usize) -> Result<RopeConfig, ModelError> {
        let nested = match (config.object("rope_parameters")?, config.object("rope_scaling")?) {
            (Some(_), Some(_)) => {
                let detail = "rope_parameters is there too; keep one of them";
                return Err(config.contradiction("rope_scaling", detail).into());
            }
            (nested, None) | (None, nested) => nested,
        };
        for rope in nested.iter().chain([config]) {
            if rope.float_or("partial_rotary_factor", 1.0)? != 1.0 {
                return Err(rope.unsupported("partial_rotary_factor", "RoPE over whole heads (1.0) is served").into());
            }
        }
        let scaling = match &nested {
            Some(rope) => scaling(rope, config, max_positions)?,
            None => Scaling::Unscaled,
        };
        let holder = nested.as_ref().filter(|rope| rope.has("rope_theta")).unwrap_or(config);
        let base = holder.float_or("rope_theta", 10_000.0)?;
        if !(1.0..=f64::from(f32::MAX)).contains(&base) {
            return Err(holder.unsupported("rope_theta", "a base of at least 1, within f32, is needed").into());
        }
        Ok(RopeConfig { base, scaling })
    }

    /// Cosines and sines of the first `positions` positions. Frequencies and angles are f32, as in Hugging Face's models.
    pub fn tables(&self, positions: usize, head_dim: usize) -> RopeSource {
        let frequencies = self.frequencies(head_dim);
        let angles = (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
        let (cos, sin) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        RopeSource { positions, cos, sin }
    }

    /// Frequency i is base^(-2i / head_dim), then scaled. The formulas are those of transformers' `modeling_rope_utils.py`
    /// (`_compute_linear_scaling_rope_parameters`, `_compute_llama3_parameters`): linear divides every frequency by the
    /// factor; llama3 keeps those whose wavelength is short against the original context, divides those whose wavelength is
    /// long, and blends in between.
    fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let frequency = |i: usize| 1.0 / (self.base as f32).powf((2 * i) as f32 / head_dim as f32);
        let scaled = |frequency: f32| match self.scaling {
            Scaling::Unscaled => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Llama3 { factor, low, high, original_positions } => {
                let wavelength = 2.0 * PI / frequency;
                if wavelength < original_positions / high {
                    frequency
                } else if wavelength > original_positions / low {
                    frequency / factor
                } else {
                    let kept = (original_positions / wavelength - low) / (high - low);
                    (1.0 - kept) * frequency / factor + kept * frequency
                }
            }
        };
        (0..head_dim / 2).map(frequency).map(scaled).collect()
    }
}

fn scaling(rope: &ConfigReader, config: &ConfigReader, max_positions: usize) -> Result<Scaling, ModelError> {
    // Some families have a RoPE for each type of layer; multimodal ones have one for each axis.
    for (key, advice) in [
        ("full_attention", "one RoPE for all layers is served"),
        ("sliding_attention", "one RoPE for all layers is served"),
        ("mrope_section", "RoPE over text positions is served; multimodal checkpoints are not"),
    ] {
        if rope.has(key) {
            return Err(rope.unsupported(key, advice).into());
        }
    }
    let key = if rope.has("rope_type") { "rope_type" } else { "type" };
    let kind = rope.text_or(key, "default")?;
    if rope.text_or("type", kind)? != kind {
        return Err(rope.contradiction("type", format!("rope_type is {kind:?}; keep one of them")).into());
    }
    let advice = match kind {
        "default" => return Ok(Scaling::Unscaled),
        "linear" => return Ok(Scaling::Linear { factor: factor(rope)? }),
        "llama3" => return llama3(rope, config, max_positions),
        "dynamic" => {
            "default, linear and llama3 are served; within max_position_embeddings dynamic equals default: for prompts up \
             to there, remove this object and keep rope_theta"
        }
        "yarn" => {
            "default, linear and llama3 are served; a checkpoint that was trained without yarn and got it for longer \
             prompts only works up to its original length when this object is removed and rope_theta kept"
        }
        _ => "default, linear and llama3 are served; another scaling needs an engine that knows it",
    };
    Err(rope.unsupported(key, advice).into())
}

fn factor(rope: &ConfigReader) -> Result<f32, ModelError> {
    let factor = rope.float("factor")?;
    if !(1.0..=1e6).contains(&factor) {
        return Err(rope.unsupported("factor", "a number from 1 to 1e6 is needed").into());
    }
    Ok(factor as f32)
}

fn llama3(rope: &ConfigReader, config: &ConfigReader, max_positions: usize) -> Result<Scaling, ModelError> {
    let (low, high) = (rope.float("low_freq_factor")?, rope.float("high_freq_factor")?);
    if !(low > 0.0 && high > low && high <= 1e6) {
        let advice = format!("it must be more than low_freq_factor ({low}), which must be more than 0");
        return Err(rope.unsupported("high_freq_factor", advice).into());
    }
    // transformers gives the key at top level priority over the nested one.
    let key = "original_max_position_embeddings";
    let original = config.count_or(key, rope.count_or(key, max_positions)?)?;
    Ok(Scaling::Llama3 {
        factor: factor(rope)?,
        low: low as f32,
        high: high as f32,
        original_positions: original as f32,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Result<RopeConfig, String> {
        let config = ConfigReader::parse(Path::new("config.json"), text).unwrap();
        RopeConfig::read(&config, 2048).map_err(|error| error.to_string())
    }

    const LLAMA3: &str = r#""factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64"#;

    #[test]
    fn both_spellings_mean_the_same() {
        let spelled = |text: &str| read(text).unwrap();
        let new = spelled(&format!(r#"{{"rope_parameters": {{"rope_theta": 5e5, "rope_type": "llama3", {LLAMA3}}}}}"#));
        for key in ["rope_type", "type"] {
            let text = format!(r#"{{"rope_theta": 5e5, "rope_scaling": {{"{key}": "llama3", {LLAMA3}}}}}"#);
            assert_eq!(spelled(&text), new, "{key}");
        }
        let both =
            format!(r#"{{"rope_theta": 5e5, "rope_scaling": {{"type": "llama3", "rope_type": "llama3", {LLAMA3}}}}}"#);
        assert_eq!(spelled(&both), new);
        // The base may stand at top level in 5.x too, and the nested one wins.
        let text = format!(r#"{{"rope_theta": 5e5, "rope_parameters": {{"rope_type": "llama3", {LLAMA3}}}}}"#);
        assert_eq!(spelled(&text), new);
        assert_eq!(
            spelled(
                r#"{"rope_theta": 7.0, "rope_parameters": {"rope_theta": 100.0, "rope_type": "linear", "factor": 2}}"#
            ),
            RopeConfig { base: 100.0, scaling: Scaling::Linear { factor: 2.0 } }
        );
        for plain in [r#"{"rope_scaling": null}"#, "{}", r#"{"rope_parameters": {"rope_type": "default"}}"#] {
            assert_eq!(spelled(plain), RopeConfig { base: 10_000.0, scaling: Scaling::Unscaled });
        }
        // Without a length of its own, llama3 takes the model's.
        let text =
            r#"{"rope_scaling": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 1, "high_freq_factor": 4}}"#;
        let RopeConfig { scaling: Scaling::Llama3 { original_positions, .. }, .. } = spelled(text) else { panic!() };
        assert_eq!(original_positions, 2048.0);
    }

    #[test]
    fn what_is_not_served_is_named() {
        for (text, parts) in [
            (r#"{"rope_scaling": {"rope_type": "yarn", "factor": 4}}"#, ["`rope_scaling.rope_type`", "yarn"]),
            (r#"{"rope_scaling": {"type": "dynamic", "factor": 4}}"#, ["`rope_scaling.type`", "remove this object"]),
            (r#"{"rope_parameters": {"rope_type": "longrope"}}"#, ["`rope_parameters.rope_type`", "longrope"]),
            (r#"{"rope_parameters": {"rope_type": "linear"}}"#, ["`rope_parameters.factor`", "missing"]),
            (r#"{"rope_scaling": {"type": "linear", "factor": 0.5}}"#, ["`rope_scaling.factor`", "from 1"]),
            (r#"{"rope_scaling": {"type": "linear", "rope_type": "llama3"}}"#, ["`rope_scaling.type`", "llama3"]),
            (r#"{"rope_scaling": {}, "rope_parameters": {}}"#, ["`rope_scaling`", "keep one"]),
            (r#"{"rope_parameters": {"full_attention": {}}}"#, ["`rope_parameters.full_attention`", "all layers"]),
            (
                r#"{"rope_scaling": {"type": "default", "mrope_section": [1]}}"#,
                ["`rope_scaling.mrope_section`", "text"],
            ),
            (r#"{"partial_rotary_factor": 0.5}"#, ["`partial_rotary_factor`", "whole heads"]),
            (r#"{"rope_theta": 0.5}"#, ["`rope_theta`", "at least 1"]),
            (
                r#"{"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}}"#,
                ["`rope_scaling.high_freq_factor`", "more than low_freq_factor (4)"],
            ),
        ] {
            let message = read(text).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{text}: {message}");
        }
    }

    /// Against transformers 5.23: `ROPE_INIT_FUNCTIONS[..](LlamaConfig(hidden_size=64, num_attention_heads=4, ..))`.
    #[test]
    fn frequencies_are_those_of_transformers() {
        let linear = RopeConfig { base: 10_000.0, scaling: Scaling::Linear { factor: 4.0 } };
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_positions: 64.0 };
        let llama3 = RopeConfig { base: 500_000.0, scaling };
        for (config, expected) in [(linear, LINEAR_4), (llama3, LLAMA3_8)] {
            for (found, expected) in config.frequencies(16).into_iter().zip(expected) {
                assert!((found - expected).abs() <= 2.0 * f32::EPSILON * expected, "{found}, not {expected}");
            }
        }
    }

    const LINEAR_4: [f32; 8] = [0.25, 0.07905694, 0.025, 0.007905695, 0.0025, 0.00079056947, 0.00025, 7.905695e-05];
    const LLAMA3_8: [f32; 8] =
        [1.0, 0.07940301, 0.004700754, 0.00091158313, 0.00017677668, 3.4281024e-05, 6.6478697e-06, 1.2891732e-06];
}
