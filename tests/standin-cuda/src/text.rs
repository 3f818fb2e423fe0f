//! PTX text to statements.
//!
//! Before: any text. After: the module's variables and kernels, with each statement split into opcode parts and operands;
//! names are not resolved and opcodes not known yet. An error names its line.

/// Why a text is not accepted: the line, counted from 1, and a sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub line: u32,
    pub what: String,
}

/// A shorthand for results of reading.
pub type Read<T> = Result<T, Refusal>;

/// Makes an error.
pub fn refuse<T>(line: u32, what: impl Into<String>) -> Read<T> {
    Err(Refusal { line, what: what.into() })
}

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register, label, variable or special register.
    Name(String),
    /// `!p`.
    Not(String),
    /// An integer, in 64 bits.
    Int(i64),
    /// `0f` and eight digits.
    F32(u32),
    /// `0d` and sixteen digits, or a decimal number.
    F64(u64),
    /// `[base + offset]`, or `[offset]`.
    Address(Option<String>, i64),
    /// `name + offset` outside of brackets.
    Sum(String, i64),
    /// `{a, b, ...}`.
    Vector(Vec<Operand>),
    /// `p|q`.
    Pair(String, String),
    /// `[map, {x, y, ...}]`.
    Box(String, Vec<Operand>),
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub struct Statement {
    pub line: u32,
    /// The predicate and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// `add.rn.f32` as `["add", "rn", "f32"]`.
    pub opcode: Vec<String>,
    pub operands: Vec<Operand>,
}

/// A variable in memory, or a kernel's parameter.
#[derive(Clone, Debug)]
pub struct Variable {
    pub space: String,
    pub name: String,
    pub align: u64,
    /// Bytes of one element.
    pub element: u64,
    /// Elements; `None` is an array whose size the launch says.
    pub count: Option<u64>,
    pub values: Vec<Operand>,
}

/// A piece of a kernel's body.
#[derive(Clone, Debug)]
pub enum Item {
    Label(String),
    Statement(Statement),
    Open,
    Close,
    /// Registers of a type: a name, or a prefix with how many.
    Registers(String, Vec<(String, Option<u32>)>),
    Variable(Variable),
}

/// A kernel as written.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub params: Vec<Variable>,
    /// Threads that `.reqntid` or `.maxntid` allow.
    pub max_threads: Option<u32>,
    pub body: Vec<Item>,
}

/// A module as written.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub version: (u32, u32),
    /// `sm_80`.
    pub target: String,
    pub variables: Vec<Variable>,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Int(i64),
    F32(u32),
    F64(u64),
    Text(String),
    Sign(char),
}

/// Reads a module.
pub fn read(text: &str) -> Read<Source> {
    let tokens = tokens(text)?;
    Reader { tokens, at: 0 }.module()
}

fn tokens(text: &str) -> Read<Vec<(u32, Token)>> {
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1);
    let mut out = Vec::new();
    let word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%');
    while at < bytes.len() {
        let c = bytes[at];
        if c == b'\n' {
            line += 1;
            at += 1;
        } else if c.is_ascii_whitespace() || c == 0 {
            at += 1;
        } else if bytes[at..].starts_with(b"//") {
            at += bytes[at..].iter().position(|&c| c == b'\n').unwrap_or(bytes.len() - at);
        } else if bytes[at..].starts_with(b"/*") {
            let end = text[at..].find("*/").map_or(bytes.len(), |n| at + n + 2);
            line += bytes[at..end].iter().filter(|&&c| c == b'\n').count() as u32;
            at = end;
        } else if c == b'"' {
            let end = text[at + 1..].find('"').map_or(bytes.len(), |n| at + 1 + n);
            out.push((line, Token::Text(text[at + 1..end].to_string())));
            at = (end + 1).min(bytes.len());
        } else if c.is_ascii_digit() {
            let start = at;
            while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'.') {
                at += 1;
            }
            out.push((line, number(&text[start..at], line)?));
        } else if word(c) || (c == b'.' && at + 1 < bytes.len() && word(bytes[at + 1])) {
            // `::` is part of a cache operator such as `.L1::no_allocate`.
            let start = at;
            while at < bytes.len() && (word(bytes[at]) || bytes[at] == b'.' || bytes[at..].starts_with(b"::")) {
                at += if bytes[at] == b':' { 2 } else { 1 };
            }
            out.push((line, Token::Word(text[start..at].to_string())));
        } else {
            out.push((line, Token::Sign(c as char)));
            at += 1;
        }
    }
    Ok(out)
}

fn number(text: &str, line: u32) -> Read<Token> {
    let bad = || Refusal { line, what: format!("'{text}' is not a number") };
    let hex = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| bad());
    Ok(if let Some(digits) = text.strip_prefix("0f").or(text.strip_prefix("0F")) {
        Token::F32(hex(digits)? as u32)
    } else if let Some(digits) = text.strip_prefix("0d").or(text.strip_prefix("0D")) {
        Token::F64(hex(digits)?)
    } else if let Some(digits) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Token::Int(hex(digits.trim_end_matches('U'))? as i64)
    } else if text.contains('.') {
        Token::F64(text.parse::<f64>().map_err(|_| bad())?.to_bits())
    } else {
        Token::Int(text.trim_end_matches('U').parse::<u64>().map_err(|_| bad())? as i64)
    })
}

struct Reader {
    tokens: Vec<(u32, Token)>,
    at: usize,
}

impl Reader {
    fn line(&self) -> u32 {
        self.tokens.get(self.at.min(self.tokens.len().saturating_sub(1))).map_or(1, |t| t.0)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.1)
    }

    fn peek_word(&self) -> Option<&str> {
        match self.peek() {
            Some(Token::Word(w)) => Some(w),
            _ => None,
        }
    }

    fn next(&mut self) -> Read<Token> {
        let token = self.tokens.get(self.at).map(|t| t.1.clone());
        self.at += 1;
        token.ok_or(Refusal { line: self.line(), what: "the text ends too early".into() })
    }

    fn word(&mut self) -> Read<String> {
        let line = self.line();
        match self.next()? {
            Token::Word(w) => Ok(w),
            other => refuse(line, format!("expected a name, found {other:?}")),
        }
    }

    fn int(&mut self) -> Read<i64> {
        let line = self.line();
        let negative = self.take('-');
        match self.next()? {
            Token::Int(n) => Ok(if negative { n.wrapping_neg() } else { n }),
            other => refuse(line, format!("expected an integer, found {other:?}")),
        }
    }

    fn take(&mut self, sign: char) -> bool {
        let found = self.peek() == Some(&Token::Sign(sign));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: char) -> Read<()> {
        let line = self.line();
        if self.take(sign) { Ok(()) } else { refuse(line, format!("expected '{sign}', found {:?}", self.peek())) }
    }

    fn module(&mut self) -> Read<Source> {
        let mut source = Source::default();
        while self.at < self.tokens.len() {
            let line = self.line();
            match self.word()?.as_str() {
                // The tokeniser reads `7.8` as a decimal number.
                ".version" => match self.next()? {
                    Token::F64(bits) => {
                        let tenths = (f64::from_bits(bits) * 10.0).round() as u32;
                        source.version = (tenths / 10, tenths % 10);
                    }
                    other => return refuse(line, format!("{other:?} is no version")),
                },
                ".target" => {
                    source.target = self.word()?;
                    while self.take(',') {
                        self.word()?;
                    }
                }
                ".address_size" => {
                    if self.int()? != 64 {
                        return refuse(line, "addresses have 64 bits");
                    }
                }
                ".visible" | ".extern" | ".weak" => {}
                ".entry" => source.entries.push(self.entry()?),
                space @ (".global" | ".const" | ".shared") => {
                    let variable = self.variable(space)?;
                    self.expect(';')?;
                    source.variables.push(variable);
                }
                ".file" | ".loc" => self.at = self.rest_of_line(line),
                other => return refuse(line, format!("'{other}' is not in the subset")),
            }
        }
        Ok(source)
    }

    fn rest_of_line(&self, line: u32) -> usize {
        (self.at..self.tokens.len()).find(|&i| self.tokens[i].0 != line).unwrap_or(self.tokens.len())
    }

    /// After `.space`: alignment, type, name, extent and values.
    fn variable(&mut self, space: &str) -> Read<Variable> {
        let line = self.line();
        let mut align = 0;
        let mut element = 0;
        while let Some(word) = self.peek_word().filter(|w| w.starts_with('.')).map(str::to_string) {
            self.at += 1;
            match word.as_str() {
                ".align" => align = self.int()? as u64,
                ".ptr" | ".global" => {}
                ty => match bytes_of(ty) {
                    Some(bytes) => element = bytes,
                    None => return refuse(line, format!("'{ty}' is not a type of variables")),
                },
            }
        }
        let name = self.word()?;
        let mut count = Some(1);
        while self.take('[') {
            if self.take(']') {
                count = None;
            } else {
                let n = self.int()? as u64;
                count = count.map(|c| c * n);
                self.expect(']')?;
            }
        }
        let mut values = Vec::new();
        if self.take('=') {
            match self.operand()? {
                Operand::Vector(parts) => values = parts,
                one => values.push(one),
            }
            count = count.or(Some(values.len() as u64));
        }
        if element == 0 {
            return refuse(line, format!("'{name}' has no type"));
        }
        Ok(Variable { space: space[1..].to_string(), name, align: align.max(element), element, count, values })
    }

    fn entry(&mut self) -> Read<Entry> {
        let name = self.word()?;
        let mut params = Vec::new();
        if self.take('(') && !self.take(')') {
            loop {
                let line = self.line();
                if self.word()? != ".param" {
                    return refuse(line, "expected .param");
                }
                params.push(self.variable(".param")?);
                if self.take(')') {
                    break;
                }
                self.expect(',')?;
            }
        }
        let mut max_threads = None;
        while let Some(word) = self.peek_word().map(str::to_string) {
            self.at += 1;
            let mut product = self.int()? as u32;
            while self.take(',') {
                product *= self.int()? as u32;
            }
            if matches!(word.as_str(), ".reqntid" | ".maxntid") {
                max_threads = Some(product);
            }
        }
        self.expect('{')?;
        let mut body = Vec::new();
        let mut depth = 1;
        loop {
            if self.take('{') {
                depth += 1;
                body.push(Item::Open);
            } else if self.take('}') {
                depth -= 1;
                if depth == 0 {
                    break;
                }
                body.push(Item::Close);
            } else if let Some(item) = self.item()? {
                body.push(item);
            }
        }
        Ok(Entry { name, params, max_threads, body })
    }

    fn item(&mut self) -> Read<Option<Item>> {
        let line = self.line();
        let mut guard = None;
        if self.take('@') {
            let negated = self.take('!');
            guard = Some((self.word()?, negated));
        }
        let word = self.word()?;
        if self.take(':') {
            return Ok(Some(Item::Label(word)));
        }
        match word.as_str() {
            ".reg" => {
                let ty = self.word()?;
                let mut names = Vec::new();
                loop {
                    let name = self.word()?;
                    let mut count = None;
                    if self.take('<') {
                        count = Some(self.int()? as u32);
                        self.expect('>')?;
                    }
                    names.push((name, count));
                    if !self.take(',') {
                        break;
                    }
                }
                self.expect(';')?;
                return Ok(Some(Item::Registers(ty, names)));
            }
            ".shared" | ".local" => {
                let variable = self.variable(&word)?;
                self.expect(';')?;
                return Ok(Some(Item::Variable(variable)));
            }
            ".loc" | ".file" => {
                self.at = self.rest_of_line(line);
                return Ok(None);
            }
            ".pragma" => {
                self.next()?;
                self.expect(';')?;
                return Ok(None);
            }
            _ => {}
        }
        let opcode = word.split('.').map(str::to_string).collect();
        let mut operands = Vec::new();
        while !self.take(';') {
            if !operands.is_empty() {
                self.expect(',')?;
            }
            operands.push(self.operand()?);
        }
        Ok(Some(Item::Statement(Statement { line, guard, opcode, operands })))
    }

    fn operand(&mut self) -> Read<Operand> {
        let line = self.line();
        if self.take('{') {
            let mut parts = Vec::new();
            while !self.take('}') {
                if !parts.is_empty() {
                    self.expect(',')?;
                }
                parts.push(self.operand()?);
            }
            return Ok(Operand::Vector(parts));
        }
        if self.take('[') {
            let base = match self.peek_word() {
                Some(word) => {
                    let word = word.to_string();
                    self.at += 1;
                    Some(word)
                }
                None => None,
            };
            if self.take(',') {
                let coordinates = self.operand()?;
                self.expect(']')?;
                return match (base, coordinates) {
                    (Some(map), Operand::Vector(list)) => Ok(Operand::Box(map, list)),
                    _ => refuse(line, "a tensor has a map and coordinates"),
                };
            }
            let mut offset = 0;
            if !self.take(']') {
                self.take('+');
                offset = self.int()?;
                self.expect(']')?;
            }
            return Ok(Operand::Address(base, offset));
        }
        if self.take('!') {
            return Ok(Operand::Not(self.word()?));
        }
        let negative = self.take('-');
        Ok(match self.next()? {
            Token::Int(n) => Operand::Int(if negative { n.wrapping_neg() } else { n }),
            Token::F32(bits) => Operand::F32(bits ^ (u32::from(negative) << 31)),
            Token::F64(bits) => Operand::F64(bits ^ (u64::from(negative) << 63)),
            Token::Word(name) if !negative => {
                if self.take('|') {
                    Operand::Pair(name, self.word()?)
                } else if self.take('+') {
                    Operand::Sum(name, self.int()?)
                } else {
                    Operand::Name(name)
                }
            }
            other => return refuse(line, format!("{other:?} is not an operand")),
        })
    }
}

/// Bytes of a type of variables, with its dot.
pub fn bytes_of(ty: &str) -> Option<u64> {
    Some(match ty {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        _ => return None,
    })
}
