//! Conversions between types, by value and by bits.

use iced_x86::Code;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{LaneType, Val};
use regalloc2::VReg;
use smallvec::smallvec;

use super::Unsupported;
use super::codes;
use super::machine::{GENERAL, MASK, Operand, WIDE};
use super::select::{Registers, Select};
use super::vectors::is_wide;

impl Select<'_> {
    pub(super) fn bitcast(&mut self, a: Val, result: Val) -> Result<Registers, Unsupported> {
        let (from, to) = (self.kernel.ty(a), self.kernel.ty(result));
        match (is_wide(from), is_wide(to)) {
            (true, true) if from.lanes > 1 && (from.dtype == DType::F16 || to.dtype == DType::F16) => {
                self.bitcast_halves(to, a, result)
            }
            (true, true) if to.dtype.bits() < 32 => self.narrow_lanes(to, a),
            (true, true) => self.get(a),
            (false, false) => {
                let register = self.get1(a)?;
                Ok(smallvec![self.normalize(register, to.dtype)?])
            }
            (true, false) => {
                let register = self.get1(a)?;
                let general = self.def(GENERAL);
                let code = if from.dtype == DType::F64 { Code::EVEX_Vmovq_rm64_xmm } else { Code::EVEX_Vmovd_rm32_xmm };
                self.op(code, smallvec![Operand::Def(general), Operand::Use(register)]);
                Ok(smallvec![self.normalize(general, to.dtype)?])
            }
            (false, true) => {
                let register = self.get1(a)?;
                let code = if to.dtype == DType::F64 { Code::EVEX_Vmovq_xmm_rm64 } else { Code::EVEX_Vmovd_xmm_rm32 };
                Ok(smallvec![self.op2(code, register)])
            }
        }
    }

    pub(super) fn cast(&mut self, from: LaneType, to: LaneType, a: Val) -> Result<Registers, Unsupported> {
        use DType::*;
        match (from.dtype, to.dtype) {
            (from, to) if from == to => return self.get(a),
            (F16, F32) => return self.widen_halves(to, a),
            (F32, F16) => return self.round_halves(from, a),
            _ => {}
        }
        if from.lanes > 1 {
            return self.cast_vector(from, to, a);
        }
        match (from.dtype, to.dtype) {
            (F32, F64) | (F64, F32) => {
                let code = if to.dtype == F64 {
                    Code::EVEX_Vcvtss2sd_xmm_k1z_xmm_xmmm32_sae
                } else {
                    Code::EVEX_Vcvtsd2ss_xmm_k1z_xmm_xmmm64_er
                };
                self.each(a, |this, r| this.op3(code, r, r))
            }
            (F32 | F64, I32 | I64) => {
                let register = self.get1(a)?;
                Ok(smallvec![self.float_to_int(register, from.dtype, to.dtype)])
            }
            (F32 | F64, _) => Err(Unsupported("this conversion of a float")),
            (U64, F32 | F64) => {
                let register = self.get1(a)?;
                let code = if to.dtype == F32 {
                    Code::EVEX_Vcvtusi2ss_xmm_xmm_rm64_er
                } else {
                    Code::EVEX_Vcvtusi2sd_xmm_xmm_rm64_er
                };
                Ok(smallvec![self.int_to_float(code, register)])
            }
            (_, F32 | F64) => {
                // All other integers are held in 64 bits by value.
                let register = self.get1(a)?;
                let code = if to.dtype == F32 {
                    Code::EVEX_Vcvtsi2ss_xmm_xmm_rm64_er
                } else {
                    Code::EVEX_Vcvtsi2sd_xmm_xmm_rm64_er
                };
                Ok(smallvec![self.int_to_float(code, register)])
            }
            _ => {
                let register = self.get1(a)?;
                Ok(smallvec![self.normalize(register, to.dtype)?])
            }
        }
    }

    fn int_to_float(&mut self, code: Code, register: VReg) -> VReg {
        let zero = self.immediate(0);
        let upper = self.op2(Code::EVEX_Vmovq_xmm_rm64, zero);
        self.op3(code, upper, register)
    }

    /// Truncation that saturates; NaN gives 0. The instruction gives the least integer for whatever does not fit.
    fn float_to_int(&mut self, register: VReg, from: DType, to: DType) -> VReg {
        let double = from == DType::F64;
        let code = match (double, to) {
            (false, DType::I32) => Code::EVEX_Vcvttss2si_r32_xmmm32_sae,
            (false, _) => Code::EVEX_Vcvttss2si_r64_xmmm32_sae,
            (true, DType::I32) => Code::EVEX_Vcvttsd2si_r32_xmmm64_sae,
            (true, _) => Code::EVEX_Vcvttsd2si_r64_xmmm64_sae,
        };
        let truncated = self.def(GENERAL);
        self.op(code, smallvec![Operand::Def(truncated), Operand::Use(register)]);
        let truncated = match to {
            DType::I32 => {
                let wide = self.def(GENERAL);
                self.op(Code::Movsxd_r64_rm32, smallvec![Operand::Def(wide), Operand::Use(truncated)]);
                wide
            }
            _ => truncated,
        };
        let most = self.immediate(if to == DType::I32 { i64::from(i32::MAX) } else { i64::MAX });
        let zero = self.immediate(0);
        // The first float above the range is exact in both types.
        let bound = match (double, to) {
            (false, DType::I32) => i64::from(2147483648f32.to_bits()),
            (false, _) => i64::from(9223372036854775808f32.to_bits()),
            (true, DType::I32) => 2147483648f64.to_bits() as i64,
            (true, _) => 9223372036854775808f64.to_bits() as i64,
        };
        let bound = self.immediate(bound);
        let bound = self.op2(if double { Code::EVEX_Vmovq_xmm_rm64 } else { Code::EVEX_Vmovd_xmm_rm32 }, bound);
        let ucomi = if double { Code::EVEX_Vucomisd_xmm_xmmm64_sae } else { Code::EVEX_Vucomiss_xmm_xmmm32_sae };
        self.op(ucomi, smallvec![Operand::Use(register), Operand::Use(bound)]);
        let high = self.def(GENERAL);
        self.op(Code::Cmovae_r64_rm64, smallvec![Operand::Tied(truncated, high), Operand::Use(most)]);
        self.op(ucomi, smallvec![Operand::Use(register), Operand::Use(register)]);
        let result = self.def(GENERAL);
        self.op(Code::Cmovp_r64_rm64, smallvec![Operand::Tied(high, result), Operand::Use(zero)]);
        result
    }

    fn cast_vector(&mut self, from: LaneType, to: LaneType, a: Val) -> Result<Registers, Unsupported> {
        use DType::*;
        let from_pieces = self.pieces(from)?;
        let pieces = self.pieces(to)?;
        match (from.dtype, to.dtype) {
            (Bool, F32 | I32 | U32 | F64 | I64 | U64 | I8 | U8 | I16 | U16) => {
                let one = if to.dtype == F32 {
                    i64::from(1f32.to_bits())
                } else if to.dtype == F64 {
                    1f64.to_bits() as i64
                } else {
                    1
                };
                let ones = self.pattern(pieces, one);
                let masks = self.get(a)?;
                let masks = self.masks_for(masks, pieces);
                let code = if pieces.bits == 64 { codes::LOAD_PD } else { codes::LOAD_PS }[pieces.width];
                let mut results = Registers::new();
                for mask in masks {
                    let result = self.def(WIDE);
                    self.op_masked(code, smallvec![Operand::Def(result), Operand::Use(ones)], mask, true);
                    results.push(result);
                }
                Ok(results)
            }
            (I8 | U8 | I16 | U16, I32 | U32) => self.get(a),
            (I32 | U32 | I8 | U8 | I16 | U16, I8 | U8 | I16 | U16) => self.narrow_lanes(to, a),
            (I32 | I8 | U8 | I16 | U16, F32) => self.each(a, |this, r| this.op2(codes::I32_TO_F32[pieces.width], r)),
            (U32, F32) => self.each(a, |this, r| this.op2(codes::U32_TO_F32[pieces.width], r)),
            (I64, F64) => self.each(a, |this, r| this.op2(codes::I64_TO_F64[pieces.width], r)),
            (I32, U32) | (U32, I32) | (I64, U64) | (U64, I64) => self.get(a),
            (F32, I32) => {
                // The instruction gives the least integer for what does not fit; too large and NaN are mended.
                let bound = self.pattern(pieces, i64::from(2147483648f32.to_bits()));
                let most = self.pattern(pieces, i64::from(i32::MAX));
                self.each(a, |this, r| {
                    let truncated = this.op2(codes::F32_TO_I32[pieces.width], r);
                    let high = this.def(MASK);
                    let ge =
                        smallvec![Operand::Def(high), Operand::Use(r), Operand::Use(bound), Operand::Immediate(0x1d)];
                    this.op(codes::CMP_PS[pieces.width], ge);
                    let capped = this.def(WIDE);
                    let blend = smallvec![Operand::Def(capped), Operand::Use(truncated), Operand::Use(most)];
                    this.op_masked(codes::BLEND_PS[pieces.width], blend, high, false);
                    let ordered = this.def(MASK);
                    let ord = smallvec![Operand::Def(ordered), Operand::Use(r), Operand::Use(r), Operand::Immediate(7)];
                    this.op(codes::CMP_PS[pieces.width], ord);
                    let result = this.def(WIDE);
                    let keep = smallvec![Operand::Def(result), Operand::Use(capped)];
                    this.op_masked(codes::LOAD_PS[pieces.width], keep, ordered, true);
                    result
                })
            }
            (F32, F64) => {
                let code = [
                    Code::EVEX_Vcvtps2pd_xmm_k1z_xmmm64b32,
                    Code::EVEX_Vcvtps2pd_ymm_k1z_xmmm128b32,
                    Code::EVEX_Vcvtps2pd_zmm_k1z_ymmm256b32_sae,
                ][pieces.width];
                let registers = self.get(a)?;
                let mut results = Registers::new();
                for r in registers {
                    results.push(self.op2(code, r));
                    if from.lanes > 8 {
                        let upper = self.def(WIDE);
                        let half = smallvec![Operand::Def(upper), Operand::Use(r), Operand::Immediate(1)];
                        self.op(Code::EVEX_Vextractf32x8_ymmm256_k1z_zmm_imm8, half);
                        results.push(self.op2(code, upper));
                    }
                }
                Ok(results)
            }
            (F64, F32) => {
                let code = [
                    Code::EVEX_Vcvtpd2ps_xmm_k1z_xmmm128b64,
                    Code::EVEX_Vcvtpd2ps_xmm_k1z_ymmm256b64,
                    Code::EVEX_Vcvtpd2ps_ymm_k1z_zmmm512b64_er,
                ][from_pieces.width];
                let halves = self.each(a, |this, r| this.op2(code, r))?;
                if halves.len() == 1 {
                    return Ok(halves);
                }
                let mut results = Registers::new();
                for pair in halves.chunks(2) {
                    let to = self.def(WIDE);
                    let operands = smallvec![
                        Operand::Def(to),
                        Operand::Use(pair[0]),
                        Operand::Use(pair[1]),
                        Operand::Immediate(1)
                    ];
                    self.op(Code::EVEX_Vinsertf32x8_zmm_k1z_zmm_ymmm256_imm8, operands);
                    results.push(to);
                }
                Ok(results)
            }
            (I32 | U32, I64 | U64) if from_pieces.count * 2 == pieces.count && pieces.lanes == 8 => {
                let code = if from.dtype == I32 {
                    Code::EVEX_Vpmovsxdq_zmm_k1z_ymmm256
                } else {
                    Code::EVEX_Vpmovzxdq_zmm_k1z_ymmm256
                };
                let registers = self.get(a)?;
                let mut results = Registers::new();
                for r in registers {
                    results.push(self.op2(code, r));
                    let upper = self.def(WIDE);
                    let half = smallvec![Operand::Def(upper), Operand::Use(r), Operand::Immediate(1)];
                    self.op(Code::EVEX_Vextractf32x8_ymmm256_k1z_zmm_imm8, half);
                    results.push(self.op2(code, upper));
                }
                Ok(results)
            }
            (I64 | U64, I32 | U32) if pieces.count * 2 == from_pieces.count && from_pieces.lanes == 8 => {
                let halves = self.each(a, |this, r| this.op2(Code::EVEX_Vpmovqd_ymmm256_k1z_zmm, r))?;
                let mut results = Registers::new();
                for pair in halves.chunks(2) {
                    results.push(self.def(WIDE));
                    let operands = smallvec![
                        Operand::Def(results[results.len() - 1]),
                        Operand::Use(pair[0]),
                        Operand::Use(pair[1]),
                        Operand::Immediate(1)
                    ];
                    self.op(Code::EVEX_Vinsertf32x8_zmm_k1z_zmm_ymmm256_imm8, operands);
                }
                Ok(results)
            }
            _ => Err(Unsupported("this conversion of vectors")),
        }
    }
}
