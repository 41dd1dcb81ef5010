//! Parsed PTX to executable code: names become slots, immediates become preset slots, called functions are inlined.
//!
//! Lowering never fails. What it cannot translate becomes [`Op::Unsupported`], which faults if a thread gets there; a module with
//! such code still loads and its other kernels run.

mod allocate;
mod arithmetic;
mod collective;
mod control;
mod convert;
mod memory;
mod operands;

use crate::ir::{Class, Code, Instr, Op, Preset, Slot};
use crate::ptx::ast::{Function, Instruction, Space, Statement, Type, Unit, Variable};
use std::collections::HashMap;

/// Why an instruction cannot be translated.
pub(crate) type Reason = String;

/// What a name stands for.
#[derive(Clone, Debug)]
enum Symbol {
    Register(Slot),
    Registers {
        class: Class,
        first: usize,
        count: u32,
    },
    Shared(u64),
    DynamicShared,
    Local(u64),
    /// A kernel's parameter.
    Param(u64),
    /// A parameter of a called function: it lives in local memory.
    LocalParam(u64),
    Global(u32),
    Label(usize),
    Targets(Vec<String>),
}

type Scope = HashMap<String, Symbol>;

/// A lowered kernel body and the shared memory it declares.
pub(crate) struct Lowered {
    pub code: Code,
    pub static_shared_bytes: usize,
    pub dynamic_shared_start: usize,
}

/// Lowers one kernel of a file.
pub(crate) fn lower(unit: &Unit, kernel: &Function, params: &[(String, usize)]) -> Lowered {
    let mut lowerer = Lowerer::new(unit);
    let scope = params.iter().map(|(name, offset)| (name.clone(), Symbol::Param(*offset as u64))).collect();
    lowerer.function(kernel, scope);
    lowerer.emit(Op::Exit, &[], &[]);
    lowerer.finish()
}

struct Lowerer<'a> {
    unit: &'a Unit,
    code: Code,
    presets: HashMap<(Class, Preset), Slot>,
    /// Scopes of the function being lowered, innermost last.
    scopes: Vec<Scope>,
    /// Functions being inlined, outermost first, and the label where each returns to.
    calls: Vec<(String, usize)>,
    /// Operation index of each label, once reached.
    labels: Vec<Option<u32>>,
    shared: HashMap<String, u64>,
    shared_bytes: usize,
    dynamic_align: usize,
    current: Instruction,
    guard: Option<Slot>,
}

impl<'a> Lowerer<'a> {
    fn new(unit: &'a Unit) -> Self {
        let current = Instruction {
            guard: None,
            opcode: String::new(),
            operands: Vec::new(),
            line: 0,
            source: crate::ptx::ast::SourceLine::default(),
        };
        Lowerer {
            unit,
            code: Code::default(),
            presets: HashMap::new(),
            scopes: Vec::new(),
            calls: Vec::new(),
            labels: Vec::new(),
            shared: HashMap::new(),
            shared_bytes: 0,
            dynamic_align: 1,
            current,
            guard: None,
        }
    }

    fn function(&mut self, function: &Function, params: Scope) {
        let end = self.new_label();
        self.calls.push((function.name.clone(), end));
        let outer = std::mem::replace(&mut self.scopes, vec![params]);
        self.open(&function.body);
        for (at, statement) in function.body.iter().enumerate() {
            self.statement(statement, &function.body[at + 1..]);
        }
        self.scopes = outer;
        self.calls.pop();
        self.place(end);
    }

    /// Enters a scope; its labels are known from the start, because branches go forward.
    fn open(&mut self, body: &[Statement]) {
        let mut scope = Scope::new();
        let mut depth = 0;
        let mut table = None;
        for statement in body {
            match statement {
                Statement::Open => depth += 1,
                Statement::Close if depth == 0 => break,
                Statement::Close => depth -= 1,
                Statement::Label(name) if depth == 0 => {
                    scope.insert(name.clone(), Symbol::Label(self.labels.len()));
                    self.labels.push(None);
                    table = Some(name);
                    continue;
                }
                Statement::Targets(targets) if depth == 0 => {
                    if let Some(name) = table {
                        scope.insert(name.clone(), Symbol::Targets(targets.clone()));
                    }
                }
                _ => {}
            }
            table = None;
        }
        self.scopes.push(scope);
    }

    fn statement(&mut self, statement: &Statement, rest: &[Statement]) {
        match statement {
            Statement::Open => self.open(rest),
            Statement::Close => {
                self.scopes.pop();
            }
            Statement::Label(name) => {
                if let Some(Symbol::Label(label)) = self.symbol(name) {
                    self.place(label);
                }
            }
            Statement::Targets(_) => {}
            Statement::Registers(ty, names) => {
                for names in names {
                    let symbol = self.declare(*ty, names.count);
                    self.define(&names.name, symbol);
                }
            }
            Statement::Variable(variable) => self.variable(variable),
            Statement::Instruction(instruction) => self.instruction(instruction),
        }
    }

    fn declare(&mut self, ty: Type, count: Option<u32>) -> Symbol {
        let class = class_of(ty);
        match count {
            None => Symbol::Register(self.new_slot(class)),
            Some(count) => {
                let used = self.file(class);
                let first = *used;
                *used += count as usize;
                Symbol::Registers { class, first, count }
            }
        }
    }

    fn variable(&mut self, variable: &Variable) {
        let symbol = match variable.space {
            Space::Shared if variable.external => Symbol::DynamicShared,
            Space::Shared => Symbol::Shared(self.place_shared(variable)),
            space => {
                let at = self.code.local_bytes.next_multiple_of(variable.align.max(1));
                self.code.local_bytes = at + variable.bytes;
                if space == Space::Param { Symbol::LocalParam(at as u64) } else { Symbol::Local(at as u64) }
            }
        };
        self.define(&variable.name, symbol);
    }

    /// The address of a static shared variable; the same one however often its function is inlined.
    fn place_shared(&mut self, variable: &Variable) -> u64 {
        if let Some(&at) = self.shared.get(&variable.name) {
            return at;
        }
        let at = self.shared_bytes.next_multiple_of(variable.align.max(1));
        self.shared_bytes = at + variable.bytes;
        self.shared.insert(variable.name.clone(), at as u64);
        at as u64
    }

    fn define(&mut self, name: &str, symbol: Symbol) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_string(), symbol);
        }
    }

    /// Looks a name up, innermost scope first, then among `name<count>` registers, then in the module.
    fn symbol(&mut self, name: &str) -> Option<Symbol> {
        if let Some(found) = self.scopes.iter().rev().find_map(|scope| scope.get(name)) {
            match found {
                Symbol::Registers { .. } => {}
                other => return Some(other.clone()),
            }
        }
        let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
        if let Ok(number) = name[digits..].parse::<u32>() {
            for scope in self.scopes.iter().rev() {
                if let Some(&Symbol::Registers { class, first, count }) = scope.get(&name[..digits])
                    && number < count
                {
                    return Some(Symbol::Register(Slot::new(class, first + number as usize)));
                }
            }
        }
        self.module_symbol(name)
    }

    fn module_symbol(&mut self, name: &str) -> Option<Symbol> {
        let unit = self.unit;
        let index = unit.variables.iter().position(|v| v.name == name)?;
        let variable = &unit.variables[index];
        Some(match variable.space {
            Space::Shared if variable.external => {
                self.dynamic_align = self.dynamic_align.max(variable.align);
                Symbol::DynamicShared
            }
            Space::Shared => Symbol::Shared(self.place_shared(variable)),
            _ => Symbol::Global(index as u32),
        })
    }

    fn file(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Word => &mut self.code.words,
            Class::Double => &mut self.code.doubles,
            Class::Predicate => &mut self.code.predicates,
        }
    }

    fn new_slot(&mut self, class: Class) -> Slot {
        let used = self.file(class);
        *used += 1;
        Slot::new(class, *used - 1)
    }

    fn preset(&mut self, class: Class, preset: Preset) -> Slot {
        if let Some(&slot) = self.presets.get(&(class, preset)) {
            return slot;
        }
        let slot = self.new_slot(class);
        self.presets.insert((class, preset), slot);
        self.code.presets.push((slot, preset));
        slot
    }

    fn new_label(&mut self) -> usize {
        self.labels.push(None);
        self.labels.len() - 1
    }

    fn place(&mut self, label: usize) {
        self.labels[label] = Some(self.code.instrs.len() as u32);
    }

    fn emit(&mut self, op: Op, destinations: &[Slot], sources: &[Slot]) {
        let first = self.code.pool.len() as u32;
        self.code.pool.extend_from_slice(destinations);
        self.code.pool.extend_from_slice(sources);
        self.code.instrs.push(Instr {
            op,
            guard: self.guard,
            first,
            operands: (destinations.len() + sources.len()) as u8,
            destinations: destinations.len() as u8,
            line: self.current.line,
            source: self.current.source,
        });
    }

    fn instruction(&mut self, instruction: &Instruction) {
        self.current = instruction.clone();
        self.guard = None;
        if let Err(reason) = self.translate(instruction) {
            self.emit(Op::Unsupported(reason.into()), &[], &[]);
        }
        self.guard = None;
    }

    fn translate(&mut self, instruction: &Instruction) -> Result<(), Reason> {
        if let Some((name, negated)) = &instruction.guard {
            let slot = self.register(name, Class::Predicate)?;
            self.guard = Some(if *negated { slot.negate() } else { slot });
        }
        let form = Form::new(&instruction.opcode);
        let operands = &instruction.operands;
        let done = self.arithmetic(&form, operands)?
            || self.conversion(&form, operands)?
            || self.memory(&form, operands)?
            || self.collective(&form, operands)?
            || self.control(&form, operands)?;
        if done { Ok(()) } else { Err("this instruction is not implemented".into()) }
    }

    fn finish(mut self) -> Lowered {
        let labels = &self.labels;
        let resolve = |label: u32| labels[label as usize].unwrap_or(u32::MAX);
        for instr in &mut self.code.instrs {
            match &mut instr.op {
                Op::Branch(target) => *target = resolve(*target),
                Op::BranchIndexed(targets) => targets.iter_mut().for_each(|t| *t = resolve(*t)),
                _ => {}
            }
        }
        allocate::allocate(&mut self.code);
        let dynamic_shared_start = self.shared_bytes.next_multiple_of(self.dynamic_align);
        Lowered { code: self.code, static_shared_bytes: self.shared_bytes, dynamic_shared_start }
    }
}

/// An opcode taken apart: `ld.global.v4.u32` is `ld` with modifiers and types.
struct Form<'a> {
    name: &'a str,
    modifiers: Vec<&'a str>,
    types: Vec<Type>,
}

impl<'a> Form<'a> {
    fn new(opcode: &'a str) -> Self {
        let mut parts = opcode.split('.');
        let name = parts.next().unwrap_or_default();
        let modifiers: Vec<&str> = parts.collect();
        let types = modifiers.iter().filter_map(|m| Type::parse(m)).collect();
        Form { name, modifiers, types }
    }

    fn has(&self, modifier: &str) -> bool {
        self.modifiers.contains(&modifier)
    }

    /// The last type: most instructions have one.
    fn ty(&self) -> Result<Type, Reason> {
        self.types.last().copied().ok_or_else(|| "it has no type".into())
    }

    /// Faults on modifiers that would change the meaning unseen.
    fn allow(&self, known: &[&str]) -> Result<(), Reason> {
        match self.modifiers.iter().find(|m| Type::parse(m).is_none() && !known.contains(m)) {
            Some(other) => Err(format!("the modifier '.{other}' is not implemented here")),
            None => Ok(()),
        }
    }
}

/// The register class of a type.
fn class_of(ty: Type) -> Class {
    match ty {
        Type::Pred => Class::Predicate,
        Type::B64 | Type::U64 | Type::S64 | Type::F64 => Class::Double,
        _ => Class::Word,
    }
}
