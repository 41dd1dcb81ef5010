//! Branches, calls, exits, block barriers.

use super::{Form, Lowerer, Reason, Scope, Symbol};
use crate::ir::{Barrier, BarrierKind, Class, Op};
use crate::ptx::ast::{Operand, Type};

/// Calls deeper than this are refused: inlining would not end for a recursive function.
const CALL_DEPTH: usize = 32;
/// A kernel of more operations than this is refused: calls of calls multiply.
const MAX_OPERATIONS: usize = 1 << 20;

impl Lowerer<'_> {
    pub(super) fn control(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<bool, Reason> {
        match form.name {
            "bra" => {
                let Operand::Name(name) = self.at(operands, 0)? else { return Err("a branch without a label".into()) };
                let target = self.label(name)?;
                self.emit(Op::Branch(target), &[], &[]);
            }
            "brx" => self.branch_indexed(operands)?,
            "call" => self.call(operands)?,
            // A called function is inlined: its `ret` goes on behind the call.
            "ret" if self.calls.len() > 1 => {
                let end = self.calls[self.calls.len() - 1].1;
                self.emit(Op::Branch(end as u32), &[], &[]);
            }
            "ret" | "exit" => self.emit(Op::Exit, &[], &[]),
            "trap" | "brkpt" => self.emit(Op::Trap, &[], &[]),
            "bar" | "barrier" => self.barrier(form, operands)?,
            "nanosleep" | "griddepcontrol" | "pmevent" => self.emit(Op::Nop, &[], &[]),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn label(&mut self, name: &str) -> Result<u32, Reason> {
        match self.symbol(name) {
            Some(Symbol::Label(label)) => Ok(label as u32),
            _ => Err(format!("the label '{name}' is not known")),
        }
    }

    fn branch_indexed(&mut self, operands: &[Operand]) -> Result<(), Reason> {
        let index = self.source(self.at(operands, 0)?, Type::U32)?;
        let Operand::Name(table) = self.at(operands, 1)? else { return Err("brx.idx without a table".into()) };
        let Some(Symbol::Targets(names)) = self.symbol(table) else {
            return Err(format!("the branch table '{table}' is not known"));
        };
        let targets = names.iter().map(|name| self.label(name)).collect::<Result<Box<[u32]>, _>>()?;
        self.emit(Op::BranchIndexed(targets), &[], &[index]);
        Ok(())
    }

    fn call(&mut self, operands: &[Operand]) -> Result<(), Reason> {
        let (returned, rest) = match operands {
            [Operand::List(returned), rest @ ..] => (returned.as_slice(), rest),
            rest => (&[] as &[Operand], rest),
        };
        let Some(Operand::Name(name)) = rest.first() else { return Err("an indirect call is not implemented".into()) };
        let given: &[Operand] = if let Some(Operand::List(given)) = rest.get(1) { given } else { &[] };
        if name == "__assertfail" || name == "__assert_fail" {
            self.emit(Op::Trap, &[], &[]);
            return Ok(());
        }
        let unit = self.unit;
        let Some(function) = unit.functions.iter().find(|f| !f.is_kernel && f.name == *name) else {
            return Err(format!("the function '{name}' has no body in this module"));
        };
        if self.calls.len() > CALL_DEPTH || self.calls.iter().any(|(caller, _)| caller == name) {
            return Err(format!("the function '{name}' calls itself, which is not implemented"));
        }
        if self.code.instrs.len() > MAX_OPERATIONS {
            return Err(format!("with the body of '{name}' the kernel has too many operations"));
        }
        let mut scope = Scope::new();
        let formal = function.returns.iter().chain(&function.params);
        for (formal, actual) in formal.zip(returned.iter().chain(given)) {
            let Operand::Name(actual) = actual else { return Err("a call with an argument that is no name".into()) };
            let symbol = self.symbol(actual).ok_or_else(|| format!("the argument '{actual}' is not known"))?;
            scope.insert(formal.name.clone(), symbol);
        }
        let around = self.guard.take().map(|guard| (guard, self.new_label()));
        if let Some((guard, over)) = around {
            self.guard = Some(guard.negate());
            self.emit(Op::Branch(over as u32), &[], &[]);
            self.guard = None;
        }
        let here = self.current.clone();
        self.function(function, scope);
        self.current = here;
        if let Some((_, over)) = around {
            self.place(over);
        }
        Ok(())
    }

    fn barrier(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let kind = if form.has("arrive") {
            BarrierKind::Arrive
        } else if form.has("red") && form.has("popc") {
            BarrierKind::ReduceCount
        } else if form.has("red") && form.has("and") {
            BarrierKind::ReduceAnd
        } else if form.has("red") {
            BarrierKind::ReduceOr
        } else if form.has("sync") {
            BarrierKind::Sync
        } else {
            return Err("this form of barrier is not implemented".into());
        };
        let reduces = !matches!(kind, BarrierKind::Sync | BarrierKind::Arrive);
        let first = usize::from(reduces);
        let last = operands.len() - usize::from(reduces && !operands.is_empty());
        let mut sources = Vec::new();
        for operand in operands.get(first..last).unwrap_or_default() {
            sources.push(self.source(operand, Type::U32)?);
        }
        let counted = sources.len() == 2;
        if sources.is_empty() || sources.len() > 2 {
            return Err("a barrier wants an id and perhaps a count".into());
        }
        let mut destinations = Vec::new();
        if reduces {
            let class = if kind == BarrierKind::ReduceCount { Class::Word } else { Class::Predicate };
            destinations.push(self.destination(&operands[0], class)?);
            sources.push(self.predicate(&operands[operands.len() - 1])?);
        }
        self.emit(Op::Barrier(Barrier { kind, counted }), &destinations, &sources);
        Ok(())
    }
}
