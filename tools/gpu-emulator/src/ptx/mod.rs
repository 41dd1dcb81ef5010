//! PTX modules: parsing, kernels and their signatures, module variables, placement in device memory.

pub(crate) mod ast;
mod lex;
mod parse;

use crate::ir::{Code, Preset};
use crate::lower::lower;
use crate::memory::{GlobalMemory, MemoryError};
use ast::{Space, Unit, Variable};
use std::sync::Arc;

/// PTX that does not follow the grammar this crate knows.
#[derive(Debug, thiserror::Error)]
#[error("PTX line {line}: {what}")]
pub struct ParseError {
    /// Line of the PTX text, counted from one.
    pub line: u32,
    /// What is wrong there.
    pub what: String,
}

impl ParseError {
    pub(crate) fn new(line: u32, what: impl Into<String>) -> Self {
        ParseError { line, what: what.into() }
    }
}

/// One kernel parameter's place in the parameter block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Bytes from the start of the parameter block.
    pub offset: usize,
    /// Size.
    pub bytes: usize,
    /// Alignment.
    pub align: usize,
}

/// The text and file table that faults quote.
#[derive(Debug, Default)]
pub(crate) struct Text {
    pub source: String,
    pub files: Vec<(u32, String)>,
}

/// One `.entry` function, ready to run if the module has no variables, else after [`Module::load`].
#[derive(Clone, Debug)]
pub struct Kernel {
    name: String,
    params: Vec<Param>,
    param_bytes: usize,
    static_shared_bytes: usize,
    max_threads: Option<u32>,
    pub(crate) dynamic_shared_start: usize,
    pub(crate) code: Arc<Code>,
    pub(crate) text: Arc<Text>,
    /// Addresses of the module's variables, once loaded.
    pub(crate) globals: Arc<[u64]>,
}

impl Kernel {
    /// The name as the PTX has it (mangled, unless `extern "C"`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Parameters in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Size of the parameter block.
    pub fn param_bytes(&self) -> usize {
        self.param_bytes
    }

    /// Shared memory that the kernel declares itself.
    pub fn static_shared_bytes(&self) -> usize {
        self.static_shared_bytes
    }

    /// Threads a block may have: the product of `.maxntid` or `.reqntid`, if declared.
    pub fn max_threads(&self) -> Option<u32> {
        self.max_threads
    }

    /// Every instruction that faults as unsupported if it is reached: PTX line and reason.
    pub fn unsupported(&self) -> impl Iterator<Item = (u32, &str)> {
        self.code.instrs.iter().filter_map(|instr| match &instr.op {
            crate::ir::Op::Unsupported(reason) => Some((instr.line, reason.as_ref())),
            _ => None,
        })
    }

    pub(crate) fn needs_globals(&self) -> bool {
        self.code.presets.iter().any(|(_, preset)| matches!(preset, Preset::Global { .. }))
    }
}

/// A parsed PTX file.
#[derive(Clone, Debug)]
pub struct Module {
    kernels: Vec<Kernel>,
    variables: Arc<[Variable]>,
}

impl Module {
    /// Parses PTX text. Instructions that are not implemented do not fail here; they fault when executed.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        let unit = parse::parse(text)?;
        let shared_text = Arc::new(Text { source: text.to_string(), files: unit.files.clone() });
        let kernels = unit.functions.iter().filter(|f| f.is_kernel).map(|f| kernel(&unit, f, &shared_text)).collect();
        Ok(Module { kernels, variables: unit.variables.into() })
    }

    /// The kernel of this name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// All kernels, in file order.
    pub fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.kernels.iter()
    }

    /// Places the module's variables in device memory and binds the kernels to them.
    pub fn load(&self, memory: &mut GlobalMemory) -> Result<LoadedModule, MemoryError> {
        let mut addresses = Vec::with_capacity(self.variables.len());
        let mut variables = Vec::new();
        for variable in self.variables.iter() {
            if variable.space == Space::Shared || variable.external || variable.bytes == 0 {
                addresses.push(0);
                continue;
            }
            let address = memory.alloc(variable.bytes as u64)?;
            // Variables without an initialiser start as zeros.
            let mut data = variable.data.clone();
            data.resize(variable.bytes, 0);
            memory.write(address, &data)?;
            addresses.push(address);
            variables.push(LoadedVariable { name: variable.name.clone(), address, bytes: variable.bytes as u64 });
        }
        let globals: Arc<[u64]> = addresses.into();
        let kernels = self.kernels.iter().map(|k| Kernel { globals: Arc::clone(&globals), ..k.clone() }).collect();
        Ok(LoadedModule { kernels, variables })
    }
}

/// A module variable in device memory.
#[derive(Clone, Debug)]
struct LoadedVariable {
    name: String,
    address: u64,
    bytes: u64,
}

/// A module whose variables have addresses.
#[derive(Clone, Debug)]
pub struct LoadedModule {
    kernels: Vec<Kernel>,
    variables: Vec<LoadedVariable>,
}

impl LoadedModule {
    /// The kernel of this name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// All kernels, in file order.
    pub fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.kernels.iter()
    }

    /// Address and size of a `.global` or `.const` variable.
    pub fn variable(&self, name: &str) -> Option<(u64, u64)> {
        self.variables.iter().find(|v| v.name == name).map(|v| (v.address, v.bytes))
    }

    /// Frees the module's variables.
    pub fn unload(self, memory: &mut GlobalMemory) -> Result<(), MemoryError> {
        self.variables.iter().try_for_each(|variable| memory.free(variable.address))
    }
}

fn kernel(unit: &Unit, function: &ast::Function, text: &Arc<Text>) -> Kernel {
    let (mut params, mut names, mut end) = (Vec::new(), Vec::new(), 0usize);
    for variable in &function.params {
        let offset = end.next_multiple_of(variable.align.max(1));
        params.push(Param { offset, bytes: variable.bytes, align: variable.align });
        names.push((variable.name.clone(), offset));
        end = offset + variable.bytes;
    }
    let lowered = lower(unit, function, &names);
    Kernel {
        name: function.name.clone(),
        params,
        param_bytes: end,
        static_shared_bytes: lowered.static_shared_bytes,
        max_threads: function.max_threads,
        dynamic_shared_start: lowered.dynamic_shared_start,
        code: Arc::new(lowered.code),
        text: Arc::clone(text),
        globals: Arc::default(),
    }
}
