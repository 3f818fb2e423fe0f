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

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Access, Address, Buffer, FmaMode, Locality, LoopKind, Val};
use onnxc_ir::machine::MachineModel;
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar};
use onnxc_ir::tensor::Value;

use self::blocking::Blocking;
pub use self::blocking::{ceil_div, even_part, tasks_worth};
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::words::NUMBERS;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Columns of a panel of `f32` weights. All targets share it: one 512-bit register, two of 256 bits or four of 128 bits.
pub const PANEL: u32 = 16;

/// Lanes of vectors along a panel's columns: the machine's, but no more than the panel has.
pub fn lanes_of_panel(machine: &MachineModel) -> u16 {
    machine.kernel_lanes_f32.min(PANEL) as u16
}

/// Innermost contracted dimensions of at most this size have no loop.
const UNROLLED: i64 = 4;

/// How many steps ahead a panel is fetched that is read at the speed of memory.
const NEAR: i64 = 64;

/// Bytes of a line of the caches.
const LINE_BYTES: i64 = 64;

/// Rows of the next tile that are fetched while the steps of a line are computed: a power of two, those of a full tile.
const ROWS_OF_A_LINE: i64 = 8;

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

/// The part of the result that a task computes.
struct Task<'a> {
    outer: &'a [Index],
    line_dims: &'a [Index],
    lines: (Index, Index),
    rows: (Index, Index),
}

/// A tile's place: coordinates around its rows, its first row, its first column, where its sums lie in scratch, and which
/// it is of how many that share the work of fetching.
struct Tile {
    around: Vec<Index>,
    row: Index,
    rows: i64,
    column: Index,
    sums: Index,
    number: Index,
    of: Index,
}

/// Rows of a number that a run decides, spread evenly over tiles: `larger` of `size + 1` rows and `smaller` of `size`.
struct Spread {
    size: Index,
    larger: Index,
    smaller: Index,
    tiles: Index,
}

impl Spread {
    /// Rows `lo..hi` over tiles of at most `most`.
    fn new(k: &mut GroupKernel<'_>, lo: Index, hi: Index, most: i64) -> Spread {
        let rows = k.b.isub(hi, lo);
        let padded = k.b.iadd(rows, most - 1);
        let tiles = k.b.idiv(padded, most);
        let tiles = k.b.imax(tiles, 1);
        let size = k.b.idiv(rows, tiles);
        let whole = k.b.imul(size, tiles);
        let larger = k.b.isub(rows, whole);
        Spread { size, larger, smaller: k.b.isub(tiles, larger), tiles }
    }

    /// How many tiles have so many rows.
    fn tiles_of(&self, k: &mut GroupKernel<'_>, rows: i64) -> Index {
        let none = k.b.val(Index::Const(0));
        let (larger, smaller) = (k.b.val(self.larger), k.b.val(self.smaller));
        let is_larger = k.b.index_compare(CmpOp::Eq, self.size, rows - 1);
        let is_smaller = k.b.index_compare(CmpOp::Eq, self.size, rows);
        let others = k.b.select(is_smaller, smaller, none);
        let tiles = k.b.select(is_larger, larger, others);
        k.b.index(tiles)
    }
}

/// A block of depth: coordinates of the contracted dimensions that it fixes, and the range of the next one.
struct Depth {
    fixed: Vec<Index>,
    range: Option<(Index, Index)>,
    /// The row-major index of its first coordinates.
    begin: Index,
    fetch: Fetch,
}

/// What is fetched from memory while a block of depth is computed.
enum Fetch {
    Nothing,
    /// The panel itself, this many steps ahead.
    Near(i64),
    /// The task's next block, which begins so many steps after this one and has so many.
    Next {
        ahead: i64,
        steps: i64,
    },
}

/// What the loops of one product share.
struct Body<'a> {
    gemm: &'a Gemm,
    operands: &'a dyn Operands,
    cut: &'a Blocking,
    /// Rows of a line, if they are known where this body runs.
    known: Option<i64>,
    extents: &'a [Index],
    columns: Index,
    panel: Option<Buffer>,
    /// A block of the panels in the type of the sums.
    converted: Option<Buffer>,
    sums: Option<Buffer>,
    staged: bool,
    /// The operations after the product read more than it.
    reads_after: bool,
    lanes: u16,
    vectors: i64,
    nr: i64,
}

impl Body<'_> {
    /// Computes the task's rows of the panel that begins at `column`.
    fn strip(&self, k: &mut GroupKernel<'_>, task: &Task<'_>, column: Index) {
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
    fn flat(&self, k: &mut GroupKernel<'_>, contracted: &[Index]) -> Index {
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

    /// Runs `body` for each tile of the task's rows in a panel.
    fn tiles(
        &self,
        k: &mut GroupKernel<'_>,
        task: &Task<'_>,
        column: Index,
        body: &mut dyn FnMut(&mut GroupKernel<'_>, &Tile),
    ) {
        let (lo, hi) = task.rows;
        let mr = self.cut.tile_rows;
        // Whole tiles and what is left. Where the number of rows is not known, there is a tile of each size, and the rows
        // are spread evenly over as few as there can be: so many of one size, and the others of one row less.
        let spread = self.known.is_none().then(|| Spread::new(k, lo, hi, mr));
        let sizes: Vec<i64> = self.known.map_or_else(|| (1..=mr).rev().collect(), |rows| vec![mr, rows % mr]);
        k.each(task.lines.0, task.lines.1, 1, |k, line| {
            let within = k.b.isub(line, task.lines.0);
            let base = k.b.imul(within, self.cut.rows);
            let coords = k.unflatten(line, task.line_dims);
            let around: Vec<Index> = task.outer.iter().copied().chain(coords).collect();
            let (mut from, mut before) = (lo, Index::Const(0));
            for rows in sizes.iter().copied().filter(|&rows| rows > 0) {
                let count = match &spread {
                    Some(spread) => spread.tiles_of(k, rows),
                    None => {
                        let left = k.b.isub(hi, from);
                        k.b.idiv(left, rows)
                    }
                };
                let full = k.b.imul(count, rows);
                let to = k.b.iadd(from, full);
                k.each(from, to, rows, |k, row| {
                    let position = k.b.isub(row, lo);
                    let position = k.b.iadd(base, position);
                    let sums = k.b.imul(position, self.nr);
                    let (number, of) = match &spread {
                        Some(spread) => {
                            let within = k.b.isub(row, from);
                            let within = k.b.idiv(within, rows);
                            (k.b.iadd(before, within), spread.tiles)
                        }
                        None => {
                            let of = (self.cut.lines * self.cut.rows / mr).max(1);
                            (k.b.idiv(sums, self.nr * mr), Index::Const(of))
                        }
                    };
                    body(k, &Tile { around: around.clone(), row: row.into(), rows, column, sums, number, of });
                });
                from = to;
                before = k.b.iadd(before, count);
            }
        });
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

    /// Fetches a part of the panels that is wanted later. Weights come from far away, and what waits for them would be the
    /// first tile of each block. Each tile of a block fetches its share of the next one, a little at each step: memory
    /// delivers over all tiles what it could not in the time of one.
    fn fetch(&self, k: &mut GroupKernel<'_>, tile: &Tile, depth: &Depth, contracted: &[Index]) {
        let Some(stored) = self.operands.stored() else { return };
        let panel = i64::from(PANEL);
        let here = self.flat(k, contracted);
        let (row, within) = match depth.fetch {
            Fetch::Nothing => return,
            Fetch::Near(ahead) => (k.b.iadd(here, ahead), Index::Const(0)),
            // What is left over shares no work; of tiles spread evenly, all do.
            Fetch::Next { .. } if tile.rows != self.cut.tile_rows && self.known.is_some() => return,
            Fetch::Next { ahead, steps } => {
                let share = |k: &mut GroupKernel<'_>, all: i64| {
                    let padded = k.b.iadd(tile.of, all - 1);
                    k.b.idiv(padded, tile.of)
                };
                let (rows, elements) = (share(k, steps), share(k, panel));
                let first = k.b.imul(tile.number, rows);
                let row = k.b.iadd(depth.begin, first);
                let step = k.b.isub(here, depth.begin);
                (k.b.iadd(row, ahead), k.b.imul(step, elements))
            }
        };
        let buffer = k.input(stored);
        let depth: i64 =
            self.extents.iter().map(|d| d.as_const().expect("stored panels have a constant depth")).product();
        let elements = self.elements_of_a_step();
        for offset in (0..self.nr).step_by(PANEL as usize) {
            let column = k.b.iadd(tile.column, offset);
            let number = k.b.idiv(column, panel);
            let address = k.b.advance(Address::default(), number, depth * panel * elements);
            let address = k.b.advance(address, row, panel * elements);
            let address = k.b.advance(address, within, elements);
            k.b.prefetch(buffer, address, Locality::L2);
        }
    }

    /// Fetches a line of the next tile's rows: over the steps of a line all of them. Where the rows do not fit the
    /// second-level cache they come from far away, and the hardware does not see the next ones coming.
    fn fetch_rows(&self, k: &mut GroupKernel<'_>, tile: &Tile, contracted: &[Index]) {
        let &[Index::Val(step)] = contracted else { return };
        let bytes = product([&self.gemm.rows, &self.gemm.row_bytes]).as_const();
        if bytes.is_none_or(|bytes| bytes <= k.machine.l2_bytes as i64) {
            return;
        }
        let line = LINE_BYTES / i64::from(self.gemm.acc.bits() / 8);
        let masked = |k: &mut GroupKernel<'_>, mask: i64| {
            let mask = k.b.constant(Scalar::i64(mask), 1);
            Index::Val(k.b.binary(BinaryOp::And, step, mask))
        };
        let begin = masked(k, -line);
        let begin = k.b.imul(begin, self.elements_of_a_step());
        let number = masked(k, ROWS_OF_A_LINE - 1);
        let row = k.b.iadd(tile.row, tile.rows);
        let row = k.b.iadd(row, number);
        if let Some((left, coords)) = self.operands.left_in_memory(k, &tile.around, row, begin) {
            k.fetch(left, &Position { coords, lanes: 1, count: None });
        }
    }

    /// Elements of the contracted dimension that a step takes.
    fn elements_of_a_step(&self) -> i64 {
        if self.gemm.words.is_some() { NUMBERS } else { 1 }
    }

    /// Fetches what the operations after the product will read for a tile, while the tile is computed.
    fn fetch_operands(&self, k: &mut GroupKernel<'_>, tile: &Tile) {
        if !self.reads_after {
            return;
        }
        let lanes = i64::from(self.lanes);
        for r in 0..tile.rows {
            let row = k.b.iadd(tile.row, r);
            for j in 0..self.vectors {
                let index = k.b.iadd(tile.column, j * lanes);
                let coords = self.operands.result(&tile.around, row, Coord::consecutive(index, lanes));
                k.fetch_operands(self.gemm.result, &Position { coords, lanes: self.lanes, count: None });
            }
        }
    }

    fn sums_buffer(&self) -> Buffer {
        self.sums.expect("sums leave registers only where scratch was asked for")
    }

    fn sums_at(&self, k: &mut GroupKernel<'_>, base: Index, offset: i64) -> Val {
        let address = k.b.advance(Address::at(offset), base, 1);
        k.b.load(self.sums_buffer(), address, self.lanes, None)
    }

    /// Sets the task's sums to zero.
    fn clear(&self, k: &mut GroupKernel<'_>, task: &Task<'_>) {
        let zero = k.b.constant(Scalar::zero(self.gemm.acc), self.lanes);
        let lines = k.b.isub(task.lines.1, task.lines.0);
        let used = k.b.imul(lines, self.cut.rows * self.nr);
        k.each(0, used, i64::from(self.lanes), |k, at| {
            let address = k.b.advance(Address::default(), at, 1);
            k.b.store(self.sums_buffer(), address, zero, None);
        });
    }

    /// Leaves a tile's sums in scratch.
    fn keep(&self, k: &mut GroupKernel<'_>, tile: &Tile, sums: &[Val]) {
        for (i, &sum) in sums.iter().enumerate() {
            let address = k.b.advance(Address::at(i as i64 * i64::from(self.lanes)), tile.sums, 1);
            k.b.store(self.sums_buffer(), address, sum, None);
        }
    }

    /// Takes the sums in scratch through the rest of the group.
    fn finish(&self, k: &mut GroupKernel<'_>, task: &Task<'_>, column: Index) {
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
    fn store(&self, k: &mut GroupKernel<'_>, tile: &Tile, sums: &[Val]) {
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
    if let (Index::Const(extent @ 1..=UNROLLED), []) = (extent, inner) {
        // A few steps, such as the colours of a pixel, cost less than the loop around them.
        let mut carried = init.to_vec();
        for i in 0..extent {
            coords.push(Index::Const(i));
            carried = body(k, coords, &carried);
            coords.pop();
        }
        return carried;
    }
    steps(k, (Index::Const(0), extent), inner, coords, init, body)
}

/// The outermost of nested loops, whose bounds are given. The innermost one takes as many steps at once as a vector has
/// lanes where the machine multiplies by them.
fn steps(
    k: &mut GroupKernel<'_>,
    (from, to): (Index, Index),
    inner: &[Index],
    coords: &mut Vec<Index>,
    init: &[Val],
    body: &mut NestBody<'_>,
) -> Vec<Val> {
    let lanes = i64::from(k.machine.kernel_lanes_f32);
    let once = if inner.is_empty() && k.machine.multiplies_by_lanes { lanes } else { 1 };
    let mut carried = init.to_vec();
    let mut from = from;
    for step in [once, 1] {
        let whole = k.b.isub(to, from);
        let whole = k.b.idiv(whole, step);
        let whole = k.b.imul(whole, step);
        let end = k.b.iadd(from, whole);
        if end == from {
            continue;
        }
        carried = k.for_(LoopKind::Serial, from, end, step, &carried, |k, i, carried| {
            let first = k.b.index(i);
            let mut carried = carried.to_vec();
            for n in 0..step {
                coords.push(k.b.iadd(first, n));
                carried = nest(k, inner, coords, &carried, body);
                coords.pop();
            }
            carried
        });
        from = end;
        if once == 1 {
            break;
        }
    }
    carried
}
