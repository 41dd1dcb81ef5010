//! Where a run happens: the package, the scratch folder, the driver, the time that is left.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use crate::card::Card;
use crate::error::{CheckError, at};
use crate::process;
use crate::report::{Provenance, date};

/// Where the stand-in driver and its cuBLASLt are in a package that was made for a rehearsal.
const STAND_INS: [&str; 2] = ["rehearsal/libcuda.so.1", "rehearsal/libcublasLt.so.13"];

/// Everything that commands and parts share.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Folder with `bin/`, and `tests/` and `demo/` as in the repository.
    pub package: PathBuf,
    /// Folder for what is made on the way.
    pub scratch: PathBuf,
    /// Tiny shapes on the stand-in driver.
    pub is_rehearsal: bool,
    /// When to be done.
    pub deadline: Instant,
}

impl Setting {
    /// A carried program.
    pub fn program(&self, name: &str) -> Result<PathBuf, CheckError> {
        let path = self.package.join("bin").join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(CheckError::Missing(format!("{} is missing: tools/gpu-check/pack makes the package", path.display())))
    }

    /// A command of a carried program, with the driver of this run.
    pub fn command(&self, program: &str) -> Result<Command, CheckError> {
        Ok(self.with_driver(Command::new(self.program(program)?)))
    }

    /// Makes a command's programs find the stand-in driver in a rehearsal.
    pub fn with_driver(&self, mut command: Command) -> Command {
        command
            .env_remove("RUST_LOG")
            .env_remove("RUST_BACKTRACE")
            .env("SIDEREAL_TEST_DRIVER", "real")
            .env("SIDEREAL_TEST_ROOT", &self.package);
        if self.is_rehearsal {
            command.env("LD_LIBRARY_PATH", self.package.join("rehearsal"));
        }
        command
    }

    /// Loads the driver of this run into this process. Call before anything looks for a card.
    pub fn load_driver(&self) -> Result<(), CheckError> {
        static LOADED: OnceLock<()> = OnceLock::new();
        if !self.is_rehearsal || LOADED.get().is_some() {
            return Ok(());
        }
        for path in STAND_INS.map(|library| self.package.join(library)) {
            // Once it is loaded, a search for its soname finds it.
            sidereal_dylib::preload(&path).map_err(|error| {
                CheckError::Missing(format!("{}: {error} (tools/gpu-check/pack --rehearse carries it)", path.display()))
            })?;
        }
        LOADED.get_or_init(|| ());
        Ok(())
    }

    /// Time left.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Folders of the carried golden exports, in order.
    pub fn goldens(&self) -> Result<Vec<PathBuf>, CheckError> {
        let folder = self.package.join("tests/goldens");
        let entries = std::fs::read_dir(&folder).map_err(at(&folder))?;
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.join("sidereal.json").is_file())
            .collect();
        found.sort();
        Ok(found)
    }

    /// The carried demo export.
    pub fn demo(&self) -> PathBuf {
        self.package.join("demo/movielens/export")
    }

    /// Where and when this run is, on `card`.
    pub fn provenance(&self, card: &Card) -> Provenance {
        let driver = card.capabilities.driver;
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let of_cuda = format!("CUDA {}.{}", driver / 1000, driver % 1000 / 10);
        let kernel_module = kernel_module_version();
        Provenance {
            card: card.name.clone(),
            driver: kernel_module.map_or(of_cuda.clone(), |version| format!("{version} ({of_cuda})")),
            date: date(seconds),
            commit: self.commit(),
        }
    }

    fn commit(&self) -> String {
        let carried = std::fs::read_to_string(self.package.join("commit")).unwrap_or_default();
        match carried.trim() {
            "" => "unknown".to_owned(),
            commit => commit.to_owned(),
        }
    }
}

/// The driver's own version, such as 580.95.05: what the kernel says of its module.
fn kernel_module_version() -> Option<String> {
    let text = std::fs::read_to_string("/sys/module/nvidia/version").ok()?;
    Some(text.trim().to_owned())
}

/// What `nvidia-smi` says, where it is there.
pub fn nvidia_smi(arguments: &[&str]) -> Option<String> {
    let ran =
        process::run(Command::new("nvidia-smi").args(arguments), Instant::now() + Duration::from_secs(20)).ok()?;
    ran.is_good().then_some(ran.stdout)
}

/// A folder's name from a card's: `gpu-nvidia-h100-80gb-hbm3-2026-11-24`.
pub fn results_name(provenance: &Provenance) -> String {
    let name: String =
        provenance.card.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
    format!("gpu-{}-{}", words.join("-"), provenance.date)
}

/// The package that this program lies in: the folder above its `bin`.
pub fn own_package() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}
