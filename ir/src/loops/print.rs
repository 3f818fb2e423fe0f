//! The textual form of kernels; [`super::parse`] reads it back.
//!
//! ```text
//! kernel "scale" ("n") {
//!   buffer @0 "x": f32 read
//!   buffer @1 "y": f32[1024] write in_place @0
//!   body (%0, %1, %2) {
//!     %3: i64 = param 0
//!     %4: f32x8 = const 2.0
//!     for serial %5 in %0..%1 step 1 {
//!       %6: f32x8 = load @0[%5*8] first %3
//!       %7: f32x8 = mul %6, %4
//!       store @1[%5*8], %7 first %3
//!       yield
//!     }
//!     yield
//!   }
//! }
//! ```
//! A tile (see [`super::tile`]) has the digits of rows and depths as `(size:stride, ...)`:
//! ```text
//! tile.f16 64x64 band 64 depth %4 sums @3 pitch 72 lhs @0[0] rows %5..%6 (0:32) depth (0:1)
//!   rhs @1[%7*512] rows %5..%8 (0:512, 16:1) depth (0:16) each %9 {
//! ```
//! on one line. A loop that carries values is `%9: f32 = for serial %5 in %0..%1 step 1 carry (%8 = %3) {`.

use std::collections::HashMap;
use std::fmt::{self, Write};

use cranelift_entity::EntityRef;

use super::{
    Access, Address, Attend, Block, FmaMode, Inst, InstData, Kernel, LaneType, Locality, LoopKind, Stride, Tile,
    TileOperand, Val,
};
use crate::dtype::DType;
use crate::scalar::Scalar;

impl fmt::Display for LaneType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dtype)?;
        if self.lanes == 1 { Ok(()) } else { write!(f, "x{}", self.lanes) }
    }
}

/// The value without its type: a decimal number, `true` or `false`, or the representation as `0x...` for a float that
/// has no short decimal.
pub fn scalar_text(scalar: Scalar) -> String {
    let Scalar { dtype, bits } = scalar;
    match dtype {
        DType::F32 if f32::from_bits(bits as u32).is_finite() => format!("{:?}", f32::from_bits(bits as u32)),
        DType::F64 if f64::from_bits(bits).is_finite() => format!("{:?}", f64::from_bits(bits)),
        DType::Bool => format!("{}", bits != 0),
        d if d.is_int() => format!("{}", crate::evaluate::int_value(d, bits)),
        _ => format!("{bits:#x}"),
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &HashMap::new())
    }
}

/// A kernel's text with comments below some of its instructions.
pub fn annotated(kernel: &Kernel, notes: &HashMap<Inst, Vec<String>>) -> String {
    let mut text = String::new();
    kernel.write(&mut text, notes).expect("writing to a string does not fail");
    text
}

impl Kernel {
    fn write(&self, f: &mut impl Write, notes: &HashMap<Inst, Vec<String>>) -> fmt::Result {
        write!(f, "kernel {:?} (", self.name)?;
        for (i, name) in self.params.iter().enumerate() {
            write!(f, "{}{name:?}", if i > 0 { ", " } else { "" })?;
        }
        writeln!(f, ") {{")?;
        for (buffer, data) in &self.buffers {
            write!(f, "  buffer {buffer} {:?}: {}", data.name, data.dtype)?;
            if let Some(len) = data.len {
                write!(f, "[{len}]")?;
            }
            f.write_str(match data.access {
                Access::Read => " read",
                Access::Write => " write",
                Access::Scratch => " scratch",
            })?;
            if let Some(read) = data.in_place {
                write!(f, " in_place {read}")?;
            }
            writeln!(f)?;
        }
        write!(f, "  body (")?;
        write_list(f, &self.blocks[self.body].params)?;
        writeln!(f, ") {{")?;
        write_block(f, self, self.body, 2, notes)?;
        writeln!(f, "  }}\n}}")
    }
}

/// One instruction on one line, without the blocks that it owns.
pub fn inst_text(kernel: &Kernel, inst: Inst) -> String {
    let mut text = String::new();
    write_head(&mut text, kernel, inst).expect("writing to a string does not fail");
    text
}

fn write_block(
    f: &mut impl Write,
    kernel: &Kernel,
    block: Block,
    depth: usize,
    notes: &HashMap<Inst, Vec<String>>,
) -> fmt::Result {
    for &inst in &kernel.blocks[block].insts {
        write!(f, "{:1$}", "", depth * 2)?;
        write_head(f, kernel, inst)?;
        writeln!(f)?;
        for note in notes.get(&inst).into_iter().flatten() {
            writeln!(f, "{:1$}// {note}", "", depth * 2)?;
        }
        for (i, inner) in kernel.insts[inst].data.blocks().into_iter().enumerate() {
            if i > 0 {
                let attend = matches!(kernel.insts[inst].data, InstData::Attend(_));
                writeln!(f, "{:2$}}} {} {{", "", if attend { "then" } else { "else" }, depth * 2)?;
            }
            write_block(f, kernel, inner, depth + 1, notes)?;
        }
        if !kernel.insts[inst].data.blocks().is_empty() {
            writeln!(f, "{:1$}}}", "", depth * 2)?;
        }
    }
    Ok(())
}

fn write_list(f: &mut impl Write, vals: &[Val]) -> fmt::Result {
    for (i, val) in vals.iter().enumerate() {
        write!(f, "{}{val}", if i > 0 { ", " } else { "" })?;
    }
    Ok(())
}

fn write_carried(f: &mut impl Write, params: &[Val], init: &[Val]) -> fmt::Result {
    if init.is_empty() {
        return Ok(());
    }
    write!(f, " carry (")?;
    for (i, (param, init)) in params.iter().zip(init).enumerate() {
        write!(f, "{}{param} = {init}", if i > 0 { ", " } else { "" })?;
    }
    write!(f, ")")
}

fn write_address(f: &mut impl Write, address: &Address) -> fmt::Result {
    write!(f, "[")?;
    for (i, (val, stride)) in address.terms.iter().enumerate() {
        write!(f, "{}{val}", if i > 0 { " + " } else { "" })?;
        match stride {
            Stride::Const(1) => {}
            Stride::Const(c) => write!(f, "*{c}")?,
            Stride::Value(v) => write!(f, "*{v}")?,
        }
    }
    if address.terms.is_empty() {
        write!(f, "{}", address.offset)?;
    } else if address.offset != 0 {
        write!(f, " + {}", address.offset)?;
    }
    write!(f, "]")
}

fn write_tile(f: &mut impl Write, tile: &Tile) -> fmt::Result {
    write!(f, "tile.{} {}x{} band {}", tile.kind.name(), tile.rows, tile.cols, tile.band)?;
    write!(f, " depth {} sums {} pitch {}", tile.depth, tile.sums, tile.pitch)?;
    for (name, operand) in ["lhs", "rhs"].into_iter().zip(tile.operands()) {
        write_operand(f, name, operand)?;
    }
    Ok(())
}

fn write_attend(f: &mut impl Write, attend: &Attend) -> fmt::Result {
    write!(f, "attend.{} {} depth {} width {}", attend.kind.name(), attend.rows, attend.depth, attend.width)?;
    write!(f, " sums {} pitch {}", attend.sums, attend.pitch)?;
    for (name, operand) in ["queries", "keys", "values"].into_iter().zip(attend.operands()) {
        write_operand(f, name, operand)?;
    }
    Ok(())
}

fn write_operand(f: &mut impl Write, name: &str, operand: &TileOperand) -> fmt::Result {
    write!(f, " {name} {}", operand.buffer)?;
    write_address(f, &operand.address)?;
    write!(f, " rows {}..{} ", operand.first, operand.bound)?;
    for (between, digits) in [("", &operand.rows), (" depth ", &operand.depth)] {
        write!(f, "{between}(")?;
        for (i, digit) in digits.iter().enumerate() {
            write!(f, "{}{}:", if i > 0 { ", " } else { "" }, digit.size)?;
            match digit.stride {
                Stride::Const(c) => write!(f, "{c}")?,
                Stride::Value(v) => write!(f, "{v}")?,
            }
        }
        write!(f, ")")?;
    }
    Ok(())
}

fn write_count(f: &mut impl Write, count: &Option<Val>) -> fmt::Result {
    count.map_or(Ok(()), |c| write!(f, " first {c}"))
}

fn write_head(f: &mut impl Write, kernel: &Kernel, inst: Inst) -> fmt::Result {
    let record = &kernel.insts[inst];
    for (i, &val) in record.results.iter().enumerate() {
        let sep = if i > 0 { ", " } else { "" };
        match kernel.vals.get(val) {
            Some(ty) => write!(f, "{sep}{val}: {ty}")?,
            None => write!(f, "{sep}{val}: ?")?,
        }
    }
    if !record.results.is_empty() {
        write!(f, " = ")?;
    }
    let params = |block: Block| kernel.blocks.get(block).map_or(&[][..], |b| &b.params[..]);
    match &record.data {
        InstData::Const(c) => write!(f, "const {}", scalar_text(*c)),
        InstData::Param(n) => write!(f, "param {n}"),
        InstData::Iota => write!(f, "iota"),
        InstData::Unary(op, a) => write!(f, "{} {a}", op.name()),
        InstData::Binary(op, a, b) => write!(f, "{} {a}, {b}", op.name()),
        InstData::Compare(op, a, b) => write!(f, "compare.{} {a}, {b}", op.name()),
        InstData::Select(c, a, b) => write!(f, "select {c}, {a}, {b}"),
        InstData::MulAdd { a, b, acc, mode } => {
            let mode = match mode {
                FmaMode::Fused => "fused",
                FmaMode::Separate => "separate",
            };
            write!(f, "mul_add.{mode} {a}, {b}, {acc}")
        }
        InstData::Dot4 { a, b, acc, types: [x, y] } => write!(f, "dot4.{x}{y} {a}, {b}, {acc}"),
        InstData::Cast(a) => write!(f, "cast {a}"),
        InstData::Bitcast(a) => write!(f, "bitcast {a}"),
        InstData::Splat(a) => write!(f, "splat {a}"),
        InstData::ReduceLanes(op, a) => write!(f, "reduce.{} {a}", op.name()),
        InstData::Extract(a, lane) => write!(f, "extract {a}, {lane}"),
        InstData::Shuffle(a, b, lanes) => write!(f, "shuffle {a}, {b}, {lanes:?}"),
        InstData::Load { buffer, address, count } => {
            write!(f, "load {buffer}")?;
            write_address(f, address)?;
            write_count(f, count)
        }
        InstData::LoadSplat { buffer, address } => {
            write!(f, "load_splat {buffer}")?;
            write_address(f, address)
        }
        InstData::Gather { buffer, address, indices, count } => {
            write!(f, "gather {buffer}")?;
            write_address(f, address)?;
            write!(f, ", {indices}")?;
            write_count(f, count)
        }
        InstData::Store { buffer, address, value, count } => {
            write!(f, "store {buffer}")?;
            write_address(f, address)?;
            write!(f, ", {value}")?;
            write_count(f, count)
        }
        InstData::Scatter { buffer, address, indices, value, count } => {
            write!(f, "scatter {buffer}")?;
            write_address(f, address)?;
            write!(f, ", {indices}, {value}")?;
            write_count(f, count)
        }
        InstData::Prefetch { buffer, address, locality } => {
            let locality = match locality {
                Locality::L1 => "l1",
                Locality::L2 => "l2",
            };
            write!(f, "prefetch.{locality} {buffer}")?;
            write_address(f, address)
        }
        InstData::For { kind, lo, hi, step, init, body } => {
            write!(f, "for ")?;
            match kind {
                LoopKind::Serial => write!(f, "serial")?,
                LoopKind::Unrolled => write!(f, "unrolled")?,
                LoopKind::GpuBlock(axis) => write!(f, "gpu_block.{axis}")?,
                LoopKind::GpuThread(axis) => write!(f, "gpu_thread.{axis}")?,
            }
            let params = params(*body);
            let index = params.first().copied().unwrap_or(Val::new(0));
            write!(f, " {index} in {lo}..{hi} step {step}")?;
            write_carried(f, params.get(1..).unwrap_or(&[]), init)?;
            write!(f, " {{")
        }
        InstData::While { init, body } => {
            write!(f, "while")?;
            write_carried(f, params(*body), init)?;
            write!(f, " {{")
        }
        InstData::If { cond, .. } => write!(f, "if {cond} {{"),
        InstData::Tile(tile) => {
            write_tile(f, tile)?;
            write!(f, " each {} {{", params(tile.body).first().copied().unwrap_or(Val::new(0)))
        }
        InstData::Attend(attend) => {
            write_attend(f, attend)?;
            write!(f, " score (")?;
            write_list(f, params(attend.score))?;
            write!(f, ") {{")
        }
        InstData::Yield(vals) => {
            write!(f, "yield")?;
            if !vals.is_empty() {
                write!(f, " ")?;
            }
            write_list(f, vals)
        }
    }
}
