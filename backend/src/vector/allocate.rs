//! Register allocation by regalloc2: presents the machine code in the form that the allocator reads.

use regalloc2::{
    Algorithm, Block, Function, Inst, InstRange, MachineEnv, Operand as Constraint, Output, PReg, PRegSet, RegClass,
    RegallocOptions, VReg,
};

use super::machine::{GENERAL, Isa, Label, MASK, MachineCode, MachineInst, Memory, Operand, WIDE};

/// Registers of the System V convention for a kernel's arguments.
const ARGUMENTS: [usize; 6] = [7, 6, 2, 1, 8, 9];
/// rax, which holds dividends and quotients.
const RAX: usize = 0;
/// rdx, which holds remainders.
const RDX: usize = 2;
/// rsp and rbp hold the frame.
const FRAME: [usize; 2] = [4, 5];

/// The code in the allocator's terms. Blocks and instructions are numbered in the order of the layout.
pub struct Allocatable<'c> {
    code: &'c MachineCode,
    ranges: Vec<InstRange>,
    insts: Vec<&'c MachineInst>,
    operands: Vec<Vec<Constraint>>,
    successors: Vec<Vec<Block>>,
    predecessors: Vec<Vec<Block>>,
}

impl<'c> Allocatable<'c> {
    /// Numbers the code.
    pub fn new(code: &'c MachineCode) -> Allocatable<'c> {
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
                this.operands.push(constraints(inst));
            }
            this.ranges.push(InstRange::new(Inst::new(first), Inst::new(this.insts.len())));
            let last = this.insts.last().expect("a block ends with a jump");
            let targets: Vec<Label> = match last {
                MachineInst::Jump(to, _) => vec![*to],
                MachineInst::Branch { then, otherwise, .. } => vec![*then, *otherwise],
                MachineInst::Return => vec![],
                other => panic!("a block ends with {other:?}"),
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
    pub fn inst(&self, inst: Inst) -> &'c MachineInst {
        self.insts[inst.index()]
    }

    /// Allocates registers and checks the result independently.
    ///
    /// # Panics
    /// If the allocator refuses the code or its result does not keep the meaning: both are faults of selection.
    pub fn allocate(&self, isa: Isa) -> Output {
        let options =
            RegallocOptions { verbose_log: false, validate_ssa: cfg!(debug_assertions), algorithm: Algorithm::Ion };
        let env = environment(isa);
        let output = regalloc2::run(self, &env, &options).unwrap_or_else(|e| panic!("register allocation: {e}"));
        if cfg!(debug_assertions) {
            let mut checker = regalloc2::checker::Checker::new(self, &env);
            checker.prepare(&output);
            checker.run().unwrap_or_else(|e| panic!("the allocation changes the code's meaning: {e:?}"));
        }
        output
    }
}

/// The registers that may be allocated. k0 cannot mask, so it is left out.
fn environment(isa: Isa) -> MachineEnv {
    let set = |class: RegClass, registers: &mut dyn Iterator<Item = usize>| -> PRegSet {
        registers.map(|r| PReg::new(r, class)).collect()
    };
    let caller_saved = [0, 1, 2, 6, 7, 8, 9, 10, 11];
    let callee_saved = [3, 12, 13, 14, 15];
    debug_assert!(FRAME.iter().all(|r| !caller_saved.contains(r) && !callee_saved.contains(r)));
    MachineEnv {
        preferred_regs_by_class: [
            set(GENERAL, &mut caller_saved.into_iter()),
            set(WIDE, &mut (0..if isa == Isa::Avx2 { 16 } else { 32 })),
            set(MASK, &mut (1..if isa == Isa::Avx2 { 1 } else { 8 })),
        ],
        non_preferred_regs_by_class: [set(GENERAL, &mut callee_saved.into_iter()), PRegSet::empty(), PRegSet::empty()],
        scratch_by_class: [None; 3],
        fixed_stack_slots: Vec::new(),
    }
}

/// The allocator's operands of an instruction, in the order in which emission asks for their registers.
fn constraints(inst: &MachineInst) -> Vec<Constraint> {
    let mut list = Vec::new();
    let memory = |list: &mut Vec<Constraint>, m: &Memory| {
        list.push(Constraint::reg_use(m.base));
        if let Some((index, _)) = m.index {
            list.push(Constraint::reg_use(index));
        }
    };
    match inst {
        MachineInst::Op { operands, mask, .. } => {
            for operand in operands {
                match operand {
                    Operand::Def(v) => list.push(Constraint::reg_def(*v)),
                    Operand::Use(v) => list.push(Constraint::reg_use(*v)),
                    Operand::Tied(from, to) => {
                        list.push(Constraint::reg_use(*from));
                        let at = list.len() - 1;
                        list.push(Constraint::reg_reuse_def(*to, at));
                    }
                    Operand::Memory(m) => memory(&mut list, m),
                    Operand::Immediate(_) | Operand::Constant(_) => {}
                }
            }
            list.extend(mask.map(Constraint::reg_use));
        }
        MachineInst::Arguments(arguments) => {
            for (&v, &r) in arguments.iter().zip(&ARGUMENTS) {
                list.push(Constraint::reg_fixed_def(v, PReg::new(r, GENERAL)));
            }
        }
        MachineInst::Divide { dividend, divisor, quotient, remainder, .. } => {
            list.push(Constraint::reg_fixed_use(*dividend, PReg::new(RAX, GENERAL)));
            list.push(Constraint::reg_use_at_end(*divisor));
            list.push(Constraint::reg_fixed_def(*quotient, PReg::new(RAX, GENERAL)));
            list.push(Constraint::reg_fixed_def(*remainder, PReg::new(RDX, GENERAL)));
        }
        MachineInst::Gather { from, to, memory: m, mask, spent, .. } => {
            list.push(Constraint::reg_use(*from));
            list.push(Constraint::reg_reuse_def(*to, 0));
            // Read while the destination is written already: they must not share a register with it.
            list.push(Constraint::reg_use_at_end(m.base));
            let (index, _) = m.index.expect("a gather has an index");
            list.push(Constraint::reg_use_at_end(index));
            list.push(Constraint::reg_use(*mask));
            let at = list.len() - 1;
            list.push(Constraint::reg_reuse_def(*spent, at));
        }
        MachineInst::Scatter { value, memory: m, mask, spent, .. } => {
            list.push(Constraint::reg_use(*value));
            list.push(Constraint::reg_use(m.base));
            let (index, _) = m.index.expect("a scatter has an index");
            list.push(Constraint::reg_use(index));
            list.push(Constraint::reg_use(*mask));
            let at = list.len() - 1;
            list.push(Constraint::reg_reuse_def(*spent, at));
        }
        MachineInst::Jump(..) | MachineInst::Branch { .. } | MachineInst::Return => {}
    }
    list
}

impl Function for Allocatable<'_> {
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
        matches!(self.inst(inst), MachineInst::Return)
    }

    fn is_branch(&self, inst: Inst) -> bool {
        matches!(self.inst(inst), MachineInst::Jump(..) | MachineInst::Branch { .. })
    }

    fn branch_blockparams(&self, _: Block, inst: Inst, _: usize) -> &[VReg] {
        match self.inst(inst) {
            MachineInst::Jump(_, arguments) => arguments,
            _ => &[],
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
        match class {
            RegClass::Int | RegClass::Vector => 1,
            RegClass::Float => 8,
        }
    }
}
