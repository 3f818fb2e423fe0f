//! Padding. As a copy: rows that lie in the padding are filled, the others copied between their margins, so that every load is
//! contiguous where the operand is. After an anchor, whose elements go to their place at once: the margins alone.

use std::cmp::Ordering;

use onnxc_ir::dim::Dim;
use onnxc_ir::loops::Val;
use onnxc_ir::loops::build::Index;
use onnxc_ir::scalar::{BinaryOp, CmpOp};
use onnxc_ir::tensor::{Graph, Node, Op};

use super::elements::for_each_row;
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Whether a node is a pad of a tensor that has elements, and crops nothing.
pub fn only_grows(graph: &Graph, node: Node) -> bool {
    let data = &graph.nodes[node];
    let Op::Pad { lo, hi } = &data.op else { return false };
    let grows = |d: &Dim| d.as_const().is_some_and(|d| d >= 0);
    lo.iter().chain(hi).all(grows) && graph.tensor_ty(data.inputs[0]).static_len() != Some(0) && !lo.is_empty()
}

/// Fills the margins of the `Pad` node `node`: for each dimension what lies before and after the operand, over the
/// operand's range of the dimensions before it and the whole of those after it.
pub fn schedule_margins(mut k: GroupKernel<'_>, node: Node) -> GroupLaunch {
    let data = &k.graph.nodes[node];
    let Op::Pad { lo, .. } = &data.op else { panic!("margins belong to a pad") };
    let (input, fill, result) = (data.inputs[0], data.inputs[1], data.outputs[0]);
    let lanes = k.lanes();
    let strides = k.strides(result);
    let buffer = k.output(result);
    let starts: Vec<Index> = lo.iter().map(|d| k.dim(d)).collect();
    let (sizes, extents) = (k.shape(input), k.shape(result));
    k.tasks(|k, _| {
        let ends: Vec<Index> = starts.iter().zip(&sizes).map(|(&start, &size)| k.b.iadd(start, size)).collect();
        for axis in 0..starts.len() {
            for (from, to) in [(Index::Const(0), starts[axis]), (ends[axis], extents[axis])] {
                if from == to {
                    continue;
                }
                let ranges: Vec<(Index, Index)> = (0..starts.len())
                    .map(|d| match d.cmp(&axis) {
                        Ordering::Less => (starts[d], ends[d]),
                        Ordering::Equal => (from, to),
                        Ordering::Greater => (Index::Const(0), extents[d]),
                    })
                    .collect();
                fill_box(k, &ranges, &mut vec![], &mut |k, outer, (from, to)| {
                    let length = k.b.isub(to, from);
                    k.vectors(0, length, lanes, |k, c, lanes, count| {
                        let column = k.coord_scale(c, 1, from, lanes);
                        let coords = outer.iter().map(|&i| Coord::uniform(i)).chain([column]).collect();
                        let val = k.pull(fill, &Position { coords: vec![], lanes, count }, &mut Pulled::default());
                        k.store(buffer, &strides, &Position { coords, lanes, count }, val);
                    });
                });
            }
        }
    });
    k.finish(Dim::from(1), Dim::from(0))
}

/// What runs for a row: it gets the coordinates around it and its range.
type RowBody<'a> = dyn FnMut(&mut GroupKernel<'_>, &[Index], (Index, Index)) + 'a;

/// Runs `body` for each row of a box of coordinates, with the coordinates around it and the row's range.
fn fill_box(k: &mut GroupKernel<'_>, ranges: &[(Index, Index)], outer: &mut Vec<Index>, body: &mut RowBody<'_>) {
    let (&range, inner) = ranges.split_first().expect("a box has dimensions");
    if inner.is_empty() {
        return body(k, outer, range);
    }
    k.each(range.0, range.1, 1, |k, i| {
        outer.push(i.into());
        fill_box(k, inner, outer, body);
        outer.pop();
    });
}

/// Schedules a group whose result is the `Pad` node `node`, with no negative padding.
pub fn schedule(mut k: GroupKernel<'_>, node: Node) -> GroupLaunch {
    let data = &k.graph.nodes[node];
    let Op::Pad { lo, .. } = &data.op else { panic!("the group ends with a pad") };
    let (input, fill, result) = (data.inputs[0], data.inputs[1], data.outputs[0]);
    let dims = k.graph.tensor_ty(result).shape.to_vec();
    let (_, outer) = dims.split_last().expect("a tensor that is padded has a dimension");
    let lanes = k.lanes();
    let strides = k.strides(result);
    let buffer = k.output(result);
    let starts: Vec<Index> = lo.iter().map(|d| k.dim(d)).collect();
    let sizes = k.shape(input);
    let extents = k.shape(result);
    let tasks = for_each_row(&mut k, outer, &dims[outer.len()], |k, row| {
        let row: Vec<Index> = row.coords[..outer.len()]
            .iter()
            .map(|c| if let Coord::Affine { index, .. } = c { *index } else { unreachable!("loops are uniform") })
            .collect();
        let last = row.len();
        let mut source = Vec::with_capacity(row.len());
        let mut inside: Option<Val> = None;
        for (i, &at) in row.iter().enumerate() {
            source.push(k.b.isub(at, starts[i]));
            if sizes[i] != extents[i] {
                for (op, bound) in [(CmpOp::Ge, Index::Const(0)), (CmpOp::Lt, sizes[i])] {
                    let holds = k.b.index_compare(op, source[i], bound);
                    inside = Some(match inside {
                        None => holds,
                        Some(all) => k.b.binary(BinaryOp::And, all, holds),
                    });
                }
            }
        }
        let at = |row: &[Index], column: Coord, lanes: u16, count: Option<Val>| {
            let coords = row.iter().map(|&i| Coord::uniform(i)).chain([column]).collect();
            Position { coords, lanes, count }
        };
        let margin = |k: &mut GroupKernel<'_>, from: Index, to: Index| {
            let length = k.b.isub(to, from);
            k.vectors(0, length, lanes, |k, c, lanes, count| {
                let column = k.coord_scale(c, 1, from, lanes);
                let val = k.pull(fill, &Position { coords: vec![], lanes, count }, &mut Pulled::default());
                k.store(buffer, &strides, &at(&row, column, lanes, count), val);
            });
        };
        let copy = |k: &mut GroupKernel<'_>| {
            let end = k.b.iadd(starts[last], sizes[last]);
            margin(k, Index::Const(0), starts[last]);
            k.vectors(0, sizes[last], lanes, |k, c, lanes, count| {
                let val = k.pull(input, &at(&source, c, lanes, count), &mut Pulled::default());
                let column = k.coord_scale(c, 1, starts[last], lanes);
                k.store(buffer, &strides, &at(&row, column, lanes, count), val);
            });
            margin(k, end, extents[last]);
        };
        let Some(inside) = inside else { return copy(k) };
        let then = k.b.open_block(&[]);
        copy(k);
        k.b.close_block(&[]);
        let otherwise = k.b.open_block(&[]);
        margin(k, Index::Const(0), extents[last]);
        k.b.close_block(&[]);
        k.b.choose(inside, then, otherwise);
    });
    k.finish(tasks, product(&dims))
}
