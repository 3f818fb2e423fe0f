//! The loops of matrix products, shared by contractions and convolutions.
//!
//! The result is cut into panels of `nr` columns and tiles of `mr` rows. A tile's accumulators are carried by the loops over
//! the contracted dimensions: each step loads one row of the panel, and one element of the left operand for each row of
//! the tile into all lanes. Deep products go block by block of depth, all rows of the task for each, with their sums in
//! scratch in between (see `blocking`).
//!
//! Weights of another type than the sums, such as 16-bit floats, are converted where they are multiplied; where several
//! tiles need them, once for each block of depth, into scratch.
//!
//! The last block stores its tiles from registers where the operations that follow are few. Else it leaves them in
//! scratch, and one more loop over the task's rows finishes them: costly epilogues want registers of their own, and are
//! made once instead of once for each vector of a tile.

mod blocking;
mod fetch;
mod nest;
mod strip;
mod sums;
mod tiles;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Access, Val};
use onnxc_ir::machine::MachineModel;
use onnxc_ir::scalar::CmpOp;
use onnxc_ir::tensor::Value;

use self::blocking::Blocking;
pub use self::blocking::{ceil_div, even_part, tasks_worth};
pub use self::nest::{NestBody, multiply_add, nest};
use self::strip::{Body, Task};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Columns of a panel of `f32` weights. All targets share it: one 512-bit register, two of 256 bits or four of 128 bits.
pub const PANEL: u32 = 16;

/// Lanes of vectors along a panel's columns: the machine's, but no more than the panel has.
pub fn lanes_of_panel(machine: &MachineModel) -> u16 {
    machine.kernel_lanes_f32.min(PANEL) as u16
}

/// Scalar operations of an epilogue that stays in the registers of a tile.
pub const LIGHT_EPILOGUE: u32 = 8;

/// The sizes of a matrix product and where its result goes.
pub struct Gemm {
    /// Dimensions around the product: shared by both operands, or the right one's.
    pub outer: Vec<Dim>,
    /// Dimensions of the left operand around its rows; a panel serves all of them.
    pub lines: Vec<Dim>,
    /// Rows of each line.
    pub rows: Dim,
    /// Columns.
    pub columns: Dim,
    /// Contracted dimensions, outermost first.
    pub contracted: Vec<Dim>,
    /// Bytes of the left operand that a row adds to what a task reads.
    pub row_bytes: Dim,
    /// The type of products and sums.
    pub acc: DType,
    /// If the operands come as words of four 8-bit integers, the types of the left ones and the right ones. The innermost
    /// contracted dimension counts words then.
    pub words: Option<[DType; 2]>,
    /// The result of the anchor.
    pub result: Value,
}

/// What a schedule knows about the operands. Coordinates are those of [`Gemm`]; `outer` holds those of the outer dimensions
/// and then those of the line.
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

    /// The left operand, if it lies in memory with its contracted dimension innermost, and the coordinates of a row's
    /// element.
    fn left_in_memory(&self, _: &GroupKernel<'_>, _: &[Index], _: Index, _: Index) -> Option<(Value, Vec<Coord>)> {
        None
    }

    /// The right operand in panels, if a product reads it where it is.
    fn stored(&self) -> Option<Value>;

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

/// Schedules a product over panels.
pub fn schedule(
    mut k: GroupKernel<'_>,
    gemm: &Gemm,
    operands: &dyn Operands,
    panels: &Panels,
    lanes: u16,
) -> GroupLaunch {
    let cut = Blocking::new(gemm, panels, k.machine, lanes);
    k.remark(cut.describe(panels, lanes));
    let nr = cut.vectors * i64::from(lanes);
    let depth = product(gemm.contracted.iter());
    let each = Dim::from(if gemm.words.is_some() { 8 } else { 2 });
    let flops = product(gemm.outer.iter().chain(&gemm.lines).chain([&gemm.rows, &gemm.columns, &depth, &each]));

    // Wide tiles read whole panels. What their number leaves over is one more strip.
    let panel = i64::from(PANEL);
    let has_room = 3 * panel / i64::from(lanes) * cut.tile_rows + 4 <= i64::from(k.machine.kernel_vector_registers);
    let last = match (panels, gemm.columns.as_const()) {
        (Panels::Stored, Some(n)) if nr > panel => last_strip(ceil_div(n, panel), nr / panel, has_room),
        (Panels::Stored, None) => unreachable!("stored panels have a constant number of columns"),
        _ => None,
    };
    let parts = |dim: &Dim, size: i64| dim.ceil_div(&Dim::from(size)).expect("the divisor is a constant");
    let all_lines = product(&gemm.lines);
    let strip_count = match (last, gemm.columns.as_const()) {
        (Some(last), Some(n)) => Dim::from((ceil_div(n, panel) - last) / (nr / panel) + 1),
        _ => parts(&gemm.columns, nr),
    };
    let blocks = [parts(&all_lines, cut.lines), parts(&gemm.rows, cut.rows), parts(&strip_count, cut.run)];
    let grid: Vec<Dim> = gemm.outer.iter().cloned().chain(blocks).collect();

    let dims: Vec<Index> = grid.iter().map(|d| k.dim(d)).collect();
    let line_dims: Vec<Index> = gemm.lines.iter().map(|d| k.dim(d)).collect();
    let (rows, columns, strip_bound) = (k.dim(&gemm.rows), k.dim(&gemm.columns), k.dim(&strip_count));
    let line_bound = k.dim(&all_lines);
    let extents: Vec<Index> = gemm.contracted.iter().map(|d| k.dim(d)).collect();
    let panel_buffer = matches!(panels, Panels::Copied).then(|| {
        let depth = depth.as_const().expect("copied panels have a constant depth") as u64;
        k.b.buffer("panel", gemm.acc, Access::Scratch, Some(depth * nr as u64))
    });
    let ragged = gemm.columns.as_const().is_none_or(|n| n % panel != 0 || (last.is_none() && n % nr != 0));
    let staged = ragged || k.operations_after(gemm.result) > LIGHT_EPILOGUE;
    let reads_after = k.has_operands_after(gemm.result);
    k.remark(match (staged, ragged) {
        (false, _) => "what follows runs on the registers of a tile",
        (true, true) => "what follows runs on the sums in scratch: the columns do not fill the tiles",
        (true, false) => "what follows runs on the sums in scratch: it takes too many operations for the registers",
    });
    let widest = nr.max(last.unwrap_or(0) * panel);
    let sums = (staged || cut.blocks > 1)
        .then(|| k.b.buffer("sums", gemm.acc, Access::Scratch, Some((cut.lines * cut.rows * widest) as u64)));

    let other_type = operands.stored().is_some_and(|v| k.graph.tensor_ty(v).dtype != gemm.acc);
    let converts = other_type && gemm.words.is_none() && cut.lines * cut.rows > 2 * cut.tile_rows;
    let converted = converts.then(|| {
        let depth = gemm.contracted.iter().map(|d| d.as_const().expect("stored panels have a constant depth"));
        let steps = cut.steps(&depth.collect::<Vec<i64>>());
        k.b.buffer("converted", gemm.acc, Access::Scratch, Some((steps * widest) as u64))
    });
    if converts {
        k.remark("weights are converted once for all tiles of a block of depth");
    }

    let few = Blocking::of_few_rows(gemm, panels, &cut, lanes);
    let body = |cut, known, vectors: i64| Body {
        gemm,
        operands,
        cut,
        known,
        extents: &extents,
        columns,
        panel: panel_buffer,
        converted: converted.filter(|_| cut.lines * cut.rows > 2 * cut.tile_rows),
        sums,
        staged,
        reads_after,
        lanes,
        vectors,
        nr: vectors * i64::from(lanes),
    };
    let known = gemm.rows.as_const();
    let wide = body(&cut, known, cut.vectors);
    let few: Vec<Body<'_>> = few.iter().map(|cut| body(cut, Some(cut.rows), cut.vectors)).collect();
    k.tasks(|k, task| {
        let at = k.unflatten(task, &dims);
        let (outer, [line_block, row_block, run]) = at.split_last_chunk().expect("three blocks end the grid");
        let range = |k: &mut GroupKernel<'_>, block: Index, size: i64, bound: Index| {
            let lo = k.b.imul(block, size);
            let end = k.b.iadd(lo, size);
            (lo, k.b.imin(end, bound))
        };
        let lines = range(k, *line_block, cut.lines, line_bound);
        let rows = range(k, *row_block, cut.rows, rows);
        let (first, end) = range(k, *run, cut.run, strip_bound);
        let task = Task { outer, line_dims: &line_dims, lines, rows };
        let whole = if last.is_some() { k.b.isub(strip_bound, 1) } else { strip_bound };
        let wide_end = k.b.imin(end, whole);
        k.each(first, wide_end, 1, |k, number| {
            let taken = strips_of_few(k, &few, &task, (number.into(), whole), nr);
            let alone = k.b.index_compare(CmpOp::Eq, taken, 0);
            let strip = |k: &mut GroupKernel<'_>| {
                let column = k.b.imul(number, nr);
                wide.strip(k, &task, column);
            };
            if few.is_empty() { strip(k) } else { k.when(alone, strip) }
        });
        let Some(last) = last else { return };
        let from = k.b.imax(first, whole);
        let rest = body(&cut, known, last * panel / i64::from(lanes));
        k.each(from, end, 1, |k, number| {
            let column = k.b.imul(number, nr);
            rest.strip(k, &task, column);
        });
    });
    k.finish(product(&grid), flops)
}

/// Panels of the last strip, where strips of `wide` panels do not come out even. One panel of two is better a third one
/// of the strip before it, if there `has_room` for its sums: a tile of one vector reads more than it computes.
fn last_strip(panels: i64, wide: i64, has_room: bool) -> Option<i64> {
    match panels % wide {
        0 => None,
        1 if wide == 2 && panels > 1 && has_room => Some(3),
        rest => Some(rest),
    }
}

/// Where a run brings so few rows that the sums of a tile would wait for each other, the first of some strips in a row
/// is computed together with the others, which have nothing to do then. Gives 1 if the strip belongs to such, else 0.
fn strips_of_few(
    k: &mut GroupKernel<'_>,
    few: &[Body<'_>],
    task: &Task<'_>,
    (number, whole): (Index, Index),
    nr: i64,
) -> Index {
    let (one, none) = (k.b.val(Index::Const(1)), k.b.val(Index::Const(0)));
    let rows = k.b.isub(task.rows.1, task.rows.0);
    let mut taken = Index::Const(0);
    for body in few {
        let strips = body.nr / nr;
        let group = k.b.idiv(number, strips);
        let first = k.b.imul(group, strips);
        let end = k.b.iadd(first, strips);
        let complete = k.b.index_compare(CmpOp::Le, end, whole);
        let complete = k.b.select(complete, one, none);
        let fits = k.b.index_compare(CmpOp::Eq, rows, body.cut.rows);
        let belongs = k.b.select(fits, complete, none);
        let leads = k.b.index_compare(CmpOp::Eq, number, first);
        let leads = k.b.select(leads, belongs, none);
        let leads = k.b.index_compare(CmpOp::Eq, leads, 1);
        k.when(leads, |k| {
            let column = k.b.imul(group, body.nr);
            body.strip(k, task, column);
        });
        taken = k.b.iadd(taken, belongs);
    }
    taken
}
