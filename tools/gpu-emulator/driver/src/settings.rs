//! What the environment asks for, read once when the library is first called.
//!
//! A variable that cannot be understood is an error at `cuInit`, never a silent default: a test that misspells its fault plan must
//! not pass.

use std::env;
use std::path::PathBuf;
use thiserror::Error;

use crate::inject::{FaultPlan, PlanError};

const MEMORY_BYTES: &str = "GPU_EMULATOR_MEMORY_BYTES";
const DRIVER_VERSION: &str = "GPU_EMULATOR_DRIVER_VERSION";
const FAULT_PLAN: &str = "GPU_EMULATOR_FAIL";
const REPORT: &str = "GPU_EMULATOR_REPORT";
const LOG: &str = "GPU_EMULATOR_LOG";

/// Why the environment was refused.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A number was expected.
    #[error("{name}={value:?} is not a number that fits")]
    Number {
        /// The variable.
        name: &'static str,
        /// What it held.
        value: String,
    },
    /// The fault plan is wrong.
    #[error("{FAULT_PLAN}: {0}")]
    Plan(#[from] PlanError),
}

/// The settings of one process.
pub struct Settings {
    /// Bytes of device memory.
    pub memory_bytes: u64,
    /// What `cuDriverGetVersion` answers: 1000 * major + 10 * minor.
    pub driver_version: i32,
    /// Which calls fail.
    pub fault_plan: FaultPlan,
    /// The file that faults are appended to.
    pub report: Option<PathBuf>,
    /// Whether a summary is printed at the end.
    pub summary: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            memory_bytes: 2 << 30,
            driver_version: 12_090,
            fault_plan: FaultPlan::default(),
            report: None,
            summary: false,
        }
    }
}

impl Settings {
    /// Reads the environment.
    pub fn from_environment() -> Result<Settings, SettingsError> {
        let standard = Settings::default();
        Ok(Settings {
            memory_bytes: number(MEMORY_BYTES)?.unwrap_or(standard.memory_bytes),
            driver_version: number(DRIVER_VERSION)?.unwrap_or(standard.driver_version),
            fault_plan: text(FAULT_PLAN).map_or(Ok(FaultPlan::default()), |plan| FaultPlan::parse(&plan))?,
            report: env::var_os(REPORT).filter(|path| !path.is_empty()).map(PathBuf::from),
            summary: text(LOG).is_some_and(|value| value != "0"),
        })
    }
}

fn text(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

fn number<T: std::str::FromStr>(name: &'static str) -> Result<Option<T>, SettingsError> {
    let Some(value) = text(name) else { return Ok(None) };
    value.trim().parse().map(Some).map_err(|_| SettingsError::Number { name, value })
}
