//! What PTX says about its kernels, their names and the bytes of parameters that each takes, and what the source says: the
//! struct.

/// A kernel in PTX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Bytes of each parameter. House rule: one struct by value, so one number.
    pub parameters_bytes: Vec<usize>,
}

/// The kernels that `ptx` declares, in its order. A parameter is `.param .align 8 .b8 name[72]`, or of a plain type.
pub fn entries(ptx: &str) -> Vec<Entry> {
    ptx.match_indices(".entry ").filter_map(|(at, keyword)| entry(&ptx[at + keyword.len()..])).collect()
}

fn entry(declaration: &str) -> Option<Entry> {
    let (name, rest) = declaration.split_once('(')?;
    let (parameters, _) = rest.split_once(')')?;
    let parameters_bytes = parameters.split(',').filter(|text| text.contains(".param")).map(parameter_bytes).collect();
    Some(Entry { name: name.trim().to_owned(), parameters_bytes })
}

/// Bytes of one parameter; 0 of a type that no kernel of ours takes, which no struct has.
fn parameter_bytes(declaration: &str) -> usize {
    let count = declaration.split_once('[').and_then(|(_, rest)| rest.trim_end().strip_suffix(']')?.parse().ok());
    let element = declaration.split_whitespace().find_map(|word| match word {
        ".b8" | ".u8" | ".s8" => Some(1),
        ".b16" | ".u16" | ".s16" | ".f16" => Some(2),
        ".b32" | ".u32" | ".s32" | ".f32" => Some(4),
        ".b64" | ".u64" | ".s64" | ".f64" => Some(8),
        _ => None,
    });
    count.unwrap_or(1) * element.unwrap_or(0)
}

/// The kernels that a `.cu` file defines, each with the struct that it takes, as the house writes them:
/// `KERNEL(128) norm_f32(const __grid_constant__ NormParams p)`.
pub fn parameter_structs(source: &str) -> Vec<(&str, &str)> {
    const BEFORE_STRUCT: &str = "(const __grid_constant__ ";
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let kernel = |at: usize| {
        let name = source[..at].rsplit(|c| !is_name(c)).next()?;
        let parameter = source[at + BEFORE_STRUCT.len()..].split(|c| !is_name(c)).next()?;
        Some((name, parameter))
    };
    source.match_indices(BEFORE_STRUCT).filter_map(|(at, _)| kernel(at)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Entry, entries, parameter_structs};

    #[test]
    fn the_source_names_the_struct() {
        let source =
            "KERNEL(A::B, 2) f_32(const __grid_constant__ FParams p) { }\nKERNEL(9)\ng(const __grid_constant__ G p);";
        assert_eq!(parameter_structs(source), [("f_32", "FParams"), ("g", "G")]);
    }

    #[test]
    fn structs_and_plain_parameters_are_measured() {
        let ptx = "\
.version 8.8
.visible .entry norm_bf16(
\t.param .align 8 .b8 norm_bf16_param_0[72]
)
.maxntid 128
{ ret; }
.visible .entry topk(\n\t.param .u64 .ptr .align 1 topk_param_0,\n\t.param .u32 topk_param_1\n)
{ ret; }
.visible .entry nothing()
{ ret; }";
        let entry = |name: &str, bytes: &[usize]| Entry { name: name.to_owned(), parameters_bytes: bytes.to_vec() };
        assert_eq!(entries(ptx), [entry("norm_bf16", &[72]), entry("topk", &[8, 4]), entry("nothing", &[])]);
    }
}
