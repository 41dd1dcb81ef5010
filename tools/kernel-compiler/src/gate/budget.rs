//! The budget lines in a kernel file's head: `// budget: norm_* registers <= 64, shared <= 1024`.

use crate::SourceFile;

/// What a kernel may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// A kernel's name, or the beginning of several with a `*` behind it.
    pub pattern: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block.
    pub shared_bytes: u32,
}

/// A line that begins as a budget does and does not go on like one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{file}:{line}: write `// budget: NAME registers <= N, shared <= BYTES`, where NAME may end in *")]
pub struct BadBudget {
    file: String,
    line: usize,
}

/// The budgets that `kernel` states.
///
/// # Errors
/// A budget line that cannot be read.
pub fn read(kernel: &SourceFile) -> Result<Vec<Budget>, BadBudget> {
    let stated = kernel.text.lines().enumerate().filter_map(|(index, line)| {
        let budget = line.trim_start().strip_prefix("// budget:")?;
        Some(parse(budget).ok_or(BadBudget { file: kernel.name.clone(), line: index + 1 }))
    });
    stated.collect()
}

fn parse(text: &str) -> Option<Budget> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [pattern, "registers", "<=", registers, "shared", "<=", shared_bytes] = words[..] else { return None };
    Some(Budget {
        pattern: pattern.to_owned(),
        registers: registers.strip_suffix(',')?.parse().ok()?,
        shared_bytes: shared_bytes.parse().ok()?,
    })
}

/// The budget of `kernel`: of several that fit, the one that names more of it.
pub fn of<'a>(kernel: &str, budgets: &'a [Budget]) -> Option<&'a Budget> {
    let fits = |budget: &&Budget| match budget.pattern.strip_suffix('*') {
        Some(prefix) => kernel.starts_with(prefix),
        None => kernel == budget.pattern,
    };
    // A whole name is longer than a prefix that fits, unless the prefix is the whole name and a star.
    let strength = |budget: &&Budget| (budget.pattern.trim_end_matches('*').len(), !budget.pattern.ends_with('*'));
    budgets.iter().filter(fits).max_by_key(strength)
}

#[cfg(test)]
mod tests {
    use super::{of, read};
    use crate::SourceFile;

    fn file(text: &str) -> SourceFile {
        SourceFile { name: "norm.cu".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn the_line_that_names_more_of_the_kernel_wins() {
        let budgets = read(&file(
            "// Norms.\n// budget: norm_* registers <= 40, shared <= 128\n// budget: norm_f32 registers <= 32, shared <= 0\n",
        ))
        .unwrap();
        assert_eq!(of("norm_f32", &budgets).unwrap().registers, 32);
        assert_eq!(of("norm_f32_wide", &budgets).unwrap().registers, 40);
        assert_eq!(of("norm_bf16", &budgets).unwrap().shared_bytes, 128);
        assert_eq!(of("gemm", &budgets), None);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        for line in ["norm registers <= 40", "norm registers <= forty, shared <= 0", "registers <= 4, shared <= 0"] {
            let error = read(&file(&format!("\n// budget: {line}\n"))).unwrap_err().to_string();
            assert!(error.starts_with("norm.cu:2: write"), "{error}");
        }
    }
}
