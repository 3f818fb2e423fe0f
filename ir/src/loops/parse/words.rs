//! The characters of a text: words, numbers and names in quotes.

use std::collections::HashMap;

use cranelift_entity::PrimaryMap;

use super::{ParseError, Parser, Result};

impl<'t> Parser<'t> {
    pub(super) fn new(text: &'t str) -> Parser<'t> {
        Parser {
            text,
            at: 0,
            names: HashMap::new(),
            buffers: PrimaryMap::new(),
            vals: PrimaryMap::new(),
            insts: PrimaryMap::new(),
            blocks: PrimaryMap::new(),
        }
    }

    pub(super) fn reset(&mut self) {
        *self = Parser { at: self.at, ..Parser::new(self.text) };
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        let line = self.text[..self.at].matches('\n').count() + 1;
        Err(ParseError { line, message: message.into() })
    }

    /// The next character behind blanks and comments.
    pub(super) fn peek(&mut self) -> Option<char> {
        loop {
            let rest = &self.text[self.at..];
            let c = rest.chars().next()?;
            if c.is_whitespace() {
                self.at += c.len_utf8();
            } else if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else {
                return Some(c);
            }
        }
    }

    pub(super) fn eat(&mut self, token: &str) -> bool {
        self.peek();
        let found = self.text[self.at..].starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    pub(super) fn expect(&mut self, token: &str) -> Result<()> {
        if self.eat(token) { Ok(()) } else { self.fail(format!("expected `{token}`")) }
    }

    pub(super) fn run(&mut self, accept: impl Fn(char) -> bool) -> &'t str {
        self.peek();
        let rest = &self.text[self.at..];
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    pub(super) fn word(&mut self) -> &'t str {
        self.run(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self) -> Result<T> {
        let start = self.at;
        let text = self.run(|c| c.is_ascii_digit() || c == '-');
        match text.parse() {
            Ok(n) => Ok(n),
            Err(_) => {
                self.at = start;
                self.fail("expected a number in range")
            }
        }
    }

    pub(super) fn string(&mut self) -> Result<String> {
        self.expect("\"")?;
        let mut out = String::new();
        let mut chars = self.text[self.at..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(out);
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => out.push('\n'),
                    Some('t') => out.push('\t'),
                    Some('r') => out.push('\r'),
                    Some('0') => out.push('\0'),
                    Some(c @ ('"' | '\\' | '\'')) => out.push(c),
                    Some('u') => {
                        let code: String = chars.by_ref().map(|(_, c)| c).skip(1).take_while(|&c| c != '}').collect();
                        match u32::from_str_radix(&code, 16).ok().and_then(char::from_u32) {
                            Some(c) => out.push(c),
                            None => return self.fail("no such character"),
                        }
                    }
                    _ => return self.fail("unknown escape in a string"),
                },
                c => out.push(c),
            }
        }
        self.fail("a string has no end")
    }
}
