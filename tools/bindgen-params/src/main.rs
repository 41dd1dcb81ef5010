//! Makes `ffi/src/params/generated.rs`, the Rust side of the kernels' parameter structs, from `kernels/include/params.h`.
//!
//! `tools/kernel-params` runs it, with the libclang that it needs: it writes the file, and with `--check` it says whether the
//! committed one is current. The engine's build needs neither this nor libclang.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bindgen::callbacks::ParseCallbacks;

/// Kernels take structs whose names end so; the others are parts of them, or records in device memory.
const PARAMETERS: &str = "Params";

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match &words[..] {
        [] => write(&root),
        [flag] if flag == "--check" => check(&root),
        _ => Err("usage: bindgen-params [--check]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bindgen-params: {error}");
            ExitCode::FAILURE
        }
    }
}

fn generated_file(root: &Path) -> PathBuf {
    root.join("ffi/src/params/generated.rs")
}

fn write(root: &Path) -> Result<(), Box<dyn Error>> {
    Ok(std::fs::write(generated_file(root), generate(root)?)?)
}

fn check(root: &Path) -> Result<(), Box<dyn Error>> {
    if std::fs::read_to_string(generated_file(root))? == generate(root)? {
        Ok(())
    } else {
        Err("ffi/src/params/generated.rs is not what kernels/include/params.h says: run tools/kernel-params".into())
    }
}

fn generate(root: &Path) -> Result<String, Box<dyn Error>> {
    let include = root.join("kernels/include");
    let bindings = bindgen::Builder::default()
        .header(include.join("params.h").to_string_lossy())
        .clang_args(["-std=c11", "-fparse-all-comments", &format!("-I{}", include.display())])
        // What the C library's headers declare is not ours.
        .allowlist_file(".*/kernels/include/params.*")
        .derive_default(true)
        .use_core()
        .layout_tests(true)
        .disable_header_comment()
        .parse_callbacks(Box::new(PlainComments))
        .rustfmt_configuration_file(Some(std::path::absolute(root.join("rustfmt.toml"))?))
        .generate()?
        .to_string();
    let names: Vec<&str> = bindings.lines().filter_map(parameter_struct).collect();
    Ok(format!("{HEAD}\n{bindings}\n{}", implementations(&names)))
}

const HEAD: &str = "\
//! Made by `tools/kernel-params` from `kernels/include/params.h`. Not edited by hand.
//!
//! Size and offsets of every struct are asserted at compile time.
";

/// The name in `pub struct NormParams {`.
fn parameter_struct(line: &str) -> Option<&str> {
    line.strip_prefix("pub struct ")?.strip_suffix(" {").filter(|name| name.ends_with(PARAMETERS))
}

fn implementations(names: &[&str]) -> String {
    let implementation = |name: &&str| {
        format!(
            "\n// SAFETY: made from the header that kernels include.\nunsafe impl super::KernelParams for {name} {{\n    \
             const NAME: &'static str = \"{name}\";\n}}\n"
        )
    };
    let size = |name: &&str| format!("    (\"{name}\", size_of::<{name}>()),\n");
    format!(
        "/// Every struct that a kernel takes, and its bytes.\n#[rustfmt::skip]\npub const PARAMETER_BYTES: &[(&str, usize)] = \
         &[\n{}];\n{}",
        names.iter().map(size).collect::<String>(),
        names.iter().map(implementation).collect::<String>()
    )
}

/// C comments speak of arrays with brackets, which rustdoc takes for links.
#[derive(Debug)]
struct PlainComments;

impl ParseCallbacks for PlainComments {
    fn process_comment(&self, comment: &str) -> Option<String> {
        let escape = |c: char| if "[]<>*_`".contains(c) { format!("\\{c}") } else { c.to_string() };
        Some(comment.chars().map(escape).collect())
    }
}
