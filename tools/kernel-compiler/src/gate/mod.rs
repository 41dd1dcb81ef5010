//! The compile gate: every kernel, for every architecture, by each compiler, within the budget that its file states.
//!
//! A kernel fails when it spills, when it uses local memory (a stack frame), when it uses more registers or static shared memory
//! than its budget, or when it has no budget. Dynamic shared memory is chosen at launch and is not seen here.

mod budget;
mod report;
mod resources;

use crate::{Cache, CompileError, Compiler, Sources, Target, Unit, compile_all};

pub use budget::{BadBudget, Budget};
pub use report::{json, table};
pub use resources::Resources;

/// One kernel of one image.
#[derive(Clone, Debug)]
pub struct Row {
    /// The file without `.cu`.
    pub module: String,
    /// The kernel.
    pub kernel: String,
    /// The architecture.
    pub target: Target,
    /// The compiler.
    pub compiler: String,
    /// What it uses.
    pub resources: Resources,
    /// What is wrong with that; empty when it passes.
    pub faults: Vec<String>,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A budget line that cannot be read.
    #[error(transparent)]
    Budget(#[from] BadBudget),
    /// A kernel does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The compiler's log is not what it was.
    #[error("{compiler} says nothing about the resources of {module}.cu for {target}: has its log changed?")]
    Silent {
        /// Which compiler.
        compiler: String,
        /// Which module.
        module: String,
        /// For what.
        target: Target,
    },
}

/// Judges every kernel of `sources` as `compiler` makes it for `targets`.
///
/// # Errors
/// A kernel does not compile, or a budget line cannot be read: then there is nothing to judge.
pub fn judge(sources: &Sources, compiler: &Compiler, cache: &Cache, targets: &[Target]) -> Result<Vec<Row>, GateError> {
    let units = Unit::all(sources, targets);
    let images = compile_all(compiler, cache, &units)?;
    let mut rows = Vec::new();
    for (unit, image) in std::iter::zip(&units, &images) {
        let budgets = budget::read(unit.kernel)?;
        let found = resources::read(&image.log);
        if found.is_empty() {
            return Err(GateError::Silent {
                compiler: compiler.name(),
                module: unit.kernel.module().to_owned(),
                target: unit.target,
            });
        }
        rows.extend(found.into_iter().map(|(kernel, resources)| Row {
            module: unit.kernel.module().to_owned(),
            target: unit.target,
            compiler: compiler.name(),
            faults: faults(&kernel, resources, &budgets),
            kernel,
            resources,
        }));
    }
    Ok(rows)
}

/// What is wrong with a kernel that uses `resources`.
fn faults(kernel: &str, resources: Resources, budgets: &[Budget]) -> Vec<String> {
    let mut faults = Vec::new();
    if resources.spilled_bytes > 0 {
        faults.push(format!("spills {} bytes", resources.spilled_bytes));
    }
    if resources.stack_bytes > 0 {
        faults.push(format!("uses {} bytes of local memory", resources.stack_bytes));
    }
    let Some(budget) = budget::of(kernel, budgets) else {
        faults.push("has no budget line".to_owned());
        return faults;
    };
    if resources.registers > budget.registers {
        faults.push(format!("uses {} registers of {}", resources.registers, budget.registers));
    }
    if resources.shared_bytes > budget.shared_bytes {
        faults.push(format!("uses {} bytes of shared memory of {}", resources.shared_bytes, budget.shared_bytes));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::{Budget, Resources, faults};

    const WITHIN: Resources =
        Resources { registers: 64, shared_bytes: 1024, barriers: 1, stack_bytes: 0, spilled_bytes: 0 };

    fn faults_of(resources: Resources) -> String {
        let budget = Budget { pattern: "norm_*".to_owned(), registers: 64, shared_bytes: 1024 };
        faults("norm_f32", resources, &[budget]).join(", ")
    }

    #[test]
    fn each_way_to_fail_is_named() {
        assert_eq!(faults_of(WITHIN), "");
        assert_eq!(faults_of(Resources { registers: 65, ..WITHIN }), "uses 65 registers of 64");
        assert_eq!(faults_of(Resources { shared_bytes: 1025, ..WITHIN }), "uses 1025 bytes of shared memory of 1024");
        assert_eq!(faults_of(Resources { stack_bytes: 8, ..WITHIN }), "uses 8 bytes of local memory");
        assert_eq!(faults_of(Resources { spilled_bytes: 4, ..WITHIN }), "spills 4 bytes");
        assert_eq!(faults("gemm", WITHIN, &[]).join(", "), "has no budget line");
    }
}
