//! The textual form of a graph. [`super::parse`] reads it back; the two are inverse.
//!
//! ```text
//! graph "mlp" {
//!   symbol batch in 1..64
//!   origin o0 "fc" "Gemm"
//!   const c0 f32[2, 3] "fc.weight" = splat 0x3f800000
//!   body (v0: f32[batch, 2]) {
//!     v1: f32[2, 3] = constant c0 () @ o0
//!     v2: f32[batch, 3] = contract [0, 1] [1, 2] [0, 2] acc f32 (v0, v1) @ o0
//!     return v2
//!   }
//!   inputs "x"
//!   outputs "y"
//! }
//! ```
//!
//! Values are numbered in the order in which they are defined. A constant of at most 64 elements shows its bytes; a larger
//! one a hash of them, and the parser is told where to find what has this hash.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter, Write};

use super::constant::ConstantSource;
use super::op::{CompositeKind, Coord, RecurrentCell, ReduceOp, ScatterOp};
use super::{Attribute, Constant, External, Graph, Op, Region, TensorType, Value};
use crate::dim::{Dim, Symbol};
use crate::scalar::{ScalarExpr, ScalarInst};

/// Constants of more elements than this print as a hash.
const INLINE_ELEMENTS: i64 = 64;

impl Display for Graph {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut printer = Printer { graph: self, numbers: HashMap::new(), text: String::new() };
        printer.graph()?;
        f.write_str(&printer.text)
    }
}

/// Whether a constant of this type prints as a hash of its bytes.
pub fn prints_as_hash(ty: &TensorType) -> bool {
    ty.static_len().is_none_or(|n| n > INLINE_ELEMENTS)
}

/// FNV-1a over 64 bits: the hash by which large constants are named.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

struct Printer<'g> {
    graph: &'g Graph,
    numbers: HashMap<Value, usize>,
    text: String,
}

impl Printer<'_> {
    fn graph(&mut self) -> fmt::Result {
        let graph = self.graph;
        writeln!(self.text, "graph {:?} {{", graph.name)?;
        for symbol in graph.symbols.iter() {
            let (low, high) = graph.symbols.bounds(symbol);
            writeln!(self.text, "  symbol {} in {low}..{high}", Dim::symbol(symbol).display(&graph.symbols))?;
        }
        for (left, right) in &graph.assumptions {
            let (left, right) = (left.display(&graph.symbols), right.display(&graph.symbols));
            writeln!(self.text, "  assume [{left}, {right}]")?;
        }
        for (origin, data) in &graph.origins {
            writeln!(self.text, "  origin {origin} {:?} {:?}", data.path, data.operator)?;
        }
        for string in graph.strings.iter().skip(1) {
            match std::str::from_utf8(string) {
                Ok(text) => writeln!(self.text, "  string {text:?}")?,
                Err(_) => writeln!(self.text, "  string hex {:?}", hex(string))?,
            }
        }
        for constant in graph.constants.keys() {
            self.constant(constant)?;
        }
        self.text.push_str("  body ");
        self.region(graph.body(), 1)?;
        self.text.push('\n');
        for (word, names) in [("inputs", &graph.input_names), ("outputs", &graph.output_names)] {
            let names: Vec<String> = names.iter().map(|n| format!("{n:?}")).collect();
            writeln!(self.text, "{}", format!("  {word} {}", names.join(", ")).trim_end())?;
        }
        self.text.push_str("}\n");
        Ok(())
    }

    fn constant(&mut self, constant: Constant) -> fmt::Result {
        let graph = self.graph;
        let data = &graph.constants[constant];
        let ty = super::Type::Tensor(data.ty.clone());
        write!(self.text, "  const {constant} {} {:?} = ", graph.type_text(&ty), data.name)?;
        match &data.source {
            ConstantSource::Splat(scalar) => writeln!(self.text, "splat {:#x}", scalar.bits),
            ConstantSource::Bytes(bytes) if !prints_as_hash(&data.ty) => {
                writeln!(self.text, "bytes {:?}", hex(bytes))
            }
            ConstantSource::Bytes(bytes) => writeln!(self.text, "hash {:#018x}", hash_bytes(bytes)),
            ConstantSource::Lazy { op, inputs } => {
                self.text.push_str("lazy ");
                self.op(op, 1)?;
                let inputs: Vec<String> = inputs.iter().map(Constant::to_string).collect();
                writeln!(self.text, " ({})", inputs.join(", "))
            }
        }
    }

    fn number(&mut self, value: Value) -> usize {
        let next = self.numbers.len();
        *self.numbers.entry(value).or_insert(next)
    }

    fn definition(&mut self, value: Value) -> String {
        let graph = self.graph;
        format!("v{}: {}", self.number(value), graph.type_text(graph.ty(value)))
    }

    fn list(&mut self, values: &[Value]) -> String {
        values.iter().map(|&v| format!("v{}", self.number(v))).collect::<Vec<_>>().join(", ")
    }

    fn region(&mut self, region: Region, depth: usize) -> fmt::Result {
        let graph = self.graph;
        let data = &graph.regions[region];
        let params: Vec<String> = data.params.iter().map(|&v| self.definition(v)).collect();
        writeln!(self.text, "({}) {{", params.join(", "))?;
        let indent = "  ".repeat(depth + 1);
        for &node in &data.nodes {
            let record = &graph.nodes[node];
            // Operands have their numbers already; nested regions number what they define first.
            let inputs = self.list(&record.inputs);
            let outputs: Vec<String> = record.outputs.iter().map(|&v| self.definition(v)).collect();
            write!(self.text, "{indent}{} = ", outputs.join(", "))?;
            self.op(&record.op, depth + 1)?;
            let origins: Vec<String> = record.origins.iter().map(ToString::to_string).collect();
            writeln!(self.text, " ({inputs}) @ {}", origins.join(", "))?;
        }
        let results = self.list(&data.results);
        writeln!(self.text, "{}", format!("{indent}return {results}").trim_end())?;
        write!(self.text, "{}}}", "  ".repeat(depth))
    }

    /// A word and symbols, where there are any.
    fn symbols(&mut self, word: &str, symbols: &[Symbol]) {
        if !symbols.is_empty() {
            let dims: Vec<Dim> = symbols.iter().copied().map(Dim::symbol).collect();
            let list = self.dims(&dims);
            self.text.push_str(&format!(" {word} {list}"));
        }
    }

    fn dims(&self, dims: &[Dim]) -> String {
        let dims: Vec<String> = dims.iter().map(|d| d.display(&self.graph.symbols).to_string()).collect();
        format!("[{}]", dims.join(", "))
    }

    fn op(&mut self, op: &Op, depth: usize) -> fmt::Result {
        self.text.push_str(op.name());
        let text = match op {
            Op::Constant(c) => format!(" {c}"),
            Op::DimValue(dim) => format!(" {}", self.dims(std::slice::from_ref(dim))),
            Op::BindSizes { symbols, low, high } => {
                let symbols: Vec<Dim> = symbols.iter().copied().map(Dim::symbol).collect();
                format!(" {} {} {}", self.dims(&symbols), self.dims(low), self.dims(high))
            }
            Op::Elementwise(expr) => format!(" {{ {} }}", self.expr(expr)),
            Op::Reduce { op, axes } => format!(" {} {}", reduce_name(*op), numbers(axes)),
            Op::Cumulate { op, axis, exclusive, reverse } => {
                format!(" {} {axis}{}{}", reduce_name(*op), flag(*exclusive, "exclusive"), flag(*reverse, "reverse"))
            }
            Op::Contract(c) => format!(
                " {} {} {} acc {}{}",
                numbers(&c.lhs),
                numbers(&c.rhs),
                numbers(&c.out),
                c.acc,
                option("panel", c.panel)
            ),
            Op::Conv(c) => format!(
                " kernel {} strides {} pads {} {} dilations {} {} groups {} acc {}{}{}{}",
                numbers(&c.kernel),
                numbers(&c.strides),
                numbers(&c.pad_lo),
                numbers(&c.pad_hi),
                numbers(&c.lhs_dilation),
                numbers(&c.rhs_dilation),
                c.groups,
                c.acc,
                flag(c.channels_last, "channels_last"),
                option("panel", c.panel),
                option("winograd", c.winograd)
            ),
            Op::Window(w) => format!(
                " {} sizes {} strides {} dilations {} pads {} {}",
                reduce_name(w.op),
                numbers(&w.sizes),
                numbers(&w.strides),
                numbers(&w.dilations),
                numbers(&w.pad_lo),
                numbers(&w.pad_hi)
            ),
            Op::Reshape | Op::Broadcast => String::new(),
            Op::Transpose { perm } => format!(" {}", numbers(perm)),
            Op::Slice { starts, steps } => format!(" {} {}", self.dims(starts), numbers(steps)),
            Op::Pad { lo, hi } => format!(" {} {}", self.dims(lo), self.dims(hi)),
            Op::Concat { axis } => format!(" {axis}"),
            Op::Gather { coords } => format!(" {}", coords_text(coords)),
            Op::Scatter { coords, op } => format!(" {} {}", scatter_name(*op), coords_text(coords)),
            Op::Sort { axis, descending } => format!(" {axis}{}", flag(*descending, "descending")),
            Op::External(external) => external_text(external),
            Op::Strings(function) => format!(" {}", function.symbol()),
            Op::If { then, otherwise, sizes } => {
                self.symbols("sizes", sizes);
                self.text.push(' ');
                self.region(*then, depth)?;
                self.text.push(' ');
                return self.region(*otherwise, depth);
            }
            Op::Loop { body, carried, varying, sizes } => {
                write!(self.text, " {carried}")?;
                self.symbols("varying", varying);
                self.symbols("sizes", sizes);
                self.text.push(' ');
                return self.region(*body, depth);
            }
            Op::Composite { kind, body } => {
                write!(self.text, " {} ", composite_text(kind))?;
                return self.region(*body, depth);
            }
            Op::Group { body } => {
                self.text.push(' ');
                return self.region(*body, depth);
            }
        };
        self.text.push_str(&text);
        Ok(())
    }

    fn expr(&self, expr: &ScalarExpr) -> String {
        let step = |inst: &ScalarInst| match inst {
            ScalarInst::Arg(n) => format!("arg {n}"),
            ScalarInst::Index(axis) => format!("index {axis}"),
            ScalarInst::Const(c) => format!("const {} {:#x}", c.dtype, c.bits),
            ScalarInst::Dim(d) => format!("dim {}", self.dims(std::slice::from_ref(d))),
            ScalarInst::Unary(op, a) => format!("{} {a}", op.name()),
            ScalarInst::Binary(op, a, b) => format!("{} {a} {b}", op.name()),
            ScalarInst::Compare(op, a, b) => format!("{} {a} {b}", op.name()),
            ScalarInst::MulAdd(a, b, c) => format!("muladd {a} {b} {c}"),
            ScalarInst::Select(c, a, b) => format!("select {c} {a} {b}"),
            ScalarInst::Cast(to, a) => format!("cast {to} {a}"),
            ScalarInst::Bitcast(to, a) => format!("bitcast {to} {a}"),
        };
        expr.insts.iter().map(step).collect::<Vec<_>>().join("; ")
    }
}

fn numbers<T: Display>(list: &[T]) -> String {
    let list: Vec<String> = list.iter().map(ToString::to_string).collect();
    format!("[{}]", list.join(", "))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn flag(set: bool, word: &str) -> String {
    if set { format!(" {word}") } else { String::new() }
}

fn option(word: &str, value: Option<impl std::fmt::Display>) -> String {
    value.map_or(String::new(), |v| format!(" {word} {v}"))
}

pub(super) fn reduce_name(op: ReduceOp) -> &'static str {
    match op {
        ReduceOp::Sum => "sum",
        ReduceOp::Prod => "prod",
        ReduceOp::Min => "min",
        ReduceOp::Max => "max",
        ReduceOp::ArgMin { last: false } => "argmin",
        ReduceOp::ArgMin { last: true } => "argmin_last",
        ReduceOp::ArgMax { last: false } => "argmax",
        ReduceOp::ArgMax { last: true } => "argmax_last",
    }
}

pub(super) fn scatter_name(op: ScatterOp) -> &'static str {
    match op {
        ScatterOp::Set => "set",
        ScatterOp::Add => "add",
        ScatterOp::Mul => "mul",
        ScatterOp::Min => "min",
        ScatterOp::Max => "max",
    }
}

/// `"symbol" "operator" present [1, 0] results [f32] attributes ["alpha" floats [0x3f800000], "mode" texts ["up"]]`.
fn external_text(external: &External) -> String {
    let External { symbol, operator, present, results, attributes } = external;
    let present: Vec<u8> = present.iter().map(|&p| u8::from(p)).collect();
    let values = |attribute: &Attribute| match attribute {
        Attribute::Ints(list) => format!("ints {}", numbers(list)),
        Attribute::Floats(list) => {
            let list: Vec<String> = list.iter().map(|bits| format!("{bits:#x}")).collect();
            format!("floats [{}]", list.join(", "))
        }
        Attribute::Texts(list) => format!("texts {list:?}"),
    };
    let attributes: Vec<String> = attributes.iter().map(|(name, a)| format!("{name:?} {}", values(a))).collect();
    let (present, results, attributes) = (numbers(&present), numbers(results), attributes.join(", "));
    format!(" {symbol:?} {operator:?} present {present} results {results} attributes [{attributes}]")
}

fn coords_text(coords: &[Coord]) -> String {
    let list: Vec<String> = coords
        .iter()
        .map(|c| match c {
            Coord::Axis(n) => format!("axis {n}"),
            Coord::Input(n) => format!("input {n}"),
        })
        .collect();
    format!("<{}>", list.join(", "))
}

fn composite_text(kind: &CompositeKind) -> String {
    match kind {
        CompositeKind::Softmax { axis } => format!("softmax {axis}"),
        CompositeKind::LogSoftmax { axis } => format!("log_softmax {axis}"),
        CompositeKind::LayerNorm { axis, epsilon } => format!("layer_norm {axis} {epsilon:#x}"),
        CompositeKind::RmsNorm { axis, epsilon } => format!("rms_norm {axis} {epsilon:#x}"),
        CompositeKind::Recurrent { cell } => format!(
            "recurrent {}",
            match cell {
                RecurrentCell::Rnn => "rnn",
                RecurrentCell::Gru => "gru",
                RecurrentCell::Lstm => "lstm",
            }
        ),
        CompositeKind::Function(name) => format!("function {name:?}"),
    }
}
