//! Operations with their attributes, and the scalar expressions of those that have one.

use cranelift_entity::EntityRef;
use smallvec::SmallVec;

use super::{Parsed, Parser};
use crate::dim::{Dim, Symbol};
use crate::scalar::{BinaryOp, CmpOp, Scalar, ScalarExpr, ScalarInst, UnaryOp};
use crate::strings::StringFunction;
use crate::tensor::op::{CompositeKind, Contract, Conv, Coord, Panel, RecurrentCell, ReduceOp, ScatterOp, Window};
use crate::tensor::{Attribute, Constant, External, Op};

impl Parser<'_> {
    fn reduce_op(&mut self) -> Parsed<ReduceOp> {
        let all = [
            ReduceOp::Sum,
            ReduceOp::Prod,
            ReduceOp::Min,
            ReduceOp::Max,
            ReduceOp::ArgMin { last: false },
            ReduceOp::ArgMin { last: true },
            ReduceOp::ArgMax { last: false },
            ReduceOp::ArgMax { last: true },
        ];
        let word = self.word()?;
        match all.into_iter().find(|op| crate::tensor::print::reduce_name(*op) == word) {
            Some(op) => Ok(op),
            None => self.fail("expected a reduction"),
        }
    }

    fn coords(&mut self) -> Parsed<SmallVec<[Coord; 5]>> {
        let coords = self.list("<", ">", |p| match p.word()? {
            "axis" => Ok(Coord::Axis(p.number()?)),
            "input" => Ok(Coord::Input(p.number()?)),
            _ => p.fail("expected `axis` or `input`"),
        })?;
        Ok(coords.into())
    }

    fn symbol_list<A: FromIterator<Symbol>>(&mut self) -> Parsed<A> {
        match self.dims()?.iter().map(Dim::as_symbol).collect() {
            Some(symbols) => Ok(symbols),
            None => self.fail("expected symbols"),
        }
    }

    /// Symbols after a word, or none.
    fn symbols(&mut self, word: &str) -> Parsed<SmallVec<[Symbol; 2]>> {
        if self.keyword(word) { self.symbol_list() } else { Ok(SmallVec::new()) }
    }

    /// `WORD number`, or nothing.
    fn optional(&mut self, word: &str) -> Parsed<Option<u32>> {
        if self.keyword(word) { Ok(Some(self.number()?)) } else { Ok(None) }
    }

    /// `panel COLUMNS`, with `words` after it if it holds words.
    fn panel(&mut self) -> Parsed<Option<Panel>> {
        let Some(columns) = self.optional("panel")? else { return Ok(None) };
        Ok(Some(if self.keyword("words") { Panel::words(columns) } else { Panel::flat(columns) }))
    }

    pub(super) fn op(&mut self) -> Parsed<Op> {
        Ok(match self.word()? {
            "constant" => Op::Constant(Constant::new(self.handle("c")?)),
            "dim_value" => Op::DimValue(self.dim()?),
            "bind_sizes" => {
                let symbols = self.symbol_list()?;
                Op::BindSizes { symbols, low: self.dims()?, high: self.dims()? }
            }
            "elementwise" => Op::Elementwise(self.expr()?),
            "reduce" => Op::Reduce { op: self.reduce_op()?, axes: self.numbers()? },
            "cumulate" => Op::Cumulate {
                op: self.reduce_op()?,
                axis: self.number()?,
                exclusive: self.keyword("exclusive"),
                reverse: self.keyword("reverse"),
            },
            "contract" => {
                let (lhs, rhs, out) = (self.numbers()?, self.numbers()?, self.numbers()?);
                self.expect("acc")?;
                Op::Contract(Contract { lhs, rhs, out, acc: self.dtype()?, panel: self.panel()? })
            }
            "conv" => {
                self.expect("kernel")?;
                let kernel = self.numbers()?;
                self.expect("strides")?;
                let strides = self.numbers()?;
                self.expect("pads")?;
                let (pad_lo, pad_hi) = (self.numbers()?, self.numbers()?);
                self.expect("dilations")?;
                let (lhs_dilation, rhs_dilation) = (self.numbers()?, self.numbers()?);
                self.expect("groups")?;
                let groups = self.number()?;
                self.expect("acc")?;
                let acc = self.dtype()?;
                let channels_last = self.keyword("channels_last");
                let panel = self.panel()?;
                let winograd = self.optional("winograd")?;
                Op::Conv(Conv {
                    strides,
                    pad_lo,
                    pad_hi,
                    lhs_dilation,
                    rhs_dilation,
                    groups,
                    channels_last,
                    acc,
                    panel,
                    kernel,
                    winograd,
                })
            }
            "window" => {
                let op = self.reduce_op()?;
                self.expect("sizes")?;
                let sizes = self.numbers()?;
                self.expect("strides")?;
                let strides = self.numbers()?;
                self.expect("dilations")?;
                let dilations = self.numbers()?;
                self.expect("pads")?;
                Op::Window(Window { op, sizes, strides, dilations, pad_lo: self.numbers()?, pad_hi: self.numbers()? })
            }
            "reshape" => Op::Reshape,
            "broadcast" => Op::Broadcast,
            "transpose" => Op::Transpose { perm: self.numbers()? },
            "slice" => Op::Slice { starts: self.dims()?, steps: self.numbers()? },
            "pad" => Op::Pad { lo: self.dims()?, hi: self.dims()? },
            "concat" => Op::Concat { axis: self.number()? },
            "gather" => Op::Gather { coords: self.coords()? },
            "scatter" => {
                let all = [ScatterOp::Set, ScatterOp::Add, ScatterOp::Mul, ScatterOp::Min, ScatterOp::Max];
                let word = self.word()?;
                let Some(op) = all.into_iter().find(|op| crate::tensor::print::scatter_name(*op) == word) else {
                    return self.fail("expected what a scatter does");
                };
                Op::Scatter { coords: self.coords()?, op }
            }
            "sort" => Op::Sort { axis: self.number()?, descending: self.keyword("descending") },
            "external" => Op::External(self.external()?),
            "strings" => {
                let name = self.word()?;
                match StringFunction::ALL.into_iter().find(|f| f.symbol() == name) {
                    Some(function) => Op::Strings(function),
                    None => return self.fail("expected a function on strings"),
                }
            }
            "if" => {
                let sizes = self.symbols("sizes")?;
                Op::If { then: self.new_region()?, otherwise: self.new_region()?, sizes }
            }
            "loop" => {
                let carried = self.number()?;
                let (varying, sizes) = (self.symbols("varying")?, self.symbols("sizes")?);
                Op::Loop { carried, body: self.new_region()?, varying, sizes }
            }
            "composite" => Op::Composite { kind: self.composite()?, body: self.new_region()? },
            "group" => Op::Group { body: self.new_region()? },
            _ => return self.fail("expected an operation"),
        })
    }

    fn external(&mut self) -> Parsed<External> {
        let (symbol, operator) = (self.string()?, self.string()?);
        self.expect("present")?;
        let present: SmallVec<[u8; 4]> = self.numbers()?;
        self.expect("results")?;
        let results = self.list("[", "]", Self::dtype)?.into_iter().collect();
        self.expect("attributes")?;
        let attributes = self.list("[", "]", |p| {
            let name = p.string()?;
            let value = match p.word()? {
                "ints" => Attribute::Ints(p.numbers()?),
                "floats" => Attribute::Floats(p.numbers()?),
                "texts" => Attribute::Texts(p.list("[", "]", Self::string)?),
                _ => return p.fail("expected `ints`, `floats` or `texts`"),
            };
            Ok((name, value))
        })?;
        Ok(External { symbol, operator, present: present.iter().map(|&p| p != 0).collect(), results, attributes })
    }

    fn composite(&mut self) -> Parsed<CompositeKind> {
        Ok(match self.word()? {
            "softmax" => CompositeKind::Softmax { axis: self.number()? },
            "log_softmax" => CompositeKind::LogSoftmax { axis: self.number()? },
            "layer_norm" => CompositeKind::LayerNorm { axis: self.number()?, epsilon: self.number()? },
            "rms_norm" => CompositeKind::RmsNorm { axis: self.number()?, epsilon: self.number()? },
            "recurrent" => {
                let cell = match self.word()? {
                    "rnn" => RecurrentCell::Rnn,
                    "gru" => RecurrentCell::Gru,
                    "lstm" => RecurrentCell::Lstm,
                    _ => return self.fail("expected a cell"),
                };
                CompositeKind::Recurrent { cell }
            }
            "function" => CompositeKind::Function(self.string()?),
            _ => return self.fail("expected a kind of composite"),
        })
    }

    fn expr(&mut self) -> Parsed<ScalarExpr> {
        self.expect("{")?;
        let mut insts = Vec::new();
        loop {
            let word = self.word()?;
            insts.push(match word {
                "arg" => ScalarInst::Arg(self.number()?),
                "index" => ScalarInst::Index(self.number()?),
                "const" => {
                    let dtype = self.dtype()?;
                    ScalarInst::Const(Scalar { dtype, bits: self.number()? })
                }
                "dim" => ScalarInst::Dim(self.dim()?),
                "muladd" => ScalarInst::MulAdd(self.number()?, self.number()?, self.number()?),
                "select" => ScalarInst::Select(self.number()?, self.number()?, self.number()?),
                "cast" => ScalarInst::Cast(self.dtype()?, self.number()?),
                "bitcast" => ScalarInst::Bitcast(self.dtype()?, self.number()?),
                _ => match (UnaryOp::from_name(word), BinaryOp::from_name(word), CmpOp::from_name(word)) {
                    (Some(op), ..) => ScalarInst::Unary(op, self.number()?),
                    (_, Some(op), _) => ScalarInst::Binary(op, self.number()?, self.number()?),
                    (.., Some(op)) => ScalarInst::Compare(op, self.number()?, self.number()?),
                    _ => return self.fail("expected a step of an expression"),
                },
            });
            if !self.take(";") {
                break;
            }
        }
        self.expect("}")?;
        Ok(ScalarExpr { insts })
    }
}
