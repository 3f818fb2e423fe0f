//! Arithmetic, comparisons, selections and conversions. What Cranelift has no vector form of goes lane by lane.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, InstBuilder, MemFlagsData, Type, Value, types};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{LaneType, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, UnaryOp};

use super::{Shape, Translate, piece_type, pieces, scalar_type, shape};

impl Translate<'_> {
    pub(super) fn unary(&mut self, op: UnaryOp, a: Val) -> Vec<Value> {
        let ty = self.ty(a);
        let values = self.get(a);
        values
            .into_iter()
            .map(|x| match op {
                UnaryOp::Neg if ty.dtype.is_float() => self.f.ins().fneg(x),
                UnaryOp::Neg => self.f.ins().ineg(x),
                UnaryOp::Abs if ty.dtype.is_float() => self.f.ins().fabs(x),
                UnaryOp::Abs if ty.dtype.is_signed_int() => self.f.ins().iabs(x),
                UnaryOp::Abs => x,
                UnaryOp::Not if ty.dtype == DType::Bool && shape(ty) == Shape::Lanes => self.f.ins().bxor_imm_u(x, 1),
                UnaryOp::Not => self.f.ins().bnot(x),
                UnaryOp::Sqrt => self.f.ins().sqrt(x),
                UnaryOp::Floor => self.f.ins().floor(x),
                UnaryOp::Ceil => self.f.ins().ceil(x),
                UnaryOp::Trunc => self.f.ins().trunc(x),
                UnaryOp::Round => self.f.ins().nearest(x),
                other => panic!("legalisation removes {}", other.name()),
            })
            .collect()
    }

    pub(super) fn binary(&mut self, op: BinaryOp, a: Val, b: Val) -> Vec<Value> {
        let ty = self.ty(a);
        let (x, y) = (self.get(a), self.get(b));
        let by_lanes = match shape(ty) {
            Shape::Lanes => true,
            // Shift amounts differ from lane to lane, which 128-bit vectors do not have; division neither.
            Shape::Vectors(v) => match op {
                BinaryOp::Shl | BinaryOp::Shr => self.constants[b].is_none(),
                BinaryOp::Div | BinaryOp::Rem => !ty.dtype.is_float(),
                BinaryOp::Min | BinaryOp::Max => v == types::I64X2,
                _ => false,
            },
        };
        if by_lanes {
            let (x, y) = (self.lanes_of(ty, &x), self.lanes_of(ty, &y));
            let lanes: Vec<Value> = x.into_iter().zip(y).map(|(x, y)| self.scalar_binary(op, ty.dtype, x, y)).collect();
            return self.join_lanes(ty, &lanes);
        }
        if let (BinaryOp::Shl | BinaryOp::Shr, Some(amount)) = (op, self.constants[b]) {
            let amount = amount.bits as i64 & i64::from(ty.dtype.bits() - 1);
            return x
                .into_iter()
                .map(|x| match op {
                    BinaryOp::Shl => self.f.ins().ishl_imm_u(x, amount),
                    _ if ty.dtype.is_signed_int() => self.f.ins().sshr_imm_u(x, amount),
                    _ => self.f.ins().ushr_imm_u(x, amount),
                })
                .collect();
        }
        x.into_iter().zip(y).map(|(x, y)| self.plain_binary(op, ty.dtype, x, y)).collect()
    }

    /// An operation that scalars and vectors have alike.
    pub(super) fn plain_binary(&mut self, op: BinaryOp, dtype: DType, x: Value, y: Value) -> Value {
        let (float, signed) = (dtype.is_float(), dtype.is_signed_int());
        let ins = self.f.ins();
        match op {
            BinaryOp::Add if float => ins.fadd(x, y),
            BinaryOp::Sub if float => ins.fsub(x, y),
            BinaryOp::Mul if float => ins.fmul(x, y),
            BinaryOp::Div if float => ins.fdiv(x, y),
            BinaryOp::Min if float => ins.fmin(x, y),
            BinaryOp::Max if float => ins.fmax(x, y),
            BinaryOp::Add => ins.iadd(x, y),
            BinaryOp::Sub => ins.isub(x, y),
            BinaryOp::Mul => ins.imul(x, y),
            BinaryOp::And => ins.band(x, y),
            BinaryOp::Or => ins.bor(x, y),
            BinaryOp::Xor => ins.bxor(x, y),
            BinaryOp::Min if signed => ins.smin(x, y),
            BinaryOp::Max if signed => ins.smax(x, y),
            BinaryOp::Min => ins.umin(x, y),
            BinaryOp::Max => ins.umax(x, y),
            other => panic!("legalisation leaves no {} here", other.name()),
        }
    }

    pub(super) fn scalar_binary(&mut self, op: BinaryOp, dtype: DType, x: Value, y: Value) -> Value {
        let signed = dtype.is_signed_int();
        match op {
            BinaryOp::Div | BinaryOp::Rem if !dtype.is_float() => self.divide(op, dtype, x, y),
            BinaryOp::Shl => self.f.ins().ishl(x, y),
            BinaryOp::Shr if signed => self.f.ins().sshr(x, y),
            BinaryOp::Shr => self.f.ins().ushr(x, y),
            op => self.plain_binary(op, dtype, x, y),
        }
    }

    /// Division without traps: by 0 gives 0, the least by -1 gives itself (and remainder 0).
    pub(super) fn divide(&mut self, op: BinaryOp, dtype: DType, x: Value, y: Value) -> Value {
        let ty = scalar_type(dtype);
        let zero = self.f.ins().iconst(ty, 0);
        let one = self.f.ins().iconst(ty, 1);
        let by_zero = self.f.ins().icmp(IntCC::Equal, y, zero);
        let safe = self.f.ins().select(by_zero, one, y);
        let result = if dtype.is_signed_int() {
            // -1 becomes 1 as well: the quotient is the negation, which wraps, and the remainder 0.
            let negated = self.f.ins().ineg(x);
            let plus_one = self.f.ins().iadd(y, one);
            let by_minus_one = self.f.ins().icmp(IntCC::Equal, plus_one, zero);
            let safe = self.f.ins().select(by_minus_one, one, safe);
            let divided = match op {
                BinaryOp::Div => self.f.ins().sdiv(x, safe),
                _ => self.f.ins().srem(x, safe),
            };
            let special = if op == BinaryOp::Div { negated } else { zero };
            self.f.ins().select(by_minus_one, special, divided)
        } else if op == BinaryOp::Div {
            self.f.ins().udiv(x, safe)
        } else {
            self.f.ins().urem(x, safe)
        };
        self.f.ins().select(by_zero, zero, result)
    }

    /// The same value under another name. Without AVX, Cranelift lets a comparison of vectors read its operand from
    /// memory at once, at an address that the instruction wants aligned; it does not look through a change of types.
    fn in_register(&mut self, value: Value) -> Value {
        let ty = self.f.func.dfg.value_type(value);
        if !ty.is_vector() {
            return value;
        }
        let flags = MemFlagsData::new().with_endianness(ir::Endianness::Little);
        let bytes = self.f.ins().bitcast(types::I8X16, flags, value);
        self.f.ins().bitcast(ty, flags, bytes)
    }

    pub(super) fn compare(&mut self, op: CmpOp, a: Val, b: Val) -> Vec<Value> {
        let ty = self.ty(a);
        let (x, y) = (self.get(a), self.get(b));
        let compared: Vec<Value> = x
            .into_iter()
            .zip(y)
            .map(|(x, y)| {
                if ty.dtype.is_float() {
                    let condition = match op {
                        CmpOp::Eq => FloatCC::Equal,
                        CmpOp::Ne => FloatCC::NotEqual,
                        CmpOp::Lt => FloatCC::LessThan,
                        CmpOp::Le => FloatCC::LessThanOrEqual,
                        CmpOp::Gt => FloatCC::GreaterThan,
                        CmpOp::Ge => FloatCC::GreaterThanOrEqual,
                    };
                    let (x, y) = (self.in_register(x), self.in_register(y));
                    return self.f.ins().fcmp(condition, x, y);
                }
                let condition = match (op, ty.dtype.is_signed_int()) {
                    (CmpOp::Eq, _) => IntCC::Equal,
                    (CmpOp::Ne, _) => IntCC::NotEqual,
                    (CmpOp::Lt, true) => IntCC::SignedLessThan,
                    (CmpOp::Le, true) => IntCC::SignedLessThanOrEqual,
                    (CmpOp::Gt, true) => IntCC::SignedGreaterThan,
                    (CmpOp::Ge, true) => IntCC::SignedGreaterThanOrEqual,
                    (CmpOp::Lt, false) => IntCC::UnsignedLessThan,
                    (CmpOp::Le, false) => IntCC::UnsignedLessThanOrEqual,
                    (CmpOp::Gt, false) => IntCC::UnsignedGreaterThan,
                    (CmpOp::Ge, false) => IntCC::UnsignedGreaterThanOrEqual,
                };
                self.f.ins().icmp(condition, x, y)
            })
            .collect();
        let mask = LaneType::vector(DType::Bool, ty.lanes);
        match (shape(ty), shape(mask)) {
            (Shape::Lanes, Shape::Lanes) => compared,
            (Shape::Vectors(v), Shape::Vectors(_)) if v.lane_bits() == 32 => compared,
            // Masks of 64-bit lanes, or lanes without vectors: through scalars.
            (Shape::Vectors(v), _) => {
                let mut lanes = Vec::new();
                for value in compared {
                    for lane in 0..v.lane_count() {
                        let one = self.f.ins().extractlane(value, lane as u8);
                        lanes.push(self.f.ins().icmp_imm_s(IntCC::NotEqual, one, 0));
                    }
                }
                self.join_lanes(mask, &lanes)
            }
            (Shape::Lanes, Shape::Vectors(_)) => self.join_lanes(mask, &compared),
        }
    }

    pub(super) fn select(&mut self, condition: Val, a: Val, b: Val) -> Vec<Value> {
        let ty = self.ty(a);
        let mask_ty = self.ty(condition);
        let (masks, x, y) = (self.get(condition), self.get(a), self.get(b));
        match (shape(ty), shape(mask_ty)) {
            (Shape::Vectors(v), Shape::Vectors(_)) if v.lane_bits() == 32 => masks
                .into_iter()
                .zip(x)
                .zip(y)
                .map(|((mask, x), y)| {
                    let mask = self.reinterpret(v, mask);
                    self.f.ins().bitselect(mask, x, y)
                })
                .collect(),
            _ => {
                let masks = self.lanes_of(mask_ty, &masks);
                let (x, y) = (self.lanes_of(ty, &x), self.lanes_of(ty, &y));
                let lanes: Vec<Value> =
                    masks.into_iter().zip(x).zip(y).map(|((m, x), y)| self.f.ins().select(m, x, y)).collect();
                self.join_lanes(ty, &lanes)
            }
        }
    }

    pub(super) fn reinterpret(&mut self, to: Type, value: Value) -> Value {
        let from = self.f.func.dfg.value_type(value);
        if from == to {
            return value;
        }
        // Vectors of different lanes keep the order of their bytes.
        let flags = if to.is_vector() && to.lane_bits() != from.lane_bits() {
            MemFlagsData::new().with_endianness(ir::Endianness::Little)
        } else {
            MemFlagsData::new()
        };
        self.f.ins().bitcast(to, flags, value)
    }

    pub(super) fn bitcast(&mut self, a: Val, to: LaneType) -> Vec<Value> {
        let from = self.ty(a);
        let values = self.get(a);
        if shape(from) == Shape::Lanes && shape(to) == Shape::Lanes
            || pieces(from) == pieces(to) && shape(from) != Shape::Lanes
        {
            return values.into_iter().map(|v| self.reinterpret(piece_type(to), v)).collect();
        }
        let lanes: Vec<Value> =
            self.lanes_of(from, &values).into_iter().map(|v| self.reinterpret(scalar_type(to.dtype), v)).collect();
        self.join_lanes(to, &lanes)
    }

    pub(super) fn cast(&mut self, a: Val, to: LaneType) -> Vec<Value> {
        if let Some(values) = self.cast_extended(a, to.dtype) {
            return values;
        }
        let from = self.ty(a);
        let values = self.get(a);
        if let (Shape::Vectors(_), Shape::Vectors(v)) = (shape(from), shape(to)) {
            match (from.dtype, to.dtype) {
                (DType::I32, DType::F32) => {
                    return values.into_iter().map(|x| self.f.ins().fcvt_from_sint(v, x)).collect();
                }
                (DType::F32, DType::I32) => {
                    return values.into_iter().map(|x| self.f.ins().fcvt_to_sint_sat(v, x)).collect();
                }
                (DType::I32, DType::U32)
                | (DType::U32, DType::I32)
                | (DType::I64, DType::U64)
                | (DType::U64, DType::I64) => {
                    return values;
                }
                (DType::Bool, DType::I32 | DType::U32) => {
                    return values.into_iter().map(|x| self.f.ins().ineg(x)).collect();
                }
                (DType::Bool, DType::F32) => {
                    let one = self.f.ins().f32const(1.0);
                    let ones = self.f.ins().splat(types::F32X4, one);
                    let ones = self.reinterpret(types::I32X4, ones);
                    return values
                        .into_iter()
                        .map(|x| {
                            let bits = self.f.ins().band(x, ones);
                            self.reinterpret(types::F32X4, bits)
                        })
                        .collect();
                }
                _ => {}
            }
        }
        let lanes = self.lanes_of(from, &values);
        let lanes = self.each_lane(&lanes, |this, lane| this.scalar_cast(from.dtype, to.dtype, lane));
        self.join_lanes(to, &lanes)
    }

    pub(super) fn scalar_cast(&mut self, from: DType, to: DType, x: Value) -> Value {
        let (a, b) = (scalar_type(from), scalar_type(to));
        match (from.is_float(), to.is_float()) {
            (true, true) if a == b => x,
            (true, true) if b == types::F64 => self.f.ins().fpromote(b, x),
            (true, true) => self.f.ins().fdemote(b, x),
            (true, false) if to.is_signed_int() => self.f.ins().fcvt_to_sint_sat(b, x),
            (true, false) => self.f.ins().fcvt_to_uint_sat(b, x),
            (false, true) => {
                let signed = from.is_signed_int();
                let wide = if a.bits() < 32 { self.extend(types::I32, x, signed) } else { x };
                if signed { self.f.ins().fcvt_from_sint(b, wide) } else { self.f.ins().fcvt_from_uint(b, wide) }
            }
            (false, false) if a.bits() == b.bits() => x,
            (false, false) if a.bits() < b.bits() => self.extend(b, x, from.is_signed_int()),
            (false, false) => self.f.ins().ireduce(b, x),
        }
    }

    pub(super) fn extend(&mut self, to: Type, x: Value, signed: bool) -> Value {
        if signed { self.f.ins().sextend(to, x) } else { self.f.ins().uextend(to, x) }
    }
}
