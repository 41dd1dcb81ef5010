//! The Rust source that carries the images into the engine: `kernel_images.rs`, included by `engine/device/cuda/images.rs`.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::{Compiler, Hash, Image, SourceFile, Sources, Target};

/// An image and what it is of.
pub struct Entry<'a> {
    /// The kernel file.
    pub kernel: &'a SourceFile,
    /// What for.
    pub target: Target,
    /// The image.
    pub image: &'a Image,
}

/// Writes the images and the table over them into `out`.
///
/// Without compiler, `entries` is empty and the table has the sources alone.
///
/// # Errors
/// A file that cannot be written.
pub fn write(out: &Path, sources: &Sources, compiler: Option<&Compiler>, entries: &[Entry]) -> io::Result<()> {
    for entry in entries {
        replace_if_changed(&out.join(entry.target.file_name(entry.kernel.module())), &entry.image.bytes)?;
    }
    replace_if_changed(&out.join("kernel_images.rs"), table(out, sources, compiler, entries).as_bytes())
}

/// An unchanged file keeps its time, so that nothing is rebuilt for it.
fn replace_if_changed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) { Ok(()) } else { std::fs::write(path, bytes) }
}

fn table(out: &Path, sources: &Sources, compiler: Option<&Compiler>, entries: &[Entry]) -> String {
    let mut text = String::new();
    let name = compiler.map_or_else(|| "none: compiled at first use".to_owned(), Compiler::name);
    let hash = sources.kernels.iter().fold(Hash::new(), |hash, kernel| hash.with(sources.hash_of(kernel).to_string()));
    let hash = entries.iter().fold(hash.with(&name), |hash, entry| hash.with(&entry.image.bytes));
    item(&mut text, "What made the images", "COMPILER: &str", &format!("{name:?}"));
    item(&mut text, "A hash over sources, headers, compiler and images", "CONTENT_HASH: &str", &format!("\"{hash}\""));

    let include = sources.folder.join("include");
    let headers = sources.headers.iter().map(|header| {
        format!("    Header {{ name: {:?}, text: include_str!({:?}) }},\n", header.name, include.join(&header.name))
    });
    item(
        &mut text,
        "The headers that kernels include",
        "HEADERS: &[Header]",
        &format!("&[\n{}]", headers.collect::<String>()),
    );
    let modules = sources.kernels.iter().map(|kernel| module(out, sources, kernel, (compiler, entries)));
    item(&mut text, "Every kernel file", "MODULES: &[Module]", &format!("&[\n{}]", modules.collect::<String>()));
    text
}

fn item(text: &mut String, what: &str, name_and_type: &str, value: &str) {
    writeln!(text, "/// {what}.\npub static {name_and_type} = {value};").expect("a string takes everything");
}

fn module(out: &Path, sources: &Sources, kernel: &SourceFile, compiled: (Option<&Compiler>, &[Entry])) -> String {
    let (compiler, entries) = compiled;
    let (major, minor) = compiler.map_or((0, 0), Compiler::version);
    // As cuDriverGetVersion counts: 12.9 is 12090.
    let toolkit = major * 1000 + minor * 10;
    let images = entries.iter().filter(|entry| entry.kernel.name == kernel.name).map(|entry| {
        let path = out.join(entry.target.file_name(kernel.module()));
        let target = match entry.target {
            Target::Cubin(sm) => format!("Target::Cubin({sm})"),
            Target::Ptx(compute) => format!("Target::Ptx({compute})"),
        };
        format!("        image!({target}, {toolkit}, {path:?}),\n")
    });
    let (name, path) = (kernel.module(), sources.folder.join(&kernel.name));
    let images: String = images.collect();
    format!("    Module {{ name: {name:?}, source: include_str!({path:?}), images: &[\n{images}    ] }},\n")
}
