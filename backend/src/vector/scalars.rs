//! Integer and boolean scalars: general registers that hold the value extended to 64 bits by its type's signedness.

use iced_x86::Code;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::Val;
use onnxc_ir::scalar::{BinaryOp, CmpOp, UnaryOp};
use regalloc2::VReg;
use smallvec::smallvec;

use super::Unsupported;
use super::machine::{GENERAL, Operand};
use super::select::Select;

impl Select<'_> {
    /// Brings a result that may have overflowed back to its type: the bits beyond its width follow from the type.
    pub(super) fn normalize(&mut self, register: VReg, dtype: DType) -> Result<VReg, Unsupported> {
        let code = match dtype {
            DType::I64 | DType::U64 | DType::Bool => return Ok(register),
            DType::I32 => Code::Movsxd_r64_rm32,
            DType::U32 => Code::Mov_r32_rm32,
            DType::I16 => Code::Movsx_r64_rm16,
            DType::U16 => Code::Movzx_r32_rm16,
            DType::I8 => Code::Movsx_r64_rm8,
            DType::U8 => Code::Movzx_r32_rm8,
            _ => return Err(Unsupported("scalars of this type")),
        };
        let to = self.def(GENERAL);
        self.op(code, smallvec![Operand::Def(to), Operand::Use(register)]);
        Ok(to)
    }

    fn tied(&mut self, code: Code, a: VReg, b: Operand) -> VReg {
        let to = self.def(GENERAL);
        self.op(code, smallvec![Operand::Tied(a, to), b]);
        to
    }

    pub(super) fn general_unary(&mut self, op: UnaryOp, a: VReg, dtype: DType) -> Result<VReg, Unsupported> {
        let result = match op {
            UnaryOp::Neg => {
                let to = self.def(GENERAL);
                self.op(Code::Neg_rm64, smallvec![Operand::Tied(a, to)]);
                to
            }
            UnaryOp::Not if dtype == DType::Bool => self.tied(Code::Xor_rm64_imm32, a, Operand::Immediate(1)),
            UnaryOp::Not => {
                let to = self.def(GENERAL);
                self.op(Code::Not_rm64, smallvec![Operand::Tied(a, to)]);
                to
            }
            UnaryOp::Abs if dtype.is_unsigned_int() => a,
            UnaryOp::Abs => {
                // (a ^ s) - s with s the sign in all bits.
                let sign = self.tied(Code::Sar_rm64_imm8, a, Operand::Immediate(63));
                let flipped = self.tied(Code::Xor_r64_rm64, a, Operand::Use(sign));
                self.tied(Code::Sub_r64_rm64, flipped, Operand::Use(sign))
            }
            _ => return Err(Unsupported("this operator on integers")),
        };
        self.normalize(result, dtype)
    }

    pub(super) fn general_binary(&mut self, op: BinaryOp, a: Val, b: Val, dtype: DType) -> Result<VReg, Unsupported> {
        let signed = dtype.is_signed_int();
        let right = self.immediate_of(b);
        let result = match op {
            BinaryOp::Add | BinaryOp::Sub | BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => {
                let (register, immediate) = match op {
                    BinaryOp::Add => (Code::Add_r64_rm64, Code::Add_rm64_imm32),
                    BinaryOp::Sub => (Code::Sub_r64_rm64, Code::Sub_rm64_imm32),
                    BinaryOp::And => (Code::And_r64_rm64, Code::And_rm64_imm32),
                    BinaryOp::Or => (Code::Or_r64_rm64, Code::Or_rm64_imm32),
                    _ => (Code::Xor_r64_rm64, Code::Xor_rm64_imm32),
                };
                let left = self.get1(a)?;
                match right {
                    Some(i) => self.tied(immediate, left, Operand::Immediate(i)),
                    None => {
                        let right = self.get1(b)?;
                        self.tied(register, left, Operand::Use(right))
                    }
                }
            }
            BinaryOp::Mul => {
                let left = self.get1(a)?;
                match right {
                    Some(i) => {
                        let to = self.def(GENERAL);
                        self.op(
                            Code::Imul_r64_rm64_imm32,
                            smallvec![Operand::Def(to), Operand::Use(left), Operand::Immediate(i)],
                        );
                        to
                    }
                    None => {
                        let right = self.get1(b)?;
                        self.tied(Code::Imul_r64_rm64, left, Operand::Use(right))
                    }
                }
            }
            BinaryOp::Shl | BinaryOp::Shr => {
                let code = match (op, signed) {
                    (BinaryOp::Shl, _) => Code::VEX_Shlx_r64_rm64_r64,
                    (_, true) => Code::VEX_Sarx_r64_rm64_r64,
                    (_, false) => Code::VEX_Shrx_r64_rm64_r64,
                };
                let (left, right) = (self.get1(a)?, self.get1(b)?);
                let to = self.def(GENERAL);
                self.op(code, smallvec![Operand::Def(to), Operand::Use(left), Operand::Use(right)]);
                to
            }
            BinaryOp::Min | BinaryOp::Max => {
                let (left, right) = (self.get1(a)?, self.get1(b)?);
                self.op(Code::Cmp_r64_rm64, smallvec![Operand::Use(left), Operand::Use(right)]);
                // Takes the right one where it is better.
                let code = match (op, signed) {
                    (BinaryOp::Min, true) => Code::Cmovg_r64_rm64,
                    (BinaryOp::Min, false) => Code::Cmova_r64_rm64,
                    (_, true) => Code::Cmovl_r64_rm64,
                    (_, false) => Code::Cmovb_r64_rm64,
                };
                self.tied(code, left, Operand::Use(right))
            }
            BinaryOp::Div | BinaryOp::Rem => return self.divide(op, a, b, dtype),
            BinaryOp::Mod | BinaryOp::Pow => return Err(Unsupported("an operator that legalisation removes")),
        };
        self.normalize(result, dtype)
    }

    /// Division without traps: by 0 gives 0, the least by -1 gives itself (and remainder 0).
    fn divide(&mut self, op: BinaryOp, a: Val, b: Val, dtype: DType) -> Result<VReg, Unsupported> {
        let signed = dtype.is_signed_int();
        let dividend = self.get1(a)?;
        let known = self.immediate_of(b).filter(|&d| d > 0);
        if let Some(d) = known.filter(|d| d.count_ones() == 1 && !signed) {
            return Ok(match op {
                BinaryOp::Div => {
                    self.tied(Code::Shr_rm64_imm8, dividend, Operand::Immediate(d.trailing_zeros().into()))
                }
                _ => self.tied(Code::And_rm64_imm32, dividend, Operand::Immediate(d - 1)),
            });
        }
        let divisor = self.get1(b)?;
        let (quotient, remainder) = (self.def(GENERAL), self.def(GENERAL));
        if known.is_some() {
            self.push(super::machine::MachineInst::Divide { signed, dividend, divisor, quotient, remainder });
            return self.normalize(if op == BinaryOp::Div { quotient } else { remainder }, dtype);
        }
        // Divisors 0 and (where signed) -1 become 1; the result is mended afterwards.
        let one = self.immediate(1);
        self.op(Code::Test_rm64_r64, smallvec![Operand::Use(divisor), Operand::Use(divisor)]);
        let mut safe = self.tied(Code::Cmove_r64_rm64, divisor, Operand::Use(one));
        if signed {
            self.op(Code::Cmp_rm64_imm8, smallvec![Operand::Use(divisor), Operand::Immediate(-1)]);
            safe = self.tied(Code::Cmove_r64_rm64, safe, Operand::Use(one));
        }
        self.push(super::machine::MachineInst::Divide { signed, dividend, divisor: safe, quotient, remainder });
        let zero = self.immediate(0);
        let mut result = if op == BinaryOp::Div { quotient } else { remainder };
        if signed {
            let for_minus_one = if op == BinaryOp::Div {
                let negated = self.def(GENERAL);
                self.op(Code::Neg_rm64, smallvec![Operand::Tied(dividend, negated)]);
                negated
            } else {
                zero
            };
            self.op(Code::Cmp_rm64_imm8, smallvec![Operand::Use(divisor), Operand::Immediate(-1)]);
            result = self.tied(Code::Cmove_r64_rm64, result, Operand::Use(for_minus_one));
        }
        self.op(Code::Test_rm64_r64, smallvec![Operand::Use(divisor), Operand::Use(divisor)]);
        result = self.tied(Code::Cmove_r64_rm64, result, Operand::Use(zero));
        self.normalize(result, dtype)
    }

    /// A comparison of integers as 0 or 1.
    pub(super) fn general_compare(&mut self, op: CmpOp, a: Val, b: Val, dtype: DType) -> Result<VReg, Unsupported> {
        let left = self.get1(a)?;
        match self.immediate_of(b) {
            Some(i) => self.op(Code::Cmp_rm64_imm32, smallvec![Operand::Use(left), Operand::Immediate(i)]),
            None => {
                let right = self.get1(b)?;
                self.op(Code::Cmp_r64_rm64, smallvec![Operand::Use(left), Operand::Use(right)]);
            }
        }
        let code = match (op, dtype.is_signed_int()) {
            (CmpOp::Eq, _) => Code::Sete_rm8,
            (CmpOp::Ne, _) => Code::Setne_rm8,
            (CmpOp::Lt, true) => Code::Setl_rm8,
            (CmpOp::Le, true) => Code::Setle_rm8,
            (CmpOp::Gt, true) => Code::Setg_rm8,
            (CmpOp::Ge, true) => Code::Setge_rm8,
            (CmpOp::Lt, false) => Code::Setb_rm8,
            (CmpOp::Le, false) => Code::Setbe_rm8,
            (CmpOp::Gt, false) => Code::Seta_rm8,
            (CmpOp::Ge, false) => Code::Setae_rm8,
        };
        let (byte, to) = (self.def(GENERAL), self.def(GENERAL));
        self.op(code, smallvec![Operand::Def(byte)]);
        self.op(Code::Movzx_r32_rm8, smallvec![Operand::Def(to), Operand::Use(byte)]);
        Ok(to)
    }

    /// `condition ? a : b` in general registers.
    pub(super) fn general_select(&mut self, condition: VReg, a: VReg, b: VReg) -> VReg {
        self.op(Code::Test_rm32_r32, smallvec![Operand::Use(condition), Operand::Use(condition)]);
        self.tied(Code::Cmovne_r64_rm64, b, Operand::Use(a))
    }
}
