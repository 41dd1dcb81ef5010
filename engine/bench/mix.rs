//! What requests look like: parts of history length and beam width with weights, e.g. `256/32:0.7,1024/128:0.3`.
//!
//! A length is a number of items, a number of tokens with a `t` (`512t/32`: the complete prompt, made of semantic IDs), or
//! `all`: the whole history of a user of a file.

use std::fmt;
use std::str::FromStr;

use super::random::Random;

/// How long a history is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Items.
    Items(usize),
    /// Tokens of a complete prompt.
    Tokens(usize),
    /// As long as the user's history is.
    Whole,
}

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// History.
    pub length: Length,
    /// Beam width.
    pub beams: u32,
    /// Share of the requests, relative to the other parts' weights.
    pub weight: f64,
}

/// Kinds of requests and how often each comes.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    parts: Vec<Part>,
    total: f64,
}

/// Text that is not a mix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{part:?}: {told}; write HISTORY/BEAMS or HISTORY/BEAMS:WEIGHT, e.g. 256/32:0.7,1024/128:0.3, with a history of \
         items (256), of tokens (256t), or all"
)]
pub struct MixError {
    /// The part of the text.
    pub part: String,
    /// What is wrong with it.
    pub told: &'static str,
}

impl Mix {
    /// A mix of one kind.
    pub fn of(length: Length, beams: u32) -> Mix {
        Mix { parts: vec![Part { length, beams, weight: 1.0 }], total: 1.0 }
    }

    /// The kinds, as they were written.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// One kind, as often as its weight says.
    pub fn draw(&self, random: &mut Random) -> Part {
        let mut left = random.unit() * self.total;
        for part in &self.parts {
            left -= part.weight;
            if left < 0.0 {
                return *part;
            }
        }
        // Rounding may leave a little after the last part.
        self.parts[self.parts.len() - 1]
    }
}

impl FromStr for Mix {
    type Err = MixError;

    fn from_str(text: &str) -> Result<Mix, MixError> {
        let parts = text.split(',').map(part).collect::<Result<Vec<_>, _>>()?;
        let total = parts.iter().map(|part| part.weight).sum();
        Ok(Mix { parts, total })
    }
}

fn part(text: &str) -> Result<Part, MixError> {
    let wrong = |told| MixError { part: text.to_owned(), told };
    let (shape, weight) = text.split_once(':').unwrap_or((text, "1"));
    let (length, beams) = shape.split_once('/').ok_or_else(|| wrong("has no beam width"))?;
    let number = |text: &str| text.trim().parse().ok().filter(|&count| count >= 1);
    let length = match length.trim() {
        "all" => Length::Whole,
        text => match text.strip_suffix('t') {
            Some(tokens) => Length::Tokens(number(tokens).ok_or_else(|| wrong("has no number of tokens above 0"))?),
            None => Length::Items(number(text).ok_or_else(|| wrong("has no number of items above 0"))?),
        },
    };
    let beams = beams.trim().parse().ok().filter(|&beams| beams >= 1);
    let beams = beams.ok_or_else(|| wrong("has no beam width above 0"))?;
    let weight: Option<f64> = weight.trim().parse().ok();
    let weight = weight.filter(|weight| *weight > 0.0 && *weight <= 1e9);
    Ok(Part { length, beams, weight: weight.ok_or_else(|| wrong("has no weight above 0"))? })
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Length::Items(items) => write!(f, "{items}"),
            Length::Tokens(tokens) => write!(f, "{tokens}t"),
            Length::Whole => f.write_str("all"),
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Part { length, beams, weight }) in self.parts.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{length}/{beams}:{weight}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["256/32:0.7,1024/128:0.3", "512t/1:1", "all/50:2"] {
            assert_eq!(text.parse::<Mix>().unwrap().to_string(), text);
        }
        assert_eq!("64/50".parse::<Mix>().unwrap(), Mix::of(Length::Items(64), 50));
    }

    #[test]
    fn says_what_is_wrong_with_which_part() {
        for (text, part, told) in [
            ("", "\"\"", "no beam width"),
            ("256", "\"256\"", "no beam width"),
            ("1/1,0/32", "\"0/32\"", "items above 0"),
            ("xt/32", "\"xt/32\"", "tokens above 0"),
            ("1/-1", "\"1/-1\"", "beam width above 0"),
            ("1/1:0", "\"1/1:0\"", "weight above 0"),
            ("1/1:nan", "\"1/1:nan\"", "weight above 0"),
            ("1/1:inf", "\"1/1:inf\"", "weight above 0"),
        ] {
            let error = text.parse::<Mix>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(told) && error.contains("1024/128"), "{error}");
        }
    }

    #[test]
    fn parts_come_as_often_as_their_weights_say() {
        let mix: Mix = "1/1:3,2/2:1".parse().unwrap();
        let mut random = Random::new(3);
        let short = (0..10_000).filter(|_| mix.draw(&mut random).beams == 1).count();
        // Standard deviation 43: five of them.
        assert!(short.abs_diff(7500) < 217, "{short}");
    }
}
