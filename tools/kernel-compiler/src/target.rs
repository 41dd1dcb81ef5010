//! What an image is compiled for.

use std::fmt;

/// What an image is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Machine code of one architecture: compute capability 8.6 is 86.
    Cubin(u32),
    /// PTX, which a driver compiles for cards of at least this compute capability.
    Ptx(u32),
}

/// A list of targets that cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no target: write compute capabilities without a dot, and ptx, such as 80,90,ptx")]
pub struct BadTarget(String);

impl Target {
    /// The PTX that every card since Ampere can run.
    pub const PTX: Target = Target::Ptx(80);

    /// What a shipped binary carries: machine code of every architecture that is tested, and PTX for those to come.
    pub const SHIPPED: [Target; 7] = [
        Target::Cubin(80),
        Target::Cubin(86),
        Target::Cubin(89),
        Target::Cubin(90),
        Target::Cubin(100),
        Target::Cubin(120),
        Target::PTX,
    ];

    /// The targets of a list such as `80,90` or `ptx`, sorted and each once.
    ///
    /// # Errors
    /// Names the part that is neither a compute capability nor `ptx`.
    pub fn parse_list(list: &str) -> Result<Vec<Target>, BadTarget> {
        let parse = |word: &str| match word {
            "ptx" => Ok(Target::PTX),
            _ => match word.parse() {
                Ok(sm @ 80..=999) => Ok(Target::Cubin(sm)),
                _ => Err(BadTarget(word.to_owned())),
            },
        };
        let mut targets = list.split(',').map(|word| parse(word.trim())).collect::<Result<Vec<_>, _>>()?;
        targets.sort_unstable();
        targets.dedup();
        Ok(targets)
    }

    /// The compute capability, without its dot.
    pub fn capability(self) -> u32 {
        match self {
            Target::Cubin(capability) | Target::Ptx(capability) => capability,
        }
    }

    /// Options that depend on the target. Line numbers cost nothing at run time, but make machine code four times as large: only
    /// PTX has them, and names the line of a fault.
    pub(crate) fn options(self) -> &'static [&'static str] {
        match self {
            Target::Cubin(_) => &[],
            Target::Ptx(_) => &["-lineinfo"],
        }
    }

    /// The file name of `module`'s image, as `SIDEREAL_KERNEL_IMAGES` folders have it.
    pub fn file_name(self, module: &str) -> String {
        match self {
            Target::Cubin(sm) => format!("{module}.sm_{sm}.cubin"),
            Target::Ptx(_) => format!("{module}.ptx"),
        }
    }
}

/// As compilers write it: `sm_80`, `compute_80`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Cubin(sm) => write!(f, "sm_{sm}"),
            Target::Ptx(compute) => write!(f, "compute_{compute}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn lists_are_sorted_and_each_target_stands_once() {
        let list = Target::parse_list("90, 80,ptx,90").unwrap();
        assert_eq!(list, [Target::Cubin(80), Target::Cubin(90), Target::PTX]);
    }

    #[test]
    fn a_bad_word_is_named() {
        for (list, word) in [("80,sm_90", "sm_90"), ("", ""), ("8.0", "8.0"), ("70", "70")] {
            assert!(Target::parse_list(list).unwrap_err().to_string().starts_with(&format!("{word:?} is no target")));
        }
    }
}
