//! The sums of tiles: in scratch between blocks of depth, and on to the operations after the product.

use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Address, Buffer, Val};
use onnxc_ir::scalar::Scalar;

use super::strip::{Body, Task};
use super::tiles::Tile;
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::{Coord, GroupKernel};

impl Body<'_> {
    fn sums_buffer(&self) -> Buffer {
        self.sums.expect("sums leave registers only where scratch was asked for")
    }

    pub(super) fn sums_at(&self, k: &mut GroupKernel<'_>, base: Index, offset: i64) -> Val {
        let address = k.b.advance(Address::at(offset), base, 1);
        k.b.load(self.sums_buffer(), address, self.lanes, None)
    }

    /// Sets the task's sums to zero.
    pub(super) fn clear(&self, k: &mut GroupKernel<'_>, task: &Task<'_>) {
        let zero = k.b.constant(Scalar::zero(self.gemm.acc), self.lanes);
        let lines = k.b.isub(task.lines.1, task.lines.0);
        let used = k.b.imul(lines, self.cut.rows * self.nr);
        k.each(0, used, i64::from(self.lanes), |k, at| {
            let address = k.b.advance(Address::default(), at, 1);
            k.b.store(self.sums_buffer(), address, zero, None);
        });
    }

    /// Leaves a tile's sums in scratch.
    pub(super) fn keep(&self, k: &mut GroupKernel<'_>, tile: &Tile, sums: &[Val]) {
        for (i, &sum) in sums.iter().enumerate() {
            let address = k.b.advance(Address::at(i as i64 * i64::from(self.lanes)), tile.sums, 1);
            k.b.store(self.sums_buffer(), address, sum, None);
        }
    }

    /// Takes the sums in scratch through the rest of the group.
    pub(super) fn finish(&self, k: &mut GroupKernel<'_>, task: &Task<'_>, column: Index) {
        let end = k.b.iadd(column, self.nr);
        let hi = k.b.imin(end, self.columns);
        k.each(task.lines.0, task.lines.1, 1, |k, line| {
            let within = k.b.isub(line, task.lines.0);
            let base = k.b.imul(within, self.cut.rows);
            let coords = k.unflatten(line, task.line_dims);
            let around: Vec<Index> = task.outer.iter().copied().chain(coords).collect();
            k.each(task.rows.0, task.rows.1, 1, |k, row| {
                let position = k.b.isub(row, task.rows.0);
                let position = k.b.iadd(base, position);
                let sums = k.b.imul(position, self.nr);
                k.vectors(column, hi, self.lanes, |k, c, lanes, count| {
                    let Coord::Affine { index, .. } = c else { unreachable!("loops give affine coordinates") };
                    let within = k.b.isub(index, column);
                    let address = k.b.advance(Address::default(), sums, 1);
                    let address = k.b.advance(address, within, 1);
                    let sum = k.b.load(self.sums_buffer(), address, lanes, count);
                    self.push(k, &around, row.into(), c, lanes, sum, count);
                });
            });
        });
    }

    /// Stores whole vectors of a tile.
    pub(super) fn store(&self, k: &mut GroupKernel<'_>, tile: &Tile, sums: &[Val]) {
        let lanes = i64::from(self.lanes);
        for r in 0..tile.rows {
            let at = k.b.iadd(tile.row, r);
            for j in 0..self.vectors {
                let index = k.b.iadd(tile.column, j * lanes);
                let sum = sums[(r * self.vectors + j) as usize];
                self.push(k, &tile.around, at, Coord::consecutive(index, lanes), self.lanes, sum, None);
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn push(
        &self,
        k: &mut GroupKernel<'_>,
        outer: &[Index],
        row: Index,
        column: Coord,
        lanes: u16,
        sum: Val,
        count: Option<Val>,
    ) {
        let at = Position { coords: self.operands.result(outer, row, column), lanes, count };
        k.push(self.gemm.result, &at, sum, &mut Pulled::default());
    }
}
