//! Loops and branches as blocks that hand on values.

use iced_x86::Code;
use onnxc_ir::loops::{Block, Inst, InstData, Val};
use regalloc2::VReg;
use smallvec::{SmallVec, smallvec};

use super::Unsupported;
use super::machine::{GENERAL, Label, MachineInst, Memory, Operand};
use super::select::{Scope, Select};
use crate::machine::scopes::Place;

impl Select<'_> {
    fn open(&mut self, block: Block, is_loop: bool) -> Label {
        let label = self.code.block();
        self.scopes.push(Scope::new(Place::new(self.kernel, block, label, is_loop)));
        label
    }

    pub(super) fn for_loop(&mut self, inst: Inst) -> Result<(), Unsupported> {
        let kernel = self.kernel;
        let InstData::For { lo, hi, step, init, body, .. } = &kernel.insts[inst].data else { unreachable!("a loop") };
        let runs = match (self.immediate_of(*lo), self.immediate_of(*hi)) {
            (Some(lo), Some(hi)) => lo < hi,
            _ => false,
        };
        let before = self.depth();
        let first = self.get1(*lo)?;
        // The bound is an immediate or lives through the loop.
        let bound = match self.immediate_of(*hi) {
            Some(_) => None,
            None => Some(self.get1(*hi)?),
        };
        let start: SmallVec<[VReg; 8]> =
            init.iter().map(|&v| self.get(v)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();

        let top = self.open(*body, true);
        let params = &kernel.blocks[*body].params;
        let index = self.def(GENERAL);
        self.set(params[0], smallvec![index]);
        let mut carried: SmallVec<[VReg; 8]> = smallvec![index];
        for &param in &params[1..] {
            let registers = self.fresh(kernel.ty(param))?;
            carried.extend(registers.iter().copied());
            self.set(param, registers);
        }
        self.code.blocks[top.0 as usize].params = carried.to_vec();
        let entry_at = self.code.layout.len();
        self.code.layout.push(top);
        let next = self.block(*body)?;
        let next: SmallVec<[VReg; 8]> = next.into_iter().flatten().collect();
        let advanced = self.def(GENERAL);
        let increment = i32::try_from(*step).map_err(|_| Unsupported("a step of more than 31 bits"))?;
        self.op(
            Code::Lea_r64_m,
            smallvec![
                Operand::Def(advanced),
                Operand::Memory(Memory { base: index, index: None, displacement: increment })
            ],
        );
        let compare = |this: &mut Self, register: VReg| match (bound, this.immediate_of(*hi)) {
            (Some(bound), _) => this.op(Code::Cmp_r64_rm64, smallvec![Operand::Use(register), Operand::Use(bound)]),
            (None, Some(hi)) => {
                this.op(Code::Cmp_rm64_imm32, smallvec![Operand::Use(register), Operand::Immediate(hi)]);
            }
            (None, None) => unreachable!("the bound is in a register or an immediate"),
        };
        compare(self, advanced);
        let after = self.code.block();
        let again = self.code.edge(top, std::iter::once(advanced).chain(next.iter().copied()).collect());
        let done = self.code.edge(after, next);
        self.push(MachineInst::Branch { code: Code::Jl_rel32_64, then: again, otherwise: done });
        self.code.layout.extend([again, done]);
        self.scopes.pop();
        debug_assert_eq!(self.depth(), before);

        let enter: SmallVec<[VReg; 8]> = std::iter::once(first).chain(start.iter().copied()).collect();
        if runs {
            let from = self.top().place.block;
            self.code.jump(from, top, enter);
        } else {
            compare(self, first);
            let into = self.code.edge(top, enter);
            let over = self.code.edge(after, start);
            self.push(MachineInst::Branch { code: Code::Jge_rel32_64, then: over, otherwise: into });
            self.code.layout.insert(entry_at, into);
            self.code.layout.push(over);
        }
        self.resume(after, &kernel.insts[inst].results)
    }

    /// Goes on in a block whose parameters are an instruction's results.
    fn resume(&mut self, after: Label, results: &[Val]) -> Result<(), Unsupported> {
        self.top().place.block = after;
        self.code.layout.push(after);
        for &result in results {
            let registers = self.fresh(self.kernel.ty(result))?;
            self.code.blocks[after.0 as usize].params.extend(registers.iter().copied());
            self.set(result, registers);
        }
        Ok(())
    }

    pub(super) fn while_loop(&mut self, inst: Inst) -> Result<(), Unsupported> {
        let kernel = self.kernel;
        let InstData::While { init, body } = &kernel.insts[inst].data else { unreachable!("a loop") };
        let start: SmallVec<[VReg; 8]> =
            init.iter().map(|&v| self.get(v)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let top = self.open(*body, true);
        let mut carried: SmallVec<[VReg; 8]> = SmallVec::new();
        for &param in &kernel.blocks[*body].params {
            let registers = self.fresh(kernel.ty(param))?;
            carried.extend(registers.iter().copied());
            self.set(param, registers);
        }
        self.code.blocks[top.0 as usize].params = carried.to_vec();
        self.code.layout.push(top);
        let yielded = self.block(*body)?;
        let (again, next) = yielded.split_first().expect("a loop's body says whether it goes on");
        let next: SmallVec<[VReg; 8]> = next.iter().flatten().copied().collect();
        self.op(Code::Test_rm32_r32, smallvec![Operand::Use(again[0]), Operand::Use(again[0])]);
        let after = self.code.block();
        let back = self.code.edge(top, next.clone());
        let done = self.code.edge(after, next);
        self.push(MachineInst::Branch { code: Code::Jne_rel32_64, then: back, otherwise: done });
        self.code.layout.extend([back, done]);
        self.scopes.pop();
        let from = self.top().place.block;
        self.code.jump(from, top, start);
        self.resume(after, &kernel.insts[inst].results)
    }

    pub(super) fn branch(&mut self, inst: Inst) -> Result<(), Unsupported> {
        let kernel = self.kernel;
        let InstData::If { cond, then, otherwise } = &kernel.insts[inst].data else { unreachable!("a branch") };
        let condition = self.get1(*cond)?;
        let after = self.code.block();
        let mut sides = [Label(0); 2];
        for (side, &block) in sides.iter_mut().zip([then, otherwise]) {
            *side = self.open(block, false);
            self.code.layout.push(*side);
            let results: SmallVec<[VReg; 8]> = self.block(block)?.into_iter().flatten().collect();
            let from = self.top().place.block;
            self.code.jump(from, after, results);
            self.scopes.pop();
        }
        self.op(Code::Test_rm32_r32, smallvec![Operand::Use(condition), Operand::Use(condition)]);
        self.push(MachineInst::Branch { code: Code::Je_rel32_64, then: sides[1], otherwise: sides[0] });
        self.resume(after, &kernel.insts[inst].results)
    }
}
