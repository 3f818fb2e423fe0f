//! Register allocation by regalloc2: presents machine code in the form that the allocator reads.

use regalloc2::{
    Algorithm, Block, Function, Inst, InstRange, MachineEnv, Operand as Constraint, Output, PRegSet, RegClass,
    RegallocOptions, VReg,
};

use super::{Flow, MachineCode, MachineInstruction};

/// The code in the allocator's terms. Blocks and instructions are numbered in the order of the layout.
pub struct Allocatable<'c, I> {
    code: &'c MachineCode<I>,
    ranges: Vec<InstRange>,
    insts: Vec<&'c I>,
    operands: Vec<Vec<Constraint>>,
    successors: Vec<Vec<Block>>,
    predecessors: Vec<Vec<Block>>,
}

impl<'c, I: MachineInstruction> Allocatable<'c, I> {
    /// Numbers the code.
    pub fn new(code: &'c MachineCode<I>) -> Allocatable<'c, I> {
        let mut number = vec![usize::MAX; code.blocks.len()];
        code.layout.iter().enumerate().for_each(|(i, l)| number[l.0 as usize] = i);
        let mut this = Allocatable {
            code,
            ranges: Vec::new(),
            insts: Vec::new(),
            operands: Vec::new(),
            successors: vec![Vec::new(); code.layout.len()],
            predecessors: vec![Vec::new(); code.layout.len()],
        };
        for (i, label) in code.layout.iter().enumerate() {
            let first = this.insts.len();
            for inst in &code.blocks[label.0 as usize].insts {
                this.insts.push(inst);
                this.operands.push(inst.constraints());
            }
            this.ranges.push(InstRange::new(Inst::new(first), Inst::new(this.insts.len())));
            let last = this.insts.last().expect("a block ends with a jump");
            let targets = match last.flow() {
                Flow::Jump(to, _) => vec![to],
                Flow::Branch(both) => both.to_vec(),
                Flow::Return => vec![],
                Flow::On => panic!("a block ends with {last:?}"),
            };
            for target in targets {
                let to = number[target.0 as usize];
                this.successors[i].push(Block::new(to));
                this.predecessors[to].push(Block::new(i));
            }
        }
        this
    }

    /// The instruction of this number.
    pub fn inst(&self, inst: Inst) -> &'c I {
        self.insts[inst.index()]
    }

    /// Allocates registers and checks the result independently.
    ///
    /// # Panics
    /// If the allocator refuses the code or its result does not keep the meaning: both are faults of selection.
    pub fn allocate(&self, env: &MachineEnv) -> Output {
        let options =
            RegallocOptions { verbose_log: false, validate_ssa: cfg!(debug_assertions), algorithm: Algorithm::Ion };
        let output = regalloc2::run(self, env, &options).unwrap_or_else(|e| panic!("register allocation: {e}"));
        if cfg!(debug_assertions) {
            let mut checker = regalloc2::checker::Checker::new(self, env);
            checker.prepare(&output);
            checker.run().unwrap_or_else(|e| panic!("the allocation changes the code's meaning: {e:?}"));
        }
        output
    }
}

impl<I: MachineInstruction> Function for Allocatable<'_, I> {
    fn num_insts(&self) -> usize {
        self.insts.len()
    }

    fn num_blocks(&self) -> usize {
        self.ranges.len()
    }

    fn entry_block(&self) -> Block {
        Block::new(0)
    }

    fn block_insns(&self, block: Block) -> InstRange {
        self.ranges[block.index()]
    }

    fn block_succs(&self, block: Block) -> &[Block] {
        &self.successors[block.index()]
    }

    fn block_preds(&self, block: Block) -> &[Block] {
        &self.predecessors[block.index()]
    }

    fn block_params(&self, block: Block) -> &[VReg] {
        &self.code.blocks[self.code.layout[block.index()].0 as usize].params
    }

    fn is_ret(&self, inst: Inst) -> bool {
        matches!(self.inst(inst).flow(), Flow::Return)
    }

    fn is_branch(&self, inst: Inst) -> bool {
        matches!(self.inst(inst).flow(), Flow::Jump(..) | Flow::Branch(_))
    }

    fn branch_blockparams(&self, _: Block, inst: Inst, _: usize) -> &[VReg] {
        match self.inst(inst).flow() {
            Flow::Jump(_, arguments) => arguments,
            Flow::On | Flow::Branch(_) | Flow::Return => &[],
        }
    }

    fn inst_operands(&self, inst: Inst) -> &[Constraint] {
        &self.operands[inst.index()]
    }

    fn inst_clobbers(&self, _: Inst) -> PRegSet {
        PRegSet::empty()
    }

    fn num_vregs(&self) -> usize {
        self.code.registers
    }

    fn spillslot_size(&self, class: RegClass) -> usize {
        I::spill_words(class)
    }
}
