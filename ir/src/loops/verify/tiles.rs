//! The rules of tiles.

use super::super::{
    Access, Attend, Block, Buffer, INDEX, Inst, InstData, LaneType, Stride, Tile, TileKind, TileOperand,
};
use super::Verifier;
use crate::dtype::DType;

impl Verifier<'_> {
    pub(super) fn tile(&mut self, inst: Inst, tile: &Tile) {
        let kernel = self.kernel;
        self.expect(inst, "the depth", kernel.ty(tile.depth), INDEX);
        for operand in tile.operands() {
            self.operand(inst, operand, tile.kind);
        }
        if tile.band == 0 || tile.pitch < tile.cols || !tile.rows.is_multiple_of(tile.band) || tile.rows == 0 {
            self.fail(inst, "bands divide the rows, and their rows lie apart");
        }
        self.sums(inst, tile.sums, tile.kind, u64::from(tile.band) * u64::from(tile.pitch));
        self.carried(inst, tile.body, &[INDEX], &[], &[]);
    }

    /// An operand of a tile of this kind.
    fn operand(&mut self, inst: Inst, operand: &TileOperand, kind: TileKind) {
        let kernel = self.kernel;
        self.address(inst, &operand.address);
        self.expect(inst, "a tile's first row", kernel.ty(operand.first), INDEX);
        self.expect(inst, "a tile's bound", kernel.ty(operand.bound), INDEX);
        for digits in [&operand.rows, &operand.depth] {
            let sizes_fit = digits.iter().enumerate().all(|(i, digit)| (digit.size > 0) == (i > 0));
            if digits.is_empty() || !sizes_fit {
                self.fail(inst, "digits but the first have a size");
            }
            for digit in digits {
                if let Stride::Value(stride) = digit.stride {
                    self.expect(inst, "a stride", kernel.ty(stride), INDEX);
                }
            }
        }
        let data = &kernel.buffers[operand.buffer];
        if data.access != Access::Read || !kind.accepts(data.dtype) {
            self.fail(inst, format!("{} `{}` is no operand of this tile", operand.buffer, data.name));
        }
    }

    /// The scratch that a tile of this kind hands so many sums on in.
    fn sums(&mut self, inst: Inst, buffer: Buffer, kind: TileKind, count: u64) {
        let sums = &self.kernel.buffers[buffer];
        let enough = sums.len.is_some_and(|len| len >= count);
        let scratch = self.kernel.buffers.values().filter(|data| data.access == Access::Scratch).count();
        if sums.access != Access::Scratch || sums.dtype != kind.sums() || !enough || scratch != 1 {
            self.fail(inst, "the sums are the only scratch, of their type, and a band fits");
        }
    }

    pub(super) fn attend(&mut self, inst: Inst, attend: &Attend) {
        for operand in attend.operands() {
            self.operand(inst, operand, attend.kind);
        }
        if attend.kind == TileKind::I8 {
            self.fail(inst, "attention is of floats");
        }
        let (keys, values) = (&attend.keys, &attend.values);
        if (keys.first, keys.bound) != (values.first, values.bound) {
            self.fail(inst, "keys and values are as many");
        }
        if attend.rows == 0 || attend.depth == 0 || attend.width == 0 || attend.pitch < attend.width {
            self.fail(inst, "the sums have elements, and their rows lie apart");
        }
        self.sums(inst, attend.sums, attend.kind, u64::from(attend.rows) * u64::from(attend.pitch));
        let score = LaneType::scalar(DType::F32);
        self.carried(inst, attend.score, &[INDEX, INDEX, score], &[score], &[]);
        if !self.is_scalar(attend.score) {
            self.fail(inst, "scores are made of scalars, without an effect");
        }
        self.carried(inst, attend.body, &[], &[], &[]);
    }

    /// Whether a block, and those in it, have no vectors, and no effect but on what they yield.
    fn is_scalar(&self, block: Block) -> bool {
        let kernel = self.kernel;
        kernel.blocks[block].insts.iter().all(|&inst| {
            let record = &kernel.insts[inst];
            let inner = record.data.blocks();
            let ends = matches!(record.data, InstData::Yield(_));
            record.results.iter().all(|&v| kernel.ty(v).lanes == 1)
                && (ends || !inner.is_empty() || !record.data.has_effect())
                && !matches!(record.data, InstData::Tile(_) | InstData::Attend(_))
                && inner.into_iter().all(|block| self.is_scalar(block))
        })
    }
}
