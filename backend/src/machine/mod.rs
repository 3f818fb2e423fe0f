//! Machine code before registers are allocated, for the code generators of our own: blocks of instructions over virtual
//! registers, whatever the instruction set.
//!
//! Blocks have parameters; a conditional branch passes no arguments, so every edge that carries values is an unconditional
//! jump (critical edges are split by construction). [`dead`] drops what nobody uses, [`allocate`] lets regalloc2 assign
//! registers (its independent checker runs in debug builds).

pub mod allocate;
pub mod dead;
pub mod scopes;
pub mod splats;

use regalloc2::{Operand as Constraint, RegClass, VReg};
use smallvec::SmallVec;

/// A block of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(pub u32);

/// Where an instruction leads.
#[derive(Clone, Copy, Debug)]
pub enum Flow<'i> {
    /// To the next one.
    On,
    /// To a block, with values for its parameters.
    Jump(Label, &'i [VReg]),
    /// To one of two blocks without parameters.
    Branch([Label; 2]),
    /// Out of the function.
    Return,
}

/// An instruction of some instruction set.
pub trait MachineInstruction: std::fmt::Debug + Sized {
    /// The allocator's operands, in the order in which emission asks for their registers.
    fn constraints(&self) -> Vec<Constraint>;

    /// The registers that it writes.
    fn definitions(&self) -> Vec<VReg>;

    /// The registers that it reads, but those that a jump hands on: these are read by who needs the parameters.
    fn uses(&self) -> Vec<VReg>;

    /// Whether it is needed for more than its results. One that only sets flags is not.
    fn has_effect(&self) -> bool;

    /// Whether it reads flags, which the nearest instruction before it without results sets.
    fn reads_flags(&self) -> bool;

    /// Where it leads.
    fn flow(&self) -> Flow<'_>;

    /// A jump to a block, with values for its parameters.
    fn jump(to: Label, arguments: SmallVec<[VReg; 8]>) -> Self;

    /// What a jump hands on, and to which block.
    fn arguments_mut(&mut self) -> Option<(Label, &mut SmallVec<[VReg; 8]>)>;

    /// Words of 8 bytes that a register of this class takes in memory.
    fn spill_words(class: RegClass) -> usize;
}

/// A block's instructions.
#[derive(Clone, Debug)]
pub struct MachineBlock<I> {
    /// Defined at entry.
    pub params: Vec<VReg>,
    /// The last is a jump, branch or return.
    pub insts: Vec<I>,
}

/// A function under construction.
#[derive(Clone, Debug)]
pub struct MachineCode<I> {
    /// The blocks by label.
    pub blocks: Vec<MachineBlock<I>>,
    /// The order of the blocks in memory.
    pub layout: Vec<Label>,
    /// How many virtual registers there are.
    pub registers: usize,
}

impl<I> Default for MachineCode<I> {
    fn default() -> Self {
        MachineCode { blocks: Vec::new(), layout: Vec::new(), registers: 0 }
    }
}

impl<I> MachineCode<I> {
    /// A new virtual register.
    pub fn register(&mut self, class: RegClass) -> VReg {
        self.registers += 1;
        VReg::new(self.registers - 1, class)
    }

    /// A new block, not yet in the layout.
    pub fn block(&mut self) -> Label {
        self.blocks.push(MachineBlock { params: Vec::new(), insts: Vec::new() });
        Label(self.blocks.len() as u32 - 1)
    }
}

impl<I: MachineInstruction> MachineCode<I> {
    /// Ends a block with a jump that hands on values.
    pub fn jump(&mut self, from: Label, to: Label, arguments: SmallVec<[VReg; 8]>) {
        self.blocks[from.0 as usize].insts.push(I::jump(to, arguments));
    }

    /// A block that only jumps on, with values for the parameters.
    pub fn edge(&mut self, to: Label, arguments: SmallVec<[VReg; 8]>) -> Label {
        let edge = self.block();
        self.jump(edge, to, arguments);
        edge
    }
}
