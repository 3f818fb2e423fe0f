//! Operations along one axis whose elements depend on each other: running reductions and sorting.
//!
//! Every line along the axis is one unit of work; lines are independent.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::LoopKind;
use onnxc_ir::loops::Val;
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar};
use onnxc_ir::tensor::{Node, Op};

use super::elements::for_each_element;
use super::reduce::{accumulator_type, combiner, identity};
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Schedules a group whose anchor is the `Cumulate` node `anchor`.
pub fn schedule_cumulate(mut k: GroupKernel<'_>, anchor: Node) -> GroupLaunch {
    let data = &k.graph.nodes[anchor];
    let Op::Cumulate { op, axis, exclusive, reverse } = data.op else { panic!("the anchor is a running reduction") };
    let axis = axis as usize;
    let (input, output) = (data.inputs[0], data.outputs[0]);
    let ty = k.graph.tensor_ty(input).clone();
    let length = k.dim(&ty.shape[axis]);
    let lines = lines(&ty.shape, axis);
    let acc = accumulator_type(ty.dtype, op);
    let lanes = if axis + 1 == ty.rank() { 1 } else { k.lanes() };
    let strides = k.strides(output);
    let buffer = k.output(output);
    let tasks = for_each_element(&mut k, &lines, lanes, None, |k, at| {
        let start = k.b.constant(identity(op, acc), at.lanes);
        k.for_(LoopKind::Serial, 0, length, 1, &[start], |k, i, held| {
            let i = if reverse {
                let last = k.b.isub(length, 1);
                k.b.isub(last, i)
            } else {
                i.into()
            };
            let position = along(at, axis, Coord::uniform(i));
            let x = k.pull(input, &position, &mut Pulled::default());
            let x = k.b.cast(acc, x);
            let next = k.b.binary(combiner(op), held[0], x);
            let val = k.b.cast(ty.dtype, if exclusive { held[0] } else { next });
            k.store(buffer, &strides, &position, val);
            vec![next]
        });
    });
    k.finish(tasks, product(&ty.shape))
}

/// Schedules a group whose anchor is the `Sort` node `anchor`. An element's place is the number of elements that come before
/// it, which keeps equal elements in order and needs no memory.
pub fn schedule_sort(mut k: GroupKernel<'_>, anchor: Node) -> GroupLaunch {
    let data = &k.graph.nodes[anchor];
    let Op::Sort { axis, descending } = data.op else { panic!("the anchor is a sort") };
    let axis = axis as usize;
    let input = data.inputs[0];
    let ty = k.graph.tensor_ty(input).clone();
    let length = k.dim(&ty.shape[axis]);
    let lines = lines(&ty.shape, axis);
    let strides = k.strides(input);
    let (values, indices) = (k.output(data.outputs[0]), k.output(data.outputs[1]));
    let tasks = for_each_element(&mut k, &lines, 1, None, |k, at| {
        k.each(0, length, 1, |k, i| {
            let x = k.pull(input, &along(at, axis, Coord::uniform(i)), &mut Pulled::default());
            let zero = k.b.i64(0);
            let rank = k.for_(LoopKind::Serial, 0, length, 1, &[zero], |k, j, rank| {
                let y = k.pull(input, &along(at, axis, Coord::uniform(j)), &mut Pulled::default());
                let before = comes_before(k, y, x, ty.dtype, descending);
                let after = comes_before(k, x, y, ty.dtype, descending);
                let earlier = k.b.index_compare(CmpOp::Lt, j, i);
                let not_after = k.b.unary(onnxc_ir::scalar::UnaryOp::Not, after);
                let tie = k.b.binary(BinaryOp::And, not_after, earlier);
                let counts = k.b.binary(BinaryOp::Or, before, tie);
                let one = k.b.cast(DType::I64, counts);
                vec![k.b.binary(BinaryOp::Add, rank[0], one)]
            });
            let place = along(at, axis, Coord::uniform(rank[0]));
            k.store(values, &strides, &place, x);
            k.store(indices, &strides, &place, i);
        });
    });
    let flops = product(ty.shape.iter().chain([&ty.shape[axis]]));
    k.finish(tasks, flops)
}

/// Whether `a` comes strictly before `b`; NaN is greater than every number.
fn comes_before(k: &mut GroupKernel<'_>, a: Val, b: Val, dtype: DType, descending: bool) -> Val {
    let (a, b) = if descending { (b, a) } else { (a, b) };
    let (a, b) = if dtype == DType::Bool { (k.b.cast(DType::U8, a), k.b.cast(DType::U8, b)) } else { (a, b) };
    let less = k.b.compare(CmpOp::Lt, a, b);
    if !dtype.is_float() {
        return less;
    }
    let a_is_number = k.b.compare(CmpOp::Eq, a, a);
    let b_is_nan = k.b.compare(CmpOp::Ne, b, b);
    let before_nan = k.b.binary(BinaryOp::And, a_is_number, b_is_nan);
    k.b.binary(BinaryOp::Or, less, before_nan)
}

/// Schedules a group whose anchor is the `Scatter` node `anchor`, after its data was copied to the result: the updates one
/// after the other, because the order decides where two meet.
pub fn schedule_scatter(mut k: GroupKernel<'_>, anchor: Node) -> GroupLaunch {
    use onnxc_ir::tensor::op::{Coord as CoordSource, ScatterOp};
    let data = &k.graph.nodes[anchor];
    let Op::Scatter { coords: sources, op } = &data.op else { panic!("the anchor is a scatter") };
    let (updates, output) = (data.inputs[1], data.outputs[0]);
    let shape = k.shape(output);
    let strides = k.strides(output);
    let buffer = k.output(output);
    let space = k.graph.tensor_ty(updates).shape.to_vec();
    let dims: Vec<_> = space.iter().map(|d| k.dim(d)).collect();
    let total = k.dim(&product(&space));
    k.tasks(|k, _| {
        k.each(0, total, 1, |k, flat| {
            let coords = k.unflatten(flat, &dims).into_iter().map(Coord::uniform).collect();
            let at = Position { coords, lanes: 1, count: None };
            let mut memo = Pulled::default();
            let mut inside = k.b.constant(Scalar::bool(true), 1);
            let mut target = Vec::with_capacity(sources.len());
            for (i, source) in sources.iter().enumerate() {
                let index = match *source {
                    CoordSource::Axis(axis) => {
                        target.push(at.coords[axis as usize]);
                        continue;
                    }
                    CoordSource::Input(n) => {
                        let input = data.inputs[n as usize + 2];
                        let position = k.broadcast(input, &at);
                        let index = k.pull(input, &position, &mut memo);
                        k.b.cast(DType::I64, index)
                    }
                };
                let above = k.b.index_compare(CmpOp::Ge, index, 0);
                let below = k.b.index_compare(CmpOp::Lt, index, shape[i]);
                let both = k.b.binary(BinaryOp::And, above, below);
                inside = k.b.binary(BinaryOp::And, inside, both);
                target.push(Coord::uniform(index));
            }
            let update = k.pull(updates, &at, &mut memo);
            k.when(inside, |k| {
                let place = at.at(target);
                let combine = match op {
                    ScatterOp::Set => None,
                    ScatterOp::Add => Some(BinaryOp::Add),
                    ScatterOp::Mul => Some(BinaryOp::Mul),
                    ScatterOp::Min => Some(BinaryOp::Min),
                    ScatterOp::Max => Some(BinaryOp::Max),
                };
                let val = match combine {
                    None => update,
                    Some(op) => {
                        let held = k.load(buffer, &strides, &place);
                        k.b.binary(op, held, update)
                    }
                };
                k.store(buffer, &strides, &place, val);
            });
        });
    });
    k.finish(Dim::from(1), product(&space))
}

/// Schedules the copy of a scatter's data to its result.
pub fn schedule_scatter_copy(mut k: GroupKernel<'_>, anchor: Node) -> GroupLaunch {
    let data = &k.graph.nodes[anchor];
    let (input, output) = (data.inputs[0], data.outputs[0]);
    let dims = k.graph.tensor_ty(input).shape.to_vec();
    let strides = k.strides(output);
    let buffer = k.output(output);
    let lanes = k.lanes();
    let tasks = for_each_element(&mut k, &dims, lanes, None, |k, at| {
        let val = k.pull(input, at, &mut Pulled::default());
        k.store(buffer, &strides, at, val);
    });
    k.finish(tasks, product(&dims))
}

/// The index space of the lines along an axis: the axis shrinks to 1.
fn lines(shape: &[Dim], axis: usize) -> Vec<Dim> {
    shape.iter().enumerate().map(|(i, d)| if i == axis { Dim::from(1) } else { d.clone() }).collect()
}

/// A position with another coordinate along an axis.
fn along(at: &Position, axis: usize, coord: Coord) -> Position {
    let mut coords = at.coords.clone();
    coords[axis] = coord;
    at.at(coords)
}
