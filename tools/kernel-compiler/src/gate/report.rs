//! The gate's verdict, for a person and for a machine.

use std::fmt::Write as _;

use super::Row;

/// A table with a line a kernel, architecture and compiler; what is wrong stands at the end of the line.
pub fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.kernel.len()).max().unwrap_or(0).max("kernel".len());
    let heads = ["arch", "compiler", "registers", "shared", "barriers", "local", "spilled"];
    let mut text = format!("{:width$}", "kernel");
    for head in heads {
        write!(text, "  {head:>10}").expect("a string takes everything");
    }
    for row in rows {
        let used = row.resources;
        write!(text, "\n{:width$}  {:>10}  {:>10}", row.kernel, row.target.to_string(), row.compiler)
            .expect("a string takes everything");
        for number in [used.registers, used.shared_bytes, used.barriers, used.stack_bytes, used.spilled_bytes] {
            write!(text, "  {number:>10}").expect("a string takes everything");
        }
        if !row.faults.is_empty() {
            write!(text, "  {}", row.faults.join(", ")).expect("a string takes everything");
        }
    }
    text
}

/// The same as JSON: an array of objects. Names are identifiers and need no escape.
pub fn json(rows: &[Row]) -> String {
    let row = |row: &Row| {
        let used = row.resources;
        format!(
            "{{\"module\":\"{}\",\"kernel\":\"{}\",\"arch\":\"{}\",\"compiler\":\"{}\",\"registers\":{},\"shared_bytes\":{},\
             \"barriers\":{},\"local_bytes\":{},\"spilled_bytes\":{},\"faults\":{:?}}}",
            row.module,
            row.kernel,
            row.target,
            row.compiler,
            used.registers,
            used.shared_bytes,
            used.barriers,
            used.stack_bytes,
            used.spilled_bytes,
            row.faults
        )
    };
    format!("[{}]", rows.iter().map(row).collect::<Vec<_>>().join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::{Row, json, table};
    use crate::Target;
    use crate::gate::Resources;

    #[test]
    fn a_fault_stands_in_both_reports() {
        let row = Row {
            module: "norm".to_owned(),
            kernel: "norm_f32".to_owned(),
            target: Target::Cubin(80),
            compiler: "nvcc 13.0".to_owned(),
            resources: Resources { registers: 70, ..Resources::default() },
            faults: vec!["uses 70 registers of 64".to_owned()],
        };
        assert!(table(std::slice::from_ref(&row)).ends_with("uses 70 registers of 64"));
        assert_eq!(
            json(&[row]),
            "[{\"module\":\"norm\",\"kernel\":\"norm_f32\",\"arch\":\"sm_80\",\"compiler\":\"nvcc 13.0\",\"registers\":70,\
             \"shared_bytes\":0,\"barriers\":0,\"local_bytes\":0,\"spilled_bytes\":0,\"faults\":[\"uses 70 registers of 64\"]}]"
        );
    }
}
