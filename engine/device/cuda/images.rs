//! The kernels that this binary carries, and which of their images suits a card.
//!
//! `build.rs` compiles every file of `kernels/` when it finds a CUDA compiler. A module has images for several targets and
//! always its source. Nothing here calls the driver: [`super::load`] offers it what [`choose`] has chosen.

use std::borrow::Cow;
use std::fmt;

/// What an image was compiled for. Compute capability 8.6 is 86.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Machine code: runs on this capability and on later ones of the same major version.
    Cubin(u32),
    /// PTX: a driver compiles it for this capability or any later one.
    Ptx(u32),
}

/// A compiled module. The bytes are aligned for the driver, and PTX ends with a NUL.
#[derive(Clone, Debug)]
pub struct Image {
    /// What for.
    pub target: Target,
    /// The CUDA version of the compiler, as `cuDriverGetVersion` counts: 12.9 is 12090.
    pub toolkit: u32,
    /// The image.
    pub bytes: Cow<'static, [u8]>,
}

/// A file of `kernels/`: loaded as one module.
#[derive(Clone, Debug)]
pub struct Module {
    /// The file's name without `.cu`.
    pub name: &'static str,
    /// The file's text.
    pub source: &'static str,
    /// What it was compiled to; empty when there was no compiler.
    pub images: &'static [Image],
}

/// A header under `kernels/include`.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// As kernels include it.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// The card and driver that an image must suit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Card {
    /// Compute capability: 8.6 is 86.
    pub capability: u32,
    /// What `cuDriverGetVersion` says: CUDA 12.4 is 12040.
    pub driver: u32,
}

/// Makes `bytes` start where the driver may read whole words.
#[repr(C, align(16))]
#[allow(dead_code, reason = "a build without CUDA compiler has no image")]
struct Aligned<B: ?Sized>(B);

/// An image that `build.rs` has written. `macro_rules` because `include_bytes!` wants a literal.
#[allow(unused_macros, reason = "a build without CUDA compiler has no image")]
macro_rules! image {
    ($target:expr, $toolkit:literal, $path:literal) => {{
        const BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        Image { target: $target, toolkit: $toolkit, bytes: Cow::Borrowed(&BYTES.0) }
    }};
}

// MODULES, HEADERS, COMPILER and CONTENT_HASH.
include!(concat!(env!("OUT_DIR"), "/kernel_images.rs"));

/// The module of `kernels/<name>.cu`.
pub fn module(name: &str) -> Option<&'static Module> {
    MODULES.iter().find(|module| module.name == name)
}

/// Those of `images` that suit the card, likeliest first: machine code of the card's own capability, then of an earlier one
/// with the same major version, then PTX.
///
/// Machine code wants a driver of its compiler's major version, PTX wants one of its compiler's version at least (CUDA's
/// minor-version compatibility).
pub fn choose(images: &[Image], card: Card) -> Vec<&Image> {
    let suits = |image: &&Image| match image.target {
        Target::Cubin(sm) => {
            sm / 10 == card.capability / 10 && sm <= card.capability && image.toolkit / 1000 <= card.driver / 1000
        }
        Target::Ptx(compute) => compute <= card.capability && image.toolkit <= card.driver,
    };
    let mut chosen: Vec<&Image> = images.iter().filter(suits).collect();
    chosen.sort_by_key(|image| match image.target {
        Target::Cubin(sm) => (0, u32::MAX - sm),
        Target::Ptx(compute) => (1, u32::MAX - compute),
    });
    chosen
}

/// As compilers write it.
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
    use super::*;

    const CUDA_12_4: u32 = 12040;

    fn image(target: Target, toolkit: u32) -> Image {
        Image { target, toolkit, bytes: Cow::Borrowed(b"image") }
    }

    fn shipped() -> Vec<Image> {
        [80, 86, 89, 90, 100, 120]
            .map(|sm| image(Target::Cubin(sm), 12090))
            .into_iter()
            .chain([image(Target::Ptx(80), 12090)])
            .collect()
    }

    fn chosen(images: &[Image], capability: u32, driver: u32) -> Vec<Target> {
        choose(images, Card { capability, driver }).iter().map(|image| image.target).collect()
    }

    #[test]
    fn the_cards_own_code_comes_first_then_its_elders_then_ptx() {
        use Target::{Cubin, Ptx};
        assert_eq!(chosen(&shipped(), 89, 13000), [Cubin(89), Cubin(86), Cubin(80), Ptx(80)]);
        assert_eq!(chosen(&shipped(), 87, 13000), [Cubin(86), Cubin(80), Ptx(80)]);
        assert_eq!(chosen(&shipped(), 90, 13000), [Cubin(90), Ptx(80)]);
        assert_eq!(chosen(&shipped(), 121, 13000), [Cubin(120), Ptx(80)]);
        assert_eq!(chosen(&shipped(), 110, 13000), [Ptx(80)], "a major version that has no image yet");
        assert_eq!(chosen(&shipped(), 75, 13000), [], "nothing runs on a card before Ampere");
    }

    #[test]
    fn an_older_driver_takes_machine_code_of_its_major_version_and_no_newer_ptx() {
        assert_eq!(chosen(&shipped(), 80, CUDA_12_4), [Target::Cubin(80)]);
        let of_13 = [image(Target::Cubin(80), 13000), image(Target::Ptx(80), 13000)];
        assert_eq!(chosen(&of_13, 80, CUDA_12_4), []);
        assert_eq!(chosen(&of_13, 80, 13000), [Target::Cubin(80), Target::Ptx(80)]);
    }

    #[test]
    fn embedded_images_are_aligned_and_their_ptx_ends_with_nul() {
        for image in MODULES.iter().flat_map(|module| module.images) {
            assert_eq!(image.bytes.as_ptr().align_offset(16), 0);
            assert!(matches!(image.target, Target::Cubin(_)) || image.bytes.ends_with(&[0]));
        }
    }
}
