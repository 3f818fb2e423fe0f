//! Products with a few rows where tasks are warps: what counts is that each element of the right operand is read once, and
//! that many are under way at a time.
//!
//! Where the right operand lies in memory along the depth, a task has a few columns: its lanes run along the depth, and
//! meet at the end. Weights are stored so (see the pass `pack_weights`). Where its columns lie side by side, lanes run along
//! those, and steps of depth follow each other. Either way all rows share what is loaded of the right operand, and several
//! steps are loaded before the first is used.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{LoopKind, Val};
use onnxc_ir::machine::MachineModel;
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar};
use onnxc_ir::tensor::op::Label;

use super::contract::Roles;
use super::gemm::{ceil_div, multiply_add, nest};
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// More rows than this are arithmetic more than memory traffic.
pub const MOST_ROWS: i64 = 8;

/// Tasks that keep a large device busy: each of its multiprocessors waits for the loads of eight warps in each quarter.
pub const ENOUGH: i64 = 4224;

/// The same where a task has more loads under way.
const ENOUGH_COLUMNS: i64 = ENOUGH / 4;

/// Registers of a thread for sums, and for elements that are under way.
const SUMS: i64 = 64;
const LOADED: i64 = 32;

/// Columns of a task at most.
const MOST_COLUMNS: i64 = 8;

/// Steps along the depth that are loaded at a time at most.
const MOST_STEPS: i64 = 8;

/// What a size that is not known counts for.
const UNKNOWN: i64 = 512;

/// Whether products of so many rows are these, on this machine. Sums are `f32`.
pub fn takes(machine: &MachineModel, rows: &Dim, acc: DType) -> bool {
    machine.tiles && acc == DType::F32 && rows.as_const().is_some_and(|n| (1..=MOST_ROWS).contains(&n))
}

/// How a product's right operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Along {
    /// Along the innermost dimension of the depth.
    Depth,
    /// Along its columns.
    Columns,
}

/// A product of this kind.
pub(super) struct Gemv<'a> {
    roles: &'a Roles,
    /// All rows of all lines.
    rows: i64,
    columns: Dim,
}

impl<'a> Gemv<'a> {
    /// The product, if there are few rows and the operands lie in memory like this.
    pub(super) fn of(k: &GroupKernel<'_>, roles: &'a Roles, along: Along) -> Option<Gemv<'a>> {
        let lines = roles.outer[roles.around..].iter().map(|&l| roles.size(l));
        let rows = product(lines.chain([&roles.rows]));
        if !takes(k.machine, &rows, roles.acc) || roles.panel.is_some() {
            return None;
        }
        let (rows, columns, &depth) = (rows.as_const()?, roles.columns.clone()?, roles.contracted.last()?);
        let label = match along {
            Along::Depth => depth,
            Along::Columns => roles.column_label?,
        };
        roles.right_is_contiguous(k, label).then_some(Gemv { roles, rows, columns })
    }

    /// The dimensions around the columns.
    fn around(&self) -> Vec<Dim> {
        self.roles.outer[..self.roles.around].iter().map(|&l| self.roles.size(l).clone()).collect()
    }

    fn depth(&self) -> &Dim {
        self.roles.size(*self.roles.contracted.last().expect("products have a depth"))
    }

    /// How many tasks there are where each has so many columns.
    fn tasks(&self, columns: i64) -> i64 {
        let known = |dim: &Dim| dim.as_const().unwrap_or(UNKNOWN);
        self.around().iter().map(known).fold(ceil_div(known(&self.columns), columns), i64::saturating_mul)
    }

    /// The coordinates of a row's lines, behind those around, and the one of the row.
    fn place(&self, around: &[Index], number: i64) -> (Vec<Index>, Index) {
        let count = |l: Label| self.roles.size(l).as_const().expect("the number of rows is known");
        let height = self.roles.rows.as_const().expect("the number of rows is known");
        let (mut line, row) = (number / height, number % height);
        let mut lines = Vec::new();
        for &label in self.roles.outer[self.roles.around..].iter().rev() {
            lines.push(Index::Const(line % count(label)));
            line /= count(label);
        }
        (around.iter().copied().chain(lines.into_iter().rev()).collect(), Index::Const(row))
    }

    /// Elements of the left operand in a row.
    fn left(
        &self,
        k: &mut GroupKernel<'_>,
        around: &[Index],
        row: i64,
        depth: &[Coord],
        at: (u16, Option<Val>),
    ) -> Val {
        let (outer, row) = self.place(around, row);
        let coords = self.roles.coords(&self.roles.left_labels, &outer, row, Coord::uniform(0), depth);
        self.roles.operand(k, self.roles.left, coords, at.0, at.1)
    }

    /// Elements of the right operand.
    fn right(
        &self,
        k: &mut GroupKernel<'_>,
        around: &[Index],
        column: Coord,
        depth: &[Coord],
        at: (u16, Option<Val>),
    ) -> Val {
        let (outer, row) = self.place(around, 0);
        let coords = self.roles.coords(&self.roles.right_labels, &outer, row, column, depth);
        self.roles.operand(k, self.roles.right, coords, at.0, at.1)
    }

    /// Stores sums of a row.
    fn finish(&self, k: &mut GroupKernel<'_>, around: &[Index], row: i64, column: Coord, sum: Val, count: Option<Val>) {
        let (outer, row) = self.place(around, row);
        let coords = self.roles.coords(&self.roles.out_labels, &outer, row, column, &[]);
        let lanes = k.b.ty(sum).lanes;
        k.push(self.roles.result, &Position { coords, lanes, count }, sum, &mut Pulled::default());
    }

    /// Whether an operand has elements of 16 bits in memory.
    fn is_short(&self, k: &GroupKernel<'_>) -> bool {
        [self.roles.left, self.roles.right].iter().all(|&v| k.graph.tensor_ty(v).dtype.bits() == 16)
    }

    fn flops(&self) -> Dim {
        let depth = product(self.roles.contracted.iter().map(|&l| self.roles.size(l)));
        product(self.around().iter().chain([&self.columns, &depth, &Dim::from(2 * self.rows)]))
    }
}

/// Lanes along the depth: a thread's own are 16 bytes where there is as much depth.
pub(super) fn by_depth(mut k: GroupKernel<'_>, p: &Gemv<'_>) -> GroupLaunch {
    let warp = i64::from(k.machine.kernel_lanes_f32);
    let most = if p.is_short(&k) && p.rows * 8 <= SUMS { 8 } else { 4 };
    let reach = p.depth().as_const().unwrap_or(i64::MAX);
    let each = [most, 4, 2].into_iter().find(|each| each * warp <= reach).unwrap_or(1);
    let lanes = (each * warp) as u16;
    let known = p.columns.as_const();
    let divides = |n: &i64| known.is_none_or(|columns| columns % n == 0);
    let fits = |n: &i64| p.rows * n * each <= SUMS && divides(n) && p.tasks(*n) >= ENOUGH;
    let width = [MOST_COLUMNS, 4, 2].into_iter().find(fits).unwrap_or(1);
    let steps = (LOADED / (width * each)).clamp(1, MOST_STEPS).min((reach / (each * warp)).max(1));
    k.remark(format!("{} x {width} sums, {lanes} lanes along the depth, {steps} steps at a time", p.rows));
    let (length, bound) = (k.dim(p.depth()), k.dim(&p.columns));
    let blocks = p.columns.ceil_div(&Dim::from(width)).expect("the divisor is a constant");
    let grid: Vec<Dim> = p.around().into_iter().chain([blocks]).collect();
    let dims: Vec<Index> = grid.iter().map(|d| k.dim(d)).collect();
    let (_, outside) = p.roles.contracted.split_last().expect("products have a depth");
    let extents: Vec<Index> = outside.iter().map(|&l| k.dim(p.roles.size(l))).collect();
    k.tasks(|k, task| {
        let at = k.unflatten(task, &dims);
        let (&block, around) = at.split_last().expect("the grid ends with the columns");
        let first = k.b.imul(block, width);
        let whole = known.is_some();
        let last = k.b.isub(bound, 1);
        let columns: Vec<Index> = (0..width)
            .map(|i| {
                let column = k.b.iadd(first, i);
                if whole { column } else { k.b.imin(column, last) }
            })
            .collect();
        let zero = k.b.constant(Scalar::zero(DType::F32), lanes);
        let init = vec![zero; (p.rows * width) as usize];
        let sums = nest(k, &extents, &mut vec![], &init, &mut |k, outside, sums| {
            let outside: Vec<Coord> = outside.iter().map(|&i| Coord::uniform(i)).collect();
            let step = |k: &mut GroupKernel<'_>, from: Index, steps: i64, count: Option<Val>, sums: &[Val]| {
                let depths: Vec<Vec<Coord>> = (0..steps)
                    .map(|s| {
                        let from = k.b.iadd(from, s * i64::from(lanes));
                        outside.iter().copied().chain([Coord::consecutive(from, lanes.into())]).collect()
                    })
                    .collect();
                let mut right = Vec::new();
                for depth in &depths {
                    for &column in &columns {
                        right.push(p.right(k, around, Coord::uniform(column), depth, (lanes, count)));
                    }
                }
                let mut sums = sums.to_vec();
                for (depth, right) in depths.iter().zip(right.chunks(width as usize)) {
                    for (row, sums) in sums.chunks_mut(width as usize).enumerate() {
                        let left = p.left(k, around, row as i64, depth, (lanes, count));
                        for (sum, &right) in sums.iter_mut().zip(right) {
                            *sum = multiply_add(k, left, right, *sum);
                        }
                    }
                }
                sums
            };
            let stretch = i64::from(lanes) * steps;
            let far = k.b.idiv(length, stretch);
            let far = k.b.imul(far, stretch);
            let near = k.b.idiv(length, i64::from(lanes));
            let near = k.b.imul(near, i64::from(lanes));
            let sums =
                k.for_(LoopKind::Serial, 0, far, stretch, sums, |k, i, sums| step(k, i.into(), steps, None, sums));
            let sums =
                k.for_(LoopKind::Serial, far, near, lanes.into(), &sums, |k, i, sums| step(k, i.into(), 1, None, sums));
            // Lanes behind the end are zeros in both operands.
            k.for_(LoopKind::Serial, near, length, lanes.into(), &sums, |k, i, sums| {
                let count = k.b.isub(length, i);
                let count = k.b.val(count);
                step(k, i.into(), 1, Some(count), sums)
            })
        });
        for (i, &sum) in sums.iter().enumerate() {
            let (row, column) = (i as i64 / width, columns[i % width as usize]);
            let sum = across(k, sum, each as u16);
            let store = |k: &mut GroupKernel<'_>| p.finish(k, around, row, Coord::uniform(column), sum, None);
            if whole {
                store(k);
                continue;
            }
            let column = k.b.iadd(first, i as i64 % width);
            let inside = k.b.index_compare(CmpOp::Lt, column, bound);
            k.when(inside, store);
        }
    });
    let flops = p.flops();
    k.finish(product(&grid), flops)
}

/// The sum of all lanes: first of those that a thread has, which lie side by side.
fn across(k: &mut GroupKernel<'_>, sum: Val, each: u16) -> Val {
    let lanes = k.b.ty(sum).lanes;
    let parts: Vec<Val> = match each {
        1 => vec![sum],
        _ => (0..each)
            .map(|first| {
                let picks: Vec<u16> = (first..lanes).step_by(each.into()).collect();
                k.b.shuffle(sum, sum, &picks)
            })
            .collect(),
    };
    let sum = k.combine(BinaryOp::Add, &parts);
    k.b.reduce_lanes(BinaryOp::Add, sum)
}

/// Lanes along the columns, a step of depth after the other.
pub(super) fn by_columns(mut k: GroupKernel<'_>, p: &Gemv<'_>) -> GroupLaunch {
    let warp = i64::from(k.machine.kernel_lanes_f32);
    let known = p.columns.as_const();
    let reach = known.unwrap_or(UNKNOWN);
    // Wide vectors where there are tasks enough; narrow ones still fill a line of the cache.
    let fits = |each: &i64| each * warp <= reach && p.tasks(each * warp) >= ENOUGH_COLUMNS;
    let each = [4, 2].into_iter().find(fits).unwrap_or(1);
    let (lanes, width) = ((each * warp) as u16, each * warp);
    // Long depths are few tasks: as much as registers hold is under way.
    let steps = LOADED / each;
    k.remark(format!("{} rows of sums, {lanes} lanes along the columns, {steps} steps at a time", p.rows));
    let bound = k.dim(&p.columns);
    let blocks = p.columns.ceil_div(&Dim::from(width)).expect("the divisor is a constant");
    let grid: Vec<Dim> = p.around().into_iter().chain([blocks]).collect();
    let dims: Vec<Index> = grid.iter().map(|d| k.dim(d)).collect();
    let length = k.dim(p.depth());
    let (_, outside) = p.roles.contracted.split_last().expect("products have a depth");
    let extents: Vec<Index> = outside.iter().map(|&l| k.dim(p.roles.size(l))).collect();
    k.tasks(|k, task| {
        let at = k.unflatten(task, &dims);
        let (&block, around) = at.split_last().expect("the grid ends with the columns");
        let first = k.b.imul(block, width);
        let count = known.is_none_or(|columns| columns % width != 0).then(|| {
            let left = k.b.isub(bound, first);
            let count = k.b.imin(left, width);
            k.b.val(count)
        });
        let column = Coord::consecutive(first, width);
        let zero = k.b.constant(Scalar::zero(DType::F32), lanes);
        let init = vec![zero; p.rows as usize];
        let sums = nest(k, &extents, &mut vec![], &init, &mut |k, outside, sums| {
            let outside: Vec<Coord> = outside.iter().map(|&i| Coord::uniform(i)).collect();
            let step = |k: &mut GroupKernel<'_>, from: Val, steps: i64, sums: &[Val]| {
                let depths: Vec<Vec<Coord>> = (0..steps)
                    .map(|s| {
                        let from = k.b.iadd(from, s);
                        outside.iter().copied().chain([Coord::uniform(from)]).collect()
                    })
                    .collect();
                let right: Vec<Val> =
                    depths.iter().map(|depth| p.right(k, around, column, depth, (lanes, count))).collect();
                let mut sums = sums.to_vec();
                for (depth, &right) in depths.iter().zip(&right) {
                    for (row, sum) in sums.iter_mut().enumerate() {
                        let left = p.left(k, around, row as i64, depth, (lanes, None));
                        *sum = multiply_add(k, left, right, *sum);
                    }
                }
                sums
            };
            let far = k.b.idiv(length, steps);
            let far = k.b.imul(far, steps);
            let sums = k.for_(LoopKind::Serial, 0, far, steps, sums, |k, i, sums| step(k, i, steps, sums));
            k.for_(LoopKind::Serial, far, length, 1, &sums, |k, i, sums| step(k, i, 1, sums))
        });
        for (row, &sum) in sums.iter().enumerate() {
            p.finish(k, around, row as i64, column, sum, count);
        }
    });
    let flops = p.flops();
    k.finish(product(&grid), flops)
}
