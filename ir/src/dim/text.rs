//! Text of expressions: `2*batch*seq + 3`, `floordiv(seq + 1, 2)`, `max(a, b)`. Printing and parsing are inverse.
//!
//! ```text
//! expr   = ["-"] term { ("+" | "-") term }
//! term   = factor { "*" factor }
//! factor = number | name | string | function "(" expr { "," expr } ")" | "(" expr ")"
//! ```
//! A name is `[A-Za-z_][A-Za-z0-9_.]*` and no function; any other symbol name is written as a string, with `\"`,
//! `\\` and `\u{hex}`.

use super::{Atom, Dim, DimError, MAX_DEPTH, Monomial, Repr, Symbol, Symbols, Term};
use std::fmt;

/// Where and why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at offset {offset}")]
pub struct ParseDimError {
    /// Byte offset into the text.
    pub offset: usize,
    /// What is wrong there.
    pub message: String,
}

/// Prints an expression with the names of its symbols.
pub struct DimDisplay<'a> {
    dim: &'a Dim,
    symbols: &'a Symbols,
}

impl Dim {
    /// The expression with its symbols' names, in the form that [`Dim::parse`] reads.
    pub fn display<'a>(&'a self, symbols: &'a Symbols) -> DimDisplay<'a> {
        DimDisplay { dim: self, symbols }
    }

    /// Reads an expression; names that the table lacks are added to it.
    pub fn parse(text: &str, symbols: &mut Symbols) -> Result<Dim, ParseDimError> {
        let mut parser = Parser { text, at: 0, depth: 0, symbols };
        let dim = parser.expression()?;
        if parser.peek().is_some() {
            return Err(parser.error("expected an operator or the end"));
        }
        Ok(dim)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, name: &Namer<'_>) -> fmt::Result {
        let poly = match &self.0 {
            Repr::Const(value) => return write!(f, "{value}"),
            Repr::Poly(poly) => poly,
        };
        for (index, Term { monomial: Monomial(atoms), coefficient }) in poly.terms.iter().enumerate() {
            match (index, *coefficient < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                (_, false) => f.write_str(" + ")?,
                (_, true) => f.write_str(" - ")?,
            }
            let magnitude = coefficient.unsigned_abs();
            if magnitude != 1 || atoms.is_empty() {
                write!(f, "{magnitude}")?;
                if !atoms.is_empty() {
                    f.write_str("*")?;
                }
            }
            for (index, atom) in atoms.iter().enumerate() {
                if index > 0 {
                    f.write_str("*")?;
                }
                atom.write(f, name)?;
            }
        }
        Ok(())
    }
}

type Namer<'a> = dyn Fn(Symbol, &mut fmt::Formatter<'_>) -> fmt::Result + 'a;

impl Atom {
    fn write(&self, f: &mut fmt::Formatter<'_>, name: &Namer<'_>) -> fmt::Result {
        let function = match self {
            Atom::Symbol(symbol) => return name(*symbol, f),
            Atom::FloorDiv(..) => "floordiv",
            Atom::Modulo(..) => "mod",
            Atom::Min(_) => "min",
            Atom::Max(_) => "max",
        };
        f.write_str(function)?;
        for (index, operand) in self.operands().into_iter().enumerate() {
            f.write_str(if index == 0 { "(" } else { ", " })?;
            operand.write(f, name)?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for DimDisplay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dim.write(f, &|symbol, f| write_name(self.symbols.name(symbol), f))
    }
}

/// Symbols appear as their handles.
impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &|symbol, f| write!(f, "{symbol}"))
    }
}

const FUNCTIONS: [&str; 5] = ["floordiv", "ceildiv", "mod", "min", "max"];

fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn is_name_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

fn write_name(name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if name.starts_with(is_name_start) && name.chars().all(is_name_part) && !FUNCTIONS.contains(&name) {
        return f.write_str(name);
    }
    f.write_str("\"")?;
    for c in name.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "\\u{{{:x}}}", c as u32)?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

struct Parser<'t, 's> {
    text: &'t str,
    at: usize,
    depth: u32,
    symbols: &'s mut Symbols,
}

impl Parser<'_, '_> {
    fn error(&self, message: impl fmt::Display) -> ParseDimError {
        ParseDimError { offset: self.at, message: message.to_string() }
    }

    fn build(&self, result: Result<Dim, DimError>) -> Result<Dim, ParseDimError> {
        result.map_err(|error| self.error(error))
    }

    /// The next character that is not a blank.
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start_matches([' ', '\t']).len();
        self.text[self.at..].chars().next()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn expression(&mut self) -> Result<Dim, ParseDimError> {
        // One level for each nested atom, and as many again for parentheses.
        if self.depth > 2 * MAX_DEPTH {
            return Err(self.error(DimError::TooComplex));
        }
        self.depth += 1;
        let negative = self.eat('-');
        let mut sum = self.term(negative)?;
        loop {
            let negative = match self.peek() {
                Some('+') => false,
                Some('-') => true,
                _ => break,
            };
            self.at += 1;
            let term = self.term(negative)?;
            sum = self.build(&sum + &term)?;
        }
        self.depth -= 1;
        Ok(sum)
    }

    /// A product, negated where asked: the sign goes to a leading number, which then may be the least one.
    fn term(&mut self, negative: bool) -> Result<Dim, ParseDimError> {
        let mut product = match self.peek() {
            Some(c) if c.is_ascii_digit() => self.number(negative)?,
            _ => {
                let factor = self.factor()?;
                if negative { self.build(-&factor)? } else { factor }
            }
        };
        while self.eat('*') {
            let factor = self.factor()?;
            product = self.build(&product * &factor)?;
        }
        Ok(product)
    }

    fn number(&mut self, negative: bool) -> Result<Dim, ParseDimError> {
        let rest = &self.text[self.at..];
        let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let value = rest[..length].parse::<i128>().map(|value| if negative { -value } else { value });
        let value = value.ok().and_then(|value| i64::try_from(value).ok());
        let dim = value.map(Dim::constant).ok_or_else(|| self.error(DimError::Overflow))?;
        self.at += length;
        Ok(dim)
    }

    fn factor(&mut self) -> Result<Dim, ParseDimError> {
        match self.peek() {
            Some(c) if c.is_ascii_digit() => self.number(false),
            Some('"') => {
                let name = self.string()?;
                Ok(Dim::symbol(self.symbols.intern(&name)))
            }
            Some('(') => {
                self.at += 1;
                let dim = self.expression()?;
                if self.eat(')') { Ok(dim) } else { Err(self.error("expected `)`")) }
            }
            Some(c) if is_name_start(c) => {
                let text = self.text;
                let rest = &text[self.at..];
                let length = rest.find(|c: char| !is_name_part(c)).unwrap_or(rest.len());
                let name = &rest[..length];
                if FUNCTIONS.contains(&name) {
                    self.at += length;
                    return self.call(name);
                }
                self.at += length;
                Ok(Dim::symbol(self.symbols.intern(name)))
            }
            _ => Err(self.error("expected a number, a symbol, a function or `(`")),
        }
    }

    fn call(&mut self, function: &str) -> Result<Dim, ParseDimError> {
        if !self.eat('(') {
            return Err(self.error("expected `(`"));
        }
        let mut operands = vec![self.expression()?];
        while self.eat(',') {
            operands.push(self.expression()?);
        }
        if !self.eat(')') {
            return Err(self.error("expected `,` or `)`"));
        }
        let result = match (function, operands.as_slice()) {
            ("floordiv", [a, b]) => a.floor_div(b),
            ("ceildiv", [a, b]) => a.ceil_div(b),
            ("mod", [a, b]) => a.modulo(b),
            ("min", [first, rest @ ..]) => rest.iter().try_fold(first.clone(), |best, dim| best.minimum(dim)),
            ("max", [first, rest @ ..]) => rest.iter().try_fold(first.clone(), |best, dim| best.maximum(dim)),
            _ => return Err(self.error(format_args!("`{function}` takes two operands"))),
        };
        self.build(result)
    }

    fn string(&mut self) -> Result<String, ParseDimError> {
        self.at += 1;
        let mut name = String::new();
        loop {
            let rest = &self.text[self.at..];
            let mut chars = rest.chars();
            match chars.next() {
                None => return Err(self.error("unfinished string")),
                Some('"') => {
                    self.at += 1;
                    return Ok(name);
                }
                Some('\\') => {
                    let (c, length) = match chars.next() {
                        Some(c @ ('"' | '\\')) => (Some(c), 2),
                        Some('u') => {
                            let hex = rest.get(2..).and_then(|rest| rest.strip_prefix('{'));
                            let hex = hex.and_then(|hex| hex.split_once('}')).map_or("", |(hex, _)| hex);
                            (u32::from_str_radix(hex, 16).ok().and_then(char::from_u32), hex.len() + 4)
                        }
                        _ => (None, 0),
                    };
                    name.push(c.ok_or_else(|| self.error("unknown escape"))?);
                    self.at += length;
                }
                Some(c) => {
                    name.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
    }
}
