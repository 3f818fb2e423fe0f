//! Reductions, with what is computed before them pulled and what follows pushed.
//!
//! Two shapes of loops. Where the last dimension of the operand is kept, lanes run along it and each reduces its own
//! column. Where it is reduced, lanes are partial accumulators of one result and combine in a fixed tree at the end.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{LoopKind, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar};
use onnxc_ir::tensor::op::ReduceOp;
use onnxc_ir::tensor::{Node, Op};

use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Schedules a group whose anchor is the `Reduce` node `anchor`.
pub fn schedule(mut k: GroupKernel<'_>, anchor: Node) -> GroupLaunch {
    let data = &k.graph.nodes[anchor];
    let Op::Reduce { op, axes } = &data.op else { panic!("the anchor is a reduction") };
    let (input, output) = (data.inputs[0], data.outputs[0]);
    let (in_ty, out_ty) = (k.graph.tensor_ty(input).clone(), k.graph.tensor_ty(output).clone());
    let reduced: Vec<usize> = axes.iter().map(|&a| a as usize).collect();
    let kept: Vec<usize> = (0..in_ty.rank()).filter(|a| !reduced.contains(a)).collect();
    let flops = product(&in_ty.shape);
    let results = product(&out_ty.shape);
    let per_result = product(reduced.iter().map(|&a| &in_ty.shape[a]));
    let block = per_result.as_const().map_or(1, |n| (k.machine.task_elements / n.max(1)).max(1));

    let kept_last = kept.last().is_some_and(|&a| a + 1 == in_ty.rank());
    let lanes = k.lanes();
    let reduction = Reduction { op: *op, dtype: in_ty.dtype, input, reduced, kept, rank: in_ty.rank() };
    if kept_last && lanes > 1 {
        let (last, outer) = out_ty.shape.split_last().expect("a dimension is kept");
        let dims: Vec<Index> = outer.iter().map(|d| k.dim(d)).collect();
        let length = k.dim(last);
        // A task is a piece of a row of results: as many vectors as make it worth while.
        let columns = (block / i64::from(lanes)).max(1) * i64::from(lanes);
        let pieces = last.ceil_div(&Dim::from(columns)).expect("the divisor is a constant");
        let rows = product([&product(outer), &pieces]);
        let pieces = k.dim(&pieces);
        k.tasks(|k, task| {
            let (row, piece) = (k.b.idiv(task, pieces), k.b.irem(task, pieces));
            let (row, piece) = (k.b.val(row), k.b.val(piece));
            let (lo, hi) = k.part(piece, columns, length);
            let outer: Vec<Coord> = k.unflatten(row, &dims).into_iter().map(Coord::uniform).collect();
            k.vectors(lo, hi, lanes, |k, c, lanes, count| {
                let coords = outer.iter().copied().chain([c]).collect();
                let at = Position { coords, lanes, count };
                let val = reduction.column(k, &at);
                k.push(output, &at, val, &mut Pulled::default());
            });
        });
        return k.finish(rows, flops);
    }
    let dims: Vec<Index> = out_ty.shape.iter().map(|d| k.dim(d)).collect();
    let bound = k.dim(&results);
    k.tasks(|k, task| {
        let (lo, hi) = k.part(task, block, bound);
        k.each(lo, hi, 1, |k, flat| {
            let coords = k.unflatten(flat, &dims).into_iter().map(Coord::uniform).collect();
            let at = Position { coords, lanes: 1, count: None };
            let val = if lanes > 1 { reduction.row(k, &at, lanes) } else { reduction.column(k, &at) };
            k.push(output, &at, val, &mut Pulled::default());
        });
    });
    let tasks = results.ceil_div(&Dim::from(block)).expect("the divisor is a constant");
    k.finish(tasks, flops)
}

/// What runs for each position of a reduction: it gets coordinates and what is carried, and gives what is carried on.
pub type CoordBody<'a> = dyn FnMut(&mut GroupKernel<'_>, &[Coord], &[Val]) -> Vec<Val> + 'a;

/// What is reduced.
struct Reduction {
    op: ReduceOp,
    dtype: DType,
    input: onnxc_ir::tensor::Value,
    reduced: Vec<usize>,
    kept: Vec<usize>,
    rank: usize,
}

impl Reduction {
    /// The coordinates of the operand for a result and reduced coordinates.
    fn coords(&self, result: &[Coord], reduced: &[Coord]) -> Vec<Coord> {
        let mut coords = vec![Coord::uniform(0); self.rank];
        self.kept.iter().zip(result).for_each(|(&a, &c)| coords[a] = c);
        self.reduced.iter().zip(reduced).for_each(|(&a, &c)| coords[a] = c);
        coords
    }

    /// The reduced dimensions.
    fn extents(&self, k: &mut GroupKernel<'_>) -> Vec<Index> {
        let shape = k.shape(self.input);
        self.reduced.iter().map(|&a| shape[a]).collect()
    }

    /// Each lane reduces its own elements, one after the other.
    fn column(&self, k: &mut GroupKernel<'_>, at: &Position) -> Val {
        let acc = accumulator_type(self.dtype, self.op);
        let first = k.b.constant(identity(self.op, acc), at.lanes);
        let extents = self.extents(k);
        match arg_of(self.op) {
            None => {
                let [sum] = self.nest(k, &extents, &mut vec![], &[first], &mut |k, reduced, carried| {
                    let element = k.pull(self.input, &at.at(self.coords(&at.coords, reduced)), &mut Pulled::default());
                    let element = k.b.cast(acc, element);
                    vec![k.b.binary(combiner(self.op), carried[0], element)]
                })[..] else {
                    unreachable!("one value is carried")
                };
                k.b.cast(self.dtype, sum)
            }
            Some((compare, last)) => {
                let none = k.b.constant(Scalar::i64(0), at.lanes);
                let carried = self.nest(k, &extents, &mut vec![], &[first, none], &mut |k, reduced, carried| {
                    let element = k.pull(self.input, &at.at(self.coords(&at.coords, reduced)), &mut Pulled::default());
                    let element = k.b.cast(acc, element);
                    let index = k.coord_lanes(reduced[0], at.lanes);
                    // The first element is always taken: the identity may equal it. A NaN is taken like an extreme.
                    let zero = k.b.constant(Scalar::i64(0), at.lanes);
                    let start = k.b.compare(CmpOp::Eq, index, zero);
                    let mut better = k.b.compare(compare, element, carried[0]);
                    if last {
                        let equal = k.b.compare(CmpOp::Eq, element, carried[0]);
                        better = k.b.binary(BinaryOp::Or, better, equal);
                    }
                    if acc.is_float() {
                        let nan = k.b.compare(CmpOp::Ne, element, element);
                        let fresh = if last {
                            nan
                        } else {
                            let held = k.b.compare(CmpOp::Eq, carried[0], carried[0]);
                            k.b.binary(BinaryOp::And, nan, held)
                        };
                        better = k.b.binary(BinaryOp::Or, better, fresh);
                    }
                    let take = k.b.binary(BinaryOp::Or, start, better);
                    vec![k.b.select(take, element, carried[0]), k.b.select(take, index, carried[1])]
                });
                carried[1]
            }
        }
    }

    /// One result from lanes that run along the last reduced dimension, which is the operand's last.
    fn row(&self, k: &mut GroupKernel<'_>, at: &Position, lanes: u16) -> Val {
        let acc = accumulator_type(self.dtype, self.op);
        if arg_of(self.op).is_some() || self.reduced.last() != Some(&(self.rank - 1)) {
            return self.column(k, at);
        }
        let op = combiner(self.op);
        let wide = k.b.constant(identity(self.op, acc), lanes);
        let narrow = k.b.constant(identity(self.op, acc), 1);
        let extents = self.extents(k);
        let (&length, outer) = extents.split_last().expect("something is reduced");
        let carried = self.nest(k, outer, &mut vec![], &[wide, narrow], &mut |k, outer, carried| {
            let (wide, narrow) =
                k.vectors_carrying(length, lanes, &carried[..1], &carried[1..], |k, c, lanes, count, carried| {
                    let reduced: Vec<Coord> = outer.iter().copied().chain([c]).collect();
                    let position = Position { coords: self.coords(&at.coords, &reduced), lanes, count };
                    let element = k.pull(self.input, &position, &mut Pulled::default());
                    let element = k.b.cast(acc, element);
                    vec![k.b.binary(op, carried[0], element)]
                });
            vec![wide[0], narrow[0]]
        });
        let across = k.b.reduce_lanes(op, carried[0]);
        let all = k.b.binary(op, across, carried[1]);
        k.b.cast(self.dtype, all)
    }

    /// Serial loops over `extents`, outermost first, around `body`.
    fn nest(
        &self,
        k: &mut GroupKernel<'_>,
        extents: &[Index],
        coords: &mut Vec<Coord>,
        init: &[Val],
        body: &mut CoordBody<'_>,
    ) -> Vec<Val> {
        let Some((&extent, inner)) = extents.split_first() else { return body(k, coords, init) };
        k.for_(LoopKind::Serial, 0, extent, 1, init, |k, i, carried| {
            coords.push(Coord::uniform(i));
            let result = self.nest(k, inner, coords, carried, body);
            coords.pop();
            result
        })
    }
}

/// The type that a reduction accumulates in.
pub fn accumulator_type(dtype: DType, op: ReduceOp) -> DType {
    match (op, dtype) {
        (ReduceOp::Sum | ReduceOp::Prod, d) if d.is_float() && d != DType::F64 => DType::F32,
        (_, d) => d,
    }
}

/// How two partial results combine.
pub fn combiner(op: ReduceOp) -> BinaryOp {
    match op {
        ReduceOp::Sum => BinaryOp::Add,
        ReduceOp::Prod => BinaryOp::Mul,
        ReduceOp::Min | ReduceOp::ArgMin { .. } => BinaryOp::Min,
        ReduceOp::Max | ReduceOp::ArgMax { .. } => BinaryOp::Max,
    }
}

/// For `ArgMin` and `ArgMax`: the comparison by which an element replaces the one held, and whether equals replace too.
pub fn arg_of(op: ReduceOp) -> Option<(CmpOp, bool)> {
    match op {
        ReduceOp::ArgMin { last } => Some((CmpOp::Lt, last)),
        ReduceOp::ArgMax { last } => Some((CmpOp::Gt, last)),
        ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Min | ReduceOp::Max => None,
    }
}

/// What a reduction of no elements gives.
pub fn identity(op: ReduceOp, dtype: DType) -> Scalar {
    match op {
        ReduceOp::Sum => Scalar::zero(dtype),
        ReduceOp::Prod => Scalar::one(dtype),
        ReduceOp::Min | ReduceOp::ArgMin { .. } => Scalar::greatest(dtype),
        ReduceOp::Max | ReduceOp::ArgMax { .. } => Scalar::least(dtype),
    }
}
