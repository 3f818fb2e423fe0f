//! The instructions of AArch64, before registers are allocated.
//!
//! An instruction is one word of 32 bits, or a few that belong together, whose register fields are filled in from its
//! operands. Several words are one instruction where one reads the flags that another sets, or where a branch leads from one
//! to another: what lies between them is then nobody else's.

use regalloc2::{Operand as Constraint, PReg, RegClass, VReg};
use smallvec::{SmallVec, smallvec};

pub use crate::machine::Label;
use crate::machine::{Flow, MachineInstruction};

/// A function under construction.
pub type MachineCode = crate::machine::MachineCode<MachineInst>;

/// General registers.
pub const GENERAL: RegClass = RegClass::Int;
/// Vector registers, also for floating-point scalars.
pub const VECTOR: RegClass = RegClass::Float;

/// An operand of an instruction.
#[derive(Clone, Copy, Debug)]
pub enum Operand {
    /// Written.
    Def(VReg),
    /// Read.
    Use(VReg),
    /// Read as the first and written as the second; one register.
    Tied(VReg, VReg),
}

/// A word of code with places for registers.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// The bits but for registers.
    pub bits: u32,
    /// For each register field the operand's number and the field's lowest bit.
    pub fields: SmallVec<[(u8, u8); 4]>,
    /// In the syntax of the GNU assembler: `%n` is the number of the register in field `n`, `@` and `~` are the shapes, `{i}` and
    /// `{j}` the immediates.
    pub text: &'static str,
    /// The shapes of vectors.
    pub shapes: [&'static str; 2],
    /// The immediates.
    pub immediates: [i64; 2],
}

/// When a branch is taken, after a comparison; the numbers are the encoding's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Condition {
    Equal = 0,
    NotEqual = 1,
    /// Unsigned at least.
    HigherOrSame = 2,
    /// Unsigned less.
    Lower = 3,
    /// Less, of floating-point numbers.
    Minus = 4,
    /// Unsigned greater.
    Higher = 8,
    /// Unsigned at most, and of floating-point numbers.
    LowerOrSame = 9,
    GreaterOrEqual = 10,
    Less = 11,
    Greater = 12,
    LessOrEqual = 13,
}

impl Condition {
    /// Its name in assembly.
    pub fn name(self) -> &'static str {
        ["eq", "ne", "hs", "lo", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le"][self as usize]
    }
}

/// An instruction.
#[derive(Clone, Debug)]
pub enum MachineInst {
    /// Words over operands. Where there are several, no result shares a register with what is read.
    Op {
        /// The words in their order.
        words: SmallVec<[Word; 1]>,
        /// What their fields refer to.
        operands: SmallVec<[Operand; 4]>,
        /// Whether it is needed for more than its results.
        effect: bool,
    },
    /// Defines a vector register with these bits, the lowest lane in the lowest bits.
    Constant(VReg, u128),
    /// Defines the six arguments of a kernel.
    Arguments([VReg; 6]),
    /// Goes to a block with values for its parameters.
    Jump(Label, SmallVec<[VReg; 8]>),
    /// Compares, and goes to one of two blocks without parameters.
    Branch {
        /// The comparison.
        compare: Word,
        /// What it reads.
        operands: SmallVec<[VReg; 2]>,
        /// When `then` is where it leads.
        condition: Condition,
        /// Where the condition leads.
        then: Label,
        /// Otherwise.
        otherwise: Label,
    },
    /// Ends the function.
    Return,
}

impl MachineInstruction for MachineInst {
    fn constraints(&self) -> Vec<Constraint> {
        match self {
            MachineInst::Op { words, operands, .. } => {
                let mut list = Vec::with_capacity(operands.len() + 1);
                for operand in operands {
                    match operand {
                        Operand::Def(v) => list.push(Constraint::reg_def(*v)),
                        Operand::Use(v) if words.len() > 1 => list.push(Constraint::reg_use_at_end(*v)),
                        Operand::Use(v) => list.push(Constraint::reg_use(*v)),
                        Operand::Tied(from, to) => {
                            list.push(Constraint::reg_use(*from));
                            let at = list.len() - 1;
                            list.push(Constraint::reg_reuse_def(*to, at));
                        }
                    }
                }
                list
            }
            MachineInst::Constant(v, _) => vec![Constraint::reg_def(*v)],
            MachineInst::Arguments(arguments) => {
                let fixed = |(r, &v): (usize, &VReg)| Constraint::reg_fixed_def(v, PReg::new(r, GENERAL));
                arguments.iter().enumerate().map(fixed).collect()
            }
            MachineInst::Branch { operands, .. } => operands.iter().map(|&v| Constraint::reg_use(v)).collect(),
            MachineInst::Jump(..) | MachineInst::Return => Vec::new(),
        }
    }

    fn definitions(&self) -> Vec<VReg> {
        match self {
            MachineInst::Op { operands, .. } => operands
                .iter()
                .filter_map(|operand| match operand {
                    Operand::Def(v) | Operand::Tied(_, v) => Some(*v),
                    Operand::Use(_) => None,
                })
                .collect(),
            MachineInst::Constant(v, _) => vec![*v],
            MachineInst::Arguments(registers) => registers.to_vec(),
            MachineInst::Jump(..) | MachineInst::Branch { .. } | MachineInst::Return => Vec::new(),
        }
    }

    fn uses(&self) -> Vec<VReg> {
        match self {
            MachineInst::Op { operands, .. } => operands
                .iter()
                .filter_map(|operand| match operand {
                    Operand::Use(v) | Operand::Tied(v, _) => Some(*v),
                    Operand::Def(_) => None,
                })
                .collect(),
            MachineInst::Branch { operands, .. } => operands.to_vec(),
            MachineInst::Constant(..) | MachineInst::Arguments(_) | MachineInst::Jump(..) | MachineInst::Return => {
                Vec::new()
            }
        }
    }

    fn has_effect(&self) -> bool {
        match self {
            MachineInst::Op { effect, .. } => *effect,
            MachineInst::Constant(..) => false,
            MachineInst::Arguments(_) | MachineInst::Jump(..) | MachineInst::Branch { .. } | MachineInst::Return => {
                true
            }
        }
    }

    fn reads_flags(&self) -> bool {
        // Flags live inside of an instruction only.
        false
    }

    fn flow(&self) -> Flow<'_> {
        match self {
            MachineInst::Jump(to, arguments) => Flow::Jump(*to, arguments),
            MachineInst::Branch { then, otherwise, .. } => Flow::Branch([*then, *otherwise]),
            MachineInst::Return => Flow::Return,
            MachineInst::Op { .. } | MachineInst::Constant(..) | MachineInst::Arguments(_) => Flow::On,
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
            RegClass::Float => 2,
        }
    }
}

impl MachineInst {
    /// One word without an effect beside its results.
    pub fn one(word: Word, operands: SmallVec<[Operand; 4]>) -> MachineInst {
        MachineInst::Op { words: smallvec![word], operands, effect: false }
    }
}
