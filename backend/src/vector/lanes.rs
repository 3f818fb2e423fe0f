//! What moves between lanes: splats, single lanes, reductions, and masks of several registers.

use iced_x86::Code;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{LaneType, Val};
use onnxc_ir::scalar::BinaryOp;
use regalloc2::VReg;
use smallvec::smallvec;

use super::Unsupported;
use super::codes::{self, Wide};
use super::machine::{GENERAL, MASK, Operand, WIDE};
use super::select::{Registers, Select};
use super::vectors::is_mask;
use super::width::Pieces;

impl Select<'_> {
    /// Masks of eight lanes in pairs as masks of sixteen.
    pub(super) fn join_masks(&mut self, halves: Registers, pieces: Pieces) -> Registers {
        if pieces.bits != 64 || halves.len() == 1 {
            return halves;
        }
        halves
            .chunks(2)
            .map(|pair| {
                let to = self.def(MASK);
                let operands = smallvec![Operand::Def(to), Operand::Use(pair[1]), Operand::Use(pair[0])];
                self.op(Code::VEX_Kunpckbw_kr_kr_kr, operands);
                to
            })
            .collect()
    }

    /// The mask of each piece of a vector.
    pub(super) fn masks_for(&mut self, mask: Registers, pieces: Pieces) -> Registers {
        if pieces.bits != 64 || pieces.count == 1 {
            return mask;
        }
        mask.into_iter()
            .flat_map(|low| {
                let high = self.def(MASK);
                let operands = smallvec![Operand::Def(high), Operand::Use(low), Operand::Immediate(8)];
                self.op(Code::VEX_Kshiftrw_kr_kr_imm8, operands);
                [low, high]
            })
            .collect()
    }

    pub(super) fn mask_not(&mut self, a: Val, ty: LaneType) -> Result<Registers, Unsupported> {
        let (lanes, most) = (self.pieces(ty)?.lanes, self.isa.lanes());
        self.each(a, |this, r| {
            let flipped = this.def(MASK);
            this.op(Code::VEX_Knotw_kr_kr, smallvec![Operand::Def(flipped), Operand::Use(r)]);
            if lanes == most {
                return flipped;
            }
            // Lanes that do not exist stay 0.
            let bits = this.immediate((1 << lanes) - 1);
            let valid = this.def(MASK);
            this.op(Code::VEX_Kmovw_kr_r32, smallvec![Operand::Def(valid), Operand::Use(bits)]);
            let to = this.def(MASK);
            this.op(Code::VEX_Kandw_kr_kr_kr, smallvec![Operand::Def(to), Operand::Use(flipped), Operand::Use(valid)]);
            to
        })
    }

    pub(super) fn splat(&mut self, ty: LaneType, a: Val) -> Result<Registers, Unsupported> {
        if is_mask(ty) {
            // 0 or 1 becomes no bits or all.
            let pieces = self.pieces(ty)?;
            let truth = self.get1(a)?;
            let spread = self.def(GENERAL);
            self.op(Code::Neg_rm64, smallvec![Operand::Tied(truth, spread)]);
            let bits = self.def(GENERAL);
            let all = (1 << pieces.lanes) - 1;
            self.op(Code::And_rm64_imm32, smallvec![Operand::Tied(spread, bits), Operand::Immediate(all)]);
            let mask = self.def(MASK);
            self.op(Code::VEX_Kmovw_kr_r32, smallvec![Operand::Def(mask), Operand::Use(bits)]);
            return Ok(smallvec![mask; pieces.count]);
        }
        let pieces = self.pieces(ty)?;
        let a = self.get1(a)?;
        let code = if ty.dtype.is_float() { pieces.broadcast() } else { pieces.broadcast_general() };
        let to = self.op2(code, a);
        Ok(smallvec![to; pieces.count])
    }

    /// `0, 1, 2, ...`: doubled by blending in halves of growing length.
    pub(super) fn iota(&mut self, ty: LaneType) -> Result<Registers, Unsupported> {
        let pieces = self.pieces(ty)?;
        if ty.lanes == 1 || ty.dtype.is_float() {
            return Err(Unsupported("this sequence"));
        }
        let double = pieces.bits == 64;
        let (add, zero) = (if double { codes::ADD_Q } else { codes::ADD_D }[pieces.width], self.pattern(pieces, 0));
        let mut ramp = zero;
        let mut half = 1u32;
        while half < u32::from(pieces.lanes) {
            // The lanes whose number has this bit.
            let bits = (0..pieces.lanes).filter(|l| u32::from(*l) & half != 0).fold(0i64, |m, l| m | 1 << l);
            let bits = self.immediate(bits);
            let mask = self.def(MASK);
            self.op(Code::VEX_Kmovw_kr_r32, smallvec![Operand::Def(mask), Operand::Use(bits)]);
            let step = self.pattern(pieces, half.into());
            let masked = self.def(WIDE);
            let load = if double { codes::LOAD_PD } else { codes::LOAD_PS }[pieces.width];
            self.op_masked(load, smallvec![Operand::Def(masked), Operand::Use(step)], mask, true);
            ramp = self.op3(add, ramp, masked);
            half *= 2;
        }
        let mut registers = Registers::new();
        for piece in 0..pieces.count {
            if piece == 0 {
                registers.push(ramp);
            } else {
                let offset = self.pattern(pieces, piece as i64 * i64::from(pieces.lanes));
                registers.push(self.op3(add, ramp, offset));
            }
        }
        Ok(registers)
    }

    /// One lane as a scalar.
    pub(super) fn extract(&mut self, a: Val, lane: u16) -> Result<VReg, Unsupported> {
        let ty = self.kernel.ty(a);
        if is_mask(ty) {
            return Err(Unsupported("single lanes of masks"));
        }
        let pieces = self.pieces(ty)?;
        let register = self.get(a)?[usize::from(lane / pieces.lanes)];
        let lane = self.move_lane(register, lane % pieces.lanes, pieces);
        self.lane0(lane, ty.dtype)
    }

    /// Lane 0 of a register as a scalar of this type.
    fn lane0(&mut self, register: VReg, dtype: DType) -> Result<VReg, Unsupported> {
        if dtype.is_float() {
            return Ok(register);
        }
        let general = self.def(GENERAL);
        let code = if dtype.bits() == 64 { Code::EVEX_Vmovq_rm64_xmm } else { Code::EVEX_Vmovd_rm32_xmm };
        self.op(code, smallvec![Operand::Def(general), Operand::Use(register)]);
        self.normalize(general, dtype)
    }

    /// A register whose lane 0 is another's lane `lane`.
    fn move_lane(&mut self, register: VReg, lane: u16, pieces: Pieces) -> VReg {
        if lane == 0 {
            return register;
        }
        let to = self.def(WIDE);
        let code = if pieces.bits == 64 {
            [
                Code::EVEX_Valignq_xmm_k1z_xmm_xmmm128b64_imm8,
                Code::EVEX_Valignq_ymm_k1z_ymm_ymmm256b64_imm8,
                Code::EVEX_Valignq_zmm_k1z_zmm_zmmm512b64_imm8,
            ]
        } else {
            [
                Code::EVEX_Valignd_xmm_k1z_xmm_xmmm128b32_imm8,
                Code::EVEX_Valignd_ymm_k1z_ymm_ymmm256b32_imm8,
                Code::EVEX_Valignd_zmm_k1z_zmm_zmmm512b32_imm8,
            ]
        }[pieces.width];
        let operands = smallvec![
            Operand::Def(to),
            Operand::Use(register),
            Operand::Use(register),
            Operand::Immediate(lane.into())
        ];
        self.op(code, operands);
        to
    }

    /// All lanes combined in the tree that the IR states: lane `i` with lane `i + n/2`, and so on.
    pub(super) fn reduce(&mut self, op: BinaryOp, a: Val) -> Result<VReg, Unsupported> {
        let ty = self.kernel.ty(a);
        if is_mask(ty) {
            return self.reduce_mask(op, a, ty);
        }
        let pieces = self.pieces(ty)?;
        let mut registers = self.get(a)?.to_vec();
        // Whole registers first, then ever narrower halves of one.
        while registers.len() > 1 {
            let half = registers.len() / 2;
            let mut next = Vec::with_capacity(half);
            for i in 0..half {
                next.push(self.combine(op, ty.dtype, registers[i], registers[i + half], pieces)?);
            }
            registers = next;
        }
        let mut register = registers[0];
        let mut lanes = pieces.lanes;
        while lanes > 1 {
            lanes /= 2;
            let shifted = self.move_lane(register, lanes, pieces);
            register = self.combine(op, ty.dtype, register, shifted, pieces)?;
        }
        self.lane0(register, ty.dtype)
    }

    /// Whether all lanes of a mask are set, or any.
    fn reduce_mask(&mut self, op: BinaryOp, a: Val, ty: LaneType) -> Result<VReg, Unsupported> {
        let (combine, set) = match op {
            BinaryOp::And => (Code::VEX_Kandw_kr_kr_kr, Code::Sete_rm8),
            BinaryOp::Or => (Code::VEX_Korw_kr_kr_kr, Code::Setne_rm8),
            _ => return Err(Unsupported("this reduction of masks")),
        };
        let lanes = self.pieces(ty)?.lanes;
        let masks = self.get(a)?;
        let whole = masks.iter().copied().reduce(|x, y| {
            let to = self.def(MASK);
            self.op(combine, smallvec![Operand::Def(to), Operand::Use(x), Operand::Use(y)]);
            to
        });
        let bits = self.def(GENERAL);
        let whole = whole.expect("a mask has a register");
        self.op(Code::VEX_Kmovw_r32_kr, smallvec![Operand::Def(bits), Operand::Use(whole)]);
        let compared = if op == BinaryOp::And { (1 << lanes) - 1 } else { 0 };
        self.op(Code::Cmp_rm64_imm32, smallvec![Operand::Use(bits), Operand::Immediate(compared)]);
        let (byte, truth) = (self.def(GENERAL), self.def(GENERAL));
        self.op(set, smallvec![Operand::Def(byte)]);
        self.op(Code::Movzx_r32_rm8, smallvec![Operand::Def(truth), Operand::Use(byte)]);
        Ok(truth)
    }

    fn combine(&mut self, op: BinaryOp, dtype: DType, a: VReg, b: VReg, pieces: Pieces) -> Result<VReg, Unsupported> {
        let double = pieces.bits == 64;
        let signed = dtype.is_signed_int();
        let pick = |single: Wide, wide: Wide| if double { wide[pieces.width] } else { single[pieces.width] };
        if dtype.is_float() {
            let code = match op {
                BinaryOp::Add => pick(codes::ADD_PS, codes::ADD_PD),
                BinaryOp::Mul => pick(codes::MUL_PS, codes::MUL_PD),
                BinaryOp::Min => pick(codes::MIN_PS, codes::MIN_PD),
                BinaryOp::Max => pick(codes::MAX_PS, codes::MAX_PD),
                _ => return Err(Unsupported("this reduction")),
            };
            let combined = self.op3(code, a, b);
            if matches!(op, BinaryOp::Add | BinaryOp::Mul) {
                return Ok(combined);
            }
            let unordered = self.def(MASK);
            let operands = smallvec![Operand::Def(unordered), Operand::Use(a), Operand::Use(a), Operand::Immediate(3)];
            self.op(pick(codes::CMP_PS, codes::CMP_PD), operands);
            let to = self.def(WIDE);
            let operands = smallvec![Operand::Def(to), Operand::Use(combined), Operand::Use(a)];
            self.op_masked(pick(codes::BLEND_PS, codes::BLEND_PD), operands, unordered, false);
            return Ok(to);
        }
        let code = match op {
            BinaryOp::Add => pick(codes::ADD_D, codes::ADD_Q),
            BinaryOp::Mul => pick(codes::MUL_D, codes::MUL_Q),
            BinaryOp::And => pick(codes::AND_D, codes::AND_Q),
            BinaryOp::Or => pick(codes::OR_D, codes::OR_Q),
            BinaryOp::Xor => pick(codes::XOR_D, codes::XOR_Q),
            BinaryOp::Min if signed => pick(codes::MIN_SD, codes::MIN_SQ),
            BinaryOp::Min => pick(codes::MIN_UD, codes::MIN_UQ),
            BinaryOp::Max if signed => pick(codes::MAX_SD, codes::MAX_SQ),
            BinaryOp::Max => pick(codes::MAX_UD, codes::MAX_UQ),
            _ => return Err(Unsupported("this reduction")),
        };
        Ok(self.op3(code, a, b))
    }
}
