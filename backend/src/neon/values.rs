//! Arithmetic, comparisons and selections. What has no vector form goes lane by lane.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{FmaMode, InstData, LaneType, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, UnaryOp};
use regalloc2::VReg;
use smallvec::smallvec;

use super::Unsupported;
use super::machine::{Condition, GENERAL, VECTOR, Word};
use super::select::{Held, Registers, Select, class, lane_size};
use super::words::{self, Form, Size};

impl Select<'_> {
    /// Selects an operation with one result.
    pub(super) fn inst(&mut self, data: &InstData, ty: LaneType) -> Result<Held, Unsupported> {
        let registers = match data {
            InstData::Iota => self.iota(ty)?,
            InstData::Unary(op, a) => {
                let ty = self.ty(*a);
                let values = self.get(*a)?;
                values.into_iter().map(|x| self.unary(*op, ty, x)).collect()
            }
            InstData::Binary(op, a, b) => self.binary(*op, *a, *b)?,
            InstData::Compare(op, a, b) => self.compare(*op, *a, *b)?,
            InstData::Select(mask, a, b) => self.select_lanes(*mask, *a, *b)?,
            InstData::MulAdd { a, b, acc, mode } => self.mul_add([*a, *b, *acc], *mode)?,
            InstData::Dot4 { a, b, acc, types } => self.dot4([*a, *b, *acc], *types)?,
            InstData::Cast(a) => return self.cast(*a, ty),
            InstData::Bitcast(a) => return self.bitcast(*a, ty),
            InstData::Splat(a) => {
                let one = self.get1(*a)?;
                self.splat(ty, one)?
            }
            InstData::ReduceLanes(op, a) => smallvec![self.reduce(*op, *a)?],
            InstData::Extract(a, lane) => {
                let (from, values) = (self.ty(*a), self.get(*a)?);
                let per = usize::from(from.lanes) / values.len();
                let (at, lane) = (usize::from(*lane) / per, usize::from(*lane) % per);
                smallvec![self.lane(from, values[at], lane as u8)]
            }
            InstData::Shuffle(a, b, picks) => {
                let from = self.ty(*a);
                let mut values = self.get(*a)?;
                values.extend(self.get(*b)?);
                self.shuffle(from, &values, ty, picks)?
            }
            InstData::Load { buffer, address, count } => self.load(ty, *buffer, address, *count)?,
            InstData::LoadSplat { buffer, address } => self.load_splat(ty, *buffer, address)?,
            InstData::Gather { buffer, address, indices, count } => {
                self.gather(ty, *buffer, address, *indices, *count)?
            }
            InstData::Const(_)
            | InstData::Param(_)
            | InstData::Store { .. }
            | InstData::Scatter { .. }
            | InstData::Prefetch { .. }
            | InstData::Tile(_)
            | InstData::Attend(_)
            | InstData::For { .. }
            | InstData::While { .. }
            | InstData::If { .. }
            | InstData::Yield(_) => unreachable!("handled by the walk over blocks"),
        };
        Ok(Held::Registers(registers))
    }

    /// An integer of fewer than 32 bits extended again after an operation that may have left its range.
    pub(super) fn normalized(&mut self, dtype: DType, value: VReg) -> VReg {
        match dtype.bits() {
            bits @ (8 | 16) if dtype.is_signed_int() || dtype.is_unsigned_int() => {
                self.op(GENERAL, words::bit_field(dtype.is_signed_int(), false, 0, bits - 1), &[value])
            }
            _ => value,
        }
    }

    fn unary(&mut self, op: UnaryOp, ty: LaneType, x: VReg) -> VReg {
        let (dtype, scalar, size) = (ty.dtype, ty.lanes == 1, lane_size(ty.dtype));
        if dtype.is_float() {
            let (one, many) = match op {
                UnaryOp::Neg => (words::FNEG, words::V_FNEG),
                UnaryOp::Abs => (words::FABS, words::V_FABS),
                UnaryOp::Sqrt => (words::FSQRT, words::V_FSQRT),
                UnaryOp::Floor => (words::FRINTM, words::V_FRINTM),
                UnaryOp::Ceil => (words::FRINTP, words::V_FRINTP),
                UnaryOp::Trunc => (words::FRINTZ, words::V_FRINTZ),
                UnaryOp::Round => (words::FRINTN, words::V_FRINTN),
                other => panic!("legalisation removes {}", other.name()),
            };
            let word = if scalar { words::scalar(one, size) } else { words::floats(many, size) };
            return self.vector(word, &[x]);
        }
        if !scalar {
            return match op {
                UnaryOp::Neg => self.vector(words::lanes(words::V_NEG, size), &[x]),
                UnaryOp::Abs if dtype.is_signed_int() => self.vector(words::lanes(words::V_ABS, size), &[x]),
                UnaryOp::Abs => x,
                UnaryOp::Not => self.vector(words::bytes(words::V_NOT), &[x]),
                other => panic!("legalisation removes {} of integers", other.name()),
            };
        }
        let wide = size == Size::D;
        let result = match op {
            UnaryOp::Neg => self.general(words::NEG, wide, &[x]),
            UnaryOp::Abs if dtype.is_signed_int() => {
                let (compare, _) = self.comparison(wide, x, x, Some(0));
                let choose = words::general(words::CSNEG, wide).fields(&[(0, 0), (1, 5), (1, 16)]);
                self.several(GENERAL, &[compare.fields(&[(1, 5)]), choose.or(10 << 12)], &[x])
            }
            UnaryOp::Abs => x,
            UnaryOp::Not if dtype == DType::Bool => self.op(GENERAL, Word::new(words::EOR_ONE), &[x]),
            UnaryOp::Not => self.general(words::MVN, wide, &[x]),
            other => panic!("legalisation removes {} of integers", other.name()),
        };
        self.normalized(dtype, result)
    }

    fn binary(&mut self, op: BinaryOp, a: Val, b: Val) -> Result<Registers, Unsupported> {
        let ty = self.ty(a);
        let size = lane_size(ty.dtype);
        if let (BinaryOp::Mul, DType::F32) = (op, ty.dtype) {
            // One factor may be a lane of a register.
            for (lanes, other) in [(a, b), (b, a)] {
                if let Some(Held::Lane(vector, lane)) = self.held[lanes] {
                    let values = self.get(other)?;
                    let word = words::by_lane(words::FMUL_LANE, lane);
                    return Ok(values.into_iter().map(|x| self.vector(word.clone(), &[x, vector])).collect());
                }
            }
        }
        if let (BinaryOp::Shl | BinaryOp::Shr, Some(amount)) = (op, self.constants[b]) {
            let amount = amount.bits as u32 & (size.bits() - 1);
            let x = self.get(a)?;
            return Ok(x.into_iter().map(|x| self.shift(op, ty, x, amount)).collect());
        }
        if let (BinaryOp::Add | BinaryOp::Sub, 1, DType::I64) = (op, ty.lanes, ty.dtype) {
            let value = self.integer_of(b).and_then(|v| if op == BinaryOp::Sub { v.checked_neg() } else { Some(v) });
            if let Some(value @ -0xfff..=0xfff) = value {
                let x = self.get1(a)?;
                return Ok(smallvec![self.plus(x, value)]);
            }
        }
        let (x, y) = (self.get(a)?, self.get(b)?);
        let by_lanes = ty.lanes > 1
            && match op {
                BinaryOp::Div | BinaryOp::Rem => !ty.dtype.is_float(),
                BinaryOp::Mul => size == Size::D && !ty.dtype.is_float(),
                _ => false,
            };
        if by_lanes {
            let (x, y) = (self.lanes_of(ty, &x)?, self.lanes_of(ty, &y)?);
            let lanes: Vec<VReg> = x.into_iter().zip(y).map(|(x, y)| self.scalar_binary(op, ty.dtype, x, y)).collect();
            return self.join_lanes(ty, &lanes);
        }
        Ok(x.into_iter().zip(y).map(|(x, y)| self.binary_part(op, ty, x, y)).collect())
    }

    fn shift(&mut self, op: BinaryOp, ty: LaneType, x: VReg, amount: u32) -> VReg {
        let (size, signed) = (lane_size(ty.dtype), ty.dtype.is_signed_int());
        if amount == 0 {
            return x;
        }
        if ty.lanes == 1 {
            let wide = size == Size::D;
            let word = match op {
                BinaryOp::Shl => words::general_shift_left(wide, amount),
                _ => words::bit_field(signed, wide, amount, if wide { 63 } else { 31 }),
            };
            let result = self.op(GENERAL, word, &[x]);
            return self.normalized(ty.dtype, result);
        }
        let word = match op {
            BinaryOp::Shl => words::shift_left(size, amount),
            _ if signed => words::shift_right(words::SSHR, size, amount),
            _ => words::shift_right(words::USHR, size, amount),
        };
        self.vector(word, &[x])
    }

    /// An operation on a register of a value.
    pub(super) fn binary_part(&mut self, op: BinaryOp, ty: LaneType, x: VReg, y: VReg) -> VReg {
        let (dtype, size, signed) = (ty.dtype, lane_size(ty.dtype), ty.dtype.is_signed_int());
        if ty.lanes == 1 {
            return self.scalar_binary(op, dtype, x, y);
        }
        if dtype.is_float() {
            let form = match op {
                BinaryOp::Add => words::V_FADD,
                BinaryOp::Sub => words::V_FSUB,
                BinaryOp::Mul => words::V_FMUL,
                BinaryOp::Div => words::V_FDIV,
                BinaryOp::Min => words::V_FMIN,
                BinaryOp::Max => words::V_FMAX,
                other => panic!("legalisation leaves no {} of floats", other.name()),
            };
            return self.vector(words::floats(form, size), &[x, y]);
        }
        let form = match op {
            BinaryOp::Add => words::V_ADD,
            BinaryOp::Sub => words::V_SUB,
            BinaryOp::Mul => words::V_MUL,
            BinaryOp::And => return self.vector(words::bytes(words::V_AND), &[x, y]),
            BinaryOp::Or => return self.vector(words::bytes(words::V_ORR), &[x, y]),
            BinaryOp::Xor => return self.vector(words::bytes(words::V_EOR), &[x, y]),
            BinaryOp::Min | BinaryOp::Max if size == Size::D => {
                let form = if signed { words::V_CMGT } else { words::V_CMHI };
                let greater = self.vector(words::lanes(form, size), &[x, y]);
                let (yes, no) = if op == BinaryOp::Max { (x, y) } else { (y, x) };
                return self.tied(words::bytes(words::V_BSL), greater, &[yes, no]);
            }
            BinaryOp::Min if signed => words::V_SMIN,
            BinaryOp::Max if signed => words::V_SMAX,
            BinaryOp::Min => words::V_UMIN,
            BinaryOp::Max => words::V_UMAX,
            BinaryOp::Shl => words::V_USHL,
            BinaryOp::Shr => {
                let back = self.vector(words::lanes(words::V_NEG, size), &[y]);
                let form = if signed { words::V_SSHL } else { words::V_USHL };
                return self.vector(words::lanes(form, size), &[x, back]);
            }
            other => panic!("legalisation leaves no {} here", other.name()),
        };
        self.vector(words::lanes(form, size), &[x, y])
    }

    pub(super) fn scalar_binary(&mut self, op: BinaryOp, dtype: DType, x: VReg, y: VReg) -> VReg {
        let (size, signed) = (lane_size(dtype), dtype.is_signed_int());
        if dtype.is_float() {
            let form = match op {
                BinaryOp::Add => words::FADD,
                BinaryOp::Sub => words::FSUB,
                BinaryOp::Mul => words::FMUL,
                BinaryOp::Div => words::FDIV,
                BinaryOp::Min => words::FMIN,
                BinaryOp::Max => words::FMAX,
                other => panic!("legalisation leaves no {} of floats", other.name()),
            };
            return self.vector(words::scalar(form, size), &[x, y]);
        }
        let wide = size == Size::D;
        let result = match op {
            BinaryOp::Add => self.general(words::ADD, wide, &[x, y]),
            BinaryOp::Sub => self.general(words::SUB, wide, &[x, y]),
            BinaryOp::Mul => self.general(words::MUL, wide, &[x, y]),
            BinaryOp::And => return self.general(words::AND, wide, &[x, y]),
            BinaryOp::Or => return self.general(words::ORR, wide, &[x, y]),
            BinaryOp::Xor => return self.general(words::EOR, wide, &[x, y]),
            BinaryOp::Min | BinaryOp::Max => {
                let condition = match (op, signed) {
                    (BinaryOp::Min, true) => Condition::Less,
                    (BinaryOp::Min, false) => Condition::Lower,
                    (_, true) => Condition::Greater,
                    (_, false) => Condition::Higher,
                };
                return self.chosen(wide, [x, y], condition, [x, y]);
            }
            BinaryOp::Shl => self.general(words::LSLV, wide, &[x, y]),
            BinaryOp::Shr if signed => return self.general(words::ASRV, wide, &[x, y]),
            BinaryOp::Shr => return self.general(words::LSRV, wide, &[x, y]),
            // By 0 the instruction gives 0, of the least number by -1 that number.
            BinaryOp::Div => self.general(if signed { words::SDIV } else { words::UDIV }, wide, &[x, y]),
            BinaryOp::Rem => {
                let quotient = self.general(if signed { words::SDIV } else { words::UDIV }, wide, &[x, y]);
                let rest = self.general(words::MSUB, wide, &[quotient, y, x]);
                let zero = self.immediate(0);
                return self.chosen(wide, [y, zero], Condition::Equal, [zero, rest]);
            }
            other => panic!("legalisation leaves no {} here", other.name()),
        };
        self.normalized(dtype, result)
    }

    /// One of two general registers by a comparison of two others.
    fn chosen(&mut self, wide: bool, [a, b]: [VReg; 2], condition: Condition, [yes, no]: [VReg; 2]) -> VReg {
        let compare = words::general(words::CMP, wide).fields(&[(1, 5), (2, 16)]);
        let choose = words::conditional(words::CSEL, condition).fields(&[(0, 0), (3, 5), (4, 16)]);
        self.several(GENERAL, &[compare, choose], &[a, b, yes, no])
    }

    fn compare(&mut self, op: CmpOp, a: Val, b: Val) -> Result<Registers, Unsupported> {
        let ty = self.ty(a);
        let (dtype, size, signed) = (ty.dtype, lane_size(ty.dtype), ty.dtype.is_signed_int());
        if ty.lanes == 1 {
            let value = self.integer_of(b);
            let (x, y) = (self.get1(a)?, self.get1(b)?);
            return Ok(smallvec![self.scalar_compare(op, dtype, x, y, value)]);
        }
        let (x, y) = (self.get(a)?, self.get(b)?);
        let swapped = matches!(op, CmpOp::Lt | CmpOp::Le);
        let form = match (op, dtype.is_float()) {
            (CmpOp::Eq | CmpOp::Ne, true) => words::V_FCMEQ,
            (CmpOp::Lt | CmpOp::Gt, true) => words::V_FCMGT,
            (CmpOp::Le | CmpOp::Ge, true) => words::V_FCMGE,
            (CmpOp::Eq | CmpOp::Ne, false) => words::V_CMEQ,
            (CmpOp::Lt | CmpOp::Gt, false) if signed => words::V_CMGT,
            (CmpOp::Lt | CmpOp::Gt, false) => words::V_CMHI,
            (CmpOp::Le | CmpOp::Ge, false) if signed => words::V_CMGE,
            (CmpOp::Le | CmpOp::Ge, false) => words::V_CMHS,
        };
        let word = if dtype.is_float() { words::floats(form, size) } else { words::lanes(form, size) };
        let masks = x.into_iter().zip(y).map(|(x, y)| {
            let mask = self.vector(word.clone(), &if swapped { [y, x] } else { [x, y] });
            if op == CmpOp::Ne { self.vector(words::bytes(words::V_NOT), &[mask]) } else { mask }
        });
        let masks = masks.collect();
        Ok(self.resized(masks, ty.lanes, [size, Size::S], true))
    }

    fn scalar_compare(&mut self, op: CmpOp, dtype: DType, x: VReg, y: VReg, value: Option<i64>) -> VReg {
        let size = lane_size(dtype);
        if dtype.is_float() {
            let condition = match op {
                CmpOp::Eq => Condition::Equal,
                CmpOp::Ne => Condition::NotEqual,
                CmpOp::Lt => Condition::Minus,
                CmpOp::Le => Condition::LowerOrSame,
                CmpOp::Gt => Condition::Greater,
                CmpOp::Ge => Condition::GreaterOrEqual,
            };
            let compare = words::scalar(words::FCMP, size).fields(&[(1, 5), (2, 16)]);
            return self.several(GENERAL, &[compare, words::condition_set(condition)], &[x, y]);
        }
        let condition = match (op, dtype.is_signed_int()) {
            (CmpOp::Eq, _) => Condition::Equal,
            (CmpOp::Ne, _) => Condition::NotEqual,
            (CmpOp::Lt, true) => Condition::Less,
            (CmpOp::Le, true) => Condition::LessOrEqual,
            (CmpOp::Gt, true) => Condition::Greater,
            (CmpOp::Ge, true) => Condition::GreaterOrEqual,
            (CmpOp::Lt, false) => Condition::Lower,
            (CmpOp::Le, false) => Condition::LowerOrSame,
            (CmpOp::Gt, false) => Condition::Higher,
            (CmpOp::Ge, false) => Condition::HigherOrSame,
        };
        let (compare, operands) = self.comparison(size == Size::D, x, y, value);
        let compare = compare.renumbered(1);
        self.several(GENERAL, &[compare, words::condition_set(condition)], &operands)
    }

    fn select_lanes(&mut self, mask: Val, a: Val, b: Val) -> Result<Registers, Unsupported> {
        let ty = self.ty(a);
        let size = lane_size(ty.dtype);
        let (masks, x, y) = (self.get(mask)?, self.get(a)?, self.get(b)?);
        if ty.lanes == 1 {
            let (compare, _) = self.comparison(false, masks[0], masks[0], Some(0));
            let compare = compare.renumbered(1);
            let condition = Condition::NotEqual;
            let (choose, class) = match class(ty) {
                GENERAL => (words::conditional(words::CSEL, condition), GENERAL),
                _ => {
                    let mut word = words::scalar(words::FCSEL, size.max(Size::S)).or((condition as u32) << 12);
                    word.shapes[1] = condition.name();
                    (word, VECTOR)
                }
            };
            let choose = choose.fields(&[(0, 0), (2, 5), (3, 16)]);
            return Ok(smallvec![self.several(class, &[compare, choose], &[masks[0], x[0], y[0]])]);
        }
        let masks = self.resized(masks, ty.lanes, [Size::S, size], true);
        let triples = masks.into_iter().zip(x).zip(y);
        Ok(triples.map(|((mask, x), y)| self.tied(words::bytes(words::V_BSL), mask, &[x, y])).collect())
    }

    fn mul_add(&mut self, [a, b, acc]: [Val; 3], mode: FmaMode) -> Result<Registers, Unsupported> {
        let ty = self.ty(acc);
        let size = lane_size(ty.dtype);
        let lane_of = |this: &Self, v: Val| match this.held[v] {
            Some(Held::Lane(vector, lane)) if ty.dtype == DType::F32 => Some((vector, lane)),
            _ => None,
        };
        if mode == FmaMode::Fused
            && let Some((other, (vector, lane))) =
                lane_of(self, a).map(|l| (b, l)).or_else(|| lane_of(self, b).map(|l| (a, l)))
        {
            let (values, sums) = (self.get(other)?, self.get(acc)?);
            let word = words::by_lane(words::FMLA_LANE, lane);
            return Ok(values
                .into_iter()
                .zip(sums)
                .map(|(x, sum)| self.tied(word.clone(), sum, &[x, vector]))
                .collect());
        }
        let (x, y, sums) = (self.get(a)?, self.get(b)?, self.get(acc)?);
        let triples = x.into_iter().zip(y).zip(sums);
        let results = triples.map(|((x, y), sum)| match (ty.lanes, mode) {
            (1, FmaMode::Fused) => self.vector(words::scalar(words::FMADD, size), &[x, y, sum]),
            (_, FmaMode::Fused) => self.tied(words::floats(words::V_FMLA, size), sum, &[x, y]),
            (_, FmaMode::Separate) => {
                let product = self.binary_part(BinaryOp::Mul, ty, x, y);
                self.binary_part(BinaryOp::Add, ty, product, sum)
            }
        });
        Ok(results.collect())
    }

    fn dot4(&mut self, [a, b, acc]: [Val; 3], types: [DType; 2]) -> Result<Registers, Unsupported> {
        let mixed = types[0] != types[1];
        if !self.features.dotprod || mixed && !self.features.i8mm {
            return Err(Unsupported("dot products of bytes on a processor that has none"));
        }
        let signed = |dtype: DType| dtype == DType::I8;
        for (lanes, other, [lane_type, type_]) in [(a, b, types), (b, a, [types[1], types[0]])] {
            let Some(Held::Lane(vector, lane)) = self.held[lanes] else { continue };
            let form = match (signed(type_), signed(lane_type)) {
                (true, true) => words::SDOT_LANE,
                (false, false) => words::UDOT_LANE,
                (false, true) => words::USDOT_LANE,
                (true, false) => words::SUDOT_LANE,
            };
            let (values, sums) = (self.get(other)?, self.get(acc)?);
            let word = words::by_lane(form, lane);
            return Ok(values
                .into_iter()
                .zip(sums)
                .map(|(x, sum)| self.tied(word.clone(), sum, &[x, vector]))
                .collect());
        }
        // The instruction takes the unsigned factor first.
        let ([a, b], form) = match types.map(signed) {
            [true, true] => ([a, b], words::SDOT),
            [false, false] => ([a, b], words::UDOT),
            [false, true] => ([a, b], words::USDOT),
            [true, false] => ([b, a], words::USDOT),
        };
        let (x, y, sums) = (self.get(a)?, self.get(b)?, self.get(acc)?);
        Ok(x.into_iter().zip(y).zip(sums).map(|((x, y), sum)| self.tied(Word::new(form), sum, &[x, y])).collect())
    }

    /// An instruction of two vector registers, by its form alone.
    pub(super) fn plain(&mut self, form: Form, uses: &[VReg]) -> VReg {
        self.vector(Word::new(form), uses)
    }
}
