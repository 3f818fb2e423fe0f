//! What the allocator has to know of x86-64: which registers there are, and which an instruction takes.

use regalloc2::{MachineEnv, Operand as Constraint, PReg, PRegSet, RegClass};

use super::machine::{GENERAL, Isa, MASK, MachineInst, Memory, Operand, WIDE};

/// Registers of the System V convention for a kernel's arguments.
const ARGUMENTS: [usize; 6] = [7, 6, 2, 1, 8, 9];
/// rax, which holds dividends and quotients.
const RAX: usize = 0;
/// rdx, which holds remainders.
const RDX: usize = 2;
/// rsp and rbp hold the frame.
const FRAME: [usize; 2] = [4, 5];

/// The registers that may be allocated. k0 cannot mask, so it is left out.
pub fn environment(isa: Isa) -> MachineEnv {
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
pub fn constraints(inst: &MachineInst) -> Vec<Constraint> {
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
