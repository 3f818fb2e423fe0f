//! Removes instructions whose results nobody uses, and parameters of blocks that are only handed on.
//!
//! Selection computes addresses and counts where they are known, before it knows who needs them. What has an effect stays:
//! stores, prefetches, jumps; a comparison stays where an instruction that stays reads its flags.

use std::collections::HashMap;

use iced_x86::Mnemonic;
use regalloc2::VReg;

use super::machine::{Label, MachineCode, MachineInst, Memory, Operand};

/// Where a register gets its value.
#[derive(Clone, Copy)]
enum Definition {
    Inst(usize, usize),
    Param(usize, usize),
}

/// What is needed of a function.
struct Needed<'c> {
    code: &'c MachineCode,
    definitions: HashMap<usize, Definition>,
    /// The jumps to each block, as block and instruction.
    jumps: Vec<Vec<(usize, usize)>>,
    insts: Vec<Vec<bool>>,
    params: Vec<Vec<bool>>,
    waiting: Vec<(usize, usize)>,
}

/// Removes what is not needed.
pub fn remove(code: &mut MachineCode) {
    let (insts, params) = needed(code);
    for (i, block) in code.blocks.iter_mut().enumerate() {
        let mut at = 0;
        block.insts.retain_mut(|inst| {
            if let MachineInst::Jump(to, arguments) = inst {
                let mut n = 0;
                arguments.retain(|_| {
                    n += 1;
                    params[to.0 as usize][n - 1]
                });
            }
            at += 1;
            insts[i][at - 1]
        });
        let mut n = 0;
        block.params.retain(|_| {
            n += 1;
            params[i][n - 1]
        });
    }
}

/// Which instructions and parameters of each block are needed.
fn needed(code: &MachineCode) -> (Vec<Vec<bool>>, Vec<Vec<bool>>) {
    let mut needed = Needed {
        code,
        definitions: HashMap::new(),
        jumps: vec![Vec::new(); code.blocks.len()],
        insts: code.blocks.iter().map(|b| vec![false; b.insts.len()]).collect(),
        params: code.blocks.iter().map(|b| vec![false; b.params.len()]).collect(),
        waiting: Vec::new(),
    };
    for (i, block) in code.blocks.iter().enumerate() {
        for (n, param) in block.params.iter().enumerate() {
            needed.definitions.insert(param.vreg(), Definition::Param(i, n));
        }
        for (n, inst) in block.insts.iter().enumerate() {
            for register in definitions(inst) {
                needed.definitions.insert(register.vreg(), Definition::Inst(i, n));
            }
            if let MachineInst::Jump(Label(to), _) = inst {
                needed.jumps[*to as usize].push((i, n));
            }
        }
    }
    for (i, block) in code.blocks.iter().enumerate() {
        for (n, inst) in block.insts.iter().enumerate() {
            if has_effect(inst) {
                needed.inst(i, n);
            }
        }
    }
    while let Some((i, n)) = needed.waiting.pop() {
        let inst = &code.blocks[i].insts[n];
        if reads_flags(inst) {
            let setter = (0..n).rev().find(|&m| definitions(&code.blocks[i].insts[m]).is_empty());
            needed.inst(i, setter.expect("flags are set before they are read"));
        }
        for register in uses(inst) {
            needed.register(register);
        }
    }
    (needed.insts, needed.params)
}

impl Needed<'_> {
    fn inst(&mut self, block: usize, inst: usize) {
        if !std::mem::replace(&mut self.insts[block][inst], true) {
            self.waiting.push((block, inst));
        }
    }

    fn register(&mut self, register: VReg) {
        match self.definitions.get(&register.vreg()).copied() {
            Some(Definition::Inst(block, inst)) => self.inst(block, inst),
            Some(Definition::Param(block, param)) => {
                if std::mem::replace(&mut self.params[block][param], true) {
                    return;
                }
                for (from, inst) in self.jumps[block].clone() {
                    let MachineInst::Jump(_, arguments) = &self.code.blocks[from].insts[inst] else { continue };
                    self.register(arguments[param]);
                }
            }
            None => panic!("{register} is used and not defined"),
        }
    }
}

/// The registers that an instruction writes.
fn definitions(inst: &MachineInst) -> Vec<VReg> {
    match inst {
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

/// The registers that an instruction reads; those that a jump hands on are read by who needs the parameters.
fn uses(inst: &MachineInst) -> Vec<VReg> {
    let memory = |m: &Memory| std::iter::once(m.base).chain(m.index.map(|(index, _)| index)).collect::<Vec<_>>();
    match inst {
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
        MachineInst::Scatter { value, memory: m, mask, .. } => memory(m).into_iter().chain([*value, *mask]).collect(),
        MachineInst::Arguments(_) | MachineInst::Jump(..) | MachineInst::Branch { .. } | MachineInst::Return => vec![],
    }
}

/// Whether an instruction is needed for more than its results. One without results that touches no memory only sets flags.
fn has_effect(inst: &MachineInst) -> bool {
    match inst {
        MachineInst::Op { operands, .. } => {
            let touches = operands.iter().any(|operand| matches!(operand, Operand::Memory(_)));
            touches && definitions(inst).is_empty()
        }
        MachineInst::Divide { .. } | MachineInst::Gather { .. } => false,
        MachineInst::Scatter { .. }
        | MachineInst::Arguments(_)
        | MachineInst::Jump(..)
        | MachineInst::Branch { .. }
        | MachineInst::Return => true,
    }
}

fn reads_flags(inst: &MachineInst) -> bool {
    match inst {
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
