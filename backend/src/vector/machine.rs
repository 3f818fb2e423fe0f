//! The instructions of x86-64, before registers are allocated.
//!
//! An instruction is an encoding ([`Code`]) with its operands in the encoding's order, so that selection picks the exact
//! instruction and emission only fills in registers.

use iced_x86::{Code, Mnemonic};
use regalloc2::{Operand as Constraint, RegClass, VReg};
use smallvec::SmallVec;

use super::registers;
pub use crate::machine::Label;
use crate::machine::{Flow, MachineInstruction};

/// A function under construction.
pub type MachineCode = crate::machine::MachineCode<MachineInst>;

/// The instruction set that kernels are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX2, FMA, BMI1 and BMI2: 16 registers of 256 bits.
    Avx2,
    /// AVX-512 F, VL, DQ and BW: 32 registers of 512 bits and masks.
    Avx512,
    /// The same with VNNI: dot products of four unsigned and four signed bytes.
    Avx512Vnni,
}

impl Isa {
    /// Lanes of 32 bits in a register.
    pub fn lanes(self) -> u16 {
        match self {
            Isa::Avx2 => 8,
            Isa::Avx512 | Isa::Avx512Vnni => 16,
        }
    }
}

/// A memory operand: `[base + index * scale + displacement]`.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Base address.
    pub base: VReg,
    /// Index with its scale: 1, 2, 4 or 8.
    pub index: Option<(VReg, u32)>,
    /// Constant part in bytes.
    pub displacement: i32,
}

/// An operand in the order of the encoding.
#[derive(Clone, Copy, Debug)]
pub enum Operand {
    /// Written.
    Def(VReg),
    /// Read.
    Use(VReg),
    /// Read as the first and written as the second; one register.
    Tied(VReg, VReg),
    /// Memory.
    Memory(Memory),
    /// An immediate.
    Immediate(i64),
    /// A constant in memory that the instruction puts into all lanes.
    Constant(Pattern),
}

/// The bits of a constant lane, of 32 or 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// 64 bits.
    Wide(u64),
    /// 32 bits.
    Narrow(u32),
}

/// An instruction.
#[derive(Clone, Debug)]
pub enum MachineInst {
    /// A single instruction.
    Op {
        /// The encoding.
        code: Code,
        /// The operands.
        operands: SmallVec<[Operand; 4]>,
        /// The mask register of the lanes that take part.
        mask: Option<VReg>,
        /// Whether lanes that take no part become zero; otherwise the destination keeps them or memory is not touched.
        zeroing: bool,
    },
    /// Defines the six arguments of a kernel.
    Arguments([VReg; 6]),
    /// 64-bit division. Neither divisor 0 nor overflow occurs: selection has replaced both.
    Divide {
        /// Signed or unsigned.
        signed: bool,
        /// Dividend.
        dividend: VReg,
        /// Divisor.
        divisor: VReg,
        /// Quotient.
        quotient: VReg,
        /// Remainder.
        remainder: VReg,
    },
    /// Reads lanes from `base + index * scale`; the mask is consumed.
    Gather {
        /// The encoding.
        code: Code,
        /// Lanes before, which stay where the mask is clear.
        from: VReg,
        /// Result.
        to: VReg,
        /// Base, index vector in `index`, constant part.
        memory: Memory,
        /// The mask before.
        mask: VReg,
        /// The mask after: zero.
        spent: VReg,
    },
    /// Writes lanes to `base + index * scale`, in their order; the mask is consumed.
    Scatter {
        /// The encoding.
        code: Code,
        /// The lanes.
        value: VReg,
        /// Base, index vector in `index`, constant part.
        memory: Memory,
        /// The mask before.
        mask: VReg,
        /// The mask after: zero.
        spent: VReg,
    },
    /// Goes to a block with values for its parameters.
    Jump(Label, SmallVec<[VReg; 8]>),
    /// Goes to one of two blocks without parameters, by the flags that the instruction before has set.
    Branch {
        /// The conditional jump's encoding, taken for `then`.
        code: Code,
        /// Where the condition leads.
        then: Label,
        /// Otherwise.
        otherwise: Label,
    },
    /// Ends the function.
    Return,
}

/// General registers.
pub const GENERAL: RegClass = RegClass::Int;
/// Vector registers, also for floating-point scalars.
pub const WIDE: RegClass = RegClass::Float;
/// Mask registers.
pub const MASK: RegClass = RegClass::Vector;

impl MachineInstruction for MachineInst {
    fn constraints(&self) -> Vec<Constraint> {
        registers::constraints(self)
    }

    fn definitions(&self) -> Vec<VReg> {
        match self {
            MachineInst::Op { operands, .. } => operands
                .iter()
                .filter_map(|operand| match operand {
                    Operand::Def(v) | Operand::Tied(_, v) => Some(*v),
                    Operand::Use(_) | Operand::Memory(_) | Operand::Immediate(_) | Operand::Constant(_) => None,
                })
                .collect(),
            MachineInst::Arguments(registers) => registers.to_vec(),
            MachineInst::Divide { quotient, remainder, .. } => vec![*quotient, *remainder],
            MachineInst::Gather { to, spent, .. } => vec![*to, *spent],
            MachineInst::Scatter { spent, .. } => vec![*spent],
            MachineInst::Jump(..) | MachineInst::Branch { .. } | MachineInst::Return => vec![],
        }
    }

    fn uses(&self) -> Vec<VReg> {
        let memory = |m: &Memory| std::iter::once(m.base).chain(m.index.map(|(index, _)| index)).collect::<Vec<_>>();
        match self {
            MachineInst::Op { operands, mask, .. } => {
                let operands = operands.iter().flat_map(|operand| match operand {
                    Operand::Use(v) | Operand::Tied(v, _) => vec![*v],
                    Operand::Memory(m) => memory(m),
                    Operand::Def(_) | Operand::Immediate(_) | Operand::Constant(_) => vec![],
                });
                operands.chain(*mask).collect()
            }
            MachineInst::Divide { dividend, divisor, .. } => vec![*dividend, *divisor],
            MachineInst::Gather { from, memory: m, mask, .. } => memory(m).into_iter().chain([*from, *mask]).collect(),
            MachineInst::Scatter { value, memory: m, mask, .. } => {
                memory(m).into_iter().chain([*value, *mask]).collect()
            }
            MachineInst::Arguments(_) | MachineInst::Jump(..) | MachineInst::Branch { .. } | MachineInst::Return => {
                vec![]
            }
        }
    }

    fn has_effect(&self) -> bool {
        match self {
            MachineInst::Op { operands, .. } => {
                let touches = operands.iter().any(|operand| matches!(operand, Operand::Memory(_)));
                touches && self.definitions().is_empty()
            }
            MachineInst::Divide { .. } | MachineInst::Gather { .. } => false,
            MachineInst::Scatter { .. }
            | MachineInst::Arguments(_)
            | MachineInst::Jump(..)
            | MachineInst::Branch { .. }
            | MachineInst::Return => true,
        }
    }

    fn reads_flags(&self) -> bool {
        match self {
            MachineInst::Branch { .. } => true,
            MachineInst::Op { code, .. } => matches!(
                code.op_code().mnemonic(),
                Mnemonic::Cmova
                    | Mnemonic::Cmovae
                    | Mnemonic::Cmovb
                    | Mnemonic::Cmovbe
                    | Mnemonic::Cmove
                    | Mnemonic::Cmovg
                    | Mnemonic::Cmovge
                    | Mnemonic::Cmovl
                    | Mnemonic::Cmovle
                    | Mnemonic::Cmovne
                    | Mnemonic::Cmovp
                    | Mnemonic::Seta
                    | Mnemonic::Setae
                    | Mnemonic::Setb
                    | Mnemonic::Setbe
                    | Mnemonic::Sete
                    | Mnemonic::Setg
                    | Mnemonic::Setge
                    | Mnemonic::Setl
                    | Mnemonic::Setle
                    | Mnemonic::Setne
            ),
            _ => false,
        }
    }

    fn flow(&self) -> Flow<'_> {
        match self {
            MachineInst::Jump(to, arguments) => Flow::Jump(*to, arguments),
            MachineInst::Branch { then, otherwise, .. } => Flow::Branch([*then, *otherwise]),
            MachineInst::Return => Flow::Return,
            _ => Flow::On,
        }
    }

    fn jump(to: Label, arguments: SmallVec<[VReg; 8]>) -> Self {
        MachineInst::Jump(to, arguments)
    }

    fn arguments_mut(&mut self) -> Option<(Label, &mut SmallVec<[VReg; 8]>)> {
        match self {
            MachineInst::Jump(to, arguments) => Some((*to, arguments)),
            _ => None,
        }
    }

    fn spill_words(class: RegClass) -> usize {
        match class {
            RegClass::Int | RegClass::Vector => 1,
            RegClass::Float => 8,
        }
    }
}
