//! Loops, branches and what else has blocks.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::super::{Attend, Block, BlockData, INDEX, InstData, Kernel, LaneType, LoopKind, Tile, Val};
use super::{Index, KernelBuilder};
use crate::dtype::DType;

/// A loop whose body is being built.
pub struct LoopScope {
    data: InstData,
    /// The induction variable.
    pub index: Val,
    /// What is carried, at the start of an iteration.
    pub carried: Vec<Val>,
}

impl KernelBuilder {
    fn block(
        &mut self,
        types: &[LaneType],
        fill: impl FnOnce(&mut KernelBuilder, &[Val]) -> Vec<Val>,
    ) -> (Block, Vec<LaneType>) {
        let block = self.open_block(types);
        let params = self.kernel.blocks[block].params.clone();
        let yielded = fill(self, &params);
        let types = yielded.iter().map(|&v| self.ty(v)).collect();
        self.close_block(&yielded);
        (block, types)
    }

    /// A loop; `body` gets the induction variable and what is carried, and gives what is carried on. A loop without
    /// iterations is left out if that is known, and one with exactly one iteration is laid out flat.
    pub fn for_(
        &mut self,
        kind: LoopKind,
        lo: Index,
        hi: Index,
        step: i64,
        init: &[Val],
        body: impl FnOnce(&mut KernelBuilder, Val, &[Val]) -> Vec<Val>,
    ) -> Vec<Val> {
        assert!(step > 0, "the step of a loop is positive");
        if let (Some(lo), Some(hi)) = (lo.as_const(), hi.as_const()) {
            if hi <= lo {
                return init.to_vec();
            }
            // The only iteration of a loop over threads is one thread's.
            if hi - lo <= step && !matches!(kind, LoopKind::GpuThread(_)) {
                let i = self.i64(lo);
                return body(self, i, init);
            }
        }
        let scope = self.begin_for(kind, lo, hi, step, init);
        let yielded = body(self, scope.index, &scope.carried);
        self.end_for(scope, &yielded)
    }

    /// Opens a loop's body; [`KernelBuilder::end_for`] closes it. For builders that wrap this one and cannot lend it to
    /// the closure of [`KernelBuilder::for_`].
    pub fn begin_for(&mut self, kind: LoopKind, lo: Index, hi: Index, step: i64, init: &[Val]) -> LoopScope {
        assert!(step > 0, "the step of a loop is positive");
        let (lo, hi) = (self.val(lo), self.val(hi));
        let types: Vec<LaneType> = std::iter::once(INDEX).chain(init.iter().map(|&v| self.ty(v))).collect();
        let body = self.open_block(&types);
        let params = self.kernel.blocks[body].params.clone();
        let data = InstData::For { kind, lo, hi, step, init: init.into(), body };
        LoopScope { data, index: params[0], carried: params[1..].to_vec() }
    }

    /// Closes a loop's body with what it carries on and gives the loop's results.
    pub fn end_for(&mut self, scope: LoopScope, yielded: &[Val]) -> Vec<Val> {
        let types: Vec<LaneType> = scope.carried.iter().map(|&v| self.ty(v)).collect();
        let given: Vec<LaneType> = yielded.iter().map(|&v| self.ty(v)).collect();
        assert_eq!(given, types, "a loop carries values of fixed types");
        self.close_block(yielded);
        self.emit(scope.data, &types).to_vec()
    }

    /// Opens a block with parameters of these types; what is built next goes into it.
    pub fn open_block(&mut self, types: &[LaneType]) -> Block {
        let params: SmallVec<[Val; 8]> = types.iter().map(|&t| self.kernel.vals.push(t)).collect();
        params.iter().for_each(|&v| self.depths[v] = self.open.len() as u32);
        let block = self.kernel.blocks.push(BlockData { params, insts: Vec::new() });
        self.open.push(block);
        self.index_cache.push(HashMap::new());
        block
    }

    /// Ends the block opened last.
    pub fn close_block(&mut self, yielded: &[Val]) {
        self.emit(InstData::Yield(yielded.into()), &[]);
        self.open.pop();
        self.index_cache.pop();
    }

    /// Chooses between two closed blocks that yield values of the same types.
    pub fn choose(&mut self, cond: Val, then: Block, otherwise: Block) -> Vec<Val> {
        let yields = |k: &Kernel, b: Block| -> Vec<LaneType> {
            let last = *k.blocks[b].insts.last().expect("the block is closed");
            let InstData::Yield(vals) = &k.insts[last].data else { panic!("the block is closed") };
            vals.iter().map(|&v| k.vals[v]).collect()
        };
        let types = yields(&self.kernel, then);
        assert_eq!(types, yields(&self.kernel, otherwise), "both sides of an if give values of the same types");
        self.emit(InstData::If { cond, then, otherwise }, &types).to_vec()
    }

    /// Opens the body of a tile; gives it and the band's first row. [`KernelBuilder::end_tile`] closes it.
    pub fn begin_tile(&mut self) -> (Block, Val) {
        let body = self.open_block(&[INDEX]);
        (body, self.kernel.blocks[body].params[0])
    }

    /// Closes the body of a tile, which names it.
    pub fn end_tile(&mut self, tile: Tile) {
        self.close_block(&[]);
        self.emit(InstData::Tile(Box::new(tile)), &[]);
    }

    /// Opens the block from a row, a column and a product to a score. [`KernelBuilder::close_block`] closes it; the body of
    /// the attention is a block without parameters, which [`KernelBuilder::end_attend`] closes.
    pub fn begin_score(&mut self) -> (Block, [Val; 3]) {
        let block = self.open_block(&[INDEX, INDEX, LaneType::scalar(DType::F32)]);
        let params = &self.kernel.blocks[block].params;
        (block, [params[0], params[1], params[2]])
    }

    /// Closes the body of an attention, which names it.
    pub fn end_attend(&mut self, attend: Attend) {
        self.close_block(&[]);
        self.emit(InstData::Attend(Box::new(attend)), &[]);
    }

    /// A loop that carries nothing.
    pub fn each(
        &mut self,
        lo: impl Into<Index>,
        hi: impl Into<Index>,
        step: i64,
        body: impl FnOnce(&mut KernelBuilder, Val),
    ) {
        self.for_(LoopKind::Serial, lo.into(), hi.into(), step, &[], |b, i, _| {
            body(b, i);
            vec![]
        });
    }

    /// A loop that runs while its body says so; the body gives `(again, carried)`.
    pub fn while_(
        &mut self,
        init: &[Val],
        body: impl FnOnce(&mut KernelBuilder, &[Val]) -> (Val, Vec<Val>),
    ) -> Vec<Val> {
        let types: Vec<LaneType> = init.iter().map(|&v| self.ty(v)).collect();
        let (block, yielded) = self.block(&types, |b, params| {
            let (again, carried) = body(b, params);
            std::iter::once(again).chain(carried).collect()
        });
        assert_eq!(yielded[1..], types[..], "a loop carries values of fixed types");
        self.emit(InstData::While { init: init.into(), body: block }, &types).to_vec()
    }

    /// One of two blocks.
    pub fn if_(
        &mut self,
        cond: Val,
        then: impl FnOnce(&mut KernelBuilder) -> Vec<Val>,
        otherwise: impl FnOnce(&mut KernelBuilder) -> Vec<Val>,
    ) -> Vec<Val> {
        let (then, _) = self.block(&[], |b, _| then(b));
        let (otherwise, _) = self.block(&[], |b, _| otherwise(b));
        self.choose(cond, then, otherwise)
    }

    /// Runs `then` if the condition holds.
    pub fn when(&mut self, cond: Val, then: impl FnOnce(&mut KernelBuilder)) {
        self.if_(
            cond,
            |b| {
                then(b);
                vec![]
            },
            |_| vec![],
        );
    }
}
