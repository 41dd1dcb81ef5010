//! What `ptxas -v` says about a kernel, in the words of CUDA 12.9 and 13.0:
//!
//! ```text
//! ptxas info    : Compiling entry function 'norm_f32' for 'sm_80'
//! ptxas info    : Function properties for norm_f32
//! ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
//! ptxas info    : Used 8 registers, used 1 barriers, 512 bytes smem, 376 bytes cmem[0]
//! ```

/// What a kernel uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block.
    pub shared_bytes: u32,
    /// Named barriers.
    pub barriers: u32,
    /// Local memory of a thread.
    pub stack_bytes: u32,
    /// Bytes written to and read from local memory because registers ran out.
    pub spilled_bytes: u32,
}

/// Every kernel in a compiler's log, with what it uses. A kernel without a `Used` line is left out.
pub fn read(log: &str) -> Vec<(String, Resources)> {
    let mut kernels = Vec::new();
    let mut current: Option<(String, Resources)> = None;
    for line in log.lines() {
        if let Some((_, name)) = line.split_once("Compiling entry function '") {
            let name = name.split('\'').next().unwrap_or_default();
            current = Some((name.to_owned(), Resources::default()));
        } else if let Some((_, resources)) = &mut current {
            if line.contains("bytes stack frame") {
                // Functions that were not inlined into the kernel have lines of their own: their frames count too.
                resources.stack_bytes += before(line, " bytes stack frame");
                resources.spilled_bytes += before(line, " bytes spill stores") + before(line, " bytes spill loads");
            } else if line.contains("Used ") && line.contains(" registers") {
                resources.registers = before(line, " registers");
                resources.barriers = before(line, " barriers");
                resources.shared_bytes = before(line, " bytes smem");
                kernels.extend(current.take());
            }
        }
    }
    kernels
}

/// The number that stands before `words` in `line`; 0 when they are not there.
fn before(line: &str, words: &str) -> u32 {
    let number = line.split_once(words).and_then(|(left, _)| left.rsplit([' ', '\t']).next()?.parse().ok());
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Resources, read};

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'scale_bf16' for 'sm_80'
ptxas info    : Function properties for scale_bf16
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 512 bytes smem
ptxas info    : Compile time = 2.797 ms
ptxas info    : Compiling entry function 'scale_f32' for 'sm_80'
ptxas info    : Function properties for scale_f32
    32 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, 376 bytes cmem[0]
";

    #[test]
    fn both_compilers_logs_are_read() {
        let clean = Resources { registers: 10, shared_bytes: 512, barriers: 1, ..Resources::default() };
        let dirty = Resources { registers: 255, stack_bytes: 32, spilled_bytes: 12, ..Resources::default() };
        assert_eq!(read(LOG), [("scale_bf16".to_owned(), clean), ("scale_f32".to_owned(), dirty)]);
        assert_eq!(read("nothing of the kind\n"), []);
    }
}
