//! 3x3 convolutions by Winograd's algorithm (the pass `choose_winograd` says which).
//!
//! A task is a number of tiles. It transforms their patches, all channels of them, into scratch as t * t matrices of
//! tiles by channels; then, for some panels of the filter at a time, it multiplies each by its part of the transformed
//! filter, transforms the products of a tile into m x m results, and takes those through the rest of the group. The filter,
//! which is large, passes once for each task; a matrix is read from the nearest caches by all panels of a group.
//!
//! `pad_convs` has padded the input to whole tiles; results outside of the output are computed and dropped.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Access, Address, Buffer, FmaMode, Locality, LoopKind, Val};
use onnxc_ir::machine::MachineModel;
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};
use onnxc_ir::tensor::winograd::Winograd;
use onnxc_ir::tensor::{Node, Op, Value};

use super::gemm::{LIGHT_EPILOGUE, PANEL, ceil_div, even_part, lanes_of_panel, multiply_add, tasks_worth};
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// A task has at most this many tiles; fewer where the second-level cache holds fewer.
const MOST_TILES: i64 = 64;
/// A task has at least this many tiles where there are more: the filter passes once for each task.
const LEAST_TILES: i64 = 48;
/// The same where the filter stays in the second-level cache.
const LEAST_TILES_OF_SMALL_FILTERS: i64 = 24;
/// Rows of a register tile at most.
const MOST_ROWS: i64 = 8;

/// Whether a transformed filter stays in the second-level cache from task to task.
pub fn filter_is_small(patch: i64, channels: i64, columns: i64, machine: &MachineModel) -> bool {
    patch * patch * channels * columns * 4 <= machine.l2_bytes as i64 / 2
}

/// The tiles of a task: as many as the second-level cache holds patches of, spread evenly over tasks and register tiles;
/// fewer if the work is enough for more cores.
pub fn tiles_per_task(tiles: i64, patch: i64, channels: i64, columns: i64, machine: &MachineModel) -> i64 {
    let bytes = patch * patch * (channels + columns.min(2 * i64::from(PANEL))) * 4;
    let small = filter_is_small(patch, channels, columns, machine);
    let least = if small { LEAST_TILES_OF_SMALL_FILTERS } else { LEAST_TILES };
    let fit = (machine.l2_bytes as i64 * 3 / 4 / bytes).clamp(LEAST_TILES, MOST_TILES);
    let tasks = tasks_worth(patch * patch * tiles * channels * columns, machine);
    let whole = |tiles: i64| ceil_div(tiles, rows_of(tiles, machine)) * rows_of(tiles, machine);
    even_part(tiles, ceil_div(tiles, fit).max(tasks.min(tiles / least)), whole)
}

/// Rows of a register tile for a task of `tiles` tiles.
fn rows_of(tiles: i64, machine: &MachineModel) -> i64 {
    let vectors = vectors_of(machine);
    let most = ((i64::from(machine.kernel_vector_registers) - vectors - 2) / vectors).clamp(1, MOST_ROWS);
    ceil_div(tiles, ceil_div(tiles, most))
}

/// Vectors of a register tile's row.
fn vectors_of(machine: &MachineModel) -> i64 {
    (i64::from(PANEL) / i64::from(lanes_of_panel(machine))).clamp(2, 4)
}

/// Schedules a group whose anchor is the convolution `anchor`.
pub fn schedule(mut k: GroupKernel<'_>, anchor: Node) -> GroupLaunch {
    let data = &k.graph.nodes[anchor];
    let Op::Conv(conv) = &data.op else { panic!("the anchor is a convolution") };
    let matrices = Winograd::of(conv.winograd.expect("the pass chose a tile")).expect("a known tile");
    let (input, filter, result) = (data.inputs[0], data.inputs[1], data.outputs[0]);
    let constant = |d: &Dim| d.as_const().expect("Winograd's algorithm is chosen for known sizes");
    let out: Vec<i64> = k.graph.tensor_ty(result).shape.iter().map(constant).collect();
    let channels = constant(k.graph.tensor_ty(input).shape.last().expect("channels"));
    let [batch, height, width, columns] = out[..] else { panic!("two spatial dimensions") };
    let (m, t) = (matrices.tile as i64, matrices.patch() as i64);
    let counts = [batch, ceil_div(height, m), ceil_div(width, m)];
    let tiles: i64 = counts.iter().product();
    let per_task = tiles_per_task(tiles, t, channels, columns, k.machine);
    let lanes = lanes_of_panel(k.machine);
    let vectors = vectors_of(k.machine);
    k.remark(format!(
        "Winograd F({m}x{m},3x3): {tiles} tiles, {per_task} a task; {0} elementwise products in tiles of {1}x{vectors} vectors",
        t * t,
        rows_of(per_task.min(tiles), k.machine)
    ));
    let panel = i64::from(PANEL);
    let panels = ceil_div(columns, panel);
    let wide = vectors * i64::from(lanes) / panel;

    // A vector more between the matrices keeps a tile's parts out of one set of the cache.
    let gap = i64::from(lanes);
    let patch_stride = per_task * channels + gap;
    let strips = panels / wide;
    let group = strips_of_group(strips, per_task * t * t * wide * panel, k.machine);
    let product_stride = per_task * group * wide * panel + gap;
    let scratch =
        |k: &mut GroupKernel<'_>, name: &str, len: i64| k.b.buffer(name, DType::F32, Access::Scratch, Some(len as u64));
    let staged = k.operations_after(result) > LIGHT_EPILOGUE;
    let body = Body {
        matrices,
        input,
        filter,
        result,
        channels,
        columns,
        bounds: [height, width],
        counts: counts.map(Index::Const),
        lanes,
        patches: scratch(&mut k, "patches", t * t * patch_stride),
        products: scratch(&mut k, "products", t * t * product_stride),
        outputs: staged.then(|| scratch(&mut k, "outputs", m * m * gap)),
        patch_stride,
        product_stride,
        width: group * wide * panel,
        rows: rows_of(per_task.min(tiles), k.machine),
        row_tiles: ceil_div(per_task.min(tiles), rows_of(per_task.min(tiles), k.machine)),
    };
    // Where all tiles fit one task, two share the columns: transforming the patches twice costs less than an idle core.
    let tile_tasks = ceil_div(tiles, per_task);
    let shares = if tile_tasks == 1 && strips > 1 { 2 } else { 1 };
    let share = ceil_div(strips, shares) * wide;
    k.tasks(|k, task| {
        let at = k.unflatten(task, &[Index::Const(tile_tasks), Index::Const(shares)]);
        let lo = k.b.imul(at[0], per_task);
        let end = k.b.iadd(lo, per_task);
        let hi = k.b.imin(end, tiles);
        k.each(lo, hi, 1, |k, tile| body.transform_patch(k, tile.into(), lo));
        let whole = strips * wide;
        let first = k.b.imul(at[1], share);
        let end = k.b.iadd(first, share);
        let last = k.b.imin(end, whole);
        k.each(first, last, group * wide, |k, p| {
            let end = k.b.iadd(p, group * wide);
            let end = k.b.imin(end, last);
            body.panels(k, (p.into(), end), wide, lo, hi);
        });
        // A panel without a partner goes with the last share; there is one at most.
        let before = k.b.isub(shares - 1, at[1]);
        let from = k.b.iadd(before, whole);
        k.each(from, panels, 1, |k, p| {
            let end = k.b.iadd(p, 1);
            body.panels(k, (p.into(), end), 1, lo, hi);
        });
    });
    let flops = Dim::from(2 * t * t * tiles * channels * columns);
    k.finish(Dim::from(tile_tasks * shares), flops)
}

/// Strips whose products, of so many elements each, fit half of the second-level cache; spread evenly.
fn strips_of_group(strips: i64, products: i64, machine: &MachineModel) -> i64 {
    let fit = (machine.l2_bytes as i64 / 2 / (products * 4)).clamp(1, strips.max(1));
    ceil_div(strips.max(1), ceil_div(strips.max(1), fit))
}

/// What the phases of a task share. Sizes and strides are in elements.
struct Body {
    matrices: &'static Winograd,
    input: Value,
    filter: Value,
    result: Value,
    channels: i64,
    columns: i64,
    bounds: [i64; 2],
    counts: [Index; 3],
    lanes: u16,
    /// [t * t] matrices of tiles by channels.
    patches: Buffer,
    /// [t * t] matrices of tiles by the columns of a strip.
    products: Buffer,
    /// A vector of each output of a tile, for costly epilogues.
    outputs: Option<Buffer>,
    patch_stride: i64,
    product_stride: i64,
    /// Columns of a group of strips.
    width: i64,
    rows: i64,
    /// Register tiles of a task.
    row_tiles: i64,
}

/// A strip of `wide` panels from `panel` on, the `within`th of its group, at a position of the patch.
struct Place {
    panel: Index,
    within: Index,
    wide: i64,
    position: Index,
}

impl Body {
    fn patch(&self) -> i64 {
        self.matrices.patch() as i64
    }

    /// `Bᵀ d B` of a tile, all channels.
    fn transform_patch(&self, k: &mut GroupKernel<'_>, tile: Index, first: Index) {
        let t = self.patch();
        let at = k.unflatten(tile, &self.counts);
        let m = self.matrices.tile as i64;
        let (top, left) = (k.b.imul(at[1], m), k.b.imul(at[2], m));
        let row = k.b.isub(tile, first);
        let base = k.b.imul(row, self.channels);
        k.vectors(0, self.channels, self.lanes, |k, channel, lanes, count| {
            let Coord::Affine { index, .. } = channel else { unreachable!("loops give affine coordinates") };
            let mut element = |k: &mut GroupKernel<'_>, i: usize, j: usize| {
                let (y, x) = (k.b.iadd(top, i as i64), k.b.iadd(left, j as i64));
                let coords = vec![Coord::uniform(at[0]), Coord::uniform(y), Coord::uniform(x), channel];
                k.pull(self.input, &Position { coords, lanes, count }, &mut Pulled::default())
            };
            both_sides(k, self.matrices.input, t as usize, &mut element, &mut |k, i, v| {
                let address = k.b.advance(Address::at(i as i64 * self.patch_stride), base, 1);
                let address = k.b.advance(address, index, 1);
                k.b.store(self.patches, address, v, count);
            });
        });
    }

    /// The results of a range of panels, `wide` of which make a register tile.
    fn panels(&self, k: &mut GroupKernel<'_>, (first, last): (Index, Index), wide: i64, lo: Index, hi: Index) {
        let t = self.patch();
        let tiles = k.b.isub(hi, lo);
        k.each(0, t * t, 1, |k, position| {
            k.each(first, last, wide, |k, panel| {
                let within = k.b.isub(panel, first);
                let place = Place { panel: panel.into(), within, wide, position: position.into() };
                // The last task has fewer tiles; its register tiles compute rows that nobody reads.
                k.each(0, tiles, self.rows, |k, row| self.product(k, &place, row.into()));
            });
        });
        let columns = k.b.imul(first, i64::from(PANEL));
        let end = k.b.imul(last, i64::from(PANEL));
        let end = k.b.imin(end, self.columns);
        k.each(lo, hi, 1, |k, tile| {
            let row = k.b.isub(tile, lo);
            let base = k.b.imul(row, self.width);
            let at = k.unflatten(tile, &self.counts);
            k.vectors(columns, end, self.lanes, |k, column, lanes, count| {
                let Coord::Affine { index, .. } = column else { unreachable!("loops give affine coordinates") };
                let within = k.b.isub(index, columns);
                let mut product = |k: &mut GroupKernel<'_>, i: usize, j: usize| {
                    let position = i as i64 * t + j as i64;
                    let address = k.b.advance(Address::at(position * self.product_stride), base, 1);
                    let address = k.b.advance(address, within, 1);
                    k.b.load(self.products, address, lanes, count)
                };
                let mut y = Vec::new();
                both_sides(k, self.matrices.output, t as usize, &mut product, &mut |k, i, val| match self.outputs {
                    Some(outputs) => {
                        let address = Address::at(i as i64 * i64::from(self.lanes));
                        k.b.store(outputs, address, val, count);
                    }
                    None => y.push(val),
                });
                self.finish(k, &at, column, lanes, count, &y);
            });
        });
    }

    /// A register tile: rows of tiles by the columns of a strip, at one position of the patch.
    fn product(&self, k: &mut GroupKernel<'_>, place: &Place, row: Index) {
        let &Place { panel, within: strip, wide, position } = place;
        let width = i64::from(PANEL);
        let lanes = i64::from(self.lanes);
        let t2 = self.patch() * self.patch();
        let filter = k.input(self.filter);
        let zero = k.b.constant(Scalar::zero(DType::F32), self.lanes);
        let per_row = wide * width / lanes;
        let init = vec![zero; (self.rows * per_row) as usize];
        let base = k.b.imul(position, self.patch_stride);
        let sums = k.for_(LoopKind::Serial, 0, self.channels, 1, &init, |k, channel, sums| {
            let mut right = Vec::with_capacity(per_row as usize);
            for j in 0..per_row {
                let (number, within) = (j * lanes / width, j * lanes % width);
                let at = Address::at(number * t2 * self.channels * width + within);
                let at = k.b.advance(at, panel, t2 * self.channels * width);
                let at = k.b.advance(at, position, self.channels * width);
                let at = k.b.advance(at, channel, width);
                right.push(k.b.load(filter, at.clone(), self.lanes, None));
                if within == 0 {
                    // The filter comes from far away. Each register tile fetches its share of the next position's part,
                    // a little at each step.
                    let ahead = Address::at((number * t2 + 1) * self.channels * width);
                    let ahead = k.b.advance(ahead, panel, t2 * self.channels * width);
                    let ahead = k.b.advance(ahead, position, self.channels * width);
                    let share = k.b.idiv(row, self.rows);
                    let ahead = k.b.advance(ahead, share, ceil_div(self.channels, self.row_tiles) * width);
                    let ahead = k.b.advance(ahead, channel, ceil_div(width, self.row_tiles));
                    k.b.prefetch(filter, ahead, Locality::L2);
                }
            }
            let mut next = Vec::with_capacity(sums.len());
            for r in 0..self.rows {
                let at = k.b.advance(Address::at(r * self.channels), base, 1);
                let at = k.b.advance(at, row, self.channels);
                let at = k.b.advance(at, channel, 1);
                let left = k.b.load_splat(self.patches, at, self.lanes);
                for (j, &right) in right.iter().enumerate() {
                    next.push(multiply_add(k, left, right, sums[(r * per_row) as usize + j]));
                }
            }
            next
        });
        let base = k.b.imul(position, self.product_stride);
        for (i, &sum) in sums.iter().enumerate() {
            let (r, j) = (i as i64 / per_row, i as i64 % per_row);
            let at = k.b.advance(Address::at(r * self.width + j * lanes), base, 1);
            let at = k.b.advance(at, strip, width);
            let at = k.b.advance(at, row, self.width);
            k.b.store(self.products, at, sum, None);
        }
    }

    /// Takes the results of a tile that lie in the output through the rest of the group.
    fn finish(&self, k: &mut GroupKernel<'_>, at: &[Index], column: Coord, lanes: u16, count: Option<Val>, y: &[Val]) {
        let m = self.matrices.tile as i64;
        let (top, left) = (k.b.imul(at[1], m), k.b.imul(at[2], m));
        let push = |k: &mut GroupKernel<'_>, y: Index, x: Index, val: Val| {
            let coords = vec![Coord::uniform(at[0]), Coord::uniform(y), Coord::uniform(x), column];
            k.push(self.result, &Position { coords, lanes, count }, val, &mut Pulled::default());
        };
        if let Some(outputs) = self.outputs {
            let step = i64::from(self.lanes);
            let end = |k: &mut GroupKernel<'_>, from: Index, bound: i64| {
                let end = k.b.iadd(from, m);
                k.b.imin(end, bound)
            };
            let (bottom, right) = (end(k, top, self.bounds[0]), end(k, left, self.bounds[1]));
            k.each(top, bottom, 1, |k, row| {
                k.each(left, right, 1, |k, x| {
                    let (i, j) = (k.b.isub(row, top), k.b.isub(x, left));
                    let from = k.b.advance(Address::default(), i, m * step);
                    let from = k.b.advance(from, j, step);
                    let val = k.b.load(outputs, from, lanes, count);
                    push(k, row.into(), x.into(), val);
                });
            });
            return;
        }
        for i in 0..m {
            let row = k.b.iadd(top, i);
            self.inside(k, row, self.bounds[0], i, |k| {
                for j in 0..m {
                    let x = k.b.iadd(left, j);
                    self.inside(k, x, self.bounds[1], j, |k| push(k, row, x, y[(i * m + j) as usize]));
                }
            });
        }
    }

    /// Runs `body` if the coordinate, the `offset`th of a tile, lies in the output.
    fn inside(
        &self,
        k: &mut GroupKernel<'_>,
        at: Index,
        bound: i64,
        offset: i64,
        body: impl FnOnce(&mut GroupKernel<'_>),
    ) {
        let m = self.matrices.tile as i64;
        if bound % m == 0 || offset < bound % m {
            return body(k);
        }
        let cond = k.b.index_compare(CmpOp::Lt, at, bound);
        k.when(cond, body);
    }
}

/// Computes `M x Mᵀ` for a square `x` of side `n` and a matrix `M` of `n` columns, row-major. `element` gives the elements of
/// `x`, a column at a time, and `result` takes those of the product in their order: neither `x` nor the product is ever in
/// registers as a whole.
fn both_sides(
    k: &mut GroupKernel<'_>,
    matrix: &[f64],
    n: usize,
    element: &mut dyn FnMut(&mut GroupKernel<'_>, usize, usize) -> Val,
    result: &mut dyn FnMut(&mut GroupKernel<'_>, usize, Val),
) {
    let rows = matrix.len() / n;
    let mut half = vec![Vec::with_capacity(n); rows];
    for column in 0..n {
        let terms: Vec<Val> = (0..n).map(|i| element(k, i, column)).collect();
        for (line, val) in half.iter_mut().zip(apply(k, matrix, &terms)) {
            line.push(val);
        }
    }
    for (i, line) in half.iter().enumerate() {
        for (j, val) in apply(k, matrix, line).into_iter().enumerate() {
            result(k, i * rows + j, val);
        }
    }
}

/// A matrix times a column of terms. What two rows or two columns share up to signs is computed once.
fn apply(k: &mut GroupKernel<'_>, matrix: &[f64], terms: &[Val]) -> Vec<Val> {
    let n = terms.len();
    let mut terms = terms.to_vec();
    let mut rows: Vec<Vec<f64>> = matrix.chunks(n).map(<[f64]>::to_vec).collect();
    let mut j = 0;
    while j + 1 < n {
        if rows.iter().all(|r| r[j].abs() == r[j + 1].abs()) && rows.iter().filter(|r| r[j] != 0.0).count() > 1 {
            let (a, b) = (terms[j], terms[j + 1]);
            terms[j] = k.b.binary(BinaryOp::Add, a, b);
            terms[j + 1] = k.b.binary(BinaryOp::Sub, a, b);
            for row in &mut rows {
                let same = row[j] == row[j + 1];
                (row[j], row[j + 1]) = if same { (row[j], 0.0) } else { (0.0, row[j]) };
            }
            j += 1;
        }
        j += 1;
    }
    let mut results = Vec::with_capacity(rows.len());
    while results.len() < rows.len() {
        let row = &rows[results.len()];
        let twin = rows.get(results.len() + 1).filter(|twin| row.iter().zip(*twin).all(|(a, b)| a.abs() == b.abs()));
        let Some(twin) = twin else {
            results.push(combine(k, row, &terms));
            continue;
        };
        let part = |keep: fn(f64, f64) -> bool| -> Vec<f64> {
            row.iter().zip(twin).map(|(&a, &b)| if keep(a, b) { a } else { 0.0 }).collect()
        };
        let (even, odd) = (combine(k, &part(|a, b| a == b), &terms), combine(k, &part(|a, b| a != b), &terms));
        results.push(k.b.binary(BinaryOp::Add, even, odd));
        results.push(k.b.binary(BinaryOp::Sub, even, odd));
    }
    results
}

/// The sum of terms times constant factors.
fn combine(k: &mut GroupKernel<'_>, factors: &[f64], terms: &[Val]) -> Val {
    let mut sum: Option<Val> = None;
    let pairs = || factors.iter().zip(terms).filter(|(f, _)| **f != 0.0);
    // Plain additions first, so that the chain begins with them.
    for (&factor, &term) in pairs().filter(|(f, _)| f.abs() == 1.0) {
        sum = Some(match sum {
            None if factor > 0.0 => term,
            None => k.b.unary(UnaryOp::Neg, term),
            Some(sum) if factor > 0.0 => k.b.binary(BinaryOp::Add, sum, term),
            Some(sum) => k.b.binary(BinaryOp::Sub, sum, term),
        });
    }
    for (&factor, &term) in pairs().filter(|(f, _)| f.abs() != 1.0) {
        let lanes = k.b.ty(term).lanes;
        let factor = k.b.constant(Scalar::f32(factor as f32), lanes);
        sum = Some(match sum {
            None => k.b.binary(BinaryOp::Mul, factor, term),
            Some(sum) => k.b.mul_add(factor, term, sum, FmaMode::Fused),
        });
    }
    sum.expect("a row of the matrices has a factor")
}
