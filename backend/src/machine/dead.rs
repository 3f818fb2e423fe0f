//! Removes instructions whose results nobody uses, and parameters of blocks that are only handed on.
//!
//! Selection computes addresses and counts where they are known, before it knows who needs them. What has an effect stays:
//! stores, prefetches, jumps; a comparison stays where an instruction that stays reads its flags.

use std::collections::HashMap;

use regalloc2::VReg;

use super::{Flow, Label, MachineCode, MachineInstruction};

/// Where a register gets its value.
#[derive(Clone, Copy)]
enum Definition {
    Inst(usize, usize),
    Param(usize, usize),
}

/// What is needed of a function.
struct Needed<'c, I> {
    code: &'c MachineCode<I>,
    definitions: HashMap<usize, Definition>,
    /// The jumps to each block, as block and instruction.
    jumps: Vec<Vec<(usize, usize)>>,
    insts: Vec<Vec<bool>>,
    params: Vec<Vec<bool>>,
    waiting: Vec<(usize, usize)>,
}

/// Removes what is not needed.
pub fn remove<I: MachineInstruction>(code: &mut MachineCode<I>) {
    let (insts, params) = needed(code);
    for (i, block) in code.blocks.iter_mut().enumerate() {
        let mut at = 0;
        block.insts.retain_mut(|inst| {
            if let Some((to, arguments)) = inst.arguments_mut() {
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
fn needed<I: MachineInstruction>(code: &MachineCode<I>) -> (Vec<Vec<bool>>, Vec<Vec<bool>>) {
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
            for register in inst.definitions() {
                needed.definitions.insert(register.vreg(), Definition::Inst(i, n));
            }
            if let Flow::Jump(Label(to), _) = inst.flow() {
                needed.jumps[to as usize].push((i, n));
            }
        }
    }
    for (i, block) in code.blocks.iter().enumerate() {
        for (n, inst) in block.insts.iter().enumerate() {
            if inst.has_effect() {
                needed.inst(i, n);
            }
        }
    }
    while let Some((i, n)) = needed.waiting.pop() {
        let inst = &code.blocks[i].insts[n];
        if inst.reads_flags() {
            let setter = (0..n).rev().find(|&m| code.blocks[i].insts[m].definitions().is_empty());
            needed.inst(i, setter.expect("flags are set before they are read"));
        }
        for register in inst.uses() {
            needed.register(register);
        }
    }
    (needed.insts, needed.params)
}

impl<I: MachineInstruction> Needed<'_, I> {
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
                    let Flow::Jump(_, arguments) = self.code.blocks[from].insts[inst].flow() else { continue };
                    self.register(arguments[param]);
                }
            }
            None => panic!("{register} is used and not defined"),
        }
    }
}
