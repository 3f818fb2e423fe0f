//! Reads the textual form of a graph, which [`super::print`] describes.

mod operations;

use std::collections::HashMap;

use bytes::Bytes;
use cranelift_entity::EntityRef;

use super::constant::{ConstantData, ConstantSource};
use super::{Constant, Graph, Origin, OriginData, Region, Shape, TensorType, Type, Value};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::scalar::Scalar;

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was expected.
    pub message: String,
}

/// Reads a graph whose constants are all small.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    parse_with(text, &|_| None)
}

/// Reads a graph; `constants` gives the bytes of large constants by their hash.
pub fn parse_with(text: &str, constants: &dyn Fn(u64) -> Option<Bytes>) -> Result<Graph, ParseError> {
    let mut parser = Parser { text, at: 0, graph: Graph::new(""), values: HashMap::new(), constants };
    parser.graph()?;
    Ok(parser.graph)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    graph: Graph,
    values: HashMap<usize, Value>,
    constants: &'t dyn Fn(u64) -> Option<Bytes>,
}

type Parsed<T> = Result<T, ParseError>;

impl<'t> Parser<'t> {
    fn fail<T>(&self, message: impl Into<String>) -> Parsed<T> {
        let before = &self.text[..self.at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Err(ParseError { line, column, message: message.into() })
    }

    /// What is left, after white space and `//` comments.
    fn rest(&mut self) -> &'t str {
        loop {
            let rest = &self.text[self.at..];
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return trimmed;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { self.fail(format!("expected `{token}`")) }
    }

    /// The next word, which is not consumed.
    fn peek(&mut self) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').unwrap_or(rest.len());
        &rest[..end]
    }

    fn word(&mut self) -> Parsed<&'t str> {
        let word = self.peek();
        if word.is_empty() {
            return self.fail("expected a word");
        }
        self.at += word.len();
        Ok(word)
    }

    /// Takes the word if it is this one.
    fn keyword(&mut self, word: &str) -> bool {
        let found = self.peek() == word;
        if found {
            self.at += word.len();
        }
        found
    }

    fn number<T: TryFrom<i128>>(&mut self) -> Parsed<T> {
        let start = self.at;
        let word = self.word()?;
        let value = match word.strip_prefix("0x") {
            Some(hex) => i128::from_str_radix(hex, 16).ok(),
            None => word.parse::<i128>().ok(),
        };
        match value.and_then(|v| T::try_from(v).ok()) {
            Some(value) => Ok(value),
            None => {
                self.at = start;
                self.fail("expected a number")
            }
        }
    }

    fn handle(&mut self, prefix: &str) -> Parsed<usize> {
        let start = self.at;
        match self.word()?.strip_prefix(prefix).and_then(|n| n.parse().ok()) {
            Some(n) => Ok(n),
            None => {
                self.at = start;
                self.fail(format!("expected `{prefix}` and a number"))
            }
        }
    }

    fn string(&mut self) -> Parsed<String> {
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
                    Some('u') => {
                        let code: String = chars.by_ref().map(|(_, c)| c).skip(1).take_while(|c| *c != '}').collect();
                        match u32::from_str_radix(&code, 16).ok().and_then(char::from_u32) {
                            Some(c) => out.push(c),
                            None => return self.fail("expected a character's code"),
                        }
                    }
                    Some(c) => out.push(c),
                    None => break,
                },
                c => out.push(c),
            }
        }
        self.fail("expected the end of a string")
    }

    /// Items between brackets, separated by commas.
    fn list<T>(&mut self, open: &str, close: &str, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.expect(open)?;
        let mut items = Vec::new();
        while !self.take(close) {
            if !items.is_empty() {
                self.expect(",")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn numbers<T: TryFrom<i128>, A: FromIterator<T>>(&mut self) -> Parsed<A> {
        Ok(self.list("[", "]", Self::number)?.into_iter().collect())
    }

    /// Dimensions between brackets. An expression ends at a comma or bracket outside of parentheses and quotes.
    fn dims(&mut self) -> Parsed<Shape> {
        let dims = self.list("[", "]", |p| {
            let rest = p.rest();
            let (mut depth, mut quoted) = (0, false);
            let end = rest.find(|c: char| {
                match c {
                    '"' | '`' => quoted = !quoted,
                    '(' if !quoted => depth += 1,
                    ')' if !quoted => depth -= 1,
                    _ => {}
                }
                !quoted && depth == 0 && (c == ',' || c == ']')
            });
            let Some(end) = end else { return p.fail("expected `]`") };
            match Dim::parse(rest[..end].trim(), &mut p.graph.symbols) {
                Ok(dim) => {
                    p.at += end;
                    Ok(dim)
                }
                Err(error) => p.fail(error.to_string()),
            }
        })?;
        Ok(dims.into_iter().collect())
    }

    fn dim(&mut self) -> Parsed<Dim> {
        match &self.dims()?[..] {
            [dim] => Ok(dim.clone()),
            _ => self.fail("expected one dimension"),
        }
    }

    fn dtype(&mut self) -> Parsed<DType> {
        let start = self.at;
        self.word()?.parse().or_else(|_| {
            self.at = start;
            self.fail("expected an element type")
        })
    }

    fn ty(&mut self) -> Parsed<Type> {
        for (word, make) in [("sequence", Type::Sequence as fn(Box<Type>) -> Type), ("optional", Type::Optional)] {
            if self.keyword(word) {
                self.expect("(")?;
                let inner = self.ty()?;
                self.expect(")")?;
                return Ok(make(Box::new(inner)));
            }
        }
        if self.keyword("map") {
            self.expect("(")?;
            let key = self.dtype()?;
            self.expect(",")?;
            let value = self.ty()?;
            self.expect(")")?;
            return Ok(Type::Map(key, Box::new(value)));
        }
        let dtype = self.dtype()?;
        Ok(Type::Tensor(TensorType { dtype, shape: self.dims()? }))
    }

    fn tensor_type(&mut self) -> Parsed<TensorType> {
        match self.ty()? {
            Type::Tensor(ty) => Ok(ty),
            _ => self.fail("expected a tensor type"),
        }
    }

    fn graph(&mut self) -> Parsed<()> {
        self.expect("graph")?;
        self.graph.name = self.string()?;
        self.expect("{")?;
        while self.keyword("symbol") {
            let rest = self.rest();
            let Some(end) = rest.find(" in ") else { return self.fail("expected `NAME in LOW..HIGH`") };
            let symbol = match Dim::parse(rest[..end].trim(), &mut self.graph.symbols) {
                Ok(dim) => dim.as_symbol(),
                Err(error) => return self.fail(error.to_string()),
            };
            let Some(symbol) = symbol else { return self.fail("expected a symbol's name") };
            self.at += end + " in ".len();
            let low = self.number()?;
            self.expect("..")?;
            let high = self.number()?;
            self.graph.symbols.restrict(symbol, low, high);
        }
        while self.keyword("assume") {
            match &self.dims()?[..] {
                [left, right] => self.graph.assumptions.push((left.clone(), right.clone())),
                _ => return self.fail("expected two dimensions"),
            }
        }
        while self.keyword("origin") {
            self.handle("o")?;
            let (path, operator) = (self.string()?, self.string()?);
            self.graph.origins.push(OriginData { path, operator });
        }
        while self.keyword("string") {
            let string = if self.keyword("hex") { self.hex()? } else { self.string()?.into_bytes() };
            self.graph.strings.number(&string);
        }
        while self.keyword("const") {
            self.constant()?;
        }
        self.expect("body")?;
        let body = self.graph.body();
        self.region(body)?;
        self.expect("inputs")?;
        self.graph.input_names = self.names()?;
        self.expect("outputs")?;
        self.graph.output_names = self.names()?;
        self.expect("}")?;
        if self.rest().is_empty() { Ok(()) } else { self.fail("expected the end") }
    }

    fn names(&mut self) -> Parsed<Vec<String>> {
        let mut names = Vec::new();
        while self.rest().starts_with('"') {
            names.push(self.string()?);
            if !self.take(",") {
                break;
            }
        }
        Ok(names)
    }

    fn hex(&mut self) -> Parsed<Vec<u8>> {
        let hex = self.string()?;
        let byte = |i: usize| hex.get(i..i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (0..hex.len()).step_by(2).map(byte).collect() {
            Some(bytes) => Ok(bytes),
            None => self.fail("expected hexadecimal bytes"),
        }
    }

    fn constant(&mut self) -> Parsed<()> {
        self.handle("c")?;
        let ty = self.tensor_type()?;
        let name = self.string()?;
        self.expect("=")?;
        let source = match self.word()? {
            "splat" => ConstantSource::Splat(Scalar { dtype: ty.dtype, bits: self.number()? }),
            "bytes" => ConstantSource::Bytes(self.hex()?.into()),
            "hash" => {
                let hash = self.number()?;
                match (self.constants)(hash) {
                    Some(bytes) => ConstantSource::Bytes(bytes),
                    None => return self.fail(format!("no constant has the hash {hash:#018x}")),
                }
            }
            "lazy" => {
                let op = self.op()?;
                let inputs = self.list("(", ")", |p| p.handle("c").map(Constant::new))?;
                ConstantSource::Lazy { op, inputs: inputs.into() }
            }
            _ => return self.fail("expected `splat`, `bytes`, `hash` or `lazy`"),
        };
        self.graph.constants.push(ConstantData { ty, source, name });
        Ok(())
    }

    fn value(&mut self) -> Parsed<Value> {
        let number = self.handle("v")?;
        match self.values.get(&number) {
            Some(&value) => Ok(value),
            None => self.fail(format!("v{number} is not defined here")),
        }
    }

    fn new_region(&mut self) -> Parsed<Region> {
        let region = self.graph.add_region();
        self.region(region)?;
        Ok(region)
    }

    fn region(&mut self, region: Region) -> Parsed<()> {
        // Regions are closed: inside, only what they define has a name.
        let outside = std::mem::take(&mut self.values);
        let params = self.list("(", ")", |p| {
            let number = p.handle("v")?;
            p.expect(":")?;
            Ok((number, p.ty()?))
        })?;
        for (number, ty) in params {
            let value = self.graph.add_param(region, ty);
            self.values.insert(number, value);
        }
        self.expect("{")?;
        while !self.keyword("return") {
            self.node(region)?;
        }
        let mut results = Vec::new();
        while self.peek().starts_with('v') {
            results.push(self.value()?);
            if !self.take(",") {
                break;
            }
        }
        self.graph.regions[region].results = results;
        self.expect("}")?;
        self.values = outside;
        Ok(())
    }

    fn node(&mut self, region: Region) -> Parsed<()> {
        let mut numbers = Vec::new();
        let mut types = Vec::new();
        loop {
            numbers.push(self.handle("v")?);
            self.expect(":")?;
            types.push(self.ty()?);
            if !self.take(",") {
                break;
            }
        }
        self.expect("=")?;
        let op = self.op()?;
        let inputs = self.list("(", ")", Self::value)?;
        self.expect("@")?;
        let mut origins = Vec::new();
        loop {
            let number = self.handle("o")?;
            if number >= self.graph.origins.len() {
                return self.fail(format!("o{number} is not defined"));
            }
            origins.push(Origin::new(number));
            if !self.take(",") {
                break;
            }
        }
        let node = self.graph.add_node(region, op, inputs, types, &origins);
        let outputs = self.graph.nodes[node].outputs.clone();
        self.values.extend(numbers.into_iter().zip(outputs));
        Ok(())
    }
}

#[cfg(test)]
mod every_operation;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::BinaryOp;
    use crate::tensor::build::BuildError;
    use crate::tensor::op::{CompositeKind, ReduceOp};
    use crate::tensor::{Builder, TensorBytes};

    /// A graph with nested regions, symbols, constants of each kind and most operations.
    fn sample() -> Result<Graph, BuildError> {
        let mut graph = Graph::new("sample");
        let origin = graph.origins.push(OriginData { path: "a \"quoted\" node".into(), operator: "Add".into() });
        let batch = graph.symbols.intern("batch");
        graph.symbols.restrict(batch, 1, 64);
        let body = graph.body();
        let x = graph.add_param(body, TensorType::new(DType::F32, [Dim::from(batch), Dim::from(4)]));
        graph.input_names.push("x".into());
        let mut b = Builder::new(&mut graph, body, &[origin][..]);
        let w = b.constant(TensorBytes::from_f32(&[4, 3], &[0.5; 12]), "w")?;
        let big = b.constant(TensorBytes::from_f32(&[100], &[1.5; 100]), "big")?;
        let product = b.matmul(x, w, DType::F32)?;
        let relu = b.relu(product)?;
        let shifted = b.binary_number(BinaryOp::Add, relu, 2.0)?;
        let flipped = b.transpose(shifted, &[1, 0])?;
        let sum = b.reduce(ReduceOp::Sum, big, &[0], false)?;
        let scaled = b.mul(flipped, sum)?;
        let normal = b.composite(CompositeKind::Function("double".into()), &[scaled], |b, params| {
            Ok::<_, BuildError>(vec![b.add(params[0], params[0])?])
        })?;
        let padded = {
            let zero = b.scalar_f32(0.0);
            b.pad(normal[0], zero, &[Dim::from(1), Dim::from(0)], &[Dim::from(0), Dim::from(2)])?
        };
        let (sorted, order) = b.sort(padded, 0, true)?;
        graph.regions[body].results = vec![sorted, order];
        graph.output_names = vec!["y".into(), "order".into()];
        Ok(graph)
    }

    #[test]
    fn print_and_parse_are_inverse() {
        let graph = sample().unwrap();
        let text = graph.to_string();
        let mut file = Vec::new();
        crate::tensor::side_file::write(&graph, &mut file).unwrap();
        assert!(crate::tensor::side_file::read(&file[..file.len() - 1].to_vec().into()).is_none());
        let constants = crate::tensor::side_file::read(&file.into()).unwrap();
        let parsed = parse_with(&text, &|h| constants.get(&h).cloned()).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(parsed.to_string(), text);
        assert!(crate::tensor::verify::verify(&parsed).is_ok(), "{text}");
    }

    #[test]
    fn errors_say_where_and_what() {
        let error = parse("graph \"g\" {\n  body () {\n    return v3\n  }\n}").unwrap_err();
        assert_eq!((error.line, error.message.as_str()), (3, "v3 is not defined here"));
        let error = parse("graph \"g\" {\n  body (v0: f31[2]) {").unwrap_err();
        assert_eq!((error.line, error.message.as_str()), (2, "expected an element type"));
    }
}
