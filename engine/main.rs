//! The `sidereal` binary. Everything is in [`sidereal::cli`].

fn main() -> std::process::ExitCode {
    sidereal::cli::main()
}
