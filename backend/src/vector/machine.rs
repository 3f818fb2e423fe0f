//! Machine code before registers are allocated: blocks of instructions over virtual registers.
//!
//! An instruction is an encoding ([`Code`]) with its operands in the encoding's order, so that selection picks the exact
//! instruction and emission only fills in registers. Blocks have parameters; a conditional branch passes no arguments,
//! so every edge that carries values is an unconditional jump (critical edges are split by construction).

use iced_x86::Code;
use regalloc2::{RegClass, VReg};
use smallvec::SmallVec;

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

/// A block of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(pub u32);

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

/// A block's instructions.
#[derive(Clone, Debug, Default)]
pub struct MachineBlock {
    /// Defined at entry.
    pub params: Vec<VReg>,
    /// The last is a jump, branch or return.
    pub insts: Vec<MachineInst>,
}

/// A function under construction.
#[derive(Clone, Debug, Default)]
pub struct MachineCode {
    /// The blocks by label.
    pub blocks: Vec<MachineBlock>,
    /// The order of the blocks in memory.
    pub layout: Vec<Label>,
    /// How many virtual registers there are.
    pub registers: usize,
}

/// General registers.
pub const GENERAL: RegClass = RegClass::Int;
/// Vector registers, also for floating-point scalars.
pub const WIDE: RegClass = RegClass::Float;
/// Mask registers.
pub const MASK: RegClass = RegClass::Vector;

impl MachineCode {
    /// A new virtual register.
    pub fn register(&mut self, class: RegClass) -> VReg {
        self.registers += 1;
        VReg::new(self.registers - 1, class)
    }

    /// A new block, not yet in the layout.
    pub fn block(&mut self) -> Label {
        self.blocks.push(MachineBlock::default());
        Label(self.blocks.len() as u32 - 1)
    }
}
