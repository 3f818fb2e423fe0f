//! Arithmetic, comparisons, selections and conversions, register by register.
//!
//! Floats round to nearest, once for each operation that the Loop IR names: products and sums are never contracted, but
//! where it says so. Types of 8 and 16 bits compute with 32 and are extended again after each operation that may leave
//! their range.

use std::collections::HashMap;

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{LaneType, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

use super::kernel::{Emit, class_of, ins};
use super::text::{Class, Reg};

/// `s32`, `u64`, `f32`: the type that an operation computes with.
fn kind(dtype: DType) -> &'static str {
    match (dtype, dtype.bits()) {
        (DType::F32, _) => "f32",
        (DType::F64, _) => "f64",
        (_, 64) if dtype.is_signed_int() => "s64",
        (_, 64) => "u64",
        _ if dtype.is_signed_int() => "s32",
        _ => "u32",
    }
}

fn is_short(dtype: DType) -> bool {
    dtype != DType::Bool && dtype.bits() < 32
}

impl Emit<'_> {
    /// A constant in a register.
    pub(super) fn constant(&mut self, c: Scalar) -> Reg {
        let d = self.reg(class_of(c.dtype));
        match d.class {
            Class::Pred => ins!(self, "setp.ne.u32 {d}, {}, 0", c.bits & 1),
            Class::B64 => ins!(self, "mov.b64 {d}, 0x{:016X}", c.bits),
            Class::B16 | Class::B32 => {
                // Extended by its signedness, as all short types are.
                let bits = if c.dtype.is_signed_int() { c.as_i64().expect("an integer") as u32 } else { c.bits as u32 };
                ins!(self, "mov.b32 {d}, 0x{bits:08X}");
            }
        }
        d
    }

    /// Extends what an operation on a short type left.
    fn extended(&mut self, dtype: DType, r: Reg) -> Reg {
        if !is_short(dtype) {
            return r;
        }
        let d = self.reg(Class::B32);
        let (letter, bits) = (if dtype.is_signed_int() { 's' } else { 'u' }, dtype.bits());
        ins!(self, "cvt.{letter}32.{letter}{bits} {d}, {r}");
        d
    }

    /// Computes for each slot; slots with equal operands share a result.
    fn slots(&mut self, operands: &[Val], mut f: impl FnMut(&mut Self, &[Reg]) -> Reg) -> Vec<Reg> {
        let lists: Vec<Box<[Reg]>> = operands.iter().map(|&v| self.get(v)).collect();
        let mut done: HashMap<Vec<Reg>, Reg> = HashMap::new();
        (0..lists[0].len())
            .map(|slot| {
                let args: Vec<Reg> = lists.iter().map(|list| list[slot]).collect();
                if let Some(&r) = done.get(&args) {
                    return r;
                }
                let r = f(self, &args);
                done.insert(args, r);
                r
            })
            .collect()
    }

    pub(super) fn unary(&mut self, op: UnaryOp, a: Val) -> Vec<Reg> {
        let dtype = self.ty(a).dtype;
        self.slots(&[a], |this, args| this.unary_one(op, dtype, args[0]))
    }

    fn unary_one(&mut self, op: UnaryOp, dtype: DType, a: Reg) -> Reg {
        let (d, ty) = (self.reg(class_of(dtype)), kind(dtype));
        let float = dtype.is_float();
        match op {
            UnaryOp::Neg if float => ins!(self, "neg.{ty} {d}, {a}"),
            UnaryOp::Neg => ins!(self, "neg.s{} {d}, {a}", &ty[1..]),
            UnaryOp::Abs if float || dtype.is_signed_int() => ins!(self, "abs.{ty} {d}, {a}"),
            UnaryOp::Abs => return a,
            UnaryOp::Not => ins!(self, "not.{} {d}, {a}", d.class.suffix()),
            UnaryOp::Sqrt => ins!(self, "sqrt.rn.{ty} {d}, {a}"),
            UnaryOp::Floor => ins!(self, "cvt.rmi.{ty}.{ty} {d}, {a}"),
            UnaryOp::Ceil => ins!(self, "cvt.rpi.{ty}.{ty} {d}, {a}"),
            UnaryOp::Trunc => ins!(self, "cvt.rzi.{ty}.{ty} {d}, {a}"),
            UnaryOp::Round => ins!(self, "cvt.rni.{ty}.{ty} {d}, {a}"),
            other => panic!("legalisation removes {}", other.name()),
        }
        self.extended(dtype, d)
    }

    pub(super) fn binary(&mut self, op: BinaryOp, a: Val, b: Val) -> Vec<Reg> {
        let dtype = self.ty(a).dtype;
        let integer = !dtype.is_float() && dtype != DType::Bool;
        if let (BinaryOp::Div | BinaryOp::Rem, true) = (op, integer) {
            let divisor = self.constants[b].and_then(Scalar::as_i64);
            let small = self.ty(a).lanes == 1 && dtype == DType::I64;
            let small = small && self.facts[a].is_u32() && self.facts[b].is_u32();
            return self.slots(&[a, b], |this, args| this.divide(op, dtype, args, divisor, small));
        }
        self.slots(&[a, b], |this, args| this.binary_one(op, dtype, args[0], args[1]))
    }

    /// A division that gives 0 by 0, and the least number for itself by -1. `divisor` is what is divided by, if it is
    /// known; `small` says that both are unsigned numbers of 32 bits.
    fn divide(&mut self, op: BinaryOp, dtype: DType, args: &[Reg], divisor: Option<i64>, small: bool) -> Reg {
        let name = if op == BinaryOp::Div { "div" } else { "rem" };
        let (class, ty) = (class_of(dtype), kind(dtype));
        let (a, b) = (args[0], args[1]);
        let positive = divisor.filter(|&d| d > 0);
        let d = self.reg(class);
        if small {
            let (x, q) = (self.reg(Class::B32), self.reg(Class::B32));
            ins!(self, "cvt.u32.u64 {x}, {a}");
            match positive {
                Some(n) => ins!(self, "{name}.u32 {q}, {x}, {n}"),
                None => {
                    let (y, zero) = (self.reg(Class::B32), self.reg(Class::Pred));
                    ins!(self, "cvt.u32.u64 {y}, {b}");
                    ins!(self, "setp.eq.u32 {zero}, {y}, 0");
                    ins!(self, "{name}.u32 {q}, {x}, {y}");
                    ins!(self, "selp.b32 {q}, 0, {q}, {zero}");
                }
            }
            ins!(self, "cvt.u64.u32 {d}, {q}");
            return d;
        }
        if let Some(n) = positive {
            ins!(self, "{name}.{ty} {d}, {a}, {n}");
            return d;
        }
        let suffix = class.suffix();
        let (zero, safe) = (self.reg(Class::Pred), self.reg(class));
        ins!(self, "setp.eq.{suffix} {zero}, {b}, 0");
        ins!(self, "selp.{suffix} {safe}, 1, {b}, {zero}");
        if dtype.is_signed_int() {
            // By -1 is by 1 and a negation, which wraps.
            let (minus, negated, divided) = (self.reg(Class::Pred), self.reg(class), self.reg(class));
            ins!(self, "setp.eq.{suffix} {minus}, {b}, -1");
            ins!(self, "selp.{suffix} {safe}, 1, {safe}, {minus}");
            ins!(self, "{name}.{ty} {divided}, {a}, {safe}");
            if op == BinaryOp::Div {
                ins!(self, "neg.{ty} {negated}, {a}");
            } else {
                ins!(self, "mov.{suffix} {negated}, 0");
            }
            ins!(self, "selp.{suffix} {d}, {negated}, {divided}, {minus}");
        } else {
            ins!(self, "{name}.{ty} {d}, {a}, {safe}");
        }
        let result = self.reg(class);
        ins!(self, "selp.{suffix} {result}, 0, {d}, {zero}");
        self.extended(dtype, result)
    }

    /// One operation of two registers; no integer division.
    pub(super) fn binary_one(&mut self, op: BinaryOp, dtype: DType, a: Reg, b: Reg) -> Reg {
        let class = class_of(dtype);
        let (d, ty, suffix) = (self.reg(class), kind(dtype), class.suffix());
        let float = dtype.is_float();
        match op {
            BinaryOp::And => ins!(self, "and.{suffix} {d}, {a}, {b}"),
            BinaryOp::Or => ins!(self, "or.{suffix} {d}, {a}, {b}"),
            BinaryOp::Xor => ins!(self, "xor.{suffix} {d}, {a}, {b}"),
            BinaryOp::Min if class == Class::Pred => ins!(self, "and.pred {d}, {a}, {b}"),
            BinaryOp::Max if class == Class::Pred => ins!(self, "or.pred {d}, {a}, {b}"),
            BinaryOp::Add if float => ins!(self, "add.rn.{ty} {d}, {a}, {b}"),
            BinaryOp::Sub if float => ins!(self, "sub.rn.{ty} {d}, {a}, {b}"),
            BinaryOp::Mul if float => ins!(self, "mul.rn.{ty} {d}, {a}, {b}"),
            BinaryOp::Div if float => ins!(self, "div.rn.{ty} {d}, {a}, {b}"),
            BinaryOp::Add => ins!(self, "add.{ty} {d}, {a}, {b}"),
            BinaryOp::Sub => ins!(self, "sub.{ty} {d}, {a}, {b}"),
            BinaryOp::Mul => ins!(self, "mul.lo.{ty} {d}, {a}, {b}"),
            BinaryOp::Min | BinaryOp::Max => {
                let name = if op == BinaryOp::Min { "min" } else { "max" };
                match dtype {
                    DType::F32 => ins!(self, "{name}.NaN.f32 {d}, {a}, {b}"),
                    DType::F64 => {
                        let (nan, least) = (self.reg(Class::Pred), self.reg(Class::B64));
                        ins!(self, "setp.nan.f64 {nan}, {a}, {b}");
                        ins!(self, "{name}.f64 {least}, {a}, {b}");
                        ins!(self, "selp.b64 {d}, 0x7FF8000000000000, {least}, {nan}");
                    }
                    _ => ins!(self, "{name}.{ty} {d}, {a}, {b}"),
                }
                return d;
            }
            BinaryOp::Shl | BinaryOp::Shr => {
                let by = if class == Class::B64 {
                    let r = self.reg(Class::B32);
                    ins!(self, "cvt.u32.u64 {r}, {b}");
                    r
                } else {
                    b
                };
                match op {
                    BinaryOp::Shl => ins!(self, "shl.{suffix} {d}, {a}, {by}"),
                    _ => ins!(self, "shr.{ty} {d}, {a}, {by}"),
                }
            }
            other => panic!("legalisation leaves no {} of {dtype}", other.name()),
        }
        self.extended(dtype, d)
    }

    pub(super) fn compare(&mut self, op: CmpOp, a: Val, b: Val) -> Vec<Reg> {
        let dtype = self.ty(a).dtype;
        let name = match op {
            // A NaN is different from everything.
            CmpOp::Ne if dtype.is_float() => "neu",
            CmpOp::Eq => "eq",
            CmpOp::Ne => "ne",
            CmpOp::Lt => "lt",
            CmpOp::Le => "le",
            CmpOp::Gt => "gt",
            CmpOp::Ge => "ge",
        };
        self.slots(&[a, b], |this, args| {
            let p = this.reg(Class::Pred);
            ins!(this, "setp.{name}.{} {p}, {}, {}", kind(dtype), args[0], args[1]);
            p
        })
    }

    pub(super) fn select(&mut self, mask: Val, a: Val, b: Val) -> Vec<Reg> {
        self.slots(&[mask, a, b], |this, args| this.select_one(args[0], args[1], args[2]))
    }

    pub(super) fn select_one(&mut self, mask: Reg, a: Reg, b: Reg) -> Reg {
        let d = self.reg(a.class);
        assert_ne!(d.class, Class::Pred, "legalisation leaves no selections of masks");
        ins!(self, "selp.{} {d}, {a}, {b}, {mask}", d.class.suffix());
        d
    }

    pub(super) fn mul_add(&mut self, a: Val, b: Val, acc: Val, fused: bool) -> Vec<Reg> {
        let dtype = self.ty(acc).dtype;
        self.slots(&[a, b, acc], |this, args| {
            let (d, ty) = (this.reg(class_of(dtype)), kind(dtype));
            let (a, b, acc) = (args[0], args[1], args[2]);
            if !dtype.is_float() {
                ins!(this, "mad.lo.{ty} {d}, {a}, {b}, {acc}");
                return this.extended(dtype, d);
            }
            if fused {
                ins!(this, "fma.rn.{ty} {d}, {a}, {b}, {acc}");
            } else {
                let product = this.reg(d.class);
                ins!(this, "mul.rn.{ty} {product}, {a}, {b}");
                ins!(this, "add.rn.{ty} {d}, {product}, {acc}");
            }
            d
        })
    }

    pub(super) fn cast(&mut self, a: Val, to: DType) -> Vec<Reg> {
        let from = self.ty(a).dtype;
        self.slots(&[a], |this, args| this.cast_one(from, to, args[0]))
    }

    fn cast_one(&mut self, from: DType, to: DType, a: Reg) -> Reg {
        let d = self.reg(class_of(to));
        let half = |dtype| if dtype == DType::F16 { "f16" } else { "bf16" };
        match (from, to) {
            (DType::BF16, DType::F32) => {
                ins!(self, "shl.b32 {d}, {a}, 16");
                return d;
            }
            (DType::F16, DType::F32) => {
                let h = self.reg(Class::B16);
                ins!(self, "cvt.u16.u32 {h}, {a}");
                ins!(self, "cvt.f32.f16 {d}, {h}");
                return d;
            }
            (DType::F32, DType::F16 | DType::BF16) => {
                let h = self.reg(Class::B16);
                ins!(self, "cvt.rn.{}.f32 {h}, {a}", half(to));
                ins!(self, "cvt.u32.u16 {d}, {h}");
                return d;
            }
            _ => {}
        }
        let (source, target) = (kind(from), kind(to));
        match (from.is_float(), to.is_float()) {
            (true, true) if to.bits() > from.bits() => ins!(self, "cvt.{target}.{source} {d}, {a}"),
            (_, true) => ins!(self, "cvt.rn.{target}.{source} {d}, {a}"),
            (true, false) => {
                // Saturates; of a NaN, PTX makes 0 only between types of 32 bits.
                let (number, nan) = (self.reg(d.class), self.reg(Class::Pred));
                ins!(self, "cvt.rzi.{target}.{source} {number}, {a}");
                ins!(self, "setp.nan.{source} {nan}, {a}, {a}");
                ins!(self, "selp.{} {d}, 0, {number}, {nan}", d.class.suffix());
            }
            (false, false) => match (class_of(from), class_of(to)) {
                (Class::B64, Class::B64) => return a,
                (Class::B32, Class::B64) => ins!(self, "cvt.{target}.{source} {d}, {a}"),
                (Class::B64, Class::B32) => {
                    ins!(self, "cvt.u32.u64 {d}, {a}");
                    return self.extended(to, d);
                }
                (Class::B32, Class::B32) => return self.extended(to, a),
                _ => panic!("legalisation leaves no cast of {from} to {to}"),
            },
        }
        d
    }

    pub(super) fn bitcast(&mut self, a: Val, to: DType) -> Vec<Reg> {
        let from = self.ty(a).dtype;
        let unsigned = |dtype: DType| !dtype.is_signed_int() && dtype != DType::Bool;
        self.slots(&[a], |this, args| {
            if from == DType::Bool && to != DType::Bool {
                return this.for_memory(DType::Bool, args)[0];
            }
            if to == DType::Bool && from != DType::Bool {
                let p = this.reg(Class::Pred);
                ins!(this, "setp.ne.b32 {p}, {}, 0", args[0]);
                return p;
            }
            // Registers have no types; short types differ in how they are extended.
            if unsigned(from) && unsigned(to) { args[0] } else { this.extended(to, args[0]) }
        })
    }

    pub(super) fn iota(&mut self, ty: LaneType) -> Vec<Reg> {
        (0..Self::width(ty.lanes))
            .map(|slot| {
                let (lane, d) = (self.lane_number_of(ty.lanes, slot), self.reg(class_of(ty.dtype)));
                match d.class {
                    Class::B64 => ins!(self, "cvt.u64.u32 {d}, {lane}"),
                    _ => ins!(self, "mov.b32 {d}, {lane}"),
                }
                d
            })
            .collect()
    }
}
