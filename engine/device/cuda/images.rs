//! The kernels that this binary carries, and which of their images suits a card.
//!
//! `build.rs` compiles every file of `kernels/` when it finds a CUDA compiler. A module has images for several targets and
//! always its source. [`load`] offers a module's images to the driver, likeliest first, and the driver may refuse any of
//! them; when none is left, the source is compiled by NVRTC ([`super::nvrtc`]).
//!
//! `SIDEREAL_KERNEL_IMAGES=DIR` puts `DIR/NAME.sm_86.cubin` or `DIR/NAME.ptx` in place of the images of module `NAME`, to try a
//! kernel without building, or what another compiler makes of it. A module without a file there keeps its own images.
//!
//! Nothing here calls the driver: what loads an image is the caller's.

use std::borrow::Cow;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::nvrtc;

/// Names the folder whose images stand in for the embedded ones.
pub const OVERRIDE_VARIABLE: &str = "SIDEREAL_KERNEL_IMAGES";

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

/// Why a kernel cannot be had. Each names the kernel file.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The card is older than the instructions that kernels use.
    #[error(
        "kernels/{module}.cu needs a card of compute capability 8.0 or later: this one has {}.{}",
        capability / 10,
        capability % 10
    )]
    OldCard {
        /// Which module.
        module: &'static str,
        /// What the card has.
        capability: u32,
    },
    /// No image suits and there is no NVRTC to make one.
    #[error(
        "kernels/{module}.cu: this binary has no image that the card takes, and there is no NVRTC to compile one: install \
         libnvrtc of CUDA 12 or 13 ({refusals})"
    )]
    NoCompiler {
        /// Which module.
        module: &'static str,
        /// What the driver said of the images.
        refusals: String,
    },
    /// NVRTC failed.
    #[error("kernels/{module}.cu: {compiler} cannot compile it for {target}: {reason}")]
    Compile {
        /// Which module.
        module: &'static str,
        /// Which compiler.
        compiler: String,
        /// For what, as the compiler writes it.
        target: String,
        /// The compiler's log.
        reason: String,
    },
    /// The driver takes none of the images, not even what NVRTC has just made.
    #[error("kernels/{module}.cu: the driver takes none of its images: {refusals}")]
    Refused {
        /// Which module.
        module: &'static str,
        /// What the driver said of each.
        refusals: String,
    },
    /// The folder of `SIDEREAL_KERNEL_IMAGES` cannot be used.
    #[error("{OVERRIDE_VARIABLE}: {path}: {source}", path = path.display())]
    Override {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
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

/// Loads `module` by `try_image`: from the override's folder when that has it, else from the embedded images, else from what
/// NVRTC makes of the source (kept in `cache`).
///
/// # Errors
/// The driver takes nothing that there is, or nothing can be made.
pub fn load<M, E: Display>(
    module: &Module,
    card: Card,
    cache: &Path,
    mut try_image: impl FnMut(&[u8]) -> Result<M, E>,
) -> Result<M, KernelError> {
    let overriding = match std::env::var_os(OVERRIDE_VARIABLE).filter(|value| !value.is_empty()) {
        Some(folder) => from_folder(Path::new(&folder), module.name)?,
        None => Vec::new(),
    };
    let is_overridden = !overriding.is_empty();
    let images = if is_overridden { &overriding[..] } else { module.images };
    let mut refusals = Refusals::default();
    for image in choose(images, card) {
        match try_image(&image.bytes) {
            Ok(loaded) => {
                tracing::debug!(module = module.name, target = ?image.target, is_overridden, "kernel image loaded");
                return Ok(loaded);
            }
            Err(reason) => refusals.add(image.target, &reason),
        }
    }
    if is_overridden {
        return Err(KernelError::Refused { module: module.name, refusals: refusals.to_string() });
    }
    let made = nvrtc::image(module, card, cache, &refusals.to_string())?;
    try_image(&made.bytes).map_err(|reason| {
        refusals.add(made.target, &reason);
        KernelError::Refused { module: module.name, refusals: refusals.to_string() }
    })
}

/// What the driver said of the images that it refused.
#[derive(Default)]
struct Refusals(Vec<String>);

impl Refusals {
    fn add(&mut self, target: Target, reason: &impl Display) {
        self.0.push(format!("{target}: {reason}"));
    }
}

impl Display for Refusals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { f.write_str("no image suits it") } else { f.write_str(&self.0.join("; ")) }
    }
}

/// As compilers write it.
impl Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Cubin(sm) => write!(f, "sm_{sm}"),
            Target::Ptx(compute) => write!(f, "compute_{compute}"),
        }
    }
}

/// Every image of `module` in `folder`. Who puts them there answers for their fitting the driver.
fn from_folder(folder: &Path, module: &str) -> Result<Vec<Image>, KernelError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| KernelError::Override { path, source }
    };
    let mut images = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        let Some(target) = target_of(&path, module) else { continue };
        let mut bytes = std::fs::read(&path).map_err(failed(&path))?;
        if matches!(target, Target::Ptx(_)) && bytes.last() != Some(&0) {
            bytes.push(0);
        }
        images.push(Image { target, toolkit: 0, bytes: Cow::Owned(bytes) });
    }
    Ok(images)
}

/// `NAME.sm_86.cubin` or `NAME.ptx`, which is taken to suit every card that kernels suit.
fn target_of(path: &Path, module: &str) -> Option<Target> {
    match path.file_name()?.to_str()?.strip_prefix(module)? {
        ".ptx" => Some(Target::Ptx(80)),
        rest => Some(Target::Cubin(rest.strip_prefix(".sm_")?.strip_suffix(".cubin")?.parse().ok()?)),
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
    fn files_of_a_folder_are_told_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["norm.ptx", "norm.sm_90.cubin", "norm_rope.ptx", "norm.cu", "norm.sm_90a.cubin"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let mut images = from_folder(folder.path(), "norm").unwrap();
        images.sort_by_key(|image| image.bytes.len());
        assert_eq!(images[0].bytes, &b"norm.ptx\0"[..], "PTX ends with a NUL");
        assert_eq!(images[1].bytes, &b"norm.sm_90.cubin"[..]);
        assert_eq!(images.len(), 2);
        assert_eq!(from_folder(folder.path(), "gemm").unwrap().len(), 0);
    }

    #[test]
    fn a_refused_image_is_followed_by_the_next() {
        let images: &'static [Image] = Box::leak(shipped().into_boxed_slice());
        let module = Module { name: "norm", source: "", images };
        let card = Card { capability: 89, driver: 13000 };
        let mut tried = 0;
        let loaded = load(&module, card, Path::new("/nonexistent"), |_| {
            tried += 1;
            if tried == 3 { Ok(tried) } else { Err("no") }
        });
        assert_eq!(loaded.unwrap(), 3);
    }

    #[test]
    fn embedded_images_are_aligned_and_their_ptx_ends_with_nul() {
        for image in MODULES.iter().flat_map(|module| module.images) {
            assert_eq!(image.bytes.as_ptr().align_offset(16), 0);
            assert!(matches!(image.target, Target::Cubin(_)) || image.bytes.ends_with(&[0]));
        }
    }
}
