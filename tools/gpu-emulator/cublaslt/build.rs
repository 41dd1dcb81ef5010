//! Names the library as a real one is named, so that a program which has loaded it once finds it again as `libcublasLt.so.13`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcublasLt.so.13");
}
