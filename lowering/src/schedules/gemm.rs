//! The loops of matrix products, shared by contractions and convolutions.
//!
//! The result is cut into panels of `nr` columns and tiles of `mr` rows. A tile's accumulators are carried by the loops over
//! the contracted dimensions: each step loads one row of the panel, and one element of the left operand for each row of
//! the tile into all lanes. The tile's size comes from the machine's registers: `mr * nv` accumulators, `nv` vectors of the
//! panel and two for the broadcast element.
//!
//! Tasks are blocks of rows times runs of panels, so that a task has enough work, whatever the number of workers.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Access, Address, FmaMode, LoopKind, Stride, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar};
use onnxc_ir::tensor::Value;

use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Rows of a task: enough to reuse a panel while it is in the nearest cache.
const ROW_BLOCK: i64 = 64;

/// Multiply-adds of a task at least.
const TASK_WORK: i64 = 1 << 18;

/// Columns of a panel of `f32` weights. All targets share it: one 512-bit register, two of 256 bits or four of 128 bits.
pub const PANEL: u32 = 16;

/// The sizes of a matrix product and where its result goes.
pub struct Gemm {
    /// Dimensions around the product, all of them free or shared by both operands.
    pub outer: Vec<Dim>,
    /// Rows.
    pub rows: Dim,
    /// Columns.
    pub columns: Dim,
    /// Contracted dimensions, outermost first.
    pub contracted: Vec<Dim>,
    /// The type of products and sums.
    pub acc: DType,
    /// The result of the anchor.
    pub result: Value,
}

/// What a schedule knows about the operands. Coordinates of outer and contracted dimensions are those of [`Gemm`].
pub trait Operands {
    /// The left operand's element of a row, in all lanes.
    fn left(&self, k: &mut GroupKernel<'_>, outer: &[Index], row: Index, contracted: &[Index], lanes: u16) -> Val;

    /// The right operand's elements of consecutive columns.
    fn right(
        &self,
        k: &mut GroupKernel<'_>,
        outer: &[Index],
        column: Coord,
        contracted: &[Index],
        lanes: u16,
        count: Option<Val>,
    ) -> Val;

    /// The result's coordinates.
    fn result(&self, outer: &[Index], row: Index, column: Coord) -> Vec<Coord>;
}

/// Where a panel's rows come from.
pub enum Panels {
    /// The right operand is stored as panels already; `right` reads them.
    Stored,
    /// Each task copies its panel into scratch first; the contracted dimensions are constants.
    Copied,
}

/// The tile that fits the machine's registers: rows and vectors. Rows are spread evenly over tiles where their number is
/// known: 14 rows are two tiles of 7 rather than one of 8 and one of 6.
fn tile(k: &GroupKernel<'_>, lanes: u16, rows: &Dim) -> (i64, i64) {
    // Registers of 512 bits take two panels, so that each broadcast element is used twice.
    let vectors = (i64::from(PANEL) / i64::from(lanes)).clamp(2, 4);
    let registers = i64::from(k.machine.kernel_vector_registers);
    let most = ((registers - vectors - 2) / vectors).clamp(1, 8);
    let mr = match rows.as_const() {
        Some(rows) if rows > 0 => {
            let tiles = ceil_div(rows.min(ROW_BLOCK), most);
            ceil_div(rows.min(ROW_BLOCK), tiles)
        }
        _ => most,
    };
    (mr, vectors)
}

/// `a / b` rounded up; both are positive.
fn ceil_div(a: i64, b: i64) -> i64 {
    (a + b - 1) / b
}

/// Schedules a product over panels.
pub fn schedule(
    mut k: GroupKernel<'_>,
    gemm: &Gemm,
    operands: &dyn Operands,
    panels: &Panels,
    lanes: u16,
) -> GroupLaunch {
    let (mr, nv) = tile(&k, lanes, &gemm.rows);
    let nr = nv * i64::from(lanes);
    let work = product(gemm.contracted.iter());
    let flops = product(gemm.outer.iter().chain([&gemm.rows, &gemm.columns, &work, &Dim::from(2)]));

    // A wide tile reads whole panels; the last one alone where their number is odd.
    let panel = i64::from(PANEL);
    let single = match (panels, gemm.columns.as_const()) {
        (Panels::Stored, Some(n)) if nr > panel => ceil_div(n, panel) % (nr / panel) != 0,
        (Panels::Stored, None) => unreachable!("stored panels have a constant number of columns"),
        _ => false,
    };
    let row_block = (ROW_BLOCK / mr).max(1) * mr;
    let panel_count = gemm.columns.ceil_div(&Dim::from(nr)).expect("the divisor is a constant");
    let block_count = gemm.rows.ceil_div(&Dim::from(row_block)).expect("the divisor is a constant");
    let run = match (work.as_const(), gemm.rows.as_const()) {
        (Some(work), Some(rows)) => (TASK_WORK / (work * rows.min(row_block) * nr).max(1)).clamp(1, 64),
        _ => 1,
    };
    let runs = panel_count.ceil_div(&Dim::from(run)).expect("the divisor is a constant");
    let grid: Vec<Dim> = gemm.outer.iter().cloned().chain([block_count, runs]).collect();

    let dims: Vec<Index> = grid.iter().map(|d| k.dim(d)).collect();
    let (rows, columns, panel_bound) = (k.dim(&gemm.rows), k.dim(&gemm.columns), k.dim(&panel_count));
    let extents: Vec<Index> = gemm.contracted.iter().map(|d| k.dim(d)).collect();
    let stage = matches!(panels, Panels::Copied).then(|| {
        let depth = work.as_const().expect("copied panels have a constant depth") as u64;
        k.b.buffer("panel", gemm.acc, Access::Scratch, Some(depth * nr as u64))
    });
    let ragged = gemm.columns.as_const().is_none_or(|n| n % nr != 0);
    let spill = ragged.then(|| k.b.buffer("tile", gemm.acc, Access::Scratch, Some((mr * nr) as u64)));

    let body = |nv: i64| Body {
        gemm,
        operands,
        extents: extents.clone(),
        columns,
        stage,
        spill,
        lanes,
        nv,
        nr: nv * i64::from(lanes),
    };
    let (wide, narrow) = (body(nv), body(1));
    // What is left after whole tiles of rows, where that is known.
    let rest = gemm.rows.as_const().map(|m| m % mr);
    k.tasks(|k, task| {
        let at = k.unflatten(task, &dims);
        let (outer, block) = at.split_at(gemm.outer.len());
        let lo = k.b.imul(block[0], row_block);
        let end = k.b.iadd(lo, row_block);
        let hi = k.b.imin(end, rows);
        let first = k.b.imul(block[1], run);
        let end = k.b.iadd(first, run);
        let last = k.b.imin(end, panel_bound);
        let strip = |k: &mut GroupKernel<'_>, body: &Body<'_>, panel: Index| {
            let column = k.b.imul(panel, nr);
            body.copy_panel(k, outer, column);
            let length = k.b.isub(hi, lo);
            let full = k.b.idiv(length, mr);
            let full = k.b.imul(full, mr);
            let middle = k.b.iadd(lo, full);
            k.each(lo, middle, mr, |k, row| body.tile(k, outer, row.into(), column, mr));
            match rest {
                Some(0) => {}
                Some(rest) => k.each(middle, hi, rest, |k, row| body.tile(k, outer, row.into(), column, rest)),
                None => k.each(middle, hi, 1, |k, row| body.tile(k, outer, row.into(), column, 1)),
            }
        };
        if !single {
            k.each(first, last, 1, |k, panel| strip(k, &wide, panel.into()));
            return;
        }
        let whole = k.b.isub(panel_bound, 1);
        let last_wide = k.b.imin(last, whole);
        k.each(first, last_wide, 1, |k, panel| strip(k, &wide, panel.into()));
        let from = k.b.imax(first, whole);
        k.each(from, last, 1, |k, panel| strip(k, &narrow, panel.into()));
    });
    k.finish(product(&grid), flops)
}

/// What the loops of one product share.
struct Body<'a> {
    gemm: &'a Gemm,
    operands: &'a dyn Operands,
    extents: Vec<Index>,
    columns: Index,
    stage: Option<onnxc_ir::loops::Buffer>,
    spill: Option<onnxc_ir::loops::Buffer>,
    lanes: u16,
    nv: i64,
    nr: i64,
}

impl Body<'_> {
    /// Copies the panel that begins at `column` to scratch, with zeros past the last column.
    fn copy_panel(&self, k: &mut GroupKernel<'_>, outer: &[Index], column: Index) {
        let Some(stage) = self.stage else { return };
        let end = k.b.iadd(column, self.nr);
        let hi = k.b.imin(end, self.columns);
        nest(k, &self.extents, &mut vec![], &[], &mut |k, contracted, _| {
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
                k.b.store(stage, address, val, count);
            });
            if self.spill.is_some() {
                let zero = k.b.constant(Scalar::zero(self.gemm.acc), 1);
                k.each(hi, end, 1, |k, c| {
                    let address = place(k, c.into());
                    k.b.store(stage, address, zero, None);
                });
            }
            vec![]
        });
    }

    /// The row-major index of contracted coordinates.
    fn flat(&self, k: &mut GroupKernel<'_>, contracted: &[Index]) -> Index {
        let mut flat = Index::Const(0);
        for (&c, &extent) in contracted.iter().zip(&self.extents) {
            flat = k.b.imul(flat, extent);
            flat = k.b.iadd(flat, c);
        }
        flat
    }

    /// Computes and stores `mr` rows of a panel.
    fn tile(&self, k: &mut GroupKernel<'_>, outer: &[Index], row: Index, column: Index, mr: i64) {
        let lanes = i64::from(self.lanes);
        let zero = k.b.constant(Scalar::zero(self.gemm.acc), self.lanes);
        let init = vec![zero; (mr * self.nv) as usize];
        let sums = nest(k, &self.extents, &mut vec![], &init, &mut |k, contracted, sums| {
            let right: Vec<Val> = (0..self.nv).map(|j| self.right(k, outer, column, j * lanes, contracted)).collect();
            let mut next = Vec::with_capacity(sums.len());
            for r in 0..mr {
                let at = k.b.iadd(row, r);
                let left = self.operands.left(k, outer, at, contracted, self.lanes);
                for (j, &right) in right.iter().enumerate() {
                    next.push(multiply_add(k, left, right, sums[r as usize * self.nv as usize + j]));
                }
            }
            next
        });
        match self.spill {
            None => self.store(k, outer, row, column, mr, &sums),
            Some(spill) => {
                let end = k.b.iadd(column, self.nr);
                let fits = k.b.index_compare(CmpOp::Le, end, self.columns);
                let then = k.b.open_block(&[]);
                self.store(k, outer, row, column, mr, &sums);
                k.b.close_block(&[]);
                let otherwise = k.b.open_block(&[]);
                for (i, &sum) in sums.iter().enumerate() {
                    k.b.store(spill, Address::at(i as i64 * lanes), sum, None);
                }
                k.each(0, mr, 1, |k, r| {
                    let at = k.b.iadd(row, r);
                    k.vectors(column, self.columns, self.lanes, |k, c, lanes, count| {
                        let Coord::Affine { index, .. } = c else { unreachable!("loops give affine coordinates") };
                        let within = k.b.isub(index, column);
                        let address = Address::default().plus(r, Stride::Const(self.nr));
                        let address = k.b.advance(address, within, 1);
                        let sum = k.b.load(spill, address, lanes, count);
                        self.push(k, outer, at, c, lanes, sum, count);
                    });
                });
                k.b.close_block(&[]);
                k.b.choose(fits, then, otherwise);
            }
        }
    }

    /// A vector of the panel's row: columns `column + offset` on.
    fn right(&self, k: &mut GroupKernel<'_>, outer: &[Index], column: Index, offset: i64, contracted: &[Index]) -> Val {
        match self.stage {
            Some(stage) => {
                let row = self.flat(k, contracted);
                let address = k.b.advance(Address::at(offset), row, self.nr);
                k.b.load(stage, address, self.lanes, None)
            }
            None => {
                let index = k.b.iadd(column, offset);
                let multiple = if offset == 0 { self.nr } else { i64::from(self.lanes) };
                self.operands.right(k, outer, Coord::consecutive(index, multiple), contracted, self.lanes, None)
            }
        }
    }

    /// Stores whole vectors of a tile.
    fn store(&self, k: &mut GroupKernel<'_>, outer: &[Index], row: Index, column: Index, mr: i64, sums: &[Val]) {
        let lanes = i64::from(self.lanes);
        for r in 0..mr {
            let at = k.b.iadd(row, r);
            for j in 0..self.nv {
                let index = k.b.iadd(column, j * lanes);
                let sum = sums[(r * self.nv + j) as usize];
                self.push(k, outer, at, Coord::consecutive(index, lanes), self.lanes, sum, None);
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

/// `a * b + sum`; floats may round once.
pub fn multiply_add(k: &mut GroupKernel<'_>, a: Val, b: Val, sum: Val) -> Val {
    if k.b.ty(sum).dtype.is_float() {
        return k.b.mul_add(a, b, sum, FmaMode::Fused);
    }
    let product = k.b.binary(BinaryOp::Mul, a, b);
    k.b.binary(BinaryOp::Add, sum, product)
}

/// What runs inside of nested loops: it gets their coordinates and what is carried, and gives what is carried on.
pub type NestBody<'a> = dyn FnMut(&mut GroupKernel<'_>, &[Index], &[Val]) -> Vec<Val> + 'a;

/// Serial loops over `extents`, outermost first, that carry values through `body`.
pub fn nest(
    k: &mut GroupKernel<'_>,
    extents: &[Index],
    coords: &mut Vec<Index>,
    init: &[Val],
    body: &mut NestBody<'_>,
) -> Vec<Val> {
    let Some((&extent, inner)) = extents.split_first() else { return body(k, coords, init) };
    k.for_(LoopKind::Serial, 0, extent, 1, init, |k, i, carried| {
        coords.push(k.b.index(i));
        let result = nest(k, inner, coords, carried, body);
        coords.pop();
        result
    })
}
