//! From a module to what the driver has loaded: its images in order, then NVRTC.
//!
//! A driver may refuse an image for reasons of its own, so the next one is tried. When none is left, the module's source is
//! compiled by NVRTC and kept in the cache folder.
//!
//! `SIDEREAL_KERNEL_IMAGES=DIR` puts `DIR/NAME.sm_86.cubin` or `DIR/NAME.ptx` in place of the images of module `NAME`, to try a
//! kernel without building, or what another compiler makes of it. A module without a file there keeps its own images; one with
//! a file that the driver refuses is an error.
//!
//! What an image is loaded with is the caller's, so that nothing here needs CUDA.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use super::images::{Card, Image, Module, Target, choose};
use super::nvrtc;

/// Names the folder whose images stand in for the embedded ones.
pub const OVERRIDE_VARIABLE: &str = "SIDEREAL_KERNEL_IMAGES";

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

/// Loads modules for one card.
#[derive(Clone, Debug)]
pub struct Loader {
    card: Card,
    cache: PathBuf,
    overriding: Option<PathBuf>,
}

impl Loader {
    /// For `card`; what NVRTC makes is kept in the folder `cache`.
    pub fn new(card: Card, cache: PathBuf) -> Loader {
        let overriding = std::env::var_os(OVERRIDE_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        Loader { card, cache, overriding }
    }

    /// The same with another folder in place of that of `SIDEREAL_KERNEL_IMAGES`.
    #[must_use]
    pub fn with_images_of(self, folder: PathBuf) -> Loader {
        Loader { overriding: Some(folder), ..self }
    }

    /// The first image of `module` that `try_image` takes.
    ///
    /// # Errors
    /// It takes nothing that there is, or nothing can be made.
    pub fn load<M, E: Display>(
        &self,
        module: &Module,
        mut try_image: impl FnMut(&Image) -> Result<M, E>,
    ) -> Result<M, KernelError> {
        let overriding = match &self.overriding {
            Some(folder) => from_folder(folder, module.name)?,
            None => Vec::new(),
        };
        let is_overridden = !overriding.is_empty();
        let images = if is_overridden { &overriding[..] } else { module.images };
        let mut refusals = Refusals::default();
        for image in choose(images, self.card) {
            match try_image(image) {
                Ok(loaded) => {
                    tracing::debug!(module = module.name, target = %image.target, is_overridden, "kernels loaded");
                    return Ok(loaded);
                }
                Err(reason) => refusals.add(image.target, &reason),
            }
        }
        let refused = |refusals: Refusals| KernelError::Refused { module: module.name, refusals: refusals.to_string() };
        if is_overridden {
            return Err(refused(refusals));
        }
        let made = nvrtc::image(module, self.card, &self.cache, &refusals.to_string())?;
        try_image(&made).map_err(|reason| {
            refusals.add(made.target, &reason);
            refused(refusals)
        })
    }
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
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("no image suits the card") } else { f.write_str(&self.0.join("; ")) }
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

    fn image(target: Target) -> Image {
        Image { target, toolkit: 12090, bytes: Cow::Borrowed(b"embedded") }
    }

    fn module() -> Module {
        let images = vec![image(Target::Ptx(80)), image(Target::Cubin(80)), image(Target::Cubin(86))];
        Module { name: "norm", source: "", images: images.leak() }
    }

    fn loader() -> Loader {
        let card = Card { capability: 86, driver: 13000 };
        Loader { card, cache: PathBuf::from("/nonexistent"), overriding: None }
    }

    #[test]
    fn a_refused_image_is_followed_by_the_next() {
        let mut tried = Vec::new();
        let loaded = loader().load(&module(), |image| {
            tried.push(image.target);
            if tried.len() == 3 { Ok("loaded") } else { Err("no") }
        });
        assert_eq!(loaded.unwrap(), "loaded");
        assert_eq!(tried, [Target::Cubin(86), Target::Cubin(80), Target::Ptx(80)]);
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
    fn a_file_in_the_folder_stands_in_for_the_module_and_for_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let loader = loader().with_images_of(folder.path().to_owned());
        let bytes = |image: &Image| Ok::<_, String>(image.bytes.to_vec());
        assert_eq!(loader.load(&module(), bytes).unwrap(), b"embedded");
        std::fs::write(folder.path().join("norm.ptx"), "mine").unwrap();
        assert_eq!(loader.load(&module(), bytes).unwrap(), b"mine\0");
        let refused = loader.load(&module(), |_| Err::<(), _>("bad PTX")).unwrap_err().to_string();
        assert_eq!(refused, "kernels/norm.cu: the driver takes none of its images: compute_80: bad PTX");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let loader = loader().with_images_of(PathBuf::from("/nonexistent"));
        let error = loader.load(&module(), |_| Ok::<_, String>(())).unwrap_err().to_string();
        assert!(error.starts_with("SIDEREAL_KERNEL_IMAGES: /nonexistent: "), "{error}");
    }
}
