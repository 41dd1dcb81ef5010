//! Tokens to [`Unit`]: the directives and statements that nvcc and NVRTC write. Names stay unresolved.
//!
//! Only syntax is judged here. An instruction that nobody implements parses like any other; it faults when it is executed.

use super::ParseError;
use super::ast::{
    Function, Instruction, Literal, Operand, RegisterNames, SourceLine, Space, Statement, Type, Unit, Variable,
};
use super::lex::{Located, Token, tokens};

type Result<T> = std::result::Result<T, ParseError>;

/// Parses a PTX file.
pub(crate) fn parse(text: &str) -> Result<Unit> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, source: SourceLine::default(), depth: 0, registers: 0 };
    let mut unit = Unit::default();
    while parser.at < parser.tokens.len() {
        parser.top_level(&mut unit)?;
    }
    Ok(unit)
}

struct Parser<'a> {
    tokens: Vec<Located<'a>>,
    at: usize,
    source: SourceLine,
    /// How deep operands or initialisers are nested here.
    depth: usize,
    /// Registers declared in the file so far.
    registers: usize,
}

/// Operands nest twice at most in PTX, initialisers of arrays a little deeper.
const MAX_DEPTH: usize = 16;
/// Registers a file may declare.
const MAX_REGISTERS: usize = 1 << 22;

/// What stands between the linking directives and the name of a variable.
struct Qualifiers {
    external: bool,
    space: Space,
}

impl<'a> Parser<'a> {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.line)
    }

    fn error<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(ParseError::new(self.line(), what))
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|t| t.token)
    }

    fn next(&mut self) -> Result<Token<'a>> {
        let Some(token) = self.peek() else { return self.error("the text ends early") };
        self.at += 1;
        Ok(token)
    }

    fn take(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: char) -> Result<()> {
        if self.take(mark) { Ok(()) } else { self.error(format!("expected '{mark}', found {:?}", self.peek())) }
    }

    fn word(&mut self) -> Result<&'a str> {
        match self.next()? {
            Token::Word(word) => Ok(word),
            other => {
                self.at -= 1;
                self.error(format!("expected a name, found {other:?}"))
            }
        }
    }

    fn integer(&mut self) -> Result<i64> {
        let negative = self.take('-');
        match self.literal_of()? {
            Literal::Integer(value) => Ok(if negative { value.wrapping_neg() } else { value }),
            other => self.error(format!("expected an integer, found {other:?}")),
        }
    }

    fn count(&mut self) -> Result<usize> {
        let value = self.integer()?;
        match usize::try_from(value) {
            Ok(count) if count <= 1 << 32 => Ok(count),
            _ => self.error(format!("a size of {value}")),
        }
    }

    fn literal_of(&mut self) -> Result<Literal> {
        let Token::Number(text) = self.next()? else {
            self.at -= 1;
            return self.error(format!("expected a number, found {:?}", self.peek()));
        };
        literal(text).map_or_else(|| self.error(format!("the number '{text}' cannot be read")), Ok)
    }

    fn top_level(&mut self, unit: &mut Unit) -> Result<()> {
        let word = self.word()?;
        match word {
            ".version" => self.at += 1,
            ".address_size" => {
                let bits = self.integer()?;
                if bits != 64 {
                    return self.error(format!("addresses of {bits} bits; only 64 are known here"));
                }
            }
            ".target" => {
                self.word()?;
                while self.take(',') {
                    self.word()?;
                }
            }
            ".file" => {
                let number = self.integer()? as u32;
                let Token::Text(path) = self.next()? else { return self.error("expected a file name") };
                unit.files.push((number, path.to_string()));
                while self.take(',') {
                    self.integer()?;
                }
            }
            ".section" => {
                while self.next()? != Token::Mark('{') {}
                self.skip_braces()?;
            }
            ".loc" => self.location()?,
            ".pragma" | ".alias" => self.skip_statement()?,
            ".extern" | ".visible" | ".weak" | ".common" | ".entry" | ".func" | ".global" | ".const" | ".shared"
            | ".local" => {
                self.at -= 1;
                self.declaration(unit)?;
            }
            other => return self.error(format!("the directive '{other}' is not known")),
        }
        Ok(())
    }

    fn skip_braces(&mut self) -> Result<()> {
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn skip_statement(&mut self) -> Result<()> {
        while self.next()? != Token::Mark(';') {}
        Ok(())
    }

    fn declaration(&mut self, unit: &mut Unit) -> Result<()> {
        let mut external = false;
        loop {
            match self.word()? {
                ".extern" => external = true,
                ".visible" | ".weak" | ".common" => {}
                ".entry" => return self.function(unit, true),
                ".func" => return self.function(unit, false),
                space => {
                    let Some(space) = space_of(space) else { return self.error(format!("a declaration in '{space}'")) };
                    let variable = self.variable(Qualifiers { external, space })?;
                    self.expect(';')?;
                    unit.variables.push(variable);
                    return Ok(());
                }
            }
        }
    }

    fn function(&mut self, unit: &mut Unit, is_kernel: bool) -> Result<()> {
        let mut returns = if self.peek() == Some(Token::Mark('(')) { self.parameters()? } else { Vec::new() };
        let name = self.word()?.to_string();
        let params = if self.peek() == Some(Token::Mark('(')) { self.parameters()? } else { Vec::new() };
        returns.truncate(1);
        let mut max_threads = None;
        loop {
            match self.next()? {
                Token::Mark(';') => return Ok(()),
                Token::Mark('{') => break,
                Token::Word(".maxntid") => max_threads = Some(self.product()?),
                Token::Word(".reqntid") => max_threads = Some(self.product()?),
                Token::Word(_) | Token::Number(_) | Token::Mark(',') | Token::Text(_) => {}
                Token::Mark('(') | Token::Mark(')') => {}
                other => return self.error(format!("{other:?} before the body of '{name}'")),
            }
        }
        let body = self.body()?;
        unit.functions.push(Function { name, is_kernel, params, returns, max_threads, body });
        Ok(())
    }

    fn product(&mut self) -> Result<u32> {
        let mut product = self.integer()?;
        while self.take(',') {
            product = product.saturating_mul(self.integer()?);
        }
        Ok(product.clamp(0, i64::from(u32::MAX)) as u32)
    }

    fn parameters(&mut self) -> Result<Vec<Variable>> {
        self.expect('(')?;
        let mut out = Vec::new();
        while !self.take(')') {
            let word = self.word()?;
            if word != ".param" && word != ".reg" {
                return self.error(format!("a parameter in '{word}'"));
            }
            out.push(self.variable(Qualifiers { external: false, space: Space::Param })?);
            self.take(',');
        }
        Ok(out)
    }

    /// Everything after the space: alignment, type, name, extent, initial data.
    fn variable(&mut self, with: Qualifiers) -> Result<Variable> {
        let (mut align, mut element, mut vector) = (0, Type::B8, 1);
        let name = loop {
            match self.word()? {
                ".align" => align = self.count()?,
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                ".ptr" | ".global" | ".shared" | ".const" | ".local" | ".param" => {}
                ".attribute" => {
                    while !self.take(')') {
                        self.next()?;
                    }
                }
                word => match word.strip_prefix('.') {
                    None => break word,
                    Some(word) => match Type::parse(word) {
                        Some(found) => element = found,
                        None => return self.error(format!("a variable of type '{word}'")),
                    },
                },
            }
        };
        let (mut elements, mut unsized_array) = (1usize, false);
        while self.take('[') {
            if self.take(']') {
                unsized_array = true;
                continue;
            }
            elements = elements.saturating_mul(self.count()?);
            self.expect(']')?;
        }
        let mut data = Vec::new();
        if self.take('=') {
            self.initial(element, &mut data)?;
        }
        let declared = elements.saturating_mul(element.bytes()).saturating_mul(vector);
        let bytes = if unsized_array { data.len() } else { declared };
        if data.len() > bytes || align > 1 << 20 || (align != 0 && !align.is_power_of_two()) {
            return self.error(format!("'{name}' has bytes that its size or alignment does not allow"));
        }
        let align = align.max(element.bytes());
        let external = with.external || (unsized_array && data.is_empty());
        Ok(Variable { name: name.to_string(), space: with.space, align, bytes, external, data })
    }

    fn initial(&mut self, element: Type, data: &mut Vec<u8>) -> Result<()> {
        if self.take('{') {
            self.deeper()?;
            while !self.take('}') {
                self.initial(element, data)?;
                self.take(',');
            }
            self.depth -= 1;
            return Ok(());
        }
        let negative = self.take('-');
        let bits = match self.literal_of()? {
            Literal::Integer(value) => (if negative { value.wrapping_neg() } else { value }) as u64,
            Literal::F32(bits) => u64::from(bits) ^ (u64::from(negative) << 31),
            Literal::F64(bits) => bits ^ (u64::from(negative) << 63),
        };
        data.extend_from_slice(&bits.to_le_bytes()[..element.bytes().min(8)]);
        Ok(())
    }

    fn location(&mut self) -> Result<()> {
        let file = self.integer()? as u32;
        let line = self.integer()? as u32;
        self.integer()?;
        self.source = SourceLine { file, line };
        while self.take(',') {
            match self.word()? {
                "function_name" => {
                    self.word()?;
                    if self.take('+') {
                        self.integer()?;
                    }
                }
                "inlined_at" => {
                    for _ in 0..3 {
                        self.integer()?;
                    }
                }
                other => return self.error(format!("'.loc' with '{other}'")),
            }
        }
        Ok(())
    }

    fn body(&mut self) -> Result<Vec<Statement>> {
        self.source = SourceLine::default();
        let mut out = Vec::new();
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Token::Mark('{') => {
                    depth += 1;
                    out.push(Statement::Open);
                }
                Token::Mark('}') => {
                    depth -= 1;
                    if depth > 0 {
                        out.push(Statement::Close);
                    }
                }
                Token::Mark(';') => {}
                Token::Mark('@') => {
                    let negated = self.take('!');
                    let name = self.word()?.to_string();
                    let opcode = self.word()?;
                    out.push(self.instruction(opcode, Some((name, negated)))?);
                }
                Token::Word(word) if word.starts_with('.') => self.directive(word, &mut out)?,
                Token::Word(word) if self.peek() == Some(Token::Mark(':')) => {
                    self.at += 1;
                    out.push(Statement::Label(word.to_string()));
                }
                Token::Word(word) => out.push(self.instruction(word, None)?),
                other => {
                    self.at -= 1;
                    return self.error(format!("{other:?} where a statement begins"));
                }
            }
        }
        Ok(out)
    }

    fn directive(&mut self, word: &str, out: &mut Vec<Statement>) -> Result<()> {
        match word {
            ".loc" => self.location(),
            ".reg" => {
                let statement = self.registers()?;
                out.push(statement);
                self.expect(';')
            }
            ".branchtargets" => {
                let mut targets = vec![self.word()?.to_string()];
                while self.take(',') {
                    targets.push(self.word()?.to_string());
                }
                out.push(Statement::Targets(targets));
                self.expect(';')
            }
            ".pragma" | ".callprototype" | ".calltargets" => self.skip_statement(),
            _ => {
                let Some(space) = space_of(word) else { return self.error(format!("the directive '{word}'")) };
                let variable = self.variable(Qualifiers { external: false, space })?;
                out.push(Statement::Variable(variable));
                self.expect(';')
            }
        }
    }

    fn registers(&mut self) -> Result<Statement> {
        let word = self.word()?;
        let Some(ty) = word.strip_prefix('.').and_then(Type::parse) else {
            return self.error(format!("registers of type '{word}'"));
        };
        let mut names = Vec::new();
        loop {
            let name = self.word()?.to_string();
            let mut count = None;
            if self.take('<') {
                let many = self.count()?;
                self.registers = self.registers.saturating_add(many);
                if self.registers > MAX_REGISTERS {
                    return self.error(format!("more than {MAX_REGISTERS} registers"));
                }
                count = Some(many as u32);
                self.expect('>')?;
            }
            names.push(RegisterNames { name, count });
            if !self.take(',') {
                return Ok(Statement::Registers(ty, names));
            }
        }
    }

    fn instruction(&mut self, opcode: &str, guard: Option<(String, bool)>) -> Result<Statement> {
        let line = self.tokens[self.at - 1].line;
        let mut operands = Vec::new();
        while !self.take(';') {
            let operand = self.operand()?;
            if self.take('|') {
                let second = self.operand()?;
                operands.push(Operand::Pair(Box::new(operand), Box::new(second)));
            } else {
                operands.push(operand);
            }
            if !self.take(',') {
                self.expect(';')?;
                break;
            }
        }
        let opcode = opcode.to_string();
        Ok(Statement::Instruction(Instruction { guard, opcode, operands, line, source: self.source }))
    }

    fn operands_until(&mut self, end: char) -> Result<Vec<Operand>> {
        let mut out = Vec::new();
        while !self.take(end) {
            out.push(self.operand()?);
            self.take(',');
        }
        Ok(out)
    }

    fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { self.error("brackets nested too deeply") } else { Ok(()) }
    }

    fn operand(&mut self) -> Result<Operand> {
        self.deeper()?;
        let operand = self.operand_inside();
        self.depth -= 1;
        operand
    }

    fn operand_inside(&mut self) -> Result<Operand> {
        match self.next()? {
            Token::Mark('{') => Ok(Operand::Vector(self.operands_until('}')?)),
            Token::Mark('(') => Ok(Operand::List(self.operands_until(')')?)),
            Token::Mark('[') => self.address(),
            Token::Mark('!') => Ok(Operand::Not(self.word()?.to_string())),
            Token::Mark('-') => Ok(Operand::Literal(match self.literal_of()? {
                Literal::Integer(value) => Literal::Integer(value.wrapping_neg()),
                Literal::F32(bits) => Literal::F32(bits ^ 1 << 31),
                Literal::F64(bits) => Literal::F64(bits ^ 1 << 63),
            })),
            Token::Number(_) => {
                self.at -= 1;
                Ok(Operand::Literal(self.literal_of()?))
            }
            Token::Word("_") => Ok(Operand::Blank),
            Token::Word(name) if self.take('+') => Ok(Operand::Sum(name.to_string(), self.integer()?)),
            Token::Word(name) => Ok(Operand::Name(name.to_string())),
            other => {
                self.at -= 1;
                self.error(format!("{other:?} where an operand begins"))
            }
        }
    }

    fn address(&mut self) -> Result<Operand> {
        let base = match self.operand()? {
            Operand::Sum(name, offset) => {
                self.expect(']')?;
                return Ok(Operand::Address(Box::new(Operand::Name(name)), offset));
            }
            base => base,
        };
        let offset = match self.peek() {
            Some(Token::Mark('+')) => {
                self.at += 1;
                self.integer()?
            }
            Some(Token::Mark('-')) => self.integer()?,
            _ => 0,
        };
        self.expect(']')?;
        Ok(Operand::Address(Box::new(base), offset))
    }
}

fn space_of(word: &str) -> Option<Space> {
    Some(match word {
        ".global" => Space::Global,
        ".const" => Space::Const,
        ".shared" => Space::Shared,
        ".local" => Space::Local,
        ".param" => Space::Param,
        _ => return None,
    })
}

fn literal(text: &str) -> Option<Literal> {
    if let Some(hex) = text.strip_prefix("0f").or(text.strip_prefix("0F")) {
        return u32::from_str_radix(hex, 16).ok().map(Literal::F32);
    }
    if let Some(hex) = text.strip_prefix("0d").or(text.strip_prefix("0D")) {
        return u64::from_str_radix(hex, 16).ok().map(Literal::F64);
    }
    let digits = text.trim_end_matches('U');
    let integer = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None if digits.contains('.') => return digits.parse::<f64>().ok().map(|x| Literal::F64(x.to_bits())),
        None if digits.len() > 1 && digits.starts_with("0b") => u64::from_str_radix(&digits[2..], 2),
        None if digits.len() > 1 && digits.starts_with('0') => u64::from_str_radix(&digits[1..], 8),
        None => digits.parse::<u64>(),
    };
    integer.ok().map(|value| Literal::Integer(value as i64))
}
