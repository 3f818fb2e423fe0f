//! Loops and branches: blocks with what is carried as their parameters, and the edges between them.

use onnxc_ir::loops::{Block, Inst, InstData, Val};
use regalloc2::VReg;
use smallvec::SmallVec;

use super::Unsupported;
use super::machine::{Condition, Label, MachineInst};
use super::select::{Scope, Select};
use crate::machine::scopes::Place;

impl Select<'_> {
    fn open(&mut self, block: Block, is_loop: bool) -> Label {
        let label = self.code.block();
        self.scopes.push(Scope::new(Place::new(self.kernel, block, label, is_loop)));
        label
    }

    fn list(&mut self, vals: &[Val]) -> Result<SmallVec<[VReg; 8]>, Unsupported> {
        let mut all = SmallVec::new();
        for &val in vals {
            all.extend(self.get(val)?);
        }
        Ok(all)
    }

    /// Makes fresh registers the parameters of a block.
    fn bind(&mut self, label: Label, vals: &[Val]) -> Result<(), Unsupported> {
        for &val in vals {
            let registers = self.fresh(self.kernel.ty(val))?;
            self.code.blocks[label.0 as usize].params.extend(registers.iter().copied());
            self.set(val, registers);
        }
        Ok(())
    }

    pub(super) fn for_loop(&mut self, inst: Inst) -> Result<(), Unsupported> {
        let kernel = self.kernel;
        let InstData::For { lo, hi, step, init, body, .. } = &kernel.insts[inst].data else { unreachable!("a loop") };
        let runs = matches!((self.integer_of(*lo), self.integer_of(*hi)), (Some(lo), Some(hi)) if lo < hi);
        let (first, bound, known) = (self.get1(*lo)?, self.get1(*hi)?, self.integer_of(*hi));
        let start = self.list(init)?;

        let top = self.open(*body, true);
        let params = &kernel.blocks[*body].params;
        self.bind(top, params)?;
        let index = self.get1(params[0])?;
        let entry_at = self.code.layout.len();
        self.code.layout.push(top);
        let next: SmallVec<[VReg; 8]> = self.block(*body)?.into_iter().flatten().collect();
        let advanced = self.plus(index, *step);
        let after = self.code.block();
        let again = self.code.edge(top, std::iter::once(advanced).chain(next.iter().copied()).collect());
        let done = self.code.edge(after, next);
        let (compare, operands) = self.comparison(true, advanced, bound, known);
        self.push(MachineInst::Branch { compare, operands, condition: Condition::Less, then: again, otherwise: done });
        self.code.layout.extend([again, done]);
        self.scopes.pop();

        let enter: SmallVec<[VReg; 8]> = std::iter::once(first).chain(start.iter().copied()).collect();
        if runs {
            let from = self.top().place.block;
            self.code.jump(from, top, enter);
        } else {
            let (compare, operands) = self.comparison(true, first, bound, known);
            let into = self.code.edge(top, enter);
            let over = self.code.edge(after, start);
            let condition = Condition::GreaterOrEqual;
            self.push(MachineInst::Branch { compare, operands, condition, then: over, otherwise: into });
            self.code.layout.insert(entry_at, into);
            self.code.layout.push(over);
        }
        self.resume(after, &kernel.insts[inst].results)
    }

    /// Goes on in a block whose parameters are an instruction's results.
    fn resume(&mut self, after: Label, results: &[Val]) -> Result<(), Unsupported> {
        self.top().place.block = after;
        self.code.layout.push(after);
        self.bind(after, results)
    }

    pub(super) fn while_loop(&mut self, inst: Inst) -> Result<(), Unsupported> {
        let kernel = self.kernel;
        let InstData::While { init, body } = &kernel.insts[inst].data else { unreachable!("a loop") };
        let start = self.list(init)?;
        let top = self.open(*body, true);
        self.bind(top, &kernel.blocks[*body].params)?;
        self.code.layout.push(top);
        let yielded = self.block(*body)?;
        let (again, next) = yielded.split_first().expect("a loop's body says whether it goes on");
        let next: SmallVec<[VReg; 8]> = next.iter().flatten().copied().collect();
        let after = self.code.block();
        let back = self.code.edge(top, next.clone());
        let done = self.code.edge(after, next);
        self.branch_if(again[0], back, done);
        self.code.layout.extend([back, done]);
        self.scopes.pop();
        let from = self.top().place.block;
        self.code.jump(from, top, start);
        self.resume(after, &kernel.insts[inst].results)
    }

    fn branch_if(&mut self, truth: VReg, then: Label, otherwise: Label) {
        let (compare, operands) = self.comparison(false, truth, truth, Some(0));
        self.push(MachineInst::Branch { compare, operands, condition: Condition::NotEqual, then, otherwise });
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
        self.branch_if(condition, sides[0], sides[1]);
        self.resume(after, &kernel.insts[inst].results)
    }
}
