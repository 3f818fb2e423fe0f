//! Reads the textual form of kernels that [`super::print`] writes. `//` starts a comment.
//!
//! Names of values are free (`%acc`); where all are numbers from 0 on without a gap, as the printer writes them, they
//! are the values' indices, so that printing what was parsed gives the same text. Types of loop parameters are those of
//! their start values. The parser checks syntax and that names are defined; the rest is for [`super::verify`].

mod tiles;
mod words;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use cranelift_entity::{EntityRef, PrimaryMap};
use smallvec::SmallVec;

use super::{
    Access, Address, Block, BlockData, Buffer, BufferData, FmaMode, INDEX, InstData, InstRecord, Kernel, LaneType,
    Locality, LoopKind, Stride, TileKind, Val,
};
use crate::dtype::DType;
use crate::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

/// The text is no kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

type Result<T> = std::result::Result<T, ParseError>;

/// How deeply blocks may nest in a text.
const MAX_DEPTH: usize = 64;

/// Reads one kernel; nothing but comments may follow it.
pub fn parse(text: &str) -> Result<Kernel> {
    let mut parser = Parser::new(text);
    let kernel = parser.kernel()?;
    if parser.peek().is_some() {
        return parser.fail("more text behind the kernel");
    }
    Ok(kernel)
}

/// Reads the kernels that a text consists of.
pub fn parse_all(text: &str) -> Result<Vec<Kernel>> {
    let mut parser = Parser::new(text);
    let mut kernels = Vec::new();
    while parser.peek().is_some() {
        parser.reset();
        kernels.push(parser.kernel()?);
    }
    Ok(kernels)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    names: HashMap<String, Val>,
    buffers: PrimaryMap<Buffer, BufferData>,
    vals: PrimaryMap<Val, LaneType>,
    insts: PrimaryMap<super::Inst, InstRecord>,
    blocks: PrimaryMap<Block, BlockData>,
}

impl<'t> Parser<'t> {
    fn kernel(&mut self) -> Result<Kernel> {
        self.expect("kernel")?;
        let name = self.string()?;
        self.expect("(")?;
        let mut params = Vec::new();
        while !self.eat(")") {
            params.push(self.string()?);
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        self.expect("{")?;
        while self.eat("buffer") {
            self.buffer()?;
        }
        self.expect("body")?;
        self.expect("(")?;
        let mut given = Vec::new();
        while !self.eat(")") {
            given.push(self.new_name()?);
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        let mut body_params = SmallVec::new();
        for name in given {
            body_params.push(self.define(name, INDEX)?);
        }
        let body = self.block(body_params, 0)?;
        self.expect("}")?;
        let mut kernel = Kernel {
            name,
            buffers: std::mem::take(&mut self.buffers),
            params,
            vals: std::mem::take(&mut self.vals),
            insts: std::mem::take(&mut self.insts),
            blocks: std::mem::take(&mut self.blocks),
            body,
        };
        self.renumber(&mut kernel);
        Ok(kernel)
    }

    fn buffer(&mut self) -> Result<()> {
        let number = self.buffer_number()?;
        if number != self.buffers.len() {
            return self.fail("buffers are numbered in order");
        }
        let name = self.string()?;
        self.expect(":")?;
        let dtype = self.dtype()?;
        let len = if self.eat("[") {
            let len = self.number()?;
            self.expect("]")?;
            Some(len)
        } else {
            None
        };
        let access = match self.word() {
            "read" => Access::Read,
            "write" => Access::Write,
            "scratch" => Access::Scratch,
            other => return self.fail(format!("`{other}` is no access")),
        };
        let in_place = if self.eat("in_place") { Some(Buffer::new(self.buffer_number()?)) } else { None };
        self.buffers.push(BufferData { name, dtype, access, len, in_place });
        Ok(())
    }

    fn buffer_number(&mut self) -> Result<usize> {
        self.expect("@")?;
        self.number::<u32>().map(|n| n as usize)
    }

    fn buffer_ref(&mut self) -> Result<Buffer> {
        let number = self.buffer_number()?;
        if number < self.buffers.len() {
            Ok(Buffer::new(number))
        } else {
            self.fail(format!("there is no buffer @{number}"))
        }
    }

    fn dtype(&mut self) -> Result<DType> {
        let word = self.word();
        word.parse().or_else(|_| self.fail(format!("`{word}` is no element type")))
    }

    fn lane_type(&mut self) -> Result<LaneType> {
        let word = self.word();
        if let Ok(dtype) = word.parse() {
            return Ok(LaneType::scalar(dtype));
        }
        let parts = word.rsplit_once('x').and_then(|(d, n)| Some((d.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((dtype, lanes)) => Ok(LaneType { dtype, lanes }),
            None => self.fail(format!("`{word}` is no type")),
        }
    }

    fn new_name(&mut self) -> Result<&'t str> {
        self.expect("%")?;
        let name = self.word();
        if name.is_empty() { self.fail("expected a name") } else { Ok(name) }
    }

    fn define(&mut self, name: &str, ty: LaneType) -> Result<Val> {
        let val = self.vals.push(ty);
        match self.names.insert(name.to_owned(), val) {
            None => Ok(val),
            Some(_) => self.fail(format!("%{name} is defined twice")),
        }
    }

    fn val(&mut self) -> Result<Val> {
        let name = self.new_name()?;
        match self.names.get(name) {
            Some(&val) => Ok(val),
            None => self.fail(format!("%{name} is not defined before")),
        }
    }

    fn next_val(&mut self) -> Result<Val> {
        self.expect(",")?;
        self.val()
    }

    fn count(&mut self) -> Result<Option<Val>> {
        if self.eat("first") { self.val().map(Some) } else { Ok(None) }
    }

    fn address(&mut self) -> Result<Address> {
        self.expect("[")?;
        let mut address = Address::default();
        loop {
            if self.peek() == Some('%') {
                let val = self.val()?;
                let stride = match self.eat("*") {
                    false => Stride::Const(1),
                    true if self.peek() == Some('%') => Stride::Value(self.val()?),
                    true => Stride::Const(self.number()?),
                };
                address.terms.push((val, stride));
            } else {
                let offset: i64 = self.number()?;
                address.offset = address.offset.wrapping_add(offset);
            }
            if !self.eat("+") {
                self.expect("]")?;
                return Ok(address);
            }
        }
    }

    fn block(&mut self, params: SmallVec<[Val; 8]>, depth: usize) -> Result<Block> {
        if depth > MAX_DEPTH {
            return self.fail("blocks nest too deeply");
        }
        self.expect("{")?;
        let block = self.blocks.push(BlockData { params, insts: Vec::new() });
        while !self.eat("}") {
            if self.peek().is_none() {
                return self.fail("a block has no end");
            }
            let record = self.inst(depth)?;
            let inst = self.insts.push(record);
            self.blocks[block].insts.push(inst);
        }
        Ok(block)
    }

    fn inst(&mut self, depth: usize) -> Result<InstRecord> {
        let mut results = Vec::new();
        while self.peek() == Some('%') {
            let name = self.new_name()?;
            self.expect(":")?;
            results.push((name, self.lane_type()?));
            if !self.eat(",") {
                self.expect("=")?;
                break;
            }
        }
        let word = self.word();
        let suffix = if self.eat(".") { self.word() } else { "" };
        let data = self.operation(word, suffix, results.first().map(|r| r.1), depth)?;
        let mut vals = SmallVec::new();
        for (name, ty) in results {
            vals.push(self.define(name, ty)?);
        }
        Ok(InstRecord { data, results: vals })
    }

    fn operation(&mut self, word: &str, suffix: &str, ty: Option<LaneType>, depth: usize) -> Result<InstData> {
        if suffix.is_empty() {
            if let Some(op) = UnaryOp::from_name(word) {
                return Ok(InstData::Unary(op, self.val()?));
            }
            if let Some(op) = BinaryOp::from_name(word) {
                return Ok(InstData::Binary(op, self.val()?, self.next_val()?));
            }
        }
        Ok(match (word, suffix) {
            ("const", "") => {
                let Some(ty) = ty else { return self.fail("a constant has a result") };
                InstData::Const(self.scalar(ty.dtype)?)
            }
            ("param", "") => InstData::Param(self.number()?),
            ("iota", "") => InstData::Iota,
            ("compare", _) => match CmpOp::from_name(suffix) {
                Some(op) => InstData::Compare(op, self.val()?, self.next_val()?),
                None => return self.fail(format!("`{suffix}` is no comparison")),
            },
            ("select", "") => InstData::Select(self.val()?, self.next_val()?, self.next_val()?),
            ("mul_add", "fused" | "separate") => {
                let mode = if suffix == "fused" { FmaMode::Fused } else { FmaMode::Separate };
                InstData::MulAdd { a: self.val()?, b: self.next_val()?, acc: self.next_val()?, mode }
            }
            ("dot4", "i8i8" | "i8u8" | "u8i8" | "u8u8") => {
                let types = [&suffix[..2], &suffix[2..]].map(|t| if t == "i8" { DType::I8 } else { DType::U8 });
                InstData::Dot4 { a: self.val()?, b: self.next_val()?, acc: self.next_val()?, types }
            }
            ("cast", "") => InstData::Cast(self.val()?),
            ("bitcast", "") => InstData::Bitcast(self.val()?),
            ("splat", "") => InstData::Splat(self.val()?),
            ("reduce", _) => match BinaryOp::from_name(suffix) {
                Some(op) => InstData::ReduceLanes(op, self.val()?),
                None => return self.fail(format!("`{suffix}` is no operator")),
            },
            ("extract", "") => {
                let val = self.val()?;
                self.expect(",")?;
                InstData::Extract(val, self.number()?)
            }
            ("shuffle", "") => {
                let (a, b) = (self.val()?, self.next_val()?);
                self.expect(",")?;
                self.expect("[")?;
                let mut lanes = Vec::new();
                while !self.eat("]") {
                    lanes.push(self.number()?);
                    if !self.eat(",") {
                        self.expect("]")?;
                        break;
                    }
                }
                InstData::Shuffle(a, b, lanes.into())
            }
            ("load", "") => {
                InstData::Load { buffer: self.buffer_ref()?, address: self.address()?, count: self.count()? }
            }
            ("load_splat", "") => InstData::LoadSplat { buffer: self.buffer_ref()?, address: self.address()? },
            ("gather", "") => InstData::Gather {
                buffer: self.buffer_ref()?,
                address: self.address()?,
                indices: self.next_val()?,
                count: self.count()?,
            },
            ("store", "") => InstData::Store {
                buffer: self.buffer_ref()?,
                address: self.address()?,
                value: self.next_val()?,
                count: self.count()?,
            },
            ("scatter", "") => InstData::Scatter {
                buffer: self.buffer_ref()?,
                address: self.address()?,
                indices: self.next_val()?,
                value: self.next_val()?,
                count: self.count()?,
            },
            ("prefetch", "l1" | "l2") => InstData::Prefetch {
                locality: if suffix == "l1" { Locality::L1 } else { Locality::L2 },
                buffer: self.buffer_ref()?,
                address: self.address()?,
            },
            ("for", "") => self.for_loop(depth)?,
            ("while", "") => {
                let (params, init) = self.carried(SmallVec::new())?;
                InstData::While { init: init.into(), body: self.block(params, depth + 1)? }
            }
            ("if", "") => {
                let cond = self.val()?;
                let then = self.block(SmallVec::new(), depth + 1)?;
                self.expect("else")?;
                InstData::If { cond, then, otherwise: self.block(SmallVec::new(), depth + 1)? }
            }
            ("tile", _) => match TileKind::from_name(suffix) {
                Some(kind) => self.tile(kind, depth)?,
                None => return self.fail(format!("`{suffix}` is no kind of tile")),
            },
            ("attend", _) => match TileKind::from_name(suffix) {
                Some(kind) => self.attend(kind, depth)?,
                None => return self.fail(format!("`{suffix}` is no kind of tile")),
            },
            ("yield", "") => {
                let mut vals = SmallVec::new();
                if self.peek() == Some('%') {
                    vals.push(self.val()?);
                    while self.eat(",") {
                        vals.push(self.val()?);
                    }
                }
                InstData::Yield(vals)
            }
            _ => {
                return self
                    .fail(format!("`{word}{}{suffix}` is no operation", if suffix.is_empty() { "" } else { "." }));
            }
        })
    }

    fn for_loop(&mut self, depth: usize) -> Result<InstData> {
        let kind = self.word();
        let kind = match kind {
            "serial" => LoopKind::Serial,
            "unrolled" => LoopKind::Unrolled,
            "gpu_block" | "gpu_thread" => {
                self.expect(".")?;
                let axis = self.number()?;
                if kind == "gpu_block" { LoopKind::GpuBlock(axis) } else { LoopKind::GpuThread(axis) }
            }
            other => return self.fail(format!("`{other}` is no kind of loop")),
        };
        let index = self.new_name()?;
        self.expect("in")?;
        let lo = self.val()?;
        self.expect("..")?;
        let hi = self.val()?;
        self.expect("step")?;
        let step = self.number()?;
        let index = self.define(index, INDEX)?;
        let (params, init) = self.carried(SmallVec::from_slice(&[index]))?;
        Ok(InstData::For { kind, lo, hi, step, init: init.into(), body: self.block(params, depth + 1)? })
    }

    /// `carry (%param = %init, ...)`, if it is there.
    fn carried(&mut self, mut params: SmallVec<[Val; 8]>) -> Result<(SmallVec<[Val; 8]>, Vec<Val>)> {
        let mut init = Vec::new();
        let mut names = Vec::new();
        if self.eat("carry") {
            self.expect("(")?;
            while !self.eat(")") {
                names.push(self.new_name()?);
                self.expect("=")?;
                init.push(self.val()?);
                if !self.eat(",") {
                    self.expect(")")?;
                    break;
                }
            }
        }
        for (name, &init) in names.iter().zip(&init) {
            let ty = self.vals[init];
            params.push(self.define(name, ty)?);
        }
        Ok((params, init))
    }

    fn scalar(&mut self, dtype: DType) -> Result<Scalar> {
        let text = self.run(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.'));
        let bits = if let Some(hex) = text.strip_prefix("0x") {
            u64::from_str_radix(hex, 16).ok()
        } else {
            match dtype {
                DType::F32 => text.parse::<f32>().ok().map(|v| u64::from(v.to_bits())),
                DType::F64 => text.parse::<f64>().ok().map(f64::to_bits),
                DType::Bool => text.parse::<bool>().ok().map(u64::from),
                d if d.is_int() => {
                    let (least, greatest) = crate::evaluate::int_range(d);
                    let value = text.parse::<i128>().ok().filter(|v| (least..=greatest).contains(v));
                    value.map(|v| v as u64 & (u64::MAX >> (64 - d.bits())))
                }
                _ => None,
            }
        };
        match bits {
            Some(bits) => Ok(Scalar { dtype, bits }),
            None => self.fail(format!("`{text}` is no constant of type {dtype}")),
        }
    }

    /// Gives the values the numbers that the text calls them by, if these are all there.
    fn renumber(&self, kernel: &mut Kernel) {
        let count = kernel.vals.len();
        let mut order: Vec<Option<Val>> = vec![None; count];
        for (name, &val) in &self.names {
            let canonical = name.parse::<usize>().ok().filter(|n| *n < count && n.to_string() == *name);
            match canonical {
                Some(n) => order[n] = Some(val),
                None => return,
            }
        }
        let Some(order): Option<Vec<Val>> = order.into_iter().collect() else { return };
        let mut new = vec![Val::new(0); count];
        order.iter().enumerate().for_each(|(n, old)| new[old.index()] = Val::new(n));
        let map = |v: Val| new[v.index()];
        kernel.vals = order.iter().map(|&old| kernel.vals[old]).collect();
        for record in kernel.insts.values_mut() {
            record.data.map_operands(map);
            record.results.iter_mut().for_each(|v| *v = map(*v));
        }
        for block in kernel.blocks.values_mut() {
            block.params.iter_mut().for_each(|v| *v = map(*v));
        }
    }
}
