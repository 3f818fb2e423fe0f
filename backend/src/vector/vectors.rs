//! Vectors, floating-point scalars and masks: the dispatch of every operation that is no control flow, and the code of
//! those on vector registers. Scalars use lane 0 of the same instructions at 128 bits.

use iced_x86::Code;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{FmaMode, InstData, LaneType, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, UnaryOp};
use regalloc2::VReg;
use smallvec::{SmallVec, smallvec};

use super::Unsupported;
use super::codes::{self, Wide};
use super::machine::{GENERAL, MASK, Operand, Pattern, WIDE};
use super::select::{Registers, Select};
use super::width::Pieces;

/// Whether values of this type are in vector registers.
pub(super) fn is_wide(ty: LaneType) -> bool {
    matches!(ty.dtype, DType::F16 | DType::F32 | DType::F64) || (ty.lanes > 1 && ty.dtype != DType::Bool)
}

/// Whether values of this type are in mask registers.
pub(super) fn is_mask(ty: LaneType) -> bool {
    ty.lanes > 1 && ty.dtype == DType::Bool
}

impl Select<'_> {
    /// Selects one operation.
    pub(super) fn inst(&mut self, data: &InstData, results: &[Val]) -> Result<(), Unsupported> {
        let ty_of = |this: &Self, v: Val| this.kernel.ty(v);
        let registers: Registers = match data {
            InstData::Store { buffer, address, value, count } => return self.store(*buffer, address, *value, *count),
            InstData::Prefetch { buffer, address, locality } => return self.prefetch(*buffer, address, *locality),
            InstData::Scatter { buffer, address, indices, value, count } => {
                return self.scatter(*buffer, address, *indices, *value, *count);
            }
            InstData::Load { buffer, address, count } => self.load(results[0], *buffer, address, *count)?,
            InstData::LoadSplat { buffer, address } => self.load_splat(results[0], *buffer, address)?,
            InstData::Gather { buffer, address, indices, count } => {
                self.gather(ty_of(self, results[0]), *buffer, address, *indices, *count)?
            }
            InstData::Unary(op, a) => self.unary(*op, *a)?,
            InstData::Binary(op, a, b) => self.binary(*op, *a, *b)?,
            InstData::Compare(op, a, b) => self.compare(*op, *a, *b)?,
            InstData::Select(c, a, b) => self.select_lanes(*c, *a, *b)?,
            InstData::MulAdd { a, b, acc, mode } => self.multiply_add(*a, *b, *acc, *mode)?,
            InstData::Dot4 { a, b, acc, types } => self.dot4([*a, *b, *acc], *types)?,
            InstData::Cast(a) => self.cast(ty_of(self, *a), ty_of(self, results[0]), *a)?,
            InstData::Bitcast(a) => self.bitcast(*a, results[0])?,
            InstData::Splat(a) => self.splat(ty_of(self, results[0]), *a)?,
            InstData::Iota => self.iota(ty_of(self, results[0]))?,
            InstData::ReduceLanes(op, a) => smallvec![self.reduce(*op, *a)?],
            InstData::Extract(a, lane) => smallvec![self.extract(*a, *lane)?],
            InstData::Shuffle(..) => return Err(Unsupported("shuffles")),
            InstData::Tile(_) | InstData::Attend(_) => unreachable!("schedules make tiles for GPUs only"),
            InstData::Const(_)
            | InstData::Param(_)
            | InstData::For { .. }
            | InstData::While { .. }
            | InstData::If { .. }
            | InstData::Yield(_) => unreachable!("handled by the walk over blocks"),
        };
        self.set(results[0], registers);
        Ok(())
    }

    pub(super) fn op3(&mut self, code: Code, a: VReg, b: VReg) -> VReg {
        let to = self.def(WIDE);
        self.op(code, smallvec![Operand::Def(to), Operand::Use(a), Operand::Use(b)]);
        to
    }

    /// An instruction whose last operand may be a constant in memory.
    pub(super) fn op3_with(&mut self, code: Code, a: VReg, b: Operand) -> VReg {
        let to = self.def(WIDE);
        self.op(code, smallvec![Operand::Def(to), Operand::Use(a), b]);
        to
    }

    pub(super) fn op2(&mut self, code: Code, a: VReg) -> VReg {
        let to = self.def(WIDE);
        self.op(code, smallvec![Operand::Def(to), Operand::Use(a)]);
        to
    }

    /// A value as the last operand of its instructions: constants stay in memory, because there are more of them in the
    /// expansions of functions than registers.
    fn sources(&mut self, val: Val) -> Result<SmallVec<[Operand; 4]>, Unsupported> {
        let ty = self.kernel.ty(val);
        if let Some(pattern) = self.pattern_of(val) {
            return Ok(smallvec![Operand::Constant(pattern); self.pieces(ty)?.count]);
        }
        Ok(self.get(val)?.into_iter().map(Operand::Use).collect())
    }

    /// A vector of one bit pattern.
    pub(super) fn pattern(&mut self, pieces: Pieces, bits: i64) -> VReg {
        let general = self.immediate(bits);
        self.op2(pieces.broadcast_general(), general)
    }

    pub(super) fn each(
        &mut self,
        a: Val,
        mut f: impl FnMut(&mut Self, VReg) -> VReg,
    ) -> Result<Registers, Unsupported> {
        let a = self.get(a)?;
        Ok(a.into_iter().map(|r| f(self, r)).collect())
    }

    fn each2(
        &mut self,
        a: Val,
        b: Val,
        mut f: impl FnMut(&mut Self, VReg, VReg) -> VReg,
    ) -> Result<Registers, Unsupported> {
        let (a, b) = (self.get(a)?, self.get(b)?);
        Ok(a.into_iter().zip(b).map(|(x, y)| f(self, x, y)).collect())
    }

    /// The same with a second operand that may be a constant.
    fn each2_with(
        &mut self,
        a: Val,
        b: Val,
        mut f: impl FnMut(&mut Self, VReg, Operand) -> VReg,
    ) -> Result<Registers, Unsupported> {
        let (a, b) = (self.get(a)?, self.sources(b)?);
        Ok(a.into_iter().zip(b).map(|(x, y)| f(self, x, y)).collect())
    }

    fn unary(&mut self, op: UnaryOp, a: Val) -> Result<Registers, Unsupported> {
        let ty = self.kernel.ty(a);
        if is_mask(ty) {
            let UnaryOp::Not = op else { return Err(Unsupported("this operator on masks")) };
            return self.mask_not(a, ty);
        }
        if !is_wide(ty) {
            let register = self.get1(a)?;
            return Ok(smallvec![self.general_unary(op, register, ty.dtype)?]);
        }
        let pieces = self.pieces(ty)?;
        let double = pieces.bits == 64;
        if ty.dtype.bits() < 32 {
            return Err(Unsupported("this operator on vectors of narrow integers"));
        }
        if !ty.dtype.is_float() {
            return match op {
                UnaryOp::Abs if ty.dtype.is_signed_int() => {
                    let code = if double { codes::ABS_Q } else { codes::ABS_D }[pieces.width];
                    self.each(a, |this, r| this.op2(code, r))
                }
                UnaryOp::Abs => self.get(a),
                UnaryOp::Neg => {
                    let zero = self.pattern(pieces, 0);
                    let code = if double { codes::SUB_Q } else { codes::SUB_D }[pieces.width];
                    self.each(a, |this, r| this.op3(code, zero, r))
                }
                UnaryOp::Not => {
                    let ones = constant(pieces, -1);
                    let code = if double { codes::XOR_Q } else { codes::XOR_D }[pieces.width];
                    self.each(a, |this, r| this.op3_with(code, r, ones))
                }
                _ => Err(Unsupported("this operator on integer vectors")),
            };
        }
        let sign = if double { i64::MIN } else { i64::from(i32::MIN) };
        match op {
            UnaryOp::Neg => {
                let sign = constant(pieces, sign);
                let code = if double { codes::XOR_Q } else { codes::XOR_D }[pieces.width];
                self.each(a, |this, r| this.op3_with(code, r, sign))
            }
            UnaryOp::Abs => {
                let rest = constant(pieces, !sign);
                let code = if double { codes::AND_Q } else { codes::AND_D }[pieces.width];
                self.each(a, |this, r| this.op3_with(code, r, rest))
            }
            UnaryOp::Sqrt => {
                let code = if double { codes::SQRT_PD } else { codes::SQRT_PS }[pieces.width];
                self.each(a, |this, r| this.op2(code, r))
            }
            UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Trunc | UnaryOp::Round => {
                // The rounding mode, with exceptions suppressed.
                let mode = match op {
                    UnaryOp::Round => 8,
                    UnaryOp::Floor => 9,
                    UnaryOp::Ceil => 10,
                    _ => 11,
                };
                let code = if double { codes::ROUND_PD } else { codes::ROUND_PS }[pieces.width];
                self.each(a, |this, r| {
                    let to = this.def(WIDE);
                    this.op(code, smallvec![Operand::Def(to), Operand::Use(r), Operand::Immediate(mode)]);
                    to
                })
            }
            _ => Err(Unsupported("an operator that legalisation removes")),
        }
    }

    fn binary(&mut self, op: BinaryOp, a: Val, b: Val) -> Result<Registers, Unsupported> {
        let ty = self.kernel.ty(a);
        if is_mask(ty) {
            let code = match op {
                BinaryOp::And => Code::VEX_Kandw_kr_kr_kr,
                BinaryOp::Or => Code::VEX_Korw_kr_kr_kr,
                BinaryOp::Xor => Code::VEX_Kxorw_kr_kr_kr,
                _ => return Err(Unsupported("this operator on masks")),
            };
            return self.each2(a, b, |this, x, y| {
                let to = this.def(MASK);
                this.op(code, smallvec![Operand::Def(to), Operand::Use(x), Operand::Use(y)]);
                to
            });
        }
        if !is_wide(ty) {
            return Ok(smallvec![self.general_binary(op, a, b, ty.dtype)?]);
        }
        let pieces = self.pieces(ty)?;
        let double = pieces.bits == 64;
        let pick = |single: Wide, wide: Wide| if double { wide[pieces.width] } else { single[pieces.width] };
        if ty.dtype.is_float() {
            let code = match op {
                BinaryOp::Add => pick(codes::ADD_PS, codes::ADD_PD),
                BinaryOp::Sub => pick(codes::SUB_PS, codes::SUB_PD),
                BinaryOp::Mul => pick(codes::MUL_PS, codes::MUL_PD),
                BinaryOp::Div => pick(codes::DIV_PS, codes::DIV_PD),
                BinaryOp::Min | BinaryOp::Max => return self.float_extreme(op, a, b, pieces),
                _ => return Err(Unsupported("an operator that legalisation removes")),
            };
            let (a, b) = self.constant_last(op, a, b);
            return self.each2_with(a, b, |this, x, y| this.op3_with(code, x, y));
        }
        let signed = ty.dtype.is_signed_int();
        if ty.dtype.bits() < 32 && !keeps_extension(op) {
            return Err(Unsupported("this operator on vectors of narrow integers"));
        }
        let code = match op {
            BinaryOp::Add => pick(codes::ADD_D, codes::ADD_Q),
            BinaryOp::Sub => pick(codes::SUB_D, codes::SUB_Q),
            BinaryOp::Mul => pick(codes::MUL_D, codes::MUL_Q),
            BinaryOp::And => pick(codes::AND_D, codes::AND_Q),
            BinaryOp::Or => pick(codes::OR_D, codes::OR_Q),
            BinaryOp::Xor => pick(codes::XOR_D, codes::XOR_Q),
            BinaryOp::Shl => pick(codes::SHL_D, codes::SHL_Q),
            BinaryOp::Shr if signed => pick(codes::SAR_D, codes::SAR_Q),
            BinaryOp::Shr => pick(codes::SHR_D, codes::SHR_Q),
            BinaryOp::Min if signed => pick(codes::MIN_SD, codes::MIN_SQ),
            BinaryOp::Min => pick(codes::MIN_UD, codes::MIN_UQ),
            BinaryOp::Max if signed => pick(codes::MAX_SD, codes::MAX_SQ),
            BinaryOp::Max => pick(codes::MAX_UD, codes::MAX_UQ),
            BinaryOp::Div | BinaryOp::Rem => return Err(Unsupported("division of integer vectors")),
            BinaryOp::Mod | BinaryOp::Pow => return Err(Unsupported("an operator that legalisation removes")),
        };
        let (a, b) = self.constant_last(op, a, b);
        self.each2_with(a, b, |this, x, y| this.op3_with(code, x, y))
    }

    /// The operands of a commutative operator with a constant as the second.
    fn constant_last(&self, op: BinaryOp, a: Val, b: Val) -> (Val, Val) {
        use BinaryOp::{Add, And, Mul, Or, Xor};
        let swaps = matches!(op, Add | Mul | And | Or | Xor) && self.constant_of(a).is_some();
        if swaps { (b, a) } else { (a, b) }
    }

    /// Min and max give the second operand if either is NaN. So a constant goes first, and elsewhere a NaN in the first
    /// operand is put back.
    fn float_extreme(&mut self, op: BinaryOp, a: Val, b: Val, pieces: Pieces) -> Result<Registers, Unsupported> {
        let double = pieces.bits == 64;
        let code = match (op, double) {
            (BinaryOp::Min, false) => codes::MIN_PS,
            (BinaryOp::Min, true) => codes::MIN_PD,
            (_, false) => codes::MAX_PS,
            (_, true) => codes::MAX_PD,
        }[pieces.width];
        let number = |this: &Self, v: Val| {
            this.constant_of(v).is_some_and(|c| match c.dtype {
                DType::F32 => !f32::from_bits(c.bits as u32).is_nan(),
                _ => !f64::from_bits(c.bits).is_nan(),
            })
        };
        if number(self, b) {
            return self.each2(b, a, |this, x, y| this.op3(code, x, y));
        }
        if number(self, a) {
            return self.each2(a, b, |this, x, y| this.op3(code, x, y));
        }
        let (compare, blend) = if double { (codes::CMP_PD, codes::BLEND_PD) } else { (codes::CMP_PS, codes::BLEND_PS) };
        self.each2(a, b, |this, x, y| {
            let extreme = this.op3(code, x, y);
            let unordered = this.def(MASK);
            let operands = smallvec![Operand::Def(unordered), Operand::Use(x), Operand::Use(x), Operand::Immediate(3)];
            this.op(compare[pieces.width], operands);
            let to = this.def(WIDE);
            let operands = smallvec![Operand::Def(to), Operand::Use(extreme), Operand::Use(x)];
            this.op_masked(blend[pieces.width], operands, unordered, false);
            to
        })
    }

    fn multiply_add(&mut self, a: Val, b: Val, acc: Val, mode: FmaMode) -> Result<Registers, Unsupported> {
        let pieces = self.pieces(self.kernel.ty(acc))?;
        let double = pieces.bits == 64;
        let (a, b) = self.constant_last(BinaryOp::Mul, a, b);
        let mut results = Registers::new();
        if mode == FmaMode::Separate {
            let (multiply, add) = if double { (codes::MUL_PD, codes::ADD_PD) } else { (codes::MUL_PS, codes::ADD_PS) };
            for ((x, y), sum) in self.get(a)?.into_iter().zip(self.sources(b)?).zip(self.sources(acc)?) {
                let product = self.op3_with(multiply[pieces.width], x, y);
                results.push(self.op3_with(add[pieces.width], product, sum));
            }
            return Ok(results);
        }
        // The result is written over an operand: the sum, unless that is wanted further on and a factor is not.
        let once = |this: &Self, v: Val| this.constant_of(v).is_none() && this.is_used_once(v);
        let (factor, other) = if !once(self, a) && once(self, b) { (b, a) } else { (a, b) };
        let keeps_sum = self.constant_of(acc).is_some() || (!self.is_used_once(acc) && once(self, factor));
        let (code, into, last) = if keeps_sum {
            (if double { codes::FMA_INTO_FACTOR_PD } else { codes::FMA_INTO_FACTOR_PS }, factor, acc)
        } else {
            (if double { codes::FMA_PD } else { codes::FMA_PS }, acc, b)
        };
        let middle = if keeps_sum { other } else { a };
        for ((into, x), y) in self.get(into)?.into_iter().zip(self.get(middle)?).zip(self.sources(last)?) {
            let to = self.def(WIDE);
            self.op(code[pieces.width], smallvec![Operand::Tied(into, to), Operand::Use(x), y]);
            results.push(to);
        }
        Ok(results)
    }

    fn compare(&mut self, op: CmpOp, a: Val, b: Val) -> Result<Registers, Unsupported> {
        let ty = self.kernel.ty(a);
        if !is_wide(ty) {
            if is_mask(ty) {
                return Err(Unsupported("comparisons of masks"));
            }
            return Ok(smallvec![self.general_compare(op, a, b, ty.dtype)?]);
        }
        let pieces = self.pieces(ty)?;
        let (code, predicate) = compare_code(op, ty.dtype, pieces);
        let halves = self.each2_with(a, b, |this, x, y| {
            let to = this.def(MASK);
            let operands = smallvec![Operand::Def(to), Operand::Use(x), y, Operand::Immediate(predicate)];
            this.op(code, operands);
            to
        })?;
        if ty.lanes == 1 {
            // Lane 0 of the mask as 0 or 1.
            let general = self.def(GENERAL);
            self.op(Code::VEX_Kmovw_r32_kr, smallvec![Operand::Def(general), Operand::Use(halves[0])]);
            let to = self.def(GENERAL);
            self.op(Code::And_rm32_imm8, smallvec![Operand::Tied(general, to), Operand::Immediate(1)]);
            return Ok(smallvec![to]);
        }
        Ok(self.join_masks(halves, pieces))
    }

    fn select_lanes(&mut self, condition: Val, a: Val, b: Val) -> Result<Registers, Unsupported> {
        let ty = self.kernel.ty(a);
        if is_mask(ty) {
            return Err(Unsupported("selects of masks"));
        }
        if !is_wide(ty) {
            let (c, x, y) = (self.get1(condition)?, self.get1(a)?, self.get1(b)?);
            return Ok(smallvec![self.general_select(c, x, y)]);
        }
        let pieces = self.pieces(ty)?;
        let mut masks = self.get(condition)?;
        if ty.lanes == 1 {
            let mask = self.def(MASK);
            self.op(Code::VEX_Kmovw_kr_r32, smallvec![Operand::Def(mask), Operand::Use(masks[0])]);
            masks = smallvec![mask];
        } else {
            masks = self.masks_for(masks, pieces);
        }
        let code = if pieces.bits == 64 { codes::BLEND_PD } else { codes::BLEND_PS }[pieces.width];
        let (a, b) = (self.sources(a)?, self.get(b)?);
        let mut results = Registers::new();
        for ((x, y), mask) in a.into_iter().zip(b).zip(masks) {
            let to = self.def(WIDE);
            self.op_masked(code, smallvec![Operand::Def(to), Operand::Use(y), x], mask, false);
            results.push(to);
        }
        Ok(results)
    }
}

/// A constant with these bits in each lane.
pub(super) fn constant(pieces: Pieces, bits: i64) -> Operand {
    Operand::Constant(if pieces.bits == 64 { Pattern::Wide(bits as u64) } else { Pattern::Narrow(bits as u32) })
}

/// Whether the operator on extended integers gives such.
fn keeps_extension(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::Min | BinaryOp::Max)
}

/// The comparison's encoding and predicate. Ordered and quiet, but for `Ne`, which is unordered.
fn compare_code(op: CmpOp, dtype: DType, pieces: Pieces) -> (Code, i64) {
    let double = pieces.bits == 64;
    if dtype.is_float() {
        let code = if double { codes::CMP_PD } else { codes::CMP_PS }[pieces.width];
        let predicate = match op {
            CmpOp::Eq => 0x00,
            CmpOp::Ne => 0x04,
            CmpOp::Lt => 0x11,
            CmpOp::Le => 0x12,
            CmpOp::Gt => 0x1e,
            CmpOp::Ge => 0x1d,
        };
        return (code, predicate);
    }
    let code = match (double, dtype.is_signed_int()) {
        (false, true) => codes::CMP_D,
        (false, false) => codes::CMP_UD,
        (true, true) => codes::CMP_Q,
        (true, false) => codes::CMP_UQ,
    }[pieces.width];
    let predicate = match op {
        CmpOp::Eq => 0,
        CmpOp::Lt => 1,
        CmpOp::Le => 2,
        CmpOp::Ne => 4,
        CmpOp::Ge => 5,
        CmpOp::Gt => 6,
    };
    (code, predicate)
}
