//! Names the library as a real driver is named, so that a program which has loaded it once finds it again as `libcuda.so.1`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
}
