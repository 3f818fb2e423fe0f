//! The part of a product that is one strip of columns and the rows of a task: its panel, the blocks of depth, and the sums
//! of a tile over one of them.

use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Address, Buffer, Val};
use onnxc_ir::scalar::Scalar;

use super::blocking::{Blocking, ceil_div};
use super::fetch::{Fetch, NEAR};
use super::nest::{multiply_add, nest, steps};
use super::tiles::Tile;
use super::{Gemm, Operands, PANEL};
use crate::codegen::words::NUMBERS;
use crate::codegen::{Coord, GroupKernel};

/// The part of the result that a task computes.
pub(super) struct Task<'a> {
    pub(super) outer: &'a [Index],
    pub(super) line_dims: &'a [Index],
    pub(super) lines: (Index, Index),
    pub(super) rows: (Index, Index),
}

/// A block of depth: coordinates of the contracted dimensions that it fixes, and the range of the next one.
pub(super) struct Depth {
    pub(super) fixed: Vec<Index>,
    pub(super) range: Option<(Index, Index)>,
    /// The row-major index of its first coordinates.
    pub(super) begin: Index,
    pub(super) fetch: Fetch,
}

/// What the loops of one product share.
pub(super) struct Body<'a> {
    pub(super) gemm: &'a Gemm,
    pub(super) operands: &'a dyn Operands,
    pub(super) cut: &'a Blocking,
    /// Rows of a line, if they are known where this body runs.
    pub(super) known: Option<i64>,
    pub(super) extents: &'a [Index],
    pub(super) columns: Index,
    pub(super) panel: Option<Buffer>,
    /// A block of the panels in the type of the sums.
    pub(super) converted: Option<Buffer>,
    pub(super) sums: Option<Buffer>,
    pub(super) staged: bool,
    /// The operations after the product read more than it.
    pub(super) reads_after: bool,
    pub(super) lanes: u16,
    pub(super) vectors: i64,
    pub(super) nr: i64,
}

impl Body<'_> {
    /// Computes the task's rows of the panel that begins at `column`.
    pub(super) fn strip(&self, k: &mut GroupKernel<'_>, task: &Task<'_>, column: Index) {
        self.copy_panel(k, task.outer, column);
        let last = self.cut.blocks - 1;
        if last > 0 {
            self.clear(k, task);
            let inner = if self.staged { last + 1 } else { last };
            k.each(0, inner, 1, |k, block| {
                let depth = self.depth(k, block.into());
                self.convert(k, task, column, &depth);
                self.tiles(k, task, column, &mut |k, tile| {
                    let sums = self.accumulate(k, tile, &depth, true);
                    self.keep(k, tile, &sums);
                });
            });
            if self.staged {
                return self.finish(k, task, column);
            }
        }
        let depth = self.depth(k, Index::Const(last));
        self.convert(k, task, column, &depth);
        self.tiles(k, task, column, &mut |k, tile| {
            self.fetch_operands(k, tile);
            let sums = self.accumulate(k, tile, &depth, last > 0);
            if self.staged { self.keep(k, tile, &sums) } else { self.store(k, tile, &sums) }
        });
        if self.staged {
            self.finish(k, task, column);
        }
    }

    /// Copies the panel that begins at `column` to scratch, with zeros past the last column.
    fn copy_panel(&self, k: &mut GroupKernel<'_>, outer: &[Index], column: Index) {
        let Some(panel) = self.panel else { return };
        let end = k.b.iadd(column, self.nr);
        let hi = k.b.imin(end, self.columns);
        nest(k, self.extents, &mut vec![], &[], &mut |k, contracted, _| {
            let row = self.flat(k, contracted);
            let base = k.b.imul(row, self.nr);
            let place = |k: &mut GroupKernel<'_>, c: Index| {
                let within = k.b.isub(c, column);
                let address = k.b.advance(Address::default(), base, 1);
                k.b.advance(address, within, 1)
            };
            k.vectors(column, hi, self.lanes, |k, c, lanes, count| {
                let val = self.operands.right(k, outer, c, contracted, lanes, count);
                let Coord::Affine { index, .. } = c else { unreachable!("loops give affine coordinates") };
                let address = place(k, index);
                k.b.store(panel, address, val, count);
            });
            let zero = k.b.constant(Scalar::zero(self.gemm.acc), 1);
            k.each(hi, end, 1, |k, c| {
                let address = place(k, c.into());
                k.b.store(panel, address, zero, None);
            });
            vec![]
        });
    }

    /// The row-major index of contracted coordinates.
    pub(super) fn flat(&self, k: &mut GroupKernel<'_>, contracted: &[Index]) -> Index {
        let mut flat = Index::Const(0);
        for (&c, &extent) in contracted.iter().zip(self.extents) {
            flat = k.b.imul(flat, extent);
            flat = k.b.iadd(flat, c);
        }
        flat
    }

    /// The contracted coordinates of a block of depth.
    fn depth(&self, k: &mut GroupKernel<'_>, block: Index) -> Depth {
        let whole: i64 = self.extents.iter().map(|d| d.as_const().unwrap_or(0)).product();
        let panels = self.nr / i64::from(PANEL);
        if self.cut.blocks == 1 {
            // One or two tiles go at the speed of memory: the panel itself is fetched a few lines ahead.
            let few = self.cut.lines * self.cut.rows <= 2 * self.cut.tile_rows;
            let resident = self.gemm.columns.as_const().is_some_and(|n| whole * n * 4 <= k.machine.l2_bytes as i64);
            let fetch = match (few, resident) {
                (true, true) => Fetch::Nothing,
                (true, false) => Fetch::Near(NEAR),
                (false, _) => Fetch::Next { ahead: panels * whole, steps: whole },
            };
            return Depth { fixed: vec![], range: None, begin: Index::Const(0), fetch };
        }
        let step = whole / self.cut.blocks;
        let ahead = if block == Index::Const(self.cut.blocks - 1) { (panels - 1) * whole + step } else { step };
        let fetch = Fetch::Next { ahead, steps: step };
        let fixed = self.cut.fixed;
        let mut dims = self.extents[..fixed].to_vec();
        let Some(chunk) = self.cut.chunk else {
            // The next dimension is whole: the blocks are the coordinates before it.
            let fixed = k.unflatten(block, &dims);
            let begin = self.begin(k, &fixed, None);
            return Depth { fixed, range: None, begin, fetch };
        };
        let extent = self.extents[fixed].as_const().expect("only constant depths are cut");
        dims.push(Index::Const(ceil_div(extent, chunk)));
        let mut at = k.unflatten(block, &dims);
        let piece = at.pop().expect("a chunk");
        let lo = k.b.imul(piece, chunk);
        let end = k.b.iadd(lo, chunk);
        let begin = self.begin(k, &at, Some(lo));
        Depth { fixed: at, range: Some((lo, k.b.imin(end, extent))), begin, fetch }
    }

    /// The row-major index where a block of depth begins.
    fn begin(&self, k: &mut GroupKernel<'_>, fixed: &[Index], lo: Option<Index>) -> Index {
        let mut begin = fixed.to_vec();
        begin.extend(lo);
        begin.resize(self.extents.len(), Index::Const(0));
        self.flat(k, &begin)
    }

    /// Puts a block of the panels into scratch, in the type of the sums.
    fn convert(&self, k: &mut GroupKernel<'_>, task: &Task<'_>, column: Index, depth: &Depth) {
        let Some(converted) = self.converted else { return };
        let lanes = i64::from(self.lanes);
        let mut coords = depth.fixed.clone();
        let extents = &self.extents[coords.len()..];
        let mut step = |k: &mut GroupKernel<'_>, contracted: &[Index], _: &[Val]| {
            let row = self.flat(k, contracted);
            let row = k.b.isub(row, depth.begin);
            for offset in (0..self.vectors).map(|j| j * lanes) {
                let val = self.stored(k, task.outer, column, offset, contracted);
                let address = k.b.advance(Address::at(offset), row, self.nr);
                k.b.store(converted, address, val, None);
            }
            vec![]
        };
        match depth.range {
            None => nest(k, extents, &mut coords, &[], &mut step),
            Some((from, to)) => steps(k, (from, to), &extents[1..], &mut coords, &[], &mut step),
        };
    }

    /// A tile's sums over a block of depth, added to those in scratch if `more`.
    fn accumulate(&self, k: &mut GroupKernel<'_>, tile: &Tile, depth: &Depth, more: bool) -> Vec<Val> {
        let lanes = i64::from(self.lanes);
        let init: Vec<Val> = if more {
            (0..tile.rows * self.vectors).map(|i| self.sums_at(k, tile.sums, i * lanes)).collect()
        } else {
            let zero = k.b.constant(Scalar::zero(self.gemm.acc), self.lanes);
            vec![zero; (tile.rows * self.vectors) as usize]
        };
        let mut coords = depth.fixed.clone();
        let extents = &self.extents[coords.len()..];
        let mut step = |k: &mut GroupKernel<'_>, contracted: &[Index], sums: &[Val]| {
            let vectors = self.vectors as usize;
            if k.machine.multiplies_by_lanes {
                // The left elements of some steps wait in registers: the panel's row passes one vector at a time.
                self.fetch(k, tile, depth, contracted);
                let left: Vec<Val> = (0..tile.rows).map(|r| self.left(k, tile, r, contracted)).collect();
                let mut next = sums.to_vec();
                for j in 0..vectors {
                    let right = self.right(k, tile, j as i64 * lanes, depth, contracted);
                    for (r, &left) in left.iter().enumerate() {
                        let sum = &mut next[r * vectors + j];
                        *sum = self.multiply(k, left, right, *sum);
                    }
                }
                return next;
            }
            let right: Vec<Val> =
                (0..self.vectors).map(|j| self.right(k, tile, j * lanes, depth, contracted)).collect();
            self.fetch(k, tile, depth, contracted);
            self.fetch_rows(k, tile, contracted);
            let mut next = Vec::with_capacity(sums.len());
            for r in 0..tile.rows {
                let left = self.left(k, tile, r, contracted);
                for (j, &right) in right.iter().enumerate() {
                    next.push(self.multiply(k, left, right, sums[r as usize * vectors + j]));
                }
            }
            next
        };
        let Some((from, to)) = depth.range else { return nest(k, extents, &mut coords, &init, &mut step) };
        steps(k, (from, to), &extents[1..], &mut coords, &init, &mut step)
    }

    /// One step of a sum.
    fn multiply(&self, k: &mut GroupKernel<'_>, left: Val, right: Val, sum: Val) -> Val {
        match self.gemm.words {
            Some(types) => k.b.dot4(left, right, sum, types),
            None => multiply_add(k, left, right, sum),
        }
    }

    /// An element of a tile's row of the left operand, in all lanes.
    fn left(&self, k: &mut GroupKernel<'_>, tile: &Tile, row: i64, contracted: &[Index]) -> Val {
        let at = k.b.iadd(tile.row, row);
        self.operands.left(k, &tile.around, at, contracted, self.lanes)
    }

    /// A vector of the panel's row: columns `tile.column + offset` on.
    fn right(&self, k: &mut GroupKernel<'_>, tile: &Tile, offset: i64, depth: &Depth, contracted: &[Index]) -> Val {
        let Some(scratch) = self.panel.or(self.converted) else {
            return self.stored(k, &tile.around, tile.column, offset, contracted);
        };
        let mut row = self.flat(k, contracted);
        if self.converted.is_some() {
            row = k.b.isub(row, depth.begin);
        }
        let address = k.b.advance(Address::at(offset), row, self.nr);
        k.b.load(scratch, address, self.lanes, None)
    }

    /// The same from where the operand is.
    fn stored(
        &self,
        k: &mut GroupKernel<'_>,
        around: &[Index],
        column: Index,
        offset: i64,
        contracted: &[Index],
    ) -> Val {
        let index = k.b.iadd(column, offset);
        let multiple = if offset == 0 { self.nr } else { i64::from(self.lanes) };
        let column = Coord::consecutive(index, multiple);
        self.operands.right(k, around, column, contracted, self.lanes, None)
    }

    /// Elements of the contracted dimension that a step takes.
    pub(super) fn elements_of_a_step(&self) -> i64 {
        if self.gemm.words.is_some() { NUMBERS } else { 1 }
    }
}
